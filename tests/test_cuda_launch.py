"""Launches: which arrays a plain kernel takes as they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cuda_kernels import _launch


@given(data=st.data())
def test_what_lies_together(data: st.DataObject) -> None:
    """As NumPy decides it, for views of any strides: broadcast axes, steps, turned axes, axes of length 0 and 1."""
    shape = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    a = np.zeros(shape, np.int16).transpose(data.draw(st.permutations(range(len(shape)))))
    a = a[tuple(slice(None, None, data.draw(st.sampled_from([1, 2, -1]))) for _ in shape)]
    if data.draw(st.booleans()):
        a = np.broadcast_to(a, (data.draw(st.integers(1, 2)), *a.shape))
    assert _launch.contiguous(a) == a.flags.c_contiguous
