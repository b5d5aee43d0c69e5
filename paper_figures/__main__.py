"""``python -m paper_figures``: compute, draw and write the figures and tables."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from . import FIGURES, _store, figure, verbs
from .data import NAMES

RESULTS = Path(__file__).with_name("results")


class Refused(Exception):
    """A user's error, in one line."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m paper_figures", description="Figures and tables of the papers, beside exact theory."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures; all of them if there is none (--list)")
    parser.add_argument("--quick", action="store_true", help="small data and few draws: all in under three minutes")
    parser.add_argument("--ops", metavar="MODULE", help="the backend that quantizes, as numba_kernels")
    parser.add_argument("--data", metavar="DATA", help="glove, wordllama, smollm2-keys, synthetic-D, or a file")
    parser.add_argument("--draws", metavar="N", type=int, help="independent draws, for the figures that have them")
    parser.add_argument("--n", metavar="N", type=int, help="base vectors, for the figures that work on data")
    parser.add_argument("--n-queries", metavar="N", type=int, help="queries, for the figures that have them")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write; results/, and results/quick/ if quick")
    parser.add_argument("--fresh", action="store_true", help="compute even what the files already hold")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    return parser


def arguments_of(module: ModuleType, quick: bool = False, **given: Any) -> dict[str, Any]:
    """What `compute` is called with: the module's own arguments, and of those given the ones that it takes."""
    arguments = dict(module.QUICK if quick else module.FULL)
    takes = inspect.signature(module.compute).parameters
    return arguments | {name: value for name, value in given.items() if value is not None and name in takes}


def _stem(name: str, arguments: dict[str, Any], data: str | None) -> str:
    """The file name of a figure, with that of the data if they are not its own."""
    if data is None or "data" not in arguments:
        return name
    return f"{name}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', Path(data).name)}"


def _list() -> None:
    for name, title in FIGURES.items():
        try:
            figure(name)
            lacks = ""
        except ImportError as error:
            lacks = f"  [not here: {error}]"
        print(f"{name:<14}{title}{lacks}")


def _check(args: argparse.Namespace) -> dict[str, ModuleType]:
    unknown = [name for name in args.names if name not in FIGURES]
    if unknown:
        raise Refused(f"no figure is called {unknown[0]!r}; there are {', '.join(FIGURES)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise Refused(f"drawing needs matplotlib ({error}); pip install 'turboquant-ref[report]'") from None
    if args.ops is not None:
        for algorithm in ("mse", "prod"):
            try:
                verbs(args.ops, algorithm)
            except ImportError as error:
                needed = "a package that has modules mse and prod, as numba_kernels"
                raise Refused(f"--ops: {args.ops!r} is no backend, {needed}: {error}") from None
    named = args.data is None or args.data in NAMES or re.fullmatch(r"synthetic-\d+", args.data)
    if not named and not Path(args.data).is_file():
        raise Refused(f"--data: {args.data!r} is no file, and none of {', '.join(NAMES)}, synthetic-D")
    for option, value in (("--draws", args.draws), ("--n", args.n), ("--n-queries", args.n_queries)):
        if value is not None and value < 2:
            raise Refused(f"{option}: expected at least 2, got {value}")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        raise Refused(f"--out: {args.out} is a file, expected a directory")
    chosen: dict[str, ModuleType] = {}
    for name in args.names or FIGURES:
        try:
            chosen[name] = figure(name)
        except ImportError as error:
            if args.names:
                raise Refused(f"{name} cannot be made here: {error}") from None
            print(f"== {name}: left out, {error}")
    return chosen


def _digest(data: str) -> dict[str, str]:
    """What makes the results of a file those of its contents, not of its name."""
    path = Path(data)
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        return {"file_sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _one(name: str, module: ModuleType, args: argparse.Namespace, out: Path) -> None:
    given = {option: getattr(args, option) for option in ("data", "ops", "draws", "n", "n_queries")}
    arguments = arguments_of(module, args.quick, **given)
    key = arguments | _digest(str(arguments.get("data", "")))
    stem, start = _stem(name, arguments, args.data), time.perf_counter()
    results = None if args.fresh else _store.load(out, stem, key)
    kept = results is not None
    if results is None:
        results = module.compute(**arguments)
    results = _store.plain(results)
    written = _store.write(out, stem, key, results, module.plot(results))
    how = "as computed before" if kept else f"computed in {time.perf_counter() - start:.1f} s"
    print(f"== {name}: {FIGURES[name]} ({how})", module.summary(results), sep="\n")
    print("->", ", ".join(map(str, written)), flush=True)


def _one_thread() -> Any:
    """One BLAS thread, if threadpoolctl is there: more stall on busy cores, and the figures' times are of one."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 for a user's error, 130 if interrupted."""
    args = _parser().parse_args(argv)
    if args.list:
        _list()
        return 0
    try:
        chosen = _check(args)
        out = args.out if args.out is not None else RESULTS / "quick" if args.quick else RESULTS
        with _one_thread():
            for name, module in chosen.items():
                _one(name, module, args, out)
    except Refused as error:
        print(f"paper_figures: {error}", file=sys.stderr)
        return 2
    except (OSError, ImportError, ValueError) as error:
        if args.data is None and not isinstance(error, OSError | ImportError):
            raise
        print(f"paper_figures: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("paper_figures: interrupted, nothing half-written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
