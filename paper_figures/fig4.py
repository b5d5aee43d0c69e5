"""Fig 4 in miniature: needles in a haystack, depth by length, with quantized KV caches.

The paper hides one needle in 4k to 104k tokens and asks Llama-3.1-8B-Instruct; here six are hidden in 512 to 4096
tokens (`lm_text.haystack`), and SmolLM2-135M-Instruct is asked for six digits each.  A cell is the share of digits that
are right, each after the true ones before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import lm_jobs, lm_tables, lm_text
from ._style import new_figure, styled
from .table1 import _has_model, committed

FULL: dict[str, Any] = {"plan": "all", "lines": "runs/lm.jsonl"}
QUICK: dict[str, Any] = {"plan": "small", "lines": None}


def compute(plan: str, lines: str | None) -> dict[str, Any]:
    """Right digits by cache, length and depth; see `lm_tables.needles`."""
    if plan == "small" and not _has_model():
        return committed("fig4")
    found = lm_tables.needles(lm_jobs.gather(plan, {"needles"}, lines))
    return {"depths": list(lm_text.DEPTHS), "caches": {c: found[c] for c in dict.fromkeys(_order(found))}}


def _order(found: dict[str, Any]) -> list[str]:
    from .lm_configs import HEAT

    return [c for c in HEAT if c in found] + list(found)


def shares(rows: dict[str, Any], lengths: list[str]) -> Any:
    """(depths, lengths) share of right digits; nan where nothing was asked."""
    empty = [np.nan] * len(lm_text.DEPTHS)
    return np.array([np.divide(rows[n]["right"], rows[n]["asked"]) if n in rows else empty for n in lengths]).T


def total(rows: dict[str, Any], lengths: list[str]) -> tuple[int, int]:
    """Right digits and digits asked, of these lengths."""
    known = [rows[n] for n in lengths if n in rows]
    return sum(sum(r["right"]) for r in known), sum(r["asked"] * len(r["right"]) for r in known)


@styled
def plot(results: dict[str, Any]) -> Any:
    """A map a cache: depth down, length across."""
    caches = results["caches"]
    lengths = sorted({n for rows in caches.values() for n in rows}, key=int)
    columns = min(5, len(caches))
    lines = -(-len(caches) // columns)
    figure = new_figure(2.1 * columns + 0.6, 2.15 * lines + 0.5)
    axes = figure.subplots(lines, columns, squeeze=False)
    image = None
    for ax, (name, rows) in zip(axes.flat, caches.items(), strict=False):
        image = ax.imshow(shares(rows, lengths), vmin=0, vmax=1, cmap="viridis", aspect="auto")
        right, asked = total(rows, lengths)
        bits = lm_tables.stored(name)[1]
        ax.set_title(f"{title(name)}\n{bits:.2f} bits; {right / asked:.0%} right", fontsize=8)
        ax.set_xticks(range(len(lengths)), [_thousands(n) for n in lengths], fontsize=7)
        ax.set_yticks(range(len(results["depths"])), [f"{d:.0%}" for d in results["depths"]], fontsize=7)
        ax.grid(visible=False)
    for ax in axes.flat[len(caches) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("tokens")
    for ax in axes[:, 0]:
        ax.set_ylabel("depth")
    if image is not None:
        figure.colorbar(image, ax=axes, label="digits right", shrink=0.6)
    figure.suptitle(
        "Six needles in one haystack, SmolLM2-135M-Instruct; stored bits a coordinate at 4k tokens, all counted",
        fontsize=10,
    )
    return figure


def title(name: str) -> str:
    """A cache's name for a reader who has not seen the others."""
    if name == "full":
        return "full precision"
    return name.replace(" W128 s4", ", 128 + 4 kept").replace(" W128", ", 128 kept")


def _thousands(n: str) -> str:
    return n if int(n) < 1000 else f"{int(n) // 1024}k"


def summary(results: dict[str, Any]) -> str:
    """Digits right, cache by cache and length by length."""
    caches = results["caches"]
    lengths = sorted({n for rows in caches.values() for n in rows}, key=int)
    lines = [results["note"]] if "note" in results else []
    lines.append(f"{'digits right':26}" + "".join(f"{_thousands(n):>8}" for n in lengths) + f"{'all':>8}")
    for name, rows in caches.items():
        cells = [total(rows, [n]) for n in lengths] + [total(rows, lengths)]
        lines.append(
            f"{name:26}" + "".join(f"{right / asked:8.0%}" if asked else f"{'-':>8}" for right, asked in cells)
        )
    return "\n".join(lines)
