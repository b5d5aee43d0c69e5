"""What a KV cache can be told: named recipes.

A `Recipe` says how keys and values are coded, which tokens stay in full precision, whether keys are centred, and which
layers are left alone.  `RECIPES` has those that people meet and the best ones known, each with its origin; "like" where
something of it has no counterpart here.  A measured KL is that of the next token against a full-precision cache, mean
over 2048 tokens of two texts and SmolLM2-135M-Instruct (d = 64), where the paper's algorithm at 3 bits without a window
has 0.285: rankings carry over to other models, figures do not.  `paper_figures/LM.md` has the measurements.

Names like "k42pre-v21": keys at 4 and 2 bits (a quarter of the channels, and the others), centred before RoPE; values
at 2 and 1.  The frontier, in stored bits a coordinate of codes and scales alone, at d = 64 and at 128:

    k2pre-v1    1.75   1.625       k42pre-v32  2.875  2.625
    k42pre-v1   2.125  1.94        k43pre-v2   3.0    2.81
    k42pre-v21  2.375  2.125       k43pre-v32  3.25   3.0
    k42pre-v2   2.625  2.44        k4pre-v3    3.75   3.625
    k3pre-v2    2.75   2.625       k4pre-v4    4.25   4.125

With the sinks, a window of 128 adds (16 - b) 132 / n to b bits: 0.4 at n = 4096 tokens, where a window of 64 is as good
a bargain, and 0.05 at 32768.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import channels, minmax, mse, polar, prod, qjl, rabitq
from ..packing import SCALARS
from ..vectors import check_dimension, check_integer

__all__ = ["ALGORITHMS", "CENTRES", "RECIPES", "Recipe", "Side", "find", "quantized_tokens"]

ALGORITHMS: dict[str, ModuleType] = {m.Quantizer.algorithm: m for m in (mse, prod, qjl, rabitq, minmax, polar)}
CENTRES = ("none", "mean", "pre_rope")
OUTLIER_SHARE = 4
"""A recipe with outlier channels has d / 4 of them: 32 of 128, the paper's, and 16 of 64."""


@dataclass(frozen=True)
class Side:
    """How the keys, or the values, are coded.

    Attributes
    ----------
    algorithm : str
        A key of `ALGORITHMS`.
    bits : int or tuple
        Bits a coordinate; m = bits * d for `qjl`; bits level by level for `polar`.
    outlier_bits : int, optional
        Bits of the outlier channels, a quarter of all (`channels`); which these are is found by calibration.
    options : mapping
        Further arguments of the algorithm's `setup`: scale, sketch, residual, axis, group.
    """

    algorithm: str = "mse"
    bits: int | tuple[int, ...] = 4
    outlier_bits: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")

    def setup(self, d: int, seed: int, rotation: str = "structured", outliers: ArrayLike | None = None) -> Any:
        """The quantizer of dimension d.

        Parameters
        ----------
        d : int
        seed : int
        rotation : {"structured", "haar"}
            Of the algorithms that have one.
        outliers : (d,) bool, optional
            The mask of the outlier channels, where there are any: `channels.outliers` of a sample.

        Raises
        ------
        ValueError
            If a mask is needed and missing, or not needed.
        """
        d = check_dimension(d)
        module = ALGORITHMS[self.algorithm]
        options = dict(self.options)
        if (outliers is None) != (self.outlier_bits is None):
            need = "none, it has no outlier channels" if outliers is not None else "the mask of its outlier channels"
            raise ValueError(f"outliers: expected {need}; see cache.calibrate")
        if self.algorithm == "minmax":  # nothing random; a group of None is the whole vector
            usual = 32 if options.get("axis") == "channel" else math.gcd(32, d)
            options["group"] = options.get("group", usual) or d
            return minmax.setup(d, self.bits, **options)  # type: ignore[arg-type]
        if outliers is not None:
            bits = (self.outlier_bits, self.bits)
            return channels.setup(d, bits, seed, outliers, module, rotation=rotation, **options)  # type: ignore[arg-type]
        bits_or_m = d * self.bits if self.algorithm == "qjl" else self.bits
        return module.setup(d, bits_or_m, rng=seed, rotation=rotation, **options)

    def any_setup(self, d: int) -> Any:
        """A quantizer of the same size, with a made-up seed and mask: for what does not depend on them."""
        d = check_dimension(d)
        mask = None if self.outlier_bits is None else np.arange(d) < d // OUTLIER_SHARE
        return self.setup(d, 0, outliers=mask)

    def __str__(self) -> str:
        bits = "/".join(map(str, self.bits)) if isinstance(self.bits, tuple) else str(self.bits)
        mixed = bits if self.outlier_bits is None else f"{self.outlier_bits}/{bits}"
        options = [str(v) if isinstance(v, str) else f"{k} {v or 'd'}" for k, v in self.options.items()]
        return f"{self.algorithm}, {', '.join([f'{mixed} bits' if mixed != '1' else '1 bit', *options])}"


@dataclass(frozen=True)
class Recipe:
    """How a model's KV cache is kept.

    Attributes
    ----------
    key, value : Side or None
        None: in full precision.
    window, sinks : int
        The last and the first tokens that are kept in full precision.
    group : int
        Tokens leave the window so many at a time: a buffer of `group` tokens is window 0, group `group`.
    centre : {"none", "mean", "pre_rope"}
        What is subtracted from the keys: nothing, their mean, or their mean before RoPE, turned to each position.
    protected : tuple of int
        Layers, negative from the last, that are kept otherwise: in full precision, or at `protected_bits` (mse).
    protected_bits : int, optional
    scalars : str, optional
        Stored dtype of the side scalars; None is each algorithm's own.  bfloat16 has float32's range: no vector is
        too large or too small for it.
    source : str
        Where it is from.
    """

    key: Side | None
    value: Side | None
    window: int = 0
    sinks: int = 0
    group: int = 1
    centre: str = "none"
    protected: tuple[int, ...] = ()
    protected_bits: int | None = None
    scalars: str | None = "bfloat16"
    source: str = ""

    def __post_init__(self) -> None:
        check_integer(self.window, "window", 0)
        check_integer(self.sinks, "sinks", 0)
        check_integer(self.group, "group", 1)
        if self.centre not in CENTRES:
            raise ValueError(f"centre: expected one of {', '.join(CENTRES)}, got {self.centre!r}")
        if self.scalars is not None and self.scalars not in SCALARS:
            raise ValueError(f"scalars: expected None or one of {', '.join(SCALARS)}, got {self.scalars!r}")

    def protects(self, layer: int, layers: int) -> bool:
        """Whether this layer of so many is a protected one."""
        return layer in {p % layers for p in self.protected if -layers <= p < layers}

    def sides(self, layer: int, layers: int) -> tuple[Side | None, Side | None]:
        """How keys and values of this layer are coded."""
        return self.protected_sides if self.protects(layer, layers) else (self.key, self.value)

    @property
    def protected_sides(self) -> tuple[Side | None, Side | None]:
        """How keys and values of a protected layer are coded."""
        side = None if self.protected_bits is None else Side("mse", self.protected_bits)
        return side, side


def _mse(bits: int, outlier_bits: int | None = None, scale: str = "norm") -> Side:
    return Side("mse", bits, outlier_bits, {} if scale == "norm" else {"scale": scale})


def _unbiased(bits: str) -> Side:
    """ "3": 3 bits; "42": a quarter of the channels at 4, the others at 2."""
    *outlier, narrow = map(int, bits)
    return _mse(narrow, outlier[0] if outlier else None, "unbiased")


def _best(k: Side, v: Side, kl: str, centre: str = "pre_rope") -> Recipe:
    return Recipe(k, v, window=128, sinks=4, centre=centre, source=f"of the best known: measured KL {kl}")


def _vllm(k_bits: int, v_bits: int, source: str, scale: str = "matched") -> Recipe:
    """vLLM: a float16 norm a key, one float16 step and zero point a value, the first and last two layers left alone."""
    value = Side("minmax", v_bits, None, {"group": None})
    return Recipe(_mse(k_bits, scale=scale), value, protected=(0, 1, -2, -1), scalars="float16", source=source)


def _kivi(bits: int) -> Recipe:
    key, value = Side("minmax", bits, None, {"axis": "channel"}), Side("minmax", bits)
    source = f"like KIVI-{bits} (2402.02750): keys per channel, values per token, groups of 32, last 128 tokens kept"
    return Recipe(key, value, window=128, scalars=None, source=source)


RECIPES: dict[str, Recipe] = {
    "paper-2.5": Recipe(
        _mse(2, 4),
        _mse(2, 4),
        scalars="float16",
        source="TurboQuant, Table 1: 2.5 bits read as 1/4 of the channels at 4 and the others at 2, norms not counted",
    ),
    "paper-3.5": Recipe(
        _mse(3, 5),
        _mse(3, 5),
        scalars="float16",
        source="TurboQuant, Table 1: 3.5 bits read as 1/4 of the channels at 5 and the others at 3, norms not counted",
    ),
    "paper-2.5-printed": Recipe(
        _mse(2, 3),
        _mse(2, 3),
        scalars="float16",
        source="TurboQuant, section 4.3 to the letter: channels at 3 and 2 are 2.25; 2.5 with two float16 norms",
    ),
    "paper-3.5-printed": Recipe(
        _mse(3, 4),
        _mse(3, 4),
        scalars="float16",
        source="the same reading at 4 and 3: 3.25, and 3.5 with two float16 norms",
    ),
    "released": Recipe(
        _mse(2, 4),
        None,
        group=128,
        scalars="float16",
        source="like TurboQuant's released code: keys only, 128 tokens at a time (and with the right codebooks)",
    ),
    "vllm-k8v4": _vllm(8, 4, "like vLLM turboquant_k8v4, whose 8-bit keys are fp8", scale="norm"),
    "vllm-4bit": _vllm(4, 4, "like vLLM turboquant_4bit_nc, whose rotation has no signs"),
    "vllm-k3v4": _vllm(3, 4, "like vLLM turboquant_k3v4_nc, whose rotation has no signs"),
    "vllm-3bit": _vllm(3, 3, "like vLLM turboquant_3bit_nc, whose rotation has no signs"),
    "tq4": Recipe(_mse(4), _mse(4), scalars="float32", source="like turboquant-vllm 1.5: 4 bits and a float32 norm"),
    "v3": Recipe(
        _mse(4),
        _mse(2),
        window=128,
        protected=(0, 1, -2, -1),
        protected_bits=8,
        scalars="float16",
        source="like turboquant-pytorch V3: K4 V2, the last 128 tokens kept, protected layers at 8 bits",
    ),
    "qjl": Recipe(
        Side("qjl", 2, None, {"sketch": "orthogonal"}),
        Side("minmax", 2),
        group=128,
        scalars="float16",
        source="like QJL (2406.03482): 2d signs a key, 2-bit values, buffer of 128; without its outlier channels",
    ),
    "kivi-2": _kivi(2),
    "kivi-4": _kivi(4),
    "polar": Recipe(
        Side("polar", polar.BITS),
        Side("polar", polar.BITS),
        scalars="float16",
        source="PolarQuant-R (2502.02617): 4, 2, 2, 2 bits an angle, 3.875 bits with its float16 radii",
    ),
    "k3v3": Recipe(_mse(3), _mse(3), window=128, source="3 bits and a window: measured KL 0.022"),
    "k4v4": Recipe(_mse(4), _mse(4), window=128, source="4 bits and a window: measured KL 0.0050"),
    "k4v2": _best(_unbiased("4"), _unbiased("2"), "0.0076, without calibration", "none"),
    "k42v42": _best(_mse(2, 4), _mse(2, 4), "0.015, with outlier channels (1/4 at 4 bits, 3/4 at 2)", "none"),
    **{
        f"k{k}pre-v{v}": _best(_unbiased(k), _unbiased(v), kl)
        for k, v, kl in (
            ("2", "1", "0.069"),
            ("2", "2", "0.041"),
            ("42", "1", "0.031"),
            ("42", "21", "0.021"),
            ("42", "2", "0.011"),
            ("3", "2", "0.010"),
            ("42", "32", "0.0089"),
            ("43", "2", "0.0077"),
            ("3", "3", "0.0070"),
            ("4", "2", "0.0057"),
            ("43", "32", "0.0055"),
            ("4", "3", "0.0023"),
            ("4", "4", "0.0016"),
        )
    },
}
"""The named recipes."""


def quantized_tokens(n: int, window: int, sinks: int, group: int) -> int:
    """How many of n tokens are quantized: all but the sinks and the last `window`, in whole groups."""
    return max(n - sinks - window, 0) // group * group


def find(recipe: str | Recipe) -> Recipe:
    """A recipe, or the one of that name."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise ValueError(f"recipe: expected a Recipe or one of {', '.join(RECIPES)}, got {recipe!r}")
    return RECIPES[recipe]
