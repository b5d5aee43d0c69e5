"""The best of many: ranks of scores, and their k smallest by sorting networks in shared memory."""

from __future__ import annotations

import functools
import math
from typing import Any

from numba import cuda, int32

LARGEST_K = 1024
"""A block's shared memory holds twice as many pairs."""


@cuda.jit
def rank(scores, norms, query_norms, metric, divided, out):
    """What is ranked ascending: scores (n_queries, n) to costs, a thread each; metric 0 ip, 1 cosine, 2 l2.

    `divided` : the scores are of codes whose norms were taken to be 1.
    """
    i, j = cuda.blockIdx.y, cuda.grid(1)
    if j >= scores.shape[1]:
        return
    score, length = scores[i, j], query_norms[i]
    if metric == 0:
        out[i, j] = -score
    elif metric == 1:
        if not divided:
            length *= norms[j]
        out[i, j] = -score / length if norms[j] > 0 and length > 0 else 0
    else:
        squares = length * length + norms[j] * norms[j]
        out[i, j] = math.inf if math.isinf(squares) else squares - 2 * score


@functools.cache
def smallest_kernel(width: int, number_type: Any) -> Any:
    """The kernel that keeps the `width` smallest, a power of two."""
    pairs = 2 * width

    @cuda.jit
    def smallest(costs, ids, implicit, part, best_costs, best_ids):
        """The smallest of each row's stretch of `part` costs, ascending, equal ones by id.

        A block of `width` threads takes the stretch blockIdx.x of row blockIdx.y. The best so far are the first half of
        what it sorts; the next `width` costs, where they are better than the worst of them, the second half.

        Parameters
        ----------
        costs : (rows, n)
        ids : (rows, n) int32
            Of the costs; if `implicit`, unread: an id is its column, and those of later columns are larger.
        best_costs, best_ids : (rows, stretches, width)
            Filled with (inf, -1) where there are fewer.
        """
        cost = cuda.shared.array(pairs, number_type)
        name = cuda.shared.array(pairs, int32)
        thread, stretch, row = cuda.threadIdx.x, cuda.blockIdx.x, cuda.blockIdx.y
        cost[thread], name[thread] = math.inf, -1
        end = min((stretch + 1) * part, costs.shape[1])
        for first in range(stretch * part, end, width):
            at = first + thread
            mine, who = number_type(math.inf), int32(-1)
            if at < end:
                mine = costs[row, at]
                who = int32(at) if implicit else ids[row, at]
            cuda.syncthreads()
            worst, holder = cost[width - 1], name[width - 1]
            better = who >= 0 and (holder < 0 or mine < worst or (mine == worst and who < holder))
            cost[width + thread], name[width + thread] = mine, who if better else -1
            if not cuda.syncthreads_or(int32(better)):
                continue
            size = 2
            while size <= pairs:  # a bitonic sort: at each step a thread orders one pair
                gap = size // 2
                while gap > 0:
                    a = 2 * gap * (thread // gap) + thread % gap
                    b = a + gap
                    rising = a & size == 0
                    one_first = name[b] < 0 or (
                        name[a] >= 0 and (cost[a] < cost[b] or (cost[a] == cost[b] and name[a] < name[b]))
                    )
                    if one_first != rising:
                        cost[a], cost[b] = cost[b], cost[a]
                        name[a], name[b] = name[b], name[a]
                    cuda.syncthreads()
                    gap //= 2
                size *= 2
        cuda.syncthreads()
        best_costs[row, stretch, thread] = cost[thread] if name[thread] >= 0 else math.inf
        best_ids[row, stretch, thread] = name[thread]

    return smallest
