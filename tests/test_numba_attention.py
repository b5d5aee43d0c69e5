"""Compiled attention against the definition in float64, within bounds that are derived here.

A kernel is compiled for the bits of keys and values, the rows that share a pass, and a precision: seconds each. So the
compiled tests draw shapes, masks and numbers for a few such forms; with NUMBA_DISABLE_JIT=1 they draw the forms too.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from _boxes import gamma, rotation_error
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba_kernels", reason="numba is not installed", exc_type=ImportError)

from _shared import bodies

import numba_kernels as nk
import turboquant_ref
from numba_kernels import _jit, attend, attention, layout, simd
from turboquant_ref import attention as reference
from turboquant_ref import cache, mse, polar, prod, qjl
from turboquant_ref.codes import module_of

U = 2.0**-24
JIT = not _jit.config.DISABLE_JIT

SHARED = [
    "test_grouped_heads_read_their_own_keys",
    "test_additive_mask_and_unseen_rows",
    "test_no_keys",
    "test_bad_input",
    "test_keys_and_values_of_another_quantizer_or_length",
    *([] if JIT else ["test_equal_to_decode_then_attend", "test_prefill_equals_decoding"]),
]
_replaced = {name: getattr(attention, name) for name in ("attend", "attend_blocks", "logits")}
_tests = bodies("test_attention", [], **_replaced)
globals().update({name: _tests[name] for name in SHARED})


@pytest.fixture(scope="module", autouse=True)
def _small_tiles():
    """Without the JIT large cases are slow, so tiles are small; with it their size is compiled in."""
    with pytest.MonkeyPatch.context() as patch:
        if not JIT:
            patch.setattr(attend, "TILE", 2)
        yield


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------------------------ truth, and how far from it


def stages(Q: Any, code: Any) -> list[tuple[np.ndarray, np.ndarray, Any]]:
    """The stages of a code: numbers (…, n, width) and scales (…, n, 1), float64, and the map to their basis."""
    found = []
    norms = np.asarray(code.scales if Q.algorithm == "mse" else code.norms, float)[..., None]
    if Q.algorithm != "qjl":
        found.append((Q.codebook.centroids[code.indices], norms, Q.rotation))
    if Q.algorithm != "mse":
        residuals = np.asarray(code.residual_norms, float)[..., None] if Q.algorithm == "prod" else 1.0
        found.append((np.where(code.signs, 1.0, -1.0) * Q.sketch.constant, norms * residuals, Q.sketch))
    return found


def moved(basis: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows x in a basis, and how far off float32 may be: for a rotation a share of the norm, else by a product."""
    if hasattr(basis, "gaussian"):
        return x @ basis.gaussian.T, gamma(basis.d + 2, np.float32) * (np.abs(x) @ np.abs(basis.gaussian.T))
    return basis.apply(x), rotation_error(basis, np.float32) * np.linalg.norm(x, axis=-1, keepdims=True)


def moved_back(basis: Any, x: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums x, each within `error`, in the original basis; a rotation keeps the norm of the error."""
    if hasattr(basis, "gaussian"):
        size = np.abs(basis.gaussian)
        return x @ basis.gaussian, error @ size + gamma(basis.m + 2, np.float32) * ((np.abs(x) + error) @ size)
    length = np.linalg.norm(np.abs(x) + error, axis=-1, keepdims=True)
    return basis.inverse(x), rotation_error(basis, np.float32) * length + np.linalg.norm(error, axis=-1, keepdims=True)


def inner_products(Q: Any, q: np.ndarray, code: Any, precision: str) -> tuple[np.ndarray, np.ndarray]:
    """<q, k~> in float64, and the most that a kernel's may be from it.

    A sum of n products, of factors rounded a few times each (centroid, coordinate, norm, scale), is within gamma_{n+8}
    of the sum of their magnitudes, whatever its order; a coordinate is as far off as `moved` says. What int8 adds is in
    the docstring of `attention`.
    """
    total, error = np.zeros(()), np.zeros(())
    for c, scales, basis in stages(Q, code):
        y, off = moved(basis, q.astype(float))
        size, y_size, turned = np.abs(c).swapaxes(-1, -2), np.abs(y) + off, scales.swapaxes(-1, -2)
        total = total + (y @ c.swapaxes(-1, -2)) * turned
        here = np.broadcast_to(off, y.shape) @ size + gamma(c.shape[-1] + 8, np.float32) * (y_size @ size)
        if precision == "int8":
            C = np.abs(Q.codebook.centroids).max() if basis is getattr(Q, "rotation", None) else Q.sketch.constant
            A = y_size.max(-1, keepdims=True)
            here = here + (C * y_size.sum(-1, keepdims=True) + A * size.sum(-2, keepdims=True)) / 254
            here = here + c.shape[-1] * C * A / 254**2
        error = error + here * turned
    return total, error


def expected(
    Qk: Any, Qv: Any, q: np.ndarray, k: Any, v: Any, scale: float, softcap: float | None, add: Any, precision: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits and outputs in float64, and the most that each of a kernel's may be from it; `add` is the mask.

    A logit: two roundings each for scale, cap and mask, 2^-21 for tanh, whose slope is at most 1.  A weight
    e^(s - top): the errors of s and top, the rounding of their difference, less than 2^-22 for `exp`; and the same
    again for each larger top, at most one a tile and one a chunk, whose differences add up to at most the largest.
    Below e^-87 it may be 0.  A sum over keys: a chain of at most n/16 in each lane, four sums of lanes, at most n/16
    chunks, and a few factors.  For a ratio a/t, |a'/t' - a/t| <= (|a' - a| + |a/t| |t' - t|) / t'; nothing is said
    where t may be off by half.
    """
    group = q.shape[-3] // reference.batch_shape(k)[-2]
    index = (*(slice(None),) * (q.ndim - 3), np.repeat(np.arange(reference.batch_shape(k)[-2]), group))
    s, error = inner_products(Qk, q, reference.select(k, index), precision)
    s, error = s * scale, error * scale + 2 * U * np.abs(s * scale)
    if softcap:
        s = softcap * np.tanh(s / softcap)
        error = error + (2.0**-21 + 4 * U) * np.abs(s)
    seen = np.isfinite(s + add)
    s = s + add
    error = np.where(seen, error + 2 * U * np.abs(np.where(seen, s, 0)), 0)
    n = s.shape[-1]
    top = np.where(seen.any(-1), s.max(-1, initial=-np.inf), 0)[..., None]
    w, drop = np.exp(s - top), np.where(seen, top - s, 0)
    furthest = drop.max(-1, keepdims=True, initial=0)
    relative = np.expm1(error + error.max(-1, keepdims=True, initial=0) + 2 * U * (drop + furthest))
    relative = relative + (3 + n / (16 * attend.TILE)) * 2.0**-21 + gamma(n // 8 + 40, np.float32)
    total, lost = w.sum(-1, keepdims=True), (w * relative).sum(-1, keepdims=True)
    out, out_error = np.zeros(()), np.zeros(())
    for c, scales, basis in stages(Qv, reference.select(v, index)):
        x = w @ (c * scales) / np.where(total > 0, total, 1)
        off = (w * relative + 2.0**-125) @ np.abs(c * scales) + np.abs(x) * lost
        x, off = moved_back(basis, x, off / np.where(total > lost, total - lost, 1) + 4 * U * np.abs(x))
        out, out_error = out + x, out_error + off
    return s, error, out, np.where(2 * lost <= total, out_error + 4 * U * np.abs(out), np.inf)


# -------------------------------------------------------------------------------------------------- equal to the truth


def quantizer(kind: str, d: int, seed: int) -> Any:
    name, bits = kind.split()
    if name == "prod":
        return prod.setup(d, int(bits), seed)
    if name == "qjl":
        return qjl.setup(d, d + 5, seed)
    return mse.setup(d, int(bits), seed, "structured" if seed % 2 else "haar", mse.SCALES[seed % 4])


KINDS = [*(f"mse {b}" for b in range(1, 9)), *(f"prod {b}" for b in range(1, 9)), "qjl 1"]
FORMS = [("mse 4", "mse 4", 4), ("mse 3", "mse 6", 1), ("prod 3", "mse 1", 2), ("qjl 1", "prod 4", 8)]
"""Keys, values, and how many rows share a pass, of the forms that are compiled here; most tests use the first."""


def check(data: st.DataObject, key_kind: str, value_kind: str, rows: int, precision: str) -> None:
    d, d_v = (data.draw(st.sampled_from([2, 3, 16, 33, 64, 100])) for _ in range(2))
    Qk, Qv = (quantizer(kind, size, data.draw(st.integers(0, 2**64 - 1))) for kind, size in
              ((key_kind, d), (value_kind, d_v)))  # fmt: skip
    group = data.draw(st.sampled_from([g for g in range(1, rows + 1) if rows % g == 0]))
    n_queries, kv_heads = rows // group, data.draw(st.integers(1, 3))
    n = data.draw(st.sampled_from([1, 2, 15, 16, 17, 40, 100] + ([1100, 4500] if JIT else [])))
    batch = data.draw(st.sampled_from([(), (1,), (2,)]))
    seed = data.draw(st.integers(0, 2**32))
    size = data.draw(st.sampled_from([0.1, 1.0, 4.0] if precision == "exact" else [0.1, 1.0]))
    q = size * normal(*batch, kv_heads * group, n_queries, d, seed=seed)
    q[..., :1, :] *= data.draw(st.sampled_from([0, 1]))
    k = module_of(Qk).quantize(Qk, normal(*batch, kv_heads, n, d, seed=seed + 1))
    v = module_of(Qv).quantize(Qv, normal(*batch, kv_heads, n, d_v, seed=seed + 2))
    options = {
        "scale": data.draw(st.none() | st.sampled_from([1.0, 0.05])),
        "softcap": data.draw(st.none() | st.sampled_from([0.5, 30.0, 1e6])),
        "causal": data.draw(st.booleans()),
        "window": data.draw(st.none() | st.integers(1, n + 1)),
    }
    positions = st.lists(st.integers(0, n + 3), min_size=n_queries, max_size=n_queries)
    positions = data.draw(st.none() | positions)
    given = data.draw(st.sampled_from(["no", "bool", "added", "rows"]))
    rng = np.random.default_rng(seed + 3)
    mask = {
        "no": None,
        "bool": rng.random((n_queries, n)) < 0.7,
        "added": rng.standard_normal((*batch, kv_heads * group, n_queries, n)).astype(np.float32),
        "rows": np.where(rng.random((kv_heads * group, 1, n)) < 0.7, 0, -np.inf),
    }[given]
    add = np.where(reference.visible(n_queries, n, options["causal"], options["window"], positions), 0.0, -np.inf)
    if mask is not None:
        add = add + (np.where(mask, 0, -np.inf) if given == "bool" else mask)
    scale = options["scale"] or 1 / math.sqrt(d)
    s, s_error, out, out_error = expected(Qk, Qv, q, k, v, scale, options["softcap"], add, precision)
    assert np.isfinite(out_error).all() or precision == "int8"
    options |= {"mask": mask, "positions": positions, "precision": precision}
    prepared = [layout.prepare(Q, module_of(Q).pack(Q, code)) for Q, code in ((Qk, k), (Qv, v))]

    found = attention.logits(Qk, q, prepared[0], **options)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(s))
    finite = np.isfinite(s)
    assert (np.abs(found[finite] - s[finite]) <= s_error[finite]).all()
    for result in (
        attention.attend(Qk, Qv, q, *prepared, **options),
        attention.attend_blocks(Qk, Qv, q, *prepared, block=data.draw(st.integers(1, n + 40)), **options),
        attention.partial(Qk, Qv, q, *prepared, **options).output,
    ):
        assert result.dtype == np.float32
        assert (np.abs(result - out) <= out_error).all()
    assert (attention.attend(Qk, Qv, q, *prepared, **options)[~finite.any(-1)] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=25)
@given(data=st.data())
def test_exact_is_the_truth_to_rounding(form, data):
    check(data, *form, "exact")


@settings(max_examples=25)
@given(data=st.data())
def test_int8_is_the_truth_within_its_bound(data):
    check(data, *FORMS[0], "int8")


@pytest.mark.skipif(JIT, reason="every form is compiled for seconds")
@settings(max_examples=40)
@given(data=st.data())
def test_every_form(data):
    kinds = [data.draw(st.sampled_from(KINDS)) for _ in range(2)]
    check(data, *kinds, data.draw(st.integers(1, 17)), data.draw(st.sampled_from(attention.PRECISIONS)))


def test_bounds_can_fail():
    """What the bounds allow where 40 keys are seen: 10^-4 of a logit, and less than half of what one key more makes."""
    Q = mse.setup(64, 4, 1)
    q, x, v = normal(4, 1, 64), normal(1, 41, 64, seed=1), normal(1, 41, 64, seed=2)
    k, v = mse.quantize(Q, x), mse.quantize(Q, v)
    last = np.where(np.arange(41) < 40, 0, -np.inf)
    s, s_error, out, out_error = expected(Q, Q, q, k, v, 0.125, None, last, "exact")
    assert s_error[..., :40].max() < 1e-4 * np.abs(s[..., :40]).max()
    _, _, other, _ = expected(Q, Q, q, k, v, 0.125, None, 0.0, "exact")
    assert (np.abs(other - out).max(-1) > 2 * out_error.max(-1)).all()
    _, s_error, _, _ = expected(Q, Q, q, k, v, 0.125, None, 0.0, "int8")
    assert s_error.max() < 0.05 * np.abs(s[..., :40]).max()


# ----------------------------------------------------------------------------------------- the functions inside kernels


@_jit.kernel
def _of_each(x, exps, tanhs):
    for i in range(0, x.size, 16):
        simd.store(exps, i, attend.exp(simd.load(x, i)))
        simd.store(tanhs, i, attend.tanh(simd.load(x, i)))


def test_exp_and_tanh():
    """Against float64 on every 97th float32 of [-87, 0) and [2^-40, 40), and at the ends."""
    step = 97 if JIT else 40_009
    bits = np.arange(0, np.float32(87).view(np.uint32) + 1, step, dtype=np.uint32)
    x = -np.concatenate([bits, np.array([0, 87.0], np.float32).view(np.uint32)]).view(np.float32)
    x = np.concatenate([x, np.zeros(-x.size % 16, np.float32)])
    found, tanhs = np.empty_like(x), np.empty_like(x)
    _of_each(x, found, tanhs)
    exact = np.exp(x.astype(float))
    error, tanh_error = np.abs(found / exact - 1), np.abs(tanhs - np.tanh(x.astype(float)))
    assert error.max() <= 3 * 2.0**-24
    assert found[x == 0].tolist() == [1.0] * int((x == 0).sum())
    normal_range = np.abs(x) >= 2.0**-126
    assert (tanh_error <= 2.0**-21 * np.abs(np.tanh(x.astype(float))))[normal_range].all()
    _of_each(-x, np.empty_like(x), positive := np.empty_like(x))
    np.testing.assert_array_equal(positive, -tanhs)
    below = np.array([-np.inf, -3e38, -1e30, -88, -87.01] + [0.0] * 11, np.float32)
    _of_each(below, out := np.empty_like(below), np.empty_like(below))
    assert out.tolist() == [0.0] * 5 + [1.0] * 11


# ------------------------------------------------------------------------------------------------ what does not matter


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(attention, "_ENOUGH", 1)
    before = nk.threads()
    yield nk.set_threads
    nk.set_threads(before)


@pytest.mark.parametrize("precision", attention.PRECISIONS)
def test_the_number_of_threads_does_not_matter(two_threads, precision):
    Q = mse.setup(48, 4, 1)
    n = 9000 if JIT else 150
    k, v = (mse.quantize(Q, normal(2, n, 48, seed=s)) for s in (1, 2))
    q = normal(8, 1, 48)
    results = []
    for threads in (1, 2, 3):
        two_threads(threads)
        results.append((attention.attend_blocks(Q, Q, q, k, v, block=32 if n < 999 else 2048, precision=precision),
                        attention.logits(Q, q, k, precision=precision)))  # fmt: skip
    for out, s in results[1:]:
        np.testing.assert_array_equal(out, results[0][0])
        np.testing.assert_array_equal(s, results[0][1])


def test_what_is_not_seen_does_not_matter():
    """A query's output is the same, to the bit, whatever the keys outside its window hold."""
    Q = mse.setup(32, 4, 1)
    x, y = normal(1, 200, 32), normal(1, 200, 32, seed=1)
    y[:, 90:150] = x[:, 90:150]
    q = normal(4, 1, 32, seed=2)
    options = {"window": 60, "causal": True, "positions": [149]}
    a, b = (attention.attend(Q, Q, q, code, code, **options) for code in (mse.quantize(Q, x), mse.quantize(Q, y)))
    np.testing.assert_array_equal(a, b)
    other = attention.attend(Q, Q, q, mse.quantize(Q, y), mse.quantize(Q, y), window=61, causal=True, positions=[149])
    assert (a != other).any()


def test_forms_of_a_code_are_one():
    quantizers = prod.setup(24, 3, 0), mse.setup(24, 1, 0)
    codes = [module_of(Q).quantize(Q, normal(2, 20, 24, seed=s)) for s, Q in enumerate(quantizers)]
    packed = [module_of(Q).pack(Q, code) for Q, code in zip(quantizers, codes, strict=True)]
    prepared = [layout.prepare(Q, p) for Q, p in zip(quantizers, packed, strict=True)]
    q = normal(4, 1, 24, seed=1)
    results = [attention.attend(*quantizers, q, *forms) for forms in (codes, packed, prepared)]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_far_from_one(size):
    """Queries of norm 1e30 or 1e-30, keys the other way round: the logits are those of ordinary ones."""
    Q = mse.setup(16, 4, 0)
    q, x, v = normal(4, 1, 16), normal(1, 30, 16, seed=1), normal(1, 30, 16, seed=2)
    values = mse.quantize(Q, v)
    out = attention.attend(Q, Q, q * np.float32(size), mse.quantize(Q, x / np.float32(size)), values)
    keys = mse.quantize(Q, x / np.float32(size))
    s, _, want, error = expected(Q, Q, q * np.float32(size), keys, values, 0.25, None, 0.0, "exact")
    assert np.isfinite(s).all()
    assert (np.abs(out - want) <= error).all()


# --------------------------------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("kinds", [("mse 4", "mse 4"), ("none", "mse 4"), ("mse 4", "none")])
def test_a_cache_runs_on_it_unchanged(kinds):
    """The same bytes on both backends give the same output but for rounding.

    Allowed is 1e-4; the largest difference seen is 4.2e-7, and one token more or less makes 0.8.
    """
    Qk, Qv = (None if kind == "none" else quantizer(kind, 32, 1) for kind in kinds)
    k, v, q = normal(2, 3, 70, 32), normal(2, 3, 70, 32, seed=1), normal(2, 6, 2, 32, seed=2)
    mean = None if Qk is None else normal(3, 32, seed=3)
    layer = cache.Layer(Qk, Qv, ops=nk, window=9, sinks=3, group=2, block=32, key_mean=mean)
    for part in (slice(0, 1), slice(1, 50), slice(50, 70)):
        layer.append(k[:, :, part], v[:, :, part])
    same = layer.to(turboquant_ref)
    for options in ({}, {"causal": False}, {"window": 20, "softcap": 5.0}, {"mask": np.arange(70) % 3 > 0}):
        np.testing.assert_allclose(layer.attend(q, **options), same.attend(q, **options), rtol=0, atol=1e-4)
    for name, array in layer.arrays().items():
        np.testing.assert_array_equal(array, same.arrays()[name])
    new = [normal(2, 3, 2, 32, seed=seed) for seed in (4, 5)]
    np.testing.assert_allclose(layer.step(q, *new), same.step(q, *new), rtol=0, atol=1e-4)
    assert np.abs(layer.attend(q, window=20) - layer.attend(q, window=21)).max() > 0.01


def test_float64_is_computed_in_float64():
    Q = mse.setup(32, 4, 1)
    k, v, q = (np.random.default_rng(s).standard_normal((1, 40, 32)) for s in range(3))
    k, v = mse.quantize(Q, k), mse.quantize(Q, v)
    np.testing.assert_allclose(
        attention.attend(Q, Q, q, k, v), reference.attend(Q, Q, q, k, v), rtol=0, atol=1e3 * gamma(200, np.float64)
    )


# -------------------------------------------------------------------------------------------------------------- errors


def test_algorithms_without_a_kernel_are_refused():
    P, Q = polar.setup(16, rng=0), mse.setup(16, 4, 0)
    codes = polar.quantize(P, normal(1, 3, 16)), mse.quantize(Q, normal(1, 3, 16))
    with pytest.raises(TypeError, match="keys: numba_kernels has attention for mse, prod, qjl, got polar"):
        attention.logits(P, normal(1, 1, 16), codes[0])
    with pytest.raises(TypeError, match="values: numba_kernels has attention for mse, prod, qjl, got polar"):
        attention.attend(Q, P, normal(1, 1, 16), codes[1], codes[0])
    with pytest.raises(ValueError, match=r"has no polar\.quantize"):
        cache.Layer(P, P, ops=nk)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"precision": "fp8"}, ValueError, "precision: expected one of exact, int8, got 'fp8'"),
        ({"mask": np.zeros((2, 9))}, ValueError, "mask: expected a shape that broadcasts to"),
        ({"added": np.zeros(9)}, ValueError, "added: expected a shape that broadcasts to"),
        ({"colour": 1}, TypeError, "colour"),
    ],
)
def test_bad_options(options, kind, message):
    Q = mse.setup(8, 2, 0)
    keys = mse.quantize(Q, normal(2, 5, 8))
    with pytest.raises(kind, match=message):
        attention.partial(Q, Q, normal(2, 1, 8), keys, keys, **options)


# -------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize("level", [level for level in _jit.LEVELS if JIT and level != _jit.LEVEL])
def test_other_levels(level):
    """The first form at the instruction sets that this process is not at."""
    try:
        _jit._level(level, _jit._features())
    except ValueError as error:
        pytest.skip(str(error))
    chosen = ["-k", "exact and form0 or exp_and"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, *chosen]
    environment = {**os.environ, "TURBOQUANT_SIMD": level, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
