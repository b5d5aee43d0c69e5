"""``python -m tests.audit``: check every installed package, and write AUDIT.md and audit.json."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
from pathlib import Path

from turboquant_ref.conformance.verdict import QUICK

from . import HERE, adapters, installed, judge, requirements
from .page import as_page, as_record

COMMAND = "python -m tests.audit --packages FOLDER"


def install(folder: Path) -> None:
    """Each audited distribution into folder/NAME, without what it depends on: several have a module `turboquant`."""
    for name in dict.fromkeys(a.distribution for a in adapters()):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
        status = subprocess.call([*pip, "--target", str(folder / name), f"{name}=={requirements()[name]}"])
        print(f"{name}: {'installed' if status == 0 else 'could not be installed'}")


def main() -> int:
    names = [a.name for a in adapters()]
    parser = argparse.ArgumentParser(prog="python -m tests.audit", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="others keep their entry")
    parser.add_argument("--packages", type=Path, help="where --install put the packages; else those on sys.path")
    parser.add_argument("--install", type=Path, metavar="FOLDER", help="install the audited packages there, and end")
    parser.add_argument("--quick", action="store_true", help="fewer dimensions, widths and draws; writes nothing")
    parser.add_argument("--pages", action="store_true", help="write AUDIT.md from audit.json again, and end")
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.install)
        return 0
    for adapter in [] if arguments.pages else [a for a in adapters() if a.name in (arguments.only or names)]:
        version = installed(adapter, arguments.packages)
        if version is None:
            print(f"{adapter.name}: {adapter.distribution} is not installed, skipped", flush=True)
            continue
        verdict = judge(adapter, arguments.packages, QUICK if arguments.quick else None)
        record = as_record(adapter, version, str(datetime.date.today()), COMMAND, verdict)
        print(f"{adapter.name}: {adapter.distribution} {version}: {record['verdict']}", flush=True)
        if not arguments.quick:
            write(adapter.name, record)
    if not arguments.quick:
        (HERE / "AUDIT.md").write_text(as_page(read(), (HERE / "NOTES.md").read_text()))
    return 0


def read() -> dict[str, dict[str, object]]:
    path = HERE / "audit.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _one_line(found: re.Match[str]) -> str:
    return "{" + re.sub(r"\n {4}", " ", found[1]) + "}"


def write(name: str, record: dict[str, object]) -> None:
    """Replace one entry; those of adapters that are no more go."""
    records = {n: r for n, r in {**read(), name: record}.items() if n in [a.name for a in adapters()]}
    text = json.dumps(dict(sorted(records.items())), indent=1, ensure_ascii=False, allow_nan=False)
    text = re.sub(r"\{\n {4}([^{}]*)\n {3}\}", _one_line, text)
    (HERE / "audit.json").write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
