"""Real pictures end to end by the command: `segviz train` with what it chooses itself, then every test image scored.

    python benchmarks/real.py --set cracks [--preset cpu|gpu] [--data DIR] [--threads 1] [--steps 40]
    python benchmarks/real.py --set nuclei

nuclei: the 2018 Data Science Bowl's, 378 images of several sizes; cracks: electron micrographs of coatings, 16 images
of 1024 x 1024, whose cracks are 0.27 % of the pixels. Both lie in ../shared/data, or in the folder that
SEGVIZ_REAL_DATA names, as `data.Folder` has it. A preset says how long and how wide; class weights, crops, augmentation
and learning rate are the command's own. The best network by val is scored on test, once; nothing is chosen by it.

What is stopped is taken up by the same command (build/real/SET/PRESET). With --steps (a trial) nothing is kept. Writes
data/results/real.json, numbers alone: no image of these data.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from segviz import runs, training
from segviz.runs.training import train

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "real.json"
CLASSES = {"nuclei": ("background", "nucleus"), "cracks": ("background", "oxide", "crack")}
PRESETS = {  # for one thread and 20 minutes, and for one GPU; the IoU of the last class that the test is to reach
    "nuclei": {
        "cpu": {"model": "unet", "width": 16, "size": 128, "steps": 2000, "bar": 0.75},
        "gpu": {"model": "unet", "width": 64, "size": 256, "steps": 6000, "bar": 0.83},
    },
    "cracks": {
        "cpu": {"model": "unet", "width": 8, "size": 256, "batch_size": 4, "steps": 1000, "channels": 1, "bar": 0.1},
        "gpu": {"model": "unet", "width": 64, "size": 512, "steps": 6000, "channels": 1, "bar": 0.3},
    },
}  # fmt: skip


def place(name: str) -> Path:
    """Where the images should lie."""
    return Path(os.environ.get("SEGVIZ_REAL_DATA", ROOT.parent / "shared" / "data")) / name


def trained(out: Path, data: Path, classes: tuple[str, ...], preset: dict, **options) -> dict:
    """What a run took, and its scores on test."""
    asked = {name: value for name, value in preset.items() if name not in ("model", "bar")}
    begun, before = (out / "options.json").exists(), _processor()
    history = train(out, preset["model"], str(data), resume=begun, **asked, **options)
    if history.interrupted:
        sys.exit("Stopped; the same command goes on from here.")
    chosen = json.loads((out / "options.json").read_text())["recipe"]
    told = {name: value for name, value in chosen.items() if name not in ("data", "classes")}  # not: where
    return {
        "recipe": told, "minutes": round(history.seconds / 60, 1),
        "processor minutes": None if begun else round((_processor() - before) / 60, 1),  # of the whole run, or not told
        "best step": max(history.val, key=lambda pair: pair[1].mean_iou)[0],
        "test": numbers(out, "test", classes, options.get("device")),
    }  # fmt: skip


def numbers(run: Path, split: str, classes: tuple[str, ...], device=None) -> dict:
    """IoU, recall and precision of each class, of one confusion matrix over the images of a split, at their sizes."""
    found = runs.evaluate(run, {"split": split}, device)
    counts, iou = found.scores.counts.double(), found.scores.class_iou.tolist()
    right, there, said = counts.diag(), counts.sum(1), counts.sum(0)
    return {"images": found.images, "mean IoU": round(found.scores.mean_iou, 4)} | {
        name: {
            "IoU": round(iou[label], 4), "recall": round((right / there)[label].item(), 4),
            "precision": round((right / said.clamp(min=1))[label].item(), 4),
            "share of the pixels": round((there / counts.sum())[label].item(), 5),
        }
        for label, name in enumerate(classes)
    }  # fmt: skip


def _processor() -> float:
    """Seconds of processor, of this process and of those that it ended."""
    both = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in both)


def machine(device: torch.device) -> dict:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {os.cpu_count()} cores"
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0], "date": datetime.date.today().isoformat()}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=PRESETS, required=True)
    parser.add_argument("--preset", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--data", type=Path, help="default: where SEGVIZ_REAL_DATA says")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--device", help="default: the fastest one here")
    parser.add_argument("--steps", type=int, help="a trial of so many steps, which is not kept")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    preset = PRESETS[given.set][given.preset] | ({"steps": given.steps} if given.steps else {})
    device, data = training.choose_device(given.device), given.data or place(given.set)
    options = {"device": device.type} | ({"workers": 0} if device.type == "cpu" else {})
    out = Path(tempfile.mkdtemp()) if given.steps else ROOT / "build" / "real" / given.set / given.preset
    found = {"preset": preset} | trained(out, data, CLASSES[given.set], preset, **options) | machine(device)
    print(json.dumps(found, indent=2))
    if given.steps:
        return shutil.rmtree(out)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[given.set] = kept.get(given.set, {}) | {given.preset: found}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"Written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
