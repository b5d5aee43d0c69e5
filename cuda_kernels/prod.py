"""TurboQuant_prod, Algorithm 2, on a GPU: the names and signatures of `turboquant_ref.prod`.

    Quant     idx <- Quant_mse(x), b - 1 bits;  r <- x - DeQuant_mse(idx);  qjl <- sign(S r);  gamma <- ||r||
    DeQuant   x~ <- DeQuant_mse(idx) + gamma S^T qjl / (m mu)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turboquant_ref.codes import check_code
from turboquant_ref.packing import Packed
from turboquant_ref.prod import RESIDUALS, ProdCode, Quantizer, setup

from .codebook import cells, centroids_of, pm_one, signs_of
from .packing import pack_record, unpack_record
from .prepared import encode, prepare, to_packed
from .qjl import added, project, project_back
from .rotation import product, turn, turn_back
from .scores import promoted, query_of, times_norms, times_rows, weights_of
from .vectors import Rows, as_rows, device, norm_and_unit, of_code, plain, result, sizes, spread

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


def steps(Q: Quantizer, x: Any) -> tuple[Rows, dict[str, Any]]:
    """The lines of Quant_prod, by name, on the device."""
    kernels = plain()
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = turn(Q.rotation, rows, unit)
    indices = cells(Q.codebook, rows, rotated)  # line 5: idx <- Quant_mse(x)
    centroids = centroids_of(Q.codebook, rows, indices)
    stage1 = turn_back(Q.rotation, rows, centroids) if Q.codebook.bits else _nothing(rows, Q.d)
    residual = rows.empty(rows.n, Q.d)
    spread(kernels.rest, rows.n * Q.d, rows.home, unit, stage1, norms, residual)  # line 6: r <- x - DeQuant_mse(idx)
    if Q.stores_residual:
        residual_norms = norm_and_unit(Rows(rows.shape, rows.home, rows.dtype, residual))[0]
    else:
        residual_norms = _expected(Q, rows, norms)
    projection = project(Q.sketch, rows, residual)
    return rows, {
        "norm": norms,
        "unit": unit,
        "rotated": rotated,
        "indices": indices,
        "centroids": centroids,
        "stage1": stage1,
        "residual": residual,
        "residual_norm": residual_norms,
        "projection": projection,
        "signs": signs_of(rows, projection),  # line 7: qjl <- sign(S r)
    }


def _nothing(rows: Rows, d: int) -> Any:
    """The empty first stage, at b = 1."""
    return device(np.zeros((rows.n, d), rows.dtype), rows.home)


def _expected(Q: Quantizer, rows: Rows, norms: Any) -> Any:
    """sqrt(D_mse(d, b - 1)) for every vector but the zero vector's 0."""
    kernels = plain()
    out = rows.empty(rows.n)
    spread(kernels.fill, rows.n, rows.home, norms, np.dtype(rows.dtype).type(Q.expected_residual), out)
    return out


def quantize(Q: Quantizer, x: Any) -> ProdCode:
    """Algorithm 2, Quant_prod; the code's arrays live where `x` does.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.prod.quantize`.
    """
    rows, s = steps(Q, x)
    indices, signs = result(rows, s["indices"], Q.d), result(rows, s["signs"], Q.m)
    return ProdCode(indices, signs, result(rows, s["norm"]), result(rows, s["residual_norm"]), Q.fingerprint)


def _sketched(Q: Quantizer, rows: Rows, signs: Any, residual_norms: Any) -> Any:
    """gamma qjl / (m mu): what S^T decodes, and what queries meet."""
    return times_rows(rows, pm_one(rows, signs), residual_norms, Q.sketch.constant)


def _decoded(Q: Quantizer, rows: Rows, indices: Any, signs: Any, norms: Any, residual_norms: Any) -> Any:
    stage1 = turn_back(Q.rotation, rows, centroids_of(Q.codebook, rows, indices))  # line 10
    back = project_back(Q.sketch, rows, pm_one(rows, signs))
    stage2 = times_rows(rows, back, residual_norms, Q.sketch.constant)  # line 11
    return times_rows(rows, added(rows, stage1, stage2), norms)


def dequantize(Q: Quantizer, code: ProdCode) -> Any:
    """Algorithm 2, DeQuant_prod: ||x|| (Pi^T c[idx] + gamma S^T qjl / (m mu)), (…, d)."""
    check_code(Q, code, ProdCode)
    rows, a = of_code(code, "norms")
    return result(rows, _decoded(Q, rows, a["indices"], a["signs"], a["norms"], a["residual_norms"]), Q.d)


def inner_product(Q: Quantizer, y: Any, code: ProdCode) -> Any:
    """Unbiased estimates of <y, x> for every pair: ||x|| (<Pi y, c[idx]> + gamma <S y, qjl> / (m mu)), (*A, *B)."""
    check_code(Q, code, ProdCode)
    rows, a = of_code(code, "norms", y)
    queries, query_norms, query = query_of(Q.d, y, rows)
    dtype = promoted(queries, rows)
    wide = Rows(rows.shape, rows.home, dtype)
    centroids = centroids_of(Q.codebook, rows, a["indices"])
    stage1 = product(rows, turn(Q.rotation, queries, query), centroids.T, dtype)
    sketched = _sketched(Q, rows, a["signs"], a["residual_norms"])
    stage2 = product(rows, project(Q.sketch, queries, query), sketched.T, dtype)
    return times_norms(queries, rows, added(wide, stage1, stage2), query_norms, a["norms"])


def weighted_sum(Q: Quantizer, weights: Any, code: ProdCode) -> Any:
    """sum_j w_j x~_j for each row of weights (…, n), in the rotated basis and the sketch's: (…, d + m)."""
    kernels = plain()
    check_code(Q, code, ProdCode)
    rows, a = of_code(code, "norms", weights)
    sums, w = weights_of(weights, rows)
    out = sums.empty(sums.n, Q.d + Q.m)
    one = np.dtype(sums.dtype).type(1)
    stage1 = centroids_of(Q.codebook, rows, a["indices"])
    for start, part in ((0, stage1), (Q.d, _sketched(Q, rows, a["signs"], a["residual_norms"]))):
        total = product(rows, w, times_rows(rows, part, a["norms"]), sums.dtype)
        spread(kernels.into_columns, sums.n * int(total.shape[1]), rows.home, total, one, start, out)
    return result(sums, out, Q.d + Q.m)


def to_original(Q: Quantizer, total: Any) -> Any:
    """A `weighted_sum` in the original basis: Pi^T of its first d numbers plus S^T of the others."""
    kernels = plain()
    rows = as_rows(total, Q.d + Q.m, "total")
    parts = []
    for start, width in ((0, Q.d), (Q.d, Q.m)):
        part = rows.empty(rows.n, width)
        spread(kernels.from_columns, rows.n * width, rows.home, rows.array, start, part)
        parts.append(part)
    back = turn_back(Q.rotation, rows, parts[0]), project_back(Q.sketch, rows, parts[1])
    return result(rows, added(rows, *back), Q.d)


def trace(Q: Quantizer, x: Any) -> dict[str, Any]:
    """Every line of Algorithm 2 by name, in order.

    x, norm, unit, rotated, indices, centroids, stage1, residual, residual_norm, projection, signs, decoded.
    """
    rows, s = steps(Q, x)
    decoded = _decoded(Q, rows, s["indices"], s["signs"], s["norm"], s["residual_norm"])
    s = {"x": rows.array, **s, "decoded": decoded}
    return {name: result(rows, a, *sizes(a)[1:]) for name, a in s.items()}


def pack(Q: Quantizer, code: ProdCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d indices of b - 1 bits, m sign bits, then the norm and, if it is stored, gamma."""
    check_code(Q, code, ProdCode)
    values = [code.norms, code.residual_norms] if Q.stores_residual else [code.norms]
    return pack_record(Q.record, [code.indices, code.signs], values, scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> ProdCode:
    """The inverse of `pack`, up to the rounding of the norms."""
    (indices, signs), (norms, *rest) = unpack_record(Q.record, packed, Q.fingerprint)
    if rest:
        return ProdCode(indices, signs, norms, rest[0], Q.fingerprint)
    rows, a = of_code(ProdCode(indices, signs, norms, norms, Q.fingerprint), "norms")
    return ProdCode(indices, signs, norms, result(rows, _expected(Q, rows, a["norms"])), Q.fingerprint)
