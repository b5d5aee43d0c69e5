"""turbokv 0.1.0: `TurboQuantizer(dim, bits, device, seed)`, torch.

Claims: "Implements Algorithm 1 (TurboQuant_mse) from the paper" (docstring of turboquant/quantizer.py), 2 or 4
bits, no Algorithm 2. Norms are kept, and vectors returned, in the dtype of the input: float32 here.
"""

from __future__ import annotations

from turboquant.quantizer import TurboQuantizer

from ..tensors import tensor, total_bytes


def _quantizer(d, bits, seed):
    if bits not in (2, 4):
        raise NotImplementedError("bits is 2 or 4")
    return TurboQuantizer(d, bits, device="cpu", seed=seed)


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    return Q.dequantize(*Q.quantize(tensor(x))).numpy()


def rotation(d, seed):
    return _quantizer(d, 4, seed).rotation.numpy()


def codebook(d, bits):
    return _quantizer(d, bits, 0).centroids.numpy()


def stored_bytes(d, bits):
    import torch

    return total_bytes(*_quantizer(d, bits, 0).quantize(torch.ones(100, d))) // 100
