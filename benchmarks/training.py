"""How fast a network trains, and in how much memory: `fit` beside torchvision's own recipe, in one run.

    python benchmarks/training.py [--size 512] [--batch 8] [--width 64] [--steps 30] [--device cuda] [--out FILE]

The network is FCN-8s as in its paper (width 64, padding 100), with the same first weights, images and optimizer (SGD)
each time; 21 classes, images and labels drawn at random, kept in memory. Peers:

torchvision        the steps of its reference for segmentation (references/segmentation/train.py): forward, mean
                   cross-entropy, zero_grad, backward, step, schedule, and the loss read after each step; float32
torchvision, amp   the same with its --amp: float16 autocast and a gradient scaler; CUDA only
fit                `segviz.training.fit` as a learner calls it: on CUDA bfloat16, channels_last, fused
fit, compiled      the same with compile=True; CUDA only

A contender trains `--steps` steps; the first third of them warms up and is left out. They take turns, `--rounds` times,
and the median counts, because machines slow down and speed up. Memory is the peak that torch's allocator held; on the
CPU it is not measured. Writes data/results/training.json on CUDA, and prints everywhere.
"""

import argparse
import copy
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from segviz.models import FCN8s
from segviz.training import fit

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results" / "training.json"
CLASSES, RATE = 21, 1e-6  # so low that no contender diverges


def scenes(count: int, size: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    labels = torch.randint(0, CLASSES, (count, size, size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = 255
    return TensorDataset(images, labels)


class Clocked(Dataset):
    """The data, and a clock that starts when the first item of the first step to be measured is asked for and the
    device has done all that came before. Items are loaded in this process, so that each step asks for its own."""

    def __init__(self, data: Dataset, device: torch.device, warm: int):
        self.data, self.device, self.warm, self.asked, self.start = data, device, warm, 0, 0.0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        if self.asked == self.warm:
            self.start = self.now()
        self.asked += 1
        return self.data[index]

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def seconds(self) -> float:
        """An item's, since the warm ones."""
        return (self.now() - self.start) / (self.asked - self.warm)


def theirs(network: nn.Module, data, batch: int, steps: int, device: torch.device, amp: bool) -> None:
    """torchvision's recipe, written anew: the same steps in the same order."""
    network.to(device).train()
    pinned = device.type == "cuda"
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, pin_memory=pinned)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    scaler = torch.amp.GradScaler(device.type) if amp else None
    done = 0
    while done < steps:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, torch.float16, enabled=amp):
                loss = nn.functional.cross_entropy(network(images), labels, ignore_index=255)
            optimizer.zero_grad()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            schedule.step()
            loss.item()  # for the meter that it prints
            done += 1
            if done == steps:
                return


def ours(network: nn.Module, data, batch: int, steps: int, device: torch.device, compile: bool) -> None:
    options = {"lr": RATE, "optimizer": "sgd", "device": device, "compile": compile, "show": False}
    fit(network, data, steps=steps, batch_size=batch, **options)


def measured(train, first: nn.Module, data, batch: int, steps: int, device: torch.device, option: bool) -> dict:
    """Seconds a step and the peak of memory of one contender, which begins with the weights of `first`."""
    network = copy.deepcopy(first)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    clocked = Clocked(data, device, warm=steps // 3 * batch)
    train(network, clocked, batch, steps, device, option)
    found = {"seconds": batch * clocked.seconds()}
    if device.type == "cuda":
        found["peak"] = torch.cuda.max_memory_allocated(device)
    return found


def report(size: int, batch: int, width: int, steps: int, rounds: int, device: torch.device) -> dict:
    torch.manual_seed(0)
    first = FCN8s(CLASSES, width=width, padding=100)
    data, cuda = scenes(4 * batch, size), device.type == "cuda"
    contenders = {"torchvision": (theirs, False), "fit": (ours, False)}
    if cuda:
        contenders |= {"torchvision, amp": (theirs, True), "fit, compiled": (ours, True)}
    runs = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, (train, option) in contenders.items():
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            runs[name].append(measured(train, first, data, batch, steps, device, option))
    results = {}
    for name, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        results[name] = {"images a second": round(batch / seconds, 2), "ms a step": round(1000 * seconds, 1)}
        if cuda:
            results[name]["peak memory, GiB"] = round(max(run["peak"] for run in found) / 2**30, 2)
    for name in results:
        results[name]["times torchvision"] = round(
            results[name]["images a second"] / results["torchvision"]["images a second"], 2
        )
    return {
        "network": f"FCN-8s, width {width}, padding 100, {sum(p.numel() for p in first.parameters())} parameters",
        "size": size, "batch": batch, "steps": steps, "rounds": rounds,
        "device": torch.cuda.get_device_name(device) if cuda else f"{device.type}, {torch.get_num_threads()} threads",
        "python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__,
        "results": results,
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="default: data/results/training.json on CUDA, else none")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    found = report(given.size, given.batch, given.width, given.steps, given.rounds, device)
    print(json.dumps(found, indent=2))
    out = given.out or (RESULTS if device.type == "cuda" else None)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
