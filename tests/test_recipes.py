"""Recipes make caches that work and weigh what `estimate` says, to the byte."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turboquant_ref import cache, channels, generator, minmax, mse, polar
from turboquant_ref.cache import RECIPES, Recipe, Side, recipes, rope


def tokens(d: int, n: int, heads: int = 2, batch: int = 2, dtype: Any = np.float16) -> tuple[np.ndarray, np.ndarray]:
    """Keys after RoPE with a mean before it, and values."""
    rng = np.random.default_rng(d + n)
    plain = rng.standard_normal((batch, heads, n, d)) + 3 * rng.standard_normal((heads, 1, d))
    v = rng.standard_normal((batch, heads, n, d))
    return rope.setup(d).apply(plain, np.arange(n)).astype(dtype), v.astype(dtype)


def made(recipe: str | Recipe, layers: int, d: int, n: int, rng: int = 0, **options: Any) -> cache.Cache:
    k, v = tokens(d, 48)
    about = cache.calibrate(recipe, k, v, rope.setup(d))
    C = cache.Cache.from_recipe(recipe, layers, 2, d, rng, calibration=[about] * layers, rope=rope.setup(d), **options)
    for layer in C.layers:
        layer.append(*tokens(d, n))
    return C


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_attends_and_weighs_its_estimate(name: str) -> None:
    C = made(name, 5, 32, 170)
    assert C.nbytes == cache.estimate(5, 2, 32, 170, recipe=name, batch=2).total
    recipe, (k, v) = RECIPES[name], tokens(32, 170, dtype=np.float64)
    assert recipe.source
    q = np.random.default_rng(1).standard_normal((2, 4, 3, 32)).astype(np.float32)
    for l, layer in enumerate(C.layers):
        out = layer.attend(q)
        assert out.shape == q.shape
        for found, exact, side in zip(layer.dequantize(), (k, v), recipe.sides(l, 5), strict=True):
            error = ((found - exact) ** 2).sum() / (exact**2).sum()
            # Whatever the algorithm, b bits are better than Theorem 1 allows b - 1.  QJL's 2 signs a coordinate decode
            # to an unbiased vector, of relative variance pi/2 / 2 with Gaussian S and less with this one.
            if side is None:
                assert error <= 2.0**-20  # float16, at most 2^-11 a coordinate
            elif side.algorithm != "qjl":
                bits = side.bits if isinstance(side.bits, int) else 3
                assert error <= math.sqrt(3) * math.pi / 2 * 4.0 ** (1 - bits)
            else:
                assert error < 1


@pytest.mark.parametrize("name", RECIPES)
def test_the_table_of_every_recipe(name: str) -> None:
    """Its rows add up."""
    e = cache.estimate(4, 8, 128, 4096, recipe=name)
    assert e.total == e.keys + e.values + e.window + e.means + e.protected
    lines = str(e).splitlines()
    assert "total" in str(e)
    assert f"{e.ratio:.2f} times smaller than float16" == lines[-1]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[4:] if line.endswith("%")]
    assert abs(sum(shares[:-1]) - 100) <= 0.05 * len(shares)  # one decimal each
    assert e.full == 2 * 2 * 4 * 8 * 4096 * 128


@settings(max_examples=40)
@given(st.data())
def test_estimate_is_exact(data: st.DataObject) -> None:
    side = st.none() | st.builds(Side, st.sampled_from(["mse", "prod", "rabitq", "minmax"]), st.integers(2, 4))
    channel = st.just(Side("minmax", 3, options={"axis": "channel", "group": 3}))
    outliers = st.builds(Side, st.just("mse"), st.integers(1, 3), st.integers(2, 5))
    recipe = Recipe(
        data.draw(side | channel | outliers),
        data.draw(side | channel | outliers),
        window=data.draw(st.integers(0, 12)),
        sinks=data.draw(st.integers(0, 5)),
        group=data.draw(st.integers(1, 5)),
        centre=data.draw(st.sampled_from(recipes.CENTRES)),
        protected=data.draw(st.sampled_from([(), (0, -1), (1, 99, -99)])),
        protected_bits=data.draw(st.none() | st.just(5)),
        scalars=data.draw(st.sampled_from([None, "float32", "bfloat16"])),
    )
    layers, n = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 40))
    C = made(recipe, layers, 16, n)
    assert C.nbytes == cache.estimate(layers, 2, 16, n, recipe=recipe, batch=2).total


GOLDEN = """\
KV cache: 32 layers, 8 KV heads, head dimension 128, 131,072 tokens
keys mse, 4 bits; values mse, 3 bits; side scalars float32

            tokens    bits  bytes/token       total   share
keys       131,072   4.250       17,408   2.125 GiB   56.7%
values     131,072   3.250       13,312   1.625 GiB   43.3%
-----------------------------------------------------------
total      131,072   3.750       30,720   3.750 GiB  100.0%
float16    131,072  16.000      131,072  16.000 GiB

4.27 times smaller than float16"""


def test_the_estimate_of_the_issue() -> None:
    e = cache.estimate(layers=32, kv_heads=8, head_dim=128, context=131072, k_bits=4, v_bits=3)
    assert str(e) == GOLDEN
    # by hand: 32 * 8 vectors a token, of 64 + 4 and 48 + 4 bytes
    assert (e.keys, e.values) == (131072 * 256 * 68, 131072 * 256 * 52)
    assert e.bytes_per_token == 30720
    assert e.bits_per_coordinate == 3.75
    assert str(cache.estimate()) == GOLDEN


def test_papers_bits_are_what_they_say() -> None:
    """2.5 and 3.5 bits: with their two float16 norms in one reading, without them in the other."""
    expected = {"paper-2.5": 2.75, "paper-3.5": 3.75, "paper-2.5-printed": 2.5, "paper-3.5-printed": 3.5}
    for name, bits in expected.items():
        assert cache.estimate(recipe=name).bits_per_coordinate == bits
    assert cache.estimate(recipe="polar").bits_per_coordinate == 3.875
    assert abs(cache.estimate(recipe="kivi-2").bits_per_coordinate - 3) < 0.02  # and the window


def test_a_small_and_an_empty_estimate() -> None:
    e = cache.estimate(2, 1, 4, 0)
    assert e.total == 0
    assert "nan times smaller" in str(e)
    assert "64 B" in str(cache.estimate(1, 1, 2, 8, recipe=Recipe(None, None)))
    assert "3 x 8 tokens" in str(cache.estimate(1, 1, 2, 8, batch=3))


def test_seeds_are_the_documented_ones() -> None:
    C = cache.Cache.from_recipe("k3v3", 3, 2, 16, 1234)
    words = generator.words(1234, 2**64 - 2, 6)
    for l, layer in enumerate(C.layers):
        ((Qk, Qv),) = layer.quantizers
        assert Qk.fingerprint == mse.setup(16, 3, int(words[2 * l]), "structured").fingerprint
        assert Qv.fingerprint == mse.setup(16, 3, int(words[2 * l + 1]), "structured").fingerprint
    dense = cache.Cache.from_recipe("k3v3", 1, 2, 16, 1234, rotation="haar")
    assert dense.layers[0].quantizers[0][0].fingerprint == mse.setup(16, 3, int(words[0])).fingerprint


def test_protected_layers() -> None:
    recipe = dataclasses.replace(RECIPES["v3"], protected=(0, -1))
    bits = [[Q.bits for Q in layer.quantizers[0]] for layer in cache.Cache.from_recipe(recipe, 4, 1, 8, 0).layers]
    assert bits == [[8, 8], [4, 2], [4, 2], [8, 8]]
    exact = cache.Cache.from_recipe("vllm-3bit", 6, 1, 8, 0).layers
    assert [layer.quantizers[0] == (None, None) for layer in exact] == [True, True, False, False, True, True]


def test_calibration_finds_what_was_planted() -> None:
    """Outlier channels of each head, and the mean before RoPE without the sinks."""
    d, R = 16, rope.setup(16)
    rng = np.random.default_rng(0)
    m = rng.standard_normal((2, 16)).astype(np.float32)
    k = R.apply(np.repeat(m[:, None], 50, axis=1), np.arange(50)).astype(np.float32)
    k[:, :4] = 100  # sinks
    v = rng.standard_normal((2, 50, d))
    loud = np.zeros((2, d), bool)
    loud[0, [1, 3, 8, 15]] = loud[1, [0, 2, 4, 5]] = True
    v = np.where(loud[:, None], 20 * v, v)
    about = cache.calibrate("k3pre-v3", k, v, R)
    np.testing.assert_allclose(about.key_mean, m, rtol=0, atol=1e-5)  # rounding of O(1) float32
    assert about.key_outliers is None
    np.testing.assert_array_equal(cache.calibrate("paper-2.5", k, v).value_outliers, loud)
    C = cache.Cache.from_recipe("paper-2.5", 1, 2, d, 0, calibration=[cache.calibrate("paper-2.5", k, v)])
    assert all(isinstance(Q, channels.Quantizer) for pair in C.layers[0].quantizers for Q in pair)
    assert len(C.layers[0].quantizers) == 2
    one = cache.Calibration(key_outliers=loud[0], value_outliers=loud[1])
    assert len(cache.Cache.from_recipe("paper-2.5", 1, 2, d, 0, calibration=[one]).layers[0].quantizers) == 1


def test_sides() -> None:
    assert Side("minmax", 4, options={"group": None}).setup(24, 0).group == 24
    assert Side("minmax", 4).setup(64, 0).group == 32
    assert Side("qjl", 2).setup(8, 0).m == 16
    assert isinstance(Side("polar", polar.BITS).setup(16, 0), polar.Quantizer)
    assert isinstance(Side("minmax", 2).setup(32, 0), minmax.Quantizer)
    assert str(Side("mse", 2, 4, {"scale": "unbiased"})) == "mse, 4/2 bits, unbiased"
    assert str(Side("mse", 1)) == "mse, 1 bit"


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"recipe: expected a Recipe or one of paper-2\.5, .*, got 'best'"):
        cache.estimate(recipe="best")
    with pytest.raises(ValueError, match="expected it or k_bits and v_bits, not both"):
        cache.estimate(recipe="k4v2", k_bits=3)
    with pytest.raises(ValueError, match="dtype: expected one of float16, float32, float64, got 'int8'"):
        cache.estimate(dtype="int8")
    with pytest.raises(ValueError, match="bits must be an integer from 1 to 8, got 9"):
        cache.estimate(k_bits=9)
    with pytest.raises(ValueError, match=r"algorithm: expected one of mse, prod, .*, got 'int4'"):
        Side("int4")
    with pytest.raises(ValueError, match="centre: expected one of none, mean, pre_rope, got 'median'"):
        Recipe(None, None, centre="median")
    with pytest.raises(ValueError, match="scalars: expected None or one of float32"):
        Recipe(None, None, scalars="fp8")
    with pytest.raises(ValueError, match="outliers: expected the mask of its outlier channels"):
        Side("mse", 2, 4).setup(8, 0)
    with pytest.raises(ValueError, match="outliers: expected none"):
        Side("mse", 2).setup(8, 0, outliers=np.arange(8) < 2)

    def build(name: str, **options: Any) -> None:
        cache.Cache.from_recipe(name, 2, 2, 16, 0, **options)

    with pytest.raises(ValueError, match="rope: the recipe centres keys before RoPE"):
        build("k3pre-v2")
    with pytest.raises(ValueError, match="rope: the recipe centres keys before RoPE"):
        cache.calibrate("k3pre-v2", np.ones((1, 9, 8)), np.ones((1, 9, 8)))
    with pytest.raises(ValueError, match=r"calibration: layer 0: expected a key_mean of shape \(2, 16\), got None"):
        build("k3pre-v2", rope=rope.setup(16))
    with pytest.raises(ValueError, match="calibration: layer 0: the recipe has outlier channels, expected their masks"):
        build("paper-2.5")
    with pytest.raises(ValueError, match=r"calibration: layer 0: expected masks of 2 heads, got \(3, 16\)"):
        build("paper-2.5", calibration=[cache.Calibration(None, np.ones((3, 16), bool), np.ones((3, 16), bool))] * 2)
    with pytest.raises(ValueError, match="calibration: expected 2, one a layer, got 1"):
        build("paper-2.5", calibration=[cache.Calibration()])
    with pytest.raises(ValueError, match="layers must be an integer of at least 1, got 0"):
        cache.Cache.from_recipe("k3v3", 0, 2, 16, 0)
