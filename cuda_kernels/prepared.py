"""Prepared, the form of codes in device memory (`layout`), straight from vectors: the verb `encode` of every algorithm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from turboquant_ref import vectors as reference
from turboquant_ref.packing import check_scalars

from . import _launch
from .layout import Prepared, empty, form_of, prepare, scalar_dtype, to_packed
from .packing import scalar_values
from .vectors import Flag, Rows, plain, sizes, spread

__all__ = ["encode", "prepare", "store", "to_packed"]


def encode(Q: Any, x: Any, scalars: str = "float32") -> Prepared:
    """The Prepared form of vectors x (…, d): their codes in device memory, side scalars as `scalars`.

    Raises
    ------
    TypeError, ValueError
        As `quantize` and `pack` of the algorithm.
    MemoryError
        If the device has too little memory.
    """
    from importlib import import_module

    check_scalars(scalars)
    if Q.algorithm == "mse" and _launch.is_fast():
        fast = _fast(Q, x, scalars)
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


def _fast(Q: Any, x: Any, scalars: str) -> Prepared | None:
    """`encode` by the fast kernel; None where it does not apply, or met what the plain ones will name and refuse."""
    from . import quantize

    if not _launch.on_device(x):
        x = _launch.home_of().take(np.ascontiguousarray(reference.as_rows(x, Q.d)))
    call = quantize.prepared_call(Q, x, scalars)
    if call is None:
        return None
    out = call()
    return None if call.refused() else out


def store(Q: Any, rows: Rows, scalars: str, scales: Any, numbers: Any, signs: Any = None, residuals: Any = None) -> Prepared:
    """A code's numbers (n, k) and scalars (n,) on the device as Prepared."""
    kernels = plain()
    form, home = form_of(Q), rows.home
    out = empty(Q, rows.shape, scalars, home)
    flag = Flag(home)  # never set: the numbers are our own

    def stream(these: Any, bits: int, into: Any) -> None:
        width = sizes(into)[-1]
        spread(kernels.pack, rows.n * width, home, these, bits, into.reshape((rows.n, width)), 0, flag.array)

    if form.merged:
        merged = rows.empty(rows.n, Q.d, dtype="uint8")
        spread(kernels.merge, rows.n * Q.d, home, *(a.reshape((rows.n * Q.d,)) for a in (numbers, signs)), form.bits - 1, merged.reshape((rows.n * Q.d,)))
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
