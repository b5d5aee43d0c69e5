"""Between lanes and between vectors: the transpose of 16 by 16 numbers, Walsh-Hadamard transforms."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import cgutils

from .llvm import TUPLES, D, F, N, lowers, shuffle


def transpose(rows: Any) -> Any:
    """16 vectors, as a tuple, to 16 vectors: number j of vector i becomes number i of vector j."""
    return tuple(np.stack(rows).T.copy())


def hadamard(x: Any) -> Any:
    """The Walsh-Hadamard transform of 16 vectors, a tuple: stages s = 1, 2, 4, 8 of (x_i + x_{i+s}, x_i - x_{i+s})."""
    x = np.stack(x)
    for s in (1, 2, 4, 8):
        pairs = x.reshape(-1, 2, s, N)
        x = np.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), axis=1).reshape(N, N)
    return tuple(x)


@lowers(TUPLES[F], TUPLES[F], of=hadamard)
@lowers(TUPLES[D], TUPLES[D], of=hadamard)
def _hadamard(builder: Any, vectors: Any) -> Any:
    x = cgutils.unpack_tuple(builder, vectors)
    for s in (1, 2, 4, 8):
        for i in range(N):
            if not i & s:
                x[i], x[i + s] = builder.fadd(x[i], x[i + s]), builder.fsub(x[i], x[i + s])
    return cgutils.pack_array(builder, x)


def _transpose(builder: Any, rows: Any) -> Any:
    x = cgutils.unpack_tuple(builder, rows)
    for s in (8, 4, 2, 1):  # swap the off-diagonal quarters of every 2 s x 2 s square
        low = [i if not i & s else N + i - s for i in range(N)]
        high = [i + s if not i & s else N + i for i in range(N)]
        for i in range(N):
            if not i & s:
                a, b = x[i], x[i + s]
                x[i], x[i + s] = shuffle(builder, a, b, low), shuffle(builder, a, b, high)
    return cgutils.pack_array(builder, x)


for _kind in TUPLES:
    lowers(TUPLES[_kind], TUPLES[_kind], of=transpose)(_transpose)
