"""faiss-cpu 1.15.1: `IndexEDEN`, index_factory "RR{d},EDEN{bits}", C++.

Claims: "EDEN Lloyd-Max scalar code" (docstring of QT_*_eden in faiss/swigfaiss.py), with the scale
EDENScaleType_UNBIASED, its default: the variant mse-unbiased. 1 to 8 bits and two float32 a vector. Trained on
±e_1 … ±e_d, so that its centre is 0 and does not depend on the data; the random rotation is initialised with the
seed. `inner_product` is `search`, of which each query's own score is taken.
"""

from __future__ import annotations

import faiss
import numpy as np

from ..search import own_scores

claims = "mse-unbiased"
faiss.omp_set_num_threads(1)


def _index(d, bits, seed):
    index = faiss.index_factory(d, f"RR{d},EDEN{bits}", faiss.METRIC_INNER_PRODUCT)
    index.train(np.concatenate([np.eye(d), -np.eye(d)]).astype(np.float32))
    faiss.downcast_VectorTransform(index.chain.at(0)).init(seed)
    return index


def roundtrip(x, bits, seed):
    index = _index(x.shape[1], bits, seed)
    return index.sa_decode(index.sa_encode(np.ascontiguousarray(x, dtype=np.float32)))


def search(x, y, k, bits, seed):
    index = _index(x.shape[1], bits, seed)
    index.add(np.ascontiguousarray(x, dtype=np.float32))
    return index.search(np.ascontiguousarray(y, dtype=np.float32), k)


def inner_product(x, y, bits, seed):
    return own_scores(*search(x, y, max(len(x), 1), bits, seed))


def stored_bytes(d, bits):
    return _index(d, bits, 0).sa_code_size()
