"""The conformance kit: right ports pass, planted mistakes are caught and named, hostile ones do no harm."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import _hostile
import numpy as np
import pytest
from _ports import PLANTED, Port

from turboquant_ref import __main__ as cli
from turboquant_ref import codebook, rabitq, rotation, theory
from turboquant_ref.conformance import (
    diagnosis,
    edges,
    mistakes,
    reference,
    report,
    statistics,
    stimuli,
    subject,
    verdict,
    worker,
)

HERE = Path(__file__).parent
QUICK = verdict.QUICK


def check(found, plan=QUICK, levels=(2,)):
    return verdict.run(subject.Direct(found), plan, levels)


def test_the_reference_conforms() -> None:
    found = check(reference, levels=(0, 1, 2))
    assert found.status == verdict.CONFORMS, report.as_text(found)
    assert {f.level for f in found.findings if f.passed} == {0, 1, 2}


def test_a_right_port_conforms() -> None:
    found = check(Port())
    assert found.status == verdict.CONFORMS, report.as_text(found)
    assert not found.diagnoses


@pytest.mark.parametrize("kind", ["haar", "structured"])
def test_structured_rotations_are_right_too(kind) -> None:
    class Structured(Port):
        def matrix(self, d, seed):
            return rotation.setup(d, seed, kind).matrix()

    assert check(Structured()).status == verdict.CONFORMS


@pytest.mark.parametrize("port", [_hostile.Orthogonal, _hostile.Claimless])
def test_either_sketch_will_do(port) -> None:
    assert check(port()).status == verdict.CONFORMS


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("port", "name"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_mistake_is_caught_and_named(port, name) -> None:
    found = check(port())
    assert found.status == verdict.CONFORMS_NOT
    names = [d.name for d in found.diagnoses]
    if name:
        assert names[0] == name, report.as_text(found)
        assert "unknown" not in names


def test_there_are_enough_of_them() -> None:
    assert len(PLANTED) >= 25
    assert sum(bool(name) for _, name in PLANTED) >= 20


def test_the_table_of_the_limit_passes_where_the_paper_prints_it_only() -> None:
    """Section 3.1 gives √(2/π)/√d, and 0.453/√d and 1.51/√d, for moderate d; at d = 16 it costs 7 % at 4 bits."""

    class Limit(Port):
        roundtrip = inner_product = rotation = stored_bytes = None

        def codebook(self, d, bits):
            return codebook.lloyd_max(None, bits).centroids / math.sqrt(d)

    found = {f.check: f for f in check(Limit()).findings}
    assert found["codebook d=64 b=3"].passed
    assert "Gaussian limit" in found["codebook d=64 b=3"].detail
    assert found["codebook d=16 b=4"].passed is False


def test_rabitq_is_judged_by_its_slope() -> None:
    """Nothing but E <x, x̂> = 1 is known of its grid; a slope of 0.97 must not pass for it."""

    class Short(Port):
        claims, scale = "rabitq", 0.97
        inner_product = rotation = codebook = stored_bytes = None

        def roundtrip(self, x, bits, seed):
            x = np.asarray(x)
            Q = rabitq.setup(x.shape[1], bits, seed)
            return self.scale * rabitq.dequantize(Q, rabitq.quantize(Q, x))

    class Right(Short):
        scale = 1.0

    assert check(Right()).status == verdict.CONFORMS
    assert any(f.passed is False and "slope" in f.check for f in check(Short()).findings)


def test_what_no_mistake_explains_is_unknown() -> None:
    class Strange(Port):
        inner_product = rotation = codebook = stored_bytes = None

        def roundtrip(self, x, bits, seed):
            return 0.71 * super().roundtrip(x, bits, seed)

    found = check(Strange())
    assert [d.name for d in found.diagnoses] == ["unknown"]
    assert "no known mistake" in found.diagnoses[0].where


def test_two_mistakes_at_once_are_both_named() -> None:
    ports = {port.__name__: port for port, _ in PLANTED}

    class Both(ports["qjl_scaled_twice"], ports["float16_norm"]):
        roundtrip, inner_product = Port.roundtrip, Port.inner_product

    names = [d.name for d in check(Both()).diagnoses]
    assert "QJL term divided by √d once too often" in names
    assert "float16 norms" in names


class Uses(Port):
    """Right, with the two uses of codes and nothing else."""

    roundtrip = inner_product = rotation = codebook = stored_bytes = None

    def decoded(self, x, bits, seed):
        return Port.roundtrip(self, x, bits, seed)

    def scale(self, d):
        return d**-0.5

    def search(self, x, y, k, bits, seed):
        scores = y @ self.decoded(x, bits, seed).T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        missing = ((0, 0), (0, k - ids.shape[1]))
        best = np.pad(np.take_along_axis(scores, ids, axis=1), missing, constant_values=-np.inf)
        return best, np.pad(ids, missing, constant_values=-1)

    def attend(self, q, k, v, bits, seed):
        logits = self.scale(q.shape[1]) * q @ self.decoded(k, bits, seed).T
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True) @ self.decoded(v, bits, seed)


class Unscaled(Uses):
    def scale(self, d):
        return 1.0


class BaseTwo(Uses):
    def scale(self, d):
        return math.log(2) / math.sqrt(d)


class Ascending(Uses):
    def search(self, *arguments):
        return [found[:, ::-1] for found in super().search(*arguments)]


class Normalised(Uses):
    def search(self, x, y, k, bits, seed):
        return super().search(x, y / np.linalg.norm(y, axis=1, keepdims=True), k, bits, seed)


class BlocksAveraged(Uses):
    def attend(self, q, k, v, bits, seed):
        half = len(k) // 2
        if half < 2:
            return super().attend(q, k, v, bits, seed)
        parts = (slice(0, half), slice(half, None))
        return sum(super(BlocksAveraged, self).attend(q, k[part], v[part], bits, seed) for part in parts) / 2


class OtherIds(Uses):
    def search(self, *arguments):
        scores, ids = super().search(*arguments)
        return scores, np.roll(ids, 1, axis=1)


def test_right_uses_conform() -> None:
    found = check(Uses())
    assert found.status == verdict.CONFORMS, report.as_text(found)
    assert sum(f.passed is True for f in found.findings) == 13


@pytest.mark.parametrize(
    ("port", "name"),
    [
        (Unscaled, "softmax scale"),
        (BaseTwo, "softmax scale"),
        (Ascending, "ranking"),
        (Normalised, "ranking"),
        (OtherIds, "ranking"),
        (BlocksAveraged, "tokens mixed"),
    ],
)
def test_a_mistake_in_a_use_is_caught_and_named(port, name) -> None:
    found = check(port())
    assert found.status == verdict.CONFORMS_NOT
    assert name in [d.name for d in found.diagnoses]


# ------------------------------------------------------------------------------------------------- the signatures


@pytest.mark.parametrize("bits", [2, 3])
def test_double_scaling_has_the_published_slope(bits) -> None:
    """Known from an audit: slope = 1 - D(b-1)(1 - 1/√d); 0.671 and 0.895 were measured at d = 128, b = 2 and 3."""
    found = {m.name: v for m, v in mistakes.predictions(statistics.Claim("prod"), 128, bits, "random")}
    slope = found["QJL term divided by √d once too often"].slope
    assert slope == pytest.approx(1 - theory.mse(128, bits - 1) * (1 - 128**-0.5), abs=1e-12)
    assert slope == pytest.approx({2: 0.671, 3: 0.895}[bits], abs=0.003)  # the field's standard error


def test_a_single_hadamard_round_has_the_published_distortion() -> None:
    """Known from an audit: one-hot 0.249 at b = 2, d = 128, with the table of d + 1; DC 0.771 at b = 3, matched."""
    found = {m.name: v for m, v in mistakes.predictions(statistics.Claim("mse"), 128, 2, "one-hot")}
    right, theirs = ((1 - math.sqrt(128) * codebook.lloyd_max(d, 2).centroids[-1]) ** 2 for d in (128, 129))
    assert found["single Hadamard round"].distortion == pytest.approx(right, rel=1e-12)
    assert theirs == pytest.approx(0.249, abs=0.0005)
    matched = {m.name: v for m, v in mistakes.predictions(statistics.Claim("mse-matched"), 128, 3, "constant")}
    # their table is Gaussian: that is the rest of the difference
    assert matched["Hadamard transform without signs before it"].distortion == pytest.approx(0.771, abs=0.01)


def test_the_right_stages_are_those_of_theory() -> None:
    for name, algorithm in (("mse", "mse"), ("prod", "prod"), ("prod-orthogonal", "prod")):
        claim = statistics.Claim(name)
        found, exact = mistakes.right_stages(claim, 64, 3, "random").moments(), claim.moments(64, 3)
        assert exact is not None
        for figure in ("slope", "along", "across", "distortion"):
            assert getattr(found, figure) == pytest.approx(getattr(exact, figure), rel=1e-9), (name, algorithm, figure)


def test_every_cause_that_a_check_names_is_known() -> None:
    source = Path(edges.__file__).read_text() + Path(diagnosis.__file__).read_text()
    for cause in diagnosis.CAUSES:
        assert source.count(f'"{cause}"') + source.count(cause.split(" written")[0]) >= 2, cause
    assert set(diagnosis.CONSEQUENCES) <= set(diagnosis.CAUSES)


# ----------------------------------------------------------------------------------------------------- statistics


def test_the_false_alarm_rate_is_split_over_all_checks() -> None:
    for plan in (QUICK, statistics.Plan()):
        share = (1 - plan.confidence) * statistics.SKEWNESS
        assert share * (15 * len(plan.grid) + 11) < statistics.FALSE_ALARM
    figures = [f for f in check(reference).findings if isinstance(f, statistics.Figure) and f.estimate]
    intervals = [f for f in figures if f.estimate.draws > 1]
    assert len(intervals) == 15 * len(QUICK.grid) + 5 + 4  # and a binomial test, and the scale of the softmax
    assert all(f.estimate.confidence == QUICK.confidence for f in intervals)


def test_intervals_grow_when_a_port_is_slow() -> None:
    """Fewer draws, never fewer than `least`; the report says what can be detected then."""
    plan = statistics.Plan(grid=((16, 2),), draws=64, least=24, budget=1e-9)
    figures = [f for f in statistics.check(subject.Direct(Port()), plan) if f.estimate]
    assert {f.estimate.draws for f in figures} == {24}
    assert all(f.passed for f in figures)


def test_the_inputs_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    for name, count in (("one-hot", 1), ("two-hot", 2), ("4-sparse", 4)):
        x = stimuli.special(name, 10, 16, rng)
        np.testing.assert_array_equal((x != 0).sum(1), count)
    constant = stimuli.special("constant", 12, 16, rng)
    np.testing.assert_array_equal(np.abs(constant), 0.25)
    x, rho = stimuli.unit(50, 16, rng), np.linspace(-1, 1, 50)
    y = stimuli.queries(x, rho, rng)
    np.testing.assert_allclose((x * y).sum(1), rho, atol=1e-6, rtol=0)  # x is exact in float32, of norm 1 to 1e-7


# ------------------------------------------------------------------------------------------- processes and hostility


def run(name, limit=20.0, plan=QUICK):
    with worker.Worker(f"{HERE / '_hostile.py'}:{name}", limit) as found:
        return verdict.run(found, plan, (2,))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "cause"),
    [
        *(("Raises", "raises"), ("Exits", "raises"), ("WrongShape", "shape or dtype"), ("Text", "shape or dtype")),
        *(("Nothing", "shape or dtype"), ("Complex", "shape or dtype"), ("NotNumbers", "shape or dtype")),
        *(("Vanishes", "dies"), ("Killed", "dies"), ("Global", "global written to")),
    ],
)
def test_a_hostile_subject_gets_a_verdict(name, cause) -> None:
    in_a_process = name in ("Vanishes", "Killed", "Global", "Exits")
    found = run(name) if in_a_process else check(getattr(_hostile, name))
    assert found.status == verdict.CONFORMS_NOT
    assert cause in [d.name for d in found.diagnoses], report.as_text(found)
    for write in (report.as_text, report.as_json, report.as_markdown):
        assert write(found)
    ElementTree.fromstring(report.as_junit(found))


@pytest.mark.parametrize("name", ["Hangs", "HangsDeaf", "HangsAtThree"])
def test_a_subject_that_hangs_is_ended(name) -> None:
    found = run(name, limit=2.0)
    assert found.status == verdict.CONFORMS_NOT
    assert "hangs" in [d.name for d in found.diagnoses]
    assert found.seconds < 30


def test_noise_is_no_crime() -> None:
    assert run("Noisy").status == verdict.CONFORMS


def test_last_words_are_reported() -> None:
    detail = next(f.detail for f in run("Killed").findings if f.passed is False)
    assert re.search(r"ended by signal 9 .*I am about to die", detail)


def test_what_is_not_offered_is_not_held_against_it() -> None:
    found = run("OnlyEven")
    assert found.status == verdict.CONFORMS, report.as_text(found)
    assert {f.check for f in found.findings if f.passed is None} >= {"inner_product", "roundtrip d=64 b=3"}
    for name in ("Refuses", "Empty"):
        assert run(name).status == verdict.NOT_RUN


def test_a_worker_is_started_again() -> None:
    with worker.Worker(f"{HERE / '_hostile.py'}:Vanishes", 20) as found:
        for _ in range(2):
            with pytest.raises(subject.CallFailed, match="with status 3") as error:
                found.call("roundtrip", np.ones((2, 8)), 2, 0)
            assert error.value.kind == "died"


def test_a_worker_answers_what_the_object_answers() -> None:
    x = np.random.default_rng(0).standard_normal((3, 16))
    with worker.Worker(str(HERE / "_ports.py") + ":Port", 20) as found:
        assert found.offered == {"roundtrip", "inner_product", "rotation", "codebook", "stored_bytes"}
        np.testing.assert_array_equal(found.roundtrip(x, 2, 7), Port().roundtrip(x, 2, 7))
        with pytest.raises(AttributeError, match="not offered"):
            found.pack  # noqa: B018


@pytest.mark.parametrize("spec", ["no_such_module", "no_such_file.py", str(HERE / "_ports.py") + ":Absent"])
def test_what_cannot_be_loaded(spec, capsys) -> None:
    assert cli.main(["check", spec]) == verdict.NOT_RUN
    assert "cannot be loaded" in capsys.readouterr().err


def test_claims_that_are_none(capsys) -> None:
    assert cli.main(["check", f"{HERE / '_hostile.py'}:BadClaims", "--levels", "2"]) == verdict.NOT_RUN
    assert "no such variant" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------- commands and reports

PORT = """
import sys
import numpy as np
function, *files, bits, seed = sys.argv[1:]
if function != "roundtrip" or bits != "1":
    sys.exit(64)
x = np.load(files[0])
d = x.shape[1]
q, r = np.linalg.qr(np.random.default_rng(int(seed)).standard_normal((d, d)))
q *= np.sign(np.diag(r))
big = np.abs(x).max(1, initial=0, keepdims=True)
norm = big * np.linalg.norm(x / np.where(big > 0, big, 1), axis=1, keepdims=True)
np.save(files[1], norm * {c} * np.where(x @ q.T >= 0, 1, -1) @ q)
"""


def command(tmp_path, c):
    file = tmp_path / "port.py"
    file.write_text(PORT.format(c=c))
    return f"{sys.executable} -W ignore {file}"


SMALL = ["--levels", "2", "-d", "16", "--bits", "1", "--draws", "8"]


def test_a_command_conforms(tmp_path, capsys) -> None:
    c = codebook.lloyd_max(16, 1).centroids[1]
    assert cli.main(["check", "--command", command(tmp_path, c), *SMALL]) == verdict.CONFORMS
    assert "inner_product d=16 b=1" in capsys.readouterr().out


def test_a_command_that_makes_a_mistake(tmp_path, capsys) -> None:
    assert cli.main(["check", "--command", command(tmp_path, math.sqrt(2 / math.pi)), *SMALL]) == verdict.CONFORMS_NOT
    assert "codebook not divided by √d" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "kind"),
    [("false", "raised"), ("no-such-command-at-all", "died"), ("true", "answer"), ("sleep 60 #", "raised")],
)
def test_commands_that_fail(line, kind) -> None:
    with pytest.raises(subject.CallFailed) as error:
        worker.Command(line, 5).call("roundtrip", np.ones((2, 8)), 2, 0)
    assert error.value.kind == kind


def test_a_command_that_hangs() -> None:
    with pytest.raises(subject.CallFailed, match="no answer within") as error:
        worker.Command(f"{sys.executable} -c 'import time; time.sleep(60)'", 1).call("roundtrip", np.ones((2, 8)), 2, 0)
    assert error.value.kind == "time limit"


@pytest.mark.parametrize("arguments", [[], ["m", "--command", "c"], ["m", "--limit", "0"], ["m", "--limit", "nan"]])
def test_arguments_that_make_no_sense(arguments, capsys) -> None:
    assert cli.main(["check", *arguments]) == verdict.NOT_RUN
    assert capsys.readouterr().err.startswith("turboquant-ref: ")


def test_reports(tmp_path, capsys) -> None:
    paths = {kind: tmp_path / f"out.{kind}" for kind in ("json", "junit", "markdown")}
    options = [item for kind, path in paths.items() for item in (f"--{kind}", str(path))]
    spec = "turboquant_ref.conformance.reference"
    assert cli.main(["check", spec, "--quick", "--levels", "0", "2", *options]) == verdict.CONFORMS
    out = capsys.readouterr().out
    assert "conforms" in out
    assert "Student's interval" in out
    document = json.loads(paths["json"].read_text())
    assert document["status"] == 0
    assert document["false_alarm_rate"] == statistics.FALSE_ALARM
    slopes = [f for f in document["findings"] if f.get("figure") == "slope"]
    assert all(f["passed"] and f["half_width"] < f["detectable"] for f in slopes)
    suite = ElementTree.fromstring(paths["junit"].read_text())
    assert int(suite.get("tests")) == len(document["findings"]) == len(suite)
    assert suite.get("failures") == "0"
    rows = [line for line in paths["markdown"].read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_reports_of_a_failure() -> None:
    port = next(port for port, name in PLANTED if port.__name__ == "qjl_scaled_twice")
    found = check(port())
    text = report.as_text(found)
    assert "FAILS" in text
    assert "1/√d" not in text.splitlines()[0]
    assert "look: " in text
    document = json.loads(report.as_json(found))
    assert document["diagnoses"][0]["name"] == "QJL term divided by √d once too often"
    failed = [f for f in document["findings"] if f["passed"] is False]
    assert len(failed) == len(ElementTree.fromstring(report.as_junit(found)).findall("testcase/failure"))
    assert all(f["diagnosis"] for f in failed)
    assert len(report.as_text(found, everything=True).splitlines()) > len(text.splitlines())


def test_responses(tmp_path, capsys) -> None:
    assert cli.main(["vectors", "export", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "requests.json").is_file()
    bad = tmp_path / "bad.json"
    bad.write_text('{"responses": ')
    assert cli.main(["check", "--responses", str(bad)]) == verdict.NOT_RUN
    bad.write_text('{"responses": {}}')
    assert cli.main(["check", "--responses", str(bad)]) in (verdict.CONFORMS_NOT, verdict.NOT_RUN)


def test_a_figure_is_no_nan() -> None:
    for f in check(reference).findings:
        if isinstance(f, statistics.Figure) and f.estimate is not None:
            assert math.isfinite(f.estimate.value), f.check
