"""Bits in memory, on the device: indices and signs <-> the canonical bytes of `turboquant_ref.packing`.

A thread makes a byte, or a number. Side scalars, four bytes of a row, are checked and rounded on the host by the
reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from turboquant_ref import packing as reference
from turboquant_ref.packing import SCALARS, Packed, Record, Scalar, fingerprint
from turboquant_ref.vectors import check_bits, check_integer

from . import _launch
from .layout import to_host
from .vectors import Flag, device, home_of, plain, sizes, spread

__all__ = [
    "SCALARS",
    "Packed",
    "Record",
    "Scalar",
    "fingerprint",
    "pack_bits",
    "pack_record",
    "scalar_values",
    "unpack_bits",
    "unpack_record",
]


def _as_bytes(a: Any, name: str) -> Any:
    a = a if _launch.on_device(a) else np.asarray(a)
    if _launch.name_of(a) != "uint8":
        raise TypeError(f"{name}: expected dtype uint8, got {a.dtype}")
    if a.ndim == 0:
        raise ValueError(f"{name}: expected an array of shape (…, n), got a single number")
    return a


def _flat(a: Any, home: _launch.Home) -> Any:
    a = home.take(a)
    *batch, last = sizes(a)
    return a.reshape((int(np.prod(batch)), last))


def pack_bits(numbers: Any, bits: int) -> Any:
    """Numbers (…, n) uint8 of `bits` bits to bytes (…, ceil(n bits / 8)), least significant bit first.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.packing.pack_bits`.
    """
    bits = check_bits(bits, low=0)
    a = _as_bytes(numbers, "numbers")
    home = home_of(a)
    *shape, n = sizes(a)
    width = (n * bits + 7) // 8
    if not width or not np.prod(shape):
        nothing = reference.pack_bits(to_host(a), bits)
        return nothing if home is home_of() else device(nothing, home)
    kernels, rows = plain(), _flat(a, home)
    data, refused = home.empty((rows.shape[0], width), "uint8"), Flag(home)
    spread(kernels.pack, rows.shape[0] * width, home, rows, bits, data, 0, refused.array)
    if refused.is_set():
        reference.pack_bits(to_host(a), bits)  # says which number does not fit
    return home.give(data.reshape((*shape, width)))


def unpack_bits(data: Any, bits: int, n: int) -> Any:
    """The inverse of `pack_bits`: bytes (…, ceil(n bits / 8)) to numbers (…, n).

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.packing.unpack_bits`.
    """
    bits, n = check_bits(bits, low=0), check_integer(n, "n", 0)
    a = data if _launch.on_device(data) else np.asarray(data)
    size = (n * bits + 7) // 8
    if _launch.name_of(a) != "uint8" or a.ndim == 0 or sizes(a)[-1] != size:
        raise ValueError(f"data: expected (…, {size}) bytes for {n} numbers of {bits} bits, got {a.dtype} {a.shape}")
    home = home_of(a)
    shape = sizes(a)[:-1]
    if not size or not np.prod(shape):
        if home is home_of():
            return reference.unpack_bits(to_host(a), bits, n)
        return home.take(np.zeros((*shape, n), np.uint8))
    kernels, rows = plain(), _flat(a, home)
    numbers, refused = home.empty((rows.shape[0], n), "uint8"), Flag(home)
    spread(kernels.unpack, rows.shape[0] * n, home, rows, 0, bits, numbers, refused.array)
    if refused.is_set():
        reference.unpack_bits(to_host(a), bits, n)  # says that padding bits are not zero
    return home.give(numbers.reshape((*shape, n)))


def scalar_bytes(values: Any, scalars: str, name: str) -> np.ndarray[Any, Any]:
    """Side scalars (…) as bytes (…, size), rounded to `scalars`.

    Raises
    ------
    ValueError
        Outside the normal range of `scalars`.
    """
    stored = reference._pack_scalars(to_host(values)[..., None], reference.check_scalars(scalars), name)
    return stored.reshape(*stored.shape[:-2], -1)


def scalar_values(values: Any, scalars: str, name: str, dtype: str, home: _launch.Home, shape: tuple[int, ...]) -> Any:
    """Side scalars (n,) on the device, rounded to `scalars` and kept as `dtype`, in the batch shape.

    Raises
    ------
    ValueError
        Outside the normal range of `scalars`.
    """
    stored = scalar_bytes(values, scalars, name)
    return device(reference._unpack_scalars(stored, scalars).astype(dtype).reshape(shape), home)


def pack_record(record: Record, streams: list[Any], values: list[Any], scalars: str, mark: bytes) -> Packed:
    """The canonical rows of the given streams and side scalars, where the streams are.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.packing.Record.pack`.
    """
    home = home_of(*streams)
    parts = [pack_bits(s, bits) for s, (_, bits) in zip(streams, record.streams, strict=True)]
    parts += [scalar_bytes(v, scalars, s.name) for v, s in zip(values, record.scalars, strict=True)]
    if home is home_of():
        return Packed(np.concatenate(parts, axis=-1), scalars, mark)
    joined = np.concatenate([to_host(part) for part in parts], axis=-1)
    return Packed(device(joined, home), scalars, mark)


def unpack_record(record: Record, packed: Packed, mark: bytes) -> tuple[list[Any], list[Any]]:
    """Streams and side scalars of packed rows, where the rows are.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.packing.Record.unpack`.
    """
    if isinstance(packed, Packed) and _launch.on_device(packed.data):
        home = home_of(packed.data)
        streams, values = record.unpack(Packed(to_host(packed.data), packed.scalars, packed.fingerprint), mark)
        return [device(s, home) for s in streams], [device(v, home) for v in values]
    if not isinstance(packed, Packed) or packed.fingerprint != mark:
        record.unpack(packed, mark)  # says what is wrong
    data, at, streams = np.asarray(packed.data), 0, []
    if data.dtype != np.uint8 or data.ndim == 0 or data.shape[-1] != record.bytes_per_vector(packed.scalars):
        record.unpack(packed, mark)
    for n, bits in record.streams:
        end = at + (n * bits + 7) // 8
        streams.append(unpack_bits(data[..., at:end], bits, n))
        at = end
    rest = Record((), record.scalars)
    return streams, rest.unpack(Packed(data[..., at:], packed.scalars, mark), mark)[1]
