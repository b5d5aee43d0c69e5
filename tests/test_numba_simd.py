# ruff: noqa: F405
"""Vector types against their NumPy meaning, at every level; the cache; threads; what import costs.

A `simd` function is its meaning: the same kernel is run compiled and as Python, and must give the same bits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba_kernels.simd", reason="numba is not installed", exc_type=ImportError)

from numba.core.errors import TypingError

from numba_kernels import _jit, simd
from numba_kernels._jit import kernel
from numba_kernels.simd import *  # noqa: F403

HERE = Path(__file__)
PACKAGE = Path(simd.__file__).parent.parent
JIT = pytest.mark.skipif(_jit.config.DISABLE_JIT, reason="the JIT is disabled")


def both(function, *arrays):
    """The arrays after the compiled kernel ran on a copy of them, and after its Python form did."""
    compiled, plain = [a.copy() for a in arrays], [a.copy() for a in arrays]
    function(*compiled)
    getattr(function, "py_func", function)(*plain)
    return compiled, plain


def check(function, *arrays):
    for found, expected in zip(*both(function, *arrays), strict=True):
        np.testing.assert_array_equal(found, expected)


def random_bits(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)


@kernel
def _of_floats(a, b, out):
    x, y, at = load(a, 0), load(b, 0), 0
    for v in (x + y, x - y, x * y, x / y, -x, minimum(x, y), maximum(x, y), magnitude(x), sqrt(magnitude(x))):
        store(out, at, v)
        at += 16
    store(out, at, floor(x))
    store(out, at + 16, round_even(x * full_like(a, 0.5)))
    store(out, at + 32, select(x < y, x, y))
    store(out, at + 48, select((x <= y) & (x != y), full_like(a, 1.0), x))
    store(out, at + 64, select((x > y) | ~(x >= y) ^ (x == y), y, x))
    store(out, at + 80, magnitude(x))
    store(out, at + 96, splat(a[3]) + splat(sum_lanes(x)) + splat(max_lanes(x)) * splat(min_lanes(x)))
    store(out, at + 112, splat(lane(x, 5)))
    store(out, at + 128, load_masked(a, 0, first_lanes(5)))
    store_masked(out, at + 144, y, first_lanes(11))
    store(out, at + 160, lookup(x, load(INDICES, 0)))
    store(out, at + 176, gather(a, 0, load(INDICES, 0) & u32x16(15)))


INDICES = random_bits(16, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats(dtype):
    rng = np.random.default_rng(1)
    a, b = (rng.integers(-9, 9, 16) + rng.choice([0, 0.5, 0.25], 16) for _ in range(2))
    b[4:7] = a[4:7]
    b[b == 0] = 1
    check(_of_floats, a.astype(dtype), b.astype(dtype), np.zeros(21 * 16, dtype))


@kernel
def _of_fma(a, b, c, out):
    store(out, 0, fma(load(a, 0), load(b, 0), load(c, 0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_rounds_once(dtype):
    """(1 + u)^2 - 1 with u the unit of the last place: u^2 is there only if the product was not rounded."""
    u = np.finfo(dtype).eps
    a, c = np.full(16, 1 + u, dtype), np.full(16, -1 - 2 * u, dtype)
    (*_, found), _ = both(_of_fma, a, a, c, np.zeros(16, dtype))
    if dtype is np.float32 or not _jit.config.DISABLE_JIT:  # the NumPy form has no wider type for float64
        np.testing.assert_array_equal(found, np.full(16, u * u, dtype))


@kernel
def _of_integers(a, b, out, signed):
    x, y, at = load(a, 0), load(b, 0), 0
    for v in (x + y, x - y, x * y, x & y, x | y, x ^ y, ~x, x << 5, x >> 5, minimum(x, y), maximum(x, y)):
        store(out, at, v)
        at += 16
    store(out, at, select(x < y, x, y))
    store(out, at + 16, select((x <= y) ^ (x == y), x, y))
    store(out, at + 32, select((x > y) | (x != y), x, y))
    store(out, at + 48, select(x >= y, x, y))
    store(out, at + 64, load_masked(a, 0, first_lanes(9)))
    store_masked(out, at + 80, y, first_lanes(2))
    signed[0] = mask_bits(x < y)
    signed[1] = sum_lanes(x)
    signed[2] = max_lanes(x)
    signed[3] = min_lanes(y)
    signed[4] = lane(y, 15)
    signed[5] = flags(x < y)
    signed[6] = lowest(mask_bits(x == y))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_integers(dtype):
    a, b = random_bits(16, 1).view(dtype), random_bits(16, 2).view(dtype)
    b[3:5] = a[3:5]
    check(_of_integers, a, b, np.zeros(17 * 16, dtype), np.zeros(7, np.int64))


@kernel
def _of_words(u, v, s, bytes64, halves, floats, out, i32, f32):
    x, y, at = load(u, 0), load(v, 0), 0
    words = (
        merge_bits(x, y, ~x),
        lookup_bytes(y, x),
        lookup_bytes64(x, y),
        x << (y & u32x16(31)),
        x >> (y & u32x16(31)),
        load(bytes64, 0),
        load(bytes64, 3),
        load(halves, 0),
        as_u32(load(floats, 0)),
        as_u32(load(s, 0)),
        u32x16(-2),
        u32x16(2**32 - 7),
    )
    for w in words:
        store(out, at, w)
        at += 16
    store(i32, 0, dot4(load(s, 0), x, y))
    store(i32, 16, as_i32(x) >> 3)
    store(i32, 32, -load(s, 0))
    store(i32, 48, i32x16(-5))
    store(i32, 64, to_i32(load(floats, 0)))
    store(i32, 80, as_i32(load(floats, 0)))
    store(i32, 96, load(bytes64.view(np.int8), 7))
    store(f32, 0, to_f32(x))
    store(f32, 16, to_f32(as_i32(x)))
    store(f32, 32, as_f32(x & u32x16(0x7F7FFFFF)))
    store(f32, 48, to_f32(load(halves, 0)))
    store(f32, 64, f32x16(0.1))
    store(bytes64, 64, x)
    store(bytes64, 128, y)
    store(halves, 16, y)
    prefetch(u, 10**6)


def test_words_and_bytes():
    y = np.tile(random_bits(4, 5), 4)  # a table of 16 bytes, four times over
    halves = np.arange(16, dtype=np.float16).view(np.uint16)
    check(
        _of_words,
        random_bits(16, 4),
        y,
        random_bits(16, 6).view(np.int32),
        random_bits(36, 7).view(np.uint8),
        np.concatenate([halves, halves]),
        np.linspace(-9, 9, 16, dtype=np.float32),
        np.zeros(12 * 16, np.uint32),
        np.zeros(7 * 16, np.int32),
        np.zeros(5 * 16, np.float32),
    )


@kernel
def _dot(total, x, y):
    store(total, 0, dot4(load(total, 0), load(x, 0), load(y, 0)))


@pytest.mark.parametrize("u", [0, 1, 127, 128, 255])
@pytest.mark.parametrize("s", [-128, -1, 0, 1, 127])
def test_the_dot_product_of_bytes_never_saturates(u, s):
    """4 u s, for the extreme bytes too: what pairs of 16-bit sums that saturate would get wrong."""
    total = np.full(16, -7, np.int32)
    _dot(total, np.full(64, u, np.uint8).view(np.uint32), np.full(64, s, np.int8).view(np.uint32))
    assert total.tolist() == [4 * u * s - 7] * 16


@kernel
def _of_tuples(a, out):
    rows = load_many(a, 1, 17)
    store_many(out, 0, transpose(rows), 16)


@kernel
def _of_hadamard(a, out):
    store_many(out, 0, hadamard(load_many(a, 0, 16)), 16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint32])
def test_sixteen_vectors(dtype):
    a = np.random.default_rng(0).integers(0, 99, (17, 17)).astype(dtype)
    check(_of_tuples, a, np.zeros((16, 16), dtype))
    if np.dtype(dtype).kind == "f":
        check(_of_hadamard, a[:, :16].copy() / dtype(7), np.zeros((16, 16), dtype))


@JIT
def test_what_has_no_meaning_is_not_compiled():
    """An array that is not contiguous, mixed types, a store to another type: refused when compiled, not misread."""

    @_jit.njit
    def mixed(a, u):
        return sum_lanes(load(a, 0) + load(u, 0))

    @_jit.njit
    def loads(a):
        return sum_lanes(load(a, 0))

    @_jit.njit
    def stores(a):
        store(a, 0, u32x16(1))

    a = np.zeros(64, np.float32)
    cases = ((mixed, (a, a.view(np.uint32))), (loads, (a[::2],)), (loads, (a.astype(bool),)), (stores, (a,)))
    for function, given in cases:
        with pytest.raises(TypingError):
            function(*given)


# ------------------------------------------------------------------------------------ levels


def test_the_level():
    features = frozenset().union(*_jit.LEVELS.values())
    assert list(_jit.LEVELS) == ["avx512", "avx2", "portable"]
    assert _jit._level(None, features) == "avx512"
    assert _jit._level(None, _jit.LEVELS["avx2"]) == "avx2"
    assert _jit._level(None, frozenset()) == "portable"
    for level in _jit.LEVELS:
        assert _jit._level(level, features) == level
    with pytest.raises(ValueError, match=r"^TURBOQUANT_SIMD: expected one of avx512, avx2, portable, got 'sse'"):
        _jit._level("sse", features)


@JIT
def test_a_level_that_the_processor_lacks_is_refused():
    with pytest.raises(ValueError, match=r"^TURBOQUANT_SIMD: this processor cannot run 'avx2': it lacks avx2"):
        _jit._level("avx2", frozenset())


def python(code: str, path: Path = PACKAGE.parent, **variables: str) -> str:
    """What a fresh Python prints, with `path` in front of the others."""
    environment = {**os.environ, "PYTHONPATH": str(path), **variables}
    command = [sys.executable, "-c", code]  # which looks in the working directory first of all
    done = subprocess.run(command, env=environment, cwd=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ENCODE = """
import hashlib, numpy as np, numba_kernels as nk
x = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
Q = nk.mse.setup(50, 4, 1, "structured", "unbiased")
P = nk.mse.encode(Q, x)
print(nk.LEVEL, hashlib.sha256(P.codes.tobytes() + P.values.tobytes()).hexdigest())
"""


@JIT
@pytest.mark.parametrize("level", [level for level in _jit.LEVELS if level != _jit.LEVEL])
def test_other_levels(level):
    """This file's tests of meaning, and a whole encoder to the same bits, at the levels that this process is not at."""
    try:
        _jit._level(level, _jit._features())
    except ValueError as error:
        pytest.skip(str(error))
    names, mine = [python(ENCODE, TURBOQUANT_SIMD=name).split() for name in (level, _jit.LEVEL)]
    assert names == [level, mine[1]]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE)]
    chosen = ["-k", "floats or fma or integers or words or dot or sixteen"]
    environment = {**os.environ, "TURBOQUANT_SIMD": level, "PYTEST_ADDOPTS": ""}  # not the options of this run
    done = subprocess.run([*command, *chosen], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# ------------------------------------------------------------------------------------ cache and import

ONE_CALL = """
import numpy as np
from numba_kernels import rotation
rotation.fwht(np.ones((3, 16), np.float32))
x = rotation.fwht(np.arange(32, dtype=np.float32).reshape(2, 16))
print(float(x[0, 1]), sum(rotation._fwht_rows.stats.cache_hits.values()))
"""


@JIT
def test_an_edit_of_simd_is_compiled_again(tmp_path):
    """Numba does not see that a file changed which a kernel's file imports; the cache's key does."""
    copy = tmp_path / "numba_kernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert python(ONE_CALL, tmp_path) == "-8.0 0"
    assert python(ONE_CALL, tmp_path) == "-8.0 1"
    source = (copy / "simd" / "lanes.py").read_text()
    right, wrong = "builder.fsub(x[i], x[i + s])", "builder.fadd(x[i], x[i + s])"
    assert source.count(right) == 1
    (copy / "simd" / "lanes.py").write_text(source.replace(right, wrong))
    assert python(ONE_CALL, tmp_path) == "120.0 0"
    assert python(ONE_CALL, tmp_path) == "120.0 1"


VECTOR_BETWEEN_KERNELS = """
import numpy as np
from numba import njit
from numba_kernels import _lanes
from numba_kernels.simd import lane

@njit
def norm(T):
    return lane(_lanes.norms_of(T, 16)[0], 3)

print(norm(np.ones(256, np.float32)), sum(_lanes.norms_of.stats.cache_hits.values()))
"""


@JIT
def test_a_kernel_on_disk_fits_one_that_is_not(tmp_path):
    """The vector that a kernel returns is, from the cache, of the same type as before: its class is not a copy."""
    shutil.copytree(PACKAGE, tmp_path / "numba_kernels", ignore=shutil.ignore_patterns("__pycache__"))
    assert python(VECTOR_BETWEEN_KERNELS, tmp_path) == "4.0 0"
    assert python(VECTOR_BETWEEN_KERNELS, tmp_path) == "4.0 1"


@JIT
def test_nothing_is_compiled_at_import():
    code = """
import numba_kernels, sys
from numba.core.dispatcher import Dispatcher
modules = [m for n, m in sys.modules.items() if n.startswith("numba_kernels")]
kernels = {v for m in modules for v in vars(m).values() if isinstance(v, Dispatcher)}
print(len(kernels) > 10, sum(len(k.overloads) for k in kernels))
"""
    assert python(code) == "True 0"


@JIT
def test_a_warm_start_is_short():
    """Processor time from import to the result of a first call that is on disk, beside that of the imports."""
    code = f"""
import time, numba, turboquant_ref
start = time.process_time()
{ENCODE}
print(time.process_time() - start)
"""
    python(code)
    assert float(python(code).splitlines()[-1]) < 0.5


@JIT
def test_what_is_on_disk_is_not_compiled_again():
    """By numba's own count, in a second process: encoding, search and attention, of both precisions."""
    code = """
import numpy as np
from numba.core import event
import numba_kernels as nk, turboquant_ref as tq
x = np.random.default_rng(0).standard_normal((100, 48), np.float32)
with event.install_recorder("numba:compile") as compiled:
    for bits in (2, 3):
        Q = tq.mse.setup(48, bits, 0, "structured")
        codes, heads = nk.mse.encode(Q, x), nk.mse.encode(Q, x[None])
        for precision in nk.search.PRECISIONS:
            for n in (1, 30):
                nk.search.topk(Q, codes, x[:n], 3, precision=precision)
                nk.attention.attend(Q, Q, x[None, :n], heads, heads, precision=precision)
print(sum(happened.is_end for _, happened in compiled.buffer))
"""
    python(code)
    assert python(code) == "0"


# ------------------------------------------------------------------------------------ threads


@pytest.fixture
def any_threads():
    before = _jit.threads()
    yield
    _jit.set_threads(before)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 1000])
@pytest.mark.usefixtures("any_threads")
def test_parts_cover_the_rows_once_in_order(n):
    for threads in (1, 2, 3, 8):
        _jit.set_threads(threads)
        for enough, step in ((1, 1), (1, 16), (100, 16), (10**6, 1)):
            parts = _jit.in_parts(lambda start, stop: (start, stop), n, enough, step)
            assert [i for start, stop in parts for i in range(start, stop)] == list(range(n))
            assert len(parts) <= max(1, min(threads, n // enough))
            assert all(start % step == 0 for start, _ in parts)


@pytest.mark.usefixtures("any_threads")
def test_parts_run_at_once_and_errors_arrive():
    _jit.set_threads(3)
    meeting = threading.Barrier(3, timeout=60)
    _jit.in_parts(lambda start, stop: meeting.wait(), 3, 1)

    def fails(start, stop):
        if start:
            raise ValueError(f"part from {start}")

    with pytest.raises(ValueError, match="part from 1"):
        _jit.in_parts(fails, 3, 1)


@pytest.mark.usefixtures("any_threads")
def test_the_number_of_threads():
    _jit.set_threads(5)
    assert _jit.threads() == 5
    for bad, error in ((0, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^n must be an integer of at least 1"):
            _jit.set_threads(bad)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_has_threads_of_its_own():
    code = """
import os
from numba_kernels import _jit
_jit.set_threads(2)
run = lambda start, stop: stop - start
_jit.in_parts(run, 10, 1)
child = os.fork()
if child == 0:
    os._exit(0 if _jit.in_parts(run, 10, 1) == [5, 5] else 1)
print(os.waitpid(child, 0)[1])
"""
    assert python(code) == "0"
