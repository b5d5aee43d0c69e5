"""Codebooks on the device: the nearest centroid of a coordinate, and the centroid of an index.

A sign is an index of 1 bit, with one boundary, 0, and the centroids -1 and +1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turboquant_ref.codebook import Codebook, lloyd_max

from . import _launch
from .rotation import kept
from .vectors import Rows, device, home_of, plain, sizes, spread

__all__ = ["Codebook", "lloyd_max", "look_up", "nearest", "pm_one", "signs_of"]


def nearest(codebook: Codebook, t: Any) -> Any:
    """argmin_k |t - c_k| as the number of boundaries <= t; as `turboquant_ref.codebook.nearest`."""
    home = home_of(t)
    t = t if _launch.on_device(t) else np.asarray(t)
    shape = sizes(t)
    flat = home.take(t).reshape((int(np.prod(shape)), 1))
    rows = Rows(shape, home, _launch.name_of(t))
    return home.give(cells(codebook, rows, flat).reshape(shape))


def look_up(codebook: Codebook, indices: Any, dtype: Any) -> Any:
    """c_idx in the given dtype; as `turboquant_ref.codebook.look_up`."""
    home = home_of(indices)
    shape = sizes(indices)
    flat = home.take(indices).reshape((int(np.prod(shape)), 1))
    return home.give(centroids_of(codebook, Rows(shape, home, np.dtype(dtype).name), flat).reshape(shape))


def cells(codebook: Codebook, rows: Rows, t: Any) -> Any:
    """The index of each number of t (n, k) on the device, uint8."""
    boundaries = kept(codebook, ("boundaries", rows.dtype), rows.home, lambda: _some(codebook.boundaries, rows.dtype))
    return _nearest(rows.home, boundaries if len(codebook.boundaries) else None, t)


def signs_of(rows: Rows, projection: Any) -> Any:
    """sign(S x) as bits: 1 where it is >= 0, -0 too."""
    return _nearest(rows.home, device(np.zeros(1, rows.dtype), rows.home), projection)


def _some(table: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    return table.astype(dtype) if table.size else np.zeros(1, dtype)


def _nearest(home: _launch.Home, boundaries: Any, t: Any) -> Any:
    kernels = plain()
    n, k = sizes(t)
    if boundaries is None:  # one cell
        return home.take(np.zeros((n, k), np.uint8))
    indices = home.empty((n, k), "uint8")
    spread(kernels.nearest, n * k, home, t.reshape((n * k,)), boundaries, indices.reshape((n * k,)))
    return indices


def centroids_of(codebook: Codebook, rows: Rows, indices: Any) -> Any:
    """c_idx of indices (n, k) on the device, in the compute dtype."""
    return _look_up(rows, table_of(codebook, rows), indices)


def table_of(codebook: Codebook, rows: Rows) -> Any:
    """The centroids on the device, in the compute dtype."""
    return kept(codebook, ("centroids", rows.dtype), rows.home, lambda: codebook.centroids.astype(rows.dtype))


def pm_one(rows: Rows, signs: Any) -> Any:
    """Sign bits (n, m) on the device as -1 and +1."""
    return _look_up(rows, device(np.array([-1, 1], rows.dtype), rows.home), signs)


def _look_up(rows: Rows, table: Any, indices: Any) -> Any:
    kernels = plain()
    n, k = sizes(indices)
    out = rows.empty(n, k)
    spread(kernels.look_up, n * k, rows.home, indices.reshape((n * k,)), table, out.reshape((n * k,)))
    return out
