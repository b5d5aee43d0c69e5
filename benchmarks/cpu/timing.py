"""Contenders timed side by side: each in every round, one after the other, so that what disturbs one disturbs all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Timing:
    """Seconds of one call: the median of the rounds, the best, and how many there were."""

    median: float
    best: float
    rounds: int


def interleaved(contenders: dict[str, Callable[[], Any]], seconds: float, least: int = 5) -> dict[str, Timing]:
    """Time each contender in rounds for about `seconds` in total, after one call of each that is not counted.

    A contender that alone would take more than its share of the time sits out rounds, but has `least` of them.
    """
    cost = {}
    for name, call in contenders.items():
        call()
        start = time.perf_counter()
        call()
        cost[name] = time.perf_counter() - start
    share = seconds / len(contenders)
    counts = {name: max(least, min(400, int(share / max(c, 1e-6)))) for name, c in cost.items()}
    most = max(counts.values())
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(most):
        for name, call in contenders.items():
            if len(taken[name]) * most <= turn * counts[name] and len(taken[name]) < counts[name]:
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
    return {name: Timing(statistics.median(t), min(t), len(t)) for name, t in taken.items()}
