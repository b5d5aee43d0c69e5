"""What a vector is here: the input checks, norms and unit vectors that every algorithm shares.

Rows are vectors: an array of shape (..., d), d >= 2, is a batch of vectors of d coordinates. float64 and
integers are computed in float64, float32 and float16 in float32; nothing else is a number here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Rows = NDArray[np.floating[Any]]
"""An array of vectors, shape (..., d), float32 or float64."""


def check_integer(value: object, name: str, low: int, high: int | None = None) -> int:
    """An integer of the method (d, b, m): `value` as an int, if it lies in low..high.

    Parameters
    ----------
    value : int or numpy.integer
    name : str
        What the messages call it.
    low, high : int
        The smallest and the largest allowed value; high None is no limit.

    Raises
    ------
    TypeError
        Not an integer: a bool, a float (2.0 too), a string, None, an array.
    ValueError
        Out of range.
    """
    allowed = f"of at least {low}" if high is None else f"from {low} to {high}"
    # NumPy counts a timedelta64 among its integers
    if not isinstance(value, int | np.integer) or isinstance(value, bool | np.timedelta64):
        raise TypeError(f"{name} must be an integer {allowed}, got {value!r} of type {type(value).__name__}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be an integer {allowed}, got {value}")
    return int(value)


def check_bits(bits: object, name: str = "bits", low: int = 1, high: int = 8) -> int:
    """The bit width b of the paper: bits a coordinate, an integer from `low` to `high`.

    Raises
    ------
    TypeError
        Not a Python or NumPy integer.
    ValueError
        Out of range.
    """
    return check_integer(bits, name, low, high)


def check_dimension(d: object, name: str = "d") -> int:
    """The dimension d of the paper: an integer of at least 2 (the sphere of d = 1 is two points).

    Raises
    ------
    TypeError
        Not a Python or NumPy integer.
    ValueError
        Less than 2.
    """
    return check_integer(d, name, 2)


def as_rows(x: ArrayLike, d: int | None = None, name: str = "x") -> Rows:
    """The vectors x of the paper, as a checked array of rows in the compute dtype.

    Parameters
    ----------
    x : array_like, shape (..., d)
        float16, float32, float64 or integers of any width and byte order; any layout; it may be read-only.
    d : int, optional
        The dimension that is expected; None takes any of at least 2.
    name : str
        What the messages call the argument.

    Returns
    -------
    ndarray, shape (..., d)
        float32 for float16 and float32, float64 for float64 and integers (those beyond 2**53 are rounded).
        `x` itself where nothing had to be converted: do not write to it.

    Raises
    ------
    TypeError
        Another dtype: bool, complex, string, object, datetime, longdouble, structured.
    ValueError
        No axis, d < 2, another d than expected, rows of different lengths, or a NaN or infinity (the message
        says how many there are and which row has the first).
    """
    try:
        rows = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} is not an array of shape (..., d): {error}") from error
    if rows.dtype.kind not in "iu" and rows.dtype.char not in "efd":
        allowed = "float16, float32, float64 and integers"
        raise TypeError(f"{name} has dtype {rows.dtype}, allowed are {allowed}")
    if rows.ndim == 0:
        raise ValueError(f"{name} is a single number, expected an array of shape (..., d)")
    if rows.shape[-1] < 2 or (d is not None and rows.shape[-1] != d):
        expected = "at least 2" if d is None else f"d = {d}"
        found = f"{rows.shape[-1]} coordinates (its shape is {rows.shape})"
        raise ValueError(f"{name} has vectors of {found}, expected {expected}")
    if rows.dtype.kind == "f":
        finite = np.isfinite(rows)
        if not finite.all():
            nans = int(np.isnan(rows).sum())
            infinite = finite.size - int(finite.sum()) - nans
            where = first_row(~finite.all(axis=-1))
            found = f"{nans} NaN and {infinite} infinite values"
            raise ValueError(f"{name} holds {found}, the first in row {where}; every value must be finite")
    return rows.astype(np.float32 if rows.dtype.char in "ef" else np.float64, copy=False)


def norm_and_unit(x: ArrayLike, name: str = "x") -> tuple[Rows, Rows]:
    """The norm ||x|| that the paper stores and the unit vector x / ||x|| that it quantizes (section 1.3).

    Each row is scaled by the power of two that brings its largest magnitude into [1/2, 1), so that no square
    overflows or vanishes; its squares are summed in float64, and the norm is scaled back. A row's result does
    not depend on the rows beside it or on the layout of `x`, and the unit row of 2**k x is that of x, bit for
    bit.

    Parameters
    ----------
    x : array_like, shape (..., d)
        What `as_rows` takes.
    name : str
        What the messages call the argument.

    Returns
    -------
    norms : ndarray, shape (...)
        Right to a few units in the last place of the compute dtype (a denormal norm: to the nearest one).
    unit : ndarray, shape (..., d)
        Rows of norm 1 to rounding. The zero row has norm 0 and unit row 0.

    Raises
    ------
    TypeError, ValueError
        As `as_rows`; ValueError too where a norm is larger than the largest number of the compute dtype.
    """
    rows = as_rows(x, name=name)
    # C-contiguous and float64 before the sum: np.sum then adds every row in the same pairwise order. Were the
    # cast or the layout left to np.sum, the order would depend on where a row lies in the batch.
    wide = np.ascontiguousarray(rows, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        exponents = np.frexp(np.max(np.abs(wide), axis=-1))[1]
        scaled = np.ldexp(wide, -exponents[..., None])
        lengths = np.sqrt(np.sum(scaled * scaled, axis=-1))
        unit = (scaled / np.where(lengths == 0, 1.0, lengths)[..., None]).astype(rows.dtype)
        norms = np.asarray(np.ldexp(lengths, exponents)).astype(rows.dtype)
    overflow = np.isinf(norms)
    if overflow.any():
        limit = f"the largest {rows.dtype}, {np.finfo(rows.dtype).max:.6g}"
        cure = "scale the data down" if rows.dtype == np.float64 else "pass float64 or scale the data down"
        raise ValueError(f"{name}: the norm of row {first_row(overflow)} exceeds {limit}; {cure}")
    return norms, unit


def first_row(bad: NDArray[np.bool_]) -> int | tuple[int, ...]:
    """The index of the first true row: an int where there is one axis or none, else a tuple."""
    index = tuple(int(i) for i in np.argwhere(np.atleast_1d(bad))[0])
    return index[0] if len(index) == 1 else index
