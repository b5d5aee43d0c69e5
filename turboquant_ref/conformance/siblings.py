"""What every stage of the sibling algorithms must be: PolarQuant, RaBitQ, and attention from codes.

As in `stages`, with two rules of their own. An angle lies on a circle, where 0 and 2 pi are one point. And RaBitQ's
exact search has near-ties: any indices are right whose cosine is within rounding of the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .golden import Case, reals
from .rules import ROUNDOFF, Answers, Rule, close, code, exactly, indices_of, record
from .terms import Terms, estimated, gamma, scaled, unit_and_rotated

__all__ = ["attention", "polar", "rabitq", "rivals"]

Floats = NDArray[np.float64]
TURN = 2 * math.pi
EQUAL = 2.0**-40
"""Cosines that are relatively closer than this count as equal in RaBitQ's search (SPEC.md, section 5)."""


# ------------------------------------------------------------------------------------------------ PolarQuant


def _angle_bound(a: Floats, b: Floats, off_a: Floats, off_b: Floats, u: float) -> Floats:
    """How far two computations of atan2(b, a) may be apart: none on an axis that is hit exactly.

    The sine of the angle between (a, b) and (a', b') is |a (b' - b) - b (a' - a)| / (r r'), and r' >= r - off.
    """
    r, off = np.hypot(a, b), np.hypot(off_a, off_b)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        sine = (np.abs(a) * off_b + np.abs(b) * off_a) / (r * (r - off))
    turned = np.where((off < r) & (sine < 1), np.arcsin(np.clip(sine, 0, 1)), math.pi)
    rounded = 2 * gamma(4, u) * TURN * ((a != 0) & (b != 0))
    return np.where((r == 0) & (off == 0), 0.0, turned * (off > 0) + rounded)


def _tree(z: Floats, off: Floats, levels: int, u: float) -> tuple[list[Floats], Floats, Floats]:
    """The bound of each level's angles; the radii and their bound."""
    bounds = []
    for _ in range(levels):
        a, b, off_a, off_b = z[0::2], z[1::2], off[0::2], off[1::2]
        bounds.append(_angle_bound(a, b, off_a, off_b, u))
        z = np.hypot(a, b)
        off = np.hypot(off_a, off_b) + 2 * gamma(4, u) * z
    return bounds, z, off


def _around(off: Floats, expected: Floats, circle: NDArray[np.bool_], dtype: str) -> Rule:
    """Angles: on the circle of level 1 the short way round counts."""

    def rule(value: Any) -> str | None:
        a = np.asarray(value)
        if a.shape == expected.shape and a.dtype.kind in "iuf":
            turns = np.rint((np.where(np.isfinite(a), a, 0) - expected) / TURN)
            value = np.where(circle & (np.abs(a - expected) > off), a - turns * TURN, a)
            beyond = np.flatnonzero(circle & ((a < 0) | (a > float(np.dtype(dtype).type(TURN)))))
            if beyond.size:
                return f"[{beyond[0]}] is {float(a[beyond[0]])!r}, expected an angle from 0 to 2 pi"
        return close(expected, off)(value)

    return rule


def _cells(expected: Floats, angles: Floats, off: Floats, edges: list[Floats]) -> Rule:
    """Indices of angles: right if the angle is within its bound of their cell; 0 and 2 pi are one point."""
    limits = np.array([len(e) - 1 for e in edges])

    def rule(value: Any) -> str | None:
        a = indices_of(value, expected.shape)
        for at in np.flatnonzero(a != expected):
            if not 0 <= a[at] < limits[at]:
                return f"[{at}] is {a[at]:.0f}, allowed are 0 to {limits[at] - 1}"
            low, high = edges[at][int(a[at])], edges[at][int(a[at]) + 1]
            away = min(max(low - t, t - high, 0.0) for t in (angles[at], angles[at] + TURN, angles[at] - TURN))
            if off[at] == 0 or away > off[at]:
                many = f"({np.count_nonzero(a != expected)} of {a.size} differ)"
                cell = f"{angles[at]!r} is {away:.3g} from its cell"
                return f"[{at}] is {a[at]:.0f}, expected {expected[at]:.0f}: {cell} {many}"
        return None

    return rule


def _cartesian(radii: Floats, angles: list[Floats], slack: float, u: float) -> tuple[Floats, Floats]:
    """The inverse transform, and how far two computations of it may be apart, the radii being equal."""
    r, off = radii, np.zeros_like(radii)
    for theta in reversed(angles):
        off_trig = 2 * gamma(4, u) + slack * theta
        parts = [(r * t, off * np.abs(t) + (r + off) * off_trig) for t in (np.cos(theta), np.sin(theta))]
        r, off = (np.stack([part[i] for part in parts], axis=-1).reshape(-1) for i in (0, 1))
    return r, off


def polar(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    """PolarQuant, from norm to estimate."""
    out, g = case.test["outputs"], case.group
    yield from unit_and_rotated(case, T)
    norm, z, psi = float(out["norm"]), reals(out["rotated"]), reals(out["angles"])
    tiny = 8 * T.smallest if norm else 0.0
    counts = [T.d >> level for level in range(1, len(g["bits"]) + 1)]
    cuts = np.cumsum(counts)[:-1]
    off_psi, r, off_r = _tree(z, T.rotation_bound(reals(out["unit"])), len(counts), T.u)
    off = np.concatenate(off_psi)
    rounded = 2 * gamma(4, T.u) * TURN * (psi != 0)  # on an axis too: a multiple of pi/2 is a rounded number
    yield "angles", _around(off + rounded, psi, np.arange(len(psi)) < counts[0], case.dtype)
    radii = reals(out["radii"])
    off_radii = norm * (off_r + (T.relative + T.twice(2)) * r) + tiny * (r + off_r > 0)
    yield "radii", close(radii, off_radii)
    books = [reals(book["centroids"]).astype(case.dtype).astype(np.float64) for book in g["codebooks"]]
    edges = [reals(book["boundaries"]).astype(case.dtype).astype(np.float64) for book in g["codebooks"]]
    ends = [np.concatenate([[0.0], e, [TURN if i == 0 else math.pi / 2]]) for i, e in enumerate(edges)]
    stored = reals(out["indices"])
    all_ends = [e for e, n in zip(ends, counts, strict=True) for _ in range(n)]
    by_code = _cells(stored, psi, off + T.slack * TURN * (off > 0), all_ends)
    yield "indices", by_code
    index = reals(answers.get("indices", stored))
    same = bool(np.array_equal(index, stored))
    theta = [book[part.astype(int)] for book, part in zip(books, np.split(index, cuts), strict=True)]
    y, off_y = _cartesian(float(g["gain"]) * radii, theta, T.slack, T.u)
    off_y = off_y + np.repeat(float(g["gain"]) * off_radii, T.d // len(radii))
    off_y = (off_y + (T.slack + T.twice(4)) * np.abs(y)) * bool(norm)
    v = T.pi.T @ y
    off_v = T.product(T.pi.T, T.pi_structured, y, off_y) + tiny
    yield "decoded", close(reals(out["decoded"]) if same else v, off_v)
    if "packed" in out:
        parts = zip(*(np.split(of_all, cuts) for of_all in (index, stored, psi, off)), strict=True)
        streams = [("indices", i, _cells(s, p, o, [ends[k]] * len(i))) for k, (i, s, p, o) in enumerate(parts)]
        side = [(float(a), float(b)) for a, b in zip(radii, off_radii, strict=True)]
        yield "packed", record(case, streams, list(zip(counts, g["bits"], strict=True)), side, answers)
    estimate = float(out["estimate"]) if same else float(T.query @ v)
    yield "estimate", estimated(T, estimate, v, off_v, [(T.pi, T.pi_structured, y, off_y)])


# ---------------------------------------------------------------------------------------------------- RaBitQ


def _grid(bits: int) -> Floats:
    return np.asarray(np.arange(2**bits) - (2**bits - 1) / 2)


def _breaks(z: Floats, bits: int) -> Floats:
    """The t at which a coordinate of the grid point nearest to t z changes, ascending."""
    with np.errstate(divide="ignore"):
        found = np.ravel(np.arange(1, 2 ** (bits - 1)) / np.abs(z)[:, None])
    return np.asarray(np.sort(found[np.isfinite(found)]))


def rivals(case: Case, out: Mapping[str, Any]) -> Floats:
    """The grid points, as indices, between the breakpoints of the exact search whose cosines come near the best."""
    z, bits = reals(out["rotated"]), int(case.group["bits"])
    if "t" in case.group or not np.any(z):
        return np.zeros((0, len(z)))
    breaks = np.concatenate([[0.0], _breaks(z, bits)])
    t = np.append((breaks[1:] + breaks[:-1]) / 2, 2 * breaks[-1] + 1)
    half = 2 ** (bits - 1)
    index = np.clip(np.floor(t[:, None] * z) + half, 0, 2 * half - 1)
    g = _grid(bits)[index.astype(int)]
    cosines = g @ z / np.linalg.norm(g, axis=-1)
    return np.asarray(index[cosines > cosines.max() * 0.999])


def _nearly_best(expected: Floats, z: Floats, off: Floats, bits: int, norm: float) -> Rule:
    """Indices of the exact search: the sign of each coordinate, and a cosine within rounding of the best.

    If g is the best for a z' that is `off` away, its cosine with z falls short of that of the best, g*, by at most
    sum |g*/||g*|| - g/||g|||_i off_i / ||z||; the search itself sums at most d 2^(b-1) terms in float64.
    """
    levels, half = _grid(bits), 2 ** (bits - 1)
    length = float(np.linalg.norm(z)) or 1.0

    def rule(value: Any) -> str | None:
        a = indices_of(value, expected.shape)
        out = np.flatnonzero((a < 0) | (a >= 2 * half))
        if out.size:
            return f"[{out[0]}] is {a[out[0]]:.0f}, allowed are 0 to {2 * half - 1}"
        if not norm:
            return exactly(expected)(a)
        crossed = np.flatnonzero(((a >= half) != (z >= 0)) & ((np.abs(z) > off) | (off == 0)))
        if crossed.size:
            at = crossed[0]
            return f"[{at}] is {a[at]:.0f}, expected {expected[at]:.0f}: {float(z[at])!r} has the other sign"
        g, best = levels[a.astype(int)], levels[expected.astype(int)]
        g, best = g / np.linalg.norm(g), best / np.linalg.norm(best)
        cosine, largest = float(g @ z) / length, float(best @ z) / length
        search = EQUAL + 2 * gamma(len(z) * half + 4, ROUNDOFF["float64"])
        allowed = float(np.abs(g - best) @ off) / length + search * largest
        if largest - cosine > allowed:
            at = int(np.flatnonzero(a != expected)[0])
            differ = f"{np.count_nonzero(a != expected)} of {a.size} differ"
            short = f"the cosine is {cosine:.12g}, the best {largest:.12g}, {allowed:.3g} less is allowed"
            return f"[{at}] is {a[at]:.0f}, expected {expected[at]:.0f}: {short} ({differ})"
        return None

    return rule


def rabitq(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    """RaBitQ, from norm to estimate."""
    out, g = case.test["outputs"], case.group
    yield from unit_and_rotated(case, T)
    norm, z, stored, bits = float(out["norm"]), reals(out["rotated"]), reals(out["indices"]), int(g["bits"])
    off_z = T.rotation_bound(reals(out["unit"]))
    if "t" in g:
        edges = np.arange(1 - 2 ** (bits - 1), 2 ** (bits - 1)) / float(g["t"])
        by_code = code(stored, z, edges, off_z + T.twice(4) * np.abs(z), 2**bits)
    else:
        by_code = _nearly_best(stored, z, off_z, bits, norm)
    yield "indices", by_code
    yield from scaled(case, T.without_slack(), answers, _grid(bits), by_code, off_z)


# ------------------------------------------------------------------------------------------------- attention


def _decoded(T: Terms, part: Mapping[str, Any], head: int) -> tuple[Floats, Floats, Floats]:
    """Of the codes of a head: q times its scale in the rotated basis, the decoded vectors, and their bound."""
    scales = reals(part["scales"])[head]
    rotated = scales[:, None] * T.centroids[reals(part["indices"])[head].astype(int)]
    off = [T.product(T.pi.T, T.pi_structured, q, (T.slack + 4 * T.u) * np.abs(q)) for q in rotated]
    return rotated, rotated @ T.pi, np.asarray(off)


def attention(case: Case, T: Terms, answers: Answers) -> Iterator[tuple[str, Rule]]:
    """Attention from codes of Algorithm 1: scores, logits, visible, weights, output."""
    out, g, inputs = case.test["outputs"], case.group, case.test["inputs"]
    slack = T.slack > 0
    K, V = Terms(case, slack, g["keys"]), Terms(case, slack, g["values"])
    q, group = reals(inputs["q"]), int(g["heads"]) // int(g["kvHeads"])
    scores, logits, weights, output = (reals(out[k]) for k in ("scores", "logits", "weights", "output"))
    off_scores, off_output = np.zeros_like(scores), np.zeros_like(output)
    for h, rows in enumerate(q):
        rotated, decoded, off = _decoded(K, g["keys"], h // group)
        for i, y in enumerate(rows):
            K.query = y
            turned = np.abs(K.pi @ y)
            off_turned = K.product(K.pi, K.pi_structured, y, K.relative * np.abs(y))
            both = np.abs(y) @ off.T + K.twice(K.d + 8) * (np.abs(decoded) @ np.abs(y) + np.abs(rotated) @ turned)
            off_scores[h, i] = both + np.abs(rotated) @ off_turned + K.slack * np.abs(rotated) @ turned + 8 * K.smallest
    yield "scores", close(scores, off_scores)
    scale, bias = abs(float(inputs["scale"])), reals(inputs.get("bias", np.zeros(scores.shape[-2:])))
    size = scale * np.abs(scores) + np.abs(bias)
    off_logits = scale * off_scores + T.twice(12) * size
    yield "logits", close(logits, off_logits)
    visible = reals(out["visible"])
    yield "visible", exactly(visible)
    # exp(l - top) / sum: twice the error of a logit, of which l - top adds a rounding, and that of exp and the sum
    seen = np.where(visible > 0, off_logits + T.twice(2) * np.abs(logits), 0.0).max(-1, keepdims=True)
    least = 2.0**-126 if T.u > ROUNDOFF["float64"] else 2.0**-1022
    off_weights = (np.expm1(2 * seen) + T.twice(scores.shape[-1] + 16)) * weights + least * (visible > 0)
    yield "weights", close(weights, off_weights)
    for h in range(len(q)):
        rotated, decoded, off = _decoded(V, g["values"], h // group)
        for i, (w, off_w) in enumerate(zip(weights[h], off_weights[h], strict=True)):
            total = np.abs(rotated).T @ w
            spread = np.abs(rotated).T @ off_w + (V.slack + V.twice(len(w) + 8)) * total
            off_output[h, i] = off.T @ w + V.product(V.pi.T, V.pi_structured, total, spread) + 8 * V.smallest * w.any()
    yield "output", close(output, off_output)
