"""What level 2 is fed with: unit vectors, random and sparse, and queries at a given cosine."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["SPECIAL", "queries", "special", "unit"]

Floats = NDArray[np.float64]

SPECIAL = ("one-hot", "two-hot", "4-sparse", "constant")
"""Inputs that a rotation which is not random enough leaves concentrated."""


def unit(n: int, d: int, rng: np.random.Generator) -> Floats:
    """Uniform on the sphere, and exact in float32, so that a port in float32 is given the same numbers."""
    x = rng.standard_normal((n, d))
    return np.asarray((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), dtype=np.float64)


def special(inputs: str, n: int, d: int, rng: np.random.Generator) -> Floats:
    """n rows of a kind that a rotation which is not random enough leaves concentrated."""
    if inputs == "constant":  # ±1/√d: all equal, then alternating in runs of 1, 2, 4, …: rows of a Hadamard matrix
        runs = [np.where(np.arange(d) // 2 ** (k % 6 - 1) % 2, -1.0, 1.0) if k % 6 else np.ones(d) for k in range(n)]
        return np.asarray(np.array(runs) * rng.choice([-1.0, 1.0], (n, 1)) / math.sqrt(d))
    k = {"one-hot": 1, "two-hot": 2, "4-sparse": 4}[inputs]
    x = np.zeros((n, d))
    where = rng.random((n, d)).argpartition(k, axis=1)[:, :k] if k < d else np.tile(np.arange(d), (n, 1))
    np.put_along_axis(x, where, rng.choice([-1.0, 1.0], where.shape) / math.sqrt(where.shape[1]), axis=1)
    return x


def queries(x: Floats, rho: Floats, rng: np.random.Generator) -> Floats:
    """For each unit row of x a unit y with <x, y> = rho."""
    w = rng.standard_normal(x.shape)
    w -= (w * x).sum(1, keepdims=True) * x
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    return np.asarray(rho[:, None] * x + np.sqrt(1 - rho[:, None] ** 2) * w)
