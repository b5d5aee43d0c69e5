"""numba_kernels as a subject of the conformance kit: ``turboquant-ref check numba_kernels.conformance``."""

from __future__ import annotations

from typing import Any

import numpy as np

import numba_kernels
from turboquant_ref.conformance.backend import Backend

from ._indices import nearest

_subject = Backend(numba_kernels, lambda book, t: nearest(book, np.asarray(t))[0])


def __getattr__(name: str) -> Any:
    """The functions of `Backend`, as a port's module offers them."""
    return getattr(_subject, name)
