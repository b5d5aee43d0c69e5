"""Attention straight from codes, compiled: the verbs of `turboquant_ref.attention`, over Prepared keys and values.

No vector is decoded to its own basis: each query is rotated (and sketched) once, and each output rotated back once. All
query rows of one key head, up to eight at a time, share one pass over its codes. Softmax is online, so memory does not
grow with the number of keys.

Two precisions, by name:

exact   float32 centroids and queries: the reference up to the rounding of float32 sums. e^x is a polynomial, within
        3 2^-24 of it relatively
int8    the same, but in the logits: the centroids of the keys are rounded to 255 levels, and each query (rotated, and
        for a sketch sketched) to 255 of its own. With c_i the centroids and q_i that query, C and A their largest
        magnitudes, <q, c> is off by at most (C sum |q_i| + A sum |c_i|) / 254 + d C A / 254^2 besides. The sums are of
        integers, so exact

Queries of float64 or integers, and codes whose side scalars are float64, are computed in float64 as in the reference,
head by head from the decoded codes: right, not fast. So are keys or values without a quantizer beside coded ones.

Results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref import attention as reference
from turboquant_ref.attention import Partial, merge, select, softmax, visible
from turboquant_ref.vectors import as_rows, check_integer

from . import group as grouped
from ._jit import in_parts
from ._norms import rows_of
from .attend import attend_items, logits_items
from .layout import LANES
from .sides import ALGORITHMS, Side, side_of

__all__ = [
    "ALGORITHMS", "CHUNK", "PRECISIONS", "Partial", "attend", "attend_blocks", "logits", "merge", "partial", "select",
    "softmax", "visible",
]  # fmt: skip

PRECISIONS = ("exact", "int8")

CHUNK = 4096
"""Keys of one item of work."""

_SIZES = (1, 2, 4, 8)
"""Query rows that may share a pass over the codes."""

CHAINS = 8
"""Chains of additions in a pass over the codes."""

_ENOUGH = 1 << 17
"""Keys times rows that are worth a thread: about 0.3 ms."""

Reals = NDArray[np.floating[Any]]


class _Call:
    """The arguments that all verbs share, checked."""

    def __init__(
        self,
        q: ArrayLike,
        d: int,
        shape: tuple[int, ...],
        scale: float | None = None,
        softcap: float | None = None,
        mask: ArrayLike | None = None,
        causal: bool = False,
        window: int | None = None,
        positions: ArrayLike | None = None,
        precision: str = "exact",
        added: ArrayLike | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.rows, self.precision = rows_of(q, d, "q"), precision
        group = reference._heads(self.rows.shape, shape)
        self.scale, self.softcap = reference._check(scale, softcap, d), softcap
        n_queries, self.n = self.rows.shape[-2], shape[-1]
        self.heads, self.per_head = math.prod(shape[:-1]), group * n_queries
        self.seen = _interval(n_queries, self.n, causal, window, positions)
        self.mask = self._full(mask, "mask")
        self.added = self._full(added, "added")
        self.size = min(_SIZES, key=lambda s: -(-self.per_head // s) * (s + 2))
        self.tiles = -(-self.per_head // self.size)
        self.group = grouped.of(self.size, max(1, CHAINS // self.size))

    def _full(self, x: ArrayLike | None, name: str) -> NDArray[Any] | None:
        """With all axes of the logits, of length 1 where it does not vary; the last of full length."""
        if x is None:
            return None
        a, shape = np.asarray(x), (*self.rows.shape[:-1], self.n)
        try:
            np.broadcast_to(a, shape)
        except ValueError as error:
            raise ValueError(f"{name}: expected a shape that broadcasts to {shape}, got {a.shape}") from error
        a = a.reshape((1,) * (len(shape) - a.ndim) + a.shape)
        return np.broadcast_to(a, (*a.shape[:-1], self.n))

    def grouped(self, x: Reals) -> Reals:
        """(*batch, heads, n_queries, …) to (kv heads, rows, …)."""
        return x.reshape(self.heads, self.per_head, *x.shape[self.rows.ndim - 1 :])

    def ungrouped(self, x: Reals) -> Reals:
        """The inverse of `grouped`."""
        return x.reshape(*self.rows.shape[:-1], *x.shape[2:])

    def from_tiles(self, x: Reals) -> Reals:
        """(kv heads tiles, size, …) to (*batch, heads, n_queries, …)."""
        if self.tiles * self.size > self.per_head:
            x = x.reshape(self.heads, self.tiles * self.size, *x.shape[2:])[:, : self.per_head]
        return self.ungrouped(x)

    def queries(self, keys: Side, scale: float, dtype: Any) -> tuple[Reals, Reals]:
        """Scale times the queries in the basis of the codes: (kv heads rows, count) of each section."""
        norms, (first, signs) = keys.of_units(self.rows.astype(dtype, copy=False).reshape(-1, self.rows.shape[-1]))
        factors = (norms.astype(np.float64) * scale).astype(dtype)[:, None]
        return first * factors, signs * factors if signs.size else signs

    def for_kernels(self, keys: Side) -> tuple[Any, ...]:
        """The queries as `attend.float_scores` or `byte_scores` takes them."""
        count = self.heads * self.tiles * self.size
        rows = []
        for x in self.queries(keys, self.scale, np.float32):
            if len(x) == count:
                rows.append(x)
                continue
            full = np.zeros((self.heads, self.tiles * self.size, x.shape[1]), np.float32)
            full[:, : self.per_head] = x.reshape(self.heads, self.per_head, x.shape[1])
            rows.append(full.reshape(count, x.shape[1]))
        return keys.queries((rows[0], rows[1]), self.size, self.precision)

    def shaping(self, width: int) -> tuple[Any, ...]:
        """What `attend.shape` takes, for keys in blocks that hold `width`."""
        seen = np.zeros((2, self.tiles * self.size), np.int64)
        copies = self.per_head // max(1, self.seen.shape[1])
        seen[:, : self.per_head] = np.tile(self.seen, copies) if self.seen.shape[1] > 1 else self.seen
        added = None if self.added is None else self.added * self.scale
        mask = self.mask
        if mask is not None and mask.dtype == bool:
            mask = np.where(mask, np.float32(0), np.float32(-np.inf))
        extras = (*self._own_rows(added, width), *self._own_rows(mask, width))
        return (seen[0], seen[1], np.float32(self.softcap or 0), *extras)

    def _own_rows(self, a: NDArray[Any] | None, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What is added to the logits, as rows (its own, width), and which of them each query row has."""
        if a is None:
            return np.empty((0, 0), np.float32), np.empty(0, np.int64)
        own = math.prod(a.shape[:-1])
        full = np.zeros((own, width), np.float32)
        full[:, : self.n] = a.reshape(own, self.n)
        which = np.zeros((self.heads, self.tiles * self.size), np.int64)
        numbers = np.broadcast_to(np.arange(own).reshape(a.shape[:-1]), self.rows.shape[:-1])
        which[:, : self.per_head] = self.grouped(numbers)
        return full, which.reshape(-1)

    def wide_logits(self, scores: Reals) -> Reals:
        """<q, k~> of (kv heads, rows, n) to logits, by NumPy."""
        s = self.ungrouped(scores)
        s = s if self.added is None else s + self.added
        first, stop = (x[:, None] for x in self.seen)
        j = np.arange(self.n)
        return reference._shape_logits(s, self.scale, self.softcap, self.mask, (first <= j) & (j < stop))


def _interval(
    n_queries: int, n: int, causal: bool, window: int | None, positions: ArrayLike | None
) -> NDArray[np.int64]:
    """The keys first <= j < stop that each query sees, (2, n_queries): `visible` as an interval."""
    if not causal and window is None and positions is None:
        return np.array([[0], [n]]).repeat(n_queries, axis=1)
    p = np.arange(n - n_queries, n) if positions is None else np.asarray(positions)
    if p.shape != (n_queries,) or p.dtype.kind not in "iu":
        raise ValueError(f"positions: expected {n_queries} integers, got {p.dtype} {p.shape}")
    p = p.astype(np.int64)
    seen = np.empty((2, n_queries), np.int64)
    first, stop = seen
    first[:], stop[:] = 0, n
    if causal:
        np.minimum(stop, p + 1, out=stop)
    if window is not None:
        reach = min(check_integer(window, "window", 1), 1 << 62)
        np.maximum(first, p - reach + 1, out=first)
        np.minimum(stop, p + reach, out=stop)
    np.maximum(stop, first, out=stop)
    return seen


def _cut(call: _Call, chunk: int, blocks: int) -> tuple[int, int, int]:
    """Groups of rows and chunks of keys of a head, and blocks of a chunk."""
    length = -(-chunk // LANES)
    return call.tiles, -(-blocks // length), length


def _each(call: _Call, cut: tuple[int, int, int], run: Any) -> None:
    """Call ``run(begin, end)`` over all items of work, in parallel where that pays; see `attend.attend_items`."""
    tiles, chunks, length = cut
    work = call.size * min(length * LANES, max(1, call.n))
    in_parts(run, call.heads * tiles * chunks, -(-_ENOUGH // work))


def _fused(call: _Call, keys: Side, values: Side, chunk: int) -> Partial:
    """Attention by the kernels, float32."""
    k, v, queries = keys.arguments(call.precision), values.arguments("exact"), call.for_kernels(keys)
    blocks = keys.codes.shape[1]
    cut = _cut(call, chunk, blocks)
    groups, chunks = call.heads * call.tiles, cut[1]
    shapes = ((), (), *((width,) for width in values.widths))
    out = tuple(np.empty((groups * chunks, call.size, *shape), np.float32) for shape in shapes)
    marks = (call.group, (0,) * min(4, call.size), *keys.bits, *values.bits)
    shaping = call.shaping(blocks * LANES)
    _each(call, cut, lambda begin, end: attend_items(marks, k, v, queries, shaping, cut, out, begin, end))
    top, total, sums, sign_sums = out if chunks == 1 else _merged(groups, chunks, *out)
    both = call.from_tiles(sums), call.from_tiles(sign_sums)
    return Partial(call.from_tiles(top), call.from_tiles(total), values.original(*both))


def _merged(groups: int, chunks: int, *items: Reals) -> tuple[Reals, ...]:
    """(top, total, sums, sign_sums) of the items of each group of rows as one: the softmax over all chunks."""
    top, total, sums, sign_sums = (x.reshape(groups, chunks, *x.shape[1:]) for x in items)
    best = top.max(axis=1, initial=-np.inf)
    factors = np.exp(top - np.where(np.isneginf(best), 0, best)[:, None])
    total = (total * factors).sum(axis=1)
    return best, total, *((x * factors[..., None]).sum(axis=1) for x in (sums, sign_sums))


def _fused_logits(call: _Call, keys: Side) -> Reals:
    k, queries, blocks = keys.arguments(call.precision), call.for_kernels(keys), keys.codes.shape[1]
    out = np.empty((call.heads * call.tiles, call.size, blocks * LANES), np.float32)
    marks, shaping, cut = (call.group, *keys.bits), call.shaping(blocks * LANES), _cut(call, CHUNK, blocks)
    _each(call, cut, lambda begin, end: logits_items(marks, k, queries, shaping, cut, out, begin, end))
    return call.from_tiles(out)[..., : call.n]


def _decoded_scores(call: _Call, keys: Side, dtype: Any) -> Reals:
    """<q, k~> from decoded codes, (kv heads, rows, n)."""
    main, signs = (x.reshape(call.heads, call.per_head, x.shape[1]) for x in call.queries(keys, 1.0, dtype))
    found = np.empty((call.heads, call.per_head, call.n), dtype)
    for head in range(call.heads):
        k, k_signs = keys.decoded(head, dtype)
        found[head] = main[head] @ k.T + signs[head] @ k_signs.T
    return found


def _decoded_sums(call: _Call, w: Reals, values: Side) -> Reals:
    """sum_j w_j v~_j from decoded codes, in the original basis."""
    pairs = [tuple(w[head] @ x for x in values.decoded(head, w.dtype)) for head in range(call.heads)]
    main, signs = (np.reshape([pair[i] for pair in pairs], (*w.shape[:2], -1)) for i in (0, 1))
    return values.original(call.ungrouped(main), call.ungrouped(signs))


def logits(
    Q: Any,
    q: ArrayLike,
    keys: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    window: int | None = None,
    positions: ArrayLike | None = None,
    precision: str = "exact",
) -> Reals:
    """softcap(scale <q, k~>) + mask for every query and key: `turboquant_ref.attention.logits`.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod` or `qjl`
    q : (*batch, heads, n_queries, d)
    keys : Prepared, Packed or code of shape (*batch, kv_heads, n_keys)
    scale, softcap, mask, causal, window, positions
        As there.
    precision : {"exact", "int8"}
        See the module's docstring.

    Returns
    -------
    (*batch, heads, n_queries, n_keys) array; -inf where a key is not visible

    Raises
    ------
    TypeError, ValueError
        For an algorithm without a kernel, shapes that do not fit, or a code of another quantizer.
    """
    side = side_of(Q, keys, "keys")
    call = _Call(q, Q.d, side.shape, scale, softcap, mask, causal, window, positions, precision)
    dtype = np.result_type(call.rows, side.weights)
    if dtype == np.float32:
        return _fused_logits(call, side)
    return call.wide_logits(_decoded_scores(call, side, dtype))


def attend(Qk: Any, Qv: Any, q: ArrayLike, keys: Any, values: Any, **options: Any) -> Reals:
    """Attention output softmax(logits) V~: `turboquant_ref.attention.attend`.

    Parameters
    ----------
    Qk, Qv : quantizers of the keys and of the values
    q, keys, options
        As in `logits`.
    values : Prepared, Packed or code of shape (*batch, kv_heads, n_keys)

    Returns
    -------
    (*batch, heads, n_queries, d_v) array; 0 for a query that sees no key
    """
    return attend_blocks(Qk, Qv, q, keys, values, **options)


def attend_blocks(
    Qk: Any,
    Qv: Any,
    q: ArrayLike,
    keys: Any,
    values: Any,
    block: int = CHUNK,
    mask: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    **options: Any,
) -> Reals:
    """`attend`, with so many keys, rounded up to 16, in an item of work: what threads share out, and what is merged."""
    options |= {"mask": mask, "positions": positions}
    return _attention(Qk, Qv, q, keys, values, check_integer(block, "block", 1), options).output


def partial(
    Qk: Any,
    Qv: Any,
    q: ArrayLike,
    keys: Any,
    values: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    window: int | None = None,
    positions: ArrayLike | None = None,
    added: Reals | None = None,
    precision: str = "exact",
) -> Partial:
    """Attention over one block of a cache, of codes or of vectors as they are: `turboquant_ref.attention.partial`.

    Parameters
    ----------
    Qk, Qv : quantizers of the keys and of the values, each None where they are vectors
    q, scale, softcap, mask, causal, window, positions, precision
        As in `logits`; position 0 is that of the first key of the block.
    keys, values : Prepared, Packed or code of shape (*batch, kv_heads, n_keys), or vectors (…, n_keys, d)
    added : broadcastable to (*batch, heads, n_queries, n_keys), optional
        Added to <q, k~> before the scale.
    """
    options = {"scale": scale, "softcap": softcap, "mask": mask, "causal": causal, "window": window}
    options |= {"positions": positions, "added": added, "precision": precision}
    return _attention(Qk, Qv, q, keys, values, CHUNK, options)


def _attention(Qk: Any, Qv: Any, q: ArrayLike, keys: Any, values: Any, chunk: int, options: dict[str, Any]) -> Partial:
    k = None if Qk is None else side_of(Qk, keys, "keys")
    v = None if Qv is None else side_of(Qv, values, "values")
    shapes = [np.shape(x)[:-1] if side is None else side.shape for side, x in ((k, keys), (v, values))]
    if shapes[0] != shapes[1]:
        raise ValueError(f"values: expected the batch shape of keys, {shapes[0]}, got {shapes[1]}")
    call = _Call(q, np.shape(keys)[-1] if k is None else Qk.d, shapes[0], **options)
    dtype = np.result_type(call.rows, *(side.weights for side in (k, v) if side is not None))
    if k is not None and v is not None and dtype == np.float32:
        return _fused(call, k, v, chunk)
    if k is None:
        scores = call.grouped(as_rows(call.rows, name="q")) @ _vectors(keys, "keys", call).swapaxes(-1, -2)
    else:
        scores = _decoded_scores(call, k, dtype)
    s = call.wide_logits(scores)
    top = s.max(axis=-1, initial=-math.inf)
    e = np.exp(s - np.where(np.isneginf(top), 0, top)[..., None])
    if v is None:
        sums = call.ungrouped(call.grouped(e) @ _vectors(values, "values", call))
    else:
        sums = _decoded_sums(call, call.grouped(e), v)
    return Partial(top, e.sum(axis=-1), sums)


def _vectors(x: ArrayLike, name: str, call: _Call) -> Reals:
    """Keys or values as they are, (kv heads, n, d)."""
    rows = as_rows(x, name=name)
    return rows.reshape(call.heads, call.n, rows.shape[-1])
