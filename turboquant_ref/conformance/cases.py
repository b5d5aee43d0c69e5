"""The questions of the golden vectors: which inputs, in which groups, and what each is there to catch.

`generate` computes the answers; `inputs` has the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codebook as codebooks
from .. import qjl
from .. import rotation as rotations
from ..mse import SCALES
from .golden import texts
from .inputs import (
    DTYPES,
    SEEDS,
    SOME,
    Group,
    asked,
    centroids_of,
    dense,
    digits,
    inputs_of,
    kind_of_dimension,
    mark,
    matrix_given,
    seed_given,
    vector,
)

__all__ = ["GROUPS"]

Floats = NDArray[np.float64]


def _packing() -> list[Group]:
    groups: list[Group] = []
    for bits in range(1, 9):
        top = 2**bits - 1
        ramp = [(5 * j + j // 3) % (top + 1) for j in range(37)]
        tests = [
            asked("one number, its low bit set", "BitOrder Padding", numbers=[1]),
            asked("the first of nine", "BitOrder ByteBoundary", numbers=[top] + 8 * [0]),
            asked("the last of nine", "BitOrder ByteBoundary", numbers=8 * [0] + [top]),
            asked("eight fill whole bytes", "ByteBoundary", numbers=[j % (top + 1) for j in range(8)]),
            asked("37 numbers, all bits of padding zero", "Typical ByteBoundary Padding", numbers=ramp),
            asked("all at the top", "Padding", numbers=13 * [top]),
        ]
        if bits < 8:
            tests.append(asked("a number that does not fit", "Malformed", "invalid", numbers=[0, top + 1]))
        groups.append({"type": "Bits", "bits": bits, "tests": tests})
    for bits, n, bad in ((3, 3, "ffff"), (1, 9, "0002"), (5, 1, "20")):
        tests = [
            asked("padding bits that are not zero", "Padding", "invalid", packed=bad),
            asked("a byte too many", "Malformed", "invalid", packed=bad + "00"),
            asked("a byte too few", "Malformed", "invalid", packed=bad[2:]),
            asked("zero bytes", "Typical", packed="00" * (len(bad) // 2)),
        ]
        groups.append({"type": "Unpack", "bits": bits, "n": n, "tests": tests})
    values = [
        0.0,
        1.0,
        1 / 3,
        math.pi,
        1.0 + 2.0**-11,
        1.0 + 2.0**-8 + 2.0**-9,
        1.0 + 2.0**-8 + 2.0**-32,
        1.0 + 2.0**-25,
    ]
    ranges = {"float32": (2.0**-127, 2.0**128), "float16": (2.0**-15, 65520.0), "bfloat16": (2.0**-127, 2.0**128)}
    for scalars in ("float32", "float64", "float16", "bfloat16"):
        tests = [asked("rounded to nearest, ties to even, once", "ScalarRounding", values=values)]
        if scalars in ranges:
            low, high = ranges[scalars]
            tests.append(asked("below the normal range", "ScalarRange", "invalid", values=[low]))
            tests.append(asked("above the largest number", "ScalarRange", "invalid", values=[high]))
        tests.append(asked("NaN", "Malformed", "invalid", values=["NaN"]))
        groups.append({"type": "Scalars", "scalars": scalars, "tests": tests})
    return groups


def _codebook() -> list[Group]:
    groups: list[Group] = []
    for d in (2, 3, 4, 8, 16, 64, 128, 1536):
        most = 6 if d in (4, 16, 64) else 8
        flags = {2: "MinimalDimension", 3: "Uniform"}.get(d, "OwnDimension" if d > 16 else "OwnDimension GaussianLimit")
        levels = range(1, most + 1)
        tests = [asked(f"{2**b} centroids", flags + (" ManyLevels" if b > 3 else ""), bits=b) for b in levels]
        groups.append({"type": "Table", "d": d, "tests": tests})
    for dtype in DTYPES:
        for d, bits in ((2, 2), (3, 2), (8, 1), (8, 3), (128, 3), (128, 4), (128, 8)):
            book = codebooks.lloyd_max(d, bits)
            edges = book.boundaries.astype(dtype).astype(np.float64)
            tiny = float(np.finfo(dtype).smallest_subnormal)
            step = float(book.centroids[-1] - book.centroids[0]) / 40
            spread = np.rint(np.arange(-24, 25) * step * 2**12) / 2**12
            beside = np.concatenate([book.boundaries * (1 - 2.0**-20), book.boundaries * (1 + 2.0**-20)])
            beside = beside[:: 1 + len(beside) // 32].astype(dtype)
            last = float(np.finfo(dtype).eps)
            tests = [
                asked(
                    "zeros and the smallest numbers", "Tie NegativeZero Denormal", coordinates=[0.0, -0.0, tiny, -tiny]
                ),
                asked("across the line", "Typical", coordinates=texts(spread)),
                asked("on every boundary", "Tie" + " BoundaryCast" * (dtype == "float32"), coordinates=texts(edges)),
                asked("just beside a boundary", "OwnDimension", coordinates=texts(beside)),
                asked("the ends, and beyond by rounding", "Outermost", coordinates=[1.0, -1.0, 1 + last, -1 - last]),
            ]
            centroids = texts(book.centroids)
            groups.append(
                {"type": "Index", "d": d, "bits": bits, "dtype": dtype, "centroids": centroids, "tests": tests}
            )
    return groups


def _rotation() -> list[Group]:
    drawn = [(s, t) for s in SEEDS for t in (0, 1)] + [(0, 2), (5, 1000)]

    def tests(comment: str, flags: str, sizes: Iterable[int]) -> list[dict[str, Any]]:
        both = [(s, t, n) for n in sizes for s, t in drawn[: 10 if n < 65 else 2]]
        named = {True: " Streams", False: ""}
        return [asked(comment, flags + named[t > 0], seed=digits(s), stream=t, n=n) for s, t, n in both]

    groups: list[Group] = [
        {"type": "Words", "tests": tests("words", "Words", [4])},
        {"type": "Signs", "tests": tests("signs, as +1 and -1", "SignBits", [1, 9, 64, 65, 130])},
        {"type": "Angles", "tests": tests("cosines and sines", "Rejection", [7, 70])},
        {"type": "Gaussians", "tests": tests("Gaussians", "Words", [8])},
    ]
    for dtype in DTYPES:
        transforms = [asked("one coordinate stays", "Typical", x=[-2.5])]
        for n in (2, 4, 8, 32, 128):
            transforms.append(asked(f"{n} coordinates", "ButterflyOrder", x=texts(vector(n, n) / 3)))
            transforms.append(asked(f"the second of {n}", "OneHot", x=[0.0, 1.0] + (n - 2) * [0.0]))
        for t in transforms:
            t["inputs"]["x"] = texts(np.asarray(t["inputs"]["x"]).astype(dtype))
        groups.append({"type": "Fwht", "dtype": dtype, "tests": transforms})
    for d in (2, 3, 5, 6, 7, 12, 16, 24, 63, 65, 96, 100, 127, 128):
        odd = " OddDimension" if d % 2 else " NotPowerOfTwo" if d & (d - 1) else ""
        for dtype in DTYPES[: 1 + (d in (2, 7, 12, 96))]:
            inputs = [
                asked("ordinary", "Typical Transposed" + odd, x=texts(vector(d, d))),
                asked("one-hot", "OneHot Transposed" + odd, x=[0.0] * (d - 1) + [1.0]),
            ]
            if d <= 24:
                inputs.append(asked("constant", "Constant Transposed" + odd, x=[0.5] * d))
            seed, stream = SEEDS[d % 4], d % 3
            groups.append(
                {"type": "Structured", "d": d, "seed": digits(seed), "stream": stream, "dtype": dtype, "tests": inputs}
            )
    for d in (2, 3, 8, 16):
        drawn_matrix = [
            asked("Pi of a seed", "QRSigns" + " Streams" * t, seed=digits(s), stream=t)
            for s, t in ((0, 0), (SEEDS[3], 1))
        ]
        groups.append({"type": "Haar", "d": d, "tests": drawn_matrix})
    return groups


def _mse() -> list[Group]:
    def group(
        d: int,
        bits: int,
        dtype: str,
        pi: dict[str, Any],
        tests: list[Any],
        scale: str = "norm",
        scalars: str = "float32",
    ) -> Group:
        marked = mark(
            tests, kind_of_dimension(d), "ScaleRule" if scale != "norm" else "", "ManyLevels" if bits > 4 else ""
        )
        shared = {"d": d, "bits": bits, "dtype": dtype, "scale": scale, "scalars": scalars}
        return {"type": "Mse", **shared, "rotation": pi, "centroids": centroids_of(d, bits), "tests": marked}

    groups = []
    for dtype in DTYPES:
        few = "typical other first" if dtype == "float64" else "other"
        pi = matrix_given(dense(8))
        groups += [group(8, b, dtype, pi, inputs_of(8, dtype, few)) for b in range(1, 9)]
        groups.append(group(8, 3, dtype, pi, inputs_of(8, dtype, SOME[dtype], invalid=True), scalars="float64"))
        for scale in SCALES[1:]:
            words = "typical other constant two zero small large" if dtype == "float64" else "other zero large"
            groups += [group(8, b, dtype, pi, inputs_of(8, dtype, words), scale, "float64") for b in (1, 3)]
        for b in (1, 2, 4):  # zeros stay zeros under a matrix of zeros and ones: every coordinate but one is a tie
            exact = inputs_of(4, dtype, "first last zero minus")
            turned = np.eye(4)[[2, 0, 3, 1]] * np.array([1.0, -1.0, 1.0, 1.0])
            groups.append(group(4, b, dtype, matrix_given(turned), mark(exact, "Tie", "NegativeZero")))
        for d, b in ((2, 2), (3, 2), (5, 4), (7, 3), (16, 2))[: 5 if dtype == "float64" else 4]:
            groups.append(
                group(d, b, dtype, matrix_given(dense(d, d)), inputs_of(d, dtype, "typical other first constant zero"))
            )
        for d, b in ((5, 2), (96, 3), (100, 4), (127, 2))[: 4 if dtype == "float64" else 3]:
            words = "typical last" if d < 100 else "other"
            groups.append(group(d, b, dtype, seed_given(SEEDS[d % 4]), inputs_of(d, dtype, words)))
    groups.append(group(128, 3, "float64", seed_given(0), inputs_of(128, "float64", "typical two constant")))
    groups.append(group(128, 4, "float32", seed_given(SEEDS[3]), inputs_of(128, "float32", "other"), "unbiased"))
    groups.append(group(192, 4, "float32", seed_given(4), inputs_of(192, "float32", "typical")))
    return groups


def _sketch_matrix(d: int, m: int, kind: str, seed: int) -> Floats:
    """A given S: rounded Gaussians, or rows of structured rotations times sqrt(d)."""
    if kind == "gaussian":
        return vector(m * d, seed).reshape(m, d)
    blocks = [rotations.structured(d, seed, stream=1 + k).matrix() for k in range(-(-m // d))]
    return np.concatenate(blocks)[:m] * math.sqrt(d)


def _mu(d: int, kind: str) -> float:
    return qjl.Sketch(d, 1, kind, None, (), "").mu


def _sketch(d: int, m: int, kind: str, seed: int) -> dict[str, Any]:
    given = matrix_given(_sketch_matrix(d, m, kind, seed)) if d <= 16 else seed_given(seed, 1)
    return {"d": d, "m": m, "sketchKind": kind, "mu": _mu(d, kind), "sketch": given}


def _sketch_flags(d: int, m: int, kind: str) -> Sequence[str]:
    orthogonal = "OrthogonalConstant" if kind == "orthogonal" else ""
    return "DoubleScaling", "SketchSize" if m != d else "", orthogonal, kind_of_dimension(d)


def _qjl() -> list[Group]:
    def group(
        d: int,
        m: int,
        dtype: str,
        kind: str,
        tests: list[Any],
        sketch: dict[str, Any] | None = None,
        scalars: str = "float32",
    ) -> Group:
        shared = {"dtype": dtype, **(sketch or _sketch(d, m, kind, d + m)), "scalars": scalars}
        return {"type": "Qjl", **shared, "tests": mark(tests, *_sketch_flags(d, m, kind))}

    groups = []
    for dtype in DTYPES:
        few = "typical correlated first" if dtype == "float64" else "other"
        for kind in ("gaussian", "orthogonal"):
            for d, m in ((2, 3), (7, 7), (8, 8), (8, 5), (8, 20), (16, 16))[: 6 if dtype == "float64" else 5]:
                groups.append(group(d, m, dtype, kind, inputs_of(d, dtype, few)))
        groups.append(group(8, 8, dtype, "gaussian", inputs_of(8, dtype, SOME[dtype], invalid=True), scalars="float64"))
        holes = _sketch_matrix(4, 6, "gaussian", 3) * (np.arange(24).reshape(6, 4) % 3 > 0)
        tests = mark(inputs_of(4, dtype, "first last zero minus"), "SignOfZero", "NegativeZero")
        given = {**_sketch(4, 6, "gaussian", 3), "sketch": matrix_given(holes)}
        groups.append(group(4, 6, dtype, "gaussian", tests, given))
        for d, m in ((96, 96), (100, 150), (128, 64), (128, 128))[: 4 if dtype == "float64" else 3]:
            words = "typical last" if m <= 100 else "typical"
            groups.append(group(d, m, dtype, "orthogonal", inputs_of(d, dtype, words)))
    return groups


def _prod() -> list[Group]:
    def group(
        d: int,
        m: int,
        bits: int,
        dtype: str,
        kind: str,
        residual: str,
        pi: dict[str, Any],
        tests: list[Any],
        sketch: dict[str, Any] | None = None,
        scalars: str = "float32",
    ) -> Group:
        extra = ("ResidualBasis" if bits > 1 else "", "TotalBits" if bits == 1 else "")
        expected = "ExpectedResidual" if residual == "expected" else ""
        shared: Group = {
            "type": "Prod",
            "bits": bits,
            "dtype": dtype,
            **(sketch or _sketch(d, m, kind, d + m)),
            "residual": residual,
        }
        if residual == "expected":
            shared["expectedResidual"] = math.sqrt(codebooks.lloyd_max(d, bits - 1).distortion) if bits > 1 else 1.0
        marked = mark(tests, *extra, expected, *_sketch_flags(d, m, kind))
        return {**shared, "scalars": scalars, "rotation": pi, "centroids": centroids_of(d, bits - 1), "tests": marked}

    groups = []
    for dtype in DTYPES:
        few = "typical other correlated" if dtype == "float64" else "other"
        pi = matrix_given(dense(8))
        for b in range(1, 9):
            groups.append(group(8, 8, b, dtype, "gaussian", "stored", pi, inputs_of(8, dtype, few)))
        for kind, residual in (("orthogonal", "stored"), ("gaussian", "expected"), ("orthogonal", "expected")):
            for b in (1, 3)[dtype == "float32" :]:
                groups.append(group(8, 8, b, dtype, kind, residual, pi, inputs_of(8, dtype, "other zero")))
        edges = inputs_of(8, dtype, SOME[dtype], invalid=True)
        groups.append(group(8, 8, 3, dtype, "gaussian", "stored", pi, edges, scalars="float64"))
        for m in (5, 20):
            groups.append(group(8, m, 2, dtype, "gaussian", "stored", pi, inputs_of(8, dtype, "other")))
        groups.append(group(8, 20, 3, dtype, "orthogonal", "stored", pi, inputs_of(8, dtype, "other")))
        for d, b in ((2, 2), (3, 3), (7, 4), (16, 3))[: 4 if dtype == "float64" else 3]:
            groups.append(
                group(
                    d,
                    d,
                    b,
                    dtype,
                    "gaussian",
                    "stored",
                    matrix_given(dense(d, d)),
                    inputs_of(d, dtype, "typical first constant"),
                )
            )
        holes = _sketch_matrix(4, 6, "gaussian", 3) * (np.arange(24).reshape(6, 4) % 3 > 0)
        given = {**_sketch(4, 6, "gaussian", 3), "sketch": matrix_given(holes)}
        tests = mark(inputs_of(4, dtype, "first last zero minus"), "SignOfZero", "NegativeZero")
        groups.append(group(4, 6, 1, dtype, "gaussian", "stored", matrix_given(np.eye(4)), tests, given))
        for d, b, m in ((96, 3, 96), (100, 2, 150), (128, 3, 64), (127, 4, 127))[: 4 if dtype == "float64" else 3]:
            words = "other last" if d < 100 else "typical"
            pi = seed_given(SEEDS[d % 4])
            groups.append(group(d, m, b, dtype, "orthogonal", "stored", pi, inputs_of(d, dtype, words)))
    pi, words = seed_given(0), "correlated constant"
    groups.append(group(128, 128, 3, "float64", "orthogonal", "stored", pi, inputs_of(128, "float64", words)))
    groups.append(group(128, 128, 4, "float64", "orthogonal", "expected", pi, inputs_of(128, "float64", "typical")))
    return groups


GROUPS = {"packing": _packing, "codebook": _codebook, "rotation": _rotation, "mse": _mse, "qjl": _qjl, "prod": _prod}
"""The groups of each file, their tests without tcId and outputs."""
