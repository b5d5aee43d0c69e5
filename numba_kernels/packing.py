"""Bits in memory, compiled: `pack_bits` and `unpack_bits` of `turboquant_ref.packing`, to the bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref.packing import SCALARS, Packed, Record, Scalar, fingerprint
from turboquant_ref.vectors import check_bits, check_integer

from ._jit import in_parts, kernel

__all__ = ["SCALARS", "Packed", "Record", "Scalar", "fingerprint", "pack_bits", "unpack_bits"]

Bytes = NDArray[np.uint8]


@kernel
def _pack_divisors(numbers, start, stop, bits, to):
    """1, 2, 4 or 8 bits: whole numbers of a byte."""
    n = numbers.shape[1]
    each = 8 // bits
    for row in range(start, stop):
        for j in range(n // each):
            byte = np.uint8(0)
            for k in range(each):
                byte |= np.uint8(numbers[row, j * each + k] << (bits * k))
            to[row, j] = byte
        if n % each:
            byte = np.uint8(0)
            for k in range(n % each):
                byte |= np.uint8(numbers[row, n - n % each + k] << (bits * k))
            to[row, n // each] = byte


@kernel
def _unpack_divisors(data, start, stop, bits, to):
    n = to.shape[1]
    each = 8 // bits
    mask = np.uint8(2**bits - 1)
    for row in range(start, stop):
        for j in range(n // each):
            for k in range(each):
                to[row, j * each + k] = (data[row, j] >> np.uint8(bits * k)) & mask
        for k in range(n % each):
            to[row, n - n % each + k] = (data[row, n // each] >> np.uint8(bits * k)) & mask


@kernel
def _pack_words(numbers, start, stop, bits, to):
    """Any number of bits: eight numbers are `bits` bytes."""
    n, size = numbers.shape[1], to.shape[1]
    for row in range(start, stop):
        for j in range(0, n, 8):
            word = np.uint64(0)
            for k in range(min(8, n - j)):
                word |= np.uint64(numbers[row, j + k]) << np.uint64(bits * k)
            at = j // 8 * bits
            for k in range(min(bits, size - at)):
                to[row, at + k] = np.uint8((word >> np.uint64(8 * k)) & np.uint64(255))


@kernel
def _unpack_words(data, start, stop, bits, to):
    n, size = to.shape[1], data.shape[1]
    mask = np.uint64(2**bits - 1)
    for row in range(start, stop):
        for j in range(0, n, 8):
            at = j // 8 * bits
            word = np.uint64(0)
            for k in range(min(bits, size - at)):
                word |= np.uint64(data[row, at + k]) << np.uint64(8 * k)
            for k in range(min(8, n - j)):
                to[row, j + k] = np.uint8((word >> np.uint64(bits * k)) & mask)


def _rows(a: Bytes, width: int) -> Bytes:
    return np.ascontiguousarray(a).reshape(int(np.prod(a.shape[:-1], dtype=np.int64)), width)


def pack_bits(numbers: ArrayLike, bits: int) -> Bytes:
    """Numbers (…, n) of `bits` bits, 0 to 8, to (…, ceil(n bits / 8)) bytes, least significant bit first.

    Raises
    ------
    TypeError, ValueError
        As `turboquant_ref.packing.pack_bits`.
    """
    bits = check_bits(bits, low=0)
    a = np.asarray(numbers)
    if a.dtype != np.uint8:
        raise TypeError(f"numbers: expected dtype uint8, got {a.dtype}")
    if a.ndim == 0:
        raise ValueError("numbers: expected an array of shape (…, n), got a single number")
    if a.size and int(a.max()) >> bits:
        raise ValueError(f"numbers: {int(a.max())} does not fit in {bits} bits (allowed: 0 to {2**bits - 1})")
    *batch, n = a.shape
    size = (n * bits + 7) // 8
    flat, to = _rows(a, n), np.empty((int(np.prod(batch, dtype=np.int64)), size), np.uint8)
    run = _pack_divisors if bits in (1, 2, 4, 8) else _pack_words
    if to.size:
        in_parts(lambda start, stop: run(flat, start, stop, bits, to), len(flat), 1 + (1 << 20) // n)
    return to.reshape(*batch, size)


def unpack_bits(data: ArrayLike, bits: int, n: int) -> Bytes:
    """The inverse of `pack_bits`: (…, ceil(n bits / 8)) bytes to (…, n) numbers.

    Raises
    ------
    ValueError
        As `turboquant_ref.packing.unpack_bits`.
    """
    bits, n = check_bits(bits, low=0), check_integer(n, "n", 0)
    a = np.asarray(data)
    size = (n * bits + 7) // 8
    if a.dtype != np.uint8 or a.ndim == 0 or a.shape[-1] != size:
        raise ValueError(f"data: expected (…, {size}) bytes for {n} numbers of {bits} bits, got {a.dtype} {a.shape}")
    spare = 8 * size - n * bits
    if spare and a.size and int(a[..., -1].max()) >> (8 - spare):
        raise ValueError("data: the padding bits after the last number are not zero")
    flat = _rows(a, size)
    to = np.zeros((len(flat), n), np.uint8)
    run = _unpack_divisors if bits in (1, 2, 4, 8) else _unpack_words
    if to.size and bits:
        in_parts(lambda start, stop: run(flat, start, stop, bits, to), len(flat), 1 + (1 << 20) // n)
    return to.reshape(*a.shape[:-1], n)


def pack_record(record: Record, streams: list[Bytes], values: list[Any], scalars: str, of: bytes) -> Packed:
    """``record.pack``: its bytes, with the streams packed by `pack_bits`."""
    tail = Record((), record.scalars).pack([], values, scalars, of)
    parts = [pack_bits(s, b) for s, (_, b) in zip(streams, record.streams, strict=True)]
    return replace(tail, data=np.concatenate([*parts, tail.data], axis=-1))


def unpack_record(record: Record, packed: Packed, of: bytes) -> tuple[list[Bytes], list[NDArray[Any]]]:
    """``record.unpack``: streams and side scalars, the streams unpacked by `unpack_bits`."""
    if not isinstance(packed, Packed):
        raise TypeError(f"packed: expected Packed, got {type(packed).__name__}")
    if packed.fingerprint != of:
        raise ValueError(f"packed: it was made by quantizer {packed.fingerprint.hex()}, this one is {of.hex()}")
    size = record.bytes_per_vector(packed.scalars)
    data = np.asarray(packed.data)
    if data.dtype != np.uint8 or data.ndim == 0 or data.shape[-1] != size:
        raise ValueError(f"packed: expected (…, {size}) bytes, got {data.dtype} {data.shape}")
    streams, at = [], 0
    for n, b in record.streams:
        end = at + (n * b + 7) // 8
        streams.append(unpack_bits(data[..., at:end], b, n))
        at = end
    _, values = Record((), record.scalars).unpack(replace(packed, data=data[..., at:]), of)
    return streams, values
