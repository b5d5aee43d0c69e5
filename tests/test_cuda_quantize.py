"""Quantize on the GPU: plain kernels against the reference, fast ones as programs on NumPy and as machine code."""

from __future__ import annotations

import functools

import _sass
import numpy as np
import pytest
from _cuda import SIMULATED, needs_emission, needs_gpu, needs_kernels

import turboquant_ref as tq
from turboquant_ref import codebook as codebooks
from turboquant_ref.packing import pack_bits

ROUNDS = (1, 2)


def quantizer(d, bits, rounds=2, scale="norm", seed=7):
    return tq.mse.Quantizer(tq.rotation.Structured(d, seed, rounds=rounds), codebooks.lloyd_max(d, bits), scale)


def rotation_bound(d):
    """How far a float32 structured rotation of a unit vector may be from the exact one, in each coordinate.

    Each step is orthogonal and adds at most its roundings times u times the norm: of two rounds, 2 + k + 3 levels
    across chunks each, and 8 of the planes (`turboquant_ref.conformance.terms`); d + 4 are those of the norm.
    """
    k = (d & -d).bit_length() - 1
    levels = int(np.ceil(np.log2(d >> k)))
    return (2 * (2 + k + 3 * levels) + 8 + d + 4) * 2.0**-24


# ------------------------------------------------------------------------------------------ programs, on NumPy


def emulated(Q, x):
    """The fast kernel's program for one warp, run on NumPy: rotated coordinates and indices of `vectors` rows."""
    from cuda_kernels import quantize_plans as plans
    from cuda_kernels import quantize_programs as programs
    from cuda_kernels.registers import Warp

    R = Q.rotation
    plan = plans.plan_of(Q.d)
    o = Warp(128 * plan.count, x.astype(np.float32).view(np.uint8).ravel())
    lane = np.arange(32)
    at, vector = lane & ((1 << plan.lanes) - 1), lane >> plan.lanes
    own = plan.lane_coordinates(plan.outer)[at]
    keys = [(c << plan.k) + p for c, p in plan.keys(plan.outer)]
    registers = []
    for key in keys[::4]:
        registers += o.load(4 * (vector * Q.d + own), 4 * key, 4)
    signs, matrices = plans.sign_table(plan, R), plans.plane_table(plan, R)
    bases = {
        view: functools.reduce(np.bitwise_xor, [(lane >> q & 1) * 4 * w for q, w in enumerate(plan.lane_words(view))])
        for view in (plan.outer, plan.inner)
    }
    y = programs.first_stage(o, plan, registers, [signs[i // 4, at, i % 4] for i in range(plan.count)])
    old, new = plan.outer, plan.inner
    for r in range(R.rounds):
        for bit in old.registers[r == 0 :]:
            y = programs.stage(o, plan, old, y, bit)
        for q in plan.shuffled(old):
            y = programs.lane_stage(o, y, q, np.where(lane >> q & 1, -1, 1).astype(np.float32))
        y = programs.exchange(o, plan, y, old, new, bases)
        for bit in new.registers:
            if bit not in old.registers:
                y = programs.stage(o, plan, new, y, bit)
        y = programs.mix(o, plan, R.levels, y)
        if r + 1 < R.rounds:
            y = programs.planes(o, plan, y, lambda j: [matrices[j, at, e] for e in range(4)])
        old, new = new, old
    if R.rounds == 1:
        y = programs.exchange(o, plan, y, plan.inner, plan.outer, bases)
    y = programs.level(o, plan, R.levels, y)
    factor = np.float32(plans.factor_of(plan, R))
    pieces = [(np.full(32, a * factor, np.float32), b, c) for a, b, c in plans.pieces_of(Q.codebook)]
    numbers = programs.cells(o, y, pieces, Q.bits)
    rotated, indices = np.empty((plan.vectors, Q.d)), np.empty((plan.vectors, Q.d), np.uint8)
    for value, number, key in zip(y, numbers, keys, strict=True):
        rotated[vector, key + own], indices[vector, key + own] = value * factor, number & 15
    eights = [programs.nibbles(o, numbers[i : i + 8]) for i in range(0, plan.count, 8)]
    words = [programs.streams(o, eight, Q.bits, False)[0] for eight in eights]
    packed = np.empty((plan.vectors, Q.d // 8, Q.bits), np.uint8)
    for word, key in zip(words, keys[::8], strict=True):
        packed[vector, (key + own) // 8] = word.view(np.uint8).reshape(32, 4)[:, : Q.bits]
    return rotated, indices, packed.reshape(plan.vectors, -1)


@needs_emission
@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("d", [64, 96, 128, 192, 256, 320, 512, 640, 768, 1024, 1536, 2048, 3072])
def test_the_fast_program_is_the_rotation_and_the_codes_are_right(d, rounds) -> None:
    Q = quantizer(d, 1 + (d // 64 + rounds) % 4, rounds)
    rng = np.random.default_rng(d)
    from cuda_kernels.quantize_plans import plan_of

    x = rng.standard_normal((plan_of(d).vectors, d))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    rotated, indices, packed = emulated(Q, x)
    truth = Q.rotation.apply(x.astype(np.float64))
    np.testing.assert_array_less(np.abs(rotated - truth), rotation_bound(d))
    away = np.min(np.abs(truth[..., None] - Q.codebook.boundaries), axis=-1) > rotation_bound(d)
    np.testing.assert_array_equal(indices[away], codebooks.nearest(Q.codebook, truth)[away])
    np.testing.assert_array_equal(packed, pack_bits(indices, Q.bits))


@needs_emission
@pytest.mark.parametrize("d", [64, 96, 128, 256, 640, 1024, 1536, 2048, 3072])
def test_no_access_of_an_exchange_meets_a_bank_twice(d) -> None:
    from cuda_kernels.quantize_plans import plan_of

    plan, lane = plan_of(d), np.arange(32)
    for view in (plan.outer, plan.inner):
        own = functools.reduce(np.bitwise_xor, [(lane >> q & 1) * w for q, w in enumerate(plan.lane_words(view))])
        words = np.array([plan.word(p) for p in view.positions()])[:, None] ^ own
        assert sorted(words.ravel()) == list(range(32 << plan.r)), "two coordinates in one word"
        for row in words:
            if view.registers[:2] == (0, 1):  # 16 bytes a lane, 8 lanes at a time
                assert all(len(set(part >> 2 & 7)) == 8 for part in row.reshape(4, 8))
            else:
                assert len(set(row & 31)) == 32


@needs_emission
@pytest.mark.parametrize("d", [8, 72, 200, 264, 400, 896, 1600])
def test_the_narrow_program_is_the_rotation(d) -> None:
    from cuda_kernels import quantize_plans as plans
    from cuda_kernels import quantize_programs as programs
    from cuda_kernels.registers import Warp

    plan, R = plans.narrow_of(d), tq.rotation.Structured(d, 7)
    rng, lane, o = np.random.default_rng(d), np.arange(32), Warp(4, np.zeros(4, np.uint8))
    x = rng.standard_normal((plan.vectors, d))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    at, vector, view = lane & ((1 << plan.lanes) - 1), lane >> plan.lanes, plan.inner
    own = plan.lane_coordinates(view)[at]
    keys = [(c << plan.k) + p for c, p in plan.keys(view)]
    assert len(set((vector * plan.row + own) % 32)) == 32, "a bank is met twice"
    signs, matrices = plans.sign_table(plan, R), plans.plane_table(plan, R)
    own_signs = [signs[i // 4, at, i % 4] for i in range(plan.count)]
    y = programs.first_stage(o, plan, [x[vector, key + own] for key in keys], own_signs)
    for r in range(2):
        for bit in view.registers[r == 0 :]:
            y = programs.stage(o, plan, view, y, bit)
        for q in range(plan.lanes):
            y = programs.lane_stage(o, y, q, np.where(lane >> q & 1, -1, 1).astype(np.float32))
        y = programs.mix(o, plan, R.levels, y)
        if r == 0:
            y = programs.planes(o, plan, y, lambda j: [matrices[j, at, e] for e in range(4)])
    rotated = np.empty((plan.vectors, d))
    for value, key in zip(programs.level(o, plan, R.levels, y), keys, strict=True):
        rotated[vector, key + own] = value * np.float32(plans.factor_of(plan, R))
    np.testing.assert_array_less(np.abs(rotated - R.apply(x.astype(np.float64))), rotation_bound(d))


@needs_emission
@pytest.mark.parametrize("d", [2, 64, 200, 3072])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_cells_change_at_the_boundaries_and_nowhere_else(d, bits) -> None:
    """Eight float32 steps on either side of a boundary the index is the reference's; so it is at 0 and at 1."""
    from cuda_kernels import quantize_plans as plans
    from cuda_kernels import quantize_programs as programs
    from cuda_kernels.registers import Warp

    book = codebooks.lloyd_max(d, bits)
    pieces = plans.pieces_of(book)
    if pieces is None:
        pytest.skip("the boundaries are too uneven; the plain kernels do it")
    near = [[e * (1 - 2.0**-20), e * (1 + 2.0**-20)] for e in book.boundaries] + [[0.0, 1.0], [-1.0, -1e-30]]
    t = np.resize(np.array(near, dtype=np.float32).ravel(), 32 * 2)
    fine = np.linspace(-1, 1, 32 * 64, dtype=np.float32)
    away = np.abs(fine[:, None] - book.boundaries.astype(np.float32)).min(-1) > 1e-6
    for values, compared in ((t, np.ones(t.size, bool)), (fine, away)):
        given = [(np.full(32, a, np.float32), b, c) for a, b, c in pieces]
        numbers = programs.cells(Warp(4, None), list(values.reshape(-1, 32)), given, bits)
        found = np.concatenate([n & 15 for n in numbers])
        np.testing.assert_array_equal(found[compared], codebooks.nearest(book, values)[compared])


# ------------------------------------------------------------------------------------------------ machine code


CASES = [
    (128, 2, 4, "float32", "float32"),
    (128, 1, 4, "bfloat16", "float32"),
    (1024, 2, 3, "float16", "float16"),
    (128, 2, 3, "float32", "float16"),
    (256, 2, 4, "float32", "float16"),
    (1536, 2, 4, "float32", "float16"),
    (3072, 2, 4, "float32", "float32"),
    (200, 2, 4, "float32", "float32"),
]


@needs_emission
@pytest.mark.parametrize(("d", "rounds", "bits", "source", "scalars"), CASES)
def test_the_machine_code(d, rounds, bits, source, scalars) -> None:
    """No spill, no stack; asynchronous copies of 16 bytes, saturated multiply-adds and a directed sum for the cells."""
    from cuda_kernels import _launch, quantize
    from cuda_kernels.quantize_plans import Narrow

    variant = quantize.variant_of(quantizer(d, bits, rounds), source, scalars)
    text = _launch.ptx_of(quantize.text_of(variant).kernel, variant)
    made = _sass.assemble(text, "sm_90", *([f"-maxrregcount={variant.registers}"] if variant.registers else []))
    assert made.spills == 0
    assert made.stack == 0
    plan = variant.plan
    assert made.count("FFMA.SAT") == plan.count * len(variant.pieces)
    assert made.count("FADD.RM") == plan.count
    if not isinstance(plan, Narrow):
        assert made.count("LDGSTS.E.BYPASS.128") >= plan.count * (4 if source == "float32" else 2) // 16
        assert made.count("STS.128") == plan.count // 4  # the way out of the outer view; the way back is LDS.128
    assert made.count("LDL") == made.count("STL") == 0


# ------------------------------------------------------------------------------------------------ plain kernels

DIMENSIONS = [(2, 1), (5, 3), (24, 2)] if SIMULATED else [(2, 40), (5, 40), (24, 40), (127, 20), (128, 20), (200, 20)]


@needs_kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("d", "n"), DIMENSIONS)
def test_codes_are_the_references(d, n, dtype) -> None:
    """Indices wherever the reference is farther from a boundary than the rounding bound; scales to d + 8 roundings."""
    from cuda_kernels import mse

    rng = np.random.default_rng(d)
    x = (rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-30, 30, (n, 1))).astype(dtype)
    x[0] = 0
    for i, scale in enumerate(tq.mse.SCALES):
        Q = tq.mse.setup(d, 1 + (3 * i + d) % 8, 5, ("structured", "haar")[i % 2], scale)
        ours, theirs = mse.quantize(Q, x), tq.mse.quantize(Q, x)
        z = tq.mse.trace(Q, x.astype(np.float64))["rotated"]
        bound = (rotation_bound(d) + 2 * d * 2.0**-24) * (1 if dtype == np.float32 else 2.0**-29)
        away = np.abs(z[..., None] - Q.codebook.boundaries).min(-1) > bound
        np.testing.assert_array_equal(ours.indices[away], theirs.indices[away])
        if np.array_equal(ours.indices, theirs.indices):
            np.testing.assert_allclose(ours.scales, theirs.scales, rtol=(2 * d + 16) * np.finfo(dtype).eps, atol=0)
        assert ours.scales.dtype == dtype
        assert ours.scales[0] == 0


@needs_kernels
def test_the_codes_of_one_quantizer_in_every_form() -> None:
    """encode, prepare, to_packed, pack and unpack agree to the bit; so do dequantize and inner_product, to rounding."""
    from cuda_kernels import mse

    rng = np.random.default_rng(1)
    for d, bits in ((32, 3), (10, 4)):
        Q = tq.mse.setup(d, bits, 0, "structured")
        x, y = rng.standard_normal((2, 2, d)), rng.standard_normal((3, d))
        code = tq.mse.quantize(Q, x)
        packed = tq.mse.pack(Q, code, "float64")
        np.testing.assert_array_equal(mse.pack(Q, code, "float64").data, packed.data)
        np.testing.assert_array_equal(mse.unpack(Q, packed).indices, code.indices)
        own = mse.pack(Q, mse.quantize(Q, x), "float64")
        np.testing.assert_array_equal(mse.to_packed(Q, mse.encode(Q, x, "float64")).data, own.data)
        np.testing.assert_array_equal(mse.to_packed(Q, mse.prepare(Q, packed)).data, packed.data)
        np.testing.assert_allclose(mse.dequantize(Q, code), tq.mse.dequantize(Q, code), rtol=0, atol=1e-13)
        np.testing.assert_allclose(mse.inner_product(Q, y, code), tq.mse.inner_product(Q, y, code), rtol=0, atol=1e-13)
        one, w = tq.codes.select(code, 0), rng.standard_normal((2, 2))
        total = mse.weighted_sum(Q, w, one)
        np.testing.assert_allclose(total, tq.mse.weighted_sum(Q, w, one), rtol=0, atol=1e-13)
        np.testing.assert_allclose(mse.to_original(Q, total), w @ tq.mse.dequantize(Q, one), rtol=0, atol=1e-13)


@needs_kernels
def test_what_is_refused_is_refused_in_the_references_words() -> None:
    from cuda_kernels import mse
    from cuda_kernels._launch import ready

    Q = tq.mse.setup(4, 2, 0, "structured")
    x = np.ones((3, 4), np.float32)
    x[1, 2] = np.nan
    with pytest.raises(ValueError, match="x holds 1 NaN and 0 infinite values, the first in row 1"):
        mse.quantize(Q, x)
    with pytest.raises(ValueError, match="x holds 1 NaN and 0 infinite values, the first in row 1"):
        mse.quantize(Q, ready().to_device(x))
    with pytest.raises(ValueError, match="the norm of row 0 exceeds the largest float32"):
        mse.quantize(Q, np.full((1, 4), 3e38, np.float32))
    with pytest.raises(TypeError, match="x has dtype complex64"):
        mse.quantize(Q, ready().to_device(np.ones((1, 4), np.complex64)))
    with pytest.raises(ValueError, match="expected d = 4"):
        mse.quantize(Q, ready().to_device(np.ones((1, 5), np.float32)))


@needs_kernels
def test_empty_batches() -> None:
    from cuda_kernels import mse

    Q = tq.mse.setup(4, 2, 0, "structured")
    code = mse.quantize(Q, np.zeros((0, 4), np.float32))
    assert code.indices.shape == (0, 4)
    assert mse.dequantize(Q, code).shape == (0, 4)


# ---------------------------------------------------------------------------------------------------------- GPU


@needs_gpu
@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize("d", [64, 96, 128, 200, 256, 1024, 1536, 3072])
def test_fast_codes_on_the_device(d, rounds, capsys) -> None:
    from cuda_kernels import _launch, mse, quantize

    rng = np.random.default_rng(d)
    for bits in ((3, 1), (4, 2))[rounds - 1]:
        Q = quantizer(d, bits, rounds)
        size = 10.0 ** rng.uniform(-25, 25, (400_000 // d, 1))
        x = (rng.standard_normal((400_000 // d, d)) * size).astype(np.float32)
        x[1] = 0
        if quantize.prepared_call(Q, _launch.ready().to_device(x)) is None:
            continue
        code = tq.mse.unpack(Q, mse.to_packed(Q, mse.encode(Q, x)))
        t = tq.mse.trace(Q, x.astype(np.float64))
        off = code.indices != t["indices"]
        away = np.abs(t["rotated"][off][:, None] - Q.codebook.boundaries).min(-1)
        assert np.all(away <= rotation_bound(d))
        with capsys.disabled():
            print(f" d={d} b={bits} rounds={rounds}: {off.mean():.1e} of the indices off by one")
        np.testing.assert_allclose(code.scales, t["norm"], rtol=(d + 4) * 2.0**-24, atol=0)


@needs_gpu
def test_a_thousand_calls_leak_nothing() -> None:
    from cuda_kernels import _launch, mse

    Q, cuda = quantizer(128, 4), _launch.ready()
    x = cuda.to_device(np.random.default_rng(0).standard_normal((4096, 128)).astype(np.float32))

    def free():
        cuda.synchronize()
        cuda.current_context().deallocations.clear()
        return cuda.current_context().get_memory_info().free

    for _ in range(10):
        mse.encode(Q, x)
    before = free()
    for _ in range(1000):
        mse.encode(Q, x)
    assert before - free() < 1 << 21  # a page of the driver's
