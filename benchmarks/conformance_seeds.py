"""Does the kit ever fail the reference?  `python -m benchmarks.conformance_seeds [--runs 200] [--first 0]`.

Level 2 is run on `turboquant_ref.conformance.reference` under many seeds of the kit, each with other inputs and
other seeds of the subject. A right implementation must never fail; with a false-alarm rate of 1e-6 a run, none
of 200 should. How far the worst figure of every run was from its claim, in standard errors and as a share of
what is allowed, is printed beside: if the tails of the intervals were wrong, it would show there long before a
check fails.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from turboquant_ref.conformance import reference, statistics, subject, verdict

RESULTS = Path(__file__).parent / "results" / "conformance_seeds.json"


def run(seed: int, plan: statistics.Plan) -> dict[str, object]:
    """One run of level 2: the checks that failed, and the worst figure."""
    found = verdict.run(subject.Direct(reference), replace(plan, seed=seed), (2,))
    figures = [f for f in found.findings if isinstance(f, statistics.Figure) and f.estimate and f.estimate.draws > 1]
    errors = [abs(f.estimate.value - f.claimed) / f.estimate.std_error for f in figures if f.estimate]
    shares = [abs(f.estimate.value - f.claimed) / f.estimate.half_width for f in figures if f.estimate]
    return {
        "seed": seed,
        "failed": [f.check for f in found.failed],
        "checks": sum(f.passed is not None for f in found.findings),
        "figures": len(figures),
        "root_mean_square": float(np.sqrt(np.mean(np.square(errors)))),
        "worst": max(errors),
        "worst_share": max(shares),
        "seconds": round(found.seconds, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the plan of check --quick")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    plan = replace(verdict.QUICK if args.quick else statistics.Plan(), budget=float("inf"))
    rows = []
    for seed in range(args.first, args.first + args.runs):
        rows.append(run(seed, plan))
        print(
            "seed {seed}: {checks} checks, failed {failed}; {figures} figures, root mean square {root_mean_square:.3f} "
            "standard errors, worst {worst:.2f}, {worst_share:.2f} of what is allowed; {seconds} s".format(**rows[-1]),
            flush=True,
        )
        lines = ",\n".join(" " + json.dumps(row) for row in rows)
        args.out.write_text(f'{{"plan": {json.dumps(repr(plan))}, "runs": [\n{lines}\n]}}\n')
    failures = sum(bool(row["failed"]) for row in rows)
    print(f"{failures} of {len(rows)} runs failed")
    return int(failures > 0)


if __name__ == "__main__":
    raise SystemExit(main())
