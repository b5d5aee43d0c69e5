"""Top-k on the GPU's plain kernels: the reference's scores and positions, ties, other metrics, too many asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from _cuda import needs_kernels

import turboquant_ref as tq
from cuda_kernels import layout, search
from turboquant_ref import scoring

pytestmark = needs_kernels

QUANTIZERS = {
    "mse": tq.mse.setup(8, 3, 1),
    "unbiased": tq.mse.setup(8, 2, 1, scale="unbiased"),
    "prod": tq.prod.setup(8, 3, 1),
    "qjl": tq.qjl.setup(8, 40, 1),
}


def data(dtype: str) -> tuple[Any, Any]:
    r = np.random.default_rng(8)
    x = r.standard_normal((21, 8)).astype(dtype)
    x[2], x[3] = 0, x[7]  # a zero vector, and a pair of equals
    return x, r.standard_normal((2, 8)).astype(dtype)


@pytest.mark.parametrize("metric", scoring.METRICS)
@pytest.mark.parametrize(
    ("name", "dtype", "k"), [("mse", "d", 3), ("unbiased", "f", 4), ("prod", "f", 30), ("qjl", "d", 2)]
)
def test_topk(name: str, metric: str, dtype: str, k: int) -> None:
    Q = QUANTIZERS[name]
    module = getattr(tq, Q.algorithm)
    x, y = data(dtype)
    packed = module.encode(Q, x, {"f": "float32", "d": "float64"}[dtype])
    norms = None if metric == "ip" or scoring.stores_norm(Q) else np.linalg.norm(x.astype("d"), axis=1)
    want, places = scoring.topk(Q, packed, y, k, metric, norms)
    got, ours = search.topk(Q, layout.prepare(Q, packed), y, k, metric, norms, chunk=16)
    assert (got.dtype, ours.dtype, got.shape) == (want.dtype, places.dtype, want.shape)
    seen = np.isfinite(want)
    np.testing.assert_array_equal(np.isfinite(got), seen)
    # scores are sums of at most 40 + 8 products, of a few times |x| |y|, and for l2 a difference of squares; the
    # reference's own are fixed point, within 2^-24 of that size (`fixed_point`, w = 48)
    size = 8 * (1 + np.linalg.norm(x, axis=1).max()) ** 2 * (1 + np.linalg.norm(y, axis=1).max()) ** 2
    allowed = (100 * np.finfo(dtype).eps + 2.0**-24) * size
    assert np.all(np.abs(got[seen] - want[seen]) <= allowed)
    if metric != "cosine":
        np.testing.assert_array_equal(ours, places)


def test_of_equal_scores_the_first_comes_first() -> None:
    Q = QUANTIZERS["mse"]
    x, _ = data("d")
    x[:] = x[7]
    scores, places = search.topk(Q, layout.prepare(Q, tq.mse.encode(Q, x)), x[:1], 5, chunk=8)
    np.testing.assert_array_equal(places, [[0, 1, 2, 3, 4]])
    assert np.ptp(scores) == 0


def test_no_codes_and_no_queries() -> None:
    Q = QUANTIZERS["mse"]
    none = layout.prepare(Q, tq.mse.encode(Q, np.ones((0, 8))))
    scores, places = search.topk(Q, none, np.ones((2, 8)), 3)
    assert np.all(np.isneginf(scores))
    assert np.all(places == -1)
    some = layout.prepare(Q, tq.mse.encode(Q, np.ones((4, 8))))
    assert search.topk(Q, some, np.ones((0, 8)), 3)[0].shape == (0, 3)


def test_what_is_refused() -> None:
    Q, x = QUANTIZERS["unbiased"], np.ones((4, 8))
    codes = layout.prepare(Q, tq.mse.encode(Q, x))
    with pytest.raises(ValueError, match="metric: expected one of ip, cosine, l2"):
        search.topk(Q, codes, x, 3, "dot")
    with pytest.raises(ValueError, match='metric "l2" needs the norms'):
        search.topk(Q, codes, x, 3, "l2")
    with pytest.raises(ValueError, match="norms: expected 4 finite"):
        search.topk(Q, codes, x, 3, "l2", norms=np.ones(5))
    with pytest.raises(ValueError, match="k"):
        search.topk(Q, codes, x, 0)
    with pytest.raises(ValueError, match="queries: expected shape"):
        search.topk(Q, codes, x[0], 1)
    with pytest.raises(ValueError, match=r"prepared: expected codes of shape \(n,\)"):
        search.topk(Q, layout.prepare(Q, tq.mse.encode(Q, x[None])), x, 1)
    with pytest.raises(ValueError, match="made by quantizer"):
        search.topk(QUANTIZERS["mse"], codes, x, 1)


def test_an_index_of_the_reference_takes_this_backend() -> None:
    import cuda_kernels

    Q = tq.mse.setup(8, 4, 1, rotation="structured")
    x, y = data("f")
    ours, theirs = (tq.search.Index(Q, ops=ops) for ops in (cuda_kernels, None))
    for index in (ours, theirs):
        index.add(x[4:14])
    scores, ids = ours.search(y, 3)
    want, names = theirs.search(y, 3)
    np.testing.assert_array_equal(ids, names)
    np.testing.assert_allclose(scores, want, rtol=1e-5)
