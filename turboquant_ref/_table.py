"""The table that ``turboquant-ref report`` prints."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["LABELS", "table"]

LABELS = {"d_mse": "D_mse", "slope": "slope", "scaled_d_prod": "d·D_prod"}
"""The figures that are compared with exact values."""

COLUMNS = (  # (group, column)
    ("", "algorithm"),
    ("", "b"),
    ("stored", "bits"),
    ("", "bytes"),
    ("smaller than", "float16"),
    ("", "float32"),
    ("D_mse", "measured"),
    ("", "exact"),
    ("", "bound"),
    ("", "lowest"),
    ("slope", "measured"),
    ("", "exact"),
    ("d·D_prod", "measured"),
    ("", "exact"),
    ("recall", "1@1"),
    ("", "1@10"),
)


def _plus_minus(figure: dict[str, Any]) -> str:
    """value±interval, the interval to two digits if it begins with 1 or 2, else to one; marked if it does not fit."""
    width = figure["half_width"]
    decimals = 9
    if width > 0:
        decimals = min(max(-math.floor(math.log10(width / 3)), 1), 9)
    mark = "!" if figure["inside"] is False else ""
    return f"{figure['measured']:.{decimals}f}±{width:.{decimals}f}{mark}"


def _number(value: float | None, digits: int) -> str:
    """`digits` significant digits, never in scientific notation; a dash for None."""
    if value is None:
        return "-"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}" if value else "0"


def _cells(row: dict[str, Any]) -> list[str]:
    mse, slope, product = (row[name] for name in LABELS)
    recalls = [row.get(f"recall_at_1_at_{k}") for k in (1, 10)]
    return [
        row["algorithm"],
        str(row["bits"]),
        f"{row['stored_bits']:.2f}",
        f"{row['bytes_per_vector']:.10g}" if row["bytes_per_vector"] % 1 == 0 else f"{row['bytes_per_vector']:.1f}",
        f"{row['compression']['float16']:.2f}x",
        f"{row['compression']['float32']:.2f}x",
        _plus_minus(mse),
        _number(mse["exact"], 4),
        _number(mse["paper_bound"], 3),
        _number(mse["rate_distortion"], 3),
        _plus_minus(slope),
        "-" if slope["exact"] is None else f"{slope['exact']:.5f}",
        _plus_minus(product),
        _number(product["exact"], 4),
        *("-" if recall is None else f"{recall['measured']:.3f}" for recall in recalls),
    ]


def table(results: dict[str, Any]) -> str:
    """The results of `compute` as text: what was measured, the table, and how to read it."""
    groups, heads = ([pair[i] for pair in COLUMNS] for i in (0, 1))
    lines = [_cells(row) for row in results["rows"]]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]

    def line(cells: list[str]) -> str:
        aligned = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return "".join(("   " if group else "  ") + cell for group, cell in zip(groups, aligned, strict=True))[2:]

    top, starts = "", [i for i, group in enumerate(groups) if group]
    for i in starts:
        at = len(line([""] * len(widths))[: sum(w + 2 for w in widths[:i]) + sum(j <= i for j in starts)])
        top = top.ljust(at) + groups[i]
    rule = "-" * len(line(heads))
    body = [rule, top, line(heads), rule]
    for row, cells in zip(results["rows"], lines, strict=True):
        body.append(line(cells))
        if row["bits"] == results["settings"]["bits"][-1]:
            body.append(rule)
    return "\n".join([*_heading(results), "", *body, "", *_notes(results)])


def _heading(results: dict[str, Any]) -> list[str]:
    data, settings, versions = results["data"], results["settings"], dict(results["versions"])
    own = versions.pop("turboquant_ref")
    norms = " / ".join(f"{data['norms'][key]:.4g}" for key in ("min", "median", "max"))
    zero = f" ({data['zero_rows']:,} zero rows left out)" if data["zero_rows"] else ""
    return [
        f"{data['source']}: n = {data['rows']:,}{zero}, d = {data['d']}, {data['dtype']}, "
        f"norms {norms} (min / median / max)",
        f"{data['vectors']:,} vectors quantized in {data['compute_dtype']}, {data['queries']:,} queries held out; "
        f"rotation {settings['rotation']}, {settings['draws']} draws, seed {settings['seed']}; "
        f"turboquant_ref {own}, {', '.join(f'{name} {version}' for name, version in versions.items())}",
    ]


def _notes(results: dict[str, Any]) -> list[str]:
    data, settings, family, rows = (results[key] for key in ("data", "settings", "comparisons", "rows"))
    notes = [
        "stored    bits a coordinate and bytes a vector as packed: indices, signs, padding and float32 side scalars",
        "D_mse     E ||x - x~||² / ||x||²; bound: Theorem 1 (of Algorithm 1), (√3 π/2) 4^-b; lowest: "
        "rate-distortion function of the sphere at b bits",
        "slope     E <y, x~> / <y, x>, 1 if unbiased: regression over a made-up y for each x, "
        "its cosine to x uniform on [-1, 1]",
        "d·D_prod  d E (<y, x~> - <y, x>)² / (||x|| ||y||)², y another row at random (root mean square cosine "
        f"{data['root_mean_square_cosine']:.3f}); exact: mean over the very pairs",
        "recall    1@k: how often the vector of largest <query, x> is among the k largest estimates; "
        f"{settings['recall_draws']} draws",
        f"±         Student's interval at {family['confidence']:.3%} over {settings['draws']} draws of the quantizer, "
        f"{settings['vectors_a_draw']:,} vectors each",
    ]
    if settings["rotation"] != "haar":
        notes.append("exact     for a Haar rotation; a structured one only comes close to it, so a ! need not be a bug")
    if any(row["d_mse"]["exact"] is None for row in rows):
        notes.append("-         no exact value is known to theory at this dimension and bit width")
    notes.append(
        f"!         the exact value is outside the interval: {family['outside']} of {family['count']} comparisons; "
        f"{family['expected_false_marks']:.2g} expected if all is right "
        f"(no mark with probability {family['familywise_confidence']:.0%})"
    )
    if family["count"]:
        worst = [
            f"{label} {max(r[name]['detectable'] / r[name]['exact'] for r in rows if r[name]['exact']):.1%}"
            for name, label in LABELS.items()
        ]
        sizes = ", ".join(worst)
        notes.append(f"power     a figure that is wrong by this much would be marked, with probability 99%: {sizes}")
    return notes
