"""Launch and copy plumbing: what is missing, whose arrays these are, where results go, launches that cost little.

Nothing here is imported from numba until the first call, so ``import cuda_kernels`` works anywhere; `ready` says what
is missing when it is needed.

Arrays keep their *home*: NumPy arrays are copied to the device and results back; arrays of CuPy, PyTorch, JAX and
Numba that live on the device are read where they are, and results are made by the same library on its current stream.
Anything else with ``__cuda_array_interface__`` or a device's ``__dlpack__`` is read in place and answered with Numba's
arrays.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

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


class Home:
    """A library whose arrays come in and go out; this one is Numba's, and every other one's fallback."""

    def take(self, a: Any) -> Any:
        """The array as it is, or a contiguous copy on the device."""
        if isinstance(a, np.ndarray):
            return ready().to_device(np.ascontiguousarray(a))
        array = ready().as_cuda_array(a) if not hasattr(a, "copy_to_host") else a
        if not simulated() and not array.is_c_contiguous():
            raise ValueError(f"expected a C-contiguous array, got strides {array.strides} for shape {array.shape}")
        return array

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array on the device."""
        return ready().device_array(shape, np.dtype(dtype))

    def stream(self) -> int:
        """Handle of the stream that the caller works on."""
        return 0

    def address(self, a: Any) -> int:
        """Device address of the first element."""
        return address(a)

    def as_float32(self, a: Any) -> Any:
        """The array as float32."""
        if name_of(a) == "float32":
            return a
        return ready().to_device(np.asarray(a.copy_to_host(), dtype=np.float32))

    def give(self, a: Any) -> Any:
        """What the caller gets."""
        return a


class _NumPy(Home):
    def take(self, a: Any) -> Any:
        if hasattr(a, "copy_to_host"):
            return a
        return ready().to_device(np.ascontiguousarray(a))

    def give(self, a: Any) -> Any:
        return a.copy_to_host()


class _CuPy(Home):
    def take(self, a: Any) -> Any:
        return _library("cupy").ascontiguousarray(a)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return _library("cupy").empty(shape, dtype)

    def stream(self) -> int:
        return int(_library("cupy").cuda.get_current_stream().ptr)

    def as_float32(self, a: Any) -> Any:
        return a.astype("float32", copy=False)


class _Torch(Home):
    def take(self, a: Any) -> Any:
        torch = _library("torch")
        a = torch.as_tensor(a, device="cuda")
        return a.detach().contiguous()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        torch = _library("torch")
        return torch.empty(shape, dtype=getattr(torch, dtype), device="cuda")

    def stream(self) -> int:
        return int(_library("torch").cuda.current_stream().cuda_stream)

    def as_float32(self, a: Any) -> Any:
        return a.float()


class _Jax(Home):
    """JAX arrays are immutable and its streams its own: we wait for it, and it waits for us."""

    def take(self, a: Any) -> Any:
        return _library("jax").numpy.asarray(a).block_until_ready()

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return _library("jax").numpy.zeros(shape, dtype).block_until_ready()  # nobody else has seen it

    def as_float32(self, a: Any) -> Any:
        return a.astype("float32").block_until_ready()

    def give(self, a: Any) -> Any:
        ready().synchronize()
        return a


_HOMES: dict[str, Home] = {"numpy": _NumPy(), "numba": Home(), "cupy": _CuPy(), "torch": _Torch(), "jax": _Jax()}


def _library(name: str) -> ModuleType:
    return sys.modules[name] if name in sys.modules else __import__(name)


def _name_of_home(a: Any) -> str:
    library = type(a).__module__.partition(".")[0]
    if library == "torch":
        return "torch" if a.is_cuda else "numpy"
    if library in ("jax", "jaxlib"):
        return "jax" if any(d.platform in ("gpu", "cuda") for d in a.devices()) else "numpy"
    if library == "cupy":
        return "cupy"
    if library in ("numba", "numba_cuda") or hasattr(a, "__cuda_array_interface__"):
        return "numba"
    on_device = hasattr(a, "__dlpack_device__") and not isinstance(a, np.ndarray) and a.__dlpack_device__()[0] == 2
    return "numba" if on_device else "numpy"


def home_of(*arrays: Any) -> Home:
    """The home of a call's arrays: that of the first which lives on the device, NumPy if none does.

    `Home.take` then brings the others there.
    """
    names = [name for name in map(_name_of_home, arrays) if name != "numpy"]
    return _HOMES[names[0] if names else "numpy"]


def address(a: Any) -> int:
    """Device address of the first element of an array of any library; 0 for None."""
    if a is None:
        return 0
    if hasattr(a, "data_ptr"):  # PyTorch
        return int(a.data_ptr())
    if hasattr(a, "unsafe_buffer_pointer"):  # JAX
        return int(a.unsafe_buffer_pointer())
    return int(a.__cuda_array_interface__["data"][0])


def on_device(a: Any) -> bool:
    """Whether an array lives on the device."""
    return _name_of_home(a) != "numpy"


def name_of(a: Any) -> str:
    """The name of an array's dtype, one word for every library: "float32", "bfloat16", …."""
    return str(a.dtype).rpartition(".")[2]


def enough_memory(nbytes: int, what: str) -> None:
    """Refuse work for which the device has too little memory.

    Raises
    ------
    MemoryError
        That says what was to be made, its size and what is free.
    """
    if simulated():
        return
    free, total = ready().current_context().get_memory_info()
    if nbytes > free:
        raise MemoryError(f"{what}: {nbytes:,} bytes are needed on the device, {free:,} of {total:,} are free")


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
