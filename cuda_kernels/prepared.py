"""Prepared, the form of codes in device memory (`layout`), straight from vectors: `encode` of every algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from turboquant_ref import vectors as reference
from turboquant_ref.packing import check_scalars

from . import _launch
from .layout import Prepared, empty, form_of, prepare, scalar_dtype, to_packed
from .packing import scalar_values
from .vectors import Flag, Rows, device, home_of, plain, sizes, spread

__all__ = [
    "encode",
    "fused",
    "numbers_of",
    "prepare",
    "store",
    "to_packed",
]


def encode(Q: Any, x: Any, scalars: str | None = None) -> Prepared:
    """The Prepared form of vectors x (…, d): their codes in device memory, side scalars as `scalars`, or float32.

    Raises
    ------
    TypeError, ValueError
        As `quantize` and `pack` of the algorithm.
    MemoryError
        If the device has too little memory.
    """
    from importlib import import_module

    scalars = check_scalars("float32" if scalars is None else scalars)
    fast = fused(Q, x, scalars)
    if fast is not None:
        return fast
    module = import_module(f"{__package__}.{Q.algorithm}")
    rows, s = module.steps(Q, x)
    if Q.algorithm == "mse":
        return store(Q, rows, scalars, s["scale"], s["indices"])
    if Q.algorithm == "qjl":
        return store(Q, rows, scalars, s["norm"], s["signs"])
    residuals = s["residual_norm"] if Q.stores_residual else None
    return store(Q, rows, scalars, s["norm"], s["indices"], s["signs"], residuals)


def fused(Q: Any, x: Any, scalars: str) -> Prepared | None:
    """`encode` by the fast kernel; None where it does not apply, or met what the plain ones will name and refuse."""
    if Q.algorithm != "mse":
        return None
    if not _launch.on_device(x):
        x = reference.as_rows(x, Q.d)
    if not _launch.is_fast():
        return None
    from . import quantize

    if isinstance(x, np.ndarray):
        if x.dtype != np.float32:
            return None
        x = device(x, home_of())
    call = quantize.prepared_call(Q, x, scalars)
    if call is None and _launch.name_of(x) in ("float16", "bfloat16"):
        call = quantize.prepared_call(Q, home_of(x).as_float32(x), scalars)
    if call is None:
        return None
    out = call()
    return None if call.refused() else out


def numbers_of(prepared: Prepared) -> Any:
    """The numbers (n, k) of Prepared codes, a byte each, on the device: indices, with the sign above where merged."""
    kernels, form, home = plain(), prepared.form, home_of(prepared.codes)
    n = int(np.prod(prepared.shape))
    numbers, codes = home.empty((n, form.n), "uint8"), prepared.codes.reshape((n, form.row))
    if form.planes:
        high = prepared.high.reshape((n, form.row_high))
        spread(kernels.join_planes, n * form.n, home, codes, high, numbers)
    else:
        spread(kernels.unpack, n * form.n, home, codes, 0, form.bits, numbers, Flag(home).array)
    return numbers


def store(
    Q: Any, rows: Rows, scalars: str, scales: Any, numbers: Any, signs: Any = None, residuals: Any = None
) -> Prepared:
    """A code's numbers (n, k) and scalars (n,) on the device as Prepared."""
    kernels = plain()
    form, home = form_of(Q), rows.home
    out = empty(Q, rows.shape, scalars, home)
    flag = Flag(home)  # never set: the numbers are our own

    def stream(these: Any, bits: int, into: Any) -> None:
        width = sizes(into)[-1]
        spread(kernels.pack, rows.n * width, home, these, bits, into.reshape((rows.n, width)), 0, flag.array)

    if form.merged:
        size = rows.n * Q.d
        merged = rows.empty(rows.n, Q.d, dtype="uint8")
        parts = [a.reshape((size,)) for a in (numbers, signs, merged)]
        spread(kernels.merge, size, home, *parts[:2], form.bits - 1, parts[2])
        numbers = merged
    if form.planes:
        lower = rows.empty(rows.n, form.n, dtype="uint8")
        size = rows.n * form.n
        spread(kernels.lower_bits, size, home, numbers.reshape((size,)), 2, lower.reshape((size,)))
        stream(lower, 2, out.codes)
        high = out.high.reshape((rows.n, form.row_high))
        spread(kernels.upper_plane, rows.n * form.row_high, home, numbers, high)
    elif form.row:
        stream(numbers, form.bits, out.codes)
    if form.signs:
        stream(signs, 1, out.high)
    dtype = scalar_dtype(scalars)
    kept = {"scales": scalar_values(scales, scalars, "scale", dtype, home, rows.shape)}
    if residuals is not None:
        kept["residuals"] = scalar_values(residuals, scalars, "residual norm", dtype, home, rows.shape)
    return replace(out, **kept)
