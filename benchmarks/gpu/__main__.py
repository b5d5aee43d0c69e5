"""Runs the sections of the GPU benchmark and writes what they measured, with device, versions and command."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

SECTIONS = ("ceilings", "logits", "attention", "quantize", "triton_peers")
"""Each is a module of this package with ``run() -> dict``, which prints its table as it goes."""

PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-bindings", "torch", "jax", "cupy-cuda13x", "triton")
PEERS = ("turbo-attn", "turboquant-vllm", "fused-turboquant")


def environment() -> dict[str, Any]:
    """The device and the versions of what ran."""
    import torch

    import turboquant_ref

    versions: dict[str, str | None] = {"turboquant-ref": turboquant_ref.__version__}
    for name in PACKAGES + PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    device = torch.cuda.get_device_properties(0)
    return {
        "device": device.name,
        "memory_GiB": round(device.total_memory / 2**30, 1),
        "multiprocessors": device.multi_processor_count,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "versions": versions,
        "command": " ".join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
    }


def main() -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    options = parser.parse_args()
    results: dict[str, Any] = {"environment": environment()}
    print(json.dumps(results["environment"], indent=1), flush=True)
    for name in options.sections:
        print(f"\n== {name}", flush=True)
        try:
            results[name] = importlib.import_module(f"{__package__}.{name}").run()
        except Exception as error:  # what was measured stays, and the other sections go on
            traceback.print_exc()
            results[name] = {"failed": repr(error)}
        if options.out:
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    if any("failed" in results[name] for name in options.sections):
        sys.exit(1)


if __name__ == "__main__":
    main()
