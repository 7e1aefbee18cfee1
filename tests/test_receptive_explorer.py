"""The explorer of receptive fields, by what it computes: against the fields of `segviz.receptive`, gradients, and
numbers that are known."""

import gc
import json
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn

from segviz import receptive
from segviz.data import toytown
from segviz.widgets import Bars, Chain, HeatMap, Outer, ReceptiveExplorer, known, panels, stacks
from segviz.widgets.receptive import FAINT, Measured
from segviz.widgets.stacks import ATROUS, CONV, KINDS, NONE, POOL, UPSAMPLE, Spec

SIZE = 24


@pytest.fixture(scope="module")
def explorer():
    return ReceptiveExplorer(toytown.scene(0, 64).image, prepared=False)


def random_specs(chance: random.Random, kinds=KINDS) -> tuple[Spec, ...]:
    return tuple(Spec(chance.choice(kinds), chance.randint(1, 5), chance.randint(1, 3), chance.randint(0, 4),
                      chance.randint(1, 4)) for _ in range(5))


def possible_stacks(count: int, kinds=KINDS):
    chance, found = random.Random(0), []
    while len(found) < count:
        specs = random_specs(chance, kinds)
        if stacks.trouble(specs, SIZE) is None:
            found.append(specs)
    return found


def module(specs) -> nn.Module:
    return nn.Sequential(*(spec.module() for spec in specs if spec.kind != NONE))


def stack(**layers) -> dict:
    """Values for every control of the layers: those given, and no layer where none is."""
    return {f"kind{number}": NONE for number in range(1, 6)} | layers


def layers_of(state, number):
    return state.panels[number].layers


# --- what is shown is true


def test_sizes_jumps_and_fields_of_a_stack_are_those_of_receptive():
    for specs in possible_stacks(60):
        shown, told = stacks.stacked(specs, SIZE), receptive.theoretical(module(specs), SIZE)
        assert len(shown.axes) == len(told) + 1
        for (axis, _), shape, layer in zip(shown.axes[1:], shown.shapes[1:], told, strict=True):
            assert shape == layer.shape
            assert (axis.size, axis.jump, axis.start) == pytest.approx((layer.size, layer.jump, layer.start)), specs
            for unit in range(shape[0]):
                read = layer.rows.field(unit)
                assert axis.field(unit) == read, specs


def test_the_pixels_of_a_unit_are_those_that_can_reach_it():
    chance = random.Random(1)
    for specs in possible_stacks(40):
        shown = stacks.stacked(specs, SIZE)
        unit = tuple(chance.randrange(n) for n in shown.shape)
        if module(specs):
            mask = torch.outer(shown.read[0][unit[0]], shown.read[1][unit[1]]) > 0
            assert torch.equal(mask, receptive.reads(module(specs), SIZE, unit)), specs


def test_paths_are_gradients_where_every_weight_is_one():
    for specs in possible_stacks(30, (NONE, CONV, ATROUS, POOL)):
        shown, pixels = stacks.stacked(specs, SIZE), torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64)
        pixels.requires_grad_()
        maps = pixels
        for spec in specs:
            if spec.kind != NONE:
                rate = spec.rate if spec.kind == ATROUS else 1
                ones = torch.ones(1, 1, spec.kernel, spec.kernel, dtype=torch.float64)
                maps = nn.functional.conv2d(maps, ones, None, spec.stride, spec.padding, rate)
        unit = maps.shape[2] // 2, maps.shape[3] // 3
        gradient = torch.autograd.grad(maps[0, 0][unit], pixels)[0][0, 0]
        assert torch.equal(torch.outer(shown.paths[0][unit[0]], shown.paths[1][unit[1]]), gradient), specs


def test_what_a_level_shows_lit_is_what_the_levels_above_read():
    for specs in possible_stacks(20):
        levels = stacks.stacked(specs, SIZE).levels(1)
        for upper, lower in zip(levels[1:], levels, strict=False):
            for above, below in zip(upper.lit, lower.lit, strict=True):
                reads = {unit for a, b in above for u in range(a, b) for unit in upper.reads[u]}
                assert reads == {u for a, b in below for u in range(a, b)}, specs


def test_three_atrous_layers_leave_holes_in_the_first_picture(explorer):
    state = explorer.state(unit=(16, 16))
    chain, field = layers_of(state, 0)[0], layers_of(state, 1)
    assert isinstance(chain, Chain) and chain.fields[16] == (10, 23)
    assert chain.levels[0].lit[16] == [[n, n + 1] for n in range(10, 23, 2)]
    assert [level.jump for level in chain.levels] == [1] * 4
    read = (field[1].here(16, 16).data == panels.CLEAR)                    # no veil
    assert read.sum() == 49 and read[10, 12] and not read[11, 12]
    inside = (field[2].here(16, 16).data == panels.CLEAR)
    assert inside.sum() == 169 and inside[10:23, 10:23].all()
    assert field[3].here(16, 16).boxes == [(10, 10, 23, 23)]
    assert "up to 13 × 13 pixels, of which up to 7 × 7 are read" in state.readout
    words = state.pointed["unit"].here(16, 2)
    assert words == ("The unit in row 16 reads 7 of the 13 rows from 10 to 22, "
                     "in column 2 it reads 5 of the 13 columns from −4 to 8 (4 lie outside the picture).")


def test_plain_layers_grow_slowly_and_strides_multiply(explorer):
    plain = explorer.state(**stack(kind1=CONV, padding1=1, kind2=CONV, padding2=1, kind3=CONV, padding3=1))
    assert [row.value for row in layers_of(plain, 3)[0].rows] == [7, 5, 3]              # the last layer first
    pooled = explorer.state(**stack(kind1=POOL, kernel1=2, stride1=2, padding1=0, kind2=POOL, kernel2=2, stride2=2,
                                    padding2=0, kind3=CONV, padding3=1))
    rows = layers_of(pooled, 3)[0].rows
    assert [(row.value, row.text) for row in rows] == [(12, "12 px, jump 4"), (4, "4 px, jump 4"), (2, "2 px, jump 2")]
    assert layers_of(pooled, 1)[1].rows.shape == (8, 32) and len(layers_of(pooled, 1)) == 3     # no holes


def test_an_upsampled_map_has_half_the_jump(explorer):
    state = explorer.state(**stack(kind1=POOL, kernel1=2, stride1=2, padding1=0, kind2=UPSAMPLE, stride2=2))
    assert [level.jump for level in layers_of(state, 0)[0].levels] == [1, 2, 1]
    assert layers_of(state, 2)[0].shape == (32, 32)


def test_a_stack_without_layers_shows_each_pixel_itself(explorer):
    state = explorer.state(**stack())
    assert len(layers_of(state, 0)[0].levels) == 1 and isinstance(layers_of(state, 3)[0], Bars)
    assert "up to 1 × 1 pixels" in state.readout


def test_a_unit_that_reads_only_padding_says_so(explorer):
    state = explorer.state(**stack(kind1=CONV, kernel1=1, padding1=3))
    assert state.pointed["unit"].here(0, 3) == (
        "The unit in row 0 reads no row of the picture, only padding, "
        "in column 3 it reads column 0 alone.")
    assert layers_of(state, 2)[0].data.shape == (38, 38)


def test_paths_are_shown_as_shares_of_the_most(explorer):
    paths = layers_of(explorer.state(shown="number of paths"), 1)[1]
    assert isinstance(paths, Outer) and paths.rows.max(1).tolist() == [1] * 32
    drawn = paths.here(16, 16).data
    assert drawn[16, 16] == panels.CLEAR - 1 and drawn[11, 16] == panels.CLEAR
    assert drawn[10, 16] == round(1 / 7 * (panels.CLEAR - 1))              # 1, 3, 6, 7, 6, 3, 1 ways along one axis


# --- settings that cannot be


@pytest.mark.parametrize(("layers", "control", "words"), [
    (dict(kind1=CONV, kernel1=7, stride1=4, padding1=0, kind2=CONV, kernel2=7, stride2=4, padding2=0, kind3=CONV,
          kernel3=3, padding3=0), "kernel3", "Layer 3: a kernel of 3 does not fit: the map that it reads is 1 units"),
    (dict(kind1=ATROUS, kernel1=7, rate1=8, padding1=2), "rate1",
     "a kernel of 7, at rate 8 spread over 49 units, does not fit: the map that it reads is 32 units wide, 36 with"),
    (dict(kind2=POOL, kernel2=3, padding2=2), "padding2", "A kernel of 3 allows 1, not 2"),
    (dict(kind1=UPSAMPLE, stride1=4, kind2=UPSAMPLE, stride2=2), "stride2", "would be 256 units wide. Here 128"),
])
def test_a_layer_that_cannot_be_is_explained_at_its_control(explorer, layers, control, words):
    state = explorer.state(**stack(**layers))
    assert words in state.problem and state.problem_at == control and state.panels == []
    assert control not in state.hidden and len(state.tabs) == 5


def test_what_cannot_be_shown_is_explained(explorer):
    branches = explorer.state(network="ResNet-50", shown="number of paths")
    assert "has branches" in branches.problem and branches.problem_at == "shown" and branches.panels == []


def test_thousands_of_settings_never_raise(explorer):
    chance, sizes, problems, most = random.Random(2), explorer._sizes(), 0, 0
    first = [control.name for control in explorer.controls].index("kind1")
    for number in range(2500):
        places = [chance.randrange(size) for size in sizes]
        if number % 10:
            places[0] = 0                                                  # your stack, which has the most settings
        state = explorer.state(**explorer._values(places, explorer._given))
        problems += bool(state.problem)
        assert state.readout and (state.panels or state.problem_at in {c.name for c in explorer.controls})
        if number % 25 == 0:
            head, buffers = panels.encode(state)
            most = max(most, len(json.dumps(head, allow_nan=False)) + sum(map(len, buffers)))
    assert first == 4 and 500 < problems < 2400 and most < 700_000


def test_controls_without_effect_are_hidden(explorer):
    state = explorer.state(**stack(kind1=CONV, kind2=ATROUS, kind3=POOL, kind4=UPSAMPLE))
    shown = {name for name in explorer.values if name[-1].isdigit()} - set(state.hidden)
    assert shown == {"kind1", "kernel1", "stride1", "padding1", "kind2", "kernel2", "stride2", "padding2", "rate2",
                     "kind3", "kernel3", "stride3", "padding3", "kind4", "stride4", "kind5"}
    assert "depth" in state.hidden and state.tabs["4"] == "4: up ×2" and state.tabs["5"] == "5: –"
    network = explorer.state(network="VGG16")
    assert not {"kind1", "kernel5"} - set(network.hidden) and "depth" not in network.hidden


# --- networks


@pytest.mark.parametrize(("name", "shape", "size", "deepest"), [
    ("VGG16", (7, 7), 404, 19), ("ResNet-50", (7, 7), 427, 18), ("U-Net", (36, 36), 204, 26),
    ("DeepLab LargeFOV", (28, 28), 435, 20)])
def test_known_networks(explorer, name, shape, size, deepest):
    state = explorer.state(network=name)
    chain = layers_of(state, 0)[0]
    assert state.bounds["depth"] == (deepest,) and len(chain.levels) == deepest + 1
    assert layers_of(state, 2)[0].shape == shape and layers_of(state, 3)[0].rows[0].value == size
    assert f"{size} × {size}" in state.readout
    shallow = explorer.state(network=name, depth=1)
    assert len(layers_of(shallow, 0)[0].levels) == 2 and "layer 1 of" in shallow.readout


def test_the_rate_of_twelve_leaves_holes_in_the_maps_but_not_in_the_picture(explorer):
    levels = layers_of(explorer.state(network="DeepLab LargeFOV"), 0)[0].levels
    assert levels[-2].lit[14] == [[2, 3], [14, 15], [26, 27]] and levels[0].lit[14] == [[0, 224]]


def test_a_network_with_branches_is_shown_by_its_hull(explorer):
    chain = layers_of(explorer.state(network="ResNet-50", depth=3), 0)[0]
    exact = receptive.reads(known.network("ResNet-50")[:4], 224, (20, 20)).any(0).nonzero()
    assert chain.levels[-2].size == 56 and all(len(runs) == 1 for runs in chain.levels[0].lit)
    begin, end = layers_of(explorer.state(network="ResNet-50", depth=2), 0)[0].levels[0].lit[20][0]
    assert (begin, end) == (int(exact.min()), int(exact.max()) + 1)


class Crossed(nn.Module):
    """Two branches: a wide one and a narrow one; along its rows wider than along its columns."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 4, (9, 5), padding=(4, 2)), nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return self.wide(images) + self.narrow(images)


def test_your_own_network_is_followed_and_measured():
    torch.manual_seed(0)
    images = torch.rand(2, 3, 20, 26)
    chain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    explorer = ReceptiveExplorer(toytown.scene(0, 64).image, {"mine": chain, "crossed": Crossed()}, {"mine": images},
                                 prepared=False)
    state = explorer.state(network="mine", shown="effective field", depth=1)
    heat = layers_of(state, 1)[1]
    assert isinstance(heat, HeatMap) and heat.data.shape == (8, 8, 20, 26) and state.disabled == ("depth",)
    assert layers_of(state, 0)[0].levels[0].size == 26 and layers_of(state, 2)[0].shape == (20, 26)
    row, column = 11, 14                                                   # measured at 11, and at 14 of 0, 4, 7, ...
    field = receptive.effective(chain, images, (row, column))
    field = field / field.max()
    expected = HeatMap(torch.where(field < FAINT, torch.nan, field)).data
    assert np.array_equal(heat.here(row, column).data, expected)
    assert "Effective size" in state.panels[1].caption
    crossed = explorer.state(network="crossed")
    assert "up to 9 × 5 pixels" in crossed.readout and layers_of(crossed, 2)[0].shape == (64, 64)
    assert layers_of(crossed, 1)[-1].here(30, 30).boxes == [(28, 26, 33, 35)]
    unmeasured = explorer.state(network="crossed", shown="effective field")
    assert "measured for mine, not for crossed" in unmeasured.problem and unmeasured.problem_at == "shown"


def test_what_makes_no_sense_is_refused_in_words():
    picture, conv = torch.zeros(3, 8, 8), nn.Conv2d(3, 1, 1)
    for networks, effective, words in (({"VGG16": conv}, {}, "names of their own, not VGG16"),
                                       ({"a": conv}, {"b": torch.zeros(1, 3, 8, 8)}, "given, a, but got images for b"),
                                       ({"a": nn.Conv2d(3, 1, 9)}, {}, r"an input of shape \(1, 3, 8, 8\)"),
                                       ({"a": conv}, {"a": torch.zeros(3, 8, 8)}, r"for a are a float tensor \(B, 3"),
                                       ({"a": conv}, {"a": "pictures"}, "for a are a float tensor"),
                                       ({"a": nn.Sequential(conv, nn.Flatten())}, {"a": torch.zeros(1, 3, 8, 8)},
                                        r"but a gives shape \(1, 64\)")):
        with pytest.raises(ValueError, match=words):
            ReceptiveExplorer(picture, networks, effective)
    for wrong in (torch.zeros(8, 8), torch.zeros(1, 8, 8), torch.zeros(3, 8, 8).byte(), torch.zeros(3, 0, 8)):
        with pytest.raises(ValueError, match=r"float \(3, H, W\) in \[0, 1\], but got .* of shape"):
            ReceptiveExplorer(wrong)
    for size in (0, 129, 3.5, "32", True):
        with pytest.raises(ValueError, match="from 1 to 128, but got"):
            ReceptiveExplorer(picture, size=size)
    assert "input 1 × 1, map 1 × 1" in ReceptiveExplorer(picture, size=1).state(**stack()).readout


# --- networks of any kind


class Mean(nn.Module):
    def forward(self, images):
        return images.mean((2, 3), keepdim=True)


ORDINARY = {
    "same": nn.Conv2d(3, 4, 3, padding="same", dilation=2),
    "valid": nn.Sequential(nn.Conv2d(3, 4, (3, 5), padding="valid"), nn.ReLU()),
    "to a size": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(size=(30, 40))),
    "unlike scales": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Upsample(scale_factor=(2, 3))),
    "broken scale": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Upsample(scale_factor=1.3, mode="bilinear")),
    "classifier": nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten(), nn.Linear(4 * 9 * 9, 5)),
    "pooled": nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(3)),
    "to one": nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="reflect", padding=1), Mean()),
    "by norms": nn.Sequential(nn.LPPool2d(2, 3), nn.ConvTranspose2d(3, 4, 2, 2)),
    "as it is": nn.Identity(),
}


@pytest.fixture(scope="module")
def ordinary():
    return ReceptiveExplorer(torch.rand(3, 20, 20), ORDINARY, prepared=False)


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_networks_are_shown_each_unit_with_its_pixels(ordinary, name):
    state, view = ordinary.state(network=name), ordinary._view(name, 30)
    rows, columns = view.shape
    assert f"map {rows} × {columns}" in state.readout and "input" in json.dumps(panels.encode(state)[0])
    whole = {"classifier", "to one"}                                       # a unit of these is no map's: it reads all
    for unit in ((0, 0), (rows // 2, columns // 3), (rows - 1, columns - 1)):
        mask = torch.outer(view.read[0][unit[0]], view.read[1][unit[1]]) > 0
        exact = torch.ones(20, 20) > 0 if name in whole else receptive.reads(ORDINARY[name], 20, unit)
        if name == "classifier":
            exact[-1] = exact[:, -1] = False                               # the stride of 2 never reaches the last
        assert (mask | ~exact).all(), "a pixel that is read is not shown"
        hull = [exact.any(1 - axis).nonzero().flatten() for axis in (0, 1)]
        box = torch.zeros(20, 20) > 0
        box[int(hull[0].min()):int(hull[0].max()) + 1, int(hull[1].min()):int(hull[1].max()) + 1] = True
        assert torch.equal(mask, box) or torch.equal(mask, exact), (name, unit)


def test_what_is_no_plain_chain_says_so(ordinary):
    for name in ("classifier", "pooled", "broken scale", "same"):
        problem = ordinary.state(network=name, shown="number of paths").problem
        assert f"{name} has branches, or layers whose ways are not counted here" in problem
    assert not ordinary.state(network="unlike scales", shown="number of paths").problem


def test_a_layers_words_never_fail():
    for layer, words in ((nn.Upsample(scale_factor=2), "upsample ×2"), (nn.Upsample(size=7), "upsample"),
                         (nn.Upsample(scale_factor=(2, 3)), "upsample"), (nn.LPPool2d(2, 3), "LPPool2d 3×3, stride 3"),
                         (nn.Conv2d(1, 1, (3, 5), dilation=2), "atrous conv 3×5, rate 2"),
                         (nn.Conv1d(1, 1, 3), "Conv1d 3"), (nn.Flatten(), "Flatten")):
        assert stacks.words(layer) == words


def test_measured_fields_are_the_effective_ones():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
                            nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, padding=1)).train()
    images = torch.rand(3, 3, 22, 18)
    measured = Measured(network, images, (11, 9))
    for unit in ((0, 0), (5, 4), (10, 8)):
        expected = receptive.effective(network, images, unit)
        shown = measured.maps[measured.which[0][unit[0]], measured.which[1][unit[1]]]
        if unit in ((0, 0), (10, 8)):                                      # those are measured themselves
            assert torch.allclose(shown, expected / expected.max(), atol=1e-6)
    assert measured.maps.shape == (8, 8, 22, 18) and network.training
    assert all(each.grad is None for each in network.parameters())
    constant = Measured(nn.Conv2d(3, 1, 1).requires_grad_(False), images.zero_(), (22, 18))
    assert constant.maps.amax() == 1 and constant.size == 1                # the gradient does not need the weights'


def test_neither_explorer_nor_network_is_kept_alive():
    network = nn.Conv2d(3, 2, 3)
    explorer = ReceptiveExplorer(torch.rand(3, 12, 12), {"mine": network}, {"mine": torch.rand(1, 3, 12, 12)},
                                 prepared=False)
    explorer.state(network="mine", shown="effective field")
    kept = weakref.ref(network)
    del network
    gc.collect()
    assert kept() is None
