"""A subject in any other language: the golden vectors without their answers, and a file of answers judged.

`export` writes requests.json beside the files themselves; the port writes {"responses": {"<id>": {"<stage>": value}}},
or {"<id>": {"error": "why"}} for an input that it refuses; `judge_responses` reads that.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from . import golden
from .finding import Finding
from .golden import Case
from .judge import judge

__all__ = ["Malformed", "export", "judge_responses", "requests"]


class Malformed(ValueError):
    """A file of responses that cannot be read; the message says where and what was expected."""


def requests() -> dict[str, Any]:
    """The questions: the groups of every file, their tests with an id and inputs only."""
    groups = []
    for name in golden.NAMES:
        for group in golden.read(name)["testGroups"]:
            asked = [{"id": f"{name}-{test['tcId']}", "inputs": test["inputs"]} for test in group["tests"]]
            groups.append({"algorithm": name, **{k: v for k, v in group.items() if k != "tests"}, "requests": asked})
    return {"formatVersion": golden.FORMAT, "groups": groups}


def export(directory: str | Path) -> Path:
    """Write the vectors, their schemas and requests.json to a directory, which is made if need be.

    Returns
    -------
    Path
        Of requests.json.
    """
    target = Path(directory)
    for source in (golden.DIRECTORY, golden.SCHEMA):
        shutil.copytree(source, target / source.name, dirs_exist_ok=True)
    path = target / "requests.json"
    path.write_text(golden.text(requests()) + "\n", encoding="utf-8")
    return path


def _constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON; an answer is a finite number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None
    if twice is not None:
        raise Malformed(f"the key {twice!r} occurs twice in one object")
    return dict(pairs)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_constant, object_pairs_hook=_object)
    except OSError as error:
        raise Malformed(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise Malformed(f"{path}: byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise Malformed(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise Malformed(f"{path}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("responses"), dict):
        found = f"the keys {sorted(document)}" if isinstance(document, dict) else f"a {type(document).__name__}"
        raise Malformed(f'{path}: expected {{"responses": {{"<case id>": {{"<stage>": value}}}}}}, found {found}')
    responses: dict[str, Any] = document["responses"]
    return responses


def _one(case: Case, answer: Any) -> Finding:
    place = f"responses[{case.id!r}]"
    if not isinstance(answer, Mapping):
        shown = f"{place} is a {type(answer).__name__}, expected an object of stages"
        return Finding(case.level, case.file, False, shown, case.flags, case.id)
    if "error" in answer:
        if len(answer) > 1 or not isinstance(answer["error"], str):
            shown = f'{place} has "error" beside stages, or it is no text; expected {{"error": "why"}} alone'
            return Finding(case.level, case.file, False, shown, case.flags, case.id)
        return judge(case, answer["error"] or "no reason given")
    known = set(case.test["outputs"]) if case.valid else set(answer)
    if case.valid and "packed" in answer and "packed" not in known and case.level == 1:
        kind = case.group["scalars"]
        shown = f'{place} has "packed", but a scalar is outside the normal range of {kind}: it has no stored form'
        return Finding(case.level, f"{case.file}.packed", False, shown, case.flags, case.id)
    unknown = sorted(set(answer) - known)
    if unknown:
        shown = f"{place} has the unknown stage {unknown[0]!r}; known are {', '.join(case.test['outputs'])}"
        return Finding(case.level, case.file, False, shown, case.flags, case.id)
    return judge(case, answer)


def _groups() -> Iterator[list[Case]]:
    for name in golden.NAMES:
        groups: dict[int, list[Case]] = {}
        for case in golden.cases(name):
            groups.setdefault(case.number, []).append(case)
        yield from groups.values()


def judge_responses(path: str | Path) -> list[Finding]:
    """The verdicts on a file of responses.

    A group without any response is not offered, which is not held against the port; a group that is answered must be
    answered whole.

    Raises
    ------
    Malformed
        The file is missing, not JSON (with line and column), or not {"responses": {…}}. What is wrong with a single
        answer is a finding, its id and stage named.
    """
    responses = _read(Path(path))
    findings = []
    for group in _groups():
        first = group[0]
        if not any(case.id in responses for case in group):
            what = f"{first.file}.{first.group['type']}"
            findings.append(Finding(first.level, what, None, f"not offered: {first.id} to {group[-1].id}"))
            continue
        for case in group:
            if case.id in responses:
                findings.append(_one(case, responses[case.id]))
            else:
                shown = f"responses has no {case.id!r}, though it answers others of its group"
                findings.append(Finding(case.level, first.file, False, shown, case.flags, case.id))
    known = {case.id for name in golden.NAMES for case in golden.cases(name)}
    for key in responses:
        if key not in known:
            findings.append(Finding(0, "responses", False, f"responses[{key!r}] is no case of these vectors"))
    return findings
