"""turbo-quant-lite 0.1.1: `TurboQuant(dim, bits, seed)`, NumPy.

Claims: "Implements the core algorithm" of the paper, with "codebook values from Lloyd-Max optimal solution for the
Beta distribution on the unit hypersphere at d=512" (docstring of core.py); 1 to 4 bits, any dim; no Algorithm 2.
"""

from __future__ import annotations

from turbo_quant_lite.core import TurboQuant, pack


def _quantizer(d, bits, seed):
    if bits > 4:
        raise NotImplementedError("bits is 1 to 4")
    return TurboQuant(d, bits, seed=seed)


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    return Q.decode_batch(*Q.encode_batch(x))


def rotation(d, seed):
    return _quantizer(d, 4, seed).rotation


def codebook(d, bits):
    return _quantizer(d, bits, 0).centroids


def stored_bytes(d, bits):
    Q = _quantizer(d, bits, 0)
    return len(pack(*Q.encode([1.0] * d), bits))
