"""From a mask to the things in it: connected components, which of them are found, and which neighbours are told apart.

Two things of one class that touch are one thing in a mask: it takes a ridge of another class to part them. What is
counted here is whether a network leaves that ridge.
"""

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


def label(mask, of: int = 1) -> Tensor:
    """The connected components of the pixels of class `of`: int64 (H, W), 1, 2, ... in reading order, 0 elsewhere.

    mask: integer (H, W). Pixels are connected by their sides: two that touch at a corner alone are not, so that a
    ridge one pixel wide parts two cells, a slanting one too. Raises ValueError for what is no mask.
    """
    numbers, _ = ndimage.label(_map(mask, "a mask") == of)
    return torch.from_numpy(numbers.astype(np.int64))


def found(predicted, true, iou: float = 0.5) -> Tensor:
    """For each of the N true instances, the number of the predicted one that is it; 0 where none is: int64 (N,).

    predicted, true: instance maps, integer (H, W), 0 where there is none; true ones are numbered 1..N (as `label`
    does; a number that is missing is not found). It is that one whose intersection over union with it is above `iou`.
    From 0.5 up there is at most one, and it is no other's either (Kirillov et al. 2019, "Panoptic segmentation",
    section 4.1), so nothing needs to be assigned. Raises ValueError for a smaller `iou`, and for maps that do not fit.
    """
    if not 0.5 <= iou < 1:
        raise ValueError(f"iou lies in [0.5, 1): below, two instances may claim one, but got {iou}")
    predicted, true = _pair(predicted, true)
    count = int(true.max(initial=0)) + 1
    overlaps, pixels = np.unique(predicted * count + true, return_counts=True)
    theirs, ours = np.divmod(overlaps, count)
    union = np.bincount(predicted.ravel())[theirs] + np.bincount(true.ravel())[ours] - pixels
    match = (theirs > 0) & (ours > 0) & (pixels > iou * union)
    known = np.zeros(count, np.int64)
    known[ours[match]] = theirs[match]
    return torch.from_numpy(known[1:])


def touching(true, gap: int = 3) -> Tensor:
    """The pairs of instances that touch: int64 (P, 2), the lower number first, in order.

    true: an instance map, integer (H, W), 0 where there is none. Two touch where a pixel of the one is at most `gap`
    pixels from one of the other, along rows and along columns: 1 is side by side or corner to corner; 3 has room for
    a ridge of two pixels between them. Raises ValueError for what is no map, or a `gap` below 1.
    """
    true = _map(true, "an instance map")
    if gap < 1:
        raise ValueError(f"gap is at least 1 pixel (side by side), but got {gap}")
    height, width = true.shape
    pairs = [np.empty((0, 2), np.int64)]
    for down in range(min(gap, height - 1) + 1):
        for right in range(-min(gap, width - 1), min(gap, width - 1) + 1):
            here = true[: height - down, max(0, -right) : width - max(0, right)]
            there = true[down:, max(0, right) : width - max(0, -right)]
            meet = (here != there) & (here > 0) & (there > 0)
            pairs.append(np.stack([here[meet], there[meet]], 1))
    pairs = np.sort(np.concatenate(pairs), 1)
    return torch.from_numpy(np.unique(pairs, axis=0))


def separated(predicted, true, iou: float = 0.5, gap: int = 3) -> tuple[int, int]:
    """How many touching pairs are told apart, and how many there are.

    A pair (`touching`) is told apart where both of its instances are `found`: by two different predicted ones, as no
    predicted instance can be found twice. One that was melted into a neighbour, or missed, separates none of its pairs.
    Arguments as there.
    """
    known, pairs = found(predicted, true, iou), touching(true, gap)
    return int((known[pairs - 1] > 0).all(1).sum()), len(pairs)


def _pair(predicted, true) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = _map(predicted, "predicted"), _map(true, "true")
    if predicted.shape != true.shape:
        raise ValueError(f"both instance maps are of one size, but got {predicted.shape} and {true.shape}")
    return predicted, true


def _map(values, name: str) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise ValueError(f"{name} holds whole numbers (H, W), but got {array.dtype} {array.shape}: logits need "
                         ".argmax(0) first")
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        raise ValueError(f"{name} holds numbers from 0 up, but got {array.min()}")
    return array.astype(np.int64)
