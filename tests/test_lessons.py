"""Every lesson is executed, as shipped and with the solutions filled in, in a kernel of its own."""

import ast
import importlib
import re
import time
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("[0-9][0-9]_*.py"))
CHECK = re.compile(r"exercises\.(\w+)\.check\(\1\)")      # a cell of its own
SECONDS = 600                                # a kernel that hangs is ended; speed is no test's business


def exercises_of(lesson: Path) -> dict:
    return importlib.import_module(f"segviz.exercises.lesson_{lesson.stem[:2]}").EXERCISES


def solve(notebook: nbformat.NotebookNode, exercises: dict) -> set[str]:
    """Puts each exercise's solution in place of its stub, the cell that defines its name; returns the names found."""
    found = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        functions = [node.name for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef)]
        if names := set(functions) & set(exercises):
            name, = names
            cell.source = exercises[name].source()
            found |= names
    return found


def execute(lesson: Path, solved: bool, tmp_path: Path, monkeypatch) -> dict[str, str]:
    """{exercise: outcome} of an executed lesson, as its checks showed them."""
    monkeypatch.setenv("SEGVIZ_HOME", str(tmp_path))
    notebook, exercises = jupytext.read(lesson), exercises_of(lesson)
    if solved:
        assert solve(notebook, exercises) == set(exercises), "an exercise of the package has no stub in the lesson"
    start = time.perf_counter()
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", timeout=SECONDS, resources=place).execute()
    print(f"\n{lesson.stem}: {time.perf_counter() - start:.0f} s {'solved' if solved else 'as shipped'}")
    outcomes = {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and (check := CHECK.fullmatch(cell.source.strip())):
            shown = "".join(str(output.get("data", {}).get("text/html", "")) for output in cell.outputs)
            outcomes[check[1]] = re.search(r'data-outcome="([\w ]+)"', shown)[1]
    assert list(outcomes) == list(exercises), "checks in the lesson and exercises in the package differ"
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_lesson_runs_as_shipped(lesson, tmp_path, monkeypatch):
    assert set(execute(lesson, False, tmp_path, monkeypatch).values()) == {"not attempted"}


@pytest.mark.solved
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_lesson_runs_solved(lesson, tmp_path, monkeypatch):
    assert set(execute(lesson, True, tmp_path, monkeypatch).values()) == {"passed"}


def test_the_runner_sees_a_failing_claim(tmp_path, monkeypatch):
    lesson = tmp_path / "00_start_here.py"
    lesson.write_text("# %%\nassert 1 == 2\n")
    with pytest.raises(Exception, match="AssertionError"):
        execute(lesson, False, tmp_path, monkeypatch)


def cells_of(lesson: Path, kind: str) -> list[str]:
    return [cell.source for cell in jupytext.read(lesson).cells if cell.cell_type == kind]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_lesson_keeps_its_form(lesson):
    code, text = cells_of(lesson, "code"), cells_of(lesson, "markdown")
    lengths = sorted(len([line for line in cell.splitlines() if line.strip()]) for cell in code)
    assert lengths[len(lengths) // 2] <= 8 and lengths[-1] <= 25
    number = lesson.stem[:2]
    assert text[0].startswith(f"# {int(number)} · ") and "minutes" in text[0]
    assert f'course.banner("{number}")' in code[0]
    assert any("assert " in cell for cell in code) and "**Predict" in "".join(text)
    assert "Myth or measured?" in "".join(text) and "**Sources.**" in text[-1] and "## What was shown" in "".join(text)
    assert 2 <= len(exercises_of(lesson)) <= 5
    assert [check[1] for cell in code if (check := CHECK.fullmatch(cell.strip()))] == list(exercises_of(lesson))
