# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. TurboQuant_mse: rotate, round, rotate back
#
# A random rotation (lesson 1) and the best numbers for its law (lesson 2) are the whole of Algorithm 1.
#
# **Idea of this lesson:** the error of the algorithm is known before it has seen a vector, and it is the same for
# every vector.

# %%
import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, MARKERS, explore, new_figure, show, styled

words, x = tq.data.glove()
d = x.shape[1]

# %% [markdown]
# ## Algorithm 1, line by line
#
# `setup` draws Π and looks up the codebook; it never sees data. `trace` returns every line of the algorithm by its
# name.

# %%
Q = tq.mse.setup(d=d, bits=2, rng=0)
steps = tq.mse.trace(Q, x[words.index("river")])
for name, value in steps.items():
    print(f"{name:>10}  {np.array2string(np.atleast_1d(value)[:6], precision=3, suppress_small=True)} …")


# %%
@styled
def one_vector(bits=2):
    steps = tq.mse.trace(tq.mse.setup(d, bits, 0), x[words.index("river")])
    figure = new_figure(11, 4.2)
    axes = figure.subplots(2, 2, sharex=True)
    panels = [
        ("1. the unit vector x", "unit", COLOURS["orange"]),
        ("2. rotated: y = Πx", "rotated", COLOURS["blue"]),
        ("4. rotated back: x~ = Πᵀ c", None, COLOURS["orange"]),
        (f"3. rounded to {2**bits} numbers: c", "centroids", COLOURS["blue"]),
    ]
    for axis, (title, name, colour) in zip(axes.ravel(), panels):
        axis.bar(np.arange(d), steps["decoded"] / steps["norm"] if name is None else steps[name], color=colour)
        axis.set_title(title)
    error = ((steps["decoded"] / steps["norm"] - steps["unit"]) ** 2).sum()
    figure.suptitle(f"'river' at {bits} bits: ‖x - x~‖² = {error:.3f}, expected {tq.theory.mse(d, bits):.3f}")
    return figure


explore(one_vector, bits=range(1, 6))

# %% [markdown]
# ## The error is known in advance, for every vector
#
# $D = E\|x - \tilde x\|^2$ for a unit vector is $d$ times the error of the scalar quantizer, whatever $x$ is.
# Measured over 48 rotations on three kinds of vectors:

# %%
kinds = {
    "words": x[:200],
    "single ones": np.eye(d),
    "two values": np.where(np.random.default_rng(1).random((200, d)) < 0.5, 1.0, 3.0),
}
rows = {name: [tq.measure.distortion("mse", v, bits=b, draws=48) for b in (1, 2, 3, 4)] for name, v in kinds.items()}
for name, estimates in rows.items():
    print(f"{name:>12}: " + "   ".join(str(e) for e in estimates))
print(f"{'exact':>12}: " + "   ".join(f"{tq.theory.mse(d, b):.6g}" for b in (1, 2, 3, 4)))


# %%
@styled
def measured_beside_exact():
    figure = new_figure(8, 3.2)
    axis = figure.subplots()
    for k, (name, estimates) in enumerate(rows.items()):
        b = np.arange(1, 5) + 0.12 * (k - 1)
        exact = np.array([tq.theory.mse(d, i) for i in (1, 2, 3, 4)])
        axis.errorbar(
            b,
            [e.value for e in estimates] / exact,
            [e.half_width for e in estimates] / exact,
            marker=MARKERS[k],
            color=list(COLOURS.values())[k],
            linestyle="none",
            capsize=3,
            label=name,
        )
    axis.axhline(1, color="0.3")
    axis.set(title="Three kinds of vectors, one error", xlabel="b", ylabel="measured / exact", xticks=[1, 2, 3, 4])
    axis.legend(ncols=3)
    return figure


show(measured_beside_exact())

# %% [markdown]
# ## It shrinks
#
# The centroid of a cell is its mean, so what is decoded is a little short: $E\langle y, \tilde x\rangle = (1 -
# D)\,\langle y, x\rangle$. At 1 bit that factor is $2/\pi$ for large $d$. Lesson 4 begins here.


# %%
@styled
def shrinkage():
    figure = new_figure(11, 3.6)
    y = tq.measure.correlated_queries(x[:600], 3)
    unit = x[:600] / np.linalg.norm(x[:600], axis=1, keepdims=True)
    truth = (y * unit).sum(1)
    for axis, bits in zip(figure.subplots(1, 3, sharey=True), (1, 2, 4)):
        Q = tq.mse.setup(d, bits, 4)
        estimate = (y * tq.mse.dequantize(Q, tq.mse.quantize(Q, unit))).sum(1)
        axis.plot(truth, estimate, ".", color=COLOURS["sky"], markersize=3)
        ends = np.array([-1, 1])
        axis.plot(ends, ends, color="0.6", linewidth=1, label="slope 1")
        slope = tq.theory.slope("mse", d, bits)
        axis.plot(ends, slope * ends, color=COLOURS["red"], label=f"slope 1 - D = {slope:.3f}")
        axis.set(title=f"{bits} bit{'s' * (bits > 1)}", xlabel="⟨y, x⟩")
        axis.legend(loc="upper left")
    figure.axes[0].set_ylabel("estimated ⟨y, x⟩")
    return figure


show(shrinkage())

# %% [markdown]
# ## What is stored
#
# The indices, bit by bit, and one norm. `stored_bits` counts both.

# %%
code = tq.mse.quantize(Q, x)
packed = tq.mse.pack(Q, code)
print(
    f"float32: {x.nbytes:,} bytes; {Q.bits} bits: {packed.data.nbytes:,} bytes, "
    f"{Q.stored_bits:.2f} bits a coordinate with the norm"
)

# %% [markdown]
# ## Exercises
#
# 1. Quantize without a rotation: `tq.mse.Quantizer(tq.rotation.Dense(np.eye(d)), Q.codebook)`. Which of the three
#    kinds of vectors suffers most?
# 2. Multiply every vector by 1000. What changes in the code, and what does not?
# 3. `scale="least_squares"` gives a smaller error and `scale="unbiased"` gives slope 1. Find both with
#    `tq.measure`, and see that no scale has both.
# 4. What would $D$ be if you averaged two independent codes of 2 bits each, and how does it compare with one code
#    of 4 bits?
