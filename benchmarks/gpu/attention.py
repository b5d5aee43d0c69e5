"""Decode attention from packed keys and values: time, bytes, share of the copy bandwidth, error, ratio to bf16 SDPA.

Codes are those of standard normal vectors, made on the device; the reference is float64 attention over the same codes.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

import turboquant_ref as tq
from cuda_kernels import attention, layout

SHAPES = (("1 x 131,072", 1, 131072), ("1 x 524,288", 1, 524288), ("32 x 4,096", 32, 4096))
"""Sequences and their tokens."""


def pack(indices: Any, bits: int) -> Any:
    """Indices (…, n) below 2^bits to bytes, least significant bit first, on the device."""
    import torch

    step = 8 // bits
    out = torch.zeros_like(indices[..., ::step])
    for i in range(step):
        out |= indices[..., i::step] << (bits * i)
    return out


def codes(Q: Any, shape: tuple[int, int, int], scalars: str, seed: int) -> layout.Prepared:
    """Prepared codes of standard normal vectors; a rotation would leave their law as it is, so none is applied."""
    import torch

    form = layout.form_of(Q)
    generator = torch.Generator("cuda").manual_seed(seed)
    boundaries = torch.tensor(Q.codebook.boundaries * math.sqrt(Q.d), dtype=torch.float32, device="cuda")
    dtype = getattr(torch, scalars)
    empty = lambda *tail, dtype=torch.uint8: torch.empty((*shape, *tail), dtype=dtype, device="cuda")  # noqa: E731
    out = layout.Prepared(
        form, empty(form.row), empty(form.row_high) if form.row_high else None, empty(dtype=dtype),
        empty(dtype=dtype) if form.residuals else None, scalars, Q.fingerprint,
    )  # fmt: skip
    for b in range(shape[0]):
        for h in range(shape[1]):
            x = torch.randn(shape[2], Q.d, generator=generator, device="cuda")
            numbers = torch.bucketize(x, boundaries, right=True).to(torch.uint8)
            out.scales[b, h] = x.norm(dim=1)
            if form.merged:
                signs = torch.randint(0, 2, x.shape, generator=generator, device="cuda", dtype=torch.uint8)
                numbers |= signs << (form.bits - 1)
                if form.residuals:
                    out.residuals[b, h] = 0.3 + 0.1 * torch.rand(shape[2], generator=generator, device="cuda")
            if form.planes:
                upper = (numbers >> 2).reshape(shape[2], -1, 2, 8, 2).transpose(-3, -2).reshape(shape[2], -1)
                out.codes[b, h], out.high[b, h] = pack(numbers & 3, 2), pack(upper, 1)
            else:
                out.codes[b, h] = pack(numbers, form.bits)
    return out


def decoded(Q: Any, x: layout.Prepared, b: int, h: int, start: int, stop: int) -> Any:
    """The vectors of some codes, float64, on the device, from the bytes (not by any kernel of ours)."""
    import torch

    def bits_of(a: Any) -> Any:
        return (a[..., None] >> torch.arange(8, device="cuda", dtype=torch.uint8) & 1).reshape(len(a), -1)

    form, these = x.form, slice(start, stop)
    width = 2 if form.planes else form.bits
    weights = 2 ** torch.arange(width, device="cuda")
    numbers = (bits_of(x.codes[b, h, these]).reshape(stop - start, -1, width) * weights).sum(-1)
    if form.planes:
        upper = bits_of(x.high[b, h, these]).reshape(stop - start, -1, 8, 2, 2).transpose(-3, -2)
        numbers = numbers | upper.reshape(numbers.shape).long() << 2
    centroids = torch.tensor(Q.codebook.centroids, device="cuda")
    scales = x.scales[b, h, these].double()[:, None]
    pi = torch.tensor(np.array(Q.rotation.matrix()), device="cuda")
    if not form.merged:
        return scales * (centroids[numbers] @ pi)
    low = form.bits - 1
    signs = (numbers >> low).double() * 2 - 1
    residuals = x.residuals[b, h, these].double()[:, None] if form.residuals else Q.expected_residual
    sketch = torch.tensor(np.array(Q.sketch.matrix()), device="cuda")
    return scales * (centroids[numbers & (2**low - 1)] @ pi + residuals * Q.sketch.constant * (signs @ sketch))


def expected(
    Qk: Any, Qv: Any, q: Any, keys: Any, values: Any, causal: bool = True, window: int | None = None,
    lengths: Any = None, scale: float | None = None,
) -> Any:  # fmt: skip
    """float64 attention over the codes: (batch, heads, n_queries, d)."""
    import torch

    batch, heads, n_queries, d = q.shape
    kv_heads, n_most = keys.shape[1], keys.shape[2]
    out = torch.zeros((batch, heads, n_queries, Qv.d), dtype=torch.float64, device="cuda")
    group = heads // kv_heads
    scale = 1 / math.sqrt(d) if scale is None else scale
    for b in range(batch):
        n = n_most if lengths is None else int(lengths[b])
        for h in range(kv_heads):
            rows = q[b, h * group : (h + 1) * group].reshape(-1, d).double()
            k, v = decoded(Qk, keys, b, h, 0, n), decoded(Qv, values, b, h, 0, n)
            s = (rows @ k.T * scale).reshape(group, n_queries, n)
            distance = torch.arange(n - n_queries, n, device="cuda")[:, None] - torch.arange(n, device="cuda")
            if causal:
                s = s.masked_fill(distance < 0, -math.inf)
            if window is not None:
                s = s.masked_fill(distance.abs() >= window, -math.inf)
            w = torch.softmax(s, -1).nan_to_num(0)
            out[b, h * group : (h + 1) * group] = (w.reshape(-1, n) @ v).reshape(group, n_queries, -1)
    return out


def error(out: Any, truth: Any) -> float:
    """||out - truth|| / ||truth||; not a number if an element was not written."""
    return float((out.double() - truth).norm() / truth.norm())


def microseconds(call: Any, repeats: int = 30, warm: int = 5) -> float:
    """Median over `repeats` of the time between two events around a call; the queue is never empty.

    A device that has been idle, while a kernel was compiled, say, takes tens of milliseconds to raise its clock: it is
    kept busy for a tenth of a second first.
    """
    import torch

    start = time.perf_counter()
    while time.perf_counter() - start < 0.1:
        for _ in range(warm):
            call()
        torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(1_000_000)
        before.record()
        call()
        after.record()
        times.append((before, after))
    torch.cuda.synchronize()
    return float(np.median([a.elapsed_time(b) for a, b in times])) * 1e3


def graph_of(call: Any) -> Any:
    """The call captured in a CUDA graph, to be replayed."""
    import torch

    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def sdpa(batch: int, kv_heads: int, n: int, d: int, group: int) -> dict[str, float]:
    """Times of torch's bf16 scaled_dot_product_attention, by backend."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(batch, kv_heads * group, 1, d, device="cuda", dtype=torch.bfloat16)
    k, v = (torch.randn(batch, kv_heads, n, d, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = {}
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION"):
        backend = getattr(SDPBackend, name)

        def call(backend: Any = backend) -> None:
            with sdpa_kernel(backend):
                torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

        try:
            times[name] = microseconds(call)
        except RuntimeError as reason:
            print(f"{name}: {str(reason).splitlines()[0]}")
    return times


def quantizers(d: int, key_bits: int, value_bits: int, prod: bool = False, **options: Any) -> tuple[Any, Any]:
    """Quantizers with different rotations for keys and values."""
    keys = tq.prod.setup(d, key_bits, 1, **options) if prod else tq.mse.setup(d, key_bits, 1)
    return keys, tq.mse.setup(d, value_bits, 2)


def pages(x: layout.Prepared, size: int) -> layout.Prepared:
    """The same codes in pages, in a random order that is the same for keys and values."""
    import torch

    batch, heads, n = (int(k) for k in x.scales.shape)
    per = n // size
    order = torch.randperm(batch * per, device="cuda", generator=torch.Generator("cuda").manual_seed(size))

    def paged(a: Any) -> Any:
        if a is None:
            return None
        split = a.reshape(batch, heads, per, size, *a.shape[3:]).transpose(1, 2).reshape(-1, heads, size, *a.shape[3:])
        out = torch.empty_like(split)
        out[order] = split
        return out

    parts = [paged(a) for a in (x.codes, x.high, x.scales, x.residuals)]
    lengths = torch.full((batch,), n, dtype=torch.int32, device="cuda")
    whole = layout.Prepared(x.form, *parts, x.scalars, x.fingerprint)
    return layout.paged(whole, order.reshape(batch, per).int(), lengths)


CASES = (
    # name, sequences, tokens, options of `measure`
    *((f"K{k}V{v}, {name}", batch, n, {"bits": (k, v)}) for k, v in ((4, 4), (4, 3), (4, 2), (3, 3), (2, 2))
      for name, batch, n in (SHAPES if k == v == 4 else SHAPES[1:2] if k > v else SHAPES[1:])),
    ("K4V4, float32 scalars, 1 x 524,288", 1, 524288, {"scalars": "float32"}),
    ("prod 4 bits, V4, 1 x 524,288", 1, 524288, {"prod": True}),
    ("K4V4, GQA 8, 1 x 524,288", 1, 524288, {"group": 8}),
    ("K4V4, 32 heads, no grouping, 1 x 32,768", 1, 32768, {"group": 1, "kv_heads": 32}),
    ("K4V4, pages of 16, 32 x 4,096", 32, 4096, {"page": 16}),
    ("K4V4, d = 64, 1 x 524,288", 1, 524288, {"d": 64}),
    ("K4V4, d = 256, 1 x 262,144", 1, 262144, {"d": 256}),
)  # fmt: skip
WORKING_SET = 250 << 20
"""Bytes: five times the L2 cache of an H100."""


def measure(
    batch: int, n: int, bits: tuple[int, int] = (4, 4), prod: bool = False, scalars: str = "float16", group: int = 4,
    kv_heads: int = 8, d: int = 128, dtype: str = "float32", page: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One row of the table; sets of codes take turns, so that at least `WORKING_SET` bytes lie between two uses."""
    import torch

    from . import ceilings

    Qk, Qv = quantizers(d, *bits, prod)
    shape = (batch, kv_heads, n)
    q = torch.randn(batch, kv_heads * group, 1, d, device="cuda").to(getattr(torch, dtype))
    out = torch.full_like(q, math.nan)
    keys, values = codes(Qk, shape, scalars, 3), codes(Qv, shape, scalars, 4)
    truth = expected(Qk, Qv, q, keys, values)
    bytes_ = keys.nbytes + values.nbytes + 2 * q.numel() * q.element_size()
    if page:
        keys, values = pages(keys, page), pages(values, page)
    call = attention.fix(Qk, Qv, q, keys, values, out=out)
    call()
    wrong = error(out, truth)
    sets = min(math.ceil(WORKING_SET / bytes_), 4) if n * batch >= 65536 and not page else 1
    turns = [call]
    for i in range(1, sets):
        more = codes(Qk, shape, scalars, 3 + 2 * i), codes(Qv, shape, scalars, 4 + 2 * i)
        turns.append(attention.fix(Qk, Qv, q, *more, out=out))

    def all_turns() -> None:
        for each in turns:
            each()

    eager, graph = (microseconds(f) / len(turns) for f in (all_turns, graph_of(all_turns)))
    return {
        "sequences": batch, "tokens": n, "kv_heads": kv_heads, "group": group, "d": d, "bits": list(bits), "prod": prod,
        "scalars": scalars, "queries": dtype, "page": page, "call_us": eager, "graph_us": graph, "bytes": bytes_,
        "copy_share": bytes_ / graph / ceilings.copy_bandwidth(), "error": wrong, "splits": call.splits,
        "registers": [f.registers for f in call.functions], "local": [f.local for f in call.functions],
    }  # fmt: skip


def run() -> dict[str, Any]:
    """Measure and print."""
    import torch

    from .turbo_attn import ask_peer, start_peer

    peer, said = start_peer()
    rows, best = [], {}
    print("decode attention, 8 kv heads, GQA 4, d = 128; with the queries' rotation and the output's rotation back")
    for name, batch, n in SHAPES:
        best[batch, n] = sdpa(batch, 8, n, 128, 4)
        print(f"bf16 SDPA, {name}: " + ", ".join(f"{k} {v:.1f} us" for k, v in best[batch, n].items()), flush=True)
        torch.cuda.empty_cache()
    print("case | call graph us | share of copy | error | times SDPA, call to call")
    for name, batch, n, options in CASES:
        row = {"case": name, **measure(batch, n, **options)}
        same = row["d"] == 128 and row["kv_heads"] == 8 and row["group"] == 4 and (batch, n) in best
        row["times_sdpa"] = min(best[batch, n].values()) / row["call_us"] if same else None
        rows.append(row)
        ratio = f"{row['times_sdpa']:.2f}" if same else "-"
        print(
            f"{name} | {row['call_us']:.1f} {row['graph_us']:.1f} | {row['copy_share']:.3f} | {row['error']:.1e} | "
            f"{ratio}",
            flush=True,
        )
        torch.cuda.empty_cache()
    peers = ask_peer(peer, said)
    for row in peers:
        print(row, flush=True)
    return {
        "sdpa_us": {f"{batch} x {n}": times for (batch, n), times in best.items()}, "rows": rows, "peers": peers,
    }  # fmt: skip
