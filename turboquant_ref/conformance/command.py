"""``turboquant-ref check`` and ``turboquant-ref vectors``: their arguments, and what they do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .statistics import Plan
    from .verdict import Verdict

__all__ = ["CannotRun", "add_check", "add_vectors", "export", "outputs", "text", "verdict"]


class CannotRun(Exception):
    """The check could not be run; the message says why."""


def add_check(commands: Any, integer: Callable[[int, int | None], Callable[[str], int]]) -> argparse.ArgumentParser:
    """The parser of ``check``; `integer(low, high)` makes an argparse type."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="prove an implementation right, or name its mistake",
        description="Check an implementation at three levels: exact primitives, deterministic algorithms, "
        "statistics over seeds; see turboquant_ref/conformance/CHECK.md for what it may offer.",
        epilog="exit status: 0 conforms, 1 does not, 2 could not be run",
    )
    parser.add_argument(
        "subject", nargs="?", metavar="MODULE_OR_FILE[:NAME]", help="a Python module, file or attribute"
    )
    parser.add_argument(
        "--command", dest="port", metavar="'CMD …'", help="a port in any language, .npy files in and out"
    )
    parser.add_argument("--responses", type=Path, metavar="FILE.json", help="a port's answers to `vectors export`")
    parser.add_argument("--levels", type=int, nargs="+", choices=(0, 1, 2), default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--quick", action="store_true", help="level 2 with fewer dimensions, bit widths and draws")
    parser.add_argument(
        "-d", type=integer(2, None), nargs="+", metavar="D", dest="d", help="dimensions, the main one first"
    )
    parser.add_argument("--bits", type=integer(1, 8), nargs="+", metavar="B", help="bits a coordinate, with every -d")
    parser.add_argument("--draws", type=integer(8, 2**20), metavar="N", help="seeds a figure (default: 64)")
    parser.add_argument("--seed", type=integer(0, 2**63), default=0, metavar="N", help="of the kit's inputs and seeds")
    parser.add_argument(
        "--limit", type=float, default=60.0, metavar="SECONDS", help="that a call may take (default: 60)"
    )
    parser.add_argument("--all", action="store_true", help="print every check, not only the important and the failed")
    for kind in ("json", "junit", "markdown"):
        parser.add_argument(f"--{kind}", type=Path, metavar="OUT", help=f"write the verdict to this file, as {kind}")
    return parser


def add_vectors(commands: Any) -> argparse.ArgumentParser:
    """The parser of ``vectors``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "vectors",
        help="write the golden vectors, for a port to answer",
        description="The golden vectors of levels 0 and 1.",
    )
    parser.add_argument("action", choices=("export",), help="write the vectors, their schemas and requests.json")
    parser.add_argument("directory", type=Path, metavar="DIR", help="made if need be")
    return parser


def export(args: argparse.Namespace) -> str:
    """``vectors export DIR``; what to print."""
    from . import responses

    try:
        return f"{responses.export(args.directory)}: answer it, then turboquant-ref check --responses FILE.json"
    except OSError as error:
        raise CannotRun(f"cannot write to {args.directory}: {error.strerror or error}") from error


def _plan(args: argparse.Namespace) -> Plan:
    from .statistics import Plan
    from .verdict import QUICK

    plan = QUICK if args.quick else Plan()
    if args.d is not None or args.bits is not None:
        dimensions = args.d or list(dict.fromkeys(d for d, _ in plan.grid))
        bits = args.bits or list(dict.fromkeys(b for _, b in plan.grid))
        plan = replace(plan, grid=tuple(dict.fromkeys((d, b) for d in dimensions for b in bits)))
    if args.draws is not None:
        plan = replace(plan, draws=args.draws, least=min(plan.least, args.draws))
    return replace(plan, seed=args.seed)


def verdict(args: argparse.Namespace, progress: Callable[[int, int], object]) -> Verdict:
    """``check``: run it.

    Raises
    ------
    CannotRun
        If there is not exactly one subject, or it can't be loaded, or its claims or responses are not understood.
    """
    from . import responses
    from . import verdict as verdicts
    from .subject import CallFailed
    from .worker import Command, Worker

    given = [s for s in (args.subject, args.port, args.responses) if s is not None]
    if len(given) != 1:
        raise CannotRun("check: expected one of MODULE_OR_FILE[:NAME], --command and --responses")
    if not 0 < args.limit < 1e6:
        raise CannotRun(f"--limit: expected a number of seconds above 0, got {args.limit}")
    try:
        if args.responses is not None:
            return verdicts.of_responses(args.responses)
        with Worker(args.subject, args.limit) if args.port is None else Command(args.port, args.limit) as subject:
            return verdicts.run(subject, _plan(args), args.levels, progress)
    except CallFailed as error:
        raise CannotRun(f"{given[0]}: {error}") from error
    except responses.Malformed as error:
        raise CannotRun(str(error)) from error
    except ValueError as error:
        raise CannotRun(f"claims: {error}") from error


def text(args: argparse.Namespace, found: Verdict) -> str:
    """What ``check`` prints."""
    from . import report

    return report.as_text(found, args.all)


def outputs(args: argparse.Namespace, found: Verdict) -> Iterator[tuple[Path, str]]:
    """The files that ``check`` is asked to write."""
    from . import report

    for path, write in (
        (args.json, report.as_json),
        (args.junit, report.as_junit),
        (args.markdown, report.as_markdown),
    ):
        if path is not None:
            yield path, write(found)
