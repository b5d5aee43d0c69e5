"""Compiled packing: the bodies of `test_packing`, and the reference's bytes for every width and length."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

pytest.importorskip("numba_kernels.packing", reason="numba is not installed", exc_type=ImportError)

from _shared import bodies

from numba_kernels import _jit, packing
from turboquant_ref import packing as reference

OF_THE_REFERENCE = [  # they judge side scalars and records, which are not compiled
    "test_known_bytes",
    "test_scalars_are_rounded_once_to_nearest_even",
    "test_bfloat16_is_not_rounded_twice",
    "test_the_ends_of_the_range",
    "test_not_finite_scalars_are_not_stored",
    "test_the_row_of_a_scalar_out_of_range_is_named",
    "test_a_record_is_its_streams_and_then_its_scalars",
    "test_what_unpack_refuses",
    "test_unpack_takes_any_layout",
    "test_unknown_scalar_dtypes",
    "test_fingerprint_is_the_start_of_a_sha_256",
]
globals().update(
    bodies(
        "test_packing",
        OF_THE_REFERENCE,
        packing=packing,
        pack_bits=packing.pack_bits,
        unpack_bits=packing.unpack_bits,
    )
)


@pytest.mark.parametrize("bits", range(9))
def test_bytes_are_those_of_the_reference(bits):
    rng = np.random.default_rng(bits)
    for n in (*range(18), 31, 128, 200):
        numbers = rng.integers(0, 2**bits, (2, 3, n)).astype(np.uint8)
        expected = reference.pack_bits(numbers, bits)
        np.testing.assert_array_equal(packing.pack_bits(numbers, bits), expected)
        np.testing.assert_array_equal(packing.unpack_bits(expected, bits, n), numbers)


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.skipif(_jit.config.DISABLE_JIT, reason="parts large enough take minutes in Python")
def test_bytes_do_not_depend_on_the_number_of_threads(bits):
    numbers = np.random.default_rng(0).integers(0, 2**bits, (50_000, 50)).astype(np.uint8)
    before, found = _jit.threads(), []
    try:
        for n in (1, 2, 3):
            _jit.set_threads(n)
            packed = packing.pack_bits(numbers, bits)
            found.append(packed)
            np.testing.assert_array_equal(packing.unpack_bits(packed, bits, 50), numbers)
    finally:
        _jit.set_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_a_record_is_that_of_the_reference():
    record = reference.Record(((5, 3), (9, 1)), (reference.Scalar("a"), reference.Scalar("b")))
    rng = np.random.default_rng(0)
    streams = [rng.integers(0, 8, (4, 5)).astype(np.uint8), rng.integers(0, 2, (4, 9)).astype(np.uint8)]
    values = [rng.random(4).astype(np.float32), rng.random(4).astype(np.float32)]
    for scalars in reference.SCALARS:
        expected = record.pack(streams, values, scalars, b"12345678")
        found = packing.pack_record(record, streams, values, scalars, b"12345678")
        np.testing.assert_array_equal(found.data, expected.data)
        assert (found.scalars, found.fingerprint) == (scalars, b"12345678")
        parts = packing.unpack_record(record, expected, b"12345678")
        for a, b in zip(chain(*parts), chain(*record.unpack(expected, b"12345678")), strict=True):
            np.testing.assert_array_equal(a, b)
    for unpack in (record.unpack, lambda *given: packing.unpack_record(record, *given)):
        with pytest.raises(TypeError, match="packed: expected Packed, got int"):
            unpack(3, b"12345678")
        with pytest.raises(ValueError, match="packed: it was made by quantizer 3132"):
            unpack(expected, b"87654321")
        with pytest.raises(ValueError, match=r"packed: expected \(…, 8\) bytes, got uint8 \(4, 7\)"):
            unpack(reference.Packed(expected.data[:, 1:], "bfloat16", b"12345678"), b"12345678")
