# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. One bit is enough to be unbiased
#
# Keep of each number only its sign. That sounds like the end of all precision, and yet inner products can be
# estimated from signs *without any bias*, if one side of the product is left alone.
#
# **Idea of this lesson:** $\mathrm{sign}(Sx)$, with $S$ random, knows $\langle y, x\rangle$ for every $y$ that will
# ever be asked.

# %%
import numpy as np

import turboquant_ref as tq
from paper_figures import qjl_m
from paper_figures.interactive import COLOURS, explore, new_figure, show, styled

d = 64

# %% [markdown]
# ## One random direction
#
# For a Gaussian direction $s$: $E\,[\langle s, y\rangle\,\mathrm{sign}\langle s, x\rangle] = \sqrt{2/\pi}\,\langle
# y, x\rangle$ for unit $x$. Split $y$ into its part along $x$ and the rest: the rest has nothing to do with the
# sign and averages out; along $x$, $|g|$ averages $\sqrt{2/\pi}$. Divide by it, and average over $m$ directions:
# that is QJL.

# %%
rng = np.random.default_rng(0)
x = tq.sphere.uniform(1, d, 1)[0]
y = tq.measure.correlated_queries(x[None], 2, rho=0.6)[0]
s = rng.standard_normal((200_000, d))
values = np.sqrt(np.pi / 2) * (s @ y) * np.sign(s @ x)
print(f"mean over 200,000 directions: {values.mean():.4f} ± {values.std() / 200_000**0.5:.4f}, <y, x> = {x @ y:.4f}")

# %% [markdown]
# ## No bias at any inner product
#
# Each point is one pair, estimated from $m = d$ signs of $x$. The cloud lies around the diagonal, everywhere;
# compare lesson 3's shrinking clouds. The price is its width.


# %%
@styled
def clouds(m=64):
    figure = new_figure(9, 3.8)
    xs = tq.sphere.uniform(500, d, 5)
    ys = tq.measure.correlated_queries(xs, 6)
    truth = (xs * ys).sum(1)
    for axis, sketch in zip(figure.subplots(1, 2, sharey=True), ("gaussian", "orthogonal")):
        Q = tq.qjl.setup(d, m, 7, sketch=sketch)
        estimate = (ys * tq.qjl.dequantize(Q, tq.qjl.quantize(Q, xs))).sum(1)
        axis.plot(truth, estimate, ".", color=COLOURS["blue"], markersize=3)
        axis.plot([-1, 1], [-1, 1], color=COLOURS["red"])
        spread = (estimate - truth).std()
        axis.set(title=f"{sketch} S, m = {m}: standard deviation {spread:.3f}", xlabel="⟨y, x⟩")
    figure.axes[0].set_ylabel("estimate from signs")
    return figure


explore(clouds, start={"m": 64}, m=(16, 64, 256, 1024))

# %% [markdown]
# ## Orthogonal directions are better than independent ones
#
# With independent directions the variance is exactly $(\pi/2 - \langle y, x\rangle^2)/m$. Directions that are
# orthogonal to each other do not measure the same thing twice: with $m = d$ the variance is 2.75 times smaller.
# That is what practice uses. On the right: the bound printed in QJL's Lemma 3.5 lies below the truth.

# %%
results = qjl_m.compute(d=64, pairs=64, draws=40, rho=0.5, eps=0.05, seed=1)
show(qjl_m.plot(results))
print(qjl_m.summary(results))

# %% [markdown]
# ## Only one side may be rounded
#
# If the query is reduced to signs too, what is left is a coin that says whether $x$ and $y$ lie on the same side of
# a random plane: heads with probability $1 - \theta/\pi$. That measures the *angle*, not the inner product, and its
# error is larger.


# %%
@styled
def two_sided():
    xs = tq.sphere.uniform(600, d, 8)
    ys = tq.measure.correlated_queries(xs, 9)
    S = rng.standard_normal((512, d))
    agree = (np.sign(xs @ S.T) * np.sign(ys @ S.T)).mean(1)
    figure = new_figure(6, 3.6)
    axis = figure.subplots()
    truth = (xs * ys).sum(1)
    axis.plot(truth, agree, ".", color=COLOURS["blue"], markersize=3, label="signs against signs, m = 512")
    r = np.linspace(-1, 1, 200)
    axis.plot(r, 1 - 2 * np.arccos(r) / np.pi, color=COLOURS["red"], label=r"$1 - 2\theta/\pi$")
    axis.plot([-1, 1], [-1, 1], color="0.6", linestyle="--", label="⟨y, x⟩")
    axis.set(title="Two-sided signs see the angle", xlabel="⟨y, x⟩", ylabel="mean of sign · sign")
    axis.legend(loc="upper left")
    return figure


show(two_sided())

# %% [markdown]
# ## Exercises
#
# 1. How many signs are needed for a standard deviation of 0.01 at $\langle y, x\rangle = 0$, with a Gaussian $S$?
#    With `tq.theory.qjl` for an orthogonal one?
# 2. The papers divide an orthogonal $S$'s estimate by $\sqrt{2/\pi}$ too. `tq.theory.kappa(d)` says what that
#    costs. Measure it at $d = 4$.
# 3. Why is the error at $\langle y, x\rangle = 1$ smaller than at 0? What is it for an orthogonal $S$ with $m = d$?
# 4. Two keys that are nearly equal get nearly equal signs: their errors are alike. When does that help in a
#    softmax?
