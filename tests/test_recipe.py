"""What `segviz train` is asked and what it chooses: said in words before anything is read or written."""

import json
import os
import pickle
from collections import Counter

import pytest
import torch

from segviz import models
from segviz.data.survey import Survey
from segviz.data.transforms import Augment
from segviz.runs import recipe, sets, training
from segviz.training.processes import Place

QUICK = {"data": "cells", "length": 6, "steps": 1, "width": 1, "image_size": 64, "batch_size": 2, "device": "cpu",
         "say": lambda line: None}  # fmt: skip


def test_a_run_that_is_not_there_is_not_taken_up(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("typo", "empty"):
        with pytest.raises(ValueError, match=f"there is no run in .*{name}: leave --resume out to begin one"):
            training.train(tmp_path / name, resume=True, **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_the_network_takes_as_many_channels_as_the_images_have(tmp_path):
    history = training.train(tmp_path / "run", **QUICK)
    assert len(history.loss) == 1
    assert json.loads((tmp_path / "run" / "options.json").read_text())["recipe"]["data"]["channels"] == 1
    with pytest.raises(ValueError, match="images of cells have 1 channel, but got channels=3, which is for a"):
        training.train(tmp_path / "new", channels=3, **QUICK)
    assert not (tmp_path / "new").exists()


def test_what_was_meant_may_be_said_aloud_where_a_run_is_taken_up(tmp_path, monkeypatch):
    """By any path to the data, from anywhere; and it goes on in the ways in which it was begun."""
    from PIL import Image

    for part in ("images", "masks"):
        (tmp_path / "own" / "train" / part).mkdir(parents=True)
        for at in range(2):
            Image.new("L", (64, 64), at).save(tmp_path / "own" / "train" / part / f"{at}.png")
    (tmp_path / "own" / "classes.txt").write_text("one\ntwo\n")
    quick = QUICK | {"length": None, "image_size": None}
    monkeypatch.chdir(tmp_path)
    fit, compiled = training.training.fit, []

    def watched(*data, **options):
        compiled.append(options["compile"])
        return fit(*data, **options | {"compile": False})

    monkeypatch.setattr(training.training, "fit", watched)
    training.train(tmp_path / "run", **quick | {"data": "own"}, compile=True)
    options = json.loads((tmp_path / "run" / "options.json").read_text())
    assert options["recipe"]["data"]["name"] == str((tmp_path / "own").resolve())
    for data in ("./own", str(tmp_path / "own"), None):
        training.train(tmp_path / "run", **quick | {"data": data}, resume=True, weights="auto", channels=3, seed=0,
                       binary=False, pretrained=False)  # fmt: skip
    monkeypatch.chdir(tmp_path / "own")
    training.train(tmp_path / "run", resume=True, device="cpu", say=lambda line: None, compile=False)
    assert compiled == [True, True, True, True, False]
    for other, words in [({"channels": 1}, "channels: 3 there, 1 here"), ({"binary": True}, "binary: False there"),
                         ({"weights": "none"}, "weights: auto there, none here")]:
        with pytest.raises(ValueError, match=words):
            training.train(tmp_path / "run", resume=True, device="cpu", **other)


def test_the_network_is_there_before_anything_is_written(tmp_path, monkeypatch):
    def fetched(*_):
        raise OSError("the host is away")

    monkeypatch.setattr(training.pretrained, "begin", fetched)
    with pytest.raises(OSError, match="the host is away"):
        training.train(tmp_path / "run", **QUICK | {"data": "toytown", "width": None}, model="deeplabv3plus",
                       pretrained=True)  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_the_first_process_alone_looks_at_the_data(tmp_path, monkeypatch):
    """The second is sent what the first has chosen, and builds the same network."""
    looks, fitted, looked = [], [], training.looked
    monkeypatch.setattr(training, "looked", lambda *given: looks.append(1) or looked(*given))
    monkeypatch.setattr(training, "_leave", lambda *_: None)
    monkeypatch.setattr(training.training, "fit", lambda *given, **options: fitted.append((given[0], options))
                        or training.training.History())  # fmt: skip
    SENT.clear()
    for kind, rank in ((First, 0), (Other, 1)):
        monkeypatch.setattr(training.processes, "place", lambda _, kind=kind, rank=rank: kind(rank, 2, CPU))
        training.train(tmp_path / "run", **QUICK)
    (one, first), (two, second) = fitted
    assert len(looks) == 1 and not SENT and repr(one) == repr(two)
    for name in ("lr", "seed", "steps", "notes"):
        assert first[name] == second[name]


@pytest.mark.parametrize(("asked", "says"), [
    ({"lr": 0}, "lr is a number above 0, but got 0"), ({"lr": float("nan")}, "lr is a number above 0, but got nan"),
    ({"epochs": 0, "steps": None}, "epochs is a number above 0, but got 0"), ({"steps": 0}, "steps is at least 1"),
    ({"width": 0}, "width is at least 1"), ({"model": "alexnet"}, "a model is one of"),
    ({"weights": "heavy"}, "weights are auto, none, balanced or root, but got 'heavy'"),
    ({"epochs": 2}, "give one of them"), ({"pretrained": True}, "not unet"),
])
def test_what_is_asked_is_checked_before_the_data_are_read(tmp_path, monkeypatch, asked, says):
    monkeypatch.setattr(training, "_sets", lambda *_: pytest.fail("the data were opened"))
    with pytest.raises(ValueError, match=says):
        training.train(tmp_path / "run", **QUICK | asked)
    assert not (tmp_path / "run").exists()


class Other(Place):
    """The second of two processes, and what the first has sent."""

    def gathered(self, thing):
        return [pickle.loads(SENT.pop(0)), thing]


class First(Place):
    def gathered(self, thing):
        SENT.append(pickle.dumps(thing))
        return [thing, None]


SENT, CPU = [], torch.device("cpu")


class Odd(RuntimeError):
    """That no other process could read."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(("error", "kind", "words"), [
    (FileNotFoundError(2, "no such file", "a.png"), FileNotFoundError, "a.png"),
    (ValueError("too small"), ValueError, "^too small$"),
    (Odd("memory", "time"), ValueError, "the first process ends with Odd: memory and time"),
])
def test_every_process_learns_why_the_first_ends(error, kind, words):
    def decide():
        raise error

    with pytest.raises(type(error)) as met:
        training._agreed(First(0, 2, torch.device("cpu")), decide)
    assert met.value is error
    with pytest.raises(kind, match=words):
        training._agreed(Other(1, 2, torch.device("cpu")), lambda: pytest.fail("the first decides"))


def test_a_batch_that_fits_is_sought_from_two_images_up(monkeypatch):
    """A GPU that is told: what two and four images take, in MiB of 1000 that are free."""
    def fitting(two, four, most=32):
        needed, asked = {2: two, 4: four}, []
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
        monkeypatch.setattr(recipe, "_needed", lambda _, count, *rest: asked.append(count) or needed[count])
        return recipe.fitting(None, (3, 64, 64), torch.device("cuda"), most), asked

    assert fitting(100, 200) == (16, [2, 4])  # 50 each: 2 and 14 more
    assert fitting(100, 101) == (32, [2, 4])
    assert fitting(700, None) == (2, [2, 4])
    for two in (None, 900):
        with pytest.raises(ValueError, match=r"is too small for two images of \(64, 64\): choose a smaller size"):
            fitting(two, None)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_memory_is_measured_on_the_step_that_training_takes(auxiliary):
    network = models.PSPNet(2, width=2, auxiliary=auxiliary)
    recipe._tried(network, 2, (3, 64, 64), torch.device("cpu"))
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_look_names_as_rare_what_is_there_alone():
    found = Survey(("ground", "dot", "ghost"), [9999, 1, 0], [2, 1, 0], 0, Counter({(64, 64): 2}))
    assert found.rare == ["dot"]
    chosen = recipe.recipe("unet", {"name": "toytown"}, found, CPU)
    assert chosen.rare == [1] and chosen.class_weights[1] > 10 * chosen.class_weights[0]


@pytest.mark.slow
def test_networks_without_batch_norm_learn_slower_where_they_are_wide():
    found = Survey(("a", "b"), [50, 50], [1, 1], 0, Counter({(64, 64): 9}))
    for name, kind in recipe.MODELS.items():
        arguments = recipe.FROM_SCRATCH.get(kind, {}) | ({"size": 64} if kind == "DeconvNet" else {})
        network = getattr(models, kind)(2, **arguments, width=2)
        normed = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
        chosen = {width: recipe.recipe(name, {"name": "toytown"}, found, CPU, width=width).lr for width in (31, 32)}
        assert chosen == {31: 2e-3, 32: 1e-3 if normed else 1e-4}, name
        assert recipe.recipe(name, {"name": "toytown"}, found, CPU, width=64, lr=0.5).lr == 0.5


@pytest.mark.parametrize("flip", [None, False])
def test_how_images_are_varied_is_told_and_kept(tmp_path, monkeypatch, flip):
    said, seen, fit = [], [], training.training.fit
    monkeypatch.setattr(training.training, "fit", lambda *data, **options: seen.append(options["augment"])
                        or fit(*data, **options))  # fmt: skip
    training.train(tmp_path / "run", **QUICK | {"say": said.append}, flip=flip)
    expected = {"scale": [0.75, 1.33], "flip": 0.0 if flip is False else 0.5, "brightness": 0.1, "contrast": 0.1}
    assert json.loads((tmp_path / "run" / "options.json").read_text())["recipe"]["augment"] == expected
    told = "none mirrored" if flip is False else "half of them mirrored (--no-flip where left and right differ)"
    assert f"crops are drawn 0.75 to 1.33 times as large, up to 10% lighter or darker and 10% in contrast, {told}" in (
        "\n".join(said))
    training.train(tmp_path / "run", resume=True, device="cpu", say=said.append, flip=flip is None)
    assert seen[-1] == Augment(crop=64, scale=(0.75, 1.33), flip=expected["flip"], brightness=0.1, contrast=0.1)
    with pytest.raises(ValueError, match=r"flip: (True there, False|False there, True) here"):
        training.train(tmp_path / "run", resume=True, device="cpu", flip=flip is False)


def test_loaders_are_counted_by_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7, 9}, raising=False)
    assert (sets.loaders("voc", True), sets.loaders("voc", False), sets.loaders("cells", True)) == (4, 3, 0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert sets.loaders("voc", True) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert sets.loaders("voc", True) == 8
