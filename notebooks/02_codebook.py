# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. The best 16 numbers
#
# Every rotated coordinate has the same, known law (lesson 1). To store it in 4 bits, choose 16 numbers once and for
# all, and keep the index of the nearest. Which 16?
#
# **Idea of this lesson:** two conditions determine the best quantizer of a known law, and alternating them finds it
# (Lloyd and Max).

# %%
import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, explore, new_figure, show, styled

d = 128
law = tq.sphere.law(d)

# %% [markdown]
# ## Dense where the law is dense
#
# The best $2^b$ centroids (dots), the cells they stand for (grey lines), and the law. A cell's boundary lies midway
# between its neighbours.


# %%
@styled
def cells(bits=3):
    book = tq.codebook.lloyd_max(d, bits)
    figure = new_figure(10, 3.2)
    axis = figure.subplots()
    t = np.linspace(-0.32, 0.32, 500)
    axis.fill_between(t, law.pdf(t), color=COLOURS["sky"], alpha=0.4)
    axis.vlines(book.boundaries, 0, law.pdf(book.boundaries), color="0.5", linewidth=0.8)
    axis.plot(book.centroids, np.zeros_like(book.centroids), "o", color=COLOURS["red"], clip_on=False)
    axis.set(
        title=f"b = {bits}: {len(book.centroids)} centroids, D = {book.distortion:.5f}",
        xlabel="coordinate",
        ylabel="density",
    )
    return figure


explore(cells, bits=range(1, 8))

# %% [markdown]
# ## Two conditions, taken in turns
#
# Given the centroids, each point goes to the nearest: the boundaries are midpoints. Given the cells, the best
# centroid of a cell is the mean of the law inside it. Lloyd's algorithm alternates. Here it is, on a sample of half
# a million coordinates:

# %%
rng = np.random.default_rng(0)
sample = np.sort(tq.sphere.uniform(4000, d, rng).ravel())
centroids = np.linspace(-0.3, 0.3, 16)  # a poor start, too wide
history = []
for _ in range(240):
    cut = np.searchsorted(sample, (centroids[1:] + centroids[:-1]) / 2)  # nearest: boundaries are midpoints
    groups = np.split(sample, cut)
    history.append((centroids.copy(), d * sum(((g - c) ** 2).sum() for g, c in zip(groups, centroids)) / sample.size))
    centroids = np.array([g.mean() for g in groups])  # mean of each cell

exact = tq.codebook.lloyd_max(d, 4)
of_exact = d * ((sample - exact.centroids[np.searchsorted(exact.boundaries, sample)]) ** 2).mean()
print(
    f"D on this sample, after 240 rounds: {history[-1][1]:.6f}; "
    f"of the exact optimum: {of_exact:.6f}, expected {exact.distortion:.6f}"
)


# %%
@styled
def lloyd():
    figure = new_figure(11, 3.4)
    left, right = figure.subplots(1, 2)
    left.plot([c for c, _ in history], color=COLOURS["blue"], linewidth=0.8)
    left.plot([240] * 16, exact.centroids, "o", color=COLOURS["red"], label="exact")
    left.set(
        title="16 centroids find their places",
        xlabel="round of Lloyd's algorithm",
        ylabel="centroid",
        ylim=(-0.33, 0.4),
    )
    left.legend(loc="upper left")
    right.plot([D for _, D in history], color=COLOURS["blue"], label="on the sample")
    right.axhline(of_exact, color=COLOURS["red"], linestyle="--", label="exact optimum")
    right.set(title="each round lowers the error", xlabel="round", ylabel="D")
    right.legend()
    return figure


show(lloyd())

# %% [markdown]
# The package solves the two conditions to the last digit, by Newton's method on exact integrals: no sample, no
# data, the same table everywhere.

# %%
print(f"largest distance of a centroid from the mean of its cell: {exact.residual:.1e} of a standard deviation")
print("paper, b = 2, times √d: 0.453, 1.51; exact limit:", tq.codebook.lloyd_max(None, 2).centroids[2:].round(6))

# %% [markdown]
# ## A wrong table is paid for
#
# The codebook of the normal limit is nearly right for large d. A table for another scale is not: the released code
# of the paper used that of $d = 128$ on parts of 32 channels.

# %%
for dimension in (8, 32, 128, 1536):
    gaussian = tq.codebook.of_centroids(
        tq.sphere.law(dimension), tq.codebook.lloyd_max(None, 4).centroids / dimension**0.5
    )
    print(
        f"d = {dimension:4d}: the normal law's table costs "
        f"{gaussian.distortion / tq.theory.mse(dimension, 4) - 1:8.3%} at 4 bits"
    )
wrong = tq.codebook.of_centroids(tq.sphere.law(32), tq.codebook.lloyd_max(None, 3).centroids / 128**0.5)
print(f"the table of d = 128 on 32 channels, 3 bits: D = {wrong.distortion:.4f} instead of {tq.theory.mse(32, 3):.4f}")


# %%
@styled
def distortions():
    figure = new_figure(7, 3.4)
    axis = figure.subplots()
    bits = np.arange(1, 9)
    axis.plot(bits, [tq.theory.mse(d, int(b)) for b in bits], "o-", color=COLOURS["blue"], label="Lloyd-Max, exact")
    axis.plot(bits, 4.0**-bits, ":", color="k", label="$4^{-b}$: Shannon, for large d")
    axis.set(title="Every bit divides the error by almost 4", xlabel="b, bits a coordinate", ylabel="D", yscale="log")
    axis.legend()
    return figure


show(distortions())

# %% [markdown]
# ## Exercises
#
# 1. In $d = 3$ the law is uniform. What are the best centroids, and why is $D = 4^{-b}$ exactly? Check with
#    `tq.theory.mse(3, 2)`.
# 2. Start Lloyd's algorithm above from 16 random centroids. Does it end at the same place? (The law is
#    log-concave.)
# 3. With 1 bit the best centroids are $\pm E|t|$. Derive it, and compare with `tq.codebook.lloyd_max(d,
#    1).centroids`.
# 4. Equal cells instead of optimal ones: build 16 equally spaced centroids with `tq.codebook.of_centroids` and find
#    their best spacing. How much worse are they?
