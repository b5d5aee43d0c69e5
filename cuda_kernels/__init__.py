"""TurboQuant on a GPU: the words of `turboquant_ref`, as kernels in pure Python.

    import turboquant_ref as tq, cuda_kernels as ck

    Q = tq.mse.setup(d=128, bits=4, rng=0, rotation="structured")
    code = ck.mse.quantize(Q, x)             # as tq.mse.quantize; arrays stay where x is
    keys = ck.mse.encode(Q, x)               # Prepared: packed in device memory, one pass over x

The map. The same names and signatures as the reference's modules:

mse, qjl, prod          quantize, dequantize, inner_product, weighted_sum, to_original, trace, pack, unpack,
                        encode, prepare, to_packed
rotation                apply, inverse; one_round
codebook, packing       nearest, look_up; pack_bits, unpack_bits
logits, attention       from Prepared, contiguous or paged
search                  topk
conformance             all of it as the conformance kit asks for it

What they rest on:

quantize_plain          a kernel a line of the paper: arrays, shared memory, `syncthreads`; runs in the simulator too
quantize                all of Algorithm 1 in one kernel, `quantize_wide` or, for dimensions such as 200,
                        `quantize_narrow`; `quantize_plans` says where everything is, `quantize_programs` what is done
layout                  Prepared, the form of codes in device memory
vectors, scores         checks, norms, and what estimates share
machine, registers      straight-line programs on registers: emitted as machine code, or run on NumPy
ptx                     the only file that names PTX
_launch                 whose arrays these are, launches, errors

Arrays may be of NumPy (copied there and back), CuPy, PyTorch, JAX or Numba (read where they are). Importing needs
neither a GPU nor numba-cuda; the first call says what is missing. NUMBA_ENABLE_CUDASIM=1 runs the plain kernels on the
CPU.
"""

from __future__ import annotations

from . import attention, codebook, layout, logits, mse, packing, prod, qjl, rotation, search

__all__ = ["attention", "codebook", "layout", "logits", "mse", "packing", "prod", "qjl", "rotation", "search"]
