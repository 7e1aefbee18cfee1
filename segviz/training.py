"""Training and evaluation: `fit` and `evaluate`, loops that a learner can read.

The same two functions train a segmentation network (labels (B, H, W)) and a classifier (labels (B,)): cross-entropy
and the confusion matrix are the same for both.
"""

import math
import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from segviz import metrics
from segviz.live import Live


@dataclass
class Scores:
    """Counts over a whole data set, and the scores that follow from them. Adding two adds their counts."""

    counts: Tensor  # (C, C), rows: target
    boundary: Tensor | None = None  # (C, 2), see metrics.boundary_counts
    classes: tuple[str, ...] | None = None

    @property
    def pixel_accuracy(self) -> float:
        return metrics.pixel_accuracy(self.counts)

    @property
    def mean_iou(self) -> float:
        return metrics.mean_iou(self.counts)

    @property
    def class_iou(self) -> Tensor:
        return metrics.class_iou(self.counts)

    @property
    def boundary_iou(self) -> float:
        """Mean over the classes that occur; NaN for a classifier, which has no boundaries."""
        return float("nan") if self.boundary is None else metrics.boundary_score(self.boundary).nanmean().item()

    def __add__(self, other: "Scores") -> "Scores":
        boundary = None if self.boundary is None else self.boundary + other.boundary
        return Scores(self.counts + other.counts, boundary, self.classes)

    def __repr__(self) -> str:
        text = f"pixel accuracy {self.pixel_accuracy:.3f}   mean IoU {self.mean_iou:.3f}"
        if self.boundary is not None:
            text += f"   mean boundary IoU {self.boundary_iou:.3f}"
        names = self.classes or [f"class {i}" for i in range(len(self.counts))]
        rows = [f"  {name:<10} IoU {iou:.3f}" for name, iou in zip(names, self.class_iou.tolist(), strict=True)]
        return "\n".join([text, *rows])


@dataclass
class History:
    """What happened in a training run."""

    loss: list[float] = field(default_factory=list)  # one a step
    val: list[tuple[int, Scores]] = field(default_factory=list)  # (step, scores)
    pictures: list[tuple[int, Tensor]] = field(default_factory=list)  # (step, label map predicted for `watch`)
    seconds: float = 0.0
    interrupted: bool = False

    def __repr__(self) -> str:
        end = ", interrupted: the model keeps what it learned" if self.interrupted else ""
        score = f", mean IoU {self.val[-1][1].mean_iou:.3f}" if self.val else ""
        loss = f", loss {self.loss[-1]:.3f}" if self.loss else ""
        return f"History: {len(self.loss)} steps in {self.seconds:.0f} s{loss}{score}{end}"


def fit(
    model: nn.Module,
    train,
    val=None,
    *,
    steps: int = 300,
    batch_size: int = 16,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    ignore_index: int = 255,
    seed: int = 0,
    device: str | torch.device | None = None,
    watch: Tensor | None = None,
    show: bool | None = None,
    title: str = "training",
) -> History:
    """Trains `model` in place with AdamW and a poly schedule (power 0.9), showing how it goes; returns its history.

    train, val: datasets of (image (C, H, W) float, label), all images of one size; label: whole numbers (H, W), or ()
    for a classifier, `ignore_index` where it is void. `val` is scored at the end.
    steps: batches to train on; the data are shuffled anew each epoch, by `seed` and the epoch alone. A last, short
    batch is left out unless it is the only one.
    device: default CUDA, then MPS, then CPU. On CUDA: bfloat16 autocast.
    watch: an image (C, H, W) whose predicted label map is shown, and kept in `history.pictures`, as it sharpens.
    show: progress bar and live picture; default: yes.
    Ctrl-C (the stop button) ends training or scoring early: the model keeps what it learned and the history says so.
    Raises ValueError for data that cannot be trained on, and FloatingPointError at a loss that is not finite, naming
    the step; the model is then as it was before that step.
    """
    if len(train) == 0:
        raise ValueError("the training set is empty: there is nothing to learn from")
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size are at least 1, but got steps={steps}, batch_size={batch_size}")
    device = choose_device(device)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    history, start = History(), time.perf_counter()
    live = Live(steps, title, watch, show)
    batches = shuffled_batches(train, batch_size, seed)
    try:
        for step in range(1, steps + 1):
            images, labels = (x.to(device, non_blocking=True) for x in next(batches))
            with autocast(device):
                loss = F.cross_entropy(model(images).float(), labels, ignore_index=ignore_index)
            history.loss.append(loss.item())
            if not math.isfinite(history.loss[-1]):
                raise FloatingPointError(
                    f"the loss is {history.loss[-1]} at step {step}: lower lr (now {lr}), and look for images with "
                    "NaN or batches that are void everywhere"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if live.due(step) or step == steps:
                live.update(history, predict(model, watch) if watch is not None else None)
        history.seconds = time.perf_counter() - start
        if val is not None:
            scoring = {"batch_size": batch_size, "ignore_index": ignore_index, "device": device, "show": show}
            history.val.append((steps, evaluate(model, val, **scoring)))
    except KeyboardInterrupt:
        history.interrupted = True
        history.seconds = history.seconds or time.perf_counter() - start
    finally:
        model.eval()
        live.close(history)
    return history


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data,
    *,
    batch_size: int = 32,
    ignore_index: int = 255,
    device: str | torch.device | None = None,
    classes: tuple[str, ...] | None = None,
    show: bool | None = None,
) -> Scores:
    """Scores over a whole data set, from one confusion matrix. `data` as in `fit`; the mode of `model` is kept.

    classes: names for the classes, one each. show: a bar where it takes longer than 2 s; default: yes.
    Raises ValueError for data that cannot be scored, and for names that are not one a class.
    """
    if len(data) == 0:
        raise ValueError("the data set is empty: there is nothing to score")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, but got {batch_size}")
    device, was_training = choose_device(device), model.training
    model.to(device).eval()
    firsts, scores = range(0, len(data), batch_size), None
    try:
        for first in tqdm(firsts, "scoring", delay=2, leave=False, disable=show is False):
            images, labels = _collate(data, range(first, min(first + batch_size, len(data))))
            with autocast(device):
                logits = model(images.to(device)).float().cpu()
            part = _score(logits, labels, ignore_index, classes)
            scores = part if scores is None else scores + part
    finally:
        model.train(was_training)
    return scores


@torch.no_grad()
def predict(model: nn.Module, image: Tensor) -> Tensor:
    """The label map int64 (H, W), on the CPU, that `model` predicts for one image (C, H, W); its mode is kept."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return model(image[None].to(device)).argmax(1)[0].cpu()
    finally:
        model.train(was_training)


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """`device` if given, else CUDA, else MPS, else the CPU. Raises ValueError for CUDA where there is none."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device='cuda' was asked for, but torch sees no CUDA GPU: leave device out, or run `segviz doctor`"
        )
    return device


def autocast(device: torch.device):
    """bfloat16 where it helps (CUDA), nothing elsewhere."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def shuffled_batches(data, batch_size: int, seed: int):
    """Endless (images, labels), each epoch in an order that depends on (seed, epoch) alone."""
    size, epoch = min(batch_size, len(data)), 0
    while True:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
        for first in range(0, len(data) - size + 1, size):
            yield _collate(data, order[first : first + size])
        epoch += 1


def _collate(data, indices) -> tuple[Tensor, Tensor]:
    """The items as one batch: images float (B, C, H, W), labels int64 (B, H, W) or (B,)."""
    images, labels = zip(*((torch.as_tensor(part) for part in data[i]) for i in indices), strict=True)
    _check_one_size("images", images)
    _check_one_size("labels", labels)
    images, labels = torch.stack(images), torch.stack(labels)
    if not images.is_floating_point():
        raise ValueError(f"images are float in [0, 1], but got {images.dtype}: for uint8, image.float() / 255")
    if labels.is_floating_point():
        raise ValueError(f"labels are whole numbers, but got {labels.dtype}: use .long()")
    if labels.dim() not in (1, 3):
        raise ValueError(f"a label is a map (H, W), or one number for a classifier, but got {tuple(labels.shape[1:])}")
    return images, labels.long()


def _check_one_size(what: str, parts: tuple[Tensor, ...]) -> None:
    sizes = sorted({tuple(part.shape) for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"{what} of one batch must have one size, but got {sizes}: resize or crop them first")


def _score(logits: Tensor, labels: Tensor, ignore_index: int, classes: tuple[str, ...] | None) -> Scores:
    num_classes, prediction = logits.shape[1], logits.argmax(1)
    if classes and len(classes) != num_classes:
        raise ValueError(f"the model has {num_classes} classes, but classes names {len(classes)}: one name each")
    counts = metrics.confusion_matrix(prediction, labels, num_classes, ignore_index)
    boundary = metrics.boundary_counts(prediction, labels, num_classes, ignore_index) if labels.dim() == 3 else None
    return Scores(counts, boundary, classes)
