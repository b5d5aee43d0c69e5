"""The audit: `turboquant-ref check` run on public packages, by small adapters; its outcome is AUDIT.md.

An adapter is a module of `adapters`; the first word of its docstring is its distribution, `requirements.txt` has the
version that it was written for. Kept out of the default test run, and out of the wheel.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from turboquant_ref.conformance import verdict
from turboquant_ref.conformance.statistics import Plan
from turboquant_ref.conformance.subject import CallFailed, open_subject

__all__ = ["HERE", "Adapter", "adapters", "installed", "judge", "requirements"]

HERE = Path(__file__).parent


def requirements() -> dict[str, str]:
    """The pinned version of each distribution."""
    lines = (line.strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True)
class Adapter:
    """A module of `adapters`.

    Attributes
    ----------
    name, distribution, version : str
    about : str
        Its docstring.
    """

    name: str
    distribution: str
    version: str
    about: str

    @property
    def spec(self) -> str:
        """What `turboquant-ref check` takes."""
        return f"{__package__}.adapters.{self.name}"


def adapters() -> list[Adapter]:
    """All of them, by name."""
    found = []
    for path in sorted((HERE / "adapters").glob("[!_]*.py")):
        about = ast.get_docstring(ast.parse(path.read_text())) or ""
        distribution = about.split()[0]
        found.append(Adapter(path.stem, distribution, requirements()[distribution], about))
    return found


def _folder(adapter: Adapter, packages: Path | None) -> list[str]:
    return [str(packages / adapter.distribution)] if packages else []


def installed(adapter: Adapter, packages: Path | None = None) -> str | None:
    """The installed version of its distribution, None if there is none."""
    path = [*_folder(adapter, packages), *sys.path]
    return next((d.version for d in metadata.distributions(name=adapter.distribution, path=path)), None)


@contextlib.contextmanager
def _importable(adapter: Adapter, packages: Path | None) -> Iterator[None]:
    """Its folder first on sys.path, which the worker process is given."""
    before = list(sys.path)
    sys.path[:0] = _folder(adapter, packages)
    try:
        yield
    finally:
        sys.path[:] = before


def judge(
    adapter: Adapter,
    packages: Path | None = None,
    plan: Plan | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> verdict.Verdict | str:
    """The verdict on it; or why it cannot be loaded."""
    with _importable(adapter, packages):
        try:
            subject = open_subject(adapter.spec)
        except CallFailed as error:
            return str(error)
        with subject:
            return verdict.run(subject, plan, (2,), progress)
