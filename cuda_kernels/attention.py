"""Attention straight from codes on a GPU: the names and signatures of `turboquant_ref.attention`.

    out = sum_j softmax(softcap(scale <q, k~_j>) + mask)_j v~_j

`attend` and `partial` take keys and values as Prepared (contiguous, or pages with a block table), Packed, codes, or
vectors where the quantizer is None. Decode attention of `mse` and `prod` keys with `mse` values, d of 64, 128 or 256
and 2 to 4 bits, runs in one fused pass on the tensor cores (`decode`); everything else in the plain kernels
(`decode_plain`). `fix` is the fused call with its arguments fixed once.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from turboquant_ref.attention import Fidelity, Partial, _check, _heads, fidelity, select, softmax, visible
from turboquant_ref.attention import merge as _merge
from turboquant_ref.vectors import check_integer

from . import _launch
from .decoder import Decoder, address, page_shift_of, side_of
from .layout import Prepared, to_host
from .logits import as_prepared, kept, logits
from .vectors import as_rows, check_device

__all__ = [
    "Fidelity",
    "Partial",
    "attend",
    "attend_blocks",
    "fidelity",
    "fix",
    "logits",
    "merge",
    "partial",
    "select",
    "softmax",
    "visible",
]


@dataclass(frozen=True)
class _Call:
    """Checked arguments: keys and values on the device, and which keys each query position sees."""

    Qk: Any
    Qv: Any
    keys: Any
    values: Any
    shape: tuple[int, ...]
    """(*batch, heads, n_queries)."""
    kv_shape: tuple[int, ...]
    """(*batch, kv_heads, n_keys)."""
    scale: float
    softcap: float | None
    mask: Any
    added: Any
    intervals: Any
    """(n_queries, 2): first key, and one past the last."""
    causal: bool
    """Whether the intervals are those of decoding in order: position n - n_queries + i sees what is before or at it."""
    window: int | None
    in_order: bool = True

    @property
    def n(self) -> int:
        return self.kv_shape[-1]


def _checked(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, scale: float | None, softcap: float | None, mask: Any,
    causal: bool, window: int | None, positions: Any, added: Any = None,
) -> _Call:  # fmt: skip
    keys = keys if Qk is None else as_prepared(Qk, keys)
    values = values if Qv is None else as_prepared(Qv, values)
    k_shape, v_shape = _batch(Qk, keys), _batch(Qv, values)
    if k_shape != v_shape:
        raise ValueError(f"values: expected the batch shape of keys, {k_shape}, got {v_shape}")
    tables = [None if Q is None else x.table for Q, x in ((Qk, keys), (Qv, values))]
    if (tables[0] is None) != (tables[1] is None) or (tables[0] is not None and not _same(*tables)):
        raise ValueError("values: expected the block table of keys")
    if _launch.on_device(q):
        check_device(q, None if Qk is None else Qk.d, "q")
    _heads(tuple(int(n) for n in q.shape), k_shape)
    d, n, n_queries = int(q.shape[-1]), k_shape[-1], int(q.shape[-2])
    factor = _check(scale, softcap, Qk.d if Qk is not None else d)
    p = np.arange(n - n_queries, n) if positions is None else np.asarray(to_host(positions))
    visible(n_queries, 0, causal, window, p)  # checks positions and window
    first, last = np.zeros(n_queries, np.int64), np.full(n_queries, n)
    if causal:
        last = np.minimum(last, p + 1)
    if window is not None:
        first, last = np.maximum(first, p - window + 1), np.minimum(last, p + window)
    intervals = np.stack([first, np.maximum(last, first)], axis=1).astype(np.int32)
    everything = bool(np.all(intervals == (0, n)))
    in_order = bool(np.all(p == np.arange(n - n_queries, n))) and (causal or window is None or n_queries == 1)
    shape = tuple(int(x) for x in q.shape[:-1])
    return _Call(
        Qk, Qv, keys, values, shape, k_shape, factor, softcap, mask, added, intervals,
        causal and not everything if in_order or everything else None, None if everything else window, in_order,
    )  # fmt: skip


def _same(a: Any, b: Any) -> bool:
    return address(a) == address(b) or bool(np.array_equal(to_host(a), to_host(b)))


def _batch(Q: Any, x: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in (x.shape if Q is not None else x.shape[:-1]))


def _is_fast(call: _Call, dtype: str) -> bool:
    """Whether the fused kernel takes it."""
    if (
        not _launch.is_fast()
        or call.Qk is None
        or call.Qv is None
        or call.causal is None
        or any(x is not None for x in (call.softcap, call.mask, call.added))
        or dtype not in ("float32", "float16", "bfloat16")
        or call.Qk.d != call.Qv.d
        or call.Qv.algorithm != "mse"
        or call.Qk.algorithm not in ("mse", "prod")
        or min(call.kv_shape) == 0
        or min(call.shape) == 0
    ):
        return False
    sides = side_of(call.keys, call.Qk.d), side_of(call.values, call.Qv.d)
    pages = page_shift_of(call.keys), page_shift_of(call.values)
    return None not in sides and None not in pages and pages[0] == pages[1]


def _four_axes(x: Prepared) -> Prepared:
    """Codes of one batch axis."""
    if x.table is not None or len(x.shape) == 3:
        return x
    shape = (math.prod(x.shape[:-2]), *x.shape[-2:])
    fields = {
        name: a.reshape((*shape, *tuple(a.shape)[len(x.shape) :]))
        for name, a in (("codes", x.codes), ("high", x.high), ("scales", x.scales), ("residuals", x.residuals))
        if a is not None
    }
    return Prepared(
        x.form, fields["codes"], fields.get("high"), fields["scales"], fields.get("residuals"), x.scalars, x.fingerprint
    )


def _fused(call: _Call, q: Any, home: _launch.Home, whole: bool, dtype: str) -> Any:
    *batch, heads, n_queries = call.shape
    size = math.prod(batch)
    q = home.take(q).reshape((size, heads, n_queries, call.Qk.d))
    out = home.empty((size, heads, n_queries, call.Qv.d), dtype)
    decoder = Decoder(
        call.Qk, call.Qv, q, _four_axes(call.keys), _four_axes(call.values), out, scale=call.scale, causal=call.causal,
        window=call.window, whole=whole, home=home,
    )  # fmt: skip
    decoder()
    out = out.reshape((*call.shape, call.Qv.d))
    return out if whole else (decoder.tops.reshape((*call.shape, 2)), out)


# ------------------------------------------------------------------------------------------------------ plain kernels


def _reader(Q: Any, x: Any) -> Any:
    from .decode_plain import Reader

    if Q is None:
        return Reader(tuple(x.shape)[-1])
    width = {"mse": Q.d, "qjl": getattr(Q, "m", 0), "prod": Q.d + getattr(Q, "m", 0)}[Q.algorithm]
    return Reader(width, Q.algorithm, x.form, x.table is not None)


def _turn(Q: Any, back: bool, dtype: str) -> Any:
    """The matrix that rows are multiplied with to enter the basis of the codes, or to leave it."""

    def make() -> Any:
        parts = [Q.rotation.matrix()] if Q.algorithm != "qjl" else []
        parts += [Q.sketch.matrix()] if Q.algorithm != "mse" else []
        matrix = np.concatenate(parts)
        return (matrix if back else matrix.T).astype(dtype)

    return kept(Q, ("turn back" if back else "turn", dtype), make)


def _numbers(Q: Any, dtype: str) -> Any:
    """The table of `decode_plain.element`."""

    def make() -> Any:
        parts = [] if Q.algorithm == "qjl" else [Q.codebook.centroids if Q.codebook.bits else np.zeros(1)]
        if Q.algorithm != "mse":
            constant = Q.sketch.constant * (
                1.0 if Q.algorithm == "qjl" or Q.stores_residual else Q.expected_residual
            )
            parts.append([-constant, constant])
        return np.concatenate(parts).astype(dtype)

    return kept(Q, ("numbers", dtype), make)


def _cuda(a: Any) -> Any:
    """As numba's kernels take it."""
    return a if hasattr(a, "copy_to_host") or _launch.simulated() else _launch.ready().as_cuda_array(a)


def _product(a: Any, b: Any, home: _launch.Home, dtype: str) -> Any:
    from .decode_plain import multiply

    out = _launch.ready().device_array((int(a.shape[0]), int(b.shape[1])), np.dtype(dtype))
    _launch.plain(multiply, _launch.blocks(math.prod(out.shape), 128), 128, home, a, b, out)
    return out


def _rows_of(Q: Any, x: Any, home: _launch.Home, dtype: str) -> tuple[Any, ...]:
    """Codes, high, scales, residuals, table of numbers, rows of a head or page: what `decode_plain` reads."""
    none = _launch.ready().to_device(np.zeros((1, 1), np.uint8))
    if Q is None:
        rows = as_rows(x, home=home).array
        return _cuda(rows), none, none, none, none, tuple(x.shape)[-2]
    n = math.prod(int(k) for k in x.scales.shape)

    def flat(a: Any, *tail: int) -> Any:
        return none if a is None or 0 in tail else _cuda(a).reshape((n, *tail))

    return (
        flat(x.codes, x.form.row), flat(x.high, x.form.row_high), flat(x.scales), flat(x.residuals), _numbers(Q, dtype),
        tuple(x.scales.shape)[-1],
    )  # fmt: skip


def _plain(call: _Call, q: Any, home: _launch.Home, whole: bool) -> Any:
    from . import decode_plain as plain

    rows = as_rows(q, home=home)
    dtype, n = rows.dtype, call.n
    device = _launch.ready().to_device
    kinds = _reader(call.Qk, call.keys), _reader(call.Qv, call.values)
    queries = _cuda(rows.array)
    if call.Qk is not None:
        queries = _product(queries, _turn(call.Qk, False, dtype), home, dtype)
    heads = call.kv_shape[-2]
    n_rows, group = rows.n, call.shape[-2] // heads
    batch = math.prod(call.kv_shape[:-2])

    def spread(a: Any, name: str) -> Any:
        if a is None:
            return device(np.zeros((1, 1), dtype))
        a = to_host(a) if _launch.on_device(a) else np.asarray(a)
        if name == "mask" and a.dtype == bool:
            a = np.where(a, 0, -np.inf)
        return device(np.ascontiguousarray(np.broadcast_to(a, (*call.shape, n)).reshape(n_rows, n), dtype=dtype))

    paged = call.Qk is not None and call.keys.table is not None
    seen = np.broadcast_to(call.intervals, (batch, *call.intervals.shape))
    if paged:  # the queries are the last of each sequence
        lengths = to_host(call.keys.lengths)[:, None, None]
        seen = np.clip(seen - (n - lengths) * call.in_order, 0, lengths)
        seen[..., 0] *= call.intervals[:, 0] > 0
        seen = np.where(call.intervals == n, lengths, seen)
    table = _cuda(call.keys.table) if paged else device(np.zeros((1, 1), np.int32))
    per = max(256, _launch.blocks(n, max(1, 8 * _launch.processors() // max(n_rows, 1))))
    splits = max(1, _launch.blocks(n, per))
    width = kinds[1].width
    sums, tops = (_launch.ready().device_array((n_rows, splits, k), np.dtype(dtype)) for k in (width, 2))
    joined, joined_tops = (_launch.ready().device_array((n_rows, k), np.dtype(dtype)) for k in (width, 2))
    kernel = plain.attend_kernel(
        *kinds, dtype, call.softcap is not None, call.added is not None, call.mask is not None
    )
    _launch.plain(
        kernel, (n_rows, splits), plain.THREADS, home, queries, *_rows_of(call.Qk, call.keys, home, dtype),
        *_rows_of(call.Qv, call.values, home, dtype), table,
        device(np.ascontiguousarray(seen, dtype=np.int32)), spread(call.added, "added"), spread(call.mask, "mask"),
        heads, group, per, call.scale, call.softcap or 1.0, sums, tops,
    )  # fmt: skip
    _launch.plain(plain.combine, n_rows, plain.THREADS, home, sums, tops, joined, joined_tops, whole)
    if call.Qv is not None:
        joined = _product(joined, _turn(call.Qv, True, dtype), home, dtype)
    out = joined.reshape((*call.shape, int(joined.shape[1])))
    return out if whole else (joined_tops.reshape((*call.shape, 2)), out)


# ------------------------------------------------------------------------------------------------------------- verbs


def _home(*arrays: Any) -> _launch.Home:
    """NumPy queries give NumPy results, wherever the codes are."""
    return _launch.home_of(arrays[0])


def _checked_queries(q: Any, d: int | None) -> Any:
    from turboquant_ref.vectors import as_rows as on_host

    return q if _launch.on_device(q) else on_host(q, d, name="q")


def attend(Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, *, dtype: str | None = None, **options: Any) -> Any:
    """Attention output softmax(logits) V~; as `turboquant_ref.attention.attend`.

    Parameters
    ----------
    Qk, Qv : quantizers of the keys (`mse`, `prod`, `qjl`) and of the values
    q : (*batch, heads, n_queries, d)
        float32, float16 or bfloat16 (float64 by the plain kernel), NumPy or on the device.
    keys, values : Prepared, Packed or codes, of shape (*batch, kv_heads, n_keys)
        Prepared ones may be paged, with sequences of different lengths: then the queries of each are its last
        positions.
    dtype : {"float32", "float16", "bfloat16", "float64"}, optional
        Of the output; float64 for float64 queries and float32 for all others if None.
    options
        scale, softcap, mask, causal, window, positions: as in `logits`.

    Returns
    -------
    (*batch, heads, n_queries, d_v) array of the library of q; 0 for a query that sees no key

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or codes of another quantizer.
    RuntimeError
        If there is no GPU or no numba-cuda.
    """
    q = _checked_queries(q, Qk.d)
    call = _checked(Qk, Qv, q, keys, values, **_options(options))
    return _result(call, q, dtype)


def attend_blocks(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, block: int = 256, *, dtype: str | None = None, **options: Any
) -> Any:
    """`attend`: here it always goes block by block, the tensor cores' kernel by 64 keys; `block` is checked only."""
    check_integer(block, "block", 1)
    return attend(Qk, Qv, q, keys, values, dtype=dtype, **options)


def partial(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, *, scale: float | None = None, softcap: float | None = None,
    mask: Any = None, causal: bool = False, window: int | None = None, positions: Any = None, added: Any = None,
) -> Partial:  # fmt: skip
    """Attention over one block of a cache; as `turboquant_ref.attention.partial`.

    Parameters
    ----------
    Qk, Qv : quantizers, each None where keys or values are vectors (…, n_keys, d) as they are
    q, keys, values
        As in `attend`.
    scale, softcap, mask, causal, window, positions, added
        As the reference's.

    Returns
    -------
    Partial
        Its arrays live where q does.
    """
    q = _checked_queries(q, None if Qk is None else Qk.d)
    call = _checked(Qk, Qv, q, keys, values, scale, softcap, mask, causal, window, positions, added)
    tops, sums = _result(call, q, None, whole=False)
    return Partial(tops[..., 0], tops[..., 1], sums)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    known = {"scale": None, "softcap": None, "mask": None, "causal": False, "window": None, "positions": None}
    for name in options.keys() - known.keys():
        raise TypeError(f"{name}: expected one of {', '.join(known)}")
    return {**known, **options}


def _result(call: _Call, q: Any, dtype: str | None, whole: bool = True) -> Any:
    home, kind = _home(q), _launch.name_of(q)
    out_kind = dtype or ("float64" if kind == "float64" else "float32")
    if min(call.kv_shape, default=0) == 0 or min(call.shape, default=0) == 0:
        d_v = call.Qv.d if call.Qv is not None else tuple(call.values.shape)[-1]
        out = np.zeros((*call.shape, d_v), out_kind if out_kind != "bfloat16" else "float32")
        tops = np.broadcast_to(np.array([-np.inf, 0], out.dtype), (*call.shape, 2))
        made = out if whole else (np.array(tops), out)
        if type(home).__name__ == "_NumPy":
            return made
        return home.take(out) if whole else tuple(map(home.take, made))
    if _is_fast(call, kind) and out_kind != "float64":
        made = _fused(call, q, home, whole, out_kind)
        return home.give(made) if whole else tuple(map(home.give, made))
    made = _plain(call, q, home, whole)
    return _given(made, home, out_kind) if whole else tuple(_given(a, home, out_kind) for a in made)


def _given(a: Any, home: _launch.Home, kind: str) -> Any:
    """An array of the plain kernels in the caller's library and dtype."""
    if type(home).__name__ == "_NumPy":
        return a.copy_to_host().astype(kind if kind != "bfloat16" else "float32", copy=False)
    a = home.take(a)
    return home.give(a if _launch.name_of(a) == kind else _cast(a, home, kind))


def _cast(a: Any, home: _launch.Home, kind: str) -> Any:
    if hasattr(a, "to"):
        return a.to(getattr(sys.modules["torch"], kind))
    return a.astype(kind) if not hasattr(a, "copy_to_host") else home.take(a.copy_to_host().astype(kind))


def merge(first: Partial, second: Partial) -> Partial:
    """Attention over two disjoint sets of keys, from that over each; as `turboquant_ref.attention.merge`.

    Arrays of PyTorch, CuPy and JAX stay where they are; Numba's are joined on the host.
    """
    parts = (first, second)
    library = type(first.top).__module__.partition(".")[0]
    if library in ("numpy", "numba", "numba_cuda"):
        hosted = [Partial(*(to_host(a) for a in (p.top, p.total, p.sums))) for p in parts]
        return _merge(*hosted)
    xp = sys.modules["jax.numpy" if library in ("jax", "jaxlib") else library]
    top = xp.maximum(first.top, second.top)
    shift = xp.where(xp.isinf(top), xp.zeros_like(top), top)
    a, b = xp.exp(first.top - shift), xp.exp(second.top - shift)
    sums = first.sums * a[..., None] + second.sums * b[..., None]
    return Partial(top, first.total * a + second.total * b, sums)


def fix(
    Qk: Any, Qv: Any, q: Any, keys: Prepared, values: Prepared, *, out: Any = None, scale: float | None = None,
    causal: bool = True, window: int | None = None,
) -> Decoder:  # fmt: skip
    """`attend` for decoding, prepared: arguments are checked, kernels compiled and room made once; ``call()`` launches.

    Parameters
    ----------
    q : (batch, heads, n_queries, d) array on the device
        The last positions of each sequence.  A call reads what q, the codes, their block table and lengths hold then.
    keys, values : Prepared
        (batch, kv_heads, n_keys), or pages with a block table.
    out : array like q, optional
        New room if None; what ``call()`` gives.
    scale, causal, window
        As in `attend`.

    Raises
    ------
    TypeError, ValueError
        As `attend`, or for what the fused kernel does not take.
    """
    if not _launch.on_device(q):
        raise TypeError(f"q: expected an array on the device, got {type(q).__name__}")
    call = _checked(Qk, Qv, q, keys, values, scale, None, None, causal, window, None)
    if len(call.kv_shape) != 3 or not _is_fast(call, _launch.name_of(q)):
        raise ValueError(
            "q, keys, values: a fixed call takes q (batch, heads, n_queries, d) of float32, float16 or bfloat16 with d "
            "of 64, 128 or 256, mse or prod keys and mse values of 2 to 4 bits, float16 or float32 scalars; got "
            f"{_launch.name_of(q)} {tuple(q.shape)}, {Qk.algorithm} keys and {Qv.algorithm} values"
        )
    home = _launch.home_of(q)
    room = home.empty(tuple(int(n) for n in q.shape), _launch.name_of(q)) if out is None else out
    return Decoder(Qk, Qv, q, keys, values, room, scale=scale, causal=causal, window=window, home=home)
