"""Queries as operands of the tensor cores, made on the device: turned (and sketched), and cut into int8 planes.

A turned query becomes 16-bit fixed point, 256 hi + lo times a unit, its largest coordinate being 32,511 units; the
planes hi and lo are two columns of the B operand of ``mma`` m16n8k32, in the order in which a lane meets a key's
dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint32
from numba.cuda import types
from numpy.typing import NDArray

from . import ptx

LARGEST = 127 * 256 - 1
"""Units of the largest coordinate: hi and lo then fit in int8."""

THREADS = 512

SIGNATURE = (types.int64,) * 7 + (types.int32,) * 3 + (types.float32,) * 2
"""rows, matrices of the index's operand and of the sign's, places, operands, factors, sums; queries a kv head, of
a pass, passes; factors of both."""

_LOADS = {"float32": (ptx.load_f32, 4), "float16": (ptx.load_f16, 2), "bfloat16": (ptx.load_bf16, 2)}


def places(d: int, bits: int) -> NDArray[np.int32]:
    """Where each dimension of a query lies in a B operand: its byte, in (2 d / 32 words, 32 lanes), of column 0.

    Column g is 16 g bytes further. A lane reads a row of a key in chunks of at most 16 bytes, the four lanes of a quad
    side by side; of every 32-bit word it takes one number from each nibble at a time, 8 dimensions.
    """
    wide = 1 if bits == 4 else 2  # numbers in a nibble; of 3-bit numbers, of the lower plane
    chunk = min(d // (8 * wide), 16)
    where = np.empty(d, np.int32)
    for t in range(4):
        for s in range(d // 32):
            word, place = divmod(s, wide)
            part, within = divmod(4 * word, chunk)
            byte = 4 * chunk * part + chunk * t + within
            for nibble in range(8):
                r, i = divmod(nibble, 4)
                where[wide * (2 * byte + nibble) + place] = ((2 * s + r) * 32 + t) * 4 + i
    return where


def planes_kernel(d: int, kinds: int, groups: int, dtype: str, early: bool) -> tuple[Any, Any]:
    """The kernel for queries of `dtype`, and its signature; grid (queries of all kv heads, kinds).

    kinds, groups : operands of a pass, 1 or 2 with a sketch, and groups of 4 queries of each; `early`: the next kernel
    may start meanwhile.
    """
    load, size = _LOADS[dtype]
    across = d // 4  # threads of one row of the matrix
    parts = THREADS // across
    length, numbers, warps = d // parts, parts * d, d // 32
    operand = d // 16 * 128

    def kernel(rows, matrix, sketch, where, operands, factors, sums, live, a_pass, passes, factor, sign_factor):
        if early:
            ptx.grid_next()
        partial = cuda.shared.array(numbers, float32)
        tops = cuda.shared.array(8, float32)
        totals = cuda.shared.array(8, int32)
        thread, kind = int32(cuda.threadIdx.x), int32(cuda.blockIdx.y)
        row = int32(cuda.blockIdx.x)
        spot = ptx.fetch_i32(where + int64(thread % d) * 4)  # read here: where it is used all would wait for it
        column, part = int32(thread % across * 4), int32(thread // across)
        source = rows + (int64(row) * d + part * length) * size
        at = (matrix if kind == 0 else sketch) + (int64(part) * length * d + column) * 4
        y0, y1, y2, y3 = float32(0), float32(0), float32(0), float32(0)
        for k in range(length):
            m = ptx.load_f32x4(at + k * (4 * d))
            x = load(source + k * size)
            y0, y1, y2, y3 = y0 + x * m[0], y1 + x * m[1], y2 + x * m[2], y3 + x * m[3]
        to = uint32(ptx.shared_address(partial) + uint32((part * d + column) * 4))
        ptx.put_f32x4(to, (y0, y1, y2, y3))
        cuda.syncthreads()
        y = float32(0)
        if thread < d:
            for p in range(parts):
                y += partial[p * d + thread]
        top = abs(y)
        for lanes in (16, 8, 4, 2, 1):
            top = max(top, ptx.shuffle_xor_f32(top, uint32(lanes)))
        if thread < d and thread & 31 == 0:
            tops[thread >> 5] = top
        cuda.syncthreads()
        for w in range(warps):
            top = max(top, tops[w])
        z = ptx.round_s32(y * (float32(LARGEST) / top)) if top > 0 else int32(0)
        total = z
        for lanes in (16, 8, 4, 2, 1):
            total = int32(total + int32(ptx.shuffle_xor(uint32(total), uint32(lanes))))
        if thread < d and thread & 31 == 0:
            totals[thread >> 5] = total
        cuda.syncthreads()
        head = int32(row // live)
        number = int32(row - head * live)
        turn = int32(number // a_pass)
        place = int32(number - turn * a_pass)
        base = int64(head) * passes + turn
        if thread < d:
            low = int32(((z + 128) & 255) - 128)
            byte = spot + 32 * (place & 3)
            into = operands + ((base * kinds + kind) * groups + (place >> 2)) * operand + byte
            ptx.store_u8(into, uint32((z - low) >> 8))
            ptx.store_u8(into + 16, uint32(low))
        if thread == 0:
            unit = top / float32(LARGEST)
            ptx.store_f32(
                factors + ((base * 2 + kind) * 8 + place) * 4, unit * (factor if kind == 0 else sign_factor)
            )
            if kind == 1:
                total = int32(0)
                for w in range(warps):
                    total = int32(total + totals[w])
                ptx.store_u32(sums + (base * 8 + place) * 4, uint32(3 * total))

    return kernel, SIGNATURE
