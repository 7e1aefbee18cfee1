"""Augmentation: one image and its mask, changed together."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """`augment(image, mask, generator) -> (image, mask)`: light, bends, size, mirror image, turns, cut-out, by chance.

    In this order, each drawn evenly from its range:
    brightness, contrast: at most, in [0, 1). The image is multiplied by a factor in 1 ± brightness, its distance from
    its own mean grey by one in 1 ± contrast, and cut to [0, 1]. 0: left alone.
    elastic: standard deviation, in pixels, of how far the points of a 3 x 3 grid over the image are moved, down and
    across (normal); pixels between them move by bicubic interpolation. 0: none. Ronneberger, Fischer, Brox 2015,
    "U-Net", section 3.1, with 10 at 512 pixels; what is seen beyond the image's edge is its mirror image, of which
    the paper says nothing. Image bilinear, mask nearest.
    scale: lowest and highest factor of the size. Image bilinear, antialiased where it shrinks; mask nearest, on the
    same grid of pixel centres.
    flip: the chance of a mirror image, left for right.
    turns: whether it is turned by 0, 1, 2 or 3 quarters, each as likely. An oblong image needs a `crop`.
    crop: size (or height, width) of the result, cut out anywhere; default: the image's own size. What is too small
    is padded at the right and the bottom: the image with `fill` (a number, or one a channel), the mask with `void`.

    image: float (C, H, W) in [0, 1]; mask: integer (H, W); their results: (C, *crop) and (*crop), of the same types.
    What is drawn comes from `generator` alone. Raises ValueError in words for settings that cannot be and for an image
    and a mask of different sizes.
    """

    crop: int | tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.5
    brightness: float = 0.0
    contrast: float = 0.0
    fill: float | tuple[float, ...] = 0.0
    void: int = 255
    elastic: float = 0.0
    turns: bool = False

    def __repr__(self):
        """As a call. `fit` takes up a run where this is the same: what came after the first runs were kept, `elastic`
        and `turns`, is told only where it is on."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        told = {name: value for name, value in told.items() if value or name not in ("elastic", "turns")}
        return f"Augment({', '.join(f'{name}={value!r}' for name, value in told.items())})"

    def __post_init__(self):
        low, high = self.scale
        if not 0 < low <= high:
            raise ValueError(f"scale is (lowest, highest) factor of the size, above 0, but got {self.scale}")
        if not 0 <= self.flip <= 1 or not 0 <= self.brightness < 1 or not 0 <= self.contrast < 1:
            raise ValueError(
                "flip is a chance in [0, 1], brightness and contrast lie in [0, 1), but got "
                f"flip={self.flip}, brightness={self.brightness}, contrast={self.contrast}"
            )
        if not 0 <= self.elastic < float("inf"):
            raise ValueError(f"elastic is a deviation in pixels, at least 0, but got {self.elastic}")
        if self.crop is not None and min(self._size(0, 0)) < 1:
            raise ValueError(f"crop is a size, or (height, width), at least 1, but got {self.crop}")

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if image.dim() != 3 or image.shape[1:] != mask.shape or not image.is_floating_point():
            raise ValueError(
                f"an image is float (C, H, W) and its mask (H, W), but got {image.dtype} {tuple(image.shape)} and "
                f"{tuple(mask.shape)}"
            )
        size = self._size(*mask.shape)
        # always as many numbers, whatever the settings: the same chance cuts out the same place
        light, depth, zoom, mirror, down, right = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
        if self.turns and self.crop is None and image.shape[1] != image.shape[2]:
            raise ValueError(f"an oblong image {tuple(mask.shape)} can be turned only where a crop is cut out of it: "
                             "Augment(turns=True, crop=...)")
        quarters = int(torch.randint(4, (), generator=generator)) if self.turns else 0
        image = _lit(image, 1 + self.brightness * (2 * light - 1), 1 + self.contrast * (2 * depth - 1))
        if self.elastic:
            moves = self.elastic * torch.randn(1, 2, 3, 3, generator=generator)
            image, mask = _bent(image, mask, moves)
        image, mask = _resized(image, mask, self.scale[0] + (self.scale[1] - self.scale[0]) * zoom)
        if mirror < self.flip:
            image, mask = image.flip(-1), mask.flip(-1)
        image, mask = image.rot90(quarters, (-2, -1)), mask.rot90(quarters, (-2, -1))
        return self._cut(image, mask, size, (down, right))

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is None:
            return height, width
        return (self.crop, self.crop) if isinstance(self.crop, int) else tuple(self.crop)

    def _cut(self, image: Tensor, mask: Tensor, size, place) -> tuple[Tensor, Tensor]:
        missing = [max(0, wanted - has) for wanted, has in zip(size, mask.shape, strict=True)]
        if any(missing):
            mask = F.pad(mask, (0, missing[1], 0, missing[0]), value=self.void)
            filled = image.new_tensor(self.fill).reshape(-1, 1, 1).expand(image.shape[0], *mask.shape).clone()
            filled[:, : image.shape[1], : image.shape[2]] = image
            image = filled
        top, left = (int(p * (has - wanted + 1)) for p, has, wanted in zip(place, mask.shape, size, strict=True))
        window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
        return image[window].contiguous(), mask[window].contiguous()


def _lit(image: Tensor, brightness: float, contrast: float) -> Tensor:
    if brightness == contrast == 1:
        return image
    image = image * brightness
    grey = image.mean()
    return (grey + (image - grey) * contrast).clamp(0, 1)


def _bent(image: Tensor, mask: Tensor, moves: Tensor) -> tuple[Tensor, Tensor]:
    """Both seen through a bent grid: `moves` (1, 2, 3, 3), pixels down and across, at the image's corners, the middles
    of its sides and its middle."""
    size = mask.shape
    moves = F.interpolate(moves.to(image.dtype), size, mode="bicubic", align_corners=True)[0]
    there = [torch.arange(n, dtype=image.dtype).view(shape) + move for n, shape, move in
             zip(size, ((-1, 1), (1, -1)), moves, strict=True)]
    # grid_sample counts from -1 at the outer edge of the first pixel to 1 at that of the last, and across first
    grid = torch.stack([(2 * at + 1) / n - 1 for at, n in zip(there, size, strict=True)][::-1], -1)[None]
    look = {"padding_mode": "reflection", "align_corners": False}
    labels = F.grid_sample(mask[None, None].to(image.dtype), grid, mode="nearest", **look)[0, 0]
    return F.grid_sample(image[None], grid, mode="bilinear", **look)[0], labels.to(mask.dtype)


def _resized(image: Tensor, mask: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    size = [max(1, round(factor * side)) for side in mask.shape]
    if size == list(mask.shape):
        return image, mask
    image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    if mask.dtype not in (torch.uint8, torch.float32):  # what "nearest-exact" takes; labels are small whole numbers
        return image, F.interpolate(mask[None, None].double(), size, mode="nearest-exact")[0, 0].to(mask.dtype)
    return image, F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]
