"""The fast kernel of quantization: norm, structured rotation, nearest centroids and packed bits, in one pass over x.

One text for every d = m 2^k whose vector fits the registers of a warp (`quantize_plans.plan_of`). x is read once and
its codes are written once; everything between happens in registers, but for two exchanges through shared memory. After
the second, the next vectors are copied there while these are finished.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, int32, int64, uint32

from . import ptx
from . import quantize_programs as programs
from .quantize_norms import keeper, measured, scaler
from .quantize_plans import Plan, Variant, plane_pairs
from .registers import program

__all__ = ["kernel", "shared_bytes"]

U32, I64, F32 = ptx.U32, ptx.I64, ptx.F32
HELD = 16
"""Up to this many registers a lane, signs and planes stay in registers too."""


def kernel(variant: Variant) -> tuple[Any, tuple[Any, ...]]:
    """The kernel of a variant, and the types of its arguments: six addresses and the number of vectors."""
    plan, rounds, bits, in_planes = variant.plan, variant.rounds, variant.bits, variant.in_planes
    source = variant.source
    levels, pieces, rule, warps = variant.levels, variant.pieces, variant.rule, variant.warps
    count, d, vectors = plan.count, plan.d, plan.vectors
    outer, inner = plan.outer, plan.inner
    keys = plan.keys(outer)
    pairs = len(plane_pairs(plan)) if rounds == 2 else 0
    held = count <= HELD
    lanes = 1 << plan.lanes
    group = ptx.group
    itemsize = 4 if source == "float32" else 2
    row_bytes = d * (2 if in_planes else bits) // 8
    table = d + 4 * pairs * lanes + 16

    def load(o: Any, even: Any, odd: Any) -> list[Any]:
        x: list[Any] = []
        for i in range(0, count, 8):
            at = ((keys[i][0] << plan.k) + keys[i][1]) * itemsize
            if source == "float32":
                x += [*o.singles(even, 4, at), *o.singles(odd, 4, at)]
            else:
                for word in o.words(even, 4, at):
                    x += o.halves(word, source)
        return x

    def base_of(view: Any) -> Any:
        def base(o: Any, region: Any, lane: Any) -> Any:
            for q, flips in enumerate(plan.lane_words(view)):
                region = o.xor(region, o.and_(o.subtract(0, o.and_(o.right(lane, q), 1)), 4 * flips))
            return region

        return base

    def matrix(o: Any, matrices: list[Any], own: Any, j: int) -> list[Any]:
        return matrices[4 * j : 4 * j + 4] if held else o.singles(own, 4, 4 * d + 16 * lanes * j)

    def held_signs(o: Any, address: Any) -> list[Any]:
        return [s for g in range(count // 4) for s in o.singles(address, 4, 16 * lanes * g)]

    def held_planes(o: Any, address: Any) -> list[Any]:
        return [s for j in range(pairs) for s in o.singles(address, 4, 16 * lanes * j)]

    def turn(
        o: Any, x: list[Any], signs: list[Any], matrices: list[Any], own: Any, a: Any, b: Any, lane: Any
    ) -> list[Any]:
        """All of the rotation that needs shared memory: back in the outer view. `own`: this lane's signs and planes."""
        bases = {outer: a, inner: b}
        ways = {q: o.floats(o.or_(o.left(o.and_(o.right(lane, q), 1), 31), 0x3F800000)) for q in range(plan.lanes)}
        for g in range(0, count, 4):
            these = signs[g : g + 4] if held else o.singles(own, 4, 4 * lanes * g)
            x[g : g + 4] = programs.first_stage(o, plan, x[g : g + 4], these)
        for r in range(rounds):
            old, new = (inner, outer) if r else (outer, inner)
            for bit in old.registers:
                if r or bit:
                    x = programs.stage(o, plan, old, x, bit)
            for q in plan.shuffled(old):
                x = programs.lane_stage(o, x, q, ways[q])
            x = programs.exchange(o, plan, x, old, new, bases)
            if r == 0:
                x = rest(o, x, old, new)
            if r + 1 < rounds:
                x = programs.planes(o, plan, x, lambda j: matrix(o, matrices, own, j))
        return programs.exchange(o, plan, x, inner, outer, bases) if rounds == 1 else x

    def rest(o: Any, x: list[Any], old: Any, new: Any) -> list[Any]:
        """What follows an exchange in a round."""
        for bit in new.registers:
            if bit not in old.registers:
                x = programs.stage(o, plan, new, x, bit)
        return programs.mix(o, plan, levels, x)

    def finish(
        o: Any, x: list[Any], scale: Any, norm: Any, codes: Any, high: Any, lane: Any, centroids: Any
    ) -> tuple[Any, Any]:
        """The end of the last round, the cells, and their bits to global memory; what the scale needs."""
        if rounds == 2:
            x = rest(o, x, inner, outer)
        x = programs.level(o, plan, levels, x)
        slopes = [(o.fmul(scale, slope * variant.factor), offset, rise) for slope, offset, rise in pieces]
        numbers: list[Any] = []
        for i in range(0, count, 8):
            numbers += programs.cells(o, x[i : i + 8], slopes, bits)
            word = programs.nibbles(o, numbers[i : i + 8])
            word = o.if_zero(norm, 0x11111111 << bits - 1, word)
            low, upper = programs.streams(o, word, bits, in_planes)
            eighth = ((keys[i][0] << plan.k) + keys[i][1]) // 8
            width = 2 if in_planes else bits
            if width == 3:
                for byte in range(3):
                    o.store(codes, o.right(low, 8 * byte), 3 * eighth + byte, 1)
            else:
                o.store(codes, low, width * eighth, width)
            if in_planes:  # coordinate bit 4, lane bit 1, has the two bits beside these
                other = o.shuffle_xor_bits(upper, 2)
                both = o.or_(upper, o.left(other, 2))
                o.store_if(o.and_(lane, 2), high, both, 4 * (eighth // 4) + 2 * (eighth % 2), 2)
        return programs.sums(o, x, numbers, centroids, rule) if rule else (scale, norm)

    def fetch(o: Any, shared: Any, address: Any) -> None:
        for g in range(pieces_of_tile):
            o.copy_16(shared, address, 512 * g)

    pieces_of_tile, row_pieces = count * itemsize // 16, d * itemsize // 16
    fetch = program(fetch, ptx.types.void, U32, I64)
    load = program(load, group(F32, count), U32, U32)
    measure, keep = measured(count, plan.lanes), keeper(variant.scalars)
    scale_of = scaler(rule, variant.factor, plan.lanes)
    outer_base, inner_base = (program(base_of(view), U32, U32, U32) for view in (outer, inner))
    held_signs = program(held_signs, group(F32, count), U32)
    held_planes = program(held_planes, group(F32, max(4 * pairs, 1)) if pairs else F32, U32)
    some = group(F32, 4 * pairs) if pairs else group(F32, 1)
    turn = program(
        turn, group(F32, count), group(F32, count), group(F32, count if held else 1), some if held else group(F32, 1),
        U32, U32, U32, U32,
    )  # fmt: skip
    finish = program(finish, group(F32, 2), group(F32, count), F32, F32, I64, I64, U32, U32)
    coordinate = plan.lane_coordinates(outer)
    shifts = [int(coordinate[1 << q]) for q in range(plan.lanes)]

    def lane_coordinate(o: Any, lane: Any) -> Any:
        at = o.and_(lane, 0)
        for q, shift in enumerate(shifts):
            at = o.or_(at, o.left(o.and_(o.right(lane, q), 1), shift.bit_length() - 1))
        return at

    own_coordinate = program(lane_coordinate, U32, U32)

    @cuda.jit(device=True, inline="always")
    def fetch_rows(waiting, x_at, tile, lane, n):  # type: ignore[no-untyped-def]
        if (int64(tile) + 1) * vectors <= int64(n):
            fetch(waiting, x_at + int64(tile) * (512 * pieces_of_tile) + int64(lane) * 16)
        else:  # the last rows, the very last one for all that are missing
            for g in range(pieces_of_tile):
                piece = int64(g * 32) + int64(lane)
                row = min(int64(tile) * vectors + piece // row_pieces, int64(n) - 1)
                ptx.copy_16(uint32(waiting + uint32(512 * g)), x_at + (row * row_pieces + piece % row_pieces) * 16)
        ptx.copy_commit()

    def run(x_at, codes_at, high_at, scales_at, table_at, refused_at, n):  # type: ignore[no-untyped-def]
        shared = cuda.shared.array(0, float32)
        thread = int32(cuda.threadIdx.x)
        lane, warp = uint32(thread & 31), thread >> 5
        for i in range(thread, table, warps * 32):
            shared[i] = ptx.load_f32(table_at + int64(i) * 4)
        cuda.syncthreads()
        start = ptx.shared_address(shared)
        own = uint32(start + uint32(16) * uint32(lane & uint32(lanes - 1)))
        centroids = uint32(start + uint32(4 * table - 64))
        region = uint32(start + uint32(4 * table) + uint32(aligned - 1)) & uint32(0xFFFFFFFF & -aligned)
        region = uint32(region + uint32(warp) * uint32(128 * count))
        a, b = outer_base(region, lane), inner_base(region, lane)
        first = int64(own_coordinate(lane))
        if held:
            signs = held_signs(own)
            matrices = held_planes(uint32(own + uint32(4 * d))) if pairs else (float32(0),)
        else:
            signs = (float32(0),)
            matrices = (float32(0),)
        tile = int32(cuda.blockIdx.x) * int32(warps) + warp
        step = int32(cuda.gridDim.x) * int32(warps)
        tiles = int32((n + vectors - 1) // vectors)
        # the lowest bit of a 16-byte piece's number is flipped where bit 3 is set: reading them meets no bank twice
        waiting = uint32(region + uint32(16) * (lane ^ ((lane >> uint32(3)) & uint32(swizzled))))
        flipped = uint32(16) * ((uint32(first) >> uint32(5)) & uint32(swizzled))
        even = uint32(region + uint32(itemsize) * (uint32(lane >> uint32(plan_lanes)) * uint32(d) + uint32(first)))
        odd = uint32(even + uint32(16) - flipped)
        even = uint32(even + flipped)
        if tile < tiles:
            fetch_rows(waiting, x_at, tile, lane, n)
        while tile < tiles:
            row = min(int64(tile) * vectors + int64(lane >> uint32(plan_lanes)), int64(n) - 1)
            copied()
            cuda.syncwarp()
            x = load(even, odd)
            x, inverse, norm = measure(x)
            x = turn(x, signs, matrices, own, a, b, lane)
            cuda.syncwarp()
            if tile + step < tiles:  # these vectors have left the shared memory
                fetch_rows(waiting, x_at, tile + step, lane, n)
            at = (first >> 3) * width_of_8
            high_of = (first >> 5) * 4 + ((first >> 3) & 1) * 2
            sums = finish(x, inverse, norm, codes_at + row * row_bytes + at, high_at + row * (d // 8) + high_of,
                          lane, centroids)  # fmt: skip
            scale = scale_of(sums, inverse, norm)
            if (lane & uint32(lanes - 1)) == uint32(0):
                keep(scale, scales_at, row, refused_at)
            tile += step

    width_of_8 = 2 if in_planes else bits
    plan_lanes, aligned = plan.lanes, 128 << plan.r
    swizzled = int(source == "float32" and plan.lanes >= 3)
    copied = ptx.copy_wait[0]
    return run, (int64,) * 6 + (int32,)


def shared_bytes(plan: Plan, warps: int) -> int:
    """Dynamic shared memory of a block: signs, planes and centroids, and each warp's exchange, suitably aligned."""
    return 12 * plan.d + 64 + 128 * plan.count * warps + (128 << plan.r)
