"""Norms and scales inside the fast kernels of quantization: functions that the kernels inline.

A vector whose sum of squares leaves a safe range is scaled by a power of two and summed again, so that norms are right
from the smallest to the largest float32. What is not finite, or a scale outside the range of its stored dtype, sets a
flag.
"""

from __future__ import annotations

import math
from typing import Any

from numba import cuda, float32, int32, uint32

from . import ptx
from . import quantize_programs as programs
from .registers import program

F32, U32 = ptx.F32, ptx.U32
LEAST, MOST = 2.0**-60, 2.0**120
"""Sums of squares between these are right without scaling."""
RANGES = {
    "float32": (2.0**-126, 3.4028234663852886e38),
    "bfloat16": (2.0**-126, 3.3895313892515355e38),
    "float16": (2.0**-14, 65504.0),
}
"""Smallest normal and largest number that a scale may be stored as."""


def measured(count: int, lanes: int) -> Any:
    """A function for kernels, of a lane's x: x, scaled by a power of two if it must be, 1 / ||x|| of that, ||x||.

    1 / ||x|| and ||x|| are 0 for the zero vector. What is not finite makes a norm that is not.
    """
    group = ptx.group(F32, count)

    def total(o: Any, x: list[Any]) -> Any:
        return programs.group_sum(o, programs.square_sum(o, x), lanes)

    def top(o: Any, x: list[Any]) -> Any:
        return programs.group_max(o, programs.largest(o, x), lanes)

    total, top = program(total, F32, group), program(top, F32, group)
    scaled = program(programs.times, group, group, F32)

    @cuda.jit(device=True, inline="always")
    def measure(x):  # type: ignore[no-untyped-def]
        s = total(x)
        back = float32(1)
        if cuda.any_sync(0xFFFFFFFF, not (s > float32(LEAST) and s < float32(MOST))):
            exponent = int32(ptx.bits_of(top(x)) >> uint32(23))
            exponent = min(max(exponent, int32(1)), int32(253))
            if s > float32(LEAST) and s < float32(MOST):
                exponent = int32(127)
            x = scaled(x, ptx.float_of(uint32(uint32(254 - exponent) << uint32(23))))
            s = total(x)
            back = ptx.float_of(uint32(uint32(exponent) << uint32(23)))
        inverse = ptx.rsqrt(s)
        root = s * inverse
        root = ptx.fma(ptx.fma(-root, root, s), float32(0.5) * inverse, root)  # Newton's step
        if s == float32(0):
            inverse, root = float32(0), float32(0)
        return x, inverse, root * back

    return measure


def scaler(rule: int, factor: float, lanes: int) -> Any:
    """A function for kernels of what `sums` gave for a lane, 1 / ||x|| and ||x||: the scale of the rule."""
    total = program(lambda o, value: programs.group_sum(o, value, lanes), F32, F32)

    @cuda.jit(device=True, inline="always")
    def scale_of(sums, inverse, norm):  # type: ignore[no-untyped-def]
        scale = norm
        if rule > 0:
            zq, qq = total(sums[0]) * (inverse * float32(factor)), total(sums[1])
            if rule == programs.MATCHED:
                scale = norm / math.sqrt(qq)
            elif rule == programs.LEAST_SQUARES:
                scale = norm * (zq / qq)
            else:
                scale = norm / zq
            if norm == float32(0):
                scale = float32(0)
        return scale

    return scale_of


def keeper(scalars: str) -> Any:
    """A function for kernels that stores a scale as `scalars`; it sets the flag where that is outside their range."""
    smallest, largest = (float32(end) for end in RANGES[scalars])

    def to_bfloat16(o: Any, value: Any) -> Any:
        word = o.bits(value)
        return o.and_(o.add(o.add(word, 0x7FFF), o.and_(o.right(word, 16), 1)), 0xFFFF0000)

    rounded = program(to_bfloat16, U32, F32)

    @cuda.jit(device=True, inline="always")
    def keep(scale, scales_at, row, refused_at):  # type: ignore[no-untyped-def]
        if not (scale <= largest) or (scale < smallest and scale != float32(0)):
            ptx.store_u32(refused_at, uint32(1))
        if scalars == "float16":
            ptx.store_f16(scales_at + row * 2, scale)
        elif scalars == "bfloat16":
            ptx.store_u32(scales_at + row * 4, rounded(scale))
        else:
            ptx.store_f32(scales_at + row * 4, scale)

    return keep
