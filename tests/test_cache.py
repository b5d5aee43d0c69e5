"""A cache against a list of vectors that are quantized one by one, and attention over it against decoding."""

from __future__ import annotations

import itertools
import math
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _boxes import gamma
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_rope import complex_rope

import turboquant_ref
from turboquant_ref import attention, cache, channels, container, minmax, mse, packing, prod, rabitq
from turboquant_ref.cache import rope
from turboquant_ref.codes import module_of


def normal(shape: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def quantizer(kind: str, d: int, bits: int = 3, seed: int = 0) -> Any:
    """Structured all: then a vector's code is the same to the bit whatever is beside it."""
    return {
        "none": lambda: None,
        "mse": lambda: mse.setup(d, bits, seed, "structured", "unbiased"),
        "haar": lambda: mse.setup(d, bits, seed),
        "prod": lambda: prod.setup(d, bits, seed, "structured", sketch="orthogonal"),
        "rabitq": lambda: rabitq.setup(d, bits, seed, "structured"),
        "channels": lambda: channels.setup(d, (bits + 1, bits), seed, np.arange(d) % 4 == 1, rotation="structured"),
        "minmax": lambda: minmax.setup(d, bits, group=d // 2),
        "minmax channel": lambda: minmax.setup(d, bits, axis="channel", group=3),
    }[kind]()


KINDS = ("none", "mse", "prod", "rabitq", "channels", "minmax", "minmax channel")
kinds = st.sampled_from(KINDS)


@st.composite
def settings_of_a_layer(draw: st.DrawFn, d: int, heads: int) -> dict[str, Any]:
    centred = draw(st.sampled_from(["no", "mean", "pre_rope"]))
    return {
        "window": draw(st.integers(0, 9)),
        "sinks": draw(st.integers(0, 5)),
        "group": draw(st.sampled_from([1, 1, 2, 4])),
        "block": draw(st.sampled_from([1, 4, 7, 256])),
        "key_mean": None if centred == "no" else 3 * normal((heads, d), 77),
        "rope": rope.setup(d, layout=draw(st.sampled_from(rope.LAYOUTS))) if centred == "pre_rope" else None,
    }


def splits(draw: Any, n: int) -> list[int]:
    ends = sorted(draw(st.sets(st.integers(1, n - 1), max_size=8))) if n > 1 else []
    return [0, *ends, n]


@settings(max_examples=60)
@given(st.data())
def test_any_split_of_the_appends_gives_the_same_bytes(data: st.DataObject) -> None:
    d, heads, n = data.draw(st.sampled_from([8, 12])), data.draw(st.integers(1, 2)), data.draw(st.integers(1, 40))
    batch = data.draw(st.sampled_from([(), (2,), (0,)]))
    Qk, Qv = (quantizer(data.draw(kinds), d, data.draw(st.integers(1, 4)), seed) for seed in (1, 2))
    options = data.draw(settings_of_a_layer(d, heads))
    if Qk is None:
        options.update(key_mean=None, rope=None)
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    k, v = (normal((*batch, heads, n, d), seed, dtype) for seed in (3, 4))
    whole, grown = cache.Layer(Qk, Qv, **options), cache.Layer(Qk, Qv, **options)
    whole.append(k, v)
    at = splits(data.draw, n)
    for a, b in itertools.pairwise(at):
        grown.append(k[..., a:b, :], v[..., a:b, :])
    expected, found = whole.arrays(), grown.arrays()
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert grown.nbytes == whole.nbytes


def test_any_split_with_a_dense_rotation_gives_the_same_codes() -> None:
    """BLAS may round a row otherwise in another batch: indices may differ only on a boundary, scales by rounding."""
    d, n = 64, 96
    Q = quantizer("haar", d)
    k = normal((2, n, d))
    whole, grown = cache.Layer(Q, Q), cache.Layer(Q, Q)
    whole.append(k, k)
    for t in range(n):
        grown.append(k[:, t : t + 1], k[:, t : t + 1])
    a, b = (mse.unpack(Q, packing.Packed(x.arrays()["keys.0"], "float32", Q.fingerprint)) for x in (whole, grown))
    z = k.astype(np.float64) / np.linalg.norm(k.astype(np.float64), axis=-1, keepdims=True) @ Q.rotation.matrix().T
    margin = 2 * gamma(d + 5, np.float32)  # each of the two is that far from the truth at most, |Pi_i| = |u| = 1
    far = np.abs(z[..., None] - Q.codebook.boundaries).min(-1) > margin
    np.testing.assert_array_equal(a.indices[far], b.indices[far])
    assert far.mean() > 0.999  # density below 4 / d^.5 at 7 boundaries, within 2 margins: 1e-4 at most
    np.testing.assert_allclose(a.scales, b.scales, rtol=4 * gamma(d + 5, np.float32))


class ListOfVectors(RuleBasedStateMachine):
    """A cache in any history, beside a list of tokens, each quantized by itself."""

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        self.d, self.heads, self.batch = 8, data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
        self.Q = [quantizer(data.draw(kinds), self.d, data.draw(st.integers(1, 4)), seed) for seed in (1, 2)]
        self.options = data.draw(settings_of_a_layer(self.d, self.heads))
        if self.Q[0] is None:
            self.options.update(key_mean=None, rope=None)
        self.span = math.lcm(*(getattr(Q, "vectors_per_record", 1) for Q in self.Q))
        self.group = math.lcm(self.options["group"], self.span)
        self.layer = cache.Layer(*self.Q, **self.options)
        self.seed = 100
        self.tokens: list[tuple[bool, list[np.ndarray]]] = []  # (quantized?, [key, value] (batch, heads, d))

    def mean(self, t: int) -> Any:
        if self.options["key_mean"] is None:
            return np.float32(0)
        mean = self.options["key_mean"].astype(np.float64)
        R = self.options["rope"]
        return (mean if R is None else R.apply(mean[:, None], [t])[:, 0]).astype(np.float32)

    def coded(self, side: int, xs: list[np.ndarray], start: int) -> list[np.ndarray]:
        """Tokens as they come back, a record at a time."""
        Q = self.Q[side]
        if Q is None:
            return xs
        span, module, out = getattr(Q, "vectors_per_record", 1), module_of(Q), []
        for i in range(0, len(xs), span):
            means = [self.mean(start + i + j) if side == 0 else np.float32(0) for j in range(span)]
            record = np.stack([x - m for x, m in zip(xs[i : i + span], means, strict=True)], axis=-2)
            again = module.dequantize(Q, module.unpack(Q, module.pack(Q, module.quantize(Q, record))))
            out += [again[..., j, :] + m for j, m in enumerate(means)]
        return out

    def settle(self) -> None:
        """Quantize what is pushed out of the window."""
        first = min(self.options["sinks"], len(self.tokens))
        done = first + sum(quantized for quantized, _ in self.tokens)
        leaving = max(len(self.tokens) - done - self.options["window"], 0) // self.group * self.group
        for side in (0, 1):
            xs = [self.tokens[t][1][side] for t in range(done, done + leaving)]
            for t, x in enumerate(self.coded(side, xs, done), done):
                self.tokens[t][1][side] = x
        for t in range(done, done + leaving):
            self.tokens[t] = (True, self.tokens[t][1])

    @rule(n=st.integers(0, 24))
    def append(self, n: int) -> None:
        self.seed += 1
        k, v = (normal((self.batch, self.heads, n, self.d), 2 * self.seed + i) for i in (0, 1))
        self.layer.append(k, v)
        self.tokens += [(False, [k[:, :, t], v[:, :, t]]) for t in range(n)]
        self.settle()

    @rule(data=st.data())
    def crop(self, data: st.DataObject) -> None:
        n = data.draw(st.integers(0, len(self.tokens)))
        self.layer.crop(n)
        del self.tokens[n:]
        broken = sum(quantized for quantized, _ in self.tokens) % self.span  # of the last record
        for t in range(len(self.tokens) - broken, len(self.tokens)) if broken else ():
            self.tokens[t] = (False, self.tokens[t][1])

    @precondition(lambda self: self.layer.has_shape)
    @rule(data=st.data())
    def reorder(self, data: st.DataObject) -> None:
        beams = data.draw(st.lists(st.integers(0, self.batch - 1), min_size=1, max_size=3))
        self.layer.reorder(beams)
        self.batch = len(beams)
        self.tokens = [(quantized, [x[beams] for x in pair]) for quantized, pair in self.tokens]

    @rule()
    def reset(self) -> None:
        self.layer.reset()
        self.tokens = []

    @rule()
    def copy(self) -> None:
        old = self.layer
        self.layer = old.copy()
        if old.has_shape:
            old.append(*(normal((self.batch, self.heads, 9, self.d), seed) for seed in (5, 6)))  # must not be seen

    @rule()
    def to(self) -> None:
        self.layer = self.layer.to(turboquant_ref)

    @precondition(lambda self: self.layer.has_shape)
    @rule(data=st.data(), size=st.sampled_from([3, 6, 24]))
    def page(self, data: st.DataObject, size: int) -> None:
        pages = cache.to_pages(self.layer, size)
        order = np.array(data.draw(st.permutations(range(pages.table.size))), dtype=np.intp)
        where = np.empty_like(order)
        where[order] = np.arange(order.size)  # the physical pages, shuffled
        keys, values = (tuple(a[order] for a in side) for side in (pages.keys, pages.values))
        shuffled = cache.Pages(keys, values, where[pages.table].astype(np.int32), pages.lengths, pages.exact)
        self.layer = cache.from_pages(self.layer, shuffled)

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "layer"):
            return
        assert len(self.layer) == len(self.tokens)
        assert self.layer.quantized == sum(quantized for quantized, _ in self.tokens)
        if not self.tokens:
            return
        for side, found in enumerate(self.layer.dequantize()):
            expected = np.stack([pair[side] for _, pair in self.tokens], axis=-2)
            np.testing.assert_array_equal(found, expected)
        check_memory(self.layer, self.Q, self.batch * self.heads, self.d)


def check_memory(layer: cache.Layer, quantizers: list[Any], vectors: int, d: int) -> None:
    """`nbytes` is the formula, and what is really held: all arrays that can be reached, none a view into more."""
    n = layer.quantized
    expected = 0 if layer.key_mean is None else layer.key_mean.size * 4
    for Q in quantizers:
        span = getattr(Q, "vectors_per_record", 1)
        size = 4 * d if Q is None else int(getattr(Q, "bytes_per_record", Q.bytes_per_vector)())
        expected += vectors * (n // span * size + (len(layer) - n) * 4 * d)
    assert layer.nbytes == expected
    reached: list[np.ndarray] = []

    def reach(x: Any) -> None:
        if isinstance(x, np.ndarray):
            reached.append(x)
        elif isinstance(x, list | tuple):
            for item in x:
                reach(item)
        elif isinstance(x, packing.Packed) or type(x).__name__ == "Coded":
            reach([v for name, v in vars(x).items() if name != "Q"])

    reach([v for name, v in vars(layer).items() if name != "_start"])
    assert all(a.base is None or a.base.nbytes == a.nbytes for a in reached)
    assert sum(a.nbytes for a in reached) == expected


TestListOfVectors = ListOfVectors.TestCase
TestListOfVectors.settings = settings(max_examples=150, stateful_step_count=14)


def test_a_block_that_is_cut_goes_back_to_the_window_as_decoded() -> None:
    layer = cache.Layer(quantizer("minmax channel", 8), quantizer("mse", 8))
    k, v = normal((1, 10, 8), 1), normal((1, 10, 8), 2)
    layer.append(k, v)
    before = layer.dequantize()
    layer.crop(7)
    assert (len(layer), layer.quantized) == (7, 6)
    for found, was in zip(layer.dequantize(), before, strict=True):
        np.testing.assert_array_equal(found, was[:, :7])
    layer.append(k[:, 7:9], v[:, 7:9])
    assert (len(layer), layer.quantized) == (9, 9)


def test_pages_may_be_anywhere() -> None:
    layer = cache.Layer(quantizer("mse", 8), quantizer("minmax", 8), window=2, sinks=1)
    layer.append(normal((2, 3, 20, 8), 1), normal((2, 3, 20, 8), 2))
    pages = cache.to_pages(layer, 4)
    assert pages.table.shape == (2, 5)  # 17 tokens each
    assert pages.keys[0].shape == (10, 4, 3, 7)  # 3 bits and a float32 of 8 numbers
    assert pages.lengths.tolist() == [17, 17]
    shuffled = cache.Pages(
        tuple(a[::-1] for a in pages.keys),
        tuple(a[::-1] for a in pages.values),
        (9 - pages.table).astype(np.int32),
        pages.lengths,
        pages.exact,
    )
    for moved in (pages, shuffled):
        again = cache.from_pages(layer, moved).arrays()
        for name, a in layer.arrays().items():
            np.testing.assert_array_equal(again[name], a)
    assert pages.nbytes == 10 * 4 * 3 * (7 + 3 + 8) + 40 + 8 + 2 * 2 * 3 * 3 * 32


# ------------------------------------------------------------------------------------------------------------ attention


def direct(q: Any, k: Any, v: Any, scale: float, softcap: float | None, seen: Any, add: Any = 0.0) -> Any:
    """Attention with decoded keys and values, in float64."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    group = q.shape[-3] // k.shape[-3]
    k, v = np.repeat(k, group, axis=-3), np.repeat(v, group, axis=-3)
    s = scale * (q @ k.swapaxes(-1, -2))
    s = np.where(seen, (softcap * np.tanh(s / softcap) if softcap else s) + add, -np.inf)
    top = s.max(-1, initial=-math.inf)
    w = np.exp(s - np.where(np.isneginf(top), 0, top)[..., None])
    w = w / np.where(w.sum(-1) > 0, w.sum(-1), 1)[..., None]
    return w @ v


def tolerance(q: Any, k: Any, v: Any, scale: float, mean: float, dtype: Any, n: int) -> float:
    """How far attention may be from `direct`.

    A logit is two chains of dot products of at most 3d terms each (a rotation or a sketch, then the product with the
    code), within gamma_n of the sum of their terms' magnitudes: by Cauchy-Schwarz below sqrt(d) |q| |k~|, twice that
    for the sketch's rows; with centred keys |k~ - m| and |m| in place of |k~|.  Weights move by exp(±2 bound), and the
    sum over values adds a chain of n and of 3d terms.
    """
    d = max(q.shape[-1], v.shape[-1])
    size = np.linalg.norm(q, axis=-1).max(initial=0) * (np.linalg.norm(k, axis=-1).max(initial=0) + 2 * mean)
    bound = gamma(12 * d, dtype) * 2 * math.sqrt(d) * scale * size
    largest = np.linalg.norm(v, axis=-1).max(initial=0)
    return 1e-300 + float(2 * math.sqrt(d) * largest * (math.expm1(2 * bound) + gamma(12 * d + n, dtype)))


@settings(max_examples=60)
@given(st.data())
def test_attend_is_decode_then_attend(data: st.DataObject) -> None:
    d, d_v = (data.draw(st.sampled_from([8, 12, 64])) for _ in range(2))
    kv_heads, group, n_queries = data.draw(st.tuples(*[st.integers(1, 3)] * 3))
    n, batch = data.draw(st.integers(0, 30)), data.draw(st.sampled_from([(), (2,)]))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    one = data.draw(st.booleans())
    sides = [
        [quantizer(kind, size, data.draw(st.integers(1, 4)), 10 * h + s) for h in range(1 if one else kv_heads)]
        for s, (kind, size) in enumerate([(data.draw(kinds), d), (data.draw(kinds), d_v)])
    ]
    options = data.draw(settings_of_a_layer(d, kv_heads))
    if sides[0][0] is None:
        options.update(key_mean=None, rope=None)
    Qk, Qv = (None if s[0] is None else s[0] if one else s for s in sides)
    layer = cache.Layer(Qk, Qv, **options)
    layer.append(normal((*batch, kv_heads, n, d), 1, dtype), normal((*batch, kv_heads, n, d_v), 2, dtype))
    q = normal((*batch, kv_heads * group, n_queries, d), 3, dtype)
    causal, window = data.draw(st.booleans()), data.draw(st.none() | st.integers(1, 12))
    softcap, scale = data.draw(st.none() | st.just(5.0)), data.draw(st.sampled_from([None, 1.0]))
    kind = data.draw(st.sampled_from(["none", "bool", "additive"]))
    rng = np.random.default_rng(4)
    masks: Any = {"bool": rng.random((n_queries, n)) < 0.7, "additive": rng.standard_normal((n_queries, n))}
    mask = masks.get(kind)
    positions = np.sort(rng.integers(0, max(n, 1), n_queries)) if data.draw(st.booleans()) else None

    found = layer.attend(q, causal=causal, scale=scale, softcap=softcap, window=window, mask=mask, positions=positions)
    seen = attention.visible(n_queries, n, causal, window, positions)
    k, v = layer.dequantize()
    add = mask if kind == "additive" else 0.0
    factor = 1 / math.sqrt(d) if scale is None else scale
    expected = direct(q, k, v, factor, softcap, seen & mask if kind == "bool" else seen, add)
    compute = np.float64 if dtype == np.float64 else np.float32
    assert found.dtype == compute
    assert found.shape == (*batch, kv_heads * group, n_queries, d_v)
    mean = 0.0 if layer.key_mean is None else float(np.linalg.norm(layer.key_mean, axis=-1).max())
    # codes hold float32 scales and centroids whatever the tokens were: products with them round in float32
    np.testing.assert_array_less(np.abs(found - expected), tolerance(q, k, v, factor, mean, np.float32, n))


@settings(max_examples=30)
@given(st.data())
def test_a_step_is_token_by_token(data: st.DataObject) -> None:
    d, kv_heads, before, n = 8, 2, data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20))
    Qk, Qv = (quantizer(data.draw(kinds), d, 2, seed) for seed in (1, 2))
    options = data.draw(settings_of_a_layer(d, kv_heads))
    if Qk is None:
        options.update(key_mean=None, rope=None)
    window, softcap = data.draw(st.none() | st.integers(1, 9)), data.draw(st.none() | st.just(5.0))
    k, v = (normal((2, kv_heads, before + n, d), seed) for seed in (1, 2))
    q = normal((2, 4, n, d), 3)
    mask = np.random.default_rng(5).random((n, before + n)) < 0.8 if data.draw(st.booleans()) else None
    at_once, one_by_one = cache.Layer(Qk, Qv, **options), cache.Layer(Qk, Qv, **options)
    for layer in (at_once, one_by_one):
        layer.append(k[..., :before, :], v[..., :before, :])
    if data.draw(st.booleans()) and before:  # rewound: what is quantized then is not what would be
        before -= 1
        k, v = (np.delete(a, before, axis=-2) for a in (k, v))
        mask = None if mask is None else np.delete(mask, before, axis=-1)
        at_once.crop(before)
        one_by_one.crop(before)
    found = at_once.step(q, k[..., before:, :], v[..., before:, :], window=window, softcap=softcap, mask=mask)
    expected = []
    for t in range(n):
        now = slice(before + t, before + t + 1)
        one_by_one.append(k[..., now, :], v[..., now, :])
        here = None if mask is None else mask[t : t + 1, : before + t + 1]
        expected.append(one_by_one.attend(q[..., t : t + 1, :], window=window, softcap=softcap, mask=here))
    bound = 2 * tolerance(q, k, v, 1 / math.sqrt(d), 30, np.float32, before + n)  # mean: 3 normal((8,)) is below 30
    np.testing.assert_array_less(np.abs(found - np.concatenate(expected or [found], -2)), bound)
    for name, a in one_by_one.arrays().items() if n else ():
        np.testing.assert_array_equal(at_once.arrays()[name], a)


def test_encoder_memory() -> None:
    """A static cache, not causal, scale 1: `attention.attend` over the same codes."""
    Qk, Qv = quantizer("mse", 16), quantizer("prod", 16, 3, 1)
    k, v, q = normal((2, 3, 20, 16), 1), normal((2, 3, 20, 16), 2), normal((2, 6, 4, 16), 3)
    layer = cache.Layer(Qk, Qv)
    layer.append(k, v)
    expected = attention.attend(Qk, Qv, q, mse.quantize(Qk, k), prod.quantize(Qv, v), scale=1.0)
    bound = 2 * tolerance(q, k, v, 1.0, 0, np.float32, 20)
    np.testing.assert_array_less(np.abs(layer.attend(q, causal=False, scale=1.0) - expected), bound)
    assert (layer.attend(q, causal=False, scale=1.0) == layer.attend(q, causal=False, scale=1.0, window=99)).all()


def test_partial_results_merge_in_any_order() -> None:
    """Split-K: the parts of a cache may be attended to anywhere and merged as they come."""
    Q = quantizer("mse", 8)
    k, v, q = normal((1, 30, 8), 1), normal((1, 30, 8), 2), normal((2, 3, 8), 3)
    packed = [mse.pack(Q, mse.quantize(Q, x)) for x in (k, v)]
    whole = attention.partial(Q, Q, q, *packed)
    cut = [(0, 7), (7, 7), (7, 29), (29, 30)]
    parts = [
        attention.partial(Q, Q, q, *(packing.Packed(p.data[:, a:b], p.scalars, p.fingerprint) for p in packed))
        for a, b in cut
    ]
    bound = tolerance(q, k, v, 1 / math.sqrt(8), 0, np.float32, 30)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [1, 2, 3, 0]):
        merged = parts[order[0]]
        for i in order[1:]:
            merged = attention.merge(merged, parts[i])
        np.testing.assert_array_less(np.abs(merged.output - whole.output), bound)
        np.testing.assert_allclose(merged.top, whole.top, rtol=gamma(24, np.float32), atol=bound)


# --------------------------------------------------------------------------------------------------------- centred keys


def test_a_subtracted_mean_is_added_back_exactly() -> None:
    """Keys that are the mean have no residual: even at 1 bit, attention is that of full precision, to rounding."""
    m = 5 * normal((2, 16), 1)
    k, v, q = np.repeat(m[:, None], 9, axis=1), normal((2, 9, 16), 2), normal((4, 9, 16), 3)
    exact = cache.Layer(None, None)
    centred = cache.Layer(quantizer("mse", 16, 1), None, key_mean=m, sinks=1, window=2)
    for layer in (exact, centred):
        layer.append(k, v)
    assert centred.quantized == 6
    bound = 2 * tolerance(q, k, v, 0.25, float(np.linalg.norm(m, axis=-1).max()), np.float32, 9)
    np.testing.assert_array_less(np.abs(centred.attend(q) - exact.attend(q)), bound)


@pytest.mark.parametrize("layout", rope.LAYOUTS)
@pytest.mark.parametrize("start", [0, 1000])
def test_a_mean_before_rope_is_turned_to_each_position(layout: str, start: int) -> None:
    """The same with keys turned by complex multiplication: the residual is rounding, 1 bit or not."""
    m = 5 * normal((2, 16), 1)
    k = np.array([[complex_rope(row, start + t, 1e4, layout, 16) for t in range(9)] for row in m]).astype(np.float32)
    v, q = normal((2, 9, 16), 2), normal((4, 9, 16), 3)
    R = rope.setup(16, layout=layout)
    layer = cache.Layer(quantizer("mse", 16, 1), None, key_mean=m, rope=R, start=start, sinks=1, window=2)
    layer.append(k, v)
    size = float(np.linalg.norm(m, axis=-1).max())
    found = np.abs(layer.dequantize()[0] - k).max()
    # k was rounded once, R_t m four times and by the angle's error; the code of that difference is at most twice as
    # long (the unbiased scale at 1 bit is |x| / <z, q>), and is added to R_t m with one rounding more
    assert found <= (gamma(8, np.float32) + (start + 9) * 2.0**-50) * 3 * size
    exact = cache.Layer(None, None)
    exact.append(k, v)
    np.testing.assert_allclose(layer.attend(q), exact.attend(q), rtol=0, atol=1e-4)  # 2 |q| |k| 1e-6, on values of O(1)
    other = cache.Layer(quantizer("mse", 16, 1), None, key_mean=m, rope=R, start=start + 1, sinks=1, window=2)
    other.append(k, v)
    assert np.abs(other.dequantize()[0] - k).max() > 0.1  # a position off by one is no rounding


def test_each_sequence_may_start_at_its_own_position() -> None:
    R, m = rope.setup(8), 5 * normal((1, 8), 1)
    starts = np.array([0, -3, 40])
    k = np.stack([R.apply(m[:, None], np.arange(6) + s) for s in starts]).astype(np.float32)
    layer = cache.Layer(quantizer("mse", 8, 1), None, key_mean=m, rope=R, start=starts)
    layer.append(k, k)
    np.testing.assert_allclose(layer.dequantize()[0], k, rtol=0, atol=1e-5)  # no residual but rounding
    layer.reorder([2, 0])
    np.testing.assert_allclose(layer.dequantize()[0], k[[2, 0]], rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected the batch shape of start, \(3,\), got \(2,\)"):
        cache.Layer(None, None, start=starts).append(k[:2], k[:2])


def test_centring_spends_the_bits_on_the_residual() -> None:
    """The error of a key is sqrt(D) of its residual, not of the key: sqrt(D) is theory's, over 400 keys to 10 %."""
    m = 8 * normal((1, 64), 1)
    k = m[:, None] + normal((1, 400, 64), 2)
    Q = mse.setup(64, 3, 0, "structured")
    errors = []
    for mean in (None, m):
        layer = cache.Layer(Q, None, key_mean=mean)
        layer.append(k, k)
        errors.append(math.sqrt(((layer.dequantize()[0] - k) ** 2).sum()))
    expected = [math.sqrt(0.0333908 * (x.astype(np.float64) ** 2).sum()) for x in (k, k - m[:, None])]  # D_mse(64, 3)
    # all keys are nearly one vector without centring, so that error is one draw: a factor 2; the other averages
    assert 0.5 < errors[0] / expected[0] < 2
    assert abs(errors[1] / expected[1] - 1) < 0.1


# ------------------------------------------------------------------------------------------------------------- backends


class Reversed:
    """A Prepared form that only its backend can read."""

    def __init__(self, packed: packing.Packed) -> None:
        self.secret = packing.Packed(packed.data[..., ::-1].copy(), packed.scalars, packed.fingerprint)
        self.nbytes = packed.nbytes

    def packed(self) -> packing.Packed:
        return packing.Packed(self.secret.data[..., ::-1], self.secret.scalars, self.secret.fingerprint)


def backend(calls: list[str]) -> types.ModuleType:
    ops: Any = types.ModuleType("reversed_kernels")
    ops.mse, ops.attention = types.ModuleType("reversed_kernels.mse"), types.ModuleType("reversed_kernels.attention")
    ops.mse.quantize = mse.quantize
    ops.mse.encode = lambda Q, x, scalars: calls.append("encode") or Reversed(mse.encode(Q, x, scalars))
    ops.mse.prepare = lambda Q, packed: Reversed(packed)
    ops.mse.to_packed = lambda Q, prepared: prepared.packed()

    def partial(Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, **options: Any) -> Any:
        calls.append("partial")
        blocks = [b.packed() if isinstance(b, Reversed) else b for b in (keys, values)]
        assert all((b is None) == (not isinstance(x, Reversed)) for b, x in zip((Qk, Qv), (keys, values), strict=True))
        return attention.partial(Qk, Qv, q, *blocks, **options)

    ops.attention.partial = partial
    return ops


def test_runs_unchanged_on_another_backend() -> None:
    calls: list[str] = []
    ops = backend(calls)
    Q, k, v, q = quantizer("mse", 8), normal((2, 1, 40, 8), 1), normal((2, 1, 40, 8), 2), normal((2, 2, 3, 8), 3)
    ours, theirs = (cache.Layer(Q, Q, x, window=3, sinks=1, block=8) for x in (None, ops))
    for layer in (ours, theirs):
        layer.append(k[..., :25, :], v[..., :25, :])
        layer.append(k[..., 25:, :], v[..., 25:, :])
    assert calls.count("encode") == 4
    moved = ours.to(ops)
    for layer in (theirs, moved, moved.to(turboquant_ref)):
        np.testing.assert_array_equal(layer.attend(q), ours.attend(q))
        assert layer.nbytes == ours.nbytes
        layer.crop(19)
        layer.reorder([1, 1])
        assert len(layer) == 19
        np.testing.assert_array_equal(layer.dequantize()[0], ours.dequantize()[0][[1, 1], :, :19])
    assert calls.count("partial") > 0
    with pytest.raises(ValueError, match=r"ops: 'reversed_kernels' has no minmax\.quantize"):
        cache.Layer(quantizer("minmax", 8), None, ops)
    with pytest.raises(ValueError, match=r"ops: 'math' has no mse\.quantize"):
        ours.to(math)
    assert len(ours) == 40


# ---------------------------------------------------------------------------------------------------------------- files


def small_cache(kinds: tuple[str, str] = ("mse", "prod")) -> cache.Cache:
    Qk, Qv = (quantizer(kind, 8, 2, seed) for seed, kind in enumerate(kinds))
    centred = {"key_mean": normal((2, 8), 5), "rope": rope.setup(8, layout="interleaved"), "start": np.array([0, -4])}
    layers = [
        cache.Layer(Qk, Qv, window=3, sinks=2, scalars="float16", **centred),
        cache.Layer(None, None),
        cache.Layer([quantizer("mse", 8, 2, 7), quantizer("haar", 8, 2, 8)], None, group=4, block=4),
    ]
    for i, layer in enumerate(layers):
        layer.append(normal((2, 2, 11, 8), i), normal((2, 2, 11, 8), 10 + i))
    return cache.Cache([*layers, cache.Layer(Qk, Qv)])


def check_same(a: cache.Cache, b: cache.Cache) -> None:
    assert [len(x) for x in a.layers] == [len(x) for x in b.layers]
    q = normal((2, 4, 1, 8), 99)
    for x, y in zip(a.layers, b.layers, strict=True):
        assert x.has_shape == y.has_shape
        if not x.has_shape:
            continue
        z = y.copy()
        for layer in (x := x.copy(), z):
            layer.append(normal((2, 2, 6, 8), 50), normal((2, 2, 6, 8), 51))  # it goes on as it would have
        for name, array in x.arrays().items():
            np.testing.assert_array_equal(z.arrays()[name], array)
            assert z.arrays()[name].dtype == array.dtype
        np.testing.assert_array_equal(z.attend(q), x.attend(q))
        assert z.nbytes == x.nbytes


def test_save_and_load(tmp_path: Path) -> None:
    C = small_cache()
    C.save(tmp_path / "a.tq")
    check_same(C, cache.Cache.load(tmp_path / "a.tq"))
    check_same(C, cache.Cache.load(tmp_path / "a.tq", like=C, ops=turboquant_ref, verify=False))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tq"]


def test_a_quantizer_without_a_description_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    C = small_cache()

    def undescribed(*_: Any) -> Any:
        raise TypeError("no description")

    monkeypatch.setattr(cache.model, "describe", undescribed)
    C.save(tmp_path / "a.tq")
    with pytest.raises(ValueError, match=r"a\.tq cannot be loaded as a cache: quantizer [0-9a-f]{16} is not described"):
        cache.Cache.load(tmp_path / "a.tq")
    check_same(C, cache.Cache.load(tmp_path / "a.tq", like=C))


def test_a_file_of_other_quantizers_is_refused(tmp_path: Path) -> None:
    small_cache().save(tmp_path / "a.tq")
    with pytest.raises(ValueError, match=r"it is of quantizer [0-9a-f]{16}, got [0-9a-f]{16}"):
        cache.Cache.load(tmp_path / "a.tq", like=small_cache(("prod", "mse")))
    with pytest.raises(ValueError, match="it has 4 layers, `like` has 1"):
        cache.Cache.load(tmp_path / "a.tq", like=cache.Cache([cache.Layer(None, None)]))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path, bad = tmp_path / "a.tq", tmp_path / "bad.tq"
    small_cache().save(path)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in range(0, len(data), len(data) // 16):
        bad.write_bytes(data[:at])
        with pytest.raises(ValueError, match=r"bad\.tq (is|has)"):
            cache.Cache.load(bad)
    for at in rng.integers(0, len(data), 40):
        bad.write_bytes(data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"bad\.tq (is|has)"):
            cache.Cache.load(bad)
    container.write(bad, "index", {}, {})
    with pytest.raises(ValueError, match=r"holds a 'index', expected 'cache'"):
        cache.Cache.load(bad)


def test_a_valid_file_of_nonsense_is_refused(tmp_path: Path) -> None:
    """Whole and checksummed, but what it says does not fit together."""
    small_cache().save(tmp_path / "a.tq")
    metadata, arrays = container.read(tmp_path / "a.tq", "cache")
    rng = np.random.default_rng(0)
    tried = 0
    for name, array in arrays.items():
        if not name.startswith("0.") or "quantizer" in name:
            continue
        for other in (None, array[..., :-1] if array.ndim else array[None], array.astype("<u2")):
            kept = {key: a for key, a in arrays.items() if key != name}
            if other is not None:
                kept[name] = other
            if other is None and name == "0.window.k":
                continue  # that is an empty layer
            container.write(tmp_path / "b.tq", "cache", metadata, kept)
            with pytest.raises(ValueError, match=r"b\.tq cannot be loaded as a cache"):
                cache.Cache.load(tmp_path / "b.tq")
            tried += 1
    for wrong in ({}, {"layers": []}, {"layers": 3}, {"layers": [None]}, {"layers": [{"quantizers": []}]}):
        container.write(tmp_path / "b.tq", "cache", wrong, arrays)
        with pytest.raises(ValueError, match=r"b\.tq cannot be loaded as a cache"):
            cache.Cache.load(tmp_path / "b.tq")
    assert tried > 15, rng


# --------------------------------------------------------------------------------------------------------------- errors


def filled(**options: Any) -> cache.Layer:
    layer = cache.Layer(quantizer("mse", 8), quantizer("mse", 8, 2, 1), **options)
    layer.append(normal((2, 3, 5, 8), 1), normal((2, 3, 5, 8), 2))
    return layer


GOOD = normal((2, 3, 1, 8))
WITH_NAN = np.where(np.arange(48).reshape(2, 3, 1, 8) == 37, np.nan, GOOD)
BAD_TOKENS = [
    (GOOD[..., :7], GOOD, ValueError, r"k: expected shape \(2, 3, n, 8\), got \(2, 3, 1, 7\)"),
    (GOOD, GOOD[:, :2], ValueError, r"v: expected shape \(2, 3, n, 8\), got \(2, 2, 1, 8\)"),
    (GOOD[:1], GOOD[:1], ValueError, r"k: expected shape \(2, 3, n, 8\), got \(1, 3, 1, 8\)"),
    (GOOD[0], GOOD[0], ValueError, r"k: expected shape \(2, 3, n, 8\), got \(3, 1, 8\)"),
    (GOOD, np.repeat(GOOD, 2, 2), ValueError, r"v: expected as many heads and tokens as k, \(2, 3, 1\), got \(2, 3, 2"),
    (GOOD.astype(np.float16), GOOD, TypeError, "k: expected float32 as before, got float16"),
    (GOOD.astype(np.int64), GOOD, TypeError, "k: expected float16, float32 or float64, got int64"),
    (GOOD, WITH_NAN, ValueError, r"v: .* first in token 5 \(number 0 of these\), head 1, sequence 1;"),
    (GOOD[0, 0, 0], GOOD, ValueError, r"k: expected shape \(2, 3, n, 8\), got \(8,\)"),
]


@pytest.mark.parametrize(("k", "v", "kind", "message"), BAD_TOKENS)
def test_bad_tokens(k: Any, v: Any, kind: type[Exception], message: str) -> None:
    layer = filled()
    before = layer.arrays()
    with pytest.raises(kind, match=message):
        layer.append(k, v)
    with pytest.raises((kind, ValueError)):
        layer.step(normal((2, 3, 1, 8)), k, v)
    assert len(layer) == 5
    assert all((layer.arrays()[name] == a).all() for name, a in before.items())


def test_a_vector_that_cannot_be_stored_leaves_the_cache_as_it_was() -> None:
    layer = cache.Layer(quantizer("mse", 8), quantizer("mse", 8, 2, 1), scalars="float16")
    for _ in range(2):
        with pytest.raises(ValueError, match="outside the normal range of float16"):
            layer.append(GOOD, GOOD * np.float32(1e6))
        assert not layer.has_shape
    layer.append(GOOD[:1], GOOD[:1])
    assert layer.attend(normal((1, 3, 1, 8))).shape == (1, 3, 1, 8)


def test_other_errors() -> None:
    layer = filled()
    q = normal((2, 3, 1, 8))
    with pytest.raises(ValueError, match="n must be an integer from 0 to 5, got 6"):
        layer.crop(6)
    for index in ([2], [-1], [0.5], [[0]]):
        with pytest.raises(ValueError, match=r"index: expected integers from 0 to 1, of shape \(n,\), got"):
            layer.reorder(index)
    one = cache.Layer(None, None)
    one.append(GOOD[0], GOOD[0])
    with pytest.raises(ValueError, match="index: there is one sequence without a batch axis"):
        one.reorder([0])
    with pytest.raises(ValueError, match=r"q: expected shape \(2, heads, n, 8\), heads a multiple of 3, got \(2, 4"):
        layer.attend(normal((2, 4, 1, 8)))
    with pytest.raises(ValueError, match=r"q has vectors of 7 coordinates"):
        layer.attend(q[..., :7])
    with pytest.raises(ValueError, match=r"mask: expected a shape that broadcasts to \(2, 3, 1, 5\)"):
        layer.attend(q, mask=np.ones((1, 4), dtype=bool))
    with pytest.raises(ValueError, match="positions: expected 1 integers, got"):
        layer.attend(q, positions=[1, 2])
    with pytest.raises(ValueError, match="softcap: expected a positive number, got 0"):
        layer.attend(q, softcap=0)
    with pytest.raises(TypeError, match="causal: a step is causal"):
        layer.step(q, GOOD, GOOD, causal=False)
    with pytest.raises(ValueError, match="q: expected as many queries as new tokens, 1, got shape"):
        layer.step(normal((2, 3, 2, 8)), GOOD, GOOD)
    with pytest.raises(ValueError, match="the cache has seen no tokens yet"):
        cache.Layer(None, None).attend(q)
    for name in ("window", "sinks"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 0, got -1"):
            cache.Layer(None, None, **{name: -1})
    with pytest.raises(ValueError, match="rope: it is only for a key_mean, and there is none"):
        cache.Layer(None, None, rope=rope.setup(8))
    with pytest.raises(ValueError, match="rope: it turns 16 channels, the keys have 8"):
        cache.Layer(quantizer("mse", 8), None, key_mean=np.zeros((3, 8)), rope=rope.setup(16))
    with pytest.raises(ValueError, match=r"key_mean: expected \(kv_heads, d\), got shape \(8,\)"):
        cache.Layer(quantizer("mse", 8), None, key_mean=np.zeros(8))
    with pytest.raises(ValueError, match="key_mean: keys that are not quantized cannot be centred"):
        cache.Layer(None, None, key_mean=np.zeros((3, 8)))
    with pytest.raises(ValueError, match="k: expected 2 heads, those of key_mean, got 3"):
        cache.Layer(quantizer("mse", 8), None, key_mean=np.zeros((2, 8))).append(GOOD, GOOD)
    with pytest.raises(ValueError, match="k: expected 2 heads, one a quantizer, got 3"):
        cache.Layer([quantizer("mse", 8)] * 2, None).append(GOOD, GOOD)
    with pytest.raises(ValueError, match="Qk, Qv: expected one quantizer, or one a head, got 2 and 3"):
        cache.Layer([quantizer("mse", 8)] * 2, [quantizer("mse", 8)] * 3)
    with pytest.raises(TypeError, match="start: expected integers, got float64"):
        cache.Layer(None, None, start=0.5)
    with pytest.raises(ValueError, match="scalars: expected one of"):
        cache.Layer(quantizer("mse", 8), None, scalars="fp8")
    kivi = cache.Layer(quantizer("minmax channel", 8), None)
    kivi.append(GOOD, GOOD)
    with pytest.raises(ValueError, match="block_size: expected a multiple of 3, the tokens of a record, got 16"):
        cache.to_pages(kivi, 16)
    pages = cache.to_pages(layer, 2)
    ragged = cache.Pages(pages.keys, pages.values, pages.table, np.array([5, 4], np.int32), pages.exact)
    with pytest.raises(ValueError, match="pages: sequences of 4 to 5 tokens; a batch has one length"):
        cache.from_pages(layer, ragged)
    lost = cache.Pages(pages.keys, pages.values, pages.table + 1, pages.lengths, pages.exact)
    with pytest.raises(ValueError, match="pages: the table names pages up to 6, there are 6"):
        cache.from_pages(layer, lost)
    with pytest.raises(TypeError, match="layers: expected Layers, got int"):
        cache.Cache([3])
    with pytest.raises(ValueError, match="layers: expected at least one"):
        cache.Cache([])


def test_a_model_moves_as_one() -> None:
    C = cache.Cache([filled(window=2), cache.Layer(None, None)])
    assert len(C) == 0
    C.layers[1].append(normal((2, 3, 5, 8), 1), normal((2, 3, 5, 8), 2))
    assert len(C) == 5
    fork = C.copy()
    fork.crop(3)
    fork.reorder([1, 0, 1])
    assert (len(fork), len(C)) == (3, 5)
    np.testing.assert_array_equal(fork.layers[1].dequantize()[0], C.layers[1].dequantize()[0][[1, 0, 1], :, :3])
    with pytest.raises(ValueError, match="index: expected integers from 0 to 2"):
        fork.reorder([3])
    assert fork.nbytes == sum(layer.nbytes for layer in fork.layers)
    fork.to(turboquant_ref).reset()
    assert len(fork) == 3
    fork.reset()
    assert len(fork) == 0
    with pytest.raises(ValueError, match="n must be an integer from 0 to 5, got 7"):
        C.crop(7)
