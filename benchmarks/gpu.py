"""What the networks at the papers' width do on one GPU, each beside a named peer on the same images in the same run.

    python benchmarks/gpu.py [--only throughput,files] [--networks UNet] [--minutes 9] [--out DIR] [--again] [--small]

throughput   training images a second and peak memory: torchvision's recipe (`training.py`; float32, and amp), `fit` as
             a learner calls it, compiled, and with cudnn.benchmark; and the model of the same name that others train
             (segmentation_models_pytorch; torchvision's fcn_resnet50 for FCN-8s) by the recipe and by `fit`. Images of
             noise in memory: the work is the same
kernels      where the time of a step of `fit` goes, by the device's kernels, and how busy the device is
files        images a second of `fit`, compiled, from PNG files read anew each time, beside the same from tensors in
             memory (the aim: 0.9 of it)
time_to      mean IoU on Toytown against seconds of training, one run each: the recipe with its own optimizer, the
             recipe with `fit`'s, and `fit`; and what the last predicts, as pictures
ddp          `fit` through DistributedDataParallel with one process (NCCL) beside `fit`: losses, weights, speed. Runs
             under `torchrun --nproc-per-node 1` too
crf          the exact CRF (crf.py)
pictures     charts of what is recorded (gpu_charts.py); measures nothing

Contenders take turns, and medians count. Each piece is written to DIR/gpu.json as soon as it is done, with device,
versions, date and settings, and is not measured again with the same settings, unless --again. --minutes: no piece is
begun that would end later, if it took as long as the longest so far. DIR: data/results, which takes nothing that was
measured without CUDA, or at --small (for a trial, in seconds on a CPU).
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

import gpu_charts
import torch
from gpu_parts import PARTS, Asked
from training import NETWORKS

from segviz.data.toytown import CLASSES
from segviz.training import choose_device

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results"
SPEED = {"width": 64, "size": 512, "batch_size": 16, "classes": 21, "workers": 12, "lr": 1e-6}  # no contender diverges
SETTINGS = {  # width of the networks, height and width of the images
    "throughput": SPEED | {"steps": 24, "warm": 8, "rounds": 3},
    "kernels": SPEED | {"steps": 12, "warm": 8},
    "files": SPEED | {"steps": 60, "warm": 20, "rounds": 3, "workers": 14, "scenes": 256, "classes": len(CLASSES)},
    "time_to": {"width": 64, "size": 256, "batch_size": 32, "steps": 600, "val_every": 50, "scenes": 2000, "val": 100,
                "workers": 8, "targets": [0.4, 0.5, 0.6, 0.7], "lr": 1e-3, "lr without batch norm": 1e-4},
    "ddp": SPEED | {"size": 256, "steps": 40, "warm": 10, "rounds": 3, "workers": 4, "lr": 1e-3},
    "crf": {"sizes": ["500x375"], "classes": 21, "threads": 2},
}  # fmt: skip
FEW = {"width": 2, "size": 32, "batch_size": 2, "steps": 3, "warm": 1, "workers": 0}
SMALL = {
    "throughput": FEW | {"rounds": 1}, "kernels": FEW, "ddp": FEW | {"rounds": 1},
    "files": FEW | {"size": 48, "rounds": 1, "workers": 1, "scenes": 4},
    "time_to": FEW | {"size": 48, "val_every": 2, "scenes": 4, "val": 2, "targets": [0.0, 1.0]},
    "crf": {"sizes": ["32x24"], "classes": 3, "threads": 1},
}  # fmt: skip


def machine(device: torch.device) -> dict:
    """Where and with what it was measured."""
    cuda = device.type == "cuda"
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "segmentation-models-pytorch", "triton"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if cuda:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    name = torch.cuda.get_device_name(device) if cuda else "cpu"
    return {"device": name, "cores": os.cpu_count(), "versions": versions, "date": datetime.date.today().isoformat()}


class Results:
    """The file of results: what is in it, and a piece more, written at once, whole or not at all."""

    def __init__(self, path: Path):
        self.path = path
        self.parts = json.loads(path.read_text()) if path.exists() else {}

    def has(self, part: str, name: str, settings: dict) -> bool:
        return self.parts.get(part, {}).get(name, {}).get("settings") == settings

    def add(self, part: str, name: str, entry: dict) -> None:
        self.parts.setdefault(part, {})[name] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begun = self.path.with_suffix(".part")
        begun.write_text(json.dumps(self.parts, indent=2) + "\n")
        begun.replace(self.path)


def measure(parts: list[str], asked: Asked, settings: dict, results: Results, minutes: float, again: bool) -> list[str]:
    """Measures the pieces of the parts that are not there yet; returns those for which no time was left."""
    begun, longest, left = time.monotonic(), 0.0, []
    for part in parts:
        mine = asked._replace(set=settings[part])
        for name, piece in PARTS[part](mine).items():
            start = time.monotonic()
            if not again and results.has(part, name, mine.set):
                print(f"{part}, {name}: there already", file=sys.stderr)
            elif start - begun + longest >= 60 * minutes:
                left.append(f"{part}, {name}")
            else:
                print(f"{part}, {name}", file=sys.stderr, flush=True)
                found = piece()
                seconds = time.monotonic() - start
                longest = max(longest, seconds)
                took = {"seconds in all": round(seconds, 1), "settings": mine.set, **machine(asked.device)}
                results.add(part, name, found | took)
                print(json.dumps({part: {name: found}}, indent=1), flush=True)
    return left


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join([*PARTS, "pictures"]), help="parts, separated by commas")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing that would end later")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder for results (default: data/results)")
    parser.add_argument("--device", help="default: the fastest one here")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--small", action="store_true", help="a trial in seconds, which measures nothing")
    given = parser.parse_args(arguments)
    parts, names, device = given.only.split(","), given.networks.split(","), choose_device(given.device)
    if unknown := {*parts} - {*PARTS, "pictures"} | {*names} - {*NETWORKS}:
        parser.error(f"{', '.join(sorted(unknown))}: parts are {', '.join(PARTS)}, pictures; networks {NETWORKS}")
    measured_here, trial = [part for part in parts if part != "pictures"], given.small or device.type != "cuda"
    if measured_here and trial and RESULTS in (given.out.resolve(), *given.out.resolve().parents):
        parser.error(f"{RESULTS} takes figures of a GPU at the papers' size alone: give another folder with --out")
    asked, settings = Asked(names, {}, device, given.out), {part: SETTINGS[part] for part in PARTS}
    if given.small:
        settings = {part: SETTINGS[part] | SMALL[part] for part in PARTS}
    results = Results(given.out / "gpu.json")
    left = measure(measured_here, asked, settings, results, given.minutes, given.again)
    if "pictures" in parts:
        gpu_charts.draw(results.parts, given.out)
    if left:
        sys.exit(f"No time was left for {'; '.join(left)}: the same command goes on from here.")


if __name__ == "__main__":
    main()
