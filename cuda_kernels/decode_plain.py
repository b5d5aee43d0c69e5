"""Decode attention as one reads it: a block has one query and some of its keys; online softmax, then a join of the
parts.

Any dimension, any bits, `mse`, `prod` and `qjl` codes or vectors as they are, masks, soft cap; arrays, shared memory
and
`syncthreads` only, so that it runs in the CUDA simulator too. The fast kernel of `decode` gives the same numbers up
to the rounding that it states.

A row of a key or value is read number by number through a `Reader`:

    vectors    x_i
    mse        scale c_idx_i                                        rotated basis, d numbers
    qjl        norm s_i / (m mu)                                    basis of the sketch, m numbers
    prod       norm c_idx_i, then norm gamma s_i / (m mu)           d + m numbers
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

from numba import cuda, float32, float64, int32

from .layout import Form

THREADS = 32
REAL = {"float32": float32, "float64": float64}


@dataclass(frozen=True)
class Reader:
    """What a kernel must know to read rows: their numbers, the algorithm ("vectors" for none), the codes' form."""

    width: int
    algorithm: str = "vectors"
    form: Form | None = None
    paged: bool = False

    @property
    def indices(self) -> int:
        """Numbers of the first section, that of the codebook."""
        return self.width - self.form.signs if self.form else self.width


def _number(form: Form) -> Any:
    """A device function: number i of a row of codes."""
    bits, planes = form.bits, form.planes

    @cuda.jit(device=True)
    def number(codes, high, row, i):
        if planes:  # two lower bits, and the upper plane's permuted one: `layout`
            lower = (codes[row, i // 4] >> (2 * (i % 4))) & 3
            at = 4 * (i % 16 // 2) + 2 * (i % 32 // 16) + i % 2
            return lower | ((high[row, i // 32 * 4 + at // 8] >> (at % 8)) & 1) << 2
        at = i * bits
        word = int32(codes[row, at // 8])
        if at % 8 + bits > 8:
            word |= int32(codes[row, at // 8 + 1]) << 8
        return (word >> (at % 8)) & ((1 << bits) - 1)

    return number


@functools.cache
def element(reader: Reader) -> Any:
    """A device function: number i of a row, in the basis of the code, scalars included.

    `table` holds the centroids, then -1 / (m mu) and +1 / (m mu), times gamma where it is not stored.
    """
    form = reader.form
    if form is None:

        @cuda.jit(device=True)
        def of_vectors(codes, high, scales, residuals, table, row, i):
            return codes[row, i]

        return of_vectors
    number, n, low = _number(form), form.n, form.bits - 1
    stored, centroids = form.residuals, 1 << (form.bits - form.merged)
    first = reader.indices if form.signs else n

    @cuda.jit(device=True)
    def of_numbers(codes, high, scales, residuals, table, row, i):  # mse and qjl
        return scales[row] * table[number(codes, high, row, i)]

    @cuda.jit(device=True)
    def of_merged(codes, high, scales, residuals, table, row, i):
        if i < first:
            return scales[row] * table[number(codes, high, row, i) & ((1 << low) - 1)]
        sign = number(codes, high, row, i - first) >> low
        gamma = residuals[row] if stored else 1
        return scales[row] * gamma * table[centroids + sign]

    @cuda.jit(device=True)
    def of_streams(codes, high, scales, residuals, table, row, i):
        if i < first:
            return scales[row] * table[number(codes, high, row, i)]
        sign = (high[row, (i - first) // 8] >> ((i - first) % 8)) & 1
        gamma = residuals[row] if stored else 1
        return scales[row] * gamma * table[centroids + sign]

    if reader.algorithm != "prod":
        return of_numbers
    return of_merged if form.merged else of_streams


def _locator(paged: bool) -> Any:
    """A device function: the row that holds key j of a head."""

    @cuda.jit(device=True)
    def contiguous(table, sequence, head, heads, size, j):
        return (sequence * heads + head) * size + j

    @cuda.jit(device=True)
    def in_pages(table, sequence, head, heads, size, j):
        return (table[sequence, j // size] * heads + head) * size + j % size

    return in_pages if paged else contiguous


@functools.cache
def attend_kernel(keys: Reader, values: Reader, dtype: str, capped: bool, added: bool, masked: bool) -> Any:
    """A block is a query and a stretch of keys: grid (queries of all heads and sequences, splits).

    Arguments: queries (rows, width), in the keys' basis; of keys, then values: codes, high, scales, residuals, table of
    numbers, rows a page (or a head); block table; the first key that each query of each sequence sees, and one past
    the last (sequences, n_queries, 2); what is added to the products, and the mask (rows, keys); heads, query heads a
    head, keys a block, scale, soft cap; sums (rows, splits, width), tops and totals (rows, splits, 2).
    """
    key, value, locate = element(keys), element(values), _locator(keys.paged)
    width, out_width, real = keys.width, values.width, REAL[dtype]
    lowest = -math.inf

    def kernel(
        queries, k_codes, k_high, k_scales, k_residuals, k_table, k_size, v_codes, v_high, v_scales, v_residuals,
        v_table, v_size, table, seen, extra, mask, heads, group, per, scale, cap, sums, tops,
    ):  # fmt: skip
        query = cuda.shared.array(width, real)
        total = cuda.shared.array(out_width, real)
        scores = cuda.shared.array(THREADS, real)
        thread, row, split = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        n_queries = seen.shape[1]
        head = row // n_queries // group % heads
        sequence = row // n_queries // group // heads
        first = max(split * per, seen[sequence, row % n_queries, 0])
        last = min(split * per + per, seen[sequence, row % n_queries, 1])
        for i in range(thread, width, THREADS):
            query[i] = queries[row, i]
        for i in range(thread, out_width, THREADS):
            total[i] = 0
        top, weight = real(lowest), real(0)
        cuda.syncthreads()
        for start in range(first, last, THREADS):
            j = start + thread
            s = real(lowest)
            if j < last:
                at = locate(table, sequence, head, heads, k_size, j)
                s = real(0)
                for i in range(width):
                    s += query[i] * real(key(k_codes, k_high, k_scales, k_residuals, k_table, at, i))
                if added:
                    s += extra[row, j]
                s *= scale
                if capped:
                    s = cap * math.tanh(s / cap)
                if masked:
                    s += mask[row, j]
            scores[thread] = s
            cuda.syncthreads()
            higher = top
            for i in range(THREADS):
                higher = max(higher, scores[i])
            cuda.syncthreads()
            if higher == lowest:  # no visible key so far, in all threads alike
                continue
            scores[thread] = math.exp(s - higher)
            cuda.syncthreads()
            shrink = math.exp(top - higher)
            weight *= shrink
            for i in range(THREADS):
                weight += scores[i]
            for i in range(thread, out_width, THREADS):
                total[i] *= shrink
                for t in range(min(THREADS, last - start)):
                    at = locate(table, sequence, head, heads, v_size, start + t)
                    total[i] += scores[t] * real(value(v_codes, v_high, v_scales, v_residuals, v_table, at, i))
            top = higher
            cuda.syncthreads()
        for i in range(thread, out_width, THREADS):
            sums[row, split, i] = total[i]
        if thread == 0:
            tops[row, split, 0], tops[row, split, 1] = top, weight

    return cuda.jit(kernel)


@cuda.jit
def combine(sums, tops, out, out_tops, whole):
    """Join the splits of a query, a block: the step of `turboquant_ref.attention.merge` for all of them at once.

    If `whole`, the sums are divided by the total, or left 0 where no key was visible.
    """
    row, splits = cuda.blockIdx.x, sums.shape[1]
    top, total = tops[row, 0, 0], tops[row, 0, 1]
    for s in range(1, splits):
        top = max(top, tops[row, s, 0])
    none = top == -math.inf
    total = total - total
    for s in range(splits):
        total += tops[row, s, 1] * (0 if none else math.exp(tops[row, s, 0] - top))
    for i in range(cuda.threadIdx.x, sums.shape[2], cuda.blockDim.x):
        value = total - total
        for s in range(splits):
            value += sums[row, s, i] * (0 if none else math.exp(tops[row, s, 0] - top))
        out[row, i] = value / total if whole and total > 0 else value
    if cuda.threadIdx.x == 0:
        out_tops[row, 0], out_tops[row, 1] = top, total


@cuda.jit
def multiply(rows, matrix, out):
    """out = rows matrix, a thread a number: turns queries, and turns sums back."""
    at = cuda.grid(1)
    if at < out.shape[0] * out.shape[1]:
        i, j = at // out.shape[1], at % out.shape[1]
        total = out.dtype.type(0)
        for k in range(matrix.shape[0]):
            total += rows[i, k] * matrix[k, j]
        out[i, j] = total
