"""What every algorithm does with its codes: whose they are, how they are sliced, and the three verbs of a backend.

A code is a frozen dataclass of arrays that share their leading (batch) axes, and a fingerprint.
"""

from __future__ import annotations

import dataclasses
import sys
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .packing import Packed

__all__ = [
    "as_weights",
    "batch_shape",
    "check_code",
    "check_packed",
    "encode",
    "module_of",
    "outer_product",
    "prepare",
    "select",
    "times_norms",
    "to_packed",
]

Reals = NDArray[np.floating[Any]]


def module_of(Q: Any) -> ModuleType:
    """The module whose verbs take this quantizer."""
    return sys.modules[type(Q).__module__]


def check_code(Q: Any, code: Any, kind: type) -> None:
    """A code must be of the right kind and made by this very quantizer."""
    if not isinstance(code, kind):
        raise TypeError(f"code: expected {kind.__name__}, got {type(code).__name__}")
    if code.fingerprint != Q.fingerprint:  # type: ignore[attr-defined]
        made = code.fingerprint.hex()  # type: ignore[attr-defined]
        raise ValueError(f"code: it was made by quantizer {made}, this one is {Q.fingerprint.hex()}")


def check_packed(Q: Any, packed: Any) -> Packed:
    """Packed rows must be of this very quantizer, and of its length; what they say is checked by `unpack`."""
    if not isinstance(packed, Packed):
        raise TypeError(f"packed: expected Packed, got {type(packed).__name__}")
    if packed.fingerprint != Q.fingerprint:
        made = packed.fingerprint.hex()
        raise ValueError(f"packed: it was made by quantizer {made}, this one is {Q.fingerprint.hex()}")
    size = Q.bytes_per_vector(packed.scalars)
    data = np.asarray(packed.data)
    if data.dtype != np.uint8 or data.ndim == 0 or data.shape[-1] != size:
        raise ValueError(f"packed: expected (…, {size}) bytes, got {data.dtype} {data.shape}")
    return packed


def select(code: Any, index: Any) -> Any:
    """The part of a code at `index` of its batch axes: ``select(code, (0, slice(10, 20)))``."""
    arrays = {f.name: getattr(code, f.name) for f in dataclasses.fields(code)}
    return dataclasses.replace(code, **{k: v[index] for k, v in arrays.items() if isinstance(v, np.ndarray)})


def batch_shape(code: Any) -> tuple[int, ...]:
    """The batch shape of a code: its own word for it, else that of its per-vector scalars."""
    if hasattr(code, "shape"):
        return tuple(code.shape)
    return min((v.shape for v in vars(code).values() if isinstance(v, np.ndarray)), key=len)


def as_weights(weights: ArrayLike, shape: tuple[int, ...]) -> Reals:
    """Weights (…, n) over the n vectors of a code, checked."""
    w = np.asarray(weights)
    if w.dtype.char not in "fd":
        raise TypeError(f"weights: expected float32 or float64, got {w.dtype}")
    if len(shape) != 1 or w.ndim == 0 or w.shape[-1] != shape[0]:
        raise ValueError(f"weights: expected (…, n) for a code of n vectors, got {w.shape} and a code of shape {shape}")
    return w


def outer_product(a: Reals, b: Reals) -> Reals:
    """<a_i, b_j> for all rows of (*A, d) and (*B, d): shape (*A, *B)."""
    d = a.shape[-1]
    return (a.reshape(-1, d) @ b.reshape(-1, d).T).reshape(a.shape[:-1] + b.shape[:-1])


def times_norms(estimates: Reals, query_norms: Reals, norms: Reals) -> Reals:
    """||y_i|| ||x_j|| times the estimates (*A, *B) of unit vectors; over- or underflows only if the result does."""
    f, i = np.frexp(query_norms.reshape(query_norms.shape + (1,) * norms.ndim))
    g, j = np.frexp(norms)
    return np.asarray(np.ldexp(estimates * (f * g), i + j))


def encode(Q: Any, x: ArrayLike, scalars: str | None = None) -> Packed:
    """The Prepared form of vectors: ``pack(Q, quantize(Q, x))``, side scalars as `scalars` or as `pack` would.

    Prepared is the form that `search` and attention kernels take, private to a backend; the reference's is Packed.

    Raises
    ------
    TypeError, ValueError
        As `quantize` and `pack` of the algorithm.
    """
    module = module_of(Q)
    code = module.quantize(Q, x)
    packed: Packed = module.pack(Q, code) if scalars is None else module.pack(Q, code, scalars)
    return packed


def prepare(Q: Any, packed: Packed) -> Packed:
    """Packed to Prepared: here the same bytes.

    Raises
    ------
    TypeError, ValueError
        If they are no `Packed` of this quantizer, or rows of another length.
    """
    return check_packed(Q, packed)


def to_packed(Q: Any, prepared: Packed) -> Packed:
    """Prepared to Packed, the inverse of `prepare`."""
    return check_packed(Q, prepared)
