"""Scores of queries against codes, and the best of them: exhaustive vector search (TurboQuant, section 4.4).

======  ==============================================  ================
metric  score                                           best
======  ==============================================  ================
ip      <y, x> ~ <y, x~>                                the largest
cosine  <y, x~> / (||y|| ||x||); 0 where a norm is 0    the largest
l2      ||y||^2 + ||x||^2 - 2 <y, x~>                   the smallest
======  ==============================================  ================

||x|| is the stored norm of x, not that of x~, so an estimated squared distance may be negative.

Why a result does not depend on chunks, blocks, neighbours or BLAS: as in attention, <y, x~> is <A y, c>, the query in
the basis of the code (A is Pi, S, or one above the other) against the code without its last rotation. Both are rounded
to fixed point here, coarse enough that every partial sum is exact in float64 (`fixed_point`). A score is then a
function of one query in that basis and of one code, and equal codes have equal scores: ties are ties. The rounding
is some 1e-8 ||y|| ||x~||, less than that of a float32 sum. (`channels`, whose sums are in the original basis, has that
only where the rotations of its parts are structured.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .codes import module_of
from .packing import Packed
from .vectors import as_rows, check_integer, norm_and_unit

__all__ = ["METRICS", "best", "check_search", "exact_costs", "fixed_point", "stores_norm", "topk"]

METRICS = ("ip", "cosine", "l2")
Reals = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]

CHUNK = 1024
"""Codes that are scored at a time."""

_TILE = 64  # codes that are unpacked at a time


def stores_norm(Q: Any) -> bool:
    """Whether a packed vector of this quantizer holds ||x||."""
    names = [scalar.name for scalar in Q.record.scalars] if hasattr(Q, "record") else []
    return "norm" in names or ("scale" in names and getattr(Q, "scale", None) == "norm")


def norms_in(Q: Any, packed: Packed) -> Reals:
    """||x|| from the rows of a quantizer that `stores_norm`."""
    code = module_of(Q).unpack(Q, packed)
    return np.asarray(code.norms if hasattr(code, "norms") else code.scales, dtype=np.float64)


def fixed_point(a: Reals, b: Reals) -> Reals:
    """<a_i, b_j> for all rows of a (n, w) and b (m, w), rounded to fixed point so that no sum rounds.

    With t = 27 - floor((1 + floor(log2 w)) / 2), which balances the two roundings: a row of b is rounded to multiples
    of v = 2^(f - t), 2^f the least power of two above its largest magnitude, and a row of a to multiples of
    u = 2^(e - 52 + t), 2^e the least above its sum of magnitudes. Every partial sum is then a whole number of at most
    2^53, times u v, and exact.

    Returns
    -------
    (n, m) float64
        Each within (v/2) sum |a| + (u/2) sum |b| + w u v / 4 of the exact <a, b>, whatever the order of summation.
    """
    t = 27 - a.shape[-1].bit_length() // 2
    u = np.frexp(np.abs(a).sum(-1))[1] - (52 - t)
    v = np.frexp(np.abs(b).max(-1))[1] - t
    whole = np.rint(np.ldexp(a, -u[:, None])) @ np.rint(np.ldexp(b, -v[:, None])).T
    return np.asarray(np.ldexp(whole, u[:, None] + v))


def _in_basis(Q: Any, y: Reals) -> Reals:
    """A y, the query in the basis of the codes: the transpose of the algorithm's ``to_original``."""
    maps = [m for m in (getattr(Q, "rotation", None), getattr(Q, "sketch", None)) if m is not None]
    return np.concatenate([m.apply(y) for m in maps], axis=-1) if maps else y


def _vectors(Q: Any, packed: Packed) -> Reals:
    """The coded vectors in that basis, float64: weighted sums of one vector each, so exact, whatever the algorithm."""
    module, parts = module_of(Q), []
    for start in range(0, len(packed.data), _TILE):
        code = module.unpack(Q, dataclasses.replace(packed, data=packed.data[start : start + _TILE]))
        floats = {k: a.astype(np.float64) for k, a in vars(code).items() if getattr(a, "dtype", None) == np.float32}
        one_each = np.eye(min(_TILE, len(packed.data) - start))
        parts.append(module.weighted_sum(Q, one_each, dataclasses.replace(code, **floats)))
    return np.concatenate(parts)


def _costs(metric: str, dots: Reals, query_norms: Reals, norms: Reals) -> Reals:
    """What is ranked ascending, from <y / ||y||, x~>: minus the score, or the squared distance."""
    if metric == "ip":
        return -(query_norms[:, None] * dots)
    if metric == "cosine":
        return np.where(norms > 0, -dots / np.where(norms > 0, norms, 1), 0)
    squares = (query_norms * query_norms)[:, None] + norms * norms
    return np.where(np.isinf(squares), np.inf, squares - 2 * query_norms[:, None] * dots)


def exact_costs(metric: str, y: Reals, x: Reals) -> Reals:
    """What is ranked ascending, for a query (d,) and vectors (n, d) of float32 range, in float64; a row at a time."""
    wide = np.asarray(y, dtype=np.float64)
    if metric == "l2":
        return np.asarray(((x - wide) ** 2).sum(-1))
    if metric == "cosine":
        return np.asarray(-(norm_and_unit(x)[1] * norm_and_unit(wide)[1]).sum(-1))
    exponent = np.frexp(np.abs(wide).max())[1]
    return np.asarray(-np.ldexp((x * np.ldexp(wide, -exponent)).sum(-1), exponent))


def scores_of(metric: str, costs: Reals) -> Reals:
    """Scores from what is ranked ascending, and back."""
    return costs if metric == "l2" else -costs


def check_search(Q: Any, queries: ArrayLike, k: object, metric: str) -> tuple[Reals, int]:
    """Queries (n, d) in their compute dtype, and k."""
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {', '.join(METRICS)}, got {metric!r}")
    y, count = as_rows(queries, Q.d, name="queries"), check_integer(k, "k", 1)
    if y.ndim != 2:
        raise ValueError(f"queries: expected shape (n, {Q.d}), got {y.shape}")
    return y, count


def best(k: int, costs: Reals, ids: Ids) -> tuple[Reals, Ids]:
    """The k smallest costs of each row with their ids, equal ones by id; (inf, -1) where there are fewer than k."""
    order = np.lexsort((ids.view(np.uint64), costs))[:, :k]  # as uint64, -1 comes last
    missing = ((0, 0), (0, k - order.shape[1]))
    cost = np.pad(np.take_along_axis(costs, order, axis=1), missing, constant_values=np.inf)
    return cost, np.pad(np.take_along_axis(ids, order, axis=1), missing, constant_values=-1)


def topk(
    Q: Any,
    prepared: Any,
    queries: ArrayLike,
    k: int,
    metric: str = "ip",
    norms: ArrayLike | None = None,
    chunk: int = CHUNK,
) -> tuple[Reals, Ids]:
    """The k codes with the best estimated scores for each query: exhaustive search.

    The one function that a backend's ``search`` must offer, over its own Prepared.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod`, `qjl` or a sibling
    prepared : Packed
        Of n vectors, (n, bytes).
    queries : (n_queries, d) array
        Not quantized.
    k : int
        At least 1; it may exceed n.
    metric : {"ip", "cosine", "l2"}
        See the module's docstring.
    norms : (n,) array, optional
        ||x||, for "cosine" and "l2" where the codes do not hold it (the scale is not "norm").
    chunk : int
        Codes that are unpacked and scored at a time: memory is bounded by chunk times (n_queries + d). The result does
        not depend on it.

    Returns
    -------
    scores : (n_queries, k) array
        In the compute dtype of the queries, best first; infinite where beyond its largest number (NumPy warns).
    positions : (n_queries, k) int64
        Of the codes in `prepared`; of equal scores the first comes first. Where k exceeds n: -1, and the worst score.

    Raises
    ------
    TypeError, ValueError
        For codes of another quantizer, bad queries, or missing norms.
    """
    y, k = check_search(Q, queries, k, metric)
    module, chunk = module_of(Q), check_integer(chunk, "chunk", 1)
    data = module.prepare(Q, prepared).data
    if data.ndim != 2:
        raise ValueError(f"prepared: expected rows of bytes (n, {data.shape[-1]}), got {data.shape}")
    given = np.zeros(len(data)) if norms is None else np.asarray(norms, dtype=np.float64)
    if given.shape != data.shape[:1] or not (np.isfinite(given) & (given >= 0)).all():
        raise ValueError(f"norms: expected {len(data)} finite numbers of at least 0, got shape {given.shape}")
    if norms is None and metric != "ip" and not stores_norm(Q):
        raise ValueError(f'norms: metric "{metric}" needs the norms of the vectors, which these codes do not hold')
    query_norms, unit = norm_and_unit(y.astype(np.float64), name="queries")
    basis = _in_basis(Q, unit)
    costs, positions = np.empty((len(y), 0), y.dtype), np.empty((len(y), 0), np.int64)
    for start in range(0, len(data), chunk):
        packed = dataclasses.replace(prepared, data=data[start : start + chunk])
        here = np.empty(0) if metric == "ip" else norms_in(Q, packed) if norms is None else given[start : start + chunk]
        new = _costs(metric, fixed_point(basis, _vectors(Q, packed)), query_norms, here).astype(y.dtype)
        # the best so far come first and in order, so that a stable sort keeps equal ones by position
        costs = np.concatenate([costs, new], axis=1)
        places = np.broadcast_to(np.arange(start, start + new.shape[1]), new.shape)
        positions = np.concatenate([positions, places], axis=1)
        order = np.argsort(costs, axis=1, kind="stable")[:, :k]
        costs, positions = np.take_along_axis(costs, order, axis=1), np.take_along_axis(positions, order, axis=1)
    costs, positions = best(k, costs, positions)
    return scores_of(metric, costs), positions
