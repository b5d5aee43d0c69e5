"""Vectors to work on: a small real sample, and readers for the user's own .npy, .npz and .fvecs files.

Nothing of a file is believed before it is checked: a header is compared with the size of the file before an
array is made, pickles are never opened, and a file that is not what its name says is a ValueError that names
the file, what was found in it and what was expected. An .npy or .fvecs file is mapped into memory, not read:
its size is no concern. Only the check for NaN goes through its rows once, block by block.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..vectors import check_integer

GLOVE = Path(__file__).with_name("glove_6b_50d.npz")
SUFFIXES = ".npy, .npz or .fvecs"
EXPECTED = "expected a two-dimensional array, a row a vector, of float16, float32, float64 or integers"
HEAD = 2**14  # bytes that hold the header of any .npy stream: NumPy takes none beyond 10,000
BLOCK = 2**22  # values that the check for NaN looks at in one go


def glove() -> tuple[list[str], NDArray[np.float32]]:
    """The bundled sample: 8,000 frequent words of GloVe 6B (50-d), with the norms that GloVe gave them.

    Returns
    -------
    words : list of str
        Lower-case words of at least two letters a-z, the most frequent first.
    vectors : ndarray, shape (8000, 50), float32
        GloVe's vectors rounded to float16, not normalised. Licence, source and the exact selection are in
        glove_6b_50d.SOURCE.md beside the file.
    """
    with np.load(GLOVE, allow_pickle=False) as archive:
        words = archive["words"].tobytes().decode("utf-8").split("\n")
        return words, archive["vectors"].astype(np.float32)


def read(path: str | os.PathLike[str], limit: int | None = None, key: str | None = None) -> NDArray[Any]:
    """The vectors of a file, a row a vector.

    Parameters
    ----------
    path : str or path
        `.npy`: a two-dimensional array. `.npz`: an archive that holds one two-dimensional array, or the one
        named by `key`. `.fvecs`: for each vector a little-endian int32 d and d little-endian float32.
    limit : int, optional
        Only the first `limit` rows are read and checked; all by default.
    key : str, optional
        The name of the array in an `.npz`.

    Returns
    -------
    ndarray, shape (n, d), n >= 1, d >= 2
        In the dtype of the file (float16, float32, float64 or integers), read-only, every value finite.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        No such file; a directory.
    TypeError
        `limit` is not an integer, `key` not a string.
    ValueError
        An unknown suffix; a file that is truncated, damaged or of another format; objects and pickles;
        another dtype or number of axes; no rows; d < 2; a row of another d (`.fvecs`); a NaN or an infinity;
        several arrays or none in an `.npz`; `key` for a file that is no `.npz`; `limit` < 1. (An `.fvecs`
        file cut between two rows is a shorter `.fvecs` file: nothing can tell.)
    """
    path = Path(path)
    if limit is not None:
        limit = check_integer(limit, "limit", 1)
    if key is not None and not isinstance(key, str):
        raise TypeError(f"key must be a string, the name of an array in an .npz file, got {key!r}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory, expected a file {SUFFIXES}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", ".fvecs"):
        raise ValueError(f"{path} has the suffix {path.suffix!r}, expected {SUFFIXES}")
    if key is not None and suffix != ".npz":
        raise ValueError(f"{path} is no .npz file: it has no array named {key!r}")
    if suffix == ".npy":
        rows = _npy(path)[:limit]
    elif suffix == ".npz":
        rows = _npz(path, limit, key)
    else:
        rows = _fvecs(path, limit)
    for start, block in _blocks(rows):
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if bad.size:
            row = start + int(bad[0])
            raise ValueError(f"{path}: row {row} holds a NaN or an infinity, expected finite values")
    return rows


class _Header(NamedTuple):
    """What the head of an .npy stream says, and where the values begin."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    def __str__(self) -> str:
        return f"an array of shape {self.shape} and dtype {self.dtype}"


def _header(head: bytes, source: str) -> _Header:
    """The header of an .npy stream that begins with `head`, not yet believed."""
    stream = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:  # (3, 0) is for field names beyond Latin-1, and vectors have no fields
            raise ValueError(f"version {version} of the format, expected (1, 0) or (2, 0)")
    except Exception as error:  # the header is Python source text: damage in it can raise anything
        raise ValueError(f"{source} is not a readable .npy array: {error}") from error
    return _Header(shape, fortran, dtype, stream.tell())


def _check(header: _Header, size: int, source: str) -> None:
    """Raise a ValueError unless the stream has the `size` in bytes that its header announces and is rows of numbers."""
    if header.dtype.hasobject:
        raise ValueError(f"{source} holds {header}: pickled objects are never read; {EXPECTED}")
    announced = header.offset + math.prod(header.shape) * header.dtype.itemsize  # Python integers do not wrap
    if min(header.shape, default=0) < 0 or announced != size:
        raise ValueError(f"{source} announces {header}, {announced} bytes in all, but has {size} bytes")
    if len(header.shape) != 2 or (header.dtype.kind not in "iu" and header.dtype.char not in "efd"):
        raise ValueError(f"{source} holds {header}; {EXPECTED}")
    if header.shape[0] < 1 or header.shape[1] < 2:
        raise ValueError(f"{source} holds {header}; expected at least 1 row and 2 columns")


def _npy(path: Path) -> NDArray[Any]:
    with path.open("rb") as stream:
        header = _header(stream.read(HEAD), str(path))
    _check(header, path.stat().st_size, str(path))
    shape, fortran, dtype, offset = header
    return np.asarray(np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C"))


def _npz(path: Path, limit: int | None, key: str | None) -> NDArray[Any]:
    with _unzipping(path), zipfile.ZipFile(path) as archive:
        files = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        members = {member.filename.removesuffix(".npy"): member for member in files}
        heads = {}
        for name, member in members.items():
            if member.compress_size > path.stat().st_size:
                raise zipfile.BadZipFile(f"array {name!r} is said to take {member.compress_size} bytes of it")
            with archive.open(member) as stream:
                heads[name] = stream.read(HEAD)
    sources = {name: f"{path}, array {name!r}," for name in members}
    headers = {name: _header(heads[name], sources[name]) for name in members}
    name = _choose(headers, path, key)
    _check(headers[name], members[name].file_size, sources[name])
    (n, d), fortran, dtype, offset = headers[name]
    rows = n if limit is None or fortran else min(n, limit)
    with _unzipping(path), zipfile.ZipFile(path) as archive, archive.open(members[name]) as stream:
        stream.read(offset)
        values = np.frombuffer(stream.read(rows * d * dtype.itemsize), dtype)
        return values.reshape(d, n).T[:limit] if fortran else values.reshape(rows, d)


@contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    """What goes wrong while the archive is read, zipfile's dozen types of error, is a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{path} is not a readable .npz (zip) archive: {error}") from error


def _choose(headers: dict[str, _Header], path: Path, key: str | None) -> str:
    """The name of the array that is meant: `key`, or the only two-dimensional one."""
    found = ", ".join(f"{name!r} ({h.dtype}, shape {h.shape})" for name, h in headers.items()) or "no array"
    if key is not None:
        if key not in headers:
            raise ValueError(f"{path} holds no array named {key!r}; it holds {found}")
        return key
    candidates = [name for name, header in headers.items() if len(header.shape) == 2]
    if len(candidates) > 1:
        raise ValueError(f"{path} holds {len(candidates)} two-dimensional arrays, name one as key: {found}")
    if not candidates:
        raise ValueError(f"{path} holds {found}; {EXPECTED}")
    return candidates[0]


def _fvecs(path: Path, limit: int | None) -> NDArray[Any]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        d = int.from_bytes(stream.read(4), "little", signed=True)
    if d < 2 or 4 * (d + 1) > size:
        expected = "expected for each vector an int32 d of at least 2 and d float32, little-endian"
        raise ValueError(f"{path} announces {d} coordinates in row 0 but has {size} bytes; {expected}")
    n, rest = divmod(size, 4 * (d + 1))
    if rest:
        raise ValueError(f"{path} has {n} rows of {d} coordinates and {rest} bytes more, expected whole rows")
    words = np.memmap(path, np.dtype("<i4"), "r", 0, (n, d + 1))[:limit]
    other = np.flatnonzero(words[:, 0] != d)
    if other.size:
        row = int(other[0])
        raise ValueError(f"{path}: row {row} announces {words[row, 0]} coordinates, expected {d} as in row 0")
    return np.asarray(words[:, 1:].view("<f4"))


def _blocks(rows: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Slices of the rows, of about BLOCK values each, with the index of their first row."""
    step = max(1, BLOCK // rows.shape[1])
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step]
