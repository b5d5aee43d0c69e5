"""Algorithm 1 in one kernel: when the fast kernels apply, their launches, and calls whose arguments are fixed.

The text is in `quantize_wide`, and in `quantize_narrow` for dimensions with short chunks. They take every d = m 2^k
whose vector fits a warp's registers, 1 to 4 bits, one round or two, every scale rule; x in float32, float16 or
bfloat16. The plain kernels do the rest, and are right everywhere.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from turboquant_ref.mse import SCALES, Quantizer
from turboquant_ref.rotation import Structured

from . import _launch
from .layout import Prepared, empty, form_of, to_host
from .quantize_plans import (
    Narrow,
    Plan,
    Variant,
    factor_of,
    narrow_of,
    pieces_of,
    plan_of,
    plane_table,
    sign_table,
)
from .rotation import kept
from .vectors import check_device, device, home_of, sizes

__all__ = ["Call", "prepared_call", "text_of", "variant_of"]

REGISTERS, RESERVED = 65536, 1024
"""Registers of a multiprocessor; bytes of shared memory that every block takes besides its own."""
SHAPES = {64: (4, 96), 128: (4, 96), 256: (4, 112), 512: (8, 80), 1024: (8, 80), 1536: (10, 96), 2048: (8, 128)}
"""Warps of a block, and registers of a thread, by dimension: the most warps at once of those without spills."""
IN_PLANES = {128: (4, 104)}
"""The same for 3 bits in planes, where it differs."""
OTHERS = 4, None
"""For other dimensions, and for scale rules that look centroids up: as many registers as the compiler likes."""


def variant_of(Q: Quantizer, source: str, scalars: str, **shape_of_launch: Any) -> Variant | None:
    """What the kernel is a function of; None where the plain kernels must do the work.

    Parameters
    ----------
    source, scalars : str
        The dtype of x, and that of the stored scales.
    **shape_of_launch
        Fields of `Variant` that change its speed only.
    """
    rotation = Q.rotation
    if not isinstance(rotation, Structured) or rotation.rounds > 2:
        return None
    plan, pieces, form = plan_of(Q.d) or narrow_of(Q.d), pieces_of(Q.codebook), form_of(Q)
    if plan is None or pieces is None or source not in ("float32", "float16", "bfloat16") or scalars == "float64":
        return None
    if isinstance(plan, Narrow) and (form.planes or source != "float32"):
        return None
    shapes = {**SHAPES, **(IN_PLANES if form.planes else {})}
    warps, registers = shapes.get(Q.d, OTHERS) if Q.scale == "norm" else OTHERS
    fields = {
        "plan": plan,
        "levels": tuple((tuple(map(int, a)), tuple(map(int, b))) for a, b in rotation.levels),
        "rounds": rotation.rounds,
        "factor": factor_of(plan, rotation),
        "pieces": tuple(pieces),
        "bits": Q.bits,
        "in_planes": form.planes,
        "source": source,
        "scalars": scalars,
        "rule": SCALES.index(Q.scale),
        "warps": warps,
        "registers": registers,
    }
    return Variant(**{**fields, **shape_of_launch})


def text_of(variant: Variant) -> ModuleType:
    """The module that has the kernel of a variant."""
    from . import quantize_narrow, quantize_wide

    return quantize_narrow if isinstance(variant.plan, Narrow) else quantize_wide


def _shared_bytes(variant: Variant) -> int:
    return int(text_of(variant).shared_bytes(variant.plan, variant.warps)) + RESERVED


class Call:
    """`encode` with its arguments fixed: a launch quantizes what is then in `x`, and can be captured in a graph.

    Attributes
    ----------
    out : Prepared
        Where the codes go, the same arrays each time.
    function : _launch.Function
        The compiled kernel.
    """

    def __init__(self, Q: Quantizer, variant: Variant, x: Any, scalars: str) -> None:
        home, shape = home_of(x), sizes(x)[:-1]
        plan, warps, text = variant.plan, variant.warps, text_of(variant)
        self.home, self.out = home, empty(Q, shape, scalars, home)
        self._refused = device(np.zeros(1, np.int32), home)
        table = kept(Q, "quantize", home, lambda: _table(plan, Q))
        dynamic = _shared_bytes(variant) - RESERVED
        self.function = _launch.compiled(text.kernel, variant, dynamic=dynamic, registers=variant.registers)
        of_registers = REGISTERS // (32 * warps * 8 * _launch.blocks(self.function.registers, 8))
        resident = max(1, min(of_registers, _launch.shared_memory() // (dynamic + RESERVED), 64 // warps))
        n = int(np.prod(shape))
        grid = min(_launch.blocks(n, plan.vectors * warps), _launch.processors() * resident)
        high = self.out.codes if self.out.high is None else self.out.high
        self._arrays = (x, self.out.codes, high, self.out.scales, table, self._refused)
        self._launch = self.function.fix((grid, 1, 1), 32 * warps, *(home.address(a) for a in self._arrays), n)

    def __call__(self) -> Prepared:
        """Launch, on the caller's stream; does not wait."""
        self._launch(self.home.stream())
        return self.out

    def refused(self) -> bool:
        """Wait, and say whether x held what `encode` refuses: what is not finite, a norm outside its dtype's range."""
        return bool(to_host(self._refused)[0])


def _table(plan: Plan, Q: Quantizer) -> np.ndarray[Any, Any]:
    centroids = np.zeros(16, np.float32)
    centroids[: len(Q.codebook.centroids)] = Q.codebook.centroids
    return np.concatenate([sign_table(plan, Q.rotation).ravel(), plane_table(plan, Q.rotation).ravel(), centroids])


def prepared_call(Q: Quantizer, x: Any, scalars: str = "float32", **shape_of_launch: Any) -> Call | None:
    """The `Call` for vectors x (…, d) that lie on the device; None where no fast kernel applies."""
    if Q.algorithm != "mse" or not _launch.is_fast():
        return None
    check_device(x, Q.d, "x")
    home = home_of(x)
    x = home.take(x)
    variant = variant_of(Q, _launch.name_of(x), scalars, **shape_of_launch)
    if variant is None or _shared_bytes(variant) > _launch.shared_memory():
        return None
    if not 0 < int(np.prod(sizes(x)[:-1])) < 1 << 31 or home.address(x) % 16:
        return None
    return Call(Q, variant, x, scalars)
