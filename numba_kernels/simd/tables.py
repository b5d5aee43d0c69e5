"""Tables in registers, dot products of bytes, bits chosen: what each instruction set has its own instructions for."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import llvm_version_info

from .._jit import LEVEL
from .llvm import DOUBLE, FLOAT, INT1, INT8, INT16, INT32, INT64, D, F, I, N, U, call, constant, lowers, shuffle, vector
from .memory import WORDS, access, lane_of


def lookup(table: Any, index: Any) -> Any:
    """``table[index mod 16]`` in every lane: of the 16 floats of `table`; `index` is u32."""
    return table[index & 15]


def gather(a: Any, i: Any, index: Any) -> Any:
    """``a[i + index]`` in every lane, of floats or 32-bit integers; `index` is u32, below 2^31."""
    return a.reshape(-1)[i + index]


def lookup_bytes(table: Any, index: Any) -> Any:
    """``table[index mod 16]`` in each of 64 bytes: of 16 bytes, which `table` must hold four times over."""
    return table.view(np.uint8)[index.view(np.uint8) & 15].view(np.uint32)


def lookup_bytes64(table: Any, index: Any) -> Any:
    """``table[index mod 64]`` in each of 64 bytes: of the 64 bytes of `table`."""
    return table.view(np.uint8)[index.view(np.uint8) & 63].view(np.uint32)


def dot4(total: Any, x: Any, y: Any) -> Any:
    """Total + x_0 y_0 + … + x_3 y_3 in every lane, exact: x_k the unsigned bytes of a u32 lane, y_k signed ones."""
    products = x.view(np.uint8).astype(np.int32) * y.view(np.int8).astype(np.int32)
    return total + products.reshape(N, 4).sum(axis=1, dtype=np.int32)


def merge_bits(bits: Any, x: Any, y: Any) -> Any:
    """The bits of x where `bits` is 1, those of y where it is 0; all u32."""
    return (x & bits) | (y & ~bits)


def _join(builder: Any, low: Any, high: Any) -> Any:
    return shuffle(builder, low, high, range(2 * low.type.count))


def _split(builder: Any, x: Any) -> list[Any]:
    half = x.type.count // 2
    return [shuffle(builder, x, x, range(at, at + half)) for at in (0, half)]


def _each(builder: Any, table: Any, index: Any, below: int) -> Any:
    """The look-up in plain LLVM: one lane after another."""
    n = index.type.count
    index = builder.and_(index, constant(index.type.element, below - 1, n))
    result = ir.Constant(vector(table.type.element, n), ir.Undefined)
    for j in range(n):
        at = ir.Constant(INT32, j)
        found = builder.extract_element(table, builder.extract_element(index, at))
        result = builder.insert_element(result, found, at)
    return result


def _bytes_of(builder: Any, x: Any) -> Any:
    return builder.bitcast(x, vector(INT8, 64))


lowers(D, D, U, of=lookup)(lambda builder, table, index: _each(builder, table, index, N))


@lowers(F, F, U, of=lookup)
def _lookup(builder: Any, table: Any, index: Any) -> Any:
    if LEVEL == "avx512":
        return call(builder, "llvm.x86.avx512.permvar.sf.512", vector(FLOAT), table, index)
    if LEVEL == "portable":
        return _each(builder, table, index, N)
    parts = []
    for half in _split(builder, index):  # vpermps of 8 lanes takes 3 bits of an index; the fourth chooses the half
        low, high = (call(builder, "llvm.x86.avx2.permps", t.type, t, half) for t in _split(builder, table))
        upper = builder.icmp_signed("<", builder.shl(half, constant(INT32, 28, 8)), constant(INT32, 0, 8))
        parts.append(builder.select(upper, high, low))
    return _join(builder, *parts)


def _pshufb(builder: Any, table: Any, index: Any) -> Any:
    """AVX2: 16 entries in each half of 16 bytes; an index with its top bit set gives 0."""
    pairs = zip(_split(builder, table), _split(builder, index), strict=True)
    return _join(builder, *(call(builder, "llvm.x86.avx2.pshuf.b", i.type, t, i) for t, i in pairs))


@lowers(U, U, U, of=lookup_bytes)
def _lookup_bytes(builder: Any, table: Any, index: Any) -> Any:
    table, index = _bytes_of(builder, table), _bytes_of(builder, index)
    if LEVEL == "avx512":  # it takes 6 bits of an index: the table is there four times
        found = call(builder, "llvm.x86.avx512.permvar.qi.512", table.type, table, index)
    elif LEVEL == "avx2":
        found = _pshufb(builder, table, builder.and_(index, constant(INT8, 15, 64)))
    else:
        found = _each(builder, table, index, 16)
    return builder.bitcast(found, vector(INT32))


@lowers(U, U, U, of=lookup_bytes64)
def _lookup_bytes64(builder: Any, table: Any, index: Any) -> Any:
    table, index = _bytes_of(builder, table), _bytes_of(builder, index)
    if LEVEL == "avx512":
        found = call(builder, "llvm.x86.avx512.permvar.qi.512", table.type, table, index)
    elif LEVEL == "avx2":
        low, found = builder.and_(index, constant(INT8, 15, 64)), ir.Constant(table.type, None)
        which = builder.and_(index, constant(INT8, 48, 64))
        for quarter in range(4):
            entries = shuffle(builder, table, table, [16 * quarter + k % 16 for k in range(64)])
            here = builder.icmp_signed("==", which, constant(INT8, 16 * quarter, 64))
            found = builder.select(here, _pshufb(builder, entries, low), found)
    else:
        found = _each(builder, table, index, 64)
    return builder.bitcast(found, vector(INT32))


@lowers(I, I, U, U, of=dot4)
def dot4_of(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """The compiled form of `dot4`."""
    if LEVEL == "avx512":
        if llvm_version_info[0] >= 22:  # until then the intrinsic took vectors of i32
            x, y = _bytes_of(builder, x), _bytes_of(builder, y)
        return call(builder, "llvm.x86.avx512.vpdpbusd.512", vector(INT32), total, x, y)
    # Bytes 0 and 2 of a lane, then 1 and 3, as 16-bit numbers: no product, no sum of two of them overflows 32 bits.
    words, eight = vector(INT16, 32), constant(INT16, 8, 32)
    x, y = builder.bitcast(x, words), builder.bitcast(y, words)
    even = builder.and_(x, constant(INT16, 255, 32)), builder.ashr(builder.shl(y, eight), eight)
    odd = builder.lshr(x, eight), builder.ashr(y, eight)
    for u, s in (even, odd):
        if LEVEL == "avx2":
            pairs = zip(_split(builder, u), _split(builder, s), strict=True)
            sums = [call(builder, "llvm.x86.avx2.pmadd.wd", vector(INT32, 8), a, b) for a, b in pairs]
            sums = _join(builder, *sums)
        else:
            wide = vector(INT32, 32)
            products = builder.mul(builder.zext(u, wide), builder.sext(s, wide))
            low, high = (shuffle(builder, products, products, range(at, 32, 2)) for at in (0, 1))
            sums = builder.add(low, high)
        total = builder.add(total, sums)
    return total


@lowers(U, U, U, U, of=merge_bits)
def _merge_bits(builder: Any, bits: Any, x: Any, y: Any) -> Any:
    if LEVEL == "avx512":  # of the plain form, with bits known, LLVM makes two instructions
        select = ir.Constant(INT32, 0b11001010)
        return call(builder, "llvm.x86.avx512.pternlog.d.512", x.type, bits, x, y, select)
    return builder.or_(builder.and_(x, bits), builder.and_(y, builder.not_(bits)))


def _gather(builder: Any, pointer: Any, dtype: Any, index: Any) -> Any:
    kind, undefined = vector(lane_of(dtype)), ir.Constant(vector(lane_of(dtype)), ir.Undefined)
    if LEVEL == "avx512" and kind.element != DOUBLE:
        name = f"llvm.x86.avx512.mask.gather.{'dps' if kind.element == FLOAT else 'dpi'}.512"
        pointer, everywhere = builder.bitcast(pointer, INT8.as_pointer()), constant(INT1, 1)
        return call(builder, name, kind, undefined, pointer, index, everywhere, ir.Constant(INT32, 4))
    result = undefined
    for j in range(N):  # sixteen loads: llvmlite has no vectors of pointers
        at = builder.zext(builder.extract_element(index, ir.Constant(INT32, j)), INT64)
        result = builder.insert_element(result, builder.load(builder.gep(pointer, [at])), ir.Constant(INT32, j))
    return result


access(gather, lambda dtype, index: (WORDS[dtype], U) if dtype in WORDS and index == U else None, _gather)
