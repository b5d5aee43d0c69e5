"""PolarQuant: the transform against the definition, the laws against mpmath and simulation, the code against theory."""

from __future__ import annotations

import dataclasses
import itertools
import math

import mpmath
import numpy as np
import pytest
from _stats import FALSE_ALARM, expect
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from turboquant_ref import angle, attention, codebook, measure, mse, polar, sphere

ALARM = FALSE_ALARM  # of each statistical check here too that is not of `expect`
U64, U32 = 2.0**-53, 2.0**-24


def books_of(bits):
    return tuple(angle.codebook(level, b) for level, b in enumerate(bits, 1))


def indices_of(Q, code):
    """The indices level by level."""
    return np.split(code.indices, np.cumsum(Q.counts)[:-1], axis=-1)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(measure.ALGORITHMS, "polar", polar)


# --- the transform


def slow_transform(block):
    """Definition 1 as it is written, on halves of a block of 2^L numbers: {level: [angles]} and the radius."""
    if len(block) == 1:
        return block[0], {}
    half = len(block) // 2
    (r1, left), (r2, right) = slow_transform(block[:half]), slow_transform(block[half:])
    psi = math.atan2(r2, r1)
    level = half.bit_length()
    angles = {k: left[k] + right[k] for k in left}
    angles[level] = [psi + 2 * math.pi if psi < 0 else psi]
    return math.hypot(r1, r2), angles


def closed_form_inverse(r, angles, i, printed=False):
    """x_i of a full transform by the paper's product over levels; i, j from 1."""
    x = r
    for level, psi in enumerate(angles, 1):
        if printed:  # floor(i / 2^l) and i mod 2^l, as the paper has them: for i from 1 they are off by one
            j, first = i // 2**level, i % 2**level < 2 ** (level - 1)
        else:
            j, first = -(-i // 2**level), (i - 1) % 2**level < 2 ** (level - 1)
        p = psi[max(j, 1) - 1]
        x *= math.cos(p) if first else math.sin(p)
    return x


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("blocks", [1, 3])
def test_transform_is_definition_1(levels, blocks):
    x = np.random.default_rng(levels).standard_normal((5, blocks * 2**levels))
    radii, angles = polar.transform(x, levels)
    assert radii.shape == (5, blocks)
    assert [psi.shape for psi in angles] == [(5, x.shape[1] >> level) for level in range(1, levels + 1)]
    for row, r, *parts in zip(x, radii, *angles, strict=True):
        for k in range(blocks):
            radius, slow = slow_transform(list(map(float, row[k * 2**levels : (k + 1) * 2**levels])))
            # hypot and atan2 of two libraries, each within an ulp (2u), once a level
            np.testing.assert_allclose(r[k], radius, rtol=4 * levels * U64, atol=0)
            for level, part in enumerate(parts, 1):
                n = 2 ** (levels - level)
                np.testing.assert_allclose(part[k * n : (k + 1) * n], slow[level], rtol=0, atol=8 * level * U64 * 4)


def test_small_cases():
    r, (a,) = polar.transform([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0], [3.0, 4.0]], 1)
    np.testing.assert_array_equal(r[:, 0], [1, 1, 1, 1, 5])
    np.testing.assert_array_equal(a[:4, 0], np.arange(4) * math.pi / 2)  # the axes are single roundings of k pi/2
    r, (a, b) = polar.transform([0.0, 0.0, 0.0, 2.0], 2)
    np.testing.assert_array_equal(np.concatenate([r, a, b]), [2, 0, math.pi / 2, math.pi / 2])
    r, (a, b) = polar.transform([1, 1, 1, 1], 2)  # integers are float64
    np.testing.assert_allclose(np.concatenate([r, a, b]), [2, *[math.pi / 4] * 3], rtol=4 * U64, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_and_signed_zeros_have_angle_zero(dtype):
    for zeros in itertools.product([0.0, -0.0], repeat=4):
        r, angles = polar.transform(np.array(zeros, dtype), 2)
        assert r == 0
        assert r.dtype == dtype
        assert all(np.all(psi == 0) for psi in angles)
        assert np.all(polar.inverse(r, angles) == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_level_1_stays_below_a_whole_turn(dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    x = np.array([[1, -tiny], [1, -np.finfo(dtype).eps / 64], [-tiny, -1], [tiny, -1], [-1, -tiny], [1, -0.0]], dtype)
    _, (psi,) = polar.transform(x, 1)
    assert psi.dtype == dtype
    assert np.all((psi >= 0) & (psi < dtype(2 * math.pi)))
    np.testing.assert_array_equal(psi[:2, 0], 0)  # what rounds up to 2 pi is 0


def test_no_overflow_and_no_underflow():
    for size in (1e300, 1e-300, 5e-324 * 2**20):
        r, angles = polar.transform(np.array([3.0, 4.0, 0.0, 12.0]) * size, 2)
        np.testing.assert_allclose(r[0], 13 * size, rtol=1e-5 if size < 1e-310 else 4 * U64)
        np.testing.assert_allclose(angles[1], math.atan2(12, 5), rtol=8 * U64)
    with pytest.raises(ValueError, match=r"a radius exceeds the largest float32; scale the data down"):
        polar.transform(np.full(4, 3e38, np.float32), 2)


@pytest.mark.parametrize(("dtype", "u"), [(np.float32, U32), (np.float64, U64)])
def test_inverse_inverts(dtype, u):
    x = np.random.default_rng(3).standard_normal((200, 96)).astype(dtype)
    x[::7, ::3] = 0
    for levels in range(1, 6):
        radii, angles = polar.transform(x, levels)
        back = polar.inverse(radii, angles)
        assert back.dtype == dtype
        # relative to the block's radius: at level 1 an angle up to 2 pi, rounded twice (2 * 4u), its cosine, the
        # product and hypot (2u each), 14u; above, an angle up to pi/2 to an ulp (2u), cosine, product and hypot, 8u
        bound = (14 + 8 * (levels - 1)) * u * np.repeat(radii, 2**levels, axis=-1)
        assert np.all(np.abs(back - x) <= bound)


def test_the_printed_closed_form_of_the_inverse_is_off_by_one():
    """Erratum (paper notes F.7): with 1-based i the printed floor(i / 2^l) and i mod 2^l do not invert."""
    x = np.random.default_rng(0).standard_normal(16)
    (r,), angles = polar.transform(x, 4)
    right = [closed_form_inverse(r, angles, i) for i in range(1, 17)]
    wrong = [closed_form_inverse(r, angles, i, printed=True) for i in range(1, 17)]
    np.testing.assert_allclose(right, x, rtol=0, atol=40 * U64 * r)
    assert np.sum(np.abs(np.array(wrong) - x) > 1e-3) >= 12


# --- the laws of the angles (Lemmas 1 to 3)


@pytest.mark.parametrize(("level", "variance"), [(2, 0.116850), (3, 0.0612947), (4, 0.0310906), (5, 0.0156048)])
def test_moments_of_the_angles(level, variance):
    law = angle.Angle(level)
    psi, w = law.quadrature(*law.support)
    assert abs(w.sum() - 1) < 1e-14
    assert abs((w * psi).sum() - math.pi / 4) < 1e-14
    assert abs((w * (psi - law.center) ** 2).sum() / variance - 1) < 5e-6  # the digits printed in paper notes C


def test_variance_is_of_order_one_over_d():
    """Erratum (F.7): Lemma 1 has Var = O(1/sqrt d); it is 1/(4 m) (1 - O(1/m)), m = d/2 the size of a half."""
    for level in range(4, 14):
        law, m = angle.Angle(level), 2 ** (level - 1)
        psi, w = law.quadrature(*law.support)
        assert abs(4 * m * (w * (psi - law.center) ** 2).sum() - 1) < 0.5 / m


@pytest.mark.parametrize("level", [2, 3, 4, 7, 11])
def test_density_and_cdf_are_lemma_2(level):
    m = mpmath.mpf(2) ** (level - 1)
    constant = mpmath.gamma(m) / (2 ** (m - 2) * mpmath.gamma(m / 2) ** 2)
    law = angle.Angle(level)
    for psi in (0.01, 0.3, 0.7, math.pi / 4, 0.9, 1.5):
        exact = constant * mpmath.sin(2 * mpmath.mpf(psi)) ** (m - 1)
        # cos and sin of 2 psi to an ulp or two, to a power of m/2
        assert abs(law.pdf(psi) - float(exact)) <= (20 + 4 * float(m)) * U64 * max(float(exact), float(constant) / 1e3)
        below = mpmath.betainc(m / 2, m / 2, 0, mpmath.sin(mpmath.mpf(psi)) ** 2, regularized=True)
        assert abs(law.cdf(psi) - float(below)) <= (20 + 4 * float(m)) * U64
        t, w = law.quadrature(0, psi)
        assert abs(w.sum() - float(below)) <= 1e-13
        assert (
            abs(
                (w * t).sum()
                - float(mpmath.quad(lambda p: p * constant * mpmath.sin(2 * p) ** (m - 1), [0, psi / 2, psi]))
            )
            < 1e-12
        )
    np.testing.assert_array_equal(law.pdf([-0.1, 1.6]), 0)
    np.testing.assert_array_equal(law.cdf([-1.0, 2.0]), [0, 1])


def test_level_1_is_uniform():
    law = angle.Angle(1)
    np.testing.assert_allclose(law.pdf([0.0, 3.0, 6.28]), 1 / (2 * math.pi), rtol=2 * U64)
    np.testing.assert_allclose(law.cdf([0.0, math.pi, 7.0]), [0, 0.5, 1], rtol=2 * U64)
    assert law.support == (0, 2 * math.pi)
    assert law.center == math.pi
    assert law.pdf(-0.1) == law.pdf(6.3) == 0


@pytest.mark.parametrize("source", ["gaussian", "haar"])
def test_angles_follow_their_laws_and_no_other(source):
    """Kolmogorov-Smirnov at rate ALARM on all angles of a level; the laws of the levels beside it are rejected."""
    n, d = 4000, 64
    if source == "gaussian":
        z = np.random.default_rng(7).standard_normal((n, d))
    else:  # a fixed, very uneven x under independent rotations: Pi x is what the sphere's uniform point is
        x = np.zeros(d)
        x[:2] = 3, -4
        z = np.stack([polar.setup(d, rng=seed).rotation.apply(x) for seed in range(n // 8)])
    _, angles = polar.transform(z, 6)
    for level, psi in enumerate(angles, 1):
        assert stats.kstest(psi.ravel(), angle.Angle(level).cdf).pvalue > ALARM
        if level > 1 and psi.size >= 4000:
            assert stats.kstest(psi.ravel(), angle.Angle(level + 1).cdf).pvalue < ALARM
            assert level == 2 or stats.kstest(psi.ravel(), angle.Angle(level - 1).cdf).pvalue < ALARM


def test_angles_of_different_levels_are_independent():
    z = np.random.default_rng(8).standard_normal((20000, 16))
    radii, angles = polar.transform(z, 4)
    columns = np.column_stack([np.cos(angles[0][:, 0]), *(psi[:, 0] for psi in angles[1:]), radii[:, 0]])
    c = np.corrcoef(columns.T)[np.triu_indices(5, 1)] * math.sqrt(len(z))
    assert np.abs(c).max() < stats.norm.isf(ALARM / 20)  # ten correlations, two sides


def test_eq_3_as_printed_is_the_next_level():
    """Erratum (F.7): (r1 r2)^(d-1) should be (r1 r2)^(d/2-1); the printed exponent gives sin^(d-1)(2 psi)."""
    psi = np.linspace(0.1, 1.4, 9)
    for level in (2, 3, 4):
        d = 2**level  # of the block
        for exponent, law in ((d / 2 - 1, angle.Angle(level)), (d - 1, angle.Angle(level + 1))):
            shape = (np.cos(psi) * np.sin(psi)) ** exponent
            np.testing.assert_allclose(shape / shape[0], law.pdf(psi) / law.pdf(psi[0]), rtol=1e-12)
        # and chi variables of d/2 degrees of freedom have the density r^(d/2-1) exp(-r^2/2)
        np.testing.assert_allclose(
            stats.chi.pdf(psi, d / 2) / stats.chi.pdf(1, d / 2),
            psi ** (d / 2 - 1) * np.exp((1 - psi**2) / 2),
            rtol=1e-12,
        )


def test_fact_3_sketch_has_the_norm_in_its_covariance():
    """Erratum (F.7): S x ~ N(0, ||x||^2 I). The radii of a sketched x grow with ||x||, the angles do not."""
    x = np.array([3.0, 0, 0, 4.0])
    Sx = np.random.default_rng(5).standard_normal((20000, 4, 4)) @ x
    # chi-squared with 80000 degrees of freedom over 25; two sides
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], Sx.size) / Sx.size
    assert low < (Sx**2).mean() / 25 < high


@pytest.mark.parametrize(("level", "error"), [(0, ValueError), (41, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_level(level, error):
    with pytest.raises(error, match=r"^level must be an integer from 1 to 40, got"):
        angle.Angle(level)


# --- codebooks


PRINTED = {  # paper notes C
    2: (0.309756, 0.633980, 0.936816, 1.261040),
    3: (0.426250, 0.674385, 0.896411, 1.144547),
    4: (0.524214, 0.705909, 0.864887, 1.046582),
}


@pytest.mark.parametrize("level", [2, 3, 4])
def test_two_bit_centroids(level):
    book = angle.codebook(level, 2)
    np.testing.assert_allclose(book.centroids, PRINTED[level], rtol=0, atol=6e-7)  # six digits printed, rounded
    assert book is codebook.lloyd_max(angle.Angle(level), 2)
    # by symmetry one unknown pair: the boundary m between the upper cells satisfies 2 m = E[. | inner] + E[. | outer]
    with mpmath.workdps(30):
        n = 2 ** (level - 1) - 1

        def centroid(a, b):
            f = lambda p: mpmath.sin(2 * p) ** n  # noqa: E731
            return mpmath.quad(lambda p: p * f(p), [a, b]) / mpmath.quad(f, [a, b])

        mid, top = mpmath.pi / 4, mpmath.pi / 2
        m = mpmath.findroot(lambda m: centroid(mid, m) + centroid(m, top) - 2 * m, (1.0, 1.1))
        exact = [float(centroid(mid, m)), float(centroid(m, top))]
    np.testing.assert_allclose(book.centroids[2:], exact, rtol=1e-13)


@pytest.mark.parametrize("bits", range(1, 9))
def test_level_1_codebook(bits):
    book = angle.codebook(1, bits)
    n = 2**bits
    np.testing.assert_array_equal(book.boundaries, np.arange(1, n) * (2 * math.pi / n))
    np.testing.assert_allclose(book.centroids, (np.arange(n) + 0.5) * 2 * math.pi / n, rtol=2 * U64)
    # Lloyd-Max finds it too (its residual is below 1e-13 of a cell), and knows its distortion, step^2 / 12
    np.testing.assert_allclose(codebook.lloyd_max(angle.Angle(1), bits).centroids, book.centroids, rtol=1e-12)
    np.testing.assert_allclose(book.distortion, (2 * math.pi / n) ** 2 / 12, rtol=1e-12)
    assert book.bits == bits
    assert not book.boundaries.flags.writeable


@pytest.mark.parametrize("level", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codebooks_are_optimal_and_symmetric(level, bits):
    book = angle.codebook(level, bits)
    assert book.residual < 1e-13
    np.testing.assert_allclose(book.centroids + book.centroids[::-1], math.pi / 2, rtol=4 * U64)


def test_axes_and_diagonals_tie_upwards():
    Q = polar.setup(2, (3,), rotation=None)
    x = np.array([[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]])
    for dtype in (np.float32, np.float64):
        (indices,) = indices_of(Q, polar.quantize(Q, x.astype(dtype)))
        np.testing.assert_array_equal(indices[::2, 0], [0, 2, 4, 6])  # the axes lie on boundaries to the bit
        assert set(indices[1::2, 0] - np.array([1, 3, 5, 7])) <= {0, -1}  # the diagonals to a rounding


# --- exact distortion


def test_expected_cosines_of_the_paper_setting():
    books = books_of(polar.BITS)
    found = [angle.expected_cosine(level, book) for level, book in enumerate(books, 1)]
    np.testing.assert_allclose(found, [0.993587, 0.995055, 0.996924, 0.998305], rtol=0, atol=6e-7)
    x = math.pi / 16
    np.testing.assert_allclose(found[0], math.sin(x) / x, rtol=4 * U64)
    with mpmath.workdps(25):
        for level, book in enumerate(books[1:], 2):
            n = 2 ** (level - 1) - 1
            edges = [0, *book.boundaries, mpmath.pi / 2]
            mass = mpmath.quad(lambda p, n=n: mpmath.sin(2 * p) ** n, [0, mpmath.pi / 2])
            total = sum(
                mpmath.quad(lambda p, n=n, c=float(c): mpmath.sin(2 * p) ** n * mpmath.cos(p - c), [a, b])
                for a, b, c in zip(edges[:-1], edges[1:], book.centroids, strict=True)
            )
            assert abs(found[level - 1] - float(total / mass)) < 1e-14


def test_distortions_of_papers_md():
    assert abs(angle.distortion(books_of((4, 2, 2, 2))) - 0.03208) < 6e-6
    assert abs(angle.distortion(books_of((4, *[2] * 6))) - 0.0351) < 6e-5
    s = angle.slope(books_of((4, 2, 2, 2)))
    assert angle.distortion(books_of((4, 2, 2, 2))) == pytest.approx(2 * (1 - s), rel=1e-13)
    assert angle.distortion(books_of((4, 2, 2, 2)), "unbiased") == pytest.approx(1 / s**2 - 1, rel=1e-12)


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_a_bit_more_everywhere_divides_the_distortion_by_four(levels):
    """Theorem 1: O(log 1/eps) bits a coordinate for a distortion of O(eps), not "= eps"."""
    d = [angle.distortion(books_of([b + 2, *[b] * (levels - 1)])) for b in range(1, 7)]
    ratios = np.array(d[:-1]) / d[1:]
    assert np.all(np.diff(d) < 0)
    assert abs(ratios[-1] - 4) < 0.15
    assert np.all((ratios > 2.5) & (ratios < 4.001))


@pytest.mark.parametrize(
    ("d", "bits"), [(2, (2,)), (16, (4, 2, 2, 2)), (48, (4, 2, 2, 2)), (8, (2, 1, 1)), (64, (3, 3))]
)
def test_moments_against_simulation(d, bits):
    """Mean and variance of A = <x, x'> over uniform x, each at rate ALARM."""
    books = books_of(bits)
    Q = polar.Quantizer(d, books)
    x = sphere.uniform(100_000, d, 11)
    A = (x * polar.dequantize(Q, polar.quantize(Q, x))).sum(-1)
    slope, along, across = angle.moments(d, books)
    z = stats.norm.isf(ALARM / 2)
    assert slope == pytest.approx(angle.slope(books), rel=1e-14)
    assert abs(A.mean() - slope) < z * A.std() / math.sqrt(len(A))
    squares = (A - slope) ** 2
    assert abs(squares.mean() - along / d) < z * squares.std() / math.sqrt(len(A))
    # ||x'|| = 1: E <y, x'>^2 = (1 - E A^2) / (d - 1), and the errors over a basis add up to the distortion
    assert across / d * (d - 1) == pytest.approx(1 - slope**2 - along / d, rel=1e-12)
    assert (along + (d - 1) * across) / d + (1 - slope) ** 2 == pytest.approx(angle.distortion(books), rel=1e-12)


def test_moments_of_the_unbiased_scale_and_of_the_limit():
    books = books_of(polar.BITS)
    slope, along, _ = angle.moments(128, books)
    one, along1, across1 = angle.moments(128, books, "unbiased")
    assert one == 1
    assert along1 == pytest.approx(along / slope**2, rel=1e-13)
    assert (along1 + 127 * across1) / 128 == pytest.approx(angle.distortion(books, "unbiased"), rel=1e-12)
    limit = angle.moments(None, books)
    far = angle.moments(2**40, books)
    np.testing.assert_allclose(limit, far, rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"scale": "unbiased"}, {"rotation": "structured"}])
def test_measured_distortion_is_the_exact_one(registered, options):
    x = np.random.default_rng(1).standard_normal((200, 64)) * np.linspace(0.1, 10, 64)
    exact = angle.distortion(books_of(polar.BITS), options.get("scale", "norm"))
    found = measure.distortion("polar", x, polar.BITS, draws=64, **options)
    expect(found, exact, f"distortion of polar {options}", detects=0.03 * exact)


@pytest.mark.parametrize("scale", ["norm", "unbiased"])
def test_measured_slope_and_variance(registered, scale):
    d, bits = 32, (3, 2, 1)
    x = np.random.default_rng(2).standard_normal((400, d))
    slope, along, across = angle.moments(d, books_of(bits), scale)
    found = measure.slope("polar", x, bits, draws=64, scale=scale)
    # the slopes of the two scales are told from each other, ten times over
    expect(found, slope, f"slope of polar, scale {scale}", detects=0.1 * (1 - angle.slope(books_of(bits))))
    for rho, expected in ((0.0, across), (1.0, along), (0.6, 0.36 * along + 0.64 * across)):
        variance = measure.variance("polar", x, bits, rho, draws=64, scale=scale)
        expect(variance, expected / d, f"variance of polar at rho = {rho}, scale {scale}", detects=0.2 * expected / d)


# --- the quantizer


def test_the_paper_setting_is_computed():
    Q = polar.setup(128)
    assert Q.stored_bits == 3.875
    assert Q.bytes_per_vector() == 62
    assert Q.bytes_per_vector("float32") == 62 + 16
    assert (Q.levels, Q.bits, Q.counts) == (4, (4, 2, 2, 2), (64, 32, 16, 8))
    assert sum(n * b for n, b in Q.record.streams) + 16 * 8 == 62 * 8
    assert polar.setup(16).bytes_per_vector() == 9  # levels 3 and 4 have 4 and 2 bits there, and take a byte each


def test_the_papers_compression_factors():
    """Errata (F.7): "x4.008 at b = 3" is 5.16 (3.91 at b = 4), and "over x4.2" is 4.13."""
    assert 16 / polar.setup(128).stored_bits == pytest.approx(4.129, abs=1e-3)
    for b, factor in ((3, 5.159), (4, 3.908)):
        Q = polar.setup(128, (b,) * 7)
        bits = 16 + sum(n * k for n, k in Q.record.streams)
        assert bits == 16 + 127 * b
        assert 2048 / bits == pytest.approx(factor, abs=1e-3)
        assert 8 * Q.bytes_per_vector() - bits < 8 * 7  # less than a byte of padding a level


PLANS = st.tuples(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(1, 4)).map(
    lambda t: (t[1] * 2 ** len(t[0]), tuple(t[0]))
)
BATCHES = st.sampled_from([(), (0,), (1,), (3,), (2, 0), (2, 3)])
DTYPES = st.sampled_from([np.float16, np.float32, np.float64, np.int16])
KINDS = st.sampled_from(["haar", "structured", None])


@settings(max_examples=120)
@given(PLANS, BATCHES, DTYPES, KINDS, st.sampled_from(polar.SCALES), st.integers(0, 2**64 - 1))
def test_round_trips(plan, batch, dtype, kind, scale, seed):
    d, bits = plan
    if kind is None:
        scale = "norm"
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((*batch, d)) * 50).astype(dtype)
    Q = polar.setup(d, bits, seed, kind, scale)
    code = polar.quantize(Q, x)
    compute = np.float32 if dtype in (np.float16, np.float32) else np.float64
    u = U32 if compute == np.float32 else U64
    assert code.shape == batch
    assert code.indices.shape == (*batch, d - d // 2 ** len(bits))
    assert code.indices.dtype == np.uint8
    assert code.radii.shape == (*batch, d // 2 ** len(bits))
    assert code.radii.dtype == compute
    assert all(np.all(i < 2**b) for i, b in zip(indices_of(Q, code), bits, strict=True))
    decoded = polar.dequantize(Q, code)
    assert decoded.shape == x.shape
    assert decoded.dtype == compute
    # ||x'|| = gain ||x||: cos^2 + sin^2 = 1 to 4u, hypot and a product 4u a level, and two rotations of d u or less
    norms = np.linalg.norm(x.astype(np.float64), axis=-1)
    size = np.linalg.norm(decoded.astype(np.float64), axis=-1) / Q.gain
    assert np.all(np.abs(size - norms) <= (8 * len(bits) + 16 + 4 * d) * u * norms)
    packed = polar.pack(Q, code, "float64")
    again = polar.unpack(Q, packed)
    np.testing.assert_array_equal(again.indices, code.indices)
    np.testing.assert_array_equal(again.radii, code.radii)
    assert packed.data.shape == (*batch, Q.bytes_per_vector("float64"))
    rounded = polar.unpack(Q, polar.pack(Q, code))
    assert np.all(np.abs(rounded.radii - code.radii) <= 2.0**-11 * code.radii)
    y = rng.standard_normal((2, d)).astype(compute)
    products = polar.inner_product(Q, y, code)
    assert products.shape == (2, *batch)
    expected = np.tensordot(y.astype(np.float64), decoded.astype(np.float64), axes=(-1, -1))
    # a rotation each of y and of z', and a sum of d products: gamma_3d ||y|| ||x'||, with room for the transform
    limit = (8 * d + 64) * u * np.multiply.outer(np.linalg.norm(y, axis=-1), norms * Q.gain)
    assert np.all(np.abs(products - expected) <= limit)


@settings(max_examples=60)
@given(st.integers(-60, 60), KINDS, st.integers(0, 2**32))
def test_scale_equivariance_is_exact_for_powers_of_two(k, kind, seed):
    x = np.random.default_rng(seed).standard_normal((4, 32)).astype(np.float32)
    Q = polar.setup(32, rotation=kind)
    a, b = polar.quantize(Q, x), polar.quantize(Q, np.ldexp(x, k))
    np.testing.assert_array_equal(a.indices, b.indices)
    np.testing.assert_array_equal(np.ldexp(a.radii, k), b.radii)


def test_packed_bytes_are_those_of_the_specification():
    Q = polar.setup(32, (5, 3, 2), rng=4)
    x = np.random.default_rng(4).standard_normal((3, 32)).astype(np.float32)
    code = polar.quantize(Q, x)
    rows = polar.pack(Q, code).data
    for row, index, radii in zip(rows, code.indices, code.radii, strict=True):
        expected, at = b"", 0
        for n, b in ((16, 5), (8, 3), (4, 2)):
            number = sum(int(v) << (j * b) for j, v in enumerate(index[at : at + n]))
            expected += number.to_bytes(-(-n * b // 8), "little")
            at += n
        expected += radii.astype("<f2").tobytes()
        assert row.tobytes() == expected


def test_float16_radii_are_range_checked():
    Q = polar.setup(16, rotation=None)
    for size in (1e5, 1e-6):
        code = polar.quantize(Q, np.full((2, 16), size))
        with pytest.raises(ValueError, match=r"radius: .* outside the normal range of float16.*store it as another"):
            polar.pack(Q, code)
        np.testing.assert_array_equal(polar.unpack(Q, polar.pack(Q, code, "float64")).radii, code.radii)


@pytest.mark.parametrize("kind", ["haar", "structured", None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_decode_to_zeros(kind, dtype):
    Q = polar.setup(32, rotation=kind)
    x = np.zeros((3, 32), dtype)
    x[1, 3] = 2
    code = polar.quantize(Q, x)
    decoded = polar.dequantize(Q, code)
    np.testing.assert_array_equal(decoded[[0, 2]], 0)
    np.testing.assert_array_equal(polar.inner_product(Q, np.ones(32, dtype), code)[[0, 2]], 0)
    if kind is None:  # a block that is zero stays zero, whatever is beside it
        np.testing.assert_array_equal(decoded[1, 16:], 0)
    np.testing.assert_array_equal(polar.unpack(Q, polar.pack(Q, code)).radii[[0, 2]], 0)


def test_the_largest_norms_survive():
    x = np.random.default_rng(9).standard_normal((50, 16))
    x *= np.finfo(float).max * (1 - 4e-16) / np.linalg.norm(x, axis=1, keepdims=True)
    Q = polar.setup(16, rotation=None)
    assert np.all(np.isfinite(polar.quantize(Q, x).radii))
    assert np.all(np.isfinite(polar.dequantize(Q, polar.quantize(Q, x))))


def test_float32_and_float64_agree_away_from_boundaries():
    Q = polar.setup(64, rng=3)
    x = np.random.default_rng(3).standard_normal((500, 64)).astype(np.float32)
    t32, t64 = polar.trace(Q, x), polar.trace(Q, x.astype(np.float64))
    parts = indices_of(Q, polar.quantize(Q, x)), indices_of(Q, polar.quantize(Q, x.astype(np.float64)))
    for level, (a, b) in enumerate(zip(*parts, strict=True), 1):
        psi = t64[f"angles_{level}"]
        away = np.abs(psi[..., None] - np.array([0, *Q.codebooks[level - 1].boundaries, 2 * math.pi])).min(-1)
        # Pi x errs by 64 u ||x|| a coordinate, an angle by that over its radius: all radii here exceed ||x|| / 1000
        assert np.all((a == b) | (away < 64 * U32 * 1000))
        assert np.mean(a == b) > 0.999
    np.testing.assert_allclose(t32["radii"], t64["radii"], rtol=1e-5)


def test_trace_has_every_step():
    Q = polar.setup(32, rng=1)
    x = np.random.default_rng(1).standard_normal((4, 32))
    t = polar.trace(Q, x)
    names = "x norm unit rotated angles_1 angles_2 angles_3 angles_4 radii indices centroids_1 centroids_2"
    assert list(t) == [*names.split(), "centroids_3", "centroids_4", "cartesian", "decoded"]
    assert all(isinstance(v, np.ndarray) for v in t.values())
    code = polar.quantize(Q, x)
    np.testing.assert_array_equal(t["indices"], code.indices)
    np.testing.assert_array_equal(t["radii"], code.radii)
    np.testing.assert_array_equal(t["decoded"], polar.dequantize(Q, code))
    np.testing.assert_array_equal(t["decoded"], Q.rotation.inverse(t["cartesian"]))
    np.testing.assert_array_equal(t["rotated"], Q.rotation.apply(t["unit"]))
    # every index is that of the nearest centroid
    for level, index in enumerate(indices_of(Q, code), 1):
        off = np.abs(t[f"angles_{level}"][..., None] - Q.codebooks[level - 1].centroids)
        off = np.minimum(off, 2 * math.pi - off)  # on the circle
        np.testing.assert_array_equal(index, off.argmin(-1))


def test_full_depth_and_one_level():
    for d in (2, 8, 64):
        levels = d.bit_length() - 1
        Q = polar.setup(d, [4] + [3] * (levels - 1))
        x = np.random.default_rng(d).standard_normal((10, d))
        code = polar.quantize(Q, x)
        assert code.radii.shape == (10, 1)
        np.testing.assert_allclose(code.radii[:, 0], np.linalg.norm(x, axis=1), rtol=1e-13)
        assert Q.stored_bits == 8 * Q.bytes_per_vector() / d


def test_weighted_sums_and_attention_take_the_code(monkeypatch):
    Q = polar.setup(32, rng=2)
    rng = np.random.default_rng(2)
    x, q, w = rng.standard_normal((3, 5, 32)), rng.standard_normal((6, 4, 32)), rng.standard_normal((2, 5))
    code = polar.quantize(Q, x)
    part = attention.select(code, 1)
    assert part.shape == (5,)
    np.testing.assert_array_equal(part.indices, polar.quantize(Q, x[1]).indices)
    total = polar.to_original(Q, polar.weighted_sum(Q, w, part))
    np.testing.assert_allclose(total, w @ polar.dequantize(Q, part), rtol=0, atol=1e-13)
    monkeypatch.setattr(attention, "batch_shape", lambda c: c.shape)
    out = attention.attend(Q, Q, q, code, code)
    keys = np.repeat(polar.dequantize(Q, code), 2, axis=0)
    expected = attention.softmax(q @ keys.swapaxes(-1, -2) / math.sqrt(32)) @ keys
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"weights: expected"):
        polar.weighted_sum(Q, w, code)


def test_a_rotation_is_of_the_seed_and_of_nothing_else():
    a, b, c = polar.setup(32, rng=5), polar.setup(32, rng=5), polar.setup(32, rng=6)
    assert a.fingerprint == b.fingerprint
    assert len(a.fingerprint) == 8
    np.testing.assert_array_equal(a.rotation.matrix(), mse.setup(32, 2, 5).rotation.matrix())
    others = [
        c,
        polar.setup(32, rng=5, scale="unbiased"),
        polar.setup(32, (4, 2, 2, 3), 5),
        polar.setup(32, rotation=None),
    ]
    others += [polar.setup(64, rotation=None), polar.setup(32, rng=5, rotation="structured")]
    others += [dataclasses.replace(a, origin=0.5)]
    assert len({Q.fingerprint for Q in [a, *others]}) == 1 + len(others)
    code = polar.quantize(a, np.ones(32))
    for verb in (polar.dequantize, polar.pack, lambda Q, code: polar.inner_product(Q, np.ones(32), code)):
        with pytest.raises(ValueError, match=r"^code: it was made by quantizer"):
            verb(c, code)
    with pytest.raises(ValueError, match=r"^packed: it was made by quantizer"):
        polar.unpack(c, polar.pack(a, code))
    with pytest.raises(TypeError, match=r"^code: expected PolarCode, got ndarray"):
        polar.dequantize(a, np.ones(32))


def test_without_a_rotation_isotropic_data_are_as_good_and_others_are_not():
    exact = angle.distortion(books_of(polar.BITS))
    Q = polar.setup(64, rotation=None)
    x = sphere.uniform(20000, 64, 3)
    errors = ((x - polar.dequantize(Q, polar.quantize(Q, x))) ** 2).sum(-1)
    assert abs(errors.mean() - exact) < stats.norm.isf(ALARM / 2) * errors.std() / math.sqrt(len(x))
    spike = np.eye(64)[:1]
    assert ((spike - polar.dequantize(Q, polar.quantize(Q, spike))) ** 2).sum() > 4 * exact


# --- online codebooks


def slow_k_means(psi, c, circle):
    """Plain Lloyd with distances, by the definition; returns the mean squared distance it ends with."""
    for _ in range(500):
        off = psi[:, None] - c
        if circle:
            off = (off + math.pi) % (2 * math.pi) - math.pi
        k = np.abs(off).argmin(1)
        near = off[np.arange(len(psi)), k]
        c = c + [near[k == j].mean() if np.any(k == j) else 0.0 for j in range(len(c))]
    return (near**2).mean()


def cost(book, origin, psi):
    counted = (psi - origin) % (2 * math.pi) if origin else psi
    return ((counted - book.centroids[codebook.nearest(book, counted)]) ** 2).mean()


@pytest.mark.parametrize("level", [1, 3])
def test_fit_is_a_fixed_point_as_good_as_the_best_of_many_starts(level):
    rng = np.random.default_rng(level)
    if level == 1:
        psi = np.concatenate([rng.normal(0, 0.3, 300), rng.normal(2.5, 0.6, 200)]) % (2 * math.pi)
    else:
        psi = np.clip(rng.normal(0.5, 0.2, 500), 0, math.pi / 2)
    book, origin = angle.fit(level, 2, psi)
    counted = np.sort((psi - origin) % (2 * math.pi)) if level == 1 else psi
    k = codebook.nearest(book, counted)
    np.testing.assert_allclose(book.centroids, [counted[k == j].mean() for j in range(4)], rtol=1e-12)
    np.testing.assert_allclose(book.boundaries, (book.centroids[1:] + book.centroids[:-1]) / 2, rtol=4 * U64)
    if level == 1:  # the cut of the circle is the boundary between the last cell and the first
        assert book.centroids[0] + book.centroids[-1] == pytest.approx(2 * math.pi, rel=1e-14)
    best = min(slow_k_means(psi, rng.choice(psi, 4, replace=False), level == 1) for _ in range(20))
    assert cost(book, origin, psi) <= best * 1.02  # Lloyd's is a local minimum; on these data it is the best or near it
    assert angle.fit(level, 2, rng.permutation(psi))[0].identity == book.identity


def test_level_1_is_fitted_on_the_circle():
    """Turning the data turns the codebook; fitted on the line instead (as at level 2), it depends on the turn."""
    centers = np.repeat(np.arange(4) * math.pi / 2, 500)  # four clusters, of which 0 cuts the first in two
    psi = np.random.default_rng(0).normal(centers, 0.1) % (2 * math.pi)
    turned = (psi + 1) % (2 * math.pi)
    costs = [cost(*angle.fit(1, 2, data), data) for data in (psi, turned)]
    np.testing.assert_allclose(costs, 0.01, rtol=0.2)  # 2000 normal deviates of variance 0.01: 6 sigma
    assert costs[0] == pytest.approx(costs[1], rel=1e-9)
    (line, _), (whole, _) = (angle.fit(2, 2, data) for data in (psi, turned))
    assert cost(line, 0.0, psi) > 5 * costs[0]
    assert cost(whole, 0.0, turned) == pytest.approx(costs[1], rel=1e-9)


def test_online_codebooks_fit_what_is_not_preconditioned():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((2000, 32)) * np.geomspace(1, 30, 32) + np.linspace(-20, 20, 32)
    relative = {}
    for name, Q in {"offline": polar.setup(32, rotation=None), "online": polar.setup_online(x, rotation=None)}.items():
        decoded = polar.dequantize(Q, polar.quantize(Q, x))
        relative[name] = (((x - decoded) ** 2).sum(1) / (x**2).sum(1)).mean()
        np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), np.linalg.norm(x, axis=1), rtol=1e-13)
    assert relative["online"] < 0.7 * relative["offline"]


def test_online_codebooks_of_isotropic_data_are_the_analytic_ones():
    x = sphere.uniform(20000, 32, 6)
    Q = polar.setup_online(x, (2, 2, 2, 2))
    for level, book in enumerate(Q.codebooks, 1):
        law, analytic = angle.Angle(level), angle.codebook(level, 2)
        # a centroid is a mean of about n / 4 angles, on average; 8 sigma of it, and as much for its moving cell
        sigma = math.sqrt(analytic.distortion / (len(x) * (32 >> level) / 4))
        if level == 1:  # the circle has no preferred origin
            np.testing.assert_allclose(np.diff(book.centroids), math.pi / 2, atol=32 * sigma)
        else:
            np.testing.assert_allclose(book.centroids, analytic.centroids, atol=16 * sigma)
        assert analytic.distortion <= codebook.of_centroids(law, book.centroids).distortion < 1.01 * analytic.distortion


def test_online_fingerprint_is_of_the_centroids():
    x = np.random.default_rng(3).standard_normal((300, 32))
    a, b = polar.setup_online(x), polar.setup_online(x[::-1])
    assert a.fingerprint == b.fingerprint
    assert polar.setup_online(x * 1.5).bits == polar.BITS
    assert polar.setup_online(x[:200]).fingerprint != a.fingerprint
    assert a.fingerprint != polar.setup(32).fingerprint
    assert all(book.identity.startswith("centroids(") for book in a.codebooks)
    code = polar.quantize(a, x)
    np.testing.assert_array_equal(polar.unpack(a, polar.pack(a, code)).indices, code.indices)


def test_online_leaves_zero_blocks_out_and_needs_enough_angles():
    x = np.random.default_rng(3).standard_normal((300, 32))
    x[:, 16:] = 0
    Q = polar.setup_online(np.concatenate([x, np.zeros((50, 32))]), rotation=None)
    only = polar.setup_online(x[:, :16], rotation=None)
    assert [b.identity for b in Q.codebooks] == [b.identity for b in only.codebooks]
    with pytest.raises(ValueError, match=r"^x has 1 distinct angles at level 4, 2 bits need at least 4$"):
        polar.setup_online(x[:1, :16], (3, 2, 1, 2), rotation=None)
    with pytest.raises(ValueError, match=r"^x has 0 distinct angles at level 1"):
        polar.setup_online(np.zeros((4, 16)))


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((24,), ValueError, r"d must be a multiple of 2\*\*4 = 16 for 4 levels, got 24"),
        ((8, (4, 2, 2, 2)), ValueError, r"d must be a multiple of 2\*\*4 = 16 for 4 levels, got 8"),
        ((16, 3), TypeError, r"bits must be a sequence of bits, one a level, like \(4, 2, 2, 2\); got 3"),
        ((16, ()), TypeError, r"bits must be a sequence of bits"),
        ((16, "4222"), TypeError, r"bits must be a sequence of bits"),
        ((16, (4, 0)), ValueError, "bits of level 2 must be an integer from 1 to 8, got 0"),
        ((16, (9,)), ValueError, "bits of level 1 must be an integer from 1 to 8, got 9"),
        ((16, (4, 2.5)), TypeError, "bits of level 2 must be an integer from 1 to 8, got 2.5 of type float"),
        ((16.0,), TypeError, "d must be an integer of at least 2"),
        ((1, (4,)), ValueError, "d must be an integer of at least 2, got 1"),
        ((16, (4, 2), -1), ValueError, "rng must be a seed from 0"),
        ((16, (4, 2), None), TypeError, "rng must be"),
        ((16, (4, 2), 0, "dct"), ValueError, "kind must be 'haar' or 'structured', got 'dct'"),
        ((16, (4, 2), 0, "haar", "matched"), ValueError, "scale: expected one of norm, unbiased, got 'matched'"),
        ((16, (4, 2), 0, None, "unbiased"), ValueError, "scale: 'unbiased' needs a random rotation"),
    ],
)
def test_bad_setup(arguments, error, message):
    with pytest.raises(error, match=message):
        polar.setup(*arguments)


def test_bad_quantizers_by_hand():
    books = books_of(polar.BITS)
    with pytest.raises(ValueError, match=r"^rotation: expected dimension 32, got 16"):
        polar.Quantizer(32, books, polar.setup(16).rotation)
    with pytest.raises(ValueError, match=r"^origin: expected an angle from 0 to 2 pi, got nan"):
        polar.Quantizer(32, books, origin=math.nan)
    with pytest.raises(ValueError, match=r"^levels must be an integer from 1 to 40, got 0"):
        polar.Quantizer(32, ())


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.full(32, np.nan), ValueError, "^x holds 32 NaN and 0 infinite values"),
        (np.full(32, np.inf), ValueError, "^x holds 0 NaN and 32 infinite values"),
        (np.zeros(16), ValueError, "^x has vectors of 16 coordinates"),
        (np.zeros(()), ValueError, "^x is a single number"),
        (np.zeros(32, complex), TypeError, "^x has dtype complex128"),
        (np.zeros(32, bool), TypeError, "^x has dtype bool"),
    ],
)
def test_bad_vectors(x, error, message):
    Q = polar.setup(32)
    with pytest.raises(error, match=message):
        polar.quantize(Q, x)
    with pytest.raises(error, match=message.replace("^x", "^y")):
        polar.inner_product(Q, x, polar.quantize(Q, np.ones(32)))


def test_bad_transforms():
    with pytest.raises(ValueError, match=r"d must be a multiple of 2\*\*3 = 8 for 3 levels, got 12"):
        polar.transform(np.ones(12), 3)
    with pytest.raises(ValueError, match=r"levels must be an integer from 1 to 40, got 0"):
        polar.transform(np.ones(12), 0)
    with pytest.raises(TypeError, match=r"levels must be an integer"):
        polar.transform(np.ones(12), 1.0)
    with pytest.raises(TypeError, match=r"radii has dtype int64"):
        polar.inverse([1], [[0.5]])
    with pytest.raises(ValueError, match=r"angles of level 1 have shape \(3,\), expected \(2,\)"):
        polar.inverse([1.0], [[0.5] * 3, [0.5]])
    with pytest.raises(ValueError, match=r"angles of level 1 have shape \(\), expected \(\)"):
        polar.inverse(1.0, [0.5])


def test_corrupt_bytes():
    Q = polar.setup(16)
    packed = polar.pack(Q, polar.quantize(Q, np.ones(16)))
    with pytest.raises(ValueError, match=r"padding bits"):
        polar.unpack(Q, dataclasses.replace(packed, data=packed.data | np.array([0] * 6 + [255, 0, 0], np.uint8)))
    with pytest.raises(ValueError, match=r"radius must be finite and not negative"):
        polar.unpack(Q, dataclasses.replace(packed, data=packed.data | np.array([0] * 8 + [128], np.uint8)))
    with pytest.raises(ValueError, match=r"expected \(…, 9\) bytes"):
        polar.unpack(Q, dataclasses.replace(packed, data=packed.data[:-1]))


# --- planted bugs: what the checks above are worth


def exactness(bits=polar.BITS):
    """Whether the measured distortion is the exact one of `bits`: the check that the planted bugs must fail."""
    x = np.random.default_rng(1).standard_normal((100, 64))
    return measure.distortion("polar", x, bits, draws=64, confidence=1 - ALARM).contains(EXACT)


EXACT = angle.distortion(books_of(polar.BITS))


def test_the_check_passes_without_a_bug(registered):
    assert exactness()


def test_the_law_one_level_off_is_caught(registered, monkeypatch):
    right = angle.codebook
    monkeypatch.setattr(polar.angle, "codebook", lambda level, bits: right(level + (level > 1), bits))
    assert not exactness()


def test_a_table_of_the_second_level_for_all_is_caught(registered, monkeypatch):
    right = angle.codebook
    monkeypatch.setattr(polar.angle, "codebook", lambda level, bits: right(min(level, 2), bits))
    assert not exactness()


def test_an_inverse_off_by_one_is_caught(registered, monkeypatch):
    right = polar.inverse
    shifted = lambda radii, angles: right(radii, [np.roll(angles[0], -1, axis=-1), *angles[1:]])  # noqa: E731
    monkeypatch.setattr(polar, "inverse", shifted)
    assert not exactness()


def test_an_inverse_with_sine_and_cosine_swapped_is_caught(registered, monkeypatch):
    right = polar.inverse
    monkeypatch.setattr(polar, "inverse", lambda radii, a: right(radii, [*a[:-1], math.pi / 2 - a[-1]]))
    assert not exactness()


def test_level_1_in_minus_pi_to_pi_is_caught(registered, monkeypatch):
    monkeypatch.setattr(polar, "_wrap", lambda psi: psi)  # negative angles then all take the first cell
    assert not exactness()


def test_level_1_folded_into_a_quarter_is_caught(registered, monkeypatch):
    monkeypatch.setattr(polar, "_wrap", np.abs)
    assert not exactness()


def test_a_missing_gain_is_caught(registered, monkeypatch):
    monkeypatch.setattr(polar.Quantizer, "gain", 1.0)
    x = np.random.default_rng(2).standard_normal((400, 32))
    assert not measure.slope("polar", x, (3, 2, 1), draws=64, confidence=1 - ALARM, scale="unbiased").contains(1)
