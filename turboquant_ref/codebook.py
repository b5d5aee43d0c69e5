"""Lloyd-Max: the scalar quantizer with the least mean squared error for a given law (TurboQuant, Eq 4).

A codebook of n = 2^b centroids c_1 < … < c_n cuts the line at the midpoints m_i = (c_i + c_{i+1})/2.  It is optimal
when every centroid is the mean of its cell,

    g_i(c) = integral over cell i of (t - c_i) f(t) dt = 0.

Plain Lloyd iteration (c_i <- mean of cell i) needs thousands of steps at 8 bits.  The system g = 0 is tridiagonal, so
Newton's method solves it in a handful, from the asymptotically optimal point density f^(1/3) (Panter-Dite).  The
residuals g are computed by Gauss-Legendre quadrature inside each cell, never as differences of cdfs, which
keeps them accurate to rounding for 4096 cells as for 2.

Lloyd-Max is optimal where every index takes b bits.  Where an entropy coder stores the indices (`entropy`), `uniform`
is better, the entropy-coded uniform quantizer: 0.25 bit from the rate-distortion function where Eq 4 is 0.45 to 0.7.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy import special
from scipy.linalg import solve_banded
from scipy.optimize import brentq

from . import sphere
from .vectors import check_bits

__all__ = ["MAX_BITS", "Codebook", "lloyd_max", "look_up", "nearest", "of_boundaries", "of_centroids", "uniform"]

Floats = NDArray[np.float64]
MAX_BITS = 12


@dataclass(frozen=True, eq=False)
class Codebook:
    """A scalar quantizer: n centroids in ascending order and the n - 1 boundaries between their cells.

    Attributes
    ----------
    centroids : (n,) float64
        In the units of the law's variable: coordinates of a unit vector for an integer d.
    boundaries : (n - 1,) float64
        Midpoints of neighbouring centroids, but for `of_boundaries` and `uniform`, which are given them.  The index
        of t is the number of boundaries <= t.
    probabilities : (n,) float64
        Mass of each cell.
    distortion : float
        The law's multiplicity times E (t - c(t))^2: for `Coordinate(d)` this is D_mse(d, b), relative to a unit vector.
    entropy : float
        Entropy of the index, bits.
    identity : str
        What names it in a fingerprint: "lloyd_max(law, bits)", or a digest of centroids given by hand.
    residual : float
        max_i |E[t | cell i] - c_i| in units of the root mean square of t: how far from optimal the centroids are.
    """

    centroids: Floats
    boundaries: Floats
    probabilities: Floats
    distortion: float
    entropy: float
    residual: float
    identity: str

    @property
    def bits(self) -> int:
        """Bits of an index: log2 of the number of centroids, rounded up."""
        return (len(self.centroids) - 1).bit_length()


def _cells(law: sphere.Law, c: Floats, edges: Floats) -> tuple[Floats, Floats, Floats]:
    """Mass, g_i and squared error of each cell, by quadrature."""
    t, w = law.quadrature(edges[:-1], edges[1:])
    e = t - c[:, None]
    return w.sum(1), (w * e).sum(1), (w * e * e).sum(1)


def _edges(c: Floats, lo: float, hi: float) -> Floats:
    return np.concatenate([[lo], (c[1:] + c[:-1]) / 2, [hi]])


def _start(law: sphere.Law, n: int, lo: float, hi: float) -> Floats:
    """Panter-Dite: n quantiles of the density proportional to f^(1/3) on [lo, hi]."""
    nodes, _ = law.quadrature(lo, hi)  # they span the mass, however far it is from filling [lo, hi]
    grid = np.linspace(nodes.min(), nodes.max(), 65)
    t, w = law.quadrature(grid[:-1], grid[1:])
    t, w = t.ravel(), w.ravel()
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = np.where(w > 0, w * law.pdf(t) ** (-2 / 3), 0.0)
    cum = np.cumsum(mass) - mass / 2
    keep = mass > 0
    return np.interp((np.arange(n) + 0.5) / n, cum[keep] / mass.sum(), t[keep])


def _newton(law: sphere.Law, n: int, lo: float, hi: float) -> Floats:
    """Solve g(c) = 0 for n centroids on [lo, hi]."""
    c = _start(law, n, lo, hi)
    last = np.inf
    for iteration in range(100):
        edges = _edges(c, lo, hi)
        mass, g, _ = _cells(law, c, edges)
        inner = edges[1:-1]
        half_jump = law.pdf(inner) * (c[1:] - c[:-1]) / 4  # d g_i / d c_{i+1} = d g_{i+1} / d c_i
        bands = np.zeros((3, n))
        bands[0, 1:], bands[2, :-1] = half_jump, half_jump
        bands[1] = -mass
        bands[1, :-1] += half_jump
        bands[1, 1:] += half_jump
        moved: Floats = c - solve_banded((1, 1), bands, g)
        if iteration < 2 or not (np.all(np.diff(moved) > 0) and lo < moved[0] and moved[-1] < hi):
            moved = c + g / mass  # two Lloyd steps pull the outermost centroids into Newton's basin
        step = float(np.max(np.abs(moved - c) / (edges[1:] - edges[:-1]).min()))
        c = moved
        if step < 1e-7 and step >= last / 2:  # quadratic convergence has reached rounding
            return c
        last = step
    raise ArithmeticError(f"Lloyd-Max did not converge for {law} and {n} cells")


def of_centroids(law: sphere.Law, centroids: NDArray[np.floating], identity: str | None = None) -> Codebook:
    """The codebook with the given ascending centroids, judged against `law`: distortion, entropy and residual, exact.

    The way to put a number on somebody else's table: ``of_centroids(sphere.law(128), table).distortion``.

    Parameters
    ----------
    law : Law
    centroids : (n,) array of real numbers
        In the units of the law's variable; points outside its support are allowed.
    identity : str, optional
        The `Codebook.identity`; by default a digest of the centroids.

    Returns
    -------
    Codebook
        Its arrays are read-only.  A cell without mass has probability 0 and makes the residual infinite.

    Raises
    ------
    TypeError, ValueError
        If the centroids are not numbers, or not finite and strictly ascending.
    """
    given = np.asarray(centroids)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"centroids must be real numbers, got dtype {given.dtype}")
    c = given.astype(np.float64)
    if c.ndim != 1 or len(c) == 0 or not np.all(np.isfinite(c)) or np.any(c[1:] <= c[:-1]):
        raise ValueError(f"centroids must be a 1-D array of finite, strictly ascending numbers, got {centroids!r}")
    edges = _edges(c, *law.support)
    mass, g, error = _cells(law, c, np.clip(edges, *law.support))
    t, w = law.quadrature(*law.support)
    rms = float(np.sqrt((w * t * t).sum()))
    residual = np.divide(np.abs(g), mass, out=np.full(len(c), np.inf), where=mass > 0)
    entropy = special.entr(mass).sum() / math.log(2)
    for array in (c, edges, mass):
        array.flags.writeable = False
    name = identity or f"centroids({hashlib.sha256(c.astype('<f8').tobytes()).hexdigest()})"
    distortion = float(law.multiplicity * error.sum())
    return Codebook(c, edges[1:-1], mass, distortion, float(entropy), float(residual.max()) / rms, name)


def of_boundaries(law: sphere.Law, boundaries: ArrayLike, identity: str | None = None) -> Codebook:
    """The codebook with the given ascending boundaries and the means of the cells as centroids, exact.

    The best decoder of a given partition; all of `Codebook.residual` is rounding.  Each centroid is the mean of its
    cell, so E[x~] = (1 - D) x holds as it does for Lloyd-Max.

    Parameters
    ----------
    law : Law
    boundaries : (n - 1,) array of real numbers
        In the units of the law's variable; may be empty.  The outermost cells reach to the ends of the support.
    identity : str, optional
        The `Codebook.identity`; by default a digest of the boundaries.

    Returns
    -------
    Codebook
        Its arrays are read-only.  Boundaries antisymmetric about the center of the law give centroids that are so too.

    Raises
    ------
    TypeError, ValueError
        If the boundaries are not numbers, or not finite and strictly ascending, or leave a cell without mass.
    """
    given = np.asarray(boundaries)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"boundaries must be real numbers, got dtype {given.dtype}")
    inner = given.astype(np.float64)
    if inner.ndim != 1 or not np.all(np.isfinite(inner)) or np.any(inner[1:] <= inner[:-1]):
        raise ValueError(f"boundaries must be a 1-D array of finite, strictly ascending numbers, got {boundaries!r}")
    lo, hi = law.support
    t, w = law.quadrature(lo, hi)
    edges = np.clip(np.concatenate([[lo], inner, [hi]]), lo, hi)
    mass, moment, _ = _cells(law, np.zeros(len(edges) - 1), edges)
    if np.any(mass <= 0):
        cell = int(np.argmax(mass <= 0))
        between = f"from {edges[cell]:.6g} to {edges[cell + 1]:.6g}"
        raise ValueError(f"boundaries: every cell must have mass; cell {cell}, {between}, has none under {law}")
    c = moment / mass
    _, g, _ = _cells(law, c, edges)
    c = c + g / mass  # the mean relative to a point of the cell: nothing cancels
    if law.center is not None and np.array_equal(inner - law.center, law.center - inner[::-1]):
        c, mass = (c - c[::-1]) / 2 + law.center, (mass + mass[::-1]) / 2
    _, g, error = _cells(law, c, edges)
    for array in (c, inner, mass):
        array.flags.writeable = False
    residual = float(np.max(np.abs(g) / mass) / np.sqrt((w * t * t).sum()))
    name = identity or f"boundaries({hashlib.sha256(inner.astype('<f8').tobytes()).hexdigest()})"
    entropy = float(special.entr(mass).sum()) / math.log(2)
    return Codebook(c, inner, mass, float(law.multiplicity * error.sum()), entropy, residual, name)


def nearest(codebook: Codebook, t: NDArray[np.floating]) -> NDArray[np.uint8]:
    """argmin_k |t - c_k| (Algorithm 1, line 6), as the number of boundaries <= t: a tie takes the upper index.

    The boundaries decide: those of `uniform` are not midpoints, and t takes the centroid of its cell, nearest or not.
    The boundaries are cast to the dtype of `t` first, so that a tie means the same in every language.
    """
    return np.searchsorted(codebook.boundaries.astype(t.dtype), t, side="right").astype(np.uint8)


def look_up(codebook: Codebook, indices: NDArray[np.uint8], dtype: DTypeLike) -> NDArray[np.floating]:
    """c_idx (Algorithm 1, line 9), in the given dtype."""
    return codebook.centroids.astype(dtype)[indices]


@lru_cache(maxsize=512)
def _solve(law: sphere.Law, bits: int) -> Codebook:
    n = 2**bits
    lo, hi = law.support
    identity = f"lloyd_max({law}, {bits})"
    if law.center is None:
        return of_centroids(law, _newton(law, n, lo, hi), identity)
    positive = _newton(law, n // 2, law.center, hi) - law.center if n > 1 else np.zeros(0)
    middle = np.zeros(n % 2)
    return of_centroids(law, np.concatenate([-positive[::-1], middle, positive]) + law.center, identity)


def lloyd_max(d: int | sphere.Law | None, bits: int) -> Codebook:
    """The optimal scalar quantizer C(f_X, b) of TurboQuant, Eq 4.

    Parameters
    ----------
    d : int, None or Law
        The dimension of the rotated unit vector (at least 2); None for the Gaussian limit N(0, 1); or any `sphere.Law`.
    bits : int
        1 to 12.  (0 is allowed too, the one-point codebook at the mean, as Algorithm 2 needs it at b = 1.)

    Returns
    -------
    Codebook
        Cached; its arrays are read-only.  Symmetric laws give exactly antisymmetric centroids.

    Notes
    -----
    The paper leaves the outermost edges undefined; they are the ends of the law's support.  Each centroid agrees with
    a 50-digit solution within 1e-13 relative at b <= 4 and 1e-11 at b <= 8 (``tests/test_codebook.py``).

    Raises
    ------
    TypeError, ValueError
        If `d` or `bits` is out of range.
    """
    bits = check_bits(bits, low=0, high=MAX_BITS)
    return _solve(sphere.law(d) if d is None or not hasattr(d, "quadrature") else d, bits)


_TAIL = 2.0**-41
_MAX_CELLS = 256


def _reach(law: sphere.Law) -> tuple[float, float, float]:
    """(low, center, high): each tail beyond low and high has the mass 2^-41; the center of symmetry, else the mean."""
    lo, hi = law.support
    t, w = law.quadrature(lo, hi)

    def end(inside: float, outside: float) -> float:
        def excess(point: float) -> float:
            between = (point, hi) if outside > inside else (lo, point)
            return math.log(max(float(law.quadrature(*between)[1].sum()), 1e-300) / _TAIL)

        if not math.isfinite(outside):
            outside = float(t.max() if outside > inside else t.min())  # the nodes span the mass
        return outside if excess(outside) >= 0 else float(brentq(excess, inside, outside))

    if law.center is not None:
        high = end(law.center, hi)
        return 2 * law.center - high, law.center, high
    mean = float((w * t).sum() / w.sum())
    return end(mean, lo), mean, end(mean, hi)


def _steps(step: float, low: float, center: float, high: float) -> Floats:
    """The boundaries center + (k + 1/2) step, k any integer, that lie between low and high."""
    half = (np.arange(_MAX_CELLS) + 0.5) * step
    return np.concatenate([-half[half < center - low][::-1], half[half < high - center]]) + center


@lru_cache(maxsize=512)
def _uniform(law: sphere.Law, rate: float) -> Codebook:
    low, center, high = _reach(law)
    finest, coarsest = (high - low) / (_MAX_CELLS - 2), 2 * max(high - center, center - low)

    def excess(log_step: float) -> float:
        edges = np.concatenate([[law.support[0]], _steps(math.exp(log_step), low, center, high), [law.support[1]]])
        mass = law.quadrature(edges[:-1], edges[1:])[1].sum(1)
        return float(special.entr(mass).sum()) / math.log(2) - rate

    highest = excess(math.log(finest)) + rate
    if rate > highest:
        raise ValueError(
            f"rate must be at most {highest:.4f} bits a coordinate for {law}, got {rate!r}: "
            f"a finer step needs more than {_MAX_CELLS} cells, and an index would not fit in a byte"
        )
    step = math.exp(brentq(excess, math.log(finest), math.log(coarsest), xtol=1e-15))
    return of_boundaries(law, _steps(step, low, center, high), f"uniform({law}, {rate!r})")


def uniform(d: int | sphere.Law | None, rate: float) -> Codebook:
    """The entropy-coded uniform scalar quantizer: cells of one width, centroids at their means, entropy exactly `rate`.

    Beyond the paper.  Section 3.1 notes that Lloyd-Max indices have less than b bits of entropy, and leaves it there.
    Once the indices are entropy-coded, though, the best scalar quantizer at high rate is not that of Eq 4 but the
    uniform one (Gish and Pierce, 1968): D = step^2 / 12 at log2(sqrt(2 pi e) / step) bits in the Gaussian limit, which
    is 1/2 log2(2 pi e / 12) = 0.2546 bit from Shannon's bound.  Lloyd-Max tends to 0.722 bit from it at fixed length
    and to 0.410 entropy-coded.

    Parameters
    ----------
    d : int, None or Law
        As in `lloyd_max`.
    rate : float
        Entropy of an index in bits, an integer or not: from 0.01 to 6.19 (d = None), 6.33 (d = 128), 6.45 (d = 64).

    Returns
    -------
    Codebook
        Cached; its arrays are read-only.  `entropy` is `rate` within 1e-10, so that (`entropy`, `distortion`) over the
        rates is the exact operational rate-distortion curve.  Stored without an entropy coder an index takes `bits`.

    Notes
    -----
    The middle cell is centred at 0 ("mid-tread"): the boundaries are (k + 1/2) step.  With a boundary at 0 instead
    ("mid-rise") the entropy cannot fall below 1 bit; there the cost is 0.023 (d = 128) to 0.030 bit
    more, above 1.35 bits at most 0.0007 bit less, and from 1.75 bits on the two agree to 1e-5 (all for d >= 128).
    The best entropy-constrained quantizer, of unequal cells, would save no more than 0.0007 bit (1.3 bits, d = 128),
    and 2e-5 at 3 bits: there is nothing left for a scalar quantizer to gain.

    A boundary with less than 2^-41 of the mass beyond it is left out; the outermost cells reach to the ends of the
    support.  The entropy falls as the step grows, but for d = 2, whose density is infinite at the ends: there several
    steps may have the entropy asked for, and this is one of them.

    Raises
    ------
    TypeError, ValueError
        If `d` is out of range, or `rate` is not a number of at least 0.01, or needs more than 256 cells.
    """
    law = sphere.law(d) if d is None or not hasattr(d, "quadrature") else d
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        raise TypeError(f"rate must be a real number of bits, got {rate!r} of type {type(rate).__name__}")
    if not 0.01 <= rate < math.inf:
        raise ValueError(f"rate must be at least 0.01 bits a coordinate and finite, got {rate!r}")
    return _uniform(law, float(rate))
