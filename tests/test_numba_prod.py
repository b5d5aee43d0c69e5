"""Compiled Algorithm 2: the bodies of `test_prod`, and the Prepared form against the bytes of the reference."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("numba_kernels.prod", reason="numba is not installed", exc_type=ImportError)

from _shared import bodies

from numba_kernels import layout, mse, prod, qjl
from turboquant_ref import prod as reference
from turboquant_ref.qjl import of_matrix

ops = ModuleType("ops")  # with what makes an S of a given matrix, which is the reference's
vars(ops).update({**vars(qjl), "of_matrix": of_matrix})

OF_THE_REFERENCE = ["test_slope", "test_variance", "test_against_theory", "test_size"]  # of `measure`, or of sizes
globals().update(bodies("test_prod", OF_THE_REFERENCE, mse=mse, prod=prod, qjl=ops))


@pytest.mark.parametrize("scalars", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (37,), (2, 16)])
def test_encode_is_prepare_of_pack_of_quantize(shape, scalars):
    x = np.random.default_rng(1).standard_normal((*shape, 24)).astype(np.float32)
    for bits, residual in itertools.product((1, 2, 4, 7), prod.RESIDUALS):
        Q = prod.setup(24, bits, 3, "structured", "orthogonal", residual, m=40)
        code = prod.quantize(Q, x)
        found, expected = prod.encode(Q, x, scalars), layout.prepare(Q, reference.pack(Q, code, scalars))
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found.codes, expected.codes)
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(prod.to_packed(Q, found).data, prod.pack(Q, code, scalars).data)
