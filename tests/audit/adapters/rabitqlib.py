"""rabitqlib 0.7.1: `IvfIndex(dim, max_elements, num_clusters, nbits, metric="ip")`, C++; RaBitQ by its authors.

Claims: RaBitQ's unbiased estimate of inner products, 1 to 9 bits. That is the variant rabitq. One cluster with
centroid 0. `search` with high_accuracy returns 1 - estimate, of which each query's own is taken. There is no seed.
"""

from __future__ import annotations

import numpy as np
from rabitqlib import IvfIndex

from ..search import own_scores

claims = "rabitq"


def inner_product(x, y, bits, seed):
    n, d = x.shape
    x, y = (np.ascontiguousarray(a, dtype=np.float32 if a.dtype == np.float64 else None) for a in (x, y))
    index = IvfIndex(d, n, 1, bits, metric="ip")
    index.build(x, np.zeros((1, d), np.float32), np.zeros(n, np.uint32))
    rows, distances = index.search(y, n, 1, high_accuracy=True)
    return 1 - own_scores(distances, rows)
