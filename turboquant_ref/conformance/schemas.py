"""The JSON Schemas of the golden vectors: closed objects, so that a field nobody specified cannot slip in."""

from __future__ import annotations

from typing import Any

from .golden import FORMAT

__all__ = ["schema"]

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer", "minimum": 0}
SPECIAL: Schema = {"anyOf": [NUMBER, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
BITS: Schema = {"type": "integer", "minimum": 1, "maximum": 8}
DIMENSION: Schema = {"type": "integer", "minimum": 2}
DTYPE: Schema = {"enum": ["float32", "float64"]}
SCALARS: Schema = {"enum": ["float32", "float64", "float16", "bfloat16"]}
HEX: Schema = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
SEED: Schema = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
SIGN: Schema = {"enum": [-1, 1]}
KIND: Schema = {"enum": ["gaussian", "orthogonal"]}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _closed(properties: Schema, optional: tuple[str, ...] = ()) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


NUMBERS, SPECIALS, INTEGERS, MATRIX = _list(NUMBER), _list(SPECIAL), _list(INTEGER), _list(_list(NUMBER))
GIVEN: Schema = {
    "oneOf": [
        _closed({"kind": {"const": "dense"}, "matrix": MATRIX}),
        _closed({"kind": {"const": "structured"}, "seed": SEED, "stream": INTEGER}),
    ]
}
DRAWN: Schema = {"seed": SEED, "stream": INTEGER, "n": INTEGER}
VECTOR: Schema = {"x": SPECIALS, "query": NUMBERS}
SKETCH: Schema = {"d": DIMENSION, "m": INTEGER, "sketchKind": KIND, "mu": NUMBER, "sketch": GIVEN}
SCALE: Schema = {"enum": ["norm", "matched", "least_squares", "unbiased"]}
BOOLEAN: Schema = {"enum": [0, 1]}
BOOK: Schema = _closed({"centroids": NUMBERS, "boundaries": NUMBERS})
TENSOR = _list(MATRIX)
CODES: Schema = _closed(
    {"bits": BITS, "rotation": GIVEN, "centroids": NUMBERS, "indices": _list(_list(INTEGERS)), "scales": MATRIX}
)
CODED: Schema = {"decoded": NUMBERS, "packed": HEX, "estimate": NUMBER}

# type: (parameters, inputs, outputs), those of each that may be left out
_Part = tuple[Schema, Schema, Schema]
TYPES: dict[str, dict[str, tuple[_Part, tuple[str, ...]]]] = {
    "packing": {
        "Bits": (({"bits": BITS}, {"numbers": INTEGERS}, {"packed": HEX}), ()),
        "Unpack": (({"bits": BITS, "n": INTEGER}, {"packed": HEX}, {"numbers": INTEGERS}), ()),
        "Scalars": (({"scalars": SCALARS}, {"values": SPECIALS}, {"packed": HEX}), ()),
    },
    "codebook": {
        "Table": (
            ({"d": DIMENSION}, {"bits": BITS}, {"centroids": NUMBERS, "boundaries": NUMBERS, "distortion": NUMBER}),
            (),
        ),
        "Index": (
            (
                {"d": DIMENSION, "bits": BITS, "dtype": DTYPE, "centroids": NUMBERS},
                {"coordinates": NUMBERS},
                {"indices": INTEGERS},
            ),
            (),
        ),
    },
    "rotation": {
        "Words": (({}, DRAWN, {"words": _list(SEED)}), ()),
        "Signs": (({}, DRAWN, {"signs": _list(SIGN)}), ()),
        "Angles": (({}, DRAWN, {"cosines": NUMBERS, "sines": NUMBERS}), ()),
        "Gaussians": (({}, DRAWN, {"gaussians": NUMBERS}), ()),
        "Fwht": (({"dtype": DTYPE}, {"x": NUMBERS}, {"y": NUMBERS}), ()),
        "Structured": (
            (
                {"d": DIMENSION, "seed": SEED, "stream": INTEGER, "dtype": DTYPE},
                {"x": NUMBERS},
                {"rotated": NUMBERS, "inverse": NUMBERS},
            ),
            (),
        ),
        "Haar": (({"d": DIMENSION}, {"seed": SEED, "stream": INTEGER}, {"matrix": MATRIX}), ()),
    },
    "mse": {
        "Mse": (
            (
                {
                    "d": DIMENSION,
                    "bits": BITS,
                    "dtype": DTYPE,
                    "scale": SCALE,
                    "scalars": SCALARS,
                    "rotation": GIVEN,
                    "centroids": NUMBERS,
                },
                VECTOR,
                {"norm": NUMBER, "unit": NUMBERS, "rotated": NUMBERS, "indices": INTEGERS, "scale": NUMBER, **CODED},
            ),
            ("query", "packed"),
        )
    },
    "qjl": {
        "Qjl": (
            (
                {"dtype": DTYPE, **SKETCH, "scalars": SCALARS},
                VECTOR,
                {"norm": NUMBER, "unit": NUMBERS, "projection": NUMBERS, "signs": _list({"enum": [0, 1]}), **CODED},
            ),
            ("query", "packed"),
        )
    },
    "prod": {
        "Prod": (
            (
                {
                    "bits": BITS,
                    "dtype": DTYPE,
                    **SKETCH,
                    "residual": {"enum": ["stored", "expected"]},
                    "expectedResidual": NUMBER,
                    "scalars": SCALARS,
                    "rotation": GIVEN,
                    "centroids": NUMBERS,
                },
                VECTOR,
                {
                    "norm": NUMBER,
                    "unit": NUMBERS,
                    "rotated": NUMBERS,
                    "indices": INTEGERS,
                    "residual": NUMBERS,
                    "residual_norm": NUMBER,
                    "projection": NUMBERS,
                    "signs": _list({"enum": [0, 1]}),
                    **CODED,
                },
            ),
            ("query", "packed", "rotated", "indices", "expectedResidual"),
        )
    },
    "polar": {
        "Polar": (
            (
                {
                    "d": DIMENSION,
                    "bits": _list(BITS),
                    "dtype": DTYPE,
                    "scale": {"enum": ["norm", "unbiased"]},
                    "gain": NUMBER,
                    "scalars": SCALARS,
                    "rotation": GIVEN,
                    "codebooks": _list(BOOK),
                },
                VECTOR,
                {
                    "norm": NUMBER,
                    "unit": NUMBERS,
                    "rotated": NUMBERS,
                    "angles": NUMBERS,
                    "radii": NUMBERS,
                    "indices": INTEGERS,
                    **CODED,
                },
            ),
            ("query", "packed"),
        )
    },
    "rabitq": {
        "Rescale": (({"d": DIMENSION}, {"bits": BITS}, {"t": NUMBER}), ()),
        "Rabitq": (
            (
                {
                    "d": DIMENSION,
                    "bits": BITS,
                    "dtype": DTYPE,
                    "scale": SCALE,
                    "t": NUMBER,
                    "bound": BOOLEAN,
                    "scalars": SCALARS,
                    "rotation": GIVEN,
                },
                VECTOR,
                {
                    "norm": NUMBER,
                    "unit": NUMBERS,
                    "rotated": NUMBERS,
                    "indices": INTEGERS,
                    "scale": NUMBER,
                    "tangent": NUMBER,
                    **CODED,
                },
            ),
            ("query", "packed", "t", "tangent"),
        ),
    },
    "attention": {
        "Attention": (
            (
                {
                    "d": DIMENSION,
                    "dtype": DTYPE,
                    "heads": INTEGER,
                    "kvHeads": INTEGER,
                    "keys": CODES,
                    "values": CODES,
                },
                {
                    "q": _list(_list(SPECIALS)),
                    "scale": NUMBER,
                    "softcap": NUMBER,
                    "causal": BOOLEAN,
                    "window": INTEGER,
                    "mask": _list(_list({"enum": [0, 1]})),
                    "bias": MATRIX,
                },
                {
                    "scores": TENSOR,
                    "logits": TENSOR,
                    "visible": _list(_list({"enum": [0, 1]})),
                    "weights": TENSOR,
                    "output": TENSOR,
                },
            ),
            ("softcap", "window", "mask", "bias"),
        )
    },
}


def _group(kind: str, part: _Part, optional: tuple[str, ...]) -> Schema:
    parameters, inputs, outputs = part
    common: Schema = {
        "tcId": {"type": "integer", "minimum": 1},
        "comment": {"type": "string"},
        "flags": _list({"type": "string"}),
    }
    answered = _closed(
        {
            **common,
            "inputs": _closed(inputs, optional),
            "outputs": _closed(outputs, optional),
            "result": {"enum": ["valid", "acceptable"]},
        }
    )
    refused = _closed(
        {**common, "inputs": _closed(inputs, optional), "outputs": _closed({}), "result": {"const": "invalid"}}
    )
    tests = {"type": "array", "minItems": 1, "items": {"oneOf": [answered, refused]}}
    return _closed({"type": {"const": kind}, **parameters, "tests": tests}, optional)


def schema(name: str) -> Schema:
    """The schema of the file of an algorithm."""
    text: Schema = {"type": "string"}
    note = _closed({"bugType": text, "description": text, "effect": text})
    groups = [_group(kind, part, optional) for kind, (part, optional) in TYPES[name].items()]
    whole = _closed(
        {
            "algorithm": {"const": name},
            "schema": {"const": f"{name}.schema.json"},
            "formatVersion": {"const": FORMAT},
            "numberOfTests": {"type": "integer", "minimum": 1},
            "header": text,
            "notes": {"type": "object", "additionalProperties": note},
            "testGroups": {
                "type": "array",
                "minItems": 1,
                "items": groups[0] if len(groups) == 1 else {"oneOf": groups},
            },
        }
    )
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Golden vectors of {name}", **whole}
