"""turboquantdc 0.2.0: `PolarQuant(d, bits, seed)` and `TurboQuantEstimator(d, bits, seed)`, torch.

Claims: `PolarQuant` is "Algorithm 1 (TurboQuant_mse)" of unit vectors, "the caller is responsible for normalizing
and storing the norm" (polarquant.py); `TurboQuantEstimator` is "Algorithm 2", "UNBIASED inner product estimates"
(estimator.py), and stores norms. So `roundtrip` is the estimator's `dequantize_mse`, at bits + 1 in total, which
has `bits` bits in its first stage. `inner_product` gives all pairs; the diagonal is taken. At bits = 1 it has 2
bits.
"""

from __future__ import annotations

import torch
from turboquantdc import PolarQuant, TurboQuantEstimator

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = TurboQuantEstimator(x.shape[1], bits + 1, seed=seed)
    return Q.dequantize_mse(Q.quantize(tensor(x))).numpy()


def inner_product(x, y, bits, seed):
    Q = TurboQuantEstimator(x.shape[1], bits, seed=seed)
    return Q.inner_product(tensor(y), Q.quantize(tensor(x))).diagonal().numpy()


def rotation(d, seed):
    return PolarQuant(d, 2, seed=seed).Pi.numpy()


def codebook(d, bits):
    return PolarQuant(d, bits).centroids.numpy()


def stored_bytes(d, bits):
    code = TurboQuantEstimator(d, bits + 1).quantize(torch.ones(100, d))
    return total_bytes(code["mse_indices"], code["vec_norm"]) // 100
