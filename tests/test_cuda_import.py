"""cuda_kernels without a GPU, without numba-cuda: it imports, and says on the first call what is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ImportError(f"No module named {{name!r}}")
sys.meta_path.insert(0, Hide())
"""


def python(code, hidden=()):
    run = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(hidden=set(hidden)) + code], capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout + run.stderr


def test_importing_loads_no_numba() -> None:
    code = "import cuda_kernels; print({m.partition('.')[0] for m in sys.modules} & {'numba', 'numba_cuda', 'torch'})"
    assert python(code) == (0, "set()\n")


CALLS = [
    "cuda_kernels.mse.quantize(cuda_kernels.mse.setup(4, 2, 0), np.ones((2, 4)))",
    "cuda_kernels.mse.encode(cuda_kernels.mse.setup(4, 2, 0), np.ones((2, 4)))",
    "cuda_kernels.rotation.apply(cuda_kernels.rotation.haar(4, 0), np.ones(4))",
    "cuda_kernels.packing.pack_bits(np.ones((1, 4), np.uint8), 2)",
    "import cuda_kernels.conformance",
]


@pytest.mark.parametrize("call", CALLS)
def test_the_first_call_says_what_to_install(call) -> None:
    status, said = python(f"import numpy as np, cuda_kernels\n{call}", ("numba", "numba_cuda"))
    assert status == 1
    assert "RuntimeError: cuda_kernels needs numba-cuda: pip install 'turboquant-ref[cuda]'" in said


def test_bad_input_is_named_before_anything_else_is_asked_for() -> None:
    call = "cuda_kernels.mse.quantize(cuda_kernels.mse.setup(4, 2, 0), np.ones((2, 5)))"
    code = f"import numpy as np, cuda_kernels\n{call}"
    status, said = python(code, ("numba", "numba_cuda"))
    assert status == 1
    assert "ValueError: x has vectors of 5 coordinates (its shape is (2, 5)), expected d = 4" in said
