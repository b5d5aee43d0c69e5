"""Logits on the GPU: the tensor-core program run lane by lane on NumPy, the plain kernels in the simulator."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import numpy as np
import pytest
from _cuda import GPU, SIMULATED, needs_emission, needs_gpu, needs_kernels

import turboquant_ref as tq
from cuda_kernels import layout, logits

RNG = np.random.default_rng(20)


# ------------------------------------------------------------------------------------- the fast program, lane by lane


def cut(y: Any, where: Any, words: int, groups: int) -> tuple[Any, Any, Any]:
    """What `operands.planes` makes of turned queries, in NumPy: B operands, units, and three times the sums."""
    from cuda_kernels.operands_fast import LARGEST

    out, units, sums = np.zeros((groups, words * 128), np.int8), np.zeros(8), np.zeros(8, np.int64)
    for n, row in enumerate(y):
        units[n] = np.abs(row).max() / LARGEST
        z = np.rint(row / units[n]).astype(np.int64)
        low = ((z + 128) & 255) - 128
        out[n // 4, where + 32 * (n % 4)] = (z - low) >> 8
        out[n // 4, where + 32 * (n % 4) + 16] = low
        sums[n] = 3 * z.sum()
    return out.view(np.uint32).reshape(groups, words, 32), units.astype(np.float32), sums


def emulated(Q: Any, q: Any, code: Any, queries: int, wrong_place: int = 0) -> tuple[Any, Any]:
    """Logits of one tile of 64 keys by `tile_program` on 32 NumPy lanes, and the bound of their error."""
    from cuda_kernels import _fixed, _problem, logits_fast, operands_fast
    from cuda_kernels.machine import Warp

    form = layout.form_of(Q)
    codes, high = layout.split(form, *layout._numbers(Q, code))
    x = logits_fast.Shape(Q.d, form.bits, form.merged, queries, 64, 2, 1, residual=form.residuals)
    memory = codes.tobytes() + (b"" if high is None else high.tobytes())
    assert len(memory) == x.tile
    where = np.roll(operands_fast.places(x.d, x.bits), wrong_place)
    lane = np.arange(32)
    g, t = lane // 4, lane % 4
    source = (((g >> 1) % x.columns) * 2 + (g & 1)) * 4 + t
    mine = t % x.columns

    def operand(matrix: Any) -> tuple[Any, Any, Any]:
        words, units, sums = cut(q @ matrix.T, where, x.words, x.groups)
        registers = [words[i][k][source] for i in range(x.groups) for k in range(x.words)]
        return registers, [units[4 * i + mine] for i in range(x.groups)], [sums[4 * i + mine] for i in range(x.groups)]

    words, unit = _fixed.words_of(Q)
    book = _fixed.for_lanes(words, x.merged)
    query, units, sums = operand(Q.rotation.matrix())
    factors, sketch = [np.float32(u * unit) for u in units], query
    if x.merged:
        sketch, sign_units, sums = operand(Q.sketch.matrix())
        factors += [np.float32(u * _problem.sign_factor(Q, 1.0)) for u in sign_units]
    masks = [np.where((g >> 1) // x.columns == u, 0xFFFFFFFF, 0).astype(np.uint32) for u in range(4)]
    key = 16 * (t // x.columns) + g
    places = [16 * x.subtiles * n + 8 * r for n in range(x.sets) for r in (0, 1)]
    norms = np.asarray(code.norms if x.merged else code.scales, np.float32)
    residual_norms = np.asarray(code.residual_norms, np.float32) if x.merged else norms
    address = (g * x.row + t * x.chunk).astype(np.uint32)
    quarter = (t >> 1) * 4 if x.d == 64 else t * (x.row_high // 4)
    upper = (64 * x.row + g * x.row_high + quarter).astype(np.uint32)
    out = logits_fast.tile_program(x)(
        Warp(memory), address, upper, (2 * (t & 1)).astype(np.uint32), query, sketch, masks,
        [book[lane, i] for i in range(x.table)], factors, sums,
        [norms[key + p] for p in places], [residual_norms[key + p] for p in places],
    )  # fmt: skip
    got = np.full((8, 64), np.nan)
    for k in range(x.sets):
        for i in range(x.groups):
            for r in (0, 1):
                got[4 * i + mine, key + 16 * x.subtiles * k + 8 * r] = out[2 * (k * x.groups + i) + r]
    return got[: len(q)], bound(Q, q, code, norms, residual_norms, unit)


def bound(Q: Any, q: Any, code: Any, norms: Any, residual_norms: Any, unit: float) -> Any:
    """Of |logit - exact|: the fixed point of query and codebook, the 8 bits cut, and the roundings of float32.

    With y' = y + e, |e| <= u/2, and c' = c + f, |f| <= F: |sum y' c' - y c| <= sum |c| u/2 + (sum |y| + d u/2) F, and
    one unit of the sum, u times the codebook's, for the bits that are cut.
    """
    from cuda_kernels.operands_fast import LARGEST

    centroids = Q.codebook.centroids
    c = centroids[code.indices]
    y = q @ Q.rotation.matrix().T
    u = np.abs(y).max(axis=1) / LARGEST
    F = unit / 512  # half a unit of the table
    total = u[:, None] / 2 * np.abs(c).sum(axis=1) + (u * unit)[:, None]
    total = total + (np.abs(y).sum(axis=1) + Q.d * u / 2)[:, None] * F
    exact = np.abs(y) @ np.abs(c).T
    if Q.algorithm == "prod":
        z = q @ Q.sketch.matrix().T
        v = np.abs(z).max(axis=1) / LARGEST
        gain = residual_norms * Q.sketch.constant
        total = total + (v * Q.d / 2)[:, None] * gain
        exact = exact + np.abs(z).sum(axis=1)[:, None] * gain
    return norms * (total + exact * 16 * 2.0**-24)


@needs_emission
@pytest.mark.parametrize("d", [64, 128, 256])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("algorithm", ["mse", "prod"])
@pytest.mark.parametrize(("queries", "live"), [(1, 1), (2, 2), (4, 3), (8, 7)])
def test_the_program_of_a_tile(d: int, bits: int, algorithm: str, queries: int, live: int) -> None:
    module = getattr(tq, algorithm)
    Q = module.setup(d=d, bits=bits, rng=bits)
    code = module.quantize(Q, RNG.standard_normal((64, d)))
    q = RNG.standard_normal((live, d))
    got, allowed = emulated(Q, q, code, queries)
    want = module.inner_product(Q, q, code)
    assert np.all(np.abs(got - want) <= allowed)
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


@needs_emission
def test_the_program_test_can_fail() -> None:
    Q = tq.mse.setup(128, 4, 0)
    code = tq.mse.quantize(Q, RNG.standard_normal((64, 128)))
    q = RNG.standard_normal((1, 128))
    got, allowed = emulated(Q, q, code, 1, wrong_place=1)
    assert np.mean(np.abs(got - tq.mse.inner_product(Q, q, code)) > allowed) > 0.9


@needs_emission
@pytest.mark.parametrize("residual", ["stored", "expected"])
def test_a_zero_query_and_a_zero_key(residual: str) -> None:
    Q = tq.prod.setup(64, 4, 0, residual=residual)
    x = RNG.standard_normal((64, 64))
    x[5] = 0
    code = tq.prod.quantize(Q, x)
    got, _ = emulated(Q, RNG.standard_normal((2, 64)), code, 2)
    assert np.all(got[:, 5] == 0)


@needs_emission
@pytest.mark.parametrize("d", [64, 128, 256])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_every_dimension_has_a_place(d: int, bits: int) -> None:
    from cuda_kernels.operands_fast import places

    where = places(d, bits)
    assert len(set(where)) == d
    assert set(where // 16 % 8) == {0}  # column 0
    assert where.max() < d // 16 * 128


# ------------------------------------------------------------------------------------------------- the plain kernels


def check(Q: Any, n: int, heads: int = 1, group: int = 2, n_queries: int = 1, dtype: str = "d", **options: Any) -> None:
    """The plain kernel against the reference, within the roundings of sums of Q.d terms and a few factors."""
    module = getattr(tq, Q.algorithm)
    x = RNG.standard_normal((heads, n, Q.d)).astype(dtype)
    q = RNG.standard_normal((heads * group, n_queries, Q.d)).astype(dtype)
    code = module.quantize(Q, x)
    keys = layout.prepare(Q, module.pack(Q, code, str(np.dtype(dtype))))
    got = logits.logits(Q, q, keys, **options)
    want = tq.attention.logits(Q, q.astype("d"), module.unpack(Q, layout.to_packed(Q, keys)), **options)
    assert got.dtype == np.dtype(dtype)
    seen = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), seen)
    roundings = 4 * Q.d + 20
    u = np.finfo(dtype).eps / 2
    # |y| <= |q|, |c| <= 1, and a sketch's sum of |z| is at most sqrt(m) |S| |q|
    size = np.linalg.norm(x, axis=-1).max() * np.linalg.norm(q, axis=-1).max() / math.sqrt(Q.d)
    if Q.algorithm != "mse":
        size *= 1 + Q.sketch.constant * math.sqrt(Q.m) * np.linalg.norm(Q.sketch.matrix(), 2)
    np.testing.assert_array_less(np.abs(got - want)[seen], 10 * roundings * u * size + 1e-300)


@needs_kernels
@pytest.mark.parametrize(("d", "bits"), [(8, 1), (33, 2), (32, 3), (33, 3), (64, 4), (6, 5), (16, 7), (12, 8), (16, 2)])
def test_plain_mse(d: int, bits: int) -> None:
    check(tq.mse.setup(d, bits, 1), 10)


@needs_kernels
@pytest.mark.parametrize(("d", "bits", "options"), [
    (8, 1, {}), (8, 2, {}), (32, 3, {}), (8, 4, {}), (9, 6, {}),
    (8, 3, {"m": 13}), (8, 1, {"m": 13}), (32, 3, {"m": 40, "residual": "expected"}),
])  # fmt: skip
def test_plain_prod(d: int, bits: int, options: dict[str, Any]) -> None:
    check(tq.prod.setup(d, bits, 1, **options), 6)


@needs_kernels
@pytest.mark.parametrize("m", [None, 24])
def test_plain_qjl(m: int | None) -> None:
    check(tq.qjl.setup(8, m, 1), 6)


@needs_kernels
@pytest.mark.parametrize("dtype", ["f", "d"])
def test_more_keys_than_a_tile_and_more_heads_than_one(dtype: str) -> None:
    check(tq.mse.setup(8, 2, 1), 140, heads=2, group=1, dtype=dtype)


@needs_kernels
@pytest.mark.parametrize("options", [
    {"scale": 0.3}, {"causal": True}, {"causal": True, "window": 2, "softcap": 2.0}, {"window": 3},
    {"mask": RNG.standard_normal((2, 3, 9))}, {"mask": RNG.random((2, 1, 9)) > 0.5, "positions": np.array([1, 2, 3])},
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_options(options: dict[str, Any]) -> None:
    check(tq.mse.setup(8, 2, 1), 9, n_queries=3, **options)


@needs_kernels
def test_codes_and_packed_are_keys_too() -> None:
    Q = tq.mse.setup(8, 2, 1)
    code = tq.mse.quantize(Q, RNG.standard_normal((1, 5, 8)))
    q = RNG.standard_normal((1, 1, 8))
    want = logits.logits(Q, q, layout.prepare(Q, tq.mse.pack(Q, code, "float64")))
    np.testing.assert_array_equal(logits.logits(Q, q, code), want)
    np.testing.assert_array_equal(logits.logits(Q, q, tq.mse.pack(Q, code, "float64")), want)


@needs_kernels
@pytest.mark.parametrize("bits", [2, 3])
def test_pages(bits: int) -> None:
    """Pages in any order, sequences of different lengths: equal to each sequence by itself, -inf beyond its end."""
    Q = tq.mse.setup(32, bits, 1)
    pages = tq.mse.encode(Q, RNG.standard_normal((5, 2, 4, 32)), "float32")  # 5 pages of 4 keys of 2 heads
    table, lengths = np.array([[3, 1], [0, 4]], np.int32), np.array([7, 3], np.int32)
    q = RNG.standard_normal((2, 2, 1, 32)).astype(np.float32)
    got = logits.logits(Q, q, layout.paged(layout.prepare(Q, pages), table, lengths))
    assert got.shape == (2, 2, 1, 8)
    for i in range(2):
        rows = pages.data[table[i]].transpose(1, 0, 2, 3).reshape(2, 8, -1)[:, : lengths[i]]
        alone = layout.prepare(Q, type(pages)(np.ascontiguousarray(rows), pages.scalars, pages.fingerprint))
        np.testing.assert_array_equal(got[i, ..., : lengths[i]], logits.logits(Q, q[i], alone))
        assert np.all(np.isneginf(got[i, ..., lengths[i] :]))


@needs_kernels
@pytest.mark.parametrize(
    ("algorithm", "bits", "dtype"), [("mse", 2, "f"), ("mse", 3, "d"), ("prod", 2, "f"), ("qjl", 0, "d")]
)
def test_a_fixed_plain_call_reads_its_query_each_time(algorithm: str, bits: int, dtype: str) -> None:
    from cuda_kernels import _launch

    module = getattr(tq, algorithm)
    Q = module.setup(8, bits, 1) if bits else module.setup(8, rng=1)
    keys = layout.prepare(Q, module.encode(Q, RNG.standard_normal((2, 5, 8)), "float32"))
    q = RNG.standard_normal((3, 2, 1, 8)).astype(dtype)
    on_device = _launch.ready().to_device(q[0])
    call = logits.fix(Q, on_device, keys, dtype=str(q.dtype))
    for each in q:
        _launch.ready().to_device(each, to=on_device)
        np.testing.assert_array_equal(call().copy_to_host(), logits.logits(Q, each, keys))
    alive = weakref.ref(Q)
    del Q, keys
    gc.collect()
    assert alive() is not None  # the call reads the tables that live as long as the quantizer


@needs_kernels
def test_nothing_to_do() -> None:
    Q = tq.mse.setup(8, 2, 1)
    keys = layout.prepare(Q, tq.mse.encode(Q, np.ones((1, 5, 8))))
    assert logits.logits(Q, np.ones((1, 0, 8)), keys).shape == (1, 0, 5)
    none = layout.prepare(Q, tq.mse.encode(Q, np.ones((1, 0, 8))))
    assert logits.logits(Q, np.ones((1, 1, 8)), none).shape == (1, 1, 0)


@needs_kernels
def test_what_is_refused() -> None:
    from cuda_kernels import _launch

    Q = tq.mse.setup(8, 2, 1)
    keys = layout.prepare(Q, tq.mse.encode(Q, np.ones((2, 5, 8))))
    with pytest.raises(ValueError, match="expected d = 8"):
        logits.logits(Q, np.ones((2, 1, 9)), keys)
    with pytest.raises(ValueError, match="multiple of kv_heads"):
        logits.logits(Q, np.ones((3, 1, 8)), keys)
    with pytest.raises(ValueError, match="q "):
        logits.logits(Q, np.full((2, 1, 8), np.nan), keys)
    with pytest.raises(ValueError, match="made by quantizer"):
        logits.logits(tq.mse.setup(8, 2, 2), np.ones((2, 1, 8)), keys)
    with pytest.raises(ValueError, match="softcap: expected a positive"):
        logits.logits(Q, np.ones((2, 1, 8)), keys, softcap=-1.0)
    with pytest.raises(ValueError, match="a fixed call takes device arrays"):
        logits.fix(Q, np.ones((2, 1, 8)), keys)
    device = _launch.ready().to_device
    q = device(np.ones((2, 1, 8)))
    with pytest.raises(ValueError, match="dtype: expected one of float32, float16, float64, got 'int8'"):
        logits.fix(Q, q, keys, dtype="int8")
    with pytest.raises(TypeError, match="out: expected an array on the device, got ndarray"):
        logits.fix(Q, q, keys, out=np.zeros((2, 1, 5)))
    for bad in (np.zeros((2, 1, 4)), np.zeros((2, 1, 5), np.int32), np.asfortranarray(np.zeros((2, 1, 5)))):
        with pytest.raises(ValueError, match=r"out: expected a C-contiguous array \(2, 1, 5\) of float32 or"):
            logits.fix(Q, q, keys, out=device(bad))


# ---------------------------------------------------------------------------------------------- the fast kernel itself


@needs_gpu
@pytest.mark.parametrize(("d", "algorithm", "bits", "group", "n", "scalars"), [
    (64, "mse", 2, 1, 64, "float16"), (64, "mse", 3, 2, 1003, "float32"), (64, "prod", 4, 8, 130, "float16"),
    (128, "mse", 4, 1, 1003, "float32"), (128, "mse", 4, 4, 4096, "float16"), (128, "mse", 3, 1, 500, "float16"),
    (128, "mse", 2, 8, 777, "float32"), (128, "prod", 4, 1, 4096, "float16"), (128, "prod", 3, 11, 77, "float32"),
    (256, "mse", 3, 1, 500, "float32"), (256, "mse", 4, 11, 77, "float16"), (256, "prod", 2, 4, 64, "float32"),
])  # fmt: skip
def test_the_fast_kernel(d: int, algorithm: str, bits: int, group: int, n: int, scalars: str) -> None:
    module = getattr(tq, algorithm)
    Q = module.setup(d=d, bits=bits, rng=bits)
    packed = module.encode(Q, RNG.standard_normal((3, n, d)), scalars)
    q = RNG.standard_normal((3 * group, 1, d)).astype(np.float32)
    got = logits.logits(Q, q, layout.prepare(Q, packed))
    want = tq.attention.logits(Q, q.astype("d"), module.unpack(Q, packed))
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)
    assert np.abs(got - want).max() < 1e-3 * np.abs(want).max()


@needs_gpu
@pytest.mark.parametrize(("algorithm", "d", "bits", "scalars", "group", "page"), [
    ("prod", 128, 4, "float16", 4, 64), ("prod", 128, 4, "float16", 4, 16), ("mse", 128, 4, "float32", 1, 16),
    ("mse", 128, 3, "float16", 2, 32), ("mse", 64, 3, "float32", 8, 16), ("prod", 64, 3, "float16", 1, 32),
    ("mse", 64, 2, "float16", 4, 16), ("mse", 256, 4, "float16", 2, 16), ("mse", 128, 2, "float16", 1, 128),
])  # fmt: skip
def test_pages_on_the_tensor_cores(algorithm: str, d: int, bits: int, scalars: str, group: int, page: int) -> None:
    """Pages in any order, lengths that are no multiple of anything, and a sequence without keys."""
    module = getattr(tq, algorithm)
    Q, each = module.setup(d, bits, 1), -(-192 // page)
    pages = module.encode(Q, RNG.standard_normal((3 * each, 2, page, d)), scalars)
    lengths = np.array([150, 33, 0], np.int32)
    table = RNG.permutation(3 * each).astype(np.int32).reshape(3, each)
    q = RNG.standard_normal((3, 2 * group, 1, d)).astype(np.float32)
    got = logits.logits(Q, q, layout.paged(layout.prepare(Q, pages), table, lengths))
    for i in range(3):
        rows = pages.data[table[i]].transpose(1, 0, 2, 3).reshape(2, each * page, -1)[:, : lengths[i]]
        code = module.unpack(Q, type(pages)(np.ascontiguousarray(rows), pages.scalars, pages.fingerprint))
        want = tq.attention.logits(Q, q[i].astype("d"), code)
        assert np.linalg.norm(got[i, ..., : lengths[i]] - want) <= 1e-4 * np.linalg.norm(want)
        assert np.all(np.isneginf(got[i, ..., lengths[i] :]))


@needs_gpu
def test_a_fixed_call_reads_its_query_each_time_and_keeps_no_memory() -> None:
    from cuda_kernels import _launch

    cuda = _launch.ready()
    Q = tq.mse.setup(128, 4, 1)
    code = tq.mse.quantize(Q, RNG.standard_normal((2, 500, 128)))
    keys = layout.prepare(Q, tq.mse.pack(Q, code, "float16"))
    q = cuda.to_device(RNG.standard_normal((1, 2, 1, 128)).astype(np.float32)[0])
    call = logits.fix(Q, q, keys)
    first = call().copy_to_host()
    np.testing.assert_array_equal(call().copy_to_host(), first)
    cuda.to_device(-q.copy_to_host(), to=q)
    # rounding to the nearest even unit is symmetric, the lower plane cut to 8 bits is not: one unit of 2^-15
    np.testing.assert_allclose(call().copy_to_host(), -first, atol=np.abs(first).max() * 2.0**-14)
    for _ in range(10):
        logits.logits(Q, q, keys)
    cuda.synchronize()
    free = cuda.current_context().get_memory_info()[0]
    for _ in range(1000):
        logits.logits(Q, q, keys)
    cuda.synchronize()
    assert cuda.current_context().get_memory_info()[0] >= free - (64 << 20)


@pytest.mark.skipif(GPU or SIMULATED, reason="there is a GPU, or the simulator")
@needs_emission
def test_without_a_gpu_the_first_call_says_so() -> None:
    Q = tq.mse.setup(8, 2, 1)
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU and its driver"):
        logits.logits(Q, np.ones((1, 1, 8)), tq.mse.encode(Q, np.ones((1, 5, 8))))
