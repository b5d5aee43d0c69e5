"""bitpolar 0.3.3: `TurboQuantizer(dim, bits, projections, seed)`, Rust; one vector a call.

Claims: "Compress embeddings to 3-8 bits with provably unbiased inner products", "E[estimate] = exact at 3+ bits",
"distortion within ~2.7x of the Shannon rate-distortion limit" (README). `decode` is compared with Algorithm 1,
`inner_product` with Algorithm 2. projections = dim/4, its default.
"""

from __future__ import annotations

import numpy as np
from bitpolar import TurboQuantizer

claims = {"roundtrip": "mse", "inner_product": "prod"}


def _quantizer(d, bits, seed):
    if bits < 3:
        raise NotImplementedError("bits is 3 to 8")
    return TurboQuantizer(d, bits, seed=seed)


def _rows(x):
    return np.ascontiguousarray(x, dtype=np.float32 if x.dtype == np.float64 else None)


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    return np.array([Q.decode(Q.encode(row)) for row in _rows(x)]).reshape(x.shape)


def inner_product(x, y, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed)
    pairs = zip(_rows(x), _rows(y), strict=True)
    return np.array([Q.inner_product(Q.encode(a), b) for a, b in pairs], dtype=np.float64)


def stored_bytes(d, bits):
    return TurboQuantizer(d, bits).code_size_bytes
