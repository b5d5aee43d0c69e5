# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. TurboQuant_prod, and what it costs
#
# Algorithm 1 is precise but shrinks inner products (lesson 3); QJL is unbiased but noisy (lesson 4). Algorithm 2
# uses both: the first $b - 1$ bits for the vector, the last one for signs of what was lost.
#
# **Idea of this lesson:** the sketch of the residual removes the bias. The bit that it takes is dear, and a better
# scale does the same for nothing.

# %%
import turboquant_ref as tq
from paper_figures import fig1, fig3
from paper_figures.interactive import COLOURS, MARKERS, explore, new_figure, show, styled

# %% [markdown]
# ## Two stages, line by line

# %%
words, x = tq.data.glove()
P = tq.prod.setup(d=50, bits=3, rng=0)
steps = tq.prod.trace(P, x[words.index("river")])
print("first stage, 2 bits:  indices", steps["indices"][:8], "…")
print(f"what is left:         ‖r‖ = {steps['residual_norm']:.4f}, expected {tq.theory.mse(50, 2) ** 0.5:.4f}")
print("second stage, 1 bit:  signs", steps["signs"][:8], "…")

# %% [markdown]
# ## The histograms of the paper's Fig 1
#
# Errors $\langle y, x\rangle - \langle y, \tilde x\rangle$ at 1 to 4 bits. Upper row, Algorithm 2: centred on 0.
# Lower row, Algorithm 1: narrower, but shifted, the less the more bits. "As written" is the paper's algorithm, "as
# released" the authors' code, whose $S$ is orthogonal: the published figure is the latter.

# %%
settings = {"data": "synthetic-128", "n": 160, "n_queries": 40, "draws": 24, "seed": 1}
show(fig1.plot(fig1.compute(**settings)))

# %% [markdown]
# ## What it costs: Fig 3
#
# (a) the error of inner products: Algorithm 2 wins at few bits only, and only where $|\langle y, x\rangle|$ is
# large enough for Algorithm 1's bias to matter. (b) the error of the decoded vector: Algorithm 2's is several times
# larger at every width. Points are measured, lines exact.

# %%
results = fig3.compute(**settings)
show(fig3.plot(results))
print(
    "prod beats mse where |<y, x>| exceeds (b = 1..4, d = 128, S as written):",
    [None if r is None else round(r, 3) for r in (tq.theory.crossover(128, b) for b in (1, 2, 3, 4))],
)

# %% [markdown]
# ## The bit that is not worth its place
#
# Algorithm 1 multiplied by another scale, $\|x\| / \langle z, q\rangle$ instead of $\|x\|$, is exactly unbiased
# (that is DRIVE's and EDEN's). No sketch, the same storage as Algorithm 1, and much less noise at equal bits:


# %%
@styled
def unbiased_estimators(d=128):
    figure = new_figure(8, 3.8)
    axis = figure.subplots()
    choices = {
        "prod, Gaussian S (as written)": ("prod", {}),
        "prod, orthogonal S": ("prod", {"sketch": "orthogonal"}),
        "mse with the unbiased scale": ("mse", {"scale": "unbiased"}),
    }
    for k, (name, (algorithm, options)) in enumerate(choices.items()):
        bits, noise = [], []
        for b in range(1, 6):
            Q = getattr(tq, algorithm).setup(d, b, 0, "structured", **options)
            bits.append(Q.stored_bits)
            noise.append(tq.theory.moments(algorithm, d, b, **options).across)
        axis.plot(bits, noise, marker=MARKERS[k], color=list(COLOURS.values())[k], label=name)
    axis.set(
        title=f"Three unbiased estimators, d = {d}",
        xlabel="stored bits a coordinate, norms included",
        ylabel="d · Var at ⟨y, x⟩ = 0",
        yscale="log",
    )
    axis.legend()
    return figure


explore(unbiased_estimators, start={"d": 128}, d=(32, 128, 512))

# %% [markdown]
# ## Exercises
#
# 1. Why must the residual be sketched with its norm, and what happens if $\gamma$ is replaced by its mean,
#    $\sqrt{D}$? (`residual="expected"`; `tq.theory.moments`.)
# 2. "S divided by √d twice" is a popular bug: its slope is $1 - D(1 - 1/\sqrt d)$. Compute it for $d = 128$, $b =
#    2$, and find it in `tq.variants.WILD`.
# 3. Where in a transformer are $|\langle y, x\rangle|$ large enough for Algorithm 2 to beat Algorithm 1 at 3 bits?
# 4. Theorem 2's constants are 1.57, 0.56, 0.18, 0.047. Which of them does a right implementation exceed?
#    (`tq.theory.printed("prod")`)
