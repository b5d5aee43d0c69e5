"""What the scan kernels read of a quantizer and of queries: tables of centroids and levels, queries in groups.

*exact*: the centroids as float32, and the queries in the basis of the codes as float32.

*int8*: a centroid c_l is taken as step * level_l, a whole number |level_l| <= 127 with step = max |c| / 127 (a sign
is +-127 steps of 1/127 of its constant, exactly), and a query coordinate a_j as unit * byte_j, |byte_j| <= 127, with
unit = max |a| / 127. Kernels add (level + 128) byte, starting at -128 sum of bytes, so sums of |level byte| <= 2^14
stay exact in int32 for any order up to 2^31 / (255 * 127) coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from . import rotation, simd
from ._jit import kernel
from ._norms import norm_and_unit
from .layout import LANES, Section, sections, stored_bits

__all__ = [
    *("MAX_COORDINATES", "Tables", "byte_queries", "float_queries", "in_bases", "product_tables", "tables"),
    "units_in_bases",
]

Reals = NDArray[np.floating[Any]]

MAX_COORDINATES = 2**31 // (255 * 127)
"""The longest section whose integer sums cannot overflow."""


@dataclass(frozen=True, eq=False)
class Tables:
    """What the kernels read of a quantizer.

    Attributes
    ----------
    first, signs : Section
        The section of indices and that of signs after it, or a sketch's signs alone, as `first`, and no words.
    values : tuple of two arrays
        The numbers that an index of each section stands for, float64: centroids, or -1 and +1.
    floats : tuple of two arrays
        The same as float32, signs times the sketch's constant, repeated to 16, or to 256.
    levels : tuple of two arrays
        The levels plus 128 as bytes, repeated to 64, or to 256, as uint32.
    steps : (float, float)
        What a level is worth in each section.
    """

    first: Section
    signs: Section
    values: tuple[NDArray[np.float64], NDArray[np.float64]]
    floats: tuple[NDArray[np.float32], NDArray[np.float32]]
    levels: tuple[NDArray[np.uint32], NDArray[np.uint32]]
    steps: tuple[float, float]


_kept: WeakKeyDictionary[Any, Tables] = WeakKeyDictionary()


def tables(Q: Any) -> Tables:
    """The `Tables` of a quantizer of `mse`, `qjl` or `prod`, kept as long as the quantizer."""
    if Q not in _kept:
        _kept[Q] = _tables(Q)
    return _kept[Q]


def _tables(Q: Any) -> Tables:
    streams = [section for section in sections(Q) if section.bits]
    signs = np.array([-1.0, 1.0])
    numbers = [np.array(Q.codebook.centroids) if hasattr(Q, "codebook") and Q.codebook.bits else signs, signs]
    first, second = [*streams, Section(0, 1, streams[0].words, 0)][:2]
    constant = Q.sketch.constant if hasattr(Q, "sketch") else 1.0
    if hasattr(Q, "residual") and not Q.stores_residual:
        constant *= Q.expected_residual
    worth = (1.0 if len(numbers[0]) > 2 or not hasattr(Q, "sketch") or len(streams) == 2 else constant, constant)
    size = 256 if first.bits > 4 else 16
    steps, floats, levels = [], [], []
    for values, factor, n in zip(numbers, worth, (size, 16), strict=True):
        step = float(np.abs(values).max()) / 127
        steps.append(step * factor)
        floats.append(_repeated((values * factor).astype(np.float32), n))
        levels.append(_repeated((np.rint(values / step) + 128).astype(np.uint8), max(n, 64)).view(np.uint32))
    return Tables(first, second, tuple(numbers), tuple(floats), tuple(levels), tuple(steps))  # type: ignore[arg-type]


def _repeated(values: NDArray[Any], n: int) -> NDArray[Any]:
    """Values, filled up to a power of two by the last, again and again up to n of them."""
    size = 1 << (len(values) - 1).bit_length()
    full = np.concatenate([values, np.repeat(values[-1:], size - len(values))])
    return np.ascontiguousarray(np.resize(full, n))


def in_bases(Q: Any, unit: Reals) -> list[Reals]:
    """Queries (n, d) in the bases of the streams of a code: Pi y and S y, or one of them."""
    parts = [rotation.apply(Q.rotation, unit)] if hasattr(Q, "rotation") else []
    return [*parts, _sketched(Q.sketch, unit)] if hasattr(Q, "sketch") else parts


def units_in_bases(Q: Any, rows: Reals, name: str) -> tuple[Reals, list[Reals]]:
    """||y|| (n), and y / ||y|| `in_bases` as float32, of rows (n, d) that `_norms.rows_of` let pass."""
    if rows.dtype == np.float32 and not hasattr(Q, "sketch") and isinstance(Q.rotation, rotation.Structured):
        norms, first = rotation.of_units(Q.rotation, rows, name)
        return norms, [first]
    norms, unit = norm_and_unit(rows, name)
    return norms, in_bases(Q, unit.astype(np.float32, copy=False))


_sketches: WeakKeyDictionary[Any, dict[np.dtype, Reals]] = WeakKeyDictionary()


def _sketched(sketch: Any, x: Reals) -> Reals:
    if sketch.gaussian is None:
        parts = [rotation.apply(block, x) for block in sketch.blocks]
        return np.concatenate(parts, axis=-1)[..., : sketch.m] * x.dtype.type(np.sqrt(sketch.d))
    kept = _sketches.setdefault(sketch, {})
    if x.dtype not in kept:
        kept[x.dtype] = np.ascontiguousarray(sketch.gaussian.astype(x.dtype).T)
    return np.asarray(x @ kept[x.dtype])


def coordinates(section: Section) -> int:
    """Coordinates of a section with those that fill up its words."""
    if section.bits == 3:
        return section.words // 3 * 32
    return section.words * 32 // stored_bits(section.bits)


@kernel
def _lay_floats(a: Any, size: int, to: Any) -> None:
    for i in range(a.shape[0]):
        group, q = divmod(i, size)
        for j in range(a.shape[1]):
            to[group, j, q] = a[i, j]


def float_queries(a: Reals, section: Section, size: int) -> NDArray[np.float32]:
    """Queries (n, count) as the kernels of float sums read them: (groups, coordinates, size), filled up with zeros."""
    if not section.words:
        return np.empty((-(-len(a) // size), 0, size), np.float32)
    laid = np.zeros((-(-len(a) // size), coordinates(section), size), np.float32)
    _lay_floats(a, size, laid)
    return laid


@kernel
def _lay_products(a: Any, bits: int, table: Any, to: Any) -> None:
    for step in range(to.shape[0]):
        for index in range(16):
            total = np.float32(0)
            for t in range(4 // bits):
                j = step * (4 // bits) + t
                if j < a.shape[0]:
                    total += a[j] * table[index >> (bits * t) & ((1 << bits) - 1)]
            to[step, index] = total


def product_tables(a: Reals, section: Section, table: Reals) -> NDArray[np.float32]:
    """One query (1, count) as `scan.table_sums` reads it: for every 4 bits of a code's words, 16 sums.

    Each is that of the products of the coordinates that these bits are (1 bit: four, 2 bits: two) with the query's.
    """
    steps = 8 * section.words
    laid = np.empty((1, 16 * steps, 1), np.float32)
    if steps:
        _lay_products(a[0], section.bits, table, laid.reshape(steps, 16))
    return laid


@kernel
def _to_bytes(a: Any, i: int, row: Any) -> Any:
    """Row i of a in whole numbers of at most 127, to `row`, filled up with zeros: their sum, and what 1 is worth."""
    d = a.shape[1]
    largest = simd.f32x16(np.float32(0))
    for j in range(0, d, LANES):
        largest = simd.maximum(largest, simd.magnitude(simd.load_masked(a, i * d + j, simd.first_lanes(d - j))))
    unit = simd.max_lanes(largest) / 127.0 if simd.max_lanes(largest) > 0 else 1.0
    factor, total = simd.f32x16(np.float32(1 / unit)), simd.i32x16(0)
    for j in range(0, row.size, LANES):
        x = simd.load_masked(a, i * d + j, simd.first_lanes(d - j))
        numbers = simd.to_i32(simd.round_even(x * factor))
        total = total + numbers
        simd.store(row, j, numbers)
    return simd.sum_lanes(total), unit


@kernel
def _lay_bytes(a: Any, size: int, parts: int, to: Any, starts: Any, units: Any) -> None:
    """to[group, word, s, q]: coordinates `parts` c + s of a word, c = 0 … 3, of query `size` group + q."""
    row = np.empty(-(-to.shape[1] * parts * 4 // LANES) * LANES, np.int32)
    for i in range(a.shape[0]):
        total, units[i] = _to_bytes(a, i, row)
        starts[i] = -128 * total
        group, q = divmod(i, size)
        for word in range(to.shape[1]):
            for s in range(parts):
                j, four = word * parts * 4 + s, 0
                for c in range(4):
                    four |= (row[j + c * parts] & 255) << 8 * c
                to[group, word, s, q] = four


def byte_queries(
    a: Reals, section: Section, size: int
) -> tuple[NDArray[np.uint32], NDArray[np.int32], NDArray[np.float64]]:
    """Queries (n, count) float32 as the kernels of integer sums read them.

    Returns
    -------
    steps : (groups, coordinates / 4, size) uint32
        The four bytes that meet the bytes of ``word >> b s``, for each word and s.
    starts : (groups size) int32
        -128 times the sum of a query's bytes.
    units : (n) float64
        What a byte is worth.
    """
    parts = 4 if section.bits == 3 else 8 // stored_bits(section.bits)
    groups, words = -(-len(a) // size), coordinates(section) // (4 * parts)
    laid = np.zeros((groups, words, parts, size), np.uint32)
    starts, units = np.zeros(groups * size, np.int32), np.ones(len(a))
    if words:
        _lay_bytes(np.ascontiguousarray(a), size, parts, laid, starts, units)
    return laid.reshape(groups, words * parts, size), starts, units
