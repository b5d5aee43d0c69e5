"""cuda_kernels as a subject of the conformance kit: ``turboquant-ref check cuda_kernels.conformance``, on a GPU.

The functions of CHECK.md, each by the kernels that its name says. What this package does not compute on the device, the
codebook, the seeded generator and Haar's QR, are the reference's; of the siblings, `polar` and `rabitq`, it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.codebook import lloyd_max
from turboquant_ref.generator import signs

from . import attention as attention_module
from . import codebook as codebooks
from . import layout, packing
from . import mse as mse_module
from . import prod as prod_module
from . import qjl as qjl_module
from . import rotation as rotations
from . import search as search_module
from .packing import pack_bits as pack
from .rotation import fwht

__all__ = [
    "attend",
    "attention",
    "codebook",
    "fwht",
    "index",
    "inner_product",
    "mse",
    "pack",
    "prod",
    "qjl",
    "rotation",
    "roundtrip",
    "search",
    "signs",
    "stored_bytes",
    "unpack",
]

Reals = NDArray[np.floating[Any]]
Stages = dict[str, NDArray[Any]]


def roundtrip(x: ArrayLike, bits: int, seed: int) -> Reals:
    """Algorithm 1: (n, d) to (n, d)."""
    Q = mse_module.setup(np.shape(x)[-1], bits, seed)
    return np.asarray(mse_module.dequantize(Q, mse_module.quantize(Q, x)))


def inner_product(x: ArrayLike, y: ArrayLike, bits: int, seed: int) -> Reals:
    """Algorithm 2: estimates of <x_i, y_i>, (n,)."""
    Q = prod_module.setup(np.shape(x)[-1], bits, seed)
    decoded = prod_module.dequantize(Q, prod_module.quantize(Q, x))
    return np.asarray((decoded * np.asarray(y)).sum(-1))


def search(x: ArrayLike, y: ArrayLike, k: int, bits: int, seed: int) -> tuple[Reals, NDArray[np.int64]]:
    """The k codes of x (n, d) with the best scores for each row of y: scores and ids, (m, k)."""
    Q = mse_module.setup(np.shape(x)[-1], bits, seed)
    return search_module.topk(Q, mse_module.encode(Q, x), y, k)


def attend(q: ArrayLike, k: ArrayLike, v: ArrayLike, bits: int, seed: int) -> Reals:
    """Attention of the rows of q over coded keys and values, one head, not causal, logits <q, k>/√d: (m, d)."""
    Q = mse_module.setup(np.shape(q)[-1], bits, seed)
    keys, values = (mse_module.encode(Q, np.asarray(x)[None]) for x in (k, v))
    return np.asarray(attention_module.attend(Q, Q, np.asarray(q)[None], keys, values)[0])


def rotation(d: int, seed: int) -> NDArray[np.float64]:
    """Pi as a matrix."""
    return np.asarray(rotations.apply(rotations.haar(d, seed), np.eye(d))).T


def codebook(d: int, bits: int) -> NDArray[np.float64]:
    """The centroids."""
    return lloyd_max(d, bits).centroids


def stored_bytes(d: int, bits: int) -> int:
    """Bytes of a vector of `roundtrip`."""
    return int(mse_module.setup(d, bits, 0).bytes_per_vector())


def unpack(data: ArrayLike, bits: int, d: int) -> NDArray[np.uint8]:
    """Bytes to (n, d) indices."""
    return np.asarray(packing.unpack_bits(data, bits, d))


def index(t: Reals, d: int, bits: int) -> NDArray[np.uint8]:
    """Indices of coordinates of a unit vector in R^d."""
    return np.asarray(codebooks.nearest(lloyd_max(d, bits), t))


def _sketch(sketch: ArrayLike, kind: str) -> Any:
    matrix = np.asarray(sketch, dtype=np.float64)
    return qjl_module.Sketch(matrix.shape[1], matrix.shape[0], kind, matrix, (), "given")


def mse(x: ArrayLike, bits: int, rotation: ArrayLike, scale: str) -> Stages:
    """Every stage of Algorithm 1."""
    Pi = rotations.Dense(np.asarray(rotation))
    return mse_module.trace(mse_module.Quantizer(Pi, lloyd_max(Pi.d, bits), scale), x)


def qjl(x: ArrayLike, sketch: ArrayLike, kind: str) -> Stages:
    """Every stage of QJL."""
    return qjl_module.trace(qjl_module.Quantizer(_sketch(sketch, kind)), x)


def prod(x: ArrayLike, bits: int, rotation: ArrayLike, sketch: ArrayLike, kind: str, residual: str) -> Stages:
    """Every stage of Algorithm 2."""
    Pi = rotations.Dense(np.asarray(rotation))
    return prod_module.trace(prod_module.Quantizer(Pi, lloyd_max(Pi.d, bits - 1), _sketch(sketch, kind), residual), x)


def attention(q: Reals, keys: Mapping[str, Any], values: Mapping[str, Any], options: Mapping[str, Any]) -> Stages:
    """Attention from the codes of Algorithm 1: its scores, logits and output."""

    def part(given: Mapping[str, Any]) -> tuple[Any, Any]:
        Pi = rotations.Dense(given["rotation"])
        Q = mse_module.Quantizer(Pi, lloyd_max(Pi.d, given["bits"]))
        code = mse_module.MSECode(given["indices"], given["scales"], Q.fingerprint)
        return Q, layout.prepare(Q, mse_module.pack(Q, code, "float64"))

    (Qk, k), (Qv, v) = part(keys), part(values)
    mask, bias = options["mask"], options["bias"]
    shape = {"scale": options["scale"], "softcap": options["softcap"]}
    seen = {"causal": options["causal"], "window": options["window"]}
    hidden = bias if mask is None else np.where(mask, 0.0 if bias is None else bias, -np.inf)
    return {
        "scores": attention_module.logits(Qk, q, k, scale=1.0),
        "logits": attention_module.logits(Qk, q, k, **shape, mask=bias),
        "output": attention_module.attend(Qk, Qv, q, k, v, **shape, **seen, mask=hidden),
    }
