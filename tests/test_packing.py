"""Bits in memory, against integers of any size and exact fractions: no NumPy bit operation judges another."""

from __future__ import annotations

import math
import re
import struct
from fractions import Fraction

import _checks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turboquant_ref import packing
from turboquant_ref.packing import SCALARS, Packed, Record, Scalar, pack_bits, unpack_bits

PRECISION = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
SMALLEST = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}
LARGEST = {"float64": 2**1024 - 2**971, "float32": 2**128 - 2**104, "float16": 65504, "bfloat16": 2**128 - 2**120}
NAME = "12345678"


def stream(numbers, bits: int) -> bytes:
    """One integer of any size whose bits [j b, (j+1) b) are number j, as its little-endian bytes."""
    total = sum(int(number) << (j * bits) for j, number in enumerate(numbers))
    return total.to_bytes(-(-len(numbers) * bits // 8), "little")


@st.composite
def numbers_and_bits(draw):
    bits = draw(st.integers(0, 8))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=19))
    return draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1))), bits


@given(numbers_and_bits())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_pack_bits_is_one_long_integer(drawn):
    numbers, bits = drawn
    packed = pack_bits(numbers, bits)
    n = numbers.shape[-1]
    assert packed.shape == (*numbers.shape[:-1], (n * bits + 7) // 8)
    assert packed.dtype == np.uint8
    for where in np.ndindex(*numbers.shape[:-1]):
        assert packed[where].tobytes() == stream(numbers[where], bits)
    np.testing.assert_array_equal(unpack_bits(packed, bits, n), numbers)


@pytest.mark.parametrize(
    ("numbers", "bits", "expected"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1], 1, [0b10000001]),
        ([1, 0, 0, 0, 0, 0, 0, 0, 1], 1, [1, 1]),
        ([3, 0, 1, 2], 2, [0b10_01_00_11]),
        ([7, 0, 7], 3, [0b11_000_111, 0b1]),
        ([0x1, 0xF, 0xA], 4, [0xF1, 0x0A]),
        ([31, 0, 31], 5, [0b000_11111, 0b01111100]),
        ([63, 1], 6, [0b01_111111, 0]),
        ([127, 127], 7, [0xFF, 0x3F]),
        ([200, 7], 8, [200, 7]),
        ([0, 0, 0], 0, []),
        ([], 3, []),
    ],
)
def test_known_answers_by_hand(numbers, bits, expected):
    numbers = np.array(numbers, np.uint8)
    assert pack_bits(numbers, bits).tolist() == expected
    assert unpack_bits(np.array(expected, np.uint8), bits, len(numbers)).tolist() == numbers.tolist()


def test_known_bytes():
    _checks.known_bytes()


@pytest.mark.parametrize("bits", range(8))
def test_a_number_that_does_not_fit(bits):
    with pytest.raises(
        ValueError, match=rf"numbers: {2**bits} does not fit in {bits} bits \(allowed: 0 to {2**bits - 1}\)"
    ):
        pack_bits(np.array([0, 2**bits], np.uint8), bits)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float64, bool])
def test_numbers_are_uint8(dtype):
    with pytest.raises(TypeError, match=f"numbers: expected dtype uint8, got {np.dtype(dtype)}"):
        pack_bits(np.zeros(3, dtype), 2)


@pytest.mark.parametrize(("bits", "error"), [(9, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bits_from_0_to_8(bits, error):
    with pytest.raises(error, match="bits must be an integer from 0 to 8"):
        pack_bits(np.zeros(3, np.uint8), bits)
    with pytest.raises(error, match="bits must be an integer from 0 to 8"):
        unpack_bits(np.zeros(3, np.uint8), bits, 1)


def test_shapes_that_are_refused():
    with pytest.raises(ValueError, match=r"numbers: expected an array of shape \(…, n\), got a single number"):
        pack_bits(np.uint8(1), 2)
    with pytest.raises(ValueError, match=r"data: expected \(…, 2\) bytes for 5 numbers of 3 bits, got uint8 \(4, 3\)"):
        unpack_bits(np.zeros((4, 3), np.uint8), 3, 5)
    with pytest.raises(ValueError, match=r"data: expected .* got int64 \(2,\)"):
        unpack_bits(np.zeros(2, np.int64), 3, 5)
    with pytest.raises(ValueError, match=r"data: expected .* got uint8 \(\)"):
        unpack_bits(np.uint8(0), 3, 1)
    with pytest.raises(ValueError, match="n must be an integer of at least 0, got -1"):
        unpack_bits(np.zeros(0, np.uint8), 3, -1)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 7])
def test_every_padding_bit_is_zero_or_refused(bits):
    data = pack_bits(np.full(3, 2**bits - 1, np.uint8), bits)
    for bit in range(3 * bits, 8 * data.size):
        corrupt = data.copy()
        corrupt[bit // 8] |= 1 << bit % 8
        with pytest.raises(ValueError, match="data: the padding bits after the last number are not zero"):
            unpack_bits(corrupt, bits, 3)


# ------------------------------------------------------------------------------------ side scalars

RECORD = Record((), (Scalar("norm"),))


def store(value, scalars: str) -> bytes:
    return RECORD.pack([], [np.asarray(value)], scalars, NAME.encode()).data.tobytes()


def load(data: bytes, scalars: str):
    packed = Packed(np.frombuffer(data, np.uint8), scalars, NAME.encode())
    (value,) = RECORD.unpack(packed, NAME.encode())[1]
    return value


def nearest_even(value: float, precision: int) -> Fraction:
    """The nearest number of `precision` significant bits, of two that are as near the even one, by exact fractions."""
    exact = Fraction(value)
    exponent = math.frexp(value)[1] - precision
    scaled = exact / Fraction(2) ** exponent
    return Fraction(round(scaled)) * Fraction(2) ** exponent  # Python rounds fractions half to even


def decode(data: bytes, scalars: str) -> Fraction:
    """The number that little-endian bytes stand for, by `struct` alone."""
    if scalars == "bfloat16":
        data, scalars = b"\0\0" + data, "float32"
    return Fraction(struct.unpack({"float16": "<e", "float32": "<f", "float64": "<d"}[scalars], data)[0])


@pytest.mark.parametrize("scalars", SCALARS)
@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=150)
def test_scalars_are_rounded_once_to_nearest_even(scalars, data):
    p, low = PRECISION[scalars], SMALLEST[scalars]
    exponent = data.draw(st.integers(low, math.frexp(LARGEST[scalars])[1] - 2), label="exponent")
    # near a tie of that precision: a whole number of half units, plus or minus the last bits of a float64
    half_units = data.draw(st.integers(2**p, 2 ** (p + 1) - 1), label="half units")
    value = math.ldexp(half_units, exponent - p) + math.ldexp(data.draw(st.integers(-3, 3)), exponent - 52)
    value = max(value, 2.0**low)
    dtype = data.draw(st.sampled_from([np.float64, np.float32]))
    if not 2.0**-126 <= value <= float(np.finfo(np.float32).max):
        dtype = np.float64
    value = float(dtype(value))
    stored = store(dtype(value), scalars)
    assert len(stored) == SCALARS[scalars]
    expected = nearest_even(value, p)
    assert decode(stored, scalars) == expected
    # |rounding| <= 2^-p |value|, the bound that `Record.pack` states
    assert abs(expected - Fraction(value)) <= Fraction(value) / 2**p
    back = load(stored, scalars)
    assert back.dtype == (np.float64 if scalars == "float64" else np.float32)
    assert Fraction(float(back)) == expected


def test_bfloat16_is_not_rounded_twice():
    """1 + 2^-8 + 2^-40 is above the tie of bfloat16; by way of float32 it would become the tie, and go down to even."""
    assert store(1 + 2.0**-8 + 2.0**-40, "bfloat16") == struct.pack("<H", 0x3F81)
    assert store(1 + 2.0**-8, "bfloat16") == struct.pack("<H", 0x3F80)
    assert store(1 + 3 * 2.0**-8, "bfloat16") == struct.pack("<H", 0x3F82)


@pytest.mark.parametrize("scalars", SCALARS)
def test_the_ends_of_the_range(scalars):
    low, high = 2.0 ** SMALLEST[scalars], float(LARGEST[scalars])
    for value in (0.0, low, high):
        assert float(load(store(value, scalars), scalars)) == value
    outside = [math.nextafter(low, 0), 5e-324]
    if scalars != "float64":
        outside += [math.nextafter(high, math.inf), 1e308]
    for value in outside:
        message = re.escape(
            f"norm: {value:.6g} in row 0 is outside the normal range of {scalars}, {low:.3g} to {high:.6g};"
        )
        with pytest.raises(ValueError, match=message):
            store(value, scalars)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("scalars", SCALARS)
def test_not_finite_scalars_are_not_stored(scalars, value):
    with pytest.raises(ValueError, match=f"norm: {value:.6g} in row 0 is outside the normal range of {scalars}"):
        store(value, scalars)


def test_the_row_of_a_scalar_out_of_range_is_named():
    values = np.ones((2, 3))
    values[1, 2] = 1e300
    with pytest.raises(
        ValueError,
        match=r"norm: 1e\+300 in row \(1, 2\) is outside the normal range of float32, 1.18e-38 to "
        r"3.40282e\+38; store it as another of float32, float64, float16, bfloat16",
    ):
        RECORD.pack([], [values], "float32", b"")
    with pytest.raises(ValueError, match=r"norm: 1e\+300 in row 2 "):
        RECORD.pack([], [values[1]], "float32", b"")


# ------------------------------------------------------------------------------------ records


@given(st.data())
@settings(derandomize=True, deadline=None, max_examples=60)
def test_a_record_is_its_streams_and_then_its_scalars(data):
    streams = tuple(data.draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8)), min_size=1, max_size=3)))
    counts = data.draw(st.lists(st.sampled_from([None, 1, 3]), max_size=3))
    record = Record(streams, tuple(Scalar(f"s{i}", count, signed=True) for i, count in enumerate(counts)))
    batch = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    scalars = data.draw(st.sampled_from(list(SCALARS)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    numbers = [rng.integers(0, 2**b, (*batch, n), dtype=np.uint8) for n, b in streams]
    # whole numbers up to 255 are exact in all four dtypes
    values = [rng.integers(-255, 256, (*batch, *([] if c is None else [c]))).astype(np.float64) for c in counts]
    packed = record.pack(numbers, values, scalars, NAME.encode())
    assert packed.data.shape == (*batch, record.bytes_per_vector(scalars))
    assert packed.bytes_per_vector == record.bytes_per_vector(scalars)
    assert packed.nbytes == packed.data.size == math.prod(batch) * record.bytes_per_vector(scalars)
    code = {"float16": "<e", "float32": "<f", "float64": "<d"}
    for where in np.ndindex(*batch):
        row = b"".join(stream(a[where], b) for a, (_, b) in zip(numbers, streams, strict=True))
        for v in values:
            for number in np.atleast_1d(v[where]):
                row += struct.pack("<f", number)[2:] if scalars == "bfloat16" else struct.pack(code[scalars], number)
        assert packed.data[where].tobytes() == row
    back_numbers, back_values = record.unpack(packed, NAME.encode())
    for found, expected in zip(back_numbers + back_values, numbers + values, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.shape == expected.shape


def test_what_unpack_refuses():
    record = Record(((5, 3),), (Scalar("norm"), Scalar("offset", signed=True)))
    good = record.pack([np.zeros((2, 5), np.uint8)], [np.ones(2), -np.ones(2)], "float32", b"quantize")
    with pytest.raises(TypeError, match="packed: expected Packed, got bytes"):
        record.unpack(good.data.tobytes(), b"quantize")
    with pytest.raises(
        ValueError, match=f"packed: it was made by quantizer {b'quantize'.hex()}, this one is {b'another!'.hex()}"
    ):
        record.unpack(good, b"another!")
    with pytest.raises(ValueError, match=r"packed: expected \(…, 10\) bytes, got uint8 \(2, 9\)"):
        record.unpack(Packed(good.data[:, :-1], "float32", b"quantize"), b"quantize")
    with pytest.raises(ValueError, match=r"packed: expected \(…, 6\) bytes, got uint8 \(2, 10\)"):
        record.unpack(Packed(good.data, "float16", b"quantize"), b"quantize")
    with pytest.raises(ValueError, match=r"packed: expected \(…, 10\) bytes, got float64 \(2, 10\)"):
        record.unpack(Packed(good.data.astype(float), "float32", b"quantize"), b"quantize")
    with pytest.raises(ValueError, match="scalars: expected one of float32, float64, float16, bfloat16, got 'fp16'"):
        record.unpack(Packed(good.data, "fp16", b"quantize"), b"quantize")
    for at, value, message in [
        (2, -1.0, "norm must be finite and not negative"),
        (2, -0.0, "norm must be finite and not negative"),
        (2, math.nan, "norm must be finite and not negative"),
        (2, math.inf, "norm must be finite and not negative"),
        (6, -math.inf, "offset must be finite$"),
    ]:
        data = good.data.copy()
        data[1, at : at + 4] = np.frombuffer(struct.pack("<f", value), np.uint8)
        with pytest.raises(ValueError, match=message):
            record.unpack(Packed(data, "float32", b"quantize"), b"quantize")
    data = good.data.copy()
    data[0, 1] |= 0x80
    with pytest.raises(ValueError, match="padding bits"):
        record.unpack(Packed(data, "float32", b"quantize"), b"quantize")


def test_unpack_takes_any_layout():
    record = Record(((5, 3),), (Scalar("norm"),))
    good = record.pack([np.arange(20, dtype=np.uint8).reshape(4, 5) % 8], [np.arange(4.0)], "float32", b"")
    data = np.asfortranarray(good.data)[::2]
    data.flags.writeable = False
    (numbers,), (norms,) = record.unpack(Packed(data, "float32", b""), b"")
    np.testing.assert_array_equal(norms, [0, 2])
    np.testing.assert_array_equal(numbers, np.arange(20).reshape(4, 5)[::2] % 8)


@pytest.mark.parametrize("scalars", ["fp32", "float8", "", "FLOAT32"])
def test_unknown_scalar_dtypes(scalars):
    with pytest.raises(
        ValueError, match=f"scalars: expected one of float32, float64, float16, bfloat16, got {scalars!r}"
    ):
        RECORD.bytes_per_vector(scalars)
    with pytest.raises(ValueError, match="scalars: expected one of"):
        store(1.0, scalars)


def test_fingerprint_is_the_start_of_a_sha_256():
    """SHA-256("abc") is the first example of FIPS 180-4."""
    assert packing.fingerprint("abc").hex() == "ba7816bf8f01cfea"
    assert packing.fingerprint("mse", 3, "Π") == packing.fingerprint("mse/3/Π")
    assert packing.fingerprint("mse", 3) != packing.fingerprint("mse", 4)
