"""What is wrong, by name: failing findings matched with the signatures of known mistakes.

A figure carries its interval, and `mistakes` says what each known mistake measures, for the very figure,
dimension and bit width. A mistake *fits* if it explains at least one failing figure of a function and contradicts
none of its figures, the passing ones included. Those that fit are ranked by how many failures they explain, then
by the mean squared distance in standard errors. If none fits, the one that explains most of the failures is named
as a part of the truth; if there is none either, the answer is "unknown".

Failures of behaviour (`edges`) name their cause themselves; stored bytes and tables of centroids are compared
with those of known mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .finding import Finding
from .mistakes import predictions
from .statistics import Claim, Figure, of_moments
from .stimuli import SPECIAL
from .tables import TABLES, exact

__all__ = ["CAUSES", "Diagnosis", "diagnose"]

ROUNDED = 2e-3
"""Relative accuracy of the signatures: a few of them leave out terms of order 1/d² (`mistakes`)."""

CAUSES = {
    "norm lost": "the answer does not grow with x: ||x|| must be stored and multiplied back (section 1.3 of the paper)",
    "not scaled to unit norm": "x must be divided by its norm before it is rotated and quantized",
    "norms in a batch": "every row needs its own norm; a scale of the whole batch will not do",
    "float16 norms": "norms are stored in float16, which ends at 65504; use float32 or bfloat16",
    "float32 squares": "squares of a float32 vector underflow below 1e-19 and overflow above 1e19: scale the row by a "
    "power of two first, or sum in float64",
    "epsilon in the norm": "a constant is added to the norm, or norms below it are cut off; only 0 needs a guard",
    "scale": "the answer must scale with x over the whole range of float32",
    "zero": "the zero vector has norm 0 and must decode to exactly 0",
    "zero over zero": "the zero vector is divided by its norm 0",
    "NaN swallowed": "NaN or infinity becomes an ordinary code: refuse it, or let it through in its row",
    "rows mixed": "the answer for a row depends on the rows beside it",
    "dtype": "float16 and float32 inputs must give what the same numbers in float64 give",
    "state kept": "the answer depends on earlier calls: draw Π and S from the seed alone, in every call alike",
    "seed ignored": "every seed must draw another Π (and S)",
    "argument written to": "the subject's array is the caller's: work on a copy",
    "global written to": "a global random generator is reseeded or advanced: use a generator of one's own",
    "softmax scale": "logits are <q, k>/√d: the scale is applied once, and is neither 1/d nor 1; base 2 needs log2 e",
    "ranking": "scores descend, ids belong to their scores, and a smaller k gives the first of a larger one",
    "tokens mixed": "the output is a mean of values weighted by the softmax: it does not depend on the order of the "
    "tokens, nor on how they are split into blocks, and the largest logit is subtracted first",
    "hangs": "a call did not come back within the time limit",
    "dies": "a call ended the process",
    "raises": "a call raised an exception",
    "shape or dtype": "the answer is not floating-point numbers of the documented shape",
}
"""Causes that a check names itself, and where to look."""


CONSEQUENCES = {
    "state kept": ("rows mixed", "norms in a batch", "not scaled to unit norm", "norm lost", "scale", "dtype"),
    "norm lost": ("norms in a batch", "zero", "NaN swallowed"),
    "not scaled to unit norm": ("norms in a batch", "zero", "NaN swallowed"),
    "norms in a batch": ("zero", "rows mixed"),
    "epsilon in the norm": ("zero",),
}
"""Causes that make other checks fail too."""


@dataclass(frozen=True)
class Diagnosis:
    """A name for what is wrong.

    Attributes
    ----------
    name : str
        Of the mistake; "unknown" if none fits.
    where : str
        Where to look.
    explains : tuple of str
        The checks that it explains.
    detail : str
        The figures that it was recognised by.
    alternatives : tuple of str
        Other mistakes that fit the same figures, best first.
    """

    name: str
    where: str
    explains: tuple[str, ...]
    detail: str = ""
    alternatives: tuple[str, ...] = ()


def diagnose(findings: Sequence[Finding]) -> list[Diagnosis]:
    """Name what made the findings of level 2 fail; those of levels 0 and 1 carry the notes of their golden vectors."""
    failed = [f for f in findings if f.level == 2 and f.passed is False]
    found = _statistics(findings) + _rotation(findings)
    causes = dict.fromkeys(cause for cause in map(_cause, failed) if cause)
    for cause, others in CONSEQUENCES.items():
        if cause in causes:
            causes = dict.fromkeys([cause, *(c for c in causes if c not in others and c != cause)])
    for cause in causes:
        named = (cause, *(c for c in CONSEQUENCES.get(cause, ()) if c not in causes))
        checks = [f for f in failed if _cause(f) in named]
        first = next(f for f in checks if _cause(f) == cause)
        found.append(Diagnosis(cause, CAUSES[cause], tuple(f.check for f in checks), first.detail))
    found += _tables([f for f in failed if isinstance(f, Figure) and f.figure == "table"])
    found += _bytes([f for f in failed if isinstance(f, Figure) and f.figure == "bytes"])
    if any(d.name == "rotation not orthogonal" for d in found):  # then nothing else is what it should be
        rest = tuple(f.check for f in failed if isinstance(f, Figure) and f.inputs)
        found.append(Diagnosis("rotation not orthogonal", "", rest))
    explained = {check for d in found for check in d.explains}
    unknown = [f for f in failed if f.check not in explained]
    if unknown:
        found.append(Diagnosis("unknown", _UNKNOWN, tuple(f.check for f in unknown), unknown[0].detail))
    return _merged(found)


_UNKNOWN = "no known mistake has these figures; compare stage by stage with the golden vectors (levels 0 and 1)"


def _cause(finding: Finding) -> str:
    if finding.flags and finding.flags[0] in CAUSES:
        return finding.flags[0]
    if isinstance(finding, Figure) and finding.estimate is not None:
        return ""
    words = {
        "no answer within": "hangs",
        "its process ended": "dies",
        "raises ": "raises",
        "exit status": "raises",
        "returned ": "shape or dtype",
        "expected an array": "shape or dtype",
        "no .npy": "shape or dtype",
    }
    return next((cause for start, cause in words.items() if finding.detail.startswith(start)), "")


def _merged(found: Iterable[Diagnosis]) -> list[Diagnosis]:
    """One entry a name."""
    names: dict[str, Diagnosis] = {}
    for d in found:
        if d.name in names:
            old = names[d.name]
            both = tuple(a for a in old.alternatives if a in d.alternatives)
            names[d.name] = Diagnosis(d.name, old.where, old.explains + d.explains, old.detail, both)
        else:
            names[d.name] = d
    return list(names.values())


# ------------------------------------------------------------------------------------------------------- statistics


@dataclass
class _Match:
    """How the figures of one function agree with one mistake."""

    name: str
    where: str
    explains: list[Figure]
    contradicted: int = 0
    distance: float = 0.0
    compared: int = 0
    best: str = ""

    @property
    def rank(self) -> tuple[int, float]:
        return -len(self.explains), self.distance / max(self.compared, 1)


def _statistics(findings: Sequence[Finding]) -> list[Diagnosis]:
    found = []
    for function in ("roundtrip", "inner_product", "search", "attend"):
        figures = [f for f in findings if isinstance(f, Figure) and f.function == function and f.estimate is not None]
        failed = [f for f in figures if f.passed is False]
        if failed:
            found += _explain(figures, failed)
    return found


def _explain(figures: list[Figure], failed: list[Figure]) -> list[Diagnosis]:
    matches = _matches(figures)
    fitting = sorted((m for m in matches if m.explains and not m.contradicted), key=lambda m: m.rank)
    if not fitting:
        part = sorted(
            (m for m in matches if 2 * len(m.explains) >= len(failed) and 4 * m.contradicted <= m.compared),
            key=lambda m: (m.contradicted, m.rank),
        )
        if not part:
            return []
        best = part[0]
        detail = f"a part of it: explains {len(best.explains)} of {len(failed)} failures; {best.best}"
        return [Diagnosis(best.name, best.where, tuple(f.check for f in best.explains), detail)]
    best, others = fitting[0], [m for m in fitting[1:] if len(m.explains) == len(fitting[0].explains)]
    near = [m.name for m in others if m.rank[1] <= 4 * best.rank[1] + 4]
    first = [Diagnosis(best.name, best.where, tuple(f.check for f in best.explains), best.best, tuple(near))]
    left = [f for f in failed if f not in best.explains]
    return first + (_explain([f for f in figures if f not in best.explains], left) if left else [])


def _matches(figures: list[Figure]) -> list[_Match]:
    """How every mistake agrees, made in an implementation of whichever allowed claim it then fits better."""
    best: dict[str, _Match] = {}
    for claim in dict.fromkeys(claim for f in figures for claim in f.allowed):
        matches: dict[str, _Match] = {}
        for d, bits, inputs in dict.fromkeys((f.d, f.bits, f.inputs) for f in figures):
            here = [f for f in figures if (f.d, f.bits, f.inputs) == (d, bits, inputs)]
            for mistake, moments in predictions(claim, d, bits, inputs):
                match = matches.setdefault(mistake.name, _Match(mistake.name, mistake.where, []))
                for figure in here:
                    _compare(match, figure, of_moments(moments, figure.figure), claim)
        for name, match in matches.items():
            if name.removeprefix("it is ") in {c.name for f in figures for c in f.allowed}:
                continue
            if name not in best or (match.contradicted, match.rank) < (best[name].contradicted, best[name].rank):
                best[name] = match
    return list(best.values())


def _compare(match: _Match, figure: Figure, value: float, claim: Claim) -> None:
    estimate = figure.estimate
    assert estimate is not None
    if math.isnan(value):
        match.explains += [figure] * (figure.passed is False)
        return
    allowed = max(estimate.half_width, ROUNDED * abs(value), 1e-9)
    fits = abs(estimate.value - value) <= allowed
    if not fits and figure.passed and figure.inputs in SPECIAL and value <= figure.limit:
        return  # a structured rotation has values of its own there
    match.contradicted += not fits
    match.compared += 1
    spread = max(estimate.std_error, ROUNDED * abs(value) / 3, 1e-12)
    match.distance += min(((estimate.value - value) / spread) ** 2, 1e6)
    if fits and figure.passed is False:
        if not match.best:
            inputs = "" if figure.inputs == "random" else f" of {figure.inputs} inputs"
            match.best = (
                f"{figure.figure}{inputs} at d = {figure.d}, b = {figure.bits}: {estimate.value:.4g} ± "
                f"{estimate.half_width:.1g} measured, {value:.4g} with this mistake, {figure.claimed:.4g} claimed "
                f"({claim.name})"
            )
        match.explains.append(figure)


# ---------------------------------------------------------------------------------- rotations, tables, stored bytes


def _rotation(findings: Sequence[Finding]) -> list[Diagnosis]:
    failed = [f for f in findings if f.passed is False and f.check.startswith("rotation ")]
    checks = {re.sub(r"rotation d=\d+( b=\d+)?: ", "", f.check): f for f in failed}
    found = []
    if "orthogonal" in checks:
        where = "a Gaussian matrix must be orthogonalised (QR), and the result not be cut out of a larger one"
        found.append(
            Diagnosis("rotation not orthogonal", where, tuple(f.check for f in failed), checks["orthogonal"].detail)
        )
        return found
    if "seeds differ" in checks:
        return [
            Diagnosis(
                "seed ignored", CAUSES["seed ignored"], tuple(f.check for f in failed), checks["seeds differ"].detail
            )
        ]
    if "a function of the seed" in checks:
        found.append(Diagnosis("state kept", CAUSES["state kept"], (checks["a function of the seed"].check,)))
    signs = [checks[name] for name in ("sign", "trace") if name in checks]
    if signs:
        where = "multiply the columns of Q by sign(diag R): a QR's own signs are the library's choice, not random"
        found.append(Diagnosis("QR without sign fix", where, tuple(f.check for f in signs), signs[0].detail))
    spread = [f for f in failed if isinstance(f, Figure) and f.figure == "distortion"]
    if spread:
        mse = Claim("mse")
        found += _explain([Figure(**{**vars(f), "claim": mse, "allowed": (mse,)}) for f in spread], spread)
    return found


def _tables(failed: list[Figure]) -> list[Diagnosis]:
    """One name for all tables of centroids, if one fits all; else one for each."""
    if not failed:
        return []
    checks = tuple(f.check for f in failed)
    far = {name: [_distance(name, f) for f in failed] for name in TABLES}
    # on the very d of its table "d = n for every d" is the right one, and no failure; elsewhere it must fit
    fits = sorted((name for name, distances in far.items() if max(distances) <= 1e-3), key=lambda name: sum(far[name]))
    if fits:
        return [Diagnosis(fits[0], TABLES[fits[0]][1], checks, failed[0].detail, tuple(fits[1:]))]
    return [_table(f) for f in failed]


def _distance(name: str, figure: Figure) -> float:
    """The largest difference of a centroid from that of a known table, relative to the outermost."""
    if name == f"codebook of d = {figure.d} for every d":
        return math.inf
    known = TABLES[name][0](figure.d, figure.bits)[1]
    return float(np.abs(np.array(figure.table) - known).max() / np.abs(known).max())


def _table(figure: Figure) -> Diagnosis:
    given, right, root = np.array(figure.table), exact(figure.d, figure.bits)[1], math.sqrt(figure.d)
    near = min(TABLES, key=lambda name: _distance(name, figure))
    ratio = float(given @ right / (right @ right))
    if _distance(near, figure) <= 1e-3:
        name, where = near, TABLES[near][1]
    elif float(np.abs(given + given[::-1]).max()) * root > 1e-2:
        name = "codebook not symmetric"
        where = "the law is symmetric: c_i = -c_(n-1-i); one half of the table is off, or trained on few samples"
    elif float(np.abs(given / ratio - right).max()) * root <= 1e-3:
        name, where = "codebook of the wrong scale", f"every centroid is {ratio:.4g} times the right one"
    else:
        name = "codebook not Lloyd-Max"
        where = "no known table; `codebook.of_centroids(law, table).residual` says how far it is from optimal"
    return Diagnosis(name, where, (figure.check,), figure.detail)


def _bytes(failed: list[Figure]) -> list[Diagnosis]:
    found = []
    for figure in failed:
        assert figure.estimate is not None
        n, d, b = figure.estimate.value, figure.d, figure.bits
        known = {
            "codes stored as int64": 8 * d,
            "codes stored as float32 or int32": 4 * d,
            "codes stored as float16 or int16": 2 * d,
            "a byte a code": d,
            "half a byte a code": math.ceil(d / 2),
            f"{2 ** math.ceil(math.log2(b))} bits a code": math.ceil(d * 2 ** math.ceil(math.log2(b)) / 8),
        }
        fits = [name for name, size in known.items() if size <= n <= size + 16]
        if n < figure.claimed and fits == []:
            name, where = "fewer bytes than bits", "the bytes reported leave something out that decoding needs"
        elif fits:
            name = fits[0]
            where = f"{n:.0f} bytes a vector where {b} bits a coordinate are {math.ceil(d * b / 8)}: pack the indices"
        else:
            name, where = "codes not packed", "indices, signs and side scalars together take more than the claimed bits"
        found.append(Diagnosis(name, where, (figure.check,), figure.detail))
    return found
