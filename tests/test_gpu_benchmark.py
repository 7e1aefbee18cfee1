"""`benchmarks/gpu.py` in small, on the CPU: every part from end to end; what it compares does the same work."""

import copy
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from segviz import models

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
PARTS = ("throughput", "kernels", "files", "time_to", "ddp", "crf")


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/NAME.py as a module, by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


@pytest.fixture(scope="module")
def training(benchmark, one_thread):
    return benchmark("training")


def items(count: int = 2, classes: int = 3) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (count, 32, 32), generator=generator)
    labels[:, :3] = 255
    return TensorDataset(torch.rand(count, 3, 32, 32, generator=generator), labels)


def changes(before, after) -> dict[str, torch.Tensor]:
    old = dict(before.named_parameters())
    return {name: (weight - old[name]).detach() for name, weight in after.named_parameters()}


def test_the_recipe_and_fit_train_alike(training):
    """Where nothing but how it is run may differ, the weights come out the same: so the contenders do the same work."""
    torch.manual_seed(0)
    first = models.UNet(3, width=2, depth=2, norm=True, dropout=0.0)
    told = {"batch_size": 2, "lr": 0.01, "optimizer": "sgd", "workers": 0}
    after = []
    for train in (training.torchvision_recipe, training.fitted):
        network, clock = copy.deepcopy(first), training.Clock(CPU, 5, 1)
        train(network, items(), clock, **told)  # each batch is both items
        assert clock.done == 5 and clock.begun < clock.start < clock.end
        after.append(changes(first, network))
    for name, change in after[0].items():
        assert change.abs().max() > 1e-5 or name.endswith("bias"), name
        torch.testing.assert_close(after[1][name], change, rtol=1e-3, atol=1e-6)


def test_the_recipe_with_amp_trains_nearly_as_in_float32(training):
    torch.manual_seed(0)
    first = models.UNet(3, width=2, depth=2, norm=True, dropout=0.0)
    after = []
    for amp in (False, True):
        network = copy.deepcopy(first)
        training.torchvision_recipe(network, items(), training.Clock(CPU, 3), batch_size=2, workers=0, amp=amp)
        after.append(torch.cat([change.flatten() for change in changes(first, network).values()]))
    assert 0 < (after[0] - after[1]).norm() < 0.1 * after[0].norm()


def test_a_second_head_counts_half_and_learns_ten_times_as_fast(training):
    torch.manual_seed(0)
    first = models.PSPNet(3, width=2, layers=(1, 1, 1, 1), auxiliary=True)
    first.auxiliary_weight = 0.5
    for layer in first.modules():
        if isinstance(layer, torch.nn.Dropout2d):
            layer.p = 0.0
    after = []
    for train in (training.torchvision_recipe, training.fitted):
        network = copy.deepcopy(first)
        train(network, items(), training.Clock(CPU, 1), batch_size=2, lr=0.01, optimizer="sgd", workers=0)
        after.append(changes(first, network))
    heads = [name for name in after[0] if name.startswith("auxiliary")]
    assert len(heads) == 5
    for name, change in after[0].items():
        torch.testing.assert_close(change, after[1][name] * (10 if name in heads else 1), rtol=1e-3, atol=1e-6)


def test_scoring_takes_no_time_of_the_clock(training, monkeypatch):
    clock = training.Clock(CPU, 2)
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: time.sleep(0.3) or type("Scores", (), {"mean_iou": 0.5}))
    for _ in range(2):
        clock.stepped()
        clock.scored(None, None)
    (one, before, _), (two, after, score) = clock.curve
    assert (one, two, score) == (1, 2, 0.5) and before <= after and clock.paused >= 0.6
    assert after <= time.perf_counter() - clock.begun - 0.6


def test_one_that_fails_leaves_the_others_their_figures(training, capsys):
    def broken(network, clock):
        raise RuntimeError("no memory")

    def works(network, clock):
        for _ in range(clock.steps):
            clock.stepped()

    def lazy(network, clock):
        clock.stepped()

    ways = {"works": works, "broken": broken, "lazy": lazy}
    contenders = {name: (torch.nn.Identity(), train) for name, train in ways.items()}
    found = training.compared(contenders, CPU, batch_size=2, steps=3, warm=1, rounds=3)
    assert found["broken"] == {"failed": "RuntimeError: no memory"}
    assert found["lazy"] == {"failed": "RuntimeError: 1 steps were counted, not 3"}
    assert found["works"]["times"] == 1 and len(found["works"]["each round"]) == 3
    assert "no memory" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["data/results", "data/results/gpu"])
def test_no_figure_without_a_gpu(benchmark, folder, capsys):
    gpu = benchmark("gpu")
    for trial in (["--small"], ["--device", "cpu"]):
        with pytest.raises(SystemExit) as stop:
            gpu.main([*trial, "--only", "crf", "--out", str(ROOT / folder)])
        assert stop.value.code == 2 and "give another folder with --out" in capsys.readouterr().err


def test_a_piece_is_measured_once_with_its_settings_and_begun_while_there_is_time(benchmark, tmp_path, monkeypatch):
    gpu, counted = benchmark("gpu"), []

    def measured(name: str) -> dict:
        counted.append(name)
        return {"found": len(counted)}

    monkeypatch.setitem(gpu.PARTS, "crf", lambda asked: {"one": lambda: measured("one")})
    told = ["--only", "crf", "--device", "cpu", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="No time was left for crf, one: the same command goes on"):
        gpu.main([*told, "--minutes", "0"])
    assert not counted and not list(tmp_path.iterdir())
    for more, calls in (([], 1), ([], 1), (["--small"], 2), (["--small", "--again"], 3)):
        gpu.main([*told, *more])
        assert len(counted) == calls
    entry = json.loads((tmp_path / "gpu.json").read_text())["crf"]["one"]
    assert entry["found"] == 3 and entry["settings"]["sizes"] == ["32x24"] and entry["device"] == "cpu"
    assert entry["versions"]["torch"] == torch.__version__.split("+")[0] or "+" in entry["versions"]["torch"]
    with pytest.raises(SystemExit):
        gpu.main([*told, "--networks", "VNet"])


@pytest.mark.slow
def test_every_part_runs_small(tmp_path):
    command = [sys.executable, "-W", "error", ROOT / "benchmarks" / "gpu.py", "--small", "--device", "cpu"]
    subprocess.run([*command, "--networks", "UNet,PSPNet", "--out", tmp_path], check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found) == set(PARTS)
    for name in ("UNet", "PSPNet"):
        for row in found["throughput"][name]["contenders"].values():
            assert row["images a second"] > 0
        entry = found["time_to"][name]
        for way in ("torchvision's recipe", "torchvision's recipe, AdamW", "fit"):
            steps, seconds, scores = zip(*entry[way]["curve"], strict=True)
            assert steps == (2, 3) and 0 < seconds[0] < seconds[1] and all(0 <= score <= 1 for score in scores)
            assert entry[way]["seconds to a mean IoU of"] == {"0.0": seconds[0], "1.0": None}
        assert found["kernels"][name]["longest, ms a step"]
    assert found["files"]["UNet"]["files against the faster from memory"] > 0
    together = found["ddp"]["UNet"]
    assert together["largest difference of the loss"] < 1e-5
    assert together["largest difference of a weight"] < 1e-4 < together["largest change of a weight by training"]
    assert len(found["crf"]) == 2 and all(row["seconds"] > 0 for row in found["crf"].values())
    assert {path.name for path in (tmp_path / "gpu").iterdir()} == {"UNet.png", "PSPNet.png", "throughput.png",
                                                                     "time_to.png"}  # fmt: skip
