"""cuda_kernels as a subject of the conformance kit, on a GPU: ``turboquant-ref check cuda_kernels.conformance``."""

from __future__ import annotations

from typing import Any

import cuda_kernels
from turboquant_ref.conformance.backend import Backend

from ._launch import ready
from .codebook import nearest

ready()  # without a GPU the kit should say so, not that nothing conforms
_subject = Backend(cuda_kernels, nearest)


def __getattr__(name: str) -> Any:
    """The functions of `Backend`, as a port's module offers them."""
    return getattr(_subject, name)
