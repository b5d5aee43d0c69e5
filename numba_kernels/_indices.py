"""Indices of 16 vectors side by side: the nearest centroid, the sums of a scale, words of a block, rows of bytes.

J holds them as T of `_lanes` holds coordinates: ``J[16 i : 16 i + 16]``, uint32, coordinate i of 16 vectors.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref.codebook import Codebook
from turboquant_ref.packing import Record

from . import _lanes
from ._jit import in_parts, kernel
from .layout import Prepared, aligned, empty, sections
from .simd import (
    full_like,
    gather,
    load,
    load_many,
    lookup,
    select,
    store,
    store_many,
    transpose,
    u32x16,
)

__all__ = ["book", "encoded", "keep_values", "look_up", "nearest", "nearest_lanes", "pack_lanes", "scratch", "words_of"]


def scratch(d: int) -> NDArray[np.uint32]:
    """J for d indices, filled up with zeros to a multiple of 32 of them, and a 16 x 16 tile more."""
    J = aligned(((-(-d // 32) * 32 + 16) * 16,), np.uint32)
    J[:] = 0
    return J


@lru_cache(maxsize=64)
def _book(codebook: Codebook, dtype: np.dtype) -> Any:
    bits, n = codebook.bits, 2**codebook.bits
    boundaries = np.full(max(16, n), np.inf, dtype)
    boundaries[: len(codebook.boundaries)] = codebook.boundaries.astype(dtype)
    centroids = np.zeros(max(16, n), dtype)
    centroids[: len(codebook.centroids)] = codebook.centroids.astype(dtype)
    stride = 2 ** max(bits - 4, 0)
    coarse = np.full(16, np.inf, dtype)
    coarse[: n // stride - 1] = boundaries[stride - 1 : n - 1 : stride]
    return bits, coarse, boundaries, centroids


def book(codebook: Codebook, dtype: Any) -> Any:
    """What the kernels read of a codebook: its bits b, every 2^(b-4)-th boundary, all boundaries, the centroids.

    Each filled up to 16 numbers at least; missing boundaries are infinite, so that no index is beyond the centroids.
    """
    return _book(codebook, np.dtype(dtype))


@kernel
def _index(z, coarse, boundaries, bits):
    """The number of boundaries <= z: four steps of bisection in a register, those of bits 5 to 8 in memory."""
    index = u32x16(0)
    if bits >= 4:
        index = select(z >= lookup(coarse, u32x16(7)), u32x16(8), index)
    if bits >= 3:
        index = index + select(z >= lookup(coarse, index + u32x16(3)), u32x16(4), u32x16(0))
    if bits >= 2:
        index = index + select(z >= lookup(coarse, index + u32x16(1)), u32x16(2), u32x16(0))
    if bits >= 1:
        index = index + select(z >= lookup(coarse, index), u32x16(1), u32x16(0))
    if bits > 4:
        index = index << (bits - 4)
        for b in range(bits - 5, -1, -1):
            up = index + u32x16(1 << b)
            index = select(z >= gather(boundaries, 0, up - u32x16(1)), up, index)
    return index


@kernel
def nearest_lanes(T, d, codebook, J):
    """The index of every coordinate of T into J; and of each vector <z, q> and ||q||^2, q its centroids.

    The products are summed 16 coordinates at a time, then these sums.
    """
    bits, coarse, boundaries, centroids = codebook
    edges, entries = load(coarse, 0), load(centroids, 0)
    zq = full_like(T, 0.0)
    qq = full_like(T, 0.0)
    for j in range(0, d, 16):
        part_zq, part_qq = full_like(T, 0.0), full_like(T, 0.0)
        for i in range(j, min(j + 16, d)):
            z = load(T, 16 * i)
            index = _index(z, edges, boundaries, bits)
            store(J, 16 * i, index)
            q = lookup(entries, index) if bits <= 4 else gather(centroids, 0, index)
            part_zq = part_zq + z * q
            part_qq = part_qq + q * q
        zq, qq = zq + part_zq, qq + part_qq
    return zq, qq


@kernel
def pack_lanes(J, count, bits, codes, at, keep):
    """`count` indices of 16 vectors as words of `layout`, from number `at` of `codes` on; 0 in lanes not to keep."""
    zero = u32x16(0)
    if bits == 3:
        upper = at + 16 * (2 * (-(-count // 32)))
        for w in range(-(-count // 32)):
            high = zero
            for u in range(2):
                low = zero
                for k in range(16):
                    index = load(J, 16 * (32 * w + 16 * u + k))
                    low = low | ((index & u32x16(3)) << (2 * k))
                    high = high | ((index >> 2) << (8 * (k // 4) + 4 * u + k % 4))
                store(codes, at + 16 * (2 * w + u), select(keep, low, zero))
            store(codes, upper + 16 * w, select(keep, high, zero))
    elif bits > 0:
        width = bits if bits <= 4 else 8
        each = 32 // width
        for w in range(-(-count // each)):
            word = zero
            for k in range(each):
                word = word | (load(J, 16 * (w * each + k)) << (width * k))
            store(codes, at + 16 * w, select(keep, word, zero))


@kernel
def store_indices(J, to, first, rows):
    """J as rows first .. first + rows - 1 of the uint8 `to` (n, d)."""
    d = to.shape[1]
    whole = d // 16 * 16 if rows == 16 else 0
    for j in range(0, whole, 16):
        store_many(to, first * d + j, transpose(load_many(J, 16 * j, 16)), d)
    for j in range(whole, d):
        for r in range(rows):
            to[first + r, j] = np.uint8(J[16 * j + r])


@kernel
def load_indices(x, first, rows, J):
    """Rows of the uint8 x (n, d) into J; lanes beyond `rows` become 0."""
    d = x.shape[1]
    whole = d // 16 * 16 if rows == 16 else 0
    for j in range(0, whole, 16):
        store_many(J, 16 * j, transpose(load_many(x, first * d + j, d)), 16)
    for j in range(whole, d):
        for r in range(16):
            J[16 * j + r] = x[first + r, j] if r < rows else 0


@kernel
def _nearest_rows(x, start, stop, T, codebook, J, to, zq, qq):
    d = x.shape[1]
    for first in range(start, stop, 16):
        rows = min(16, stop - first)
        _lanes.load_rows(x, first, rows, T)
        of_zq, of_qq = nearest_lanes(T, d, codebook, J)
        store_indices(J, to, first, rows)
        store(zq, first, of_zq)
        store(qq, first, of_qq)


def nearest(codebook: Codebook, z: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[Any]]:
    """Indices (…, d) of the coordinates z (…, d), and <z, q> and ||q||^2 (…), q their centroids.

    An index is the number of boundaries, in the type of z, that are <= the coordinate: the reference's, exactly.
    """
    d = z.shape[-1]
    flat = np.ascontiguousarray(z).reshape(-1, d)
    indices = np.empty(flat.shape, np.uint8)
    zq, qq = (np.empty(-(-len(flat) // 16) * 16, flat.dtype) for _ in range(2))
    tables = book(codebook, flat.dtype)
    _lanes.blocks(
        lambda start, stop, T: _nearest_rows(flat, start, stop, T, tables, scratch(d), indices, zq, qq),
        len(flat),
        d,
        flat.dtype,
    )
    batch, n = z.shape[:-1], len(flat)
    return indices.reshape(z.shape), zq[:n].reshape(batch), qq[:n].reshape(batch)


@kernel
def _look_up(indices, start, stop, table, to):
    for i in range(start, stop):
        to[i] = table[indices[i]]


def look_up(codebook: Codebook, indices: NDArray[np.uint8], dtype: Any) -> NDArray[Any]:
    """c_idx for every index, in the given type."""
    flat = np.ascontiguousarray(indices).reshape(-1)
    if flat.size and int(flat.max()) >= len(codebook.centroids):
        raise IndexError(f"index {int(flat.max())} is beyond {len(codebook.centroids)} centroids")
    result = np.empty(flat.shape, dtype)
    table = codebook.centroids.astype(dtype)
    in_parts(lambda start, stop: _look_up(flat, start, stop, table, result), flat.size, 1 << 18)
    return result.reshape(indices.shape)


@kernel
def _words(x, start, stop, J, bits, codes, words, at):
    for first in range(start, stop, 16):
        load_indices(x, first, min(16, stop - first), J)
        pack_lanes(J, x.shape[1], bits, codes, (first // 16 * words + at) * 16, u32x16(0) == u32x16(0))


def encoded(Q: Any, streams: list[NDArray[np.uint8]], values: list[NDArray[Any]], scalars: str) -> Prepared:
    """The Prepared form of unpacked numbers and side scalars, in the order of ``Q.record``."""
    batch = streams[0].shape[:-1]
    prepared = empty(Q, batch, scalars)
    keep_values(Q, values, prepared)
    for section, stream in zip(sections(Q), streams, strict=True):
        for part in np.ndindex(batch[:-1]):
            words_of(np.atleast_2d(stream[part]), section.bits, prepared.codes[part], section.start)
    return prepared


def keep_values(Q: Any, values: list[NDArray[Any]], prepared: Prepared) -> None:
    """Side scalars into a Prepared, rounded to what it stores them as.

    Raises
    ------
    ValueError
        As `pack`: outside the normal range of that type.
    """
    exact = prepared.scalars == "float32" and all(
        v.dtype == np.float32 and ((v == 0) | (v >= np.finfo(np.float32).tiny)).all() for v in values
    )
    if not exact:
        scalars_only = Record((), Q.record.scalars)
        values = scalars_only.unpack(scalars_only.pack([], values, prepared.scalars, b""), b"")[1]
    for value, place in zip(values, prepared.values, strict=True):
        place[..., : prepared.n] = value


def words_of(indices: NDArray[np.uint8], bits: int, codes: NDArray[np.uint32], at: int) -> None:
    """Indices (n, d) of `bits` bits as the words from `at` on of blocks (blocks, words, 16) of `layout`."""
    n, d = indices.shape
    flat = np.ascontiguousarray(indices)
    out = codes.reshape(-1)
    words = codes.shape[1]
    in_parts(lambda start, stop: _words(flat, start, stop, scratch(d), bits, out, words, at), n, (1 << 18) // d, 16)
