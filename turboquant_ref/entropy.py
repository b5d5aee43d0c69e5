"""Indices stored at their entropy: the "optimal prefix code" remark of section 3.1, by a coder that really reaches it.

A Huffman code spends whole bits and stays some 0.04 bit an index above the entropy (more below 2 bits); asymmetric
numeral systems (rANS, Duda 2013) reach it.  The coder is that of the library `constriction`, the optional extra
``turboquant-ref[entropy]``.  Ours is the container: an integer model that is the same on every machine, blocks of rows
that decode alone, and checksums.

This is the specification.  All numbers are unsigned and little-endian.

**Model.**  Symbol s has the probability table[s] / 2^24.  From real probabilities p of any scale, table[s] is 0 where
p_s is, else max(1, round(2^24 p_s / sum p)), halves to even; then the largest entry, the first of them, takes what is
missing to a sum of 2^24.  Over n symbols that costs at most 1.45 n / 2^24 bits an index, 2.2e-5 at the most.  The table
is stored, so decoding repeats no floating-point arithmetic.

**Code of a block.**  rANS with a 64-bit state x over a stack of 32-bit words; first[s] = table[0] + … + table[s-1]:

    decode    q = x mod 2^24;  s: first[s] <= q < first[s] + table[s];  x = (x div 2^24) table[s] + q - first[s];
              if x < 2^32 and words are left: x = 2^32 x + (the last word, taken off)
    at first  x = 0, then words are taken so, last first, while x < 2^32 and words are left;   at last  x = 0, no words

and the symbols come in order, row by row.  A block of no words is one of zero information: first symbols only.

**Bytes.**

    "TQEC"  version (2) = 1  symbols (2)  rows n (8)  d (4)  rows a block (4)  fingerprint (8)
    table: 4 bytes a symbol;  a block: number of words (4), checksum (4);  checksum of all bytes so far (4)
    the words of all blocks

Checksums are CRC-32.  That of block i runs over d (8), symbols (8), the fingerprint, the table, i (8), its rows (8) and
its words; so a block that is damaged, or another file's, or out of place, is found before it is decoded.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .codebook import Codebook
from .vectors import check_integer

__all__ = ["EntropyCoded", "decode", "encode", "model"]

Words = NDArray[np.uint32]
_HEAD = struct.Struct("<4sHHQII8s")
_TOTAL = 1 << 24
_MAX_BLOCK = 1 << 28  # indices; what one decoding step may allocate


def model(probabilities: Codebook | ArrayLike) -> Words:
    """The integer model of an index: its probabilities in units of 2^-24, as the module's docstring has it.

    Parameters
    ----------
    probabilities : Codebook or (n,) array of real numbers
        1 to 256 of them, not negative, of any scale: counts will do.

    Returns
    -------
    (n,) uint32
        Sums to 2^24.  Positive where the probability is.

    Raises
    ------
    ValueError
        For another shape, or a number that is negative, infinite or NaN, or all zero.
    """
    given = probabilities.probabilities if isinstance(probabilities, Codebook) else np.asarray(probabilities)
    if given.dtype.kind not in "iuf" or given.ndim != 1 or not 1 <= len(given) <= 256:
        raise ValueError(f"probabilities must be 1 to 256 real numbers, got {given.dtype} of shape {given.shape}")
    p = given.astype(np.float64)
    if not np.all(np.isfinite(p)) or np.any(p < 0) or p.max() == 0:
        raise ValueError(f"probabilities must be finite, not negative and not all zero, got {probabilities!r}")
    p = p / p.max()  # so that no sum overflows
    table = np.where(p > 0, np.maximum(1, np.rint(p * (_TOTAL / p.sum()))), 0).astype(np.int64)
    table[np.argmax(table)] += _TOTAL - table.sum()
    return table.astype(np.uint32)


@dataclass(frozen=True, eq=False)
class EntropyCoded:
    """Indices of n vectors, entropy-coded in blocks of rows; `encode` makes one.

    Attributes
    ----------
    n, d, block : int
        Rows, indices a row, rows a block (the last block may be shorter).
    table : (symbols,) uint32
        The integer model, in units of 2^-24.
    words : (…,) uint32
        The code of all blocks, one after the other.
    counts, checksums : (blocks,) uint32
        Words of each block, and their CRC-32.
    fingerprint : bytes
        8 bytes naming the quantizer that made the indices; zeros if `encode` was not told.

    Raises
    ------
    ValueError
        If the parts do not fit together.
    """

    n: int
    d: int
    block: int
    table: Words
    words: Words
    counts: Words
    checksums: Words
    fingerprint: bytes = bytes(8)

    def __post_init__(self) -> None:
        check_integer(self.n, "n", 0, 2**63 - 1)
        check_integer(self.d, "d", 1, _MAX_BLOCK)
        check_integer(self.block, "block", 1, _MAX_BLOCK // self.d)
        if len(self.fingerprint) != 8:
            raise ValueError(f"fingerprint must have 8 bytes, got {len(self.fingerprint)}")
        if not 1 <= len(self.table) <= 256 or int(self.table.sum(dtype=np.uint64)) != _TOTAL:
            raise ValueError("table must have 1 to 256 entries that sum to 2^24")
        if not len(self.counts) == len(self.checksums) == self.blocks:
            found = f"{len(self.counts)} and {len(self.checksums)}"
            raise ValueError(f"counts and checksums: expected one a block, {self.blocks}, got {found}")
        if int(self.offsets[-1]) != len(self.words):
            raise ValueError(f"words: expected {int(self.offsets[-1])} in all blocks, got {len(self.words)}")

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n // self.block)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """(blocks + 1,) where each block's words begin, and where the last one's end."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    @property
    def nbytes(self) -> int:
        """Bytes of `to_bytes`: words, index of blocks, table and header, everything but the side scalars."""
        return _HEAD.size + 4 * len(self.table) + 8 * self.blocks + 4 + 4 * len(self.words)

    @property
    def bits_per_index(self) -> float:
        """Bits an index really takes, all of `nbytes` counted; NaN if there are none."""
        return 8 * self.nbytes / (self.n * self.d) if self.n else float("nan")

    def rows_of(self, i: int) -> int:
        """Number of rows in block i."""
        return min(self.block, self.n - i * self.block)

    def words_of(self, i: int) -> Words:
        """The words of block i."""
        return self.words[self.offsets[i] : self.offsets[i + 1]]

    def checksum(self, i: int) -> int:
        """What the checksum of block i must be."""
        return _checksum(self.d, self.table, self.fingerprint, i, self.rows_of(i), self.words_of(i))

    def to_bytes(self) -> bytes:
        """The portable bytes, `nbytes` of them."""
        head = _HEAD.pack(b"TQEC", 1, len(self.table), self.n, self.d, self.block, self.fingerprint)
        index = np.stack([self.counts, self.checksums], axis=1)
        front = head + _bytes(self.table) + _bytes(index)
        return front + struct.pack("<I", zlib.crc32(front)) + _bytes(self.words)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> EntropyCoded:
        """The inverse of `to_bytes`.  The words are not read: `decode` checks each block that it needs.

        Raises
        ------
        ValueError
            If these are not such bytes, or of another version, or cut off, or too many, or the header is damaged.
        """
        data = bytes(data)
        if data[:4] != b"TQEC":
            raise ValueError(f"data: these are not entropy-coded indices, they begin {data[:4]!r} and not b'TQEC'")
        if len(data) < _HEAD.size:
            raise ValueError(f"data: the header is cut off, {len(data)} bytes of {_HEAD.size}")
        _, version, symbols, n, d, block, fingerprint = _HEAD.unpack_from(data)
        if version != 1:
            raise ValueError(f"data: version {version}, this reads version 1")
        blocks = -(-n // max(block, 1))
        front = _HEAD.size + 4 * symbols + 8 * blocks  # a Python integer: a damaged n allocates nothing
        if len(data) < front + 4:
            raise ValueError(f"data: the header is cut off or damaged, {len(data)} bytes of {front + 4}")
        if struct.unpack_from("<I", data, front)[0] != zlib.crc32(data[:front]):
            raise ValueError("data: the header is damaged, its checksum does not match")
        table = np.frombuffer(data, "<u4", symbols, _HEAD.size).astype(np.uint32)
        index = np.frombuffer(data, "<u4", 2 * blocks, _HEAD.size + 4 * symbols).astype(np.uint32).reshape(-1, 2)
        ends = front + 4 + 4 * np.cumsum(index[:, 0], dtype=np.int64)
        if blocks and len(data) < ends[-1]:
            first = int(np.searchsorted(ends, len(data), side="right"))
            raise ValueError(f"data: block {first} of {blocks} is cut off, {len(data)} bytes of {int(ends[-1])}")
        if len(data) > (ends[-1] if blocks else front + 4):
            raise ValueError(f"data: {len(data) - int(ends[-1] if blocks else front + 4)} bytes after the last block")
        words = np.frombuffer(data, "<u4", offset=front + 4).astype(np.uint32)
        return cls(n, d, block, table, words, index[:, 0].copy(), index[:, 1].copy(), fingerprint)


def _bytes(numbers: Words) -> bytes:
    return numbers.astype("<u4").tobytes()


def _checksum(d: int, table: Words, fingerprint: bytes, i: int, rows: int, words: Words) -> int:
    named = struct.pack("<QQ", d, len(table)) + fingerprint + _bytes(table) + struct.pack("<QQ", i, rows)
    return zlib.crc32(_bytes(words), zlib.crc32(named))


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise ImportError("entropy coding needs constriction: pip install 'turboquant-ref[entropy]'") from error
    return constriction.stream


def _categorical(stream: Any, table: Words) -> tuple[NDArray[np.intp], Any]:
    """The symbols that can occur, and constriction's model of exactly that integer table.

    constriction gives symbol number i of n the first value floor(W_i F / W_n) + i, with F = 2^24 - n and W_i the sum
    of the weights before it.  The weights table - 1 sum to F, so every step is exact in float64, and that is first[i].
    """
    symbols = np.flatnonzero(table)
    if len(symbols) == 1:
        return symbols, None
    return symbols, stream.model.Categorical(table[symbols].astype(np.float64) - 1, perfect=False)


def encode(
    indices: NDArray[np.uint8], codebook: Codebook | ArrayLike, block: int = 256, fingerprint: bytes = bytes(8)
) -> EntropyCoded:
    """Indices to their entropy-coded form, lossless.

    Parameters
    ----------
    indices : (n, d) uint8
        The indices of n vectors, d >= 1; n may be 0.
    codebook : Codebook or (symbols,) array of probabilities
        What the indices are distributed by: after a random rotation, `Codebook.probabilities`.  Any other probabilities
        cost their relative entropy in bits, but lose nothing.
    block : int
        Rows of a block, the unit of random access.  A block has an overhead of 8 bytes of index and on average 4 of the
        coder: 0.15 % with the default of 256 rows at d = 128 and 2 bits.
    fingerprint : bytes
        Kept: the 8 bytes of `MSECode.fingerprint`, so that the decoded indices make a code of that quantizer again.

    Returns
    -------
    EntropyCoded

    Raises
    ------
    ImportError
        Without the extra "entropy".
    TypeError, ValueError
        For other indices, bad probabilities or block, or an index that has probability 0 or none.
    """
    stream = _constriction()
    table = model(codebook)
    if not isinstance(fingerprint, bytes) or len(fingerprint) != 8:
        raise ValueError(f"fingerprint must be 8 bytes, got {fingerprint!r}")
    if not isinstance(indices, np.ndarray) or indices.dtype != np.uint8:
        found = f"dtype {indices.dtype}" if isinstance(indices, np.ndarray) else f"a {type(indices).__name__}"
        raise TypeError(f"indices must be an array of uint8, got {found}")
    if indices.ndim != 2 or indices.shape[1] == 0:
        raise ValueError(f"indices must have shape (n, d) with d of at least 1, got {indices.shape}")
    n, d = indices.shape
    block = check_integer(block, "block", 1, _MAX_BLOCK // d)
    allowed = np.zeros(256, bool)
    allowed[: len(table)] = table > 0
    if not np.all(allowed[indices]):
        row, column = (int(k) for k in np.argwhere(~allowed[indices])[0])
        raise ValueError(
            f"indices: {indices[row, column]} in row {row}, coordinate {column} has probability 0 under this model of "
            f"{len(table)} symbols"
        )
    symbols, categorical = _categorical(stream, table)
    number = np.zeros(256, np.int32)
    number[symbols] = np.arange(len(symbols))

    def code(rows: NDArray[np.uint8]) -> Words:
        coder = stream.stack.AnsCoder()
        if categorical is not None:
            coder.encode_reverse(number[rows.ravel()], categorical)
        return np.asarray(coder.get_compressed(), np.uint32)

    parts = [indices[at : at + block] for at in range(0, n, block)]
    words = [code(part) for part in parts]
    checksums = [_checksum(d, table, fingerprint, i, len(parts[i]), w) for i, w in enumerate(words)]
    counts = np.array([len(w) for w in words], np.uint32)
    stored = np.concatenate([np.zeros(0, np.uint32), *words])
    return EntropyCoded(n, d, block, table, stored, counts, np.array(checksums, np.uint32), fingerprint)


def _by_block(index: NDArray[np.intp], block: int) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """(block, positions in `index` of the rows in it), for each block that is needed."""
    which = index // block
    order = np.argsort(which, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(which[order])) + 1):
        if len(part):
            yield int(which[part[0]]), part


def decode(coded: EntropyCoded, rows: slice | ArrayLike | None = None) -> NDArray[np.uint8]:
    """Entropy-coded indices back to indices: all rows or those asked for, decoding only the blocks they are in.

    Parameters
    ----------
    coded : EntropyCoded
    rows : slice or (m,) integers, optional
        As in NumPy, negative ones from the end; in any order, repeated or not.  All rows by default.

    Returns
    -------
    (m, d) uint8

    Raises
    ------
    ImportError
        Without the extra "entropy".
    TypeError, ValueError
        For rows that are not there; or if a block that is needed is corrupt (the message names it): all of them are
        checked before one is decoded.
    """
    stream = _constriction()
    if not isinstance(coded, EntropyCoded):
        raise TypeError(f"coded must be an EntropyCoded, got a {type(coded).__name__}")
    index = _rows(coded.n, rows)
    needed = list(_by_block(index, coded.block))
    for i, _ in needed:
        if coded.checksum(i) != int(coded.checksums[i]):
            raise ValueError(f"coded: block {i} of {coded.blocks} is corrupt, its checksum does not match")
    symbols, categorical = _categorical(stream, coded.table)
    out = np.full((len(index), coded.d), symbols[0], np.uint8)
    for i, part in needed:
        words, count = coded.words_of(i), coded.rows_of(i) * coded.d
        coder = stream.stack.AnsCoder(words) if len(words) and words[-1] else stream.stack.AnsCoder()
        if categorical is not None:
            decoded = symbols.astype(np.uint8)[coder.decode(categorical, count)]
            out[part] = decoded.reshape(-1, coded.d)[index[part] - i * coded.block]
        if not coder.is_empty() or (len(words) and words[-1] == 0):
            raise ValueError(f"coded: block {i} of {coded.blocks} holds other than {count} indices of this model")
    return out


def _rows(n: int, rows: slice | ArrayLike | None) -> NDArray[np.intp]:
    """The row numbers asked for, each in 0..n-1."""
    if rows is None:
        return np.arange(n)
    if isinstance(rows, slice):
        return np.arange(*rows.indices(n))
    index = np.asarray(rows)
    if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
        raise TypeError(f"rows must be a slice or a 1-D array of integers, got {index.dtype} of shape {index.shape}")
    if np.any((index < -n) | (index >= n)):
        outside = int(index[(index < -n) | (index >= n)][0])
        raise ValueError(f"rows: {outside} is outside the {n} rows")
    index = index.astype(np.intp)
    return np.where(index < 0, index + n, index)
