"""What estimates share: products with norms, row by row and pair by pair, on the device."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _launch
from .vectors import Rows, as_rows, norm_and_unit, plain, sizes, spread

__all__ = ["promoted", "query_of", "times_norms", "times_rows", "weights_of"]


def promoted(*rows: Rows) -> str:
    """The dtype that NumPy computes in where these meet."""
    return str(np.result_type(*(r.dtype for r in rows)))


def query_of(d: int, y: Any, code: Rows) -> tuple[Rows, Any, Any]:
    """The queries y (*A, d), brought to where a code lives, their norms and their unit vectors."""
    rows = as_rows(y, d, "y", code.home)
    return rows, *norm_and_unit(rows, "y")


def times_norms(query: Rows, code: Rows, estimates: Any, query_norms: Any, norms: Any) -> Any:
    """||y_i|| ||x_j|| times the estimates of unit vectors: (*A, *B), for the caller."""
    kernels = plain()
    out = code.empty(query.n, code.n, dtype=promoted(query, code))
    spread(kernels.times_norms, query.n * code.n, code.home, estimates, query_norms, norms, out)
    return code.home.give(out.reshape((*query.shape, *code.shape)))


def times_rows(rows: Rows, values: Any, factors: Any = None, constant: float = 1.0) -> Any:
    """factors[i] * (constant * values[i]) for each row of values (n, k); without factors, constant * values."""
    kernels = plain()
    n, k = sizes(values)
    out = rows.empty(n, k)
    scale = np.dtype(rows.dtype).type(constant)
    use = factors is not None
    spread(kernels.times_rows, n * k, rows.home, values, factors if use else values[0], use, scale, out)
    return out


def weights_of(weights: Any, code: Rows) -> tuple[Rows, Any]:
    """Weights (…, n) over the n vectors of a code, checked: as rows, and on the device.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.codes.as_weights`.
    """
    w = weights if _launch.on_device(weights) else np.ascontiguousarray(weights)
    kind, shape = _launch.name_of(w), sizes(w)
    if kind not in ("float32", "float64"):
        raise TypeError(f"weights: expected float32 or float64, got {kind}")
    if len(code.shape) != 1 or not shape or shape[-1] != code.shape[0]:
        expected = "(…, n) for a code of n vectors"
        raise ValueError(f"weights: expected {expected}, got {shape} and a code of shape {code.shape}")
    array = code.home.take(w)
    rows = Rows(shape[:-1], code.home, str(np.result_type(kind, code.dtype)))
    return rows, array.reshape((rows.n, shape[-1]))
