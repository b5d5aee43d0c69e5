"""A progress bar on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")


def track(items: Iterable[T], what: str) -> Iterator[T]:
    """The items, with tqdm's bar on standard error if that is a terminal and tqdm is there."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield from items
        return
    total = len(items) if isinstance(items, Sized) else None
    yield from tqdm(items, desc=what, total=total, leave=False, disable=not sys.stderr.isatty())
