"""fastvq 0.1.2: `TurboQuant(TurboQuantConfig(bit_width, block_size, use_qjl, rotation_seed))`, NumPy.

Claims: "Implements the full TurboQuant algorithm", "3-bit compression with zero accuracy loss and near-optimal
distortion" (docstring of turboquant/turboquant.py). use_qjl=False, so that all bits are in the first stage; 2 to 4
bits, d = 32, 64 or 128. The bits are of the angle of each pair of coordinates; its radius is kept as float32
beside them.
"""

from __future__ import annotations

import numpy as np
from turboquant.turboquant import TurboQuant, TurboQuantConfig


def _quantizer(d, bits, seed):
    if bits not in (2, 3, 4):
        raise NotImplementedError("bit_width is 2, 3 or 4")
    return TurboQuant(TurboQuantConfig(bit_width=bits, block_size=d, use_qjl=False, rotation_seed=seed))


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    return Q.dequantize(Q.quantize(x))


def rotation(d, seed):
    return _quantizer(d, 3, seed).polar.rotation_matrix


def stored_bytes(d, bits):
    code = _quantizer(d, bits, 0).quantize(np.ones((100, d)))
    return sum(code[name].nbytes for name in ("norms", "polar_indices", "polar_radii")) // 100
