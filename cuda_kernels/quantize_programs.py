"""The fast kernels of quantization, stretch by stretch: programs of one warp on registers (`machine`).

A Hadamard stage on a register bit is one addition a coordinate. So a round is the stages of the outer view's bits
(`quantize_plans`), an exchange through shared memory, and those of the inner view; then the plane layer; and the same
back. Where the views leave a bit out, its stage is a shuffle. In shared memory the coordinates lie where neither view's
accesses meet in a bank (`Plan.place`).
"""

from __future__ import annotations

import functools
from typing import Any

from .quantize_plans import ROOT, Plan, View, mixed, plane_pairs

FLOOR = 1.5 * 2.0**23
"""Added to a float below 2^22 and rounded down, it leaves the float's floor in the lowest bits."""
MATCHED, LEAST_SQUARES, UNBIASED = 1, 2, 3
"""Scale rules, as `turboquant_ref.mse.SCALES` numbers them; 0 is the norm."""


def square_sum(o: Any, x: list[Any]) -> Any:
    """The sum of squares of a lane's registers, in four partial sums."""
    parts = [o.fmul(a, a) for a in x[:4]]
    for i, a in enumerate(x[4:]):
        parts[i % 4] = o.fma(a, a, parts[i % 4])
    while len(parts) > 1:
        parts = [
            o.fadd(*pair) if len(pair) == 2 else pair[0] for pair in (parts[i : i + 2] for i in range(0, len(parts), 2))
        ]
    return parts[0]


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


def sums(o: Any, x: list[Any], numbers: list[Any], table: Any, rule: int) -> tuple[Any, Any]:
    """<x, q> and ||q||^2 of a lane, as far as the scale rule needs them; `table` is where the centroids lie, shared."""
    products, squares = [0.0] * 4, [0.0] * 4
    for i, (y, number) in enumerate(zip(x, numbers, strict=True)):
        (c,) = o.singles(o.add(o.left(o.and_(number, 15), 2), table), 1)
        if rule != MATCHED:
            products[i % 4] = o.fma(y, c, o._f(products[i % 4]))
        if rule != UNBIASED:
            squares[i % 4] = o.fma(c, c, o._f(squares[i % 4]))

    def total(parts: list[Any]) -> Any:
        return functools.reduce(o.fadd, map(o._f, parts))

    return total(products), total(squares)


def nibbles(o: Any, numbers: list[Any]) -> Any:
    """The lowest 4 bits of 8 words, as one word: the first lowest."""
    pairs = [o.add(o.left(numbers[i + 1], 4), numbers[i]) for i in range(0, 8, 2)]
    low, high = o.permute(pairs[0], pairs[1], 0x0040), o.permute(pairs[2], pairs[3], 0x0040)
    return o.permute(low, high, 0x5410)


def squeezed(o: Any, word: Any, mask: int, steps: tuple[tuple[int, int], ...]) -> Any:
    """The bits of a word that `mask` has, moved together: shifted down and joined, step by step.

    Each shift is at least as wide as the fields that it joins.
    """
    word = o.and_(word, mask)
    for shift, kept in steps:
        word = o.and_(o.or_(word, o.right(word, shift)), kept)
    return word


def streams(o: Any, word: Any, bits: int, planes: bool) -> tuple[Any, Any]:
    """8 nibbles of `bits` bits as 8 * bits bits of the stream; of planes, the lower two bits and the upper one."""
    if bits == 4:
        return word, None
    if bits == 1:
        return squeezed(o, word, 0x11111111, ((3, 0x03030303), (6, 0x000F000F), (12, 0xFF))), None
    low = squeezed(o, word, 0x33333333, ((2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0xFFFF)))
    if bits == 2:
        return low, None
    if planes:
        return low, squeezed(o, o.right(word, 2), 0x11111111, ((3, 0x03030303), (4, 0x00330033), (8, 0x3333)))
    for first, shift, second in ((0x07070707, 1, 0x38383838), (0x003F003F, 2, 0x0FC00FC0), (0xFFF, 4, 0xFFF000)):
        word = o.or_(o.and_(word, first), o.and_(o.right(word, shift), second))
    return word, None
