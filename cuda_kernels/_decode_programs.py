"""What one warp does with 64 keys and values in the fast decode kernel, as programs of `machine`.

Three steps, all on the tensor cores' int8 instruction m16n8k32, whose sums are exact integers:

`scores`   16 keys x 32 coordinates of codes times 32 coordinates x 8 columns of queries. Codes become bytes by PRMT,
           which picks one of 8 table bytes by 3 bits: two planes of bytes, 256 hi + lo, make a 16-bit codebook. A
           query is 16 bits too, hi and lo in two columns, so that 4 queries fill the 8 columns.
`weights`  The online softmax, and its weights times the values' scales as 16-bit integers, hi and lo in two columns.
`sums`     16 coordinates x 32 keys of value codes times 32 keys x 8 columns of weights. The instruction wants 4 keys
           of one coordinate in a register, rows have 8 coordinates of one key: nibbles are transposed in registers
           first.

Lane 4 g + t of a warp; the columns 2t and 2t + 1 belong to query t. `o` is the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHUNK = 64
"""Keys of one step of a warp."""
TILES, GROUPS = CHUNK // 16, CHUNK // 32
LOWEST = -1e30
"""Stands for -infinity where a difference of two of them must be 0."""


@dataclass(frozen=True)
class Side:
    """How keys, or values, lie in memory: their planes, then their scalars, each row-major."""

    d: int
    bits: int
    half: bool
    """Scalars are float16, else float32."""
    prod: bool = False
    """The top bit is the sign of the sketch."""
    residuals: bool = False
    """A residual norm is stored beside the norm."""

    @property
    def planes(self) -> tuple[int, ...]:
        """Bits of each plane: 3 bits are a plane of 2 and one of 1."""
        return {4: (4,), 3: (2, 1), 2: (2,)}[self.bits]

    @property
    def rows(self) -> tuple[int, ...]:
        """Bytes of a row of each plane and scalar."""
        scalar = 2 if self.half else 4
        return (*(self.d * b // 8 for b in self.planes), *((scalar,) * (1 + self.residuals)))

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where a chunk's region of each begins in shared memory, and where the last one ends.

        Copies are of aligned 16 bytes; where rows are shorter a chunk may begin within such a piece, so it has one
        more.
        """
        at = [0]
        for row in self.rows:
            at.append(at[-1] + CHUNK * row + (16 if row % 16 else 0))
        return tuple(at)

    @property
    def swizzle(self) -> int:
        """How 16-byte pieces of a row of values are exchanged in shared memory, so that 4 rows lie in different banks.

        Piece p of row r is at p ^ 2 (r / 2 % 2) if 1, at p ^ 2 (r % 4) if 2.
        """
        return {64: 1, 128: 2}.get(self.rows[0], 0)

    @property
    def index_bits(self) -> int:
        """Bits of an index of the codebook."""
        return self.bits - 1 if self.prod else self.bits

    @property
    def tables(self) -> int:
        """Registers of the codebook: 16 entries need two tables of 8."""
        return 8 if self.index_bits == 4 else 4


def scalar(o: Any, side: Side, address: Any, offset: int) -> Any:
    return o.half(address, offset) if side.half else o.single(address, offset)


def multiply(
    o: Any, side: Side, tables: list[Any], words: list[Any], columns: list[Any], totals: Any
) -> Any:
    """totals + codebook[indices] times each of `columns`, for both planes: totals[column, plane] of 4 registers.

    `words` are two of 8 nibbles, those of two rows; or for values, of one row and the one 8 further on, in halves.

    Of 16 entries PRMT knows 8; its top bit replicates a sign instead: 0 or -1. Looking the other 8 up with that bit
    flipped and adding both products gives the entry, once the tables are corrected by the other's -1 (`tables.signed`).
    """
    kind = o.mma_s8 if totals["kind"] == "s8" else o.mma_s8u8
    selectors = _quarters(o, words, totals["kind"])
    flipped = []
    if side.index_bits == 4:
        flipped = _quarters(o, [o.xor(w, 0x88888888) for w in words], totals["kind"])
    n = len(tables) // 2
    for plane in range(2):
        words = tables[plane * n : plane * n + n]
        for low, high, s in ((words[0], words[1], selectors), *([(words[2], words[3], flipped)] if flipped else [])):
            a = [o.permute(low, high, x) for x in s]
            for c, column in enumerate(columns):
                totals[c, plane] = kind(a, column, totals[c, plane])
    return totals


def _zero(columns: int, kind: str) -> dict[Any, Any]:
    return {"kind": kind, **{(c, p): [0, 0, 0, 0] for c in range(columns) for p in range(2)}}


def number(o: Any, totals: Any, c: int, r: int) -> Any:
    """Row g + 8 r of query t: (256 hi + lo) of both codebook planes, as float; the last 8 bits of the lower are cut."""
    high, low = (o.add(o.left(totals[c, p][2 * r], 8), totals[c, p][2 * r + 1]) for p in range(2))
    return o.float_(o.add(high, o.right_signed(low, 8)))


# ------------------------------------------------------------------------------------------------------------ scores


def key_words(o: Any, side: Side, regions: list[Any], lane: Any, row: int) -> tuple[list[Any], list[Any]]:
    """The lane's quarter of key `row` + g: words of the main plane, and of the plane of single bits."""
    size = side.rows[0] // 4
    address = o.add(regions[0], o.left(lane, size.bit_length() - 1))
    n = min(size // 4, 4)
    words = []
    for part in range(size // (4 * n)):
        words += o.words(address, n, row * side.rows[0] + 16 * part)
    if side.bits != 3:
        return words, []
    at, size = row * side.rows[1], side.rows[1] // 4
    if size >= 4:
        address = o.add(regions[1], o.left(lane, size.bit_length() - 1))
        return words, o.words(address, size // 4, at)
    pair = o.add(regions[1], o.left(o.right(lane, 1), 2))  # d = 64: two lanes share a word
    (word,) = o.words(pair, 1, at)
    return words, [o.right(word, o.left(o.and_(lane, 1), 1))]


def key_selectors(o: Any, side: Side, words: list[Any], bits: list[Any], s: int) -> tuple[Any, Any]:
    """Selectors of the k-step s: 8 nibbles that are indices, and 8 whose top bit is the sketch's sign."""
    if side.bits == 4:
        return (o.and_(words[s], 0x77777777), words[s]) if side.prod else (words[s], None)
    j, p = divmod(s, 2)
    index = o.and_(o.right(words[j], 2 * p), 0x33333333)
    if side.bits == 2:
        return index, None
    at = 2 * (j % 2) + p  # the bit of each nibble
    to = 3 if side.prod else 2
    word = bits[j // 2]
    word = o.left(word, to - at) if at <= to else o.right(word, at - to)
    if side.prod:
        return index, o.and_(word, 0x88888888)
    return o.or_(index, o.and_(word, 0x44444444)), None


def scores(
    o: Any, side: Side, regions: list[Any], lane: Any, queries: list[Any], tables: list[Any], scales: list[Any]
) -> list[Any]:
    """Logits, in units of log 2, of the chunk's keys: score 8 c + 2 j + r is of key 16 j + 8 r + g and query 4 c + t.

    `queries` holds for each column group c the 2 d/32 registers of the rotated query (prod: and as many of the sketched
    one); `scales` for each c the scale (prod: and the sketch's two, factor and offset).  `regions` are the shared
    addresses of the chunk's planes and scalars.
    """
    steps, per = side.d // 32, 3 if side.prod else 1
    columns = len(scales) // per
    g = o.right(lane, 2)
    offset, planes = o.left(g, 1 if side.half else 2), len(side.planes)
    norms, *residuals = (o.add(region, offset) for region in regions[planes:])
    out: list[Any] = [None] * (columns * 2 * TILES)
    for j in range(TILES):
        rows = [key_words(o, side, regions, lane, 16 * j + 8 * r) for r in range(2)]
        totals, signs = _zero(columns, "s8"), _zero(columns, "s8")
        for s in range(steps):
            chosen = [key_selectors(o, side, *row, s) for row in rows]
            width = len(queries) // columns
            at = [queries[c * width + 2 * s : c * width + 2 * s + 2] for c in range(columns)]
            multiply(o, side, tables, [x for x, _ in chosen], at, totals)
            if side.prod:
                at = [queries[c * width + 2 * (steps + s) : c * width + 2 * (steps + s) + 2] for c in range(columns)]
                a = [o.permute(0x80808080, 0x80808080, x) for x in _quarters(o, [x for _, x in chosen], "s8")]
                for c in range(columns):
                    signs[c, 0] = o.mma_s8(a, at[c], signs[c, 0])
        width = 2 if side.half else 4
        for r in range(2):
            row = 16 * j + 8 * r
            norm = scalar(o, side, norms, row * width)
            for c in range(columns):
                value = o.fmul(number(o, totals, c, r), scales[per * c])
                if side.prod:
                    y = signs[c, 0]
                    sketch = o.float_(o.add(o.left(y[2 * r], 8), y[2 * r + 1]))
                    sketch = o.fma(sketch, scales[per * c + 1], scales[per * c + 2])
                    residual = scalar(o, side, residuals[0], row * width) if residuals else None
                    value = o.fma(sketch, residual, value) if residuals else o.fadd(value, sketch)
                out[c * 2 * TILES + 2 * j + r] = o.fmul(value, norm)
    return out


def _quarters(o: Any, words: list[Any], kind: str) -> list[Any]:
    """PRMT reads the low 4 nibbles of a word: those, and the upper ones, in the order of the A operand's registers.

    Of keys the upper nibbles are later coordinates (k + 16), of values they are another row's (g + 8).
    """
    upper = [o.right(w, 16) for w in words]
    return [*words, *upper] if kind == "s8" else [words[0], upper[0], words[1], upper[1]]


# ----------------------------------------------------------------------------------------------------------- weights


def value_scales(o: Any, side: Side, regions: list[Any], lane: Any) -> list[Any]:
    """Scales of the values m: 8 m + g."""
    width = 2 if side.half else 4
    address = o.add(regions[-1], o.left(o.right(lane, 2), width // 2))
    return [scalar(o, side, address, 8 * m * width) for m in range(2 * TILES)]


def hide(o: Any, values: list[Any], key: Any, first: Any, last: Any, otherwise: float) -> list[Any]:
    """`otherwise` instead of the values m whose position `key` + 8 m is not in [first, last)."""
    out = []
    for m, x in enumerate(values):
        at = o.add(key, 8 * m)
        out.append(o.if_less(at, first, otherwise, o.if_less(at, last, x, otherwise)))
    return out


def _top(o: Any, values: list[Any]) -> Any:
    """The largest over the registers, and over the lanes of the same query."""
    while len(values) > 1:
        values = [o.fmax(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    top = values[0]
    for lanes in (4, 8, 16):
        top = o.fmax(top, o.shuffle_xor(top, lanes))
    return top


def weights(o: Any, lane: Any, s: list[Any], scales: list[Any], top: Any, total: Any) -> list[Any]:
    """One column group's step of the online softmax.

    Returns
    -------
    top, total, what earlier sums shrink by, the unit of the integer weights, and the weights: B registers (G, half),
    whose byte i is key 32 G + 4 half + 8 i + t of column g.
    """
    higher = o.fmax(top, _top(o, s))
    shrink = o.exp2(o.fsub(top, higher))
    e = [o.exp2(o.fsub(x, higher)) for x in s]
    total = o.fmul(total, shrink)
    for x in e:
        total = o.fadd(total, x)
    w = [o.fmul(x, scale) for x, scale in zip(e, scales, strict=True)]
    largest = _top(o, w)
    unit = o.fmul(largest, 1 / 65535)
    inverse = o.fmin(o.fmul(o.reciprocal(largest), 65535.0), 3e38)
    g, t = o.right(lane, 2), o.and_(lane, 3)
    # column g is the hi (g even) or lo byte of query g / 2, which lanes 4 (4 half + t) + g / 2 hold
    source = o.add(o.left(t, 2), o.right(g, 1))
    odd, upper = o.and_(g, 1), o.and_(g, 4)
    out = []
    for G in range(GROUPS):
        u = [o.round_u32(o.fmul(x, inverse)) for x in w[4 * G : 4 * G + 4]]
        low = o.permute(o.permute(u[0], u[1], 0x0040), o.permute(u[2], u[3], 0x0040), 0x5410)
        high = o.permute(o.permute(u[0], u[1], 0x0051), o.permute(u[2], u[3], 0x0051), 0x5410)
        # each lane needs one byte plane from two lanes, one with g < 4 and one with g >= 4: two shuffles do
        one = o.shuffle(o.if_set(upper, low, high), o.if_set(odd, o.add(source, 16), source))
        two = o.shuffle(o.if_set(upper, high, low), o.if_set(odd, source, o.add(source, 16)))
        out += [o.if_set(odd, two, one), o.if_set(odd, one, two)]
    return [higher, total, shrink, unit, *out]


# -------------------------------------------------------------------------------------------------------------- sums


def _transpose(o: Any, k: list[Any]) -> list[Any]:
    """4 words of 8 nibbles, one a key, to 4 words of 2 x 4 nibbles: those of the 4 keys at nibbles (0, 2), (4, 6),
    (1, 3), (5, 7), the first of each pair in the lower half."""
    pairs = []
    for a, b in (k[:2], k[2:]):
        even = o.or_(o.and_(a, 0x0F0F0F0F), o.and_(o.left(b, 4), 0xF0F0F0F0))
        odd = o.or_(o.and_(o.right(a, 4), 0x0F0F0F0F), o.and_(b, 0xF0F0F0F0))
        pairs.append((even, odd))
    (e0, o0), (e1, o1) = pairs
    return [o.permute(x, y, s) for x, y in ((e0, e1), (o0, o1)) for s in (0x5140, 0x7362)]


NIBBLES = (0, 4, 1, 5)
"""Of `_transpose`: the first nibble of each of its words; the second is 2 more."""


def value_words(
    o: Any, region: Any, lane: Any, row: int, size: int, column: Any, G: int, first: int = 0, swizzle: int = 0
) -> list[list[Any]]:
    """The transposed words of key group G: [half][word], of `size` bytes from `first` of the lane's part of each row.

    `row` is the bytes of a row of the plane, `column` where the lane's part of it begins.
    """
    t = o.and_(lane, 3)
    if swizzle:
        column = o.xor(column, o.left(o.right(t, 1), 5) if swizzle == 1 else o.left(t, 5))
    address = o.add(o.add(region, o.left(t, row.bit_length() - 1)), column)
    at = [[first + (32 * G + 4 * half + 8 * i) * row for i in range(4)] for half in range(2)]
    if size >= 4:
        k = [[o.words(address, size // 4, x) for x in here] for here in at]
        return [
            [word for w in range(size // 4) for word in _transpose(o, [k[half][i][w] for i in range(4)])]
            for half in range(2)
        ]
    both = [o.or_(o.u16(address, a), o.left(o.u16(address, b), 16)) for a, b in zip(*at, strict=True)]
    first, second, third, fourth = _transpose(o, both)  # the lower halves are keys of half 0
    return [[first, third], [second, fourth]]


def value_dimensions(side: Side) -> list[int]:
    """Of output register 2 m + r: the coordinate, from d/8 g on."""
    small = side.d * side.planes[0] // 64 < 4  # a lane has half a word
    words = max(side.d * side.planes[0] // 256, 1)
    firsts = NIBBLES[::2] if small else NIBBLES
    if side.planes[0] == 4:
        return [8 * w + n + 2 * r for w in range(words) for n in firsts for r in range(2)]
    return [16 * w + 2 * (n + 2 * r) + p for w in range(words) for n in firsts for p in range(2) for r in range(2)]


def sums(
    o: Any, side: Side, regions: list[Any], lane: Any, tables: list[Any], columns: list[list[Any]], shrink: list[Any],
    unit: list[Any], sums: list[Any],
) -> list[Any]:  # fmt: skip
    """sums * shrink + codes of the chunk's values times its weights, for each column group: d/8 registers each.

    Register 2 m + r of a group is coordinate d/8 g + `value_dimensions`[2 m + r] of query t.
    """
    g, d, main = o.right(lane, 2), side.d, side.planes[0]
    size = d * main // 64
    column = o.left(g, size.bit_length() - 1)
    T: list[Any] = []
    if side.bits == 3:
        if d == 64:  # half a word: group g / 4, half g % 2
            upper = o.left(o.add(o.and_(o.right(g, 1), 2), o.and_(g, 1)), 1)
        else:
            upper = o.left(o.right(g, 1) if d == 128 else g, 2)
        part = 2 if d == 64 else 4
        T = [value_words(o, regions[1], lane, side.rows[1], part, upper, G) for G in range(GROUPS)]
    n = len(columns)
    width = len(sums) // n
    out: list[Any] = [None] * len(sums)
    m = 0
    step = min(size, 8 if n == 1 else 4)  # few registers at a time
    for first in range(0, size, step):
        S = [
            value_words(o, regions[0], lane, side.rows[0], step, column, G, first, side.swizzle)
            for G in range(GROUPS)
        ]
        for word in range(len(S[0][0])):
            for p in range(4 // main):
                totals = _zero(n, "u8")
                for G in range(GROUPS):
                    w = first + word
                    x = [_index(o, side, S[G][half][word], T and T[G][half], w, p, g) for half in range(2)]
                    multiply(o, side, tables, x, [columns[c][2 * G : 2 * G + 2] for c in range(n)], totals)
                for c in range(n):
                    for r in range(2):
                        at = c * width + 2 * m + r
                        out[at] = o.fma(number(o, totals, c, r), unit[c], o.fmul(sums[at], shrink[c]))
                m += 1
    return out


def _index(o: Any, side: Side, word: Any, bits: Any, w: int, p: int, g: Any) -> Any:
    """8 nibbles that are indices, of the coordinates of parity p where a nibble holds two."""
    if side.bits == 4:
        return word
    index = o.and_(o.right(word, 2 * p), 0x33333333)
    if side.bits == 2:
        return index
    if side.d == 256:  # two words of pairs share a word of bits
        j, at = w // 4, w % 4
        shift = 2 - (2 * j + p)
        moved = o.left(bits[at], shift) if shift >= 0 else o.right(bits[at], -shift)
    else:
        j = o.and_(g if side.d == 128 else o.right(g, 1), 1)
        moved = o.left(o.right(bits[w], o.left(j, 1)), 2 - p)
    return o.or_(index, o.and_(moved, 0x44444444))
