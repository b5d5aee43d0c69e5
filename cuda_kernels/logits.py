"""Attention logits straight from the packed keys in device memory, `turboquant_ref.attention.logits` on a GPU.

    logits    the plain call: any shapes, options and array library
    fix       the same with its arguments fixed once: a few microseconds a call, capturable in a CUDA graph

The query is turned once, by Pi (and S), and meets codes only. Two kernels do the work: `logits_fast` on the tensor
cores, for d of 64, 128 or 256, numbers of 2 to 4 bits (`prod` included) and float32 or less; `logits_plain` for
everything else, and in the simulator.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _launch
from ._fixed import Fixed
from ._problem import KEYS, Problem, as_prepared, is_fast, kept, problem, rotation_of, sign_factor, sketch_of
from .layout import Prepared, to_host

__all__ = ["Fixed", "as_prepared", "fix", "into", "kept", "logits"]

def fix(
    Q: Any, q: Any, keys: Prepared, *, scale: float | None = None, out: Any = None, dtype: str = "float32"
) -> Fixed:
    """`logits` prepared: arguments are checked, kernels compiled and room made once, then ``call()`` only launches.

    Parameters
    ----------
    Q, q, keys, scale
        As in `logits`; q and keys are arrays on the device, and a call reads what they hold then.
    out : array on the device, optional
        Where the logits go; new room in the library of q if None.
    dtype : {"float32", "float16"}
        Of new room.

    Raises
    ------
    TypeError, ValueError
        As `logits`, or for what the fast kernel does not take.
    MemoryError
        If the logits do not fit in device memory.
    """
    p = problem(Q, q, keys, scale, None)
    home = _launch.home_of(q)
    if out is None:
        _launch.enough_memory(math.prod(p.shape) * np.dtype(dtype).itemsize, "logits")
        out = home.empty(p.shape, dtype)
    if not _launch.on_device(q) or not is_fast(p, _launch.name_of(q), _launch.name_of(out)):
        raise ValueError(
            "q, keys: a fixed call takes device arrays of float32, float16 or bfloat16, d of 64, 128 or 256, numbers "
            f"of 2 to 4 bits and at least {KEYS} keys; got {_launch.name_of(q)}, d = {Q.d}, {p.n} keys"
        )
    return Fixed(p, home.take(q), out, home)


def logits(
    Q: Any,
    q: Any,
    keys: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    positions: Any = None,
    dtype: str | None = None,
) -> Any:
    """softcap(scale <q, k~>) + mask for every query and key; as `turboquant_ref.attention.logits`.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod` or `qjl`
    q : (*batch, heads, n_queries, d)
        float32, float16 or bfloat16; float64 is computed in float64, by the plain kernel. Arrays on the device are not
        searched for NaN.
    keys : Prepared, Packed or a code, of shape (*batch, kv_heads, n_keys)
    scale, softcap, mask, causal, window, positions
        As the reference's.
    dtype : {"float32", "float16", "float64"}, optional
        Of the logits; float64 for float64 queries and float32 for all others if None.

    Returns
    -------
    (*batch, heads, n_queries, n_keys) array of the library of q; -inf where a key is not visible

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or a code of another quantizer.
    RuntimeError
        If there is no GPU or no numba-cuda.
    MemoryError
        If the logits do not fit in device memory.
    """
    from turboquant_ref.vectors import as_rows

    q = _launch.home_of(q).take(q) if _launch.on_device(q) else as_rows(q, Q.d, name="q")
    p = problem(Q, q, keys, scale, softcap)
    home = _launch.home_of(q)
    kind = _launch.name_of(q)
    out_kind = dtype or ("float64" if kind == "float64" else "float32")
    _launch.enough_memory(math.prod(p.shape) * np.dtype(out_kind).itemsize, "logits")
    out = home.empty(p.shape, out_kind)
    if math.prod(p.shape):
        into(p, home.take(q), out, home, is_fast(p, kind, out_kind))
        if softcap is not None or mask is not None or causal or window is not None:
            _shape(p, out, home, softcap, mask, causal, window, positions)
    return home.give(out)


def into(p: Problem, q: Any, out: Any, home: _launch.Home, fast: bool) -> None:
    """Logits of queries on the device, by either kernel, before soft cap and masks."""
    if fast:
        Fixed(p, q, out, home)()
    else:
        _plain(p, q, out, home)


def _array(a: Any) -> Any:
    return a if _launch.simulated() else _launch.ready().as_cuda_array(a)


def _cells(a: Any, rows: int, width: int) -> Any:
    """Rows of bytes as rows of cells."""
    a = _array(a)
    flat = a.reshape((rows, tuple(a.shape)[-1]))
    return flat.view(np.uint32) if width == 32 else flat


def _plain(p: Problem, q: Any, out: Any, home: _launch.Home) -> None:
    from numba import types

    from . import logits_plain as plain

    Q, keys, form = p.Q, p.keys, p.keys.form
    dtype = "float64" if _launch.name_of(q) == "float64" else "float32"
    q = q if dtype == "float64" else home.as_float32(q)
    rows, n_rows = p.heads * p.queries, int(math.prod(keys.scales.shape))

    def turned(matrix: Any) -> Any:
        y = _launch.ready().device_array((rows, int(matrix.shape[1])), np.dtype(dtype))
        grid = _launch.blocks(rows * int(matrix.shape[1]), 128)
        _launch.plain(plain.turn, grid, 128, home, _array(q).reshape((rows, Q.d)), matrix, y)
        return y

    signed = Q.algorithm != "mse"
    z = turned(sketch_of(Q, dtype)) if signed else None
    index_bits = 0 if Q.algorithm == "qjl" else Q.codebook.bits
    y = turned(rotation_of(Q, dtype)) if index_bits else z
    kind = "apart" if form.signs else "merged" if signed else "none"
    if form.planes:
        kind = "merged planes" if signed else "planes"
    step = plain.stretch(index_bits)
    wide = all(n % 4 == 0 for n in (form.row, form.row_high)) and step % 32 == 0
    width = 32 if wide and step * form.bits % 32 == 0 else 8
    high = _cells(keys.high if form.row_high else keys.codes, n_rows, width)
    codes = _cells(keys.codes, n_rows, width) if form.row else high
    scales = _array(keys.scales).reshape((n_rows,))
    residuals = scales if keys.residuals is None else _array(keys.residuals).reshape((n_rows,))
    nothing = kept(Q, "nothing", lambda: np.zeros(1, dtype))
    book = kept(Q, ("book", dtype), lambda: Q.codebook.centroids.astype(dtype)) if index_bits else nothing
    no_pages, no_lengths = kept(Q, "no pages", lambda: np.zeros((1, 1), np.int32)), kept(
        Q, "no lengths", lambda: np.zeros(1, np.int32)
    )
    number = np.dtype(dtype).type
    pages = no_pages if p.page == 0 else _array(keys.table)
    lengths = no_lengths if p.page == 0 else _array(keys.lengths)
    grid = (min(_launch.blocks(p.n, plain.KEYS), max(1, 16 * _launch.processors() // p.heads)), p.heads, p.queries)
    result = _array(out).reshape((rows, p.n))
    if kind == "none" and width == 32 and 32 % index_bits == 0 and form.n <= plain.WIDEST_WHOLE:
        whole = plain.whole_kernel(index_bits, form.row // 4, p.page, getattr(types, dtype))
        arguments = (codes, scales, book, y, number(p.scale), pages, lengths, p.pages[0], result)
        _launch.plain(whole, grid, plain.KEYS, home, *arguments)
        return
    kernel = plain.logits_kernel(
        index_bits, kind, width, p.page, keys.residuals is not None, getattr(types, dtype)
    )
    factors = number(p.scale), number(sign_factor(Q, p.scale) if signed else 0)
    _launch.plain(
        kernel, grid, plain.KEYS, home, codes, high, scales, residuals, book, y, y if z is None else z, *factors,
        pages, lengths, p.pages[0], result,
    )  # fmt: skip


def _shape(
    p: Problem, out: Any, home: _launch.Home, softcap: Any, mask: Any, causal: bool, window: int | None, positions: Any
) -> None:
    """Soft cap and masks, in place."""
    from turboquant_ref.attention import visible

    from . import logits_plain as plain
    n_queries, rows = p.shape[-2], p.heads * p.queries
    where = np.arange(p.n - n_queries, p.n) if positions is None else to_host(positions)
    visible(n_queries, 0, causal, window, where)  # checks
    device = _launch.ready().to_device
    kind, masks = 0, device(np.zeros((1, 1), bool))
    if mask is not None:
        host = np.broadcast_to(to_host(mask) if _launch.on_device(mask) else np.asarray(mask), p.shape)
        kind = 1 if host.dtype == bool else 2
        masks = device(np.ascontiguousarray(host.reshape(rows, p.n)))
    _launch.plain(
        plain.shape, (_launch.blocks(p.n, 128), rows), 128, home, _array(out).reshape((rows, p.n)), n_queries,
        float(softcap or 0), masks, kind, causal, int(window or 0), device(where.astype(np.int64)),
    )  # fmt: skip
