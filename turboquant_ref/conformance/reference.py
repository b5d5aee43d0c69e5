"""turboquant_ref as a subject of its own kit: the functions of CHECK.md over the reference.

``turboquant-ref check turboquant_ref.conformance.reference``; and the example to copy for an adapter of your own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import angle, generator, packing, scoring
from .. import attention as attention_module
from .. import codebook as codebooks
from .. import mse as mse_module
from .. import polar as polar_module
from .. import prod as prod_module
from .. import qjl as qjl_module
from .. import rabitq as rabitq_module
from .. import rotation as rotations

__all__ = [
    "attend",
    "attention",
    "codebook",
    "fwht",
    "index",
    "inner_product",
    "mse",
    "pack",
    "polar",
    "prod",
    "qjl",
    "rabitq",
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
    return mse_module.dequantize(Q, mse_module.quantize(Q, x))


def inner_product(x: ArrayLike, y: ArrayLike, bits: int, seed: int) -> Reals:
    """Algorithm 2: estimates of <x_i, y_i>, (n,)."""
    Q = prod_module.setup(np.shape(x)[-1], bits, seed)
    decoded = prod_module.dequantize(Q, prod_module.quantize(Q, x))
    return np.asarray((decoded * np.asarray(y)).sum(-1))


def search(x: ArrayLike, y: ArrayLike, k: int, bits: int, seed: int) -> tuple[Reals, NDArray[np.int64]]:
    """The k codes of x (n, d) with the best scores for each row of y: scores and ids, (m, k)."""
    Q = mse_module.setup(np.shape(x)[-1], bits, seed)
    return scoring.topk(Q, mse_module.encode(Q, x), y, k)


def attend(q: ArrayLike, k: ArrayLike, v: ArrayLike, bits: int, seed: int) -> Reals:
    """Attention of the rows of q over coded keys and values, one head, not causal, logits <q, k>/√d: (m, d)."""
    Q = mse_module.setup(np.shape(q)[-1], bits, seed)
    keys, values = mse_module.quantize(Q, np.asarray(k)[None]), mse_module.quantize(Q, np.asarray(v)[None])
    return np.asarray(attention_module.attend(Q, Q, np.asarray(q)[None], keys, values)[0])


def rotation(d: int, seed: int) -> NDArray[np.float64]:
    """Pi as a matrix."""
    return rotations.haar(d, seed).matrix()


def codebook(d: int, bits: int) -> NDArray[np.float64]:
    """The centroids."""
    return codebooks.lloyd_max(d, bits).centroids


def stored_bytes(d: int, bits: int) -> int:
    """Bytes of a vector of `roundtrip`."""
    return (d * bits + 7) // 8 + 4


def pack(indices: ArrayLike, bits: int) -> NDArray[np.uint8]:
    """(n, d) indices to bytes."""
    return packing.pack_bits(indices, bits)


def unpack(data: ArrayLike, bits: int, d: int) -> NDArray[np.uint8]:
    """Bytes to (n, d) indices."""
    return packing.unpack_bits(data, bits, d)


def fwht(x: Reals) -> Reals:
    """The Walsh-Hadamard transform."""
    return rotations.fwht(cast(NDArray[np.float64], x))


def signs(seed: int, stream: int, n: int) -> NDArray[np.int8]:
    """Seeded signs."""
    return generator.signs(seed, stream, n)


def index(t: Reals, d: int, bits: int) -> NDArray[np.uint8]:
    """Indices of coordinates of a unit vector in R^d."""
    return codebooks.nearest(codebooks.lloyd_max(d, bits), t)


def given_sketch(sketch: ArrayLike, kind: str) -> qjl_module.Sketch:
    """A sketch from its matrix."""
    matrix = np.asarray(sketch, dtype=np.float64)
    return qjl_module.Sketch(matrix.shape[1], matrix.shape[0], kind, matrix, (), "given")


def mse(x: ArrayLike, bits: int, rotation: ArrayLike, scale: str) -> Stages:
    """Every stage of Algorithm 1."""
    pi = rotations.Dense(cast(NDArray[np.float64], rotation))
    return mse_module.trace(mse_module.Quantizer(pi, codebooks.lloyd_max(pi.d, bits), scale), x)


def qjl(x: ArrayLike, sketch: ArrayLike, kind: str) -> Stages:
    """Every stage of QJL."""
    return qjl_module.trace(qjl_module.Quantizer(given_sketch(sketch, kind)), x)


def prod(x: ArrayLike, bits: int, rotation: ArrayLike, sketch: ArrayLike, kind: str, residual: str) -> Stages:
    """Every stage of Algorithm 2."""
    pi = rotations.Dense(cast(NDArray[np.float64], rotation))
    book = codebooks.lloyd_max(pi.d, bits - 1)
    return prod_module.trace(prod_module.Quantizer(pi, book, given_sketch(sketch, kind), residual), x)


def polar(x: ArrayLike, bits: tuple[int, ...], rotation: ArrayLike, scale: str) -> Stages:
    """Every stage of PolarQuant; the angles of all levels, the first level first."""
    pi = rotations.Dense(cast(NDArray[np.float64], rotation))
    books = tuple(angle.codebook(level, b) for level, b in enumerate(bits, 1))
    stages = polar_module.trace(polar_module.Quantizer(pi.d, books, pi, scale), x)
    return {**stages, "angles": np.concatenate([stages[f"angles_{i}"] for i in range(1, len(bits) + 1)], axis=-1)}


def rabitq(x: ArrayLike, bits: int, rotation: ArrayLike, scale: str, t: float | None) -> Stages:
    """Every stage of RaBitQ, by the exact search if t is None."""
    pi = rotations.Dense(cast(NDArray[np.float64], rotation))
    if t is not None and abs(t / rabitq_module.fast_rescale(pi.d, bits) - 1) > 1e-11:
        raise NotImplementedError("another t than that of fast_rescale")
    return rabitq_module.trace(rabitq_module.Quantizer(pi, bits, scale, "exact" if t is None else "fast"), x)


def attention(q: Reals, keys: Mapping[str, Any], values: Mapping[str, Any], options: Mapping[str, Any]) -> Stages:
    """Every stage of attention from the codes of Algorithm 1."""

    def part(given: Mapping[str, Any]) -> tuple[mse_module.Quantizer, mse_module.MSECode]:
        pi = rotations.Dense(given["rotation"])
        Q = mse_module.Quantizer(pi, codebooks.lloyd_max(pi.d, given["bits"]))
        return Q, mse_module.MSECode(given["indices"], given["scales"], Q.fingerprint)

    (Qk, k), (Qv, v) = part(keys), part(values)
    mask, bias = options["mask"], options["bias"]
    seen = attention_module.visible(q.shape[-2], k.indices.shape[-2], options["causal"], options["window"])
    seen = seen if mask is None else seen & mask
    shape = {"scale": options["scale"], "softcap": options["softcap"]}
    logits = attention_module.logits(Qk, q, k, **shape, mask=bias)
    hidden = np.where(seen, 0.0 if bias is None else bias, -np.inf)
    return {
        "scores": attention_module.logits(Qk, q, k, scale=1.0),
        "logits": logits,
        "visible": seen,
        "weights": attention_module.softmax(np.where(seen, logits, np.asarray(-np.inf, dtype=logits.dtype))),
        "output": attention_module.attend(Qk, Qv, q, k, v, **shape, mask=hidden),
    }
