"""TurboQuant_mse, Algorithm 1, compiled: the words of `turboquant_ref.mse`, whose quantizers and codes these are.

Equal to the reference by the contract: its indices wherever a coordinate is farther from a boundary than rounding, its
scales to rounding. The rotation is the reference's to the bit, and an index that of its coordinate exactly; the
difference is a norm summed in another order, in the type of the data and not in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.codes import as_weights, check_code, outer_product, times_norms
from turboquant_ref.mse import SCALES, MSECode, Quantizer, setup
from turboquant_ref.packing import Packed, check_scalars
from turboquant_ref.vectors import Rows, first_row

from . import _lanes, packing, rotation
from ._indices import book, keep_values, look_up, nearest, nearest_lanes, pack_lanes
from ._indices import scratch as index_scratch
from ._jit import kernel
from ._norms import norm_and_unit, rows_of, safely
from .layout import Prepared, empty, prepare, to_packed
from .simd import first_lanes, store

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

Reals = NDArray[Any]


def _scales(rule: str, norms: Reals, zq: Reals, qq: Reals) -> Reals:
    """The table of `turboquant_ref.mse`, from <z, q> and ||q||^2; 0 for the zero vector."""
    if rule == "norm":
        return norms
    zq = np.where(norms > 0, zq, 1)
    with np.errstate(over="ignore"):
        factor = {
            "matched": lambda: 1 / np.sqrt(qq),
            "least_squares": lambda: zq / qq,
            "unbiased": lambda: 1 / zq,
        }[rule]()
        scales = np.asarray(norms * factor, dtype=norms.dtype)
    overflow = np.isinf(scales)
    if overflow.any():
        limit = f"the largest {scales.dtype}, {np.finfo(scales.dtype).max:.6g}"
        raise ValueError(f'x: the "{rule}" scale of row {first_row(overflow)} exceeds {limit}; scale the data down')
    return scales


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = rows_of(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = rotation.apply(Q.rotation, unit)  # line 5: y <- Pi x
    indices, zq, qq = nearest(Q.codebook, rotated)  # line 6: idx_j <- argmin_k |y_j - c_k|
    scale = _scales(Q.scale, norms, zq, qq)
    return {"x": rows, "norm": norms, "unit": unit, "rotated": rotated, "indices": indices, "scale": scale}


def quantize(Q: Quantizer, x: ArrayLike) -> MSECode:
    """Algorithm 1, Quant_mse, of vectors (…, d).

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.mse.quantize`.
    """
    steps = _quantize(Q, x)
    return MSECode(steps["indices"], steps["scale"], Q.fingerprint)


def dequantize(Q: Quantizer, code: MSECode) -> Reals:
    """Algorithm 1, DeQuant_mse: scale * Pi^T c[idx], (…, d) in the type of the scales.

    Raises
    ------
    TypeError, ValueError
        If `code` is not an `MSECode` of this quantizer.
    """
    check_code(Q, code, MSECode)
    centroids = look_up(Q.codebook, code.indices, code.scales.dtype)  # line 9
    return np.asarray(code.scales[..., None] * rotation.inverse(Q.rotation, centroids))  # line 10: x~ <- Pi^T y~


def inner_product(Q: Quantizer, y: ArrayLike, code: MSECode) -> Reals:
    """Estimates of <y, x>, (*A, *B) for queries (*A, d) and a code of shape B: scale * <Pi y, c[idx]>.

    Raises
    ------
    TypeError, ValueError
        For a bad query or a code of another quantizer.
    """
    check_code(Q, code, MSECode)
    query_norms, query = norm_and_unit(rows_of(y, Q.d, "y"), "y")
    centroids = look_up(Q.codebook, code.indices, code.scales.dtype)
    return times_norms(outer_product(rotation.apply(Q.rotation, query), centroids), query_norms, code.scales)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: MSECode) -> Reals:
    """sum_j w_j x~_j for each row of weights (…, n), left in the rotated basis: (…, d).

    Raises
    ------
    TypeError, ValueError
        For weights of another shape or type, or a code of another quantizer.
    """
    check_code(Q, code, MSECode)
    w = as_weights(weights, code.scales.shape)
    return np.asarray((w * code.scales) @ look_up(Q.codebook, code.indices, code.scales.dtype))


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: Pi^T of it."""
    return rotation.inverse(Q.rotation, total)


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every line of Algorithm 1 by name: x, norm, unit, rotated, indices, centroids, scale, unrotated, decoded."""
    steps = _quantize(Q, x)
    scale = steps.pop("scale")
    centroids = look_up(Q.codebook, steps["indices"], scale.dtype)
    unrotated = rotation.inverse(Q.rotation, centroids)
    decoded = scale[..., None] * unrotated
    return {**steps, "centroids": centroids, "scale": scale, "unrotated": unrotated, "decoded": decoded}


def pack(Q: Quantizer, code: MSECode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d b-bit indices, then the scale as `scalars`.

    Raises
    ------
    TypeError, ValueError
        For a code of another quantizer, an unknown scalar dtype, or a scale outside its normal range.
    """
    check_code(Q, code, MSECode)
    return packing.pack_record(Q.record, [code.indices], [code.scales], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> MSECode:
    """The inverse of `pack`, up to the rounding of the scale.

    Raises
    ------
    TypeError, ValueError
        For what is not a `Packed`, bytes of another quantizer, of the wrong length, or impossible ones.
    """
    (indices,), (scales,) = packing.unpack_record(Q.record, packed, Q.fingerprint)
    n = len(Q.codebook.centroids)
    if indices.size and int(indices.max()) >= n:
        raise ValueError(f"packed: index {int(indices.max())}, but the codebook has {n} centroids")
    return MSECode(indices, scales, Q.fingerprint)


@kernel
def _finish(T, d, codebook, J, codes, first, rows, zq, qq):
    """Quantize and pack the 16 rotated unit vectors of T as block first / 16."""
    of_zq, of_qq = nearest_lanes(T, d, codebook, J)
    store(zq, first, of_zq)
    store(qq, first, of_qq)
    pack_lanes(J, d, codebook[0], codes, first * codes.shape[1], first_lanes(rows))


@kernel
def _encode_structured(x, start, stop, T, turned, codebook, J, codes, norms, zq, qq):
    d = x.shape[1]
    unusual = 0
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        lengths, bad = _lanes.norms_of(T, d)
        unusual |= bad
        store(norms, first, lengths)
        _lanes.multiply(T, d, _lanes.reciprocal(T, lengths))
        _lanes.rotate(T, turned)
        _finish(T, d, codebook, J, codes, first, rows, zq, qq)
    return unusual


@kernel
def _encode_rotated(z, start, stop, T, codebook, J, codes, zq, qq):
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(z, first, rows, T)
        _finish(T, z.shape[1], codebook, J, codes, first, rows, zq, qq)


def _encode_rows(Q: Quantizer, x: Rows, codes: NDArray[np.uint32]) -> Reals:
    """Write the words of rows (n, d) to `codes`; their scales (n,)."""
    n, d = x.shape
    zq, qq, norms = (np.empty(16 * len(codes), x.dtype) for _ in range(3))
    tables = book(Q.codebook, x.dtype)
    if isinstance(Q.rotation, rotation.Structured):
        turned = rotation.tables(Q.rotation, x.dtype)

        def run(rows: Rows) -> tuple[bool, Reals]:
            def part(start: int, stop: int, T: Reals) -> Any:
                J = index_scratch(d)
                return _encode_structured(rows, start, stop, T, turned, tables, J, codes, norms, zq, qq)

            return any(_lanes.blocks(part, n, d, x.dtype)), norms[:n]

        lengths = safely(x, "x", run)
    else:
        lengths, unit = norm_and_unit(x)
        z = rotation.apply(Q.rotation, unit)
        _lanes.blocks(
            lambda *part: _encode_rotated(z, *part, tables, index_scratch(d), codes, zq, qq), n, d, x.dtype
        )
    return _scales(Q.scale, lengths, zq[:n], qq[:n])


def encode(Q: Quantizer, x: ArrayLike, scalars: str | None = None) -> Prepared:
    """Vectors (…, d) to this backend's Prepared form, in one pass: ``prepare(Q, pack(Q, quantize(Q, x), scalars))``.

    Raises
    ------
    TypeError, ValueError
        As `quantize` and `pack`.
    """
    scalars = check_scalars("float32" if scalars is None else scalars)
    rows = np.ascontiguousarray(rows_of(x, Q.d))
    shape = rows.shape[:-1]
    prepared = empty(Q, shape, scalars)
    scales = np.empty(shape, rows.dtype)
    for batch in np.ndindex(shape[:-1]):
        scales[batch] = np.reshape(_encode_rows(Q, np.atleast_2d(rows[batch]), prepared.codes[batch]), shape[-1:])
    keep_values(Q, [scales], prepared)
    return prepared
