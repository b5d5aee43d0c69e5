"""What a check found: the one record that every level of the kit returns and every report prints."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes
    ----------
    level : int
        0 exact primitives, 1 deterministic algorithms, 2 statistics.
    check : str
        What was checked: at levels 0 and 1 "algorithm.stage", the stage that differs first if any does.
    passed : bool or None
        None: the subject does not offer it, which is not held against it.
    detail : str
        One line for a person: the values met, what was expected, what was allowed.
    flags : tuple of str
        Of the golden vector, if it is one: keys of its file's `notes`, which say what mistake the case catches.
    case : str
        The golden vector, "mse-12"; empty if it is none.
    """

    level: int
    check: str
    passed: bool | None
    detail: str
    flags: tuple[str, ...] = ()
    case: str = ""
