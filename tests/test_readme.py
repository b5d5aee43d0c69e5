"""The README's words are kept: its two commands are two, and its example runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_first_shell_block_holds_exactly_two_commands() -> None:
    block = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert block is not None
    first, second = block.group(1).strip().split("\n")
    assert first.endswith("turboquant-ref report")
    assert second.endswith("pytest")


def test_the_example_runs() -> None:
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert block is not None
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        names: dict[str, object] = {}
        exec(block.group(1), names)
    assert names["packed"].bytes_per_vector == 23
    exact, measured = re.match(r"([\d.]+) ([\d.]+) ±", out.getvalue()).groups()
    assert abs(float(measured) / float(exact) - 1) < 0.03  # 32 draws: the interval printed is about 2 %
