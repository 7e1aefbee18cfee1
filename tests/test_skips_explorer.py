"""The explorer of skips: its numbers against loops over pixels and against the network, and its page in a browser."""

import gc
import weakref
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import picture
from torch import nn

import segviz.widgets
from segviz import metrics
from segviz.data import toytown
from segviz.draw import PALETTE
from segviz.models import FCN8s, FCN16s, FCN32s
from segviz.widgets import SkipsExplorer
from segviz.widgets.panels import CLEAR, VOID, encode
from segviz.widgets.skips import EVERY, WRONG, decided, labels

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, COUNT = 32, 5
SCENE, TRUTH, SUM, WHO, PIXEL, ALONE, SCORES, CLASSES = 0, 1, 2, 3, 4, slice(5, 8), 8, 9
WEIGHTS = [(1, 1, 1), (0.3, 1, 0), (0, 0, 0.7), (0.9, 0.2, 0.6), (0, 0, 0)]


class Sources(nn.Module):
    """Stands in for an FCN-8s: three convolutions of the picture, each coarser than the next."""

    skips = (3, 2)

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, 10, 3, padding=1) for _ in range(3))
        for conv in self.convs:
            nn.init.normal_(conv.weight, std=2.0)

    def contributions(self, images):
        blurred = [nn.functional.avg_pool2d(images, side, 1, side // 2) for side in (9, 5, 1)]
        return [conv(each) for conv, each in zip(self.convs, blurred, strict=True)]

    def forward(self, images):
        return sum(self.contributions(images))


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    scenes = [toytown.scene(index, SIZE) for index in range(COUNT)]
    return Sources(), torch.stack([scene.image for scene in scenes]), torch.stack([scene.mask for scene in scenes])


@pytest.fixture(scope="module")
def explorer(world):
    return SkipsExplorer(*world)


def named(weights, **others):
    return dict(zip(("fc7", "pool4", "pool3"), weights, strict=True)) | others


def by_hand(world, scene, weights):
    """Winner, runner-up, shares of the lead and who decided, of every pixel, in float64 and one pixel at a time."""
    with torch.inference_mode():
        parts = torch.stack(world[0].contributions(world[1]))[:, scene].double().numpy()
    parts = parts * np.array(weights)[:, None, None, None]
    found = np.zeros((6, SIZE, SIZE))
    for i in range(SIZE):
        for j in range(SIZE):
            sums = parts[:, :, i, j].sum(0)
            winner = int(np.argmax(sums))
            runner = max((c for c in range(10) if c != winner), key=lambda c, sums=sums: sums[c])
            shares = parts[:, winner, i, j] - parts[:, runner, i, j]
            who = VOID if shares.sum() == 0 else int(np.argmax(shares))
            found[:, i, j] = [winner, runner, who, *shares]
    return found


def rows_of(panel):
    return {row.label: row for row in panel.layers[0].rows if row.label}


# --- what is computed


@pytest.mark.parametrize("scene", [0, COUNT - 1])
def test_weights_of_one_are_the_network(explorer, world, scene):
    network, images, _ = world
    with torch.inference_mode():
        expected = network(images)[scene].argmax(0)
    assert torch.equal(explorer.predict(scene).long(), expected)
    assert torch.equal(explorer.whole[scene].long(), expected)
    assert np.array_equal(explorer.state(scene=scene).panels[SUM].layers[0].data, expected)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("scene", [1, 3])
def test_every_pixel_is_what_a_loop_over_pixels_finds(explorer, world, weights, scene):
    winner, runner, who, *shares = by_hand(world, scene, weights)
    state = explorer.state(**named(weights, scene=scene))
    assert np.array_equal(state.panels[SUM].layers[0].data, winner)
    assert torch.equal(explorer.predict(scene, **named(weights)), torch.from_numpy(winner).to(torch.uint8))
    assert np.array_equal(state.panels[WHO].layers[0].data, who)
    told = state.pointed["pixel"].told
    truth = np.where(world[2][scene] == VOID, 10, world[2][scene])
    assert np.array_equal(told.numbers[:3], [winner, runner, truth])
    assert np.abs(told.numbers[4:] - 10 * np.array(shares)).max() <= 0.5 + 1e-4
    assert np.abs(told.numbers[3] - 10 * sum(shares)).max() <= 0.5 + 1e-4 and told.numbers[3].min() >= 0


def test_the_bars_of_a_pixel_add_up_to_its_lead_and_say_so(explorer):
    state = explorer.state(fc7=0.5)
    bars, words = state.panels[PIXEL].layers[0], state.pointed["pixel"]
    for place in ((0, 0), (7, 21), (SIZE - 1, SIZE - 1)):
        heading, *sources, truth = bars.here(*place).rows
        lead = float(heading.text.replace("−", "-"))
        assert sum(row.value for row in sources) == pytest.approx(lead, abs=0.2 + 1e-9)       # tenths, rounded
        assert [row.text for row in sources] == [f"{row.value:+.1f}".replace("-", "−") for row in sources]
        winner, runner = heading.label.split(" over ")
        said = words.here(*place)
        assert said.startswith(f"At the marked pixel {winner} leads {runner} by {heading.text}: fc7 {sources[0].text},")
        assert said.endswith(f"pool3 {sources[2].text}. Truth: {truth.label.removeprefix('truth: ')}.")
        assert state.said({"pixel": place}) == f"{state.readout} {said}"
    assert bars.minimum == -bars.maximum < 0 and len({row.colour for row in sources}) == 3


def test_who_decides_where_nobody_leads():
    parts = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])[:, :, None, None]            # a tie of two classes
    runner, shares, source = decided(parts, torch.zeros(1, 1))
    assert (int(runner), shares.flatten().tolist(), int(source)) == (1, [2.0, -2.0], VOID)
    runner, shares, source = decided(parts + torch.tensor([1.0, 0.0])[:, None, None], torch.zeros(1, 1))
    assert int(source) == 0 and shares.flatten().tolist() == [3.0, -1.0]


def test_labels_are_those_of_argmax():
    scores = torch.randint(0, 4, (3, 7, 9, 11)).float()                                        # many equals
    assert torch.equal(labels(scores).long(), scores.argmax(1)) and labels(scores).dtype == torch.uint8


@pytest.mark.parametrize("weights", WEIGHTS[:4])
def test_the_scores_are_those_of_the_masks(explorer, world, weights):
    masks, scene = world[2], 2
    prediction = torch.stack([explorer.predict(at, **named(weights)) for at in range(COUNT)]).long()
    state = explorer.state(**named(weights, scene=scene))
    own, over_all = (metrics.confusion_matrix(*pair, 10) for pair in ((prediction[scene], masks[scene]),
                                                                     (prediction, masks)))
    first, second = ([row for row in state.panels[SCORES].layers[0].rows if row.label == "mean IoU"])
    assert (first.value, second.value) == (metrics.mean_iou(own), metrics.mean_iou(over_all))
    rows, each = rows_of(state.panels[SCORES]), metrics.class_iou(over_all)
    boundary = metrics.boundary_iou(prediction[scene], masks[scene], 10).nanmean().item()
    assert rows["boundary IoU"].value == boundary
    assert [rows["pole IoU"].value, rows["marking IoU"].value] == pytest.approx([float(each[7]), float(each[5])],
                                                                                nan_ok=True)
    classes = rows_of(state.panels[CLASSES])
    assert [classes[name].value for name in toytown.CLASSES] == pytest.approx(metrics.class_iou(own).tolist(),
                                                                             nan_ok=True)
    assert f"mean IoU {first.value:.3f} ({first.reference:.3f} with all weights 1)" in state.readout


def test_ticks_stand_where_the_bars_are_with_all_weights_one(explorer):
    for panel in (SCORES, CLASSES):
        whole = explorer.state(scene=4).panels[panel].layers[0].rows
        other = explorer.state(scene=4, fc7=0.2, pool3=0).panels[panel].layers[0].rows
        for one, changed in zip(whole, other, strict=True):
            if one.label and not one.bare and not np.isnan(one.value):
                assert one.reference == one.value == changed.reference
        assert any(one.value != changed.value for one, changed in zip(whole, other, strict=True))


def test_each_source_alone_says_what_it_would_with_the_others_at_zero(explorer, world):
    state = explorer.state(scene=1, pool4=0)
    for at, panel in enumerate(state.panels[ALONE]):
        alone = explorer.predict(1, **named(torch.eye(3)[at].tolist()))
        assert np.array_equal(panel.layers[0].data, alone)
        score = metrics.mean_iou(metrics.confusion_matrix(alone, world[2][1], 10))
        assert panel.caption == f"Stride {32 >> at}. Mean IoU {score:.3f}."
    assert [panel.layers[0].opacity for panel in state.panels[ALONE]] == [1.0, 0.35, 1.0]     # that of weight 0 is dim


def test_of_the_wrong_pixels_only_those_are_coloured(explorer, world):
    mask = world[2][3].numpy()
    every, wrong = (explorer.state(scene=3, fc7=0.4, shown=shown).panels[WHO] for shown in (EVERY, WRONG))
    winner = explorer.predict(3, fc7=0.4).numpy()
    among = (winner != mask) & (mask != VOID)
    assert (mask == VOID).any() and np.array_equal(wrong.layers[1].data, np.where(among, every.layers[0].data, CLEAR))
    assert f"of {among.sum()} wrong pixels." in wrong.caption and f"of {SIZE * SIZE} pixels." in every.caption
    share = (every.layers[0].data == 1).mean()
    assert f"pool4\u00a0{share:.0%}" in every.caption and every.extent() == wrong.extent() == (SIZE * 1.1, SIZE)
    assert np.array_equal(np.array([colour for colour in every.layers[0].palette]), wrong.layers[1].palette)


def test_with_all_weights_zero_it_is_said_that_nothing_is_added(explorer):
    state = explorer.state(**named((0, 0, 0)))
    assert "Nothing is added" in state.problem and state.problem_at == "pool3" and len(state.panels) == 10
    assert (state.panels[SUM].layers[0].data == 0).all() and "Striped: nobody" in state.panels[WHO].caption
    assert "sky leads building by +0.0: fc7 +0.0" in state.said({"pixel": (3, 3)})
    assert not explorer.state(**named((0, 0, 0.1))).problem


@pytest.mark.parametrize("model", [FCN32s, FCN16s, FCN8s])
def test_the_controls_follow_the_networks_skips(model, world):
    torch.manual_seed(1)
    network = model(10, width=2, padding=1).train()
    for score in (network.score, *network.skip_scores):                  # they start at zero
        nn.init.normal_(score.weight), nn.init.normal_(score.bias)
    explorer = SkipsExplorer(network, list(world[1][:2]), list(world[2][:2]), pixel=(3, 9))
    sources = ("fc7", "pool4", "pool3")[: 1 + len(network.skips)]
    assert [control.name for control in explorer.controls] == ["scene", "shown", *sources, "pixel"]
    assert len(explorer.state().panels) == 7 + len(sources) and explorer.values["pixel"] == (3, 9) and network.training
    logits = network.eval()(world[1][:2])
    best = logits.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > 1e-3 * best[:, 0].abs()            # where rounding does not decide
    assert clear.float().mean() > 0.9 and torch.equal(explorer.whole[clear].long(), logits.argmax(1)[clear])


# --- what is sent, and what stands in for it


def test_the_same_settings_give_the_same_bytes_and_a_picture_on_paper(explorer):
    before = encode(explorer.state(fc7=0.3, scene=2))
    explorer.state(fc7=1, scene=0)
    assert encode(explorer.state(fc7=0.3, scene=2)) == before
    figure, written = explorer.snapshot(pixel=(3, 4)), BytesIO()
    figure.savefig(written, format="png")
    assert len(figure.axes) == 10 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20
    data, _ = explorer._repr_mimebundle_()
    assert "At the marked pixel" in data["text/plain"]


def test_other_classes_and_a_single_scene_will_do(world):
    network, images, _ = world
    masks = torch.full((1, SIZE, SIZE), 255)
    names = tuple(f"thing {at}" for at in range(10))
    state = SkipsExplorer(network, images[:1], masks, names).state(shown=WRONG)
    assert "mean IoU nan" in state.readout and "thing" in state.said({"pixel": (0, 0)})        # all is void
    assert "of 0 wrong pixels" in state.panels[WHO].caption


def test_the_network_is_not_kept_alive(world):
    network = Sources()
    explorer = SkipsExplorer(network, *world[1:])
    kept = weakref.ref(network)
    del network
    gc.collect()
    assert kept() is None and explorer.state().panels


def test_what_does_not_fit_is_refused_in_words(world):
    network, images, masks = world
    for arguments, words in (
        ((nn.Conv2d(3, 10, 1), images, masks), "with contributions.* got Conv2d"),
        ((network, [], []), "one or more"),
        ((network, images[0], masks), r"float \(B, 3, H, W\), one or more; got torch.float32 of shape \(3, 32, 32\)"),
        ((network, images[:0], masks[:0]), "one or more"),
        ((network, (255 * images).byte(), masks), "got torch.uint8"),
        ((network, images, masks[:2]), r"\(B, H, W\) = \(5, 32, 32\), one for each image; got torch.int64 of shape"),
        ((network, images, masks.float()), "the masks are whole numbers"),
        ((network, images, torch.full_like(masks, 10)), "label 10, expected 0 to 9 or 255"),
        ((network, images, masks.clamp(max=3), ("a", "b", "c", "d")), "scores 10 classes, but 4 were named"),
        ((network, images, masks, toytown.CLASSES, PALETTE[:9]), "9 colours for 10 classes"),
        ((network, images * torch.inf, masks), "NaN or infinities"),
    ):
        with pytest.raises(ValueError, match=words):
            SkipsExplorer(*arguments)
    for start in ({"scene": COUNT}, {"pixel": (SIZE, 0)}):
        with pytest.raises(ValueError, match="lies outside"):
            SkipsExplorer(network, images, masks, **start)
    with pytest.raises(ValueError, match="lies outside 0 to 1"):
        SkipsExplorer(network, images, masks).state(fc7=1.5)


# --- in a browser


@pytest.mark.slow
def test_the_browser_tells_what_paper_tells(explorer, page):
    """`Bars` and `toldAt` of draw.js against `Bars.here` and `Told.here`, at every fifth place and beyond."""
    state = explorer.state(fc7=0.4)
    head, buffers = encode(state)
    source = (Path(segviz.widgets.__file__).parent / "draw.js").read_text(encoding="utf-8")
    bars, words = head["panels"][PIXEL]["layers"], head["pointed"]["pixel"]
    found = page.evaluate("""([source, bars, said, buffers]) => new Function('bars', 'said', 'buffers', source + `
        const bytes = buffers.map((values) => Uint8Array.from(values)), found = [];
        for (let row = 0; row < 40; row += 5) for (let column = 0; column < 40; column += 5) {
            const [{ rows }] = plainLayers(bars, { pixel: [row, column] }, bytes);
            const told = fillIn(said.words, toldAt(said.told, row, column, bytes));
            found.push([told, rows.map(({ label, text, value }) => [label, text, value])]);
        }
        return found;`)(bars, said, buffers)""", [source, bars, words, [list(buffer) for buffer in buffers]])
    expected = []
    for row in range(0, 40, 5):
        for column in range(0, 40, 5):
            rows = state.panels[PIXEL].layers[0].here(row, column).rows
            here = [[bar.label, bar.text, None if bar.bare else bar.value] for bar in rows]
            expected.append([state.pointed["pixel"].here(row, column), here])
    assert found == expected


@pytest.mark.slow
def test_the_exported_page_answers_with_no_kernel(world, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 120)
    explorer = SkipsExplorer(*world)
    explorer.export_html(tmp_path / "skips.html")
    page.goto((tmp_path / "skips.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, words = page.locator("section.sv"), page.locator(".sv-readout")
    assert root.locator("canvas").get_attribute("role") == "img"

    def slider(name):
        return page.get_by_role("slider", name=name, exact=True)

    def said(text):
        page.wait_for_function("said => document.querySelector('.sv-readout').textContent.includes(said)", arg=text)

    page.wait_for_function("() => document.querySelector('section.sv').dataset.key === '0,0,10,10,10'")
    pictures = [picture(root)]
    for name, value, expected in (("Weight of pool3", "0.4", "pool3 0.4"), ("Weight of pool3", "1", "pool3 1:"),
                                  ("Weight of fc7", "0", "fc7 0,"), ("Weight of fc7", "1", "fc7 1,"),
                                  ("Scene", "3", "Scene 3,")):
        slider(name).fill(value)
        said(expected)
        pictures.append(picture(root))
    page.get_by_label("Who decided", exact=True).select_option(WRONG)
    page.wait_for_function("() => document.querySelector('section.sv').dataset.key.split(',')[1] === '1'")
    pictures.append(picture(root))
    page.get_by_role("button", name="Reset").click()
    said("Scene 0,")
    area = page.locator(".sv-point").bounding_box()
    unit = area["width"] / SIZE
    for row, column in ((4, 5), (20, 30)):
        page.mouse.move(area["x"] + (column + 0.5) * unit, area["y"] + (row + 0.5) * unit)
        said(explorer.state().pointed["pixel"].here(row, column))
        assert words.inner_text() == explorer.state().said({"pixel": (row, column)})
        pictures.append(picture(root))
    page.locator(".sv-point").focus()
    page.keyboard.press("ArrowDown")
    said(explorer.state().pointed["pixel"].here(21, 30))
    # Both sliders back at the start show the start again; all else is new.
    assert len(set(pictures)) == len(pictures) - 2 and page.errors == []
