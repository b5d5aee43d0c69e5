"""Lane by lane: operators, casts, arithmetic, masks; and one number of all lanes."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import lower_builtin

from .llvm import (
    FLOAT,
    FLOATS,
    INT1,
    INT16,
    INT32,
    INT64,
    D,
    F,
    I,
    Lower,
    M,
    N,
    U,
    call,
    lane_numbers,
    lowers,
    shuffle,
    splatted,
    vector,
)

# -- operators ------------------------------------------------------------------------------------------------------


def _operators() -> None:
    def same(op: Any, kind: Any, method: str) -> None:
        lowers(kind, kind, kind, of=op)(lambda builder, x, y: getattr(builder, method)(x, y))

    for op, name in ((operator.add, "add"), (operator.sub, "sub"), (operator.mul, "mul")):
        for kind in (F, D):
            same(op, kind, "f" + name)
        for kind in (I, U):
            same(op, kind, name)
    for kind in (I, U, M):
        for op, name in ((operator.and_, "and_"), (operator.or_, "or_"), (operator.xor, "xor")):
            same(op, kind, name)
        lowers(kind, kind, of=operator.invert)(lambda builder, x: builder.not_(x))
    for kind in (F, D):
        same(operator.truediv, kind, "fdiv")
        lowers(kind, kind, of=operator.neg)(lambda builder, x: builder.fneg(x))
    lowers(I, I, of=operator.neg)(lambda builder, x: builder.neg(x))

    def shift(op: Any, kind: Any, method: str) -> None:
        """By one amount below 32 for all lanes, or by one for each."""
        same(op, kind, method)
        by_one = lowers(kind, kind, types.int64, of=op)
        by_one(lambda builder, x, k: getattr(builder, method)(x, splatted(builder, builder.trunc(k, INT32))))

    shift(operator.lshift, I, "shl")
    shift(operator.lshift, U, "shl")
    shift(operator.rshift, I, "ashr")
    shift(operator.rshift, U, "lshr")
    ordered = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}
    for symbol, op in ordered.items():
        for kind in (F, D):
            lowers(M, kind, kind, of=op)(lambda builder, x, y, s=symbol: builder.fcmp_ordered(s, x, y))
        lowers(M, I, I, of=op)(lambda builder, x, y, s=symbol: builder.icmp_signed(s, x, y))
        lowers(M, U, U, of=op)(lambda builder, x, y, s=symbol: builder.icmp_unsigned(s, x, y))
    for kind in (F, D):
        lowers(M, kind, kind, of=operator.ne)(lambda builder, x, y: builder.fcmp_unordered("!=", x, y))
    lowers(M, I, I, of=operator.ne)(lambda builder, x, y: builder.icmp_signed("!=", x, y))
    lowers(M, U, U, of=operator.ne)(lambda builder, x, y: builder.icmp_unsigned("!=", x, y))


_operators()

# -- one number in every lane; casts ----------------------------------------------------------------------------------


def f32x16(x: Any) -> Any:
    """The number x, as a float32, in every lane."""
    return np.full(N, x, np.float32)


def splat(x: Any) -> Any:
    """The float32 or float64 x in every lane, of that type."""
    return np.full(N, x)


def i32x16(x: Any) -> Any:
    """The integer x, as an int32, in every lane."""
    return np.full(N, np.int64(x) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def u32x16(x: Any) -> Any:
    """The integer x modulo 2^32, in every lane."""
    return np.full(N, np.int64(x) & 0xFFFFFFFF).astype(np.uint32)


lowers(F, types.float32, of=f32x16)(splatted)


@infer_global(splat)
class _SplatTemplate(ConcreteTemplate):
    cases = [signature(F, types.float32), signature(D, types.float64)]  # noqa: RUF012


@lower_builtin(splat, types.Float)
def _splat_number(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return splatted(builder, args[0])


for _of, _kind in ((i32x16, I), (u32x16, U)):
    lowers(_kind, types.int64, of=_of)(lambda builder, x: splatted(builder, builder.trunc(x, INT32)))


def as_f32(x: Any) -> Any:
    """The bits of u32 lanes read as float32."""
    return x.view(np.float32)


def as_u32(x: Any) -> Any:
    """The bits of f32 or i32 lanes read as uint32."""
    return x.view(np.uint32)


def as_i32(x: Any) -> Any:
    """The bits of f32 or u32 lanes read as int32."""
    return x.view(np.int32)


def to_f32(x: Any) -> Any:
    """Integer lanes as floats, rounded to nearest even."""
    return x.astype(np.float32)


def to_i32(x: Any) -> Any:
    """Float lanes as integers, rounded towards 0; |x| < 2^31."""
    return x.astype(np.int32)


lowers(F, U, of=as_f32)(lambda builder, x: builder.bitcast(x, vector(FLOAT)))
for _of, _to, _from in ((as_u32, U, F), (as_u32, U, I), (as_i32, I, F), (as_i32, I, U)):
    lowers(_to, _from, of=_of)(lambda builder, x: builder.bitcast(x, vector(INT32)))
lowers(F, I, of=to_f32)(lambda builder, x: builder.sitofp(x, vector(FLOAT)))
lowers(F, U, of=to_f32)(lambda builder, x: builder.uitofp(x, vector(FLOAT)))
lowers(I, F, of=to_i32)(lambda builder, x: builder.fptosi(x, vector(INT32)))

# -- arithmetic -------------------------------------------------------------------------------------------------------


def fma(x: Any, y: Any, z: Any) -> Any:
    """x y + z, rounded once. (The NumPy form rounds twice, the first time to float64.)"""
    return (x.astype(np.float64) * y + z).astype(np.float32)


def sqrt(x: Any) -> Any:
    """The square root."""
    return np.sqrt(x)


def floor(x: Any) -> Any:
    """The largest whole number that is not above x, as a float."""
    return np.floor(x)


def round_even(x: Any) -> Any:
    """The nearest whole number, the even one of two, as a float."""
    return np.rint(x)


def minimum(x: Any, y: Any) -> Any:
    """x where x < y, else y."""
    return np.where(x < y, x, y)


def maximum(x: Any, y: Any) -> Any:
    """x where x > y, else y."""
    return np.where(x > y, x, y)


def magnitude(x: Any) -> Any:
    """|x|."""
    return np.abs(x)


def select(mask: Any, x: Any, y: Any) -> Any:
    """x in lanes with a flag, else y."""
    return np.where(mask, x, y)


for _kind, _suffix in FLOATS.items():
    lowers(_kind, *[_kind] * 3, of=fma)(
        lambda builder, x, y, z, suffix=_suffix: call(builder, f"llvm.fma.{suffix}", x.type, x, y, z)
    )
    for _of, _name in ((sqrt, "sqrt"), (floor, "floor"), (round_even, "roundeven"), (magnitude, "fabs")):
        _name = f"llvm.{_name}.{_suffix}"
        lowers(_kind, _kind, of=_of)(lambda builder, x, name=_name: call(builder, name, x.type, x))
for _kind, _compare in ((F, "fcmp_ordered"), (D, "fcmp_ordered"), (I, "icmp_signed"), (U, "icmp_unsigned")):
    for _of, _symbol in ((minimum, "<"), (maximum, ">")):
        lowers(_kind, _kind, _kind, of=_of)(
            lambda b, x, y, c=_compare, s=_symbol: b.select(getattr(b, c)(s, x, y), x, y)
        )
    lowers(_kind, M, _kind, _kind, of=select)(lambda builder, mask, x, y: builder.select(mask, x, y))


# -- masks, and one number of all lanes -------------------------------------------------------------------------------


def mask_bits(mask: Any) -> Any:
    """The flags as an integer, lane j being bit j; 0 where there is none."""
    return int(mask @ (1 << np.arange(N)))


def flags(mask: Any) -> Any:
    """How many flags there are."""
    return int(mask.sum())


def lowest(bits: Any) -> Any:
    """The number of the lowest bit of a positive integer that is 1."""
    return (int(bits) & -int(bits)).bit_length() - 1


def first_lanes(n: Any) -> Any:
    """Flags for the lanes below n."""
    return np.arange(N) < n


def lane(x: Any, j: Any) -> Any:
    """The number in lane j, 0 <= j < 16."""
    return x[j]


def _halved(x: Any, op: Any) -> Any:
    for half in (8, 4, 2, 1):
        x = op(x[:half], x[half:])
    return x[0]


def sum_lanes(x: Any) -> Any:
    """The sum of the lanes, halves added to halves: lane j to lane j + 8, then j + 4, j + 2 and j + 1."""
    return _halved(x, np.add)


def max_lanes(x: Any) -> Any:
    """The largest of the lanes."""
    return _halved(x, maximum)


def min_lanes(x: Any) -> Any:
    """The least of the lanes."""
    return _halved(x, minimum)


@lowers(types.int64, M, of=mask_bits)
def _mask_bits(builder: Any, mask: Any) -> Any:
    return builder.zext(builder.bitcast(mask, INT16), INT64)


@lowers(types.int64, M, of=flags)
def _flags(builder: Any, mask: Any) -> Any:
    return builder.zext(builder.ctpop(builder.bitcast(mask, INT16)), INT64)


@lowers(types.int64, types.int64, of=lowest)
def _lowest(builder: Any, bits: Any) -> Any:
    return builder.cttz(bits, INT1(1))


@lowers(M, types.int64, of=first_lanes)
def _first_lanes(builder: Any, n: Any) -> Any:
    return builder.icmp_signed("<", lane_numbers(range(N)), splatted(builder, builder.trunc(n, INT32)))


def _reduction(of: Any, kind: Any, number: Any, op: Lower) -> None:
    @lowers(number, kind, of=of)
    def _(builder: Any, x: Any) -> Any:
        half = N // 2
        while half:
            low, high = (shuffle(builder, x, x, range(at, at + half)) for at in (0, half))
            x, half = op(builder, low, high), half // 2
        return builder.extract_element(x, ir.Constant(INT32, 0))


for _kind, _number, _compare in (
    (F, types.float32, "fcmp_ordered"),
    (D, types.float64, "fcmp_ordered"),
    (I, types.int32, "icmp_signed"),
    (U, types.uint32, "icmp_unsigned"),
):
    lowers(_number, _kind, types.int64, of=lane)(lambda builder, x, j: builder.extract_element(x, j))
    _reduction(sum_lanes, _kind, _number, lambda b, x, y, f="fadd" if _kind in FLOATS else "add": getattr(b, f)(x, y))
    _reduction(max_lanes, _kind, _number, lambda b, x, y, c=_compare: b.select(getattr(b, c)(">", x, y), x, y))
    _reduction(min_lanes, _kind, _number, lambda b, x, y, c=_compare: b.select(getattr(b, c)("<", x, y), x, y))
