"""Bits in memory: indices, signs and side scalars <-> bytes, and how many bytes a vector really takes.

A packed vector is one row of bytes, normatively described in ``conformance/SPEC.md``:

1. each stream of b-bit numbers in turn (indices, then signs), least significant bit first: number j occupies the
   bits [j b, (j + 1) b) of the stream, bit i of a stream being bit i mod 8 of its byte i // 8; each stream is
   filled up with zero bits to a whole byte;
2. the side scalars (scales, norms, residual norms), little-endian.

Nothing else: no header, no alignment.  So ``bytes_per_vector`` is what a file of such rows weighs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .vectors import check_bits, check_integer, first_row

__all__ = ["SCALARS", "Packed", "Record", "Scalar", "fingerprint", "pack_bits", "unpack_bits"]

Bytes = NDArray[np.uint8]

SCALARS = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
"""Bytes of a stored side scalar, by the name of its dtype; float32 is the default everywhere."""

# smallest normal number, largest number, and the dtype that a scalar is read back as
_RANGE: dict[str, tuple[float, float, type[np.floating]]] = {
    "float64": (2.0**-1022, float(np.finfo(np.float64).max), np.float64),
    "float32": (2.0**-126, float(np.finfo(np.float32).max), np.float32),
    "float16": (2.0**-14, 65504.0, np.float32),
    "bfloat16": (2.0**-126, 2.0**127 * (2 - 2.0**-7), np.float32),
}


def fingerprint(*identity: object) -> bytes:
    """The 8 bytes by which a code knows its quantizer: SHA-256 of the identity, "/"-joined in UTF-8, cut to 8 bytes."""
    return hashlib.sha256("/".join(map(str, identity)).encode()).digest()[:8]


def pack_bits(numbers: ArrayLike, bits: int) -> Bytes:
    """Numbers of `bits` bits to bytes, least significant bit first.

    Parameters
    ----------
    numbers : (…, n) uint8
        Each below 2**bits.
    bits : int
        0 to 8; 0 bits take no byte.

    Returns
    -------
    (…, ceil(n bits / 8)) uint8

    Raises
    ------
    TypeError
        If `numbers` is not of dtype uint8.
    ValueError
        If a number does not fit, or there is no axis.
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
    stream = np.unpackbits(a[..., None], axis=-1, bitorder="little")[..., :bits]
    return np.packbits(stream.reshape(*batch, n * bits), axis=-1, bitorder="little")


def unpack_bits(data: ArrayLike, bits: int, n: int) -> Bytes:
    """The inverse of `pack_bits`: (…, ceil(n bits / 8)) bytes to (…, n) numbers.

    Raises
    ------
    ValueError
        If the number of bytes is not that of n numbers, or a padding bit is not zero (the bytes are corrupt, or
        were written most significant bit first).
    """
    bits, n = check_bits(bits, low=0), check_integer(n, "n", 0)
    a = np.asarray(data)
    size = (n * bits + 7) // 8
    if a.dtype != np.uint8 or a.ndim == 0 or a.shape[-1] != size:
        raise ValueError(f"data: expected (…, {size}) bytes for {n} numbers of {bits} bits, got {a.dtype} {a.shape}")
    stream = np.unpackbits(a, axis=-1, bitorder="little")
    if np.any(stream[..., n * bits :]):
        raise ValueError("data: the padding bits after the last number are not zero")
    padded = np.zeros((*a.shape[:-1], n, 8), dtype=np.uint8)
    padded[..., :bits] = stream[..., : n * bits].reshape(*a.shape[:-1], n, bits)
    return np.packbits(padded, axis=-1, bitorder="little")[..., 0]


def check_scalars(scalars: str) -> str:
    """The name of a side scalar's stored dtype, if it is one."""
    if scalars not in SCALARS:
        raise ValueError(f"scalars: expected one of {', '.join(SCALARS)}, got {scalars!r}")
    return scalars


def _pack_scalars(values: NDArray[np.floating], scalars: str, name: str) -> Bytes:
    low, high, _ = _RANGE[scalars]
    magnitude = np.abs(values.astype(np.float64))
    bad = ~((magnitude == 0) | ((low <= magnitude) & (magnitude <= high)))
    if np.any(bad):
        where = first_row(bad.any(axis=-1))
        raise ValueError(
            f"{name}: {magnitude[bad].flat[0]:.6g} in row {where} is outside the normal range of {scalars}, "
            f"{low:.3g} to {high:.6g}; store it as another of {', '.join(SCALARS)}"
        )
    if scalars == "bfloat16":  # 8 significant bits, rounded to nearest even once: the upper half of a float32
        fraction, exponent = np.frexp(values)
        rounded = np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)
        stored = (rounded.astype("<f4").view("<u4") >> 16).astype("<u2")
    else:
        stored = values.astype(np.dtype(scalars).newbyteorder("<"))
    return np.ascontiguousarray(stored)[..., None].view(np.uint8)


def _unpack_scalars(data: Bytes, scalars: str) -> NDArray[np.floating]:
    data = np.ascontiguousarray(data)
    if scalars == "bfloat16":
        return (data.view("<u2")[..., 0].astype("<u4") << 16).view("<f4").astype(np.float32)
    return data.view(np.dtype(scalars).newbyteorder("<"))[..., 0].astype(_RANGE[scalars][2])


@dataclass(frozen=True, eq=False)
class Packed:
    """Codes as portable bytes: what files, golden vectors and other languages speak.

    Attributes
    ----------
    data : (…, bytes_per_vector) uint8
        One row a vector.
    scalars : str
        Name of the stored dtype of the side scalars, a key of `SCALARS`.
    fingerprint : bytes
        8 bytes naming the quantizer that made it.
    """

    data: Bytes
    scalars: str
    fingerprint: bytes

    @property
    def bytes_per_vector(self) -> int:
        """Bytes of one row: streams, padding and scalars."""
        return int(self.data.shape[-1])

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return int(self.data.nbytes)


@dataclass(frozen=True)
class Scalar:
    """A side scalar of a record: its name, how many a vector has (None: one, without an axis), may it be negative."""

    name: str
    count: int | None = None
    signed: bool = False


@dataclass(frozen=True)
class Record:
    """The layout of one packed vector: streams of (count, bits) numbers, then the side scalars."""

    streams: tuple[tuple[int, int], ...]
    scalars: tuple[Scalar, ...]

    def bytes_per_vector(self, scalars: str = "float32") -> int:
        """Bytes of one packed vector, side scalars stored as `scalars`."""
        size = SCALARS[check_scalars(scalars)]
        return sum((n * b + 7) // 8 for n, b in self.streams) + sum(size * (s.count or 1) for s in self.scalars)

    def pack(
        self, streams: list[Bytes], values: list[NDArray[np.floating]], scalars: str, fingerprint: bytes
    ) -> Packed:
        """Bytes of the given numbers and side scalars.

        Raises
        ------
        ValueError
            For an unknown scalar dtype, or a scalar outside its normal range: inside that range the relative
            error is at most 2^-53 (float64), 2^-24 (float32), 2^-11 (float16) or 2^-8 (bfloat16).
        """
        check_scalars(scalars)
        parts = [pack_bits(s, b) for s, (_, b) in zip(streams, self.streams, strict=True)]
        for value, scalar in zip(values, self.scalars, strict=True):
            columns = value[..., None] if scalar.count is None else value
            stored = _pack_scalars(columns, scalars, scalar.name)
            parts.append(stored.reshape(*columns.shape[:-1], columns.shape[-1] * SCALARS[scalars]))
        return Packed(np.concatenate(parts, axis=-1), scalars, fingerprint)

    def unpack(self, packed: Packed, fingerprint: bytes) -> tuple[list[Bytes], list[NDArray[np.floating]]]:
        """Streams and side scalars of packed vectors; scalars come back as float64 if stored so, else as float32.

        Raises
        ------
        TypeError
            If `packed` is not a `Packed`.
        ValueError
            If the rows belong to another quantizer, have the wrong length, or hold impossible values.
        """
        if not isinstance(packed, Packed):
            raise TypeError(f"packed: expected Packed, got {type(packed).__name__}")
        if packed.fingerprint != fingerprint:
            raise ValueError(
                f"packed: it was made by quantizer {packed.fingerprint.hex()}, this one is {fingerprint.hex()}"
            )
        size = self.bytes_per_vector(packed.scalars)
        data = np.asarray(packed.data)
        if data.dtype != np.uint8 or data.ndim == 0 or data.shape[-1] != size:
            raise ValueError(f"packed: expected (…, {size}) bytes, got {data.dtype} {data.shape}")
        streams, values, at = [], [], 0
        for n, b in self.streams:
            end = at + (n * b + 7) // 8
            streams.append(unpack_bits(data[..., at:end], b, n))
            at = end
        for scalar in self.scalars:
            count, width = scalar.count or 1, SCALARS[packed.scalars]
            end = at + count * width
            columns = data[..., at:end].reshape(*data.shape[:-1], count, width)
            value = _unpack_scalars(columns, packed.scalars)
            if not np.all(np.isfinite(value)) or (not scalar.signed and np.any(np.signbit(value))):
                sign = "" if scalar.signed else " and not negative"
                raise ValueError(f"packed: {scalar.name} must be finite{sign}")
            values.append(value[..., 0] if scalar.count is None else value)
            at = end
        return streams, values
