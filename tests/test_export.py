"""A codebook as text: every form read back, by another program where it is source code, gives the same bits."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from turboquant_ref import codebook, export

CASES = [(128, 4), (2, 1), (3, 2), (65536, 8), (None, 3)]
ids = [f"d{d}-b{b}" for d, b in CASES]


def same_bits(got, expected, dtype=np.float64) -> None:
    got, expected = np.asarray(got, dtype), np.asarray(expected, dtype)
    assert got.shape == expected.shape
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("d", "bits"), CASES, ids=ids)
def test_text_round_trip(d: int | None, bits: int) -> None:
    book = codebook.lloyd_max(d, bits)
    blocks = export.text(d, bits).split("\n\n")
    assert str(d) in blocks[0] or d is None
    for line, expected in zip(blocks[1].splitlines(), (book.distortion, book.entropy), strict=True):
        decimal, hexadecimal = line.split()[-2:]
        assert float(decimal) == float.fromhex(hexadecimal) == expected
    for block, expected in zip(blocks[2:], (book.centroids, book.boundaries, book.probabilities), strict=True):
        rows = [line.split() for line in block.splitlines()[2:]]
        assert [int(row[0]) for row in rows] == list(range(len(expected)))
        same_bits([float(row[1]) for row in rows], expected)
        same_bits([float.fromhex(row[2]) for row in rows], expected)
        if len(rows[0]) > 3:
            same_bits([np.float32(row[3]) for row in rows], expected, np.float32)
            same_bits([struct.unpack(">f", bytes.fromhex(row[4][2:]))[0] for row in rows], expected, np.float32)


@pytest.mark.parametrize(("d", "bits"), CASES, ids=ids)
def test_json_round_trip(d: int | None, bits: int) -> None:
    book, read = codebook.lloyd_max(d, bits), json.loads(export.text(d, bits, "json"))
    assert (read["d"], read["bits"]) == (d, bits)
    assert (read["distortion"], read["entropy"]) == (book.distortion, book.entropy)
    for name in ("centroids", "boundaries", "probabilities"):
        same_bits(read[name], getattr(book, name))
        same_bits([float.fromhex(h) for h in read[f"{name}_hex"]], getattr(book, name))
    for name in ("centroids", "boundaries"):
        same_bits(read[f"{name}_float32"], getattr(book, name).astype(np.float32))


@pytest.mark.parametrize(("d", "bits"), CASES, ids=ids)
def test_csv_round_trip(d: int | None, bits: int) -> None:
    book, rows = codebook.lloyd_max(d, bits), list(csv.DictReader(export.text(d, bits, "csv").splitlines()))
    assert {(row["d"], row["bits"]) for row in rows} == {(str(d or "gaussian"), str(bits))}
    expected = {
        "centroid": book.centroids,
        "boundary": book.boundaries,
        "probability": book.probabilities,
        "distortion": [book.distortion],
        "entropy": [book.entropy],
    }
    assert {row["quantity"] for row in rows} == set(expected)
    for name, values in expected.items():
        mine = [row for row in rows if row["quantity"] == name]
        assert [int(row["index"]) for row in mine] == list(range(len(values)))
        same_bits([float(row["float64"]) for row in mine], values)
        same_bits([float.fromhex(row["hexadecimal"]) for row in mine], values)
        same_bits([np.float32(row["float32"]) for row in mine], values, np.float32)
        same_bits([struct.unpack(">f", bytes.fromhex(row["float32_bits"][2:]))[0] for row in mine], values, np.float32)


def tables(d: int | None, bits: int) -> list[tuple[str, str, np.ndarray]]:
    """(name of the table, float64 or float32, its values) in the source code of a port."""
    book = codebook.lloyd_max(d, bits)
    prefix = f"tq_{'gaussian' if d is None else f'd{d}'}_b{bits}"
    names = ("centroids", "boundaries", "probabilities")
    double = [(f"{prefix}_{name}", "float64", getattr(book, name)) for name in names]
    return double + [(f"{prefix}_{name}_f32", "float32", getattr(book, name)) for name in names[:2]]


def check_printed_bits(output: str, cases: list[tuple[int | None, int]]) -> None:
    """The output of a port that prints its tables' bits, number by number."""
    expected = [
        f"{int.from_bytes(np.asarray(v, dtype).astype(f'>f{np.dtype(dtype).itemsize}').tobytes()):x}"
        for d, bits in cases
        for _, dtype, values in tables(d, bits)
        for v in values
    ]
    assert output.split() == expected


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_c_compiles_and_holds_the_same_bits(tmp_path: Path) -> None:
    body = "\n".join(
        f"for (size_t i = 0; i < sizeof {name} / sizeof *{name}; i++) "
        + ("{ uint64_t u; " if dtype == "float64" else "{ uint32_t u; ")
        + f'memcpy(&u, {name} + i, sizeof u); printf("%llx\\n", (unsigned long long)u); }}'
        for case in CASES
        for name, dtype, _ in tables(*case)
    )
    source = "\n".join(export.text(*case, "c") for case in CASES)
    head = "#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n"
    (tmp_path / "port.c").write_text(f"{head}{source}\nint main(void) {{\n{body}\nreturn 0; }}\n")
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *strict, "port.c", "-o", "port"], cwd=tmp_path, check=True)
    check_printed_bits(subprocess.run([tmp_path / "port"], capture_output=True, text=True, check=True).stdout, CASES)


@pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")
def test_rust_compiles_and_holds_the_same_bits(tmp_path: Path) -> None:
    body = "\n".join(
        f'for v in {name.upper()} {{ println!("{{:x}}", v.to_bits()); }}'
        for case in CASES
        for name, *_ in tables(*case)
    )
    source = "\n".join(export.text(*case, "rust") for case in CASES)
    (tmp_path / "port.rs").write_text(f"#![deny(warnings)]\n{source}\nfn main() {{\n{body}\n}}\n")
    subprocess.run(["rustc", "port.rs", "-o", "port"], cwd=tmp_path, check=True)
    check_printed_bits(subprocess.run([tmp_path / "port"], capture_output=True, text=True, check=True).stdout, CASES)


def test_rust_comments_are_the_bits_of_the_numbers_beside_them() -> None:
    lines = [line for line in export.text(128, 4, "rust").splitlines() if ", // 0x" in line]
    assert len(lines) == 16 + 15 + 16 + 16 + 15
    for line in lines:
        decimal, bits = line.split(", // 0x")
        form = ">d" if len(bits) == 16 else ">f"
        assert struct.unpack(form, bytes.fromhex(bits)) == struct.unpack(form, struct.pack(form, float(decimal)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((128, 13), "bits"), ((1, 2), "d must"), ((128, 2, "yaml"), "text, json, csv, c, rust"), ((128, 0), "bits")],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export.text(*arguments)
