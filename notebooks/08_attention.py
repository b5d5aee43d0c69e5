# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Attention, and a real model's cache
#
# A language model keeps a key and a value of every token that it has read. Quantizing them is what TurboQuant is
# famous for. Here are 512 tokens of *Alice in Wonderland* as a small model (SmolLM2-135M) sees them: keys, values
# and queries of two of its layers. The full measurements are in `paper_figures/LM.md`.
#
# **Idea of this lesson:** attention never needs a decoded vector; and what harms it is noise in the logits, not
# bias.

# %%
from dataclasses import replace
from pathlib import Path

import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, MARKERS, explore, new_figure, show, styled

here = Path("smollm2_sample.npz")
sample = np.load(here if here.exists() else Path("notebooks") / here)
k, v, q = (sample[name].astype(np.float32) for name in "kvq")
print("layers", sample["layers"], " k", k.shape, " v", v.shape, " q", q.shape)

# %% [markdown]
# ## Real keys are nothing like random vectors
#
# Some channels are large for every token, and the first token is special. A rotation spreads the large channels; a
# code with a stored norm does not mind the small first key.


# %%
@styled
def keys(layer=1):
    figure = new_figure(11, 3.4)
    left, middle, right = figure.subplots(1, 3)
    head = k[layer, 0]
    picture = left.imshow(head[:128].T, aspect="auto", cmap="RdBu", vmin=-6, vmax=6)
    figure.colorbar(picture, ax=left)
    left.set(title="keys as they are", xlabel="token", ylabel="channel")
    left.grid(False)
    Pi = tq.rotation.haar(64, 0)
    picture = middle.imshow(Pi.apply(head)[:128].T, aspect="auto", cmap="RdBu", vmin=-6, vmax=6)
    middle.set(title="keys rotated", xlabel="token")
    middle.grid(False)
    right.plot(np.linalg.norm(head, axis=1), color=COLOURS["blue"])
    right.set(title="norms of keys: the first token is a sink", xlabel="token", ylabel="‖k‖", ylim=(0, None))
    figure.suptitle(f"Keys of layer {sample['layers'][layer]}, head 0")
    return figure


explore(keys, start={"layer": 1}, layer=(0, 1))

# %% [markdown]
# ## Scores without decoding
#
# $\langle q, \Pi^T c\rangle = \langle \Pi q, c\rangle$: rotate each query once, and score codes. Output: sum codes,
# rotate back once. `tq.attention.fidelity` compares with exact attention.

# %%
Qk, Qv = tq.mse.setup(64, 4, 0), tq.mse.setup(64, 4, 1)
keys_, values_ = tq.mse.quantize(Qk, k[1]), tq.mse.quantize(Qv, v[1])
out = tq.attention.attend(Qk, Qv, q[1], keys_, values_, causal=True)
f = tq.attention.fidelity(Qk, Qv, q[1], k[1], v[1], causal=True)
print(
    f"attention output {out.shape}; slope of logits {f.slope:.4f} (theory {f.expected_slope:.4f}), "
    f"noise {f.noise:.3f} (theory {f.expected_noise:.3f})"
)

# %% [markdown]
# ## Noise decides
#
# KL divergence of the attention weights against the noise of the logits, for five estimators at 2, 3 and 4 bits.
# Biased or not, they lie on one curve. At equal bits Algorithm 2 is further up it.

# %%
estimators = {
    "mse": lambda b, s: tq.mse.setup(64, b, s),
    "mse, unbiased scale": lambda b, s: tq.mse.setup(64, b, s, scale="unbiased"),
    "prod, orthogonal S": lambda b, s: tq.prod.setup(64, b, s, sketch="orthogonal"),
    "prod (as written)": lambda b, s: tq.prod.setup(64, b, s),
    "rabitq": lambda b, s: tq.rabitq.setup(64, b, s),
}
measured = {}
for name, setup in estimators.items():
    for b in (2, 3, 4):
        found = [
            tq.attention.fidelity(setup(b, s), tq.mse.setup(64, 8, 9), q[layer], k[layer], v[layer], causal=True)
            for layer in (0, 1)
            for s in (0, 1)
        ]
        measured[name, b] = np.mean([[f.noise, f.kl, f.top1] for f in found], axis=0)


@styled
def one_curve():
    figure = new_figure(10, 3.8)
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(estimators):
        rows = np.array([measured[name, b] for b in (2, 3, 4)])
        style = {"marker": MARKERS[i], "color": list(COLOURS.values())[i], "label": name}
        left.plot(rows[:, 0], rows[:, 1], linestyle="none", **style)
        right.plot((2, 3, 4), rows[:, 1], **style)
    left.set(
        title="one curve: KL against noise",
        xlabel="standard deviation of the logits' error",
        ylabel="KL of the weights (nats)",
        xscale="log",
        yscale="log",
    )
    left.minorticks_off()
    left.set_xticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
    right.set(title="at equal bits", xlabel="b", yscale="log", xticks=[2, 3, 4])
    right.legend()
    return figure


show(one_curve())

# %% [markdown]
# ## A cache
#
# `tq.cache` grows token by token and is made by named recipes: which bits, which window of recent tokens stays as
# it came, whether the first tokens (sinks) do, whether the mean key is subtracted. Error of the output of
# attention, against bits that are really stored for these 512 tokens:

# %%
rope = tq.cache.rope.setup(64, 100000, "interleaved")
recipes = ["paper-2.5", "paper-3.5", "kivi-2", "kivi-4", "k4v2", "k2pre-v2", "k3pre-v2", "k3pre-v3", "k4pre-v4"]


def output_error(recipe):
    """Stored bits a coordinate, and the relative error of attention's output, over two layers."""
    calibration = [tq.cache.calibrate(recipe, k[i, :, :256], v[i, :, :256], rope) for i in (0, 1)]
    cache = tq.cache.Cache.from_recipe(recipe, 2, 3, 64, rng=0, calibration=calibration, rope=rope)
    seen, errors = tq.attention.visible(64, 512, causal=True), []
    for i in (0, 1):
        cache.layers[i].append(k[i].astype(np.float16), v[i].astype(np.float16))  # what is kept is kept in 16 bits
        logits = q[i] @ np.repeat(k[i], 3, axis=0).swapaxes(-1, -2) / 8
        exact = tq.attention.softmax(np.where(seen, logits, -np.inf)) @ np.repeat(v[i], 3, axis=0)
        errors.append(((cache.layers[i].attend(q[i]) - exact) ** 2).sum() / (exact**2).sum())
    return 8 * cache.nbytes / (2 * 2 * 3 * 512 * 64), float(np.mean(errors))


scores = {name: output_error(name) for name in recipes}
bare = {name: output_error(replace(tq.cache.RECIPES[name], window=0)) for name in recipes}
for name in recipes:
    print(
        f"{name:>10}: {scores[name][0]:5.2f} bits stored, error {scores[name][1]:.4f};   "
        f"without a window {bare[name][0]:5.2f} bits, {bare[name][1]:.4f}"
    )


# %%
@styled
def recipes_drawn():
    figure = new_figure(9, 4.2)
    axis = figure.subplots()
    for i, name in enumerate(recipes):
        colour, marker = list(COLOURS.values())[i % 7], MARKERS[i % 7]
        axis.plot(*zip(bare[name], scores[name]), color=colour, linewidth=0.8, linestyle=":")
        axis.plot(*bare[name], marker, color=colour, markerfacecolor="none")
        axis.plot(*scores[name], marker, color=colour)
        axis.annotate(name, bare[name], xytext=(5, 3), textcoords="offset points", fontsize=8)
    axis.set(
        title="512 tokens, 2 layers. Hollow: no window. Filled: the recipe's own window of recent tokens, counted",
        xlabel="stored bits a coordinate, everything counted",
        ylabel="relative error of attention's output",
        yscale="log",
    )
    return figure


show(recipes_drawn())
print(tq.cache.estimate(layers=30, kv_heads=3, head_dim=64, context=8192, k_bits=3, v_bits=3))

# %% [markdown]
# ## Exercises
#
# 1. Give keys 4 bits and values 2, then keys 2 and values 4 (`Qk`, `Qv` above). Which is better, and why?
# 2. Quantize the keys without a rotation (`tq.rotation.Dense(np.eye(64))`). What happens to the KL?
# 3. Subtract the mean key of a head before quantizing. The softmax does not notice (why?), and the error shrinks.
#    By how much? And if the sink is quantized as well?
# 4. In which sense do errors that all keys share cancel in attention? (Add a constant to all logits.)
