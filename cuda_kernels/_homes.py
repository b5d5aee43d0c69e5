"""Whose arrays these are, and where results go.

Arrays keep their *home*: NumPy arrays are copied to the device and results back; arrays of CuPy, PyTorch, JAX and
Numba that live on the device are read where they are, and results are made by the same library on its current stream.
Anything else with ``__cuda_array_interface__`` or a device's ``__dlpack__`` is read in place and answered with Numba's
arrays.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from ._device import ready, simulated


class Home:
    """A library whose arrays come in and go out; this one is Numba's, and every other one's fallback."""

    def take(self, a: Any) -> Any:
        """The array as it is, or a contiguous copy on the device."""
        if isinstance(a, np.ndarray):
            return ready().to_device(np.ascontiguousarray(a))
        array = a if hasattr(a, "copy_to_host") else ready().as_cuda_array(_with_interface(a))
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


def _with_interface(a: Any) -> Any:
    """An array with ``__cuda_array_interface__``, made from ``__dlpack__`` where it has none."""
    if hasattr(a, "__cuda_array_interface__"):
        return a
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_dlpack(a, stream_ptr=0)
    strides = None if view.strides is None else tuple(n * view.dtype.itemsize for n in view.strides)
    interface = {
        "shape": tuple(view.shape), "strides": strides, "typestr": view.dtype.str, "data": (view.ptr, view.readonly),
        "version": 3,
    }  # fmt: skip
    return SimpleNamespace(__cuda_array_interface__=interface, owner=(a, view))


def _on_current(index: int) -> None:
    current = ready().get_current_device().id
    if index != current:
        raise ValueError(f"array: expected one on the current device, {current}, got one on {index}; select that one")


class _NumPy(Home):
    def take(self, a: Any) -> Any:
        if hasattr(a, "copy_to_host"):
            return a
        return ready().to_device(np.ascontiguousarray(a))

    def give(self, a: Any) -> Any:
        return a.copy_to_host()


class _CuPy(Home):
    def take(self, a: Any) -> Any:
        array = _library("cupy").ascontiguousarray(_library("cupy").asarray(a))
        _on_current(array.device.id)
        return array

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return _library("cupy").empty(shape, dtype)

    def stream(self) -> int:
        return int(_library("cupy").cuda.get_current_stream().ptr)

    def as_float32(self, a: Any) -> Any:
        return a.astype("float32", copy=False)


class _Torch(Home):
    def take(self, a: Any) -> Any:
        tensor = _library("torch").as_tensor(a, device="cuda").detach().contiguous()
        _on_current(tensor.device.index)
        return tensor

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
