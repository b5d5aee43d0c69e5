"""The algorithm boxes of the papers, line by line in Python floats; and how far a rounded run may be from them.

Slow, and sharing no code with what they judge: sums by `math.fsum`, argmin by trying every centroid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def dot(a: Any, b: Any) -> float:
    return math.fsum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def times(M: Any, x: Any) -> list[float]:
    """M x."""
    return [dot(row, x) for row in np.asarray(M)]


def transposed_times(M: Any, y: Any) -> list[float]:
    """M^T y."""
    return times(np.asarray(M).T, y)


def split(x: Any) -> tuple[float, list[float]]:
    """||x|| and x / ||x|| (section 1.3)."""
    norm = math.hypot(*map(float, x))
    return norm, [float(t) / norm if norm else 0.0 for t in x]


def argmin(centroids: Any, t: float) -> int:
    """Algorithm 1, line 6: argmin_k |t - c_k|; of two that are as near, the upper."""
    return min(range(len(centroids)), key=lambda k: (abs(t - float(centroids[k])), -k))


def sign(t: float) -> int:
    return 1 if t >= 0 else -1


def mse(Pi: Any, centroids: Any, x: Any, rule: str = "norm", indices: Any = None) -> dict[str, Any]:
    """Algorithm 1 with one of the four scales; given indices instead of its own, where rounding decided them."""
    norm, unit = split(x)
    z = times(Pi, unit)
    indices = [argmin(centroids, t) for t in z] if indices is None else indices
    q = [float(centroids[k]) for k in indices]
    scale = {
        "norm": lambda: norm,
        "matched": lambda: norm / math.sqrt(dot(q, q)),
        "least_squares": lambda: norm * dot(z, q) / dot(q, q),
        "unbiased": lambda: norm / dot(z, q) if norm else 0.0,
    }[rule]()
    back = transposed_times(Pi, q)
    return {"norm": norm, "z": z, "indices": indices, "q": q, "scale": scale, "decoded": [scale * t for t in back]}


def qjl(S: Any, mu: float, x: Any, signs: Any = None) -> dict[str, Any]:
    """Q_qjl and its inverse, with mu = E|S_i u|: sqrt(2/pi) for Gaussian S."""
    norm, unit = split(x)
    projection = times(S, unit)
    signs = [sign(t) for t in projection] if signs is None else signs
    back = transposed_times(S, signs)
    return {"projection": projection, "signs": signs, "decoded": [norm / (len(signs) * mu) * t for t in back]}


def prod(Pi: Any, centroids: Any, S: Any, mu: float, x: Any, indices: Any, signs: Any = None) -> dict[str, Any]:
    """Algorithm 2 after its line 5, the residual norm kept."""
    norm, unit = split(x)
    first = transposed_times(Pi, [float(centroids[k]) for k in indices])
    r = [a - b for a, b in zip(unit, first, strict=True)]
    projection = times(S, r)
    signs = [sign(t) for t in projection] if signs is None else signs
    gamma = math.hypot(*r)
    second = transposed_times(S, signs)
    decoded = [norm * (a + gamma * b / (len(signs) * mu)) for a, b in zip(first, second, strict=True)]
    return {"r": r, "gamma": gamma, "projection": projection, "signs": signs, "decoded": decoded}


def gamma(n: float, dtype: Any) -> float:
    """n u / (1 - n u), the relative error of n roundings (Higham, Lemma 3.1)."""
    u = float(np.finfo(dtype).eps) / 2
    assert n * u < 1
    return n * u / (1 - n * u)


def rotation_error(rotation: Any, dtype: Any) -> float:
    """The most that any coordinate of fl(Pi u), u of norm 1 to 4 roundings, can be from that of Pi u; Pi^T u too.

    Dense: d products and sums, one rounding of the entry; |Pi_i| |u| <= 1 by Cauchy-Schwarz.  Structured: a stage whose
    outputs are sums of two inputs adds a relative error of the 2-norm of at most 3 roundings (sum, product, constant);
    there are at most 2 + log2(d) of them in a round (the chunks that do not halve evenly); a layer of plane rotations
    adds sqrt(2) 3 < 5, the signs and their factor 3.
    """
    steps = (
        rotation.rounds * (3 * (2 + math.ceil(math.log2(rotation.d))) + 8)
        if hasattr(rotation, "rounds")
        else rotation.d
    )
    return gamma(steps + 5, dtype)


def check_codes(found: Any, value: Any, boundaries: Any, margin: Any, what: str) -> int:
    """Code equality: the number of boundaries <= value wherever that is farther than `margin` from all of them.

    Returns the number of entries that rounding may decide.
    """
    value, boundaries = np.asarray(value, np.float64), np.asarray(boundaries, np.float64)
    near = np.zeros(value.shape, bool)
    if boundaries.size:
        near = np.abs(value[..., None] - boundaries).min(-1) <= margin
    expected = (boundaries <= value[..., None]).sum(-1)
    np.testing.assert_array_equal(np.where(near, expected, found), expected, err_msg=what)
    return int(near.sum())
