"""The plain logits call with its arguments fixed: how the arrays are seen, and its launches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import _launch
from ._problem import Problem, kept, rotation_of, sign_factor, sketch_of

BLOCKS = 16
"""For each multiprocessor, at most."""


class FixedPlain(_launch.Launches):
    """As `Fixed` by the plain kernel: float32 or float64 queries, any d and bits."""

    def __init__(self, p: Problem, q: Any, out: Any, home: _launch.Home) -> None:
        from numba import types

        from . import logits_plain as plain

        Q, keys, form, dtype = p.Q, p.keys, p.keys.form, _launch.name_of(q)
        rows, n_rows = p.heads * p.queries, int(math.prod(keys.scales.shape))
        self.out, self.home = out, home
        self._alive = [p, q]  # p.Q has the tables
        self.launches: list[Any] = []

        def turned(matrix: Any) -> Any:
            size = int(matrix.shape[1])
            y = home.empty((rows, size), dtype)
            queries = _launch.view(q, (rows, Q.d))
            self.launches.append(_launch.fix(plain.turn, _launch.blocks(rows * size, 128), 128, queries, matrix, y))
            self._alive.append(y)
            return y

        def cells(a: Any, width: int) -> Any:
            """Rows of bytes as rows of cells."""
            row = int(tuple(a.shape)[-1])
            return _launch.view(a, (n_rows, 8 * row // width), f"uint{width}")

        signed = Q.algorithm != "mse"
        z = turned(sketch_of(Q, dtype)) if signed else None
        index_bits = 0 if Q.algorithm == "qjl" else Q.codebook.bits
        y = turned(rotation_of(Q, dtype)) if index_bits else z
        kind = "apart" if form.signs else "merged" if signed else "none"
        if form.planes:
            kind = "merged planes" if signed else "planes"
        step = plain.stretch(index_bits)
        wide = all(n % 4 == 0 for n in (form.row, form.row_high)) and step % 32 == 0
        width = 32 if wide and step * form.bits % 32 == 0 else 8
        high = cells(keys.high if form.row_high else keys.codes, width)
        codes = cells(keys.codes, width) if form.row else high
        scales = _launch.view(keys.scales, (n_rows,))
        residuals = scales if keys.residuals is None else _launch.view(keys.residuals, (n_rows,))
        book = kept(Q, ("book", dtype), lambda: (Q.codebook.centroids if index_bits else np.zeros(1)).astype(dtype))
        pages, lengths = keys.table, keys.lengths
        if p.page == 0:
            pages = kept(Q, "no pages", lambda: np.zeros((1, 1), np.int32))
            lengths = kept(Q, "no lengths", lambda: np.zeros(1, np.int32))
        number, number_type = np.dtype(dtype).type, getattr(types, dtype)
        most = max(1, BLOCKS * _launch.processors() // max(p.heads, 1))
        grid = (min(_launch.blocks(p.n, plain.KEYS), most), p.heads, p.queries)
        result, scale = _launch.view(out, (rows, p.n)), number(p.scale)
        if kind == "none" and width == 32 and 32 % index_bits == 0 and form.n <= plain.WIDEST_WHOLE:
            kernel = plain.whole_kernel(index_bits, form.row // 4, p.page, number_type)
            arguments = (codes, scales, book, y, scale, pages, lengths, p.pages[0], result)
        else:
            kernel = plain.logits_kernel(index_bits, kind, width, p.page, keys.residuals is not None, number_type)
            of_signs = number(sign_factor(Q, p.scale) if signed else 0)
            tables = (book, y, y if z is None else z)
            arguments = (
                codes, high, scales, residuals, *tables, scale, of_signs, pages, lengths, p.pages[0], result,
            )  # fmt: skip
        self.launches.append(_launch.fix(kernel, grid, plain.KEYS, *arguments))
