"""The figures: each compute() on small sizes against theory, each plot(), the command line, the readers."""

from __future__ import annotations

import importlib.util
import json
import math
import re

import numpy as np
import pytest

from paper_figures import (
    FIGURES,
    __main__,
    _store,
    _style,
    claims,
    data,
    errors,
    fig5,
    figure,
    polar_angles,
    qjl_m,
    table2,
)
from turboquant_ref import channels, mse, theory

FALSE_ALARM = 1e-6
"""Of each joint interval below: seeds are fixed, the rate is that of a right program meeting seeds that fail it."""

SMALL = {"data": "synthetic-48", "n": 80, "n_queries": 24, "draws": 40, "seed": 3}
OURS = ("fig1", "fig2", "fig3", "fig5", "table2", "polar_angles", "qjl_m")
TINY = {
    **dict.fromkeys(("fig1", "fig2", "fig3"), SMALL),
    "fig5": {"data": "synthetic-32", "n": 300, "n_queries": 60, "draws": 2},
    "table2": {"dims": [16, 32], "work": 1e4, "repeats": 1, "ops": "turboquant_ref"},
    "polar_angles": {"data": "glove", "n": 100, "draws": 60, "seed": 1},
    "qjl_m": {"d": 24, "pairs": 40, "draws": 60, "rho": 0.5, "eps": 0.1, "seed": 1},
}


@pytest.fixture(scope="module")
def results():
    return {name: figure(name).compute(**TINY[name]) for name in OURS}


def inside(values, exact, what):
    means, half, outside, count = errors.intervals(values, exact, 1 - FALSE_ALARM)
    assert outside == 0, f"{what}: {outside} of {count} outside, by {np.abs((means - exact) / half).max():.2f} widths"
    return half / np.where(np.asarray(exact) == 0, np.inf, np.abs(exact))


class TestAgainstTheory:
    """Measured points inside their intervals, and the intervals narrow enough to tell the variants apart."""

    def test_fig1(self, results):
        r = results["fig1"]
        inside(r["mean"], r["exact_mean"], "mean error")
        width = inside(r["square"], r["exact_square"], "squared error")
        assert width.max() < 0.2  # as written and as released differ by a factor 2.7
        np.testing.assert_allclose(r["histogram"].sum(-1), 1, atol=1e-3)  # 3.6 standard deviations hold all but 3e-4

    def test_fig3_on_the_kernels(self):
        """The same figure with another backend's words, inside the same intervals."""
        pytest.importorskip("numba_kernels")
        r = figure("fig3").compute(**{**SMALL, "draws": 12, "ops": "numba_kernels"})
        inside(r["product"], r["exact_product"], "inner-product error, kernels")
        inside(r["mse"], r["exact_mse"], "distortion, kernels")

    def test_published_histograms_are_the_released_codes(self, results):
        r = results["fig1"]
        # the published figures have two digits: half a unit of the last one, and 0.5 % of other inner products
        np.testing.assert_allclose(r["released_prod_std"], r["published_prod_std"], rtol=0.005, atol=5e-5)
        assert np.all(r["written_prod_std"] > 1.6 * np.asarray(r["published_prod_std"]))

    def test_fig2(self, results):
        r = results["fig2"]
        inside(r["mean"], r["exact_mean"], "mean error of a group")
        inside(r["square"], r["exact_square"], "squared error of a group")
        assert np.all(np.diff(r["exact_mean"][0, 1]) > 0)  # mse's bias grows with the inner product
        np.testing.assert_allclose(r["exact_mean"][0, 0], 0, atol=1e-12)  # prod as written has none

    def test_fig3(self, results):
        r = results["fig3"]
        inside(r["product"], r["exact_product"], "inner-product error")
        assert inside(r["mse"], r["exact_mse"], "distortion").max() < 0.1
        np.testing.assert_allclose(r["exact_mse"][0, 1], [theory.mse(48, b) for b in r["bits"]], rtol=1e-12)
        assert np.all(np.asarray(r["sphere"]) < 4.0 ** -np.asarray(r["bits"]))

    def test_polar_angles(self, results):
        r = results["polar_angles"]
        inside(r["rotated_variance"].T, r["exact_variance"], "variance of the angles")
        inside([r["rotated_distortion"]], [r["exact_distortion"]], "distortion")
        np.testing.assert_allclose(r["exact"].sum(-1), 1, rtol=1e-12)
        # total variation from the exact law: without a rotation the law is another one
        off = np.abs(np.stack([r["plain"], r["rotated"]]) - r["exact"]).sum(-1) / 2
        assert np.all(off[0] > 2 * off[1])

    def test_qjl_m(self, results):
        r = results["qjl_m"]
        inside(r["square"], r["exact_square"], "QJL's squared error")
        inside(r["failure"], r["exact_failure"], "QJL's failure probability")

    def test_lemma_3_5_fails(self):
        true = math.erfc(0.05 * math.sqrt(2000 / math.pi))
        assert qjl_m.lemma(2000, 0.05) == pytest.approx(0.0562, abs=5e-5)
        assert true == pytest.approx(0.0744, abs=5e-5)
        assert qjl_m.bernstein(2000, 0.05) > true

    def test_a_wrong_quantizer_is_seen(self, monkeypatch):
        """Planted: the codebook is 5 % too wide."""
        right = errors.quantizers

        def wide(d, bits, seed):
            def stretched(Q):
                book = Q.codebook
                return mse.Quantizer(Q.rotation, type(book)(**{**vars(book), "centroids": 1.05 * book.centroids}))

            return {k: stretched(Q) if k[1] == "mse" else Q for k, Q in right(d, bits, seed).items()}

        monkeypatch.setattr(errors, "quantizers", wide)
        r = errors.measure(**{**SMALL, "seed": 4})
        assert errors.intervals(r["mse"], r["exact_mse"], 1 - FALSE_ALARM)[2] >= 5


class TestRecall:
    def test_exact_scores_have_recall_one(self):
        scores = np.array([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
        assert fig5._recall(scores, np.array([0, 1])).tolist() == [1.0] * len(fig5.KS)

    def test_ties_are_broken_at_random(self):
        flat = np.zeros((5, 8))
        np.testing.assert_allclose(fig5._recall(flat, np.zeros(5, int)), np.minimum(np.array(fig5.KS) / 8, 1))

    def test_grows_with_k_and_bits(self, results):
        mean = fig5._means(results["fig5"])[0]
        assert np.all(np.diff(mean, axis=-1) >= 0)
        assert np.all(mean[:, 1, :, 0] > mean[:, 0, :, 0])

    def test_bytes_are_counted(self, results):
        r = results["fig5"]
        by_name = dict(zip(r["methods"], r["bytes"][0, 0], strict=True))
        assert by_name["TurboQuant mse"] == 32 * 2 / 8 + 4
        assert by_name["TurboQuant prod"] == 32 * 2 / 8 + 8


class TestTable2:
    def test_times_and_arithmetic(self, results):
        r = results["table2"]
        assert np.all(np.asarray(r["seconds"]) > 0)
        np.testing.assert_allclose(r["floor"], [2e5 * d * d / 312e12 for d in (16, 32)])

    def test_published_times_are_below_the_arithmetic(self):
        for d in (1536, 3072):
            assert table2.PUBLISHED["TurboQuant"][d] < 2e5 * d * d / table2.A100_FP16

    def test_gpu_times(self, tmp_path, monkeypatch):
        """Those of the committed benchmark, which has its own ratio to the paper's; none where it has not run."""
        dims = [200, 1536, 3072]
        found = table2.gpu_seconds([*dims, 77])
        record = json.loads(table2.GPU_RESULTS.read_text())
        ratios = {row["d"]: row["paper_over_us"] for row in record["quantize"]["cases"]}
        published = [table2.PUBLISHED["TurboQuant"][d] for d in dims]
        np.testing.assert_allclose(np.array(published) / found["seconds"][:3], [ratios[d] for d in dims])
        assert np.isnan(found["seconds"][3])
        assert "NVIDIA" in found["device"]
        monkeypatch.setattr(table2, "GPU_RESULTS", tmp_path / "gpu.json")
        assert np.isnan(table2.gpu_seconds(dims)["seconds"]).all()


class TestPlots:
    @pytest.mark.parametrize("name", OURS)
    def test_from_arrays_and_from_json(self, results, name):
        module = figure(name)
        for r in (results[name], json.loads(json.dumps(_store.plain(results[name])))):
            drawn = module.plot(r)
            labels = " ".join(a.get_xlabel() + a.get_ylabel() for a in drawn.axes)
            assert labels.strip(), name
            assert drawn.legends or any(a.get_legend() for a in drawn.axes), name
            assert isinstance(module.summary(r), str)

    def test_fig3_axes(self, results):
        upper_left, upper_right, lower_left, _ = figure("fig3").plot(results["fig3"]).axes
        assert upper_left.get_yscale() == upper_right.get_yscale() == "log"
        assert "bits" in lower_left.get_xlabel()
        names = {t.get_text() for t in upper_right.get_legend().get_texts()}
        assert {"mse, as written", "mse, as released", "printed, Theorem 1"} <= names
        assert any("Theorem 3" in n for n in names)

    def test_style_does_not_leak(self, results):
        import matplotlib as mpl

        before = dict(mpl.rcParams)
        figure("qjl_m").plot(results["qjl_m"])
        assert dict(mpl.rcParams) == before

    def test_colours_are_of_one_palette(self):
        assert len(set(_style.CYCLE)) == len(_style.MARKERS) == 7

    @pytest.mark.parametrize(("value", "text"), [(0.0345478, "0.0345"), (1234.4, "1234"), (12.34, "12.3"), (0, "0")])
    def test_significant(self, value, text):
        assert _style.significant(value) == text


class TestCommandLine:
    ARGS = ("qjl_m", "--quick", "--draws", "3")

    def test_writes_all_and_keeps_them(self, tmp_path, capsys):
        assert __main__.main([*self.ARGS, "--out", str(tmp_path)]) == 0
        assert sorted(p.name for p in tmp_path.iterdir()) == ["qjl_m.json", "qjl_m.png", "qjl_m.svg"]
        record = json.loads((tmp_path / "qjl_m.json").read_text())
        assert record["arguments"]["draws"] == 3
        capsys.readouterr()
        assert __main__.main([*self.ARGS, "--out", str(tmp_path)]) == 0
        assert "as computed before" in capsys.readouterr().out
        assert __main__.main(["qjl_m", "--quick", "--draws", "4", "--out", str(tmp_path)]) == 0
        assert "computed in" in capsys.readouterr().out

    def test_data_names_the_file(self, tmp_path):
        np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((200, 16)))
        out = tmp_path / "out"
        arguments = ["fig3", "--quick", "--draws", "3", "--data", str(tmp_path / "mine.npy"), "--out", str(out)]
        assert __main__.main(arguments) == 0
        assert (out / "fig3-mine.npy.png").exists()
        assert "file_sha256" in json.loads((out / "fig3-mine.npy.json").read_text())["arguments"]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["fig9"], "no figure is called 'fig9'"),
            (["fig3", "--ops", "no_such_backend"], "is no backend"),
            (["fig3", "--ops", "json"], "is no backend"),
            (["fig3", "--data", "nowhere.npy"], "is no file"),
            (["fig3", "--draws", "1"], "--draws: expected at least 2"),
            (["fig3", "--n", "0"], "--n: expected at least 2"),
        ],
    )
    def test_errors(self, arguments, says, capsys, tmp_path):
        assert __main__.main([*arguments, "--out", str(tmp_path)]) == 2
        assert says in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_out_is_a_file(self, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert __main__.main([*self.ARGS, "--out", str(tmp_path / "file")]) == 2
        assert "is a file" in capsys.readouterr().err

    def test_bad_data_file(self, tmp_path, capsys):
        (tmp_path / "broken.npy").write_bytes(b"nothing")
        arguments = ["fig3", "--quick", "--data", str(tmp_path / "broken.npy"), "--out", str(tmp_path / "out")]
        assert __main__.main(arguments) == 2
        assert "broken.npy" in capsys.readouterr().err

    def test_list(self, capsys):
        assert __main__.main(["--list"]) == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)

    @pytest.mark.parametrize("when", ["savefig", "compute"])
    def test_interrupted(self, tmp_path, monkeypatch, capsys, when):
        def stop(*args, **kwargs):
            raise KeyboardInterrupt

        (tmp_path / "qjl_m.png").write_bytes(b"of before")
        if when == "compute":
            monkeypatch.setattr(qjl_m, "compute", stop)
            monkeypatch.setattr(__main__, "arguments_of", lambda *a, **k: {})
        else:
            import matplotlib.figure

            monkeypatch.setattr(matplotlib.figure.Figure, "savefig", stop)
        assert __main__.main([*self.ARGS, "--out", str(tmp_path)]) == 130
        assert [p.name for p in tmp_path.iterdir()] == ["qjl_m.png"]
        assert (tmp_path / "qjl_m.png").read_bytes() == b"of before"

    def test_same_numbers_from_the_same_seed(self):
        arguments = {"d": 8, "pairs": 8, "draws": 2, "rho": 0.5, "eps": 0.1, "seed": 5}
        first, second = (_store.plain(qjl_m.compute(**arguments)) for _ in range(2))
        assert first == second


class TestStore:
    def test_plain(self):
        value = {"a": np.array([1.0, np.nan]), 2: (np.float64(1 / 3), np.int64(3), None, True, "x")}
        assert _store.plain(value) == {"a": [1.0, None], "2": [0.3333333, 3, None, True, "x"]}
        with pytest.raises(TypeError, match="object"):
            _store.plain(object())

    def test_damaged_file_is_no_result(self, tmp_path):
        (tmp_path / "fig1.json").write_text("{")
        assert _store.load(tmp_path, "fig1", {}) is None
        (tmp_path / "fig1.json").write_text("[]")
        assert _store.load(tmp_path, "fig1", {}) is None


class TestReaders:
    """Small files of the formats that the paper's sets come in."""

    X = np.random.default_rng(1).standard_normal((7, 5)).astype(np.float32)

    def test_hdf5(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "glove-5-angular.hdf5", "w") as file:
            file["train"], file["test"] = self.X, self.X[:2]
            file["neighbors"], file["distances"] = np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)
            file.attrs["distance"] = "angular"
        sample = data.read(tmp_path / "glove-5-angular.hdf5")
        np.testing.assert_array_equal(sample.x, self.X)
        np.testing.assert_array_equal(sample.queries, self.X[:2])
        assert len(data.read(tmp_path / "glove-5-angular.hdf5", 3).x) == 3
        x, y = data.split(sample, 5, 2)
        assert (len(x), len(y)) == (5, 2)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["vectors"] = self.X
        with pytest.raises(ValueError, match="keys vectors; expected 'train'"):
            data.read(tmp_path / "other.h5")
        (tmp_path / "no.h5").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="not a readable HDF5"):
            data.read(tmp_path / "no.h5")

    @pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
    def test_parquet(self, tmp_path, kind):
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        types = {"list": pa.list_(pa.float64()), "large_list": pa.large_list(pa.float32()),
                 "fixed": pa.list_(pa.float32(), 5)}  # fmt: skip
        column = pa.array([row.tolist() for row in self.X], types[kind])
        table = pa.table({"_id": [str(i) for i in range(7)], "text-embedding-3-large-5-embedding": column})
        pq.write_table(table, tmp_path / "part.parquet", row_group_size=3)
        np.testing.assert_array_equal(data.read(tmp_path / "part.parquet").x, self.X)
        np.testing.assert_array_equal(data.read(tmp_path / "part.parquet", 4).x, self.X[:4])

    def test_parquet_refused(self, tmp_path):
        pa = pytest.importorskip("pyarrow")
        pq = pytest.importorskip("pyarrow.parquet")
        for name, columns, says in (
            ("none", {"a": [1.0, 2.0]}, "one of lists of numbers"),
            ("ragged", {"a": [[1.0], [1.0, 2.0]]}, "entries, expected one"),
            ("null", {"a": [[1.0, 2.0], None]}, "rows without a vector"),
        ):
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
            with pytest.raises(ValueError, match=says):
                data.read(tmp_path / f"{name}.parquet")
        (tmp_path / "no.parquet").write_bytes(b"nothing")
        with pytest.raises(ValueError, match="not a readable Parquet"):
            data.read(tmp_path / "no.parquet")

    def test_glove_text(self, tmp_path):
        words = ["the", ". . .", "naïve"]
        lines = [word + " " + " ".join(f"{v:.6g}" for v in row) for word, row in zip(words, self.X, strict=False)]
        (tmp_path / "glove.5d.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        np.testing.assert_allclose(data.read(tmp_path / "glove.5d.txt").x, self.X[:3], rtol=1e-5)
        (tmp_path / "fast.vec").write_text("3 5\n" + "\n".join(lines) + "\n", encoding="utf-8")
        np.testing.assert_allclose(data.read(tmp_path / "fast.vec", 2).x, self.X[:2], rtol=1e-5)
        (tmp_path / "bad.txt").write_text("a 1 2 3\nb 1 2\n")
        with pytest.raises(ValueError, match="line 2"):
            data.read(tmp_path / "bad.txt")

    def test_npy_and_refusals(self, tmp_path):
        np.save(tmp_path / "x.npy", self.X)
        np.testing.assert_array_equal(data.load(tmp_path / "x.npy").x, self.X)
        np.savetxt(tmp_path / "x.csv", self.X)
        with pytest.raises(ValueError, match=r"suffix '\.csv'"):
            data.load(tmp_path / "x.csv")
        with pytest.raises(FileNotFoundError, match="glove, wordllama, smollm2-keys, synthetic-D"):
            data.load("nowhere")

    def test_a_missing_library_is_named(self, tmp_path, monkeypatch):
        import builtins

        real = builtins.__import__

        def without(name, *args, **kwargs):
            if name.split(".")[0] in ("h5py", "pyarrow"):
                raise ImportError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(data.importlib, "import_module", lambda name: without(name))
        (tmp_path / "x.hdf5").touch()
        with pytest.raises(ModuleNotFoundError, match="pip install h5py"):
            data.read(tmp_path / "x.hdf5")
        (tmp_path / "x.parquet").touch()
        with pytest.raises(ModuleNotFoundError, match="pip install pyarrow"):
            data.read(tmp_path / "x.parquet")

    def test_wordllama(self):
        if importlib.util.find_spec("wordllama") is None:
            with pytest.raises(ModuleNotFoundError, match="pip install wordllama"):
                data.load("wordllama")
        else:
            assert data.load("wordllama", 100).x.shape == (100, 256)

    def test_synthetic(self):
        x, y = data.split(data.load("synthetic-256", 1500), 1000, 400)
        rho = y.astype(np.float64) @ x.T
        assert abs(rho.mean() - 0.087) < 0.01  # standard error 0.002, from 1,400 vectors about their mean
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
        power = np.linalg.eigvalsh(np.cov(data.synthetic(64, 6000, mean=0.0).T))[::-1]
        slope = np.polyfit(np.log(np.arange(1, 33)), np.log(power[:32]), 1)[0]
        assert slope == pytest.approx(-0.7, abs=0.07)


class TestClaims:
    def test_readme_is_in_step(self):
        """The claim table of README.md is what ``python -m paper_figures.claims`` prints."""
        text = claims.README.read_text()
        inside_markers = text.split(claims.BEGIN)[1].split(claims.END)[0].strip()
        assert inside_markers == claims.table(), "run python -m paper_figures.claims --write"

    def test_committed_points_are_inside(self):
        """Of the committed results of Figs 1 to 3, PolarQuant's and QJL's, no point is outside its joint interval."""
        for name in ("fig1", "fig2", "fig3", "fig3-wordllama", "polar_angles", "qjl_m"):
            results = _store.load(claims.RESULTS, name)
            assert results is not None, name
            last = figure(name.split("-")[0]).summary(results).splitlines()[-1]
            assert re.match(r"0 of \d+ points outside", last), (name, last)

    def test_commands_exist(self):
        for claim in claims.claims():
            for name in claim.command.split():
                assert name in (*FIGURES, "claims")

    def test_mis_scaled_codebook(self):
        # by brute force: 1e6 midpoints of the law of a coordinate at d = 32, the table of N(0, 1) over √128
        t = (np.arange(10**6) + 0.5) / 5e5 - 1
        half = np.array([0.24509418, 0.75600528, 1.34390928, 2.15194570])
        table = np.concatenate([-half[::-1], half]) / math.sqrt(128)
        error = t - table[np.searchsorted((table[1:] + table[:-1]) / 2, t)]
        weight = np.exp(29 / 2 * np.log1p(-t * t))
        right, wrong = theory.mse(32, 3), 32 * float((weight * error**2).sum() / weight.sum())
        row = next(c for c in claims.claims() if "codebook of d = 128" in c.says)
        assert f"{wrong:.4f}" in row.number
        assert f"{right:.4g}" in row.number

    def test_outlier_arithmetic(self):
        printed = [r.nominal for r in channels.readings() if r.parts == ((32, 3), (96, 2))]
        assert printed == [2.25]


def test_importing_the_package_loads_no_figure():
    import subprocess
    import sys

    code = "import sys, paper_figures; print([m for m in ('matplotlib', 'numba', 'faiss', 'h5py') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_bad_arguments():
    with pytest.raises(ValueError, match="bits"):
        errors.measure(**SMALL, bits=(1, 6))
    with pytest.raises(ValueError, match="draws"):
        errors.measure(**{**SMALL, "draws": 1})
    with pytest.raises(ValueError, match="blocks are of 16"):
        polar_angles.compute("synthetic-8", 10, 2)
    with pytest.raises(ValueError, match="eps"):
        qjl_m.compute(8, 4, 2, 0.5, 2.0)
    with pytest.raises(ValueError, match="dims"):
        table2.compute([1], 1e4, 1)
    with pytest.raises(ValueError, match="no figure"):
        figure("fig0")
