"""A package with the modules of the reference as a subject of the kit: what `numba_kernels` and `cuda_kernels` are.

The functions of CHECK.md, each by the kernels that its name says. What such a package does not compute itself, the
codebook, the seeded generator and Haar's QR, are the reference's; of the siblings, `polar` and `rabitq`, it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import codebook as codebooks
from ..codebook import Codebook
from ..rotation import Dense, haar
from . import reference
from .reference import Reals, Stages

__all__ = ["Backend"]


class Backend:
    """The functions as methods.

    Parameters
    ----------
    ops : module
        Its `mse`, `qjl`, `prod`, `packing`, `rotation`, `attention` and `search` have the reference's words.
    nearest : callable
        Of a codebook and the coordinates of a vector: their indices.
    """

    codebook = staticmethod(reference.codebook)
    stored_bytes = staticmethod(reference.stored_bytes)
    signs = staticmethod(reference.signs)

    def __init__(self, ops: ModuleType, nearest: Callable[[Codebook, Reals], NDArray[np.uint8]]) -> None:
        self._ops, self._nearest = ops, nearest

    def roundtrip(self, x: ArrayLike, bits: int, seed: int) -> Reals:
        """Algorithm 1: (n, d) to (n, d)."""
        mse = self._ops.mse
        Q = mse.setup(np.shape(x)[-1], bits, seed)
        return np.asarray(mse.dequantize(Q, mse.quantize(Q, x)))

    def inner_product(self, x: ArrayLike, y: ArrayLike, bits: int, seed: int) -> Reals:
        """Algorithm 2: estimates of <x_i, y_i>, (n,)."""
        prod = self._ops.prod
        Q = prod.setup(np.shape(x)[-1], bits, seed)
        return np.asarray((prod.dequantize(Q, prod.quantize(Q, x)) * np.asarray(y)).sum(-1))

    def search(self, x: ArrayLike, y: ArrayLike, k: int, bits: int, seed: int) -> tuple[Reals, NDArray[np.int64]]:
        """The k codes of x (n, d) with the best scores for each row of y: scores and ids, (m, k)."""
        Q = self._ops.mse.setup(np.shape(x)[-1], bits, seed)
        scores, ids = self._ops.search.topk(Q, self._ops.mse.encode(Q, x), y, k)
        return scores, ids

    def attend(self, q: ArrayLike, k: ArrayLike, v: ArrayLike, bits: int, seed: int) -> Reals:
        """Attention of the rows of q over coded keys and values, one head, not causal, logits <q, k>/√d: (m, d)."""
        Q = self._ops.mse.setup(np.shape(q)[-1], bits, seed)
        keys, values = (self._ops.mse.encode(Q, np.asarray(x)[None]) for x in (k, v))
        return np.asarray(self._ops.attention.attend(Q, Q, np.asarray(q)[None], keys, values)[0])

    def rotation(self, d: int, seed: int) -> NDArray[np.float64]:
        """Pi as a matrix."""
        return np.asarray(self._ops.rotation.apply(haar(d, seed), np.eye(d))).T

    def pack(self, indices: ArrayLike, bits: int) -> NDArray[np.uint8]:
        """(n, d) indices to bytes."""
        return np.asarray(self._ops.packing.pack_bits(indices, bits))

    def unpack(self, data: ArrayLike, bits: int, d: int) -> NDArray[np.uint8]:
        """Bytes to (n, d) indices."""
        return np.asarray(self._ops.packing.unpack_bits(data, bits, d))

    def fwht(self, x: Reals) -> Reals:
        """The Walsh-Hadamard transform."""
        return np.asarray(self._ops.rotation.fwht(x))

    def index(self, t: Reals, d: int, bits: int) -> NDArray[np.uint8]:
        """Indices of coordinates of a unit vector in R^d."""
        return np.asarray(self._nearest(codebooks.lloyd_max(d, bits), t))

    def mse(self, x: ArrayLike, bits: int, rotation: ArrayLike, scale: str) -> Stages:
        """Every stage of Algorithm 1."""
        return self._trace("mse", x, *_book(rotation, bits), scale)

    def qjl(self, x: ArrayLike, sketch: ArrayLike, kind: str) -> Stages:
        """Every stage of QJL."""
        return self._trace("qjl", x, reference.given_sketch(sketch, kind))

    def prod(self, x: ArrayLike, bits: int, rotation: ArrayLike, sketch: ArrayLike, kind: str, residual: str) -> Stages:
        """Every stage of Algorithm 2."""
        return self._trace("prod", x, *_book(rotation, bits - 1), reference.given_sketch(sketch, kind), residual)

    def _trace(self, algorithm: str, x: ArrayLike, *parts: Any) -> Stages:
        module = getattr(self._ops, algorithm)
        return dict(module.trace(module.Quantizer(*parts), x))

    def attention(
        self, q: Reals, keys: Mapping[str, Any], values: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Stages:
        """Attention from the codes of Algorithm 1: its scores, logits and output."""
        mse, attention = self._ops.mse, self._ops.attention

        def part(given: Mapping[str, Any]) -> tuple[Any, Any]:
            Q = mse.Quantizer(*_book(given["rotation"], given["bits"]))
            code = mse.MSECode(given["indices"], given["scales"], Q.fingerprint)
            return Q, mse.prepare(Q, mse.pack(Q, code, "float64"))

        (Qk, k), (Qv, v) = part(keys), part(values)
        mask, bias = options["mask"], options["bias"]
        shape = {"scale": options["scale"], "softcap": options["softcap"]}
        seen = {"causal": options["causal"], "window": options["window"]}
        hidden = bias if mask is None else np.where(mask, 0.0 if bias is None else bias, -np.inf)
        return {
            "scores": attention.logits(Qk, q, k, scale=1.0),
            "logits": attention.logits(Qk, q, k, **shape, mask=bias),
            "output": attention.attend(Qk, Qv, q, k, v, **shape, **seen, mask=hidden),
        }


def _book(rotation: ArrayLike, bits: int) -> tuple[Dense, Codebook]:
    Pi = Dense(np.asarray(rotation))
    return Pi, codebooks.lloyd_max(Pi.d, bits)
