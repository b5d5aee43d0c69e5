"""TurboQuant, Fig 3: inner-product error and MSE against bits, with the paper's bounds, constants, and exact values.

(a) D_prod of Eq 2, times d, averaged over the pairs of the data; (b) D_mse of Eq 1.  Below each, measured over exact.
The constants printed in Theorems 1 and 2 are crosses; the exact ones, their limits for large d, are plusses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from turboquant_ref import theory

from . import errors
from ._style import COLOURS, GREY, new_figure, significant, styled
from .fig1 import FULL, QUICK

__all__ = ["FULL", "QUICK", "compute", "plot", "summary"]


def compute(
    data: str, n: int, n_queries: int, draws: int, seed: int = 0, ops: str = "turboquant_ref"
) -> dict[str, Any]:
    """Both errors at 1 to 5 bits; arguments of `errors.measure`.

    Returns
    -------
    dict
        ``product`` (d times the mean squared error) and ``mse``: (variants, algorithms, bits, draws), with
        ``exact_product`` and ``exact_mse``; ``sphere``, the distortion-rate function at these bits; ``printed`` and
        ``corrected`` (2, 4), the constants of Theorem 1 and Theorem 2.
    """
    r = errors.measure(data, n, n_queries, draws, seed=seed, ops=ops)
    results = {name: r[name] for name in ("data", "variants", "algorithms", "bits", "d", "mse", "exact_mse")}
    rows = [theory.printed("mse"), theory.printed("prod")]
    return results | {
        "product": r["square"] * r["d"],
        "exact_product": r["exact_square"] * r["d"],
        "sphere": np.array([theory.rate_distortion(r["d"], int(b)) for b in r["bits"]]),
        "printed": np.array([[row[1] for row in table] for table in rows]),
        "corrected": np.array([[row[2] for row in table] for table in rows]),
    }


PANELS = (
    ("product", r"$d \cdot E\,(\langle y, x\rangle - \langle y, \tilde{x}\rangle)^2$", "(a) inner-product error", 1,
     r"Theorem 2: $\sqrt{3}\,\pi^2\,4^{-b}$", math.sqrt(3) * math.pi**2),
    ("mse", r"$E\,\|x - \tilde{x}\|^2$", "(b) MSE", 0,
     r"Theorem 1: $(\sqrt{3}\,\pi/2)\,4^{-b}$", math.sqrt(3) * math.pi / 2),
)  # fmt: skip


@styled
def plot(results: dict[str, Any]) -> Any:
    """Two panels over bits, log scale, and under each the ratio of measured to exact with its joint interval."""
    figure = new_figure(11, 7.4)
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 1.1))
    bits = np.asarray(results["bits"], dtype=float)
    fine = np.linspace(bits[0] - 0.3, bits[-1] + 0.3, 50)
    colours = {"prod": (COLOURS["red"], COLOURS["orange"]), "mse": (COLOURS["blue"], COLOURS["sky"])}
    for (name, label, title, row, theorem, bound), upper, lower in zip(PANELS, *axes, strict=True):
        upper.plot(fine, bound * 4.0**-fine, "--", color=GREY, label=theorem)
        upper.plot(fine, 4.0**-fine, ":", color=GREY, label="Theorem 3: $4^{-b}$")
        if name == "mse":
            upper.plot(bits, results["sphere"], color="0.1", linewidth=0.8, label="the sphere's distortion-rate, exact")
        means, half, outside, count = errors.intervals(results[name], results["exact_" + name])
        exact = np.asarray(results["exact_" + name])
        for v, variant in enumerate(results["variants"]):
            for a, algorithm in enumerate(results["algorithms"]):
                colour, marker = colours[algorithm][v], "os"[v]
                aside = 0.12 * (2 * v + a - 1.5)
                upper.plot(bits, exact[v, a], color=colour, linewidth=1, linestyle="-" if v == 0 else "--")
                upper.errorbar(bits, means[v, a], half[v, a], color=colour, marker=marker, linestyle="none", capsize=2,
                               markerfacecolor="none" if v else colour, label=f"{algorithm}, {variant}")  # fmt: skip
                lower.errorbar(bits + aside, means[v, a] / exact[v, a] - 1, half[v, a] / exact[v, a], color=colour,
                               marker=marker, linestyle="none", capsize=2,
                               markerfacecolor="none" if v else colour)  # fmt: skip
        first = np.arange(1, 5)
        which = ("Theorem 1", "Theorem 2")[row]
        for key, marker, what in (("printed", "x", f"printed, {which}"), ("corrected", "+", "exact limit of it")):
            upper.plot(first, np.asarray(results[key])[row], marker, color="k", markersize=7, label=what)
        upper.set(yscale="log", ylabel=label, title=title)
        upper.legend(loc="lower left")
        lower.axhline(0, color="0.3", linewidth=0.8)
        lower.set(xlabel="b, bits a coordinate", ylabel="measured / exact − 1")
        lower.set_title(f"{outside} of {count} outside their joint 99 % intervals", fontsize=8)
        lower.set_xticks(bits)
        lower.yaxis.set_major_formatter(lambda value, _: f"{value:+.1%}" if value else "0")
    data, draws = results["data"], np.asarray(results["mse"]).shape[-1]
    title = f"{data['name']}: {data['base']} vectors, {data['queries']} queries, {draws} draws. Lines: exact"
    figure.suptitle(title, fontsize=10)
    return figure


def summary(results: dict[str, Any]) -> str:
    """Measured beside exact, which of the two is smaller where, and the points outside their intervals."""
    lines, outside, count = [], 0, 0
    for name, what in (("product", "d E (inner-product error)^2"), ("mse", "E ||x - x~||^2")):
        exact = np.asarray(results["exact_" + name])
        means, half, out, total = errors.intervals(results[name], exact)
        outside, count = outside + out, count + total
        lines.append(f"{what}: measured ± joint 99 % interval [exact], b = 1 to {len(results['bits'])}")
        for v, variant in enumerate(results["variants"]):
            for a, algorithm in enumerate(results["algorithms"]):
                cells = [f"{significant(m)} ± {h:.1g} [{significant(e)}]" for m, h, e in
                         zip(means[v, a], half[v, a], exact[v, a], strict=True)]  # fmt: skip
                lines.append(f"  {algorithm:<4} {variant:<11} " + "  ".join(cells))
    product = np.asarray(results["exact_product"])
    for v, variant in enumerate(results["variants"]):
        wins = [int(b) for b, p, m in zip(results["bits"], product[v, 0], product[v, 1], strict=True) if p < m]
        lines.append(f"{variant}: prod has the smaller inner-product error on these pairs at b = {wins or 'none'}")
    return "\n".join([*lines, f"{outside} of {count} points outside their intervals (joint, 99 %, each panel)"])
