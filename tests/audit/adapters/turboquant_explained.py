"""turboquant-explained 0.1.1: `TurboQuantMSE(d, b, seed)` and `TurboQuantProd(d, b, seed_mse, seed_qjl)`, torch.

Claims: "Algorithm 1 (MSE-optimal)" and "Algorithm 2 (inner-product optimal)" (docstring of
turboquant/quantizer.py), of vectors of norm 1: they keep no norm, and the adapter adds none. seed_qjl = seed + 1.
Matrices are cached as files inside the installed package, one a (d, seed).
"""

from __future__ import annotations

import torch
from turboquant.quantizer import TurboQuantMSE, TurboQuantProd

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = TurboQuantMSE(x.shape[1], bits, seed=seed, device="cpu")
    return Q.dequantize(Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    if bits < 2:
        raise NotImplementedError("b - 1 bits must be at least 1")
    Q = TurboQuantProd(x.shape[1], bits, seed_mse=seed, seed_qjl=seed + 1, device="cpu")
    return (Q.dequantize(*Q.quantize(tensor(x))).numpy() * y).sum(axis=1)


def rotation(d, seed):
    return TurboQuantMSE(d, 1, seed=seed, device="cpu").Pi.numpy()


def codebook(d, bits):
    return TurboQuantMSE(d, bits, seed=0, device="cpu").codebook.numpy()


def stored_bytes(d, bits):
    return total_bytes(TurboQuantMSE(d, bits, seed=0, device="cpu").quantize(torch.ones(100, d))) // 100
