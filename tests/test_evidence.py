"""The experiments of lessons 03, 09 and 12, with their own cells and other seeds: evidence out of reach is no evidence,
a pyramid brings it within reach, and one rate reaches as far as one scale asks for."""

from pathlib import Path

import jupytext
import pytest
import torch

LESSONS = Path(__file__).parents[1] / "lessons"


def code(lesson: str) -> list[str]:
    return [cell.source for cell in jupytext.read(LESSONS / lesson).cells if cell.cell_type == "code"]


def definitions() -> dict:
    """What the lesson's cells from `distance_to` to its three stacks define."""
    sources = code("03_receptive_fields.py")
    first, last = (next(i for i, source in enumerate(sources) if words in source)
                   for words in ("def distance_to", "RATES = {"))
    scope = {}
    exec("import torch\nfrom torch import nn\nfrom segviz import receptive\nfrom segviz.data import toytown\n"
         + "\n".join(sources[first : last + 1]), scope)
    return scope


@pytest.fixture(scope="module")
def world():
    return definitions()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_within_reach_nearly_always_right_beyond_it_a_coin(world, seed):
    from segviz.training import fit

    images, targets, distances = world["twins"]
    sprite = targets < 2
    for name, rates in world["RATES"].items():
        torch.manual_seed(seed)
        network = world["stack"](rates)
        fit(network, world["train"], steps=150, batch_size=12, lr=1e-2, seed=seed, show=False)
        with torch.no_grad():
            right = network.eval()(images)[:, :2].argmax(1) == targets
        reach = distances <= sum(rates)
        within, beyond = (right[sprite & part].float().mean().item() for part in (reach, ~reach))
        print(f"seed {seed} {name:<7} within {within:.3f} beyond {beyond:.3f}")
        assert within > 0.9 and beyond == 0.5


def test_the_twins_differ_in_the_beacons_box_alone(world):
    images, _, distances = world["twins"]
    differs = (images[0::2] != images[1::2]).any(1)
    assert differs.any() and not (differs & (distances[0::2] > 0)).any()


@pytest.fixture(scope="module")
def wide_meadow():
    """What lesson 09's cells define that its first experiment needs."""
    scope, marks = {}, ("LABELS = (", "def examples(", "def network(", "def car_or_boat(", "def far_right(")
    exec("import torch\nfrom segviz.data import toytown\nfrom segviz.models import PSPNet", scope)
    for source in code("09_pspnet.py"):
        if any(words in source for words in marks):
            exec(source, scope)
    return scope


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_beyond_its_field_a_coin_and_with_the_pyramid_right(wide_meadow, one_thread, seed):
    from segviz.training import fit

    found = {}
    for name, bins in {"no pyramid": (), "pyramid": (1, 2, 3, 6)}.items():
        network = wide_meadow["network"](bins, seed)
        fit(network, wide_meadow["train"], **wide_meadow["settings"], seed=seed, show=False)
        found[name] = wide_meadow["far_right"](network)
    print(f"seed {seed} {found}")
    assert found["no pyramid"] == 0.5 and found["pyramid"] > 0.9


def test_twins_on_a_wide_meadow_differ_in_the_beacons_columns_alone(wide_meadow):
    images, _, away = wide_meadow["twins"]
    differs = (images[0::2] != images[1::2]).any(1)
    assert differs.any() and not (differs & (away[0::2] > 0)).any()


@pytest.fixture(scope="module")
def three_scales():
    """What lesson 12's cells define that its meadows of three scales need."""
    scope, marks = {}, ("SCALES = (", "def town(", "asked = towns(", "class Summed(", "def by_scale(")
    exec("import torch\nfrom torch import nn\nfrom segviz import draw, layers\nfrom segviz.data import toytown\n"
         "from segviz.models import vgg", scope)
    for source in code("12_deeplab.py"):
        if any(words in source for words in marks):
            exec(source, scope)
    return scope


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 3])
def test_one_rate_is_right_on_its_own_scale_and_three_rates_on_three(three_scales, one_thread, seed):
    from segviz.training import fit

    found = {}
    for rates in ((3, 6, 12), (3, 3, 3), (6, 6, 6), (12, 12, 12)):
        network = three_scales["Summed"](rates, seed=seed)
        fit(network, three_scales["meadows"], **three_scales["meadow_settings"], seed=seed, show=False)
        found[rates] = three_scales["by_scale"](network)
    print(f"seed {seed} {found}")
    several, *single = found.values()
    assert min(several) > 0.9
    for own, shares in enumerate(single):
        assert shares[own] > 0.9 and all(share < 0.9 for scale, share in enumerate(shares) if scale != own)


def test_the_class_at_one_scale_says_nothing_of_the_others(three_scales):
    _, targets, scale = three_scales["asked"]
    boats = [((targets == 1) & (scale == unit)).flatten(1).any(1) for unit in three_scales["SCALES"]]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.3 < boats[a].float().mean() < 0.7 and 0.3 < (boats[a] == boats[b]).float().mean() < 0.7
