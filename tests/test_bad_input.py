"""Bad input is refused before any work, with a message that names it; unusual input that is good works."""

from __future__ import annotations

import math
import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import turboquant_ref as tq
from turboquant_ref import packing
from turboquant_ref.vectors import norm_and_unit

D = 8
MAKE: dict[str, Any] = {
    "mse": lambda d=D, bits=3, rng=0: tq.mse.setup(d, bits, rng, scale="unbiased"),
    "qjl": lambda d=D, bits=20, rng=0: tq.qjl.setup(d, bits, rng),
    "prod": lambda d=D, bits=3, rng=0: tq.prod.setup(d, bits, rng),
}
ALGORITHMS = pytest.mark.parametrize("name", MAKE)


def module(name: str) -> ModuleType:
    return getattr(tq, name)


def refused(error: type[Exception], message: str) -> Any:
    return pytest.raises(error, match=f"^{re.escape(message)}")


VECTORS = [
    (
        "one NaN",
        np.where(np.arange(3 * D).reshape(3, D) == 12, math.nan, 1.0),
        ValueError,
        "{} holds 1 NaN and 0 infinite values, the first in row 1; every value must be finite",
    ),
    (
        "one infinity",
        np.where(np.arange(3 * D).reshape(3, D) == 20, -math.inf, 1.0),
        ValueError,
        "{} holds 0 NaN and 1 infinite values, the first in row 2; every value must be finite",
    ),
    (
        "float16 infinity",
        np.full(D, math.inf, np.float16),
        ValueError,
        "{} holds 0 NaN and 8 infinite values, the first in row 0",
    ),
    (
        "wrong d",
        np.ones((3, D + 1)),
        ValueError,
        "{} has vectors of 9 coordinates (its shape is (3, 9)), expected d = 8",
    ),
    (
        "transposed",
        np.ones((D, 3)),
        ValueError,
        "{} has vectors of 3 coordinates (its shape is (8, 3)), expected d = 8",
    ),
    ("a number", 3.0, ValueError, "{} is a single number, expected an array of shape (..., d)"),
    (
        "boolean",
        np.ones((3, D), bool),
        TypeError,
        "{} has dtype bool, allowed are float16, float32, float64 and integers",
    ),
    ("complex", np.ones((3, D), complex), TypeError, "{} has dtype complex128, allowed are"),
    ("string", np.full((3, D), "1"), TypeError, "{} has dtype <U1, allowed are"),
    ("object", np.ones((3, D), object), TypeError, "{} has dtype object, allowed are"),
    (
        "ragged",
        [[1.0] * D, [1.0] * (D - 1)],
        ValueError,
        "{} is not an array of shape (..., d): setting an array element",
    ),
    ("None", None, TypeError, "{} has dtype object, allowed are"),
]


@ALGORITHMS
@pytest.mark.parametrize(("x", "error", "message"), [case[1:] for case in VECTORS], ids=[case[0] for case in VECTORS])
def test_vectors_that_are_refused(name, x, error, message):
    algorithm, Q = module(name), MAKE[name]()
    code = algorithm.quantize(Q, np.ones((2, D)))
    with refused(error, message.format("x")):
        algorithm.quantize(Q, x)
    with refused(error, message.format("x")):
        algorithm.trace(Q, x)
    with refused(error, message.format("y")):
        algorithm.inner_product(Q, x, code)


BITS = [
    (0, ValueError, "{} must be an integer from 1 to 8, got 0"),
    (9, ValueError, "{} must be an integer from 1 to 8, got 9"),
    (-1, ValueError, "{} must be an integer from 1 to 8, got -1"),
    (2.5, TypeError, "{} must be an integer from 1 to 8, got 2.5 of type float"),
    (2.0, TypeError, "{} must be an integer from 1 to 8, got 2.0 of type float"),
    (True, TypeError, "{} must be an integer from 1 to 8, got True of type bool"),
    ("3", TypeError, "{} must be an integer from 1 to 8, got '3' of type str"),
    (None, TypeError, "{} must be an integer from 1 to 8, got None of type NoneType"),
]


@pytest.mark.parametrize("name", ["mse", "prod"])
@pytest.mark.parametrize(("bits", "error", "message"), BITS, ids=lambda v: repr(v) if not isinstance(v, type) else "")
def test_bits_that_are_refused(name, bits, error, message):
    with refused(error, message.format("bits")):
        MAKE[name](bits=bits)


@pytest.mark.parametrize(
    ("m", "error", "message"),
    [
        (0, ValueError, "m must be an integer of at least 1, got 0"),
        (2.5, TypeError, "m must be an integer of at least 1, got 2.5 of type float"),
        (True, TypeError, "m must be an integer of at least 1, got True of type bool"),
        ("3", TypeError, "m must be an integer of at least 1, got '3' of type str"),
    ],
)
def test_numbers_of_signs_that_are_refused(m, error, message):
    with refused(error, message):
        tq.qjl.setup(D, m, 0)
    with refused(error, message):
        tq.prod.setup(D, 2, 0, m=m)


@ALGORITHMS
@pytest.mark.parametrize(
    ("d", "error", "message"),
    [
        (1, ValueError, "d must be an integer of at least 2, got 1"),
        (0, ValueError, "d must be an integer of at least 2, got 0"),
        (-8, ValueError, "d must be an integer of at least 2, got -8"),
        (8.0, TypeError, "d must be an integer of at least 2, got 8.0 of type float"),
        ("8", TypeError, "d must be an integer of at least 2, got '8' of type str"),
        (True, TypeError, "d must be an integer of at least 2, got True of type bool"),
    ],
)
def test_dimensions_that_are_refused(name, d, error, message):
    with refused(error, message):
        MAKE[name](d=d)


@ALGORITHMS
@pytest.mark.parametrize(
    ("rng", "error", "message"),
    [
        (-1, ValueError, "rng must be a seed from 0 to 2**64 - 1, got -1"),
        (2**64, ValueError, "rng must be a seed from 0 to 2**64 - 1, got 18446744073709551616"),
        (
            None,
            TypeError,
            "rng must be an integer from 0 to 2**64 - 1 or a numpy.random.Generator, got None of type NoneType",
        ),
        (
            True,
            TypeError,
            "rng must be an integer from 0 to 2**64 - 1 or a numpy.random.Generator, got True of type bool",
        ),
        (
            1.0,
            TypeError,
            "rng must be an integer from 0 to 2**64 - 1 or a numpy.random.Generator, got 1.0 of type float",
        ),
        ("0", TypeError, "rng must be an integer from 0 to 2**64 - 1 or a numpy.random.Generator, got '0' of type str"),
    ],
)
def test_seeds_that_are_refused(name, rng, error, message):
    with refused(error, message):
        MAKE[name](rng=rng)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: tq.mse.setup(D, 3, 0, scale="rms"),
            "scale: expected one of norm, matched, least_squares, unbiased, got 'rms'",
        ),
        (
            lambda: tq.mse.Quantizer(tq.rotation.haar(D, 0), tq.codebook.lloyd_max(D, 2), "rms"),
            "scale: expected one of norm, ",
        ),
        (lambda: tq.mse.setup(D, 3, 0, rotation="qr"), "kind must be 'haar' or 'structured', got 'qr'"),
        (lambda: tq.qjl.setup(D, sketch="sparse"), "sketch: expected one of gaussian, orthogonal, got 'sparse'"),
        (lambda: tq.qjl.setup(D, sketch="orthogonal", rotation="qr"), "kind must be 'haar' or 'structured', got 'qr'"),
        (lambda: tq.prod.setup(D, 3, 0, sketch="sparse"), "sketch: expected one of gaussian, orthogonal, got 'sparse'"),
        (lambda: tq.prod.setup(D, 3, 0, residual="none"), "residual: expected one of stored, expected, got 'none'"),
        (
            lambda: tq.prod.Quantizer(
                tq.rotation.haar(D, 0), tq.codebook.lloyd_max(D, 2), tq.qjl.setup(D).sketch, "none"
            ),
            "residual: expected one of stored, expected, got 'none'",
        ),
    ],
    ids=[
        "scale",
        "scale of a Quantizer",
        "rotation",
        "sketch",
        "rotation of S",
        "sketch of prod",
        "residual",
        "residual of a Quantizer",
    ],
)
def test_options_that_are_refused(make, message):
    with refused(ValueError, message):
        make()


# ------------------------------------------------------------------------------------ codes


@ALGORITHMS
def test_a_code_of_another_quantizer(name):
    algorithm, Q = module(name), MAKE[name]()
    code = algorithm.quantize(Q, np.ones((2, D)))
    packed = algorithm.pack(Q, code)
    for other in (MAKE[name](rng=1), MAKE[name](bits=4)):
        message = f"code: it was made by quantizer {Q.fingerprint.hex()}, this one is {other.fingerprint.hex()}"
        for use in (
            lambda: algorithm.dequantize(other, code),  # noqa: B023
            lambda: algorithm.inner_product(other, np.ones(D), code),  # noqa: B023
            lambda: algorithm.weighted_sum(other, np.ones(2), code),  # noqa: B023
            lambda: algorithm.pack(other, code),  # noqa: B023
        ):
            with refused(ValueError, message):
                use()
        with refused(ValueError, message.replace("code:", "packed:")):
            algorithm.unpack(other, packed)


@ALGORITHMS
@pytest.mark.parametrize("other", MAKE)
def test_a_code_of_another_algorithm(name, other):
    if name == other:
        return
    kinds = {"mse": "MSECode", "qjl": "QJLCode", "prod": "ProdCode"}
    algorithm, Q = module(name), MAKE[name]()
    P = MAKE[other]()
    code = module(other).quantize(P, np.ones((2, D)))
    message = f"code: expected {kinds[name]}, got {kinds[other]}"
    for use in (
        lambda: algorithm.dequantize(Q, code),
        lambda: algorithm.inner_product(Q, np.ones(D), code),
        lambda: algorithm.weighted_sum(Q, np.ones(2), code),
        lambda: algorithm.pack(Q, code),
    ):
        with refused(TypeError, message):
            use()
    with refused(
        ValueError, f"packed: it was made by quantizer {P.fingerprint.hex()}, this one is {Q.fingerprint.hex()}"
    ):
        algorithm.unpack(Q, module(other).pack(P, code))


@ALGORITHMS
def test_what_is_no_code(name):
    algorithm, Q = module(name), MAKE[name]()
    for thing in (None, np.ones((2, D)), "code", algorithm.pack(Q, algorithm.quantize(Q, np.ones(D)))):
        with refused(
            TypeError, f"code: expected {type(algorithm.quantize(Q, np.ones(D))).__name__}, got {type(thing).__name__}"
        ):
            algorithm.dequantize(Q, thing)
    for thing in (None, b"bytes", algorithm.quantize(Q, np.ones(D))):
        with refused(TypeError, f"packed: expected Packed, got {type(thing).__name__}"):
            algorithm.unpack(Q, thing)


@ALGORITHMS
def test_truncated_and_mislabelled_bytes(name):
    algorithm, Q = module(name), MAKE[name]()
    good = algorithm.pack(Q, algorithm.quantize(Q, np.ones((3, D))))
    size = good.bytes_per_vector

    def unpack(data=good.data, scalars="float32"):
        return algorithm.unpack(Q, packing.Packed(data, scalars, Q.fingerprint))

    with refused(ValueError, f"packed: expected (…, {size}) bytes, got uint8 (3, {size - 1})"):
        unpack(good.data[:, :-1])
    with refused(ValueError, f"packed: expected (…, {size}) bytes, got uint8 ({3 * size - 1},)"):
        unpack(good.data.reshape(-1)[:-1])
    for scalars in ("float64", "float16", "bfloat16"):
        with refused(ValueError, f"packed: expected (…, {Q.bytes_per_vector(scalars)}) bytes, got uint8 (3, {size})"):
            unpack(scalars=scalars)
    with refused(ValueError, "scalars: expected one of float32, float64, float16, bfloat16, got 'float8'"):
        unpack(scalars="float8")
    for value in (math.nan, -1.0):
        data = good.data.copy()
        data[1, -4:] = np.frombuffer(np.array(value, "<f4").tobytes(), np.uint8)
        with pytest.raises(ValueError, match=r"^packed: (scale|norm|residual norm) must be finite and not negative"):
            unpack(data)


def test_a_scalar_out_of_the_range_of_its_stored_dtype():
    for name in MAKE:
        algorithm, Q = module(name), MAKE[name]()
        code = algorithm.quantize(Q, np.ones((3, D)) * [[1.0], [1e6], [1e-6]])
        with pytest.raises(
            ValueError, match=r"^(scale|norm): [\d.e+]+ in row 1 is outside the normal range of float16"
        ):
            algorithm.pack(Q, code, "float16")
        with refused(ValueError, "scalars: expected one of float32, float64, float16, bfloat16, got 'half'"):
            algorithm.pack(Q, code, "half")


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.ones(2, int), TypeError, "weights: expected float32 or float64, got int64"),
        (np.ones(3), ValueError, "weights: expected (…, n) for a code of n vectors, got (3,) and a code of shape (2,)"),
        (1.0, ValueError, "weights: expected (…, n) for a code of n vectors, got () and a code of shape (2,)"),
    ],
)
def test_weights_that_are_refused(weights, error, message):
    for name in MAKE:
        algorithm, Q = module(name), MAKE[name]()
        with refused(error, message):
            algorithm.weighted_sum(Q, weights, algorithm.quantize(Q, np.ones((2, D))))


# ------------------------------------------------------------------------------------ what must work


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (norm_and_unit(a.astype(np.float64))[1] * norm_and_unit(b.astype(np.float64))[1]).sum(-1)


EXTREMES = [
    (np.float64, [1e-300, 1e-30, 1.0, 1e30, 1e300, 2e307, 1e-307]),
    (np.float64, [5e-324 * 2**30, 2.0**-1060]),
    (np.float32, [1e-37, 1e-30, 1e30, 1e38, 2.0**-140]),
    (np.float16, [6e-5, 1e-3, 1.0, 2e4, 2.0**-18]),
]


@ALGORITHMS
@pytest.mark.parametrize(("dtype", "norms"), EXTREMES, ids=["float64", "float64 subnormal", "float32", "float16"])
def test_extreme_norms(name, dtype, norms):
    """Every row has the code that it has at norm 1 and decodes to the same direction, without a warning."""
    algorithm, Q = module(name), MAKE[name]()
    direction = np.random.default_rng(1).standard_normal(D)
    direction /= np.linalg.norm(direction)
    # float16 and subnormal coordinates are rounded: compare with the rounded ones, scaled back exactly
    x = (np.array(norms)[:, None] * direction).astype(dtype)
    near_one = np.ldexp(x.astype(np.float64), -np.frexp(np.array(norms))[1][:, None])
    near_one = near_one.astype(np.float64 if dtype is np.float64 else np.float32)
    code, expected = algorithm.quantize(Q, x), algorithm.quantize(Q, near_one)
    np.testing.assert_array_equal(getattr(code, "indices", 0), getattr(expected, "indices", 0))
    np.testing.assert_array_equal(getattr(code, "signs", 0), getattr(expected, "signs", 0))
    decoded = algorithm.dequantize(Q, code)
    assert np.all(np.isfinite(decoded))
    # a decoded coordinate is rounded, below the normal range to a multiple of the smallest subnormal
    step = float(np.finfo(decoded.dtype).smallest_subnormal)
    error = math.sqrt(D) * step / norm_and_unit(decoded.astype(np.float64))[0] + 1e-6
    assert np.all(np.abs(cosine(decoded, algorithm.dequantize(Q, expected)) - 1) <= error**2)


@ALGORITHMS
@pytest.mark.parametrize("exponent", [-307, -300, -30, 30, 300, 307])
def test_large_times_small(name, exponent):
    """<y, x> of 1e300 and 1e-300 is what it is at 1 and 1, and no step on the way overflows or vanishes."""
    algorithm, Q = module(name), MAKE[name]()
    x, y = np.random.default_rng(1).standard_normal((2, D))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    found = algorithm.inner_product(Q, y * 10.0**-exponent, algorithm.quantize(Q, x * 10.0**exponent))
    # both vectors are rounded twice more, and 10^-e is not exactly 1 / 10^e
    assert abs(found - algorithm.inner_product(Q, y, algorithm.quantize(Q, x))) <= 20 * D * 2.0**-53


@ALGORITHMS
def test_the_largest_and_the_smallest_numbers(name):
    """One-hot rows at the very ends of each dtype are quantized exactly as at 1, and decoded to finite numbers."""
    algorithm, Q = module(name), MAKE[name]()
    for dtype in (np.float16, np.float32, np.float64):
        info = np.finfo(dtype)
        compute = np.float32 if dtype is np.float16 else dtype
        one = algorithm.quantize(Q, np.eye(D, dtype=compute)[3])
        for value in (info.smallest_subnormal, info.tiny, info.max / 4):
            code = algorithm.quantize(Q, np.eye(D, dtype=dtype)[3] * dtype(value))
            np.testing.assert_array_equal(getattr(code, "indices", 0), getattr(one, "indices", 0))
            np.testing.assert_array_equal(getattr(code, "signs", 0), getattr(one, "signs", 0))
            assert np.all(np.isfinite(algorithm.dequantize(Q, code)))
            assert np.all(np.isfinite(algorithm.inner_product(Q, np.eye(D, dtype=compute), code)))


@ALGORITHMS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_estimate_beyond_the_largest_number_is_infinite(name, dtype):
    """The product of two norms overflows only with the result: IEEE infinity and NumPy's warning, never NaN."""
    algorithm, Q = module(name), MAKE[name]()
    top = float(np.finfo(dtype).max)
    x = np.zeros((2, D), dtype)
    x[0] = np.ones(D) / math.sqrt(D) * top / 8
    y = np.stack([x[0], 1 / x[0], -x[0], np.zeros(D, dtype)])
    code = algorithm.quantize(Q, x)
    with pytest.warns(RuntimeWarning, match="overflow"):
        found = algorithm.inner_product(Q, y, code)
    assert found[0, 0] == math.inf
    assert found[2, 0] == -math.inf
    at_one = algorithm.inner_product(Q, np.ones(D, dtype), algorithm.quantize(Q, np.ones(D, dtype)))
    assert abs(found[1, 0] / at_one - 1) < 100 * np.finfo(dtype).eps * D  # a dozen sums of d terms
    assert not found[3].any()
    assert not found[:, 1].any()


@ALGORITHMS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_norm_beyond_the_largest_number(name, dtype):
    algorithm, Q = module(name), MAKE[name]()
    top = np.finfo(dtype).max
    x = np.ones((3, D), dtype)
    x[1] = top
    message = f"the norm of row 1 exceeds the largest {np.dtype(dtype)}, {top:.6g};"
    with refused(ValueError, f"x: {message}"):
        algorithm.quantize(Q, x)
    with refused(ValueError, f"y: {message}"):
        algorithm.inner_product(Q, x, algorithm.quantize(Q, x[:1]))


def test_a_scale_beyond_the_largest_number():
    """A scale that corrects for the bias is larger than the norm: at the very top it alone overflows."""
    for dtype in (np.float32, np.float64):
        x = np.zeros((2, D), dtype)
        x[1, 3] = np.finfo(dtype).max
        for scale in ("matched", "unbiased"):
            Q = tq.mse.setup(D, 1, 0, scale=scale)
            message = (
                f'x: the "{scale}" scale of row 1 exceeds the largest {np.dtype(dtype)}, {np.finfo(dtype).max:.6g}'
            )
            with refused(ValueError, message):
                tq.mse.quantize(Q, x)
        for scale in ("norm", "least_squares"):
            Q = tq.mse.setup(D, 1, 0, scale=scale)
            assert np.all(np.isfinite(tq.mse.dequantize(Q, tq.mse.quantize(Q, x))))


@ALGORITHMS
def test_zero_rows_and_empty_batches(name):
    algorithm, Q = module(name), MAKE[name]()
    for dtype in (np.float16, np.float32, np.float64, np.int8, np.uint64):
        code = algorithm.quantize(Q, np.zeros((2, D), dtype))
        assert not algorithm.dequantize(Q, algorithm.unpack(Q, algorithm.pack(Q, code))).any()
        for shape in ((0, D), (2, 0, D)):
            empty = algorithm.quantize(Q, np.zeros(shape, dtype))
            assert algorithm.dequantize(Q, algorithm.unpack(Q, algorithm.pack(Q, empty))).shape == shape
            assert algorithm.inner_product(Q, np.zeros((0, D), dtype), code).shape == (0, 2)


@ALGORITHMS
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integers_are_float64(name, dtype):
    algorithm, Q = module(name), MAKE[name]()
    info = np.iinfo(dtype)
    x = np.array([[1, 2, 3, 4, 5, 6, 7, 8], [info.max] * D, [info.min] * D], dtype)
    code, expected = algorithm.quantize(Q, x), algorithm.quantize(Q, x.astype(np.float64))
    np.testing.assert_array_equal(algorithm.dequantize(Q, code), algorithm.dequantize(Q, expected))
    assert algorithm.dequantize(Q, code).dtype == np.float64


@ALGORITHMS
def test_lists_layouts_and_read_only_arrays(name):
    algorithm, Q = module(name), MAKE[name]()
    wide = np.random.default_rng(3).standard_normal((6, 2 * D))
    for view in (wide[:, ::2], wide[::-1, :D], np.asfortranarray(wide[:, :D]), wide[:, D:].tolist()):
        before = np.array(view)
        if isinstance(view, np.ndarray):
            view.flags.writeable = False
        code, expected = algorithm.quantize(Q, view), algorithm.quantize(Q, before)
        np.testing.assert_array_equal(getattr(code, "indices", 0), getattr(expected, "indices", 0))
        np.testing.assert_array_equal(getattr(code, "signs", 0), getattr(expected, "signs", 0))
        algorithm.inner_product(Q, view, code)
        np.testing.assert_array_equal(np.array(view), before)


@ALGORITHMS
def test_the_reference_prepares_nothing(name):
    """Prepared is Packed here, with the same refusals."""
    algorithm, Q = module(name), MAKE[name]()
    packed = algorithm.encode(Q, np.ones((2, D)), "float64")
    np.testing.assert_array_equal(
        packed.data, algorithm.pack(Q, algorithm.quantize(Q, np.ones((2, D))), "float64").data
    )
    for verb in (algorithm.prepare, algorithm.to_packed):
        np.testing.assert_array_equal(verb(Q, packed).data, packed.data)
        with refused(TypeError, "packed: expected Packed, got bytes"):
            verb(Q, packed.data.tobytes())
        with refused(ValueError, f"packed: it was made by quantizer {packed.fingerprint.hex()}, this one is "):
            verb(MAKE[name](rng=1), packed)
        short = packing.Packed(packed.data[:, :-1], "float64", packed.fingerprint)
        with refused(ValueError, f"packed: expected (…, {packed.bytes_per_vector}) bytes, got uint8 (2, "):
            verb(Q, short)


@ALGORITHMS
def test_what_is_refused_changes_nothing(name):
    """A generator that is given with a bad argument is not advanced."""
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    for call in (lambda: MAKE[name](d=1, rng=rng), lambda: MAKE[name](bits=2.5, rng=rng)):
        with pytest.raises((TypeError, ValueError)):
            call()
    with pytest.raises(ValueError, match="one of"):
        tq.qjl.setup(D, 3, rng, sketch="sparse")
    assert rng.bit_generator.state == before
