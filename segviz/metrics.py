"""Scores of a segmentation, all of them functions of counts.

Count first, over the *whole data set*, then divide once: `confusion_matrix` of each batch, summed; every score is a
function of that one matrix, but boundary IoU, which has counts of its own. Averaging a score over images or batches
gives another number (lesson 01 shows both).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255) -> Tensor:
    """Counts of (true class, predicted class) pairs.

    prediction, target: integer tensors of one shape, any number of dimensions; `prediction` in [0, num_classes),
    `target` likewise or `ignore_index` (void: not counted).
    Returns int64 (num_classes, num_classes): rows are the target, columns the prediction; of labels on MPS on the CPU.
    Raises ValueError where shapes differ, labels are out of range, or `prediction` holds scores instead of labels.
    """
    prediction, target = _checked(prediction, target, num_classes, ignore_index)
    seen = target != ignore_index
    pairs = target[seen] * num_classes + prediction[seen]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def pixel_accuracy(counts: Tensor) -> float:
    """Share of the counted pixels whose class is right; NaN if none was counted."""
    return (counts.diagonal().sum() / counts.sum().double()).item()


def class_iou(counts: Tensor) -> Tensor:
    """Intersection over union of each class, float64 (C,): TP / (TP + FP + FN). NaN for a class that neither the
    target nor the prediction holds."""
    hits = counts.diagonal().double()
    return hits / (counts.sum(0) + counts.sum(1) - hits)


def mean_iou(counts: Tensor) -> float:
    """Mean of `class_iou` over the classes that occur (in the target or the prediction)."""
    return class_iou(counts).nanmean().item()


def frequency_weighted_iou(counts: Tensor) -> float:
    """`class_iou` weighted by each class's share of the target's pixels (Long et al. 2015, section 5)."""
    share = counts.sum(1).double() / counts.sum()
    return torch.where(share > 0, share * class_iou(counts), 0.0).sum().item() if counts.sum() > 0 else float("nan")


def dice(counts: Tensor) -> Tensor:
    """Dice coefficient (F1) of each class, float64 (C,): 2 TP / (2 TP + FP + FN). NaN for a class that occurs
    nowhere, never 1: a class that is absent has not been segmented well."""
    hits = counts.diagonal().double()
    return 2 * hits / (counts.sum(0) + counts.sum(1))


def boundary_iou(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255, width: int | None = None
) -> Tensor:
    """IoU of each class within a band along its own contour, float64 (C,); NaN for a class that occurs nowhere.

    Cheng et al. 2021, "Boundary IoU": of each mask only the pixels within `width` pixels of its contour
    count (inside the mask). As in the paper's code, `width` is by default 2 % of the image's diagonal, and the edge of
    the image counts as contour. The paper has no void: here void pixels of the target are cut out of both masks first.

    prediction, target: integer (H, W) or (B, H, W); counts are summed over B before the one division.
    """
    return boundary_score(boundary_counts(prediction, target, num_classes, ignore_index, width))


def boundary_counts(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255, width: int | None = None
) -> Tensor:
    """Intersection and union of each class's contour bands, int64 (C, 2), to be summed over a data set and handed to
    `boundary_score`. Arguments as in `boundary_iou`."""
    prediction, target = _checked(prediction, target, num_classes, ignore_index)
    if target.dim() not in (2, 3):
        raise ValueError(f"a boundary needs label maps (H, W) or (B, H, W), but got shape {tuple(target.shape)}")
    if width is None:
        height, breadth = target.shape[-2:]
        width = max(1, round(0.02 * (height**2 + breadth**2) ** 0.5))
    if width < 1:
        raise ValueError(f"a contour's band is at least 1 pixel wide, but got width={width}")
    void = target == ignore_index
    predicted = _contour_bands(prediction.masked_fill(void, num_classes), num_classes, width)
    true = _contour_bands(target.masked_fill(void, num_classes), num_classes, width)
    return torch.stack([(predicted & true).sum((0, 2, 3)), (predicted | true).sum((0, 2, 3))], dim=1)


def boundary_score(counts: Tensor) -> Tensor:
    """Boundary IoU of each class, float64 (C,), from `boundary_counts` (C, 2)."""
    return counts[:, 0].double() / counts[:, 1]


def checkerboard(maps: Tensor, stride: int) -> float:
    """How much of a map is a checkerboard: the share, in [0, 1], of its variance that repeats every `stride` pixels.

    That is its energy at the multiples of the frequency 1 / stride, in rows and columns, over its energy at all
    frequencies, the mean left out of both. By Parseval's theorem it equals the variance of the stride x stride tile of
    phase means (the mean of all pixels with the same row and column modulo `stride`) over the variance of the map, and
    is computed so. Of noise it is about (stride**2 - 1) / (H * W), of a constant map 0. Odena, Dumoulin, Olah 2016
    name the pattern; the measure is this course's.

    maps: (..., H, W), a tensor or an array of numbers, at least 2 * stride on each side; pixels beyond a whole number
    of periods are left out. Of several maps the energies are added, then divided once. stride: a whole number.
    A map counts as constant where it varies by no more than 8 roundings of its own floating type. float16 and
    bfloat16 round so much that weak patterns drown; measure before converting to them.
    Raises ValueError where the maps are too small to repeat, none, or hold NaN or infinities.
    """
    maps = torch.as_tensor(maps).detach().cpu()  # MPS has no float64
    if stride % 1 or stride < 1 or maps.dim() < 2 or min(maps.shape[-2:]) < 2 * stride:
        raise ValueError(
            f"a pattern of period {stride} needs maps (..., H, W) with two periods of whole pixels on each side, but "
            f"these have shape {tuple(maps.shape)}: pass larger maps, or the layer's own stride"
        )
    stride, rounding = int(stride), torch.finfo(maps.dtype).eps if maps.is_floating_point() else 0.0
    height, width = (size // stride * stride for size in maps.shape[-2:])
    maps = maps[..., :height, :width].double()
    if not maps.numel() or not maps.isfinite().all():
        what = "are none" if not maps.numel() else "hold NaN or infinities"
        raise ValueError(f"of these maps {tuple(maps.shape)} the share is not defined: they {what}")
    tiles = maps.unflatten(-1, (-1, stride)).unflatten(-3, (-1, stride)).mean((-4, -2))  # (..., stride, stride)
    pattern, everything = (x.var((-2, -1), correction=0).sum() for x in (tiles, maps))
    if everything <= (8 * rounding) ** 2 * maps.mean((-2, -1)).square().sum():  # constant but for rounding
        return 0.0
    return (pattern / everything).item()


def _contour_bands(labels: Tensor, num_classes: int, width: int) -> Tensor:
    """bool (B, C, H, W): the pixels of each class's mask that lie within `width` of what is not the class."""
    labels = labels.reshape(-1, 1, *labels.shape[-2:])  # (B, 1, H, W)
    padded = F.pad(labels.float(), [width] * 4, value=-1.0)  # beyond the image: no class
    highest, lowest = (sign * F.max_pool2d(sign * padded, 2 * width + 1, stride=1) for sign in (1, -1))
    masks = labels == torch.arange(num_classes, device=labels.device)[:, None, None]  # (B, C, H, W)
    return masks & (highest != lowest)  # near labels that are not all alike


def _checked(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    prediction, target = (each.cpu() if each.device.type == "mps" else each  # MPS has no float64
                          for each in map(torch.as_tensor, (prediction, target)))
    if prediction.is_floating_point() and prediction.dim() == target.dim() + 1:
        raise ValueError(f"prediction looks like scores {tuple(prediction.shape)}: pass labels, scores.argmax(1)")
    if prediction.is_floating_point() or target.is_floating_point():
        raise ValueError(f"labels are whole numbers, but got {prediction.dtype} and {target.dtype}: use .long()")
    if prediction.shape != target.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape: "
            "one label for each pixel of the target is needed"
        )
    prediction, target = prediction.long(), target.long()
    wrong = target[(target != ignore_index) & ((target < 0) | (target >= num_classes))]
    if wrong.numel():
        raise ValueError(
            f"the target holds label {wrong[0].item()}, expected 0..{num_classes - 1} or "
            f"{ignore_index} (void): is num_classes={num_classes} right?"
        )
    wrong = prediction[(target != ignore_index) & ((prediction < 0) | (prediction >= num_classes))]
    if wrong.numel():
        raise ValueError(f"the prediction holds label {wrong[0].item()}, expected 0..{num_classes - 1}")
    return prediction, target
