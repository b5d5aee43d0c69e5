"""What the notebooks show pictures with: `show`, and `explore`, a slider with a picture that stands without it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from typing import Any

from ._style import COLOURS, CYCLE, MARKERS, new_figure, styled

__all__ = ["COLOURS", "CYCLE", "MARKERS", "explore", "new_figure", "show", "styled"]

STATIC = "PAPER_FIGURES_STATIC"
"""Set in the environment, `explore` draws one picture and no slider: for printed notebooks."""

DPI = 80


def show(figure: Any) -> None:
    """Display a figure as a PNG in a notebook; elsewhere, draw it and show nothing."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    try:
        from IPython.display import Image, display
    except ImportError:
        return
    display(Image(stream.getvalue()))


def explore(draw: Callable[..., Any], **choices: Sequence[Any]) -> None:
    """A picture ``draw(**one choice of each)``, with a slider for each choice where ipywidgets is there.

    Parameters
    ----------
    draw : callable
        Returns a matplotlib figure.
    **choices : sequence
        The values of each argument; the picture begins with the middle one.
    """
    middle = {name: values[len(values) // 2] for name, values in choices.items()}
    if os.environ.get(STATIC):
        show(draw(**middle))
        return
    try:
        from ipywidgets import SelectionSlider, interact
    except ImportError:
        show(draw(**middle))
        return
    sliders = {
        name: SelectionSlider(options=list(values), value=middle[name], continuous_update=False)
        for name, values in choices.items()
    }
    interact(lambda **chosen: show(draw(**chosen)), **sliders)
