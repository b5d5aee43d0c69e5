"""Compiled Algorithm 1: the bodies of `test_mse`, the index rule at its edges, and the fused encoder."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("numba_kernels.mse", reason="numba is not installed", exc_type=ImportError)

from _boxes import check_codes, gamma, rotation_error
from _shared import bodies

from numba_kernels import _indices, _jit, layout, mse, rotation
from numba_kernels._norms import norm_and_unit, rows_of
from turboquant_ref import codebook, vectors
from turboquant_ref import mse as reference

FLOATS = (np.float32, np.float64)
ROTATIONS = ("haar", "structured")

OF_THE_REFERENCE = [  # they judge the codebook, the quantizer's description or `measure`, which are its own
    "test_ties",  # needs x / ||x|| rounded once; ties of a given coordinate are below
    "test_a_boundary_in_float32_is_the_cast_one",
    "test_stored_bits_count_everything",
    "test_distortion",
    "test_codebook_is_optimal",
    "test_mean_and_energy",
    "test_scales_against_theory",
    "test_a_codebook_of_more_than_256_centroids_is_refused",
]
globals().update(bodies("test_mse", OF_THE_REFERENCE, mse=mse))


def rows(n: int, d: int, dtype: type, seed: int = 0) -> np.ndarray:
    """Dense, sparse, constant and zero rows, of norms from 1e-30 to 1e30."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) * 10.0 ** rng.integers(-30, 30, (n, 1))
    x[n // 3] = 0
    x[n // 4] = 0.25
    x[n // 5, 1:] = 0
    return x.astype(dtype)


# ------------------------------------------------------------------------------------ the index rule


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", range(9))
def test_an_index_is_the_number_of_boundaries_that_are_not_above(bits, dtype):
    """Exactly: on every boundary, on its two neighbours, and far away."""
    book = codebook.lloyd_max(48, bits)
    edges = book.boundaries.astype(dtype)
    z = np.concatenate([edges, np.nextafter(edges, dtype(-9)), np.nextafter(edges, dtype(9)), [0.0, -0.0, -5, 5]])
    z = np.resize(z.astype(dtype), (-(-z.size // 48), 48))
    indices, zq, qq = _indices.nearest(book, z)
    np.testing.assert_array_equal(indices, codebook.nearest(book, z))
    q = book.centroids.astype(dtype)[indices].astype(np.float64)
    # 48 products, summed
    assert np.all(np.abs(zq - (z * q).sum(1)) <= gamma(49, dtype) * np.abs(z * q).sum(1))
    assert np.all(np.abs(qq - (q * q).sum(1)) <= gamma(49, dtype) * (q * q).sum(1))
    np.testing.assert_array_equal(_indices.look_up(book, indices, dtype), codebook.look_up(book, indices, dtype))


def test_a_codebook_of_any_number_of_centroids():
    """Those of `uniform` are no power of two; its last cells must not be passed."""
    for rate in (0.8, 1.7, 2.3, 3.4, 4.5):
        book = codebook.uniform(32, rate)
        z = np.random.default_rng(0).standard_normal((20, 32)).astype(np.float32)
        np.testing.assert_array_equal(_indices.nearest(book, z)[0], codebook.nearest(book, z))
    with pytest.raises(IndexError, match="is beyond"):
        _indices.look_up(book, np.full((1, 3), 255, np.uint8), np.float32)


# ------------------------------------------------------------------------------------ norms


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", [2, 17, 100, 1000])
def test_norms(d, dtype):
    x = rows(40, d, dtype)
    norms, unit = norm_and_unit(rows_of(x, d))
    exact = np.sqrt((x.astype(np.longdouble) ** 2).sum(1))
    # 16 squares, then d/16 of their sums, a root: half the error of its argument
    bound = gamma(16 + d // 16 + 4, dtype)
    assert np.all(np.abs(norms - exact) <= bound * exact)
    assert np.all(np.abs(unit * exact[:, None] - x) <= 2 * bound * np.abs(x))
    np.testing.assert_array_equal(norms == 0, ~x.any(axis=1))
    assert not unit[norms == 0].any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_extreme_magnitude(dtype):
    """The largest and the least numbers; and a row is what it is beside any other."""
    info = np.finfo(dtype)
    x = np.random.default_rng(0).standard_normal((6, 20)).astype(dtype)
    plain = norm_and_unit(rows_of(x, 20))
    x[1], x[2], x[3], x[4] = info.max / 8, info.tiny, info.smallest_subnormal, 0
    x[4, 3] = -info.smallest_subnormal
    norms, unit = norm_and_unit(rows_of(x, 20))
    expected, expected_unit = vectors.norm_and_unit(x)
    for i in (0, 5):
        assert norms[i] == plain[0][i]
        np.testing.assert_array_equal(unit[i], plain[1][i])
    assert np.all(np.abs(norms - expected) <= gamma(24, dtype) * expected + info.smallest_subnormal)
    assert np.all(np.abs(unit - expected_unit) <= gamma(24, dtype))
    for alone in x[1:4]:  # what is unusual in one row is not found by another's help
        np.testing.assert_array_equal(norm_and_unit(rows_of(alone, 20))[0], norms[(x == alone).all(1)][0])
    for algorithm in (reference, mse):
        with pytest.raises(ValueError, match=f"^x: the norm of row 1 exceeds the largest {np.dtype(dtype)}, .* scale"):
            algorithm.quantize(algorithm.setup(20, 2, 0), 8 * x)
        with pytest.raises(ValueError, match=r'^x: the "matched" scale of row 0 exceeds the largest'):
            algorithm.quantize(algorithm.setup(20, 2, 0, scale="matched"), np.eye(20, dtype=dtype)[:1] * info.max)


# ------------------------------------------------------------------------------------ against the reference


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("d", [2, 7, 33, 64, 200])
def test_codes_are_those_of_the_reference(d, kind, dtype):
    """Indices by the code rule, at twice the margin of one run: two runs differ."""
    x = rows(50, d, dtype)
    for bits, scale in itertools.product((1, 3, 4, 6), mse.SCALES):
        Q = mse.setup(d, bits, 5, kind, scale)
        steps, code = reference.trace(Q, x), mse.quantize(Q, x)
        margin = 2 * rotation_error(Q.rotation, dtype)
        check_codes(code.indices, steps["rotated"], Q.codebook.boundaries.astype(dtype), margin, f"b = {bits}")
        same = (code.indices == steps["indices"]).all(-1)
        assert same.sum() >= 45
        bound = 4 * (2 * np.sqrt(d) * rotation_error(Q.rotation, dtype) + gamma(d + 12, dtype))  # see test_mse.slack
        assert np.all(np.abs(code.scales - steps["scale"])[same] <= bound * steps["scale"][same])


# ------------------------------------------------------------------------------------ the encoder


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.parametrize("d", [2, 31, 64, 100])
def test_encode_is_prepare_of_pack_of_quantize(d, kind, dtype):
    x = rows(37, d, dtype)
    for bits, scale in itertools.product(range(1, 9), ("norm", "unbiased")):
        Q = mse.setup(d, bits, 5, kind, scale)
        code = mse.quantize(Q, x)
        found, expected = mse.encode(Q, x), layout.prepare(Q, reference.pack(Q, code))
        np.testing.assert_array_equal(found.codes, expected.codes)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(mse.to_packed(Q, found).data, reference.pack(Q, code).data)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (16,), (3, 5), (2, 0), (0, 3), (2, 2, 17)])
def test_encode_of_any_batch_and_scalar(shape):
    Q = mse.setup(12, 3, 5, "structured", "unbiased")
    x = np.random.default_rng(0).standard_normal((*shape, 12))
    for scalars, dtype in itertools.product(("float32", "float64", "float16", "bfloat16"), (np.float16, *FLOATS)):
        found = mse.encode(Q, x.astype(dtype), scalars)
        packed = mse.pack(Q, mse.quantize(Q, x.astype(dtype)), scalars)
        assert (found.shape, found.scalars, found.fingerprint) == (shape, scalars, Q.fingerprint)
        np.testing.assert_array_equal(mse.to_packed(Q, found).data, packed.data)


def test_encode_refuses_what_quantize_and_pack_refuse():
    Q = mse.setup(8, 3, 5, "structured")
    for bad, message in ((np.full((2, 8), np.nan), "x holds 16 NaN"), (np.ones((2, 7)), "x has vectors of 7")):
        with pytest.raises(ValueError, match=message):
            mse.encode(Q, bad)
    with pytest.raises(TypeError, match="x has dtype bool"):
        mse.encode(Q, np.ones((2, 8), bool))
    with pytest.raises(ValueError, match="scalars: expected one of"):
        mse.encode(Q, np.ones((2, 8)), "float8")
    with pytest.raises(ValueError, match=r"scale: 9\.99995e-41 in row 1 is outside the normal range of float32"):
        mse.encode(Q, np.eye(8, dtype=np.float32)[:2] * np.float32([[1], [1e-40]]))
    with pytest.raises(ValueError, match=r"scale: .* is outside the normal range of float16"):
        mse.encode(Q, 1e6 * np.ones((2, 8)), "float16")


def test_one_round_goes_through_the_same_encoder():
    Q = mse.Quantizer(rotation.one_round(96, 3), codebook.lloyd_max(96, 4), "unbiased")
    x = np.random.default_rng(0).standard_normal((20, 96)).astype(np.float32)
    np.testing.assert_array_equal(
        mse.to_packed(Q, mse.encode(Q, x)).data, reference.pack(Q, mse.quantize(Q, x)).data
    )


@pytest.mark.parametrize("kind", ROTATIONS)
@pytest.mark.skipif(_jit.config.DISABLE_JIT, reason="parts large enough take minutes in Python")
def test_results_do_not_depend_on_the_number_of_threads(kind):
    Q = mse.setup(64, 4, 1, kind, "unbiased")
    x = np.random.default_rng(0).standard_normal((20_001, 64)).astype(np.float32)
    before, found = _jit.threads(), []
    try:
        for n in (1, 2, 3):
            _jit.set_threads(n)
            found.append(mse.encode(Q, x))
    finally:
        _jit.set_threads(before)
    for other in found[1:]:
        np.testing.assert_array_equal(other.codes, found[0].codes)
        np.testing.assert_array_equal(other.values, found[0].values)
