"""Rows of measurements as a table, a JSON file, and a roofline picture."""

from __future__ import annotations

import importlib
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numba_kernels as nk

WIDTHS = {"contender": 18, "data": 9}
HIDDEN = {"section", "seconds", "best", "rounds", "build s", "level"}


def line(row: dict[str, Any], head: bool = False) -> str:
    """A row, or the names over such rows."""
    cells = []
    for name, value in row.items():
        if name in HIDDEN:
            continue
        width = max(WIDTHS.get(name, 8), len(name))
        value = "-" if value is None else value
        shown = name if head else f"{value:.4g}" if isinstance(value, float) else str(value)
        cells.append(f"{shown:<{width}}" if name in WIDTHS else f"{shown:>{width}}")
    return " ".join(cells)


def machine() -> dict[str, Any]:
    """The processor, and the versions of what was measured."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [text.split(":", 1)[1].strip() for text in info.read_text().splitlines() if "model name" in text]
        model = f"{named[0]}, {len(named)} cores" if named else model
    versions = {"python": platform.python_version()}
    for name in ("numpy", "numba", "llvmlite", "faiss", "turbovec", "torch"):
        if name in sys.modules:
            versions[name] = str(getattr(importlib.import_module(name), "__version__", "?"))
    if "rabitqlib" in sys.modules:
        from importlib.metadata import version

        versions["rabitqlib"] = version("rabitqlib")
    return {"machine": model, "instructions": nk.LEVEL, "versions": versions}


def write(path: Path, rows: list[dict[str, Any]], command: str) -> None:
    """The rows with machine, versions and command; the roofline beside them as a .png."""
    record = {**machine(), "command": command, "rows": rows}
    path.write_text(json.dumps(record, indent=1) + "\n")
    ceilings = {row["contender"]: row for row in rows if row["section"] == "ceilings"}
    points = [row for row in rows if row["section"] == "search" and row["data"] == "random" and row["bits"] == 4]
    if ceilings and points:
        try:
            roofline(path.with_suffix(".png"), ceilings, points)
        except ImportError as error:
            print(f"no picture: {error}")


MARKS = {
    **{"ours exact": "#0072B2", "ours int8": "#D55E00", "turbovec": "#009E73"},
    **{"faiss PQFastScan": "#E69F00", "rabitqlib": "#CC79A7"},
}


def roofline(path: Path, ceilings: dict[str, dict[str, Any]], points: Iterable[dict[str, Any]]) -> None:
    """Products of coordinates a second over products a byte of code: the limits of the machine, and how near we are.

    A roof is the best round of its loop: the clock falls after others have run. turbovec may lie above that of reading:
    where it scans in stages, it does not read all of a code.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5))
    bandwidth = ceilings["read, 64 MB"]["best"]
    low, high = 1.0, 2000.0
    for name, color in (("8-bit products", MARKS["ours int8"]), ("float32 products", MARKS["ours exact"])):
        peak = ceilings[name]["best"]
        knee = peak / bandwidth
        axes.plot([low, knee, high], [low * bandwidth, peak, peak], color=color, lw=1, alpha=0.7)
        axes.text(high, peak * 1.05, f"{name}, in registers: {peak:.0f} G/s", ha="right", color=color, fontsize=8)
    axes.text(low * 4.2, low * bandwidth * 3, f"reading: {bandwidth:.1f} GB/s", fontsize=8)
    shapes = {128: "o", 768: "s", 1536: "^"}
    labelled = set()
    for row in points:
        if row["contender"] not in MARKS or row["d"] not in shapes or row["n"] < 20_000:
            continue
        intensity = row["batch"] * row["d"] / (row["d"] * row["bits"] / 8 + 4)
        intensity *= 1.12 ** (list(MARKS).index(row["contender"]) - 2)  # side by side, to be told apart
        label = f"{row['contender']}, d = {row['d']}"
        axes.plot(
            *(intensity, row["Mcodes/s"] * row["d"] / 1e3),
            shapes[row["d"]],
            color=MARKS[row["contender"]],
            label=None if label in labelled else label,
            ms=6,
            mfc=MARKS[row["contender"]] if row["n"] <= 100_000 else "none",
        )
        labelled.add(label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("products of coordinates for a byte of code (a single query left, 64 right)")
    axes.set_ylabel("G products of coordinates a second")
    axes.set_title("4-bit search of random vectors, one core (hollow: n = 1,000,000)", fontsize=10)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.grid(alpha=0.2, which="both")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
