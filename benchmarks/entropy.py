"""How near the limit: the entropy-coded uniform quantizer beside TurboQuant's codebook, exact; and the bytes they take.

    python -m benchmarks.entropy [--vectors N] [--json PATH]

First table, exact: how many bits a coordinate each code spends above the rate-distortion function of the uniform sphere
at its own distortion. "fixed" is Algorithm 1 at b bits, "coded" the same with its indices at their entropy, "uniform"
`codebook.uniform` at b bits of entropy. Second table, measured: bits an index of N vectors in the entropy-coded
form, all of it counted (words, index of blocks, table, header) but the side scalars, which stand apart.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref import codebook, data, entropy, mse, rotation, sphere, theory

DIMENSIONS = (64, 128, 768, 1536, None)
RESULT = Path(__file__).parent / "results" / "entropy.json"
Floats = NDArray[np.float32]


def curve() -> list[dict[str, Any]]:
    """Distortion and distance from the rate-distortion function, bits a coordinate, of the three codes."""
    rows = []
    for d in DIMENSIONS:
        for bits in range(1, 7):
            fixed, uniform = codebook.lloyd_max(d, bits), codebook.uniform(d, bits)
            limit = theory.rate(d, fixed.distortion)
            rows.append(
                {
                    "d": d,
                    "bits": bits,
                    "limit_distortion": theory.rate_distortion(d, bits),
                    "fixed_distortion": fixed.distortion,
                    "uniform_distortion": uniform.distortion,
                    "fixed_gap": bits - limit,
                    "coded_rate": fixed.entropy,
                    "coded_gap": fixed.entropy - limit,
                    "uniform_gap": bits - theory.rate(d, uniform.distortion),
                    "uniform_cells": len(uniform.centroids),
                }
            )
    return rows


def clusters(n: int, d: int) -> Floats:
    """Vectors that are far from isotropic: 100 centers, noise a third as long, and coordinates of very unequal size."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((100, d))
    x = centers[rng.integers(0, 100, n)] + rng.standard_normal((n, d)) / 3
    return (x * np.exp(rng.standard_normal(d))).astype(np.float32)


def sizes(name: str, x: Floats, rates: tuple[int, ...] = (1, 2, 3, 4)) -> list[dict[str, Any]]:
    """What indices of x take, by the coder, after one random rotation."""
    d = x.shape[1]
    pi, rows = rotation.haar(d, 0), []
    for kind in (codebook.lloyd_max, codebook.uniform):
        for rate in rates:
            Q = mse.Quantizer(pi, kind(d, rate))
            code = mse.quantize(Q, x)
            unit = x / code.scales[:, None]
            error = 0.0
            for at in range(0, len(x), 4096):
                part = slice(at, at + 4096)
                decoded = codebook.look_up(Q.codebook, code.indices[part], np.float32)
                error += float(((pi.apply(unit[part]) - decoded) ** 2).sum(dtype=np.float64))
            row = {
                "data": name,
                "vectors": len(x),
                "d": d,
                "code": "fixed" if kind is codebook.lloyd_max else "uniform",
                "rate": rate,
                "entropy": Q.codebook.entropy,
                "exact_distortion": Q.codebook.distortion,
                "distortion": error / len(x),
                "scalar_bits": 32 / d,
            }
            for block in (256, 1024):
                coded = entropy.encode(code.indices, Q.codebook, block)
                if not np.array_equal(entropy.decode(coded), code.indices):
                    raise AssertionError("the entropy-coded form is not lossless")
                row[f"bits_{block}"] = coded.bits_per_index
                row[f"excess_{block}"] = coded.bits_per_index / Q.codebook.entropy - 1
                ideal = float(np.dot(np.bincount(code.indices.ravel(), minlength=len(coded.table)), cost(coded)))
                row[f"overhead_{block}"] = 8 * coded.nbytes / ideal - 1
            rows.append(row)
    return rows


def cost(coded: entropy.EntropyCoded) -> NDArray[np.float64]:
    """Bits of each symbol under the model."""
    return 24 - np.log2(coded.table.astype(np.float64))


def main(argv: list[str] | None = None) -> None:
    """Run, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entropy", description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=100_000, help="how many vectors are coded")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the result goes")
    options = parser.parse_args(argv)

    exact = curve()
    print("bits a coordinate above the rate-distortion function of the sphere (exact): fixed / coded / uniform")
    print(f"{'d':>8}" + "".join(f"{bits:>15} bit" for bits in range(1, 7)))
    for d in DIMENSIONS:
        cells = [f"{r['fixed_gap']:.4f} {r['coded_gap']:.4f} {r['uniform_gap']:.4f}" for r in exact if r["d"] == d]
        print(f"{'infinite' if d is None else d:>8}" + "".join(f"  {cell}" for cell in cells))

    n = options.vectors
    glove = np.asarray(data.glove()[1], np.float32)
    measured = sizes("sphere", sphere.uniform(n, 128, 0).astype(np.float32))
    measured += sizes("clusters", clusters(n, 128)) + sizes("glove", glove)
    print("\nbits an index, all counted but the side scalars (blocks of 256 rows; of 1024), and over the entropy")
    head = ("data", "n", "d", "code", "rate", "entropy", "bits", "excess", "1024:", "excess", "D exact", "D", "scalars")
    print(("{:>9}" * len(head)).format(*head))
    for r in measured:
        print(
            f"{r['data']:>9}{r['vectors']:9}{r['d']:9}{r['code']:>9}{r['rate']:9}{r['entropy']:9.5f}{r['bits_256']:9.5f}"
            f"{r['excess_256']:9.3%}{r['bits_1024']:9.5f}{r['excess_1024']:9.3%}{r['exact_distortion']:9.5f}"
            f"{r['distortion']:9.5f}{r['scalar_bits']:9.3f}"
        )
    command = "python -m benchmarks.entropy" + (f" --vectors {n}" if n != 100_000 else "")
    record = {"command": command, "numpy": np.__version__, "constriction": version("constriction")}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({**record, "curve": exact, "sizes": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
