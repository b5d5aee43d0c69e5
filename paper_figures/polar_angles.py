"""PolarQuant, Fig 2: histograms of the angles of each level, with and without preconditioning.

After a random rotation the angle of level 1 is uniform on the circle and that of level l >= 2 has the density of
Lemma 2, proportional to sin(2 psi)^(2^(l-1) - 1), whatever the vectors were.  Without it the angles are the data's:
keys of a language model, the paper's and ours, have channels that differ.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref import angle, polar, rotation, theory
from turboquant_ref.generator import words

from . import data as sets
from ._style import COLOURS, new_figure, significant, styled
from ._track import track

FULL: dict[str, Any] = {"data": "smollm2-keys", "n": 3000, "draws": 96, "seed": 1}
QUICK: dict[str, Any] = {"data": "glove", "n": 400, "draws": 96, "seed": 1}
LEVELS = 4
BINS = 48
_STREAM = 0x706F6C61
BITS = (4, 2, 2, 2)


def compute(data: str, n: int, draws: int, seed: int = 0) -> dict[str, Any]:
    """Histograms of the angles, and the distortion of 4, 2, 2, 2 bits an angle with and without a rotation.

    Parameters
    ----------
    data : str
        For `data.load`; the largest multiple of 16 of their coordinates is taken.
    n : int
        Vectors.
    draws : int
        Independent rotations.
    seed : int

    Returns
    -------
    dict
        ``plain``, ``rotated``, ``exact`` (levels, bins): fractions between ``edges`` (levels, bins + 1);
        ``rotated_variance`` (draws, levels) beside ``exact_variance``, of the angles about pi/4, level 2 on;
        ``plain_distortion``, ``rotated_distortion`` (draws,), ``exact_distortion``.
    """
    sample = sets.load(data)
    d = sample.x.shape[1] // 16 * 16
    if d == 0:
        raise ValueError(f"{sample.name}: PolarQuant's blocks are of 16 coordinates, these vectors are shorter")
    rows, _ = sets.split(sets.Sample(sample.name, sample.x[:, :d]), n, 1, seed)
    x = np.asarray(rows, dtype=np.float64)
    edges = np.stack([np.linspace(0, angle.Angle(level).support[1], BINS + 1) for level in range(1, LEVELS + 1)])

    def fractions(z: NDArray[np.float64]) -> NDArray[np.float64]:
        angles = polar.transform(z, LEVELS)[1]
        return np.stack([np.histogram(psi, e)[0] / psi.size for psi, e in zip(angles, edges, strict=True)])

    rotated, variance, distortion = np.zeros((LEVELS, BINS)), [], []
    for w in track([int(w) for w in words(seed, _STREAM, draws)], "rotations"):
        Pi = rotation.haar(d, w)
        z = Pi.apply(x)
        rotated += fractions(z) / draws
        angles = polar.transform(z, LEVELS)[1][1:]
        variance.append([float(((psi - math.pi / 4) ** 2).mean()) for psi in angles])
        distortion.append(_distortion(polar.setup(d, BITS, w), x))
    exact = np.stack([np.diff(angle.Angle(level).cdf(e)) for level, e in enumerate(edges, 1)])
    laws = [angle.Angle(level) for level in range(2, LEVELS + 1)]
    quadratures = [law.quadrature(*law.support) for law in laws]
    return {
        "data": {**sample.record, "d": d, "vectors": len(x)},
        "edges": edges,
        "plain": fractions(x),
        "rotated": rotated,
        "exact": exact,
        "rotated_variance": np.array(variance),
        "exact_variance": np.array([float((w * (psi - math.pi / 4) ** 2).sum()) for psi, w in quadratures]),
        "plain_distortion": _distortion(polar.setup(d, BITS, 0, rotation=None), x),
        "rotated_distortion": np.array(distortion),
        "exact_distortion": theory.distortion("polar", d, BITS),
    }


def _distortion(Q: polar.Quantizer, x: NDArray[np.float64]) -> float:
    return float(((x - polar.dequantize(Q, polar.quantize(Q, x))) ** 2).sum(-1).mean())


@styled
def plot(results: dict[str, Any]) -> Any:
    """A panel a level: the angles as they come, after a rotation, and their exact law."""
    figure = new_figure(11, 3.1)
    edges = np.asarray(results["edges"])
    for level, axis in enumerate(figure.subplots(1, len(edges)), 1):
        width = np.diff(edges[level - 1])
        densities = {name: np.asarray(results[name])[level - 1] / width for name in ("plain", "rotated", "exact")}
        axis.stairs(densities["plain"], edges[level - 1], color=COLOURS["orange"], fill=True, alpha=0.45,
                    label="without preconditioning")  # fmt: skip
        axis.stairs(densities["rotated"], edges[level - 1], color=COLOURS["blue"], label="after a random rotation")
        centre = (edges[level - 1][1:] + edges[level - 1][:-1]) / 2
        axis.plot(centre, densities["exact"], ":", color="k", label="exact law (Lemma 2)")
        turn = edges[level - 1][-1]
        axis.set_xticks([0, turn / 2, turn], ["0", "π", "2π"] if level == 1 else ["0", "π/4", "π/2"])
        axis.set(title=f"level {level}", xlabel="angle ψ (radians)", ylim=(0, None))
        axis.set_yticks([])
        axis.grid(False)
        if level == 1:
            axis.set_ylabel("density")
            handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.suptitle(f"Polar angles of {results['data']['vectors']:,} vectors: {results['data']['name']}", fontsize=10)
    return figure


def summary(results: dict[str, Any]) -> str:
    """Variances and distortion beside exact."""
    from .errors import intervals

    measured = np.vstack([np.asarray(results["rotated_variance"]).T, results["rotated_distortion"]])
    exact = np.append(results["exact_variance"], results["exact_distortion"])
    means, half, outside, count = intervals(measured, exact)
    lines = [f"level {level}: variance of the angle after rotation {significant(m, 4)} ± {h:.1g} [{significant(e, 4)}]"
             for level, (m, h, e) in enumerate(zip(means[:-1], half[:-1], exact[:-1], strict=True), 2)]  # fmt: skip
    lines.append(f"D of 4, 2, 2, 2 bits: without rotation {significant(results['plain_distortion'])}, with "
                 f"{significant(means[-1], 4)} ± {half[-1]:.1g} [{significant(exact[-1], 4)}]")  # fmt: skip
    return "\n".join([*lines, f"{outside} of {count} points outside their intervals (joint, 99 %)"])
