# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Check your own implementation
#
# Two dozen lines are enough for a port of Algorithm 1, and half of the public ones have a mistake in them that no
# glance at the output shows. This package can tell: it knows the exact distortion, slope and variance of the right
# algorithm, and of the usual mistakes.
#
# **Idea of this lesson:** a port is right if its statistics over seeds are the theory's; if they are not, they say
# which mistake it is.

# %%
from types import SimpleNamespace

import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, new_figure, show, styled
from turboquant_ref.conformance import report, verdict
from turboquant_ref.conformance.statistics import Plan
from turboquant_ref.conformance.subject import open_subject

# %% [markdown]
# ## A port in a few lines
#
# One function, `roundtrip(x, bits, seed)`: encode and decode rows. Every seed is another rotation.


# %%
def haar(d, seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def roundtrip(x, bits, seed):
    x = np.asarray(x, dtype=np.float64)
    d = x.shape[-1]
    Pi, c = haar(d, seed), tq.codebook.lloyd_max(d, bits).centroids
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    y = x / np.where(norm > 0, norm, 1) @ Pi.T
    index = np.searchsorted((c[1:] + c[:-1]) / 2, y, side="right")
    return norm * (c[index] @ Pi)


# %% [markdown]
# ## The verdict
#
# On the command line it is `turboquant-ref check my_port.py`, at eleven (d, b) and 64 seeds; here a small plan.

# %%
plan = Plan(grid=((64, 2), (64, 3)), draws=32, rows=64, budget=10)


def judge(port):
    with np.errstate(invalid="ignore"):  # the kit sends NaN and infinity too
        found = verdict.run(open_subject(SimpleNamespace(roundtrip=port, __name__="my port")), plan, levels=(2,))
    text = report.as_text(found)
    return "\n".join(line for line in text.splitlines() if "not offered" not in line)


print(judge(roundtrip))

# %% [markdown]
# ## The usual mistakes, and how they are told apart
#
# The table of the normal law truncated at three standard deviations, a Hadamard matrix without random signs, a norm
# that is never multiplied back, and a scale that makes $\|\tilde x\| = \|x\|$ (no mistake, but another algorithm:
# "matched").


# %%
def variant(codebook=None, rotation=haar, rescale=lambda norm, decoded: norm * decoded):
    def port(x, bits, seed):
        x = np.asarray(x, dtype=np.float64)
        d = x.shape[-1]
        c = (codebook or (lambda d, b: tq.codebook.lloyd_max(d, b).centroids))(d, bits)
        Pi = rotation(d, seed)
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        y = x / np.where(norm > 0, norm, 1) @ Pi.T
        return rescale(norm, c[np.searchsorted((c[1:] + c[:-1]) / 2, y, side="right")] @ Pi)

    return port


mistakes = {
    "right": variant(),
    "table too narrow": variant(codebook=lambda d, b: 0.8 * tq.codebook.lloyd_max(d, b).centroids),
    "no rotation": variant(rotation=lambda d, seed: np.eye(d)),
    "matched norm": variant(rescale=lambda n, x: n * x / np.linalg.norm(x, axis=-1, keepdims=True)),
    "scaled by 1/(1 - D)": variant(rescale=lambda n, x: n * x / (1 - tq.theory.mse(x.shape[-1], 2))),
}


# %%
def signature(port, d=64, bits=2, seeds=24):
    """Distortion and slope of a port over seeds: the two numbers that betray most mistakes."""
    x = tq.sphere.uniform(64, d, 1001)  # no seed of a rotation: default_rng(1) gives x the very numbers of rotation 1
    y = tq.measure.correlated_queries(x, 2)
    truth = (x * y).sum(1)
    rows = []
    for seed in range(seeds):
        decoded = port(x, bits, seed)
        rows.append((((x - decoded) ** 2).sum(1).mean(), ((decoded * y).sum(1) @ truth) / (truth @ truth)))
    return np.array(rows)


signatures = {name: signature(port) for name, port in mistakes.items()}


@styled
def plane():
    figure = new_figure(8, 4)
    axis = figure.subplots()
    for (name, rows), colour in zip(signatures.items(), COLOURS.values()):
        mean, half = rows.mean(0), 3 * rows.std(0, ddof=1) / len(rows) ** 0.5
        axis.errorbar(
            mean[0], mean[1], half[1], half[0], marker="o", color=colour, capsize=2, linestyle="none", label=name
        )
    D = tq.theory.mse(64, 2)
    axis.plot(D, 1 - D, "k+", markersize=14, label="exact, Algorithm 1")
    axis.plot(
        tq.theory.distortion("mse", 64, 2, scale="matched"),
        tq.theory.slope("mse", 64, 2, scale="matched"),
        "kx",
        markersize=10,
        label="exact, matched",
    )
    axis.set(
        title="Where a port lies says what it does, d = 64, b = 2",
        xlabel="distortion",
        ylabel="slope of inner products",
    )
    axis.legend(loc="center", bbox_to_anchor=(0.5, 0.35))
    return figure


show(plane())

# %% [markdown]
# "No rotation" lies where the right one does: on vectors that are uniform on the sphere nothing can be seen. The
# kit therefore looks at single ones as well.

# %%
print(
    "\n".join(
        line for line in judge(mistakes["no rotation"]).splitlines() if "FAIL" in line or "verdict" in line.lower()
    )[:1500]
)

# %% [markdown]
# ## How small a deviation can be seen?
#
# A check that could not fail proves nothing. Each line of a verdict says what it would have detected;
# `draws_needed` says how many seeds a smaller one takes.

# %%
spread = signatures["right"][:, 0].std(ddof=1)


@styled
def power():
    percents = np.geomspace(0.1, 10, 25)
    seeds = [tq.measure.draws_needed(spread, p / 100 * tq.theory.mse(64, 2)) for p in percents]
    figure = new_figure(7, 3.4)
    axis = figure.subplots()
    axis.plot(percents, seeds, color=COLOURS["blue"])
    axis.set(
        title="Ten times smaller takes a hundred times the seeds",
        xlabel="deviation of the distortion, %",
        ylabel="seeds of 64 vectors",
        xscale="log",
        yscale="log",
    )
    return figure


show(power())

# %% [markdown]
# ## Exercises
#
# 1. Give `signature` the vectors `tq.sphere.uniform(64, d, 1)` and look at seed 1. What went wrong, and why is it
#    no error of the port?
# 2. Leave the sign fix out of `haar`. Which line of the full check sees it? (`turboquant-ref check`, and the
#    function `rotation`.)
# 3. Write `inner_product(x, y, bits, seed)` for Algorithm 2, divide S by √d twice, and read the verdict.
# 4. Round the centroids to two decimals of a standard deviation. How many seeds until it shows?
# 5. Port `roundtrip` to another language and use `turboquant-ref check --command`.
