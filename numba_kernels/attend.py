"""Kernels of attention: scores of a tile of keys, their softmax so far, and the weighted sums of the values, fused.

The work is cut into items: one key head, a group of query rows that share one pass over the codes, and one chunk of
keys. An item goes through its chunk a tile at a time, keeps the largest logit, the sum of the weights and the weighted
sums so far, and scales the last two down when a larger logit comes (online softmax). How the work is cut does not
depend on the number of threads, so neither does a result.

A side, keys or values, is (codes (heads, blocks, words, 16), words of the first section and of the signs after it,
tables of both, weights (heads, 16 blocks), residuals). A coded vector is, in its own basis,

    weight (first, residual signs)

with residual 1 if there are none.  What a kernel is compiled for, bits and rows, it is told by the lengths of tuples of
integers, whose values mean nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from . import simd
from ._jit import inner, kernel
from .group import add_each, floats, joined, scale, spread, write, zeros
from .layout import LANES
from .scan import byte_sums, float_sums, inlined
from .weigh import weigh, weigh_one

__all__ = ["attend_items", "decode", "exp", "logits_items", "tanh"]

TILE = 64
"""Blocks of a tile: 1024 keys, whose codes at 4 bits and d = 128 are 64 KiB."""

LOWEST = np.float32(-87.0)
"""Below it, `exp` is 0: e^-87 = 1.6e-38, about the smallest normal float32."""

LOG2_E = np.float32(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
"""ln 2 in two parts; the product of the first, of 9 bits, with a whole number below 2^15 is exact."""


@inlined
def power_and_rest(x: Any) -> Any:
    """2^n and e^r - 1 with x = n ln 2 + r, |r| <= ln 2 / 2, for -87 <= x <= 0.

    Taylor's sum up to r^7 / 7!; what is left out is below 5.5e-9.
    """
    n = simd.round_even(x * simd.f32x16(LOG2_E))
    r = simd.fma(n, simd.f32x16(-LN_2_LOW), simd.fma(n, simd.f32x16(-LN_2_HIGH), x))
    p = simd.f32x16(np.float32(1 / 5040))
    p = simd.fma(p, r, simd.f32x16(np.float32(1 / 720)))
    p = simd.fma(p, r, simd.f32x16(np.float32(1 / 120)))
    p = simd.fma(p, r, simd.f32x16(np.float32(1 / 24)))
    p = simd.fma(p, r, simd.f32x16(np.float32(1 / 6)))
    p = simd.fma(p, r, simd.f32x16(np.float32(1 / 2)))
    p = simd.fma(p * r, r, r)
    power = simd.as_f32(simd.as_u32((simd.to_i32(n) + simd.i32x16(127)) << 23))
    return power, p


@inlined
def exp(x: Any) -> Any:
    """e^x for x <= 0: within 3 2^-24 of it relatively, or 0 below -87; e^0 is 1.

    In units of 2^-24: the rounding of the result 1, that of e^r - 1 0.41, of its inner terms 0.1, the two of r 0.71,
    what Taylor's sum leaves out 0.13; together below 2.4.
    """
    low = simd.f32x16(LOWEST)
    power, rest = power_and_rest(simd.maximum(x, low))
    return simd.select(x < low, simd.f32x16(np.float32(0)), simd.fma(power, rest, power))


@inlined
def tanh(x: Any) -> Any:
    """Tanh x = -E / (2 + E) with E = e^(-2 |x|) - 1, within 2^-21 of it relatively."""
    one = simd.f32x16(np.float32(1))
    y = simd.minimum(simd.magnitude(x), simd.f32x16(np.float32(20)))
    power, rest = power_and_rest(y * simd.f32x16(np.float32(-2)))
    e = simd.fma(power, rest, power - one)
    t = -e / (e + one + one)
    return simd.select(x < simd.f32x16(np.float32(0)), -t, t)


@inner
def float_scores(
    bits: Any, signed: Any, group: Any, p: Any, keys: Any, head: int, start: int, stop: int, queries: Any, item: int
) -> None:
    """p[block - start, q] = weight (<query, first> + residual <query, signs>), by float32 sums.

    `queries` are (first, signs), (items, coordinates, rows) each.
    """
    codes, words, tables, weights, residuals = keys
    n_bits, n_signs, size, stride = len(bits), len(signed), len(group), codes.shape[2] * LANES
    i, j = item * queries[0].shape[1] * size, item * queries[1].shape[1] * size
    for b in range(stop - start):
        block = head * codes.shape[1] + start + b
        at = block * stride
        totals = zeros(group)
        if n_signs == 1:
            totals = float_sums(1, totals, codes, at + words[0] * LANES, words[1], tables[1], queries[1], j)
            if residuals.size:
                totals = scale(totals, simd.load(residuals, block * LANES))
        totals = joined(float_sums(n_bits, totals, codes, at, words[0], tables[0], queries[0], i))
        write(p, b * size * LANES, LANES, scale(totals, simd.load(weights, block * LANES)))


@inner
def byte_scores(
    bits: Any, signed: Any, group: Any, p: Any, keys: Any, head: int, start: int, stop: int, queries: Any, item: int
) -> None:
    """As `float_scores`, by integer sums.

    `queries` are (first, signs), (items, steps, rows) each; where their sums begin, and what 1 of these is worth,
    (items rows) each.
    """
    codes, words, tables, weights, residuals = keys
    first, second, first_starts, second_starts, first_worth, second_worth = queries
    n_bits, n_signs, size, stride = len(bits), len(signed), len(group), codes.shape[2] * LANES
    i, j, q = item * first.shape[1] * size, item * second.shape[1] * size, item * size
    for b in range(stop - start):
        block = head * codes.shape[1] + start + b
        at = block * stride
        totals = joined(zeros(group))
        if n_signs == 1:
            sums = spread(group, second_starts, q)
            sums = byte_sums(1, sums, codes, at + words[0] * LANES, words[1], tables[1], second, j)
            totals = add_each(totals, floats(joined(sums)), second_worth, q)
            if residuals.size:
                totals = scale(totals, simd.load(residuals, block * LANES))
        sums = byte_sums(n_bits, spread(group, first_starts, q), codes, at, words[0], tables[0], first, i)
        totals = add_each(totals, floats(joined(sums)), first_worth, q)
        write(p, b * size * LANES, LANES, scale(totals, simd.load(weights, block * LANES)))


def scores(
    bits: Any, signed: Any, group: Any, p: Any, keys: Any, head: int, start: int, stop: int, queries: Any, item: int
) -> None:
    """`float_scores` or `byte_scores`, as the queries are."""
    kind = float_scores if len(queries) == 2 else byte_scores
    kind(bits, signed, group, p, keys, head, start, stop, queries, item)


@overload(scores)
def _scores(
    bits: Any, signed: Any, group: Any, p: Any, keys: Any, head: int, start: int, stop: int, queries: Any, item: int
) -> Any:
    kind = float_scores if len(queries) == 2 else byte_scores

    def chosen(
        bits: Any, signed: Any, group: Any, p: Any, keys: Any, head: int, start: int, stop: int, queries: Any, item: int
    ) -> Any:
        return kind(bits, signed, group, p, keys, head, start, stop, queries, item)

    return chosen


@inner
def shape(p: Any, start: int, stop: int, first_row: int, row: int, shaping: Any) -> None:
    """Scores to logits: softcap(score + added) + mask, and -inf where a key is not seen.

    Parameters
    ----------
    p : (blocks, rows, 16)
    first_row, row : int
        Of the tile, among those of a head, and among those of all heads.
    shaping : tuple
        (firsts, stops): a row of a head sees the keys firsts <= j < stops. softcap: 0 is none. (added, its rows) and
        (mask, its rows): (rows, 16 blocks), one for several rows perhaps, and which; empty is none.
    """
    firsts, stops, softcap, added, added_rows, mask, mask_rows = shaping
    cap = simd.f32x16(softcap)
    for q in range(p.shape[1]):
        first, end = firsts[first_row + q], stops[first_row + q]
        whole = softcap == 0 and added.size == 0 and mask.size == 0
        for block in range(start, stop):
            j = block * LANES
            if whole and first <= j and j + LANES <= end:
                continue
            i = ((block - start) * p.shape[1] + q) * LANES
            x = simd.load(p, i)
            if added.size:
                x = x + simd.load(added, added_rows[row + q] * added.shape[1] + j)
            if softcap != 0:
                x = cap * tanh(x / cap)
            if mask.size:
                x = x + simd.load(mask, mask_rows[row + q] * mask.shape[1] + j)
            seen = simd.first_lanes(end - j) & ~simd.first_lanes(first - j)
            simd.store(p, i, simd.select(seen, x, simd.f32x16(np.float32(-np.inf))))


@inner
def soften(p: Any, blocks: int, top: Any, total: Any, sums: Any, sign_sums: Any) -> None:
    """The step of online softmax: logits to exp(logit - top), what was summed before scaled to a larger top."""
    size = p.shape[1]
    for q in range(size):
        best = simd.f32x16(top[q])
        for block in range(blocks):
            best = simd.maximum(simd.load(p, (block * size + q) * LANES), best)
        new = simd.max_lanes(best)
        shift = simd.f32x16(new if new > -np.inf else np.float32(0))
        if new > top[q] and total[q] > 0:
            factor = exp(simd.f32x16(top[q] - new))
            total[q] *= simd.lane(factor, 0)
            for kept in (sums, sign_sums):
                for c in range(kept.shape[0]):
                    i = (c * size + q) * LANES
                    simd.store(kept, i, simd.load(kept, i) * factor)
        top[q] = new
        here = simd.f32x16(np.float32(0))
        for block in range(blocks):
            i = (block * size + q) * LANES
            e = exp(simd.load(p, i) - shift)
            here = here + e
            simd.store(p, i, e)
        total[q] += simd.sum_lanes(here)


@inner
def times(p: Any, blocks: int, numbers: Any, i: int) -> None:
    """p[block, q] times the numbers of the block, from `i` on."""
    size = p.shape[1]
    for block in range(blocks):
        x = simd.load(numbers, i + block * LANES)
        for q in range(size):
            at = (block * size + q) * LANES
            simd.store(p, at, simd.load(p, at) * x)


@inner
def weigh_all(
    bits: Any, some: Any, sums: Any, codes: Any, at: int, words: int, blocks: int, table: Any, p: Any
) -> None:
    """`weigh` for all rows, as many at a time as `some` is long."""
    if len(some) == 1:
        weigh_one(bits, sums, codes, at, words, blocks, table, p)
        return
    for first in range(0, p.shape[1], len(some)):
        weigh(bits, some, sums, p.shape[1], first, codes, at, words, blocks, table, p)


@inner
def blocks_seen(firsts: Any, stops: Any, row: int, rows: int, start: int, stop: int) -> Any:
    """The blocks from start to stop that hold a key which one of the rows sees; (0, 0) if there is none."""
    first, end = stop * LANES, 0
    for q in range(row, row + rows):
        if firsts[q] < stops[q]:
            first, end = min(first, firsts[q]), max(end, stops[q])
    start, stop = max(start, first // LANES), min(stop, (end + LANES - 1) // LANES)
    return (start, stop) if start < stop else (0, 0)


@inner
def gather_sums(sums: Any, out: Any, item: int) -> None:
    """Sums (coordinates, rows, 16) over the lanes, to out[item] (rows, coordinates)."""
    for q in range(sums.shape[1]):
        for c in range(sums.shape[0]):
            out[item, q, c] = simd.sum_lanes(simd.load(sums, (c * sums.shape[1] + q) * LANES))


@kernel
def attend_items(
    marks: Any, keys: Any, values: Any, queries: Any, shaping: Any, cut: Any, out: Any, begin: int, end: int
) -> None:
    """Items begin … end - 1 of attention.

    Parameters
    ----------
    marks : tuple
        What a kernel is compiled for, told by lengths of tuples: see `mark`.
    keys, values : sides
    queries, shaping : tuples
        See `float_scores`, `byte_scores` and `shape`.
    cut : (tiles, chunks, blocks of a chunk)
        Item = (head tiles + tile) chunks + chunk.
    out : (top, total, sums, sign_sums)
        (items, rows) and (items, rows, coordinates), written here; the sums in the basis of the codes.
    """
    group, some, key_bits, key_signs, value_bits, value_signs = marks
    tiles, chunks, length = cut
    codes, words, tables, weights, residuals = values
    tops, totals, all_sums, all_sign_sums = out
    size, blocks, stride = len(group), codes.shape[1], codes.shape[2] * LANES
    p = np.empty((TILE, size, LANES), np.float32)
    sums = np.empty((all_sums.shape[2], size, LANES), np.float32)
    sign_sums = np.empty((all_sign_sums.shape[2], size, LANES), np.float32)
    for item in range(begin, end):
        tile, chunk = item // chunks, item % chunks
        head, row = tile // tiles, tile % tiles * size
        top, total = tops[item], totals[item]
        top[:], total[:] = -np.inf, 0
        sums[:], sign_sums[:] = 0, 0
        first, last = chunk * length, min((chunk + 1) * length, blocks)
        first, last = blocks_seen(shaping[0], shaping[1], row, size, first, last)
        for start in range(first, last, TILE):
            stop = min(start + TILE, last)
            scores(key_bits, key_signs, group, p, keys, head, start, stop, queries, tile)
            shape(p, start, stop, row, tile * size, shaping)
            soften(p, stop - start, top, total, sums, sign_sums)
            block = head * blocks + start
            times(p, stop - start, weights, block * LANES)
            weigh_all(value_bits, some, sums, codes, block * stride, words[0], stop - start, tables[0], p)
            if words[1]:
                if residuals.size:
                    times(p, stop - start, residuals, block * LANES)
                at = block * stride + words[0] * LANES
                weigh_all(value_signs, some, sign_sums, codes, at, words[1], stop - start, tables[1], p)
        gather_sums(sums, all_sums, item)
        gather_sums(sign_sums, all_sign_sums, item)


@kernel
def logits_items(marks: Any, keys: Any, queries: Any, shaping: Any, cut: Any, out: Any, begin: int, end: int) -> None:
    """The logits (heads tiles rows, 16 blocks) of items begin … end - 1; as in `attend_items`."""
    group, key_bits, key_signs = marks
    tiles, chunks, length = cut
    size, blocks = len(group), keys[0].shape[1]
    p = np.empty((TILE, size, LANES), np.float32)
    for item in range(begin, end):
        tile, chunk = item // chunks, item % chunks
        last = min((chunk + 1) * length, blocks)
        for start in range(chunk * length, last, TILE):
            stop = min(start + TILE, last)
            scores(key_bits, key_signs, group, p, keys, tile // tiles, start, stop, queries, tile)
            shape(p, start, stop, tile % tiles * size, tile * size, shaping)
            for block in range(start, stop):
                for q in range(size):
                    i = (tile * size + q) * blocks + block
                    simd.store(out, i * LANES, simd.load(p, ((block - start) * size + q) * LANES))


@kernel
def decode(bits: int, codes: Any, head: int, word: int, words: int, table: Any, out: Any) -> None:
    """The numbers of a section from a word of all blocks on, of the tokens of a head, to out (tokens, count)."""
    per_word, low = 32 // (2 if bits == 3 else bits), (1 << (2 if bits == 3 else bits)) - 1
    for t in range(out.shape[0]):
        block, lane = t // LANES, t % LANES
        for j in range(out.shape[1] if words else 0):
            k = j % per_word
            index = np.int64(codes[head, block, word + j // per_word, lane]) >> (32 // per_word * k) & low
            if bits == 3:
                upper = np.int64(codes[head, block, word + words // 3 * 2 + j // 32, lane])
                index |= (upper >> (8 * (k // 4) + 4 * (j // 16 % 2) + k % 4) & 1) << 2
            out[t, j] = table[index]
