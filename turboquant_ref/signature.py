"""What tells one quantizer from another: the few numbers that follow exactly from how it is put together, and measured.

A quantizer of this family is a rotation, codebooks, a scale rule and perhaps a sketch; `exact` reads them off the
quantizer and computes, `measured` runs it.  The moments are those of an isotropic x (uniform on the sphere): a Haar Pi
makes every x one, a poor rotation does not, and is given away by two vectors that are anything but isotropic,

    one-hot    e_1, which one Hadamard round, signed or not, maps to d coordinates ±1/√d: D = (1 - √d c(1/√d))²
    constant   (1, …, 1)/√d, which a Hadamard matrix without signs maps to e_1: D = (1 - c_n)² + (d - 1) c(0)²,
               and one with signs before it to sums of d signs, (2K - d)/d with K binomial

(c(t) the centroid of t, c_n the last).  "-" in a table, None here: no closed form, to be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from . import codebook as codebooks
from . import sphere, theory
from .codes import module_of
from .measure import Estimate

__all__ = ["FIGURES", "ROTATIONS", "Signature", "exact", "measured"]

Floats = NDArray[np.float64]

FIGURES = ("distortion", "slope", "across", "along", "one_hot", "constant")
"""The figures of a `Signature` that `measured` measures."""

ROTATIONS = ("haar", "hadamard", "unsigned", "qr", "none")
"""What `exact` can be told of Pi: Haar's law; one round of random signs and Hadamard; a Hadamard matrix alone; the Q of
a QR as it comes; no rotation."""


@dataclass(frozen=True)
class Signature:
    """The numbers of one quantizer, exact; None where there is no closed form.

    Attributes
    ----------
    d, bits : int
        Dimension, and nominal bits a coordinate.
    excess : float or None
        How much larger the distortion of its codebook is than that of the codebook of Eq 4, relatively.
    distortion : float or None
        D_mse: E ||x - x̂||² of unit x.
    slope : float or None
        E <y, x̂> / <y, x>.
    across, along : float or None
        d · Var <y, x̂> for unit y at <x, y> = 0 and 1.
    one_hot, constant : float or None
        E ||x - x̂||² of the two vectors of the module's docstring.
    negative : float or None
        P(Pi_11 < 0): 1/2, but 1 for a QR without sign fix, whose library never gives a positive Pi_11.
    bytes : float
        Of one stored vector, everything counted; a mean where indices are entropy-coded.
    """

    d: int
    bits: int
    excess: float | None
    distortion: float | None
    slope: float | None
    across: float | None
    along: float | None
    one_hot: float | None
    constant: float | None
    negative: float | None
    bytes: float

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate, everything counted."""
        return 8 * self.bytes / self.d


# ------------------------------------------------------------------------------------------------ exact


def _symmetric(book: codebooks.Codebook, d: int) -> codebooks.Codebook:
    """The codebook, made exactly symmetric: a table with a typo of relative size e has a distortion off by e²."""
    c = book.centroids
    if np.array_equal(c, -c[::-1]):
        return book
    return codebooks.of_centroids(sphere.law(d), (c - c[::-1]) / 2)


def _parts(Q: Any) -> list[tuple[int, theory.Moments]]:
    return [(part.quantizer.d, _moments(part.quantizer)) for part in Q.parts]


def _split(d: int, parts: Sequence[tuple[int, theory.Moments]]) -> theory.Moments:
    """Independent quantizers of groups of n channels: <x, x̂> = Σ share A, shares of an isotropic x Dirichlet."""
    n = np.array([size for size, _ in parts], dtype=np.float64)
    slopes = np.array([m.slope for _, m in parts])
    inner = np.array([m.along / size for size, m in parts])  # Var A of each
    slope, squares = float(n @ slopes) / d, float(n @ slopes**2) / d
    variance = float((n * (n + 2)) @ inner) / (d * (d + 2)) + 2 * (squares - slope**2) / (d + 2)
    D = float(sum(size * m.distortion for size, m in parts)) / d
    energy = D - 1 + 2 * slope
    return theory.Moments(d, slope, d * variance, d * (energy - variance - slope**2) / (d - 1))


def _moments(Q: Any) -> theory.Moments:
    """Of an isotropic x; ValueError where theory has none."""
    if Q.algorithm == "mse":
        return theory.of_codebook(Q.d, _symmetric(Q.codebook, Q.d), Q.scale)
    if Q.algorithm == "prod":
        gamma = Q.expected_residual if Q.codebook.bits and not Q.stores_residual else None
        return theory.of_two_stages(Q.d, _symmetric(Q.codebook, Q.d), Q.sketch.kind, gamma, Q.sketch.gain)
    if Q.algorithm == "qjl":
        unit, g = theory.qjl(Q.d, Q.m, Q.sketch.kind), Q.sketch.gain
        return theory.Moments(Q.d, g, g * g * unit.along, g * g * unit.across)
    if Q.algorithm == "polar":
        return theory.moments("polar", Q.d, Q.bits, scale=Q.scale)
    if Q.algorithm == "channels":
        return _split(Q.d, _parts(Q))
    if Q.algorithm == "rabitq" and Q.bits == 1:  # the signs: EDEN's code
        return theory.moments("mse", Q.d, 1, scale=Q.scale)
    raise ValueError(f"Q: no exact moments are known for {Q.algorithm} at {Q.bits} bits; use `measured`")


def _image(Q: Any, t: Floats, counts: Floats) -> float:
    """||x - x̂||² of a unit x whose rotated coordinates are the t, each `counts` times, by the table of `mse`."""
    q = Q.codebook.centroids[codebooks.nearest(Q.codebook, t)]
    A, B = float(counts @ (t * q)), float(counts @ (q * q))
    return {"norm": 1 - 2 * A + B, "matched": 2 - 2 * A / math.sqrt(B), "least_squares": 1 - A * A / B,
            "unbiased": B / (A * A) - 1}[Q.scale]  # fmt: skip


def _one_hot(Q: Any, rotation: str, D: float | None) -> float | None:
    if Q.algorithm == "channels":
        first = next(part.quantizer for part in Q.parts if 0 in part.channels)
        return _distortion(first)
    if rotation in ("haar", "qr"):  # the first column of Q is Haar's or its negative, and codebooks are symmetric
        return D
    if Q.algorithm != "mse":
        return None
    return _image(Q, np.full(1, 1 / math.sqrt(Q.d)), np.full(1, float(Q.d)))


def _constant(Q: Any, rotation: str, D: float | None) -> float | None:
    if rotation == "haar":
        return D  # of channels too: their shares are those of the mean isotropic vector
    if Q.algorithm != "mse":
        return None
    if rotation == "unsigned":
        return _image(Q, np.array([1.0, 0.0]), np.array([1.0, Q.d - 1.0]))
    if rotation == "hadamard" and Q.scale == "norm":
        k = np.arange(Q.d + 1)
        binomial = np.exp(gammaln(Q.d + 1) - gammaln(k + 1) - gammaln(Q.d - k + 1) - Q.d * math.log(2))
        return _image(Q, (2 * k - Q.d) / Q.d, Q.d * binomial)
    return None


def _distortion(Q: Any) -> float | None:
    if Q.algorithm == "mse" and Q.scale == "norm":
        return float(Q.codebook.distortion)
    try:
        return _moments(Q).distortion
    except ValueError:
        return None


def _excess(Q: Any, bits: int) -> float | None:
    if Q.algorithm == "channels":
        right = [codebooks.lloyd_max(p.quantizer.d, p.quantizer.bits).distortion for p in Q.parts]
        found = [p.quantizer.codebook.distortion for p in Q.parts]
        sizes = [p.quantizer.d for p in Q.parts]
        return float(np.dot(sizes, found) / np.dot(sizes, right)) - 1
    if Q.algorithm not in ("mse", "prod") or not Q.codebook.bits:
        return None
    bits = bits if Q.algorithm == "mse" else Q.codebook.bits  # an entropy-coded index may have more values than 2^b
    return float(Q.codebook.distortion / codebooks.lloyd_max(Q.d, bits).distortion) - 1


def exact(Q: Any, bits: int, rotation: str = "haar", size: float | None = None) -> Signature:
    """The signature of a quantizer of `mse`, `prod`, `qjl`, `polar`, `rabitq`, `minmax`, or `channels` of `mse`.

    Parameters
    ----------
    Q : Quantizer
        From a module's setup, or put together by hand.
    bits : int
        Nominal bits a coordinate, for the record.
    rotation : one of `ROTATIONS`
        The law that Q's rotation was drawn from, which no single draw shows.  A structured rotation of two rounds or
        more counts as "haar", from which it differs by less than 1 % on special vectors.
    size : float, optional
        Bytes of a stored vector; those of Q's packed form if None.

    Raises
    ------
    ValueError
        For a rotation that is not one of these; for "hadamard" and "unsigned" unless d is a power of two.
    """
    if rotation not in ROTATIONS:
        raise ValueError(f"rotation: expected one of {', '.join(ROTATIONS)}, got {rotation!r}")
    if rotation in ("hadamard", "unsigned") and Q.d & (Q.d - 1):
        raise ValueError(f"d: expected a power of two for a Hadamard matrix, got {Q.d}")
    try:
        m: theory.Moments | None = _moments(Q)
    except ValueError:
        m = None
    D = _distortion(Q)
    negative = {"haar": 0.5, "hadamard": 0.5, "unsigned": 0.0, "qr": 1.0, "none": None}[rotation]
    return Signature(
        Q.d,
        bits,
        _excess(Q, bits),
        D,
        m.slope if m else None,
        m.across if m else None,
        m.along if m else None,
        _one_hot(Q, rotation, D),
        _constant(Q, rotation, D),
        None if Q.algorithm == "qjl" else negative,
        float(Q.bytes_per_vector() if size is None else size),
    )


# ------------------------------------------------------------------------------------------------ measured


def measured(
    setup: Callable[[int], Any], d: int, draws: int = 32, rows: int = 64, seed: int = 0, confidence: float = 0.99
) -> dict[str, Estimate]:
    """The `FIGURES` of a quantizer, over independent draws of it and of `rows` isotropic vectors with each.

    Parameters
    ----------
    setup : callable
        seed -> quantizer.
    d : int
        Its dimension.
    draws : int
        At least 4: `along`, a variance, takes two draws for each of its replicates.
    rows : int
        Isotropic vectors in a draw; one-hot and constant are one vector each.
    seed : int
    confidence : float
        Of each interval.

    Notes
    -----
    With a = <x, x̂> and B = ||x̂||², slope = E a, distortion = E (1 - 2a + B), along = d Var a; and the mean of <y, x̂>²
    over all unit y orthogonal to x is (B - a²)/(d - 1), so that no y need be drawn.
    """
    if draws < 4:
        raise ValueError(f"draws: expected at least 4, got {draws}")
    rng = np.random.default_rng([seed, 20250428])
    aligned, lengths = np.empty((2, draws, rows + 2))
    special = np.stack([np.eye(d)[0], np.full(d, 1 / math.sqrt(d))])
    for k, drawn in enumerate(rng.integers(2**63, size=draws)):
        x = rng.standard_normal((rows, d))
        x = np.concatenate([x / np.linalg.norm(x, axis=1, keepdims=True), special])
        Q = setup(int(drawn))
        module = module_of(Q)
        decoded = np.asarray(module.dequantize(Q, module.quantize(Q, x)), dtype=np.float64)
        aligned[k], lengths[k] = (x * decoded).sum(1), (decoded**2).sum(1)
    errors = 1 - 2 * aligned + lengths
    a, B = aligned[:, :rows], lengths[:, :rows]
    pairs = (a[: draws // 2 * 2 : 2] - a[1::2]) ** 2 / 2
    values = {
        "distortion": errors[:, :rows].mean(1),
        "slope": a.mean(1),
        "across": d * (B - a * a).mean(1) / (d - 1),
        "along": d * pairs.mean(1),
        "one_hot": errors[:, rows],
        "constant": errors[:, rows + 1],
    }
    return {name: replace(Estimate(value), confidence=confidence) for name, value in values.items()}
