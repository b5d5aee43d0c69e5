"""turboquant-py 0.1.0: `TurboQuant(dim, bit_width, mode, seed)`, NumPy.

Claims: mode "mse" is Algorithm 1; mode "inner_product", "(b-1) bits plus QJL on the residual to produce an
unbiased inner-product estimator" (docstring of turboquant/turboquant.py). bit_width 1 to 4, from 2 on for inner
products. `inner_product` takes one query for all codes, so each row is quantized and scored alone.
"""

from __future__ import annotations

import numpy as np
from turboquant import TurboQuant, get_codebook

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    if bits > 4:
        raise NotImplementedError("bit_width is 1 to 4")
    Q = TurboQuant(x.shape[1], bits, mode="mse", seed=seed)
    return Q.dequantize(Q.quantize(x))


def inner_product(x, y, bits, seed):
    if not 2 <= bits <= 4:
        raise NotImplementedError("bit_width is 2 to 4 for inner products")
    Q = TurboQuant(x.shape[1], bits, seed=seed)
    return np.array([Q.inner_product(b, Q.quantize(a[None]))[0] for a, b in zip(x, y, strict=True)], dtype=np.float64)


def rotation(d, seed):
    return TurboQuant(d, 2, mode="mse", seed=seed)._rotation.T


def codebook(d, bits):
    if bits > 4:
        raise NotImplementedError("bit_width is 1 to 4")
    return get_codebook(d, bits)[0]


def stored_bytes(d, bits):
    """In memory; on disk, after `save`, the indices are packed."""
    code = TurboQuant(d, bits, mode="mse", seed=0).quantize(np.ones((100, d)))
    return (code.indices.nbytes + code.norms.nbytes) // 100
