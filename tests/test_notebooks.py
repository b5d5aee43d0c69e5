"""The course: sources and prints in step, small, executed from top to bottom; the command that prints them."""

from __future__ import annotations

import ast
import json
import re
import sys

import pytest

pytest.importorskip("jupytext")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from notebooks import __main__ as course

SOURCES = course.sources()
ALLOWED = {"turboquant_ref", "numba_kernels", "cuda_kernels", "paper_figures", "numpy", "matplotlib", "ipywidgets"}


def test_ten_lessons_in_order():
    assert [p.name[:2] for p in SOURCES] == [f"{n:02d}" for n in range(1, 11)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
class TestLesson:
    def test_in_step(self, source):
        """The .ipynb is the print of this .py: run ``python -m notebooks`` after a change."""
        assert course.in_step(source) is None

    def test_form(self, source):
        """A title, one idea, at least two pictures, exercises at the end."""
        notebook = json.loads(source.with_suffix(".ipynb").read_text())
        markdown = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
        assert markdown[0].startswith(f"# {int(source.name[:2])}. ")
        assert "**Idea of this lesson:**" in markdown[0]
        assert "## Exercises" in markdown[-1]
        outputs = [o for c in notebook["cells"] for o in c.get("outputs", [])]
        assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
        assert not any(o.get("name") == "stderr" for o in outputs)

    def test_imports_public_things_only(self, source):
        """The public API and the figures' functions: no module and no name that begins with an underscore."""
        names = set()
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute):
                assert not re.match("_[^_]", node.attr), f"{source.name}: private {node.attr}"
        for name in names:
            top = name.split(".")[0]
            assert top in ALLOWED | set(sys.stdlib_module_names), f"{source.name} imports {name}"
            assert not any(part.startswith("_") for part in name.split(".")), f"{source.name} imports {name}"


class TestPrinting:
    @pytest.fixture
    def lesson(self, tmp_path, monkeypatch):
        monkeypatch.setattr(course, "HERE", tmp_path)
        source = tmp_path / "01_small.py"
        source.write_text("# %% [markdown]\n# # 1. Small\n\n# %%\nprint(6 * 7)\n")
        return source

    def test_prints_and_stays_in_step(self, lesson, capsys):
        assert course.main([]) == 0
        printed = json.loads(lesson.with_suffix(".ipynb").read_text())
        assert printed["cells"][1]["outputs"][0]["text"] == ["42\n"]
        assert course.in_step(lesson) is None
        assert [p.name for p in sorted(lesson.parent.iterdir())] == ["01_small.ipynb", "01_small.py"]
        lesson.write_text(lesson.read_text().replace("6 * 7", "6 * 8"))
        assert "is of another" in course.in_step(lesson)
        assert course.main(["--check"]) == 1
        assert "is of another" in capsys.readouterr().out

    def test_unexecuted_and_erroneous_prints_are_seen(self, lesson):
        import nbformat

        nbformat.write(course.parse(lesson), lesson.with_suffix(".ipynb"))
        assert "not executed" in course.in_step(lesson)
        lesson.with_suffix(".ipynb").unlink()
        assert "missing" in course.in_step(lesson)

    def test_a_failing_lesson_keeps_the_old_print(self, lesson, capsys):
        lesson.write_text("# %%\n1 / 0\n")
        lesson.with_suffix(".ipynb").write_text("of before")
        assert course.main(["01"]) == 1
        assert "ZeroDivisionError" in capsys.readouterr().err
        assert lesson.with_suffix(".ipynb").read_text() == "of before"

    def test_unknown_lesson(self, capsys):
        assert course.main(["11"]) == 2
        assert "no lesson '11'" in capsys.readouterr().err


class TestExplore:
    def test_static_picture(self, monkeypatch):
        from paper_figures import interactive

        drawn, shown = [], []
        monkeypatch.setenv(interactive.STATIC, "1")
        monkeypatch.setattr(interactive, "show", shown.append)
        interactive.explore(lambda a, b: drawn.append((a, b)) or "picture", start={"b": "z"}, a=range(5), b="xyz")
        assert drawn == [(2, "z")]
        assert shown == ["picture"]

    def test_sliders(self, monkeypatch):
        pytest.importorskip("ipywidgets")
        from paper_figures import interactive

        monkeypatch.delenv(interactive.STATIC, raising=False)
        drawn = []
        monkeypatch.setattr(interactive, "show", drawn.append)
        interactive.explore(lambda a: a, a=(1, 2, 3))
        assert drawn == [2]
