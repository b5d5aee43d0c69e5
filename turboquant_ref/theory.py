"""What TurboQuant's estimators do, exactly: distortion, slope, variance, bounds, rates (sections 2 and 3).

Every estimator here is blind to directions: conjugated by a random rotation, its output for a unit vector x is, in law,
symmetric about x.  So for a unit y with <x, y> = rho three numbers say everything of second order,

    E <y, x̂> = slope · rho,       d · Var <y, x̂> = along · rho² + across · (1 - rho²),

and E ||x - x̂||² is their sum over an orthonormal basis that begins with x.  `moments` computes the three, by closed
form or quadrature, never by simulation; `distortion`, `slope`, `variance`, `inner_product_error` and `row` read them
off.  d = None is the limit of large d (the paper's "for moderate d").

Notation of the formulas below: x unit, z = Πx uniform on the sphere, q the centroids of its coordinates;
A = <z, q>, B = ||q||², a = 1 - A, C = ||z - q||² = 1 - 2A + B; D = D_mse = E C = E a; X = E a² = E <x, r>², r = x - x̂.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from . import alignment, angle, codebook, sphere
from .bounds import (
    entropy,
    huffman,
    huffman_lengths,
    rate,
    rate_distortion,
    theorem1_bound,
    theorem2_bound,
    theorem3_mse,
    theorem3_prod,
)
from .vectors import check_bits, check_dimension, check_integer

__all__ = [
    "PAPER",
    "Moments",
    "Row",
    "crossover",
    "distortion",
    "entropy",
    "huffman",
    "huffman_lengths",
    "inner_product_error",
    "kappa",
    "moments",
    "mse",
    "of_codebook",
    "of_two_stages",
    "printed",
    "qjl",
    "rate",
    "rate_distortion",
    "row",
    "slope",
    "theorem1_bound",
    "theorem2_bound",
    "theorem3_mse",
    "theorem3_prod",
    "variance",
]

PAPER = {"mse": (0.36, 0.117, 0.03, 0.009), "prod": (1.57, 0.56, 0.18, 0.047)}
"""The constants printed in Theorems 1 and 2 for b = 1..4: D_mse, and d D_prod / ||y||².  See `printed`."""

OPTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "mse": {"scale": ("norm", "matched", "least_squares", "unbiased")},
    "qjl": {"sketch": ("gaussian", "orthogonal")},
    "prod": {"sketch": ("gaussian", "orthogonal"), "residual": ("stored", "expected")},
    "polar": {"scale": ("norm", "unbiased")},
}
"""What each algorithm can be told beside (d, bits); the first of each is the paper's and the default."""


@dataclass(frozen=True)
class Moments:
    """First and second moments of <y, x̂> for unit x and y: all of D_mse (Eq 1) and D_prod (Eq 2).

    Attributes
    ----------
    d : int or None
        None for the limit.
    slope : float
        E <y, x̂> / <y, x>: 1 for an unbiased estimator.
    along, across : float
        d · Var <y, x̂> at y = x and at y orthogonal to x.
    """

    d: int | None
    slope: float
    along: float
    across: float

    def scaled_variance(self, rho: float = 0.0) -> float:
        """d · Var <y, x̂> at <x, y> = rho; finite in the limit d = None too."""
        if not abs(rho) <= 1:
            raise ValueError(f"rho must be a cosine, from -1 to 1, got {rho!r}")
        return rho * rho * self.along + (1 - rho * rho) * self.across

    def variance(self, rho: float = 0.0) -> float:
        """Var <y, x̂> for unit x, y with <x, y> = rho (0 in the limit)."""
        return 0.0 if self.d is None else self.scaled_variance(rho) / self.d

    def inner_product_error(self, rho: float = 0.0) -> float:
        """D_prod of Eq 2: E (<y, x> - <y, x̂>)² = Var <y, x̂> + (1 - slope)² rho²."""
        return self.variance(rho) + ((1 - self.slope) * rho) ** 2

    @property
    def distortion(self) -> float:
        """D_mse of Eq 1: E ||x - x̂||², the inner-product errors summed over a basis of x and d - 1 orthogonal y."""
        rest = 0.0 if self.d is None else (self.along - self.across) / self.d
        return self.across + rest + (1 - self.slope) ** 2


def _dimension(d: int | None) -> int | None:
    return None if d is None else check_dimension(d)


def mse(d: int | None, bits: int) -> float:
    """D_mse(d, b) of Algorithm 1 for unit x, d · C(f_X, b) of Eq 4; d = None is the Gaussian limit; bits 1 to 12."""
    return codebook.lloyd_max(_dimension(d), check_bits(bits, high=codebook.MAX_BITS)).distortion


# ------------------------------------------------------------------------------------------------ the estimators


def _mse(d: int | None, book: alignment.Book, scale: str) -> Moments:
    """Algorithm 1 with x̂ = λ q: λ = 1, 1/√B, A/B or 1/A for norm, matched, least_squares, unbiased.

    slope = E λA;  along = d · Var λA;  across = d (E λ²B - E λ²A²) / (d - 1).
    """
    if d is None:  # A and B are sums of d terms and tend to mu; the delta method gives along
        assert isinstance(book, int)
        mu = 1 - mse(None, book)
        slope, energy, gradient = {
            "norm": (mu, mu, (1.0, 0.0)),
            "matched": (math.sqrt(mu), 1.0, (mu**-0.5, -0.5 * mu**-0.5)),
            "least_squares": (mu, mu, (2.0, -1.0)),
            "unbiased": (1.0, 1 / mu, (0.0, 0.0)),
        }[scale]
        return Moments(None, slope, _delta(book, *gradient), energy - slope**2)

    E = partial(alignment.expectation, d, book)
    if scale == "norm":
        slope, energy = alignment.means(d, book)
        variance = alignment.variance(d, book)
    elif scale == "matched":
        slope, energy = E("A", 1, "B", 0.5), 1.0
        variance = E("A", 2, "B", 1) - slope**2
    elif scale == "least_squares":
        slope = energy = E("A", 2, "B", 1)
        variance = E("A", 4, "B", 2) - slope**2
    else:
        slope, energy, variance = 1.0, E("B", 1, "A", 2), 0.0
    return Moments(d, slope, d * variance, d * (energy - variance - slope**2) / (d - 1))


def _delta(bits: int, by_A: float, by_B: float) -> float:
    """The limit of d · Var g(A, B) for a function with this gradient at the mean."""
    gradient = np.array([by_A, by_B])
    return float(gradient @ alignment.limit_covariance(bits) @ gradient)


def kappa(d: int) -> float:
    """The mean of an orthogonal QJL over the Gaussian one: √(d/2) Γ(d/2) / Γ((d+1)/2) = 1 + 1/(4d) + …

    With S = √d · Haar, (√(π/2)/d) <S y, sign(S x)> has mean κ_d <x, y>: the released code leaves this bias in (0.2 % at
    d = 128), we divide by it.
    """
    return math.sqrt(1 + _kappa_excess(check_dimension(d)))


def _kappa_excess(d: int) -> float:
    """κ_d² - 1 = 1/(2d) + 1/(8d²) - …, with full relative accuracy."""
    if d < 200:
        return d * sphere.Coordinate(d).mean_abs ** 2 * math.pi / 2 - 1
    u = 1 / d
    series = (1 / 2, 1 / 8, -1 / 16, -5 / 128, 23 / 256, 53 / 1024, -593 / 2048, -5165 / 32768)
    return sum(c * u**k for k, c in enumerate(series, 1))


@lru_cache(typed=True)
def qjl(d: int | None, m: int, sketch: str = "gaussian") -> Moments:
    """The QJL estimate of <y, x> from m signs of S x (Definition 1, Lemma 4), exactly unbiased, for unit x.

    Gaussian S: est = (√(π/2)/m) <S y, sign(S x)>, Var = [π/2 - rho²] / m.

    Orthogonal S (√d times the rows of Haar matrices, a fresh one for every d signs, the last one cut): est =
    <O y, sign(O x)> / E T, with O = S/√d and T = Σ |(O x)_j|, E T = m E|u_1|.  A block of m <= d rows has E T² =
    m/d + m(m-1) 2/(π d), so Var T = (m/d) [1 - 2/π - (2m/π)(κ_d² - 1)]; what it adds from the part of y orthogonal
    to x has variance (m - E T²)/(d - 1).  Independent blocks add up.

    Parameters
    ----------
    d : int or None
        In the limit (None), `m` is the number of signs a coordinate, m/d, a positive whole number.
    m : int
        Number of signs, any positive number.
    sketch : {"gaussian", "orthogonal"}
    """
    m = check_integer(m, "m", 1)
    if sketch not in OPTIONS["qjl"]["sketch"]:
        raise ValueError(f"sketch must be 'gaussian' or 'orthogonal', got {sketch!r}")
    half_pi = math.pi / 2
    if d is None:
        along, across = (1.0, 0.0) if sketch == "gaussian" else (1.5, 1.0)
        return Moments(None, 1.0, (half_pi - along) / m, (half_pi - across) / m)
    d = check_dimension(d)
    if sketch == "gaussian":
        return Moments(d, 1.0, d * (half_pi - 1) / m, d * half_pi / m)
    mean2 = m * m * (1 + _kappa_excess(d)) / (half_pi * d)  # (E T)², summed over the blocks
    along = across = 0.0
    for rows, blocks in ((d, m // d), (m % d, 1)):
        along += blocks * rows / d * (1 - (1 + rows * _kappa_excess(d)) / half_pi)
        across += blocks * (rows - rows / d - rows * (rows - 1) / (half_pi * d)) / (d - 1)
    return Moments(d, 1.0, d * along / mean2, d * across / mean2)


def _prod(d: int | None, book: alignment.Book, sketch: str, gamma: float | None, gain: float = 1.0) -> Moments:
    """Algorithm 2: Algorithm 1 with its b - 1 bits, then QJL with d signs of the residual r.

    The sketch is linear in the length it is told: with w = gain for a stored ||r||, and w = gain γ/√C for a constant γ
    in its place, x̂ has the mean x - (1 - w) r given r, and around it what a QJL of w r has.  So with E over r

        slope  = 1 - E (1-w) a,     along  = d Var (1-w) a  + u_across (W - W_x) + u_along W_x,
        across = d E (1-w)² (C - a²) / (d-1)                + u_across (W - W_y) + u_along W_y,

    W = E w² C, W_x = E w² a² its share along x, W_y = (W - W_x)/(d - 1) that of every y across x.
    """
    unit = qjl(d, 1 if d is None else d, sketch)
    if book == 0:  # no first stage: r = x
        return Moments(d, gain, gain**2 * unit.along, gain**2 * unit.across)
    if d is None:
        assert isinstance(book, int)
        D = mse(None, book)
        X = D * D
        along = 0.0 if gamma is None else _delta(book, 1.0, -0.5)
        return Moments(None, 1.0, along + unit.across * (D - X) + unit.along * X, unit.across * D)
    E = partial(alignment.expectation, d, book)
    D = book.distortion if isinstance(book, codebook.Codebook) else mse(d, book)
    mean = 1 - alignment.means(d, book)[0]
    X = mean * mean + alignment.variance(d, book)
    if gamma is None:
        left, left2, off2 = (1 - gain) * mean, (1 - gain) ** 2 * X, (1 - gain) ** 2 * D
        W, W_x = gain**2 * D, gain**2 * X
    else:
        h = gain * gamma
        W, W_x = h * h, h * h * E("a", 2, "C", 1)
        left = mean - h * E("a", 1, "C", 0.5)
        left2 = X - 2 * h * E("a", 2, "C", 0.5) + W_x
        off2 = D - 2 * h * E("C", 1, "C", 0.5) + W
    W_y = (W - W_x) / (d - 1)
    along = d * (left2 - left**2) + unit.across * (W - W_x) + unit.along * W_x
    across = d * (off2 - left2) / (d - 1) + unit.across * (W - W_y) + unit.along * W_y
    return Moments(d, 1 - left, along, across)


def of_codebook(d: int, book: codebook.Codebook, scale: str = "norm") -> Moments:
    """Algorithm 1 with any codebook that is symmetric about 0, as `moments`; `Codebook.distortion` is D_mse of "norm".

    For the codebooks in the wild, and for `codebook.uniform`: not every codebook has its centroids at the means of the
    cells, and then the slope is d E t Q(t), not 1 - D.
    """
    if scale not in OPTIONS["mse"]["scale"]:
        raise ValueError(f"scale must be one of {', '.join(OPTIONS['mse']['scale'])}, got {scale!r}")
    return _mse(check_dimension(d), _named(d, book), scale)


def of_two_stages(
    d: int,
    book: codebook.Codebook,
    sketch: str = "gaussian",
    gamma: float | None = None,
    gain: float = 1.0,
) -> Moments:
    """Algorithm 2 with any symmetric codebook, a wrong constant or a residual norm that is not stored, as `moments`.

    Parameters
    ----------
    d : int
    book : Codebook
        Of the first stage; of one centroid if there is none.
    sketch : {"gaussian", "orthogonal"}
        d signs.
    gamma : float or None
        The constant in the place of ||r||; None if it is stored.
    gain : float
        What the term of the sketch is multiplied by, beside the constant that makes it unbiased: κ_d where that is left
        in, 1/√d where S is divided by √d twice (slope 1 - D (1 - 1/√d)).
    """
    return _prod(check_dimension(d), _named(d, book) if book.bits else 0, sketch, gamma, gain)


def _named(d: int, book: codebook.Codebook) -> alignment.Book:
    """The codebook's bits, if it is the one of Eq 4."""
    return book.bits if book is codebook.lloyd_max(d, min(book.bits, 8)) else book


@lru_cache(maxsize=1024)
def _moments(algorithm: str, d: int | None, bits: int, scale: str, sketch: str, residual: str) -> Moments:
    if algorithm == "mse":
        return _mse(d, bits, scale)
    if algorithm == "qjl":
        return qjl(d, bits if d is None else bits * d, sketch)
    return _prod(d, bits - 1, sketch, None if residual == "stored" or bits == 1 else math.sqrt(mse(d, bits - 1)))


def moments(
    algorithm: str,
    d: int | None,
    bits: int | Sequence[int],
    *,
    scale: str = "norm",
    sketch: str = "gaussian",
    residual: str = "stored",
) -> Moments:
    """Slope and variance of an estimator, exactly: the three numbers behind D_mse (Eq 1) and D_prod (Eq 2).

    Parameters
    ----------
    algorithm : {"mse", "qjl", "prod", "polar"}
        Algorithm 1; Definition 1 with m = bits · d signs (`qjl` takes any m); Algorithm 2; PolarQuant, of `angle`.
    d : int or None
        Dimension; None is the limit.
    bits : int, or a sequence of int for polar
        Bits a coordinate in total (prod: one of them is the sign), 1 to 8; polar's bits an angle, level by level.
    scale : {"norm", "matched", "least_squares", "unbiased"}
        mse, and norm and unbiased of polar.  norm is the paper's; matched makes ||x̂|| = ||x||; the last two are
        DRIVE/EDEN's biased-optimal and unbiased scales.
    sketch : {"gaussian", "orthogonal"}
        qjl and prod.  The paper's, and the released code's (here with the exactly unbiased constant).
    residual : {"stored", "expected"}
        prod only.  ||r|| stored, as in the paper, or replaced by √D(b-1), as in the released code.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of range, or an option is not one of this algorithm's; or if d is so small (3 to 7, above
        2 bits) that a scale other than "norm", or an expected residual, is out of exact reach (`alignment`).

    Notes
    -----
    Relative accuracy 1e-12; for scales other than "norm" and expected residuals 1e-11 at d >= 16, 1e-8 at d < 16 and
    b > 3 (1e-6 for d < 8), and `along` within 1e-15 d.
    """
    if algorithm not in OPTIONS:
        raise ValueError(f"algorithm must be one of {', '.join(OPTIONS)}, got {algorithm!r}")
    if algorithm != "polar":
        bits = check_bits(bits)
    for name, value, only in (
        ("scale", scale, "norm"),
        ("sketch", sketch, "gaussian"),
        ("residual", residual, "stored"),
    ):
        allowed = OPTIONS[algorithm].get(name, (only,))
        if value not in allowed:
            raise ValueError(f"{name} of {algorithm} must be one of {', '.join(allowed)}, got {value!r}")
    if algorithm == "polar":
        return _polar(d, bits, scale)
    assert isinstance(bits, int)
    return _moments(algorithm, _dimension(d), bits, scale, sketch, residual)


def _polar(d: int | None, bits: int | Sequence[int], scale: str) -> Moments:
    if isinstance(bits, int | str) or not len(bits):
        raise TypeError(f"bits must be a sequence of bits an angle, one a level, for polar; got {bits!r}")
    d = _dimension(d)
    if d is not None and d % 2 ** len(bits):
        raise ValueError(f"d must be a multiple of {2 ** len(bits)} for {len(bits)} levels of polar, got {d}")
    return Moments(d, *angle.moments(d, [angle.codebook(level, b) for level, b in enumerate(bits, 1)], scale))


def distortion(algorithm: str, d: int | None, bits: int | Sequence[int], **options: str) -> float:
    """E ||x - x̂||² for unit x, D_mse of Eq 1, of any algorithm; arguments of `moments`."""
    if (
        algorithm == "mse"
        and isinstance(bits, int)
        and options.get("scale", "norm") == "norm"
        and set(options) <= {"scale"}
    ):
        return mse(d, bits)
    return moments(algorithm, d, bits, **options).distortion


def slope(algorithm: str, d: int | None, bits: int | Sequence[int], **options: str) -> float:
    """E <y, x̂> / <y, x>: 1 - D_mse for the paper's mse (section 3.2: 2/π at b = 1), 1 for prod; as `moments`."""
    return moments(algorithm, d, bits, **options).slope


def variance(algorithm: str, d: int | None, bits: int | Sequence[int], rho: float = 0.0, **options: str) -> float:
    """Var <y, x̂> for unit x and y with <x, y> = rho; arguments of `moments`."""
    return moments(algorithm, d, bits, **options).variance(rho)


def inner_product_error(
    algorithm: str, d: int | None, bits: int | Sequence[int], rho: float = 0.0, **options: str
) -> float:
    """D_prod of Eq 2 for unit x and y with <x, y> = rho: the variance plus the squared bias; arguments of `moments`."""
    return moments(algorithm, d, bits, **options).inner_product_error(rho)


def crossover(d: int, bits: int, *, sketch: str = "gaussian") -> float | None:
    """The |rho| above which prod has less inner-product error than mse at equal bits (Fig 3a); None if nowhere."""
    p, m = moments("prod", d, bits, sketch=sketch), moments("mse", d, bits)
    low = m.inner_product_error(0) - p.inner_product_error(0)
    high = m.inner_product_error(1) - p.inner_product_error(1)
    return math.sqrt(low / (low - high)) if high > 0 else None  # low < 0: mse has the smaller variance across


def printed(algorithm: str) -> list[tuple[int, float, float]]:
    """The refined constants of Theorem 1 ("mse") or 2 ("prod"): rows of (b, printed in the paper, exact limit).

    The paper's are truncated and, in Theorem 2, computed from truncated ones: 0.047 = (π/2) 0.03 for 0.0543.  A right
    implementation exceeds them.
    """
    if algorithm not in PAPER:
        raise ValueError(f"algorithm must be 'mse' or 'prod', got {algorithm!r}")
    rows = [(b, value, moments(algorithm, None, b)) for b, value in enumerate(PAPER[algorithm], 1)]
    return [(b, value, m.distortion if algorithm == "mse" else m.across) for b, value, m in rows]


@dataclass(frozen=True)
class Row:
    """One line of the comparison of theory with paper, of `row`.

    Attributes
    ----------
    algorithm, d, bits, options
        What was asked.
    distortion, slope, along, across : float
        E ||x - x̂||²; the bias factor; d · Var <y, x̂> at rho = 1 and 0.
    bound, lower_bound, printed : float or None
        Of the paper's two quantizers (mse with scale "norm"; prod with a Gaussian sketch and a stored residual norm);
        None for the others, of which the paper says nothing.  mse, about `distortion`: Theorem 1, the sphere's
        distortion-rate function (the true Lemma 3), the constant printed for b <= 4.  prod, about `across`, the largest
        d · D_prod: d times Theorem 2, d times Theorem 3, the constant printed.
    entropy, huffman : float
        Bits a coordinate after entropy coding of the indices (signs are incompressible).
    """

    algorithm: str
    d: int | None
    bits: int
    options: tuple[tuple[str, str], ...]
    distortion: float
    slope: float
    along: float
    across: float
    bound: float | None
    lower_bound: float | None
    printed: float | None
    entropy: float
    huffman: float


def row(algorithm: str, d: int | None, bits: int, **options: str) -> Row:
    """Everything exact about (mse, qjl or prod, d, bits) beside what the paper says; arguments of `moments`."""
    if algorithm == "polar":
        raise ValueError("algorithm must be one of mse, qjl, prod, got 'polar': its paper has no bounds to compare")
    m = moments(algorithm, d, bits, **options)
    paper = all(value == OPTIONS[algorithm][name][0] for name, value in options.items()) and algorithm in PAPER
    constants = PAPER[algorithm] if paper else ()
    bound = lower = None
    if paper and algorithm == "mse":
        bound, lower = theorem1_bound(bits), rate_distortion(d, bits)
    elif paper:
        bound, lower = math.sqrt(3) * math.pi**2 / 4**bits, 1 / 4**bits
    signs, levels = {"mse": (0, bits), "qjl": (bits, 0), "prod": (1, bits - 1)}[algorithm]
    return Row(
        algorithm,
        d,
        bits,
        tuple(sorted(options.items())),
        distortion(algorithm, d, bits, **options),
        m.slope,
        m.along,
        m.across,
        bound,
        lower,
        constants[bits - 1] if bits <= len(constants) else None,
        signs + (entropy(d, levels) if levels else 0.0),
        signs + (huffman(d, levels) if levels else 0.0),
    )
