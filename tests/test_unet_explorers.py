"""The explorers of U-Net: its shapes against torch's own layers, its skips against the network taken apart, and both
pages in a browser."""

import re
from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import picture, settled

from segviz import instances
from segviz.data import cells, toytown
from segviz.models import UNet
from segviz.widgets import UNetShapesExplorer, UNetSkipsExplorer
from segviz.widgets.engine import PAGE_STATES
from segviz.widgets.panels import CLEAR, HeatMap, Rects, Text, encode
from segviz.widgets.scenes import LOST, WON, bar, strength, top
from segviz.widgets.unet_setting import CROP, NOTHING, PAD, REMEDIES, SAME, STRETCH, VALID, setting
from segviz.widgets.unet_skips import CUT, KEPT, OTHER

pytestmark = pytest.mark.usefixtures("one_thread")
WAYS = [(VALID, NOTHING), *((SAME, odd) for odd in REMEDIES)]


@pytest.fixture(scope="module")
def shapes():
    return UNetShapesExplorer()


def every(explorer):
    """All that can be set: size, depth, padding, odd."""
    sizes = [explorer.controls[0].at(place) for place in range(explorer.controls[0].sizes[0])]
    return [(size, depth, *way) for size, depth, way in product(sizes, range(1, 6), WAYS)]


def of_torch(size, depth, padding, odd):
    """Sizes on the way down and up, one row a level, and of the logits: what torch makes of a row of pixels, in a
    network of one channel. None where torch.cat refuses; what lies above is missing."""
    kernel, pad = torch.empty(1, 1, 3, device="meta"), int(padding == SAME)
    two, one = kernel[..., :2], torch.empty(1, 2, 3, device="meta")
    x = torch.empty(1, 1, size, device="meta")
    if padding == SAME and odd == PAD:
        x = F.pad(x, (0, -size % 2**depth), mode="replicate")
    down, skips = [], []
    for level in range(depth + 1):
        x = F.max_pool1d(x, 2) if level else x
        first = F.conv1d(x, kernel, padding=pad)
        skips.append(F.conv1d(first, kernel, padding=pad))
        down.append((x.shape[2], first.shape[2], skips[-1].shape[2]))
        x = skips[-1]
    up = []
    for skip in reversed(skips[:-1]):
        x = F.conv_transpose1d(x, two, stride=2)
        came = x.shape[2]
        if padding == VALID:
            start = (skip.shape[2] - came) // 2
            skip = skip[..., start : start + came]
        elif odd == CROP:
            skip = skip[..., :came]
        elif odd == STRETCH:
            x = F.interpolate(x, skip.shape[2])
        try:
            x = torch.cat([skip, x], 1)
        except RuntimeError:
            return down, up[::-1], None
        first = F.conv1d(x, one, padding=pad)
        x = F.conv1d(first, kernel, padding=pad)
        up.append((came, first.shape[2], x.shape[2]))
    return down, up[::-1], min(size, x.shape[2])


# --- shapes


def test_all_sizes_are_those_of_torchs_layers(shapes):
    broken = 0
    for given in [*every(shapes)[::3], (571, 4, SAME, NOTHING), (100, 3, SAME, CROP), (188, 4, VALID, NOTHING)]:
        try:
            found = setting(*given)
        except ValueError:
            with pytest.raises(RuntimeError):                       # a kernel of 3 finds nothing to read
                of_torch(*given)
            continue
        down, up, output = of_torch(*given)
        assert [level.down for level in found.levels] == down
        assert [found.levels[at].up for at in found.reached] == up
        assert found.output == output
        assert found.depth - len(up) == (0 if found.broken is None else found.broken + 1)
        broken += found.broken is not None
    assert broken > 80


def test_unet_takes_and_refuses_what_is_said(shapes):
    for size, depth, padding in product(range(32, 600, 27), (1, 3, 4), (SAME, VALID)):
        network = UNet(2, 1, width=1, depth=depth, padding=padding).to("meta")
        state, image = shapes.state(size=size, depth=depth, padding=padding, odd=PAD), torch.empty(1, 1, size, size)
        try:
            side = network(image.to("meta")).shape[2]
        except ValueError as error:
            assert state.problem and state.problem_at == "size"
            nearest = re.findall(r"\d+", state.problem.split("take ")[1])
            assert nearest == re.findall(r"\d+", str(error).split("take ")[1])
        else:
            assert not state.problem and f"{size} × {size} → {side} × {side}" in state.readout


def test_what_goes_wrong_is_said_in_words(shapes):
    state = shapes.state(padding=SAME)
    assert "Level 3: 71 pools to 35, comes back as 70, but the skip has 71" == state.panels[1].title
    assert "572 × 572 → no output" in state.panels[0].title and state.panels[1].title in state.readout
    for odd, words in ((CROP, "560 × 560"), (STRETCH, "572 × 572"), (PAD, "572 is filled up to 576")):
        assert words in shapes.state(padding=SAME, odd=odd).readout
    assert "is odd: a row is left out" in shapes.state(size=554).panels[1].title
    assert "UNet refuses 554: take 540 or 556." == shapes.state(size=554).problem
    small = shapes.state(size=32)
    assert not small.panels and "188" in small.problem and small.problem_at == "size"
    assert small.hidden == ("odd",) and not shapes.state(padding=SAME).hidden


def test_it_is_red_where_a_row_is_left_out_and_nowhere_else(shapes):
    for given in every(shapes):
        state = shapes.compute(*given)
        if not state.panels:
            continue
        found = setting(*given)
        above = [layer for layer in state.panels[0].layers if getattr(layer, "colour", "") == "error"]
        paths = [layer.paths for layer in above if hasattr(layer, "paths")]
        assert sum(map(len, paths)) == 2 * len(found.odd) + 2 * (found.broken is not None)     # a line and a head each
        boxes = [box for layer in above if isinstance(layer, Rects) for box in layer.boxes]
        assert len(boxes) == 2 * (found.broken is not None)
        told = [words for layer in above if isinstance(layer, Text) for _, _, words, *_ in layer.items]
        level = found.levels[found.broken] if boxes else None
        assert told == ([f"{level.down[2]} ≠ {level.up[0]}"] if boxes else [])


def test_the_u_is_drawn_to_its_sizes_and_inside_its_panel(shapes):
    for given in every(shapes):
        state = shapes.compute(*given)
        for panel in state.panels:
            rows, columns = panel.extent()
            for layer in panel.layers:
                points = [(x, y) for x0, y0, x1, y1 in getattr(layer, "boxes", ()) for x, y in ((x0, y0), (x1, y1))]
                points += [point for path in getattr(layer, "paths", ()) for point in path]
                points += [(x, y) for x, y, *_ in getattr(layer, "items", ())]
                assert all(0 <= x <= columns and 0 <= y <= rows for x, y in points)
                assert all(x0 < x1 and y0 < y1 for x0, y0, x1, y1 in getattr(layer, "boxes", ()))
        if state.panels:
            found = setting(*given)
            sizes = [size for level in found.levels for size in level.down]
            maps = next(layer for layer in state.panels[0].layers if layer.colour == "accent").boxes
            roots = [(y1 - y0) / size**0.5 for (_, y0, _, y1), size in zip(maps, sizes, strict=False)]
            assert max(roots) == pytest.approx(min(roots))


def test_all_that_can_be_set_travels_with_a_page(shapes):
    sizes, depths, paddings, remedies = shapes._sizes()
    assert paddings * remedies == 8 and sizes * depths * 5 <= PAGE_STATES       # with "valid", `odd` is hidden
    assert 572 in {given[0] for given in every(shapes)} and {given[0] % 2 for given in every(shapes)} == {0, 1}


def test_the_last_cells_show_what_became_of_them(shapes):
    def cells_of(**values):
        rects = [layer for layer in shapes.state(padding=SAME, **values).panels[1].layers if isinstance(layer, Rects)]
        return [len(layer.boxes) for layer in rects]            # skip; lost; pooled and doubled; missing

    assert cells_of() == [8, 1, 4 + 8, 1]
    assert cells_of(odd=CROP) == [8, 1, 4 + 8, 0]
    assert cells_of(odd=STRETCH) == [9, 0, 4 + 9, 0]            # the row begins in the midst of the stretched one
    assert cells_of(odd=PAD) == [4, 4, 4 + 8, 0]
    assert cells_of(size=32) == [8, 0, 4 + 8, 0]


def test_shapes_on_paper_and_what_is_refused(shapes):
    figure, written = shapes.snapshot(padding=SAME), BytesIO()
    figure.savefig(written, format="png")
    assert len(figure.axes) == 2 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 10
    with pytest.raises(ValueError, match=r"odd is one of .* but got 'cut'"):
        setting(64, odd="cut")
    with pytest.raises(ValueError, match="padding is one of"):
        setting(64, padding="none")
    with pytest.raises(ValueError, match="outside 32 to"):
        UNetShapesExplorer(size=700)


# --- skips

COUNT, DEPTH = 3, 3
SKIPS = [f"skip{level}" for level in range(DEPTH)]
KINDS = [(KEPT,) * 3, (CUT,) * 3, (OTHER,) * 3, (CUT, KEPT, OTHER), (KEPT, OTHER, CUT)]
SCENE, TRUTH, WHOLE, MASK, CHANGE, BARS = range(6)


@pytest.fixture(scope="module", params=["concatenate", "add"])
def world(request):
    torch.manual_seed(3)
    network = UNet(10, width=4, depth=DEPTH, norm=True, merge=request.param)
    scenes = [toytown.scene(index, (40, 64)) for index in range(COUNT)]
    images, masks = (torch.stack([getattr(scene, part) for scene in scenes]) for part in ("image", "mask"))
    with torch.no_grad():
        for _ in range(20):
            network(images)                                  # now it normalises as one that was trained on these images
        network.score.bias.sub_(network.eval()(images).mean((0, 2, 3)))
    return network.train(), images, masks


@pytest.fixture(scope="module")
def skips(world):
    return UNetSkipsExplorer(*world)


def taken_apart(world, scene, kinds):
    """The logits (C, H, W), step by step, and the skips that were handed over."""
    network, images, _ = world
    was_training = network.training
    network.eval()
    with torch.no_grad():
        ways = []
        for x in (images[[scene]], images[[(scene + 1) % COUNT]]):
            way = []
            for level, pair in enumerate(network.down):
                x = pair(F.max_pool2d(x, 2) if level else x)
                way.append(x)
            ways.append(way)
        handed, x = [], ways[0][-1]
        for level in reversed(range(DEPTH)):
            own, other = ways[0][level], ways[1][level]
            handed.append(own if kinds[level] == KEPT else other if kinds[level] == OTHER else torch.zeros_like(own))
            x = network.upsamplings[DEPTH - 1 - level](x)
            x = torch.cat([handed[-1], x], 1) if network.merge == "concatenate" else handed[-1] + x
            x = network.up[DEPTH - 1 - level](x)
        logits = network.score(x)[0]
    network.train(was_training)
    return logits, [each[0] for each in reversed(handed)]


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("scene", [0, COUNT - 1])
def test_the_mask_is_that_of_the_network_handed_these(skips, world, scene, kinds):
    logits, handed = taken_apart(world, scene, kinds)
    mask, shown = skips.run(scene, kinds)
    assert torch.equal(mask, logits.argmax(0)) and len(mask.unique()) > 1
    assert all(map(torch.equal, shown, handed))
    panels = skips.state(scene=scene, **dict(zip(SKIPS, kinds, strict=True))).panels
    assert np.array_equal(panels[MASK].layers[0].data, mask)
    heats = [panel.layers[0] for panel in panels[BARS + 1 :]]
    assert [heat.shape for heat in heats] == [(40, 64), (20, 32), (10, 16)] and isinstance(heats[0], HeatMap)
    assert [not heat.data.any() for heat in heats] == [kind == CUT for kind in kinds]


def test_with_all_skips_it_is_the_networks_own_mask(skips, world):
    network, images, masks = world
    network.eval()
    with torch.no_grad():
        own = network(images).argmax(1)
    network.train()
    for scene in range(COUNT):
        panels = skips.state(scene=scene, skip0=CUT).panels
        assert np.array_equal(panels[WHOLE].layers[0].data, own[scene])
        assert np.array_equal(panels[TRUTH].layers[0].data, masks[scene])
        changed = panels[MASK].layers[0].data != own[scene].numpy()
        assert changed.any() and np.array_equal(panels[CHANGE].layers[1].data != CLEAR, changed)
        assert f"{changed.mean():.1%} of the pixels" in panels[CHANGE].caption
        verdict, truth = panels[CHANGE].layers[1].data, masks[scene].numpy()
        assert np.array_equal(verdict == LOST, changed & (own[scene].numpy() == truth)) and (verdict == LOST).any()
        assert np.array_equal(verdict == WON, changed & (panels[MASK].layers[0].data == truth) & (truth != 255))
        assert f"Orange: {(verdict == LOST).sum()} that were right" in panels[CHANGE].caption
    assert "0.0% of the pixels. Orange: 0 that were right. Blue: 0 that are now" in skips.state().panels[CHANGE].caption


def test_colour_scales_end_at_the_mean_absolute_activation_to_two_digits():
    found = strength(torch.tensor([[[1.25, -0.2]], [[-1.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor([[1.125, 0.1]]))
    assert top(found) == 1.1 and top(0 * found) == 1.0


def test_a_class_that_was_nowhere_has_no_tick():
    assert bar("car", 0.5, float("nan")).reference is None and bar("car", 0.5, 0.0).reference == 0.0


def test_the_network_is_copied_and_nothing_of_it_is_changed(world):
    network, *others = world
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explorer = UNetSkipsExplorer(network, *others, scene=2)
    assert explorer.values == {"scene": 2} | dict.fromkeys(SKIPS, KEPT)
    state = encode(explorer.state(skip1=CUT))
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network.score.weight.neg_()
    again = [encode(explorer.state(**{name: kind})) for name in SKIPS for kind in (KEPT, CUT, OTHER)]
    network.load_state_dict(before)
    assert encode(explorer.state(skip1=CUT)) == state == again[4]
    assert len({str(each) for each in again}) == 7                   # kept thrice, two more of each


def test_grey_cells_are_shown_and_counted():
    torch.manual_seed(0)
    scenes = [cells.scene(index, 64) for index in range(2)]
    images, masks = [scene.image for scene in scenes], [scene.mask for scene in scenes]
    network = UNet(2, in_channels=1, width=4, depth=2)
    explorer = UNetSkipsExplorer(network, images, masks, cells.CLASSES, cells.PALETTE, count="cell")
    state, (mask, _) = explorer.state(skip0=CUT), explorer.run(0, (CUT, KEPT))
    grey = state.panels[SCENE].layers[0].data
    assert grey.shape == (64, 64, 3) and (grey[..., 0] == grey[..., 2]).all() and grey.std() > 5
    true, predicted = scenes[0].instances, instances.label(mask)
    apart, pairs = instances.separated(predicted, true)
    found = int((instances.found(predicted, true) > 0).sum())
    assert pairs > 3
    assert f"{found} of {true.max()} found, {apart} of {pairs} touching pairs apart" in state.readout
    rows = state.panels[BARS].layers[0].rows
    assert [row.label for row in rows] == ["background", "cell", "", "found", "pairs apart"]
    explorer.run = lambda scene, kinds: (masks[scene], explorer.maps[scene][:-1])            # a perfect prediction
    assert f"{true.max()} of {true.max()} found, {pairs} of {pairs} touching" in explorer.state().readout


def test_one_scene_has_no_other_and_paper_has_all_panels(world):
    network, images, masks = world
    alone = UNetSkipsExplorer(network, images[:1], masks[:1])
    assert alone.controls[1].options == (KEPT, CUT) and alone.controls[1].label == "Skip 0, 40 × 64"
    figure = alone.snapshot(skip1=CUT)
    figure.canvas.draw()
    assert len(figure.axes) == BARS + 1 + DEPTH and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20


def test_what_does_not_fit_is_refused_in_words(world):
    network, images, masks = world
    for arguments, words in (
        ((torch.nn.Conv2d(3, 10, 1), images, masks), 'expected a UNet with padding="same".*got Conv2d'),
        ((UNet(10, width=1, padding=VALID), images, masks), 'got UNet with padding="valid"'),
        ((network, images[:, :1], masks), "reads 3 channels, but the images have 1"),
        ((network, images[:, :2], masks), r"float \(B, 1, H, W\), grey, or float \(B, 3, H, W\), one or more"),
        ((network, images, masks[:1]), "one for each image"),
        ((network, images, masks.clamp(max=3), ("a", "b", "c", "d")), "scores 10 classes, but 4 were named"),
        ((network, images[..., :60], masks[..., :60]), "a width of 60 does not fit"),
    ):
        with pytest.raises(ValueError, match=words):
            UNetSkipsExplorer(*arguments)
    with pytest.raises(ValueError, match=r"count is one of the classes, sky, .*got 'cell'"):
        UNetSkipsExplorer(network, images, masks, count="cell")
    with pytest.raises(ValueError, match="expected one of kept, cut, another scene's; got 'off'"):
        UNetSkipsExplorer(network, images, masks).state(skip0="off")


# --- in a browser


def said(page, words):
    page.wait_for_function("words => document.querySelector('.sv-readout').textContent === words", arg=words)
    assert page.locator("canvas").get_attribute("aria-label") == words


@pytest.mark.slow
def test_the_page_of_shapes_holds_every_setting(shapes, page, tmp_path):
    shapes.export_html(tmp_path / "shapes.html")
    page.goto((tmp_path / "shapes.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, pictures = page.locator("section.sv"), []
    size, depth = (page.get_by_role("slider", name=name, exact=True) for name in ("Input size", "Depth, in poolings"))
    assert not page.get_by_label("Where a map is odd", exact=True).is_visible()
    for values in (dict(size=599, depth=5, padding=SAME, odd=NOTHING), dict(size=41, depth=3, padding=SAME, odd=PAD),
                   dict(size=581, depth=1, padding=SAME, odd=CROP), dict(size=320, depth=2, padding=SAME, odd=STRETCH),
                   dict(size=554, depth=5, padding=VALID, odd=STRETCH)):
        page.get_by_label("Convolutions", exact=True).select_option(values["padding"])
        settled(page)
        if values["padding"] == SAME:
            page.get_by_label("Where a map is odd", exact=True).select_option(values["odd"])
        size.fill(str(values["size"]))
        depth.fill(str(values["depth"]))
        said(page, shapes.state(**values).readout)
        assert page.locator(".sv-words").inner_text() == ""              # none of them was changed for a nearer one
        pictures.append(picture(root))
    assert "UNet refuses 554" in page.locator(".sv-problem:visible").inner_text()
    size.fill("32")
    page.wait_for_function("() => document.body.textContent.includes('leaves no map at every level')")
    page.get_by_role("button", name="Reset").click()
    said(page, shapes.state().readout)
    assert len({*pictures, picture(root)}) == len(pictures) + 1 and page.errors == []


@pytest.mark.slow
def test_the_page_of_skips_answers_with_no_kernel(skips, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 12)
    skips.export_html(tmp_path / "skips.html")
    page.goto((tmp_path / "skips.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    page.wait_for_function("() => document.querySelector('section.sv').dataset.key === '0,0,0,0'")
    root = page.locator("section.sv")
    pictures = [picture(root)]
    for level, side in enumerate(("40 × 64", "20 × 32", "10 × 16")):
        choice = page.get_by_label(f"Skip {level}, {side}", exact=True)
        for kind in (CUT, OTHER):
            choice.select_option(kind)
            said(page, skips.state(**{f"skip{level}": kind}).readout)
            pictures.append(picture(root))
        choice.select_option(KEPT)
    page.get_by_role("slider", name="Scene", exact=True).focus()
    page.keyboard.press("ArrowRight")
    said(page, skips.state(scene=1).readout)
    pictures.append(picture(root))
    page.get_by_role("button", name="Reset").click()
    said(page, skips.state().readout)
    assert picture(root) == pictures[0] and len(set(pictures)) == len(pictures) and page.errors == []
