"""Rows of packed codes that grow at the end: the keys, or the values, of a `cache.Layer`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codes import module_of
from ..packing import Packed

Reals = NDArray[np.floating[Any]]


class Coded:
    """The coded keys, or values, of some heads: full blocks, and the rest.

    A row is a packed record of Q, (*batch, heads, rows, bytes); where Q is None, a vector as it came, (…, rows, d).
    Full blocks are in the backend's Prepared form, the rest are bytes.  Arrays are never written to, so copies share
    them.
    """

    def __init__(self, Q: Any, ops: ModuleType | None, scalars: str | None, size: int) -> None:
        self.Q, self.span = Q, int(getattr(Q, "vectors_per_record", 1))
        self.size = size // self.span
        self.full: list[Any] = []
        self.rest: NDArray[Any] | None = None
        self.scalars = ""
        if Q is not None:
            reference = module_of(Q)
            self.module = reference if ops is None else check_ops(ops, Q)
            nothing = reference.quantize(Q, np.zeros((0, Q.d), np.float32))
            self.scalars = (reference.pack(Q, nothing, scalars) if scalars else reference.pack(Q, nothing)).scalars

    def encode(self, x: NDArray[Any]) -> NDArray[Any]:
        """The rows of vectors (…, n, d)."""
        if self.Q is None:
            return x
        if hasattr(self.module, "encode"):
            return self._bytes(self.module.encode(self.Q, x, self.scalars))
        return self._bytes(self.module.pack(self.Q, self.module.quantize(self.Q, x), self.scalars))

    def add(self, rows: NDArray[Any]) -> None:
        """Append rows that `encode` made."""
        rest = rows if self.rest is None else np.concatenate([self.rest, rows], axis=-2)
        whole = rest.shape[-2] // self.size * self.size
        self.full += [self._prepared(np.array(rest[..., i : i + self.size, :])) for i in range(0, whole, self.size)]
        self.rest = np.array(rest[..., whole:, :])

    def _prepared(self, rows: NDArray[Any]) -> Any:
        if self.Q is None:
            return rows
        packed = Packed(rows, self.scalars, self.Q.fingerprint)
        return self.module.prepare(self.Q, packed) if hasattr(self.module, "prepare") else packed

    def _bytes(self, block: Any) -> NDArray[Any]:
        if self.Q is None:
            return np.asarray(block)
        packed = block if isinstance(block, Packed) else self.module.to_packed(self.Q, block)
        return np.asarray(packed.data)

    def __iter__(self) -> Iterator[Any]:
        """The blocks in order, as attention takes them; the last one may be shorter."""
        yield from self.full
        if self.rest is not None and self.rest.shape[-2]:
            yield self._prepared(self.rest)

    def rows(self) -> NDArray[Any]:
        """All rows as one array."""
        assert self.rest is not None
        return np.concatenate([*map(self._bytes, self.full), self.rest], axis=-2)

    def decode(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The vectors of some rows, by the reference."""
        if self.Q is None:
            return rows
        reference = module_of(self.Q)
        code = reference.unpack(self.Q, Packed(rows, self.scalars, self.Q.fingerprint))
        return np.asarray(reference.dequantize(self.Q, code))

    def replaced(self, rows: NDArray[Any] | None, ops: ModuleType | None = None) -> Coded:
        """These rows instead, perhaps on another backend."""
        new = copy.copy(self)
        if self.Q is not None and ops is not None:
            new.module = check_ops(ops, self.Q)
        new.full, new.rest = [], None
        if rows is not None:
            new.add(rows)
        return new

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(int(b.nbytes) for b in self.full) + (0 if self.rest is None else int(self.rest.nbytes))


def check_ops(ops: Any, Q: Any) -> ModuleType:
    """The backend's module of the algorithm of Q, if it has what a cache needs."""
    for name, verb in ((Q.algorithm, "quantize"), ("attention", "partial")):
        if not hasattr(getattr(ops, name, None), verb):
            raise ValueError(f"ops: {getattr(ops, '__name__', ops)!r} has no {name}.{verb}")
    return getattr(ops, Q.algorithm)  # type: ignore[no-any-return]
