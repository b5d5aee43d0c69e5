"""TurboQuant_prod, Algorithm 2: unbiased inner products, from b - 1 bits of Algorithm 1 and 1 bit of QJL on the rest.

    Quant     idx <- Quant_mse(x), b - 1 bits;  r <- x - DeQuant_mse(idx);  qjl <- sign(S r);  gamma <- ||r||
    DeQuant   x~ <- DeQuant_mse(idx) + (sqrt(pi/2)/d) gamma S^T qjl

The bits are b in total. At b = 1 the first stage is empty (r = x), and the algorithm is QJL. As in Algorithm 1 the
box is for unit x: ||x|| is stored and multiplied back, and the residual norm gamma = ||r|| here is relative to ||x||.

Two ways to set it up, both in use:

as written     S Gaussian, gamma stored for every vector: ``sketch="gaussian", residual="stored"``
as released    S orthogonal, gamma replaced by sqrt(D_mse(d, b - 1)), the root mean square it has over Pi; nothing
               but the signs is then stored: ``sketch="orthogonal", residual="expected"``.  The authors' code also
               leaves the factor kappa_d (see `qjl`) in; here it is divided out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import codebook as codebooks
from . import qjl
from . import rotation as rotations
from .codes import as_weights, check_code, encode, outer_product, prepare, times_norms, to_packed
from .generator import seed_of
from .packing import Packed, Record, Scalar, fingerprint
from .vectors import as_rows, check_bits, check_dimension, norm_and_unit

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

RESIDUALS = ("stored", "expected")
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Quantizer:
    """What both sides must know: Pi, the codebook of b - 1 bits, the sketch S, and whether gamma is stored."""

    algorithm: ClassVar[str] = "prod"
    rotation: rotations.Rotation
    codebook: codebooks.Codebook
    sketch: qjl.Sketch
    residual: str = "stored"

    def __post_init__(self) -> None:
        if self.residual not in RESIDUALS:
            raise ValueError(f"residual: expected one of {', '.join(RESIDUALS)}, got {self.residual!r}")
        if self.sketch.d != self.rotation.d:
            raise ValueError(f"sketch: expected dimension {self.rotation.d}, got {self.sketch.d}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that `theory` and `setup` know this quantizer by."""
        return {"sketch": self.sketch.kind, "residual": self.residual}

    @property
    def d(self) -> int:
        """Dimension."""
        return self.rotation.d

    @property
    def m(self) -> int:
        """Number of signs; d in the paper."""
        return self.sketch.m

    @property
    def bits(self) -> int:
        """Bits b a coordinate in total, with m = d."""
        return self.codebook.bits + 1

    @property
    def stores_residual(self) -> bool:
        """Whether a residual norm is stored: not if it is expected, nor at b = 1, where it is 1 by definition."""
        return self.residual == "stored" and self.codebook.bits > 0

    @property
    def expected_residual(self) -> float:
        """sqrt(D_mse(d, b - 1)), the root mean square of ||r|| over Pi for unit x; 1 at b = 1, where r = x."""
        return math.sqrt(self.codebook.distortion) if self.codebook.bits else 1.0

    @property
    def record(self) -> Record:
        """Layout of one packed vector."""
        scalars = (Scalar("norm"), Scalar("residual norm")) if self.stores_residual else (Scalar("norm"),)
        return Record(((self.d, self.codebook.bits), (self.m, 1)), scalars)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer; its codes carry them."""
        return fingerprint("prod", self.rotation.identity, self.codebook.identity, self.sketch.identity, self.residual)

    def bytes_per_vector(self, scalars: str = "float32") -> int:
        """Bytes of one packed vector, side scalars and padding included."""
        return self.record.bytes_per_vector(scalars)

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate of one packed vector, its float32 norms included."""
        return 8 * self.bytes_per_vector() / self.d


@dataclass(frozen=True, eq=False)
class ProdCode:
    """The code of a batch of vectors.

    Attributes
    ----------
    indices : (…, d) uint8
        Of the b - 1 bit codebook; all 0 at b = 1.
    signs : (…, m) uint8
        1 where S r >= 0, 0 where it is negative; r is the residual of the unit vector, in the original basis.
    norms : (…) float32 or float64
        ||x||.
    residual_norms : (…) float32 or float64
        gamma = ||r|| for the unit vector x / ||x||.
    fingerprint : bytes
    """

    indices: NDArray[np.uint8]
    signs: NDArray[np.uint8]
    norms: Reals
    residual_norms: Reals
    fingerprint: bytes


def setup(
    d: int,
    bits: int,
    rng: int | np.random.Generator,
    rotation: rotations.Kind = "haar",
    sketch: str = "gaussian",
    residual: str = "stored",
    m: int | None = None,
) -> Quantizer:
    """Algorithm 2, Setup: a `mse` quantizer of b - 1 bits and a sketch S, independent of each other.

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    bits : int
        Bits a coordinate in total, 1 to 8, the sign bit included.
    rng : int or numpy.random.Generator
        A seed 0 <= rng < 2**64, or a generator that one is drawn from. Pi is stream 0 of it, S the streams from 1
        on.
    rotation : {"haar", "structured"}
        Kind of Pi, and of the blocks of an orthogonal S.
    sketch : {"gaussian", "orthogonal"}
        Law of S: the paper's, or the released code's.
    residual : {"stored", "expected"}
        Whether gamma is stored for every vector (the paper) or taken to be sqrt(D_mse(d, b - 1)) (the released code).
    m : int, optional
        Number of signs; d if None, as in the paper.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    d, bits = check_dimension(d), check_bits(bits)
    if residual not in RESIDUALS:
        raise ValueError(f"residual: expected one of {', '.join(RESIDUALS)}, got {residual!r}")
    seed = seed_of(rng)
    S = qjl.setup(d, m, seed, sketch, rotation).sketch
    return Quantizer(rotations.setup(d, seed, rotation), codebooks.lloyd_max(d, bits - 1), S, residual)


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = Q.rotation.apply(unit)
    indices = codebooks.nearest(Q.codebook, rotated)  # line 5: idx <- Quant_mse(x)
    centroids = codebooks.look_up(Q.codebook, indices, rotated.dtype)
    stage1 = Q.rotation.inverse(centroids) if Q.codebook.bits else np.zeros_like(unit)
    residual = np.where(norms[..., None] > 0, unit - stage1, 0)  # line 6: r <- x - DeQuant_mse(idx)
    if Q.stores_residual:
        residual_norms = norm_and_unit(residual)[0]
    else:
        residual_norms = np.where(norms > 0, Q.expected_residual, 0).astype(norms.dtype)
    projection = Q.sketch.apply(residual)
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
    """Algorithm 2, Quant_prod.

    Parameters
    ----------
    Q : Quantizer
    x : (…, d) array of float16, float32, float64 or integers

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, NaN or infinity; before any work is done.
    """
    return _code(Q, _quantize(Q, x))


def _sketch_scale(Q: Quantizer, code: ProdCode) -> Reals:
    return np.asarray(code.residual_norms * code.norms.dtype.type(Q.sketch.constant))


def dequantize(Q: Quantizer, code: ProdCode) -> Reals:
    """Algorithm 2, DeQuant_prod: ||x|| (Pi^T c[idx] + gamma S^T qjl / (m mu)).

    An unbiased x~, with a larger ||x - x~|| than Algorithm 1's at the same bits: its inner products are what it is
    for.

    Returns
    -------
    (…, d) array in the dtype of the code's norms
    """
    check_code(Q, code, ProdCode)
    dtype = code.norms.dtype
    stage1 = Q.rotation.inverse(codebooks.look_up(Q.codebook, code.indices, dtype))  # line 10
    stage2 = _sketch_scale(Q, code)[..., None] * Q.sketch.transpose(qjl.pm_one(code.signs, dtype))  # line 11
    return np.asarray(code.norms[..., None] * (stage1 + stage2))


def inner_product(Q: Quantizer, y: ArrayLike, code: ProdCode) -> Reals:
    """Unbiased estimates of <y, x> for every pair: ||x|| (<Pi y, c[idx]> + gamma <S y, qjl> / (m mu)).

    The query is rotated once and sketched once; no vector is decoded.

    Returns
    -------
    (*A, *B) array for queries (*A, d) and a code of shape B
    """
    check_code(Q, code, ProdCode)
    query_norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    dtype = code.norms.dtype
    stage1 = outer_product(Q.rotation.apply(query), codebooks.look_up(Q.codebook, code.indices, dtype))
    stage2 = outer_product(Q.sketch.apply(query), qjl.pm_one(code.signs, dtype)) * _sketch_scale(Q, code)
    return times_norms(stage1 + stage2, query_norms, code.norms)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: ProdCode) -> Reals:
    """sum_j w_j x~_j for each row of weights, in the rotated basis and the sketch's: attention's second half.

    Linear, so blocks of a long code can be summed one by one; `to_original` then rotates back once, not once a
    vector.

    Parameters
    ----------
    Q : Quantizer
    weights : (…, n) array
    code : ProdCode
        Of n vectors.

    Returns
    -------
    (…, d + m) array
    """
    check_code(Q, code, ProdCode)
    w = as_weights(weights, code.norms.shape)
    w = w * code.norms
    dtype = code.norms.dtype
    stage1 = w @ codebooks.look_up(Q.codebook, code.indices, dtype)
    stage2 = (w * _sketch_scale(Q, code)) @ qjl.pm_one(code.signs, dtype)
    return np.concatenate([stage1, stage2], axis=-1)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: Pi^T of its first d numbers plus S^T of the others."""
    return np.asarray(Q.rotation.inverse(total[..., : Q.d]) + Q.sketch.transpose(total[..., Q.d :]))


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every line of Algorithm 2 by name, in order.

    x, norm, unit, rotated, indices, centroids, stage1, residual, residual_norm, projection, signs, decoded.
    """
    steps = _quantize(Q, x)
    return {**steps, "decoded": dequantize(Q, _code(Q, steps))}


def pack(Q: Quantizer, code: ProdCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d indices of b - 1 bits, m sign bits, then the norm and, if it is stored, gamma."""
    check_code(Q, code, ProdCode)
    values = [code.norms, code.residual_norms] if Q.stores_residual else [code.norms]
    return Q.record.pack([code.indices, code.signs], values, scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> ProdCode:
    """The inverse of `pack`, up to the rounding of the norms."""
    (indices, signs), (norms, *rest) = Q.record.unpack(packed, Q.fingerprint)
    if rest:
        (residual_norms,) = rest
    else:
        residual_norms = np.where(norms > 0, Q.expected_residual, 0).astype(norms.dtype)
    return ProdCode(indices, signs, norms, residual_norms, Q.fingerprint)
