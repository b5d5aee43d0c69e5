"""Machine code without a GPU: PTX from numba, SASS from ptxas, both read back. Skips where a tool is missing."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest


@functools.cache
def tool(name):
    """The path of ptxas or nvdisasm: in the wheels nvidia-cuda-nvcc and nvidia-cuda-nvdisasm, else on PATH."""
    for place in map(Path, sys.path):
        for path in sorted(place.glob(f"nvidia/*/bin/{name}")):
            return str(path)
    return shutil.which(name) or pytest.skip(f"{name} is not installed")


@dataclass(frozen=True)
class Machine:
    """What ptxas made of a kernel.

    Attributes
    ----------
    registers, stack, spills : int
        Registers of a thread, bytes of its stack frame, bytes stored and loaded by spills.
    text : str
        The SASS.
    opcodes : Counter
        How often each opcode occurs, modifiers and all: "FFMA.SAT".
    """

    registers: int
    stack: int
    spills: int
    text: str
    opcodes: Counter

    def count(self, prefix):
        """Instructions whose opcode begins so."""
        return sum(n for name, n in self.opcodes.items() if name.startswith(prefix))


def assemble(text, arch="sm_90", *options):
    """PTX to `Machine`."""
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "kernel.ptx", Path(place) / "kernel.cubin"
        source.write_text(text)
        made = subprocess.run(
            [tool("ptxas"), "-v", f"-arch={arch}", *options, str(source), "-o", str(target)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        sass = subprocess.run([tool("nvdisasm"), "-c", str(target)], capture_output=True, text=True, check=True).stdout
    said = made.stderr
    number = lambda pattern: sum(map(int, re.findall(pattern, said)))  # noqa: E731
    opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", sass))
    return Machine(
        number(r"Used (\d+) registers"),
        number(r"(\d+) bytes stack frame"),
        number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        sass,
        opcodes,
    )
