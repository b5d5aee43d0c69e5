"""QJL against its definition, and its unbiasedness and variance against their closed forms, for both laws of S."""

from __future__ import annotations

import itertools
import math

import _boxes
import _checks
import numpy as np
import pytest
from _boxes import gamma, rotation_error
from _stats import expect
from test_mse import rows

from turboquant_ref import generator, measure, packing, qjl, rotation, sphere, theory

OPTIONS = [("gaussian", "haar"), ("orthogonal", "haar"), ("orthogonal", "structured")]
FLOATS = (np.float32, np.float64)
SIZES = [(2, 1), (3, 3), (7, 4), (7, 7), (7, 16), (16, 40)]


def mu(Q: qjl.Quantizer) -> float:
    """E|S_i u| by Gamma functions: sqrt(2/pi), or sqrt(d) Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    if Q.sketch.kind == "gaussian":
        return math.sqrt(2 / math.pi)
    return math.sqrt(Q.d) * math.exp(math.lgamma(Q.d / 2) - math.lgamma((Q.d + 1) / 2)) / math.sqrt(math.pi)


def projection_error(sketch: qjl.Sketch, dtype: type) -> np.ndarray:
    """The most that coordinate i of fl(S u), u of norm 1 to 4 roundings, can be from that of S u; shape (m,).

    d products and sums and the rounding of the entries: gamma_{d + 6} ||S_i||.  Orthogonal: the block's, times sqrt(d).
    """
    S = sketch.matrix()
    if sketch.gaussian is not None:
        return gamma(sketch.d + 6, dtype) * np.linalg.norm(S, axis=1)
    worst = max(rotation_error(block, dtype) for block in sketch.blocks)
    return np.full(sketch.m, math.sqrt(sketch.d) * (worst + gamma(3, dtype)))


def estimate_error(sketch: qjl.Sketch, dtype: type) -> float:
    """Relative to ||x|| ||y||, how far <y, dequantize> and inner_product can be from <S y, signs> / (m mu).

    Each sums m projections, exact ones of norm ||S_i|| and right to `projection_error`; the transposed product of an
    orthogonal block errs by sqrt(d) of its coordinate error in norm, for signs of norm sqrt(max(m, d)) and rows of norm
    sqrt(d).
    """
    total = np.linalg.norm(sketch.matrix(), axis=1).sum() * gamma(sketch.m + sketch.d + 12, dtype)
    total += projection_error(sketch, dtype).sum() * max(1.0, math.sqrt(sketch.d / sketch.m))
    return 2 * sketch.constant * total


# ------------------------------------------------------------------------------------ the definition


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "blocks"), OPTIONS)
@pytest.mark.parametrize(("d", "m"), SIZES)
def test_against_the_definition(d, m, kind, blocks, dtype):
    x = rows(d, dtype)
    Q = qjl.setup(d, m, 3, sketch=kind, rotation=blocks)
    S, margin = Q.sketch.matrix(), projection_error(Q.sketch, dtype)
    assert (Q.d, Q.m, S.shape) == (d, m, (m, d))
    steps, decoded = qjl.trace(Q, x), qjl.dequantize(Q, qjl.quantize(Q, x))
    near = 0
    for i, row in enumerate(x):
        projection = _boxes.times(S, _boxes.split(row)[1])
        assert np.all(np.abs(steps["projection"][i] - projection) <= margin)
        near += _boxes.check_codes(steps["signs"][i], projection, [0.0], margin, f"row {i}")
        box = _boxes.qjl(S, mu(Q), row, 2 * steps["signs"][i].astype(int) - 1)
        assert math.dist(decoded[i].tolist(), box["decoded"]) <= estimate_error(Q.sketch, dtype) * _boxes.split(row)[0]
    assert near <= m + 3  # the zero row, and next to nothing else


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_given_matrix(dtype):
    """The sign of a given projection is exact, and of a projection that is 0 it is +1."""
    S = np.array([[1.0, 0, 0], [0, 2, 0], [-1, 0, 0], [0, 0, 0], [3, 4, 0], [0, 0, 1]])
    Q = qjl.Quantizer(qjl.of_matrix(S))
    code = qjl.quantize(Q, np.array([[2.0, 0, 0], [0, -3, 0], [4, -3, 0], [0, 0, 0]], dtype))
    assert code.signs.tolist() == [[1, 1, 0, 1, 1, 1], [1, 0, 1, 1, 0, 1], [1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert code.norms.tolist() == [2, 3, 5, 0]
    c = math.sqrt(math.pi / 2) / 6
    expected = c * np.array(
        [[2 * (1 + 1 + 3), 2 * (2 + 4), 2], [3 * (1 - 1 - 3), 3 * (-2 - 4), 3], [5 * 5, 5 * 2, 5], [0, 0, 0]]
    )
    found = qjl.dequantize(Q, code)
    assert np.all(np.abs(found - expected) <= gamma(12, dtype) * 5 * c * np.abs(S).sum())
    assert S.flags.writeable
    assert not Q.sketch.gaussian.flags.writeable


def test_the_sign_of_zero():
    for dtype in FLOATS:
        assert qjl.signs_of(np.array([0.0, -0.0, 1e-45, -1e-45], dtype)).tolist() == [1, 1, 1, 0]
    assert qjl.pm_one(np.array([0, 1], np.uint8), np.float32).tolist() == [-1, 1]


@pytest.mark.parametrize("m", [7, 14])
def test_a_given_orthogonal_matrix(m):
    S = qjl.setup(7, m, 0, sketch="orthogonal").sketch.matrix()
    given = qjl.Quantizer(qjl.of_matrix(S, "orthogonal"))
    x = rows(7)
    found, expected = qjl.quantize(given, x), qjl.quantize(qjl.setup(7, m, 0, sketch="orthogonal"), x)
    np.testing.assert_array_equal(found.signs, expected.signs)
    assert found.fingerprint != expected.fingerprint
    assert given.sketch.constant == qjl.setup(7, m, 0, sketch="orthogonal").sketch.constant


def test_matrices_that_are_refused():
    with pytest.raises(ValueError, match="S holds 1 NaN and 0 infinite values, the first in row 1"):
        qjl.of_matrix([[1.0, 2], [math.nan, 1]])
    with pytest.raises(TypeError, match="S has dtype complex128"):
        qjl.of_matrix(np.eye(2) * 1j)
    with pytest.raises(ValueError, match=r"S: expected a matrix of shape \(m, d\), m >= 1, got shape \(3,\)"):
        qjl.of_matrix(np.ones(3))
    with pytest.raises(ValueError, match=r"S: expected a matrix of shape \(m, d\), m >= 1, got shape \(0, 3\)"):
        qjl.of_matrix(np.ones((0, 3)))
    with pytest.raises(ValueError, match="S has vectors of 1 coordinates"):
        qjl.of_matrix(np.ones((3, 1)))
    with pytest.raises(
        ValueError,
        match="kind: expected gaussian, or orthogonal with m a multiple of d; got 'orthogonal', m = 3, d = 2",
    ):
        qjl.of_matrix(np.ones((3, 2)), "orthogonal")
    with pytest.raises(ValueError, match=r"kind: expected gaussian, .* got 'sparse'"):
        qjl.of_matrix(np.eye(2), "sparse")
    with pytest.raises(ValueError, match="matrix is not orthogonal"):
        qjl.of_matrix(np.ones((2, 2)), "orthogonal")


def test_where_the_sketch_comes_from():
    """Stream 1 + k of the seed, k = 0, 1, ..: never stream 0, which is the rotation's."""
    S = qjl.setup(5, 12, 7, sketch="gaussian").sketch.matrix()
    np.testing.assert_array_equal(S, generator.gaussians(7, 1, 60).reshape(12, 5))
    S = qjl.setup(5, 12, 7, sketch="orthogonal").sketch.matrix()
    blocks = [rotation.haar(5, 7, stream=1 + k).matrix() for k in range(3)]
    expected = math.sqrt(5) * np.concatenate(blocks)[:12]
    assert np.all(np.abs(S - expected) <= gamma(8, np.float64) * math.sqrt(5))
    np.testing.assert_array_equal(qjl.setup(5, rng=7).sketch.matrix(), generator.gaussians(7, 1, 25).reshape(5, 5))


@pytest.mark.parametrize("m", [1, 7, 16])
def test_rows_of_an_orthogonal_sketch(m):
    S = qjl.setup(7, m, 2, sketch="orthogonal").sketch.matrix()
    for start in range(0, m, 7):
        block = S[start : start + 7]
        np.testing.assert_array_less(np.abs(block @ block.T - 7 * np.eye(len(block))), 7 * gamma(40, np.float64))


@pytest.mark.parametrize("d", [2, 3, 7, 128, 1536])
def test_kappa(d):
    """The papers' constant on an orthogonal S overestimates by kappa_d = 1 + 1/(4d) + 1/(32 d^2) + O(d^-3)."""
    Q = qjl.setup(d, 1, 0, sketch="orthogonal", rotation="structured")
    kappa = math.sqrt(math.pi / 2) / Q.m / Q.sketch.constant
    # lgamma is right to a few ulp of its value, which is below d log d
    assert abs(kappa - theory.kappa(d)) <= 1e-14
    assert abs(Q.sketch.mu - mu(Q)) <= 8e-16 * d * math.log(d) + 4e-16
    assert abs(kappa - (1 + 1 / (4 * d) + 1 / (32 * d * d))) <= 2 * 5 / (128 * d**3) + 1e-15
    assert qjl.setup(d, 3, 0).sketch.constant == pytest.approx(math.sqrt(math.pi / 2) / 3, rel=4e-16)
    assert abs(math.sqrt(d) * sphere.Coordinate(d).mean_abs - math.sqrt(2 / math.pi) * kappa) <= 4e-16


# ------------------------------------------------------------------------------------ inner products and scale


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "blocks"), OPTIONS)
@pytest.mark.parametrize("m", [5, 24, 60])
def test_inner_product_is_that_of_the_decoded_vector(m, kind, blocks, dtype):
    d = 24
    rng = np.random.default_rng(4)
    Q = qjl.setup(d, m, 5, sketch=kind, rotation=blocks)
    for shape_x, shape_y in itertools.product(((), (5,), (2, 3)), ((), (4,), (3, 1))):
        x = rng.standard_normal((*shape_x, d)).astype(dtype)
        y = 30 * rng.standard_normal((*shape_y, d)).astype(dtype)
        code = qjl.quantize(Q, x)
        decoded = qjl.dequantize(Q, code).astype(np.float64).reshape(-1, d)
        expected = (y.reshape(-1, d).astype(np.float64) @ decoded.T).reshape(shape_y + shape_x)
        found = qjl.inner_product(Q, y, code)
        assert found.shape == expected.shape
        assert found.dtype == dtype
        terms = np.multiply.outer(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1))
        assert np.all(np.abs(found - expected) <= estimate_error(Q.sketch, dtype) * terms)


@pytest.mark.parametrize(("kind", "blocks"), OPTIONS)
@pytest.mark.parametrize("m", [5, 7, 16])
def test_weighted_sum_is_that_of_the_decoded_vectors(m, kind, blocks):
    x = rows(7)
    w = np.random.default_rng(0).random((3, len(x)))
    Q = qjl.setup(7, m, 5, sketch=kind, rotation=blocks)
    code = qjl.quantize(Q, x)
    found = qjl.to_original(Q, qjl.weighted_sum(Q, w, code))
    terms = (w * np.linalg.norm(x, axis=1)).sum(1, keepdims=True)
    bound = (
        2 * (estimate_error(Q.sketch, np.float64) + gamma(len(x) + 4, np.float64) * math.sqrt(7 * max(m, 7))) * terms
    )
    assert np.all(np.abs(found - w @ qjl.dequantize(Q, code)) <= bound)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "blocks"), OPTIONS)
def test_powers_of_two_pass_through_to_the_bit(kind, blocks, dtype):
    Q = qjl.setup(24, 30, 5, sketch=kind, rotation=blocks)
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((5, 24)).astype(dtype), rng.standard_normal((3, 24)).astype(dtype)
    code = qjl.quantize(Q, x)
    decoded, products = qjl.dequantize(Q, code), qjl.inner_product(Q, y, code)
    top = 100 if dtype is np.float64 else 60
    for k in (-top, -7, 1, top):
        scaled = qjl.quantize(Q, np.ldexp(x, k))
        np.testing.assert_array_equal(scaled.signs, code.signs)
        np.testing.assert_array_equal(qjl.dequantize(Q, scaled), np.ldexp(decoded, k))
        np.testing.assert_array_equal(qjl.inner_product(Q, np.ldexp(y, -k), scaled), products)


@pytest.mark.parametrize(("kind", "blocks"), OPTIONS)
def test_the_zero_vector(kind, blocks):
    Q = qjl.setup(7, 9, 5, sketch=kind, rotation=blocks)
    code = qjl.quantize(Q, np.array([[0.0] * 7, [-0.0] * 7, [1.0] * 7]))
    assert not qjl.dequantize(Q, code)[:2].any()
    assert not qjl.inner_product(Q, np.ones((2, 7)), code)[:, :2].any()
    assert qjl.inner_product(Q, np.ones((2, 7)), code)[:, 2].all()
    assert not qjl.inner_product(Q, np.zeros((2, 7)), code).any()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0), (2, 3)])
@pytest.mark.parametrize(("kind", "blocks"), OPTIONS)
def test_shapes(kind, blocks, shape):
    Q = qjl.setup(6, 11, 5, sketch=kind, rotation=blocks)
    code = qjl.quantize(Q, np.ones((*shape, 6)))
    assert (code.signs.shape, code.signs.dtype, code.norms.shape) == ((*shape, 11), np.uint8, shape)
    assert qjl.dequantize(Q, code).shape == (*shape, 6)
    assert qjl.inner_product(Q, np.ones((2, 6)), code).shape == (2, *shape)
    assert qjl.inner_product(Q, np.ones((0, 6)), code).shape == (0, *shape)
    packed = qjl.pack(Q, code)
    assert packed.data.shape == (*shape, 2 + 4)
    np.testing.assert_array_equal(qjl.unpack(Q, packed).signs, code.signs)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_does_not_know_its_batch(dtype):
    x = rows(50, dtype)
    Q = qjl.setup(50, 70, 8, sketch="orthogonal", rotation="structured")
    code, decoded = qjl.quantize(Q, x), qjl.dequantize(Q, qjl.quantize(Q, x))
    for i, row in enumerate(x):
        np.testing.assert_array_equal(qjl.quantize(Q, row).signs, code.signs[i])
        np.testing.assert_array_equal(qjl.dequantize(Q, qjl.quantize(Q, row)), decoded[i])


def test_a_seed_is_all_the_randomness():
    x = rows(7)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for kind, blocks in OPTIONS:
        first, again, other = (
            qjl.quantize(qjl.setup(7, 9, seed, sketch=kind, rotation=blocks), x) for seed in (4, 4, 5)
        )
        np.testing.assert_array_equal(first.signs, again.signs)
        assert first.fingerprint == again.fingerprint != other.fingerprint
        assert np.any(first.signs != other.signs)
    twin = int(np.random.default_rng(3).integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))
    assert qjl.setup(7, 9, np.random.default_rng(3)).fingerprint == qjl.setup(7, 9, twin).fingerprint
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("scalars", packing.SCALARS)
@pytest.mark.parametrize("m", [1, 7, 8, 9, 20])
def test_pack_and_back(m, scalars):
    x = rows(7)
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[scalars]
    Q = qjl.setup(7, m, 1)
    code = qjl.quantize(Q, x)
    packed = qjl.pack(Q, code, scalars)
    assert packed.bytes_per_vector == Q.bytes_per_vector(scalars) == -(-m // 8) + packing.SCALARS[scalars]
    back = qjl.unpack(Q, packed)
    np.testing.assert_array_equal(back.signs, code.signs)
    assert np.all(np.abs(back.norms - code.norms) <= u * code.norms)
    np.testing.assert_array_equal(qjl.pack(Q, back, scalars).data, packed.data)
    assert Q.stored_bits == 8 * (-(-m // 8) + 4) / 7


def test_trace_is_quantize_and_dequantize():
    x = rows(7)
    for kind, blocks in OPTIONS:
        Q = qjl.setup(7, 9, 4, sketch=kind, rotation=blocks)
        steps, code = qjl.trace(Q, x), qjl.quantize(Q, x)
        assert list(steps) == ["x", "norm", "unit", "projection", "signs", "decoded"]
        np.testing.assert_array_equal(steps["signs"], code.signs)
        np.testing.assert_array_equal(steps["norm"], code.norms)
        np.testing.assert_array_equal(steps["decoded"], qjl.dequantize(Q, code))


# ------------------------------------------------------------------------------------ means and variances


def test_slope():
    _checks.qjl_slope()


@pytest.mark.parametrize("kind", qjl.SKETCHES)
@pytest.mark.parametrize(("d", "m"), [(7, 3), (7, 7), (7, 17)])
def test_unbiased_with_the_variance_of_theory(d, m, kind):
    """E <y, x~> = <y, x>, and Var by closed form, for one x and y at <x, y> = 0, 0.6 and 1, over draws of S."""
    draws = 3000
    x = np.array([1, -2, 0, 0, 3, 0, 0]) / math.sqrt(14)
    across = np.array([2, 1, 0, 0, 0, 0, 0]) / math.sqrt(5)
    y = np.stack([across, 0.6 * x + 0.8 * across, x])
    found = np.empty((draws, 3))
    for seed in range(draws):
        Q = qjl.setup(d, m, seed, sketch=kind)
        found[seed] = qjl.inner_product(Q, y, qjl.quantize(Q, x))
    law = theory.qjl(d, m, kind)
    for i, rho in enumerate((0.0, 0.6, 1.0)):
        label = f"QJL, {kind}, d = 7, m = {m}, rho = {rho}"
        expect(found[:, i], rho, f"mean, {label}", detects=0.15)
        value = law.variance(rho)
        if kind == "gaussian":
            assert value == pytest.approx((math.pi / 2 - rho**2) / m, rel=1e-14)
        expect((found[:, i] - rho) ** 2, value, f"Var, {label}", detects=0.35 * value)


def test_m_bits_a_coordinate():
    """measure takes b d signs for b bits, and the variance falls as 1 / b."""
    x = _checks.normal_rows(48, 8)
    for bits, kind in itertools.product((1, 3), qjl.SKETCHES):
        value = theory.variance("qjl", 8, bits, 0.5, sketch=kind)
        found = measure.variance("qjl", x, bits, 0.5, draws=400, sketch=kind)
        expect(found, value, f"Var QJL, {kind}, d = 8, m = {8 * bits}, rho = 0.5", detects=0.25 * value)
