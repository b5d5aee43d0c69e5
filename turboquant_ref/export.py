"""A codebook as text that a port can paste: plain text, JSON, CSV, C or Rust.

Every number is written so that reading it back gives the same float64, bit for bit: with 17 significant digits, and
as a hexadecimal float (C99, ``float.fromhex`` in Python), or as bits where the language has no such literal (Rust).
The float32 tables are the float64 ones rounded to nearest, boundaries included: these, not the midpoints of the rounded
centroids, are what the reference compares with when it computes in float32.
"""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import codebook
from .vectors import check_bits, check_dimension

__all__ = ["FORMATS", "text"]

Floats = NDArray[np.float64]
INDEX_RULE = "the index of t is the number of boundaries <= t"


def _decimal(value: float) -> str:
    return f"{value:.16e}"


def _single(value: float) -> float:
    return float(np.float32(value))


def _bits(value: float, form: str) -> str:
    """The bits of a float as a hexadecimal integer; `form` is f for float32, d for float64, as in `struct`."""
    return "0x" + struct.pack(f">{form}", value).hex().upper()


def _law(d: int | None) -> str:
    return "one coordinate of N(0, 1)" if d is None else f"one coordinate of a uniform unit vector, d = {d}"


def _made_by(d: int | None, bits: int, form: str) -> str:
    from . import __version__

    return f"turboquant_ref {__version__}: turboquant-ref codebook -d {d or 'gaussian'} -b {bits} --format {form}"


def _facts(book: codebook.Codebook) -> str:
    return f"D_mse = {_decimal(book.distortion)}, entropy of an index = {_decimal(book.entropy)} bits"


def _text(d: int | None, bits: int, book: codebook.Codebook) -> str:
    def lines(values: Floats) -> list[str]:
        return [
            f"{k:5d}  {_decimal(v):>23}  {v.hex():>24}  {_single(v):>15.8e}  {_bits(v, 'f')}"
            for k, v in enumerate(values.tolist())
        ]

    head = f"{'':5}  {'float64':>23}  {'hexadecimal':>24}  {'float32':>15}  {'its bits':>10}"
    out = [
        f"{bits}-bit Lloyd-Max codebook for {_law(d)}",
        _made_by(d, bits, "text"),
        "",
        f"distortion D_mse  {_decimal(book.distortion)}  {book.distortion.hex()}",
        f"entropy in bits   {_decimal(book.entropy)}  {book.entropy.hex()}",
        "",
        f"centroids\n{head}",
        *lines(book.centroids),
        "",
        f"boundaries: {INDEX_RULE}\n{head}",
        *lines(book.boundaries),
        "",
        f"probabilities\n{'':5}  {'float64':>23}  {'hexadecimal':>24}",
        *(f"{k:5d}  {_decimal(p):>23}  {p.hex():>24}" for k, p in enumerate(book.probabilities.tolist())),
    ]
    return "\n".join(out)


def _json(d: int | None, bits: int, book: codebook.Codebook) -> str:
    numbers: dict[str, object] = {}
    for name in ("centroids", "boundaries", "probabilities"):
        values = getattr(book, name).tolist()
        numbers |= {name: values, f"{name}_hex": [v.hex() for v in values]}
        if name != "probabilities":
            numbers[f"{name}_float32"] = [_single(v) for v in values]
    facts = {"law": _law(d), "d": d, "bits": bits, "made_by": _made_by(d, bits, "json"), "index_rule": INDEX_RULE}
    exact = {"distortion": book.distortion, "entropy": book.entropy, "residual": book.residual}
    return json.dumps({**facts, **exact, **numbers}, indent=1, allow_nan=False)


def _csv(d: int | None, bits: int, book: codebook.Codebook) -> str:
    stream = io.StringIO()
    write = csv.writer(stream, lineterminator="\n").writerow
    write(("d", "bits", "quantity", "index", "float64", "hexadecimal", "float32", "float32_bits"))
    quantities = {
        "distortion": [book.distortion],
        "entropy": [book.entropy],
        "centroid": book.centroids.tolist(),
        "boundary": book.boundaries.tolist(),
        "probability": book.probabilities.tolist(),
    }
    for name, values in quantities.items():
        for k, v in enumerate(values):
            row = ("gaussian" if d is None else d, bits, name, k, _decimal(v), v.hex())
            write((*row, f"{_single(v):.8e}", _bits(v, "f")))
    return stream.getvalue().removesuffix("\n")


def _c(d: int | None, bits: int, book: codebook.Codebook) -> str:
    prefix = f"tq_{'gaussian' if d is None else f'd{d}'}_b{bits}"
    out = [
        f"/* {bits}-bit Lloyd-Max codebook for {_law(d)}.",
        f" * {_made_by(d, bits, 'c')}",
        f" * {_facts(book)}.",
        f" * {INDEX_RULE.capitalize()}.  Hexadecimal floats: C99 or C++17. */",
    ]
    for kind, suffix, cast in (("double", "", float), ("float", "f", _single)):
        for name in ("centroids", "boundaries") + (("probabilities",) if kind == "double" else ()):
            values = [cast(v) for v in getattr(book, name).tolist()]
            table = f"{prefix}_{name}{'_f32' if kind == 'float' else ''}"
            out.append(f"\nstatic const {kind} {table}[{len(values)}] = {{")
            out += [f"    {v.hex()}{suffix}, /* {_decimal(v) if kind == 'double' else f'{v:.8e}'} */" for v in values]
            out.append("};")
    return "\n".join(out)


def _rust(d: int | None, bits: int, book: codebook.Codebook) -> str:
    prefix = f"TQ_{'GAUSSIAN' if d is None else f'D{d}'}_B{bits}"
    out = [
        f"// {bits}-bit Lloyd-Max codebook for {_law(d)}.",
        f"// {_made_by(d, bits, 'rust')}",
        f"// {_facts(book)}.",
        f"// {INDEX_RULE.capitalize()}.  Beside each number: its bits, as of f64::from_bits.",
    ]
    for kind, form in (("f64", "d"), ("f32", "f")):
        for name in ("centroids", "boundaries") + (("probabilities",) if kind == "f64" else ()):
            values = getattr(book, name).tolist()
            table = f"{prefix}_{name.upper()}{'_F32' if kind == 'f32' else ''}"
            out.append(f"\n#[allow(clippy::excessive_precision)]\npub const {table}: [{kind}; {len(values)}] = [")
            for v in values:
                decimal = _decimal(v) if kind == "f64" else f"{_single(v):.8e}"
                out.append(f"    {decimal}, // {_bits(v, form)}")
            out.append("];")
    return "\n".join(out)


FORMATS: dict[str, Callable[[int | None, int, codebook.Codebook], str]] = {
    "text": _text,
    "json": _json,
    "csv": _csv,
    "c": _c,
    "rust": _rust,
}
"""The forms that `text` knows."""


def text(d: int | None, bits: int, form: str = "text") -> str:
    """The Lloyd-Max codebook of Eq 4 at `bits` bits as text, without a final newline.

    Parameters
    ----------
    d : int or None
        The dimension; None for the Gaussian limit, N(0, 1).
    bits : int
        1 to 12.
    form : {"text", "json", "csv", "c", "rust"}

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    if form not in FORMATS:
        raise ValueError(f"form: expected one of {', '.join(FORMATS)}, got {form!r}")
    bits = check_bits(bits, high=codebook.MAX_BITS)
    d = d if d is None else check_dimension(d)
    return FORMATS[form](d, bits, codebook.lloyd_max(d, bits))
