"""When a value is right: the four kinds of equality of SPEC.md, section 8, as rules that say what is wrong.

A rule takes the value of one stage, as a stranger's code or file has it, and returns None, or what differs, its place
first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import packing
from .golden import Case

__all__ = [
    "ROUNDOFF",
    "SMALLEST",
    "Rule",
    "Wrong",
    "bits_of_signs",
    "close",
    "code",
    "exactly",
    "hexadecimal",
    "hexadecimals",
    "indices_of",
    "near",
    "record",
    "signs_of",
]

Floats = NDArray[np.float64]
Rule = Callable[[Any], str | None]
Answers = dict[str, Any]

ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53, "float16": 2.0**-11, "bfloat16": 2.0**-8}
SMALLEST = {"float32": 2.0**-149, "float64": 2.0**-1074}


class Wrong(Exception):
    """What is wrong with a value, the place first."""


def _array(value: Any, shape: tuple[int, ...], *, whole: bool = False) -> Floats:
    """The value as float64 numbers of that shape; Wrong says what it is instead."""
    try:
        a = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise Wrong(f"is not an array of shape {shape}: {error}") from error
    if a.dtype.kind not in ("iufb" if isinstance(value, np.ndarray) else "iuf"):
        raise Wrong(f"holds {short(value)}, expected numbers of shape {shape}")
    if a.shape != shape:
        raise Wrong(f"has shape {a.shape}, expected {shape}")
    b = a.astype(np.float64)
    bad = np.argwhere(~np.isfinite(b))
    if len(bad):
        raise Wrong(f"{_place(tuple(bad[0]))}is {b[tuple(bad[0])]}, expected a finite number")
    if whole and np.any(b != np.rint(b)):
        where = tuple(np.argwhere(b != np.rint(b))[0])
        raise Wrong(f"{_place(where)}is {b[where]!s}, expected an integer")
    return b


def short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _place(index: tuple[Any, ...]) -> str:
    return "".join(f"[{int(i)}]" for i in index) + " " * bool(index)


def close(expected: Floats, bound: Floats | float) -> Rule:
    """Within the bound of the expected numbers."""

    def rule(value: Any) -> str | None:
        a = _array(value, expected.shape)
        allowed = np.broadcast_to(bound, expected.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.abs(a - expected)
        bad = np.argwhere(~(off <= allowed))
        if not len(bad):
            return None
        at = tuple(bad[0])
        many = f" ({len(bad)} of {expected.size} differ)" if expected.size > 1 else ""
        between = f"off by {off[at]:.3g}, allowed {allowed[at]:.3g}"
        return f"{_place(at)}is {float(a[at])!r}, expected {float(expected[at])!r}: {between}{many}"

    return rule


def near(expected: float, bound: float) -> Rule:
    """`close` for a single number."""
    return close(np.asarray(expected, dtype=np.float64), bound)


def exactly(expected: Any, *, whole: bool = True) -> Rule:
    """Equal to the bit; -0 and 0 are the same number."""
    wanted = np.asarray(expected, dtype=np.float64)

    def rule(value: Any) -> str | None:
        a = _array(value, wanted.shape, whole=whole)
        bad = np.argwhere(a != wanted)
        if not len(bad):
            return None
        at = tuple(bad[0])
        shown = [f"{v:.0f}" if whole else repr(float(v)) for v in (a[at], wanted[at])]
        return f"{_place(at)}is {shown[0]}, expected exactly {shown[1]} ({len(bad)} of {wanted.size} differ)"

    return rule


def hexadecimal(expected: str) -> Rule:
    """Equal hexadecimal text, in either case."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"is {short(value)}, expected hexadecimal text"
        return None if value.lower() == expected else _bytes_differ(value.lower(), expected)

    return rule


def hexadecimals(expected: list[str]) -> Rule:
    """`hexadecimal` for a list of texts."""

    def rule(value: Any) -> str | None:
        if not isinstance(value, list) or len(value) != len(expected):
            found = f"{len(value)}" if isinstance(value, list) else short(value)
            return f"has {found}, expected a list of {len(expected)} hexadecimal texts"
        wrong = ((i, hexadecimal(wanted)(got)) for i, (got, wanted) in enumerate(zip(value, expected, strict=True)))
        return next((f"[{i}] {text}" for i, text in wrong if text), None)

    return rule


def _bytes_differ(got: str, wanted: str) -> str:
    if len(got) != len(wanted):
        return f"has {len(got) / 2:g} bytes, expected {len(wanted) // 2}: {short(got)} for {short(wanted)}"
    i = next(i for i in range(0, len(wanted), 2) if got[i : i + 2] != wanted[i : i + 2])
    return (
        f"byte {i // 2} is {got[i : i + 2]}, expected {wanted[i : i + 2]} (all of it: {short(got)} for {short(wanted)})"
    )


def code(expected: Floats, t: Floats, boundaries: Floats, bound: Floats, limit: int) -> Rule:
    """Indices of t: equal unless each boundary between the two is within the bound of t."""

    def rule(value: Any) -> str | None:
        a = _array(value, expected.shape, whole=True)
        out = np.argwhere((a < 0) | (a >= limit))
        if len(out):
            return f"{_place(tuple(out[0]))}is {a[tuple(out[0])]:.0f}, allowed are 0 to {limit - 1}"
        for at in map(tuple, np.argwhere(a != expected)):
            low, high = sorted((int(a[at]), int(expected[at])))
            crossed = boundaries[low:high]
            if bound[at] == 0 or np.any(np.abs(crossed - t[at]) > bound[at]):
                differ = f"{np.count_nonzero(a != expected)} of {a.size} differ"
                far = float(np.max(np.abs(crossed - t[at])))
                why = f"{far:.3g} from the boundary {float(crossed[np.argmax(np.abs(crossed - t[at]))])!r}"
                return f"{_place(at)}is {a[at]:.0f}, expected {expected[at]:.0f}: {float(t[at])!r} is {why} ({differ})"
        return None

    return rule


def indices_of(value: Any, shape: tuple[int, ...]) -> Floats:
    """Whole numbers of that shape; Wrong says what they are instead."""
    return _array(value, shape, whole=True)


def signs_of(expected: Floats, projection: Floats, bound: Floats) -> Rule:
    """Signs, as bits or as +1 and -1: equal unless 0 is within the bound of the projection."""
    judged = code(expected, projection, np.zeros(1), bound, 2)

    def rule(value: Any) -> str | None:
        signs = _array(value, expected.shape, whole=True)
        if np.any(signs == -1) and np.any(signs == 0):
            zero = tuple(np.argwhere(signs == 0)[0])
            return f"{_place(zero)}is 0 where others are -1; the sign of 0 is +1"
        return judged(bits_of_signs(signs))

    return rule


def bits_of_signs(signs: Floats) -> Floats:
    """+1 and -1 as 1 and 0; bits stay."""
    return np.where(signs == -1, 0.0, signs)


def record(
    case: Case,
    streams: list[tuple[str, Floats, Rule]],
    sizes: list[tuple[int, int]],
    scalars: list[tuple[float, float]],
    answers: Answers,
) -> Rule:
    """The record: streams exactly those of the indices and signs that were given, if they were; scalars to rounding."""
    kind = case.group["scalars"]
    layout = packing.Record(tuple(sizes), tuple(packing.Scalar(f"scalar {i}") for i in range(len(scalars))))

    def rule(value: Any) -> str | None:
        if not isinstance(value, str):
            return f"is {short(value)}, expected hexadecimal text"
        try:
            data = np.frombuffer(bytes.fromhex(value), dtype=np.uint8)
            found, values = layout.unpack(packing.Packed(data, kind, b""), b"")
        except ValueError as error:
            return f"cannot be read: {error}; it is {short(value)}, expected {case.test['outputs']['packed']}"
        for (name, numbers, judged), got in zip(streams, found, strict=True):
            wrong = exactly(numbers)(got) if name in answers else judged(got)
            if wrong:
                return f"holds other {name}: {wrong}; it is {short(value)}, expected {case.test['outputs']['packed']}"
        for i, ((expected, bound), got_scalar) in enumerate(zip(scalars, values, strict=True)):
            allowed = bound + 2 * abs(expected) * ROUNDOFF[kind]
            wrong = near(expected, allowed)(float(got_scalar))
            if wrong:
                return f"scalar {i} {wrong}"
        return None

    return rule
