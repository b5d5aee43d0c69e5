"""turbo-attn's decode kernel beside ours, where it is installed: in its own process, which compiles it meanwhile."""

from __future__ import annotations

import json
import math
import os
import queue
import subprocess
import sys
import threading
from typing import Any

import numpy as np

import turboquant_ref as tq

from .attention import SHAPES, error, microseconds


def turbo_attn(shapes: Any, tiles: Any = (8,), kv_heads: int = 8, group: int = 4, d: int = 128) -> Any:
    """turbo-attn's split-K decode kernel (PyPI turbo-attn 0.70.1), best of its splits: a row for each shape.

    It is called as its own engine code calls it, without an engine: a paged cache of K4V4 slots, random codes,
    queries already rotated and scaled.  It compiles itself with nvcc when it is first used.
    """
    import torch
    from tkv.kernels.cuda_compress_store import fused_cs_layout
    from tkv.kernels.loaders.loader import TkvDecodeLoader
    from tkv.kernels.turbo_attn_simt import tq_splitk_batch_decode

    page, row = 16, d // 2
    lay = fused_cs_layout(kv_heads, row, row, page_size=page)
    offsets = {name: lay[name] for name in ("k_packed_off", "k_norm_off", "v_packed_off", "v_norm_off")}
    book = torch.tensor(tq.codebook.lloyd_max(d, 4).centroids, dtype=torch.float32, device="cuda")
    for name, batch, n in shapes:
        pages = batch * n // page
        cache = torch.randint(0, 256, (pages, page, lay["total_bytes"]), dtype=torch.uint8, device="cuda")
        for part in ("k_norm_off", "v_norm_off"):
            norms = (11 + torch.rand(pages, page, kv_heads, device="cuda")).bfloat16()
            cache[:, :, lay[part] : lay[part] + 2 * kv_heads] = norms.view(torch.uint8)
        ints = lambda a: torch.as_tensor(a, dtype=torch.int32, device="cuda")  # noqa: E731
        loader = TkvDecodeLoader.from_compressed(
            kv_cache=cache, k_centroids=book, v_centroids=book,
            paged_kv_indptr=ints(np.arange(batch + 1) * (n // page)), paged_kv_indices=ints(np.arange(pages)),
            paged_kv_last_page_len=ints(np.full(batch, page)), page_size=page, num_kv_heads=kv_heads, k_packed_dim=row,
            v_packed_dim=row, k_bw=4, v_bw=4, **offsets,
        )  # fmt: skip
        q = (torch.randn(batch, kv_heads * group, d, device="cuda") / math.sqrt(d)).bfloat16()
        slots, table, b = cache.reshape(-1, lay["total_bytes"]), book.double(), batch - 1

        def side(part: str, slots: Any = slots, b: int = b, n: int = n, table: Any = table) -> Any:
            at, norm_at = lay[f"{part}_packed_off"], lay[f"{part}_norm_off"]
            these = slots[b * n : (b + 1) * n]
            codes_ = these[:, at : at + row]
            numbers = torch.stack([codes_ & 15, codes_ >> 4], -1).reshape(n, d).long()
            norm = these[:, norm_at : norm_at + 2].contiguous().view(torch.bfloat16).double()
            return table[numbers] * norm

        k, v = side("k"), side("v")  # of the last sequence's first head
        truth = torch.softmax(q[b, :group].double() @ k.T, -1) @ v
        del k, v
        times = {}
        for tile in tiles:
            for splits in (1, 2, 4, 8, 16, 32, 33, 64, 66, 128, 256):
                out = torch.full_like(q, math.nan)

                options = {"loader": loader, "num_splits": splits, "out": out, "hpw": 8, "tile_tokens": tile}

                def call(q: Any = q, options: Any = options) -> Any:
                    return tq_splitk_batch_decode(q, **options)

                try:
                    got = call()
                    times[microseconds(call, 10, 2)] = (tile, splits, error(got[b, :group], truth))
                except RuntimeError as reason:
                    refused = str(reason)[:200]
                    yield {"peer": "turbo-attn", "case": name, "tile": tile, "splits": splits, "refused": refused}
                    break
        if times:
            best = min(times)
            tile, splits, wrong = times[best]
            yield {"peer": "turbo-attn", "case": name, "us": best, "tile": tile, "splits": splits, "error": wrong}


def start_peer() -> tuple[Any, Any]:
    """turbo-attn in a process of its own, which compiles it while we measure; and the queue of its lines."""
    environment = {**os.environ, "TORCH_CUDA_ARCH_LIST": "9.0"}
    command = [sys.executable, "-m", "benchmarks.gpu.turbo_attn"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    peer = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]
    lines: Any = queue.Queue()

    def read() -> None:
        for line in peer.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return peer, lines


def ask_peer(peer: Any, lines: Any, patience: float = 45) -> list[dict[str, Any]]:
    """Let the other process measure, now that the device is free; what it said, or why it did not."""
    rows: list[dict[str, Any]] = []
    try:
        line = lines.get(timeout=patience)
        if line is not None and line.strip() == "ready":
            peer.stdin.write("go\n")
            peer.stdin.flush()
            line = lines.get(timeout=patience)
        while line is not None:
            if line.startswith("{"):
                rows.append(json.loads(line))
            line = lines.get(timeout=patience)
    except queue.Empty:
        rows.append({"peer": "turbo-attn", "missing": f"not compiled, or not done, after another {patience:.0f} s"})
    peer.kill()
    return rows


def be_peer() -> None:
    """The other process."""
    try:
        for _ in turbo_attn([("warm", 1, 4096)]):
            pass
        print("ready", flush=True)
        sys.stdin.readline()
        for row in turbo_attn(SHAPES):
            print(json.dumps(row), flush=True)
    except Exception as reason:  # not installed, or it does not compile or run here
        said = f"{type(reason).__name__}: {(str(reason).splitlines() or [''])[0]}"
        print(json.dumps({"peer": "turbo-attn", "missing": said}), flush=True)


if __name__ == "__main__":
    be_peer()
