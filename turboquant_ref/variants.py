"""The named variants: a name for each (algorithm, options) that is found in the wild.

A name is what the command line, reports and records of measurements say instead of a list of options:
``NAMED["mse-unbiased"]`` is `mse` with ``scale="unbiased"``, whose exact values are ``theory.distortion("mse", d, bits,
scale="unbiased")`` and whose measured ones are ``measure.distortion("mse", x, bits, scale="unbiased")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["DEFAULT", "NAMED", "Variant", "named"]


@dataclass(frozen=True, eq=False)
class Variant:
    """An algorithm with its options fixed.

    Attributes
    ----------
    name : str
        Its key in `NAMED`.
    algorithm : {"mse", "prod", "qjl"}
        The module that implements it, a key of ``measure.ALGORITHMS``.
    options : mapping of str to str
        What ``theory`` and the module's ``setup`` are told beside (d, bits).
    description : str
        One line, for a list of them.
    """

    name: str
    algorithm: str
    options: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


_VARIANTS = (
    Variant("mse", "mse", {}, "Algorithm 1, ||x|| stored: the paper's TurboQuant_mse"),
    Variant("mse-matched", "mse", {"scale": "matched"}, "Algorithm 1, decoded to the norm of x"),
    Variant(
        "mse-least_squares", "mse", {"scale": "least_squares"}, "Algorithm 1, the scale of least error: EDEN's biased"
    ),
    Variant("mse-unbiased", "mse", {"scale": "unbiased"}, "Algorithm 1, the unbiased scale: DRIVE's, EDEN's"),
    Variant("prod", "prod", {}, "Algorithm 2, Gaussian S, ||r|| stored: the paper's TurboQuant_prod"),
    Variant("prod-orthogonal", "prod", {"sketch": "orthogonal"}, "Algorithm 2 with an orthogonal S, ||r|| stored"),
    Variant(
        "prod-released",
        "prod",
        {"sketch": "orthogonal", "residual": "expected"},
        "Algorithm 2 as in the authors' code: orthogonal S, ||r|| replaced by its root mean square",
    ),
    Variant("qjl", "qjl", {}, "QJL alone, m = b d signs of a Gaussian sketch"),
    Variant("qjl-orthogonal", "qjl", {"sketch": "orthogonal"}, "QJL alone, m = b d signs of an orthogonal sketch"),
)

NAMED: dict[str, Variant] = {variant.name: variant for variant in _VARIANTS}
"""Every variant by its name."""

DEFAULT = ("mse", "mse-unbiased", "prod", "prod-orthogonal")
"""What a report compares if it is not told."""


def named(names: list[str] | tuple[str, ...]) -> list[Variant]:
    """The variants of these names, each once, in the order given; "all" stands for every one.

    Raises
    ------
    ValueError
        For a name that is none; the message lists those that are.
    """
    unknown = [name for name in names if name != "all" and name not in NAMED]
    if unknown:
        width = max(map(len, NAMED))
        known = "\n".join(f"  {v.name:<{width}}  {v.description}" for v in NAMED.values())
        raise ValueError(f"no algorithm is called {unknown[0]!r}; allowed are all, or some of\n{known}")
    chosen = [key for name in names for key in (NAMED if name == "all" else (name,))]
    return [NAMED[name] for name in dict.fromkeys(chosen)]
