"""The checkerboard explorer: its numbers against torch's own layers, and its exported page in a browser."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from browser import picture, settled

from segviz import layers, metrics
from segviz.data import toytown
from segviz.widgets import CheckerboardExplorer
from segviz.widgets.checkerboard import BILINEAR, CONSTANT, LEARNED, ONES, PICTURE, RANDOM, RESIZE, SHOWN, TRANSPOSED
from segviz.widgets.panels import Rects, encode

NAMES = ("kernel", "stride", "layers", "weights", "way", "over")
EVERY = list(product(range(1, 9), range(1, 5), (1, 2, 3), (ONES, BILINEAR, RANDOM, LEARNED), (TRANSPOSED, RESIZE),
                     (CONSTANT, PICTURE)))
TRAINED = [torch.arange(9.0).view(3, 3) - 2, torch.eye(3)]


@pytest.fixture(scope="module")
def explorer():
    picture = toytown.scene(6, 64).image.mean(0)
    return CheckerboardExplorer(picture, {(TRANSPOSED, 3, 2): TRAINED, (RESIZE, 3, 2): [torch.ones(3, 3)]})


def settings(**fixed):
    named = (dict(zip(NAMES, values, strict=True)) for values in EVERY)
    return [values for values in named if all(values[name] == value for name, value in fixed.items())]


def kernels_of(kernel, layers_, weights, way):
    if weights == LEARNED:
        return [(TRAINED * 2)[i] if way == TRANSPOSED else torch.ones(3, 3) for i in range(layers_)]
    if weights == RANDOM:
        return list(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5))[:layers_, :kernel, :kernel])
    return [torch.ones(kernel, kernel) if weights == ONES else layers.bilinear_kernel(kernel)] * layers_


def expected(source, values):
    """torch's own layers on `source`, in the middle, where no border reaches: SHOWN rows and columns."""
    maps, first = source[None, None], 0
    for weight in kernels_of(values["kernel"], values["layers"], values["weights"], values["way"]):
        if values["way"] == TRANSPOSED:
            maps = F.conv_transpose2d(maps, weight[None, None], stride=values["stride"])
            first = first * values["stride"] + len(weight) - 1
        else:
            maps = F.conv2d(F.interpolate(maps, scale_factor=values["stride"]), weight[None, None])
    return maps[0, 0, first:first + SHOWN, first:first + SHOWN]


def steps(values, low, high):
    """What a heat map holds of these numbers."""
    return ((values - low) / (high - low)).clamp(0, 1) * 253 + 0.5


def test_all_its_settings_travel_with_a_page(explorer):
    assert len(EVERY) == np.prod(explorer._sizes()) <= 2000


@pytest.mark.parametrize("weights", [ONES, BILINEAR, RANDOM])
def test_every_output_is_that_of_torchs_layers(explorer, weights):
    for values in settings(weights=weights):
        panels = explorer.state(**values).panels
        side = int(panels[1].title.split("× ")[1])
        picture = F.adaptive_avg_pool2d(explorer.picture[None], side)[0]
        wanted = expected(torch.ones(side, side) if values["over"] == CONSTANT else picture, values)
        shown = panels[3].layers[0]
        assert wanted.shape == (SHOWN, SHOWN)
        assert torch.equal(explorer.output(**values), wanted)
        assert (steps(wanted, shown.low, shown.high) - torch.from_numpy(shown.data).float()).abs().max() < 1.2
        assert f"Checkerboard {metrics.checkerboard(wanted, values['stride']):.4f}" in explorer.state(**values).readout


def test_the_paths_are_counted_as_the_layers_module_counts_them(explorer):
    for values in settings(way=TRANSPOSED, weights=ONES, over=CONSTANT):
        k, s, n = (values[name] for name in ("kernel", "stride", "layers"))
        panels = explorer.state(**values).panels
        side = int(panels[1].title.split("× ")[1])
        counts = layers.overlap(side, k, s, n)
        first = (k - 1) * sum(s**i for i in range(n))
        counts = counts[first:first + SHOWN]
        reach = panels[1].layers[1]                                # the inputs behind each output, in rows and columns
        assert reach.rows.sum(1).tolist() == reach.columns.sum(1).tolist() == counts.tolist()
        heat = panels[2].layers[0]
        assert heat.high == counts.max() ** 2
        assert ("even," in panels[2].caption) and ("uneven" in panels[2].caption) != layers.is_even(k, s)
        assert [words for *_, words, _ in panels[0].layers[2].items] == [str(count.item()) for count in counts]


def test_a_resized_map_is_read_as_often_everywhere(explorer):
    for values in settings(way=RESIZE, over=CONSTANT, weights=RANDOM):
        panels = explorer.state(**values).panels
        assert (panels[1].layers[1].rows.sum(1) == values["kernel"] ** values["layers"]).all()
        assert "Checkerboard 0.0000" in panels[3].caption or values["stride"] == 1


def test_the_inputs_behind_a_cell_are_those_that_change_it(explorer):
    for way, k, s, n in product((TRANSPOSED, RESIZE), (3, 4), (2, 3), (1, 2)):
        values = {"kernel": k, "stride": s, "layers": n, "weights": ONES, "way": way, "over": CONSTANT}
        reach = explorer.state(**values).panels[1].layers[1].rows
        side = reach.shape[1]
        for row, column in ((0, 0), (7, 12), (SHOWN - 1, 3)):
            source = torch.zeros(side, side, requires_grad=True)
            expected(source, values)[row, column].backward()
            assert np.array_equal(np.outer(reach[row], reach[column]), source.grad.numpy())


def test_the_stamps_over_an_output_are_as_many_as_the_values_it_takes(explorer):
    for values in settings(layers=1, weights=ONES, over=CONSTANT):
        if values["way"] == TRANSPOSED:
            panels = explorer.state(**values).panels
            over = [len(rects.boxes) for rects, _ in panels[0].layers[3].layers]
            assert over == panels[1].layers[1].rows.sum(1).tolist()


def test_the_boxes_lie_on_the_strides_frequencies(explorer):
    for s in (2, 3, 4):
        panel = explorer.state(kernel=4, stride=s, weights=RANDOM, way=TRANSPOSED).panels[4]
        boxes = next(layer for layer in panel.layers if isinstance(layer, Rects)).boxes
        energy = panel.layers[0].data
        lit = {(y, x) for y, x in zip(*np.nonzero(energy > 0), strict=True)}
        assert len(boxes) == s**2 - 1 and lit == {(y0 + 1, x0 + 1) for x0, y0, *_ in boxes}
        assert all(0 <= corner <= SHOWN for box in boxes for corner in box)
    assert not explorer.state(stride=1).panels[4].layers[1].boxes


def test_learned_kernels_are_shown_where_there_are_some(explorer):
    values = {"kernel": 3, "stride": 2, "layers": 3, "weights": LEARNED, "way": TRANSPOSED, "over": CONSTANT}
    panels = explorer.state(**values).panels
    side, shown = int(panels[1].title.split("× ")[1]), panels[3].layers[0]
    wanted = steps(expected(torch.ones(side, side), values), shown.low, shown.high)
    assert (wanted - torch.from_numpy(shown.data).float()).abs().max() < 1.2
    for values in settings(weights=LEARNED):
        state = explorer.state(**values)
        there = (values["kernel"], values["stride"]) == (3, 2)
        assert bool(state.panels) == there == (not state.problem)
        if not there:
            assert state.problem_at == "weights" and "kernel 3 with stride 2" in state.problem


def test_holes_are_shown_and_said(explorer):
    for values in settings(over=CONSTANT, weights=ONES):
        state = explorer.state(**values)
        holes = values["way"] == TRANSPOSED and values["kernel"] < values["stride"]
        assert bool(state.problem) == holes == (" 0 to" in state.panels[2].caption) and state.panels
        assert state.problem_at == ("kernel" if holes else "")


def test_a_bilinear_kernel_of_its_own_stride_leaves_nothing_and_ones_of_an_uneven_one_do(explorer):
    def share(**values):
        return metrics.checkerboard(explorer.output(**values), values["stride"])

    assert share(kernel=4, stride=2, weights=BILINEAR, over=CONSTANT) == 0
    assert share(kernel=3, stride=2, weights=BILINEAR, over=CONSTANT) == 0     # uneven overlap, even sums
    assert share(kernel=3, stride=2, weights=ONES, over=CONSTANT) == pytest.approx(1)
    assert share(kernel=4, stride=2, weights=RANDOM, over=CONSTANT) == pytest.approx(1)
    assert share(kernel=4, stride=2, weights=RANDOM, over=PICTURE) > 0.3
    assert share(kernel=4, stride=2, weights=RANDOM, over=PICTURE, way=RESIZE) < 0.05


def test_the_same_settings_give_the_same_bytes_and_a_picture_on_paper(explorer):
    values = settings(weights=RANDOM, layers=2)[17]
    before = encode(explorer.state(**values))
    explorer.state(kernel=7, stride=3)
    assert encode(explorer.state(**values)) == before
    figure = explorer.snapshot(at=(3, 4))
    figure.canvas.draw()
    assert len(figure.axes) == 5 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20


def test_what_does_not_fit_is_refused_in_words():
    with pytest.raises(ValueError, match="one map"):
        CheckerboardExplorer(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match="No such layer was trained"):
        CheckerboardExplorer(torch.rand(8, 8)).output(4, 2, weights=LEARNED)
    with pytest.raises(ValueError, match="have shape \\(3, 3\\)"):
        CheckerboardExplorer(torch.rand(8, 8), {(TRANSPOSED, 3, 2): [torch.rand(4, 4)]})
    assert CheckerboardExplorer(torch.rand(8, 8)).controls[3].options == (ONES, BILINEAR, RANDOM)


@pytest.mark.slow
def test_the_exported_page_answers_with_no_kernel(explorer, page, tmp_path):
    path = tmp_path / "checkerboards.html"
    explorer.export_html(path)
    page.goto(path.as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, words = page.locator("section.sv"), page.locator(".sv-readout")

    pictures = [picture(root)]
    for name, value in (("Kernel", "4"), ("Stride", "4"), ("Layers", "2"), ("Kernel", "8")):
        page.get_by_role("slider", name=name, exact=True).fill(value)
        settled(page)
        pictures.append(picture(root))
    for name, value in (("Weights", RANDOM), ("Way", RESIZE), ("Input", PICTURE)):
        page.get_by_label(name, exact=True).select_option(value)
        settled(page)
        pictures.append(picture(root))
    assert len(set(pictures)) == len(pictures)
    assert "kernel 8, stride 4, layers 2, weights random, over a picture" in words.inner_text()
    page.get_by_role("button", name="Reset").click()
    area = page.locator(".sv-point").bounding_box()
    cell = area["width"] / SHOWN
    for row, column, said in ((2, 4, "Row 2 is reached along 2, and column 4 along 2"),
                              (3, 5, "Row 3 is reached along 1, and column 5 along 1")):
        page.mouse.move(area["x"] + (column + 0.5) * cell, area["y"] + (row + 0.5) * cell)
        page.wait_for_function("said => document.querySelector('.sv-readout').textContent.includes(said)", arg=said)
        pictures.append(picture(root))
    assert len(set(pictures)) == len(pictures) and page.errors == []
    page.get_by_label("Weights", exact=True).select_option(LEARNED)
    page.get_by_role("slider", name="Kernel", exact=True).fill("5")
    page.wait_for_function("() => document.body.textContent.includes('No such layer was trained')")
    assert page.errors == []
