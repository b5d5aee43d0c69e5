"""Logits from packed keys with arrays, shared memory and `syncthreads`: any dimension, any bits; the one to read first.

A coordinate of a query takes part in a logit as one of 2^b products, y_j c_0, …, y_j c_(2^b - 1). A block makes a table
of them in shared memory, stages 128 keys beside it, and each thread sums the entries that its key's indices name:

    logit = factor scale_key sum_j table[j, index_j]

`whole_kernel` does the most usual forms without tables of products, `logits_kernel` all others with them.

The signs of `prod` and `qjl` are added as + z_j or - z_j from a second row of numbers, the sketched query.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import cuda, int32, uint32, uint64

KEYS = 128
"""Keys of a tile, and threads of a block."""

TABLE = 2048
"""Entries of the table: with more than 2048 / 2^b coordinates it is made anew for each stretch of them."""


WIDEST_WHOLE = 512
"""Dimensions of the widest rows of `whole_kernel`: a thread holds a quarter of the query in registers."""


def stretch(bits: int) -> int:
    """Coordinates of one table, for indices of that many bits."""
    return TABLE >> max(bits, 1)


@functools.cache
def logits_kernel(bits: int, kind: str, width: int, page: int, residual: bool, number_type: Any) -> Any:
    """The kernel for one form of the keys.

    Parameters
    ----------
    bits : int
        Of an index; 0 if there are only signs.
    kind : str
        Where signs are: "none", "merged" (above the index), "apart" (the rows of `high`); or "planes" and
        "merged planes", for the two planes of 3-bit numbers.
    width : int
        Bits of the cells in which `codes` and `high` are viewed: 32, or 8 where rows are no multiple of 4 bytes.
    page : int
        Keys of a page; 0 if the keys are contiguous.
    residual : bool
        Whether residual norms are stored.
    number_type : numba type
        float32 or float64.
    """
    planes, merged = "planes" in kind, "merged" in kind
    stored = 2 if planes else bits + merged  # bits of a number in `codes`
    index_bits = 3 - merged if planes else bits
    entries, mask = 1 << index_bits, (1 << index_bits) - 1
    step = stretch(index_bits)
    cells = step * stored // width  # of a stretch
    upper_cells = step // width if planes or kind == "apart" else 1
    whole = stored in (1, 2, 4, 8) and not planes  # numbers do not cross cells
    a_cell = width // stored if whole else 1
    indexed, signed = index_bits > 0, kind not in ("none", "planes")
    tile_cells = max(cells, 1) + 1  # one more, so that the keys' rows begin in different banks

    @cuda.jit(device=True)
    def row_of(key, head, n, pages, heads):
        if page == 0:
            return head * n + key
        return (pages[head // heads, key // page] * heads + head % heads) * page + key % page

    def stager(count):
        @cuda.jit(device=True)
        def stage(tile, source, first, key0, n, head, pages, heads):
            """Copy `count` cells of each of the tile's keys to shared memory, neighbours by neighbours.

            Cells and keys that are not there are others' instead: they meet zeros in the table, or nobody stores them.
            """
            last = int32(source.shape[1] - 1)
            for i in range(count):
                at = int32(i * KEYS) + int32(cuda.threadIdx.x)
                key, cell = int32(at // count), int32(at % count)
                row = row_of(min(key0 + key, n - 1), head, n, pages, heads)
                tile[key, cell] = source[row, min(int32(first) + cell, last)]

        return stage

    stage, stage_upper = stager(max(cells, 1)), stager(upper_cells)

    @cuda.jit(device=True)
    def number_at(tile, upper, key, j):
        """Number j of a stretch whose numbers cross cells, or lie in two planes."""
        bit = j * stored
        cell, shift = bit // width, bit % width
        value = tile[key, cell] >> uint32(shift)
        if shift + stored > width:
            value |= tile[key, cell + 1] << uint32(width - shift)
        value &= uint32((1 << stored) - 1)
        if planes:  # bit 4 i + 2 a + p of each 32 is of number 16 a + 2 i + p
            within = j % 32
            bit = 32 * (j // 32) + 4 * (within % 16 // 2) + 2 * (within // 16) + within % 2
            value |= ((upper[key, bit // width] >> uint32(bit % width)) & uint32(1)) << uint32(2)
        return int32(value)

    def kernel(codes, high, scales, residuals, centroids, y, z, factor, sign_factor, pages, lengths, heads, out):
        """Grid (blocks, kv heads, queries of a kv head); rows of y, z and out are (kv head, query)."""
        table = cuda.shared.array((step, entries), number_type)
        sketch = cuda.shared.array(step, number_type)
        tile = cuda.shared.array((KEYS, tile_cells), uint32)
        upper = cuda.shared.array((KEYS, upper_cells), uint32)
        thread, head = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        query = head * cuda.gridDim.z + cuda.blockIdx.z
        n = out.shape[1]
        end = n
        if page > 0:
            end = lengths[head // heads]
        d, m = y.shape[1], z.shape[1]
        longest = max(d, m)
        new = True
        for key0 in range(cuda.blockIdx.x * KEYS, n, cuda.gridDim.x * KEYS):
            total, total_of_signs = number_type(0), number_type(0)
            for start in range(0, longest, step):
                cuda.syncthreads()
                if new or longest > step:  # the entries beyond the last coordinate are 0
                    if indexed:
                        for at in range(thread, step * entries, KEYS):
                            j, number = at // entries, at & mask
                            product = number_type(0)
                            if start + j < d:
                                product = y[query, start + j] * centroids[number]
                            table[j, number] = product
                    if signed:
                        for at in range(thread, step, KEYS):
                            sketch[at] = z[query, start + at] if start + at < m else number_type(0)
                    new = False
                if cells > 0:
                    stage(tile, codes, start * stored // width, key0, n, head, pages, heads)
                if planes or kind == "apart":
                    stage_upper(upper, high, start // width, key0, n, head, pages, heads)
                cuda.syncthreads()
                if whole:
                    for cell in range(min(cells, int32((longest - start + a_cell - 1) // a_cell))):
                        word = tile[thread, cell]
                        for i in range(a_cell):
                            number = uint32(word >> uint32(i * stored)) & uint32((1 << stored) - 1)
                            j = uint32(uint32(cell) * uint32(a_cell) + uint32(i))
                            if indexed:
                                total += table[j, number & uint32(mask)]
                            if merged:
                                total_of_signs += sketch[j] if number >> uint32(index_bits) else -sketch[j]
                elif stored > 0:
                    for j in range(min(step, d - start)):
                        number = number_at(tile, upper, thread, j)
                        total += table[j, number & mask]
                        if merged:
                            total_of_signs += sketch[j] if number >> index_bits else -sketch[j]
                if kind == "apart":
                    for j in range(min(step, m - start)):
                        positive = (upper[thread, j // width] >> uint32(j % width)) & uint32(1)
                        total_of_signs += sketch[j] if positive else -sketch[j]
            key = key0 + thread
            if key < end:
                row = row_of(key, head, n, pages, heads)
                value = total * factor
                if signed:
                    total_of_signs *= sign_factor
                    if residual:
                        total_of_signs *= residuals[row]
                    value += total_of_signs
                out[query, key] = value * number_type(scales[row])
            elif key < n:
                out[query, key] = -math.inf

    return cuda.jit(kernel)


@functools.cache
def whole_kernel(bits: int, cells: int, page: int, number_type: Any) -> Any:
    """The kernel for rows of whole 32-bit cells of indices of 1, 2, 4 or 8 bits, and nothing else: the faster one.

    Four threads share a key, neighbours in memory; each keeps its quarter of the query, looks centroids up in shared
    memory, and leaves its part of the sum there for the thread that stores the logit.

    Parameters
    ----------
    bits, page, number_type
        As in `logits_kernel`.
    cells : int
        Of a row.
    """
    quarter, a_cell, mask = -(-cells // 4), 32 // bits, (1 << bits) - 1
    entries, coordinates = 1 << bits, quarter * a_cell
    even = cells % 4 == 0
    rounds = 4  # a thread takes a quarter of this many keys, then stores one logit

    @cuda.jit(device=True)
    def row_of(key, head, n, pages, heads):
        if page == 0:
            return head * n + key
        return (pages[head // heads, key // page] * heads + head % heads) * page + key % page

    def kernel(codes, scales, centroids, y, factor, pages, lengths, heads, out):
        """Grid (blocks, kv heads, queries of a kv head); rows of y and out are (kv head, query)."""
        book = cuda.shared.array(entries, number_type)
        parts = cuda.shared.array((KEYS, 5), number_type)
        mine = cuda.local.array(coordinates, number_type)
        thread, head = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        query = head * int32(cuda.gridDim.z) + int32(cuda.blockIdx.z)
        words = cuda.local.array(quarter, uint32)
        spot, t = thread >> 2, thread & 3
        cell = uint64(t * quarter)
        n = int32(out.shape[1])
        end = n
        if page > 0:
            end = lengths[head // heads]
        for i in range(coordinates):
            j = t * coordinates + i
            mine[i] = y[query, j] if j < y.shape[1] else number_type(0)
        for i in range(thread, entries, KEYS):
            book[i] = centroids[i]
        cuda.syncthreads()
        for key0 in range(int32(cuda.blockIdx.x) * KEYS, n, int32(cuda.gridDim.x) * KEYS):
            for r in range(rounds):
                key = r * (KEYS // rounds) + spot
                row = uint64(row_of(min(key0 + key, n - 1), head, n, pages, heads))
                total = number_type(0)
                for c in range(quarter):  # all loads first; cells beyond the row meet zeros of the query
                    words[c] = codes[row, cell + uint64(c) if even else uint64(min(t * quarter + c, cells - 1))]
                for c in range(quarter):
                    for i in range(a_cell):
                        total += mine[c * a_cell + i] * book[(words[c] >> uint32(i * bits)) & uint32(mask)]
                parts[key, t] = total
            cuda.syncthreads()
            key = key0 + thread
            if key < end:
                whole = (parts[thread, 0] + parts[thread, 1]) + (parts[thread, 2] + parts[thread, 3])
                out[query, key] = whole * factor * number_type(scales[row_of(key, head, n, pages, heads)])
            elif key < n:
                out[query, key] = -math.inf
            cuda.syncthreads()

    return cuda.jit(kernel)


@cuda.jit
def shape(out, queries, softcap, mask, mask_kind, causal, window, positions):
    """Soft cap, then masks, in place: out (kv heads * queries a kv head, n), a thread a logit.

    mask : (rows, n) array
        `mask_kind` 0: none, 1: bool, 2: additive. `window` 0: none; `softcap` 0: none.
    """
    row, key = cuda.blockIdx.y, cuda.grid(1)
    if key < out.shape[1]:
        value = out[row, key]
        if softcap > 0:
            value = softcap * math.tanh(value / softcap)
        if mask_kind == 1 and not mask[row, key]:
            value = -math.inf
        if mask_kind == 2:
            value += mask[row, key]
        distance = positions[row % queries] - key
        if (causal and distance < 0) or (window > 0 and abs(distance) >= window):
            value = -math.inf
        out[row, key] = value


@cuda.jit
def turn(rows, matrix, out):
    """out = rows matrix, a thread a number: rows (n, d), matrix (d, m)."""
    at = cuda.grid(1)
    m = matrix.shape[1]
    if at < out.shape[0] * m:
        i, j = at // m, at % m
        total = out.dtype.type(0)
        for k in range(matrix.shape[0]):
            total += rows[i, k] * matrix[k, j]
        out[i, j] = total
