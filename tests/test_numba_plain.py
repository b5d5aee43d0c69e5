"""The kernels as ordinary Python, on NumPy's meaning of `simd`: the same bits as compiled.

``NUMBA_DISABLE_JIT=1 pytest --cov=numba_kernels tests/test_numba_plain.py`` measures which lines of them run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba_kernels.mse", reason="numba is not installed", exc_type=ImportError)

from numba_kernels import _indices, _jit, mse, packing, prod, qjl, rotation
from numba_kernels._norms import norm_and_unit, rows_of
from turboquant_ref import codebook

FLOATS = (np.float32, np.float64)


def results() -> dict[str, np.ndarray]:
    """What every kernel gives, for inputs that reach each of its lines: ragged edges, whole blocks, extreme rows."""
    found = {}
    rng = np.random.default_rng(0)
    for bits in range(9):
        numbers = rng.integers(0, 2**bits, (3, 37)).astype(np.uint8)
        found[f"pack {bits}"] = packing.pack_bits(numbers, bits)
        found[f"unpack {bits}"] = packing.unpack_bits(found[f"pack {bits}"], bits, 37)
    for n in (1, 8, 64):
        for dtype in (np.int64, *FLOATS):
            found[f"fwht {n} {dtype.__name__}"] = rotation.fwht(rng.integers(-99, 99, (18, n)).astype(dtype))
    for d in (12, 48):
        for dtype in FLOATS:
            x, name = rng.standard_normal((19, d)).astype(dtype), f"{d} {dtype.__name__}"
            found[f"apply {name}"] = rotation.apply(rotation.structured(d, 1), x)
            found[f"inverse {name}"] = rotation.inverse(rotation.structured(d, 1), x)
            x[3], x[4], x[5] = 0, np.finfo(dtype).max / 64, np.finfo(dtype).tiny
            found[f"norms {name}"], found[f"unit {name}"] = norm_and_unit(rows_of(x, d))
            for bits in (0, 1, 2, 3, 4, 7):
                indices, zq, qq = _indices.nearest(codebook.lloyd_max(d, bits), found[f"unit {name}"])
                found |= {f"{key} {bits} {name}": a for key, a in (("idx", indices), ("zq", zq), ("qq", qq))}
    x = rng.standard_normal((19, 36)).astype(np.float32)
    for bits in (1, 3, 4, 6):
        for kind in ("structured", "haar"):
            P = mse.encode(mse.setup(36, bits, 2, kind, "unbiased"), x)
            found |= {f"mse {kind} {bits} codes": P.codes, f"mse {kind} {bits} scales": P.values}
    P = prod.encode(prod.setup(36, 3, 2, "structured", "orthogonal"), x)
    found |= {"prod codes": P.codes, "prod norms": P.values}
    P = qjl.encode(qjl.setup(36, 40, 2, "orthogonal", "structured"), x)
    return {**found, "qjl codes": P.codes, "qjl norms": P.values}


def test_python_and_compiled_forms_give_the_same_bits(tmp_path):
    here = results()
    if _jit.config.DISABLE_JIT:
        return
    script = "import sys, numpy, test_numba_plain as t; numpy.savez(sys.argv[1], **t.results())"
    file = tmp_path / "plain.npz"
    tests = Path(__file__).parent
    path = os.pathsep.join(map(str, (tests.parent, tests)))
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": path}
    environment.pop("TURBOQUANT_SIMD", None)
    command = [sys.executable, "-W", "error", "-c", script, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(file) as plain:
        assert set(plain.files) == set(here)
        for name, expected in here.items():
            np.testing.assert_array_equal(plain[name], expected, err_msg=name)
