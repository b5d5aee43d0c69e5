"""Other people's indices, each as (bytes a vector, search(queries, k) -> ids); none where the package is not installed.

FAISS's PQ with 4-bit sub-codes is the fast-scan form: d/2 of them are 2 bits a dimension, d of them 4. Its scalar
quantizer QT_4bit_tqmse is TurboQuant_mse without the rotation, so one goes before it. rabitqlib has no flat index: one
cluster, and it is searched. turbovec's search is staged (it scans one bit plane and scores a shortlist again), lossy
for large n; it is asked for k results, and under a name of its own for more, of which the first k are kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
Index = tuple[float, Callable[[Rows, int], NDArray[Any]]]

TRAINING = 20_000


def installed(*names: str) -> list[str]:
    """Those of these packages that can be imported; a line for each that cannot."""
    found = []
    for name in names:
        try:
            importlib.import_module(name)
            found.append(name)
        except ImportError as error:
            print(f"without {name}: {error}")
    return found


def faiss_fastscan(x: Rows, bits: int) -> Index:
    import faiss

    d = x.shape[1]
    index = faiss.IndexPQFastScan(d, d * bits // 4, 4, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.niter, index.pq.cp.min_points_per_centroid = 10, 1
    index.train(x[:TRAINING])
    index.add(x)
    return index.code_size, lambda y, k: index.search(y, k)[1]


def faiss_tqmse(x: Rows, bits: int) -> Index:
    import faiss

    d = x.shape[1]
    quantizer = getattr(faiss.ScalarQuantizer, f"QT_{bits}bit_tqmse")
    index = faiss.IndexScalarQuantizer(d, quantizer, faiss.METRIC_INNER_PRODUCT)
    rotated = faiss.IndexPreTransform(faiss.RandomRotationMatrix(d, d), index)
    rotated.train(x[:TRAINING])
    rotated.add(x)
    return index.sa_code_size(), lambda y, k: rotated.search(y, k)[1]


def turbovec(x: Rows, bits: int, more: int = 1) -> Index:
    import turbovec

    index = turbovec.TurboQuantIndex(x.shape[1], bits)
    index.add(x)
    index.prepare()
    return x.shape[1] * bits / 8 + 4, lambda y, k: index.search(y, k * more)[1][:, :k]


def rabitqlib(x: Rows, bits: int) -> Index:
    import rabitqlib

    n, d = x.shape
    index = rabitqlib.IvfIndex(d, n, 1, bits, metric="ip")
    index.build(x, np.zeros((1, d), np.float32), np.zeros(n, np.uint32), num_threads=1, fast_quantization=True)
    return float("nan"), lambda y, k: index.search(y, k, 1, num_threads=1)[0]


def numpy_matmul(x: Rows, bits: int) -> Index:
    def search(y: Rows, k: int) -> NDArray[Any]:
        scores = y @ x.T
        some = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1)
        return np.take_along_axis(some, order, axis=1)

    return 4 * x.shape[1], search
