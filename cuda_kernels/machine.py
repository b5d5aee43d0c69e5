# ruff: noqa: D102  (the methods of a machine are its instructions)
"""Straight-line programs of one warp: the same Python text emits machine code, or runs on NumPy, lane by lane.

A fast kernel is a loop around a few hundred instructions on registers. Written out one by one they cannot be read;
generated as source text they cannot be checked. Here such a stretch is a Python function of a *machine* `o` and lists
of registers, in which ``for`` unrolls at compile time:

    def dot(o, a, b, c):
        for x, y in zip(a, b):
            c = o.mma_s8(x, y, c)
        return c

`program` makes it a function that numba.cuda compiles in line, with `Emit` as the machine (registers are LLVM values).
Called with `Warp` instead, a register is an array of 32 numbers, one a lane, and the program runs anywhere: this is
how the fragment maps of the tensor-core instructions are tested without a GPU.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

__all__ = ["Emit", "Warp", "program"]

_I32, _F32 = ir.IntType(32), ir.FloatType()
_MMA = (
    "mma.sync.aligned.m16n8k32.row.col.s32.s8.{}.s32 "
    "{{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, {{$10,$11,$12,$13}};"
)


def program(function: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """A function for `@cuda.jit` code whose body is the program `function(o, *arguments)`.

    Parameters
    ----------
    function : callable
        Of a machine and, for each argument, a register or a list of registers; returns one or a flat list.
    result : a register type, a tuple of them (UniTuple), or ``types.void``
    arguments : register types or tuples of them
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        given = [
            cgutils.unpack_tuple(builder, value) if isinstance(kind, types.UniTuple) else value
            for kind, value in zip(arguments, values, strict=True)
        ]
        out = function(Emit(builder), *given)
        if result is types.void:
            return context.get_dummy_value()
        return cgutils.pack_array(builder, list(out)) if isinstance(result, types.UniTuple) else out

    def typed(context: Any, *given: Any) -> Any:
        return result(*arguments), generate

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["context", *(f"a{i}" for i in range(len(arguments)))]
    typed.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
    typed.__name__ = typed.__qualname__ = function.__name__
    return intrinsic(typed)


class Emit:
    """The machine that writes LLVM: a register is an LLVM value, i32 or float."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def _u(self, x: Any) -> Any:
        return ir.Constant(_I32, int(x)) if isinstance(x, int) else x

    def _f(self, x: Any) -> Any:
        return ir.Constant(_F32, float(x)) if isinstance(x, float) else x

    def _asm(self, text: str, result: Any, constraints: str, *values: Any, effect: bool = False) -> Any:
        function = ir.FunctionType(result, [v.type for v in values])
        return self.b.call(ir.InlineAsm(function, text, constraints, side_effect=effect), list(values))

    def _many(self, text: str, kind: Any, n: int, constraints: str, *values: Any, effect: bool = False) -> list[Any]:
        out = self._asm(text, ir.LiteralStructType([kind] * n), constraints, *values, effect=effect)
        return [self.b.extract_value(out, i) for i in range(n)]

    # integers
    def and_(self, a: Any, b: Any) -> Any:
        return self.b.and_(a, self._u(b))

    def or_(self, a: Any, b: Any) -> Any:
        return self.b.or_(a, self._u(b))

    def xor(self, a: Any, b: Any) -> Any:
        return self.b.xor(a, self._u(b))

    def left(self, a: Any, n: Any) -> Any:
        return a if isinstance(n, int) and n == 0 else self.b.shl(a, self._u(n))

    def right(self, a: Any, n: Any) -> Any:
        return a if isinstance(n, int) and n == 0 else self.b.lshr(a, self._u(n))

    def right_signed(self, a: Any, n: int) -> Any:
        return self.b.ashr(a, self._u(n))

    def add(self, a: Any, b: Any) -> Any:
        return self.b.add(a, self._u(b))

    def quotient(self, a: Any, b: Any) -> Any:
        return self.b.udiv(a, b)

    def remainder(self, a: Any, b: Any) -> Any:
        return self.b.urem(a, b)

    def permute(self, low: Any, high: Any, selector: Any) -> Any:
        values = (self._u(low), self._u(high), self._u(selector))
        return self._asm("prmt.b32 $0, $1, $2, $3;", _I32, "=r,r,r,r", *values)

    def mma_s8(self, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        return self._mma("s8", a, b, c)

    def mma_s8u8(self, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        return self._mma("u8", a, b, c)

    def _mma(self, kind: str, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        return self._many(_MMA.format(kind), _I32, 4, "=r,=r,=r,=r" + ",r" * 10, *a, *b, *map(self._u, c))

    # floats
    def float_(self, a: Any) -> Any:
        return self.b.sitofp(a, _F32)

    def fadd(self, a: Any, b: Any) -> Any:
        return self.b.fadd(a, self._f(b))

    def fsub(self, a: Any, b: Any) -> Any:
        return self.b.fsub(a, self._f(b))

    def fmul(self, a: Any, b: Any) -> Any:
        return self.b.fmul(a, self._f(b))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return self._asm("fma.rn.f32 $0, $1, $2, $3;", _F32, "=f,f,f,f", a, self._f(b), c)

    def fmax(self, a: Any, b: Any) -> Any:
        return self._asm("max.f32 $0, $1, $2;", _F32, "=f,f,f", a, self._f(b))

    def fabs(self, a: Any) -> Any:
        return self._asm("abs.f32 $0, $1;", _F32, "=f,f", a)

    def round_s32(self, a: Any) -> Any:
        return self._asm("cvt.rni.s32.f32 $0, $1;", _I32, "=r,f", a)

    def fmin(self, a: Any, b: Any) -> Any:
        return self._asm("min.f32 $0, $1, $2;", _F32, "=f,f,f", a, self._f(b))

    def exp2(self, a: Any) -> Any:
        return self._asm("ex2.approx.ftz.f32 $0, $1;", _F32, "=f,f", a)

    def reciprocal(self, a: Any) -> Any:
        return self._asm("rcp.approx.ftz.f32 $0, $1;", _F32, "=f,f", a)

    def round_u32(self, a: Any) -> Any:
        return self._asm("cvt.rni.u32.f32 $0, $1;", _I32, "=r,f", a)

    def bits_of(self, a: Any) -> Any:
        return self.b.bitcast(self._f(a), _I32)

    def float_of(self, a: Any) -> Any:
        return self.b.bitcast(a, _F32)

    # choices: (a if x < y else b), signed; (a if x is not 0 else b)
    def if_less(self, x: Any, y: Any, a: Any, b: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", x, self._u(y)), self._f(a), self._f(b))

    def if_set(self, x: Any, a: Any, b: Any) -> Any:
        return self.b.select(self.b.icmp_unsigned("!=", x, self._u(0)), a, b)

    # other lanes
    def shuffle(self, a: Any, lane: Any) -> Any:
        return self._asm("shfl.sync.idx.b32 $0, $1, $2, 31, -1;", _I32, "=r,r,r", a, lane, effect=True)

    def shuffle_xor(self, a: Any, mask: int) -> Any:
        text = "shfl.sync.bfly.b32 $0, $1, $2, 31, -1;"
        return self._asm(text, _F32, "=f,f,r", a, self._u(mask), effect=True)

    # shared memory
    def words(self, address: Any, n: int, offset: int = 0) -> list[Any]:
        """n = 1, 2 or 4 words at `address` + `offset`, aligned to all n."""
        out = ",".join(f"${i}" for i in range(n))
        shape = f"v{n}.u32 {{{out}}}" if n > 1 else "u32 $0"
        text = f"ld.shared.{shape}, [${n} + {offset}];"
        constraints = ",".join(["=r"] * n + ["r", "~{memory}"])
        if n == 1:
            return [self._asm(text, _I32, constraints, address, effect=True)]
        return self._many(text, _I32, n, constraints, address, effect=True)

    def put(self, address: Any, value: Any, offset: int = 0) -> None:
        text = f"st.shared.f32 [$0 + {offset}], $1;"
        self._asm(text, ir.VoidType(), "r,f,~{memory}", address, value, effect=True)

    def global_word(self, address: Any, offset: int = 0, constant: bool = True) -> Any:
        """A word of global memory, at an int64 address; not `constant`: another kernel may just have written it."""
        kind, constraints = ("global.nc", "=r,l") if constant else ("global", "=r,l,~{memory}")
        return self._asm(f"ld.{kind}.u32 $0, [$1 + {offset}];", _I32, constraints, address, effect=not constant)

    def half(self, address: Any, offset: int = 0) -> Any:
        text = f"{{ .reg .b16 h; ld.shared.b16 h, [$1 + {offset}]; cvt.f32.f16 $0, h; }}"
        return self._asm(text, _F32, "=f,r,~{memory}", address, effect=True)

    def single(self, address: Any, offset: int = 0) -> Any:
        return self._asm(f"ld.shared.f32 $0, [$1 + {offset}];", _F32, "=f,r,~{memory}", address, effect=True)

    def u16(self, address: Any, offset: int = 0) -> Any:
        text = f"{{ .reg .b16 h; ld.shared.b16 h, [$1 + {offset}]; cvt.u32.u16 $0, h; }}"
        return self._asm(text, _I32, "=r,r,~{memory}", address, effect=True)


class Warp:
    """The machine that runs on NumPy: a register is an array of 32 numbers, lane by lane; `memory` is the shared
    one."""

    def __init__(self, memory: Any = b"") -> None:
        self.memory = np.frombuffer(bytes(memory), np.uint8)
        self.lane = np.arange(32, dtype=np.uint32)

    @staticmethod
    def u(x: Any) -> Any:
        """A register of integers."""
        return np.broadcast_to(np.asarray(x).astype(np.int64) & 0xFFFFFFFF, (32,)).astype(np.uint32)

    @staticmethod
    def _f(x: Any) -> Any:
        return np.broadcast_to(np.asarray(x, dtype=np.float32), (32,))

    def and_(self, a: Any, b: Any) -> Any:
        return self.u(a) & self.u(b)

    def or_(self, a: Any, b: Any) -> Any:
        return self.u(a) | self.u(b)

    def xor(self, a: Any, b: Any) -> Any:
        return self.u(a) ^ self.u(b)

    def left(self, a: Any, n: Any) -> Any:
        return self.u(a) << self.u(n)

    def right(self, a: Any, n: Any) -> Any:
        return self.u(a) >> self.u(n)

    def right_signed(self, a: Any, n: int) -> Any:
        return self.u(self.u(a).view(np.int32) >> n)

    def add(self, a: Any, b: Any) -> Any:
        return self.u(a) + self.u(b)

    def quotient(self, a: Any, b: Any) -> Any:
        return self.u(a) // self.u(b)

    def remainder(self, a: Any, b: Any) -> Any:
        return self.u(a) % self.u(b)

    def permute(self, low: Any, high: Any, selector: Any) -> Any:
        pool = np.stack([self.u(low), self.u(high)], axis=1).view(np.uint8)
        out = np.zeros((32, 4), np.uint8)
        for i in range(4):
            nibble = self.u(selector) >> np.uint32(4 * i) & np.uint32(15)
            byte = pool[np.arange(32), nibble & 7]
            out[:, i] = np.where(nibble & 8, np.where(byte & 0x80, 255, 0), byte)
        return out.view(np.uint32)[:, 0]

    def mma_s8(self, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        return self._mma(np.int8, a, b, c)

    def mma_s8u8(self, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        return self._mma(np.uint8, a, b, c)

    def _mma(self, kind: Any, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        A, B, C = np.zeros((16, 32), np.int64), np.zeros((32, 8), np.int64), np.zeros((16, 8), np.int64)
        g, t = np.divmod(np.arange(32), 4)
        for i in range(4):
            for r in range(4):
                A[g + 8 * (r % 2), 16 * (r // 2) + 4 * t + i] = self.u(a[r]).view(np.int8).reshape(32, 4)[:, i]
            for r in range(2):
                B[16 * r + 4 * t + i, g] = self.u(b[r]).view(kind).reshape(32, 4)[:, i]
            C[g + 8 * (i // 2), 2 * t + i % 2] = self.u(c[i]).view(np.int32)
        C = C + A @ B
        assert np.abs(C).max() < 2**31, "int32 overflow"
        return [self.u(C[g + 8 * (i // 2), 2 * t + i % 2]) for i in range(4)]

    def float_(self, a: Any) -> Any:
        return self.u(a).view(np.int32).astype(np.float32)

    def fadd(self, a: Any, b: Any) -> Any:
        return self._f(a) + self._f(b)

    def fsub(self, a: Any, b: Any) -> Any:
        return self._f(a) - self._f(b)

    def fmul(self, a: Any, b: Any) -> Any:
        return self._f(a) * self._f(b)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        return (np.float64(self._f(a)) * self._f(b) + self._f(c)).astype(np.float32)

    def fmax(self, a: Any, b: Any) -> Any:
        return np.fmax(self._f(a), self._f(b))

    def fmin(self, a: Any, b: Any) -> Any:
        return np.fmin(self._f(a), self._f(b))

    def exp2(self, a: Any) -> Any:
        return np.exp2(self._f(a))

    def reciprocal(self, a: Any) -> Any:
        with np.errstate(divide="ignore"):
            return 1 / self._f(a)

    def round_u32(self, a: Any) -> Any:
        return self.u(np.clip(np.rint(np.nan_to_num(self._f(a), posinf=2.0**32)), 0, 2**32 - 1))

    def bits_of(self, a: Any) -> Any:
        return np.ascontiguousarray(self._f(a)).view(np.uint32)

    def float_of(self, a: Any) -> Any:
        return self.u(a).view(np.float32)

    def if_less(self, x: Any, y: Any, a: Any, b: Any) -> Any:
        return np.where(self.u(x).view(np.int32) < self.u(y).view(np.int32), self._f(a), self._f(b))

    def if_set(self, x: Any, a: Any, b: Any) -> Any:
        return np.where(self.u(x) != 0, a, b)

    def shuffle(self, a: Any, lane: Any) -> Any:
        return self.u(a)[self.u(lane)]

    def shuffle_xor(self, a: Any, mask: int) -> Any:
        return self._f(a)[np.arange(32) ^ mask]

    def words(self, address: Any, n: int, offset: int = 0) -> list[Any]:
        at = self.u(address).astype(np.int64) + offset
        assert not np.any(at % (4 * n)), "misaligned"
        return [self.u(self._read(at + 4 * i, "<u4")) for i in range(n)]

    def _read(self, at: Any, kind: str) -> Any:
        size = np.dtype(kind).itemsize
        return np.ascontiguousarray(self.memory[at[:, None] + np.arange(size)]).view(kind)[:, 0]

    def half(self, address: Any, offset: int = 0) -> Any:
        return self._read(self.u(address).astype(np.int64) + offset, "<f2").astype(np.float32)

    def single(self, address: Any, offset: int = 0) -> Any:
        return self._read(self.u(address).astype(np.int64) + offset, "<f4")

    def u16(self, address: Any, offset: int = 0) -> Any:
        return self.u(self._read(self.u(address).astype(np.int64) + offset, "<u2"))
