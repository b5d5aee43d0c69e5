"""The errors behind Figs 1 to 3: of every pair of a query and a base vector, over independent draws of (Pi, S).

Two variants of both algorithms:

"as written"
    Algorithms 1 and 2: the codebook of Eq 4 at this d, S with iid N(0, 1) entries, ||r|| stored.
"as released"
    the authors' code (variants ``authors-mse`` and ``authors-prod``): their tables over √d, an orthogonal S with its
    mean √(π/2)/√d, constants in the place of ||r||.  The rotations are Haar's here: theirs lack the sign fix.

Vectors are of unit norm, so that nothing else tells the two apart.  Errors of different pairs under one draw are not
independent: every figure is averaged over the pairs of a draw first, and its interval is Student's over the draws.
"""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from turboquant_ref import codebook, mse, prod, qjl, rotation, theory, variants
from turboquant_ref.generator import words

from . import data as sets
from . import verbs
from ._track import track

__all__ = ["ALGORITHMS", "VARIANTS", "exact_moments", "intervals", "measure", "quantizers"]

VARIANTS = ("as written", "as released")
ALGORITHMS = ("prod", "mse")
BITS = (1, 2, 3, 4, 5)
GROUPS = 4
BINS = 64
RANGE = 3.6  # the histograms reach to so many standard deviations of the widest, prod as written
_STREAM = 0x66696773  # the draws' seeds are words of this stream of the run's seed

Floats = NDArray[np.float64]


def exact_moments(variant: str, algorithm: str, d: int, bits: int) -> theory.Moments:
    """Slope and variance of a variant, exactly."""
    if variant == "as written":
        return theory.moments(algorithm, d, bits)
    s = variants.find(f"authors-{algorithm}").exact(d, bits)
    if s.slope is None or s.along is None or s.across is None:
        raise ValueError(f"{variant} {algorithm} has no closed form at d = {d}, b = {bits}")
    return theory.Moments(d, s.slope, s.along, s.across)


def quantizers(d: int, bits: tuple[int, ...], seed: int) -> dict[tuple[str, str, int], Any]:
    """The quantizers of one draw, by (variant, algorithm, bits): one Pi for all of them, and one S a variant."""
    Pi, S = rotation.haar(d, seed), qjl.sketch(d, d, seed, "gaussian")
    block = rotation.haar(d, seed, stream=1)
    draw: dict[tuple[str, str, int], Any] = {}
    for b in bits:
        draw["as written", "mse", b] = mse.Quantizer(Pi, codebook.lloyd_max(d, b))
        draw["as written", "prod", b] = prod.Quantizer(Pi, codebook.lloyd_max(d, b - 1), S)
        released = variants.find("authors-mse").setup(d, b, seed, "structured")
        draw["as released", "mse", b] = dataclasses.replace(released, rotation=Pi)
        released = variants.find("authors-prod").setup(d, b, seed, "structured")
        sketch = dataclasses.replace(released.sketch, blocks=(block,), identity=f"{released.sketch.gain!r} haar {seed}")
        draw["as released", "prod", b] = dataclasses.replace(released, rotation=Pi, sketch=sketch)
    return draw


def measure(
    data: str,
    n: int,
    n_queries: int,
    draws: int,
    bits: tuple[int, ...] | list[int] = BITS,
    seed: int = 0,
    ops: str = "turboquant_ref",
) -> dict[str, Any]:
    """Errors <y, x> - <y, x~> over all pairs, summed up draw by draw, beside their exact expectations.

    Parameters
    ----------
    data : str
        For `data.load`.
    n, n_queries : int
        Base vectors and queries, of unit norm.
    draws : int
        Independent draws of (Pi, S).
    bits : sequence of int
        1 to 5: the authors' code has no other tables.
    seed : int
        Of the choice of vectors and of the draws.
    ops : str
        The module that quantizes: turboquant_ref, or a backend with the same words.

    Returns
    -------
    dict of arrays, axes (variant, algorithm, bits, …)
        ``mean``, ``square``, ``mse``: (…, draws), the mean error, the mean squared error, the mean ||x - x~||^2; and
        ``exact_mean``, …, (…).  ``group_mean``, ``group_square`` (…, groups, draws) and their exact values: the same
        over pairs of one quarter of the inner products, ``rho`` (groups,) on average.  ``histogram`` (…, bins) and
        ``group_histogram`` (…, groups, bins): fractions of all errors between ``edges``
        (bits, bins + 1); ``largest``: of |error|.
    """
    bits = tuple(bits)
    if not bits or not set(bits) <= set(BITS):
        raise ValueError(f"bits: expected some of {BITS}, the widths of the authors' tables, got {bits}")
    if min(n, n_queries) < GROUPS or draws < 2:
        raise ValueError(f"n, n_queries, draws: expected at least {GROUPS}, {GROUPS}, 2, got {n}, {n_queries}, {draws}")
    return _measure(data, n, n_queries, draws, bits, seed, ops)


@lru_cache(maxsize=2)
def _measure(data: str, n: int, n_queries: int, draws: int, bits: tuple[int, ...], seed: int, ops: str) -> Any:
    sample = sets.load(data)
    x, y = sets.split(sample, n, n_queries, seed)
    d = x.shape[1]
    truth = y.astype(np.float64) @ x.astype(np.float64).T
    group = np.searchsorted(np.quantile(truth, np.arange(1, GROUPS) / GROUPS), truth)
    widest = np.array([math.sqrt(exact_moments("as written", "prod", d, b).variance()) for b in bits])
    edges = RANGE * widest[:, None] * np.linspace(-1, 1, BINS + 1)
    shape = (len(VARIANTS), len(ALGORITHMS), len(bits))
    found = {name: np.zeros((*shape, draws)) for name in ("mean", "square", "mse", "largest")}
    found |= {name: np.zeros((*shape, GROUPS, draws)) for name in ("group_mean", "group_square")}
    histogram = np.zeros((*shape, GROUPS, BINS))
    for k, draw in enumerate(track([int(w) for w in words(seed, _STREAM, draws)], "draws of (Pi, S)")):
        for (variant, algorithm, b), Q in quantizers(d, bits, draw).items():
            at = (VARIANTS.index(variant), ALGORITHMS.index(algorithm), bits.index(b))
            module = verbs(ops, Q.algorithm)
            code = module.quantize(Q, x)
            error = truth - module.inner_product(Q, y, code)
            found["mean"][(*at, k)] = error.mean()
            found["square"][(*at, k)] = (error**2).mean()
            found["mse"][(*at, k)] = ((x - module.dequantize(Q, code)) ** 2).sum(-1, dtype=np.float64).mean()
            found["largest"][(*at, k)] = np.abs(error).max()
            for g in range(GROUPS):
                e = error[group == g]
                found["group_mean"][(*at, g, k)], found["group_square"][(*at, g, k)] = e.mean(), (e**2).mean()
                histogram[(*at, g)] += np.histogram(e, edges[at[2]])[0] / (error.size * draws)
    rho = np.array([truth[group == g].mean() for g in range(GROUPS)])
    rho2 = np.array([(truth[group == g] ** 2).mean() for g in range(GROUPS)])
    moments = [[[exact_moments(v, a, d, b) for b in bits] for a in ALGORITHMS] for v in VARIANTS]

    def of_each(f: Any) -> Floats:
        return np.array([[[f(m) for m in row] for row in rows] for rows in moments])

    return {
        "data": {**sample.record, "pairs": truth.size, "base": len(x), "queries": len(y)},
        "variants": list(VARIANTS),
        "algorithms": list(ALGORITHMS),
        "bits": np.array(bits),
        "d": d,
        **{name: found[name] for name in ("mean", "square", "mse", "group_mean", "group_square")},
        "exact_mean": of_each(lambda m: (1 - m.slope) * truth.mean()),
        "exact_square": of_each(lambda m: _square(m, float((truth**2).mean()))),
        "exact_mse": of_each(lambda m: m.distortion),
        "exact_group_mean": of_each(lambda m: (1 - m.slope) * rho),
        "exact_group_square": of_each(lambda m: [_square(m, r2) for r2 in rho2]),
        "rho": rho,
        "rho_square": rho2,
        "mean_rho": float(truth.mean()),
        "largest": found["largest"].max(-1),
        "edges": edges,
        "histogram": histogram.sum(-2),
        "group_histogram": histogram * GROUPS,
    }


def _square(m: theory.Moments, rho2: float) -> float:
    """E (<y, x> - <y, x~>)^2 over pairs whose squared inner products average rho2: it is linear in rho^2."""
    return float(m.inner_product_error(math.sqrt(rho2)))


def intervals(values: Any, exact: Any, confidence: float = 0.99) -> tuple[Floats, Floats, int, int]:
    """Student's intervals over the draws, the last axis, at a joint confidence (Bonferroni) for all of them.

    Returns
    -------
    means, half_widths : arrays of the shape of `exact`
    outside, count : int
        How many intervals do not hold their exact value, of how many.
    """
    values, exact = np.asarray(values), np.asarray(exact)
    draws = values.shape[-1]
    t = stats.t.isf((1 - confidence) / 2 / exact.size, draws - 1)
    half = t * values.std(-1, ddof=1) / math.sqrt(draws)
    means = values.mean(-1)
    return means, half, int((np.abs(means - exact) > half).sum()), exact.size
