"""Statistical checks: one false-alarm rate for all of them, and for each the smallest deviation that it would see.

The unit of replication is the draw of (Pi, S): `Estimate.values` holds one figure a draw.  Seeds are fixed, so that a
check always ends the same way; the rate is the probability that a right program had met seeds that fail it.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from turboquant_ref.measure import Estimate

FALSE_ALARM = 1e-9
"""Of one check, two-sided, by Student's law (for squared errors, whose law is skewed, an approximation for many draws).
The suite has fewer than 1000 of them: 1e-6 for all."""

POWER = 0.99
PREFIX = "statistical: "


class NoPower(Exception):
    """A check passed that could not have failed: no AssertionError, so that no planted bug is "caught" by it."""


def expect(estimate: Estimate | np.ndarray, expected: float, what: str, detects: float) -> None:
    """The mean over draws is `expected`; and the check is no formality: it would see a deviation of `detects`."""
    if not isinstance(estimate, Estimate):
        estimate = Estimate(np.asarray(estimate, dtype=np.float64))
    estimate = dataclasses.replace(estimate, confidence=1 - FALSE_ALARM)
    seen = estimate.detectable(POWER)
    line = f"{what}: {estimate}, expected {expected:.6g}, {estimate.draws} draws, would see {seen:.2g} of {detects:.2g}"
    print(PREFIX + line)
    assert estimate.contains(expected), line
    if seen > detects:
        raise NoPower(line)


def expect_at_most(estimate: Estimate, bound: float, what: str) -> None:
    """The mean over draws is not above `bound`: its one-sided lower confidence limit is not."""
    t = float(stats.t.ppf(1 - FALSE_ALARM, estimate.draws - 1))
    low = estimate.value - t * estimate.std_error
    line = f"{what}: {estimate.value:.6g}, at least {low:.6g}, allowed at most {bound:.6g}, {estimate.draws} draws"
    print(PREFIX + line)
    assert low <= bound, line
