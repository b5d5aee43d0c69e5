"""The arrows of the house: who may import whom, and what `import turboquant_ref` must not load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import turboquant_ref

PACKAGE = Path(turboquant_ref.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "vectors": set(),
    "sphere": {"vectors"},
    "codebook": {"sphere", "vectors"},
    "generator": {"vectors"},
    "rotation": {"generator", "vectors"},
    "alignment": {"codebook", "sphere", "vectors"},
    "bounds": {"codebook", "sphere", "vectors"},
    "theory": {"alignment", "angle", "bounds", "codebook", "sphere", "vectors"},
    "packing": {"vectors"},
    "codes": {"packing"},
    "mse": {"codebook", "codes", "packing", "rotation", "vectors"},
    "qjl": {"codes", "generator", "packing", "rotation", "sphere", "vectors"},
    "prod": {"codebook", "codes", "generator", "mse", "packing", "qjl", "rotation", "vectors"},
    "angle": {"codebook", "sphere", "vectors"},
    "polar": {"angle", "codebook", "codes", "generator", "packing", "rotation", "vectors"},
    "rabitq": {"codes", "generator", "packing", "rotation", "sphere", "vectors"},
    "minmax": {"codes", "packing", "vectors"},
    "channels": {"codes", "generator", "mse", "packing", "qjl", "theory", "vectors"},
    "entropy": {"codebook", "vectors"},
    "data": {"vectors"},
    "signature": {"codebook", "codes", "measure", "sphere", "theory"},
    "variants": {
        *("channels", "codebook", "generator", "measure", "minmax", "mse", "polar", "prod", "qjl", "rotation"),
        *("signature", "sphere", "theory", "vectors"),
    },
    "attention": {"codes", "theory", "vectors"},
    "container": set(),
    "description": {
        *("channels", "codebook", "generator", "minmax", "mse", "polar", "prod", "qjl", "rabitq", "rotation", "sphere"),
        *("angle", "vectors"),
    },
    "cache": {
        *("attention", "channels", "codes", "container", "description", "generator", "minmax", "mse", "packing"),
        *("polar", "prod", "qjl", "rabitq", "vectors"),
    },
    "scoring": {"codes", "packing", "vectors"},
    "search": {"_blocks", "codes", "container", "description", "packing", "scoring", "vectors"},
}
EXTERNAL = {"numpy", "scipy"}
LAZY = {"constriction", "matplotlib", "threadpoolctl", "tqdm"}  # only inside a function


def imports(source: str, depth: int = 1) -> tuple[set[str], set[str], set[str]]:
    """(own modules, foreign modules at import time, foreign modules inside functions) that a module imports.

    `depth` is 1 for a module, 2 for one of a package, whose siblings do not count.
    """
    tree = ast.parse(source)
    inside = {node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)}
    own, eager, lazy = set(), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("turboquant_ref")):
            if 0 < node.level < depth:
                continue
            stem = (node.module or "").removeprefix("turboquant_ref").lstrip(".").split(".")[0]
            own |= {stem} if stem else {alias.name for alias in node.names}
            continue
        names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        if isinstance(node, ast.ImportFrom):
            names = {node.module or ""}
        for name in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
            (lazy if node in inside else eager).add(name)
    return own, eager, lazy


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    name = parts[0].removesuffix(".py")
    own, eager, lazy = imports(path.read_text(), depth=len(parts))
    assert eager <= EXTERNAL, f"{name} imports {eager - EXTERNAL} at import time"
    assert lazy <= EXTERNAL | LAZY
    assert not own & {"numba_kernels", "cuda_kernels"}
    if name in ALLOWED:
        assert own <= ALLOWED[name], f"{name} may not import {own - ALLOWED[name]}"


ROOT = PACKAGE.parent
OURS = {"turboquant_ref", "numba_kernels", "cuda_kernels", "paper_figures", "notebooks", "benchmarks", "tests"}
CONSUMERS = {  # which of ours a package may import, and what else at import time
    "numba_kernels": ({"turboquant_ref"}, {"numpy", "scipy", "numba", "llvmlite"}),
    "cuda_kernels": ({"turboquant_ref"}, {"numpy", "scipy", "numba", "llvmlite"}),
    "paper_figures": ({"turboquant_ref", "numba_kernels", "cuda_kernels"}, {"numpy", "scipy", "matplotlib"}),
}


@pytest.mark.parametrize("package", CONSUMERS)
def test_arrows_between_packages(package: str) -> None:
    """numpy, scipy <- turboquant_ref <- numba_kernels | cuda_kernels <- paper_figures; the two kernels never meet."""
    ours, others = CONSUMERS[package]
    for path in sorted((ROOT / package).rglob("*.py")):
        source = path.read_text()
        _, eager, _ = imports(source)
        mine = {n.split(".")[0] for n in re.findall(r"^\s*(?:from|import) ([\w.]+)", source, re.M)} & OURS
        assert mine <= ours | {package}, f"{path.name} imports {mine - ours}"
        assert eager - OURS <= others, f"{path.name} imports {eager - OURS - others} at import time"


def test_the_arrow_test_can_fail() -> None:
    own, eager, lazy = imports("from . import mse\nimport numba\ndef f():\n    import torch\n")
    assert (own, eager, lazy) == ({"mse"}, {"numba"}, {"torch"})


def test_import_is_lean() -> None:
    heavy = "numba", "constriction", "matplotlib", "torch", "tqdm", "mpmath", "pandas"
    code = f"import sys, turboquant_ref; print(sorted(set({heavy!r}) & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_module_is_in_the_map() -> None:
    """The package's docstring is the map: it names every public module."""
    doc = turboquant_ref.__doc__ or ""
    for path in modules():
        if path.parent == PACKAGE and not path.stem.startswith("_"):
            assert f"`{path.stem}`" in doc, path.stem
