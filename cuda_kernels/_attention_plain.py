"""Attention by the plain kernels: how their arrays are seen, and their launches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _launch
from ._attention_call import Call
from .layout import to_host
from .logits import kept
from .vectors import as_rows


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
        return rows, none, none, none, none, tuple(x.shape)[-2]
    n = math.prod(int(k) for k in x.scales.shape)

    def flat(a: Any, *tail: int) -> Any:
        return none if a is None or 0 in tail else _launch.view(a, (n, *tail))

    return (
        flat(x.codes, x.form.row), flat(x.high, x.form.row_high), flat(x.scales), flat(x.residuals), _numbers(Q, dtype),
        tuple(x.scales.shape)[-1],
    )  # fmt: skip


def plain(call: Call, q: Any, home: _launch.Home, whole: bool) -> Any:
    """The output; or tops and totals, and sums."""
    from . import decode_plain as kernels

    rows = as_rows(q, home=home)
    dtype, n = rows.dtype, call.n
    device = _launch.ready().to_device
    kinds = _reader(call.Qk, call.keys), _reader(call.Qv, call.values)
    queries = rows.array
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
    table = call.keys.table if paged else device(np.zeros((1, 1), np.int32))
    per = max(256, _launch.blocks(n, max(1, 8 * _launch.processors() // max(n_rows, 1))))
    splits = max(1, _launch.blocks(n, per))
    width = kinds[1].width
    sums, tops = (_launch.ready().device_array((n_rows, splits, k), np.dtype(dtype)) for k in (width, 2))
    joined, joined_tops = (_launch.ready().device_array((n_rows, k), np.dtype(dtype)) for k in (width, 2))
    kernel = kernels.attend_kernel(
        *kinds, dtype, call.softcap is not None, call.added is not None, call.mask is not None
    )
    _launch.plain(
        kernel, (n_rows, splits), kernels.THREADS, home, queries, *_rows_of(call.Qk, call.keys, home, dtype),
        *_rows_of(call.Qv, call.values, home, dtype), table,
        device(np.ascontiguousarray(seen, dtype=np.int32)), spread(call.added, "added"), spread(call.mask, "mask"),
        heads, group, per, call.scale, call.softcap or 1.0, sums, tops,
    )  # fmt: skip
    _launch.plain(kernels.combine, n_rows, kernels.THREADS, home, sums, tops, joined, joined_tops, whole)
    if call.Qv is not None:
        joined = _product(joined, _turn(call.Qv, True, dtype), home, dtype)
    out = joined.reshape((*call.shape, int(joined.shape[1])))
    return out if whole else (joined_tops.reshape((*call.shape, 2)), out)
