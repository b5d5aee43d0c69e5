"""The questions of the golden vectors: which inputs, in which groups, and what each is there to catch.

`generate` computes the answers. Everything here is a function of constants: random-looking vectors are Gaussians of
`generator`, rounded to 1/256 so that no library's last bit matters; a dense Pi or S that is "given" is likewise made
of elementwise operations only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codebook as codebooks
from .. import generator, qjl
from .. import rotation as rotations
from ..mse import SCALES
from .golden import texts

__all__ = ["GROUPS"]

Group = dict[str, Any]
Floats = NDArray[np.float64]
DTYPES = ("float64", "float32")


def _test(comment: str, flags: str, result: str = "valid", **inputs: Any) -> dict[str, Any]:
    return {"comment": comment, "flags": flags.split(), "inputs": inputs, "result": result}


def _hex(seed: int) -> str:
    return f"{seed:016x}"


def vector(d: int, seed: int) -> Floats:
    """An ordinary vector: Gaussians rounded to 1/256."""
    return np.rint(generator.gaussians(seed, 7, d) * 256) / 256


def dense(d: int, seed: int = 1) -> Floats:
    """An orthogonal matrix that every machine computes to the same bit."""
    return rotations.structured(d, seed).matrix()


def _packing() -> list[Group]:
    groups: list[Group] = []
    for bits in range(1, 9):
        top = 2**bits - 1
        ramp = [(5 * j + j // 3) % (top + 1) for j in range(37)]
        tests = [
            _test("one number, its low bit set", "BitOrder Padding", numbers=[1]),
            _test("the first of nine", "BitOrder ByteBoundary", numbers=[top] + 8 * [0]),
            _test("the last of nine", "BitOrder ByteBoundary", numbers=8 * [0] + [top]),
            _test("eight fill whole bytes", "ByteBoundary", numbers=[j % (top + 1) for j in range(8)]),
            _test("37 numbers, all bits of padding zero", "Typical ByteBoundary Padding", numbers=ramp),
            _test("all at the top", "Padding", numbers=13 * [top]),
        ]
        if bits < 8:
            tests.append(_test("a number that does not fit", "Malformed", "invalid", numbers=[0, top + 1]))
        groups.append({"type": "Bits", "bits": bits, "tests": tests})
    for bits, n, bad in ((3, 3, "ffff"), (1, 9, "0002"), (5, 1, "20")):
        tests = [
            _test("padding bits that are not zero", "Padding", "invalid", packed=bad),
            _test("a byte too many", "Malformed", "invalid", packed=bad + "00"),
            _test("a byte too few", "Malformed", "invalid", packed=bad[2:]),
            _test("zero bytes", "Typical", packed="00" * (len(bad) // 2)),
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
        tests = [_test("rounded to nearest, ties to even, once", "ScalarRounding", values=values)]
        if scalars in ranges:
            low, high = ranges[scalars]
            tests.append(_test("below the normal range", "ScalarRange", "invalid", values=[low]))
            tests.append(_test("above the largest number", "ScalarRange", "invalid", values=[high]))
        tests.append(_test("NaN", "Malformed", "invalid", values=["NaN"]))
        groups.append({"type": "Scalars", "scalars": scalars, "tests": tests})
    return groups


def _codebook() -> list[Group]:
    groups: list[Group] = []
    for d in (2, 3, 4, 8, 16, 64, 128, 1536):
        flags = {2: "MinimalDimension", 3: "Uniform"}.get(d, "OwnDimension" if d > 16 else "OwnDimension GaussianLimit")
        tests = [_test(f"{2**b} centroids", flags + (" ManyLevels" if b > 3 else ""), bits=b) for b in range(1, 9)]
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
                _test(
                    "zeros and the smallest numbers", "Tie NegativeZero Denormal", coordinates=[0.0, -0.0, tiny, -tiny]
                ),
                _test("across the line", "Typical", coordinates=texts(spread)),
                _test("on every boundary", "Tie" + " BoundaryCast" * (dtype == "float32"), coordinates=texts(edges)),
                _test("just beside a boundary", "OwnDimension", coordinates=texts(beside)),
                _test("the ends, and beyond by rounding", "Outermost", coordinates=[1.0, -1.0, 1 + last, -1 - last]),
            ]
            centroids = texts(book.centroids)
            groups.append(
                {"type": "Index", "d": d, "bits": bits, "dtype": dtype, "centroids": centroids, "tests": tests}
            )
    return groups


SEEDS = (0, 1, 2**64 - 1, 0xFEDCBA9876543210)


def _rotation() -> list[Group]:
    drawn = [(s, t) for s in SEEDS for t in (0, 1)] + [(0, 2), (5, 1000)]

    def tests(comment: str, flags: str, sizes: Iterable[int]) -> list[dict[str, Any]]:
        both = [(s, t, n) for n in sizes for s, t in drawn[: 10 if n < 65 else 2]]
        named = {True: " Streams", False: ""}
        return [_test(comment, flags + named[t > 0], seed=_hex(s), stream=t, n=n) for s, t, n in both]

    groups: list[Group] = [
        {"type": "Words", "tests": tests("words", "Words", [4])},
        {"type": "Signs", "tests": tests("signs, as +1 and -1", "SignBits", [1, 9, 64, 65, 130])},
        {"type": "Angles", "tests": tests("cosines and sines", "Rejection", [7, 70])},
        {"type": "Gaussians", "tests": tests("Gaussians", "Words", [8])},
    ]
    for dtype in DTYPES:
        transforms = [_test("one coordinate stays", "Typical", x=[-2.5])]
        for n in (2, 4, 8, 32, 128):
            transforms.append(_test(f"{n} coordinates", "ButterflyOrder", x=texts(vector(n, n) / 3)))
            transforms.append(_test(f"the second of {n}", "OneHot", x=[0.0, 1.0] + (n - 2) * [0.0]))
        for t in transforms:
            t["inputs"]["x"] = texts(np.asarray(t["inputs"]["x"]).astype(dtype))
        groups.append({"type": "Fwht", "dtype": dtype, "tests": transforms})
    for d in (2, 3, 5, 6, 7, 12, 16, 24, 63, 65, 96, 100, 127, 128):
        odd = " OddDimension" if d % 2 else " NotPowerOfTwo" if d & (d - 1) else ""
        for dtype in DTYPES[: 1 + (d in (2, 7, 12, 96, 100))]:
            inputs = [
                _test("ordinary", "Typical Transposed" + odd, x=texts(vector(d, d))),
                _test("one-hot", "OneHot Transposed" + odd, x=[0.0] * (d - 1) + [1.0]),
            ]
            if d <= 24:
                inputs.append(_test("constant", "Constant Transposed" + odd, x=[0.5] * d))
            seed, stream = SEEDS[d % 4], d % 3
            groups.append(
                {"type": "Structured", "d": d, "seed": _hex(seed), "stream": stream, "dtype": dtype, "tests": inputs}
            )
    for d in (2, 3, 8, 16):
        drawn_matrix = [
            _test("Pi of a seed", "QRSigns" + " Streams" * t, seed=_hex(s), stream=t)
            for s, t in ((0, 0), (SEEDS[3], 1))
        ]
        groups.append({"type": "Haar", "d": d, "tests": drawn_matrix})
    return groups


def _inputs(d: int, dtype: str, which: str, invalid: bool = False) -> list[dict[str, Any]]:
    """Vectors with their queries; `which` are words from the table below."""
    extremes = {"float64": (5e-324, 3e-310, 1e-200, 1e200, 1.7e308), "float32": (2.0**-149, 1e-40, 1e-25, 1e25, 3e38)}
    smallest, denormal, small, large, largest = extremes[dtype]
    e = np.eye(d)
    x = vector(d, d + 1)
    table: dict[str, tuple[str, str, Floats]] = {
        "typical": ("ordinary", "Typical NonUnitNorm Transposed", x),
        "other": ("ordinary, of norm about 300", "Typical NonUnitNorm RelativeResidual", vector(d, d + 2) * 100),
        "correlated": ("the query itself", "Typical DoubleScaling", vector(d, d + 100)),
        "first": ("one-hot", "OneHot", e[0]),
        "last": ("one-hot, negative", "OneHot", -3 * e[-1]),
        "two": ("two-hot", "TwoHot", e[0] - e[d // 2]),
        "constant": ("constant", "Constant", np.full(d, 0.25)),
        "alternating": ("alternating", "Constant", np.where(np.arange(d) % 2 == 0, 1.0, -1.0)),
        "zero": ("zero", "ZeroVector", np.zeros(d)),
        "minus": ("minus zero", "ZeroVector NegativeZero", np.full(d, -0.0)),
        "smallest": ("the smallest number, once", "Denormal OneHot", smallest * e[1]),
        "denormal": ("denormals", "Denormal", denormal * x),
        "small": ("squares vanish", "TinyNorm", small * x),
        "large": ("squares overflow", "HugeNorm", large * x),
        "mixed": ("1 beside the nearly invisible", "MixedMagnitude", np.where(np.arange(d) % 2 == 0, x, small * x)),
    }
    tests = []
    for word in which.split():
        comment, flags, values = table[word]
        tests.append(
            _test(comment, flags, x=texts(values.astype(dtype)), query=texts(vector(d, d + 100).astype(dtype)))
        )
    if invalid:
        bad = {"NaN": "NotFinite", "Infinity": "NotFinite", "-Infinity": "NotFinite"}
        for value, flag in bad.items():
            tests.append(_test(value, flag, "invalid", x=[*texts(x.astype(dtype))[:-1], value]))
        full = texts(np.full(d, largest).astype(dtype))
        tests.append(_test("the norm is larger than any number", "NormOverflow", "invalid", x=full))
    return tests


ALL = "typical other first last two constant alternating zero minus smallest denormal small large mixed"


def _given(matrix: Floats) -> dict[str, Any]:
    return {"kind": "dense", "matrix": texts(matrix)}


def _seeded(seed: int, stream: int = 0) -> dict[str, Any]:
    return {"kind": "structured", "seed": _hex(seed), "stream": stream}


def _centroids(d: int, bits: int) -> list[float]:
    return list(texts(codebooks.lloyd_max(d, bits).centroids)) if bits else []


def _mark(tests: list[dict[str, Any]], *flags: str) -> list[dict[str, Any]]:
    """The tests with more flags on those that have an answer."""
    for test in tests:
        if test["result"] == "valid":
            test["flags"] += [flag for flag in flags if flag and flag not in test["flags"]]
    return tests


def _kind_of_dimension(d: int) -> str:
    return "MinimalDimension" if d == 2 else "OddDimension" if d % 2 else "NotPowerOfTwo" if d & (d - 1) else ""


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
        marked = _mark(
            tests, _kind_of_dimension(d), "ScaleRule" if scale != "norm" else "", "ManyLevels" if bits > 4 else ""
        )
        shared = {"d": d, "bits": bits, "dtype": dtype, "scale": scale, "scalars": scalars}
        return {"type": "Mse", **shared, "rotation": pi, "centroids": _centroids(d, bits), "tests": marked}

    groups = []
    for dtype in DTYPES:
        pi = _given(dense(8))
        groups += [group(8, b, dtype, pi, _inputs(8, dtype, "typical other first")) for b in range(1, 9)]
        groups.append(group(8, 3, dtype, pi, _inputs(8, dtype, ALL, invalid=True), scalars="float64"))
        for scale in SCALES[1:]:
            words = "typical other constant two zero small large"
            groups += [group(8, b, dtype, pi, _inputs(8, dtype, words), scale, "float64") for b in (1, 3)]
        for b in (1, 2, 4):  # zeros stay zeros under a matrix of zeros and ones: every coordinate but one is a tie
            exact = _inputs(4, dtype, "first last zero minus")
            turned = np.eye(4)[[2, 0, 3, 1]] * np.array([1.0, -1.0, 1.0, 1.0])
            groups.append(group(4, b, dtype, _given(turned), _mark(exact, "Tie", "NegativeZero")))
        for d, b in ((2, 2), (3, 2), (5, 4), (7, 3), (16, 2)):
            groups.append(
                group(d, b, dtype, _given(dense(d, d)), _inputs(d, dtype, "typical other first constant zero"))
            )
        for d, b in ((5, 2), (96, 3), (100, 4), (127, 2)):
            words = "typical last" if d < 100 else "other"
            groups.append(group(d, b, dtype, _seeded(SEEDS[d % 4]), _inputs(d, dtype, words)))
        groups.append(group(128, 3, dtype, _seeded(0), _inputs(128, dtype, "typical two constant zero")))
        groups.append(group(128, 4, dtype, _seeded(SEEDS[3]), _inputs(128, dtype, "other"), "unbiased"))
    groups.append(group(768, 4, "float32", _seeded(7), _inputs(768, "float32", "typical")))
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
    given = _given(_sketch_matrix(d, m, kind, seed)) if d <= 16 else _seeded(seed, 1)
    return {"d": d, "m": m, "sketchKind": kind, "mu": _mu(d, kind), "sketch": given}


def _sketch_flags(d: int, m: int, kind: str) -> Sequence[str]:
    orthogonal = "OrthogonalConstant" if kind == "orthogonal" else ""
    return "DoubleScaling", "SketchSize" if m != d else "", orthogonal, _kind_of_dimension(d)


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
        return {"type": "Qjl", **shared, "tests": _mark(tests, *_sketch_flags(d, m, kind))}

    groups = []
    for dtype in DTYPES:
        for kind in ("gaussian", "orthogonal"):
            for d, m in ((2, 3), (7, 7), (8, 8), (8, 5), (8, 20), (16, 16)):
                groups.append(group(d, m, dtype, kind, _inputs(d, dtype, "typical correlated first")))
        groups.append(group(8, 8, dtype, "gaussian", _inputs(8, dtype, ALL, invalid=True), scalars="float64"))
        holes = _sketch_matrix(4, 6, "gaussian", 3) * (np.arange(24).reshape(6, 4) % 3 > 0)
        tests = _mark(_inputs(4, dtype, "first last zero minus"), "SignOfZero", "NegativeZero")
        groups.append(group(4, 6, dtype, "gaussian", tests, {**_sketch(4, 6, "gaussian", 3), "sketch": _given(holes)}))
        for d, m in ((96, 96), (100, 150), (128, 128), (128, 64)):
            words = "typical last" if m <= 100 else "typical"
            groups.append(group(d, m, dtype, "orthogonal", _inputs(d, dtype, words)))
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
        marked = _mark(tests, *extra, expected, *_sketch_flags(d, m, kind))
        return {**shared, "scalars": scalars, "rotation": pi, "centroids": _centroids(d, bits - 1), "tests": marked}

    groups = []
    for dtype in DTYPES:
        pi = _given(dense(8))
        for b in range(1, 9):
            groups.append(
                group(8, 8, b, dtype, "gaussian", "stored", pi, _inputs(8, dtype, "typical other correlated"))
            )
        for kind, residual in (("orthogonal", "stored"), ("gaussian", "expected"), ("orthogonal", "expected")):
            for b in (1, 3):
                groups.append(group(8, 8, b, dtype, kind, residual, pi, _inputs(8, dtype, "typical other zero")))
        groups.append(
            group(8, 8, 3, dtype, "gaussian", "stored", pi, _inputs(8, dtype, ALL, invalid=True), scalars="float64")
        )
        for m in (5, 20):
            groups.append(group(8, m, 2, dtype, "gaussian", "stored", pi, _inputs(8, dtype, "typical other")))
        groups.append(group(8, 20, 3, dtype, "orthogonal", "stored", pi, _inputs(8, dtype, "typical other")))
        for d, b in ((2, 2), (3, 3), (7, 4), (16, 3)):
            groups.append(
                group(
                    d,
                    d,
                    b,
                    dtype,
                    "gaussian",
                    "stored",
                    _given(dense(d, d)),
                    _inputs(d, dtype, "typical first constant"),
                )
            )
        holes = _sketch_matrix(4, 6, "gaussian", 3) * (np.arange(24).reshape(6, 4) % 3 > 0)
        given = {**_sketch(4, 6, "gaussian", 3), "sketch": _given(holes)}
        tests = _mark(_inputs(4, dtype, "first last zero minus"), "SignOfZero", "NegativeZero")
        groups.append(group(4, 6, 1, dtype, "gaussian", "stored", _given(np.eye(4)), tests, given))
        for d, b, m in ((96, 3, 96), (100, 2, 150), (127, 4, 127), (128, 3, 64)):
            words = "typical" if d > 100 else "other last"
            pi = _seeded(SEEDS[d % 4])
            groups.append(group(d, m, b, dtype, "orthogonal", "stored", pi, _inputs(d, dtype, words)))
        pi = _seeded(0)
        groups.append(group(128, 128, 3, dtype, "orthogonal", "stored", pi, _inputs(128, dtype, "correlated constant")))
        groups.append(group(128, 128, 4, dtype, "orthogonal", "expected", pi, _inputs(128, dtype, "typical")))
    return groups


GROUPS = {"packing": _packing, "codebook": _codebook, "rotation": _rotation, "mse": _mse, "qjl": _qjl, "prod": _prod}
"""The groups of each file, their tests without tcId and outputs."""
