"""How good a network is: `Scores`, `evaluate`, `image_scores` and `predict`."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from segviz import losses, metrics
from segviz.training import processes, tiles
from segviz.training.batches import Batch, scoring_batches

AT_ONCE = 1 << 20  # pixels that a network is given together, unless one image has more


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

    def as_json(self) -> dict:
        boundary = None if self.boundary is None else self.boundary.tolist()
        return {"counts": self.counts.tolist(), "boundary": boundary, "classes": self.classes and list(self.classes)}

    @classmethod
    def from_json(cls, kept: dict) -> "Scores":
        boundary = None if kept["boundary"] is None else torch.tensor(kept["boundary"])
        return cls(torch.tensor(kept["counts"]), boundary, kept["classes"] and tuple(kept["classes"]))

    def __repr__(self) -> str:
        text = f"pixel accuracy {self.pixel_accuracy:.3f}   mean IoU {self.mean_iou:.3f}"
        if self.boundary is not None:
            text += f"   mean boundary IoU {self.boundary_iou:.3f}"
        names = self.classes or [f"class {i}" for i in range(len(self.counts))]
        wide = max(10, *map(len, names))
        rows = [f"  {name:<{wide}} IoU {iou:.3f}" for name, iou in zip(names, self.class_iou.tolist(), strict=True)]
        return "\n".join([text, *rows])


def evaluate(
    model: nn.Module,
    data,
    *,
    batch_size: int = 32,
    ignore_index: int = 255,
    device: str | torch.device | None = None,
    classes: tuple[str, ...] | None = None,
    workers: int = 0,
    show: bool | None = None,
    stop=None,
) -> Scores:
    """Scores over a whole data set, from one confusion matrix; the mode of `model` is kept.

    data: as in `fit`, but images may differ in size: those of one size are run together, at most `batch_size`, and no
    more than a million pixels but for a single image. classes: names for the classes, one each. workers: processes that
    load the data. show: a bar where it takes longer than 2 s; default: yes. Under `torchrun` each process scores its
    share; all of them return the scores of the whole. stop: `stop()` is asked after each batch; where it says yes in
    one process, all end by KeyboardInterrupt. Raises ValueError for data that cannot be scored, and for names that are
    not one a class; `processes.Gone` where another process has ended.
    """
    here, scores = processes.place(device), None
    for logits, batch in _answers(model, data, here, batch_size, ignore_index, workers, show):
        part = _score(logits, batch, ignore_index, classes)
        scores = part if scores is None else scores + part
        if stop is not None and stop():
            break
    parts, asked = zip(*here.gathered((scores, stop is not None and bool(stop()))), strict=True)
    if any(asked):
        raise KeyboardInterrupt
    first, *others = [part for part in parts if part is not None]
    return sum(others, start=first)


def image_scores(
    model: nn.Module,
    data,
    *,
    batch_size: int = 32,
    ignore_index: int = 255,
    device: str | torch.device | None = None,
    classes: tuple[str, ...] | None = None,
    workers: int = 0,
    show: bool | None = None,
) -> Iterator[tuple[int, Scores]]:
    """One after the other, the number of an image in `data` and the scores of it alone: their sum is what `evaluate`
    gives, whose arguments these are. In no order that is promised; under `torchrun` of this process's share."""
    here = processes.place(device)
    for logits, batch in _answers(model, data, here, batch_size, ignore_index, workers, show):
        for at, index in enumerate(batch.indices):
            one = slice(at, at + 1)
            yield index, _score(logits[one], _part(batch, one), ignore_index, classes)


@torch.no_grad()
def _answers(model: nn.Module, data, here, batch_size: int, ignore_index: int, workers: int, show: bool | None):
    """Pairs (logits, batch) of this process's share of `data`, the model in eval mode meanwhile."""
    if len(data) == 0:
        raise ValueError("the data set is empty: there is nothing to score")
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1, but got {batch_size}")
    indices, pin = range(here.rank, len(data), here.world), here.device.type == "cuda"
    batches = scoring_batches(data, batch_size, indices, ignore_index=ignore_index, workers=workers, pin=pin)
    hidden, was_training = show is False or here.rank > 0, model.training
    model.to(here.device).eval()
    try:
        for parts in tqdm(batches, "scoring", -(-len(indices) // batch_size), delay=2, leave=False, disable=hidden):
            for batch in itertools.chain.from_iterable(map(_small, parts)):
                with processes.autocast(here.device):
                    yield model(batch.images.to(here.device, non_blocking=pin)), batch
    finally:
        model.train(was_training)


def _small(batch: Batch) -> list[Batch]:
    """The batch in parts of a million pixels at most: a map of a network has as many numbers, times its channels."""
    each = max(1, AT_ONCE // math.prod(batch.images.shape[2:]))
    return [_part(batch, slice(at, at + each)) for at in range(0, len(batch.images), each)]


def _part(batch: Batch, which: slice) -> Batch:
    return batch._replace(images=batch.images[which], labels=batch.labels[which], indices=batch.indices[which])


@torch.no_grad()
def predict(
    model: nn.Module, image: Tensor, *, tile: int | None = None, margin: int | None = None, show: bool | None = None
) -> Tensor:
    """The label map int64 (H, W), on the CPU, that `model` predicts for one image (C, H, W); its mode is kept.

    tile: predict by tiles of this height and width, one after the other, in the memory of one: for images that are too
    large to be run whole. The same labels come out but for rounding; `tiles.logits` says how, what `margin` is, and
    which networks it refuses with a ValueError. show: a bar where it takes longer than 2 s; default: yes.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        if tile is not None:
            return _by_tiles(model, image, tile, margin, show is False)
        with processes.autocast(device):
            return model(image[None].to(device)).argmax(1)[0].cpu()
    finally:
        model.train(was_training)


def _by_tiles(model: nn.Module, image: Tensor, tile: int, margin: int | None, hidden: bool) -> Tensor:
    labels = torch.empty(image.shape[1:], dtype=torch.int64)
    parts, count = tiles.logits(model, image, tile, margin), tiles.count(image.shape[1:], tile)
    for rows, columns, logits in tqdm(parts, "tiles", count, delay=2, leave=False, disable=hidden):
        labels[rows, columns] = logits.argmax(0).cpu()
    return labels


def _score(logits: Tensor, batch: Batch, ignore_index: int, classes: tuple[str, ...] | None) -> Scores:
    """Counts of one batch, taken where the logits are: only they leave the device. (On MPS, which lacks what counting
    needs, the labels do.)"""
    losses.check_shapes(logits, batch.labels)
    num_classes, prediction = logits.shape[1], logits.argmax(1)
    if classes and len(classes) != num_classes:
        raise ValueError(f"the model has {num_classes} classes, but classes names {len(classes)}: one name each")
    losses.check_labels(batch.extent, num_classes, ignore_index)
    if prediction.device.type == "mps":
        prediction = prediction.cpu()
    labels, boundary = batch.labels.to(prediction.device), None
    counts = metrics.confusion_matrix(prediction, labels, num_classes, ignore_index).cpu()
    if labels.dim() == 3:
        boundary = metrics.boundary_counts(prediction, labels, num_classes, ignore_index).cpu()
    return Scores(counts, boundary, classes)
