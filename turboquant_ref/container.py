"""A file of named arrays with its metadata and one checksum: what `search` and `cache` save.

All numbers are little-endian; N sections, J bytes of text:

============  ======  ==================================================================================
offset        bytes
============  ======  ==================================================================================
0             8       magic: 93 54 55 52 42 4F 51 0A
8             4       endianness mark 0x01020304, so the bytes 04 03 02 01
12            4       version of this layout: 1
16            8       length of the whole file
24            8       J, at most 2^24
32            4       N, at most 2^16
36            4       0
40            16 N    the section table: offset and length of each section
40 + 16 N     J       JSON, UTF-8: {"kind": …, "arrays": [{"name": …, "dtype": …, "shape": …}, …], "metadata": {…}}
…             …       the sections in order, each at the next multiple of 64, zeros between
length - 32   32      SHA-256 of everything before
============  ======  ==================================================================================

A section is one array in C order; its dtype is one of `DTYPES` ("<f4", as NumPy writes it), and section i is described
by entry i of "arrays".  Nothing is pickled.  Nothing that a header says is believed before it is compared with the size
of the file, so a hostile one cannot ask for more memory than the file takes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "VERSION", "read", "write"]

MAGIC = b"\x93TURBOQ\n"
MARK = 0x01020304
VERSION = 1
DTYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
"""What a section may hold."""

_HEADER = struct.Struct("<8sIIQQII")
_ENTRY = struct.Struct("<QQ")
_ALIGN, _DIGEST, _MAX_TEXT, _MAX_SECTIONS = 64, 32, 2**24, 2**16


def write(path: str | os.PathLike[str], kind: str, metadata: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write a file, at once or not at all.

    The bytes go to a temporary file in the same directory (".turboquant-….tmp"), are flushed to the disk, and then take
    the name; a crash before that leaves what had the name as it was.

    Parameters
    ----------
    path : str or path
        An existing file is replaced, and keeps its mode; a symbolic link is followed.
    kind : str
        What the file is, "index" for example; `read` asks for it.
    metadata : mapping
        Of what JSON has: str, int, finite float, bool, None, lists and mappings with str keys.
    arrays : mapping of str to ndarray
        Of the dtypes in `DTYPES`, in either byte order.

    Raises
    ------
    TypeError, ValueError
        For an array or metadata that the format cannot hold; before any file is touched.
    OSError
        If it cannot be written.
    """
    values = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    values = {name: a.astype(a.dtype.newbyteorder("<"), copy=False) for name, a in values.items()}
    for name, a in values.items():
        if a.dtype.str not in DTYPES:
            raise TypeError(f"arrays: {name!r} has dtype {a.dtype}, allowed are {', '.join(DTYPES)}")
    described = [{"name": name, "dtype": a.dtype.str, "shape": list(a.shape)} for name, a in values.items()]
    document = {"kind": kind, "arrays": described, "metadata": dict(metadata)}
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
    if len(text) > _MAX_TEXT or len(values) > _MAX_SECTIONS:
        found = f"{len(text)} bytes of metadata and {len(values)} arrays"
        raise ValueError(f"metadata: at most {_MAX_TEXT} bytes and {_MAX_SECTIONS} arrays fit, got {found}")

    at = _HEADER.size + _ENTRY.size * len(values) + len(text)
    table = b""
    parts: list[Any] = [text]
    for a in values.values():
        gap = -at % _ALIGN
        table += _ENTRY.pack(at + gap, a.nbytes)
        parts += [bytes(gap), a.reshape(-1).view(np.uint8)]
        at += gap + a.nbytes
    header = _HEADER.pack(MAGIC, MARK, VERSION, at + _DIGEST, len(text), len(values), 0)
    _replace(Path(os.path.realpath(path)), [header, table, *parts])


def _replace(target: Path, parts: list[Any]) -> None:
    """The parts and their digest as the new content of `target`, atomically."""
    temporary = target.with_name(f".turboquant-{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    digest = hashlib.sha256()
    try:
        with open(os.open(temporary, flags, 0o666), "wb") as stream:
            for part in parts:
                stream.write(part)
                digest.update(part)
            stream.write(digest.digest())
            stream.flush()
            os.fsync(stream.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name survives a power cut too
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read(
    path: str | os.PathLike[str], kind: str, mmap: bool = False, verify: bool = True
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The metadata and the arrays of a file that `write` wrote.

    Parameters
    ----------
    path : str or path
    kind : str
        What the file must be.
    mmap : bool
        Map the file into memory instead of reading it: pages are read when they are used.
    verify : bool
        Compare the checksum, one pass over the file.  Only what is not damaged may be read with False.

    Returns
    -------
    metadata : dict
    arrays : dict of str to ndarray
        Read-only.

    Raises
    ------
    ValueError
        If it is another file, another version, of another kind, truncated or damaged; the message says what was found.
    OSError
        If it cannot be opened.
    """
    path = Path(path)
    with path.open("rb") as stream:
        head, size = stream.read(_HEADER.size), os.fstat(stream.fileno()).st_size
        length, n_text, n_sections = _check_header(path, head, size)
        stream.seek(0)
        raw = np.memmap(path, np.uint8, "r") if mmap else np.fromfile(stream, np.uint8)
    if raw.size != length or raw[: len(head)].tobytes() != head:
        raise ValueError(f"{path} changed while it was read")
    end = length - _DIGEST
    if verify:
        found, expected = hashlib.sha256(raw[:end].data).hexdigest(), raw[end:].tobytes().hex()
        if found != expected:
            raise ValueError(f"{path} is damaged: its SHA-256 is {found[:16]}…, the one stored is {expected[:16]}…")
    raw.flags.writeable = False
    start = len(head) + _ENTRY.size * n_sections
    table = [_ENTRY.unpack_from(raw.data, len(head) + _ENTRY.size * i) for i in range(n_sections)]
    document = _parse(path, raw[start : start + n_text].tobytes(), n_sections)
    if document["kind"] != kind:
        raise ValueError(f"{path} holds a {str(document['kind'])[:40]!r}, expected {kind!r}")
    arrays: dict[str, NDArray[Any]] = {}
    at = start + n_text
    for entry, (offset, nbytes) in zip(document["arrays"], table, strict=True):
        name, dtype, shape = _check_array(path, entry)
        announced = math.prod(shape) * dtype.itemsize  # Python integers do not wrap
        if offset % _ALIGN or not at <= offset <= end - nbytes or announced != nbytes or name in arrays:
            found = f"{nbytes} bytes at {offset} for array {name!r} of {announced} bytes, between {at} and {end}"
            raise ValueError(f"{path} has a bad section table: {found}")
        arrays[name] = np.asarray(raw[offset : offset + nbytes].view(dtype).reshape(shape))
        at = offset + nbytes
    return document["metadata"], arrays


def _check_header(path: Path, head: bytes, size: int) -> tuple[int, int, int]:
    """Length of the file, of the text, and number of sections, believed only as far as the size of the file goes."""
    if not head or head[: len(MAGIC)] != MAGIC[: len(head)]:
        what = f"it has {size} bytes and begins with {head[:8].hex(' ')}" if size else "it is empty"
        raise ValueError(f"{path} is no file of turboquant_ref ({MAGIC.hex(' ')}): {what}")
    if len(head) < _HEADER.size:
        raise ValueError(f"{path} is truncated: {size} bytes, less than the header of {_HEADER.size}")
    _, mark, version, length, n_text, n_sections, zero = _HEADER.unpack(head)
    if mark != MARK:
        swapped = " (big-endian)" if mark == 0x04030201 else ""
        raise ValueError(f"{path} has the endianness mark 0x{mark:08x}{swapped}, expected 0x{MARK:08x}")
    if version != VERSION:
        raise ValueError(f"{path} is of version {version}, this package reads version {VERSION}")
    if length != size:
        what = "truncated" if size < length else "longer than it says"
        raise ValueError(f"{path} is {what}: {size} bytes, the header announces {length}")
    least = _HEADER.size + _ENTRY.size * n_sections + n_text + _DIGEST
    if n_text > _MAX_TEXT or n_sections > _MAX_SECTIONS or zero or least > size:
        found = f"{n_text} bytes of metadata and {n_sections} sections in {size} bytes"
        raise ValueError(f"{path} has a bad header: {found}; at most {_MAX_TEXT} and {_MAX_SECTIONS} are allowed")
    return length, n_text, n_sections


def _parse(path: Path, text: bytes, n_sections: int) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        document = json.loads(text.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} has unreadable metadata: {error}") from error
    if (
        not isinstance(document, dict)
        or set(document) != {"kind", "arrays", "metadata"}
        or not isinstance(document["arrays"], list)
        or len(document["arrays"]) != n_sections
        or not isinstance(document["metadata"], dict)
    ):
        raise ValueError(f"{path} has metadata of another shape, expected kind, {n_sections} arrays, metadata")
    return document


def _check_array(path: Path, entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    keys = isinstance(entry, dict) and set(entry) == {"name", "dtype", "shape"}
    if keys and isinstance(entry["name"], str) and entry["dtype"] in DTYPES and isinstance(entry["shape"], list):
        shape = tuple(entry["shape"])
        if len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**63 for n in shape):
            return entry["name"], np.dtype(entry["dtype"]), shape
    raise ValueError(f"{path} describes an array as {str(entry)[:80]}, expected a name, a dtype and a shape")
