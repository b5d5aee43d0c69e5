"""The machine code of the fast kernels, made without a GPU: the instructions they are for, and no spills."""

from __future__ import annotations

import pytest
from _cuda import needs_emission
from _sass import assemble

from cuda_kernels import _launch

pytestmark = needs_emission


def emitted(body: object, *kinds: str) -> str:
    """PTX of a function of numbers, with line numbers and names taken out."""
    from numba import types

    return _launch.ptx_of(lambda: (body, tuple(getattr(types, k) for k in kinds)))


def test_registers_and_groups_of_registers() -> None:
    from numba import cuda, int32, uint32

    from cuda_kernels import ptx

    wait = ptx.copy_wait[1]

    def body(source, target):
        shared = ptx.shared_address(cuda.shared.array(256, uint32))
        ptx.copy_16(shared, source)
        ptx.copy_commit()
        wait()
        a, b = ptx.shared_u32x4(shared), ptx.load_u32x2(source)
        total = (int32(0), int32(0), int32(0), int32(0))
        for _ in range(3):
            total = ptx.mma_s8(a, b, total)
        ptx.store_u32x4(target, total)
        ptx.store_f16(target + 16, ptx.exp2(ptx.float_of(ptx.permute(a[0], a[1], a[2]))))

    text = emitted(body, "int64", "int64")
    for instruction in (
        "cp.async.cg.shared.global",
        "cp.async.wait_group 1;",
        "ld.shared.v4.u32",
        "ld.global.nc.L1::no_allocate.v2.u32",
        "st.global.v4.b32",
        "ex2.approx.ftz.f32",
        "prmt.b32",
        "cvt.rn.f16.f32",
    ):
        assert text.count(instruction) == 1, instruction
    assert text.count("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32") == 3  # the loop is unrolled


def test_numbers_are_converted_to_registers() -> None:
    from cuda_kernels import ptx

    def body(target, x):
        ptx.store_u32(target, x)  # an int64 for a uint32
        ptx.store_f32(target + 4, x)

    text = emitted(body, "int64", "int64")
    assert "cvt.rn.f32.s64" in text
    assert text.count("st.global") == 2


def test_a_load_of_what_others_write_is_not_moved() -> None:
    from cuda_kernels import ptx

    free, ordered = ptx.load_each("f32", (0, 32)), ptx.load_each("f32", (0, 32), True)

    def pure(source, target):
        x = free(source)
        ptx.grid_wait()
        ptx.store_f32(target, x[0] + x[1])

    def kept(source, target):
        ptx.grid_wait()
        x = ordered(source)
        ptx.store_f32(target, x[0] + x[1])

    assert "ld.global.nc.f32" in emitted(pure, "int64", "int64")
    text = emitted(kept, "int64", "int64")
    assert text.index("griddepcontrol.wait") < text.index("ld.global.f32")


LOGITS = [
    # d, bits, merged, queries, keys, stages, warps, half scales, half logits, residuals, page, early
    (128, 4, False, 1, 64, 2, 4, True, False, False, 0, True),
    (128, 3, False, 4, 64, 2, 4, False, True, False, 64, True),
    (128, 4, True, 8, 64, 2, 4, True, False, True, 0, False),
    (64, 3, False, 2, 64, 4, 4, True, False, False, 0, False),
    (256, 2, True, 4, 64, 2, 4, True, False, False, 128, True),
    (128, 4, False, 1, 64, 2, 4, True, False, False, 16, True),
    (64, 3, True, 2, 64, 4, 4, False, False, True, 32, True),
    (128, 2, False, 4, 64, 2, 4, True, False, False, 16, True),
]


@pytest.mark.parametrize("constants", LOGITS, ids=str)
def test_logits(constants: tuple[object, ...]) -> None:
    from cuda_kernels import logits_fast

    x = logits_fast.Shape(*constants)
    machine = assemble(_launch.ptx_of(logits_fast.logits_kernel, *constants))
    assert (machine.spills, machine.stack) == (0, 0)
    assert machine.count("LDL") == machine.count("STL") == 0
    # a product for each 16 keys, 32 dimensions and plane (two halves of a table of 16), and group of queries
    planes = 2 * (2 if x.bits - x.merged == 4 else 1) + x.merged
    assert machine.count("IMMA.16832") == x.keys // 16 * x.d // 32 * planes * x.groups
    assert machine.count("PRMT") >= 4 * machine.count("IMMA") // x.groups
    assert machine.count("LDGSTS.E") > 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("d", [64, 128, 256])
def test_operands(d: int, dtype: str) -> None:
    from cuda_kernels import operands_fast

    machine = assemble(_launch.ptx_of(operands_fast.planes_kernel, d, 2, 2, dtype, True))
    assert (machine.spills, machine.stack) == (0, 0)
    assert machine.count("LDG.E.128") >= 1


def test_no_stray_capability() -> None:
    """What needs compute capability 9.0 is left out where it is not there."""
    from cuda_kernels import logits_fast, operands_fast

    old = _launch.ptx_of(logits_fast.logits_kernel, *LOGITS[3], cc=(8, 0))
    assemble(old, "sm_80")
    assemble(_launch.ptx_of(operands_fast.planes_kernel, 128, 1, 1, "float32", False, cc=(8, 0)), "sm_80")
    assert "griddepcontrol" not in old
    assert "mbarrier" not in old
