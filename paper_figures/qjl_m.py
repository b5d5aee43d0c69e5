"""QJL: error and failure probability of the 1-bit sketch against its number of signs m.

Left, m times the mean squared error of <y, x> for unit x and y, for a Gaussian and an orthogonal S, beside the exact
values: Var = (pi/2 - <y, x>^2) / m for Gaussian S.  Right, the probability that the error exceeds eps: QJL's Lemma 3.5
as printed, 2 exp(-(3/4) m eps^2 / (1 + eps)), the same by Bernstein's inequality with the right constants,
2 exp(-m eps^2 / (pi + 4 eps / 3)), and the truth for y orthogonal to x, where the error is N(0, (pi/2)/m) exactly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from turboquant_ref import measure, qjl, sphere, theory
from turboquant_ref.generator import words

from ._style import COLOURS, new_figure, significant, styled
from ._track import track

FULL: dict[str, Any] = {"d": 128, "pairs": 200, "draws": 64, "rho": 0.5, "eps": 0.05, "seed": 1}
QUICK: dict[str, Any] = {"d": 64, "pairs": 64, "draws": 48, "rho": 0.5, "eps": 0.05, "seed": 1}
RATIOS = (0.5, 1, 2, 4, 8, 16)
_STREAM = 0x716A6C6D


def compute(d: int, pairs: int, draws: int, rho: float, eps: float, seed: int = 0) -> dict[str, Any]:
    """Squared errors for m/d of `RATIOS`, and how often an error of an orthogonal pair exceeds eps.

    Returns
    -------
    dict
        ``m`` (k,); ``square`` (2 sketches, 2 rhos, k, draws) with ``exact_square``, of pairs at <y, x> = 0 and `rho`;
        ``failure`` (k, draws), Gaussian S at 0, with ``exact_failure``, ``lemma`` and ``bernstein``.
    """
    if not 0 < eps < 1:
        raise ValueError(f"eps: expected a number between 0 and 1, got {eps}")
    x = sphere.uniform(pairs, d, seed)
    rhos = (0.0, rho)
    y = np.stack([measure.correlated_queries(x, seed, r) for r in rhos])
    ms = np.array([round(r * d) for r in RATIOS])
    square = np.zeros((len(qjl.SKETCHES), len(rhos), len(ms), draws))
    failure = np.zeros((len(ms), draws))
    for k, w in enumerate(track([int(w) for w in words(seed, _STREAM, draws)], "draws of S")):
        for s, sketch in enumerate(qjl.SKETCHES):
            for i, m in enumerate(ms):
                Q = qjl.setup(d, int(m), w, sketch=sketch)
                error = (qjl.dequantize(Q, qjl.quantize(Q, x)) * y).sum(-1) - np.array(rhos)[:, None]
                square[s, :, i, k] = (error**2).mean(-1)
                if sketch == "gaussian":
                    failure[i, k] = (np.abs(error[0]) > eps).mean()
    exact = [[[theory.qjl(d, int(m), s).inner_product_error(r) for m in ms] for r in rhos] for s in qjl.SKETCHES]
    return {
        "d": d,
        "eps": eps,
        "rhos": list(rhos),
        "sketches": list(qjl.SKETCHES),
        "m": ms,
        "square": square,
        "exact_square": np.array(exact),
        "failure": failure,
        "exact_failure": 2 * stats.norm.sf(eps * np.sqrt(ms / (math.pi / 2))),
        "lemma": lemma(ms, eps),
        "bernstein": bernstein(ms, eps),
    }


def lemma(m: Any, eps: float) -> Any:
    """The delta of QJL's Lemma 3.5 as printed: m = (4/3) (1 + eps)/eps^2 ln(2/delta)."""
    return np.minimum(1, 2 * np.exp(-0.75 * np.asarray(m) * eps**2 / (1 + eps)))


def bernstein(m: Any, eps: float) -> Any:
    """The same with the right constants: m = (pi + 4 eps/3)/eps^2 ln(2/delta)."""
    return np.minimum(1, 2 * np.exp(-np.asarray(m) * eps**2 / (math.pi + 4 * eps / 3)))


@styled
def plot(results: dict[str, Any]) -> Any:
    """m times the squared error against m/d; the failure probability against m."""
    from .errors import intervals

    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    m, d = np.asarray(results["m"]), results["d"]
    means, half, outside, count = intervals(results["square"], results["exact_square"])
    exact = np.asarray(results["exact_square"])
    colours = ((COLOURS["red"], COLOURS["orange"]), (COLOURS["blue"], COLOURS["sky"]))
    for s, sketch in enumerate(results["sketches"]):
        for r, rho in enumerate(results["rhos"]):
            left.plot(m / d, m * exact[s, r], color=colours[s][r], linestyle=("-", "--")[r])
            left.errorbar(m / d, m * means[s, r], m * half[s, r], color=colours[s][r], marker="os"[r], linestyle="none",
                          capsize=2, label=rf"{sketch} $S$, $\langle y, x\rangle$ = {rho:g}")  # fmt: skip
    left.axhline(math.pi / 2, color="0.45", linestyle=":", label="Lemma 4: π/2")
    left.set(xscale="log", ylim=(0, 2.4), xlabel="m / d, signs a coordinate", ylabel="m · mean squared error")
    left.set_xticks(m / d, [f"{r:g}" for r in m / d])
    left.minorticks_off()
    left.set_title(f"d = {d}: {outside} of {count} outside their joint 99 % intervals")
    left.legend(loc="upper right", ncols=2)
    fine, eps = np.geomspace(m[0], 4 * m[-1], 200), results["eps"]
    right.plot(fine, lemma(fine, eps), color=COLOURS["red"], linestyle="--", label="QJL, Lemma 3.5 as printed")
    right.plot(fine, bernstein(fine, eps), color=COLOURS["green"], linestyle="-.", label="Bernstein, right constants")
    right.plot(fine, 2 * stats.norm.sf(eps * np.sqrt(fine / (math.pi / 2))), color=COLOURS["blue"],
               label=r"exact, $\langle y, x\rangle$ = 0")  # fmt: skip
    means, half, outside, count = intervals(results["failure"], results["exact_failure"])
    right.errorbar(m, means, half, color=COLOURS["blue"], marker="o", linestyle="none", capsize=2, label="measured")
    right.set(xscale="log", yscale="log", ylim=(1e-4, 1.5), xlabel="m, signs", ylabel=f"P(|error| > {eps:g})")
    right.set_title(f"failure probability: {outside} of {count} outside their joint 99 % intervals")
    right.legend(loc="lower left")
    return figure


def summary(results: dict[str, Any]) -> str:
    """The gain of an orthogonal S, and where Lemma 3.5 fails."""
    from .errors import intervals

    eps, exact, at = results["eps"], np.asarray(results["exact_square"]), list(np.asarray(results["m"]) / results["d"])
    one = at.index(1)
    lines = [f"m = d = {results['d']}, <y, x> = 0: m Var = {significant(exact[0, 0, one] * results['d'])} Gaussian, "
             f"{significant(exact[1, 0, one] * results['d'])} orthogonal, "
             f"{exact[0, 0, one] / exact[1, 0, one]:.2f} times smaller"]  # fmt: skip
    for m in (2000, 2968):
        true = 2 * stats.norm.sf(eps * math.sqrt(m / (math.pi / 2)))
        lines.append(f"eps = {eps:g}, m = {m}: Lemma 3.5 says at most {lemma(m, eps):.4f}, true for <y, x> = 0 "
                     f"{true:.4f}, corrected bound {bernstein(m, eps):.4f}")  # fmt: skip
    outside = count = 0
    for name in ("square", "failure"):
        out, total = intervals(results[name], results["exact_" + name])[2:]
        outside, count = outside + out, count + total
    return "\n".join([*lines, f"{outside} of {count} points outside their intervals (joint, 99 %, each panel)"])
