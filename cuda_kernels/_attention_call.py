"""One call of attention: its arguments understood, and who can compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from turboquant_ref.attention import _check, _heads, visible

from . import _launch
from .decoder import page_shift_of, side_of
from .layout import Prepared, to_host
from .logits import as_prepared
from .vectors import check_device


@dataclass(frozen=True)
class Call:
    """Checked arguments: keys and values on the device, and which keys each query position sees."""

    Qk: Any
    Qv: Any
    keys: Any
    values: Any
    shape: tuple[int, ...]
    """(*batch, heads, n_queries)."""
    kv_shape: tuple[int, ...]
    """(*batch, kv_heads, n_keys)."""
    scale: float
    softcap: float | None
    mask: Any
    added: Any
    intervals: Any
    """(n_queries, 2): first key, and one past the last."""
    causal: bool
    """Whether the intervals are those of decoding in order: position n - n_queries + i sees what is before or at it."""
    window: int | None
    in_order: bool = True

    @property
    def n(self) -> int:
        return self.kv_shape[-1]


def checked(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, scale: float | None, softcap: float | None, mask: Any,
    causal: bool, window: int | None, positions: Any, added: Any = None,
) -> Call:  # fmt: skip
    keys = keys if Qk is None else as_prepared(Qk, keys)
    values = values if Qv is None else as_prepared(Qv, values)
    k_shape, v_shape = _batch(Qk, keys), _batch(Qv, values)
    if k_shape != v_shape:
        raise ValueError(f"values: expected the batch shape of keys, {k_shape}, got {v_shape}")
    tables = [None if Q is None else x.table for Q, x in ((Qk, keys), (Qv, values))]
    if (tables[0] is None) != (tables[1] is None) or (tables[0] is not None and not _same(*tables)):
        raise ValueError("values: expected the block table of keys")
    if _launch.on_device(q):
        check_device(q, None if Qk is None else Qk.d, "q")
    _heads(tuple(int(n) for n in q.shape), k_shape)
    d, n, n_queries = int(q.shape[-1]), k_shape[-1], int(q.shape[-2])
    factor = _check(scale, softcap, Qk.d if Qk is not None else d)
    p = np.arange(n - n_queries, n) if positions is None else np.asarray(to_host(positions))
    visible(n_queries, 0, causal, window, p)  # checks positions and window
    first, last = np.zeros(n_queries, np.int64), np.full(n_queries, n)
    if causal:
        last = np.minimum(last, p + 1)
    if window is not None:
        first, last = np.maximum(first, p - window + 1), np.minimum(last, p + window)
    intervals = np.stack([first, np.maximum(last, first)], axis=1).astype(np.int32)
    everything = bool(np.all(intervals == (0, n)))
    in_order = bool(np.all(p == np.arange(n - n_queries, n))) and (causal or window is None or n_queries == 1)
    shape = tuple(int(x) for x in q.shape[:-1])
    return Call(
        Qk, Qv, keys, values, shape, k_shape, factor, softcap, mask, added, intervals,
        causal and not everything if in_order or everything else None, None if everything else window, in_order,
    )  # fmt: skip


def _same(a: Any, b: Any) -> bool:
    return _launch.address(a) == _launch.address(b) or bool(np.array_equal(to_host(a), to_host(b)))


def _batch(Q: Any, x: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in (x.shape if Q is not None else x.shape[:-1]))


def is_fast(call: Call, dtype: str) -> bool:
    """Whether the fused kernel takes it."""
    if (
        not _launch.is_fast()
        or call.Qk is None
        or call.Qv is None
        or call.causal is None
        or any(x is not None for x in (call.softcap, call.mask, call.added))
        or dtype not in ("float32", "float16", "bfloat16")
        or call.Qk.d != call.Qv.d
        or call.Qv.algorithm != "mse"
        or call.Qk.algorithm not in ("mse", "prod")
        or min(call.kv_shape) == 0
        or min(call.shape) == 0
    ):
        return False
    sides = side_of(call.keys, call.Qk.d), side_of(call.values, call.Qv.d)
    pages = page_shift_of(call.keys), page_shift_of(call.values)
    return None not in sides and None not in pages and pages[0] == pages[1]


def four_axes(x: Prepared) -> Prepared:
    """Codes of one batch axis."""
    if x.table is not None or len(x.shape) == 3:
        return x
    shape = (math.prod(x.shape[:-2]), *x.shape[-2:])
    fields = {
        name: a.reshape((*shape, *tuple(a.shape)[len(x.shape) :]))
        for name, a in (("codes", x.codes), ("high", x.high), ("scales", x.scales), ("residuals", x.residuals))
        if a is not None
    }
    return Prepared(
        x.form, fields["codes"], fields.get("high"), fields["scales"], fields.get("residuals"), x.scalars, x.fingerprint
    )
