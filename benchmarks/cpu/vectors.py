"""The vectors of the benchmarks: random, clustered, and the bundled GloVe sample; all of norm 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import turboquant_ref as tq

Rows = NDArray[np.float32]


def _unit(x: Rows) -> Rows:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def random(d: int, n: int, n_queries: int) -> tuple[Rows, Rows]:
    """Uniform on the sphere, the queries too: the hardest case, for all neighbours are far."""
    rng = np.random.default_rng(0)
    return _unit(rng.standard_normal((n, d), np.float32)), _unit(rng.standard_normal((n_queries, d), np.float32))


def clustered(d: int, n: int, n_queries: int) -> tuple[Rows, Rows]:
    """About sqrt(n) uniform centres, and around each vectors at a cosine of about 0.8 to it."""
    rng = np.random.default_rng(1)
    centres = _unit(rng.standard_normal((int(n**0.5), d), np.float32))
    which = rng.integers(len(centres), size=n + n_queries)
    x = rng.standard_normal((n + n_queries, d), np.float32) * np.float32(0.75 / d**0.5)
    x += centres[which]
    x = _unit(x)
    return x[:n], x[n:]


def glove(d: int, n: int, n_queries: int) -> tuple[Rows, Rows]:
    """The bundled sample, split: 50 dimensions, at most 8,000 vectors."""
    unit = _unit(tq.data.glove()[1])
    order = np.random.default_rng(0).permutation(len(unit))
    return unit[order[n_queries:]], unit[order[:n_queries]]


DATA = {"random": random, "clustered": clustered, "glove": glove}


def nearest(x: Rows, y: Rows, k: int) -> NDArray[np.int64]:
    """The k largest inner products of each query, exactly enough: float32, a block of rows at a time."""
    ids, scores = np.empty((len(y), 0), np.int64), np.empty((len(y), 0), np.float32)
    for start in range(0, len(x), 65536):
        block = y @ x[start : start + 65536].T
        best = np.argpartition(-block, min(k, block.shape[1] - 1), axis=1)[:, :k]
        ids = np.concatenate([ids, best + start], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(block, best, axis=1)], axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, axis=1)


def recall(found: NDArray[np.integer], truth: NDArray[np.int64]) -> float:
    """Recall k@k: the share of the true k nearest that are among the k found."""
    k = truth.shape[1]
    hits = [len(set(map(int, a[:k])) & set(map(int, b))) for a, b in zip(found, truth, strict=True)]
    return sum(hits) / truth.size
