"""The audit of public packages: its records are those of its adapters; a part is run where they are installed."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from audit import HERE, Adapter, adapters, judge, requirements
from audit.page import as_page

from turboquant_ref import theory
from turboquant_ref.conformance.statistics import Figure, Plan
from turboquant_ref.conformance.verdict import Verdict

ADAPTERS = {a.name: a for a in adapters()}
PLAN = Plan(grid=((128, 3),), draws=24, rows=64)


def test_every_adapter_says_what_it_was_written_for() -> None:
    assert len({a.distribution for a in ADAPTERS.values()}) >= 12
    for adapter in ADAPTERS.values():
        assert adapter.about.split()[1] == adapter.version + ":", adapter.name
        assert "Claims:" in adapter.about or "Claims as" in adapter.about, adapter.name


def test_requirements_are_names_and_versions_of_what_is_audited_or_shared() -> None:
    shared = {"numpy", "scipy", "torch", "transformers"}
    assert set(requirements()) == {a.distribution for a in ADAPTERS.values()} | shared


def test_the_page_is_that_of_the_records_and_the_records_those_of_the_adapters() -> None:
    records = json.loads((HERE / "audit.json").read_text())
    assert {n: r["version"] for n, r in records.items()} == {n: a.version for n, a in ADAPTERS.items()}
    assert (HERE / "AUDIT.md").read_text() == as_page(records, (HERE / "NOTES.md").read_text())


def _verdict(adapter: Adapter) -> Verdict:
    found = judge(adapter, plan=PLAN)
    assert isinstance(found, Verdict), found
    return found


def _figure(verdict: Verdict, check: str) -> Figure:
    (found,) = (f for f in verdict.findings if f.check == check)
    assert isinstance(found, Figure)
    assert found.estimate is not None
    return found


needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss-cpu is not installed")
needs_turbovec = pytest.mark.skipif(find_spec("turbovec") is None, reason="turbovec is not installed")


@needs_faiss
def test_faiss_sqtqmse_is_algorithm_1_without_a_norm() -> None:
    verdict = _verdict(ADAPTERS["faiss_sqtqmse"])
    assert _figure(verdict, "roundtrip d=128 b=3: distortion").passed
    assert _figure(verdict, "roundtrip d=128 b=3: distortion, one-hot").passed
    assert "norm lost" in [d.name for d in verdict.diagnoses] or "not scaled to unit norm" in [
        d.name for d in verdict.diagnoses
    ]


@needs_faiss
def test_faiss_tq_has_the_slope_of_a_qjl_term_that_is_divided_once_too_often() -> None:
    figure = _figure(_verdict(ADAPTERS["faiss_tq"]), "inner_product d=128 b=3: slope")
    assert figure.passed is False
    assert figure.estimate is not None
    # 1 - D(2)(1 - 1/√d); the table is the Gaussian limit's, whose D(2) is the same to 1e-4
    expected = 1 - theory.mse(128, 2) * (1 - 128**-0.5)
    assert figure.estimate.value == pytest.approx(expected, abs=figure.estimate.half_width + 2e-4)


@needs_faiss
def test_faiss_eden_is_unbiased() -> None:
    verdict = _verdict(ADAPTERS["faiss_eden"])
    for figure in ("slope", "variance"):
        assert _figure(verdict, f"inner_product d=128 b=3: {figure}").passed
    assert _figure(verdict, "roundtrip d=128 b=3: distortion").passed


@needs_turbovec
def test_turbovec_is_unbiased_and_has_no_seed() -> None:
    verdict = _verdict(ADAPTERS["turbovec"])
    for figure in ("slope", "variance"):
        assert _figure(verdict, f"inner_product d=128 b=3: {figure}").passed
    assert "seed ignored" in [d.name for d in verdict.diagnoses]
