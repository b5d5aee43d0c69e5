"""turboquant 0.2.0: the same as the adapter `turboquant`, with np.trapz given back to NumPy, as before NumPy 2.4.

What the release computes where it runs: np.trapz is np.trapezoid. Nothing else is changed. Claims as there.
"""

from __future__ import annotations

import numpy as np

setattr(np, "trapz", np.trapezoid)  # noqa: B010 (the name is gone from NumPy)

from .turboquant import claims, codebook, inner_product, rotation, roundtrip, stored_bytes  # noqa: E402

__all__ = ["claims", "codebook", "inner_product", "rotation", "roundtrip", "stored_bytes"]
