"""TurboQuant_mse, Algorithm 1: rotate at random, quantize every coordinate with the Lloyd-Max codebook of its law.

    Setup     Pi <- random rotation;  c <- centroids of Eq 4
    Quant     y <- Pi x;  idx_j <- argmin_k |y_j - c_k|
    DeQuant   y~_j <- c_{idx_j};  x~ <- Pi^T y~

The algorithm box is for unit x. For any other, section 1.3 of the paper stores ||x|| beside the code and multiplies
it back. That is one choice of four, and it is what separates TurboQuant from its relatives: with z = Pi x / ||x||
and q = its centroids, the decoded vector is scale * Pi^T q, and

================  =======================  =====================  ==========================================
scale             value                    E<y, x~> / <y, x>      what it is for
================  =======================  =====================  ==========================================
"norm"            ||x||                    1 - D                  the paper; biased towards 0
"matched"         ||x|| / ||q||            E cos                  keeps ||x~|| = ||x|| (vLLM "nc", Qdrant)
"least_squares"   ||x|| <z,q> / ||q||^2    E cos^2                least ||x - x~|| (EDEN, biased form)
"unbiased"        ||x|| / <z,q>            1                      <x, x~> = ||x||^2 (DRIVE, EDEN, RaBitQ)
================  =======================  =====================  ==========================================

where D = D_mse(d, b) and cos = <z,q> / ||q||. A Lloyd-Max codebook has E<z,q> = E||q||^2 = 1 - D, so cos^2 is 1 - D
up to O(1/d): the slopes are about 1 - D, sqrt(1 - D), 1 - D and 1, and the variances grow in the same order, by
1 / (1 - D) a step of the slope squared: a scale moves bias, it does not make information.  The last two scales are
DRIVE's (Vargaftik et al., NeurIPS 2021) and EDEN's (Vargaftik et al., ICML 2022).  `theory` has the exact values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import codebook as codebooks
from . import rotation as rotations
from .codes import as_weights, check_code, encode, outer_product, prepare, times_norms, to_packed
from .packing import Packed, Record, Scalar, fingerprint
from .vectors import as_rows, check_bits, check_dimension, first_row, norm_and_unit

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

SCALES = ("norm", "matched", "least_squares", "unbiased")
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Quantizer:
    """What both sides must know: the rotation Pi, the codebook, and the scale rule.  Never a function of data.

    `setup` draws one; build it by hand to use a Pi or a codebook of your own.
    """

    algorithm: ClassVar[str] = "mse"
    rotation: rotations.Rotation
    codebook: codebooks.Codebook
    scale: str = "norm"

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale: expected one of {', '.join(SCALES)}, got {self.scale!r}")
        if self.codebook.bits > 8:
            n = len(self.codebook.centroids)
            raise ValueError(f"codebook: expected at most 256 centroids, so that an index is a byte; got {n}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that `theory` and `setup` know this quantizer by."""
        return {"scale": self.scale}

    @property
    def d(self) -> int:
        """Dimension."""
        return self.rotation.d

    @property
    def bits(self) -> int:
        """Bits b of one index."""
        return self.codebook.bits

    @property
    def record(self) -> Record:
        """Layout of one packed vector."""
        return Record(((self.d, self.bits),), (Scalar("scale"),))

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer; its codes carry them."""
        return fingerprint("mse", self.rotation.identity, self.codebook.identity, self.scale)

    def bytes_per_vector(self, scalars: str = "float32") -> int:
        """Bytes of one packed vector, side scalar and padding included."""
        return self.record.bytes_per_vector(scalars)

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate of one packed vector, its float32 scale included."""
        return 8 * self.bytes_per_vector() / self.d


@dataclass(frozen=True, eq=False)
class MSECode:
    """The code of a batch of vectors.

    Attributes
    ----------
    indices : (…, d) uint8
        Index of each rotated coordinate's centroid, ascending with the centroids.
    scales : (…) float32 or float64
        What the decoded unit-scale vector is multiplied by; 0 for the zero vector.
    fingerprint : bytes
        Of the quantizer that made it.
    """

    indices: NDArray[np.uint8]
    scales: Reals
    fingerprint: bytes


def setup(
    d: int,
    bits: int,
    rng: int | np.random.Generator,
    rotation: rotations.Kind = "haar",
    scale: str = "norm",
) -> Quantizer:
    """Algorithm 1, Setup: draw Pi, solve Eq 4.

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    bits : int
        Bits a coordinate, 1 to 8.
    rng : int or numpy.random.Generator
        A seed 0 <= rng < 2**64, or a generator that one is drawn from: the only randomness of the algorithm.
    rotation : {"haar", "structured"}
        Uniform over the orthogonal group (the paper), or the O(d log d) rotation of `rotation.Structured`.
    scale : {"norm", "matched", "least_squares", "unbiased"}
        The scale rule; see the module's table.

    Returns
    -------
    Quantizer

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    d, bits = check_dimension(d), check_bits(bits)
    if scale not in SCALES:
        raise ValueError(f"scale: expected one of {', '.join(SCALES)}, got {scale!r}")
    return Quantizer(rotations.setup(d, rng, rotation), codebooks.lloyd_max(d, bits), scale)


def _scales(rule: str, norms: Reals, z: Reals, q: Reals) -> Reals:
    """The table of the module's docstring; 0 for the zero vector."""
    if rule == "norm":
        return norms
    qq, zq = (q * q).sum(-1), np.where(norms > 0, (z * q).sum(-1), 1)
    with np.errstate(over="ignore"):
        factor = {"matched": 1 / np.sqrt(qq), "least_squares": zq / qq, "unbiased": 1 / zq}[rule]
        scales = np.asarray(norms * factor, dtype=norms.dtype)
    overflow = np.isinf(scales)
    if overflow.any():
        limit = f"the largest {scales.dtype}, {np.finfo(scales.dtype).max:.6g}"
        raise ValueError(f'x: the "{rule}" scale of row {first_row(overflow)} exceeds {limit}; scale the data down')
    return scales


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = Q.rotation.apply(unit)  # line 5: y <- Pi x
    indices = codebooks.nearest(Q.codebook, rotated)  # line 6: idx_j <- argmin_k |y_j - c_k|
    centroids = codebooks.look_up(Q.codebook, indices, rotated.dtype)
    scales = _scales(Q.scale, norms, rotated, centroids)
    return {
        "x": rows,
        "norm": norms,
        "unit": unit,
        "rotated": rotated,
        "indices": indices,
        "centroids": centroids,
        "scale": scales,
    }


def quantize(Q: Quantizer, x: ArrayLike) -> MSECode:
    """Algorithm 1, Quant_mse.

    Parameters
    ----------
    Q : Quantizer
    x : (…, d) array of float16, float32, float64 or integers
        Vectors of any norm; float16 is computed in float32, integers in float64.

    Returns
    -------
    MSECode

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, NaN or infinity; before any work is done.  For a norm, or a scale larger than it,
        beyond the largest number of the compute dtype.
    """
    steps = _quantize(Q, x)
    return MSECode(steps["indices"], steps["scale"], Q.fingerprint)


def dequantize(Q: Quantizer, code: MSECode) -> Reals:
    """Algorithm 1, DeQuant_mse: scale * Pi^T c[idx].

    Returns
    -------
    (…, d) array in the dtype of the code's scales
        A coordinate beyond the largest number is infinite, as in any IEEE arithmetic (NumPy warns), but never NaN.

    Raises
    ------
    TypeError, ValueError
        If `code` is not an `MSECode` of this quantizer.
    """
    check_code(Q, code, MSECode)
    centroids = codebooks.look_up(Q.codebook, code.indices, code.scales.dtype)  # line 9
    return np.asarray(code.scales[..., None] * Q.rotation.inverse(centroids))  # line 10: x~ <- Pi^T y~


def inner_product(Q: Quantizer, y: ArrayLike, code: MSECode) -> Reals:
    """Estimates of <y, x> for every pair of a query and a coded vector, in the rotated basis: scale * <Pi y, c[idx]>.

    The query is rotated once and no vector is decoded to its original basis, since <y, Pi^T q> = <Pi y, q>.

    Parameters
    ----------
    Q : Quantizer
    y : (*A, d) array
        Queries of any norm; not quantized.
    code : MSECode
        Of a batch of shape B.

    Returns
    -------
    (*A, *B) array
        Infinite where it is beyond the largest number (NumPy warns), never NaN.

    Raises
    ------
    TypeError, ValueError
        For a bad query or a code of another quantizer.
    """
    check_code(Q, code, MSECode)
    query_norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    centroids = codebooks.look_up(Q.codebook, code.indices, code.scales.dtype)
    return times_norms(outer_product(Q.rotation.apply(query), centroids), query_norms, code.scales)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: MSECode) -> Reals:
    """sum_j w_j x~_j for each row of weights, left in the rotated basis: attention's second half.

    Linear, so blocks of a long code can be summed one by one; `to_original` then rotates back once, not once a
    vector.

    Parameters
    ----------
    Q : Quantizer
    weights : (…, n) array
    code : MSECode
        Of n vectors.

    Returns
    -------
    (…, d) array
    """
    check_code(Q, code, MSECode)
    w = as_weights(weights, code.scales.shape)
    return (w * code.scales) @ codebooks.look_up(Q.codebook, code.indices, code.scales.dtype)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: Pi^T of it."""
    return Q.rotation.inverse(total)


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every line of Algorithm 1 by name, in order.

    x, norm, unit, rotated, indices, centroids, scale, unrotated, decoded.
    """
    steps = _quantize(Q, x)
    unrotated = Q.rotation.inverse(steps["centroids"])
    return {**steps, "unrotated": unrotated, "decoded": steps["scale"][..., None] * unrotated}


def pack(Q: Quantizer, code: MSECode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d b-bit indices, then the scale as `scalars`.

    Raises
    ------
    TypeError, ValueError
        For a code of another quantizer, an unknown scalar dtype, or a scale outside its normal range.
    """
    check_code(Q, code, MSECode)
    return Q.record.pack([code.indices], [code.scales], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> MSECode:
    """The inverse of `pack`, up to the rounding of the scale.

    Raises
    ------
    TypeError, ValueError
        For what is not a `Packed`, bytes of another quantizer, of the wrong length, or impossible ones.
    """
    (indices,), (scales,) = Q.record.unpack(packed, Q.fingerprint)
    n = len(Q.codebook.centroids)
    if indices.size and int(indices.max()) >= n:
        raise ValueError(f"packed: index {int(indices.max())}, but the codebook has {n} centroids")
    return MSECode(indices, scales, Q.fingerprint)
