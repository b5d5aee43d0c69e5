"""Exhaustive search over codes on the GPU: `topk` of `turboquant_ref.scoring`, for Prepared codes in device memory.

Scores of a chunk of codes are those of `logits`, at scale 1; each query's best are then kept by sorting networks, first
of many stretches of the chunk at once, then of the stretches' best.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from turboquant_ref.scoring import check_search, scores_of, stores_norm
from turboquant_ref.vectors import check_integer, norm_and_unit

from . import _launch
from ._problem import as_prepared, is_fast, problem
from .layout import Prepared, prepare, to_host, to_packed
from .logits import into

__all__ = ["CHUNK", "prepare", "to_packed", "topk"]

CHUNK = 1 << 16
"""Codes that are scored at a time."""

STRETCHES = 64
"""Parts of a chunk whose best are found side by side."""


def topk(
    Q: Any,
    prepared: Any,
    queries: Any,
    k: int,
    metric: str = "ip",
    norms: Any = None,
    chunk: int = CHUNK,
    fast: bool = False,
) -> tuple[Any, Any]:
    """The k codes with the best estimated scores for each query; as `turboquant_ref.scoring.topk`.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod` or `qjl`
    prepared : Prepared or Packed
        Of n vectors.
    queries : (n_queries, d) array
        NumPy, or on the device.
    k, metric, norms
        As the reference's.
    chunk : int
        Codes that are scored at a time: the device holds chunk times n_queries scores. The result does not depend
        on it.
    fast : bool
        Score on the tensor cores, where `logits` can: queries and codebook are 16-bit fixed point then, and the
        error of a score about 3e-5 of the scores' size, so that nearly equal ones may change places.

    Returns
    -------
    scores : (n_queries, k) array
        In the compute dtype of the queries, best first: NumPy arrays for NumPy queries, else of the queries' library.
    positions : (n_queries, k) int64

    Raises
    ------
    TypeError, ValueError
        For codes of another quantizer, bad queries, or missing norms.
    RuntimeError
        If there is no GPU or no numba-cuda.
    """
    home = _launch.home_of(queries)
    y, k = check_search(Q, to_host(queries) if _launch.on_device(queries) else queries, k, metric)
    codes, chunk = as_prepared(Q, prepared), check_integer(chunk, "chunk", 1)
    if len(codes.shape) != 1:
        raise ValueError(f"prepared: expected codes of shape (n,), got {codes.shape}")
    (n,) = codes.shape
    given = None if norms is None else np.asarray(to_host(norms) if _launch.on_device(norms) else norms, np.float64)
    if given is not None and (given.shape != (n,) or not (np.isfinite(given) & (given >= 0)).all()):
        raise ValueError(f"norms: expected {n} finite numbers of at least 0, got shape {given.shape}")
    if given is None and metric != "ip" and not stores_norm(Q):
        raise ValueError(f'norms: metric "{metric}" needs the norms of the vectors, which these codes do not hold')
    query_norms = norm_and_unit(y.astype(np.float64), name="queries")[0].astype(y.dtype)
    costs, positions = np.empty((len(y), 0), y.dtype), np.empty((len(y), 0), np.int64)
    for start in range(0, n, chunk) if len(y) else ():
        stop = min(start + chunk, n)
        new, places = _chunk(Q, _part(codes, start, stop), y, k, metric, query_norms, given, start, stop, fast)
        costs = np.concatenate([costs, new], axis=1)
        positions = np.concatenate([positions, places + start], axis=1)
        order = np.lexsort((positions, costs))[:, :k]
        costs, positions = np.take_along_axis(costs, order, axis=1), np.take_along_axis(positions, order, axis=1)
    missing = ((0, 0), (0, k - costs.shape[1]))
    costs = np.pad(costs, missing, constant_values=np.inf)
    positions = np.pad(positions, missing, constant_values=-1)
    scores = scores_of(metric, costs)
    if type(home) is type(_launch.home_of()):
        return scores, positions
    return home.take(scores), home.take(positions)


def _part(codes: Prepared, start: int, stop: int) -> Prepared:
    """Some of the codes, as the keys of one head."""

    arrays = {name: getattr(codes, name) for name in ("codes", "high", "scales", "residuals")}
    n = stop - start
    some = {k: a[start:stop].reshape((1, n, *tuple(a.shape)[1:])) for k, a in arrays.items() if a is not None}
    return replace(codes, **some)


def _chunk(
    Q: Any, keys: Prepared, y: Any, k: int, metric: str, query_norms: Any, given: Any, start: int, stop: int, fast: bool
) -> tuple[Any, Any]:
    """The best of one chunk: costs ascending and positions in it, on the host."""
    from numba import types

    from . import search_plain as plain

    home, device = _launch.home_of(), _launch.ready().to_device
    m, n = len(y), stop - start
    own = metric == "cosine" and given is None
    norms = _launch.view(keys.scales, (n,)) if given is None else device(given[start:stop].astype(y.dtype))
    if own:  # codes that differ in their norm alone have equal cosines, exactly
        keys = replace(keys, scales=device(np.ones((1, n), np.float32)))
    p = problem(Q, y[None], keys, 1.0, None)
    q = device(np.ascontiguousarray(y[None]))
    dtype = str(y.dtype)
    scores = home.empty((1, m, n), dtype)
    into(p, q, scores, home, fast and is_fast(p, dtype, dtype))
    flat = scores.reshape((m, n))
    which = ("ip", "cosine", "l2").index(metric)
    grid = (_launch.blocks(n, 128), m)
    _launch.plain(plain.rank, grid, 128, home, flat, norms, device(query_norms), which, own, flat)
    if k > plain.LARGEST_K:
        costs = to_host(flat)
        order = np.argsort(costs, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(costs, order, axis=1), order
    width = max(32, 1 << (k - 1).bit_length()) if not _launch.simulated() else 1 << max(1, (k - 1).bit_length())
    kernel = plain.smallest_kernel(width, getattr(types, dtype))
    part = max(math.ceil(n / STRETCHES), 4 * width)
    stretches = math.ceil(n / part)
    best, ids = home.empty((m, stretches, width), dtype), home.empty((m, stretches, width), "int32")
    _launch.plain(kernel, (stretches, m), width, home, flat, ids.reshape((m, stretches * width)), True, part, best, ids)
    if stretches > 1:
        every, names = best.reshape((m, stretches * width)), ids.reshape((m, stretches * width))
        best, ids = home.empty((m, 1, width), dtype), home.empty((m, 1, width), "int32")
        _launch.plain(kernel, (1, m), width, home, every, names, False, stretches * width, best, ids)
    kept = min(k, n)
    return to_host(best)[:, 0, :kept], to_host(ids)[:, 0, :kept].astype(np.int64)
