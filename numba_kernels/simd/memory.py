"""Vectors and memory: `a` is a C-contiguous array of any number of axes, `i` a flat index into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from .llvm import DOUBLE, FLOAT, FLOATS, INT8, INT32, INT64, TUPLES, D, F, I, M, N, U, call, splatted, vector

WORDS = {types.float32: F, types.float64: D, types.int32: I, types.uint32: U}
_WIDE = {**WORDS, types.int8: I, types.uint8: U, types.uint16: U}


def _at(a: Any, i: Any) -> Any:
    return a.reshape(-1)[i : i + N]


def load(a: Any, i: Any) -> Any:
    """The 16 numbers from `i` on, floats or 32-bit integers; int8 is widened to int32, uint8 and uint16 to uint32."""
    x = _at(a, i)
    return x.copy() if x.dtype.kind == "f" else x.astype({"i": np.int32, "u": np.uint32}[x.dtype.kind])


def load_masked(a: Any, i: Any, mask: Any) -> Any:
    """As `load` of floats or 32-bit integers; 0 in lanes without a flag."""
    x = np.zeros(N, a.dtype)
    x[mask] = a.reshape(-1)[i + np.flatnonzero(mask)]
    return x


def store(a: Any, i: Any, x: Any) -> None:
    """Write 16 numbers from `i` on, of the lanes' own type; of u32 lanes also the low bits to uint8 or uint16."""
    _at(a, i)[:] = x.astype(a.dtype)


def store_masked(a: Any, i: Any, x: Any, mask: Any) -> None:
    """As `store` of the lanes' own type, of the lanes with a flag."""
    a.reshape(-1)[i + np.flatnonzero(mask)] = x[mask]


def load_many(a: Any, i: Any, step: Any) -> Any:
    """16 vectors, ``load(a, i + j step)`` for j < 16."""
    return tuple(load(a, i + j * step) for j in range(N))


def store_many(a: Any, i: Any, x: Any, step: Any) -> None:
    """Write 16 vectors, ``store(a, i + j step, x[j])``."""
    for j in range(N):
        store(a, i + j * step, x[j])


def full_like(a: Any, x: Any) -> Any:
    """The number x in every lane, of the type of `a`'s numbers: float32 or float64."""
    return np.full(N, x, a.dtype)


def prefetch(a: Any, i: Any) -> None:
    """A hint that number `i` of an array will be read soon; it may lie beyond the end."""


def access(of: Any, typed: Callable[..., Any], lower: Callable[..., Any]) -> None:
    """Register a function of (array, index, …): ``typed(array type, …)`` gives what it returns and what follows."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if isinstance(args[0], types.Array) and args[0].layout == "C" and isinstance(args[1], types.Integer):
                found = typed(args[0].dtype, *args[2:])
                return found and signature(found[0], args[0], types.intp, *found[1:])
            return None

    infer_global(of)(Template)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        array = context.make_array(sig.args[0])(context, builder, args[0])
        result = lower(builder, builder.gep(array.data, [args[1]]), sig.args[0].dtype, *args[2:])
        return context.get_dummy_value() if sig.return_type is types.void else result

    for rest in ((), (types.Any,), (types.Any, types.Any)):
        lower_builtin(of, types.Array, types.intp, *rest)(emit)


class _FullLike(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        kind = WORDS.get(args[0].dtype) if isinstance(args[0], types.Array) else None
        return signature(kind, args[0], types.float64) if kind in FLOATS else None


infer_global(full_like)(_FullLike)


@lower_builtin(full_like, types.Array, types.float64)
def _full_like(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return splatted(builder, args[1] if sig.return_type == D else builder.fptrunc(args[1], FLOAT))


def lane_of(dtype: Any) -> ir.Type:
    """The LLVM type of a Numba number."""
    return {types.float32: FLOAT, types.float64: DOUBLE}.get(dtype) or ir.IntType(dtype.bitwidth)


def read(builder: Any, pointer: Any, lane: ir.Type, n: int = N) -> Any:
    """n numbers from an address, aligned or not."""
    value = builder.load(builder.bitcast(pointer, vector(lane, n).as_pointer()))
    value.align = 1
    return value


def write(builder: Any, pointer: Any, x: Any) -> None:
    """A vector to an address, aligned or not."""
    builder.store(x, builder.bitcast(pointer, x.type.as_pointer())).align = 1


def _load(builder: Any, pointer: Any, dtype: Any) -> Any:
    x = read(builder, pointer, lane_of(dtype))
    if dtype in WORDS:
        return x
    return (builder.sext if dtype == types.int8 else builder.zext)(x, vector(INT32))


def _store(builder: Any, pointer: Any, dtype: Any, x: Any) -> None:
    write(builder, pointer, x if dtype in WORDS else builder.trunc(x, vector(lane_of(dtype))))


def _load_masked(builder: Any, pointer: Any, dtype: Any, mask: Any) -> Any:
    kind = vector(lane_of(dtype))
    name = f"llvm.masked.load.{FLOATS.get(WORDS[dtype], 'v16i32')}.p0"
    pointer = builder.bitcast(pointer, kind.as_pointer())
    zero = ir.Constant(kind, None)
    return call(builder, name, kind, pointer, ir.Constant(INT32, 4), mask, zero)


def _store_masked(builder: Any, pointer: Any, dtype: Any, x: Any, mask: Any) -> None:
    name = f"llvm.masked.store.{FLOATS.get(WORDS[dtype], 'v16i32')}.p0"
    pointer = builder.bitcast(pointer, x.type.as_pointer())
    call(builder, name, ir.VoidType(), x, pointer, ir.Constant(INT32, 4), mask)


def _prefetch(builder: Any, pointer: Any, dtype: Any) -> None:
    pointer = builder.bitcast(pointer, INT8.as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, *(ir.Constant(INT32, k) for k in (0, 3, 1)))


def _load_many(builder: Any, pointer: Any, dtype: Any, step: Any) -> Any:
    steps = [builder.mul(step, ir.Constant(INT64, j)) for j in range(N)]
    return cgutils.pack_array(builder, [_load(builder, builder.gep(pointer, [at]), dtype) for at in steps])


def _store_many(builder: Any, pointer: Any, dtype: Any, x: Any, step: Any) -> None:
    for j, column in enumerate(cgutils.unpack_tuple(builder, x)):
        at = builder.mul(step, ir.Constant(INT64, j))
        _store(builder, builder.gep(pointer, [at]), dtype, column)


_BYTES = (types.uint8, types.int8)
access(load, lambda dtype: (_WIDE[dtype],) if dtype in _WIDE else None, _load)
access(load_masked, lambda dtype, mask: (WORDS[dtype], M) if dtype in WORDS and mask == M else None, _load_masked)
access(store, lambda dtype, x: (types.void, x) if _WIDE.get(dtype) == x and dtype != types.int8 else None, _store)
access(
    store_masked,
    lambda dtype, x, mask: (types.void, x, M) if WORDS.get(dtype) == x and mask == M else None,
    _store_masked,
)
access(
    load_many,
    lambda dtype, step: (TUPLES[_WIDE[dtype]], types.intp) if dtype in _WIDE else None,
    _load_many,
)
access(
    store_many,
    lambda dtype, x, step: (types.void, x, types.intp) if x == TUPLES.get(_WIDE.get(dtype)) else None,
    _store_many,
)
access(prefetch, lambda dtype: (types.void,), _prefetch)
