"""The outcome of an audit: a record for audit.json, and the tables of AUDIT.md."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from turboquant_ref import __version__, theory
from turboquant_ref.conformance.statistics import FALSE_ALARM, Figure
from turboquant_ref.conformance.verdict import Verdict

from . import Adapter

__all__ = ["as_page", "as_record"]

Record = dict[str, Any]

D = 128
VERDICTS = {0: "conforms", 1: "does not conform", 2: "could not be checked"}
BEHAVIOUR = {
    "same seed": "same seed",
    "other seeds": "other seed",
    "batches": "batches",
    "norms": "norms",
    "60 decades": "60 decades",
    "zero": "zero",
    "NaN": "NaN",
    "infinity": "infinity",
    "float32": "float32",
    "float16": "float16",
    "empty batch": "empty",
    "arguments": "arguments kept",
    "global generators": "global RNG kept",
}


def as_record(adapter: Adapter, version: str, date: str, command: str, verdict: Verdict | str) -> Record:
    """What audit.json keeps of one adapter."""
    about = {
        "distribution": adapter.distribution,
        "version": version,
        "written_for": adapter.version,
        "date": date,
        "command": f"{command} --only {adapter.name}",
        "kit": f"turboquant_ref {__version__}",
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if isinstance(verdict, str):
        return about | {"verdict": f"could not be checked: {verdict}", "findings": []}
    diagnoses = [{"name": d.name, "explains": len(d.explains), "seen": d.detail} for d in verdict.diagnoses]
    return about | {
        "verdict": VERDICTS[verdict.status],
        "failed": len(verdict.failed),
        "checks": sum(f.passed is not None for f in verdict.findings),
        "seconds": round(verdict.seconds),
        "diagnoses": diagnoses,
        "findings": [_finding(f) for f in verdict.findings],
    }


def _finding(finding: Any) -> Record:
    record: Record = {"check": finding.check, "passed": finding.passed}
    if isinstance(finding, Figure) and finding.estimate is not None and finding.estimate.draws > 1:
        e = finding.estimate
        numbers = {"measured": e.value, "half_width": e.half_width, "claimed": finding.claimed}
        record |= {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in numbers.items()}
        return record | {"claim": finding.claim.name if finding.claim else None, "draws": e.draws}
    unjudged = re.match(r"([-+.\de]+); no exact value", finding.detail)  # measured, but of no known claim
    return record | ({"measured": float(unjudged[1])} if unjudged else {}) | {"detail": finding.detail}


# ------------------------------------------------------------------------------------------------------- the tables


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _by_check(record: Record) -> dict[str, Record]:
    return {f["check"]: f for f in record["findings"]}


def _measured(found: dict[str, Record], check: str) -> float | None:
    return found.get(check, {}).get("measured")


def _number(value: float | None, passed: bool | None, form: str) -> str:
    if value is None:
        return "–"
    return f"**{value:{form}}**" if passed is False else f"{value:{form}}"


def _row(cells: list[str]) -> str:
    return " / ".join(cells) if set(cells) != {"–"} else "–"


def _ratios(found: dict[str, Record], inputs: str, widths: Iterable[int]) -> str:
    cells = []
    for b in widths:
        check = f"roundtrip d={D} b={b}: distortion{inputs}"
        value = _measured(found, check)
        ratio = None if value is None else value / theory.mse(D, b)
        cells.append(_number(ratio, found.get(check, {}).get("passed"), ".3f"))
    return _row(cells)


def _slopes(found: dict[str, Record], widths: Iterable[int]) -> str:
    checks = [f"inner_product d={D} b={b}: slope" for b in widths]
    return _row([_number(_measured(found, c), found.get(c, {}).get("passed"), ".4f") for c in checks])


def _variances(found: dict[str, Record], widths: Iterable[int]) -> str:
    """d times the variance about the regression line, for cosines uniform on [-1, 1]: (along + 2 across) / 3."""
    cells = []
    for b in widths:
        parts = [f"inner_product d={D} b={b}: {name}" for name in ("variance along x", "variance")]
        along, across = (_measured(found, c) for c in parts)
        value = None if along is None or across is None else (along + 2 * across) / 3
        cells.append(_number(value, not any(found.get(c, {}).get("passed") is False for c in parts), ".4f"))
    return _row(cells)


def _word(findings: list[Record]) -> str:
    """One cell for the same check of both functions, or of several dimensions."""
    passed = [f["passed"] for f in findings]
    if not passed:
        return "not run"
    if False in passed:
        return "**fails**"
    return "ok" if True in passed else "–"


def _behaviour(record: Record, check: str) -> str:
    return _word([f for f in record["findings"] if f["check"].endswith(f": {check}") and "measured" not in f])


def _exposed(record: Record, function: str) -> str:
    return _word([f for f in record["findings"] if f["check"].startswith(function)])


def _bytes(record: Record) -> str:
    found = _by_check(record).get(f"stored_bytes d={D} b=3") or _by_check(record).get(f"stored_bytes d={D} b=4")
    if not found or found["passed"] is None:
        return "–"
    text = found["detail"].split()[0] + (" (b=4)" if "b=4" in found["check"] else "")
    return text if found["passed"] else f"**{text}**"


def _dimensions(record: Record, d: int) -> str:
    own = [f for f in record["findings"] if f" d={d} " in f["check"] and f["check"].startswith(("roundtrip", "inner"))]
    return _word([f for f in own if f["passed"] is not None] or own)


def as_page(records: dict[str, Record], notes: str) -> str:
    """AUDIT.md."""
    names = sorted(records)
    found = {name: _by_check(records[name]) for name in names}

    def package(name: str) -> str:
        return f"{records[name]['distribution']} {records[name]['version']}"

    def verdict(name: str) -> list[str]:
        r = records[name]
        said = "; ".join(f"{d['name']} ({d['explains']})" for d in r.get("diagnoses", []))
        checks = f"{r['checks'] - r['failed']} of {r['checks']}" if "checks" in r else "–"
        return [f"`{name}`", package(name), r["verdict"], checks, said, r["date"]]

    heads = ("adapter", "package", "verdict", "checks passed", "diagnosis (checks it explains)", "date")
    verdicts = _table(heads, map(verdict, names))
    widths = ("b = 1 / 2 / 3 / 4", "b = 2 / 3", "b = 2 / 3 / 4", "b = 2 / 3 / 4")
    measures = ("distortion ÷ exact", "one-hot ÷ exact", "slope", "d·Var")
    figures = _table(
        ("adapter", *(f"{m}, {w}" for m, w in zip(measures, widths, strict=True))),
        (
            [
                f"`{n}`",
                _ratios(found[n], "", (1, 2, 3, 4)),
                _ratios(found[n], ", one-hot", (2, 3)),
                _slopes(found[n], (2, 3, 4)),
                _variances(found[n], (2, 3, 4)),
            ]
            for n in names
        ),
    )
    behaviour = _table(
        ("adapter", *BEHAVIOUR.values()), ([f"`{n}`", *(_behaviour(records[n], c) for c in BEHAVIOUR)] for n in names)
    )
    inside = _table(
        ("adapter", "rotation", "codebook", "bytes a vector, b = 3", "d = 64", "d = 127", "d = 16"),
        (
            [
                f"`{n}`",
                _exposed(records[n], "rotation"),
                _exposed(records[n], "codebook"),
                _bytes(records[n]),
                *(_dimensions(records[n], d) for d in (64, 127, 16)),
            ]
            for n in names
        ),
    )
    one = records[names[0]] if names else {}
    draws = sorted({f["draws"] for r in records.values() for f in r["findings"] if "draws" in f})
    return PAGE.format(
        kit=one.get("kit"),
        python=one.get("python"),
        numpy=one.get("numpy"),
        draws=" to ".join(str(n) for n in dict.fromkeys((draws[0], draws[-1]))) if draws else "–",
        alarm=FALSE_ALARM,
        n=len(names),
        verdicts=verdicts,
        figures=figures,
        behaviour=behaviour,
        inside=inside,
        exact=" ".join(f"{theory.mse(D, b):.6f}" for b in (1, 2, 3, 4)),
        notes=notes.strip(),
    )


PAGE = """# Audit of public packages

What `turboquant-ref check` says of {n} adapters of released packages, each at the version that `requirements.txt` pins.
All but the notes is written by

    python -m tests.audit --install FOLDER
    python -m tests.audit --packages FOLDER

on one CPU, {kit}, Python {python}, NumPy {numpy}. What an adapter calls, and what its package claims and where, is the
docstring of the adapter; every finding is in `audit.json`, with its interval. A figure is a mean over {draws} draws; a
right implementation fails in at most {alarm:g} of runs. **Bold** fails; – is not offered, or refused in clear words,
which is not held against a package. Both sides of every figure count: a value below the claim is a deviation too.

## Verdicts

{verdicts}
## Figures at d = 128

Distortion ÷ exact is E|x - x̂|² of `roundtrip` over Algorithm 1's exact value ({exact} at 1 to 4
bits), also where the claim is another variant: then other values are right, and bold marks those that miss the claim.
The slope is that of the estimates of `inner_product` on the inner products over correlated pairs. d·Var is the variance
about that line for cosines uniform on [-1, 1], (along x + 2 across x) / 3.

{figures}
## Behaviour

At d = 128 and 3 bits, or what it has of 2, 4, 1; both functions together.

{behaviour}
## Inside, storage, other dimensions

{inside}
{notes}
"""
