"""Whether files keep up with the network: training from a folder of pictures beside the same loop on tensors in memory.

    python benchmarks/loading.py [--threads 2] [--device cpu] [--sizes 256 1024] [--steps 16] [--rounds 3]

Scenes of Toytown with camera noise are written as PNG or JPEG beside PNG masks, at several sizes. Then, for each:

stages    milliseconds of one process for one item, the median: the picture decoded, made a tensor, its mask read and
          checked, a crop cut out and augmented. "images a second" is what one loading process gives where nothing is
          kept; a device that trains so many times more images a second needs so many of them.
training  `fit`, images a second, on: crops that lie in memory as tensors, nothing left to do; the files, read anew each
          time, as where they are too many to be kept; the files as `Folder` has them, which keeps a quarter of a GiB,
          loaded by the process that trains, or by as many beside it as `segviz train` takes here. They take turns; of
          each the steps after a first epoch count, and the median of the rounds. "share" is of the first, by the clock;
          "of processor" the same of the training process's processor time, which other work on the machine leaves alone
          (with one thread: more wait for work by turning round).

Two networks: the U-Net that `segviz train` takes where nothing is said, and one of two convolutions that stands for
a device so fast that loading is all there is to see. On the CPU the device is the same cores: a loading process takes
its time from the network, and the share that is left is work / (work + loading), whoever loads; "loading" is what the
small network's images take more of the processor than those in memory: milliseconds, where the U-Net's own steps differ
by tens of them from one to the next. On a GPU loading is hidden as long as the processes together are faster than it.
Writes data/results/loading.json.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from segviz.data import Folder, Toytown, pictures
from segviz.data.toytown import CLASSES
from segviz.data.transforms import Augment
from segviz.models import UNet
from segviz.runs.sets import loaders
from segviz.training import choose_device, fit

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results" / "loading.json"
KINDS = {"png": {}, "jpg": {"quality": 90}}
COUNT, BATCH, CROP, WARM = 24, 8, 256, 3


def small(_width: int) -> nn.Module:
    """Hardly a network: what is left to see is how it is fed."""
    last = nn.Conv2d(8, len(CLASSES), 1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), last, nn.Upsample(scale_factor=4))


def unet(width: int) -> nn.Module:
    return UNet(len(CLASSES), width=width, norm=True)


class Timed(nn.Module):
    """A network that notes when it is called, the device having done all that came before."""

    def __init__(self, network: nn.Module, device: torch.device):
        super().__init__()
        self.network, self.device, self.times = network, device, []

    def forward(self, images):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append((time.perf_counter(), time.process_time()))
        return self.network(images)


def written(root: Path, size: int, kind: str) -> Folder:
    """Scenes as files."""
    scenes = Toytown("train", size, COUNT)
    for part in ("images", "masks"):
        (root / "train" / part).mkdir(parents=True)
    for item in range(COUNT):
        image, mask = scenes[item]
        noise = 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(item))
        pixels = (image + noise).clamp(0, 1).mul(255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(root / "train" / "images" / f"{item:03}.{kind}", **KINDS[kind])
        Image.fromarray(mask.byte().numpy()).save(root / "train" / "masks" / f"{item:03}.png")
    return Folder(root, "train", CLASSES)


def staged(data: Folder, augment: Augment) -> dict:
    """Milliseconds of one process for each stage of an item."""
    stages = {"decode": [], "to a tensor": [], "mask": [], "crop and augment": []}
    whole = []
    for item in range(len(data)):
        path, mask_path = data.pairs[item]
        times = [time.process_time()]
        pictures.opened(path)
        times.append(time.process_time())
        image = pictures.values(path).float().div_(255)
        times.append(time.process_time())
        mask = pictures.mask(mask_path)
        data._check_labels(mask_path, mask)
        times.append(time.process_time())
        augment(image, mask, torch.Generator().manual_seed(item))
        times.append(time.process_time())
        decode, both, *others = (end - begin for begin, end in itertools.pairwise(times))
        for stage, seconds in zip(stages.values(), (decode, both - decode, *others), strict=True):
            stage.append(1000 * seconds)
        whole.append(both + sum(others))
    found = {name: round(statistics.median(times), 2) for name, times in stages.items()}
    return found | {"images a second": round(1 / statistics.median(whole), 1)}


def cropped(data: Folder, augment: Augment) -> TensorDataset:
    """The same crops, made before."""
    items = [augment(*data[item], torch.Generator().manual_seed(item)) for item in range(len(data))]
    return TensorDataset(*map(torch.stack, zip(*items, strict=True)))


def paced(network: nn.Module, data, augment, workers: int, steps: int, device: torch.device) -> tuple[float, float]:
    """Seconds an image, after the first steps, by the clock and of this process's processor time."""
    timed = Timed(network, device)
    fit(timed, data, steps=WARM + steps, batch_size=BATCH, augment=augment, workers=workers, device=device, show=False)
    images = BATCH * (steps - 1)
    return tuple((end - begin) / images for begin, end in zip(timed.times[WARM], timed.times[-1], strict=True))


def told(clock: float, processor: float, clock_in_memory: float, processor_in_memory: float) -> dict:
    """Rates and shares of one contender."""
    return {
        "images a second": round(1 / clock, 2), "share": round(clock_in_memory / clock, 3),
        "processor ms an image": round(1000 * processor, 1),
        "of processor": round(processor_in_memory / processor, 3),
    }  # fmt: skip


def compared(data: Folder, augment: Augment, given: argparse.Namespace, device: torch.device) -> dict:
    """What each contender reaches, by network."""
    held, count = cropped(data, augment), loaders(str(data.root), device.type == "cuda")
    anew = Folder(data.root, "train", CLASSES, keep=0)
    contenders = {"in memory": (held, None, 0), "files, read anew": (anew, augment, 0), "files": (data, augment, 0)}
    if count:
        contenders |= {
            f"files, read anew, {count} loading": (anew, augment, count),
            f"files, {count} loading": (data, augment, count),
        }
    result = {}
    for name, made in {"U-Net": unet, "two convolutions": small}.items():
        rounds = {contender: [] for contender in contenders}
        for _ in range(given.rounds):
            for contender, (items, cut, workers) in contenders.items():
                torch.manual_seed(0)
                rounds[contender].append(paced(made(given.width), items, cut, workers, given.steps, device))
        medians = {contender: [statistics.median(side) for side in zip(*found, strict=True)]
                   for contender, found in rounds.items()}  # fmt: skip
        result[name] = {contender: told(*found, *medians["in memory"]) for contender, found in medians.items()}
    work, hardly = (each["in memory"]["processor ms an image"] for each in result.values())
    for contender in ("files, read anew", "files"):
        loading = result["two convolutions"][contender]["processor ms an image"] - hardly
        result["U-Net"][contender]["work / (work + loading)"] = round(work / (work + loading), 3)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the network, on the CPU")
    parser.add_argument("--device", help="default: the fastest one here")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="heights of the pictures")
    parser.add_argument("--width", type=int, help="of the U-Net; default: 16, on a GPU 64")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    given.width = given.width or (64 if device.type == "cuda" else 16)
    augment = Augment(crop=CROP, scale=(0.75, 1.33), brightness=0.1, contrast=0.1)  # those of `segviz train`
    found = {}
    for size in given.sizes:
        for kind in KINDS:
            print(f"{size} x {size}, {kind}", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as place:
                data = written(Path(place), size, kind)
                found[f"{size} x {size}, {kind}"] = {
                    "stages, ms": staged(data, augment), "training": compared(data, augment, given, device),
                }  # fmt: skip
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {os.cpu_count()} cores"
    report = {
        "device": name, "threads": given.threads, "width": given.width, "batch": BATCH, "crop": CROP,
        "steps": given.steps, "rounds": given.rounds, "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0], "date": datetime.date.today().isoformat(), "pictures": found,
    }  # fmt: skip
    print(json.dumps(report, indent=2))
    given.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
