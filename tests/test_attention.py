"""Attention from codes equals attention with decoded vectors, and its noise is the theory's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from turboquant_ref import attention, measure, mse, prod, qjl, theory
from turboquant_ref.attention import attend, attend_blocks, fidelity, logits, module_of, select, visible

U32, U64 = 2.0**-24, 2.0**-53


def gamma(n: int, u: float) -> float:
    return n * u / (1 - n * u)


def quantizer(kind: str, d: int, seed: int) -> Any:
    return {
        "mse": lambda: mse.setup(d, 3, seed),
        "mse-unbiased": lambda: mse.setup(d, 2, seed, rotation="structured", scale="unbiased"),
        "prod": lambda: prod.setup(d, 3, seed),
        "prod-released": lambda: prod.setup(d, 2, seed, sketch="orthogonal", residual="expected"),
        "qjl": lambda: qjl.setup(d, 2 * d + 1, seed),
    }[kind]()


KINDS = ("mse", "mse-unbiased", "prod", "prod-released", "qjl")


def direct(Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, scale: float, softcap: Any, seen: Any) -> Any:
    """Decode, then attend, in float64; also the sum of the magnitudes of the terms of the largest logit."""
    k = module_of(Qk).dequantize(Qk, keys).astype(np.float64)
    v = module_of(Qv).dequantize(Qv, values).astype(np.float64)
    group = q.shape[-3] // k.shape[-3]
    k, v = np.repeat(k, group, axis=-3), np.repeat(v, group, axis=-3)
    s = scale * (q.astype(np.float64) @ k.swapaxes(-1, -2))
    s = softcap * np.tanh(s / softcap) if softcap else s
    s = np.where(seen, s, -np.inf)
    w = np.exp(s - np.where(np.isneginf(s.max(-1)), 0, s.max(-1))[..., None])
    w = w / np.where(w.sum(-1) > 0, w.sum(-1), 1)[..., None]
    return s, w @ v, np.abs(v).max()


@settings(max_examples=60)
@given(st.data())
def test_equal_to_decode_then_attend(data: st.DataObject) -> None:
    d, d_v = (data.draw(st.sampled_from([2, 3, 64, 80, 96, 128, 256])) for _ in range(2))
    Qk = quantizer(data.draw(st.sampled_from(KINDS)), d, data.draw(st.integers(0, 2**64 - 1)))
    Qv = quantizer(data.draw(st.sampled_from(KINDS)), d_v, data.draw(st.integers(0, 2**64 - 1)))
    kv_heads, group, n_queries = (
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 5)),
    )
    n_keys = data.draw(st.integers(1, 24))
    batch = data.draw(st.sampled_from([(), (1,), (2,)]))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    causal, window = data.draw(st.booleans()), data.draw(st.none() | st.integers(1, 12))
    softcap = data.draw(st.none() | st.sampled_from([1.0, 30.0]))
    scale = data.draw(st.sampled_from([1 / math.sqrt(d), 1.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    q = rng.standard_normal((*batch, kv_heads * group, n_queries, d)).astype(dtype)
    keys = module_of(Qk).quantize(Qk, rng.standard_normal((*batch, kv_heads, n_keys, d)).astype(dtype))
    values = module_of(Qv).quantize(Qv, rng.standard_normal((*batch, kv_heads, n_keys, d_v)).astype(dtype))
    mask = rng.random((n_queries, n_keys)) < 0.8 if data.draw(st.booleans()) else None

    seen = visible(n_queries, n_keys, causal, window)
    seen = seen if mask is None else seen & mask
    options = {"scale": scale, "softcap": softcap, "causal": causal, "window": window, "mask": mask}
    s, out, largest = direct(Qk, Qv, q, keys, values, scale, softcap, seen)

    mine = logits(Qk, q, keys, **options)
    assert mine.dtype == dtype
    assert (np.isneginf(mine) == np.isneginf(s)).all()
    # Two chains of dot products of at most d + m terms (a rotation or a sketch, then the product with the code), each
    # within gamma_n of the sum of its terms' magnitudes; by Cauchy-Schwarz those are below sqrt(n) times the norms,
    # here with the sketch's rows of norm sqrt(d) averaged away by its constant: a factor sqrt(pi/2) sqrt(d) covers it.
    u = U32 if dtype == np.float32 else U64
    n = 4 * (d + 2 * d + 1)
    norms = np.linalg.norm(q, axis=-1).max() * np.linalg.norm(module_of(Qk).dequantize(Qk, keys), axis=-1).max()
    spread = 2 * math.sqrt(d)
    bound = gamma(n, u) * spread * scale * norms
    finite = np.isfinite(s)
    assert np.abs(mine[finite] - s[finite]).max(initial=0) <= bound
    # Weights move by exp(±2 bound); the weighted sum adds one more chain of n_keys terms.
    tolerance = largest * (math.expm1(2 * bound) + gamma(n + n_keys, u) * spread) * math.sqrt(d_v)
    np.testing.assert_array_less(np.abs(attend(Qk, Qv, q, keys, values, **options) - out), tolerance)
    block = data.draw(st.integers(1, n_keys + 1))
    blocks = attend_blocks(Qk, Qv, q, keys, values, block=block, **options)
    np.testing.assert_array_less(np.abs(blocks - out), tolerance)


def test_grouped_heads_read_their_own_keys() -> None:
    """Query head h reads key head h // group: with one key a head, the logits tell which."""
    Q = mse.setup(16, 8, 0)
    k = np.eye(16)[:3].reshape(3, 1, 16)
    q = np.repeat(np.eye(16)[:3], 2, axis=0).reshape(6, 1, 16)
    s = logits(Q, q, mse.quantize(Q, k), scale=1.0)[:, 0, 0]
    np.testing.assert_allclose(s, 1, atol=3 * math.sqrt(theory.mse(16, 8)))  # |<x, x - x~>| <= ||x - x~||


def test_additive_mask_and_unseen_rows() -> None:
    Q = mse.setup(8, 4, 0)
    rng = np.random.default_rng(1)
    keys = mse.quantize(Q, rng.standard_normal((1, 5, 8)))
    q = rng.standard_normal((1, 3, 8))
    add = rng.standard_normal((3, 5))
    np.testing.assert_array_equal(logits(Q, q, keys, mask=add), logits(Q, q, keys) + add)
    nothing = np.zeros((3, 5), dtype=bool)
    assert (attend(Q, Q, q, keys, keys, mask=nothing) == 0).all()
    assert (attend_blocks(Q, Q, q, keys, keys, mask=nothing, block=2) == 0).all()


def test_no_keys() -> None:
    Q = mse.setup(8, 4, 0)
    keys = mse.quantize(Q, np.zeros((1, 0, 8)))
    q = np.ones((1, 3, 8))
    assert logits(Q, q, keys).shape == (1, 3, 0)
    assert (attend_blocks(Q, Q, q, keys, keys) == 0).all()
    assert (attend(Q, Q, q, keys, keys) == 0).all()


def test_visible() -> None:
    """Against the definition, a loop."""
    for causal in (False, True):
        for window in (None, 1, 3):
            got = visible(4, 7, causal, window, positions=[0, 2, 5, 9])
            for i, p in enumerate([0, 2, 5, 9]):
                for j in range(7):
                    want = (not causal or j <= p) and (window is None or abs(p - j) < window)
                    assert got[i, j] == want
    assert visible(2, 5, causal=True).sum(axis=1).tolist() == [4, 5]


def test_prefill_equals_decoding() -> None:
    """All queries at once, or one at a time as the keys come: the same rows, to rounding (one chain of d terms)."""
    Q = prod.setup(32, 3, 4, rotation="structured", sketch="orthogonal")
    rng = np.random.default_rng(2)
    x, q = rng.standard_normal((1, 9, 32)), rng.standard_normal((1, 9, 32))
    code = prod.quantize(Q, x)
    whole = attend(Q, Q, q, code, code, causal=True)
    for t in range(9):
        part = select(code, (slice(None), slice(0, t + 1)))
        step = attend(Q, Q, q[:, t : t + 1], part, part, causal=True)
        np.testing.assert_allclose(step[:, 0], whole[:, t], rtol=0, atol=gamma(400, U64) * 32)


@pytest.mark.parametrize("kind", ["prod", "prod-orthogonal", "mse-unbiased"])
def test_logits_are_unbiased_with_the_exact_variance(kind: str) -> None:
    """Logit moments over 400 draws of (Pi, S) at rho = 0.6.  False-alarm rate 2e-7 a check (|z| < 5.2)."""
    d, draws, rho = 32, 400, 0.6
    options = {"prod": {}, "prod-orthogonal": {"sketch": "orthogonal"}, "mse-unbiased": {"scale": "unbiased"}}[kind]
    module = mse if kind == "mse-unbiased" else prod
    x = np.random.default_rng(5).standard_normal((1, 1, d))
    x /= np.linalg.norm(x)
    y = measure.correlated_queries(x, 6, rho)
    got = []
    for seed in range(draws):
        Q = module.setup(d, 2, seed, **options)
        got.append(float(logits(Q, y, module.quantize(Q, x), scale=1.0)[0, 0, 0]))
    exact = theory.variance(module.__name__.split(".")[-1], d, 2, rho, **options)
    z = (np.mean(got) - rho) / math.sqrt(exact / draws)
    assert abs(z) < 5.2  # detects a slope off by 5.2 sqrt(exact / draws) / rho + as much again: at most 6 % here
    # the variance of a variance: measured kurtosis; power: a factor 1.5 would be 5 sigma away
    spread = np.std((np.array(got) - rho) ** 2, ddof=1) / math.sqrt(draws)
    assert abs(np.mean((np.array(got) - rho) ** 2) - exact) < 5.2 * spread
    assert 10 * spread < exact


def test_logit_noise_multiplies_the_expected_weight() -> None:
    """E exp(logit + noise) = exp(logit) e^{sigma^2 / 2}: unbiased logits are not unbiased softmax weights.

    For y orthogonal to x the QJL estimate is exactly N(0, (pi/2) ||x||^2 ||y||^2 / m) (papers: QJL, Lemma 3.5).
    20,000 draws of S (one row of m each); false-alarm rate 1e-7 (|z| < 5.3); detectable: 6 % in the factor, against
    the 48 % it is.
    """
    m, size, draws = 2, 0.5, 20_000
    sigma2 = math.pi / 2 * size**2 / m
    S = np.random.default_rng(0).standard_normal((draws, m, 2))
    x, y = np.array([1.0, 0.0]), np.array([0.0, size])
    noise = np.array(
        [qjl.inner_product(Q, y, qjl.quantize(Q, x)) for Q in (qjl.Quantizer(qjl.of_matrix(s)) for s in S[:4000])]
    )
    closed = math.sqrt(math.pi / 2) / m * (size * S[:, :, 1] * np.sign(S[:, :, 0])).sum(1)
    np.testing.assert_allclose(noise, closed[:4000], rtol=0, atol=1e-15)  # the code is the formula
    factor = np.exp(closed)
    z = (factor.mean() - math.exp(sigma2 / 2)) / (factor.std(ddof=1) / math.sqrt(draws))
    assert abs(z) < stats.norm.isf(0.5e-7)


def test_fidelity_is_beside_its_theory() -> None:
    """Slope and noise within 3 % of their expectations, over 16 heads of 64 x 128 pairs with a rotation each.

    Over draws of the rotation alone the noise of one head scatters by about 3 % at this size (measured); the mean
    of 16 independent quantizers by 0.8 %: 3 % is 3.75 sigma, checked on a fixed seed.
    """
    rng = np.random.default_rng(0)
    for setup in (
        lambda s: mse.setup(64, 3, s),
        lambda s: prod.setup(64, 3, s),
        lambda s: qjl.setup(64, 100, s, sketch="orthogonal"),
    ):
        slope, noise, expected_noise = [], [], []
        for seed in range(16):
            k, v = rng.standard_normal((2, 1, 128, 64))
            q = rng.standard_normal((1, 64, 64)) + k[:, :64]
            f = fidelity(setup(seed), mse.setup(64, 4, seed), q, k, v)
            slope.append(f.slope / f.expected_slope)
            noise.append(f.noise)
            expected_noise.append(f.expected_noise)
        assert abs(np.mean(slope) - 1) < 0.03
        assert abs(np.mean(noise) / np.mean(expected_noise) - 1) < 0.03


def test_fidelity_of_a_nearly_exact_cache() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(shape) for shape in ((1, 4, 6, 16), (1, 2, 9, 16), (1, 2, 9, 16)))
    Q = mse.setup(16, 8, 0, scale="unbiased")
    f = fidelity(Q, Q, q, k, v, causal=True, window=4)
    assert min(f.score_cosine, f.weight_cosine) > 1 - 1e-3
    assert max(f.kl, f.output_error) < 1e-3
    assert f.top1 == 1
    assert fidelity(prod.setup(16, 3, 0, m=8), Q, q, k, v).expected_noise is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.ones((3, 2, 8))}, "heads a multiple of kv_heads"),
        ({"q": np.ones((2, 8))}, "expected"),
        ({"q": np.ones((2, 2, 9))}, "d = 8"),
        ({"scale": math.inf}, "scale: expected a finite number, got inf"),
        ({"softcap": 0.0}, "softcap: expected a positive number, got 0.0"),
        ({"window": 0}, "window must be an integer of at least 1, got 0"),
        ({"positions": [1]}, "positions: expected 2 integers"),
    ],
)
def test_bad_input(change: dict[str, Any], message: str) -> None:
    Q = mse.setup(8, 2, 0)
    keys = mse.quantize(Q, np.ones((2, 5, 8)))
    options = {"q": np.ones((4, 2, 8)), **change}
    with pytest.raises(ValueError, match=message):
        attend(Q, Q, options.pop("q"), keys, keys, **options)


def test_keys_and_values_of_another_quantizer_or_length() -> None:
    Q, other = mse.setup(8, 2, 0), mse.setup(8, 2, 1)
    keys = mse.quantize(Q, np.ones((2, 5, 8)))
    with pytest.raises(ValueError, match="it was made by quantizer"):
        attend(Q, other, np.ones((2, 1, 8)), keys, keys)
    short = attention.select(keys, (slice(None), slice(0, 4)))
    for form in (attend, attend_blocks):
        with pytest.raises(ValueError, match="values: expected the batch shape of keys"):
            form(Q, Q, np.ones((2, 1, 8)), keys, short)
    with pytest.raises(TypeError, match="weights: expected float32 or float64"):
        mse.weighted_sum(Q, np.ones((1, 5), dtype=int), select(keys, 0))
    with pytest.raises(ValueError, match="weights: expected"):
        mse.weighted_sum(Q, np.ones((1, 4)), select(keys, 0))
