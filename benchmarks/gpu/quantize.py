"""Quantize: vectors to packed codes in one pass; time, share of the copy bandwidth, and how right the codes are.

A call is `cuda_kernels.quantize.prepared_call(Q, x)`: norm, rotation, nearest centroids, packed bits. Outputs are
poisoned twice, differently; rows drawn at random, and the last, are compared with float64: how many indices are off by
one, and how far from a boundary those coordinates are. The paper's times are those of its table of quantization times,
100,000 vectors at 4 bits; its device is an A100.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import turboquant_ref as tq
from cuda_kernels import mse, quantize, rotation
from cuda_kernels.layout import join, to_host
from turboquant_ref import codebook as codebooks

from . import ceilings
from .attention import graph_of, microseconds

CASES = [
    # d, vectors, bits, rounds, dtype of x, of the scales, rule
    (128, 4194304, 4, 2, "float32", "float16", "norm"),
    (128, 4194304, 4, 2, "float32", "float32", "norm"),
    (128, 4194304, 4, 1, "float32", "float16", "norm"),
    (128, 4194304, 4, 2, "bfloat16", "float16", "norm"),
    (128, 4194304, 3, 2, "float32", "float16", "norm"),
    (128, 4194304, 2, 2, "float32", "float16", "norm"),
    (128, 4194304, 4, 2, "float32", "float16", "unbiased"),
    (1024, 524288, 4, 2, "float32", "float16", "norm"),
    (1024, 524288, 4, 1, "float32", "float16", "norm"),
    (64, 4194304, 4, 2, "float32", "float16", "norm"),
    (256, 2097152, 4, 2, "float32", "float16", "norm"),
    (200, 100000, 4, 2, "float32", "float16", "norm"),
    (1536, 100000, 4, 2, "float32", "float16", "norm"),
    (3072, 100000, 4, 2, "float32", "float16", "norm"),
]
PAPER = {200: 700.0, 1536: 1300.0, 3072: 2100.0}
"""Microseconds."""
CHECKED = 2048


def quantizer(d: int, bits: int, rounds: int, rule: str) -> tq.mse.Quantizer:
    R = rotation.one_round(d, 1) if rounds == 1 else rotation.structured(d, 1)
    return tq.mse.Quantizer(R, codebooks.lloyd_max(d, bits), rule)


def vectors(n: int, d: int, dtype: str) -> Any:
    """Standard normal vectors, some with other norms."""
    import torch

    generator = torch.Generator(device="cuda").manual_seed(d)
    x = torch.empty(n, d, device="cuda", dtype=getattr(torch, dtype))
    for start in range(0, n, 1 << 19):
        part = torch.randn(min(1 << 19, n - start), d, device="cuda", generator=generator)
        x[start : start + len(part)] = part * (1 + torch.arange(len(part), device="cuda")[:, None] % 7)
    return x


def poisoned(call: quantize.Call, byte: int) -> list[Any]:
    """What a launch leaves in arrays that held `byte`."""
    arrays = call.out.arrays
    for a in arrays:
        a.fill_(byte)
    call()
    return [a.clone() for a in arrays]


def check(Q: tq.mse.Quantizer, x: Any, call: quantize.Call) -> dict[str, float]:
    """Compare a launch with float64."""
    import torch

    twice = [poisoned(call, 17), poisoned(call, 200)]
    if call.refused() or not all(torch.equal(a, b) for a, b in zip(*twice, strict=True)):
        raise AssertionError("the kernel refused its input, or left something unwritten")
    n = len(x)
    rows = np.unique(np.append(np.random.default_rng(0).integers(0, n, CHECKED), np.arange(n - 32, n)))
    at = torch.as_tensor(rows, device="cuda")
    out = call.out
    high = None if out.high is None else to_host(out.high[at])
    indices, _ = join(out.form, to_host(out.codes[at]), high)
    truth = tq.mse.trace(Q, x[at].double().cpu().numpy())
    off = indices != truth["indices"]
    away = np.abs(truth["rotated"][off][:, None] - Q.codebook.boundaries).min(-1, initial=np.inf)
    scales = to_host(out.scales[at]).astype(np.float64)
    return {
        "off_by_one": float(off.mean()),
        "largest_step": int(np.abs(indices.astype(int) - truth["indices"]).max()),
        "farthest_from_boundary": float(away.max(initial=0)),
        "scale_error": float(np.max(np.abs(scales / truth["scale"] - 1))),
    }


def launches() -> dict[str, float]:
    """Host microseconds a call for 1024 vectors, 200 in a row: encode (it waits), the prepared call, a graph."""
    import torch

    Q, x = quantizer(128, 4, 2, "norm"), vectors(1024, 128, "float32")
    call = quantize.prepared_call(Q, x)
    assert call is not None
    times = {}
    for name, work in (("encode", lambda: mse.encode(Q, x)), ("call", call), ("graph", graph_of(call))):
        for _ in range(20):
            work()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(200):
            work()
        times[name] = (time.perf_counter() - start) / 200 * 1e6
        torch.cuda.synchronize()
    return times


def run() -> dict[str, Any]:
    """Measure and print."""
    import torch

    copy = ceilings.copy_bandwidth()
    print(f"copy {copy / 1e6:.3f} TB/s; its share by bytes read and written once; off: indices that are not float64's")
    heads = f"{'x':>8} {'scales':>8} {'rule':>9} {'us':>8} {'copy':>6} {'paper':>6} {'off':>8}  regs"
    print(f"{'d':>5} {'vectors':>8} bits rounds {heads}")
    results = []
    for d, n, bits, rounds, dtype, scalars, rule in CASES:
        Q, x = quantizer(d, bits, rounds, rule), vectors(n, d, dtype)
        call = quantize.prepared_call(Q, x, scalars)
        if call is None:
            raise AssertionError(f"no fast kernel for d = {d}")
        found = check(Q, x, call)
        us = microseconds(call)
        moved = x.numel() * x.element_size() + call.out.nbytes
        paper = PAPER.get(d, np.nan) / us if bits == 4 and n == 100000 else np.nan
        results.append({
            "d": d, "vectors": n, "bits": bits, "rounds": rounds, "x": dtype, "scales": scalars, "rule": rule, "us": us,
            "bytes": moved, "share_of_copy": moved / us / copy, "paper_over_us": None if np.isnan(paper) else paper,
            "registers": call.function.registers, **found,
        })  # fmt: skip
        print(
            f"{d:5} {n:8} {bits:4} {rounds:6} {dtype:>8} {scalars:>8} {rule:>9} {us:8.1f} {moved / us / copy:6.1%} "
            f"{paper:6.2f} {found['off_by_one']:8.1e}  {call.function.registers}",
            flush=True,
        )
        del x, call
        torch.cuda.empty_cache()
    host = launches()
    print("host us a call, 1024 vectors: " + ", ".join(f"{name} {us:.1f}" for name, us in host.items()))
    return {"cases": results, "host_us": host}
