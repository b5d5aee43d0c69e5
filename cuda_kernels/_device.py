"""What is there: numba-cuda, a driver, a GPU, its capability and memory; said on the first call, not on import."""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import numpy as np

FAST_FROM = (8, 0)
"""Least compute capability of the fast kernels: cp.async and the int8 tensor-core shape they use."""

_MISSING = "cuda_kernels needs numba-cuda: pip install 'turboquant-ref[cuda]' (CUDA 13 driver) or numba-cuda[cu12]"


@functools.cache
def ready() -> ModuleType:
    """``numba.cuda``, once everything that a kernel needs is there.

    Raises
    ------
    RuntimeError
        That says what is missing and how to get it: numba-cuda, a driver, a GPU, or a driver new enough.
    """
    # numba-cuda 0.30.4 reads numpy.row_stack when it is first used; NumPy 2.5 has removed that alias of vstack
    borrowed = not hasattr(np, "row_stack")
    if borrowed:
        np.row_stack = np.vstack  # type: ignore[attr-defined] # noqa: NPY201
    try:
        import numba_cuda  # noqa: F401
        from numba import config, cuda

        if not config.ENABLE_CUDASIM:
            import numba.cuda.np.arrayobj  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f"{_MISSING}; importing it says: {error}") from error
    finally:
        if borrowed:
            del np.row_stack  # type: ignore[attr-defined] # noqa: NPY201
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small inputs are not a mistake
    if config.ENABLE_CUDASIM or cuda.is_available():
        return cuda  # type: ignore[no-any-return]
    reason = cuda.cuda_error() or "no CUDA device found"
    raise RuntimeError(
        f"cuda_kernels needs an NVIDIA GPU and its driver; the driver says: {reason}. "
        "Without a GPU use turboquant_ref or numba_kernels, or set NUMBA_ENABLE_CUDASIM=1 to simulate the plain kernels"
    )


def simulated() -> bool:
    """Whether numba's CUDA simulator runs instead of a GPU."""
    ready()
    from numba import config

    return bool(config.ENABLE_CUDASIM)


@functools.cache
def _capability(device: int) -> tuple[int, int]:
    major, minor = ready().gpus[device].compute_capability
    return int(major), int(minor)


def capability() -> tuple[int, int]:
    """Compute capability of the current device; (0, 0) in the simulator."""
    return (0, 0) if simulated() else _capability(ready().get_current_device().id)


def is_fast() -> bool:
    """Whether the fast kernels run here; where they do not, the plain ones do the same work."""
    return capability() >= FAST_FROM


@functools.cache
def processors(device: int | None = None) -> int:
    """Number of streaming multiprocessors; 1 in the simulator."""
    return 1 if simulated() else int(ready().get_current_device().MULTIPROCESSOR_COUNT)


@functools.cache
def shared_memory() -> int:
    """Bytes of shared memory of a multiprocessor; 0 in the simulator."""
    return 0 if simulated() else int(ready().get_current_device().MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)


def enough_memory(nbytes: int, what: str) -> None:
    """Refuse work for which the device has too little memory, what libraries hold in reserve counted.

    Raises
    ------
    MemoryError
        That says what was to be made, its size and what is free.
    """
    if simulated() or nbytes < 1 << 26:  # less is left to the allocators: asking the driver takes longer than a kernel
        return
    free, total = ready().current_context().get_memory_info()
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and torch.cuda.is_initialized():
        free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if cupy is not None:
        free += cupy.get_default_memory_pool().free_bytes()
    if nbytes > free:
        raise MemoryError(f"{what}: {nbytes:,} bytes are needed on the device, {free:,} of {total:,} are free")
