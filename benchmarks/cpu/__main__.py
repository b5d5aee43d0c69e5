"""Ours, the peers and the limits of the machine, one core: ``python -m benchmarks.cpu [--quick] [--sections …]``.

Sections: ceilings, search, turbovec (against turbovec over d and n), large (the same at n = 1,000,000 and d = 768 and
1536: some 8 GB of memory and many minutes, only if named), encode, attention, threads. A figure is the median over
rounds in which all contenders take turns, after a call of each that is not counted; our first call of a kernel compiles
it. Everything runs on one thread but the section "threads".
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from pathlib import Path
from typing import Any

SECTIONS = ("ceilings", "search", "turbovec", "encode", "attention", "threads", "large")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute or so")
    parser.add_argument("--sections", default=",".join(SECTIONS[:-1]), help="some of " + ", ".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=4.0, help="time for a cell of the tables")
    parser.add_argument("--out", type=Path, help="JSON file to write, with a .png beside it")
    args = parser.parse_args()
    wanted = args.sections.split(",")
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"--sections: {', '.join(sorted(unknown))} is not one of {', '.join(SECTIONS)}")
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"  # read by the libraries when they are loaded, which is only below

    from . import ceilings, encode, report, search

    rows: list[dict[str, Any]] = []
    last: list[Any] = [None]
    start = time.perf_counter()

    def add(row: dict[str, Any]) -> None:
        shape = [name for name in row if name not in report.HIDDEN]
        if last[0] != (row["section"], shape):
            print(f"\n{row['section']}, after {time.perf_counter() - start:.0f} s\n{report.line(row, head=True)}")
            last[0] = (row["section"], shape)
        print(report.line(row), flush=True)
        rows.append(row)

    seconds = 1.0 if args.quick else args.seconds
    if "ceilings" in wanted:
        ceilings.run(2 * seconds, add, 2**26 if args.quick else 2**29)
    if "search" in wanted:
        search.run(search.QUICK if args.quick else search.MAIN, 2 * seconds, add)
    if "turbovec" in wanted and not args.quick:
        search.run(search.AGAINST_TURBOVEC, seconds, add)
    if "encode" in wanted:
        encode.run((128,) if args.quick else (128, 768, 1024, 1536), seconds / 2, add)
    if "attention" in wanted:
        if importlib.util.find_spec(".attention", __package__):
            from . import attention

            attention.run(seconds, add, quick=args.quick)
        else:
            print("without attention")
    if "threads" in wanted:
        search.scaling(50_000 if args.quick else 400_000, seconds / 4, add)
    if "large" in wanted:
        search.run(search.LARGE, 2 * seconds, add)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if args.out:
        command = "python -m benchmarks.cpu" + (" --quick" if args.quick else "")
        command += "" if args.sections == ",".join(SECTIONS[:-1]) else f" --sections {args.sections}"
        report.write(args.out, rows, command)


if __name__ == "__main__":
    main()
