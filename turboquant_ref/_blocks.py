"""Vectors by id in blocks: what `search.Index` holds.

A block is ascending by id, so that a tie by row is a tie by id and an id is found by bisection, without a table of
ids beside the ids. Codes are in a backend's Prepared form, which only its verbs can read; rows move through Packed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .packing import Packed

__all__ = ["RANGES", "Block", "Ids", "Places", "as_ids", "find", "gather", "merge", "rounded"]

Reals = NDArray[np.floating[Any]]
Ids = NDArray[np.int64]
Places = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Block and row of each of several vectors."""

RANGES = {"float16": (2.0**-14, 65504.0), "float32": (2.0**-126, float(np.finfo(np.float32).max))}
"""The dtypes that originals can be kept in, each with its smallest normal and its largest number."""


@dataclass(frozen=True, eq=False)
class Block:
    """Vectors ascending by id: codes (a backend's Prepared), norms if the codes lack them, and what is kept beside."""

    codes: Any
    ids: Ids
    norms: Reals | None
    kept: NDArray[Any] | None


def as_ids(ids: ArrayLike) -> Ids:
    """Ids (n,) as int64; anything but integers from 0 to 2^63 - 1 is refused."""
    a = np.asarray(ids)
    a = a.astype(np.int64) if a.size == 0 else a
    if a.dtype.kind not in "iu":
        raise TypeError(f"ids: expected integers, got {a.dtype}")
    if a.ndim != 1:
        raise ValueError(f"ids: expected shape (n,), got {a.shape}")
    if a.size and (int(a.min()) < 0 or int(a.max()) >= 2**63):
        raise ValueError(f"ids: expected 0 to 2^63 - 1, got {int(a.min())} to {int(a.max())}")
    return a.astype(np.int64)


def rounded(rows: Reals, keep: str) -> NDArray[Any]:
    """Originals in a dtype of `RANGES`: every coordinate within 2^-11 (2^-24) of its row's largest magnitude.

    That magnitude must be 0 or in the dtype's normal range, or it is a ValueError.
    """
    low, high = RANGES[keep]
    largest = np.abs(rows).max(axis=-1)
    bad = (largest > high) | ((largest > 0) & (largest < low))
    if bad.any():
        found = f"{largest[bad][0]:.6g} of row {int(np.argmax(bad))}"
        raise ValueError(f"x: the largest magnitude {found} is outside {keep}'s normal range, {low:.3g} to {high:.6g}")
    return rows.astype(keep)


def find(blocks: Sequence[Block], ids: Ids) -> Places:
    """Block and row of each id; block -1 where there is none."""
    where, row = np.full(ids.shape, -1, np.intp), np.zeros(ids.shape, np.intp)
    for i, block in enumerate(blocks):
        at = np.minimum(np.searchsorted(block.ids, ids), len(block.ids) - 1)
        here = block.ids[at] == ids
        where[here], row[here] = i, at[here]
    return where, row


def gather(at: Places, arrays: Sequence[Any]) -> NDArray[Any]:
    """The rows at these places, from one array a block."""
    where, row = at
    found = np.empty((len(where), *arrays[0].shape[1:]), arrays[0].dtype)
    for i, array in enumerate(arrays):
        found[where == i] = array[row[where == i]]
    return found


def merge(
    blocks: Sequence[Block],
    packed: Callable[[Block], Packed],
    prepared: Callable[[NDArray[np.uint8]], Any],
    among: NDArray[np.bool_] | None = None,
) -> Block:
    """One block of several, ascending by id; only of the rows that `among`, one flag a row, says."""
    ids = np.concatenate([block.ids for block in blocks])
    order = np.argsort(ids, kind="stable")
    order = order if among is None else order[among[order]]

    def joined(parts: list[Any]) -> Any:
        return None if parts[0] is None else np.concatenate(parts)[order]

    codes = prepared(joined([packed(block).data for block in blocks]))
    return Block(codes, ids[order], joined([b.norms for b in blocks]), joined([b.kept for b in blocks]))
