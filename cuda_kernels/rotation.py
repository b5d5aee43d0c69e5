"""The rotation Pi on the device: `apply` and `inverse` of the reference's `Structured` and `Dense`, for many rows.

    Structured   O(d log d): rounds of signs and Hadamard butterflies, a layer of plane rotations between two
    Dense        a matrix product

The objects are the reference's; this module computes with them. `one_round` is the structured rotation without its
second round and its planes: half the work, and not safe on sparse vectors (`turboquant_ref.rotation.Structured` has the
figures), so that it has a name of its own.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from turboquant_ref.generator import seed_of
from turboquant_ref.rotation import Dense, Kind, Rotation, Structured, haar, setup, structured

from . import _launch
from .vectors import Rows, as_rows, device, home_of, launch, plain, result, sizes

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
    "turn",
    "turn_back",
]

_tables: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def one_round(d: int, rng: int | np.random.Generator, stream: int = 0) -> Structured:
    """The structured rotation with one round: random signs and one Hadamard transform, nothing else.

    Sparse vectors break the bound of Theorem 1 under it, by a factor of 2 at d = 128.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.rotation.structured`.
    """
    return Structured(d, seed_of(rng), stream, rounds=1)


def fwht(x: Any) -> Any:
    """The Walsh-Hadamard transform H x along the last axis, unnormalised; as `turboquant_ref.rotation.fwht`.

    Raises
    ------
    TypeError, ValueError
        Not an array of int64, float32 or float64, or its last axis is no power of two.
    """
    if not _launch.on_device(x) and not isinstance(x, np.ndarray):
        raise TypeError(f"x must be an array of int64, float32 or float64, got a {type(x).__name__}")
    home, shape = home_of(x), sizes(x)
    n = shape[-1] if shape else 0
    dtype = _launch.name_of(x)
    if dtype not in ("int64", "float32", "float64"):
        raise TypeError(f"x must be an array of int64, float32 or float64, got dtype {dtype}")
    if n == 0 or n & (n - 1):
        raise ValueError(f"x must have a power of two as its last axis, got shape {shape}")
    rows = home.take(x).reshape((int(np.prod(shape[:-1])), n))
    out = home.empty((int(np.prod(shape[:-1])), n), dtype)
    launch(plain().transform, int(np.prod(shape[:-1])), home, rows, out)
    return home.give(out.reshape(shape))


def apply(rotation: Rotation, x: Any) -> Any:
    """Pi x for each row of x (..., d), in the compute dtype.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.rotation.Structured.apply`.
    """
    rows = as_rows(x, rotation.d)
    return result(rows, turn(rotation, rows, rows.array), rotation.d)


def inverse(rotation: Rotation, y: Any) -> Any:
    """Pi^T y for each row of y (..., d), in the compute dtype."""
    rows = as_rows(y, rotation.d, "y")
    return result(rows, turn_back(rotation, rows, rows.array), rotation.d)


def kept(owner: Any, what: Any, home: _launch.Home, make: Any) -> Any:
    """A table that belongs to `owner`, on the current device, made once."""
    number = 0 if _launch.simulated() else _launch.ready().get_current_device().id
    tables = _tables.setdefault(owner, {})
    key = (what, number, type(home))
    if key not in tables:
        made = make()
        tables[key] = tuple(device(a, home) for a in made) if isinstance(made, tuple) else device(made, home)
    return tables[key]


def _structured_tables(rotation: Structured, dtype: str) -> tuple[np.ndarray[Any, Any], ...]:
    factors = rotation.signs.astype(dtype) * np.sqrt(1 / rotation.chunk).astype(dtype)
    # an empty table has a row that no kernel reads: a device array of no bytes has no address
    planes = [t.astype(dtype) if t.size else np.zeros((1, 1), dtype) for t in (rotation.cosines, rotation.sines)]
    sizes = [len(first) for first, _ in rotation.levels]
    pairs = np.concatenate([np.stack(level) for level in rotation.levels] or [np.zeros((2, 1))], axis=1)
    return factors, *planes, pairs.astype(np.int32), np.cumsum([0, *sizes]).astype(np.int32)


def turn(rotation: Rotation, rows: Rows, x: Any) -> Any:
    """Pi x for rows (n, d) on the device."""
    return _turn(rotation, rows, x, "rotate")


def turn_back(rotation: Rotation, rows: Rows, y: Any) -> Any:
    """Pi^T y for rows (n, d) on the device."""
    return _turn(rotation, rows, y, "rotate_back")


def _turn(rotation: Rotation, rows: Rows, x: Any, way: str) -> Any:
    kernels = plain()
    dtype = rows.dtype
    if isinstance(rotation, Structured):
        out = rows.empty(*x.shape)
        tables = kept(rotation, dtype, rows.home, lambda: _structured_tables(rotation, dtype))
        root = np.sqrt(0.5).astype(dtype)
        launch(getattr(kernels, way), rows.n, rows.home, x, *tables, rotation.chunk, root, out)
        return out
    matrix = kept(rotation, (dtype, way), rows.home, lambda: _matrix(rotation, way).astype(dtype))
    return product(rows, x, matrix)


def _matrix(rotation: Rotation, way: str) -> np.ndarray[Any, Any]:
    return rotation.matrix().T if way == "rotate" else rotation.matrix()


def product(rows: Rows, a: Any, b: Any, dtype: str | None = None) -> Any:
    """a b for matrices (n, k) and (k, m) on the device, in the compute dtype or the one given."""
    kernels = plain()
    out = rows.empty(a.shape[0], b.shape[1], dtype=dtype)
    tile = kernels.TILE
    grid = (_launch.blocks(b.shape[1], tile), _launch.blocks(a.shape[0], tile))
    _launch.plain(kernels.product, grid, (tile, tile), rows.home, a, b, out)
    return out
