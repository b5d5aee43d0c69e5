"""Prepared: the form of codes in device memory, row-major, a vector's bits together, its side scalars beside them.

Each vector has one row of *numbers*, and what a number is depends on the algorithm:

mse             the index, b bits
prod, m = d     the index, b - 1 bits, with the sign as the bit above it: b bits, the sign costs no row of its own
prod, m != d    the index; the signs are a second stream, `high`
qjl             the sign, 1 bit

Numbers lie in the canonical bit stream, least significant bit first, with one exception: 3-bit numbers, if d is a
multiple of 32, are two planes. `codes` is the 2-bit stream of the two lower bits; `high` holds the upper bits, in each
group of 32 numbers bit 4 i + 2 j + p of a 32-bit word for number 16 j + 2 i + p, so that one shift puts the upper bits
of 8 numbers above the lower bits of the same 8. It is 48 bytes at d = 128, as canonical, and needs no unpacking.

Keys are contiguous, (*batch, kv_heads, n, row), or paged: pages (n_pages, kv_heads, page_size, row) and a block table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from turboquant_ref.codes import check_packed, module_of
from turboquant_ref.packing import SCALARS, Packed, check_scalars, pack_bits, unpack_bits

from . import _launch

__all__ = ["Form", "Prepared", "check", "empty", "form_of", "paged", "prepare", "to_packed"]

Bytes = NDArray[np.uint8]
_CHUNK = 1 << 15  # vectors that are unpacked at a time on the host


@dataclass(frozen=True)
class Form:
    """How the numbers of one vector lie in bytes; a function of the quantizer alone.

    Attributes
    ----------
    n, bits : int
        Numbers of `codes`, and bits of each.
    planes : bool
        3-bit numbers as a 2-bit and a 1-bit plane.
    merged : bool
        The top bit of a number is the sign of `prod`.
    signs : int
        Signs in a stream of their own, `high`; 0 if there is none.
    residuals : bool
        Whether a residual norm is stored.
    """

    n: int
    bits: int
    planes: bool = False
    merged: bool = False
    signs: int = 0
    residuals: bool = False

    @property
    def row(self) -> int:
        """Bytes of a vector in `codes`."""
        return (self.n * (2 if self.planes else self.bits) + 7) // 8

    @property
    def row_high(self) -> int:
        """Bytes of a vector in `high`; 0 if there is no `high`."""
        return self.n // 8 if self.planes else (self.signs + 7) // 8


def form_of(Q: Any) -> Form:
    """The form of the codes of a quantizer of `mse`, `prod` or `qjl`."""
    if Q.algorithm == "mse":
        return Form(Q.d, Q.bits, planes=_in_planes(Q.d, Q.bits))
    if Q.algorithm == "qjl":
        return Form(Q.m, 1)
    if Q.algorithm != "prod":
        raise TypeError(f"Q: cuda_kernels has mse, prod and qjl, got a quantizer of {Q.algorithm}")
    if Q.m == Q.d:
        return Form(Q.d, Q.bits, planes=_in_planes(Q.d, Q.bits), merged=True, residuals=Q.stores_residual)
    return Form(Q.d, Q.bits - 1, signs=Q.m, residuals=Q.stores_residual)


def _in_planes(d: int, bits: int) -> bool:
    return bits == 3 and d % 32 == 0


@dataclass(frozen=True, eq=False)
class Prepared:
    """Codes in device memory; opaque to users, made by `prepare` or by an algorithm's `encode`.

    Attributes
    ----------
    form : Form
    codes : (*shape, form.row) uint8
    high : (*shape, form.row_high) uint8 or None
        The upper plane of 3-bit numbers, or a separate stream of signs.
    scales : (*shape) float16, float32 or float64
        The scale or norm.
    residuals : (*shape) or None
        The residual norms of `prod`, where they are stored.
    scalars : str
        As of `Packed`; bfloat16 ones are float32 on the device.
    fingerprint : bytes
    table : (batch, max_pages) int32 or None
        If paged: which page of ``codes`` (n_pages, kv_heads, page_size, row) holds each stretch of a sequence.
    lengths : (batch,) int32 or None
        If paged: keys of each sequence.
    """

    form: Form
    codes: Any
    high: Any
    scales: Any
    residuals: Any
    scalars: str
    fingerprint: bytes
    table: Any = None
    lengths: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the batch of vectors; (batch, kv_heads, max_pages * page_size) if paged."""
        stored = tuple(int(n) for n in self.scales.shape)
        if self.table is None:
            return stored
        batch, pages = (int(n) for n in self.table.shape)
        return batch, stored[1], pages * stored[2]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The arrays that hold the codes."""
        return tuple(a for a in (self.codes, self.high, self.scales, self.residuals) if a is not None)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(int(np.prod(a.shape)) * np.dtype(_launch.name_of(a)).itemsize for a in self.arrays)


def scalar_dtype(scalars: str) -> str:
    """The dtype in which side scalars of this name lie on the device."""
    return "float32" if check_scalars(scalars) == "bfloat16" else scalars


def empty(Q: Any, shape: tuple[int, ...], scalars: str = "float32", home: _launch.Home | None = None) -> Prepared:
    """Room for codes of a batch of vectors, for a kernel to fill.

    Raises
    ------
    MemoryError
        If the device has too little memory.
    """
    home = _launch.home_of() if home is None else home
    form, dtype = form_of(Q), scalar_dtype(scalars)
    n = int(np.prod(shape))
    size = form.row + form.row_high + np.dtype(dtype).itemsize * (1 + form.residuals)
    _launch.enough_memory(n * size, f"codes of {n:,} vectors")
    return Prepared(
        form,
        home.empty((*shape, form.row), "uint8"),
        home.empty((*shape, form.row_high), "uint8") if form.row_high else None,
        home.empty(shape, dtype),
        home.empty(shape, dtype) if form.residuals else None,
        scalars,
        Q.fingerprint,
    )


def split(form: Form, numbers: Bytes, signs: Bytes | None = None) -> tuple[Bytes, Bytes | None]:
    """Rows of numbers, and of separate signs, to the bytes of `codes` and `high`, on the host."""
    if not form.planes:
        return pack_bits(numbers, form.bits), None if signs is None else pack_bits(signs, 1)
    groups = (numbers >> 2).reshape(*numbers.shape[:-1], -1, 2, 8, 2)  # (…, group, j, i, p), number 16 j + 2 i + p
    upper = np.swapaxes(groups, -3, -2).reshape(numbers.shape)  # (…, group, i, j, p), bit 4 i + 2 j + p
    return pack_bits(numbers & 3, 2), pack_bits(upper, 1)


def join(form: Form, codes: Bytes, high: Bytes | None) -> tuple[Bytes, Bytes | None]:
    """The inverse of `split`."""
    if not form.planes:
        return unpack_bits(codes, form.bits, form.n), None if high is None else unpack_bits(high, 1, form.signs)
    lower, upper = unpack_bits(codes, 2, form.n), unpack_bits(high, 1, form.n)
    groups = np.swapaxes(upper.reshape(*upper.shape[:-1], -1, 8, 2, 2), -3, -2)
    return lower | groups.reshape(lower.shape) << 2, None


def _numbers(Q: Any, code: Any) -> tuple[Bytes, Bytes | None]:
    """The numbers of a code, and its separate signs."""
    if Q.algorithm == "mse":
        return code.indices, None
    if Q.algorithm == "qjl":
        return code.signs, None
    if Q.m == Q.d:
        return code.indices | code.signs << (Q.bits - 1), None
    return code.indices, code.signs


def _streams(Q: Any, numbers: Bytes, signs: Bytes | None) -> list[Bytes]:
    """The numbers as the streams of the canonical record."""
    if Q.algorithm == "prod" and signs is None:
        low = Q.bits - 1
        return [numbers & ((1 << low) - 1), numbers >> low]
    return [numbers] if signs is None else [numbers, signs]


def prepare(Q: Any, packed: Packed) -> Prepared:
    """Packed to Prepared, the same bits elsewhere.

    Raises
    ------
    TypeError, ValueError
        If they are no `Packed` of this quantizer, have the wrong length or hold impossible values.
    """
    data = np.ascontiguousarray(check_packed(Q, packed).data)
    form, shape = form_of(Q), data.shape[:-1]
    rows = data.reshape(-1, data.shape[-1])
    codes = np.empty((len(rows), form.row), np.uint8)
    high = np.empty((len(rows), form.row_high), np.uint8) if form.row_high else None
    for start in range(0, len(rows), _CHUNK):
        these = slice(start, start + _CHUNK)
        code = module_of(Q).unpack(Q, replace(packed, data=rows[these]))  # raises for impossible values
        codes[these], upper = split(form, *_numbers(Q, code))
        if high is not None:
            high[these] = upper
    size, width = SCALARS[packed.scalars], rows.shape[-1]
    first = width - size * (1 + form.residuals)
    columns = [_from_bytes(rows[:, at : at + size], packed.scalars) for at in range(first, width, size)]
    scales, residuals = columns if form.residuals else (columns[0], None)
    to_device = _launch.ready().to_device
    arrays = [
        None if a is None else to_device(np.ascontiguousarray(a.reshape(shape + a.shape[1:])))
        for a in (codes, high, scales, residuals)
    ]
    return Prepared(form, *arrays, packed.scalars, Q.fingerprint)


def _from_bytes(data: Bytes, scalars: str) -> NDArray[Any]:
    data = np.ascontiguousarray(data)
    if scalars == "bfloat16":
        return (data.view("<u2")[:, 0].astype(np.uint32) << 16).view(np.float32)
    return data.view(np.dtype(scalars).newbyteorder("<"))[:, 0].astype(scalars)


def _to_bytes(values: NDArray[Any], scalars: str) -> Bytes:
    if scalars == "bfloat16":
        stored: NDArray[Any] = (values.view(np.uint32) >> 16).astype("<u2")
    else:
        stored = values.astype(np.dtype(scalars).newbyteorder("<"))
    return np.ascontiguousarray(stored)[..., None].view(np.uint8)


def to_host(a: Any) -> NDArray[Any]:
    """A device array of any library as a NumPy array."""
    if hasattr(a, "copy_to_host"):
        return np.asarray(a.copy_to_host())
    if hasattr(a, "cpu"):
        return np.asarray(a.cpu())
    return np.asarray(a.get() if hasattr(a, "get") else a)


def to_packed(Q: Any, prepared: Prepared) -> Packed:
    """Prepared to Packed, the inverse of `prepare`; pages come as they lie, (n_pages, kv_heads, page_size)."""
    check(Q, prepared)
    codes, scales = to_host(prepared.codes), to_host(prepared.scales)
    high = None if prepared.high is None else to_host(prepared.high)
    streams = _streams(Q, *join(prepared.form, codes, high))
    values = [scales] if prepared.residuals is None else [scales, to_host(prepared.residuals)]
    parts = [pack_bits(s, bits) for s, (_, bits) in zip(streams, Q.record.streams, strict=True)]
    parts += [_to_bytes(v, prepared.scalars) for v in values]
    return Packed(np.concatenate(parts, axis=-1), prepared.scalars, prepared.fingerprint)


def check(Q: Any, prepared: Any) -> Prepared:
    """Prepared codes must be of this very quantizer.

    Raises
    ------
    TypeError, ValueError
        Otherwise.
    """
    if not isinstance(prepared, Prepared):
        raise TypeError(f"prepared: expected cuda_kernels.layout.Prepared, got {type(prepared).__name__}")
    if prepared.fingerprint != Q.fingerprint:
        made = prepared.fingerprint.hex()
        raise ValueError(f"prepared: it was made by quantizer {made}, this one is {Q.fingerprint.hex()}")
    return prepared


def paged(prepared: Prepared, table: Any, lengths: Any) -> Prepared:
    """Pages (n_pages, kv_heads, page_size) as the keys of sequences.

    Parameters
    ----------
    prepared : Prepared
        Of shape (n_pages, kv_heads, page_size).
    table : (batch, max_pages) int32
        Page number of each stretch of page_size keys of a sequence; entries beyond its length may be anything within
        range.
    lengths : (batch,) int32

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, or (where table and lengths are NumPy arrays) a page or length is out of range.
    """
    if len(prepared.shape) != 3 or prepared.table is not None:
        raise ValueError(f"prepared: expected pages (n_pages, kv_heads, page_size), got shape {prepared.shape}")
    pages, _, size = prepared.shape
    for name, a, ndim in (("table", table, 2), ("lengths", lengths, 1)):
        if _launch.name_of(a) != "int32" or a.ndim != ndim:
            raise ValueError(f"{name}: expected int32 of {ndim} axes, got {a.dtype} {tuple(a.shape)}")
    if table.shape[0] != lengths.shape[0]:
        raise ValueError(f"lengths: expected {table.shape[0]}, one a row of the table, got {lengths.shape[0]}")
    for name, a, least, most in (("table", table, 0, pages - 1), ("lengths", lengths, 0, table.shape[1] * size)):
        if isinstance(a, np.ndarray) and a.size and (a.min() < least or a.max() > most):
            raise ValueError(f"{name}: expected {least} to {most}, got {a.min()} to {a.max()}")
    home = _launch.home_of(prepared.codes)
    return replace(prepared, table=home.take(table), lengths=home.take(lengths))
