"""TurboQuant, Fig 5: recall@1@k of search over codes at 2 and 4 bits, beside PQ and RaBitQ.

recall@1@k is how often the exact nearest vector by inner product is among the k best by the codes; every vector is
scored, there is no index structure. PQ is the paper's: 256 codewords, 4 coordinates a lookup at 2 bits and 2 at 4 bits
(the last ones padded with zeros), trained on the vectors that it then codes; it needs faiss. All vectors have norm 1.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from turboquant_ref import mse, prod, rabitq
from turboquant_ref.generator import words

from . import data as sets
from . import verbs
from ._style import CYCLE, MARKERS, new_figure, styled
from ._track import track

FULL: dict[str, Any] = {"data": ["glove", "wordllama"], "n": 12000, "n_queries": 1000, "draws": 5, "seed": 1}
QUICK: dict[str, Any] = {"data": ["glove"], "n": 2000, "n_queries": 300, "draws": 3, "seed": 1}
KS = (1, 2, 4, 8, 16, 32, 64)
BITS = (2, 4)
_STREAM = 0x72656361

Rows = NDArray[np.float32]

METHODS: dict[str, Callable[[int, int, int], Any]] = {
    "TurboQuant mse": lambda d, b, seed: mse.setup(d, b, seed),
    "mse, unbiased scale": lambda d, b, seed: mse.setup(d, b, seed, scale="unbiased"),
    "TurboQuant prod": lambda d, b, seed: prod.setup(d, b, seed),
    "prod, orthogonal S": lambda d, b, seed: prod.setup(d, b, seed, sketch="orthogonal"),
    "RaBitQ": lambda d, b, seed: rabitq.setup(d, b, seed),
}
"""Ours by name: (d, bits, seed) -> quantizer."""
PQ = "PQ (faiss, trained)"


def compute(
    data: str | list[str], n: int, n_queries: int, draws: int, seed: int = 0, ops: str = "turboquant_ref"
) -> dict[str, Any]:
    """Recall@1@k of each method, data set and width.

    Parameters
    ----------
    data : str or list of str
        For `data.load`; of several, those that are not there are left out if one is.
    n, n_queries : int
        At most so many base vectors and queries.
    draws : int
        Independent draws; PQ is trained once.
    seed : int
    ops : str
        The module that quantizes mse and prod.

    Returns
    -------
    dict
        ``recall`` (data, bits, methods, draws, k), NaN where there is none; ``bytes`` (data, bits, methods) of a code.
    """
    samples = _samples([data] if isinstance(data, str) else list(data))
    methods = [*METHODS, *([PQ] if _faiss() is not None else [])]
    recall = np.full((len(samples), len(BITS), len(methods), draws, len(KS)), np.nan)
    size = np.zeros((len(samples), len(BITS), len(methods)))
    records = []
    for i, sample in enumerate(samples):
        x, y = sets.split(sample, n, n_queries, seed)
        best = np.argmax(y.astype(np.float64) @ x.astype(np.float64).T, axis=1)
        records.append({**sample.record, "base": len(x), "queries": len(y)})
        seeds = [int(w) for w in words(seed, _STREAM, draws)]
        for k, w in enumerate(track(seeds, sample.name)):
            for j, b in enumerate(BITS):
                for m, name in enumerate(methods):
                    if name == PQ:
                        if k == 0:
                            size[i, j, m], scores = _product_quantizer(x, y, b)
                            recall[i, j, m, 0] = _recall(scores, best)
                        continue
                    Q = METHODS[name](x.shape[1], b, w)
                    module = verbs(ops, Q.algorithm) if Q.algorithm in ("mse", "prod") else rabitq
                    size[i, j, m] = Q.bytes_per_vector()
                    recall[i, j, m, k] = _recall(module.inner_product(Q, y, module.quantize(Q, x)), best)
    return {
        "data": records,
        "methods": methods,
        "bits": list(BITS),
        "k": np.array(KS),
        "recall": recall,
        "bytes": size,
    }


def _samples(names: list[str]) -> list[sets.Sample]:
    found, missing = [], None
    for name in names:
        try:
            found.append(sets.load(name))
        except ModuleNotFoundError as error:
            missing = error
    if not found and missing is not None:
        raise missing
    return found


def _faiss() -> Any:
    try:
        return importlib.import_module("faiss")
    except ImportError:
        return None


def _product_quantizer(x: Rows, y: Rows, bits: int) -> tuple[int, NDArray[Any]]:
    """Bytes of a code, and the scores of all pairs by decoded vectors, which are those by look-up tables."""
    if len(x) < 256:
        raise ValueError(f"n: PQ trains 256 codewords, expected at least as many base vectors, got {len(x)}")
    width = 8 // bits  # coordinates a lookup of 256 codewords
    pad = -x.shape[1] % width
    x, y = (np.ascontiguousarray(np.pad(a, ((0, 0), (0, pad)))) for a in (x, y))
    pq = _faiss().ProductQuantizer(x.shape[1], x.shape[1] // width, 8)
    pq.cp.min_points_per_centroid = 1  # no warning for small samples
    pq.train(x)
    return int(pq.code_size), y @ pq.decode(pq.compute_codes(x)).T


def _recall(scores: NDArray[Any], best: NDArray[Any]) -> NDArray[np.float64]:
    """recall@1@k of `KS`; of equal scores the order is random, in expectation."""
    score = np.take_along_axis(scores, best[:, None], axis=1)
    above, equal = (scores > score).sum(axis=1), (scores == score).sum(axis=1)
    return np.array([np.clip((k - above) / equal, 0, 1).mean() for k in KS])


def _means(results: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over the draws and half-widths of their 95 % intervals, 0 for what was drawn once."""
    values = np.asarray(results["recall"], dtype=np.float64)
    count = np.isfinite(values).sum(-2)
    mean = np.nansum(values, -2) / count
    spread = np.sqrt(np.nansum((values - mean[..., None, :]) ** 2, -2) / np.maximum(count - 1, 1) / count)
    return mean, np.where(count > 1, stats.t.isf(0.025, np.maximum(count - 1, 1)), 0) * spread


@styled
def plot(results: dict[str, Any]) -> Any:
    """Recall against k: a row a data set, a column a width."""
    rows = len(results["data"])
    figure = new_figure(11, 0.9 + 3.6 * rows)
    axes = figure.subplots(rows, len(results["bits"]), squeeze=False, sharex=True)
    mean, half = _means(results)
    for i, record in enumerate(results["data"]):
        for j, b in enumerate(results["bits"]):
            axis = axes[i, j]
            for m, name in enumerate(results["methods"]):
                high = np.minimum(half[i, j, m], 1 - mean[i, j, m])  # no recall exceeds 1
                axis.errorbar(results["k"], mean[i, j, m], [half[i, j, m], high], color=CYCLE[m], marker=MARKERS[m],
                              capsize=2, markerfacecolor="none", linestyle="--" if name == PQ else "-",
                              label=f"{name}: {results['bytes'][i][j][m]:.0f} bytes")  # fmt: skip
            axis.set(xscale="log", ylim=(None, 1.01), title=f"{record['name']}: {b} bits, {record['base']:,} vectors")
            axis.set_xticks(results["k"], [str(k) for k in results["k"]])
            axis.minorticks_off()
            axis.legend(loc="lower right")
            if i == rows - 1:
                axis.set_xlabel("k")
            if j == 0:
                axis.set_ylabel("recall@1@k")
    return figure


def summary(results: dict[str, Any]) -> str:
    """recall@1@1 of each, and the order that the paper claims."""
    mean, half = _means(results)
    lines = []
    for i, record in enumerate(results["data"]):
        for j, b in enumerate(results["bits"]):
            order = np.argsort(-mean[i, j, :, 0])
            spread = [f" ± {h:.3f}" if h else "" for h in half[i, j, :, 0]]
            cells = [f"{results['methods'][m]} {mean[i, j, m, 0]:.3f}{spread[m]} ({results['bytes'][i][j][m]:.0f} B)"
                     for m in order]  # fmt: skip
            lines.append(f"{record['name']}, {b} bits, recall@1@1: " + ", ".join(cells))
    return "\n".join(lines)
