"""A KV cache of codes that grows token by token (TurboQuant, section 4): for one attention layer, and for a model.

    L = cache.Layer(mse.setup(128, 4, 0), mse.setup(128, 2, 1), window=128, sinks=4)
    L.append(k, v)                             # (batch, kv_heads, n, 128): a prompt, or one token
    out = L.attend(q)                          # (batch, heads, n_queries, 128), from the codes

    C = cache.Cache.from_recipe("k4v2", layers=32, kv_heads=8, head_dim=128, rng=0)
    out = C.layers[0].step(q, k, v)            # append and attend, as though token by token
    C.crop(100), C.reorder([0, 0, 2]), C.nbytes, C.save("prompt.tqc")

    print(cache.estimate(layers=32, kv_heads=8, head_dim=128, context=131072, recipe="k4v2"))

A cache holds bytes: packed codes in blocks, and the few tokens that are kept as they came, the last ones (window) and
the first ones (sinks).  Nothing is held unpacked; attention unpacks a block at a time, and merges blocks by online
softmax.

What the options are worth, measured on a small model (see `recipes`): a window of 128 divides the KL by 8, more than
one more bit does; keys need about 1.5 bits more than values; centred keys are worth one bit, but only with sinks, whose
small keys would become large residuals; Algorithm 2's sketch is not worth its bit.
"""

from .estimate import Estimate, estimate
from .layer import Layer
from .model import STREAM, Cache, Calibration, calibrate
from .pages import Pages, from_pages, to_pages
from .recipes import RECIPES, Recipe, Side
from .rope import Rope, key_mean

__all__ = [
    "RECIPES",
    "STREAM",
    "Cache",
    "Calibration",
    "Estimate",
    "Layer",
    "Pages",
    "Recipe",
    "Rope",
    "Side",
    "calibrate",
    "estimate",
    "from_pages",
    "key_mean",
    "to_pages",
]
