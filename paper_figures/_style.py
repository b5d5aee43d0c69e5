"""One look for all pictures: Okabe and Ito's colours, which the colour-blind can tell apart, and one font."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

COLOURS = {
    "blue": "#0072B2",
    "red": "#D55E00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
CYCLE = tuple(COLOURS.values())
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "0.45"

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "paper_figures",  # the same picture is the same file
}


def styled(plot: Callable[..., Any]) -> Callable[..., Any]:
    """`plot` drawn in this style, whatever the user's own matplotlib settings are."""

    @functools.wraps(plot)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(STYLE)
            return plot(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches, not pyplot's."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent between 1e-5 and 1e6."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}" if -4 < decimals < 9 else f"{value:.{digits}g}"
