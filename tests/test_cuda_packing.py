"""Bits in memory on the GPU: to the bit those of the reference, which refuses in its own words."""

from __future__ import annotations

import numpy as np
import pytest
from _cuda import needs_kernels

from turboquant_ref import packing as reference


@needs_kernels
@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_and_back(bits) -> None:
    from cuda_kernels import packing

    rng = np.random.default_rng(bits)
    for shape in ((3, 1), (2, 2, 11), (7,), (4, 16)):
        numbers = rng.integers(0, 2**bits, shape, dtype=np.uint8)
        data = packing.pack_bits(numbers, bits)
        np.testing.assert_array_equal(data, reference.pack_bits(numbers, bits))
        np.testing.assert_array_equal(packing.unpack_bits(data, bits, shape[-1]), numbers)


@needs_kernels
def test_the_edges() -> None:
    from cuda_kernels import packing

    assert packing.pack_bits(np.zeros((2, 3), np.uint8), 0).shape == (2, 0)
    assert packing.pack_bits(np.zeros((0, 3), np.uint8), 4).shape == (0, 2)
    np.testing.assert_array_equal(packing.unpack_bits(np.zeros((2, 0), np.uint8), 0, 3), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="9 does not fit in 3 bits"):
        packing.pack_bits(np.array([[1, 9]], np.uint8), 3)
    with pytest.raises(ValueError, match="padding bits"):
        packing.unpack_bits(np.array([[255]], np.uint8), 3, 2)
    with pytest.raises(TypeError, match="expected dtype uint8, got int64"):
        packing.pack_bits(np.array([[1, 2]]), 3)
    with pytest.raises(ValueError, match=r"expected \(…, 1\) bytes"):
        packing.unpack_bits(np.zeros((1, 2), np.uint8), 3, 2)


@needs_kernels
def test_planes_are_those_of_the_layout() -> None:
    """3-bit numbers by the kernels and by the host functions of `layout`: the same bytes, and back."""
    from cuda_kernels import _launch, layout, quantize_plain
    from cuda_kernels.vectors import spread

    numbers = np.random.default_rng(0).integers(0, 8, (2, 64), dtype=np.uint8)
    codes, high = layout.split(layout.Form(64, 3, planes=True), numbers)
    home, made, back = _launch.home_of(), np.zeros((2, 8), np.uint8), np.zeros((2, 64), np.uint8)
    on = _launch.ready().to_device
    made, back, given = on(made), on(back), on(numbers)
    spread(quantize_plain.upper_plane, 16, home, given, made)
    np.testing.assert_array_equal(made.copy_to_host(), high)
    spread(quantize_plain.join_planes, 128, home, on(codes), on(high), back)
    np.testing.assert_array_equal(back.copy_to_host(), numbers)
