"""Min-max integer codes in groups, per token or per channel: the baseline of the papers' tables (KIVI, 2402.02750).

    For each group of numbers    zero <- min;  scale <- (max - min) / (2^b - 1)
    Quant                        index <- the nearest integer to (x - zero) / scale
    DeQuant                      x~ <- zero + scale * index

No rotation, nothing random, no codebook: what is known of the data are two numbers a group.  KIVI has two layouts,
and so has this file; rows are tokens, x is (…, n, d):

axis="token" (KIVI's values)
    A group is `group` neighbouring channels of one token.  The unit of a code is a token, as everywhere.
axis="channel" (KIVI's keys, which have a few channels of large values)
    A group is one channel of `group` neighbouring tokens.  The unit of a code is a **block** of `group` tokens, d
    groups side by side.  It exists only once its block is full: n must be a multiple of `group`, and the n mod group
    last tokens are the caller's to keep as they are (KIVI's "residual").

Where it differs from KIVI's code.  (1) Zero points and scales are rounded to the dtype they are stored in, float16 as
in KIVI, *before* the indices are computed, the zero point down and the scale up: the group always lies between its
levels, |x - x~| <= scale / 2 in exact arithmetic, and a code is exactly its bytes.  KIVI rounds to nearest.  (2) A tie
goes up, the house rule; KIVI's goes to even.  (3) A constant group (scale 0) decodes to its zero point, exactly where
that is a number of the stored dtype; KIVI divides 0 by 0.  A magnitude below the least normal number of the stored
dtype (6.1e-5 in float16) is rounded as above, to it or to 0.  One above the largest (65504 in float16, a known
failure on outliers) is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .codes import as_weights, check_code, outer_product, times_norms
from .packing import SCALARS, Packed, Record, Scalar, fingerprint
from .vectors import as_rows, check_bits, check_dimension, check_integer, first_row, norm_and_unit

__all__ = [
    "AXES",
    "MinMaxCode",
    "Quantizer",
    "dequantize",
    "inner_product",
    "pack",
    "quantize",
    "setup",
    "to_original",
    "trace",
    "unpack",
    "weighted_sum",
]

AXES = ("token", "channel")
Reals = NDArray[np.floating[Any]]

_FORMAT = {  # significant bits, smallest normal and largest number
    "float16": (11, 2.0**-14, 65504.0),
    "bfloat16": (8, 2.0**-126, 2.0**127 * (2 - 2.0**-7)),
    "float32": (24, 2.0**-126, 2.0**127 * (2 - 2.0**-23)),
    "float64": (53, 2.0**-1022, 2.0**1023 * (2 - 2.0**-52)),
}


@dataclass(frozen=True, eq=False)
class Quantizer:
    """What both sides must know: d, b, what a group is, and the dtype of its two numbers."""

    algorithm: ClassVar[str] = "minmax"
    d: int
    bits: int
    axis: str = "token"
    group: int = 32
    scalars: str = "float16"

    def __post_init__(self) -> None:
        check_dimension(self.d)
        check_bits(self.bits)
        if self.axis not in AXES:
            raise ValueError(f"axis: expected one of {', '.join(AXES)}, got {self.axis!r}")
        check_integer(self.group, "group", 1)
        if self.axis == "token" and self.d % self.group:
            raise ValueError(f"group: expected a divisor of d = {self.d} for axis 'token', got {self.group}")
        if self.scalars not in SCALARS:
            raise ValueError(f"scalars: expected one of {', '.join(SCALARS)}, got {self.scalars!r}")

    @property
    def options(self) -> dict[str, Any]:
        """The options that `setup` knows this quantizer by."""
        return {"axis": self.axis, "group": self.group, "scalars": self.scalars}

    @property
    def vectors_per_record(self) -> int:
        """Vectors in one packed row: 1, or the `group` tokens of a block."""
        return 1 if self.axis == "token" else self.group

    @property
    def record(self) -> Record:
        """Layout of one packed row: the indices, token by token, then the scales, then the zero points."""
        groups = self.d // self.group if self.axis == "token" else self.d
        scalars = (Scalar("scale", groups), Scalar("zero point", groups, signed=True))
        return Record(((self.vectors_per_record * self.d, self.bits),), scalars)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer; its codes carry them."""
        return fingerprint("minmax", self.d, self.bits, self.axis, self.group, self.scalars)

    def bytes_per_record(self, scalars: str | None = None) -> int:
        """Bytes of one packed row, padding included: of a token, or of a block of `group` tokens."""
        return self.record.bytes_per_vector(scalars or self.scalars)

    def bytes_per_vector(self, scalars: str | None = None) -> float:
        """Bytes of one vector; a block's bytes shared out, which need not be a whole number."""
        return self.bytes_per_record(scalars) / self.vectors_per_record

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate, scales and zero points included in their own dtype (float16 unless said): b + 32/group."""
        return 8 * self.bytes_per_vector() / self.d


@dataclass(frozen=True, eq=False)
class MinMaxCode:
    """The code of a batch of tokens.

    Attributes
    ----------
    indices : (…, n, d) uint8
        0 at the zero point, ascending with x; (…, d) for axis "token", any batch.
    scales, zeros : float32 or float64
        The step, and the value of index 0, of each group: (…, d / group) for axis "token", a row a token;
        (…, n / group, d) for axis "channel", a row a block.
    fingerprint : bytes
        Of the quantizer that made it.
    """

    indices: NDArray[np.uint8]
    scales: Reals
    zeros: Reals
    fingerprint: bytes


def setup(d: int, bits: int, *, axis: str = "token", group: int = 32, scalars: str = "float16") -> Quantizer:
    """A min-max quantizer; it has nothing random, so there is no `rng`.

    Parameters
    ----------
    d : int
        Number of channels, at least 2.
    bits : int
        1 to 8.  KIVI uses 2 and 4; at 1 bit the levels are the minimum and the maximum themselves.
    axis : {"token", "channel"}
        KIVI's layout for values, and for keys; see the module's docstring.
    group : int
        Channels of a token, a divisor of d (d itself: one group a token); or tokens of a channel.
    scalars : {"float16", "bfloat16", "float32", "float64"}
        What scales and zero points are rounded to and stored as; no finer than the compute dtype of the data.

    Raises
    ------
    TypeError, ValueError
        If an argument is not one of these.
    """
    return Quantizer(check_dimension(d), check_bits(bits), axis, check_integer(group, "group", 1), scalars)


def _grouped(Q: Quantizer, a: NDArray[Any]) -> NDArray[Any]:
    """(…, d) as (…, groups, group, 1), or (…, n, d) as (…, blocks, group, d): groups lie along axis -2."""
    if Q.axis == "token":
        return a.reshape(*a.shape[:-1], Q.d // Q.group, Q.group, 1)
    return a.reshape(*a.shape[:-2], a.shape[-2] // Q.group, Q.group, Q.d)


def _of_groups(Q: Quantizer, scalars: Reals) -> Reals:
    """Scales or zero points as they meet `_grouped` numbers."""
    return scalars[..., None, None] if Q.axis == "token" else scalars[..., None, :]


def _down(value: NDArray[np.float64], precision: int, least: float) -> NDArray[np.float64]:
    """The largest number <= value with `precision` significant bits that is 0 or at least `least` in magnitude."""
    fraction, exponent = np.frexp(value)
    down = np.ldexp(np.floor(np.ldexp(fraction, precision)), exponent - precision)
    return np.where(np.abs(down) < least, np.where(down < 0, -least, 0.0), down)


def _zero_and_scale(Q: Quantizer, low: Reals, high: Reals) -> tuple[Reals, Reals]:
    """The zero point and the scale of each group, rounded to what is stored, so that the levels span low … high."""
    name = "float32" if low.dtype == np.float32 and Q.scalars == "float64" else Q.scalars
    precision, least, largest = _FORMAT[name]
    top = 2**Q.bits - 1
    with np.errstate(over="ignore"):
        zero = _down(low.astype(np.float64), precision, least)
        scale = 0.0 - _down((zero - high) / top, precision, least)  # rounded up
        last = zero + top * scale
    bad = (np.abs(zero) > largest) | (scale > largest) | ~(last <= np.finfo(low.dtype).max)
    if bad.any():
        worst = f"its numbers reach from {low[bad].flat[0]:.6g} to {high[bad].flat[0]:.6g}"
        limit = f"the range of {name}, {largest:.6g}, in which its scale and zero point are kept"
        cure = "" if name == "float64" else "; set up with scalars='float32' or 'bfloat16'"
        raise ValueError(f"x: the group {first_row(bad)} is beyond {limit}: {worst}{cure}")
    return zero.astype(low.dtype), scale.astype(low.dtype)


def _check_rows(Q: Quantizer, x: ArrayLike) -> Reals:
    rows = as_rows(x, Q.d)
    if Q.axis == "channel" and (rows.ndim < 2 or rows.shape[-2] % Q.group):
        found = f"{rows.shape[-2]} tokens (its shape is {rows.shape})" if rows.ndim > 1 else f"shape {rows.shape}"
        whole = f"whole blocks of {Q.group} tokens, (…, n, {Q.d}) with n a multiple of {Q.group}"
        raise ValueError(f"x: expected {whole}, got {found}; the last, incomplete block is not to be coded")
    return rows


def _quantize(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    rows = _check_rows(Q, x)
    grouped = _grouped(Q, rows)
    low, high = (f(axis=-2) for f in (grouped.min, grouped.max))
    if Q.axis == "token":
        low, high = low[..., 0], high[..., 0]
    zeros, scales = _zero_and_scale(Q, low, high)
    steps = _of_groups(Q, np.where(scales > 0, scales, 1))
    with np.errstate(over="ignore"):  # an infinite position is the last index
        position = (grouped - _of_groups(Q, zeros)) / steps
    indices = np.clip(np.floor(position + np.asarray(0.5, rows.dtype)), 0, 2**Q.bits - 1).astype(np.uint8)
    return {
        "x": rows,
        "low": low,
        "high": high,
        "zero": zeros,
        "scale": scales,
        "position": position.reshape(rows.shape),
        "indices": indices.reshape(rows.shape),
    }


def _code(Q: Quantizer, steps: dict[str, Any]) -> MinMaxCode:
    return MinMaxCode(steps["indices"], steps["scale"], steps["zero"], Q.fingerprint)


def quantize(Q: Quantizer, x: ArrayLike) -> MinMaxCode:
    """The nearest level of each number's group: floor((x - zero) / scale + 1/2), in the compute dtype.

    Parameters
    ----------
    Q : Quantizer
    x : (…, n, d) array of float16, float32, float64 or integers
        n whole blocks for axis "channel"; (…, d) for axis "token".

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, an incomplete block, NaN or infinity, or a group beyond the range of the stored
        dtype.
    """
    return _code(Q, _quantize(Q, x))


def dequantize(Q: Quantizer, code: MinMaxCode) -> Reals:
    """The levels: zero + scale * index.

    Returns
    -------
    array of the shape of the indices, in the dtype of the code's scales
    """
    check_code(Q, code, MinMaxCode)
    grouped = _grouped(Q, code.indices).astype(code.scales.dtype)
    levels = _of_groups(Q, code.zeros) + _of_groups(Q, code.scales) * grouped
    return np.asarray(levels.reshape(code.indices.shape))


def inner_product(Q: Quantizer, y: ArrayLike, code: MinMaxCode) -> Reals:
    """<y, x~> for every pair of a query and a token; without a rotation nothing is gained by not decoding.

    Returns
    -------
    (*A, *B) array for queries (*A, d) and indices of shape (*B, d)
    """
    query_norms, query = norm_and_unit(as_rows(y, Q.d, name="y"), name="y")
    norms, decoded = norm_and_unit(dequantize(Q, code), name="code")
    return times_norms(outer_product(query, decoded), query_norms, norms)


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: MinMaxCode) -> Reals:
    """sum_j w_j x~_j over the n tokens, for each row of weights (…, n): attention's second half."""
    return as_weights(weights, code.indices.shape[:-1]) @ dequantize(Q, code)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis, in which it is."""
    return total


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every step by name: x, low, high, zero, scale, position, indices, decoded."""
    steps = _quantize(Q, x)
    return {**steps, "decoded": dequantize(Q, _code(Q, steps))}


def pack(Q: Quantizer, code: MinMaxCode, scalars: str | None = None) -> Packed:
    """The code as portable bytes, a row a token, or a row a block of `group` tokens: indices, scales, zero points.

    Lossless by default: `scalars` None is the quantizer's own dtype, to which the numbers are rounded already.

    Raises
    ------
    TypeError, ValueError
        For a code of another quantizer, an unknown scalar dtype, or a number outside its normal range.
    """
    check_code(Q, code, MinMaxCode)
    stream = code.indices
    if Q.axis == "channel":
        *batch, n, d = stream.shape
        stream = stream.reshape(*batch, n // Q.group, Q.group * d)
    return Q.record.pack([stream], [code.scales, code.zeros], scalars or Q.scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> MinMaxCode:
    """The inverse of `pack`; scales and zero points come back as float64 if stored so, else as float32."""
    (stream,), (scales, zeros) = Q.record.unpack(packed, Q.fingerprint)
    if Q.axis == "channel":
        *batch, blocks, _ = stream.shape
        stream = stream.reshape(*batch, blocks * Q.group, Q.d)
    return MinMaxCode(stream, scales, zeros, Q.fingerprint)
