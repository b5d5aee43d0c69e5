"""Rotary position embedding, and the mean of keys before it: what centred keys of a `cache` need.

RoPE turns pair i of a head's channels at position t by the angle t f_i.  A mean m of the keys *before* it is another
vector R_t m at every position; a cache that subtracts R_t m before it quantizes, and adds <q, R_t m> back to the
logits, stores nothing for it but m.  (The mean of the keys after RoPE holds less of their energy: in all but the slow
pairs R_t m averages out over t.)

Two layouts of the pairs are in use, of the same model:

"half"           channels i and i + r/2 are a pair: `rotate_half`, Llama and its kin in Hugging Face's files
"interleaved"    channels 2i and 2i + 1 are a pair: the papers, Meta's files, GGUF's

The first r channels are turned, r = d in most models; the others, if any, stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..vectors import as_rows, check_integer

__all__ = ["LAYOUTS", "Rope", "key_mean", "setup"]

LAYOUTS = ("half", "interleaved")
Reals = NDArray[np.floating[Any]]

CHUNK = 64  # cosines are computed for whole chunks of positions, so that a position's never depend on its neighbours


@dataclass(frozen=True)
class Rope:
    """The turns of a model: frequencies f_0, f_1, … in radians a position, and the layout of the pairs.

    `setup` has the usual frequencies; for scaled ones ("llama3", YaRN, linear) give the model's own `inv_freq`.
    """

    frequencies: tuple[float, ...]
    layout: str = "half"

    def __post_init__(self) -> None:
        frequencies = tuple(float(f) for f in self.frequencies)
        if not frequencies or not all(math.isfinite(f) for f in frequencies):
            raise ValueError(f"frequencies: expected finite numbers, at least one, got {self.frequencies}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {self.layout!r}")
        object.__setattr__(self, "frequencies", frequencies)

    @property
    def rotary(self) -> int:
        """The number r of channels that are turned."""
        return 2 * len(self.frequencies)

    def apply(self, x: ArrayLike, positions: ArrayLike) -> Reals:
        """R_t x for each row.

        Parameters
        ----------
        x : (…, n, d)
        positions : integers, broadcastable to (…, n)
            t of each row; negative ones turn back.

        Returns
        -------
        (…, n, d) array in the compute dtype; cosines and sines are float64, rounded to it.
        """
        rows = as_rows(x)
        if rows.shape[-1] < self.rotary:
            raise ValueError(f"x: it has {rows.shape[-1]} channels, RoPE turns {self.rotary}")
        cosines, sines = (turn.astype(rows.dtype) for turn in _turns(self.frequencies, _integers(positions)))
        h = len(self.frequencies)
        pairs = (slice(0, h), slice(h, 2 * h)) if self.layout == "half" else (slice(0, 2 * h, 2), slice(1, 2 * h, 2))
        a, b = (rows[..., pair] for pair in pairs)
        first, second = cosines * a - sines * b, sines * a + cosines * b
        out = np.array(np.broadcast_to(rows, (*first.shape[:-1], rows.shape[-1])))
        out[..., pairs[0]], out[..., pairs[1]] = first, second
        return out


def _integers(positions: ArrayLike) -> NDArray[np.int64]:
    t = np.asarray(positions)
    if t.dtype.kind not in "iu":
        raise TypeError(f"positions: expected integers, got {t.dtype}")
    return t.astype(np.int64)


@lru_cache(maxsize=256)
def _chunk(frequencies: tuple[float, ...], chunk: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    angles = (chunk * CHUNK + np.arange(CHUNK))[:, None] * np.array(frequencies)
    return np.cos(angles), np.sin(angles)


def _turns(frequencies: tuple[float, ...], t: NDArray[np.int64]) -> tuple[Reals, Reals]:
    """cos and sin of t f_i: (*t.shape, r / 2) each."""
    chunks, which = np.unique(t // CHUNK, return_inverse=True)
    tables = [_chunk(frequencies, int(c)) for c in chunks] or [_chunk(frequencies, 0)]
    at = which.reshape(t.shape), t % CHUNK
    return np.stack([c for c, _ in tables])[at], np.stack([s for _, s in tables])[at]


def setup(head_dim: int, base: float = 10000.0, layout: str = "half", rotary: int | None = None) -> Rope:
    """The usual frequencies f_i = base^(-2i/r), i = 0 .. r/2 - 1.

    Parameters
    ----------
    head_dim : int
        d, even.
    base : float
        "theta" of a model: 10000 of the paper, 500000 of Llama 3, …
    layout : {"half", "interleaved"}
    rotary : int, optional
        r, even, at most d; d if None.
    """
    d = check_integer(head_dim, "head_dim", 2)
    r = d if rotary is None else check_integer(rotary, "rotary", 2, d)
    if r % 2:
        raise ValueError(f"rotary: pairs need an even number of channels, got {r}")
    if not (math.isfinite(base) and base > 0):
        raise ValueError(f"base: expected a positive number, got {base}")
    return Rope(tuple(float(base) ** (-2 * i / r) for i in range(r // 2)), layout)


def key_mean(k: ArrayLike, positions: ArrayLike | None = None, rope: Rope | None = None) -> NDArray[np.float32]:
    """The mean key of each head over calibration tokens: of R_t^T k_t, the keys before RoPE, or of k_t without one.

    Parameters
    ----------
    k : (*batch, kv_heads, n, d)
        Keys after RoPE, as a cache is given them.  Leave out the first tokens (sinks), whose keys are unlike others.
    positions : (n,) or (*batch, n) integers, optional
        0, 1, … if None.
    rope : Rope, optional
        What was applied to them.

    Returns
    -------
    (kv_heads, d) float32, as a cache keeps it
    """
    rows: Reals = as_rows(k, name="k").astype(np.float64)
    if rows.ndim < 3 or rows.shape[-2] == 0:
        raise ValueError(f"k: expected (*batch, kv_heads, n, d) with n of at least 1, got {rows.shape}")
    if rope is not None:
        t = _integers(np.arange(rows.shape[-2]) if positions is None else positions)
        rows = rope.apply(rows, -t[..., None, :])
    axes = (*range(rows.ndim - 3), rows.ndim - 2)
    return np.asarray(rows.mean(axis=axes), dtype=np.float32)
