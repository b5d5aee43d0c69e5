"""The random rotation Pi, compiled: `turboquant_ref.rotation` has the definition, and draws it.

The structured rotation is computed in the reference's order, 16 vectors at a time: its results are the reference's,
bit for bit. A dense one is a matrix product of the BLAS that NumPy uses.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref import rotation as reference
from turboquant_ref.rotation import Dense, Kind, Rotation, Structured, haar, setup, structured
from turboquant_ref.vectors import Rows, as_rows

from . import _lanes
from ._jit import kernel
from ._norms import safely
from .simd import store

__all__ = [
    "Dense",
    "Kind",
    "Rotation",
    "Structured",
    "apply",
    "fwht",
    "haar",
    "inverse",
    "one_round",
    "setup",
    "structured",
    "tables",
]

_kept: WeakKeyDictionary[Any, dict[np.dtype, Any]] = WeakKeyDictionary()


def one_round(d: int, seed: int, stream: int = 0) -> Structured:
    """The structured rotation of one round: signs, the Hadamard transform in chunks and across them, and no planes.

    Half the work of the default, and no safe choice: the image of a sparse vector is a few distinct numbers, whatever
    the signs, so that D of a one-hot vector is up to 2.1 times the bound of Theorem 1 (`Structured` has the figures).
    It is what many ports call "the" Hadamard rotation; for data that is known to be dense.

    Raises
    ------
    TypeError, ValueError
        As `Structured`.
    """
    return Structured(d, seed, stream, rounds=1)


def tables(rotation: Any, dtype: Any) -> Any:
    """What the kernels read of a rotation, in one float type; kept as long as the rotation.

    (chunk, 1 / sqrt 2, signed factors (rounds, d), cosines, sines, pairs of chunks) of a structured one; of a dense
    one the matrix.
    """
    kept = _kept.setdefault(rotation, {})
    dtype = np.dtype(dtype)
    if dtype not in kept:
        if isinstance(rotation, Structured):
            pairs = [np.stack(level, axis=1) for level in rotation.levels]
            kept[dtype] = (
                rotation.chunk,
                np.sqrt(0.5).astype(dtype),
                rotation.signs.astype(dtype) * np.sqrt(1 / rotation.chunk).astype(dtype),
                rotation.cosines.astype(dtype),
                rotation.sines.astype(dtype),
                np.concatenate([*pairs, np.empty((0, 2), np.intp)]),
            )
        else:
            kept[dtype] = rotation.matrix().astype(dtype, copy=False)
    return kept[dtype]


@kernel
def _rotate_rows(x, start, stop, T, turned, to):
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        _lanes.rotate(T, turned)
        _lanes.store_rows(T, to, first, rows)


@kernel
def _unrotate_rows(x, start, stop, T, turned, to):
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        _lanes.unrotate(T, turned)
        _lanes.store_rows(T, to, first, rows)


def _turned(rotation: Structured, rows: Rows, transform: Any) -> Rows:
    flat = np.ascontiguousarray(rows, rows.dtype.newbyteorder("=")).reshape(-1, rotation.d)
    result = np.empty_like(flat)
    turned = tables(rotation, flat.dtype)
    _lanes.blocks(lambda *part: transform(flat, *part, turned, result), len(flat), rotation.d, flat.dtype)
    return result.reshape(rows.shape)


def apply(rotation: Any, x: ArrayLike) -> Rows:
    """Pi x for each row of x (..., d), in the compute dtype.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.vectors.as_rows`.
    """
    rows = as_rows(x, rotation.d)
    if isinstance(rotation, Structured):
        return _turned(rotation, rows, _rotate_rows)
    return np.asarray(rows @ tables(rotation, rows.dtype).T)


@kernel
def _rotate_units(x, start, stop, T, turned, norms, to):
    unusual = 0
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        lengths, bad = _lanes.norms_of(T, x.shape[1])
        unusual |= bad
        _lanes.multiply(T, x.shape[1], _lanes.reciprocal(T, lengths))
        _lanes.rotate(T, turned)
        store(norms, first, lengths)
        _lanes.store_rows(T, to, first, rows)
    return unusual


def of_units(rotation: Structured, rows: Rows, name: str) -> tuple[Rows, Rows]:
    """||x|| (n) and Pi x / ||x|| (n, d) of rows (n, d) that `_norms.rows_of` let pass, in one pass over them.

    What `_norms.norm_and_unit` and `apply` give one after the other, bit for bit.

    Raises
    ------
    ValueError
        As `_norms.safely`.
    """
    flat = np.ascontiguousarray(rows)
    (n, d), turned, result = flat.shape, tables(rotation, flat.dtype), np.empty_like(flat)

    def run(x: Rows) -> tuple[bool, Rows]:
        norms = np.empty(-(-n // 16) * 16, x.dtype)
        parts = _lanes.blocks(lambda *part: _rotate_units(x, *part, turned, norms, result), n, d, x.dtype)
        return any(parts), norms[:n]

    return safely(flat, name, run), result


def inverse(rotation: Any, y: ArrayLike) -> Rows:
    """Pi^T y for each row of y (..., d), in the compute dtype.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.vectors.as_rows`.
    """
    rows = as_rows(y, rotation.d, "y")
    if isinstance(rotation, Structured):
        return _turned(rotation, rows, _unrotate_rows)
    return np.asarray(rows @ tables(rotation, rows.dtype))


@kernel
def _fwht_rows(x, start, stop, T, to):
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        _lanes.fwht(T, 0, x.shape[1])
        _lanes.store_rows(T, to, first, rows)


@kernel
def _fwht_int64(x):
    n, d = x.shape
    for row in range(n):
        s = 1
        while s < d:
            for i in range(0, d, 2 * s):
                for j in range(i, i + s):
                    a, b = x[row, j], x[row, j + s]
                    x[row, j], x[row, j + s] = a + b, a - b
            s *= 2


def fwht(x: NDArray[Any]) -> NDArray[Any]:
    """The Walsh-Hadamard transform along the last axis, unnormalised: the reference's, bit for bit.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.rotation.fwht`.
    """
    reference.fwht(x[..., :0, :] if isinstance(x, np.ndarray) and x.ndim > 1 else x)  # its checks, and no work
    flat = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    result = np.empty_like(flat)
    if flat.dtype == np.int64:
        result[:] = flat
        _fwht_int64(result)
    else:
        _lanes.blocks(lambda *part: _fwht_rows(flat, *part, result), len(flat), flat.shape[1], flat.dtype)
    return result.reshape(x.shape)
