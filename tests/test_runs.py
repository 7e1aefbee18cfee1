"""What the commands train, predict and look do: the folder of a run, as a person finds it."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from segviz import checkpoint, cli, training
from segviz.data import Cells
from segviz.data.survey import survey
from segviz.runs import data_set
from segviz.runs.recipe import MODELS, recipe

TRAIN = ("train", "--data", "cells", "--channels", "1", "--length", "10", "--width", "2", "--size", "64",
         "--batch-size", "4", "--device", "cpu")


@pytest.fixture
def command(monkeypatch, tmp_path):
    """A command in a folder of its own; its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["segviz", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    return run


@pytest.fixture
def folder(tmp_path):
    """A data set of people's own: eight pictures of 40 x 52, a bright square each, one pixel of a third class."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for part in ("images", "masks"):
            (tmp_path / "own" / split / part).mkdir(parents=True)
        for at in range(count):
            image, mask = draw.integers(0, 80, (40, 52, 3)), np.zeros((40, 52), int)
            top, left = draw.integers(0, 20), draw.integers(0, 30)
            image[top : top + 18, left : left + 18] += 150
            mask[top : top + 18, left : left + 18], mask[39, at] = 1, 2
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "own" / split / "images" / f"{at}.png")
            Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "own" / split / "masks" / f"{at}.png")
    (tmp_path / "own" / "classes.txt").write_text("ground\nsquare\ndot\n")
    return tmp_path / "own"


def found(data="cells", split="train", length=10):
    items, classes = data_set(data, split, length=length)
    return survey(items, classes)


def test_what_is_not_said_is_chosen_by_machine_and_data():
    chosen = recipe("unet", "cells", found(), torch.device("cpu"))
    assert (chosen.model, chosen.arguments) == ("UNet", {"norm": True, "width": 16})
    assert (chosen.steps, chosen.batch_size, chosen.size, chosen.lr) == (2000, 8, 96, 2e-3)
    assert chosen.class_weights is None and chosen.workers == 0
    chosen = recipe("UNet", "cells", found(), torch.device("cpu"), epochs=3, batch_size=4, width=32, lr=0.1)
    assert (chosen.steps, chosen.lr, chosen.arguments["width"]) == (3 * (10 // 4), 0.1, 32)
    assert recipe("unet", "cells", found(), torch.device("cpu"), width=32).lr == 1e-3
    assert recipe("deconvnet", "cells", found(), torch.device("cpu"), size=64).arguments["size"] == 64


@pytest.mark.parametrize(("given", "says"), [
    ({"model": "alexnet"}, "a model is one of deconvnet, .*, unet, but got 'alexnet'"),
    ({"steps": 3, "epochs": 2}, "give one of them"), ({"weights": "heavy"}, "auto, none, balanced or root"),
])
def test_what_cannot_be_chosen_is_said(given, says):
    with pytest.raises(ValueError, match=says):
        recipe(**({"model": "unet", "data": "cells", "found": found(), "device": torch.device("cpu")} | given))


def test_rare_classes_are_weighed(folder):
    seen = found(str(folder), length=None)
    assert seen.rare == ["dot"]
    auto, balanced, none = (recipe("unet", str(folder), seen, torch.device("cpu"), weights=name).class_weights
                            for name in ("auto", "balanced", "none"))
    assert none is None and auto[2] > 10 * auto[0]
    assert [weight**0.5 for weight in balanced] == pytest.approx(auto, abs=0.001)


@pytest.mark.slow
def test_train_leaves_a_folder_that_says_all_and_evaluate_and_predict_take_it(command, capsys, tmp_path):
    assert command(*TRAIN, "--steps", "6", "--out", "run") == 0
    said = capsys.readouterr().out
    for words in ("train: 10 images", "val: 2 images", "UNet(norm=True, width=2)", "6 steps of 4 crops of 64 x 64",
                  "History: 6 steps", "run holds the network"):
        assert words in said
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files >= {"options.json", "history.json", "last.safetensors", "best.safetensors", "data.txt", "data.png",
                     "curves.png", "samples.png"}
    options = json.loads((tmp_path / "run" / "options.json").read_text())
    assert options["data"] == "cells" and options["classes"] == ["background", "cell"]
    assert options["recipe"]["steps"] == 6 and options["torch"] == torch.__version__
    assert len(json.loads((tmp_path / "run" / "history.json").read_text())["loss"]) == 6

    assert command("evaluate", "run", "--length", "2") == 0
    assert "UNet of run/best.safetensors" in capsys.readouterr().out

    (tmp_path / "pictures").mkdir()
    image, _ = Cells("test", 70, 1)[0]
    Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(tmp_path / "pictures" / "a.png")
    assert command("predict", "run", "pictures", "--out", "said", "--save", "overlay,mask,probabilities") == 0
    network = checkpoint.load(tmp_path / "run" / "best.safetensors")
    expected = training.predict(network, (image * 255).byte().float() / 255)
    with Image.open(tmp_path / "said" / "a_mask.png") as mask:
        assert mask.mode == "P" and (np.array(mask) == expected.numpy()).all()
    with Image.open(tmp_path / "said" / "a_overlay.png") as overlay:
        assert overlay.mode == "RGB" and overlay.size == (70, 70)
    table = np.load(tmp_path / "said" / "a_probabilities.npy")
    assert table.shape == (2, 70, 70) and (table.argmax(0) == expected.numpy()).mean() > 0.99
    assert command("predict", "run", "pictures/a.png", "--out", "tiled", "--save", "mask", "--tile", "40") == 0
    with Image.open(tmp_path / "tiled" / "a_mask.png") as mask:
        assert (np.array(mask) == expected.numpy()).all()


@pytest.mark.slow
def test_a_run_is_taken_up_by_the_same_command(command, capsys, tmp_path):
    assert command(*TRAIN, "--steps", "6", "--out", "run") == 0
    assert command(*TRAIN, "--steps", "6", "--out", "run") == 1
    assert "already holds a run" in capsys.readouterr().err
    assert command(*TRAIN, "--steps", "9", "--out", "run", "--resume") == 1
    assert "run was trained with other settings (steps: 6 there, 9 here)" in capsys.readouterr().err
    assert command(*TRAIN, "--steps", "6", "--out", "run", "--resume") == 0
    assert "History: 6 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_of_ones_own(command, capsys, folder):
    assert command("look", folder) == 0
    assert "dot" in capsys.readouterr().out
    assert command("train", "--data", folder, "--steps", "8", "--width", "4", "--batch-size", "4", "--out", "run",
                   "--workers", "0", "--device", "cpu") == 0
    assert "8 images, height x width: 40 x 52 (8)" in capsys.readouterr().out
    assert command("evaluate", "run") == 0
    shown = capsys.readouterr().out
    assert "square" in shown and "dot" in shown and "reproduced" in shown


def test_predict_says_what_is_in_the_way(command, capsys, tmp_path):
    from segviz import models

    network = models.UNet(2, width=1, depth=1)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint.save(tmp_path / "net.safetensors", tensors, checkpoint.describe(network))
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.png").write_text("<!doctype html>")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for arguments, words in [
        (("empty",), "holds no image"), (("none.png",), "neither an image nor a folder"),
        (("page.png",), "cannot be read as a picture"), (("a.png", "--save", "film"), "overlay, mask, probabilities"),
    ]:
        assert command("predict", "net.safetensors", *arguments, "--out", "said") == 1
        assert words in capsys.readouterr().err


def test_every_model_of_the_course_has_a_name_here():
    from segviz import models

    assert {MODELS[name] for name in MODELS} == set(models.__all__)
