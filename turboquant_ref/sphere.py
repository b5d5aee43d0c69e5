"""The law of one coordinate of a uniformly random unit vector (TurboQuant, Lemma 1), and its Gaussian limit.

After a random rotation every unit vector is uniform on the sphere S^{d-1}, whatever it was before, and each of its
coordinates has the density

    f(t) = C_d (1 - t^2)^((d-3)/2),  |t| <= 1,     C_d = Gamma(d/2) / (sqrt(pi) Gamma((d-1)/2)),

that is, t^2 ~ Beta(1/2, (d-1)/2).  The variance is 1/d and sqrt(d) t tends to N(0, 1) (section 1.3 of the paper
misprints the limit as N(1, 1/d)).  Everything TurboQuant does to a coordinate is an integral of this density
over an interval; those integrals are here, in closed form and as quadrature rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .vectors import check_dimension

__all__ = ["Coordinate", "Gaussian", "Law", "law", "uniform"]

Floats = NDArray[np.float64]


class Law(Protocol):
    """A probability law on an interval, as `codebook.lloyd_max` needs it.

    ``support`` is the interval; ``center`` the point the density is symmetric about, or None; ``multiplicity`` how
    many independent coordinates share a unit of energy (distortions are multiplied by it: d on the sphere, so that
    they are relative to a unit vector; 1 for a law that stands alone).  Instances are hashable.
    """

    @property
    def support(self) -> tuple[float, float]: ...
    @property
    def center(self) -> float | None: ...
    @property
    def multiplicity(self) -> int: ...
    def pdf(self, t: ArrayLike) -> Floats: ...
    def cdf(self, t: ArrayLike) -> Floats: ...
    def partial_mean(self, a: ArrayLike, b: ArrayLike) -> Floats: ...
    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]: ...


@lru_cache
def _panels(panels: int = 4, order: int = 32) -> tuple[Floats, Floats]:
    """Composite Gauss-Legendre rule on [0, 1]."""
    x, w = leggauss(order)
    starts = np.arange(panels)[:, None]
    return ((starts + (x + 1) / 2) / panels).ravel(), np.tile(w / 2 / panels, panels)


def gauss_legendre(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Nodes and weights, (…, 128), of a composite Gauss-Legendre rule on each interval [a, b]."""
    a, b = np.asarray(a, float)[..., None], np.asarray(b, float)[..., None]
    x, w = _panels()
    return a + (b - a) * x, (b - a) * w


def _gamma_ratio(z: float) -> float:
    """Gamma(z + 1/2) / Gamma(z) to a few ulp; differences of lgamma would lose log10(z) digits."""
    if z < 100:
        return math.gamma(z + 0.5) / math.gamma(z)
    u = 1 / z  # the asymptotic series of the Wallis ratio; the first term left out is below 1e-16 from z = 100 on
    series = (-1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304, 39325 / 33554432)
    return math.sqrt(z) * (1 + sum(c * u**k for k, c in enumerate(series, 1)))


@dataclass(frozen=True)
class Coordinate:
    """The law of one coordinate of a uniform unit vector in R^d (Lemma 1).

    Parameters
    ----------
    d : int
        Dimension, at least 2.
    """

    d: int

    @property
    def support(self) -> tuple[float, float]:
        return (-1.0, 1.0)

    @property
    def center(self) -> float:
        return 0.0

    @property
    def multiplicity(self) -> int:
        return self.d

    @cached_property
    def constant(self) -> float:
        """C_d, the density's value at 0 for d > 2."""
        return _gamma_ratio((self.d - 1) / 2) / math.sqrt(math.pi)

    @property
    def mean_abs(self) -> float:
        """E|t| = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)): the optimal 1-bit centroid."""
        return 1 / (_gamma_ratio(self.d / 2) * math.sqrt(math.pi))

    def pdf(self, t: ArrayLike) -> Floats:
        """f(t); zero outside [-1, 1] (and infinite at ±1 for d = 2)."""
        t = np.asarray(t, float)
        inside = np.abs(t) <= 1
        with np.errstate(divide="ignore"):
            log = np.log1p(-np.where(inside, t, 0.0) ** 2)
            power = special.xlogy((self.d - 3) / 2, np.exp(log)) if self.d < 4 else (self.d - 3) / 2 * log
        return np.where(inside, self.constant * np.exp(power), 0.0)

    def cdf(self, t: ArrayLike) -> Floats:
        """P(T <= t), by the regularised incomplete beta function; the lower tail has full relative accuracy."""
        t = np.clip(np.asarray(t, float), -1, 1)
        half = (self.d - 1) / 2
        tail = special.betainc(half, 0.5, (1 - t) * (1 + t)) / 2
        inner = special.betainc(0.5, half, t * t) / 2
        # near 0 the inner form, elsewhere the tail form: each where it does not cancel
        lower = np.where(t * t * self.d < 1, 0.5 - inner, tail)
        return np.where(t > 0, 1 - lower, lower)

    def sf(self, t: ArrayLike) -> Floats:
        """P(T > t); the upper tail has full relative accuracy."""
        return self.cdf(-np.asarray(t, float))

    def quantile(self, p: ArrayLike) -> Floats:
        """The t with cdf(t) = p, for 0 <= p <= 1."""
        p = np.asarray(p, float)
        half, q = (self.d - 1) / 2, np.minimum(p, 1 - p)
        inner = np.sqrt(special.betaincinv(0.5, half, 1 - 2 * q))
        tail = np.sqrt(1 - special.betaincinv(half, 0.5, 2 * q))
        return np.copysign(np.where(q > 0.1, inner, tail), p - 0.5)

    def probability(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """P(a < T <= b) for a <= b, without cancellation in the tails."""
        a, b = np.asarray(a, float), np.asarray(b, float)
        return np.where(a > 0, self.sf(a) - self.sf(b), self.cdf(b) - self.cdf(a))

    def partial_mean(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """The integral of t f(t) over [a, b]: C_d/(d-1) [(1-a^2)^((d-1)/2) - (1-b^2)^((d-1)/2)]."""
        a, b = np.clip(np.asarray(a, float), -1, 1), np.clip(np.asarray(b, float), -1, 1)
        swap = np.abs(a) > np.abs(b)  # the integrand is odd: integrate from the smaller to the larger magnitude
        lo, hi = np.where(swap, b, a), np.where(swap, a, b)
        rest = (1 - lo) * (1 + lo)
        with np.errstate(divide="ignore", invalid="ignore"):
            drop = np.log1p(-np.minimum((hi - lo) * (hi + lo) / rest, 1))
            value = -np.expm1((self.d - 1) / 2 * drop) * np.exp((self.d - 1) / 2 * np.log(rest))
        value = np.where(rest > 0, value, 0.0) * self.constant / (self.d - 1)
        return np.where(swap, -value, value)

    def partial_second_moment(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """The integral of t^2 f(t) over [a, b], by parts: d times it is the energy of that cell."""
        a, b = np.clip(np.asarray(a, float), -1, 1), np.clip(np.asarray(b, float), -1, 1)

        def edge(t: Floats) -> Floats:
            return t * ((1 - t) * (1 + t)) ** ((self.d - 1) / 2)

        boundary = self.constant / (self.d - 1) * (edge(a) - edge(b))
        return boundary + Coordinate(self.d + 2).probability(a, b) / self.d

    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
        """Nodes t and weights w, (…, 128), so that sum(w g(t)) is the integral of g f over [a, b].

        Gauss-Legendre in theta = arcsin t, where f(t) dt = C_d cos(theta)^(d-2) dtheta is smooth for every d, cut
        off where the density has fallen by e^-80 from its largest value in the cell.
        """
        a, b = np.asarray(a, float), np.asarray(b, float)
        start = np.arcsin(np.clip(0.0, np.clip(a, -1, 1), np.clip(b, -1, 1)))
        cut = np.arccos(np.cos(start) * np.exp(-80 / (self.d - 2))) if self.d > 2 else np.full_like(start, math.pi / 2)
        lo = np.maximum(np.arcsin(np.clip(a, -1, 1)), -cut)
        hi = np.minimum(np.arcsin(np.clip(b, -1, 1)), cut)
        theta, w = gauss_legendre(lo, hi)
        t = np.sin(theta)
        return t, w * self.constant * np.exp((self.d - 2) / 2 * np.log1p(-t * t))


@dataclass(frozen=True)
class Gaussian:
    """N(0, 1): the limit of sqrt(d) t as d grows.  Same words as `Coordinate`; distortions are for unit variance."""

    @property
    def support(self) -> tuple[float, float]:
        return (-math.inf, math.inf)

    @property
    def center(self) -> float:
        return 0.0

    @property
    def multiplicity(self) -> int:
        return 1

    @property
    def mean_abs(self) -> float:
        """E|t| = sqrt(2/pi)."""
        return math.sqrt(2 / math.pi)

    def pdf(self, t: ArrayLike) -> Floats:
        return np.exp(-(np.asarray(t, float) ** 2) / 2) / math.sqrt(2 * math.pi)

    def cdf(self, t: ArrayLike) -> Floats:
        return np.asarray(special.ndtr(np.asarray(t, float)))

    def sf(self, t: ArrayLike) -> Floats:
        return self.cdf(-np.asarray(t, float))

    def quantile(self, p: ArrayLike) -> Floats:
        return np.asarray(special.ndtri(np.asarray(p, float)))

    def probability(self, a: ArrayLike, b: ArrayLike) -> Floats:
        a, b = np.asarray(a, float), np.asarray(b, float)
        return np.where(a > 0, self.sf(a) - self.sf(b), self.cdf(b) - self.cdf(a))

    def partial_mean(self, a: ArrayLike, b: ArrayLike) -> Floats:
        return self.pdf(a) - self.pdf(b)

    def partial_second_moment(self, a: ArrayLike, b: ArrayLike) -> Floats:
        a, b = np.asarray(a, float), np.asarray(b, float)

        def edge(t: Floats) -> Floats:
            return np.where(np.isinf(t), 0.0, np.where(np.isinf(t), 0.0, t) * self.pdf(t))

        return edge(a) - edge(b) + self.probability(a, b)

    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
        a, b = np.asarray(a, float), np.asarray(b, float)
        cut = np.sqrt(np.clip(0.0, a, b) ** 2 + 160)
        t, w = gauss_legendre(np.maximum(a, -cut), np.minimum(b, cut))
        return t, w * self.pdf(t)


def law(d: int | None) -> Coordinate | Gaussian:
    """The law of one rotated coordinate: `Coordinate` for an integer d >= 2, the `Gaussian` limit for None.

    Raises
    ------
    TypeError, ValueError
        If `d` is neither None nor an integer of at least 2.
    """
    return Gaussian() if d is None else Coordinate(check_dimension(d))


def uniform(n: int, d: int, rng: int | np.random.Generator) -> Floats:
    """`n` independent uniform points of the sphere S^{d-1}, (n, d) float64, from NumPy's generator.

    Test data, not part of the method: the algorithms' own randomness is specified in `rotation`.
    """
    g = np.random.default_rng(rng).standard_normal((n, check_dimension(d)))
    return g / np.linalg.norm(g, axis=1, keepdims=True)
