"""recall@1@k of search over codes beside faiss-cpu, at equal stored bytes: ``python -m benchmarks.search_recall``.

How often the true nearest vector by inner product is among the k best estimates. All vectors have norm 1, as FAISS's
SQtqmse stores no norm. In each draw every method but PQ gets the same Haar rotation Pi: ours from `setup`, FAISS's as
vectors rotated by it before. Two see the stored vectors first: PQ, which is trained on them (unrotated), and FAISS's
RaBitQ, which codes x - c, c the mean, and scores it against y - c: <y, x> = <y - c, x - c> + <x, c> + <y, c> - <c, c>,
<x, c> being stored. "centred" is ours with the same identity, and the 4 bytes that it costs.
Bytes are those of a code as stored: ours with its float32 scale or norms, FAISS's ``sa_code_size``; ids are not
counted, nor is PQ's codebook. Needs faiss-cpu, which nothing else here does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

import turboquant_ref as tq
from turboquant_ref.search import Index
from turboquant_ref.vectors import norm_and_unit

RESULTS = Path(__file__).with_name("results") / "search_recall.json"
KS = (1, 10)
DRAWS = {"GloVe 50-d": 5, "clustered 1536": 2}
Rows = NDArray[np.float32]


def glove() -> tuple[Rows, Rows]:
    """The bundled sample: 7,000 stored, 1,000 queries."""
    unit = norm_and_unit(tq.data.glove()[1])[1]
    order = np.random.default_rng(0).permutation(len(unit))
    return unit[order[1000:]], unit[order[:1000]]


def clustered(d: int = 1536, n: int = 20_000, n_queries: int = 500, clusters: int = 200) -> tuple[Rows, Rows]:
    """Uniform centres on the sphere, and around each unit vectors at cosine about 0.8 to it."""
    rng = np.random.default_rng(1)
    centres = tq.sphere.uniform(clusters, d, 2)
    noise = rng.standard_normal((n + n_queries, d)) * (0.75 / np.sqrt(d))
    x = norm_and_unit(centres[rng.integers(clusters, size=n + n_queries)] + noise)[1].astype(np.float32)
    return x[:n], x[n:]


def ours(Q: Any) -> Callable[..., tuple[int, Any]]:
    def find(x: Rows, y: Rows, _: Any) -> tuple[int, Any]:
        index = Index(Q, norms=False)
        index.add(x)
        return Q.bytes_per_vector(), index.search(y, max(KS))[1]

    return find


def centred(Q: Any) -> Callable[..., tuple[int, Any]]:
    def find(x: Rows, y: Rows, _: Any) -> tuple[int, Any]:
        c = x.mean(0)
        scores = tq.mse.inner_product(Q, y - c, tq.mse.quantize(Q, x - c)) + x @ c  # what is left is of y alone
        return Q.bytes_per_vector() + 4, np.argsort(-scores, axis=1, kind="stable")[:, : max(KS)]

    return find


def theirs(name: str, rotated: bool = True) -> Callable[..., tuple[int, Any]]:
    def find(x: Rows, y: Rows, Pi: NDArray[np.float64]) -> tuple[int, Any]:
        x, y = ((a @ Pi.T).astype(np.float32) if rotated else a for a in (x, y))
        index = faiss.index_factory(x.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        if hasattr(index, "pq"):
            index.pq.cp.min_points_per_centroid = 1  # no warning for the small sample
        index.train(x)
        index.add(x)
        return index.sa_code_size(), index.search(y, max(KS))[1]

    return find


@lru_cache
def haar(d: int, seed: int) -> tq.rotation.Rotation:
    return tq.rotation.haar(d, seed)


def methods(d: int, bits: int, seed: int) -> dict[str, Callable[..., tuple[int, Any]]]:
    """At about b bits a coordinate; the quantizers are those of `setup`, which draws the same Pi for each."""
    Pi, book, less = haar(d, seed), tq.codebook.lloyd_max(d, bits), tq.codebook.lloyd_max(d, bits - 1)
    unbiased = tq.mse.Quantizer(Pi, book, "unbiased")
    table = {
        'mse, "norm"': ours(tq.mse.Quantizer(Pi, book)),
        'mse, "unbiased"': ours(unbiased),
        'mse, "unbiased", centred': centred(unbiased),
        "prod": ours(tq.prod.Quantizer(Pi, less, tq.qjl.setup(d, rng=seed).sketch)),
        "prod, orthogonal S": ours(tq.prod.Quantizer(Pi, less, tq.qjl.setup(d, rng=seed, sketch="orthogonal").sketch)),
        f"faiss SQtqmse{bits}": theirs(f"SQtqmse{bits}"),
        f"faiss EDEN{bits}": theirs(f"EDEN{bits}"),
        f"faiss RaBitQ{bits}": theirs("RaBitQ" if bits == 1 else f"RaBitQ{bits}"),
    }
    pq = {(50, 1): "PQ10x8", (50, 2): "PQ25x5", (50, 4): "PQ25x9"}.get((d, bits), f"PQ{d * bits // 8}x8")
    if seed == 0:
        table[f"faiss {pq} (trained)"] = theirs(pq + "np", rotated=False)  # "np": without its polysemous permutation
    return table


def measure(data: str, x: Rows, y: Rows) -> Iterator[dict[str, Any]]:
    truth = np.argmax(y.astype(np.float64) @ x.T.astype(np.float64), axis=1)
    d = x.shape[1]
    for bits in (1, 2, 4):
        hits: dict[str, list[list[float]]] = {}
        size: dict[str, int] = {}
        for seed in range(DRAWS[data]):
            Pi = haar(d, seed).matrix()
            for name, find in methods(d, bits, seed).items():
                size[name], ids = find(x, y, Pi)
                hits.setdefault(name, []).append([float((ids[:, :k] == truth[:, None]).any(1).mean()) for k in KS])
        for name, values in hits.items():
            recall = {f"recall@1@{k}": float(np.mean(v)) for k, v in zip(KS, zip(*values, strict=True), strict=True)}
            row = {"data": data, "d": d, "n": len(x), "queries": len(y), "bits": bits, "method": name}
            yield row | {"bytes": int(size[name]), "draws": len(values)} | recall


def main() -> None:
    faiss.omp_set_num_threads(1)
    rows = []
    print(f"{'data':<14} {'bits':>4} {'method':<26} {'bytes':>5} " + " ".join(f"{f'1@{k}':>6}" for k in KS))
    for data, (x, y) in {"GloVe 50-d": glove(), "clustered 1536": clustered()}.items():
        for row in measure(data, x, y):
            rows.append(row)
            recall = " ".join(f"{row[f'recall@1@{k}']:6.3f}" for k in KS)
            print(f"{data:<14} {row['bits']:>4} {row['method']:<26} {row['bytes']:>5} {recall}", flush=True)
    record = {"command": "python -m benchmarks.search_recall", "numpy": np.__version__, "faiss": faiss.__version__}
    RESULTS.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
