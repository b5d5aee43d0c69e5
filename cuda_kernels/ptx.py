"""Inline PTX: the machine instructions that numba.cuda has no word for, as functions of registers.

The PTX of single instructions is here, that of whole programs of registers in `machine`. Each line of the table below
is one instruction, usable in any ``@cuda.jit`` function. Registers are ``uint32``, ``int32``, ``uint64`` or
``float32`` numbers, and a group of them is a tuple: an ``mma`` takes the tuples a, b, c and returns the tuple a b + c,
so that

    total = ptx.mma_s8(a, b, total)

is one tensor-core instruction. Global addresses are ``int64``; shared addresses are ``uint32``, from
`shared_address`. None of it runs under the CUDA simulator, which has no PTX: the plain kernels are for that.

Names of the PTX manual: https://docs.nvidia.com/cuda/parallel-thread-execution/
"""

from __future__ import annotations

import inspect
from typing import Any

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic
from numba.cuda.np.arrayobj import make_array

U32, I32, U64, I64, F32 = types.uint32, types.int32, types.uint64, types.int64, types.float32
_REGISTER = {U32: "r", I32: "r", U64: "l", I64: "l", F32: "f"}
_LLVM = {U32: ir.IntType(32), I32: ir.IntType(32), U64: ir.IntType(64), I64: ir.IntType(64), F32: ir.FloatType()}
_MEMORY = "~{memory}"


def group(register: Any, n: int) -> Any:
    """The type of a tuple of n registers."""
    return types.UniTuple(register, n)


def _flat(kinds: tuple[Any, ...]) -> list[Any]:
    return [register for kind in kinds for register in (kind.types if isinstance(kind, types.UniTuple) else [kind])]


def instruction(text: str, result: Any, *arguments: Any, effect: bool = False, memory: bool = False) -> Any:
    """A function of registers that is the PTX `text`.

    Parameters
    ----------
    text : str
        ``$0``, ``$1``, … are the registers: first those of the result, then those of the arguments.
    result : a register type, a `group` of them, or ``types.void``
    arguments : register types or groups
        Whatever is passed is converted to them.
    effect : bool
        The instruction does more than give its result: it is neither moved, merged nor dropped.
    memory : bool
        It reads or writes memory that ordinary loads and stores see too: they keep their order.
    """
    outputs = [] if result is types.void else _flat((result,))
    inputs = _flat(arguments)
    constraints = ["=" + _REGISTER[r] for r in outputs] + [_REGISTER[r] for r in inputs] + [_MEMORY] * memory
    if len(outputs) > 1:
        returned: Any = ir.LiteralStructType([_LLVM[r] for r in outputs])
    else:
        returned = _LLVM[outputs[0]] if outputs else ir.VoidType()
    function = ir.FunctionType(returned, [_LLVM[r] for r in inputs])

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        registers: list[Any] = []
        for kind, value in zip(arguments, values, strict=True):
            registers += cgutils.unpack_tuple(builder, value) if isinstance(kind, types.UniTuple) else [value]
        asm = ir.InlineAsm(function, text, ",".join(constraints), side_effect=effect or memory)
        out = builder.call(asm, registers)
        if not outputs:
            return context.get_dummy_value()
        if not isinstance(result, types.UniTuple):
            return out
        parts = [builder.extract_value(out, i) for i in range(len(outputs))] if len(outputs) > 1 else [out]
        return cgutils.pack_array(builder, parts)

    def typed(context: Any, *given: Any) -> Any:
        return result(*arguments), generate

    names = ["context", *(f"a{i}" for i in range(len(arguments)))]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typed.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    typed.__name__ = typed.__qualname__ = "ptx_" + text.split()[0].strip("{").replace(".", "_")
    return intrinsic(typed)


def _load(text: str, result: Any, address: Any, ordered: bool = False) -> Any:
    # a load from memory that nobody writes meanwhile is pure: it may be moved and merged; others are not
    return instruction(text, result, address, memory=ordered)


def _store(text: str, *arguments: Any) -> Any:
    return instruction(text, types.void, *arguments, memory=True)


# Loads of read-only global memory. The wide ones bypass L1: what is read once need not evict what is not.
load_u32x2 = _load("ld.global.nc.L1::no_allocate.v2.u32 {$0,$1}, [$2];", group(U32, 2), I64)
load_f32 = _load("ld.global.nc.f32 $0, [$1];", F32, I64)
load_f32x4 = _load("ld.global.nc.v4.f32 {$0,$1,$2,$3}, [$4];", group(F32, 4), I64)
load_f16 = _load("{ .reg .b16 h; ld.global.nc.b16 h, [$1]; cvt.f32.f16 $0, h; }", F32, I64)
load_bf16 = _load("{ .reg .b16 z, h; mov.b16 z, 0; ld.global.nc.b16 h, [$1]; mov.b32 $0, {z, h}; }", F32, I64)
load_i32 = _load("ld.global.nc.s32 $0, [$1];", I32, I64)


def load_each(kind: str, offsets: tuple[int, ...], ordered: bool = False) -> Any:
    """A load of one "u32", "s32", "f32" or "f16" (to float32) at each of some fixed distances, bytes, from an address.

    `ordered` ones stay where they are: for what another kernel may have written while this one ran.
    """
    n, way = len(offsets), "" if ordered else ".nc"
    if kind == "f16":
        body = f"ld.global{way}.b16 h, [${{n}} + {{o}}]; cvt.f32.f16 ${{i}}, h;"
    else:
        body = f"ld.global{way}.{kind} ${{i}}, [${{n}} + {{o}}];"
    text = "".join("{ .reg .b16 h; " + body.format(n=n, o=o, i=i) + " }" for i, o in enumerate(offsets))
    return _load(text, group({"u32": U32, "s32": I32, "f32": F32, "f16": F32}[kind], n), I64, ordered)


# Loads that keep their order with other instructions on memory, of what another kernel may just have written.
fetch_f32 = _load("ld.global.f32 $0, [$1];", F32, I64, ordered=True)
fetch_i32 = _load("ld.global.s32 $0, [$1];", I32, I64, ordered=True)

# Stores.
store_u8 = _store("st.global.u8 [$0], $1;", I64, U32)
store_u16 = _store("st.global.u16 [$0], $1;", I64, U32)
store_u32 = _store("st.global.b32 [$0], $1;", I64, U32)
store_u32x4 = _store("st.global.v4.b32 [$0], {$1,$2,$3,$4};", I64, group(U32, 4))
store_f32 = _store("st.global.f32 [$0], $1;", I64, F32)
store_f16 = _store("{ .reg .b16 h; cvt.rn.f16.f32 h, $1; st.global.b16 [$0], h; }", I64, F32)
store_bf16 = _store("{ .reg .b16 h; cvt.rn.bf16.f32 h, $1; st.global.b16 [$0], h; }", I64, F32)
stream_f32 = _store("st.global.cs.f32 [$0], $1;", I64, F32)  # "cache streaming": first to be evicted
stream_f16 = _store("{ .reg .b16 h; cvt.rn.f16.f32 h, $1; st.global.cs.b16 [$0], h; }", I64, F32)

# Shared memory.
shared_u32x4 = _load("ld.shared.v4.u32 {$0,$1,$2,$3}, [$4];", group(U32, 4), U32, ordered=True)
put_f32x4 = _store("st.shared.v4.f32 [$0], {$1,$2,$3,$4};", U32, group(F32, 4))

# Asynchronous copies from global [$1] to shared [$0], compute capability 8.0: commit a group, wait until at most n
# groups are still under way.
copy_16 = _store("cp.async.cg.shared.global [$0], [$1], 16;", U32, I64)
copy_some = _store("cp.async.cg.shared.global [$0], [$1], 16, $2;", U32, I64, U32)  # $2 bytes, then zeros
copy_8 = _store("cp.async.ca.shared.global [$0], [$1], 8;", U32, I64)
copy_commit = instruction("cp.async.commit_group;", types.void, memory=True)
copy_wait = tuple(instruction(f"cp.async.wait_group {n};", types.void, memory=True) for n in range(8))

team_barrier = instruction("bar.sync $0, $1;", types.void, U32, U32, memory=True)
"""Wait for the $1 threads that name barrier $0, 1 to 15."""

# Overlapping launches, compute capability 9.0: let the next kernel of the stream begin, if it was launched early; wait
# until all that came before this one has ended, and what it wrote can be read.
grid_next = instruction("griddepcontrol.launch_dependents;", types.void, memory=True)
grid_wait = instruction("griddepcontrol.wait;", types.void, memory=True)

# Bytes and bits.
permute = instruction("prmt.b32 $0, $1, $2, $3;", U32, U32, U32, U32)
"""Each nibble of the third register picks one of the 8 bytes of the first two; top bit set, only its sign, 8 times."""
shuffle_xor = instruction("shfl.sync.bfly.b32 $0, $1, $2, 31, -1;", U32, U32, U32, effect=True)
shuffle_xor_f32 = instruction("shfl.sync.bfly.b32 $0, $1, $2, 31, -1;", F32, F32, U32, effect=True)

# Numbers.
bits_of = instruction("mov.b32 $0, $1;", U32, F32)
float_of = instruction("mov.b32 $0, $1;", F32, U32)
round_s32 = instruction("cvt.rni.s32.f32 $0, $1;", I32, F32)
exp2 = instruction("ex2.approx.ftz.f32 $0, $1;", F32, F32)
rsqrt = instruction("rsqrt.approx.f32 $0, $1;", F32, F32)
fma = instruction("fma.rn.f32 $0, $1, $2, $3;", F32, F32, F32, F32)


# Tensor cores: a (16, 32) times b (32, 8) plus c (16, 8). With lane = 4 g + t of a warp, c = (C[g, 2t], C[g, 2t+1],
# C[g+8, 2t], C[g+8, 2t+1]), a = (A[g, 4t:4t+4], A[g+8, 4t:4t+4], A[g, 16+4t:…], A[g+8, 16+4t:…]) and
# b = (B[4t:4t+4, g], B[16+4t:…, g]). Products of integers are exact.
mma_s8 = instruction(
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
    *(group(I32, 4), group(U32, 4), group(U32, 2), group(I32, 4)),
)


@intrinsic
def shared_address(context: Any, array: Any) -> Any:
    """The uint32 address, in shared memory, of the first element of a shared array."""

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = make_array(signature.args[0])(target, builder, value=values[0]).data
        function = ir.FunctionType(ir.IntType(32), [ir.IntType(64)])
        text = "{ .reg .u64 t; cvta.to.shared.u64 t, $1; cvt.u32.u64 $0, t; }"
        asm = ir.InlineAsm(function, text, "=r,l", side_effect=False)
        return builder.call(asm, [builder.ptrtoint(data, ir.IntType(64))])

    return U32(array), generate
