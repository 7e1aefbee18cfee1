"""Max pooling, undone (lesson 07)."""

import torch
import torch.nn.functional as F
from torch import Tensor

UNPOOLING = ("switches", "corner", "shuffled", "bilinear")


def unpool(maps: Tensor, switches: Tensor, mode: str = "switches") -> Tensor:
    """Undoes the size of a 2x2 max pooling: (B, C, H, W) -> (B, C, 2 H, 2 W).

    switches: (B, C, H, W) int64, from `nn.MaxPool2d(2, return_indices=True)`: where each value stood, counted row by
    row in a map of (2 H, 2 W). mode: where each value goes in its square of 2x2, the other three being zero:
    "switches", where the largest value stood (Noh, Hong, Han 2015, section 3.2);
    "corner", to the top left; "shuffled", to one of the four by chance, from torch's global generator. "bilinear" puts
    values nowhere, it interpolates (corners not aligned). Only "switches" reads the switches.
    Raises ValueError for another mode.
    """
    if mode not in UNPOOLING:
        raise ValueError(f"expected a mode out of {UNPOOLING}, got {mode!r}")
    height, width = maps.shape[2:]
    if mode == "bilinear":
        return F.interpolate(maps, size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
    if mode != "switches":
        rows, columns = (torch.arange(0, 2 * size, 2, device=maps.device) for size in (height, width))
        switches = (rows[:, None] * 2 * width + columns).expand(maps.shape)
    if mode == "shuffled":
        down, right = torch.randint(2, (2, *maps.shape), device=maps.device)
        switches = switches + down * 2 * width + right
    return F.max_unpool2d(maps, switches, 2)
