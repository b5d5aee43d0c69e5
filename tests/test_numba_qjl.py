"""Compiled QJL: the bodies of `test_qjl`, and the Prepared form against the bytes of the reference."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("numba_kernels.qjl", reason="numba is not installed", exc_type=ImportError)

from _shared import bodies

from numba_kernels import layout, qjl
from turboquant_ref import qjl as reference

ops = ModuleType("ops")  # with what makes an S of a given matrix, which is the reference's
vars(ops).update({**vars(qjl), "of_matrix": reference.of_matrix})

OF_THE_REFERENCE = [  # they judge the sketch itself, or `measure`, which is the reference's
    "test_matrices_that_are_refused",
    "test_where_the_sketch_comes_from",
    "test_rows_of_an_orthogonal_sketch",
    "test_kappa",
    "test_slope",
    "test_unbiased_with_the_variance_of_theory",
    "test_m_bits_a_coordinate",
]
globals().update(bodies("test_qjl", OF_THE_REFERENCE, qjl=ops))


@pytest.mark.parametrize("scalars", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (0,), (37,), (2, 16)])
def test_encode_is_prepare_of_pack_of_quantize(shape, scalars):
    Q = qjl.setup(24, 40, 3)
    x = np.random.default_rng(1).standard_normal((*shape, 24)).astype(np.float32)
    found, expected = qjl.encode(Q, x, scalars), layout.prepare(Q, reference.pack(Q, qjl.quantize(Q, x), scalars))
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(qjl.to_packed(Q, found).data, qjl.pack(Q, qjl.quantize(Q, x), scalars).data)
