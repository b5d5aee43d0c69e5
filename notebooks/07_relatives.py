# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. The relatives: EDEN, RaBitQ, PolarQuant
#
# Rotating at random and rounding has been invented more than once. The members of the family differ in three
# choices: which grid, which scale, which coordinates.
#
# **Idea of this lesson:** the grid hardly matters, the scale decides between bias and noise, and everybody must
# count what is stored beside the bits.

# %%
import numpy as np

import turboquant_ref as tq
from paper_figures import fig5, polar_angles
from paper_figures.interactive import COLOURS, MARKERS, explore, new_figure, show, styled
from turboquant_ref import variants

# %% [markdown]
# ## One direction, four scales (DRIVE, EDEN)
#
# Algorithm 1 finds a direction $q$; the question left is how long to make it. All four points lie on one ray.
# "norm" is the paper's, "least squares" is closest to $x$, "matched" is as long as $x$, and "unbiased" ends on the
# line $\langle x, \tilde x\rangle = \|x\|^2$.


# %%
@styled
def ray(bits=1):
    figure = new_figure(8, 3.4)
    axis = figure.subplots()
    x = tq.sphere.uniform(1, 64, 2)[0]
    for k, scale in enumerate(tq.mse.SCALES):
        Q = tq.mse.setup(64, bits, 5, scale=scale)
        decoded = tq.mse.dequantize(Q, tq.mse.quantize(Q, x))
        along = decoded @ x
        across = np.linalg.norm(decoded - along * x)
        axis.plot([0, along], [0, across], color="0.8", zorder=0)
        axis.plot(
            along,
            across,
            MARKERS[k],
            color=list(COLOURS.values())[k],
            markersize=8,
            label=f"{scale}: ‖x - x~‖² = {((x - decoded) ** 2).sum():.3f}, ⟨x, x~⟩ = {along:.3f}",
        )
    axis.annotate("", (1, 0), (0, 0), arrowprops={"arrowstyle": "->", "color": "k"})
    axis.text(1.01, 0.02, "x")
    axis.axvline(1, color="0.7", linestyle=":")
    axis.set(
        title=f"The plane of x and its code, d = 64, b = {bits}",
        xlabel="along x",
        ylabel="across x",
        xlim=(0, 2.0),
        ylim=(-0.03, None),
    )
    axis.legend(loc="upper right")
    return figure


explore(ray, start={"bits": 1}, bits=(1, 2, 3))

# %% [markdown]
# ## Another grid (RaBitQ)
#
# RaBitQ rounds to equally spaced points and picks, for every vector, the step that gives the best angle; its scale
# is the unbiased one. Its noise is nearly that of Lloyd-Max with the same scale. Exact or measured d · Var at
# $\langle y, x\rangle = 0$, against everything that is stored, for all named variants:

# %%
d = 128
kinds = ["mse-unbiased", "rabitq", "prod", "prod-orthogonal", "polar-unbiased"]


@styled
def noise():
    figure = new_figure(9, 4)
    axis = figure.subplots()
    for k, name in enumerate(kinds):
        v = variants.find(name)
        points = []
        for b in range(1, 6):
            if v.refuses(d, b):
                continue
            s = v.exact(d, b)
            across = s.across
            if across is None:
                across = v.measured(d, b, draws=6, seed=1)["across"].value
            points.append((s.stored_bits, across))
        axis.plot(*zip(*points), marker=MARKERS[k], color=list(COLOURS.values())[k], label=f"{name}: {v.description}")
    axis.set(
        title=f"Unbiased estimators of the family, d = {d}",
        xlabel="stored bits a coordinate",
        ylabel="d · Var",
        yscale="log",
    )
    axis.legend(fontsize=7)
    return figure


show(noise())

# %% [markdown]
# ## Other coordinates (PolarQuant)
#
# PolarQuant goes over to polar coordinates, level by level: angles of pairs, then angles of pairs of radii. After a
# rotation each level has a known law, ever narrower (dotted), so the angles can be rounded without any data.
# Without one they follow the data: here keys of a small language model.

# %%
results = polar_angles.compute("smollm2-keys", n=1000, draws=16, seed=1)
show(polar_angles.plot(results))
print(polar_angles.summary(results))

# %% [markdown]
# ## In search
#
# recall@1@k on real word vectors: how often the true nearest word is among the k best by the codes. The unbiased
# scales win at equal bits; the bit that Algorithm 2 spends on a sketch is missed.

# %%
results = fig5.compute(["glove"], n=1500, n_queries=250, draws=3, seed=1)
show(fig5.plot(results))

# %% [markdown]
# ## Everybody in the wild
#
# `tq.variants.WILD` has the variants that people run, with their exact signature, right and wrong. Four numbers
# tell any of them from any other.

# %%
for name in (
    "mse",
    "mse-unbiased",
    "prod",
    "prod-released",
    "faiss-eden",
    "vllm",
    "prod-double-scaled",
    "mse-one-hadamard",
):
    v = variants.find(name)
    if v.refuses(128, 3) is None:
        s = v.exact(128, 3)
        print(
            f"{name:>20}{' (wrong)' if v.wrong else '':8}  D = {s.distortion:.4f}   slope = {s.slope:.4f}   "
            f"d·Var = {s.across:.4f}   "
            f"stored bits {s.stored_bits:.2f}   {v.description}"
        )

# %% [markdown]
# ## Exercises
#
# 1. Show that the least-squares point of the first picture is the foot of the perpendicular from $x$ to the ray.
# 2. RaBitQ gives an error bound with each vector (`tq.rabitq.error_bound`). How often does it hold?
#    (`tq.rabitq.coverage(128)`)
# 3. PolarQuant at 4, 2, 2, 2 bits stores 3.875 bits a coordinate. Which TurboQuant_mse is as precise, and at how
#    many bits?
# 4. `turboquant-ref variants -d 128` prints the whole table. Which variants marked wrong have the right distortion?
