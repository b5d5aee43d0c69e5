"""TurboQuant, Fig 2: errors at 2 bits, grouped by the inner product <y, x>.

The paper's claim: prod's spread does not depend on the inner product, mse's bias grows with it.  Exactly, the bias
of mse is (1 - slope) <y, x>, and prod's variance as written is (0.570 - 0.132 <y, x>^2) / d for large d: constant
only to -23 % at <y, x> = 1.  The groups here are quarters of all pairs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import errors
from ._style import COLOURS, GREY, new_figure, styled
from .fig1 import FULL, QUICK

__all__ = ["FULL", "QUICK", "compute", "plot", "summary"]

BITS = 2


def compute(
    data: str, n: int, n_queries: int, draws: int, seed: int = 0, ops: str = "turboquant_ref"
) -> dict[str, Any]:
    """Histograms, means and spreads a group; arguments of `errors.measure`.

    Returns
    -------
    dict
        ``rho`` (4,), the groups' average inner products; ``histogram`` (variants, algorithms, 4, bins) over ``edges``;
        ``mean``, ``square`` (variants, algorithms, 4, draws) and their exact values; ``spread_at_one``, d Var of prod
        as written at <y, x> = 1 over that at 0.
    """
    r = errors.measure(data, n, n_queries, draws, seed=seed, ops=ops)
    k = list(r["bits"]).index(BITS)
    results = {name: r[name] for name in ("data", "variants", "algorithms", "d", "rho")}
    results["edges"] = r["edges"][k]
    for name in ("mean", "square"):
        results[name], results["exact_" + name] = r["group_" + name][:, :, k], r["exact_group_" + name][:, :, k]
    m = errors.exact_moments("as written", "prod", r["d"], BITS)
    return results | {"histogram": r["group_histogram"][:, :, k], "spread_at_one": m.along / m.across}


@styled
def plot(results: dict[str, Any]) -> Any:
    """Two rows, prod and mse; four columns, the groups; vertical lines at the exact mean errors."""
    figure = new_figure(11, 5.4)
    axes = figure.subplots(2, len(results["rho"]), sharex=True, sharey="row")
    edges = np.asarray(results["edges"])
    colours = (COLOURS["red"], COLOURS["blue"])
    for a, algorithm in enumerate(results["algorithms"]):
        for g, rho in enumerate(results["rho"]):
            axis = axes[a, g]
            for v, variant in enumerate(results["variants"]):
                density = np.asarray(results["histogram"])[v, a, g] / np.diff(edges)
                axis.stairs(density, edges, color=colours[v], fill=True, alpha=0.18)
                axis.stairs(density, edges, color=colours[v], linewidth=1.3, linestyle="-" if v == 0 else (0, (4, 2)),
                            label=variant)  # fmt: skip
                mean = float(np.asarray(results["exact_mean"])[v, a, g])
                axis.axvline(mean, color=colours[v], linewidth=1, linestyle=":", label=f"exact mean, {variant}")
                found = np.asarray(results["mean"])[v, a, g].mean()
                spread = math.sqrt(np.asarray(results["square"])[v, a, g].mean() - found**2)
                axis.text(0.02, 0.98 - 0.08 * v, f"{found:+.4f} ± {spread:.4f}", color=colours[v], ha="left", va="top",
                          transform=axis.transAxes, fontsize=7.5)  # fmt: skip
            axis.axvline(0, color=GREY, linewidth=0.8)
            if g == 0:
                axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the numbers
            axis.set_yticks([])
            axis.grid(False)
            if a == 0:
                axis.set_title(rf"average $\langle y, x\rangle$ = {rho:.3f}")
            else:
                axis.set_xlabel(r"$\langle y, x\rangle - \langle y, \tilde{x}\rangle$")
            if g == 0:
                axis.set_ylabel({"prod": "TurboQuant$_{prod}$", "mse": "TurboQuant$_{mse}$"}[algorithm] + "\nfrequency")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    title = f"Errors at b = {BITS}, by inner product: {results['data']['name']} (corners: mean ± standard deviation)"
    figure.suptitle(title, fontsize=10)
    return figure


def summary(results: dict[str, Any]) -> str:
    """Mean and spread a group, beside exact; the points outside their intervals."""
    lines = [f"b = {BITS}, mean error and its standard deviation, exact: group's <y, x>, then each variant"]
    mean, square = np.asarray(results["exact_mean"]), np.asarray(results["exact_square"])
    for a, algorithm in enumerate(results["algorithms"]):
        for v, variant in enumerate(results["variants"]):
            cells = [f"{rho:.3f}: {m:+.4f} ± {math.sqrt(s - m * m):.4f}"
                     for rho, m, s in zip(results["rho"], mean[v, a], square[v, a], strict=True)]  # fmt: skip
            lines.append(f"  {algorithm:<4} {variant:<11} " + "   ".join(cells))
    lines.append(f"d Var of prod as written at <y, x> = 1 over that at 0: {results['spread_at_one']:.3f}")
    outside = count = 0
    for name in ("mean", "square"):
        out, total = errors.intervals(results[name], results["exact_" + name])[2:]
        outside, count = outside + out, count + total
    return "\n".join([*lines, f"{outside} of {count} points outside their intervals (joint, 99 %)"])
