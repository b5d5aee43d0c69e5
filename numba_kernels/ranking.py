"""What the scan kernels rank codes by, for each metric, and what their scores mean; single codes' scores in float64.

A kernel has for a code <y, q> weight + bias beta, with beta of a query: q the code in the basis of the query, and y the
query that it is given. It ranks by that, the largest first. With u = y / ||y||, e the exponent of two above the largest
norm, N = 2^e and M = max(||y||, N):

======  ===================  ==================  ====================  ========  ========================
metric  query                weight              bias                  beta      cost, ranked ascending
======  ===================  ==================  ====================  ========  ========================
ip      u                    scale               0                     0         -||y|| score
cosine  u                    scale / ||x||       0                     0         -score
l2      (2 ||y|| / M) u      scale / N           (||x|| / N)^2         -N / M    ||y||^2 - N M score
======  ===================  ==================  ====================  ========  ========================

so that nothing overflows, and what underflows is too small beside the largest to matter.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._jit import kernel
from .arrange import in_bases, tables
from .layout import LANES, Prepared

__all__ = ["Ranking", "exact_costs"]

Reals = NDArray[np.floating[Any]]
Floats = NDArray[np.float32]


class Ranking(NamedTuple):
    """The arrays of a scan: of the codes, and of each query.

    Attributes
    ----------
    codes, n
        The words of the codes, and how many codes there are.
    weights, residuals, bias : (16 blocks) float32
        The second empty where no residual norm is stored, the third but for "l2".
    alpha : (n_queries) float32 or None
        What a unit query is multiplied by, if not by 1.
    beta : (n_queries) float64
    factor, offset : (n_queries) float64
        A cost is offset - factor score.
    """

    codes: NDArray[np.uint32]
    n: int
    weights: Floats
    residuals: Floats
    bias: Floats
    alpha: Floats | None
    beta: Reals
    factor: Reals
    offset: Reals

    @classmethod
    def of(cls, prepared: Prepared, metric: str, query_norms: Reals, norms: Reals) -> Ranking:
        """The ranking of a metric; `norms` (n) as float64, of no meaning for "ip"."""
        nothing, zeros = np.empty(0, np.float32), np.zeros(len(query_norms))
        residuals = prepared.values[1].astype(np.float32, copy=False) if len(prepared.values) > 1 else nothing
        codes, n = prepared.codes, prepared.n
        if metric == "ip":
            weights, exponent = prepared.weights
            return cls(codes, n, weights, residuals, nothing, None, zeros, np.ldexp(query_norms, exponent), zeros)
        if metric == "cosine":
            scales = prepared.values[0, :n].astype(np.float64)
            weights = _padded(np.divide(scales, norms, out=np.zeros(n), where=norms > 0), codes)
            return cls(codes, n, weights, residuals, nothing, None, zeros, np.ones(len(query_norms)), zeros)
        exponent = int(np.frexp(norms.max())[1])
        weights = _padded(np.ldexp(prepared.values[0, :n].astype(np.float64), -exponent), codes)
        bias = _padded(np.ldexp(norms, -exponent) ** 2, codes)
        unit = np.ldexp(1.0, exponent)
        larger = np.maximum(query_norms, unit)
        with np.errstate(over="ignore"):
            factor, offset = unit * larger, query_norms * query_norms
        alpha = (2 * query_norms / larger).astype(np.float32)
        return cls(codes, n, weights, residuals, bias, alpha, -unit / larger, factor, offset)

    def costs(self, scores: Reals) -> Reals:
        """What is ranked ascending, (n_queries, k) float64."""
        with np.errstate(over="ignore"):
            return self.offset[:, None] - self.factor[:, None] * np.asarray(scores, np.float64)


def _padded(values: Reals, codes: NDArray[np.uint32]) -> Floats:
    padded = np.zeros(len(codes) * LANES, np.float32)
    padded[: len(values)] = values
    return padded


@kernel
def index_of(codes: Any, block: int, lane: int, start: int, words: int, bits: int, j: int) -> int:
    """Number j of a section for a vector; see `layout`."""
    if bits == 3:
        lower = codes[block, start + j // 16, lane] >> np.uint32(2 * (j % 16)) & np.uint32(3)
        at = 8 * (j % 16 // 4) + 4 * (j // 16 % 2) + j % 4
        upper = codes[block, start + words // 3 * 2 + j // 32, lane] >> np.uint32(at) & np.uint32(1)
        return int(lower | upper << np.uint32(2))
    stored = bits if bits <= 4 else 8
    number = codes[block, start + j * stored // 32, lane] >> np.uint32(j * stored % 32)
    return int(number & np.uint32((1 << stored) - 1))


@kernel
def _dots(codes: Any, sections: Any, values: Any, weights: Any, queries: Any, t: int, positions: Any, to: Any) -> None:
    """to[q, i] = <query q, code positions[q, i]> in whole numbers, times a power of two; queries are whole already.

    They may begin with coordinates that meet none of the codes: those of 0 bits.
    """
    count = sections[0][0] + sections[1][0]
    row, first = np.empty(count), queries.shape[1] - count
    for q in range(positions.shape[0]):
        for i in range(positions.shape[1]):
            block, lane = divmod(positions[q, i], LANES)
            at, largest = 0, 0.0
            for part in range(2):
                _, bits, start, words = sections[part]
                for j in range(sections[part][0]):
                    value = values[part][index_of(codes, block, lane, start, words, bits, j)] * weights[part][q, i]
                    row[at], at, largest = value, at + 1, max(largest, abs(value))
            v = math.frexp(largest)[1] - t
            total = 0.0
            for j in range(count):
                total += queries[q, first + j] * np.rint(math.ldexp(row[j], -v))
            to[q, i] = math.ldexp(total, v)


def exact_costs(
    Q: Any,
    prepared: Prepared,
    metric: str,
    unit: Reals,
    query_norms: Reals,
    norms: Reals,
    positions: NDArray[np.int64],
) -> Reals:
    """What `turboquant_ref.scoring` ranks ascending, for some codes of each query, in float64: the same to the bit.

    Parameters
    ----------
    unit : (n_queries, d) float64
        Unit queries.
    query_norms : (n_queries) float64
    norms : (n) float64
        Of no meaning for "ip".
    positions : (n_queries, m) int64
    """
    known = tables(Q)
    a = np.concatenate(in_bases(Q, unit), axis=1)
    t = 27 - a.shape[1].bit_length() // 2  # `scoring.fixed_point`: no sum rounds
    u = np.frexp(np.abs(a).sum(-1))[1] - (52 - t)
    scales, *residuals = np.ascontiguousarray(prepared.values[:, positions], np.float64)
    weights = scales, scales
    if hasattr(Q, "sketch"):
        if not residuals and hasattr(Q, "codebook"):
            expected = np.asarray(Q.expected_residual).astype(prepared.values.dtype)
            residuals = [np.float64(expected)] if Q.codebook.bits else []
        sketched = scales * (residuals[0] * Q.sketch.constant if residuals else Q.sketch.constant)
        weights = (scales, sketched) if known.signs.words else (sketched, sketched)
    dots, whole = np.empty(positions.shape), np.rint(np.ldexp(a, -u[:, None]))
    sections = tuple(tuple(map(int, s)) for s in (known.first, known.signs))
    _dots(prepared.codes, sections, known.values, weights, whole, t, positions, dots)
    return costs_of(metric, np.ldexp(dots, u[:, None]), query_norms, norms[positions] if norms.size else norms)


def costs_of(metric: str, dots: Reals, query_norms: Reals, norms: Reals) -> Reals:
    """Minus the score, or the squared distance, from <y / ||y||, x~>; all of (n_queries, m) but the query norms."""
    if metric == "ip":
        return -(query_norms[:, None] * dots)
    if metric == "cosine":
        return np.where(norms > 0, -dots / np.where(norms > 0, norms, 1), 0)
    with np.errstate(over="ignore"):
        squares = (query_norms * query_norms)[:, None] + norms * norms
    return np.where(np.isinf(squares), np.inf, squares - 2 * query_norms[:, None] * dots)
