"""TurboQuant_mse in one pass over x: norm, safe structured rotation, nearest centroids, packed bits. The fast kernel.

One kernel text for every d = m 2^k whose vector fits the registers of a warp (`quantize_programs.plan_of`), 1 to 4 bits, one
round or two. x is read once and its codes are written once; everything between happens in registers, but for two exchanges
through shared memory. `constants` says where it does not apply; the plain kernels are right everywhere.

A vector whose sum of squares leaves a safe range is scaled by a power of two and summed again, so that norms are right from
the smallest to the largest float32. What is not finite, or a scale outside the range of its stored dtype, sets a flag.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint32

from turboquant_ref.mse import Quantizer
from turboquant_ref.rotation import Structured

from . import _launch, ptx
from . import quantize_programs as programs
from .layout import Prepared, empty, form_of, to_host
from .quantize_programs import Narrow, Plan, narrow_of, pieces_of, plan_of
from .registers import program
from .rotation import kept
from .vectors import check_device, device, sizes

__all__ = ["Call", "constants", "kernel", "prepared_call"]

U32, I32, I64, F32 = ptx.U32, ptx.I32, ptx.I64, ptx.F32
LEAST, MOST = 2.0**-60, 2.0**120
"""Sums of squares between these are right without scaling."""
SMALLEST, LARGEST = 2.0**-126, 3.4028234663852886e38
HALF_SMALLEST, HALF_LARGEST = 2.0**-14, 65504.0
HELD = 16
"""Up to this many registers a lane, signs and planes stay in registers too."""


def measured(count: int, lanes: int) -> Any:
    """A function for kernels: registers x of a lane -> x, scaled by a power of two if it must be; 1 / ||x|| of that; ||x||.

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


def keeper(scalars: str) -> Any:
    """A function for kernels that stores a norm as `scalars`, or sets the flag where it is outside their normal range."""
    largest = float32(HALF_LARGEST if scalars == "float16" else LARGEST)
    smallest = float32(HALF_SMALLEST if scalars == "float16" else SMALLEST)

    def to_bfloat16(o: Any, value: Any) -> Any:
        word = o.bits(value)
        return o.and_(o.add(o.add(word, 0x7FFF), o.and_(o.right(word, 16), 1)), 0xFFFF0000)

    rounded = program(to_bfloat16, U32, F32)

    @cuda.jit(device=True, inline="always")
    def keep(norm, scales_at, row, refused_at):  # type: ignore[no-untyped-def]
        if not (norm <= largest) or (norm < smallest and norm != float32(0)):
            ptx.store_u32(refused_at, uint32(1))
        if scalars == "float16":
            ptx.store_f16(scales_at + row * 2, norm)
        elif scalars == "bfloat16":
            ptx.store_u32(scales_at + row * 4, rounded(norm))
        else:
            ptx.store_f32(scales_at + row * 4, norm)

    return keep


def kernel(
    plan: Plan,
    levels: tuple[Any, ...],
    rounds: int,
    factor: float,
    pieces: tuple[tuple[float, float, float], ...],
    bits: int,
    in_planes: bool,
    source: str,
    scalars: str,
    warps: int,
) -> tuple[Any, tuple[Any, ...]]:
    """The kernel text, and the types of its arguments.

    Parameters
    ----------
    plan : Plan
    levels : the pairs of chunks of `mix`, level by level
    rounds : 1 or 2
    factor : what the last coordinates are too large by, `quantize_programs.factor`
    pieces : of `quantize_programs.pieces_of`
    bits : 1 to 4
    in_planes : 3 bits as two planes, `layout.Form.planes`
    source : "float32", "float16" or "bfloat16", the dtype of x
    scalars : "float32", "float16" or "bfloat16", that of the stored scale
    warps : of a block
    """
    count, d, vectors = plan.count, plan.d, plan.vectors
    outer, inner = plan.outer, plan.inner
    keys = plan.keys(outer)
    pairs = len(programs.plane_pairs(plan)) if rounds == 2 else 0
    held = count <= HELD
    lanes = 1 << plan.lanes
    group, none = ptx.group, ptx.types.void
    itemsize = 4 if source == "float32" else 2
    row_bytes = d * (2 if in_planes else bits) // 8
    table = d + 4 * pairs * lanes

    def load(o: Any, address: Any) -> list[Any]:
        x: list[Any] = []
        for i in range(0, count, 8):
            at = ((keys[i][0] << plan.k) + keys[i][1]) * itemsize
            if source == "float32":
                x += [*o.load(address, at, 4), *o.load(address, at + 16, 4)]
            else:
                for word in o.load(address, at, 4):
                    x += o.halves(o.bits(word), source)
        return x

    def base_of(view: Any) -> Any:
        def base(o: Any, region: Any, lane: Any) -> Any:
            for q, flips in enumerate(plan.lane_words(view)):
                region = o.xor(region, o.and_(o.subtract(0, o.and_(o.right(lane, q), 1)), 4 * flips))
            return region

        return base

    def held_signs(o: Any, address: Any) -> list[Any]:
        return [s for g in range(count // 4) for s in o.singles(address, 4, 16 * lanes * g)]

    def held_planes(o: Any, address: Any) -> list[Any]:
        return [s for j in range(pairs) for s in o.singles(address, 4, 16 * lanes * j)]

    def body(o: Any, x: list[Any], signs: list[Any], matrices: list[Any], own: Any, scale: Any, norm: Any,
             a: Any, b: Any, codes: Any, high: Any, lane: Any) -> None:  # fmt: skip
        """Rotate, find the cells and store them. `own` is where this lane's signs and planes lie in shared memory."""
        bases = {outer: a, inner: b}
        ways = {q: o.floats(o.or_(o.left(o.and_(o.right(lane, q), 1), 31), 0x3F800000)) for q in range(plan.lanes)}
        for g in range(0, count, 4):
            these = signs[g : g + 4] if held else o.singles(own, 4, 4 * lanes * g)
            x[g : g + 4] = programs.first_stage(o, plan, x[g : g + 4], these)
        for r in range(rounds):
            old, new = (inner, outer) if r else (outer, inner)
            for bit in old.registers:
                if r or bit:
                    x = programs.stage(o, plan, old, x, bit)
            for q in plan.shuffled(old):
                x = programs.lane_stage(o, x, q, ways[q])
            x = programs.exchange(o, plan, x, old, new, bases)
            for bit in new.registers:
                if bit not in old.registers:
                    x = programs.stage(o, plan, new, x, bit)
            x = programs.mix(o, plan, levels, x)
            if r + 1 < rounds:
                start = 4 * d

                def matrix(j: int) -> list[Any]:
                    return matrices[4 * j : 4 * j + 4] if held else o.singles(own, 4, start + 16 * lanes * j)  # noqa: B023

                x = programs.planes(o, plan, x, matrix)
        if rounds == 1:
            x = programs.exchange(o, plan, x, inner, outer, bases)
        x = programs.level(o, plan, levels, x)
        slopes = [(o.fmul(scale, slope * factor), offset, rise) for slope, offset, rise in pieces]
        for i in range(0, count, 8):
            numbers = programs.cells(o, x[i : i + 8], slopes, bits)
            word = programs.nibbles(o, numbers)
            word = o.if_zero(norm, 0x11111111 << bits - 1, word)
            low, upper = programs.streams(o, word, bits, in_planes)
            eighth = ((keys[i][0] << plan.k) + keys[i][1]) // 8
            width = 2 if in_planes else bits
            if width == 3:
                for byte in range(3):
                    o.store(codes, o.right(low, 8 * byte), 3 * eighth + byte, 1)
            else:
                o.store(codes, low, width * eighth, width)
            if in_planes:  # coordinate bit 4, lane bit 1, has the two bits beside these
                other = o.shuffle_xor_bits(upper, 2)
                o.store_if(o.and_(lane, 2), high, o.or_(upper, o.left(other, 2)), 4 * (eighth // 4) + 2 * (eighth % 2), 2)

    load = program(load, group(F32, count), I64)
    measure, keep = measured(count, plan.lanes), keeper(scalars)
    outer_base, inner_base = (program(base_of(view), U32, U32, U32) for view in (outer, inner))
    held_signs = program(held_signs, group(F32, count), U32)
    held_planes = program(held_planes, group(F32, max(4 * pairs, 1)) if pairs else F32, U32)
    some = group(F32, 4 * pairs) if pairs else group(F32, 1)
    finish = program(
        body, none, group(F32, count), group(F32, count if held else 1), some if held else group(F32, 1),
        U32, F32, F32, U32, U32, I64, I64, U32,
    )  # fmt: skip
    coordinate = plan.lane_coordinates(outer)
    shifts = [int(coordinate[1 << q]) for q in range(plan.lanes)]

    def lane_coordinate(o: Any, lane: Any) -> Any:
        at = o.and_(lane, 0)
        for q, shift in enumerate(shifts):
            at = o.or_(at, o.left(o.and_(o.right(lane, q), 1), shift.bit_length() - 1))
        return at

    own_coordinate = program(lane_coordinate, U32, U32)

    def run(x_at, codes_at, high_at, scales_at, table_at, refused_at, n):  # type: ignore[no-untyped-def]
        shared = cuda.shared.array(0, float32)
        thread = int32(cuda.threadIdx.x)
        lane, warp = uint32(thread & 31), thread >> 5
        for i in range(thread, table, warps * 32):
            shared[i] = ptx.load_f32(table_at + int64(i) * 4)
        cuda.syncthreads()
        start = ptx.shared_address(shared)
        own = uint32(start + uint32(16) * uint32(lane & uint32(lanes - 1)))
        region = uint32(start + uint32(4 * table) + uint32(aligned - 1)) & uint32(0xFFFFFFFF & -aligned)
        region = uint32(region + uint32(warp) * uint32(128 * count))
        a, b = outer_base(region, lane), inner_base(region, lane)
        first = int64(own_coordinate(lane))
        if held:
            signs = held_signs(own)
            matrices = held_planes(uint32(own + uint32(4 * d))) if pairs else (float32(0),)
        else:
            signs = (float32(0),)
            matrices = (float32(0),)
        tile = int32(cuda.blockIdx.x) * int32(warps) + warp
        step = int32(cuda.gridDim.x) * int32(warps)
        tiles = int32((n + vectors - 1) // vectors)
        while tile < tiles:
            row = min(int64(tile) * vectors + int64(lane >> uint32(plan_lanes)), int64(n) - 1)
            x = load(x_at + (row * d + first) * itemsize)
            x, inverse, norm = measure(x)
            if (lane & uint32(lanes - 1)) == uint32(0):
                keep(norm, scales_at, row, refused_at)
            at = (first >> 3) * width_of_8
            high_of = (first >> 5) * 4 + ((first >> 3) & 1) * 2
            finish(x, signs, matrices, own, inverse, norm, a, b, codes_at + row * row_bytes + at,
                   high_at + row * (d // 8) + high_of, lane)  # fmt: skip
            tile += step

    width_of_8 = 2 if in_planes else bits
    plan_lanes, aligned = plan.lanes, 128 << plan.r
    return run, (int64,) * 6 + (int32,)


def constants(Q: Quantizer, source: str, scalars: str, warps: int | None = None) -> tuple[Any, ...] | None:
    """What the kernel's text is a function of; None where the plain kernels must do the work."""
    rotation = Q.rotation
    if not isinstance(rotation, Structured) or rotation.rounds > 2 or Q.scale != "norm":
        return None
    plan, pieces, form = plan_of(Q.d) or narrow_of(Q.d), pieces_of(Q.codebook), form_of(Q)
    if plan is None or pieces is None or source not in ("float32", "float16", "bfloat16") or scalars == "float64":
        return None
    if isinstance(plan, Narrow) and (form.planes or source != "float32"):
        return None
    levels = tuple((tuple(map(int, a)), tuple(map(int, b))) for a, b in rotation.levels)
    factor = programs.factor(plan, rotation)
    if warps is None:
        warps = 4 if isinstance(plan, Narrow) or plan.count > 64 else 8
    return plan, levels, rotation.rounds, factor, tuple(pieces), Q.bits, form.planes, source, scalars, warps


def shared_bytes(plan: Plan, warps: int) -> int:
    """Dynamic shared memory of a block: signs and planes, and each warp's exchange, aligned so that its bits can be flipped."""
    return 12 * plan.d + 128 * plan.count * warps + (128 << plan.r)


class Call:
    """`encode` with its arguments fixed: launching it again quantizes what is then in `x`. It can be captured in a graph.

    Attributes
    ----------
    out : Prepared
        Where the codes go, the same arrays each time.
    function : _launch.Function
        The compiled kernel.
    """

    def __init__(self, Q: Quantizer, x: Any, shape: tuple[int, ...], home: Any, scalars: str, warps: int | None = None) -> None:
        source = _launch.name_of(x)
        fixed = constants(Q, source, scalars, warps)
        assert fixed is not None
        plan, warps = fixed[0], fixed[-1]
        self.home, self.out, self._x = home, empty(Q, shape, scalars, home), x
        self._refused = device(np.zeros(1, np.int32), home)
        table = kept(Q.rotation, "quantize", home, lambda: _table(plan, Q.rotation))
        n = int(np.prod(shape))
        if isinstance(plan, Narrow):
            from . import quantize_narrow as narrow

            dynamic = narrow.shared_bytes(plan, warps)
            function = _launch.compiled(narrow.kernel, *fixed, dynamic=dynamic)
        else:
            dynamic = shared_bytes(plan, warps)
            function = _launch.compiled(kernel, *fixed, dynamic=dynamic)
        self.function = function
        resident = min(65536 // (32 * warps * (-(-function.registers // 8) * 8)), 232448 // (dynamic + 1024), 64 // warps)
        grid = min(_launch.blocks(_launch.blocks(n, plan.vectors), warps), _launch.processors() * max(resident, 1))
        high = self.out.codes if self.out.high is None else self.out.high
        arrays = (x, self.out.codes, high, self.out.scales, table, self._refused)
        self._arrays = arrays
        self._launch = function.fix((grid, 1, 1), 32 * warps, *(home.address(a) for a in arrays), n)

    def __call__(self) -> Prepared:
        """Launch, on the caller's stream; does not wait."""
        self._launch(self.home.stream())
        return self.out

    def refused(self) -> bool:
        """Wait, and say whether x held what `encode` refuses: NaN, infinity, a norm outside the range of its stored dtype."""
        return bool(to_host(self._refused)[0])


def _table(plan: Plan, rotation: Structured) -> np.ndarray[Any, Any]:
    return np.concatenate([programs.sign_table(plan, rotation).ravel(), programs.plane_table(plan, rotation).ravel()])


def prepared_call(Q: Quantizer, x: Any, scalars: str = "float32") -> Call | None:
    """The `Call` for vectors x (…, d) that lie on the device; None where the fast kernel does not apply."""
    if Q.algorithm != "mse" or not _launch.is_fast() or constants(Q, _launch.name_of(x), scalars) is None:
        return None
    check_device(x, Q.d, "x")
    home = _launch.home_of(x)
    x = home.take(x)
    shape = sizes(x)[:-1]
    if not np.prod(shape) or home.address(x) % 16:
        return None
    return Call(Q, x, shape, home, scalars)
