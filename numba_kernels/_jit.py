"""How kernels are compiled, kept on disk, and spread over threads.

`LEVEL` is the instruction set that `simd` writes for: "avx512" (with VNNI and VBMI), "avx2", or "portable", which is
plain LLVM vectors and right on every processor. It is the best that the processor has; the environment variable
TURBOQUANT_SIMD, read at import, asks for a lower one. Results do not depend on it beyond what each function says.
With NUMBA_DISABLE_JIT=1 nothing is compiled: kernels run as ordinary Python, on `simd`'s NumPy meanings.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import config, njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

from turboquant_ref.vectors import check_integer

__all__ = ["LEVEL", "LEVELS", "in_parts", "inner", "kernel", "set_threads", "threads"]

LEVELS = {
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512vbmi", "fma"}),
    "avx2": frozenset({"avx2", "fma", "f16c"}),
    "portable": frozenset[str](),
}
"""The processor features that each level takes, best level first."""


def _features() -> frozenset[str]:
    """What Numba may compile for: the processor's features, or none that we know if Numba was told a CPU."""
    if config.DISABLE_JIT or config.CPU_NAME or config.CPU_FEATURES:
        return frozenset()
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def _level(wanted: str | None, features: frozenset[str]) -> str:
    """The level asked for, or the best that these features allow."""
    possible = [level for level, needed in LEVELS.items() if needed <= features]
    if wanted is None:
        return possible[0]
    if wanted not in LEVELS:
        raise ValueError(f"TURBOQUANT_SIMD: expected one of {', '.join(LEVELS)}, got {wanted!r}")
    if wanted not in possible and not config.DISABLE_JIT:
        lacking = ", ".join(sorted(LEVELS[wanted] - features))
        raise ValueError(f"TURBOQUANT_SIMD: this processor cannot run {wanted!r}: it lacks {lacking}")
    return wanted if wanted in possible else "portable"


LEVEL = _level(os.environ.get("TURBOQUANT_SIMD") or None, _features())
"""The instruction set in use: "avx512", "avx2" or "portable"."""

if LEVEL == "avx2" and os.environ.get("TURBOQUANT_SIMD"):
    # So that "avx2" asked for on a larger processor is what a smaller one runs. This holds for all that Numba
    # compiles in the process, if it has compiled nothing yet.
    config.CPU_NAME, config.CPU_FEATURES = "haswell", ""

_SOURCES = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(Path(__file__).parent.rglob("*.py")))).hexdigest()


class _Index(IndexDataCacheFile):
    """The index of a function's cache: one that names classes which are no longer there is as good as none."""

    def _load_index(self) -> dict[Any, Any]:
        try:
            return dict(super()._load_index())
        except (AttributeError, ImportError):
            return {}


class _Cache(FunctionCache):
    """Numba's cache on disk, emptied by an edit of any file of this package and kept apart by level.

    Numba's own notices an edit of the file that a function is in, not of those it imports.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = (self._impl.locator.get_source_stamp(), _SOURCES)
        self._cache_file = _Index(self._cache_path, self._impl.filename_base, stamp)

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), LEVEL)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile on first call, without the GIL and without fastmath, and keep it on disk; see `_Cache`."""
    return _cached(njit(nogil=True, error_model="numpy"), function)


def inner(function: Callable[..., Any]) -> Any:
    """As `kernel`, for a loop that works on the arrays it is given and makes none.

    Numba counts references to an array wherever it is named anew, by calls that send every vector in a register to
    memory. Here it does not, and a function that allocates does not compile.
    """
    return _cached(njit(nogil=True, error_model="numpy", _nrt=False), function)


def _cached(compiler: Callable[..., Any], function: Callable[..., Any]) -> Any:
    dispatcher = compiler(function)
    if not config.DISABLE_JIT:
        dispatcher._cache = _Cache(function)
    return dispatcher


_threads = config.NUMBA_NUM_THREADS
_pool: ThreadPoolExecutor | None = None
_workers = 0


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)  # the threads of a pool do not survive a fork


def threads() -> int:
    """The most threads that a call uses; at first NUMBA_NUM_THREADS, by default the number of processors."""
    return _threads


def set_threads(n: int) -> None:
    """Let a call use up to `n` threads, at least 1, in the whole process. Results are the same for every n."""
    global _threads, _pool
    _threads = check_integer(n, "n", 1)
    if _threads - 1 > _workers:
        _pool = None  # what runs on the old one ends there


def in_parts(run: Callable[[int, int], Any], n: int, enough: int, step: int = 1) -> list[Any]:
    """Call ``run(start, stop)`` on parts that cover range(n), in parallel where that pays; their results in order.

    Parameters
    ----------
    run : callable
        Spends its time in kernels, which run without the GIL. What it does for a row must not depend on the part.
    n : int
        Number of rows.
    enough : int
        Rows that are worth a thread; handing a part to a thread takes some 30 microseconds.
    step : int
        Parts begin at multiples of it.
    """
    global _pool, _workers
    steps = -(-n // step)
    count = min(_threads, steps, n // max(1, enough))
    if count <= 1:
        return [run(0, n)]
    edges = [min(n, steps * i // count * step) for i in range(count + 1)]
    if _pool is None:
        _workers = _threads - 1
        _pool = ThreadPoolExecutor(_workers, thread_name_prefix="numba_kernels")
    (start, stop), *rest = pairwise(edges)
    others = [_pool.submit(run, *part) for part in rest]
    first = run(start, stop)  # in this thread
    return [first, *(other.result() for other in others)]
