"""Maps whose outermost places lie upon the image's corners (lessons 09 to 12)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def filled(images: Tensor, stride: int = 8) -> Tensor:
    """Images (B, C, H, W), filled up below and to the right to the next H and W of the form stride * k + 1 with copies
    of their last row and column. A map at that stride then has its outermost places upon the image's corners."""
    below, right = (stride * ((size + stride - 2) // stride) + 1 - size for size in images.shape[2:])
    return F.pad(images, (0, right, 0, below), mode="replicate")


def upsampled(maps: Tensor, shape: tuple[int, ...], stride: int = 8) -> Tensor:
    """Maps (B, C, h, w) enlarged bilinearly, each place put upon every `stride`-th pixel (corners aligned), at the
    height and width of `shape`: of the images as they were before `filled`. In float32 at least: in half precision the
    way back through the upsampling is slow."""
    maps, size = maps.to(torch.promote_types(maps.dtype, torch.float32)), [stride * (n - 1) + 1 for n in maps.shape[2:]]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)[..., : shape[-2], : shape[-1]]
