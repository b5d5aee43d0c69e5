"""The caches that the tables compare: a name and a `cache.Recipe` each.

"mse 3"             keys and values by Algorithm 1 at 3 bits, no window, no sinks: strictly quantized
"unb 3 W128 s4"     the unbiased scale; the last 128 and the first 4 tokens as they came
"unb K3pre V2"      keys at 3 bits, centred by their mean before RoPE, values at 2
"unb K4/2 V2"       a quarter of the key channels at 4 bits, the others at 2
"by layer 2.5 W64 s4"   bits of keys and of values chosen layer by layer, 2.5 with their scales in the mean
"""

from __future__ import annotations

import heapq
import re
from dataclasses import replace

from turboquant_ref import cache, polar, theory
from turboquant_ref.cache import Recipe, Side

from .lm_cache import Variant

__all__ = [
    "CORE",
    "FIDELITY",
    "HEAT",
    "MIXED",
    "MORE",
    "ONE_LAYER",
    "SEARCH",
    "STRUCTURED",
    "VALUE_MEANS",
    "by_layer",
    "recipe",
]

SCALES = {"mse": "norm", "matched": "matched", "opt": "least_squares", "unb": "unbiased"}
"""Scale rules of Algorithm 1 by the names of the tables."""
WILD = {"bug": "prod-double-scaled", "faiss": "faiss-tq"}


def _side(kind: str, bits: str, key: bool) -> Side | None:
    if bits == "full":
        return None
    wide, _, narrow = bits.rpartition("/")
    b, more = int(narrow), int(wide) if wide else None
    if kind in SCALES:
        return Side("mse", b, more, {} if kind == "mse" else {"scale": SCALES[kind]})
    if kind in ("prodG", "prodO"):
        return Side("prod", b, more, {"sketch": "gaussian" if kind == "prodG" else "orthogonal"})
    if kind in WILD:
        return Variant(bits=b, name=WILD[kind])
    if kind == "kivi":
        return Side("minmax", b, None, {"axis": "channel"} if key else {})
    if kind == "minmax":
        return Side("minmax", b, None, {"group": None})
    if kind == "polar":
        return Side("polar", polar.BITS)
    raise ValueError(f"recipe: no algorithm is called {kind!r}")


_NAME = re.compile(
    r"(?P<kind>\w+) "
    r"(?:(?P<bits>[\d/]+)|K(?P<k>[\d/]+|full)(?P<centre>pre|mean)? (?:(?P<vkind>\w+) )?V(?P<v>[\d/]+|full))"
    r"(?: W(?P<window>\d+))?(?: s(?P<sinks>\d+))?"
)
CENTRES = {None: "none", "mean": "mean", "pre": "pre_rope"}


def recipe(name: str) -> Recipe:
    """The recipe of a name as above; or of one of `cache.RECIPES`; "full" keeps everything in full precision."""
    if name == "full":
        return Recipe(None, None)
    if name in cache.RECIPES:
        return cache.RECIPES[name]
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"name: expected one of a table, a recipe's or full, got {name!r}")
    kind, bits = found["kind"], found["bits"]
    key = _side(kind, bits or found["k"], True)
    value = _side(found["vkind"] or kind, bits or found["v"], False)
    scalars = None if kind in ("kivi", "minmax") else "float16" if kind == "polar" else "bfloat16"
    made = Recipe(key, value, int(found["window"] or 0), int(found["sinks"] or 0), scalars=scalars)
    return replace(made, centre=CENTRES[found["centre"]])


CORE = (
    *(f"{kind} {b}" for b in (3, 2, 4) for kind in ("mse", "unb", "prodO", "prodG", "bug", "opt", "matched")),
    "mse 5", "mse 8", "faiss 3", "faiss 4", "polar 0", "kivi 2", "kivi 3", "kivi 4", "minmax 2", "minmax 3", "minmax 4",
    "mse 5/3", "mse 4/2",
    *(f"{kind} {b} W128" for b in (3, 2, 4) for kind in ("mse", "unb", "prodO", "prodG", "bug")),
    "opt 2 W128", "opt 3 W128", "polar 0 W128", "kivi 2 W128", "kivi 3 W128", "kivi 4 W128", "minmax 3 W128",
    "mse 5/3 W128", "mse 4/2 W128",
)  # fmt: skip
"""Every variant, strictly quantized and with a window."""

MORE = (
    "unb K4 V2", "unb K2 V4", "unb K3 V2", "unb K2 V3", "unb K3 Vfull", "unb K2 Vfull", "unb Kfull V3", "unb Kfull V2",
    "prodO K3 unb V3", "unb K3 prodO V3", "prodG K3 unb V3",
    *(f"unb 3 W{w}" for w in (1, 8, 32, 64, 256)),
    "unb 3 s4", "unb K3mean V3", "unb K3pre V3", "unb K3mean V3 s4", "unb K3pre V3 s4",
    "unb 3 W128 s4", "unb K3pre V3 W128", "unb K3pre V3 W128 s4", "unb K3pre V3 W128 s1", "unb K3mean V3 W128 s4",
    "mse K3pre V3 W128 s4", "opt K3pre V3 W128 s4", "prodO K3pre V3 W128 s4", "prodG K3pre V3 W128 s4",
    "kivi 2 W128 s4", "kivi 3 W128 s4",
    "opt K3pre unb V2 W128 s4", "mse K3pre unb V2 W128 s4", "unb K3pre opt V2 W128 s4", "unb K3pre mse V2 W128 s4",
    "mse 4/2 W128 s4", "unb 4/2", "unb 3/2", "unb 5/3", "unb K4/2 V2",
)  # fmt: skip
"""Keys against values, window, sinks, centred keys, outlier channels."""

_CODES = (
    "K2pre V1", "K2pre V2/1", "K3/2pre V1", "K2pre V2", "K3pre V1", "K4/2pre V1", "K3/2pre V2/1", "K4/2pre V2/1",
    "K3/2pre V2", "K3pre V2/1", "K4/2pre V2", "K3pre V2", "K4/2pre V3/2", "K4pre V2/1", "K4/3pre V2", "K3pre V3/2",
    "K4/2pre V3", "K4pre V2", "K4/3pre V3/2", "K4/3pre V3", "K4pre V3/2", "K4pre V3", "K5pre V2", "K4pre V4",
    "K4 V2", "K4/2 V4/2", "K3/2 V2", "K4/2 V2", "K2pre opt V2",
)  # fmt: skip
SEARCH = (
    *(f"unb {codes} W128 s4" for codes in _CODES),
    *(f"unb {codes} W64 s4" for codes in ("K4/2pre V1", "K4/2pre V2/1", "K4/2pre V2", "K3pre V2", "K4pre V2")),
    *(f"unb {codes} W32 s4" for codes in ("K4/2pre V1", "K4/2pre V2/1", "K4/2pre V2")),
    "unb K3pre V2 s4",
)
"""Where the best recipe at a given size is looked for."""

HEAT = (
    "full", "mse 4", "mse 3", "mse 4/2", "mse 2", "mse 4 W128", "mse 3 W128", "mse 4/2 W128", "mse 2 W128",
    "unb K4pre V2 W128 s4", "unb K3pre V2 W128 s4", "unb K2pre V2 W128 s4", "prodO 3", "prodO 4", "kivi 2 W128",
)  # fmt: skip
"""What the needles are hidden in."""

FIDELITY = tuple(f"{kind} {b}" for b in (2, 3, 4) for kind in (*SCALES, "prodO", "prodG", "bug"))
"""Codecs whose attention logits are compared with theory."""

PAIRED = (
    "mse 3", "prodO 3", "prodG 3", "mse 2", "bug 3", "unb 3", "opt 3", "mse 3 W32", "unb 3 W32", "unb 3 W32 s4",
    "unb K3pre V3 W32", "unb K3pre V3 W32 s4", "mse K3pre V3 W32 s4", "opt K3pre V3 W32 s4", "prodO K3pre V3 W32 s4",
    "unb 3 s4", "unb K3pre V3", "unb K3pre V3 s4", "unb K4 V2", "kivi 2 W32", "mse 4/2 W32", "unb K3pre V2 W32 s4",
    "unb K3pre opt V2 W32 s4", "unb K4/2pre V2 W32 s4",
)  # fmt: skip
"""Run with several seeds, on shorter texts, to be compared pair by pair."""

STRUCTURED = ("mse 3",)
"""Run with a structured rotation too."""

VALUE_MEANS = ("unb K3pre V2 W32 s4",)
"""Run with centred values too."""

# ------------------------------------------------------------------------------------------------ bits by layer

ONE_LAYER = ("unb K2pre Vfull W32 s4", "unb Kfull V2 W32 s4")
"""Run with one layer quantized and the others not."""

SENSITIVITY = {
    "K": (0.8, 3.4, 4.1, 69.6, 9.2, 22.3, 19.6, 15.5, 53.5, 57.0, 53.7, 0.7, 6.9, 4.4, 8.8, 20.5, 3.9, 18.6, 21.4, 4.9,
          32.9, 21.7, 13.8, 51.2, 17.4, 6.4, 14.6, 2.0, 8.7, 5.2),
    "V": (3.9, 2.9, 2.8, 2.8, 2.5, 2.6, 2.8, 4.5, 8.0, 2.1, 1.4, 0.2, 0.6, 0.3, 2.4, 3.3, 1.0, 3.6, 3.7, 1.2, 4.1, 4.5,
          2.4, 12.3, 5.0, 0.5, 1.2, 0.3, 1.3, 1.3),
}  # fmt: skip
"""1e4 times the KL with one layer's keys, or values, at 2 bits and nothing else quantized (`ONE_LAYER`, seed 0), on the
first 512 tokens of alice: what a short calibration finds, and ``python -m paper_figures.lm_jobs --plan layers``."""

_BY_LAYER = re.compile(r"by layer (?P<mean>[\d.]+)(?P<kept>(?: W\d+)? s\d+)")


def by_layer(name: str) -> list[str] | None:
    """The configs of the layers, for a name of that kind; None for another.

    A bit goes where the KL falls most, as if it were the sum over layers of `SENSITIVITY` times the distortion of the
    unbiased scale, D / (1 - D).
    """
    found = _BY_LAYER.fullmatch(name)
    if found is None:
        return None
    layers = len(SENSITIVITY["K"])
    error = {b: theory.mse(64, b) / (1 - theory.mse(64, b)) for b in range(1, 8)}
    bits = {(side, l): 1 for side in SENSITIVITY for l in range(layers)}

    def gain(side: str, l: int) -> float:
        b = bits[side, l]
        return SENSITIVITY[side][l] * (error[b + 1] - error[b]) if b < 6 else 0.0  # the least first

    queue = [(gain(side, l), side, l) for side, l in bits]
    heapq.heapify(queue)
    for _ in range(round((float(found["mean"]) - 0.25 - 1) * 2 * layers)):
        _, side, l = heapq.heappop(queue)
        bits[side, l] += 1
        heapq.heappush(queue, (gain(side, l), side, l))
    return [f"unb K{bits['K', l]}pre V{bits['V', l]}{found['kept']}" for l in range(layers)]


MIXED = tuple(f"by layer {mean} W128 s4" for mean in (2.25, 2.5))
"""Bits by layer, at the sizes that are looked for."""
