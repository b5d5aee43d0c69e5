"""Sixteen vectors side by side: coordinate i of all of them is one SIMD vector, ``T[16 i : 16 i + 16]`` of a scratch T.

In this form a Hadamard transform shuffles nothing, a row's arithmetic is that of the reference in its order, and the
lanes never meet, so that a row's result does not depend on its neighbours. T is float32 or float64.
"""

from __future__ import annotations

import threading
from typing import Any

from numpy.typing import DTypeLike, NDArray

from ._jit import in_parts, kernel
from .layout import aligned
from .simd import (
    first_lanes,
    full_like,
    hadamard,
    load,
    load_many,
    load_masked,
    magnitude,
    mask_bits,
    maximum,
    select,
    splat,
    sqrt,
    store,
    store_many,
    store_masked,
    transpose,
)

LANES = 16


_kept = threading.local()


def scratch(d: int, dtype: DTypeLike) -> NDArray[Any]:
    """T for d coordinates: filled up to a multiple of 32 of them, and one 16 x 16 tile more for a ragged edge.

    The one that this thread had last, if it is of this kind: to make one takes longer than to turn a vector.
    """
    kind = d, dtype
    if getattr(_kept, "kind", None) != kind:
        _kept.kind, _kept.T = kind, aligned(((-(-d // 32) * 32 + LANES) * LANES,), dtype)
    return _kept.T


@kernel
def load_rows(x, first, rows, T):
    """Rows first .. first + rows - 1 of x (n, d), rows <= 16, into T; what T has beyond rows and d becomes 0."""
    d = x.shape[1]
    tile = T.size - 256
    zero = full_like(T, 0.0)
    for j in range(0, tile // 16, 16):
        if rows == 16 and j + 16 <= d:
            store_many(T, 16 * j, transpose(load_many(x, first * d + j, d)), 16)
        else:
            inside = first_lanes(d - j)
            for r in range(16):
                store(T, tile + 16 * r, load_masked(x, (first + r) * d + j, inside) if r < rows and j < d else zero)
            store_many(T, 16 * j, transpose(load_many(T, tile, 16)), 16)


@kernel
def store_rows(T, x, first, rows):
    """The inverse of `load_rows`."""
    d = x.shape[1]
    tile = T.size - 256
    for j in range(0, d, 16):
        columns = transpose(load_many(T, 16 * j, 16))
        if rows == 16 and j + 16 <= d:
            store_many(x, first * d + j, columns, d)
        else:
            store_many(T, tile, columns, 16)
            for r in range(rows):
                store_masked(x, (first + r) * d + j, load(T, tile + 16 * r), first_lanes(d - j))


@kernel
def norms_of(T, d):
    """||x|| of the 16 vectors, and as bits those lanes whose squares may over- or underflow, or that are not finite.

    The squares are summed 16 coordinates at a time, then these sums: (16 + d/16) roundings.
    """
    total = full_like(T, 0.0)
    largest = total
    for j in range(0, d, 16):
        part = full_like(T, 0.0)
        for i in range(j, min(j + 16, d)):
            x = load(T, 16 * i)
            part = part + x * x
            largest = maximum(magnitude(x), largest)
        total = total + part
    zero = full_like(T, 0.0)
    low, high = full_like(T, 2.0**-41), full_like(T, 2.0**40)
    usual = (largest == zero) | ((largest >= low) & (largest <= high))
    return sqrt(total), mask_bits(~(usual & (total == total)))


@kernel
def multiply(T, d, factor):
    """Every vector by its number in `factor`."""
    for i in range(d):
        store(T, 16 * i, load(T, 16 * i) * factor)


@kernel
def reciprocal(T, norms):
    """1 / norm, and 0 for a norm of 0; T says of which type."""
    zero, one = full_like(T, 0.0), full_like(T, 1.0)
    return select(norms > zero, one / select(norms > zero, norms, one), zero)


@kernel
def fwht(T, first, n):
    """The Walsh-Hadamard transform of coordinates first .. first + n - 1, n a power of two.

    Four stages at a time, in 16 registers; then two at a time, and one.
    """
    s = 1
    while 16 * s <= n:
        for i in range(first, first + n, 16 * s):
            for j in range(i, i + s):
                store_many(T, 16 * j, hadamard(load_many(T, 16 * j, 16 * s)), 16 * s)
        s *= 16
    if 4 * s <= n:
        for i in range(first, first + n, 4 * s):
            for j in range(16 * i, 16 * (i + s), 16):
                a, b, c, e = load(T, j), load(T, j + 16 * s), load(T, j + 32 * s), load(T, j + 48 * s)
                a, b, c, e = a + b, a - b, c + e, c - e
                store(T, j, a + c)
                store(T, j + 16 * s, b + e)
                store(T, j + 32 * s, a - c)
                store(T, j + 48 * s, b - e)
        s *= 4
    if s < n:
        for i in range(first, first + n, 2 * s):
            for j in range(16 * i, 16 * (i + s), 16):
                a, b = load(T, j), load(T, j + 16 * s)
                store(T, j, a + b)
                store(T, j + 16 * s, a - b)


@kernel
def flip(T, d, factors):
    """Coordinate i times factors[i]: the random signs, with the factor of the Hadamard transform."""
    for i in range(d):
        store(T, 16 * i, load(T, 16 * i) * splat(factors[i]))


@kernel
def turn(T, d, cosines, sines):
    """The plane layer: coordinates i and d - h + i by angle i, h = d // 2."""
    h = d // 2
    for i in range(h):
        a, b = load(T, 16 * i), load(T, 16 * (d - h + i))
        c, s = splat(cosines[i]), splat(sines[i])
        store(T, 16 * i, c * a - s * b)
        store(T, 16 * (d - h + i), s * a + c * b)


@kernel
def mix(T, chunk, a, b, root):
    """(x, y) <- ((x + y) root, (x - y) root) for chunks a and b, root = 1 / sqrt 2."""
    factor = splat(root)
    for i in range(chunk):
        at, to = 16 * (a * chunk + i), 16 * (b * chunk + i)
        x, y = load(T, at), load(T, to)
        store(T, at, (x + y) * factor)
        store(T, to, (x - y) * factor)


@kernel
def rotate(T, tables):
    """The structured rotation of `turboquant_ref.rotation`, step by step; `tables` as `rotation.tables` makes them."""
    chunk, root, factors, cosines, sines, pairs = tables
    rounds, d = factors.shape
    for r in range(rounds):
        if r > 0:
            turn(T, d, cosines[r - 1], sines[r - 1])
        flip(T, d, factors[r])
        for first in range(0, d, chunk):
            fwht(T, first, chunk)
        for p in range(pairs.shape[0]):
            mix(T, chunk, pairs[p, 0], pairs[p, 1], root)


@kernel
def unrotate(T, tables):
    """The transpose of `rotate`: its steps, last first."""
    chunk, root, factors, cosines, sines, pairs = tables
    rounds, d = factors.shape
    for r in range(rounds - 1, -1, -1):
        for p in range(pairs.shape[0] - 1, -1, -1):
            mix(T, chunk, pairs[p, 0], pairs[p, 1], root)
        for first in range(0, d, chunk):
            fwht(T, first, chunk)
        flip(T, d, factors[r])
        if r > 0:
            turn(T, d, cosines[r - 1], -sines[r - 1])


def blocks(run: Any, n: int, d: int, dtype: DTypeLike, cost: int = 1) -> list[Any]:
    """``run(start, stop, T)`` for parts of n rows that begin at whole blocks, each with a scratch of its own."""
    enough = max(LANES, 400_000 // (d * cost))  # some 100 microseconds
    return in_parts(lambda start, stop: run(start, stop, scratch(d, dtype)), n, enough, LANES)
