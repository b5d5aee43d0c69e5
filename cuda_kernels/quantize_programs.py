"""The fast kernels of quantization, stretch by stretch: programs of one warp on registers (`machine`).

A vector of d = m 2^k coordinates is m chunks of 2^k. A lane holds R = m 2^r of them in registers, all chunks of 2^r
positions; 2^(k - r) lanes share the vector, and a warp takes 2^(5 - k + r) vectors at a time. Two *views* say which bits
of the position are in the registers and which in the lane:

outer   the three lowest bits and r - 3 of the highest are registers: 32 contiguous bytes of x are a lane's, and so are the 8
        coordinates of a word of codes
inner   the other bits are registers, the highest among them: so a plane layer's pairs are in one lane

A Hadamard stage on a register bit is one addition a coordinate. So a round is the stages of the outer view's bits, an exchange
through shared memory, and those of the inner view; the plane layer; and the same back. Where the views leave a bit out, its stage is
a shuffle. In shared memory the coordinates lie where neither view's accesses meet in a bank (`Plan.place`).

Factors are left to the end: of 2^(-k/2) and 2^(-1/2), what all coordinates have in common is one constant, multiplied
into the thresholds; a stage across chunks multiplies only where its two chunks differ.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref.codebook import Codebook
from turboquant_ref.rotation import Structured

ROOT = math.sqrt(0.5)
FLOOR = 1.5 * 2.0**23
"""Added to a float below 2^22 and rounded down, it leaves the float's floor in the lowest bits."""


@dataclass(frozen=True)
class View:
    """Which bits of a position are in registers and which in the lane, lowest first; -1, -2, … are bits of the vector."""

    registers: tuple[int, ...]
    lanes: tuple[int, ...]

    def positions(self) -> list[int]:
        """The positions of a lane's registers, less the lane's own bits."""
        return [sum(bit << p for bit, p in zip(c[::-1], self.registers, strict=True)) for c in self._choices()]

    def _choices(self) -> Any:
        return itertools.product((0, 1), repeat=len(self.registers))


@dataclass(frozen=True)
class Plan:
    """Where everything is, as a function of d alone."""

    d: int
    r: int

    @property
    def k(self) -> int:
        """log2 of a chunk."""
        return (self.d & -self.d).bit_length() - 1

    @property
    def m(self) -> int:
        """Number of chunks, odd."""
        return self.d >> self.k

    @property
    def lanes(self) -> int:
        """log2 of the lanes of a vector."""
        return self.k - self.r

    @property
    def vectors(self) -> int:
        """Vectors of a warp."""
        return 32 >> self.lanes

    @property
    def count(self) -> int:
        """Registers R of a lane."""
        return self.m << self.r

    @cached_property
    def outer(self) -> View:
        """The view in which x is read and codes are written."""
        spare = self.r - 3
        top = self.k - 1 if self.lanes >= self.r else self.k  # the highest bit must be a register of the inner view
        registers = (0, 1, 2, *range(top - spare, top))
        return View(registers, self._others(registers))

    @cached_property
    def inner(self) -> View:
        """The view in which the planes are turned."""
        must = [p for p in range(self.k - 1) if p not in self.outer.registers]
        spare = [p for p in reversed(self.outer.registers) if p != self.k - 1]
        registers = tuple(sorted([*(must + spare)[: self.r - 1], self.k - 1]))
        return View(registers, self._others(registers))

    def shuffled(self, view: View) -> list[int]:
        """The lane bits of a view that no view has in registers: their stages are shuffles."""
        return [q for q, bit in enumerate(view.lanes) if bit >= 0 and bit not in self.outer.registers + self.inner.registers]

    def _others(self, registers: tuple[int, ...]) -> tuple[int, ...]:
        bits = [p for p in range(self.k) if p not in registers]
        return (*bits, *(-1 - v for v in range(5 - len(bits))))

    @cached_property
    def place(self) -> dict[int, int]:
        """For each bit of position or vector, the bits of the shared word's number that it flips.

        The two lowest bits are the position's, so that 4 coordinates are 16 bytes. The next three are lane bits of the inner
        view, each flipped by one of the first three lane bits of the outer view: then 32 lanes reading words, and 8 lanes
        moving 16 bytes, meet all 32 banks once.
        """
        bank = self.inner.lanes
        flips = {bit: 1 << q for q, bit in enumerate(bank)}
        for q, bit in enumerate(self.inner.registers):
            flips[bit] = 32 << q
        for q, bit in enumerate(self.outer.lanes[:3]):
            if bit != bank[2 + q]:
                flips[bit] ^= 4 << q
        return flips

    def word(self, position: int) -> int:
        """Number of the shared word of a position (of vector 0, chunk 0)."""
        return functools.reduce(lambda a, p: a ^ self.place[p] * (position >> p & 1), range(self.k), 0)

    def lane_words(self, view: View) -> list[int]:
        """What each lane bit of a view flips in the number of the word."""
        return [self.place[bit] for bit in view.lanes]

    def keys(self, view: View) -> list[tuple[int, int]]:
        """(chunk, position) of each register."""
        return [(c, p) for c in range(self.m) for p in view.positions()]

    def lane_coordinates(self, view: View) -> NDArray[np.int64]:
        """The position that each lane of a vector adds, by lane."""
        lanes = np.arange(1 << self.lanes)
        return np.asarray(sum((lanes >> q & 1) << bit for q, bit in enumerate(view.lanes) if bit >= 0) + 0 * lanes)


def plan_of(d: int, most: int = 96) -> Plan | None:
    """The plan of a dimension; None where it would take more than `most` registers, or too few coordinates."""
    k = (d & -d).bit_length() - 1
    for r in range(max(3, k - 5), k):
        plan = Plan(d, r)
        exchanged = plan.lanes <= r or plan.lanes == r + 1 and 2 * plan.count > 64  # a shuffle is cheaper than many registers
        if exchanged and 16 <= plan.count <= most and plan.lanes >= 2:
            return plan
    return None


@dataclass(frozen=True)
class Narrow(Plan):
    """The plan where 32 contiguous bytes are too many for a lane: the registers are the r highest bits, in one view.

    x comes, and codes go, through shared memory; stages of lane bits are shuffles.
    """

    @cached_property
    def inner(self) -> View:
        """The only view."""
        registers = tuple(range(self.k - self.r, self.k))
        return View(registers, self._others(registers))

    @property
    def outer(self) -> View:  # type: ignore[override]
        """The same."""
        return self.inner

    @property
    def row(self) -> int:
        """Words from a vector to the next in shared memory: its lanes then meet other banks."""
        return self.d + ((1 << self.lanes) if self.vectors > 1 else 0)


def narrow_of(d: int, most: int = 96) -> Narrow | None:
    """The narrow plan of a dimension that is a multiple of 8; None where it would take more than `most` registers."""
    k = (d & -d).bit_length() - 1
    plan = Narrow(d, max(1, k - 5))
    return plan if k >= 3 and plan.count <= most else None


# ------------------------------------------------------------------------------------------------ programs


def square_sum(o: Any, x: list[Any]) -> Any:
    """The sum of squares of a lane's registers, in four partial sums."""
    parts = [o.fmul(a, a) for a in x[:4]]
    for i, a in enumerate(x[4:]):
        parts[i % 4] = o.fma(a, a, parts[i % 4])
    return o.fadd(o.fadd(parts[0], parts[1]), o.fadd(parts[2], parts[3]))


def largest(o: Any, x: list[Any]) -> Any:
    """The largest magnitude of a lane's registers."""
    return functools.reduce(lambda top, a: o.fmax(top, o.absolute(a)), x[1:], o.absolute(x[0]))


def times(o: Any, x: list[Any], factor: Any) -> list[Any]:
    """Every register times a factor."""
    return [o.fmul(a, factor) for a in x]


def group_sum(o: Any, value: Any, lanes: int) -> Any:
    """The sum over the 2^lanes lanes of a vector."""
    for q in range(lanes):
        value = o.fadd(value, o.shuffle_xor(value, 1 << q))
    return value


def group_max(o: Any, value: Any, lanes: int) -> Any:
    """The maximum over the lanes of a vector."""
    for q in range(lanes):
        value = o.fmax(value, o.shuffle_xor(value, 1 << q))
    return value


def stage(o: Any, plan: Plan, view: View, x: list[Any], bit: int) -> list[Any]:
    """The butterflies of one register bit."""
    x, at = list(x), {key: i for i, key in enumerate(plan.keys(view))}
    for (c, p), i in at.items():
        if not p >> bit & 1:
            j = at[c, p | 1 << bit]
            x[i], x[j] = o.fadd(x[i], x[j]), o.fsub(x[i], x[j])
    return x


def first_stage(o: Any, plan: Plan, x: list[Any], signs: list[Any]) -> list[Any]:
    """The signs of the first round, with the butterflies of the lowest register bit."""
    x = list(x)
    for i in range(0, len(x), 2):
        a, b = o.fmul(x[i], signs[i]), x[i + 1]
        x[i], x[i + 1] = o.fma(b, signs[i + 1], a), o.fma(o.negative(b), signs[i + 1], a)
    return x


def lane_stage(o: Any, x: list[Any], q: int, sign: Any) -> list[Any]:
    """The butterflies of lane bit q: `sign` is -1 in the lanes where it is set, else 1."""
    return [o.fma(a, sign, o.shuffle_xor(a, 1 << q)) for a in x]


def mixed(levels: Any, weights: list[int]) -> list[int]:
    """Powers of 2^(-1/2) that the chunks have still to be multiplied by, after `mix` of chunks with `weights`."""
    weights = list(weights)
    for first, second in levels:
        for a, b in zip(first, second, strict=True):
            weights[a] = weights[b] = min(weights[a], weights[b]) + 1
    return weights


def mix(o: Any, plan: Plan, levels: Any, x: list[Any]) -> list[Any]:
    """The uneven butterfly across chunks, its factors 2^(-1/2) left out where both chunks have as many."""
    x, weights, size = list(x), [0] * plan.m, 1 << plan.r
    for first, second in levels:
        for a, b in zip(first, second, strict=True):
            more = weights[a] - weights[b]
            for i in range(size):
                p, q = x[a * size + i], x[b * size + i]
                if more > 0:
                    both = o.fma(p, ROOT**more, q), o.fma(p, ROOT**more, o.negative(q))
                elif more < 0:
                    both = o.fma(q, ROOT**-more, p), o.fma(q, -(ROOT**-more), p)
                else:
                    both = o.fadd(p, q), o.fsub(p, q)
                x[a * size + i], x[b * size + i] = both
            weights[a] = weights[b] = min(weights[a], weights[b]) + 1
    return x


def level(o: Any, plan: Plan, levels: Any, x: list[Any]) -> list[Any]:
    """The last powers of 2^(-1/2), for the chunks that need more of them than others."""
    weights = mixed(levels, [0] * plan.m)
    left = [w - min(weights) for w in weights for _ in range(1 << plan.r)]
    return [o.fmul(a, ROOT**w) if w else a for a, w in zip(x, left, strict=True)]


def plane_pairs(plan: Plan) -> list[tuple[int, int]]:
    """Registers (of i, of i + d / 2) of the inner view that a plane turns, for i below d / 2."""
    at, half = {key: i for i, key in enumerate(plan.keys(plan.inner))}, 1 << plan.k - 1
    pairs = []
    for (c, p), i in at.items():
        number = 2 * c + (p >= half)  # of the half chunk; the partner is m half chunks on
        if number < plan.m:
            other = number + plan.m
            pairs.append((i, at[other // 2, p % half + half * (other % 2)]))
    return pairs


def planes(o: Any, plan: Plan, x: list[Any], table: Any) -> list[Any]:
    """The plane layer and the signs of the next round: table(j) is the 2 x 2 matrix of pair j."""
    x = list(x)
    for j, (i, k) in enumerate(plane_pairs(plan)):
        a, b, c, d = table(j)
        front, back = o.fmul(x[k], b), o.fmul(x[k], d)
        x[i], x[k] = o.fma(x[i], a, front), o.fma(x[i], c, back)
    return x


def exchange(o: Any, plan: Plan, x: list[Any], old: View, new: View, bases: dict[View, Any]) -> list[Any]:
    """The registers of one view as those of the other, through the warp's shared memory."""
    o.warp_barrier()
    for address, offset, registers in _accesses(o, plan, old, bases[old]):
        o.put(address, [x[i] for i in registers], offset)
    o.warp_barrier()
    out: list[Any] = [None] * len(x)
    for address, offset, registers in _accesses(o, plan, new, bases[new]):
        for i, value in zip(registers, o.singles(address, len(registers), offset), strict=True):
            out[i] = value
    return out


def _accesses(o: Any, plan: Plan, view: View, base: Any) -> Any:
    """(address, offset, registers) of each access of a lane: 4 registers at once where they are contiguous."""
    width = 4 if view.registers[:2] == (0, 1) else 1
    moving = 4 * functools.reduce(lambda a, b: a | b, plan.lane_words(view))
    flipped: dict[int, Any] = {0: base}
    for i in range(0, plan.count, width):
        c, p = plan.keys(view)[i]
        number = 4 * plan.word(p)
        flip = number & moving
        if flip not in flipped:
            flipped[flip] = o.xor(base, flip)
        yield flipped[flip], (number ^ flip) + (128 << plan.r) * c, range(i, i + width)


def cells(o: Any, x: list[Any], pieces: list[tuple[Any, float, float]], bits: int) -> list[Any]:
    """The index of each coordinate, in the lowest bits of a word.

    The index is the floor of a piecewise linear function of |x| that takes the value j at the j-th boundary, with the
    sign of x, plus 2^(b-1). Each piece is a line through two boundaries, held between its ends: (slope, offset, rise).
    """
    half, out = 1 << bits - 1, []
    for y in x:
        size, total = o.absolute(y), 0.5
        for slope, offset, rise in pieces:
            total = o.fma(o.saturated(size, slope, offset), rise, o._f(total))
        signed = o.or_(o.and_(o.bits(y), 0x80000000), o.bits(total) if pieces else 0x3F000000)
        out.append(o.bits(o.add_down(o.floats(signed), FLOOR + half)))
    return out


def nibbles(o: Any, numbers: list[Any]) -> Any:
    """The lowest 4 bits of 8 words, as one word: the first lowest."""
    pairs = [o.add(o.left(numbers[i + 1], 4), numbers[i]) for i in range(0, 8, 2)]
    low, high = o.permute(pairs[0], pairs[1], 0x0040), o.permute(pairs[2], pairs[3], 0x0040)
    return o.permute(low, high, 0x5410)


def squeezed(o: Any, word: Any, mask: int, steps: tuple[tuple[int, int], ...]) -> Any:
    """Bits of a word, those of `mask`, moved together: shifted down and joined, by at least as many as stay, in each step."""
    word = o.and_(word, mask)
    for shift, kept in steps:
        word = o.and_(o.or_(word, o.right(word, shift)), kept)
    return word


def streams(o: Any, word: Any, bits: int, planes: bool) -> tuple[Any, Any]:
    """8 nibbles of `bits` bits as 8 * bits bits of the stream; of planes, two lower bits and the upper ones, see `layout`."""
    if bits == 4:
        return word, None
    if bits == 1:
        return squeezed(o, word, 0x11111111, ((3, 0x03030303), (6, 0x000F000F), (12, 0xFF))), None
    low = squeezed(o, word, 0x33333333, ((2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0xFFFF)))
    if bits == 2:
        return low, None
    if planes:
        return low, squeezed(o, o.right(word, 2), 0x11111111, ((3, 0x03030303), (4, 0x00330033), (8, 0x3333)))
    for low_mask, shift, mask in ((0x07070707, 1, 0x38383838), (0x003F003F, 2, 0x0FC00FC0), (0x00000FFF, 4, 0x00FFF000)):
        word = o.or_(o.and_(word, low_mask), o.and_(o.right(word, shift), mask))
    return word, None


# ------------------------------------------------------------------------------------------------ tables


def sign_table(plan: Plan, rotation: Structured) -> NDArray[np.float32]:
    """The signs of the first round, (groups of 4 registers, lanes, 4), in the outer view."""
    signs = _by_lane(plan, plan.outer, rotation.signs[0].astype(np.float32))
    padded = np.concatenate([signs, np.zeros((-len(signs) % 4, 1 << plan.lanes), np.float32)])
    return padded.reshape(-1, 4, 1 << plan.lanes).swapaxes(1, 2)


def _by_lane(plan: Plan, view: View, values: NDArray[Any]) -> NDArray[Any]:
    """Values of coordinates, (registers, lanes)."""
    numbers = np.array([(c << plan.k) + p for c, p in plan.keys(view)])[:, None] + plan.lane_coordinates(view)
    return np.asarray(values[numbers])


def plane_table(plan: Plan, rotation: Structured) -> NDArray[np.float32]:
    """The 2 x 2 matrices of the pairs, (pairs, lanes, 4): the turn, the next round's signs, and what is left of `mix`."""
    if rotation.rounds < 2:
        return np.zeros((0, 1 << plan.lanes, 4), np.float32)
    h, d = plan.d // 2, plan.d
    weights = np.repeat(mixed(rotation.levels, [0] * plan.m), 1 << plan.k)
    left = ROOT ** (weights - weights.min())
    cosine, sine = np.tile(rotation.cosines[0], 2), np.tile(rotation.sines[0], 2)
    sign, number = rotation.signs[1].astype(np.float64), np.arange(d)
    own = _by_lane(plan, plan.inner, number)
    table = []
    for i, k in plane_pairs(plan):
        front, back = own[i], own[k]
        c, s = cosine[front], sine[front]
        entries = (sign[front] * c * left[front], -sign[front] * s * left[back],
                   sign[back] * s * left[front], sign[back] * c * left[back])  # fmt: skip
        assert np.all(back == front + h)
        table.append(np.stack(entries, axis=-1))
    return np.asarray(table, dtype=np.float32)


def factor(plan: Plan, rotation: Structured) -> float:
    """What the last coordinates are too large by: all powers of 2^(-1/2) that were left out."""
    weights = mixed(rotation.levels, [0] * plan.m)
    return ROOT ** (rotation.rounds * (plan.k + min(weights)))


def pieces_of(codebook: Codebook) -> list[tuple[float, float, float]] | None:
    """Slope, offset and rise of each piece of `cells`; None if the codebook is not odd-symmetric or its boundaries are too uneven for it.

    Piece q is the line through boundaries 2q + 1 and 2q + 2, from 2q + 1/2 to 2q + 5/2; the last has one boundary and rises by
    1. It must have ended before the next boundary, and not begun before the one below.
    """
    edges = codebook.boundaries
    n = len(edges) // 2
    if codebook.bits > 4 or len(edges) != 2**codebook.bits - 1 or not np.array_equal(edges, -edges[::-1]):
        return None
    t = edges[n + 1 :]
    out: list[tuple[float, float, float]] = []
    for q in range(0, n, 2):
        rise = 2.0 if q + 1 < n else 1.0
        step = t[q + 1] - t[q] if q + 1 < n else (t[q] - t[q - 1]) / 2 if q else t[q]
        start, stop = t[q] - step / 2, t[q] + (rise - 0.5) * step
        below, above = t[q - 1] if q else 0.0, t[q + 2] if q + 2 < n else math.inf
        if start < below or stop > above:
            return None
        out.append((1 / (rise * step), -start / (rise * step), rise))
    return out
