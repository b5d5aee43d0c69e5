"""What a KV cache will weigh; the public name is `cache.estimate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..vectors import check_dimension, check_integer
from .recipes import Recipe, Side, find, quantized_tokens


@dataclass(frozen=True)
class Estimate:
    """What a cache weighs, in bytes; `str` is the table.

    Attributes
    ----------
    recipe : Recipe
    layers, kv_heads, head_dim, context, batch : int
    dtype : str
        Of what is kept in full precision, and of the cache that it is compared with.
    tokens : int
        Quantized tokens of each sequence in a layer that is not protected.
    protected_layers : int
    keys, values, window, means, protected : int
        Bytes of the codes of keys and of values, of windows and sinks, of the mean keys (float32), of protected layers.
    """

    recipe: Recipe
    layers: int
    kv_heads: int
    head_dim: int
    context: int
    batch: int
    dtype: str
    tokens: int
    protected_layers: int
    keys: int
    values: int
    window: int
    means: int
    protected: int

    @property
    def total(self) -> int:
        """Bytes of the cache: what `Cache.nbytes` will be."""
        return self.keys + self.values + self.window + self.means + self.protected

    @property
    def full(self) -> int:
        """Bytes of the same cache in full precision."""
        return self._numbers(self.layers, self.context) * np.dtype(self.dtype).itemsize

    @property
    def ratio(self) -> float:
        """How many times smaller it is."""
        return self.full / self.total if self.total else math.nan

    @property
    def bytes_per_token(self) -> float:
        """Of all layers, keys and values, everything counted."""
        return self.total / max(self.context * self.batch, 1)

    @property
    def bits_per_coordinate(self) -> float:
        """Stored bits a coordinate of keys and values, everything counted."""
        return 8 * self.total / max(self._numbers(self.layers, self.context), 1)

    def _numbers(self, layers: int, tokens: int) -> int:
        return 2 * self.batch * layers * self.kv_heads * tokens * self.head_dim

    def __str__(self) -> str:
        own = self.layers - self.protected_layers
        kept = self.context - self.tokens
        both, others = self._numbers(own, self.tokens), self._numbers(own, kept)
        everything = self._numbers(self.layers, self.context)
        rows = [
            ("keys", self.tokens, self.keys, both // 2),
            ("values", self.tokens, self.values, both // 2),
            ("window and sinks", kept, self.window, others),
            ("mean keys", 0, self.means, 0),
            (f"{self.protected_layers} protected layers", self.context, self.protected, everything - both - others),
        ]
        rows = [row for row in rows[:2] if row[1]] + [row for row in rows[2:] if row[2]]
        rows += [("total", self.context, self.total, everything), (self.dtype, self.context, self.full, everything)]
        width = max(len(name) for name, *_ in rows)
        head = f"{'':{width}}  {'tokens':>9}  {'bits':>6}  {'bytes/token':>11}  {'total':>10}  {'share':>6}"
        lines = [self._heading(), "", head]
        for name, tokens, size, numbers in rows:
            bits = f"{8 * size / numbers:.3f}" if numbers else ""
            count = f"{tokens:,}" if tokens else ""
            share = f"{size / self.total:.1%}" if self.total and name != self.dtype else ""
            rate = f"{size / max(self.context * self.batch, 1):,.0f}"
            lines.append(f"{name:{width}}  {count:>9}  {bits:>6}  {rate:>11}  {_binary(size):>10}  {share:>6}".rstrip())
        lines[-2:-2] = ["-" * len(head)]
        return "\n".join([*lines, "", f"{self.ratio:.2f} times smaller than {self.dtype}"])

    def _heading(self) -> str:
        shape = f"{self.layers} layers, {self.kv_heads} KV heads, head dimension {self.head_dim}"
        size = f"{self.batch} x {self.context:,} tokens" if self.batch > 1 else f"{self.context:,} tokens"
        key, value = (str(side) if side else self.dtype for side in (self.recipe.key, self.recipe.value))
        scalars = self.recipe.scalars or "each algorithm's own"
        return f"KV cache: {shape}, {size}\nkeys {key}; values {value}; side scalars {scalars}"


def _binary(size: int) -> str:
    """1536 as "1.500 KiB"."""
    power = min(max(size, 1).bit_length() - 1, 49) // 10
    return f"{size / 2 ** (10 * power):.3f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}" if power else f"{size} B"


def estimate(
    layers: int = 32,
    kv_heads: int = 8,
    head_dim: int = 128,
    context: int = 131072,
    k_bits: int | None = None,
    v_bits: int | None = None,
    recipe: str | Recipe | None = None,
    batch: int = 1,
    dtype: str = "float16",
) -> Estimate:
    """What a cache will weigh, to the byte, before there is one.

    Parameters
    ----------
    layers, kv_heads, head_dim : int
        Of the model.
    context : int
        Tokens of a sequence.
    k_bits, v_bits : int, optional
        `mse` with float32 scales and no window: instead of a recipe.  4 and 3 if there is neither.
    recipe : str or Recipe, optional
    batch : int
        Sequences.
    dtype : {"float16", "float32", "float64"}
        Of tokens that are kept in full precision, and of the cache to compare with; bfloat16 weighs what float16 does.

    Returns
    -------
    Estimate
        Its `str` is a table.  Rotations, codebooks and RoPE frequencies are the quantizers', the same for any context,
        and not counted.
    """
    if recipe is not None and not (k_bits is None and v_bits is None):
        raise ValueError("recipe: it has its own bits; expected it or k_bits and v_bits, not both")
    if dtype not in ("float16", "float32", "float64"):
        raise ValueError(f"dtype: expected one of float16, float32, float64, got {dtype!r}")
    layers, kv_heads = check_integer(layers, "layers", 1), check_integer(kv_heads, "kv_heads", 1)
    d, n, batch = check_dimension(head_dim), check_integer(context, "context", 0), check_integer(batch, "batch", 1)
    if recipe is None:
        sides = (Side("mse", 4 if k_bits is None else k_bits), Side("mse", 3 if v_bits is None else v_bits))
        recipe = Recipe(*sides, scalars="float32")
    recipe = find(recipe)
    protected = sum(recipe.protects(layer, layers) for layer in range(layers))
    vectors = batch * kv_heads

    def layer(key: Side | None, value: Side | None) -> tuple[int, int, int, int]:
        quantizers = [None if side is None else side.any_setup(d) for side in (key, value)]
        spans = [getattr(Q, "vectors_per_record", 1) for Q in quantizers]
        tokens = quantized_tokens(n, recipe.window, recipe.sinks, math.lcm(recipe.group, *spans))
        full = d * np.dtype(dtype).itemsize
        sizes = [full if Q is None else _record_bytes(Q, recipe.scalars) for Q in quantizers]
        keys, values = (vectors * tokens // span * size for span, size in zip(spans, sizes, strict=True))
        return tokens, keys, values, 2 * vectors * (n - tokens) * full

    tokens, keys, values, window = layer(recipe.key, recipe.value)
    own = layers - protected
    kept = sum(layer(*recipe.protected_sides)[1:])
    means = 4 * own * kv_heads * d if recipe.centre != "none" and recipe.key is not None else 0
    sizes = (own * keys, own * values, own * window, means, protected * kept)
    return Estimate(recipe, layers, kv_heads, d, n, batch, dtype, tokens, protected, *sizes)


def _record_bytes(Q: Any, scalars: str | None) -> int:
    size = getattr(Q, "bytes_per_record", Q.bytes_per_vector)
    return int(size() if scalars is None else size(scalars))
