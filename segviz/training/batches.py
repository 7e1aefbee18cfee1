"""Which items make which batch, as a function of the seed and the epoch alone, and items made into batches."""

import torch
from torch import Tensor


def shuffled_batches(data, batch_size: int, seed: int):
    """Endless (images, labels), each epoch in an order that depends on (seed, epoch) alone."""
    size, epoch = min(batch_size, len(data)), 0
    while True:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
        for first in range(0, len(data) - size + 1, size):
            yield collate(data, order[first : first + size])
        epoch += 1


def collate(data, indices) -> tuple[Tensor, Tensor]:
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
