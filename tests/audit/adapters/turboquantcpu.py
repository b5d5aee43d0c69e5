"""turboquantcpu 0.1.0: `TurboQuantizer(head_dim, num_kv_heads, layer_idx, mode, bits)`, NumPy and C.

Claims: mode "mse", "MSE distortion: within 2.7x of Shannon lower bound (provably)"; mode "prod", "E[score] = <q,
k> exactly (provably unbiased)" (docstring of turbo.py), with a Hadamard sketch. It takes no seed: layer_idx makes
the rotations, and is the seed here. It does not decode: `roundtrip` is `scores` of the d unit vectors, which is
linear in the query.
"""

from __future__ import annotations

import numpy as np
from turboquantcpu.turbo import TurboQuantizer

claims = {"roundtrip": "mse", "inner_product": "prod-orthogonal"}


def _quantizer(d, bits, seed, mode):
    if mode == "prod" and bits < 2:
        raise NotImplementedError("prod has at least one bit beside the sign")
    return TurboQuantizer(d, 1, layer_idx=seed, mode=mode, bits=bits, n_threads=1)


def roundtrip(x, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed, "mse")
    return Q.scores(np.eye(x.shape[1])[:, None], Q.compress(x[:, None]))[:, 0].T


def inner_product(x, y, bits, seed):
    Q = _quantizer(x.shape[1], bits, seed, "prod")
    return Q.scores(y[:, None], Q.compress(x[:, None]))[:, 0].diagonal()


def stored_bytes(d, bits):
    return _quantizer(d, bits, 0, "mse").compress(np.ones((100, 1, d))).memory_bytes() // 100
