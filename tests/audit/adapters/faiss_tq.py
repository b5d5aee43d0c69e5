"""faiss-cpu 1.15.1: `ScalarQuantizer` of type QT_{2,3,4,5}bit_tq (index_factory "SQtq4"), C++.

Claims: "Full TurboQuant (2-bit MSE + 1-bit QJL + factors)" of the type of 3 bits (docstrings in
faiss/swigfaiss.py); its sketch is a Hadamard one: Algorithm 2 with orthogonal S. `roundtrip` decodes;
`inner_product` is `search` of an IndexPreTransform, of which each query's own score is taken. The rotation is a
transform of its own, "RR128,SQtq4": RandomRotationMatrix, initialised with the seed.
"""

from __future__ import annotations

import faiss
import numpy as np

from ..search import own_scores

claims = "prod-orthogonal"
faiss.omp_set_num_threads(1)


def _index(d, bits, seed):
    if bits not in (2, 3, 4, 5):
        raise NotImplementedError("bits is 2 to 5")
    rotation = faiss.RandomRotationMatrix(d, d)
    rotation.init(seed)
    kind = getattr(faiss.ScalarQuantizer, f"QT_{bits}bit_tq")
    index = faiss.IndexPreTransform(rotation, faiss.IndexScalarQuantizer(d, kind, faiss.METRIC_INNER_PRODUCT))
    index.train(np.eye(d, dtype=np.float32))
    return index


def roundtrip(x, bits, seed):
    index = _index(x.shape[1], bits, seed)
    return index.sa_decode(index.sa_encode(np.ascontiguousarray(x, dtype=np.float32)))


def inner_product(x, y, bits, seed):
    index = _index(x.shape[1], bits, seed)
    index.add(np.ascontiguousarray(x, dtype=np.float32))
    scores, rows = index.search(np.ascontiguousarray(y, dtype=np.float32), max(len(x), 1))
    return own_scores(scores, rows)


def stored_bytes(d, bits):
    return _index(d, bits, 0).sa_code_size()
