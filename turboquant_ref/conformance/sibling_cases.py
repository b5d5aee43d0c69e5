"""The questions of the golden vectors to the sibling algorithms: PolarQuant, RaBitQ and attention; see `cases`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import angle, generator, rabitq
from .golden import texts
from .inputs import (
    DTYPES,
    SEEDS,
    SOME,
    Group,
    asked,
    centroids_of,
    dense,
    inputs_of,
    kind_of_dimension,
    mark,
    matrix_given,
    seed_given,
    vector,
)

__all__ = ["GROUPS"]

TURNED = np.eye(4)[[2, 0, 3, 1]] * np.array([1.0, -1.0, 1.0, 1.0])
"""A matrix of zeros and signs: zeros stay zeros, and ties are exact."""


def _polar() -> list[Group]:
    def group(
        bits: tuple[int, ...],
        dtype: str,
        pi: dict[str, Any],
        tests: list[Any],
        d: int = 16,
        scale: str = "norm",
        scalars: str = "float16",
    ) -> Group:
        books = [angle.codebook(level, b) for level, b in enumerate(bits, 1)]
        tables = [{"centroids": texts(book.centroids), "boundaries": texts(book.boundaries)} for book in books]
        gain = 1 / angle.slope(books) if scale == "unbiased" else 1.0
        extra = ("LevelOrder" if len(bits) > 1 else "", "PolarGain" if scale == "unbiased" else "")
        shared = {"d": d, "bits": list(bits), "dtype": dtype, "scale": scale, "gain": gain, "scalars": scalars}
        marked = mark(tests, *extra, kind_of_dimension(d), "Radii" if d > 2 ** len(bits) else "")
        return {"type": "Polar", **shared, "rotation": pi, "codebooks": tables, "tests": marked}

    paper, groups = (4, 2, 2, 2), []
    for dtype in DTYPES:
        pi = matrix_given(dense(16))
        groups.append(group(paper, dtype, pi, mark(inputs_of(16, dtype, "typical other"), "PolarPairs")))
        pi = matrix_given(dense(8))
        groups.append(group((4, 2), dtype, pi, inputs_of(8, dtype, SOME[dtype], invalid=True), 8, scalars="float64"))
        groups.append(group((3, 2, 2), dtype, pi, inputs_of(8, dtype, "typical zero"), 8, "unbiased"))
        for bits in ((1, 1, 1), (3, 4, 5))[dtype == "float32" :]:
            groups.append(group(bits, dtype, pi, inputs_of(8, dtype, "typical two"), 8, scalars="float32"))
        groups.append(group((5,), dtype, matrix_given(dense(2)), inputs_of(2, dtype, "typical first zero"), 2))
        uneven = (8, 1) if dtype == "float64" else (1, 7)
        groups.append(group(uneven, dtype, matrix_given(dense(4, 4)), inputs_of(4, dtype, "typical"), 4))
        near = np.finfo(dtype).eps / 16  # an angle below 2 pi that float32, and float64 too, rounds up to it
        axes = [
            asked("around the circle", "Tie AngleWrap", x=[1.0, 1.0, -1.0, 1.0]),
            asked("its other half", "Tie AngleWrap", x=[-1.0, -1.0, 1.0, -1.0]),
            asked("the axes", "Tie AngleWrap ZeroBlock", x=[0.0, -1.0, 0.0, 0.0]),
            asked("minus zeros", "Tie AngleWrap ZeroBlock NegativeZero", x=[-1.0, -0.0, -0.0, -0.0]),
            asked("just below the axis", "AngleWrap", x=texts(np.array([1.0, -near, 0.0, 0.0]))),
            asked("a block of zeros, then another", "ZeroBlock NegativeZero", x=[-0.0, 0.0, 0.0, -2.0]),
        ]
        for test in axes:
            test["inputs"]["query"] = texts(vector(4, 104).astype(dtype))
        groups.append(group((2, 2), dtype, matrix_given(np.eye(4)), axes, 4))
        ties = mark(inputs_of(4, dtype, "first last zero minus"), "Tie", "ZeroBlock")
        groups.append(group((4,), dtype, matrix_given(TURNED), ties, 4))
        groups.append(group(paper, dtype, seed_given(SEEDS[2]), inputs_of(48, dtype, "other"), 48))
    groups.append(group(paper, "float32", seed_given(SEEDS[3]), inputs_of(64, "float32", "typical"), 64))
    groups.append(group(paper, "float64", seed_given(0), inputs_of(128, "float64", "typical"), 128))
    return groups


def _rabitq() -> list[Group]:
    def group(
        d: int,
        bits: int,
        dtype: str,
        pi: dict[str, Any],
        tests: list[Any],
        scale: str = "unbiased",
        scalars: str = "float32",
        fast: bool = False,
        bound: bool = False,
    ) -> Group:
        t = {"t": rabitq.fast_rescale(d, bits)} if fast else {}
        search = "" if bits == 1 else "FastRescale" if fast else "ExactSearch"
        marked = mark(
            tests, "GridOffset", search, "ScaleRule" if scale != "unbiased" else "", "Tangent" if bound else ""
        )
        shared = {"d": d, "bits": bits, "dtype": dtype, "scale": scale, **t, "bound": int(bound), "scalars": scalars}
        return {"type": "Rabitq", **shared, "rotation": pi, "tests": mark(marked, kind_of_dimension(d))}

    groups = []
    for d in (8, 128):
        tests = [asked(f"{b} bits", "FastRescale", bits=b) for b in (2, 4, 8)]
        groups.append({"type": "Rescale", "d": d, "tests": tests})
    for dtype in DTYPES:
        pi = matrix_given(dense(8))
        groups += [group(8, b, dtype, pi, inputs_of(8, dtype, "other")) for b in range(1, 9)]
        groups.append(group(8, 3, dtype, pi, inputs_of(8, dtype, SOME[dtype], invalid=True), scalars="float64"))
        for scale in rabitq.SCALES[:2]:
            groups += [group(8, b, dtype, pi, inputs_of(8, dtype, "typical"), scale) for b in (1, 4)]
        groups.append(group(8, 5, dtype, pi, inputs_of(8, dtype, "other zero"), fast=True))
        groups.append(group(8, 3, dtype, pi, inputs_of(8, dtype, "typical zero"), bound=True))
        for b in (1, 2, 4):  # the alternating vector is a direction of the grid, for several t
            tests = mark(inputs_of(4, dtype, "last zero minus"), "Tie", "NegativeZero")
            tests += mark(inputs_of(4, dtype, "alternating"), "ParallelGrid" if b > 1 else "Tie")
            groups.append(group(4, b, dtype, matrix_given(TURNED), tests, bound=b == 2))
        for d, b in ((2, 2), (3, 3), (7, 4)):
            groups.append(group(d, b, dtype, matrix_given(dense(d, d)), inputs_of(d, dtype, "typical")))
        groups.append(group(100, 4, dtype, seed_given(SEEDS[1]), inputs_of(100, dtype, "other"), bound=True))
    groups.append(group(65, 2, "float32", seed_given(SEEDS[3]), inputs_of(65, "float32", "typical")))
    groups.append(group(128, 4, "float64", seed_given(0), inputs_of(128, "float64", "typical"), fast=True))
    return groups


def _codes(d: int, bits: int, kv_heads: int, n: int, seed: int) -> dict[str, Any]:
    """Codes of no vectors in particular: any indices and scales are a code."""
    words = generator.words(seed, 3, kv_heads * n * d) % np.uint64(2**bits)
    scales = 0.5 + np.abs(vector(kv_heads * n, seed))
    return {
        "bits": bits,
        "rotation": matrix_given(dense(d, seed)) if d <= 16 else seed_given(seed),
        "centroids": centroids_of(d, bits),
        "indices": words.reshape(kv_heads, n, d).astype(int).tolist(),
        "scales": texts(scales.reshape(kv_heads, n)),
    }


def _attention() -> list[Group]:
    def group(d: int, heads: int, kv_heads: int, n: int, bits: tuple[int, int], dtype: str, tests: list[Any]) -> Group:
        keys, values = _codes(d, bits[0], kv_heads, n, 11 + d), _codes(d, bits[1], kv_heads, n, 12 + d)
        marked = mark(tests, "TwoRotations", "HeadOrder" if heads > kv_heads > 1 else "", kind_of_dimension(d))
        shared = {"d": d, "dtype": dtype, "heads": heads, "kvHeads": kv_heads}
        return {"type": "Attention", **shared, "keys": keys, "values": values, "tests": marked}

    def queries(d: int, heads: int, n: int) -> Any:
        return texts(vector(heads * n * d, 5 + n).reshape(heads, n, d))

    hidden = [[1, 0, 1, 1, 0], [0, 1, 1, 1, 1]]
    bias = [[0.5, -1.0, 0.0, -30.0, 0.25], [0.0, 2.0, -0.125, 0.0, -1.0]]
    groups = []
    for dtype in DTYPES:
        root = 1 / math.sqrt(8)
        q: dict[str, Any] = {"q": queries(8, 4, 2), "scale": root, "causal": 0}
        tests = [
            asked("all keys", "Typical LogitScale", **q),
            asked("another scale", "LogitScale", **{**q, "scale": 1.5}),
            asked("a soft cap", "SoftCap", **{**q, "scale": 2.0}, softcap=1.5),
            asked("causal: two queries at positions 3 and 4", "CausalOffset", **{**q, "causal": 1}),
            asked("a causal window of 2", "Window CausalOffset", **{**q, "causal": 1}, window=2),
            asked("a window of 2, ahead too", "Window", **q, window=2),
            asked("a mask", "Mask", **q, mask=hidden),
            asked("a bias", "Mask", **q, bias=bias),
            asked("all of them", "SoftCap Mask Window", **{**q, "causal": 1}, softcap=0.5, window=4, bias=bias),
            asked("huge logits", "SoftmaxOverflow", **{**q, "scale": 3000.0}),
        ]
        if dtype == "float32":
            tests = [tests[i] for i in (0, 2, 4, 8, 9)]
        nan = texts(vector(64, 5).reshape(4, 2, 8))
        nan[1][0][3] = "NaN"
        tests.append(asked("NaN in a query", "NotFinite", "invalid", **{**q, "q": nan}))
        three = {**q, "q": queries(8, 3, 2)}
        tests.append(asked("3 heads for 2 of the keys", "HeadOrder", "invalid", **three))
        tests.append(asked("a soft cap of 0", "SoftCap", "invalid", **q, softcap=0.0))
        tests.append(asked("a window of 0", "Window", "invalid", **q, window=0))
        groups.append(group(8, 4, 2, 5, (3, 2), dtype, tests))
        q = {"q": queries(7, 2, 3), "scale": 0.25, "causal": 1}
        tests = [asked("three queries, two keys", "NoVisibleKey CausalOffset", **q)]
        groups.append(group(7, 2, 1, 2, (4, 4), dtype, tests))
    q = {"q": queries(48, 2, 1), "scale": 0.125, "causal": 1}
    groups.append(group(48, 2, 2, 3, (2, 3), "float64", [asked("a decoding step", "CausalOffset LogitScale", **q)]))
    return groups


GROUPS = {"polar": _polar, "rabitq": _rabitq, "attention": _attention}
"""The groups of each file, their tests without tcId and outputs."""
