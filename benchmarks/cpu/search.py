"""Exhaustive search: million scores a second and recall@10, a batch of 64 queries and a single one.

`share` is ours of the machine's limit, which takes its turn in the same rounds: of a batch, products in registers; of a
single query, reading as many bytes as the codes take in a plain loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import numba_kernels as nk
import turboquant_ref as tq
from numba_kernels._jit import in_parts

from . import ceilings, peers, vectors
from .timing import interleaved

K = 10
BATCH = 64
RECALL_QUERIES = 256

Cell = tuple[str, int, int, tuple[int, ...], str]
MAIN: list[Cell] = [
    ("random", 128, 100_000, (4, 2, 3, 1), "all"),
    ("clustered", 128, 100_000, (4, 2), "all"),
    ("glove", 50, 8_000, (4, 2), "fast"),
]
"""(data, d, n, bits, which contenders)"""
AGAINST_TURBOVEC: list[Cell] = [
    (data, d, n, (4, 2), "turbovec")
    for d, n in ((128, 20_000), (128, 1_000_000), (768, 20_000), (768, 100_000), (1536, 20_000), (1536, 100_000))
    for data in ("random", "clustered")
]
LARGE: list[Cell] = [(data, d, 1_000_000, (4, 2), "turbovec") for d in (768, 1536) for data in ("random", "clustered")]
QUICK: list[Cell] = [("random", 128, 20_000, (4, 2), "all"), ("glove", 50, 8_000, (4,), "fast")]


def ours(x: np.ndarray, bits: int) -> dict[str, peers.Index]:
    Q = tq.mse.setup(x.shape[1], bits, 0, "structured", "unbiased")
    prepared = nk.mse.encode(Q, x)
    stored = prepared.nbytes / prepared.n

    def search(precision: str, y: np.ndarray, k: int) -> np.ndarray:
        return nk.search.topk(Q, prepared, y, k, precision=precision)[1]

    return {f"ours {p}": (stored, partial(search, p)) for p in nk.search.PRECISIONS}


def limits(batch: int, size: int) -> dict[str, tuple[float, Callable[[], Any]]]:
    """Work, and a call that does it and nothing else, for each of our precisions: products, or bytes."""
    if batch == 1:
        read = partial(ceilings.read, np.ones(size // 8, np.int64))
        return {f"ours {p}": (float(size), read) for p in nk.search.PRECISIONS}
    products = ceilings.products()
    return {f"ours {p}": products[p] for p in nk.search.PRECISIONS}


def contenders(x: np.ndarray, bits: int, which: str, packages: list[str]) -> Iterator[tuple[str, peers.Index]]:
    yield from ours(x, bits).items()
    d, few = x.shape[1], bits in (2, 4)
    if "turbovec" in packages and few and d % 8 == 0:
        yield "turbovec", peers.turbovec(x, bits)
        if len(x) >= 100_000 and bits == 4:
            yield "turbovec, k=80", peers.turbovec(x, bits, 8)
    if which == "turbovec":
        return
    if "faiss" in packages and few:
        yield "faiss PQFastScan", peers.faiss_fastscan(x, bits)
        if bits == 4 and which == "all":
            yield "faiss SQtqmse4", peers.faiss_tqmse(x, bits)
    if "rabitqlib" in packages and few and which == "all":
        yield "rabitqlib", peers.rabitqlib(x, bits)
    if bits == 4:
        yield "numpy float32", peers.numpy_matmul(x, bits)


def run(cells: list[Cell], seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
    """Measure the cells, each for about `seconds`, and report a row for each contender and batch."""
    packages = peers.installed("faiss", "turbovec", "rabitqlib")
    if "faiss" in packages:
        import faiss

        faiss.omp_set_num_threads(1)
    nk.set_threads(1)
    made: tuple[Any, ...] = ()
    for data, d, n, widths, which in cells:
        if made[:1] != ((data, d, n),):
            x, y = vectors.DATA[data](d, n, RECALL_QUERIES)
            made = ((data, d, n), x, y, vectors.nearest(x, y, K))
        _, x, y, truth = made
        for bits in widths:
            start = time.perf_counter()
            indices = dict(contenders(x, bits, which, packages))
            recalls = {name: vectors.recall(search(y, K), truth) for name, (_, search) in indices.items()}
            built = time.perf_counter() - start
            for batch in (BATCH, 1):
                calls = {name: partial(search, y[:batch].copy(), K) for name, (_, search) in indices.items()}
                roofs = limits(batch, int(indices["ours int8"][0] * len(x)))
                others = {f"limit of {name}": call for name, (_, call) in roofs.items()}
                found = interleaved(calls | others, seconds / 2)
                for name, timing in list(found.items())[: len(calls)]:
                    stored = indices[name][0]
                    rate = batch * len(x) / timing.median
                    share = None
                    if name in roofs:
                        work = rate * x.shape[1] if batch > 1 else roofs[name][0] / timing.median
                        share = work / (roofs[name][0] / found[f"limit of {name}"].median)
                    report(
                        {"section": "search", "data": data, "d": x.shape[1], "n": len(x), "bits": bits, "batch": batch}
                        | {"contender": name, "bytes": round(stored, 1), "recall@10": round(recalls[name], 4)}
                        | {"seconds": timing.median, "best": timing.best, "rounds": timing.rounds}
                        | {"Mcodes/s": rate / 1e6, "GB/s": stored * len(x) / timing.median / 1e9, "share": share}
                        | {"build s": built}
                    )


def scaling(n: int, seconds: float, report: Callable[[dict[str, Any]], None]) -> None:
    """One thread and two, ours; beside it, in the same rounds, products in registers: what two cores are worth here."""
    products = ceilings.products()
    for d, rows in ((128, n), (1536, n // 10)):
        x, y = vectors.random(d, rows, BATCH)
        for name, (_, search) in ours(x, 4).items():
            product = products[name.removeprefix("ours ")][1]
            for batch in (BATCH, 1):

                def call(threads: int, batch: int = batch, search: Any = search, y: Any = y) -> None:
                    nk.set_threads(threads)
                    search(y[:batch], K)

                def limit(threads: int, product: Any = product) -> None:
                    nk.set_threads(threads)
                    in_parts(lambda start, stop: [product() for _ in range(start, stop)], 400, 1)

                turns = {f"{what.__name__} {t}": partial(what, t) for what in (call, limit) for t in (1, 2)}
                found = {turn: timing.median for turn, timing in interleaved(turns, 2 * seconds).items()}
                row = {"section": "threads", "d": d, "n": rows, "bits": 4, "batch": batch, "contender": name}
                row |= {"one thread": found["call 1"], "two threads": found["call 2"]}
                row |= {"ratio": found["call 1"] / found["call 2"], "of products": found["limit 1"] / found["limit 2"]}
                report(row)
    nk.set_threads(1)
