"""A prepared call of the fast decode attention: what does not change is fixed once, then it is three launches."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from . import _launch
from ._decode_tables import codebook_words
from .layout import Prepared
from .logits import kept

FAST_DIMENSIONS = (64, 128, 256)
LOG2_E = 1 / math.log(2)

NARROW, WIDE = (6, 168), (4, 255)
"""Warps of a team and most registers of a thread: two teams fill a multiprocessor."""
FEW = 128
"""Chunks a team up to which the wide form was the faster one on an H100."""
UNLIMITED = 1 << 30


def side_of(codes: Prepared, d: int) -> Any:
    """The `Side` of codes that the fast kernel takes; None for others."""
    from ._decode_programs import Side

    form = codes.form
    index_bits = form.bits - form.merged
    if (
        d not in FAST_DIMENSIONS
        or form.n != d
        or form.signs
        or form.bits not in (2, 3, 4)
        or index_bits < 2
        or _launch.name_of(codes.scales) not in ("float16", "float32")
    ):
        return None
    return Side(d, form.bits, _launch.name_of(codes.scales) == "float16", form.merged, form.residuals)


def page_shift_of(codes: Prepared) -> int | None:
    """log2 of the page size; -1 if not paged, None if the fast kernel does not take the pages."""
    if codes.table is None:
        return -1
    size = int(codes.scales.shape[2])
    return size.bit_length() - 1 if size >= 16 and size & (size - 1) == 0 else None


def teams_for(chunks: int, groups: int, warps: int, slots: int) -> int:
    """How many teams share the `chunks` of 64 keys of each of `groups`, where `slots` teams of `warps` work at once.

    A team costs about as much as one chunk of each of its warps, besides its chunks.
    """

    def cost(splits: int) -> float:
        return math.ceil(groups * splits / slots) * (chunks / (splits * warps) + 1)

    return min(sorted({1, *(max(1, min(waves * slots // groups, chunks)) for waves in (1, 2, 3))}), key=cost)


class Decoder(_launch.Launches):
    """softmax(scale <q, k~>) v~ for given codes, as a call without arguments.

    Parameters
    ----------
    Qk, Qv : quantizers of keys (`mse`, or `prod` with m = d) and values (`mse`)
    q : (batch, heads, n_queries, d) array on the device, float32, float16 or bfloat16
        Read anew at every call.
    keys, values : Prepared
        (batch, kv_heads, n), or paged alike.  Read anew at every call, lengths too.
    out : array like q
        Written at every call.
    scale, causal, window
        As in `attention.logits`, at the default positions.
    splits : int, optional
        Teams for each sequence and key head.
    overlap : bool, optional
        Whether each launch may begin before the one before it has ended; True from compute capability 9.0 on.
    together : {1, 4}, optional
        Query rows that a block of the last kernel joins.
    registers, warps : int, optional
        Most registers of a thread of the main kernel, and warps of a team of it.
    whole : bool
        Give the output; else the sums in the original basis, and the tops and totals of a `Partial`, in `tops`.
    """

    def __init__(
        self, Qk: Any, Qv: Any, q: Any, keys: Prepared, values: Prepared, out: Any, *, scale: float | None = None,
        causal: bool = True, window: int | None = None, splits: int | None = None, whole: bool = True,
        home: _launch.Home | None = None, overlap: bool | None = None, together: int | None = None,
        registers: int | None = None, warps: int | None = None,
    ) -> None:  # fmt: skip
        from . import decode, decode_ends

        home = _launch.home_of(q, keys.codes) if home is None else home
        K, V, shift = side_of(keys, Qk.d), side_of(values, Qv.d), page_shift_of(keys)
        batch, heads, n_queries, d = (int(n) for n in q.shape)
        kv_heads = keys.shape[-2]
        paged = keys.table is not None
        capacity = int(keys.scales.shape[-1])
        n_rows = heads // kv_heads * n_queries
        columns = 1 if n_rows <= 4 else 2
        row_blocks = -(-n_rows // (4 * columns))
        groups = kv_heads * row_blocks
        n_most = keys.shape[-1]
        chunks = -(-n_most // decode.CHUNK)
        if window is not None:
            chunks = min(chunks, -(-(window + n_queries) // decode.CHUNK) + 1)
        slots = decode.TEAMS * _launch.processors()
        if warps is None:
            few = not paged and K.bits + V.bits == 8 and chunks * groups * batch <= FEW * slots
            warps, registers = WIDE if columns * d > 128 or (d == 128 and few) else NARROW
        self.splits = teams_for(chunks, groups * batch, warps, slots) if splits is None else splits
        self.out, self.home = out, home
        factor = (1 / math.sqrt(Qk.d) if scale is None else scale) * LOG2_E
        (k_words, k_unit), (v_words, v_unit) = _codebook(Qk), _codebook(Qv)
        self.codebooks = kept(
            Qk, ("fused codebooks", Qv.fingerprint), lambda: np.repeat(np.r_[k_words, v_words], 32)
        )
        self.turns = kept(Qk, "fused turns", lambda: _turns(Qk))
        self.turn_back = kept(Qv, "fused turn back", lambda: np.asarray(Qv.rotation.matrix(), np.float32))
        per_factor = 3 if K.prod else 1
        self.operands = home.empty((batch * groups * columns * (d // 16) * (2 if K.prod else 1) * 32,), "int32")
        self.factors = home.empty((batch * groups * columns * per_factor * 4,), "float32")
        if together is None:
            together = 4 if batch * kv_heads * n_rows > 2 * _launch.processors() else 1
        teams = batch * groups * self.splits
        size = decode_ends.room(teams, V, columns, together)
        _launch.enough_memory(4 * size, "partial results of decode attention")
        self.partial = home.empty((size,), "float32")
        self.tops = None if whole else home.empty((batch, heads, n_queries, 2), "float32")
        self.arrays = (q, keys, values, out)
        at = _launch.address
        table, lengths = (at(keys.table), at(keys.lengths)) if paged else (0, 0)

        def planes(x: Prepared) -> tuple[int, ...]:
            return at(x.codes), at(x.high) if x.high is not None else at(x.codes), at(x.scales)

        sketch = _sketch_constant(Qk)
        span = UNLIMITED if window is None else window
        overlap = _launch.capability() >= (9, 0) if overlap is None else overlap
        prepare = _launch.compiled(
            decode_ends.prepare_kernel, K, columns, _launch.name_of(q), overlap, registers=128
        )
        attend = _launch.compiled(
            decode.attend_kernel, K, V, columns, warps, shift, overlap,
            dynamic=decode.TEAMS * decode.shared_bytes(K, V, columns, warps), registers=registers,
        )  # fmt: skip
        combine = _launch.compiled(
            decode_ends.combine_kernel, V, columns, _launch.name_of(out), whole, together, overlap, registers=64
        )
        self.functions = (prepare, attend, combine)
        self.launches = (
            prepare.fix(
                (groups, batch, 1), decode_ends.PREPARE_THREADS, at(q), at(self.turns), at(self.operands),
                at(self.factors), kv_heads, n_rows, factor * k_unit, factor * sketch * 2 / 127,
                factor * sketch * (256 / 127 - 1),
            ),
            attend.fix(
                (-(-teams // decode.TEAMS), 1, 1), decode.TEAMS * 32 * warps, *planes(keys),
                at(keys.scales if keys.residuals is None else keys.residuals), *planes(values), at(self.operands),
                at(self.factors), at(self.codebooks), at(self.partial), table, lengths, capacity,
                int(keys.table.shape[1]) if paged else 0, kv_heads, groups, self.splits, teams, n_queries,
                int(causal), span, early=overlap,
            ),
            combine.fix(
                (-(-n_rows // together), kv_heads, batch), decode_ends.combine_threads(together), at(self.partial),
                at(self.turn_back), at(out), 0 if whole else at(self.tops), lengths, self.splits, kv_heads, n_rows,
                row_blocks, n_queries, span, capacity, v_unit, early=overlap,
            ),
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of codes that a call reads."""
        return int(sum(x.nbytes for x in self.arrays[1:3]))


@functools.cache
def _codebook(Q: Any) -> tuple[Any, float]:
    """The words of a codebook's tables, 8 of them, and their unit."""
    words, unit = codebook_words(Q.codebook.centroids)
    return np.resize(words, 8), unit


def _turns(Q: Any) -> Any:
    """Pi^T of the keys, and S^T."""
    turns = [Q.rotation.matrix().T] + ([Q.sketch.matrix().T] if Q.algorithm == "prod" else [])
    return np.stack(turns).astype(np.float32)


def _sketch_constant(Q: Any) -> float:
    if Q.algorithm != "prod":
        return 0.0
    return float(Q.sketch.constant) * (1.0 if Q.stores_residual else Q.expected_residual)
