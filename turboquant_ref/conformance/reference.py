"""turboquant_ref as a subject of its own kit: the functions of CHECK.md over the reference.

``turboquant-ref check turboquant_ref.conformance.reference``; and the example to copy for an adapter of your own.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import codebook as codebooks
from .. import generator, packing
from .. import mse as mse_module
from .. import prod as prod_module
from .. import qjl as qjl_module
from .. import rotation as rotations

__all__ = [
    "codebook",
    "fwht",
    "index",
    "inner_product",
    "mse",
    "pack",
    "prod",
    "qjl",
    "rotation",
    "roundtrip",
    "signs",
    "stored_bytes",
    "unpack",
]

Reals = NDArray[np.floating[Any]]
Stages = dict[str, NDArray[Any]]


def roundtrip(x: ArrayLike, bits: int, seed: int) -> Reals:
    """Algorithm 1: (n, d) to (n, d)."""
    Q = mse_module.setup(np.shape(x)[-1], bits, seed)
    return mse_module.dequantize(Q, mse_module.quantize(Q, x))


def inner_product(x: ArrayLike, y: ArrayLike, bits: int, seed: int) -> Reals:
    """Algorithm 2: estimates of <x_i, y_i>, (n,)."""
    Q = prod_module.setup(np.shape(x)[-1], bits, seed)
    decoded = prod_module.dequantize(Q, prod_module.quantize(Q, x))
    return np.asarray((decoded * np.asarray(y)).sum(-1))


def rotation(d: int, seed: int) -> NDArray[np.float64]:
    """Pi as a matrix."""
    return rotations.haar(d, seed).matrix()


def codebook(d: int, bits: int) -> NDArray[np.float64]:
    """The centroids."""
    return codebooks.lloyd_max(d, bits).centroids


def stored_bytes(d: int, bits: int) -> int:
    """Bytes of a vector of `roundtrip`."""
    return (d * bits + 7) // 8 + 4


def pack(indices: ArrayLike, bits: int) -> NDArray[np.uint8]:
    """(n, d) indices to bytes."""
    return packing.pack_bits(indices, bits)


def unpack(data: ArrayLike, bits: int, d: int) -> NDArray[np.uint8]:
    """Bytes to (n, d) indices."""
    return packing.unpack_bits(data, bits, d)


def fwht(x: Reals) -> Reals:
    """The Walsh-Hadamard transform."""
    return rotations.fwht(cast(NDArray[np.float64], x))


def signs(seed: int, stream: int, n: int) -> NDArray[np.int8]:
    """Seeded signs."""
    return generator.signs(seed, stream, n)


def index(t: Reals, d: int, bits: int) -> NDArray[np.uint8]:
    """Indices of coordinates of a unit vector in R^d."""
    return codebooks.nearest(codebooks.lloyd_max(d, bits), t)


def _sketch(sketch: ArrayLike, kind: str) -> qjl_module.Sketch:
    matrix = np.asarray(sketch, dtype=np.float64)
    return qjl_module.Sketch(matrix.shape[1], matrix.shape[0], kind, matrix, (), "given")


def mse(x: ArrayLike, bits: int, rotation: ArrayLike, scale: str) -> Stages:
    """Every stage of Algorithm 1."""
    pi = rotations.Dense(cast(NDArray[np.float64], rotation))
    return mse_module.trace(mse_module.Quantizer(pi, codebooks.lloyd_max(pi.d, bits), scale), x)


def qjl(x: ArrayLike, sketch: ArrayLike, kind: str) -> Stages:
    """Every stage of QJL."""
    return qjl_module.trace(qjl_module.Quantizer(_sketch(sketch, kind)), x)


def prod(x: ArrayLike, bits: int, rotation: ArrayLike, sketch: ArrayLike, kind: str, residual: str) -> Stages:
    """Every stage of Algorithm 2."""
    pi = rotations.Dense(cast(NDArray[np.float64], rotation))
    book = codebooks.lloyd_max(pi.d, bits - 1)
    return prod_module.trace(prod_module.Quantizer(pi, book, _sketch(sketch, kind), residual), x)
