"""turboquant-kv 1.0.0: `TurboQuantProd(bits, head_dim, seed)`, torch.

Claims: "Reference implementation of TurboQuant (Algorithm 2 in the paper)" (docstring of TurboQuantProd), bits in
total. It has no Algorithm 1 alone: `roundtrip` is the decoded vector of Algorithm 2, and so claimed;
`inner_product` multiplies it with y, as attention over the decompressed cache does.
"""

from __future__ import annotations

from turboquant import TurboQuantProd

from ..tensors import tensor, total_bytes

claims = {"roundtrip": "prod", "inner_product": "prod"}


def roundtrip(x, bits, seed):
    Q = TurboQuantProd(bits=bits, head_dim=x.shape[1], device="cpu", seed=seed)
    _, *code = Q.quantize(tensor(x))
    return Q.dequantize(*code).numpy()


def inner_product(x, y, bits, seed):
    return (roundtrip(x, bits, seed) * y).sum(axis=1)


def rotation(d, seed):
    return TurboQuantProd(bits=3, head_dim=d, device="cpu", seed=seed).Pi.numpy()


def codebook(d, bits):
    return TurboQuantProd(bits=bits + 1, head_dim=d, device="cpu", seed=0)._centroids.numpy()


def stored_bytes(d, bits):
    import torch

    code = TurboQuantProd(bits=bits, head_dim=d, device="cpu", seed=0).quantize(torch.ones(100, d))
    return total_bytes(*code[1:]) // 100
