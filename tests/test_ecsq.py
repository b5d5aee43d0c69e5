"""The entropy-coded uniform quantizer: optimality, exactness, and its distance from the rate-distortion function."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
from _stats import expect
from hypothesis import given, settings
from hypothesis import strategies as st

from turboquant_ref import codebook, mse, rotation, sphere, theory

DIMENSIONS = (2, 3, 4, 8, 64, 128, 768, 1536, None)
SHAPING = 0.5 * math.log2(2 * math.pi * math.e / 12)  # 0.2546: the loss of cubes against balls


def shannon(d: int, distortion: float) -> float:
    """R(D) of the uniform sphere in bits a coordinate, by Bessel functions at 40 digits (independent of `theory`)."""
    with mpmath.workdps(40):
        half = mpmath.mpf(d) / 2
        ratio = lambda k: mpmath.besseli(half, k) / mpmath.besseli(half - 1, k)  # noqa: E731
        guess = d * math.sqrt(1 - distortion) / distortion
        kappa = mpmath.findroot(lambda k: 1 - ratio(k) ** 2 - distortion, (0.9 * guess, guess), solver="secant")
        nats = (
            kappa * ratio(kappa)
            + (half - 1) * mpmath.log(kappa)
            - half * mpmath.log(2 * mpmath.pi)
            - mpmath.log(mpmath.besseli(half - 1, kappa))
            + mpmath.log(2 * mpmath.pi**half / mpmath.gamma(half))
        )
        return float(nats / d / mpmath.log(2))


@dataclass(frozen=True)
class Exponential:
    """A law without symmetry, on half a line: every moment of a cell has a closed form."""

    support = (0.0, math.inf)
    center = None
    multiplicity = 1

    def pdf(self, t):
        return np.exp(-np.asarray(t, float))

    def quadrature(self, a, b):
        a = np.asarray(a, float)
        t, w = sphere.gauss_legendre(a, np.minimum(np.asarray(b, float), a + 80))
        return t, w * self.pdf(t)


# --- the quantizer


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("rate", [0.05, 0.5, 1, 1.585, 2, 3.3, 4, 6])
def test_the_entropy_is_the_rate_and_the_cells_are_uniform(d, rate):
    c = codebook.uniform(d, rate)
    law = sphere.law(d)
    # the merged tails, 2^-41 of mass each, may hold 41 * 2^-41 = 2e-11 bits
    assert abs(c.entropy - rate) <= 1e-10
    assert c.entropy == pytest.approx(-np.sum(c.probabilities * np.log2(c.probabilities)), abs=1e-13)
    if len(c.boundaries) > 2:
        step = np.diff(c.boundaries)
        # a boundary (k + 1/2) step is rounded once, a difference of two of them has at most 2 ulp of the larger
        np.testing.assert_allclose(step, step[0], rtol=0, atol=4 * np.spacing(c.boundaries[-1]))
        assert c.boundaries[len(c.boundaries) // 2] == pytest.approx(step[0] / 2, rel=1e-13)
    assert len(c.centroids) % 2 == 1  # a cell in the middle
    assert len(c.centroids) <= 256
    assert abs(c.probabilities.sum() - 1) <= 1e-13  # 256 quadratures, each good to some ulp of its mass
    tail = law.sf(c.boundaries[-1])
    assert tail > 0
    assert c.probabilities[-1] == pytest.approx(float(tail), rel=1e-9)


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("rate", [0.5, 2, 5])
def test_it_is_exactly_antisymmetric(d, rate):
    c = codebook.uniform(d, rate)
    np.testing.assert_array_equal(c.boundaries, -c.boundaries[::-1])
    np.testing.assert_array_equal(c.centroids, -c.centroids[::-1])
    np.testing.assert_array_equal(c.probabilities, c.probabilities[::-1])
    assert c.centroids[len(c.centroids) // 2] == 0
    assert not any(a.flags.writeable for a in (c.boundaries, c.centroids, c.probabilities))


@pytest.mark.parametrize("d", DIMENSIONS)
@pytest.mark.parametrize("rate", [0.5, 2, 5])
def test_centroids_are_cell_means_by_closed_forms(d, rate):
    c, law = codebook.uniform(d, rate), sphere.law(d)
    edges = np.concatenate([[-np.inf], c.boundaries, [np.inf]])
    a, b = np.clip(edges[:-1], *law.support), np.clip(edges[1:], *law.support)
    mass, mean = law.probability(a, b), law.partial_mean(a, b)
    # the closed forms are differences of incomplete beta functions: absolute rounding, relative only for heavy cells
    np.testing.assert_allclose(c.probabilities, mass, rtol=1e-10, atol=1e-15)
    # D = E t^2 - sum m_i c_i^2 where c_i are the means; absolute, since that difference cancels
    power = law.multiplicity * float(law.partial_second_moment(*law.support))
    closed = power - law.multiplicity * float(np.sum(mean * mean / np.where(mass > 0, mass, 1)))
    assert c.distortion == pytest.approx(closed, abs=2e-13)
    rms = math.sqrt(float(law.partial_second_moment(*law.support)))
    heavy = mass > 1e-6
    np.testing.assert_allclose(c.centroids[heavy], (mean / mass)[heavy], rtol=0, atol=1e-10 * rms)
    assert c.residual <= 1e-14


@pytest.mark.parametrize("d", [64, None])
@pytest.mark.parametrize("rate", [1.0, 2.0, 4.0])
def test_no_other_decoder_and_no_other_step_of_that_entropy_is_better(d, rate):
    """Cell means: the least distortion of the partition.  And distortion falls, entropy rises, as the step falls."""
    c, law = codebook.uniform(d, rate), sphere.law(d)
    edges = np.concatenate([[law.support[0]], c.boundaries, [law.support[1]]])
    t, w = law.quadrature(edges[:-1], edges[1:])
    rng = np.random.default_rng(0)
    for _ in range(20):
        moved = c.centroids + rng.normal(size=c.centroids.shape) * 1e-3 * np.diff(c.boundaries)[0]
        other = law.multiplicity * float((w * (t - moved[:, None]) ** 2).sum())
        assert other > c.distortion
    near = [codebook.uniform(d, rate + h) for h in (-0.01, 0, 0.01)]
    steps = [np.diff(n.boundaries)[0] for n in near]
    assert steps[0] > steps[1] > steps[2]
    assert near[0].distortion > near[1].distortion > near[2].distortion


@pytest.mark.parametrize("rate", [1.0, 2.0, 3.0])
def test_no_local_move_of_the_boundaries_pays_at_high_rate(rate):
    """Lagrangian D + λH at the curve's own slope: no smooth perturbation of the boundaries gains 0.001 bit."""
    c, law = codebook.uniform(None, rate), sphere.law(None)
    h = 0.01
    slope = (codebook.uniform(None, rate - h).distortion - codebook.uniform(None, rate + h).distortion) / (2 * h)
    cost = c.distortion + slope * c.entropy
    inner = np.abs(c.boundaries) < 4
    for power in (0, 1, 2, 3):
        for size in (-0.03, 0.03):
            shift = np.where(inner, size * np.diff(c.boundaries)[0] * (c.boundaries / 2) ** power, 0)
            other = codebook.of_boundaries(law, c.boundaries + shift)
            assert other.distortion + slope * other.entropy > cost - slope * 0.001


# --- the curve


@pytest.mark.parametrize(("d", "allowed"), [(128, 0.28), (768, 0.26), (1536, 0.26)])
@pytest.mark.parametrize("rate", [2, 2.5, 3, 3.5, 4])
def test_the_promised_distance_from_the_rate_distortion_function(d, allowed, rate):
    distortion = codebook.uniform(d, rate).distortion
    gap = rate - theory.rate(d, distortion)
    assert 0 < gap < allowed
    assert abs(rate - shannon(d, distortion) - gap) <= 1e-9  # theory's quadrature against 40-digit Bessel functions


@pytest.mark.parametrize("d", [64, 128, 768, 1536, None])
@pytest.mark.parametrize("bits", range(1, 7))
def test_it_beats_the_fixed_length_code_and_the_entropy_coded_lloyd_max(d, bits):
    fixed = codebook.lloyd_max(d, bits)
    assert codebook.uniform(d, bits).distortion < fixed.distortion
    assert codebook.uniform(d, fixed.entropy).distortion < fixed.distortion
    if d is not None and d >= 768 and 2 <= bits <= 4:
        assert 0.45 < bits - theory.rate(d, fixed.distortion) < 0.65


@pytest.mark.parametrize("rate", [2.0, 3.0, 4.0, 5.0, 6.0])
def test_high_rate_limit(rate):
    """Gish and Pierce: D -> step^2 / 12, H -> h - log2(step), and the gap between them -> 1/2 log2(2 pi e / 12).

    For a Gaussian a cell's density is flat but for terms of step^2: D and H are off by 1/12 and log2(e)/24 of it at
    most, one against the other, and the gap by 1e-4 step^6 (found here; 1e-10 for the merged tails).
    """
    c = codebook.uniform(None, rate)
    step = np.diff(c.boundaries)[1]
    assert abs(rate - theory.rate(None, c.distortion) - SHAPING) <= 1e-4 * step**6 + 1e-10
    assert abs(c.distortion / (step**2 / 12) - 1) <= step**2 / 12
    assert abs(0.5 * math.log2(2 * math.pi * math.e) - math.log2(step) - rate) <= step**2 * math.log2(math.e) / 24


def test_low_rate_limit():
    """A coordinate at rate 0 is decoded as 0; on the way there the curve stays above Shannon's."""
    values = [codebook.uniform(None, rate).distortion for rate in (0.01, 0.05, 0.1, 0.2, 0.4)]
    assert all(a > b for a, b in itertools.pairwise(values))
    assert 4**-0.01 < values[0] < 1


def test_uniform_law_needs_no_shaping():
    """d = 3, where a coordinate is uniform: at an odd number n of equal cells log2 n bits give D = 3 (2/n)^2 / 12."""
    for n in (3, 5, 9, 33):
        assert codebook.uniform(3, math.log2(n) - 1e-9).distortion == pytest.approx(1 / n**2, rel=1e-6)


@given(st.floats(0.02, 6.0), st.sampled_from([3, 5, 16, 50, 200, 1000, None]))
@settings(max_examples=40, deadline=None)
def test_any_rate_and_dimension(rate, d):
    c = codebook.uniform(d, rate)
    assert abs(c.entropy - rate) <= 1e-10
    assert c.distortion < 1
    assert rate > theory.rate(d, c.distortion)
    assert c.centroids[-1] < sphere.law(d).support[1]


# --- as a quantizer


@pytest.mark.parametrize("scale", mse.SCALES)
def test_it_works_unchanged_in_algorithm_1(scale):
    d, rate = 32, 2.5
    c = codebook.uniform(d, rate)
    assert c.bits == (len(c.centroids) - 1).bit_length()
    Q = mse.Quantizer(rotation.haar(d, 0), c, scale)
    x = sphere.uniform(50, d, 1)
    code = mse.quantize(Q, x)
    back = mse.unpack(Q, mse.pack(Q, code, "float64"))
    np.testing.assert_array_equal(back.indices, code.indices)
    np.testing.assert_array_equal(mse.dequantize(Q, back), mse.dequantize(Q, code))
    assert Q.fingerprint != mse.Quantizer(Q.rotation, codebook.lloyd_max(d, 3), scale).fingerprint


def test_distortion_measured_over_independent_vectors():
    """Uniform vectors need no rotation, and each is a draw."""
    for d, rate in ((32, 1.0), (128, 2.0), (128, 4.0)):
        c = codebook.uniform(d, rate)
        x = sphere.uniform(4000, d, 7)
        error = ((x - codebook.look_up(c, codebook.nearest(c, x), np.float64)) ** 2).sum(1)
        expect(error, c.distortion, f"distortion of {c.identity}", 0.03 * c.distortion)


def test_a_tie_takes_the_upper_index():
    c = codebook.uniform(64, 2.0)
    np.testing.assert_array_equal(codebook.nearest(c, c.boundaries), np.arange(1, len(c.centroids)))
    below = np.nextafter(c.boundaries, -np.inf)
    np.testing.assert_array_equal(codebook.nearest(c, below), np.arange(len(c.boundaries)))


# --- of_boundaries


def test_of_boundaries_agrees_with_lloyd_max():
    """The optimal codebook is a fixed point: from its boundaries come its centroids, to rounding."""
    for d, bits in ((3, 2), (128, 4), (None, 3)):
        best = codebook.lloyd_max(d, bits)
        c = codebook.of_boundaries(sphere.law(d), best.boundaries)
        np.testing.assert_allclose(c.centroids, best.centroids, rtol=1e-11)
        assert c.distortion == pytest.approx(best.distortion, rel=1e-12)
        assert c.entropy == pytest.approx(best.entropy, rel=1e-12)
        assert c.identity.startswith("boundaries(")


def test_of_no_boundary():
    c = codebook.of_boundaries(sphere.law(16), np.zeros(0))
    assert c.centroids.tolist() == [0.0]
    assert (c.bits, c.entropy) == (0, pytest.approx(0, abs=1e-14))
    assert c.distortion == pytest.approx(1, rel=1e-13)


def test_a_law_without_symmetry():
    """Exponential: a cell [a, a + s] has mean a + 1 - s / (e^s - 1); the last one, [a, inf), has a + 1."""
    law = Exponential()
    c = codebook.uniform(law, 3.0)
    assert abs(c.entropy - 3) <= 1e-10
    a, s = c.boundaries[:-1], np.diff(c.boundaries)
    heavy = slice(1, len(c.centroids) // 2)
    np.testing.assert_allclose(c.centroids[1:-1][heavy], (a + 1 - s / np.expm1(s))[heavy], rtol=1e-11)
    assert c.centroids[-1] == pytest.approx(c.boundaries[-1] + 1, rel=1e-9)
    assert np.exp(-c.boundaries[-1]) > 2.0**-41  # what lies beyond the last boundary is not nothing
    assert codebook.uniform(law, 3.0) is c


@pytest.mark.parametrize("bad", [[0.1, 0.1], [0.2, 0.1], [math.nan], [math.inf], [[0.1]], [-2.0, 0.0], [0.0, 1.0]])
def test_bad_boundaries(bad):
    with pytest.raises(ValueError, match="boundaries"):
        codebook.of_boundaries(sphere.law(8), bad)


@pytest.mark.parametrize("bad", [["a"], [True], [1j], [None]])
def test_boundaries_of_no_numbers(bad):
    with pytest.raises(TypeError, match="boundaries must be real"):
        codebook.of_boundaries(sphere.law(8), bad)


@pytest.mark.parametrize(("rate", "kind"), [("2", TypeError), (None, TypeError), (True, TypeError), (1j, TypeError)])
def test_bad_rate_type(rate, kind):
    with pytest.raises(kind, match="rate must be a real number"):
        codebook.uniform(128, rate)


@pytest.mark.parametrize("rate", [0, -1, 0.009, math.nan, math.inf])
def test_bad_rate(rate):
    with pytest.raises(ValueError, match=r"rate must be at least 0\.01"):
        codebook.uniform(128, rate)


@pytest.mark.parametrize(("d", "limit"), [(64, 6.4567), (128, 6.3314), (None, 6.1993)])
def test_a_rate_that_needs_more_than_256_cells(d, limit):
    assert len(codebook.uniform(d, limit - 1e-3).centroids) <= 256
    with pytest.raises(ValueError, match=rf"rate must be at most {limit}.*more than 256 cells"):
        codebook.uniform(d, limit + 1e-3)
    with pytest.raises(ValueError, match="more than 256 cells"):
        codebook.uniform(d, 8)


def test_bad_dimension():
    for d in (1, 0, -3):
        with pytest.raises(ValueError, match="d must be"):
            codebook.uniform(d, 2.0)
    with pytest.raises(TypeError, match="d must be"):
        codebook.uniform(2.5, 2.0)
