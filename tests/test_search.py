"""The index over codes: against brute force, whatever the chunks, blocks, backend or file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import struct
import subprocess
import sys
import tracemalloc
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import turboquant_ref
from turboquant_ref import (
    channels,
    codebook,
    container,
    mse,
    polar,
    prod,
    qjl,
    rabitq,
    rotation,
    scoring,
    search,
    sphere,
)
from turboquant_ref.packing import Packed
from turboquant_ref.search import METRICS, Index, topk

D = 12
MAKE = {
    "mse": lambda: mse.setup(D, 3, 1),
    "mse structured": lambda: mse.setup(D, 2, 2, "structured"),
    "mse unbiased": lambda: mse.setup(D, 3, 3, scale="unbiased"),
    "mse matched structured": lambda: mse.setup(D, 8, 4, "structured", "matched"),
    "prod": lambda: prod.setup(D, 3, 5),
    "prod structured": lambda: prod.setup(D, 2, 6, "structured", "orthogonal"),
    "prod released": lambda: prod.setup(D, 4, 7, "structured", "orthogonal", "expected", m=20),
    "qjl": lambda: qjl.setup(D, 30, 8),
    "qjl structured": lambda: qjl.setup(D, 24, 9, "orthogonal", "structured"),
    "polar": lambda: polar.setup(D, (4, 2), 10),
    "polar structured": lambda: polar.setup(D, (3, 3), 11, "structured", "unbiased"),
    "rabitq structured": lambda: rabitq.setup(D, 2, 12, "structured", bound=True),
}
FIXED = [name for name in MAKE if "structured" in name or "released" in name]  # the same bits in any batch


@cache
def quantizer(name: str):
    return MAKE[name]()


def module(Q):
    return sys.modules[type(Q).__module__]


def rows(n: int, seed: int = 0, dtype=np.float32, d: int = D) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * np.exp(rng.standard_normal((n, 1)))).astype(dtype)


def sorts(metric: str, scores: np.ndarray) -> np.ndarray:
    """What is ascending from best to worst."""
    return scores if metric == "l2" else -scores


def worst(metric: str) -> float:
    return np.inf if metric == "l2" else -np.inf


def expected(Q, packed: Packed, x: np.ndarray, y: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The formula of the module's docstring from decoded vectors, float64; and how far a score may be from it.

    The bound of `fixed_point`, with the units taken at their largest (below 2 max|c| 2^-t, 2 sum|a| 2^(t-52)), plus
    the stored scalars', the rotation's and the last rounding's.
    """
    code = module(Q).unpack(Q, packed)
    fields = {f: np.asarray(v, np.float64) for f, v in vars(code).items() if getattr(v, "dtype", None) == np.float32}
    code = dataclasses.replace(code, **fields)
    decoded = module(Q).dequantize(Q, code)
    y64, x64 = y.astype(np.float64), x.astype(np.float64)
    query_norms, norms = np.linalg.norm(y64, axis=1)[:, None], np.linalg.norm(x64, axis=1)
    maps = [m.matrix() for m in (getattr(Q, "rotation", None), getattr(Q, "sketch", None)) if m is not None]
    a = np.abs(y64 @ np.concatenate(maps).T)
    c = np.abs(module(Q).weighted_sum(Q, np.eye(len(x)), code))
    w = a.shape[1]
    t = 27 - w.bit_length() // 2
    v, u = 2 * c.max(1) * 2.0**-t, 2 * a.sum(1) * 2.0 ** (t - 52)
    bound = v / 2 * a.sum(1)[:, None] + u[:, None] / 2 * c.sum(1) + w / 4 * u[:, None] * v
    # a float64 rotation and the oracle's own products: each sum of at most 2 w terms, twice
    bound = bound + 8 * w * 2.0**-53 * (a.sum(1)[:, None] * c.max(1) + query_norms * norms)
    dots = y64 @ decoded.T
    if metric == "ip":
        scores = dots
    elif metric == "cosine":
        divisor = np.where(query_norms * norms > 0, query_norms * norms, np.inf)
        scores, bound = dots / divisor, bound / divisor
    else:
        scores, bound = query_norms**2 + norms**2 - 2 * dots, 2 * bound
        bound = bound + 2.0**-23 * norms**2 + 4 * 2.0**-53 * (query_norms**2 + norms**2)  # norms are kept as float32
    if metric == "cosine":
        bound = bound + 2.0**-24 * np.abs(scores) * 1.01
    rounding = {"f": 2.0**-24, "d": 2.0**-52}[np.float64(0).astype(y.dtype).dtype.char]
    return scores, bound * 1.001 + rounding * (np.abs(scores) + bound) + 1e-300


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_are_the_formula_from_decoded_vectors(name, metric, dtype) -> None:
    Q, x, y = quantizer(name), rows(150, 1), rows(9, 2, dtype)
    x[3], y[4] = 0, 0
    packed = module(Q).encode(Q, x)
    norms = np.linalg.norm(x.astype(np.float64), axis=1).astype(np.float32)
    scores, at = topk(Q, packed, y, len(x), metric, norms=None if scoring.stores_norm(Q) else norms)
    assert scores.dtype == dtype
    assert at.dtype == np.int64
    np.testing.assert_array_equal(np.sort(at, axis=1), np.broadcast_to(np.arange(150), at.shape))
    truth, bound = expected(Q, packed, x, y, metric)
    error = np.abs(scores - np.take_along_axis(truth, at, axis=1))
    np.testing.assert_array_less(error, np.take_along_axis(bound, at, axis=1))
    # and the bound says something: a float32 sum's, not more
    scale = (np.linalg.norm(y, axis=1)[:, None] + np.linalg.norm(x, axis=1)).astype(np.float64) ** 2
    assert np.all(bound <= 2.0**-18 * np.where(metric == "cosine", 1, scale) + 1e-300)


@given(
    name=st.sampled_from(sorted(MAKE)),
    n=st.integers(0, 200),
    n_queries=st.integers(0, 5),
    k=st.integers(1, 220),
    metric=st.sampled_from(METRICS),
    chunk=st.one_of(st.just(1), st.integers(1, 250)),
    distinct=st.integers(1, 250),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=150)
def test_topk_is_the_first_k_of_all_by_score_then_position_for_any_chunking(
    name, n, n_queries, k, metric, chunk, distinct, seed
) -> None:
    """Bit for bit, Haar too: scores of the same codes do not depend on chunks, and equal codes tie exactly."""
    Q = quantizer(name)
    x = rows(n, seed)[np.random.default_rng(seed).integers(min(n, distinct), size=n)] if n else rows(0)
    packed, y = module(Q).encode(Q, x), rows(n_queries, seed + 1)
    if n:  # one code for equal vectors; a dense rotation alone would not give it
        first = np.unique(x, axis=0, return_index=True, return_inverse=True)
        packed = dataclasses.replace(packed, data=packed.data[first[1]][first[2].ravel()])
    norms = np.linalg.norm(x, axis=1)
    scores, at = topk(Q, packed, y, k, metric, norms=norms, chunk=chunk)
    everything, order = topk(Q, packed, y, max(n, 1), metric, norms=norms, chunk=1000)
    m = min(k, n)
    assert scores.shape == at.shape == (n_queries, k)
    np.testing.assert_array_equal(scores[:, :m], everything[:, :m])
    np.testing.assert_array_equal(at[:, :m], order[:, :m])
    assert np.all(at[:, m:] == -1)
    assert np.all(scores[:, m:] == worst(metric))
    cost, later = sorts(metric, everything)[:, :n], order[:, :n]
    assert np.all((cost[:, 1:] > cost[:, :-1]) | ((cost[:, 1:] == cost[:, :-1]) & (later[:, 1:] > later[:, :-1])))
    for q in range(n_queries):  # equal codes have equal scores
        score = np.empty(n, scores.dtype)
        score[order[q, :n]] = everything[q, :n]
        groups = np.unique(np.column_stack([packed.data, norms.astype("<f8").view(np.uint8).reshape(n, 8)]), axis=0)
        assert len(np.unique(score)) <= max(1, len(groups)) if n else True


@given(st.integers(1, 600), st.integers(1, 4), st.integers(1, 5), st.integers(0, 10**6), st.integers(-60, 60))
@settings(max_examples=100)
def test_fixed_point_is_exact_in_any_order_and_within_its_bound(w, n, m, seed, exponent) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, w)) * np.exp(rng.uniform(-5, 5, (n, 1)))
    b = rng.standard_normal((m, w)) * rng.choice([0, 1, 2.0**exponent], (m, 1))
    found = scoring.fixed_point(a, b)
    order = rng.permutation(w)
    np.testing.assert_array_equal(found, scoring.fixed_point(a[:, order], b[:, order]))
    np.testing.assert_array_equal(found[:1], scoring.fixed_point(a[:1], b))
    np.testing.assert_array_equal(found[:, -1:], scoring.fixed_point(a, b[-1:]))
    t = 27 - w.bit_length() // 2
    for i in range(n):
        for j in range(m):
            u = 2.0 ** (np.frexp(np.abs(a[i]).sum())[1] - 52 + t)
            v = 2.0 ** (np.frexp(np.abs(b[j]).max())[1] - t)
            # in whole numbers of any size: the rounded product, and none of its partial sums beyond 2^53
            p = [round(float(s) / u) * round(float(r) / v) for s, r in zip(a[i], b[j], strict=True)]
            assert sum(map(abs, p)) <= 2**53
            assert float(sum(p)) * u * v == found[i, j]
            exact = sum(int(s * 2.0**200) * int(r * 2.0**200) for s, r in zip(a[i], b[j], strict=True)) / 2**400
            # 2^-200 is far below the last place of every number here
            bound = v / 2 * np.abs(a[i]).sum() + u / 2 * np.abs(b[j]).sum() + w * u * v / 4
            assert abs(found[i, j] - exact) <= bound * (1 + 1e-9)


class Naive:
    """What an index is: a dictionary of vectors."""

    def __init__(self) -> None:
        self.vectors: dict[int, np.ndarray] = {}
        self.next = 0


@given(data=st.data(), name=st.sampled_from(FIXED), keep=st.sampled_from([None, "float16", "float32", "second"]))
@settings(max_examples=60)
def test_a_life_of_an_index(tmp_path_factory, data, name, keep) -> None:
    """Adds, removes, searches in any order: always the topk of what is in it, by id."""
    Q = quantizer(name)
    index = Index(Q, keep=quantizer("prod structured") if keep == "second" else keep)
    naive, y = Naive(), rows(3, 77)
    for step in range(data.draw(st.integers(1, 7), "steps")):
        kind = data.draw(st.sampled_from(["add", "add", "add with ids", "remove", "search", "file", "reset"]), "kind")
        if kind.startswith("add"):
            x = rows(data.draw(st.integers(0, 20), "n"), 100 + step)
            ids = None
            if kind == "add with ids":
                free = st.integers(0, 2**63 - 1) if data.draw(st.booleans()) else st.integers(0, 60)
                taken = frozenset(naive.vectors)
                free = free.filter(lambda i, taken=taken: i not in taken)
                ids = data.draw(st.lists(free, min_size=len(x), max_size=len(x), unique=True), "ids")
            if ids is None and naive.next + len(x) > 2**63:
                with pytest.raises(ValueError, match="are left after"):
                    index.add(x)
                continue
            index.add(x, ids)
            ids = range(naive.next, naive.next + len(x)) if ids is None else ids
            naive.vectors |= dict(zip(ids, x, strict=True))
            naive.next = max([naive.next, *(i + 1 for i in ids)])
        elif kind == "remove" and naive.vectors:
            gone = data.draw(st.lists(st.sampled_from(sorted(naive.vectors)), max_size=30), "gone")
            assert index.remove(gone) == len(set(gone))
            for i in set(gone):
                del naive.vectors[i]
        elif kind == "reset":
            index.reset()
            naive = Naive()
        elif kind == "file":
            path = tmp_path_factory.mktemp("life") / "index"
            index.save(path)
            index = Index.load(path, mmap=data.draw(st.booleans(), "mmap"))
        ids = np.array(sorted(naive.vectors), np.int64)
        assert index.ntotal == len(ids)
        np.testing.assert_array_equal(index.ids, ids)
        assert index.nbytes == index.ntotal * index.bytes_per_vector
        assert len(index._blocks) <= 1 + np.log2(max(1, len(ids)))
        x = np.array([naive.vectors[i] for i in ids], np.float32).reshape(-1, D)
        metric, k = data.draw(st.sampled_from(METRICS), "metric"), data.draw(st.integers(1, 40), "k")
        packed, norms = module(Q).encode(Q, x, "float32"), scoring.norm_and_unit(x)[0]
        stored = None if scoring.stores_norm(Q) else norms
        scores, at = topk(Q, packed, y, k, metric, norms=stored)
        found = index.search(y, k, metric)
        np.testing.assert_array_equal(found[0], scores)
        np.testing.assert_array_equal(found[1], np.where(at < 0, -1, ids[at] if len(ids) else -1))
        if len(ids):
            some = data.draw(st.lists(st.sampled_from(list(ids)), max_size=5), "some")
            decoded = module(Q).dequantize(Q, module(Q).unpack(Q, packed))
            np.testing.assert_array_equal(index.reconstruct(some), decoded[np.searchsorted(ids, some)])
            np.testing.assert_array_equal(index.reconstruct(int(ids[0])), decoded[0])


def test_equal_scores_come_by_id() -> None:
    """Equal vectors, added in no order of their ids, over several blocks."""
    for name in FIXED:
        index, rng = Index(quantizer(name), keep="float32"), np.random.default_rng(0)
        ids = rng.permutation(90) * 10**17
        for part in np.split(ids, [7, 20, 21, 50]):
            index.add(np.repeat(rows(1), len(part), axis=0), part)
        for metric in METRICS:
            for rerank in (None, 90):
                scores, found = index.search(rows(2, 1), 50, metric, rerank)
                np.testing.assert_array_equal(found, np.broadcast_to(np.sort(ids)[:50], (2, 50)))
                np.testing.assert_array_equal(scores, np.broadcast_to(scores[:, :1], scores.shape))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["mse", "mse unbiased", "prod structured"])
def test_rerank_of_everything_restores_the_exact_order(name, metric) -> None:
    """Small integers, so that products, sums, squares and their ties are exact in float64, and cosines nearly so."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(-4, 5, (300, D)).astype(np.float32), rng.integers(-4, 5, (6, D)).astype(np.float32)
    ids = rng.permutation(300)
    for keep in ("float16", "float32"):
        index = Index(quantizer(name), keep=keep)
        index.add(x[:150], ids[:150])
        index.add(x[150:], ids[150:])
        scores, found = index.search(y, 300, metric, rerank=300)
        dots, squares = y @ x.T, (x**2).sum(1)
        if metric == "cosine":
            dots = dots / np.sqrt(np.maximum(1, squares) * np.maximum(1, (y**2).sum(1)[:, None])).astype(np.float64)
        truth = ((y[:, None] - x) ** 2).sum(-1) if metric == "l2" else dots
        where = np.argsort(ids)[found]
        if metric == "cosine":  # an ulp of float64 decides, then float32 rounds
            np.testing.assert_allclose(scores, np.take_along_axis(truth, where, 1), rtol=2.0**-23, atol=2.0**-50)
            assert np.all(np.diff(scores) <= 0)
            continue
        np.testing.assert_array_equal(scores, np.take_along_axis(truth, where, 1))
        order = np.lexsort((np.broadcast_to(ids, truth.shape), sorts(metric, truth)))
        np.testing.assert_array_equal(found, ids[order])
        few = index.search(y, 5, metric, rerank=300)
        np.testing.assert_array_equal(few[1], found[:, :5])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("second", ["mse matched structured", "prod structured", "prod released"])
@pytest.mark.parametrize("first", ["mse structured", "mse matched structured"])
def test_rerank_with_a_second_code_is_its_own_search(first, second, metric) -> None:
    x, y = rows(200, 1), rows(5, 2)
    index, alone = Index(quantizer(first), keep=quantizer(second)), Index(quantizer(second))
    for part in np.split(np.arange(200), [10, 150]):
        index.add(x[part])
        alone.add(x[part])
    both, by_second = index.search(y, 20, metric, rerank=200), alone.search(y, 20, metric)
    np.testing.assert_array_equal(both[1], by_second[1])
    # the norms may come from another place, one float32 rounding apart
    np.testing.assert_allclose(both[0], by_second[0], rtol=2.0**-20, atol=2.0**-20 * np.max(np.abs(x)) ** 2 * D)
    some = index.search(y, 5, metric, rerank=30)[1]
    candidates = index.search(y, 30, metric)[1]
    for q in range(5):
        kept = [i for i in alone.search(y, 200, metric)[1][q] if i in candidates[q]]
        np.testing.assert_array_equal(some[q], kept[:5])


def test_rerank_helps() -> None:
    """2-bit codes of 2000 vectors, 32 of them scored again: nearly all nearest neighbours are found."""
    x, y = rows(2000, 1, d=64), rows(100, 2, d=64)
    index = Index(mse.setup(64, 2, 0), keep="float16")
    index.add(x)
    truth = np.argmax(y @ x.T, axis=1)
    plain, again = (index.search(y, 1, rerank=r)[1][:, 0] for r in (None, 32))
    assert np.mean(plain == truth) < 0.9 < np.mean(again == truth)


def fake_backend():
    """Another backend: its Prepared is transposed, its own class, and it knows no other."""
    Prepared = dataclasses.make_dataclass("Prepared", ["columns", "scalars", "fingerprint", "nbytes"])

    def prepare(Q, packed):
        return Prepared(np.ascontiguousarray(packed.data.T), packed.scalars, packed.fingerprint, packed.data.nbytes)

    def to_packed(Q, prepared):
        assert isinstance(prepared, Prepared)
        return Packed(np.ascontiguousarray(prepared.columns.T), prepared.scalars, prepared.fingerprint)

    def encode(Q, x, scalars="float32"):
        return prepare(Q, module(Q).encode(Q, x, scalars))

    def top(Q, prepared, queries, k, metric="ip", norms=None, chunk=7):
        return topk(Q, to_packed(Q, prepared), queries, k, metric, norms, chunk)

    verbs = SimpleNamespace(encode=encode, prepare=prepare, to_packed=to_packed)
    return SimpleNamespace(mse=verbs, prod=verbs, search=SimpleNamespace(topk=top), __name__="fake")


@pytest.mark.parametrize("name", ["mse", "mse unbiased", "prod structured"])
@pytest.mark.parametrize("keep", [None, "float32", "second"])
def test_any_backend(name, keep, tmp_path) -> None:
    fake, Q, x, y = fake_backend(), quantizer(name), rows(100), rows(4, 1)
    keep = quantizer("mse structured") if keep == "second" else keep
    ours, theirs = Index(Q, keep=keep), Index(Q, ops=fake, keep=keep)
    for index in (ours, theirs):
        for part in np.split(np.arange(100), [40, 41, 80]):
            index.add(x[part], part * 7)
        assert index.remove([0, 7, 280]) == 3
    theirs.save(tmp_path / "theirs")
    loaded = Index.load(tmp_path / "theirs", ops=fake, Q=Q, mmap=True)
    back = Index.load(tmp_path / "theirs")
    for metric in METRICS:
        for rerank in (None, 30) if keep is not None else (None,):
            scores, ids = ours.search(y, 9, metric, rerank)
            for index in (theirs, ours.to(fake), theirs.to(turboquant_ref), loaded, back, loaded.to(turboquant_ref)):
                assert index.nbytes == ours.nbytes
                found = index.search(y, 9, metric, rerank)
                np.testing.assert_array_equal(found[0], scores)
                np.testing.assert_array_equal(found[1], ids)
    moved = ours.to(fake)
    moved.add(x[:5])
    assert (moved.ntotal, ours.ntotal) == (102, 97)  # not the same index
    np.testing.assert_array_equal(theirs.reconstruct([14, 35]), ours.reconstruct([14, 35]))
    with pytest.raises(ValueError, match=re.escape("'fake' has no qjl.encode")):
        Index(quantizer("qjl"), ops=fake)
    with pytest.raises(ValueError, match="has no search"):
        Index(quantizer("mse"), ops=SimpleNamespace(mse=fake.mse))


def test_three_verbs_of_prepared() -> None:
    for name in ("mse", "prod", "qjl"):
        Q, x = quantizer(name), rows(5)
        verbs = module(Q)
        for scalars in ("float32", "float64", "float16", "bfloat16"):
            packed = verbs.pack(Q, verbs.quantize(Q, x), scalars)
            encoded = verbs.encode(Q, x, scalars)
            assert (encoded.scalars, encoded.fingerprint) == (scalars, Q.fingerprint)
            np.testing.assert_array_equal(encoded.data, packed.data)
            np.testing.assert_array_equal(verbs.to_packed(Q, verbs.prepare(Q, packed)).data, packed.data)
            for verb in (verbs.prepare, verbs.to_packed):
                with pytest.raises(ValueError, match=r"expected .* bytes"):
                    verb(Q, dataclasses.replace(packed, data=packed.data[:, 1:]))
                with pytest.raises(ValueError, match="made by quantizer"):
                    verb(Q, dataclasses.replace(packed, fingerprint=bytes(8)))
                with pytest.raises(TypeError, match="expected Packed, got ndarray"):
                    verb(Q, packed.data)


def test_empty_and_k_beyond_n() -> None:
    index = Index(quantizer("mse"), keep="float32")
    for metric in METRICS:
        for rerank in (None, 8):
            scores, ids = index.search(rows(3), 4, metric, rerank)
            np.testing.assert_array_equal(scores, np.full((3, 4), worst(metric), np.float32))
            np.testing.assert_array_equal(ids, np.full((3, 4), -1))
            assert index.search(rows(0), 4, metric, rerank)[1].shape == (0, 4)
    index.add(rows(0))
    index.add(np.empty((0, D)), [])
    assert (index.ntotal, index.nbytes) == (0, 0)
    assert index.remove([]) == 0
    assert index.reconstruct([]).shape == (0, D)
    index.add(rows(2))
    for rerank in (None, 9):
        scores, ids = index.search(rows(1), 5, "l2", rerank)
        assert sorted(ids[0, :2]) == [0, 1]
        np.testing.assert_array_equal(ids[0, 2:], [-1] * 3)
        np.testing.assert_array_equal(scores[0, 2:], [np.inf] * 3)


def test_default_ids_go_on() -> None:
    index = Index(quantizer("mse"))
    index.add(rows(3))
    index.add(rows(2), [100, 50])
    index.add(rows(1))
    np.testing.assert_array_equal(index.ids, [0, 1, 2, 50, 100, 101])
    index.remove([101])
    index.add(rows(1))
    np.testing.assert_array_equal(index.ids, [0, 1, 2, 50, 100, 102])  # no id is used twice
    index.add(rows(1), [2**63 - 1])
    with pytest.raises(ValueError, match="no 1 are left"):
        index.add(rows(1))
    index.reset()
    index.add(rows(1))
    np.testing.assert_array_equal(index.ids, [0])


def test_nothing_happens_if_anything_is_wrong() -> None:
    index = Index(quantizer("mse"), keep="float16")
    index.add(rows(3), [5, 6, 7])
    nan, huge = rows(2), rows(2)
    nan[1, 3], huge[1, 3] = np.nan, 1e5
    for x, ids, words in (
        (rows(2), [8, 8], "8 is given twice"),
        (rows(2), [8, 6], "6 is in the index already"),
        (rows(2), [8], "expected 2, one a vector, got 1"),
        (rows(2), [8, -1], "got -1 to 8"),
        (rows(2), np.array([8, 2**63], np.uint64), "got 8 to 9223372036854775808"),
        (rows(2), [[8, 9]], r"expected shape \(n,\)"),
        (rows(2)[0], None, r"expected shape \(n, 12\), got \(12,\)"),
        (rows(2, d=13), None, "13 coordinates"),
        (nan, None, "1 NaN"),
        (huge, None, "largest magnitude 100000 of row 1 is outside float16's normal range"),
        (rows(2) * np.float32(1e-9), None, "outside float16's normal range"),
    ):
        with pytest.raises(ValueError, match=words):
            index.add(x, ids)
    for x, ids in ((rows(2), [1.0, 2.0]), (rows(2), ["1", "2"]), (rows(2).astype(complex), None)):
        with pytest.raises(TypeError):
            index.add(x, ids)
    with pytest.raises(ValueError, match="9 is not in the index of 3 vectors"):
        index.remove([5, 9])
    with pytest.raises(ValueError, match="9 is not in the index"):
        index.reconstruct([9])
    np.testing.assert_array_equal(index.ids, [5, 6, 7])
    # a norm beyond float32 beside a scale that is not: ||q|| is sqrt(d) here
    far = mse.Quantizer(rotation.haar(D, 0), codebook.of_centroids(sphere.law(D), np.array([-1.0, 1.0])), "matched")
    index = Index(far)
    with pytest.raises(ValueError, match=r"norm 5e[+]38 is beyond float32; choose scalars"):
        index.add(np.eye(D)[:1] * 5e38)
    assert index.ntotal == 0
    Index(far, norms=False).add(np.eye(D)[:1] * 5e38)
    index = Index(far, scalars="float64")
    index.add(np.eye(D)[:1] * 5e38)
    np.testing.assert_array_equal(index.search(np.eye(D), 1, "cosine")[1], np.zeros((D, 1)))


def test_bad_searches() -> None:
    index, Q = Index(quantizer("mse unbiased"), norms=False), quantizer("mse unbiased")
    index.add(rows(3))
    nan = rows(2)
    nan[1, 1] = np.inf
    for words, arguments in {
        r"expected shape \(n, 12\), got \(12,\)": (rows(1)[0], 1),
        "13 coordinates": (rows(1, d=13), 1),
        "1 infinite": (nan, 1),
        "expected one of ip, cosine, l2, got 'L2'": (rows(1), 1, "L2"),
        "k must be an integer of at least 1, got 0": (rows(1), 0),
        'metric "l2" needs the norms|"l2" needs the norms': (rows(1), 1, "l2"),
    }.items():
        with pytest.raises(ValueError, match=words):
            index.search(*arguments)
        with pytest.raises(ValueError, match=words):
            topk(Q, index._blocks[0].codes, *arguments)
    with pytest.raises(ValueError, match="keeps nothing to re-rank with"):
        index.search(rows(1), 1, rerank=3)
    with pytest.raises(ValueError, match="rerank must be an integer of at least 2"):
        Index(Q, keep="float32").search(rows(1), 2, rerank=1)
    with pytest.raises(ValueError, match="expected None, float16, float32 or a quantizer, got 'int8'"):
        Index(Q, keep="int8")
    with pytest.raises(ValueError, match="expected a quantizer of dimension 12, got 8"):
        Index(Q, keep=mse.setup(8, 2, 0))
    with pytest.raises(ValueError, match="scalars"):
        Index(Q, scalars="int8")
    codes = index._blocks[0].codes
    with pytest.raises(ValueError, match="chunk"):
        topk(Q, codes, rows(1), 1, chunk=0)
    with pytest.raises(ValueError, match="made by quantizer"):
        topk(quantizer("mse"), codes, rows(1), 1)
    for norms in (np.ones(2), [1, -1, 1], [1, np.nan, 1]):
        with pytest.raises(ValueError, match="norms: expected 3"):
            topk(Q, codes, rows(1), 1, "l2", norms=norms)


def test_extreme_norms() -> None:
    """float32 vectors of any norm are searched alike: the scores of 2^k x are 2^k times those of x, bit for bit."""
    Q, x, y = quantizer("mse structured"), rows(50), rows(3, 1)
    plain = topk(Q, mse.encode(Q, x), y, 50)
    for exponent in (-100, 100):
        big = topk(Q, mse.encode(Q, np.ldexp(x, exponent)), np.ldexp(y, -exponent // 2), 50)
        np.testing.assert_array_equal(big[1], plain[1])
        np.testing.assert_array_equal(big[0], np.ldexp(plain[0], exponent - exponent // 2))
    with pytest.warns(RuntimeWarning, match="overflow"):
        scores, at = topk(Q, mse.encode(Q, np.ldexp(x, 100)), np.ldexp(y, 100), 50, "l2")
    assert np.all(np.isposinf(scores))  # beyond float32, but never NaN; ties by position
    np.testing.assert_array_equal(at, np.broadcast_to(np.arange(50), (3, 50)))


def test_memory_is_bounded_by_the_chunk() -> None:
    Q, x = mse.setup(64, 4, 0, "structured"), rows(20_000, d=64)
    packed, y = mse.encode(Q, x), rows(10, 1, d=64)
    peaks = []
    for chunk in (64, 1024):
        tracemalloc.start()
        topk(Q, packed, y, 10, chunk=chunk)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        # a chunk's vectors in float64 a few times over (decoded, scaled, rounded); all of them take 10 MB
        assert peaks[-1] < 6 * 8 * chunk * 64 + 2**20
    assert peaks[0] < peaks[1]


# -- files


@pytest.fixture
def saved(tmp_path):
    index = Index(quantizer("mse matched structured"), keep="float16")
    index.add(rows(40), np.arange(40) * 3)
    index.save(tmp_path / "index.tq")
    return tmp_path / "index.tq", index


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("keep", [None, "float16", "float32", "second", "by hand"])
@pytest.mark.parametrize("scalars", ["float32", "float64", "bfloat16"])
def test_files_round_trip(tmp_path, mmap, verify, keep, scalars) -> None:
    by_hand = mse.Quantizer(rotation.Dense(np.eye(D)[::-1]), codebook.lloyd_max(D, 4))
    kept = {"second": quantizer("prod structured"), "by hand": by_hand}.get(keep, keep)
    for name in ("mse structured", "mse matched structured", "prod released"):
        index = Index(quantizer(name), scalars=scalars, keep=kept)
        path = tmp_path / "index"
        for x, ids in ((rows(0), None), (rows(60), np.arange(60) * 2**57), (rows(3, 1), [1, 3, 7])):
            index.add(x, ids)
            index.save(path)
            loaded = Index.load(path, mmap=mmap, verify=verify)
            assert loaded.Q.fingerprint == index.Q.fingerprint
            assert (loaded.ntotal, loaded.nbytes, loaded.scalars) == (index.ntotal, index.nbytes, scalars)
            assert path.stat().st_size < index.nbytes + 6000
            for metric in METRICS:
                for rerank in (None, 20) if keep else (None,):
                    for a, b in zip(*(i.search(rows(3, 2), 7, metric, rerank) for i in (index, loaded)), strict=True):
                        np.testing.assert_array_equal(a, b)
        assert Index.load(path, Q=index.Q).Q is index.Q
        loaded.add(rows(2, 9))  # a mapped index grows and shrinks like any other
        loaded.remove([1, 2**57])
        index.add(rows(2, 9))
        index.remove([1, 2**57])
        np.testing.assert_array_equal(index.ids, loaded.ids)
        np.testing.assert_array_equal(index.search(rows(3, 2), 7)[0], loaded.search(rows(3, 2), 7)[0])


def test_outlier_channels_too(tmp_path) -> None:
    """`channels`, a quantizer of quantizers: the same index, to the rounding of its float32 decoder."""
    Q = channels.setup(D, (4, 2), 5, np.arange(D) % 3 == 0, rotation="structured")
    index, x, y = Index(Q, keep="float32"), rows(80), rows(4, 1)
    for part in np.split(np.arange(80), [3, 50]):
        index.add(x[part])
    index.save(tmp_path / "a")
    loaded = Index.load(tmp_path / "a")
    decoded = channels.dequantize(Q, channels.quantize(Q, x))
    norms = np.linalg.norm(x, axis=1)
    bound = 64 * D * 2.0**-24 * np.linalg.norm(y, axis=1)[:, None] * norms  # a few float32 roundings a term
    for metric in METRICS:
        scores, ids = index.search(y, 80, metric)
        np.testing.assert_array_equal(loaded.search(y, 80, metric)[0], scores)
        dots = y @ decoded.T
        lengths = np.linalg.norm(y, axis=1)[:, None] * norms
        squares = np.linalg.norm(y, axis=1)[:, None] ** 2 + norms**2
        truth = {"ip": dots, "cosine": dots / lengths, "l2": squares - 2 * dots}[metric]
        allowed = {"ip": bound, "cosine": bound / lengths, "l2": 2 * bound + 2.0**-20 * squares}[metric]
        error = np.abs(scores - np.take_along_axis(truth, ids, 1))
        np.testing.assert_array_less(error, np.take_along_axis(allowed, ids, 1))
    assert index.bytes_per_vector == Q.bytes_per_vector() + 8 + 4 + 4 * D


def test_a_haar_index_loads_too(tmp_path) -> None:
    index = Index(quantizer("prod"))
    index.add(rows(30))
    index.save(tmp_path / "a")
    for a, b in zip(index.search(rows(3, 1), 30), Index.load(tmp_path / "a").search(rows(3, 1), 30), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=f"expected the one of fingerprint {index.Q.fingerprint.hex()}, Q is"):
        Index.load(tmp_path / "a", Q=quantizer("mse"))


def load_fails(path, **options) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            Index.load(path, **options)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    return str(caught.value)


def test_damaged_indexes_are_refused(saved) -> None:
    path, _ = saved
    content, rng = path.read_bytes(), np.random.default_rng(1)
    for part in range(64):
        path.write_bytes(content[: len(content) * part // 64])
        load_fails(path, mmap=bool(part % 2))
    for at in rng.integers(len(content), size=200):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        load_fails(path, mmap=bool(at % 2))
    container.write(path, "cache", {}, {})
    assert "holds a 'cache', expected 'index'" in load_fails(path)


def test_damage_without_verification_is_never_another_crash(saved) -> None:
    """verify=False gives up the checksum: a flip in the codes may pass, one in the structure is still a ValueError."""
    path, _ = saved
    content, rng = path.read_bytes(), np.random.default_rng(2)
    start = 40 + 16 * 4 + struct.unpack_from("<Q", content, 24)[0]  # header, table and text are before it
    for at in [*range(0, 40), *rng.integers(40, start, size=300)]:
        damaged = bytearray(content)
        damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            Index.load(path, verify=False)


def test_contents_that_contradict_each_other_are_refused(saved) -> None:
    """Files with a right checksum, from a writer that is not ours."""
    path, index = saved
    metadata, arrays = container.read(path, "index")
    ids, nan = arrays["ids"], arrays["kept"].copy()
    nan[3, 3] = np.nan
    far = {**metadata["quantizer"], "rotation": {"haar": {"d": 2**20, "seed": 1, "stream": 0}}}
    for change, array in (
        ({"next": 5}, {}),
        ({"next": -1}, {}),
        ({"next": "5"}, {}),
        ({"scalars": "int3"}, {}),
        ({"scalars": ["float32"]}, {}),
        ({"scalars": "float64"}, {}),
        ({"keep": "float32"}, {}),
        ({"keep": "text"}, {}),
        ({"keep": {"algorithm": "mse"}}, {}),
        ({"quantizer": 5}, {}),
        ({"quantizer": far}, {}),
        ({"quantizer": {**metadata["quantizer"], "scale": "norm"}}, {}),
        ({}, {"ids": ids[::-1]}),
        ({}, {"ids": ids - 1}),
        ({}, {"ids": np.where(ids == 3, 0, ids)}),
        ({}, {"ids": ids.astype(np.float64)}),
        ({}, {"ids": ids[:-1]}),
        ({}, {"ids": ids.reshape(2, -1)}),
        ({}, {"codes": arrays["codes"][:, :-1]}),
        ({}, {"codes": arrays["codes"].astype(np.int8)}),
        ({}, {"norms": -arrays["norms"]}),
        ({}, {"norms": arrays["norms"] * np.nan}),
        ({}, {"norms": arrays["norms"][:, None]}),
        ({}, {"kept": nan}),
        ({}, {"kept": arrays["kept"].astype(np.float32)}),
    ):
        container.write(path, "index", {**metadata, **change}, {**arrays, **array})
        load_fails(path)
    for name in ("scalars", "next", "keep", "quantizer", "norms"):
        container.write(path, "index", {k: v for k, v in metadata.items() if k != name}, arrays)
        load_fails(path)
    for name in ("ids", "codes", "norms", "kept"):
        container.write(path, "index", metadata, {k: v for k, v in arrays.items() if k != name})
        load_fails(path)
    container.write(path, "index", metadata, arrays)
    assert Index.load(path).ntotal == index.ntotal  # the tool itself works
    bad = arrays["codes"].copy()
    bad[5, -1] = 0xFF  # a NaN for a scale: found when the code is read
    container.write(path, "index", metadata, {**arrays, "codes": bad | np.uint8(0x80)})
    with pytest.raises(ValueError, match="scale must be finite"):
        Index.load(path).search(rows(1), 1)


def test_hostile_headers_allocate_nothing(saved) -> None:
    path, _ = saved
    content = path.read_bytes()
    for layout, at in (("<Q", 16), ("<Q", 24), ("<I", 32), *(("<Q", 40 + 8 * i) for i in range(8))):
        for size in (2**31, 2**32 - 1, 2**48, 2**64 - 1):
            damaged = bytearray(content[:-32])
            struct.pack_into(layout, damaged, at, min(size, 2**32 - 1) if layout == "<I" else size)
            path.write_bytes(bytes(damaged) + hashlib.sha256(damaged).digest())
            load_fails(path)
            load_fails(path, verify=False, mmap=True)


KILLED = """
import os, sys, numpy as np
from turboquant_ref.search import Index
index = Index.load(sys.argv[1])
index.add(np.ones((2000, index.d), np.float32))
os.replace = lambda *names: os._exit(9)
index.save(sys.argv[1])
"""


def test_a_crash_in_mid_save_leaves_the_old_index(saved) -> None:
    path, index = saved
    before = path.read_bytes()
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    assert path.read_bytes() == before
    np.testing.assert_array_equal(Index.load(path).search(rows(2), 5)[1], index.search(rows(2), 5)[1])


def test_a_mapped_index_is_searched_in_place(tmp_path) -> None:
    index = Index(mse.setup(64, 8, 0, "structured"))
    index.add(rows(200_000, d=64))
    index.save(tmp_path / "a")
    tracemalloc.start()
    mapped = Index.load(tmp_path / "a", mmap=True)
    mapped.search(rows(2, d=64), 3)
    assert tracemalloc.get_traced_memory()[1] < 2**22 < index.nbytes  # 15 MB, never copied as a whole
    tracemalloc.stop()


def test_growth_is_amortised() -> None:
    """Vectors added one by one: log2 n blocks, and each vector moved log2 n times."""
    moved = 0
    fake = fake_backend()
    prepare = fake.mse.prepare

    def counted(Q, packed):
        nonlocal moved
        moved += len(packed.data)
        return prepare(Q, packed)

    fake.mse.prepare = counted
    index = Index(quantizer("mse"), ops=fake)
    for row in rows(256):
        index.add(row[None])
    assert len(index._blocks) == 1
    assert moved == 256 * 8
    assert search.METRICS == METRICS
