"""Logits from packed keys: time, bytes, share of the copy bandwidth, error, ratio to float32 and bfloat16 products.

A call is `cuda_kernels.logits.fix(…)`: it turns the queries and cuts them, on the device, and computes all logits.
Codes are those of standard normal vectors; outputs are poisoned, and compared with float64 from the same bytes.
"""

from __future__ import annotations

import math
from typing import Any

import turboquant_ref as tq
from cuda_kernels import _launch, layout, logits

from . import ceilings
from .attention import codes, decoded, error, graph_of, microseconds, pages
from .ceilings import HEADS, KEYS

CASES = [
    # bits, queries a kv head, prod, scalars, logits
    *((bits, n, False, "float16", "float32") for n in (1, 4, 8) for bits in (4, 3, 2)),
    (4, 1, True, "float16", "float32"),
    (4, 4, True, "float16", "float32"),
    (4, 1, False, "float32", "float32"),
    (4, 4, False, "float32", "float32"),
    (4, 1, False, "float16", "float16"),
    (4, 4, False, "float16", "float16"),
]


WORKING_SET = 250 << 20
"""Bytes: five times the L2 cache of an H100."""


def quantizer(d: int, bits: int, prod: bool) -> Any:
    return tq.prod.setup(d, bits, 1) if prod else tq.mse.setup(d, bits, 1)


def truth_of(Q: Any, q: Any, keys: layout.Prepared, head: int) -> Any:
    """float64 logits of the queries of one kv head, from the bytes of its codes."""
    import torch

    n, group = keys.shape[-1], q.shape[1] // keys.shape[1]
    rows = q[0, head * group : (head + 1) * group, 0].double() / math.sqrt(Q.d)
    parts = [rows @ decoded(Q, keys, 0, head, s, min(s + 65536, n)).T for s in range(0, n, 65536)]
    return torch.cat(parts, dim=1)


def problem(d: int, bits: int, queries: int, prod: bool, scalars: str, out: str, n: int) -> tuple[Any, Any, Any, Any]:
    """Quantizer, keys, queries, and poisoned room for the logits."""
    import torch

    Q = quantizer(d, bits, prod)
    q = torch.randn(1, HEADS * queries, 1, d, device="cuda")
    room = torch.full((1, HEADS * queries, 1, n), float("nan"), device="cuda", dtype=getattr(torch, out))
    return Q, codes(Q, (1, HEADS, n), scalars, 3), q, room


def moved(keys: layout.Prepared, room: Any) -> int:
    """Bytes that must be read and written."""
    return keys.nbytes + room.numel() * room.element_size()


def measure(
    bits: int,
    queries: int,
    prod: bool = False,
    scalars: str = "float16",
    out: str = "float32",
    d: int = 128,
    n: int = KEYS,
) -> dict[str, Any]:
    """One row of the table; sets of keys take turns, so that at least `WORKING_SET` bytes lie between two uses."""
    import torch

    Q, keys, q, room = problem(d, bits, queries, prod, scalars, out, n)
    call = logits.fix(Q, q, keys, out=room)
    call()
    torch.cuda.synchronize()
    written = bool(torch.isfinite(room).all())
    errors = [
        error(room[0, h * queries : (h + 1) * queries, 0], truth_of(Q, q, keys, h)) for h in (0, HEADS - 1)
    ]
    sets = math.ceil(WORKING_SET / moved(keys, room))
    turns = [call, *(logits.fix(Q, q, codes(Q, (1, HEADS, n), scalars, i), out=room) for i in range(4, 3 + sets))]

    def all_turns() -> None:
        for each in turns:
            each()

    eager, graph = (microseconds(f) / len(turns) for f in (all_turns, graph_of(all_turns)))
    kernel = microseconds(lambda: [each.kernel(torch.cuda.current_stream().cuda_stream) for each in turns]) / len(turns)
    return {
        "bits": bits, "prod": prod, "queries": queries, "scalars": scalars, "logits": out, "d": d, "keys": [HEADS, n],
        "call_us": eager, "graph_us": graph, "kernel_us": kernel, "bytes": moved(keys, room),
        "copy_share": moved(keys, room) / eager / ceilings.copy_bandwidth(), "error": max(errors), "written": written,
        "registers": call.registers,
    }  # fmt: skip


def plain(bits: int = 4, n: int = KEYS) -> dict[str, Any]:
    """The plain kernel, one query a head, its arguments fixed: it turns the query too."""
    import torch

    Q, keys, q, room = problem(128, bits, 1, False, "float16", "float32", n)
    call = logits.FixedPlain(logits.problem(Q, q, keys, None, None), q, room, _launch.home_of(q))
    call()
    torch.cuda.synchronize()
    wrong = error(room[0, :1, 0], truth_of(Q, q, keys, 0))
    return {
        "bits": bits, "keys": [HEADS, n], "call_us": microseconds(call), "graph_us": microseconds(graph_of(call)),
        "bytes": moved(keys, room), "error": wrong,
    }  # fmt: skip


def paged(bits: int = 4, queries: int = 4, page: int = 64, n: int = 16384, batch: int = 32) -> dict[str, Any]:
    """Pages in random order, a batch of sequences."""
    import torch

    Q = quantizer(128, bits, False)
    contiguous = codes(Q, (batch, HEADS, n), "float16", 3)
    keys = pages(contiguous, page)
    q = torch.randn(batch, HEADS * queries, 1, 128, device="cuda")
    room = torch.full((batch, HEADS * queries, 1, n), float("nan"), device="cuda")
    call = logits.fix(Q, q, keys, out=room)
    call()
    truth = truth_of(Q, q[:1], contiguous, 1)
    us = microseconds(graph_of(call))
    return {
        "bits": bits, "queries": queries, "page": page, "sequences": batch, "keys": [HEADS, n], "graph_us": us,
        "copy_share": moved(keys, room) / us / ceilings.copy_bandwidth(),
        "error": error(room[0, queries : 2 * queries, 0], truth),
    }  # fmt: skip


def run() -> dict[str, Any]:
    """Measure and print."""
    import torch

    jax, torches = ceilings.jax_float32(), ceilings.torch_products()
    rows = []
    print(f"{HEADS} x {KEYS:,} keys, d = 128; call and graph prepare the queries too; the ratios are of the call")
    print("bits queries scalars logits |  call  graph kernel us | copy   error | jax f32 torch f32 torch bf16")
    for case in CASES:
        row = measure(*case)
        n = row["queries"]
        for name, base in (("jax_float32", jax), ("float32", torches["float32"]), ("bfloat16", torches["bfloat16"])):
            row[f"times_{name}"] = base[n] / row["call_us"]
        rows.append(row)
        print(
            f"{row['bits']}{' prod' if row['prod'] else ''} {n} {row['scalars']} {row['logits']} | "
            f"{row['call_us']:6.1f} {row['graph_us']:6.1f} {row['kernel_us']:6.1f} | {row['copy_share']:.3f} "
            f"{row['error']:.1e}{'' if row['written'] else ' NOT ALL WRITTEN'} | {row['times_jax_float32']:.2f} "
            f"{row['times_float32']:.2f} {row['times_bfloat16']:.2f}",
            flush=True,
        )
        torch.cuda.empty_cache()
    others = [
        *(measure(4, q, n=131072) for q in (1, 4)),
        *(measure(4, q, d=d, n=KEYS * 128 // d) for d in (64, 256) for q in (1, 4)),
    ]
    for row in others:
        print(
            f"4 bits, {row['queries']} queries, d = {row['d']}, {row['keys']} keys: call {row['call_us']:.1f}, graph "
            f"{row['graph_us']:.1f} us, copy {row['copy_share']:.3f}, error {row['error']:.1e}",
            flush=True,
        )
    slow, in_pages = plain(), [paged(page=size) for size in (64, 16)]
    slow["times_jax_float32"] = jax[1] / slow["call_us"]
    print(
        f"plain kernel, 4 bits: call {slow['call_us']:.1f}, graph {slow['graph_us']:.1f} us, error "
        f"{slow['error']:.1e}; jax f32 {slow['times_jax_float32']:.2f}"
    )
    for row in in_pages:
        print(
            f"4 bits, 4 queries, pages of {row['page']}, {row['sequences']} sequences, {row['keys']} keys: graph "
            f"{row['graph_us']:.1f} us, copy {row['copy_share']:.3f}, error {row['error']:.1e}"
        )
    return {"rows": rows, "others": others, "plain": slow, "paged": in_pages, "host_us": host()}


def host() -> dict[str, float]:
    """Microseconds of the host for a call of few keys, and of the device."""
    import time

    import torch

    Q, keys, q, room = problem(128, 4, 1, False, "float16", "float32", 4096)
    call = logits.fix(Q, q, keys, out=room)
    replay = graph_of(call)

    def of(f: Any, n: int) -> float:
        f()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(n):
            f()
        elapsed = time.perf_counter() - start
        torch.cuda.synchronize()
        return elapsed / n * 1e6

    out = {
        "fixed call": of(call, 1000), "graph": of(replay, 1000),
        "plain call": of(lambda: logits.logits(Q, q, keys), 200),
        "device, fixed call": microseconds(call), "device, graph": microseconds(replay),
    }  # fmt: skip
    print("us a call, 8 x 4,096 keys: " + ", ".join(f"{k} {v:.1f}" for k, v in out.items()), flush=True)
    return out
