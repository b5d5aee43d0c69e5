"""The types of vectors, and how a function gets its compiled form: short words for LLVM's, for lowering alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import lower_builtin, models, register_model

N = 16
INT1, INT8, INT16, INT32, INT64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()


def vector(lane: ir.Type, n: int = N) -> ir.VectorType:
    """n lanes of a type."""
    return ir.VectorType(lane, n)


class _Lanes(types.Type):
    """The Numba type of a vector. Each is a class that can be imported by its name: the cache on disk refers to it."""

    def __init__(self) -> None:
        super().__init__(name=type(self).__name__)


class F32x16(_Lanes):
    """16 float32."""


class F64x16(_Lanes):
    """16 float64."""


class I32x16(_Lanes):
    """16 int32."""


class U32x16(_Lanes):
    """16 uint32, or 64 bytes."""


class Mask16(_Lanes):
    """16 flags."""


def _held_as(lane: ir.Type) -> type[models.PrimitiveModel]:
    class Model(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, vector(lane))

    return Model


for _cls, _lane in ((F32x16, FLOAT), (F64x16, DOUBLE), (I32x16, INT32), (U32x16, INT32), (Mask16, INT1)):
    register_model(_cls)(_held_as(_lane))

F, D, I, U, M = F32x16(), F64x16(), I32x16(), U32x16(), Mask16()
VECTOR_OF_FLOATS = vector(FLOAT)
FLOATS = {F: "v16f32", D: "v16f64"}
TUPLES = {t: types.UniTuple(t, N) for t in (F, D, I, U)}
Lower = Callable[..., Any]


def lowers(returns: Any, *takes: Any, of: Any = None) -> Callable[[Lower], Lower]:
    """Register ``lower(builder, *values)`` as the compiled form of function `of` for arguments of these types."""

    def register(lower: Lower) -> Lower:
        class Template(ConcreteTemplate):
            cases = [signature(returns, *takes)]  # noqa: RUF012

        infer_global(of)(Template)

        def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return lower(builder, *args)

        lower_builtin(of, *takes)(emit)
        return lower

    return register


def call(builder: Any, name: str, returns: ir.Type, *args: Any) -> Any:
    """A call of an LLVM intrinsic, by its name."""
    kind = ir.FunctionType(returns, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def lane_numbers(values: Any) -> ir.Constant:
    """A vector of int32 constants."""
    return ir.Constant(vector(INT32, len(values)), list(values))


def constant(kind: ir.Type, value: Any, n: int = N) -> ir.Constant:
    """The same constant in n lanes."""
    return ir.Constant(vector(kind, n), [value] * n)


def shuffle(builder: Any, a: Any, b: Any, lanes: Any) -> Any:
    """The lanes of a, and from the number of them on those of b, in the order of `lanes`."""
    return builder.shuffle_vector(a, b, lane_numbers(lanes))


def splatted(builder: Any, x: Any, n: int = N) -> Any:
    """A scalar value in n lanes."""
    undefined = ir.Constant(vector(x.type, n), ir.Undefined)
    return shuffle(builder, builder.insert_element(undefined, x, ir.Constant(INT32, 0)), undefined, [0] * n)
