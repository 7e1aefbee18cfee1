"""The explorer of switches: what it shows against DeconvNet itself, and its page in a browser."""

from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch
from browser import picture
from torch import nn

from segviz import layers, metrics
from segviz.data import toytown
from segviz.models import DeconvNet
from segviz.widgets import SwitchesExplorer
from segviz.widgets.panels import HeatMap, encode
from segviz.widgets.switches import _by_chance

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, COUNT = 64, 3
NAMES = [f"stage{stage}" for stage in range(1, 6)]
STEPS = ["2 → 4", "4 → 8", "8 → 16", "16 → 32", "32 → 64"]
SCENE, TRUTH, WHOLE, MASK, CLASSES, STAGES = 0, 1, 2, 3, 4, slice(5, 10)
PLAIN = [("switches",) * 5, ("corner",) * 5, ("bilinear",) * 5]
PLAIN += [("switches", "corner", "bilinear", "switches", "corner")]


@pytest.fixture(scope="module")
def world():
    torch.manual_seed(0)
    network, scenes = DeconvNet(10, width=2, size=SIZE), [toytown.scene(index, SIZE) for index in range(COUNT)]
    images, masks = (torch.stack([getattr(scene, part) for scene in scenes]) for part in ("image", "mask"))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(images)                                  # now it normalises as one that was trained on these images
        network.score.bias.sub_(network.eval()(images).mean((0, 2, 3)))
    return network.train(), images, masks


@pytest.fixture(scope="module")
def explorer(world):
    return SwitchesExplorer(*world)


def named(modes, **others):
    return dict(zip(NAMES, modes, strict=True)) | others


def of_network(world, scene, modes):
    """The logits (C, H, W) of the network itself."""
    network, images, _ = world
    before = network.unpooling, network.training
    network.unpooling = modes
    with torch.inference_mode():
        logits = network.eval()(images[scene : scene + 1])[0]
    network.unpooling, _ = before
    network.train(before[1])
    return logits


# --- what is computed


@pytest.mark.parametrize("modes", PLAIN)
@pytest.mark.parametrize("scene", [0, 2])
def test_the_mask_is_that_of_the_network_unpooled_so(explorer, world, scene, modes):
    expected = of_network(world, scene, modes).argmax(0)
    state = explorer.state(**named(modes, scene=scene))
    assert torch.equal(explorer.run(scene, modes)[0], expected)
    assert np.array_equal(state.panels[MASK].layers[0].data, expected)
    assert np.array_equal(state.panels[WHOLE].layers[0].data, of_network(world, scene, "switches").argmax(0))
    assert len(expected.unique()) > 1


def test_the_masks_are_not_all_alike(explorer):
    assert len({explorer.run(0, modes)[0].numpy().tobytes() for modes in (*PLAIN, ("shuffled",) * 5)}) == 5


@pytest.mark.parametrize("modes", [*PLAIN, ("shuffled", "switches", "shuffled", "corner", "shuffled")])
def test_each_stage_is_shown_as_the_mean_activation_behind_it(explorer, modes):
    maps, state = explorer.run(1, modes)[1], explorer.state(**named(modes, scene=1))
    assert [tuple(each.shape) for each in maps] == [(16, 4, 4), (8, 8, 8), (4, 16, 16), (2, 32, 32), (2, 64, 64)]
    for each, panel, step, mode in zip(maps, state.panels[STAGES], STEPS, modes, strict=True):
        heat = panel.layers[0]
        assert panel.title == f"{step}, {mode}" and panel.extent() == (SIZE, SIZE)
        assert f"{each.shape[1]}" == step.split(" → ")[1] and heat.low == 0 < heat.high
        assert np.array_equal(heat.data, HeatMap(each.abs().mean(0), 0, heat.high).data)
    scales = [panel.layers[0].high for panel in explorer.state(**named(PLAIN[0], scene=1)).panels[STAGES]]
    assert [panel.layers[0].high for panel in state.panels[STAGES]] == scales         # do not move with the modes


def test_shuffled_is_the_same_each_time_and_asks_no_other_generator(explorer):
    modes = ("shuffled", "shuffled", "switches", "shuffled", "corner")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = explorer.run(0, modes)
    torch.manual_seed(4)
    second = explorer.run(0, modes)
    assert torch.equal(first[0], second[0])
    assert all(torch.equal(*pair) for pair in zip(first[1], second[1], strict=True))
    torch.manual_seed(3)
    explorer.state(**named(modes))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stage_is_shuffled_alike_whatever_the_others_are(explorer):
    alone, also = (explorer.run(0, ("switches", "switches", other, "switches", "shuffled"))[1]
                   for other in ("switches", "shuffled"))
    assert all(torch.equal(alone[at], also[at]) for at in (0, 1)) and not torch.equal(alone[2], also[2])
    places = torch.zeros(1, 8, 32, 32, dtype=torch.long)
    assert torch.equal(_by_chance(places, 4), _by_chance(places, 4))
    assert not torch.equal(_by_chance(places, 4), _by_chance(places, 3))


def test_shuffled_places_lie_in_their_own_squares_and_are_used_evenly():
    places = _by_chance(torch.zeros(1, 6, 20, 30, dtype=torch.long), 2)
    rows, columns = places // 60, places % 60
    assert torch.equal(rows // 2, torch.arange(20)[:, None].expand(1, 6, 20, 30))
    assert torch.equal(columns // 2, torch.arange(30).expand(1, 6, 20, 30))
    counts = torch.bincount((rows % 2 * 2 + columns % 2).flatten(), minlength=4)
    assert (counts - 900).abs().max() < 150                                       # 3600 of four: 26 is one deviation
    maps = torch.rand(1, 6, 20, 30) + 1
    up = layers.unpool(maps, places, "switches")
    assert torch.equal(nn.functional.max_pool2d(up, 2), maps) and int((up > 0).sum()) == maps.numel()


def test_the_scores_are_those_of_the_masks(explorer, world):
    modes, scene = PLAIN[3], 1
    prediction, target = explorer.run(scene, modes)[0], world[2][scene]
    state = explorer.state(**named(modes, scene=scene))
    for panel, mask in ((WHOLE, of_network(world, scene, "switches").argmax(0)), (MASK, prediction)):
        mean = metrics.mean_iou(metrics.confusion_matrix(mask, target, 10))
        boundary = metrics.boundary_iou(mask, target, 10).nanmean().item()
        words = f"mean IoU {mean:.3f}, boundary IoU {boundary:.3f}"
        assert state.panels[panel].caption.replace("\u00a0", " ") == words
        assert words in state.readout.replace("\u00a0", " ")
    rows, whole = state.panels[CLASSES].layers[0].rows, of_network(world, scene, "switches").argmax(0)
    for values, mask in (([row.value for row in rows], prediction),
                         ([np.nan if row.reference is None else row.reference for row in rows], whole)):
        expected = metrics.class_iou(metrics.confusion_matrix(mask, target, 10)).tolist()
        assert values == pytest.approx(expected, nan_ok=True)
    assert "unpooling 2 → 4 switches, 4 → 8 corner, 8 → 16 bilinear" in state.readout


def test_images_of_another_size_than_the_networks_are_resized_inside(world):
    scene = toytown.scene(4, 96)
    explorer = SwitchesExplorer(world[0], [scene.image], [scene.mask])
    mask, maps = explorer.run(0, ("corner",) * 5)
    assert mask.shape == (96, 96) and maps[-1].shape[1:] == (SIZE, SIZE)
    assert torch.equal(mask, of_network((world[0], scene.image[None], None), 0, "corner").argmax(0))


# --- the network is left alone, and what is sent


def test_the_network_is_left_as_it_was_and_what_becomes_of_it_is_not_seen(world):
    torch.manual_seed(5)
    network = DeconvNet(10, width=2, size=32, unpooling=("corner", *("switches",) * 3, "bilinear")).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explorer = SwitchesExplorer(network, *world[1:], scene=2)
    assert explorer.values == named(network.unpooling, scene=2)                   # begins as the network has it
    state = encode(explorer.state(stage2="shuffled"))
    assert network.training and network.unpooling == ("corner", *("switches",) * 3, "bilinear")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network.score.weight.neg_(), network.fc7[0].weight.zero_()
    network.unpooling = "corner"
    assert encode(explorer.state(stage2="shuffled")) == state


def test_the_same_settings_give_the_same_bytes_and_a_picture_on_paper(explorer):
    settings = list(product([0, 1], ["shuffled", "corner"], ["bilinear", "switches"]))
    first = [encode(explorer.state(scene=scene, stage1=one, stage5=five)) for scene, one, five in settings]
    again = [encode(explorer.state(scene=scene, stage1=one, stage5=five)) for scene, one, five in settings[::-1]]
    assert first == again[::-1] and len({str(state) for state in first}) == len(settings)
    figure, written = explorer.snapshot(stage3="shuffled"), BytesIO()
    figure.savefig(written, format="png")
    assert len(figure.axes) == 10 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20
    data, _ = explorer._repr_mimebundle_()
    assert "unpooling 2 → 4 switches" in data["text/plain"]


def test_what_does_not_fit_is_refused_in_words(world):
    network, images, masks = world
    for arguments, words in (
        ((nn.Conv2d(3, 10, 1), images, masks), "expected a DeconvNet, got Conv2d"),
        ((network, images[0], masks), r"float \(B, 3, H, W\)"),
        ((network, images, masks[:1]), "one for each image"),
        ((network, images, masks.clamp(max=3), ("a", "b", "c", "d")), "scores 10 classes, but 4 were named"),
        ((network, images[..., :31, :31], masks[..., :31, :31]), "31"),
    ):
        with pytest.raises(ValueError, match=words):
            SwitchesExplorer(*arguments).run(0, ("corner",) * 5)
    explorer = SwitchesExplorer(network, images, masks)
    with pytest.raises(ValueError, match="expected one of switches, corner, shuffled, bilinear; got 'off'"):
        explorer.state(stage2="off")
    with pytest.raises(ValueError, match="lies outside"):
        explorer.set(scene=COUNT)


# --- in a browser


@pytest.mark.slow
def test_the_exported_page_answers_with_no_kernel(world, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 40)
    explorer = SwitchesExplorer(*world)
    explorer.export_html(tmp_path / "switches.html")
    page.goto((tmp_path / "switches.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    page.wait_for_function("() => document.querySelector('section.sv').dataset.key === '0,0,0,0,0,0'")
    root = page.locator("section.sv")

    def said(values):
        page.wait_for_function("said => document.querySelector('.sv-readout').textContent === said",
                               arg=explorer.state(**values).readout)
        assert page.locator("canvas").get_attribute("aria-label") == explorer.state(**values).readout

    pictures = [picture(root)]
    for stage, step in enumerate(STEPS, 1):
        choice = page.get_by_label(f"Unpooling {step}", exact=True)
        for mode in ("shuffled", "corner"):
            choice.select_option(mode)
            said({f"stage{stage}": mode})
            pictures.append(picture(root))
        choice.select_option("switches")
    page.get_by_role("slider", name="Scene", exact=True).focus()
    page.keyboard.press("ArrowRight")
    said({"scene": 1})
    pictures.append(picture(root))
    page.get_by_role("button", name="Reset").click()
    said({})
    assert picture(root) == pictures[0] and len(set(pictures)) == len(pictures) and page.errors == []
