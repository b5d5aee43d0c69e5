"""``python -m notebooks``: execute the course and write its printed form.

The source of a lesson is ``NN_topic.py``, in jupytext's percent format; ``NN_topic.ipynb`` is its executed print.

    python -m notebooks              execute all, write the .ipynb files
    python -m notebooks 03 05        some of them
    python -m notebooks --check      execute, and compare the pairs, but write nothing

Needs jupytext, nbclient and ipykernel, and matplotlib.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TIMEOUT = 120  # seconds a cell
LARGEST = 600_000  # bytes of a printed notebook: pictures, no widgets' state


def sources(numbers: Sequence[str] = ()) -> list[Path]:
    """The lessons' sources in order, all of them or those that begin with one of these numbers.

    Raises
    ------
    ValueError
        For a number that no lesson has.
    """
    every = sorted(HERE.glob("[0-9][0-9]_*.py"))
    unknown = [n for n in numbers if not any(p.name.startswith(f"{n}_") for p in every)]
    if unknown:
        raise ValueError(f"no lesson {unknown[0]!r}; there are {', '.join(p.name[:2] for p in every)}")
    return [p for p in every if not numbers or p.name[:2] in numbers]


def parse(source: Path) -> Any:
    """The notebook of a source, not executed: cells with stable ids, and no metadata but the kernel's."""
    import jupytext
    import nbformat

    read = jupytext.read(source, fmt="py:percent")
    cells = []
    for i, cell in enumerate(read.cells):
        new = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        cells.append(new(cell.source, id=f"{source.name[:2]}-{i:02d}"))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def execute(source: Path) -> Any:
    """The executed notebook of a source.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    from nbclient import NotebookClient

    notebook = parse(source)
    kernel = dict(notebook.metadata)
    # a print has no sliders; and threads of BLAS stall on matrices as small as these when the cores are busy
    environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PAPER_FIGURES_STATIC": "1"}
    settings = {"timeout": TIMEOUT, "kernel_name": "python3", "store_widget_state": False}
    place = {"metadata": {"path": str(HERE)}}
    client = NotebookClient(notebook, resources=place, extra_arguments=["--log-level=ERROR"], **settings)
    client.execute(env=environment)
    notebook.metadata = kernel
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [_plain(output) for output in cell.outputs]
    return notebook


def _plain(output: Any) -> Any:
    """An output without its text twin of a picture, which names an address in memory."""
    data = output.get("data", {})
    if "image/png" in data:
        output["data"] = {"image/png": data["image/png"]}
    output.pop("transient", None)
    return output


def in_step(source: Path) -> str | None:
    """Why the printed notebook of a source is not its print; None if it is."""
    import nbformat

    printed = source.with_suffix(".ipynb")
    if not printed.exists():
        return f"{printed.name} is missing"
    if printed.stat().st_size > LARGEST:
        return f"{printed.name} has {printed.stat().st_size} bytes, more than {LARGEST}"
    found, wanted = nbformat.read(printed, as_version=4), parse(source)
    if [(c.cell_type, c.source, c.id) for c in found.cells] != [(c.cell_type, c.source, c.id) for c in wanted.cells]:
        return f"{printed.name} is of another {source.name}"
    code = [c for c in found.cells if c.cell_type == "code"]
    if [c.execution_count for c in code] != list(range(1, len(code) + 1)):
        return f"{printed.name} was not executed from top to bottom"
    if any(o.output_type == "error" for c in code for o in c.outputs):
        return f"{printed.name} holds an error"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 1 if a pair is not in step or a lesson fails, 2 for a user's error."""
    parser = argparse.ArgumentParser(prog="python -m notebooks", description="Execute and print the course.")
    parser.add_argument("numbers", nargs="*", metavar="NN", help="lessons; all of them if there is none")
    parser.add_argument("--check", action="store_true", help="write nothing; say which pairs are not in step")
    args = parser.parse_args(argv)
    try:
        chosen = sources(args.numbers)
        import nbformat
        from nbclient.exceptions import CellExecutionError
    except (ValueError, ImportError) as error:
        print(f"notebooks: {error}", file=sys.stderr)
        return 2
    status = 0
    for source in chosen:
        start = time.perf_counter()
        try:
            notebook = execute(source)
        except CellExecutionError as error:
            print(f"{source.name}: {error}", file=sys.stderr)
            status = 1
            continue
        took = time.perf_counter() - start
        if not args.check:
            part = source.with_suffix(f".{os.getpid()}.part")
            try:
                nbformat.write(notebook, part)
                os.replace(part, source.with_suffix(".ipynb"))
            finally:
                part.unlink(missing_ok=True)
        reason = in_step(source)
        print(f"{source.stem}: {took:.1f} s, {source.with_suffix('.ipynb').stat().st_size // 1000} kB"
              if reason is None else f"{source.stem}: {took:.1f} s, {reason}", flush=True)  # fmt: skip
        status = status or int(reason is not None)
    return status


if __name__ == "__main__":
    sys.exit(main())
