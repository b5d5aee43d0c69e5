"""Launch and copy plumbing: kernels compiled once, and launches that cost little.

Nothing here is imported from numba until the first call, so ``import cuda_kernels`` works anywhere. What a call needs
of the machine is in `_device`, whose arrays it takes and gives in `_homes`; both are offered here too.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._device import FAST_FROM, capability, enough_memory, is_fast, processors, ready, shared_memory, simulated
from ._homes import Home, address, home_of, name_of, on_device

__all__ = [
    "FAST_FROM", "Function", "Home", "Launches", "address", "blocks", "capability", "check_out", "compiled",
    "enough_memory", "fix", "home_of", "is_fast", "name_of", "on_device", "plain", "processors", "ptx_of", "ready",
    "shared_memory", "simulated", "view",
]  # fmt: skip


@dataclass(frozen=True)
class View:
    """Contiguous memory of somebody's array, as a plain kernel takes it."""

    owner: Any
    shape: tuple[int, ...]
    dtype: str


def view(a: Any, shape: tuple[int, ...], dtype: str | None = None) -> Any:
    """A contiguous array of any library in another shape, its bytes as numbers of another dtype; nothing is copied."""
    if not simulated():
        return View(a, shape, dtype or name_of(a))
    if dtype is None:
        return a.reshape(shape)
    return a.reshape((*shape[:-1], shape[-1] * np.dtype(dtype).itemsize // a.dtype.itemsize)).view(np.dtype(dtype))


def contiguous(a: Any) -> bool:
    """Whether elements lie one after the other, whatever the strides of axes of length 1; numba asks for those too."""
    if hasattr(a, "is_contiguous"):  # PyTorch
        return bool(a.is_contiguous())
    if not hasattr(a, "strides"):  # JAX, or a View
        return True
    expected = a.dtype.itemsize
    for n, stride in zip(reversed(a.shape), reversed(a.strides), strict=True):
        if n > 1 and stride != expected:
            return 0 in a.shape
        expected *= n
    return True


def check_out(out: Any, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
    """Refuse an array that results of this shape cannot be written to."""
    if not on_device(out):
        raise TypeError(f"out: expected an array on the device, got {type(out).__name__}")
    got = tuple(int(n) for n in out.shape)
    if got != shape or name_of(out) not in dtypes or not contiguous(out):
        raise ValueError(
            f"out: expected a C-contiguous array {shape} of {' or '.join(dtypes)}, got {got} of {name_of(out)}"
            + ("" if contiguous(out) else ", not contiguous")
        )


def _kind(argument: Any) -> Any:
    """The numba type of an argument of a plain kernel."""
    from numba import typeof, types

    if not hasattr(argument, "shape") or np.isscalar(argument):
        return typeof(argument)
    if not contiguous(argument):
        raise ValueError(f"expected a C-contiguous array, got another of shape {tuple(argument.shape)}")
    return _array_kind(name_of(argument), len(argument.shape), types)


@functools.cache
def _array_kind(dtype: str, ndim: int, types: Any) -> Any:
    return types.Array(getattr(types, "boolean" if dtype == "bool" else dtype), ndim, "C")


def fix(kernel: Any, grid: Any, block: Any, *arguments: Any) -> Callable[[int], None]:
    """The launch of a plain kernel with these arguments, as a function of the stream; in the simulator too.

    Parameters
    ----------
    kernel : what ``cuda.jit`` returned
    grid, block : int or tuple of int
    arguments : numbers, and C-contiguous arrays on the device, which the caller keeps alive
    """
    grid, block = (x if isinstance(x, tuple) else (x,) for x in (grid, block))
    if 0 in grid:
        return lambda stream: None
    if simulated():
        return lambda stream: kernel[grid, block](*arguments)
    kinds = tuple(map(_kind, arguments))
    key = (ready().get_current_device().id, kernel, kinds)
    if key not in _functions:
        _functions[key] = Function(kernel.py_func, kinds)
    return _functions[key].fix((*grid, 1, 1)[:3], block, *arguments)


def plain(kernel: Any, grid: Any, block: Any, home: Home, *arguments: Any) -> None:
    """Launch a plain kernel on arrays, on the caller's stream."""
    launch, stream = fix(kernel, grid, block, *arguments), home.stream()
    _explained(lambda: launch(stream))


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


_NUMBERS = {
    "bool": ctypes.c_uint8, "int32": ctypes.c_int32, "int64": ctypes.c_int64, "float32": ctypes.c_float,
    "float64": ctypes.c_double,
}  # fmt: skip


def _words(kind: Any, argument: Any) -> list[Any]:
    """An argument as the kernel's parameters: a number is one, an array what numba passes for one."""
    if not hasattr(kind, "ndim"):
        return [_NUMBERS[str(kind)](argument)]
    shape = [int(n) for n in argument.shape]
    size = np.dtype(str(kind.dtype)).itemsize
    strides = [size * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    at = address(argument.owner if isinstance(argument, View) else argument)
    return [ctypes.c_int64(n) for n in (0, 0, math.prod(shape), size, at, *shape, *strides)]


class Function:
    """A compiled kernel: arguments are addresses, numbers and arrays, launches go straight to the driver.

    Parameters
    ----------
    kernel : Python function
    signature : tuple of numba types
        Of its arguments: bool, numbers of 32 or 64 bits, and C-contiguous arrays.
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
        self, grid: tuple[int, int, int], threads: int | tuple[int, ...], *arguments: Any, early: bool = False
    ) -> Callable[[int], None]:
        """The launch with these arguments, as a function of the stream: a few microseconds, capturable in a graph.

        An `early` one (compute capability 9.0) starts when every block of the launch before it has said
        ``griddepcontrol.launch_dependents``, and sees what that wrote once it has said ``griddepcontrol.wait``.
        """
        driver, handle = self._driver, self._handle
        values = [word for kind, a in zip(self._kinds, arguments, strict=True) for word in _words(kind, a)]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        where, (x, y, z) = ctypes.addressof(pointers), grid
        block = (*(threads if isinstance(threads, tuple) else (threads,)), 1, 1)[:3]
        if x * y * z == 0:
            return lambda stream: None
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = block
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
                error = driver.cuLaunchKernel(handle, x, y, z, *block, self.dynamic, stream, where, 0)[0]
            if error:
                self._check(error)

        return call

    def __call__(self, grid: tuple[int, int, int], threads: int, stream: int, *arguments: Any) -> None:
        """Launch once."""
        self.fix(grid, threads, *arguments)(stream)


class Launches:
    """A call whose arguments are fixed.

    Attributes
    ----------
    home : Home
        Whose stream it goes to.
    out : array
        What it gives, written anew each time.
    launches : functions of a stream
        In their order.
    """

    home: Home
    out: Any
    launches: Sequence[Callable[[int], None]]

    def __call__(self, stream: int | None = None) -> Any:
        """Launch on a stream, the caller's current one by default; gives `out`."""
        handle = self.home.stream() if stream is None else stream
        for launch in self.launches:
            launch(handle)
        return self.out


_functions: dict[Any, Function] = {}
"""Of fast kernels by factory and constants, of plain ones by kernel and types."""


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
