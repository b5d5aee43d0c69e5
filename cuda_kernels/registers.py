"""The machine of `machine`, with what quantization needs besides: memory, saturated and directed floats, votes.

A program's global memory is addressed from an int64 register, its shared memory from an int32 one; offsets are
constants. Methods without a docstring are what their name says, or what `Emit` says of theirs.
"""

# ruff: noqa: D102

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from . import machine

_I32, _F32 = ir.IntType(32), ir.FloatType()
_MEMORY = "~{memory}"


def program(function: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """As `machine.program`, with `Emit` of this module as the machine."""

    @functools.wraps(function)
    def own(o: Any, *given: Any) -> Any:
        return function(Emit(o.b), *given)

    return machine.program(own, result, *arguments)


class Emit(machine.Emit):
    """The machine that writes LLVM."""

    def saturated(self, a: Any, b: Any, c: Any) -> Any:
        """The product of a and b plus c, held between 0 and 1."""
        return self._asm("fma.rn.sat.f32 $0, $1, $2, $3;", _F32, "=f,f,f,f", a, self._f(b), self._f(c))

    def add_down(self, a: Any, b: Any) -> Any:
        """The sum, rounded towards -infinity."""
        return self._asm("add.rm.f32 $0, $1, $2;", _F32, "=f,f,f", a, self._f(b))

    def absolute(self, a: Any) -> Any:
        return self._asm("abs.f32 $0, $1;", _F32, "=f,f", a)

    def negative(self, a: Any) -> Any:
        return self._asm("neg.f32 $0, $1;", _F32, "=f,f", a)

    def bits(self, a: Any) -> Any:
        return self.b.bitcast(a, _I32)

    def floats(self, a: Any) -> Any:
        return self.b.bitcast(a, _F32)

    def subtract(self, a: Any, b: Any) -> Any:
        return self.b.sub(self._u(a), self._u(b))

    def halves(self, word: Any, kind: str) -> list[Any]:
        """The two float16 or bfloat16 numbers of a word, as floats."""
        if kind == "bfloat16":
            return [self.floats(self.left(word, 16)), self.floats(self.and_(word, 0xFFFF0000))]
        text = "{ .reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h; }"
        return self._many(text, _F32, 2, "=f,=f,r", word)

    def store_if(self, x: Any, address: Any, value: Any, offset: int, size: int) -> None:
        """`store` of 2 bytes in the lanes where x is 0."""
        assert size == 2
        text = (
            f"{{ .reg .b16 h, g; .reg .pred p; setp.eq.u32 p, $2, 0; mov.b32 {{h, g}}, $1; "
            f"@p st.global.b16 [$0 + {offset}], h; }}"
        )
        self._void(text, "l,r,r", address, value, x)

    def shuffle_xor_bits(self, a: Any, mask: int) -> Any:
        return self._asm("shfl.sync.bfly.b32 $0, $1, $2, 31, -1;", _I32, "=r,r,r", a, self._u(mask), effect=True)

    def if_zero(self, x: Any, a: Any, b: Any) -> Any:
        """The word a where the float x is 0, else b."""
        return self.b.select(self.b.fcmp_ordered("==", x, self._f(0.0)), self._u(a), b)

    def warp_barrier(self) -> None:
        function = ir.FunctionType(ir.VoidType(), [])
        self.b.call(ir.InlineAsm(function, "bar.warp.sync 0xffffffff;", _MEMORY, side_effect=True), [])

    def load(self, address: Any, offset: int, n: int) -> list[Any]:
        """n = 1, 2 or 4 words of global memory that the kernel does not write, as floats."""
        shape = f"v{n}.f32 {{{','.join(f'${i}' for i in range(n))}}}" if n > 1 else "f32 $0"
        text = f"ld.global.nc.{shape}, [${n} + {offset}];"
        constraints = ",".join(["=f"] * n + ["l"])
        if n == 1:
            return [self._asm(text, _F32, constraints, address)]
        return self._many(text, _F32, n, constraints, address)

    def copy_16(self, shared: Any, address: Any, offset: int) -> None:
        """16 bytes of global memory to shared, asynchronously, at the same offset from both addresses."""
        self._void(f"cp.async.cg.shared.global [$0 + {offset}], [$1 + {offset}], 16;", "r,l", shared, address)

    def singles(self, address: Any, n: int, offset: int = 0) -> list[Any]:
        """n = 1, 2 or 4 floats of shared memory."""
        shape = f"v{n}.f32 {{{','.join(f'${i}' for i in range(n))}}}" if n > 1 else "f32 $0"
        text = f"ld.shared.{shape}, [${n} + {offset}];"
        constraints = ",".join(["=f"] * n + ["r", _MEMORY])
        if n == 1:
            return [self._asm(text, _F32, constraints, address, effect=True)]
        return self._many(text, _F32, n, constraints, address, effect=True)

    def _void(self, text: str, constraints: str, *values: Any) -> None:
        function = ir.FunctionType(ir.VoidType(), [v.type for v in values])
        self.b.call(ir.InlineAsm(function, text, f"{constraints},{_MEMORY}", side_effect=True), list(values))

    def put(self, address: Any, values: list[Any], offset: int = 0) -> None:
        """1, 2 or 4 floats to shared memory."""
        n = len(values)
        shape = f"v{n}.f32" if n > 1 else "f32"
        listed = ",".join(f"${i + 1}" for i in range(n))
        operands = f"{{{listed}}}" if n > 1 else listed
        self._void(f"st.shared.{shape} [$0 + {offset}], {operands};", ",".join(["r"] + ["f"] * n), address, *values)

    def put_byte(self, address: Any, value: Any, offset: int = 0) -> None:
        """The lowest byte of a register to shared memory."""
        text = f"{{ .reg .b16 h, g; mov.b32 {{h, g}}, $1; st.shared.u8 [$0 + {offset}], h; }}"
        self._void(text, "r,r", address, value)

    def store(self, address: Any, value: Any, offset: int, size: int) -> None:
        """The lowest 1, 2 or 4 bytes of a register to global memory."""
        if size == 4:
            self._void(f"st.global.u32 [$0 + {offset}], $1;", "l,r", address, value)
        elif size == 2:
            text = f"{{ .reg .b16 h, g; mov.b32 {{h, g}}, $1; st.global.b16 [$0 + {offset}], h; }}"
            self._void(text, "l,r", address, value)
        else:
            self._void(f"st.global.u8 [$0 + {offset}], $1;", "l,r", address, value)


class Warp(machine.Warp):
    """The machine that runs on NumPy; `heap` is global memory, addressed from 0."""

    def __init__(self, shared: int, heap: Any) -> None:
        super().__init__(bytes(shared))
        self.memory = np.zeros(shared, np.uint8)
        self.heap = heap

    def saturated(self, a: Any, b: Any, c: Any) -> Any:
        return np.clip(self.fma(a, b, self._f(c)), np.float32(0), np.float32(1))

    def add_down(self, a: Any, b: Any) -> Any:
        exact = np.float64(self._f(a)) + np.float64(self._f(b))
        near = exact.astype(np.float32)
        return np.where(near > exact, np.nextafter(near, np.float32(-np.inf)), near)

    def absolute(self, a: Any) -> Any:
        return np.abs(self._f(a))

    def negative(self, a: Any) -> Any:
        return -self._f(a)

    def bits(self, a: Any) -> Any:
        return np.ascontiguousarray(self._f(a)).view(np.uint32)

    def floats(self, a: Any) -> Any:
        return self.u(a).view(np.float32)

    def subtract(self, a: Any, b: Any) -> Any:
        return self.u(a) - self.u(b)

    def halves(self, word: Any, kind: str) -> list[Any]:
        word = self.u(word)
        if kind == "bfloat16":
            return [(word << np.uint32(16)).view(np.float32), (word & np.uint32(0xFFFF0000)).view(np.float32)]
        pair = word.view(np.float16).reshape(32, 2).astype(np.float32)
        return [pair[:, 0], pair[:, 1]]

    def store_if(self, x: Any, address: Any, value: Any, offset: int, size: int) -> None:
        these = self.u(x) == 0
        raw = self.u(value).view(np.uint8).reshape(32, 4)[these, :size]
        self.heap[np.asarray(address, np.int64)[these][:, None] + offset + np.arange(size)] = raw

    def shuffle_xor_bits(self, a: Any, mask: int) -> Any:
        return self.u(a)[np.arange(32) ^ mask]

    def if_zero(self, x: Any, a: Any, b: Any) -> Any:
        return np.where(x == 0, self.u(a), self.u(b))

    def warp_barrier(self) -> None:
        pass

    def load(self, address: Any, offset: int, n: int) -> list[Any]:
        at = np.asarray(address, np.int64) + offset
        assert not np.any(at % (4 * n)), "misaligned"
        return [self.heap[at[:, None] + 4 * i + np.arange(4)].copy().view("<f4")[:, 0] for i in range(n)]

    def singles(self, address: Any, n: int, offset: int = 0) -> list[Any]:
        return [w.view(np.float32) for w in self.words(address, n, offset)]

    def put(self, address: Any, values: list[Any], offset: int = 0) -> None:
        at = self.u(address).astype(np.int64) + offset
        assert not np.any(at % (4 * len(values))), "misaligned"
        for i, value in enumerate(values):
            raw = np.ascontiguousarray(self._f(value)).view(np.uint8).reshape(32, 4)
            self.memory[at[:, None] + 4 * i + np.arange(4)] = raw

    def put_byte(self, address: Any, value: Any, offset: int = 0) -> None:
        self.memory[self.u(address).astype(np.int64) + offset] = self.u(value) & np.uint32(255)

    def store(self, address: Any, value: Any, offset: int, size: int) -> None:
        raw = self.u(value).view(np.uint8).reshape(32, 4)[:, :size]
        self.heap[np.asarray(address, np.int64)[:, None] + offset + np.arange(size)] = raw
