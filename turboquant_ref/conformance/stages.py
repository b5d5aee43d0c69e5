"""What every stage of a golden vector's answer must be: expected value and derived bound, in the order of computation.

The bounds are those of `terms`. Where an index or a sign lies within its bound of a boundary, both answers are right,
and the later stages are then expected of the subject's own choice. A bound that is zero, as for products with 0, leaves
no choice: ties are exact. The sibling algorithms are in `siblings`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .. import generator
from . import siblings
from .golden import Case, reals
from .rules import (
    ROUNDOFF,
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
from .terms import CODEBOOK, Terms, estimated, gamma, reach, scaled, unit_and_rotated

__all__ = ["CODEBOOK", "stages"]

Floats = NDArray[np.float64]


def _mse(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    out = case.test["outputs"]
    yield from unit_and_rotated(case, T)
    z, off_z = reals(out["rotated"]), T.rotation_bound(reals(out["unit"]))
    by_code = code(reals(out["indices"]), z, T.boundaries, off_z + T.slack * reach(T, z), len(T.centroids))
    yield "indices", by_code
    yield from scaled(case, T, answers, T.centroids, by_code, off_z)


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
    yield "estimate", estimated(T, estimate, norm * w, off, [(T.s, T.s_structured, weights, T.slack * np.abs(weights))])


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
        by_code = code(stored, z, T.boundaries, off_z + T.slack * reach(T, z), len(T.centroids))
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
    yield "estimate", estimated(T, estimate, decoded, off, parts)


_ALGORITHMS = {
    "Mse": _mse,
    "Qjl": _qjl,
    "Prod": _prod,
    "Polar": siblings.polar,
    "Rabitq": siblings.rabitq,
    "Attention": siblings.attention,
}


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
        beside = np.abs(edges[np.argmin(np.abs(t[:, None] - edges), axis=1)])
        bound = CODEBOOK * beside if own_codebook and case.dtype == "float64" else np.zeros_like(t)
        yield "indices", code(reals(out["indices"]), t, edges, bound, len(centroids))
    elif kind == "Table":
        c = reals(out["centroids"])
        yield "centroids", close(c, CODEBOOK * np.abs(c))
        yield "boundaries", close(reals(out["boundaries"]), CODEBOOK * (np.abs(c[1:]) + np.abs(c[:-1])) / 2)
        yield "distortion", close(reals(out["distortion"]), CODEBOOK * float(out["distortion"]))
    elif kind == "Rescale":  # running sums of d 2^(b-1) terms in float64, and their mean
        yield "t", near(float(out["t"]), CODEBOOK * float(out["t"]))
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
