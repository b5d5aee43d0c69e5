"""cuda_kernels as a subject of the conformance kit: the functions of CHECK.md that it computes itself.

``turboquant-ref check tests/_cuda_subject.py`` on a machine with a GPU; in numba's simulator one case at a time.
"""

from __future__ import annotations

import numpy as np

from cuda_kernels import codebook as codebooks
from cuda_kernels import mse as mse_module
from cuda_kernels import packing
from cuda_kernels import prod as prod_module
from cuda_kernels import qjl as qjl_module
from cuda_kernels import rotation as rotations


def roundtrip(x, bits, seed):
    Q = mse_module.setup(np.shape(x)[-1], bits, seed)
    return mse_module.dequantize(Q, mse_module.quantize(Q, x))


def inner_product(x, y, bits, seed):
    Q = prod_module.setup(np.shape(x)[-1], bits, seed)
    decoded = prod_module.dequantize(Q, prod_module.quantize(Q, x))
    return (decoded * np.asarray(y)).sum(-1)


def stored_bytes(d, bits):
    return mse_module.setup(d, bits, 0).bytes_per_vector()


def pack(indices, bits):
    return packing.pack_bits(indices, bits)


def unpack(data, bits, d):
    return packing.unpack_bits(data, bits, d)


def fwht(x):
    return rotations.fwht(x)


def index(t, d, bits):
    return codebooks.nearest(codebooks.lloyd_max(d, bits), t)


def _sketch(sketch, kind):
    matrix = np.asarray(sketch, dtype=np.float64)
    return qjl_module.Sketch(matrix.shape[1], matrix.shape[0], kind, matrix, (), "given")


def mse(x, bits, rotation, scale):
    pi = rotations.Dense(rotation)
    return mse_module.trace(mse_module.Quantizer(pi, codebooks.lloyd_max(pi.d, bits), scale), x)


def qjl(x, sketch, kind):
    return qjl_module.trace(qjl_module.Quantizer(_sketch(sketch, kind)), x)


def prod(x, bits, rotation, sketch, kind, residual):
    pi = rotations.Dense(rotation)
    book = codebooks.lloyd_max(pi.d, bits - 1)
    return prod_module.trace(prod_module.Quantizer(pi, book, _sketch(sketch, kind), residual), x)
