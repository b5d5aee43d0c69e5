"""Decode attention straight from codes on the int8 tensor cores: one pass over keys and values, split over many blocks.

    prepare    turns the queries (Pi q, and S q for `prod` keys), makes 16-bit integers of them, and operands
    attend     a team of warps has some of the chunks of 64 keys of one sequence and key head; its warps take turns.
               A warp copies the next chunk's codes to shared memory while it computes this one's: `_decode_programs`
    combine    joins the teams' partial results, turns them back (Pi^T), and rounds them to the caller's dtype

Two teams fill a multiprocessor, as one block: of two blocks the older is served first, and the other is left to work
alone at the end.

The three are launched in a row, and can be captured in a CUDA graph: what they read and write is fixed by `Decoder`.

The error is that of 16-bit fixed point in queries, weights and both codebooks: below 1e-4 of the output's norm
against float64 from the same codes. The result does not depend on the launch's order of blocks.
"""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, int32, int64, uint32
from numba.cuda import types

from . import _decode_programs as programs
from . import ptx
from ._decode_programs import CHUNK, LOWEST, Side
from .machine import program

U32, I32, I64, F32 = ptx.U32, ptx.I32, ptx.I64, ptx.F32

ATTEND = (I64,) * 13 + (I32,) * 9
"""keys' planes (2), norms, residuals; values' planes (2), scales; operands, factors, codebooks, partial sums, their
tops and totals, block table, lengths; keys of a tile, tiles a sequence, heads, heads x row blocks, teams of each, teams
of all, queries, causal, window."""

TEAMS = 2
"""Of a block."""


def _plane_copier(row: int, region: int, page_shift: int) -> Any:
    """A device function that copies one chunk's rows of one plane to shared memory, a lane 16 bytes at a time."""
    pieces = region // 16
    rounds = -(-pieces // 32)
    some = pieces % 32 != 0
    size = 1 << max(page_shift, 0)

    @cuda.jit(device=True, forceinline=True)
    def copy(to, base, shift, table, c, n, lane, swizzled, heads, head):
        source = base + int64(c) * (CHUNK * row) + int64(16 * int32(lane))
        place = uint32(to + uint32(16) * swizzled)
        if CHUNK * (c + 1) + 16 <= n:
            for i in range(rounds):
                if not some or 32 * i + int32(lane) < pieces:
                    ptx.copy_16(uint32(place + uint32(512 * i)), source + 512 * i)
        else:
            left = int32((n - CHUNK * c) * row + int32(shift & uint32(15)) - 16 * int32(lane))
            for i in range(rounds):
                if not some or 32 * i + int32(lane) < pieces:
                    size = uint32(min(max(int32(left - 512 * i), int32(0)), int32(16)))  # of 0 bytes nothing is read
                    ptx.copy_some(uint32(place + uint32(512 * i)), source + 512 * i, size)

    @cuda.jit(device=True, forceinline=True)
    def copy_paged(to, base, shift, table, c, n, lane, swizzled, heads, head):
        # a piece of 16 bytes never leaves a page, which has a multiple of 16 rows
        for i in range(rounds):
            piece = int32(32 * i + int32(lane))
            if not some or piece < pieces:
                inside = int32(16 * piece)
                key = int32(c * CHUNK + inside // row)
                page = int64(ptx.load_i32(table + 4 * (min(key, n - 1) >> page_shift)))
                at = ((page * heads + head) * size + (key & (size - 1))) * row + inside % row
                ptx.copy_16(uint32(to + uint32(512 * i + 16 * int32(swizzled))), base + at)

    return copy_paged if page_shift >= 0 else copy


def _side_copier(side: Side, planes: bool, scalars: bool, page_shift: int) -> Any:
    """A device function that copies a chunk's planes, its scalars, or both."""
    n_planes, offsets = len(side.planes), side.offsets
    each = [_plane_copier(row, b - a, page_shift) for row, a, b in zip(side.rows, offsets, offsets[1:], strict=False)]
    first, second, scales = each[0], each[1], each[n_planes]
    at_second, at_scales, at_residuals = offsets[1], offsets[n_planes], offsets[n_planes + 1]
    two, residuals = n_planes == 2, side.residuals

    @cuda.jit(device=True, forceinline=True)
    def copy(to, bases, at, table, c, n, lane, swizzled, heads, head):
        if planes:
            first(to, bases[0], at[0], table, c, n, lane, swizzled, heads, head)
            if two:
                second(uint32(to + uint32(at_second)), bases[1], at[1], table, c, n, lane, lane, heads, head)
        if scalars:
            scales(uint32(to + uint32(at_scales)), bases[2], at[2], table, c, n, lane, lane, heads, head)
            if residuals:
                scales(uint32(to + uint32(at_residuals)), bases[3], at[3], table, c, n, lane, lane, heads, head)

    return copy


def _locator(side: Side, page_shift: int) -> Any:
    """A device function: from a side's arrays, aligned addresses of a head's planes, and where they go in shared
    memory.

    A shared address has the last 4 bits of the global one.
    """
    paged, scalar = page_shift >= 0, side.rows[-1]
    rows = (side.rows[0], side.rows[1] if side.bits == 3 else 0, scalar, scalar if side.residuals else 0)
    r0, r1, r2, r3 = rows
    o = side.offsets
    n = len(side.planes)
    o1, o2, o3 = o[1], o[n], o[n + 1]

    @cuda.jit(device=True, forceinline=True)
    def locate(p0, p1, p2, p3, shared, tile):
        if paged:
            at = (uint32(shared), uint32(shared + uint32(o1)), uint32(shared + uint32(o2)), uint32(shared + uint32(o3)))
            return (p0, p1, p2, p3), at
        a0, a1, a2, a3 = p0 + tile * r0, p1 + tile * r1, p2 + tile * r2, p3 + tile * r3
        m1, m2, m3 = a1 & 15, a2 & 15, a3 & 15
        at = (
            uint32(shared),
            uint32(shared + uint32(o1 + m1)),
            uint32(shared + uint32(o2 + m2)),
            uint32(shared + uint32(o3 + m3)),
        )
        return (a0, a1 - m1, a2 - m2, a3 - m3), at

    return locate


def shared_bytes(keys: Side, values: Side, columns: int, warps: int) -> int:
    """Shared memory of a team of `warps`: their chunks, or what they merge at the end; a multiple of 16."""
    chunks = warps * (keys.offsets[-1] + values.offsets[-1])
    return -(-max(chunks, warps * 4 * columns * 4 * shared_row(values.d)) // 16) * 16


def shared_row(d: int) -> int:
    """Floats of a query's partial result in shared memory."""
    return d + 40


def attend_kernel(
    keys: Side, values: Side, columns: int, warps: int, page_shift: int = -1, overlap: bool = False
) -> tuple[Any, Any]:
    """The kernel and its signature, for 4 `columns` query rows a team of `warps`; grid (teams / TEAMS).

    page_shift : log2 of the keys of a page; -1 if each sequence's keys are contiguous.
    overlap : begin while `prepare` still runs, and let `combine` begin: compute capability 9.0.
    """
    d, rows, row_floats = values.d, 4 * columns, values.d + 4
    # a row in shared memory: a gap after each lane's coordinates, then top and total, so that 32 lanes meet 32 banks
    part, row_shared = d // 8 + 1, shared_row(d)
    team_bytes = shared_bytes(keys, values, columns, warps)
    key_bytes, warp_bytes = keys.offsets[-1], keys.offsets[-1] + values.offsets[-1]
    swizzle, reload = values.swizzle, columns * d > 128
    k_planes, v_planes, has_residuals = len(keys.planes), len(values.planes), keys.residuals
    locate_keys, locate_values = _locator(keys, page_shift), _locator(values, page_shift)
    copy_values = _side_copier(values, True, False, page_shift)
    # half of the lanes copy the scalars of the keys, the others those of the values, where each half has enough
    together = keys.half and values.half and not keys.residuals and page_shift < 0
    copy_keys = _side_copier(keys, True, not together, page_shift)
    copy_scales = _plane_copier(2, 16 * 9, page_shift)
    copy_value_scales = _side_copier(values, False, True, page_shift)
    k_scales_at, v_scales_at = keys.offsets[k_planes], values.offsets[v_planes]

    n_query = columns * (d // 16) * (2 if keys.prod else 1)
    n_factor = columns * (3 if keys.prod else 1)
    n_key_table, n_value_table, n_sums = keys.tables, values.tables, columns * d // 8
    n_state, n_scores, state_width = 8 * columns, 8 * columns, 8

    def k_regions(at):
        return [at[i] for i in ([0, 1] if k_planes == 2 else [0])] + [at[2]] + ([at[3]] if has_residuals else [])

    def v_regions(at):
        return [at[i] for i in ([0, 1] if v_planes == 2 else [0])] + [at[2]]

    def load(n, stride, constant):
        def words(o, address):
            return [o.global_word(address, stride * i, constant) for i in range(n)]

        return program(words, ptx.group(U32, n), I64)

    def load_factors_(o, address):
        return [o.float_of(o.global_word(address, 16 * i, False)) for i in range(n_factor)]

    load_query, load_factors = load(n_query, 128, False), program(load_factors_, ptx.group(F32, n_factor), I64)
    # where registers are short the tables are read again at each step, from the nearest cache
    load_key_table, load_value_table = load(n_key_table, 128, not reload), load(n_value_table, 128, not reload)

    def scores_(o, at, lane, query, table, factors):
        return programs.scores(o, keys, k_regions(at), lane, query, table, factors)

    def hide_scores_(o, s, key, first, last):
        out = []
        for c in range(columns):
            out += programs.hide(o, s[8 * c : 8 * c + 8], key, first[c], last[c], LOWEST * 1e8)
        return out

    def hide_scales_(o, x, key, n):
        return programs.hide(o, x, key, o._u(0), n, 0.0)

    def weights_(o, lane, s, scales, state):
        out = []
        for c in range(columns):
            top, total = o.float_of(state[state_width * c]), o.float_of(state[state_width * c + 1])
            w = programs.weights(o, lane, s[8 * c : 8 * c + 8], scales, top, total)
            out += [*map(o.bits_of, w[:4]), *w[4:]]
        return out

    def sums_(o, at, lane, table, state, before):
        part = [state[state_width * c : state_width * (c + 1)] for c in range(columns)]
        shrink, unit = [o.float_of(p[2]) for p in part], [o.float_of(p[3]) for p in part]
        return programs.sums(o, values, v_regions(at), lane, table, [p[4:] for p in part], shrink, unit, before)

    def begin_(o):
        return [o.bits_of(LOWEST if i % state_width == 0 else 0.0) for i in range(n_state)]

    def end_(o, state):
        out = []
        for c in range(columns):
            total = o.float_of(state[state_width * c + 1])
            for lanes in (4, 8, 16):
                total = o.fadd(total, o.shuffle_xor(total, lanes))
            out += [o.float_of(state[state_width * c]), total]
        return out

    dimensions = programs.value_dimensions(values)

    def spill_(o, address, x):
        for c in range(columns):
            for m, at in enumerate(dimensions):
                o.put(address, x[c * len(dimensions) + m], 4 * (4 * c * row_shared + at))

    def spill_state_(o, address, x):
        for c in range(columns):
            for i in range(2):
                o.put(address, x[2 * c + i], 4 * (4 * c * row_shared + 8 * part + i))

    wait_all, wait_all_but_one = ptx.copy_wait[0], ptx.copy_wait[1]
    f32, u32, i32 = (lambda n: ptx.group(F32, n)), (lambda n: ptx.group(U32, n)), (lambda n: ptx.group(I32, n))
    scores = program(scores_, f32(n_scores), u32(4), U32, u32(n_query), u32(n_key_table), f32(n_factor))
    value_scales = program(
        lambda o, at, lane: programs.value_scales(o, values, v_regions(at), lane), f32(8), u32(4), U32
    )
    hide_scores = program(hide_scores_, f32(n_scores), f32(n_scores), I32, i32(columns), i32(columns))
    hide_scales = program(hide_scales_, f32(8), f32(8), I32, I32)
    weights = program(weights_, u32(n_state), U32, f32(n_scores), f32(8), u32(n_state))
    sums = program(sums_, f32(n_sums), u32(4), U32, u32(n_value_table), u32(n_state), f32(n_sums))
    begin = program(begin_, u32(n_state))
    nothing = program(lambda o: [o._f(0.0)] * n_sums, f32(n_sums))
    end = program(end_, f32(2 * columns), u32(n_state))
    spill = program(spill_, types.void, U32, f32(n_sums))
    spill_state = program(spill_state_, types.void, U32, f32(2 * columns))
    # of 32 bits: those of 64 are calls
    quotient = program(lambda o, a, b: o.quotient(a, b), U32, U32, U32)
    remainder = program(lambda o, a, b: o.remainder(a, b), U32, U32, U32)
    extents = program(lambda o, a, b: [a, b][:columns], i32(columns), I32, I32)

    @cuda.jit(device=True, forceinline=True)
    def seen(row, n, n_queries, causal, window):
        position = int32(n - n_queries + int32(remainder(uint32(row), uint32(n_queries))))
        first = int32(max(position - window + 1, int32(0)))
        return first, int32(min(position + 1, n) if causal else n)

    def kernel(
        k0, k1, kn, kr, v0, v1, vn, operands, factors, codebooks, partial, table, lengths,
        capacity, pages, heads, groups, splits, teams, n_queries, causal, window,
    ):  # fmt: skip
        lane = uint32(cuda.threadIdx.x & 31)
        team = int32(quotient(uint32(cuda.threadIdx.x), uint32(32 * warps)))
        thread = int32(int32(cuda.threadIdx.x) - team * int32(32 * warps))
        warp = int32(thread >> 5)
        which = int32(int32(cuda.blockIdx.x) * int32(TEAMS) + team)
        if which >= teams:
            return
        group = int32(quotient(uint32(which), uint32(splits)))
        sequence = int32(quotient(uint32(group), uint32(groups)))
        split, hy = int32(which - group * splits), int32(group - sequence * groups)
        blocks = int32(quotient(uint32(groups), uint32(heads)))
        head = int32(quotient(uint32(hy), uint32(blocks)))
        n = ptx.load_i32(lengths + 4 * sequence) if lengths != 0 else capacity
        start = int32(max(n - n_queries - window + 1, 0) // CHUNK)
        stop = int32((n + CHUNK - 1) // CHUNK)
        live = int32(min(splits, stop - start))
        if split >= live:
            return
        per = int32(quotient(uint32(stop - start), uint32(live)))
        more = int32(stop - start - per * live)  # of the teams have one chunk more
        c = int32(start + split * per + min(split, more) + warp)
        last = int32(start + (split + 1) * per + min(split + 1, more))
        team_shared = uint32(ptx.shared_address(cuda.shared.array(0, uint32)) + uint32(team * team_bytes))
        to_k = uint32(team_shared + uint32(warp * warp_bytes))
        to_v = uint32(to_k + uint32(key_bytes))
        tile = (int64(sequence) * heads + head) * capacity
        here = table + 4 * int64(sequence) * pages
        k_from, k_at = locate_keys(k0, k1, kn, kr, to_k, tile)
        v_from, v_at = locate_values(v0, v1, vn, vn, to_v, tile)

        g, t = lane >> 2, lane & 3
        swizzled = lane
        if swizzle == 1:
            swizzled = lane ^ ((lane >> 3 & 1) << 1)
        if swizzle == 2:
            swizzled = lane ^ ((lane >> 3 & 3) << 1)

        first_half = lane < 16
        scales_from = k_from[2] if first_half else v_from[2]
        scales_at = k_at[2] if first_half else v_at[2]
        scales_to = uint32(to_k + uint32(k_scales_at)) if first_half else uint32(to_v + uint32(v_scales_at))
        of_half = lane & 15

        # the first copies start before anything else is read: everything else is small
        if c < last:
            copy_keys(to_k, k_from, k_at, here, c, n, lane, lane, heads, head)
            if together:
                copy_scales(scales_to, scales_from, scales_at, here, c, n, of_half, of_half, heads, head)
            else:
                copy_value_scales(to_v, v_from, v_at, here, c, n, lane, lane, heads, head)
        ptx.copy_commit()
        if c < last:
            copy_values(to_v, v_from, v_at, here, c, n, lane, swizzled, heads, head)
        ptx.copy_commit()

        key_table = load_key_table(codebooks + int64(lane) * 4)
        value_table = load_value_table(codebooks + int64(lane) * 4 + 1024)
        if overlap:
            ptx.grid_next()
            ptx.grid_wait()

        query = load_query(operands + (int64(group) * (32 * n_query) + int64(lane)) * 4)
        factor = load_factors(factors + (int64(group) * (4 * n_factor) + int64(t)) * 4)
        hidden = int32(n_queries - 1) if causal else int32(0)  # of the last keys, from some queries
        state, total = begin(), nothing()
        while c < last:
            wait_all_but_one()
            cuda.syncwarp()
            if reload:
                query = load_query(operands + (int64(group) * (32 * n_query) + int64(lane)) * 4)
                key_table = load_key_table(codebooks + int64(lane) * 4)
            s = scores(k_at, lane, query, key_table, factor)
            scales = value_scales(v_at, lane)
            cuda.syncwarp()
            following = int32(c + warps)
            if following < last:
                copy_keys(to_k, k_from, k_at, here, following, n, lane, lane, heads, head)
                if together:
                    copy_scales(scales_to, scales_from, scales_at, here, following, n, of_half, of_half, heads, head)
                else:
                    copy_value_scales(to_v, v_from, v_at, here, following, n, lane, lane, heads, head)
            ptx.copy_commit()
            if CHUNK * (c + 1) > n - hidden or CHUNK * c + window < n:
                row = int32(int32(remainder(uint32(hy), uint32(blocks))) * rows + int32(t))
                first0, last0 = seen(row, n, n_queries, causal, window)
                first1, last1 = seen(int32(row + 4), n, n_queries, causal, window)
                firsts, lasts = extents(first0, first1), extents(last0, last1)
                key = int32(CHUNK * c + int32(g))
                s = hide_scores(s, key, firsts, lasts)
                scales = hide_scales(scales, key, n)
            state = weights(lane, s, scales, state)
            wait_all_but_one()
            cuda.syncwarp()
            if reload:
                value_table = load_value_table(codebooks + int64(lane) * 4 + 1024)
            total = sums(v_at, lane, value_table, state, total)
            cuda.syncwarp()
            if following < last:
                copy_values(to_v, v_from, v_at, here, following, n, lane, swizzled, heads, head)
            ptx.copy_commit()
            c = following

        # the warps' parts become one, in the room of the chunks
        tops = end(state)
        wait_all()
        ptx.team_barrier(uint32(team + 1), uint32(32 * warps))
        mine = uint32(team_shared + (uint32(warp * rows) + t) * uint32(4 * row_shared))
        spill(uint32(mine + g * uint32(4 * part)), total)
        if g == 0:
            spill_state(mine, tops)
        ptx.team_barrier(uint32(team + 1), uint32(32 * warps))
        parts = cuda.shared.array(0, float32)
        out = partial + int64(which) * (4 * rows * row_floats)
        i = thread
        while i < rows * d:
            q, x = i // d, i % d
            at = int32(team * int32(team_bytes // 4) + q * row_shared)
            of_top, of_x = at + 8 * part, at + x + x // (d // 8)
            top = float32(LOWEST)
            for w in range(warps):
                top = max(top, parts[w * rows * row_shared + of_top])
            whole, value = float32(0), float32(0)
            for w in range(warps):
                e = ptx.exp2(parts[w * rows * row_shared + of_top] - top)
                whole += e * parts[w * rows * row_shared + of_top + 1]
                value += e * parts[w * rows * row_shared + of_x]
            to = out + 4 * (q * row_floats)
            ptx.store_f32(to + 4 * x, value)
            if x == 0:
                ptx.store_f32(to + 4 * d, top)
                ptx.store_f32(to + 4 * d + 4, whole)
            i += 32 * warps

    return kernel, ATTEND
