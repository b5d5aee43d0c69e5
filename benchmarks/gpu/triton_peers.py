"""Public Triton kernels for packed codes, where they are installed: time, what they leave unwritten, error.

    turboquant-vllm 1.5.0     `fused_qk_scores` (4 bits), `triton_flash_attention_tq4_kv`, `fused_paged_tq4_decode`
    fused-turboquant 0.1.0    `fused_qk_scores_rht` (4, 3, 2 bits)

Their packages import inference engines, so each kernel's file is loaded by itself. Codes are random bytes in the order
that each kernel reads them; the truth is float64, from the same bytes. Their logits take queries already turned, ours
turn them. A call's output is poisoned by way of the allocator, which gives it the memory that was last given back.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from typing import Any

import turboquant_ref as tq

from . import attention, logits
from .attention import error, microseconds

HEADS, D = 8, 128
LOGIT_KEYS, TOKENS, SEQUENCES, PAGE = 524288, 131072, (32, 4096), 16


@functools.cache
def kernel(package: str, file: str, name: str) -> Any:
    """A function of one file of a package that is not imported."""
    place = importlib.util.find_spec(package)
    if place is None or not place.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not installed")
    spec = importlib.util.spec_from_file_location(name, f"{place.submodule_search_locations[0]}/{file}.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return getattr(module, name)


def bytes_of(*shape: int) -> Any:
    import torch

    return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")


def norms_of(*shape: int) -> Any:
    import torch

    return 11 + torch.rand(shape, device="cuda")


def centroids(bits: int) -> Any:
    import torch

    return torch.tensor(tq.codebook.lloyd_max(D, bits).centroids, dtype=torch.float32, device="cuda")


def vectors(raw: Any, norms: Any, bits: int, high_first: bool) -> Any:
    """float64 rows of the packed rows (n, bytes): a bit stream from the lowest bit on, or the upper nibble first."""
    import torch

    if high_first:
        raw = raw << 4 | raw >> 4
    stream = (raw[..., None] >> torch.arange(8, device="cuda", dtype=torch.uint8) & 1).reshape(len(raw), -1, bits)
    numbers = sum(stream[..., i].int() << i for i in range(bits))
    return centroids(bits).double()[numbers] * norms.double()[:, None]


def called(call: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """What a call gives where it finds its memory poisoned."""
    import torch

    call()  # tuned, compiled
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    poison = torch.full(shape, math.nan, device="cuda", dtype=dtype)
    del poison
    out = call()
    torch.cuda.synchronize()
    return out


def timed(call: Any) -> float:
    return microseconds(call, 5, 1)


def of_logits(package: str, bits: int, queries: int) -> dict[str, Any]:
    """Logits of `queries` queries a kv head."""
    import torch

    nibbles = package == "turboquant_vllm"
    raw, norms = bytes_of(1, HEADS, LOGIT_KEYS, D * bits // 8), norms_of(1, HEADS, LOGIT_KEYS)
    q, scale, book = torch.randn(1, HEADS * queries, 1, D, device="cuda"), 1 / math.sqrt(D), centroids(bits)
    if nibbles:
        scores = kernel(package, "triton/fused_qk_attention", "fused_qk_scores")
        heads = {"n_q_heads": HEADS * queries, "n_kv_heads": HEADS}
        call = functools.partial(scores, q, raw, norms, book, scale, **heads)
    else:
        scores = kernel(package, "kernels/triton_attention", "fused_qk_scores_rht")
        call = functools.partial(scores, q, raw, norms, book, scale, bits=bits)
    got = called(call, (HEADS * queries, LOGIT_KEYS), torch.float32)[0, 0, 0]
    parts = zip(raw[0, 0].split(65536), norms[0, 0].split(65536), strict=True)
    truth = scale * torch.cat([vectors(*part, bits, nibbles) @ q[0, 0, 0].double() for part in parts])
    written = torch.isfinite(got)
    return {
        "us": timed(call), "written": float(written.double().mean()), "error": error(got[written], truth[written]),
        "ours_us": logits.measure(bits, queries)["call_us"],
    }  # fmt: skip


def attended(q: Any, k: Any, v: Any, rotation: Any) -> Any:
    """float64 attention of the queries (group, D) of one head."""
    import torch

    return torch.softmax(q.double() @ rotation.T.double() @ k.T / math.sqrt(D), -1) @ v @ rotation.double()


def of_attention(paged: bool) -> dict[str, Any]:
    """Decode attention with keys and values of 4 bits, four queries a kv head."""
    import torch

    sequences, n = SEQUENCES if paged else (1, TOKENS)
    group, half, book = 4, D // 2, centroids(4)
    rotation = torch.tensor(tq.rotation.haar(D, 1).matrix(), dtype=torch.float32, device="cuda")
    q = torch.randn(sequences, HEADS * group, 1, D, device="cuda").bfloat16()
    raw, norms = bytes_of(2, sequences, n, HEADS, half), norms_of(2, sequences, n, HEADS)
    if paged:
        slots = torch.cat([part for i in range(2) for part in (raw[i].flatten(-2), norms[i].view(torch.uint8))], -1)
        cache = slots.reshape(sequences * n // PAGE, PAGE, -1).contiguous()
        table = torch.arange(len(cache), dtype=torch.int32, device="cuda").reshape(sequences, -1)
        lengths = torch.full((sequences,), n, dtype=torch.int32, device="cuda")
        decode = kernel("turboquant_vllm", "triton/fused_paged_tq4_attention", "fused_paged_tq4_decode")
        call = functools.partial(decode, q[:, :, 0], cache, table, lengths, book, rotation, HEADS, D, PAGE)
    else:
        flash = kernel("turboquant_vllm", "triton/flash_attention_tq4_kv", "triton_flash_attention_tq4_kv")
        k, v = (raw[i].transpose(1, 2).contiguous() for i in range(2))
        k_norms, v_norms = (norms[i].transpose(1, 2).contiguous() for i in range(2))
        call = functools.partial(flash, q, k, k_norms, v, v_norms, book, rotation)
    got = call().reshape(sequences, HEADS, group, D)[-1, 0]
    k, v = (vectors(raw[i, -1, :, 0], norms[i, -1, :, 0], 4, True) for i in range(2))
    truth = attended(q[-1, :group, 0], k, v, rotation)
    ours = attention.measure(sequences, n, page=PAGE if paged else 0)
    return {"us": timed(call), "error": error(got, truth), "ours_us": ours["call_us"]}


CASES = (
    *((f"{p}: logits, {b} bits, {q} queries", functools.partial(of_logits, p, b, q))
      for p, b, q in (("turboquant_vllm", 4, 1), ("turboquant_vllm", 4, 4), ("fused_turboquant", 4, 1),
                      ("fused_turboquant", 4, 4), ("fused_turboquant", 3, 1), ("fused_turboquant", 2, 1))),
    ("turboquant_vllm: attention, K4V4, 1 x 131,072", functools.partial(of_attention, False)),
    ("turboquant_vllm: attention, K4V4, pages of 16, 32 x 4,096", functools.partial(of_attention, True)),
)  # fmt: skip


def run() -> dict[str, Any]:
    """Measure and print."""
    import torch

    rows = []
    print("kernel | us, ours, times | error, of what is written")
    for name, measure in CASES:
        try:
            row = {"case": name, **measure()}
        except Exception as reason:  # not installed, or it does not run here
            row = {"case": name, "missing": f"{type(reason).__name__}: {(str(reason).splitlines() or [''])[0]}"}
            print(f"{name} | {row['missing']}", flush=True)
        else:
            row["times"] = row["us"] / row["ours_us"]
            print(
                f"{name} | {row['us']:.1f} {row['ours_us']:.1f} {row['times']:.1f} | {row['error']:.1e}"
                + (f", {row['written']:.1%} written" if row.get("written", 1) < 1 else ""),
                flush=True,
            )
        rows.append(row)
        torch.cuda.empty_cache()
    return {"rows": rows}
