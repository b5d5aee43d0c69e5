"""turbovec 1.1.2: `TurboQuantIndex(dim, bit_width)`, Rust; uncalibrated, as it is without `calibrate`.

Claims: TurboQuant at 2 to 4 bits (summary of the package). Its scores use the scale ||x|| / <u, x̂> of each vector
(issue 35 of its repository), which is that of the variant mse-unbiased. It does not decode; `search` for all rows
gives the scores, of which each query's own is taken. The rotation is fixed: there is no seed. dim is a multiple of
8.
"""

from __future__ import annotations

import numpy as np
from turbovec import TurboQuantIndex

from ..search import own_scores

claims = "mse-unbiased"


def search(x, y, k, bits, seed):
    if bits not in (2, 3, 4):
        raise NotImplementedError("bit_width is 2 to 4")
    x, y = (np.ascontiguousarray(a, dtype=np.float32 if a.dtype == np.float64 else None) for a in (x, y))
    index = TurboQuantIndex(x.shape[1], bits)
    index.add(x)
    return index.search(y, k)


def inner_product(x, y, bits, seed):
    return own_scores(*search(x, y, len(x), bits, seed))


def stored_bytes(d, bits):
    """What a file grows by: 4096 vectors more, so that blocks are full."""
    if bits not in (2, 3, 4):
        raise NotImplementedError("bit_width is 2 to 4")
    x = np.random.default_rng(0).standard_normal((8192, d), dtype=np.float32)
    sizes = []
    for n in (4096, 8192):
        index = TurboQuantIndex(d, bits)
        index.add(x[:n])
        sizes.append(len(index.to_bytes()))
    return (sizes[1] - sizes[0]) // 4096
