"""For indexes that only search: each query's estimate of its own row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def own_scores(scores: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """The score of row i for query i, of (n, n) results of a search; NaN where the search left it out."""
    found = np.full(len(scores), np.nan)
    query, place = np.nonzero(rows == np.arange(len(rows))[:, None])
    found[query] = scores[query, place]
    return found
