"""U-Net: a path down to what is there, a path up to where it is, and at every level the one handed to the other.

Ronneberger, Fischer, Brox 2015, "U-Net: convolutional networks for biomedical image segmentation", section 2 and
figure 1.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.models.vgg import check_images

PADDINGS, MERGES = ("same", "valid"), ("concatenate", "add", "nothing")


class UNet(nn.Module):
    """Pairs of 3x3 convolutions and ReLUs; on the way down a 2x2 pooling halves the map and the channels double, on the
    way up a 2x2 transposed convolution ("up-convolution") doubles the map and halves the channels, and the map that the
    way down had at that level joins it.

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels of the first level; 64 is the paper's. depth: poolings; 4 is the paper's.
    padding: "valid", the paper's: no convolution pads, so the logits are smaller than the image, 388 for 572, and the
    maps from the way down are cropped to their middle. "same": every convolution pads by 1, and the logits have the
    image's size. A size that 2**depth does not divide is then filled up, below and to the right, with copies of the
    image's last row and column, and the logits are cut back: every pooling gets an even map.
    merge: "concatenate", the paper's, or "add": then the first convolution behind it reads half as many channels; or
    "nothing": no map of the way down joins, to see what the skips are worth.
    norm: batch normalisation between convolution and ReLU; the paper has none.
    dropout: chance that a number is dropped at the end of the last two levels on the way down (section 3.1: "at the end
    of the contracting path"). That it is two levels, and 0.5, are from the authors' Caffe model, as others have read
    it. So is the transposed convolution: the paper says upsampling, followed by a 2x2 convolution. That model has a
    ReLU behind each of them too; the paper names none, and here is none.

    Weights start from N(0, 2 / N), N being the numbers that one output reads (section 3): 9 a channel for a 3x3
    convolution, one a channel for an up-convolution. Biases start at 0.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W); with
    padding="valid" (B, num_classes, H - 184, W - 184) at depth 4, `levels` has the other depths. ValueError for
    anything else: for valid sizes with an odd map in front of a pooling, naming the nearest that have none; and for a
    batch of one in training with `norm` where the lowest map is 1x1.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        padding: str = "same",
        depth: int = 4,
        merge: str = "concatenate",
        norm: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        _check(padding, depth)
        if merge not in MERGES:
            raise ValueError(f"merge is one of {MERGES}, but got {merge!r}")
        self.num_classes, self.in_channels, self.width = num_classes, in_channels, width
        self.padding, self.depth, self.merge, self.norm, self.dropout = padding, depth, merge, norm, dropout
        pad, read = int(padding == "same"), 2 if merge == "concatenate" else 1
        channels = [width * 2**level for level in range(depth + 1)]
        ends = zip([in_channels, *channels], channels, strict=False)
        self.down = nn.ModuleList(_pair(before, after, pad, norm) for before, after in ends)
        for pair in self.down[-2:]:
            pair.append(nn.Dropout(dropout))
        self.pool = nn.MaxPool2d(2)
        coarse_to_fine = channels[-2::-1]
        self.upsamplings = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in coarse_to_fine)
        self.up = nn.ModuleList(_pair(read * c, c, pad, norm) for c in coarse_to_fine)
        self.score = nn.Conv2d(width, num_classes, 1)
        fine_to_coarse = levels(fitting(1, depth, padding)[1], depth, padding)[:-1]
        self.margins = [level.surplus // 2 for level in reversed(fine_to_coarse)]  # cropped off, the same at all sizes
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                reads = layer.in_channels if isinstance(layer, nn.ConvTranspose2d) else layer.weight[0].numel()
                nn.init.normal_(layer.weight, std=(2 / reads) ** 0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels)
        height, width = images.shape[2:]
        if self.padding == "same":
            step = 2**self.depth
            below, right = (step * ((size + step - 1) // step) - size for size in (height, width))
            images = F.pad(images, (0, right, 0, below), mode="replicate")
        return self.decode(self.encode(images))[..., :height, :width]

    def encode(self, images: Tensor) -> list[Tensor]:
        """The map of each level on the way down, fine to coarse: (B, width * 2**level, h, w). All but the last, which
        is the bottom, are what the way up is handed. Height and width of the images as `fitting` has them."""
        self._check_sizes(images)
        maps = [self.down[0](images)]
        for pair in self.down[1:]:
            maps.append(pair(self.pool(maps[-1])))
        return maps

    def decode(self, maps: list[Tensor]) -> Tensor:
        """Logits from the maps of `encode`, one a level: of the images' size, or smaller with padding="valid". A map
        that is replaced by zeros is a skip that is cut."""
        *skips, x = maps
        for skip, upsample, pair, margin in zip(reversed(skips), self.upsamplings, self.up, self.margins, strict=True):
            x = upsample(x)
            if margin:
                skip = F.pad(skip, (-margin,) * 4)
            if self.merge == "concatenate":
                x = torch.cat([skip, x], dim=1)
            elif self.merge == "add":
                x = skip + x
            x = pair(x)
        return self.score(x)

    def _check_sizes(self, images: Tensor) -> None:
        for name, size in zip(("height", "width"), images.shape[2:], strict=True):
            nearest = fitting(size, self.depth, self.padding)
            if nearest != (size, size):
                words = " or ".join(str(other) for other in nearest if other is not None)
                raise ValueError(
                    f'a {name} of {size} does not fit a U-Net of depth {self.depth} with padding="{self.padding}", '
                    f"where each pooling needs an even map: take {words}"
                )
        alone = self.norm and self.training and len(images) == 1
        if alone and self.padding == "same" and max(images.shape[2:]) == 2**self.depth:
            raise ValueError(
                "UNet with norm=True cannot train on a batch of one here: the lowest map is 1x1, and batch "
                "normalisation needs more than one value a channel. Take two images or more, or larger ones, or a "
                "smaller depth"
            )


class Level(NamedTuple):
    """The sizes (height or width) of the maps of one level.

    down: what comes in, behind the first convolution, behind the second; the last is what the way up is handed.
    up: behind the up-convolution, behind the first convolution, behind the second. Empty at the bottom.
    """

    down: tuple[int, int, int]
    up: tuple[int, int, int] | tuple[()]

    @property
    def surplus(self) -> int:
        """How much larger the map from the way down is than the one that it joins on the way up; 0 at the bottom.
        What padding="valid" crops. With padding="same" 0 is a fit, and 1 is the mismatch of `odd`."""
        return self.down[2] - self.up[0] if self.up else 0

    @property
    def odd(self) -> bool:
        """Whether a mismatch arises here: pooling an odd map leaves its last row out, and no doubling brings it back.
        Of a valid crop it makes one that has no middle."""
        return bool(self.up) and self.down[2] % 2 == 1


def levels(size: int, depth: int = 4, padding: str = "same") -> list[Level]:
    """The sizes of all maps of a U-Net, along one axis, for an input of `size`: a Level each, fine to coarse, the
    bottom last. The logits have the size `levels(...)[0].up[-1]`.

    Pure arithmetic, of any size, also those that `UNet` fills up or refuses: a 3x3 convolution takes 2 away (with
    padding="same" nothing), a pooling halves and rounds down, an up-convolution doubles. Where a `Level` is `odd`, the
    way up goes on, with padding="same", as if one row had been added to the upsampled map; with "valid" the crop takes
    one more from one side than from the other.
    Raises ValueError where nothing is left of a map, and for an unknown padding or a depth below 1.
    """
    _check(padding, depth)
    loss, down, up = 2 * (padding == "valid"), [], []
    for _ in range(depth + 1):
        down.append((size, size - loss, size - 2 * loss))
        size = down[-1][-1] // 2
    size = down[-1][-1]
    for _, _, skip in reversed(down[:-1]):
        joined = skip if padding == "same" else 2 * size
        up.append((2 * size, joined - loss, joined - 2 * loss))
        size = up[-1][-1]
    if min(min(sizes) for sizes in down + up) < 1:
        raise ValueError(
            f'a size of {down[0][0]} leaves no map at every level of a U-Net of depth {depth} with padding="{padding}"'
            f": take {fitting(1, depth, padding)[1]} or more"
        )
    return [Level(*sizes) for sizes in zip(down, [*reversed(up), ()], strict=True)]


def fitting(size: int, depth: int = 4, padding: str = "same") -> tuple[int | None, int]:
    """The nearest sizes, not above and not below `size`, at which every pooling gets an even map and every level has
    one: multiples of 2**depth with padding="same", 188, 204, ..., 572, ... with "valid" at depth 4. Both are `size`
    where that is one of them; the first is None where there is none so small."""
    _check(padding, depth)
    step, lost, bottom = 2**depth, 0, 1
    if padding == "valid":
        lost = 4 * (step - 1)                # 4 at each level above the bottom, counted in pixels of the input
        bottom = 4 + lost // step + 1        # 4 at the bottom itself, and so much that the way up ends with a pixel
    least, below = step * bottom + lost, size - (size - lost) % step
    return below if below >= least else None, max(least, size + (lost - size) % step)


def _check(padding: str, depth: int) -> None:
    if padding not in PADDINGS or depth < 1:
        raise ValueError(f"padding is one of {PADDINGS} and depth at least 1, but got {padding!r} and {depth}")


def _pair(in_channels: int, out_channels: int, pad: int, norm: bool) -> nn.Sequential:
    layers = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=pad), nn.ReLU(inplace=True)]
        if norm:
            layers.insert(-1, nn.BatchNorm2d(out_channels))
    return nn.Sequential(*layers)
