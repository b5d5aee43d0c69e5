"""Algorithm 2 against its box, and its unbiasedness and variance against theory."""

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
from test_qjl import estimate_error, projection_error

from turboquant_ref import codebook, measure, mse, packing, prod, qjl, rotation, sphere, theory

FLOATS = (np.float32, np.float64)
OPTIONS = list(itertools.product(("haar", "structured"), qjl.SKETCHES, prod.RESIDUALS))


def residual_error(Q: prod.Quantizer, dtype: type) -> float:
    """How far in norm a residual can be: Pi^T q by sqrt(d) rotation_error times ||q|| < 1.5, u by 4 roundings."""
    return 1.5 * math.sqrt(Q.d) * rotation_error(Q.rotation, dtype) + gamma(6, dtype)


def decoding_error(Q: prod.Quantizer, dtype: type) -> float:
    """Of a decoded unit vector, or of its product with another: both stages, and gamma < 1.5 and its error."""
    return (
        2 * residual_error(Q, dtype) * (1 + sketch_norm(Q))
        + 1.5 * estimate_error(Q.sketch, dtype)
        + gamma(Q.d + 12, dtype)
    )


def sketch_norm(Q: prod.Quantizer) -> float:
    """The most that ||S^T s|| / (m mu) can be for signs s."""
    return float(Q.sketch.constant * math.sqrt(Q.m) * np.linalg.norm(Q.sketch.matrix(), 2))


# ------------------------------------------------------------------------------------ the box


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
@pytest.mark.parametrize(("d", "m"), [(2, 2), (7, 4), (7, 7), (16, 20)])
def test_against_the_box(d, m, kind, sketch, residual, dtype):
    x = rows(d, dtype)
    for bits in (1, 2, 4):
        Q = prod.setup(d, bits, 3, kind, sketch, residual, m)
        assert (Q.d, Q.m, Q.bits, Q.codebook.bits) == (d, m, bits, bits - 1)
        Pi, S = Q.rotation.matrix(), Q.sketch.matrix()
        D = theory.distortion("mse", d, bits - 1) if bits > 1 else 1.0
        steps, decoded = prod.trace(Q, x), prod.dequantize(Q, prod.quantize(Q, x))
        margin = projection_error(Q.sketch, dtype) * 1.5 + np.linalg.norm(S, axis=1) * residual_error(Q, dtype)
        near = 0
        for i, row in enumerate(x):
            z = _boxes.times(Pi, _boxes.split(row)[1])
            boundaries = Q.codebook.boundaries.astype(dtype)
            near += _boxes.check_codes(
                steps["indices"][i], z, boundaries, rotation_error(Q.rotation, dtype), f"row {i}"
            )
            signs = 2 * steps["signs"][i].astype(int) - 1
            box = _boxes.prod(Pi, Q.codebook.centroids, S, Q.sketch.mu, row, steps["indices"][i], signs)
            if not row.any():
                assert not decoded[i].any()
                continue
            near += _boxes.check_codes(steps["signs"][i], box["projection"], [0.0], margin, f"row {i}")
            if residual == "stored":
                assert abs(steps["residual_norm"][i] - box["gamma"]) <= residual_error(Q, dtype) + gamma(6, dtype)
            else:
                assert abs(steps["residual_norm"][i] - math.sqrt(D)) <= gamma(2, dtype)
                first = np.array(_boxes.transposed_times(Pi, [Q.codebook.centroids[k] for k in steps["indices"][i]]))
                second = np.array(_boxes.transposed_times(S, signs)) / (m * Q.sketch.mu)
                box["decoded"] = _boxes.split(row)[0] * (first + math.sqrt(D) * second)
            assert math.dist(decoded[i].tolist(), box["decoded"]) <= decoding_error(Q, dtype) * _boxes.split(row)[0]
        assert near <= d + m + (0.02 * x.size if dtype is np.float32 else 2 * d)


@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
@pytest.mark.parametrize("m", [4, 7, 11])
def test_one_bit_is_qjl(m, kind, sketch, residual):
    """At b = 1 the first stage is empty, to the bit, and no residual norm is stored."""
    x, y = rows(7), rows(7)[:3]
    P = prod.setup(7, 1, 5, kind, sketch, residual, m)
    Q = qjl.setup(7, m, 5, sketch, kind)
    p, q = prod.quantize(P, x), qjl.quantize(Q, x)
    np.testing.assert_array_equal(p.signs, q.signs)
    np.testing.assert_array_equal(p.norms, q.norms)
    np.testing.assert_array_equal(p.residual_norms, q.norms > 0)
    assert not p.indices.any()
    np.testing.assert_array_equal(prod.dequantize(P, p), qjl.dequantize(Q, q))
    np.testing.assert_array_equal(prod.inner_product(P, y, p), qjl.inner_product(Q, y, q))
    np.testing.assert_array_equal(prod.pack(P, p).data, qjl.pack(Q, q).data)


@pytest.mark.parametrize("kind", ["haar", "structured"])
def test_the_first_stage_is_algorithm_1_at_one_bit_less(kind):
    x = rows(16)
    P, Q = prod.setup(16, 3, 5, kind), mse.setup(16, 2, 5, kind)
    p, q = prod.trace(P, x), mse.trace(Q, x)
    for name in ("norm", "unit", "rotated", "indices", "centroids"):
        np.testing.assert_array_equal(p[name], q[name])
    np.testing.assert_array_equal(p["stage1"], q["unrotated"])
    np.testing.assert_array_equal(p["residual"][:7], (p["unit"] - p["stage1"])[:7])
    assert not p["residual"][7].any()


def test_a_residual_of_zero():
    """A vector that is its own code: ||r|| = 0, signs of 0 are +1, and it is decoded exactly."""
    book = codebook.of_centroids(sphere.law(4), np.array([-0.5, 0.5]))
    Q = prod.Quantizer(rotation.Dense(np.eye(4)), book, qjl.of_matrix(np.eye(4)))
    x = np.array([3.0, -3, 3, -3])
    code = prod.quantize(Q, x)
    assert (code.residual_norms, code.norms) == (0, 6)
    assert code.signs.tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(prod.dequantize(Q, code), x)
    np.testing.assert_array_equal(prod.unpack(Q, prod.pack(Q, code)).residual_norms, 0)


def test_parts_of_different_dimensions():
    with pytest.raises(ValueError, match="sketch: expected dimension 4, got 5"):
        prod.Quantizer(rotation.haar(4, 0), codebook.lloyd_max(4, 1), qjl.setup(5).sketch)


# ------------------------------------------------------------------------------------ inner products and scale


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
@pytest.mark.parametrize("m", [9, 24])
def test_inner_product_is_that_of_the_decoded_vector(m, kind, sketch, residual, dtype):
    d = 24
    rng = np.random.default_rng(4)
    Q = prod.setup(d, 3, 5, kind, sketch, residual, m)
    for shape_x, shape_y in itertools.product(((), (5,), (2, 3)), ((), (4,), (3, 1))):
        x = rng.standard_normal((*shape_x, d)).astype(dtype)
        y = 30 * rng.standard_normal((*shape_y, d)).astype(dtype)
        code = prod.quantize(Q, x)
        decoded = prod.dequantize(Q, code).astype(np.float64).reshape(-1, d)
        expected = (y.reshape(-1, d).astype(np.float64) @ decoded.T).reshape(shape_y + shape_x)
        found = prod.inner_product(Q, y, code)
        assert found.shape == expected.shape
        assert found.dtype == dtype
        terms = np.multiply.outer(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1))
        assert np.all(np.abs(found - expected) <= decoding_error(Q, dtype) * terms)


@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
def test_weighted_sum_is_that_of_the_decoded_vectors(kind, sketch, residual):
    x = rows(7)
    w = np.random.default_rng(0).random((3, len(x)))
    Q = prod.setup(7, 3, 5, kind, sketch, residual)
    code = prod.quantize(Q, x)
    found = prod.to_original(Q, prod.weighted_sum(Q, w, code))
    terms = (w * np.linalg.norm(x, axis=1)).sum(1, keepdims=True)
    bound = 2 * (decoding_error(Q, np.float64) + gamma(len(x) + 4, np.float64) * (1.5 + 1.5 * sketch_norm(Q))) * terms
    assert np.all(np.abs(found - w @ prod.dequantize(Q, code)) <= bound)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
def test_powers_of_two_pass_through_to_the_bit(kind, sketch, residual, dtype):
    Q = prod.setup(24, 3, 5, kind, sketch, residual)
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((5, 24)).astype(dtype), rng.standard_normal((3, 24)).astype(dtype)
    code = prod.quantize(Q, x)
    decoded, products = prod.dequantize(Q, code), prod.inner_product(Q, y, code)
    top = 100 if dtype is np.float64 else 60
    for k in (-top, -7, 1, top):
        scaled = prod.quantize(Q, np.ldexp(x, k))
        np.testing.assert_array_equal(scaled.indices, code.indices)
        np.testing.assert_array_equal(scaled.signs, code.signs)
        np.testing.assert_array_equal(scaled.residual_norms, code.residual_norms)
        np.testing.assert_array_equal(prod.dequantize(Q, scaled), np.ldexp(decoded, k))
        np.testing.assert_array_equal(prod.inner_product(Q, np.ldexp(y, -k), scaled), products)


@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
def test_the_zero_vector(kind, sketch, residual):
    for bits in (1, 3):
        Q = prod.setup(7, bits, 5, kind, sketch, residual)
        code = prod.quantize(Q, np.array([[0.0] * 7, [-0.0] * 7, [1.0] * 7]))
        assert code.residual_norms[0] == code.norms[0] == 0
        assert not prod.dequantize(Q, code)[:2].any()
        assert not prod.inner_product(Q, np.ones((2, 7)), code)[:, :2].any()
        assert not prod.inner_product(Q, np.zeros((2, 7)), code).any()
        back = prod.unpack(Q, prod.pack(Q, code))
        assert not prod.dequantize(Q, back)[:2].any()
        assert prod.dequantize(Q, back)[2].any()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0), (2, 3)])
@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
def test_shapes(kind, sketch, residual, shape):
    Q = prod.setup(6, 3, 5, kind, sketch, residual, m=11)
    code = prod.quantize(Q, np.ones((*shape, 6)))
    assert (code.indices.shape, code.signs.shape) == ((*shape, 6), (*shape, 11))
    assert code.norms.shape == code.residual_norms.shape == shape
    assert prod.dequantize(Q, code).shape == (*shape, 6)
    assert prod.inner_product(Q, np.ones((2, 6)), code).shape == (2, *shape)
    packed = prod.pack(Q, code)
    assert packed.data.shape == (*shape, 2 + 2 + (8 if residual == "stored" else 4))
    np.testing.assert_array_equal(prod.unpack(Q, packed).signs, code.signs)


@pytest.mark.parametrize(
    ("dtype", "computed"), [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i1", "f8"), ("i8", "f8"), ("u2", "f8")]
)
def test_dtypes(dtype, computed):
    x = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    for residual in prod.RESIDUALS:
        Q = prod.setup(5, 3, 8, "structured", "orthogonal", residual)
        code, expected = prod.quantize(Q, x.astype(dtype)), prod.quantize(Q, x.astype(computed))
        assert code.norms.dtype == code.residual_norms.dtype == np.dtype(computed)
        for name in ("indices", "signs", "norms", "residual_norms"):
            np.testing.assert_array_equal(getattr(code, name), getattr(expected, name))
        assert prod.dequantize(Q, code).dtype == np.dtype(computed)
        assert prod.inner_product(Q, x.astype(dtype), code).dtype == np.dtype(computed)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_does_not_know_its_batch_nor_its_layout(dtype):
    x = rows(50, dtype)
    Q = prod.setup(50, 3, 8, "structured", "orthogonal")
    code, decoded = prod.quantize(Q, np.asfortranarray(x)), prod.dequantize(Q, prod.quantize(Q, x))
    for i, row in enumerate(x):
        alone = prod.quantize(Q, row)
        for name in ("indices", "signs", "norms", "residual_norms"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(code, name)[i])
        np.testing.assert_array_equal(prod.dequantize(Q, alone), decoded[i])


def test_a_seed_is_all_the_randomness():
    x = rows(7)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for options in OPTIONS:
        first, again, other = (prod.quantize(prod.setup(7, 3, seed, *options), x) for seed in (4, np.int64(4), 5))
        for name in ("indices", "signs", "norms", "residual_norms"):
            np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert first.fingerprint == again.fingerprint != other.fingerprint
        assert np.any(first.signs != other.signs)
    twin = int(np.random.default_rng(3).integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True))
    assert prod.setup(7, 3, np.random.default_rng(3)).fingerprint == prod.setup(7, 3, twin).fingerprint
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_rotation_and_sketch_are_independent():
    """Their streams differ, for an orthogonal S too: Pi S^T / sqrt(d) is not the identity."""
    Q = prod.setup(7, 3, 5, sketch="orthogonal")
    overlap = Q.rotation.matrix() @ Q.sketch.matrix().T / math.sqrt(7)
    assert np.abs(np.abs(overlap).max(axis=0) - 1).min() > 1e-3


# ------------------------------------------------------------------------------------ pack, unpack, trace


@pytest.mark.parametrize("scalars", packing.SCALARS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_pack_and_back(bits, scalars):
    x = rows(7)
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[scalars]
    for sketch, residual, m in itertools.product(qjl.SKETCHES, prod.RESIDUALS, (4, 7, 11)):
        Q = prod.setup(7, bits, 1, "structured", sketch, residual, m)
        code = prod.quantize(Q, x)
        packed = prod.pack(Q, code, scalars)
        scalars_stored = 2 if residual == "stored" and bits > 1 else 1
        size = (7 * (bits - 1) + 7) // 8 + (m + 7) // 8 + scalars_stored * packing.SCALARS[scalars]
        assert packed.bytes_per_vector == Q.bytes_per_vector(scalars) == size
        back = prod.unpack(Q, packed)
        np.testing.assert_array_equal(back.indices, code.indices)
        np.testing.assert_array_equal(back.signs, code.signs)
        assert np.all(np.abs(back.norms - code.norms) <= u * code.norms)
        # what is not stored comes back as a float32 unless norms do not
        assert np.all(np.abs(back.residual_norms - code.residual_norms) <= max(u, 2.0**-24) * code.residual_norms)
        np.testing.assert_array_equal(prod.pack(Q, back, scalars).data, packed.data)
    assert Q.stored_bits == 8 * Q.bytes_per_vector() / 7


def test_size():
    _checks.prod_size()


@pytest.mark.parametrize(("kind", "sketch", "residual"), OPTIONS)
def test_trace_is_quantize_and_dequantize(kind, sketch, residual):
    x = rows(16)
    Q = prod.setup(16, 3, 4, kind, sketch, residual)
    steps, code = prod.trace(Q, x), prod.quantize(Q, x)
    assert list(steps) == [
        "x",
        "norm",
        "unit",
        "rotated",
        "indices",
        "centroids",
        "stage1",
        "residual",
        "residual_norm",
        "projection",
        "signs",
        "decoded",
    ]
    for name, of_code in (
        ("indices", "indices"),
        ("signs", "signs"),
        ("norm", "norms"),
        ("residual_norm", "residual_norms"),
    ):
        np.testing.assert_array_equal(steps[name], getattr(code, of_code))
    np.testing.assert_array_equal(steps["decoded"], prod.dequantize(Q, code))


# ------------------------------------------------------------------------------------ means and variances


def test_slope():
    _checks.prod_slope()


def test_variance():
    _checks.prod_variance()


@pytest.mark.parametrize(("sketch", "residual"), list(itertools.product(qjl.SKETCHES, prod.RESIDUALS)))
@pytest.mark.parametrize(("d", "bits"), [(6, 2), (16, 3)])
def test_against_theory(d, bits, sketch, residual):
    x = _checks.normal_rows(64, d)
    options = {"sketch": sketch, "residual": residual}
    label = f"prod, {sketch}, {residual}, d = {d}, b = {bits}"
    D = theory.distortion("prod", d, bits, **options)
    expect(measure.distortion("prod", x, bits, draws=300, **options), D, f"D, {label}", detects=0.2 * D)
    slope = theory.slope("prod", d, bits, **options)
    expect(measure.slope("prod", x, bits, draws=200, **options), slope, f"slope, {label}", detects=0.06)
    for rho in (0.0, 1.0):
        value = theory.variance("prod", d, bits, rho, **options)
        found = measure.variance("prod", x, bits, rho, draws=500, **options)
        expect(found, value, f"Var, rho = {rho:g}, {label}", detects=0.35 * value)


@pytest.mark.parametrize("sketch", qjl.SKETCHES)
def test_unbiased_coordinate_by_coordinate(sketch):
    """Theorem 2: E x~ = x for each x; m need not be d, nor Pi Haar, for Gaussian S."""
    x = np.array([[1, 0, 0, 0, 0], [0, 0.6, 0, 0, -0.8], np.full(5, 5**-0.5)])
    for m, kind in ((5, "haar"), (3, "haar"), (8, "structured")):
        if sketch == "orthogonal" and kind == "structured":
            continue  # its blocks are not Haar: unbiased only as far as they mix
        found = np.empty((1200, 3, 5))
        for seed in range(len(found)):
            Q = prod.setup(5, 2, seed, kind, sketch, m=m)
            found[seed] = prod.dequantize(Q, prod.quantize(Q, x))
        for i, j in itertools.product(range(3), range(5)):
            label = f"E x~ of x_{i}, coordinate {j}, prod, {sketch}, {kind}, d = 5, m = {m}"
            expect(found[:, i, j], x[i, j], label, detects=0.2)
