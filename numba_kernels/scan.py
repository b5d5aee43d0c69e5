"""Kernels of exhaustive search: sums over blocks of codes for a group of queries, and the best of them.

One block of 16 vectors is decoded once for all queries of a group, whose sums stay in registers (`group`). Sums are of
two kinds. float32: centroid times query, one fused multiply-add a coordinate. int32: 8-bit levels times an 8-bit query,
exact, so the same in any order. The 16 scores of a block are compared with each query's k-th best so far, and only a
block with a better one leaves the fast path.

Every part of a section's decoding takes the bits of the section as a constant, so that a kernel is compiled for one.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import njit

from . import simd
from ._jit import inner
from .group import add_each, any_above, dot4_each, floats, fma_each, joined, scale, spread, write, zeros
from .layout import LANES

NOWHERE = np.iinfo(np.int64).max
"""The position of a place in a heap that is not taken: behind every other."""

inlined = njit(inline="always")
"""For what runs once a block or more: a call would take its tuples of vectors through memory."""


AHEAD = 1024
"""Words from what is read to what is asked for: 4 KiB, a page, beyond which the processor does not read ahead."""


@inlined
def load_words(totals: Any, codes: Any, i: int) -> Any:
    """16 words; a query that is alone is done with them so soon that it must ask for later ones itself."""
    if len(totals) == 1:
        simd.prefetch(codes, i + AHEAD)
    return simd.load(codes, i)


@inlined
def upper_bit(high: Any, k: int) -> Any:
    """The upper bits of a 3-bit section, shifted so that those of step k = 4 u + s are bit 2 of each byte."""
    return high >> (k - 2) if k >= 2 else high << (2 - k)


@inlined
def float_sums(bits: int, totals: Any, codes: Any, at: int, words: int, table: Any, query: Any, i: int) -> Any:
    """totals[q] + <query q, centroids> over `words` words from codes[at]; number j of query q is query[i + n j + q]."""
    n = len(totals)
    if bits == 8:
        for w in range(words):
            x = load_words(totals, codes, at + w * LANES)
            for _ in range(4):
                totals = fma_each(totals, simd.gather(table, 0, x & simd.u32x16(255)), query, i)
                x, i = x >> 8, i + n
    elif bits == 3:
        centroids, third = simd.load(table, 0), simd.u32x16(4)
        for w in range(words // 3):
            high = load_words(totals, codes, at + (words // 3 * 2 + w) * LANES)
            for u in range(2):
                x = load_words(totals, codes, at + (2 * w + u) * LANES)
                for c in range(4):
                    y = high >> (8 * c)
                    for s in range(4):
                        index = simd.merge_bits(third, upper_bit(y, 4 * u + s), x)
                        totals = fma_each(totals, simd.lookup(centroids, index), query, i)
                        x, i = x >> 2, i + n
    else:
        centroids = simd.load(table, 0)
        for w in range(words):
            x = load_words(totals, codes, at + w * LANES)
            for _ in range(32 // bits):
                totals = fma_each(totals, simd.lookup(centroids, x), query, i)
                x, i = x >> bits, i + n
    return totals


@inlined
def table_sums(bits: int, totals: Any, codes: Any, at: int, words: int, table: Any, products: Any, i: int) -> Any:
    """As `float_sums` of 1 or 2 bits, for a query that is alone, in four chains: a lookup for every 4 bits of a word.

    `products` are those of `arrange.product_tables`. The shuffles and additions of a coordinate are the limit of
    `float_sums` here, not memory.
    """
    for w in range(words):
        x = load_words(totals, codes, at + w * LANES)
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
            sums = dot4_each(sums, levels256(table, load_words(sums, codes, at + w * LANES)), query, i)
            i += n
    elif bits == 3:
        levels, third = simd.load(table, 0), simd.u32x16(0x04040404)
        for w in range(words // 3):
            high = load_words(sums, codes, at + (words // 3 * 2 + w) * LANES)
            for u in range(2):
                x = load_words(sums, codes, at + (2 * w + u) * LANES)
                for s in range(4):
                    index = simd.merge_bits(third, upper_bit(high, 4 * u + s), x)
                    sums = dot4_each(sums, simd.lookup_bytes(levels, index), query, i)
                    x, i = x >> 2, i + n
    else:
        levels = simd.load(table, 0)
        for w in range(words):
            x = load_words(sums, codes, at + w * LANES)
            for _ in range(8 // bits):
                sums = dot4_each(sums, simd.lookup_bytes(levels, x), query, i)
                x, i = x >> bits, i + n
    return sums


@inner
def worse(score: float, position: int, other_score: float, other_position: int) -> bool:
    """The order of results: the smaller score is worse, of equal ones the later."""
    return score < other_score or (score == other_score and position > other_position)


@inner
def sift(scores: Any, positions: Any, n: int, score: float, position: int) -> None:
    """Put a result in place of the root of a heap of n, which is the worst of it."""
    i = 0
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and worse(scores[child + 1], positions[child + 1], scores[child], positions[child]):
            child += 1
        if not worse(scores[child], positions[child], score, position):
            break
        scores[i], positions[i] = scores[child], positions[child]
        i = child
    scores[i], positions[i] = score, position


@inner
def offer(candidates: Any, first: int, count: int, thresholds: Any, q: int, scores: Any, positions: Any) -> None:
    """Put those candidates (queries, 16) of a block that are above the thresholds into the heaps of queries q …"""
    k = scores.shape[1]
    for j in range(len(candidates)):
        above = simd.mask_bits(simd.load(candidates, j * LANES) > simd.f32x16(thresholds[q + j]))
        for lane in range(count if above else 0):
            if above >> lane & 1 and candidates[j, lane] > thresholds[q + j]:
                sift(scores[q + j], positions[q + j], k, candidates[j, lane], first + lane)
                thresholds[q + j] = scores[q + j, 0]


@inner
def order(scores: Any, positions: Any) -> None:
    """Heaps (queries, k) to lists, best first."""
    for q in range(scores.shape[0]):
        for n in range(scores.shape[1] - 1, 0, -1):
            score, position = scores[q, n], positions[q, n]
            scores[q, n], positions[q, n] = scores[q, 0], positions[q, 0]
            sift(scores[q], positions[q], n, score, position)


@inner
def merge(scores: Any, positions: Any, others: Any, other_positions: Any) -> None:
    """Put the results of other heaps (queries, k) into heaps (queries, k)."""
    k = scores.shape[1]
    for q in range(scores.shape[0]):
        for j in range(k):
            if worse(scores[q, 0], positions[q, 0], others[q, j], other_positions[q, j]):
                sift(scores[q], positions[q], k, others[q, j], other_positions[q, j])


@functools.cache
def float_scan(bits: int, signed: bool, alone: bool = False) -> Any:
    """The kernel of float32 sums for a first section of these bits, and signs after it if there are any.

    With `alone`, for a group of one query, whose sections of 1 and 2 bits come as product tables.
    """
    first_sums = table_sums if alone and bits <= 2 else float_sums
    sign_sums = table_sums if alone else float_sums

    @inner
    def scan(group, codes, part, words, tables, queries, vectors, heaps, candidates):  # type: ignore[no-untyped-def]
        """The best of n = part[2] vectors, of blocks part[0] … part[1] - 1, part[3] of them at a time.

        A score is (main + signs residual) weight + bias beta. `words` are the words of the two sections; `queries`
        (main, signs, beta), the first two (groups, coordinates, queries of a group), the last (queries); `vectors`
        (weight, residual, bias), of which the last two may be empty; `heaps` (thresholds, scores, positions).
        """
        start, stop, n, tile = part
        weights, residuals, bias = vectors
        thresholds, scores, positions = heaps
        size, stride = len(group), codes.shape[1] * LANES
        for first in range(start, stop, tile):
            for g in range(thresholds.size // size):
                q, i, j = g * size, g * queries[0].shape[1] * size, g * queries[1].shape[1] * size
                for block in range(first, min(first + tile, stop)):
                    at, here = block * stride, block * LANES
                    totals = zeros(group)
                    if signed:
                        upper = at + words[0] * LANES
                        totals = sign_sums(1, totals, codes, upper, words[1], tables[1], queries[1], j)
                        if residuals.size:
                            totals = scale(totals, simd.load(residuals, here))
                    totals = joined(first_sums(bits, totals, codes, at, words[0], tables[0], queries[0], i))
                    totals = scale(totals, simd.load(weights, here))
                    if bias.size:
                        totals = fma_each(totals, simd.load(bias, here), queries[2], q)
                    if any_above(totals, thresholds, q):
                        write(candidates, totals)
                        offer(candidates, here, min(LANES, n - here), thresholds, q, scores, positions)

    return scan


@functools.cache
def byte_scan(bits: int, signed: bool) -> Any:
    """The kernel of integer sums for a first section of these bits, and signs after it if there are any."""

    @inner
    def scan(group, codes, part, words, tables, queries, vectors, heaps, candidates):  # type: ignore[no-untyped-def]
        """As that of `float_scan`; `queries` are (main, signs, beta, starts of main, starts of signs, ratios).

        A start is what a sum begins with; a ratio what a unit of the signs' sum is worth in units of main's.
        """
        start, stop, n, tile = part
        weights, residuals, bias = vectors
        thresholds, scores, positions = heaps
        size, stride = len(group), codes.shape[1] * LANES
        for first in range(start, stop, tile):
            for g in range(thresholds.size // size):
                q, i, j = g * size, g * queries[0].shape[1] * size, g * queries[1].shape[1] * size
                for block in range(first, min(first + tile, stop)):
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
                    totals = scale(totals, simd.load(weights, here))
                    if bias.size:
                        totals = fma_each(totals, simd.load(bias, here), queries[2], q)
                    if any_above(totals, thresholds, q):
                        write(candidates, totals)
                        offer(candidates, here, min(LANES, n - here), thresholds, q, scores, positions)

    return scan
