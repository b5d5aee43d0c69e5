"""tqai 0.6.1: `PolarQuantizer(head_dim, bits, seed, use_qjl, qjl_sketch_size)`, its torch backend.

Claims: "data-oblivious vector quantizer using random rotation + Lloyd-Max codebooks"; with use_qjl a "sketch of
the quantization residual", "reducing systematic inner-product bias" (docstrings of quantizer.py). Its `bits` leave
the sketch out: `inner_product` takes bits - 1 and a sketch of d signs (default 64), the setting that is Algorithm
2 at b bits.
"""

from __future__ import annotations

import numpy as np
from tqai.backend import get_backend
from tqai.codebook import load_codebook
from tqai.quantizer import PolarQuantizer

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = PolarQuantizer(x.shape[1], bits, seed=seed, ops=get_backend("torch"))
    return Q.dequantize(*Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    if bits < 2:
        raise NotImplementedError("one bit and a sketch of d signs are 2 bits")
    d = x.shape[1]
    Q = PolarQuantizer(d, bits - 1, seed=seed, ops=get_backend("torch"), use_qjl=True, qjl_sketch_size=d)
    return (Q.dequantize(*Q.quantize(tensor(x))).numpy() * y).sum(axis=1)


def rotation(d, seed):
    return PolarQuantizer(d, 2, seed=seed, ops=get_backend("torch"))._rotation.numpy()


def codebook(d, bits):
    return np.asarray(load_codebook(d, bits)[0])


def stored_bytes(d, bits):
    import torch

    return total_bytes(*PolarQuantizer(d, bits, ops=get_backend("torch")).quantize(torch.ones(100, d))) // 100
