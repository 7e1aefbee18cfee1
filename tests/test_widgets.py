"""The explorers without a browser: what they compute, what they send, and what stands in for them on
paper."""

import base64
import json
import re
import zlib
from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.text import Text as Written
from torch import nn

from segviz import metrics
from segviz.data import toytown
from segviz.widgets import (
    Bar,
    Bars,
    Chain,
    Choice,
    Dots,
    Explorer,
    Grid,
    Hatch,
    HeatMap,
    Image,
    LabelMap,
    Level,
    Lines,
    Marker,
    Outer,
    Panel,
    Point,
    Pointed,
    Rects,
    ScoresExplorer,
    Slider,
    SlidingExplorer,
    State,
    Steps,
    Text,
    Toggle,
    Told,
    Where,
    engine,
    panels,
)
from segviz.widgets.scores import fill_from_neighbours, shifted, thickened
from segviz.widgets.snapshot import _cells


@pytest.fixture(scope="module")
def scene():
    return toytown.scene(3, 64)


@pytest.fixture(scope="module")
def scores(scene):
    return ScoresExplorer(scene.image, scene.mask, toytown.CLASSES)


class Reddish(nn.Module):
    """Stands in for a trained classifier, window 32 and stride 8: the mean of each colour over the window's
    middle."""

    def forward(self, images):
        middle = torch.zeros(3, 3, 32, 32)
        for colour in range(3):
            middle[colour, colour, 8:24, 8:24] = 20 / 256
        return nn.functional.conv2d(images, middle, stride=8)


def place(height, width, row, column):
    image = torch.full((3, height, width), 0.4)
    image[0, max(row - 8, 0):row + 8, max(column - 8, 0):column + 8] = 1.0
    return image


@pytest.fixture(scope="module")
def sliding():
    return SlidingExplorer(Reddish(), place, ("red", "green", "blue"), 32, 8, largest=96)


def corners(explorer):
    """Both ends and the start of every control, in all combinations."""
    ends = [{0, size // 2, size - 1} for size in explorer._sizes()]
    return [explorer._values(places) for places in product(*ends)]


def sent(state):
    head, buffers = panels.encode(state)
    return json.dumps(head, sort_keys=True, allow_nan=False), buffers


# --- both explorers


@pytest.mark.parametrize("name", ["scores", "sliding"])
def test_every_corner_gives_a_state_that_can_be_sent_and_read_aloud(name, request):
    explorer = request.getfixturevalue(name)
    for values in corners(explorer)[::7]:
        state = explorer.state(**values)
        head, buffers = sent(state)
        assert len(state.readout) > 20 and all(panel.title for panel in state.panels)
        assert all(isinstance(buffer, bytes) and buffer for buffer in buffers) and json.loads(head)["panels"]


@pytest.mark.parametrize("name", ["scores", "sliding"])
def test_the_same_controls_give_the_same_bytes(name, request):
    explorer = request.getfixturevalue(name)
    first, middle, last = (corners(explorer)[i] for i in (1, 20, -2))
    before = sent(explorer.state(**first))
    explorer.state(**middle), explorer.state(**last)
    assert sent(explorer.state(**first)) == before != sent(explorer.state(**last))


@pytest.mark.parametrize("name", ["scores", "sliding"])
def test_a_snapshot_is_a_picture(name, request):
    explorer = request.getfixturevalue(name)
    figure = explorer.snapshot()
    written = BytesIO()
    figure.savefig(written, format="png")
    assert len(figure.axes) == 3 and written.getvalue().startswith(b"\x89PNG")
    assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20


# --- scores


def test_an_undisturbed_prediction_is_perfect(scores, scene):
    assert torch.equal(scores.predict("sky")[scene.mask != 255], scene.mask[scene.mask != 255])
    rows = {row.label: row.value for row in scores.state().panels[2].layers[0].rows if row.label}
    assert list(rows.values()) == pytest.approx([1.0] * len(rows)) and len(rows) == 5 + len(scores.present)


def test_the_scores_shown_are_those_of_the_prediction(scores, scene):
    prediction = scores.predict("building", right=3, down=-2, grow=1)
    counts = metrics.confusion_matrix(prediction, scene.mask, 10)
    state = scores.state(name="building", right=3, down=-2, grow=1)
    rows = {row.label: row.value for row in state.panels[2].layers[0].rows}
    assert rows["pixel accuracy"] == metrics.pixel_accuracy(counts) < 1
    assert rows["mean IoU"] == metrics.mean_iou(counts) and rows["building"] == float(
        metrics.class_iou(counts)[1]
    )
    wrong = int(((prediction != scene.mask) & (scene.mask != 255)).sum())
    assert f"{wrong} of {int((scene.mask != 255).sum())} pixels wrong" in state.readout
    assert int(state.panels[1].layers[1].data.sum()) == wrong


def test_a_thin_class_suffers_from_two_pixels_that_accuracy_does_not_see():
    mask = torch.zeros(96, 96, dtype=torch.long)
    mask[20:80, 40:42] = 7
    explorer = ScoresExplorer(torch.zeros(3, 96, 96), mask, toytown.CLASSES)
    counts = metrics.confusion_matrix(explorer.predict("pole", right=2), mask, 10)
    assert (
        metrics.pixel_accuracy(counts) == pytest.approx(1 - 240 / 9216)
        and float(metrics.class_iou(counts)[7]) == 0
    )
    counts = metrics.confusion_matrix(explorer.predict("pole", drop=True), mask, 10)
    assert metrics.pixel_accuracy(counts) == pytest.approx(1 - 120 / 9216)


def test_shifting_is_what_rolling_does_without_the_wrap():
    region = torch.rand(20, 30, generator=torch.Generator().manual_seed(1)) > 0.5
    for right, down in product((-12, -1, 0, 5), (-12, 0, 3, 12)):
        rolled = torch.roll(region, (down, right), (0, 1))
        rows, columns = torch.arange(20)[:, None], torch.arange(30)[None]
        inside = (rows >= down) & (rows < 20 + down) & (columns >= right) & (columns < 30 + right)
        assert torch.equal(shifted(region, right, down), rolled & inside)


def test_growing_and_shrinking_reach_every_pixel_within_the_square():
    region = torch.zeros(21, 21, dtype=torch.bool)
    region[8:13, 8:13] = True
    assert (
        thickened(region, 3).sum() == 11 * 11
        and thickened(region, -2).sum() == 1
        and thickened(region, -3).sum() == 0
    )
    edge = torch.ones(6, 6, dtype=torch.bool)
    assert thickened(edge, -2).all()                # the class goes on beyond the picture


def test_holes_take_the_nearest_label():
    labels = torch.tensor([[4, 255, 255, 255, 255, 9]])
    assert fill_from_neighbours(labels).tolist() == [[4, 4, 4, 9, 9, 9]]


def test_void_is_neither_scored_nor_coloured(scene):
    mask = scene.mask.clone()
    mask[:10] = 255
    explorer = ScoresExplorer(scene.image, mask, toytown.CLASSES)
    drawn = explorer.state(drop=True).panels[1].layers[0].data
    assert (drawn[:10] == 255).all() and not explorer.state(drop=True).panels[1].layers[1].data[:10].any()


def test_a_dropped_class_leaves_its_other_controls_without_effect(scores):
    assert scores.state(drop=True).disabled == ("right", "down", "grow")
    assert sent(scores.state(drop=True, right=4)) == sent(scores.state(drop=True))


def test_scores_need_a_label_map_with_two_classes(scene):
    with pytest.raises(ValueError, match="two classes or more"):
        ScoresExplorer(scene.image, torch.zeros(64, 64, dtype=torch.long), toytown.CLASSES)


# --- sliding


def test_each_cell_is_the_classifier_on_its_window(sliding):
    image = place(72, 88, 40, 30)
    scores = sliding.probabilities(image)
    assert scores.shape == (3, 6, 8)
    for i, j in ((0, 0), (2, 5), (5, 7)):
        window = image[:, 8 * i:8 * i + 32, 8 * j:8 * j + 32]
        assert torch.allclose(scores[:, i, j], Reddish()(window[None]).softmax(1)[0, :, 0, 0], atol=1e-6)


def test_the_highest_probability_follows_the_object(sliding):
    for row, column in ((16, 16), (48, 80), (80, 32)):
        shown = sliding.state(object_at=(row, column)).panels[1].layers[0].data
        best = np.argwhere(shown == shown.max())
        assert (abs(best * 8 + 16 - (row, column)) <= 8).all()


def test_the_marked_window_is_the_one_behind_the_cell(sliding):
    state = sliding.state(height=64, width=80, cell=(1, 3))
    assert state.panels[0].layers[-1].boxes == [(24, 8, 56, 40)]
    spot = state.panels[2].layers[-1].boxes[0]
    assert ((spot[0] + spot[2]) / 2, (spot[1] + spot[3]) / 2) == (40, 24)        # the window's centre
    assert "(64 − 32) / 8 + 1 = 5".replace(" ", "\u00a0") in state.panels[1].caption
    assert state.panels[1].title == "Score map, 5 × 7"


def test_points_outside_a_smaller_input_are_brought_back(sliding):
    state = sliding.state(height=32, width=32, object_at=(95, 95), cell=(8, 8))
    assert state.panels[1].layers[0].data.shape == (1, 1) and state.panels[0].layers[-1].boxes == [
        (0, 0, 32, 32)
    ]
    assert state.bounds == {"object_at": (32, 32), "cell": (1, 1)}


def test_the_classifier_is_left_in_the_mode_it_was_in():
    classifier = nn.Sequential(nn.BatchNorm2d(3), Reddish())
    before = classifier[0].running_mean.clone()
    SlidingExplorer(classifier, place, ("red", "green", "blue"), 32, 8, largest=64).state()
    assert classifier.training and torch.equal(classifier[0].running_mean, before)


def test_a_classifier_that_does_not_slide_as_said_is_refused():
    with pytest.raises(ValueError, match="window 32 and stride 16 it should be"):
        SlidingExplorer(Reddish(), place, ("red", "green", "blue"), 32, 16, largest=96)
    with pytest.raises(ValueError, match="no room for one window"):
        SlidingExplorer(Reddish(), place, ("red", "green", "blue"), 32, 8, largest=31)


# --- the engine


def counting(number=0, ready=False, kind="a", at=(0, 0)):
    if number == 3:
        raise ZeroDivisionError("three divides nothing here")
    words = f"number {number}, ready {ready}, kind {kind}, at {at}"
    return State([Panel("Numbers", [Bars([Bar("number", number / 5)])])], words)


def every_control():
    return [Slider("number", "Number", 0, 5), Toggle("ready", "Ready"), Choice("kind", "Kind", ("a", "b")),
            Point("at", "At", 0, 2, 3)]


def ask(explorer, key, number=1):
    """The answer to the browser's question, as (content, buffers)."""
    answers = []
    explorer.send = lambda content, buffers=None: answers.append((content, buffers))
    explorer._handle_custom_msg({"ask": key, "id": number}, [])
    assert len(answers) == 1
    return answers[0]


def unpacked(block):
    data = zlib.decompress(block)
    end = 4 + int.from_bytes(data[:4], "little")
    head, arrays = json.loads(data[4:end]), []
    for length in head["lengths"]:
        arrays.append(data[end:end + length])
        end += length
    assert end == len(data)
    return head["states"], arrays


def test_values_and_keys_say_the_same():
    explorer = Explorer(counting, every_control(), prepared=False)
    for values in corners(explorer):
        key = explorer._key(explorer._places(values))
        if values["number"] != 3:
            assert ask(explorer, key)[0]["state"]["readout"] == counting(**values).readout
    explorer.set(number=5, kind="b")
    assert explorer.values == {
        "number": 5,
        "ready": False,
        "kind": "b",
        "at": (0, 0),
    } and explorer.places == [5, 0, 1, 0, 0]
    assert explorer.state(at=(1, 2)).readout == "number 5, ready False, kind b, at (1, 2)"


def test_an_answer_names_its_question():
    content, buffers = ask(Explorer(counting, every_control(), prepared=False), "2,1,0,1,2", number=41)
    assert (content["id"], content["key"], buffers) == (41, "2,1,0,1,2", [])
    assert content["state"]["readout"] == "number 2, ready True, kind a, at (1, 2)"


def test_what_compute_raises_is_answered_in_words():
    explorer = Explorer(counting, every_control(), prepared=False)
    assert ask(explorer, "3,0,0,0,0")[0]["fault"] == "ZeroDivisionError: three divides nothing here"
    assert "No such setting" in ask(explorer, "77,0,0,0,0")[0]["fault"]
    assert "expected" not in ask(explorer, "1,0,0,0,0")[0].get("fault", "")
    wrong = Explorer(lambda number: 5, [Slider("number", "Number", 0, 5)])
    assert "must return a State" in wrong._first["fault"]


@pytest.mark.parametrize("message", [None, "ask", {}, {"ask": 5}, {"other": "1"}])
def test_a_message_that_asks_nothing_is_let_pass(message):
    explorer = Explorer(counting, every_control(), prepared=False)
    explorer.send = lambda *_: pytest.fail("answered")
    explorer._handle_custom_msg(message, [])


def test_few_states_travel_along_complete():
    def compute(number):
        return State(
            [Panel("Picture", [Image(np.full((4, 4, 3), number, np.uint8)), Hatch(np.eye(4))])],
            f"picture {number}",
        )

    explorer = Explorer(compute, [Slider("number", "Number", 0, 5)])
    states, arrays = unpacked(explorer._prepared)
    assert explorer._complete and list(states) == [str(i) for i in range(6)]
    assert len(arrays) == 6 + 1                       # the hatch is the same in all and is sent once
    for key, state in states.items():
        image = state["panels"][0]["layers"][0]["data"]
        assert arrays[image["buffer"]] == bytes([int(key)]) * 48 and image["shape"] == [4, 4, 3]
    assert not Explorer(compute, [Slider("number", "Number", 0, 500)])._complete
    for slow in (True, ("number",)):
        assert not Explorer(compute, [Slider("number", "Number", 0, 5)], slow=slow)._complete
    assert Explorer(compute, [Slider("number", "Number", 0, 200)], prepared=True)._complete


def test_a_state_that_fails_does_not_stop_the_others_from_travelling():
    explorer = Explorer(counting, every_control(), prepared=True)
    states, _ = unpacked(explorer._prepared)
    assert len(states) == 6 * 2 * 2 * 6 and "divides nothing" in states["3,0,0,0,0"]["problem"]


@pytest.mark.parametrize("broken", [
    dict(number=6), dict(number=-1), dict(number="2"), dict(number=None), dict(ready="yes"), dict(kind="c"),
    dict(at=(2, 0)), dict(at=3), dict(unknown=1)])
def test_values_out_of_bounds_are_refused_in_words(broken):
    explorer = Explorer(counting, every_control(), prepared=False)
    with pytest.raises(ValueError, match=r"expected|lies outside|No control is called"):
        explorer.set(**broken)
    assert explorer.places == [0, 0, 0, 0, 0]


def test_controls_that_make_no_sense_are_refused():
    for make in (
        lambda: Slider("s", "S", 3, 1),
        lambda: Slider("s", "S", 0, 1, step=0),
        lambda: Steps("s", "S", ()),
        lambda: Steps("s", "S", (1, 3, 2)),
        lambda: Steps("s", "S", (1, 3), 2),
        lambda: Choice("c", "C", ()),
        lambda: Choice("c", "C", ("a",), "b"),
        lambda: Point("p", "P", 0, 4, 4, (4, 0)),
        lambda: Point("p", "P", 0, 4, 4, scaled=True),
        lambda: Explorer(counting, [Toggle("x", "X"), Toggle("x", "X")]),
        lambda: Explorer(counting, every_control(), slow=("speed",)),
    ):
        with pytest.raises(ValueError):
            make()


def test_a_slider_in_tenths_comes_back_in_tenths():
    slider = Slider("rate", "Rate", 0.1, 0.7, 0.1)
    assert slider.sizes == (7,) and [slider.at(i) for i in range(7)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert [slider.index(slider.at(i)) for i in range(7)] == list(range(7))
    assert slider.index(np.float32(slider.at(3))) == 3
    assert Slider("whole", "Whole", 0, 9).index(np.int64(4)) == 4


def test_steps_need_not_be_even():
    steps = Steps("width", "Width", (1, 3, 12.5), 3)
    assert steps.sizes == (3,) and [steps.at(i) for i in range(3)] == [1, 3, 12.5] and steps.value == 3
    assert [steps.index(value) for value in (1, np.int64(3), 12.5)] == [0, 1, 2] and Steps("w", "W", (2, 4)).value == 2
    for other in (2, "3", None, True):
        with pytest.raises(ValueError, match=r"width: expected one of 1, 3, 12.5; got"):
            steps.index(other)


def test_every_layer_is_encoded_and_drawn_on_paper():
    maps = np.arange(12).reshape(3, 4)
    heat = HeatMap(np.where(maps == 5, np.nan, maps), 0, 11, legend="units")
    layers = [
        Image(np.zeros((3, 4, 3))),
        LabelMap(np.where(maps > 9, 255, maps), np.zeros((10, 3))),
        heat,
        Hatch(maps > 3),
        Grid(3, 4, (0, 0, 4, 3)),
        Rects([(0, 0, 2, 2)], fill="accent", dashed=True),
        Lines([[(0, 0), (4, 3)]]),
        Dots([(1, 1)]),
        Text([(2, 2, "word"), (1, 1, "hidden")], fit=0.1),
        Text([(2, 2, "word", "error")]),
    ]
    bars = Bars([Bar("one", 0.5, reference=0.7), Bar("absent", float("nan")), Bar("", float("nan"))])
    state = State([Panel("All", layers, "caption"), Panel("Bars", [bars])], "All layers.", problem="None.")
    head, buffers = panels.encode(state)
    json.dumps(head, allow_nan=False)
    kinds = [layer["kind"] for layer in head["panels"][0]["layers"]]
    assert kinds == [type(layer).__name__ for layer in layers] and head["panels"][0]["size"] == [3, 4]
    assert head["panels"][1]["layers"][0]["rows"][1]["value"] is None
    assert heat.data[1, 1] == panels.CLEAR and heat.data[0, 0] == 0 and heat.data[2, 3] == panels.CLEAR - 1
    drawn = Explorer(lambda: state, [], prepared=False).snapshot()
    drawn.canvas.draw()
    assert [text.get_text() for text in drawn.axes[0].texts] == ["word"]
    assert buffers[0] == bytes(36)


def test_pictures_of_the_wrong_shape_are_refused():
    for make in (lambda: Image(np.zeros((4, 4))), lambda: LabelMap(np.zeros((1, 4, 4)), np.zeros((2, 3))),
                 lambda: HeatMap(np.zeros(4)), lambda: Panel("Empty", []).extent()):
        with pytest.raises(ValueError):
            make()


# --- paper, pages, and readers who do not see


def test_viewers_without_widgets_get_a_picture_and_words(sliding):
    data, _ = sliding._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert "Score map 9 x 9".lower() in data["text/plain"].lower()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == sliding.model_id


def test_an_exported_page_holds_everything_and_fetches_nothing(tmp_path):
    explorer = Explorer(counting, every_control(), title="</script><b>Counting", prepared=False)
    text = explorer.export_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == text
    assert not re.search(r"https?://|src=\"(?!data:)|import\s|url\(", text)
    assert text.count("</script>") == 2 and "<b>Counting" not in text and "export default" not in text
    traits = json.loads(re.search(r'type="application/json">(.*)</script>', text).group(1))
    states, _ = unpacked(base64.b64decode(traits["_prepared"]))
    assert len(states) == 144 and traits["places"] == explorer.places


def test_a_large_page_holds_the_sweep_of_every_control(scores):
    traits = json.loads(re.search(r'type="application/json">(.*)</script>', scores.export_html()).group(1))
    states, arrays = unpacked(base64.b64decode(traits["_prepared"]))
    sweeps = {
        scores._key([*scores.places[:i], at, *scores.places[i + 1 :]])
        for i, n in enumerate(scores._sizes())
        for at in range(n)
    }
    assert sweeps <= set(states) and len(states) == engine.PAGE_STATES
    assert sum(len(array) == 3 * 64 * 64 for array in arrays) == 1  # the scene once, not in every state


def test_a_page_is_no_larger_than_its_states_may_be(monkeypatch):
    """Noise, which cannot be compressed; and the states that are left are those of the fewest changes."""
    monkeypatch.setattr(engine, "PAGE_BYTES", 250_000)
    shared = np.random.default_rng(0).integers(256, size=(100, 100, 3), dtype=np.uint8)

    def compute(row, column):
        noise = np.random.default_rng([row, column]).integers(256, size=(64, 64, 3), dtype=np.uint8)
        return State([Panel("Noise", [Image(shared), Image(noise), Image(noise.copy())])], f"{row}, {column}")

    explorer = Explorer(compute, [Slider("row", "Row", 0, 5), Slider("column", "Column", 0, 5)], prepared=False)
    traits = json.loads(re.search(r'type="application/json">(.*)</script>', explorer.export_html()).group(1))
    block = base64.b64decode(traits["_prepared"])
    states, _ = unpacked(block)
    sweeps = {f"{i},0" for i in range(6)} | {f"0,{i}" for i in range(6)}
    assert sweeps < set(states) and len(states) < 36 and 240_000 < len(block) < 300_000


def test_a_page_that_is_stopped_leaves_the_old_file(tmp_path, monkeypatch):
    path, steps = tmp_path / "page.html", []

    def compute(number):
        steps.append(number)
        if len(steps) > 4:
            raise KeyboardInterrupt
        return State([], f"number {number}")

    explorer = Explorer(compute, [Slider("number", "Number", 0, 9)], prepared=False)
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        explorer.export_html(path)

    def half(self, text, **_):
        self.write_bytes(text[:100].encode())
        raise KeyboardInterrupt

    whole = Explorer(counting, every_control(), prepared=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("pathlib.Path.write_text", half)
        whole.export_html(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    assert ask(explorer, "5")[0]["fault"] == "interrupted"


def test_a_page_is_filled_from_the_present_state_outwards():
    explorer = Explorer(counting, [*every_control()[:3], Slider("at", "At", 0, 9, value=4)], prepared=False)
    explorer.set(number=2, kind="b")
    keys = [key for key, _ in explorer._page_keys()]
    changed = [sum(a != b for a, b in zip(key.split(","), "2,0,1,4".split(","), strict=True)) for key in keys]
    assert keys[0] == "2,0,1,4" and changed == sorted(changed) and len(set(keys)) == len(keys) == 6 * 2 * 2 * 10
    assert keys[1:3] == ["2,1,1,4", "2,0,0,4"]           # those of few values first


def test_a_page_leaves_out_what_a_hidden_control_would_not_change():
    def compute(kind, spare, number):
        return State([], f"{kind} {spare} {number}", hidden=("spare",) if kind == "a" else ("number",))

    controls = [Choice("kind", "Kind", ("a", "b")), Slider("spare", "Spare", 0, 2, group="1"),
                Slider("number", "Number", 0, 2)]
    text = Explorer(compute, controls, prepared=False).export_html()
    traits = json.loads(re.search(r'type="application/json">(.*)</script>', text).group(1))
    states, _ = unpacked(base64.b64decode(traits["_prepared"]))
    assert list(states) == ["0,0,0", "1,0,0", "0,0,1", "0,0,2", "1,1,0", "1,2,0"]


# --- what follows a local point


def follows(strength):
    """Every layer that follows a point, over maps whose value says their place."""
    maps = np.arange(6 * 4).reshape(2, 3, 2, 2) / 30
    level = Level("conv", 3, 0.5, 1, [[(0, 1)], [(1, 2)], [(2, 3)]], [[0], [0, 2], [2]])
    below = Level("input", 3, 0.5, 1, [[(0, 1)], [(0, 1), (2, 3)], [(2, 3)]])
    layers = [
        HeatMap(maps, at="unit"),
        Outer(np.arange(6).reshape(2, 3), strength * np.arange(12).reshape(3, 4), "unit", high=60),
        Where("unit", "row", [Rects([(0, 0, 1, 1)]), [Lines([[(0, 0), (1, 1)]]), Marker("unit", "ink")]]),
        Where("unit", "column", [Rects([(0, 0, 1, 1)])]),
        Where("unit", "cell", [[Text([(1, 1, f"{i} {j}")]) for j in range(3)] for i in range(2)]),
        Marker("unit"),
    ]
    words = Pointed(rows=("Top.", "Bottom."), columns=("Left.", "Middle.", "Right."))
    chain = Chain([below, level], [(0, 1), (-1, 4), (2, 3)], "unit")
    return State([Panel("Side", [chain], wide=True), Panel("Map", layers, size=(2, 3))], "Follows.",
                 pointed={"unit": words}, tabs={"1": "first"})


def follower(**options):
    unit = Point("unit", "Unit", 1, 5, 5, (1, 2), local=True)
    return Explorer(follows, [unit, Slider("strength", "Strength", 1, 3, group="1")], **options)


def test_a_local_point_is_no_part_of_a_states_key():
    explorer = follower()
    assert explorer.places == [1, 2, 0] and explorer._first["key"] == "0" and explorer._complete
    assert set(unpacked(explorer._prepared)[0]) == {"0", "1", "2"}
    explorer.set(unit=(4, 0), strength=2)
    assert explorer.values == {"unit": (4, 0), "strength": 2} and explorer.places == [4, 0, 1]
    assert ask(explorer, "1")[0]["state"]["readout"] == "Follows."
    assert sent(explorer.state(unit=(0, 0))) == sent(explorer.state(unit=(4, 4)))
    traits = json.loads(re.search(r'type="application/json">(.*)</script>', explorer.export_html()).group(1))
    states, _ = unpacked(base64.b64decode(traits["_prepared"]))
    assert set(states) == {"0", "1", "2"} and traits["places"] == [4, 0, 1]
    alone = Explorer(lambda: follows(1), [Point("unit", "Unit", 1, 5, 5, local=True)])
    assert list(unpacked(alone._prepared)[0]) == [""] and ask(alone, "")[0]["state"]["readout"] == "Follows."


def test_layers_that_follow_a_point_hold_what_is_to_be_seen_at_each_place():
    heat, outer, rows, columns, cells, marker = follows(1).panels[1].layers
    assert heat.shape == (2, 2) and heat.extent() == (0, 0, 2, 2)
    assert np.array_equal(heat.here(1, 2).data, HeatMap(np.arange(20, 24).reshape(2, 2) / 30).data)
    assert np.array_equal(heat.here(9, 9).data, heat.here(1, 2).data)         # places it does not have
    heat.which = ([0, 1, 1], [2, 0])
    assert np.array_equal(heat.here(2, 0).data, HeatMap(np.arange(20, 24).reshape(2, 2) / 30).data)
    values = np.outer([3, 4, 5], [8, 9, 10, 11])
    assert np.array_equal(outer.here(1, 2).data, HeatMap(values, high=60).data) and outer.shape == (3, 4)
    assert (outer.here(0, 0).data == panels.CLEAR).sum() == 3 + 4 - 1         # where a factor is zero
    veil = Outer([[0, 1, 1]], [[1, 0, 1, 0]], "unit", clear=1).here(0, 0).data
    assert ((veil == panels.CLEAR) == [[0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 1, 0]]).all()
    assert Marker("unit", rows=[(0, 3), (2, 5)]).here(1, 4).boxes == [(4, 2, 5, 5)]
    assert Marker("unit", margin=1).here(1, 4).boxes == [(3, 0, 6, 3)]
    assert rows.here(0, 5).boxes and [type(layer) for layer in rows.here(1, 5)] == [Lines, Marker]
    assert columns.here(1, 2).boxes == [(0, 0, 1, 1)] and cells.here(1, 2).items == [(1, 1, "1 2")]
    assert marker.here(1, 2).boxes == [(2, 1, 3, 2)]
    for wrong in (lambda: HeatMap(np.zeros((2, 2)), at="unit"), lambda: HeatMap(np.zeros((1, 1, 2, 2))),
                  lambda: Where("unit", "diagonal", [])):
        with pytest.raises(ValueError):
            wrong()


def test_numbers_are_told_place_by_place_and_sent_once():
    numbers = np.stack([np.arange(6).reshape(2, 3) % 2, [[-12, 0, 7], [5, -3, 100]]])
    told = Told(numbers, [("left", "right"), ()])
    assert told.here(0, 0) == ([0.0, -1.2], ["left", "−1.2"]) and told.here(0, 1) == ([0.1, 0.0], ["right", "+0.0"])
    assert told.here(1, 1) == ([0.0, -0.3], ["left", "−0.3"]) and told.here(9, 9) == told.here(1, 2)
    bars = Bars([Bar("{0}", text="{1}", bare=True), Bar("lead", 1, "ink", "{1} tenths")], 5.0, -5.0, "unit", told)
    here = bars.here(1, 2)
    assert [(row.label, row.text) for row in here.rows] == [("right", "+10.0"), ("lead", "+10.0 tenths")]
    assert here.rows[1].value == 10.0 and np.isnan(here.rows[0].value) and (here.maximum, here.minimum) == (5, -5)
    words = Pointed(words="Here {0}, by {1}.", told=told)
    assert words.here(0, 2) == "Here left, by +0.7." and words.here(5, 0) == "Here right, by +0.5."
    state = State([Panel("Bars", [bars])], "Told.", pointed={"unit": words})
    head, buffers = panels.encode(state)
    sent = {"buffer": 0, "shape": [2, 2, 3]}
    assert head["pointed"]["unit"]["told"]["numbers"] == head["panels"][0]["layers"][0]["told"]["numbers"] == sent
    assert buffers == [numbers.astype(np.int16).tobytes()] and json.dumps(head, allow_nan=False)


def test_bars_below_zero_go_left_on_paper():
    rows = [Bar("words", text="alone", bare=True), Bar("below", -0.5), Bar("above", 0.25)]
    drawn = Explorer(lambda: State([Panel("Bars", [Bars(rows, 1.0, -1.0)])], "Signed."), []).snapshot()
    ends = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in drawn.axes[0].patches]
    assert ends == [(-1, -1), (-1, 1), (-1, 1), (0, 0), (0, -0.5), (0, 0.25)]      # tracks, then bars
    assert {"alone", "-0.500", "0.250"} <= {text.get_text() for text in drawn.axes[0].texts}


def test_a_point_is_brought_inside_what_the_state_has():
    state, unit = follows(1), Point("unit", "Unit", 1, 5, 5, local=True)
    assert state.place(unit, (4, 1)) == (1, 1)                                # the panel has 2 rows
    other = Point("other", "Other", 1, 5, 5)
    assert state.place(other, (4, 1)) == (4, 1)
    assert state.place(Point("absent", "Absent", 2, 5, 5, local=True), (4, 1)) == (4, 1)     # there are two panels
    state.bounds = {"other": (3, 1)}
    assert state.place(other, (4, 1)) == (2, 0)
    assert state.said({"unit": (1, 0)}) == "Follows. Bottom. Left."
    state.pointed = {"unit": Pointed(cells=(("a", "b"), ("c", "d")))}
    assert state.said({"unit": (1, 0)}) == "Follows. c"


def test_paper_shows_the_place_pointed_at():
    explorer = follower()
    assert "Follows. Bottom. Right." in explorer._repr_mimebundle_()[0]["text/plain"]
    drawn = explorer.snapshot(unit=(4, 1))
    drawn.canvas.draw()
    assert [text.get_text() for text in drawn.axes[1].texts] == ["1 1"]
    assert "5 px" in [text.get_text() for text in drawn.axes[0].texts]        # the field, padding and all
    assert drawn.axes[0].get_window_extent().width > 1.5 * drawn.axes[1].get_window_extent().width


def test_paper_has_every_word_inside_and_a_wide_panel_flat():
    state = follows(1)
    state.panels[0].caption, state.panels[1].title = "What the chain shows.", "A map with quite a long title " * 3
    state.panels += [Panel("Bars", [Bars([Bar("a label", 0.5), Bar("another", 1.0)])], "What the bars are. " * 6)]
    drawn = Explorer(lambda: state, [Point("unit", "Unit", 1, 2, 3, local=True)], title="Title").snapshot()
    drawn.canvas.draw()
    words = [text for text in drawn.findobj(Written) if text.get_text() and text.get_visible()]
    page = drawn.bbox.padded(1)
    for text in words:
        box = text.get_window_extent()
        assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1), text
    assert {"What the chain shows.", "a label", "1.000"} <= {text.get_text() for text in words}
    below = [ax.xaxis.label.get_window_extent() for ax in drawn.axes[1:]]
    assert not below[0].overlaps(below[1])
    chain = drawn.axes[0].get_window_extent()
    assert chain.height < 0.3 * chain.width


def test_a_wide_panel_has_a_row_of_its_own():
    narrow, wide = Panel("n", [], size=(1, 1)), Panel("w", [], size=(1, 1), wide=True)
    everything = slice(None)
    assert _cells([narrow, wide, narrow, narrow, narrow], 2) == [
        (0, 0), (1, everything), (2, 0), (2, 1), (3, 0)]
    assert _cells([wide, wide], 2) == [(0, everything), (1, everything)]


def luminance(colour):
    parts = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_and_lines_stand_out_from_the_paper(theme):
    """WCAG 2.2: 4.5 for words (1.4.3), 3 for what must be seen to use a control (1.4.11)."""
    colours = dict(re.findall(rf"--{theme}-(\w+): (#\w{{6}});", engine.STYLE))

    def contrast(one, other):
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    for role in ("ink", "muted", "error", "accent"):
        assert contrast(colours[role], colours["paper"]) >= 4.5, role
    assert contrast("#d6004b", "#ffffff") >= 3 and "--sv-mark: #d6004b" in engine.STYLE


def test_the_module_fetches_nothing_and_every_control_has_a_name():
    assert not re.search(r"https?:|fetch\(|import\s*\(|XMLHttpRequest|^import ", engine.MODULE, re.MULTILINE)
    assert engine.MODULE.rstrip().endswith("export default { render };")
