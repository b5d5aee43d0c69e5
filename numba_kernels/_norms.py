"""Norms and unit vectors, 16 rows at a time: what `turboquant_ref.vectors.norm_and_unit` gives, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.vectors import Rows, as_rows, first_row

from . import _lanes
from ._jit import kernel
from .simd import store

__all__ = ["norm_and_unit", "rows_of", "safely"]

Reals = NDArray[Any]


def rows_of(x: ArrayLike, d: int, name: str = "x") -> Rows:
    """The vectors, checked as `as_rows` does, but for NaN and infinity in a float array: kernels find these."""
    if isinstance(x, np.ndarray) and x.dtype in (np.float32, np.float64) and x.ndim and x.shape[-1] == d:
        return x.astype(x.dtype.newbyteorder("="), copy=False)
    return as_rows(x, d, name)


def safely(rows: Rows, name: str, run: Callable[[Rows], tuple[bool, Reals]]) -> Reals:
    """Norms of rows (n, d) by ``run(rows) -> (some row is unusual, norms)``, for rows of any magnitude.

    Where there is an unusual row, `run` is called again on rows scaled by powers of two; rows that a kernel can square
    as they are it gets as they are, so that their results do not depend on the others.

    Raises
    ------
    ValueError
        For NaN and infinity, and where a norm is larger than the largest number of the type.
    """
    if config.DISABLE_JIT:
        run = np.errstate(over="ignore", invalid="ignore")(run)
    unusual, norms = run(rows)
    if not unusual:
        return norms
    as_rows(rows, name=name)
    exponents = np.frexp(np.abs(rows).max(axis=-1))[1]
    exponents[np.abs(exponents) <= 40] = 0
    with np.errstate(over="ignore", under="ignore"):
        norms = np.ldexp(run(np.ldexp(rows, -exponents[:, None]))[1], exponents)
    overflow = np.isinf(norms)
    if overflow.any():
        limit = f"the largest {rows.dtype}, {np.finfo(rows.dtype).max:.6g}"
        cure = "scale the data down" if rows.dtype == np.float64 else "pass float64 or scale the data down"
        raise ValueError(f"{name}: the norm of row {first_row(overflow)} exceeds {limit}; {cure}")
    return norms


@kernel
def _norm_and_unit(x, start, stop, T, norms, unit):
    d = x.shape[1]
    unusual = 0
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        lengths, bad = _lanes.norms_of(T, d)
        unusual |= bad
        _lanes.multiply(T, d, _lanes.reciprocal(T, lengths))
        store(norms, first, lengths)
        _lanes.store_rows(T, unit, first, rows)
    return unusual


def norm_and_unit(rows: Rows, name: str = "x") -> tuple[Reals, Rows]:
    """||x|| (…) and x / ||x|| (…, d) of rows that `rows_of` let pass.

    Raises
    ------
    ValueError
        As `safely`.
    """
    d = rows.shape[-1]
    flat = np.ascontiguousarray(rows).reshape(-1, d)
    n, unit = len(flat), np.empty(flat.shape, flat.dtype)

    def run(x: Rows) -> tuple[bool, Reals]:
        norms = np.empty(-(-n // 16) * 16, x.dtype)
        parts = _lanes.blocks(lambda *part: _norm_and_unit(x, *part, norms, unit), n, d, x.dtype)
        return any(parts), norms[:n]

    return safely(flat, name, run).reshape(rows.shape[:-1]), unit.reshape(rows.shape)
