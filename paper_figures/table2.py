"""TurboQuant, Table 2: seconds to quantize 100,000 vectors at 4 bits, beside the arithmetic that the time has to obey.

A dense rotation of n vectors is 2 n d^2 floating-point operations. `PUBLISHED` has the paper's seconds; those of
TurboQuant, on an A100, are below this arithmetic at the card's FP16 peak for d = 1536 and 3072. Ours are of one
core of this machine, measured on `n` vectors and scaled up to 100,000; PQ's training is scaled
to the 65,536 vectors that faiss trains on at most, and from 32 coordinates to d.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref import mse, rabitq, sphere

from . import verbs
from ._style import CYCLE, MARKERS, new_figure, significant, styled
from ._track import track

FULL: dict[str, Any] = {"dims": [200, 1536, 3072], "work": 5e6, "repeats": 3, "seed": 1}
QUICK: dict[str, Any] = {"dims": [200, 768], "work": 1e6, "repeats": 2, "seed": 1}
BITS = 4
VECTORS = 100_000
TRAINED = 65_536
PQ_SAMPLE = 2048
A100_FP16 = 312e12
"""Floating-point operations a second, dense, of the paper's card by its data sheet."""
PUBLISHED = {
    "PQ": {200: 37.04, 1536: 239.75, 3072: 494.42},
    "RabitQ": {200: 597.25, 1536: 2267.59, 3072: 3957.19},
    "TurboQuant": {200: 0.0007, 1536: 0.0013, 3072: 0.0021},
}
GPU_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu.json"


def compute(dims: list[int], work: float, repeats: int, seed: int = 0, ops: str | None = None) -> dict[str, Any]:
    """Seconds a method and dimension.

    Parameters
    ----------
    dims : list of int
    work : float
        Numbers to quantize at each d: ``work / d`` vectors, at most 100,000.
    repeats : int
        The least of so many timings counts.
    seed : int
    ops : str, optional
        A backend; numba_kernels if it is there.

    Returns
    -------
    dict
        ``methods``, ``seconds`` (methods, dims), NaN where there is none; ``n`` (dims,); ``floor`` (dims,), the dense
        rotation at the A100's peak; ``published`` by method.
    """
    if not dims or min(dims) < 2 or work < 4 * max(dims):
        raise ValueError(f"dims and work: expected dimensions of at least 2 and 4 vectors each, got {dims}, {work}")
    backend = ops or next((name for name in ("numba_kernels",) if _offers_mse(name)), None)
    seconds: dict[str, NDArray[np.float64]] = {}
    count = [int(min(work // d, VECTORS)) for d in dims]
    for i, (d, n) in enumerate(track(list(zip(dims, count, strict=True)), "dimensions")):
        x = sphere.uniform(n, d, seed).astype(np.float32)
        for name, seconds_of in _methods(d, n, backend, seed):
            seconds.setdefault(name, np.full(len(dims), np.nan))[i] = seconds_of(x, repeats)
    return {
        "bits": BITS,
        "dims": np.array(dims),
        "n": np.array(count),
        "methods": list(seconds),
        "seconds": np.array(list(seconds.values())),
        "gpu": gpu_seconds(dims),
        "floor": np.array([2 * VECTORS * d * d / A100_FP16 for d in dims]),
        "published": {name: [values.get(d, np.nan) for d in dims] for name, values in PUBLISHED.items()},
    }


def _offers_mse(name: str) -> bool:
    try:
        return importlib.util.find_spec(f"{name}.mse") is not None
    except ImportError:
        return False


Timing = Callable[[NDArray[np.float32], int], float]


def _methods(d: int, n: int, backend: str | None, seed: int) -> list[tuple[str, Timing]]:
    haar, structured = (mse.setup(d, BITS, seed, rotation=kind) for kind in ("haar", "structured"))

    def coding(module: Any, Q: Any) -> Timing:
        def seconds(x: NDArray[np.float32], repeats: int) -> float:
            encode = getattr(module, "encode", module.quantize)
            return _least(lambda: encode(Q, x), repeats) * VECTORS / n

        return seconds

    found = [("TurboQuant, Haar (reference)", coding(mse, haar)),
             ("TurboQuant, structured (reference)", coding(mse, structured))]  # fmt: skip
    if backend not in (None, "turboquant_ref"):
        module = verbs(backend, "mse")
        getattr(importlib.import_module(backend), "set_threads", lambda threads: None)(1)
        found += [(f"TurboQuant, Haar ({backend})", coding(module, haar)),
                  (f"TurboQuant, structured ({backend})", coding(module, structured))]  # fmt: skip
    found.append(("RaBitQ, fast (reference)", coding(rabitq, rabitq.setup(d, BITS, seed, rescale="fast"))))
    if importlib.util.find_spec("faiss") is not None:
        found.append(("PQ (faiss), training + coding", _product_quantizer))
    return found


def _product_quantizer(x: NDArray[np.float32], repeats: int) -> float:
    """Of 32 coordinates, times d / 32: each pair of coordinates is trained and coded on its own."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    d = x.shape[1]
    width = min(32, d // 2 * 2)
    few = np.ascontiguousarray(x[:PQ_SAMPLE, :width])
    pq = faiss.ProductQuantizer(width, width * BITS // 8, 8)
    pq.cp.min_points_per_centroid = 1
    start = time.perf_counter()
    pq.train(few)
    training = (time.perf_counter() - start) / len(few) * TRAINED
    coding = _least(lambda: pq.compute_codes(few), repeats) / len(few) * VECTORS
    return (training + coding) * d / width


def _least(work: Callable[[], Any], repeats: int) -> float:
    work()  # compiles, fills caches
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gpu_seconds(dims: list[int]) -> dict[str, Any]:
    """Device, and seconds for 100,000 vectors by dimension, of the GPU benchmark (`benchmarks.gpu.quantize`).

    The safe structured rotation, of vectors on the device.
    """
    if not GPU_RESULTS.exists():
        return {"device": "", "seconds": [np.nan] * len(dims)}
    record = json.loads(GPU_RESULTS.read_text())
    found = {
        row["d"]: row["us"] * 1e-6
        for row in record["quantize"]["cases"]
        if (row["bits"], row["vectors"], row["rounds"], row["rule"]) == (BITS, VECTORS, 2, "norm")
    }
    return {"device": record["environment"]["device"], "seconds": [found.get(d, np.nan) for d in dims]}


@styled
def plot(results: dict[str, Any]) -> Any:
    """Seconds for 100,000 vectors against d, both axes log: measured, published, and the arithmetic."""
    figure = new_figure(9.5, 5.2)
    axis = figure.subplots()
    dims = np.asarray(results["dims"], dtype=float)
    for k, (name, seconds) in enumerate(zip(results["methods"], results["seconds"], strict=True)):
        values = np.array(seconds, dtype=float)
        axis.plot(dims, values, color=CYCLE[k % 7], marker=MARKERS[k % 7], label=f"{name}, 1 core")
    for k, (name, seconds) in enumerate(results["published"].items()):
        values = np.array(seconds, dtype=float)
        axis.plot(dims, values, color="0.35", marker=("x", "+", "*")[k], linestyle="--", linewidth=0.9,
                  markersize=7, label=f"{name}, published")  # fmt: skip
    on_gpu = np.array(results["gpu"]["seconds"], dtype=float)
    if np.isfinite(on_gpu).any():
        label = f"TurboQuant, structured (cuda_kernels), {results['gpu']['device']}"
        axis.plot(dims, on_gpu, "D-", color="k", markerfacecolor="none", label=label)
    axis.plot(dims, results["floor"], color="k", linestyle=":", label="dense rotation, 2nd²/312e12: A100, FP16")
    axis.set(xscale="log", yscale="log", xlabel="d", ylabel="seconds for 100,000 vectors, 4 bits")
    axis.set_xticks(dims, [f"{d:.0f}" for d in dims])
    axis.minorticks_off()
    figure.legend(loc="outside right upper")
    return figure


def summary(results: dict[str, Any]) -> str:
    """A line a method, then the published ones and the arithmetic."""
    lines = ["seconds for 100,000 vectors at 4 bits, d = " + ", ".join(str(d) for d in results["dims"])]
    rows = [*zip(results["methods"], results["seconds"], strict=True)]
    if results["gpu"]["device"]:
        name = f"TurboQuant, structured (cuda_kernels), {results['gpu']['device']}"
        rows.append((name, results["gpu"]["seconds"]))
    rows += [(f"{name}, published", seconds) for name, seconds in results["published"].items()]
    rows += [("dense rotation, 2 n d^2 operations, at 312e12 a second", results["floor"])]
    for name, seconds in rows:
        values = np.array(seconds, dtype=float)
        lines.append(f"  {name:<64}" + "  ".join("-" if np.isnan(s) else f"{significant(s, 3):>8}" for s in values))
    return "\n".join(lines)
