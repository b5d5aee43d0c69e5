"""QJL, the 1-bit quantized Johnson-Lindenstrauss sketch (arXiv 2406.03482; TurboQuant, Definition 1).

    Q_qjl(x) = sign(S x) in {-1, +1}^m,       <y, x> ~ (sqrt(pi/2) / m) ||x|| <S y, sign(S x)>

Only the stored side is quantized; the query y is not.  S has m rows; two laws of S are in use:

"gaussian"
    iid N(0, 1) entries, as both papers define it.  Exactly unbiased, and exactly
    Var = [(pi/2) ||x||^2 ||y||^2 - <y,x>^2] / m.
"orthogonal"
    Blocks of at most d orthonormal rows, times sqrt(d): what QJL's section 4.1 recommends and what both released
    codes do. The papers' constant is then off by kappa_d = sqrt(d/2) Gamma(d/2) / Gamma((d+1)/2) = 1 + 1/(4d) + …;
    here it is divided out, so the estimate is exactly unbiased too, with about 2.75 times less variance at <x,y> =
    0 and m = d.

In one formula for both: the estimate is ||x|| <S y, sign(S x)> / (m mu), where mu is the mean of |S_i u| over a row
S_i, u of norm 1: sqrt(2/pi) for Gaussian rows, sqrt(d) E|u_1| for orthogonal ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import rotation as rotations
from . import sphere
from .codes import as_weights, check_code, encode, outer_product, prepare, times_norms, to_packed
from .generator import gaussians, seed_of
from .packing import Packed, Record, Scalar, fingerprint
from .vectors import as_rows, check_dimension, check_integer, norm_and_unit

__all__ = [
    "SKETCHES",
    "QJLCode",
    "Quantizer",
    "Sketch",
    "dequantize",
    "encode",
    "inner_product",
    "pack",
    "prepare",
    "quantize",
    "setup",
    "sketch",
    "to_original",
    "to_packed",
    "trace",
    "unpack",
    "weighted_sum",
]

SKETCHES = ("gaussian", "orthogonal")
Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Sketch:
    """The matrix S (m, d), as its parts, with the constant that makes the estimate exactly unbiased.

    Attributes
    ----------
    d, m : int
        Dimension and number of signs.
    kind : {"gaussian", "orthogonal"}
        The law of S.
    gaussian : (m, d) float64 or None
        The matrix, if its entries are iid N(0, 1).
    blocks : tuple of Rotation
        The ceil(m/d) independent rotations whose rows, times sqrt(d), are S, if it is orthogonal; of the last only
        the first m - d (ceil(m/d) - 1) rows are used.
    identity : str
        What names it in a fingerprint.
    gain : float
        1; anything else is a wrong constant, for `variants` to show what it does.
    """

    d: int
    m: int
    kind: str
    gaussian: NDArray[np.float64] | None
    blocks: tuple[rotations.Rotation, ...]
    identity: str
    gain: float = 1.0

    @property
    def mu(self) -> float:
        """E|S_i u| for a row S_i and a unit vector u."""
        if self.kind == "gaussian":
            return math.sqrt(2 / math.pi)
        return math.sqrt(self.d) * sphere.Coordinate(self.d).mean_abs

    @property
    def constant(self) -> float:
        """1 / (m mu): what <S y, sign(S x)> is multiplied by, sqrt(pi/2) / m for Gaussian S."""
        return self.gain / (self.m * self.mu)

    def apply(self, x: Reals) -> Reals:
        """S x for every row: (…, d) to (…, m)."""
        if self.gaussian is not None:
            return x @ self.gaussian.astype(x.dtype).T
        parts = [block.apply(x) for block in self.blocks]
        return np.concatenate(parts, axis=-1)[..., : self.m] * x.dtype.type(math.sqrt(self.d))

    def transpose(self, z: Reals) -> Reals:
        """S^T z for every row: (…, m) to (…, d)."""
        if self.gaussian is not None:
            return z @ self.gaussian.astype(z.dtype)
        padded = np.zeros((*z.shape[:-1], len(self.blocks) * self.d), dtype=z.dtype)
        padded[..., : self.m] = z
        parts = np.split(padded, len(self.blocks), axis=-1)
        total = sum(block.inverse(part) for block, part in zip(self.blocks, parts, strict=True))
        return np.asarray(total * z.dtype.type(math.sqrt(self.d)))

    def matrix(self) -> NDArray[np.float64]:
        """S as a dense (m, d) float64 matrix."""
        return np.asarray(self.apply(np.eye(self.d)).T, dtype=np.float64)


def sketch(d: int, m: int, rng: int | np.random.Generator, kind: str, rotation: rotations.Kind = "haar") -> Sketch:
    """Draw S from the streams 1, 2, … of the seed (stream 0 is the rotation's).

    A Gaussian S is `generator.gaussians` of stream 1, row by row; the k-th orthogonal block is a rotation of stream
    1 + k. `rotation` says which kind of rotation the orthogonal blocks are; it does not concern a Gaussian S.
    """
    if kind not in SKETCHES:
        raise ValueError(f"sketch: expected one of {', '.join(SKETCHES)}, got {kind!r}")
    seed = seed_of(rng)
    if kind == "gaussian":
        matrix = gaussians(seed, 1, m * d).reshape(m, d)
        matrix.flags.writeable = False
        return Sketch(d, m, kind, matrix, (), f"gaussian({m}, {d}, seed={seed})")
    blocks = tuple(rotations.setup(d, seed, rotation, stream=1 + k) for k in range(-(-m // d)))
    return Sketch(d, m, kind, None, blocks, f"orthogonal({m}, {', '.join(b.identity for b in blocks)})")


def of_matrix(S: ArrayLike, kind: str = "gaussian") -> Sketch:
    """The sketch with the given matrix S, (m, d): for golden vectors, and for a port's own S.

    An "orthogonal" S must have blocks of d orthonormal rows times sqrt(d), m a multiple of d.

    Raises
    ------
    TypeError, ValueError
        If it is not a finite real matrix, or not of that kind.
    """
    matrix = as_rows(S, name="S").astype(np.float64)
    if matrix.ndim != 2 or len(matrix) == 0:
        raise ValueError(f"S: expected a matrix of shape (m, d), m >= 1, got shape {matrix.shape}")
    matrix.flags.writeable = False
    m, d = matrix.shape
    identity = f"matrix({rotations.digest(matrix)})"
    if kind == "gaussian":
        return Sketch(d, m, kind, matrix, (), identity)
    if kind != "orthogonal" or m % d:
        allowed = "gaussian, or orthogonal with m a multiple of d"
        raise ValueError(f"kind: expected {allowed}; got {kind!r}, m = {m}, d = {d}")
    blocks = tuple(rotations.Dense(block / math.sqrt(d)) for block in matrix.reshape(-1, d, d))
    return Sketch(d, m, kind, None, blocks, identity)


_draw = sketch  # `setup` has an argument of that name


@dataclass(frozen=True, eq=False)
class Quantizer:
    """QJL with a given sketch S."""

    algorithm: ClassVar[str] = "qjl"
    sketch: Sketch

    @property
    def options(self) -> dict[str, Any]:
        """The options that `theory` and `setup` know this quantizer by."""
        return {"sketch": self.sketch.kind}

    @property
    def d(self) -> int:
        """Dimension."""
        return self.sketch.d

    @property
    def m(self) -> int:
        """Number of signs."""
        return self.sketch.m

    @property
    def record(self) -> Record:
        """Layout of one packed vector."""
        return Record(((self.m, 1),), (Scalar("norm"),))

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer; its codes carry them."""
        return fingerprint("qjl", self.sketch.identity)

    def bytes_per_vector(self, scalars: str = "float32") -> int:
        """Bytes of one packed vector, norm and padding included."""
        return self.record.bytes_per_vector(scalars)

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate of one packed vector, its float32 norm included."""
        return 8 * self.bytes_per_vector() / self.d


@dataclass(frozen=True, eq=False)
class QJLCode:
    """The code of a batch of vectors.

    Attributes
    ----------
    signs : (…, m) uint8
        1 where the projection is >= 0, 0 where it is negative.
    norms : (…) float32 or float64
    fingerprint : bytes
    """

    signs: NDArray[np.uint8]
    norms: Reals
    fingerprint: bytes


def setup(
    d: int,
    m: int | None = None,
    rng: int | np.random.Generator = 0,
    sketch: str = "gaussian",
    rotation: rotations.Kind = "haar",
) -> Quantizer:
    """Draw S.

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    m : int, optional
        Number of sign bits a vector; d if None.
    rng : int or numpy.random.Generator
        A seed 0 <= rng < 2**64, or a generator that one is drawn from.
    sketch : {"gaussian", "orthogonal"}
        The law of S.
    rotation : {"haar", "structured"}
        What the blocks of an orthogonal S are.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    d = check_dimension(d)
    m = d if m is None else check_integer(m, "m", 1)
    return Quantizer(_draw(d, m, rng, sketch, rotation))


def signs_of(projection: Reals) -> NDArray[np.uint8]:
    """sign(S x) as bits: 1 for +1, 0 for -1; sign(0) = +1, for -0 too."""
    return (projection >= 0).astype(np.uint8)


def pm_one(signs: NDArray[np.uint8], dtype: Any) -> Reals:
    """Sign bits as -1 and +1."""
    return np.asarray(2 * signs.astype(dtype) - 1)


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    projection = Q.sketch.apply(unit)
    return {"x": rows, "norm": norms, "unit": unit, "projection": projection, "signs": signs_of(projection)}


def quantize(Q: Quantizer, x: ArrayLike) -> QJLCode:
    """Q_qjl(x) = sign(S x), and ||x|| (QJL, Algorithm 1).

    Raises
    ------
    TypeError, ValueError
        For a bad dtype or shape, NaN or infinity; before any work is done.
    """
    steps = _quantize(Q, x)
    return QJLCode(steps["signs"], steps["norm"], Q.fingerprint)


def dequantize(Q: Quantizer, code: QJLCode) -> Reals:
    """Q_qjl^-1(z) = ||x|| S^T z / (m mu): an unbiased, very noisy x~ whose inner products are `inner_product`'s.

    Returns
    -------
    (…, d) array in the dtype of the code's norms
    """
    check_code(Q, code, QJLCode)
    z = pm_one(code.signs, code.norms.dtype)
    return np.asarray(code.norms[..., None] * (z.dtype.type(Q.sketch.constant) * Q.sketch.transpose(z)))


def inner_product(Q: Quantizer, y: ArrayLike, code: QJLCode) -> Reals:
    """Unbiased estimates of <y, x> for every pair: ||x|| <S y, sign(S x)> / (m mu) (QJL, Definition 3.1).

    Returns
    -------
    (*A, *B) array for queries (*A, d) and a code of shape B
    """
    check_code(Q, code, QJLCode)
    query_norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    z = pm_one(code.signs, code.norms.dtype)
    estimates = outer_product(Q.sketch.apply(query), z) * z.dtype.type(Q.sketch.constant)
    return times_norms(estimates, query_norms, code.norms)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: QJLCode) -> Reals:
    """sum_j w_j x~_j for each row of weights, left in the sketch's m coordinates: attention's second half.

    Linear, so blocks of a long code can be summed one by one; `to_original` then rotates back once, not once a
    vector.

    Parameters
    ----------
    Q : Quantizer
    weights : (…, n) array
    code : QJLCode
        Of n vectors.

    Returns
    -------
    (…, m) array
    """
    check_code(Q, code, QJLCode)
    w = as_weights(weights, code.norms.shape)
    return (w * code.norms * code.norms.dtype.type(Q.sketch.constant)) @ pm_one(code.signs, code.norms.dtype)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: S^T of it."""
    return Q.sketch.transpose(total)


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every step by name, in order: x, norm, unit, projection, signs, decoded."""
    steps = _quantize(Q, x)
    return {**steps, "decoded": dequantize(Q, QJLCode(steps["signs"], steps["norm"], Q.fingerprint))}


def pack(Q: Quantizer, code: QJLCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: m sign bits, then the norm as `scalars`."""
    check_code(Q, code, QJLCode)
    return Q.record.pack([code.signs], [code.norms], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> QJLCode:
    """The inverse of `pack`, up to the rounding of the norm."""
    (signs,), (norms,) = Q.record.unpack(packed, Q.fingerprint)
    return QJLCode(signs, norms, Q.fingerprint)
