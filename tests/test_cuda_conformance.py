"""The conformance kit on cuda_kernels: all of it on a GPU, of its golden vectors some small ones in the simulator."""

from __future__ import annotations

import pytest
from _cuda import SIMULATED, needs_gpu

from turboquant_ref.conformance import deterministic, golden, report, subject, verdict

conformance = pytest.importorskip("cuda_kernels.conformance", reason="needs a GPU", exc_type=RuntimeError)

SIBLINGS = {"polar", "rabitq"}


def failures(findings):
    return [f"{f.case} {f.detail}" for f in findings if f.passed is not True]


@pytest.mark.parametrize("function", ["pack", "unpack", "fwht", "index"])
def test_level_0(function) -> None:
    findings = deterministic.check(conformance, (function,))
    assert not failures(findings)
    assert len(findings) >= 20


@pytest.mark.parametrize("function", ["mse", "qjl", "prod", "attention"])
def test_level_1(function) -> None:
    """Every golden vector on a GPU; in the simulator one of each of at most 11 groups, of at most 16 dimensions."""
    name, *types = deterministic.FUNCTIONS[function]
    groups = {}
    for case in golden.cases(name):
        if case.group["type"] in types and (not SIMULATED or case.group["d"] <= 16):
            groups.setdefault(case.number, []).append(case)
    if not SIMULATED:
        findings = deterministic.check(conformance, (function,))
    else:
        chosen = [group[len(group) // 2] for group in groups.values()]
        chosen = chosen[:: -(-len(chosen) // 11)]
        assert len(chosen) >= 2
        call = getattr(conformance, function)
        findings = [f for case in chosen for f in deterministic._ask(function, call, [case])]
    assert not failures(findings)


@needs_gpu
def test_cuda_kernels_conforms() -> None:
    found = verdict.run(subject.Direct(conformance), verdict.QUICK, (0, 1, 2))
    assert found.status == verdict.CONFORMS, report.as_text(found)
    assert {f.level for f in found.findings if f.passed} == {0, 1, 2}


def test_what_is_offered() -> None:
    offered = {name for name in subject.FUNCTIONS if hasattr(conformance, name)}
    assert offered == set(subject.FUNCTIONS) - SIBLINGS
