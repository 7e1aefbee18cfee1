"""Real pictures, nuclei and cracks, where they are: `segviz train` in small, and what the benchmarks recorded."""

import importlib.util
import json
from pathlib import Path

import pytest
from torch.utils.data import Subset

from segviz import cli
from segviz.data import Folder
from segviz.training import evaluate

ROOT = Path(__file__).parents[1]


def loaded(name: str):
    """benchmarks/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark():
    return loaded("nuclei")


@pytest.fixture(scope="module")
def real():
    return loaded("real")


@pytest.fixture
def nuclei(benchmark):
    """The same, where the images are."""
    there(benchmark.place())
    return benchmark


def there(place: Path) -> Path:
    if not place.is_dir():
        pytest.skip(f"{place} is not there: SEGVIZ_REAL_DATA names the folder that holds {place.name}/")
    return place


@pytest.fixture
def trained(real, tmp_path, one_thread, monkeypatch):
    """`segviz train` on all training images of a set; the scores of its network on every so many test images."""

    def run(name: str, every: int, *options) -> dict:
        place, data, out = there(real.place(name)), tmp_path / name, tmp_path / "-".join(["run", *options])
        for part in ("images", "masks"):
            (data / "test" / part).mkdir(parents=True, exist_ok=True)
            for path in sorted((place / "test" / part).iterdir())[::every]:
                link(data / "test" / part / path.name, path)
        link(data / "train", place / "train")                                  # no val: nothing is scored on the way
        given = ["train", "--data", data, "--out", out, "--device", "cpu", "--workers", "0", *options]
        monkeypatch.setattr("sys.argv", ["segviz", *map(str, given)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        return real.numbers(out, "test", real.CLASSES[name], "cpu")

    return run


def link(path: Path, to: Path) -> None:
    if not path.exists():
        path.symlink_to(to)


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


@pytest.mark.slow
def test_the_command_learns_to_find_nuclei(trained):
    """By what it chooses itself: 16 % of the pixels are nuclei."""
    found = trained("nuclei", 8, "--width", "8", "--size", "96", "--steps", "120")
    assert found["images"] == 10
    assert found["nucleus"]["IoU"] > 0.5 and found["background"]["IoU"] > 0.85


@pytest.mark.slow
def test_the_command_finds_cracks_that_are_a_four_hundredth_of_the_pixels(trained):
    """By what it chooses itself, class weights and crops that show them; where it is told to do neither, it does not
    find them in that time."""
    small = ("--width", "8", "--size", "128", "--batch-size", "4", "--channels", "1", "--steps", "200")
    found, control = trained("cracks", 3, *small), trained("cracks", 3, *small, "--weights", "none")
    crack, ignored = found["crack"], control["crack"]
    assert found["images"] == 1 and crack["share of the pixels"] < 0.004
    assert crack["recall"] > 0.3 and crack["IoU"] > 0.03
    assert ignored["recall"] < 0.05 and ignored["IoU"] < 0.01
    assert found["oxide"]["IoU"] > 0.2


def test_the_kept_results_of_the_command_reach_their_bars(real):
    kept = json.loads(real.RESULTS.read_text())
    assert "cpu" in kept["cracks"]
    for name, presets in kept.items():
        for preset, found in presets.items():
            assert found["preset"] == real.PRESETS[name][preset]
            *_, last = (value for value in found["test"].values() if isinstance(value, dict))
            assert last["IoU"] >= found["preset"]["bar"]


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
