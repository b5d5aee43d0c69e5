"""The objects that a group of golden vectors gives: Pi, S and codebook, from a file's parameters.

Products with a dense matrix, and sums over codes, are summed term by term in the order of the columns, so that
the files that `generate` writes do not depend on a BLAS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import codebook as codebooks
from .. import codes, mse, qjl, sphere
from .. import rotation as rotations
from ..vectors import as_rows, norm_and_unit
from .golden import reals

__all__ = [
    "OrderedQuantizer",
    "codebook",
    "inner_product",
    "matrix",
    "rotation",
    "sketch",
    "to_original",
    "weighted_sum",
]

Reals = NDArray[np.floating[Any]]


def ordered_product(x: Reals, matrix: Reals) -> Reals:
    """M x for each row, in the dtype of x: terms added one by one, first column first."""
    columns = matrix.astype(x.dtype)
    total = x[..., :1] * columns[:, 0]
    for j in range(1, x.shape[-1]):
        total = total + x[..., j : j + 1] * columns[:, j]
    return np.asarray(total)


class OrderedDense(rotations.Dense):
    """`rotation.Dense`, its products in a fixed order."""

    def apply(self, x: ArrayLike) -> Reals:
        """Pi x for each row."""
        return ordered_product(as_rows(x, self.d), self.values)

    def inverse(self, y: ArrayLike) -> Reals:
        """Pi^T y for each row."""
        return ordered_product(as_rows(y, self.d, "y"), self.values.T)


@dataclass(frozen=True, eq=False)
class OrderedSketch(qjl.Sketch):
    """`qjl.Sketch` of a given matrix, its products in a fixed order."""

    def apply(self, x: Reals) -> Reals:
        """S x for every row."""
        assert self.gaussian is not None
        return ordered_product(x, self.gaussian)

    def transpose(self, z: Reals) -> Reals:
        """S^T z for every row."""
        assert self.gaussian is not None
        return ordered_product(z, self.gaussian.T)


def rotation(parameters: Mapping[str, Any], d: int) -> rotations.Rotation:
    """Pi: {"kind": "dense", "matrix"} or {"kind": "structured", "seed", "stream"}."""
    if parameters["kind"] == "dense":
        return OrderedDense(reals(parameters["matrix"]))
    return _structured(d, int(parameters["seed"], 16), int(parameters["stream"]))


@lru_cache(maxsize=64)
def _structured(d: int, seed: int, stream: int) -> rotations.Structured:
    return rotations.Structured(d, seed, stream)


def matrix(of: rotations.Rotation) -> NDArray[np.float64]:
    """Pi as a matrix, computed once for a structured one."""
    return _matrix(of.d, of.seed, of.stream) if isinstance(of, rotations.Structured) else of.matrix()


@lru_cache(maxsize=64)
def _matrix(d: int, seed: int, stream: int) -> NDArray[np.float64]:
    dense = _structured(d, seed, stream).matrix()
    dense.flags.writeable = False
    return dense


def sketch(group: Mapping[str, Any]) -> qjl.Sketch:
    """S: a dense matrix, or the blocks of an orthogonal one from a seed, block k of stream "stream" + k."""
    d, m, kind, given = group["d"], group["m"], group["sketchKind"], group["sketch"]
    if given["kind"] == "dense":
        return OrderedSketch(d, m, kind, reals(given["matrix"]), (), "given")
    seed = int(given["seed"], 16)
    blocks = tuple(_structured(d, seed, given["stream"] + k) for k in range(-(-m // d)))
    return qjl.Sketch(d, m, kind, None, blocks, "seeded")


def codebook(group: Mapping[str, Any]) -> codebooks.Codebook:
    """The codebook of the centroids in the file; that of 0 bits if there are none."""
    if not group["centroids"]:
        return codebooks.lloyd_max(group["d"], 0)
    return codebooks.of_centroids(sphere.law(group["d"]), reals(group["centroids"]))


@dataclass(frozen=True, eq=False)
class OrderedQuantizer(mse.Quantizer):
    """`mse.Quantizer` for attention: its verbs are those of this module, their sums in a fixed order."""


def inner_product(Q: OrderedQuantizer, y: ArrayLike, code: mse.MSECode) -> Reals:
    """Estimates of <y, x> for every pair, as `mse.inner_product`."""
    norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    centroids = codebooks.look_up(Q.codebook, code.indices, code.scales.dtype)
    return codes.times_norms(ordered_product(Q.rotation.apply(query), centroids), norms, code.scales)


def weighted_sum(Q: OrderedQuantizer, weights: Reals, code: mse.MSECode) -> Reals:
    """sum_j w_j x~_j, left in the rotated basis."""
    centroids = codebooks.look_up(Q.codebook, code.indices, code.scales.dtype)
    return ordered_product(weights * code.scales, centroids.T)


def to_original(Q: OrderedQuantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis."""
    return Q.rotation.inverse(total)
