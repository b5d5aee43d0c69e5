"""RaBitQ (Gao et al.): rotate at random, round to a grid, and divide by the cosine (arXiv 2405.12497 and 2409.09913).

    Setup     Pi <- random rotation
    Quant     o' <- Pi x / ||x||;  g <- the point of G nearest to t o', for the t > 0 that makes cos(g, o') largest
    DeQuant   x~ <- ||x|| / <g, o'> Pi^T g

G is the grid {-(2^B - 1)/2, …, -1/2, 1/2, …, (2^B - 1)/2}^d of step 1; only the direction of g counts.  The house is
TurboQuant's, which came later (rotation, one index a coordinate, one scale); two things differ.  The levels are uniform
and stretched for every vector by its own t, where `mse` has one Lloyd-Max codebook.  And the scale is unbiased:

================  =========================  =====================  ======================================
scale             value, cos = cos(g, o')    RaBitQ-Library         what it is for
================  =========================  =====================  ======================================
"matched"         ||x|| / ||g||              "plain"                keeps ||x~|| = ||x||
"least_squares"   (||x|| / ||g||) cos        "reconstruction"       least ||x - x~||
"unbiased"        (||x|| / ||g||) / cos      "unbiased estimation"  E<y, x~> = <y, x>, surely if y = x
================  =========================  =====================  ======================================

The names are those of `mse.SCALES`; there is no "norm", as the grid has no units.  At B = 1 the grid is the signs, and
the code is EDEN's and DRIVE's: that of `mse` with the same Pi and scale.

One index a coordinate, 0 to 2^B - 1, ascending with it: g_i = index - (2^B - 1)/2.  The library has a sign bit and a
magnitude u = min(floor(t |o'_i|), 2^(B-1) - 1), |g_i| = u + 1/2; our index is 2^(B-1) + u where o'_i >= 0 and
2^(B-1) - 1 - u where it is not: the sign bit on top of the B - 1 bits of u, which are inverted under a sign of 0.

Its error bound.  The unbiased x~ is x plus an error orthogonal to x, of length ||x|| tan, tan = sqrt(1 - cos^2)/cos, in
a direction that Pi makes uniform.  So |<y, x~> - <y, x>| <= ||x|| ||y|| tan eps0 / sqrt(d - 1) but for a share of the
draws that `coverage` states exactly; RaBitQ takes eps0 = 1.9.  A bound needs tan, a second number a vector: it is
kept, packed and counted only with ``bound=True``.  (Stored is tan, not cos, from which 16 bits could not tell it.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import rotation as rotations
from . import sphere
from .codes import as_weights, check_code, encode, outer_product, prepare, times_norms, to_packed
from .generator import gaussians
from .packing import Packed, Record, Scalar, fingerprint
from .vectors import as_rows, check_bits, check_dimension, first_row, norm_and_unit

__all__ = [
    "RESCALES",
    "SCALES",
    "Quantizer",
    "RaBitQCode",
    "best_rescale",
    "coverage",
    "dequantize",
    "encode",
    "error_bound",
    "fast_rescale",
    "grid",
    "inner_product",
    "nearest",
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

SCALES = ("matched", "least_squares", "unbiased")
RESCALES = ("exact", "fast")
Reals = NDArray[np.floating[Any]]

SEED = int.from_bytes(b"RaBitQ", "big")
"""What the 100 vectors of `fast_rescale` are drawn from: 0x526142697451, stream 0."""

_TIE = 2.0**-40  # cosines closer than this are equal, as those of parallel grid points are: the smallest t wins
_LEAST_TANGENT = 2.0**-14  # a smaller tan is stored as this, the smallest that float16 keeps to 11 bits


def _check_option(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


@dataclass(frozen=True, eq=False)
class Quantizer:
    """What both sides must know: Pi, the bits B, the scale rule, how t is found, and whether a bound is kept."""

    algorithm: ClassVar[str] = "rabitq"
    rotation: rotations.Rotation
    bits: int
    scale: str = "unbiased"
    rescale: str = "exact"
    bound: bool = False

    def __post_init__(self) -> None:
        check_bits(self.bits)
        _check_option("scale", self.scale, SCALES)
        _check_option("rescale", self.rescale, RESCALES)
        if not isinstance(self.bound, bool):
            raise TypeError(f"bound must be True or False, got {self.bound!r}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that `setup` knows this quantizer by."""
        return {"scale": self.scale, "rescale": self.rescale, "bound": self.bound}

    @property
    def d(self) -> int:
        """Dimension."""
        return self.rotation.d

    @property
    def record(self) -> Record:
        """Layout of one packed vector."""
        scalars = (Scalar("scale"), Scalar("tangent")) if self.bound else (Scalar("scale"),)
        return Record(((self.d, self.bits),), scalars)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer; its codes carry them."""
        kept = "bound" if self.bound else "no bound"
        return fingerprint("rabitq", self.rotation.identity, self.bits, self.scale, self.rescale, kept)

    def bytes_per_vector(self, scalars: str = "float32") -> int:
        """Bytes of one packed vector, side scalars and padding included."""
        return self.record.bytes_per_vector(scalars)

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate of one packed vector, its float32 scale, and tangent if it is kept, included."""
        return 8 * self.bytes_per_vector() / self.d


@dataclass(frozen=True, eq=False)
class RaBitQCode:
    """The code of a batch of vectors.

    Attributes
    ----------
    indices : (…, d) uint8
        Of the grid, ascending with the rotated coordinate.
    scales : (…) float32 or float64
        What Pi^T g is multiplied by; 0 for the zero vector.
    tangents : (…) float32 or float64, or None
        sqrt(1 - cos^2) / cos, at least 2^-14, for `error_bound`; 0 for the zero vector; None unless ``bound=True``.
    fingerprint : bytes
        Of the quantizer that made it.
    """

    indices: NDArray[np.uint8]
    scales: Reals
    tangents: Reals | None
    fingerprint: bytes


def setup(
    d: int,
    bits: int,
    rng: int | np.random.Generator,
    rotation: rotations.Kind = "haar",
    scale: str = "unbiased",
    rescale: str = "exact",
    bound: bool = False,
) -> Quantizer:
    """RaBitQ's setup: draw Pi.

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    bits : int
        Bits B a coordinate, 1 to 8, the sign bit included.
    rng : int or numpy.random.Generator
        A seed 0 <= rng < 2**64, or a generator that one is drawn from.
    rotation : {"haar", "structured"}
        Kind of Pi.
    scale : {"matched", "least_squares", "unbiased"}
        The scale rule; see the module's table.
    rescale : {"exact", "fast"}
        t found for every vector (`best_rescale`), or one constant for all of them (`fast_rescale`).
    bound : bool
        Whether the tangent is kept beside the scale, for `error_bound`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    d, bits = check_dimension(d), check_bits(bits)
    _check_option("scale", scale, SCALES)
    _check_option("rescale", rescale, RESCALES)
    return Quantizer(rotations.setup(d, rng, rotation), bits, scale, rescale, bound)


def nearest(z: Reals, t: Reals, bits: int) -> NDArray[np.uint8]:
    """The index of the grid point nearest to t z for given t (…): u = min(floor(t |z_i|), 2^(B-1) - 1) and the sign.

    As one formula: floor(t z_i) + 2^(B-1), cut to 0 … 2^B - 1, in the dtype of z.  A tie takes the upper index, for
    a negative z_i too, and z_i = 0 is positive.
    """
    half = 2 ** (bits - 1)
    indices: NDArray[np.uint8] = np.clip(np.floor(z * t[..., None]) + half, 0, 2 * half - 1).astype(np.uint8)
    return indices


def grid(indices: NDArray[np.uint8], bits: int, dtype: DTypeLike) -> Reals:
    """The coordinates g_i = index - (2^B - 1)/2, exact in every dtype."""
    return np.asarray(indices.astype(dtype) - np.asarray((2**bits - 1) / 2, dtype=dtype))


def best_rescale(z: Reals, bits: int) -> NDArray[np.float64]:
    """The t of each row of z for which the grid point nearest to t z has the largest cosine with z: the exact search.

    As t grows from 0, where g = (±1/2, …), one |g_i| goes up by 1 at each breakpoint t = k / |z_i|, for k from 1 to
    2^(B-1) - 1; then <g, z> grows by |z_i| and ||g||^2 by 2k.  Sorted, the d (2^(B-1) - 1) breakpoints are all the
    candidates there are.  And the best of them is the best of *all* 2^(Bd) grid points: the g of the largest cosine
    is the point nearest to t z for t = ||g||^2 / <g, z>, since ||g' - t z||^2 - ||t z||^2 = ||g'||^2 - 2t <g', z> is
    at least -||g||^2 for every g' of no larger cosine.

    Parameters
    ----------
    z : (…, d) array
    bits : int
        B, 1 to 8.

    Returns
    -------
    (…) float64
        That t = ||g||^2 / <g, z>, inside the best interval (the library's is its lower end); 1 for the zero row.
    """
    rows = np.abs(z).reshape(-1, z.shape[-1]).astype(np.float64)
    k = np.arange(1, 2 ** (check_bits(bits) - 1))
    block = max(1, 2**21 // max(1, rows.shape[-1] * len(k)))  # rows at a time: 16 MiB of breakpoints
    t = [_sweep(rows[i : i + block], k) for i in range(0, len(rows), block)]
    return np.concatenate([np.zeros(0), *t]).reshape(z.shape[:-1])


def _sweep(rows: NDArray[np.float64], k: NDArray[np.int64]) -> NDArray[np.float64]:
    """`best_rescale` for (n, d) rows of magnitudes: <g, z> and ||g||^2 at every breakpoint, as running sums."""
    n, d = rows.shape
    with np.errstate(divide="ignore", over="ignore"):  # a zero has its breakpoints at infinity
        breaks = (k / rows[:, :, None]).reshape(n, -1)
    order = np.argsort(breaks, axis=-1, kind="stable")
    coordinate, step = order // max(1, len(k)), k[order % max(1, len(k))]
    dots = np.cumsum(np.column_stack([rows.sum(-1) / 2, np.take_along_axis(rows, coordinate, axis=-1)]), axis=-1)
    squares = np.cumsum(np.column_stack([np.full(n, d / 4), 2 * step]), axis=-1)
    cosines = dots / np.sqrt(squares)
    best = np.argmax(cosines >= (1 - _TIE) * cosines.max(axis=-1, keepdims=True), axis=-1)[:, None]
    dot, square = (np.take_along_axis(a, best, axis=-1)[:, 0] for a in (dots, squares))
    return np.where(dot > 0, square / np.where(dot > 0, dot, 1), 1.0)


@lru_cache
def fast_rescale(d: int, bits: int) -> float:
    """The constant t of the fast quantizer: the mean of `best_rescale` over 100 uniform unit vectors.

    The library draws them anew in each process.  Here they are the rows of ``generator.gaussians(SEED, 0, 100 d)``,
    normalised: t is a function of (d, B), the same in every language, to rounding.

    A mean of t is not the best constant.  It costs little up to 4 bits; above, it overloads every vector whose largest
    coordinate is larger than usual: at d = 128 and B = 8 the MSE is 18 times that of the exact search.
    """
    z = gaussians(SEED, 0, 100 * check_dimension(d)).reshape(100, d)
    return float(best_rescale(z / np.linalg.norm(z, axis=-1, keepdims=True), bits).mean())


def _scales(rule: str, norms: Reals, dot: Reals, length: Reals) -> Reals:
    """The table of the module's docstring, from <g, o'> and ||g||; 0 for the zero vector."""
    factor = {"matched": 1 / length, "least_squares": dot / length**2, "unbiased": 1 / dot}[rule]
    with np.errstate(over="ignore"):
        scales = np.asarray(norms * factor, dtype=norms.dtype)
    overflow = np.isinf(scales)
    if overflow.any():
        limit = f"the largest {scales.dtype}, {np.finfo(scales.dtype).max:.6g}"
        raise ValueError(f"x: the {rule!r} scale of row {first_row(overflow)} exceeds {limit}; scale the data down")
    return scales


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = as_rows(x, Q.d)
    norms, unit = norm_and_unit(rows)
    rotated = Q.rotation.apply(unit)
    if Q.rescale == "exact":
        t = best_rescale(rotated, Q.bits).astype(rotated.dtype)
    else:
        t = np.full(norms.shape, fast_rescale(Q.d, Q.bits), dtype=rotated.dtype)
    indices = nearest(rotated, t, Q.bits)
    g = grid(indices, Q.bits, rotated.dtype)
    zero = norms == 0
    dot, length = np.where(zero, 1, (rotated * g).sum(-1)), np.sqrt((g * g).sum(-1))
    cosine = np.where(zero, 1, dot / length)
    error = g / dot[..., None] - rotated  # of the unbiased estimate: orthogonal to x, and of length tan
    tangent = np.where(zero, 0, np.maximum(np.sqrt((error * error).sum(-1)), _LEAST_TANGENT))
    return {
        "x": rows,
        "norm": norms,
        "unit": unit,
        "rotated": rotated,
        "rescale": t,
        "indices": indices,
        "grid": g,
        "cosine": cosine.astype(norms.dtype),
        "tangent": tangent.astype(norms.dtype),
        "scale": _scales(Q.scale, norms, dot, length),
    }


def quantize(Q: Quantizer, x: ArrayLike) -> RaBitQCode:
    """RaBitQ's code of each row of x.

    Parameters
    ----------
    Q : Quantizer
    x : (…, d) array of float16, float32, float64 or integers
        Vectors of any norm; RaBitQ's are residuals from a centroid, which is the caller's to subtract.

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, NaN or infinity; before any work is done.
    """
    steps = _quantize(Q, x)
    return RaBitQCode(steps["indices"], steps["scale"], steps["tangent"] if Q.bound else None, Q.fingerprint)


def dequantize(Q: Quantizer, code: RaBitQCode) -> Reals:
    """The decoded vectors: scale * Pi^T g.

    Returns
    -------
    (…, d) array in the dtype of the code's scales
    """
    check_code(Q, code, RaBitQCode)
    return np.asarray(code.scales[..., None] * Q.rotation.inverse(grid(code.indices, Q.bits, code.scales.dtype)))


def inner_product(Q: Quantizer, y: ArrayLike, code: RaBitQCode) -> Reals:
    """Estimates of <y, x> for every pair: scale * <Pi y, g>; with the unbiased scale ||x|| <Pi y, g> / <o', g>.

    Returns
    -------
    (*A, *B) array for queries (*A, d) and a code of shape B
    """
    check_code(Q, code, RaBitQCode)
    query_norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    g = grid(code.indices, Q.bits, code.scales.dtype)
    return times_norms(outer_product(Q.rotation.apply(query), g), query_norms, code.scales)


def coverage(d: int, eps0: float = 1.9) -> float:
    """The probability over Pi that `error_bound` holds, for a y orthogonal to x; any other y has a smaller error.

    The error is ||x|| ||y|| tan times one coordinate of a uniform unit vector of the d - 1 dimensions orthogonal to x:
    1 - 2 P(T > eps0 / sqrt(d - 1)), 0.943 for large d and the library's eps0 = 1.9.
    """
    if check_dimension(d) == 2:
        return float(eps0 >= 1)
    return 1 - 2 * float(sphere.law(d - 1).sf(eps0 / math.sqrt(d - 1)))


def error_bound(Q: Quantizer, code: RaBitQCode, eps0: float = 1.9) -> Reals:
    """RaBitQ's bound on |estimate - <y, x>| / (||x|| ||y||) for the unbiased scale: tan * eps0 / sqrt(d - 1).

    It holds with a probability of at least ``coverage(d, eps0)`` over Pi, for each pair; see the module's docstring.

    Returns
    -------
    (…) array, a bound for each vector of the code

    Raises
    ------
    ValueError
        If the quantizer's scale is biased, or its codes do not keep the tangent.
    """
    check_code(Q, code, RaBitQCode)
    if Q.scale != "unbiased":
        raise ValueError(f"Q: the bound is for scale 'unbiased', this quantizer's is {Q.scale!r}")
    if code.tangents is None:
        raise ValueError("code: it keeps no tangent; set the quantizer up with bound=True")
    if not eps0 >= 0:
        raise ValueError(f"eps0: expected a number of at least 0, got {eps0!r}")
    return np.asarray(code.tangents * code.tangents.dtype.type(eps0 / math.sqrt(Q.d - 1)))


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: RaBitQCode) -> Reals:
    """sum_j w_j x~_j for each row of weights (…, n), left in the rotated basis: attention's second half."""
    check_code(Q, code, RaBitQCode)
    w = as_weights(weights, code.scales.shape)
    return (w * code.scales) @ grid(code.indices, Q.bits, code.scales.dtype)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis: Pi^T of it."""
    return Q.rotation.inverse(total)


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every step by name.

    x, norm, unit, rotated, rescale, indices, grid, cosine, tangent, scale, unrotated, decoded.
    """
    steps = _quantize(Q, x)
    unrotated = Q.rotation.inverse(steps["grid"])
    return {**steps, "unrotated": unrotated, "decoded": steps["scale"][..., None] * unrotated}


def pack(Q: Quantizer, code: RaBitQCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: d B-bit indices, then the scale and, if it is kept, the tangent, as `scalars`."""
    check_code(Q, code, RaBitQCode)
    values = [code.scales] if code.tangents is None else [code.scales, code.tangents]
    return Q.record.pack([code.indices], values, scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> RaBitQCode:
    """The inverse of `pack`, up to the rounding of the side scalars."""
    (indices,), (scales, *rest) = Q.record.unpack(packed, Q.fingerprint)
    return RaBitQCode(indices, scales, rest[0] if rest else None, Q.fingerprint)
