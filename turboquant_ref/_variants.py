"""The table that ``turboquant-ref variants`` prints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from .signature import FIGURES
from .variants import NAMED, WILD, Variant

__all__ = ["compute", "table"]

HEADS = {
    "excess": "codebook",
    "distortion": "D_mse",
    "slope": "slope",
    "across": "d·Var ρ=0",
    "along": "d·Var ρ=1",
    "one_hot": "one-hot",
    "constant": "constant",
}


def compute(
    d: int,
    bits: Sequence[int],
    draws: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Exact signatures of every variant that there is at (d, b), and measured ones too if `draws` is not 0.

    Returns
    -------
    dict
        Of plain numbers, strings, lists and dicts, ready for JSON.
    """
    every = [*NAMED.values(), *WILD.values()]
    cells = [(v, b) for b in bits for v in every if v.refuses(d, b) is None]
    rows = []
    for done, (v, b) in enumerate(cells):
        rows.append(_row(v, d, b, draws, seed))
        progress(done + 1, len(cells))
    settings = {"d": d, "bits": list(bits), "draws": draws, "seed": seed}
    return {"format": "turboquant_ref variants 1", **settings, "rows": rows}


def _row(v: Variant, d: int, bits: int, draws: int, seed: int) -> dict[str, Any]:
    exact = v.exact(d, bits)
    row = {
        "variant": v.name,
        "wrong": v.wrong,
        "description": v.description,
        "source": v.source,
        **dataclasses.asdict(exact),
        "stored_bits": exact.stored_bits,
    }
    if draws:
        found = v.measured(d, bits, draws, "haar" if d <= 256 else "structured", seed=seed)
        row["measured"] = {name: {"value": e.value, "half_width": e.half_width} for name, e in found.items()}
    return row


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if abs(value) < 1e-7:
        return "0"
    return f"{value:.{min(max(3 - math.floor(math.log10(abs(value))), 0), 7)}f}"


def _cell(row: dict[str, Any], name: str) -> str:
    if name == "excess":
        return "-" if row[name] is None else f"{row[name]:+.3%}"
    shown = f"{row[name]:.5f}" if name == "slope" and row[name] is not None else _number(row[name])
    if name in FIGURES and "measured" in row:
        figure = row["measured"][name]
        width = figure["half_width"]
        decimals = min(max(1 - math.floor(math.log10(width)), 1), 7) if width > 1e-9 else 7
        shown += f" {figure['value']:.{decimals}f}±{width:.{decimals}f}"
    return shown


def table(results: dict[str, Any]) -> str:
    """The results of `compute` as text."""
    measured = results["draws"] > 0
    lines = []
    for b in results["bits"]:
        rows = [row for row in results["rows"] if row["bits"] == b]
        heads = [f"d = {results['d']}, b = {b}", "bytes", "stored bits", *HEADS.values()]
        body = [
            [
                row["variant"] + (" (wrong)" if row["wrong"] else ""),
                f"{row['bytes']:.1f}".removesuffix(".0"),
                f"{row['stored_bits']:.3f}",
                *(_cell(row, name) for name in HEADS),
            ]
            for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(heads, *body, strict=True)]
        for cells in (heads, *body):
            first, *rest = (c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
            lines.append("  ".join([first, *rest]).rstrip())
            if cells is heads:
                lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
        lines.append("")
    beside = "exact, then measured with its 99 % interval" if measured else "exact; - has no closed form, --measure it"
    lines += [
        f"Figures are {beside}.",
        "codebook: how much larger its distortion is than that of Eq 4's.  slope: E<y,x~> / <y,x>; 1 is unbiased.",
        "d·Var: of <y,x~> for unit x and y at <x,y> = ρ.  one-hot, constant: ||x - x~||² of e_1 and of (1, .., 1)/√d.",
        "(wrong): it breaks a promise of the paper.  What each is and who runs it:",
    ]
    named = {row["variant"]: row for row in results["rows"]}
    width = max(map(len, named), default=0)
    lines += [f"  {name:<{width}}  {row['description']} [{row['source']}]" for name, row in named.items()]
    return "\n".join(lines)
