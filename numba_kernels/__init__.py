"""TurboQuant on the CPU: the words of `turboquant_ref`, compiled by Numba.

    import numba_kernels as nk
    code = nk.mse.quantize(Q, x)          # Q and code are those of turboquant_ref.mse

`rotation`, `mse`, `qjl`, `prod`, `packing`, `attention`, `search`: modules of the reference's names and signatures.
Where a result differs from the reference's, it differs by rounding; each module says by how much.

Nothing is compiled at import. The first call of a function compiles it, in seconds, and keeps it on disk. `threads` and
`set_threads` say how many threads a call may use; `LEVEL` is the instruction set, "avx512", "avx2" or "portable".
"""

from . import attention, mse, packing, prod, qjl, rotation, search
from ._jit import LEVEL, set_threads, threads

__all__ = [
    "LEVEL",
    "attention",
    "mse",
    "packing",
    "prod",
    "qjl",
    "rotation",
    "search",
    "set_threads",
    "threads",
]
