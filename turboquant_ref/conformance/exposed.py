"""Level 2, what a subject shows of its inside, against theory: `rotation`, `codebook` and `stored_bytes`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .. import codebook as codebooks
from .. import sphere, theory
from ..measure import Estimate
from .finding import Finding
from .statistics import POWER, Claim, Figure, Plan, claims_of, rows_of
from .stimuli import special
from .subject import CallFailed, Subject

__all__ = ["TABLE", "check", "compare_codebooks"]

Floats = NDArray[np.float64]

TABLE = 5e-4
"""How far a centroid may be off, in units of 1/√d: tables in the wild are printed to 3 to 5 decimals."""

LIMIT_FROM = 64
"""The d from which the table of the Gaussian limit passes, and is said: section 3.1 of the paper prints that one."""

SIDE_BYTES = {"prod": 8}
"""Bytes a vector may take beyond the claim's: float64 for float32 in each of its side scalars; others have one."""


def check(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """The findings of whichever of the three functions are offered."""
    for function, checks in (("rotation", _rotation), ("codebook", _codebook), ("stored_bytes", _stored_bytes)):
        if subject.offers(function):
            try:
                yield from checks(subject, plan)
            except CallFailed as error:
                yield Finding(2, function, None if error.kind == "not offered" else False, str(error))


def _rotation(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """Orthogonal, another for another seed, signs and trace without a preference, sparse vectors spread out."""
    d, rng = plan.main, np.random.default_rng([plan.seed, 7])
    seeds = rng.permutation(2**20)[: plan.draws].tolist()
    drawn = np.array([rows_of(subject.call("rotation", d, seed).value, (d, d)) for seed in seeds])
    off = float(np.abs(drawn @ drawn.transpose(0, 2, 1) - np.eye(d)).max()) if np.isfinite(drawn).all() else math.inf
    allowed = 8 * d * float(np.finfo(np.float32).eps)  # `rotation.Dense`
    yield Finding(2, f"rotation d={d}: orthogonal", off <= allowed, f"|Π Πᵀ - I| <= {off:.2g}, allowed {allowed:.2g}")
    again = rows_of(subject.call("rotation", d, seeds[0]).value, (d, d))
    same = bool(np.array_equal(again, drawn[0]))
    yield Finding(
        2, f"rotation d={d}: a function of the seed", same, "called again, " + ("the same" if same else "another")
    )
    distinct = len({q.tobytes() for q in drawn})
    yield Finding(
        2, f"rotation d={d}: seeds differ", distinct == len(seeds), f"{distinct} matrices of {len(seeds)} seeds"
    )

    negative, alpha = int((drawn[:, 0, 0] < 0).sum()), 1 - plan.confidence
    p = float(stats.binomtest(negative, len(seeds)).pvalue)
    detail = f"P(Π_00 < 0): {negative} of {len(seeds)}, claimed 1/2; p = {p:.2g}, allowed {alpha:.2g}"
    yield Finding(2, f"rotation d={d}: sign", p >= alpha, detail)
    trace = Estimate(np.trace(drawn, axis1=1, axis2=2), plan.confidence)
    yield _figure("trace", "", d, 0, trace, 0.0, 0.0)
    for bits in (2, 3):
        book = codebooks.lloyd_max(d, bits)
        for inputs in ("one-hot", "constant"):
            x = special(inputs, 24, d, rng)
            z = x @ drawn.transpose(0, 2, 1)
            error = z - book.centroids[codebooks.nearest(book, z)]
            estimate = Estimate((error**2).sum(2).mean(1), plan.confidence)
            yield _figure("distortion", inputs, d, bits, estimate, book.distortion, theory.theorem1_bound(bits))


def _figure(figure: str, inputs: str, d: int, bits: int, estimate: Estimate, exact: float, limit: float) -> Figure:
    agrees = estimate.contains(exact)
    passed = agrees or (inputs != "" and estimate.interval[0] <= limit)
    said = "" if agrees or not inputs else f", at most {limit:.4g} by Theorem 1"
    said += "; not Haar's value, but within the theorem" if passed and not agrees else ""
    detail = f"{estimate.value:.6g} ± {estimate.half_width:.2g}, claimed {exact:.6g}{said}; "
    detail += f"detects {estimate.detectable(POWER):.2g}"
    name = f"rotation d={d}" + (f" b={bits}" if bits else "") + f": {figure}" + (f", {inputs}" if inputs else "")
    return Figure(2, name, bool(passed), detail, (), "", "rotation", figure, inputs, d, bits, exact, estimate, limit)


def compare_codebooks(d: int, given: Floats, exact: codebooks.Codebook) -> dict[str, float]:
    """What a table of centroids costs: its error, excess distortion, share of indices that differ, and asymmetry.

    Returns
    -------
    dict
        error: largest distance of a centroid from the exact one, in units of 1/√d; excess: distortion over the
        optimum, less 1; mismatch: probability that a coordinate gets another index; asymmetry: largest |c_i +
        c_{n-1-i}|, in units of 1/√d.
    """
    law = sphere.Coordinate(d)
    book = codebooks.of_centroids(law, given)
    pairs = np.sort(np.clip([book.boundaries, exact.boundaries], *law.support), axis=0)
    return {
        "error": float(np.abs(given - exact.centroids).max() * math.sqrt(d)),
        "excess": book.distortion / exact.distortion - 1,
        "mismatch": float(min(np.sum(law.probability(pairs[0], pairs[1])), 1.0)),
        "asymmetry": float(np.abs(given + given[::-1]).max() * math.sqrt(d)),
    }


def _codebook(subject: Subject, plan: Plan) -> Iterator[Finding]:
    for d, bits in plan.grid:
        name = f"codebook d={d} b={bits}"
        try:
            given = rows_of(subject.call("codebook", d, bits).value, (2**bits,))
        except CallFailed as error:
            refused = error.kind == "not offered" or (error.refused and d != plan.main)
            yield Finding(2, name, None if refused else False, str(error))
            continue
        if not (np.isfinite(given).all() and np.all(np.diff(given) > 0)):
            yield Finding(2, name, False, f"centroids must be finite and ascending, got {given[:4]} …")
            continue
        exact = codebooks.lloyd_max(d, bits)
        found = compare_codebooks(d, given, exact)
        detail = (
            f"centroids off by {found['error']:.2g}/√d, allowed {TABLE:g}/√d; excess distortion {found['excess']:.2%}, "
            f"{found['mismatch']:.2%} of indices differ, asymmetry {found['asymmetry']:.2g}/√d"
        )
        value = Estimate(np.array([codebooks.of_centroids(sphere.Coordinate(d), given).distortion]))
        limit = codebooks.lloyd_max(None, bits).centroids / math.sqrt(d)
        of_limit = d >= LIMIT_FROM and float(np.abs(given - limit).max()) * math.sqrt(d) <= TABLE
        passed = found["error"] <= TABLE or of_limit
        detail += "; the table of the Gaussian limit" if of_limit else ""
        yield Figure(
            *(2, name, passed, detail, (), "", "codebook", "table", "", d, bits, exact.distortion, value),
            table=tuple(given.tolist()),
        )


def _stored_bytes(subject: Subject, plan: Plan) -> Iterator[Finding]:
    """At least the entropy of the codes, at most what the claim takes and `SIDE_BYTES`."""
    claim = claims_of(subject).get("roundtrip", (Claim("mse"),))[0]
    for d, bits in plan.grid:
        name = f"stored_bytes d={d} b={bits}"
        try:
            value = np.asarray(subject.call("stored_bytes", d, bits).value)
        except CallFailed as error:
            refused = error.kind == "not offered" or (error.refused and d != plan.main)
            yield Finding(2, name, None if refused else False, str(error))
            continue
        if value.shape != () or value != np.floor(value):
            yield Finding(2, name, False, f"expected a whole number of bytes, got {value}")
            continue
        if (why := claim.variant.refuses(d, bits)) is not None:
            yield Finding(2, name, None, why)
            continue
        expected = claim.variant.bytes(d, bits)
        low, high = math.floor(expected) - 8, math.ceil(expected) + SIDE_BYTES.get(claim.algorithm, 4)
        if claim.algorithm == "mse":
            low = math.floor(d * codebooks.lloyd_max(d, bits).entropy / 8)
        detail = f"{int(value)} bytes a vector, expected {low} to {high} ({claim.name} takes {expected:.6g})"
        yield Figure(
            2,
            name,
            bool(low <= value <= high),
            detail,
            (),
            "",
            "stored_bytes",
            "bytes",
            "",
            d,
            bits,
            high,
            _one(float(value)),
        )


def _one(value: float) -> Estimate:
    return Estimate(np.array([value]))
