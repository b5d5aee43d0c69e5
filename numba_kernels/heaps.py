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
def offer(room: Any, size: int, first: int, count: int, q: int, heaps: Any) -> None:
    """`put` the scores (size, 16) of one block into the heaps of query q and those after it."""
    thresholds, scores, positions = heaps
    for j in range(min(size, len(scores) - q)):
        i = q + j
        thresholds[i] = put(room, j * LANES, first, count, thresholds[i], scores[i], positions[i])


@inner
def begin(board: Any, first: int, count: int, q: int, heaps: Any, room: Any) -> None:
    """`put` the first of all scores, `count` of them on a board (queries, blocks, 16), into empty heaps, from q on.

    These would take nearly all of the first, most of them for a moment: a bound keeps them away.
    """
    thresholds, scores, positions = heaps
    full = count // LANES // STEP * STEP
    for j in range(min(len(board), len(scores) - q)):
        i, at = q + j, j * board.shape[1] * LANES
        thresholds[i] = bound(board, j, full, scores.shape[1], room) if full else -np.inf
        for here in range(0, count, LANES):
            left = count - here
            thresholds[i] = put(board, at + here, first + here, left, thresholds[i], scores[i], positions[i])


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
