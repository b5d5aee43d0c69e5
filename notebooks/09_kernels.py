# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 9. From NumPy to kernels: the same words, faster
#
# The reference is written to be read. `numba_kernels` offers the same words and compiles them for the processor at
# hand; `cuda_kernels` does so for a GPU. `ops = numba_kernels` is all that changes.
#
# **Idea of this lesson:** what makes it fast is doing less (a structured rotation), moving less (codes, not
# vectors) and doing it in registers; what makes it trustworthy is that the result is the same.

# %%
import time

import numpy as np

import turboquant_ref as tq
from paper_figures.interactive import COLOURS, MARKERS, new_figure, show, styled

try:
    import numba_kernels as nk
except ImportError as error:  # numba is an optional extra
    nk = None
    print(f"numba_kernels is not here ({error}): the reference stands in for it. pip install 'turboquant-ref[numba]'")
fast = nk or tq
if nk is not None:
    nk.set_threads(1)
    print("instruction set:", nk.LEVEL)

# %% [markdown]
# ## The same words
#
# A quantizer is made by the reference, once; every backend takes it. Here are 2,000 vectors, coded by both.

# %%
d = 128
x = tq.sphere.uniform(2000, d, 1).astype(np.float32)
Q = tq.mse.setup(d, 4, rng=0, rotation="structured")
ours, theirs = tq.mse.quantize(Q, x), fast.mse.quantize(Q, x)
print("indices that differ:", int((ours.indices != theirs.indices).sum()), "of", ours.indices.size)
bytes_of = [ops.mse.pack(Q, code).data for ops, code in ((tq, ours), (fast, theirs))]
print("bytes of packed indices that differ:", int((bytes_of[0][:, :64] != bytes_of[1][:, :64]).sum()))
off = np.abs(ours.scales - theirs.scales)
print(f"scales (norms): {np.mean(off > 0):.1%} differ, by at most {off.max():.0e}")

# %% [markdown]
# Where two backends round differently, an index may differ for a coordinate that lies on the edge of two cells, and
# nowhere else. How near must it be? Nearer than a rounding error: the picture shows the distance of every
# coordinate to its nearest boundary; the dotted line is the bound for float32.


# %%
@styled
def edges():
    rotated = Q.rotation.apply(x.astype(np.float64))
    distance = np.abs(rotated.ravel()[:, None] - Q.codebook.boundaries).min(1)
    figure = new_figure(9, 3.2)
    axis = figure.subplots()
    axis.hist(np.log10(np.maximum(distance, 1e-12)), bins=80, color=COLOURS["sky"])
    bound = 20 * np.finfo(np.float32).eps / d**0.5  # some twenty roundings on the way, of numbers of size 1/√d
    axis.axvline(np.log10(bound), color="k", linestyle=":", label=f"rounding of float32, {bound:.0e}")
    axis.set(
        title=f"{(distance < bound).sum()} of {distance.size:,} coordinates are close enough to a boundary to differ",
        yscale="log",
        xlabel="log10 of the distance to the nearest boundary",
        ylabel="coordinates",
    )
    axis.legend(loc="upper center")
    return figure


show(edges())

# %% [markdown]
# ## Doing less: the rotation
#
# A dense rotation multiplies by a $d \times d$ matrix: $2d^2$ operations. A structured one tosses coins and adds:
# about $4 d \log_2 d$. One is bound by arithmetic, the other by memory.


# %%
def seconds(work, repeats=3):
    work()
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


timings = {}
for dimension in (64, 256, 1024):
    rows = tq.sphere.uniform(2000, dimension, 2).astype(np.float32)
    for kind in ("haar", "structured"):
        P = tq.mse.setup(dimension, 4, 0, rotation=kind)
        timings["NumPy", kind, dimension] = seconds(lambda: tq.mse.quantize(P, rows))
        if nk is not None:
            timings["kernels", kind, dimension] = seconds(lambda: nk.mse.encode(P, rows))


# %%
@styled
def rates():
    figure = new_figure(9, 3.8)
    axis = figure.subplots()
    for i, (backend, kind) in enumerate(dict.fromkeys((b, k) for b, k, _ in timings)):
        dims = [dim for b, k, dim in timings if (b, k) == (backend, kind)]
        rate = [2000 * dim / timings[backend, kind, dim] / 1e6 for dim in dims]
        axis.plot(dims, rate, marker=MARKERS[i], color=list(COLOURS.values())[i], label=f"{backend}, {kind} rotation")
    axis.set(
        title="Quantizing to 4 bits, one core of the machine that printed this",
        xlabel="d",
        ylabel="million numbers a second",
        xscale="log",
        yscale="log",
    )
    axis.set_xticks([64, 256, 1024], ["64", "256", "1024"])
    axis.minorticks_off()
    axis.legend()
    return figure


show(rates())

# %% [markdown]
# ## Moving less: search in the codes
#
# An exhaustive index reads every code for every query. Four bits are an eighth of float32, and no vector is
# decoded: the query is rotated once, and its products with the 16 centroids are looked up.

# %%
words, glove = tq.data.glove()
Q50 = tq.mse.setup(50, 4, 0, rotation="structured", scale="unbiased")
for ops in (ops for ops in dict.fromkeys((tq, fast)) if hasattr(ops, "search")):
    index = tq.search.Index(Q50, ops=ops)
    index.add(glove)
    took = seconds(lambda: index.search(glove[:100], 5))
    scores, ids = index.search(glove[words.index("river")][None], 6, metric="cosine")
    print(
        f"{ops.__name__:>15}: {100 / took:8.0f} queries a second; "
        f"nearest to 'river': {', '.join(words[i] for i in ids[0][1:])}"
    )

# %% [markdown]
# ## And on a GPU
#
# `import cuda_kernels as ck` and the same lines; `benchmarks/results` has measured times beside the limits of the
# machine. A rotation in registers is then bound by memory, as a copy is.
#
# ## Exercises
#
# 1. Count the bytes that search reads for a million vectors at $d = 128$ and 4 bits, and divide by your memory's
#    bandwidth. How far is the printed rate from that limit?
# 2. `nk.set_threads(n)`: does the result change with n? Should it? (Rows are independent; sums inside a row keep
#    their order.)
# 3. Code the same vectors with `float64`. Which indices change against `float32`, and how near are those
#    coordinates to a boundary?
# 4. At which $d$ does the structured rotation become faster than the dense one, in NumPy and in kernels?
