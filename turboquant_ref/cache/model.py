"""The KV cache of a model: a layer for each attention layer, made by a recipe, saved to a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import channels, container
from ..description import describe, rebuild
from ..generator import seed_of, words
from ..vectors import as_rows, check_dimension, check_integer
from .layer import Layer
from .recipes import OUTLIER_SHARE, Recipe, Side, find
from .rope import Rope, key_mean

__all__ = ["STREAM", "Cache", "Calibration", "calibrate"]

STREAM = 2**64 - 2
"""Word 2 l of this stream of a cache's seed is the seed of layer l's keys, word 2 l + 1 that of its values."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a recipe needs to know of a layer's data.

    Attributes
    ----------
    key_mean : (kv_heads, d) float32, or None
        For a recipe with centred keys.
    key_outliers, value_outliers : (d,) or (kv_heads, d) bool, or None
        For a recipe with outlier channels: of all heads, or of each.
    """

    key_mean: NDArray[np.float32] | None = None
    key_outliers: NDArray[np.bool_] | None = None
    value_outliers: NDArray[np.bool_] | None = None


def calibrate(recipe: str | Recipe, k: ArrayLike, v: ArrayLike, rope: Rope | None = None) -> Calibration:
    """What a recipe needs to know of one layer, from keys and values of a sample: a few hundred tokens of any text.

    Parameters
    ----------
    recipe : str or Recipe
    k, v : (*batch, kv_heads, n, d)
        Keys after RoPE, at positions 0 to n - 1.  The recipe's sinks are left out of the mean.
    rope : Rope, optional
        What was applied to the keys; for a recipe that centres them before it.

    The outlier channels of centred keys are those of what is quantized, the keys minus their mean: the mean has the
    largest channels, and it is gone.
    """
    recipe = find(recipe)
    mean = None
    if recipe.centre != "none":
        if recipe.centre == "pre_rope" and rope is None:
            raise ValueError("rope: the recipe centres keys before RoPE, so it needs the model's")
        rows = as_rows(k, name="k")
        positions, rows = np.arange(rows.shape[-2])[recipe.sinks :], rows[..., recipe.sinks :, :]
        applied = rope if recipe.centre == "pre_rope" else None
        mean = key_mean(rows, positions, applied)
        k = rows - (mean[:, None] if applied is None else applied.apply(mean[:, None], positions))
    masks = []
    for side, x, name in ((recipe.key, k, "k"), (recipe.value, v, "v")):
        rows = as_rows(x, name=name)
        heads, d = rows.shape[-3], rows.shape[-1]
        by_head = np.moveaxis(rows, -3, 0).reshape(heads, -1, d)
        mixed = side is not None and side.outlier_bits is not None
        masks.append(np.stack([channels.outliers(h, d // OUTLIER_SHARE) for h in by_head]) if mixed else None)
    return Calibration(mean, *masks)


class Cache:
    """The KV cache of a model: a `Layer` for each attention layer.

    Parameters
    ----------
    layers : iterable of Layer
        In order; `layers` is the list of them.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = list(layers)
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers: expected Layers, got {type(layer).__name__}")
        if not self.layers:
            raise ValueError("layers: expected at least one")

    @classmethod
    def from_recipe(
        cls,
        recipe: str | Recipe,
        layers: int,
        kv_heads: int,
        head_dim: int,
        rng: int | np.random.Generator,
        *,
        ops: ModuleType | None = None,
        rotation: str = "structured",
        calibration: Sequence[Calibration] | None = None,
        rope: Rope | None = None,
        block: int = 256,
    ) -> Cache:
        """An empty cache made by a recipe.

        Parameters
        ----------
        recipe : str or Recipe
            A name of `RECIPES`, or your own.
        layers, kv_heads, head_dim : int
            Of the model.
        rng : int or numpy.random.Generator
            One seed for all layers; see `STREAM`.
        ops, block
            See `Layer`.
        rotation : {"structured", "haar"}
        calibration : sequence of Calibration, optional
            One a layer, from `calibrate`: for recipes with centred keys or outlier channels.
        rope : Rope, optional
            The model's, for recipes that centre keys before it.

        Raises
        ------
        TypeError, ValueError
            For an unknown recipe, or where it needs a calibration or RoPE that is missing.
        """
        recipe = find(recipe)
        layers, kv_heads = check_integer(layers, "layers", 1), check_integer(kv_heads, "kv_heads", 1)
        d = check_dimension(head_dim)
        known = [Calibration()] * layers if calibration is None else list(calibration)
        if len(known) != layers:
            raise ValueError(f"calibration: expected {layers}, one a layer, got {len(known)}")
        if recipe.centre == "pre_rope" and rope is None:
            raise ValueError("rope: the recipe centres keys before RoPE, so it needs the model's")
        seeds = words(seed_of(rng), STREAM, 2 * layers)
        made = []
        for l, about in enumerate(known):
            sides, masks = recipe.sides(l, layers), (about.key_outliers, about.value_outliers)
            quantizers = [
                _quantizers(side, d, kv_heads, int(seed), rotation, mask, f"layer {l}: ")
                for side, seed, mask in zip(sides, seeds[2 * l : 2 * l + 2], masks, strict=True)
            ]
            mean = None
            if recipe.centre != "none" and sides[0] is not None and not recipe.protects(l, layers):
                mean = about.key_mean
                if mean is None or np.shape(mean) != (kv_heads, d):
                    found = None if mean is None else np.shape(mean)
                    expected = f"a key_mean of shape {(kv_heads, d)}"
                    raise ValueError(f"calibration: layer {l}: expected {expected}, got {found}; see `calibrate`")
            Qk, Qv = quantizers
            made.append(
                Layer(
                    Qk,
                    Qv,
                    ops,
                    window=recipe.window,
                    sinks=recipe.sinks,
                    group=recipe.group,
                    scalars=recipe.scalars,
                    key_mean=mean,
                    rope=rope if mean is not None and recipe.centre == "pre_rope" else None,
                    block=block,
                )
            )
        return cls(made)

    def __len__(self) -> int:
        """Tokens of each sequence that all layers have."""
        return min(len(layer) for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers; see `Layer.nbytes`."""
        return sum(layer.nbytes for layer in self.layers)

    def crop(self, n: int) -> None:
        """Keep the first n tokens of every layer; see `Layer.crop`."""
        n = check_integer(n, "n", 0, len(self))
        for layer in self.layers:
            layer.crop(n)

    def reorder(self, index: ArrayLike) -> None:
        """Sequence i becomes what index[i] was, in every layer; see `Layer.reorder`."""
        for layer in [layer.copy() for layer in self.layers]:
            layer.reorder(index)  # a bad index is refused before any layer has changed
        for layer in self.layers:
            layer.reorder(index)

    def reset(self) -> None:
        """Forget all tokens."""
        for layer in self.layers:
            layer.reset()

    def copy(self) -> Cache:
        """A cache that goes its own way from here: a shared prefix costs its memory once."""
        return Cache(layer.copy() for layer in self.layers)

    def to(self, ops: ModuleType) -> Cache:
        """The same cache on another backend."""
        return Cache(layer.to(ops) for layer in self.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all layers, their quantizers and their options to a file, atomically.

        A quantizer that has no description (`description.describe`) is only named, by its fingerprint; `load` must then
        be given it.
        """
        arrays: dict[str, NDArray[Any]] = {}
        metadata = {"layers": [_describe_layer(layer, f"{l}", arrays) for l, layer in enumerate(self.layers)]}
        container.write(path, "cache", metadata, arrays)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], like: Cache | None = None, ops: ModuleType | None = None, verify: bool = True
    ) -> Cache:
        """Read a file that `save` wrote.

        Parameters
        ----------
        path : str or path
        like : Cache, optional
            One with the same quantizers, which are then used: where the file does not describe them.
        ops : module, optional
            The backend.
        verify : bool
            See `container.read`.

        Raises
        ------
        ValueError
            If the file is truncated, damaged, foreign, or of other quantizers than `like`.
        """
        metadata, arrays = container.read(path, "cache", verify=verify)
        try:
            descriptions = list(metadata["layers"])
            given = [None] * len(descriptions) if like is None else like.layers
            if len(given) != len(descriptions):
                raise ValueError(f"it has {len(descriptions)} layers, `like` has {len(given)}")
            pairs = zip(descriptions, given, strict=True)
            return cls(_rebuild_layer(d, arrays, f"{l}", g, ops) for l, (d, g) in enumerate(pairs))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} cannot be loaded as a cache: {error}") from error


def _quantizers(side: Side | None, d: int, heads: int, seed: int, rotation: str, mask: Any, where: str) -> Any:
    """The quantizer of a side, or one a head if each has its own outlier channels."""
    if side is None:
        return None
    if side.outlier_bits is None:
        return side.setup(d, seed, rotation)
    if mask is None:
        raise ValueError(f"calibration: {where}the recipe has outlier channels, expected their masks; see `calibrate`")
    masks = np.asarray(mask)
    if masks.ndim == 2 and len(masks) != heads:
        raise ValueError(f"calibration: {where}expected masks of {heads} heads, got {masks.shape}")
    if masks.ndim != 2:
        return side.setup(d, seed, rotation, masks)
    return [side.setup(d, seed, rotation, m) for m in masks]


_OPTIONS = ("window", "sinks", "group", "scalars", "block")


def _describe_layer(layer: Layer, prefix: str, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    quantizers = []
    for h, pair in enumerate(layer.quantizers):
        for name, Q in zip(("keys", "values"), pair, strict=True):
            description = None
            if Q is not None:
                try:
                    description, own = describe(Q, f"{prefix}.{name}.{h}.quantizer")
                    arrays.update(own)
                except TypeError:  # one of an algorithm that has no description
                    pass
            quantizers.append({"fingerprint": None if Q is None else Q.fingerprint.hex(), "description": description})
    if layer.key_mean is not None:
        arrays[f"{prefix}.key_mean"] = layer.key_mean
    arrays[f"{prefix}.start"] = layer.start.astype(np.int64)
    if layer.has_shape:
        arrays.update({f"{prefix}.{name}": a for name, a in layer.arrays().items()})
    rope = layer.rope and {"frequencies": [f.hex() for f in layer.rope.frequencies], "layout": layer.rope.layout}
    options = {name: getattr(layer, name) for name in _OPTIONS}
    return {"quantizers": quantizers, "centred": layer.key_mean is not None, "rope": rope, **options}


def _rebuild_layer(
    described: Any, arrays: dict[str, NDArray[Any]], prefix: str, like: Layer | None, ops: ModuleType | None
) -> Layer:
    given = [Q for pair in like.quantizers for Q in pair] if like is not None else [None] * len(described["quantizers"])
    quantizers = []
    for Q, entry in zip(given, described["quantizers"], strict=True):
        if Q is None and entry["fingerprint"] is not None:
            if entry["description"] is None:
                raise ValueError(f"quantizer {entry['fingerprint']} is not described in it; pass a cache `like` it")
            Q = rebuild(entry["description"], arrays)
        found = None if Q is None else Q.fingerprint.hex()
        if found != entry["fingerprint"]:
            raise ValueError(f"it is of quantizer {entry['fingerprint']}, got {found}")
        quantizers.append(Q)
    mean, start = arrays.get(f"{prefix}.key_mean"), arrays[f"{prefix}.start"]
    if (mean is not None) != described["centred"] or (mean is not None and mean.dtype != np.float32):
        raise ValueError("its mean key is not as described")
    if start.dtype != np.int64:
        raise ValueError(f"its start is of dtype {start.dtype}")
    keys, values = quantizers[::2], quantizers[1::2]
    rope = described["rope"] and Rope(
        tuple(float.fromhex(f) for f in described["rope"]["frequencies"]), described["rope"]["layout"]
    )
    layer = Layer(
        keys if len(keys) > 1 else keys[0],
        values if len(values) > 1 and None not in values else values[0],
        ops,
        key_mean=mean,
        rope=rope,
        start=start,
        **{name: described[name] for name in _OPTIONS},
    )
    own = {name.removeprefix(f"{prefix}."): a for name, a in arrays.items() if name.startswith(f"{prefix}.")}
    return layer.with_arrays(own) if "window.k" in own else layer
