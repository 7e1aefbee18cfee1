"""U-Net from scratch on real nuclei: how well it finds them in images that it has not seen.

    python benchmarks/nuclei.py [--preset cpu|gpu] [--data DIR] [--threads 2] [--steps 40]

The data are those of the 2018 Data Science Bowl in the layout of `data.Folder`, a folder with train/, val/ and test/
(nuclei; "0 background, 1 nucleus"): ../shared/data/nuclei, or nuclei in the folder that SEGVIZ_REAL_DATA names. Images
are of many sizes; training takes random crops of them, the scores are those of whole images at their own sizes, from
one confusion matrix. The test part is scored once, at the end: nothing is chosen by it.

The preset "cpu" is for two cores and 20 minutes (bar: IoU of the nuclei 0.75), "gpu" for the paper's width on one GPU
(bar: 0.83). What is stopped is taken up by the same command: the run is kept in build/nuclei/PRESET. With --steps (a
trial) nothing is kept. Writes data/results/nuclei.json, numbers alone: no image of these data.
"""

import argparse
import datetime
import json
import os
import platform
import sys
import time
from pathlib import Path

import torch
from torch.utils.data import Subset

from segviz.data import Folder
from segviz.data.transforms import Augment
from segviz.models import UNet
from segviz.training import Scores, choose_device, evaluate, fit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "nuclei.json"
CLASSES = ("background", "nucleus")
PRESETS = {  # how wide; how it is trained; the size of the crops; the IoU to reach
    "cpu": {"width": 16, "steps": 2000, "batch_size": 8, "lr": 3e-3, "crop": 128, "bar": 0.75},
    # more capacity, and so more against learning by heart; eight processes load, which take 8 ms an item
    "gpu": {"width": 64, "steps": 6000, "batch_size": 16, "lr": 1e-3, "crop": 256, "bar": 0.83,
            "elastic": 4.0, "dropout": 0.5, "workers": 8},
}  # fmt: skip


def place() -> Path:
    """Where the images should lie."""
    return Path(os.environ.get("SEGVIZ_REAL_DATA", ROOT.parent / "shared" / "data")) / "nuclei"


def trained(preset: dict, data: Path, device=None, folder=None, show=None) -> tuple[UNet, dict]:
    """A network trained by a preset, and what that took."""
    torch.manual_seed(0)
    network = UNet(len(CLASSES), width=preset["width"], norm=True, dropout=preset.get("dropout", 0.0))
    augment = Augment(
        crop=preset["crop"], scale=(0.7, 1.4), brightness=0.15, contrast=0.15, turns=True,
        elastic=preset.get("elastic", 0.0),
    )  # fmt: skip
    recipe = {name: preset[name] for name in ("steps", "batch_size", "lr", "workers") if name in preset}
    begun, clock = folder is not None and (folder / "last.safetensors").exists(), time.process_time()
    history = fit(
        network, Folder(data, "train", CLASSES), augment=augment, device=device, show=show, title="nuclei",
        folder=folder, resume=folder is not None, **recipe,
    )  # fmt: skip
    if history.interrupted:
        sys.exit("Stopped; the same command goes on from here.")
    return network, {
        "parameters": sum(weight.numel() for weight in network.parameters()), "augment": repr(augment),
        "seconds": round(history.seconds),
        "processor seconds": None if begun else round(time.process_time() - clock),  # of the whole run, or not told
        "loss": round(sum(history.loss[-100:]) / len(history.loss[-100:]), 4),
    }  # fmt: skip


def scored(network: UNet, data: Folder, device=None) -> dict:
    """IoU of the nuclei over all images, and over those of each size (height x width)."""
    sizes: dict[str, list[int]] = {}
    for item in range(len(data)):
        sizes.setdefault(" x ".join(map(str, data[item][1].shape)), []).append(item)
    parts = {
        size: evaluate(network, Subset(data, items), batch_size=4, device=device, classes=CLASSES)
        for size, items in sorted(sizes.items())
    }
    first, *others = parts.values()
    return {"images": len(data)} | numbers(sum(others, start=first)) | {
        "sizes": {size: {"images": len(sizes[size])} | numbers(scores) for size, scores in parts.items()}
    }  # fmt: skip


def numbers(scores: Scores) -> dict:
    return {"iou": round(scores.class_iou[1].item(), 4), "pixel accuracy": round(scores.pixel_accuracy, 4)}


def machine(device: torch.device) -> dict:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {os.cpu_count()} cores"
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0], "date": datetime.date.today().isoformat()}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", type=Path, default=place())
    parser.add_argument("--threads", type=int, help="default: torch's own, one a core")
    parser.add_argument("--device", help="default: the fastest one here")
    parser.add_argument("--steps", type=int, help="a trial of so many steps, which is not kept")
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    preset = PRESETS[given.preset] | ({"steps": given.steps} if given.steps else {})
    device, folder = choose_device(given.device), ROOT / "build" / "nuclei" / given.preset
    network, took = trained(preset, given.data, device, None if given.steps else folder)
    found = preset | took | machine(device)
    found |= {split: scored(network, Folder(given.data, split, CLASSES), device) for split in ("val", "test")}
    print(json.dumps(found, indent=2))
    if not given.steps:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(kept | {given.preset: found}, indent=2) + "\n")
        print(f"Written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
