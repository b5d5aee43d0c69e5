"""Two ports in other languages that know SPEC.md and requests.json only; and files of responses that are not right."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from turboquant_ref.conformance import given, golden, responses
from turboquant_ref.conformance.judge import judge

CONSUMERS = Path(__file__).parent / "consumers"
COMPILER = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
NODE = shutil.which("node")
NOT_OFFERED = {
    *("codebook.Table", "rotation.Gaussians", "rotation.Haar", "packing.Scalars"),
    *("polar.Polar", "rabitq.Rescale", "rabitq.Rabitq", "attention.Attention"),
}

needs = {
    "tq.c": pytest.mark.skipif(COMPILER is None, reason="there is no C compiler on this machine"),
    "tq.mjs": pytest.mark.skipif(NODE is None, reason="there is no node on this machine"),
}


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    return responses.export(tmp_path_factory.mktemp("exported"))


def run(name: str, source: str, requests: Path, folder: Path, optimize: str = "-O0") -> Path:
    """Compile and run a consumer, of whatever source text, in a folder of its own."""
    (folder / name).write_text(source)
    answers = folder / "responses.json"
    if name == "tq.c":
        shutil.copy(CONSUMERS / "json.h", folder)
        flags = ["-std=c99", optimize, "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
        subprocess.run([COMPILER, *flags, "-o", folder / "tq", folder / name, "-lm"], check=True)
        command = [folder / "tq"]
    else:
        command = [NODE, folder / name]
    subprocess.run([*command, requests, answers], check=True, timeout=60)
    return answers


@pytest.mark.parametrize("name", [pytest.param(name, marks=mark) for name, mark in needs.items()])
def test_consumer_conforms(name, requests, tmp_path):
    source = (CONSUMERS / name).read_text()
    assert len(source.splitlines()) < 400
    findings = responses.judge_responses(run(name, source, requests, tmp_path, "-O2"))
    assert [f for f in findings if f.passed is False] == []
    assert {f.check for f in findings if f.passed is None} == NOT_OFFERED
    asked = {f.case for f in findings if f.passed}
    assert {case.id for file in ("mse", "qjl", "prod") for case in golden.cases(file)} <= asked


C_INDEX = "(centroids->items[i].number + centroids->items[i + 1].number) / 2"
CHANGES = [
    # consumer, text, another text, the check that must fail, the level 1 checks that may
    (
        "tq.c",
        "<< (i % 8));\n    }\n    out->size",
        "<< (7 - i % 8));\n    }\n    out->size",
        "packing.Bits.packed",
        "packed",
    ),
    ("tq.c", "(number >> (i % bits))", "(number >> (bits - 1 - i % bits))", "packing.Bits.packed", "packed"),
    (
        "tq.c",
        "(wide ? word : half) >> (8 * i))",
        "(wide ? word : half) >> (8 * ((wide ? 7 : 3) - i)))",
        "packing.Scalars.packed",
        "packed",
    ),
    ("tq.c", '(g, "bits") - qjl);', '(g, "bits"));', "prod.packed", "packed"),
    ("tq.c", C_INDEX, C_INDEX + ".001", "codebook.Index.indices", "indices"),
    (
        "tq.c",
        "q[i] = R(centroids->items[(int)idx[i]].number)",
        "q[i] = R(1.00001 * centroids->items[(int)idx[i]].number)",
        "mse.decoded",
        "scale decoded residual",
    ),
    (
        "tq.c",
        "0xBF58476D1CE4E5B9u",
        "0xBF58476D1CE4E5B8u",
        "rotation.Words.words",
        "rotated projection decoded residual",
    ),
    ("tq.mjs", "<< (at & 7);\n    }\n  });", "<< (7 - (at & 7));\n    }\n  });", "packing.Bits.packed", "packed"),
    ("tq.mjs", "setFloat32(0, value, true)", "setFloat32(0, value, false)", "packing.Scalars.packed", "packed"),
    ("tq.mjs", "(c + centroids[i]) / 2)", "(c + centroids[i]) / 2.001)", "codebook.Index.indices", "indices"),
    ("tq.mjs", "=> b <= t)", "=> b < t)", "codebook.Index.indices", "indices"),
    (
        "tq.mjs",
        "found.map((i) => round(g.centroids[i]))",
        "found.map((i) => round(g.centroids[i] * 1.00001))",
        "mse.decoded",
        "scale decoded residual",
    ),
    ("tq.mjs", "(p >= 0 ? 1 : 0)", "(p > 0 ? 1 : 0)", "qjl.signs", "signs"),
    ("tq.mjs", "1 / (g.m * g.mu)", "1 / (g.m * g.mu * Math.sqrt(g.d))", "qjl.decoded", "decoded"),
]


@pytest.mark.parametrize(
    ("name", "old", "new", "check", "may"),
    [pytest.param(*change, marks=needs[change[0]]) for change in CHANGES],
    ids=str,
)
def test_a_changed_consumer_fails_at_its_stage(name, old, new, check, may, requests, tmp_path):
    source = (CONSUMERS / name).read_text()
    assert old in source
    wrong = [
        f
        for f in responses.judge_responses(run(name, source.replace(old, new), requests, tmp_path))
        if f.passed is False
    ]
    assert check in {f.check for f in wrong}, {f.check for f in wrong}
    assert {f.check.rpartition(".")[2] for f in wrong if f.level == 1} <= set(may.split())
    assert all(f.case and f.flags and f.detail for f in wrong)


# ------------------------------------------------------------------------------------------------ files of responses


@pytest.fixture(scope="module")
def right():
    """All answers, as the vectors have them."""
    found = [case for name in golden.NAMES for case in golden.cases(name)]
    return {case.id: dict(case.test["outputs"]) if case.valid else {"error": "refused"} for case in found}


def group_of(name, right):
    """The answers of the group of one case: the other groups are left out, which saves time."""
    cases = golden.cases(name.rpartition("-")[0])
    number = next(case.number for case in cases if case.id == name)
    return {case.id: right[case.id] for case in cases if case.number == number}


def judged(tmp_path, document):
    path = tmp_path / "responses.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return responses.judge_responses(path)


def test_requests_have_no_answers(requests):
    document = json.loads(requests.read_text())
    assert document["formatVersion"] == golden.FORMAT
    asked = [request for group in document["groups"] for request in group["requests"]]
    assert (
        len(asked) == len({request["id"] for request in asked}) == sum(len(golden.cases(name)) for name in golden.NAMES)
    )
    assert all(set(request) == {"id", "inputs"} for request in asked)
    assert (requests.parent / "vectors" / "README.md").exists()
    assert (requests.parent / "schema" / "mse.schema.json").exists()


def test_all_answers_pass(right, tmp_path):
    findings = judged(tmp_path, {"responses": right})
    assert [f for f in findings if not f.passed] == []
    assert len(findings) == len(right)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1:1: not JSON"),
        ('{"responses": {', ":1:16: not JSON"),
        ('{"responses":\n {"mse-1": {"norm": 1,}}}', ":2:23: not JSON"),
        ('{"responses": {"mse-1": {"norm": NaN}}}', "NaN is not JSON"),
        ('{"responses": {"mse-1": {"norm": -Infinity}}}', "-Infinity is not JSON"),
        ('{"responses": {"mse-1": {}, "mse-1": {}}}', "'mse-1' occurs twice"),
        ("[]", "found a list"),
        ("3", "found a int"),
        ('{"answers": {}}', "found the keys ['answers']"),
        ('{"responses": []}', 'expected {"responses"'),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_malformed_file_gets_a_message_with_the_place(tmp_path, text, said):
    with pytest.raises(responses.Malformed) as error:
        judged(tmp_path, text)
    assert said in str(error.value)
    assert "responses.json" in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(responses.Malformed, match="No such file"):
        responses.judge_responses(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"responses": "\xe9"}')
    with pytest.raises(responses.Malformed, match="byte 15 is not UTF-8"):
        responses.judge_responses(tmp_path / "latin.json")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (3, "responses['mse-1'] is a int"),
        ({"norm": "3.5"}, "norm holds '3.5', expected numbers"),
        ({"norm": None}, "norm holds None, expected numbers"),
        ({"norm": True}, "norm holds True, expected numbers"),
        ({"norm": [1.0]}, "norm has shape (1,), expected ()"),
        ({"norm": 10**400}, "norm holds 1000"),
        ({"norm": math.inf}, "norm"),
        ({"unit": [0.5] * 7}, "unit has shape (7,), expected (8,)"),
        ({"unit": [[0.5], 1]}, "unit is not an array"),
        ({"unit": [0.5] * 7 + ["NaN"]}, "expected numbers"),
        ({"unit": {"0": 1}}, "expected numbers"),
        ({"indices": [0.5] * 8}, "indices[0] is 0.5, expected an integer"),
        ({"indices": [2] * 8}, "indices[0] is 2, allowed are 0 to 1"),
        ({"packed": 5}, "packed is 5, expected hexadecimal"),
        ({"packed": "xyz"}, "packed cannot be read"),
        ({"packed": "00"}, "packed cannot be read: packed: expected"),
        ({"norn": 1.0}, "unknown stage 'norn'"),
        ({}, "none of the stages"),
        ({"error": "no"}, "refused, but this input is valid: no"),
        ({"error": 5}, '"error" beside stages, or it is no text'),
        ({"error": "no", "norm": 1.0}, '"error" beside stages'),
    ],
)
def test_a_wrong_answer_is_a_finding_with_its_place(right, tmp_path, answer, said):
    few = group_of("mse-1", right)
    if isinstance(answer, dict) and answer.get("norm") == math.inf:
        text = json.dumps({"responses": {**few, "mse-1": {"norm": "HUGE"}}}).replace('"HUGE"', "1e999")
        wrong = [f for f in judged(tmp_path, text) if f.passed is False]
    else:
        wrong = [f for f in judged(tmp_path, {"responses": {**few, "mse-1": answer}}) if f.passed is False]
    assert [f.case for f in wrong] == ["mse-1"]
    assert said in wrong[0].detail, wrong[0].detail


def test_what_is_left_out(right, tmp_path):
    """A group may be left out whole; a single case of it may not, nor may there be a case that nobody asked."""
    found = {f.passed for f in judged(tmp_path, {"responses": {}})}
    assert found == {None}
    some = {**group_of("mse-2", right), **group_of("prod-5", right), "mse-0": {}}
    some = {k: v for k, v in some.items() if k not in ("mse-2", "prod-5")}
    wrong = [f for f in judged(tmp_path, {"responses": some}) if f.passed is False]
    assert [f.case for f in wrong] == ["mse-2", "prod-5", ""]
    assert "has no 'mse-2'" in wrong[0].detail
    assert "'mse-0'" in wrong[2].detail


def test_what_must_be_refused(right, tmp_path):
    invalid = next(case.id for case in golden.cases("mse") if not case.valid)
    unpackable = next(case for case in golden.cases("mse") if case.valid and "packed" not in case.test["outputs"])
    answers = {**group_of(invalid, right), **group_of(unpackable.id, right)}
    answers |= {invalid: {"norm": 1.0}, unpackable.id: {**unpackable.test["outputs"], "packed": "00"}}
    wrong = {f.case: f.detail for f in judged(tmp_path, {"responses": answers}) if f.passed is False}
    assert set(wrong) == {invalid, unpackable.id}
    assert "must be refused" in wrong[invalid]
    assert "normal range" in wrong[unpackable.id]


def test_another_choice_near_a_boundary_is_followed():
    """In an acceptable case the other index is right, and then the later stages are those of that index."""
    case = next(c for c in golden.cases("mse") if c.test["result"] == "acceptable")
    centroids, z = golden.reals(case.group["centroids"]), golden.reals(case.test["outputs"]["rotated"])
    distance = np.abs(z[:, None] - (centroids[1:] + centroids[:-1]) / 2)
    at, boundary = np.unravel_index(np.argmin(distance), distance.shape)
    index = np.array(case.test["outputs"]["indices"])
    index[at] = 2 * boundary + 1 - index[at]  # the other side
    assert judge(case, {"indices": index}).passed
    far = index.copy()
    clear = int(np.argmax(distance.min(1)))
    far[clear] += 1 if far[clear] == 0 else -1
    assert judge(case, {"indices": far}).check == "mse.indices"
    both = {**case.test["outputs"], "indices": index}  # the decoded vector of the old index does not fit the new one
    assert judge(case, both).check == "mse.decoded"
    x = given.rotation(case.group["rotation"], case.group["d"]).inverse(centroids[index]) * case.test["outputs"]["norm"]
    assert judge(case, {"indices": index, "decoded": x}).passed


def test_either_side_of_the_circle_and_either_parallel_point_are_right():
    """An angle just below 2 pi is in the last cell and in the first; a parallel grid point has the same cosine."""
    around = [c for c in golden.cases("polar") if c.test["comment"] == "just below the axis"]
    assert {c.dtype for c in around} == {"float32", "float64"}
    for case in around:
        index = np.array(case.test["outputs"]["indices"])
        first = 2 ** case.group["bits"][0] - 1 - index[0]
        assert {first, index[0]} == {0, 3}
        assert judge(case, {"indices": [first, *index[1:]]}).passed
        assert judge(case, {"indices": [1, *index[1:]]}).check == "polar.indices"
    parallel = [c for c in golden.cases("rabitq") if {"Constant", "ParallelGrid"} <= set(c.flags)]
    for case in parallel:
        out, top = case.test["outputs"], 2 ** case.group["bits"] - 1
        inner = np.array(out["indices"])
        assert case.test["result"] == "acceptable"
        assert set(inner) == {top // 2, top // 2 + 1}  # the smallest t
        outer = np.where(inner > top // 2, top, 0)
        assert judge(case, {"indices": outer, "scale": out["scale"] / top, "decoded": out["decoded"]}).passed
        assert judge(case, {"indices": outer, "scale": out["scale"]}).check == "rabitq.scale"
        assert judge(case, {"indices": [outer[0], *inner[1:]]}).check == "rabitq.indices"
    assert len(parallel) == 4
