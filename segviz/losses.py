"""Losses that a lesson derives: cross-entropy over the labelled pixels, weights for rare classes and for borders.

A mean is kept as its two parts, sum and weight, because several processes that share one batch must add both before
they divide (`cross_entropy_parts`).
"""

from math import inf

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    pixel_weights: Tensor | None = None,
) -> Tensor:
    """Mean over the labelled pixels of -log softmax(logits) at the true class, each counted by its weight: that of its
    class (1 where none are given) plus its own (0 where none are given).

    logits: float (B, C, H, W), or (B, C) of a classifier; computed in float32, whatever their type.
    labels: integer (B, H, W) or (B,), in [0, C) or `ignore_index` (void: not counted).
    class_weights: (C,) at least 0. pixel_weights: float (B, H, W) at least 0, see `border_weights`.
    The mean is divided by the sum of the weights that were counted. (U-Net's paper, equations 1 and 2, has the same
    weights, but sums: there the learning rate would follow the size of the image and how crowded it is.)
    NaN where nothing is counted. Raises ValueError where shapes do not fit and, on the CPU, for labels out of range;
    elsewhere looking would hold up the device (`cross_entropy_parts` says what to do there).
    """
    extent = label_range(labels, ignore_index) if labels.device.type == "cpu" else None
    total, weight = cross_entropy_parts(logits, labels, ignore_index, class_weights, extent, pixel_weights)
    return total / weight


def cross_entropy_parts(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
    extent: tuple[int, int] | None = None,
    pixel_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum and the weight, float32 (), whose quotient is `cross_entropy`. Arguments as there.

    extent: the labels' `label_range`, taken before they went to a device; it is checked against the classes."""
    check_shapes(logits, labels, class_weights, pixel_weights)
    check_labels(extent, logits.shape[1], ignore_index)
    labels, seen = labels.long(), labels != ignore_index
    if pixel_weights is not None:
        weights = pixel_weights.float()
        weights = (weights + (1 if class_weights is None else class_weights[labels.masked_fill(~seen, 0)])) * seen
        each = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")
        return (weights * each).sum(), weights.sum()
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


def border_weights(mask: Tensor, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """What the pixels between cells count for besides their class, float32 (H, W): w0 exp(-(d1 + d2)^2 / (2 sigma^2)).

    Ronneberger, Fischer, Brox 2015, "U-Net", equation 2: d1 and d2 are the distances in pixels to the nearest cell and
    to the second nearest, so that a narrow ridge between two weighs most.
    mask: integer (H, W). A cell is a connected component (by sides) of the pixels of class 1. Its own pixels get 0: the
    weight is for what separates. (The paper speaks of "separating background labels"; its formula, taken alone, would
    raise the cells' rims too.) A distance is that to the middle of the nearest pixel of a cell. A second cell further
    than 4 sigma away counts as none (less than w0 / 2900). Raises ValueError for what is no mask, and for a `w0`
    below 0 or a `sigma` not above it, or either without end.
    """
    mask = torch.as_tensor(mask)
    if mask.dim() != 2 or not mask.numel() or mask.is_floating_point() or not 0 <= w0 < inf or not 0 < sigma < inf:
        raise ValueError(
            "border_weights takes labels (H, W) of whole numbers, w0 of at least 0 and sigma above 0, but got "
            f"{mask.dtype} {tuple(mask.shape)}, w0={w0}, sigma={sigma}"
        )
    cells, _ = ndimage.label(mask.cpu().numpy() == 1)
    nearest = np.full((2, *mask.shape), np.inf, np.float32)             # to the nearest cell, and to the second
    reach = int(4 * sigma) + 1
    for number, box in enumerate(ndimage.find_objects(cells), 1):       # a cell speaks only for what lies around it
        window = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
        away = ndimage.distance_transform_edt(cells[window] != number).astype(np.float32)
        first, second = nearest[0][window], nearest[1][window]
        np.minimum(second, np.maximum(first, away), out=second)
        np.minimum(first, away, out=first)
    weights = w0 * np.exp(-(nearest.sum(0) ** 2) / (2 * sigma**2)) * (cells == 0)
    return torch.from_numpy(weights.astype(np.float32))


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


def check_shapes(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, pixel_weights: Tensor | None = None
) -> None:
    """Raises ValueError where logits, labels and weights do not belong together."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"a network gives one tensor of logits, but this one gave a {type(logits).__name__}")
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.dim() < 2 or tuple(labels.shape) != expected:
        raise ValueError(
            f"logits {tuple(logits.shape)}, (B, C, H, W) or (B, C), need labels (B, H, W) or (B,) of the same size, "
            f"but got {tuple(labels.shape)}"
        )
    if logits.shape[1] == 1:
        raise ValueError(
            f"logits {tuple(logits.shape)} are of one class, which is then right everywhere: background and object are "
            "two classes, num_classes=2"
        )
    if class_weights is not None and class_weights.shape != logits.shape[1:2]:
        raise ValueError(f"class_weights are one a class, ({logits.shape[1]},), but got {tuple(class_weights.shape)}")
    if pixel_weights is not None and pixel_weights.shape != labels.shape:
        raise ValueError(f"pixel_weights are one a label, {tuple(labels.shape)}, but got {tuple(pixel_weights.shape)}")
