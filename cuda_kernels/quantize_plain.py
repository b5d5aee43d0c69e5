"""The plain kernels of quantization: a block a vector, loops over arrays, `syncthreads` between the steps.

Every d, every b, float32 and float64; they run on any GPU and in numba's simulator. Each kernel is one line of the
paper's boxes, so that what a kernel leaves in memory is a stage of `trace`. The fast ones are in `quantize`.
"""

from __future__ import annotations

import math

from numba import config, cuda, float64

THREADS = 4 if config.ENABLE_CUDASIM else 128
"""Threads of a block: in the simulator each is a Python thread."""
ROW = 4096
"""Coordinates of a row that `rotate` keeps in shared memory; a longer one stays in global memory."""
TILE = 4 if config.ENABLE_CUDASIM else 16
"""Rows and columns of a block of `product`."""


@cuda.jit
def normalise(x, norms, unit, limit, refused):
    """||x|| and x / ||x|| of each row, as `turboquant_ref.vectors.norm_and_unit`: no square over- or underflows.

    refused[0] is set where a value is not finite or a norm is above `limit`.
    """
    row, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    part = cuda.shared.array(THREADS, float64)
    largest, finite = float64(0), True
    for i in range(thread, x.shape[1], threads):
        value = abs(float64(x[row, i]))
        finite = finite and value < math.inf
        largest = max(largest, value)
    part[thread] = largest if finite else math.inf
    reduce_max(part, thread, threads)
    largest = part[0]
    if not largest < math.inf:  # a NaN is no largest value: every thread that met one said infinity
        if thread == 0:
            refused[0] = 1
        return
    exponent = math.frexp(largest)[1]
    cuda.syncthreads()  # every thread has read part[0]
    total = float64(0)
    for i in range(thread, x.shape[1], threads):
        scaled = math.ldexp(float64(x[row, i]), -exponent)
        total += scaled * scaled
    part[thread] = total
    reduce_sum(part, thread, threads)
    length = math.sqrt(part[0])
    for i in range(thread, x.shape[1], threads):
        unit[row, i] = math.ldexp(float64(x[row, i]), -exponent) / (length if length > 0 else 1.0)
    if thread == 0:
        norm = times_power(length, exponent)
        if norm > limit:
            refused[0] = 1
        else:
            norms[row] = norm


@cuda.jit(device=True, inline="always")
def reduce_sum(part, thread, threads):
    """part[0] <- the sum of part; the number of threads is a power of two."""
    half = threads // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            part[thread] += part[thread + half]
        half //= 2
    cuda.syncthreads()


@cuda.jit(device=True, inline="always")
def reduce_max(part, thread, threads):
    """part[0] <- the largest of part."""
    half = threads // 2
    while half > 0:
        cuda.syncthreads()
        if thread < half:
            part[thread] = max(part[thread], part[thread + half])
        half //= 2
    cuda.syncthreads()


@cuda.jit(device=True, inline="always")
def times_power(value, exponent):
    """value 2^exponent, rounded once, infinite where it is too large."""
    half = exponent // 2
    return math.ldexp(value, half) * math.ldexp(1.0, exponent - half)


@cuda.jit
def rotate(x, factors, cosines, sines, levels, starts, chunk, root, y):
    """Pi x of each row: `turboquant_ref.rotation`'s rounds B and plane layers P, step by step.

    factors (rounds, d) are signs times 2^(-k/2); level l across chunks pairs levels[:, starts[l]:starts[l + 1]].
    """
    thread, threads, d = cuda.threadIdx.x, cuda.blockDim.x, x.shape[1]
    fast = cuda.shared.array(ROW, x.dtype)
    row = fast if d <= ROW else y[cuda.blockIdx.x]
    for i in range(thread, d, threads):
        row[i] = x[cuda.blockIdx.x, i]
    for r in range(factors.shape[0]):
        if r > 0:
            planes(row, d, cosines[r - 1], sines[r - 1], False, thread, threads)
        cuda.syncthreads()
        for i in range(thread, d, threads):
            row[i] *= factors[r, i]
        hadamard(row, d, chunk, thread, threads)
        for level in range(starts.size - 1):
            reflect(row, levels, starts[level], starts[level + 1], chunk, root, thread, threads)
    if d <= ROW:
        cuda.syncthreads()
        for i in range(thread, d, threads):
            y[cuda.blockIdx.x, i] = row[i]


@cuda.jit
def rotate_back(y, factors, cosines, sines, levels, starts, chunk, root, x):
    """Pi^T y of each row: the steps of `rotate`, transposed, last first."""
    thread, threads, d = cuda.threadIdx.x, cuda.blockDim.x, y.shape[1]
    fast = cuda.shared.array(ROW, y.dtype)
    row = fast if d <= ROW else x[cuda.blockIdx.x]
    for i in range(thread, d, threads):
        row[i] = y[cuda.blockIdx.x, i]
    for back in range(factors.shape[0]):
        r = factors.shape[0] - 1 - back
        for level in range(starts.size - 2, -1, -1):
            reflect(row, levels, starts[level], starts[level + 1], chunk, root, thread, threads)
        hadamard(row, d, chunk, thread, threads)
        cuda.syncthreads()
        for i in range(thread, d, threads):
            row[i] *= factors[r, i]
        if r > 0:
            planes(row, d, cosines[r - 1], sines[r - 1], True, thread, threads)
    if d <= ROW:
        cuda.syncthreads()
        for i in range(thread, d, threads):
            x[cuda.blockIdx.x, i] = row[i]


@cuda.jit
def transform(x, y):
    """The Walsh-Hadamard transform of each row."""
    row, thread, threads = y[cuda.blockIdx.x], cuda.threadIdx.x, cuda.blockDim.x
    for i in range(thread, row.size, threads):
        row[i] = x[cuda.blockIdx.x, i]
    hadamard(row, row.size, row.size, thread, threads)


@cuda.jit(device=True, inline="always")
def hadamard(row, d, length, thread, threads):
    """The Walsh-Hadamard transform of each chunk of `length` coordinates, unnormalised."""
    s = 1
    while s < length:
        cuda.syncthreads()
        for pair in range(thread, d // 2, threads):
            i = 2 * s * (pair // s) + pair % s
            a, b = row[i], row[i + s]
            row[i], row[i + s] = a + b, a - b
        s *= 2


@cuda.jit(device=True, inline="always")
def reflect(row, levels, start, stop, chunk, root, thread, threads):
    """(a, b) <- ((a + b) / sqrt 2, (a - b) / sqrt 2) for the coordinates of the paired chunks."""
    cuda.syncthreads()
    for pair in range(thread, (stop - start) * chunk, threads):
        i = levels[0, start + pair // chunk] * chunk + pair % chunk
        k = levels[1, start + pair // chunk] * chunk + pair % chunk
        a, b = row[i], row[k]
        row[i], row[k] = (a + b) * root, (a - b) * root


@cuda.jit(device=True, inline="always")
def planes(row, d, cosines, sines, back, thread, threads):
    """Turn the planes (i, d - h + i) by their angles, or back."""
    cuda.syncthreads()
    h = d // 2
    for i in range(thread, h, threads):
        a, b, c = row[i], row[d - h + i], cosines[i]
        s = -sines[i] if back else sines[i]
        row[i], row[d - h + i] = c * a - s * b, s * a + c * b


@cuda.jit
def product(a, b, out):
    """a b, of matrices (n, k) and (k, m): a block makes a tile of the result, a thread an element, in order of k."""
    i, j = cuda.threadIdx.y, cuda.threadIdx.x
    row, column = cuda.blockIdx.y * TILE + i, cuda.blockIdx.x * TILE + j
    left = cuda.shared.array((TILE, TILE), float64)
    right = cuda.shared.array((TILE, TILE), float64)
    total = out.dtype.type(0)
    for start in range(0, a.shape[1], TILE):
        left[i, j] = a[row, start + j] if row < a.shape[0] and start + j < a.shape[1] else 0
        right[i, j] = b[start + i, column] if column < b.shape[1] and start + i < b.shape[0] else 0
        cuda.syncthreads()
        for k in range(TILE):
            total += out.dtype.type(left[i, k]) * out.dtype.type(right[k, j])
        cuda.syncthreads()
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = total


@cuda.jit
def nearest(t, boundaries, indices):
    """The number of boundaries <= t, for each number of t: its cell, a tie going up."""
    for i in range(cuda.grid(1), t.size, cuda.gridsize(1)):
        value, low, high = t[i], 0, boundaries.size
        while low < high:
            middle = (low + high) // 2
            if boundaries[middle] <= value:
                low = middle + 1
            else:
                high = middle
        indices[i] = low


@cuda.jit
def look_up(indices, centroids, out):
    """c_idx."""
    for i in range(cuda.grid(1), indices.size, cuda.gridsize(1)):
        out[i] = centroids[indices[i]]


@cuda.jit
def scale_rule(rule, norms, z, indices, centroids, limit, scales, refused):
    """The table of `turboquant_ref.mse`, rule 1 "matched", 2 "least_squares", 3 "unbiased"; 0 for the zero vector."""
    row, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    part = cuda.shared.array(THREADS, float64)
    own_qq = own_zq = float64(0)
    for i in range(thread, z.shape[1], threads):
        q = float64(centroids[indices[row, i]])
        own_qq += q * q
        own_zq += float64(z[row, i]) * q
    part[thread] = own_qq
    reduce_sum(part, thread, threads)
    qq = part[0]
    cuda.syncthreads()
    part[thread] = own_zq
    reduce_sum(part, thread, threads)
    zq = part[0]
    if thread == 0:
        if norms[row] == 0:
            scales[row] = 0
        else:
            factor = 1 / math.sqrt(qq) if rule == 1 else zq / qq if rule == 2 else 1 / zq
            scale = float64(norms[row]) * factor
            if scale <= limit:
                scales[row] = scale
            else:
                refused[0] = 1


@cuda.jit
def times_rows(values, factors, use_factors, constant, out):
    """factors[row] * (constant * values), or constant * values."""
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        row, column = i // values.shape[1], i % values.shape[1]
        value = constant * values[row, column]
        out[row, column] = factors[row] * value if use_factors else value


@cuda.jit
def times_norms(estimates, query_norms, norms, out):
    """||y_i|| ||x_j|| times the estimates of unit vectors; over- or underflows only where the result does."""
    for at in range(cuda.grid(1), estimates.size, cuda.gridsize(1)):
        i, j = at // estimates.shape[1], at % estimates.shape[1]
        f, exponent = math.frexp(float64(query_norms[i]))
        g, more = math.frexp(float64(norms[j]))
        out[i, j] = times_power(float64(estimates[i, j]) * (f * g), exponent + more)


@cuda.jit
def add(a, b, out):
    """a + b, for rows of one length."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        row, column = i // out.shape[1], i % out.shape[1]
        out[row, column] = a[row, column] + b[row, column]


@cuda.jit
def into_columns(values, factor, start, out):
    """factor * values as the columns of `out` from `start` on, as far as it has them."""
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        row, column = i // values.shape[1], i % values.shape[1]
        if start + column < out.shape[1]:
            out[row, start + column] = values[row, column] * factor


@cuda.jit
def from_columns(values, start, out):
    """The columns of `values` from `start` on, 0 where it has no more."""
    for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        row, column = i // out.shape[1], i % out.shape[1]
        out[row, column] = values[row, start + column] if start + column < values.shape[1] else 0


@cuda.jit
def rest(unit, stage1, norms, residual):
    """r = x - DeQuant_mse(idx), for the unit vector; 0 for the zero vector."""
    for i in range(cuda.grid(1), unit.size, cuda.gridsize(1)):
        row, column = i // unit.shape[1], i % unit.shape[1]
        residual[row, column] = unit[row, column] - stage1[row, column] if norms[row] > 0 else 0


@cuda.jit
def fill(norms, value, out):
    """`value` for every vector but the zero vector's 0."""
    for i in range(cuda.grid(1), norms.size, cuda.gridsize(1)):
        out[i] = value if norms[i] > 0 else 0


@cuda.jit
def pack(numbers, bits, data, start, refused):
    """Numbers of `bits` bits to the bytes of each row from `start` on, least significant bit first, a byte a thread."""
    n = numbers.shape[1]
    width = (n * bits + 7) // 8
    for at in range(cuda.grid(1), numbers.shape[0] * width, cuda.gridsize(1)):
        row, byte, value = at // width, at % width, 0
        for bit in range(8):
            j, k = (8 * byte + bit) // bits, (8 * byte + bit) % bits
            if j < n:
                number = int(numbers[row, j])
                if number >> bits > 0:
                    refused[0] = 1
                value |= ((number >> k) & 1) << bit
        data[row, start + byte] = value


@cuda.jit
def unpack(data, start, bits, numbers, refused):
    """The inverse of `pack`: a thread makes a number; refused[0] is set where a padding bit is 1."""
    n = numbers.shape[1]
    for at in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        row, j, value = at // n, at % n, 0
        for k in range(bits):
            bit = j * bits + k
            value |= ((int(data[row, start + bit // 8]) >> (bit % 8)) & 1) << k
        numbers[row, j] = value
        used = n * bits % 8
        if j == n - 1 and used > 0 and int(data[row, start + n * bits // 8]) >> used > 0:
            refused[0] = 1


@cuda.jit
def upper_plane(numbers, high):
    """Bit 2 of 3-bit numbers as `layout` orders it: bit 4 i + 2 j + p of a word for number 16 j + 2 i + p."""
    for at in range(cuda.grid(1), high.size, cuda.gridsize(1)):
        row, byte, value = at // high.shape[1], at % high.shape[1], 0
        for bit in range(8):
            place = 8 * (byte % 4) + bit
            number = 32 * (byte // 4) + 16 * (place // 2 % 2) + 2 * (place // 4) + place % 2
            value |= ((int(numbers[row, number]) >> 2) & 1) << bit
        high[row, byte] = value


@cuda.jit
def join_planes(codes, high, numbers):
    """3-bit numbers from their two planes, as `layout` orders them: a thread makes a number."""
    for at in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        row, j = at // numbers.shape[1], at % numbers.shape[1]
        low = (int(codes[row, j // 4]) >> (2 * (j % 4))) & 3
        place = 4 * (j % 16 // 2) + 2 * (j % 32 // 16) + j % 2
        numbers[row, j] = low | ((int(high[row, 4 * (j // 32) + place // 8]) >> (place % 8)) & 1) << 2


@cuda.jit
def lower_bits(numbers, bits, out):
    """The lowest `bits` bits of each number."""
    for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        out[i] = int(numbers[i]) & ((1 << bits) - 1)


@cuda.jit
def merge(indices, signs, bits, numbers):
    """The sign of each coordinate as the bit above its index."""
    for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        numbers[i] = int(indices[i]) | int(signs[i]) << bits
