"""`quantize_wide` for the dimensions whose chunks are too short for it, such as 200 = 25 x 8: the fast kernel, narrow.

A lane holds two positions or a few of every chunk, so that the butterflies across the many chunks are in registers;
those of the short chunks are shuffles. Rows are copied to shared memory while the warp works on the rows before, and
leave it as bytes, which the lanes then pack side by side.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, int32, int64, uint32

from . import ptx
from . import quantize_programs as programs
from .quantize_norms import F32, U32, keeper, measured, scaler
from .quantize_plans import Narrow, Variant
from .registers import program

__all__ = ["kernel", "shared_bytes"]


def shared_bytes(plan: Narrow, warps: int) -> int:
    """Dynamic shared memory of a block: signs, planes, and of each warp two tiles of rows and one of codes."""
    return 4 * _table(plan) + warps * (8 * plan.vectors * plan.row + plan.vectors * plan.d)


def _table(plan: Narrow) -> int:
    return (4 * -(-plan.count // 4) << plan.lanes) + 2 * plan.d + 16


def kernel(variant: Variant) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of a variant, and the types of its arguments: six addresses and the number of vectors."""
    assert isinstance(variant.plan, Narrow)
    assert (variant.source, variant.in_planes) == ("float32", False)
    plan, rounds, bits, rule, warps = variant.plan, variant.rounds, variant.bits, variant.rule, variant.warps
    count, d, vectors, view, row_words = plan.count, plan.d, plan.vectors, plan.inner, plan.row
    lanes, plan_lanes = 1 << plan.lanes, plan.lanes
    keys = plan.keys(view)
    table, planes_at = _table(plan), 16 * -(-count // 4) * lanes
    group = ptx.group
    quarter, eighth = d // 4, d // 8
    tile_bytes = 4 * vectors * row_words

    def load(o: Any, address: Any) -> list[Any]:
        return [o.singles(address, 1, 4 * ((c << plan.k) + p))[0] for c, p in keys]

    def body(
        o: Any, x: list[Any], own: Any, scale: Any, norm: Any, bytes_at: Any, lane: Any, centroids: Any
    ) -> tuple[Any, Any]:
        """Rotate, find the cells and put them down as bytes; what the scale needs."""
        ways = [o.floats(o.or_(o.left(o.and_(o.right(lane, q), 1), 31), 0x3F800000)) for q in range(plan.lanes)]
        for g in range(0, count, 4):
            signs = o.singles(own, 4, 4 * lanes * g)
            x[g : g + 4] = programs.first_stage(o, plan, x[g : g + 4], signs)
        for r in range(rounds):
            for bit in view.registers:
                if r or bit != view.registers[0]:
                    x = programs.stage(o, plan, view, x, bit)
            for q, way in enumerate(ways):
                x = programs.lane_stage(o, x, q, way)
            x = programs.mix(o, plan, variant.levels, x)
            if r + 1 < rounds:
                x = programs.planes(o, plan, x, lambda j: o.singles(own, 4, planes_at + 16 * lanes * j))
        x = programs.level(o, plan, variant.levels, x)
        slopes = [(o.fmul(scale, slope * variant.factor), offset, rise) for slope, offset, rise in variant.pieces]
        numbers = programs.cells(o, x, slopes, bits)
        for number, (c, p) in zip(numbers, keys, strict=True):
            o.put_byte(bytes_at, o.if_zero(norm, 1 << bits - 1, o.and_(number, 15)), (c << plan.k) + p)
        return programs.sums(o, x, numbers, centroids, rule) if rule else (scale, norm)

    def packed(o: Any, address: Any) -> Any:
        """8 bytes of shared memory as 8 * bits bits."""
        low, high = o.words(address, 2)
        halves = [programs.squeezed(o, w, 0x0F0F0F0F, ((4, 0x00FF00FF), (8, 0xFFFF))) for w in (low, high)]
        return programs.streams(o, o.or_(halves[0], o.left(halves[1], 16)), bits, False)[0]

    load = program(load, group(F32, count), U32)
    finish = program(body, group(F32, 2), group(F32, count), U32, F32, F32, U32, U32, U32)
    packed = program(packed, U32, U32)
    measure, keep = measured(count, plan.lanes), keeper(variant.scalars)
    scale_of = scaler(rule, variant.factor, plan.lanes)

    def run(x_at, codes_at, high_at, scales_at, table_at, refused_at, n):  # type: ignore[no-untyped-def]
        shared = cuda.shared.array(0, float32)
        thread = int32(cuda.threadIdx.x)
        lane, warp = uint32(thread & 31), thread >> 5
        base = ptx.shared_address(shared)
        for i in range(thread, table, warps * 32):
            shared[i] = ptx.load_f32(table_at + int64(i) * 4)
        cuda.syncthreads()
        position, vector = uint32(lane & uint32(lanes - 1)), uint32(lane >> uint32(plan_lanes))
        own = uint32(base + uint32(16) * position)
        centroids = uint32(base + uint32(4 * table - 64))
        tiles_at = uint32(base + uint32(4 * table) + uint32(warp) * uint32(2 * tile_bytes))
        bytes_at = uint32(base + uint32(4 * table + 2 * tile_bytes * warps) + uint32(warp) * uint32(vectors * d))
        own_row = uint32(uint32(4) * (vector * uint32(row_words) + position))
        own_bytes = uint32(bytes_at + vector * uint32(d) + position)
        tile = int32(cuda.blockIdx.x) * int32(warps) + warp
        step = int32(cuda.gridDim.x) * int32(warps)
        tiles = int32((n + vectors - 1) // vectors)
        half = int32(0)
        if tile < tiles:
            for i in range(int32(lane), vectors * quarter, 32):
                row, place = i // quarter, i % quarter
                from_at = min(int64(tile) * vectors + row, int64(n) - 1) * d + 4 * place
                ptx.copy_16(uint32(tiles_at + uint32(4) * uint32(row * row_words + 4 * place)), x_at + 4 * from_at)
        ptx.copy_commit()
        while tile < tiles:
            following = tile + step
            if following < tiles:
                other = uint32(tiles_at + uint32((1 - half) * tile_bytes))
                for i in range(int32(lane), vectors * quarter, 32):
                    row, place = i // quarter, i % quarter
                    from_at = min(int64(following) * vectors + row, int64(n) - 1) * d + 4 * place
                    ptx.copy_16(uint32(other + uint32(4) * uint32(row * row_words + 4 * place)), x_at + 4 * from_at)
            ptx.copy_commit()
            copies_but_one()
            cuda.syncwarp()
            x = load(uint32(tiles_at + uint32(half * tile_bytes) + own_row))
            x, inverse, norm = measure(x)
            first = int64(tile) * vectors
            row = min(first + int64(vector), int64(n) - 1)
            sums = finish(x, own, inverse, norm, own_bytes, lane, centroids)
            scale = scale_of(sums, inverse, norm)
            if position == uint32(0):
                keep(scale, scales_at, row, refused_at)
            cuda.syncwarp()
            words = int32(min(int64(vectors), int64(n) - first)) * eighth
            for i in range(int32(lane), words, 32):
                word = packed(uint32(bytes_at + uint32(8 * i)))
                to = codes_at + (first * eighth + i) * bits
                if bits == 4:
                    ptx.store_u32(to, word)
                elif bits == 2:
                    ptx.store_u16(to, word)
                else:
                    for byte in range(bits):
                        ptx.store_u8(to + byte, uint32(word >> uint32(8 * byte)))
            cuda.syncwarp()
            half = int32(1 - half)
            tile = int32(following)

    copies_but_one = ptx.copy_wait[1]
    return run, (int64,) * 6 + (int32,)
