"""What a KV cache does to a language model: attention over the codes of `turboquant_ref.cache`, a text at a time.

A cache serves one token after the other; for a text that is known in advance, all of it can be done at once, and
ten times as fast.  The codes of a token do not depend on the calls that appended it, so every layer's keys and values
are encoded whole by a `cache.Layer` without a window, and decoded once.  The query at position p then takes the tokens
that the cache would have quantized by then, `recipes.quantized_tokens(p + 1)` of them, as decoded, and the others, the
sinks and those in the window *of its time*, as they came.  Up to rounding this is `cache.Layer.step` token by token,
which `tests/test_lm.py` checks.

Strictly, without a window, even a query's own token is read as decoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref import cache, variants
from turboquant_ref.cache import Recipe, Side
from turboquant_ref.cache.recipes import find, quantized_tokens

from . import lm

__all__ = ["CodedAttention", "Variant", "calibrations", "recorded", "stored_bits"]

Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Variant(Side):
    """A side coded by one of `turboquant_ref.variants`, for those that are no recipe's: the bugs found in the wild.

    `algorithm` is left alone, `name` says which.
    """

    name: str = "mse"

    def setup(self, d: int, seed: int, rotation: str = "structured", outliers: Any = None) -> Any:
        """The quantizer of dimension d."""
        bits: Any = self.bits
        return variants.find(self.name).setup(d, bits, seed, rotation)  # type: ignore[arg-type]


@dataclass(eq=False)
class CodedAttention:
    """Attention as it is with a cache: what `lm.Model.forward` takes in place of its own.

    Parameters
    ----------
    model : lm.Model
    recipe : str or Recipe
    seed : int
        Of the cache.
    calibration : sequence of cache.Calibration, optional
        One a layer, if the recipe needs it.
    rotation : {"haar", "structured"}
    prefix : int, optional
        The first so many tokens are a text, and each of `branches` continues it; all tokens are the text if None.
    branches : sequence of int
        Lengths of continuations, which do not see each other.
    only : set of int, optional
        The layers that are quantized; all if None.
    value_means : sequence of (kv_heads, d), optional
        Subtracted from the values before they are quantized, and added back: what no recipe does yet.

    Attributes
    ----------
    errors : dict
        Layer by layer ||x - x~||^2 / ||x||^2 of the quantized keys ("k") and values ("v") of the text, as sums.
    """

    model: lm.Model
    recipe: str | Recipe
    seed: int = 0
    calibration: Sequence[cache.Calibration] | None = None
    rotation: str = "haar"
    prefix: int | None = None
    branches: Sequence[int] = ()
    only: frozenset[int] | None = None
    value_means: Sequence[Reals] | None = None
    errors: dict[str, list[float]] = field(default_factory=lambda: {"k": [], "v": []})

    def __post_init__(self) -> None:
        self.recipe = find(self.recipe)
        made = cache.Cache.from_recipe(
            replace(self.recipe, window=0),
            len(self.model.layers),
            self.model.kv_heads,
            self.model.head_dim,
            self.seed,
            rotation=self.rotation,
            calibration=self.calibration,
            rope=self.model.rope,
        )
        self.layers = made.layers

    def __call__(self, layer: int, q: Reals, k: Reals, v: Reals) -> Reals:
        """Attention of the layer; see `lm.Attention`."""
        n = q.shape[1] if self.prefix is None else self.prefix
        coder = self.layers[layer]
        if all(Q is None for pair in coder.quantizers for Q in pair) or (self.only and layer not in self.only):
            coder = None
        exact, coded = self._both(layer, coder, k[:, :n], v[:, :n])
        out = np.empty_like(q)
        out[:, :n] = self._attend(q[:, :n], 0, exact, coded, coder)
        if coder is not None:
            for name, a, b in zip("kv", exact, coded, strict=True):
                self.errors[name].append(float(((a - b) ** 2).sum() / (a**2).sum()))
        at = n
        for length in self.branches:
            rows = slice(at, at + length)
            whole, decoded = self._continue(coder, exact, coded, k[:, rows], v[:, rows])
            out[:, rows] = self._attend(q[:, rows], n, whole, decoded, coder)
            at += length
        return out

    def _both(self, layer: int, coder: cache.Layer | None, k: Reals, v: Reals) -> tuple[list[Reals], list[Reals]]:
        """Keys and values as they came, in float16, and as decoded."""
        if coder is None:
            return [k, v], [k, v]
        half = [a.astype(np.float16) for a in (k, v)]
        mean = 0 if self.value_means is None else self.value_means[layer][:, None]
        filled = coder.copy()
        filled.append(half[0], (half[1] - mean).astype(np.float16))
        keys, values = filled.dequantize()
        return [a.astype(np.float32) for a in half], [keys, values + mean]

    def _continue(
        self, coder: cache.Layer | None, exact: list[Reals], coded: list[Reals], k: Reals, v: Reals
    ) -> tuple[list[Reals], list[Reals]]:
        """The same of a text and its continuation; blocks that the text left incomplete are completed."""
        n = exact[0].shape[1]
        if coder is None:
            whole = [np.concatenate(pair, axis=1) for pair in zip(exact, (k, v), strict=True)]
            return whole, whole
        done = min(coder.sinks, n) + quantized_tokens(n, 0, coder.sinks, coder.group)
        half = [a.astype(np.float16) for a in (k, v)]
        whole = [np.concatenate([a, b.astype(np.float32)], axis=1) for a, b in zip(exact, half, strict=True)]
        tail = cache.Layer(
            *(self._side(coder, side) for side in (0, 1)),
            sinks=max(coder.sinks - n, 0),
            group=coder.group,
            scalars=coder.scalars,
            key_mean=coder.key_mean,
            rope=coder.rope,
            start=done,
        )
        tail.append(*(a[:, done:].astype(np.float16) for a in whole))
        end = tail.dequantize()
        return whole, [np.concatenate([a[:, :done], b], axis=1) for a, b in zip(coded, end, strict=True)]

    @staticmethod
    def _side(coder: cache.Layer, side: int) -> Any:
        quantizers = [pair[side] for pair in coder.quantizers]
        return quantizers if len(quantizers) > 1 and None not in quantizers else quantizers[0]

    def _attend(self, q: Reals, first: int, exact: list[Reals], coded: list[Reals], coder: cache.Layer | None) -> Reals:
        """Queries at the positions first, first + 1, … over the tokens up to them."""
        heads, n, d = q.shape
        kv_heads, recipe = len(exact[0]), find(self.recipe)
        group, scale = heads // kv_heads, np.float32(1 / math.sqrt(d))
        out = np.empty_like(q)
        for start in range(0, n, lm.CHUNK):
            rows = slice(start, min(start + lm.CHUNK, n))
            p = np.arange(first + rows.start, first + rows.stop)
            stop, limits = p[-1] + 1, p + 1
            if coder is not None:
                counts = [quantized_tokens(int(i) + 1, recipe.window, recipe.sinks, coder.group) for i in p]
                limits = np.minimum(recipe.sinks, p + 1) + counts
            low = int(limits[0])  # from here on, a token is as decoded or as it came, query by query
            as_came = np.arange(low, stop) >= limits[:, None]
            mixed = coder is not None and bool(as_came.any())
            for h in range(kv_heads):
                those = slice(h * group, (h + 1) * group)
                query = q[those, rows].reshape(-1, d) * scale
                scores = (query @ coded[0][h, :stop].T).reshape(group, len(p), stop)
                if mixed:
                    band = (query @ exact[0][h, low:stop].T).reshape(group, len(p), -1)
                    np.copyto(scores[..., low:], band, where=as_came)
                weights = lm.softmax(lm.mask_later(scores, first + rows.start))
                if mixed:
                    band = weights[..., low:] * as_came
                    weights[..., low:] -= band
                    total = weights @ coded[1][h, :stop] + band @ exact[1][h, low:stop]
                else:
                    total = weights @ coded[1][h, :stop]
                out[those, rows] = total
        return out


def recorded(model: lm.Model, tokens: Any) -> tuple[Reals, list[tuple[Reals, Reals, Reals]]]:
    """The hidden states of a text, and every layer's queries, keys (after RoPE) and values, in full precision."""
    seen: list[tuple[Reals, Reals, Reals]] = []

    def attention(layer: int, q: Reals, k: Reals, v: Reals) -> Reals:
        seen.append((q, k, v))
        return lm.causal(layer, q, k, v)

    return model.forward(tokens, attention), seen


def calibrations(
    recipe: str | Recipe, seen: Sequence[tuple[Reals, Reals, Reals]], rope: cache.Rope
) -> list[cache.Calibration] | None:
    """What the recipe needs to know of each layer, from a text that was `recorded`; None if it needs nothing.

    Outlier channels of centred keys are those of the keys as they are quantized, minus their mean and without sinks:
    the mean of the keys has the largest channels, and it is gone.
    """
    recipe = find(recipe)
    outliers = [side.outlier_bits for side in (recipe.key, recipe.value) if side is not None]
    if recipe.centre == "none" and all(bits is None for bits in outliers):
        return None
    return [_calibration(recipe, k, v, rope) for _, k, v in seen]


def _calibration(recipe: Recipe, k: Reals, v: Reals, rope: cache.Rope) -> cache.Calibration:
    about = cache.calibrate(recipe, k, v, rope)
    if about.key_mean is None or about.key_outliers is None:
        return about
    k, v = k[:, recipe.sinks :], v[:, recipe.sinks :]
    mean: Reals = about.key_mean[:, None]
    if recipe.centre == "pre_rope":
        mean = rope.apply(np.broadcast_to(mean, k.shape), recipe.sinks + np.arange(k.shape[1]))
    return replace(about, key_outliers=cache.calibrate(replace(recipe, centre="none"), k - mean, v).key_outliers)


def stored_bits(model: lm.Model, recipe: str | Recipe, context: int) -> float:
    """Bits a coordinate of keys and values, with the window, the sinks and the mean keys, at this length of context."""
    size = cache.estimate(len(model.layers), model.kv_heads, model.head_dim, context, recipe=recipe)
    return size.bits_per_coordinate
