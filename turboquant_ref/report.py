"""What TurboQuant does to given vectors: every measured figure beside the number that theory says it must be.

`sample` looks at the vectors and sets queries aside; `compute` measures and returns a dictionary of plain numbers (the
JSON file of ``turboquant-ref report --json``); `table` prints it, and `plot` draws it.

Real vectors are not isotropic: with one rotation they are all quantized well or badly together, so many draws of the
quantizer tell more than many vectors.  Each draw therefore takes one block of the vectors, not all; since theory is
exact for every single vector, its number is the same for each.  Every measured figure that has an exact
value is compared with it.  The intervals are Bonferroni's: with K comparisons each is taken at confidence
1 - (1 - FAMILYWISE) / K, so that all hold together with probability FAMILYWISE.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from . import __version__, measure, theory
from ._plot import plot
from ._table import LABELS, table
from .variants import DEFAULT, Variant, named
from .vectors import as_rows, check_bits, check_integer, norm_and_unit

__all__ = ["FAMILYWISE", "Sample", "chosen", "compute", "default_draws", "plot", "sample", "table"]

FAMILYWISE = 0.99
"""Probability that every interval of a report holds its exact value."""

BLOCK = 1000  # vectors quantized in one draw, about
QUERIES = 500  # rows held out for recall, at most; a fifth of the rows if they are few
SCORES = 2**25  # (query, vector) pairs scored at a time, at most
RECALL_DRAWS = 4  # of all vectors

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """Vectors to be measured, and what they are measured with.

    Attributes
    ----------
    source, dtype : str
        Where the rows come from, and the dtype that they came in.
    rows, zero_rows : int
        Rows given, and how many of them are zero and left out.
    norms : (min, median, max) of the rows that are not zero
    base : (n, d) float32 or float64
        The vectors that are quantized.
    queries : (q, d), the dtype of base
        Other rows, held out and scaled to unit norm; for recall.
    correlated : (n, d) float64
        For each vector a unit vector at a cosine drawn uniformly from [-1, 1]; for the slope, which pairs of real
        vectors, most of them far from parallel, tell little about.
    partners : (n, d) float64
        For each vector another row, scaled to unit norm; for D_prod.
    """

    source: str
    dtype: str
    rows: int
    zero_rows: int
    norms: tuple[float, float, float]
    base: NDArray[np.floating[Any]]
    queries: NDArray[np.floating[Any]]
    correlated: Floats
    partners: Floats

    @property
    def d(self) -> int:
        """Dimension."""
        return int(self.base.shape[1])


def sample(x: ArrayLike, seed: int = 0, source: str = "vectors") -> Sample:
    """Leave out zero rows and hold out a random choice of the others as queries.

    Parameters
    ----------
    x : (n, d) array
        Of any norms; duplicates are welcome.
    seed : int
        Of the choice of queries and pairs.
    source : str
        What a report calls them.

    Raises
    ------
    TypeError, ValueError
        If `x` is not such an array, or has no row but zeros.
    """
    given = np.asarray(x)
    rows = as_rows(given)
    if rows.ndim != 2:
        raise ValueError(f"x: expected an array of shape (n, d), got {rows.shape}")
    norms = norm_and_unit(rows)[0]
    rows, norms = rows[norms > 0], norms[norms > 0]
    if len(rows) == 0:
        raise ValueError(f"{source}: expected at least one vector that is not zero, got {len(given)} zero rows")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    held_out = min(QUERIES, len(rows) // 5, max(1, SCORES // len(rows)))
    kept = np.sort(order[held_out:])
    unit = norm_and_unit(rows)[1]
    following = np.empty(len(rows), dtype=np.intp)
    following[order] = np.roll(order, -1)  # one random cycle through the rows: nobody meets himself unless he is alone
    return Sample(
        source,
        given.dtype.name,
        len(given),
        len(given) - len(rows),
        (float(norms.min()), float(np.median(norms)), float(norms.max())),
        rows[kept],
        unit[np.sort(order[:held_out])],
        measure.correlated_queries(rows[kept], rng),
        unit[following[kept]].astype(np.float64),
    )


def default_draws(d: int) -> int:
    """Draws that make a fair report in a fair time: 8192 / d, from 16 to 128, since few dimensions vary more."""
    return min(max(8192 // d, 16), 128)


class _Draw:
    """The verbs of a draw, each computed once although several statistics ask for it; `tick` is called once a draw."""

    def __init__(self, tick: Callable[[], object]) -> None:
        self.tick = tick
        self.module: ModuleType | None = None
        self.code: Any = None
        self.results: dict[str, Any] = {}

    def share(self, statistic: measure.Statistic) -> measure.Statistic:
        def shared(module: ModuleType, Q: Any, code: Any) -> float:
            if code is not self.code:
                self.module, self.code, self.results = module, code, {}
                self.tick()
            verbs: Any = self
            return statistic(verbs, Q, code)

        return shared

    def dequantize(self, *arguments: Any) -> Any:
        return self._once("dequantize", arguments)

    def inner_product(self, *arguments: Any) -> Any:
        return self._once("inner_product", arguments)

    def _once(self, verb: str, arguments: tuple[Any, ...]) -> Any:
        if verb not in self.results:
            self.results[verb] = getattr(self.module, verb)(*arguments)
        return self.results[verb]


@dataclass(frozen=True, eq=False)
class _Block:
    """Vectors with the statistics that are measured of them, in a number of draws of their own."""

    x: NDArray[np.floating[Any]]
    statistics: dict[str, measure.Statistic]
    draws: int
    seed: tuple[int, int]
    mean_square_cosine: float = math.nan

    def measure(self, variant: Variant, bits: int, rotation: str, tick: Callable[[], object]) -> dict[str, Floats]:
        draw = _Draw(tick)
        statistics = {name: draw.share(f) for name, f in self.statistics.items()}
        rng = np.random.default_rng(self.seed)
        estimates = measure.profile(variant.setup, self.x, bits, statistics, self.draws, rng, rotation=rotation)
        return {name: estimate.values for name, estimate in estimates.items()}


def _blocks(x: Sample, draws: int, seed: int) -> list[_Block]:
    """Blocks of about `BLOCK` vectors that share the draws, and for recall one of all vectors, the last."""
    count = max(1, min(draws, len(x.base) // BLOCK))
    blocks = []
    for i in range(count):
        part = slice(i, None, count)
        base = x.base[part].astype(np.float64)  # what is quantized keeps its dtype, what it is compared with is exact
        cosines = (norm_and_unit(base)[1] * x.partners[part]).sum(-1)
        statistics = {
            "d_mse": measure.distortion_of(base),
            "slope": measure.slope_of(base, x.correlated[part]),
            "scaled_d_prod": measure.inner_product_error_of(base, x.partners[part]),
        }
        share = len(range(i, draws, count))
        blocks.append(_Block(x.base[part], statistics, share, (seed, i), float((cosines**2).mean())))
    if len(x.queries):
        recalls = {f"recall_at_1_at_{k}": measure.recall_of(x.base, x.queries, k) for k in (1, 10)}
        blocks.append(_Block(x.base, recalls, min(draws, RECALL_DRAWS), (seed, count)))
    return blocks


def _exact(variant: Variant, d: int, bits: int, mean_square_cosine: float) -> dict[str, float | None]:
    """The three exact values; None where theory has none that holds for every vector, as for RaBitQ.

    (Nor for some scale rules at many bits in 3 to 11 dimensions.)
    """
    try:
        if variant.make is None and variant.algorithm in theory.OPTIONS:
            moments = theory.moments(variant.algorithm, d, bits, **variant.options)
            D = theory.distortion(variant.algorithm, d, bits, **variant.options)
        else:
            moments, D = _composed(variant, d, bits)
    except ValueError:
        return dict.fromkeys(LABELS)
    return {
        "d_mse": D,
        "slope": moments.slope,
        # a quadratic in the cosine: its mean over pairs is its value at their root mean square
        "scaled_d_prod": d * moments.inner_product_error(math.sqrt(mean_square_cosine)),
    }


def _composed(variant: Variant, d: int, bits: int) -> tuple[theory.Moments, float]:
    """Of a variant that is not one module's by name; ValueError if it has no figures that hold for every vector."""
    found = variant.exact(d, bits)
    figures = found.distortion, found.slope, found.along, found.across
    if not variant.for_every_x or None in figures:
        raise ValueError(f"{variant.name} has no exact figures for every vector")
    D, slope, along, across = (float(figure) for figure in figures if figure is not None)
    return theory.Moments(d, slope, along, across), D


def _bounds(variant: Variant, d: int, bits: int) -> dict[str, dict[str, float | None]]:
    """The paper's bounds where it states them, and lower bounds at b bits a coordinate, side scalars not counted."""
    as_written = not variant.options
    return {
        "d_mse": {
            "paper_bound": theory.theorem1_bound(bits) if as_written and variant.algorithm == "mse" else None,
            "rate_distortion": theory.rate_distortion(d, bits),
            "paper_lower_bound": theory.theorem3_mse(bits),
        },
        "slope": {},
        "scaled_d_prod": {
            "paper_bound": d * theory.theorem2_bound(d, bits) if as_written and variant.algorithm == "prod" else None,
            "paper_lower_bound": d * theory.theorem3_prod(d, bits),
        },
    }


def _figure(estimate: measure.Estimate) -> dict[str, Any]:
    """An estimate as plain numbers."""
    low, high = estimate.interval
    return {
        "measured": estimate.value,
        "half_width": estimate.half_width,
        "low": low,
        "high": high,
        "confidence": estimate.confidence,
        "std_error": estimate.std_error,
        "draws": estimate.draws,
        "values": estimate.values.tolist(),
    }


def chosen(d: int, bits: Sequence[int], algorithms: Sequence[str]) -> list[tuple[Variant, int]]:
    """What a report measures: each named variant at each bit width that it is defined for.

    Raises
    ------
    ValueError
        For a name that is none; for a variant asked for by name, not by "all", that is defined at none of them.
    """
    variants = named(list(algorithms))
    for v in variants:
        reasons = [v.refuses(d, b) for b in bits]
        if v.name in algorithms and reasons and None not in reasons:
            raise ValueError(f"algorithms: {reasons[0]}")
    return [(v, b) for v in variants for b in bits if v.refuses(d, b) is None]


def compute(
    x: Sample,
    bits: Sequence[int] = (1, 2, 3, 4),
    algorithms: Sequence[str] = DEFAULT,
    rotation: str = "haar",
    draws: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure each algorithm at each bit width.

    Parameters
    ----------
    x : Sample
    bits : sequence of int
        1 to 8.
    algorithms : sequence of str
        Keys of ``variants.NAMED`` or ``variants.WILD``; "all" stands for those of NAMED that there are at this d.
    rotation : {"haar", "structured"}
    draws : int, optional
        Independent quantizers for each figure, at least 2; `default_draws` if None.
    seed : int
        Of the draws: the same ones for every algorithm and bit width.
    progress : callable
        Told after each draw how many are done, and of how many.

    Returns
    -------
    dict
        Of numbers, strings, lists and dicts only, ready for JSON.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    widths = [check_bits(b) for b in dict.fromkeys(bits)]
    pairs = chosen(x.d, widths, algorithms)
    draws = default_draws(x.d) if draws is None else check_integer(draws, "draws", 2)
    blocks = _blocks(x, draws, check_integer(seed, "seed", 0, 2**64 - 1))
    mean_square = sum(block.draws * block.mean_square_cosine for block in blocks if "slope" in block.statistics) / draws
    cells = [(v, b, _exact(v, x.d, b, mean_square)) for v, b in pairs]
    comparisons = sum(value is not None for *_, exact in cells for value in exact.values())
    confidence = 1 - (1 - FAMILYWISE) / max(comparisons, 1)
    total = len(cells) * sum(block.draws for block in blocks)
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    rows = []
    for variant, b, exact in cells:
        values: dict[str, list[Floats]] = {}
        for block in blocks:
            for name, measured in block.measure(variant, b, rotation, tick).items():
                values.setdefault(name, []).append(x.d * measured if name == "scaled_d_prod" else measured)
        estimates = {name: measure.Estimate(np.concatenate(parts), confidence) for name, parts in values.items()}
        size = variant.bytes(x.d, b)
        row: dict[str, Any] = {
            "algorithm": variant.name,
            "module": variant.algorithm,
            "options": dict(variant.options),
            "bits": b,
            "bytes_per_vector": int(size) if size == int(size) else size,
            "stored_bits": 8 * size / x.d,
            "compression": {"float16": 2 * x.d / size, "float32": 4 * x.d / size},
            **{name: _figure(estimate) for name, estimate in estimates.items()},
        }
        for name, bounds in _bounds(variant, x.d, b).items():
            value = exact[name]
            inside = None if value is None else estimates[name].contains(value)
            row[name] |= {"exact": value, "inside": inside, "detectable": estimates[name].detectable(), **bounds}
        rows.append(row)
    return {
        "format": "turboquant_ref report 1",
        "versions": {
            "turboquant_ref": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "data": {
            "source": x.source,
            "rows": x.rows,
            "zero_rows": x.zero_rows,
            "vectors": len(x.base),
            "queries": len(x.queries),
            "d": x.d,
            "dtype": x.dtype,
            "compute_dtype": x.base.dtype.name,
            "norms": dict(zip(("min", "median", "max"), x.norms, strict=True)),
            "root_mean_square_cosine": math.sqrt(mean_square),
        },
        "settings": {
            "bits": widths,
            "algorithms": list(dict.fromkeys(v.name for v, _ in pairs)),
            "rotation": rotation,
            "draws": draws,
            "vectors_a_draw": len(blocks[0].x),
            "recall_draws": min(draws, RECALL_DRAWS) if len(x.queries) else 0,
            "seed": seed,
            "scalars": "float32",
        },
        "comparisons": {
            "count": comparisons,
            "familywise_confidence": FAMILYWISE,
            "confidence": confidence,
            "expected_false_marks": 1 - FAMILYWISE if comparisons else 0.0,
            "outside": sum(row[name]["inside"] is False for row in rows for name in LABELS),
        },
        "rows": rows,
    }
