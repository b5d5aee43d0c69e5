"""One answer to one golden vector, judged stage by stage: the first that differs is the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .finding import Finding
from .golden import Case
from .rules import Answers, Wrong, bits_of_signs
from .stages import stages

__all__ = ["judge"]


def judge(case: Case, answer: Mapping[str, Any] | str, own_codebook: bool = False) -> Finding:
    """The verdict on one answer.

    Parameters
    ----------
    case : Case
    answer : mapping of stage to value, or str
        Stages may be missing and others are ignored. A text says why the input was refused.
    own_codebook : bool
        The subject was not given the centroids and constants of the file but has its own, right to `CODEBOOK`.
    """
    name = f"{case.file}.{case.group['type']}" if case.level == 0 else case.file

    def finding(passed: bool | None, stage: str, detail: str) -> Finding:
        return Finding(case.level, f"{name}.{stage}" if stage else name, passed, detail, case.flags, case.id)

    if isinstance(answer, str):
        if case.valid:
            return finding(False, "", f"refused, but this input is valid: {answer}")
        return finding(True, "", f"refused: {answer}")
    if not case.valid:
        return finding(False, "", f"accepted, but this input must be refused: {case.test['comment']}")
    accepted: Answers = {}
    judged = []
    for stage, rule in stages(case, accepted, own_codebook):
        if stage not in answer:
            continue
        try:
            wrong = rule(answer[stage])
        except Wrong as error:
            wrong = str(error)
        if wrong:
            return finding(False, stage, f"{stage} {wrong}" if not wrong.startswith("[") else f"{stage}{wrong}")
        judged.append(stage)
        if stage == "signs" and case.level == 1:
            accepted[stage] = bits_of_signs(np.asarray(answer[stage], dtype=np.float64))
        elif stage == "indices":
            accepted[stage] = np.asarray(answer[stage], dtype=np.float64)
    if not judged:
        wanted = ", ".join(case.test["outputs"])
        return finding(
            False, "", f"the answer has none of the stages {wanted}; it has {', '.join(map(str, answer)) or 'none'}"
        )
    return finding(True, "", f"{', '.join(judged)} agree")
