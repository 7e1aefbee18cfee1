"""Augmentation: one image and its mask, changed together."""

import functools
import math
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
    rare: labels that crops are to show. With a chance of one half the crop is laid so that it holds a pixel of one of
    them, if the image has any: the label is drawn, then its pixel, and where in the crop that lies, as far as the
    image's edges let it. Else it is cut out anywhere. (nnU-Net does so for the foreground, in a third of its crops:
    Isensee et al. 2021, "nnU-Net: a self-configuring method ...", its code's oversample_foreground_percent.)

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
    rare: tuple[int, ...] = ()

    def __repr__(self):
        """As a call. `fit` takes up a run where this is the same: what came after the first runs were kept, `elastic`,
        `turns` and `rare`, is told only where it is on."""
        told = {field.name: getattr(self, field.name) for field in fields(self)}
        told = {name: value for name, value in told.items() if value or name not in ("elastic", "turns", "rare")}
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
        if self.rare and self.crop is None:
            raise ValueError(f"crops show rare labels, but none are cut out: Augment(rare={self.rare}, crop=...)")

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
        lit = functools.partial(_lit, brightness=1 + self.brightness * (2 * light - 1),
                                contrast=1 + self.contrast * (2 * depth - 1), grey=self.contrast and image.mean())
        if self.elastic:
            moves = self.elastic * torch.randn(1, 2, 3, 3, generator=generator)
            (image, mask), lit = _bent(lit(image), mask, moves), lambda part: part
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * zoom
        shape = tuple(max(1, round(factor * side)) for side in mask.shape)
        flipped = mirror < self.flip
        # what is cut out is found first, and only its pixels are computed
        turned = shape[::-1] if quarters % 2 else shape
        window = [_window(*sides) for sides in zip((down, right), turned, size, strict=True)]
        rows, columns = _before(window, shape, flipped, quarters)
        if self.rare and (pixel := _found(mask, self.rare, generator)) is not None:
            pixel = [int((at + 0.5) * new / old) for at, new, old in zip(pixel, shape, mask.shape, strict=True)]
            rows, columns = map(_around, pixel, (rows, columns), (down, right), shape)
        image, mask = _resized(image, mask, shape, rows, columns, lit)
        if flipped:
            image, mask = image.flip(-1), mask.flip(-1)
        image, mask = image.rot90(quarters, (-2, -1)), mask.rot90(quarters, (-2, -1))
        return self._padded(image, mask, size)

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is None:
            return height, width
        return (self.crop, self.crop) if isinstance(self.crop, int) else tuple(self.crop)

    def _padded(self, image: Tensor, mask: Tensor, size) -> tuple[Tensor, Tensor]:
        missing = [wanted - has for wanted, has in zip(size, mask.shape, strict=True)]
        if any(missing):
            mask = F.pad(mask, (0, missing[1], 0, missing[0]), value=self.void)
            filled = image.new_tensor(self.fill).reshape(-1, 1, 1).expand(image.shape[0], *mask.shape).clone()
            filled[:, : image.shape[1], : image.shape[2]] = image
            image = filled
        return image.contiguous(), mask.contiguous()


def _window(place: float, has: int, wanted: int) -> slice:
    """The rows (or columns) that are cut out of so many: `place` in [0, 1) runs over all that can be."""
    begin = int(place * (max(has, wanted) - wanted + 1))
    return slice(begin, min(begin + wanted, has))


def _around(pixel: int, window: slice, place: float, has: int) -> slice:
    """A window of the same length that holds a pixel at `place` in [0, 1), as far as there are rows on both sides."""
    length = window.stop - window.start
    begin = min(max(0, pixel - int(place * length)), has - length)
    return slice(begin, begin + length)


def _found(mask: Tensor, labels: tuple[int, ...], generator: torch.Generator) -> tuple[int, int] | None:
    """A pixel (row, column) of one of these labels; None in half of the cases, and where the mask has none."""
    wanted, which, where = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    if wanted < 0.5:
        return None
    there = [places for label in labels if len(places := (mask == label).flatten().nonzero())]
    if not there:
        return None
    places = there[int(which * len(there))]
    return divmod(int(places[int(where * len(places))]), mask.shape[1])


def _before(window: list[slice], shape: tuple[int, int], flipped: bool, quarters: int) -> list[slice]:
    """Where the pixels of a window were before the image, then of `shape`, was flipped and turned."""
    rows, columns = window
    height, width = shape[::-1] if quarters % 2 else shape
    for _ in range(quarters):                               # a quarter back: what is on top was at the right
        rows, columns = columns, slice(height - rows.stop, height - rows.start)
        height, width = width, height
    return [rows, slice(width - columns.stop, width - columns.start) if flipped else columns]


def _lit(image: Tensor, brightness: float, contrast: float, grey) -> Tensor:
    """An image, or a part of one whose mean is `grey`."""
    if brightness == contrast == 1:
        return image
    return (image * (brightness * contrast)).add_(brightness * grey * (1 - contrast)).clamp_(0, 1)


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


def _resized(image: Tensor, mask: Tensor, shape: tuple[int, int], rows: slice, columns: slice, lit):
    """Rows and columns of both as they are when resized to `shape`; `lit` is done to the image before."""
    if shape == mask.shape:
        return lit(image[:, rows, columns]), mask[rows, columns]
    (down, high), (across, wide) = (
        _weights(length, size, window) for length, size, window in zip(mask.shape, shape, (rows, columns), strict=True)
    )
    image = down.to(image.dtype) @ lit(image[:, high, wide]) @ across.to(image.dtype).T
    at = [_nearest(length, size)[part] for length, size, part in zip(mask.shape, shape, (rows, columns), strict=True)]
    return image, mask[at[0][:, None], at[1]]


def _weights(length: int, size: int, window: slice) -> tuple[Tensor, slice]:
    """What each of `length` pixels gives to those of a window when they become `size`, and which give anything:
    bilinear, antialiased, as torch's."""
    step = length / size
    reach = max(1.0, step)
    centre = (torch.arange(window.start, window.stop, dtype=torch.float64) + 0.5) * step
    first, end = max(0, math.floor(centre[0] - reach)), min(length, math.ceil(centre[-1] + reach))
    weights = (1 - (torch.arange(first, end) + 0.5 - centre[:, None]).abs() / reach).clamp(min=0)
    return weights / weights.sum(1, keepdim=True), slice(first, end)


def _nearest(length: int, size: int) -> Tensor:
    """Which of `length` pixels each of `size` is: the one that its centre lies in."""
    return ((torch.arange(size, dtype=torch.float64) + 0.5) * length / size).long()
