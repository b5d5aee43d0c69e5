"""RaBitQ: the search against brute force and the library's heap, and its laws against theory and paper notes D.2."""

from __future__ import annotations

import heapq
import itertools
import math
import re

import numpy as np
import pytest
from _stats import FALSE_ALARM, expect
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from turboquant_ref import codebook, generator, measure, mse, packing, rabitq, rotation, sphere, theory


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setitem(measure.ALGORITHMS, "rabitq", rabitq)
    return measure


def cosines(z, bits, t=None):
    """cos(g, z) of each row's code."""
    t = rabitq.best_rescale(z, bits) if t is None else t
    g = rabitq.grid(rabitq.nearest(z, t, bits), bits, np.float64)
    return (z * g).sum(-1) / np.linalg.norm(g, axis=-1) / np.linalg.norm(z, axis=-1)


# --- the search


def heap_walk(z, bits):
    """The library's search, on one vector: a queue of each coordinate's next breakpoint.  Returns magnitudes u."""
    a, top = np.abs(z), 2 ** (bits - 1) - 1
    u = np.zeros(len(a), int)
    best, best_u = (a / 2).sum() / math.sqrt(len(a) / 4), u.copy()
    queue = [(1 / a[i], i) for i in range(len(a)) if top > 0 and a[i] > 0]
    heapq.heapify(queue)
    while queue:
        _, i = heapq.heappop(queue)
        u[i] += 1
        cosine = (u + 0.5) @ a / math.sqrt(((u + 0.5) ** 2).sum())
        if cosine > best * (1 + 2.0**-40):  # parallel grid points are equal: the first one
            best, best_u = cosine, u.copy()
        if u[i] < top:
            heapq.heappush(queue, ((u[i] + 1) / a[i], i))
    return best_u


@pytest.mark.parametrize(("d", "bits"), [(2, 3), (2, 8), (3, 4), (7, 2), (16, 4), (33, 5), (64, 8), (128, 3)])
def test_the_search_is_the_librarys(d, bits):
    z = sphere.uniform(20, d, rng=d)
    indices = rabitq.nearest(z, rabitq.best_rescale(z, bits), bits)
    for row, found in zip(z, indices, strict=True):
        u = heap_walk(row, bits)
        half = 2 ** (bits - 1)
        # the mapping of the module's docstring: the sign on top, the magnitude inverted under a sign of 0
        np.testing.assert_array_equal(found, np.where(row >= 0, half + u, (half - 1) ^ u))


@pytest.mark.parametrize(("d", "bits"), [(2, 1), (2, 2), (2, 4), (3, 3), (4, 3), (5, 2), (6, 2), (10, 1)])
def test_no_grid_point_has_a_larger_cosine(d, bits):
    points = np.array(list(itertools.product(np.arange(2**bits) - (2**bits - 1) / 2, repeat=d)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    z = np.concatenate([sphere.uniform(30, d, rng=1), np.eye(d)[:1], np.ones((1, d)) / math.sqrt(d)])
    # both are sums of d products of numbers below 1
    np.testing.assert_allclose(cosines(z, bits), (z @ points.T).max(axis=1), rtol=0, atol=4 * d * 2.0**-53)


@pytest.mark.parametrize(("d", "bits"), [(5, 3), (16, 4), (40, 6)])
def test_no_other_t_is_better(d, bits):
    z = sphere.uniform(10, d, rng=2)
    best = cosines(z, bits)
    for t in np.geomspace(0.1, 10 * 2**bits * math.sqrt(d), 3000):
        assert np.all(cosines(z, bits, np.full(10, t)) <= best + 4 * d * 2.0**-53)


def test_t_lies_inside_its_interval_and_scales_inversely():
    z = sphere.uniform(50, 24, rng=3)
    t = rabitq.best_rescale(z, 4)
    # 8 ulp: t is a quotient of two running sums of exact halves and of 168 terms
    for factor in (1 - 2.0**-40, 1 + 2.0**-40):
        np.testing.assert_array_equal(rabitq.nearest(z, t * factor, 4), rabitq.nearest(z, t, 4))
    np.testing.assert_array_equal(rabitq.best_rescale(4 * z, 4), t / 4)


def test_zeros_and_huge_ratios_in_z():
    z = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, -0.0, 5e-324], [1.0, 1e-300, -1e-300, 0.5]])
    for bits in (1, 2, 8):
        t = rabitq.best_rescale(z, bits)
        assert np.all(np.isfinite(t))
        assert np.all(t > 0)
        indices = rabitq.nearest(z, t, bits)
        half = 2 ** (bits - 1)
        np.testing.assert_array_equal(indices[0], half)  # sign(0) = +1, and the smallest magnitude
        np.testing.assert_array_equal(indices[1, 1:], half)
        assert indices[2, 2] == half - 1


def test_blocks_of_rows_do_not_matter():
    z = sphere.uniform(300, 64, rng=4)  # 64 * 127 breakpoints a row: two blocks
    t = rabitq.best_rescale(z, 8)
    np.testing.assert_array_equal(t, [rabitq.best_rescale(row, 8) for row in z])


# --- the index


def test_ties_take_the_upper_index():
    z = np.array([-2.0, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.0])
    found = rabitq.nearest(z, np.array(1.0), 2)
    np.testing.assert_array_equal(found, [0, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(rabitq.grid(found, 2, float), [-1.5, -1.5, -0.5, -0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1.5])


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_index_is_sign_and_magnitude(bits, dtype):
    z = sphere.uniform(4, 50, rng=bits).astype(dtype)
    t = np.full(4, 3.0 * 2**bits, dtype)
    half = 2 ** (bits - 1)
    u = np.minimum(np.floor(t[:, None] * np.abs(z)), half - 1).astype(int)  # D.1, literally
    index = rabitq.nearest(z, t, bits)
    np.testing.assert_array_equal(index >= half, z >= 0)
    np.testing.assert_array_equal(np.where(z >= 0, index - half, ~index.astype(int) & (half - 1)), u)
    np.testing.assert_array_equal(rabitq.grid(index, bits, dtype), np.where(z >= 0, u + 0.5, -u - 0.5))
    assert index.dtype == np.uint8


# --- relatives


@pytest.mark.parametrize("scale", rabitq.SCALES)
@pytest.mark.parametrize("kind", ["haar", "structured"])
@pytest.mark.parametrize("rescale", rabitq.RESCALES)
def test_one_bit_is_eden(scale, kind, rescale):
    x = np.random.default_rng(5).standard_normal((40, 30)) * 7
    ours = rabitq.setup(30, 1, 3, rotation=kind, scale=scale, rescale=rescale)
    eden = mse.setup(30, 1, 3, rotation=kind, scale=scale)
    code, theirs = rabitq.quantize(ours, x), mse.quantize(eden, x)
    np.testing.assert_array_equal(code.indices, theirs.indices)
    decoded = rabitq.dequantize(ours, code)
    # the same numbers, up to the rounding of the centroid, the scale and a sum of 30 terms
    error = np.abs(decoded - mse.dequantize(eden, theirs)).max()
    assert error <= 100 * 2.0**-53 * np.abs(decoded).max()
    assert ours.bytes_per_vector() == eden.bytes_per_vector()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6])
def test_fast_is_a_uniform_codebook(bits):
    """With a constant t it is Algorithm 1 with the centroids (k - (2^B - 1)/2) / t, whose distortion is exact."""
    d = 48
    t = rabitq.fast_rescale(d, bits)
    uniform = codebook.of_centroids(sphere.law(d), (np.arange(2**bits) - (2**bits - 1) / 2) / t)
    x = sphere.uniform(200, d, rng=6)
    for scale in rabitq.SCALES:
        Q = rabitq.setup(d, bits, 1, scale=scale, rescale="fast")
        M = mse.Quantizer(Q.rotation, uniform, scale)
        code, same = rabitq.quantize(Q, x), mse.quantize(M, x)
        np.testing.assert_array_equal(code.indices, same.indices)
        assert np.abs(rabitq.dequantize(Q, code) - mse.dequantize(M, same)).max() <= 100 * 2.0**-53
    if bits > 1:  # how far t is from the best constant, in the sense of Eq 4: near at few bits, far at many
        best = optimize.minimize_scalar(
            lambda s: codebook.of_centroids(sphere.law(d), uniform.centroids * s).distortion, bounds=(0.5, 2)
        )
        low, high = {2: (1, 1.01), 3: (1, 1.01), 4: (1.01, 1.02), 6: (1.99, 2.02)}[bits]
        assert low <= uniform.distortion / best.fun <= high
    assert uniform.distortion >= codebook.lloyd_max(d, bits).distortion * (1 - 1e-12)


# --- the constant


def test_the_fast_constant_is_pinned():
    """A function of (d, B) alone; 1e-12 for the rounding of ndtri and of sums elsewhere."""
    z = generator.gaussians(0x526142697451, 0, 1600).reshape(100, 16)
    t = [rabitq.best_rescale(row / math.sqrt(row @ row), 3) for row in z]
    np.testing.assert_allclose(rabitq.fast_rescale(16, 3), np.mean(t), rtol=1e-12)
    pinned = {(128, 1): T1, (128, 2): T2, (128, 3): T3, (128, 4): T4}
    for (d, bits), value in pinned.items():
        np.testing.assert_allclose(rabitq.fast_rescale(d, bits), value, rtol=1e-12)


T1, T2, T3, T4 = 7.0558248325482154, 11.338597593545868, 19.384275581813505, 34.208288660424635


def test_the_fast_constant_is_no_bargain_at_many_bits():
    """The mean of the best t of 100 vectors overloads those with a larger maximum: 18 times the exact search's MSE."""
    z = sphere.uniform(300, 128, rng=1)
    exact = (1 - cosines(z, 8) ** 2).mean()
    fast = 1 - cosines(z, 8, np.full(300, rabitq.fast_rescale(128, 8))) ** 2
    assert 10 < fast.mean() / exact < 30  # 18 here; a standard error of the ratio is 8 %
    levels = np.arange(256) - 127.5
    t = rabitq.fast_rescale(128, 8)
    ratio = [codebook.of_centroids(sphere.law(128), levels / s).distortion for s in (t, 0.75 * t)]
    assert 6.5 < ratio[0] / ratio[1] < 7.5  # exact


def best_cosine2(bits):
    """The limit of large d: cos^2 and step of the uniform quantizer of N(0, 1) with the largest cosine."""
    law, levels = sphere.law(None), np.arange(2**bits) - (2**bits - 1) / 2

    def cosine2(step):
        book = codebook.of_centroids(law, levels * step)
        edges = np.concatenate([[-np.inf], book.boundaries, [np.inf]])
        dot = (book.centroids * law.partial_mean(edges[:-1], edges[1:])).sum()
        return dot**2 / (book.probabilities * book.centroids**2).sum()

    bounds = (0.3 * 2**-bits, 8 * 2**-bits)
    found = optimize.minimize_scalar(lambda s: -cosine2(s), bounds=bounds, options={"xatol": 1e-9})
    return -found.fun, found.x


@pytest.mark.parametrize("bits", [2, 4])
def test_the_limit_of_large_d(bits):
    """As d grows every vector's t tends to sqrt(d) over the best uniform step, and cos^2 to its limit."""
    d, n = 1536, 250
    cosine2, step = best_cosine2(bits)
    c2 = cosines(sphere.uniform(n, d, rng=bits), bits) ** 2
    # iid vectors; 7 standard errors (1e-11), and 8/d relative for the finite dimension
    assert abs((1 - c2).mean() - (1 - cosine2)) <= 7 * c2.std() / math.sqrt(n) + 8 / d * (1 - cosine2)
    # t of 100 vectors varies by a few per cent each: 1 % for their mean
    assert abs(rabitq.fast_rescale(d, bits) * step / math.sqrt(d) - 1) < 0.01


# --- the laws: uniform vectors are iid whatever Pi, so that here the vector is the unit of replication


D2 = {  # paper notes D.2: d, bits -> d Var of the unbiased estimate at rho = 0, MSE of the reconstruction
    (128, 1): (0.569, 0.3605),
    (128, 2): (0.132, 0.1155),
    (128, 3): (0.0365, 0.0349),
    (128, 4): (0.0100, 0.0098),
    (1536, 2): (0.135, 0.1185),
    (1536, 4): (0.0116, 0.0114),
}


@pytest.mark.parametrize(("d", "bits"), D2)
def test_the_figures_of_d2(d, bits):
    n = 3000 if d == 128 else 200
    x = sphere.uniform(n, d, rng=7 * bits)
    y = measure.correlated_queries(x, 8, rho=0.0)
    Q = rabitq.setup(d, bits, 9, rotation="structured", bound=True)
    code = rabitq.quantize(Q, x)
    decoded = rabitq.dequantize(Q, code)
    L = rabitq.setup(d, bits, 9, rotation="structured", scale="least_squares")
    error = ((rabitq.dequantize(L, rabitq.quantize(L, x)) - x) ** 2).sum(-1)
    spread = (code.tangents**2) * d / (d - 1)  # d Var given the code: the error's direction is uniform
    for sample, printed in ((spread, D2[d, bits][0]), (error, D2[d, bits][1])):
        # 6 standard errors (2e-9); 1.5 %, since the printed values are rounded Monte Carlo themselves
        assert abs(sample.mean() - printed) <= 6 * sample.std() / math.sqrt(n) + 0.015 * printed
    # the estimates themselves: a mean square of n nearly normal numbers varies by sqrt(2 / n)
    measured_variance = d * ((decoded * y).sum(-1) ** 2).mean()
    assert abs(measured_variance / spread.mean() - 1) <= 7 * math.sqrt(2 / n)
    if bits == 1:  # exact theory is EDEN's; D.2's 0.569 is 0.5 % below it
        exact = theory.moments("mse", d, 1, scale="unbiased").across
        assert abs(spread.mean() - exact) <= 6 * spread.std() / math.sqrt(n)
        assert abs(exact - 0.5717) < 5e-5


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("x", [np.eye(16)[:1], np.r_[np.ones(2), np.zeros(14)][None], np.ones((1, 16))], ids=str)
def test_every_x_is_as_good_as_a_random_one(measured, x, bits):
    """Haar makes any x uniform: distortion and slope of fixed vectors over draws of Pi, against iid vectors."""
    options = {"draws": 400, "rng": bits, "confidence": 1 - FALSE_ALARM}
    c2 = cosines(sphere.uniform(20000, 16, rng=11), bits) ** 2
    found = measured.distortion("rabitq", x, bits, scale="least_squares", **options)
    assert abs(found.value - (1 - c2).mean()) <= found.half_width + 6.2 * c2.std() / math.sqrt(20000)
    y = measured.correlated_queries(x, 3, rho=0.6)
    expect(measured.slope("rabitq", x, bits, y, **options), 1.0, f"slope of RaBitQ, d = 16, b = {bits}", 0.5)


def test_slopes_of_the_scales(measured):
    """1, E cos and E cos^2: the table of `mse`'s docstring, for uniform levels."""
    d, bits = 24, 2
    c = cosines(sphere.uniform(20000, d, rng=12), bits)
    x = np.random.default_rng(13).standard_normal((3, d))
    for scale, value in (("unbiased", 1 + 0 * c), ("matched", c), ("least_squares", c * c)):
        found = measured.slope("rabitq", x, bits, draws=100, scale=scale, confidence=1 - FALSE_ALARM)
        assert abs(found.value - value.mean()) <= found.half_width + 6.2 * value.std() / math.sqrt(20000)
    # the power of the check: the biased scales are told from the unbiased one
    assert not measured.slope("rabitq", x, bits, draws=100, scale="matched", confidence=1 - FALSE_ALARM).contains(1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_what_each_scale_keeps(dtype, bits):
    x = (np.random.default_rng(14).standard_normal((30, 40)) * 100).astype(dtype)
    u = float(np.finfo(dtype).eps) / 2
    bound = 60 * 40 * u  # a rotation there and back, its norm and sums of 40 terms, each by gamma_40
    energy = (x.astype(float) ** 2).sum(-1)
    made = {}
    for scale in rabitq.SCALES:
        Q = rabitq.setup(40, bits, 4, scale=scale)
        made[scale] = rabitq.dequantize(Q, rabitq.quantize(Q, x)).astype(float)
        assert rabitq.dequantize(Q, rabitq.quantize(Q, x)).dtype == dtype
    assert np.abs((made["matched"] ** 2).sum(-1) / energy - 1).max() <= bound
    assert np.abs((made["unbiased"] * x).sum(-1) / energy - 1).max() <= bound
    assert np.abs((made["least_squares"] * (made["least_squares"] - x)).sum(-1) / energy).max() <= bound


# --- the error bound


@pytest.mark.parametrize(("d", "eps0"), [(2, 1.0), (3, 1.0), (16, 1.9), (128, 1.9), (128, 0.5)])
def test_the_bound_fails_as_often_as_it_says(d, eps0):
    n = 20000
    x = sphere.uniform(n, d, rng=d)
    y = measure.correlated_queries(x, 1, rho=0.0)
    Q = rabitq.setup(d, 2, 2, bound=True, rescale="fast")
    code = rabitq.quantize(Q, x)
    error = np.abs(((rabitq.dequantize(Q, code) - x) * y).sum(-1))
    failures = int((error > rabitq.error_bound(Q, code, eps0) * (1 + 1e-9)).sum())
    p = 1 - rabitq.coverage(d, eps0)
    low, high = stats.binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n, p)
    assert low <= failures <= high


def test_coverage_is_that_of_a_coordinate():
    assert abs(rabitq.coverage(10**6) - (1 - 2 * stats.norm.sf(1.9))) < 1e-6
    assert rabitq.coverage(3, 1.0) == pytest.approx(0.5, abs=1e-15)  # the circle: P(|cos| <= 1/sqrt 2)
    assert rabitq.coverage(2, 0.99) == 0
    assert rabitq.coverage(2, 1.0) == 1
    assert rabitq.coverage(5, 0.0) == pytest.approx(0.0, abs=1e-15)
    assert rabitq.coverage(5, 2.0) == 1


def test_error_bound_by_hand():
    x = np.random.default_rng(15).standard_normal((6, 20))
    x[2] = 0
    Q = rabitq.setup(20, 3, 5, bound=True)
    code, steps = rabitq.quantize(Q, x), rabitq.trace(Q, x)
    c = np.delete(steps["cosine"], 2)
    by_hand = np.sqrt((1 - c**2) / c**2) * 1.9 / math.sqrt(19)  # D.1
    np.testing.assert_allclose(np.delete(rabitq.error_bound(Q, code), 2), by_hand, rtol=1e-12)
    assert steps["cosine"][2] == 1
    assert rabitq.error_bound(Q, code)[2] == 0
    assert rabitq.error_bound(Q, rabitq.unpack(Q, rabitq.pack(Q, code, "float16")))[0] == pytest.approx(
        by_hand[0], rel=2.0**-11
    )
    # a vector on the grid: the tangent is stored as 2^-14, which float16 can hold
    perfect = rabitq.setup(20, 3, 5, bound=True)
    on_grid = perfect.rotation.inverse(np.ones(20))
    assert rabitq.quantize(perfect, on_grid).tangents == 2.0**-14
    rabitq.pack(perfect, rabitq.quantize(perfect, on_grid), "float16")


def test_the_bound_is_paid_for():
    with_bound, without = rabitq.setup(128, 4, 0, bound=True), rabitq.setup(128, 4, 0)
    assert (without.bytes_per_vector(), with_bound.bytes_per_vector()) == (68, 72)
    assert (without.stored_bits, with_bound.stored_bits) == (4.25, 4.5)
    code = rabitq.quantize(without, np.ones(128))
    assert code.tangents is None
    with pytest.raises(ValueError, match=r"^code: it keeps no tangent; set the quantizer up with bound=True$"):
        rabitq.error_bound(without, code)
    biased = rabitq.setup(128, 4, 0, scale="matched", bound=True)
    with pytest.raises(ValueError, match=r"^Q: the bound is for scale 'unbiased', this quantizer's is 'matched'$"):
        rabitq.error_bound(biased, rabitq.quantize(biased, np.ones(128)))
    with pytest.raises(ValueError, match=r"^eps0: expected a number of at least 0, got -1.9$"):
        rabitq.error_bound(with_bound, rabitq.quantize(with_bound, np.ones(128)), -1.9)


# --- the verbs


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_round_trip(data):
    d = data.draw(st.integers(2, 40))
    bits = data.draw(st.integers(1, 8))
    batch = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64", "int8", "uint16", "int64"]))
    bound = data.draw(st.booleans())
    scalars = data.draw(st.sampled_from(sorted(packing.SCALARS)))
    scale, rescale = data.draw(st.sampled_from(rabitq.SCALES)), data.draw(st.sampled_from(rabitq.RESCALES))
    kind = data.draw(st.sampled_from(["haar", "structured"]))
    seed = data.draw(st.integers(0, 2**64 - 1))
    rng = np.random.default_rng(seed)
    x = (np.abs(rng.standard_normal((*batch, d))) * 20).astype(dtype)
    x = x * rng.choice([1, 1 if dtype[0] == "u" else -1], x.shape).astype(dtype)
    x[rng.random(batch) < 0.2] = 0
    Q = rabitq.setup(d, bits, seed, rotation=kind, scale=scale, rescale=rescale, bound=bound)
    code = rabitq.quantize(Q, x)
    compute = np.float32 if dtype in ("float16", "float32") else np.float64
    assert code.indices.shape == x.shape
    assert code.indices.dtype == np.uint8
    assert code.scales.shape == batch
    assert code.scales.dtype == compute
    assert int(code.indices.max(initial=0)) < 2**bits
    packed = rabitq.pack(Q, code, scalars)
    assert packed.data.shape == (*batch, Q.bytes_per_vector(scalars))
    assert Q.bytes_per_vector(scalars) == math.ceil(d * bits / 8) + packing.SCALARS[scalars] * (1 + bound)
    back = rabitq.unpack(Q, packed)
    np.testing.assert_array_equal(back.indices, code.indices)
    u = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}[scalars]
    assert np.all(np.abs(back.scales - code.scales) <= u * code.scales)
    assert (back.tangents is None) == (not bound)
    decoded, zero = rabitq.dequantize(Q, code), ~np.any(x, axis=-1)
    assert decoded.shape == x.shape
    assert decoded.dtype == compute
    assert np.all(np.isfinite(decoded))
    assert np.all(decoded[zero] == 0)
    assert np.all(code.scales[~zero] > 0)
    np.testing.assert_array_equal(rabitq.pack(Q, back, scalars).data, packed.data)


@pytest.mark.parametrize("kind", ["haar", "structured"])
def test_inner_products_and_sums_are_those_of_the_decoded(kind):
    rng = np.random.default_rng(16)
    x, y, w = rng.standard_normal((2, 5, 24)), rng.standard_normal((3, 24)), rng.random((4, 5))
    Q = rabitq.setup(24, 3, 1, rotation=kind)
    code = rabitq.quantize(Q, x)
    decoded = rabitq.dequantize(Q, code)
    # sums of 24 (or 5) terms of size about 1, after two rotations
    np.testing.assert_allclose(rabitq.inner_product(Q, y, code), np.einsum("ad,bnd->abn", y, decoded), atol=1e-12)
    assert rabitq.inner_product(Q, y[0], code).shape == (2, 5)
    one = rabitq.quantize(Q, x[0])
    total = rabitq.to_original(Q, rabitq.weighted_sum(Q, w, one))
    np.testing.assert_allclose(total, w @ decoded[0], atol=1e-12)
    np.testing.assert_array_equal(rabitq.trace(Q, x)["decoded"], decoded)
    for row, indices in zip(x[0], one.indices, strict=True):  # a row's code does not depend on the rows beside it
        np.testing.assert_array_equal(rabitq.quantize(Q, row).indices, indices)


def test_the_trace_is_the_algorithm():
    x = np.random.default_rng(17).standard_normal((4, 12)) * 3
    Q = rabitq.setup(12, 3, 8)
    t = rabitq.trace(Q, x)
    names = "x norm unit rotated rescale indices grid cosine tangent scale unrotated decoded"
    assert list(t) == names.split()
    for i in range(4):
        z, g = Q.rotation.matrix() @ (x[i] / np.linalg.norm(x[i])), t["grid"][i]
        np.testing.assert_allclose(t["rotated"][i], z, atol=1e-14)
        np.testing.assert_allclose(t["cosine"][i], z @ g / np.linalg.norm(g), rtol=1e-13)
        np.testing.assert_allclose(t["rescale"][i], g @ g / (g @ z), rtol=1e-13)
        np.testing.assert_allclose(t["scale"][i], np.linalg.norm(x[i]) / (g @ z), rtol=1e-13)


def test_norms_of_any_size():
    x = sphere.uniform(3, 16, rng=1)
    Q = rabitq.setup(16, 4, 0)
    for size in (1e-290, 1e-150, 1e150, 1e300):
        y = rabitq.dequantize(Q, rabitq.quantize(Q, x * size)) / size
        np.testing.assert_allclose(y, rabitq.dequantize(Q, rabitq.quantize(Q, x)), atol=1e-13)
    with pytest.raises(ValueError, match=r"^x: the 'unbiased' scale of row 0 exceeds the largest float64, .*; scale"):
        rabitq.quantize(rabitq.setup(2, 1, 0), [1e308, 1e308])


# --- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"d": 1}, ValueError, "d must be an integer of at least 2, got 1"),
        ({"bits": 0}, ValueError, "bits must be an integer from 1 to 8, got 0"),
        ({"bits": 9}, ValueError, "bits must be an integer from 1 to 8, got 9"),
        ({"bits": 2.5}, TypeError, "bits must be an integer from 1 to 8, got 2.5 of type float"),
        ({"bits": True}, TypeError, "bits must be an integer from 1 to 8, got True of type bool"),
        ({"scale": "norm"}, ValueError, "scale: expected one of matched, least_squares, unbiased, got 'norm'"),
        ({"rescale": "best"}, ValueError, "rescale: expected one of exact, fast, got 'best'"),
        ({"bound": 1}, TypeError, "bound must be True or False, got 1"),
        ({"rng": None}, TypeError, "rng must be"),
        ({"rotation": "none"}, ValueError, "kind must be"),
    ],
)
def test_bad_setup(change, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        rabitq.setup(**{"d": 8, "bits": 2, "rng": 0, **change})


def test_bad_data_and_codes():
    Q, other = rabitq.setup(8, 2, 0), rabitq.setup(8, 2, 1)
    code = rabitq.quantize(Q, np.ones((2, 8)))
    with pytest.raises(ValueError, match=r"^x has vectors of 7 coordinates .*, expected d = 8$"):
        rabitq.quantize(Q, np.ones((2, 7)))
    with pytest.raises(ValueError, match=r"^x holds 1 NaN"):
        rabitq.quantize(Q, np.r_[np.nan, np.ones(7)])
    with pytest.raises(TypeError, match=r"^x has dtype bool"):
        rabitq.quantize(Q, np.ones((2, 8), bool))
    with pytest.raises(ValueError, match=r"^y has vectors of 9"):
        rabitq.inner_product(Q, np.ones(9), code)
    for verb in (rabitq.dequantize, rabitq.pack):
        with pytest.raises(ValueError, match=r"^code: it was made by quantizer"):
            verb(other, code)
        with pytest.raises(TypeError, match=r"^code: expected RaBitQCode, got MSECode$"):
            verb(Q, mse.quantize(mse.setup(8, 2, 0), np.ones(8)))
    with pytest.raises(ValueError, match=r"^packed: it was made by quantizer"):
        rabitq.unpack(other, rabitq.pack(Q, code))
    with pytest.raises(ValueError, match=r"^packed: expected"):
        rabitq.unpack(Q, packing.Packed(rabitq.pack(Q, code).data[:, 1:], "float32", Q.fingerprint))
    huge = rabitq.RaBitQCode(code.indices, np.full(2, 1e6), None, Q.fingerprint)
    with pytest.raises(ValueError, match=r"^scale: 1e\+06 in row 0 is outside the normal range of float16"):
        rabitq.pack(Q, huge, "float16")


def test_options_are_what_setup_takes():
    Q = rabitq.setup(8, 3, 1, scale="matched", rescale="fast", bound=True)
    assert rabitq.setup(8, Q.bits, 1, **Q.options).fingerprint == Q.fingerprint


def test_fingerprints_tell_quantizers_apart():
    made = [
        rabitq.setup(8, bits, seed, scale=scale, rescale=rescale, bound=bound).fingerprint
        for bits, seed, scale, rescale, bound in itertools.product(
            (2, 3), (0, 1), rabitq.SCALES, rabitq.RESCALES, (False, True)
        )
    ]
    assert len(set(made)) == len(made)


# --- planted bugs: what the checks above would say


def test_planted_bugs_are_seen():
    d, bits, n = 64, 3, 2000
    z = sphere.uniform(n, d, rng=20)
    best = 1 - cosines(z, bits) ** 2
    noise = 6 * best.std() / math.sqrt(n)
    half, t = 2 ** (bits - 1), rabitq.best_rescale(z, bits)
    u = np.minimum(np.floor(np.abs(z) * t[:, None]), half - 1)

    def distortion(g):
        return (1 - ((z * g).sum(-1) / np.linalg.norm(g, axis=-1)) ** 2).mean()

    assert abs(distortion(np.sign(z) * (u + 0.5)) - best.mean()) < 1e-12  # the thing itself
    assert distortion(np.sign(z) * u) > best.mean() + noise  # levels without the half step
    assert distortion(u + half + 0.5 - 2 * half * (z < 0)) > best.mean() + noise  # magnitude not inverted
    unclamped = np.floor(np.abs(z) * t[:, None] * 1.3)
    assert distortion(np.sign(z) * (np.minimum(unclamped, half - 1) + 0.5)) > best.mean() + noise  # t of another range
    assert np.mean(1 - cosines(z, bits, np.full(n, math.sqrt(d))) ** 2) > best.mean() + noise  # t of another B
    rows = rotation.haar(8, 0).apply(np.eye(8))
    assert np.all(cosines(rows, 4) >= cosines(rows, 4, np.full(8, rabitq.fast_rescale(8, 4))))
