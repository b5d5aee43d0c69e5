"""The polar angles of a random vector (PolarQuant, arXiv 2502.02617, Lemmas 1 to 3), and what quantizing them costs.

After a random rotation the angles of `polar.transform` are independent of each other and of the radii.  Level 1
is uniform on the circle.  At level l >= 2 the two halves of a block of 2^l coordinates have radii r1, r2 that are
independent chi variables of m = 2^(l-1) degrees of freedom, and psi = atan(r2 / r1) has the density (Lemma 2)

    f_l(psi) = Gamma(m) / (2^(m-2) Gamma(m/2)^2) sin(2 psi)^(m-1),   0 <= psi <= pi/2.

That is, sin^2 psi ~ Beta(m/2, m/2); and, what everything is computed from here, -cos 2 psi has the law of one
coordinate of a uniform unit vector in R^(m+1), `sphere.Coordinate`.  The variance is about 1/(4 m).

**What it costs.**  Let u be the direction of a block of B = 2^L coordinates, u' the decoded one, a = <u, u'>.
A block is made of two, u = (cos psi u1, sin psi u2), so a = cos psi cos theta a1 + sin psi sin theta a2, with a1
and a2 alike, independent of each other and of psi.  With e = cos(psi - theta), level by level from a_0 = 1,

    E a_l   = E e_l E a_{l-1}
    Var a_l = Var e_l (E a_{l-1})^2 + E[cos^2 psi cos^2 theta + sin^2 psi sin^2 theta] Var a_{l-1}.

A unit vector x in R^d is d/B blocks whose squared radii are Dirichlet(B/2, ...), independent of their directions.
So A = <x, x'> has

    E A = E a_L =: s,      Var A = (B + 2)/(d + 2) Var a_L,      and ||x'|| = 1:

E ||x - x'||^2 = 2 (1 - s).  Haar's rotation singles out no direction but that of x, so E <y, x'> = s <y, x>.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from . import codebook as codebooks
from . import sphere
from .vectors import check_bits, check_dimension, check_integer

__all__ = ["Angle", "codebook", "distortion", "expected_cosine", "fit", "moments", "slope"]

Floats = NDArray[np.float64]
MAX_LEVEL = 40
TURN = 2 * math.pi


@dataclass(frozen=True)
class Angle:
    """The law of an angle of the given level (Lemmas 1 to 3), for `codebook.lloyd_max` and `codebook.of_centroids`.

    Raises
    ------
    TypeError, ValueError
        If `level` is not an integer from 1 to 40.

    Notes
    -----
    Eq 3 of the paper prints the joint density of the two radii of a block of d with (r1 r2)^(d-1).  The exponent is
    d/2 - 1; taken literally, the printed one gives the law of the next level.  Lemma 1's Var = O(1/sqrt d) is
    O(1/d), as its proof shows.
    """

    level: int

    def __post_init__(self) -> None:
        check_integer(self.level, "level", 1, MAX_LEVEL)

    @property
    def coordinate(self) -> sphere.Coordinate:
        """The law of -cos 2 psi, level >= 2: a coordinate in R^(2^(l-1) + 1)."""
        return sphere.Coordinate(2 ** (self.level - 1) + 1)

    @property
    def support(self) -> tuple[float, float]:
        """The circle [0, 2 pi], or the quarter [0, pi/2] from level 2 on."""
        return (0.0, TURN if self.level == 1 else math.pi / 2)

    @property
    def center(self) -> float:
        """The point of symmetry and mean, pi or pi/4."""
        return self.support[1] / 2

    @property
    def multiplicity(self) -> int:
        """An angle stands for itself: codebook distortions are squared radians."""
        return 1

    def _points(self, psi: ArrayLike) -> Floats:
        return np.asarray(np.clip(np.asarray(psi, float), *self.support))

    def pdf(self, psi: ArrayLike) -> Floats:
        """The density f_l of Lemma 2; zero outside the support."""
        psi = np.asarray(psi, float)
        inside = (psi >= 0) & (psi <= self.support[1])
        if self.level == 1:
            return np.where(inside, 1 / TURN, 0.0)
        sine = np.sin(2 * self._points(psi))
        return np.where(inside, 2 * self.coordinate.constant * sine ** (2 ** (self.level - 1) - 1), 0.0)

    def cdf(self, psi: ArrayLike) -> Floats:
        """P(Psi <= psi): the regularised incomplete beta function I_{sin^2 psi}(m/2, m/2)."""
        p, half = self._points(psi), 2.0 ** (self.level - 2)
        return p / TURN if self.level == 1 else np.asarray(special.betainc(half, half, np.sin(p) ** 2))

    def quadrature(self, a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
        """Nodes psi and weights w, (…, 128), so that sum(w g(psi)) is the integral of g f_l over [a, b], a <= b."""
        a, b = self._points(a), self._points(b)
        if self.level == 1:
            psi, w = sphere.gauss_legendre(a, b)
            return psi, w / TURN
        t, w = self.coordinate.quadrature(-np.cos(2 * a), -np.cos(2 * b))
        return math.pi / 4 + np.arcsin(t) / 2, w


@lru_cache(maxsize=512)
def codebook(level: int, bits: int) -> codebooks.Codebook:
    """The analytic ("offline") codebook of one level (Eq 4 of the paper), of 2^bits centroids, bits 1 to 8.

    Level 1 is a circle with the uniform law: the centroids (k + 1/2) 2 pi / 2^b are optimal, for the distance along the
    circle too, since the cut at 0 is a cell boundary.  Its boundaries k 2 pi / 2^b are single roundings, so the
    coordinate axes are exact ties.  From level 2 on it is `codebook.lloyd_max`.
    """
    law, bits = Angle(level), check_bits(bits)
    if level > 1:
        return codebooks.lloyd_max(law, bits)
    step = TURN / 2**bits
    boundaries = np.arange(1, 2**bits) * step
    boundaries.flags.writeable = False
    uniform = codebooks.of_centroids(law, (np.arange(2**bits) + 0.5) * step, f"circle({bits})")
    return replace(uniform, boundaries=boundaries)


def fit(level: int, bits: int, psi: ArrayLike) -> tuple[codebooks.Codebook, float]:
    """The codebook of one level fitted to angles at hand (section 4.1, "online"), and the origin they count from.

    Lloyd's algorithm from 2^bits quantiles of the distinct angles (to 2^-20 of a radian), until no angle changes its
    cell: deterministic, where the paper's k-means++ starts at random.  On the circle of level 1 the boundary between
    the last cell and the first is the origin, and it moves with the centroids: counted from there, the distance
    along the line is the distance along the circle.  At other levels the origin is 0.

    Raises
    ------
    ValueError
        If there are fewer distinct angles than centroids.
    """
    a, counts = np.unique(np.asarray(psi, dtype=np.float64), return_counts=True)
    n, circle = 2**bits, level == 1
    distinct = np.unique(np.rint(a * 2**20)) / 2**20  # centroids an ulp apart would have no boundary between them
    if len(distinct) < n:
        raise ValueError(f"x has {len(distinct)} distinct angles at level {level}, {bits} bits need at least {n}")
    c = distinct[((np.arange(n) + 0.5) * len(distinct) / n).astype(int)]
    if circle:  # two turns, so that every cell lies in one piece wherever the origin is
        a, counts = np.concatenate([a, a + TURN]), np.tile(counts, 2)
    weight, total = (np.concatenate([[0.0], np.cumsum(v)]) for v in (counts, counts * a))
    origin, ends, last = 0.0, (-np.inf, np.inf), np.zeros(0, dtype=np.intp)
    for _ in range(1000):
        if circle:
            origin = float(c[0] + c[-1] - TURN) / 2
            turn = -TURN * math.floor(origin / TURN)
            c, origin = c + turn, origin + turn
            ends = (origin, origin + TURN)
        cells = np.searchsorted(a, np.concatenate([ends[:1], (c[1:] + c[:-1]) / 2, ends[1:]]))
        if np.array_equal(cells, last):
            break
        mass, moment, last = np.diff(weight[cells]), np.diff(total[cells]), cells
        held = mass > 0  # an empty cell keeps its centroid; clipped, for differences of sums are not exact
        c[held] = np.clip(moment[held] / mass[held], a[cells[:-1][held]], a[cells[1:][held] - 1])
    return codebooks.of_centroids(Angle(level), c - origin), origin


def _cells(level: int, book: codebooks.Codebook) -> tuple[Floats, Floats, Floats]:
    """psi, theta and weights over all cells: sum(w g(psi, theta)) is E g."""
    lo, hi = Angle(level).support
    edges = np.concatenate([[lo], book.boundaries, [hi]])
    psi, w = Angle(level).quadrature(edges[:-1], edges[1:])
    return psi, book.centroids[:, None], w


def _loss(level: int, book: codebooks.Codebook) -> float:
    """1 - E cos(psi - theta), a sum of positive terms."""
    psi, theta, w = _cells(level, book)
    return float((w * 2 * np.sin((psi - theta) / 2) ** 2).sum())


def expected_cosine(level: int, book: codebooks.Codebook) -> float:
    """E cos(psi - theta) at one level, theta the centroid of psi: sin(pi/2^b) / (pi/2^b) for level 1's optimum."""
    return 1 - _loss(level, book)


def _shortfall(books: Sequence[codebooks.Codebook]) -> float:
    """1 - s without cancellation."""
    return -math.expm1(sum(math.log1p(-_loss(level, book)) for level, book in enumerate(books, 1)))


def slope(books: Sequence[codebooks.Codebook]) -> float:
    """s = E <y, x'> / <y, x>: the product over levels of E cos(psi_l - theta_l), for Haar's rotation.

    Of any codebooks that do not depend on the rotation, `books` those of the levels 1, 2, ….
    """
    return 1 - _shortfall(books)


def distortion(books: Sequence[codebooks.Codebook], scale: str = "norm") -> float:
    """E ||x - x'||^2 for unit x: 2 (1 - s), or 1/s^2 - 1 for the unbiased scale."""
    lost = _shortfall(books)
    return 2 * lost if scale == "norm" else lost * (2 - lost) / (1 - lost) ** 2


def moments(d: int | None, books: Sequence[codebooks.Codebook], scale: str = "norm") -> tuple[float, float, float]:
    """Slope, and d Var <y, x'> at y = x and at y orthogonal to x, for unit x and y: what `theory.Moments` holds.

    along / d = Var A;  across / d = (1 - E A^2) / (d - 1); both over s^2, and the slope 1, for the unbiased scale.

    Parameters
    ----------
    d : int or None
        A multiple of 2^L; None is the limit of large d.
    books : sequence of L codebooks
        Of the levels 1 to L.
    scale : {"norm", "unbiased"}
    """
    mean, variance = 1.0, 0.0  # of a, level by level
    for level, book in enumerate(books, 1):
        psi, theta, w = _cells(level, book)
        loss = 2 * np.sin((psi - theta) / 2) ** 2
        expected = float((w * loss).sum())
        spread = float((w * (loss - expected) ** 2).sum())
        squares = (np.cos(psi) * np.cos(theta)) ** 2 + (np.sin(psi) * np.sin(theta)) ** 2
        variance = spread * mean**2 + float((w * squares).sum()) * variance
        mean *= 1 - expected
    lost, block = _shortfall(books), 2 ** len(books)
    energy = lost * (2 - lost)  # 1 - s^2
    if d is None:
        along, across = (block + 2) * variance, energy
    else:
        share = (block + 2) / (check_dimension(d) + 2) * variance
        along, across = d * share, d * (energy - share) / (d - 1)
    if scale == "norm":
        return mean, along, across
    return 1.0, along / mean**2, across / mean**2
