"""TurboQuant, Fig 1: histograms of inner-product errors, b = 1 to 4, of Algorithm 2 and of Algorithm 1.

Two variants (`errors`): as written and as released.  Which of them the published histograms show is settled by their
standard deviations: `PUBLISHED` are those of a run of the authors' code on the paper's data.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import errors
from ._style import COLOURS, GREY, new_figure, styled

FULL: dict[str, Any] = {"data": "synthetic-1536", "n": 400, "n_queries": 100, "draws": 24, "seed": 1}
QUICK: dict[str, Any] = {"data": "synthetic-128", "n": 160, "n_queries": 40, "draws": 64, "seed": 1}
BITS = (1, 2, 3, 4)

PUBLISHED = {
    "prod": {"mean": (-0.0002, 0.0, 0.0, 0.0), "std": (0.0192, 0.0116, 0.0066, 0.0036)},
    "mse": {"mean": (0.0312, 0.0103, 0.0030, 0.0008), "std": (0.0263, 0.0112, 0.0052, 0.0026)},
}
"""The authors' code on DBpedia, d = 1536, errors <y, x> - <y, x~>: VectorDB-NTU/rabitq-turboquant-comparison."""
PUBLISHED_D = 1536


def compute(
    data: str, n: int, n_queries: int, draws: int, seed: int = 0, ops: str = "turboquant_ref"
) -> dict[str, Any]:
    """Histograms, mean errors and root mean squares; arguments of `errors.measure`.

    Returns
    -------
    dict
        ``histogram`` (variants, algorithms, 4, bins) over ``edges``; ``mean``, ``square`` (…, draws) and their exact
        values; ``published_std`` (2, 4) with ``written_std`` and ``released_std``, exact at d = 1536 and <y, x> = 0.
    """
    r = errors.measure(data, n, n_queries, draws, seed=seed, ops=ops)
    keep = [list(r["bits"]).index(b) for b in BITS]
    of_bits = ("histogram", "mean", "square", "exact_mean", "exact_square", "largest")
    results = {name: r[name] for name in ("data", "variants", "algorithms", "d", "mean_rho")}
    results["edges"] = r["edges"][keep]
    results |= {name: r[name][:, :, keep] for name in of_bits}

    def std(variant: str) -> Any:
        moments = [errors.exact_moments(variant, "prod", PUBLISHED_D, b) for b in BITS]
        return np.array([math.sqrt(m.variance(0.0)) for m in moments])

    return results | {
        "bits": np.array(BITS),
        "published_prod_std": np.array(PUBLISHED["prod"]["std"]),
        "written_prod_std": std("as written"),
        "released_prod_std": std("as released"),
    }


@styled
def plot(results: dict[str, Any]) -> Any:
    """Two rows, prod and mse; four columns, b; both variants, with the normal law of the exact moments."""
    figure = new_figure(11, 5.4)
    axes = figure.subplots(2, len(results["bits"]), sharex="col")
    colours = (COLOURS["red"], COLOURS["blue"])
    for a, algorithm in enumerate(results["algorithms"]):
        for k, b in enumerate(results["bits"]):
            axis, edges = axes[a, k], np.asarray(results["edges"])[k]
            fine = np.linspace(edges[0], edges[-1], 400)
            for v, variant in enumerate(results["variants"]):
                density = np.asarray(results["histogram"])[v, a, k] / np.diff(edges)
                axis.stairs(density, edges, color=colours[v], fill=True, alpha=0.18)
                axis.stairs(density, edges, color=colours[v], linewidth=1.3, linestyle="-" if v == 0 else (0, (4, 2)),
                            label=variant)  # fmt: skip
                mean = float(np.asarray(results["exact_mean"])[v, a, k])
                variance = float(np.asarray(results["exact_square"])[v, a, k]) - mean**2
                normal = np.exp(-((fine - mean) ** 2) / 2 / variance) / math.sqrt(2 * math.pi * variance)
                axis.plot(fine, normal, color="0.2", linewidth=0.7, linestyle=":", label="normal law, exact moments")
                found = math.sqrt(np.asarray(results["square"])[v, a, k].mean() - mean**2)
                axis.text(0.98, 0.97 - 0.11 * v, f"σ = {found:.4f}", color=colours[v], ha="right", va="top",
                          transform=axis.transAxes, fontsize=8)  # fmt: skip
            if results["d"] == PUBLISHED_D and algorithm == "prod":  # mse's depends on the spread of <y, x> too
                axis.text(0.02, 0.97, f"published:\nσ = {PUBLISHED['prod']['std'][k]:.4f}", color="0.2", va="top",
                          transform=axis.transAxes, fontsize=8)  # fmt: skip
            axis.axvline(0, color=GREY, linewidth=0.8)
            axis.set_yticks([])
            axis.grid(False)
            if a == 0:
                axis.set_title(f"b = {b}")
            if a == 1:
                axis.set_xlabel(r"$\langle y, x\rangle - \langle y, \tilde{x}\rangle$")
            if k == 0:
                axis.set_ylabel({"prod": "TurboQuant$_{prod}$", "mse": "TurboQuant$_{mse}$"}[algorithm] + "\nfrequency")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3)
    figure.suptitle(f"Errors of inner products: {results['data']['name']}, {results['data']['pairs']:,} pairs, "
                    f"{np.asarray(results['mean']).shape[-1]} draws of (Π, S)", fontsize=10)  # fmt: skip
    return figure


def summary(results: dict[str, Any]) -> str:
    """Standard deviations beside the published ones, and the points outside their intervals."""
    lines = ["standard deviation of prod's errors at d = 1536: b, published (authors' code), as released, as written"]
    columns = (results[name] for name in ("bits", "published_prod_std", "released_prod_std", "written_prod_std"))
    for b, published, released, written in zip(*columns, strict=True):
        lines.append(f"  {b}   {published:.4f}   {released:.4f} ({released / published - 1:+.1%})   {written:.4f} "
                     f"({written / published - 1:+.0%})")  # fmt: skip
    off = {name: np.abs(np.log(np.asarray(results[f"{name}_prod_std"]) / results["published_prod_std"])).max()
           for name in ("released", "written")}  # fmt: skip
    nearest = min(off, key=lambda name: off[name])
    lines.append(f"the published numbers are those of the variant as {nearest}, within {math.expm1(off[nearest]):.1%}")
    ratio = np.array(PUBLISHED["mse"]["mean"]) / [1 - errors.exact_moments("as released", "mse", PUBLISHED_D, b).slope
                                                  for b in BITS]  # fmt: skip
    lines.append("published mean error of mse over the exact bias 1 - slope, that is the average <y, x> of the paper's "
                 f"data: {', '.join(f'{r:.3f}' for r in ratio)}")  # fmt: skip
    outside = count = 0
    for name in ("mean", "square"):
        out, total = errors.intervals(results[name], results["exact_" + name])[2:]
        outside, count = outside + out, count + total
    return "\n".join([*lines, f"{outside} of {count} points outside their intervals (joint, 99 %)"])
