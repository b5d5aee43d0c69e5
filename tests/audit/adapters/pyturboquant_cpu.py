"""pyturboquant-cpu 0.1.0: `quantize_mse`, `dequantize_mse`, `quantize_prod`, `dequantize_prod`, NumPy.

Claims: "MSE-optimal" and "an *unbiased* inner-product estimator" (docstring of the package), Algorithms 1 and 2. 1
to 8 bits, from 2 on for prod. It has no inner product of its own; the decoded vector is multiplied with y.
"""

from __future__ import annotations

import numpy as np
from pyturboquant_cpu import dequantize_mse, dequantize_prod, quantize_mse, quantize_prod
from pyturboquant_cpu.codebook import get_codebook
from pyturboquant_cpu.rotation import generate_rotation_matrix, rotate

claims = {"roundtrip": "mse", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    return dequantize_mse(quantize_mse(x, bits, seed=seed))


def inner_product(x, y, bits, seed):
    if bits < 2:
        raise NotImplementedError("bits is 2 to 8 for prod")
    return (dequantize_prod(quantize_prod(x, bits, seed=seed)) * y).sum(axis=1)


def rotation(d, seed):
    return rotate(np.eye(d), generate_rotation_matrix(d, seed=seed)).T


def codebook(d, bits):
    return get_codebook(d, bits)[0]


def stored_bytes(d, bits):
    code = quantize_mse(np.ones((100, d)), bits, seed=0)
    return (code.packed_indices.nbytes + code.norms.nbytes) // 100
