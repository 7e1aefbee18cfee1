"""Known networks, for the explorer of receptive fields: kernels, strides and rates alone, on the meta device."""

from functools import cache

import torch
from torch import nn

from segviz.models import vgg
from segviz.widgets import stacks

SIZE = (224, 224)                                    # pixels: what VGG16 and ResNet-50 were trained on


def _convs(count: int, kernel: int = 3, padding: int = 1, rate: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(1, 1, kernel, padding=padding, dilation=rate) for _ in range(count)]


def _vgg16() -> nn.Module:
    return nn.Sequential(*vgg.stages(), nn.Conv2d(512, 4096, 7, padding=3), nn.Conv2d(4096, 4096, 1))


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50  # here, for it takes a while to import

    return nn.Sequential(*list(resnet50().children())[:-2])


def _unet() -> nn.Module:
    down = [part for _ in range(4) for part in (*_convs(2, padding=0), nn.MaxPool2d(2))]
    up = [part for _ in range(4) for part in (nn.ConvTranspose2d(1, 1, 2, 2), *_convs(2, padding=0))]
    return nn.Sequential(*down, *_convs(2, padding=0), *up, nn.Conv2d(1, 1, 1))


def _large_fov() -> nn.Module:
    stages = [part for count, stride in ((2, 2), (2, 2), (3, 2), (3, 1))
              for part in (*_convs(count), nn.MaxPool2d(3, stride, 1))]
    last = [*_convs(3, padding=2, rate=2), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)]
    return nn.Sequential(*stages, *last, *_convs(1, padding=12, rate=12), nn.Conv2d(1, 1, 1))


# name: (what makes it, a word of caution)
KNOWN = {
    "VGG16": (_vgg16, "Its FC layers as convolutions of 7×7 and 1×1, as in FCN; here padded to keep the size."),
    "ResNet-50": (_resnet50, "Layers that enlarge the field, along the longest branch."),
    "U-Net": (_unet, "The longest path, down and up again, without the skips; unpadded, as in the paper."),
    "DeepLab LargeFOV": (_large_fov, "VGG16 with 3×3 pools, two of them of stride 1, then rates 2 and 12."),
}


@cache
def network(name: str) -> nn.Module:
    with torch.device("meta"):
        return KNOWN[name][0]()


@cache
def followed(name: str) -> stacks.Followed:
    return stacks.followed(network(name), SIZE)
