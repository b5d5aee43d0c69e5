"""aither-kvcache 2.4.1: `turboquant.TurboQuant(head_dim, bits, seed, device, dtype)`, torch.

Claims: "Algorithm (MSE-optimal)", "within 2.7x of the information-theoretic lower bound" (docstring of
turboquant/quantizer.py); 2, 3 or 4 bits, head_dim a power of 2; no Algorithm 2. dtype float32 is asked for; it
decodes to float16 by default.
"""

from __future__ import annotations

import torch
from turboquant import TurboQuant

from ..tensors import tensor, total_bytes


def _quantizer(d, bits, seed):
    if bits not in (2, 3, 4):
        raise NotImplementedError("bits is 2, 3 or 4")
    return TurboQuant(head_dim=d, bits=bits, seed=seed, device="cpu", dtype=torch.float32)


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    return Q.decode(*Q.encode(tensor(x))).numpy()


def rotation(d, seed):
    return _quantizer(d, 4, seed).rotation.numpy()


def codebook(d, bits):
    return _quantizer(d, bits, 0).centroids.numpy()


def stored_bytes(d, bits):
    return total_bytes(*_quantizer(d, bits, 0).encode(torch.ones(100, d))) // 100
