"""Algorithm 1 against its box, its scales against their definitions, its means and variances against theory."""

from __future__ import annotations

import itertools
import math

import _boxes
import _checks
import numpy as np
import pytest
from _boxes import gamma, rotation_error
from _stats import expect

import turboquant_ref as tq
from turboquant_ref import codebook, measure, mse, packing, rotation, theory
from turboquant_ref.vectors import norm_and_unit

ROTATIONS = ("haar", "structured")
FLOATS = (np.float32, np.float64)
DIMENSIONS = (2, 3, 7, 16, 50)


def rows(d: int, dtype: type = np.float64) -> np.ndarray:
    """Dense, one-hot, constant, two-hot and zero rows of several norms."""
    rng = np.random.default_rng(d)
    x = np.concatenate([rng.standard_normal((4, d)) * [[1], [1e-3], [70], [1e4]], np.zeros((4, d))])
    x[4, d // 2], x[5], x[6, 0], x[6, -1] = -3, 0.25, 1, 1
    return x.astype(dtype)


def slack(Q: mse.Quantizer, dtype: type) -> float:
    """Relative rounding error of a scale or a decoded vector.

    z is right to e = rotation_error a coordinate, hence to sqrt(d) e in norm; <z,q> and ||q||^2 to d + 2 roundings
    more, and ||q|| <= 2 <z,q> in every codebook (cos >= 1/2).  Four such errors at most come together.
    """
    return 4 * (2 * math.sqrt(Q.d) * rotation_error(Q.rotation, dtype) + gamma(Q.d + 12, dtype))


# ------------------------------------------------------------------------------------ the box


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_against_the_box(d, kind, dtype):
    x = rows(d, dtype)
    for bits, scale in itertools.product((1, 2, 5, 8), mse.SCALES):
        Q = mse.setup(d, bits, 11, rotation=kind, scale=scale)
        Pi, margin = Q.rotation.matrix(), rotation_error(Q.rotation, dtype)
        steps, decoded = mse.trace(Q, x), mse.dequantize(Q, mse.quantize(Q, x))
        near = 0
        for i, row in enumerate(x):
            z = _boxes.times(Pi, _boxes.split(row)[1])
            np.testing.assert_array_less(np.abs(steps["rotated"][i] - z), margin)
            # the boundaries are cast to the dtype of z
            near += _boxes.check_codes(steps["indices"][i], z, Q.codebook.boundaries.astype(dtype), margin, f"row {i}")
            box = _boxes.mse(Pi, Q.codebook.centroids, row, scale, steps["indices"][i])
            assert abs(steps["scale"][i] - box["scale"]) <= slack(Q, dtype) * abs(box["scale"])
            error = math.dist(decoded[i].tolist(), box["decoded"])
            assert error <= slack(Q, dtype) * math.hypot(*box["decoded"])
        # the zero row is on the boundary 0; of the others rounding decides next to nothing
        assert near <= d + (0.02 * x.size if dtype is np.float32 else 2 * d)


@pytest.mark.parametrize("d", [3, 16])
def test_a_box_that_rounds_nothing_is_met_to_the_bit(d):
    """Indices from the literal argmin, with Pi = 1 and coordinates that no boundary is near."""
    for bits in range(1, 9):
        Q = mse.Quantizer(rotation.Dense(np.eye(d)), codebook.lloyd_max(d, bits))
        x = np.random.default_rng(bits).standard_normal((20, d))
        unit = norm_and_unit(x)[1]
        expected = [[_boxes.argmin(Q.codebook.centroids, t) for t in row] for row in unit]
        np.testing.assert_array_equal(mse.quantize(Q, x).indices, expected)


def test_ties():
    _checks.ties()


def test_a_boundary_in_float32_is_the_cast_one():
    """The neighbours of a boundary in the compute dtype lie on its two sides."""
    book = codebook.lloyd_max(128, 4)
    for dtype in FLOATS:
        b = book.boundaries.astype(dtype)
        for at, expected in ((b, np.arange(1, 16)), (np.nextafter(b, dtype(-1)), np.arange(15))):
            np.testing.assert_array_equal(codebook.nearest(book, at), expected)
        assert codebook.nearest(book, np.array([0.0, -0.0], dtype)).tolist() == [8, 8]


# ------------------------------------------------------------------------------------ the four scales


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_the_scales_by_their_definition(bits, kind, dtype):
    x = rows(50, dtype)[:7]
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    for scale in mse.SCALES:
        Q = mse.setup(50, bits, 3, rotation=kind, scale=scale)
        x_hat = mse.dequantize(Q, mse.quantize(Q, x)).astype(np.float64)
        exact = x.astype(np.float64)
        of_definition = {
            "norm": lambda: mse.quantize(Q, x).scales / norms - 1,  # noqa: B023
            "matched": lambda: np.linalg.norm(x_hat, axis=1) / norms - 1,  # noqa: B023
            "least_squares": lambda: ((exact - x_hat) * x_hat).sum(1) / norms**2,  # noqa: B023
            "unbiased": lambda: (exact * x_hat).sum(1) / norms**2 - 1,  # noqa: B023
        }[scale]()
        np.testing.assert_array_less(np.abs(of_definition), 2 * slack(Q, dtype), err_msg=scale)


def test_matched_norm():
    _checks.matched_norm()


def test_least_squares_is_the_least():
    x = rows(16)[:7]
    error = {}
    for scale in mse.SCALES:
        Q = mse.setup(16, 2, 9, scale=scale)
        error[scale] = np.linalg.norm(x - mse.dequantize(Q, mse.quantize(Q, x)), axis=1)
    for scale in mse.SCALES:
        assert np.all(error["least_squares"] <= error[scale] * (1 + 1e-14))


def test_only_the_scale_differs():
    x = rows(16)
    codes = [mse.quantize(mse.setup(16, 3, 9, scale=scale), x) for scale in mse.SCALES]
    for code in codes[1:]:
        np.testing.assert_array_equal(code.indices, codes[0].indices)
    assert len({code.fingerprint for code in codes}) == 4


# ------------------------------------------------------------------------------------ inner products


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float64, np.float64), (np.float32, np.float64)])
@pytest.mark.parametrize("kind", ROTATIONS)
def test_inner_product_is_that_of_the_decoded_vector(kind, dtypes):
    d = 24
    rng = np.random.default_rng(4)
    for scale, shape_x, shape_y in itertools.product(mse.SCALES, ((), (5,), (2, 3)), ((), (4,), (3, 1))):
        Q = mse.setup(d, 3, 5, rotation=kind, scale=scale)
        x = rng.standard_normal((*shape_x, d)).astype(dtypes[0])
        y = 30 * rng.standard_normal((*shape_y, d)).astype(dtypes[1])
        code = mse.quantize(Q, x)
        decoded = mse.dequantize(Q, code).astype(np.float64).reshape(-1, d)
        expected = (y.reshape(-1, d).astype(np.float64) @ decoded.T).reshape(shape_y + shape_x)
        found = mse.inner_product(Q, y, code)
        assert found.shape == expected.shape
        assert found.dtype == np.result_type(*dtypes)
        # both sides rotate once (sqrt(d) e in norm) and sum d products, of vectors of norms ||y|| and scale ||q||
        terms = np.multiply.outer(np.linalg.norm(y, axis=-1), np.linalg.norm(decoded, axis=-1).reshape(shape_x))
        bound = (
            2 * math.sqrt(d) * rotation_error(Q.rotation, np.float32 if np.float32 in dtypes else np.float64)
            + 2 * gamma(d + 12, np.float32 if np.float32 in dtypes else np.float64)
        ) * terms
        np.testing.assert_array_less(np.abs(found - expected), bound)


def test_weighted_sum_is_that_of_the_decoded_vectors():
    x = rows(16)
    w = np.random.default_rng(0).random((3, len(x)))
    for scale, kind in itertools.product(mse.SCALES, ROTATIONS):
        Q = mse.setup(16, 3, 5, rotation=kind, scale=scale)
        code = mse.quantize(Q, x)
        found = mse.to_original(Q, mse.weighted_sum(Q, w, code))
        decoded = mse.dequantize(Q, code)
        # sums of n products of norm at most sum w ||x~||, rotated once on either side
        terms = (w * np.linalg.norm(decoded, axis=1)).sum(1, keepdims=True)
        bound = (2 * 4 * rotation_error(Q.rotation, np.float64) + 2 * gamma(len(x) + 4, np.float64)) * terms
        assert np.all(np.abs(found - w @ decoded) <= bound)


# ------------------------------------------------------------------------------------ scale, zeros, shapes, dtypes


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", mse.SCALES)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_powers_of_two_pass_through_to_the_bit(kind, scale, dtype):
    """60 decades in float64 and 36 in float32: no square is ever formed that could overflow or vanish."""
    Q = mse.setup(24, 3, 5, rotation=kind, scale=scale)
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((5, 24)).astype(dtype), rng.standard_normal((3, 24)).astype(dtype)
    code = mse.quantize(Q, x)
    decoded, products = mse.dequantize(Q, code), mse.inner_product(Q, y, code)
    top = 100 if dtype is np.float64 else 60
    for k in (-top, -7, 1, top):
        scaled = mse.quantize(Q, np.ldexp(x, k))
        np.testing.assert_array_equal(scaled.indices, code.indices)
        np.testing.assert_array_equal(scaled.scales, np.ldexp(code.scales, k))
        np.testing.assert_array_equal(mse.dequantize(Q, scaled), np.ldexp(decoded, k))
        np.testing.assert_array_equal(mse.inner_product(Q, np.ldexp(y, -k), scaled), products)
        np.testing.assert_array_equal(mse.inner_product(Q, np.ldexp(y, k), code), np.ldexp(products, k))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", mse.SCALES)
@pytest.mark.parametrize("kind", ROTATIONS)
def test_the_zero_vector(kind, scale, dtype):
    Q = mse.setup(7, 2, 5, rotation=kind, scale=scale)
    x = np.zeros((3, 7), dtype)
    x[1], x[2, 3] = -0.0, 1
    code = mse.quantize(Q, x)
    assert code.scales[0] == code.scales[1] == 0 < code.scales[2]
    decoded = mse.dequantize(Q, code)
    assert not decoded[:2].any()
    assert decoded[2].any()
    assert not mse.inner_product(Q, np.ones((2, 7), dtype), code)[:, :2].any()
    assert not mse.inner_product(Q, np.zeros((2, 7), dtype), code).any()
    assert not mse.dequantize(Q, mse.unpack(Q, mse.pack(Q, code)))[:2].any()


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 0), (0, 3), (2, 3, 4)])
def test_shapes(shape):
    Q = mse.setup(6, 3, 5, scale="matched")
    code = mse.quantize(Q, np.ones((*shape, 6)))
    assert code.indices.shape == (*shape, 6)
    assert code.indices.dtype == np.uint8
    assert code.scales.shape == shape
    assert mse.dequantize(Q, code).shape == (*shape, 6)
    assert mse.inner_product(Q, np.ones((2, 6)), code).shape == (2, *shape)
    assert mse.inner_product(Q, np.ones((0, 6)), code).shape == (0, *shape)
    packed = mse.pack(Q, code)
    assert packed.data.shape == (*shape, 3 * 6 // 8 + 1 + 4)
    assert mse.unpack(Q, packed).scales.shape == shape
    assert mse.trace(Q, np.ones((*shape, 6)))["decoded"].shape == (*shape, 6)


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), (">f4", "f4")] + [(k + n, "f8") for k in "iu" for n in "1248"],
)
def test_dtypes(dtype, computed):
    x = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    Q = mse.setup(5, 3, 8, rotation="structured", scale="unbiased")
    code, expected = mse.quantize(Q, x.astype(dtype)), mse.quantize(Q, x.astype(computed))
    assert code.scales.dtype == np.dtype(computed)
    np.testing.assert_array_equal(code.indices, expected.indices)
    np.testing.assert_array_equal(code.scales, expected.scales)
    assert mse.dequantize(Q, code).dtype == np.dtype(computed)
    assert mse.inner_product(Q, x.astype(dtype), code).dtype == np.dtype(computed)


def test_layouts_and_that_the_input_is_left_alone():
    wide = np.random.default_rng(3).standard_normal((8, 12))
    Q = mse.setup(6, 3, 8, rotation="structured", scale="matched")
    for view in (wide[::2, ::2], wide[:, ::-2], np.asfortranarray(wide[:, :6]), wide.T[:6].T):
        before = view.copy()
        view.flags.writeable = False
        code, expected = mse.quantize(Q, view), mse.quantize(Q, before)
        np.testing.assert_array_equal(code.indices, expected.indices)
        np.testing.assert_array_equal(code.scales, expected.scales)
        mse.inner_product(Q, view, code)
        np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scale", mse.SCALES)
def test_a_row_does_not_know_its_batch(scale, dtype):
    """To the bit with a structured rotation; with a dense one the code rule says how far two runs may differ."""
    x = rows(50, dtype)
    Q = mse.setup(50, 4, 8, rotation="structured", scale=scale)
    code, decoded = mse.quantize(Q, x), mse.dequantize(Q, mse.quantize(Q, x))
    for i, row in enumerate(x):
        alone = mse.quantize(Q, row)
        np.testing.assert_array_equal(alone.indices, code.indices[i])
        np.testing.assert_array_equal(alone.scales, code.scales[i])
        np.testing.assert_array_equal(mse.dequantize(Q, alone), decoded[i])
    H = mse.setup(50, 4, 8, scale=scale)
    steps = mse.trace(H, x[:7])
    for i, row in enumerate(x[:7]):
        margin = 2 * rotation_error(H.rotation, dtype)
        boundaries = H.codebook.boundaries.astype(dtype)
        _boxes.check_codes(mse.quantize(H, row).indices, steps["rotated"][i], boundaries, margin, f"row {i}")


# ------------------------------------------------------------------------------------ randomness


@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_seed_is_all_the_randomness(kind):
    x = rows(7)
    before = np.random.get_state()  # noqa: NPY002
    first, again = (mse.quantize(mse.setup(7, 3, 2**64 - 1, rotation=kind), x) for _ in range(2))
    other = mse.quantize(mse.setup(7, 3, 0, rotation=kind), x)
    after = np.random.get_state()  # noqa: NPY002
    np.testing.assert_array_equal(first.indices, again.indices)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert np.any(first.indices != other.indices)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_generator_gives_one_seed(kind):
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    seeds = [int(twin.integers(0, 2**64 - 1, dtype=np.uint64, endpoint=True)) for _ in range(2)]
    drawn = [mse.setup(7, 3, rng, rotation=kind) for _ in range(2)]
    for Q, seed in zip(drawn, seeds, strict=True):
        assert Q.fingerprint == mse.setup(7, 3, seed, rotation=kind).fingerprint
    assert drawn[0].fingerprint != drawn[1].fingerprint


def test_fingerprints_name_everything():
    made = [
        mse.setup(8, bits, seed, rotation=kind, scale=scale).fingerprint
        for bits, seed, kind, scale in itertools.product((1, 2), (0, 1), ROTATIONS, mse.SCALES)
    ]
    made += [tq.qjl.setup(8, 8, 0).fingerprint, tq.prod.setup(8, 2, 0).fingerprint, mse.setup(9, 1, 0).fingerprint]
    given = rotation.Dense(rotation.haar(8, 0).matrix())
    made += [
        mse.Quantizer(given, codebook.lloyd_max(8, 1)).fingerprint,
        mse.Quantizer(given, codebook.lloyd_max(9, 1)).fingerprint,
    ]
    assert len(set(made)) == len(made)
    assert all(len(name) == 8 for name in made)


# ------------------------------------------------------------------------------------ pack, unpack, trace


@pytest.mark.parametrize("scalars", packing.SCALARS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_pack_and_back(bits, scalars):
    x = rows(7)
    u = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[scalars]
    for scale in mse.SCALES:
        Q = mse.setup(7, bits, 1, scale=scale)
        code = mse.quantize(Q, x)
        packed = mse.pack(Q, code, scalars)
        assert packed.bytes_per_vector == Q.bytes_per_vector(scalars) == (7 * bits + 7) // 8 + packing.SCALARS[scalars]
        back = mse.unpack(Q, packed)
        np.testing.assert_array_equal(back.indices, code.indices)
        assert np.all(np.abs(back.scales - code.scales) <= u * code.scales)
        np.testing.assert_array_equal(mse.pack(Q, back, scalars).data, packed.data)
        if scalars == "float64":
            np.testing.assert_array_equal(mse.dequantize(Q, back), mse.dequantize(Q, code))


def test_stored_bits_count_everything():
    Q = mse.setup(50, 3, 0)
    assert Q.bytes_per_vector() == 19 + 4  # 150 bits fill 18.75 bytes
    assert Q.stored_bits == 8 * 23 / 50
    packed = mse.pack(Q, mse.quantize(Q, np.ones((6, 50))))
    assert packed.nbytes == len(packed.data.tobytes()) == 6 * 23


@pytest.mark.parametrize("kind", ROTATIONS)
def test_trace_is_quantize_and_dequantize(kind):
    x = rows(16)
    for scale in mse.SCALES:
        Q = mse.setup(16, 3, 4, rotation=kind, scale=scale)
        steps, code = mse.trace(Q, x), mse.quantize(Q, x)
        assert list(steps) == ["x", "norm", "unit", "rotated", "indices", "centroids", "scale", "unrotated", "decoded"]
        np.testing.assert_array_equal(steps["indices"], code.indices)
        np.testing.assert_array_equal(steps["scale"], code.scales)
        np.testing.assert_array_equal(steps["centroids"], Q.codebook.centroids[code.indices])
        np.testing.assert_array_equal(steps["decoded"], mse.dequantize(Q, code))


# ------------------------------------------------------------------------------------ means and variances


def test_distortion():
    _checks.distortion()


def test_codebook_is_optimal():
    _checks.codebook_is_optimal()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_mean_and_energy(bits):
    """Section 3.2: E x~ = (1 - D) x for each x, coordinate by coordinate; and E ||x~||^2 = 1 - D."""
    d, draws = 6, 2500
    D = theory.distortion("mse", d, bits)
    x = np.array([[1, 0, 0, 0, 0, 0], [0, 0.6, 0, 0, -0.8, 0], np.full(6, 6**-0.5)])
    found = np.array([mse.trace(mse.setup(d, bits, seed), x)["decoded"] for seed in range(draws)])
    for i, j in itertools.product(range(3), range(d)):
        expect(found[:, i, j], (1 - D) * x[i, j], f"E x~ of x_{i}, coordinate {j}, d = 6, b = {bits}", detects=0.1)
    expect((found**2).sum(-1).mean(-1), 1 - D, f"E ||x~||^2, d = 6, b = {bits}", detects=0.04)


@pytest.mark.parametrize("scale", mse.SCALES)
@pytest.mark.parametrize(("d", "bits"), [(16, 1), (16, 3), (5, 2)])
def test_scales_against_theory(d, bits, scale):
    x = _checks.normal_rows(64, d)
    label = f"{scale}, d = {d}, b = {bits}"
    D = theory.distortion("mse", d, bits, scale=scale)
    expect(measure.distortion("mse", x, bits, draws=150, scale=scale), D, f"D, {label}", detects=0.1 * D)
    slope = theory.slope("mse", d, bits, scale=scale)
    expect(measure.slope("mse", x, bits, draws=150, scale=scale), slope, f"slope, {label}", detects=0.05)
    for rho in (0.0, 0.7, 1.0):
        if scale == "unbiased" and rho == 1:
            continue  # <x, x~> = ||x||^2 in every draw: its variance is 0, see test_the_scales_by_their_definition
        value = theory.variance("mse", d, bits, rho, scale=scale)
        found = measure.variance("mse", x, bits, rho, draws=400, scale=scale)
        expect(found, value, f"Var, rho = {rho}, {label}", detects=0.35 * value)


# ------------------------------------------------------------------------------------ codebooks that are not 2^b long


def test_an_index_beyond_the_codebook_is_refused() -> None:
    """A uniform codebook has a number of cells that is no power of two: its spare indices are corruption."""
    book = codebook.uniform(16, 2.0)
    n = len(book.centroids)
    assert n != 2**book.bits
    Q = mse.Quantizer(rotation.haar(16, 0), book)
    good = mse.pack(Q, mse.quantize(Q, np.eye(16)[:1]))
    assert mse.unpack(Q, good).indices.shape == (1, 16)
    data = good.data.copy()
    data[:, 0] = 0xFF
    with pytest.raises(ValueError, match=rf"packed: index {2**book.bits - 1}, but the codebook has {n} centroids"):
        mse.unpack(Q, packing.Packed(data, good.scalars, good.fingerprint))


def test_a_codebook_of_more_than_256_centroids_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at most 256 centroids, so that an index is a byte; got 512"):
        mse.Quantizer(rotation.haar(4, 0), codebook.lloyd_max(4, 9))
