"""TurboQuant_prod on the GPU against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from _cuda import needs_kernels

import turboquant_ref as tq

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}


@needs_kernels
@pytest.mark.parametrize("residual", ["stored", "expected"])
@pytest.mark.parametrize(("bits", "m", "dtype"), [(1, 8, np.float32), (3, 8, np.float64), (3, 11, np.float32)])
def test_prod(bits, m, dtype, residual) -> None:
    """Codes are equal (no coordinate of these inputs is within rounding of a boundary), the rest to rounding."""
    from cuda_kernels import prod

    d, rng = 8, np.random.default_rng(m)
    x, y = rng.standard_normal((2, 2, d)).astype(dtype), rng.standard_normal((3, d)).astype(dtype)
    x[0, 1] = 0
    Q = tq.prod.setup(d, bits, 4, "structured", "orthogonal", residual, m)
    ours, theirs = prod.quantize(Q, x), tq.prod.quantize(Q, x)
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_array_equal(ours.signs, theirs.signs)
    np.testing.assert_allclose(ours.norms, theirs.norms, rtol=d * EPS[dtype])
    np.testing.assert_allclose(ours.residual_norms, theirs.residual_norms, rtol=64 * d * EPS[dtype])
    bound = 2 * (d + m + 32) * EPS[dtype] * 8 * d * np.linalg.norm(y, axis=-1).max() * theirs.norms.max()
    np.testing.assert_allclose(prod.dequantize(Q, theirs), tq.prod.dequantize(Q, theirs), rtol=0, atol=bound)
    estimates = prod.inner_product(Q, y, theirs)
    np.testing.assert_allclose(estimates, tq.prod.inner_product(Q, y, theirs), rtol=0, atol=bound)
    one, w = tq.codes.select(theirs, 1), rng.standard_normal((2, 2)).astype(dtype)
    total = tq.prod.weighted_sum(Q, w, one)
    np.testing.assert_allclose(prod.weighted_sum(Q, w, one), total, rtol=0, atol=bound)
    np.testing.assert_allclose(prod.to_original(Q, total), tq.prod.to_original(Q, total), rtol=0, atol=m * bound)
    np.testing.assert_array_equal(prod.pack(Q, theirs).data, tq.prod.pack(Q, theirs).data)
    back = prod.unpack(Q, tq.prod.pack(Q, theirs))
    np.testing.assert_array_equal(back.signs, theirs.signs)
    np.testing.assert_allclose(back.residual_norms, theirs.residual_norms, rtol=EPS[np.float32])
    np.testing.assert_array_equal(prod.to_packed(Q, prod.encode(Q, x)).data, prod.pack(Q, ours).data)
