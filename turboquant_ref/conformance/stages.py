"""What every stage of a golden vector's answer must be: expected value and derived bound, in the order of computation.

Notation: u is the unit roundoff of the compute dtype, gamma_n = n u / (1 - n u). A sum of n products, its terms right
to k roundings, is off by at most gamma_{n+k} times the sum of the terms' magnitudes, whatever the order; the stored
value and the subject's are both, so that twice that is allowed between them. Where an index or a sign lies within its
bound of a boundary, both answers are right, and the later stages are then expected of the subject's own choice. A
bound that is zero, as for products with 0, leaves no choice: ties are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import generator
from .. import rotation as rotations
from . import given
from .golden import Case, reals
from .rules import (
    ROUNDOFF,
    SMALLEST,
    Answers,
    Rule,
    close,
    code,
    exactly,
    hexadecimal,
    hexadecimals,
    near,
    record,
    signs_of,
)

__all__ = ["CODEBOOK", "stages"]

Floats = NDArray[np.float64]

CODEBOOK = 1e-11
"""How far a centroid may be from the exact one, relatively (SPEC.md, section 3); a constant such as mu too."""


def gamma(n: float, u: float) -> float:
    """gamma_n = n u / (1 - n u): the relative error of n roundings (Higham, section 3.1)."""
    return n * u / (1 - n * u)


class Terms:
    """The matrices of a group in float64, and the rounding of products with them."""

    def __init__(self, case: Case, own_codebook: bool) -> None:
        g = case.group
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


def _mse(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    out, g, u = case.test["outputs"], case.group, T.u
    norm, unit, z = float(out["norm"]), reals(out["unit"]), reals(out["rotated"])
    tiny = 8 * T.smallest if norm else 0.0
    relative = T.twice(T.d + 4)
    yield "norm", near(norm, relative * norm + tiny)
    yield "unit", close(unit, relative * np.abs(unit) + tiny)
    off_z = T.product(T.pi, T.pi_structured, unit, relative * np.abs(unit))
    yield "rotated", close(z, off_z)
    stored = reals(out["indices"])
    by_code = code(stored, z, T.boundaries, off_z + T.slack * _reach(T, z), len(T.centroids))
    yield "indices", by_code
    index = reals(answers.get("indices", stored))
    same = bool(np.array_equal(index, stored))
    q = T.centroids[index.astype(int)]
    qq, zq = float(q @ q), float(z @ q) if norm else 1.0
    factor = {"norm": 1.0, "matched": qq**-0.5, "least_squares": zq / qq, "unbiased": 1 / zq}[g["scale"]]
    off_zq = (off_z @ np.abs(q) + relative * (np.abs(z) @ np.abs(q))) / abs(zq) + T.slack
    uses = {"norm": (0.0, 0.0), "matched": (0.0, 1.0), "least_squares": (1.0, 1.0), "unbiased": (1.0, 0.0)}[g["scale"]]
    off_scale = relative + uses[0] * off_zq + uses[1] * (relative + 2 * T.slack) + T.twice(4)
    scale = float(out["scale"]) if same else norm * factor
    yield "scale", near(scale, off_scale * scale + tiny)
    v = T.pi.T @ q
    off_v = T.product(T.pi.T, T.pi_structured, q, T.slack * np.abs(q))
    decoded = reals(out["decoded"]) if same else scale * v
    off = scale * off_v + (off_scale + 2 * u) * scale * np.abs(v) + tiny
    yield "decoded", close(decoded, off)
    if "packed" in out:
        yield (
            "packed",
            record(
                case, [("indices", index, by_code)], [(T.d, g["bits"])], [(scale, off_scale * scale + tiny)], answers
            ),
        )
    estimate = float(out["estimate"]) if same else float(T.query @ v) * scale
    yield (
        "estimate",
        _estimate(T, estimate, scale * v, off, [(T.pi, T.pi_structured, scale * q, T.slack * scale * np.abs(q))]),
    )


def _reach(T: Terms, z: Floats) -> Floats:
    """The largest boundary near each coordinate: what an error of the codebook is relative to."""
    if not T.boundaries.size:
        return np.zeros_like(z)
    return np.asarray(np.abs(T.boundaries[np.argmin(np.abs(z[:, None] - T.boundaries), axis=1)]))


def _estimate(
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


def _sketched(T: Terms, m_mu: float, signs: Floats) -> tuple[Floats, Floats, float]:
    """S^T s / (m mu), how far apart two computations of it may be, and the constant."""
    constant, s = 1 / m_mu, 2 * signs - 1
    w = constant * (T.s.T @ s)
    off = constant * T.product(T.s.T, T.s_structured, s, 0.0, math.sqrt(T.d)) + (T.slack + T.twice(6)) * np.abs(w)
    return w, off, constant


def _qjl(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    out, g = case.test["outputs"], case.group
    norm, unit, p = float(out["norm"]), reals(out["unit"]), reals(out["projection"])
    tiny = 8 * T.smallest if norm else 0.0
    relative = T.twice(T.d + 4)
    yield "norm", near(norm, relative * norm + tiny)
    yield "unit", close(unit, relative * np.abs(unit) + tiny)
    off_p = T.product(T.s, T.s_structured, unit, relative * np.abs(unit), math.sqrt(T.d))
    yield "projection", close(p, off_p)
    stored = reals(out["signs"])
    by_code = signs_of(stored, p, off_p)
    yield "signs", by_code
    signs = reals(answers.get("signs", stored))
    w, off_w, constant = _sketched(T, g["m"] * g["mu"], signs)
    same = bool(np.array_equal(signs, stored))
    off = norm * off_w + relative * norm * np.abs(w) + tiny
    yield "decoded", close(reals(out["decoded"]) if same else norm * w, off)
    if "packed" in out:
        yield (
            "packed",
            record(case, [("signs", signs, by_code)], [(g["m"], 1)], [(norm, relative * norm + tiny)], answers),
        )
    estimate = float(out["estimate"]) if same else float(T.query @ w) * norm
    weights = norm * constant * (2 * signs - 1)
    yield "estimate", _estimate(T, estimate, norm * w, off, [(T.s, T.s_structured, weights, T.slack * np.abs(weights))])


def _prod(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    out, g = case.test["outputs"], case.group
    norm, unit = float(out["norm"]), reals(out["unit"])
    tiny = 8 * T.smallest if norm else 0.0
    relative = T.twice(T.d + 4)
    streams, sizes = [], []
    yield "norm", near(norm, relative * norm + tiny)
    yield "unit", close(unit, relative * np.abs(unit) + tiny)
    q, v, off_v, same = np.zeros(T.d), np.zeros(T.d), np.zeros(T.d), True
    if "indices" in out:
        z = reals(out["rotated"])
        off_z = T.product(T.pi, T.pi_structured, unit, relative * np.abs(unit))
        yield "rotated", close(z, off_z)
        stored = reals(out["indices"])
        by_code = code(stored, z, T.boundaries, off_z + T.slack * _reach(T, z), len(T.centroids))
        yield "indices", by_code
        index = reals(answers.get("indices", stored))
        same = bool(np.array_equal(index, stored))
        q = T.centroids[index.astype(int)]
        v, off_v = T.pi.T @ q, T.product(T.pi.T, T.pi_structured, q, T.slack * np.abs(q))
        streams, sizes = [("indices", index, by_code)], [(T.d, g["bits"] - 1)]
    r = reals(out["residual"]) if same else (unit - v if norm else np.zeros(T.d))
    off_r = (relative * np.abs(unit) + off_v + T.twice(2) * (np.abs(unit) + np.abs(v))) * bool(norm)
    yield "residual", close(r, off_r)
    length = float(np.linalg.norm(r)) if not same and g["residual"] == "stored" else float(out["residual_norm"])
    off_length = float(np.linalg.norm(off_r)) + relative * length
    if g["residual"] == "expected":
        off_length = (T.slack + T.twice(4)) * length
    yield "residual_norm", near(length, off_length)
    p = reals(out["projection"]) if same else T.s @ r
    off_p = T.product(T.s, T.s_structured, r, off_r, math.sqrt(T.d))
    yield "projection", close(p, off_p)
    expected = reals(out["signs"]) if same else (p >= 0).astype(np.float64)
    by_sign = signs_of(expected, p, off_p)
    yield "signs", by_sign
    signs = reals(answers.get("signs", expected))
    same = same and bool(np.array_equal(signs, expected))
    w, off_w, constant = _sketched(T, g["m"] * g["mu"], signs)
    decoded = norm * (v + length * w)
    off = norm * (off_v + length * off_w + off_length * np.abs(w) + T.twice(6) * (np.abs(v) + length * np.abs(w)))
    off = off + relative * np.abs(decoded) + tiny
    yield "decoded", close(reals(out["decoded"]) if same else decoded, off)
    if "packed" in out:
        side = [(norm, relative * norm + tiny)]
        if g["residual"] == "stored" and g["bits"] > 1:
            side.append((length, off_length))
        yield "packed", record(case, [*streams, ("signs", signs, by_sign)], [*sizes, (g["m"], 1)], side, answers)
    estimate = float(out["estimate"]) if same else float(T.query @ decoded)
    weights = norm * length * constant * (2 * signs - 1)
    off_weights = (T.slack + T.twice(8)) * np.abs(weights) + norm * off_length * constant
    parts = [(T.pi, T.pi_structured, norm * q, T.slack * norm * np.abs(q)), (T.s, T.s_structured, weights, off_weights)]
    yield "estimate", _estimate(T, estimate, decoded, off, parts)


_ALGORITHMS = {"Mse": _mse, "Qjl": _qjl, "Prod": _prod}


def _primitives(case: Case, own_codebook: bool) -> Iterator[tuple[str, Rule]]:
    out, g, inputs = case.test["outputs"], case.group, case.test["inputs"]
    kind = g["type"]
    if kind in ("Bits", "Scalars"):
        yield "packed", hexadecimal(out["packed"])
    elif kind == "Words":
        yield "words", hexadecimals(out["words"])
    elif kind in ("Unpack", "Signs"):
        yield from ((stage, exactly(value)) for stage, value in out.items())
    elif kind in ("Angles", "Fwht", "Structured"):
        yield from ((stage, exactly(reals(value), whole=False)) for stage, value in out.items())
    elif kind == "Index":
        t, centroids = reals(inputs["coordinates"]), reals(g["centroids"])
        edges = ((centroids[1:] + centroids[:-1]) / 2).astype(case.dtype).astype(np.float64)
        near = np.abs(edges[np.argmin(np.abs(t[:, None] - edges), axis=1)])
        bound = CODEBOOK * near if own_codebook and case.dtype == "float64" else np.zeros_like(t)
        yield "indices", code(reals(out["indices"]), t, edges, bound, len(centroids))
    elif kind == "Table":
        c = reals(out["centroids"])
        yield "centroids", close(c, CODEBOOK * np.abs(c))
        yield "boundaries", close(reals(out["boundaries"]), CODEBOOK * (np.abs(c[1:]) + np.abs(c[:-1])) / 2)
        yield "distortion", close(reals(out["distortion"]), CODEBOOK * float(out["distortion"]))
    elif kind == "Gaussians":  # a good inverse normal cdf (Wichura's AS241, Cephes') is right to some 1e-15
        z = reals(out["gaussians"])
        yield "gaussians", close(z, 2.0**-46 * np.abs(z))
    else:  # Haar: a QR is that of a matrix gamma_{c d^2} away (Higham, Theorem 19.4), its Q sqrt 2 kappa times that
        d = int(g["d"])
        gaussian = generator.gaussians(int(inputs["seed"], 16), inputs["stream"], d * d).reshape(d, d)
        backward = math.sqrt(d) * gamma(6 * d * d, ROUNDOFF["float64"])
        yield "matrix", close(reals(out["matrix"]), 2 * math.sqrt(2) * float(np.linalg.cond(gaussian)) * backward)


def stages(case: Case, answers: Answers, own_codebook: bool) -> Iterator[tuple[str, Rule]]:
    """Stage and rule, in the order of computation; `answers` are read as far as they have been accepted."""
    if case.level == 0:
        return _primitives(case, own_codebook)
    return _ALGORITHMS[case.group["type"]](case, Terms(case, own_codebook), answers)
