"""The fast logits call with its arguments fixed: how it is launched, and the two launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from . import _launch
from ._decode_tables import codebook_words
from ._problem import KEYS, Problem, kept, rotation_of, sign_factor, sketch_of

_books: WeakKeyDictionary[Any, tuple[Any, float]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Launch:
    """How the fast kernel is launched.

    Attributes
    ----------
    queries : int
        Of one pass over the keys: 1, 2, 4 or 8.
    keys, stages : int
        Keys of a warp's tile, and tiles in shared memory.
    warps, blocks : int
        Of a block, and of a kv head.
    resident : int
        Blocks that share a multiprocessor.
    """

    queries: int
    keys: int
    stages: int
    warps: int
    blocks: int
    resident: int


def best_launch(p: Problem) -> Launch:
    """The launch that was fastest on an H100, by bytes of a tile and queries; see benchmarks/results.

    Copies of more than about 64 KB under way on a multiprocessor are slower there. The warps have the same number of
    tiles each: as many as give `waves` of resident blocks, or fewer waves if that is fewer than 8.
    """
    queries = next((n for n in (1, 2, 4) if n >= p.queries), 8)
    form, warps = p.keys.form, 4
    tile = KEYS * (form.row + form.row_high)
    if queries == 8 or tile > 4096 or form.merged:
        resident, waves = 3, 2
    elif tile == 4096:
        resident, waves = (4, 4) if queries == 1 else (3, 2)
    else:
        resident, waves = (6 if queries == 1 and tile <= 2048 else 4), 1
    at_once = max(warps * resident * _launch.processors() // p.heads, 1)
    tiles = _launch.blocks(p.n, KEYS)
    waves = next((w for w in range(waves, 1, -1) if tiles > 7 * w * at_once), 1)
    each = _launch.blocks(tiles, at_once * waves)
    return Launch(queries, KEYS, max(2, 1 + 2048 // tile), warps, _launch.blocks(tiles, warps * each), resident)


def room_of(resident: int) -> int:
    """Bytes of shared memory that let so many blocks be resident on a multiprocessor, and no more.

    Blocks that start while the queries' kernel holds some multiprocessors would else crowd on the others.
    """
    return (_launch.shared_memory() - 10 * 1024) // resident - 1024


class Fixed(_launch.Launches):
    """Logits with every argument fixed: `q` is read, and `out` written, where they are, each time it is called."""

    def __init__(self, p: Problem, q: Any, out: Any, home: _launch.Home, launch: Launch | None = None) -> None:
        from . import logits_fast as fast
        from . import operands_fast as operands

        launch = launch or best_launch(p)
        form, keys = p.keys.form, p.keys
        constants = (form.n, form.bits, form.merged, launch.queries, launch.keys, launch.stages, launch.warps)
        half = _launch.name_of(keys.scales) == "float16", _launch.name_of(out) == "float16"
        early = _launch.capability() >= (9, 0)
        x = fast.Shape(*constants, *half, keys.residuals is not None, p.page, early)
        passes, kinds = _launch.blocks(p.queries, launch.queries), 2 if x.merged else 1
        self._q, self.out, self.home, self._p = q, out, home, p
        self._operands = home.empty((p.heads, passes, kinds, x.groups, x.words * 128), "int8")
        self._factors = home.empty((p.heads, passes, 2, 8), "float32")
        self._sums = home.empty((p.heads, passes, 8), "int32")
        where = kept(p.Q, "places", lambda: operands.places(x.d, x.bits))

        words, unit = words_of(p.Q)
        book = kept(p.Q, "words", lambda: for_lanes(words, x.merged))
        rotation = rotation_of(p.Q, "float32")
        sketch, sign_scale = rotation, 0.0
        if x.merged:
            sketch, sign_scale = sketch_of(p.Q, "float32"), sign_factor(p.Q, p.scale)
        planes = _launch.compiled(
            operands.planes_kernel, x.d, kinds, x.groups, _launch.name_of(q), x.early
        ).fix(
            (p.heads * p.queries, kinds, 1), operands.THREADS,
            *map(_launch.address, (q, rotation, sketch, where, self._operands, self._factors, self._sums)),
            p.queries, launch.queries, passes, unit * p.scale, sign_scale,
        )  # fmt: skip
        kernel = _launch.compiled(
            fast.logits_kernel, *constants, *half, x.residual, x.page, x.early,
            dynamic=max(x.shared, room_of(launch.resident)),
        )  # fmt: skip
        self.registers = kernel.registers
        arrays = (keys.codes, keys.high, keys.scales, keys.residuals, out, self._operands, self._factors, self._sums)
        addresses = [_launch.address(a) for a in (*arrays, book, keys.table, keys.lengths)]
        self.kernel = kernel.fix(
            (launch.blocks, p.heads, passes), 32 * launch.warps, *addresses, p.n, p.queries, *p.pages, early=x.early
        )
        self.launches = (planes, self.kernel)


def words_of(Q: Any) -> tuple[Any, float]:
    """The codebook's words, and their unit; made once a quantizer."""
    if Q not in _books:
        _books[Q] = codebook_words(Q.codebook.centroids)
    return _books[Q]


def for_lanes(words: Any, merged: bool) -> Any:
    """The words as the kernel loads them: one copy for each lane, 8 words wide, with the sign's table if merged."""
    from .logits_fast import MINUS_TWO

    row = np.zeros(8, np.uint32)
    row[: len(words)] = words
    if merged:
        row[4] = MINUS_TWO
    return np.tile(row, (32, 1))
