"""What one core can do: bytes read, float32 and 8-bit products in registers. The roofs of the roofline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba import njit

from numba_kernels import simd
from numba_kernels._jit import LEVEL, inner

from .timing import interleaved

STEPS = 20_000
CHAINS = 12


@njit(nogil=True)
def read(a: np.ndarray) -> int:
    """The sum of int64 numbers: a plain loop, which the compiler vectorises."""
    total = 0
    for i in range(a.size):
        total += a[i]
    return total


@inner
def float_products(out: np.ndarray, steps: int) -> None:
    """12 x 16 fused multiply-adds a step, nothing from memory."""
    x, y = simd.load(out, 0), simd.load(out, 16)
    a, b, c, d = x, y, x, y
    e, f, g, h = x, y, x, y
    i, j, k, l = x, y, x, y
    for _ in range(steps):
        a, b, c, d = simd.fma(x, y, a), simd.fma(x, y, b), simd.fma(x, y, c), simd.fma(x, y, d)
        e, f, g, h = simd.fma(x, y, e), simd.fma(x, y, f), simd.fma(x, y, g), simd.fma(x, y, h)
        i, j, k, l = simd.fma(x, y, i), simd.fma(x, y, j), simd.fma(x, y, k), simd.fma(x, y, l)
    simd.store(out, 0, a + b + c + d + e + f + g + h + i + j + k + l)


@inner
def byte_products(out: np.ndarray, bytes_: np.ndarray, steps: int) -> None:
    """12 x 64 products of bytes a step, nothing from memory."""
    x, y, z = simd.load(bytes_, 0), simd.load(bytes_, 16), simd.load(out, 0)
    a, b, c, d = z, z, z, z
    e, f, g, h = z, z, z, z
    i, j, k, l = z, z, z, z
    for _ in range(steps):
        a, b, c, d = simd.dot4(a, x, y), simd.dot4(b, x, y), simd.dot4(c, x, y), simd.dot4(d, x, y)
        e, f, g, h = simd.dot4(e, x, y), simd.dot4(f, x, y), simd.dot4(g, x, y), simd.dot4(h, x, y)
        i, j, k, l = simd.dot4(i, x, y), simd.dot4(j, x, y), simd.dot4(k, x, y), simd.dot4(l, x, y)
    simd.store(out, 0, a + b + c + d + e + f + g + h + i + j + k + l)


def products() -> dict[str, tuple[float, Callable[[], Any]]]:
    """Products of a call, and the call, of each precision."""
    floats, integers, bytes_ = np.ones(32, np.float32) / 4, np.ones(16, np.int32), np.arange(32, dtype=np.uint32)
    return {
        "exact": (STEPS * CHAINS * 16, partial(float_products, floats, STEPS)),
        "int8": (STEPS * CHAINS * 64, partial(byte_products, integers, bytes_, STEPS)),
    }


def run(seconds: float, report: Callable[[dict[str, Any]], None], large: int = 2**29) -> None:
    """Bandwidth from a buffer that no cache holds and from two sizes of codes; products a second."""
    sizes = {"read, memory": large, "read, 64 MB": 64_000_000, "read, 6.4 MB": 6_400_000}
    buffers = {name: np.ones(size // 8, np.int64) for name, size in sizes.items()}
    calls: dict[str, Callable[[], Any]] = {name: partial(read, a) for name, a in buffers.items()}
    work: dict[str, float] = dict(sizes)
    for precision, name in (("exact", "float32 products"), ("int8", "8-bit products")):
        work[name], calls[name] = products()[precision]
    for name, timing in interleaved(calls, seconds).items():
        unit = "GB/s" if name.startswith("read") else "G/s"
        report(
            {"section": "ceilings", "contender": name, unit: work[name] / timing.median / 1e9}
            | {"best": work[name] / timing.best / 1e9, "rounds": timing.rounds, "level": LEVEL}
        )
