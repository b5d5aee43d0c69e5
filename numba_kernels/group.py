"""A group of queries in a kernel: 16 sums each, as tuples of `simd` vectors that stay in registers.

The sums of a query are c chains of additions, taken in turn, so that one need not wait for another: totals[q][0] is the
next. A group is told by a tuple of n tuples of c integers, whose values mean nothing: its shape is its type, known when
a kernel is compiled. As in `simd`, every function is an ordinary one, its meaning, for which Numba puts the LLVM
instructions written below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from . import simd
from .simd import F, I, U, llvm, memory, tables

__all__ = [
    *("add_each", "any_above", "dot4_each", "floats", "fma_each", "joined", "of", "scale", "spread", "write", "zeros")
]


def of(queries: int, chains: int) -> tuple[tuple[int, ...], ...]:
    """What tells a kernel the shape of a group."""
    return ((0,) * chains,) * queries


def zeros(group: Any) -> Any:
    """Float zeros for every chain."""
    return tuple(tuple(simd.f32x16(0) for _ in chains) for chains in group)


def spread(group: Any, a: Any, i: Any) -> Any:
    """Integer sums that begin at a[i + q] of an int32 array."""
    first = [simd.i32x16(a.reshape(-1)[i + q]) for q in range(len(group))]
    return tuple((x, *(simd.i32x16(0) for _ in chains[1:])) for x, chains in zip(first, group, strict=True))


def fma_each(totals: Any, x: Any, a: Any, i: Any) -> Any:
    """x a[i + q], of a float32 array, added to the next chain of query q, rounded once."""
    return tuple((*t[1:], simd.fma(x, simd.f32x16(a.reshape(-1)[i + q]), t[0])) for q, t in enumerate(totals))


def dot4_each(totals: Any, x: Any, a: Any, i: Any) -> Any:
    """`simd.dot4` of x and the four bytes of a[i + q], of a uint32 array, added to the next chain of query q."""
    return tuple((*t[1:], simd.dot4(t[0], x, simd.u32x16(a.reshape(-1)[i + q]))) for q, t in enumerate(totals))


def scale(totals: Any, x: Any) -> Any:
    """Every chain times x."""
    return tuple(tuple(c * x for c in t) for t in totals)


def joined(totals: Any) -> Any:
    """One chain a query: the sum of its chains, neighbours first."""

    def total(t: Any) -> Any:
        return t[0] if len(t) == 1 else total(t[: len(t) // 2]) + total(t[len(t) // 2 :])

    return tuple((total(t),) for t in totals)


def floats(totals: Any) -> Any:
    """Integer sums as floats."""
    return tuple(tuple(simd.to_f32(c) for c in t) for t in totals)


def add_each(totals: Any, others: Any, a: Any, i: Any) -> Any:
    """others[q] a[i + q] added to totals[q], rounded once; of one chain."""
    return tuple(
        (simd.fma(o, simd.f32x16(a.reshape(-1)[i + q]), t),)
        for q, ((t,), (o,)) in enumerate(zip(totals, others, strict=True))
    )


def any_above(totals: Any, x: Any, a: Any, i: Any) -> Any:
    """Whether any lane of totals[q] x, of one chain, is above a[i + q] for any q; it may say so of equal ones."""
    return any(bool((t * x > a.reshape(-1)[i + q]).any()) for q, (t,) in enumerate(totals))


def write(a: Any, i: Any, step: Any, totals: Any) -> None:
    """Write totals[q], of one chain, to a[i + step q] and on."""
    for q, (t,) in enumerate(totals):
        simd.store(a, i + step * q, t)


def _like(group: Any, kind: Any, chains: int | None = None) -> Any:
    return types.UniTuple(types.UniTuple(kind, chains or group.dtype.count), group.count)


def _number(builder: Any, array: Any, i: Any, q: int) -> Any:
    """a[i + q] in every lane."""
    return llvm.splatted(builder, builder.load(builder.gep(array, [builder.add(i, ir.Constant(i.type, q))])))


def _packed(builder: Any, value: Any) -> Any:
    if isinstance(value, list):
        return cgutils.pack_array(builder, [_packed(builder, v) for v in value])
    return value


def _lowers(what: Any, returns: Callable[..., Any], *kinds: Any) -> Callable[[Callable[..., Any]], Any]:
    """Register ``lower(builder, *values)`` for a function of arguments of these kinds.

    A kind is that of a group's vectors, an array's dtype, "i" for an index, or F or U for one vector. An array is given
    as a pointer, a group as a list of lists of vectors. ``returns(*argument types)`` is the type returned.
    """
    arrays = {types.float32, types.int32, types.uint32}

    def fits(kind: Any, t: Any) -> bool:
        if kind == "i":
            return isinstance(t, types.Integer)
        if isinstance(kind, tuple):
            vectors = isinstance(t, types.UniTuple) and isinstance(t.dtype, types.UniTuple)
            return vectors and (isinstance(t.dtype.dtype, types.Integer) if kind[0] is int else t.dtype.dtype in kind)
        if kind in arrays:
            return isinstance(t, types.Array) and t.layout == "C" and t.dtype == kind
        return bool(t == kind)

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if len(args) == len(kinds) and all(map(fits, kinds, args)):
                taken = (types.intp if k == "i" else t for k, t in zip(kinds, args, strict=True))
                return signature(returns(*args), *taken)
            return None

    infer_global(what)(Template)

    def register(lower: Callable[..., Any]) -> Any:
        accepted = [
            types.intp if k == "i" else types.UniTuple if isinstance(k, tuple) else types.Array if k in arrays else k
            for k in kinds
        ]

        @lower_builtin(what, *accepted)
        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            values = []
            for kind, value in zip(sig.args, args, strict=True):
                if isinstance(kind, types.Array):
                    values.append(context.make_array(kind)(context, builder, value).data)
                elif isinstance(kind, types.UniTuple):
                    values.append([cgutils.unpack_tuple(builder, t) for t in cgutils.unpack_tuple(builder, value)])
                else:
                    values.append(value)
            result = lower(builder, *values)
            return context.get_dummy_value() if sig.return_type is types.void else _packed(builder, result)

        return lower

    return register


@_lowers(zeros, lambda g: _like(g, F), (int,))
def _zeros(builder: Any, group: Any) -> Any:
    return [[llvm.constant(ir.FloatType(), 0.0) for _ in chains] for chains in group]


@_lowers(spread, lambda g, a, i: _like(g, I), (int,), types.int32, "i")
def _spread(builder: Any, group: Any, a: Any, i: Any) -> Any:
    zero = llvm.constant(ir.IntType(32), 0)
    return [[_number(builder, a, i, q), *(zero for _ in chains[1:])] for q, chains in enumerate(group)]


@_lowers(fma_each, lambda t, x, a, i: t, (F,), F, types.float32, "i")
def _fma_each(builder: Any, totals: Any, x: Any, a: Any, i: Any) -> Any:
    return [
        [*t[1:], llvm.call(builder, "llvm.fma.v16f32", x.type, x, _number(builder, a, i, q), t[0])]
        for q, t in enumerate(totals)
    ]


@_lowers(dot4_each, lambda t, x, a, i: t, (I,), U, types.uint32, "i")
def _dot4_each(builder: Any, totals: Any, x: Any, a: Any, i: Any) -> Any:
    return [[*t[1:], tables.dot4_of(builder, t[0], x, _number(builder, a, i, q))] for q, t in enumerate(totals)]


@_lowers(scale, lambda t, x: t, (F,), F)
def _scale(builder: Any, totals: Any, x: Any) -> Any:
    return [[builder.fmul(c, x) for c in t] for t in totals]


@_lowers(joined, lambda t: _like(t, t.dtype.dtype, 1), (F, I))
def _joined(builder: Any, totals: Any) -> Any:
    def total(t: Any) -> Any:
        if len(t) == 1:
            return t[0]
        x, y = total(t[: len(t) // 2]), total(t[len(t) // 2 :])
        return builder.fadd(x, y) if isinstance(x.type.element, ir.FloatType) else builder.add(x, y)

    return [[total(t)] for t in totals]


@_lowers(floats, lambda t: _like(t, F), (I,))
def _floats(builder: Any, totals: Any) -> Any:
    return [[builder.sitofp(c, llvm.VECTOR_OF_FLOATS) for c in t] for t in totals]


@_lowers(add_each, lambda t, o, a, i: t, (F,), (F,), types.float32, "i")
def _add_each(builder: Any, totals: Any, others: Any, a: Any, i: Any) -> Any:
    return [
        [llvm.call(builder, "llvm.fma.v16f32", t.type, o, _number(builder, a, i, q), t)]
        for q, ((t,), (o,)) in enumerate(zip(totals, others, strict=True))
    ]


@_lowers(any_above, lambda t, x, a, i: types.boolean, (F,), F, types.float32, "i")
def _any_above(builder: Any, totals: Any, x: Any, a: Any, i: Any) -> Any:
    """By the signs of a[i + q] - totals[q] x: three quarters of the instructions of as many comparisons."""
    signs = None
    for q, (t,) in enumerate(totals):
        short = llvm.call(builder, "llvm.fma.v16f32", t.type, builder.fneg(t), x, _number(builder, a, i, q))
        bits = builder.bitcast(short, ir.VectorType(ir.IntType(32), simd.N))
        signs = bits if signs is None else builder.or_(signs, bits)
    found = builder.icmp_signed("<", signs, llvm.constant(ir.IntType(32), 0))
    flags = ir.IntType(simd.N)
    return builder.icmp_unsigned("!=", builder.bitcast(found, flags), ir.Constant(flags, 0))


@_lowers(write, lambda a, i, step, t: types.void, types.float32, "i", "i", (F,))
def _write(builder: Any, a: Any, i: Any, step: Any, totals: Any) -> None:
    for (t,) in totals:
        memory.write(builder, builder.gep(a, [i]), t)
        i = builder.add(i, step)
