"""TurboQuant_mse in one pass over x: norm, safe structured rotation, nearest centroids, packed bits. The fast kernel.

One kernel text for every d = m 2^k whose vector fits the registers of a warp (`quantize_plans.plan_of`), 1 to 4
bits, one round or two. x is read once and its codes are written once; everything between happens in registers, but for
two exchanges through shared memory. `constants` says where it does not apply; the plain kernels are right everywhere.

A vector whose sum of squares leaves a safe range is scaled by a power of two and summed again, so that norms are right
from the smallest to the largest float32. What is not finite, or a scale outside the range of its stored dtype, sets a
flag.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint32

from turboquant_ref.mse import SCALES, Quantizer
from turboquant_ref.rotation import Structured

from . import _launch, ptx, quantize_plans
from . import quantize_programs as programs
from .layout import Prepared, empty, form_of, to_host
from .quantize_plans import (
    Narrow,
    Plan,
    narrow_of,
    pieces_of,
    plan_of,
    plane_pairs,
    plane_table,
    sign_table,
)
from .registers import program
from .rotation import kept
from .vectors import check_device, device, sizes

__all__ = ["Call", "constants", "kernel", "prepared_call"]

U32, I32, I64, F32 = ptx.U32, ptx.I32, ptx.I64, ptx.F32
LEAST, MOST = 2.0**-60, 2.0**120
"""Sums of squares between these are right without scaling."""
SMALLEST, LARGEST = 2.0**-126, 3.4028234663852886e38
HALF_SMALLEST, HALF_LARGEST = 2.0**-14, 65504.0
REGISTERS, SHARED = 65536, 232448
"""Of a multiprocessor of compute capability 9.0, registers and bytes; with less, fewer blocks are resident at once."""
HELD = 16
"""Up to this many registers a lane, signs and planes stay in registers too."""


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
    largest = float32(HALF_LARGEST if scalars == "float16" else LARGEST)
    smallest = float32(HALF_SMALLEST if scalars == "float16" else SMALLEST)

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
    rule: int,
    warps: int,
    lockstep: bool,
    ahead: bool,
) -> tuple[Any, tuple[Any, ...]]:
    """The kernel text, and the types of its arguments.

    Parameters
    ----------
    plan : Plan
    levels : the pairs of chunks of `mix`, level by level
    rounds : 1 or 2
    factor : what the last coordinates are too large by, `quantize_plans.factor`
    pieces : of `quantize_plans.pieces_of`
    bits : 1 to 4
    in_planes : 3 bits as two planes, `layout.Form.planes`
    source : "float32", "float16" or "bfloat16", the dtype of x
    scalars : "float32", "float16" or "bfloat16", that of the stored scale
    rule : the scale rule, its number in `turboquant_ref.mse.SCALES`
    warps : of a block
    lockstep : whether the warps of a block begin each vector together, so that they share the fetched instructions
    ahead : whether the next vectors are copied to shared memory, where these have left it, while these are finished
    """
    count, d, vectors = plan.count, plan.d, plan.vectors
    outer, inner = plan.outer, plan.inner
    keys = plan.keys(outer)
    pairs = len(plane_pairs(plan)) if rounds == 2 else 0
    held = count <= HELD
    lanes = 1 << plan.lanes
    group = ptx.group
    itemsize = 4 if source == "float32" else 2
    row_bytes = d * (2 if in_planes else bits) // 8
    table = d + 4 * pairs * lanes + 16

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

    def load_shared(o: Any, even: Any, odd: Any) -> list[Any]:
        x: list[Any] = []
        for i in range(0, count, 8):
            at = ((keys[i][0] << plan.k) + keys[i][1]) * itemsize
            if source == "float32":
                x += [*o.singles(even, 4, at), *o.singles(odd, 4, at)]
            else:
                for word in o.words(even, 4, at):
                    x += o.halves(word, source)
        return x

    def base_of(view: Any) -> Any:
        def base(o: Any, region: Any, lane: Any) -> Any:
            for q, flips in enumerate(plan.lane_words(view)):
                region = o.xor(region, o.and_(o.subtract(0, o.and_(o.right(lane, q), 1)), 4 * flips))
            return region

        return base

    def matrix(o: Any, matrices: list[Any], own: Any, j: int) -> list[Any]:
        return matrices[4 * j : 4 * j + 4] if held else o.singles(own, 4, 4 * d + 16 * lanes * j)

    def held_signs(o: Any, address: Any) -> list[Any]:
        return [s for g in range(count // 4) for s in o.singles(address, 4, 16 * lanes * g)]

    def held_planes(o: Any, address: Any) -> list[Any]:
        return [s for j in range(pairs) for s in o.singles(address, 4, 16 * lanes * j)]

    def turn(
        o: Any, x: list[Any], signs: list[Any], matrices: list[Any], own: Any, a: Any, b: Any, lane: Any
    ) -> list[Any]:
        """All of the rotation that needs shared memory: back in the outer view. `own`: this lane's signs and planes."""
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
            if r == 0:
                x = rest(o, x, old, new)
            if r + 1 < rounds:
                x = programs.planes(o, plan, x, lambda j: matrix(o, matrices, own, j))
        return programs.exchange(o, plan, x, inner, outer, bases) if rounds == 1 else x

    def rest(o: Any, x: list[Any], old: Any, new: Any) -> list[Any]:
        """What follows an exchange in a round."""
        for bit in new.registers:
            if bit not in old.registers:
                x = programs.stage(o, plan, new, x, bit)
        return programs.mix(o, plan, levels, x)

    def finish(
        o: Any, x: list[Any], scale: Any, norm: Any, codes: Any, high: Any, lane: Any, centroids: Any
    ) -> tuple[Any, Any]:
        """The end of the last round, the cells, and their bits to global memory; what the scale needs."""
        if rounds == 2:
            x = rest(o, x, inner, outer)
        x = programs.level(o, plan, levels, x)
        slopes = [(o.fmul(scale, slope * factor), offset, rise) for slope, offset, rise in pieces]
        numbers = programs.cells(o, x, slopes, bits)
        for i in range(0, count, 8):
            word = programs.nibbles(o, numbers[i : i + 8])
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
                both = o.or_(upper, o.left(other, 2))
                o.store_if(o.and_(lane, 2), high, both, 4 * (eighth // 4) + 2 * (eighth % 2), 2)
        return programs.sums(o, x, numbers, centroids, rule) if rule else (scale, norm)

    def fetch(o: Any, shared: Any, address: Any) -> None:
        for g in range(pieces_of_tile):
            o.copy_16(shared, address, 512 * g)

    pieces_of_tile, row_pieces = count * itemsize // 16, d * itemsize // 16
    fetch = program(fetch, ptx.types.void, U32, I64)
    load = program(load, group(F32, count), I64)
    load_shared = program(load_shared, group(F32, count), U32, U32)
    measure, scale_of, keep = measured(count, plan.lanes), scaler(rule, factor, plan.lanes), keeper(scalars)
    outer_base, inner_base = (program(base_of(view), U32, U32, U32) for view in (outer, inner))
    held_signs = program(held_signs, group(F32, count), U32)
    held_planes = program(held_planes, group(F32, max(4 * pairs, 1)) if pairs else F32, U32)
    some = group(F32, 4 * pairs) if pairs else group(F32, 1)
    turn = program(
        turn, group(F32, count), group(F32, count), group(F32, count if held else 1), some if held else group(F32, 1),
        U32, U32, U32, U32,
    )  # fmt: skip
    finish = program(finish, group(F32, 2), group(F32, count), F32, F32, I64, I64, U32, U32)
    coordinate = plan.lane_coordinates(outer)
    shifts = [int(coordinate[1 << q]) for q in range(plan.lanes)]

    def lane_coordinate(o: Any, lane: Any) -> Any:
        at = o.and_(lane, 0)
        for q, shift in enumerate(shifts):
            at = o.or_(at, o.left(o.and_(o.right(lane, q), 1), shift.bit_length() - 1))
        return at

    own_coordinate = program(lane_coordinate, U32, U32)

    @cuda.jit(device=True, inline="always")
    def fetch_rows(waiting, x_at, tile, lane, n):  # type: ignore[no-untyped-def]
        if (int64(tile) + 1) * vectors <= int64(n):
            fetch(waiting, x_at + int64(tile) * (512 * pieces_of_tile) + int64(lane) * 16)
        else:  # the last rows, the very last one for all that are missing
            for g in range(pieces_of_tile):
                piece = int64(g * 32) + int64(lane)
                row = min(int64(tile) * vectors + piece // row_pieces, int64(n) - 1)
                ptx.copy_16(uint32(waiting + uint32(512 * g)), x_at + (row * row_pieces + piece % row_pieces) * 16)
        ptx.copy_commit()

    def run(x_at, codes_at, high_at, scales_at, table_at, refused_at, n):  # type: ignore[no-untyped-def]
        shared = cuda.shared.array(0, float32)
        thread = int32(cuda.threadIdx.x)
        lane, warp = uint32(thread & 31), thread >> 5
        for i in range(thread, table, warps * 32):
            shared[i] = ptx.load_f32(table_at + int64(i) * 4)
        cuda.syncthreads()
        start = ptx.shared_address(shared)
        own = uint32(start + uint32(16) * uint32(lane & uint32(lanes - 1)))
        centroids = uint32(start + uint32(4 * table - 64))
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
        tile = int32(cuda.blockIdx.x) * int32(warps) + (int32(0) if lockstep else warp)
        step = int32(cuda.gridDim.x) * int32(warps)
        tiles = int32((n + vectors - 1) // vectors)
        if ahead:
            waiting = uint32(region + uint32(16) * (lane ^ ((lane >> uint32(3)) & uint32(swizzled))))
            flipped = uint32(16) * ((uint32(first) >> uint32(5)) & uint32(swizzled))
            even = uint32(region + uint32(itemsize) * (uint32(lane >> uint32(plan_lanes)) * uint32(d) + uint32(first)))
            odd = uint32(even + uint32(16) - flipped)
            even = uint32(even + flipped)
            if tile < tiles:
                of_warp = tile + warp if lockstep else tile
                fetch_rows(waiting, x_at, of_warp, lane, n)
        while tile < tiles:
            if lockstep:
                cuda.syncthreads()
            of_warp = tile + warp if lockstep else tile
            row = min(int64(of_warp) * vectors + int64(lane >> uint32(plan_lanes)), int64(n) - 1)
            if ahead:
                copied()
                cuda.syncwarp()
                x = load_shared(even, odd)
            else:
                x = load(x_at + (row * d + first) * itemsize)
            x, inverse, norm = measure(x)
            x = turn(x, signs, matrices, own, a, b, lane)
            if ahead:
                cuda.syncwarp()
                if tile + step < tiles:
                    fetch_rows(waiting, x_at, of_warp + step, lane, n)
            at = (first >> 3) * width_of_8
            high_of = (first >> 5) * 4 + ((first >> 3) & 1) * 2
            sums = finish(x, inverse, norm, codes_at + row * row_bytes + at, high_at + row * (d // 8) + high_of,
                          lane, centroids)  # fmt: skip
            scale = scale_of(sums, inverse, norm)
            if (lane & uint32(lanes - 1)) == uint32(0):
                keep(scale, scales_at, row, refused_at)
            tile += step

    width_of_8 = 2 if in_planes else bits
    plan_lanes, aligned = plan.lanes, 128 << plan.r
    swizzled = int(source == "float32" and plan.lanes >= 3)
    copied = ptx.copy_wait[0]
    return run, (int64,) * 6 + (int32,)


def constants(
    Q: Quantizer, source: str, scalars: str, warps: int | None = None, lockstep: bool = False, ahead: bool = False
) -> tuple[Any, ...] | None:
    """What the kernel's text is a function of; None where the plain kernels must do the work."""
    rotation = Q.rotation
    if not isinstance(rotation, Structured) or rotation.rounds > 2:
        return None
    plan, pieces, form = plan_of(Q.d) or narrow_of(Q.d), pieces_of(Q.codebook), form_of(Q)
    if plan is None or pieces is None or source not in ("float32", "float16", "bfloat16") or scalars == "float64":
        return None
    if isinstance(plan, Narrow) and (form.planes or source != "float32"):
        return None
    levels = tuple((tuple(map(int, a)), tuple(map(int, b))) for a, b in rotation.levels)
    factor = quantize_plans.factor(plan, rotation)
    if warps is None:
        warps = 4 if isinstance(plan, Narrow) else {16: 4, 32: 8, 48: 10}.get(plan.count, 8 if plan.count < 32 else 4)
    text = (plan, levels, rotation.rounds, factor, tuple(pieces), Q.bits, form.planes, source, scalars)
    return *text, SCALES.index(Q.scale), warps, lockstep, ahead


def shared_bytes(plan: Plan, warps: int) -> int:
    """Dynamic shared memory of a block: signs, planes and centroids, and each warp's exchange, suitably aligned."""
    return 12 * plan.d + 64 + 128 * plan.count * warps + (128 << plan.r)


class Call:
    """`encode` with its arguments fixed: a launch quantizes what is then in `x`, and can be captured in a graph.

    Attributes
    ----------
    out : Prepared
        Where the codes go, the same arrays each time.
    function : _launch.Function
        The compiled kernel.
    """

    def __init__(
        self, Q: Quantizer, x: Any, shape: tuple[int, ...], home: Any, scalars: str, **shape_of_launch: Any
    ) -> None:
        source = _launch.name_of(x)
        fixed = constants(Q, source, scalars, **shape_of_launch)
        assert fixed is not None
        plan, warps = fixed[0], fixed[-3]
        self.home, self.out, self._x = home, empty(Q, shape, scalars, home), x
        self._refused = device(np.zeros(1, np.int32), home)
        table = kept(Q, "quantize", home, lambda: _table(plan, Q))
        n = int(np.prod(shape))
        if isinstance(plan, Narrow):
            from . import quantize_narrow as narrow

            dynamic = narrow.shared_bytes(plan, warps)
            function = _launch.compiled(narrow.kernel, *fixed, dynamic=dynamic)
        else:
            dynamic = shared_bytes(plan, warps)
            function = _launch.compiled(kernel, *fixed, dynamic=dynamic)
        self.function = function
        of_registers = REGISTERS // (32 * warps * 8 * _launch.blocks(function.registers, 8))
        resident = max(1, min(of_registers, SHARED // (dynamic + 1024), 64 // warps))
        grid = min(_launch.blocks(n, plan.vectors * warps), _launch.processors() * resident)
        high = self.out.codes if self.out.high is None else self.out.high
        arrays = (x, self.out.codes, high, self.out.scales, table, self._refused)
        self._arrays = arrays
        self._launch = function.fix((grid, 1, 1), 32 * warps, *(home.address(a) for a in arrays), n)

    def __call__(self) -> Prepared:
        """Launch, on the caller's stream; does not wait."""
        self._launch(self.home.stream())
        return self.out

    def refused(self) -> bool:
        """Wait, and say whether x held what `encode` refuses: what is not finite, a norm outside its dtype's range."""
        return bool(to_host(self._refused)[0])


def _table(plan: Plan, Q: Quantizer) -> np.ndarray[Any, Any]:
    centroids = np.zeros(16, np.float32)
    centroids[: len(Q.codebook.centroids)] = Q.codebook.centroids
    return np.concatenate([sign_table(plan, Q.rotation).ravel(), plane_table(plan, Q.rotation).ravel(), centroids])


def prepared_call(Q: Quantizer, x: Any, scalars: str = "float32") -> Call | None:
    """The `Call` for vectors x (…, d) that lie on the device; None where the fast kernel does not apply."""
    if Q.algorithm != "mse" or not _launch.is_fast() or constants(Q, _launch.name_of(x), scalars) is None:
        return None
    check_device(x, Q.d, "x")
    home = _launch.home_of(x)
    x = home.take(x)
    shape = sizes(x)[:-1]
    if not 0 < int(np.prod(shape)) < 1 << 31 or home.address(x) % 16:
        return None
    return Call(Q, x, shape, home, scalars)
