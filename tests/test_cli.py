"""The command line, mostly in this process: outputs, exit statuses, refusals before work, and no half-written file."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import turboquant_ref
from turboquant_ref import __main__ as cli
from turboquant_ref import report, theory, variants

QUICK = ["--limit", "300", "--bits", "2", "--algorithms", "mse", "--draws", "4"]


def run(*arguments: object) -> int:
    """The exit status; argparse leaves by SystemExit."""
    try:
        return cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Exit status 2 and a message without a traceback; nothing on standard output."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((60, 12)).astype(np.float16)
    rows[7] = 0
    rows[8] = rows[9]
    np.save(tmp_path / "vectors.npy", rows)
    return tmp_path / "vectors.npy"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures although he should have refused is found out."""

    def compute(*arguments: object, **options: object) -> None:
        raise AssertionError("work was done")

    monkeypatch.setattr(report, "compute", compute)


# ------------------------------------------------------------------------------------------------------ in general


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "report" in capsys.readouterr().out
    assert run("--version") == 0
    assert capsys.readouterr().out == f"turboquant-ref {turboquant_ref.__version__}\n"
    assert run("report", "--help") == 0
    out = capsys.readouterr().out
    for name in variants.NAMED:
        assert name in out
    assert run("codebook", "--help") == 0
    assert "gaussian" in capsys.readouterr().out
    assert "COMMAND" in refused(capsys, "repport")


def test_python_m_and_the_installed_command_are_main() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "turboquant_ref", "--version"], capture_output=True, text=True, check=True
    )
    assert out.stdout == f"turboquant-ref {turboquant_ref.__version__}\n"
    try:
        (entry,) = importlib.metadata.distribution("turboquant-ref").entry_points.select(name="turboquant-ref")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("turboquant-ref is not installed")
    assert entry.load() is cli.main


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close otherwise there")
def test_a_reader_that_has_had_enough() -> None:
    command = [sys.executable, "-m", "turboquant_ref", "codebook", "-d", "64", "-b", "12"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline().startswith("12-bit Lloyd-Max codebook")
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait() == 141


# -------------------------------------------------------------------------------------------------------- codebook


@pytest.mark.parametrize("form", ["text", "json", "csv", "c", "rust"])
def test_codebook(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("codebook", "-d", 128, "-b", 3, "--format", form) == 0
    out = capsys.readouterr().out
    assert f"{theory.mse(128, 3):.16e}" in out or repr(theory.mse(128, 3)) in out
    assert run("codebook", "-d", "gaussian", "-b", 3, "--format", form) == 0
    out = capsys.readouterr().out
    assert f"{theory.mse(None, 3):.16e}" in out or repr(theory.mse(None, 3)) in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-d", 1, "-b", 3), "-d: expected an integer of at least 2, got 1"),
        (("-d", "normal", "-b", 3), "-d: expected an integer of at least 2, got 'normal'"),
        (("-d", 8, "-b", 13), "-b: expected an integer from 1 to 12, got 13"),
        (("-d", 8, "-b", "2.5"), "-b: expected an integer from 1 to 12, got '2.5'"),
        (("-d", 8), "-b"),
        (("-d", 8, "-b", 3, "--format", "yaml"), "yaml"),
    ],
)
def test_bad_codebooks(arguments: tuple, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, "codebook", *arguments)


# ---------------------------------------------------------------------------------------------------------- report


def test_report_on_the_bundled_vectors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", *QUICK) == 0
    out, err = capsys.readouterr()
    assert "GloVe" in out
    assert "n = 300, d = 50, float32" in out
    assert "rotation haar, 4 draws, seed 0" in out
    assert turboquant_ref.__version__ in out
    assert err == ""  # no progress bar: this is no terminal


def test_report_on_a_file(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", vectors, "--bits", 1, 3, 1, "--algorithms", "prod", "mse", "--draws", 5, "--seed", 2**64 - 1,
                 "--json", tmp_path / "out.json", "--plot", tmp_path / "out.PNG"]  # fmt: skip
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    assert "vectors.npy: n = 60 (1 zero rows left out), d = 12, float16" in out
    assert "48 vectors quantized in float32, 11 queries held out" in out

    def constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    results = json.loads((tmp_path / "out.json").read_text(), parse_constant=constant)
    assert results["command"] == ["turboquant-ref", *map(str, arguments)]
    assert set(results["versions"]) == {"turboquant_ref", "numpy", "scipy", "python"}
    assert results["settings"]["seed"] == 2**64 - 1
    assert [(row["algorithm"], row["bits"]) for row in results["rows"]] == [
        ("prod", 1),
        ("prod", 3),
        ("mse", 1),
        ("mse", 3),
    ]
    for row in results["rows"]:
        for name in report.LABELS:
            figure = row[name]
            assert len(figure["values"]) == figure["draws"] == 5
            assert figure["measured"] == pytest.approx(np.mean(figure["values"]), rel=1e-12)
            assert figure["low"] <= figure["measured"] <= figure["high"]
            assert figure["inside"] == (figure["low"] <= figure["exact"] <= figure["high"])
        assert 0 <= row["recall_at_1_at_1"]["measured"] <= row["recall_at_1_at_10"]["measured"] <= 1
        assert row["d_mse"]["paper_lower_bound"] == 4.0 ** -row["bits"]
    assert (tmp_path / "out.PNG").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.PNG", "out.json", "vectors.npy"]


def test_limit_and_key(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.load(vectors)
    np.savez(tmp_path / "two.npz", a=rows[:20], b=rows[:, :5])
    assert run("report", tmp_path / "two.npz", "--key", "b", *QUICK, "--limit", 30) == 0
    assert "two.npz (the first 30 rows): n = 30 (1 zero rows left out), d = 5" in capsys.readouterr().out
    assert "name one" in refused(capsys, "report", tmp_path / "two.npz", *QUICK)
    assert "--key" in refused(capsys, "report", "--key", "b", *QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bits", 9), "--bits: expected an integer from 1 to 8, got 9"),
        (("--bits", 0), "got 0"),
        (("--bits", 2, "x.npy"), "FILE goes before the options"),
        (("--draws", 1), "--draws: expected an integer of at least 2, got 1"),
        (("--limit", 0), "--limit: expected an integer of at least 1, got 0"),
        (("--seed", -1), "--seed: expected an integer from 0 to 18446744073709551615"),
        (("--rotation", "none"), "none"),
        (("--algorithms", "mse", "msr"), "no algorithm is called 'msr'"),
        (("--plot", "out.jpeg2"), "--plot: expected a file name in .png, .pdf, .svg, got out.jpeg2"),
        (("--plot", "no/such/place/out.png"), "--plot: cannot write to the directory"),
        (("--json", "no/such/place/out.json"), "--json: cannot write to the directory"),
        (("--json", "."), "is not a regular file"),
        (("--json", os.devnull), "is not a regular file"),
        (("--json", "a.png", "--plot", "a.png"), "both are a.png"),
        (("missing.npy",), "missing.npy: no such file"),
        (("words.txt",), "expected .npy, .npz or .fvecs"),
        (("cut.npy",), "cut.npy"),
        (("zero.npy",), "zero.npy: expected at least one vector that is not zero"),
        (("nan.npy",), "NaN"),
        (("strings.npy",), "strings.npy"),
        (("long.npy",), "exceeds"),
        (("vectors.npy", "--json", "vectors.npy"), "is the input file"),
    ],
)
@pytest.mark.usefixtures("no_work")
def test_refusals(
    arguments: tuple, message: str, vectors: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(vectors.parent)
    Path("words.txt").write_text("words")
    Path("cut.npy").write_bytes(vectors.read_bytes()[:-5])
    np.save("zero.npy", np.zeros((4, 3)))
    np.save("nan.npy", np.full((4, 3), np.nan))
    np.save("strings.npy", np.array([["a", "b"]]))
    np.save("long.npy", np.full((4, 3), 3e38, dtype=np.float32))
    before = sorted(os.listdir())
    assert message in refused(capsys, "report", *arguments)
    assert sorted(os.listdir()) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions concern")
@pytest.mark.usefixtures("no_work")
def test_an_unwritable_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write to the directory" in refused(capsys, "report", "--json", tmp_path / "out.json")


@pytest.mark.usefixtures("no_work")
def test_plot_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "turboquant-ref[report]" in refused(capsys, "report", *QUICK, "--plot", tmp_path / "out.png")


def test_report_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "tqdm", "threadpoolctl"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("report", *QUICK, "--json", tmp_path / "out.json") == 0
    assert "D_mse" in capsys.readouterr().out


def test_a_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("report", *QUICK) == 0
    assert "measuring" in terminal.getvalue()
    assert "/8" in terminal.getvalue()  # 4 draws, and 4 for recall
    assert "measuring" not in capsys.readouterr().out


def test_a_terminal_that_lacks_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert run("report", *QUICK) == 0
    assert b"D_mse" in raw.getvalue()


# ---------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_while_measuring(tmp_path: Path) -> None:
    """A real signal to a real process, after the third draw."""
    code = """if True:
        import signal, sys
        from turboquant_ref import __main__, report
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        compute = report.compute
        def strike(done, total):
            if done == 3:
                signal.raise_signal(signal.SIGINT)
        report.compute = lambda *arguments: compute(*arguments[:-1], strike)
        sys.exit(__main__.main(sys.argv[1:]))
    """
    arguments = ["report", *QUICK, "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "turboquant-ref: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 2)])
def test_nothing_half_written(
    error: BaseException,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Figure:
        def savefig(self, stream: io.BufferedWriter, **options: object) -> None:
            stream.write(b"half of it")
            raise error

    monkeypatch.setattr(report, "plot", lambda results: Figure())
    (tmp_path / "out.png").write_bytes(b"the old one")
    assert run("report", *QUICK, "--plot", tmp_path / "out.png") == status
    assert (tmp_path / "out.png").read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    out, err = capsys.readouterr()
    assert "D_mse" in out  # what was measured is not lost
    assert "Traceback" not in err


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to("real.json")
    assert run("report", *QUICK, "--json", tmp_path / "link.json") == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["rows"]
