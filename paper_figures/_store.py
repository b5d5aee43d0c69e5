"""Results on disk: small JSON, and pictures; all files of a figure appear together, or none does."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["load", "plain", "write"]

DIGITS = 7


def plain(value: Any) -> Any:
    """`value` as what JSON knows; floats to 7 significant digits, those that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    raise TypeError(f"results: expected arrays, numbers, strings, lists and dicts, got {type(value).__name__}")


def _text(value: Any, indent: int = 0) -> str:
    """JSON with a line for every entry of a dict, however long its list."""
    if isinstance(value, dict):
        pad = " " * (indent + 1)
        body = ",\n".join(f"{pad}{json.dumps(k)}: {_text(v, indent + 1)}" for k, v in value.items())
        return "{\n" + body + "\n" + " " * indent + "}" if value else "{}"
    return json.dumps(value, separators=(",", ":"))


def write(directory: Path, name: str, arguments: dict[str, Any], results: dict[str, Any], figure: Any) -> list[Path]:
    """Write ``name.json``, ``name.png`` and ``name.svg``; interrupted before the end, none of them."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = {suffix: directory / f".{name}.{os.getpid()}.part{suffix}" for suffix in (".json", ".png", ".svg")}
    try:
        record = {"figure": name, "arguments": plain(arguments), "results": plain(results)}
        parts[".json"].write_text(_text(record) + "\n")
        figure.savefig(parts[".png"], dpi=130, metadata={"Software": None})
        figure.savefig(parts[".svg"], metadata={"Date": None})
        targets = [directory / f"{name}{suffix}" for suffix in parts]
        for part, target in zip(parts.values(), targets, strict=True):
            os.replace(part, target)
        return targets
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def load(directory: Path, name: str, arguments: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """The results of a figure's file; None if there is none, or if it is of other `arguments`."""
    try:
        record = json.loads((directory / f"{name}.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("results"), dict):
        return None
    same = arguments is None or record.get("arguments") == plain(arguments)
    return record["results"] if same else None
