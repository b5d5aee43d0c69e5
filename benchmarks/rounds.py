"""How many rounds a structured rotation needs: D_mse of the inputs that break few of them, for every bit width.

    python -m benchmarks.rounds [--draws-scale K] [--json PATH]

For each dimension, rule and number of rounds: the worst input and bit width b = 1..8. The exact Lloyd-Max codebook
of the sphere is used; the unit of replication is the draw of the rotation. Three figures: D over the bound of
Theorem 1, after 3 standard errors are taken off (above 1 the bound is broken); D over the exact D of a Haar
rotation, averaged over the inputs (what the choice costs on such inputs); and how far E<x, x~> is from Haar's
1 - D, relatively, again less 3 standard errors. Rules: "planes" is
`turboquant_ref.rotation.Structured`; "classic" is the same without the layers of random plane rotations, which for
a power of two is the usual product of random signs and Hadamard transforms.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from turboquant_ref.codebook import lloyd_max
from turboquant_ref.rotation import ROUNDS, Structured

DIMENSIONS = (2, 3, 4, 5, 7, 8, 16, 50, 64, 96, 127, 128, 200, 384, 768, 1009, 1536)
RULES = (("classic", 1), ("classic", 2), ("classic", 3), ("classic", 4), ("planes", 2), ("planes", 3))
RESULT = Path(__file__).parent / "results" / "rounds.json"


def inputs(d: int) -> dict[str, NDArray[np.float64]]:
    """Unit vectors that a rotation with little mixing maps to few values, by name."""
    rng = np.random.default_rng(0)
    block = 1 << (d.bit_length() - 1)
    found: dict[str, NDArray[np.float64]] = {}

    def put(name: str, index: Any, values: Any = 1.0) -> None:
        x = np.zeros(d)
        x[index] = values
        found[name] = x / np.linalg.norm(x)

    for i in sorted({0, 1, d // 2, d - 1}):
        put(f"e{i}", i)
    for i, j in sorted({(0, 1), (0, d // 2), (0, d - 1), (d - 2, d - 1), (d // 2 - 1, d // 2)} if d > 2 else {(0, 1)}):
        put(f"e{i}+e{j}", [i, j])
    put("e0-e1", [0, 1], [1, -1])
    for k in (4, 8, 16):
        if k < d:
            put(f"{k} contiguous", slice(0, k))
            put(f"{k} contiguous, random signs", slice(d - k, d), rng.choice([-1.0, 1.0], k))
            put(f"{k} spread", [i * (d // k) for i in range(k)])
    put("constant", slice(None))
    put("alternating", slice(None), 1.0 - 2 * (np.arange(d) % 2))
    put("half constant", slice(0, (d + 1) // 2))
    put("Hadamard row", slice(0, block), hadamard(block)[block // 2 + 1 if block > 2 else 1])
    return found


def rotation(d: int, seed: int, rule: str, rounds: int) -> Structured:
    """A rotation of that rule; "classic" has the plane layers turned by no angle."""
    pi = Structured(d, seed, rounds=rounds)
    if rule == "classic":
        object.__setattr__(pi, "cosines", np.ones_like(pi.cosines))
        object.__setattr__(pi, "sines", np.zeros_like(pi.sines))
    return pi


def measure(d: int, rule: str, rounds: int, draws: int) -> dict[str, Any]:
    """The worst input and bit width of one rule: see the module docstring."""
    found = inputs(d)
    x = np.stack(list(found.values()))
    books = {b: lloyd_max(d, b) for b in range(1, 9)}
    errors = np.empty((draws, 8, len(x)))
    slopes = np.empty((draws, 8, len(x)))
    for seed in range(draws):
        y = rotation(d, seed, rule, rounds).apply(x)
        for b, book in books.items():
            decoded = book.centroids[np.searchsorted(book.boundaries, y, side="right")]
            errors[seed, b - 1] = np.sum((y - decoded) ** 2, axis=-1)
            slopes[seed, b - 1] = np.sum(y * decoded, axis=-1)
    mean, error = errors.mean(axis=0), errors.std(axis=0, ddof=1) / math.sqrt(draws)
    exact = np.array([book.distortion for book in books.values()])
    bound = math.sqrt(3) * math.pi / 2 * 4.0 ** -np.arange(1.0, 9.0)
    ratio = (mean - 3 * error) / bound[:, None]
    b, i = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    average = mean.mean(axis=1) / exact
    spread = errors.mean(axis=2).std(axis=0, ddof=1) / math.sqrt(draws) / exact
    worst = int(np.argmax(average - 3 * spread))
    off = np.abs(slopes.mean(axis=0) / (1 - exact)[:, None] - 1)
    off -= 3 * slopes.std(axis=0, ddof=1) / math.sqrt(draws) / (1 - exact)[:, None]
    bits_off, input_off = np.unravel_index(int(np.argmax(off)), off.shape)
    return {
        "d": d,
        "rule": rule,
        "rounds": rounds,
        "draws": draws,
        "bound_ratio_minus_3se": float(ratio[b, i]),
        "bound_ratio": float(mean[b, i] / bound[b]),
        "standard_error": float(error[b, i] / bound[b]),
        "input": list(found)[i],
        "bits": int(b) + 1,
        "haar_ratio": float(average[worst]),
        "haar_ratio_standard_error": float(spread[worst]),
        "haar_ratio_bits": worst + 1,
        "slope_off_minus_3se": max(0.0, float(off[bits_off, input_off])),
        "slope_off_bits": int(bits_off) + 1,
        "slope_off_input": list(found)[input_off],
    }


def main(argv: list[str] | None = None) -> None:
    """Run, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounds", description=__doc__.splitlines()[0])
    parser.add_argument("--draws-scale", type=float, default=1.0, help="times the default number of draws")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the result goes")
    options = parser.parse_args(argv)
    cells = [(d, rule, rounds) for d in DIMENSIONS for rule, rounds in RULES]
    rows = []
    for done, (d, rule, rounds) in enumerate(cells):
        if sys.stderr.isatty():
            print(f"\r[{'#' * (40 * done // len(cells)):40}] {done}/{len(cells)}", end="", file=sys.stderr)
        draws = int(options.draws_scale * min(max(60_000 // d, 50), 1200))
        rows.append(measure(d, rule, rounds, draws))
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)

    heads = [f"{rule} {rounds}" for rule, rounds in RULES]
    print("D / bound of Theorem 1, minus 3 standard errors: worst of the inputs and of b = 1..8 (at that b)")
    print(f"{'d':>5}" + "".join(f"{head:>16}" for head in heads))
    for d in DIMENSIONS:
        of_d = [row for row in rows if row["d"] == d]
        print(f"{d:5}" + "".join(f"{row['bound_ratio_minus_3se']:11.3f} (b{row['bits']})" for row in of_d))
    print("\nD / exact D of Haar, mean over the inputs: the worst b, +- its standard error")
    print(f"{'d':>5}" + "".join(f"{head:>16}" for head in heads))
    for d in DIMENSIONS:
        of_d = [row for row in rows if row["d"] == d]
        print(f"{d:5}" + "".join(f"{r['haar_ratio']:9.3f}+-{r['haar_ratio_standard_error']:5.3f}" for r in of_d))
    print("\n|E<x, x~> / (1 - D) - 1|, minus 3 standard errors: worst of the inputs and of b")
    print(f"{'d':>5}" + "".join(f"{head:>16}" for head in heads))
    for d in DIMENSIONS:
        of_d = [row for row in rows if row["d"] == d]
        print(f"{d:5}" + "".join(f"{r['slope_off_minus_3se']:11.4f} (b{r['slope_off_bits']})" for r in of_d))
    command = "python -m benchmarks.rounds"
    if options.draws_scale != 1.0:
        command += f" --draws-scale {options.draws_scale:g}"
    record = {"command": command, "numpy": np.__version__, "default_rounds": ROUNDS, "rows": rows}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
