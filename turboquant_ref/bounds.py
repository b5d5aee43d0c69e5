"""What no quantizer can do better than, and what the paper promises: Theorems 1 to 3, rate-distortion, entropy coding.

`theory` has the exact values that lie between these bounds, and re-exports what is here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from . import codebook, sphere
from .vectors import check_bits, check_dimension

__all__ = [
    "entropy",
    "huffman",
    "huffman_lengths",
    "rate",
    "rate_distortion",
    "theorem1_bound",
    "theorem2_bound",
    "theorem3_mse",
    "theorem3_prod",
]


def theorem1_bound(bits: float) -> float:
    """Theorem 1: D_mse <= (√3 π/2) 4^-b.

    Text copies that lose the square root print 3π/2.  The proof cites Panter-Dite, which is an asymptotic equality, not
    an inequality; the bound holds in every cell that we computed (b = 1..12), at 1.87 times D at b = 1, 1.01 at b = 8.
    """
    return math.sqrt(3) * math.pi / 2 * math.exp2(-2 * bits)


def theorem2_bound(d: int, bits: float) -> float:
    """Theorem 2: D_prod <= (√3 π² ||y||² / d) 4^-b, for unit y.

    Holds for b >= 1 (2.7 times the truth at b = 1, 1.1 at b = 5).  The paper's "any b >= 0" means nothing at b = 0:
    no unbiased code exists.  "Within 2.7 of optimal" is said of MSE: here the stated bounds are √3 π² = 17.1 apart.
    """
    return math.sqrt(3) * math.pi**2 / check_dimension(d) * math.exp2(-2 * bits)


def theorem3_mse(bits: float) -> float:
    """Theorem 3 and Lemma 3: D_mse >= 4^-b, of any quantizer.

    False as stated for finite d: the proof takes the Shannon lower bound of a law that has no density in R^d.
    TurboQuant itself attains it at d = 3 and breaks it at d = 2 (1 - 8/π² = 0.189 < 0.25).  The true bound is
    `rate_distortion`, for every d below 4^-b (by 0.3 % at d = 1536, b = 4) and tending to it.
    """
    return math.exp2(-2 * bits)


def theorem3_prod(d: int, bits: float) -> float:
    """Theorem 3: D_prod >= 4^-b / d, of any quantizer, for some unit y; as unproved for finite d as `theorem3_mse`."""
    return math.exp2(-2 * bits) / check_dimension(d)


def _tilted(d: int, kappa: float) -> tuple[float, float]:
    """Distortion and rate (nats) at slope parameter κ: the law of cos θ tilted by exp(κ cos θ).

    D = 1 - A², R = κA - ln E exp(κ cos θ), A the tilted mean, which is the Bessel ratio I_{d/2}(κ) / I_{d/2-1}(κ).
    Gauss-Legendre in θ around the mode, of 1 - cos θ, so that neither D nor R cancels at high rates.
    """
    n = d - 2
    root = math.hypot(n, 2 * kappa)
    cos = 2 * kappa / (root + n) if n else 1.0  # κ sin² = n cos at the mode
    mode = math.atan2(math.sqrt(n * cos / kappa), cos)
    width = 18 / math.sqrt(root + 1)
    theta, w = sphere.gauss_legendre(max(0.0, mode - width), min(math.pi, mode + width))
    drop = -2 * kappa * np.sin((theta + mode) / 2) * np.sin((theta - mode) / 2)
    weight = w * np.exp(drop + (n * np.log(np.sin(theta) / math.sin(mode)) if n else 0.0))
    total = float(weight.sum())
    short = float((weight * 2 * np.sin(theta / 2) ** 2).sum()) / total  # 1 - A
    top = -2 * kappa * math.sin(mode / 2) ** 2 + (n * math.log(math.sin(mode)) if n else 0.0)
    return short * (2 - short), -kappa * short - top - math.log(total * sphere.Coordinate(d).constant)


def _solve(d: int, which: int, target: float) -> float:
    """The other of (distortion, rate in nats) where the one numbered `which` is `target`."""

    def excess(u: float) -> float:
        return math.log(max(_tilted(d, d * math.exp(u))[which], 1e-300) / target)

    u: float = brentq(excess, -18.0, 60.0, xtol=1e-14, rtol=1e-14)
    return _tilted(d, d * math.exp(u))[1 - which]


def rate_distortion(d: int | None, rate_bits: float) -> float:
    """The distortion-rate function of the uniform sphere: the true form of Lemma 3, at `rate_bits` bits a coordinate.

    No code of that rate, however long its blocks, has a smaller E ||x - x̂||²; 4^-b is its limit for large d.

    Parameters
    ----------
    d : int or None
    rate_bits : float
        From 0 to 16.
    """
    if not 0 <= rate_bits <= 16:
        raise ValueError(f"rate_bits must lie between 0 and 16 bits a coordinate, got {rate_bits!r}")
    if d is None:
        return math.exp2(-2 * rate_bits)
    return _solve(check_dimension(d), 1, rate_bits * d * math.log(2)) if rate_bits else 1.0


def rate(d: int | None, distortion: float) -> float:
    """The rate-distortion function of the uniform sphere, bits a coordinate: the inverse of `rate_distortion`."""
    if not 1e-18 <= distortion <= 1:
        raise ValueError(f"distortion must lie between 1e-18 and 1, got {distortion!r}")
    if d is None:
        return -math.log(distortion, 4)
    return _solve(check_dimension(d), 0, distortion) / (d * math.log(2)) if distortion < 1 else 0.0


def entropy(d: int | None, bits: int) -> float:
    """Entropy of one index in bits (end of section 3.1): what an ideal entropy code would store instead of b."""
    return codebook.lloyd_max(d, check_bits(bits, high=codebook.MAX_BITS)).entropy


def huffman_lengths(probabilities: Iterable[float] | NDArray[np.float64]) -> list[int]:
    """Codeword lengths of an optimal prefix code (Huffman), in the order of `probabilities` (positive, any scale)."""
    weights = [float(p) for p in probabilities]
    if not weights or not all(0 < p < math.inf for p in weights):
        raise ValueError("probabilities must be one or more finite positive numbers")
    lengths = [0] * len(weights)
    heap = [(p, i, [i]) for i, p in enumerate(weights)]
    heapq.heapify(heap)
    while len(heap) > 1:
        p, _, left = heapq.heappop(heap)
        r, order, right = heapq.heappop(heap)
        for i in left + right:
            lengths[i] += 1
        heapq.heappush(heap, (p + r, order, left + right))
    return lengths


def huffman(d: int | None, bits: int) -> float:
    """Mean Huffman length of one index in bits: the "optimal prefix code" of section 3.1 (4.8 % saved at b = 4)."""
    p = codebook.lloyd_max(d, check_bits(bits, high=codebook.MAX_BITS)).probabilities
    return float(np.dot(p, huffman_lengths(p)))
