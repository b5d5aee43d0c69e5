"""Compiled rotations: the bodies of `test_rotation`, and the reference's result to the bit."""

from __future__ import annotations

import types

import numpy as np
import pytest

pytest.importorskip("numba_kernels.rotation", reason="numba is not installed", exc_type=ImportError)

from _shared import bodies

from numba_kernels import _jit, rotation
from turboquant_ref import rotation as reference

FLOATS = (np.float32, np.float64)


class Compiled:
    """A rotation of the reference that is applied by kernels."""

    def __init__(self, pi):
        self._pi = pi

    def __getattr__(self, name):
        return getattr(self._pi, name)

    def apply(self, x):
        return rotation.apply(self._pi, x)

    def inverse(self, y):
        return rotation.inverse(self._pi, y)


def compiled(make):
    return lambda *given, **named: Compiled(make(*given, **named))


SHARED = [
    "test_fwht_is_the_hadamard_matrix_exactly_in_integers",
    "test_fwht_is_a_scalar_loop_bit_for_bit",
    "test_fwht_leaves_its_argument_and_takes_views_and_empty_batches",
    "test_fwht_bad_input",
    "test_structured_is_orthogonal_and_inverse_inverts_for_every_d",
    "test_haar_is_orthogonal_and_inverse_inverts",
    "test_setup_by_name_is_the_constructor",
    "test_dtypes_empty_batches_and_bad_rows",
    "test_structured_is_its_specification_bit_for_bit",
    "test_structured_known_answers",
    "test_structured_row_does_not_depend_on_its_batch",
]
_ops = types.SimpleNamespace(
    fwht=rotation.fwht,
    haar=compiled(reference.haar),
    setup=compiled(reference.setup),
    structured=compiled(reference.structured),
    Structured=compiled(reference.Structured),
)
_tests = bodies("test_rotation", [], rotation=_ops)
globals().update({name: _tests[name] for name in SHARED})


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", [2, 3, 8, 15, 16, 17, 31, 48, 64, 96, 100, 128, 200, 256, 768, 1000])
def test_structured_is_the_reference_to_the_bit(d, dtype):
    x = np.random.default_rng(d).standard_normal((35, d)).astype(dtype)
    for rounds in (1, 2, 3):
        pi = reference.Structured(d, 7, rounds=rounds)
        np.testing.assert_array_equal(rotation.apply(pi, x), pi.apply(x))
        np.testing.assert_array_equal(rotation.inverse(pi, x), pi.inverse(x))


def test_one_round_is_a_structured_rotation_of_one_round():
    pi, same = rotation.one_round(24, 5, 2), reference.Structured(24, 5, 2, rounds=1)
    assert pi.identity == same.identity
    # what its docstring warns of: one image of a one-hot vector is a few distinct magnitudes
    assert len(np.unique(np.abs(rotation.apply(pi, np.eye(24)[0])).round(12))) <= 3


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.skipif(_jit.config.DISABLE_JIT, reason="parts large enough take minutes in Python")
def test_results_do_not_depend_on_the_number_of_threads(dtype):
    x = np.random.default_rng(0).standard_normal((12_345, 96)).astype(dtype)
    pi, before, found = reference.structured(96, 0), _jit.threads(), []
    try:
        for n in (1, 2, 5):
            _jit.set_threads(n)
            found.append(rotation.apply(pi, x))
    finally:
        _jit.set_threads(before)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
