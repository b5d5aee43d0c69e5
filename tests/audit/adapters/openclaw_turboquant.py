"""openclaw-turboquant 0.1.0: `TurboQuantMSE` and `TurboQuantProd(d, bit_width, seed=)`, NumPy; one vector a call.

Claims: "MSE-optimal vector quantizer. Algorithm 1 from the paper", 1 to 8 bits; "Inner-product optimal vector
quantizer (unbiased). Algorithm 2 from the paper", from 2 bits on (docstrings of quantizer.py). The release asks
for Python 3.12; its code runs on 3.11. Codebooks are solved anew in each constructor; the adapter keeps one solved
codebook a (d, bits).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from openclaw_turboquant import quantizer
from openclaw_turboquant.codebook import LloydMaxCodebook
from openclaw_turboquant.quantizer import TurboQuantMSE, TurboQuantProd

quantizer.LloydMaxCodebook = cache(LloydMaxCodebook)

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = TurboQuantMSE(x.shape[1], bits, seed=seed)
    return Q.dequantize_batch(Q.quantize_batch(x)).reshape(x.shape)


def inner_product(x, y, bits, seed):
    if bits < 2:
        raise NotImplementedError("bit_width must be >= 2 for TurboQuantProd")
    Q = TurboQuantProd(x.shape[1], bits, seed=seed)
    return np.array([Q.estimate_inner_product(b, Q.quantize(a)) for a, b in zip(x, y, strict=True)], dtype=np.float64)


def rotation(d, seed):
    return TurboQuantMSE(d, 2, seed=seed).rotation


def codebook(d, bits):
    return TurboQuantMSE(d, bits, seed=0).codebook.centroids


def stored_bytes(d, bits):
    return TurboQuantMSE(d, bits, seed=0).quantize(np.ones(d)).indices.nbytes + 8
