"""A layer's codes in pages with a block table, and back; the public names are in `cache`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..vectors import check_integer
from .layer import Layer


@dataclass(frozen=True, eq=False)
class Pages:
    """The content of a layer in pages of equal size, as vLLM keeps it: sequence s has its tokens in the pages table[s].

    Attributes
    ----------
    keys, values : tuple of arrays (pages, rows a page, heads, bytes)
        uint8 packed records, or vectors (…, d) where a side is not quantized: one array for all heads if they have one
        quantizer, else one a head.  Rows after the last are zero.
    table : (sequences, pages a sequence) int32
        A page may be anywhere.
    lengths : (sequences,) int32
        Tokens that each has in its pages.
    exact : mapping
        The tokens before and after those, as they came: sinks.k, sinks.v, window.k, window.v, (*batch, kv_heads, n, d).
    """

    keys: tuple[NDArray[Any], ...]
    values: tuple[NDArray[Any], ...]
    table: NDArray[np.int32]
    lengths: NDArray[np.int32]
    exact: dict[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Bytes of all of it, unused rows and the table included."""
        arrays = (*self.keys, *self.values, self.table, self.lengths, *self.exact.values())
        return sum(int(a.nbytes) for a in arrays)


def _span(Q: Any) -> int:
    """Tokens of one row."""
    return int(getattr(Q, "vectors_per_record", 1))


def to_pages(layer: Layer, block_size: int = 16) -> Pages:
    """The quantized tokens of a layer in pages of `block_size` tokens, a block table, and the rest as it is.

    Parameters
    ----------
    layer : Layer
    block_size : int
        A multiple of the tokens that share a record (1, but for `minmax` per channel).
    """
    size = check_integer(block_size, "block_size", 1)
    if size % layer.span:
        raise ValueError(f"block_size: expected a multiple of {layer.span}, the tokens of a record, got {size}")
    arrays = layer.arrays()
    sequences, per_sequence = math.prod(arrays["window.k"].shape[:-3]), -(-layer.quantized // size)

    def paged(rows: NDArray[Any], span: int) -> NDArray[Any]:
        *batch, heads, n, width = rows.shape
        page = size // span
        padded = np.zeros((*batch, heads, per_sequence * page, width), rows.dtype)
        padded[..., :n, :] = rows
        split = padded.reshape(sequences, heads, per_sequence, page, width)
        pages = np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4))
        return pages.reshape(sequences * per_sequence, page, heads, width)

    keys, values = (
        tuple(paged(arrays[f"{name}.{h}"], _span(pair[s])) for h, pair in enumerate(layer.quantizers))
        for s, name in enumerate(("keys", "values"))
    )
    table = np.arange(sequences * per_sequence, dtype=np.int32).reshape(sequences, per_sequence)
    exact = {name: a for name, a in arrays.items() if name.startswith(("sinks", "window"))}
    return Pages(keys, values, table, np.full(sequences, layer.quantized, np.int32), exact)


def from_pages(layer: Layer, pages: Pages) -> Layer:
    """A layer with the quantizers and options of `layer` and the content of pages, wherever the table says they are.

    Raises
    ------
    ValueError
        If the pages are not of such a layer, or the sequences are of different lengths (a layer for each, then).
    """
    lengths = np.unique(pages.lengths)
    if lengths.size > 1:
        raise ValueError(f"pages: sequences of {lengths.min()} to {lengths.max()} tokens; a batch has one length")
    n = int(lengths[0]) if lengths.size else 0
    window = pages.exact["window.k"]
    arrays = dict(pages.exact)
    for name, side, s in (("keys", pages.keys, 0), ("values", pages.values, 1)):
        for h, (page, pair) in enumerate(zip(side, layer.quantizers, strict=True)):
            if pages.table.size and not 0 <= pages.table.min() <= pages.table.max() < len(page):
                raise ValueError(f"pages: the table names pages up to {pages.table.max()}, there are {len(page)}")
            rows = page[pages.table]  # (sequences, pages a sequence, rows, heads, width)
            sequences, n_pages, per_page, heads, width = rows.shape
            rows = rows.transpose(0, 3, 1, 2, 4).reshape(sequences, heads, n_pages * per_page, width)
            rows = rows[:, :, : n // _span(pair[s])]
            arrays[f"{name}.{h}"] = rows.reshape(*window.shape[:-3], *rows.shape[1:])
    return layer.with_arrays(arrays)
