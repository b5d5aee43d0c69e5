"""The figures and tables of the TurboQuant paper, of QJL's and of PolarQuant's, drawn again beside exact theory.

    python -m paper_figures                     all of them, on the data that each names
    python -m paper_figures fig3 --quick        one, in seconds
    python -m paper_figures --list

A figure is a module of this package, its name a key of `FIGURES`, with

``FULL``, ``QUICK``
    the arguments of `compute` for a full and for a quick run: a dict of plain values, ``data`` among them if it
    works on vectors (a name or a file, see `data.load`)
``compute(**arguments) -> dict``
    the numbers: plain arrays, numbers and strings, nested in dicts; it draws nothing and writes nothing
``plot(results) -> matplotlib.figure.Figure``
    the picture, from what `compute` returned or from the JSON file of it
``summary(results) -> str``
    what the numbers say, in lines; ends with a count of points outside their intervals where there are any

and `__main__` does the rest: it writes ``<name>.json``, ``<name>.png`` and ``<name>.svg``, all or none of them, and
computes nothing again that the JSON file already holds for the same arguments.
"""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["FIGURES", "figure", "verbs"]

FIGURES: dict[str, str] = {
    "fig1": "TurboQuant, Fig 1: histograms of inner-product errors, b = 1..4",
    "fig2": "TurboQuant, Fig 2: errors at 2 bits, grouped by the inner product",
    "fig3": "TurboQuant, Fig 3: inner-product error and MSE against bits, with the bounds",
    "fig4": "TurboQuant, Fig 4 in miniature: needles in a haystack, on a small language model",
    "fig5": "TurboQuant, Fig 5: recall@1@k beside PQ and RaBitQ",
    "table1": "TurboQuant, Table 1 in miniature: quality against stored bits, on a small language model",
    "table2": "TurboQuant, Table 2: quantization time, with the arithmetic that it has to obey",
    "polar_angles": "PolarQuant, Fig 2: the angles of each level, with and without preconditioning",
    "qjl_m": "QJL: error and failure probability against the number of signs m",
}
"""Every figure and table by its name, with its source."""


def figure(name: str) -> ModuleType:
    """The module of a figure.

    Raises
    ------
    ValueError
        For a name that is none.
    ModuleNotFoundError
        If the module is not there, or needs a package that is not.
    """
    if name not in FIGURES:
        raise ValueError(f"no figure is called {name!r}; there are {', '.join(FIGURES)}")
    return importlib.import_module(f"{__name__}.{name}")


def verbs(ops: str, algorithm: str) -> ModuleType:
    """The module of a backend that offers the verbs of an algorithm: ``turboquant_ref.mse``, ``numba_kernels.prod``.

    Raises
    ------
    ModuleNotFoundError
        If there is none.
    """
    return importlib.import_module(f"{ops}.{algorithm}")
