"""Before and after the fast decode kernel: queries become integer operands, partial results become outputs."""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32, int32, int64, uint32
from numba.cuda import types

from . import ptx
from ._decode_programs import CHUNK, LOWEST, Side
from .machine import program

U32, I32, I64, F32 = ptx.U32, ptx.I32, ptx.I64, ptx.F32
LOADS = {"float32": (ptx.load_f32, 4), "float16": (ptx.load_f16, 2), "bfloat16": (ptx.load_bf16, 2)}
STORES = {"float32": (ptx.store_f32, 4), "float16": (ptx.store_f16, 2), "bfloat16": (ptx.store_bf16, 2)}

PREPARE = (I64,) * 4 + (I32,) * 2 + (F32,) * 3
PREPARE_THREADS = 512


def prepare_kernel(keys: Side, columns: int, dtype: str, overlap: bool = False) -> tuple[Any, Any]:
    """Turn 4 `columns` query rows of one key head and lay them out as B operands; grid (heads x row blocks, sequences).

    Arguments: queries (sequences, heads, rows, d), the matrices Pi^T (and S^T) one after the other, operands,
    factors; heads, rows; the factor of the scores, and the sketch's factor and offset.
    """
    d, bits, rows, per_lane = keys.d, keys.bits, 4 * columns, keys.d // 32
    matrices = 2 if keys.prod else 1
    per = 3 if keys.prod else 1
    parts = PREPARE_THREADS // d
    length, steps = d // parts, d // 32
    piece = min(length, 32)
    load, size = LOADS[dtype]
    row_numbers, sums_size = rows * d, parts * 4 * d

    def load_(o: Any, address: Any) -> list[Any]:
        return [o.float_of(o.global_word(address, 4 * d * k)) for k in range(piece)]

    def dot_(o: Any, matrix: list[Any], vectors: Any, before: list[Any]) -> list[Any]:
        out = []
        for r, total in enumerate(before):
            for k in range(piece):
                total = o.fma(matrix[k], o.single(vectors, 4 * (r * d + k)), total)
            out.append(total)
        return out

    def put_(o: Any, address: Any, x: list[Any]) -> None:
        for r, value in enumerate(x):
            o.put(address, value, 4 * r * d)

    def joined_(o: Any, address: Any) -> list[Any]:
        """A lane's coordinates of a row: the parts' sums of every 32nd."""
        out = []
        for i in range(per_lane):
            total = o.single(address, 128 * i)
            for p in range(1, parts):
                total = o.fadd(total, o.single(address, 4 * (p * 4 * d) + 128 * i))
            out.append(total)
        return out

    def integers_(o: Any, x: list[Any], inverse: Any) -> list[Any]:
        return [o.round_s32(o.fmul(a, inverse)) for a in x]

    def largest_(o: Any, x: list[Any]) -> Any:
        top = o.fabs(x[0])
        for a in x[1:]:
            top = o.fmax(top, o.fabs(a))
        for lanes in (16, 8, 4, 2, 1):
            top = o.fmax(top, o.shuffle_xor(top, lanes))
        return top

    numbers, four = ptx.group(F32, piece), ptx.group(F32, 4)
    load_matrix = program(load_, numbers, I64)
    dot = program(dot_, four, numbers, U32, four)
    put = program(put_, types.void, U32, four)
    nothing = program(lambda o: [o._f(0.0)] * 4, four)
    joined = program(joined_, ptx.group(F32, per_lane), U32)
    as_integers = program(integers_, ptx.group(I32, per_lane), ptx.group(F32, per_lane), F32)
    quotient = program(lambda o, a, b: o.quotient(a, b), U32, U32, U32)
    largest = program(largest_, F32, ptx.group(F32, per_lane))

    def kernel(queries, turns, operands, factors, heads, n_rows, unit, sketch_unit, sketch_offset):
        x = cuda.shared.array(row_numbers, float32)
        sums = cuda.shared.array(sums_size, float32)
        integers = cuda.shared.array(row_numbers, int32)
        thread = int32(cuda.threadIdx.x)
        if overlap:
            ptx.grid_next()
        column, part = int32(thread % d), int32(thread // d)
        at_matrix = turns + 4 * int64(part * length * d + column)
        pieces = load_matrix(at_matrix)  # before anything that it would have to wait for
        hy, sequence = int32(cuda.blockIdx.x), int32(cuda.blockIdx.y)
        blocks = int32(quotient(uint32(cuda.gridDim.x), uint32(heads)))
        head = int32(quotient(uint32(hy), uint32(blocks)))
        first = int32((hy - head * blocks) * rows)
        group = int64(sequence) * int32(cuda.gridDim.x) + hy
        source = queries + ((int64(sequence) * heads + head) * n_rows + first) * (d * size)
        i = thread
        while i < rows * d:
            x[i] = load(source + size * i) if first + i // d < n_rows else float32(0)
            i += PREPARE_THREADS
        cuda.syncthreads()
        at_x = uint32(ptx.shared_address(x) + uint32(4 * part * length))
        at_sums = ptx.shared_address(sums)
        row, lane = int32(thread >> 5), int32(thread & 31)
        for matrix in range(matrices):
            for c in range(columns):
                if matrix + c > 0:
                    pieces = load_matrix(at_matrix + 4 * d * d * matrix)
                total = dot(pieces, uint32(at_x + uint32(16 * c * d)), nothing())
                for k in range(piece, length, piece):
                    more = load_matrix(at_matrix + 4 * d * (d * matrix + k))
                    total = dot(more, uint32(at_x + uint32(16 * c * d + 4 * k)), total)
                put(uint32(at_sums + uint32(4 * (part * 4 * d + column))), total)
                cuda.syncthreads()
                if row < 4:  # a warp a row: its largest coordinate, and the row in 1/32511 of it
                    y = joined(uint32(at_sums + uint32(4 * (row * d + lane))))
                    top = largest(y)
                    numbers = as_integers(y, float32(32511) / top if top > float32(0) else float32(0))
                    whole = int32(0)
                    for i in range(per_lane):
                        integers[(4 * c + row) * d + 32 * i + lane] = numbers[i]
                        whole += numbers[i]
                    for lanes in (16, 8, 4, 2, 1):
                        whole += int32(ptx.shuffle_xor(uint32(whole), uint32(lanes)))
                    if lane == 0:
                        to = factors + 4 * ((group * columns + c) * 4 * per + row)
                        fine = top * float32(1.0 / 32511)
                        if matrix == 0:
                            ptx.store_f32(to, unit * fine)
                        else:
                            ptx.store_f32(to + 16, sketch_unit * fine)
                            ptx.store_f32(to + 32, sketch_offset * fine * float32(whole))
                cuda.syncthreads()
            # operand word (s, r) of lane 4 g + t: 4 coordinates of column g, query g / 2, hi (g even) or lo byte
            i = thread
            while i < columns * steps * 64:
                lane, r, s, c = i & 31, (i >> 5) & 1, (i >> 6) % steps, i // (64 * steps)
                g, t = lane >> 2, lane & 3
                word = uint32(0)
                for b in range(4):
                    if bits == 4:
                        coordinate = (d // 4) * t + 8 * s + 4 * r + b
                    else:
                        coordinate = (d // 4) * t + 16 * (s >> 1) + 2 * (4 * r + b) + (s & 1)
                    number = integers[(4 * c + (g >> 1)) * d + coordinate]
                    low = ((number + 128) & 255) - 128
                    byte = low if (g & 1) == 1 else (number - low) >> 8
                    word = word | (uint32(byte & 255) << uint32(8 * b))
                index = ((group * columns + c) * matrices + matrix) * (2 * steps) + 2 * s + r
                ptx.store_u32(operands + 4 * (index * 32 + lane), word)
                i += PREPARE_THREADS
            cuda.syncthreads()

    return kernel, PREPARE


COMBINE = (I64,) * 5 + (I32,) * 7 + (F32,)


def combine_threads(together: int) -> int:
    """Threads of a block: few rows are a matter of latency, many of how many blocks are resident."""
    return 1024 if together == 1 else 512


def ahead(together: int) -> int:
    """Splits that a thread reads before it knows what for: what another multiprocessor wrote takes a microsecond."""
    return 5 if together == 1 else 1


def room(splits: int, values: Side, columns: int, together: int) -> int:
    """Floats of partial results, and of what is read beyond them and not used."""
    return (splits + ahead(together) * (combine_threads(together) // values.d)) * 4 * columns * (values.d + 4)


LOG_2 = 0.6931471805599453


def combine_kernel(
    values: Side, columns: int, dtype: str, whole: bool = True, together: int = 1, overlap: bool = False
) -> tuple[Any, Any]:
    """Join the splits of `together` query rows and turn the sums back; grid (rows / together, heads, sequences).

    Arguments: partial results, the matrix Pi, outputs, tops and totals (pairs, if not `whole`), lengths; splits, heads,
    rows, row blocks, queries, window, keys of a sequence where there are no lengths; the unit of the
    value codebook.

    whole : divide by the sum of the weights; else give the sums, and their tops and totals.
    """
    d, rows, row_floats = values.d, 4 * columns, values.d + 4
    threads = combine_threads(together)
    parts = threads // d
    length = d // parts  # of the matrix's d rows, those of one part
    piece = min(length, 16)
    all_sums, all_rows = together * threads, together * d
    store, size = STORES[dtype]

    def load_(o: Any, address: Any) -> list[Any]:
        return [o.float_of(o.global_word(address, 4 * d * k, False)) for k in range(piece)]

    def dot_(o: Any, matrix: list[Any], vectors: Any, before: list[Any]) -> list[Any]:
        out = []
        for r, total in enumerate(before):
            for k in range(piece):
                total = o.fma(matrix[k], o.single(vectors, 4 * (r * d + k)), total)
            out.append(total)
        return out

    def put_(o: Any, address: Any, x: list[Any]) -> None:
        for r, value in enumerate(x):
            o.put(address, value, 4 * r * threads)

    n_ahead, split = ahead(together), 4 * rows * row_floats
    places = tuple(split * parts * j + 4 * row_floats * r for j in range(n_ahead) for r in range(together))
    some = ptx.load_each("f32", places, True)

    def weigh_(o: Any, tops: list[Any], values: list[Any], state: Any, part: Any, live: Any) -> list[Any]:
        out = []
        for r in range(together):
            top, total = o.single(state, 4 * r), o._f(0.0)
            for j in range(n_ahead):
                i = together * j + r
                more = o.fmul(o.exp2(o.fsub(tops[i], top)), values[i])
                total = o.fadd(total, o.if_less(o.add(part, parts * j), live, more, 0.0))
            out.append(total)
        return out

    numbers = ptx.group(F32, piece)
    each = ptx.group(F32, together)
    weigh = program(weigh_, each, *(2 * (ptx.group(F32, n_ahead * together),)), U32, I32, I32)
    load = program(load_, numbers, I64)
    dot = program(dot_, each, numbers, U32, each)
    put = program(put_, types.void, U32, each)
    nothing = program(lambda o: [o._f(0.0)] * together, each)

    def kernel(
        partial, turn, outputs, tops, lengths, splits, heads, n_rows, blocks, n_queries, window, capacity, unit
    ):  # fmt: skip
        sums = cuda.shared.array(all_sums, float32)
        vectors = cuda.shared.array(all_rows, float32)
        state = cuda.shared.array(8, float32)
        thread = int32(cuda.threadIdx.x)
        first, head, sequence = int32(cuda.blockIdx.x * together), int32(cuda.blockIdx.y), int32(cuda.blockIdx.z)
        column, part = int32(thread % d), int32(thread // d)
        at_matrix = turn + 4 * int64(part * length * d + column)
        matrix = load(at_matrix)
        n = ptx.load_i32(lengths + 4 * sequence) if lengths != 0 else capacity
        start = int32(max(n - n_queries - window + 1, 0) // CHUNK)
        stop = int32((n + CHUNK - 1) // CHUNK)
        live = int32(min(splits, stop - start))
        group = (int64(sequence) * heads + head) * blocks + first // rows
        source = partial + (group * splits * rows + first % rows) * (4 * row_floats)
        stride = int64(4 * rows * row_floats)
        if overlap:
            ptx.grid_wait()
        tops_ahead, sums_ahead = some(source + part * stride + 4 * d), some(source + part * stride + 4 * column)
        row, lane = int32(thread >> 5), int32(thread & 31)
        if row < together:  # a warp a row: its top, and the sum of its weights
            at = source + row * (4 * row_floats) + 4 * d
            top, total = float32(LOWEST), float32(0)
            i = lane
            while i < live:
                other, more = ptx.fetch_f32(at + i * stride), ptx.fetch_f32(at + i * stride + 4)
                higher = max(top, other)
                total = total * ptx.exp2(top - higher) + more * ptx.exp2(other - higher)
                top = higher
                i += 32
            for lanes in (16, 8, 4, 2, 1):
                other = ptx.shuffle_xor_f32(top, uint32(lanes))
                more = ptx.shuffle_xor_f32(total, uint32(lanes))
                higher = max(top, other)
                total = total * ptx.exp2(top - higher) + more * ptx.exp2(other - higher)
                top = higher
            if lane == 0:
                state[row], state[4 + row] = top, total
        cuda.syncthreads()
        put(
            uint32(ptx.shared_address(sums) + uint32(4 * thread)),
            weigh(tops_ahead, sums_ahead, ptx.shared_address(state), part, live),
        )
        for r in range(together):
            value = sums[r * threads + thread]
            i = int32(part + n_ahead * parts)
            while i < live:
                at = source + r * (4 * row_floats) + i * stride
                value += ptx.exp2(ptx.fetch_f32(at + 4 * d) - state[r]) * ptx.fetch_f32(at + 4 * column)
                i += parts
            sums[r * threads + thread] = value
        cuda.syncthreads()
        for r in range(part, together, parts):  # the parts of a row's sums
            value = float32(0)
            for p in range(parts):
                value += sums[r * threads + p * d + column]
            vectors[r * d + column] = value
        cuda.syncthreads()
        at = uint32(ptx.shared_address(vectors) + uint32(4 * part * length))
        turned = dot(matrix, at, nothing())
        for k in range(piece, length, piece):
            turned = dot(load(at_matrix + 4 * d * k), uint32(at + uint32(4 * k)), turned)
        put(uint32(ptx.shared_address(sums) + uint32(4 * thread)), turned)
        cuda.syncthreads()
        for r in range(part, together, parts):
            if first + r < n_rows:
                value = float32(0)
                for p in range(parts):
                    value += sums[r * threads + p * d + column]
                value = value * unit
                top, total = state[r], state[4 + r]
                place = (int64(sequence) * heads + head) * n_rows + first + r
                if whole:
                    value = value / total if total > float32(0) else float32(0)
                elif column == 0:
                    seen = total > float32(0)
                    ptx.store_f32(tops + 8 * place, top * float32(LOG_2) if seen else float32(-math.inf))
                    ptx.store_f32(tops + 8 * place + 4, total)
                store(outputs + (place * d + column) * size, value)

    return kernel, COMBINE
