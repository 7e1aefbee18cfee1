"""What a run leaves behind, and how good a network is: `History`, `Scores`, `evaluate` and `predict`."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from segviz import metrics
from segviz.training.batches import collate


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
            images, labels = collate(data, range(first, min(first + batch_size, len(data))))
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


def _score(logits: Tensor, labels: Tensor, ignore_index: int, classes: tuple[str, ...] | None) -> Scores:
    num_classes, prediction = logits.shape[1], logits.argmax(1)
    if classes and len(classes) != num_classes:
        raise ValueError(f"the model has {num_classes} classes, but classes names {len(classes)}: one name each")
    counts = metrics.confusion_matrix(prediction, labels, num_classes, ignore_index)
    boundary = metrics.boundary_counts(prediction, labels, num_classes, ignore_index) if labels.dim() == 3 else None
    return Scores(counts, boundary, classes)
