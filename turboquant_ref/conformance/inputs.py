"""The vectors that the golden vectors ask about, and the objects that they give.

Everything here is a function of constants: random-looking vectors are Gaussians of `generator`, rounded to 1/256 so
that no library's last bit matters; a dense Pi or S that is "given" is likewise made of elementwise operations only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codebook as codebooks
from .. import generator
from .. import rotation as rotations
from .golden import texts

__all__ = [
    "ALL",
    "DTYPES",
    "SEEDS",
    "SOME",
    "Group",
    "asked",
    "centroids_of",
    "dense",
    "digits",
    "inputs_of",
    "kind_of_dimension",
    "mark",
    "matrix_given",
    "seed_given",
    "vector",
]

Group = dict[str, Any]
Floats = NDArray[np.float64]
SEEDS = (0, 1, 2**64 - 1, 0xFEDCBA9876543210)
DTYPES = ("float64", "float32")


def asked(comment: str, flags: str, result: str = "valid", **inputs: Any) -> dict[str, Any]:
    """A test, to be answered."""
    return {"comment": comment, "flags": flags.split(), "inputs": inputs, "result": result}


def digits(seed: int) -> str:
    """A seed as the files have it."""
    return f"{seed:016x}"


def vector(d: int, seed: int) -> Floats:
    """An ordinary vector: Gaussians rounded to 1/256."""
    return np.rint(generator.gaussians(seed, 7, d) * 256) / 256


def dense(d: int, seed: int = 1) -> Floats:
    """An orthogonal matrix that every machine computes to the same bit."""
    return rotations.structured(d, seed).matrix()


def inputs_of(d: int, dtype: str, which: str, invalid: bool = False) -> list[dict[str, Any]]:
    """Vectors with their queries; `which` are words from the table below."""
    extremes = {"float64": (5e-324, 3e-310, 1e-200, 1e200, 1.7e308), "float32": (2.0**-149, 1e-40, 1e-25, 1e25, 3e38)}
    smallest, denormal, small, large, largest = extremes[dtype]
    e = np.eye(d)
    x = vector(d, d + 1)
    table: dict[str, tuple[str, str, Floats]] = {
        "typical": ("ordinary", "Typical NonUnitNorm Transposed", x),
        "other": ("ordinary, of norm about 300", "Typical NonUnitNorm RelativeResidual", vector(d, d + 2) * 100),
        "correlated": ("the query itself", "Typical DoubleScaling", vector(d, d + 100)),
        "first": ("one-hot", "OneHot", e[0]),
        "last": ("one-hot, negative", "OneHot", -3 * e[-1]),
        "two": ("two-hot", "TwoHot", e[0] - e[d // 2]),
        "constant": ("constant", "Constant", np.full(d, 0.25)),
        "alternating": ("alternating", "Constant", np.where(np.arange(d) % 2 == 0, 1.0, -1.0)),
        "zero": ("zero", "ZeroVector", np.zeros(d)),
        "minus": ("minus zero", "ZeroVector NegativeZero", np.full(d, -0.0)),
        "smallest": ("the smallest number, once", "Denormal OneHot", smallest * e[1]),
        "denormal": ("denormals", "Denormal", denormal * x),
        "small": ("squares vanish", "TinyNorm", small * x),
        "large": ("squares overflow", "HugeNorm", large * x),
        "mixed": ("1 beside the nearly invisible", "MixedMagnitude", np.where(np.arange(d) % 2 == 0, x, small * x)),
    }
    tests = []
    for word in which.split():
        comment, flags, values = table[word]
        tests.append(
            asked(comment, flags, x=texts(values.astype(dtype)), query=texts(vector(d, d + 100).astype(dtype)))
        )
    if invalid:
        bad = {"NaN": "NotFinite", "Infinity": "NotFinite", "-Infinity": "NotFinite"}
        for value, flag in bad.items():
            tests.append(asked(value, flag, "invalid", x=[*texts(x.astype(dtype))[:-1], value]))
        full = texts(np.full(d, largest).astype(dtype))
        tests.append(asked("the norm is larger than any number", "NormOverflow", "invalid", x=full))
    return tests


ALL = "typical other first last two constant alternating zero minus smallest denormal small large mixed"
SOME = {"float64": ALL, "float32": "typical constant zero smallest denormal large mixed"}
"""Of `ALL`, what a compute dtype is asked: the files are to stay small."""


def matrix_given(matrix: Floats) -> dict[str, Any]:
    """A Pi or S that is given."""
    return {"kind": "dense", "matrix": texts(matrix)}


def seed_given(seed: int, stream: int = 0) -> dict[str, Any]:
    """A structured Pi or S."""
    return {"kind": "structured", "seed": digits(seed), "stream": stream}


def centroids_of(d: int, bits: int) -> list[float]:
    """The codebook, as a file has it."""
    return list(texts(codebooks.lloyd_max(d, bits).centroids)) if bits else []


def mark(tests: list[dict[str, Any]], *flags: str) -> list[dict[str, Any]]:
    """The tests with more flags on those that have an answer."""
    for test in tests:
        if test["result"] == "valid":
            test["flags"] += [flag for flag in flags if flag and flag not in test["flags"]]
    return tests


def kind_of_dimension(d: int) -> str:
    """The flag of a dimension that is out of the ordinary, else none."""
    return "MinimalDimension" if d == 2 else "OddDimension" if d % 2 else "NotPowerOfTwo" if d & (d - 1) else ""
