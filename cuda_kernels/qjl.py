"""QJL, the 1-bit sketch sign(S x), on a GPU: the names and signatures of `turboquant_ref.qjl`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from turboquant_ref.codes import check_code
from turboquant_ref.packing import Packed
from turboquant_ref.qjl import SKETCHES, QJLCode, Quantizer, Sketch, of_matrix, setup, sketch

from .codebook import pm_one, signs_of
from .packing import pack_record, unpack_record
from .prepared import encode, prepare, to_packed
from .rotation import kept, product, turn, turn_back
from .scores import promoted, query_of, times_norms, times_rows, weights_of
from .vectors import Rows, as_rows, norm_and_unit, of_code, plain, result, sizes, spread

__all__ = [
    "SKETCHES",
    "QJLCode",
    "Quantizer",
    "Sketch",
    "dequantize",
    "encode",
    "inner_product",
    "of_matrix",
    "pack",
    "prepare",
    "project",
    "project_back",
    "quantize",
    "setup",
    "sketch",
    "to_original",
    "to_packed",
    "trace",
    "unpack",
    "weighted_sum",
]


def project(S: Sketch, rows: Rows, x: Any) -> Any:
    """S x for rows x (n, d) on the device: (n, m)."""
    kernels = plain()
    if S.gaussian is not None:
        matrix = S.gaussian
        return product(rows, x, kept(S, (rows.dtype, "apply"), rows.home, lambda: matrix.T.astype(rows.dtype)))
    n, out, root = int(x.shape[0]), rows.empty(x.shape[0], S.m), np.dtype(rows.dtype).type(math.sqrt(S.d))
    for k, block in enumerate(S.blocks):
        spread(kernels.into_columns, n * S.d, rows.home, turn(block, rows, x), root, k * S.d, out)
    return out


def project_back(S: Sketch, rows: Rows, z: Any) -> Any:
    """S^T z for rows z (n, m) on the device: (n, d)."""
    kernels = plain()
    if S.gaussian is not None:
        matrix = S.gaussian
        return product(rows, z, kept(S, (rows.dtype, "transpose"), rows.home, lambda: matrix.astype(rows.dtype)))
    n, total = int(z.shape[0]), None
    for k, block in enumerate(S.blocks):
        part = rows.empty(n, S.d)
        spread(kernels.from_columns, n * S.d, rows.home, z, k * S.d, part)
        part = turn_back(block, rows, part)
        total = part if total is None else added(rows, total, part)
    return times_rows(rows, total, constant=math.sqrt(S.d))


def added(rows: Rows, a: Any, b: Any) -> Any:
    """a + b, for rows (n, k) on the device."""
    kernels = plain()
    out = rows.empty(*a.shape)
    spread(kernels.add, int(a.shape[0]) * int(a.shape[1]), rows.home, a, b, out)
    return out


def steps(Q: Quantizer, x: Any) -> tuple[Rows, dict[str, Any]]:
    """The lines of Q_qjl, by name, on the device."""
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    projection = project(Q.sketch, rows, unit)
    return rows, {"norm": norms, "unit": unit, "projection": projection, "signs": signs_of(rows, projection)}


def quantize(Q: Quantizer, x: Any) -> QJLCode:
    """Q_qjl(x) = sign(S x), and ||x|| (QJL, Algorithm 1); the code's arrays live where `x` does.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.qjl.quantize`.
    """
    rows, s = steps(Q, x)
    return QJLCode(result(rows, s["signs"], Q.m), result(rows, s["norm"]), Q.fingerprint)


def _decoded(Q: Quantizer, rows: Rows, signs: Any, norms: Any) -> Any:
    z = project_back(Q.sketch, rows, pm_one(rows, signs))
    return times_rows(rows, z, norms, Q.sketch.constant)


def dequantize(Q: Quantizer, code: QJLCode) -> Any:
    """Q_qjl^-1(z) = ||x|| S^T z / (m mu): (…, d)."""
    check_code(Q, code, QJLCode)
    rows, a = of_code(code, "norms")
    return result(rows, _decoded(Q, rows, a["signs"], a["norms"]), Q.d)


def inner_product(Q: Quantizer, y: Any, code: QJLCode) -> Any:
    """Unbiased estimates of <y, x> for every pair: ||x|| <S y, sign(S x)> / (m mu), (*A, *B)."""
    check_code(Q, code, QJLCode)
    rows, a = of_code(code, "norms", y)
    queries, query_norms, query = query_of(Q.d, y, rows)
    dtype = promoted(queries, rows)
    estimates = product(rows, project(Q.sketch, queries, query), pm_one(rows, a["signs"]).T, dtype)
    wide = Rows(rows.shape, rows.home, dtype)
    return times_norms(queries, rows, times_rows(wide, estimates, constant=Q.sketch.constant), query_norms, a["norms"])


def weighted_sum(Q: Quantizer, weights: Any, code: QJLCode) -> Any:
    """sum_j w_j x~_j for each row of weights (…, n), left in the sketch's coordinates: (…, m)."""
    check_code(Q, code, QJLCode)
    rows, a = of_code(code, "norms", weights)
    sums, w = weights_of(weights, rows)
    scaled = times_rows(rows, pm_one(rows, a["signs"]), a["norms"], Q.sketch.constant)
    return result(sums, product(rows, w, scaled, sums.dtype), Q.m)


def to_original(Q: Quantizer, total: Any) -> Any:
    """A `weighted_sum` in the original basis: S^T of it."""
    rows = as_rows(total, Q.m, "total")
    return result(rows, project_back(Q.sketch, rows, rows.array), Q.d)


def trace(Q: Quantizer, x: Any) -> dict[str, Any]:
    """Every step by name, in order: x, norm, unit, projection, signs, decoded."""
    rows, s = steps(Q, x)
    s = {"x": rows.array, **s, "decoded": _decoded(Q, rows, s["signs"], s["norm"])}
    return {name: result(rows, a, *sizes(a)[1:]) for name, a in s.items()}


def pack(Q: Quantizer, code: QJLCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: m sign bits, then the norm as `scalars`."""
    check_code(Q, code, QJLCode)
    return pack_record(Q.record, [code.signs], [code.norms], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> QJLCode:
    """The inverse of `pack`, up to the rounding of the norm."""
    (signs,), (norms,) = unpack_record(Q.record, packed, Q.fingerprint)
    return QJLCode(signs, norms, Q.fingerprint)
