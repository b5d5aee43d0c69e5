"""The KV cache of one attention layer; the public name is `cache.Layer`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import attention
from ..vectors import as_rows
from .tokens import Tokens, joined

Reals = NDArray[np.floating[Any]]


class Layer(Tokens):
    """A KV cache of codes that grows token by token.

    Parameters
    ----------
    Qk, Qv : quantizer, sequence of kv_heads quantizers, or None
        Of keys and of values, of any algorithm; one for all heads, or each head's own (its own outlier channels); None
        keeps them as they come.
    ops : module, optional
        The backend: a module with the algorithms' modules and `attention`; the reference if None.
    window : int
        The last so many tokens are kept as they came; they are quantized when newer ones push them out.
    sinks : int
        So are the first so many tokens, for good.
    group : int
        Tokens leave the window so many at a time, so it holds up to window + group - 1.  Rounded up to what the
        quantizers need: `minmax` per channel codes blocks of tokens.
    scalars : str, optional
        Stored dtype of the side scalars; None is each algorithm's own.
    key_mean : (kv_heads, d), optional
        Subtracted from the keys before they are quantized and added back to the logits, so that it changes nothing but
        the error: `rope.key_mean`.  Worth it only with sinks, whose keys are small and unlike the mean.
    rope : Rope, optional
        `key_mean` is that of the keys before this RoPE, and is turned to each position.
    start : int or array of the batch's shape
        Position of the first token, where it is not 0 (left-padded sequences: minus the padding).
    block : int
        Tokens that are attended to at a time.

    Tokens have the shape (*batch, kv_heads, n, d), fixed by the first ones.  Those kept are kept in the dtype in which
    they came.

    What is in the cache does not depend on how the tokens were split into calls of `append`: with structured rotations
    bit for bit, with dense ones but for coordinates that rounding moves across a boundary (BLAS does not treat all rows
    alike).
    """

    def attend(
        self,
        q: ArrayLike,
        *,
        causal: bool = True,
        scale: float | None = None,
        softcap: float | None = None,
        window: int | None = None,
        mask: ArrayLike | None = None,
        positions: ArrayLike | None = None,
    ) -> Reals:
        """Attention output of queries over all tokens.

        Parameters
        ----------
        q : (*batch, heads, n_queries, d)
            heads a multiple of kv_heads.
        causal, scale, softcap, window, mask, positions
            As in `attention.logits`: the queries are the last tokens unless `positions` (of tokens, from 0) says
            otherwise; `window` is the model's sliding window, not that of the cache; `mask` (…, n_queries, n_tokens).
            For encoder memory, causal=False.

        Returns
        -------
        (*batch, heads, n_queries, d_v) array; 0 for a query that sees no token
        """
        self._need_tokens()
        options = {"causal": causal, "scale": scale, "softcap": softcap, "window": window}
        rows, p, full = self._check_queries(q, mask, positions, self._window[0], len(self))
        parts = [self._exact(rows, p, full, options, self._sinks, 0)]
        parts += self._coded_parts(rows, p, full, options, None)
        parts += [self._exact(rows, p, full, options, self._window, self._first + self._coded)]
        return self._output(rows, parts)

    def step(self, q: ArrayLike, k: ArrayLike, v: ArrayLike, **options: Any) -> Reals:
        """Append n tokens and attend with their n queries, as though token by token, in one call.

        Each query sees what it would see in decoding: the tokens in the window *of its time* as they came, the older
        ones quantized.  (`append` and then `attend` shows all queries the window of the last one.)

        Parameters
        ----------
        q : (*batch, heads, n, d)
        k, v : (*batch, kv_heads, n, d) and (…, d_v)
        options
            As in `attend`, causal and positions apart.
        """
        for name in {"causal", "positions"} & set(options):
            raise TypeError(f"{name}: a step is causal, at the positions of its own tokens")
        n_new = np.shape(k)[-2] if np.ndim(k) >= 3 else 0
        if np.ndim(q) < 3 or np.shape(q)[-2] != n_new:
            raise ValueError(f"q: expected as many queries as new tokens, {n_new}, got shape {np.shape(q)}")
        new = self._check_tokens(k, v)
        rows, p, full = self._check_queries(q, options.pop("mask", None), None, new[0], len(self) + n_new)
        after_sinks = [a[..., max(self.sinks - len(self), 0) :, :] for a in new]
        recent, coded = joined(self._window, after_sinks) if self._window else after_sinks, self._coded
        self.append(*new)
        start = self._first + coded
        then = start + np.maximum(p + 1 - start - self.window, 0) // self.group * self.group
        options = {"causal": True, "scale": None, "softcap": None, "window": None, **options}
        parts = [self._exact(rows, p, full, options, self._sinks, 0)]
        parts += self._coded_parts(rows, p, full, options, then)
        kept = np.arange(start, len(self)) >= then[:, None]
        parts += [self._exact(rows, p, full, options, recent, start, kept)]
        return self._output(rows, parts)

    def _check_queries(
        self, q: ArrayLike, mask: ArrayLike | None, positions: ArrayLike | None, like: NDArray[Any], n: int
    ) -> tuple[Reals, NDArray[Any], NDArray[Any] | None]:
        """Queries, their positions among n tokens like these, and the mask at its full shape."""
        rows = as_rows(q, like.shape[-1], "q")
        *batch, kv_heads, _, d = like.shape
        if rows.ndim != like.ndim or rows.shape[:-3] != tuple(batch) or rows.shape[-3] % kv_heads:
            expected = f"({', '.join(map(str, [*batch, 'heads', 'n', d]))}), heads a multiple of {kv_heads}"
            raise ValueError(f"q: expected shape {expected}, got {rows.shape}")
        n_queries = rows.shape[-2]
        p = np.arange(n - n_queries, n) if positions is None else np.asarray(positions)
        if p.shape != (n_queries,) or p.dtype.kind not in "iu":
            raise ValueError(f"positions: expected {n_queries} integers, got {p.dtype} {p.shape}")
        if mask is None:
            return rows, p, None
        try:
            return rows, p, np.broadcast_to(np.asarray(mask), (*rows.shape[:-1], n))
        except ValueError as error:
            raise ValueError(f"mask: expected a shape that broadcasts to {(*rows.shape[:-1], n)}: {error}") from error

    def _partial(self, Qk: Any, Qv: Any, q: Reals, keys: Any, values: Any, **options: Any) -> attention.Partial:
        ops = attention if self.ops is None else self.ops.attention
        return ops.partial(Qk, Qv, q, keys, values, **options)  # type: ignore[no-any-return]

    def _exact(
        self,
        q: Reals,
        p: NDArray[Any],
        mask: NDArray[Any] | None,
        options: dict[str, Any],
        tokens: list[NDArray[Any]],
        start: int,
        seen: NDArray[np.bool_] | None = None,
    ) -> attention.Partial:
        here = _masks(mask, seen, start, start + tokens[0].shape[-2])
        return self._partial(None, None, q, *tokens, mask=here, positions=p - start, **options)

    def _coded_parts(
        self,
        q: Reals,
        p: NDArray[Any],
        mask: NDArray[Any] | None,
        options: dict[str, Any],
        then: NDArray[Any] | None,
    ) -> Iterator[attention.Partial]:
        """Block by block; of each query, only the tokens before its `then` if there is one."""
        heads = q.shape[-3] // len(self._codes)
        blocks = [list(zip(*pair, strict=True)) for pair in self._codes]
        kv_group = q.shape[-3] // self._window[0].shape[-3]
        for b in range(len(blocks[0])):
            start = self._first + b * self.block
            stop = min(start + self.block, self._first + self._coded)
            seen = None if then is None else np.arange(start, stop) < then[:, None]
            here = _masks(mask, seen, start, stop)
            added = None
            if self.key_mean is not None:
                means = np.repeat(self._means(start, stop - start, q.dtype), kv_group, axis=-3)
                added = q @ means.swapaxes(-1, -2)
            parts = []
            for h, (keys, values) in enumerate(self._codes):
                part = slice(h * heads, (h + 1) * heads)
                parts.append(
                    self._partial(
                        keys.Q,
                        values.Q,
                        q[..., part, :, :],
                        *blocks[h][b],
                        mask=None if here is None else here if here.ndim == 2 else here[..., part, :, :],
                        added=None if added is None else added[..., part, :, :],
                        positions=p - start,
                        **options,
                    )
                )
            tops, totals, sums = zip(*((x.top, x.total, x.sums) for x in parts), strict=True)
            yield attention.Partial(np.concatenate(tops, -2), np.concatenate(totals, -2), np.concatenate(sums, -3))

    def _output(self, q: Reals, parts: list[attention.Partial]) -> Reals:
        merged = parts[0]
        for part in parts[1:]:
            merged = attention.merge(merged, part)
        return np.asarray(merged.output, dtype=q.dtype)


def _masks(mask: NDArray[Any] | None, seen: NDArray[np.bool_] | None, start: int, stop: int) -> NDArray[Any] | None:
    """The user's mask for tokens start … stop - 1, boolean or additive, and what is to be seen of them at all."""
    if mask is None:
        return seen
    here = mask[..., start:stop]
    if seen is None:
        return here
    return here & seen if here.dtype == bool else np.where(seen, here, -np.inf)
