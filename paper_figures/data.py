"""Vectors for the figures: what travels with the package, what a package brings, what can be made, any file.

=====================  ==================================================================================
``glove``              the bundled sample: 8,000 words of GloVe 6B, d = 50
``wordllama``          32,000 token embeddings, d = 256, of the package wordllama if it is installed; only
                       its table is read, the package is not imported and nothing is fetched
``smollm2-keys``       3,072 keys of a small language model, d = 64, after rotary embedding: the notebooks' sample
``synthetic-D``        unit vectors of dimension D around a common direction: mean inner product 0.087, as
                       the paper's DBpedia set seems to have, spectrum falling as k^-0.7; see `synthetic`
a file                 .npy .npz .fvecs; .h5 .hdf5 (keys "train" and "test", as of ann-benchmarks);
                       .parquet (a column of lists); .txt .vec (GloVe text: a word and its numbers a line)
=====================  ==================================================================================

The paper's own sets have to be fetched, which this package never does. On a machine with access:

    pip install -U huggingface_hub
    hf download Qdrant/dbpedia-entities-openai3-text-embedding-3-large-1536-1M --repo-type dataset --local-dir dbpedia
    hf download Qdrant/dbpedia-entities-openai3-text-embedding-3-large-3072-1M --repo-type dataset --local-dir dbp3072
    python -m paper_figures fig1 fig2 fig3 fig5 --data "$(ls dbpedia/data/*.parquet | head -n 1)"

    git clone the repository erikbern/ann-benchmarks, and in it:
    python create_dataset.py --dataset glove-200-angular
    python -m paper_figures fig5 --data data/glove-200-angular.hdf5 --n 100000 --n-queries 10000

The figures of the paper use 100,000 base vectors and 1,000 queries of DBpedia (one parquet file holds 38,462 rows) and
the 10,000 queries that glove-200-angular brings.  Figs 1 to 3 say the same of 400 and 100: what they measure does not
depend on the vectors, and is averaged over draws.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import turboquant_ref as tq
from turboquant_ref.vectors import check_integer, norm_and_unit

__all__ = ["Sample", "load", "read", "split", "synthetic"]

Rows = NDArray[np.float32]
KEYS = Path(__file__).parents[1] / "notebooks" / "smollm2_sample.npz"
NAMES = ("glove", "wordllama", "smollm2-keys")


@dataclass(frozen=True, eq=False)
class Sample:
    """Vectors with a name.

    Attributes
    ----------
    name : str
        What a picture calls them.
    x : (n, d) float32
        As they come, of any norm.
    queries : (m, d) float32 or None
        Queries that come with them; None if there are none, see `split`.
    """

    name: str
    x: Rows
    queries: Rows | None = None

    @property
    def record(self) -> dict[str, Any]:
        """Name, shape and digest, for a file of results."""
        digest = hashlib.sha256(np.ascontiguousarray(self.x).tobytes()).hexdigest()[:16]
        return {"name": self.name, "n": len(self.x), "d": self.x.shape[1], "sha256": digest}


def synthetic(d: int, n: int, seed: int = 0, mean: float = 0.087, decay: float = 0.7) -> Rows:
    """Unit vectors whose inner products average `mean`, with a spectrum that falls as k^-decay.

    x = sqrt(mean) m + sqrt(1 - mean) u, m a fixed unit vector, u a normalised Gaussian vector whose k-th variance is
    proportional to k^-decay in a basis that is not the axes'.

    Parameters
    ----------
    d, n : int
        Dimension and number of vectors.
    seed : int
        Of NumPy's default generator.
    mean : float
        0 to 1.
    decay : float
        At least 0; 0 is the flat spectrum.
    """
    if not (0 <= mean <= 1 and decay >= 0):
        raise ValueError(f"mean and decay: expected 0 <= mean <= 1 and decay >= 0, got {mean} and {decay}")
    rng = np.random.default_rng([seed, d])
    u = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** (-decay / 2)
    unit = norm_and_unit(tq.rotation.structured(d, 2023).apply(u))[1]
    m = np.zeros(d)
    m[0] = 1
    return norm_and_unit(np.sqrt(mean) * m + np.sqrt(1 - mean) * unit)[1].astype(np.float32)


def load(source: str | os.PathLike[str], limit: int | None = None) -> Sample:
    """Vectors by name or from a file; see the module's docstring.

    Parameters
    ----------
    source : str or path
    limit : int, optional
        At most so many base vectors; all of a file, 8,000 of a synthetic set, by default.

    Raises
    ------
    FileNotFoundError
        No such file, and no such name.
    ModuleNotFoundError
        If reading it needs a package that is not installed; the message says which.
    ValueError
        If the file is not what its name says, or holds no vectors.
    """
    limit = None if limit is None else check_integer(limit, "limit", 1)
    name = str(source)
    if name == "glove":
        return Sample("GloVe 6B, d = 50", tq.data.glove()[1][:limit])
    if name == "wordllama":
        return Sample("WordLlama, d = 256", _wordllama()[:limit])
    if name == "smollm2-keys":
        with np.load(KEYS, allow_pickle=False) as archive:
            keys = archive["k"].astype(np.float32)
        return Sample("keys of SmolLM2-135M, d = 64", keys.reshape(-1, keys.shape[-1])[:limit])
    if found := re.fullmatch(r"synthetic-(\d+)", name):
        d = check_integer(int(found[1]), "d of synthetic-d", 2)
        return Sample(f"synthetic, d = {d}", synthetic(d, limit or 8000))
    if not Path(source).exists():
        raise FileNotFoundError(f"{name!r} is no file, and none of the names {', '.join(NAMES)}, synthetic-D")
    return read(source, limit)


def split(sample: Sample, n: int, n_queries: int, seed: int = 0) -> tuple[Rows, Rows]:
    """Unit base vectors (at most `n`) and unit queries (at most `n_queries`): random rows; disjoint ones.

    The sample's own queries are taken if it has any.  Zero rows are left out: they have no direction.
    """
    order = np.random.default_rng(seed).permutation(len(sample.x))
    rows = _units(sample.x[order[: n + n_queries + 1000]])
    if sample.queries is not None:
        return rows[:n], _units(sample.queries)[:n_queries]
    if len(rows) < 2:
        raise ValueError(f"{sample.name}: expected at least 2 vectors that are not zero, got {len(rows)}")
    n_queries = min(n_queries, len(rows) // 2)
    return rows[n_queries : n_queries + n], rows[:n_queries]


def _units(x: Rows) -> Rows:
    norms, unit = norm_and_unit(np.ascontiguousarray(x))
    return np.asarray(unit[norms > 0], dtype=np.float32)


# ---------------------------------------------------------------------------------------------- readers


def read(path: str | os.PathLike[str], limit: int | None = None) -> Sample:
    """The vectors of a file, by its suffix; errors as of `load`."""
    path = Path(path)
    readers: dict[str, Callable[[Path, int | None], tuple[Any, Any]]] = {
        ".npy": _ours, ".npz": _ours, ".fvecs": _ours, ".h5": _hdf5, ".hdf5": _hdf5, ".parquet": _parquet,
        ".txt": _glove_text, ".vec": _glove_text,
    }  # fmt: skip
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} has the suffix {path.suffix!r}, expected one of {', '.join(readers)}")
    x, queries = (a if a is None else _checked(a, path) for a in readers[path.suffix.lower()](path, limit))
    if queries is not None and queries.shape[1] != x.shape[1]:
        raise ValueError(f"{path}: base vectors have {x.shape[1]} coordinates, queries {queries.shape[1]}")
    return Sample(f"{path.name}, d = {x.shape[1]}", x, queries)


def _checked(a: Any, path: Path) -> Rows:
    a = np.asarray(a)
    if a.ndim != 2 or a.shape[0] < 1 or a.shape[1] < 2 or a.dtype.kind not in "fiu":
        raise ValueError(f"{path}: expected rows of at least 2 numbers, got shape {a.shape}, dtype {a.dtype}")
    rows = a.astype(np.float32)
    if not np.isfinite(rows).all():
        raise ValueError(f"{path}: a vector holds a NaN, an infinity or a number beyond float32")
    return rows


def _ours(path: Path, limit: int | None) -> tuple[Any, None]:
    return tq.data.read(path, limit), None


def _optional(module: str, package: str, path: Path) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModuleNotFoundError(f"{path.name}: reading it needs {package}; pip install {package}") from error


def _hdf5(path: Path, limit: int | None) -> tuple[Any, Any]:
    h5py = _optional("h5py", "h5py", path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file: {error}") from error
    with file:
        if "train" not in file:
            raise ValueError(f"{path} has the keys {', '.join(file) or 'none'}; expected 'train' (and 'test')")
        return file["train"][:limit], (file["test"][:] if "test" in file else None)


def _parquet(path: Path, limit: int | None) -> tuple[Any, None]:
    pq = _optional("pyarrow.parquet", "pyarrow", path)
    types = _optional("pyarrow", "pyarrow", path).types
    try:
        file = pq.ParquetFile(path)
    except Exception as error:  # pyarrow's own kinds of error are many
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
    schema = file.schema_arrow
    lists = [f.name for f in schema if types.is_list(f.type) or types.is_large_list(f.type)
             or types.is_fixed_size_list(f.type)]  # fmt: skip
    lists = [name for name in lists if _is_number(schema.field(name).type.value_type, types)]
    if len(lists) != 1:
        raise ValueError(f"{path} has the columns {', '.join(schema.names)}; expected one of lists of numbers, "
                         f"got {len(lists)}")  # fmt: skip
    blocks: list[Any] = []
    for batch in file.iter_batches(columns=lists):
        column = batch.column(0)
        if column.null_count:
            raise ValueError(f"{path}: column {lists[0]!r} has rows without a vector")
        lengths = set(column.value_lengths().to_pylist())
        if len(lengths) > 1:
            raise ValueError(f"{path}: the lists of column {lists[0]!r} have {sorted(lengths)} entries, expected one")
        if lengths:
            blocks.append(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1))
        if limit is not None and sum(map(len, blocks)) >= limit:
            break
    if len({b.shape[1] for b in blocks}) > 1:
        raise ValueError(f"{path}: the lists of column {lists[0]!r} differ in length")
    return (np.concatenate(blocks)[:limit] if blocks else np.empty((0, 0), np.float32)), None


def _is_number(kind: Any, types: Any) -> bool:
    return bool(types.is_floating(kind) or types.is_integer(kind))


def _glove_text(path: Path, limit: int | None) -> tuple[Any, None]:
    rows: list[Rows] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            # a few words of glove.840B hold spaces: it is the last d fields that are numbers
            fields = line.rstrip().rsplit(" ", len(rows[0]) if rows else -1)
            if number == 1 and len(fields) == 2:
                continue  # the head of a .vec file: how many, how long
            try:
                row = np.array(fields[1:], dtype=np.float32)
            except ValueError:
                raise ValueError(f"{path}: line {number} is not a word and its numbers: {line[:60]!r}") from None
            if rows and len(row) != len(rows[0]):
                raise ValueError(f"{path}: line {number} has {len(row)} numbers, the first has {len(rows[0])}")
            rows.append(row)
            if len(rows) == limit:
                break
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1), None


def _wordllama() -> Rows:
    """The float16 table of the package, a safetensors file: 8 bytes of length, a JSON head, the numbers."""
    spec = importlib.util.find_spec("wordllama")
    table = Path(spec.origin).parent / "weights" / "l2_supercat_256.safetensors" if spec and spec.origin else None
    if table is None or not table.exists():
        raise ModuleNotFoundError("the data 'wordllama' needs its table; pip install wordllama")
    with table.open("rb") as stream:
        head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        ((_, entry),) = ((k, v) for k, v in head.items() if k != "__metadata__")
        values = np.frombuffer(stream.read(), {"F16": "<f2", "F32": "<f4"}[entry["dtype"]])
    return values.reshape(entry["shape"]).astype(np.float32)
