"""The matrices of a golden vector in float64, and how far two right computations with them may be apart.

Notation: u is the unit roundoff of the compute dtype, gamma_n = n u / (1 - n u). A sum of n products, its terms right
to k roundings, is off by at most gamma_{n+k} times the sum of the terms' magnitudes, whatever the order; the stored
value and the subject's are both, so that twice that is allowed between them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rotation as rotations
from . import given
from .golden import Case, reals
from .rules import ROUNDOFF, SMALLEST, Answers, Rule, close, near, record

__all__ = ["CODEBOOK", "Terms", "estimated", "gamma", "reach", "scaled", "unit_and_rotated"]

Floats = NDArray[np.float64]

CODEBOOK = 1e-11
"""How far a centroid may be from the exact one, relatively (SPEC.md, section 3); a constant such as mu too."""

TANGENT = 2.0**-14
"""The least tangent that RaBitQ stores."""


def gamma(n: float, u: float) -> float:
    """gamma_n = n u / (1 - n u): the relative error of n roundings (Higham, section 3.1)."""
    return n * u / (1 - n * u)


class Terms:
    """The matrices of a group in float64, and the rounding of products with them."""

    def __init__(self, case: Case, own_codebook: bool, part: Mapping[str, Any] | None = None) -> None:
        g = {**case.group, **(part or {})}  # attention has two quantizers, each a part of its group
        self.u, self.smallest = ROUNDOFF[case.dtype], SMALLEST[case.dtype]
        self.d = int(g["d"])
        self.slack = CODEBOOK if own_codebook else 0.0
        self.steps = _steps(self.d)
        self.pi = given.matrix(given.rotation(g["rotation"], self.d)) if "rotation" in g else np.eye(self.d)
        self.pi_structured = "rotation" in g and g["rotation"]["kind"] == "structured"
        self.s = given.sketch(g).matrix() if "sketch" in g else np.zeros((0, self.d))
        self.s_structured = "sketch" in g and g["sketch"]["kind"] == "structured"
        self.centroids = (
            reals(g["centroids"]).astype(case.dtype).astype(np.float64) if g.get("centroids") else np.zeros(1)
        )
        wide = reals(g["centroids"]) if g.get("centroids") else np.zeros(1)
        self.boundaries = ((wide[1:] + wide[:-1]) / 2).astype(case.dtype).astype(np.float64)
        y = reals(case.test["inputs"].get("query", np.zeros(self.d)))
        self.query = y.astype(np.float64)

    def twice(self, n: float) -> float:
        """What two computations of n roundings may be apart, relatively to the sum of the terms' magnitudes."""
        return 2 * gamma(n, self.u)

    def without_slack(self) -> Terms:
        """The same, for an algorithm without a codebook."""
        other = copy.copy(self)
        other.slack = 0.0
        return other

    @property
    def relative(self) -> float:
        """Of a norm, and of each coordinate of a unit vector."""
        return self.twice(self.d + 4)

    def rotation_bound(self, unit: Floats) -> Floats:
        """How far two computations of Pi u may be apart."""
        return self.product(self.pi, self.pi_structured, unit, self.relative * np.abs(unit))

    def product(self, matrix: Floats, structured: bool, x: Floats, error: Floats | float, size: float = 1.0) -> Floats:
        """How far two computations of M x may be apart if the two x are `error` apart: M as a matrix or as its steps.

        Each step of a structured rotation is orthogonal and adds a rounding error of at most its share of `_steps` u
        times the norm; given to a port as a matrix, its entries carry that error in float64.
        """
        terms = np.abs(matrix)
        bound = terms @ np.broadcast_to(error, x.shape) + self.twice(matrix.shape[1] + 4) * (terms @ np.abs(x))
        if structured:
            one = 2 * gamma(self.steps, self.u) * np.linalg.norm(x)
            bound = bound + size * (one + gamma(self.steps, ROUNDOFF["float64"]) * np.sum(np.abs(x)))
        return np.asarray(bound)


def _steps(d: int) -> float:
    """Roundings along a structured rotation of two rounds: k butterflies, 3 a level across chunks, 8 for the planes."""
    k = (d & -d).bit_length() - 1
    levels = math.ceil(math.log2(d >> k)) if d >> k > 1 else 0
    return rotations.ROUNDS * (2 + k + 3 * levels) + 8 * (rotations.ROUNDS - 1)


def reach(T: Terms, z: Floats) -> Floats:
    """The largest boundary near each coordinate: what an error of the codebook is relative to."""
    if not T.boundaries.size:
        return np.zeros_like(z)
    return np.asarray(np.abs(T.boundaries[np.argmin(np.abs(z[:, None] - T.boundaries), axis=1)]))


def estimated(
    T: Terms, expected: float, decoded: Floats, off: Floats, parts: list[tuple[Any, bool, Floats, Any]]
) -> Rule:
    """<y, x~>, whether the vector was decoded or the query rotated and sketched: the bounds of both ways, added."""
    y = T.query
    bound = float(np.abs(y) @ off + T.twice(T.d + 8) * (np.abs(y) @ np.abs(decoded)))
    for matrix, structured, weights, error in parts:
        turned = matrix @ y
        size = math.sqrt(T.d) if matrix is T.s else 1.0
        off_turned = T.product(matrix, structured, y, T.twice(T.d + 4) * np.abs(y), size)
        bound += float(off_turned @ np.abs(weights) + np.abs(turned) @ np.broadcast_to(error, weights.shape))
        bound += T.twice(len(weights) + 8) * float(np.abs(turned) @ np.abs(weights))
    return near(expected, bound + 8 * T.smallest)


def unit_and_rotated(case: Case, T: Terms) -> Iterator[tuple[str, Rule]]:
    """The stages norm, unit and rotated."""
    out = case.test["outputs"]
    norm, unit = float(out["norm"]), reals(out["unit"])
    tiny = 8 * T.smallest if norm else 0.0
    yield "norm", near(norm, T.relative * norm + tiny)
    yield "unit", close(unit, T.relative * np.abs(unit) + tiny)
    yield "rotated", close(reals(out["rotated"]), T.rotation_bound(unit))


def scaled(
    case: Case, T: Terms, answers: Answers, levels: Floats, by_code: Rule, off_z: Floats
) -> Iterator[tuple[str, Rule]]:
    """The stages from the indices on, where the vector decoded is scale Pi^T q, q the `levels` of the indices."""
    out, g = case.test["outputs"], case.group
    norm, z, stored = float(out["norm"]), reals(out["rotated"]), reals(out["indices"])
    tiny, relative = 8 * T.smallest if norm else 0.0, T.relative
    index = reals(answers.get("indices", stored))
    same = bool(np.array_equal(index, stored))
    q = levels[index.astype(int)]
    qq, zq = float(q @ q), float(z @ q) if norm else 1.0
    factor = {"norm": 1.0, "matched": qq**-0.5, "least_squares": zq / qq, "unbiased": 1 / zq}[g["scale"]]
    off_zq = (off_z @ np.abs(q) + relative * (np.abs(z) @ np.abs(q))) / abs(zq) + T.slack
    uses = {"norm": (0.0, 0.0), "matched": (0.0, 1.0), "least_squares": (1.0, 1.0), "unbiased": (1.0, 0.0)}[g["scale"]]
    off_scale = relative + uses[0] * off_zq + uses[1] * (relative + 2 * T.slack) + T.twice(4)
    scale = float(out["scale"]) if same else norm * factor
    yield "scale", near(scale, off_scale * scale + tiny)
    side = [(scale, off_scale * scale + tiny)]
    if "tangent" in out:  # the length of q / <q, z> - z
        w = q / zq
        far = float(np.linalg.norm(w - z))
        tangent = float(out["tangent"]) if same or not norm else max(far, TANGENT)
        off = float(np.linalg.norm(off_z + (off_zq + T.twice(4)) * np.abs(w) + T.twice(2) * (np.abs(w) + np.abs(z))))
        sure = not norm or far + off < TANGENT  # it is the least, exactly
        side.append((tangent, 0.0 if sure else off + relative * tangent))
        yield "tangent", near(*side[1])
    v = T.pi.T @ q
    off_v = T.product(T.pi.T, T.pi_structured, q, T.slack * np.abs(q))
    decoded = reals(out["decoded"]) if same else scale * v
    off = scale * off_v + (off_scale + 2 * T.u) * scale * np.abs(v) + tiny
    yield "decoded", close(decoded, off)
    if "packed" in out:
        yield "packed", record(case, [("indices", index, by_code)], [(T.d, g["bits"])], side, answers)
    estimate = float(out["estimate"]) if same else float(T.query @ v) * scale
    parts = [(T.pi, T.pi_structured, scale * q, T.slack * scale * np.abs(q))]
    yield "estimate", estimated(T, estimate, scale * v, off, parts)
