"""The best of a query's scores: heaps of results, and what keeps most scores away from them.

A heap has the worst of its results first; of equal scores the later position is the worse, so that results do not
depend on the order in which they come.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import simd
from ._jit import inner
from .layout import LANES

NOWHERE = np.iinfo(np.int64).max
"""The position of a place in a heap that is not taken: behind every other."""

STEP = 8
"""Blocks of which `bound` takes one after the other."""

HALVINGS = 8
"""Of an interval: what is left of it holds but a score or two that need not be above the bound."""


@inner
def worse(score: float, position: int, other_score: float, other_position: int) -> bool:
    """The order of results: the smaller score is worse, of equal ones the later."""
    return score < other_score or (score == other_score and position > other_position)


@inner
def sift(scores: Any, positions: Any, n: int, score: float, position: int) -> None:
    """Put a result in place of the root of a heap of n, which is the worst of it."""
    i = 0
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and worse(scores[child + 1], positions[child + 1], scores[child], positions[child]):
            child += 1
        if not worse(scores[child], positions[child], score, position):
            break
        scores[i], positions[i] = scores[child], positions[child]
        i = child
    scores[i], positions[i] = score, position


@inner
def bound(board: Any, q: int, blocks: int, k: int, room: Any) -> float:
    """A number that at least k scores of query q on a board are above, and not many more; or minus infinity.

    Of every eighth block, each lane has a largest score, kept in `room`: 128 scores, of which k have to be above what
    halving the interval between their least and their largest finds.
    """
    at = q * board.shape[1] * LANES
    for i in range(STEP):
        x = simd.load(board, at + i * LANES)
        for block in range(i + STEP, blocks, STEP):
            x = simd.maximum(x, simd.load(board, at + block * LANES))
        simd.store(room, i * LANES, x)
    least = largest = simd.load(room, 0)
    for i in range(1, STEP):
        x = simd.load(room, i * LANES)
        least, largest = simd.minimum(least, x), simd.maximum(largest, x)
    found, low, high = np.float32(-np.inf), simd.min_lanes(least), simd.max_lanes(largest)
    if low == -np.inf:
        return found
    for _ in range(HALVINGS):
        middle = np.float32(0.5) * (low + high)
        count = 0
        for i in range(STEP):
            count += simd.flags(simd.load(room, i * LANES) > simd.f32x16(middle))
        if count >= k:
            found = low = middle
        else:
            high = middle
    return found


@inner
def put(found: Any, at: int, first: int, count: int, threshold: float, scores: Any, positions: Any) -> float:
    """Put those of the first `count` of 16 scores found[at] … that are above a threshold into a heap (k).

    Returns the threshold from there on.
    """
    x = simd.load(found, at)
    above = simd.mask_bits((x > simd.f32x16(threshold)) & simd.first_lanes(count))
    while above:
        lane = simd.lowest(above)
        above &= above - 1
        score = simd.lane(x, lane)
        if score > threshold:
            sift(scores, positions, scores.size, score, first + lane)
            threshold = max(threshold, scores[0])
    return threshold


@inner
def offer(room: Any, first: int, count: int, thresholds: Any, scores: Any, positions: Any) -> None:
    """`put` the scores (queries, 16) of one block into the heaps (queries, k) of its first queries."""
    for q in range(len(scores)):
        thresholds[q] = put(room, q * LANES, first, count, thresholds[q], scores[q], positions[q])


@inner
def begin(board: Any, first: int, count: int, thresholds: Any, scores: Any, positions: Any, room: Any) -> None:
    """`put` the first of all scores, `count` of them on a board (queries, blocks, 16), into empty heaps.

    These would take nearly all of the first, most of them for a moment: a bound keeps them away.
    """
    for q in range(len(scores)):
        at, blocks = q * board.shape[1] * LANES, count // LANES // STEP * STEP
        thresholds[q] = bound(board, q, blocks, scores.shape[1], room) if blocks else -np.inf
        for i in range(-(-count // LANES)):
            here = i * LANES
            thresholds[q] = put(board, at + here, first + here, count - here, thresholds[q], scores[q], positions[q])


@inner
def order(scores: Any, positions: Any) -> None:
    """Heaps (queries, k) to lists, best first."""
    for q in range(scores.shape[0]):
        for n in range(scores.shape[1] - 1, 0, -1):
            score, position = scores[q, n], positions[q, n]
            scores[q, n], positions[q, n] = scores[q, 0], positions[q, 0]
            sift(scores[q], positions[q], n, score, position)


@inner
def merge(scores: Any, positions: Any, others: Any, other_positions: Any) -> None:
    """Put the results of other heaps (queries, k) into heaps (queries, k)."""
    k = scores.shape[1]
    for q in range(scores.shape[0]):
        for j in range(k):
            if worse(scores[q, 0], positions[q, 0], others[q, j], other_positions[q, j]):
                sift(scores[q], positions[q], k, others[q, j], other_positions[q, j])
