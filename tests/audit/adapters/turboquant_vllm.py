"""turboquant-vllm 1.5.0: `TurboQuantMSE` and `TurboQuantProd(dim, bits, seed=)`, torch.

The quantizers, not the vLLM cache. Claims: `TurboQuantMSE`, "near-optimal MSE distortion rate"; `TurboQuantProd`,
"unbiased inner products", from 2 bits on, with the formula of Algorithm 2 (docstrings of quantizer.py). The
release asks for Python 3.12 and vLLM; quantizer.py needs neither.
"""

from __future__ import annotations

import torch
from turboquant_vllm.quantizer import TurboQuantMSE, TurboQuantProd

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = TurboQuantMSE(x.shape[1], bits, seed=seed)
    return Q.dequantize(*Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    if bits < 2:
        raise NotImplementedError("TurboQuantProd requires bits >= 2")
    Q = TurboQuantProd(x.shape[1], bits, seed=seed)
    return Q.estimate_inner_product(tensor(y), *Q.quantize(tensor(x)))[:, 0].numpy()


def rotation(d, seed):
    return TurboQuantMSE(d, 2, seed=seed).rotation.numpy()


def codebook(d, bits):
    return TurboQuantMSE(d, bits).codebook.centroids.numpy()


def stored_bytes(d, bits):
    return total_bytes(*TurboQuantMSE(d, bits).quantize(torch.ones(100, d))) // 100
