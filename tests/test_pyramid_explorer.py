"""The explorer of pyramid pooling: what it shows against PSPNet itself, and its page in a browser."""

from io import BytesIO
from itertools import product

import numpy as np
import pytest
import torch
from browser import picture
from torch import nn

from segviz import receptive
from segviz.data import toytown
from segviz.models import PSPNet
from segviz.widgets import PyramidExplorer
from segviz.widgets.evidence import BEACONS, pictured, without_beacon
from segviz.widgets.panels import HeatMap, encode
from segviz.widgets.reach import LIES

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE, INDICES, BINS, START = 96, (3, 8), (1, 2, 3, 6), 31
SCENE, CLOSE, MAPS, PIXEL, PYRAMID = 0, 1, 2, 3, slice(4, 8)
ON = (True, True, True, True)
SETTINGS = [ON, (False, True, True, True), (True, False, False, True), (False, False, False, False)]


def trained(bins=BINS, classes=4):
    """Stands in for a trained network: it normalises as one that was trained on these pictures."""
    network = PSPNet(classes, width=2, layers=(1, 1, 1, 1), bins=bins)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    images = torch.stack([toytown.pair(index, SIZE, distance=20).image for index in range(6)])
    with torch.no_grad():
        network(images)
        network.score.weight.mul_(20)
        network.score.bias.sub_(network.eval()(images).mean((0, 2, 3)))
    return network.train()


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return trained(), trained(bins=())


@pytest.fixture(scope="module")
def explorer(networks):
    return PyramidExplorer(networks[0], INDICES, SIZE, beside=networks[1], distance=START)


def named(setting, **others):
    return {f"bin{bin}": on for bin, on in zip(BINS, setting, strict=True)} | others


def of_network(network, settings, shown, at=START):
    """Car less boat (H, W) for each setting, by the network itself, its bins replaced by their means: those over the
    scenes of INDICES, drawn with both beacons, and over all places."""
    network.eval()
    with torch.inference_mode():
        every = [network.levels(pictured(index, SIZE, at, beacon).image[None])
                 for index in INDICES for beacon in ("pump", "buoy")]
        means = [sum(level.mean((2, 3), keepdim=True) for level in levels) / len(every)
                 for levels in zip(*every, strict=True)][1:]
        whole, *bins = network.levels(shown.image[None])
        leads = []
        for setting in settings:
            heard = [bin if on else mean.expand_as(bin) for bin, mean, on in zip(bins, means, setting, strict=True)]
            car, boat = network.combine([whole, *heard], (1, 3, SIZE, SIZE))[0, :2]
            leads.append(car - boat)
    network.train()
    return leads


def told(state, beside=True):
    """What is told of every pixel of the close-up: name -> numbers."""
    names = ("leads", "other", "by", "car", "boat", "as set", "all off", *["beside"] * beside, *BINS, "far", "reach",
             "sprite")
    numbers = state.pointed["pixel"].told.numbers
    assert len(numbers) == len(names)
    return dict(zip(names, numbers.astype(int), strict=True))


def close_up(shown):
    left, top, right, bottom = shown.sprite
    begin = min(max((top + bottom - (right - left)) // 2, 0), len(shown.mask) - (right - left))
    return slice(begin, begin + right - left), slice(left, right)


# --- the pictures


@pytest.mark.parametrize(("index", "distance"), [(3, 31), (8, 1), (11, 3), (20, 1)])     # two at the picture's border
def test_a_hidden_beacon_leaves_one_picture_for_car_and_boat(index, distance):
    car, boat = (toytown.pair(index, SIZE, distance=distance, label=label) for label in ("car", "boat"))
    image = without_beacon(car, boat)
    assert torch.equal(image, without_beacon(boat, car)) and not torch.equal(car.image, boat.image)
    hidden = pictured(index, SIZE, distance, "hidden")
    assert torch.equal(hidden.image, image) and torch.equal(hidden.image[:, hidden.mask], car.image[:, hidden.mask])
    x0, y0, x1, y1 = hidden.beacon
    inside = image[:, y0:y1, x0:x1]
    red, meadow = inside[0] - inside[1], car.image[:, car.mask == 3]
    assert red.abs().max() < 0.1 < (boat.image[0] - boat.image[1])[y0:y1, x0:x1].max()          # as meadow is
    assert (meadow[0] - meadow[1]).abs().max() < 0.1
    changed = (image != car.image).any(0)
    rows, columns = (line.nonzero() for line in (changed.any(1), changed.any(0)))
    wide = x1 - x0
    assert y0 - 1 <= rows.min() and rows.max() < y1 + wide and x0 - wide < columns.min() and columns.max() < x1 + wide


@pytest.mark.parametrize("beacon", BEACONS)
def test_the_pictures_are_those_of_the_pair(beacon):
    shown = pictured(8, SIZE, 17, beacon, seed=2)
    pair = toytown.pair(8, SIZE, distance=17, seed=2, label={"buoy": "boat"}.get(beacon, "car"))
    assert beacon == "hidden" or torch.equal(shown.image, pair.image)
    assert torch.equal(shown.mask, (pair.mask == 8) | (pair.mask == 9))
    x0, y0, x1, y1 = shown.beacon
    far = torch.tensor([[max(x0 - column, column - x1 + 1, y0 - row, row - y1 + 1, 0) for column in range(SIZE)]
                        for row in range(SIZE)])
    assert torch.equal(shown.distance(), far) and far[shown.mask].min() == 17


# --- what is computed


@pytest.mark.parametrize("beacon", BEACONS)
@pytest.mark.parametrize("scene", [0, 1])
def test_the_leads_are_those_of_the_network_with_these_bins(explorer, networks, scene, beacon):
    shown, *leads = pictured(INDICES[scene], SIZE, 16, beacon), *of_network(
        networks[0], SETTINGS, pictured(INDICES[scene], SIZE, 16, beacon))
    _, sums, _ = explorer.parts(scene, 16, beacon)
    scores = explorer.scores(sums, SETTINGS)
    for found, lead in zip(scores[:, 0] - scores[:, 1], leads, strict=True):
        assert torch.allclose(found, lead, atol=1e-3) and lead.std() > 0.1
    assert len({lead.numpy().tobytes() for lead in leads}) == len(SETTINGS)
    with torch.inference_mode():
        plain = networks[0].eval()(shown.image[None])[0]
    networks[0].train()
    assert torch.allclose(scores[0], plain[:2], atol=1e-3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_pixel_of_the_close_up_is_told_as_the_network_has_it(explorer, networks, setting):
    shown, state = pictured(INDICES[1], SIZE, 31, "buoy"), explorer.state(**named(setting, scene=1, distance=31))
    here = close_up(shown)
    others = [tuple(on != (at == bin) for at, on in enumerate(setting)) for bin in range(4)]
    lead, *changed, none = (each[here].numpy() for each in
                            of_network(networks[0], [setting, *others, (False,) * 4], shown))
    numbers = told(state)

    def close(name, expected):
        assert np.abs(numbers[name] - 10 * expected).max() <= 0.5 + 0.02, name

    close("as set", lead), close("all off", none), close("by", np.abs(lead))
    assert np.abs(numbers["car"] - numbers["boat"] - 10 * lead).max() <= 1.02
    for bin, on, other in zip(BINS, setting, changed, strict=True):
        close(bin, lead - other if on else other - lead)
    with torch.inference_mode():
        beside = networks[1].eval()(shown.image[None])[0]
    networks[1].train()
    close("beside", (beside[0] - beside[1])[here].numpy())
    sure = np.abs(lead) > 1e-3
    assert np.array_equal(numbers["leads"][sure], (lead < 0)[sure]) and (numbers["leads"] != numbers["other"]).all()
    assert np.array_equal(numbers["far"], shown.distance()[here])
    assert np.array_equal(numbers["sprite"], shown.mask[here])


def test_the_maps_and_their_words_are_of_the_sprite(explorer, networks):
    shown = pictured(INDICES[0], SIZE, 31, "pump")
    lead, without = of_network(networks[0], [ON, (False, *ON[1:])], shown)
    state = explorer.state(beacon="pump")

    def called(each):
        car = (each[shown.mask] > 0).float().mean().item()
        return f"{max(car, 1 - car):.0%}\u00a0{'car' if car > 0.5 else 'boat'}"

    words, _, heat, *_ = state.panels[MAPS].layers
    left, top, right, bottom = shown.sprite
    part = torch.where(shown.mask, lead, torch.nan)[top:bottom, left:right]
    expected = HeatMap(part, -explorer.most, explorer.most).data
    assert np.abs(heat.data.astype(int) - expected).max() <= 1 and words.items[0][2] == f"as set: {called(lead)}"
    assert called(lead) in state.readout and "Truth: car." in state.readout
    assert state.panels[MAPS].caption == "Truth: car."
    assert state.panels[PYRAMID][0].caption == f"Without bin 1: {called(without)}."
    hidden = explorer.state(beacon="hidden")
    assert "Truth" not in hidden.readout + hidden.panels[MAPS].caption and "Nothing in the picture" in hidden.readout


@pytest.mark.parametrize(("bin", "region"), [(1, (0, 0)), (2, (1, 0)), (3, (0, 1)), (6, (2, 5)), (6, (0, 0))])
def test_dark_regions_do_not_reach_the_pixel_and_the_others_do(explorer, networks, bin, region):
    network, shown = networks[0].eval(), pictured(3, SIZE, 31, "pump")

    def disturb(module, given, out):
        out = out.clone()
        out[0, :, region[0], region[1]] += 50 * torch.randn(out.shape[1], generator=torch.Generator().manual_seed(0))
        return out

    with torch.inference_mode():
        before = network(shown.image[None])[0]
        handle = network.pyramid.branches[BINS.index(bin)].register_forward_hook(disturb)
        after = network(shown.image[None])[0]
        handle.remove()
    network.train()
    rows, columns = explorer.reach[bin]
    expected = np.outer(rows[:, region[0]], columns[:, region[1]])
    assert np.array_equal((before != after).any(0).numpy(), expected) and (bin < 6 or expected.mean() < 0.5)


def test_the_field_is_that_of_the_network_without_bins(explorer, networks):
    for row, column in ((48, 40), (5, 90)):
        field = receptive.effective(networks[1], torch.rand(2, 3, SIZE, SIZE), (row, column)) > 0
        (top, bottom), (left, right) = explorer.field.spans[0][row], explorer.field.spans[1][column]
        inside = torch.zeros_like(field)
        inside[max(top, 0) : bottom, max(left, 0) : right] = True
        assert not (field & ~inside).any()
        rows, columns = (max(top, 0), min(bottom, SIZE) - 1), (max(left, 0), min(right, SIZE) - 1)
        assert field[rows, :].any(1).all() and field[:, columns].any(0).all()                       # not too large


@pytest.mark.parametrize("distance", [1, 31, 61])
def test_where_the_beacon_lies_is_told(explorer, monkeypatch, distance):
    near = [[(at - 20, at + 21) for at in range(SIZE)]] * 2
    monkeypatch.setattr(explorer.field, "spans", near)                       # a smaller field, so that all three occur
    shown = pictured(INDICES[0], SIZE, distance, "buoy")
    x0, y0, x1, y1 = shown.beacon
    rows, columns = close_up(shown)
    pole = {(row, column) for row in range(y0, y1) for column in range(x0, x1)}
    numbers = told(explorer.state(distance=distance))
    for i, j in product((0, 11, 23), (0, 7, 15, 23)):
        row, column = rows.start + i, columns.start + j
        count = sum(abs(y - row) <= 20 and abs(x - column) <= 20 for y, x in pole)
        expected = "beyond" if not count else "within" if count == len(pole) else "partly within"
        assert LIES[numbers["reach"][i, j]] == expected
    assert distance > 1 or {*np.unique(numbers["reach"])} == {0, 1, 2}
    veil, box = explorer.state(distance=distance).panels[SCENE].layers[1:3]
    top, left = rows.start, columns.start
    inside = np.zeros((SIZE, SIZE), bool)
    inside[max(top + 3 - 20, 0) : top + 3 + 21, max(left + 5 - 20, 0) : left + 5 + 21] = True
    assert np.array_equal(np.outer(veil.rows[3], veil.columns[5]), inside)
    x0, y0, x1, y1 = map(int, box.here(3, 5).boxes[0])
    assert inside[y0:y1, x0:x1].all() and inside.sum() == (x1 - x0) * (y1 - y0)


def test_the_close_up_goes_along_with_the_sprite(explorer):
    states = [explorer.state(scene=1, distance=distance) for distance in (1, 31, 61)]
    lefts = [pictured(INDICES[1], SIZE, distance, "buoy").sprite[0] for distance in (1, 31, 61)]
    assert len(set(lefts)) > 1 and len({told(state)["sprite"].tobytes() for state in states}) == 1
    for state, left in zip(states, lefts, strict=True):
        whole, close, marker = (state.panels[SCENE].layers[0].data, state.panels[CLOSE].layers[0].data,
                                state.panels[SCENE].layers[-1])
        x0, y0, x1, y1 = map(int, marker.here(4, 9).boxes[0])
        assert x0 + 1 == left + 9 and (whole[y0 + 1, x0 + 1] == close[4, 9]).all() and (x1 - x0, y1 - y0) == (3, 3)


# --- controls, words, and what is sent


def test_the_words_of_a_pixel_are_what_its_bars_show(explorer):
    state = explorer.state(bin2=False)
    rows = [row for row in state.panels[PIXEL].layers[0].here(12, 5).rows if not row.bare]
    assert [row.label for row in rows] == ["car", "boat", "as set", "all bins off", "no pyramid", "bin 1",
                                           "bin 2 (off)", "bin 3", "bin 6"]
    words = state.said({"pixel": (12, 5)})
    assert words.startswith("Scene 0, buoy at 31 px, bins on: 1, 3, 6. Of the sprite, ")
    assert f"(car {rows[0].text}, boat {rows[1].text})" in words
    assert "Added to car − boat: " + ", ".join(f"bin {bin} {row.text}" for bin, row in
                                                zip(BINS, rows[5:], strict=True)) + "." in words
    assert "The beacon is hidden." in explorer.state(beacon="hidden").said({"pixel": (0, 0)})
    assert [panel.title for panel in state.panels[PYRAMID]] == ["Bin 1, 1 × 1", "Bin 2, off", "Bin 3, 3 × 3",
                                                                "Bin 6, 6 × 6"]
    assert state.panels[PYRAMID][1].caption.startswith("With bin 2: ")
    none = explorer.state(**named((False,) * 4))
    assert "bins on: none." in none.readout


def test_wide_pictures_have_rows_of_their_own(networks):
    explorer = PyramidExplorer(networks[0], INDICES, (64, 192), scene=1, distance=100)
    state, shown = explorer.state(bin3=False), pictured(INDICES[1], (64, 192), 97, "buoy")           # in steps of 6
    assert [panel.wide for panel in state.panels] == [True, False, False, False, True]
    whole, bins = state.panels[SCENE], state.panels[-1]
    assert whole.extent() == (64, 192) and explorer.controls[2].maximum == 192 - 16 - 5 + 1
    veil = whole.layers[1]
    assert veil.rows.shape == (16, 64) and veil.columns.shape == (16, 192) and veil.rows.all()
    assert bins.extent() == (64 + 64 + 3 * 12, 2 * 192 + 12) and bins.caption.count("ith") == 4
    drawn = [layers for layers in zip(bins.layers[::5], *(bins.layers[at::5] for at in (1, 2, 3, 4)), strict=True)]
    for bin, (x, y), (name, image, dark, grid, marker) in zip(BINS, [(0, 12), (204, 12), (0, 100), (204, 100)], drawn,
                                                             strict=True):
        assert name.items[0][2] == f"Bin {bin}, {'off' if bin == 3 else f'{bin} × {bin}'}"
        assert image.box == dark.box == grid.box == (x, y, x + 192, y + 64) and (image.data == shown.pixels).all()
        assert dark.rows.shape == dark.columns.shape == (16, bin)
        left, top = map(int, marker.here(5, 9).boxes[0][:2])
        close = state.panels[CLOSE].layers[0].data[5, 9]
        assert (image.data[top + 1 - y, left + 1 - x] == close).all()
    numbers = told(explorer.state(beacon="pump"), beside=False)
    columns = close_up(shown)[1]
    assert np.array_equal(numbers["far"], shown.distance()[close_up(shown)]) and numbers["far"].min() == 97
    assert columns.stop - columns.start == 16


def test_other_bins_and_none_and_other_classes_will_do(networks):
    torch.manual_seed(1)
    classes = ("ground", "boat", "car")
    single = PyramidExplorer(trained((1,), 3), (5,), 64, classes, scene=0, beacon="hidden", pixel=(2, 3))
    assert [control.name for control in single.controls] == ["scene", "beacon", "distance", "pixel", "bin1"]
    assert len(single.state().panels) == 5 and single.values["pixel"] == (2, 3)
    assert "bins" not in single.state(bin1=False).said({"pixel": (0, 0)}).replace("bins on", "")
    bare = PyramidExplorer(networks[1], (5,), 64, beside=networks[0])
    assert len(bare.state().panels) == 4 and "bins 1, 2, 3, 6" in [
        row.label for row in bare.state().panels[PIXEL].layers[0].rows]
    state = bare.state(distance=9)
    shown = pictured(5, 64, 9, "buoy")
    with torch.inference_mode():
        car, boat = networks[1].eval()(shown.image[None])[0, :2]
    networks[1].train()
    heard = state.pointed["pixel"].told.numbers[5]
    rows, columns = slice(*[(shown.sprite[1] + shown.sprite[3] - 16) // 2] * 2), slice(shown.sprite[0], shown.sprite[2])
    begin = min(max(rows.start, 0), 64 - 16)
    assert np.abs(heard - 10 * (car - boat)[begin : begin + 16, columns].numpy()).max() <= 0.52


def test_the_networks_are_left_as_they_were_and_what_becomes_of_them_is_not_seen():
    torch.manual_seed(2)
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    explorer = PyramidExplorer(network, INDICES, SIZE, scene=1, distance=START)
    state = encode(explorer.state(bin1=False))
    assert network.training and explorer.values["scene"] == 1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        network.score.weight.neg_()
    explorer.parts.cache_clear()
    assert encode(explorer.state(bin1=False)) == state


def test_the_same_settings_give_the_same_bytes_and_a_picture_on_paper(explorer):
    settings = list(product((0, 1), BEACONS, (1, 40), (True, False)))
    first = [encode(explorer.state(scene=scene, beacon=beacon, distance=distance, bin3=on))
             for scene, beacon, distance, on in settings]
    explorer.parts.cache_clear()
    again = [encode(explorer.state(scene=scene, beacon=beacon, distance=distance, bin3=on))
             for scene, beacon, distance, on in settings[::-1]]
    assert first == again[::-1] and len({str(state) for state in first}) == len(settings)
    figure, written = explorer.snapshot(bin1=False, pixel=(3, 4)), BytesIO()
    figure.savefig(written, format="png")
    assert len(figure.axes) == 8 and np.asarray(figure.canvas.buffer_rgba())[..., :3].std() > 20
    captions = " ".join(axes.get_xlabel() for axes in figure.axes)
    assert f"car − boat: {-explorer.most:g} to {explorer.most:g}" in captions            # dark at both of its ends
    data, _ = explorer._repr_mimebundle_()
    assert "bins on: 1, 2, 3, 6" in data["text/plain"]


def test_what_does_not_fit_is_refused_in_words(networks):
    network = networks[0]
    for arguments, options, words in (
        ((nn.Conv2d(3, 4, 1),), {}, "expected a PSPNet, got Conv2d"),
        ((network,), {"beside": nn.Conv2d(3, 4, 1)}, "expected a PSPNet, got Conv2d"),
        ((network, ()), {}, "one scene or more"),
        ((network, INDICES, SIZE, ("car", "boat")), {}, "scores 4 classes, but 2 were named"),
        ((network, INDICES, SIZE, ("car", "ship", "pump", "buoy")), {}, "has no boat"),
        ((network, INDICES, 20), {}, "size"),
        ((network, INDICES, 64), {"distance": 60}, "distance: 60 lies outside 1 to 44"),
        ((network, INDICES, 64), {"beacon": "lamp"}, "expected one of pump, buoy, hidden; got 'lamp'"),
        ((network, INDICES, 64), {"scene": 2}, "lies outside"),
        ((network, INDICES, 64), {"pixel": (16, 0)}, "lies outside 16 rows"),
    ):
        with pytest.raises(ValueError, match=words):
            PyramidExplorer(*arguments, **options)


# --- in a browser


@pytest.mark.slow
def test_the_exported_page_answers_with_no_kernel(explorer, page, tmp_path, monkeypatch):
    monkeypatch.setattr("segviz.widgets.engine.PAGE_STATES", 60)
    explorer.export_html(tmp_path / "pyramid.html")
    page.goto((tmp_path / "pyramid.html").as_uri())
    page.wait_for_selector("section.sv[data-drawn]")
    root, area, start = page.locator("section.sv"), page.locator(".sv-point"), explorer.values["pixel"]

    def said(values, pixel=start):
        expected = explorer.state(**values).said({"pixel": pixel})
        page.wait_for_function("said => document.querySelector('.sv-readout').textContent === said", arg=expected)
        assert page.locator("canvas").get_attribute("aria-label") == expected
        return picture(root)

    pictures = [said({})]
    for bin in BINS:
        page.get_by_label(f"Bin {bin}", exact=True).uncheck()
        pictures.append(said({f"bin{bin}": False}))
        page.get_by_label(f"Bin {bin}", exact=True).check()
    for beacon in ("pump", "hidden"):
        page.get_by_label("Beacon", exact=True).select_option(beacon)
        pictures.append(said({"beacon": beacon}))
    page.get_by_label("Beacon", exact=True).select_option("buoy")
    far = page.get_by_role("slider", name="Sprite to beacon", exact=True)
    far.focus()
    page.keyboard.press("End")
    pictures.append(said({"distance": float(far.input_value())}))
    page.get_by_role("button", name="Reset").click()
    assert said({}) == pictures[0]
    area.focus()
    page.keyboard.press("ArrowUp")
    pictures.append(said({}, (start[0] - 1, start[1])))
    box = area.bounding_box()
    page.mouse.move(box["x"] + 2.5 / 24 * box["width"], box["y"] + 12.5 / 24 * box["height"])
    pictures.append(said({}, (12, 2)))
    assert len(set(pictures)) == len(pictures) and page.errors == []
