"""The limits: how fast the device copies, and how fast float32 and bfloat16 products of queries and keys are.

Every byte of 32-bit keys must be read, so a product that reads them at the speed of a copy cannot be beaten by another
product of the same keys; packed keys are fewer bytes. Times are medians between events; JAX has its own streams, so its
time is that of many products in a row, by the clock of the host.
"""

from __future__ import annotations

import functools
import gc
import os
import time
from typing import Any

from .attention import microseconds

HEADS, KEYS, D = 8, 524288, 128
QUERIES = (1, 4, 8)


@functools.cache
def copy_bandwidth() -> float:
    """Bytes a microsecond that a copy of 1 GiB reads and writes."""
    import torch

    x = torch.randint(0, 255, (1 << 30,), dtype=torch.uint8, device="cuda")
    y = torch.empty_like(x)
    return 2 * x.numel() / microseconds(lambda: y.copy_(x))


@functools.cache
def jax_float32(keys: int = KEYS) -> dict[int, float]:
    """Microseconds of JAX's float32 products, by number of queries a head; the better of two ways to write them.

    Four different key arrays in one program.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import jax.numpy as jnp

    def products(form: str) -> Any:
        return jax.jit(lambda q, k: [jnp.einsum(form, q, x) for x in k])

    k = [jax.random.normal(jax.random.PRNGKey(i), (HEADS, keys, D), dtype=jnp.float32) for i in range(4)]
    times = {}
    for n in QUERIES:
        q = jax.random.normal(jax.random.PRNGKey(9), (HEADS, n, D), dtype=jnp.float32)
        ways = []
        for form in ("hqd,hnd->hqn", "hqd,hnd->hnq"):
            program, runs = products(form), []
            for _ in range(5):
                jax.block_until_ready(program(q, k))
                start = time.perf_counter()
                for _ in range(3):
                    out = program(q, k)
                jax.block_until_ready(out)
                runs.append((time.perf_counter() - start) / 12 * 1e6)
            ways.append(sorted(runs)[len(runs) // 2])
        times[n] = min(ways)
    del k, out
    gc.collect()
    return times


@functools.cache
def torch_products(keys: int = KEYS) -> dict[str, dict[int, float]]:
    """Microseconds of torch's products, by dtype and number of queries a head; the better of two ways to write them."""
    import torch

    k = torch.randn(HEADS, keys, D, device="cuda")
    times: dict[str, dict[int, float]] = {}
    for name in ("float32", "bfloat16"):
        k = k.to(getattr(torch, name))
        times[name] = {}
        for n in QUERIES:
            q = torch.randn(HEADS, n, D, device="cuda").to(k.dtype)
            ways = (lambda k=k, q=q: torch.bmm(q, k.mT), lambda k=k, q=q: torch.bmm(k, q.mT))
            times[name][n] = min(microseconds(way, 10) for way in ways)
    del k
    torch.cuda.empty_cache()
    return times


def run() -> dict[str, Any]:
    """Measure and print."""
    result = {
        "copy_TB_s": copy_bandwidth() / 1e6,
        "products_us": {"keys": [HEADS, KEYS, D], "jax float32": jax_float32()},
    }
    print(f"copy of 1 GiB: {result['copy_TB_s']:.3f} TB/s, read and written")
    for name, times in torch_products().items():
        result["products_us"][f"torch {name}"] = times
    print(f"products of queries and {HEADS} x {KEYS:,} keys, d = {D}, us, for {QUERIES} queries a head:")
    for name in ("jax float32", "torch float32", "torch bfloat16"):
        print(f"  {name:15}" + "".join(f"{result['products_us'][name][n]:9.1f}" for n in QUERIES), flush=True)
    return result
