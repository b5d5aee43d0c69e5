"""turboquant-vectors 0.3.0: `TurboQuantVectors(dim, bits, seed)`, NumPy.

Claims: "random orthogonal rotation + optimal scalar quantization", "Lloyd-Max optimal centroids" for 1 to 4 bits,
uniform ones beyond (core.py); no Algorithm 2. stored_bytes are the indices and norms that a `CompressedVectors`
holds.
"""

from __future__ import annotations

import numpy as np
from turboquant_vectors.core import TurboQuantVectors


def roundtrip(x, bits, seed):
    Q = TurboQuantVectors(x.shape[1], bits, seed=seed)
    return Q.decompress(Q.compress(x))


def rotation(d, seed):
    return TurboQuantVectors(d, 2, seed=seed).rotation


def codebook(d, bits):
    return TurboQuantVectors(d, bits).codebook


def stored_bytes(d, bits):
    code = TurboQuantVectors(d, bits).compress(np.ones((100, d)))
    return (code.indices.nbytes + code.norms.nbytes) // 100
