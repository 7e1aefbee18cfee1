"""The explorers as a learner meets them: in JupyterLab and in an exported page, in headless Chromium."""

import json
import re
import time
from pathlib import Path

import browser as driving
import nbformat
import numpy as np
import pytest
from browser import PANEL, command, open_notebook, picture, run_all, run_cell, settled

import segviz.widgets
from segviz.widgets import Choice, Explorer, Grid, Panel, ReceptiveExplorer, Slider, State, Steps, engine
from segviz.widgets.panels import encode
from segviz.widgets.snapshot import _plain_layers

pytestmark = pytest.mark.slow

SETUP = """
import time
import torch
from segviz.data import toytown
from segviz.widgets import *

torch.manual_seed(0)
scene = toytown.scene(0)

def place(height, width, row, column):
    image = torch.full((3, height, width), 0.6)
    red = torch.tensor([0.8, 0.2, 0.3])[:, None, None]
    image[:, max(row - 6, 0):row + 6, max(column - 9, 0):column + 9] = red
    return image

reddish = torch.nn.Conv2d(3, 3, 32, stride=8)       # not trained: it answers to red at its window's centre
torch.nn.init.zeros_(reddish.weight), torch.nn.init.zeros_(reddish.bias)
reddish.weight.data[0, 0, 8:24, 8:24], reddish.weight.data[0, 1:, 8:24, 8:24] = 0.05, -0.025
reddish.weight.requires_grad_(False)

def fails_at_three(number):
    if number == 3:
        raise KeyError("no three here")
    return State([Panel("Numbers", [Bars([Bar("number", number / 8)])])], f"The number is {number}.")

def ponders(depth):
    time.sleep(0.4)
    return State([Panel("Depth", [Bars([Bar("depth", depth / 8)])])], f"Depth {depth}.")

def impossible(kernel):
    if kernel > 4:
        words = "The kernel is larger than the input, 4."
        return State([], f"No output for kernel {kernel}.", problem=words, problem_at="kernel")
    return State([Panel("Kernel", [Bars([Bar("kernel", kernel / 8)])])], f"Kernel {kernel}.")
"""
CELLS = [
    SETUP,
    "scores = ScoresExplorer(scene.image, scene.mask, toytown.CLASSES, disturb='pole')\nscores",
    "sliding = SlidingExplorer(reddish, place, ('car', 'boat', 'ground'), 32, 8, largest=96)\nsliding",
    "Explorer(fails_at_three, [Slider('number', 'Number', 0, 8)], title='Fails at three', prepared=False)",
    "Explorer(impossible, [Slider('kernel', 'Kernel', 1, 8)], title='Prepared')",
    "Explorer(ponders, [Slider('depth', 'Depth', 0, 8)], title='Slow', slow=True)",
    "receptive = ReceptiveExplorer(toytown.scene(0, 64).image)\nreceptive",
    "scores.values",
]
SCORES, SLIDING, FAILING, PREPARED, SLOW, RECEPTIVE = range(6)
LAST = len(CELLS) - 1


def notebook(path):
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, chromium, jupyter_lab):
    root = tmp_path_factory.mktemp("course")
    notebook(root / "explorers.ipynb")
    notebook(root / "left.ipynb")
    with jupyter_lab(root) as running:
        yield running


@pytest.fixture(scope="module")
def shown(lab, module_page):
    """The page with every explorer of the notebook drawn."""
    open_notebook(module_page, lab, "explorers.ipynb")
    run_all(module_page)
    return module_page


def explorer(page, number):
    root = page.locator("section.sv").nth(number)
    root.scroll_into_view_if_needed()
    page.wait_for_function("n => document.querySelectorAll('section.sv')[n]?.dataset.drawn", arg=number)
    return root


def slider(root, name):
    return root.get_by_role("slider", name=name)


def drag(page, handle, start, stop, steps):
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + stop * box["width"], y, steps=steps)
    page.mouse.up()


def test_lab_shows_the_live_view_and_not_the_picture_beside_it(shown):
    explorer(shown, SCORES)
    assert shown.locator("section.sv").count() == 6
    assert shown.locator(".jp-OutputArea-output img").count() == 0


def test_dragging_a_slider_changes_the_picture_and_ends_on_the_last_value(shown):
    root = explorer(shown, SCORES)
    before, right = picture(root), slider(root, "Shift right")
    drag(shown, right, 0.5, 0.83, steps=60)
    assert settled(shown, SCORES).split(",")[1] != "12"
    assert picture(root) != before
    value = int(right.input_value())
    assert 4 <= value <= 12
    assert f"shifted {value} px right" in root.locator(".sv-readout").inner_text()
    assert f"shifted {value} px right" in root.locator("canvas").get_attribute("aria-label")


def test_the_kernel_learns_the_values(shown):
    explorer(shown, SCORES).get_by_role("button", name="Reset").click()
    slider(explorer(shown, SCORES), "Shift down").focus()
    shown.keyboard.press("ArrowLeft")
    settled(shown, SCORES)
    end = time.monotonic() + 30                     # places are saved after a pause
    while not (learned := re.search(r"'down': -1\b", run_cell(shown, LAST))) and time.monotonic() < end:
        shown.wait_for_timeout(100)
    assert learned


def test_arrow_keys_move_a_slider_and_python_moves_it_too(shown):
    root = explorer(shown, SCORES)
    root.get_by_role("button", name="Reset").click()
    handle = slider(root, "Shift right")
    handle.focus()
    for _ in range(3):
        shown.keyboard.press("ArrowRight")
    settled(shown, SCORES)
    assert handle.input_value() == "3"
    assert handle.get_attribute("aria-valuetext") == "+3 px"
    run_cell(shown, LAST, "scores.set(right=-5, drop=False); scores.values")
    shown.wait_for_function("() => document.querySelector('section.sv input').value === '-5'")
    settled(shown, SCORES)
    assert "5 px left" in root.locator(".sv-readout").inner_text()


def test_a_toggle_disables_what_no_longer_matters(shown):
    root = explorer(shown, SCORES)
    root.get_by_label("Drop the class").check()
    settled(shown, SCORES)
    shown.wait_for_function("() => document.querySelector('section.sv input').disabled")
    root.get_by_label("Drop the class").uncheck()
    shown.wait_for_function("() => !document.querySelector('section.sv input').disabled")


def test_a_point_follows_the_mouse_and_the_arrow_keys(shown):
    root = explorer(shown, SLIDING)
    area = root.locator(".sv-point").first
    area.scroll_into_view_if_needed()
    box, before = area.bounding_box(), picture(root)
    shown.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.75 * box["height"])
    row, column = map(int, settled(shown, SLIDING).split(",")[3:5])
    assert abs(row - 72) <= 1 and abs(column - 24) <= 1
    assert picture(root) != before
    area.focus()
    shown.keyboard.press("ArrowUp")
    shown.keyboard.press("Shift+ArrowRight")
    assert list(map(int, settled(shown, SLIDING).split(",")[3:5])) == [row - 1, column + 5]


def test_hovering_over_a_cell_shows_its_window(shown):
    root = explorer(shown, SLIDING)
    area = root.locator(".sv-point").nth(1)
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    shown.mouse.move(box["x"] + 2.5 / 9 * box["width"], box["y"] + 6.5 / 9 * box["height"])
    assert settled(shown, SLIDING).endswith(",6,2")
    assert (
        "Cell row 6, column 2 sees rows 48 to 79 and columns 16 to 47"
        in root.locator(".sv-readout").inner_text()
    )
    slider(root, "Input height").fill("64")
    assert settled(shown, SLIDING).endswith(",6,2")             # kept, for when the map is larger again
    assert slider(root, "Cell: row").input_value() == slider(root, "Cell: row").get_attribute("max") == "4"
    assert "4, 2" in root.get_by_role("group", name="Cell").inner_text()
    assert "Cell row 4, column 2" in root.locator(".sv-readout").inner_text()
    root.get_by_role("button", name="Reset").click()
    settled(shown, SLIDING)


def test_what_compute_raises_is_said_in_words_and_the_picture_stays(shown):
    root = explorer(shown, FAILING)
    handle = slider(root, "Number")
    handle.fill("2")
    settled(shown, FAILING)
    before = picture(root)
    handle.fill("3")
    root.locator(".sv-words", has_text="no three here").wait_for()
    assert picture(root) == before
    handle.fill("4")
    settled(shown, FAILING)
    assert root.locator(".sv-words").inner_text() == ""
    assert "Traceback" not in shown.locator(".jp-Notebook").inner_text()


def test_a_problem_is_said_at_its_control(shown):
    root = explorer(shown, PREPARED)
    slider(root, "Kernel").fill("6")
    assert "larger than the input" in root.locator(".sv-control .sv-problem").inner_text()
    slider(root, "Kernel").fill("2")
    assert root.locator(".sv-control .sv-problem").inner_text() == ""


def test_slow_work_shows_that_it_is_busy_and_passes_over_what_is_no_longer_wanted(shown):
    root = explorer(shown, SLOW)
    drawn = int(root.get_attribute("data-drawn"))
    slider(root, "Depth").focus()
    for _ in range(6):
        shown.keyboard.press("ArrowRight")
    shown.wait_for_function("n => document.querySelectorAll('section.sv')[n].dataset.busy", arg=SLOW)
    assert "Depth 0." in root.locator(".sv-readout").inner_text()       # the old picture stays until then
    assert settled(shown, SLOW) == "6"
    assert "Depth 6." in root.locator(".sv-readout").inner_text()
    assert root.get_attribute("data-busy") is None
    assert int(root.get_attribute("data-drawn")) == drawn + 1           # one picture: the last


def choose(page, root, name, option):
    root.get_by_label(name, exact=True).locator("visible=true").select_option(option)
    page.wait_for_function("root => root.dataset.key === root.dataset.wanted", arg=root.element_handle())


def test_pointing_at_a_unit_shows_what_it_reads_at_once(shown):
    root = explorer(shown, RECEPTIVE)
    area, key, before = root.locator(".sv-point"), root.get_attribute("data-key"), picture(root)
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    shown.mouse.move(box["x"] + 8.5 / 32 * box["width"], box["y"] + 20.5 / 32 * box["height"])
    words = root.locator(".sv-readout").inner_text()
    assert "The unit in row 20 reads 7 of the 13 rows from 14 to 26, in column 8 it reads 7 of the 13" in words
    assert picture(root) != before and root.get_attribute("data-key") == key       # no new state was needed
    shown.mouse.move(box["x"] - 5, box["y"] - 5)


def test_a_layer_is_built_under_its_tab(shown):
    root = explorer(shown, RECEPTIVE)
    before = picture(root)
    root.get_by_role("tab", name="4: –").click()
    choose(shown, root, "Kind", "conv")
    assert picture(root) != before and root.get_by_role("tab", name="4: conv 3×3 /2").is_visible()
    assert "map 16 × 16, jump 2" in root.locator(".sv-readout").inner_text()
    before = picture(root)
    root.get_by_role("tab", name="1: atrous").click()
    kernel, rate = (root.get_by_role("slider", name=name) for name in ("Kernel", "Rate"))
    kernel.fill("7")
    rate.fill("8")                                          # spans 49 of 36 units
    settled(shown, RECEPTIVE)
    assert "at rate 8 spread over 49 units, does not fit" in root.locator(".sv-problem:visible").inner_text()
    root.get_by_role("tab", name="2: atrous").click()       # the control is out of sight: its words are not
    assert "Layer 1: a kernel of 7" in root.locator(".sv-words").inner_text()
    root.get_by_role("button", name="Reset").click()
    settled(shown, RECEPTIVE)
    assert root.locator(".sv-words").inner_text() == "" and "32 × 32" in root.locator(".sv-readout").inner_text()


def test_a_known_network_takes_the_point_along_and_bounds_the_sliders(shown):
    root = explorer(shown, RECEPTIVE)
    root.get_by_role("button", name="Reset").click()
    choose(shown, root, "Network", "VGG16")
    assert not root.get_by_role("tablist").is_visible()
    assert "seen from layer 19 of 19" in root.locator(".sv-readout").inner_text()
    assert "in row 3 reads 224 of the 404 rows" in root.locator(".sv-readout").inner_text()      # still the middle
    depth = slider(root, "Seen from layer")
    assert depth.get_attribute("max") == "19"
    depth.fill("2")
    settled(shown, RECEPTIVE)
    assert "in row 115 reads 5 of the 5 rows" in root.locator(".sv-readout").inner_text()
    choose(shown, root, "Network", "your stack")
    assert "in row 16 reads 7 of the 13 rows" in root.locator(".sv-readout").inner_text()


def test_of_many_wishes_only_the_newest_is_asked_for(page):
    """The browser's side of the protocol by itself: what is sent, given what is wanted and answered."""
    source = (Path(segviz.widgets.__file__).parent / "states.js").read_text(encoding="utf-8")
    result = page.evaluate(
        """source => new Function(source + `
        const sent = [], arrived = [], faults = [];
        const asking = new Asking((content) => sent.push(content), new Shelf(), {slow: false, silent() {},
            arrived: (key) => arrived.push(key), fault: (key, words) => faults.push(words)});
        for (const key of ['1', '2', '3']) asking.want(key);
        const first = sent.map((content) => content.ask);
        asking.answer({id: sent[0].id, key: '1', state: {}}, []);
        asking.want('4');
        asking.want('3');                                   // back to what is in flight: nothing more to ask
        asking.answer({id: sent[1].id, key: '3', fault: 'words'}, []);
        return {first, all: sent.map((content) => content.ask), arrived, faults, busy: asking.busy};`)()""",
        source,
    )
    assert result == {"first": ["1"], "all": ["1", "3"], "arrived": ["1"], "faults": ["words"], "busy": False}


def test_dark_theme_redraws_with_light_words(shown):
    root = explorer(shown, PREPARED)
    lightness = """canvas => {
        const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, 18);
        let sum = 0, count = 0;
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) { sum += data[i]; count += 1; }
        return sum / count;
    }"""
    assert root.locator("canvas").evaluate(lightness) < 100
    command(shown, "apputils:change-theme", {"theme": "JupyterLab Dark"})
    shown.wait_for_selector("body[data-jp-theme-light='false']", state="attached")
    explorer(shown, PREPARED)
    shown.wait_for_function(f"canvas => ({lightness})(canvas) > 150", arg=root.locator("canvas").element_handle())
    command(shown, "apputils:change-theme", {"theme": "JupyterLab Light"})
    shown.wait_for_selector("body[data-jp-theme-light='true']", state="attached")


def test_nothing_complained(shown):
    ours = [error for error in shown.errors if "blob:" in error or "anywidget" in error or "sv-" in error]
    assert ours == []
    assert shown.errors == []


def test_a_dead_kernel_is_said_and_prepared_states_go_on(lab, page):
    open_notebook(page, lab, "left.ipynb")
    run_all(page)
    explorer(page, SCORES)
    page.evaluate(f"async () => {{ await {PANEL}.context.save(); await {PANEL}.sessionContext.shutdown(); }}")
    root = explorer(page, SCORES)
    slider(root, "Shift right").fill("-7")
    root.locator(".sv-words", has_text="kernel does not answer").wait_for()
    works_without_kernel(page, explorer(page, PREPARED))


def works_without_kernel(page, root):
    slider(root, "Kernel").fill("3")
    root.locator(".sv-readout", has_text="Kernel 3.").wait_for()


def test_a_saved_notebook_opens_with_its_explorers(lab, page):
    """After the test above: the notebook was saved with its widgets, and its kernel is gone."""
    saved = json.loads((lab.root / "left.ipynb").read_text(encoding="utf-8"))
    assert "widgets" in saved["metadata"], "JupyterLab did not save the widgets' states"
    outputs = [output["data"] for cell in saved["cells"][1:LAST] for output in cell["outputs"]]
    assert all("image/png" in data and data["text/plain"] for data in outputs)
    page.goto(lab.address("left.ipynb"))
    page.wait_for_selector("section.sv")
    works_without_kernel(page, explorer(page, PREPARED))


# --- a page of its own


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The pages of a large explorer (sweeps only) and of a small one (every state)."""
    namespace = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(engine, "PAGE_STATES", 800)      # as many as are needed here
    exec(SETUP + CELLS[1].rsplit("\n", 1)[0], namespace)
    folder = tmp_path_factory.mktemp("pages")
    namespace["scores"].export_html(folder / "scores.html")
    scene = namespace["toytown"].scene(0, 64)
    namespace["ReceptiveExplorer"](scene.image).export_html(folder / "receptive.html")
    kernel = namespace["Slider"]("kernel", "Kernel", 1, 8)
    namespace["Explorer"](namespace["impossible"], [kernel], title="Prepared").export_html(
        folder / "prepared.html"
    )
    patch.undo()
    return folder


def test_the_receptive_fields_page_works_alone(exported, page):
    page.goto(f"file://{exported / 'receptive.html'}")
    root = explorer(page, 0)
    before = picture(root)
    box = root.locator(".sv-point").bounding_box()
    page.mouse.move(box["x"] + 2.5 / 32 * box["width"], box["y"] + 30.5 / 32 * box["height"])
    assert "in row 30 reads 4 of the 13 rows" in root.locator(".sv-readout").inner_text()
    assert picture(root) != before
    before = picture(root)
    root.get_by_role("tab", name="2: atrous").click()
    slider(root, "Rate").fill("4")
    settled(page, 0)
    assert picture(root) != before and "field has up to 17 × 17" in root.locator(".sv-readout").inner_text()
    for name, words in (("VGG16", "up to 404 × 404"), ("U-Net", "up to 204 × 204")):
        choose(page, root, "Network", name)
        assert words in root.locator(".sv-readout").inner_text()
    slider(root, "Seen from layer").fill("3")
    settled(page, 0)
    assert "U-Net, seen from layer 3 of 26" in root.locator(".sv-readout").inner_text()
    assert root.locator(".sv-words").inner_text() == ""     # what gave way, a rate of your stack, is not in sight
    choose(page, root, "On the picture", "number of paths")
    assert (exported / "receptive.html").stat().st_size < 6_000_000 and page.errors == []


@pytest.mark.parametrize("width", [360, 1000])
def test_an_exported_page_works_alone(exported, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"file://{exported / 'scores.html'}")
    root = explorer(page, 0)
    before, right = picture(root), slider(root, "Shift right")
    drag(page, right, 0.5, 0.8, steps=20)
    settled(page, 0)
    assert picture(root) != before
    right.focus()
    page.keyboard.press("Home")
    assert settled(page, 0).split(",")[1] == "0"
    assert "12 px left" in root.locator(".sv-readout").inner_text()
    slider(root, "Shift down").fill("3")
    slider(root, "Grow").fill("2")             # three changes at once were not prepared
    shifts = settled(page, 0).split(",")
    assert shifts[3] == "8" and shifts[1:3] != ["0", "15"]
    assert re.search("nearest: .*Shift.* changed", root.locator(".sv-words").inner_text())
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert [url for url in requests if not url.startswith("file:///")] == [] and len(requests) == 1
    assert page.errors == []


FOLLOWS = """
import numpy as np
from segviz.widgets import *

def follows(strength, spare, other):
    tent = np.exp(-0.5 * (np.arange(12)[None] - 2 * np.arange(6)[:, None]) ** 2).round(2)
    reads = [[2 * u, min(2 * u + 1, 11)] for u in range(6)]
    below = [[(2 * u, 2 * u + 2)] for u in range(6)]
    chain = Chain([Level("input", 12, 0.5, 1, below), Level("conv", 6, 1, 2, [[(u, u + 1)] for u in range(6)], reads)],
                  [(2 * u, 2 * u + 2) for u in range(6)], "unit")
    maps = np.random.default_rng(0).random((3, 3, 4, 4))
    boxes = [Rects([(0, 2 * u, 12, 2 * u + 2)]) for u in range(6)]
    words = Pointed(rows=[f"Row {u}." for u in range(6)], columns=[f"Column {u}." for u in range(6)])
    panels = [Panel("Side", [chain], wide=True), Panel("Map", [HeatMap(np.zeros((6, 6))), Marker("unit")]),
              Panel("Field", [Outer(tent, strength * tent, "unit", 0.1, 3.0), Where("unit", "row", boxes),
                              Outer(tent > 0.3, tent > 0.3, "unit", clear=1),
                              Marker("unit", rows=[(u, u + 2) for u in range(6)], margin=1)]),
              Panel("Maps", [HeatMap(maps, at="unit"), HeatMap(maps, at="unit", which=([0, 0, 2], [1, 0]))])]
    return State(panels, f"Strength {strength}.", pointed={"unit": words}, tabs={"2": f"second {strength}"},
                 hidden=("spare", "other") if strength == 3 else (),
                 problem="Two is too much." if strength == 2 else "", problem_at="spare")

follower = Explorer(follows, [Point("unit", "Unit", 1, 9, 9, (2, 3), hover=True, local=True),
                              Slider("strength", "Strength", 1, 3), Toggle("spare", "Spare", group="1"),
                              Slider("other", "Other", 0, 1, group="2")], title="Follows")
"""


@pytest.fixture
def following(tmp_path, page):
    """The page of an explorer with a local point, open, and the explorer."""
    namespace = {}
    exec(FOLLOWS, namespace)
    namespace["follower"].export_html(tmp_path / "follows.html")
    page.goto(f"file://{tmp_path / 'follows.html'}")
    return explorer(page, 0), namespace["follower"]


def test_a_local_point_is_followed_with_no_kernel_and_no_new_state(following, page):
    root, _ = following
    area, before = root.locator(".sv-point"), picture(root)
    assert "Strength 1. Row 2. Column 3." in root.locator(".sv-readout").inner_text()
    box = area.bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    assert "Row 0. Column 5." in root.locator("canvas").get_attribute("aria-label")
    assert picture(root) != before and settled(page, 0) == "0,0,0"
    area.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "Row 1. Column 0." in root.locator(".sv-readout").inner_text()
    assert slider(root, "Unit: row").get_attribute("max") == "5"           # the panel has 6 rows
    slider(root, "Unit: row").fill("5")
    slider(root, "Strength").fill("3")
    assert settled(page, 0) == "2,0,0"
    assert "Strength 3. Row 5. Column 0." in root.locator(".sv-readout").inner_text()
    root.get_by_role("button", name="Reset").click()
    assert "Strength 1. Row 2. Column 3." in root.locator(".sv-readout").inner_text()
    assert picture(root) == before and page.errors == []


def test_what_is_moved_before_it_is_shown_is_shown_there(tmp_path, page):
    namespace = {}
    exec(SETUP, namespace)
    moved = namespace["ReceptiveExplorer"](namespace["scene"].image)
    moved.set(network="VGG16", unit=(2, 5))
    moved.export_html(tmp_path / "moved.html")
    page.goto(f"file://{tmp_path / 'moved.html'}")
    root = explorer(page, 0)
    settled(page, 0)
    assert root.locator(".sv-control", has_text="Unit").locator(".sv-value").inner_text() == "2, 5"
    assert "The unit in row 2 reads 224" in root.locator(".sv-readout").inner_text() and page.errors == []


def test_a_point_without_its_panel_waits_for_it(tmp_path, page):
    namespace = {}
    exec(SETUP + """
def comes(panels):
    shown = [Panel("Map", [Image(torch.zeros(3, 4, 4)), Marker("at")]) for _ in range(panels)]
    return State(shown, f"{panels} panels.")

comes = Explorer(comes, [Slider("panels", "Panels", 1, 2), Point("at", "At", 1, 4, 4, (2, 2), local=True)], title="C")
comes.export_html(PATH)
""".replace("PATH", repr(str(tmp_path / "comes.html"))), namespace)
    page.goto(f"file://{tmp_path / 'comes.html'}")
    root = explorer(page, 0)
    settled(page, 0)
    assert not root.locator(".sv-point").is_visible()
    slider(root, "Panels").fill("2")
    root.locator(".sv-point").click(position={"x": 3, "y": 3})
    assert root.locator(".sv-value").last.inner_text() == "0, 0"
    slider(root, "Panels").fill("1")
    assert not root.locator(".sv-point").is_visible() and page.errors == []


def test_the_shelf_forgets_the_oldest_states_of_too_many_bytes(page):
    source = (Path(segviz.widgets.__file__).parent / "states.js").read_text(encoding="utf-8")
    kept = page.evaluate("""(source) => new Function(source + `
        const shelf = new Shelf(), large = (bytes) => ({ buffers: [new Uint8Array(bytes), new Uint8Array(8)] });
        for (let i = 0; i < 10; i++) { shelf.put('a' + i, large(9e6)); shelf.put('a' + i, large(9e6)); }
        const first = [...shelf.recent.keys()], bytes = shelf.bytes;
        shelf.put('whole', large(90e6));
        return [first, bytes, [...shelf.recent.keys()]];`)()""", source)
    assert kept == [[f"a{i}" for i in range(4, 10)], 6 * 9_000_008, ["whole"]]


LIVE = """
const bytes = (entry) => entry.buffers.map((values) => Uint8Array.from(values));
const model = { get: (name) => traits[name], set() {}, save_changes() {}, off() {},
                on(name, call) { this[name] = call; },
                send({ ask, id }) {
                    window.asked.push(ask);
                    setTimeout(() => this['msg:custom']({ ...answers[ask], id }, bytes(answers[ask])), 20);
                } };
window.asked = [];
traits._first.buffers = bytes(traits._first);
render({ model, el: document.body });
"""


def live(page, explorer, keys):
    """The explorer on a page, with a stand-in for its kernel that answers these keys."""
    def entry(key):
        found = explorer._entry(key)
        return found | {"buffers": [list(buffer) for buffer in found["buffers"]]}

    names = ("title", "places", "_controls", "_start", "_slow", "_complete")
    traits = {name: getattr(explorer, name) for name in names} | {"_first": entry(explorer._first["key"])}
    script = explorer._esm.replace("export default { render };", LIVE)
    page.set_content("<body></body>")
    page.add_style_tag(content=explorer._css)
    page.evaluate("([script, traits, answers]) => new Function('traits', 'answers', script)(traits, answers)",
                  [script, traits, {key: entry(key) for key in keys}])
    return page.locator("section.sv")


def test_what_is_hidden_or_disabled_is_not_fetched_ahead(page):
    def compute(kind, spare, more):
        still = {"hidden": ("spare",), "disabled": ("more",)} if kind == "b" else {}
        return State([Panel("Map", [Grid(2, 2, (0, 0, 2, 2))], size=(2, 2))], "A map.", **still)

    controls = [Choice("kind", "Kind", ("a", "b")), Slider("spare", "Spare", 0, 3), Slider("more", "More", 0, 3)]
    keys = [f"{kind},{spare},{more}" for kind in range(2) for spare in range(4) for more in range(4)]
    live(page, Explorer(compute, controls, prepared=False), keys)
    page.get_by_role("combobox").select_option("b")
    page.wait_for_function("window.asked.includes('1,0,0')")
    page.wait_for_timeout(800)
    asked = page.evaluate("window.asked")                                  # what a needed before may be among it
    assert asked.count("1,0,0") == 1 and {"1,1,0", "1,0,1"}.isdisjoint(asked)   # no other setting of b can differ
    page.get_by_role("combobox").select_option("a")
    page.wait_for_function("window.asked.length === 3")
    page.wait_for_timeout(300)
    assert sorted(page.evaluate("window.asked")) == ["0,0,1", "0,1,0", "1,0,0"] and page.errors == []


def test_what_costs_is_not_fetched_ahead_and_all_else_is(page):
    def compute(dear, cheap):
        return State([Panel("Map", [Grid(2, 2, (0, 0, 2, 2))], size=(2, 2))], f"{dear} and {cheap}.")

    controls = [Steps("dear", "Dear", (1, 10, 100)), Slider("cheap", "Cheap", 0, 3)]
    explorer = Explorer(compute, controls, prepared=False, slow=("dear",))
    root = live(page, explorer, [f"{dear},{cheap}" for dear in range(3) for cheap in range(4)])
    page.wait_for_function("window.asked.length === 1")                    # what is dear would be asked for first
    slider(root, "Dear").fill("1")
    page.wait_for_function("window.asked.includes('1,1')")
    assert root.locator(".sv-readout").inner_text() == "10 and 0."
    assert slider(root, "Dear").get_attribute("aria-valuetext") == "10"
    slider(root, "Cheap").fill("1")
    page.wait_for_function("window.asked.includes('1,3')")                 # two more of what was moved
    assert page.evaluate("window.asked") == ["0,1", "1,0", "1,1", "1,2", "1,3"] and page.errors == []


def test_what_is_on_its_way_ahead_is_not_asked_for_twice(page):
    source = (Path(segviz.widgets.__file__).parent / "states.js").read_text(encoding="utf-8")
    sent, arrived = page.evaluate("""(source) => new Function(source + `
        const sent = [], arrived = [], shelf = new Shelf();
        const asking = new Asking(({ ask }) => sent.push(ask), shelf,
            { arrived: (key, ahead) => arrived.push([key, ahead]), fault() {}, silent() {}, slow: false });
        asking.fetchAhead(["1"]);
        return new Promise((done) => setTimeout(() => {
            asking.want("1");
            asking.want("2");
            asking.answer({ id: 1, key: "1", state: {} }, []);
            asking.answer({ id: 2, key: "2", state: {} }, []);
            done([sent, arrived]);
        }, 300));`)()""", source)
    assert sent == ["1", "2"] and arrived == [["1", False], ["2", False]]


def test_what_is_moved_before_it_is_shown_is_shown_by_the_kernel(page):
    namespace = {}
    exec(SETUP, namespace)
    moved = ReceptiveExplorer(namespace["scene"].image, prepared=False)
    moved.set(network="VGG16", unit=(2, 5))
    key = moved._key(moved._shared(moved.places))
    root = live(page, moved, [key])
    page.wait_for_function("key => document.querySelector('section.sv').dataset.key === key", arg=key)
    assert "The unit in row 2 reads 224" in root.locator(".sv-readout").inner_text()
    assert root.locator(".sv-control", has_text="Unit").locator(".sv-value").inner_text() == "2, 5"


def test_tabs_are_opened_renamed_and_hidden(following, page):
    root, _ = following
    tabs = root.get_by_role("tab")
    assert tabs.all_inner_texts() == ["1", "second 1"] and not slider(root, "Other").is_visible()
    tabs.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert tabs.nth(1).get_attribute("aria-selected") == "true" and slider(root, "Other").is_visible()
    slider(root, "Strength").fill("2")
    settled(page, 0)
    assert tabs.nth(1).inner_text() == "second 2"
    assert root.locator(".sv-words").inner_text() == "Two is too much."     # its control lies under the other tab
    tabs.nth(0).click()
    assert root.locator(".sv-problem:visible").inner_text() == "Two is too much."
    assert not root.locator(".sv-words").is_visible()
    slider(root, "Strength").fill("3")
    settled(page, 0)
    assert not root.get_by_role("tablist").is_visible() and page.errors == []


def test_the_browser_picks_what_paper_picks(following, page):
    """`HERE` in draw.js against `here` in panels.py, at every place and beyond."""
    _, follower = following
    head, buffers = encode(follower.state())
    source = (Path(segviz.widgets.__file__).parent / "draw.js").read_text(encoding="utf-8")
    found = page.evaluate("""([source, head, buffers]) => new Function('head', 'buffers', source + `
        const bytes = buffers.map((values) => Uint8Array.from(values)), found = [];
        for (let row = 0; row < 7; row++) for (let column = 0; column < 7; column++)
            for (const panel of head.panels.slice(1))
                for (const layer of plainLayers(panel.layers, { unit: [row, column] }, bytes))
                    found.push(layer.boxes ? layer.boxes : [...dataOf(layer, bytes)]);
        return found;`)(head, buffers)""", [source, head, [list(buffer) for buffer in buffers]])
    panels = follower.state().panels[1:]
    layers = [layer for row in range(7) for column in range(7) for panel in panels
              for layer in _plain_layers(panel.layers, {"unit": (row, column)})]
    assert len(found) == len(layers) == 7 * 7 * 8
    for mine, layer in zip(found, layers, strict=True):
        theirs = [list(box) for box in layer.boxes] if hasattr(layer, "boxes") else layer.data.ravel().tolist()
        assert np.abs(np.array(mine) - np.array(theirs)).max() <= 1         # float32 here, float64 there
        assert mine == theirs or len(theirs) == 144                         # only products may be rounded apart


def test_an_exported_page_is_dark_for_those_who_prefer_it(exported, chromium):
    with driving.watched_page(chromium, color_scheme="dark") as page:
        page.goto(f"file://{exported / 'prepared.html'}")
        ink = explorer(page, 0).evaluate("root => getComputedStyle(root).color")
        assert min(map(int, re.findall(r"\d+", ink)[:3])) > 200
        works_without_kernel(page, page.locator("section.sv"))
