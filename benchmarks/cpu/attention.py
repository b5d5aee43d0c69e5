"""Attention of one key head over packed keys and values, head dimension 128, one thread: ours, NumPy and torch.

`rows` queries share the head: one, a group of 4 (GQA) or of 8. NumPy and torch work on the vectors as they were, NumPy
by two matrix products, torch by `scaled_dot_product_attention` with the group as its queries, which is faster than its
`enable_gqa`. `error` is that of the output against float64 on those vectors, relative to it: for ours what quantizing
costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import numba_kernels as nk
import turboquant_ref as tq

from . import peers
from .timing import interleaved

D = 128
ROWS = (1, 4, 8)
CELLS = [(65_536, (4, 3, 2)), (4_096, (4,))]
"""(tokens, bits)"""
QUICK = [(8_192, (4,))]


def _numpy(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    s = q @ k.T / q.dtype.type(D**0.5)
    s -= s.max(axis=1, keepdims=True)
    np.exp(s, out=s)
    return np.asarray((s @ v) / s.sum(axis=1, keepdims=True))


def _torch(q: np.ndarray, k: np.ndarray, v: np.ndarray, dtype: str) -> Callable[[], np.ndarray]:
    import torch

    torch.set_num_threads(1)
    given = [torch.from_numpy(a)[None, None].to(getattr(torch, dtype)) for a in (q, k, v)]
    with torch.inference_mode():
        return lambda: torch.nn.functional.scaled_dot_product_attention(*given)[0, 0].float().numpy()


def _ours(bits: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[float, dict[str, Callable[[], np.ndarray]]]:
    """Bytes of a token, and the calls."""
    Qk, Qv = (tq.mse.setup(D, bits, seed, "structured", "least_squares") for seed in (0, 1))
    keys, values = nk.mse.encode(Qk, k[None]), nk.mse.encode(Qv, v[None])
    calls = {
        f"ours {p}": lambda p=p: nk.attention.attend(Qk, Qv, q[:, None], keys, values, precision=p)[:, 0]
        for p in nk.attention.PRECISIONS
    }
    return (keys.nbytes + values.nbytes) / len(k), calls


def run(seconds: float, report: Callable[[dict[str, Any]], None], quick: bool = False) -> None:
    """Measure, each cell for about `seconds`, and report a row for each contender."""
    packages = peers.installed("torch")
    nk.set_threads(1)
    rng = np.random.default_rng(0)
    for n, widths in QUICK if quick else CELLS:
        k, v, queries = (rng.standard_normal((rows, D), np.float32) for rows in (n, n, max(ROWS)))
        for bits in widths:
            for rows in ROWS:
                q = queries[:rows]
                stored, calls = _ours(bits, q, k, v)
                sizes = dict.fromkeys(calls, stored)
                calls["numpy float32"], sizes["numpy float32"] = partial(_numpy, q, k, v), 8.0 * D
                for dtype, size in (("float32", 8.0), ("bfloat16", 4.0)) if "torch" in packages else ():
                    calls[f"torch {dtype}"], sizes[f"torch {dtype}"] = _torch(q, k, v, dtype), size * D
                truth = _numpy(*(a.astype(float) for a in (q, k, v)))
                errors = {name: np.linalg.norm(call() - truth) / np.linalg.norm(truth) for name, call in calls.items()}
                found = interleaved(calls, seconds)
                for name, timing in found.items():
                    report(
                        {"section": "attention", "d": D, "tokens": n, "bits": bits, "rows": rows, "contender": name}
                        | {"bytes": round(sizes[name], 1), "error": float(errors[name])}
                        | {"seconds": timing.median, "best": timing.best, "rounds": timing.rounds}
                        | {"us": timing.median * 1e6, "x numpy": found["numpy float32"].median / timing.median}
                        | {"GB/s": sizes[name] * n / timing.median / 1e9}
                    )
