"""What the commands train, predict and look do: the folder of a run, as a person finds it."""

import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from segviz import checkpoint, cli, models, runs, training
from segviz.data import Cells, Folder
from segviz.data.survey import survey
from segviz.models import imagenet, resnet, vgg
from segviz.runs import data_set, pictures, prediction, pretrained
from segviz.runs.recipe import BEGINNINGS, MODELS, recipe
from segviz.training import loop, scoring

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


@pytest.fixture
def network(tmp_path):
    """A network of three classes that nobody trained, as the file net.safetensors."""
    torch.manual_seed(0)
    network = models.UNet(3, width=2, depth=1)
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    notes = {"classes": ["ground", "a square", "Pünktchen"]}
    checkpoint.save(tmp_path / "net.safetensors", tensors, checkpoint.describe(network) | {"notes": notes})
    return network.eval()


def found(data="cells", split="train", length=10):
    items, classes = data_set(data, split, length=length)
    return survey(items, classes)


def chosen_for(model, data="cells", seen=None, **asked):
    return recipe(model, {"name": data}, seen or found(), torch.device("cpu"), **asked)


def test_what_is_not_said_is_chosen_by_machine_and_data():
    chosen = chosen_for("unet")
    assert (chosen.model, chosen.arguments) == ("UNet", {"norm": True, "width": 16})
    assert (chosen.steps, chosen.batch_size, chosen.size, chosen.lr) == (2000, 8, 96, 2e-3)
    assert chosen.class_weights is None and chosen.workers == 0 and chosen.classes == ["background", "cell"]
    chosen = chosen_for("UNet", epochs=3, batch_size=4, width=32, lr=0.1)
    assert (chosen.steps, chosen.lr, chosen.arguments["width"]) == (3 * (10 // 4), 0.1, 32)
    assert chosen_for("unet", width=32).lr == 1e-3
    assert chosen_for("deconvnet", size=64).arguments["size"] == 64
    assert [chosen_for("unet", world=world).batch_size for world in (2, 3, 5)] == [8, 6, 5]


def test_a_network_that_begins_with_imagenet_has_the_width_of_its_weights():
    chosen = chosen_for("pspnet", pretrained=True)
    assert (chosen.arguments["width"], chosen.arguments["deep_stem"], chosen.lr) == (64, False, 1e-4)
    assert set(BEGINNINGS) <= set(models.__all__)


@pytest.mark.parametrize(("given", "says"), [
    ({"model": "alexnet"}, "a model is one of deconvnet, .*, unet, but got 'alexnet'"),
    ({"steps": 3, "epochs": 2}, "give one of them"), ({"weights": "heavy"}, "auto, none, balanced or root"),
    ({"pretrained": True}, "ImageNet's weights fit fcn32s, .* but not unet"),
    ({"pretrained": True, "model": "fcn8s", "width": 8}, "three channels and width 64"),
])
def test_what_cannot_be_chosen_is_said(given, says):
    with pytest.raises(ValueError, match=says):
        chosen_for(**({"model": "unet"} | given))


def test_rare_classes_are_weighed_and_sought(folder):
    seen = found(str(folder), length=None)
    assert seen.rare == ["dot"]
    auto, balanced, none = (chosen_for("unet", str(folder), seen, weights=name)
                            for name in ("auto", "balanced", "none"))
    assert none.class_weights is None and auto.class_weights[2] > 10 * auto.class_weights[0]
    assert [weight**0.5 for weight in balanced.class_weights] == pytest.approx(auto.class_weights, abs=0.001)
    assert (auto.rare, none.rare) == ([2], [])


# -- ImageNet's weights


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FCN8s", "PSPNet"])
def test_imagenets_weights_see_normalised_images_where_the_network_is_given_them_as_they_are(monkeypatch, name):
    """Oracle: torchvision's own network, on images that are normalised by hand."""
    from torchvision import models as theirs

    torch.manual_seed(0)
    if name == "FCN8s":
        peer = theirs.vgg16(init_weights=False).eval()
        monkeypatch.setattr(vgg, "imagenet_weights", peer.state_dict)
        first, ours = peer.features[:2], lambda network: network.stages[0][:2]
    else:
        peer = theirs.resnet50().eval()
        peer.bn1.running_mean.normal_()
        peer.bn1.running_var.uniform_(0.5, 2)
        kept = {key: tensor for key, tensor in peer.state_dict().items() if not key.startswith("fc.")}
        monkeypatch.setattr(resnet, "imagenet_weights", lambda depth: kept)
        first = torch.nn.Sequential(peer.conv1, peer.bn1)
        ours = lambda network: torch.nn.Sequential(network.backbone.conv1, network.backbone.bn1)  # noqa: E731
    network = getattr(models, name)(2, **chosen_for(name, pretrained=True).arguments).eval()
    pretrained.begin(network)
    images = torch.rand(1, 3, 40, 40)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (imagenet.MEAN, imagenet.STD))
    with torch.no_grad():
        inside = (..., slice(4, -4), slice(4, -4))  # but for the border, where zeros mean black
        torch.testing.assert_close(ours(network)(images)[inside], first((images - mean) / std)[inside],
                                   rtol=1e-4, atol=1e-4)


# -- scores


def test_scores_of_each_image_add_up_to_those_of_all(folder, network):
    items = Folder(folder, "val")
    each = dict(training.image_scores(network, items, batch_size=2, device="cpu", classes=items.classes))
    assert sorted(each) == [0, 1, 2]
    for item, scores in each.items():
        alone = training.evaluate(network, torch.utils.data.Subset(items, [item]), device="cpu")
        assert (scores.counts == alone.counts).all() and (scores.boundary == alone.boundary).all()
    whole = training.evaluate(network, items, device="cpu", batch_size=3)
    assert (sum((scores.counts for scores in each.values()), 0) == whole.counts).all()


def test_large_images_are_scored_a_few_at_a_time(monkeypatch):
    given = []

    class Seeing(torch.nn.Module):
        def forward(self, images):
            given.append(tuple(images.shape))
            return torch.stack([images[:, 0], 1 - images[:, 0]], dim=1)

    monkeypatch.setattr(scoring, "AT_ONCE", 40 * 40 * 2)
    mask = torch.zeros(40, 40, dtype=torch.int64)
    items = [(torch.full((3, 40, 40), 0.1 * item), mask) for item in range(5)]
    items.append((torch.zeros(3, 90, 90), torch.zeros(90, 90, dtype=torch.int64)))
    scores = training.evaluate(Seeing(), items, batch_size=8, device="cpu")
    assert sorted(given) == [(1, 3, 40, 40), (1, 3, 90, 90), (2, 3, 40, 40), (2, 3, 40, 40)]
    assert scores.counts.tolist() == [[0, 5 * 1600 + 8100], [0, 0]]


def test_evaluate_leaves_every_score_and_pictures_of_what_is_wrong(command, capsys, folder, network, tmp_path):
    assert command("evaluate", "net.safetensors", "--data", folder, "--device", "cpu") == 0
    assert not (tmp_path / "evaluation").exists() and "holds scores.json" not in capsys.readouterr().out
    assert command("evaluate", "net.safetensors", "--data", folder, "--device", "cpu", "--out", "said") == 0
    shown = capsys.readouterr().out
    assert "said holds scores.json" in shown
    kept = json.loads((tmp_path / "said" / "scores.json").read_text())
    items = Folder(folder, "val")
    whole = training.evaluate(network, items, device="cpu")
    assert kept["counts"] == whole.counts.tolist() and kept["mean_iou"] == pytest.approx(whole.mean_iou)
    assert list(kept["classes"]) == ["ground", "square", "dot"] and kept["images"] == 3
    worst = [training.evaluate(network, torch.utils.data.Subset(items, [each["item"]]), device="cpu")
             for each in kept["worst"]]
    assert [each["mean_iou"] for each in kept["worst"]] == pytest.approx([each.mean_iou for each in worst])
    assert [each.mean_iou for each in worst] == sorted(each.mean_iou for each in worst)
    for name in ("confusion.png", "worst.png"):
        with Image.open(tmp_path / "said" / name) as picture:
            assert min(picture.size) > 300
    for item in range(3):
        assert f"{item}.png   mean IoU" in shown


def test_an_evaluation_lies_with_its_run_and_other_data_beside(tmp_path, network):
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    config = checkpoint.describe(network) | {"data": {"name": "cells", "split": "val"}}
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "last.safetensors", tensors, config)
    place = tmp_path / "run" / "evaluation"
    assert runs.folder_of(tmp_path / "run", {}) == place / "val"
    assert runs.folder_of(tmp_path / "run", {"split": "test"}) == place / "test"
    assert runs.folder_of(tmp_path / "run", {"name": "../photos"}) == place / "photos-val"
    assert runs.folder_of(tmp_path / "run", {"name": "../photos", "binary": True}) == place / "photos-val-binary"
    assert runs.folder_of(tmp_path / "run", {"size": 192, "length": 5}) == place / "val-size192-length5"
    assert runs.folder_of(tmp_path / "run", {"name": "cells", "size": 96}) == place / "val"
    assert runs.folder_of(tmp_path / "run" / "last.safetensors", {}) is None


def test_what_is_recorded_says_nothing_of_other_data(command, capsys, monkeypatch, folder, network, tmp_path):
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    data = {"name": "own", "split": "train", "binary": True}
    (tmp_path / "run").mkdir()
    checkpoint.save(tmp_path / "run" / "last.safetensors", tensors, checkpoint.describe(network) | {"data": data})
    os.rename(folder, tmp_path / "other")
    assert command("evaluate", "run", "--data", "other", "--device", "cpu") == 0  # whose masks are not black and white
    kept = json.loads((tmp_path / "run" / "evaluation" / "other-train" / "scores.json").read_text())
    assert kept["data"] == {"name": "other", "split": "train"}
    os.rename(tmp_path / "other", folder)
    assert command("evaluate", "run", "--data", "./own", "--device", "cpu") == 1
    assert "black and white" in capsys.readouterr().err
    assert runs.folder_of(tmp_path / "run", {"name": "./own"}) == tmp_path / "run" / "evaluation" / "train"


@pytest.mark.parametrize(("asked", "same"), [
    ({}, True), ({"name": "./own"}, True), ({"split": "val"}, True), ({"split": "train"}, False),
    ({"name": "copy"}, False),
])
def test_a_recorded_score_is_of_the_recorded_data(command, folder, network, tmp_path, asked, same):
    shutil.copytree(folder, tmp_path / "copy")
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    config = checkpoint.describe(network) | {"data": {"name": "own", "split": "val"}, "score": 2.0}
    checkpoint.save(tmp_path / "net.safetensors", tensors, config)
    found = runs.evaluate(tmp_path / "net.safetensors", asked, "cpu")
    assert (found.same_data, found.reproduced) == (same, False if same else None)


def test_the_worst_come_first_and_say_how_much_is_wrong(folder, network):
    """All is said to be ground: the more squares and dots, the worse."""
    with torch.no_grad():
        network.score.weight.zero_()
        network.score.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    for at, rows in enumerate((4, 30, 11)):
        mask = np.zeros((40, 52), np.uint8)
        mask[:rows] = 1
        Image.fromarray(mask).save(folder / "val" / "masks" / f"{at}.png")
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint.save(folder.parent / "net.safetensors", tensors, checkpoint.describe(network))
    found = runs.evaluate(folder.parent / "net.safetensors", {"name": str(folder)}, "cpu").worst
    assert [each.item for each in found] == [1, 2, 0]
    assert [each.wrong for each in found] == pytest.approx([30 / 40, 11 / 40, 4 / 40])


def test_an_evaluation_that_cannot_be_leaves_nothing_and_one_without_pictures_no_old_ones(command, folder, network,
                                                                                        tmp_path):  # fmt: skip
    (tmp_path / "run").mkdir()
    os.rename(tmp_path / "net.safetensors", tmp_path / "run" / "last.safetensors")
    assert command("evaluate", "run", "--data", "mars") == 1
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.safetensors"]
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "worst.png").touch()
    for path in (folder / "val" / "masks").iterdir():
        Image.fromarray(np.full((40, 52), 255, np.uint8)).save(path)
    command("evaluate", "run", "--data", "own", "--out", "said", "--device", "cpu")
    assert {path.name for path in (tmp_path / "said").iterdir()} <= {"scores.json", "confusion.png"}


def test_scores_that_are_not_defined_are_null_and_marked(tmp_path):
    counts = torch.tensor([[5, 1, 0], [0, 0, 0], [0, 0, 0]])
    scores = training.Scores(counts, torch.tensor([[1, 2], [0, 1], [0, 0]]), ("a", "b", "c"))
    found = runs.Evaluation(tmp_path, "UNet", {}, 1, scores, (), None, False).as_json()
    assert found["classes"]["b"]["iou"] == 0 and found["classes"]["c"]["iou"] is None
    figure = pictures.confusion(scores)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("not in the truth") == 2 and "none" in texts and ".83" in texts and ".17" in texts
    pictures.save(figure, tmp_path / "confusion.png")


def test_no_error_is_lost_where_a_picture_is_made_smaller():
    truth = torch.zeros(1000, 1500, dtype=torch.int64)
    truth[:10] = 255
    said = truth.clone()
    said[:10], said[777, 1234] = 0, 1
    shown = pictures.errors(torch.zeros(3, 1000, 1500), said, truth)
    lit = (shown == pictures.LIT).all(2)
    assert max(shown.shape) <= pictures.PIXELS and lit.sum() == 1 and lit[777 // 4, 1234 // 4]


# -- train


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
    assert options["recipe"]["data"] == {"name": "cells", "length": 10, "channels": 1}
    assert options["recipe"]["steps"] == 6 and options["torch"] == torch.__version__
    assert options["asked"]["width"] == 2 and options["recipe"]["classes"] == ["background", "cell"]
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
def test_a_run_that_was_stopped_is_taken_up_by_its_folder_alone(command, capsys, monkeypatch, tmp_path):
    step, done = loop._step, []

    def stopped(*arguments, **named):
        done.append(1)
        if len(done) == 4:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(loop, "_step", stopped)
    writer = written(monkeypatch)
    assert command(*TRAIN, "--steps", "6", "--out", "run", "--tensorboard") == 130
    said = capsys.readouterr()
    assert "To go on: segviz train --out run --resume" in said.out and "Stopped." in said.err
    assert (tmp_path / "run" / "samples.png").exists()
    begun = (tmp_path / "run" / "options.json").read_text()
    for wrong, words in [((), "already holds a run: --resume takes it up"),
                         (("--resume", "--steps", "9"), "steps: 6 there, 9 here"),
                         (("--resume", "--data", "toytown"), "name: cells there, toytown here"),
                         (("--resume", "--width", "3"), "width: 2 there, 3 here"),
                         (("--resume", "--model", "fcn8s"), "model: UNet there, FCN8s here")]:
        assert command("train", "--out", "run", *wrong) == 1
        assert words in capsys.readouterr().err
    assert command("train", "--out", "run", "--resume", "--model", "unet", "--tensorboard", "--device", "cpu") == 0
    assert "History: 6 steps" in capsys.readouterr().out
    assert (tmp_path / "run" / "options.json").read_text() == begun
    # TensorBoard has each step once, and what was scored
    assert [at for tag, _, at in writer.scalars if tag == "loss"] == [1, 2, 3, 4, 5, 6]
    rates = [value for tag, value, _ in writer.scalars if tag == "learning rate"]
    assert rates == pytest.approx([2e-3 * (1 - step / 6) ** 0.9 for step in range(6)])
    assert {tag for tag, *_ in writer.scalars} >= {"val/mean IoU", "IoU/cell"}
    assert writer.images[-1] == (96, 3 * 96, 3) and writer.purged == [1, 4] and writer.closed >= 2


def written(monkeypatch):
    """What a run writes for TensorBoard, which need not be here."""
    seen = types.SimpleNamespace(scalars=[], images=[], purged=[], closed=0)

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            os.makedirs(folder, exist_ok=True)
            seen.purged.append(purge_step)

        def add_scalar(self, tag, value, step):
            seen.scalars.append((tag, value, step))

        def add_image(self, tag, picture, step, dataformats):
            assert picture.dtype == np.uint8 and dataformats == "HWC"
            seen.images.append(picture.shape)

        def flush(self):
            pass

        def close(self):
            seen.closed += 1

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return seen


def test_tensorboard_itself_reads_what_is_written(tmp_path, network):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from segviz.runs.board import Board, summary_writer

    plan = chosen_for("unet", steps=2)
    board = Board(summary_writer(), tmp_path, plan, models.UNet(2, 1, width=1, depth=1), Cells("val", 40, 1))
    board.write(training.History(loss=[2.0, 1.0]))
    assert board.writer.file_writer is None  # closed
    seen = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in seen.Scalars("loss")] == [2.0, 1.0]
    assert len(seen.Images(seen.Tags()["images"][0])) == 1


def test_what_stands_in_the_way_of_a_run_is_said_before_anything_is_written(command, capsys, monkeypatch, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    (tmp_path / "file").touch()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "options.json").write_text("{")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for arguments, words in [
        (("--out", "photos"), "photos holds other things (holiday.jpg)"),
        (("--out", "file/run"), "no run can write into file/run"), (("--resume",), "Name its folder: --out"),
        (("--out", "odd", "--resume"), "odd/options.json does not say how the run was begun"),
        (("--out", "new", "--tensorboard"), "pip install tensorboard"),
        (("--out", "new", "--data", "mars"), "a data set is toytown, cells, voc, pets, or a folder"),
        (("--out", "new", "--pretrained"), "not unet"),
    ]:
        assert command("train", *(("--length", "2") if "--resume" not in arguments and "mars" not in arguments else ()),
                       *arguments) == 1
        assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists() and not (tmp_path / "runs").exists()
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["holiday.jpg"]


def test_a_run_without_a_name_gets_the_first_that_is_free(monkeypatch, tmp_path):
    from segviz.runs.training import _place

    monkeypatch.chdir(tmp_path)
    assert str(_place(None, False, {}, {})[0]) == os.path.join("runs", "unet-toytown")
    (tmp_path / "runs" / "fcn8s-photos").mkdir(parents=True)
    assert _place(None, False, {"name": "some/photos/"}, {"model": "FCN8s"})[0].name == "fcn8s-photos-2"


@pytest.mark.slow
def test_two_processes_train_one_run(tmp_path):
    """The same batches, whose losses differ by what each process drops out; one of the two says and writes."""
    def run(*command):
        seen = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True,
                              timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
        assert seen.returncode == 0, seen.stderr
        return seen.stdout

    arguments = ("segviz", "train", "--data", "toytown", "--length", "8", "--model", "hypercolumn", "--steps", "2",
                 "--width", "1", "--size", "32", "--batch-size", "4", "--weights", "none", "--device", "cpu")
    said = run("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *arguments, "--out", "two")
    assert said.count("two holds the network") == 1 and "in 2 processes" in said
    run(*arguments, "--out", "one")
    kept = {name: json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two")}
    assert kept["two"]["loss"][0] == pytest.approx(kept["one"]["loss"][0], rel=0.05)
    assert len(kept["two"]["loss"]) == 2 and len(kept["two"]["val"]) == 2
    alone = run("segviz", "evaluate", "two", "--device", "cpu")
    shared = run("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "segviz", "evaluate", "two",
                 "--device", "cpu")  # fmt: skip
    assert shared == alone


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


# -- predict, look, export


def test_predict_says_what_is_in_the_way(command, capsys, network, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.png").write_text("<!doctype html>")
    (tmp_path / "file").touch()
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    for arguments, words in [
        (("empty",), "holds no image"), (("none.png",), "neither an image nor a folder"),
        (("page.png",), "cannot be read as a picture"), (("a.png", "--save", "film"), "overlay, mask, probabilities"),
        (("a.png", "--out", "."), "where the images lie"), (("a.png", "--out", "file"), "file"),
    ]:
        assert command("predict", "net.safetensors", *("--out", "said"), *arguments) == 1
        assert words in capsys.readouterr().err


def test_predict_goes_on_after_an_image_that_it_cannot_read(command, capsys, network, tmp_path):
    place = tmp_path / "my photos"
    place.mkdir()
    for name in ("에 1.png", "zürich.PNG"):
        Image.new("RGB", (40, 33), "green").save(place / name, "PNG")
    (place / "broken.png").write_bytes((place / "zürich.PNG").read_bytes()[:60])
    Image.new("RGB", (4, 4)).save(place / "tiny.png")
    assert command("predict", "net.safetensors", "my photos", "--out", "said", "--save", "mask,probabilities") == 1
    said = capsys.readouterr()
    assert "2 images: mask, probabilities in said" in said.out
    assert "2 of 4 images were left out" in said.err and "broken.png" in said.err and "tiny.png" in said.err
    assert {path.name for path in (tmp_path / "said").iterdir()} == {
        "classes.txt", "legend.png", "에 1_mask.png", "에 1_probabilities.npy", "zürich_mask.png",
        "zürich_probabilities.npy"}  # fmt: skip
    assert (tmp_path / "said" / "classes.txt").read_text("utf-8").splitlines()[1] == "a square #ddcc77"


def test_masks_that_were_predicted_are_a_data_set(command, folder, network, tmp_path):
    assert command("predict", "net.safetensors", folder / "val" / "images", "--out", "said", "--save", "mask") == 0
    for part in ("images", "masks"):
        (tmp_path / "again" / "test" / part).mkdir(parents=True)
    for at in range(3):
        os.replace(tmp_path / "said" / f"{at}_mask.png", tmp_path / "again" / "test" / "masks" / f"{at}.png")
        os.replace(folder / "val" / "images" / f"{at}.png", tmp_path / "again" / "test" / "images" / f"{at}.png")
    os.replace(tmp_path / "said" / "classes.txt", tmp_path / "again" / "classes.txt")
    items = Folder(tmp_path / "again", "test")
    assert items.classes == ("ground", "a square", "Pünktchen")
    assert training.evaluate(network, items, device="cpu").pixel_accuracy == 1


def test_a_prediction_that_is_stopped_leaves_nothing_half(command, monkeypatch, network, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")

    def stopped(self, file, kind):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stopped)
    assert command("predict", "net.safetensors", "a.png", "--out", "said") == 130
    assert not list((tmp_path / "said").iterdir())


def test_what_a_killed_prediction_left_is_never_taken_for_a_result(command, monkeypatch, network, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "said").mkdir()
    for name in ("a_probabilities.npy", "a_mask.png"):
        (tmp_path / "said" / f".{name}.tmp").write_bytes(b"half")
    seen, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (seen.append(os.fspath(old)), replace(old, new)))
    assert command("predict", "net.safetensors", "a.png", "--out", "said", "--save", "mask") == 0
    assert not (tmp_path / "said" / "a_probabilities.npy").exists()
    for _ in range(2):
        assert command("predict", "net.safetensors", "a.png", "--out", "said", "--save", "mask,probabilities") == 0
    assert np.load(tmp_path / "said" / "a_probabilities.npy").shape == (3, 40, 40)
    assert len(seen) == len(set(seen)) == 5 and all(str(os.getpid()) in name for name in seen)


def test_a_network_that_pads_nothing_labels_every_pixel(command, tmp_path):
    torch.manual_seed(0)
    network = models.UNet(3, width=2, depth=1, padding="valid").eval()
    tensors = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint.save(tmp_path / "net.safetensors", tensors, checkpoint.describe(network))
    pixels = np.random.default_rng(0).integers(0, 256, (45, 37, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert command("predict", "net.safetensors", "a.png", "--out", "said", "--device", "cpu") == 0
    margin = (60 - network(torch.zeros(1, 3, 60, 60)).shape[2]) // 2
    around = np.pad(pixels, ((margin, margin + 1), (margin, margin + 1), (0, 0)), "reflect")  # of even sides
    with torch.no_grad():
        logits = network(torch.from_numpy(around).permute(2, 0, 1)[None] / 255)[0, :, :45, :37]
    with Image.open(tmp_path / "said" / "a_mask.png") as mask:
        assert (np.array(mask) == logits.argmax(0).numpy()).mean() > 0.999


def test_the_overlay_of_an_image_of_many_rows_is_the_mixture_everywhere():
    """It is put together from strips."""
    draws = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 600, 9), generator=draws, dtype=torch.uint8)
    labels = torch.randint(0, 3, (600, 9), generator=draws, dtype=torch.uint8)
    colours = pictures.palette(3)
    mixed = 0.5 * colours[labels.numpy()] + 0.5 * image.permute(1, 2, 0).numpy()
    assert (np.asarray(prediction._overlay(image, labels, colours)) == mixed.astype(np.uint8)).all()


def test_look_takes_the_splits_that_are_there_and_names_an_image_that_lies_in_two(command, capsys, folder, tmp_path):
    os.replace(folder / "val", folder / "test")
    for part in ("images", "masks"):
        (folder / "test" / part / "2.png").write_bytes((folder / "train" / part / "5.png").read_bytes())
    assert command("look", folder, "--out", "sheet.png") == 0
    shown = capsys.readouterr().out
    assert "train: 8 images" in shown and "test: 3 images" in shown and "val:" not in shown
    assert "the same image twice" in shown and os.path.join("train", "images", "5.png") in shown
    with Image.open(tmp_path / "sheet.png") as picture:
        assert min(picture.size) > 300
    assert command("look", folder, "--split", "val") == 1 and "no split 'val'" in capsys.readouterr().err


def test_export_says_what_it_needs(command, capsys, monkeypatch, network):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert command("export", "net.safetensors", "--out", "net.onnx") == 1
    said = capsys.readouterr().err
    assert "pip install onnx" in said and "make learn" not in said
    assert command("export", "net.safetensors", "--out", "net.pth") == 1
    assert "neither .onnx nor .pt2" in capsys.readouterr().err


def test_every_model_of_the_course_has_a_name_here():
    assert {MODELS[name] for name in MODELS} == set(models.__all__)
