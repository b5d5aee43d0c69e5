"""Vectors on the device: the input checks and norms of `turboquant_ref.vectors`, for arrays of every home.

NumPy arrays are checked on the host. Arrays on the device are checked where they are, by the kernel that reads them
anyway; one that must be refused is then copied to the host for the reference's own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from turboquant_ref import vectors as reference

from . import _launch
from ._homes import _HOMES
from .layout import to_host

__all__ = [
    "Flag",
    "Rows",
    "as_rows",
    "check_device",
    "device",
    "home_of",
    "launch",
    "norm_and_unit",
    "of_code",
    "plain",
    "refuse",
    "result",
    "sizes",
    "spread",
]

_FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of vectors on the device: their batch shape, where their arrays live, and the compute dtype.

    `array` is the vectors (n, d) themselves, where they came as such; codes have their arrays beside it.
    """

    shape: tuple[int, ...]
    home: _launch.Home
    dtype: str
    array: Any = None

    @property
    def n(self) -> int:
        """Number of vectors."""
        return int(np.prod(self.shape))

    def empty(self, *shape: int, dtype: str | None = None) -> Any:
        """A new array beside them, in the compute dtype."""
        return self.home.empty(tuple(int(n) for n in shape), dtype or self.dtype)


def sizes(a: Any) -> tuple[int, ...]:
    """The shape of an array of any library, as Python numbers."""
    return tuple(int(n) for n in a.shape)


def check_device(x: Any, d: int | None, name: str) -> None:
    """The dtype and the shape of an array on the device: what can be said without reading it.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.vectors.as_rows`.
    """
    kind = _launch.name_of(x)
    if kind not in _FLOATS and not kind.lstrip("u").startswith("int"):
        raise TypeError(f"{name} has dtype {kind}, allowed are float16, bfloat16, float32, float64 and integers")
    shape = sizes(x)
    if not shape:
        raise ValueError(f"{name} is a single number, expected an array of shape (..., d)")
    if shape[-1] < 2 or (d is not None and shape[-1] != d):
        expected = "at least 2" if d is None else f"d = {d}"
        found = f"{shape[-1]} coordinates (its shape is {shape})"
        raise ValueError(f"{name} has vectors of {found}, expected {expected}")


def as_rows(x: Any, d: int | None = None, name: str = "x", home: _launch.Home | None = None) -> Rows:
    """The vectors x (..., d) as rows on the device, in the compute dtype; NaN is found in host arrays only.

    Parameters
    ----------
    x : array_like or an array on the device
        float16, float32, float64 or integers; on the device bfloat16 too.
    d : int, optional
    name : str
    home : _launch.Home, optional
        Where the arrays of the call live, if not where `x` does.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.vectors.as_rows`.
    """
    if _launch.on_device(x):
        check_device(x, d, name)
        home = home or home_of(x)
        array = home.take(x)
        if _launch.name_of(array) in ("float16", "bfloat16"):
            array = home.as_float32(array)
        elif _launch.name_of(array) not in ("float32", "float64"):
            array = home.take(to_host(array).astype(np.float64))
    else:
        if type(x).__module__.partition(".")[0] == "torch":
            x = x.numpy()
        home = home or home_of()
        array = device(reference.as_rows(x, d, name), home)
    shape = sizes(array)
    return Rows(shape[:-1], home, _launch.name_of(array), array.reshape((int(np.prod(shape[:-1])), shape[-1])))


def of_code(code: Any, scalar: str, *others: Any) -> tuple[Rows, dict[str, Any]]:
    """The arrays of a code by name, on the device: numbers (n, k), scalars (n,), where they or `others` live."""
    arrays = {name: value for name, value in vars(code).items() if name != "fingerprint"}
    shape = sizes(arrays[scalar])
    home = home_of(*arrays.values(), *others)
    rows = Rows(shape, home, _launch.name_of(arrays[scalar]))
    return rows, {
        name: home.take(a).reshape((rows.n, *sizes(a)[len(shape) :])) for name, a in arrays.items()
    }


def norm_and_unit(rows: Rows, name: str = "x") -> tuple[Any, Any]:
    """||x|| (n,) and x / ||x|| (n, d) of each row, on the device.

    Raises
    ------
    ValueError
        NaN or infinity, or a norm beyond the largest number of the compute dtype.
    """
    kernels = plain()
    norms, unit = rows.empty(rows.n), rows.empty(*rows.array.shape)
    refused = Flag(rows.home)
    limit = float(np.finfo(rows.dtype).max)
    launch(kernels.normalise, rows.n, rows.home, rows.array, norms, unit, limit, refused.array)
    if refused.is_set():
        refuse(rows.array, name)
    return norms, unit


def refuse(x: Any, name: str) -> None:
    """Say, as the reference does, what is wrong with vectors on the device."""
    reference.norm_and_unit(to_host(x), name=name)
    raise ValueError(f"{name} holds a value that is not finite")  # the reference found none: a norm at the very limit


def plain() -> ModuleType:
    """The plain kernels, once there is something to run them on."""
    _launch.ready()
    from . import quantize_plain

    return quantize_plain


class _ViaNumba(_launch.Home):
    """JAX's arrays, which nobody may write to: read in place, worked on in Numba's, given back as a device's copy."""

    def take(self, a: Any) -> Any:
        if hasattr(a, "block_until_ready"):
            a = (a.astype("float32") if _launch.name_of(a) == "bfloat16" else a).block_until_ready()
        return super().take(a)

    def give(self, a: Any) -> Any:
        from cuda.bindings import driver

        out = _JAX.empty(sizes(a), _launch.name_of(a))
        if a.size:
            driver.cuMemcpyDtoD(_launch.address(out), _launch.address(a), a.nbytes)
        return _JAX.give(out)


_JAX, _VIA_NUMBA = _HOMES["jax"], _ViaNumba()


def home_of(*arrays: Any) -> _launch.Home:
    """The home of a call's arrays: that of the first which lives on the device, NumPy if none does."""
    home = _launch.home_of(*arrays)
    return _VIA_NUMBA if home is _JAX else home


class Flag:
    """One number on the device that a kernel sets where it meets what must be refused."""

    def __init__(self, home: _launch.Home) -> None:
        self.array = device(np.zeros(1, np.int32), home)

    def is_set(self) -> bool:
        """Wait for the kernels before it, and read it."""
        return bool(to_host(self.array)[0])


def device(a: np.ndarray[Any, Any], home: _launch.Home) -> Any:
    """A host array, on the device, with the strides of its shape, which NumPy leaves open for axes of length 1."""
    return home.take(np.ascontiguousarray(a).reshape(-1).reshape(a.shape))


def launch(kernel: Any, blocks: int, home: _launch.Home, *arguments: Any) -> None:
    """Launch a plain kernel: `blocks` blocks, each a vector or a part of an elementwise kernel's work."""
    kernels = plain()
    _launch.plain(kernel, blocks, kernels.THREADS, home, *arguments)


def spread(kernel: Any, items: int, home: _launch.Home, *arguments: Any) -> None:
    """Launch an elementwise kernel over that many items; each thread takes several."""
    kernels = plain()
    if items == 0:
        return
    most = 2 if _launch.simulated() else 64 * _launch.processors()
    launch(kernel, min(_launch.blocks(items, kernels.THREADS), most), home, *arguments)


def result(rows: Rows, a: Any, *last: int) -> Any:
    """An array (n, ...) in the batch shape of `rows`, for the caller."""
    return rows.home.give(a.reshape((*rows.shape, *last)))
