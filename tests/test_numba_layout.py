"""Prepared codes of numba_kernels: reversible to the bit, laid out as the docstring says, and nothing wrong let in."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

pytest.importorskip("numba")

from numba_kernels import layout
from turboquant_ref import codebook, mse, prod, qjl, rotation, sphere
from turboquant_ref.packing import SCALARS, Packed

MAKE = {
    "mse": lambda d, b: mse.setup(d, b, 1, "structured"),
    "prod": lambda d, b: prod.setup(d, b, 2, "structured", m=d + 3),
    "prod expected": lambda d, b: prod.setup(d, b, 3, "structured", "orthogonal", "expected"),
    "qjl": lambda d, b: qjl.setup(d, d * b, 4),
}


def module(Q):
    return sys.modules[type(Q).__module__]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("name", MAKE)
def test_packed_prepared_packed_is_the_identity(name, bits) -> None:
    rng = np.random.default_rng(bits)
    for d in (2, 3, 31, 33, 130):
        Q = MAKE[name](d, bits)
        for shape in ((), (0,), (1,), (16,), (40,), (2, 3, 17), (2, 0)):
            x = rng.standard_normal((*shape, d))
            for scalars in SCALARS if d == 3 else ["float32"]:
                packed = module(Q).encode(Q, x, scalars)
                prepared = layout.prepare(Q, packed)
                back = layout.to_packed(Q, prepared)
                assert (back.scalars, back.fingerprint) == (scalars, Q.fingerprint)
                assert back.data.dtype == np.uint8
                assert back.data.shape == packed.data.shape
                np.testing.assert_array_equal(back.data, packed.data)
                assert prepared.shape == shape
                assert prepared.n == len(prepared) == (shape[-1] if shape else 1)
                assert prepared.nbytes == prepared.codes.nbytes + prepared.values.nbytes
                assert prepared.codes.size == 0 or prepared.codes.ctypes.data % 64 == 0


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_index_is_where_the_docstring_says_and_the_rest_is_zero(bits) -> None:
    d, n = 45, 21
    Q = mse.setup(d, bits, 0)
    rng = np.random.default_rng(0)
    code = mse.quantize(Q, rng.standard_normal((n, d)))
    prepared = layout.prepare(Q, mse.pack(Q, code))
    words = prepared.codes.copy()
    for v in range(n):
        for j in range(d):
            places = [(j * bits // 32, j * bits % 32, 0, bits)]
            if bits == 3:
                u, c, s = j % 32 // 16, j % 16 // 4, j % 4
                first_upper = 2 * -(-d // 32)
                places = [(j // 16, 2 * (j % 16), 0, 2), (first_upper + j // 32, 8 * c + 4 * u + s, 2, 1)]
            elif bits > 4:
                places = [(j // 4, 8 * (j % 4), 0, 8)]
            for word, shift, lowest, width in places:
                part = np.uint32(code.indices[v, j] >> lowest & (2**width - 1)) << np.uint32(shift)
                words[v // 16, word, v % 16] ^= part
    assert not words.any()
    np.testing.assert_array_equal(prepared.values[0, :n], code.scales.astype(np.float32))
    assert not prepared.values[:, n:].any()


def test_bits_stored() -> None:
    """1 to 4 bits take that many, whatever d is up to its padding; 5 to 8 take 8."""
    for bits in range(1, 9):
        Q = mse.setup(128, bits, 0)
        prepared = layout.prepare(Q, mse.encode(Q, np.ones((160, 128), np.float32)))
        assert prepared.codes.nbytes == 160 * 128 * (bits if bits <= 4 else 8) // 8


def test_an_encoder_writes_into_empty() -> None:
    Q = prod.setup(33, 4, 0)
    prepared = layout.empty(Q, (3, 18), "float64")
    assert prepared.codes.shape == (3, 2, 6 + 2, 16)
    assert (prepared.values.shape, prepared.values.dtype) == ((2, 3, 32), np.float64)
    assert not prepared.codes[:, 1, :, 2:].any()
    assert not prepared.values[..., 18:].any()
    assert [(s.start, s.words) for s in layout.sections(Q)] == [(0, 6), (6, 2)]


def test_weights_are_kept_from_the_ends_of_float32() -> None:
    Q = mse.setup(8, 2, 0)
    x = np.random.default_rng(0).standard_normal((20, 8))
    plain = layout.prepare(Q, mse.encode(Q, x))
    weights, exponent = plain.weights
    assert weights is plain.weights[0]
    np.testing.assert_array_equal(weights, plain.values[0])
    assert exponent == 0
    for scale in (2.0**-900, 2.0**100, 2.0**900):
        prepared = layout.prepare(Q, mse.encode(Q, x * scale, "float64"))
        weights, exponent = prepared.weights
        assert 0.5 <= weights.max() <= 1
        # one rounding to float32
        np.testing.assert_allclose(np.ldexp(weights.astype(np.float64), exponent), prepared.values[0], rtol=2.0**-24)


def test_wrong_codes_are_refused() -> None:
    Q, other = mse.setup(5, 3, 0), mse.setup(5, 3, 1)
    packed = mse.encode(Q, np.ones((2, 5)))
    with pytest.raises(TypeError, match="packed: expected Packed"):
        layout.prepare(Q, packed.data)
    with pytest.raises(ValueError, match="packed: it was made by quantizer"):
        layout.prepare(other, packed)
    with pytest.raises(ValueError, match="packed: expected"):
        layout.prepare(Q, Packed(packed.data[:, :-1], "float32", Q.fingerprint))
    with pytest.raises(ValueError, match="prepared: it was made by quantizer"):
        layout.to_packed(other, layout.prepare(Q, packed))
    with pytest.raises(TypeError, match="prepared: expected numba_kernels' Prepared"):
        layout.to_packed(Q, packed)
    spare = packed.data.copy()
    spare[1, 1] |= 128  # 15 bits of indices in two bytes
    with pytest.raises(ValueError, match="padding bits"):
        layout.prepare(Q, dataclasses.replace(packed, data=spare))
    for value in (-1.0, np.nan, np.inf):
        bad = packed.data.copy()
        bad[0, -4:] = np.frombuffer(np.float32(value).tobytes(), np.uint8)
        with pytest.raises(ValueError, match="scale must be finite and not negative"):
            layout.prepare(Q, dataclasses.replace(packed, data=bad))
    few = mse.Quantizer(rotation.haar(5, 0), codebook.of_centroids(sphere.law(5), np.array([-0.5, 0.0, 0.5])))
    packed = mse.encode(few, np.ones((2, 5)))
    layout.prepare(few, packed)
    packed.data[1, 0] |= 3
    with pytest.raises(ValueError, match="index 3, but the codebook has 3 centroids"):
        layout.prepare(few, packed)
