"""NumPy to torch and back, for the adapters: float64 becomes float32, torch's default; other dtypes stay."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

torch.set_num_threads(1)


def tensor(x: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32 if x.dtype == np.float64 else None))


def total_bytes(*parts: torch.Tensor | NDArray[np.generic]) -> int:
    """Bytes of the arrays as they lie in memory."""
    return sum(int(p.nbytes) for p in parts)
