"""pyturboquant 0.1.1: `MSEQuantizer` and `InnerProductQuantizer(dim, bits, seed)`, torch.

Claims: "Algorithm 1 (MSE TurboQuant)", 1 to 8 bits; "Algorithm 2 (Inner Product TurboQuant)", which "enables
unbiased inner product estimation", from 2 bits on (docstrings of core/mse_quantizer.py and
core/prod_quantizer.py). The release asks for Python 3.12; its code runs on 3.11.
"""

from __future__ import annotations

from pyturboquant.core import InnerProductQuantizer, MSEQuantizer

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = MSEQuantizer(x.shape[1], bits, seed=seed)
    return Q.dequantize(Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    if bits < 2:
        raise NotImplementedError("bits is at least 2 for inner products")
    Q = InnerProductQuantizer(x.shape[1], bits, seed=seed)
    return Q.estimate_inner_product(Q.quantize(tensor(x)), tensor(y)).numpy()


def codebook(d, bits):
    return MSEQuantizer(d, bits).codebook.centroids.numpy()


def stored_bytes(d, bits):
    import torch

    code = MSEQuantizer(d, bits).quantize(torch.ones(100, d))
    return total_bytes(code.packed_indices, code.norms) // 100
