"""What known mistakes look like: the exact slope, variance and distortion of a quantizer that makes one of them.

To second order a quantizer of this family is a few numbers (notation of `theory`): s = E <z, q> and e = E ||q||²
of its first stage, the gain g of its QJL term (0 without one, 1 if it is right), the law of its sketch.  With D =
1 - 2s + e, X = (1 - s)² + V, V = Var <z, q>,

    slope = s + g (1 - s);   along = d (1-g)² V + g² (u₀ (D - X) + u₁ X);   across = (1-g)² d R + g² (u₀ (D - R) +
    u₁ R)

with R = (D - X)/(d - 1) and u₀, u₁ the scaled variances of a QJL across and along its input.  For a mistake these
numbers are others, and what the kit measures follows.  s and e are integrals over the cells of any table; for a
rotation that is not random, sums over the known coordinates of the rotated input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .. import alignment, codebook, signature, sphere, theory, variants
from .statistics import Claim
from .tables import DECODERS, TABLES, Table, exact

__all__ = ["MISTAKES", "Mistake", "predictions", "right_stages"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stages:
    """The numbers of the module's docstring for one (d, bits, inputs), and what they come from."""

    d: int
    bits: int  # of the first stage
    gain: float
    sketch: str
    scale: str
    inputs: str
    table: Table | None = None
    image: tuple[Floats, Floats] | None = None  # rotated coordinates and how many there are of each

    def first(self) -> tuple[float, float]:
        """(s, e) of the first stage, its scale included."""
        if self.bits < 1:
            return 0.0, 0.0
        boundaries, centroids = self.table or exact(self.d, self.bits)
        if self.image is not None:
            t, n = self.image
            q = centroids[np.searchsorted(boundaries, t, side="right")]
            s, e = float(n @ (t * q)), float(n @ (q * q))
        else:
            law = sphere.Coordinate(self.d)
            edges = np.clip(np.concatenate([[-1.0], boundaries, [1.0]]), -1, 1)
            s = float(self.d * centroids @ law.partial_mean(edges[:-1], edges[1:]))
            e = float(self.d * centroids**2 @ law.probability(edges[:-1], edges[1:]))
        factor = {"norm": 1.0, "matched": e**-0.5, "least_squares": s / e, "unbiased": 1 / s}[self.scale]
        return factor * s, factor**2 * e

    def _variance(self) -> float:
        """Var <z, q>, for any table, by the two identities of `alignment.variance`; the scale is taken as fixed."""
        if self.table is None:
            return alignment.variance(self.d, self.bits)
        boundaries, centroids = self.table
        return _alignment(self.d, tuple(boundaries.tolist()), tuple(centroids.tolist()))

    def moments(self) -> theory.Moments:
        """Slope and variances, by the formulas of the module's docstring."""
        d, g = self.d, self.gain
        unit = theory.qjl(d, d, self.sketch)
        s, e = self.first()
        V = 0.0 if self.bits < 1 or self.image is not None else self._variance()
        D, X = 1 - 2 * s + e, (1 - s) ** 2 + V
        R = (D - X) / (d - 1)
        along = d * (1 - g) ** 2 * V + g * g * (unit.across * (D - X) + unit.along * X)
        across = (1 - g) ** 2 * d * R + g * g * (unit.across * (D - R) + unit.along * R)
        return theory.Moments(d, s + g * (1 - s), along, across)


@lru_cache(maxsize=1024)
def _alignment(d: int, boundaries: tuple[float, ...], centroids: tuple[float, ...]) -> float:
    inner, c = np.array(boundaries), np.array(centroids)
    inside = inner[np.abs(inner) < 1]
    edges = np.unique(np.concatenate([np.linspace(-1, 1, 65), np.linspace(-8, 8, 65) / max(8, math.sqrt(d)), inside]))
    t, w = (a.ravel() for a in sphere.Coordinate(d).quadrature(edges[:-1], edges[1:]))
    t, w = t[w > 1e-16], w[w > 1e-16]
    q = c[np.searchsorted(inner, t, side="right")]
    mean = d * float(w @ (t * q))
    own = mean * t * t - t * q
    s = np.sqrt((1 - t) * (1 + t))
    cells = np.clip(np.concatenate([[-1.0], inner, [1.0]])[:, None] / s, -1, 1)
    other = mean * s * s / (d - 1) - s * (c @ sphere.Coordinate(d - 1).partial_mean(cells[:-1], cells[1:]))
    return float(d * (w @ (own * own)) + d * (d - 1) * (w @ (own * other)))


def right_stages(claim: Claim, d: int, bits: int, inputs: str) -> Stages:
    """The numbers of a right implementation of Algorithm 1 or 2."""
    options = claim.variant.options
    prod = claim.algorithm == "prod"
    sketch, scale = options.get("sketch", "gaussian"), options.get("scale", "norm")
    return Stages(d, bits - prod, float(prod), sketch, scale, inputs)


# ------------------------------------------------------------------------------------------------------- mistakes


@dataclass(frozen=True)
class Mistake:
    """A known mistake: its name, where to look, and what a quantizer that makes it measures.

    `moments` (claim, d, bits, inputs) is None where the mistake says nothing, or cannot be made; a number that it
    changes but nobody has computed is NaN.
    """

    name: str
    where: str
    moments: Callable[[Claim, int, int, str], theory.Moments | None]


def _with_table(table: Callable[[int, int], Table]) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        right = right_stages(claim, d, bits, inputs)
        return right.moments() if right.bits < 1 else replace(right, table=table(d, right.bits)).moments()

    return moments


def _with_gain(
    gain: Callable[[int, float], float], sketch: str = ""
) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    """prod with its QJL term g times too large; `gain` is told d and √D of the first stage."""

    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        if claim.algorithm != "prod":
            return None
        right = right_stages(claim, d, bits, inputs)
        root = math.sqrt(theory.mse(d, right.bits)) if right.bits else 1.0
        return replace(right, gain=gain(d, root), sketch=sketch or right.sketch).moments()

    return moments


def _residual_left_out(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
    """The constant 1 in the place of ||r||."""
    if claim.algorithm != "prod":
        return None
    book = codebook.lloyd_max(d, bits - 1)
    return theory.of_two_stages(d, book, right_stages(claim, d, bits, inputs).sketch, 1.0)


def _residual_twice(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
    """||r||² for ||r||: a gain of ||r||, whose own variance counts along x, and everywhere in few dimensions."""
    found = _with_gain(lambda d, root: root)(claim, d, bits, inputs)
    return found and replace(found, along=math.nan, across=found.across if d >= 64 else math.nan)


def _with_bits(more: int, algorithm: str) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        right = right_stages(claim, d, bits, inputs)
        if claim.algorithm != algorithm or right.bits + more < 0 or (algorithm == "mse" and right.bits + more < 1):
            return None
        return replace(right, bits=right.bits + more).moments()

    return moments


def _only_mse(scale: str) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        return theory.moments("mse", d, bits, scale=scale) if claim.algorithm == "prod" else None

    return moments


def _sketch_of_x(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
    """The signs of S x instead of S r, weighted with ||r||: slope 1 - D + √D."""
    right = right_stages(claim, d, bits, inputs)
    if claim.algorithm != "prod" or right.bits < 1:
        return None
    base, unit = theory.moments("mse", d, right.bits), theory.qjl(d, d, right.sketch)
    D = base.distortion
    return theory.Moments(d, base.slope + math.sqrt(D), math.nan, base.across + D * unit.across)


def _image(inputs: str, d: int, rotated: str) -> tuple[Floats, Floats] | None:
    """The coordinates of a special input after no rotation, or after one Hadamard transform."""
    k = {"one-hot": 1, "two-hot": 2, "4-sparse": 4}.get(inputs, 0)
    power = d & (d - 1) == 0
    flat = np.array([1.0, -1.0]) / math.sqrt(d), np.array([d / 2, d / 2])
    if rotated == "not":
        if k:
            return np.array([1.0, -1.0, 0.0]) / math.sqrt(k), np.array([k / 2, k / 2, d - k])
        return flat if inputs == "constant" else None
    if not power or inputs not in ("one-hot", "two-hot", "4-sparse", "constant"):
        return None
    if inputs == "constant":  # of signs in runs of powers of two: one coordinate takes all
        return (np.array([1.0, -1.0, 0.0]), np.array([0.5, 0.5, d - 1.0])) if rotated == "unsigned" else None
    ups = np.arange(k + 1)
    return (2 * ups - k) / math.sqrt(k * d), np.array([math.comb(k, i) * d / 2**k for i in ups])


def _rotated(rotated: str) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        right = right_stages(claim, d, bits, inputs)
        if inputs == "random":
            return claim.moments(d, bits)
        image = _image(inputs, d, rotated)
        return None if image is None else replace(right, image=image).moments()

    return moments


@dataclass(frozen=True)
class _OneDistortion(theory.Moments):
    """Only a distortion: what is known of an input of which the moments are not."""

    only: float = math.nan

    @property
    def distortion(self) -> float:
        """E ||x - x̂||²."""
        return self.only


def _unrelated(cosine: Callable[[int], float]) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    """x̂ of the right length in a direction that has little to do with x."""

    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        if claim.algorithm != "mse":
            return None
        s, e = right_stages(claim, d, bits, inputs).first()
        return theory.Moments(d, s * cosine(d), e, e)

    return moments


def _signs_twice(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
    """x̂ with random signs on its coordinates: E (Σ ±x_i²)² = 3/(d + 2)."""
    if claim.algorithm != "mse":
        return None
    s, e = right_stages(claim, d, bits, inputs).first()
    along = 3 * s * s * d / (d + 2) + e - s * s
    return theory.Moments(d, 0.0, along, (d * e - along) / (d - 1))


@lru_cache(maxsize=1024)
def _signature(name: str, d: int, bits: int) -> signature.Signature | None:
    try:
        return variants.find(name).exact(d, bits)
    except ValueError:
        return None


def _is_variant(variant: variants.Variant) -> Callable[[Claim, int, int, str], theory.Moments | None]:
    def moments(claim: Claim, d: int, bits: int, inputs: str) -> theory.Moments | None:
        found = _signature(variant.name, d, bits)
        if variant.name == claim.name or found is None:
            return None
        if inputs != "random" and not variant.for_every_x:
            value = {"one-hot": found.one_hot, "constant": found.constant}.get(inputs)
            return None if value is None else _OneDistortion(d, math.nan, math.nan, math.nan, value)
        if found.slope is None or found.along is None or found.across is None:
            return None
        return theory.Moments(d, found.slope, found.along, found.across)

    return moments


_OTHERS = (  # of `variants.WILD` those that no other mistake stands for
    *("authors-mse", "authors-prod", "authors-outliers", "faiss-eden", "faiss-tq", "mse-ecsq"),
    *("mse-blocks-32", "mse-blocks-64", "mse-outliers", "turbo3-turbo4", "vllm"),
)

_QJL = "the constant of the QJL term must be √(π/2)/m for S with N(0, 1) entries, and √(π/2)·√d/m for rows of norm 1"

MISTAKES: tuple[Mistake, ...] = (
    Mistake(
        "QJL term divided by √d once too often",
        f"S has rows of norm 1 already, and is divided again: {_QJL}",
        _with_gain(lambda d, _: d**-0.5),
    ),
    Mistake(
        "QJL term missing", "only the b - 1 bits of the first stage reach the estimate", _with_gain(lambda d, _: 0.0)
    ),
    Mistake("QJL term multiplied by √d once too often", _QJL, _with_gain(lambda d, _: d**0.5)),
    Mistake(
        "QJL term with the wrong sign",
        "stored bit 1 is +1; the residual is x - x̂, not x̂ - x",
        _with_gain(lambda d, _: -1.0),
    ),
    Mistake("π/2 instead of √(π/2)", _QJL, _with_gain(lambda d, _: math.sqrt(math.pi / 2))),
    Mistake("√(π/2) left out", _QJL, _with_gain(lambda d, _: math.sqrt(2 / math.pi))),
    Mistake("√(2/π) instead of √(π/2)", _QJL, _with_gain(lambda d, _: 2 / math.pi)),
    Mistake(
        "residual norm left out",
        "the QJL term must be multiplied by ||r||, relative to ||x||",
        _residual_left_out,
    ),
    Mistake(
        "residual norm multiplied twice",
        "the QJL term must be multiplied by ||r|| once",
        _residual_twice,
    ),
    Mistake(
        "sketch of x, not of the residual", "the signs must be those of S r, r = x - x̂ of the first stage", _sketch_of_x
    ),
    Mistake(
        "orthogonal S with the Gaussian constant",
        "for orthogonal rows of norm √d the constant is 1/(m μ), μ = √d E|u_1|; √(π/2)/m is too large by 1 + 1/(4d)",
        _with_gain(lambda d, _: theory.kappa(d), "orthogonal"),
    ),
    Mistake(
        "one bit too many",
        "the bit of the sign is not counted: the first stage must have b - 1 bits",
        _with_bits(1, "prod"),
    ),
    Mistake("one bit too few", "the first stage must have b - 1 bits", _with_bits(-1, "prod")),
    Mistake("one bit too many", "2^b centroids, no more", _with_bits(1, "mse")),
    Mistake("one bit too few", "2^b centroids, no fewer", _with_bits(-1, "mse")),
    Mistake(
        "Algorithm 1 instead of Algorithm 2",
        "all b bits are in the first stage, which is biased: slope 1 - D",
        _only_mse("norm"),
    ),
    Mistake(
        "Algorithm 1 with matched norms instead of Algorithm 2",
        "decoding to the norm of x leaves the slope √(1 - D)",
        _only_mse("matched"),
    ),
    Mistake(
        "single Hadamard round",
        "one round of signs and H leaves sparse vectors on a lattice; two, with angles or signs between",
        _rotated("single"),
    ),
    Mistake(
        "Hadamard transform without signs before it",
        "signs after H, or none: the constant vector and every row of H land on one coordinate; signs go before H",
        _rotated("unsigned"),
    ),
    Mistake(
        "no rotation",
        "coordinates are quantized as they come (signs and permutations alone are no rotation)",
        _rotated("not"),
    ),
    Mistake("inverse rotation not transposed", "decode with Πᵀ, not with Π", _unrelated(lambda d: 1 / d)),
    Mistake(
        "inverse rotation wrong",
        "what is decoded has nothing to do with x: the inverse is left out, or of another seed",
        _unrelated(lambda d: 0.0),
    ),
    Mistake(
        "signs wrong in the inverse rotation",
        "what is decoded has random signs: they are applied twice, or not at all, in the inverse",
        _signs_twice,
    ),
    *(Mistake(name, where, _with_table(table)) for name, (table, where) in {**TABLES, **DECODERS}.items()),
    *(
        Mistake(
            f"it is {v.name}",
            f"another variant: {v.description}; if that is meant, say so with claims = {v.name!r}",
            _is_variant(v),
        )
        for v in (*variants.NAMED.values(), *map(variants.find, _OTHERS))
    ),
)
"""All of them; a name may stand for one mistake in several algorithms."""


def predictions(claim: Claim, d: int, bits: int, inputs: str) -> Iterator[tuple[Mistake, theory.Moments]]:
    """The mistakes that say something of these inputs, and what."""
    for mistake in MISTAKES:
        own = claim.variant.make is None and claim.algorithm in ("mse", "prod")
        if not own and not mistake.name.startswith("it is "):
            continue  # the mistakes are those of Algorithms 1 and 2
        try:
            found = mistake.moments(claim, d, bits, inputs)
        except (ValueError, ArithmeticError):
            continue
        if found is not None:
            yield mistake, found
