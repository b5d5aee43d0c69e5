"""What the notebooks show pictures with: `show`, and `explore`, sliders with a picture that stands without them."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
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


def explore(draw: Callable[..., Any], start: Mapping[str, Any] | None = None, **choices: Sequence[Any]) -> None:
    """A picture ``draw(**one choice of each)``, with a slider for each choice where ipywidgets is there.

    Parameters
    ----------
    draw : callable
        Returns a matplotlib figure.
    start : mapping, optional
        The choices to begin with; the middle ones by default.
    **choices : sequence
        The values of each argument.
    """
    first = {name: values[len(values) // 2] for name, values in choices.items()} | dict(start or {})
    if os.environ.get(STATIC):
        show(draw(**first))
        return
    try:
        from ipywidgets import SelectionSlider, interact
    except ImportError:
        show(draw(**first))
        return
    sliders = {
        name: SelectionSlider(options=list(values), value=first[name], continuous_update=False)
        for name, values in choices.items()
    }
    interact(lambda **chosen: show(draw(**chosen)), **sliders)
