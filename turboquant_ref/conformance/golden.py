"""The golden vectors as data: reading the files, their canonical text, and the cases in them.

`vectors/README.md` describes the files. Numbers are JSON numbers that Python's `repr` writes: the shortest decimal
that reads back as the same float64, sign of zero included; a float32 is written as the float64 that it equals. Seeds
and words are 16 hexadecimal digits, bytes hexadecimal too, and what JSON has no number for is the text "NaN",
"Infinity" or "-Infinity", in the input of an invalid case only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DIRECTORY",
    "FORMAT",
    "NAMES",
    "SCHEMA",
    "Case",
    "cases",
    "manifest",
    "read",
    "reals",
    "rows",
    "text",
    "texts",
]

FORMAT = 1
"""The format version of the files, and of requests.json."""

NAMES = ("packing", "codebook", "rotation", "mse", "qjl", "prod", "polar", "rabitq", "attention")
"""The files, an algorithm each."""

DIRECTORY = Path(__file__).parent / "vectors"
SCHEMA = Path(__file__).parent / "schema"

_ALGORITHMS = ("Mse", "Qjl", "Prod", "Polar", "Rabitq", "Attention")


@dataclass(frozen=True, eq=False)
class Case:
    """One golden vector.

    Attributes
    ----------
    file : str
        One of `NAMES`.
    number : int
        Of the group in the file, from 0.
    group : mapping
        The parameters that the tests of a group share, "type" among them, the tests left out.
    test : mapping
        tcId, comment, flags, inputs, outputs, result.
    """

    file: str
    number: int
    group: Mapping[str, Any]
    test: Mapping[str, Any]

    @property
    def id(self) -> str:
        """What a response calls it: "mse-12"."""
        return f"{self.file}-{self.test['tcId']}"

    @property
    def level(self) -> int:
        """0 for primitives, 1 for algorithms."""
        return 1 if self.group["type"] in _ALGORITHMS else 0

    @property
    def flags(self) -> tuple[str, ...]:
        """Keys of the file's notes."""
        return tuple(self.test["flags"])

    @property
    def valid(self) -> bool:
        """Whether there is an answer; the input of an invalid case must be refused."""
        return bool(self.test["result"] != "invalid")

    @property
    def dtype(self) -> str:
        """The compute dtype."""
        return str(self.group.get("dtype", "float64"))


def reals(values: Any) -> NDArray[np.float64]:
    """The numbers of a file as an array, the texts "NaN", "Infinity" and "-Infinity" among them."""
    found = np.asarray(values)
    if found.dtype.kind not in "iuf":
        found = np.asarray(values, dtype=object)
    return np.asarray(found, dtype=np.float64)


def rows(values: Any, dtype: str) -> NDArray[np.floating[Any]]:
    """The numbers of a file as an array of the compute dtype."""
    return reals(values).astype(dtype)


def texts(values: NDArray[np.floating[Any]]) -> Any:
    """The inverse of `reals`: nested lists of floats."""
    special = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

    def one(value: Any) -> Any:
        return [one(v) for v in value] if isinstance(value, list) else special.get(str(value), value)

    return one(np.asarray(values, dtype=np.float64).tolist())


def text(document: Any, indent: int = 0) -> str:
    """The canonical text: keys in their order, an object's key a line, an array of numbers or texts a line."""
    pad = "\n" + " " * (indent + 1)
    if isinstance(document, dict) and document:
        items = (f"{json.dumps(k)}: {text(v, indent + 1)}" for k, v in document.items())
        return "{" + pad + ("," + pad).join(items) + pad[:-1] + "}"
    if isinstance(document, list) and any(isinstance(v, dict | list) for v in document):
        return "[" + pad + ("," + pad).join(text(v, indent + 1) for v in document) + pad[:-1] + "]"
    return json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(",", ": "))


@lru_cache(maxsize=len(NAMES))
def read(name: str) -> Mapping[str, Any]:
    """The file of an algorithm; not to be written to."""
    document: Mapping[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text(encoding="utf-8"))
    return document


def of_document(document: Mapping[str, Any]) -> list[Case]:
    """The cases of a file that has been read."""
    found = []
    for number, group in enumerate(document["testGroups"]):
        parameters = {k: v for k, v in group.items() if k != "tests"}
        found += [Case(document["algorithm"], number, parameters, test) for test in group["tests"]]
    return found


def cases(name: str) -> list[Case]:
    """The cases of an algorithm."""
    return of_document(read(name))


def manifest() -> dict[str, str]:
    """SHA-256 of every file of vectors and schemas, by its name: what MANIFEST.json must say."""
    files = [DIRECTORY / f"{name}.json" for name in NAMES] + [SCHEMA / f"{name}.schema.json" for name in NAMES]
    return {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
