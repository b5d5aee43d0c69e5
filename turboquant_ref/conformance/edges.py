"""Level 2, behaviour: scales, zero, NaN, shapes and dtypes, batches, seeds, and what a call must leave alone.

No statistics: two answers of the subject with the same seed are compared.  They agree if all but one row in
`STRAY` differ by at most `NEAR` times the norm of the row: a norm that was stored in bfloat16 is as far off, and
a coordinate that lies on a boundary to rounding may take either index.  For `inner_product` a row is one
estimate, with a fixed unit y for each row.

Accepted for a row with NaN or infinity: an exception, or an answer that is not finite in that row and unchanged
in all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from .finding import Finding
from .statistics import Plan, rows_of
from .stimuli import unit
from .subject import CallFailed, Subject

__all__ = ["DECADES", "check"]

Floats = NDArray[np.float64]

NEAR = 2.0**-8
STRAY = 20
DECADES = (-30, -25, -20, -15, -10, -5, -2, 2, 5, 10, 15, 20, 25, 30)
ROWS = 40
BITS = (3, 2, 4, 1)
SEED = 12345


class _Calls:
    """One function at one (d, bits), as rows -> rows; it keeps what the calls did beside answering."""

    def __init__(self, subject: Subject, function: str, plan: Plan) -> None:
        rng = np.random.default_rng([plan.seed, 11])
        self.subject, self.function, self.d, self.bits = subject, function, plan.main, 0
        self.x, self.y = unit(ROWS, self.d, rng), unit(ROWS, self.d, rng)
        self.notes: set[str] = set()

    def __call__(self, x: NDArray[np.floating], seed: int = SEED) -> Floats:
        arguments = [x] if self.function == "roundtrip" else [x, self.y[: len(x)].astype(x.dtype)]
        answer = self.subject.call(self.function, *arguments, self.bits, seed)
        self.notes |= set(answer.notes)
        if self.function == "roundtrip":
            return rows_of(answer.value, (len(x), self.d))
        return rows_of(answer.value, (len(x),))[:, None]


def _differ(a: Floats, b: Floats, norms: Floats | float = 1.0) -> NDArray[np.bool_]:
    """Which rows do not agree; a NaN agrees with nothing."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.sqrt(((a - b) ** 2).sum(1))
        return np.asarray(~(distance <= NEAR * norms))


def _same(a: Floats, b: Floats) -> bool:
    return a.shape == b.shape and int(_differ(a, b).sum()) <= len(a) // STRAY


def check(subject: Subject, plan: Plan, leave_out: Collection[str] = ()) -> Iterator[Finding]:
    """The findings of every offered function but some, at the main dimension and 3 bits, or what it has of 2, 4, 1."""
    for function in ("roundtrip", "inner_product"):
        if not subject.offers(function) or function in leave_out:
            continue
        calls = _Calls(subject, function, plan)
        base = None
        allowed = {bits for d, bits in plan.grid if d == plan.main}
        for calls.bits in [b for b in BITS if b in allowed]:
            try:
                base = calls(calls.x)
                break
            except CallFailed as error:
                if error.kind in ("time limit", "died"):
                    break
        if base is None:
            continue  # the statistics say so
        for name, probe in CHECKS.items():
            label = f"{function} d={calls.d} b={calls.bits}: {name}"
            try:
                passed, detail, *cause = probe(calls, base)
            except CallFailed as error:
                passed, detail, cause = None if error.kind == "not offered" else False, str(error), []
                if error.kind == "time limit":
                    yield Finding(2, label, False, detail)
                    break
            yield Finding(2, label, passed, detail, tuple(cause) if passed is False else ())


Outcome = tuple[bool | None, str] | tuple[bool | None, str, str]
"""Passed, detail, and the key of `diagnosis.CAUSES` that explains a failure."""


def _decades(calls: _Calls, base: Floats) -> Outcome:
    """x̂(c x) / c = x̂(x) for c = 10^-30 … 10^30."""
    sizes: dict[int, float] = {}  # of what is wrong: its size relative to what it should be
    raised = ""
    for k in DECADES:
        c = float(np.float32(10.0**k))
        x = (c * calls.x).astype(np.float32).astype(np.float64)
        try:
            found = calls(x) / c
        except CallFailed as error:
            if error.kind in ("time limit", "died"):
                raise
            sizes[k], raised = np.nan, raised or f", at 1e{k} it {error}"
            continue
        if not _same(found, base):
            with np.errstate(invalid="ignore", over="ignore"):
                sizes[k] = float(np.median(np.linalg.norm(found, axis=1)) / np.median(np.linalg.norm(base, axis=1)))
    if not sizes:
        return True, "x̂(c x) = c x̂(x) for c from 1e-30 to 1e30"
    first = min(sizes, key=abs)
    shown = "infinite or NaN" if not np.isfinite(sizes[first]) else f"{sizes[first]:.3g} of what it should be"
    wrong = ", ".join(f"1e{k}" for k in sizes)
    return False, f"x̂(c x) / c at c = 1e{first} is {shown}; wrong at {wrong}{raised}", _cause_of(sizes)


def _cause_of(sizes: dict[int, float]) -> str:
    low, high = max((k for k in sizes if k < 0), default=-99), min((k for k in sizes if k > 0), default=99)
    if high <= 2 and low >= -2:
        lost = all(abs(np.log10(sizes[k]) + k) < 0.1 for k in (high, low))
        return "norm lost" if lost else "not scaled to unit norm"
    if high == 5 and not np.isfinite(sizes[high]):
        return "float16 norms"
    if low in (-20, -25) and (high in (20, 25) or high == 99):
        return "float32 squares"
    if high == 99 and low >= -15:
        return "epsilon in the norm"
    return "scale"


def _norms(calls: _Calls, base: Floats) -> Outcome:
    c = np.logspace(-2, 3, ROWS)[:, None]
    x = (c * calls.x).astype(np.float32).astype(np.float64)
    wrong = int(_differ(calls(x) / c, base).sum())
    return (
        wrong <= ROWS // STRAY,
        f"norms 0.01 to 1000 in one batch: {wrong} of {ROWS} rows differ from those of norm 1",
        "norms in a batch",
    )


def _zero(calls: _Calls, base: Floats) -> Outcome:
    x = calls.x.copy()
    x[3] = 0
    found = calls(x)
    size, others = float(np.linalg.norm(found[3])), np.arange(ROWS) != 3
    if not _same(found[others], base[others]):
        return False, "a zero row changes the answer for other rows", "rows mixed"
    cause = "zero over zero" if not np.isfinite(size) else "zero"
    return (
        size == 0,
        f"the zero vector gives {'0' if size == 0 else f'a vector of norm {size:.3g}' if np.isfinite(size) else 'NaN'}",
        cause,
    )


def _not_finite(value: float) -> Callable[[_Calls, Floats], Outcome]:
    def probe(calls: _Calls, base: Floats) -> Outcome:
        x = calls.x.copy()
        x[3, 5] = value
        try:
            found = calls(x)
        except CallFailed as error:
            if error.kind == "raised":
                return True, str(error)
            raise
        others = np.arange(ROWS) != 3
        if not _same(found[others], base[others]):
            return False, f"{value} in one row changes the answer for other rows", "rows mixed"
        finite = bool(np.isfinite(found[3]).all())
        return (
            not finite,
            f"{value} in a row gives " + ("finite numbers" if finite else "NaN or infinity in that row only"),
            "NaN swallowed",
        )

    return probe


def _dtype(dtype: type) -> Callable[[_Calls, Floats], Outcome]:
    def probe(calls: _Calls, base: Floats) -> Outcome:
        x: NDArray[np.floating] = calls.x.astype(dtype)
        try:
            found = calls(x)
        except CallFailed as error:
            if error.refused:
                return None, f"refused: {error}"
            raise
        expected = calls(x.astype(np.float64))
        same = _same(found, expected)
        return same, f"the answer is {'' if same else 'not '}that for float64", "dtype"

    return probe


def _empty(calls: _Calls, base: Floats) -> Outcome:
    try:
        return calls(calls.x[:0]).shape[0] == 0, "gives an empty answer"
    except CallFailed as error:
        if error.refused or error.kind == "raised":
            return None, f"refused: {error}"
        raise


def _batch(calls: _Calls, base: Floats) -> Outcome:
    parts = np.concatenate([calls(calls.x[:1]), calls(calls.x[:7])[1:]])
    wrong = int(_differ(parts, base[:7]).sum())
    how = (
        "bit for bit"
        if np.array_equal(parts, base[:7])
        else "to rounding"
        if not wrong
        else f"{wrong} of 7 rows differ"
    )
    return wrong <= 1, f"a row alone, among 7 and among {ROWS}: {how}", "rows mixed"


def _repeats(calls: _Calls, base: Floats) -> Outcome:
    calls(calls.x, SEED + 1)
    again = calls(calls.x)
    same = _same(again, base)
    how = "the same, bit for bit" if np.array_equal(again, base) else "the same to rounding" if same else "another"
    return same, f"called again with the same seed: {how}", "state kept"


def _seeds(calls: _Calls, base: Floats) -> Outcome:
    other = calls(calls.x, SEED + 1)
    differ = int(_differ(other, base).sum())
    return differ > ROWS // 2, f"another seed changes {differ} of {ROWS} rows", "seed ignored"


def _alone(what: str) -> Callable[[_Calls, Floats], Outcome]:
    def probe(calls: _Calls, base: Floats) -> Outcome:
        found = sorted(note for note in calls.notes if note.startswith(what))
        return not found, ", ".join(found) + " written to" if found else "left alone", f"{what} written to"

    return probe


CHECKS: dict[str, Callable[[_Calls, Floats], Outcome]] = {
    "same seed": _repeats,
    "other seeds": _seeds,
    "batches": _batch,
    "norms": _norms,
    "60 decades": _decades,
    "zero": _zero,
    "NaN": _not_finite(np.nan),
    "infinity": _not_finite(np.inf),
    "float32": _dtype(np.float32),
    "float16": _dtype(np.float16),
    "empty batch": _empty,
    "arguments": _alone("argument"),
    "global generators": _alone("global"),
}
