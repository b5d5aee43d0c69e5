"""QJL, the 1-bit sketch, compiled: the words of `turboquant_ref.qjl`, whose quantizers and codes these are.

Equal to the reference by the contract: a sign wherever its projection is farther from 0 than rounding. S x is the
BLAS's for a Gaussian S, and that of `rotation` for an orthogonal one.
"""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.codes import as_weights, check_code, outer_product, times_norms
from turboquant_ref.packing import Packed, check_scalars
from turboquant_ref.qjl import SKETCHES, QJLCode, Quantizer, Sketch, setup, sketch
from turboquant_ref.vectors import Rows

from . import packing, rotation
from ._indices import encoded
from ._norms import norm_and_unit, rows_of
from .layout import Prepared, prepare, to_packed

__all__ = [
    "SKETCHES",
    "QJLCode",
    "Quantizer",
    "Sketch",
    "apply",
    "dequantize",
    "encode",
    "inner_product",
    "pack",
    "pm_one",
    "prepare",
    "quantize",
    "setup",
    "signs_of",
    "sketch",
    "to_original",
    "to_packed",
    "trace",
    "transpose",
    "unpack",
    "weighted_sum",
]

Reals = NDArray[Any]

_kept: WeakKeyDictionary[Sketch, dict[np.dtype, Reals]] = WeakKeyDictionary()


def _gaussian(S: Sketch, dtype: np.dtype) -> Reals:
    kept = _kept.setdefault(S, {})
    if dtype not in kept:
        kept[dtype] = S.matrix().astype(dtype, copy=False)
    return kept[dtype]


def apply(S: Sketch, x: Rows) -> Rows:
    """S x for every row: (…, d) to (…, m)."""
    if S.gaussian is not None:
        return np.asarray(x @ _gaussian(S, x.dtype).T)
    parts = [rotation.apply(block, x) for block in S.blocks]
    return np.asarray(np.concatenate(parts, axis=-1)[..., : S.m] * x.dtype.type(math.sqrt(S.d)))


def transpose(S: Sketch, z: Rows) -> Rows:
    """S^T z for every row: (…, m) to (…, d)."""
    if S.gaussian is not None:
        return np.asarray(z @ _gaussian(S, z.dtype))
    padded = np.zeros((*z.shape[:-1], len(S.blocks) * S.d), z.dtype)
    padded[..., : S.m] = z
    parts = np.split(padded, len(S.blocks), axis=-1)
    total = sum(rotation.inverse(block, part) for block, part in zip(S.blocks, parts, strict=True))
    return np.asarray(total * z.dtype.type(math.sqrt(S.d)))


def signs_of(projection: Reals) -> NDArray[np.uint8]:
    """sign(S x) as bits: 1 for +1, 0 for -1; sign(0) = +1, for -0 too."""
    return (projection >= 0).view(np.uint8)


def pm_one(signs: NDArray[np.uint8], dtype: Any) -> Reals:
    """Sign bits as -1 and +1."""
    return np.array([-1, 1], dtype)[signs]


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = rows_of(x, Q.d)
    norms, unit = norm_and_unit(rows)
    projection = apply(Q.sketch, unit)
    return {"x": rows, "norm": norms, "unit": unit, "projection": projection, "signs": signs_of(projection)}


def quantize(Q: Quantizer, x: ArrayLike) -> QJLCode:
    """Q_qjl(x) = sign(S x), and ||x||, of vectors (…, d).

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.qjl.quantize`.
    """
    steps = _quantize(Q, x)
    return QJLCode(steps["signs"], steps["norm"], Q.fingerprint)


def dequantize(Q: Quantizer, code: QJLCode) -> Reals:
    """Q_qjl^-1(z) = ||x|| S^T z / (m mu), (…, d) in the type of the norms.

    Raises
    ------
    TypeError, ValueError
        If `code` is not a `QJLCode` of this quantizer.
    """
    check_code(Q, code, QJLCode)
    z = pm_one(code.signs, code.norms.dtype)
    return np.asarray(code.norms[..., None] * (z.dtype.type(Q.sketch.constant) * transpose(Q.sketch, z)))


def inner_product(Q: Quantizer, y: ArrayLike, code: QJLCode) -> Reals:
    """Unbiased estimates of <y, x>, (*A, *B) for queries (*A, d) and a code of shape B.

    Raises
    ------
    TypeError, ValueError
        For a bad query or a code of another quantizer.
    """
    check_code(Q, code, QJLCode)
    query_norms, query = norm_and_unit(rows_of(y, Q.d, "y"), "y")
    z = pm_one(code.signs, code.norms.dtype)
    estimates = outer_product(apply(Q.sketch, query), z) * z.dtype.type(Q.sketch.constant)
    return times_norms(estimates, query_norms, code.norms)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: QJLCode) -> Reals:
    """sum_j w_j x~_j for each row of weights (…, n), left in the sketch's m coordinates: (…, m).

    Raises
    ------
    TypeError, ValueError
        For weights of another shape or type, or a code of another quantizer.
    """
    check_code(Q, code, QJLCode)
    w = as_weights(weights, code.norms.shape)
    z = pm_one(code.signs, code.norms.dtype)
    return np.asarray((w * (code.norms * z.dtype.type(Q.sketch.constant))) @ z)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: S^T of it."""
    return transpose(Q.sketch, total)


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every step by name: x, norm, unit, projection, signs, decoded."""
    steps = _quantize(Q, x)
    code = QJLCode(steps["signs"], steps["norm"], Q.fingerprint)
    return {**steps, "decoded": dequantize(Q, code)}


def pack(Q: Quantizer, code: QJLCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: m sign bits, then the norm as `scalars`.

    Raises
    ------
    TypeError, ValueError
        For a code of another quantizer, an unknown scalar dtype, or a norm outside its normal range.
    """
    check_code(Q, code, QJLCode)
    return packing.pack_record(Q.record, [code.signs], [code.norms], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> QJLCode:
    """The inverse of `pack`, up to the rounding of the norm.

    Raises
    ------
    TypeError, ValueError
        For what is not a `Packed`, bytes of another quantizer, of the wrong length, or impossible ones.
    """
    (signs,), (norms,) = packing.unpack_record(Q.record, packed, Q.fingerprint)
    return QJLCode(signs, norms, Q.fingerprint)


def encode(Q: Quantizer, x: ArrayLike, scalars: str | None = None) -> Prepared:
    """Vectors (…, d) to this backend's Prepared form: ``prepare(Q, pack(Q, quantize(Q, x), scalars))``.

    Raises
    ------
    TypeError, ValueError
        As `quantize` and `pack`.
    """
    scalars = check_scalars("float32" if scalars is None else scalars)
    code = quantize(Q, x)
    return encoded(Q, [code.signs], [code.norms], scalars)
