"""The report: its figures are right, its marks appear when something is wrong, and any honest file gets one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from turboquant_ref import codebook, data, measure, mse, report, sphere, theory, variants
from turboquant_ref._table import _plus_minus


@pytest.fixture(scope="module")
def x() -> report.Sample:
    return report.sample(np.random.default_rng(3).standard_normal((400, 16)).astype(np.float32), source="noise")


OWN = tuple(name for name, v in variants.NAMED.items() if v.algorithm in ("mse", "prod", "qjl"))
"""The variants whose exact values `theory` has by name; `test_variants.py` has the others."""


@pytest.fixture(scope="module")
def results(x: report.Sample) -> dict:
    return report.compute(x, (1, 3), OWN, draws=24, seed=1)


# ------------------------------------------------------------------------------------------------------- variants


def test_every_name_is_its_variant_and_theory_knows_it() -> None:
    assert set(variants.DEFAULT) <= set(variants.NAMED)
    for name, variant in variants.NAMED.items():
        assert name == variant.name
        assert variant.description
        if name in OWN:
            assert theory.slope(variant.algorithm, 16, 2, **variant.options) > 0
            measure.setup(variant.algorithm, 16, 2, 0, **variant.options)
    with pytest.raises(TypeError):
        variants.NAMED["mse-unbiased"].options["scale"] = "norm"  # type: ignore[index]


def test_named() -> None:
    assert [v.name for v in variants.named(["prod", "mse", "prod"])] == ["prod", "mse"]
    assert [v.name for v in variants.named(["all", "mse"])] == list(variants.NAMED)
    with pytest.raises(ValueError, match=r"(?s)'msr'.*mse-unbiased.*prod-orthogonal"):
        variants.named(["msr"])


# --------------------------------------------------------------------------------------------------------- sample


def test_sample_of_awkward_rows() -> None:
    rows = np.zeros((60, 5))
    rows[::2] = np.random.default_rng(0).standard_normal((30, 5))
    rows[::6] = rows[2]  # duplicates
    s = report.sample(rows)
    assert (s.rows, s.zero_rows, len(s.base), len(s.queries)) == (60, 30, 24, 6)
    assert s.norms == tuple(np.quantile(np.linalg.norm(rows[::2], axis=1), (0, 0.5, 1)))
    for y in (s.queries, s.correlated, s.partners):
        # a few dozen roundings of numbers up to 1, here and below
        np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, rtol=0, atol=1e-14)
    together = np.concatenate([s.base / np.linalg.norm(s.base, axis=1, keepdims=True), s.queries])
    expected = rows[::2] / np.linalg.norm(rows[::2], axis=1, keepdims=True)
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(expected, axis=0), rtol=0, atol=1e-14)


def test_nobody_is_his_own_partner() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 8))
    s = report.sample(rows)
    cosines = (s.base / np.linalg.norm(s.base, axis=1, keepdims=True) * s.partners).sum(1)
    assert np.abs(cosines).max() < 0.999


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_few_rows(n: int) -> None:
    s = report.sample(np.arange(1.0, 3 * n + 1).reshape(n, 3))
    assert (len(s.base), len(s.queries)) == ((n, 0) if n < 5 else (4, 1))
    results = report.compute(s, (1,), ("mse",), draws=2)
    assert ("recall_at_1_at_1" in results["rows"][0]) == (n == 5)
    assert "mse" in report.table(results)


@pytest.mark.parametrize(
    ("rows", "message"),
    [(np.zeros((3, 4)), "not zero"), (np.ones((2, 3, 4)), "shape"), (np.full((2, 3), np.nan), "NaN")],
)
def test_no_sample(rows: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        report.sample(rows)


def test_extreme_norms_change_nothing() -> None:
    """A power of two changes no relative figure, not by a bit: float32 and float64 near the ends of their ranges."""
    rows = np.random.default_rng(0).standard_normal((40, 6))

    def figures(rows: np.ndarray) -> list:
        r = report.compute(report.sample(rows), (2,), ("mse", "prod"), draws=3)
        return [row[name]["values"] for row in r["rows"] for name in (*report.LABELS, "recall_at_1_at_1")]

    for dtype, power in ((np.float32, 90), (np.float64, 990)):
        plain = figures(rows.astype(dtype))
        for k in (-power, power):
            assert figures(np.ldexp(rows.astype(dtype), k)) == plain


# -------------------------------------------------------------------------------------------------------- figures


def test_exact_values_are_theory_s(x: report.Sample, results: dict) -> None:
    assert len(results["rows"]) == 2 * len(OWN)
    unit = x.base / np.linalg.norm(x.base.astype(float), axis=1, keepdims=True)
    cosines = (unit * x.partners).sum(1)
    for row in results["rows"]:
        variant, b = variants.NAMED[row["algorithm"]], row["bits"]
        assert row["d_mse"]["exact"] == theory.distortion(variant.algorithm, 16, b, **variant.options)
        assert row["slope"]["exact"] == theory.slope(variant.algorithm, 16, b, **variant.options)
        pairs = [theory.inner_product_error(variant.algorithm, 16, b, float(c), **variant.options) for c in cosines]
        # a mean of 320 numbers against one formula, both to a few roundings
        assert row["scaled_d_prod"]["exact"] == pytest.approx(16 * np.mean(pairs), rel=1e-6)
        assert row["d_mse"]["rate_distortion"] == theory.rate_distortion(16, b)
        assert row["d_mse"]["paper_bound"] == (theory.theorem1_bound(b) if row["algorithm"] == "mse" else None)
        bound = row["scaled_d_prod"]["paper_bound"]
        assert bound == (16 * theory.theorem2_bound(16, b) if row["algorithm"] == "prod" else None)


def test_measured_figures_agree_with_theory(results: dict) -> None:
    """All 54 comparisons: the intervals hold together with probability 99 %, and the seed is fixed."""
    comparisons = results["comparisons"]
    assert (comparisons["count"], comparisons["outside"]) == (54, 0)
    assert comparisons["confidence"] == 1 - (1 - 0.99) / 54
    assert "!  " in report.table(results)  # the legend of the mark, and
    assert report.table(results).count("!") == 1  # no mark


def test_measured_figures_are_measure_s(x: report.Sample, results: dict) -> None:
    row = results["rows"][0]
    estimate = measure.distortion("mse", x.base, 1, draws=24, rng=np.random.default_rng((1, 0)))
    assert row["d_mse"]["values"] == estimate.values.tolist()
    recall = measure.recall("mse", x.base, x.queries, 1, k=10, draws=4, rng=np.random.default_rng((1, 1)))
    assert row["recall_at_1_at_10"]["values"] == recall.values.tolist()


def test_sizes_are_of_packed_codes(x: report.Sample, results: dict) -> None:
    for row in results["rows"]:
        module = measure.ALGORITHMS[row["module"]]
        Q = measure.setup(row["module"], 16, row["bits"], 5, **row["options"])
        packed = module.pack(Q, module.quantize(Q, x.base[:3]))
        assert row["bytes_per_vector"] == packed.data.shape[1]
        assert row["stored_bits"] == Q.stored_bits
        assert row["compression"] == {"float16": 32 / packed.data.shape[1], "float32": 64 / packed.data.shape[1]}


def test_draws_are_shared_out_over_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BLOCK", 10)
    s = report.sample(np.random.default_rng(0).standard_normal((50, 8)))  # 40 vectors in 4 blocks
    told = []
    results = report.compute(s, (1, 2), ("mse",), draws=7, progress=lambda *a: told.append(a))
    assert told == [(i, 2 * (7 + 4)) for i in range(1, 2 * (7 + 4) + 1)]
    assert results["settings"]["vectors_a_draw"] == 10
    assert [row["d_mse"]["draws"] for row in results["rows"]] == [7, 7]
    cosines = (s.base / np.linalg.norm(s.base, axis=1, keepdims=True) * s.partners).sum(1)
    weights = np.tile([2, 2, 2, 1], 10) / 70  # draws of the block that a vector is in
    assert results["data"]["root_mean_square_cosine"] == pytest.approx(np.sqrt(weights @ cosines**2), rel=1e-12)


def test_the_same_seed_gives_the_same_report(x: report.Sample, results: dict) -> None:
    again = report.compute(x, (1, 3), OWN, draws=24, seed=1)
    assert again == results
    other = report.compute(x, (1,), ("mse",), draws=24, seed=2)
    assert other["rows"][0]["d_mse"]["measured"] != results["rows"][0]["d_mse"]["measured"]


def test_default_draws() -> None:
    assert [report.default_draws(d) for d in (2, 50, 128, 300, 1536, 65536)] == [128, 128, 64, 27, 16, 16]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bits": (9,)}, ValueError),
        ({"bits": (2.5,)}, TypeError),
        ({"draws": 1}, ValueError),
        ({"seed": -1}, ValueError),
        ({"algorithms": ("none",)}, ValueError),
        ({"rotation": "none"}, ValueError),
    ],
)
def test_bad_arguments(x: report.Sample, change: dict, error: type) -> None:
    with pytest.raises(error):
        report.compute(x, **{"draws": 2, **change})


# ---------------------------------------------------------------------------------------------------------- marks


def boundaries_too(book: codebook.Codebook) -> codebook.Codebook:
    return codebook.of_centroids(sphere.law(50), 1.02 * book.centroids)


def decoder_only(book: codebook.Codebook) -> codebook.Codebook:
    return dataclasses.replace(book, centroids=1.02 * book.centroids)


@pytest.mark.parametrize(
    ("bug", "marked"),
    [
        (lambda book: book, set()),
        (boundaries_too, {"slope"}),  # near the optimum D_mse is flat: it rises by 0.2 % only
        (decoder_only, {"d_mse", "slope"}),  # here by 4.4 %
    ],
)
def test_a_codebook_scaled_by_2_percent_is_marked(bug: Callable, marked: set, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the bundled vectors, with the default number of draws; and without the bug there is no mark."""

    def planted(*arguments: object, **options: object) -> mse.Quantizer:
        Q = setup(*arguments, **options)
        return mse.Quantizer(Q.rotation, bug(Q.codebook), Q.scale)

    setup = mse.setup
    monkeypatch.setattr(mse, "setup", planted)
    results = report.compute(report.sample(data.glove()[1][:3000]), (4,), ("mse",))
    (row,) = results["rows"]
    found = {name for name in report.LABELS if row[name]["inside"] is False}
    assert marked <= found
    assert bool(found) == bool(marked)
    assert results["comparisons"]["outside"] == len(found)
    (line,) = (line for line in report.table(results).splitlines() if line.startswith("mse "))
    assert line.count("!") == len(found)


def test_without_an_exact_value_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> theory.Moments:
        raise ValueError("d = 3 is too small")

    monkeypatch.setattr(theory, "moments", refuse)
    results = report.compute(report.sample(np.eye(12)[:, :9] + 1), (2,), ("mse-matched",), draws=4)
    assert results["comparisons"]["count"] == results["comparisons"]["outside"] == 0
    assert results["rows"][0]["slope"]["exact"] is None
    text = report.table(results)
    assert "no exact value" in text
    assert "power" not in text
    assert report.plot(results)


def test_structured_rotations_are_told_apart(x: report.Sample) -> None:
    text = report.table(report.compute(x, (2,), ("prod-orthogonal",), "structured", draws=4))
    assert "rotation structured" in text
    assert "need not be a bug" in text


# ----------------------------------------------------------------------------------------------- table and picture


def test_the_table_lines_up(results: dict) -> None:
    text = report.table(results)
    rule, *_ = (line for line in text.splitlines() if line.startswith("---"))
    body = [line for line in text.splitlines() if line.startswith(tuple(variants.NAMED))]
    assert len(body) == 18
    assert {len(line) for line in body} == {len(rule)}
    cells = body[0].split()
    assert cells[:4] == ["mse", "1", "3.00", "6"]  # 2 bytes of indices, 4 of norm
    assert cells[4:6] == ["5.33x", "10.67x"]
    measured, half = map(float, cells[6].split("±"))
    assert abs(measured - results["rows"][0]["d_mse"]["measured"]) <= half / 5
    assert cells[7] == f"{theory.mse(16, 1):.4f}"
    assert cells[8] == "0.680"
    groups = text.splitlines()[4]
    heads = text.splitlines()[5]
    for group in ("stored", "D_mse", "slope", "d·D_prod", "recall"):
        assert heads[groups.index(group) - 1] == " "


def test_plus_minus() -> None:
    def shown(value: float, width: float, inside: bool | None = True) -> str:
        return _plus_minus({"measured": value, "half_width": width, "inside": inside})

    assert shown(0.36123, 0.0123) == "0.361±0.012"
    assert shown(0.36123, 0.00456) == "0.361±0.005"
    assert shown(0.36123, 0.00234, False) == "0.3612±0.0023!"
    assert shown(15.3, 8.2) == "15.3±8.2"
    assert shown(1.0, 0.0, None) == "1.000000000±0.000000000"


def test_the_picture_shows_everything(results: dict) -> None:
    figure = report.plot(json.loads(json.dumps(results, allow_nan=False)))
    left, right, below_left, below_right = figure.axes
    assert "mse" in left.get_ylabel()
    assert "prod" in right.get_ylabel()
    assert left.get_yscale() == right.get_yscale() == "log"
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == len(set(labels)) == len(OWN) + 4
    figure.draw_without_rendering()
    box = legend.get_window_extent()
    assert 0 <= box.x0 <= box.x1 <= figure.bbox.width
    for axes in figure.axes:
        assert not box.overlaps(axes.get_tightbbox())
    styles = {
        (line.get_color(), line.get_marker()) for line in left.lines if line.get_marker() not in ("", "None", "|", "_")
    }
    assert len(styles) == len(OWN)
    assert len({colour for colour, _ in styles}) >= 7
    for axes in (below_left, below_right):
        assert "exact" in axes.get_ylabel()
