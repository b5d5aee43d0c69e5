"""Exhaustive search over codes, compiled: the function `topk` of `turboquant_ref.scoring` over this package's Prepared.

Two precisions, each under its own name:

"exact"
    float32 centroids and sums.
"int8"
    8-bit levels of the centroids times 8 bits of a query coordinate, in integers, some four times as fast. Sums of
    integers are exact: a score is the same for any number of threads, any chunk, any other query beside it, and any
    instruction set.

How far from the reference's a score may be, for "ip". With a = A y / ||y|| the query and c the code in the basis of the
code, w coordinates each, delta the rounding error of a coordinate of a, u = 2^-24 and gamma_n = n u / (1 - n u):

    exact    ||y|| scale (gamma_{w+8} sum |a_j c_j| + delta sum |c_j|)
    int8     that, and ||y|| scale (step/2 sum |a_j| + unit/2 sum (|c_j| + step/2)),
             step = max |centroid| / 127 (0 for signs) and unit = max |a_j| / 127

besides the reference's own rounding; "cosine" divides that by ||x||, "l2" doubles it and adds 8 u (||y|| + ||x||)^2.
The order of two codes is the reference's wherever its scores are farther apart than their bounds.

With ``rescore=m`` the m best are scored again as the reference does, in its fixed point: their scores are the
reference's to the bit. So are the results, if they are among the m: that is sure if the k-th best of the new scores is
better than the m-th best of the old ones by more than the bound.

Of equal scores the first position comes first, with any number of threads: a heap keeps the smaller position, and
parts of the codes are merged in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.scoring import METRICS, best, check_search, scores_of, stores_norm
from turboquant_ref.vectors import check_integer
from turboquant_ref.vectors import norm_and_unit as reference_norm_and_unit

from . import group, heaps, scan
from ._jit import LEVEL, in_parts
from ._norms import rows_of
from .arrange import (
    MAX_COORDINATES,
    Tables,
    byte_queries,
    coordinates,
    float_queries,
    product_tables,
    tables,
    units_in_bases,
)
from .layout import LANES, Prepared, check_prepared
from .ranking import Ranking, exact_costs

__all__ = ["METRICS", "PRECISIONS", "topk"]

Reals = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]

PRECISIONS = ("exact", "int8")

CHUNK = 1024
"""Codes that are scored at a time, for one group of queries after the other: they stay in the second-level cache."""

OPENING = 2048
"""Codes whose scores a search begins with: the more they are, the fewer of the later ones are better than the best."""

GROUPS = {"avx512": (22, 8), "avx2": (4, 4), "portable": (4, 4)}[LEVEL]
"""Queries of a group: as many as there are registers for, and fewer for a rest."""

CHAINS = 4
"""Chains of additions of a query that is alone."""

ENOUGH = 2**23
"""Coordinates times queries that are worth a thread."""


def topk(
    Q: Any,
    prepared: Prepared,
    queries: ArrayLike,
    k: int,
    metric: str = "ip",
    norms: ArrayLike | None = None,
    chunk: int = CHUNK,
    precision: str = "exact",
    rescore: int | None = None,
) -> tuple[Reals, Ids]:
    """The k codes with the best estimated scores for each query: exhaustive search.

    Parameters
    ----------
    Q : a quantizer of `mse`, `qjl` or `prod`
    prepared : Prepared
        Of n vectors.
    queries : (n_queries, d) array
        Not quantized but for "int8".
    k : int
        At least 1; it may exceed n.
    metric : {"ip", "cosine", "l2"}
        As in `turboquant_ref.scoring`.
    norms : (n,) array, optional
        ||x||, for "cosine" and "l2" where the codes do not hold it (the scale is not "norm").
    chunk : int
        Codes that are scored at a time. The result does not depend on it.
    precision : {"exact", "int8"}
        See the module's docstring.
    rescore : int, optional
        At least k: so many of the best are scored again in float64.

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
    y, k = _check_search(Q, queries, k, metric)
    chunk, count = check_integer(chunk, "chunk", 1), k if rescore is None else check_integer(rescore, "rescore", k)
    known = tables(Q)
    _check(Q, prepared, known, precision)
    given = _norms(Q, prepared, metric, norms)
    query_norms, bases = units_in_bases(Q, y, "queries")
    query_norms = query_norms.astype(np.float64)
    count = min(count, prepared.n)
    if count == 0 or len(y) == 0:
        return scores_of(metric, np.full((len(y), k), np.inf, y.dtype)), np.full((len(y), k), -1)
    ranking = Ranking.of(prepared, metric, query_norms, given)
    bases.append(np.empty((len(y), 0), np.float32))
    if ranking.alpha is not None:
        bases = [a * ranking.alpha[:, None] for a in bases]
    main, signs = [a for a, (_, bits) in zip(bases, [*Q.record.streams, (0, 1)], strict=False) if bits][:2]
    found, positions = _scan(known, ranking, (main, signs), count, chunk, precision)
    if rescore is None:
        costs = ranking.costs(found)
    else:
        query_norms, unit = reference_norm_and_unit(y.astype(np.float64), name="queries")
        costs = exact_costs(Q, prepared, metric, unit, query_norms, given, positions)
    costs = costs.astype(y.dtype)
    if count != k or rescore is not None or not (costs[:, 1:] > costs[:, :-1]).all():  # equal once rounded: by position
        costs, positions = best(k, costs, positions)
    return scores_of(metric, costs), positions


def _check_search(Q: Any, queries: ArrayLike, k: object, metric: str) -> tuple[Reals, int]:
    """`turboquant_ref.scoring.check_search`, but for NaN and infinity in a float array: kernels find these."""
    y = rows_of(queries, Q.d, "queries")
    if y.ndim == 2 and metric in METRICS:
        return y, check_integer(k, "k", 1)
    return check_search(Q, y, k, metric)


def _check(Q: Any, prepared: Any, known: Tables, precision: str) -> None:
    check_prepared(Q, prepared)
    if len(prepared.shape) != 1:
        raise ValueError(f"prepared: expected codes of shape (n,), got {prepared.shape}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    longest = max(coordinates(known.first), coordinates(known.signs))
    if precision == "int8" and longest > MAX_COORDINATES:
        raise ValueError(f'precision: "int8" sums at most {MAX_COORDINATES} coordinates, these codes have {longest}')


def _norms(Q: Any, prepared: Prepared, metric: str, norms: ArrayLike | None) -> NDArray[np.float64]:
    """||x|| for each vector, float64; nothing for "ip"."""
    if norms is not None:
        given = np.asarray(norms, dtype=np.float64)
        if given.shape != prepared.shape or not (np.isfinite(given) & (given >= 0)).all():
            raise ValueError(f"norms: expected {prepared.n} finite numbers of at least 0, got shape {given.shape}")
    if metric == "ip":
        return np.empty(0)
    if norms is not None:
        return given
    if not stores_norm(Q):
        raise ValueError(f'norms: metric "{metric}" needs the norms of the vectors, which these codes do not hold')
    return prepared.values[0, : prepared.n].astype(np.float64)


def _groups(n: int) -> list[tuple[tuple[tuple[int, ...], ...], slice]]:
    """The shapes of groups that n queries go in, each with the queries of all groups of that shape."""
    if n == 1:
        return [(group.of(1, CHAINS), slice(0, 1))]
    large, small = GROUPS
    rest = n % large
    split = n - rest if rest <= small else n
    found = [(group.of(large, 1), slice(0, split))] if split else []
    return found + ([(group.of(small, 1), slice(split, n))] if split < n else [])


def _filled(a: Reals, n: int) -> NDArray[np.float32]:
    filled = np.zeros(n, np.float32)
    filled[: len(a)] = a
    return filled


def _floats(known: Tables, queries: list[Reals], beta: Reals, size: int) -> tuple[tuple[Any, ...], Reals]:
    """What `scan.float_scan` calls queries, and the unit of its sums."""
    laid = [
        product_tables(a, section, table) if size == 1 and section.bits <= 2 else float_queries(a, section, size)
        for a, section, table in zip(queries, (known.first, known.signs), known.floats, strict=True)
    ]
    return (*laid, _filled(beta, len(laid[0]) * size)), np.ones(len(beta))


def _bytes(known: Tables, queries: list[Reals], beta: Reals, size: int) -> tuple[tuple[Any, ...], Reals]:
    """What `scan.byte_scan` calls queries, and what one of a query's sums is worth."""
    first, starts, units = byte_queries(queries[0], known.first, size)
    signs, sign_starts, sign_units = byte_queries(queries[1], known.signs, size)
    units = units * known.steps[0]
    n = len(starts)
    ratios = _filled(sign_units * known.steps[1] / units, n)
    return (first, signs, _filled(beta / units, n), starts, sign_starts, ratios), units


def _scan(
    known: Tables, ranking: Ranking, queries: tuple[Reals, Reals], count: int, chunk: int, precision: str
) -> tuple[Reals, Ids]:
    """Scores, as `ranking` has them, and positions of the best `count` codes, best first."""
    exact = precision == "exact"
    bits = known.first.bits if known.first.bits < 5 else 8
    signed, alone = known.signs.words > 0, len(ranking.beta) == 1
    kernel = scan.float_scan(bits, signed, alone) if exact else scan.byte_scan(bits, signed)
    fixed = (known.first.words, known.signs.words), known.floats if exact else known.levels
    tile, opening = -(-chunk // LANES), min(OPENING // LANES, len(ranking.codes))
    groups = []
    for shape, part in _groups(len(ranking.beta)):
        arranged = (_floats if exact else _bytes)(known, [a[part] for a in queries], ranking.beta[part], len(shape))
        groups.append((shape, *arranged))

    def run(start: int, stop: int) -> list[tuple[Any, Any]]:
        found = []
        for shape, given, units in groups:
            thresholds = np.full(len(given[2]), np.inf, np.float32)
            scores, positions = np.empty((len(units), count), np.float32), np.empty((len(units), count), np.int64)
            scores[:], positions[:] = -np.inf, heaps.NOWHERE
            # queries an odd number of lines apart: else they would share a few sets of the cache
            board = np.empty((len(shape), opening | 1, LANES), np.float32)
            room = np.empty((max(len(shape), heaps.STEP), LANES), np.float32)
            vectors, best = (ranking.weights, ranking.residuals, ranking.bias), (thresholds, scores, positions)
            part = (start, stop, ranking.n, opening, tile)
            kernel(shape, ranking.codes, part, *fixed, given, vectors, best, board, room)
            found.append((scores, positions))
        return found

    work = LANES * max(4, len(ranking.beta)) * (coordinates(known.first) + coordinates(known.signs))
    # of 7 blocks: parts that begin a power of two apart would share the sets of a cache
    first, *others = in_parts(run, len(ranking.codes), -(-ENOUGH // work), step=7)
    for other in others:
        for (scores, positions), (more, more_positions) in zip(first, other, strict=True):
            heaps.merge(scores, positions, more, more_positions)
    for scores, positions in first:
        heaps.order(scores, positions)
    units = _joined([unit for _, _, unit in groups])
    scores, positions = (_joined(a) for a in zip(*first, strict=True))
    return scores * units[:, None], positions


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) > 1 else parts[0]
