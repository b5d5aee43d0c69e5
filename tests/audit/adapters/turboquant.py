"""turboquant 0.2.0: `TurboQuantMSE` and `TurboQuantIP(dim, bits, device, seed)`, torch.

Claims: "Algorithm 1", "optimal codebook from Beta distribution", 1 to 4 bits; "Algorithm 2", "QJL ... on residual
for unbiased inner products" (docstrings of core.py). `TurboQuantIP` decodes; the decoded vector is multiplied with
y. The module calls np.trapz, which NumPy 2.4 has not: as released it raises AttributeError from 2 bits on, and
this adapter does not mend it.
"""

from __future__ import annotations

from turboquant import TurboQuantIP, TurboQuantMSE

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = TurboQuantMSE(x.shape[1], bits, device="cpu", seed=seed)
    return Q.dequantize(*Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    Q = TurboQuantIP(x.shape[1], bits, device="cpu", seed=seed)
    return (Q.dequantize(*Q.quantize(tensor(x))).numpy() * y).sum(axis=1)


def rotation(d, seed):
    return TurboQuantMSE(d, 1, device="cpu", seed=seed).rotation.numpy()


def codebook(d, bits):
    return TurboQuantMSE(d, bits, device="cpu").codebook.numpy()


def stored_bytes(d, bits):
    import torch

    return total_bytes(*TurboQuantMSE(d, bits, device="cpu").quantize(torch.ones(100, d))) // 100
