"""What is said about TurboQuant, and the number that settles it: ``python -m benchmarks.folklore``.

Every line is exact (from `theory`) or measured over independent draws with a 99 % interval.
"""

from __future__ import annotations

import math

import numpy as np

import turboquant_ref as tq
from turboquant_ref import mse, prod, rotation, theory
from turboquant_ref.measure import Estimate

D = 128


def fp16_norms() -> str:
    """The relative error that a float16 norm adds, against the distortion it adds to."""
    norms = np.random.default_rng(0).uniform(1, 2, 1_000_000)
    added = float(np.mean((norms.astype(np.float16) / norms - 1) ** 2))
    share = [added / theory.mse(D, b) for b in (4, 8)]
    return (
        f"adds {added:.1e} to the relative D_mse: {share[0]:.2%} of it at 4 bits, {share[1]:.2%} at 8; "
        "the trap is the range (65504), not the precision"
    )


def half_as_many_signs() -> str:
    """d·Var of Algorithm 2's estimate at rho = 0, m = d and m = d/2 signs, 3 bits, Gaussian S."""
    full = D * theory.variance("prod", D, 3, 0.0)
    # Var = [pi/2 E||r||^2 - E<y,r>^2] / m, exactly inversely proportional to m
    x = tq.sphere.uniform(256, D, 1)
    y = tq.measure.correlated_queries(x, 2, rho=0.0)
    values = []
    for seed in range(64):
        Q = prod.setup(D, 3, seed, m=D // 2)
        estimates = (prod.dequantize(Q, prod.quantize(Q, x)) * y).sum(-1)
        values.append(D * float(np.mean(estimates**2)))
    half = Estimate(np.array(values))
    return f"d·Var at 3 bits is {full:.4f} with m = d (exact), {half} with m = d/2: half a bit saved costs a factor 2"


def high_reconstruction_error() -> str:
    """D_mse of Algorithm 2 decoded, against Algorithm 1's at the same bits."""
    rows = [
        f"{b} bits: {theory.distortion('prod', D, b):.3f} against {theory.mse(D, b):.3f}"
        for b in (2, 3, 4)
    ]
    return (
        "of Algorithm 2 only, and it is the price of the sign bit: ||x - x~||^2, prod against mse, " + ", ".join(rows)
    )


def decompress_then_attend() -> str:
    """Inner products with decoded vectors against inner products straight from codes."""
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((512, D)).astype(np.float32), rng.standard_normal((64, D)).astype(np.float32)
    Q = mse.setup(D, 3, 0)
    code = mse.quantize(Q, x)
    straight, decoded = mse.inner_product(Q, y, code), y @ mse.dequantize(Q, code).T
    scale = np.linalg.norm(y, axis=1)[:, None] * np.linalg.norm(x, axis=1)
    return (
        f"the same number: they differ by at most {np.max(np.abs(straight - decoded) / scale):.1e} ||x|| ||y|| in "
        f"float32, where quantization itself errs by {math.sqrt(theory.variance('mse', D, 3, 0.0)):.1e}"
    )


def one_hadamard_round() -> str:
    """D_mse of a one-hot vector under one signed Hadamard round, and under the default structured rotation."""
    x = np.eye(D)[:1]
    book = tq.codebook.lloyd_max(D, 2)

    def measured(rounds: int) -> Estimate:
        values = []
        for seed in range(400):
            Q = mse.Quantizer(rotation.Structured(D, seed, rounds=rounds), book)
            values.append(float(np.sum((x - mse.dequantize(Q, mse.quantize(Q, x))) ** 2)))
        return Estimate(np.array(values))

    one, default = measured(1), measured(rotation.ROUNDS)
    return (
        f"D_mse of a one-hot vector at 2 bits: {one.value:.3f} with one round, {default} with the default "
        f"structured rotation, {theory.mse(D, 2):.3f} Haar; the theorem's bound is {theory.theorem1_bound(2):.3f}"
    )


TABLE = {
    "fp16 norms are a trap": fp16_norms,
    "m = d/2 signs are a good default": half_as_many_signs,
    "a high reconstruction error is expected": high_reconstruction_error,
    "decompress-then-attend is unusable": decompress_then_attend,
    "one Hadamard round is as good as a rotation": one_hadamard_round,
}

if __name__ == "__main__":
    for claim, settle in TABLE.items():
        print(f"“{claim}” (d = {D})\n    {settle()}")
