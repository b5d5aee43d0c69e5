"""Prepared: the private form of codes that the compiled kernels read, in blocks of 16 vectors.

Every stream of numbers of a packed record (indices, signs) becomes words of 32 bits; the words of 16 vectors lie side
by side, so that one 64-byte load brings the same coordinates of 16 vectors:

    codes[block, word, lane]        uint32, vector 16 block + lane

The words of a stream follow those of the stream before it, in the order of ``Q.record.streams``. `sections` says where
each begins. In a word, by the bits b of the stream:

========  ==========================================================================================================
1, 2, 4   32/b coordinates, the k-th at bit b k: the packed row's own bytes, four at a time
3         two planes. First the lower two bits of every index as a stream of b = 2; then, one word for two of those,
          the upper bits: that of coordinate 16 u + 4 c + s of 32 (u < 2; c, s < 4) at bit 8 c + 4 u + s, which is the
          byte that its lower bits are in
5 to 8    4 coordinates, one a byte
========  ==========================================================================================================

Byte c of ``word >> b s`` ends with the coordinate (32/b) word + (8/b) c + s. So a byte permutation decodes four
coordinates of 16 vectors without a mask, and a word permutation one. A stream is filled up to whole words, a batch to
whole blocks, with zeros: a missing coordinate meets a query coordinate of 0, a missing vector has the side scalars 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from turboquant_ref.codes import check_packed
from turboquant_ref.packing import SCALARS, Packed, Record, pack_bits, unpack_bits

__all__ = ["LANES", "Prepared", "Section", "check_prepared", "empty", "prepare", "sections", "to_packed"]

LANES = 16
"""Vectors of a block."""

Words = NDArray[np.uint32]


class Section(NamedTuple):
    """Where a stream of `count` numbers of `bits` bits lies in a block: `words` words from `start` on."""

    count: int
    bits: int
    start: int
    words: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """Codes in blocks of 16 vectors, for the kernels of this package; opaque to users.

    Attributes
    ----------
    codes : (*batch, blocks, words, 16) uint32
        See the module's docstring; `words` is the sum of those of the `sections`. It begins at a multiple of 64 bytes.
    values : (n_scalars, *batch, 16 blocks) float32, or float64 where they are stored so
        The side scalars in the order of ``Q.record.scalars`` (scale or norm, residual norm); 0 beyond the n-th.
        float16 and bfloat16 are kept as the float32 that they are.
    shape : tuple
        Of the batch, (*batch, n); () is a single vector, n = 1.
    scalars : str
        Name of the stored dtype of the side scalars, as in `Packed`.
    fingerprint : bytes
        Of the quantizer.
    """

    codes: Words
    values: NDArray[np.floating[Any]]
    shape: tuple[int, ...]
    scalars: str
    fingerprint: bytes

    @property
    def n(self) -> int:
        """Vectors of the last axis."""
        return self.shape[-1] if self.shape else 1

    @cached_property
    def weights(self) -> tuple[NDArray[np.float32], int]:
        """(w, e): what a sum over a code is multiplied by is w 2^e; w, as `values[0]`, far from float32's ends.

        The array of `values` itself, and e = 0, unless there are numbers above 2^60 or below 2^-60 in it.
        """
        values = self.values[0]
        largest = float(values.max(initial=0))
        least = float(values.min(initial=largest, where=values > 0))
        if values.dtype == np.float32 and 2.0**-60 <= least <= largest <= 2.0**60:
            return values, 0
        exponent = int(np.frexp(largest)[1])
        return np.ldexp(values.astype(np.float64), -exponent).astype(np.float32), exponent

    @property
    def nbytes(self) -> int:
        """Bytes in memory, padding included."""
        return int(self.codes.nbytes + self.values.nbytes)

    def __len__(self) -> int:
        return self.n


def stored_bits(bits: int) -> int:
    """Bits that a number of `bits` bits takes in a word, 3 apart."""
    return bits if bits in (1, 2, 4) else 8


def _words(count: int, bits: int) -> int:
    if bits == 3:
        return 3 * -(-count // 32)
    return -(-count * stored_bits(bits) // 32) if bits else 0


def sections(Q: Any) -> tuple[Section, ...]:
    """The streams of a quantizer's record (`mse`, `qjl`, `prod`) as they lie in a block; one of 0 bits has no words."""
    found, start = [], 0
    for count, bits in Q.record.streams:
        found.append(Section(count, bits, start, _words(count, bits)))
        start += found[-1].words
    return tuple(found)


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An uninitialised array that begins at a multiple of 64 bytes, so that no load of 64 bytes straddles two lines."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.__array_interface__["data"][0] % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def empty(Q: Any, shape: tuple[int, ...], scalars: str = "float32") -> Prepared:
    """A Prepared for a batch of this shape, to be written into: its arrays are uninitialised but for the padding.

    What an encoder fills: all words of the vectors (every padding bit of a word 0) and their side scalars. The lanes
    and side scalars beyond the n-th vector are 0 already.
    """
    *batch, n = shape or (1,)
    blocks = -(-n // LANES)
    codes = aligned((*batch, blocks, sum(s.words for s in sections(Q)), LANES), np.uint32)
    dtype = np.float64 if scalars == "float64" else np.float32
    values = aligned((len(Q.record.scalars), *batch, blocks * LANES), dtype)
    if n % LANES:
        codes[..., -1, :, n % LANES :] = 0
        values[..., n:] = 0
    return Prepared(codes, values, tuple(shape), scalars, Q.fingerprint)


def check_prepared(Q: Any, prepared: Any) -> Prepared:
    """A Prepared must be of this very quantizer.

    Raises
    ------
    TypeError, ValueError
        If it is not.
    """
    if not isinstance(prepared, Prepared):
        raise TypeError(f"prepared: expected numba_kernels' Prepared, got {type(prepared).__name__}")
    if prepared.fingerprint != Q.fingerprint:
        made = prepared.fingerprint.hex()
        raise ValueError(f"prepared: it was made by quantizer {made}, this one is {Q.fingerprint.hex()}")
    return prepared


def _to_words(stream: NDArray[np.uint8], section: Section, n: int) -> Words:
    """Packed bytes (…, m, bytes) of a stream as the words of each vector (…, n, words), n >= m."""
    count, bits, _, words = section
    if bits in (0, 1, 2, 4):
        rows = stream
    else:
        numbers = unpack_bits(stream, bits, count)
        if bits > 4:
            rows = numbers
        else:
            padded = np.zeros((*numbers.shape[:-1], words // 3 * 32), np.uint8)
            padded[..., :count] = numbers
            upper = (padded >> 2).reshape(*numbers.shape[:-1], words // 3, 2, 4, 4).swapaxes(-3, -2)
            rows = np.concatenate([pack_bits(padded & 3, 2), pack_bits(upper.reshape(padded.shape), 1)], axis=-1)
    whole = np.zeros((*rows.shape[:-2], n, 4 * words), np.uint8)
    whole[..., : rows.shape[-2], : rows.shape[-1]] = rows
    return whole.view("<u4")


def _to_stream(rows: Words, section: Section) -> NDArray[np.uint8]:
    """The inverse of `_to_words`."""
    count, bits, _, words = section
    data = np.ascontiguousarray(rows, "<u4").view(np.uint8)
    if bits in (0, 1, 2, 4):
        return data[..., : (count * bits + 7) // 8]
    if bits > 4:
        return pack_bits(data[..., :count], bits)
    lower = unpack_bits(data[..., : 8 * words // 3], 2, words // 3 * 32)
    upper = unpack_bits(data[..., 8 * words // 3 :], 1, words // 3 * 32)
    upper = upper.reshape(*rows.shape[:-1], words // 3, 4, 2, 4).swapaxes(-3, -2).reshape(lower.shape)
    return pack_bits((lower | upper << 2)[..., :count], bits)


def _check_indices(Q: Any, stream: NDArray[np.uint8], section: Section) -> None:
    """What the packed numbers of a stream may not be: padding bits that are not 0, an index beyond the codebook."""
    spare = -section.count * section.bits % 8
    if spare and stream.size and int(stream[..., -1].max()) >> (8 - spare):
        raise ValueError("packed: the padding bits after the last number are not zero")
    book = getattr(Q, "codebook", None)
    if book is not None and section.bits == book.bits and len(book.centroids) < 2**section.bits:
        largest = int(unpack_bits(stream, section.bits, section.count).max(initial=0))
        if largest >= len(book.centroids):
            raise ValueError(f"packed: index {largest}, but the codebook has {len(book.centroids)} centroids")


def prepare(Q: Any, packed: Packed) -> Prepared:
    """Packed to Prepared.

    Parameters
    ----------
    Q : a quantizer of `mse`, `qjl` or `prod`
    packed : Packed
        Of a batch of any shape.

    Raises
    ------
    TypeError, ValueError
        If they are no `Packed` of this quantizer, rows of another length, or impossible ones.
    """
    data = np.asarray(check_packed(Q, packed).data)
    streams, at = [], 0
    for section in sections(Q):
        end = at + (section.count * section.bits + 7) // 8
        streams.append(data[..., at:end])
        _check_indices(Q, streams[-1], section)
        at = end
    tail = Packed(data[..., at:], packed.scalars, packed.fingerprint)
    _, values = Record((), Q.record.scalars).unpack(tail, Q.fingerprint)
    prepared = empty(Q, data.shape[:-1], packed.scalars)
    for value, place in zip(values, prepared.values, strict=True):
        place[..., : prepared.n] = value
    for section, stream in zip(sections(Q), streams, strict=True):
        part = slice(section.start, section.start + section.words)
        rows = _to_words(np.atleast_2d(stream), section, prepared.values.shape[-1])
        lanes = rows.reshape(*prepared.codes.shape[:-2], LANES, section.words)
        prepared.codes[..., part, :] = lanes.swapaxes(-1, -2)
    return prepared


def to_packed(Q: Any, prepared: Prepared) -> Packed:
    """Prepared to Packed: the inverse of `prepare`, to the bit.

    Raises
    ------
    TypeError, ValueError
        If it is no Prepared of this quantizer.
    """
    check_prepared(Q, prepared)
    batch = prepared.codes.shape[:-3]
    parts = []
    for section in sections(Q):
        block = prepared.codes[..., section.start : section.start + section.words, :].swapaxes(-1, -2)
        rows = block.reshape(*batch, prepared.values.shape[-1], section.words)[..., : prepared.n, :]
        parts.append(_to_stream(rows, section))
    for value in prepared.values[..., : prepared.n]:
        parts.append(_scalar_bytes(value, prepared.scalars))
    data = np.concatenate(parts, axis=-1)
    return Packed(data if prepared.shape else data[0], prepared.scalars, prepared.fingerprint)


def _scalar_bytes(value: NDArray[np.floating[Any]], scalars: str) -> NDArray[np.uint8]:
    """Side scalars as they are stored: a conversion that does not round, as they were stored so before."""
    if scalars == "bfloat16":
        stored = (value.view(np.uint32) >> 16).astype("<u2")
    else:
        stored = value.astype(np.dtype(scalars).newbyteorder("<"))
    return np.ascontiguousarray(stored)[..., None].view(np.uint8).reshape(*value.shape, SCALARS[scalars])
