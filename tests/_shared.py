"""One test body for several backends: the tests of a reference module, with the backend's module in its place."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from types import ModuleType
from typing import Any


def copy_of(name: str, **replaced: Any) -> ModuleType:
    """A fresh copy of the test module `name` in which the globals `replaced` are others; of its `_checks` too."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if hasattr(module, "_checks"):
        replaced["_checks"] = copy_of("_checks", **replaced)
    vars(module).update({key: value for key, value in replaced.items() if hasattr(module, key)})
    return module


def bodies(name: str, leave_out: Iterable[str], **replaced: Any) -> dict[str, Any]:
    """The tests of the module `name` but some, for ``globals().update(…)``.

    Raises
    ------
    KeyError
        If one to leave out is not there.
    """
    tests = {key: value for key, value in vars(copy_of(name, **replaced)).items() if key.startswith("test_")}
    for key in leave_out:
        del tests[key]
    return tests
