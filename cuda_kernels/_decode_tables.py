"""Tables of the fast kernels that depend on a quantizer alone: integer codebooks, and which coordinate is where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["codebook_words", "key_dimensions"]

_SCALES = 8001


def codebook_words(centroids: Any) -> tuple[NDArray[np.uint32], float]:
    """A codebook of 4, 8 or 16 numbers as PRMT tables of 16-bit integers 256 hi + lo, and their unit.

    Of a plane of bytes, 16 entries are two tables C = c_0 … c_7 and C' = c_8 … c_15. PRMT with an index of the other
    half gives the sign of table byte (index mod 8), 0 or -1, so that c_x + [c'_x < 0] and c'_x + [c_x < 0] stand in the
    tables, and both look-ups sum to the entry. The unit is the one, of 8,001 tried, with the least largest error.

    Returns
    -------
    words : (8,) or (4,) uint32
        The hi plane's tables, then the lo plane's.
    unit : float
        Of a hi byte: entries are unit (hi + lo / 256).
    """
    c = np.asarray(centroids, np.float64)
    units = np.abs(c).max() / (126 * 256 * np.linspace(0.5, 1, _SCALES))
    rounded = np.rint(c / units[:, None])
    errors = np.abs(rounded * units[:, None] - c).max(axis=1)
    for best in np.argsort(errors):
        numbers = rounded[best].astype(np.int64)
        low = (numbers + 128 & 255) - 128
        planes = [(numbers - low) >> 8, low]
        tables = [_corrected(p[:8], p[8:]) if len(c) == 16 else np.resize(p, 8) for p in planes]
        if all(table is not None for table in tables):
            return np.concatenate(tables).astype(np.int8).view(np.uint32), 256 * float(units[best])
    raise ValueError("centroids: no unit gives signed tables")


def _corrected(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The two tables, or None: 127 with a negative partner would need 128."""
    p, r = np.zeros_like(first), np.zeros_like(first)
    done = np.zeros(len(first), bool)
    for p_sign, r_sign in np.ndindex(2, 2):
        a, b = first + r_sign, second + p_sign
        fits = ((a < 0) == p_sign) & ((b < 0) == r_sign) & (np.maximum(a, b) <= 127) & ~done
        p[fits], r[fits], done = a[fits], b[fits], done | fits
    return np.concatenate([p, r]) if done.all() else None


def key_dimensions(d: int, bits: int) -> NDArray[np.int64]:
    """Coordinate of byte i of B register r of k-step s in lane t of a quad: (d / 32, 2, 4, 4), axes s, r, t, i."""
    s, r, t, i = np.ogrid[: d // 32, :2, :4, :4]
    if bits == 4:
        return d // 4 * t + 8 * s + 4 * r + i
    return d // 4 * t + 16 * (s // 2) + 2 * (4 * r + i) + s % 2
