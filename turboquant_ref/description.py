"""A quantizer as a JSON-able description and back: what a file says of the quantizer whose codes it holds.

What was drawn from a seed is described by how it was drawn (kind, d, seed, stream; m and rounds where they are); what
was built by hand, by its arrays.  So a quantizer from `setup` takes a hundred bytes in a file, and one of a port's own
Pi takes Pi.  A description is a tree of these nodes:

===================================================  ================================================================
{"algorithm", "fingerprint", field: …}               a `Quantizer` of the module of that name, field by field
{"haar": {"d", "seed", "stream"}}                    `rotation.haar`
{"structured": {"d", "seed", "stream", "rounds"}}    `rotation.Structured`
{"dense": {"values", "seed", "stream", "name"}}      `rotation.Dense`
{"lloyd_max": {"d", "bits"}}                         `codebook.lloyd_max`
{"codebook": {field: …}}                             `codebook.Codebook`
{"gaussian": {"d", "m", "seed"}}                     `qjl.sketch`, Gaussian
{"sketch": {field: …}}                               `qjl.Sketch`
{"part": {"channels", "quantizer"}}                  `channels.Part`
{"array": name}, {"float": hexadecimal}              an array beside the description; a float, exactly
null, true, "text", 7, […]                           themselves
===================================================  ================================================================
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import channels, minmax, mse, polar, prod, qjl, rabitq
from . import codebook as codebooks
from . import rotation as rotations

__all__ = ["ALGORITHMS", "MAX_NUMBERS", "describe", "rebuild"]

ALGORITHMS: dict[str, ModuleType] = {
    module.Quantizer.algorithm: module for module in (mse, prod, qjl, polar, rabitq, minmax, channels)
}
"""The modules whose quantizers can be described."""

MAX_NUMBERS = 2**27
"""The largest matrix or table that `rebuild` draws from a seed: 1 GiB of float64, a Haar matrix of d = 11,585."""

_CLASSES = {"dense": rotations.Dense, "codebook": codebooks.Codebook, "sketch": qjl.Sketch}


def describe(Q: Any, prefix: str = "quantizer") -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The description of a quantizer, and the arrays that it refers to.

    Parameters
    ----------
    Q : Quantizer
        Of a module in `ALGORITHMS`.
    prefix : str
        What the names of the arrays begin with.

    Raises
    ------
    TypeError
        If it is no such quantizer.
    """
    name = getattr(type(Q), "algorithm", None)
    if name not in ALGORITHMS or not isinstance(Q, ALGORITHMS[name].Quantizer):
        raise TypeError(f"Q: expected a quantizer of {', '.join(ALGORITHMS)}, got {type(Q).__name__}")
    arrays: dict[str, NDArray[Any]] = {}
    fields = {f.name: _node(getattr(Q, f.name), Q.d, f"{prefix}.{f.name}", arrays) for f in dataclasses.fields(Q)}
    return {"algorithm": name, "fingerprint": Q.fingerprint.hex(), **fields}, arrays


def _node(value: Any, d: int, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, channels.Part):  # its module is that of its quantizer
        arrays[f"{path}.channels"] = value.channels
        node, tables = describe(value.quantizer, f"{path}.quantizer")
        arrays |= tables
        return {"part": {"channels": {"array": f"{path}.channels"}, "quantizer": node}}
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return {"float": float(value).hex()}
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"array": path}
    if isinstance(value, tuple):
        return [_node(v, d, f"{path}.{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, rotations.Structured):
        return {"structured": {key: getattr(value, key) for key in ("d", "seed", "stream", "rounds")}}
    if isinstance(value, rotations.Dense) and value.name == "haar" and value.seed is not None:
        return {"haar": {key: getattr(value, key) for key in ("d", "seed", "stream")}}
    if isinstance(value, codebooks.Codebook) and value.identity == codebooks.lloyd_max(d, value.bits).identity:
        return {"lloyd_max": {"d": d, "bits": value.bits}}
    if isinstance(value, qjl.Sketch) and (drawn := re.fullmatch(r"gaussian\(\d+, \d+, seed=(\d+)\)", value.identity)):
        return {"gaussian": {"d": value.d, "m": value.m, "seed": int(drawn[1])}}
    for name, kind in _CLASSES.items():
        if isinstance(value, kind):
            fields = [f.name for f in dataclasses.fields(kind)]
            node = {name: {f: _node(getattr(value, f), d, f"{path}.{f}", arrays) for f in fields}}
            if isinstance(value, rotations.Dense):  # one given in float32 is orthogonal to float32's rounding only
                narrow = value.values.astype(np.float32)
                arrays[f"{path}.values"] = narrow if np.array_equal(narrow, value.values) else value.values
            return node
    raise TypeError(f"Q: its {path} is a {type(value).__name__}, which has no description")


def rebuild(description: Any, arrays: Mapping[str, NDArray[Any]], Q: Any = None) -> Any:
    """The quantizer of a description, checked by its fingerprint.

    Parameters
    ----------
    description, arrays
        What `describe` returned.
    Q : quantizer, optional
        The one that is meant, if it is at hand: nothing is drawn then, and only the fingerprint compared.

    Raises
    ------
    ValueError
        If it is no description, or of another quantizer than `Q`, or asks for more than `MAX_NUMBERS` random numbers.
    """
    try:
        fields = dict(description)
        module, fingerprint = ALGORITHMS[fields.pop("algorithm")], bytes.fromhex(fields.pop("fingerprint"))
        given = Q is not None
        Q = Q if given else module.Quantizer(**{name: _value(node, arrays) for name, node in fields.items()})
        found = Q.fingerprint
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"quantizer: {str(description)[:80]} cannot be rebuilt: {error}") from error
    if found != fingerprint:
        whose = "Q is" if given else "its description gives"
        raise ValueError(f"quantizer: expected the one of fingerprint {fingerprint.hex()}, {whose} {found.hex()}")
    return Q


def _value(node: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(node, list):
        return tuple(_value(n, arrays) for n in node)
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "array":
        return arrays[content]
    if kind == "float":
        return float.fromhex(content)
    if kind == "part":
        quantizer = rebuild(content["quantizer"], arrays)
        return channels.Part(_value(content["channels"], arrays), ALGORITHMS[quantizer.algorithm], quantizer)
    fields = {name: _value(n, arrays) for name, n in content.items()}
    if kind in _CLASSES:
        return _CLASSES[kind](**fields)
    d = fields["d"]
    numbers = {"haar": d, "structured": fields.get("rounds"), "gaussian": fields.get("m"), "lloyd_max": 1}[kind]
    if min(d, numbers) < 1 or d * numbers > MAX_NUMBERS:
        raise ValueError(f"it asks for {d} x {numbers} random numbers, at most {MAX_NUMBERS} are drawn; pass Q itself")
    if kind == "haar":
        return rotations.haar(d, fields["seed"], fields["stream"])
    if kind == "structured":
        return rotations.Structured(**fields)
    if kind == "gaussian":
        return qjl.sketch(d, fields["m"], fields["seed"], "gaussian")
    return codebooks.lloyd_max(d, fields["bits"])
