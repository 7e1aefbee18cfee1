"""The explorer of DeepLab v3+: masks, strengths and costs against the network itself, and its page in a browser."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from browser import picture, settled
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segviz import metrics
from segviz.data import toytown
from segviz.models import DeepLabV3, DeepLabV3Plus
from segviz.widgets import DeepLabExplorer
from segviz.widgets.deeplab import _short
from segviz.widgets.panels import CLEAR, Dots, HeatMap, Text, encode

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, COUNT, RATES = (40, 64), 3, (1, 2, 4)                     # maps of 6 x 9 places
SCENE, TRUTH, MASK, CHANGE, CLASSES, COST, BRANCHES = range(7)
ON, NAMES = (True,) * 5, ("one", "branch1", "branch2", "branch3", "pooling")
SETTINGS = [(ON, RATES, True), ((False, True, True, True, True), RATES, True), (ON, (1, 1, 1), True),
            ((True, True, False, True, False), (4, 2, 9), True), (ON, (3, 2, 6), False), (ON, RATES, False),
            ((False,) * 5, RATES, True), ((False,) * 5, RATES, False)]


def trained(images, **options):
    """Stands in for a trained network: it normalises as one that was trained on these images."""
    torch.manual_seed(2)
    network = DeepLabV3Plus(10, width=4, layers=(1, 1, 1, 1), output_stride=8, rates=RATES, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.7, 1.3), nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        network(images)
        network.score.bias.sub_(network.eval()(images).mean((0, 2, 3)))
    return network.train()


@pytest.fixture(scope="module")
def world():
    scenes = [toytown.scene(index, SIZE) for index in range(COUNT)]
    images, masks = (torch.stack([getattr(scene, part) for scene in scenes]) for part in ("image", "mask"))
    networks = {"separable": trained(images), "plain": trained(images, separable=False)}
    return networks, images, masks, {form: means_of(network, images) for form, network in networks.items()}


@pytest.fixture(scope="module")
def explorer(world):
    networks, images, masks, _ = world
    return DeepLabExplorer(networks["separable"], images, masks, other=networks["plain"])


def values_of(on, rates, details, **others):
    named = {f"rate{at}": rate for at, rate in enumerate(rates, 1)}
    return dict(zip(NAMES, on, strict=True)) | named | {"details": details} | others


def at_rates(network, rates):
    """One that is built with these rates, with the same weights."""
    names = ("num_classes", "width", "layers", "output_stride", "separable")
    options = {name: getattr(network, name) for name in names}
    other = DeepLabV3Plus(**options, rates=rates)
    other.load_state_dict(network.state_dict())
    return other.eval()


def parts_of(network):
    return [*network.aspp.convs, network.reduce]


def means_of(network, images):
    """What each branch and the reduced map give in the mean over all places of all images, (C,)."""
    network, found = at_rates(network, RATES), []
    for part in parts_of(network):
        found.append([])
        part.register_forward_hook(lambda _, given, out, kept=found[-1]: kept.append(out[0].flatten(1)))
    with torch.no_grad():
        for image in images:
            network(image[None])
    return [torch.cat(kept, 1).mean(1) for kept in found]


def by_hand(world, form, scene, on, rates, details):
    """The logits (C, H, W) of the whole network where what is off gives its mean, and what `project` is given."""
    networks, images, _, means = world
    network, given = at_rates(networks[form], rates), []
    for part, mean, is_on in zip(parts_of(network), means[form], [*on, details], strict=True):
        if not is_on:
            part.register_forward_hook(lambda _, inputs, out, mean=mean: mean[:, None, None].expand_as(out[0])[None])
    network.aspp.project.register_forward_hook(lambda _, inputs, out: given.append(inputs[0]))
    with torch.no_grad():
        return network(images[[scene]])[0], given[0]


# --- what is computed


@pytest.mark.parametrize("form", ["separable", "plain"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_mask_is_that_of_the_network_with_these_parts(explorer, world, form, setting):
    masks = world[2]
    for scene in (0, COUNT - 1):
        logits, _ = by_hand(world, form, scene, *setting)
        whole, _ = by_hand(world, form, scene, *SETTINGS[0])
        mask, trained = logits.argmax(0), whole.argmax(0)
        panels = explorer.state(form=form, scene=scene, **values_of(*setting)).panels
        assert torch.equal(explorer.heads[form].run(scene, *setting)[0], mask)
        if setting == (ON, RATES, False):
            assert torch.equal(explorer.heads[form].run(scene, details=False)[0], mask)
        assert np.array_equal(panels[MASK].layers[0].data, mask)
        assert np.array_equal(panels[TRUTH].layers[0].data, masks[scene])
        assert np.array_equal(panels[CHANGE].layers[1].data != CLEAR, (mask != trained).numpy())
        assert (mask != trained).any() == (setting != SETTINGS[0]) and len(trained.unique()) > 1
        for panel, shown in ((MASK, mask), (CLASSES, trained)):
            mean = metrics.mean_iou(metrics.confusion_matrix(shown, masks[scene], 10))
            assert f"mean\u00a0IoU\u00a0{mean:.3f}, boundary" in panels[panel].caption
        each = metrics.class_iou(metrics.confusion_matrix(mask, masks[scene], 10)).tolist()
        assert [row.value for row in panels[CLASSES].layers[0].rows] == pytest.approx(each, nan_ok=True)


def test_with_all_on_it_is_the_networks_own_mask(explorer, world):
    networks, images, *_ = world
    for form, network in networks.items():
        network.eval()
        with torch.no_grad():
            own = network(images).argmax(1)
        network.train()
        for scene in range(COUNT):
            assert np.array_equal(explorer.state(form=form, scene=scene).panels[MASK].layers[0].data, own[scene])
    assert explorer.values["form"] == "separable"


@pytest.mark.parametrize("form", ["separable", "plain"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_branch_tells_is_what_it_adds_beyond_its_mean(explorer, world, form, setting):
    networks, images, _, means = world
    on, rates, details = setting
    network, scene = networks[form], 1
    project = at_rates(network, RATES).aspp.project[:2]
    expected = []
    for at, is_on in enumerate(on):
        without = tuple(each and other != at for other, each in enumerate(on))
        full, less = (by_hand(world, form, scene, each, rates, details)[1] for each in (on, without))
        with torch.no_grad():
            expected.append((project(full) - project(less))[0].square().sum(0).sqrt())
        assert is_on == bool(expected[-1].max() > 1e-4)
    head = explorer.heads[form]
    *told, of_details = head.told(head.run(scene, *setting)[1])
    assert all(torch.allclose(*pair, atol=1e-4) for pair in zip(told, expected, strict=True))
    network = at_rates(network, RATES)
    with torch.no_grad():
        reduced = network.reduce(network.stages(images[[scene]])[0])[0]
    beyond = (reduced - means[form][-1][:, None, None]).norm(dim=0)
    assert torch.allclose(of_details, beyond * details, atol=1e-4)
    panel = explorer.state(form=form, scene=scene, **values_of(*setting)).panels[BRANCHES]
    heats = [layer for layer in panel.layers if isinstance(layer, HeatMap)]
    assert [heat.shape for heat in heats] == [(6, 9)] * 5 + [(11, 17)]
    below = [layer.items[0][2] for layer in panel.layers if isinstance(layer, Text)][1::2]
    assert below == [f"{each.mean():.1f}" if is_on else "off"
                     for each, is_on in zip([*told, of_details], [*on, details], strict=True)]


@pytest.mark.parametrize("form", ["separable", "plain"])
def test_colours_end_where_a_hundredth_of_all_places_tell_more(explorer, form):
    head = explorer.heads[form]
    told = [head.told(head.run(scene)[1]) for scene in range(COUNT)]
    branches, details = (torch.cat([part.flatten() for each in told for part in each[where]])
                         for where in (slice(5), slice(5, 6)))
    most = [float(f"{np.quantile(each, 0.99):.2g}") for each in (branches, details)]
    panel = explorer.state(form=form, scene=2).panels[BRANCHES]
    heats = [layer for layer in panel.layers if isinstance(layer, HeatMap)]
    for heat, strength, end in zip(heats, told[2], [most[0]] * 5 + [most[1]], strict=True):
        assert np.array_equal(heat.data, HeatMap(strength, 0, end).data)
    assert f"Bright: {most[0]:g}; of details {most[1]:g}." in panel.caption
    assert form == "plain" or most[0] != most[1]


@pytest.mark.parametrize("number, words", [(999, "1.0\u00a0k"), (1.53e6, "1.5\u00a0M"), (2e10, "20.0\u00a0G")])
def test_costs_are_written_short(number, words):
    assert _short(number) == words


@pytest.mark.parametrize("rates", [RATES, (2, 3, 5), (6, 8, 9)])
def test_the_dots_are_where_the_middle_place_reads(explorer, rates):
    panel = explorer.state(**values_of(ON, rates, True)).panels[BRANCHES]
    heats, dots = ([layer for layer in panel.layers if isinstance(layer, kind)] for kind in (HeatMap, Dots))
    for rate, heat, layer in zip((None, *rates), heats, dots, strict=False):
        pixels = torch.zeros(1, 1, 6, 9, requires_grad=True)
        conv = nn.Conv2d(1, 1, 3, padding=rate, dilation=rate) if rate else nn.Conv2d(1, 1, 1)
        conv(pixels)[0, 0, 3, 4].backward()
        x0, y0, x1, y1 = heat.box
        places = {(round((y - y0) / (y1 - y0) * 6 - 0.5, 6), round((x - x0) / (x1 - x0) * 9 - 0.5, 6))
                  for x, y in layer.points}
        assert places == {tuple(place) for place in pixels.grad[0, 0].nonzero().tolist()}
    assert len(dots) == 4
    assert len([layer for layer in explorer.state(one=False, branch2=False).panels[BRANCHES].layers
                if isinstance(layer, Dots)]) == 2


# --- what it costs


@pytest.mark.parametrize("form", ["separable", "plain"])
def test_all_costs_are_those_of_the_network_but_for_its_backbone(explorer, world, form):
    network, image = at_rates(world[0][form], RATES), world[1][:1]
    flops = []
    for run in (lambda: network(image), lambda: network.stages(image)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run()
        flops.append(counter.get_total_flops())
    macs, parameters = explorer.heads[form].cost()["both"]
    assert macs == (flops[0] - flops[1]) / 2
    assert parameters == sum(values.numel() for name, values in network.named_parameters()
                             if not name.startswith("backbone"))


@pytest.mark.parametrize("form", ["separable", "plain"])
@pytest.mark.parametrize("off", [*NAMES, "details"])
def test_what_is_off_is_not_counted(explorer, world, form, off):
    network, image, head = at_rates(world[0][form], RATES), world[1][:1], explorer.heads[form]
    first, *_, last = network.stages(image)
    names = [*NAMES, "details"]
    part, given = parts_of(network)[names.index(off)], first if off == "details" else last
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        part(given)
    saved = counter.get_total_flops() / 2, sum(values.numel() for values in part.parameters())
    on = tuple(name != off for name in names)
    before, after = head.cost(), head.cost(on[:-1], on[-1])
    where = "decoder" if off == "details" else "ASPP"
    assert {name: tuple(b - a for b, a in zip(before[name], after[name], strict=True)) for name in before} == {
        "ASPP": (0, 0), "decoder": (0, 0), where: saved, "both": saved}
    assert min(saved) > 0


def test_the_bars_of_cost_have_the_other_form_as_tick(explorer, world):
    costs = {form: explorer.heads[form].cost((*ON[1:], False), True) for form in world[0]}
    most = [explorer.heads["plain"].cost()["both"][at] for at in range(2)]
    for form, other in (("separable", "plain"), ("plain", "separable")):
        panel = explorer.state(form=form, pooling=False).panels[COST]
        rows = panel.layers[0].rows
        assert [row.label for row in rows] == ["Multiply-adds", "ASPP", "decoder", "both",
                                               "Parameters", "ASPP", "decoder", "both"]
        for at, bars in enumerate((rows[1:4], rows[5:])):
            for bar in bars:
                assert bar.value == pytest.approx(costs[form][bar.label][at] / most[at])
                assert bar.reference == pytest.approx(costs[other][bar.label][at] / most[at])
        macs = costs[form]["both"][0]
        assert rows[3].text == f"{macs / 1e3:,.1f}\u00a0k" if macs < 1e6 else f"{macs / 1e6:,.1f}\u00a0M"
        assert panel.caption.startswith(f"Tick: {other}. Timed here, all on: separable\u00a0")
    assert costs["separable"]["both"] < costs["plain"]["both"]


# --- controls, words, what is kept and what is refused


def test_controls_and_words(explorer):
    assert [control.name for control in explorer.controls] == ["scene", "form", *NAMES, "details", "rate1", "rate2",
                                                               "rate3"]
    assert [control.label for control in explorer.controls[2:]] == [
        "1 × 1", "3 × 3, rate 1", "3 × 3, rate 2", "3 × 3, rate 4", "Image pooling", "Details in the decoder",
        "Rate 1 becomes", "Rate 2 becomes", "Rate 4 becomes"]
    assert [explorer.controls[-1].maximum, explorer.values["rate3"]] == [9, 4]
    state = explorer.state(branch1=False, rate3=6, form="plain", scene=1)
    found, whole = (state.panels[at].caption for at in (MASK, CLASSES))
    assert state.readout == ("Scene 1, plain, with 1 × 1, rate 2, rate 4 → 6, image pooling, details: "
                             f"{found}. As trained: {whole.removeprefix('Tick: as trained, ')}")
    assert state.disabled == ("rate1",) and not explorer.state().disabled
    none = explorer.state(**values_of((False,) * 5, RATES, False))
    assert "separable, all off: mean" in none.readout and none.disabled == ("rate1", "rate2", "rate3")
    titles = [layer.items[0][2] for layer in state.panels[BRANCHES].layers if isinstance(layer, Text)][::2]
    assert titles == ["1 × 1", "rate 1", "rate 2", "rate 4 → 6", "image pooling", "details"]


def test_a_network_alone_has_no_choice_of_form(world):
    networks, images, masks, _ = world
    for form, network in networks.items():
        alone = DeepLabExplorer(network, images, masks, scene=2)
        assert "form" not in alone.values and alone.values["scene"] == 2
        state = alone.state(details=False)
        assert state.panels[MASK].title == f"As set, {form}" and state.panels[COST].caption.startswith("Timed here, ")
        assert all(row.reference is None for row in state.panels[COST].layers[0].rows)
        logits, _ = by_hand(world, form, 2, ON, RATES, False)
        assert np.array_equal(state.panels[MASK].layers[0].data, logits.argmax(0))


def test_rates_may_be_larger_than_the_map(world):
    _, images, masks, _ = world
    network = DeepLabV3Plus(10, width=2, layers=(1, 1, 1, 1), output_stride=8, rates=(3, 30))
    explorer = DeepLabExplorer(network.eval(), images, masks)
    assert explorer.values["rate2"] == explorer.controls[-1].maximum == 30
    with torch.no_grad():
        assert np.array_equal(explorer.state(scene=1).panels[MASK].layers[0].data, network(images)[1].argmax(0))


def test_image_pooling_says_nothing_beyond_its_mean_where_there_is_one_scene(world):
    networks, images, masks, _ = world
    alone = DeepLabExplorer(networks["plain"], images[:1], masks[:1])
    panels = alone.state(pooling=False).panels
    assert np.array_equal(panels[MASK].layers[0].data, alone.state().panels[MASK].layers[0].data)
    assert alone.heads["plain"].told(alone.heads["plain"].run(0)[1])[4].max() < 1e-4


def test_the_networks_are_copied_and_nothing_of_them_is_changed(world):
    networks, images, masks, _ = world
    network = networks["plain"]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explorer = DeepLabExplorer(network, images, masks)
    state = encode(explorer.state(rate1=5, one=False))
    assert network.training and network.aspp.convs[1][0].dilation == (1, 1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network.score.weight.neg_()
    again = [encode(explorer.state(**each)) for each in ({"rate1": 7}, {"pooling": False}, {"rate1": 5, "one": False})]
    network.load_state_dict(before)
    assert again[-1] == state and len({str(each) for each in again}) == 3


@pytest.mark.parametrize("size", [(48, 48), (40, 64), (32, 96)])
def test_the_small_maps_lie_side_by_side_inside_their_panel(world, size):
    scenes = [toytown.scene(index, size) for index in range(2)]
    explorer = DeepLabExplorer(world[0]["plain"], *([getattr(scene, part) for scene in scenes]
                                                   for part in ("image", "mask")))
    panel = explorer.state().panels[BRANCHES]
    rows, columns = panel.extent()
    boxes = [layer.box for layer in panel.layers if isinstance(layer, HeatMap)]
    assert len({box[1] for box in boxes}) == (2 if size[1] > 1.5 * size[0] else 1) and panel.wide
    assert all((y1 - y0, x1 - x0) == pytest.approx(size) for x0, y0, x1, y1 in boxes)
    assert all(0 <= x0 and x1 <= columns + 1e-6 and 0 <= y0 and y1 <= rows for x0, y0, x1, y1 in boxes)
    assert all(before[2] < after[0] or before[3] < after[1] for before, after in pairwise(boxes))
    assert all(0 < y < rows for layer in panel.layers if isinstance(layer, Text) for _, y, _ in layer.items)


def test_it_is_shown_on_paper(explorer):
    figure = explorer.snapshot(branch3=False, form="plain", details=False)
    figure.canvas.draw()
    assert len(figure.axes) == BRANCHES + 1 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20


def test_networks_that_do_not_fit_are_refused_in_words(world):
    networks, images, masks, _ = world
    network, plain = networks["separable"], networks["plain"]

    def like(**options):
        return DeepLabV3Plus(**(dict(num_classes=10, width=4, layers=(1, 1, 1, 1), output_stride=8, rates=RATES,
                                     separable=False) | options))

    for arguments, options, words in (
        ((DeepLabV3(10, width=2, layers=(1, 1, 1, 1)), images, masks), {}, "expected a DeepLabV3Plus, got DeepLabV3"),
        ((network, images, masks), {"other": nn.Conv2d(3, 10, 1)}, "expected a DeepLabV3Plus, got Conv2d"),
        ((network, images[:, :1], masks), {}, "reads 3 channels, but the images have 1"),
        ((network, images, masks.clamp(max=3), ("a", "b", "c", "d")), {}, "scores 10 classes, but 4 were named"),
        ((network, images, masks[:1]), {}, "one for each image"),
        ((network, images, masks), {"other": network}, "one of network and other .* one False; both have True"),
        ((plain, images, masks), {"other": plain}, "both have False"),
        ((network, images, masks), {"other": like(rates=(1, 2, 3))}, r"its rates is \(1, 2, 3\), not \(1, 2, 4\)"),
        ((network, images, masks), {"other": like(width=2)}, "its width is 2, not 4"),
        ((network, images, masks), {"other": like(num_classes=9)}, "its num_classes is 9, not 10"),
        ((network, images, masks), {"other": like(layers=(1, 1, 1, 2))}, r"its layers is \(1, 1, 1, 2\), not"),
        ((network, images, masks), {"other": like(output_stride=16)}, "its output_stride is 16, not 8"),
        ((network, images, masks), {"other": like(multi_grid=(2,))}, r"its multi_grid is \(2,\), not \(\)"),
    ):
        with pytest.raises(ValueError, match=words):
            DeepLabExplorer(*arguments, **options)
    with pytest.raises(ValueError, match="rate2: 10 lies outside 1 to 9"):
        DeepLabExplorer(network, images, masks).state(rate2=10)


# --- in a browser


def said(page, words):
    page.wait_for_function("words => document.querySelector('.sv-readout').textContent === words", arg=words)
    assert page.locator("canvas").get_attribute("aria-label") == words


@pytest.mark.slow
def test_the_page_answers_with_no_kernel(explorer, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 34)         # as trained, and with one control changed
    explorer.export_html(tmp_path / "deeplab.html")
    page.goto((tmp_path / "deeplab.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, pictures = page.locator("section.sv"), []
    said(page, explorer.state().readout)
    pictures.append(picture(root))
    for name, label in (("one", "1 × 1"), ("branch2", "3 × 3, rate 2"), ("pooling", "Image pooling"),
                        ("details", "Details in the decoder")):
        page.get_by_label(label, exact=True).uncheck()
        said(page, explorer.state(**{name: False}).readout)
        settled(page)
        pictures.append(picture(root))
        page.get_by_role("button", name="Reset").click()
    for number, rate in ((1, 9), (3, 1)):
        page.get_by_role("slider", name=f"Rate {RATES[number - 1]} becomes", exact=True).fill(str(rate))
        said(page, explorer.state(**{f"rate{number}": rate}).readout)
        pictures.append(picture(root))
        page.get_by_role("button", name="Reset").click()
    page.get_by_label("3 × 3 convolutions", exact=True).select_option("plain")
    said(page, explorer.state(form="plain").readout)
    pictures.append(picture(root))
    page.get_by_role("button", name="Reset").click()
    page.get_by_role("slider", name="Scene", exact=True).focus()
    page.keyboard.press("ArrowRight")
    said(page, explorer.state(scene=1).readout)
    pictures.append(picture(root))
    assert len(set(pictures)) == len(pictures) and page.errors == []
    assert not page.get_by_role("slider", name="Rate 2 becomes", exact=True).is_disabled()
    page.get_by_label("3 × 3, rate 2", exact=True).uncheck()
    page.wait_for_function("() => [...document.querySelectorAll('input[type=range]')].some(input => input.disabled)")
    assert page.get_by_role("slider", name="Rate 2 becomes", exact=True).is_disabled()
