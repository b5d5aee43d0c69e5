"""Attention straight from codes: what a KV cache does with them (TurboQuant, section 4).

    logits = softcap(scale <q, k~_j>) + mask,   w = softmax(logits),   out = sum_j w_j v~_j

Neither sum needs a decoded vector. <q, Pi^T c> = <Pi q, c>, so each query is rotated (and, for Algorithm 2,
sketched) once, and sum_j w_j Pi^T c_j = Pi^T sum_j w_j c_j, so each output is rotated back once. Keys and values
may use different algorithms, bits and scales.

Shapes: queries (*batch, heads, n_queries, d); keys and values are codes of shape (*batch, kv_heads, n_keys), of one
quantizer for all heads; heads is a multiple of kv_heads, and query head h reads key head h // (heads / kv_heads):
multi-head, grouped-query and multi-query attention.

The n_queries queries are the last positions of the sequence unless `positions` says otherwise, so that decoding (one
query) and prefill (as many as keys) are the same call.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import theory
from .codes import batch_shape, module_of, select
from .vectors import as_rows, check_integer

__all__ = [
    "Fidelity",
    "Partial",
    "attend",
    "attend_blocks",
    "fidelity",
    "logits",
    "merge",
    "partial",
    "select",
    "softmax",
    "visible",
]

Reals = NDArray[np.floating[Any]]


def visible(
    n_queries: int,
    n_keys: int,
    causal: bool = False,
    window: int | None = None,
    positions: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Which keys each query may see: (n_queries, n_keys), True where it may.

    Parameters
    ----------
    n_queries, n_keys : int
    causal : bool
        Key j is visible to the query at position p only if j <= p.
    window : int, optional
        Only the last `window` positions up to and including the query's own are visible (and, if not causal, as
        many ahead).
    positions : (n_queries,) int, optional
        Of the queries; by default the last n_queries of the n_keys.
    """
    p = np.arange(n_keys - n_queries, n_keys) if positions is None else np.asarray(positions)
    if p.shape != (n_queries,) or p.dtype.kind not in "iu":
        raise ValueError(f"positions: expected {n_queries} integers, got {p.dtype} {p.shape}")
    j = np.arange(n_keys)
    distance = p[:, None] - j
    seen = np.ones((n_queries, n_keys), dtype=bool)
    if causal:
        seen &= distance >= 0
    if window is not None:
        seen &= np.abs(distance) < check_integer(window, "window", 1)
    return seen


def softmax(logits: Reals) -> Reals:
    """Softmax over the last axis; a row with no visible key (all -inf) has weights 0."""
    top = logits.max(axis=-1, keepdims=True, initial=-math.inf)
    e = np.exp(logits - np.where(np.isneginf(top), 0, top))
    total = e.sum(axis=-1, keepdims=True)
    return np.asarray(e / np.where(total > 0, total, 1))


def _heads(q: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Query heads a key head, from the shapes of queries and codes."""
    fits = len(q) >= 3 and len(shape) == len(q) - 1 and q[:-3] == shape[:-2]
    if not fits or shape[-2] == 0 or q[-3] % shape[-2]:
        raise ValueError(
            "q: expected (*batch, heads, n_queries, d), and keys of batch shape (*batch, kv_heads, n_keys), heads a "
            f"multiple of kv_heads; got {q} and {shape}"
        )
    return q[-3] // shape[-2]


def _shape_logits(
    s: Reals, scale: float, softcap: float | None, mask: ArrayLike | None, seen: NDArray[np.bool_]
) -> Reals:
    """Scale, soft cap, then masks: the order of every model that has them."""
    s = s * s.dtype.type(scale)
    if softcap is not None:
        s = softcap * np.tanh(s / softcap)
    if mask is not None:
        m = np.asarray(mask)
        s = np.where(m, s, -np.inf) if m.dtype == bool else s + m.astype(s.dtype)
    return np.where(seen, s, np.asarray(-np.inf, dtype=s.dtype))


def _check(scale: float | None, softcap: float | None, d: int) -> float:
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap: expected a positive number, got {softcap}")
    if scale is None:
        return 1 / math.sqrt(d)
    if not math.isfinite(scale):
        raise ValueError(f"scale: expected a finite number, got {scale}")
    return float(scale)


def logits(
    Q: Any,
    q: ArrayLike,
    keys: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    window: int | None = None,
    positions: ArrayLike | None = None,
) -> Reals:
    """softcap(scale <q, k~>) + mask for every query and key, from the codes of the keys.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod`, `qjl` or a sibling
    q : (*batch, heads, n_queries, d)
    keys : code of shape (*batch, kv_heads, n_keys)
    scale : float, optional
        1/sqrt(d) if None.
    softcap : float, optional
        Logits become softcap * tanh(logits / softcap), before the mask.
    mask : broadcastable to (*batch, heads, n_queries, n_keys), optional
        bool (True is visible) or additive.
    causal, window, positions
        See `visible`.

    Returns
    -------
    (*batch, heads, n_queries, n_keys) array; -inf where a key is not visible

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or a code of another quantizer.
    """
    rows = as_rows(q, Q.d, name="q")
    shape = batch_shape(keys)
    group = _heads(rows.shape, shape)
    factor = _check(scale, softcap, Q.d)
    module = module_of(Q)
    seen = visible(rows.shape[-2], shape[-1], causal, window, positions)
    grouped = rows.reshape(*shape[:-1], group, *rows.shape[-2:])
    scores = [module.inner_product(Q, grouped[i], select(keys, i)) for i in np.ndindex(*shape[:-1])]
    s = np.reshape(scores, (*rows.shape[:-1], shape[-1]))
    return _shape_logits(s, factor, softcap, mask, seen)


def _weighted_sums(Q: Any, w: Reals, values: Any) -> Reals:
    """sum_j w_j v~_j in the basis of the value codes: (*batch, heads, n_queries, width)."""
    shape = batch_shape(values)
    group = w.shape[-3] // shape[-2]
    module = module_of(Q)
    grouped = w.reshape(*shape[:-1], group, *w.shape[-2:])
    sums = [module.weighted_sum(Q, grouped[i], select(values, i)) for i in np.ndindex(*shape[:-1])]
    return np.reshape(sums, (*w.shape[:-1], -1))


def attend(Qk: Any, Qv: Any, q: ArrayLike, keys: Any, values: Any, **options: Any) -> Reals:
    """Attention output softmax(logits) V~, the direct form: all logits at once.

    Parameters
    ----------
    Qk, Qv : quantizers of the keys and of the values
    q, keys, options
        As in `logits`.
    values : code of shape (*batch, kv_heads, n_keys)

    Returns
    -------
    (*batch, heads, n_queries, d_v) array; 0 for a query that sees no key
    """
    if batch_shape(keys) != batch_shape(values):
        raise ValueError(f"values: expected the batch shape of keys, {batch_shape(keys)}, got {batch_shape(values)}")
    w = softmax(logits(Qk, q, keys, **options))
    return np.asarray(module_of(Qv).to_original(Qv, _weighted_sums(Qv, w, values)))


def attend_blocks(
    Qk: Any,
    Qv: Any,
    q: ArrayLike,
    keys: Any,
    values: Any,
    block: int = 256,
    mask: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    **options: Any,
) -> Reals:
    """`attend`, a block of keys at a time: the online softmax of every fused kernel, equal to it up to rounding.

    Each block gives a `Partial`, left in the basis of the value codes; `merge` joins them; one rotation back ends it.

    Parameters are those of `attend`, and `block`, the number of keys at a time.
    """
    if batch_shape(keys) != batch_shape(values):
        raise ValueError(f"values: expected the batch shape of keys, {batch_shape(keys)}, got {batch_shape(values)}")
    block = check_integer(block, "block", 1)
    rows = as_rows(q, Qk.d, name="q")
    n_queries, n_keys = rows.shape[-2], batch_shape(keys)[-1]
    p = np.arange(n_keys - n_queries, n_keys) if positions is None else np.asarray(positions)
    if n_keys == 0:
        return np.zeros((*rows.shape[:-1], Qv.d), dtype=rows.dtype)
    full = None if mask is None else np.broadcast_to(np.asarray(mask), (*rows.shape[:-1], n_keys))
    parts = []
    for start in range(0, n_keys, block):
        these = slice(start, start + block)
        part = (*(slice(None),) * (len(batch_shape(keys)) - 1), these)
        here = None if full is None else full[..., these]
        s = logits(Qk, rows, select(keys, part), mask=here, positions=p - start, **options)
        top = s.max(axis=-1)
        e = np.exp(s - np.where(np.isneginf(top), 0, top)[..., None])
        parts.append(Partial(top, e.sum(axis=-1), _weighted_sums(Qv, e, select(values, part))))
    return np.asarray(module_of(Qv).to_original(Qv, functools.reduce(merge, parts).output))


@dataclass(frozen=True, eq=False)
class Partial:
    """Attention over some of the keys, before the division by the sum of the weights: what `merge` joins.

    Attributes
    ----------
    top : (*batch, heads, n_queries)
        The largest logit; -inf where no key is visible.
    total : (*batch, heads, n_queries)
        sum_j exp(logit_j - top).
    sums : (*batch, heads, n_queries, d_v)
        sum_j exp(logit_j - top) v~_j, in any basis that the parts to be merged share.
    """

    top: Reals
    total: Reals
    sums: Reals

    @property
    def output(self) -> Reals:
        """The attention output over these keys; 0 for a query that sees none."""
        return np.asarray(self.sums / np.where(self.total > 0, self.total, 1)[..., None])


def merge(first: Partial, second: Partial) -> Partial:
    """Attention over two disjoint sets of keys, from that over each: the step of online softmax, and of split-K.

    Associative and commutative up to rounding; blocks of different kinds (codes, vectors) merge alike.
    """
    top = np.maximum(first.top, second.top)
    shift = np.where(np.isneginf(top), 0, top)
    a, b = np.exp(first.top - shift), np.exp(second.top - shift)
    sums = first.sums * a[..., None] + second.sums * b[..., None]
    return Partial(top, first.total * a + second.total * b, sums)


def partial(
    Qk: Any,
    Qv: Any,
    q: ArrayLike,
    keys: Any,
    values: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: ArrayLike | None = None,
    causal: bool = False,
    window: int | None = None,
    positions: ArrayLike | None = None,
    added: Reals | None = None,
) -> Partial:
    """Attention over one block of a cache, of packed codes or of vectors as they are.

    Parameters
    ----------
    Qk, Qv : quantizers of the keys and of the values, each None where they are vectors
    q, scale, softcap, mask, causal, window, positions
        As in `logits`; position 0 is that of the first key of the block.
    keys, values : Packed of batch shape (*batch, kv_heads, n_rows), or vectors (*batch, kv_heads, n_keys, d)
        Unpacked here, a head at a time.
    added : broadcastable to (*batch, heads, n_queries, n_keys), optional
        Added to <q, k~> before the scale: what was subtracted from the keys before they were quantized.
    """
    d = np.shape(keys)[-1] if Qk is None else Qk.d
    rows, factor = as_rows(q, d, name="q"), _check(scale, softcap, d)
    (kv_shape, n_keys), (_, n_values) = _extent(Qk, keys), _extent(Qv, values)
    if n_keys != n_values:
        raise ValueError(f"values: expected {n_keys} of them, as many as keys, got {n_values}")
    group = _heads(rows.shape, (*kv_shape, n_keys))
    grouped = rows.reshape(*kv_shape, group, *rows.shape[-2:])
    heads = list(np.ndindex(*kv_shape))
    scores = [_block_scores(Qk, grouped[i], keys, i) for i in heads]
    s = np.reshape(np.asarray(scores, dtype=None if heads else rows.dtype), (*rows.shape[:-1], n_keys))
    s = s if added is None else s + added
    s = _shape_logits(s, factor, softcap, mask, visible(rows.shape[-2], n_keys, causal, window, positions))
    top = s.max(axis=-1, initial=-math.inf)
    e = np.exp(s - np.where(np.isneginf(top), 0, top)[..., None])
    weights = e.reshape(*kv_shape, group, *s.shape[-2:])
    sums = [_block_sums(Qv, weights[i], values, i) for i in heads]
    d_v = Qv.d if Qv is not None else np.shape(values)[-1]
    return Partial(top, e.sum(axis=-1), np.reshape(np.asarray(sums), (*rows.shape[:-1], d_v)))


def _extent(Q: Any, block: Any) -> tuple[tuple[int, ...], int]:
    """(*batch, kv_heads), and the number of vectors of a block."""
    if Q is None:
        return np.shape(block)[:-2], np.shape(block)[-2]
    *shape, n = block.data.shape[:-1]
    return tuple(shape), n * getattr(Q, "vectors_per_record", 1)


def _block_scores(Q: Any, q: Reals, block: Any, head: tuple[int, ...]) -> Reals:
    if Q is None:
        return np.asarray(q @ as_rows(block[head], name="keys").T)
    module = module_of(Q)
    return np.asarray(module.inner_product(Q, q, module.unpack(Q, select(block, head))))


def _block_sums(Q: Any, w: Reals, block: Any, head: tuple[int, ...]) -> Reals:
    if Q is None:
        return np.asarray(w @ as_rows(block[head], name="values"))
    module = module_of(Q)
    return np.asarray(module.to_original(Q, module.weighted_sum(Q, w, module.unpack(Q, select(block, head)))))


@dataclass(frozen=True)
class Fidelity:
    """What quantizing keys and values does to attention; see `fidelity`."""

    score_cosine: float
    weight_cosine: float
    top1: float
    top5: float
    kl: float
    output_error: float
    slope: float
    expected_slope: float | None
    noise: float
    expected_noise: float | None


def fidelity(
    Qk: Any,
    Qv: Any,
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    scale: float | None = None,
    causal: bool = False,
    window: int | None = None,
) -> Fidelity:
    """Attention with quantized keys and values against attention with your own, on your own tensors.

    Parameters
    ----------
    Qk, Qv : quantizers of keys and values
    q : (*batch, heads, n_queries, d)
    k, v : (*batch, kv_heads, n_keys, d), (…, d_v)
    scale, causal, window
        As in `logits`.

    Returns
    -------
    Fidelity
        What libraries quote, each the mean over queries: ``score_cosine`` and ``weight_cosine`` (cosines of the
        visible logits, and of the weights), ``top1`` (the heaviest key is the same), ``top5`` (share of the 5
        heaviest that stay so), ``kl`` (of the weights, nats), ``output_error`` (||out - out~||^2 / ||out||^2). And
        what they do not: ``slope`` of the quantized on the true logits, by regression through the origin, and
        ``noise``, the standard deviation of what is left, beside the ``expected_slope`` and ``expected_noise`` that
        `theory` has for these very queries and keys (None for a quantizer it does not cover); the expectations are
        over the draw of the quantizer, so one draw scatters around them.
    """
    q, k, v = as_rows(q, Qk.d, "q"), as_rows(k, Qk.d, "k"), as_rows(v, Qv.d, "v")
    group = _heads(q.shape, k.shape[:-1])
    keys, values = module_of(Qk).quantize(Qk, k), module_of(Qv).quantize(Qv, v)
    seen = np.broadcast_to(visible(q.shape[-2], k.shape[-2], causal, window), (*q.shape[:-1], k.shape[-2]))
    factor = _check(scale, None, Qk.d)
    truth = (q @ np.repeat(k, group, axis=-3).swapaxes(-1, -2)) * q.dtype.type(factor)
    estimate = logits(Qk, q, keys, scale=factor, causal=causal, window=window)
    estimate = np.where(seen, estimate, 0)
    weights, quantized = softmax(np.where(seen, truth, -np.inf)), softmax(np.where(seen, estimate, -np.inf))
    out = weights @ np.repeat(v, group, axis=-3)
    out_q = module_of(Qv).to_original(Qv, _weighted_sums(Qv, quantized, values))

    def cosine(a: Reals, b: Reals) -> float:
        return float(((a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))).mean())

    def heaviest(w: Reals, n: int) -> NDArray[np.bool_]:
        return w >= np.sort(w, axis=-1)[..., -n, None]

    five = min(5, k.shape[-2])
    both = heaviest(weights, five) & heaviest(quantized, five)
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(weights > 0, weights * np.log(weights / quantized), 0).sum(-1)
    t, e = truth[seen].astype(np.float64), estimate[seen].astype(np.float64)
    slope = float((t * e).sum() / (t * t).sum())
    moments = _moments(Qk)
    expected_noise = None
    if moments is not None:
        lengths = np.repeat(np.linalg.norm(k, axis=-1), group, axis=-2)
        size = np.linalg.norm(q, axis=-1)[..., None] * lengths[..., None, :]
        magnitude = (size * factor)[seen].astype(np.float64)
        rho2 = (t / magnitude) ** 2
        variance = magnitude**2 * (rho2 * moments.along + (1 - rho2) * moments.across) / Qk.d
        expected_noise = float(np.sqrt(variance.mean()))
    return Fidelity(
        score_cosine=cosine(np.where(seen, truth, 0), estimate),
        weight_cosine=cosine(weights, quantized),
        top1=float((weights.argmax(-1) == quantized.argmax(-1)).mean()),
        top5=float((both.sum(-1) / five).mean()),
        kl=float(kl.mean()),
        output_error=float((((out - out_q) ** 2).sum(-1) / (out * out).sum(-1)).mean()),
        slope=slope,
        expected_slope=None if moments is None else moments.slope,
        noise=float(np.sqrt(((e - slope * t) ** 2).mean())),
        expected_noise=expected_noise,
    )


def _moments(Q: Any) -> theory.Moments | None:
    """The exact slope and variance of a quantizer's estimates, where `theory` covers it."""
    algorithm = getattr(Q, "algorithm", None)
    if algorithm == "qjl":
        return theory.qjl(Q.d, Q.m, Q.sketch.kind)
    if algorithm == "mse" or (algorithm == "prod" and Q.m == Q.d):
        return theory.moments(algorithm, Q.d, Q.bits, **Q.options)
    return None
