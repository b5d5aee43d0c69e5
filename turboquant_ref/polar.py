"""PolarQuant (arXiv 2502.02617): rotate at random, go over to polar coordinates, quantize the angles only.

    Setup     Pi <- random rotation;  a codebook of angles for each level 1 .. L
    Quant     z <- Pi x;  (radii, psi) <- polar transform of each block of 2^L;  idx <- nearest centroids of psi
    DeQuant   theta <- centroids;  z' <- inverse transform of (radii, theta);  x' <- Pi^T z'

**The transform** (Definition 1) pairs neighbours, L times over. From r^(0) = z,

    psi^(l)_j = atan2(r^(l-1)_{2j}, r^(l-1)_{2j-1}),      r^(l)_j = ||(r^(l-1)_{2j-1}, r^(l-1)_{2j})||,

so that a block of 2^L coordinates becomes 2^(L-1) angles on the circle, 2^(L-1) - 1 angles in a quarter of it
(radii are not negative) and one radius. Back, from the top: r_{2j-1} = r cos psi, r_{2j} = r sin psi.

**What is stored** by default, as in the paper: L = 4, so one float16 radius for each block of 16, and 4, 2, 2, 2
bits an angle: 16 + 8*4 + 4*2 + 2*2 + 2 = 62 bits, 3.875 a coordinate. The radii are not quantized any further, so
that ||x'|| = ||x||, and there is no norm to store beside them.

**Scale.** An angle that is off shortens the part of x' along x: E <y, x'> = s <y, x>, s the product over the levels
of E cos(psi - theta), 0.984 by default (`angle` has the exact laws). scale="unbiased" divides what is decoded by s,
a constant that no code has to hold; inner products are then exactly unbiased. It is not in the paper.

**Where code and paper differ.** The paper's analysis preconditions with a Gaussian sketch, S x ~ N(0, ||x||^2 I)
(its Fact 3 leaves out the norm); its experiments, and this file, with a rotation: the angles have the same law, and
the norm is that of x. The closed form of the inverse is printed with floor(i / 2^l) for i from 1; ceil is meant.
Its k-means++ is here Lloyd's algorithm from a fixed start. Level 1 is treated as a circle; the paper does not say.

**The name.** Two other things are called PolarQuant: a NeurIPS 2025 paper that codes pairs of rotary channels by the
minimum and maximum of radius and angle, without a rotation; and, in some ports, the first stage of TurboQuant, which
has no angles at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import angle
from . import codebook as codebooks
from . import rotation as rotations
from .codes import as_weights, check_code, encode, outer_product, prepare, to_packed
from .generator import seed_of
from .packing import Packed, Record, Scalar, fingerprint
from .vectors import as_rows, check_bits, check_dimension, check_integer, norm_and_unit

__all__ = [
    "BITS",
    "SCALES",
    "PolarCode",
    "Quantizer",
    "dequantize",
    "encode",
    "inner_product",
    "inverse",
    "pack",
    "prepare",
    "quantize",
    "setup",
    "setup_online",
    "to_original",
    "to_packed",
    "trace",
    "transform",
    "unpack",
    "weighted_sum",
]

BITS = (4, 2, 2, 2)
"""The paper's bits an angle at levels 1 to 4: the circle of level 1 is four times as long as the others' quarter."""

SCALES = ("norm", "unbiased")
Reals = NDArray[np.floating[Any]]
TURN = 2 * math.pi


# ---------------------------------------------------------------------------------------- the transform


def _check_levels(d: int, levels: int) -> int:
    levels = check_integer(levels, "levels", 1, angle.MAX_LEVEL)
    if d % 2**levels:
        raise ValueError(f"d must be a multiple of 2**{levels} = {2**levels} for {levels} levels, got {d}")
    return levels


def _wrap(psi: Reals) -> Reals:
    """An angle from -2 pi to 2 pi as one in [0, 2 pi); what rounds up to 2 pi is 0."""
    turned = np.where(psi < 0, psi + TURN, psi)
    return np.where(turned < TURN, turned, 0).astype(psi.dtype, copy=False)


def _levels(rows: Reals, levels: int) -> list[tuple[Reals, Reals]]:
    """Definition 1: the (angles, radii) of each level, both (…, d / 2^l)."""
    tree = []
    r = rows
    for _ in range(levels):
        first, second = r[..., 0::2], r[..., 1::2]
        psi, r = _wrap(np.arctan2(second, first)), np.hypot(first, second)
        tree.append((np.where(r > 0, psi, 0).astype(r.dtype, copy=False), r))  # atan2(0, -0) would be pi
    return tree


def transform(x: ArrayLike, levels: int) -> tuple[Reals, tuple[Reals, ...]]:
    """The recursive polar transform of Definition 1, of each block of 2^levels coordinates.

    Parameters
    ----------
    x : (…, d) array of float16, float32, float64 or integers
        d a multiple of 2^levels; d = 2^levels is the paper's full transform.
    levels : int
        L, at least 1.

    Returns
    -------
    radii : (…, d / 2^L)
        The norm of each block, not negative.
    angles : tuple of L arrays (…, d / 2^l), l = 1 .. L
        Level 1 in [0, 2 pi), the others in [0, pi/2].  The angle of (0, 0), a block that is zero, is 0.

    Raises
    ------
    TypeError, ValueError
        For a bad dtype or shape, NaN or infinity; or where a radius exceeds the largest number of the dtype.
    """
    rows = as_rows(x)
    levels = _check_levels(rows.shape[-1], levels)
    with np.errstate(over="ignore", under="ignore"):
        tree = _levels(rows, levels)
    radii = tree[-1][1]
    if not np.all(np.isfinite(radii)):
        raise ValueError(f"x: a radius exceeds the largest {rows.dtype}; scale the data down")
    return radii, tuple(psi for psi, _ in tree)


def inverse(radii: ArrayLike, angles: Sequence[ArrayLike]) -> Reals:
    """The inverse of `transform`: from the top, r -> (r cos psi, r sin psi).

    Parameters
    ----------
    radii : (…, n) float32 or float64
    angles : sequence of L arrays (…, n 2^(L-l)), l = 1 .. L
        In radians, of any turn; computed with in the dtype of `radii`.

    Returns
    -------
    (…, n 2^L) array

    Raises
    ------
    TypeError, ValueError
        If `radii` is not of these dtypes, or the shapes do not fit.
    """
    r = np.asarray(radii)
    if r.dtype not in (np.float32, np.float64):
        raise TypeError(f"radii has dtype {r.dtype}, allowed are float32 and float64")
    for level in range(len(angles), 0, -1):
        psi = np.asarray(angles[level - 1], dtype=r.dtype)
        if r.ndim == 0 or psi.shape != r.shape:
            raise ValueError(f"angles of level {level} have shape {psi.shape}, expected {r.shape}")
        r = np.stack((r * np.cos(psi), r * np.sin(psi)), axis=-1).reshape(*r.shape[:-1], 2 * r.shape[-1])
    return r


# ---------------------------------------------------------------------------------------- the quantizer


@dataclass(frozen=True, eq=False)
class Quantizer:
    """What both sides must know: the rotation, a codebook of angles for each level, and the scale rule.

    Attributes
    ----------
    d : int
        Dimension, a multiple of 2^L.
    codebooks : tuple of L codebooks
        Of the levels 1 .. L, in radians.
    rotation : Rotation or None
        Pi; None does not precondition (the paper's plain PolarQuant; with a rotation it is PolarQuant-R).
    scale : {"norm", "unbiased"}
        What is decoded has the norm of x, or unbiased inner products; see the module's docstring.
    origin : float
        Where on the circle the angles of level 1 are counted from: 0, but for codebooks fitted to data.
    """

    algorithm: ClassVar[str] = "polar"
    d: int
    codebooks: tuple[codebooks.Codebook, ...]
    rotation: rotations.Rotation | None = None
    scale: str = "norm"
    origin: float = 0.0

    def __post_init__(self) -> None:
        _check_levels(check_dimension(self.d), len(self.codebooks))
        for level, book in enumerate(self.codebooks, 1):
            check_bits(book.bits, f"bits of level {level}")
        if self.rotation is not None and self.rotation.d != self.d:
            raise ValueError(f"rotation: expected dimension {self.d}, got {self.rotation.d}")
        if self.scale not in SCALES:
            raise ValueError(f"scale: expected one of {', '.join(SCALES)}, got {self.scale!r}")
        if self.scale == "unbiased" and self.rotation is None:
            raise ValueError("scale: 'unbiased' needs a random rotation; without one only 'norm' is allowed")
        if not 0 <= self.origin <= TURN:
            raise ValueError(f"origin: expected an angle from 0 to 2 pi, got {self.origin}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that `setup` knows this quantizer by."""
        return {"scale": self.scale}

    @property
    def levels(self) -> int:
        """Number of levels L; a block has 2^L coordinates."""
        return len(self.codebooks)

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits of an index, level by level."""
        return tuple(book.bits for book in self.codebooks)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of angles d / 2^l, level by level."""
        return tuple(self.d >> level for level in range(1, self.levels + 1))

    @cached_property
    def gain(self) -> float:
        """What is decoded is multiplied by this: 1, or 1/s for the unbiased scale."""
        return 1 / angle.slope(self.codebooks) if self.scale == "unbiased" else 1.0

    @property
    def record(self) -> Record:
        """Layout of one packed vector: the indices of level 1, 2, .., each padded to a byte, then the radii."""
        streams = tuple(zip(self.counts, self.bits, strict=True))
        return Record(streams, (Scalar("radius", count=self.counts[-1]),))

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer; its codes carry them."""
        rotation = "none" if self.rotation is None else self.rotation.identity
        books = [book.identity for book in self.codebooks]
        return fingerprint("polar", self.d, rotation, *books, self.scale, float(self.origin))

    def bytes_per_vector(self, scalars: str = "float16") -> int:
        """Bytes of one packed vector, radii and padding included; radii in float16 by default, as in the paper."""
        return self.record.bytes_per_vector(scalars)

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate of one packed vector, its float16 radii (not float32, as elsewhere) included."""
        return 8 * self.bytes_per_vector() / self.d


@dataclass(frozen=True, eq=False)
class PolarCode:
    """The code of a batch of vectors.

    Attributes
    ----------
    indices : (…, d - d / 2^L) uint8
        Of all angles: the d/2 of level 1, then the d/4 of level 2, and so on; ascending with the centroids.
    radii : (…, d / 2^L) float32 or float64
        The norm of each block; 0 decodes to zeros.
    fingerprint : bytes
        Of the quantizer that made it.
    """

    indices: NDArray[np.uint8]
    radii: Reals
    fingerprint: bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the batch."""
        return self.radii.shape[:-1]


def _check_bits(bits: Sequence[int]) -> tuple[int, ...]:
    if isinstance(bits, str) or not isinstance(bits, Sequence | np.ndarray) or len(bits) == 0:
        raise TypeError(f"bits must be a sequence of bits, one a level, like {BITS}; got {bits!r}")
    return tuple(check_bits(b, f"bits of level {level}") for level, b in enumerate(bits, 1))


def _rotation(d: int, rng: int | np.random.Generator, kind: rotations.Kind | None) -> rotations.Rotation | None:
    seed = seed_of(rng)  # checked, and drawn, whether it is used or not
    return None if kind is None else rotations.setup(d, seed, kind)


def setup(
    d: int,
    bits: Sequence[int] = BITS,
    rng: int | np.random.Generator = 0,
    rotation: rotations.Kind | None = "haar",
    scale: str = "norm",
) -> Quantizer:
    """Draw Pi, and solve Eq 4 for each level: the analytic ("offline") codebooks, never a function of data.

    Parameters
    ----------
    d : int
        Dimension, a multiple of 2^L.
    bits : sequence of L ints
        Bits of an angle, 1 to 8, at level 1, 2, .., L: their number is the number of levels.  L = log2 d is the
        paper's full transform, with one radius a vector.
    rng : int or numpy.random.Generator
        A seed 0 <= rng < 2**64, or a generator that one is drawn from.
    rotation : {"haar", "structured", None}
        How x is preconditioned.  Without it the codebooks are of the wrong law, unless x is isotropic by itself.
    scale : {"norm", "unbiased"}
        See the module's docstring.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    d, bits = check_dimension(d), _check_bits(bits)
    _check_levels(d, len(bits))
    books = tuple(angle.codebook(level, b) for level, b in enumerate(bits, 1))
    return Quantizer(d, books, _rotation(d, rng, rotation), scale)


def setup_online(
    x: ArrayLike,
    bits: Sequence[int] = BITS,
    rng: int | np.random.Generator = 0,
    rotation: rotations.Kind | None = "haar",
) -> Quantizer:
    """Draw Pi, and fit a codebook to the angles of x at each level (section 4.1: "online", once a prompt and layer).

    See `angle.fit`; blocks that are zero are left out.  These codebooks must be kept beside the codes: the sum of
    2^bits numbers a batch, which `stored_bits` does not count.

    Parameters
    ----------
    x : (…, d) array
    bits, rng, rotation
        As in `setup`.

    Raises
    ------
    TypeError, ValueError
        As in `setup`; or where a level has fewer distinct angles than centroids.
    """
    rows = as_rows(x)
    d, bits = rows.shape[-1], _check_bits(bits)
    _check_levels(d, len(bits))
    Pi = _rotation(d, rng, rotation)
    tree = _levels(_apply(Pi, norm_and_unit(rows)[1]), len(bits))
    fitted = [angle.fit(level, bits[level - 1], psi[r > 0]) for level, (psi, r) in enumerate(tree, 1)]
    return Quantizer(d, tuple(book for book, _ in fitted), Pi, "norm", fitted[0][1])


# ---------------------------------------------------------------------------------------- the verbs


def _apply(Pi: rotations.Rotation | None, x: Reals) -> Reals:
    return x if Pi is None else Pi.apply(x)


def _centroids(Q: Quantizer, indices: NDArray[np.uint8], dtype: Any) -> tuple[Reals, ...]:
    """theta, level by level, from 0 on the circle."""
    parts = np.split(indices, np.cumsum(Q.counts)[:-1], axis=-1)
    first, *rest = (codebooks.look_up(book, i, dtype) for book, i in zip(Q.codebooks, parts, strict=True))
    return (first + first.dtype.type(Q.origin), *rest)


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = _apply(Q.rotation, unit)
    tree = _levels(rotated, Q.levels)
    angles = tuple(psi for psi, _ in tree)
    counted = (_wrap(angles[0] - rows.dtype.type(Q.origin)), *angles[1:])
    indices = [codebooks.nearest(book, psi) for book, psi in zip(Q.codebooks, counted, strict=True)]
    joined = np.concatenate(indices, axis=-1)
    return {
        "x": rows,
        "norm": norms,
        "unit": unit,
        "rotated": rotated,
        "angles": angles,
        "radii": norms[..., None] * np.minimum(tree[-1][1], 1),  # 1 + an ulp must not turn the largest norm into inf
        "indices": joined,
        "centroids": _centroids(Q, joined, rows.dtype),
    }


def quantize(Q: Quantizer, x: ArrayLike) -> PolarCode:
    """PolarQuant: the index of every angle, and the radius of every block.

    Parameters
    ----------
    Q : Quantizer
    x : (…, d) array of float16, float32, float64 or integers
        Vectors of any norm; float16 is computed in float32, integers in float64.

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, NaN or infinity; before any work is done.
    """
    steps = _quantize(Q, x)
    return PolarCode(steps["indices"], steps["radii"], Q.fingerprint)


def _decode(Q: Quantizer, code: PolarCode) -> Reals:
    """z', in the rotated basis, times the gain."""
    check_code(Q, code, PolarCode)
    dtype = code.radii.dtype
    return np.asarray(dtype.type(Q.gain) * inverse(code.radii, _centroids(Q, code.indices, dtype)))


def dequantize(Q: Quantizer, code: PolarCode) -> Reals:
    """x' = Pi^T z', z' the inverse transform of the radii and the centroids.  With scale "norm", ||x'|| = ||x||.

    Returns
    -------
    (…, d) array in the dtype of the code's radii
    """
    return to_original(Q, _decode(Q, code))


def inner_product(Q: Quantizer, y: ArrayLike, code: PolarCode) -> Reals:
    """Estimates of <y, x> for every pair, in the rotated basis: <Pi y, z'>.  Each query is rotated once, no z' is.

    Returns
    -------
    (*A, *B) array for queries (*A, d) and a code of shape B
    """
    z = _decode(Q, code)
    norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    estimates = outer_product(_apply(Q.rotation, query), z)
    return np.asarray(estimates * norms.reshape(norms.shape + (1,) * len(code.shape)))


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: PolarCode) -> Reals:
    """sum_j w_j z'_j for each row of weights (…, n), in the rotated basis: attention's second half."""
    z = _decode(Q, code)
    return np.asarray(as_weights(weights, code.shape) @ z)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: Pi^T of it."""
    return total if Q.rotation is None else Q.rotation.inverse(total)


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every step by name, in order.

    x, norm, unit, rotated, angles_1 .. angles_L, radii, indices (of all levels), centroids_1 .. centroids_L,
    cartesian (z', in the rotated basis), decoded.
    """
    steps = _quantize(Q, x)
    code = PolarCode(steps["indices"], steps["radii"], Q.fingerprint)
    flat: dict[str, Any] = {}
    for name, value in steps.items():
        levels = value if isinstance(value, tuple) else ()
        flat.update({f"{name}_{level}": v for level, v in enumerate(levels, 1)} or {name: value})
    return {**flat, "cartesian": _decode(Q, code), "decoded": dequantize(Q, code)}


def pack(Q: Quantizer, code: PolarCode, scalars: str = "float16") -> Packed:
    """The code as portable bytes: the indices level by level, then the radii as `scalars`, the paper's float16.

    Raises
    ------
    TypeError, ValueError
        For a code of another quantizer, an unknown scalar dtype, or a radius outside its normal range.
    """
    check_code(Q, code, PolarCode)
    parts = np.split(code.indices, np.cumsum(Q.counts)[:-1], axis=-1)
    return Q.record.pack(parts, [code.radii], scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> PolarCode:
    """The inverse of `pack`, up to the rounding of the radii.

    Raises
    ------
    TypeError, ValueError
        For what is not a `Packed`, bytes of another quantizer, of the wrong length, or impossible ones.
    """
    indices, (radii,) = Q.record.unpack(packed, Q.fingerprint)
    return PolarCode(np.concatenate(indices, axis=-1), radii, Q.fingerprint)
