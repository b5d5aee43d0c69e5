"""TurboQuant_prod, Algorithm 2, compiled: the words of `turboquant_ref.prod`, whose quantizers and codes these are.

Equal to the reference by the contract, stage by stage: `mse` says how its first stage is equal, `qjl` its second.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.codes import as_weights, check_code, outer_product, times_norms
from turboquant_ref.packing import Packed, check_scalars
from turboquant_ref.prod import RESIDUALS, ProdCode, Quantizer, setup

from . import packing, qjl, rotation
from ._indices import encoded, look_up, nearest
from ._norms import norm_and_unit, rows_of
from .layout import Prepared, prepare, to_packed

__all__ = [
    "RESIDUALS",
    "ProdCode",
    "Quantizer",
    "dequantize",
    "encode",
    "inner_product",
    "pack",
    "prepare",
    "quantize",
    "setup",
    "to_original",
    "to_packed",
    "trace",
    "unpack",
    "weighted_sum",
]

Reals = NDArray[Any]


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = rows_of(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = rotation.apply(Q.rotation, unit)
    indices = nearest(Q.codebook, rotated)[0]  # line 5: idx <- Quant_mse(x)
    centroids = look_up(Q.codebook, indices, rotated.dtype)
    stage1 = rotation.inverse(Q.rotation, centroids) if Q.codebook.bits else np.zeros_like(unit)
    residual = np.where(norms[..., None] > 0, unit - stage1, 0)  # line 6: r <- x - DeQuant_mse(idx)
    if Q.stores_residual:
        residual_norms = norm_and_unit(residual)[0]
    else:
        residual_norms = np.where(norms > 0, Q.expected_residual, 0).astype(norms.dtype)
    projection = qjl.apply(Q.sketch, residual)
    return {
        "x": rows,
        "norm": norms,
        "unit": unit,
        "rotated": rotated,
        "indices": indices,
        "centroids": centroids,
        "stage1": stage1,
        "residual": residual,
        "residual_norm": residual_norms,
        "projection": projection,
        "signs": qjl.signs_of(projection),  # line 7: qjl <- sign(S r)
    }


def _code(Q: Quantizer, steps: dict[str, Any]) -> ProdCode:
    return ProdCode(steps["indices"], steps["signs"], steps["norm"], steps["residual_norm"], Q.fingerprint)


def quantize(Q: Quantizer, x: ArrayLike) -> ProdCode:
    """Algorithm 2, Quant_prod, of vectors (…, d).

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.prod.quantize`.
    """
    return _code(Q, _quantize(Q, x))


def _sketch_scale(Q: Quantizer, code: ProdCode) -> Reals:
    return np.asarray(code.residual_norms * code.norms.dtype.type(Q.sketch.constant))


def dequantize(Q: Quantizer, code: ProdCode) -> Reals:
    """Algorithm 2, DeQuant_prod: ||x|| (Pi^T c[idx] + gamma S^T qjl / (m mu)), (…, d) in the type of the norms.

    Raises
    ------
    TypeError, ValueError
        If `code` is not a `ProdCode` of this quantizer.
    """
    check_code(Q, code, ProdCode)
    dtype = code.norms.dtype
    stage1 = rotation.inverse(Q.rotation, look_up(Q.codebook, code.indices, dtype))  # line 10
    stage2 = _sketch_scale(Q, code)[..., None] * qjl.transpose(Q.sketch, qjl.pm_one(code.signs, dtype))  # line 11
    return np.asarray(code.norms[..., None] * (stage1 + stage2))


def inner_product(Q: Quantizer, y: ArrayLike, code: ProdCode) -> Reals:
    """Unbiased estimates of <y, x>, (*A, *B) for queries (*A, d) and a code of shape B.

    Raises
    ------
    TypeError, ValueError
        For a bad query or a code of another quantizer.
    """
    check_code(Q, code, ProdCode)
    query_norms, query = norm_and_unit(rows_of(y, Q.d, "y"), "y")
    dtype = code.norms.dtype
    stage1 = outer_product(rotation.apply(Q.rotation, query), look_up(Q.codebook, code.indices, dtype))
    stage2 = outer_product(qjl.apply(Q.sketch, query), qjl.pm_one(code.signs, dtype)) * _sketch_scale(Q, code)
    return times_norms(stage1 + stage2, query_norms, code.norms)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: ProdCode) -> Reals:
    """sum_j w_j x~_j for each row of weights (…, n), in the rotated basis and the sketch's: (…, d + m).

    Raises
    ------
    TypeError, ValueError
        For weights of another shape or type, or a code of another quantizer.
    """
    check_code(Q, code, ProdCode)
    w = as_weights(weights, code.norms.shape)
    w = w * code.norms
    dtype = code.norms.dtype
    stage1 = w @ look_up(Q.codebook, code.indices, dtype)
    stage2 = (w * _sketch_scale(Q, code)) @ qjl.pm_one(code.signs, dtype)
    return np.concatenate([stage1, stage2], axis=-1)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: Pi^T of its first d numbers plus S^T of the others."""
    first, second = np.split(total, [Q.d], axis=-1)
    return np.asarray(rotation.inverse(Q.rotation, first) + qjl.transpose(Q.sketch, second))


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every line of Algorithm 2 by name, as `turboquant_ref.prod.trace`."""
    steps = _quantize(Q, x)
    return {**steps, "decoded": dequantize(Q, _code(Q, steps))}


def pack(Q: Quantizer, code: ProdCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d indices of b - 1 bits, m sign bits, then the norm and, if it is stored, gamma.

    Raises
    ------
    TypeError, ValueError
        For a code of another quantizer, an unknown scalar dtype, or a norm outside its normal range.
    """
    check_code(Q, code, ProdCode)
    return packing.pack_record(Q.record, [code.indices, code.signs], _values(Q, code), scalars, Q.fingerprint)


def _values(Q: Quantizer, code: ProdCode) -> list[Reals]:
    return [code.norms, code.residual_norms] if Q.stores_residual else [code.norms]


def unpack(Q: Quantizer, packed: Packed) -> ProdCode:
    """The inverse of `pack`, up to the rounding of the norms.

    Raises
    ------
    TypeError, ValueError
        For what is not a `Packed`, bytes of another quantizer, of the wrong length, or impossible ones.
    """
    (indices, signs), (norms, *rest) = packing.unpack_record(Q.record, packed, Q.fingerprint)
    if rest:
        (residual_norms,) = rest
    else:
        residual_norms = np.where(norms > 0, Q.expected_residual, 0).astype(norms.dtype)
    return ProdCode(indices, signs, norms, residual_norms, Q.fingerprint)


def encode(Q: Quantizer, x: ArrayLike, scalars: str | None = None) -> Prepared:
    """Vectors (…, d) to this backend's Prepared form: ``prepare(Q, pack(Q, quantize(Q, x), scalars))``.

    Raises
    ------
    TypeError, ValueError
        As `quantize` and `pack`.
    """
    scalars = check_scalars("float32" if scalars is None else scalars)
    code = quantize(Q, x)
    return encoded(Q, [code.indices, code.signs], _values(Q, code), scalars)
