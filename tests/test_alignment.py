"""Exact expectations on the sphere: closed forms, an independent Gaussian integral, two methods compared, draws."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turboquant_ref import alignment, sphere
from turboquant_ref.alignment import expectation, limit_covariance, variance
from turboquant_ref.codebook import lloyd_max

DIMENSIONS = [2, 3, 8, 12, 16, 31, 50, 128, 1536, 65536]


def sphere_moment(d, *powers):
    """E |z_1|^k_1 |z_2|^k_2 … on the sphere: moments of a Gaussian vector over those of its norm."""
    total = sum(powers)
    logs = [math.lgamma((k + 1) / 2) - math.lgamma(0.5) for k in powers]
    return math.exp(sum(logs) + math.lgamma(d / 2) - math.lgamma((d + total) / 2))


def l1_fourth(d):
    """E ||z||_1^4, by multinomial expansion."""
    terms = [
        (d, (4,)),
        (4 * d * (d - 1), (3, 1)),
        (3 * d * (d - 1), (2, 2)),
        (6 * d * (d - 1) * (d - 2), (2, 1, 1)),
        (d * (d - 1) * (d - 2) * (d - 3), (1, 1, 1, 1)),
    ]
    return sum(n * sphere_moment(d, *powers) for n, powers in terms if n)


# --- one bit: q = ±c, so B = d c² and A = c ||z||_1: closed forms for every d -------------------------------------


@pytest.mark.parametrize("d", [*DIMENSIONS[:-1], 4, 7])
def test_one_bit_closed_forms(d):
    # lgamma loses d ln d units in the last place in the oracle, the d-th power about d of them here
    tolerance = {"rtol": 2e-15 + 1e-15 * d}
    l1, l1_squared = d * sphere.Coordinate(d).mean_abs, 1 + (d - 1) * 2 / math.pi
    np.testing.assert_allclose(expectation(d, 1, "A", 1, "B", 0.5), l1 / math.sqrt(d), **tolerance)
    np.testing.assert_allclose(expectation(d, 1, "A", 2, "B", 1), l1_squared / d, **tolerance)
    np.testing.assert_allclose(expectation(d, 1, "A", 4, "B", 2), l1_fourth(d) / d**2, **tolerance)
    with mp.workdps(40):
        c = mp.gamma(mp.mpf(d) / 2) / mp.sqrt(mp.pi) / mp.gamma(mp.mpf(d + 1) / 2)
        exact = c * c * (1 + (d - 1) * 2 / mp.pi - d * d * c * c)
    np.testing.assert_allclose(variance(d, 1), float(exact), rtol=1e-13 + 1e-15 * d)


@pytest.mark.parametrize("d", [3, 4, 5, 8, 16, 50, 128, 1536])
def test_one_bit_unbiased_against_a_gaussian_integral(d):
    # 1/||z||_1² is homogeneous: for Gaussian g = r z its mean is (d - 2) times that of 1/||g||_1², a single integral
    def integrand(u):  # s = e^u; E exp(-s |g|) = exp(s²/2) erfc(s/√2), by two terms of its asymptotic series far out
        s = mp.exp(u)
        mean = mp.exp(s * s / 2) * mp.erfc(s / mp.sqrt(2)) if s < 1e5 else mp.sqrt(2 / mp.pi) / s * (1 - 1 / s**2)
        return s * s * mean**d

    with mp.workdps(25):
        truth = float(d * (d - 2) * mp.quad(integrand, [-24 - math.log(d), *range(-8, 13, 2), 60]))
    np.testing.assert_allclose(expectation(d, 1, "B", 1, "A", 2), truth, rtol=1e-14)


def test_one_bit_on_the_circle():
    # ||z||_1² = 1 + |sin 2φ|, and the mean of 1/(1 + sin) over a quarter turn is 2/π
    np.testing.assert_allclose(expectation(2, 1, "B", 1, "A", 2), 4 / math.pi, rtol=1e-15)


# --- what the centroid condition and `variance`, a different method, already know ---------------------------------


@pytest.mark.parametrize(
    ("d", "bits"),
    [(d, b) for d in DIMENSIONS for b in ((1, 3, 8) if 8 <= d < 24 else (1, 2, 3, 4, 5, 8)) if d != 3 or b <= 5],
)
def test_known_means(d, bits):
    # the accuracies that the module's docstring states; E a² ~ D² is 1e-9 of its terms at 8 bits
    loose = 5e-8 if 3 < d < 16 and bits > 3 else 3e-14 if bits <= 4 else 3e-12
    tight = 1e-11 if 3 < d < 16 and bits > 3 else 5e-15
    D = lloyd_max(d, bits).distortion
    np.testing.assert_allclose(expectation(d, bits, "A", 2, "A", 1), 1 - D, rtol=tight)
    np.testing.assert_allclose(expectation(d, bits, "B", 2, "B", 1), 1 - D, rtol=tight)
    np.testing.assert_allclose(expectation(d, bits, "C", 2, "C", 1), D, rtol=loose)
    np.testing.assert_allclose(expectation(d, bits, "A", 3, "A", 1), (1 - D) ** 2 + variance(d, bits), rtol=tight)
    for name in "ABC":
        for k in (1, 2, 4):
            np.testing.assert_allclose(expectation(d, bits, name, k, name, k), 1, rtol=loose)
    if d > 3:
        assert abs(alignment._transform(d, bits)[-1]) < loose


@pytest.mark.parametrize("bits", [1, 2])
def test_two_methods_agree_in_three_dimensions(bits):
    names = [("A", 1, "B", 0.5), ("A", 4, "B", 2), ("B", 1, "A", 2)]
    terms = [through_transform(3, bits, *name) for name in names]
    plain = [expectation(3, bits, *name) for name in names]
    np.testing.assert_allclose(terms, plain, rtol=1e-11)  # d = 3 is the worst case of the cut-off contour


def through_transform(d, bits, numerator, k, denominator, power):
    """`expectation` by the inverse transform where it would take the plain integral."""
    weights, y, q, parts, error = alignment._transform(d, bits)
    assert abs(error) < 1e-11
    terms, t = alignment._summands(y, q), np.arange(-46, 120) / 10
    s = np.exp(t - np.exp(-t))
    ds = 0.1 * (1 + np.exp(-t)) * s**power / math.gamma(power)
    values = alignment._inverse(d, weights, parts, terms[numerator][:, None], -terms[denominator][:, None] * s, k)
    return float(values @ ds)


def test_variance_has_the_k_of_the_spec():
    """paper notes A.6: X = D² + k/d.  The printed .0783 (d = 1536, b = 3) is .07825, a rounding slip."""
    printed = {128: (0.0284, 0.1466, 0.0756, 0.0248), 1536: (0.0287, 0.1492, 0.0782, 0.0261)}
    for d, row in printed.items():
        assert tuple(round(d * variance(d, b), 4) for b in (1, 2, 3, 4)) == row


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_variance_tends_to_its_limit(bits):
    d = 32768  # the error is O(1/d): extrapolate from two dimensions, O(1/d²) is left
    extrapolated = 2 * (2 * d) * variance(2 * d, bits) - d * variance(d, bits)
    np.testing.assert_allclose(extrapolated, limit_covariance(bits)[0, 0], rtol=5e-8)


def test_limit_covariance_of_one_bit():
    # B is constant; A = c ||z||_1, d Var A -> (2/π)(1 - 3/π)
    expected = [[2 / math.pi * (1 - 3 / math.pi), 0], [0, 0]]
    np.testing.assert_allclose(limit_covariance(1), expected, atol=1e-15)


# --- brute force: independent draws -------------------------------------------------------------------------------

QUOTIENTS = [
    ("A", 1, "B", 0.5),
    ("A", 2, "B", 1),
    ("A", 4, "B", 2),
    ("B", 1, "A", 2),
    ("a", 1, "C", 0.5),
    ("a", 2, "C", 0.5),
    ("a", 2, "C", 1),
    ("C", 1, "C", 0.5),
]


@pytest.mark.parametrize(("d", "bits"), [(2, 2), (3, 4), (5, 3), (8, 4), (13, 3), (24, 2), (128, 4)])
def test_against_draws(d, bits):
    """9 means x 7 cases, unit of replication: a draw of z.

    Threshold 6.2 standard errors: false-alarm rate 6e-10 each, 4e-8 in all.  With 100,000 draws the deviations that it
    sees (power one half) are 6.2 standard errors, 0.02 % to 3 % of the value.
    """
    book, n = lloyd_max(d, bits), 100_000
    z = sphere.uniform(n, d, 1000 * d + bits)
    q = book.centroids[np.searchsorted(book.boundaries, z, side="right")]
    A, B, C = (z * q).sum(1), (q * q).sum(1), ((z - q) ** 2).sum(1)
    values = {"A": A, "B": B, "C": C, "a": 1 - A}
    for numerator, k, denominator, power in QUOTIENTS:
        draws = values[numerator] ** k / values[denominator] ** power
        error = draws.mean() - expectation(d, bits, numerator, k, denominator, power)
        assert abs(error) < 6.2 * draws.std() / math.sqrt(n) + 1e-12, (numerator, k, denominator, power)
    spread = (A - A.mean()) ** 2
    assert abs(spread.mean() - variance(d, bits)) < 6.2 * spread.std() / math.sqrt(n)


# --- properties, refusals, planted bugs ---------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(d=st.integers(24, 3000), bits=st.integers(1, 5))
def test_inequalities(d, bits):
    D = lloyd_max(d, bits).distortion
    cosine, cosine2 = expectation(d, bits, "A", 1, "B", 0.5), expectation(d, bits, "A", 2, "B", 1)
    cosine4 = expectation(d, bits, "A", 4, "B", 2)
    rounding = 1e-14 + 1e-16 * d
    assert cosine**2 <= cosine2 * (1 + rounding)  # Jensen, twice
    assert cosine2**2 <= cosine4 * (1 + rounding)
    assert cosine2 * (1 + rounding) >= 1 - D  # the best scale is at least as good as 1
    assert cosine2 <= cosine <= 1
    assert expectation(d, bits, "B", 1, "A", 2) * cosine2 >= 1 - rounding
    assert expectation(d, bits, "C", 1, "C", 0.5) <= math.sqrt(D)
    assert 0 < variance(d, bits) < 0.15 / d


def test_refused():
    with pytest.raises(ValueError, match="d = 4 is too small for an exact answer at 4 bits"):
        expectation(4, 4, "A", 1, "B", 0.5)
    with pytest.raises(ValueError, match="cannot divide 'A' by 'a'"):
        expectation(16, 2, "A", 1, "a", 1)
    with pytest.raises(ValueError, match="cannot divide 'D' by 'B'"):
        expectation(16, 2, "D", 1, "B", 1)


def aliased(d):
    v, weights = CONTOUR(d)
    return v[::3], weights[::3]


def full_first_weight(d):
    v, weights = CONTOUR(d)
    return v, np.concatenate([[2 * weights[0]], weights[1:]])


def negated_residual(y, q):
    return SUMMANDS(y, q) | {"a": y * (q + y)}


CONTOUR, SUMMANDS = alignment._contour, alignment._summands
BUGS = {
    "step three times too long": ("_contour", aliased),
    "first node counted twice": ("_contour", full_first_weight),
    "a with the wrong sign": ("_summands", negated_residual),
    "independent coordinates": ("variance", lambda d, bits: d * 0.01),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_refused(bug, monkeypatch):
    """A wrong transform does not answer: it disagrees with `variance` and is refused."""
    monkeypatch.setattr(alignment, *BUGS[bug])
    alignment._transform.cache_clear()
    try:
        with pytest.raises(ValueError, match="too small"):
            alignment.expectation.__wrapped__(40, 3, "A", 1, "B", 0.5)
    finally:
        alignment._transform.cache_clear()
