"""The seeded generator: the one 64-bit integer behind all randomness of the package, and what is drawn from it.

This docstring is the specification: a port in any language follows from it alone.  Words are unsigned 64-bit
integers, arithmetic on them is modulo 2**64, `>>` shifts in zeros; floats are IEEE 754.

**Words.** SplitMix64 with state s puts out, at each call,

    s = s + 0x9E3779B97F4A7C15;  z = s
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;  return z ^ (z >> 31)

Its outputs from state 0 begin E220A8397B1DCDAF 6E789E6AA1B965F4 06C45D188009454F. Stream t = 0, 1, 2, ... of a
seed is SplitMix64 from the state that is the (t+1)-th output of SplitMix64 from state `seed`. Stream 0 draws the
rotation Pi, stream 1 the sketch S. Of seed 0, stream 0 begins A706DD2F4D197E6F B382A305F4414F5E
631A9154FBABF717; stream 1 begins 46B73E79F0C37C00 374327C63D0CC8A6 E10CF86AE3079278.

**Signs.** Sign number i is bit i mod 64 (the least significant is bit 0) of word i div 64; a 1 is +1, a 0 is -1.
The first eight of seed 0, stream 0 are + + + + - + + -.

**Gaussians.** Word w gives Phi^-1(((w >> 12) + 1/2) 2^-52), Phi the standard normal cdf. The argument is exact and
never 0 or 1 (53 bits and the half would round to 1). The first two of seed 0, stream 0 are 0.39193.., 0.52788...

**Angles.** Word w gives the odd integers a = 2 (w >> 38) + 1 - 2^26 and b = 2 ((w >> 12) & (2^26 - 1)) + 1 - 2^26.
If q = a^2 + b^2 > 2^52 it is rejected and the next word is tried; else it gives the pair (cos, sin) =
(a / sqrt(q), b / sqrt(q)), a uniform point of the circle. q is exact in float64, so all of it is bit-reproducible,
without a call to a cosine. The first pair of seed 0, stream 0 is (0.53764.., 0.84317..), of its word 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from .vectors import check_integer

__all__ = ["angles", "gaussians", "seed_of", "signs", "words"]

Words = NDArray[np.uint64]

_LAST = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def seed_of(rng: object) -> int:
    """The seed: the one 64-bit integer that all randomness of a quantizer is a function of.

    Parameters
    ----------
    rng : int, numpy.integer or numpy.random.Generator
        A seed from 0 to 2**64 - 1, or a generator from which one is drawn (this advances it).

    Raises
    ------
    TypeError
        Anything else: a bool, a float, None.
    ValueError
        An integer out of range.
    """
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(0, _LAST, dtype=np.uint64, endpoint=True))
    if not isinstance(rng, int | np.integer) or isinstance(rng, bool | np.timedelta64):
        allowed = "an integer from 0 to 2**64 - 1 or a numpy.random.Generator"
        raise TypeError(f"rng must be {allowed}, got {rng!r} of type {type(rng).__name__}")
    if not 0 <= rng <= _LAST:
        raise ValueError(f"rng must be a seed from 0 to 2**64 - 1, got {rng}")
    return int(rng)


def words(seed: int, stream: int, n: int, start: int = 0) -> Words:
    """Words start .. start + n - 1 of a stream of a seed (module docstring, "Words"): uint64, shape (n,)."""
    seed, stream = check_integer(seed, "seed", 0, _LAST), check_integer(stream, "stream", 0, _LAST)
    state = int(_splitmix(seed, np.asarray([stream], dtype=np.uint64))[0])
    return _splitmix(state, np.arange(start, start + n, dtype=np.uint64))


def _splitmix(state: int, index: Words) -> Words:
    """Outputs number `index` (from 0) of SplitMix64 from `state`; its state only counts, so any can be had."""
    z = (index + np.uint64(1)) * np.uint64(_STEP) + np.uint64(state)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def signs(seed: int, stream: int, n: int, start: int = 0) -> NDArray[np.int8]:
    """Random signs (module docstring, "Signs"): n of +1 and -1, int8, from the words from `start` on."""
    drawn = words(seed, stream, -(-n // 64), start)
    bits = (drawn[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    return (2 * bits.reshape(-1)[:n].astype(np.int8) - 1).astype(np.int8)


def gaussians(seed: int, stream: int, n: int) -> NDArray[np.float64]:
    """Independent N(0, 1) numbers by the inverse cdf (module docstring, "Gaussians"): float64, shape (n,)."""
    uniform = ((words(seed, stream, n) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return np.asarray(ndtri(uniform), dtype=np.float64)


def angles(seed: int, stream: int, n: int, start: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosines and sines of n uniform angles (module docstring, "Angles"), from the words from `start` on."""
    tried = 2 * n + 64
    while True:
        w = words(seed, stream, tried, start)
        a = 2 * (w >> np.uint64(38)).astype(np.int64) + (1 - 2**26)
        b = 2 * ((w >> np.uint64(12)) & np.uint64(2**26 - 1)).astype(np.int64) + (1 - 2**26)
        q = a * a + b * b
        kept = np.flatnonzero(q <= 2**52)[:n]
        if kept.size == n:
            length = np.sqrt(q[kept].astype(np.float64))
            return a[kept] / length, b[kept] / length
        tried *= 2
