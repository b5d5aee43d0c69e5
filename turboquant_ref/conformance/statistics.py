"""Level 2, black box: what `roundtrip` and `inner_product` do on average over seeds, against the claim's exact numbers.

Every figure is a mean over independent draws of (Π, S), one seed a draw; its interval is Student's at the number
of draws used.  The false alarms of all intervals of a run together have a rate of at most `FALSE_ALARM`, split
equally (Bonferroni); a tenth of each share is spent, for replicates that are mean squares are skewed, and
Student's tail is then up to ten times too thin at 6 standard errors (exp(2γz³/(6√n)) with the skewness γ =
√(8/128) of a mean of 128 squares and n = 64 draws).

**Random inputs** are fresh in every draw, uniform on the sphere.  The claim is then exact for every orthogonal Π,
structured ones too, and both sides of the interval count.

**One-hot, two-hot, 4-sparse and constant inputs.**  For Haar's Π each has the same exact value.  A structured Π
need not reach that, but the paper's theorems are about every x: the figure may not exceed the bound of Theorem 1
(2 for inner products), for other scales in proportion to the exact value.  Within it but off Haar's value passes,
and is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import theory, variants
from ..measure import Estimate
from .finding import Finding
from .stimuli import SPECIAL, queries, special, unit
from .subject import CallFailed, Subject

__all__ = ["FALSE_ALARM", "Claim", "Figure", "Plan", "check", "claims_of", "columns", "finite_of", "judge", "rows_of"]

Floats = NDArray[np.float64]

FALSE_ALARM = 1e-6
SKEWNESS = 10.0
DEFAULT_CLAIMS = {
    **{"roundtrip": ("mse",), "inner_product": ("prod", "prod-orthogonal")},
    **{"search": ("mse",), "attend": ("mse",)},  # `uses`
}
POWER = 0.99


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes
    ----------
    grid : tuple of (d, bits)
        The first d is the main one: there only NotImplementedError is a refusal.
    draws : int
        Seeds a figure; fewer, but at least `least`, if calls are so slow that they would take more than `budget`
        seconds.
    rows : int
        Random rows a call; at d < 64 four times as many.
    """

    grid: tuple[tuple[int, int], ...] = (
        *((128, b) for b in (1, 2, 3, 4)),
        *((64, b) for b in (1, 2, 3, 4)),
        *((127, 3), (16, 1), (16, 4)),
    )
    draws: int = 64
    rows: int = 128
    least: int = 24
    budget: float = 90.0
    seed: int = 0

    @property
    def main(self) -> int:
        """The dimension that everything else is checked at."""
        return self.grid[0][0]

    @property
    def confidence(self) -> float:
        """Of one interval: the false-alarm rate split over all, the share of skewness set aside."""
        figures = sum(len(_figures(function)) for function in _DRAW)
        others = 8 + 5  # the Haar tests of `exposed`, and the figures of `uses`
        return 1 - FALSE_ALARM / SKEWNESS / (figures * len(self.grid) + others)


@dataclass(frozen=True)
class Claim:
    """What a function is said to be: a variant by its name."""

    name: str

    @property
    def variant(self) -> variants.Variant:
        """The variant."""
        return variants.find(self.name)

    @property
    def algorithm(self) -> str:
        """The module that runs it."""
        return self.variant.algorithm

    def moments(self, d: int, bits: int) -> theory.Moments | None:
        """Its exact slope and variances; None where there is no such quantizer, or none are known."""
        return _moments(self.name, d, bits)

    def value(self, figure: str, d: int, bits: int) -> float:
        """The expectation of one of `_figures`; NaN if it is not known."""
        moments = self.moments(d, bits)
        if moments is not None:
            return of_moments(moments, figure)
        unbiased = figure == "slope" and self.algorithm == "rabitq" and "least_squares" not in self.name
        return 1.0 if unbiased else math.nan  # of RaBitQ's grid nothing else is known

    def slack(self, figure: str, d: int, bits: int) -> float:
        """How much more than Haar's exact value the paper's theorem allows for any x."""
        if figure == "distortion":
            return theory.theorem1_bound(bits) / theory.mse(d, bits)
        return theory.theorem2_bound(d, bits) / theory.moments("prod", d, bits).variance(1 / math.sqrt(3))


@lru_cache(maxsize=1024)
def _moments(name: str, d: int, bits: int) -> theory.Moments | None:
    try:
        found = variants.find(name).exact(d, bits)
    except ValueError:
        return None
    if found.slope is None or found.along is None or found.across is None:
        return None
    return theory.Moments(d, found.slope, found.along, found.across)


def of_moments(moments: theory.Moments, figure: str) -> float:
    """The expectation of a figure: "error" is d E (estimate - <x, y>)² for a cosine uniform on [-1, 1]."""
    if figure == "error":
        assert moments.d is not None
        return moments.d * moments.inner_product_error(1 / math.sqrt(3))
    names = {"distortion": "distortion", "slope": "slope", "variance": "across", "variance along x": "along"}
    return float(getattr(moments, names[figure]))


def _figures(function: str) -> tuple[tuple[str, str], ...]:
    """(figure, inputs) that are measured of a function."""
    both = (("slope", "random"), ("variance", "random"), ("variance along x", "random"))
    if function == "roundtrip":
        return (("distortion", "random"), *both, *(("distortion", inputs) for inputs in SPECIAL))
    if function == "attend":
        return both[:1]
    if function == "search":
        return both
    return (*both, *(("error", inputs) for inputs in SPECIAL))


@dataclass(frozen=True)
class Figure(Finding):
    """A figure beside its claim.

    Attributes
    ----------
    function, figure, inputs : str
    d, bits : int
    claimed : float
        The exact value.
    estimate : Estimate or None
        None if it could not be measured.
    limit : float
        The largest value that is allowed: `claimed`, or a theorem's bound.
    claim : Claim or None
        What it was compared with.
    allowed : tuple of Claim
        What it was chosen from.
    table : tuple of float
        The centroids, if it is about some.
    """

    function: str = ""
    figure: str = ""
    inputs: str = ""
    d: int = 0
    bits: int = 0
    claimed: float = math.nan
    estimate: Estimate | None = None
    limit: float = math.nan
    claim: Claim | None = None
    allowed: tuple[Claim, ...] = ()
    table: tuple[float, ...] = ()


def claims_of(subject: Subject) -> dict[str, tuple[Claim, ...]]:
    """For each offered function the variants that will do.

    Raises
    ------
    ValueError
        If `claims` is no name of `variants`, nor a mapping of functions to such names.
    """
    given = subject.claims
    if given is not None and not isinstance(given, str | Mapping):
        raise ValueError(
            f"claims must be a name of turboquant_ref.variants or a mapping of functions to names, got {given!r}"
        )
    chosen = {}
    for function, default in DEFAULT_CLAIMS.items():
        if not subject.offers(function):
            continue
        name = given if isinstance(given, str) else (given or {}).get(function)
        found = variants.named([str(name)] if name is not None else list(default))
        chosen[function] = tuple(Claim(v.name) for v in found)
    return chosen


def rows_of(answer: Any, shape: tuple[int, ...]) -> Floats:
    """The answer as float64, or CallFailed if it is not real numbers of this shape."""
    if not isinstance(answer, np.ndarray) or answer.shape != shape:
        found = f"shape {answer.shape}" if isinstance(answer, np.ndarray) else type(answer).__name__
        raise CallFailed("answer", f"returned {found}, expected {shape}")
    if answer.dtype.kind not in "iuf":
        raise CallFailed("answer", f"returned dtype {answer.dtype}, expected floating-point numbers")
    return answer.astype(np.float64)


def finite_of(answer: Any, shape: tuple[int, ...]) -> Floats:
    """`rows_of`, or CallFailed if one of them is not finite."""
    rows = rows_of(answer, shape)
    if not np.isfinite(rows).all():
        wrong = int((~np.isfinite(rows)).sum())
        raise CallFailed("answer", f"returned {wrong} NaN or infinite numbers for vectors of norm 1")
    return rows


# ------------------------------------------------------------------------------------------------------- measuring


def _roundtrip(subject: Subject, d: int, bits: int, rows: int, seed: int, rng: np.random.Generator) -> list[float]:
    """The figures of one draw, in the order of `_figures`; then the mean of <x, x̂>, for `columns`."""
    x = unit(rows, d, rng)
    groups = [special(inputs, 24, d, rng) for inputs in SPECIAL]
    rho = rng.uniform(-1, 1, rows)
    y = queries(x, rho, rng)
    decoded = finite_of(subject.call("roundtrip", np.concatenate([x, *groups]), bits, seed).value, (rows + 96, d))
    own = decoded[:rows]
    errors = np.split(((decoded[rows:] - np.concatenate(groups)) ** 2).sum(1), 4)
    return [
        float(((own - x) ** 2).sum(1).mean()),
        float(((own * y).sum(1) * rho).sum() / (rho**2).sum()),
        float(d / (d - 1) * ((own**2).sum(1) - (own * x).sum(1) ** 2).mean()),  # the mean over all y across x
        float(((own * x).sum(1) ** 2).mean()),
        *(float(e.mean()) for e in errors),
        float((own * x).sum(1).mean()),
    ]


def _inner_product(subject: Subject, d: int, bits: int, rows: int, seed: int, rng: np.random.Generator) -> list[float]:
    n = rows // 2
    x = unit(6 * n, d, rng)
    rho = np.concatenate([rng.uniform(-1, 1, n), np.zeros(4 * n), np.ones(n)])
    groups = np.concatenate([special(inputs, 32, d, rng) for inputs in SPECIAL])
    special_rho = rng.uniform(-1, 1, 128)
    y = queries(np.concatenate([x, groups]), np.concatenate([rho, special_rho]), rng)
    found = subject.call("inner_product", np.concatenate([x, groups]), y, bits, seed).value
    estimates = finite_of(found, (6 * n + 128,))
    own = estimates[: 6 * n]
    errors = np.split((estimates[6 * n :] - special_rho) ** 2, 4)
    return [
        float((own * rho).sum() / (rho**2).sum()),
        float(d * (own[n : 5 * n] ** 2).mean()),
        float((own[5 * n :] ** 2).mean()),
        *(float(d * e.mean()) for e in errors),
        float(own[5 * n :].mean()),
    ]


def columns(values: Floats, function: str, d: int) -> list[Floats]:
    """The replicates of each figure; the variance along x is about the mean over all draws, kept in the last column."""
    *columns, own = values.T
    along = [figure for figure, _ in _figures(function)].index("variance along x")
    mean = own.mean()
    columns[along] = d * (columns[along] - 2 * mean * own + mean * mean)
    return columns


_DRAW: dict[str, Callable[..., list[float]]] = {"roundtrip": _roundtrip, "inner_product": _inner_product}


def check(
    subject: Subject, plan: Plan, progress: Callable[[int, int], object] = lambda done, total: None
) -> Iterator[Figure]:
    """Measure every figure of every offered function over the grid; a `Figure` each.

    Raises
    ------
    ValueError
        If the subject's `claims` is not understood.
    """
    claims = {function: claimed for function, claimed in claims_of(subject).items() if function in _DRAW}
    total, done, draws = plan.draws * len(plan.grid) * len(claims), 0, plan.draws
    for function, claimed in claims.items():
        measured: dict[tuple[int, int], list[Estimate]] = {}
        for number, (d, bits) in enumerate(plan.grid):
            rows = plan.rows if d >= 64 else 4 * plan.rows
            rng = np.random.default_rng([plan.seed, d, bits, len(function)])
            seeds = rng.permutation(2**20)[: plan.draws].tolist()
            values: list[list[float]] = []
            failure: CallFailed | None = None
            seconds = 0.0
            while failure is None and len(values) < draws:
                try:
                    values.append(_DRAW[function](subject, d, bits, rows, seeds[len(values)], rng))
                except CallFailed as error:
                    failure = error
                else:
                    if number == 0 and len(values) in (
                        1,
                        4,
                    ):  # the first call may load things: the next three are timed
                        seconds, last = time.perf_counter() - seconds, seconds
                        if last:
                            affordable = plan.budget / (seconds / 3 * len(plan.grid) * len(claims))
                            draws = int(min(plan.draws, max(plan.least, affordable)))
                            total = done + total * draws // plan.draws
                progress(done + len(values), total)
            done += draws
            if failure is not None:
                refused = failure.kind == "not offered" or (failure.refused and d != plan.main)
                yield Figure(
                    2,
                    f"{function} d={d} b={bits}",
                    None if refused else False,
                    str(failure),
                    (),
                    "",
                    function,
                    d=d,
                    bits=bits,
                )
                if failure.kind in ("time limit", "died") and not refused:
                    break  # it is not called again
                continue
            measured[d, bits] = [Estimate(c, plan.confidence) for c in columns(np.array(values), function, d)]
        yield from judge(function, claimed, measured)


def judge(
    function: str, claims: tuple[Claim, ...], measured: dict[tuple[int, int], list[Estimate]]
) -> Iterator[Figure]:
    """What was measured at each (d, bits), against the one of the claims that fits best."""
    claim = _chosen(function, claims, measured)
    for (d, bits), estimates in measured.items():
        yield from _judge(function, claims, claim, d, bits, estimates)


def _chosen(function: str, claims: tuple[Claim, ...], measured: dict[tuple[int, int], list[Estimate]]) -> Claim:
    """The claim that all figures together fit best: picking one of several can't raise an alarm."""

    def misfit(claim: Claim) -> float:
        return float(
            np.nansum(
                [
                    ((estimate.value - claim.value(figure, d, bits)) / max(estimate.std_error, 1e-300)) ** 2
                    for (d, bits), estimates in measured.items()
                    for estimate, (figure, inputs) in zip(estimates, _figures(function), strict=True)
                    if inputs == "random"
                ]
            )
        )

    return min(claims, key=misfit) if len(claims) > 1 else claims[0]


def _judge(
    function: str, claims: tuple[Claim, ...], claim: Claim, d: int, bits: int, estimates: list[Estimate]
) -> Iterator[Figure]:
    """The figures of one (function, d, bits) against the claim."""
    names = _figures(function)
    for estimate, (figure, inputs) in zip(estimates, names, strict=True):
        exact = claim.value(figure, d, bits)
        name = f"{function} d={d} b={bits}: {figure}" + ("" if inputs == "random" else f", {inputs}")
        if math.isnan(exact):
            yield Figure(2, name, None, f"{estimate.value:.6g}; no exact value is known for {claim.name}")
            continue
        # rounding of a float32 port, two sums of d terms: what no interval over draws can be narrower than, and the
        # d·Var of an estimate that is exact but for it
        rounding = d * (2 * d * 2.0**-24) ** 2
        agrees = abs(estimate.value - exact) <= max(estimate.half_width, 1e-6 * abs(exact), rounding)
        limit = exact
        said = f"claimed {exact:.6g} ({claim.name})"
        if inputs in SPECIAL:
            limit = exact * claim.slack(figure, d, bits)
            said += "" if agrees else f", at most {limit:.4g} by Theorem {1 if figure == 'distortion' else 2}"
            passed = agrees or estimate.interval[0] <= limit
            if passed and not agrees:
                said += "; not Haar's value, but within the theorem"
        else:
            passed = agrees
        detail = f"{estimate.value:.6g} ± {estimate.half_width:.2g}, {said}; detects {estimate.detectable(POWER):.2g}"
        yield Figure(
            2,
            name,
            bool(passed),
            detail,
            (),
            "",
            function,
            figure,
            inputs,
            d,
            bits,
            exact,
            estimate,
            limit,
            claim,
            claims,
        )
