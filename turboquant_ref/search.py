"""Vector search over codes: an exhaustive index, and the function `topk` under it (TurboQuant, section 4.4).

    index = Index(Q)                        # nothing to train: Q is no function of data
    index.add(x)                            # codes, and 8 bytes an id
    scores, ids = index.search(y, k=10)     # every query against every code, none of them decoded

Shapes and padding are those of FAISS: (n, k) scores and (n, k) int64 ids; where there are fewer than k vectors, -1 and
the score -inf (ip, cosine) or +inf (l2, which is squared). Scores are in the compute dtype of the queries, float32
for float32. Of equal scores the smaller id comes first. `scoring` says what the scores are.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import container, description
from ._blocks import RANGES, Block, Ids, Places, as_ids, find, gather, merge, rounded
from .codes import module_of
from .packing import Packed, check_scalars
from .scoring import METRICS, best, check_search, exact_costs, norms_in, scores_of, stores_norm, topk
from .vectors import as_rows, check_integer, norm_and_unit

__all__ = ["METRICS", "Index", "topk"]

Reals = NDArray[np.floating[Any]]

_ADD = 2048  # vectors that are encoded at a time


class Index:
    """An exhaustive index over codes: add, remove, search, save; nothing to train.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod`, `qjl` or a sibling
    ops : module, optional
        The backend that does the work: ``ops.<Q.algorithm>.encode``, ``prepare`` and ``to_packed``, and
        ``ops.search.topk``. The reference if None.
    scalars : str
        Stored dtype of the codes' side scalars, a key of ``packing.SCALARS``.
    keep : None, "float16", "float32" or a quantizer
        What is kept of each vector for re-ranking: nothing, a rounded original, or a second code.
    norms : bool
        Whether ||x|| is kept beside codes that do not hold it: "cosine" and "l2" need it, "ip" does not.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these, or `ops` lacks the algorithm.

    Notes
    -----
    Vectors lie in blocks, each ascending by id; the last two are merged when the later is no smaller, so that n vectors
    added one by one make O(log n) blocks and each is moved O(log n) times.
    """

    def __init__(self, Q: Any, ops: Any = None, scalars: str = "float32", keep: Any = None, norms: bool = True) -> None:
        self.Q, self.scalars, self.keep = Q, check_scalars(scalars), keep
        self.ops = _check_ops(ops, Q)
        if keep is not None and not hasattr(keep, "fingerprint") and keep not in tuple(RANGES):
            raise ValueError(f"keep: expected None, {', '.join(RANGES)} or a quantizer, got {keep!r}")
        self._second = keep if hasattr(keep, "fingerprint") else None
        if self._second is not None:
            _check_ops(ops, self._second)
            if self._second.d != Q.d:
                raise ValueError(f"keep: expected a quantizer of dimension {Q.d}, got {self._second.d}")
        kept = np.dtype("float64" if scalars == "float64" else "float32")
        self._norm_dtype = kept if norms and not stores_norm(Q) else None
        self.reset()

    @property
    def d(self) -> int:
        """Dimension."""
        return int(self.Q.d)

    @property
    def ntotal(self) -> int:
        """Number of vectors."""
        return sum(len(block.ids) for block in self._blocks)

    @property
    def ids(self) -> Ids:
        """All ids, ascending."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(block.ids for block in self._blocks)]))

    @property
    def nbytes(self) -> int:
        """Bytes that the vectors take now, everything counted: codes as the backend holds them, ids, norms, kept."""
        arrays = [a for b in self._blocks for a in (b.codes, b.ids, b.norms, b.kept) if a is not None]
        return sum(int(a.nbytes) for a in arrays)

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one vector in a file, and in the reference's memory: packed code, 8-byte id, norm, what is kept."""
        codes = [int(Q.bytes_per_vector(self.scalars)) for Q in (self.Q, self._second) if Q is not None]
        kept = self.d * np.dtype(self.keep).itemsize if isinstance(self.keep, str) else 0
        return sum(codes) + 8 + (self._norm_dtype.itemsize if self._norm_dtype else 0) + kept

    def reset(self) -> None:
        """Remove everything; default ids begin at 0 again."""
        self._blocks: list[Block] = []
        self._next = 0

    def add(self, x: ArrayLike, ids: ArrayLike | None = None) -> None:
        """Encode and append vectors; all of them, or none if anything is wrong.

        Parameters
        ----------
        x : (n, d) array
            Of any norm.
        ids : (n,) integers, optional
            0 to 2^63 - 1, none of them in the index. By default they go on from the largest id ever added.

        Raises
        ------
        TypeError, ValueError
            As `quantize` and `pack`; for ids that are not such or are taken; for originals beyond the range of `keep`.
        """
        rows = as_rows(x, self.d)
        if rows.ndim != 2:
            raise ValueError(f"x: expected shape (n, {self.d}), got {rows.shape}")
        if ids is None:
            if self._next + len(rows) > 2**63:
                raise ValueError(f"ids: no {len(rows)} are left after {self._next - 1}; pass them")
            names = np.arange(len(rows), dtype=np.int64) + np.int64(min(self._next, 2**63 - 1))
        else:
            names = as_ids(ids)
            if len(names) != len(rows):
                raise ValueError(f"ids: expected {len(rows)}, one a vector, got {len(names)}")
            order = np.argsort(names, kind="stable")
            names, rows = names[order], rows[order]
            twice = names[1:][names[1:] == names[:-1]]
            taken = names[find(self._blocks, names)[0] >= 0]
            if twice.size or taken.size:
                what = f"{twice[0]} is given twice" if twice.size else f"{taken[0]} is in the index already"
                raise ValueError(f"ids: {what}; an id names one vector")
        for block in [self._encode(rows[i : i + _ADD], names[i : i + _ADD]) for i in range(0, len(rows), _ADD)]:
            self._blocks.append(block)
            while len(self._blocks) > 1 and len(self._blocks[-2].ids) <= len(self._blocks[-1].ids):
                self._blocks[-2:] = [merge(self._blocks[-2:], self._packed, self._prepared)]
        self._next = max(self._next, int(names[-1]) + 1) if len(names) else self._next

    def _verbs(self, Q: Any) -> Any:
        return getattr(self.ops, Q.algorithm)

    def _encode(self, rows: Reals, ids: Ids) -> Block:
        codes = self._verbs(self.Q).encode(self.Q, rows, self.scalars)
        norms: Reals | None = None
        if self._norm_dtype is not None:
            exact = norm_and_unit(rows)[0]
            with np.errstate(over="ignore"):
                norms = exact.astype(self._norm_dtype)
            if np.isinf(norms).any():
                raise ValueError(f'x: norm {exact.max():.6g} is beyond {self._norm_dtype}; choose scalars="float64"')
        kept: NDArray[Any] | None = None
        if self._second is not None:
            kept = module_of(self._second).encode(self._second, rows, self.scalars).data
        elif self.keep is not None:
            kept = rounded(rows, self.keep)
        return Block(codes, ids, norms, kept)

    def _packed(self, block: Block) -> Packed:
        packed: Packed = self._verbs(self.Q).to_packed(self.Q, block.codes)
        return packed

    def _prepared(self, data: NDArray[np.uint8]) -> Any:
        return self._verbs(self.Q).prepare(self.Q, Packed(data, self.scalars, self.Q.fingerprint))

    def _find_all(self, ids: ArrayLike) -> Places:
        names = as_ids(ids)
        where, row = find(self._blocks, names)
        if np.any(where < 0):
            raise ValueError(f"ids: {names[where < 0][0]} is not in the index of {self.ntotal} vectors")
        return where, row

    def remove(self, ids: ArrayLike) -> int:
        """Remove vectors by id; an id may be given twice.

        Returns
        -------
        int
            How many were removed.

        Raises
        ------
        TypeError, ValueError
            If an id is not in the index; nothing is removed then.
        """
        where, row = self._find_all(ids)
        before, kept = self.ntotal, []
        for i, block in enumerate(self._blocks):
            stays = np.ones(len(block.ids), dtype=bool)
            stays[row[where == i]] = False
            if stays.any():
                kept.append(block if stays.all() else merge([block], self._packed, self._prepared, stays))
        self._blocks = kept
        return before - self.ntotal

    def reconstruct(self, ids: ArrayLike) -> Reals:
        """The decoded vectors x~ of the codes with these ids: (n, d), or (d,) for a single id.

        Raises
        ------
        TypeError, ValueError
            If an id is not in the index.
        """
        names = np.atleast_1d(ids)
        at, module = self._find_all(names), module_of(self.Q)
        if len(names) == 0:
            return np.empty((0, self.d), np.float32)
        decoded: Reals = module.dequantize(self.Q, module.unpack(self.Q, self._rows(at)))
        return decoded if np.ndim(ids) else decoded[0]

    def search(self, queries: ArrayLike, k: int, metric: str = "ip", rerank: int | None = None) -> tuple[Reals, Ids]:
        """The k vectors with the best scores for each query.

        Parameters
        ----------
        queries : (n, d) array
        k : int
            At least 1; it may exceed `ntotal`.
        metric : {"ip", "cosine", "l2"}
            See the module's docstring; "l2" is squared.
        rerank : int, optional
            At least k: the best `rerank` by the codes are scored again by what `keep` says, exactly (in float64) by
            the rounded originals or by the second code's estimates, and the k best of those returned.

        Returns
        -------
        scores : (n, k) array
            In the compute dtype of the queries, best first.
        ids : (n, k) int64
            Equal scores by id; -1 with the worst score where there are fewer than k vectors.

        Raises
        ------
        TypeError, ValueError
            For bad queries; for a metric whose norms, or a re-ranking whose vectors, are not kept.
        """
        y, k = check_search(self.Q, queries, k, metric)
        first = k if rerank is None else check_integer(rerank, "rerank", k)
        if rerank is not None and self.keep is None:
            raise ValueError("rerank: the index keeps nothing to re-rank with; make it with keep=")
        if metric != "ip" and not stores_norm(self.Q) and self._norm_dtype is None:
            raise ValueError(f'metric: "{metric}" needs the norms of the vectors; make the index with norms=True')
        costs, ids = [np.empty((len(y), 0), y.dtype)], [np.empty((len(y), 0), np.int64)]
        for block in self._blocks:
            here, norms = min(first, len(block.ids)), None if metric == "ip" else block.norms
            scores, at = self.ops.search.topk(self.Q, block.codes, y, here, metric=metric, norms=norms)
            costs.append(scores_of(metric, scores))
            ids.append(block.ids[at])
        count = first if rerank is None else min(first, self.ntotal)
        cost, names = best(count, np.concatenate(costs, axis=1), np.concatenate(ids, axis=1))
        if rerank is not None:
            if count:
                cost = np.array([self._again(*pair, metric) for pair in zip(y, names, strict=True)], y.dtype)
            cost, names = best(k, cost.reshape(names.shape), names)
        return scores_of(metric, cost), names

    def _again(self, y: Reals, ids: Ids, metric: str) -> Reals:
        """Costs of the vectors with these ids for a query, by what is kept of them."""
        at = find(self._blocks, ids)
        kept = gather(at, [block.kept for block in self._blocks])
        if self._second is None:
            return exact_costs(metric, y, kept.astype(np.float64)).astype(y.dtype)
        Q, verbs, norms = self._second, self._verbs(self._second), None
        if metric != "ip" and not stores_norm(Q):
            norms = self._norms(at)
        codes = verbs.prepare(Q, Packed(kept, self.scalars, Q.fingerprint))
        scores, position = self.ops.search.topk(Q, codes, y[None], len(ids), metric=metric, norms=norms)
        costs = np.empty(len(ids), y.dtype)
        costs[position[0]] = scores_of(metric, scores[0])
        return costs

    def _rows(self, at: Places) -> Packed:
        """The codes at these places."""
        return Packed(gather(at, [self._packed(b).data for b in self._blocks]), self.scalars, self.Q.fingerprint)

    def _norms(self, at: Places) -> Reals:
        """||x|| at these places: kept, or in the codes."""
        if self._norm_dtype is None:
            return norms_in(self.Q, self._rows(at))
        return gather(at, [block.norms for block in self._blocks])

    def to(self, ops: Any) -> Index:
        """The same index on another backend, through Packed; what is kept is shared, not copied."""
        other = copy.copy(self)
        other.ops = _check_ops(ops, self.Q)
        if self._second is not None:
            _check_ops(ops, self._second)
        other._blocks = [dataclasses.replace(b, codes=other._prepared(self._packed(b).data)) for b in self._blocks]
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to a file (`container`, kind "index"): the quantizers, and everything as Packed; atomically.

        Raises
        ------
        TypeError
            If a quantizer has no description (`description`).
        OSError
            If it cannot be written.
        """
        blocks = self._blocks or [self._encode(np.empty((0, self.d), np.float32), self.ids)]
        block = merge(blocks, self._packed, self._prepared)
        arrays: dict[str, Any] = {"codes": self._packed(block).data, "ids": block.ids}
        arrays |= {"norms": block.norms} if block.norms is not None else {}
        arrays |= {"kept": block.kept} if block.kept is not None else {}
        metadata = {"scalars": self.scalars, "norms": block.norms is not None, "next": self._next, "keep": self.keep}
        for name, Q in {"quantizer": self.Q, "keep": self._second}.items():
            if Q is not None:
                metadata[name], tables = description.describe(Q, name)
                arrays |= tables
        container.write(path, "index", metadata, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], ops: Any = None, Q: Any = None, mmap: bool = False, verify: bool = True
    ) -> Index:
        """Read an index from a file that `save` wrote.

        Parameters
        ----------
        path : str or path
        ops : module, optional
            The backend, as in `Index`.
        Q : quantizer, optional
            The one that the codes are of, if it is at hand; else it is rebuilt from its description.
        mmap : bool
            Map the file into memory: the reference then searches it in place.
        verify : bool
            One pass over the file to check it; skip it only for a file that is known to be whole.

        Raises
        ------
        ValueError
            If it is another file, truncated or damaged, or of another quantizer than `Q`.
        OSError
            If it cannot be opened.
        """
        metadata, arrays = container.read(path, "index", mmap=mmap, verify=verify)
        try:
            Q = description.rebuild(metadata["quantizer"], arrays, Q)
            keep = metadata["keep"]
            keep = description.rebuild(keep, arrays) if isinstance(keep, dict) else keep
            index = cls(Q, ops, metadata["scalars"], keep, metadata["norms"])
            index._next = check_integer(metadata["next"], "next", 0, 2**63)
            block = index._block_of(arrays, verify)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be loaded as an index: {error}") from error
        index._blocks = [block] if len(block.ids) else []
        return index

    def _block_of(self, arrays: dict[str, NDArray[Any]], verify: bool) -> Block:
        """The block in a file, its arrays checked against each other."""
        ids, n = arrays["ids"], arrays["ids"].size
        expected: dict[str, tuple[Any, tuple[int, ...]]] = {
            "ids": (np.int64, (n,)),
            "codes": (np.uint8, (n, self.Q.bytes_per_vector(self.scalars))),
        }
        if self._norm_dtype is not None:
            expected["norms"] = (self._norm_dtype, (n,))
        if self._second is not None:
            expected["kept"] = (np.uint8, (n, self._second.bytes_per_vector(self.scalars)))
        elif self.keep is not None:
            expected["kept"] = (np.dtype(self.keep), (n, self.d))
        for name, (dtype, shape) in expected.items():
            if arrays[name].dtype != dtype or arrays[name].shape != shape:
                found = f"{arrays[name].dtype} {arrays[name].shape}"
                raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, got {found}")
        if n and not (ids[0] >= 0 and ids[-1] < self._next and bool(np.all(ids[1:] > ids[:-1]))):
            raise ValueError("ids: expected ascending integers from 0 to below `next`")
        norms, kept = arrays.get("norms"), arrays.get("kept")
        if norms is not None and not np.all(np.isfinite(norms) & (norms >= 0)):
            raise ValueError("norms: expected finite numbers of at least 0")
        if verify and kept is not None and kept.dtype != np.uint8:
            for i in range(0, n, _ADD):
                as_rows(kept[i : i + _ADD], name="kept")
        return Block(self._prepared(arrays["codes"]), ids, norms, kept)


def _check_ops(ops: Any, Q: Any) -> Any:
    """The backend, if it has what an index of Q needs."""
    ops = sys.modules[__package__] if ops is None else ops
    needed = [(Q.algorithm, ("encode", "prepare", "to_packed")), ("search", ("topk",))]
    for name, verbs in needed:
        missing = [verb for verb in verbs if not hasattr(getattr(ops, name, None), verb)]
        if missing:
            raise ValueError(f"ops: {getattr(ops, '__name__', ops)!r} has no {name}.{missing[0]}")
    return ops
