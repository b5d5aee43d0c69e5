"""Wrong tables of centroids, as found in the field: a codebook that is not Eq 4's, or a decoder that misreads it.

A table is what the encoder compares with, its boundaries, and what the decoder looks up, its centroids.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .. import codebook, sphere

__all__ = ["DECODERS", "TABLES", "Table", "exact"]

Floats = NDArray[np.float64]
Table = tuple[Floats, Floats]
"""Boundaries of the encoder, centroids of the decoder."""


def exact(d: int, bits: int) -> Table:
    """The Lloyd-Max codebook."""
    book = codebook.lloyd_max(d, bits)
    return book.boundaries, book.centroids


def _midpoints(c: Floats) -> Table:
    return (c[1:] + c[:-1]) / 2, c


def _lloyd(law: sphere.Law, start: Floats, iterations: int, low: float, high: float) -> Floats:
    """Plain Lloyd iterations from given centroids, on the part of a law between low and high."""
    t, w = law.quadrature(np.linspace(low, high, 401)[:-1], np.linspace(low, high, 401)[1:])
    t, w, c = t.ravel(), w.ravel(), start
    for _ in range(iterations):
        cell = np.searchsorted((c[1:] + c[:-1]) / 2, t, side="right")
        mass = np.bincount(cell, w, len(c))
        c = np.where(mass > 1e-300, np.bincount(cell, w * t, len(c)) / np.maximum(mass, 1e-300), c)
    return c


@lru_cache(maxsize=256)
def _truncated_normal(bits: int, sigmas: float) -> Floats:
    return _lloyd(sphere.Gaussian(), codebook.lloyd_max(None, bits).centroids, 400, -sigmas, sigmas)


def _truncated(d: int, bits: int, sigmas: float) -> Table:
    return _midpoints(_truncated_normal(bits, sigmas) / math.sqrt(d))


@lru_cache(maxsize=256)
def _stopped(d: int, bits: int) -> Table:
    return _midpoints(_lloyd(sphere.Coordinate(d), np.linspace(-1, 1, 2**bits + 2)[1:-1], 50, -1.0, 1.0))


def _equal_probability(d: int, bits: int) -> Table:
    law = sphere.Coordinate(d)
    edges = np.concatenate([[-1.0], law.quantile(np.arange(1, 2**bits) / 2**bits), [1.0]])
    return _midpoints(law.partial_mean(edges[:-1], edges[1:]) * 2**bits)


def _equal_medians(d: int, bits: int) -> Table:
    return _midpoints(sphere.Coordinate(d).quantile((np.arange(2**bits) + 0.5) / 2**bits))


def _uniform(reach: float) -> Callable[[int, int], Table]:
    """2^b cells of one width between ±reach/√d, centroids in their middles."""
    return lambda d, b: _midpoints(((np.arange(2**b) + 0.5) / 2**b * 2 - 1) * min(reach / math.sqrt(d), 1.0))


def _of_dimension(other: int) -> Callable[[int, int], Table]:
    return lambda d, b: exact(other, b)


def _decoded(order: Callable[[NDArray[np.intp], int], NDArray[np.intp]]) -> Callable[[int, int], Table]:
    """The right encoder, with the decoder's indices changed."""

    def table(d: int, bits: int) -> Table:
        boundaries, centroids = exact(d, bits)
        return boundaries, centroids[order(np.arange(2**bits), bits)]

    return table


def _bits_reversed(k: NDArray[np.intp], bits: int) -> NDArray[np.intp]:
    return np.asarray(sum(((k >> i) & 1) << (bits - 1 - i) for i in range(bits)))


TABLES: dict[str, tuple[Callable[[int, int], Table], str]] = {
    "Gaussian codebook": (
        lambda d, b: _midpoints(codebook.lloyd_max(None, b).centroids / math.sqrt(d)),
        "the table is that of N(0, 1)/√d, the limit of large d; solve Eq 4 for the law of a coordinate in R^d itself",
    ),
    "codebook of dimension d + 1": (
        lambda d, b: exact(d + 1, b),
        "the density is Beta(d/2, d/2), that of R^(d+1); its exponent must be (d - 3)/2, Beta((d-1)/2, (d-1)/2)",
    ),
    "codebook of dimension d - 1": (
        lambda d, b: exact(max(d - 1, 2), b),
        "the exponent of the density must be (d - 3)/2",
    ),
    "codebook not divided by √d": (
        lambda d, b: _midpoints(codebook.lloyd_max(None, b).centroids),
        "the table is for N(0, 1); coordinates of a unit vector have variance 1/d: divide it by √d",
    ),
    "codebook divided by d": (
        lambda d, b: _midpoints(codebook.lloyd_max(None, b).centroids / d),
        "the standard deviation of a coordinate is 1/√d, not 1/d",
    ),
    "codebook truncated at ±3σ": (
        lambda d, b: _truncated(d, b, 3.0),
        "the integrals of Lloyd's iteration stop at 3σ; they must reach to the ends of the support",
    ),
    "codebook truncated at ±1σ": (
        lambda d, b: _truncated(d, b, 1.0),
        "the density is put on [-1/√d, 1/√d]; the support of a coordinate is [-1, 1]",
    ),
    "equal-probability codebook": (
        _equal_probability,
        "the cells are quantiles; Lloyd-Max has its boundaries between centroids",
    ),
    "quantile codebook": (
        _equal_medians,
        "the centroids are quantiles of the law; Lloyd-Max needs means of cells, iterated",
    ),
    "uniform codebook, ±3σ": (_uniform(3.0), "the centroids have equal distances; Eq 4 asks for the Lloyd-Max ones"),
    "uniform codebook, ±4σ": (_uniform(4.0), "the centroids have equal distances; Eq 4 asks for the Lloyd-Max ones"),
    "uniform codebook on [-1, 1]": (_uniform(1e9), "the centroids have equal distances over the whole support"),
    "Lloyd's iteration stopped early": (
        _stopped,
        "50 iterations from a uniform start on [-1, 1] are too few: start from quantiles, or use Newton's method",
    ),
    **{
        f"codebook of d = {n} for every d": (_of_dimension(n), f"the table of d = {n} is used; it depends on d")
        for n in (32, 64, 96, 128, 256, 384, 512, 576, 768, 1024, 1536)
    },
}
"""Wrong codebooks: (d, bits) -> table, and where to look."""

DECODERS: dict[str, tuple[Callable[[int, int], Table], str]] = {
    "indices off by one": (
        _decoded(lambda k, b: np.minimum(k + 1, 2**b - 1)),
        "encoder and decoder count from different numbers (one too high looks like one too low)",
    ),
    "indices one off, cyclic": (
        _decoded(lambda k, b: (k + 1) % 2**b),
        "off by one, with wrap-around, between encoder and decoder",
    ),
    "order of indices reversed": (
        _decoded(lambda k, b: 2**b - 1 - k),
        "encoder and decoder sort the centroids differently, or a sign is lost",
    ),
    "bits of an index reversed": (
        _decoded(_bits_reversed),
        "packing and unpacking disagree about the order of an index's bits",
    ),
    "rounded down, not to the nearest": (
        lambda d, b: (exact(d, b)[1][1:], exact(d, b)[1]),
        "the index is the number of *centroids* <= z; the boundaries are the midpoints between centroids",
    ),
}
"""Right tables, wrongly read: as `TABLES`."""
