"""Several bit widths in one vector: outlier and regular channels (TurboQuant, section 4.3), 1.5, 2.5 and 3.5 bits.

    Setup     split the d channels in parts;  an independent quantizer for each: its own Pi, codebook and bits
    Quant     each part of x by its quantizer;  the code is the tuple of their codes, each with its own norm
    DeQuant   each part's decoded vector, back in its channels

The parts belong to the quantizer: chosen once, say from the keys of a prompt (`outliers`), known to both sides, and
covered by the fingerprint.  They are not a vector's, and no row carries them.  A part of n channels is a vector of n
dimensions, so its codebook is that of n: the paper's released code divides the Gaussian centroids by sqrt(128) for
parts of 32 and 96 channels, and loses a factor of up to 6.9 in the outlier channels (``tests/test_channels.py`` has
the exact figures).

How many bits are "2.5 bits"?  The paper's example, 32 channels at 3 bits and 96 at 2, is 2.25, and its 3.5 bits are
"a different ratio".  `readings` prices those that lead to 2.5 and 3.5.  The distortion of any mix is exact:

    E ||x - x~||^2 / ||x||^2 = sum_k share_k D(n_k, b_k),    share_k = ||x_k||^2 / ||x||^2

so a split pays if and as far as the outlier channels hold more than their share of the energy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import mse, qjl, theory
from .codes import check_code, encode, prepare, to_packed
from .generator import seed_of, words
from .packing import Packed, fingerprint
from .vectors import as_rows, check_bits, check_dimension, check_integer, norm_and_unit

__all__ = [
    "ChannelsCode",
    "Part",
    "Quantizer",
    "Reading",
    "dequantize",
    "distortion",
    "encode",
    "inner_product",
    "of_parts",
    "outliers",
    "pack",
    "prepare",
    "quantize",
    "readings",
    "setup",
    "shares",
    "to_original",
    "to_packed",
    "trace",
    "unpack",
    "weighted_sum",
]

Reals = NDArray[np.floating[Any]]

STREAM = 2**64 - 1
"""Part k of a seed is set up with word k of this stream of it, as its own seed."""


@dataclass(frozen=True, eq=False)
class Part:
    """A set of channels and what quantizes them.

    Attributes
    ----------
    channels : (n,) integers
        Ascending indices.
    module : module
        The algorithm: `mse`, `prod`, `qjl`, `rabitq`, …, or a backend's.
    quantizer : Quantizer
        Of that module, of dimension n.
    """

    channels: NDArray[np.intp]
    module: ModuleType
    quantizer: Any


@dataclass(frozen=True, eq=False)
class Quantizer:
    """The parts, in the order of their bytes.  `setup` and `of_parts` draw one; any other mix is built by hand."""

    algorithm: ClassVar[str] = "channels"
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts: expected at least one")
        for k, part in enumerate(self.parts):
            n = len(part.channels)
            if part.quantizer.d != n:
                raise ValueError(f"parts[{k}]: it has {n} channels, its quantizer is of dimension {part.quantizer.d}")
            if getattr(part.quantizer, "vectors_per_record", 1) != 1:  # `minmax`, axis "channel"
                raise ValueError(f"parts[{k}]: its quantizer codes blocks of vectors, expected one that codes vectors")
        counts = np.bincount(np.concatenate([part.channels for part in self.parts]), minlength=self.d)
        if len(counts) > self.d or np.any(counts != 1):
            at = int(np.flatnonzero(counts != 1)[0])
            where = f"channel {at} is in {counts[at]} of the parts"
            raise ValueError(f"parts: each of the {self.d} channels must be in one part, {where}")

    @property
    def d(self) -> int:
        """Dimension: the channels of all parts."""
        return sum(len(part.channels) for part in self.parts)

    @cached_property
    def fingerprint(self) -> bytes:
        """8 bytes that name this quantizer, its channels included; its codes carry them."""
        names = [f"{list(map(int, p.channels))}: {p.quantizer.fingerprint.hex()}" for p in self.parts]
        return fingerprint("channels", *names)

    def bytes_per_vector(self, scalars: str = "float32") -> int:
        """Bytes of one packed vector: of its parts, each with its side scalars and its padding."""
        return int(sum(part.quantizer.bytes_per_vector(scalars) for part in self.parts))

    @property
    def stored_bits(self) -> float:
        """Bits a coordinate of one packed vector, the float32 side scalars of every part included."""
        return 8 * self.bytes_per_vector() / self.d

    @property
    def nominal_bits(self) -> float:
        """Bits a coordinate of the indices and signs alone: sum_k n_k b_k / d, the figure that papers print."""
        return float(sum(n * b for part in self.parts for n, b in part.quantizer.record.streams) / self.d)


@dataclass(frozen=True, eq=False)
class ChannelsCode:
    """The code of a batch of vectors.

    Attributes
    ----------
    parts : tuple of codes
        Of the parts, in their order.
    fingerprint : bytes
        Of the quantizer that made it.
    """

    parts: tuple[Any, ...]
    fingerprint: bytes


def outliers(x: ArrayLike, count: int) -> NDArray[np.bool_]:
    """The mask (d,) of the `count` channels with the largest L2 norm over the batch x (…, d); of equal ones the first.

    The paper does not say how it chooses.  Its released code does this for each key head, with count = 32, over the
    tokens of the prompt.

    Raises
    ------
    TypeError, ValueError
        For bad x, no rows, or a count that is not 1 to d - 1.
    """
    rows = as_rows(x).astype(np.float64)
    rows = rows.reshape(-1, rows.shape[-1])
    d = rows.shape[-1]
    count = check_integer(count, "count", 1, d - 1)
    if len(rows) == 0:
        raise ValueError("x has no rows to find outlier channels in")
    exponents = np.frexp(np.abs(rows).max(axis=0))[1]  # each channel scaled, so that no square overflows or vanishes
    lengths = np.sqrt((np.ldexp(rows, -exponents) ** 2).sum(axis=0))
    norms = np.ldexp(lengths, exponents - exponents.max())
    mask = np.zeros(d, dtype=np.bool_)
    mask[np.argsort(-norms, kind="stable")[:count]] = True
    return mask


def _mask(mask: ArrayLike, d: int, name: str) -> NDArray[np.bool_]:
    found = np.asarray(mask)
    if found.dtype != np.bool_:
        raise TypeError(f"{name}: expected a mask of dtype bool, got {found.dtype}")
    if found.shape != (d,):
        raise ValueError(f"{name}: expected a mask of shape ({d},), got {found.shape}")
    return found


def setup(
    d: int,
    bits: tuple[int, int],
    rng: int | np.random.Generator,
    mask: ArrayLike,
    module: ModuleType = mse,
    **options: Any,
) -> Quantizer:
    """Outlier and regular channels (section 4.3): a quantizer for the channels in the mask, and one for the others.

    Parameters
    ----------
    d : int
        Dimension of the whole vector.
    bits : (int, int)
        Bits a coordinate of the outlier channels and of the regular ones, as (3, 2).
    rng : int or numpy.random.Generator
        See `of_parts`.
    mask : (d,) bool
        True for the outlier channels: `outliers` of a batch, or your own.
    module, options
        See `of_parts`.

    Raises
    ------
    TypeError, ValueError
        For a mask that is not boolean or not of length d, a side with fewer than two channels, or what
        ``module.setup`` refuses.
    """
    found = _mask(mask, check_dimension(d), "mask")
    if not isinstance(bits, tuple | list) or len(bits) != 2:
        raise TypeError(f"bits must be a pair, (outlier channels, regular channels), got {bits!r}")
    for side, name in ((found, "outlier"), (~found, "regular")):
        if side.sum() < 2:
            raise ValueError(f"mask: it leaves {side.sum()} {name} channels of {d}, expected at least 2")
    return of_parts([(found, bits[0]), (~found, bits[1])], rng, module, **options)


def of_parts(
    parts: Sequence[tuple[ArrayLike, int]],
    rng: int | np.random.Generator,
    module: ModuleType = mse,
    **options: Any,
) -> Quantizer:
    """Any mix: a list of (mask, bits), one a part; every channel in exactly one.

    Parameters
    ----------
    parts : sequence of ((d,) bool, int)
        The channels of each part and their bits, 1 to 8.
    rng : int or numpy.random.Generator
        One seed; part k is set up with the seed ``generator.words(seed, STREAM, k + 1)[k]``: parts of equal size
        have independent rotations too.
    module : module
        `mse`, `prod`, `qjl` (with m = bits * channels signs), `rabitq`: one whose setup takes (d, bits, rng).
    options
        Go to its setup.
    """
    if not isinstance(module, ModuleType):
        raise TypeError(f"module: expected a module such as turboquant_ref.mse, got {module!r}")
    parts = list(parts)
    d = len(np.atleast_1d(np.asarray(parts[0][0]))) if parts else 0
    masks = [_mask(mask, d, f"parts[{k}]") for k, (mask, _) in enumerate(parts)]
    widths = [check_bits(bits, f"bits of part {k}") for k, (_, bits) in enumerate(parts)]
    for k, mask in enumerate(masks):
        if mask.sum() < 2:
            raise ValueError(f"parts[{k}]: it has {mask.sum()} channels, expected at least 2")
    seeds = words(seed_of(rng), STREAM, len(parts))
    made = []
    for mask, b, seed in zip(masks, widths, seeds, strict=True):
        n = int(mask.sum())
        quantizer = module.setup(n, b * n if module is qjl else b, rng=int(seed), **options)
        made.append(Part(np.flatnonzero(mask), module, quantizer))
    return Quantizer(tuple(made))


def quantize(Q: Quantizer, x: ArrayLike) -> ChannelsCode:
    """Each part of each row, by its own quantizer.

    Parameters
    ----------
    Q : Quantizer
    x : (…, d) array of float16, float32, float64 or integers

    Raises
    ------
    TypeError, ValueError
        For another dtype or shape, NaN or infinity; before any work is done.
    """
    rows = as_rows(x, Q.d)
    codes = tuple(p.module.quantize(p.quantizer, rows[..., p.channels]) for p in Q.parts)
    return ChannelsCode(codes, Q.fingerprint)


def _scatter(Q: Quantizer, pieces: list[Reals]) -> Reals:
    """The parts' arrays (…, n_k) back in their channels: (…, d)."""
    out = np.empty((*pieces[0].shape[:-1], Q.d), dtype=np.result_type(*pieces))
    for part, piece in zip(Q.parts, pieces, strict=True):
        out[..., part.channels] = piece
    return out


def dequantize(Q: Quantizer, code: ChannelsCode) -> Reals:
    """Each part decoded by its own quantizer: (…, d)."""
    check_code(Q, code, ChannelsCode)
    return _scatter(Q, [p.module.dequantize(p.quantizer, c) for p, c in zip(Q.parts, code.parts, strict=True)])


def inner_product(Q: Quantizer, y: ArrayLike, code: ChannelsCode) -> Reals:
    """Estimates of <y, x> for every pair: the sum of the parts' estimates, unbiased if theirs are.

    Returns
    -------
    (*A, *B) array for queries (*A, d) and a code of shape B
    """
    check_code(Q, code, ChannelsCode)
    query = as_rows(y, Q.d, name="y")
    parts = zip(Q.parts, code.parts, strict=True)
    return np.asarray(sum(p.module.inner_product(p.quantizer, query[..., p.channels], c) for p, c in parts))


def weighted_sum(Q: Quantizer, weights: ArrayLike, code: ChannelsCode) -> Reals:
    """sum_j w_j x~_j for each row of weights (…, n), (…, d): attention's second half.

    Each part is rotated back once, for the sum; what comes out is in the original basis and channels.
    """
    check_code(Q, code, ChannelsCode)
    pieces = []
    for part, piece in zip(Q.parts, code.parts, strict=True):
        total = part.module.weighted_sum(part.quantizer, weights, piece)
        pieces.append(part.module.to_original(part.quantizer, total))
    return _scatter(Q, pieces)


def to_original(Q: Quantizer, total: Reals) -> Reals:
    """A `weighted_sum` in the original basis, in which it is."""
    return total


def trace(Q: Quantizer, x: ArrayLike) -> dict[str, Any]:
    """Every step by name: x; the trace of each part as "part 0", "part 1", …; decoded."""
    rows = as_rows(x, Q.d)
    steps = [p.module.trace(p.quantizer, rows[..., p.channels]) for p in Q.parts]
    named = {f"part {k}": step for k, step in enumerate(steps)}
    return {"x": rows, **named, "decoded": _scatter(Q, [step["decoded"] for step in steps])}


def pack(Q: Quantizer, code: ChannelsCode, scalars: str = "float32") -> Packed:
    """The code as portable bytes: the packed rows of the parts, one after the other."""
    check_code(Q, code, ChannelsCode)
    rows = [p.module.pack(p.quantizer, c, scalars).data for p, c in zip(Q.parts, code.parts, strict=True)]
    return Packed(np.concatenate(rows, axis=-1), scalars, Q.fingerprint)


def unpack(Q: Quantizer, packed: Packed) -> ChannelsCode:
    """The inverse of `pack`, up to the rounding of the side scalars.

    Bytes of another quantizer, of the wrong length, or impossible ones are a ValueError.
    """
    if not isinstance(packed, Packed):
        raise TypeError(f"packed: expected Packed, got {type(packed).__name__}")
    if packed.fingerprint != Q.fingerprint:
        made = packed.fingerprint.hex()
        raise ValueError(f"packed: it was made by quantizer {made}, this one is {Q.fingerprint.hex()}")
    data, size = np.asarray(packed.data), Q.bytes_per_vector(packed.scalars)
    if data.dtype != np.uint8 or data.ndim == 0 or data.shape[-1] != size:
        raise ValueError(f"packed: expected (…, {size}) bytes, got {data.dtype} {data.shape}")
    ends = np.cumsum([int(p.quantizer.bytes_per_vector(packed.scalars)) for p in Q.parts])
    rows = np.split(data, ends[:-1], axis=-1)
    codes = tuple(
        p.module.unpack(p.quantizer, Packed(row, packed.scalars, p.quantizer.fingerprint))
        for p, row in zip(Q.parts, rows, strict=True)
    )
    return ChannelsCode(codes, Q.fingerprint)


# ------------------------------------------------------------------------------------------------ rate and distortion


def shares(Q: Quantizer, x: ArrayLike) -> NDArray[np.float64]:
    """The share of each row's energy in each part: ||x_k||^2 / ||x||^2, (…, parts); zeros for the zero row."""
    unit = norm_and_unit(as_rows(x, Q.d).astype(np.float64))[1]
    return np.stack([(unit[..., part.channels] ** 2).sum(-1) for part in Q.parts], axis=-1)


def distortion(Q: Quantizer, shares: ArrayLike) -> NDArray[np.float64]:
    """D_mse of a mix, exactly: sum_k share_k D(n_k, b_k) for rows with the given shares of energy (…, parts).

    D of a part is its codebook's own distortion for `mse` with the paper's scale, whatever the codebook; for other
    scales and algorithms it is `theory`'s.  Exact over Haar rotations, for every x.
    """
    found = np.asarray(shares, dtype=np.float64)
    if found.ndim == 0 or found.shape[-1] != len(Q.parts):
        raise ValueError(f"shares: expected (…, {len(Q.parts)}), a share a part, got shape {found.shape}")
    return np.asarray(found @ np.array([_distortion(part.quantizer) for part in Q.parts]))


def _distortion(quantizer: Any) -> float:
    if quantizer.algorithm == "mse" and quantizer.scale == "norm":
        return float(quantizer.codebook.distortion)
    if quantizer.algorithm == "qjl":
        return theory.qjl(quantizer.d, quantizer.m, quantizer.sketch.kind).distortion
    return theory.distortion(quantizer.algorithm, quantizer.d, quantizer.bits, **quantizer.options)


@dataclass(frozen=True)
class Reading:
    """One reading of "2.5" or "3.5" bits (`label`) at d = 128, priced from its packed record in bits a coordinate.

    `parts` is (channels, bits), outliers first; `nominal` is the indices alone; `float16` and `float32` are stored,
    with a norm of that dtype for each part.  `mask` is what a mask of each vector's own would add, at the least: log2
    of the number of masks, in whole bits.  Ours and everybody's is chosen once, at no cost to a vector.
    """

    label: str
    name: str
    parts: tuple[tuple[int, int], ...]
    nominal: float
    float16: float
    float32: float
    mask: float


READINGS = (
    ("2.5", "(i) 3/2 bits, as printed, and two float16 norms", ((32, 3), (96, 2))),
    ("3.5", "(i) 4/3 bits and two float16 norms", ((32, 4), (96, 3))),
    ("2.5", "(ii) 4/2 bits", ((32, 4), (96, 2))),
    ("3.5", "(ii) 5/3 bits", ((32, 5), (96, 3))),
    ("2.5", "(iii) halves, 3/2 bits", ((64, 3), (64, 2))),
    ("3.5", "(iii) halves, 4/3 bits", ((64, 4), (64, 3))),
)


def readings() -> list[Reading]:
    """What "2.5" and "3.5 bits" (section 4.3, Table 1) can mean, and what each costs to store.

    The printed (32 * 3 + 96 * 2) / 128 is 2.25; with the two float16 norms that it needs it happens to be 2.5.
    Readings (ii) and (iii) are 2.5 and 3.5 without their norms.
    """
    table = []
    for label, name, parts in READINGS:
        d, first = sum(n for n, _ in parts), parts[0][0]
        mask = np.arange(d) < first
        Q = setup(d, (parts[0][1], parts[1][1]), 0, mask, rotation="structured")
        half, single = (8 * Q.bytes_per_vector(scalars) / d for scalars in ("float16", "float32"))
        masks = math.ceil(math.log2(math.comb(d, first))) / d
        table.append(Reading(label, name, parts, Q.nominal_bits, half, single, masks))
    return table
