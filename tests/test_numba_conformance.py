"""The conformance kit, all three levels, on the compiled package: what a stranger's port is asked."""

from __future__ import annotations

import pytest

conformance = pytest.importorskip("numba_kernels.conformance", reason="numba is not installed", exc_type=ImportError)

from numba_kernels import _jit, mse  # noqa: E402
from turboquant_ref.conformance import report, subject, verdict  # noqa: E402

SIBLINGS = {"polar", "rabitq"}


@pytest.mark.skipif(_jit.config.DISABLE_JIT, reason="takes minutes in Python")
def test_numba_kernels_conforms() -> None:
    found = verdict.run(subject.Direct(conformance), verdict.QUICK, (0, 1, 2))
    assert found.status == verdict.CONFORMS, report.as_text(found)
    assert {f.level for f in found.findings if f.passed} == {0, 1, 2}
    offered = {name for name in subject.FUNCTIONS if hasattr(conformance, name)}
    assert offered == set(subject.FUNCTIONS) - SIBLINGS


@pytest.mark.skipif(_jit.config.DISABLE_JIT, reason="takes minutes in Python")
def test_a_planted_mistake_is_caught(monkeypatch) -> None:
    """Centroids of the wrong sign, in what decodes."""
    right = mse.look_up
    monkeypatch.setattr(mse, "look_up", lambda book, indices, dtype: -right(book, indices, dtype))
    found = verdict.run(subject.Direct(conformance), verdict.QUICK, (1,))
    assert found.status == verdict.CONFORMS_NOT
