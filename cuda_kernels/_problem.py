"""One call of `logits`: its shapes understood, the tables of its quantizer on the device, and who can compute it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from turboquant_ref.attention import _check, _heads
from turboquant_ref.codes import module_of
from turboquant_ref.packing import Packed

from . import _launch
from .layout import Prepared, check, prepare, to_host

FAST_DIMENSIONS = (64, 128, 256)
_tables: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def as_prepared(Q: Any, keys: Any) -> Prepared:
    """Keys as Prepared: as they are, or made from Packed or from a code."""
    if isinstance(keys, Prepared):
        return check(Q, keys)
    if isinstance(keys, Packed):
        return prepare(Q, keys)
    module, arrays = module_of(Q), {k: to_host(a) for k, a in vars(keys).items() if _launch.on_device(a)}
    code = replace(keys, **arrays)
    dtype = next(a.dtype for a in vars(code).values() if getattr(a, "dtype", np.dtype(np.uint8)).kind == "f")
    return prepare(Q, module.pack(Q, code, str(dtype)))


def kept(Q: Any, what: Any, make: Callable[[], Any]) -> Any:
    """A table of a quantizer on the current device, made once."""
    tables = _tables.setdefault(Q, {})
    key = (what, 0 if _launch.simulated() else _launch.ready().get_current_device().id)
    if key not in tables:
        tables[key] = _launch.ready().to_device(np.ascontiguousarray(make()))
    return tables[key]


def rotation_of(Q: Any, dtype: str) -> Any:
    return kept(Q, ("rotation", dtype), lambda: Q.rotation.matrix().T.astype(dtype))


def sketch_of(Q: Any, dtype: str) -> Any:
    return kept(Q, ("sketch", dtype), lambda: Q.sketch.matrix().T.astype(dtype))


def sign_factor(Q: Any, scale: float) -> float:
    """What s z is multiplied by, beside the norm and a stored residual norm."""
    expected = 1.0 if Q.algorithm == "qjl" or Q.stores_residual else Q.expected_residual
    return float(scale * Q.sketch.constant * expected)


@dataclass(frozen=True)
class Problem:
    """One call, its shapes understood.

    Attributes
    ----------
    shape : (*batch, heads, n_queries, n_keys)
    heads : int
        kv heads of all sequences.
    queries : int
        Of a kv head: those of all its query heads.
    """

    Q: Any
    keys: Prepared
    shape: tuple[int, ...]
    heads: int
    queries: int
    scale: float

    @property
    def n(self) -> int:
        """Keys of a kv head."""
        return self.shape[-1]

    @property
    def page(self) -> int:
        """Keys of a page; 0 if contiguous."""
        return 0 if self.keys.table is None else int(self.keys.scales.shape[2])

    @property
    def pages(self) -> tuple[int, int]:
        """kv heads, and pages, of a sequence; (1, 1) if contiguous."""
        return (1, 1) if self.keys.table is None else (int(self.keys.shape[1]), int(self.keys.table.shape[1]))


def problem(Q: Any, q: Any, keys: Any, scale: float | None, softcap: float | None) -> Problem:
    """The shapes of a call, checked as the reference checks them."""
    keys = as_prepared(Q, keys)
    shape = tuple(int(n) for n in q.shape)
    if not shape or shape[-1] != Q.d:
        raise ValueError(f"q: expected (*batch, heads, n_queries, {Q.d}), got {shape}")
    group = _heads(shape, keys.shape)
    heads = math.prod(keys.shape[:-1])
    return Problem(Q, keys, (*shape[:-1], keys.shape[-1]), heads, group * shape[-2], _check(scale, softcap, Q.d))


def is_fast(p: Problem, dtype: str, out: str) -> bool:
    """Whether the fast kernel takes this call: where, in which dtypes, which form of keys."""
    form, page = p.keys.form, p.page
    return (
        _launch.is_fast()
        and (form.n in FAST_DIMENSIONS and 2 <= form.bits <= 4 and form.signs == 0)
        and (dtype in ("float32", "float16", "bfloat16") and out in ("float32", "float16"))
        and (_launch.name_of(p.keys.scales) in ("float32", "float16"))
        and (p.n >= KEYS and p.heads > 0 and p.queries > 0)
        and (page == 0 or (page >= 16 and page & (page - 1) == 0))
        and all(_launch.address(a) % 16 == 0 for a in (p.keys.codes, p.keys.high))
    )


KEYS = 64
"""Keys of a tile of the fast kernel."""
