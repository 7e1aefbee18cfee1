"""FCN-32s, FCN-16s and FCN-8s on VGG16.

Long, Shelhamer, Darrell 2015, "Fully convolutional networks for semantic segmentation", sections 3 and 4; sizes,
paddings and crops as in the authors' Caffe models.
"""

from fractions import Fraction

import torch
from torch import Tensor, nn

from segviz.layers import bilinear_upsampling
from segviz.models import vgg
from segviz.models.vgg import POOL3, POOL4, POOL5


class FCN32s(nn.Module):
    """VGG16 with its classifier turned into convolutions; scores at stride 32, upsampled 32 times in one step.

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels of the first stage; 64 is the paper's.
    padding: zeros around the image. The reference uses 100, so that the output covers an image of any size: even a
    small one leaves fc6 (7x7, no padding of its own) a map to read. Each output is cropped back to the image.
    `padding=1` is a lighter variant for small images: fc6 pads by 3 and the crops follow. The weights have the same
    shapes.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else.
    """

    skips = ()  # stages whose scores are added on the way up, coarse to fine

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64, padding: int = 100):
        super().__init__()
        if padding not in (1, 100):
            raise ValueError(f"padding is 100 (the reference) or 1 (small images), but got {padding}")
        self.num_classes, self.in_channels, self.width, self.padding = num_classes, in_channels, width, padding
        self.stages = vgg.stages(in_channels, width, first_padding=padding)
        self.fc6 = vgg.relu_conv(8 * width, 64 * width, 7, padding=0 if padding == 100 else 3)
        self.fc7 = vgg.relu_conv(64 * width, 64 * width, 1)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.score = _zero_conv(64 * width, num_classes)
        self.skip_scores = nn.ModuleList(_zero_conv(width * vgg.STAGES[stage][-1], num_classes) for stage in self.skips)
        twice = [bilinear_upsampling(num_classes, 4, 2) for _ in self.skips]
        last = 32 >> len(self.skips)  # 32, 16 or 8
        self.upsamplings = nn.ModuleList([*twice, bilinear_upsampling(num_classes, 2 * last, last)])
        self.offsets = self.crops()

    def forward(self, images: Tensor) -> Tensor:
        return self.combine(self.score_maps(images), images.shape)

    def score_maps(self, images: Tensor) -> list[Tensor]:
        """The scores of fc7 and of each skip, coarse to fine: (B, num_classes, h, w), h and w about the image's over
        32, 16 and 8."""
        vgg.check_images(images, self.in_channels)
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        x = self.drop7(self.fc7(self.drop6(self.fc6(x))))
        skips = [score(maps[stage]) for stage, score in zip(self.skips, self.skip_scores, strict=True)]
        return [self.score(x), *skips]

    def combine(self, scores: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Logits of the image's `shape` from the maps of `score_maps`: upsample, add the next finer map, and so on.
        All of it is linear."""
        x, *details = scores
        *steps, last = self.upsamplings
        for detail, upsample, offset in zip(details, steps, self.offsets[:-1], strict=True):
            x = upsample(x)
            if offset >= 0:
                x = x + _crop(detail, offset, x.shape)  # the reference: the skip is the larger map
            else:
                x = _crop(x, -offset, detail.shape) + detail  # light padding: the upsampled map is
        return _crop(last(x), self.offsets[-1], shape)

    def contributions(self, images: Tensor) -> list[Tensor]:
        """What fc7 and each skip alone say of every pixel, coarse to fine: (B, num_classes, H, W) each.

        Behind the score maps all is linear, so they add up to the logits, but for rounding (in eval mode: dropout
        draws anew at every call)."""
        scores = self.score_maps(images)
        blank = [torch.zeros_like(score) for score in scores]
        return [
            self.combine([*blank[:i], score, *blank[i + 1 :]], images.shape) for i, score in enumerate(scores)
        ]

    def crops(self) -> list[int]:
        """How many rows and columns are cut at the top and left after each upsampling, so that maps lie on each other:
        19 for FCN-32s; 5, 27 for FCN-16s; 5, 9, 31 for FCN-8s at the reference's padding. A negative number is cut from
        the upsampled map instead of the skip's."""

        def where(stage: int) -> Fraction:  # the image's pixel 0, in coordinates of the map behind `stage`
            place = Fraction(self.padding - 1)  # a 3x3 convolution that pads by 1 leaves it in its place
            for _ in range(stage + 1):
                place = (place - Fraction(1, 2)) / 2
            return place

        place, offsets = where(POOL5) - (3 if self.padding == 100 else 0), []
        for stage, upsample in zip([*self.skips, None], self.upsamplings, strict=True):
            kernel, stride = upsample.kernel_size[0], upsample.stride[0]
            place = place * stride + Fraction(kernel - 1, 2)
            offset = place if stage is None else where(stage) - place
            assert offset.denominator == 1, "the maps do not lie on one grid"
            offsets.append(int(offset))
            place += min(offset, 0)
        return offsets


class FCN16s(FCN32s):
    """FCN-32s with pool4's scores added at stride 16. Arguments as for `FCN32s`."""

    skips = (POOL4,)


class FCN8s(FCN32s):
    """FCN-32s with pool4's scores added at stride 16 and pool3's at stride 8. Arguments as for `FCN32s`.

    The "at once" training of the journal version (Shelhamer, Long, Darrell 2017) scales pool4 by 0.01 and pool3 by
    0.0001; here, as in the staged training, they are not scaled."""

    skips = (POOL4, POOL3)


def _zero_conv(in_channels: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, num_classes, 1)  # score layers start at zero, as in the reference
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _crop(x: Tensor, offset: int, shape) -> Tensor:
    """`x` cut to the height and width of `shape`, beginning `offset` rows and columns from its top left corner."""
    return x[..., offset : offset + shape[-2], offset : offset + shape[-1]]
