"""The tables of `LM.md`, from the committed results.

python -m paper_figures.lm_report          prints them
python -m paper_figures.lm_report --write  puts them into LM.md, between its marks
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from turboquant_ref import cache

from . import _store, fig4, lm_configs, lm_tables, lm_text
from ._style import significant

__all__ = ["filled", "tables"]

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("LM.md")

BUDGETS = (2.25, 2.5, 3.0, 3.5)
"""Stored bits a coordinate, everything counted."""

PAIRS = (
    ("prodO 3", "mse 3", "Algorithm 2 (orthogonal S) over Algorithm 1, 3 bits"),
    ("prodG 3", "mse 3", "Algorithm 2 (Gaussian S) over Algorithm 1, 3 bits"),
    ("prodG 3", "mse 2", "Algorithm 2 (Gaussian S) at 3 bits over Algorithm 1 at 2: the sketch left out"),
    ("prodO 3", "mse 2", "Algorithm 2 (orthogonal S) at 3 bits over Algorithm 1 at 2"),
    ("bug 3", "prodG 3", "S divided by √d twice, over Gaussian S as it should be, 3 bits"),
    ("bug 3", "prodO 3", "S divided by √d twice, over orthogonal S, 3 bits"),
    ("unb 3", "mse 3", "unbiased scale over the paper's, 3 bits"),
    ("opt 3", "mse 3", "least-squares scale over the paper's, 3 bits"),
    ("unb 3 W32", "mse 3 W32", "unbiased scale over the paper's, 3 bits, window"),
    ("unb K3pre V3 W32 s4", "mse K3pre V3 W32 s4", "the same, centred keys, sinks and window"),
    ("opt K3pre V3 W32 s4", "mse K3pre V3 W32 s4", "least squares over the paper's, centred keys, sinks and window"),
    ("prodO K3pre V3 W32 s4", "unb K3pre V3 W32 s4", "Algorithm 2 over the unbiased scale, likewise"),
    ("unb K3pre opt V2 W32 s4", "unb K3pre V2 W32 s4", "values by the least-squares scale over the unbiased, 2 bits"),
    ("unb 3 W32", "unb 3", "a window of 32, 3 bits"),
    ("unb 3 s4", "unb 3", "4 sinks alone"),
    ("unb K3pre V3", "unb 3", "keys centred before RoPE, alone"),
    ("unb K3pre V3 s4", "unb 3", "keys centred before RoPE, and 4 sinks"),
    ("unb K3pre V3 W32", "unb 3 W32", "keys centred before RoPE, window, no sinks"),
    ("unb K3pre V3 W32 s4", "unb 3 W32 s4", "keys centred before RoPE, window and sinks"),
    ("unb K4 V2", "unb 3", "keys at 4 and values at 2 bits over both at 3"),
    ("kivi 2 W32", "mse 4/2 W32", "KIVI at 2 bits (3.0 stored) over Algorithm 1 at 4/2 (3.0 stored), window"),
    ("unb K4/2pre V2 W32 s4", "unb K3pre V2 W32 s4", "key channels at 4/2 (3.0 stored) over keys at 3 (3.25 stored)"),
)
"""Pairs of caches whose KL is compared, and what the ratio is of."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _spread(values: Sequence[float]) -> str:
    """Mean, and the least and the largest of the seeds."""
    mean = significant(float(np.mean(values)))
    return mean if len(values) == 1 else f"{mean} ({significant(min(values))}–{significant(max(values))})"


def _caches(rows: dict[str, Any], names: Iterable[str]) -> str:
    head = ["cache", "bits 4k", "bits 32k"]
    for text in lm_text.TEXTS:
        head += [f"{text}: KL (seeds)", "perplexity", "top 1"]
    body = []
    for name in dict.fromkeys(names):
        row = rows.get(name)
        if row is None:
            continue
        cells = [name, f"{row['bits'][1]:.2f}", f"{row['bits'][2]:.2f}"]
        for text in lm_text.TEXTS:
            if text in row:
                found = row[text]
                cells += [_spread(found["kl"]), f"×{np.mean(found['ratio']):.3f}", f"{found['top1']:.3f}"]
            else:
                cells += ["", "", ""]
        body.append(cells)
    return _table(head, body)


def _pairs(rows: dict[str, Any]) -> str:
    body = []
    for first, second, what in PAIRS:
        if first in rows and second in rows:
            found = lm_tables.compare(rows, first, second)
            span = f"{significant(found['low'])}–{significant(found['high'])}"
            body.append([what, f"`{first}` / `{second}`", significant(found["ratio"]), span, str(found["seeds"])])
    return _table(["KL of", "caches", "ratio", "95 %", "seeds"], body)


def _fidelity(rows: dict[str, Any]) -> str:
    body = []
    for name, row in rows.items():
        noise = "" if row["expected_noise"] is None else f"{row['expected_noise']:.3f}"
        half = [0.0 if row[f"{figure}_half"] is None else row[f"{figure}_half"] for figure in ("slope", "noise")]
        body.append([name, f"{row['slope']:.4f} ± {half[0]:.4f}", f"{row['expected_slope']:.4f}",
                     f"{row['noise']:.3f} ± {half[1]:.3f}", noise, significant(row["attention_kl"])])  # fmt: skip
    return _table(["keys", "slope", "theory", "noise", "theory", "KL of the weights"], body)


def _frontier(rows: dict[str, Any], context: int) -> str:
    body = [[f"{bits:.2f}", name, significant(kl)] for bits, name, kl in lm_tables.frontier(rows, context) if bits < 5]
    return _table([f"bits at {context // 1024}k", "cache", "KL"], body)


def _budgets(rows: dict[str, Any]) -> str:
    """The cache with the least KL that fits, among those that a recipe can say."""
    body = []
    said = {name: row for name, row in rows.items() if lm_configs.by_layer(name) is None}
    for budget in BUDGETS:
        cells = [f"{budget:g}"]
        for context in (4096, 32768):
            fits = [entry for entry in lm_tables.frontier(said, context) if entry[0] <= budget]
            if fits:
                bits, name, kl = fits[-1]
                cells += [f"`{_call(name)}`", f"{bits:.2f}", significant(kl)]
            else:
                cells += [""] * 3
        body.append(cells)
    return _table(["bits at most", "at 4,096 tokens", "bits", "KL", "at 32,768 tokens", "bits", "KL"], body)


def _call(config: str) -> str:
    """The named recipe that has these codes, and its window if it is another; else the table's name."""
    mine = lm_configs.recipe(config)
    for name, recipe in cache.RECIPES.items():
        if replace(recipe, source="", window=mine.window) == replace(mine, source=""):
            return name if recipe.window == mine.window else f"{name}, window {mine.window}"
    return config


def _needles(caches: dict[str, Any]) -> str:
    lengths = sorted({n for rows in caches.values() for n in rows}, key=int)
    body = []
    for name, rows in caches.items():
        cells = []
        for n in lengths:
            right, asked = fig4.total(rows, [n])
            cells.append(f"{right} of {asked}" if asked else "")
        right, asked = fig4.total(rows, lengths)
        surprise = np.mean([np.mean(rows[n]["surprise"]) for n in rows])
        body.append([name, f"{lm_tables.stored(name)[1]:.2f}", *cells, f"{right / asked:.0%}", f"{surprise:.2f}"])
    return _table(["cache", "bits 4k", *lengths, "right", "nats a digit"], body)


def _layers() -> str:
    body = []
    for side, kl in lm_configs.SENSITIVITY.items():
        worst = sorted(range(len(kl)), key=lambda l: -kl[l])[:6]
        share = sum(kl[l] for l in worst) / sum(kl)
        cells = ", ".join(f"{l} ({kl[l] / 1e4:.4f})" for l in worst)
        body.append([side, cells, f"{share:.0%}", f"{np.median(kl) / 1e4:.5f}"])
    return _table(["2 bits", "worst layers (KL of each alone)", "their share of the sum", "median layer"], body)


def tables(table1: dict[str, Any], needles: dict[str, Any]) -> dict[str, str]:
    """The tables, by their marks."""
    rows = table1["rows"]
    strict = [n for n in lm_configs.CORE if len(n.split()) == 2]
    ratios = [[what, c, ", ".join(significant(r) for r in rs)]
              for what in ("structured", "value_mean") for c, rs in table1[what].items()]  # fmt: skip
    return {
        "strict": _caches(rows, sorted(strict, key=lambda n: rows[n]["bits"][2] if n in rows else 0)),
        "window": _caches(rows, [n for n in lm_configs.CORE if n not in strict]),
        "parts": _caches(rows, lm_configs.MORE),
        "search": _caches(
            rows, sorted((*lm_configs.SEARCH, *lm_configs.MIXED), key=lambda n: rows[n]["bits"][2] if n in rows else 0)
        ),
        "pairs": _pairs(table1["paired"]),
        "fidelity": _fidelity(table1["fidelity"]),
        "frontier4k": _frontier(rows, 4096),
        "frontier32k": _frontier(rows, 32768),
        "budgets": _budgets(rows),
        "layers": _layers(),
        "others": _table(["instead", "cache", "KL over that without, each seed and text"], ratios),
        "needles": _needles(needles["caches"]),
    }


def filled(page: str, made: dict[str, str]) -> str:
    """The page with each table between its marks, ``<!-- name -->`` and ``<!-- / -->``."""
    for name, table in made.items():
        page = re.sub(rf"(<!-- {name} -->\n).*?(<!-- / -->)", lambda m, t=table: f"{m[1]}{t}\n{m[2]}", page, flags=re.S)
    return page


def main() -> None:
    """The command line."""
    found = [_store.load(RESULTS, name) for name in ("table1", "fig4")]
    if None in found:
        raise SystemExit(f"no results of table1 and fig4 in {RESULTS}")
    made = tables(*found)
    if "--write" in sys.argv[1:]:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
    else:
        print("\n\n".join(f"## {name}\n\n{table}" for name, table in made.items()))


if __name__ == "__main__":
    main()
