"""Encoding: vectors to Prepared, million vectors a second: the safe structured rotation, one round, and turbovec."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import numba_kernels as nk
import turboquant_ref as tq

from . import peers, vectors
from .timing import interleaved

COORDINATES = 2**22


def run(dimensions: tuple[int, ...], seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
    """Encode some 4 million coordinates, one thread."""
    packages = peers.installed("turbovec")
    nk.set_threads(1)
    for d in dimensions:
        x = vectors.random(d, COORDINATES // d, 1)[0]
        for bits in (4, 2):
            safe = tq.mse.setup(d, bits, 0, "structured", "unbiased")
            cheap = tq.mse.Quantizer(nk.rotation.one_round(d, 0), safe.codebook, "unbiased")
            calls: dict[str, Callable[[], Any]] = {
                "ours": partial(nk.mse.encode, safe, x),
                "ours, one round": partial(nk.mse.encode, cheap, x),
            }
            if "turbovec" in packages and d % 8 == 0:
                calls["turbovec"] = partial(_turbovec, x, bits)
            for name, timing in interleaved(calls, seconds).items():
                report(
                    {"section": "encode", "d": d, "n": len(x), "bits": bits, "contender": name}
                    | {"seconds": timing.median, "best": timing.best, "rounds": timing.rounds}
                    | {"Mvec/s": len(x) / timing.median / 1e6, "GB/s": x.nbytes / timing.median / 1e9}
                )


def _turbovec(x: np.ndarray, bits: int) -> None:
    import turbovec

    turbovec.TurboQuantIndex(x.shape[1], bits).add(x)
