"""Trains the small networks of data/checkpoints/, which lessons and pages show where there is no time to train.

    python benchmarks/checkpoints.py [--only fcn8s] [--steps 50]

Toytown at 96 x 96, fixed seeds, AdamW, augmented. Each is written with its weights as float16, what it was trained on
and how, and its mean IoU on Toytown's test split: that of the weights as they are read from the file. What is stopped
is taken up by the same command: runs are kept in build/checkpoints/ until they are done. A file is the same to the bit
where the same versions run on the same machine; elsewhere it is as good. Each takes one core: two at a time fit on two.
With --steps (a trial) nothing is kept.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from segviz import checkpoint, models, runs
from segviz.data import Toytown
from segviz.data.transforms import Augment
from segviz.training import fit

ROOT = Path(__file__).resolve().parents[1]
FOLDER, RUNS = ROOT / "data" / "checkpoints", ROOT / "build" / "checkpoints"
SIZE, CLASSES = 96, 10
DATA = {"name": "toytown", "split": "test", "size": SIZE, "length": 200, "seed": 0}
NETWORKS = {  # name: (how to build it, how to train it)
    "fcn8s": (lambda: models.FCN8s(CLASSES, width=8, padding=1), {"steps": 2500, "batch_size": 12, "lr": 3e-3}),
    "deconvnet": (lambda: models.DeconvNet(CLASSES, width=8, size=SIZE), {"steps": 2000, "batch_size": 16, "lr": 5e-3}),
}
# All models of the course with about half a million weights each, for the last lesson. Rates of atrous convolutions are
# those of the papers, made smaller with the images. Without batch norm lr=3e-3; with it, 5e-3.
SAME = {"steps": 2500, "batch_size": 12}
PLAIN, NORMED = SAME | {"lr": 3e-3}, SAME | {"lr": 5e-3}
NETWORKS |= {f"half_million/{name}": each for name, each in {
    "fcn32s": (lambda: models.FCN32s(CLASSES, width=4, padding=1), PLAIN),
    "fcn16s": (lambda: models.FCN16s(CLASSES, width=4, padding=1), PLAIN),
    "fcn8s": (lambda: models.FCN8s(CLASSES, width=4, padding=1), PLAIN),
    "hypercolumn": (lambda: models.Hypercolumn(CLASSES, width=4), PLAIN),
    "deconvnet": (lambda: models.DeconvNet(CLASSES, width=5, size=SIZE), NORMED),
    "unet": (lambda: models.UNet(CLASSES, width=8, norm=True), NORMED),
    "pspnet": (lambda: models.PSPNet(CLASSES, width=7), NORMED),
    "deeplabv1": (lambda: models.DeepLabV1(CLASSES, width=10, rate=4), PLAIN),
    "deeplabv2": (lambda: models.DeepLabV2(CLASSES, width=6, rates=(1, 2, 3, 4)), NORMED),
    "deeplabv3": (lambda: models.DeepLabV3(CLASSES, width=7, output_stride=16, rates=(1, 2, 3), dilate_first=True,
                                           align_corners=True), NORMED),
    "deeplabv3plus": (lambda: models.DeepLabV3Plus(CLASSES, width=9, rates=(1, 2, 3)), NORMED),
}.items()}
SCENES = 2000  # to train on
FLIP = Augment(flip=0.5)


def trained(name: str, steps: int | None, run: Path) -> tuple[nn.Module, dict]:
    """The network, and what its file says of how it was trained. run: the folder where it is kept meanwhile."""
    build, recipe = NETWORKS[name]
    recipe = recipe | ({"steps": steps} if steps else {})
    torch.manual_seed(0)
    network, start = build(), time.perf_counter()
    scenes = Toytown("train", SIZE, min(SCENES, recipe["steps"] * recipe["batch_size"]))
    history = fit(network, scenes, augment=FLIP, device="cpu", title=name, folder=run, resume=True, **recipe)
    if history.interrupted:
        sys.exit("Stopped; the same command goes on from here.")
    print(f"{name}: {time.perf_counter() - start:.0f} s")
    return network, recipe | {"scenes": len(scenes), "flip": 0.5, "torch": torch.__version__.split("+")[0]}


def write(path: Path, network: nn.Module, config: dict) -> None:
    """The weights as float16, everything else as it is, and the score that they then have."""
    weights = {f"model.{name}": tensor.half() if tensor.is_floating_point() else tensor
               for name, tensor in network.state_dict().items()}
    config = checkpoint.describe(network) | config | {"data": DATA}
    checkpoint.save(path, weights, config)
    score = runs.evaluate(path, {}, "cpu").scores.mean_iou
    checkpoint.save(path, weights, config | {"score": score})
    print(runs.evaluate(path, {}, "cpu"), f"\n{path.stat().st_size / 1e6:.2f} MB", sep="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--steps", type=int, help="a trial of so many steps: nothing is kept")
    given = parser.parse_args()
    torch.set_num_threads(1)  # sums are always added in the same order
    with tempfile.TemporaryDirectory() as trial:
        folder = Path(trial) if given.steps else FOLDER
        for name in given.only.split(","):
            run = (folder if given.steps else RUNS) / name
            network, recipe = trained(name, given.steps, run)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / f"{name}.safetensors", network, {"trained": recipe})
            shutil.rmtree(run)


if __name__ == "__main__":
    main()
