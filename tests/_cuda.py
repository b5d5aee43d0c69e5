"""Where a test of cuda_kernels can run: on a GPU, in numba's simulator, or nowhere but as emitted code."""

from __future__ import annotations

import importlib.util
import os

import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
INSTALLED = importlib.util.find_spec("numba_cuda") is not None


def has_gpu():
    if SIMULATED or not INSTALLED:
        return False
    from cuda_kernels import _launch

    try:
        _launch.ready()
    except RuntimeError:
        return False
    return True


GPU = has_gpu()
needs_kernels = pytest.mark.skipif(not (SIMULATED or GPU), reason="needs a GPU, or NUMBA_ENABLE_CUDASIM=1")
needs_emission = pytest.mark.skipif(SIMULATED or not INSTALLED, reason="needs numba-cuda, without its simulator")
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU")
