"""Levels 0 and 1: a Python subject against the golden vectors.

The subject is any object with some of the functions of CHECK.md. Of what it offers every golden vector is asked; what
it does not offer makes one finding that says so. A group's valid vectors go in as one batch, then one by one if that
batch is refused, so that a finding always names the case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from . import given, golden
from .finding import Finding
from .golden import Case, rows
from .judge import judge

__all__ = ["FUNCTIONS", "LEVEL", "check"]

FUNCTIONS = {
    "pack": ("packing", "Bits"),
    "unpack": ("packing", "Bits", "Unpack"),
    "codebook": ("codebook", "Table"),
    "index": ("codebook", "Index"),
    "signs": ("rotation", "Signs"),
    "fwht": ("rotation", "Fwht"),
    "mse": ("mse", "Mse"),
    "qjl": ("qjl", "Qjl"),
    "prod": ("prod", "Prod"),
    "polar": ("polar", "Polar"),
    "rabitq": ("rabitq", "Rabitq"),
    "attention": ("attention", "Attention"),
}
"""Function of the subject: the file and the types of its groups that ask it."""

LEVEL = {name: 1 if name in ("mse", "qjl", "prod", "polar", "rabitq", "attention") else 0 for name in FUNCTIONS}
"""0 for primitives, 1 for algorithms."""

_GONE = ("time limit", "died")
_ALONE = ("codebook", "index", "signs", "attention")


class _Nonsense(Exception):
    """An answer that is none: not a refusal either."""


class _Gone(Exception):
    """The subject hangs, or is no more: it is not asked again."""


def _hex(data: Any) -> Any:
    a = np.asarray(data)
    if a.dtype != np.uint8 or a.ndim != 1:
        raise _Nonsense(f"returned {a.dtype} rows of shape {a.shape}, expected rows of uint8")
    return a.tobytes().hex()


def _attention(case: Case) -> tuple[Any, ...]:
    g, inputs = case.group, case.test["inputs"]

    def codes(part: Mapping[str, Any]) -> dict[str, Any]:
        indices, scales = np.asarray(part["indices"], dtype=np.uint8), rows(part["scales"], case.dtype)
        pi = given.matrix(given.rotation(part["rotation"], g["d"]))
        return {"indices": indices, "scales": scales, "bits": part["bits"], "rotation": pi}

    options = {"scale": inputs["scale"], "causal": bool(inputs["causal"])}
    options |= {name: inputs.get(name) for name in ("softcap", "window")}
    options["mask"] = np.asarray(inputs["mask"], dtype=bool) if "mask" in inputs else None
    options["bias"] = rows(inputs["bias"], case.dtype) if "bias" in inputs else None
    return rows(inputs["q"], case.dtype), codes(g["keys"]), codes(g["values"]), options


def _arguments(function: str, cases: Sequence[Case]) -> tuple[Any, ...]:
    """What the function is called with for these cases of one group, as a batch."""
    g, inputs = cases[0].group, [case.test["inputs"] for case in cases]
    if function == "pack":
        return np.asarray([i["numbers"] for i in inputs], dtype=np.uint8), g["bits"]
    if function == "unpack":
        if g["type"] == "Bits":
            data = [case.test["outputs"]["packed"] for case in cases]
            n = len(inputs[0]["numbers"])
        else:
            data, n = [i["packed"] for i in inputs], g["n"]
        return np.asarray([list(bytes.fromhex(text)) for text in data], dtype=np.uint8), g["bits"], n
    if function == "codebook":
        return g["d"], inputs[0]["bits"]
    if function == "index":
        return rows(inputs[0]["coordinates"], cases[0].dtype), g["d"], g["bits"]
    if function == "signs":
        return int(inputs[0]["seed"], 16), inputs[0]["stream"], inputs[0]["n"]
    if function == "attention":
        return _attention(cases[0])
    x = np.stack([rows(i["x"], cases[0].dtype) for i in inputs])
    if function == "fwht":
        return (x,)
    pi = given.matrix(given.rotation(g["rotation"], g["d"])) if function != "qjl" else None
    if function == "polar":
        return x, tuple(g["bits"]), pi, g["scale"]
    if function == "rabitq":
        return x, g["bits"], pi, g["scale"], g.get("t")
    if function == "mse":
        return x, g["bits"], pi, g["scale"]
    s = given.sketch(g).matrix()
    if function == "qjl":
        return x, s, g["sketchKind"]
    return x, g["bits"], pi, s, g["sketchKind"], g["residual"]


def _answers(function: str, cases: Sequence[Case], result: Any) -> Iterator[Mapping[str, Any] | str]:
    """The result of a call, case by case, as stages."""
    if function in ("codebook", "index", "signs"):
        stage = {"codebook": "centroids", "index": "indices", "signs": "signs"}[function]
        yield {stage: result}
        return
    if LEVEL[function] == 0:
        rows = np.asarray(result)
        if rows.ndim == 0 or len(rows) != len(cases):
            raise _Nonsense(f"returned an array of shape {rows.shape} for {len(cases)} rows")
        for row in rows:
            yield {"packed": _hex(row)} if function == "pack" else {"numbers" if function == "unpack" else "y": row}
        return
    if not isinstance(result, Mapping):
        raise _Nonsense(f"returned {type(result).__name__}, expected a mapping from stage names to arrays")
    wanted = [stage for stage in cases[0].test["outputs"] if stage in result]
    if function == "attention":
        yield {stage: np.asarray(result[stage]) for stage in wanted}
        return
    columns = {stage: np.asarray(result[stage]) for stage in wanted}
    for stage, column in columns.items():
        if column.ndim == 0 or len(column) != len(cases):
            raise _Nonsense(f"{stage} has shape {column.shape} for {len(cases)} rows")
    for i in range(len(cases)):
        yield {stage: column[i] for stage, column in columns.items()}


def _batches(function: str, cases: Sequence[Case]) -> Iterator[list[Case]]:
    """The cases of one group that can go in together: those of one shape; what is to be refused goes alone."""
    together: dict[Any, list[Case]] = {}
    for case in cases:
        if not case.valid or function in _ALONE:
            yield [case]
        else:
            values = next(iter(case.test["inputs"].values()))
            together.setdefault(len(values), []).append(case)
    yield from together.values()


def _unpacked(case: Case) -> Case:
    """The question of `unpack` to a case of `pack`: bytes in, numbers out."""
    if case.group["type"] == "Unpack":
        return case
    inputs, group = (
        {"packed": case.test["outputs"]["packed"]},
        {"type": "Unpack", **{k: v for k, v in case.group.items() if k != "type"}},
    )
    return Case(
        case.file,
        case.number,
        group,
        {**case.test, "inputs": inputs, "outputs": {"numbers": case.test["inputs"]["numbers"]}},
    )


def _ask(function: str, call: Callable[..., Any], cases: list[Case]) -> Iterator[Finding]:
    judged = [_unpacked(case) if function == "unpack" and case.valid else case for case in cases]
    case = judged[0]

    def finding(passed: bool | None, detail: str) -> Finding:
        return Finding(case.level, function, passed, detail, case.flags, case.id)

    try:
        answers = list(_answers(function, cases, call(*_arguments(function, cases))))
    except Exception as error:  # whatever a stranger's code raises, it is a finding
        kind, why = getattr(error, "kind", ""), str(error) or type(error).__name__
        if kind in _GONE:
            yield finding(False, why)
            raise _Gone from error
        if len(cases) > 1:
            for one in cases:
                yield from _ask(function, call, [one])
        elif kind == "not offered" or isinstance(error, NotImplementedError):
            yield finding(None, f"not offered: {why}")
        elif isinstance(error, _Nonsense) or not getattr(error, "refused", True):
            yield finding(False, why)
        else:
            yield judge(case, why, own_codebook=True)
        return
    for case, answer in zip(judged, answers, strict=True):
        yield judge(case, answer, own_codebook=True)


def _function(subject: object, function: str) -> Iterator[Finding]:
    name, *types = FUNCTIONS[function]
    call = getattr(subject, function, None)
    if not callable(call):
        yield Finding(LEVEL[function], function, None, "not offered")
        return
    found = [case for case in golden.cases(name) if case.group["type"] in types]
    if function == "unpack":  # what cannot be packed has no bytes to read
        found = [case for case in found if case.valid or case.group["type"] == "Unpack"]
    groups: dict[int, list[Case]] = {}
    for case in found:
        groups.setdefault(case.number, []).append(case)
    try:
        for group in groups.values():
            for batch in _batches(function, group):
                yield from _ask(function, call, batch)
    except _Gone:
        return


def check(subject: object, functions: Sequence[str] = tuple(FUNCTIONS)) -> list[Finding]:
    """Levels 0 and 1 of the kit.

    Parameters
    ----------
    subject : object
        With some of the functions of `FUNCTIONS`, as CHECK.md describes them.
    functions : sequence of str
        Which to ask; all of them by default.

    Returns
    -------
    list of Finding
        One a golden vector asked; one with ``passed=None`` for a function that is not offered.
    """
    return [finding for function in functions for finding in _function(subject, function)]
