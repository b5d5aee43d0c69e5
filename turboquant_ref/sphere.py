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
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy import special

from .vectors import check_dimension

__all__ = ["Coordinate", "Gaussian", "Law", "gauss_legendre", "law", "uniform"]

Floats = NDArray[np.float64]


class Law(Protocol):
    """A probability law on an interval: what `codebook.lloyd_max` needs to know of it.  Instances are hashable.

    `gauss_legendre` makes the quadrature of a smooth density one line::

        def quadrature(self, a, b):
            t, w = sphere.gauss_legendre(a, b)
            return t, w * self.pdf(t)
    """

    def __hash__(self) -> int: ...
    @property
    def support(self) -> tuple[float, float]:
        """The interval; its ends may be infinite."""
        ...

    @property
    def center(self) -> float | None:
        """The point that the density is symmetric about, or None."""
        ...

    @property
    def multiplicity(self) -> int:
        """How many independent coordinates share one unit of energy: distortions are multiplied by it."""
        ...

    def pdf(self, t: ArrayLike) -> Floats:
        """The density at t."""
        ...

    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
        """Nodes t and weights w of shape (…, m), so that sum(w g(t)) is the integral of g f over [a, b]."""
        ...


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


def _power(t: Floats, exponent: float) -> Floats:
    """(1 - t^2)^exponent for |t| <= 1, to about 2 + |log of it| ulp, which a rounded 1 - t^2 would not give."""
    square = t * t
    log: Floats = np.where(square < 0.5, special.xlog1py(exponent, -square), special.xlogy(exponent, (1 - t) * (1 + t)))
    return np.exp(log)


def _between(split: Callable[[Floats], tuple[Floats, Floats]], a: Floats, b: Floats) -> Floats:
    """The integral of an even function over [a, b], a <= b, from its shares inside and outside [-|t|, |t|].

    On one side of 0 it is a difference: of the inner shares near 0, of the outer shares in the tail.
    """
    (inner_a, outer_a), (inner_b, outer_b) = split(a), split(b)
    tail = np.minimum(inner_a, inner_b) > 0.5
    one_side = np.abs(np.where(tail, outer_a - outer_b, inner_b - inner_a))
    return np.where((a < 0) & (b > 0), inner_a + inner_b, one_side) / 2


@dataclass(frozen=True)
class Coordinate:
    """The law f_X of one coordinate of a uniform unit vector in R^d (Lemma 1).

    Points t may be scalars or arrays of any shape, inside [-1, 1] or not; results are float64 arrays of their shape.

    Parameters
    ----------
    d : int
        Dimension, at least 2.

    Raises
    ------
    TypeError, ValueError
        If `d` is not an integer of at least 2.
    """

    d: int

    def __post_init__(self) -> None:
        check_dimension(self.d)

    @property
    def support(self) -> tuple[float, float]:
        """The interval [-1, 1]."""
        return (-1.0, 1.0)

    @property
    def center(self) -> float:
        """The point of symmetry, 0."""
        return 0.0

    @property
    def multiplicity(self) -> int:
        """The d coordinates of a unit vector: D_mse is d times the error of one."""
        return self.d

    @cached_property
    def constant(self) -> float:
        """C_d, the density at 0."""
        return _gamma_ratio((self.d - 1) / 2) / math.sqrt(math.pi)

    @property
    def mean_abs(self) -> float:
        """E|t| = Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)): the optimal 1-bit centroid."""
        return 1 / (_gamma_ratio(self.d / 2) * math.sqrt(math.pi))

    @staticmethod
    def _points(t: ArrayLike) -> Floats:
        return np.asarray(np.clip(np.asarray(t, float), -1, 1))

    def _split(self, k: float, t: Floats) -> tuple[Floats, Floats]:
        """P(B <= t^2) and P(B > t^2) for B ~ Beta(k, (d-1)/2): t^2 itself at k = 1/2, weighted by t^2 at k = 3/2."""
        half, square, rest = (self.d - 1) / 2, t * t, (1 - t) * (1 + t)
        near = square < 0.5  # each from whichever of t^2 and 1 - t^2 is the smaller, for its rounding is the exponent's
        inner = np.where(near, special.betainc(k, half, square), special.betaincc(half, k, rest))
        outer = np.where(near, special.betaincc(k, half, square), special.betainc(half, k, rest))
        return inner, np.where(inner < 0.5, 1 - inner, outer)

    def pdf(self, t: ArrayLike) -> Floats:
        """The density f_X(t) of Lemma 1; zero outside [-1, 1], and infinite at ±1 for d = 2."""
        t = np.asarray(t, float)
        inside = np.abs(t) <= 1
        return np.where(inside, self.constant * _power(np.where(inside, t, 0.0), (self.d - 3) / 2), 0.0)

    def cdf(self, t: ArrayLike) -> Floats:
        """P(T <= t), by the regularised incomplete beta function; the lower tail has full relative accuracy."""
        t = self._points(t)
        lower = self._split(0.5, t)[1] / 2
        return np.where(t > 0, 1 - lower, lower)

    def sf(self, t: ArrayLike) -> Floats:
        """P(T > t); the upper tail has full relative accuracy."""
        return self.cdf(-np.asarray(t, float))

    def quantile(self, p: ArrayLike) -> Floats:
        """The t with cdf(t) = p; NaN unless 0 <= p <= 1."""
        p = np.asarray(p, float)
        half, q = (self.d - 1) / 2, np.minimum(p, 1 - p)
        near: Floats = special.betaincinv(0.5, half, 1 - 2 * q)
        far: Floats = special.betainccinv(0.5, half, 2 * q)
        return np.copysign(np.sqrt(np.where(q > 0.25, near, far)), p - 0.5)

    def probability(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """P(a < T <= b) for a <= b, without cancellation near 0 or in the tails."""
        return _between(partial(self._split, 0.5), self._points(a), self._points(b))

    def partial_mean(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """The integral of t f(t) over [a, b]: C_d/(d-1) [(1-a^2)^((d-1)/2) - (1-b^2)^((d-1)/2)]."""
        a, b = self._points(a), self._points(b)
        swap = np.abs(a) > np.abs(b)  # the integrand is odd: integrate from the smaller to the larger magnitude
        lo, hi = np.where(swap, b, a), np.where(swap, a, b)
        rest = np.where(np.abs(lo) < 1, (1 - lo) * (1 + lo), 1.0)
        fall = (hi - lo) * (hi + lo) / rest  # 1 - fall = (1 - hi^2) / (1 - lo^2), in the better of its two forms
        part: Floats = np.where(
            fall < 0.5, special.xlog1py(self.d - 1, -fall), special.xlogy(self.d - 1, (1 - hi) * (1 + hi) / rest)
        )
        value = -np.expm1(part / 2) * _power(lo, (self.d - 1) / 2) * self.constant / (self.d - 1)
        return np.where(swap, -value, value)

    def partial_second_moment(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """The integral of t^2 f(t) over [a, b], a <= b: d times it is the share of the energy in that cell.

        By the identity t^2 f_X(t) dt = (1/d) dP(B <= t^2)/2 with B ~ Beta(3/2, (d-1)/2), all terms positive.
        """
        return _between(partial(self._split, 1.5), self._points(a), self._points(b)) / self.d

    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
        """Nodes t and weights w, (…, 128), so that sum(w g(t)) is the integral of g f over [a, b], a <= b.

        Gauss-Legendre in theta = arcsin t, where f(t) dt = C_d cos(theta)^(d-2) dtheta is smooth for every d, cut
        off where the density has fallen by e^-80 from its largest value in the cell.
        """
        lo, hi = (np.arcsin(self._points(edge)) for edge in (a, b))
        if self.d > 2:
            cut = np.arccos(np.cos(np.clip(0.0, lo, hi)) * math.exp(-80 / (self.d - 2)))
            lo, hi = np.maximum(lo, -cut), np.minimum(hi, cut)
        theta, w = gauss_legendre(lo, hi)
        t = np.sin(theta)
        # log cos(theta): from the sine where that is small, since the exponent d - 2 multiplies its absolute error
        log: Floats = np.where(t * t < 0.5, np.log1p(-np.minimum(t * t, 0.5)) / 2, np.log(np.cos(theta)))
        return t, w * self.constant * np.exp((self.d - 2) * log)


@dataclass(frozen=True)
class Gaussian:
    """N(0, 1): the limit of sqrt(d) t as d grows.  Same words as `Coordinate`; distortions are for unit variance."""

    @property
    def support(self) -> tuple[float, float]:
        """The real line."""
        return (-math.inf, math.inf)

    @property
    def center(self) -> float:
        """The point of symmetry, 0."""
        return 0.0

    @property
    def multiplicity(self) -> int:
        """A variable of unit variance stands for itself: 1."""
        return 1

    @property
    def mean_abs(self) -> float:
        """E|t| = sqrt(2/pi)."""
        return math.sqrt(2 / math.pi)

    @staticmethod
    def _points(t: ArrayLike) -> Floats:
        return np.asarray(np.clip(np.asarray(t, float), -40, 40))  # beyond ±38.6 density and tail are 0 in float64

    @staticmethod
    def _mass(t: Floats) -> tuple[Floats, Floats]:
        z = np.abs(t) / math.sqrt(2)
        return special.erf(z), special.erfc(z)

    def _energy(self, t: Floats) -> tuple[Floats, Floats]:
        return special.gammainc(1.5, t * t / 2), self._mass(t)[1] + 2 * np.abs(t) * self.pdf(t)

    def pdf(self, t: ArrayLike) -> Floats:
        """The density phi(t) = exp(-t^2/2) / sqrt(2 pi)."""
        return np.exp(-(self._points(t) ** 2) / 2) / math.sqrt(2 * math.pi)

    def cdf(self, t: ArrayLike) -> Floats:
        """Phi(t) = P(T <= t); the lower tail has full relative accuracy."""
        return np.asarray(special.ndtr(np.asarray(t, float)))

    def sf(self, t: ArrayLike) -> Floats:
        """P(T > t); the upper tail has full relative accuracy."""
        return self.cdf(-np.asarray(t, float))

    def quantile(self, p: ArrayLike) -> Floats:
        """The t with cdf(t) = p; NaN unless 0 <= p <= 1."""
        return np.asarray(special.ndtri(np.asarray(p, float)))

    def probability(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """P(a < T <= b) for a <= b, without cancellation near 0 or in the tails."""
        return _between(self._mass, self._points(a), self._points(b))

    def partial_mean(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """The integral of t phi(t) over [a, b]: phi(a) - phi(b)."""
        a, b = self._points(a), self._points(b)
        swap = np.abs(a) > np.abs(b)
        value = -np.expm1(-np.abs((b - a) * (b + a)) / 2) * self.pdf(np.where(swap, b, a))
        return np.where(swap, -value, value)

    def partial_second_moment(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """The integral of t^2 phi(t) over [a, b], a <= b: the share of the energy in that cell."""
        return _between(self._energy, self._points(a), self._points(b))

    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
        """Nodes t and weights w, (…, 128), so that sum(w g(t)) is the integral of g phi over [a, b], a <= b.

        Gauss-Legendre, cut off where the density has fallen by e^-80 from its largest value in the cell.
        """
        a, b = np.asarray(a, float), np.asarray(b, float)
        cut = np.sqrt(self._points(np.clip(0.0, a, b)) ** 2 + 160)
        t, w = gauss_legendre(np.clip(a, -cut, cut), np.clip(b, -cut, cut))
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
    unit: Floats = g / np.linalg.norm(g, axis=1, keepdims=True)
    return unit
