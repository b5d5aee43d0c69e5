"""Logits from packed keys on the int8 tensor cores.

The product of 16 keys and the query, 32 dimensions at a time, is one instruction, ``mma`` m16n8k32: A (16, 32) is
decoded keys, B (32, 8) is queries. Both are 16-bit fixed point as two int8 planes, 256 hi + lo:

query     rotated, times 2^15 over its largest coordinate; its planes are two of the 8 columns of B, so 4 queries share
          one instruction, and a single query has 4 x 16 keys share one set of accumulators, in two columns each;
codebook  two tables of 8 bytes a plane. ``prmt`` looks up 4 at a time, by the lower 3 bits of each nibble; where the
          fourth is set it gives the sign of the byte instead (0 or -1). So a 16-entry table is the sum of two
          lookups, of w and of w with the fourth bits flipped, with each entry corrected by the other's sign.

Sums of products of int8 are exact, so a logit does not depend on the order, the launch or the neighbours. Its error is
that of the fixed point: at most 2^-16 of the largest coordinate, in each coordinate of query and codebook.

The fourth bit may also be the sign of `prod`: then one more lookup, in a table of -2, gives -1 where it is set.

A warp takes `keys` keys at a time. Copies of `stages` such tiles are under way while one is computed.
"""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32, int32, int64, uint32
from numba.cuda import types

from . import ptx
from .machine import program

U32, I32, I64, F32 = ptx.U32, ptx.I32, ptx.I64, ptx.F32
MINUS_TWO = 0xFEFEFEFE


def _selectors(o: Any, bits: int, merged: bool, word: Any, upper: Any, place: int, k: int) -> tuple[Any, Any]:
    """Nibbles that select index bytes, and nibbles whose top bit is the sign (or, of 4-bit indices, the other half).

    `place` is the position of the numbers in their nibbles, k their position in the nibbles of the upper plane.
    """
    if bits == 4:
        return (o.and_(word, 0x77777777), word) if merged else (word, o.xor(word, 0x88888888))
    if bits == 3:
        index = o.and_(o.right(word, 2 * place), 0x33333333)
        if merged:
            return index, o.left(upper, 3 - k)
        bit = o.left(upper, 2 - k) if k < 3 else o.right(upper, 1)
        return o.or_(index, o.and_(bit, 0x44444444)), None
    index = o.and_(o.right(word, 2 * place), 0x11111111 if merged else 0x33333333)
    return index, o.left(word, 2 - 2 * place) if merged else None


def _lookup(o: Any, table: list[Any], selectors: list[Any]) -> list[Any]:
    """The A operand: bytes of the rows g and g + 8, then the same for the other 16 dimensions."""
    wide = [*selectors, *(o.right(s, 16) for s in selectors)]
    return [o.permute(table[0], table[1], s) for s in wide]


def dots(
    o: Any, d: int, bits: int, merged: bool, rows: list[Any], uppers: list[Any], table: list[Any],
    groups: list[list[Any]], signs: list[list[Any]], totals: list[list[Any]]
) -> list[list[Any]]:  # fmt: skip
    """Add the products of 16 keys and one or two groups of queries to `totals`.

    Parameters
    ----------
    rows : 2 lists of d * min(bits, …) / 128 words
        This lane's quarter of the rows g and g + 8.
    uppers : 2 lists of words of the upper plane, of 3-bit numbers
    table : words
        Codebook: 8 bytes (16 of 4-bit indices) of the high plane, then of the low one; then, if merged, `MINUS_TWO`.
    groups, signs : lists of d / 16 words
        B operands of the queries for the index, and of the sketched queries for the sign.
    totals : for each group, accumulators of the high plane and of the low one, then for each group of the signs
    """
    for s in range(d // 32):
        word, place = divmod(s, 1 if bits == 4 else 2)
        group, k = divmod(s, 4)
        pairs = [
            _selectors(o, bits, merged, rows[r][word], uppers[r][group] if uppers else None, place, k) for r in (0, 1)
        ]
        halves = [0, 2] if bits == 4 and not merged else [0]
        for plane in (0, 1):
            for half in halves:
                a = _lookup(o, table[len(halves) * 2 * plane + half :], [pair[half // 2] for pair in pairs])
                for i, b in enumerate(groups):
                    totals[2 * i + plane] = o.mma_s8(a, b[2 * s : 2 * s + 2], totals[2 * i + plane])
        if merged:
            a = _lookup(o, [table[4]] * 2, [pair[1] for pair in pairs])
            for i, b in enumerate(signs):
                at = 2 * len(groups) + i
                totals[at] = o.mma_s8(a, b[2 * s : 2 * s + 2], totals[at])
    return totals


def _scores(o: Any, high: list[Any], low: list[Any], factor: Any, scales: list[Any]) -> list[Any]:
    """Two logits from accumulators: 256 (256 hi hi + hi lo) + (256 lo hi + lo lo), over 256, times the factors."""
    both = []
    for r in (0, 1):
        upper = o.add(o.left(high[2 * r], 8), high[2 * r + 1])
        lower = o.right_signed(o.add(o.left(low[2 * r], 8), low[2 * r + 1]), 8)
        both.append(o.fmul(o.float_(o.add(upper, lower)), o.fmul(factor, scales[r])))
    return both


def _sketched(o: Any, ones: list[Any], total: Any, factor: Any, residuals: list[Any]) -> list[Any]:
    """The sign's part: bytes are -1 for s = 1 and -2 for s = -1, so sum s z = 2 sum byte z + 3 sum z, exact."""
    both = []
    for r in (0, 1):
        twice = o.add(o.left(ones[2 * r], 9), o.left(ones[2 * r + 1], 1))
        both.append(o.fmul(o.float_(o.add(twice, total)), o.fmul(factor, residuals[r])))
    return both


class Shape:
    """What a logits kernel is a function of.

    Parameters
    ----------
    d, bits, merged
        Of the form of the keys: d is 64, 128 or 256, bits 2, 3 or 4.
    queries : int
        1, 2, 4 or 8 a pass.
    keys : int
        Of one tile: 64 or a multiple.
    stages : int
        Tiles in shared memory, one of them being computed; at least 2.
    warps : int
        Of a block.
    half_scales, half_out : bool
        float16 side scalars, float16 logits.
    residual : bool
        Whether residual norms are stored.
    page : int
        Keys of a page, a power of two from 16 on; 0 if the keys are contiguous.
    early : bool
        The kernel is launched before the one that makes the queries has ended.
    """

    def __init__(
        self, d: int, bits: int, merged: bool, queries: int, keys: int, stages: int, warps: int,
        half_scales: bool = True, half_out: bool = False, residual: bool = False, page: int = 0,
        early: bool = False,
    ) -> None:  # fmt: skip
        self.d, self.bits, self.merged, self.queries = d, bits, merged, queries
        self.keys, self.stages, self.warps, self.page, self.early = keys, stages, warps, page, early
        self.half_scales, self.half_out, self.residual = half_scales, half_out, residual
        self.row = d // (2 if bits == 4 else 4)
        self.row_high = d // 8 if bits == 3 else 0
        self.groups = 2 if queries == 8 else 1
        self.columns = min(queries, 4)  # queries of a group, two columns each
        self.subtiles = 4 // self.columns  # 16-key tiles that share accumulators
        self.sets = keys // (16 * self.subtiles)
        self.words = d // 16  # B words of a group
        self.table = (4 if bits - merged < 4 else 8) + merged  # words of a codebook
        self.tile = keys * (self.row + self.row_high)
        self.shared = warps * stages * self.tile

    @property
    def chunk(self) -> int:
        """Bytes of a row that a lane reads at once; the quad reads 4 of them side by side."""
        return min(self.row // 4, 16)


def tile_program(x: Shape) -> Any:
    """The program of one tile: keys in shared memory to logits, 2 a lane for each 16 keys and column pair."""

    def rows_at(o: Any, address: Any, key: int) -> list[list[Any]]:
        n, parts = x.chunk // 4, range(0, x.row, 4 * x.chunk)
        return [[w for at in parts for w in o.words(address, n, (key + r) * x.row + at)] for r in (0, 8)]

    def uppers_at(o: Any, address: Any, turn: Any, key: int) -> list[list[Any]]:
        out = [o.words(address, max(x.d // 128, 1), (key + r) * x.row_high) for r in (0, 8)]
        # at d = 64 a quarter of a row is half a word of the upper plane: lanes with odd t turn theirs in place
        return [[o.right(w, turn) for w in words] for words in out] if x.d == 64 else out

    def tile(o: Any, address: Any, upper: Any, turn: Any, query: Any, sketch: Any, masks: Any, table: Any,
             factors: Any, sums: Any, scales: Any, residuals: Any) -> list[Any]:  # fmt: skip
        groups = [query[i * x.words : (i + 1) * x.words] for i in range(x.groups)]
        signs = [sketch[i * x.words : (i + 1) * x.words] for i in range(x.groups)] if x.merged else []
        out: list[Any] = []
        for n in range(x.sets):
            totals = [[0, 0, 0, 0] for _ in range((3 if x.merged else 2) * x.groups)]
            for u in range(x.subtiles):
                key = 16 * (n * x.subtiles + u)
                rows = rows_at(o, address, key)
                uppers = uppers_at(o, upper, turn, key) if x.bits == 3 else []
                mine, ours = groups, signs
                if x.subtiles > 1:
                    mine = [[o.and_(w, masks[u]) for w in b] for b in groups]
                    ours = [[o.and_(w, masks[u]) for w in b] for b in signs]
                totals = dots(o, x.d, x.bits, x.merged, rows, uppers, table, mine, ours, totals)
            here = scales[2 * n : 2 * n + 2]
            rest = residuals[2 * n : 2 * n + 2]
            for i in range(x.groups):
                both = _scores(o, totals[2 * i], totals[2 * i + 1], factors[i], here)
                if x.merged:
                    norms = [o.fmul(a, b) for a, b in zip(here, rest, strict=True)] if x.residual else here
                    more = _sketched(o, totals[2 * x.groups + i], sums[i], factors[x.groups + i], norms)
                    both = [o.fadd(a, b) for a, b in zip(both, more, strict=True)]
                out += both
        return out

    return tile


SIGNATURE = (types.int64,) * 11 + (types.int32,) * 4
"""codes, upper plane, scales, residuals, out, B operands, factors, sums, codebook, pages, lengths; n, queries of a kv
head, kv heads of a sequence, pages of a sequence."""


def logits_kernel(*constants: Any) -> tuple[Any, Any]:
    """The kernel of ``Shape(*constants)``, and its signature.

    The grid is (blocks, kv heads of all sequences, passes over the queries); the blocks of a head share its tiles.
    """
    x = Shape(*constants)
    keys, stages, warps, page, row, row_high = x.keys, x.stages, x.warps, x.page, x.row, x.row_high
    groups, columns, subtiles, sets, merged, residual = x.groups, x.columns, x.subtiles, x.sets, x.merged, x.residual
    queries, kinds, chunk, tile_bytes = x.queries, 2 if merged else 1, x.chunk, x.tile
    size, word = 2 if x.half_scales else 4, 2 if x.half_out else 4
    pieces, small = keys * row // 512, 16 if row_high >= 16 else 8
    small_pieces = keys * row_high // (32 * small)
    words, early = x.words * groups, x.early
    quarter, turned, shift = row_high // 4, x.d == 64, max(page.bit_length() - 1, 0)

    # lane 4 g + t has the keys g and g + 8 of every 16, of the subtile that its columns belong to
    places = tuple(16 * subtiles * n + 8 * r for n in range(sets) for r in (0, 1))
    of_scales = "f16" if x.half_scales else "f32"
    load_scales = ptx.load_each(of_scales, tuple(size * p for p in places))
    load_two = ptx.load_each(of_scales, (0, 8 * size))
    load_query = ptx.load_each("u32", tuple(128 * i for i in range(words)), early)
    load_table = ptx.load_each("u32", tuple(range(0, 4 * x.table, 4)))
    load_factors = ptx.load_each("f32", tuple(32 * k + 16 * i for k in range(kinds) for i in range(groups)), early)
    load_sums = ptx.load_each("s32", tuple(16 * i for i in range(groups)), early)
    scalars, operand = ptx.group(F32, len(places)), ptx.group(U32, words)
    compute = program(
        tile_program(x), ptx.group(F32, 2 * sets * groups), U32, U32, U32, operand, operand, ptx.group(U32, 4),
        ptx.group(U32, x.table), ptx.group(F32, kinds * groups), ptx.group(I32, groups), scalars, scalars,
    )  # fmt: skip
    high_at = keys * row
    copy_small = ptx.copy_16 if small == 16 else ptx.copy_8
    commit, wait = ptx.copy_commit, ptx.copy_wait[stages - 2]
    store = ptx.stream_f16 if x.half_out else ptx.stream_f32

    @cuda.jit(device=True)
    def first_row(tile, n, head, pages, heads):
        """The row of the first key of a tile, of all rows that the arrays of codes hold.

        `head` counts those of all sequences, or, if paged, those of the sequence whose pages these are.
        """
        start = int32(min(tile * keys, n - keys))  # the last tile may overlap the one before: the same numbers twice
        if page == 0:
            return int64(head) * n + start
        number = ptx.load_i32(pages + int64(start >> shift) * 4)
        return ((int64(number) * heads + head) << shift) + (start & (page - 1))

    @cuda.jit(device=True)
    def fill(at, codes, high, to, lane, end, head, pages, heads):
        """Start the copies of a tile, whose first row is `at`."""
        for i in range(pieces):
            ptx.copy_16(uint32(to + uint32(i * 512) + uint32(lane * 16)), codes + at * row + (i * 512 + lane * 16))
        for i in range(small_pieces):
            away = int32(i * 32 * small + lane * small)
            copy_small(uint32(to + uint32(high_at) + uint32(away)), high + at * row_high + away)

    @cuda.jit(device=True)
    def scales_of(source, at, end, head, pages, heads):
        """A lane's scales of a tile, the first of them that of row `at`."""
        return load_scales(source + at * size)

    # Where a tile has several pages, `at` is a key of the sequence, and each 16 of them are in one page.
    @cuda.jit(device=True)
    def first_key(tile, n, head, pages, heads):
        return int32(min(tile * keys, n - keys))

    @cuda.jit(device=True)
    def row_of(at, end, head, pages, heads):
        """The row of a key; of one beyond the end, some row that is there."""
        number = int32(0)
        if end > 0:
            number = ptx.load_i32(pages + int64(min(at, end - 1) >> shift) * 4)
        return ((int64(number) * heads + head) << shift) + (at & (page - 1))

    @cuda.jit(device=True)
    def fill_from_pages(at, codes, high, to, lane, end, head, pages, heads):
        for i in range(pieces):
            away = int32(i * 512 + lane * 16)
            here = row_of(int32(at + away // row), end, head, pages, heads)
            ptx.copy_16(uint32(to + uint32(away)), codes + here * row + away % row)
        for i in range(small_pieces):
            away = int32(i * 32 * small + lane * small)
            here = row_of(int32(at + away // row_high), end, head, pages, heads)
            copy_small(uint32(to + uint32(high_at) + uint32(away)), high + here * row_high + away % row_high)

    @cuda.jit(device=True)
    def scales_of_1(source, at, end, head, pages, heads):
        """Those of a set, of the keys g and g + 8 of 16."""
        return load_two(source + row_of(int32(at), end, head, pages, heads) * size)

    @cuda.jit(device=True)
    def scales_of_2(source, at, end, head, pages, heads):
        more = scales_of_1(source, int32(at + 16 * subtiles), end, head, pages, heads)
        return scales_of_1(source, at, end, head, pages, heads) + more

    @cuda.jit(device=True)
    def scales_of_4(source, at, end, head, pages, heads):
        more = scales_of_2(source, int32(at + 32 * subtiles), end, head, pages, heads)
        return scales_of_2(source, at, end, head, pages, heads) + more

    first = first_row
    if 0 < page < keys:
        first, fill = first_key, fill_from_pages
        scales_of = {1: scales_of_1, 2: scales_of_2, 4: scales_of_4}[sets]

    def kernel(
        codes, high, scales, residuals, out, operands, factors, sums, table, pages, lengths, n, live, heads, per
    ):
        lane = int32(cuda.threadIdx.x & 31)
        g, t = int32(lane >> 2), int32(lane & 3)
        head, turn = int32(cuda.blockIdx.y), int32(cuda.blockIdx.z)
        step = int32(cuda.gridDim.x * warps)
        tile = int32(cuda.blockIdx.x * warps + (cuda.threadIdx.x >> 5))
        end, inner, own = int32(n), head, pages
        if page > 0:
            sequence = int32(head // heads)
            inner = int32(head - sequence * heads)
            own = pages + int64(sequence) * per * 4
            end = ptx.load_i32(lengths + int64(sequence) * 4)
        tiles = int32((end + keys - 1) // keys)
        memory = uint32(ptx.shared_address(cuda.shared.array(0, uint32)))
        memory = uint32(memory + uint32((cuda.threadIdx.x >> 5) * (stages * tile_bytes)))

        # The first copies start before anything else is read.
        ahead = tile
        for i in range(stages - 1):
            if ahead < tiles:
                at = first(ahead, n, inner, own, heads)
                fill(at, codes, high, uint32(memory + uint32(i * tile_bytes)), lane, end, inner, own, heads)
            commit()
            ahead = int32(ahead + step)

        column = int32((g >> 1) // columns)
        source = int64(((((g >> 1) % columns) * 2 + (g & 1)) * 4 + t) * 4)
        base = int64(head) * cuda.gridDim.z + turn
        book = load_table(table + lane * 32)
        key = int32(16 * (t // columns) + g)
        at = first(max(min(tile, tiles - 1), 0), n, inner, own, heads) + key
        scale = scales_of(scales, at, end, inner, own, heads)
        rest = scale
        if residual:
            rest = scales_of(residuals, at, end, inner, own, heads)
        if early:
            ptx.grid_wait()
        query = load_query(operands + base * (kinds * words * 128) + source)
        sketch = query
        if merged:
            sketch = load_query(operands + (base * kinds + 1) * (words * 128) + source)
        masks = (
            uint32(0xFFFFFFFF) if column == 0 else uint32(0),
            uint32(0xFFFFFFFF) if column == 1 else uint32(0),
            uint32(0xFFFFFFFF) if column == 2 else uint32(0),
            uint32(0xFFFFFFFF) if column == 3 else uint32(0),
        )
        factor = load_factors(factors + (base * 16 + t % columns) * 4)
        total = load_sums(sums + (base * 8 + t % columns) * 4)
        number = int32(turn * queries + t % columns)
        to = out + ((int64(head) * live + number) * n + key) * word

        here = uint32(memory + uint32(g * row + t * chunk))
        if turned:
            upper = uint32(memory + uint32(high_at + g * row_high + (t >> 1) * 4))
        else:
            upper = uint32(memory + uint32(high_at + g * row_high + t * quarter))
        odd = uint32(2 * (t & 1))

        slot = int32(0)
        while tile < tiles:
            wait()
            cuda.syncwarp()
            if ahead < tiles:
                free = int32(slot - 1) if slot > 0 else int32(stages - 1)
                at = first(ahead, n, inner, own, heads)
                fill(at, codes, high, uint32(memory + uint32(free * tile_bytes)), lane, end, inner, own, heads)
            commit()
            ahead = int32(ahead + step)
            at = first(min(tile + step, tiles - 1), n, inner, own, heads) + key
            next_scale = scales_of(scales, at, end, inner, own, heads)
            next_rest = next_scale
            if residual:
                next_rest = scales_of(residuals, at, end, inner, own, heads)
            held = uint32(slot * tile_bytes)
            logits = compute(
                uint32(here + held), uint32(upper + held), odd, query, sketch, masks, book, factor, total, scale, rest
            )
            start = int32(min(tile * keys, n - keys))
            for k in range(sets):
                for i in range(groups):
                    if number + 4 * i < live:
                        for r in range(2):
                            value = logits[2 * (k * groups + i) + r]
                            place = int32(start + 16 * subtiles * k + 8 * r)
                            if page > 0 and place + key >= end:
                                value = float32(-math.inf)
                            store(to + (int64(place) + int64(4 * i) * n) * word, value)
            scale, rest = next_scale, next_rest
            slot = int32(slot + 1) if slot < stages - 1 else int32(0)
            tile = int32(tile + step)
        if page > 0:  # keys that the sequence does not have
            while tile * keys < n:
                for k in range(sets):
                    for i in range(groups):
                        if number + 4 * i < live:
                            for r in range(2):
                                place = int32(tile * keys + 16 * subtiles * k + 8 * r)
                                store(to + (int64(place) + int64(4 * i) * n) * word, float32(-math.inf))
                tile = int32(tile + step)

    return kernel, SIGNATURE
