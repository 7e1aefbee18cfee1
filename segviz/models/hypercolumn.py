"""Hypercolumns on VGG16.

Hariharan, Arbelaez, Girshick, Malik 2015, "Hypercolumns for object segmentation and fine-grained localization".
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.models import vgg
from segviz.models.vgg import POOL3, POOL4

SKIPS, STRIDES = (POOL4, POOL3), (32, 16, 8)  # stages that are read besides fc7; strides, fc7 first


class Hypercolumn(nn.Module):
    """Every pixel is classified by all that several layers of VGG16 say above it: pool3, pool4 and fc7.

    The vector of a pixel, its hypercolumn, would be the three maps, upsampled to the image's size and concatenated
    (`columns`), and a 1x1 convolution would read it. The network computes the same with less memory, as the authors do:
    it scores each map by its own 1x1 convolution, upsamples the scores and adds them up. Both steps are linear, and
    neither mixes what the other one does: pixels here, channels there.

    This is an adaptation. The paper tells an object from what is around it, inside the box of a detection, with a grid
    of classifiers, each for its part of the box; here one softmax classifier labels all pixels of the whole image. The
    layers are those of the authors' VGG16 model (the paper's example, on AlexNet, is pool2, conv4 and fc7). There pool3
    is read by a 3x3 convolution, and pool3 and pool4 are first scaled by constants; here all are read 1x1, unscaled.
    fc6 pads by 3, so that a small image leaves it a map to read.

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels of the first stage; 64 is VGG16's.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64):
        super().__init__()
        self.num_classes, self.in_channels, self.width = num_classes, in_channels, width
        self.stages = vgg.stages(in_channels, width)
        self.fc6 = vgg.relu_conv(8 * width, 64 * width, 7, padding=3)
        self.fc7 = vgg.relu_conv(64 * width, 64 * width, 1)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.score = _score(64 * width, num_classes)
        self.skip_scores = nn.ModuleList(_score(width * vgg.STAGES[stage][-1], num_classes) for stage in SKIPS)

    def forward(self, images: Tensor) -> Tensor:
        return sum(self.contributions(images))

    def contributions(self, images: Tensor) -> list[Tensor]:
        """What fc7, pool4 and pool3 say of every pixel, coarse to fine: (B, num_classes, H, W) each. Their sum is the
        logits."""
        scores = [score(x) for score, x in zip([self.score, *self.skip_scores], self.maps(images), strict=True)]
        return _upsampled(scores, images.shape)

    def columns(self, images: Tensor) -> Tensor:
        """The hypercolumn of every pixel: (B, 76 width, H, W), the maps of fc7, pool4 and pool3 upsampled and
        concatenated."""
        return torch.cat(_upsampled(self.maps(images), images.shape), dim=1)

    def maps(self, images: Tensor) -> list[Tensor]:
        """fc7, pool4 and pool3: (B, C, h, w) with 64, 8 and 4 times `width` channels, at strides 32, 16 and 8."""
        vgg.check_images(images, self.in_channels)
        maps, x = [], images
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [self.drop7(self.fc7(self.drop6(self.fc6(x)))), *(maps[stage] for stage in SKIPS)]


def _score(in_channels: int, num_classes: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.normal_(conv.weight, std=0.01)  # as in the authors' model
    nn.init.zeros_(conv.bias)
    return conv


def _upsampled(maps: list[Tensor], shape: tuple[int, ...]) -> list[Tensor]:
    """Each map enlarged by its stride, bilinearly. At odd sizes its last cells reach over the image's border (pooling
    rounds up), and what lies outside is cut: every cell stays upon the pixels that it was pooled from."""
    sizes = [[stride * size for size in x.shape[2:]] for stride, x in zip(STRIDES, maps, strict=True)]
    large = [
        F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        for x, size in zip(maps, sizes, strict=True)
    ]
    return [x[..., : shape[-2], : shape[-1]] for x in large]
