"""What a `cache.Layer` holds, and how it grows, shrinks and moves; attention over it is in `_layer`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..vectors import as_rows, check_integer
from .coded import Coded
from .rope import Rope

Reals = NDArray[np.floating[Any]]


class Tokens:
    """Keys and values of the tokens of some sequences: sinks as they came, codes, and a window as it came."""

    def __init__(
        self,
        Qk: Any,
        Qv: Any,
        ops: ModuleType | None = None,
        *,
        window: int = 0,
        sinks: int = 0,
        group: int = 1,
        scalars: str | None = None,
        key_mean: ArrayLike | None = None,
        rope: Rope | None = None,
        start: ArrayLike = 0,
        block: int = 256,
    ) -> None:
        self.window, self.sinks = check_integer(window, "window", 0), check_integer(sinks, "sinks", 0)
        sides = [tuple(Q) if isinstance(Q, Sequence) else (Q,) for Q in (Qk, Qv)]
        heads = max(map(len, sides))
        if any(len(side) not in (1, heads) or (heads > 1 and None in side and len(side) > 1) for side in sides):
            raise ValueError(f"Qk, Qv: expected one quantizer, or one a head, got {len(sides[0])} and {len(sides[1])}")
        pairs = list(zip(*(side * (heads // len(side)) for side in sides), strict=True))
        spans = [int(getattr(Q, "vectors_per_record", 1)) for pair in pairs for Q in pair]
        self.span = math.lcm(*spans)
        self.group = math.lcm(check_integer(group, "group", 1), self.span)
        self.block = -(-check_integer(block, "block", 1) // self.span) * self.span
        self.scalars, self.rope, self.ops = scalars, rope, ops
        self._codes = [tuple(Coded(Q, ops, scalars, self.block) for Q in pair) for pair in pairs]
        self._start = np.asarray(start)
        if self._start.dtype.kind not in "iu":
            raise TypeError(f"start: expected integers, got {self._start.dtype}")
        self.key_mean: NDArray[np.float32] | None = None
        if key_mean is not None:
            if None in sides[0]:
                raise ValueError("key_mean: keys that are not quantized cannot be centred")
            self.key_mean = as_rows(key_mean, sides[0][0].d, "key_mean").astype(np.float32)
            if self.key_mean.ndim != 2:
                raise ValueError(f"key_mean: expected (kv_heads, d), got shape {self.key_mean.shape}")
            if rope is not None and rope.rotary > sides[0][0].d:
                raise ValueError(f"rope: it turns {rope.rotary} channels, the keys have {sides[0][0].d}")
        elif rope is not None:
            raise ValueError("rope: it is only for a key_mean, and there is none")
        self._sinks: list[NDArray[Any]] = []
        self._window: list[NDArray[Any]] = []
        self._coded = 0

    # ------------------------------------------------------------------------------------------------ what is in it

    def __len__(self) -> int:
        """Tokens of each sequence."""
        return self._first + self._coded + self._window[0].shape[-2] if self._window else 0

    @property
    def has_shape(self) -> bool:
        """Whether it has been given tokens, if only none of them: then batch, heads and dtype are fixed."""
        return bool(self._window)

    @property
    def start(self) -> NDArray[Any]:
        """Position of the first token, of each sequence if they differ."""
        return self._start

    @property
    def _first(self) -> int:
        return int(self._sinks[0].shape[-2]) if self._sinks else 0

    @property
    def quantized(self) -> int:
        """How many tokens of each sequence are quantized: those from `sinks` on."""
        return self._coded

    @property
    def quantizers(self) -> tuple[tuple[Any, Any], ...]:
        """(Qk, Qv), once or for each head."""
        return tuple((keys.Q, values.Q) for keys, values in self._codes)

    @property
    def nbytes(self) -> int:
        """Bytes of all that is held for these tokens: codes with their scalars, window, sinks, the mean key.

        Quantizers are not counted: they do not grow, and may be shared.
        """
        exact = sum(int(a.nbytes) for a in (*self._sinks, *self._window))
        mean = 0 if self.key_mean is None else int(self.key_mean.nbytes)
        return exact + mean + sum(side.nbytes for pair in self._codes for side in pair)

    def dequantize(self) -> tuple[Reals, Reals]:
        """All keys and values, (*batch, kv_heads, n, d), as attention sees them; those kept are as they came."""
        self._need_tokens()
        coded = []
        for side in (0, 1):
            heads = [pair[side].decode(pair[side].rows()) for pair in self._codes]
            coded.append(np.concatenate(heads, axis=-3))
        if self.key_mean is not None:
            coded[0] = coded[0] + self._means(self._first, self._coded, coded[0].dtype)
        exact = zip(self._sinks, coded, self._window, strict=True)
        keys, values = (np.concatenate([as_rows(a) for a in parts], axis=-2) for parts in exact)
        return keys, values

    def _need_tokens(self) -> None:
        if not self._window:
            raise ValueError("the cache has seen no tokens yet, so it has no shape")

    # ------------------------------------------------------------------------------------------------ growing

    def append(self, k: ArrayLike, v: ArrayLike) -> None:
        """Add the next n tokens.

        Parameters
        ----------
        k, v : (*batch, kv_heads, n, d) and (…, d_v), float16, float32 or float64
            Keys after RoPE, if the model has it.

        Raises
        ------
        TypeError, ValueError
            For another shape or dtype than before, NaN or infinity; the cache is then as it was.
        """
        new = self._check_tokens(k, v)
        nothing = [a[..., :0, :] for a in new]
        room = max(self.sinks - len(self), 0)
        window = joined(self._window or nothing, [a[..., room:, :] for a in new])
        sinks = joined(self._sinks or nothing, [a[..., :room, :] for a in new])
        leaving = max(window[0].shape[-2] - self.window, 0) // self.group * self.group
        if leaving or not self._window:
            out = [w[..., :leaving, :] for w in window]
            if self.key_mean is not None:
                k_rows = as_rows(out[0])
                out[0] = k_rows - self._means(sinks[0].shape[-2] + self._coded, leaving, k_rows.dtype)
            sides = [side for pair in self._codes for side in pair]
            rows = [side.encode(a) for h in range(len(self._codes)) for side, a in self._of_heads(h, out)]
            for side, a in zip(sides, rows, strict=True):
                side.add(a)
            window = [np.array(w[..., leaving:, :]) for w in window]
        self._sinks, self._window, self._coded = sinks, window, self._coded + leaving

    def _of_heads(self, h: int, arrays: Sequence[NDArray[Any]]) -> list[tuple[Coded, NDArray[Any]]]:
        """The pair h of coded sides, each with its heads of the keys or values."""
        heads = slice(None) if len(self._codes) == 1 else slice(h, h + 1)
        return [(side, a[..., heads, :, :]) for side, a in zip(self._codes[h], arrays, strict=True)]

    def _means(self, first: int, n: int, dtype: Any) -> Reals:
        """R_t m of tokens first … first + n - 1: (*batch or nothing, kv_heads, n, d)."""
        assert self.key_mean is not None
        mean: Reals = self.key_mean.astype(np.float64)[:, None]
        if self.rope is not None:
            t = self._start[..., None].astype(np.int64) + np.arange(first, first + n)
            mean = self.rope.apply(mean, t[..., None, :])
        return np.asarray(mean, dtype=dtype)

    def _check_tokens(self, k: ArrayLike, v: ArrayLike) -> list[NDArray[Any]]:
        new = [np.asarray(k), np.asarray(v)]
        for side, (name, a) in enumerate(zip("kv", new, strict=True)):
            if a.dtype not in (np.float16, np.float32, np.float64):
                raise TypeError(f"{name}: expected float16, float32 or float64, got {a.dtype}")
            quantizer = self._codes[0][side].Q
            d = a.shape[-1:] if quantizer is None else (quantizer.d,)
            held = (*self._window[side].shape[:-2], *self._window[side].shape[-1:]) if self._window else None
            if a.ndim < 3 or a.shape[-1:] != d or (held and (*a.shape[:-2], a.shape[-1]) != held):
                front = ["*batch", "kv_heads"] if held is None else [*held[:-1]]
                last = held[-1] if held else d[0] if quantizer is not None else "d"
                raise ValueError(f"{name}: expected shape ({', '.join(map(str, [*front, 'n', last]))}), got {a.shape}")
            if self._window and a.dtype != self._window[side].dtype:
                raise TypeError(f"{name}: expected {self._window[side].dtype} as before, got {a.dtype}")
        kv_heads, batch = new[0].shape[-3], new[0].shape[:-3]
        if new[0].shape[:-1] != new[1].shape[:-1]:
            raise ValueError(f"v: expected as many heads and tokens as k, {new[0].shape[:-1]}, got {new[1].shape[:-1]}")
        if len(self._codes) not in (1, kv_heads):
            raise ValueError(f"k: expected {len(self._codes)} heads, one a quantizer, got {kv_heads}")
        if self.key_mean is not None and len(self.key_mean) != kv_heads:
            raise ValueError(f"k: expected {len(self.key_mean)} heads, those of key_mean, got {kv_heads}")
        if self._start.ndim and self._start.shape != batch:
            raise ValueError(f"k: expected the batch shape of start, {self._start.shape}, got {batch}")
        for name, a in zip("kv", new, strict=True):
            finite = np.isfinite(a)
            if not finite.all():
                *where, token = (int(i) for i in np.argwhere(~finite.all(axis=-1))[0])
                at = f"token {len(self) + token} (number {token} of these), head {where[-1]}"
                at += f", sequence {', '.join(map(str, where[:-1]))}" if where[:-1] else ""
                raise ValueError(f"{name}: it holds NaN or infinity, first in {at}; every value must be finite")
        return new

    # ------------------------------------------------------------------------------------------------ rearranging

    def crop(self, n: int) -> None:
        """Keep the first n tokens only: rewind.

        What is quantized stays so; tokens that come next fill the window again.  A block of tokens that share scalars
        (`minmax` per channel) and is cut in the middle is decoded, and its tokens go back to the window as decoded.
        """
        n = check_integer(n, "n", 0, len(self))
        if not self._window or n == len(self):
            return
        first, coded = min(n, self._first), max(min(n - self._first, self._coded), 0)
        kept = coded // self.span * self.span
        window = [w[..., : max(n - self._first - self._coded, 0), :] for w in self._window]
        if coded > kept:
            whole = self._coded_slice(kept, coded)
            window = [a.astype(w.dtype) for a, w in zip(whole, self._window, strict=True)]
        if kept < self._coded:
            self._codes = [
                tuple(side.replaced(side.rows()[..., : kept // side.span, :]) for side in pair) for pair in self._codes
            ]
        self._sinks = [np.array(s[..., :first, :]) for s in self._sinks]
        self._window, self._coded = [np.array(w) for w in window], kept

    def _coded_slice(self, start: int, stop: int) -> list[Reals]:
        """The decoded tokens start … stop - 1 of the quantized ones, start a multiple of the span."""
        keys, values = self.dequantize()
        at = slice(self._first + start, self._first + stop)
        return [keys[..., at, :], values[..., at, :]]

    def reorder(self, index: ArrayLike) -> None:
        """Sequence i becomes what sequence index[i] was: the step of beam search; their number may change.

        Parameters
        ----------
        index : (n,) integers, 0 to batch - 1, of the first axis
        """
        self._need_tokens()
        i, n = np.asarray(index), self._window[0].shape[0]
        if self._window[0].ndim < 4:
            raise ValueError(f"index: there is one sequence without a batch axis, of shape {self._window[0].shape}")
        if i.ndim != 1 or i.dtype.kind not in "iu" or np.any((i < 0) | (i >= n)):
            extent = f" from {i.min()} to {i.max()}" if i.size and i.dtype.kind in "iuf" else ""
            found = f"{i.dtype} {i.shape}{extent}"
            raise ValueError(f"index: expected integers from 0 to {n - 1}, of shape (n,), got {found}")
        self._codes = [tuple(side.replaced(side.rows()[i]) for side in pair) for pair in self._codes]
        self._sinks, self._window = [s[i] for s in self._sinks], [w[i] for w in self._window]
        if self._start.ndim:
            self._start = self._start[i]

    def reset(self) -> None:
        """Forget all tokens, and their shape."""
        self._codes = [tuple(side.replaced(None) for side in pair) for pair in self._codes]
        self._sinks, self._window, self._coded = [], [], 0

    def copy(self) -> Self:
        """A cache of the same content that goes its own way; arrays are shared, so it costs little."""
        new = copy.copy(self)
        new._codes = [tuple(copy.copy(side) for side in pair) for pair in self._codes]
        for pair in new._codes:
            for side in pair:
                side.full = list(side.full)
        return new

    def to(self, ops: ModuleType) -> Self:
        """The same cache on another backend."""
        new = copy.copy(self)
        new.ops = ops
        new._codes = [
            tuple(side.replaced(side.rows() if self._window else None, ops) for side in pair) for pair in self._codes
        ]
        return new

    # ------------------------------------------------------------------------------------------------ its content

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is held, by name: keys.h, values.h (packed, of quantizer pair h), sinks.k, .v, window.k, .v."""
        self._need_tokens()
        pairs = [zip(_SIDES, pair, strict=True) for pair in self._codes]
        coded = {f"{name}.{h}": side.rows() for h, pair in enumerate(pairs) for name, side in pair}
        kept = {"sinks": self._sinks, "window": self._window}
        return {**coded, **{f"{part}.{x}": a for part, pair in kept.items() for x, a in zip("kv", pair, strict=True)}}

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """A cache with the same quantizers and options, and this content: the inverse of `arrays`.

        Raises
        ------
        ValueError
            For arrays that are not of such a cache.
        """
        new = self.copy()
        new.reset()
        try:
            sinks, window = ([np.array(arrays[f"{part}.{x}"]) for x in "kv"] for part in ("sinks", "window"))
            new._check_tokens(*sinks)
            new._sinks, new._window = [a[..., :0, :] for a in sinks], [a[..., :0, :] for a in sinks]
            new._check_tokens(*window)
            counts = set()
            for h in range(len(new._codes)):
                for (side, like), name in zip(new._of_heads(h, sinks), _SIDES, strict=True):
                    rows, empty = np.array(arrays[f"{name}.{h}"]), side.encode(like[..., :0, :])
                    n = rows.shape[-2] if rows.ndim > 1 else 0
                    shape = (*empty.shape[:-2], n, *empty.shape[-1:])
                    if rows.dtype != empty.dtype or rows.shape != shape:
                        found = f"{rows.dtype} {rows.shape}"
                        raise ValueError(f"arrays: {name}.{h}: expected {empty.dtype} {shape}, got {found}")
                    side.add(rows)
                    side.decode(rows)
                    counts.add(rows.shape[-2] * side.span)
        except (KeyError, TypeError) as error:
            raise ValueError(f"arrays: not those of such a cache: {error}") from error
        first = sinks[0].shape[-2]
        if len(counts) != 1 or first > self.sinks or (first < self.sinks and (counts != {0} or window[0].shape[-2])):
            raise ValueError(f"arrays: {first} of {self.sinks} sinks, and {sorted(counts)} quantized tokens do not fit")
        new._sinks, new._window, new._coded = sinks, window, counts.pop()
        return new


_SIDES = ("keys", "values")


def joined(first: Sequence[NDArray[Any]], second: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Two lists of row arrays, pair by pair one after the other along the tokens."""
    return [np.concatenate([a, b], axis=-2) for a, b in zip(first, second, strict=True)]
