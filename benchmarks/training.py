"""Ways to train one network, and the clock that they are held against: torchvision's recipe beside `fit` (`gpu.py`).

torchvision's recipe is its reference for segmentation (references/segmentation/train.py), written anew: SGD (0.01,
momentum 0.9, weight decay 1e-4; ten times the rate for a second head), PolynomialLR of power 0.9 after each step, mean
cross-entropy plus half of the second head's, 16 processes that load and no pinned memory, cudnn.benchmark, and the loss
read after each step for the meter that it prints. float32 is what torch makes of it: convolutions in TF32. With --amp:
float16 autocast and a gradient scaler.
"""

import copy
import gc
import itertools
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from unittest import mock

import torch
import torchvision
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from segviz import models
from segviz.runs.recipe import FROM_SCRATCH
from segviz.training import History, evaluate, fit, loop

PAPERS = {"UNet": {"norm": True}, "PSPNet": {"auxiliary": True}, "DeepLabV3": {"auxiliary": True}}
NETWORKS = ("FCN8s", "UNet", "PSPNet", "DeepLabV3", "DeepLabV3Plus")
PEERS = {"UNet": ("Unet", "resnet34"), "PSPNet": ("PSPNet", "resnet50"), "DeepLabV3": ("DeepLabV3", "resnet50"),
         "DeepLabV3Plus": ("DeepLabV3Plus", "resnet50")}  # of segmentation_models_pytorch, each with its encoder


def network(name: str, classes: int, width: int, scratch: bool = False) -> nn.Module:
    """One of ours, from the same first weights each time. As in its paper (U-Net with batch norm, which its peer has
    too; PSPNet and DeepLab v3 with the second head); scratch: as `segviz train` builds it."""
    torch.manual_seed(0)
    return getattr(models, name)(classes, width=width, **(FROM_SCRATCH if scratch else PAPERS).get(name, {}))


def peer(name: str, classes: int) -> tuple[str, nn.Module]:
    """The model of the same name that others train, without pretrained weights, and what it is called. Raises
    ImportError where it is not installed."""
    torch.manual_seed(0)
    if name not in PEERS:
        segmentation = torchvision.models.segmentation
        made = segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=classes, aux_loss=False)
        return "torchvision's fcn_resnet50", Logits(made)
    import segmentation_models_pytorch as smp

    theirs, encoder = PEERS[name]
    made = getattr(smp, theirs)(encoder_name=encoder, encoder_weights=None, classes=classes)
    return f"segmentation_models_pytorch's {theirs} on {encoder}", made


class Logits(nn.Module):
    """A network of torchvision, whose answer is a dictionary: its logits alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)["out"]


def described(network: nn.Module, size: int) -> dict:
    """How large a network is, and how many multiply-adds its convolutions take for one image, without a second head."""
    bare = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bare(torch.empty(1, 3, size, size, device="meta"))
    return {"parameters": sum(weight.numel() for weight in network.parameters()),
            "billion multiply-adds an image": round(counter.get_total_flops() / 2e9, 3)}  # fmt: skip


class Repeated(Dataset):
    """The items of `data` over and over, `length` in all: one epoch, whose loading processes start once."""

    def __init__(self, data: Dataset, length: int):
        self.data, self.length = data, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        return self.data[index % len(self.data)]


class Clock:
    """Told of each of `steps` steps (`stepped`), it takes the time from the end of step `warm` to that of the last, the
    device having done all that came before. `scored` scores a network, which takes none of the clock's time."""

    def __init__(self, device: torch.device, steps: int, warm: int = 0):
        self.device, self.steps, self.warm, self.done, self.paused = device, steps, warm, 0, 0.0
        self.curve: list[tuple[int, float, float]] = []  # step, seconds since the beginning, mean IoU
        self.begun = self.start = self.end = self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def stepped(self, *_) -> None:
        self.done += 1
        if self.done == self.warm:
            self.start = self.now()
        if self.done == self.steps:
            self.end = self.now()

    def scored(self, network: nn.Module, data, **_):
        before = self.now()
        scores = evaluate(network, data, batch_size=16, device=self.device, show=False)
        self.curve.append((self.done, round(before - self.begun - self.paused, 3), round(scores.mean_iou, 4)))
        self.paused += self.now() - before
        return scores


def torchvision_recipe(
    network: nn.Module, data, clock: Clock, *, batch_size: int, lr: float = 0.01, optimizer: str = "sgd",
    workers: int = 16, amp: bool = False, val=None, val_every: int | None = None,
) -> None:  # fmt: skip
    """Trains `network` for the clock's steps by the recipe above. optimizer: "sgd", or "adamw", `fit`'s in its place.
    val: what is scored, every so many steps and at the end."""
    device, steps = clock.device, clock.steps
    network.to(device).train()
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, num_workers=workers)
    second = {"auxiliary": True} if getattr(network, "auxiliary", False) is True else {}
    heads = [weight for name, weight in network.named_parameters() if name.startswith("auxiliary")]
    rest = [weight for name, weight in network.named_parameters() if not name.startswith("auxiliary")]
    if optimizer == "sgd":
        groups = [{"params": rest}, {"params": heads, "lr": 10 * lr}]
        rule = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=1e-4)
    else:
        rule = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.PolynomialLR(rule, total_iters=steps, power=0.9)
    scaler = torch.amp.GradScaler(device.type) if amp else None
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    with cudnn_benchmark(True):
        for step, (images, labels) in enumerate(itertools.islice(endless, steps), 1):
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, torch.float16, enabled=amp):
                logits = network(images, **second)
                out, *aux = logits if second else (logits,)
                loss = nn.functional.cross_entropy(out, labels, ignore_index=255)
                for other in aux:
                    loss = loss + 0.5 * nn.functional.cross_entropy(other, labels, ignore_index=255)
            rule.zero_grad()
            if scaler is None:
                loss.backward()
                rule.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(rule)
                scaler.update()
            schedule.step()
            loss.item()
            clock.stepped()
            if val is not None and (step % val_every == 0 or step == steps):
                clock.scored(network, val)


def fitted(network: nn.Module, data, clock: Clock, *, tuned: bool = False, **options) -> History:
    """Trains `network` by `fit`, as a learner calls it: on CUDA bfloat16, channels_last and a fused optimizer.
    tuned: with cudnn.benchmark too."""
    if options.get("compile"):
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would go on uncompiled, and say nothing
    heard = register_optimizer_step_post_hook(clock.stepped)
    try:
        with cudnn_benchmark(tuned), mock.patch.object(loop, "evaluate", clock.scored):
            return fit(network, data, steps=clock.steps, device=clock.device, show=False, **options)
    finally:
        heard.remove()


@contextmanager
def cudnn_benchmark(wanted: bool):
    """cuDNN tries its algorithms for each new shape and keeps the fastest, or goes by its rules."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, wanted
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


Contender = Callable[[nn.Module, Clock], object]  # trains the network for the clock's steps


def measured(network: nn.Module, train: Contender, clock: Clock) -> dict:
    """Seconds a step and the peak of memory of one contender, who trains the network."""
    cuda = clock.device.type == "cuda"
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(clock.device)
    train(network, clock)
    if clock.done != clock.steps:
        raise RuntimeError(f"{clock.done} steps were counted, not {clock.steps}")
    found = {"seconds": (clock.end - clock.start) / (clock.steps - clock.warm), "before": clock.start - clock.begun}
    return found | ({"peak": torch.cuda.max_memory_allocated(clock.device)} if cuda else {})


def compared(
    contenders: dict[str, tuple[nn.Module, Contender]], device: torch.device, *, batch_size: int, steps: int, warm: int,
    rounds: int, **_,
) -> dict[str, dict]:  # fmt: skip
    """What each contender takes, who begins with a network's weights: the median of `rounds` in which they take turns,
    because machines slow down and speed up; "times" is against the first of them. One that fails is left out from then
    on, and its error kept."""
    runs: dict[str, list[dict]] = {name: [] for name in contenders}
    failed: dict[str, dict] = {}
    for turn in range(rounds):
        for name, (first, train) in contenders.items():
            if name in failed:
                continue
            print(f"  round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            try:
                runs[name].append(measured(copy.deepcopy(first), train, Clock(device, steps, warm)))
            except Exception as error:  # the others' figures are worth having
                traceback.print_exc()
                failed[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    found = {name: failed.get(name) or summary(runs[name], batch_size, warm) for name in contenders}
    base = found[next(iter(contenders))].get("images a second")
    for row in found.values():
        if base and "failed" not in row:
            row["times"] = round(row["images a second"] / base, 2)
    return found


def summary(runs: list[dict], batch_size: int, warm: int) -> dict:
    seconds = statistics.median(run["seconds"] for run in runs)
    found = {
        "images a second": round(batch_size / seconds, 2), "ms a step": round(1000 * seconds, 1),
        "each round": [round(batch_size / run["seconds"], 2) for run in runs],
        f"seconds to step {warm}, first round": round(runs[0]["before"], 1),
    }  # fmt: skip
    if "peak" in runs[0]:
        found["peak memory, GiB"] = round(max(run["peak"] for run in runs) / 2**30, 2)
    return found
