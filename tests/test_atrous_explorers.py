"""The explorers of atrous convolution: paths, holes and words against brute force and torch's own layers, a network at
other rates against one that is built with them, and both pages in a browser."""

from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch
from browser import picture, settled
from torch import nn

from segviz import metrics
from segviz.data import toytown
from segviz.models import DeepLabV1
from segviz.widgets import AtrousExplorer, AtrousRatesExplorer
from segviz.widgets.atrous import OWN, STEPS
from segviz.widgets.atrous_setting import OUTPUT_STRIDES, Setting, converted, said
from segviz.widgets.panels import CLEAR, Dots, Outer
from segviz.widgets.scenes import LOST, WON

pytestmark = pytest.mark.usefixtures("one_thread")
SIDE, ROW, OUTPUT = range(3)
STACKS = [[(1, 1)], [(1, 9)], [(1, 2), (1, 2), (1, 2)], [(1, 1), (1, 3), (1, 9)], [(1, 2), (1, 4), (1, 3), (1, 1)],
          *map(converted, OUTPUT_STRIDES)]


@pytest.fixture(scope="module")
def explorer():
    return AtrousExplorer()


def walked(layers, size):
    """For each map, the input first, how often the 3 ** L walks down from each unit come by each of its units, none of
    them in padding."""
    sizes = [size]
    for stride, _ in layers:
        sizes.append((sizes[-1] - 1) // stride + 1)
    found = [torch.zeros(sizes[-1], each, dtype=torch.long) for each in sizes]
    for unit in range(sizes[-1]):
        found[-1][unit, unit] = 1
        for depth in range(1, len(layers) + 1):
            for taps in product((-1, 0, 1), repeat=depth):
                at = unit
                for number, tap in enumerate(taps, 1):
                    stride, rate = layers[-number]
                    at = at * stride + tap * rate
                    if not 0 <= at < sizes[-1 - number]:
                        break
                else:
                    found[-1 - depth][unit, at] += 1
    return found


@pytest.mark.parametrize("layers", STACKS)
@pytest.mark.parametrize("size", [13, 33])
def test_paths_are_those_that_are_walked(layers, size):
    s, found = Setting(size, layers), walked(layers, size)
    assert torch.equal(s.paths.long(), found[0])
    assert all(torch.equal(lit, counts > 0) for lit, counts in zip(s.lit, found, strict=True))
    assert s.on_the_map.tolist() == pytest.approx([counts / 3 ** len(layers) for counts in found[0].sum(1).tolist()])
    for unit, (low, high) in enumerate(s.fields):
        reached = found[0][unit].nonzero().flatten()
        assert low <= reached.min() and reached.max() < high and (low + high - 1) / 2 == unit * s.jumps[-1]
        assert s.hull[unit].nonzero().flatten().tolist() == list(range(max(0, low), min(high, size)))


@pytest.mark.parametrize("layers", STACKS)
def test_in_two_dimensions_they_multiply_as_torchs_gradients_do(layers):
    pixels, maps, uses = torch.zeros(1, 1, 17, 17, dtype=torch.double, requires_grad=True), [], []
    x = pixels
    for stride, rate in layers:
        conv = nn.Conv2d(1, 1, 3, stride, rate, rate, bias=False, dtype=torch.double)
        nn.init.ones_(conv.weight)
        uses.append((conv(torch.ones_like(x)) / 9).mean().item())
        x = conv(x)
        maps.append(x.shape[2])
    s = Setting(17, layers)
    assert s.sizes == [17, *maps] and s.weights_used == pytest.approx(uses)
    for unit in ((0, 0), (maps[-1] // 2, maps[-1] - 1), (maps[-1] // 2,) * 2):
        gradient = torch.autograd.grad(x[0, 0][unit], pixels, retain_graph=True)[0][0, 0]
        assert torch.equal(gradient, torch.outer(s.paths[unit[0]], s.paths[unit[1]]))


def test_a_stride_that_is_traded_for_rates_leaves_every_value_that_was_there():
    weights, pixels = torch.randn(4, 1, 1, 3, 3, dtype=torch.double), torch.randn(1, 1, 45, 38, dtype=torch.double)
    maps = {}
    for output_stride in OUTPUT_STRIDES:
        x = pixels
        for weight, (stride, rate) in zip(weights, converted(output_stride), strict=True):
            x = torch.conv2d(x, weight, stride=stride, padding=rate, dilation=rate).relu()
        maps[output_stride] = x
    for output_stride, x in maps.items():
        every = 8 // output_stride
        torch.testing.assert_close(x[..., ::every, ::every], maps[8])
    assert converted(8) == [(2, 1), (2, 1), (2, 1), (1, 1)] and converted(1) == [(1, 1), (1, 2), (1, 4), (1, 8)]
    assert maps[1].shape == pixels.shape


@pytest.mark.parametrize(("rates", "words"), [
    ((1, 2, 3), "read every pixel of the field, 13 in a row, along 1 to 3 paths"),
    ((1, 2, 4), "read every pixel of the field, 15 in a row"),
    ((1, 3, 9), "read every pixel of the field, 27 in a row, along one path each"),
    ((1, 2, 9), "read 21 of the field's 25 pixels in a row. Holes, counted from its middle to either side: 4, 5."),
    ((2, 3), "read 9 of the field's 11 pixels in a row. Holes, counted from its middle to either side: 4."),
    ((2, 3, 5), "read 19 of the field's 21 pixels in a row. Holes, counted from its middle to either side: 9."),
    ((9, 8, 1), "Holes, counted from its middle to either side: 3, 4, 5, 6, 11 and 4 more."),
    ((2, 2, 2), "read only every second pixel of a row: 7 of the field's 13. Neighbouring units share no pixel: the "
                "map falls apart into 2 × 2 maps"),
    ((2, 4, 8), "only every second pixel of a row: 15 of the field's 29."),
    ((2, 8), "only every second pixel of a row, and not all of those: 9 of the field's 21."),
    ((9,), "Rate 9 reads only every ninth pixel of a row: 3 of the field's 19."),
])
def test_what_is_read_and_what_is_not_is_said_in_words(rates, words):
    assert words in said(Setting(33, [(1, rate) for rate in rates]))


def test_the_words_hold_for_all_rates():
    for rates in product(range(1, 10), repeat=3):
        s = Setting(33, [(1, rate) for rate in rates])
        reach = {sum(each) for each in product(*((-rate, 0, rate) for rate in rates))}
        holes, words = set(range(-sum(rates), sum(rates) + 1)) - reach, said(s)
        assert ("every pixel of the field" in words) == (not holes)
        assert f"{len(reach)} of the field's {2 * sum(rates) + 1}" in words or not holes
        if "Neighbouring units share no pixel" in words:
            assert not any(place + 1 in reach for place in reach)
        if ": 2 × 2 maps" in words:
            assert all(place % 2 == 0 for place in reach)


def test_output_strides_say_that_the_field_stays():
    said_of = [said(Setting(33, converted(stride))) for stride in OUTPUT_STRIDES]
    assert all("read every pixel of the field, 31 in a row, along 1 to 5 paths each" in words for words in said_of)
    assert said_of[0].startswith("Output stride 8: strides 2, 2, 2, 1 and rates 1, 1, 1, 1")
    assert "units lie 8 pixels apart" in said_of[0] and "on every pixel" in said_of[3]


def test_a_rate_as_large_as_the_map_is_a_1x1_convolution():
    assert "Layers 1, 3: the rate is no smaller" in said(Setting(9, [(1, 9), (1, 8), (1, 9)]))
    assert "1 × 1" not in said(Setting(10, [(1, 9)]))
    assert Setting(9, [(1, 9)]).weights_used == pytest.approx([1 / 9])
    assert Setting(65, [(1, 6)]).weights_used == pytest.approx([7.93 / 9], abs=0.01)        # v3's figure 4
    assert said(Setting(5, converted(8))).split(".")[-2].startswith(" Layer 4: the rate")


@pytest.mark.parametrize("values", [{}, dict(rate1=1, rate2=3, rate3=9), dict(layers=1, rate1=5, last=True),
                                    dict(layers=1, rate1=9), dict(rate1=1, rate2=1, rate3=1, last=True),
                                    dict(stack="output stride 8"), dict(stack="output stride 2")])
def test_what_is_drawn_at_a_unit_is_what_it_reads(explorer, values):
    state = explorer.state(**values)
    own = "stack" not in values
    layers = len(state.panels[SIDE].layers[0].levels) - 1
    s = Setting(33, converted(int(values["stack"][-1]))) if not own else Setting(33, [
        *[(1, explorer.values[f"rate{at}"] if f"rate{at}" not in values else values[f"rate{at}"])
          for at in range(1, values.get("layers", 3) + 1)], *[(1, 1)] * values.get("last", False)])
    assert layers == len(s.layers) and len(state.panels) == layers + 5
    side, size = state.panels[SIDE].layers[0], s.sizes[-1]
    assert [level.size for level in side.levels] == s.sizes
    assert [(level.start, level.jump) for level in side.levels] == [(0.5, jump) for jump in s.jumps]
    for unit in ((0, 0), (size // 2, size - 1), (size // 2,) * 2):
        row, column = unit
        assert side.here(*unit).unit == column
        bars, holes = (layer.here(*unit).data for layer in state.panels[ROW].layers[:2])
        high = (bars != CLEAR).sum(0)
        share = (s.paths[column] / s.paths.max()).numpy()
        assert np.array_equal(high > 0, s.lit[0][column])
        assert (np.abs(high - STEPS * share) <= np.where(high == 1, 1, 0.5)).all()
        assert all((bars[STEPS - tall :, at] != CLEAR).all() for at, tall in enumerate(high))
        assert np.array_equal(holes[0] != CLEAR, (s.hull[column] & ~s.lit[0][column]).numpy())
        reds, ways = (layer.here(*unit).data for layer in state.panels[-3].layers[:2])
        paths = torch.outer(s.paths[row], s.paths[column]).numpy()
        assert np.array_equal(ways != CLEAR, paths > 0)
        assert np.allclose(ways[paths > 0] / 253, (paths / s.paths.max().item() ** 2)[paths > 0], atol=0.002)
        assert np.array_equal(reds != CLEAR, torch.outer(s.hull[row], s.hull[column]).numpy())
        for at, panel in zip(reversed(range(1, layers)), state.panels[OUTPUT + 1 :], strict=False):
            assert f"Map {at}" in panel.title and isinstance(panel.layers[0], Outer)
            cells = panel.layers[0].here(*unit).data != CLEAR
            assert np.array_equal(cells, torch.outer(s.lit[at][row], s.lit[at][column]).numpy())
        read, kept = (row.text for row in state.panels[-2].layers[0].here(*unit).rows)
        assert read == f"{round(100 * (paths > 0).sum() / torch.outer(s.hull[row], s.hull[column]).sum().item())} %"
        assert kept == f"{round(100 * paths.sum() / 9**layers)} %"
        for name, at in (("Row", row), ("column", column)):
            words = f"{name} {at}: {int(s.lit[0][at].sum())} of {int(s.hull[at].sum())} pixels, "
            assert f"{words}{100 * s.on_the_map[at]:.0f} % of paths" in state.said({"unit": unit})
        share, marker = (state.panels[OUTPUT].layers[at].here(*unit) for at in (0, -1))
        assert share.data[row, column] / 253 == pytest.approx(paths.sum() / 9**layers, abs=0.002)
        assert marker.boxes == [(column, row, column + 1, row + 1)]
    macs = sum(9 * 64 * 64 * side * side for side in s.sizes[1:]) / 1e6
    assert state.panels[-1].layers[0].rows[-1].text == f"{macs:.1f} M"
    assert f"Parameters: {layers} × 36,864" in state.panels[-1].caption
    assert state.panels[-1].layers[0].maximum == 4 * 9 * 64 * 64 * 33 * 33                # the same in all states
    used = f"{', '.join(f'{100 * share:.0f}' for share in s.weights_used)} read a map"
    assert f"at all units, {used}{', layer by layer' * (layers > 1)}; the others" in state.panels[-2].caption
    holes = bool((s.hull & (s.paths == 0)).any())
    assert [state.panels[at].caption.startswith("Red: holes") for at in (ROW, -3)] == [holes, holes]
    dotted = any(isinstance(layer, Dots) for layer in state.panels[OUTPUT].layers)
    assert dotted == (values.get("stack", "")[-1:] == "2")


def test_the_dots_lie_on_the_units_of_the_coarse_map(explorer):
    dots = next(layer for layer in explorer.state(stack="output stride 2").panels[OUTPUT].layers
                if isinstance(layer, Dots))
    assert sorted(dots.points) == [(x + 0.5, y + 0.5) for x in range(0, 17, 4) for y in range(0, 17, 4)]


def test_what_is_hidden_on_paper_and_what_is_refused(explorer):
    assert explorer.state(layers=2).hidden == ("rate3",) and explorer.values["stack"] == OWN
    assert set(explorer.state(stack="output stride 4").hidden) == {"layers", "rate1", "rate2", "rate3", "last"}
    assert AtrousExplorer(output_stride=4).values["stack"] == "output stride 4"
    given = AtrousExplorer((3,), last=True, size=12).values
    assert given == {"stack": OWN, "layers": 1, "rate1": 3, "rate2": 1, "rate3": 1, "last": True, "unit": (6, 6)}
    for size, stride in ((5, 8), (5, 1), (65, 2)):
        AtrousExplorer(size=size, output_stride=stride).snapshot(rate1=9).canvas.draw()
    figure, written = explorer.snapshot(rate1=1, unit=(2, 30)), BytesIO()
    figure.savefig(written, format="png")
    assert np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20
    for options, words in ((dict(rates=(1, 2, 3, 4)), "one to three numbers from 1 to 9"),
                           (dict(rates=()), "one to three"), (dict(rates=2), "numbers from 1 to 9, but got 2"),
                           (dict(size=4), "from 5 to 65"), (dict(size=66), "from 5 to 65"),
                           (dict(size=33.0), "from 5 to 65, but got 33.0"),
                           (dict(rates=(10,)), "rate1: 10 lies outside 1 to 9"),
                           (dict(output_stride=16), r"one of \(8, 4, 2, 1\) or None, but got 16")):
        with pytest.raises(ValueError, match=words):
            AtrousExplorer(**options)


# --- a trained network at other rates

SCENE, TRUTH, TRAINED, MASK, CHANGE, CLASSES = range(6)
RATES = (1, 2, 4)


def stack(rates):
    """Layers of these rates; the same weights for all."""
    torch.manual_seed(4)
    layers = []
    for channels, rate in zip((3, 8, 8), rates, strict=True):
        layers += [nn.Conv2d(channels, 8, 3, padding=rate, dilation=rate), nn.BatchNorm2d(8), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-3].weight, nonlinearity="relu")
    network = nn.Sequential(*layers, nn.Conv2d(8, 10, 1, bias=False))
    nn.init.normal_(network[-1].weight)
    return network


@pytest.fixture(scope="module")
def world():
    scenes = [toytown.scene(index, (40, 64)) for index in range(3)]
    return [torch.stack([getattr(scene, part) for scene in scenes]) for part in ("image", "mask")]


@pytest.fixture(scope="module")
def at_rates(world):
    return AtrousRatesExplorer(stack(RATES), *world, layers=("0", "3", "6"))


def of_network(network, image):
    with torch.no_grad():
        return network.eval()(image[None])[0].argmax(0)


@pytest.mark.parametrize("rates", [RATES, (1, 1, 1), (3, 2, 16), (16, 16, 16)])
def test_the_mask_is_that_of_a_network_built_with_these_rates(at_rates, world, rates):
    images, masks = world
    for scene in (0, 2):
        mask, trained = (of_network(stack(each), images[scene]) for each in (rates, RATES))
        assert torch.equal(at_rates.run(scene, rates), mask) and len(mask.unique()) > 1
        panels = at_rates.state(scene=scene, **{f"rate{at}": rate for at, rate in enumerate(rates, 1)}).panels
        for panel, shown in ((TRUTH, masks[scene]), (TRAINED, trained), (MASK, mask)):
            assert np.array_equal(panels[panel].layers[0].data, shown)
        assert (mask == trained).all() == (rates == RATES)
        assert np.array_equal(panels[CHANGE].layers[1].data != CLEAR, (mask != trained).numpy())
        for panel, shown in ((TRAINED, trained), (MASK, mask)):
            mean = metrics.mean_iou(metrics.confusion_matrix(shown, masks[scene], 10))
            assert f"mean\u00a0IoU\u00a0{mean:.3f}, boundary" in panels[panel].caption
        assert panels[MASK].title == f"As set: {', '.join(map(str, rates))}"
        bars, each = panels[CLASSES].layers[0].rows, [
            metrics.class_iou(metrics.confusion_matrix(shown, masks[scene], 10)).tolist() for shown in (mask, trained)]
        assert [bar.value for bar in bars] == pytest.approx(each[0], nan_ok=True)
        assert [bar.reference for bar in bars] == [None if np.isnan(tick) else pytest.approx(tick) for tick in each[1]]
        changed, truth = mask != trained, masks[scene]
        lost, won = (int((changed & (right == truth)).sum()) for right in (trained, mask))
        verdict = panels[CHANGE].layers[1].data
        assert ((verdict == LOST).sum(), (verdict == WON).sum()) == (lost, won)
        share = f"{changed.float().mean():.1%} of the pixels. "
        told = f"Orange: {lost} that were right. Blue: {won} that are now. Grey: neither."
        assert panels[CHANGE].caption == share + told


def test_it_works_on_deeplab_and_leaves_the_network_as_it_was(world):
    torch.manual_seed(0)
    network = DeepLabV1(10, width=2, rate=3)
    nn.init.normal_(network.score.weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explorer = AtrousRatesExplorer(network, *world, most=8)
    assert explorer.rates == (2, 2, 2, 3) and network.training and network.fc6[0].dilation == (3, 3)
    assert [control.label for control in explorer.controls][1:] == [
        *(f"Rate of stages.4.{at}" for at in (0, 2, 4)), "Rate of fc6.0"]
    other = DeepLabV1(10, width=2, rate=7)
    other.load_state_dict(before)
    assert torch.equal(explorer.run(1, (2, 2, 2, 7)), of_network(other, world[0][1]))
    with torch.no_grad():
        network.score.weight.neg_()
    assert torch.equal(explorer.run(1, (2, 2, 2, 7)), of_network(other, world[0][1]))
    assert explorer.controls[1].maximum == 8
    assert AtrousRatesExplorer(stack((1, 1, 20)), *world).controls[1].maximum == 20


def test_only_atrous_convolutions_get_a_slider_unless_others_are_named(world, at_rates):
    explorer = AtrousRatesExplorer(stack(RATES), *world, scene=1)
    assert explorer.values == {"scene": 1, "rate1": 2, "rate2": 4}
    assert [control.label for control in explorer.controls[1:]] == ["Rate of convolution 2", "Rate of convolution 3"]
    assert at_rates.values == {"scene": 0, "rate1": 1, "rate2": 2, "rate3": 4}
    figure = explorer.snapshot(rate1=9)
    figure.canvas.draw()
    assert len(figure.axes) == CLASSES + 1


def test_other_kernels_and_other_ways_to_pad_as_much(world):
    images, masks = world
    torch.manual_seed(0)
    five, same = nn.Conv2d(3, 8, 5, padding=4, dilation=2), nn.Conv2d(8, 10, (3, 1), padding="same", dilation=2)
    explorer = AtrousRatesExplorer(nn.Sequential(five, nn.ReLU(), same), images, masks, layers=("0", "2", "0"))
    assert explorer.rates == (2, 2)
    x = torch.conv2d(images[:1], five.weight, five.bias, padding=6, dilation=3).relu()
    x = torch.conv2d(x, same.weight, same.bias, padding=(5, 0), dilation=5)
    assert torch.equal(explorer.run(0, (3, 5)), x[0].argmax(0))


class Answering(nn.Module):
    """A network that answers with a dictionary, as torchvision's do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return {"out": self.network(images)}


def test_networks_that_do_not_fit_are_refused_in_words(world):
    images, masks = world
    strange, uneven, mirrored, even = (nn.Sequential(nn.Conv2d(3, 10, **options)) for options in (
        {"kernel_size": 3, "padding": 1, "dilation": 2}, {"kernel_size": 3, "padding": 2, "dilation": (2, 1)},
        {"kernel_size": 3, "padding": 2, "dilation": 2, "padding_mode": "reflect"},
        {"kernel_size": 2, "padding": 2, "dilation": 2}))
    many, dictionary = stack(RATES), Answering(stack(RATES))
    many.extend(nn.Conv2d(10, 10, 3, padding=2, dilation=2) for _ in range(7))
    for arguments, options, words in (
        ((stack((1, 1, 1)), images, masks), {}, "one to 8 convolutions .* there are 0 of a rate above 1"),
        ((stack(RATES), images, masks), {"layers": ("1",)}, "names of Conv2d .* got '1'; there are 0, 3, 6, 9"),
        ((stack(RATES), images, masks), {"layers": ("9",)}, "9 has a kernel of 1 × 1"),
        ((strange, images, masks), {}, r"0 needs an odd kernel, one rate, .* map, \(2, 2\); .* padding \(1, 1\)"),
        ((uneven, images, masks), {}, r"one rate, .*, \(2, 2\); it has kernel \(3, 3\), rates \(2, 1\), padding"),
        ((mirrored, images, masks), {}, r"as many zeros around .* padding \(2, 2\) of reflect"),
        ((even, images, masks), {}, r"an odd kernel, .* kernel \(2, 2\)"),
        ((many, images, masks), {}, "one to 8 convolutions .* there are 9 of a rate above 1"),
        ((stack(RATES), images[:, :1], masks), {}, r"does not take images \(1, 1, 40, 64\): .* to have 3 channels"),
        ((dictionary, images, masks), {}, "gives dict for one image"),
        ((stack(RATES)[:6], images, masks), {}, r"gives \(1, 8, 40, 64\) for one image, but logits \(1, 10, 40, 64\)"),
        ((stack(RATES), images, masks[:1]), {}, "one for each image"),
    ):
        with pytest.raises(ValueError, match=words):
            AtrousRatesExplorer(*arguments, **options)


# --- in a browser


def said_there(page, words):
    page.wait_for_function("words => document.querySelector('.sv-readout').textContent === words", arg=words)
    assert page.locator("canvas").get_attribute("aria-label") == words


@pytest.mark.slow
def test_the_page_holds_every_setting_and_answers_with_no_kernel(explorer, page, tmp_path, monkeypatch):
    states, whole = {}, explorer._page_states
    monkeypatch.setattr(explorer, "_page_states", lambda: states.update(whole()) or states)
    explorer.export_html(tmp_path / "atrous.html")
    assert len(states) == 2 * (9 + 81 + 729) + 4                  # every one that does not hide what was changed
    page.goto((tmp_path / "atrous.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, pictures = page.locator("section.sv"), []
    unit = explorer.values["unit"]
    names = {"layers": "How many", **{f"rate{at}": f"Rate of layer {at}" for at in (1, 2, 3)}}
    for values in (dict(rate1=1, rate2=3, rate3=9), dict(rate1=9, rate2=8, rate3=7, last=True),
                   dict(rate2=4, layers=2)):
        for name, value in values.items():
            if name == "last":
                page.get_by_label("A last layer of rate 1", exact=True).check()
            else:
                page.get_by_role("slider", name=names[name], exact=True).fill(str(value))
        said_there(page, explorer.state(**values).said({"unit": unit}))
        assert page.locator(".sv-words").inner_text() == ""              # none of them was changed for a nearer one
        settled(page)
        pictures.append(picture(root))
        page.get_by_role("button", name="Reset").click()
    for stride, at in ((8, 2), (1, 16)):                                  # the point keeps its relative place
        page.get_by_label("Layers", exact=True).select_option(f"output stride {stride}")
        said_there(page, explorer.state(stack=f"output stride {stride}").said({"unit": (at, at)}))
        assert not page.get_by_role("slider", name="How many", exact=True).is_visible()
        pictures.append(picture(root))
    page.get_by_role("slider", name="row", exact=False).last.focus()
    page.keyboard.press("ArrowRight")
    said_there(page, explorer.state(stack="output stride 1").said({"unit": (17, 16)}))
    pictures.append(picture(root))
    assert len(set(pictures)) == len(pictures) and page.errors == []


@pytest.mark.slow
def test_the_page_of_other_rates_answers_with_no_kernel(at_rates, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 48)         # the trained rates, and one of them changed
    at_rates.export_html(tmp_path / "rates.html")
    page.goto((tmp_path / "rates.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, pictures = page.locator("section.sv"), []
    said_there(page, at_rates.state().readout)
    pictures.append(picture(root))
    for number, rate in ((1, 4), (3, 16)):
        page.get_by_role("slider", name=f"Rate of convolution {number}", exact=True).fill(str(rate))
        said_there(page, at_rates.state(**{f"rate{number}": rate}).readout)
        pictures.append(picture(root))
        page.get_by_role("button", name="Reset").click()
    page.get_by_role("slider", name="Scene", exact=True).focus()
    page.keyboard.press("ArrowRight")
    said_there(page, at_rates.state(scene=1).readout)
    pictures.append(picture(root))
    assert len(set(pictures)) == len(pictures) and page.errors == []
