"""turboquant-torch 0.4.0: `TurboQuant(dim, bit_width, unbiased, seed)`, torch.

Claims: "MSE-optimal quantizer: randomized Hadamard rotation + Lloyd-Max" with Theorem 1's bound (docstring of
mse_quantizer.py), 1 to 4 bits; `unbiased=True`, "an unbiased inner product estimator", from 2 bits on (core.py).
`compute_inner_product` gives all pairs; the diagonal is taken.
"""

from __future__ import annotations

import torch
from turboquant.core import TurboQuant
from turboquant.mse_quantizer import TurboQuantMSE

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    if bits > 4:
        raise NotImplementedError("bit_width is 1 to 4")
    Q = TurboQuantMSE(x.shape[1], bit_width=bits, seed=seed)
    return Q.dequantize(Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    if not 2 <= bits <= 4:
        raise NotImplementedError("bit_width is 2 to 4 in unbiased mode")
    Q = TurboQuant(x.shape[1], bit_width=bits, unbiased=True, seed=seed)
    return Q.compute_inner_product(tensor(y), Q.quantize(tensor(x))).diagonal().numpy()


def rotation(d, seed):
    return TurboQuantMSE(d, seed=seed).rht.forward(torch.eye(d)).T.numpy()


def codebook(d, bits):
    if d & (d - 1):
        raise NotImplementedError("it pads to a power of 2, and takes the codebook of that dimension")
    return TurboQuantMSE(d, bit_width=bits).codebook.centroids.numpy()


def stored_bytes(d, bits):
    code = TurboQuantMSE(d, bit_width=bits).quantize(torch.ones(100, d))
    return total_bytes(code.codes, code.norms) // 100
