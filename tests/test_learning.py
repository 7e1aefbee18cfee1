"""The course as a learner meets it: lesson 02's own copy in JupyterLab, run, played with, solved, and opened again."""

import re

import pytest
from browser import command, open_notebook, picture, run_all, run_cell, settled

from segviz import copies, course
from segviz.exercises import lesson_02

pytestmark = pytest.mark.slow
NAME = "02_fc_is_a_convolution.ipynb"
CELLS = "[...window.jupyterapp.shell.currentWidget.content.widgets]"


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium, jupyter_lab):
    root, home = tmp_path_factory.mktemp("my_lessons"), tmp_path_factory.mktemp("home")
    copies.prepare(root)
    with jupyter_lab(root, environment={"SEGVIZ_HOME": str(home)}) as running:
        yield running


def cell_with(page, words: str) -> int:
    """The number of the first cell whose source holds `words`."""
    number = page.evaluate(f"words => {CELLS}.findIndex(cell => cell.model.sharedModel.source.includes(words))", words)
    assert number >= 0, f"no cell holds {words!r}"
    return number


def show(page, number: int):
    """Scrolls to a cell; returns what is in it."""
    scroll = "await window.jupyterapp.shell.currentWidget.content.scrollToItem(number)"
    page.evaluate(f"async number => {{ {scroll}; return null; }}", number)
    return page.locator(f'.jp-Cell[data-windowed-list-index="{number}"]')


def test_lesson_02_in_the_browser(lab, page):
    open_notebook(page, lab, NAME)
    run_all(page, seconds=300)
    failed = page.evaluate(f"() => {CELLS}.filter(c => c.outputArea?.node.querySelector('[data-mime-type*=stderr], "
                           "[data-mime-type*=error]')).length")
    assert failed == 0
    move_the_explorer(page)
    check = cell_with(page, "exercises.window_count.check(")
    assert "Not attempted" in run_cell(page, check)
    run_cell(page, cell_with(page, "def window_count"), lesson_02.window_count.source())
    assert "Passed" in run_cell(page, check)
    command(page, "docmanager:save")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    open_notebook(page, lab, NAME)                               # the page anew: a learner who comes back
    assert "1 of 4 exercises passed" in run_cell(page, cell_with(page, "course.banner"))
    source = page.evaluate(f"number => {CELLS}[number].model.sharedModel.source", cell_with(page, "def window_count"))
    assert "// stride + 1" in source
    assert page.errors == []


def move_the_explorer(page):
    cell = show(page, cell_with(page, "SlidingExplorer(everywhere"))
    width = cell.get_by_role("slider", name="Input width")
    page.wait_for_function("() => document.querySelector('section.sv')?.dataset.drawn")
    before, words = picture(cell), cell.locator("section.sv").get_attribute("data-key")
    width.scroll_into_view_if_needed()
    box = width.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.98 * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], y, steps=30)
    page.mouse.up()
    page.wait_for_function("([key]) => document.querySelector('section.sv').dataset.key !== key", arg=[words])
    settled(page)
    assert picture(cell) != before
    shown = cell.locator("canvas").get_attribute("aria-label")
    assert re.match(r"Input 128 x (4|5|6|7|8)\d, ", shown), shown


def test_an_update_keeps_the_solved_copy_and_renews_the_others(lab, tmp_path):
    """What the browser test left behind is an edited copy: an update of the course must not touch it."""
    before = (lab.root / NAME).read_bytes()
    assert b"// stride + 1" in before
    for source in course.LESSONS.glob("[0-9][0-9]_*.py"):
        (tmp_path / source.name).write_text(source.read_text(encoding="utf-8") + "\n# %% [markdown]\n# More.\n",
                                            encoding="utf-8")
    changes = {change.lesson.number: change.kind for change in copies.prepare(lab.root, tmp_path)}
    assert changes.pop("02") == "kept" and set(changes.values()) == {"renewed"}
    assert (lab.root / NAME).read_bytes() == before
