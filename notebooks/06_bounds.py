# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. How far from Shannon
#
# How good can any quantizer be? Information theory answers without building one. This lesson puts the paper's
# bounds, the exact values and the true limit into one picture, and says where the paper's statements need a
# correction.
#
# **Idea of this lesson:** at $b$ bits a coordinate nothing has a smaller error than about $4^{-b}$; TurboQuant is
# within a factor 1.45 to 2.72 of it.

# %%
import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, explore, new_figure, show, styled
from turboquant_ref import theory

# %% [markdown]
# ## One picture: everything divided by $4^{-b}$
#
# Theorem 1 is the dashed line, $\sqrt 3\pi/2 = 2.72$; TurboQuant's exact error creeps up to it. Theorem 3 claims
# that 1 is the floor. The true floor, the distortion-rate function of the sphere, lies below 1: by little in many
# dimensions, by much in few.


# %%
@styled
def ladder(d=128):
    figure = new_figure(9, 4)
    axis = figure.subplots()
    bits = np.arange(1, 9)
    axis.axhline(3**0.5 * np.pi / 2, color=COLOURS["red"], linestyle="--", label="Theorem 1: at most √3π/2")
    axis.plot(
        bits,
        [theory.mse(d, int(b)) * 4.0**b for b in bits],
        "o-",
        color=COLOURS["blue"],
        label=f"TurboQuant_mse, d = {d}, exact",
    )
    uniform = [tq.codebook.uniform(d, theory.entropy(d, int(b))) for b in bits[:6]]
    axis.plot(
        [q.entropy for q in uniform],
        [q.distortion * 4.0**q.entropy for q in uniform],
        "^-",
        color=COLOURS["green"],
        label="equal cells, entropy-coded, exact",
    )
    axis.axhline(1, color="0.4", linestyle=":", label="Theorem 3: at least 1")
    fine = np.linspace(0.3, 8, 60)
    axis.plot(
        fine,
        [theory.rate_distortion(d, b) * 4.0**b for b in fine],
        color="k",
        label="the sphere's distortion-rate function",
    )
    axis.set(
        title=f"Error over 4^-b: how far from Shannon, d = {d}",
        xlabel="bits a coordinate",
        ylabel="D · 4^b",
        ylim=(0, 3),
    )
    axis.legend(loc="lower left", ncols=2)
    return figure


explore(ladder, start={"d": 128}, d=(3, 8, 32, 128, 512, 1536))

# %% [markdown]
# The gap between 2.72 and 1 has two parts. Cells of equal width and entropy coding (storing frequent indices in
# fewer bits) reach $\pi e/6 = 1.42$ at high rates, 0.25 bits from the limit. The rest is the price of rounding one
# coordinate at a time; only codes of many coordinates together could earn it.

# %%
print(
    f"√3π/2 = {3**0.5 * np.pi / 2:.4f}, that is {np.log(3**0.5 * np.pi / 2) / np.log(4):.3f} bits; "
    f"πe/6 = {np.pi * np.e / 6:.4f}, that is {np.log(np.pi * np.e / 6) / np.log(4):.3f} bits"
)
print(f"at b = 4: entropy {theory.entropy(None, 4):.3f} bits, Huffman {theory.huffman(None, 4):.3f} bits")

# %% [markdown]
# ## A counterexample on the circle
#
# Theorem 3 says that no quantizer of 1 bit a coordinate has an error below $4^{-1} = 0.25$, in any dimension. In
# two dimensions 2 bits name four directions, and Algorithm 1 itself, whatever the rotation, has error $1 - 8/\pi^2
# = 0.189$. The proof used the entropy of a law that has no density in space. For large $d$ the claim is nearly
# true.


# %%
@styled
def circle():
    figure = new_figure(9, 3.8)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    t = np.linspace(0, 2 * np.pi, 400)
    left.plot(np.cos(t), np.sin(t), color="0.6")
    Q = tq.mse.setup(2, 1, 3)
    points = np.stack([np.cos(t), np.sin(t)], axis=1)
    decoded = tq.mse.dequantize(Q, tq.mse.quantize(Q, points))
    for i in range(0, 400, 10):
        left.plot([points[i, 0], decoded[i, 0]], [points[i, 1], decoded[i, 1]], color=COLOURS["sky"], linewidth=0.8)
    left.plot(*np.unique(decoded.round(9), axis=0).T, "o", color=COLOURS["red"])
    left.set(title=f"d = 2, b = 1: D = {((points - decoded) ** 2).sum(1)[:-1].mean():.4f} < 0.25", aspect="equal")
    dims = (2, 3, 4, 8, 16, 64, 256, 1536)
    right.plot(
        dims,
        [theory.rate_distortion(d, 4) * 256 for d in dims],
        "o-",
        color="k",
        label="true floor at b = 4, over 4^-b",
    )
    right.plot(dims, [theory.mse(d, 4) * 256 for d in dims], "s-", color=COLOURS["blue"], label="TurboQuant_mse")
    right.axhline(1, color="0.4", linestyle=":", label="Theorem 3's floor")
    right.set(title="the floor rises to 4^-b with the dimension", xlabel="d", xscale="log", ylim=(0, 2.6))
    right.legend(loc="upper left")
    return figure


show(circle())

# %% [markdown]
# ## Printed and exact
#
# The constants printed in Theorems 1 and 2 are truncated, and one is computed from a truncated one. A right
# implementation exceeds them; use the exact ones in tests.

# %%
for name in ("mse", "prod"):
    for b, printed, exact in theory.printed(name):
        print(
            f"{name:>4}, b = {b}: printed {printed:<6} exact limit {exact:.5f}   at d = 128: "
            f"{theory.mse(128, b) if name == 'mse' else theory.moments('prod', 128, b).across:.5f}"
        )

# %% [markdown]
# "Within 2.7 of optimal" is said of MSE. For the unbiased inner products of Algorithm 2 the ratio to $4^{-b}$ is
# larger, and grows:

# %%
print("d · D_prod · 4^b at b = 1..4:", [round(theory.moments("prod", None, b).across * 4**b, 2) for b in (1, 2, 3, 4)])

# %% [markdown]
# ## Exercises
#
# 1. How many bits would a perfect code need for the error of TurboQuant at 4 bits and $d = 128$? (`theory.rate(128,
#    theory.mse(128, 4))`)
# 2. In $d = 3$ Algorithm 1 has $D = 4^{-b}$ exactly. Why? (Lesson 2, exercise 1.)
# 3. Derive $1 - 8/\pi^2$. (A coordinate of a random point on the circle: $E|t| = 2/\pi$.)
# 4. At which $b$ does entropy coding save most, relatively? (`theory.entropy(None, b)` for $b = 1..8$; section 3.1
#    says 4.)
