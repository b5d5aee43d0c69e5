"""The three levels run on one subject, and what comes of it: conforms, does not, or could not be run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import deterministic, edges, exposed, statistics, uses
from .diagnosis import Diagnosis, diagnose
from .finding import Finding
from .responses import judge_responses
from .statistics import Plan
from .subject import CallFailed, Subject

__all__ = ["CONFORMS", "CONFORMS_NOT", "NOT_RUN", "QUICK", "Verdict", "of_findings", "of_responses", "run"]

CONFORMS, CONFORMS_NOT, NOT_RUN = 0, 1, 2

QUICK = Plan(grid=((64, 2), (64, 3), (16, 4)), draws=48, rows=64)
"""A plan for a first look: fewer dimensions, bit widths and draws; its report says what it can detect."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the kit says of a subject.

    Attributes
    ----------
    subject : str
    findings : tuple of Finding
    diagnoses : tuple of Diagnosis
    seconds : float
    plan : Plan or None
        Of level 2, if it was run.
    """

    subject: str
    findings: tuple[Finding, ...]
    diagnoses: tuple[Diagnosis, ...]
    seconds: float
    plan: Plan | None = None

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that the subject fails."""
        return tuple(f for f in self.findings if f.passed is False)

    @property
    def status(self) -> int:
        """The exit status: 0 conforms, 1 does not, 2 nothing could be checked."""
        if self.failed:
            return CONFORMS_NOT
        return CONFORMS if any(f.passed for f in self.findings) else NOT_RUN


def of_findings(subject: str, findings: Sequence[Finding], seconds: float, plan: Plan | None = None) -> Verdict:
    """A verdict from findings, diagnosed."""
    return Verdict(subject, tuple(findings), tuple(diagnose(findings)), seconds, plan)


def run(
    subject: Subject,
    plan: Plan | None = None,
    levels: Sequence[int] = (0, 1, 2),
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Verdict:
    """Check a subject.

    Parameters
    ----------
    subject : Subject
        From `subject.open_subject`.
    plan : Plan
        Of level 2.
    levels : sequence of int
        Which to run.
    progress : callable
        Told how many draws of how many are done.

    Raises
    ------
    ValueError
        If the subject's `claims` is not understood.
    """
    start, plan = time.perf_counter(), plan or Plan()
    findings: list[Finding] = []
    asked = [f for f in deterministic.FUNCTIONS if deterministic.LEVEL[f] in levels]
    findings += deterministic.check(subject, asked)
    if 2 in levels:
        for function in ("roundtrip", "inner_product", "rotation", "codebook", "stored_bytes", "search", "attend"):
            if not subject.offers(function):
                findings.append(Finding(2, function, None, "not offered"))
        try:
            findings += statistics.check(subject, plan, progress)
            hung = {f.check.split()[0] for f in findings if "no answer within" in f.detail}
            findings += edges.check(subject, plan, leave_out=hung)
            findings += exposed.check(subject, plan)
            findings += uses.check(subject, plan)
        except CallFailed as error:  # it could not be started again
            findings.append(Finding(2, "starting it again", False, str(error)))
    return of_findings(subject.name, findings, time.perf_counter() - start, plan if 2 in levels else None)


def of_responses(path: str | Path) -> Verdict:
    """The verdict on a file of responses to the golden vectors; raises `responses.Malformed`."""
    start = time.perf_counter()
    return of_findings(str(path), judge_responses(path), time.perf_counter() - start)
