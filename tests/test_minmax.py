"""The min-max baseline: KIVI's own loops as oracle, half a step as bound, and bytes that are the code."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turboquant_ref import minmax, mse, packing

PRECISION = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
LEAST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def kivi(x, bits, axis, group):
    """KIVI's quant_and_pack and unpack_and_dequant in float64, number by number; x (n, d).  Indices, decoded."""
    n, d = x.shape
    indices, decoded = np.zeros((n, d), int), np.zeros((n, d))
    for i in range(n):
        for j in range(d):
            if axis == "token":
                members = x[i, j // group * group : (j // group + 1) * group]
            else:
                members = x[i // group * group : (i // group + 1) * group, j]
            mn, mx = members.min(), members.max()
            scale = (mx - mn) / (2**bits - 1)
            indices[i, j] = round(min(max((x[i, j] - mn) / scale, 0), 2**bits - 1)) if scale else 0
            decoded[i, j] = indices[i, j] * scale + mn
    return indices, decoded


def spread(Q, scalars, shape):
    """Each group's number at each of its coordinates."""
    if Q.axis == "token":
        return np.repeat(scalars, Q.group, axis=-1)
    return np.repeat(scalars, Q.group, axis=-2).reshape(shape)


# --- what it is


@pytest.mark.parametrize("axis", minmax.AXES)
@pytest.mark.parametrize("bits", range(1, 9))
def test_it_is_kivi(axis, bits):
    x = np.random.default_rng(bits).standard_normal((12, 18)) * 5
    Q = minmax.setup(18, bits, axis=axis, group=6, scalars="float64")
    code = minmax.quantize(Q, x)
    indices, decoded = kivi(x, bits, axis, 6)
    np.testing.assert_array_equal(code.indices, indices)  # no ties among random numbers
    np.testing.assert_allclose(minmax.dequantize(Q, code), decoded, rtol=0, atol=8 * 2.0**-53 * np.abs(x).max())
    assert code.scales.shape == code.zeros.shape == ((12, 3) if axis == "token" else (2, 18))


@pytest.mark.parametrize("axis", minmax.AXES)
def test_one_bit_is_the_minimum_and_the_maximum(axis):
    x = np.array([[1.0, 2.0, 3.0, 9.0], [4.0, -1.0, 0.0, 8.0]])
    Q = minmax.setup(4, 1, axis=axis, group=2)
    expected = {"token": x, "channel": x}[axis]  # groups of two numbers
    np.testing.assert_array_equal(minmax.dequantize(Q, minmax.quantize(Q, x)), expected)


def test_ties_go_up():
    x = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 2.999])
    Q = minmax.setup(8, 2, group=8)
    np.testing.assert_array_equal(minmax.quantize(Q, x).indices, [0, 1, 1, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(minmax.quantize(Q, x - 64).indices, [0, 1, 1, 2, 2, 3, 3, 3])


@pytest.mark.parametrize("axis", minmax.AXES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("value", [0, -0.0, 1, -3, 100, -65504])
def test_constant_groups_are_exact(axis, dtype, value):
    x = np.full((8, 8), value).astype(dtype)
    Q = minmax.setup(8, 3, axis=axis, group=4)
    code = minmax.quantize(Q, x)
    assert np.all(code.scales == 0)
    assert np.all(code.indices == 0)
    assert not np.signbit(code.scales).any()
    np.testing.assert_array_equal(minmax.dequantize(Q, code), x)
    np.testing.assert_array_equal(minmax.dequantize(Q, minmax.unpack(Q, minmax.pack(Q, code))), x)


def test_a_constant_that_float16_lacks_is_between_two_levels():
    x = np.full(4, 0.1)
    Q = minmax.setup(4, 2, group=4)
    code = minmax.quantize(Q, x)
    error = np.abs(minmax.dequantize(Q, code) - x).max()
    assert 0 < error <= code.scales.max() / 2
    assert code.scales.max() < 2.0**-14 + 2.0**-24
    Q = minmax.setup(4, 2, group=4, scalars="float64")
    np.testing.assert_array_equal(minmax.dequantize(Q, minmax.quantize(Q, x)), x)


# --- zero point and scale: rounded outwards to what is stored


@settings(max_examples=300, deadline=None)
@given(
    hnp.arrays(np.float64, (3, 8), elements=st.floats(-60000, 60000, allow_subnormal=True)),
    st.integers(1, 8),
    st.sampled_from(sorted(PRECISION)),
    st.sampled_from(minmax.AXES),
    st.sampled_from([np.float32, np.float64]),
)
@example(np.eye(3, 8) * 2.0**-149, 1, "float64", "channel", np.float32)
@example(np.eye(3, 8) * 2.0**-149, 1, "float64", "token", np.float32)
def test_no_error_exceeds_half_a_step(x, bits, scalars, axis, dtype):
    x = np.repeat(x.astype(dtype), 4, axis=0)[:8]
    if bits == 1 and scalars == "float16":
        x = x / 2  # one step can reach from -30000 to 30000
    Q = minmax.setup(8, bits, axis=axis, group=4, scalars=scalars)
    code, steps = minmax.quantize(Q, x), minmax.trace(Q, x)
    top = 2**bits - 1
    zeros, scales = code.zeros.astype(float), code.scales.astype(float)
    assert np.all(zeros <= steps["low"])
    u = float(np.finfo(dtype).eps) / 2
    last = zeros + top * scales
    tiny = float(np.finfo(dtype).tiny)
    assert np.all(last >= steps["high"] - 4 * u * (np.abs(zeros) + np.abs(last)) - tiny)
    # half a step; and the rounding of x - zero, of the position (one ulp each, up to `top`) and of the level
    slack = 8 * u * (np.abs(zeros) + top * scales) + tiny
    error = np.abs(minmax.dequantize(Q, code).astype(float) - x)
    assert np.all(error <= spread(Q, scales / 2 + slack, x.shape))
    # both are numbers of the stored dtype, normal or 0, and no coarser than they must be
    for value in (zeros, scales):
        fraction = np.frexp(value)[0] * 2.0 ** min(PRECISION[scalars], PRECISION[np.dtype(dtype).name])
        np.testing.assert_array_equal(fraction, np.rint(fraction))
        assert np.all((value == 0) | (np.abs(value) >= max(LEAST[scalars], 0)))
    p = min(PRECISION[scalars], PRECISION[np.dtype(dtype).name])
    least = max(LEAST[scalars], tiny)  # float64 scalars of float32 vectors are float32 numbers
    assert np.all(steps["low"] - zeros <= np.maximum(2.0 ** (1 - p) * np.abs(zeros), least))
    need = (steps["high"] - zeros) / top
    assert np.all(scales <= np.maximum(need * (1 + 2.0 ** (1 - p)) * (1 + 4 * u), least))


def test_float16_is_rounded_as_numpy_would_downwards():
    x = np.random.default_rng(1).standard_normal((200, 32)).astype(np.float32) * 30
    Q = minmax.setup(32, 4)
    zeros = minmax.quantize(Q, x).zeros[:, 0]
    nearest = x.min(axis=1).astype(np.float16)
    down = np.where(nearest > x.min(axis=1), np.nextafter(nearest, np.float16(-np.inf)), nearest)
    np.testing.assert_array_equal(zeros, down.astype(np.float32))


@pytest.mark.parametrize("axis", minmax.AXES)
def test_beyond_float16_is_a_clear_error(axis):
    x = np.ones((4, 4), np.float32)
    x[1, 2] = 70000
    limit = r"beyond the range of float16, 65504, in which its scale and zero point are kept"
    low = minmax.setup(4, 2, axis=axis, group=4)
    minmax.quantize(low, x)  # its step is 23333: within
    minmax.quantize(low, x * 2)
    where = {"token": r"\(1, 0\)", "channel": r"\(0, 2\)"}[axis]
    message = f"^x: the group {where} is {limit}: its numbers reach from .* set up with"
    for bad in (x * 3, -x):  # the step, the zero point
        with pytest.raises(ValueError, match=message):
            minmax.quantize(low, bad)
    for scalars in ("bfloat16", "float32", "float64"):
        minmax.quantize(minmax.setup(4, 2, axis=axis, group=4, scalars=scalars), x * 3)
    wide, far = minmax.setup(2, 1, group=2, scalars="float64"), np.array([[-1.7e308, 1.7e308]] * 2)
    with pytest.raises(ValueError, match=r"beyond the range of float64, .*: its numbers reach from -1\.7e\+308 to"):
        minmax.quantize(wide, far)


def test_small_numbers_are_not_an_error():
    """Their step is the smallest that float16 keeps at full precision: an absolute error of 2^-15 at the most."""
    x = np.random.default_rng(2).standard_normal((5, 32)) * 1e-6
    Q = minmax.setup(32, 2)
    code = minmax.quantize(Q, x)
    assert np.all(code.scales == 2.0**-14)
    assert np.all(code.zeros == -(2.0**-14))
    assert np.abs(minmax.dequantize(Q, code) - x).max() <= 2.0**-15
    minmax.pack(Q, code)


# --- layouts, bytes, verbs


def test_outlier_channels_are_what_the_channel_layout_is_for():
    x = np.random.default_rng(3).standard_normal((64, 64))
    x[:, 5] += 50
    error = {}
    for axis in minmax.AXES:
        Q = minmax.setup(64, 2, axis=axis, group=32)
        error[axis] = ((minmax.dequantize(Q, minmax.quantize(Q, x)) - x) ** 2).mean(axis=0)
    neighbours = [j for j in range(32) if j != 5]
    # a token's group with the outlier has a step of about 17, so its other channels are all but lost
    assert error["token"][neighbours].mean() > 0.9
    assert error["channel"][neighbours].mean() < 0.3
    assert np.abs(error["token"][32:].mean() / error["channel"][32:].mean() - 1) < 0.1


@pytest.mark.parametrize("axis", minmax.AXES)
def test_error_is_a_twelfth_of_the_step_squared(axis):
    x = np.random.default_rng(4).standard_normal((256, 128))
    Q = minmax.setup(128, 8, axis=axis, group=32, scalars="float64")
    code = minmax.quantize(Q, x)
    ratio = (minmax.dequantize(Q, code) - x) ** 2 / spread(Q, code.scales**2 / 12, x.shape)
    inner = ratio.size * 30 / 32  # two of 32, the ends, are exact
    # a uniform error: (12 e^2 / step^2) has mean 1 and variance 4/5; 6 standard errors
    assert abs(ratio.sum() / inner - 1) <= 6 * math.sqrt(0.8 / inner) + 0.01


@pytest.mark.parametrize(
    ("d", "bits", "axis", "group", "scalars", "record", "stored"),
    [
        (128, 2, "token", 32, "float16", 32 + 4 * 4, 3.0),
        (128, 2, "channel", 32, "float16", 1024 + 128 * 4, 3.0),
        (128, 4, "token", 128, "float32", 64 + 8, 4.5),
        (64, 3, "channel", 64, "float16", 64 * 24 + 64 * 4, 3.5),
        (10, 3, "token", 5, "bfloat16", 4 + 2 * 4, 9.6),
        (3, 5, "channel", 7, "float64", 14 + 3 * 16, 8 * 62 / 21),
    ],
)
def test_bytes_are_honest(d, bits, axis, group, scalars, record, stored):
    Q = minmax.setup(d, bits, axis=axis, group=group, scalars=scalars)
    packed = minmax.pack(Q, minmax.quantize(Q, np.random.default_rng(5).standard_normal((3, 2 * group, d))))
    rows = 2 * group if axis == "token" else 2
    assert packed.data.shape == (3, rows, record)
    assert packed.scalars == scalars
    assert Q.bytes_per_record() == record == packed.bytes_per_vector
    assert Q.stored_bits == pytest.approx(stored, rel=1e-15)
    assert Q.stored_bits == pytest.approx(8 * packed.nbytes / (3 * 2 * group * d), rel=1e-15)
    assert Q.bytes_per_vector() * Q.vectors_per_record == record
    groups = d // group if axis == "token" else d
    assert Q.bytes_per_record("float64") == Q.bytes_per_record("float16") + 6 * 2 * groups


def test_a_row_of_bytes_by_hand():
    x = np.array([[0.0, 1.0, 2.0, 3.0], [-1.0, -1.0, 5.0, 2.0]])
    token = minmax.setup(4, 2, group=2)
    data = minmax.pack(token, minmax.quantize(token, x)).data
    # indices 0 3 0 3, then the steps 1/3, 1/3 rounded up, then the zero points 0 and 2
    third = np.array([np.nextafter(np.float16(1 / 3), np.float16(1))], "<f2").tobytes()
    assert float(np.frombuffer(third, "<f2")[0]) > 1 / 3 >= float(np.float16(1 / 3))
    assert data[0].tobytes() == bytes([0b11001100]) + third + third + np.array([0, 2], "<f2").tobytes()
    channel = minmax.setup(4, 2, axis="channel", group=2)
    data = minmax.pack(channel, minmax.quantize(channel, x)).data
    assert data.shape == (1, 2 + 4 * 4)
    # token 0: 3 3 0 3, token 1: 0 0 3 0; the steps 1/3, 2/3, 1, 1/3 rounded up; the zero points
    assert data[0, :2].tobytes() == bytes([0b11001111, 0b00110000])
    assert data[0, 10:].tobytes() == np.array([-1, -1, 2, 2], "<f2").tobytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_round_trip(data):
    axis = data.draw(st.sampled_from(minmax.AXES))
    bits = data.draw(st.integers(1, 8))
    group = data.draw(st.integers(1, 6))
    d = data.draw(st.integers(1, 5)) * group if axis == "token" else data.draw(st.integers(2, 12))
    d = 2 * group if d < 2 else d
    scalars = data.draw(st.sampled_from(sorted(packing.SCALARS)))
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64", "int8", "uint16", "int64"]))
    batch = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
    shape = (*batch, d) if axis == "token" else (*batch, data.draw(st.integers(0, 3)) * group, d)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = (rng.random(shape) * 100).astype(dtype)
    x[rng.random(shape[:-1]) < 0.2] = 0
    Q = minmax.setup(d, bits, axis=axis, group=group, scalars=scalars)
    code = minmax.quantize(Q, x)
    compute = np.float32 if dtype in ("float16", "float32") else np.float64
    assert code.indices.shape == shape
    assert code.indices.dtype == np.uint8
    assert code.scales.dtype == code.zeros.dtype == compute
    packed = minmax.pack(Q, code)
    back = minmax.unpack(Q, packed)
    for name in ("indices", "scales", "zeros"):  # what is stored is the code: nothing is rounded
        np.testing.assert_array_equal(getattr(back, name), getattr(code, name))
    np.testing.assert_array_equal(minmax.pack(Q, back).data, packed.data)
    decoded = minmax.dequantize(Q, code)
    assert decoded.shape == shape
    assert decoded.dtype == compute
    assert np.all(np.isfinite(decoded))
    wide = minmax.unpack(Q, minmax.pack(Q, code, "float64"))
    np.testing.assert_array_equal(wide.zeros, code.zeros)


@pytest.mark.parametrize("axis", minmax.AXES)
def test_inner_products_and_sums_are_those_of_the_decoded(axis):
    rng = np.random.default_rng(6)
    x, y, w = rng.standard_normal((2, 8, 12)), rng.standard_normal((3, 12)), rng.random((5, 8))
    Q = minmax.setup(12, 3, axis=axis, group=4)
    code = minmax.quantize(Q, x)
    decoded = minmax.dequantize(Q, code)
    # sums of 12 (or 8) terms of size 1
    np.testing.assert_allclose(minmax.inner_product(Q, y, code), np.einsum("ad,bnd->abn", y, decoded), atol=1e-13)
    one = minmax.quantize(Q, x[0])
    total = minmax.to_original(Q, minmax.weighted_sum(Q, w, one))
    np.testing.assert_allclose(total, w @ decoded[0], atol=1e-13)
    steps = minmax.trace(Q, x)
    assert list(steps) == ["x", "low", "high", "zero", "scale", "position", "indices", "decoded"]
    np.testing.assert_array_equal(steps["decoded"], decoded)
    np.testing.assert_array_equal(minmax.quantize(Q, x[1]).indices, code.indices[1])
    np.testing.assert_array_equal(minmax.quantize(Q, x).indices, code.indices)  # nothing is random


# --- bad input


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"d": 1}, ValueError, "d must be an integer of at least 2, got 1"),
        ({"bits": 0}, ValueError, "bits must be an integer from 1 to 8, got 0"),
        ({"bits": 9}, ValueError, "bits must be an integer from 1 to 8, got 9"),
        ({"bits": 2.5}, TypeError, "bits must be an integer from 1 to 8, got 2.5"),
        ({"bits": True}, TypeError, "bits must be an integer from 1 to 8, got True"),
        ({"axis": "tokens"}, ValueError, "axis: expected one of token, channel, got 'tokens'"),
        ({"group": 0}, ValueError, "group must be an integer of at least 1, got 0"),
        ({"group": 5}, ValueError, "group: expected a divisor of d = 8 for axis 'token', got 5"),
        ({"group": None}, TypeError, "group must be an integer"),
        ({"scalars": "fp16"}, ValueError, "scalars: expected one of float32, float64, float16, bfloat16, got 'fp16'"),
    ],
)
def test_bad_setup(change, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        minmax.setup(**{"d": 8, "bits": 2, "group": 4, **change})


def test_an_incomplete_block_is_refused():
    Q = minmax.setup(8, 2, axis="channel", group=32)
    whole = r"^x: expected whole blocks of 32 tokens, \(…, n, 8\) with n a multiple of 32, got "
    with pytest.raises(ValueError, match=whole + r"70 tokens \(its shape is \(2, 70, 8\)\); the last,"):
        minmax.quantize(Q, np.zeros((2, 70, 8)))
    with pytest.raises(ValueError, match=whole + r"shape \(8,\)"):
        minmax.quantize(Q, np.zeros(8))
    assert minmax.quantize(Q, np.zeros((0, 8))).indices.shape == (0, 8)


def test_bad_data_and_codes():
    Q, other = minmax.setup(8, 2, group=4), minmax.setup(8, 2, group=8)
    code = minmax.quantize(Q, np.ones((2, 8)))
    with pytest.raises(ValueError, match=r"^x has vectors of 7"):
        minmax.quantize(Q, np.ones(7))
    with pytest.raises(ValueError, match=r"^x holds 1 NaN and 1 infinite"):
        minmax.quantize(Q, np.r_[np.nan, np.inf, np.ones(6)])
    with pytest.raises(ValueError, match=r"^code: it was made by quantizer"):
        minmax.dequantize(other, code)
    with pytest.raises(TypeError, match=r"^code: expected MinMaxCode, got MSECode$"):
        minmax.dequantize(Q, mse.quantize(mse.setup(8, 2, 0), np.ones(8)))
    with pytest.raises(ValueError, match=r"^packed: it was made by quantizer"):
        minmax.unpack(other, minmax.pack(Q, code))
    far = minmax.MinMaxCode(code.indices, code.scales, np.array([[0, 1], [1e6, 0]]), Q.fingerprint)
    with pytest.raises(ValueError, match=r"^zero point: 1e\+06 in row 1 is outside the normal range of float16"):
        minmax.pack(Q, far)
    made = [minmax.setup(8, b, axis=a, group=g, scalars=s).fingerprint
            for b in (2, 3) for a in minmax.AXES for g in (4, 8) for s in packing.SCALARS]
    assert len(set(made)) == len(made)


# --- planted bugs


def test_planted_bugs_are_seen():
    x = np.random.default_rng(7).standard_normal((400, 32)) + 10
    Q = minmax.setup(32, 8)
    code = minmax.quantize(Q, x)
    assert np.abs(minmax.dequantize(Q, code) - x).max() <= code.scales.max() / 2 * (1 + 1e-9)
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    # the code of exact numbers, decoded with float16 ones: what rounding after the indices would do
    scale = (high - low) / 255
    indices = np.floor((x - low) / scale + 0.5)
    decoded = low.astype(np.float16).astype(float) + scale.astype(np.float16).astype(float) * indices
    assert (np.abs(decoded - x) > scale * 0.6).any()
    # truncation instead of rounding
    assert (np.abs(low + scale * np.floor((x - low) / scale) - x) > scale * 0.6).any()
