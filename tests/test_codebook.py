"""Lloyd-Max codebooks against a 50-digit solution, closed forms, the paper's tables and brute force."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

import mpmath as mp
import numpy as np
import pytest
from numpy.polynomial import Polynomial

from turboquant_ref import codebook, sphere
from turboquant_ref.codebook import lloyd_max, of_centroids

U = 2.0**-53
HALF = mp.mpf(1) / 2
GRID = [2, 3, 4, 7, 16, 50, 128, 200, 1536, 65536, None]


# --- the oracle: Newton's method in 50 digits on the optimality conditions in closed form -----------------------------


def closed_forms(d):
    """f, and the integrals of f and of t f from 0 to t and from infinity to t, in mpmath."""
    if d is None:
        return mp.npdf, lambda t: mp.erf(t / mp.sqrt(2)) / 2, lambda t: -mp.npdf(t)
    half = mp.mpf(d - 1) / 2
    constant = mp.gamma(half + HALF) / (mp.sqrt(mp.pi) * mp.gamma(half))

    def pdf(t):
        return constant * (1 - t * t) ** (half - 1)

    def mass(t):
        rest = 1 - t * t
        if t * t < 0.6:
            return constant * t * rest**half * mp.hyp2f1(1, half + HALF, 3 * HALF, t * t)
        return HALF - constant * t * rest**half * mp.hyp2f1(1, half + HALF, half + 1, rest) / (2 * half)

    def mean(t):
        return -constant * (1 - t * t) ** half / (2 * half)

    return pdf, mass, mean


def solve_tridiagonal(off, diagonal, right):
    """Thomas's algorithm for a symmetric matrix."""
    n, diagonal, x = len(right), list(diagonal), list(right)
    for i in range(1, n):
        factor = off[i - 1] / diagonal[i - 1]
        diagonal[i] -= factor * off[i - 1]
        x[i] -= factor * x[i - 1]
    for i in reversed(range(n)):
        x[i] = (x[i] - (off[i] * x[i + 1] if i + 1 < n else 0)) / diagonal[i]
    return x


def solve_50_digits(d, start):
    """The positive centroids, their cells' masses and D, refined from `start` to a residual below 1e-44."""
    with mp.workdps(50):
        pdf, mass, mean = closed_forms(d)
        c = [mp.mpf(float(x)) for x in start]
        n = len(c)
        for _ in range(12):
            inner = [(c[i] + c[i + 1]) / 2 for i in range(n - 1)]
            below = [mp.mpf(0), *map(mass, inner), HALF]
            first = [mean(mp.mpf(0)), *map(mean, inner), mp.mpf(0)]
            p = [below[i + 1] - below[i] for i in range(n)]
            m = [first[i + 1] - first[i] for i in range(n)]
            g = [m[i] - c[i] * p[i] for i in range(n)]
            if max(map(abs, g)) < mp.mpf(10) ** -44:
                energy = HALF if d is None else HALF / d
                half_distortion = energy - sum(ci * (2 * mi - ci * pi) for ci, mi, pi in zip(c, m, p, strict=True))
                return c, p, 2 * half_distortion * (1 if d is None else d)
            off = [(c[i + 1] - c[i]) / 4 * pdf(inner[i]) for i in range(n - 1)]
            diagonal = [-x + a + b for x, a, b in zip(p, [0, *off], [*off, 0], strict=True)]
            c = [x - y for x, y in zip(c, solve_tridiagonal(off, diagonal, g), strict=True)]
    raise AssertionError("the 50-digit solution did not converge")


def worst_errors(d, bits):
    """Worst relative errors of centroids, of probabilities and of D against 50 digits."""
    book = lloyd_max(d, bits)
    upper = slice(2 ** (bits - 1), None)
    c, p, distortion = solve_50_digits(d, book.centroids[upper])

    @mp.workdps(50)
    def worst(got, want):
        return max(float(abs(mp.mpf(float(x)) / y - 1)) for x, y in zip(got, want, strict=True))

    return worst(book.centroids[upper], c), worst(book.probabilities[upper], p), worst([book.distortion], [distortion])


def check_centroids(d, bits):
    assert worst_errors(d, bits)[0] <= (1e-13 if bits <= 4 else 1e-11)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("d", GRID, ids=str)
def test_centroids_probabilities_and_distortion_against_50_digits(d, bits):
    """The promise of the docstring, and measured: centroids 3e-15 at b <= 4 and 2e-13 at b <= 8, D 1.3e-15.

    The residuals stay at rounding, u times a cell's width; the inverse of the Jacobian (that of a second difference)
    multiplies them by up to 4^b, and the smallest centroid is half a cell: 4^b u = 7e-12 relative at b = 8.
    """
    centroid, probability, distortion = worst_errors(d, bits)
    assert centroid <= (1e-13 if bits <= 4 else 1e-11)
    assert probability <= (1e-13 if bits <= 4 else 1e-11)
    assert distortion <= 1e-14  # stationary in the centroids; what is left is the rounding of a sum of squares


def test_50_digit_solution_from_far_away_is_the_same():
    """The oracle is not led by the answer it is given: it starts here from quantiles."""
    for d in (5, 128, None):
        start = sphere.law(d).quantile(0.5 + (np.arange(4) + 0.5) / 8)
        near, _, _ = solve_50_digits(d, lloyd_max(d, 3).centroids[4:])
        far, _, _ = solve_50_digits(d, start)
        assert max(abs(x - y) for x, y in zip(near, far, strict=True)) < 1e-40


# --- closed forms -------------------------------------------------------------------------------------------------


def test_d3_is_the_uniform_quantizer():
    for b in range(1, 13):
        book, n = lloyd_max(3, b), 2**b
        # conditioning as above: n times a residual of a few roundings (measured 3.6 n u in all); a cell's width is 2/n,
        # but neighbours share most of the error
        np.testing.assert_allclose(book.centroids, -1 + (2 * np.arange(n) + 1) / n, rtol=0, atol=16 * U * n)
        np.testing.assert_allclose(book.probabilities, 1 / n, rtol=U * max(64, n * n / 8))
        assert abs(book.distortion * 4**b - 1) < 1e-13
        assert abs(book.entropy - b) < 1e-12


@pytest.mark.parametrize("d", [2, 3, 4, 5, 17, 128, 1536, 65536, 10**9, None])
def test_one_bit(d):
    book, mean_abs = lloyd_max(d, 1), sphere.law(d).mean_abs
    # 2 * 128 weights, each within 8 roundings in their errors' common part (the constant), the rest averages out
    np.testing.assert_allclose(book.centroids, [-mean_abs, mean_abs], rtol=32 * U)
    assert abs(book.distortion - (1 - (d or 1) * mean_abs**2)) < 64 * U
    np.testing.assert_allclose(book.probabilities, 0.5, rtol=32 * U)
    np.testing.assert_array_equal(book.boundaries, [0.0])


def test_two_dimensions_one_bit():
    book = lloyd_max(2, 1)
    assert abs(book.centroids[1] - 2 / math.pi) < 8 * U
    assert abs(book.distortion - (1 - 8 / math.pi**2)) < 8 * U


def test_zero_bits_is_the_mean():
    for d in (2, 3, 128, None):
        book = lloyd_max(d, 0)
        assert (book.bits, book.centroids.tolist(), len(book.boundaries)) == (0, [0.0], 0)
        assert abs(book.distortion - 1) < 64 * U
        assert abs(book.entropy) < 64 * U
        assert book.residual < 64 * U


# --- printed tables, to every printed digit -----------------------------------------------------------------------

DISTORTIONS = """
2    0.189431 0.0418096 0.00985800 0.00239581 5.90705e-4 1.46667e-4 3.65418e-5 9.11994e-6
3    0.25     0.0625    0.015625   0.00390625 9.76563e-4 2.44141e-4 6.10352e-5 1.52588e-5
4    0.279494 0.0745234 0.0192971  0.00491420 0.00124028 3.11570e-4 7.80824e-5 1.95445e-5
8    0.322430 0.0947705 0.0260630  0.00687042 0.00176694 4.48302e-4 1.12927e-4 2.83406e-5
16   0.343185 0.105847  0.0300841  0.00809366 0.00210608 5.37794e-4 1.35934e-4 3.41755e-5
64   0.358387 0.114526  0.0333908  0.00913152 0.00239923 6.15963e-4 1.56145e-4 3.93168e-5
128  0.360889 0.116000  0.0339659  0.00931479 0.00245146 6.29961e-4 1.59774e-4 4.02412e-5
200  0.361787 0.116533  0.0341746  0.00938149 0.00247050 6.35069e-4 1.61099e-4 4.05787e-5
256  0.362136 0.116740  0.0342560  0.00940753 0.00247794 6.37065e-4 1.61617e-4 4.07107e-5
768  0.362966 0.117234  0.0344503  0.00946977 0.00249573 6.41840e-4 1.62856e-4 4.10264e-5
1536 0.363173 0.117358  0.0344990  0.00948538 0.00250020 6.43039e-4 1.63167e-4 4.11057e-5
3072 0.363277 0.117420  0.0345234  0.00949319 0.00250243 6.43639e-4 1.63322e-4 4.11454e-5
inf  0.363380 0.117482  0.0345478  0.00950101 0.00250467 6.44240e-4 1.63478e-4 4.11851e-5
"""

CENTROIDS = """
inf  0.79788456 | 0.45278003 1.51041761 | 0.24509418 0.75600528 1.34390928 2.15194570 | 0.12839503 0.38804830 0.65675912 0.94234046 1.25623120 1.61804639 2.06901723 2.73258957
1536 0.79801444 | 0.45275309 1.50998199 | 0.24503849 0.75578225 1.34329801 2.15022734 | 0.12835151 0.38790918 0.65649687 0.94190197 1.25552253 1.61689633 2.06707450 2.72889709
200  0.79888254 | 0.45257176 1.50707312 | 0.24466608 0.75429287 1.33922438 2.13880529 | 0.12806093 0.38698065 0.65474767 0.93898003 1.25080544 1.60925168 2.05418311 2.70445729
128  0.79944444 | 0.45245325 1.50519298 | 0.24442487 0.75333016 1.33659889 2.13147084 | 0.12787315 0.38638092 0.65361895 0.93709702 1.24777046 1.60434266 2.04592538 2.68885926
64   0.80100727 | 0.45211895 1.49997480 | 0.24375343 0.75065811 1.32934287 2.11131145 | 0.12735218 0.38471827 0.65049415 0.93189402 1.23940422 1.59084913 2.02330983 2.64637049
"""  # noqa: E501

ENTROPIES = "1 1.91110 2.82487 3.76533 4.72978 5.71008 6.69958 7.69412"
GAUSSIAN_CODEBOOK_EXCESS_AT_128 = "0.001 0.004 0.04 0.11 0.19 0.27 0.33 0.37"  # per cent of D


def dimension(word):
    return None if word == "inf" else int(word)


def printed(value, like):
    """`value` rounded at the last digit of the printed number `like`, as a number."""
    return Decimal(value).quantize(Decimal(like), ROUND_HALF_UP)


def test_table_of_distortions():
    for line in DISTORTIONS.split("\n")[1:-1]:
        d, *row = line.split()
        for bits, digits in enumerate(row, 1):
            value = lloyd_max(dimension(d), bits).distortion
            assert printed(value, digits) == Decimal(digits), (d, bits, value)


def test_table_of_centroids():
    for line in CENTROIDS.split("\n")[1:-1]:
        d, row = line.split(maxsplit=1)
        for bits, group in enumerate(row.split("|"), 1):
            c = lloyd_max(dimension(d), bits).centroids[2 ** (bits - 1) :]
            c = c * math.sqrt(dimension(d) or 1)
            assert [str(printed(x, "1e-8")) for x in c] == group.split(), (d, bits)


def test_table_of_entropies():
    for bits, digits in enumerate(ENTROPIES.split(), 1):
        assert printed(lloyd_max(None, bits).entropy, digits) == Decimal(digits)


def test_gaussian_codebook_at_128():
    """Somebody else's table, judged by the exact law."""
    law = sphere.law(128)
    for bits, digits in enumerate(GAUSSIAN_CODEBOOK_EXCESS_AT_128.split(), 1):
        book = of_centroids(law, lloyd_max(None, bits).centroids / math.sqrt(128))
        excess = 100 * (book.distortion / lloyd_max(128, bits).distortion - 1)
        assert printed(excess, digits) == Decimal(digits), (bits, excess)


# --- planted bugs -------------------------------------------------------------------------------------------------


def test_planted_a_codebook_scaled_by_two_per_cent(monkeypatch):
    true_newton = codebook._newton
    monkeypatch.setattr(codebook, "_newton", lambda *arguments: 1.02 * true_newton(*arguments))
    monkeypatch.setattr(codebook, "_solve", codebook._solve.__wrapped__)  # the true ones are in the cache
    assert lloyd_max(128, 3).residual > 1e-3
    with pytest.raises(AssertionError):
        check_centroids(128, 3)
    with pytest.raises(AssertionError):
        test_table_of_distortions()
    with pytest.raises(AssertionError):
        test_table_of_centroids()
    with pytest.raises(AssertionError):
        test_one_bit(128)
    with pytest.raises(AssertionError):
        test_shape_of_a_codebook(128, 3)


def test_planted_boundaries_off_the_midpoints(monkeypatch):
    true_edges = codebook._edges
    monkeypatch.setattr(codebook, "_edges", lambda c, lo, hi: true_edges(c, lo, hi) + 1e-9)
    monkeypatch.setattr(codebook, "_solve", codebook._solve.__wrapped__)
    with pytest.raises(AssertionError):
        test_shape_of_a_codebook(128, 3)
    with pytest.raises(AssertionError):
        check_centroids(128, 3)


# --- shape, order, optimality -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8, 12])
@pytest.mark.parametrize("d", [2, 3, 128, 1536, 65536, 10**9, None], ids=str)
def test_shape_of_a_codebook(d, bits):
    book = lloyd_max(d, bits)
    c, edge = book.centroids, sphere.law(d).support[1]
    assert (c.shape, book.boundaries.shape, book.probabilities.shape) == ((2**bits,), (2**bits - 1,), (2**bits,))
    assert book.bits == bits
    assert np.all(np.diff(c) > 0)
    assert abs(c[-1]) < edge
    np.testing.assert_array_equal(c, -c[::-1])  # bit for bit
    np.testing.assert_array_equal(book.boundaries, (c[1:] + c[:-1]) / 2)
    assert book.boundaries[2 ** (bits - 1) - 1] == 0
    # weights of 16 roundings at most in the bulk (see tests/test_sphere.py), mostly averaged out; more in the tails
    assert abs(book.probabilities.sum() - 1) < 64 * U
    np.testing.assert_allclose(book.probabilities, book.probabilities[::-1], rtol=128 * U)
    assert 0 < book.entropy <= bits + 64 * U
    assert book.residual < 64 * U


@pytest.mark.parametrize("d", [2, 5, 128, None], ids=str)
def test_mean_energy_and_distortion_agree_with_the_laws_closed_forms(d):
    """E[c(t)^2] = E[t c(t)] = 1 - D (up to the factor d): section 3.2's bias, from integrals that share no code."""
    law, unit = sphere.law(d), d or 1
    for bits in (1, 2, 4, 6):
        book = lloyd_max(d, bits)
        edges = np.concatenate([[law.support[0]], book.boundaries, [law.support[1]]])
        np.testing.assert_allclose(book.probabilities, law.probability(edges[:-1], edges[1:]), rtol=1e-12)
        mean = law.partial_mean(edges[:-1], edges[1:])
        assert abs(unit * (book.centroids * mean).sum() - (1 - book.distortion)) < 128 * U
        assert abs(unit * (book.centroids**2 * book.probabilities).sum() - (1 - book.distortion)) < 128 * U
        energy = law.partial_second_moment(edges[:-1], edges[1:]).sum()
        error = energy - 2 * (book.centroids * mean).sum() + (book.centroids**2 * book.probabilities).sum()
        assert abs(unit * error - book.distortion) < 256 * U


def test_distortion_falls_with_bits_and_grows_with_d():
    dimensions = [2, 3, 4, 8, 16, 50, 128, 200, 1536, 65536, 10**7, None]
    table = np.array([[lloyd_max(d, b).distortion for b in range(13)] for d in dimensions])
    assert np.all(np.diff(table[:, 1:], axis=0) > 0)
    ratio = table[:, 1:] / table[:, :-1]
    assert np.all(ratio < 0.37)  # the worst: the first bit at d = inf, 1 - 2/pi = 0.3634
    bound = math.sqrt(3) * math.pi / 2 * 4.0 ** -np.arange(13)
    assert np.all(table < bound)  # Theorem 1, at every d and b
    assert table[-1, 12] / bound[12] > 0.999  # and Panter-Dite: tight as b grows


def test_any_other_centroids_are_worse():
    rng = np.random.default_rng(0)
    for d in (2, 7, 128, None):
        for bits in (1, 3, 5):
            best = lloyd_max(d, bits)
            for size in (1e-3, 1e-2):
                moved = best.centroids * (1 + size * rng.standard_normal(2**bits))
                assert of_centroids(sphere.law(d), np.sort(moved)).distortion > best.distortion


# --- other laws ---------------------------------------------------------------------------------------------------


class Counted:
    """A law that counts how often the solver integrates."""

    multiplicity = 1

    def __init__(self, law):
        self.law, self.calls = law, 0
        self.support, self.center, self.pdf = law.support, law.center, law.pdf

    def quadrature(self, a, b):
        self.calls += 1
        return self.law.quadrature(a, b)


@pytest.mark.parametrize("d", [2, 3, 16, 128, 65536, None], ids=str)
def test_convergence_is_quadratic(d):
    """Two quadratures start the solver, two judge the result; at b = 8, plain Lloyd iteration would need > 10,000."""
    for bits in range(1, 13):
        law = Counted(sphere.law(d))
        book = lloyd_max(law, bits)
        assert law.calls <= 20, bits  # measured: 6 to 18, two Lloyd steps among them
        assert np.all(book.centroids == lloyd_max(d, bits).centroids)


@dataclass(frozen=True)
class Smooth:
    """A law from its density, a smooth one, by `sphere.gauss_legendre`."""

    density: Polynomial
    support: tuple[float, float] = (0.0, 1.0)
    center: float | None = None
    multiplicity: int = 1
    __hash__ = object.__hash__

    def pdf(self, t):
        return self.density(np.asarray(t, float))

    def quadrature(self, a, b):
        t, w = sphere.gauss_legendre(a, b)
        return t, w * self.pdf(t)


@dataclass(frozen=True)
class Exponential:
    """exp(-t / scale) / scale on [0, inf)."""

    scale: float = 1.0
    support = (0.0, math.inf)
    center = None
    multiplicity = 1

    def pdf(self, t):
        return np.exp(-np.asarray(t, float) / self.scale) / self.scale

    def quadrature(self, a, b):
        t, w = sphere.gauss_legendre(a, np.minimum(b, np.asarray(a) + 80 * self.scale))
        return t, w * self.pdf(t)


def brute_force(cell_mean, lo, hi, n, steps):
    """Lloyd's iteration from n equal cells."""
    c = lo + (np.arange(n) + 0.5) * (min(hi, 5.0) - lo) / n
    for _ in range(steps):
        edges = np.concatenate([[lo], (c[1:] + c[:-1]) / 2, [hi]])
        c = cell_mean(edges[:-1], edges[1:])
    return c


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    "density",
    [
        Polynomial([0, 2]),  # a triangle
        30 * Polynomial([0, 1]) * Polynomial([1, -1]) ** 4,  # Beta(2, 5)
        Polynomial([1]),  # uniform
    ],
    ids=["triangle", "beta", "uniform"],
)
def test_law_without_symmetry_against_brute_force(density, bits):
    mass, first = density.integ(), (density * Polynomial([0, 1])).integ()
    c = brute_force(lambda a, b: (first(b) - first(a)) / (mass(b) - mass(a)), 0.0, 1.0, 2**bits, 6000)
    book = lloyd_max(Smooth(density), bits)
    # Lloyd contracts by 1 - O(4^-b) a step, so 6000 steps reach its own rounding, which 4^b amplifies
    np.testing.assert_allclose(book.centroids, c, rtol=1e-12)
    edges = np.concatenate([[0], book.boundaries, [1]])
    np.testing.assert_allclose(book.probabilities, np.diff(mass(edges)), rtol=1e-12)
    second = (density * Polynomial([0, 0, 1])).integ()
    moments = [np.diff(f(edges)) for f in (second, first, mass)]
    error = (moments[0] - 2 * book.centroids * moments[1] + book.centroids**2 * moments[2]).sum()
    assert abs(book.distortion - error) < 128 * U
    assert book.residual < 64 * U


@pytest.mark.parametrize("bits", [0, 1, 2, 3, 4])
def test_exponential_law_against_brute_force_and_at_any_scale(bits):
    def cell_mean(a, b):
        with np.errstate(invalid="ignore", over="ignore"):
            width = b - a
            return a + 1 - np.where(np.isfinite(b), width / np.expm1(width), 0)

    book = lloyd_max(Exponential(), bits)
    np.testing.assert_allclose(book.centroids, brute_force(cell_mean, 0.0, math.inf, 2**bits, 6000), rtol=1e-12)
    for scale in (1e-6, 1e4):
        scaled = lloyd_max(Exponential(scale), bits)
        np.testing.assert_allclose(scaled.centroids, scale * book.centroids, rtol=1e-12)
        assert abs(scaled.distortion / (scale**2 * book.distortion) - 1) < 1e-12


@dataclass(frozen=True)
class PolarAngle:
    """PolarQuant's angle at level l >= 2: proportional to sin(2 psi)^(2^(l-1) - 1) on [0, pi/2]."""

    level: int
    support = (0.0, math.pi / 2)
    center = math.pi / 4
    multiplicity = 1

    def pdf(self, t):
        k = 2 ** (self.level - 1)
        constant = math.gamma(k) / (2 ** (k - 2) * math.gamma(k / 2) ** 2)
        return constant * np.sin(2 * np.asarray(t, float)) ** (k - 1)

    def quadrature(self, a, b):
        t, w = sphere.gauss_legendre(a, b)
        return t, w * self.pdf(t)


def test_a_law_that_contradicts_itself_is_reported():
    class Restless(Smooth):
        calls = 0

        def quadrature(self, a, b):
            Restless.calls += 1
            t, w = super().quadrature(a, b)
            return t, w * (1 + (Restless.calls % 2) * t)

    with pytest.raises(ArithmeticError, match=r"Lloyd-Max did not converge for .*Restless.* and 4 cells"):
        lloyd_max(Restless(Polynomial([1])), 2)


@pytest.mark.parametrize(
    ("level", "centroids", "cosine"),
    [
        (2, "0.309756 0.633980 0.936816 1.261040", "0.995055"),
        (3, "0.426250 0.674385 0.896411 1.144547", "0.996924"),
        (4, "0.524214 0.705909 0.864887 1.046582", "0.998305"),
    ],
)
def test_polar_angles_symmetric_about_another_center(level, centroids, cosine):
    law = PolarAngle(level)
    book = lloyd_max(law, 2)
    assert [str(printed(x, "1e-6")) for x in book.centroids] == centroids.split()
    np.testing.assert_allclose(book.centroids + book.centroids[::-1], math.pi / 2, rtol=2 * U)
    assert abs(book.probabilities.sum() - 1) < 64 * U
    assert book.residual < 64 * U
    edges = np.concatenate([[0], book.boundaries, [math.pi / 2]])
    t, w = law.quadrature(edges[:-1], edges[1:])
    assert printed((w * np.cos(t - book.centroids[:, None])).sum(), cosine) == Decimal(cosine)
    assert lloyd_max(law, 0).centroids.tolist() == [math.pi / 4]


# --- given centroids, caching, bad input --------------------------------------------------------------------------


def test_of_centroids_judges_any_table():
    law = sphere.law(128)
    best = lloyd_max(128, 2)
    again = of_centroids(law, best.centroids.tolist())
    np.testing.assert_array_equal(again.centroids, best.centroids)
    assert (again.distortion, again.entropy, again.residual) == (best.distortion, best.entropy, best.residual)
    # D of a scaled codebook is a parabola about the optimum: D(s) = D + (s - 1)^2 (1 - D) while cells stay the same
    assert of_centroids(law, [-1.02 * best.centroids[3], 1.02 * best.centroids[3]]).distortion > best.distortion
    one = lloyd_max(128, 1)
    scaled = of_centroids(law, 1.02 * one.centroids)
    assert abs(scaled.distortion - (one.distortion + 0.02**2 * (1 - one.distortion))) < 64 * U
    assert abs(scaled.residual - 0.02 * one.centroids[1] * math.sqrt(128)) < 64 * U


def test_of_centroids_beyond_the_support_and_empty_cells():
    law = Smooth(Polynomial([1]))  # uniform on [0, 1], whose quadrature does not know where the law ends
    book = of_centroids(law, [0.25, 0.75, 1.5, 3.0])
    np.testing.assert_array_equal(book.boundaries, [0.5, 1.125, 2.25])
    np.testing.assert_allclose(book.probabilities, [0.5, 0.5, 0, 0], rtol=8 * U)
    assert book.residual == math.inf
    assert abs(book.entropy - 1) < 8 * U
    assert abs(book.distortion - 1 / 48) < 8 * U
    assert book.bits == 2
    sphere_book = of_centroids(sphere.law(3), [-2.0, -0.5, 0.5, 2.0])
    np.testing.assert_allclose(sphere_book.probabilities.sum(), 1, rtol=8 * U)


def test_arrays_are_read_only_and_the_callers_are_not_touched():
    mine = np.array([-0.1, 0.1])
    for book in (lloyd_max(128, 3), of_centroids(sphere.law(128), mine)):
        for array in (book.centroids, book.boundaries, book.probabilities):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0
    mine[0] = -0.2


def test_results_are_cached():
    assert lloyd_max(128, 3) is lloyd_max(128, 3)
    assert lloyd_max(np.int64(128), np.uint8(3)) is lloyd_max(128, 3)
    assert lloyd_max(sphere.law(128), 3) is lloyd_max(128, 3)
    assert lloyd_max(sphere.Gaussian(), 3) is lloyd_max(None, 3)
    assert lloyd_max(129, 3) is not lloyd_max(128, 3)


def test_a_tie_takes_the_upper_index():
    book = of_centroids(sphere.law(3), [-0.75, -0.25, 0.25, 0.75])
    t = np.array([-1.0, -0.5, np.nextafter(-0.5, -1), 0.0, -0.0, 0.5, 1.0])
    for dtype in (np.float64, np.float32):
        expected = [0, 1, 0 if dtype is np.float64 else 1, 2, 2, 3, 3]
        indices = codebook.nearest(book, t.astype(dtype))
        assert indices.tolist() == expected
        assert indices.dtype == np.uint8
        values = codebook.look_up(book, indices, dtype)
        assert values.dtype == dtype
        assert values.tolist() == [[-0.75, -0.25, 0.25, 0.75][i] for i in expected]


@pytest.mark.parametrize("bits", [-1, 13, 1000])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=rf"bits must be an integer from 0 to 12, got {bits}"):
        lloyd_max(128, bits)


@pytest.mark.parametrize("bits", [2.5, 2.0, True, "3", None, [3]])
def test_bits_of_another_type(bits):
    with pytest.raises(TypeError, match="bits must be an integer from 0 to 12, got"):
        lloyd_max(128, bits)


@pytest.mark.parametrize(
    ("d", "error"), [(1, ValueError), (0, ValueError), (True, TypeError), (2.0, TypeError), ("3", TypeError)]
)
def test_bad_dimension(d, error):
    with pytest.raises(error, match="d must be an integer of at least 2, got"):
        lloyd_max(d, 3)


@pytest.mark.parametrize(
    "centroids", [[0.1, -0.1], [0.1, 0.1], [0.0, np.nan], [np.nan, 0.0], [-np.inf, 0.0], [], [[0.1, 0.2]], 0.5]
)
def test_bad_centroids(centroids):
    with pytest.raises(ValueError, match="centroids must be a 1-D array of finite, strictly ascending numbers, got"):
        of_centroids(sphere.law(128), centroids)


@pytest.mark.parametrize("centroids", [["a", "b"], [1j, 2j], [False, True], [None, 1.0]])
def test_centroids_that_are_no_numbers(centroids):
    with pytest.raises(TypeError, match="centroids must be real numbers, got dtype"):
        of_centroids(sphere.law(128), centroids)
