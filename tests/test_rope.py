"""RoPE against complex multiplication and against Hugging Face's formula, and the mean key before it."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
from _boxes import gamma
from hypothesis import given
from hypothesis import strategies as st

from turboquant_ref.cache import rope


def complex_rope(x: np.ndarray, t: int, base: float, layout: str, rotary: int) -> np.ndarray:
    """R_t x, a pair at a time, as multiplication by e^(i t f): shares nothing with `Rope`."""
    out = x.astype(np.float64).copy()
    for i in range(rotary // 2):
        a, b = (i, i + rotary // 2) if layout == "half" else (2 * i, 2 * i + 1)
        z = complex(x[a], x[b]) * cmath.exp(1j * t * base ** (-2 * i / rotary))
        out[a], out[b] = z.real, z.imag
    return out


@given(st.data())
def test_equals_complex_multiplication(data: st.DataObject) -> None:
    d = data.draw(st.sampled_from([2, 4, 64, 80, 128]))
    rotary = data.draw(st.sampled_from([r for r in (2, 32, d) if r <= d]))
    layout, base = data.draw(st.sampled_from(rope.LAYOUTS)), data.draw(st.sampled_from([100.0, 1e4, 5e5]))
    t = data.draw(st.integers(-5000, 200_000))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    x = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(d).astype(dtype)
    found = rope.setup(d, base, layout, rotary).apply(x[None], [t])[0]
    assert found.dtype == dtype
    # the angle t f is rounded to float64 and so is f, cos and sin to the dtype; then 3 operations
    bound = (gamma(4, dtype) + abs(t) * 2.0**-51) * 2 * np.abs(x).max()
    np.testing.assert_array_less(np.abs(found - complex_rope(x, t, base, layout, rotary)), bound)


def test_half_is_rotate_half() -> None:
    """As the model files of Llama and its kin have it: x cos + rotate_half(x) sin."""
    d, t = 16, np.arange(7)
    x = np.random.default_rng(0).standard_normal((3, 7, d))
    f = 1 / (10000.0 ** (np.arange(0, d, 2) / d))
    angles = np.concatenate([np.outer(t, f)] * 2, axis=-1)
    rotated = np.concatenate([-x[..., d // 2 :], x[..., : d // 2]], axis=-1)
    expected = x * np.cos(angles) + rotated * np.sin(angles)
    np.testing.assert_allclose(rope.setup(d).apply(x, t), expected, rtol=0, atol=1e-14)  # O(10) roundings


@given(st.lists(st.integers(-300, 10**6), min_size=1, max_size=9))
def test_a_position_does_not_depend_on_its_neighbours(positions: list[int]) -> None:
    R = rope.setup(10, 1e4)
    x = np.random.default_rng(1).standard_normal((len(positions), 10))
    alone = [R.apply(x[i : i + 1], [t])[0] for i, t in enumerate(positions)]
    np.testing.assert_array_equal(R.apply(x, positions), alone)


def test_inverse_and_batches_of_positions() -> None:
    R = rope.setup(8, layout="interleaved")
    x = np.random.default_rng(2).standard_normal((2, 3, 5, 8))
    t = np.array([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    turned = R.apply(x, t[:, None])
    np.testing.assert_array_equal(turned[1], R.apply(x[1], t[1]))
    np.testing.assert_allclose(R.apply(turned, -t[:, None]), x, rtol=0, atol=1e-14)
    assert R.apply(np.zeros((4, 0, 8)), np.arange(0)).shape == (4, 0, 8)


@pytest.mark.parametrize("layout", rope.LAYOUTS)
def test_key_mean_is_that_before_rope(layout: str) -> None:
    rng = np.random.default_rng(3)
    plain = rng.standard_normal((2, 3, 50, 16)) + rng.standard_normal((3, 1, 16))
    t = np.arange(50) + np.array([[0], [9]])
    k = np.array(
        [
            [[complex_rope(x, int(p), 1e4, layout, 16) for x, p in zip(h, ps, strict=True)] for h in s]
            for s, ps in zip(plain, t, strict=True)
        ]
    )
    found = rope.key_mean(k, t, rope.setup(16, layout=layout))
    assert found.dtype == np.float32
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found, plain.mean(axis=(0, 2)), rtol=0, atol=4 * 2.0**-24)  # one rounding to float32
    np.testing.assert_allclose(rope.key_mean(k), k.mean(axis=(0, 2)), rtol=0, atol=4 * 2.0**-24)


def test_errors() -> None:
    with pytest.raises(ValueError, match="layout: expected one of half, interleaved, got 'pairs'"):
        rope.setup(8, layout="pairs")
    with pytest.raises(ValueError, match="rotary: pairs need an even number of channels, got 7"):
        rope.setup(7)
    with pytest.raises(ValueError, match="rotary must be an integer from 2 to 8, got 10"):
        rope.setup(8, rotary=10)
    with pytest.raises(ValueError, match="base: expected a positive number, got 0"):
        rope.setup(8, 0)
    with pytest.raises(ValueError, match="frequencies: expected finite numbers"):
        rope.Rope((float("nan"),))
    with pytest.raises(ValueError, match="it has 4 channels, RoPE turns 8"):
        rope.setup(8).apply(np.zeros((1, 4)), [0])
    with pytest.raises(TypeError, match="positions: expected integers, got float64"):
        rope.setup(8).apply(np.zeros((1, 8)), [0.5])
    with pytest.raises(ValueError, match="n of at least 1"):
        rope.key_mean(np.zeros((1, 0, 8)))
