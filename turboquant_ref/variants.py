"""The named variants: a name, an exact signature and a setup for every "TurboQuant" that people meet.

A name is what the command line, reports and records of measurements say instead of a list of options.  `NAMED` are this
house's: `NAMED["mse-unbiased"]` is `mse` with ``scale="unbiased"``.  `WILD` are what others publish and run, put
together from the same parts: another codebook, a poorer rotation, a wrong constant.  Those that break a promise of the
paper, unbiasedness or Theorem 1's bound for every x, are marked ``wrong``; they are here to be recognised.

>>> from turboquant_ref import variants
>>> found = variants.find("prod-double-scaled").exact(128, 2)
>>> round(found.slope, 3), round(variants.find("prod").exact(128, 2).slope, 3)
(0.671, 1.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np

from . import channels, measure, minmax, mse, polar, prod, qjl, signature, sphere, theory
from . import codebook as codebooks
from . import rotation as rotations
from .generator import gaussians, seed_of, words
from .vectors import check_bits, check_dimension

__all__ = ["DEFAULT", "NAMED", "WILD", "Variant", "find", "named"]

Make = Callable[[int, int, int, rotations.Kind], Any]


@dataclass(frozen=True, eq=False)
class Variant:
    """An algorithm with all its choices made.

    Attributes
    ----------
    name : str
        Its key in `NAMED` or `WILD`.
    algorithm : str
        The module that runs it, a key of ``measure.ALGORITHMS``.
    options : mapping of str to str
        What ``theory`` and the module's ``setup`` are told beside (d, bits); for a variant of `WILD`, in words.
    description, source : str
        One line, for a list of them; and where it is from: a section, or repository#issue.
    wrong : bool
        Whether it breaks a promise of the paper.
    make : callable or None
        (d, bits, seed, rotation) -> quantizer; None is the module's own setup with `options`.
    widths : range
        The bits that it is defined for.
    fits : str
        What d must be: "" for anything, else a key of `_FITS`.
    rotation : str
        The law of its Pi, one of ``signature.ROTATIONS``; "haar" leaves the choice between haar and structured.
    stores : str
        The dtype of its side scalars; "" is its module's usual one, "none" if there are none (it then is for unit
        vectors only), "entropy" for float32 beside entropy-coded indices.
    """

    name: str
    algorithm: str
    options: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    source: str = ""
    wrong: bool = False
    make: Make | None = None
    widths: range = range(1, 9)
    fits: str = ""
    rotation: str = "haar"
    stores: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def refuses(self, d: int, bits: int) -> str | None:
        """Why there is no such quantizer at (d, bits); None if there is."""
        if self.fits and not _FITS[self.fits](d):
            return f"d: {self.name} is defined for {self.fits}, got {d}"
        if bits not in self.widths:
            return f"bits: {self.name} is defined for {self.widths.start} to {self.widths.stop - 1}, got {bits}"
        return None

    def setup(self, d: int, bits: int, rng: int | np.random.Generator, rotation: rotations.Kind = "haar") -> Any:
        """A quantizer, for the verbs of `codes.module_of` it; `rotation` counts where the variant leaves it open.

        Raises
        ------
        TypeError, ValueError
            For bad arguments, or where `refuses` says why.
        """
        d, bits, seed = check_dimension(d), check_bits(bits), seed_of(rng)
        if reason := self.refuses(d, bits):
            raise ValueError(reason)
        if self.make is not None:
            return self.make(d, bits, seed, rotation)
        return measure.setup(self.algorithm, d, bits, seed, rotation=rotation, **self.options)

    def bytes(self, d: int, bits: int) -> float:
        """Bytes of one stored vector, all side information counted."""
        return self._bytes(self.setup(d, bits, 0, "structured"))

    def _bytes(self, Q: Any) -> float:
        if self.stores == "entropy":
            return float(Q.codebook.entropy * Q.d / 8 + 4)
        if self.stores == "none":
            return float(sum((n * b + 7) // 8 for n, b in Q.record.streams))
        return float(Q.bytes_per_vector(self.stores) if self.stores else Q.bytes_per_vector())

    def exact(self, d: int, bits: int) -> signature.Signature:
        """Its exact signature; arguments and errors of `setup`."""
        Q = self.setup(d, bits, 0, "structured")
        return signature.exact(Q, bits, self.rotation, self._bytes(Q))

    def measured(
        self, d: int, bits: int, draws: int = 32, rotation: rotations.Kind = "haar", **settings: Any
    ) -> dict[str, measure.Estimate]:
        """The same figures measured; `settings` are those of ``signature.measured``."""
        return signature.measured(lambda seed: self.setup(d, bits, seed, rotation), d, draws, **settings)

    @property
    def for_every_x(self) -> bool:
        """Whether the exact moments hold for every x, not only for isotropic ones."""
        return self.rotation == "haar" and self.algorithm != "channels"


_FITS: dict[str, Callable[[int], bool]] = {
    "a power of two": lambda d: d & (d - 1) == 0,
    "d = 128": lambda d: d == 128,
    "multiples of 4 from 8": lambda d: d % 4 == 0 and d >= 8,
    "multiples of 16": lambda d: d % 16 == 0,
    "multiples of 32": lambda d: d % 32 == 0,
    "multiples of 64": lambda d: d % 64 == 0,
}


# ------------------------------------------------------------------------------------------------ codebooks

# The positive halves of the tables in the authors' code, in units of 1/√d.  (There the innermost negative centroid of
# 3 bits is -0.244893; the others are symmetric.)
_AUTHORS = {
    1: (0.797885,),
    2: (0.4526475, 1.510017),
    3: (0.244961, 0.75567, 1.34335, 2.1509),
    4: (0.12730813, 0.3848085, 0.6516434, 0.9357067, 1.2484536, 1.6096783, 2.0604305, 2.7235756),
    5: (0.05133244, 0.1548669, 0.26076207, 0.37025818, 0.48459405, 0.60524833, 0.7339456, 0.872524, 1.0232878,
        1.1892526, 1.374458, 1.5848435, 1.829787, 2.1263952, 2.5120323, 3.0996535),
}  # fmt: skip
_NORM_REDUCTION = (1.0, 0.60281, 0.3426687, 0.185758, 0.0974343)  # in the place of ||r||, b = 1..5


@lru_cache(maxsize=256)
def _authors(d: int, bits: int, whole: int = 0) -> codebooks.Codebook:
    """The table of the authors' code over √whole (d if 0), judged by the law of dimension d; one point at 0 bits."""
    if bits == 0:
        return codebooks.lloyd_max(d, 0)
    half = np.array(_AUTHORS[bits])
    c = np.concatenate([-half[::-1], half])
    if bits == 3:
        c[3] = -0.244893
    return codebooks.of_centroids(sphere.law(d), c / math.sqrt(whole or d))


@lru_cache(maxsize=256)
def _gaussian(d: int, bits: int) -> codebooks.Codebook:
    """The codebook of N(0, 1), over √d."""
    if bits == 0:
        return codebooks.lloyd_max(d, 0)
    return codebooks.of_centroids(sphere.law(d), codebooks.lloyd_max(None, bits).centroids / math.sqrt(d))


def _uniform(d: int, bits: int) -> codebooks.Codebook:
    return codebooks.uniform(d, theory.entropy(d, bits))


Book = Callable[[int, int], codebooks.Codebook]

# ------------------------------------------------------------------------------------------------ setups


def _qr(d: int, seed: int, stream: int = 0) -> rotations.Dense:
    return rotations.Dense(np.linalg.qr(gaussians(seed, stream, d * d).reshape(d, d))[0])


def _rotation(law: str, d: int, seed: int, kind: rotations.Kind) -> rotations.Rotation:
    if law == "hadamard":
        return rotations.Structured(d, seed, rounds=1)
    if law == "unsigned":
        return rotations.Dense(rotations.fwht(np.eye(d)) / math.sqrt(d))
    # isotropic x cannot tell one orthogonal matrix from another: where speed is asked for, the sign fix does not matter
    return _qr(d, seed) if law == "qr" and kind == "haar" else rotations.setup(d, seed, kind)


def _mse(book: Book = codebooks.lloyd_max, scale: str = "norm", law: str = "haar") -> Make:
    return lambda d, bits, seed, kind: mse.Quantizer(_rotation(law, d, seed, kind), book(d, bits), scale)


def _prod(gain: Callable[[int, int, float], float], sketch: str = "gaussian", book: Book = codebooks.lloyd_max,
          residual: str = "stored", law: str = "haar") -> Make:  # fmt: skip
    """Algorithm 2 with its QJL term multiplied by `gain`, which is told d, the bits, and √D of the first stage."""

    def make(d: int, bits: int, seed: int, kind: rotations.Kind) -> prod.Quantizer:
        first = book(d, bits - 1)
        g = gain(d, bits, math.sqrt(first.distortion) if bits > 1 else 1.0)
        if law == "qr" and kind == "haar":
            S = qjl.of_matrix(math.sqrt(d) * _qr(d, seed, 1).matrix(), "orthogonal")
        else:
            S = qjl.setup(d, None, seed, sketch, kind).sketch
        S = replace(S, gain=g, identity=f"{g!r} * {S.identity}")
        return prod.Quantizer(_rotation(law, d, seed, kind), first, S, residual)

    return make


def _parts(
    sizes: Callable[[int], list[int]],
    more: int = 0,
    book: Callable[[int, int, int], codebooks.Codebook] = lambda n, bits, d: codebooks.lloyd_max(n, bits),
) -> Make:
    """`channels` of consecutive groups of these sizes, the first at `more` bits more; `book` is told (n, bits, d)."""

    def make(d: int, bits: int, seed: int, kind: rotations.Kind) -> channels.Quantizer:
        ends = np.cumsum(sizes(d))
        seeds = words(seed, channels.STREAM, len(ends))
        parts = []
        for k, (n, end) in enumerate(zip(sizes(d), ends, strict=True)):
            b = bits + more * (k == 0)
            Q = mse.Quantizer(rotations.setup(n, int(seeds[k]), kind), book(n, b, d))
            parts.append(channels.Part(np.arange(end - n, end), mse, Q))
        return channels.Quantizer(tuple(parts))

    return make


def _quarters(d: int) -> list[int]:
    return [d // 4, d - d // 4]


def _polar(scale: str) -> Make:
    return lambda d, bits, seed, kind: polar.setup(d, (bits, *[bits - 2] * 3), seed, kind, scale)


# ------------------------------------------------------------------------------------------------ the list

_EDEN = "EDEN, ICML 2022"
_RABITQ = "arXiv 2409.09913"

_NAMED = (
    Variant("mse", "mse", {}, "Algorithm 1, ||x|| stored: the paper's TurboQuant_mse", "Algorithm 1"),
    Variant("mse-matched", "mse", {"scale": "matched"}, "Algorithm 1, decoded to the norm of x", "qdrant/qdrant#8524"),
    Variant("mse-least_squares", "mse", {"scale": "least_squares"},
            "Algorithm 1, the scale of least error: EDEN's biased", _EDEN),
    Variant("mse-unbiased", "mse", {"scale": "unbiased"}, "Algorithm 1, the unbiased scale: DRIVE's, EDEN's", _EDEN),
    Variant("prod", "prod", {}, "Algorithm 2, Gaussian S, ||r|| stored: the paper's TurboQuant_prod", "Algorithm 2"),
    Variant("prod-orthogonal", "prod", {"sketch": "orthogonal"}, "Algorithm 2 with an orthogonal S, ||r|| stored",
            "TheTom/turboquant_plus#93"),
    Variant("prod-released", "prod", {"sketch": "orthogonal", "residual": "expected"},
            "Algorithm 2 as in the authors' code: orthogonal S, ||r|| replaced by its root mean square", "tO3ASKZlok"),
    Variant("qjl", "qjl", {}, "QJL alone, m = b d signs of a Gaussian sketch", "arXiv 2406.03482"),
    Variant("qjl-orthogonal", "qjl", {"sketch": "orthogonal"}, "QJL alone, m = b d signs of an orthogonal sketch",
            "arXiv 2406.03482"),
    Variant("rabitq", "rabitq", {}, "RaBitQ: its grid, a t for every vector, the unbiased scale", _RABITQ),
    Variant("rabitq-least_squares", "rabitq", {"scale": "least_squares"}, "RaBitQ, the scale of least error", _RABITQ),
    Variant("rabitq-fast", "rabitq", {"rescale": "fast"}, "RaBitQ with one t for all vectors", _RABITQ),
    Variant("rabitq-fast-least_squares", "rabitq", {"scale": "least_squares", "rescale": "fast"},
            "RaBitQ with one t for all vectors, the scale of least error", _RABITQ),
    Variant("polar", "polar", {}, "PolarQuant: b, b-2, b-2, b-2 bits an angle, float16 radii of blocks of 16",
            "arXiv 2502.02617", make=_polar("norm"), widths=range(3, 9), fits="multiples of 16"),
    Variant("polar-unbiased", "polar", {"scale": "unbiased"}, "PolarQuant, unbiased by a constant",
            "arXiv 2502.02617", make=_polar("unbiased"), widths=range(3, 9), fits="multiples of 16"),
    Variant("minmax", "minmax", {}, "min-max codes in groups of 32 channels of a token, float16 scale and zero point",
            "arXiv 2402.02750", make=lambda d, bits, seed, kind: minmax.setup(d, bits), fits="multiples of 32",
            rotation="none"),
)  # fmt: skip

_WILD = (
    Variant("mse-entropy", "mse", {"storage": "entropy-coded"}, "Algorithm 1, its indices entropy-coded",
            "end of section 3.1", make=_mse(), stores="entropy"),
    Variant("mse-ecsq", "mse", {"codebook": "uniform"}, "Algorithm 1 with uniform cells, entropy-coded: as many "
            "bits as the entropy of Eq 4's index", "Gish and Pierce, 1968", make=_mse(_uniform), widths=range(1, 7),
            stores="entropy"),
    Variant("mse-gaussian", "mse", {"codebook": "gaussian"}, "Algorithm 1 with the codebook of the Gaussian limit",
            "most ports", make=_mse(_gaussian)),
    Variant("mse-blocks-32", "channels", {"blocks": "32"}, "Algorithm 1 on blocks of 32 channels, a float16 norm each",
            "TheTom/turboquant_plus, block-size-experiment.md", make=_parts(lambda d: [32] * (d // 32)),
            fits="multiples of 32", stores="float16"),
    Variant("mse-blocks-64", "channels", {"blocks": "64"}, "Algorithm 1 on blocks of 64 channels, a float16 norm each",
            "TheTom/turboquant_plus, block-size-experiment.md", make=_parts(lambda d: [64] * (d // 64)),
            fits="multiples of 64", stores="float16"),
    Variant("mse-outliers", "channels", {"outliers": "a quarter"}, "a quarter of the channels at b + 1 bits, the "
            "others at b, float16 norms", "section 4.3", make=_parts(_quarters, 1), widths=range(1, 8),
            fits="multiples of 4 from 8", stores="float16"),
    Variant("authors-mse", "mse", {"rotation": "qr", "codebook": "authors"}, "the authors' code: QR without sign fix, "
            "their tables, unit vectors only", "tO3ASKZlok", make=_mse(_authors, law="qr"), widths=range(1, 6),
            rotation="qr", stores="none"),
    Variant("authors-prod", "prod", {"rotation": "qr", "codebook": "authors"}, "the authors' code: orthogonal S with "
            "kappa_d left in, constants for ||r||, their tables", "tO3ASKZlok",
            make=_prod(lambda d, bits, root: theory.kappa(d) * _NORM_REDUCTION[bits - 1] / root, "orthogonal", _authors,
                       "expected", "qr"), widths=range(1, 6), rotation="qr", stores="none"),
    Variant("faiss-eden", "mse", {"codebook": "gaussian", "scale": "unbiased"}, "faiss EDEN: Gaussian codebook, "
            "unbiased scale (faiss stores 4 bytes more)", "facebookresearch/faiss#5278",
            make=_mse(_gaussian, "unbiased")),
    Variant("faiss-sqtqmse", "mse", {"codebook": "gaussian", "norm": "none"}, "faiss SQtqmse: Gaussian codebook, no "
            "norm, unit vectors only", "facebookresearch/faiss#5317", make=_mse(_gaussian), stores="none"),
    Variant("turbo3-turbo4", "mse", {"rotation": "hadamard", "codebook": "gaussian"}, "llama.cpp forks: one signed "
            "Hadamard round, Gaussian table, matched norm in float16", "TheTom/llama-cpp-turboquant",
            make=_mse(_gaussian, "matched", "hadamard"), wrong=True, widths=range(3, 5), fits="d = 128",
            rotation="hadamard", stores="float16"),
    Variant("vllm", "mse", {"rotation": "unsigned", "codebook": "gaussian"}, "vLLM *_nc keys: Hadamard without signs, "
            "Gaussian table, matched norm in float16", "vllm-project/vllm#38479",
            make=_mse(_gaussian, "matched", "unsigned"), wrong=True, widths=range(3, 5), fits="a power of two",
            rotation="unsigned", stores="float16"),
    Variant("faiss-tq", "prod", {"sketch": "orthonormal", "codebook": "gaussian"}, "faiss QT_*_tq: orthonormal S with "
            "the constant of a Gaussian one", "facebookresearch/faiss#5146",
            make=_prod(lambda d, bits, root: theory.kappa(d) / math.sqrt(d), "orthogonal", _gaussian), wrong=True,
            widths=range(2, 6)),
    Variant("prod-double-scaled", "prod", {"gain": "1/√d"}, "Algorithm 2, S divided by √d twice",
            "Alberto-Codes/turboquant-vllm", make=_prod(lambda d, bits, root: 1 / math.sqrt(d)), wrong=True),
    Variant("prod-kappa", "prod", {"gain": "kappa"}, "Algorithm 2, orthogonal S with kappa_d left in",
            "amirzandieh/QJL", make=_prod(lambda d, bits, root: theory.kappa(d), "orthogonal"), wrong=True),
    Variant("mse-one-hadamard", "mse", {"rotation": "hadamard"}, "Algorithm 1 with one signed Hadamard round",
            "codepawl/turboquant-torch", make=_mse(law="hadamard"), wrong=True, fits="a power of two",
            rotation="hadamard"),
    Variant("mse-unsigned", "mse", {"rotation": "unsigned"}, "Algorithm 1 with a Hadamard matrix without signs",
            "Scottcjn/rustchain-bounties#71", make=_mse(law="unsigned"), wrong=True, fits="a power of two",
            rotation="unsigned"),
    Variant("mse-qr", "mse", {"rotation": "qr"}, "Algorithm 1, QR without sign fix", "hackimov/turboquant-kv",
            make=_mse(law="qr"), wrong=True, rotation="qr"),
    Variant("authors-outliers", "channels", {"codebook": "of the whole d"}, "mse-outliers, each part with the authors' "
            "table over the √d of the whole vector", "released code, outlier channels",
            make=_parts(_quarters, 1, _authors), wrong=True, widths=range(1, 5),
            fits="multiples of 4 from 8", stores="float16"),
)  # fmt: skip

NAMED: dict[str, Variant] = {variant.name: variant for variant in _NAMED}
"""Every variant of this house by its name: what "all" stands for."""

WILD: dict[str, Variant] = {variant.name: variant for variant in _WILD}
"""Every variant that others run, right or wrong, by its name."""

DEFAULT = ("mse", "mse-unbiased", "prod", "prod-orthogonal")
"""What a report compares if it is not told."""


def find(name: str) -> Variant:
    """The variant of this name, of `NAMED` or of `WILD`.

    Raises
    ------
    ValueError
        For a name that is none; the message lists those that are.
    """
    every = NAMED | WILD
    if name not in every:
        raise ValueError(_unknown(name))
    return every[name]


def _unknown(name: str) -> str:
    every = NAMED | WILD
    width = max(map(len, every))
    known = "\n".join(f"  {v.name:<{width}}  {v.description}" for v in every.values())
    return f"no algorithm is called {name!r}; allowed are all, or some of\n{known}"


def named(names: list[str] | tuple[str, ...]) -> list[Variant]:
    """The variants of these names, each once, in the order given; "all" stands for every one of `NAMED`.

    Raises
    ------
    ValueError
        For a name that is none; the message lists those that are.
    """
    every = NAMED | WILD
    unknown = [name for name in names if name != "all" and name not in every]
    if unknown:
        raise ValueError(_unknown(unknown[0]))
    chosen = [key for name in names for key in (NAMED if name == "all" else (name,))]
    return [every[name] for name in dict.fromkeys(chosen)]
