"""Attention straight from codes on a GPU: the names and signatures of `turboquant_ref.attention`.

    out = sum_j softmax(softcap(scale <q, k~_j>) + mask)_j v~_j

`attend` and `partial` take keys and values as Prepared (contiguous, or pages with a block table), Packed, codes, or
vectors where the quantizer is None. Decode attention of `mse` and `prod` keys with `mse` values, d of 64, 128 or 256
and 2 to 4 bits, runs in one fused pass on the tensor cores (`decode`); everything else in the plain kernels
(`decode_plain`). `fix` is the fused call with its arguments fixed once.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from turboquant_ref.attention import Fidelity, Partial, fidelity, select, softmax, visible
from turboquant_ref.attention import merge as _merge
from turboquant_ref.vectors import check_integer

from . import _launch
from ._attention_call import Call, checked, four_axes, is_fast
from ._attention_plain import plain
from .decoder import Decoder
from .layout import Prepared, to_host
from .logits import logits

__all__ = [
    "Fidelity",
    "Partial",
    "attend",
    "attend_blocks",
    "fidelity",
    "fix",
    "logits",
    "merge",
    "partial",
    "select",
    "softmax",
    "visible",
]


def _fused(call: Call, q: Any, home: _launch.Home, whole: bool, dtype: str) -> Any:
    *batch, heads, n_queries = call.shape
    size = math.prod(batch)
    q = home.take(q).reshape((size, heads, n_queries, call.Qk.d))
    out = home.empty((size, heads, n_queries, call.Qv.d), dtype)
    decoder = Decoder(
        call.Qk, call.Qv, q, four_axes(call.keys), four_axes(call.values), out, scale=call.scale, causal=call.causal,
        window=call.window, whole=whole, home=home,
    )  # fmt: skip
    decoder()
    out = out.reshape((*call.shape, call.Qv.d))
    return out if whole else (decoder.tops.reshape((*call.shape, 2)), out)


def _checked_queries(q: Any, d: int | None) -> Any:
    from turboquant_ref.vectors import as_rows as on_host

    return q if _launch.on_device(q) else on_host(q, d, name="q")


def attend(Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, *, dtype: str | None = None, **options: Any) -> Any:
    """Attention output softmax(logits) V~; as `turboquant_ref.attention.attend`.

    Parameters
    ----------
    Qk, Qv : quantizers of the keys (`mse`, `prod`, `qjl`) and of the values
    q : (*batch, heads, n_queries, d)
        float32, float16 or bfloat16 (float64 by the plain kernel), NumPy or on the device.
    keys, values : Prepared, Packed or codes, of shape (*batch, kv_heads, n_keys)
        Prepared ones may be paged, with sequences of different lengths: then the queries of each are its last
        positions.
    dtype : {"float32", "float16", "bfloat16", "float64"}, optional
        Of the output; float64 for float64 queries and float32 for all others if None.
    options
        scale, softcap, mask, causal, window, positions: as in `logits`.

    Returns
    -------
    (*batch, heads, n_queries, d_v) array of the library of q; 0 for a query that sees no key

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or codes of another quantizer.
    RuntimeError
        If there is no GPU or no numba-cuda.
    """
    q = _checked_queries(q, Qk.d)
    call = checked(Qk, Qv, q, keys, values, **_options(options))
    return _result(call, q, dtype)


def attend_blocks(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, block: int = 256, *, dtype: str | None = None, **options: Any
) -> Any:
    """`attend`: here it always goes block by block, the tensor cores' kernel by 64 keys; `block` is checked only."""
    check_integer(block, "block", 1)
    return attend(Qk, Qv, q, keys, values, dtype=dtype, **options)


def partial(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, *, scale: float | None = None, softcap: float | None = None,
    mask: Any = None, causal: bool = False, window: int | None = None, positions: Any = None, added: Any = None,
) -> Partial:  # fmt: skip
    """Attention over one block of a cache; as `turboquant_ref.attention.partial`.

    Parameters
    ----------
    Qk, Qv : quantizers, each None where keys or values are vectors (…, n_keys, d) as they are
    q, keys, values
        As in `attend`.
    scale, softcap, mask, causal, window, positions, added
        As the reference's.

    Returns
    -------
    Partial
        Its arrays live where q does.
    """
    q = _checked_queries(q, None if Qk is None else Qk.d)
    call = checked(Qk, Qv, q, keys, values, scale, softcap, mask, causal, window, positions, added)
    tops, sums = _result(call, q, None, whole=False)
    return Partial(tops[..., 0], tops[..., 1], sums)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    known = {"scale": None, "softcap": None, "mask": None, "causal": False, "window": None, "positions": None}
    for name in options.keys() - known.keys():
        raise TypeError(f"{name}: expected one of {', '.join(known)}")
    return {**known, **options}


def _result(call: Call, q: Any, dtype: str | None, whole: bool = True) -> Any:
    home, kind = _launch.home_of(q), _launch.name_of(q)  # NumPy for NumPy, wherever the codes are
    out_kind = dtype or ("float64" if kind == "float64" else "float32")
    if min(call.kv_shape, default=0) == 0 or min(call.shape, default=0) == 0:
        d_v = call.Qv.d if call.Qv is not None else tuple(call.values.shape)[-1]
        out = np.zeros((*call.shape, d_v), out_kind if out_kind != "bfloat16" else "float32")
        tops = np.broadcast_to(np.array([-np.inf, 0], out.dtype), (*call.shape, 2))
        made = out if whole else (np.array(tops), out)
        if type(home).__name__ == "_NumPy":
            return made
        return home.take(out) if whole else tuple(map(home.take, made))
    if is_fast(call, kind) and out_kind != "float64":
        made = _fused(call, q, home, whole, out_kind)
        return home.give(made) if whole else tuple(map(home.give, made))
    made = plain(call, q, home, whole)
    return _given(made, home, out_kind) if whole else tuple(_given(a, home, out_kind) for a in made)


def _given(a: Any, home: _launch.Home, kind: str) -> Any:
    """An array of the plain kernels in the caller's library and dtype."""
    if type(home).__name__ == "_NumPy":
        return a.copy_to_host().astype(kind if kind != "bfloat16" else "float32", copy=False)
    a = home.take(a)
    return home.give(a if _launch.name_of(a) == kind else _cast(a, home, kind))


def _cast(a: Any, home: _launch.Home, kind: str) -> Any:
    if hasattr(a, "to"):
        return a.to(getattr(sys.modules["torch"], kind))
    return a.astype(kind) if not hasattr(a, "copy_to_host") else home.take(a.copy_to_host().astype(kind))


def merge(first: Partial, second: Partial) -> Partial:
    """Attention over two disjoint sets of keys, from that over each; as `turboquant_ref.attention.merge`.

    Arrays of PyTorch, CuPy and JAX stay where they are; Numba's are joined on the host.
    """
    parts = (first, second)
    library = type(first.top).__module__.partition(".")[0]
    if library in ("numpy", "numba", "numba_cuda"):
        hosted = [Partial(*(to_host(a) for a in (p.top, p.total, p.sums))) for p in parts]
        return _merge(*hosted)
    xp = sys.modules["jax.numpy" if library in ("jax", "jaxlib") else library]
    top = xp.maximum(first.top, second.top)
    shift = xp.where(xp.isinf(top), xp.zeros_like(top), top)
    a, b = xp.exp(first.top - shift), xp.exp(second.top - shift)
    sums = first.sums * a[..., None] + second.sums * b[..., None]
    return Partial(top, first.total * a + second.total * b, sums)


def fix(
    Qk: Any, Qv: Any, q: Any, keys: Prepared, values: Prepared, *, out: Any = None, scale: float | None = None,
    causal: bool = True, window: int | None = None,
) -> Decoder:  # fmt: skip
    """`attend` for decoding, prepared: arguments are checked, kernels compiled and room made once; ``call()`` launches.

    Parameters
    ----------
    q : (batch, heads, n_queries, d) array on the device
        The last positions of each sequence.  A call reads what q, the codes, their block table and lengths hold then.
    keys, values : Prepared
        (batch, kv_heads, n_keys), or pages with a block table.
    out : array like q, optional
        New room if None; what ``call()`` gives.
    scale, causal, window
        As in `attend`.

    Raises
    ------
    TypeError, ValueError
        As `attend`, or for what the fused kernel does not take.
    """
    if not _launch.on_device(q):
        raise TypeError(f"q: expected an array on the device, got {type(q).__name__}")
    call = checked(Qk, Qv, q, keys, values, scale, None, None, causal, window, None)
    if len(call.kv_shape) != 3 or not is_fast(call, _launch.name_of(q)):
        raise ValueError(
            "q, keys, values: a fixed call takes q (batch, heads, n_queries, d) of float32, float16 or bfloat16 with d "
            "of 64, 128 or 256, mse or prod keys and mse values of 2 to 4 bits, float16 or float32 scalars; got "
            f"{_launch.name_of(q)} {tuple(q.shape)}, {Qk.algorithm} keys and {Qv.algorithm} values"
        )
    home = _launch.home_of(q)
    shape = tuple(int(n) for n in q.shape)
    if out is not None:
        _launch.check_out(out, shape, ("float32", "float16", "bfloat16"))
    room = home.empty(shape, _launch.name_of(q)) if out is None else out
    return Decoder(Qk, Qv, q, keys, values, room, scale=scale, causal=causal, window=window, home=home)
