"""Kernels of exhaustive search: sums over blocks of codes for a group of queries, and the best of them.

One block of 16 vectors is decoded once for all queries of a group, whose sums stay in registers (`group`). Sums are of
two kinds. float32: centroid times query, one fused multiply-add a coordinate. int32: 8-bit levels times an 8-bit query,
exact, so the same in any order. Only a block with a score above one of the group's thresholds leaves the fast path; the
first scores of all wait on a board until thresholds are known (`heaps`).

How near the limit that is: a block at d = 128 and 4 bits takes 704 instructions that multiply for 22 queries in int8,
48 that decode and 57 that compare, all on the same two ports of an Intel core: 87 % of what products alone reach, and
84 % for 64 queries in three groups.

Every part of a section's decoding takes the bits of the section as a constant, so that a kernel is compiled for one.
"""

from __future__ import annotations

import functools
from typing import Any

from numba import njit

from . import simd
from ._jit import inner
from .group import add_each, any_above, dot4_each, floats, fma_each, joined, scale, spread, write, zeros
from .heaps import begin, offer
from .layout import LANES

inlined = njit(inline="always")
"""For what runs once a block or more: a call would take its tuples of vectors through memory."""


AHEAD = 1024
"""Words from what is read to what is asked for: 4 KiB, a page, beyond which the processor does not read ahead."""


@inlined
def load_words(codes: Any, i: int) -> Any:
    """16 words, and a hint that later ones will be read."""
    simd.prefetch(codes, i + AHEAD)
    return simd.load(codes, i)


@inlined
def upper_bit(high: Any, k: int) -> Any:
    """The upper bits of a 3-bit section, shifted so that those of step k = 4 u + s are bit 2 of each byte."""
    return high >> (k - 2) if k >= 2 else high << (2 - k)


@inlined
def four_fields(bits: int, totals: Any, centroids: Any, x: Any, query: Any, i: int) -> Any:
    """totals + the centroids of the lowest four fields of x times the queries.

    Written out, for a loop that has no other in it: in nested ones LLVM adds two registers for every address, and the
    sums took 8 % longer.
    """
    n = len(totals)
    totals = fma_each(totals, simd.lookup(centroids, x), query, i)
    totals = fma_each(totals, simd.lookup(centroids, x >> bits), query, i + n)
    totals = fma_each(totals, simd.lookup(centroids, x >> 2 * bits), query, i + 2 * n)
    return fma_each(totals, simd.lookup(centroids, x >> 3 * bits), query, i + 3 * n)


@inlined
def four_thirds(totals: Any, centroids: Any, x: Any, high: Any, query: Any, i: int) -> Any:
    """`four_fields` of 3 bits: two of each from x, and the upper one from `high`."""
    n, third = len(totals), simd.u32x16(4)
    totals = fma_each(totals, simd.lookup(centroids, simd.merge_bits(third, high << 2, x)), query, i)
    totals = fma_each(totals, simd.lookup(centroids, simd.merge_bits(third, high << 1, x >> 2)), query, i + n)
    totals = fma_each(totals, simd.lookup(centroids, simd.merge_bits(third, high, x >> 4)), query, i + 2 * n)
    return fma_each(totals, simd.lookup(centroids, simd.merge_bits(third, high >> 1, x >> 6)), query, i + 3 * n)


@inlined
def float_sums(bits: int, totals: Any, codes: Any, at: int, words: int, table: Any, query: Any, i: int) -> Any:
    """totals[q] + <query q, centroids> over `words` words from codes[at]; number j of query q is query[i + n j + q]."""
    n = len(totals)
    if bits == 8:
        for w in range(words):
            x = load_words(codes, at + w * LANES)
            for _ in range(4):
                totals = fma_each(totals, simd.gather(table, 0, x & simd.u32x16(255)), query, i)
                x, i = x >> 8, i + n
    elif bits == 3:
        centroids = simd.load(table, 0)
        for v in range(words // 3 * 2):
            high = load_words(codes, at + (words // 3 * 2 + v // 2) * LANES) >> 4 * (v % 2)
            x = load_words(codes, at + v * LANES)
            totals = four_thirds(totals, centroids, x, high, query, i)
            totals = four_thirds(totals, centroids, x >> 8, high >> 8, query, i + 4 * n)
            totals = four_thirds(totals, centroids, x >> 16, high >> 16, query, i + 8 * n)
            totals = four_thirds(totals, centroids, x >> 24, high >> 24, query, i + 12 * n)
            i += 16 * n
    else:
        centroids, parts = simd.load(table, 0), 4 // bits
        for v in range(words * parts):
            x = load_words(codes, at + v // parts * LANES) >> 8 * bits * (v % parts)
            totals = four_fields(bits, totals, centroids, x, query, i)
            totals = four_fields(bits, totals, centroids, x >> 4 * bits, query, i + 4 * n)
            i += 8 * n
    return totals


@inlined
def table_sums(bits: int, totals: Any, codes: Any, at: int, words: int, table: Any, products: Any, i: int) -> Any:
    """As `float_sums` of 1 or 2 bits, for a query that is alone, in four chains: a lookup for every 4 bits of a word.

    `products` are those of `arrange.product_tables`. The shuffles and additions of a coordinate are the limit of
    `float_sums` here, not memory.
    """
    for w in range(words):
        x = load_words(codes, at + w * LANES)
        for _ in range(2):
            ((a, b, c, e),) = totals
            a = a + simd.lookup(simd.load(products, i), x)
            b = b + simd.lookup(simd.load(products, i + LANES), x >> 4)
            c = c + simd.lookup(simd.load(products, i + 2 * LANES), x >> 8)
            e = e + simd.lookup(simd.load(products, i + 3 * LANES), x >> 12)
            totals, x, i = ((a, b, c, e),), x >> 16, i + 4 * LANES
    return totals


@inlined
def levels256(table: Any, x: Any) -> Any:
    """``table[byte]`` for each of 64 bytes, of 256 levels: bits 6 and 7 of a byte choose one of four tables."""
    ones = simd.u32x16(0x01010101)
    sixth, seventh = (x >> 6) & ones, (x >> 7) & ones
    sixth, seventh = (sixth << 8) - sixth, (seventh << 8) - seventh  # 255 in every byte whose bit is 1
    t0, t1 = simd.lookup_bytes64(simd.load(table, 0), x), simd.lookup_bytes64(simd.load(table, 16), x)
    t2, t3 = simd.lookup_bytes64(simd.load(table, 32), x), simd.lookup_bytes64(simd.load(table, 48), x)
    return simd.merge_bits(seventh, simd.merge_bits(sixth, t3, t2), simd.merge_bits(sixth, t1, t0))


@inlined
def byte_sums(bits: int, sums: Any, codes: Any, at: int, words: int, table: Any, query: Any, i: int) -> Any:
    """sums[q] + the levels times the bytes of query q, four coordinates of a vector in a step; exact."""
    n = len(sums)
    if bits == 8:
        for w in range(words):
            sums = dot4_each(sums, levels256(table, load_words(codes, at + w * LANES)), query, i)
            i += n
    elif bits == 3:
        levels, third = simd.load(table, 0), simd.u32x16(0x04040404)
        for w in range(words // 3):
            high = load_words(codes, at + (words // 3 * 2 + w) * LANES)
            for u in range(2):
                x = load_words(codes, at + (2 * w + u) * LANES)
                for s in range(4):
                    index = simd.merge_bits(third, upper_bit(high, 4 * u + s), x)
                    sums = dot4_each(sums, simd.lookup_bytes(levels, index), query, i)
                    x, i = x >> 2, i + n
    else:
        levels = simd.load(table, 0)
        for w in range(words):
            x = load_words(codes, at + w * LANES)
            for _ in range(8 // bits):
                sums = dot4_each(sums, simd.lookup_bytes(levels, x), query, i)
                x, i = x >> bits, i + n
    return sums


@inlined
def keep(
    totals: Any, here: int, count: int, q: int, place: int, vectors: Any, beta: Any, heaps: Any, board: Any, room: Any
) -> None:
    """A block's sums to scores, and these to block `place` of the board, or, if it is negative, to the heaps.

    `here` is the position of its first code, from which on there are `count`, and q the first of its queries.
    """
    weight, bias = simd.load(vectors[0], here), vectors[2]
    if bias.size:
        totals, weight = fma_each(scale(totals, weight), simd.load(bias, here), beta, q), simd.f32x16(1)
    if place >= 0:
        write(board, place * LANES, board.shape[1] * LANES, scale(totals, weight))
    elif any_above(totals, weight, heaps[0], q):
        write(room, 0, LANES, scale(totals, weight))
        offer(room, len(totals), here, count, q, heaps)


@functools.cache
def float_scan(bits: int, signed: bool, alone: bool = False) -> Any:
    """The kernel of float32 sums for a first section of these bits, and signs after it if there are any.

    With `alone`, for a group of one query, whose sections of 1 and 2 bits come as product tables.
    """
    from_tables = alone and bits <= 2  # numbers alone in the closure: with functions in it, the cache is never hit

    @inner
    def scan(group, codes, part, words, tables, queries, vectors, heaps, board, room):  # type: ignore[no-untyped-def]
        """The best of n = part[2] vectors, of blocks part[0] … part[1] - 1, part[4] of them at a time.

        A score is (main + signs residual) weight + bias beta. `words` are the words of the two sections; `queries`
        (main, signs, beta), the first two (groups, coordinates, queries of a group), the last (queries); `vectors`
        (weight, residual, bias), of which the last two may be empty; `heaps` (thresholds, scores, positions),
        each (queries, …), but the thresholds fill all groups: infinite, where there is no query.

        The scores of the first part[3] blocks go to `board`, to `heaps.begin` with; `room` is for one block of a group.
        """
        start, stop, n, opening, tile = part
        residuals, size, stride = vectors[1], len(group), codes.shape[1] * LANES
        first, last = start, start
        while last < stop:
            first, last = last, min(last + (tile if last > start else opening), stop)
            for g in range(len(heaps[0]) // size):
                q, i, j = g * size, g * queries[0].shape[1] * size, g * queries[1].shape[1] * size
                for block in range(first, last):
                    at, here = block * stride, block * LANES
                    totals = zeros(group)
                    if signed:
                        upper = at + words[0] * LANES
                        if alone:
                            totals = table_sums(1, totals, codes, upper, words[1], tables[1], queries[1], j)
                        else:
                            totals = float_sums(1, totals, codes, upper, words[1], tables[1], queries[1], j)
                        if residuals.size:
                            totals = scale(totals, simd.load(residuals, here))
                    if from_tables:
                        totals = table_sums(bits, totals, codes, at, words[0], tables[0], queries[0], i)
                    else:
                        totals = float_sums(bits, totals, codes, at, words[0], tables[0], queries[0], i)
                    totals = joined(totals)
                    place = block - first if first == start else -1
                    keep(totals, here, n - here, q, place, vectors, queries[2], heaps, board, room)
                if first == start:
                    begin(board, first * LANES, min(last * LANES, n) - first * LANES, q, heaps, room)

    return scan


@functools.cache
def byte_scan(bits: int, signed: bool) -> Any:
    """The kernel of integer sums for a first section of these bits, and signs after it if there are any."""

    @inner
    def scan(group, codes, part, words, tables, queries, vectors, heaps, board, room):  # type: ignore[no-untyped-def]
        """As that of `float_scan`; `queries` are (main, signs, beta, starts of main, starts of signs, ratios).

        A start is what a sum begins with; a ratio what a unit of the signs' sum is worth in units of main's.
        """
        start, stop, n, opening, tile = part
        residuals, size, stride = vectors[1], len(group), codes.shape[1] * LANES
        first, last = start, start
        while last < stop:
            first, last = last, min(last + (tile if last > start else opening), stop)
            for g in range(len(heaps[0]) // size):
                q, i, j = g * size, g * queries[0].shape[1] * size, g * queries[1].shape[1] * size
                for block in range(first, last):
                    at, here = block * stride, block * LANES
                    sums = spread(group, queries[3], q)
                    sums = byte_sums(bits, sums, codes, at, words[0], tables[0], queries[0], i)
                    totals = floats(joined(sums))
                    if signed:
                        upper, sums = at + words[0] * LANES, spread(group, queries[4], q)
                        sums = byte_sums(1, sums, codes, upper, words[1], tables[1], queries[1], j)
                        signs = floats(joined(sums))
                        if residuals.size:
                            signs = scale(signs, simd.load(residuals, here))
                        totals = add_each(totals, signs, queries[5], q)
                    place = block - first if first == start else -1
                    keep(totals, here, n - here, q, place, vectors, queries[2], heaps, board, room)
                if first == start:
                    begin(board, first * LANES, min(last * LANES, n) - first * LANES, q, heaps, room)

    return scan
