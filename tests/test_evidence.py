"""Lesson 03's experiment, with its own cells and three other seeds: evidence out of reach is no evidence."""

from pathlib import Path

import jupytext
import pytest
import torch

LESSON = Path(__file__).parents[1] / "lessons" / "03_receptive_fields.py"


def definitions() -> dict:
    """What the lesson's cells from `distance_to` to its three stacks define."""
    sources = [cell.source for cell in jupytext.read(LESSON).cells if cell.cell_type == "code"]
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
