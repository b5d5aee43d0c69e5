"""The command line: ``turboquant-ref`` report, codebook, check, vectors; also ``python -m turboquant_ref``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from . import __version__
from .conformance import command as conformance
from .variants import DEFAULT, NAMED, WILD, named

if TYPE_CHECKING:
    from .report import Sample

LIMIT = 10_000  # rows of a user's file that are read if --limit does not say
SMALL = 256  # up to this d, matrix products are too small to be shared among threads
PICTURES = (".png", ".pdf", ".svg")


class _Refused(Exception):
    """What the user asked for cannot be done; the message says why."""


def _integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argparse type: an integer from low to high."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            hint = f" (FILE goes before the options: turboquant-ref report {text} ...)" if Path(text).suffix else ""
            raise argparse.ArgumentTypeError(f"expected {allowed}, got {text!r}{hint}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {allowed}, got {value}")
        return value

    return parse


def _dimension(text: str) -> int | None:
    return None if text == "gaussian" else _integer(2)(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="turboquant-ref", description="TurboQuant, the executable specification.")
    parser.add_argument("--version", action="version", version=f"turboquant-ref {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    every = NAMED | WILD
    width = max(map(len, every))
    report = commands.add_parser(
        "report",
        help="compress vectors; print every measured figure beside what theory says it must be",
        description="Compress vectors with TurboQuant, and print every measured figure beside the number that theory "
        "says it must be.",
        epilog="algorithms:\n" + "\n".join(f"  {v.name:<{width}}  {v.description}" for v in every.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a .npy, .npz or .fvecs file, a row a vector (default: the bundled GloVe word vectors)",
    )
    report.add_argument("--key", metavar="NAME", help="which array of an .npz file")
    report.add_argument(
        "--limit",
        type=_integer(1),
        metavar="N",
        help=f"use the first N rows (default: {LIMIT:,} of a file, all of the bundled vectors)",
    )
    report.add_argument(
        "--bits",
        type=_integer(1, 8),
        nargs="+",
        default=[1, 2, 3, 4],
        metavar="B",
        help="bits a coordinate, 1 to 8 (default: 1 2 3 4)",
    )
    report.add_argument(
        "--algorithms",
        nargs="+",
        default=list(DEFAULT),
        metavar="NAME",
        help=f"which of those below, or all (default: {' '.join(DEFAULT)})",
    )
    report.add_argument(
        "--rotation",
        choices=("haar", "structured"),
        default="haar",
        help="uniform over all rotations, or the O(d log d) one (default: haar)",
    )
    report.add_argument(
        "--draws",
        type=_integer(2),
        metavar="N",
        help="independent quantizers for each figure (default: 8192/d, but 16 to 128)",
    )
    report.add_argument(
        "--seed", type=_integer(0, 2**64 - 1), default=0, metavar="N", help="of all random choices (default: 0)"
    )
    report.add_argument("--json", type=Path, metavar="OUT", help="write everything that was measured to this file")
    report.add_argument(
        "--plot",
        type=Path,
        metavar="OUT.png",
        help=f"draw distortion against bits to this file: {', '.join(PICTURES)}; needs matplotlib",
    )
    report.set_defaults(run=_report)

    book = commands.add_parser(
        "codebook",
        help="print a codebook that a port can paste",
        description="Print the Lloyd-Max codebook of TurboQuant, to the last bit.",
    )
    book.add_argument(
        "-d",
        type=_dimension,
        required=True,
        metavar="D",
        dest="d",
        help="dimension of the vectors, or gaussian for the limit N(0, 1)",
    )
    book.add_argument(
        "-b", type=_integer(1, 12), required=True, metavar="B", dest="bits", help="bits an index, 1 to 12"
    )
    book.add_argument("--format", choices=("text", "json", "csv", "c", "rust"), default="text", help="default: text")
    book.set_defaults(run=_codebook)

    wild = commands.add_parser(
        "variants",
        help="print what tells every known variant from the others",
        description="Print the exact signature of every known variant: codebook, distortion, slope, variances, bytes.",
    )
    wild.add_argument("-d", type=_integer(2), default=128, metavar="D", help="dimension of the vectors (default: 128)")
    wild.add_argument(
        "--bits",
        type=_integer(1, 8),
        nargs="+",
        default=[1, 2, 3, 4],
        metavar="B",
        help="bits a coordinate, 1 to 8 (default: 1 2 3 4)",
    )
    wild.add_argument("--measure", action="store_true", help="measure every figure too, beside its exact value")
    wild.add_argument("--draws", type=_integer(4), default=32, metavar="N", help="for --measure (default: 32)")
    wild.add_argument("--seed", type=_integer(0, 2**64 - 1), default=0, metavar="N", help="for --measure (default: 0)")
    wild.add_argument("--json", action="store_true", help="print JSON instead of the table")
    wild.set_defaults(run=_variants)

    conformance.add_check(commands, _integer).set_defaults(run=_check)
    conformance.add_vectors(commands).set_defaults(run=_vectors)
    return parser


def _check(args: argparse.Namespace, command: list[str]) -> int:
    try:
        with _progress() as progress:
            verdict = conformance.verdict(args, progress)
    except conformance.CannotRun as error:
        raise _Refused(str(error)) from error
    for path, content in conformance.outputs(args, verdict):
        with _replacing(path) as stream:
            stream.write(content.encode())
    print(conformance.text(args, verdict))
    return verdict.status


def _vectors(args: argparse.Namespace, command: list[str]) -> None:
    try:
        print(conformance.export(args))
    except conformance.CannotRun as error:
        raise _Refused(str(error)) from error


def _codebook(args: argparse.Namespace, command: list[str]) -> None:
    from . import export

    print(export.text(args.d, args.bits, args.format))


def _variants(args: argparse.Namespace, command: list[str]) -> None:
    from . import _variants

    bits = list(dict.fromkeys(args.bits))
    with _progress() as progress:
        results = _variants.compute(args.d, bits, args.draws if args.measure else 0, args.seed, progress)
    print(json.dumps(results, indent=1, allow_nan=False) if args.json else _variants.table(results))


def _report(args: argparse.Namespace, command: list[str]) -> None:
    try:
        named(args.algorithms)
    except ValueError as error:
        raise _Refused(f"--algorithms: {error}") from None
    _check_outputs(args)

    from . import report

    x = _sample(args)
    try:
        report.chosen(x.d, args.bits, args.algorithms)
    except ValueError as error:
        raise _Refused(f"--{error}") from None
    with _one_thread(x.d), _progress() as progress:
        results = report.compute(x, args.bits, args.algorithms, args.rotation, args.draws, args.seed, progress)
    results["command"] = command
    print(report.table(results))
    if args.json:
        with _replacing(args.json) as stream:
            stream.write(json.dumps(results, indent=1, allow_nan=False).encode() + b"\n")
    if args.plot:
        with _replacing(args.plot) as stream:
            report.plot(results).savefig(stream, format=args.plot.suffix[1:].lower(), dpi=150)


def _sample(args: argparse.Namespace) -> Sample:
    """The vectors that are asked for, or the user's error."""
    from . import data, report

    try:
        if args.file is None:
            if args.key is not None:
                raise ValueError("--key names an array of an .npz FILE, and no FILE is given")
            rows = data.glove()[1][: args.limit]
            return report.sample(rows, args.seed, "GloVe 6B, 50-d, the bundled sample")
        limit = LIMIT if args.limit is None else args.limit
        rows = data.read(args.file, limit, args.key)
        cut = f" (the first {limit:,} rows)" if len(rows) == limit else ""
        return report.sample(rows, args.seed, Path(args.file).name + cut)
    except (OSError, TypeError, ValueError) as error:
        raise _Refused(str(error)) from error


def _check_outputs(args: argparse.Namespace) -> None:
    """Refuse what could not be written at the end, before the work is done."""
    for name, path in (("--json", args.json), ("--plot", args.plot)):
        if path is None:
            continue
        if path.exists() and not path.is_file():
            raise _Refused(f"{name}: {path} exists and is not a regular file")
        if args.file is not None and path.exists() and Path(args.file).exists() and path.samefile(args.file):
            raise _Refused(f"{name}: {path} is the input file")
        try:
            with tempfile.TemporaryFile(dir=path.resolve().parent):
                pass
        except OSError as error:
            raise _Refused(f"{name}: cannot write to the directory of {path}: {error.strerror}") from None
    if args.plot is None:
        return
    if args.plot.suffix.lower() not in PICTURES:
        raise _Refused(f"--plot: expected a file name in {', '.join(PICTURES)}, got {args.plot}")
    if args.json is not None and args.json.resolve() == args.plot.resolve():
        raise _Refused(f"--json and --plot: both are {args.plot}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        cure = "install it with: pip install 'turboquant-ref[report]'"
        raise _Refused(f"--plot needs matplotlib ({error}); {cure}") from None


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` once all of it is written; failed or interrupted, it leaves nothing."""
    target = path.resolve()  # what a symbolic link points to is replaced, not the link
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            yield stream
        os.replace(part, target)
    except OSError as error:
        raise _Refused(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _one_thread(d: int) -> Iterator[None]:
    """One BLAS thread for small matrices, if threadpoolctl is there: more gain nothing, and stall on busy cores."""
    try:
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        yield
        return
    with threadpool_limits(1 if d <= SMALL else None):
        yield


@contextmanager
def _progress() -> Iterator[Callable[[int, int], object]]:
    """A progress bar, on a terminal and if tqdm is there; it is told how many draws of how many are done."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, total: None
        return
    with tqdm(desc="measuring", unit="draw", leave=False, disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            if bar.total != total:
                bar.total = total
                bar.refresh()
            bar.update(done - bar.n)

        yield show


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 1 if a check fails, 2 for a user's error, 130 if interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", lambda **_: None)
        reconfigure(errors="replace")  # a terminal that lacks a sign of the table gets a ? for it
    parser = _parser()
    try:
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.print_help()
            return 2
        status: int | None = args.run(args, ["turboquant-ref", *arguments])
        sys.stdout.flush()
    except _Refused as error:
        print(f"turboquant-ref: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("turboquant-ref: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status or 0


if __name__ == "__main__":
    sys.exit(main())
