"""Rotations on the GPU: the plain kernels take the reference's steps, and undo them."""

from __future__ import annotations

import numpy as np
import pytest
from _cuda import SIMULATED, needs_kernels

from turboquant_ref import rotation as reference

DIMENSIONS = [2, 3, 8, 24, 30] if SIMULATED else [2, 3, 8, 24, 30, 100, 127, 128, 200, 1536]


def rounding(d, dtype):
    """gamma of twice the roundings along two rounds, a fused multiply-add being one less than the reference's two."""
    k = (d & -d).bit_length() - 1
    steps = 2 * (2 + k + 3 * int(np.ceil(np.log2(d >> k)))) + 8
    return 2 * steps * np.finfo(dtype).eps


@needs_kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", DIMENSIONS)
def test_a_structured_rotation_takes_the_references_steps(d, dtype) -> None:
    """In the simulator, which fuses nothing, to the bit; on a GPU to the roundings of its fused multiply-adds."""
    from cuda_kernels import rotation

    x = np.random.default_rng(d).standard_normal((2, 1, d)).astype(dtype)
    for rounds in (1, 2, 3) if d == 24 else (2,):
        R = reference.Structured(d, 9, rounds=rounds)
        for ours, theirs in ((rotation.apply, R.apply), (rotation.inverse, R.inverse)):
            if SIMULATED:
                np.testing.assert_array_equal(ours(R, x), theirs(x))
            else:
                bound = np.broadcast_to(rounding(d, dtype) * np.linalg.norm(x, axis=-1, keepdims=True), x.shape)
                np.testing.assert_array_less(np.abs(ours(R, x) - theirs(x)), bound)


@needs_kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dense_rotation_is_a_product(dtype) -> None:
    """To twice gamma_d of the sum of magnitudes, whatever the order of the sums."""
    from cuda_kernels import rotation

    d = 6 if SIMULATED else 70
    R, x = reference.haar(d, 3), np.random.default_rng(0).standard_normal((5, d)).astype(dtype)
    bound = 2 * d * np.finfo(dtype).eps * (np.abs(x) @ np.abs(R.values).T)
    np.testing.assert_array_less(np.abs(rotation.apply(R, x) - x @ R.values.T), bound)
    bound = 2 * d * np.finfo(dtype).eps * (np.abs(x) @ np.abs(R.values))
    np.testing.assert_array_less(np.abs(rotation.inverse(R, x) - x @ R.values), bound)


@needs_kernels
def test_fwht_is_exact_in_integers_and_the_same_in_floats() -> None:
    from cuda_kernels import rotation

    rng = np.random.default_rng(0)
    for n in (1, 2, 16):
        for x in (rng.integers(-1000, 1000, (3, n)), rng.standard_normal((3, n)), rng.standard_normal(n, np.float32)):
            np.testing.assert_array_equal(rotation.fwht(x), reference.fwht(x))
    with pytest.raises(TypeError, match="x must be an array of int64, float32 or float64"):
        rotation.fwht(np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="power of two"):
        rotation.fwht(np.zeros((2, 6)))


def test_one_round_has_a_name_of_its_own() -> None:
    from cuda_kernels import rotation

    R = rotation.one_round(24, 5, stream=2)
    x = np.random.default_rng(1).standard_normal(24)
    np.testing.assert_array_equal(R.apply(x), reference.Structured(24, 5, 2, rounds=1).apply(x))
    assert R.identity != reference.structured(24, 5, 2).identity
