"""Losses that a lesson derives: cross-entropy over the labelled pixels, and weights for rare classes.

A mean is kept as its two parts, sum and weight, because several processes that share one batch must add both before
they divide (`cross_entropy_parts`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, class_weights: Tensor | None = None
) -> Tensor:
    """Mean over the labelled pixels of -log softmax(logits) at the true class; a pixel counts as its class weighs.

    logits: float (B, C, H, W), or (B, C) of a classifier; computed in float32, whatever their type.
    labels: integer (B, H, W) or (B,), in [0, C) or `ignore_index` (void: not counted).
    class_weights: (C,) at least 0; the mean is divided by the sum of the weights that were counted.
    NaN where nothing is counted. Raises ValueError where shapes do not fit and, on the CPU, for labels out of range;
    elsewhere looking would hold up the device (`cross_entropy_parts` says what to do there).
    """
    extent = label_range(labels, ignore_index) if labels.device.type == "cpu" else None
    total, weight = cross_entropy_parts(logits, labels, ignore_index, class_weights, extent)
    return total / weight


def cross_entropy_parts(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    extent: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum and the weight, float32 (), whose quotient is `cross_entropy`. Arguments as there.

    extent: the labels' `label_range`, taken before they went to a device; it is checked against the classes."""
    check_shapes(logits, labels, class_weights)
    check_labels(extent, logits.shape[1], ignore_index)
    labels, seen = labels.long(), labels != ignore_index
    total = F.cross_entropy(logits.float(), labels, class_weights, ignore_index=ignore_index, reduction="sum")
    if class_weights is None:
        return total, seen.sum().float()
    return total, (class_weights[labels.masked_fill(~seen, 0)] * seen).sum()


def class_weights(counts: Tensor) -> Tensor:
    """Weights of the classes by median frequency balancing, float32 (C,): the median of all frequencies / one's own.

    Eigen and Fergus 2015, "Predicting depth, surface normals and semantic labels with a common multi-scale
    convolutional architecture": the frequency of a class is its share of the pixels *of those images that hold it*.
    counts: (N, C), the pixels of each class in each of N images, void left out (rows of the images' confusion
    matrices, say). (C,), one count over a whole data set, is taken as one image: a class in few images then weighs
    more.
    A class that occurs nowhere has no frequency: it is left out of the median and weighs 1, as the median class does.
    """
    counts = torch.as_tensor(counts).double()
    if counts.dim() not in (1, 2) or not counts.isfinite().all() or (counts < 0).any() or not counts.sum() > 0:
        raise ValueError(
            "counts are pixels of each class, (N, C) or (C,), none negative and not all 0, but got "
            f"{tuple(counts.shape)} with the sum {counts.sum().item()}"
        )
    counts = counts.view(-1, counts.shape[-1])
    pixels = torch.where(counts > 0, counts.sum(1, keepdim=True), 0.0).sum(0)  # of the images that hold the class
    frequency = counts.sum(0) / pixels                                       # NaN where none does
    median = frequency[pixels > 0].quantile(0.5)
    return torch.where(pixels > 0, median / frequency, 1.0).float()


def label_range(labels: Tensor, ignore_index: int = 255) -> tuple[int, int] | None:
    """The lowest and the highest label that is not void; None where all are."""
    if not labels.numel():
        return None
    lowest, highest = (int(label) for label in labels.aminmax())
    if lowest == highest == ignore_index:
        return None
    if highest == ignore_index:  # a second look, at what lies below; selecting what is not void is 15 times slower
        highest = int(torch.where(labels != ignore_index, labels, lowest).max())
    elif lowest == ignore_index:
        lowest = int(torch.where(labels != ignore_index, labels, highest).min())
    return lowest, highest


def check_labels(extent: tuple[int, int] | None, num_classes: int, ignore_index: int = 255) -> None:
    """Raises ValueError where `label_range` goes beyond the classes 0..num_classes - 1."""
    lowest, highest = extent or (0, 0)
    if lowest < 0 or highest >= num_classes:
        raise ValueError(
            f"the labels hold {highest if highest >= num_classes else lowest}, but the network gives {num_classes} "
            f"classes, 0..{num_classes - 1}, and void is {ignore_index}: give the network more classes, or ignore_index"
        )


def check_shapes(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> None:
    """Raises ValueError where logits, labels and weights do not belong together."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"a network gives one tensor of logits, but this one gave a {type(logits).__name__}")
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.dim() < 2 or tuple(labels.shape) != expected:
        raise ValueError(
            f"logits {tuple(logits.shape)}, (B, C, H, W) or (B, C), need labels (B, H, W) or (B,) of the same size, "
            f"but got {tuple(labels.shape)}"
        )
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(f"class_weights are one a class, ({logits.shape[1]},), but got {tuple(class_weights.shape)}")
