"""Learner's copies and the banner, on temporary courses: nothing that a learner typed is ever lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest

from segviz import copies, course
from segviz.course import CourseError
from segviz.exercises.progress import Progress

SOURCE = '# %% [markdown]\n# # Title {version}\n\n# %%\nanswer = {version}\n\n# %%\nanswer + 1\n'


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "lessons"
    folder.mkdir()
    write(folder)
    return folder


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "my lessons"


def write(folder: Path, version: int = 1) -> None:
    for name in ("00_start", "01_next"):
        (folder / f"{name}.py").write_text(SOURCE.format(version=version), encoding="utf-8")


def edit(path: Path, text: str = "mine = 42", outputs: bool = False) -> bytes:
    """Types into the second cell, or only runs it, and saves as JupyterLab does: text as lists of lines."""
    made = json.loads(path.read_text(encoding="utf-8"))
    if outputs:
        made["cells"][1]["execution_count"] = 7
        made["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["trained"]}]
    else:
        made["cells"][1]["source"] = text
    for cell in made["cells"]:
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
    path.write_text(json.dumps(made, indent=1), encoding="utf-8")
    return path.read_bytes()


def first_line(path: Path) -> str:
    return "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])


def kinds(changes) -> list[str]:
    return [change.kind for change in changes]


def test_copies_hold_the_lesson_and_are_not_paired(sources, mine):
    assert kinds(copies.prepare(mine, sources)) == ["made", "made"]
    made = json.loads((mine / "00_start.ipynb").read_text(encoding="utf-8"))
    expected = jupytext.read(sources / "00_start.py")
    assert [cell["source"] for cell in made["cells"]] == [cell.source for cell in expected.cells]
    assert made["metadata"]["kernelspec"]["name"] == "python3"
    assert "jupytext" not in made["metadata"]
    assert str(sources) not in json.dumps(made)
    jupytext.read(mine / "00_start.ipynb")     # a valid notebook


def test_a_second_start_changes_nothing(sources, mine):
    copies.prepare(mine, sources)
    before = {path: path.read_bytes() for path in mine.iterdir()}
    assert copies.prepare(mine, sources) == []
    assert {path: path.read_bytes() for path in mine.iterdir()} == before


def test_an_untouched_copy_is_renewed(sources, mine):
    copies.prepare(mine, sources)
    write(sources, 2)
    assert kinds(copies.prepare(mine, sources)) == ["renewed", "renewed"]
    assert first_line(mine / "00_start.ipynb") == "# Title 2"
    assert len(list(mine.iterdir())) == 2


def test_a_copy_that_was_only_run_is_renewed_and_its_outputs_are_kept(sources, mine):
    copies.prepare(mine, sources)
    ran = edit(mine / "00_start.ipynb", outputs=True)
    write(sources, 2)
    change = copies.prepare(mine, sources)[0]
    assert change.kind == "renewed" and change.earlier.name in change.words
    assert first_line(mine / "00_start.ipynb") == "# Title 2"
    assert change.earlier.read_bytes() == ran


@pytest.mark.parametrize("damage", [False, True])
def test_an_edited_or_unreadable_copy_is_kept_exactly(sources, mine, damage):
    copies.prepare(mine, sources)
    path = mine / "00_start.ipynb"
    if damage:
        path.write_bytes(b'{"cells": [half a noteb')
    else:
        edit(path)
    typed = path.read_bytes()
    write(sources, 2)
    change = copies.prepare(mine, sources)[0]
    beside = mine / "00_start (updated).ipynb"
    assert (change.kind, change.path) == ("kept", beside)
    assert beside.name in change.words
    assert path.read_bytes() == typed
    assert first_line(beside) == "# Title 2"
    assert copies.prepare(mine, sources) == []             # said and done once


def test_what_is_laid_beside_follows_the_same_rules(sources, mine):
    copies.prepare(mine, sources)
    typed = edit(mine / "00_start.ipynb")
    write(sources, 2)
    copies.prepare(mine, sources)
    write(sources, 3)                                      # the one beside is untouched: renewed in its place
    assert copies.prepare(mine, sources)[0].path.name == "00_start (updated).ipynb"
    assert first_line(mine / "00_start (updated).ipynb") == "# Title 3"
    second = edit(mine / "00_start (updated).ipynb", "also mine")
    write(sources, 4)
    assert copies.prepare(mine, sources)[0].path.name == "00_start (updated 2).ipynb"
    assert (mine / "00_start.ipynb").read_bytes() == typed
    assert (mine / "00_start (updated).ipynb").read_bytes() == second


@pytest.mark.parametrize("change", [
    lambda made: made["cells"].append({"cell_type": "code", "source": "", "metadata": {}, "outputs": []}),
    lambda made: made["cells"].pop(),
    lambda made: made["cells"].reverse(),
    lambda made: made["cells"][1].update(cell_type="raw"),
    lambda made: made["metadata"].pop("segviz"),
    lambda made: made.update(cells="none"),
], ids=["added", "removed", "moved", "kind", "replaced", "strange"])
def test_every_kind_of_edit_counts(sources, mine, change):
    copies.prepare(mine, sources)
    path = mine / "00_start.ipynb"
    made = json.loads(path.read_text(encoding="utf-8"))
    change(made)
    path.write_text(json.dumps(made), encoding="utf-8")
    typed = path.read_bytes()
    write(sources, 2)
    assert copies.prepare(mine, sources)[0].kind == "kept"
    assert path.read_bytes() == typed


def test_a_deleted_copy_is_made_again(sources, mine):
    copies.prepare(mine, sources)
    (mine / "01_next.ipynb").unlink()
    change, = copies.prepare(mine, sources)
    assert (change.kind, change.path.name) == ("made", "01_next.ipynb")


def test_a_save_between_reading_and_renewing_is_kept(sources, mine, monkeypatch):
    copies.prepare(mine, sources)
    write(sources, 2)
    real, path = copies._written, mine / "00_start.ipynb"

    def saved_meanwhile(target, content):
        edit(path)
        return real(target, content)

    monkeypatch.setattr(copies, "_written", saved_meanwhile)
    copies.prepare(mine, sources)
    assert b"mine = 42" in path.read_bytes()


def test_nothing_is_written_over_a_file_that_appears(mine):
    mine.mkdir()
    (mine / "note.ipynb").write_bytes(b"mine")
    copies._create(mine / "note.ipynb", b"new")
    assert (mine / "note.ipynb").read_bytes() == b"mine"
    assert len(list(mine.iterdir())) == 1


UPDATE = """
import os, signal, sys, time
from pathlib import Path
from segviz import copies
calls = 0
def killed(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, call)
for name in ("fsync", "link", "replace", "unlink", "chmod"):
    killed(name)
import jupytext
print("ready", flush=True)
copies.prepare(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def update_and_kill(mine: Path, sources: Path, at_call: int = 0, after: float | None = None) -> bool:
    """Runs an update in another process; kills it at a system call, or some seconds after it began."""
    command = [sys.executable, "-c", UPDATE, str(mine), str(sources), str(at_call)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    if after is not None:
        time.sleep(after)
        process.kill()
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


def assert_whole(mine: Path, typed: bytes, ran: bytes) -> None:
    assert (mine / "00_start.ipynb").read_bytes() == typed
    for path in mine.rglob("*.ipynb"):
        assert len(json.loads(path.read_text(encoding="utf-8"))["cells"]) == 3
    assert ran in [path.read_bytes() for path in mine.rglob("*.ipynb")]


def interrupted_updates(mine: Path, sources: Path, kills) -> int:
    copies.prepare(mine, sources)
    typed = edit(mine / "00_start.ipynb")
    ran = edit(mine / "01_next.ipynb", outputs=True)
    hits = 0
    for version, kill in enumerate(kills, start=2):
        write(sources, version)
        hits += update_and_kill(mine, sources, **kill)
        assert_whole(mine, typed, ran)
        copies.prepare(mine, sources)                      # the next start puts everything right
        assert first_line(mine / "01_next.ipynb") == f"# Title {version}"
        assert first_line(mine / "00_start (updated).ipynb") == f"# Title {version}"
        assert_whole(mine, typed, ran)
    return hits


def test_a_kill_at_every_step_of_an_update(sources, mine):
    assert interrupted_updates(mine, sources, [{"at_call": call} for call in range(1, 11)]) >= 8


@pytest.mark.slow
def test_kills_at_random_moments(sources, mine):
    moments = random.Random(0)
    kills = [{"after": moments.uniform(0, 0.02)} for _ in range(30)]
    assert interrupted_updates(mine, sources, kills) > 0     # how many depends on the machine


def test_old_leftovers_are_swept(sources, mine):
    mine.mkdir()
    old, young = mine / ".segviz-old.tmp", mine / ".segviz-young.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    copies.prepare(mine, sources)
    assert young.exists() and not old.exists()


def test_no_lessons_and_no_room_are_said_in_words(sources, tmp_path):
    with pytest.raises(CourseError, match="found none: install segviz from a clone"):
        course.lessons(tmp_path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match="nothing of yours was changed"):
        copies.prepare(tmp_path / "file" / "mine", sources)


# -- progress at the top of a lesson


@pytest.fixture
def exercises(monkeypatch):
    """Two exercises in lesson 00, none in 01, whatever the course itself has there."""
    iou = SimpleNamespace(title="IoU by <b>hand</b>")
    modules = {"00": SimpleNamespace(TITLE="Start <here>", EXERCISES={"iou": iou, "dice": SimpleNamespace()})}
    monkeypatch.setattr(course, "_exercise_module", modules.get)


@pytest.fixture
def store(tmp_path):
    return Progress(tmp_path / "home" / "progress.sqlite")


def test_lessons_are_found_without_their_exercises(sources):
    found = course.lessons(sources)
    assert [(lesson.number, lesson.name) for lesson in found] == [("00", "00_start"), ("01", "01_next")]
    assert course.Lesson("99", sources / "99_far_away.py").title == "Far away"
    assert course.Lesson("99", sources / "99_far_away.py").exercises == {}


def test_banner_counts(sources, store, exercises):
    store.record("00", "iou", "passed")
    store.record("00", "dice", "wrong")
    banner = course.banner("00", store=store, folder=sources)
    for shown in (repr(banner), banner._repr_html_()):
        assert "1 of 2 exercises passed" in shown and "whole course 1 of 2" in shown
        assert "01_next.ipynb" in shown
    assert "✓ passed  IoU" in repr(banner) and "○ open    dice" in repr(banner)
    assert 'aria-valuenow="1"' in banner._repr_html_()
    last = course.banner("01", store=store, folder=sources)
    assert "no exercises in this lesson" in repr(last) and "last lesson" in last._repr_html_()


def test_banner_escapes_and_tells(sources, tmp_path, exercises):
    place = tmp_path / "a<script>b"
    place.write_text("in the way")
    store = Progress(place / "progress.sqlite")
    store.record("00", "iou", "passed")
    html = course.banner("00", store=store, folder=sources)._repr_html_()
    assert "Start &lt;here&gt;" in html and "IoU by &lt;b&gt;hand" in html
    assert "cannot be saved" in html and "<script>" not in html


def test_banner_of_no_lesson(sources, store):
    with pytest.raises(ValueError, match="one of 00, 01; got '7'"):
        course.banner("7", store=store, folder=sources)


def test_next_lesson_is_where_the_learner_left_off(sources, store, exercises):
    assert course.next_lesson(store, sources).number == "00"
    store.record("00", "iou", "passed")
    assert course.next_lesson(store, sources).number == "00"
    store.record("00", "dice", "passed")
    assert course.next_lesson(store, sources).number == "01"
    store.record("77", "gone", "passed")                   # a lesson that the course no longer has
    assert course.next_lesson(store, sources).number == "01"
