"""The law of one coordinate against 50-digit arithmetic, closed forms and its own algebra."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turboquant_ref import sphere

U = 2.0**-53
HALF = mp.mpf(1) / 2
DIMENSIONS = (2, 3, 4, 5, 16, 50, 128, 1536, 65536, None)


# --- the oracle: positive series and complements at 60 digits more than the smallest tail, nothing of SciPy -----------


class Oracle:
    """The same law in mpmath; `d` None is N(0, 1)."""

    def __init__(self, d):
        self.d, self.variance = d, mp.mpf(1) if d is None else mp.mpf(1) / d
        self.end = mp.inf if d is None else mp.mpf(1)
        if d is not None:
            self.half = mp.mpf(d - 1) / 2
            self.constant = mp.gamma(self.half + HALF) / (mp.sqrt(mp.pi) * mp.gamma(self.half))

    def pdf(self, t):
        return mp.npdf(t) if self.d is None else self.constant * (1 - mp.mpf(t) ** 2) ** (self.half - 1)

    def inner(self, k, t):
        """The share of t^(2k-1) inside [-|t|, |t|], regularised: k = 1/2 is the mass, k = 3/2 the energy."""
        t = mp.mpf(t)
        if self.d is None:
            return mp.gammainc(k, 0, t * t / 2, regularized=True) if mp.isfinite(t) else mp.mpf(1)
        x = t * t
        if x >= 1:
            return mp.mpf(1)
        if x < 0.6:
            return x**k * (1 - x) ** self.half / (k * mp.beta(k, self.half)) * mp.hyp2f1(1, k + self.half, k + 1, x)
        y = 1 - x
        tail = y**self.half * x**k / (self.half * mp.beta(k, self.half))
        return 1 - tail * mp.hyp2f1(1, k + self.half, self.half + 1, y)

    def cdf(self, t):
        return (1 + mp.sign(mp.mpf(t)) * self.inner(HALF, t)) / 2

    def moment(self, power, a, b):
        """The integral of t^power f(t) over [a, b], power 0, 1, 2."""
        if power == 1:
            if self.d is None:
                return mp.npdf(a) - mp.npdf(b)
            edge = [self.constant * (1 - mp.mpf(t) ** 2) ** self.half / (self.d - 1) for t in (a, b)]
            return edge[0] - edge[1]
        k, scale = (HALF, 1) if power == 0 else (3 * HALF, self.variance)
        return scale * (mp.sign(mp.mpf(b)) * self.inner(k, b) - mp.sign(mp.mpf(a)) * self.inner(k, a)) / 2


def points(d):
    """Positive t from the center to where the tail reaches about e^-650."""
    sd = 1.0 if d is None else d**-0.5
    units = [1e-6 * sd, 0.3 * sd, sd, 2.2 * sd, 5 * sd, 8 * sd, 25 * sd, 34 * sd]
    if d is None:
        return units
    candidates = sorted({*units, 0.5, 0.7, 0.72, 0.9, 0.999, 1 - 2.0**-40})
    return [t for t in candidates if t < 1 and -(d - 1) / 2 * math.log1p(-t * t) < 650]


def tolerance(value):
    """Relative: 16 roundings, and 4 per unit of |log value|.

    A tail is exp(-E); E is computed from t, whose square (or 1 - t^2) carries a rounding, so its absolute error
    is a small multiple of E u, and that is the tail's relative error.  Not a matter of the algorithm: one ulp of t
    itself moves the tail by 2 E u.  Measured on the grid of this file: at most 3.0 per unit, reached by SciPy's
    ndtr; 2.7 elsewhere (before the logarithms were taken with care: 2e4 roundings at d = 65536 at t = 1 sd).
    """
    return (16 + 4 * abs(float(mp.log(abs(value))))) * U


def error(got, want):
    with mp.workdps(50):
        return float(abs(mp.mpf(float(got)) / want - 1))


def assert_close(got, want, what):
    if abs(want) > 1e-290:
        assert error(got, want) <= tolerance(want), what


@pytest.fixture(scope="module", params=DIMENSIONS, ids=str)
def pair(request):
    with mp.workdps(360):
        return sphere.law(request.param), Oracle(request.param), points(request.param)


def check_functions(law, oracle, t):
    end = law.support[1]
    with mp.workdps(360):  # complements of tails down to 1e-290
        assert_close(law.pdf(t), oracle.pdf(t), ("pdf", t))
        assert_close(law.cdf(t), oracle.cdf(t), ("cdf", t))
        assert_close(law.cdf(-t), 1 - oracle.cdf(t), ("cdf", -t))
        assert_close(law.sf(t), 1 - oracle.cdf(t), ("sf", t))
        assert_close(law.sf(-t), oracle.cdf(t), ("sf", -t))
        cells = [(0, t), (t / 2, t), (-t, -t / 2), (t, end), (-end, -t), (-0.9 * t, t), (-t, end), (t, t * 1.0001)]
        for a, b in cells:
            if b <= end:
                for power, name in enumerate(("probability", "partial_mean", "partial_second_moment")):
                    narrow = b / a < 1.01 if a > 0 else False
                    if narrow and power != 1:
                        continue  # a difference of two shares; only the partial mean has a form without it
                    got = getattr(law, name)(a, b)
                    assert_close(got, oracle.moment(power, a, b), (name, a, b))


def test_every_function_against_50_digits(pair):
    law, oracle, ts = pair
    for t in ts:
        check_functions(law, oracle, t)


def test_quadrature_against_50_digits(pair):
    law, oracle, ts = pair
    end = law.support[1]
    with mp.workdps(360):
        for t in (t for t in ts if t <= 0.9 or not isinstance(law, sphere.Coordinate)):
            for a, b in ((t, end), (t / 2, t), (-t, 1.1 * t), (-end, t)):
                nodes, w = law.quadrature(a, b)
                for power in (0, 1, 2):
                    want = oracle.moment(power, a, b)
                    size = oracle.moment(power, a, b) if a > 0 else oracle.variance ** (mp.mpf(power) / 2)
                    # positive terms: relative to the integral of |t|^power f, which is about sd^power once 0 is inside
                    got = mp.mpf(float((w * nodes**power).sum()))
                    if size > 1e-290:
                        assert abs(got - want) <= tolerance(size) * size, (a, b, power)


def test_quadrature_at_the_ends_is_right_in_absolute_terms():
    for d in (2, 3, 4, 16):
        law, oracle = sphere.law(d), Oracle(d)
        for t in (0.99, 1 - 1e-6, 1 - 1e-12, np.nextafter(1, 0)):
            # arcsin's rounding u moves the cell's edge by u in theta, where the density is C cos(theta)^(d-2) <= C
            with mp.workdps(50):
                want = float(1 - oracle.cdf(t))
            assert abs(law.quadrature(t, 1)[1].sum() - want) <= 4 * U * law.constant


def inversion_error(t):
    """Of a quantile, absolute: measured at most 7 roundings of t, but 82 where t^2 > 1/2 (SciPy's betainccinv)."""
    return (16 if t * t < 0.5 else 256) * U * abs(t)


def test_quantile_against_50_digits(pair):
    law, oracle, ts = pair
    with mp.workdps(360):
        for p in [float(1 - oracle.cdf(t)) for t in ts] + [0.25, 0.2499, 0.26, 0.4, 0.5 - 2.0**-30, 0.7, 0.99]:
            if p < 1e-290:
                continue
            t = mp.mpf(float(law.quantile(p)))
            if abs(t) < oracle.end:
                # a Newton step from t measures the error in t itself
                assert abs((oracle.cdf(t) - mp.mpf(p)) / oracle.pdf(t)) <= inversion_error(t), p
            else:  # the nearest float64 may be the end itself
                assert p <= oracle.cdf(np.nextafter(-1, 0))


def test_mean_abs_and_constant_against_50_digits(pair):
    law, oracle, _ = pair
    with mp.workdps(50):
        want = 2 * oracle.moment(1, 0, oracle.end)
    # a quotient of two gammas, each to 1 to 2 ulp (math.gamma), or the Wallis series; measured at most 3.2 roundings
    assert error(law.mean_abs, want) <= 8 * U
    if isinstance(law, sphere.Coordinate):
        assert error(law.constant, oracle.constant) <= 8 * U


@pytest.mark.parametrize("d", [2, 3, 4, 99, 198, 199, 200, 201, 202, 203, 1536, 10**6, 10**9])
def test_constant_where_the_series_takes_over(d):
    with mp.workdps(50):
        assert error(sphere.law(d).constant, Oracle(d).constant) <= 8 * U
        assert error(sphere.law(d).mean_abs, 2 * Oracle(d).moment(1, 0, 1)) <= 8 * U


class Misread(sphere.Coordinate):
    """The planted bug: (d-1)/2 for (d-3)/2 in the exponent, a common misreading of Lemma 1."""

    def pdf(self, t):
        return super().pdf(t) * (1 - np.asarray(t) ** 2)


class Misnormalised(sphere.Coordinate):
    """The planted bug: the constant of d + 1."""

    @property
    def constant(self):
        return sphere.Coordinate(self.d + 1).constant


@pytest.mark.parametrize("bug", [Misread, Misnormalised])
@pytest.mark.parametrize("d", [4, 128])
def test_planted_bugs_are_caught(bug, d):
    with mp.workdps(360):
        oracle = Oracle(d)
    check_functions(sphere.Coordinate(d), oracle, 0.1)
    with pytest.raises(AssertionError):
        check_functions(bug(d), oracle, 0.1)


def test_oracle_agrees_with_numerical_integration_and_with_mpmath_betainc():
    with mp.workdps(40):
        for d in (4, 7, 50):
            o = Oracle(d)
            assert abs(mp.quad(o.pdf, [-1, 0, 1]) - 1) < 1e-25
            assert abs(mp.quad(o.pdf, [-1, -0.3, 0.2]) - o.cdf(0.2)) < 1e-25
            assert abs(mp.quad(lambda t, o=o: t * t * o.pdf(t), [0.1, 0.6]) - o.moment(2, 0.1, 0.6)) < 1e-25
            assert abs(mp.quad(lambda t, o=o: t * o.pdf(t), [0.1, 0.6]) - o.moment(1, 0.1, 0.6)) < 1e-25
            symmetric = mp.betainc(o.half, o.half, 0, (1 + mp.mpf("0.2")) / 2, regularized=True)  # (1 + T)/2 is Beta
            assert abs(o.cdf("0.2") - symmetric) < 1e-35


# --- closed forms -------------------------------------------------------------------------------------------------


def test_d2_is_the_arcsine_law():
    t = np.linspace(-0.99, 0.99, 199)
    law = sphere.law(2)
    # asin and sqrt to an ulp, 1 - t^2 <= 1/50 costs up to 50 roundings in the comparison itself
    np.testing.assert_allclose(law.pdf(t), 1 / (np.pi * np.sqrt(1 - t * t)), rtol=64 * U)
    np.testing.assert_allclose(law.cdf(t), 0.5 + np.arcsin(t) / np.pi, rtol=64 * U, atol=2 * U)
    np.testing.assert_allclose(law.quantile(law.cdf(t)), np.sin(np.pi * (law.cdf(t) - 0.5)), rtol=16 * U, atol=4 * U)
    np.testing.assert_array_equal(law.pdf([-1.0, 1.0]), np.inf)


def test_d3_is_uniform():
    t = np.linspace(-1, 1, 201)
    law = sphere.law(3)
    np.testing.assert_allclose(law.pdf(t), 0.5, rtol=4 * U)
    np.testing.assert_allclose(law.cdf(t), (1 + t) / 2, rtol=8 * U, atol=U)
    np.testing.assert_allclose(law.quantile((1 + t) / 2), t, rtol=8 * U, atol=4 * U)
    np.testing.assert_allclose(law.partial_second_moment(-1, t), (t**3 + 1) / 6, rtol=16 * U, atol=2 * U)


def test_variance_is_one_over_d():
    for d in (2, 3, 50, 1536, 10**6):
        assert abs(sphere.law(d).partial_second_moment(-1, 1) * d - 1) <= 8 * U
    assert sphere.law(None).partial_second_moment(-np.inf, np.inf) == 1


def test_gaussian_limit_at_the_rate_one_over_d():
    """Edgeworth: P(sqrt(d) T <= t) = Phi(t) + (t^3 - 3 t) phi(t) / (4 d) + O(1/d^2)."""
    t, limit = np.linspace(-5, 5, 101), sphere.law(None)
    first_order = (t**3 - 3 * t) * limit.pdf(t) / 4
    for d in (100, 1000, 10_000, 100_000):
        gap = d * (sphere.law(d).cdf(t / math.sqrt(d)) - limit.cdf(t))
        # 2/d is the second-order term (1.3/d measured), the rest the rounding of two cdfs, times d
        np.testing.assert_allclose(gap, first_order, rtol=0, atol=2 / d + 4 * U * d)
        ratio = sphere.law(d).pdf(t / math.sqrt(d)) / math.sqrt(d) / limit.pdf(t)
        assert np.max(np.abs(ratio - 1)) < 130 / d  # t = 5: |t^4 - 6 t^2 + 3| / 4 = 119.5, and a second order
    assert abs(math.sqrt(10**8) * sphere.law(10**8).mean_abs - limit.mean_abs) < 1e-8


# --- algebra, for every d and t -----------------------------------------------------------------------------------

dimensions = st.one_of(st.none(), st.integers(2, 12), st.integers(2, 70_000))
numbers = st.one_of(st.floats(-1.5, 1.5), st.floats(-40, 40), st.sampled_from([-np.inf, -1.0, 0.0, 1.0, np.inf]))
SLACK = 1e-11  # 16 + 4 * 700 roundings (`tolerance` at the smallest float64) in each of several terms


def place(d, t):
    """Numbers of a few standard deviations, and those on both sides of the ends."""
    return t if d is None or abs(t) <= 1 else float(t * d**-0.5)


@given(dimensions, numbers, numbers)
@settings(deadline=None)
def test_cdf_is_monotone_and_complements(d, s, t):
    law = sphere.law(d)
    s, t = sorted((place(d, s), place(d, t)))
    assert law.cdf(s) <= law.cdf(t) * (1 + SLACK)
    assert law.sf(t) <= law.sf(s) * (1 + SLACK)
    assert abs(law.cdf(t) + law.sf(t) - 1) <= 2 * U
    assert law.cdf(t) == law.sf(-t)
    assert 0 <= law.cdf(t) <= 1


@given(dimensions, numbers, numbers, numbers)
@settings(deadline=None)
def test_integrals_add_up(d, a, b, c):
    law = sphere.law(d)
    a, b, c = sorted(place(d, t) for t in (a, b, c))
    for f in (law.probability, law.partial_mean, law.partial_second_moment):
        left, right, whole = f(a, b), f(b, c), f(a, c)
        # below 1e-154 the square of t underflows
        assert abs(left + right - whole) <= SLACK * (abs(left) + abs(right)) + 1e-150
        assert f == law.partial_mean or min(left, right) >= 0
    # antisymmetry, bit for bit
    assert law.probability(a, b) == law.probability(-b, -a)
    assert law.partial_mean(a, b) == -law.partial_mean(-b, -a)
    assert law.partial_second_moment(a, b) == law.partial_second_moment(-b, -a)


@given(dimensions, st.floats(-8, 8))
@settings(deadline=None)
def test_quantile_inverts_cdf(d, t):
    law = sphere.law(d)
    t = float(np.clip(t if d is None else t * d**-0.5, -1, 1)) if d is not None else t
    p = law.cdf(t) if t <= 0 else law.sf(t)  # from the side where p is not rounded near 1
    back = law.quantile(p) if t <= 0 else -law.quantile(p)
    density = law.pdf(t)
    if 0 < density < np.inf and p > 1e-290:
        # p's own error (tolerance(p), relative) through the slope 1/f, and the rounding of t
        assert abs(back - t) <= 2 * tolerance(p) * p / density + inversion_error(t) + 1e-150


def test_quantile_of_the_ends_and_of_what_is_no_probability():
    for d in (2, 3, 128, None):
        law = sphere.law(d)
        np.testing.assert_array_equal(law.quantile([0.0, 0.5, 1.0]), [law.support[0], 0.0, law.support[1]])
        assert np.all(np.isnan(law.quantile([-0.1, 1.1, np.nan])))


# --- arrays, edges, bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 4, 5, 128, 65536, None])
def test_edges_raise_no_floating_point_error(d):
    law = sphere.law(d)
    wild = np.array([-np.inf, -1e200, -2.0, -1.0, -0.5, -0.0, 5e-324, 1e-200, 0.5, 1 - U, 1.0, 1.5, 1e9, np.inf])
    with np.errstate(over="raise", divide="ignore" if d == 2 else "raise", invalid="raise"):
        pdf, cdf = law.pdf(wild), law.cdf(wild)
        assert np.all(pdf >= 0)
        assert np.all(np.diff(cdf) >= 0)
        assert (cdf[0], cdf[-1]) == (0, 1)
        for f in (law.probability, law.partial_mean, law.partial_second_moment):
            table = f(wild[:, None], wild[None, :])
            assert table.shape == (14, 14)
            assert np.all(np.isfinite(table))
            np.testing.assert_array_equal(np.diag(table), 0)
        nodes, w = law.quadrature(wild[:-1], wild[1:])
        assert nodes.shape == w.shape == (13, 128)
        assert np.all(np.isfinite(nodes))
        assert np.all(w >= 0)
    if d is not None:
        np.testing.assert_array_equal(pdf[np.abs(wild) > 1], 0)


def test_scalars_lists_and_float32():
    for d in (128, None):
        law = sphere.law(d)
        for f in (law.pdf, law.cdf, law.sf):
            assert np.shape(f(0.1)) == ()
            assert f([[0.1, 0.2]]).shape == (1, 2)
            assert f(np.float32(0.1)).dtype == np.float64
            assert f(0.1) == f([0.1])[0]
            assert f(0) == f(0.0)
        assert law.quantile([]).shape == (0,)


def test_laws_are_values():
    assert sphere.law(128) == sphere.Coordinate(128)
    assert hash(sphere.law(np.int64(128))) == hash(sphere.law(128))
    assert sphere.law(None) == sphere.Gaussian()
    assert sphere.law(128) != sphere.law(129)


@pytest.mark.parametrize("d", [1, 0, -3])
def test_dimension_out_of_range(d):
    for make in (sphere.law, sphere.Coordinate):
        with pytest.raises(ValueError, match=rf"d must be an integer of at least 2, got {d}"):
            make(d)


@pytest.mark.parametrize("d", [True, 2.0, "3", 2.5, [4]])
def test_dimension_of_another_type(d):
    for make in (sphere.law, sphere.Coordinate):
        with pytest.raises(TypeError, match=r"d must be an integer of at least 2, got"):
            make(d)


def test_uniform_points_have_this_law():
    n, d = 20_000, 5
    x = sphere.uniform(n, d, 1)
    np.testing.assert_array_equal(x, sphere.uniform(n, d, np.random.default_rng(1)))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=d * U)
    for j in range(d):
        sorted_cdf = np.sort(sphere.law(d).cdf(x[:, j]))
        distance = np.max(np.abs(sorted_cdf - (np.arange(n) + 0.5) / n)) + 0.5 / n
        # Dvoretzky-Kiefer-Wolfowitz, 2 exp(-2 n e^2) = 1e-9 a coordinate; the seed is fixed
        assert distance < math.sqrt(math.log(2e9) / (2 * n))
