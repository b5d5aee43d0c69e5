"""Table 1 in miniature: what a quantized KV cache costs a small language model, against the bits that it stores.

The paper's Table 1 is LongBench-E on Llama-3.1-8B-Instruct; this is SmolLM2-135M-Instruct on two texts (`lm_text`),
through `turboquant_ref.cache` (`lm_cache`).  The figure of merit is the KL divergence of the next token's law from that
of the same model with an unquantized cache, in nats a token: perplexity and accuracy move too little, and both ways.

A full run takes hours on a laptop, minutes on a large machine; its lines are gathered by `lm_jobs`.  A quick one is a
minute with the model, and without it the committed results are drawn.  `LM.md` has the tables and what they say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import _store, lm, lm_jobs, lm_tables, lm_text
from ._style import COLOURS, GREY, new_figure, significant, styled

FULL: dict[str, Any] = {"plan": "all", "lines": "runs/lm.jsonl"}
QUICK: dict[str, Any] = {"plan": "small", "lines": None}
RESULTS = Path(__file__).with_name("results")
NOTE = f"no model was given ({lm.VARIABLE}), so these are the committed results"
SHOWN = 32768  # bits are counted at this length of context

FAMILIES = {
    "mse": ("Algorithm 1", "blue", "o"),
    "unb": ("Algorithm 1, unbiased scale", "sky", "D"),
    "prodO": ("Algorithm 2, orthogonal S", "red", "s"),
    "prodG": ("Algorithm 2, Gaussian S", "orange", "v"),
    "bug": ("Algorithm 2, scaled twice", "pink", "X"),
    "kivi": ("min-max as KIVI (keeps up to 31 tokens)", "green", "^"),
    "minmax": ("min-max, a token", "black", "P"),
}


def compute(plan: str, lines: str | None) -> dict[str, Any]:
    """KL, perplexity, agreement and attention logits of every cache of the plan; see `lm_tables`."""
    if plan == "small" and not _has_model():
        return committed("table1")
    jobs = lm_jobs.gather(plan, {"text", "fidelity"}, lines)
    length = max(job.get("length", lm_jobs.LENGTH) for job in jobs if job["job"] == "text")
    rows = lm_tables.texts(jobs, length)
    return {
        "length": length,
        "perplexity": {t: next(j["perplexity"] for j in jobs if j.get("text") == t) for t in lm_text.TEXTS},
        "rows": rows,
        "fidelity": lm_tables.fidelity(jobs),
        "paired": lm_tables.texts(jobs, lm_jobs.SHORT),
        "structured": lm_tables.others(jobs, "rotation"),
        "value_mean": lm_tables.others(jobs, "value_mean"),
    }


def _has_model() -> bool:
    try:
        lm.find_file()
    except FileNotFoundError:
        return False
    return True


def committed(name: str) -> dict[str, Any]:
    """The results in the repository, with a note that they are these."""
    found = _store.load(RESULTS, name)
    if found is None:
        raise FileNotFoundError(f"there are no results of {name} in {RESULTS}, and no model: {lm.COMMAND}")
    return {**found, "note": NOTE}


def _bits(row: dict[str, Any]) -> float:
    return float(row["bits"][lm_tables.CONTEXTS.index(SHOWN)])


def _panel(ax: Any, rows: dict[str, Any], window: str) -> None:
    """KL against stored bits: a line a family, over its bits."""
    for kind, (label, colour, marker) in FAMILIES.items():
        names = [f"{kind} {b}{window}" for b in (2, 3, 4, 5)]
        points = [(_bits(rows[n]), lm_tables.mean_kl(rows[n])) for n in names if n in rows]
        if points:
            ax.plot(*zip(*points, strict=True), marker=marker, color=COLOURS[colour], label=label)
    for name, text in (("mse 4/2", "4/2"), ("mse 5/3", "5/3"), ("polar 0", "polar")):
        row = rows.get(f"{name}{window}")
        if row:
            ax.plot(_bits(row), lm_tables.mean_kl(row), marker="*", color=GREY, markersize=8, linestyle="none")
            ax.annotate(
                text, (_bits(row), lm_tables.mean_kl(row)), xytext=(4, 4), textcoords="offset points", fontsize=7
            )
    ax.set(
        yscale="log",
        xlabel=f"stored bits a coordinate, all counted, {SHOWN // 1024}k tokens",
        ylabel="KL, nats a token",
    )


@styled
def plot(results: dict[str, Any]) -> Any:
    """Four panels: KL against stored bits, strictly and with a window; KL against distortion; slopes of the logits."""
    rows = results["rows"]
    figure = new_figure(9.6, 7.4)
    (strict, kept), (curve, slopes) = figure.subplots(2, 2)
    _panel(strict, rows, "")
    strict.set_title("everything quantized")
    strict.legend(loc="lower left", fontsize=7)
    _panel(kept, rows, " W128")
    best = lm_tables.frontier({n: r for n, r in rows.items() if "s4" in n and "full" not in n}, SHOWN)
    if best:
        line = kept.plot(
            [b for b, _, _ in best], [kl for _, _, kl in best], color="black", marker=".", label="best found"
        )
        kept.legend(handles=line, loc="upper right")
    kept.set_title("the last 128 tokens in full precision")
    _curve(curve, rows)
    _slopes(slopes, results["fidelity"])
    figure.suptitle(
        f"SmolLM2-135M-Instruct, {results['length']} tokens each of two texts; KL from an unquantized cache",
        fontsize=10,
    )
    return figure


def _curve(ax: Any, rows: dict[str, Any]) -> None:
    """KL against the relative squared error of what is decoded: one curve for all that are strictly quantized."""
    for kind, (label, colour, marker) in FAMILIES.items():
        names = [n for n in rows if n.split()[0] == kind and len(n.split()) == 2]
        for i, name in enumerate(names):
            for text in (t for t in lm_text.TEXTS if t in rows[name]):
                row = rows[name][text]
                ax.plot((row["error_k"] + row["error_v"]) / 2, np.mean(row["kl"]), color=COLOURS[colour], marker=marker,
                        linestyle="none", label=label if i == 0 and text == lm_text.TEXTS[0] else None)  # fmt: skip
    span = np.array([2e-3, 0.05])
    ax.plot(span, 8.5 * span, color=GREY, linestyle="--")
    ax.annotate("KL = 8.5 D", (span[0], 8.5 * span[0]), xytext=(-4, 8), textcoords="offset points",
                fontsize=8, horizontalalignment="right")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="D: relative squared error of keys and values", ylabel="KL, nats a token",
           title="KL goes with the error, whatever the estimator")  # fmt: skip


def _slopes(ax: Any, rows: dict[str, Any]) -> None:
    """Slope of the attention logits, measured with its interval, and theory's as a bar across."""
    names = ("mse", "opt", "matched", "unb", "prodO", "prodG", "bug")
    for i, kind in enumerate(names):
        for b, colour in ((2, "red"), (3, "blue"), (4, "green")):
            row = rows.get(f"{kind} {b}")
            if row is None:
                continue
            x = i + (b - 3) * 0.22
            ax.plot([x - 0.1, x + 0.1], [row["expected_slope"]] * 2, color="0.3", linewidth=2.2, zorder=1)
            half = row["slope_half"]
            ax.errorbar(x, row["slope"], yerr=half, color=COLOURS[colour], marker="o", capsize=2,
                        linestyle="none", label=f"{b} bits" if i == 0 else None)  # fmt: skip
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set(ylabel="slope of the attention logits", title="bias of the logits: measured, and exact theory (bars)")
    if rows:
        ax.legend(loc="lower left")


def summary(results: dict[str, Any]) -> str:
    """What the numbers say."""
    rows = results["rows"]
    lines = [results["note"]] if "note" in results else []
    lines.append("perplexity " + ", ".join(f"{t} {significant(p)}" for t, p in results["perplexity"].items()))
    lines.append(f"{'':26}{'bits, 32k':>10}{'KL':>9}" + "".join(f"{t + ' ppl':>12}" for t in lm_text.TEXTS))
    for name in ("mse 2", "mse 3", "mse 4", "unb 3", "prodO 3", "prodG 3", "kivi 2", "mse 3 W128", "prodO 3 W128",
                 "kivi 2 W128", "unb K2pre V2 W128 s4", "unb K3pre V2 W128 s4", "unb K4pre V2 W128 s4"):  # fmt: skip
        if name in rows:
            row = rows[name]
            ratios = "".join(f"{'x' + significant(float(np.mean(row[t]['ratio']))):>12}" for t in lm_text.TEXTS)
            lines.append(f"{name:26}{_bits(row):10.2f}{significant(lm_tables.mean_kl(row)):>9}{ratios}")
    off = [n for n, r in results["fidelity"].items() if abs(r["slope"] - r["expected_slope"]) > (r["slope_half"] or 1)]
    if results["fidelity"]:
        lines.append(f"slopes outside their 95 % interval: {len(off)} of {len(results['fidelity'])}")
    return "\n".join(lines)
