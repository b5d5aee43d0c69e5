"""Intervals against scipy and against simulation; every measurement against an algorithm whose errors are known."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
from _stats import FALSE_ALARM, NoPower, expect, expect_at_most
from scipy import stats

from turboquant_ref import measure, mse, prod
from turboquant_ref.measure import Estimate
from turboquant_ref.vectors import norm_and_unit

# ------------------------------------------------------------------------------------ Estimate


@pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-9])
@pytest.mark.parametrize("n", [2, 3, 40])
def test_the_interval_is_students(n, confidence):
    values = np.random.default_rng(n).standard_normal(n) + 3
    estimate = Estimate(values, confidence)
    low, high = stats.t.interval(confidence, n - 1, values.mean(), stats.sem(values))
    # scipy forms (1 + confidence) / 2, which has 7 digits of 1 - confidence left at 1 - 1e-9
    np.testing.assert_allclose(estimate.interval, (low, high), rtol=1e-6)
    assert (estimate.draws, estimate.value, estimate.std_error) == (
        n,
        values.mean(),
        pytest.approx(stats.sem(values), rel=1e-14),
    )
    assert estimate.half_width == pytest.approx((high - low) / 2, rel=1e-6)
    assert str(estimate) == f"{values.mean():.6g} ± {estimate.half_width:.2g}"
    # `contains` is the t-test
    width = high - low
    for expected in (3.0, low - 1e-5 * width, low + 1e-5 * width, high + 1e-5 * width):
        assert estimate.contains(expected) == (stats.ttest_1samp(values, expected).pvalue >= 1 - confidence)


def test_one_draw_has_no_interval():
    estimate = Estimate(np.array([2.0]))
    assert (estimate.value, estimate.std_error, estimate.half_width, estimate.detectable()) == (
        2,
        math.inf,
        math.inf,
        math.inf,
    )
    assert estimate.interval == (-math.inf, math.inf)
    assert estimate.contains(1e9)


def test_a_nan_is_contained_nowhere():
    assert not Estimate(np.array([1.0, math.nan, 2.0])).contains(1.0)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.5, -0.1, math.nan])
def test_confidences_that_are_refused(confidence):
    with pytest.raises(ValueError, match="confidence: expected a probability between 0 and 1"):
        Estimate(np.ones(3), confidence)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros((2, 2)), np.float64(1)])
def test_values_are_one_a_draw(values):
    with pytest.raises(ValueError, match="values: expected one figure a draw, got an array of shape"):
        Estimate(values)


def test_coverage_by_simulation():
    """Of 20,000 intervals at 0.9, those that miss are binomial with rate 0.1."""
    samples = np.random.default_rng(0).standard_normal((20_000, 6))
    missed = sum(not Estimate(sample, 0.9).contains(0) for sample in samples)
    assert stats.binomtest(missed, len(samples), 0.1).pvalue > FALSE_ALARM


@pytest.mark.parametrize(("n", "confidence", "power"), [(5, 0.9, 0.9), (12, 0.99, 0.99), (60, 1 - 1e-6, 0.99)])
def test_detectable_by_simulation(n, confidence, power):
    """A deviation of the mean `detectable` is rejected with about the stated power, by the exact noncentral t as well.

    Half width plus t quantile is the usual approximation: the exact power is within 0.02 of what is asked.
    """
    rng = np.random.default_rng(1)
    values = rng.standard_normal(n)
    values = (values - values.mean()) / values.std(ddof=1)
    deviation = Estimate(values, confidence).detectable(power)
    t = stats.t.ppf((1 + confidence) / 2, n - 1)
    exact = stats.nct.sf(t, n - 1, deviation * math.sqrt(n))
    assert abs(exact - power) <= 0.02
    rejected = sum(
        not Estimate(sample + deviation, confidence).contains(0) for sample in rng.standard_normal((4000, n))
    )
    assert stats.binomtest(rejected, 4000, exact).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("std", "deviation", "confidence", "power"),
    [
        (1.0, 1.0, 0.99, 0.99),
        (1.0, 0.2, 0.99, 0.99),
        (3.0, 0.2, 0.95, 0.8),
        (1.0, 0.3, 1 - 1e-9, 0.99),
        (0.0, 1.0, 0.99, 0.99),
    ],
)
def test_draws_needed_is_the_least_number(std, deviation, confidence, power):
    n = measure.draws_needed(std, deviation, confidence, power)
    needed = [
        k
        for k in range(2, n + 5)
        if (stats.t.ppf((1 + confidence) / 2, k - 1) + stats.t.ppf(power, k - 1)) * std <= deviation * math.sqrt(k)
    ]
    assert n == needed[0]
    assert needed == list(range(n, n + 5))
    if std:  # and it is what `detectable` says of so many draws of that spread
        values = np.random.default_rng(2).standard_normal(n)
        values = std * (values - values.mean()) / values.std(ddof=1)
        assert Estimate(values, confidence).detectable(power) <= deviation * (1 + 1e-12)
        exact = stats.nct.sf(stats.t.ppf((1 + confidence) / 2, n - 1), n - 1, deviation / std * math.sqrt(n))
        assert exact >= power - 0.02


@pytest.mark.parametrize(
    ("std", "deviation"), [(-1, 1), (1, 0), (1, -1), (math.nan, 1), (math.inf, 1), (1, math.nan), (1, math.inf)]
)
def test_draws_needed_of_bad_numbers(std, deviation):
    with pytest.raises(ValueError, match="deviation and std: expected finite, positive numbers"):
        measure.draws_needed(std, deviation)


@pytest.mark.parametrize(("confidence", "power"), [(1.0, 0.9), (0.0, 0.9), (0.9, 1.0), (0.9, 0.3)])
def test_draws_needed_of_bad_probabilities(confidence, power):
    with pytest.raises(ValueError, match="confidence and power: expected probabilities"):
        measure.draws_needed(1, 1, confidence, power)


def test_the_helpers_of_the_suite():
    """`expect` fails on a wrong value and on a check without power, `expect_at_most` above its bound."""
    values = np.random.default_rng(0).standard_normal(400)
    expect(values, 0.0, "standard normal", detects=0.5)
    with pytest.raises(AssertionError, match="standard normal"):
        expect(values, 1.0, "standard normal", detects=0.5)
    with pytest.raises(NoPower):
        expect(values, 0.0, "standard normal", detects=0.1)
    expect_at_most(Estimate(values), 0.0, "standard normal")
    with pytest.raises(AssertionError):
        expect_at_most(Estimate(values), -0.5, "standard normal")


# ------------------------------------------------------------------------------------ a known algorithm


@pytest.fixture
def fake(monkeypatch):
    """An algorithm that decodes x to slope * x + ||x|| sigma g, g normal and new in each draw; it lists its draws."""

    def setup(d, bits, rng, slope=0.9, sigma=0.2):
        seen.append(rng)
        return SimpleNamespace(d=d, slope=slope, sigma=sigma, rng=np.random.default_rng(rng))

    def quantize(Q, x):
        return x

    def dequantize(Q, x):
        norms = norm_and_unit(x)[0][..., None]
        return Q.slope * x + norms * Q.sigma * Q.rng.standard_normal(x.shape)

    def inner_product(Q, y, x):
        return y @ dequantize(Q, x).T

    seen: list[int] = []
    made = SimpleNamespace(
        setup=setup, quantize=quantize, dequantize=dequantize, inner_product=inner_product, seen=seen
    )
    monkeypatch.setitem(measure.ALGORITHMS, "fake", made)
    return made


@pytest.mark.parametrize("magnitude", [1e-300, 1.0, 1e300])
@pytest.mark.parametrize(("slope", "sigma"), [(1.0, 0.3), (0.6, 0.1)])
def test_measurements_of_a_known_algorithm(fake, slope, sigma, magnitude):
    d = 5
    x = magnitude * np.random.default_rng(0).standard_normal((40, d))
    options = {"slope": slope, "sigma": sigma}
    label = f"fake, slope {slope}, sigma {sigma}, ||x|| about {magnitude:g}"
    expected = (1 - slope) ** 2 + d * sigma**2
    expect(measure.distortion("fake", x, 1, draws=150, **options), expected, f"D, {label}", 0.15 * expected)
    expect(measure.slope("fake", x, 1, draws=150, **options), slope, f"slope, {label}", 0.08)
    y = measure.correlated_queries(x, 3, rho=0.5)
    found = measure.inner_product_error("fake", x, 1, y=y, draws=150, **options)
    expected = 0.25 * (1 - slope) ** 2 + sigma**2
    expect(found, expected, f"inner-product error, {label}", 0.2 * expected)
    for rho in (0.0, 1.0):
        found = measure.variance("fake", x, 1, rho, draws=300, **options)
        assert found.draws == 150
        expect(found, sigma**2, f"variance, rho = {rho}, {label}", 0.25 * sigma**2)


def test_the_variance_is_unbiased_in_two_draws(fake):
    """(e_1 - e_2)^2 / 2 of the two draws and nothing else, whatever the bias."""
    x = np.random.default_rng(0).standard_normal((7, 5))
    found = measure.variance("fake", x, 1, 0.5, draws=5, rng=8)
    y = measure.correlated_queries(norm_and_unit(x)[1], 8, 0.5)
    errors = [(fake.dequantize(fake.setup(5, 1, seed), norm_and_unit(x)[1]) * y).sum(1) for seed in fake.seen[:4]]
    expected = [((errors[0] - errors[1]) ** 2).mean() / 2, ((errors[2] - errors[3]) ** 2).mean() / 2]
    np.testing.assert_allclose(found.values, expected, rtol=1e-12)  # sums of 5 and 7 terms in another order


def test_queries_are_not_the_data_again():
    """x drawn from default_rng(0), measured with rng = 0: the queries come from elsewhere."""
    x = np.random.default_rng(0).standard_normal((20, 5))
    assert np.abs((norm_and_unit(x)[1] * measure.correlated_queries(x, 0, rho=0.0)).sum(1)).max() < 1e-14
    y = measure.correlated_queries(x, np.random.default_rng(0))
    assert np.abs((norm_and_unit(x)[1] * y).sum(1)).max() < 1


def test_draws_are_independent_and_reproducible(fake):
    x = np.ones((3, 5))
    first = measure.distortion("fake", x, 1, draws=20, rng=4)
    assert len(set(fake.seen)) == 20
    np.testing.assert_array_equal(measure.distortion("fake", x, 1, draws=20, rng=4).values, first.values)
    assert np.all(measure.distortion("fake", x, 1, draws=20, rng=5).values != first.values)
    rng = np.random.default_rng(4)
    drawn = [measure.distortion("fake", x, 1, draws=2, rng=rng).values for _ in range(2)]
    assert np.all(drawn[0] != drawn[1])


def test_profile_is_all_of_them_in_the_same_draws(fake):
    x = np.random.default_rng(0).standard_normal((6, 5))
    y = measure.correlated_queries(x, 0)
    statistics = {"D": measure.distortion_of(x), "slope": measure.slope_of(x, y)}
    found = measure.profile("fake", x, 1, statistics, draws=7, rng=3, confidence=0.9)
    assert len(fake.seen) == 7
    assert {name: (e.draws, e.confidence) for name, e in found.items()} == {"D": (7, 0.9), "slope": (7, 0.9)}
    assert list(found) == ["D", "slope"]
    np.testing.assert_array_equal(found["D"].values, measure.distortion("fake", x, 1, draws=7, rng=3).values)


def test_the_unit_of_replication_is_the_draw():
    """The docstring's figure: vectors under one draw are not independent, an interval over them is far too narrow."""
    x = norm_and_unit(np.random.default_rng(0).standard_normal((500, 64)))[1]
    means, naive = [], []
    for seed in range(60):
        Q = prod.setup(64, 2, seed)
        errors = ((x - prod.dequantize(Q, prod.quantize(Q, x))) ** 2).sum(1)
        means.append(errors.mean())
        naive.append(errors.var(ddof=1) / len(x))
    ratio = np.std(means, ddof=1) / math.sqrt(np.mean(naive))
    # a standard deviation from 60 draws is right to a factor of 2 at any rate: chi-square with 59 degrees of freedom
    assert stats.chi2.sf(59 * 4, 59) < FALSE_ALARM
    assert 2.9 / 2 < ratio < 2.9 * 2


# ------------------------------------------------------------------------------------ queries, recall


@pytest.mark.parametrize("rho", [-1.0, 0.0, 0.3, 1.0, None])
@pytest.mark.parametrize("d", [2, 3, 50])
def test_correlated_queries(d, rho):
    x = np.random.default_rng(0).standard_normal((500, d)) * 10.0 ** np.arange(-250, 250)[:, None]
    y = measure.correlated_queries(x, 1, rho)
    cosines = (norm_and_unit(x)[1] * y).sum(1)
    # y is a sum of two unit vectors, orthogonal to d roundings over what is left of the Gaussian: 1e-3 at least
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-11)
    if rho is None:
        assert stats.kstest(cosines, stats.uniform(-1, 2).cdf).pvalue > FALSE_ALARM
    else:
        np.testing.assert_allclose(cosines, rho, atol=1e-11)


def test_recall_by_brute_force():
    rng = np.random.default_rng(0)
    x, queries = rng.standard_normal((60, 8)), rng.standard_normal((25, 8))
    for k in (1, 3, 10):
        found = measure.recall("mse", x, queries, 1, k=k, draws=5, rng=2)
        seeds = np.random.default_rng([2, *b"draws"]).integers(2**63, size=5)
        expected = []
        for seed in seeds:
            Q = mse.setup(8, 1, int(seed))
            scores = mse.inner_product(Q, queries, mse.quantize(Q, x))
            hits = 0.0
            for i, query in enumerate(queries):
                best = max(range(60), key=lambda j: float(x[j] @ query))
                order = np.argsort(-scores[i], kind="stable")
                tied = np.flatnonzero(scores[i][order] == scores[i, best])
                hits += float(np.mean(tied < k))
            expected.append(hits / 25)
        np.testing.assert_allclose(found.values, expected, rtol=1e-14)


def test_recall_of_extremes(fake):
    rng = np.random.default_rng(0)
    x, queries = rng.standard_normal((60, 8)), rng.standard_normal((25, 8))
    assert measure.recall("fake", x, queries, 1, draws=2, slope=1.0, sigma=0.0).value == 1
    assert measure.recall("fake", x, queries, 1, draws=2, slope=1.0, sigma=50.0, k=60).value == 1
    # an estimator that answers nothing does not find everything
    assert measure.recall("fake", x, queries, 1, draws=2, slope=0.0, sigma=0.0, k=6).value == pytest.approx(
        0.1, rel=1e-12
    )


# ------------------------------------------------------------------------------------ arguments


def test_zero_rows_and_batches(fake):
    x = np.random.default_rng(0).standard_normal((2, 3, 5))
    flat = np.concatenate([x.reshape(6, 5), np.zeros((2, 5))])
    np.testing.assert_array_equal(
        measure.distortion("mse", x, 2, draws=3).values, measure.distortion("mse", flat, 2, draws=3).values
    )
    for call in (measure.distortion, measure.slope, measure.inner_product_error):
        with pytest.raises(ValueError, match="x: expected at least one vector that is not zero"):
            call("mse", np.zeros((3, 5)), 2)
    with pytest.raises(ValueError, match="y: expected at least one vector that is not zero"):
        measure.slope("mse", x, 2, y=np.zeros((6, 5)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16])
def test_any_dtype_of_the_contract(dtype):
    x = (100 * np.random.default_rng(0).standard_normal((6, 8))).astype(dtype)
    wide = x.astype(np.float64)
    for name, bits in (("mse", 2), ("qjl", 2), ("prod", 2)):
        for call in (measure.distortion, measure.slope):
            found, expected = call(name, x, bits, draws=4), call(name, wide, bits, draws=4)
            # float32 against float64: rounding, unless it moves a coordinate over a boundary
            np.testing.assert_allclose(found.values, expected.values, rtol=1e-2 if dtype is not np.int16 else 1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: measure.distortion("TurboQuant", x, 2),
            ValueError,
            "algorithm: expected one of mse, .*, got 'TurboQuant'",
        ),
        (lambda x: measure.distortion("mse", x, 9), ValueError, "bits must be an integer from 1 to 8, got 9"),
        (lambda x: measure.distortion("qjl", x, 0), ValueError, "bits must be an integer from 1 to 8, got 0"),
        (
            lambda x: measure.distortion("mse", x, 2, draws=0),
            ValueError,
            "draws must be an integer of at least 1, got 0",
        ),
        (
            lambda x: measure.distortion("mse", x, 2, draws=2.0),
            TypeError,
            "draws must be an integer of at least 1, got 2.0",
        ),
        (lambda x: measure.distortion("mse", x, 2, rng=None), TypeError, "rng must be an integer .*, got None"),
        (lambda x: measure.slope("mse", x, 2, rng=-1), ValueError, "rng must be a seed from 0 .*, got -1"),
        (lambda x: measure.distortion("mse", x, 2, confidence=1.0), ValueError, "confidence: expected a probability"),
        (lambda x: measure.distortion("mse", x, 2, scale="best"), ValueError, "scale: expected one of"),
        (lambda x: measure.distortion("mse", x * math.nan, 2), ValueError, "x holds 48 NaN"),
        (lambda x: measure.variance("mse", x, 2, 1.5), ValueError, "rho: expected a number from -1 to 1, got 1.5"),
        (
            lambda x: measure.variance("mse", x, 2, 0.5, draws=1),
            ValueError,
            "draws: expected at least 2 for a variance, got 1",
        ),
        (
            lambda x: measure.correlated_queries(x, 0, rho=-1.01),
            ValueError,
            "rho: expected a number from -1 to 1, got -1.01",
        ),
        (
            lambda x: measure.slope("mse", x, 2, y=x[:3]),
            ValueError,
            r"y: expected one query .*, \(6, 8\), got \(3, 8\)",
        ),
        (lambda x: measure.recall("mse", x, x[:, :7], 2), ValueError, "queries has vectors of 7 coordinates"),
        (lambda x: measure.recall("mse", x, x, 2, k=0), ValueError, "k must be an integer of at least 1, got 0"),
    ],
)
def test_arguments_that_are_refused(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(np.random.default_rng(0).standard_normal((6, 8)))


def test_estimates_are_plain_data():
    estimate = measure.distortion("mse", np.ones((2, 8)), 2, draws=3)
    assert dataclasses.replace(estimate, confidence=0.5).half_width < estimate.half_width
    assert estimate.values.dtype == np.float64
