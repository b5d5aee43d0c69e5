"""turboquant-pro 1.9.1: `TurboQuantKV(head_dim, n_heads, bits, use_gpu, seed)`, NumPy.

Claims: "Optimal Lloyd-Max scalar quantizer maps each rotated coordinate to a b-bit index using precomputed
centroids for N(0, 1/sqrt(d))" (docstring of core.py); 2, 3 or 4 bits; no Algorithm 2. Tensors are (batch, heads,
tokens, head_dim): rows are tokens of one head. Indices are packed.
"""

from __future__ import annotations

import numpy as np
from turboquant_pro.core import TurboQuantKV


def _quantizer(d, bits, seed):
    if bits not in (2, 3, 4):
        raise NotImplementedError("bits is 2, 3 or 4")
    return TurboQuantKV(head_dim=d, n_heads=1, bits=bits, use_gpu=False, seed=seed)


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    return np.asarray(Q.decompress(Q.compress(x[None, None], packed=True)))[0, 0]


def stored_bytes(d, bits):
    return _quantizer(d, bits, 0).compress(np.ones((1, 1, 100, d), np.float32), packed=True).nbytes() // 100
