"""Every named variant at d = 64, 128, 1536 and b = 1 to 4: what it stores, and its figures exact beside measured.

    python -m benchmarks.variants [--draws-scale K] [--out DIRECTORY]

Writes variants.json (everything) and variants.md (the tables).  The draw of (Pi, S) and of 64 isotropic vectors is
the unit of replication.  Intervals are Student's at 99 %; a figure whose exact value is outside the interval at which
all of them hold together with 99 % (Bonferroni) is marked "!".  At d = 1536 rotations, and the blocks of orthogonal
sketches, are structured, which isotropic vectors cannot tell from Haar's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from turboquant_ref import signature, variants

DIMENSIONS = {64: 48, 128: 48, 1536: 12}  # and draws
BITS = (1, 2, 3, 4)
ROWS = 64
FAMILYWISE = 0.99
RESULTS = Path(__file__).parent / "results"
COLUMNS = ("distortion", "slope", "across", "along")
HEADS = ("D_mse", "slope", "d·Var at ρ = 0", "d·Var at ρ = 1")

# paper notes D.2 (Monte Carlo of the specification): rows of (d, b), columns as below
D2_COLUMNS = (
    ("prod", "across"), ("prod-orthogonal", "across"), ("rabitq", "across"), ("mse-unbiased", "across"),
    ("mse", "distortion"), ("mse-least_squares", "distortion"), ("rabitq-least_squares", "distortion"),
    ("mse-matched", "distortion"),
)  # fmt: skip
D2 = {
    (128, 1): (1.571, 0.571, 0.569, 0.569, 0.3609, 0.3605, 0.3605, 0.4014),
    (128, 2): (0.565, 0.206, 0.132, 0.131, 0.1160, 0.1153, 0.1155, 0.1189),
    (128, 3): (0.181, 0.066, 0.0365, 0.0349, 0.03397, 0.03350, 0.0349, 0.0338),
    (128, 4): (0.0531, 0.0194, 0.0100, 0.0093, 0.00931, 0.00914, 0.0098, 0.0092),
    (1536, 2): (0.570, 0.207, 0.135, 0.133, 0.1174, 0.1174, 0.1185, 0.1210),
    (1536, 4): (0.0542, 0.0197, 0.0116, 0.0096, 0.00949, 0.00947, 0.0114, 0.0095),
}


def measure(d: int, bits: int, variant: variants.Variant, draws: int) -> dict[str, Any]:
    """One row: exact and measured."""
    exact = variant.exact(d, bits)
    kind = "haar" if d <= 128 else "structured"
    found = variant.measured(d, bits, draws, kind, rows=ROWS, seed=bits)
    return {
        **{"d": d, "bits": bits, "variant": variant.name, "wrong": variant.wrong, "stored_bits": exact.stored_bits},
        "exact": dataclasses.asdict(exact),
        "measured": {
            name: {"value": e.value, "half_width": e.half_width, "draws": e.draws, "std_error": e.std_error}
            for name, e in found.items()
        },
        "estimates": found,
    }


def judge(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare all figures that have an exact value, at one confidence for all; takes the estimates out of the rows."""
    compared = [
        (row["measured"][name], row["estimates"][name], row["exact"][name])
        for row in rows
        for name in signature.FIGURES
        if row["exact"][name] is not None
    ]
    confidence = 1 - (1 - FAMILYWISE) / len(compared)
    for figure, estimate, exact in compared:
        wide = dataclasses.replace(estimate, confidence=confidence)
        rounding = 1e-9 * max(abs(exact), 1e-6)  # figures that do not vary at all
        figure["inside_99"] = bool(abs(estimate.value - exact) <= estimate.half_width + rounding)
        figure["inside"] = bool(abs(estimate.value - exact) <= wide.half_width + rounding)
    for row in rows:
        del row["estimates"]
    return {
        "compared": len(compared),
        "confidence": confidence,
        "outside_99": sum(not figure["inside_99"] for figure, *_ in compared),
        "outside": sum(not figure["inside"] for figure, *_ in compared),
    }


def number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    if abs(value) < 1e-12:
        return "0"
    return f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"


def cell(row: dict[str, Any], name: str) -> str:
    """exact | measured ± half width, as many decimals as the interval deserves."""
    figure, exact = row["measured"][name], row["exact"][name]
    digits = 6 if name == "slope" else 4
    width = figure["half_width"]
    decimals = min(max(1 - math.floor(math.log10(width)), 1), 7) if width > 1e-12 else 7
    shown = (
        f"{figure['value']:.{decimals}f} ± {width:.{decimals}f}" if width > 1e-12 else number(figure["value"], digits)
    )
    return f"{number(exact, digits)} | {shown}{'' if figure.get('inside', True) else ' !'}"


def markdown(rows: list[dict[str, Any]], verdict: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# Every named variant, exact beside measured",
        "",
        "Made by `python -m benchmarks.variants`.  Stored bits a coordinate count norms, scales, zero points and",
        "padding, in the dtype that the variant stores: float32, unless `turboquant-ref variants` says otherwise.",
        "Intervals are at 99 %; a dash has no closed form.  Variants in *italics* break a promise of the paper.",
        f"Compared: {verdict['compared']} figures; outside 99 %: {verdict['outside_99']}; outside the interval of all"
        f" together (marked !): {verdict['outside']}.",
    ]
    for d in DIMENSIONS:
        for bits in BITS:
            of = [row for row in rows if (row["d"], row["bits"]) == (d, bits)]
            lines += ["", f"## d = {d}, b = {bits}", ""]
            lines.append("| variant | stored bits | " + " | ".join(f"{head} | measured" for head in HEADS) + " |")
            lines.append("|---" * (2 + 2 * len(HEADS)) + "|")
            for row in of:
                name = f"*{row['variant']}*" if row["wrong"] else row["variant"]
                cells = " | ".join(cell(row, column) for column in COLUMNS)
                lines.append(f"| {name} | {row['stored_bits']:.3f} | {cells} |")
    lines += ["", "## One-hot and constant vectors, d = 128: what a poor rotation does", ""]
    lines += ["| variant | b | one-hot | measured | constant | measured |", "|---" * 6 + "|"]
    for row in rows:
        if row["d"] == 128 and row["variant"] in ("mse", "mse-one-hadamard", "mse-unsigned", "turbo3-turbo4", "vllm"):
            pair = " | ".join(cell(row, name) for name in ("one_hot", "constant"))
            lines.append(f"| {row['variant']} | {row['bits']} | {pair} |")
    found = {(row["d"], row["bits"], row["variant"]): row for row in rows}
    lines += ["", "## paper notes D.2, reproduced: printed / exact or measured", ""]
    lines.append("| d, b | " + " | ".join(name for name, _ in D2_COLUMNS) + " |")
    lines.append("|---" * (1 + len(D2_COLUMNS)) + "|")
    for (d, bits), printed in D2.items():
        cells = []
        for (name, figure), value in zip(D2_COLUMNS, printed, strict=True):
            row = found[d, bits, name]
            exact = row["exact"][figure]
            cells.append(f"{value} / {number(row['measured'][figure]['value'] if exact is None else exact)}")
        lines.append(f"| {d}, {bits} | " + " | ".join(cells) + " |")
    polar = found[128, 4, "polar"]
    figures = cell(polar, "distortion").replace(" | ", ", ")
    lines += ["", f"PolarQuant at 3.875 bits (paper notes C: 0.0321): {figures}."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.variants", description=__doc__.splitlines()[0])
    parser.add_argument("--draws-scale", type=float, default=1.0, help="times the default number of draws")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory of the results")
    options = parser.parse_args(argv)
    every = [*variants.NAMED.values(), *variants.WILD.values()]
    cells = [(d, b, v) for d in DIMENSIONS for b in BITS for v in every if v.refuses(d, b) is None]
    rows = []
    start = time.monotonic()
    for done, (d, b, v) in enumerate(cells):
        if sys.stderr.isatty():
            print(f"\r{done}/{len(cells)} {v.name:30}", end="", file=sys.stderr)
        rows.append(measure(d, b, v, max(4, round(options.draws_scale * DIMENSIONS[d]))))
    verdict = judge(rows)
    text = markdown(rows, verdict)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "variants.md").write_text(text)
    command = "python -m benchmarks.variants"
    if options.draws_scale != 1.0:
        command += f" --draws-scale {options.draws_scale:g}"
    settings = {"command": command, "numpy": np.__version__, "rows_a_draw": ROWS, "draws": DIMENSIONS}
    record = {**settings, **verdict, "rows": rows}
    (options.out / "variants.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print(text)
    print(f"{len(rows)} rows, {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
