"""faiss-cpu 1.15.1: `ScalarQuantizer` of type QT_{1,2,3,4,8}bit_tqmse (index_factory "SQtqmse4"), C++.

Claims: "TurboQuant MSE-optimized" (docstring of the type in faiss/swigfaiss.py), Algorithm 1 without a norm: codes
are d b / 8 bytes, for vectors of norm 1, and the adapter keeps no norm either. The rotation is a transform of its
own, "RR128,SQtqmse4": RandomRotationMatrix, initialised with the seed.
"""

from __future__ import annotations

import faiss
import numpy as np

faiss.omp_set_num_threads(1)


def _parts(d, bits, seed):
    if bits not in (1, 2, 3, 4, 8):
        raise NotImplementedError("bits is 1, 2, 3, 4 or 8")
    rotation = faiss.RandomRotationMatrix(d, d)
    rotation.init(seed)
    return rotation, faiss.ScalarQuantizer(d, getattr(faiss.ScalarQuantizer, f"QT_{bits}bit_tqmse"))


def roundtrip(x, bits, seed):
    rotation, Q = _parts(x.shape[1], bits, seed)
    x = np.ascontiguousarray(x, dtype=np.float32)
    Q.train(x)
    return rotation.reverse_transform(Q.decode(Q.compute_codes(rotation.apply(x)))) if len(x) else x


def rotation(d, seed):
    return _parts(d, 4, seed)[0].apply(np.eye(d, dtype=np.float32)).T


def stored_bytes(d, bits):
    return _parts(d, bits, 0)[1].code_size
