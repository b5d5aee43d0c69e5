"""A verdict as text, Markdown, JSON and JUnit XML."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree

from .. import __version__
from .diagnosis import Diagnosis
from .finding import Finding
from .statistics import FALSE_ALARM, POWER, Figure
from .verdict import Verdict

__all__ = ["as_json", "as_junit", "as_markdown", "as_text"]

WORDS = {True: "ok", False: "FAILS", None: "-"}
STATUS = {0: "conforms", 1: "does not conform", 2: "could not be checked"}
COLUMNS = ("check", "measured", "±", "claimed", "detects", "verdict", "diagnosis")


def _diagnosis_of(verdict: Verdict) -> dict[str, str]:
    """The first name that explains a check."""
    names: dict[str, str] = {}
    for d in verdict.diagnoses:
        for check in d.explains:
            names.setdefault(check, d.name)
    return names


def _rows(verdict: Verdict, findings: Iterable[Finding]) -> list[tuple[str, ...]]:
    """The cells of `COLUMNS`; a finding that is no figure has its detail in the place of the figures."""
    names = _diagnosis_of(verdict)
    rows: list[tuple[str, ...]] = []
    for f in findings:
        word, name = WORDS[f.passed], names.get(f.check, "") if f.passed is False else ""
        if isinstance(f, Figure) and f.estimate is not None and f.estimate.draws > 1:
            e = f.estimate
            measured, claimed = f"{e.value:.5g}", f"{f.claimed:.5g}"
            if f.passed and not e.contains(f.claimed):
                word = "ok (not Haar)"
            rows.append((f.check, measured, f"{e.half_width:.2g}", claimed, f"{e.detectable(POWER):.2g}", word, name))
        else:
            label = f"{f.check} [{f.case}]" if f.case else f.check
            rows.append((label, f.detail, "", "", "", word, name))
    return rows


def _deterministic(verdict: Verdict) -> list[Finding]:
    """Levels 0 and 1, one finding a check: how many golden vectors of how many are right, and the first that is not."""
    rows = []
    of_check: dict[tuple[int, str], list[Finding]] = {}
    for f in verdict.findings:
        if f.level < 2:
            of_check.setdefault((f.level, f.check.split(".")[0]), []).append(f)
    for (level, check), found in of_check.items():
        asked = [f for f in found if f.passed is not None]
        wrong = [f for f in asked if f.passed is False]
        if not asked:
            rows.append(Finding(level, f"level {level} {check}", None, found[0].detail))
        elif not wrong:
            rows.append(Finding(level, f"level {level} {check}", True, f"{len(asked)} golden vectors"))
        else:
            first = wrong[0]
            detail = (
                f"{len(wrong)} of {len(asked)} golden vectors wrong; first {first.case}, {first.check}: {first.detail}"
            )
            rows.append(Finding(level, f"level {level} {check}", False, detail, first.flags))
    return rows


def _shown(verdict: Verdict, everything: bool) -> tuple[list[Finding], int]:
    """The findings of level 2 that a person wants to see, and how many others have passed."""
    chosen, passed = [], 0
    main = verdict.plan.main if verdict.plan else 0
    for f in verdict.findings:
        if f.level < 2:
            continue
        random = isinstance(f, Figure) and f.d == main and f.inputs in ("random", "one-hot")
        if everything or f.passed is not True or random or not isinstance(f, Figure):
            chosen.append(f)
        else:
            passed += 1
    return chosen, passed


def _table(rows: list[tuple[str, ...]], heads: tuple[str, ...]) -> list[str]:
    figures = [row for row in rows if row[2]]
    widths = [max([len(h), *(len(row[i]) for row in figures)]) for i, h in enumerate(heads)]
    widths[0] = max([widths[0], *(len(row[0]) for row in rows)])
    inner = sum(widths[1:5]) + 6

    def line(row: tuple[str, ...]) -> str:
        middle = "  ".join(c.rjust(w) for c, w in zip(row[1:5], widths[1:5], strict=True))
        if not row[2]:  # a sentence, after the verdict if it is long
            middle = row[1].ljust(inner) if len(row[1]) <= inner else " " * inner
        tail = row[6] if len(row[1]) <= inner else f"{row[6]}{': ' if row[6] else ''}{row[1]}"
        return f"{row[0].ljust(widths[0])}  {middle}  {row[5].ljust(5)}  {tail}".rstrip()

    return [line(heads), "-" * (widths[0] + inner + 20), *map(line, rows)]


def _summary(verdict: Verdict) -> str:
    asked = [f for f in verdict.findings if f.passed is not None]
    missing = sorted({f.check for f in verdict.findings if f.detail == "not offered"})
    said = f"{verdict.subject} {STATUS[verdict.status]}: {len(asked)} checks, {len(verdict.failed)} failed"
    return said + (f"; not offered: {', '.join(missing)}" if missing else "")


def _diagnoses(diagnoses: Iterable[Diagnosis]) -> list[str]:
    lines = []
    for d in diagnoses:
        lines.append(f"{d.name} (explains {len(d.explains)} failed checks, first {d.explains[0]})")
        lines.append(f"    look: {d.where}")
        if d.detail:
            lines.append(f"    seen: {d.detail}")
        if d.alternatives:
            lines.append(f"    fits too: {', '.join(d.alternatives)}")
    return lines


def _notes(verdict: Verdict) -> list[str]:
    if verdict.plan is None:
        return []
    draws = [
        f.estimate.draws for f in verdict.findings if isinstance(f, Figure) and f.estimate and f.estimate.draws > 1
    ]
    seen = f"{min(draws)} to {max(draws)}" if draws and min(draws) < max(draws) else str(max(draws, default=0))
    return [
        f"±        Student's interval over {seen} draws; all intervals together raise a false alarm in at most "
        f"{FALSE_ALARM:g} of runs",
        f"detects  the smallest deviation from the claim that fails with probability {POWER:.0%}",
    ]


def as_text(verdict: Verdict, everything: bool = False) -> str:
    """For a terminal: the failures, what was measured at the main dimension, the diagnosis, the verdict."""
    chosen, passed = _shown(verdict, everything)
    rows = _rows(verdict, [*_deterministic(verdict), *chosen])
    lines = _table(rows, COLUMNS)
    if passed:
        lines.append(f"… and {passed} checks more that passed (--all shows them)")
    lines += ["", *_notes(verdict)] if verdict.plan else []
    if verdict.diagnoses:
        lines += ["", "Diagnosis", *_diagnoses(verdict.diagnoses)]
    return "\n".join([*lines, "", f"{_summary(verdict)} ({verdict.seconds:.1f} s)"])


def as_markdown(verdict: Verdict, everything: bool = True) -> str:
    """The same as a Markdown section."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    chosen, _ = _shown(verdict, everything)
    rows = _rows(verdict, [*_deterministic(verdict), *chosen])
    lines = [f"# {cell(_summary(verdict))}", ""]
    if verdict.diagnoses:
        lines += ["## Diagnosis", ""]
        for d in verdict.diagnoses:
            other = f" Fits too: {', '.join(d.alternatives)}." if d.alternatives else ""
            lines.append(
                f"- **{cell(d.name)}**: {cell(d.where)}. Seen: {cell(d.detail or d.explains[0])}.{cell(other)}"
            )
        lines.append("")
    lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell(c) for c in row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"    {note}" for note in _notes(verdict)), ""])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _record(f: Finding, name: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "level": f.level,
        "check": f.check,
        "passed": f.passed,
        "detail": f.detail,
        "flags": list(f.flags),
        "case": f.case,
        "diagnosis": name or None,
    }
    if isinstance(f, Figure) and f.estimate is not None:
        e = f.estimate
        record |= {
            "function": f.function,
            "figure": f.figure,
            "inputs": f.inputs,
            "d": f.d,
            "bits": f.bits,
            "draws": e.draws,
        }
        record |= {"measured": _finite(e.value), "claimed": _finite(f.claimed), "limit": _finite(f.limit)}
        record |= {"claim": f.claim.name if f.claim else None}
        if e.draws > 1:
            record |= {"half_width": _finite(e.half_width), "detectable": _finite(e.detectable(POWER))}
    return record


def as_json(verdict: Verdict) -> str:
    """Everything, for programs."""
    names = _diagnosis_of(verdict)
    plan = verdict.plan
    document = {
        "kit": f"turboquant_ref {__version__}",
        "subject": verdict.subject,
        "status": verdict.status,
        "verdict": STATUS[verdict.status],
        "seconds": round(verdict.seconds, 3),
        "false_alarm_rate": FALSE_ALARM if plan else None,
        "plan": {"grid": [list(p) for p in plan.grid], "draws": plan.draws, "seed": plan.seed} if plan else None,
        "diagnoses": [
            vars(d) | {"explains": list(d.explains), "alternatives": list(d.alternatives)} for d in verdict.diagnoses
        ],
        "findings": [_record(f, names.get(f.check, "") if f.passed is False else "") for f in verdict.findings],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _printable(text: str) -> str:
    """What XML 1.0 can hold."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "?"
        for c in text
    )


def as_junit(verdict: Verdict) -> str:
    """One test case a finding, for CI."""
    names = _diagnosis_of(verdict)
    skipped = sum(f.passed is None for f in verdict.findings)
    attributes = {"tests": len(verdict.findings), "failures": len(verdict.failed), "errors": 0, "skipped": skipped}
    suite = ElementTree.Element(
        "testsuite",
        {"name": f"turboquant-ref check {_printable(verdict.subject)}", "time": f"{verdict.seconds:.3f}"}
        | {key: str(value) for key, value in attributes.items()},
    )
    for f in verdict.findings:
        name = f"{f.check} [{f.case}]" if f.case else f.check
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"level{f.level}", "name": _printable(name)})
        if f.passed is None:
            ElementTree.SubElement(case, "skipped", {"message": _printable(f.detail)})
        elif f.passed is False:
            found = names.get(f.check, "")
            failure = ElementTree.SubElement(
                case, "failure", {"message": _printable(f"{found}: {f.detail}" if found else f.detail)}
            )
            failure.text = _printable(" ".join(f.flags))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
