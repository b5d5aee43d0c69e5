"""The terminal summary of the statistical checks: how many, their false-alarm rate, and what each would see."""

from __future__ import annotations

import os

# small products by several threads stall whenever the cores are busy; must come before NumPy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# the same examples everywhere, so that a failure can be replayed; no deadline, since machines differ
settings.register_profile("reference", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("reference")

pytest.register_assert_rewrite("_boxes", "_checks", "_stats")

from _stats import FALSE_ALARM, PREFIX  # noqa: E402  (after the assertions of that module are rewritten)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, []) if r.when == "call"]
    lines = [line for report in reports for line in report.capstdout.splitlines() if line.startswith(PREFIX)]
    if lines:
        rate = f"{FALSE_ALARM:.0e} each, at most {len(lines) * FALSE_ALARM:.1e} together"
        terminalreporter.write_line(
            f"{len(lines)} statistical checks, false-alarm rate {rate} (-vv prints each with its power)"
        )
    if terminalreporter.config.get_verbosity() > 0:
        for line in lines:
            terminalreporter.write_line(line)
