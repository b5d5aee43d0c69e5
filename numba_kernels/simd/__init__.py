"""Vectors of 16 lanes for kernels: the only place that names an instruction set, `tables`.

Three types of 32-bit lanes, `f32x16`, `i32x16` and `u32x16`, one of float64 (`splat` makes either float type), and
masks of 16 flags. In a kernel they are values like any number: operators work lane by lane (``+ - * / & | ^ ~ << >>``
and comparisons), and a local variable is a register. A ``u32x16`` also stands for 64 bytes, byte k of lane j being
byte 4 j + k in memory.

Every function here is an ordinary NumPy function: that is its meaning, and what runs if the JIT is disabled (a vector
is then an array (16,)). In a kernel, Numba replaces it by the few LLVM instructions registered for it (`llvm.lowers`).
LLVM splits an operation on 16 lanes to what the processor has, so only table look-ups, the byte dot product and the
choice of bits are written once per instruction set. Lanes with no flag in a masked load or store are not touched in
memory.
"""

from __future__ import annotations

from .arithmetic import (
    as_f32,
    as_i32,
    as_u32,
    f32x16,
    first_lanes,
    flags,
    floor,
    fma,
    i32x16,
    lane,
    lowest,
    magnitude,
    mask_bits,
    max_lanes,
    maximum,
    min_lanes,
    minimum,
    round_even,
    select,
    splat,
    sqrt,
    sum_lanes,
    to_f32,
    to_i32,
    u32x16,
)
from .lanes import hadamard, transpose
from .llvm import D, F, I, M, N, U  # noqa: F401  the types, for files that register functions of their own
from .memory import (
    full_like,
    load,
    load_many,
    load_masked,
    prefetch,
    store,
    store_many,
    store_masked,
)
from .tables import dot4, gather, lookup, lookup_bytes, lookup_bytes64, merge_bits

__all__ = [
    "as_f32",
    "as_i32",
    "as_u32",
    "dot4",
    "f32x16",
    "first_lanes",
    "flags",
    "floor",
    "fma",
    "full_like",
    "gather",
    "hadamard",
    "i32x16",
    "lane",
    "load",
    "load_many",
    "load_masked",
    "lookup",
    "lookup_bytes",
    "lookup_bytes64",
    "lowest",
    "magnitude",
    "mask_bits",
    "max_lanes",
    "maximum",
    "merge_bits",
    "min_lanes",
    "minimum",
    "prefetch",
    "round_even",
    "select",
    "splat",
    "sqrt",
    "store",
    "store_many",
    "store_masked",
    "sum_lanes",
    "to_f32",
    "to_i32",
    "transpose",
    "u32x16",
]
