"""The parts of `gpu.py`, which says what each measures. A part gives its pieces: functions without arguments, which
measure, and give what is written of it."""

import copy
import functools
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import crf
import gpu_charts
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.autograd import DeviceType
from torch.utils.data import DataLoader, TensorDataset
from training import Clock, Repeated, compared, described, fitted, measured, network, peer, torchvision_recipe

from segviz.data import Folder, Toytown
from segviz.data.toytown import CLASSES
from segviz.data.transforms import Augment
from segviz.runs import pictures


class Asked(NamedTuple):
    names: list[str]  # of networks
    set: dict  # the part's settings
    device: torch.device
    folder: Path  # where results go


Pieces = dict[str, Callable[[], dict]]  # what measures each, by its name in the results


@functools.lru_cache(maxsize=1)
def noise(count: int, size: int, classes: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    labels = torch.randint(0, classes, (count, size, size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.05] = 255
    return TensorDataset(images, labels)


@functools.lru_cache(maxsize=2)
def scenes(split: str, size: int, count: int, workers: int) -> TensorDataset:
    """Toytown, drawn by several processes and held in memory."""
    print(f"  drawing {count} scenes", file=sys.stderr, flush=True)
    batches = DataLoader(Toytown(split, size, count), 8, num_workers=workers)
    images, masks = (torch.cat(part) for part in zip(*batches, strict=True))
    return TensorDataset(images, masks)


def noises(s: dict) -> Repeated:
    return Repeated(noise(4 * s["batch_size"], s["size"], s["classes"]), s["steps"] * s["batch_size"])


def some(s: dict, *names: str) -> dict:
    return {name: s[name] for name in names}


def training(how, data, told: dict, **more):
    """A contender: trains a network by `how` on these data, with these options."""
    return lambda model, clock: how(model, data, clock, **told | more)


def throughput(asked: Asked) -> Pieces:
    return {name: partial(_throughput, name, asked.set, asked.device) for name in asked.names}


def _throughput(name: str, s: dict, device: torch.device) -> dict:
    told = some(s, "lr", "batch_size", "workers") | {"optimizer": "sgd"}
    plain, ours = (partial(training, how, noises(s), told) for how in (torchvision_recipe, fitted))
    first = network(name, s["classes"], s["width"])
    found = {"network": {"name": name, **described(first, s["size"])}}
    contenders = {"torchvision's recipe": plain(), "fit": ours()}
    if device.type == "cuda":
        contenders |= {"torchvision's recipe, amp": plain(amp=True), "fit, cudnn.benchmark": ours(tuned=True),
                       "fit, compiled": ours(compile=True),
                       "fit, compiled, cudnn.benchmark": ours(compile=True, tuned=True)}  # fmt: skip
    contenders = {way: (first, train) for way, train in contenders.items()}
    try:
        label, other = peer(name, s["classes"])
        found["peer"] = {"name": label, **described(other, s["size"])}
        contenders |= {"peer, torchvision's recipe": (other, plain()), "peer, fit": (other, ours())}
    except ImportError as error:
        found["peer"] = {"left out": f"{error} (pip install segmentation-models-pytorch)"}
    return found | {"contenders": compared(contenders, device, **s)}


def kernels(asked: Asked) -> Pieces:
    ways = (False, True) if asked.device.type == "cuda" else (False,)
    return {f"{name}{', compiled' if compiled else ''}": partial(_kernels, name, asked.set, asked.device, compiled)
            for name in asked.names for compiled in ways}  # fmt: skip


class Profiled(Clock):
    """A clock that profiles what it takes the time of."""

    def __init__(self, device: torch.device, steps: int, warm: int):
        activity = torch.profiler.ProfilerActivity
        activities = [activity.CUDA if device.type == "cuda" else activity.CPU]
        self.profile = torch.profiler.profile(activities=activities, acc_events=True)  # else torch 2.11 warns
        super().__init__(device, steps, warm)

    def stepped(self, *_) -> None:
        super().stepped()
        if self.done == self.warm:
            self.profile.start()
            self.start = self.now()  # starting takes seconds
        if self.done == self.steps:
            self.profile.stop()


def _kernels(name: str, s: dict, device: torch.device, compiled: bool) -> dict:
    clock, cuda = Profiled(device, s["steps"], s["warm"]), device.type == "cuda"
    options = some(s, "lr", "batch_size", "workers")
    fitted(network(name, s["classes"], s["width"]), noises(s), clock, optimizer="sgd", compile=compiled, **options)
    spent, steps = {}, s["steps"] - s["warm"]
    for row in clock.profile.key_averages():
        if row.device_type == (DeviceType.CUDA if cuda else DeviceType.CPU):
            spent[row.key] = (row.self_device_time_total if cuda else row.self_cpu_time_total) / 1000 / steps
    longest = sorted(spent, key=spent.get, reverse=True)[:15]
    return {"ms a step": round(1000 * (clock.end - clock.start) / steps, 2), "ms busy": round(sum(spent.values()), 2),
            "longest, ms a step": {key[:110]: round(spent[key], 3) for key in longest}}  # fmt: skip


def files(asked: Asked) -> Pieces:
    """Of the network that computes most, and of that which computes least."""
    return {name: partial(_files, name, asked.set, asked.device) for name in asked.names
            if name in ("UNet", "DeepLabV3Plus")}  # fmt: skip


def _files(name: str, s: dict, device: torch.device) -> dict:
    held = scenes("train", s["size"], s["scenes"], s["workers"])
    first, length = network(name, s["classes"], s["width"]), s["steps"] * s["batch_size"]
    told = some(s, "lr", "batch_size") | {"augment": Augment(flip=0.5), "compile": device.type == "cuda"}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("images", "masks"):
            (Path(folder) / "train" / part).mkdir(parents=True)
        for item, (image, mask) in enumerate(held):
            pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(Path(folder) / "train" / "images" / f"{item:04}.png")
            Image.fromarray(mask.byte().numpy()).save(Path(folder) / "train" / "masks" / f"{item:04}.png")
        read = Folder(Path(folder), "train", CLASSES, keep=0)  # each time anew, as where they are too many to be kept
        ways = {"memory, 0 workers": (held, 0), "memory": (held, s["workers"]), "files": (read, s["workers"])}
        found = compared({way: (first, training(fitted, Repeated(data, length), told, workers=workers))
                          for way, (data, workers) in ways.items()}, device, **s)  # fmt: skip
    files, *memory = (found[way].get("images a second") for way in ("files", "memory, 0 workers", "memory"))
    share = round(files / max(memory), 3) if all([files, *memory]) else None
    return {"contenders": found, "files against the faster from memory": share}


def time_to(asked: Asked) -> Pieces:
    return {name: partial(_time_to, name, asked.set, asked.device, asked.folder) for name in asked.names}


def _time_to(name: str, s: dict, device: torch.device, folder: Path) -> dict:
    val = scenes("val", s["size"], s["val"], s["workers"])
    data = Repeated(scenes("train", s["size"], s["scenes"], s["workers"]), s["steps"] * s["batch_size"])
    first = network(name, len(CLASSES), s["width"], scratch=True)
    normed = any(isinstance(layer, nn.BatchNorm2d) for layer in first.modules())
    adamw = {"lr": s["lr" if normed else "lr without batch norm"], "optimizer": "adamw"}
    found = {"network": {"name": name, **described(first, s["size"])}}
    for way, how, rates in (
        ("torchvision's recipe", torchvision_recipe, {"lr": 0.01, "optimizer": "sgd"}),
        ("torchvision's recipe, AdamW", torchvision_recipe, adamw),
        ("fit", fitted, adamw),
    ):
        print(f"  {way}", file=sys.stderr, flush=True)
        train = training(how, data, rates, val=val, **some(s, "batch_size", "workers", "val_every"))
        train(copy.deepcopy(first), Clock(device, 2))  # then kernels are loaded, and cuDNN's algorithms tried
        trained, clock = copy.deepcopy(first), Clock(device, s["steps"])
        found[way] = rates | {"curve": clock.curve}  # step, seconds, mean IoU
        try:
            took = measured(trained, train, clock)
        except FloatingPointError as error:
            found[way]["failed"] = str(error)
            continue
        found[way]["seconds to a mean IoU of"] = {
            str(target): next((seconds for _, seconds, score in clock.curve if score >= target), None)
            for target in s["targets"]
        }
        if "peak" in took:
            found[way]["peak memory, GiB"] = round(took["peak"] / 2**30, 2)
        if way == "fit":
            pictures.save(pictures.samples(trained, val, CLASSES), gpu_charts.place(folder, f"{name}.png"))
    return found


def ddp(asked: Asked) -> Pieces:
    name = "UNet, under torchrun" if "RANK" in os.environ else "UNet"
    return {name: partial(_ddp, asked.set, asked.device)}


def _ddp(s: dict, device: torch.device) -> dict:
    cuda, told, kept = device.type == "cuda", some(s, "lr", "batch_size", "workers"), {}
    first = network("UNet", s["classes"], s["width"])

    def alone(model: nn.Module, clock: Clock) -> None:
        kept["alone"] = fitted(model, noises(s), clock, **told).loss, [*model.parameters()]

    def together(model: nn.Module, clock: Clock) -> None:
        model.to(device, memory_format=torch.channels_last if cuda else torch.preserve_format)
        if cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        wrapped = nn.parallel.DistributedDataParallel(model, [device] if cuda else None)
        kept["together"] = fitted(wrapped, noises(s), clock, **told).loss, [*model.parameters()]

    with tempfile.TemporaryDirectory() as folder:
        way = {} if "RANK" in os.environ else {"init_method": f"file://{folder}/store", "rank": 0, "world_size": 1}
        dist.init_process_group("nccl" if cuda else "gloo", **way)
        try:
            found = compared({"alone": (first, alone), "together": (first, together)}, device, **s)
        finally:
            dist.destroy_process_group()
    found = {"contenders": found}
    if len(kept) == 2:
        (losses, weights), (theirs, other) = kept.values()
        found["largest difference of the loss"] = max(abs(a - b) for a, b in zip(losses, theirs, strict=True))
        found["largest difference of a weight"] = farthest(weights, other)
        found["largest change of a weight by training"] = farthest(weights, first.to(device).parameters())
    return found


@torch.no_grad()
def farthest(some, others) -> float:
    return max((one - other).abs().max().item() for one, other in zip(some, others, strict=True))


def crfs(asked: Asked) -> Pieces:
    s = asked.set
    begun = partial(crf.apart, "measured", s["threads"], "ours")
    pieces = itertools.product(s["sizes"], crf.PARAMETERS.items())
    return {f"{size}, {name}": partial(begun, crf.sizes(size), s["classes"], options, asked.device.type)
            for size, (name, options) in pieces}  # fmt: skip


PARTS = {"throughput": throughput, "kernels": kernels, "files": files, "time_to": time_to, "ddp": ddp, "crf": crfs}
