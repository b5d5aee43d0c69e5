"""The picture that ``turboquant-ref report --plot`` draws; matplotlib is imported when it is asked for, not before."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import theory

__all__ = ["plot"]

# Okabe and Ito's colours, which the colour-blind can tell apart, each with a marker of its own
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "*")


def plot(results: dict[str, Any]) -> Any:
    """Distortion against bits, with bounds: D_mse on the left, d D_prod on the right, measured over exact below.

    Needs matplotlib, of the extra "report".

    Parameters
    ----------
    results : dict
        Of `compute`, or read back from its JSON file.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    data, settings = results["data"], results["settings"]
    bits = sorted(settings["bits"])
    figure = Figure(figsize=(12, 8.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1))
    fine = np.linspace(bits[0] - 0.4, bits[-1] + 0.4, 49)
    distortion = r"E\,\|x - \tilde{x}\|^2 / \|x\|^2"
    product = r"d\,E\,(\langle y, \tilde{x}\rangle - \langle y, x\rangle)^2 / (\|x\|\,\|y\|)^2"
    panels = (
        ("d_mse", rf"$D_{{\mathrm{{mse}}}} = {distortion}$", r"Theorem 1, left: $(\sqrt{3}\pi/2)\,4^{-b}$", 0.5),
        (
            "scaled_d_prod",
            rf"$d \cdot D_{{\mathrm{{prod}}}} = {product}$",
            r"Theorem 2, right: $\sqrt{3}\pi^2\,4^{-b}$",
            math.pi,
        ),
    )
    for (name, label, theorem, factor), upper, lower in zip(panels, *axes, strict=True):
        upper.plot(fine, math.sqrt(3) * math.pi * factor * 4.0**-fine, "--", color="0.5", linewidth=1.2, label=theorem)
        _points(results, name, upper, lower)
        upper.plot(fine, 4.0**-fine, ":", color="0.4", linewidth=1.4, label="Theorem 3: $4^{-b}$")
        if name == "d_mse":
            sphere = [theory.rate_distortion(data["d"], float(b)) for b in fine]
            upper.plot(fine, sphere, color="0.1", linewidth=1, label=f"rate-distortion of the sphere, d = {data['d']}")
        upper.set(yscale="log", ylabel=label)
        upper.grid(color="0.92")
        lower.axhline(0, color="0.3", linewidth=0.8)
        lower.grid(color="0.92")
        lower.yaxis.set_major_formatter(PercentFormatter(1.0))
        lower.set(xlabel="b, bits a coordinate (side scalars come on top)", ylabel="measured / exact - 1")
        lower.set_xticks(bits)
        lower.set_xlim(fine[0], fine[-1])
    entries = [axis.get_legend_handles_labels() for axis in axes[0]]
    handles = {label: handle for found, labels in entries for handle, label in zip(found, labels, strict=True)}
    title = "points: measured, with their intervals; lines through them: exact"
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9, title=title)
    figure.suptitle(
        f"{data['source']}: {data['vectors']:,} vectors, d = {data['d']}; rotation {settings['rotation']}, "
        f"{settings['draws']} draws, intervals at {results['comparisons']['confidence']:.3%}",
        fontsize=11,
    )
    return figure


def _points(results: dict[str, Any], name: str, upper: Any, lower: Any) -> None:
    """Above, measured points on lines through the exact values; below, side by side, how far they are from them."""
    names = results["settings"]["algorithms"]
    for i, algorithm in enumerate(names):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        rows = sorted((r for r in results["rows"] if r["algorithm"] == algorithm), key=lambda r: r["bits"])
        b = np.array([row["bits"] for row in rows], dtype=float)
        exact = np.array([row[name]["exact"] or math.nan for row in rows])
        measured = np.array([row[name]["measured"] for row in rows])
        width = np.array([row[name]["half_width"] for row in rows])
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "capsize": 2, "markersize": 5}
        upper.plot(b, exact, color=colour, linewidth=1)
        upper.errorbar(b, measured, width, label=algorithm, markerfacecolor="none", **style)
        aside = 0.7 * ((i + 0.5) / len(names) - 0.5)
        lower.errorbar(b + aside, measured / exact - 1, width / exact, **style)
