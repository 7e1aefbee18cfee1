"""`benchmarks/nuclei.py` in small: a U-Net from scratch on real nuclei, scored at the images' own sizes."""

import importlib.util
import json
from pathlib import Path

import pytest
from torch.utils.data import Subset

from segviz.data import Folder
from segviz.training import evaluate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/nuclei.py as a module."""
    spec = importlib.util.spec_from_file_location("nuclei", ROOT / "benchmarks" / "nuclei.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nuclei(benchmark):
    """The same, where the images are."""
    if not benchmark.place().is_dir():
        pytest.skip(f"{benchmark.place()} is not there: SEGVIZ_REAL_DATA names the folder that holds nuclei/")
    return benchmark


def test_the_folder_is_read_whole(nuclei):
    """378, 81 and 79 images, of which 16 % are nuclei."""
    counts, nucleus, pixels = [], 0, 0
    for split in ("train", "val", "test"):
        data = Folder(nuclei.place(), split, nuclei.CLASSES)
        counts.append(len(data))
        for item in range(0, len(data), 8):
            image, mask = data[item]
            assert image.shape == (3, *mask.shape) and image.min() >= 0 and image.max() <= 1
            nucleus, pixels = nucleus + (mask == 1).sum().item(), pixels + mask.numel()
    assert counts == [378, 81, 79]
    assert 0.1 < nucleus / pixels < 0.25


@pytest.mark.slow
def test_a_small_unet_learns_to_find_nuclei(nuclei, one_thread):
    """Against what needs no learning: all pixels brighter than the mean, or all darker, of each image."""
    preset = {"width": 8, "steps": 150, "batch_size": 8, "lr": 4e-3, "crop": 96}
    network, took = nuclei.trained(preset, nuclei.place(), "cpu", show=False)
    data = Folder(nuclei.place(), "test", nuclei.CLASSES)
    some = Subset(data, range(0, len(data), 6))
    found = nuclei.scored(network, some, "cpu")
    assert found["images"] == len(some) == sum(size["images"] for size in found["sizes"].values())
    assert len(found["sizes"]) >= 3
    whole = evaluate(network, some, device="cpu", show=False)
    assert found["iou"] == pytest.approx(whole.class_iou[1].item(), abs=1e-4)  # one confusion matrix, not a mean

    def iou(labels):
        both = sum((one & (mask == 1)).sum().item() for one, (_, mask) in zip(labels, some, strict=True))
        either = sum((one | (mask == 1)).sum().item() for one, (_, mask) in zip(labels, some, strict=True))
        return both / either

    grey = [image.mean(0) for image, _ in some]
    guess = max(iou([g > g.mean() for g in grey]), iou([g < g.mean() for g in grey]))
    assert found["iou"] > guess + 0.1
    assert took["loss"] < 0.5


def test_the_kept_results_reach_their_bars(benchmark):
    kept = json.loads(benchmark.RESULTS.read_text())
    assert "cpu" in kept
    for name, found in kept.items():
        preset = benchmark.PRESETS[name]
        assert {key: found[key] for key in preset} == preset
        assert found["test"]["images"] == 79 and found["test"]["iou"] >= preset["bar"]
        assert min(size["iou"] for size in found["test"]["sizes"].values()) >= 0.75


def test_the_images_are_where_the_variable_says(benchmark, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGVIZ_REAL_DATA", str(tmp_path))
    assert benchmark.place() == tmp_path / "nuclei"
