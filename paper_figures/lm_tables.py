"""From the lines of `lm_jobs` to the numbers of Table 1 and Fig 4 in miniature.

The unit of replication is the seed of a cache: every layer's rotations are drawn anew, and serve both texts.  Intervals
are Student's, 95 %, over seeds; two caches are compared seed by seed, on the logarithm of the KL.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from turboquant_ref import variants

from . import lm_configs, lm_text
from .lm_jobs import LENGTH, Job

__all__ = ["compare", "fidelity", "frontier", "interval", "mean_kl", "needles", "others", "texts"]

MODEL = {"layers": 30, "kv_heads": 3, "head_dim": 64}
CONTEXTS = (2048, 4096, 32768)
"""Lengths of context at which stored bits are counted."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval; nan of a single value."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float(x.mean()), math.nan
    return float(x.mean()), float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))


def stored(config: str) -> list[float]:
    """Stored bits a coordinate at the lengths of `CONTEXTS`, everything counted."""
    from turboquant_ref import cache

    layers = lm_configs.by_layer(config) or [config]
    recipes = [lm_configs.recipe(c) for c in layers]
    every = [[cache.estimate(**MODEL, context=n, recipe=r).bits_per_coordinate for n in CONTEXTS] for r in recipes]
    return [float(b) for b in np.mean(every, axis=0)]


def texts(jobs: Iterable[Job], length: int = LENGTH) -> dict[str, Any]:
    """Config by config: stored bits, and for each text what was measured, with the KL of every seed."""
    found: dict[str, dict[str, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        plain = not {"rotation", "value_mean", "only"} & set(job)
        if job["job"] == "text" and plain and job.get("length", LENGTH) == length:
            found[job["config"]][job["text"]].append(job)
    rows: dict[str, Any] = {}
    for config, by_text in found.items():
        rows[config] = {"bits": [round(b, 3) for b in stored(config)]}
        for text, same in sorted(by_text.items()):
            same = sorted(same, key=lambda job: job["seed"])
            rows[config][text] = {
                "seeds": [job["seed"] for job in same],
                "kl": [_short(job["kl"]) for job in same],
                "kl_late": _short(np.mean([job["kl_late"] for job in same]))
                if same[0]["kl_late"] is not None
                else None,
                "ratio": [_short(math.exp(job["log_ratio"])) for job in same],
                "ratio_se": _short(np.mean([job["log_ratio_se"] for job in same])),
                "top1": _short(np.mean([job["top1"] for job in same])),
                "error_k": _short(np.mean([job["error_k"] for job in same])),
                "error_v": _short(np.mean([job["error_v"] for job in same])),
            }
    return rows


def _short(x: float) -> float:
    return float(f"{x:.4g}")


def mean_kl(row: dict[str, Any]) -> float:
    """KL over texts and seeds: the geometric mean over texts of the means over seeds."""
    return math.exp(np.mean([math.log(np.mean(row[text]["kl"])) for text in lm_text.TEXTS if text in row]))


def compare(rows: dict[str, Any], first: str, second: str) -> dict[str, float]:
    """KL of the first over that of the second: geometric mean over texts and seeds, and 95 % interval over seeds.

    Both draw the same rotations from the same seed, for both texts, so a seed is one observation.
    """
    logs: dict[int, list[float]] = defaultdict(list)
    for text in lm_text.TEXTS:
        sides = [dict(zip(rows[c][text]["seeds"], rows[c][text]["kl"], strict=True)) for c in (first, second)]
        fixed = [len(side) == 1 for side in sides]  # a cache without randomness stands against every seed
        seeds = sides[0] if fixed[1] else sides[1] if fixed[0] else sides[0].keys() & sides[1].keys()
        for seed in seeds:
            a, b = (
                next(iter(side.values())) if alone else side[seed] for side, alone in zip(sides, fixed, strict=True)
            )
            logs[seed].append(math.log(a / b))
    mean, half = interval([float(np.mean(values)) for values in logs.values()])
    return {"ratio": math.exp(mean), "low": math.exp(mean - half), "high": math.exp(mean + half), "seeds": len(logs)}


def frontier(rows: dict[str, Any], context: int) -> list[tuple[float, str, float]]:
    """Caches that no other beats with as few bits: (stored bits at this length, config, KL), by bits."""
    at = CONTEXTS.index(context)
    every = sorted((row["bits"][at], mean_kl(row), config) for config, row in rows.items())
    best, kept = math.inf, []
    for bits, kl, config in every:
        if kl < best:
            kept.append((bits, config, kl))
            best = kl
    return kept


def fidelity(jobs: Iterable[Job]) -> dict[str, Any]:
    """Codec by codec: slope and noise of the attention logits over seeds and texts, beside theory's."""
    found: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        if job["job"] == "fidelity":
            found[job["config"]].append(job)
    rows = {}
    for config in lm_configs.FIDELITY:
        same = found.get(config)
        if not same:
            continue
        kind, bits = config.split()
        name = {"mse": "mse", "matched": "mse-matched", "opt": "mse-least_squares", "unb": "mse-unbiased",
                "prodO": "prod-orthogonal", "prodG": "prod", **lm_configs.WILD}[kind]  # fmt: skip
        seeds = sorted({job["seed"] for job in same})
        row: dict[str, Any] = {"draws": len(seeds), "expected_slope": variants.find(name).exact(64, int(bits)).slope}
        for figure in ("slope", "noise", "attention_kl"):
            by_seed = [np.mean([job[figure] for job in same if job["seed"] == seed]) for seed in seeds]
            row[figure], row[f"{figure}_half"] = interval(by_seed)
        known = [job["expected_noise"] for job in same if job["expected_noise"][0] is not None]
        row["expected_noise"] = float(np.mean(known)) if known and kind not in lm_configs.WILD else None
        rows[config] = row
    return rows


def others(jobs: Iterable[Job], option: str) -> dict[str, list[float]]:
    """KL of jobs with this option over that without it, config by config: every seed and text."""
    jobs = [job for job in jobs if job["job"] == "text"]
    plain = {_where(job): job["kl"] for job in jobs if not {"rotation", "value_mean", "only"} & set(job)}
    found: dict[str, list[float]] = defaultdict(list)
    for job in jobs:
        if option in job and _where(job) in plain:
            found[job["config"]].append(_short(job["kl"] / plain[_where(job)]))
    return dict(found)


def _where(job: Job) -> tuple[Any, ...]:
    return tuple(job.get(name) for name in ("config", "text", "seed", "length"))


def needles(jobs: Iterable[Job]) -> dict[str, Any]:
    """Config by config and length by length: (depths,) right digits, their number asked, and the mean surprise."""
    found: dict[str, dict[int, list[Job]]] = defaultdict(lambda: defaultdict(list))
    for job in jobs:
        if job["job"] == "needles":
            found[job["config"]][job["length"]].append(job)
    return {
        config: {
            str(length): {
                "seeds": len(same),
                "right": np.sum([job["right"] for job in same], axis=0).tolist(),
                "asked": lm_text.DIGITS * len(same),
                "surprise": [_short(s) for s in np.mean([job["surprise"] for job in same], axis=0)],
            }
            for length, same in sorted(by_length.items())
        }
        for config, by_length in sorted(found.items())
    }
