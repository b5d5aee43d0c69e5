"""Attention logits straight from the packed keys in device memory, `turboquant_ref.attention.logits` on a GPU.

    logits    the plain call: any shapes, options and array library
    fix       the same with its arguments fixed once: a few microseconds a call, capturable in a CUDA graph

The query is turned once, by Pi (and S), and meets codes only. Two kernels do the work: `logits_fast` on the tensor
cores, for d of 64, 128 or 256, numbers of 2 to 4 bits (`prod` included) and float32 or less; `logits_plain` for
everything else, and in the simulator.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _launch
from ._fixed import Fixed
from ._fixed_plain import FixedPlain
from ._problem import KEYS, Problem, as_prepared, is_fast, kept, problem
from .layout import Prepared, to_host

__all__ = ["Fixed", "FixedPlain", "as_prepared", "fix", "into", "kept", "logits"]

DTYPES = ("float32", "float16", "float64")
"""Of logits."""


def fix(
    Q: Any, q: Any, keys: Prepared, *, scale: float | None = None, out: Any = None, dtype: str = "float32"
) -> Fixed | FixedPlain:
    """`logits` prepared: arguments are checked, kernels compiled and room made once, then ``call()`` only launches.

    What the tensor cores' kernel does not take goes to the plain one.

    Parameters
    ----------
    Q, q, keys, scale
        As in `logits`; q and keys are arrays on the device, and a call reads what they hold then.
    out : array on the device, optional
        Where the logits go; new room in the library of q if None.
    dtype : {"float32", "float16", "float64"}
        Of new room.

    Raises
    ------
    TypeError, ValueError
        As `logits`; for queries that are not on the device, or of 16 bits where only the plain kernel does.
    MemoryError
        If the logits do not fit in device memory.
    """
    p = problem(Q, q, keys, scale, None)
    home, kind = _launch.home_of(q), _launch.name_of(q)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if out is not None:
        _launch.check_out(out, p.shape, DTYPES)
    fast = is_fast(p, kind, dtype if out is None else _launch.name_of(out))
    if not _launch.on_device(q) or not (fast or kind in ("float32", "float64")):
        raise ValueError(
            "q: a fixed call takes device arrays of float32 or float64, or of float16 or bfloat16 for d of 64, 128 or "
            f"256, numbers of 2 to 4 bits and at least {KEYS} keys; got {kind}, d = {Q.d}, {p.n} keys"
        )
    if out is None:
        _launch.enough_memory(math.prod(p.shape) * np.dtype(dtype).itemsize, "logits")
        out = home.empty(p.shape, dtype)
    return (Fixed if fast else FixedPlain)(p, home.take(q), out, home)


def logits(
    Q: Any,
    q: Any,
    keys: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    positions: Any = None,
    dtype: str | None = None,
) -> Any:
    """softcap(scale <q, k~>) + mask for every query and key; as `turboquant_ref.attention.logits`.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod` or `qjl`
    q : (*batch, heads, n_queries, d)
        float32, float16 or bfloat16; float64 is computed in float64, by the plain kernel. Arrays on the device are not
        searched for NaN.
    keys : Prepared, Packed or a code, of shape (*batch, kv_heads, n_keys)
    scale, softcap, mask, causal, window, positions
        As the reference's.
    dtype : {"float32", "float16", "float64"}, optional
        Of the logits; float64 for float64 queries and float32 for all others if None.

    Returns
    -------
    (*batch, heads, n_queries, n_keys) array of the library of q; -inf where a key is not visible

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or a code of another quantizer.
    RuntimeError
        If there is no GPU or no numba-cuda.
    MemoryError
        If the logits do not fit in device memory.
    """
    from turboquant_ref.vectors import as_rows

    q = _launch.home_of(q).take(q) if _launch.on_device(q) else as_rows(q, Q.d, name="q")
    p = problem(Q, q, keys, scale, softcap)
    home = _launch.home_of(q)
    kind = _launch.name_of(q)
    out_kind = dtype or ("float64" if kind == "float64" else "float32")
    _launch.enough_memory(math.prod(p.shape) * np.dtype(out_kind).itemsize, "logits")
    out = home.empty(p.shape, out_kind)
    if math.prod(p.shape):
        into(p, home.take(q), out, home, is_fast(p, kind, out_kind))
        if softcap is not None or mask is not None or causal or window is not None:
            _shape(p, out, home, softcap, mask, causal, window, positions)
    return home.give(out)


def into(p: Problem, q: Any, out: Any, home: _launch.Home, fast: bool) -> None:
    """Logits of queries on the device, by either kernel, before soft cap and masks."""
    if not fast and _launch.name_of(q) != "float64":
        q = home.as_float32(q)
    (Fixed if fast else FixedPlain)(p, q, out, home)()


def _shape(
    p: Problem, out: Any, home: _launch.Home, softcap: Any, mask: Any, causal: bool, window: int | None, positions: Any
) -> None:
    """Soft cap and masks, in place."""
    from turboquant_ref.attention import visible

    from . import logits_plain as plain

    n_queries, rows = p.shape[-2], p.heads * p.queries
    where = np.arange(p.n - n_queries, p.n) if positions is None else to_host(positions)
    visible(n_queries, 0, causal, window, where)  # checks
    device = _launch.ready().to_device
    kind, masks = 0, device(np.zeros((1, 1), bool))
    if mask is not None:
        host = np.broadcast_to(to_host(mask) if _launch.on_device(mask) else np.asarray(mask), p.shape)
        kind = 1 if host.dtype == bool else 2
        masks = device(np.ascontiguousarray(host.reshape(rows, p.n)))
    _launch.plain(
        plain.shape, (_launch.blocks(p.n, 128), rows), 128, home, _launch.view(out, (rows, p.n)), n_queries,
        float(softcap or 0), masks, kind, causal, int(window or 0), device(where.astype(np.int64)),
    )  # fmt: skip
