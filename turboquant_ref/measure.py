"""The measured counterparts of `theory`, same verbs, each with its interval.

The theorems speak of one vector and the random draw of (Pi, S). Errors of different vectors under one rotation are
not independent, so the unit of replication here is the draw, never the vector: every figure is first averaged over
the vectors inside a draw, and its interval is Student's over the draws. (At d = 64, b = 2 an interval of D_mse over 500
vectors of one draw of Algorithm 2 would be 2.9 times too narrow.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from . import channels, minmax, mse, polar, prod, qjl, rabitq
from .codes import module_of
from .generator import seed_of
from .vectors import Rows, as_rows, check_bits, check_integer, norm_and_unit

__all__ = [
    "ALGORITHMS",
    "Estimate",
    "correlated_queries",
    "distortion",
    "draws_needed",
    "inner_product_error",
    "recall",
    "setup",
    "slope",
    "variance",
]

Floats = NDArray[np.float64]

ALGORITHMS: dict[str, ModuleType] = {
    "mse": mse,
    "prod": prod,
    "qjl": qjl,
    "polar": polar,
    "rabitq": rabitq,
    "channels": channels,
    "minmax": minmax,
}
"""The algorithms by name; a quantizer of one is an argument of its verbs."""

Algorithm = str | Callable[..., Any]
"""A key of `ALGORITHMS`; or a function (d, bits, rng, **options) -> quantizer, as ``variants.find(name).setup``."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over independent draws.

    Attributes
    ----------
    values : (draws,) float64
        The figure in each draw.
    confidence : float
        Of the interval.
    """

    values: Floats
    confidence: float = 0.99

    def __post_init__(self) -> None:
        if np.ndim(self.values) != 1 or len(self.values) == 0:
            raise ValueError(f"values: expected one figure a draw, got an array of shape {np.shape(self.values)}")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence: expected a probability between 0 and 1, got {self.confidence!r}")

    @property
    def draws(self) -> int:
        """Number of independent draws."""
        return len(self.values)

    @property
    def value(self) -> float:
        """The mean over the draws."""
        return float(self.values.mean())

    @property
    def std_error(self) -> float:
        """Its standard error; infinite for one draw."""
        return float(self.values.std(ddof=1) / math.sqrt(self.draws)) if self.draws > 1 else math.inf

    @property
    def half_width(self) -> float:
        """Half the width of Student's interval at `confidence`."""
        return self._t(self.confidence) * self.std_error if self.draws > 1 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        """Student's interval for the expectation at `confidence`."""
        return self.value - self.half_width, self.value + self.half_width

    def contains(self, expected: float) -> bool:
        """Whether the expected value lies in the interval."""
        return abs(self.value - expected) <= self.half_width

    def detectable(self, power: float = 0.99) -> float:
        """The smallest deviation from the expectation that `contains` would reject with probability `power`."""
        return self.half_width + (self._t(2 * power - 1) * self.std_error if self.draws > 1 else math.inf)

    def _t(self, confidence: float) -> float:
        return _student((1 - confidence) / 2, self.draws)

    def __str__(self) -> str:
        return f"{self.value:.6g} ± {self.half_width:.2g}"


def _student(tail: float, draws: int) -> float:
    """What Student's t of `draws` draws exceeds with probability `tail`."""
    return -float(special.stdtrit(draws - 1, tail))


def draws_needed(std: float, deviation: float, confidence: float = 0.99, power: float = 0.99) -> int:
    """The number of draws at which a figure that varies by `std` from draw to draw betrays a `deviation`.

    Parameters
    ----------
    std : float
        Standard deviation of the figure over single draws, as in ``Estimate.values.std(ddof=1)``.
    deviation : float
        What must be seen, in the same units.
    confidence, power : float
        1 - the false-alarm rate; and the probability of seeing a deviation of that size.
    """
    if not (0 <= std < math.inf and 0 < deviation < math.inf):
        raise ValueError(f"deviation and std: expected finite, positive numbers, got {deviation} and {std}")
    if not (0 < confidence < 1 and 0.5 <= power < 1):
        raise ValueError(f"confidence and power: expected probabilities, power >= 0.5, got {confidence} and {power}")

    def enough(n: int) -> bool:
        t = _student((1 - confidence) / 2, n) + _student(1 - power, n)
        return bool(t * std <= deviation * math.sqrt(n))

    few, many = 1, 2
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def setup(algorithm: Algorithm, d: int, bits: Any, rng: int | np.random.Generator, **options: Any) -> Any:
    """A quantizer of an algorithm at `bits` bits a coordinate, a new one for each seed.

    `bits` is an integer, but for polar bits an angle, as (4, 2, 2, 2), and for channels a pair, (outliers, others),
    beside the option `mask`.  QJL takes m = d bits signs.  minmax has nothing random and takes no seed: its draws are
    all the same, and an interval over them has no width; what varies are the vectors.
    """
    if callable(algorithm):
        return algorithm(d, bits, rng, **options)
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    if algorithm == "qjl":
        return qjl.setup(d, check_bits(bits) * d, rng, **options)
    if algorithm == "minmax":
        return minmax.setup(d, bits, **options)
    return ALGORITHMS[algorithm].setup(d, bits, rng, **options)


def _random(rng: int | np.random.Generator, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose.  From default_rng(seed) itself the caller may have drawn x."""
    return np.random.default_rng([seed_of(rng), *purpose.encode()])


def correlated_queries(x: ArrayLike, rng: int | np.random.Generator, rho: float | None = None) -> Floats:
    """For every row of x a unit vector y with <y, x> = rho ||x||; rho uniform on [-1, 1] for each row if it is None.

    Independent x and y have <y, x> near 0, where no shrinkage of the estimates can be seen; these can.
    """
    if rho is not None and not -1 <= rho <= 1:
        raise ValueError(f"rho: expected a number from -1 to 1, got {rho}")
    rng = _random(rng, "queries")
    _, unit = norm_and_unit(as_rows(x).astype(np.float64))
    y = rng.standard_normal(unit.shape)
    y -= (y * unit).sum(-1, keepdims=True) * unit
    y /= np.linalg.norm(y, axis=-1, keepdims=True)
    r = rng.uniform(-1, 1, (*unit.shape[:-1], 1)) if rho is None else np.full((*unit.shape[:-1], 1), float(rho))
    return np.asarray(r * unit + np.sqrt(1 - r * r) * y)


def _draws(
    algorithm: Algorithm,
    x: NDArray[Any],
    bits: Any,
    draws: int,
    rng: int | np.random.Generator,
    options: dict[str, Any],
) -> Iterator[tuple[ModuleType, Any, Any]]:
    """(module, quantizer, code of x) for independent draws of the quantizer."""
    seeds = _random(rng, "draws").integers(2**63, size=check_integer(draws, "draws", 1))
    for seed in seeds:
        Q = setup(algorithm, x.shape[-1], bits, int(seed), **options)
        module = module_of(Q) if callable(algorithm) else ALGORITHMS[algorithm]
        yield module, Q, module.quantize(Q, x)


def _rows(x: ArrayLike, name: str = "x") -> NDArray[Any]:
    """The non-zero rows of x as (n, d): relative errors are of these."""
    rows = as_rows(x, name=name)
    rows = rows.reshape(-1, rows.shape[-1])
    rows = rows[np.any(rows != 0, axis=1)]
    if len(rows) == 0:
        raise ValueError(f"{name}: expected at least one vector that is not zero")
    return rows


def _units(x: NDArray[Any]) -> tuple[Rows, Rows]:
    """Norms (n, 1) and unit rows in float64, whatever the dtype of x: what relative errors are measured with."""
    norms, unit = norm_and_unit(x.astype(np.float64))
    return norms[:, None], unit


Statistic = Callable[[ModuleType, Any, Any], float]


def distortion_of(x: NDArray[Any]) -> Statistic:
    """The mean over rows of ||x - x~||^2 / ||x||^2 in one draw."""
    norms, unit = _units(x)

    def statistic(module: ModuleType, Q: Any, code: Any) -> float:
        error = unit - module.dequantize(Q, code) / norms
        return float((error**2).sum(-1).mean())

    return statistic


def _estimates_of(x: NDArray[Any], y: NDArray[Any]) -> tuple[Floats, Callable[[ModuleType, Any, Any], Floats]]:
    """<y_i, x_i>, a pair a row, and its estimates in one draw, both of rows scaled to unit norm."""
    (norms, unit), (_, query) = _units(x), _units(y)

    def estimates(module: ModuleType, Q: Any, code: Any) -> Floats:
        return np.asarray((module.dequantize(Q, code) / norms * query).sum(-1), dtype=np.float64)

    return np.asarray((unit * query).sum(-1)), estimates


def slope_of(x: NDArray[Any], y: NDArray[Any]) -> Statistic:
    """The regression through the origin of the estimates on <y_i, x_i> in one draw, rows scaled to unit norm."""
    truth, estimates = _estimates_of(x, y)

    def statistic(module: ModuleType, Q: Any, code: Any) -> float:
        return float((estimates(module, Q, code) * truth).sum() / (truth * truth).sum())

    return statistic


def inner_product_error_of(x: NDArray[Any], y: NDArray[Any]) -> Statistic:
    """The mean over pairs of (estimate - <y_i, x_i>)^2 / (||x_i||^2 ||y_i||^2) in one draw."""
    truth, estimates = _estimates_of(x, y)

    def statistic(module: ModuleType, Q: Any, code: Any) -> float:
        return float(((estimates(module, Q, code) - truth) ** 2).mean())

    return statistic


def recall_of(x: NDArray[Any], queries: NDArray[Any], k: int) -> Statistic:
    """recall@1@k in one draw: how often the exact nearest row by inner product is among the k best estimates.

    Equal estimates are taken in random order, in expectation: an estimator that always answers 0 has recall k / n.
    """
    best = np.argmax(queries @ x.T, axis=1)

    def statistic(module: ModuleType, Q: Any, code: Any) -> float:
        scores = module.inner_product(Q, queries, code)
        score = np.take_along_axis(scores, best[:, None], axis=1)
        above, equal = (scores > score).sum(axis=1), (scores == score).sum(axis=1)
        return float(np.clip((k - above) / equal, 0, 1).mean())

    return statistic


def profile(
    algorithm: Algorithm,
    x: NDArray[Any],
    bits: Any,
    statistics: dict[str, Statistic],
    draws: int = 32,
    rng: int | np.random.Generator = 0,
    confidence: float = 0.99,
    **options: Any,
) -> dict[str, Estimate]:
    """Several statistics of the same draws, so that `x` is quantized once a draw; what `report` runs."""
    values = [[f(*draw) for f in statistics.values()] for draw in _draws(algorithm, x, bits, draws, rng, options)]
    columns = np.array(values).T
    return {name: Estimate(column, confidence) for name, column in zip(statistics, columns, strict=True)}


def distortion(
    algorithm: Algorithm,
    x: ArrayLike,
    bits: Any,
    draws: int = 32,
    rng: int | np.random.Generator = 0,
    confidence: float = 0.99,
    **options: Any,
) -> Estimate:
    """D_mse measured: E ||x - x~||^2 / ||x||^2, the mean over the rows of x, over independent draws.

    Parameters
    ----------
    algorithm : str or callable
        A key of `ALGORITHMS`, or a setup; `options` go to it.
    x : (…, d) array
        Zero rows are left out.
    bits : int
        Bits a coordinate, 1 to 8; tuples for polar and channels, see `setup`.
    draws : int
        Independent draws of the quantizer; at least 2 for an interval.
    rng : int or Generator
        What the draws' seeds come from.
    confidence : float
        Of the interval.

    Returns
    -------
    Estimate
        To be compared with ``theory.distortion(algorithm, d, bits, **options)``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    rows = _rows(x)
    return profile(algorithm, rows, bits, {"": distortion_of(rows)}, draws, rng, confidence, **options)[""]


def slope(
    algorithm: Algorithm,
    x: ArrayLike,
    bits: Any,
    y: ArrayLike | None = None,
    draws: int = 32,
    rng: int | np.random.Generator = 0,
    confidence: float = 0.99,
    **options: Any,
) -> Estimate:
    """E<y, x~> / <y, x> measured, by regression over correlated pairs: 1 for an unbiased estimate.

    `y` holds one query a row of x; `correlated_queries` if None.  Other parameters as in `distortion`.
    """
    rows, y = _pairs(x, y, rng)
    return profile(algorithm, rows, bits, {"": slope_of(rows, y)}, draws, rng, confidence, **options)[""]


def inner_product_error(
    algorithm: Algorithm,
    x: ArrayLike,
    bits: Any,
    y: ArrayLike | None = None,
    draws: int = 32,
    rng: int | np.random.Generator = 0,
    confidence: float = 0.99,
    **options: Any,
) -> Estimate:
    """D_prod measured: E (<y, x~> - <y, x>)^2 / (||x||^2 ||y||^2), the mean over pairs (Eq 2 of the paper).

    `y` holds one query a row of x; `correlated_queries` if None.  Other parameters as in `distortion`.
    """
    rows, y = _pairs(x, y, rng)
    return profile(algorithm, rows, bits, {"": inner_product_error_of(rows, y)}, draws, rng, confidence, **options)[""]


def variance(
    algorithm: Algorithm,
    x: ArrayLike,
    bits: Any,
    rho: float,
    draws: int = 32,
    rng: int | np.random.Generator = 0,
    confidence: float = 0.99,
    **options: Any,
) -> Estimate:
    """Var<y, x~> measured at <y, x> = rho, x and y of unit norm, over the draws of the quantizer.

    Two draws give (e_1 - e_2)^2 / 2, exactly unbiased whatever the bias of the estimates; the mean over the rows of
    x of that is one replicate, so that the interval has draws // 2 of them.  Other parameters as in `distortion`.
    """
    if not -1 <= rho <= 1:
        raise ValueError(f"rho: expected a number from -1 to 1, got {rho}")
    rows = norm_and_unit(_rows(x))[1]
    _, estimates_of = _estimates_of(rows, correlated_queries(rows, rng, rho))
    estimates = [estimates_of(*draw) for draw in _draws(algorithm, rows, bits, draws, rng, options)]
    replicates = [((a - b) ** 2).mean() / 2 for a, b in zip(estimates[::2], estimates[1::2], strict=False)]
    if not replicates:
        raise ValueError(f"draws: expected at least 2 for a variance, got {draws}")
    return Estimate(np.array(replicates), confidence)


def recall(
    algorithm: Algorithm,
    x: ArrayLike,
    queries: ArrayLike,
    bits: Any,
    k: int = 1,
    draws: int = 32,
    rng: int | np.random.Generator = 0,
    confidence: float = 0.99,
    **options: Any,
) -> Estimate:
    """recall@1@k measured: how often the row of x nearest to a query by inner product is among the k best estimates.

    The metric of the paper's Fig 5.  Other parameters as in `distortion`.
    """
    rows = _rows(x)
    q = as_rows(queries, rows.shape[-1], name="queries")
    statistic = recall_of(rows, q.reshape(-1, q.shape[-1]), check_integer(k, "k", 1))
    return profile(algorithm, rows, bits, {"": statistic}, draws, rng, confidence, **options)[""]


def _pairs(x: ArrayLike, y: ArrayLike | None, rng: int | np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    rows = _rows(x)
    if y is None:
        return rows, correlated_queries(rows, rng)
    queries = _rows(y, "y")
    if queries.shape != rows.shape:
        raise ValueError(f"y: expected one query a non-zero row of x, {rows.shape}, got {queries.shape}")
    return rows, queries
