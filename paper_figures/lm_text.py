"""Texts for the language model, and needles hidden in them.

`texts/SOURCE.md` says where the texts are from.  A needle is a sentence, "The special magic number of NAME is DDDDDD.",
six of them are hidden in one haystack, at six depths, and asked for one by one.  (One needle alone is found by nearly
every cache, so it says little.)  A question is asked by giving the model the sentence up to the number; the answer is
scored digit by digit, each after the true digits before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEPTHS", "DIGITS", "TEXTS", "Haystack", "haystack", "read"]

TEXTS = ("alice", "python")
DEPTHS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
"""Where the needles are, as shares of the haystack."""
DIGITS = 6
NAMES = (
    "Amsterdam", "Bogota", "Cairo", "Dublin", "Geneva", "Havana", "Istanbul", "Jakarta", "Kyoto", "Lisbon", "Madrid",
    "Nairobi", "Oslo", "Prague", "Quito", "Rome", "Seoul", "Tokyo", "Vienna", "Warsaw",
)  # fmt: skip
SENTENCE = " The special magic number of {name} is"

Ids = NDArray[np.int64]


@cache
def read(name: str) -> str:
    """One of `TEXTS`: 59 kB of English, or of the documentation of a programming language."""
    if name not in TEXTS:
        raise ValueError(f"name: expected one of {', '.join(TEXTS)}, got {name!r}")
    return (Path(__file__).parent / "texts" / f"{name}.txt").read_text(encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Haystack:
    """A text with needles in it, and the questions.

    Attributes
    ----------
    tokens : (length,) ids
        The prefix that is in the cache when a question comes.
    questions : tuple of (n_i,) ids
        One a needle, in the order of `DEPTHS`; each ends with the answer.  Its last `DIGITS` tokens are scored.
    places : tuple of int
        Where the needles begin.
    """

    tokens: Ids
    questions: tuple[Ids, ...]
    places: tuple[int, ...]


def haystack(tokenizer: Any, length: int, seed: int) -> Haystack:
    """A haystack of so many tokens of `alice`; the seed chooses its part of the text, the names and the numbers.

    Parameters
    ----------
    tokenizer : has `encode`
    length : int
        At least 256.
    seed : int
    """
    if length < 256:
        raise ValueError(f"length: expected at least 256, six needles take 150 tokens; got {length}")
    rng = np.random.Generator(np.random.PCG64([seed, length]))
    text = tokenizer.encode(read("alice"))
    names = [NAMES[i] for i in rng.permutation(len(NAMES))[: len(DEPTHS)]]
    numbers = ["".join(map(str, rng.integers(0, 10, DIGITS))) for _ in DEPTHS]
    needles = [
        tokenizer.encode(f"{SENTENCE.format(name=name)} {number}.") for name, number in zip(names, numbers, strict=True)
    ]
    rest = length - sum(map(len, needles))
    if rest > len(text):
        raise ValueError(f"length: expected at most {length - rest + len(text)}, the text is no longer; got {length}")
    first = int(rng.integers(0, len(text) - rest + 1))
    hay, stops = text[first : first + rest], set(map(int, tokenizer.encode(".")))
    pieces: list[Ids] = []
    places, last, used = [], 0, 0
    for depth, needle in zip(DEPTHS, needles, strict=True):
        at = max(int(depth * rest), last)
        ends = (j + 1 for j in range(at, min(at + 64, rest)) if int(hay[j]) in stops)
        at = next(ends, at)  # after a sentence, if one ends near
        pieces += [hay[last:at], needle]
        places.append(at + used)
        last, used = at, used + len(needle)
    tokens = np.concatenate([*pieces, hay[last:]])
    asked = [f"\n\n{SENTENCE.format(name=n).strip()} {number}" for n, number in zip(names, numbers, strict=True)]
    return Haystack(tokens, tuple(tokenizer.encode(q) for q in asked), tuple(places))
