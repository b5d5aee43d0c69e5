"""How a rotated vector z aligns with its centroids q: exact expectations of A = <z, q>, B = ||q||² and C = ||z - q||².

z is uniform on the sphere S^{d-1}, and A, B, C are sums over its dependent coordinates.  Two exact methods:

`variance`, of A, needs pairs of coordinates only: given z_1, the second is √(1 - z_1²) times a coordinate of S^{d-2}.

`expectation`, of N^k / M^p with N and M among A, B, C and a = 1 - A, rests on three identities.  (i) M^-p =
1/Γ(p) ∫ s^{p-1} e^{-sM} ds turns the quotient into exponentials, and the k-th derivative of e^{tN} gives N^k.  (ii)
An exponential of sums is a product over coordinates, and the mean of a product over the sphere is an inverse Laplace
transform in the squared radius, of the d-th power of a one-dimensional integral (there p = d/2 (1 + iv)):

    E_sphere Π φ(z_j)  =  ∫ W(v) F(v)^d dv / ∫ W(v) dv,    W = (1 + iv)^{-d/2} e^{ivd/2},
    F(v) = √(p/π) ∫ φ(y) e^{-p y²} dy.

(iii) The trapezoid rule for it, of step h, is exact up to e^-40: its aliases are the same integral over larger
spheres, of squared radius 1 + 4πk/(dh), times e^{-2πk/h}, and over spheres of negative squared radius, which are empty.

The integrand decays like v^{-d/2}, fast for d >= 32.  Below, it is cut off smoothly; what is cut away oscillates and
contributes nothing, unless corners of the cells lie near the sphere, which happens for many cells in few
dimensions.  Every result is therefore checked against `variance`, and refused if they differ.  d = 2 and 3 are plain
integrals.  Measured relative errors: 1e-15 to 1e-14 for d >= 16 and for d >= 8 at b <= 3, 1e-11 for E a² at 6 to 8
bits, where it is small; 1e-8 for 8 <= d < 16 and b > 3.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import NDArray
from scipy import optimize, special

from . import codebook, sphere

__all__ = ["Book", "expectation", "limit_covariance", "means", "variance"]

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]
REFUSED = 1e-6  # relative error of E a² beyond which `expectation` does not answer


Book = int | codebook.Codebook
"""Bits of the Lloyd-Max codebook, or any codebook that is symmetric about 0 (a zero cell is fine)."""


def _given(d: int | None, book: Book) -> codebook.Codebook:
    return book if isinstance(book, codebook.Codebook) else codebook.lloyd_max(d, book)


def _half(d: int | None, book: Book) -> tuple[Floats, Floats]:
    """Positive centroids and boundaries: cells are symmetric, so half of the line will do."""
    given = _given(d, book)
    if not np.array_equal(given.centroids, -given.centroids[::-1]):
        raise ValueError(f"codebook: expected one that is symmetric about 0, got centroids {given.centroids}")
    n = len(given.centroids) // 2
    boundaries = given.boundaries[n:]
    return given.centroids[n:], boundaries if d is None else np.minimum(boundaries, 1.0)


@lru_cache(maxsize=1024)
def means(d: int, book: Book) -> tuple[float, float]:
    """E A and E B: both 1 - D where each centroid is the mean of its cell; E C = D holds for every codebook."""
    given = _given(d, book)
    if not isinstance(book, codebook.Codebook):
        return 1 - given.distortion, 1 - given.distortion
    c, m = _half(d, book)
    edges = np.concatenate([[0.0], m, [1.0]])
    mean = float(2 * d * c @ sphere.Coordinate(d).partial_mean(edges[:-1], edges[1:]))
    return mean, given.distortion - 1 + 2 * mean


def _centroid(t: Floats, centroids: Floats, boundaries: Floats) -> Floats:
    return centroids[np.searchsorted(boundaries, t, side="right")]


def _clustered(edges: Floats, order: int) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights, raveled, that cluster at both ends of each panel.

    The clustering makes analytic the half-integer powers (1 - m²/s²)^{k/2} with which a cell leaves the sphere.
    """
    x, w = leggauss(order)
    x, w = np.sin(math.pi / 4 * (x + 1)) ** 2, w * math.pi / 4 * np.sin(math.pi / 2 * (x + 1))
    panels = np.diff(edges)[:, None]
    return (edges[:-1, None] + panels * x).ravel(), (panels * w).ravel()


def _coordinate(d: int, breaks: Floats) -> tuple[Floats, Floats]:
    """Nodes t > 0 and weights for E g(z_1), g even and smooth between `breaks`; the weights sum to 1."""
    cut = math.acos(math.exp(-80 / (d - 2))) if d > 2 else math.pi / 2
    turns = np.arcsin(np.minimum(breaks, 1.0))
    edges = np.unique(np.concatenate([np.linspace(0, cut, 9), turns[turns < cut]]))
    theta, w = _clustered(edges, 32)
    t = np.sin(theta)
    return t, 2 * w * sphere.Coordinate(d).constant * np.exp((d - 2) / 2 * np.log1p(-t * t))


@lru_cache(maxsize=1024)
def variance(d: int, book: Book) -> float:
    """Var <x, x̂> = Var A for Algorithm 1 with the paper's scale; X = E <x, x - x̂>² is D_mse² plus this.

    Var A = d E h(z_1)² + d(d-1) E h(z_1) h(z_2), h(t) = E A t² - t Q(t): since Σ z_j² = 1, the h(z_j) sum to E A - A.
    The integral over z_2 is closed (partial means of the law in d - 1 dimensions), that over z_1 is quadrature between
    the boundaries and the places where a boundary leaves the range of z_2.
    """
    c, m = _half(d, book)
    mean, _ = means(d, book)
    t, w = _coordinate(d, np.concatenate([m, np.sqrt((1 - m) * (1 + m))]))
    s = np.sqrt((1 - t) * (1 + t))
    own = mean * t * t - t * _centroid(t, c, m)
    if d == 2:
        other = mean * s * s - s * _centroid(s, c, m)
    else:
        cells = np.minimum(np.concatenate([[0.0], m, [1.0]])[:, None] / s, 1.0)
        aligned = 2 * s * (c @ sphere.Coordinate(d - 1).partial_mean(cells[:-1], cells[1:]))
        other = mean * s * s / (d - 1) - aligned
    return float(d * (w @ (own * own)) + d * (d - 1) * (w @ (own * other)))


@lru_cache(maxsize=64)
def limit_covariance(bits: int) -> Floats:
    """The limit of d · Cov(A, B) for large d, (2, 2).

    z = u √d / ||u|| with Gaussian u: the sums of independent terms, less their regression on ||u||², by its derivative.
    """
    c, m = _half(None, bits)
    edges = np.concatenate([[0.0], m, [np.inf]])
    t, w = sphere.Gaussian().quadrature(edges[:-1], edges[1:])
    terms = np.array([(t * c[:, None]).ravel(), np.repeat(c * c, t.shape[1])])
    t, w = t.ravel(), 2 * w.ravel()
    slopes = terms @ (w * (t * t - 1)) / 2
    own = terms - (terms @ w)[:, None] - np.outer(slopes, t * t - 1)
    cov: Floats = (own * w) @ own.T
    cov.flags.writeable = False
    return cov


def _contour(d: int) -> tuple[Floats, Complexes]:
    """Nodes v >= 0 and weights W of (ii); the other half of the line is the complex conjugate."""
    x = optimize.brentq(lambda x: (d / 2 - 1) * math.log1p(2 * x / d) - x + 40, 1, 1e4)  # first alias: e^-40
    reach = 320 if d < 8 else 160 if d < 12 else 80 if d < 16 else 40
    decay = math.sqrt(math.expm1(160 / d))
    v = np.arange(0, min(reach, decay), 2 * math.pi / x)
    k = np.arange(3, 33, 2)[:, None]  # v - arctan v by its series, for d/2 multiplies the rounding of a difference
    series = (np.where(k % 4 == 3, 1, -1) * np.minimum(v, 0.25) ** k / k).sum(0)
    phase = np.where(v < 0.25, series, v - np.arctan(v))
    weights: Complexes = np.exp(d / 2 * (1j * phase - np.log1p(v * v) / 2))
    if reach < decay:
        weights = weights * special.erfc(12 * (v / reach - 0.5))
    weights[0] /= 2
    return v, weights


def _line(d: int, boundaries: Floats, reach: float) -> tuple[Floats, Floats]:
    """Nodes y > 0 and weights of the integral F: panels between boundaries, of a bounded phase at the far end of v.

    y = 1 is the sphere itself; beyond, φ is not seen and may be blended into 1 where e^{-d y²/2} decays slowly.
    """
    far = math.sqrt(min(83 / d, 3))
    panels = np.sqrt(np.linspace(0, 1, int(far**2 * d * reach / 24) + 9)) * far
    edges = np.unique(np.concatenate([panels, boundaries[boundaries < far]]))
    x, w = leggauss(16)
    y = edges[:-1, None] + np.diff(edges)[:, None] * (x + 1) / 2
    weights = np.diff(edges)[:, None] * w
    if 83 / d > 3:
        weights = weights * special.erfc(6 * (y * y - 2)) / 2
    return y.ravel(), weights.ravel()


def _summands(y: Floats, q: Floats) -> dict[str, Floats]:
    """What each coordinate adds to A, B, C and a = 1 - A (on the sphere, where Σ y² = 1)."""
    return {"A": y * q, "B": q * q, "C": (y - q) ** 2, "a": y * (y - q)}


@lru_cache(maxsize=4)
def _transform(d: int, book: Book) -> tuple[Complexes, Floats, Floats, Floats, float]:
    """Weights over v; nodes y, their centroids; kernel of F, real above imaginary part; relative error of E a²."""
    c, m = _half(d, book)
    v, weights = _contour(d)
    y, w = _line(d, m, float(v[-1]))
    p = (d / 2 * (1 + 1j * v))[:, None]
    kernel = np.sqrt(p / math.pi) * w * np.exp(-p * (y * y))
    parts = np.concatenate([kernel.real, kernel.imag])
    q = _centroid(y, c, m)
    a = _summands(y, q)["a"]
    second = _inverse(d, weights, parts, a[:, None], np.zeros((len(y), 1)), 2)[0]
    return weights, y, q, parts, float(second / ((1 - means(d, book)[0]) ** 2 + variance(d, book))) - 1


def _inverse(d: int, weights: Complexes, parts: Floats, psi: Floats, exponent: Floats, k: int) -> Floats:
    """E N^k e^{-sM} for every s: psi (ny, 1) and exponent (ny, ns) are the summands of N and of -sM."""

    def integrate(f: Floats) -> Complexes:
        both = parts @ f
        half = len(both) // 2
        return both[:half] + 1j * both[half:]

    shift = np.expm1(exponent)
    total = integrate(shift)  # F - 1, kept apart from 1 for the d-th power
    one, sums = [np.ones_like(total)], [np.ones_like(total)]  # moments of one term, and of d independent ones
    cumulants: list[Complexes] = []
    for j in range(k):
        one.append(integrate(psi ** (j + 1) * (1 + shift)) / (1 + total))
        lower = [math.comb(j, i) * cumulants[i] * one[j - i] for i in range(j)]
        cumulants.append(one[j + 1] - np.sum(lower, axis=0))
        sums.append(d * np.sum([math.comb(j, i) * cumulants[i] * sums[j - i] for i in range(j + 1)], axis=0))
    x, y = total.real, total.imag  # log F by hand: complex np.log1p rounds like log(1 + x), and d multiplies that
    size = np.where(
        np.hypot(x, y) < 0.5, np.log1p(np.maximum(x * (2 + x) + y * y, -0.9)) / 2, np.log(np.hypot(1 + x, y))
    )
    log = size + 1j * np.arctan2(y, 1 + x)
    values: Floats = (weights @ (np.exp(d * log) * sums[k])).real / weights.sum().real
    return values


@lru_cache(maxsize=4)
def _direct(d: int, book: Book) -> dict[str, Floats]:
    """d = 2 and 3: A, B, C, a at quadrature nodes of the whole sphere, and the weights of these ("weight").

    z = (s cos φ, s sin φ, t): panels in φ between the cells' boundaries, in t also between the radii of their corners.
    """
    c, m = _half(d, book)
    t, s, w = np.zeros(1), np.ones(1), np.ones(1)
    if d == 3:
        corners = np.sqrt(np.maximum(1 - np.concatenate([m**2, np.add.outer(m**2, m**2).ravel()]), 0))
        t, w = _coordinate(3, np.concatenate([m, corners]))
        s = np.sqrt((1 - t) * (1 + t))
    turns = np.arcsin(np.minimum(m / s[:, None], 1))
    ends = np.broadcast_to([0, math.pi / 2], (len(s), 2))
    edges = np.sort(np.concatenate([ends, turns, math.pi / 2 - turns], axis=1), axis=1)[..., None]
    x, v = leggauss(16)
    angle = edges[:, :-1] + np.diff(edges, axis=1) * (x + 1) / 2
    weight = w[:, None, None] * np.diff(edges, axis=1) * v / math.pi
    z = [s[:, None, None] * np.cos(angle), s[:, None, None] * np.sin(angle), t[:, None, None] + 0 * angle]
    parts = [_summands(y, _centroid(y, c, m)) for y in z[:d]]
    sums = {name: np.sum([part[name] for part in parts], axis=0).ravel() for name in parts[0]}
    return sums | {"weight": weight.ravel()}


@lru_cache(maxsize=2048)
def expectation(d: int, book: Book, numerator: str, k: int, denominator: str, power: float) -> float:
    """E N^k / M^power, exactly, for z uniform on the sphere and its centroids q.

    Parameters
    ----------
    d : int
    book : int or Codebook
        Bits of the Lloyd-Max codebook, or a codebook that is symmetric about 0.
    numerator, denominator : {"A", "B", "C", "a"}
        A = <z, q> (the alignment), B = ||q||², C = ||z - q||², a = 1 - A; "a" is not a denominator (it may vanish).
    k : int
        0 to 4.
    power : float
        1/2 to 4.

    Raises
    ------
    ValueError
        If the cells are too many for so few dimensions (3 <= d < 8 above 2 bits, see the module's docstring), or a name
        is not one of these.
    """
    if numerator not in ("A", "B", "C", "a") or denominator not in ("A", "B", "C"):
        raise ValueError(f"cannot divide {numerator!r} by {denominator!r}: known are A, B, C, and a above")
    given = _given(d, book)
    if d == 2 or (d == 3 and given.bits <= 5):
        sums = _direct(d, book)
        return float((sums["weight"] * sums[numerator] ** k / sums[denominator] ** power).sum())
    weights, y, q, parts, error = _transform(d, book)
    if abs(error) > REFUSED:
        raise ValueError(
            f"d = {d} is too small for an exact answer at {given.bits} bits (error {abs(error):.0e}): use measure"
        )
    mean = dict(zip("ABC", (*means(d, book), given.distortion), strict=True))[denominator]
    terms = _summands(y, q)
    t = np.arange(-46, 120) / 10  # s = mean * exp(t - e^-t): a doubly exponential rule for the integral (i)
    s = np.exp(t - np.exp(-t))
    ds = 0.1 * (1 + np.exp(-t)) * s**power / special.gamma(power) / mean**power
    exponent = terms[denominator][:, None] * (-s / mean)
    alive = d * np.log1p(np.maximum(parts[0] @ np.expm1(exponent), -1 + 1e-9)) > -120  # F^d at v = 0
    return float(_inverse(d, weights, parts, terms[numerator][:, None], exponent[:, alive], k) @ ds[alive])
