"""QJL on the GPU against the reference: signs where a projection is not within rounding of 0, the rest to rounding."""

from __future__ import annotations

import numpy as np
import pytest
from _cuda import needs_kernels

import turboquant_ref as tq

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}


@needs_kernels
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("sketch", "d", "m"), [("gaussian", 8, 8), ("orthogonal", 5, 7), ("orthogonal", 8, 8)])
def test_qjl(sketch, d, m, dtype) -> None:
    from cuda_kernels import qjl

    rng = np.random.default_rng(d)
    x, y = rng.standard_normal((2, 2, d)).astype(dtype), rng.standard_normal((3, d)).astype(dtype)
    x[0, 1] = 0
    Q = tq.qjl.setup(d, m, 4, sketch, "structured")
    ours, theirs, exact = qjl.quantize(Q, x), tq.qjl.quantize(Q, x), tq.qjl.trace(Q, x.astype(np.float64))
    size = np.abs(Q.sketch.matrix()).sum(-1).max()  # of a projection's terms, for a unit vector
    sure = (np.abs(exact["projection"]) > 4 * (d + 16) * EPS[dtype] * size) | (exact["norm"][..., None] == 0)
    np.testing.assert_array_equal(ours.signs[sure], theirs.signs[sure])
    np.testing.assert_allclose(ours.norms, theirs.norms, rtol=d * EPS[dtype])
    # decoded vectors, estimates and sums: at most (d + m + 16) roundings of terms whose magnitudes add up to `terms`
    terms = 4 * size * np.sqrt(d) * max(np.abs(theirs.norms).max(), 1) * np.linalg.norm(y, axis=-1).max()
    bound = 2 * (d + m + 16) * EPS[dtype] * terms
    np.testing.assert_allclose(qjl.dequantize(Q, theirs), tq.qjl.dequantize(Q, theirs), rtol=0, atol=bound)
    np.testing.assert_allclose(qjl.inner_product(Q, y, theirs), tq.qjl.inner_product(Q, y, theirs), rtol=0, atol=bound)
    one, w = tq.codes.select(theirs, 1), rng.standard_normal((2, 2)).astype(dtype)
    total = tq.qjl.weighted_sum(Q, w, one)
    np.testing.assert_allclose(qjl.weighted_sum(Q, w, one), total, rtol=0, atol=bound)
    np.testing.assert_allclose(qjl.to_original(Q, total), tq.qjl.to_original(Q, total), rtol=0, atol=m * bound)
    np.testing.assert_array_equal(qjl.pack(Q, theirs).data, tq.qjl.pack(Q, theirs).data)
    np.testing.assert_array_equal(qjl.unpack(Q, tq.qjl.pack(Q, theirs)).signs, theirs.signs)
    np.testing.assert_array_equal(qjl.to_packed(Q, qjl.encode(Q, x)).data, qjl.pack(Q, ours).data)
