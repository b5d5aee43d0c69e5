"""Compiled search: against the reference within derived bounds, to the bit where sums are exact, whatever the split."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

pytest.importorskip("numba")

from _boxes import gamma, rotation_error
from hypothesis import given
from hypothesis import strategies as st
from numba import config

import numba_kernels as nk
from numba_kernels import arrange, heaps, layout, search
from turboquant_ref import mse, prod, qjl, scoring
from turboquant_ref.search import METRICS, Index
from turboquant_ref.vectors import norm_and_unit

D = 45
SHRINK = 8 if config.DISABLE_JIT else 1  # kernels run as plain Python then
MAKE = {
    **{f"mse {b}": (lambda b=b: mse.setup(D, b, b, "structured")) for b in (1, 2, 3, 4, 6)},
    "mse unbiased": lambda: mse.setup(D, 4, 3, scale="unbiased"),
    "prod 1": lambda: prod.setup(D, 1, 5),
    "prod 4": lambda: prod.setup(D, 4, 6, "structured", "orthogonal"),
    "prod expected": lambda: prod.setup(D, 3, 7, "structured", "orthogonal", "expected", m=70),
    "qjl": lambda: qjl.setup(D, 100, 8),
}


@cache
def quantizer(name):
    return MAKE[name]()


def module(Q):
    return sys.modules[type(Q).__module__]


def rows(n, seed, d=D, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) * np.exp(rng.standard_normal((n, 1)))).astype(dtype)


@pytest.fixture(autouse=True)
def _threads():
    before = nk.threads()
    yield
    nk.set_threads(before)


def rounding(Q, packed, y, precision):
    """How far <y / ||y||, x~> of a kernel may be from the reference's: (n_queries, n), float64.

    Exact: a sum of w products in float32, its factors rounded once each, and two or three products with side scalars:
    gamma_{w + 8} sum |a c|. Every query coordinate is off by the rotation's error first, or by S's: that of
    d products, or of a rotation times sqrt(d); norms and unit vectors are right to 6 roundings. int8 adds to it: a
    centroid is off by half a step, step = max |c| / 127; a query coordinate by half a unit, unit = max |a| / 127 in its
    section, and the level it meets is no larger than |c| + step / 2. The reference's own sum rounds as `fixed_point`
    says.
    """
    code = module(Q).unpack(Q, packed)
    c = np.abs(module(Q).weighted_sum(Q, np.eye(len(packed.data), dtype=np.float32), code).astype(np.float64))
    unit = norm_and_unit(y.astype(np.float64))[1]
    bases = [np.abs(np.asarray(b, np.float64)) for b in arrange.in_bases(Q, unit)]
    a = np.concatenate(bases, axis=1)
    errors = []
    maps = [getattr(Q, name) for name in ("rotation", "sketch") if hasattr(Q, name)]
    for b, m in zip(bases, maps, strict=True):
        if hasattr(m, "gaussian") and m.gaussian is not None:
            off = gamma(Q.d + 8, np.float32) * np.linalg.norm(m.gaussian, axis=1)
        elif hasattr(m, "blocks"):
            off = np.sqrt(Q.d) * max(rotation_error(x, np.float32) + gamma(8, np.float32) for x in m.blocks)
        else:
            off = rotation_error(m, np.float32) + gamma(8, np.float32)
        errors.append(np.broadcast_to(off, b.shape[1:]))
    bound = gamma(a.shape[1] + 8, np.float32) * (a @ c.T) + c @ np.concatenate(errors)
    t = 27 - a.shape[1].bit_length() // 2
    bound = bound + c.max(1) * 2.0**-t * a.sum(1)[:, None] + 2.0 ** (t - 51) * a.sum(1)[:, None] * c.sum(1)
    if precision == "int8":
        at = 0
        scales = np.asarray(code.scales if hasattr(code, "scales") else code.norms, np.float64)
        for k, b in enumerate(bases):
            part = c[:, at : at + b.shape[1]]
            indices = k == 0 and hasattr(Q, "codebook")
            step = np.abs(Q.codebook.centroids).max() / 127 if indices else 0.0
            half = b.max(axis=1, initial=0) / 254 * 1.001
            bound += step / 2 * b.sum(1)[:, None] * scales
            bound += half[:, None] * (part.sum(1) + b.shape[1] * step / 2 * scales)
            at += b.shape[1]
    return bound


def score_bound(metric, dots_bound, y, norms, scores):
    """The same for a score, from the formulas of `scoring`; float32 norms, squares and the last rounding added."""
    query_norms = np.linalg.norm(y.astype(np.float64), axis=1)[:, None]
    u = 2.0**-24
    if metric == "ip":
        bound = query_norms * dots_bound
    elif metric == "cosine":
        bound = np.where(norms > 0, dots_bound / np.where(norms > 0, norms, 1), 0)
    else:
        bound = 2 * query_norms * dots_bound + 8 * u * (query_norms + norms) ** 2
    return bound * 1.001 + 8 * u * np.abs(scores) + 1e-300


@pytest.mark.parametrize("precision", search.PRECISIONS)
@pytest.mark.parametrize("name", MAKE)
def test_scores_and_order_are_the_references_within_the_bound(name, precision) -> None:
    Q, x, y = quantizer(name), rows(150, 1), rows(29, 2)
    x[3], y[4], x[70:80] = 0, 0, x[5]
    packed = module(Q).encode(Q, x)
    prepared, norms = layout.prepare(Q, packed), np.linalg.norm(x.astype(np.float64), axis=1)
    dots_bound = rounding(Q, packed, y, precision)
    for metric in METRICS:
        for part in (slice(0, 1), slice(0, 29))[name not in ("mse 1", "mse 3", "mse 6", "prod 4") :]:
            truth, order = scoring.topk(Q, packed, y[part], 150, metric, norms=norms)
            found, at = search.topk(Q, prepared, y[part], 150, metric, norms=norms, precision=precision)
            assert (found.dtype, at.dtype) == (np.float32, np.int64)
            np.testing.assert_array_equal(np.sort(at, axis=1), np.broadcast_to(np.arange(150), at.shape))
            by_code, found_by_code = np.empty_like(truth), np.empty_like(found)
            np.put_along_axis(by_code, order, truth, axis=1)
            np.put_along_axis(found_by_code, at, found, axis=1)
            bound = score_bound(metric, dots_bound[part], y[part], norms, by_code)
            np.testing.assert_array_less(np.abs(found_by_code - by_code), bound)
            # so the order is right wherever two scores are farther apart than their bounds; and best comes first
            steps = np.diff(found, axis=1) if metric == "l2" else -np.diff(found, axis=1)
            assert np.all((steps > 0) | ((steps == 0) & (np.diff(at, axis=1) > 0)))
            if precision == "exact" and metric == "ip":  # and the bound says something
                norm = np.linalg.norm(y[part], axis=1)[:, None] * norms
                assert np.all(bound <= 2e-3 * norm + 1e-30)


@pytest.mark.parametrize("name", MAKE)
def test_rescoring_gives_the_references_scores_to_the_bit(name) -> None:
    """And its results, where the shortlist holds them: always, if it is everything."""
    Q, x, y = quantizer(name), rows(150, 1), rows(9, 2)
    x[3], y[4], x[70:80] = 0, 0, x[5]
    packed = module(Q).encode(Q, x)
    prepared, norms = layout.prepare(Q, packed), np.linalg.norm(x.astype(np.float64), axis=1)
    for metric in METRICS:
        expected = scoring.topk(Q, packed, y, 20, metric, norms=norms)
        for precision in search.PRECISIONS:
            found = search.topk(Q, prepared, y, 20, metric, norms=norms, precision=precision, rescore=150)
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


def test_a_shortlist_restores_the_order_when_the_bound_says_so() -> None:
    Q, x, y = quantizer("mse 4"), rows(3000 // SHRINK, 3), rows(40 // SHRINK, 4)
    x /= np.linalg.norm(x, axis=1)[:, None]
    packed = mse.encode(Q, x)
    prepared = layout.prepare(Q, packed)
    bound = rounding(Q, packed, y, "int8").max(axis=1) * np.linalg.norm(y, axis=1)
    guaranteed = 0
    for m in (20, 200 // SHRINK, 1000 // SHRINK):
        expected, order = scoring.topk(Q, packed, y, 10)
        shortlist = search.topk(Q, prepared, y, m, precision="int8")[0][:, -1]
        found, at = search.topk(Q, prepared, y, 10, precision="int8", rescore=m)
        proved = found[:, -1] > shortlist + bound
        np.testing.assert_array_equal(found[proved], expected[proved])
        np.testing.assert_array_equal(at[proved], order[proved])
        guaranteed += proved.sum()
    assert guaranteed >= 40 // SHRINK  # it is not never


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="thousands of codes")
@pytest.mark.parametrize("precision", search.PRECISIONS)
@pytest.mark.parametrize("name", ["mse 4", "mse 3", "prod 4"])
def test_the_best_are_the_first_of_all(name, precision) -> None:
    """Whatever keeps scores out of a heap: all codes at once, each in a heap, have the same first ones.

    The first 2,048 go through a bound; what follows is compared with thresholds, in groups of 22, 8 or 1 queries. Codes
    that get better and better are put in one after the other; of equal ones the first stay.
    """
    Q, x, y = quantizer(name), rows(5000, 1), rows(31, 2)
    y[30] = y[29]
    best = np.argsort(x @ y[29])
    x[100:4900] = x[best[100:4900]]
    x[4000:4100], x[60], y[28] = x[4000], 0, 0
    for n in (1, 9, 2047, 2048, 2049, 5000):
        prepared = layout.prepare(Q, module(Q).encode(Q, x[:n]))
        for queries in (y, y[29:30], y[:8]):
            for metric in ("ip", "l2"):
                norms = np.linalg.norm(x[:n].astype(np.float64), axis=1)
                options = {"norms": norms, "precision": precision, "chunk": 500}
                everything = search.topk(Q, prepared, queries, n, metric, **options)
                assert (np.sort(everything[1], axis=1) == np.arange(n)).all()
                for k in (1, 10, 127, 128):
                    found = search.topk(Q, prepared, queries, min(k, n), metric, **options)
                    np.testing.assert_array_equal(found[0], everything[0][:, :k])
                    np.testing.assert_array_equal(found[1], everything[1][:, :k])


@given(st.integers(1, 130), st.integers(1, 24), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 40]))
def test_a_bound_has_k_scores_above_it(k, eights, seed, distinct) -> None:
    rng = np.random.default_rng(seed)
    blocks, board = 8 * eights, np.full((3, 8 * eights + 1, 16), np.nan, np.float32)
    board[:, :blocks] = rng.standard_normal((3, blocks, 16)) * np.exp(4 * rng.standard_normal())
    if distinct:
        board[:, :blocks] = rng.integers(0, distinct, (3, blocks, 16))
    found = heaps.bound(board, 1, blocks, k, np.empty((8, 16), np.float32))
    above = int((board[1, :blocks] > found).sum())
    assert above >= k or (found == -np.inf and above == 128 * eights)
    if not distinct and k <= 20 and eights >= 8:
        # beside k maxima those within 1/256 of the interval, and k^2 / 128 of the others on average: in 20,000 draws
        # never more than 4 for k = 1, 8 for 5, 16 for 10 and 33 for 20
        assert above <= 3 * k + 12


def digest(results) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in results)).hexdigest()


def integers() -> str:
    """Searches of every kind in int8, as one digest."""
    results = []
    for name in ("mse 3", "prod 4"):
        Q, x, y = quantizer(name), rows(70, 1), rows(7, 2)
        prepared = layout.prepare(Q, module(Q).encode(Q, x))
        for metric in ("ip", "l2"):
            norms = np.linalg.norm(x.astype(np.float64), axis=1)
            for n in (1, 7):
                results += search.topk(Q, prepared, y[:n], 9, metric, norms=norms, precision="int8")
    return digest(results)


@pytest.mark.parametrize("level", ["avx2", "portable"])
def test_int8_is_the_same_to_the_bit_on_every_instruction_set(level) -> None:
    if level == "avx2" and nk.LEVEL == "portable":
        pytest.skip("this processor has no AVX2")
    here = os.path.dirname(__file__)
    source = f"import sys; sys.path.insert(0, {here!r}); import test_numba_search as t; print(t.integers())"
    done = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "TURBOQUANT_SIMD": level},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == integers()


@pytest.mark.parametrize("precision", search.PRECISIONS)
def test_threads_and_chunks_change_nothing(precision, monkeypatch) -> None:
    monkeypatch.setattr(search, "ENOUGH", 1)
    Q, y = quantizer("mse 4"), rows(25, 2)
    n_codes = 1000 // SHRINK
    x = rows(n_codes, 1)[
        np.random.default_rng(0).integers(0, n_codes // 5, n_codes)
    ]  # codes five times: ties in all parts
    prepared = layout.prepare(Q, mse.encode(Q, x))
    for n in (1, 25):
        nk.set_threads(1)
        expected = search.topk(Q, prepared, y[:n], 60, precision=precision)
        for threads in (1, 2, 3, 8):
            nk.set_threads(threads)
            for chunk in (1, 100, 5000):
                found = search.topk(Q, prepared, y[:n], 60, precision=precision, chunk=chunk)
                assert digest(found) == digest(expected)
        scores, at = expected
        assert np.all((np.diff(scores) < 0) | (np.diff(at) > 0))


def test_int8_does_not_depend_on_the_queries_beside() -> None:
    Q, y = quantizer("mse 3"), rows(60, 2)
    prepared = layout.prepare(Q, mse.encode(Q, rows(200, 1)))
    all_scores, all_at = search.topk(Q, prepared, y, 15, precision="int8")
    for part in (slice(0, 1), slice(3, 7), slice(10, 40)):
        scores, at = search.topk(Q, prepared, y[part], 15, precision="int8")
        np.testing.assert_array_equal(scores, all_scores[part])
        np.testing.assert_array_equal(at, all_at[part])


@pytest.mark.parametrize("precision", search.PRECISIONS)
def test_many_results_are_the_first_of_all(precision) -> None:
    Q, y = quantizer("mse 2"), rows(5, 2)
    prepared = layout.prepare(Q, mse.encode(Q, rows(5000 // SHRINK, 1)))
    everything = search.topk(Q, prepared, y, 5000 // SHRINK, precision=precision)
    for k in (1, 2, 100, 3001 // SHRINK):
        scores, at = search.topk(Q, prepared, y, k, precision=precision)
        np.testing.assert_array_equal(scores, everything[0][:, :k])
        np.testing.assert_array_equal(at, everything[1][:, :k])


@pytest.mark.parametrize("metric", METRICS)
def test_more_than_there_are(metric) -> None:
    Q, y = quantizer("mse 4"), rows(3, 2)
    for n in (0, 5, 16, 17):
        prepared = layout.prepare(Q, mse.encode(Q, rows(n, 1)))
        for precision in search.PRECISIONS:
            scores, at = search.topk(Q, prepared, y, 20, metric, precision=precision)
            assert scores.shape == at.shape == (3, 20)
            np.testing.assert_array_equal(np.sort(at[:, :n], axis=1), np.broadcast_to(np.arange(n), (3, n)))
            assert np.all(at[:, n:] == -1)
            assert np.all(scores[:, n:] == (np.inf if metric == "l2" else -np.inf))
        assert search.topk(Q, prepared, y[:0], 4, metric)[1].shape == (0, 4)


def test_norms_far_from_one() -> None:
    """float64 side scalars beyond float32's range; the scores are the reference's times a power of two."""
    Q, x, y = quantizer("mse 4"), rows(100, 1, dtype=np.float64), rows(6, 2, dtype=np.float64)
    near = search.topk(Q, layout.prepare(Q, mse.encode(Q, x, "float64")), y, 100)
    for scale in (2.0**-600, 2.0**500):
        far = layout.prepare(Q, mse.encode(Q, x * scale, "float64"))
        scores, at = search.topk(Q, far, y * scale**-0.5, 100)
        np.testing.assert_array_equal(at, near[1])
        np.testing.assert_array_equal(scores, near[0] * scale**0.5)
    with np.errstate(over="ignore"):
        scores = search.topk(Q, layout.prepare(Q, mse.encode(Q, x * 1e300, "float64")), rows(2, 3) * 1e30, 3)[0]
    assert scores.dtype == np.float32
    assert np.isinf(scores).all()


@pytest.mark.parametrize("name", ["mse 3", "mse unbiased", "prod 4", "qjl"])
def test_an_index_on_this_backend(name) -> None:
    Q, rng = quantizer(name), np.random.default_rng(0)
    index, plain = Index(Q, ops=nk), Index(Q)
    x, y = rows(300, 1), rows(7, 2)
    x[100:140] = x[0]
    ids = rng.permutation(300) * 10**15
    for part in np.split(np.arange(300), [7, 20, 21, 150]):
        index.add(x[part], ids[part])
    plain.add(x, ids)
    gone = ids[rng.permutation(300)[:60]]
    index.remove(gone)
    plain.remove(gone)
    assert index.ntotal == plain.ntotal == 240
    for metric in METRICS:
        scores, found = index.search(y, 240, metric)
        expected, order = index.to(sys.modules["turboquant_ref"]).search(y, 240, metric)  # the same codes
        by_id, found_by_id = (
            np.take_along_axis(s, np.argsort(i, axis=1), axis=1) for s, i in ((expected, order), (scores, found))
        )
        # float32 sums of some 100 terms, of dot products no larger than the norms' product; `rounding` has the bound
        norms = np.sort(order, axis=1)
        scale = np.abs(by_id).max()
        np.testing.assert_allclose(found_by_id, by_id, rtol=0, atol=1e-3 * scale)
        np.testing.assert_array_equal(np.sort(found, axis=1), norms)
        # equal scores by id
        steps = np.diff(scores, axis=1) if metric == "l2" else -np.diff(scores, axis=1)
        assert np.all((steps > 0) | ((steps == 0) & (np.diff(found, axis=1) > 0)))
    back = plain.to(nk).to(sys.modules["turboquant_ref"])
    np.testing.assert_array_equal(back.search(y, 9)[1], plain.search(y, 9)[1])


def test_what_is_wrong_is_named() -> None:
    Q, y = quantizer("mse unbiased"), rows(2, 2)
    prepared = layout.prepare(Q, mse.encode(Q, rows(5, 1)))
    with pytest.raises(TypeError, match="prepared: expected numba_kernels' Prepared, got Packed"):
        search.topk(Q, mse.encode(Q, rows(5, 1)), y, 1)
    with pytest.raises(ValueError, match="prepared: it was made by quantizer"):
        search.topk(quantizer("mse 4"), prepared, y, 1)
    with pytest.raises(ValueError, match=r"prepared: expected codes of shape \(n,\)"):
        search.topk(Q, layout.prepare(Q, mse.encode(Q, rows(6, 1).reshape(2, 3, D))), y, 1)
    with pytest.raises(ValueError, match="precision: expected one of exact, int8, got 'fp8'"):
        search.topk(Q, prepared, y, 1, precision="fp8")
    with pytest.raises(ValueError, match="rescore must be an integer of at least 4, got 3"):
        search.topk(Q, prepared, y, 4, rescore=3)
    with pytest.raises(ValueError, match="chunk must be"):
        search.topk(Q, prepared, y, 4, chunk=0)
    with pytest.raises(ValueError, match="k must be"):
        search.topk(Q, prepared, y, 0)
    with pytest.raises(ValueError, match="metric: expected one of"):
        search.topk(Q, prepared, y, 1, "dot")
    with pytest.raises(ValueError, match=r"queries: expected shape \(n, 45\)"):
        search.topk(Q, prepared, y[0], 1)
    with pytest.raises(ValueError, match='norms: metric "cosine" needs the norms'):
        search.topk(Q, prepared, y, 1, "cosine")
    for bad in (np.ones(4), -np.ones(5), np.full(5, np.nan)):
        with pytest.raises(ValueError, match="norms: expected 5 finite numbers"):
            search.topk(Q, prepared, y, 1, "l2", norms=bad)
