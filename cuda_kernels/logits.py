"""Attention logits straight from the packed keys in device memory, `turboquant_ref.attention.logits` on a GPU.

    logits    the plain call: any shapes, options and array library
    fix       the same with its arguments fixed once: a few microseconds a call, capturable in a CUDA graph

The query is turned once, by Pi (and S), and meets codes only. Two kernels do the work: `logits_fast` on the tensor
cores, for d of 64, 128 or 256, numbers of 2 to 4 bits (`prod` included) and float32 or less; `logits_plain` for
everything else, and in the simulator.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from turboquant_ref.attention import _check, _heads
from turboquant_ref.codes import batch_shape, module_of
from turboquant_ref.packing import Packed

from . import _launch
from .layout import Prepared, check, prepare

__all__ = ["Fixed", "fix", "logits"]

FAST_DIMENSIONS = (64, 128, 256)
_tables: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def as_prepared(Q: Any, keys: Any) -> Prepared:
    """Keys as Prepared: as they are, or made from Packed or from a code."""
    if isinstance(keys, Prepared):
        return check(Q, keys)
    if isinstance(keys, Packed):
        return prepare(Q, keys)
    shape, module = batch_shape(keys), module_of(Q)
    scalars = [a.dtype for a in vars(keys).values() if hasattr(a, "dtype") and a.dtype.kind == "f"]
    return prepare(Q, module.pack(Q, keys, str(scalars[0]) if scalars else "float32")) if shape else keys


def kept(Q: Any, what: Any, make: Callable[[], Any]) -> Any:
    """A table of a quantizer on the current device, made once."""
    tables = _tables.setdefault(Q, {})
    key = (what, 0 if _launch.simulated() else _launch.ready().get_current_device().id)
    if key not in tables:
        tables[key] = _launch.ready().to_device(np.ascontiguousarray(make()))
    return tables[key]


def _rotation(Q: Any, dtype: str) -> Any:
    return kept(Q, ("rotation", dtype), lambda: Q.rotation.matrix().T.astype(dtype))


def _sketch(Q: Any, dtype: str) -> Any:
    return kept(Q, ("sketch", dtype), lambda: Q.sketch.matrix().T.astype(dtype))


def _sign_factor(Q: Any, scale: float) -> float:
    """What s z is multiplied by, beside the norm and a stored residual norm."""
    expected = 1.0 if Q.algorithm == "qjl" or Q.stores_residual else Q.expected_residual
    return float(scale * Q.sketch.constant * expected)


@dataclass(frozen=True)
class Problem:
    """One call, its shapes understood.

    Attributes
    ----------
    shape : (*batch, heads, n_queries, n_keys)
    heads : int
        kv heads of all sequences.
    queries : int
        Of a kv head: those of all its query heads.
    """

    Q: Any
    keys: Prepared
    shape: tuple[int, ...]
    heads: int
    queries: int
    scale: float

    @property
    def n(self) -> int:
        """Keys of a kv head."""
        return self.shape[-1]

    @property
    def page(self) -> int:
        """Keys of a page; 0 if contiguous."""
        return 0 if self.keys.table is None else int(self.keys.scales.shape[2])

    @property
    def pages(self) -> tuple[int, int]:
        """kv heads, and pages, of a sequence; (1, 1) if contiguous."""
        return (1, 1) if self.keys.table is None else (int(self.keys.shape[1]), int(self.keys.table.shape[1]))


def problem(Q: Any, q: Any, keys: Any, scale: float | None, softcap: float | None) -> Problem:
    """The shapes of a call, checked as the reference checks them."""
    keys = as_prepared(Q, keys)
    shape = tuple(int(n) for n in q.shape)
    if not shape or shape[-1] != Q.d:
        raise ValueError(f"q: expected (*batch, heads, n_queries, {Q.d}), got {shape}")
    group = _heads(q, keys.shape)
    heads = math.prod(keys.shape[:-1])
    return Problem(Q, keys, (*shape[:-1], keys.shape[-1]), heads, group * shape[-2], _check(scale, softcap, Q.d))


def is_fast(p: Problem, dtype: str, out: str) -> bool:
    """Whether the fast kernel takes this call: where, in which dtypes, which form of keys."""
    form, page = p.keys.form, p.page
    return (
        _launch.is_fast()
        and (form.n in FAST_DIMENSIONS and 2 <= form.bits <= 4 and form.signs == 0)
        and (dtype in ("float32", "float16", "bfloat16") and out in ("float32", "float16"))
        and (_launch.name_of(p.keys.scales) in ("float32", "float16"))
        and (p.n >= KEYS and p.heads > 0 and p.queries > 0)
        and (page % KEYS == 0 and page & (page - 1) == 0)
        and all(_launch.address(a) % 16 == 0 for a in (p.keys.codes, p.keys.high))
    )


KEYS = 64
"""Keys of a tile of the fast kernel."""


@dataclass(frozen=True)
class Launch:
    """How the fast kernel is launched: queries a pass, keys a tile, tiles in memory, warps, blocks of a kv head."""

    queries: int
    keys: int
    stages: int
    warps: int
    blocks: int
    bulk: bool = False
    registers: int | None = None


def best_launch(p: Problem) -> Launch:
    """The launch that was fastest on an H100 for the form and the number of queries; see benchmarks/results."""
    queries = next((n for n in (1, 2, 4) if n >= p.queries), 8)
    form = p.keys.form
    tile = KEYS * (form.row + form.row_high)
    stages = max(2, min(4, 8 * 1024 // tile))
    blocks = 3 * _launch.processors() // p.heads
    return Launch(queries, KEYS, stages, 4, max(1, min(blocks, _launch.blocks(p.n, 4 * KEYS))))


class Fixed:
    """Logits with every argument fixed: `q` is read, and `out` written, where they are, each time it is called."""

    def __init__(self, p: Problem, q: Any, out: Any, home: _launch.Home, launch: Launch | None = None) -> None:
        from . import logits_fast as fast
        from . import operands_fast as operands

        launch = launch or best_launch(p)
        form, keys = p.keys.form, p.keys
        constants = (form.n, form.bits, form.merged, launch.queries, launch.keys, launch.stages, launch.warps)
        half = _launch.name_of(keys.scales) == "float16", _launch.name_of(out) == "float16"
        early = _launch.capability() >= (9, 0)
        bulk = launch.bulk and early and form.row_high % 16 == 0
        x = fast.Shape(*constants, *half, keys.residuals is not None, p.page, early, bulk)
        passes, kinds = _launch.blocks(p.queries, launch.queries), 2 if x.merged else 1
        self._q, self.out, self._home, self._p = q, out, home, p
        self._operands = home.empty((p.heads, passes, kinds, x.groups, x.words * 128), "int8")
        self._factors = home.empty((p.heads, passes, 2, 8), "float32")
        self._sums = home.empty((p.heads, passes, 8), "int32")
        where = kept(p.Q, "places", lambda: operands.places(x.d, x.bits))

        words, unit = _words(p.Q, x)
        book = kept(p.Q, "words", lambda: words)
        rotation = _rotation(p.Q, "float32")
        sketch, sign_factor = rotation, 0.0
        if x.merged:
            sketch, sign_factor = _sketch(p.Q, "float32"), _sign_factor(p.Q, p.scale)
        planes = _launch.compiled(
            operands.planes_kernel, x.d, kinds, x.groups, _launch.name_of(q), x.early
        ).fix(
            (p.heads * p.queries, kinds, 1), operands.THREADS,
            *map(_launch.address, (q, rotation, sketch, where, self._operands, self._factors, self._sums)),
            p.queries, launch.queries, passes, unit * p.scale, sign_factor,
        )  # fmt: skip
        kernel = _launch.compiled(
            fast.logits_kernel, *constants, *half, x.residual, x.page, x.early, x.bulk,
            dynamic=x.shared, registers=launch.registers,
        )  # fmt: skip
        self.registers = kernel.registers
        arrays = (keys.codes, keys.high, keys.scales, keys.residuals, out, self._operands, self._factors, self._sums)
        addresses = [_launch.address(a) for a in (*arrays, book, keys.table, keys.lengths)]
        self.kernel = kernel.fix(
            (launch.blocks, p.heads, passes), 32 * launch.warps, *addresses, p.n, p.queries, *p.pages, early=x.early
        )
        self._launches = (planes, self.kernel)

    def __call__(self, stream: int | None = None) -> Any:
        """Launch on a stream, the caller's current one by default; gives `out`."""
        handle = self._home.stream() if stream is None else stream
        for launch in self._launches:
            launch(handle)
        return self.out


@functools.cache
def _codebook(Q: Any, index_bits: int) -> tuple[Any, float]:
    from ._decode_tables import codebook_words

    return codebook_words(Q.codebook.centroids)


def _words(Q: Any, x: Any) -> tuple[Any, float]:
    """The codebook's words, one copy a lane, and their unit."""
    from .logits_fast import MINUS_TWO

    words, unit = _codebook(Q, x.bits - x.merged)
    row = np.zeros(8, np.uint32)
    row[: len(words)] = words
    if x.merged:
        row[4] = MINUS_TWO
    return np.tile(row, (32, 1)), unit


def fix(
    Q: Any, q: Any, keys: Prepared, *, scale: float | None = None, out: Any = None, dtype: str = "float32"
) -> Fixed:
    """`logits` prepared: arguments are checked, kernels compiled and room made once, then ``call()`` only launches.

    Parameters
    ----------
    Q, q, keys, scale
        As in `logits`; q and keys are arrays on the device, and a call reads what they hold then.
    out : array on the device, optional
        Where the logits go; new room in the library of q if None.
    dtype : {"float32", "float16"}
        Of new room.

    Raises
    ------
    TypeError, ValueError
        As `logits`, or for what the fast kernel does not take.
    MemoryError
        If the logits do not fit in device memory.
    """
    p = problem(Q, q, keys, scale, None)
    home = _launch.home_of(q)
    if out is None:
        _launch.enough_memory(math.prod(p.shape) * np.dtype(dtype).itemsize, "logits")
        out = home.empty(p.shape, dtype)
    if not _launch.on_device(q) or not is_fast(p, _launch.name_of(q), _launch.name_of(out)):
        raise ValueError(
            "q, keys: a fixed call takes device arrays of float32, float16 or bfloat16, d of 64, 128 or 256, numbers "
            f"of 2 to 4 bits and at least {KEYS} keys; got {_launch.name_of(q)}, d = {Q.d}, {p.n} keys"
        )
    return Fixed(p, home.take(q), out, home)


def logits(
    Q: Any,
    q: Any,
    keys: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    positions: Any = None,
    dtype: str | None = None,
) -> Any:
    """softcap(scale <q, k~>) + mask for every query and key; as `turboquant_ref.attention.logits`.

    Parameters
    ----------
    Q : a quantizer of `mse`, `prod` or `qjl`
    q : (*batch, heads, n_queries, d)
        float32, float16 or bfloat16; float64 is computed in float64, by the plain kernel.
    keys : Prepared, Packed or a code, of shape (*batch, kv_heads, n_keys)
    scale, softcap, mask, causal, window, positions
        As the reference's.
    dtype : {"float32", "float16", "float64"}, optional
        Of the logits; float64 for float64 queries and float32 for all others if None.

    Returns
    -------
    (*batch, heads, n_queries, n_keys) array of the library of q; -inf where a key is not visible

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, or a code of another quantizer.
    RuntimeError
        If there is no GPU or no numba-cuda.
    MemoryError
        If the logits do not fit in device memory.
    """
    from turboquant_ref.vectors import as_rows

    if not _launch.on_device(q):
        q = as_rows(q, Q.d, name="q")
    p = problem(Q, q, keys, scale, softcap)
    home = _launch.home_of(q, *(p.keys.arrays if not isinstance(q, np.ndarray) else ()))
    kind = _launch.name_of(q)
    out_kind = dtype or ("float64" if kind == "float64" else "float32")
    _launch.enough_memory(math.prod(p.shape) * np.dtype(out_kind).itemsize, "logits")
    out = home.empty(p.shape, out_kind)
    if math.prod(p.shape):
        into(p, home.take(q), out, home, is_fast(p, kind, out_kind))
        if softcap is not None or mask is not None or causal or window is not None:
            _shape(p, out, home, softcap, mask, causal, window, positions)
    return home.give(out)


def into(p: Problem, q: Any, out: Any, home: _launch.Home, fast: bool) -> None:
    """Logits of queries on the device, by either kernel, before soft cap and masks."""
    if fast:
        Fixed(p, q, out, home)()
    else:
        _plain(p, q, out, home)


def _array(a: Any) -> Any:
    return a if _launch.simulated() else _launch.ready().as_cuda_array(a)


def _cells(a: Any, rows: int, width: int) -> Any:
    """Rows of bytes as rows of cells."""
    a = _array(a)
    flat = a.reshape((rows, tuple(a.shape)[-1]))
    return flat.view(np.uint32) if width == 32 else flat


def _plain(p: Problem, q: Any, out: Any, home: _launch.Home) -> None:
    from numba import types

    from . import logits_plain as plain

    Q, keys, form = p.Q, p.keys, p.keys.form
    dtype = "float64" if _launch.name_of(q) == "float64" else "float32"
    q = q if dtype == "float64" else home.as_float32(q)
    rows, n_rows = p.heads * p.queries, int(math.prod(keys.scales.shape))

    def turned(matrix: Any) -> Any:
        y = _launch.ready().device_array((rows, int(matrix.shape[1])), np.dtype(dtype))
        grid = _launch.blocks(rows * int(matrix.shape[1]), 128)
        _launch.plain(plain.turn, grid, 128, home, _array(q).reshape((rows, Q.d)), matrix, y)
        return y

    signed = Q.algorithm != "mse"
    z = turned(_sketch(Q, dtype)) if signed else None
    index_bits = 0 if Q.algorithm == "qjl" else Q.codebook.bits
    y = turned(_rotation(Q, dtype)) if index_bits else z
    kind = "apart" if form.signs else "merged" if signed else "none"
    if form.planes:
        kind = "merged planes" if signed else "planes"
    step = plain.stretch(index_bits)
    wide = all(n % 4 == 0 for n in (form.row, form.row_high)) and step % 32 == 0
    width = 32 if wide and step * form.bits % 32 == 0 else 8
    high = _cells(keys.high if form.row_high else keys.codes, n_rows, width)
    codes = _cells(keys.codes, n_rows, width) if form.row else high
    scales = _array(keys.scales).reshape((n_rows,))
    residuals = scales if keys.residuals is None else _array(keys.residuals).reshape((n_rows,))
    nothing = kept(Q, "nothing", lambda: np.zeros(1, dtype))
    book = kept(Q, ("book", dtype), lambda: Q.codebook.centroids.astype(dtype)) if index_bits else nothing
    no_pages, no_lengths = kept(Q, "no pages", lambda: np.zeros((1, 1), np.int32)), kept(
        Q, "no lengths", lambda: np.zeros(1, np.int32)
    )
    kernel = plain.logits_kernel(
        index_bits, kind, width, p.page, keys.residuals is not None, getattr(types, dtype)
    )
    sign_factor = _sign_factor(Q, p.scale) if signed else 0.0
    factor = p.scale
    number = np.dtype(dtype).type
    blocks = min(_launch.blocks(p.n, plain.KEYS), max(1, 16 * _launch.processors() // p.heads))
    _launch.plain(
        kernel, (blocks, p.heads, p.queries), plain.KEYS, home, codes, high, scales, residuals, book, y,
        y if z is None else z, number(factor), number(sign_factor), no_pages if p.page == 0 else _array(keys.table),
        no_lengths if p.page == 0 else _array(keys.lengths), p.pages[0], _array(out).reshape((rows, p.n)),
    )  # fmt: skip


def _shape(
    p: Problem, out: Any, home: _launch.Home, softcap: Any, mask: Any, causal: bool, window: int | None, positions: Any
) -> None:
    """Soft cap and masks, in place."""
    from turboquant_ref.attention import visible

    from . import logits_plain as plain
    from .layout import to_host

    n_queries, rows = p.shape[-2], p.heads * p.queries
    where = np.arange(p.n - n_queries, p.n) if positions is None else to_host(positions)
    visible(n_queries, 0, causal, window, where)  # checks
    device = _launch.ready().to_device
    kind, masks = 0, device(np.zeros((1, 1), bool))
    if mask is not None:
        host = np.broadcast_to(to_host(mask) if _launch.on_device(mask) else np.asarray(mask), p.shape)
        kind = 1 if host.dtype == bool else 2
        masks = device(np.ascontiguousarray(host.reshape(rows, p.n)))
    _launch.plain(
        plain.shape, (_launch.blocks(p.n, 128), rows), 128, home, _array(out).reshape((rows, p.n)), n_queries,
        float(softcap or 0), masks, kind, causal, int(window or 0), device(where.astype(np.int64)),
    )  # fmt: skip
