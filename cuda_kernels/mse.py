"""TurboQuant_mse, Algorithm 1, on a GPU: the names and signatures of `turboquant_ref.mse`.

    Quant     y <- Pi x;  idx_j <- argmin_k |y_j - c_k|
    DeQuant   y~_j <- c_{idx_j};  x~ <- Pi^T y~

Here each line is a plain kernel that leaves its stage in memory. `encode` and `quantize` take the whole of Quant in one
pass over x instead, where they can, by the fast kernels of `quantize`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turboquant_ref.codes import check_code
from turboquant_ref.mse import SCALES, MSECode, Quantizer, setup
from turboquant_ref.packing import Packed

from .codebook import cells, centroids_of, table_of
from .packing import pack_record, unpack_record
from .prepared import encode, fused, numbers_of, prepare, to_packed
from .rotation import product, turn, turn_back
from .scores import promoted, query_of, times_norms, times_rows, weights_of
from .vectors import Flag, Rows, as_rows, home_of, launch, norm_and_unit, of_code, plain, result, sizes

__all__ = [
    "SCALES",
    "MSECode",
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


def _scales(Q: Quantizer, rows: Rows, norms: Any, z: Any, indices: Any) -> Any:
    """The scale rule, on the device; 0 for the zero vector."""
    kernels = plain()
    if Q.scale == "norm":
        return norms
    scales, refused = rows.empty(rows.n), Flag(rows.home)
    limit, centroids = float(np.finfo(rows.dtype).max), table_of(Q.codebook, rows)
    given = (SCALES.index(Q.scale), norms, z, indices, centroids, limit)
    launch(kernels.scale_rule, rows.n, rows.home, *given, scales, refused.array)
    if refused.is_set():
        largest = f"the largest {rows.dtype}, {limit:.6g}"
        raise ValueError(f'x: the "{Q.scale}" scale of a row exceeds {largest}; scale the data down')
    return scales


def steps(Q: Quantizer, x: Any) -> tuple[Rows, dict[str, Any]]:
    """The lines of Quant, by name, on the device."""
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = turn(Q.rotation, rows, unit)  # line 5: y <- Pi x
    indices = cells(Q.codebook, rows, rotated)  # line 6: idx_j <- argmin_k |y_j - c_k|
    scales = _scales(Q, rows, norms, rotated, indices)
    return rows, {"norm": norms, "unit": unit, "rotated": rotated, "indices": indices, "scale": scales}


def quantize(Q: Quantizer, x: Any) -> MSECode:
    """Algorithm 1, Quant_mse.

    Parameters
    ----------
    Q : Quantizer
    x : (…, d) array of float16, float32, float64 or integers; on the device bfloat16 too

    Returns
    -------
    MSECode
        Its arrays live where `x` does.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.mse.quantize`.
    """
    fast = fused(Q, x, "float32")
    if fast is not None:
        give = home_of(x).give
        indices = numbers_of(fast).reshape((*fast.shape, Q.d))
        return MSECode(give(indices), give(fast.scales), Q.fingerprint)
    rows, s = steps(Q, x)
    return MSECode(result(rows, s["indices"], Q.d), result(rows, s["scale"]), Q.fingerprint)


def dequantize(Q: Quantizer, code: MSECode) -> Any:
    """Algorithm 1, DeQuant_mse: scale * Pi^T c[idx], (…, d) in the dtype of the code's scales.

    Raises
    ------
    TypeError, ValueError
        If `code` is not an `MSECode` of this quantizer.
    """
    check_code(Q, code, MSECode)
    rows, a = of_code(code, "scales")
    centroids = centroids_of(Q.codebook, rows, a["indices"])  # line 9
    return result(rows, times_rows(rows, turn_back(Q.rotation, rows, centroids), a["scales"]), Q.d)  # line 10


def inner_product(Q: Quantizer, y: Any, code: MSECode) -> Any:
    """Estimates of <y, x> for every pair of a query and a coded vector: scale * <Pi y, c[idx]>, (*A, *B).

    Raises
    ------
    TypeError, ValueError
        For a bad query or a code of another quantizer.
    """
    check_code(Q, code, MSECode)
    rows, a = of_code(code, "scales", y)
    queries, query_norms, query = query_of(Q.d, y, rows)
    centroids = centroids_of(Q.codebook, rows, a["indices"])
    estimates = product(rows, turn(Q.rotation, queries, query), centroids.T, promoted(queries, rows))
    return times_norms(queries, rows, estimates, query_norms, a["scales"])


def weighted_sum(Q: Quantizer, weights: Any, code: MSECode) -> Any:
    """sum_j w_j x~_j for each row of weights (…, n), left in the rotated basis: (…, d)."""
    check_code(Q, code, MSECode)
    rows, a = of_code(code, "scales", weights)
    sums, w = weights_of(weights, rows)
    scaled = times_rows(rows, centroids_of(Q.codebook, rows, a["indices"]), a["scales"])
    return result(sums, product(rows, w, scaled, sums.dtype), Q.d)


def to_original(Q: Quantizer, total: Any) -> Any:
    """A `weighted_sum` in the original basis: Pi^T of it."""
    rows = as_rows(total, Q.d, "total")
    return result(rows, turn_back(Q.rotation, rows, rows.array), Q.d)


def trace(Q: Quantizer, x: Any) -> dict[str, Any]:
    """Every line of Algorithm 1 by name: x, norm, unit, rotated, indices, centroids, scale, unrotated, decoded."""
    rows, s = steps(Q, x)
    centroids = centroids_of(Q.codebook, rows, s["indices"])
    unrotated = turn_back(Q.rotation, rows, centroids)
    s = {"x": rows.array, **s, "centroids": centroids, "scale": s.pop("scale"), "unrotated": unrotated}
    s["decoded"] = times_rows(rows, unrotated, s["scale"])
    return {name: result(rows, a, *sizes(a)[1:]) for name, a in s.items()}


def pack(Q: Quantizer, code: MSECode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d b-bit indices, then the scale as `scalars`.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.mse.pack`.
    """
    check_code(Q, code, MSECode)
    return pack_record(Q.record, [code.indices], [code.scales], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> MSECode:
    """The inverse of `pack`, up to the rounding of the scale.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.mse.unpack`.
    """
    (indices,), (scales,) = unpack_record(Q.record, packed, Q.fingerprint)
    n = len(Q.codebook.centroids)
    largest = int(indices.max()) if n < 2**Q.bits and isinstance(indices, np.ndarray) and indices.size else 0
    if largest >= n:
        raise ValueError(f"packed: index {largest}, but the codebook has {n} centroids")
    return MSECode(indices, scales, Q.fingerprint)
