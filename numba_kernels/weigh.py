"""Weighted sums of codes for a group of queries: the second half of attention, in the basis of the codes.

The lanes of a vector are 16 tokens, so a sum is 16 partial sums, which are added once at the end. Four coordinates of
up to four queries stay in registers while the blocks of a tile go by; then come the next four coordinates. (One query
alone has `weigh_one`.) As in `simd`, `row`, `add_row` and `put_row` are ordinary functions, their meaning, for which
Numba puts LLVM instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from . import simd
from ._jit import inner
from .layout import LANES
from .simd import F

__all__ = ["add_row", "put_row", "row", "weigh", "weigh_one"]


def row(queries: Any, a: Any, i: Any) -> Any:
    """The vector a[i + 16 q …] of query q, for each of a tuple of integers, whose values mean nothing."""
    return tuple(simd.load(a, i + LANES * q) for q in range(len(queries)))


def put_row(a: Any, i: Any, totals: Any) -> None:
    """Write totals[q] from a[i + 16 q] on."""
    for q, t in enumerate(totals):
        simd.store(a, i + LANES * q, t)


def add_row(totals: Any, x: Any, weights: Any) -> Any:
    """totals[q] + x weights[q], rounded once."""
    return tuple(simd.fma(x, w, t) for t, w in zip(totals, weights, strict=True))


def _is_floats(kind: Any) -> bool:
    return isinstance(kind, types.Array) and kind.layout == "C" and kind.dtype == types.float32


def _vectors(n: int) -> Any:
    return types.UniTuple(F, n)


@infer_global(row)
class _Row(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        queries, a, i = args
        if isinstance(queries, types.UniTuple) and _is_floats(a) and isinstance(i, types.Integer):
            return signature(_vectors(queries.count), queries, a, types.intp)
        return None


@infer_global(put_row)
class _PutRow(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        a, i, totals = args
        if _is_floats(a) and isinstance(i, types.Integer) and totals == _vectors(len(totals)):
            return signature(types.void, a, types.intp, totals)
        return None


@infer_global(add_row)
class _AddRow(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        totals, x, weights = args
        if totals == weights == _vectors(len(totals)) and x == F:
            return signature(totals, totals, x, weights)
        return None


def _place(context: Any, builder: Any, kind: Any, array: Any, i: Any, q: int) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    pointer = builder.gep(data, [builder.add(i, ir.Constant(i.type, LANES * q))])
    return builder.bitcast(pointer, ir.VectorType(ir.FloatType(), LANES).as_pointer())


@lower_builtin(row, types.UniTuple, types.Array, types.intp)
def _row(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    found = [builder.load(_place(context, builder, sig.args[1], *args[1:], q)) for q in range(sig.args[0].count)]
    for vector in found:
        vector.align = 4
    return cgutils.pack_array(builder, found)


@lower_builtin(put_row, types.Array, types.intp, types.UniTuple)
def _put_row(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    for q, total in enumerate(cgutils.unpack_tuple(builder, args[2])):
        builder.store(total, _place(context, builder, sig.args[0], *args[:2], q)).align = 4
    return context.get_dummy_value()


@lower_builtin(add_row, types.UniTuple, F, types.UniTuple)
def _add_row(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    totals, x, weights = args
    fma = context.get_function(simd.fma, signature(F, F, F, F))
    pairs = zip(cgutils.unpack_tuple(builder, totals), cgutils.unpack_tuple(builder, weights), strict=True)
    return cgutils.pack_array(builder, [fma(builder, (x, w, t)) for t, w in pairs])


@inner
def weigh(
    bits: Any, queries: Any, sums: Any, size: int, first: int, codes: Any, at: int, words: int, blocks: int, table: Any,
    weights: Any,
) -> None:  # fmt: skip
    """Add sum_j w_j c_j to queries `first`, …: the j are the 16 `blocks` tokens of the blocks from codes[at] on.

    Parameters
    ----------
    bits, queries : tuples of integers
        As many as the bits that are stored, and as the queries: 1, 2 or 4.
    sums : (coordinates, size, 16)
    words, table
        As in `scan.float_sums`.
    weights : (blocks, size, 16)
    """
    n_bits, stride, across = len(bits), codes.shape[2] * LANES, size * LANES
    step = 2 if n_bits == 3 else n_bits
    lower_words = words // 3 * 2 if n_bits == 3 else words
    centroids, third, low = simd.load(table, 0), simd.u32x16(4), simd.u32x16(255)
    i = first * LANES
    for w in range(lower_words):
        for part in range(8 // step):
            a, b = row(queries, sums, i), row(queries, sums, i + across)
            c, d = row(queries, sums, i + 2 * across), row(queries, sums, i + 3 * across)
            here, j = at + w * LANES, first * LANES
            for _ in range(blocks):
                v = row(queries, weights, j)
                x = simd.load(codes, here)
                if n_bits == 8:
                    a = add_row(a, simd.gather(table, 0, x & low), v)
                    b = add_row(b, simd.gather(table, 0, (x >> 8) & low), v)
                    c = add_row(c, simd.gather(table, 0, (x >> 16) & low), v)
                    d = add_row(d, simd.gather(table, 0, x >> 24), v)
                elif n_bits == 3:
                    x = x >> (8 * part)
                    h = simd.load(codes, here + (lower_words + w // 2 - w) * LANES) >> (8 * part + 4 * (w % 2))
                    a = add_row(a, simd.lookup(centroids, simd.merge_bits(third, h << 2, x)), v)
                    b = add_row(b, simd.lookup(centroids, simd.merge_bits(third, h << 1, x >> 2)), v)
                    c = add_row(c, simd.lookup(centroids, simd.merge_bits(third, h, x >> 4)), v)
                    d = add_row(d, simd.lookup(centroids, simd.merge_bits(third, h >> 1, x >> 6)), v)
                else:
                    x = x >> (4 * step * part)
                    a = add_row(a, simd.lookup(centroids, x), v)
                    b = add_row(b, simd.lookup(centroids, x >> step), v)
                    c = add_row(c, simd.lookup(centroids, x >> (2 * step)), v)
                    d = add_row(d, simd.lookup(centroids, x >> (3 * step)), v)
                here, j = here + stride, j + across
            put_row(sums, i, a)
            put_row(sums, i + across, b)
            put_row(sums, i + 2 * across, c)
            put_row(sums, i + 3 * across, d)
            i += 4 * across


@inner
def weigh_one(bits: Any, sums: Any, codes: Any, at: int, words: int, blocks: int, table: Any, weights: Any) -> None:
    """As `weigh`, for a query that is alone: four blocks at a time, all their words one after the other.

    So few sums may go to memory and back; what this query has to wait for is its codes, which so are read in order.
    """
    n_bits, stride = len(bits), codes.shape[2] * LANES
    step = 2 if n_bits == 3 else n_bits
    lower_words = words // 3 * 2 if n_bits == 3 else words
    centroids, third, low, none = simd.load(table, 0), simd.u32x16(4), simd.u32x16(255), simd.f32x16(0)
    for start in range(0, blocks, 4):
        last, here, j = min(3, blocks - 1 - start), at + start * stride, start * LANES
        p, q, r = min(1, last) * stride, min(2, last) * stride, last * stride  # where one lacks, the last: 0 times it
        u, v = simd.load(weights, j), simd.load(weights, j + LANES) if last > 0 else none
        w = simd.load(weights, j + 2 * LANES) if last > 1 else none
        x = simd.load(weights, j + 3 * LANES) if last > 2 else none
        i = 0
        for word in range(lower_words):
            j = here + word * LANES
            a, b, c, d = simd.load(codes, j), simd.load(codes, j + p), simd.load(codes, j + q), simd.load(codes, j + r)
            for k in range(4, 8):
                simd.prefetch(codes, j + k * stride)
            if n_bits == 3:
                j, odd = here + (lower_words + word // 2) * LANES, 4 * (word % 2)
                e, f = simd.load(codes, j) >> odd, simd.load(codes, j + p) >> odd
                g, h = simd.load(codes, j + q) >> odd, simd.load(codes, j + r) >> odd
                for _ in range(4):
                    for _ in range(4):
                        t = simd.load(sums, i)
                        t = simd.fma(simd.lookup(centroids, simd.merge_bits(third, e << 2, a)), u, t)
                        t = simd.fma(simd.lookup(centroids, simd.merge_bits(third, f << 2, b)), v, t)
                        t = simd.fma(simd.lookup(centroids, simd.merge_bits(third, g << 2, c)), w, t)
                        t = simd.fma(simd.lookup(centroids, simd.merge_bits(third, h << 2, d)), x, t)
                        simd.store(sums, i, t)
                        a, b, c, d = a >> 2, b >> 2, c >> 2, d >> 2
                        e, f, g, h, i = e >> 1, f >> 1, g >> 1, h >> 1, i + LANES
                    e, f, g, h = e >> 4, f >> 4, g >> 4, h >> 4
            elif n_bits == 8:
                for _ in range(4):
                    t = simd.fma(simd.gather(table, 0, a & low), u, simd.load(sums, i))
                    t = simd.fma(simd.gather(table, 0, b & low), v, t)
                    t = simd.fma(simd.gather(table, 0, c & low), w, t)
                    t = simd.fma(simd.gather(table, 0, d & low), x, t)
                    simd.store(sums, i, t)
                    a, b, c, d, i = a >> 8, b >> 8, c >> 8, d >> 8, i + LANES
            else:
                for _ in range(32 // step):
                    t = simd.fma(simd.lookup(centroids, a), u, simd.load(sums, i))
                    t = simd.fma(simd.lookup(centroids, b), v, t)
                    t = simd.fma(simd.lookup(centroids, c), w, t)
                    t = simd.fma(simd.lookup(centroids, d), x, t)
                    simd.store(sums, i, t)
                    a, b, c, d, i = a >> step, b >> step, c >> step, d >> step, i + LANES
