"""The explorer that compares networks: masks, disagreements and bars against numpy and the networks, and its page."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import picture, settled
from torch import nn

import segviz.widgets
from segviz import metrics
from segviz.data import toytown
from segviz.models import FCN8s, UNet
from segviz.widgets import CompareExplorer
from segviz.widgets.engine import PAGE_STATES
from segviz.widgets.panels import CLEAR, Dots, LabelMap, Lines, Wipe, encode
from segviz.widgets.scenes import VERDICTS

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, COUNT, VOID = (40, 64), 3, 255
WIPED, SCENE, TRUTH, DIFFERENCE, BARS = range(5)
NAMES = ("coarse", "fine", "twin")


class Blurred(nn.Module):
    """Scores that are known: the truth of whichever image is given, blurred, and wrong where `wrong` says."""

    def __init__(self, images, masks, side, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        one_hot = (masks[:, None] == torch.arange(10)[:, None, None]).float()
        self.images, self.dropout, self.calls = images, nn.Dropout(0.9), 0
        self.scores = nn.functional.avg_pool2d(one_hot, side, 1, side // 2, count_include_pad=False)
        self.scores = self.scores + 0.2 * torch.rand(self.scores.shape, generator=generator)

    def forward(self, images):
        self.calls += 1
        at = [int((self.images == image).flatten(1).all(1).nonzero()) for image in images]
        return self.dropout(self.scores[at])


@pytest.fixture(scope="module")
def world():
    scenes = [toytown.scene(index, SIZE) for index in range(COUNT)]
    images, masks = (torch.stack([getattr(scene, part) for scene in scenes]) for part in ("image", "mask"))
    networks = {name: Blurred(images, masks, side, seed) for name, (side, seed) in
                zip(NAMES, ((7, 0), (3, 1), (7, 0)), strict=True)}
    return networks, images, masks


@pytest.fixture(scope="module")
def explorer(world):
    return CompareExplorer(*world)


def own(world, name, scene):
    return world[0][name].scores[scene].numpy().argmax(0)


PAIRS = [("coarse", "fine", 0), ("fine", "coarse", 2), ("twin", "fine", 1)]


@pytest.mark.parametrize("left, right, scene", PAIRS)
def test_masks_and_disagreement_are_those_of_numpy(explorer, world, left, right, scene):
    one, other, truth = own(world, left, scene), own(world, right, scene), world[2][scene].numpy()
    state = explorer.state(left=left, right=right, scene=scene)
    wipe = state.panels[WIPED].layers[-1]
    assert np.array_equal(wipe.left, one) and np.array_equal(wipe.right, other)
    assert np.array_equal(state.panels[TRUTH].layers[0].data, truth) and state.panels[SCENE].title == f"Scene {scene}"
    shown, expected = state.panels[DIFFERENCE].layers[1], np.full(SIZE, CLEAR)
    for row in range(SIZE[0]):
        for column in range(SIZE[1]):
            mine, its, true = one[row, column], other[row, column], truth[row, column]
            if mine != its and true != VOID:
                expected[row, column] = 0 if mine == true else 1 if its == true else 2
    assert np.array_equal(shown.data, expected) and np.array_equal(shown.palette, VERDICTS)
    counts, seen = [int((expected == who).sum()) for who in range(3)], int((truth != VOID).sum())
    differ = sum(counts)
    assert min(counts) > 0 and (truth == VOID).any()
    assert state.panels[DIFFERENCE].title == f"Disagreement: {differ / seen:.1%}"
    assert state.panels[DIFFERENCE].caption == (f"Who is right? Orange: {left} alone, {counts[0]:,}. Blue: {right} "
                                                f"alone, {counts[1]:,}. Grey: neither, {counts[2]:,}.")
    one, other, neither = (f"{count:,} ({count / differ:.0%})" for count in counts)
    assert state.readout.endswith(f"They disagree on {differ:,} of {seen:,} pixels ({differ / seen:.1%}): {left} alone "
                                  f"is right on {one}, {right} alone on {other}, neither on {neither}.")


@pytest.mark.parametrize("left, right, scene", PAIRS)
def test_bars_and_words_are_the_metrics(explorer, world, left, right, scene):
    state, found = explorer.state(left=left, right=right, scene=scene), []
    for name in (left, right):
        mask, truth = torch.as_tensor(own(world, name, scene)), world[2][scene]
        each = metrics.class_iou(metrics.confusion_matrix(mask, truth, 10))
        boundary = metrics.boundary_iou(mask, truth, 10).nanmean()
        found.append([each.nanmean().item(), boundary.item(), *each.tolist()])
        scores = f"mean\u00a0IoU\u00a0{each.nanmean():.3f}, boundary\u00a0IoU\u00a0{boundary:.3f}"
        assert f"{name}: {scores}. " in state.readout and f"{name}, {scores}." in state.panels[WIPED].caption
    bars = [bar for bar in state.panels[BARS].layers[0].rows if bar.label]
    assert [bar.label for bar in bars] == ["mean IoU", "boundary IoU", *toytown.CLASSES]
    for bar, value, tick in zip(bars, *found, strict=True):
        assert bar.value == pytest.approx(value, nan_ok=True)
        assert bar.reference == (None if np.isnan(tick) else pytest.approx(tick))
    assert state.panels[BARS].caption == f"Bar: {left}. Tick: {right}."


def test_one_beside_itself_and_twins_do_not_disagree(explorer):
    for left, right, words in (("fine", "fine", "fine beside itself: no disagreement."),
                               ("coarse", "twin", "They agree on all ")):
        state = explorer.state(left=left, right=right)
        assert (state.panels[DIFFERENCE].layers[1].data == CLEAR).all() and words in state.readout
        assert state.panels[DIFFERENCE].title == "Disagreement: 0.0%" and "disagree on" not in state.readout
        assert state.readout.count("mean\u00a0IoU") == (1 if left == right else 2)


def test_a_scene_of_void_alone_has_no_scores_and_no_disagreement(world):
    networks, images, masks = world
    state = CompareExplorer(networks, images, torch.full_like(masks, VOID)).state()
    assert "They agree on all 0 pixels." in state.readout
    assert all(bar.text in ("", "–") for bar in state.panels[BARS].layers[0].rows)


# --- the line


@pytest.mark.parametrize("column", [0, 1, 37, 64])
def test_on_paper_the_line_parts_the_two(explorer, world, column):
    wipe = explorer.state(right="fine").panels[WIPED].layers[0]
    labels, line, dots = wipe.here(0, column)
    expected = np.concatenate([own(world, "coarse", 0)[:, :column], own(world, "fine", 0)[:, column:]], 1)
    assert np.array_equal(labels.data, expected)
    assert line.paths == [[(column, 0), (column, 40)]] and dots.points == [(column, 20)]
    assert explorer.state().place(explorer.controls[3], (0, column)) == (0, column)


def test_the_line_is_no_part_of_a_state_and_pictures_lie_under_labels_when_asked(explorer, world):
    assert explorer.values == {"left": "coarse", "right": "fine", "scene": 0, "wipe": (0, 32), "over": False}
    assert encode(explorer.state(wipe=(0, 5))) == encode(explorer.state(wipe=(0, 60)))
    plain, over = explorer.state().panels[WIPED], explorer.state(over=True).panels[WIPED]
    assert len(plain.layers) == 1 and plain.layers[0].opacity == 1 and plain.extent() == over.extent() == SIZE
    assert np.array_equal(over.layers[0].data, explorer.state().panels[SCENE].layers[0].data)
    assert 0.4 < over.layers[1].opacity < 0.8 and np.array_equal(over.layers[1].left, plain.layers[0].left)
    labels, *_ = over.layers[1].here(0, 9)
    assert labels.opacity == over.layers[1].opacity
    with pytest.raises(ValueError, match=r"both maps need one size, but they have \(2, 3\) and \(2, 4\)"):
        Wipe(np.zeros((2, 3)), np.zeros((2, 4)), VERDICTS, "wipe")


def test_it_is_shown_on_paper(explorer):
    pictures = []
    for wipe in ((0, 0), (0, 40)):
        figure = explorer.snapshot(wipe=wipe, over=True)
        figure.canvas.draw()
        pictures.append(np.asarray(figure.canvas.buffer_rgba())[..., :3])
        assert len(figure.axes) == 5 and pictures[-1].std() > 20
    assert (pictures[0] != pictures[1]).any()


# --- networks


def test_each_network_is_run_once_on_a_scene_and_not_before(world):
    networks, images, masks = world
    explorer = CompareExplorer(networks, images, masks, left="twin", right="twin", scene=1, prepared=False)
    assert explorer.values["left"] == explorer.values["right"] == "twin" and explorer.values["scene"] == 1
    calls = [network.calls for network in explorer.networks.values()]
    start = [network.calls for network in networks.values()]             # copies begin with these
    assert [now - before for now, before in zip(calls, start, strict=True)] == [1, 1, 1]
    for over in (False, True):
        explorer.state(left="coarse", right="fine", scene=2, over=over)
        explorer.state(left="fine", right="coarse", scene=2)
    assert [network.calls - now for network, now in zip(explorer.networks.values(), calls, strict=True)] == [1, 1, 0]


def test_networks_are_copied_run_in_evaluation_mode_and_left_as_they_were(world):
    _, images, masks = world
    torch.manual_seed(0)
    networks = {"unet": UNet(10, width=4, depth=2, norm=True), "fcn8s": FCN8s(10, width=4, padding=1)}
    before = {name: value.clone() for name, value in networks["unet"].state_dict().items()}
    explorer = CompareExplorer(networks, images, masks, prepared=False)
    with torch.no_grad():
        expected = [network.eval()(images[2:]).argmax(1)[0] for network in networks.values()]
    networks["unet"].train()
    networks["fcn8s"].score.weight.data.fill_(torch.nan)
    wipe = explorer.state(scene=2).panels[WIPED].layers[0]
    assert np.array_equal(wipe.left, expected[0]) and np.array_equal(wipe.right, expected[1])
    assert networks["unet"].training
    assert all(torch.equal(value, before[name]) for name, value in networks["unet"].state_dict().items())


def test_a_network_in_half_precision_is_given_images_of_its_own(world):
    _, images, masks = world
    torch.manual_seed(0)
    networks = {"half": UNet(10, width=4, depth=2).bfloat16()}
    explorer = CompareExplorer(networks, images, masks, scene=1)
    with torch.no_grad():
        expected = networks["half"].eval()(images[1:2].bfloat16()).argmax(1)[0]
    assert np.array_equal(explorer.state().panels[WIPED].layers[0].right, expected)


class Gives(nn.Module):
    """Gives what it was told to give, or raises it."""

    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, images):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


@pytest.mark.parametrize("given, words", [
    (torch.zeros(1, 9, *SIZE), "bad scores 9 classes, but 10 were named: classes needs a name for each"),
    (torch.zeros(1, 10, 20, 32), r"bad: expected logits \(1, classes, 40, 64\), .* got shape \(1, 10, 20, 32\)"),
    (torch.zeros(10, *SIZE), r"got shape \(10, 40, 64\)"),
    ({"out": torch.zeros(1, 10, *SIZE)}, "at the image's size; got dict"),
    (torch.full((1, 10, *SIZE), torch.nan), "the scores of bad hold NaN or infinities"),
    (RuntimeError("expected 1 channel"), r"bad cannot be run on an image of shape \(3, 40, 64\): expected 1 channel"),
    (ValueError("too small"), "bad cannot be run on an image of .*: too small"),
])
def test_a_network_that_does_not_fit_is_refused_by_name(world, given, words):
    networks, images, masks = world
    with pytest.raises(ValueError, match=words):
        CompareExplorer(networks | {"bad": Gives(given)}, images, masks)


def test_other_things_that_do_not_fit_are_refused_in_words(world):
    networks, images, masks = world
    small = [images[0], images[1][:, :32]], [masks[0], masks[1][:32]]
    for arguments, options, words in (
        (({}, images, masks), {}, r"networks are given by name, .* one or more; got \{\}"),
        (([networks["fine"]], images, masks), {}, "networks are given by name"),
        (({"fine": 3}, images, masks), {}, "torch modules by name, but 'fine' is a int"),
        (({1: networks["fine"]}, images, masks), {}, "torch modules by name, but 1 is a Blurred"),
        ((networks, *small), {}, r"images need one size, but they have shapes \(3, 32, 64\) and \(3, 40, 64\): crop"),
        ((networks, [images[0]] * 2, small[1]), {}, r"masks need one size, .* \(32, 64\) and \(40, 64\)"),
        ((networks, images, masks[:1]), {}, "one for each image"),
        ((networks, images, masks, ("a", "b")), {}, "the masks hold label"),
        ((networks, images, masks), {"left": "unet"}, "left: expected one of coarse, fine, twin; got 'unet'"),
        ((networks, images, masks), {"right": "unet"}, "right: expected one of coarse, fine, twin; got 'unet'"),
        ((networks, images, masks), {"scene": COUNT}, "scene: 3 lies outside 0 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            CompareExplorer(*arguments, **options)


# --- in a browser


def opened(page, explorer, path):
    explorer.export_html(path)
    page.goto(path.as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    settled(page)
    return page.locator("section.sv")


def said(page, words):
    page.wait_for_function("words => document.querySelector('.sv-readout').textContent === words", arg=words)
    assert page.locator("canvas").get_attribute("aria-label") == words


@pytest.mark.slow
def test_the_browser_parts_the_two_as_paper_does(explorer, page):
    """`HERE.Wipe` in draw.js against `Wipe.here`, at every place and beyond."""
    head, buffers = encode(explorer.state())
    source = (Path(segviz.widgets.__file__).parent / "draw.js").read_text(encoding="utf-8")
    found = page.evaluate("""([source, layers, buffers]) => new Function('layers', 'buffers', source + `
        const bytes = buffers.map((values) => Uint8Array.from(values));
        return [0, 1, 31, 63, 64, 70].map((column) => plainLayers(layers, { wipe: [0, column] }, bytes).map((layer) =>
            layer.kind === 'LabelMap' ? [layer.opacity, ...dataOf(layer, bytes)] : layer));`)(layers, buffers)""",
                          [source, head["panels"][WIPED]["layers"], [list(buffer) for buffer in buffers]])
    for column, mine in zip((0, 1, 31, 63, 64, 70), found, strict=True):
        labels, line, dots = explorer.state().panels[WIPED].layers[0].here(0, column)
        assert [type(layer) for layer in (labels, line, dots)] == [LabelMap, Lines, Dots]
        assert mine[0] == [labels.opacity, *labels.data.ravel().tolist()]
        assert mine[1] == mine[1] | json.loads(json.dumps(vars(line)))
        assert mine[2] == mine[2] | json.loads(json.dumps(vars(dots)))


@pytest.mark.slow
def test_the_page_answers_with_no_kernel(explorer, page, tmp_path):
    assert 2 * COUNT * len(NAMES) ** 2 < PAGE_STATES                      # so that no setting is left out
    root, pictures = opened(page, explorer, tmp_path / "compare.html"), []
    said(page, explorer.state().readout)
    pictures.append(picture(root))
    for label, name, values in (("Left of the line", "left", ("fine", "twin")),
                                ("Right of the line", "right", ("coarse", "twin"))):
        for value in values:
            page.get_by_label(label, exact=True).select_option(value)
            said(page, explorer.state(**{name: value}).readout)
            settled(page)
            pictures.append(picture(root))
        page.get_by_role("button", name="Reset").click()
    page.get_by_label("Over the picture", exact=True).check()
    page.get_by_role("slider", name="Scene", exact=True).fill("2")
    said(page, explorer.state(scene=2, over=True).readout)
    settled(page)
    pictures.append(picture(root))
    page.get_by_role("button", name="Reset").click()
    said(page, explorer.state().readout)
    assert picture(root) == pictures[0] and len(set(pictures)) == len(pictures) and page.errors == []


@pytest.mark.slow
def test_the_line_is_dragged_and_moved_by_keys_with_no_new_state(explorer, page, tmp_path):
    root, line = opened(page, explorer, tmp_path / "compare.html"), page.get_by_role("slider", name="Line: column")
    area, key, before = root.locator(".sv-point"), settled(page), picture(root)
    assert page.get_by_role("slider", name="Line: row").count() == 0
    assert line.get_attribute("max") == "64" and line.input_value() == "32"
    box = area.bounding_box()
    across = lambda column: box["x"] + (column + 0.5) / 64 * box["width"]                            # noqa: E731
    page.mouse.move(across(32), box["y"] + 5)
    page.mouse.move(across(10), box["y"] + 5)
    assert line.input_value() == "32"                                      # not pressed
    page.mouse.down()
    page.mouse.move(across(50), box["y"] + 30)
    assert line.input_value() == "50"
    page.mouse.move(across(80), box["y"] + 30)                             # beyond the picture: all of the left one
    page.mouse.up()
    assert line.input_value() == "64" and picture(root) != before
    area.focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert line.input_value() == "58"
    line.fill("32")
    assert picture(root) == before and settled(page) == key == root.get_attribute("data-key") and page.errors == []


@pytest.mark.slow
def test_the_others_stand_beside_the_large_picture_where_there_is_room(explorer, page, tmp_path):
    root = opened(page, explorer, tmp_path / "compare.html")
    area, canvas, heights = root.locator(".sv-point"), root.locator("canvas"), []
    for width in (1300, 900, 700):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function("""() => {
            const canvas = document.querySelector('canvas');
            return Math.abs(parseFloat(canvas.style.width) - canvas.parentElement.clientWidth) < 1;
        }""")
        large, whole = area.bounding_box(), canvas.bounding_box()
        share = large["width"] / whole["width"]
        assert (0.4 < share < 0.52) if width >= 900 else share > 0.85
        heights.append(whole["height"] / large["height"])
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert heights[1] < heights[2] and page.errors == []
