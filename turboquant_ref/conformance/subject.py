"""The implementation under test: loaded and called in a process of its own, so that nothing it does can harm the kit.

Three ways in, one interface: `worker.Worker` (a Python module, file or attribute, in a worker process),
`worker.Command` (any language, `.npy` files in and out) and `Direct` (an object of this process, without protection:
for tests, and for code that is trusted).  Each has `name`, `claims`, `offers(function)` and `call(function,
*arguments) -> Answer`; every way to fail is a `CallFailed` of a named kind.  A function that is offered is an attribute
too: ``subject.pack(indices, bits)``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "FUNCTIONS",
    "Answer",
    "CallFailed",
    "Direct",
    "Subject",
    "invoke",
    "load",
    "offered_by",
    "open_subject",
    "plain",
]

FUNCTIONS = (
    *("roundtrip", "inner_product", "rotation", "codebook", "stored_bytes", "search", "attend"),
    *("pack", "unpack", "fwht", "signs", "index", "mse", "qjl", "prod", "polar", "rabitq", "attention"),
)
"""What a subject may offer: ``CHECK.md``."""


class CallFailed(Exception):
    """A call that gave no answer.

    Attributes
    ----------
    kind : {"not offered", "raised", "time limit", "died", "answer"}
        NotImplementedError or exit status 64; another exception or exit status; killed by us; ended by itself;
        not an array of numbers.
    exception : str
        The name of the exception that was raised; empty if none.
    """

    def __init__(self, kind: str, message: str, exception: str = "") -> None:
        super().__init__(message)
        self.kind, self.exception = kind, exception

    @property
    def refused(self) -> bool:
        """Whether it is a clear refusal of the argument: what an honest port does with what it does not support."""
        return self.kind == "not offered" or self.exception in ("ValueError", "TypeError", "AssertionError")


@dataclass(frozen=True, eq=False)
class Answer:
    """What a call returned, and what else it did.

    Attributes
    ----------
    value : ndarray, or dict of str to ndarray
    notes : tuple of str
        What a call must not do: "argument 0 changed", "global state: numpy.random".
    seconds : float
    """

    value: Any
    notes: tuple[str, ...]
    seconds: float


class Subject:
    """What the checks see; `Worker`, `Command` and `Direct` are its kinds."""

    name: str
    claims: Any = None
    offered: frozenset[str] = frozenset()

    def offers(self, function: str) -> bool:
        """Whether the function is there."""
        return function in self.offered

    def call(self, function: str, *arguments: Any) -> Answer:
        """Call one of `FUNCTIONS`; raises `CallFailed`."""
        raise NotImplementedError

    def close(self) -> None:
        """End its process, if it has one."""

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FUNCTIONS or name not in self.offered:
            raise AttributeError(f"{name} is not offered")
        return lambda *arguments: self.call(name, *arguments).value


# ------------------------------------------------------------------------------------ a call, in whatever process


def _generators() -> dict[str, Any]:
    """The state of the global random generators: NumPy's, Python's and, if it is loaded, torch's."""
    states: dict[str, Any] = {"random": random.getstate()}
    kind, key, *rest = np.random.get_state()  # noqa: NPY002 (the legacy state is what must be left alone)
    states["numpy.random"] = (kind, np.asarray(key).tobytes(), *rest)
    torch = sys.modules.get("torch")
    if hasattr(torch, "get_rng_state"):
        states["torch"] = torch.get_rng_state().numpy().tobytes()  # type: ignore[union-attr]
    return states


def plain(value: Any) -> Any:
    """The answer as an array of numbers, or a dict of them."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().numpy()
    array = np.array(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected an array of numbers, got {type(value).__name__} of dtype {array.dtype}")
    return array


def invoke(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    """Call it and note what it did beside answering; raises `CallFailed`."""
    arguments = tuple(a.copy() if isinstance(a, np.ndarray) else a for a in arguments)
    before = [a.tobytes() if isinstance(a, np.ndarray) else None for a in arguments]
    generators = _generators()
    start = time.perf_counter()
    try:
        value = function(*arguments)
    except NotImplementedError as error:
        raise CallFailed("not offered", f"raises NotImplementedError: {error}") from None
    except BaseException as error:  # SystemExit too
        kind = type(error).__name__
        raise CallFailed("raised", f"raises {kind}: {' '.join(str(error).split())[:200]}", kind) from error
    seconds = time.perf_counter() - start
    notes = [
        f"argument {i} changed"
        for i, (a, b) in enumerate(zip(arguments, before, strict=True))
        if b is not None and a.tobytes() != b
    ]
    after = _generators()
    notes += [f"global state: {name}" for name, state in generators.items() if after[name] != state]
    try:
        return Answer(plain(value), tuple(notes), seconds)
    except Exception as error:
        raise CallFailed("answer", str(error)) from None


def load(spec: str) -> Any:
    """The object that MODULE_OR_FILE[:NAME] names; a class is called."""
    place, _, attribute = spec.rpartition(":")
    if not place or os.sep in attribute or attribute.endswith(".py"):
        place, attribute = spec, ""
    if place.endswith(".py") or os.sep in place:
        path = Path(place).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {place}")
        sys.path.insert(0, str(path.parent))
        module_spec = importlib.util.spec_from_file_location(path.stem, path)
        if module_spec is None or module_spec.loader is None:
            raise ImportError(f"{place} is not a Python file")
        found: Any = importlib.util.module_from_spec(module_spec)
        sys.modules[path.stem] = found
        module_spec.loader.exec_module(found)
    else:
        found = importlib.import_module(place)
    for name in filter(None, attribute.split(".")):
        found = getattr(found, name)
    return found() if isinstance(found, type) else found


def offered_by(found: Any) -> frozenset[str]:
    """Which of `FUNCTIONS` it has."""
    return frozenset(name for name in FUNCTIONS if callable(getattr(found, name, None)))


class Direct(Subject):
    """An object of this process: no time limit, and a crash is a crash."""

    def __init__(self, found: Any, name: str = "") -> None:
        found = found() if isinstance(found, type) else found
        self.found, self.claims, self.offered = found, getattr(found, "claims", None), offered_by(found)
        self.name = name or getattr(found, "__name__", type(found).__name__)

    def call(self, function: str, *arguments: Any) -> Answer:
        """Call one of `FUNCTIONS`."""
        return invoke(getattr(self.found, function), arguments)


def open_subject(spec: Any, limit: float = 60.0) -> Subject:
    """A `worker.Worker` for a string, a `Direct` for any other object."""
    from .worker import Worker

    return Worker(spec, limit) if isinstance(spec, str) else Direct(spec)
