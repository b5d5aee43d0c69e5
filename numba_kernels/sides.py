"""Keys and values as the attention kernels take them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref.codes import module_of
from turboquant_ref.packing import Packed
from turboquant_ref.vectors import norm_and_unit

from . import rotation
from .arrange import Tables, byte_queries, coordinates, float_queries, tables
from .attend import decode
from .layout import Prepared, check_prepared, prepare, stored_bits

__all__ = ["ALGORITHMS", "Side", "side_of"]

ALGORITHMS = ("mse", "prod", "qjl")

Reals = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Side:
    """Keys or values of all heads: codes (heads, blocks, words, 16), and side scalars (heads, 16 blocks).

    A vector is weight (first, residual signs), each in its basis: Pi or S. `residuals` may be empty. `known` are the
    sections and tables of Q.
    """

    Q: Any
    known: Tables
    codes: NDArray[np.uint32]
    weights: Reals
    residuals: Reals
    shape: tuple[int, ...]

    @cached_property
    def bits(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What tells a kernel the bits that are stored of each section."""
        return (0,) * _planes(self.known.first.bits), (0,) * (1 if self.known.signs.words else 0)

    @cached_property
    def widths(self) -> tuple[int, int]:
        """Coordinates of both sections, those that fill up words included."""
        return coordinates(self.known.first), coordinates(self.known.signs)

    def queries(self, rows: tuple[Reals, Reals], size: int, precision: str) -> tuple[NDArray[Any], ...]:
        """Float32 queries in both bases, (size n, count) each, as `attend.float_scores` or `byte_scores` takes them."""
        pairs = list(zip(rows, (self.known.first, self.known.signs), strict=True))
        if precision == "exact":
            return tuple(float_queries(x, section, size) for x, section in pairs)
        words, starts, units = zip(*(byte_queries(x, section, size) for x, section in pairs), strict=True)
        worth = [(u * step).astype(np.float32) for u, step in zip(units, self.known.steps, strict=True)]
        return *words, *starts, *worth

    def arguments(self, precision: str) -> tuple[Any, ...]:
        """What a kernel takes; see `attend`."""
        known = self.known
        read = known.floats if precision == "exact" else known.levels
        return self.codes, (known.first.words, known.signs.words), read, self.weights, self.residuals

    @cached_property
    def has_sketch(self) -> tuple[bool, bool]:
        """Whether each section is a sketch: it is in the basis of S, not of Pi."""
        return getattr(getattr(self.Q, "codebook", None), "bits", 0) == 0, self.known.signs.words > 0

    @property
    def constant(self) -> float:
        """What the signs of a sketch are multiplied by, residuals apart."""
        stored = self.Q.algorithm != "prod" or self.Q.stores_residual
        return float(self.Q.sketch.constant * (1.0 if stored else self.Q.expected_residual))

    def basis(self, rows: Reals) -> list[Reals]:
        """Queries (n, d) in the bases of both sections; no columns where there is no section."""
        first, second = self.has_sketch
        signs = self.Q.sketch.apply(rows) if first or second else rows[:, :0]
        return [signs, rows[:, :0]] if first else [rotation.apply(self.Q.rotation, rows), signs]

    def of_units(self, rows: Reals) -> tuple[Reals, list[Reals]]:
        """Norms of queries (n, d), and the unit queries in the bases of both sections."""
        if rows.dtype == np.float32 and not any(self.has_sketch) and isinstance(self.Q.rotation, rotation.Structured):
            norms, first = rotation.of_units(self.Q.rotation, rows, "q")
            return norms, [first, rows[:, :0]]
        norms, unit = norm_and_unit(rows, name="q")
        return norms, self.basis(unit)

    def original(self, first: Reals, signs: Reals) -> Reals:
        """Weighted sums (…, widths) of both sections, (…, d)."""
        first, signs = first[..., : self.known.first.count], signs[..., : self.known.signs.count]
        if self.has_sketch[0]:
            return np.asarray(self.Q.sketch.transpose(first))
        back = rotation.inverse(self.Q.rotation, first)
        return np.asarray(back + self.Q.sketch.transpose(signs) if self.has_sketch[1] else back)

    def decoded(self, head: int, dtype: Any) -> tuple[Reals, Reals]:
        """The vectors of a head in the bases of both sections, (n, count) each."""
        found = []
        sections = zip((self.known.first, self.known.signs), self.known.values, self.has_sketch, strict=True)
        for section, values, is_sketch in sections:
            x = np.empty((self.shape[-1], section.count), dtype)
            if section.words:
                kind = self.weights.dtype.type
                table = (values.astype(kind) * kind(self.constant if is_sketch else 1)).astype(dtype)
                decode(_planes(section.bits), self.codes, head, section.start, section.words, table, x)
            found.append(x * self.weights[head, : len(x), None].astype(dtype))
        if self.residuals.size:
            found[1] *= self.residuals[head, : len(found[1]), None].astype(dtype)
        return found[0], found[1]


def _planes(bits: int) -> int:
    """The bits by which kernels know a section: 1 to 4, or 8."""
    return bits if bits == 3 else stored_bits(bits)


def side_of(Q: Any, code: Any, name: str) -> Side:
    """A Prepared, Packed or code of batch shape (*batch, kv_heads, n) as a side.

    Raises
    ------
    TypeError
        For an algorithm that has no kernel, or what is no code.
    ValueError
        For a code of another quantizer, or of another shape.
    """
    kept = code.__dict__.get("side") if isinstance(code, Prepared) else None
    if kept is not None and kept.Q is Q:
        return kept
    algorithm = getattr(Q, "algorithm", type(Q).__name__)
    if algorithm not in ALGORITHMS:
        raise TypeError(f"{name}: numba_kernels has attention for {', '.join(ALGORITHMS)}, got {algorithm}")
    if not isinstance(code, Prepared | Packed):
        scalars = getattr(code, "scales", getattr(code, "norms", None))
        wide = getattr(scalars, "dtype", None) == np.float64
        code = module_of(Q).pack(Q, code, "float64" if wide else "float32")
    code = check_prepared(Q, code) if isinstance(code, Prepared) else prepare(Q, code)
    if len(code.shape) < 2:
        raise ValueError(f"{name}: expected codes of shape (*batch, kv_heads, n), got {code.shape}")
    heads = math.prod(code.shape[:-1])
    codes = np.ascontiguousarray(code.codes).reshape(heads, *code.codes.shape[-3:])
    values = np.ascontiguousarray(code.values).reshape(len(code.values), heads, code.values.shape[-1])
    residuals = values[1] if len(values) > 1 else np.empty((0, 0), values.dtype)
    side = Side(Q, tables(Q), codes, values[0], residuals, code.shape)
    if np.shares_memory(codes, code.codes) and np.shares_memory(values, code.values):
        code.__dict__["side"] = side  # where nothing was copied, what is written to the codes is seen
    return side
