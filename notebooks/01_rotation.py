# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. A random rotation makes every vector look alike
#
# Vectors come in all shapes: a word, a pixel row, a key of a language model, a single 1 among zeros. A quantizer
# that is to work for all of them without looking at any data needs one shape. A random rotation gives it.
#
# **Idea of this lesson:** after a random rotation, a coordinate of *any* unit vector has the same law, and that law
# is known.

# %%
import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, explore, new_figure, show, styled

# %% [markdown]
# ## Four vectors that have nothing in common
#
# A single 1; all ones; a real word (from the bundled GloVe sample); a slow wave. All of norm 1, in 50 dimensions.

# %%
d = 50
words, glove = tq.data.glove()
vectors = {
    "a single 1": np.eye(d)[0],
    "all ones": np.ones(d) / np.sqrt(d),
    "the word 'river'": glove[words.index("river")] / np.linalg.norm(glove[words.index("river")]),
    "a wave": np.sin(np.arange(d) / 4) / np.linalg.norm(np.sin(np.arange(d) / 4)),
}

# %% [markdown]
# ## Rotated, nobody can tell which was which
#
# `tq.rotation.haar(d, seed)` is a rotation drawn uniformly from all rotations. The upper row is before, the lower
# after.


# %%
@styled
def before_and_after(seed=0):
    Pi = tq.rotation.haar(d, seed)
    figure = new_figure(11, 4)
    axes = figure.subplots(2, len(vectors), sharey=True)
    for column, (name, x) in zip(axes.T, vectors.items()):
        for axis, values, colour in zip(column, (x, Pi.apply(x)), (COLOURS["orange"], COLOURS["blue"])):
            axis.bar(np.arange(d), values, color=colour)
        column[0].set_title(name)
        column[1].set_xlabel("coordinate")
    axes[0, 0].set_ylabel("before")
    axes[1, 0].set_ylabel("after")
    figure.suptitle("Four unit vectors before and after one random rotation")
    return figure


explore(before_and_after, start={"seed": 0}, seed=range(5))

# %% [markdown]
# Lengths and angles are as before: a rotation loses nothing, and $\Pi^T$ undoes it.

# %%
Pi = tq.rotation.haar(d, 0)
x, y = vectors["a wave"], vectors["the word 'river'"]
print(f"<x, y> = {x @ y:.12f}, rotated {Pi.apply(x) @ Pi.apply(y):.12f}")
print(f"largest error of Pi^T Pi x: {np.abs(Pi.inverse(Pi.apply(x)) - x).max():.1e}")

# %% [markdown]
# ## The law of a coordinate is known (Lemma 1)
#
# $f(t) = C_d\,(1 - t^2)^{(d-3)/2}$: in three dimensions uniform (Archimedes knew), and soon close to a normal law
# of variance $1/d$. Many rotations of each of the four vectors give the same histogram, and it is this density.


# %%
@styled
def histograms():
    figure = new_figure(11, 3.4)
    left, right = figure.subplots(1, 2)
    law, t = tq.sphere.law(d), np.linspace(-0.6, 0.6, 300)
    rotations = [tq.rotation.haar(d, seed) for seed in range(300)]
    for (name, x), colour in zip(vectors.items(), COLOURS.values(), strict=False):
        values = np.concatenate([Pi.apply(x) for Pi in rotations])
        left.hist(values, bins=60, range=(-0.6, 0.6), density=True, histtype="step", color=colour, label=name)
    left.plot(t, law.pdf(t), "k:", label="Lemma 1")
    left.set(
        title="the same law for all four (300 rotations each)", xlabel="coordinate after rotation", ylabel="density"
    )
    left.legend()
    for dimension, colour in zip((3, 5, 20, 200), COLOURS.values()):
        t = np.linspace(-1, 1, 801)
        right.plot(t, tq.sphere.law(dimension).pdf(t), color=colour, label=f"d = {dimension}")
    right.set(title="the more dimensions, the narrower: variance 1/d", xlabel="t", ylabel="density", ylim=(0, 4))
    right.legend()
    return figure


show(histograms())

# %% [markdown]
# ## From coin tosses
#
# A dense rotation of $d$ numbers is $d^2$ multiplications. Cheaper: toss a coin for the sign of each coordinate,
# then mix all of them with a fast Walsh-Hadamard transform, $d \log d$ additions. One such round spreads a single 1
# perfectly and yet fails for others, for a sum of two can only become 0 or ±2. Several rounds are as good as Haar's
# rotation; `rotation="structured"` chooses their number.


# %%
@styled
def rounds():
    d, figure = 64, new_figure(11, 2.8)
    x = (np.eye(d)[0] + np.eye(d)[1]) / np.sqrt(2)
    for axis, number in zip(figure.subplots(1, 3, sharey=True), (1, 2, 3)):
        rotated = tq.rotation.Structured(d, 7, rounds=number).apply(x)
        axis.bar(np.arange(d), rotated, color=COLOURS["green"])
        axis.set(
            title=f"{number} round{'s' * (number > 1)}: {len(np.unique(np.abs(rotated.round(9))))} magnitudes",
            xlabel="coordinate",
        )
    figure.suptitle("Two ones among zeros, d = 64, after rounds of coin tosses and Hadamard transforms")
    return figure


show(rounds())

# %% [markdown]
# ## Exercises
#
# 1. The coordinates of a rotated vector are *not* independent. Which relation between them always holds? (Hint:
#    norms.)
# 2. Draw the histogram for $d = 3$. What is the probability that a coordinate lies between 0 and 1/4?
# 3. `np.linalg.qr` of a Gaussian matrix is not a Haar rotation. Draw 64 of them and count how often `Q[0, 0]` is
#    positive; then do the same with `tq.rotation.haar(5, seed).matrix()`. (`tq.rotation.haar.__doc__` says why.)
# 4. Remove the coin tosses: what does a bare Hadamard transform do to a row of itself?
#    (`tq.rotation.fwht(np.eye(64))[37]`)
