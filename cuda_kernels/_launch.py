"""Launch and copy plumbing: kernels compiled once, and launches that cost little.

Nothing here is imported from numba until the first call, so ``import cuda_kernels`` works anywhere. What a call needs
of the machine is in `_device`, whose arrays it takes and gives in `_homes`; both are offered here too.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

from ._device import FAST_FROM, capability, enough_memory, is_fast, processors, ready, shared_memory, simulated
from ._homes import Home, address, home_of, name_of, on_device

__all__ = [
    "FAST_FROM", "Function", "Home", "address", "blocks", "capability", "compiled", "enough_memory", "home_of",
    "is_fast", "name_of", "on_device", "plain", "processors", "ptx_of", "ready", "shared_memory", "simulated",
]  # fmt: skip


def plain(kernel: Any, grid: Any, block: Any, home: Home, *arguments: Any) -> None:
    """Launch a plain kernel on arrays, on the caller's stream; in the simulator too."""
    if 0 in (grid if isinstance(grid, tuple) else (grid,)):
        return
    cuda, handle = ready(), home.stream()
    stream = cuda.external_stream(handle) if handle and not simulated() else 0
    _explained(lambda: kernel[grid, block, stream](*arguments))


def _explained(work: Callable[[], Any]) -> Any:
    """The driver's refusals in words."""
    try:
        return work()
    except Exception as error:
        text = str(error)
        if "UNSUPPORTED_PTX_VERSION" in text or "INSUFFICIENT_DRIVER" in text or "NO_BINARY_FOR_GPU" in text:
            from cuda.bindings import driver

            version = driver.cuDriverGetVersion()[1]
            raise RuntimeError(
                f"the driver (CUDA {version // 1000}.{version % 1000 // 10}) cannot load what the installed CUDA "
                "toolkit compiles: update the driver, or install numba-cuda[cu12] for a CUDA 12 driver"
            ) from error
        if "OUT_OF_MEMORY" in text:
            raise MemoryError(f"too little memory on the device: {text}") from error
        raise


def _words(kind: Any, argument: Any) -> list[Any]:
    """An argument as the kernel's parameters: a number is one, an array what numba passes for one."""
    if not hasattr(kind, "ndim"):
        return [{"int32": ctypes.c_int32, "int64": ctypes.c_int64, "float32": ctypes.c_float}[str(kind)](argument)]
    shape = [int(n) for n in argument.shape]
    size = kind.dtype.bitwidth // 8
    strides = [size * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return [ctypes.c_int64(n) for n in (0, 0, math.prod(shape), size, address(argument), *shape, *strides)]


class Function:
    """A compiled fast kernel: arguments are addresses and numbers, launches go straight to the driver.

    Parameters
    ----------
    kernel : Python function
    signature : tuple of numba types
        Of its arguments: int32, int64, float32, and C-contiguous arrays.
    dynamic : int
        Bytes of dynamic shared memory of a block; more than 48 KB are allowed.
    """

    def __init__(
        self,
        kernel: Any,
        signature: tuple[Any, ...],
        dynamic: int = 0,
        fastmath: bool = False,
        registers: int | None = None,
    ) -> None:
        from cuda.bindings import driver

        cuda = ready()
        self._driver = driver
        compiled = cuda.jit(kernel, fastmath=fastmath, max_registers=registers).compile(signature)
        self._keep = compiled
        function = _explained(compiled._codelibrary.get_cufunc)
        self.registers, self.local = function.attrs.regs, function.attrs.local
        self._handle = self._function(function.handle)
        self._kinds = signature
        self.dynamic = dynamic
        if dynamic > 48 * 1024:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            self._check(driver.cuFuncSetAttribute(self._handle, attribute, dynamic)[0])

    def _function(self, handle: Any) -> Any:
        if not isinstance(handle, self._driver.CUkernel):
            return self._driver.CUfunction(int(handle))
        result, function = self._driver.cuKernelGetFunction(handle)
        self._check(result)
        return function

    def _check(self, result: Any) -> None:
        if int(result) != 0:
            _, text = self._driver.cuGetErrorName(result)
            raise RuntimeError(f"the driver refused a kernel: {text.decode() if isinstance(text, bytes) else text}")

    def fix(
        self, grid: tuple[int, int, int], threads: int, *arguments: Any, early: bool = False
    ) -> Callable[[int], None]:
        """The launch with these arguments, as a function of the stream: a few microseconds, capturable in a graph.

        An `early` one (compute capability 9.0) starts when every block of the launch before it has said
        ``griddepcontrol.launch_dependents``, and sees what that wrote once it has said ``griddepcontrol.wait``.
        """
        driver, handle = self._driver, self._handle
        values = [word for kind, a in zip(self._kinds, arguments, strict=True) for word in _words(kind, a)]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        where, (x, y, z) = ctypes.addressof(pointers), grid
        if x * y * z == 0:
            return lambda stream: None
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
        config.sharedMemBytes = self.dynamic
        if early:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1

        def call(stream: int, _alive: Any = (values, pointers, self)) -> None:
            if early:
                config.hStream = stream
                error = driver.cuLaunchKernelEx(config, handle, where, 0)[0]
            else:
                error = driver.cuLaunchKernel(handle, x, y, z, threads, 1, 1, self.dynamic, stream, where, 0)[0]
            if error:
                self._check(error)

        return call

    def __call__(self, grid: tuple[int, int, int], threads: int, stream: int, *arguments: Any) -> None:
        """Launch once."""
        self.fix(grid, threads, *arguments)(stream)


_functions: dict[Any, Function] = {}


def compiled(factory: Callable[..., Any], *constants: Any, **options: Any) -> Function:
    """The `Function` of ``factory(*constants)``, which returns (kernel, signature); each is compiled once a device.

    `constants` are what the kernel's text is a function of: bits, dimension, stages. `options` are those of `Function`.
    """
    key = (ready().get_current_device().id, factory, constants, tuple(sorted(options.items())))
    if key not in _functions:
        kernel, signature = factory(*constants)
        _functions[key] = Function(kernel, signature, **options)
    return _functions[key]


def ptx_of(factory: Callable[..., Any], *constants: Any, cc: tuple[int, int] = (9, 0), **options: Any) -> str:
    """The PTX of ``factory(*constants)`` for a GPU that need not be here."""
    from unittest import mock

    from numba import cuda

    kernel, signature = factory(*constants)
    device = mock.Mock(compute_capability=cc)  # device functions are compiled for "the current device"
    with mock.patch("numba.cuda.dispatcher.get_current_device", return_value=device):
        text, _ = cuda.compile_ptx(kernel, signature, cc=cc, **options)
    return str(text)


def blocks(n: int, size: int) -> int:
    """Blocks of `size` that cover n."""
    return math.ceil(n / size)
