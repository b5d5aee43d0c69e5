"""What a vector is: every dtype and shape that is let in or kept out, and norms from 5e-324 to 1.8e308."""

from __future__ import annotations

import re
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turboquant_ref.vectors import as_rows, check_bits, check_dimension, check_integer, norm_and_unit

ALLOWED = "allowed are float16, float32, float64 and integers"


def exact_norm(row) -> Fraction:
    """The norm of a row of floats, to 60 digits, by integers and decimals only."""
    square = sum((Fraction(float(value)) ** 2 for value in row), Fraction(0))
    with localcontext(prec=60, Emin=-10_000, Emax=10_000):
        return Fraction((Decimal(square.numerator) / Decimal(square.denominator)).sqrt())


def ulps(found, truth: Fraction) -> float:
    """|found - truth| in units in the last place of the truth, in the dtype of `found` (denormals too)."""
    unit = Fraction(float(np.spacing(found.dtype.type(float(truth)))))
    return float(abs(Fraction(float(found)) - truth) / unit)


# --- as_rows: dtypes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("met", "computed"),
    [("f2", "f4"), ("f4", "f4"), ("f8", "f8")] + [(kind + size, "f8") for kind in "iu" for size in "1248"],
)
def test_dtypes_of_the_contract(met, computed, order):
    x = np.array([[1, 2, 3], [4, 5, 6]], dtype=order + met)
    rows = as_rows(x)
    assert rows.dtype == np.dtype(computed)
    assert rows.dtype.isnative
    np.testing.assert_array_equal(rows, [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (np.zeros((2, 3), bool), "bool"),
        ([True, False], "bool"),
        (np.zeros((2, 3), complex), "complex128"),
        (np.zeros((2, 3), np.complex64), "complex64"),
        (np.zeros((2, 3), object), "object"),
        ([1.0, None], "object"),
        ([2**70, 1], "object"),
        (None, "object"),
        ({1.0, 2.0}, "object"),
        (["1", "2"], "<U1"),
        ("12", "<U2"),
        (np.zeros((2, 3), "S4"), "|S4"),
        (np.zeros((2, 3), "M8[D]"), "datetime64[D]"),
        (np.zeros((2, 3), "m8[s]"), "timedelta64[s]"),
        (np.zeros((2, 3), [("a", "f4")]), "[('a', '<f4')]"),
        (np.zeros((2, 3), "V4"), "|V4"),
    ],
)
def test_another_dtype_is_a_type_error(x, dtype):
    with pytest.raises(TypeError, match=f"^key has dtype {re.escape(dtype)}, {ALLOWED}$"):
        as_rows(x, name="key")


def test_longdouble_is_a_type_error():
    with pytest.raises(TypeError, match=f"^x has dtype .*, {ALLOWED}$"):
        as_rows(np.zeros((2, 3), np.longdouble))


def test_lists_are_float64():
    assert as_rows([[1.0, 2.0], [3.0, 4.0]]).dtype == np.float64
    assert as_rows([1, 2]).dtype == np.float64


# --- as_rows: shapes


@pytest.mark.parametrize("ragged", [[[1.0, 2.0], [3.0]], [np.zeros(3), np.zeros(4)], [[1.0], 2.0]])
def test_ragged_lists_are_a_value_error(ragged):
    with pytest.raises(ValueError, match=r"^y is not an array of shape \(\.\.\., d\): .*inhomogeneous"):
        as_rows(ragged, name="y")


@pytest.mark.parametrize("number", [3.0, np.float32(3), np.array(3)])
def test_a_single_number_is_a_value_error(number):
    with pytest.raises(ValueError, match=r"^x is a single number, expected an array of shape \(\.\.\., d\)$"):
        as_rows(number)


@pytest.mark.parametrize("shape", [(0,), (1,), (4, 1), (4, 0)])
def test_less_than_two_coordinates(shape):
    found = re.escape(f"{shape[-1]} coordinates (its shape is {shape})")
    with pytest.raises(ValueError, match=f"^x has vectors of {found}, expected at least 2$"):
        as_rows(np.zeros(shape))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)])
def test_another_dimension_than_expected(shape):
    found = re.escape(f"7 coordinates (its shape is {shape})")
    with pytest.raises(ValueError, match=f"^x has vectors of {found}, expected d = 8$"):
        as_rows(np.zeros(shape), 8)


def test_the_expected_dimension():
    assert as_rows(np.zeros((3, 8)), 8).shape == (3, 8)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0, 2)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
def test_empty_batches(shape, dtype):
    x = np.zeros(shape, dtype)
    assert as_rows(x, shape[-1]).shape == shape
    norms, unit = norm_and_unit(x)
    assert norms.shape == shape[:-1]
    assert unit.shape == shape
    assert norms.dtype == unit.dtype == as_rows(x).dtype


# --- as_rows: values


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize(
    ("index", "where"),
    [((1,), "0"), ((3, 2), "3"), ((1, 2, 0), r"\(1, 2\)")],
)
@pytest.mark.parametrize(
    ("value", "counts"), [(np.nan, "1 NaN and 0"), (np.inf, "0 NaN and 1"), (-np.inf, "0 NaN and 1")]
)
def test_a_value_that_is_not_finite(dtype, index, where, value, counts):
    x = np.ones((2, 4, 3)[-len(index) :], dtype)
    x[index] = value
    message = f"^q holds {counts} infinite values, the first in row {where}; every value must be finite$"
    with pytest.raises(ValueError, match=message):
        as_rows(x, name="q")


def test_values_that_are_not_finite_are_counted():
    x = np.zeros((6, 4))
    x[2, 1:] = np.nan
    x[4, 0] = np.inf
    x[5, 0] = -np.inf
    with pytest.raises(ValueError, match="holds 3 NaN and 2 infinite values, the first in row 2;"):
        as_rows(x)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_the_extremes_of_a_dtype_are_rows(dtype):
    info = np.finfo(dtype)
    x = np.array([[info.max, info.min], [info.tiny, info.smallest_subnormal], [-0.0, 0.0]], dtype)
    np.testing.assert_array_equal(as_rows(x), x)
    assert np.signbit(as_rows(x)[2, 0])


def test_the_largest_integers_are_rounded():
    np.testing.assert_array_equal(as_rows(np.array([2**64 - 1, 1], np.uint64)), [2.0**64, 1.0])


# --- as_rows: copies


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_copy_only_if_needed(dtype):
    x = np.arange(24, dtype=dtype).reshape(4, 6)
    assert as_rows(x) is x
    for view in (x[::2], x[:, ::2], x.T, x[:, ::-1]):
        rows = as_rows(view)
        assert np.shares_memory(rows, x)
        np.testing.assert_array_equal(rows, view)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i8"])
def test_read_only_arrays_work_and_nothing_is_written(dtype):
    x = np.array([[3, 4, 0], [0, 0, 0], [1, 2, 2]], dtype)
    before = x.tobytes()
    x.flags.writeable = False
    norms, unit = norm_and_unit(x)
    np.testing.assert_array_equal(norms, [5, 0, 3])
    assert x.tobytes() == before
    assert norms.flags.writeable
    assert unit.flags.writeable
    assert not np.shares_memory(unit, x)


# --- norms and unit vectors: exactness

finite_rows = st.tuples(st.integers(1, 9), st.integers(2, 9))


@pytest.mark.parametrize(("dtype", "width"), [("f4", 32), ("f8", 64)])
def test_norms_of_any_rows_against_exact_arithmetic(dtype, width):
    largest = float(np.finfo(dtype).max) / 4  # 9 coordinates: no norm overflows

    @settings(deadline=None)
    @given(hnp.arrays(dtype, finite_rows, elements=st.floats(-largest, largest, width=width)))
    def check(x):
        norms, unit = norm_and_unit(x)
        assert norms.dtype == unit.dtype == x.dtype
        for row, norm, direction in zip(x, norms, unit, strict=True):
            truth = exact_norm(row)
            if truth == 0:
                assert norm == 0
                assert not direction.any()
                continue
            # 9 squares and 8 sums, an error of 2**-53 each, under a root: 5 units; the root and the cast 1
            assert ulps(norm, truth) <= 6
            # and a division: each coordinate is right to 7 units, hence their norm
            assert abs(exact_norm(direction) - 1) <= 7 * Fraction(float(np.finfo(dtype).eps))

    check()


@pytest.mark.parametrize("magnitude", [5e-324, 1e-320, 1e-308, 1e-300, 1e-160, 1e-30, 1.0, 1e160, 1e300, 3e307])
def test_norms_from_the_smallest_to_the_largest(magnitude):
    x = magnitude * np.array([3.0, 0.0, -4.0])
    norm, unit = norm_and_unit(x)
    assert norm.shape == ()
    assert ulps(norm, exact_norm(x)) <= 2
    # the coordinates of x itself are rounded, coarsely where they are denormal
    truth = np.array([float(Fraction(value) / exact_norm(x)) for value in x.tolist()])
    np.testing.assert_allclose(unit, truth, rtol=4 * 2.0**-53, atol=0)


@pytest.mark.parametrize("magnitude", [1.5e-45, 1e-40, 1e-38, 1e-30, 1e-20, 1.0, 1e20, 1e30, 6e37])
def test_float32_norms_from_the_smallest_to_the_largest(magnitude):
    x = (magnitude * np.array([3.0, 0.0, -4.0])).astype(np.float32)
    norm, unit = norm_and_unit(x)
    assert norm.dtype == unit.dtype == np.float32
    assert ulps(norm, exact_norm(x)) <= 0.5 + 1e-6  # summed in float64: correctly rounded but for a near tie
    truth = np.array([float(Fraction(value) / exact_norm(x)) for value in x.tolist()])
    np.testing.assert_allclose(unit, truth, rtol=(1 + 1e-6) * 2.0**-24, atol=0)


@pytest.mark.parametrize("value", [65504.0, 6e-8, 6.104e-5])
def test_the_extremes_of_float16(value):
    x = np.full((2, 128), value, np.float16)
    norms, unit = norm_and_unit(x)
    assert norms.dtype == np.float32
    assert ulps(norms[0], exact_norm(x[0])) <= 0.5 + 1e-6
    np.testing.assert_array_equal(unit, np.float32(128**-0.5))


def test_values_far_apart_in_one_row():
    norms, unit = norm_and_unit(np.array([[1e300, 1e-300, 0.0], [5e-324, 0.0, 0.0], [0.0, -1e-310, 1e308]]))
    np.testing.assert_array_equal(norms, [1e300, 5e-324, 1e308])
    np.testing.assert_array_equal(unit, [[1, 0, 0], [1, 0, 0], [0, 0, 1]])


def test_the_zero_row_has_norm_zero_and_unit_row_zero():
    x = np.array([[0.0, -0.0, 0.0], [3.0, 0.0, 4.0]])
    norms, unit = norm_and_unit(x)
    np.testing.assert_array_equal(norms, [0, 5])
    np.testing.assert_array_equal(unit, [[0, 0, 0], [0.6, 0, 0.8]])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("d", [2, 50, 127, 128, 129, 1536, 65536])
def test_unit_rows_have_norm_one(dtype, d):
    x = np.random.default_rng(d).standard_normal((1 if d > 9999 else 3, d)).astype(dtype)
    norms, unit = norm_and_unit(x)
    for row, norm, direction in zip(x, norms, unit, strict=True):
        # pairwise sums of blocks of 128: at most 16 + 3 + log2(65536 / 128) = 28 roundings, half left by
        # the root; then the root itself, the division, the cast
        bound = 17 if dtype == "f8" else 1.5
        assert abs(exact_norm(direction) - 1) <= bound * Fraction(float(np.finfo(dtype).eps))
        assert ulps(norm, exact_norm(row)) <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("part", [1.0, 0.7072])
def test_a_norm_beyond_the_largest_number(dtype, part):
    x = np.ones((5, 2), dtype)
    x[3] = np.finfo(dtype).max * dtype(part)
    cure = "scale the data down" if dtype is np.float64 else "pass float64 or scale the data down"
    limit = f"the largest {np.dtype(dtype)}, {np.finfo(dtype).max:.6g}"
    with pytest.raises(ValueError, match=f"^{re.escape(f'y: the norm of row 3 exceeds {limit}; {cure}')}$"):
        norm_and_unit(x, name="y")
    with pytest.raises(ValueError, match=r"norm of row \(0, 3\) exceeds"):
        norm_and_unit(x[None])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_norm_just_below_the_largest_number(dtype):
    x = np.full(2, np.finfo(dtype).max * dtype(0.7071), dtype)
    norm, unit = norm_and_unit(x)
    assert ulps(norm, exact_norm(x)) <= 2
    np.testing.assert_allclose(unit, dtype(0.5**0.5), rtol=float(np.finfo(dtype).eps), atol=0)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_no_floating_point_warning_or_trap(dtype):
    info = np.finfo(dtype)
    x = np.array([[info.max / 2, info.smallest_subnormal, 0], [info.tiny, -info.tiny, 0], [0, 0, 0]], dtype)
    with np.errstate(all="raise"):
        norm_and_unit(x)


# --- norms and unit vectors: what they do not depend on


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("d", [2, 3, 7, 8, 50, 128, 129, 1000, 8191, 8193, 20000])
def test_a_row_does_not_depend_on_its_batch(dtype, d):
    x = np.random.default_rng(d).standard_normal((11, d)).astype(dtype)
    norms, unit = norm_and_unit(x)
    wide = np.zeros((11, 2 * d + 1), dtype)
    wide[:, 1::2] = x
    layouts = {
        "Fortran": np.asfortranarray(x),
        "every other column": wide[:, 1::2],
        "backwards": np.ascontiguousarray(x[:, ::-1])[:, ::-1],
        "swapped bytes": x.astype(x.dtype.newbyteorder()),
    }
    for name, layout in layouts.items():
        found = norm_and_unit(layout)
        np.testing.assert_array_equal(found[0], norms, err_msg=name)
        np.testing.assert_array_equal(found[1], unit, err_msg=name)
    batches = [norm_and_unit(x[i]) for i in range(11)]
    np.testing.assert_array_equal([norm for norm, _ in batches], norms)
    np.testing.assert_array_equal([direction for _, direction in batches], unit)
    for rows in (slice(0, 1), slice(3, 5), slice(None, None, 3), slice(None, None, -1)):
        np.testing.assert_array_equal(norm_and_unit(x[rows])[0], norms[rows])
        np.testing.assert_array_equal(norm_and_unit(x[rows])[1], unit[rows])
    cube = np.stack([x, x[::-1]], axis=1)
    assert norm_and_unit(cube)[0].shape == (11, 2)
    np.testing.assert_array_equal(norm_and_unit(cube)[0][:, 0], norms)
    np.testing.assert_array_equal(norm_and_unit(cube)[1][::-1, 1], unit)


@settings(deadline=None)
@given(
    rows=hnp.arrays("f8", finite_rows, elements=st.floats(-1e3, 1e3).map(lambda v: float(np.float32(v)))),
    power=st.integers(-800, 900),
)
def test_the_unit_row_does_not_depend_on_the_scale(rows, power):
    # float32 values: at least 2**-149, so that 2**power times them is a normal float64 and exact
    norms, unit = norm_and_unit(rows)
    scaled_norms, scaled_unit = norm_and_unit(np.ldexp(rows, power))
    np.testing.assert_array_equal(scaled_unit, unit)
    np.testing.assert_array_equal(scaled_norms, np.ldexp(norms, power))


@pytest.mark.parametrize("power", [-100, -30, 1, 30, 120])
def test_the_float32_unit_row_does_not_depend_on_the_scale(power):
    x = np.random.default_rng(0).integers(-999, 1000, (50, 33)).astype(np.float32)
    norms, unit = norm_and_unit(x / 1024)
    scaled_norms, scaled_unit = norm_and_unit(np.ldexp(x / 1024, power))
    np.testing.assert_array_equal(scaled_unit, unit)
    np.testing.assert_array_equal(scaled_norms, np.ldexp(norms, power))


@pytest.mark.parametrize("bad", [[[np.nan, 1.0]], [True, False], [[1.0], [2.0]]])
def test_norm_and_unit_checks_its_rows(bad):
    with pytest.raises((ValueError, TypeError), match=r"^k (holds|has)"):
        norm_and_unit(bad, name="k")


# --- integers


@pytest.mark.parametrize("kind", [int, np.int8, np.uint8, np.int64, np.uint64])
def test_integers_are_integers(kind):
    for bits in (1, 4, 8):
        assert type(check_bits(kind(bits))) is int
        assert check_bits(kind(bits)) == bits
    for d in (2, 50, 127):
        assert type(check_dimension(kind(d))) is int
        assert check_dimension(kind(d)) == d


@pytest.mark.parametrize(
    "value", [True, np.True_, 2.5, 2.0, np.float64(2), "3", None, 2j, [2], np.array(2), np.timedelta64(2)]
)
def test_what_is_no_integer(value):
    kind = re.escape(f"got {value!r} of type {type(value).__name__}")
    with pytest.raises(TypeError, match=f"^bits must be an integer from 1 to 8, {kind}$"):
        check_bits(value)
    with pytest.raises(TypeError, match=f"^d must be an integer of at least 2, {kind}$"):
        check_dimension(value)


@pytest.mark.parametrize("bits", [0, 9, -1, np.int8(-128), 2**70])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=f"^bits must be an integer from 1 to 8, got {bits}$"):
        check_bits(bits)


@pytest.mark.parametrize("d", [1, 0, -3])
def test_dimension_out_of_range(d):
    with pytest.raises(ValueError, match=f"^d must be an integer of at least 2, got {d}$"):
        check_dimension(d)


def test_integers_with_other_names_and_limits():
    assert check_bits(0, "residual_bits", low=0, high=7) == 0
    with pytest.raises(ValueError, match=r"^residual_bits must be an integer from 0 to 7, got 8$"):
        check_bits(8, "residual_bits", low=0, high=7)
    with pytest.raises(ValueError, match=r"^head_dim must be an integer of at least 2, got 1$"):
        check_dimension(1, "head_dim")
    with pytest.raises(ValueError, match=r"^m must be an integer of at least 1, got 0$"):
        check_integer(0, "m", 1)
