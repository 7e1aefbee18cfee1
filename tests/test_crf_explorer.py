"""The explorer of the dense CRF: against segviz.crf and the metrics, on scenes of two sizes and a photograph without
truth, and its page in a browser."""

import re
from io import BytesIO

import matplotlib.cbook
import matplotlib.image
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import picture, settled

from segviz import crf, metrics
from segviz.data import toytown
from segviz.draw import PALETTE, VOID, rgb
from segviz.widgets import CRFExplorer
from segviz.widgets.crf import FAINT, KEPT
from segviz.widgets.panels import CLEAR, Dots, HeatMap, Text, encode
from segviz.widgets.scenes import LOST, NEITHER, WON

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURE, HEARD, MASK, CHANGE, PIXEL, CURVES = range(6)
LAST, PHOTOGRAPH = 4, 2
OTHERS = {"pos_w": 5, "pos_xy_std": 2, "bi_w": 10, "bi_xy_std": 30, "bi_rgb_std": 30}
GIVEN = {"pos_w": 3, "pos_xy_std": 1, "bi_w": 4, "bi_xy_std": 67, "bi_rgb_std": 3}


def unsure(mask, seed, classes=10):
    """What a coarse network would believe: blurred, and a little wrong."""
    height, width = mask.shape
    noise = torch.randn(1, classes, 6, 6, generator=torch.Generator().manual_seed(seed))
    true = F.one_hot(mask.clamp(max=classes - 1), classes).permute(2, 0, 1)[None].float()
    soft = F.interpolate(F.adaptive_avg_pool2d(true, (height // 6, width // 6)), (height, width), mode="bilinear")
    return (4 * soft + F.interpolate(0.5 * noise, (height, width), mode="bilinear"))[0].softmax(0)


def photograph(height=36):
    """matplotlib's sample, Grace Hopper, as (3, H, W)."""
    pixels = matplotlib.image.imread(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    image = torch.tensor(pixels.copy()).permute(2, 0, 1)[None] / 255
    return F.interpolate(image, (height, round(height * image.shape[3] / image.shape[2])), mode="area")[0]


@pytest.fixture(scope="module")
def world():
    """Probabilities, images and masks of two scenes of Toytown and of a photograph, all of different sizes."""
    scenes, photo = [toytown.scene(5, (36, 48)), toytown.scene(3, 32)], photograph()
    masks = [scene.mask.clone() for scene in scenes]
    masks[0][:3, :10] = VOID
    halves = torch.zeros(photo.shape[1:], dtype=torch.long)
    halves[18:] = 8
    probabilities = [unsure(mask, seed) for seed, mask in enumerate([*masks, halves])]
    return probabilities, [*(scene.image for scene in scenes), photo], [*masks, None]


@pytest.fixture(scope="module")
def explorer(world):
    return CRFExplorer(*world, iterations=LAST, names=["Street", "Square", "Photograph"], pixel=(20, 11))


def expected(world, scene, **settings):
    """The marginals after every iteration, the masks, and of each mask mean IoU, boundary IoU and class IoU."""
    probabilities, images, masks = (each[scene] for each in world)
    found = list(crf.marginals(probabilities, images, LAST, **(GIVEN | settings)))
    labels, scores = [each.argmax(0) for each in found], []
    for mask in labels if masks is not None else ():
        each = metrics.class_iou(metrics.confusion_matrix(mask, masks, 10))
        scores.append((each.nanmean().item(), metrics.boundary_iou(mask, masks, 10).nanmean().item(), each))
    return found, labels, scores


# --- the CRF


@pytest.mark.parametrize("settings", [{}, OTHERS, {"pos_w": 0, "bi_w": 0}], ids=["given", "others", "nobody heard"])
@pytest.mark.parametrize("scene", [0, 1, PHOTOGRAPH])
def test_mask_and_marginals_are_those_of_the_crf_after_every_iteration(explorer, world, scene, settings):
    marginals, labels, scores = expected(world, scene, **settings)
    for iteration, (marginal, mask) in enumerate(zip(marginals, labels, strict=True)):
        state = explorer.state(scene=scene, iteration=iteration, **settings)
        assert np.array_equal(state.panels[MASK].layers[0].data, mask)
        bars = state.panels[PIXEL].layers[0].rows
        assert [bar.label for bar in bars] == list(toytown.CLASSES)
        assert [bar.value for bar in bars] == pytest.approx(marginal[:, 20, 11].tolist(), abs=1e-6)
        assert [bar.reference for bar in bars] == pytest.approx(marginals[0][:, 20, 11].tolist(), abs=1e-6)
        most = int(marginal[:, 20, 11].argmax())
        assert f"Pixel 20, 11: {toytown.CLASSES[most]} {bars[most].text}" in state.readout
        if scores:
            mean, boundary, _ = scores[iteration]
            assert state.panels[MASK].caption == f"mean\u00a0IoU\u00a0{mean:.3f}, boundary\u00a0IoU\u00a0{boundary:.3f}"
            truth = toytown.CLASSES[world[2][scene][20, 11]]
            assert f"Truth: {truth}." in state.readout and f"Truth: {truth}." in state.panels[PIXEL].caption
    moved = any(not torch.equal(mask, labels[0]) for mask in labels)
    assert moved == (settings.get("bi_w") != 0)


@pytest.mark.parametrize("scene", [0, 1])
def test_what_changed_and_whether_it_is_right(explorer, world, scene):
    _, labels, _ = expected(world, scene, **OTHERS)
    truth, verdicts = world[2][scene], set()
    for iteration, mask in enumerate(labels):
        panel = explorer.state(scene=scene, iteration=iteration, **OTHERS).panels[CHANGE]
        shown, changed = torch.tensor(panel.layers[1].data), mask != labels[0]
        assert torch.equal(shown == LOST, changed & (labels[0] == truth))
        assert torch.equal(shown == WON, changed & (mask == truth))
        assert torch.equal(shown == CLEAR, ~changed)
        assert panel.caption.startswith(f"{changed.float().mean():.1%} of the pixels")
        verdicts |= set(shown.unique().tolist())
    assert verdicts == {LOST, WON, NEITHER, CLEAR}


@pytest.mark.parametrize("pixel", [(0, 0), (20, 11), (29, 29)])
@pytest.mark.parametrize("scene", [0, 1, PHOTOGRAPH])
def test_a_pixel_hears_through_the_appearance_kernel(explorer, world, scene, pixel):
    probabilities, image, widths = world[0][scene], world[1][scene].double(), {"bi_xy_std": 10, "bi_rgb_std": 30}
    colours = (image - image[:, pixel[0], pixel[1], None, None]).square().sum(0) * 255**2
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in image.shape[1:])
    places = (rows[:, None] - pixel[0]) ** 2 + (columns - pixel[1]) ** 2
    kernel = (-places / (2 * 10**2) - colours / (2 * 30**2)).exp()
    torch.testing.assert_close(explorer.kernel(scene, pixel, 10, 30), kernel)
    one = torch.zeros_like(image[:1])
    one[0, pixel[0], pixel[1]] = 1                                    # and so the CRF itself has it
    torch.testing.assert_close(crf.Appearance(image, 10, 30)(one)[0], kernel, rtol=0, atol=1e-9)

    state = explorer.state(scene=scene, pixel=pixel, iteration=2, **widths)
    heat, words = state.panels[HEARD].layers[1], state.panels[HEARD].caption
    assert np.array_equal(heat.data, HeatMap(np.where(kernel < FAINT, np.nan, kernel)).data)
    assert (heat.data == CLEAR).any() and heat.data[pixel] == CLEAR - 1
    marginals = expected(world, scene, **widths)[0][2]
    heard = (kernel * marginals).sum((1, 2)) / kernel.sum()
    loudest = [(heard[at], toytown.CLASSES[at]) for at in heard.argsort(descending=True)[:2] if heard[at] >= 0.005]
    shares = ", ".join(f"{share:.0%}\u00a0{name}" for share, name in loudest)
    assert words == f"It hears as much as {kernel.sum():.1f} pixels just like it: {shares}."
    assert words in state.readout and probabilities.shape[1:] == heat.shape
    for panel in state.panels[:4]:
        left, top, right, bottom = panel.layers[-1].boxes[0]
        assert (left + 1, top + 1, right - 1, bottom - 1) == (pixel[1], pixel[0], pixel[1] + 1, pixel[0] + 1)


def curves(panel):
    """Of each curve its points, the dot and the name."""
    at = [i for i, layer in enumerate(panel.layers) if isinstance(layer, Dots)]
    return [(panel.layers[i - 1].paths[0], panel.layers[i].points[0], panel.layers[i + 1].items[0][2]) for i in at]


def number(words):
    return float(words.replace("−", "-"))


@pytest.mark.parametrize("settings", [{}, OTHERS, {"pos_w": 10, "bi_rgb_std": 30}], ids=["given", "others", "spoilt"])
@pytest.mark.parametrize("scene", [0, 1])
def test_gains_are_drawn_to_their_scale(explorer, world, scene, settings):
    scores = expected(world, scene, **settings)[2]
    for iteration in range(LAST + 1):
        state = explorer.state(scene=scene, iteration=iteration, **settings)
        panel = state.panels[CURVES]
        levels = next(layer for layer in panel.layers if isinstance(layer, Text)).items
        (_, low, name), (_, high, other) = max(levels, key=lambda item: item[1]), min(levels, key=lambda item: item[1])
        unit = (low - high) / (number(other) - number(name))                # panel units for 1
        assert "0" in [words for _, _, words in levels] and len(levels) in (2, 3)
        for which, (path, dot, words) in enumerate(curves(panel)):
            gains = [each[which] - scores[0][which] for each in scores]
            assert [(low - y) / unit + number(name) for _, y in path] == pytest.approx(gains, abs=1e-6)
            assert np.allclose(np.diff([x for x, _ in path], 2), 0) and path[0][0] < path[-1][0]
            assert dot == path[iteration] and all(high - 1e-6 <= y <= low + 1e-6 for _, y in path)
            told = re.fullmatch(("mean", "boundary")[which] + r" (.+)", words)[1]
            assert number(told) == pytest.approx(gains[iteration], abs=6e-4)
            assert f"({told})" in state.readout
        each = scores[iteration][2] - scores[0][2]
        each = {name: gain for name, gain in zip(toytown.CLASSES, each.tolist(), strict=True) if gain == gain}
        if iteration:
            told = re.findall(r"(Best|Worst): (\w+)\u00a0([^ ]+)\.", panel.caption)
            for (how, name, gain), end in zip(told, (max, min), strict=True):
                assert how == {max: "Best", min: "Worst"}[end] and each[name] == end(each.values())
                assert number(gain) == pytest.approx(each[name], abs=6e-4)
        else:
            assert panel.caption == ""
        for layer in panel.layers:
            points = [point for path in getattr(layer, "paths", ()) for point in path]
            points += [(x, y) for x, y, *_ in getattr(layer, "items", ())]
            assert all(0 <= x <= panel.size[1] and 0 <= y <= panel.size[0] for x, y in points)


def test_a_photograph_without_truth_has_no_scores(explorer, world):
    _, labels, _ = expected(world, PHOTOGRAPH)
    state = explorer.state(scene=PHOTOGRAPH)
    words = [state.readout, *(part for panel in state.panels for part in (panel.title, panel.caption))]
    assert not any(word in line for line in words for word in ("IoU", "Truth", "right", "nan"))
    changed = [100 * (mask != labels[0]).float().mean().item() for mask in labels]
    assert changed[-1] > 0.5
    (path, _, name), panel = curves(state.panels[CURVES])[0], state.panels[CURVES]
    assert name == f"{changed[-1]:.1f} % of the pixels" and panel.title == "Labels changed"
    heights = np.array([path[0][1] - y for _, y in path])
    assert np.allclose(heights / heights[-1], np.array(changed) / changed[-1])
    verdict = state.panels[CHANGE].layers[1].data
    assert state.panels[CHANGE].caption == f"{changed[-1] / 100:.1%} of the pixels, in grey."
    assert np.array_equal(verdict == NEITHER, labels[-1] != labels[0]) and {*np.unique(verdict)} == {NEITHER, CLEAR}
    assert np.array_equal(state.panels[PICTURE].layers[0].data, rgb(world[1][PHOTOGRAPH]))
    void = torch.full(world[1][1].shape[1:], VOID)                       # a truth that says nothing is none
    assert "IoU" not in CRFExplorer(world[0][1:2], world[1][1:2], [void], iterations=1).state().readout


# --- what is computed, and when


def test_one_run_serves_every_iteration_and_pixel(world, monkeypatch):
    explorer, runs, marginals = CRFExplorer(*world, iterations=LAST), [], crf.marginals
    monkeypatch.setattr(crf, "marginals", lambda *given, **named: runs.append(named) or marginals(*given, **named))
    for iteration in range(LAST + 1):
        for pixel in ((0, 0), (9, 25)):
            explorer.state(iteration=iteration, pixel=pixel)
    assert not runs                                                     # the first state had it all
    explorer.state(bi_w=7)
    explorer.state(bi_w=7, iteration=0)
    explorer.state()
    assert runs == [GIVEN | {"bi_w": 7}]
    assert KEPT > len(explorer.controls) and explorer.run.cache_info().currsize == 2


def test_only_moves_that_cost_are_not_computed_ahead(explorer):
    costly = [control["name"] for control in explorer._controls if control["costly"]]
    assert costly == ["scene", *GIVEN] and not explorer._slow and not explorer._complete


def test_the_same_settings_give_the_same_bytes(explorer):
    settings = [{"scene": scene, "iteration": iteration, "pixel": pixel, "bi_rgb_std": colours}
                for scene in range(3) for iteration in (0, 3) for pixel in ((2, 2), (25, 20)) for colours in (3, 30)]
    first = [encode(explorer.state(**each)) for each in settings]
    explorer.run.cache_clear()
    again = [encode(explorer.state(**each)) for each in settings[::-1]][::-1]
    assert first == again and len({str(state) for state in first}) == len(settings)


def test_what_becomes_of_the_tensors_is_not_seen(world):
    given = [[part.clone() for part in each if part is not None] for each in world]
    given[0] = [each.requires_grad_() for each in given[0]]
    explorer = CRFExplorer(*given[:2], [*given[2], None], iterations=2)
    before = encode(explorer.state(scene=1))
    with torch.no_grad():
        for part in (part for each in given for part in each):
            part.zero_()
    explorer.run.cache_clear()
    assert encode(explorer.state(scene=1)) == before


# --- controls and words


def test_sliders_hold_what_was_given_and_a_few_steps_around(world):
    def steps(**given):
        explorer = CRFExplorer(*world, iterations=1, **given)
        return explorer.values, {control.name: control.values for control in explorer.controls[2:7]}

    values, all_steps = steps()
    assert {name: values[name] for name in GIVEN} == GIVEN and values["iteration"] == 1 and values["scene"] == 0
    assert all(3 < len(each) < 7 for each in all_steps.values()) and 0 in all_steps["pos_w"] and 0 in all_steps["bi_w"]
    values, others = steps(bi_rgb_std=12.5, bi_w=0, pos_xy_std=9)
    assert values["bi_rgb_std"] == 12.5 and 12.5 in others["bi_rgb_std"] and 13 not in others["bi_rgb_std"]
    assert others["bi_w"] == all_steps["bi_w"] and others["pos_xy_std"] == (1, 2, 3, 5, 9)


def test_the_point_keeps_to_the_scene(explorer, world):
    sizes = [tuple(image.shape[1:]) for image in world[1]]
    assert explorer.controls[-1].sizes == (36, 48)
    for scene, size in enumerate(sizes):
        state = explorer.state(scene=scene, pixel=(35, 47))
        assert state.bounds == {"pixel": size} and f"Pixel {size[0] - 1}, {size[1] - 1}:" in state.readout
        assert {panel.extent() for panel in state.panels if panel.title != "Marginals of the marked pixel"} == {size}
    alone = CRFExplorer(world[0][1:2], world[1][1:2], iterations=1)
    least = world[0][1].amax(0)
    assert least[alone.values["pixel"]] == least.min()                   # by default where the network is least sure
    assert alone.state().hidden == ("scene",) and explorer.state().hidden == ()
    later = CRFExplorer(*world, scene=1, iterations=0)
    assert later.values["pixel"] == alone.values["pixel"]


def test_no_iteration_is_the_network_itself(world):
    explorer = CRFExplorer(*world, iterations=0)
    for scene, probabilities in enumerate(world[0]):
        state = explorer.state(scene=scene)
        assert np.array_equal(state.panels[MASK].layers[0].data, probabilities.argmax(0))
        assert "before the first iteration" in state.readout and "0.0% of the labels changed" in state.readout
        assert all(len(path) == 1 for path, _, _ in curves(state.panels[CURVES]))


def test_what_has_no_effect_is_said(explorer):
    assert explorer.state(pos_w=0).disabled == ("pos_xy_std",) and explorer.state().disabled == ()
    assert "bi_w is 0" in explorer.state(bi_w=0).readout and "bi_w" not in explorer.state().readout


def test_on_paper_and_where_there_are_no_widgets(explorer):
    for scene in (0, PHOTOGRAPH):
        figure, written = explorer.snapshot(scene=scene, iteration=2), BytesIO()
        figure.savefig(written, format="png")
        assert len(figure.axes) == 6 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20
    data, _ = explorer._repr_mimebundle_()
    assert "Street, after iteration 4: mean IoU" in data["text/plain"]


def test_grey_images_and_other_classes_will_do(world):
    grey, halves = world[1][1].mean(0, keepdim=True), torch.stack([world[0][1][:5].sum(0), world[0][1][5:].sum(0)])
    explorer = CRFExplorer(halves[None], grey[None], (world[2][1] > 4).long()[None], ("left", "right"), PALETTE[:2],
                           iterations=2)
    state = explorer.state()
    assert [bar.label for bar in state.panels[PIXEL].layers[0].rows] == ["left", "right"]
    assert np.array_equal(state.panels[MASK].layers[0].data, crf.mean_field(halves, grey, 2).argmax(0))


def test_what_does_not_fit_is_refused_in_words(world):
    (first, second, third), images, masks = world
    for arguments, options, words in (
        (([first, second], images, masks), {}, "a mask or None, and a name, but there are 2, 3, 3 and 3"),
        (world, {"names": ["one"]}, "3, 3, 3 and 1"),
        (([], []), {}, "there are 0, 0, 0 and 0"),
        (([first, first, third], images, masks), {}, "Scene 1: probabilities and image are of one size"),
        (([first, second, 2 * third], images), {}, r"Scene 2: probabilities are 0 or more.*take logits.softmax\(0\)"),
        ((world[0], [images[0], 255 * images[1], images[2]]), {}, r"Scene 1: image has values in \[0, 1\]"),
        ((*world, ("a", "b")), {}, "Scene 0 has probabilities of 10 classes, but 2 were named"),
        ((*world[:2], [masks[0], masks[0], None]), {}, "Scene 1: the masks are whole numbers"),
        ((*world[:2], [masks[0], masks[1] + 50, None]), {"names": "abc"}, "b: the masks hold label 5"),
        ((*world, toytown.CLASSES, PALETTE[:4]), {}, "the palette has 4 colours for 10 classes"),
        (world, {"scene": 3}, "lies outside 0 to 2"),
        (world, {"pixel": (36, 0)}, "lies outside 36 rows"),
        (world, {"bi_w": -1}, "pos_w and bi_w are 0 or more"),
        (world, {"bi_rgb_std": 0}, "bi_rgb_std are more than 0"),
        (world, {"iterations": -1}, "iterations, pos_w and bi_w are 0 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            CRFExplorer(*arguments, **options)
    with pytest.raises(ValueError, match="bi_w: expected one of 0, 2, 4, 7, 10; got 5"):
        CRFExplorer(*world, iterations=1).state(bi_w=5)


# --- in a browser


@pytest.mark.slow
def test_the_exported_page_answers_with_no_kernel(explorer, world, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 110)        # all with one control changed
    explorer.export_html(tmp_path / "crf.html")
    page.goto((tmp_path / "crf.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, area = page.locator("section.sv"), page.locator(".sv-point")

    def said(**values):
        expected = explorer.state(**values).readout
        page.wait_for_function("said => document.querySelector('.sv-readout').textContent === said", arg=expected)
        assert page.locator("canvas").get_attribute("aria-label") == expected
        return picture(root)

    def slider(name):
        return page.get_by_role("slider", name=name, exact=True)

    pictures = [said()]
    slider("Iteration").fill("1")
    pictures.append(said(iteration=1))
    page.get_by_role("button", name="Reset").click()
    assert said() == pictures[0]
    colours = slider("Colours bi_rgb_std")                               # uneven steps: 1, 3, 6, 13, 30
    assert colours.get_attribute("aria-valuetext") == "3 / 255"
    colours.focus()
    page.keyboard.press("End")
    assert colours.get_attribute("aria-valuetext") == "30 / 255"
    pictures.append(said(bi_rgb_std=30))
    page.keyboard.press("ArrowLeft")
    pictures.append(said(bi_rgb_std=13))
    page.get_by_role("button", name="Reset").click()
    slider("Smoothness pos_w").fill("0")
    pictures.append(said(pos_w=0))
    assert slider("Width pos_xy_std").is_disabled()
    page.get_by_role("button", name="Reset").click()
    area.focus()
    page.keyboard.press("ArrowUp")
    pictures.append(said(pixel=(19, 11)))
    page.keyboard.press("ArrowDown")
    box = area.bounding_box()
    page.mouse.click(box["x"] + 30.5 / 48 * box["width"], box["y"] + 20.5 / 36 * box["height"])
    pictures.append(said(pixel=(20, 30)))
    page.get_by_role("button", name="Reset").click()
    slider("Scene").fill("2")
    pictures.append(said(scene=2))
    rows, columns = world[1][PHOTOGRAPH].shape[1:]
    assert slider("Pixel: row").get_attribute("max") == str(rows - 1)
    assert slider("Pixel: column").get_attribute("max") == str(columns - 1)
    settled(page)
    assert len(set(pictures)) == len(pictures) and page.errors == []
