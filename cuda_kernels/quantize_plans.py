"""Where the coordinates of a vector are in the fast kernels of quantization, and the tables that go with it.

A vector of d = m 2^k coordinates is m chunks of 2^k. A lane holds R = m 2^r of them in registers, all chunks of 2^r
positions; 2^(k - r) lanes share the vector, and a warp takes 2^(5 - k + r) vectors at a time. Two *views* say which
bits of the position are in the registers and which in the lane:

outer   the three lowest bits and r - 3 of the highest are registers: 32 contiguous bytes of x are a lane's, and so are
        the 8 coordinates of a word of codes
inner   other bits are registers, the highest among them: so a plane layer's pairs are in one lane

Factors are left to the end: of 2^(-k/2) and 2^(-1/2), what all coordinates have in common is one constant, multiplied
into the slopes of `pieces_of`; a stage across chunks multiplies only where its two chunks differ.
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

__all__ = [
    "ROOT",
    "Narrow",
    "Plan",
    "Variant",
    "View",
    "factor_of",
    "mixed",
    "narrow_of",
    "pieces_of",
    "plan_of",
    "plane_pairs",
    "plane_table",
    "sign_table",
]

ROOT = math.sqrt(0.5)
@dataclass(frozen=True)
class View:
    """Which bits of a position are in registers, which in the lane, lowest first; -1, -2, … are bits of the vector."""

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
        once = {*self.outer.registers, *self.inner.registers}
        return [q for q, bit in enumerate(view.lanes) if bit >= 0 and bit not in once]

    def _others(self, registers: tuple[int, ...]) -> tuple[int, ...]:
        bits = [p for p in range(self.k) if p not in registers]
        return (*bits, *(-1 - v for v in range(5 - len(bits))))

    @cached_property
    def place(self) -> dict[int, int]:
        """For each bit of position or vector, the bits of the shared word's number that it flips.

        The two lowest bits are the position's, so that 4 coordinates are 16 bytes. The next three are lane bits of the
        inner view, each flipped by one of the first three lane bits of the outer view: then 32 lanes moving words, and
        8 lanes moving 16 bytes, meet all 32 banks once.
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


@dataclass(frozen=True)
class Variant:
    """What a fast kernel is a function of.

    Attributes
    ----------
    plan : Plan
    levels : tuple
        The pairs of chunks of `quantize_programs.mix`, level by level.
    rounds : int
        1 or 2.
    factor : float
        `factor_of` the rotation.
    pieces : tuple
        `pieces_of` the codebook.
    bits : int
        1 to 4.
    in_planes : bool
        3 bits as two planes, `layout.Form.planes`.
    source, scalars : str
        The dtype of x, and that of the stored scale: "float32", "float16" or "bfloat16".
    rule : int
        Number of the scale rule in `turboquant_ref.mse.SCALES`.
    warps : int
        Of a block.
    registers : int or None
        Of a thread, at most.
    """

    plan: Plan
    levels: tuple[Any, ...]
    rounds: int
    factor: float
    pieces: tuple[tuple[float, float, float], ...]
    bits: int
    in_planes: bool
    source: str
    scalars: str
    rule: int
    warps: int
    registers: int | None


def plan_of(d: int, most: int = 96) -> Plan | None:
    """The plan of a dimension; None where it would take more than `most` registers, or too few coordinates."""
    k = (d & -d).bit_length() - 1
    for r in range(max(3, k - 5), k):
        plan = Plan(d, r)
        few = plan.lanes <= r or (plan.lanes == r + 1 and 2 * plan.count > 64)  # shuffles cost less than many registers
        if few and 16 <= plan.count <= most and plan.lanes >= 2:
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


def mixed(levels: Any, weights: list[int]) -> list[int]:
    """Powers of 2^(-1/2) that the chunks have still to be multiplied by, after `mix` of chunks with `weights`."""
    weights = list(weights)
    for first, second in levels:
        for a, b in zip(first, second, strict=True):
            weights[a] = weights[b] = min(weights[a], weights[b]) + 1
    return weights


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
    """The 2 x 2 matrices of the pairs, (pairs, lanes, 4): the turn, the next round's signs, what is left of `mix`."""
    if rotation.rounds < 2:
        return np.zeros((0, 1 << plan.lanes, 4), np.float32)
    weights = np.repeat(mixed(rotation.levels, [0] * plan.m), 1 << plan.k)
    left = ROOT ** (weights - weights.min())
    cosine, sine = np.tile(rotation.cosines[0], 2), np.tile(rotation.sines[0], 2)
    sign, own = rotation.signs[1].astype(np.float64), _by_lane(plan, plan.inner, np.arange(plan.d))
    table = []
    for i, k in plane_pairs(plan):
        front, back = own[i], own[k]
        c, s = cosine[front], sine[front]
        upper = [sign[front] * c * left[front], -sign[front] * s * left[back]]
        lower = [sign[back] * s * left[front], sign[back] * c * left[back]]
        table.append(np.stack(upper + lower, axis=-1))
    return np.asarray(table, dtype=np.float32)


def factor_of(plan: Plan, rotation: Structured) -> float:
    """What the last coordinates are too large by: all powers of 2^(-1/2) that were left out."""
    weights = mixed(rotation.levels, [0] * plan.m)
    return ROOT ** (rotation.rounds * (plan.k + min(weights)))


def pieces_of(codebook: Codebook) -> list[tuple[float, float, float]] | None:
    """Slope, offset and rise of each piece of `quantize_programs.cells`; None where there are no such pieces.

    Piece q is the line through boundaries 2q + 1 and 2q + 2 of |x|, from 2q + 1/2 to 2q + 5/2; the last has one
    boundary and rises by 1. It must have ended at the next boundary, and not begun before the one below; and the
    codebook must be odd-symmetric, of at most 4 bits.
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
