"""VGG16, the backbone of FCN, DeconvNet and DeepLab v1.

Simonyan and Zisserman 2015, "Very deep convolutional networks", table 1, configuration D: thirteen 3x3 convolutions in
five stages, each closed by a 2x2 pooling of stride 2.
"""

import math

import torch
from torch import Tensor, nn

from segviz.models import imagenet

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # output channels, in units of `width`
POOL3, POOL4, POOL5 = 2, 3, 4                               # stages, counted from 0
DIGEST = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"  # SHA-256 of the file with those weights


class VGG16(nn.Module):
    """VGG16 as a classifier that answers everywhere: its fully connected layers are convolutions of the same weights
    (lesson 02; Simonyan and Zisserman 2015, section 3.2).

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels of the first stage; 64 is the paper's.

    `model(images)`: (B, in_channels, H, W) float, H and W from 224 up -> logits (B, num_classes, h, w), as many as a
    window of 7x7 has places on pool5's map of about H / 32 x W / 32: one for an image of 224x224.
    ValueError for anything else.
    """

    def __init__(self, num_classes: int = 1000, in_channels: int = 3, width: int = 64):
        super().__init__()
        self.num_classes, self.in_channels, self.width = num_classes, in_channels, width
        self.stages = stages(in_channels, width)
        self.fc6 = relu_conv(8 * width, 64 * width, 7)
        self.fc7 = relu_conv(64 * width, 64 * width, 1)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.score = nn.Conv2d(64 * width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.in_channels, least=224)
        x = images
        for stage in self.stages:
            x = stage(x)
        return self.score(self.drop7(self.fc7(self.drop6(self.fc6(x)))))


def relu_conv(
    in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, norm: bool = False, dilation: int = 1
) -> nn.Sequential:
    """A convolution and a ReLU; with `norm`, a batch normalisation between them.

    Weights start from He et al. 2015's normal distribution, so that the network trains from scratch."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, *([nn.BatchNorm2d(out_channels)] if norm else []), nn.ReLU(inplace=True))


def stages(
    in_channels: int = 3,
    width: int = 64,
    first_padding: int = 1,
    norm: bool = False,
    switches: bool = False,
    output_stride: int = 32,
    pool_size: int = 2,
) -> nn.ModuleList:
    """The five convolutional stages; stage i halves the map, and ends with `width * (1, 2, 4, 8, 8)[i]` channels.

    first_padding: zeros around the image at the very first convolution; FCN's reference uses 100.
    norm: batch normalisation behind each convolution. switches: each stage gives a pair, the map and the index of each
    value's place in the map before pooling (`return_indices`), as DeconvNet needs both.
    output_stride: 32, 16 or 8. A pooling that would halve the map beyond it does not stride; instead what follows it,
    poolings too, is dilated, by 2, and by 4 behind a second one. The same weights then give, on every second (fourth)
    row and column, the values that they give at stride 32, and others between (lesson 10).
    pool_size: 2, VGG's, which reads a cell and those right and below, and rounds up (`ceil_mode`), as in the Caffe
    models, so that no row or column is lost at odd sizes; or 3, DeepLab v1's, which reads those all around.
    """
    result, channels, stride, rate = nn.ModuleList(), in_channels, 1, 1
    for multiples in STAGES:
        stage = nn.Sequential()
        for multiple in multiples:
            padding = first_padding if not result and not len(stage) else rate
            stage.extend(relu_conv(channels, multiple * width, 3, padding, norm, rate))
            channels = multiple * width
        if stride < output_stride:
            stage.append(nn.MaxPool2d(pool_size, 2, pool_size // 3, ceil_mode=pool_size == 2, return_indices=switches))
            stride *= 2
        else:
            stage.extend(_dilated_pooling(pool_size, rate))
            rate *= 2
        result.append(stage)
    return result


def _dilated_pooling(size: int, rate: int) -> list[nn.Module]:
    """A maximum over every `rate`-th of the cells around, of which there are as many as in a pooling of stride 2; the
    map keeps its size."""
    margin = (rate if size == 3 else 0, rate) * 2     # torch's own padding may not be more than half of a kernel
    return [nn.ConstantPad2d(margin, -math.inf), nn.MaxPool2d(size, stride=1, dilation=rate)]


def check_images(images: Tensor, in_channels: int, least: int = 32) -> None:
    """ValueError in words for what is no batch of float images (B, in_channels, H, W), H and W from `least` up."""
    fits = images.dim() == 4 and images.shape[1] == in_channels and all(size >= least for size in images.shape[2:])
    if not fits or not images.is_floating_point():
        raise ValueError(
            f"expected float images (B, {in_channels}, H, W) with H and W from {least} up, "
            f"got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        )


def copy_classifier(network: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copies a trained classifier into a network of this package: what training from ImageNet begins with.

    network: `VGG16`, or another model that is built on it (FCN, Hypercolumn, DeconvNet with size=224): its `stages`,
    `fc6` and `fc7`, and `score` where that has the classifier's shape; else it stays as it is.
    weights: the state dict of torchvision's `vgg16` (`imagenet_weights()`, or one that you trained).
    Raises ValueError, and copies nothing, where weights are missing, or do not fit the network's width or channels.
    """
    convs = [layer for layer in network.stages.modules() if isinstance(layer, nn.Conv2d)]
    layers, fitting = [*convs, network.fc6[0], network.fc7[0], network.score], []
    for name, layer in zip(_torchvision_names(), layers, strict=True):
        weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if weight is None or bias is None:
            raise ValueError(f"expected the state dict of torchvision's vgg16, but it has no {name}.weight or no bias")
        found, own = weight.flatten(1).shape, layer.weight.flatten(1).shape
        if found == own:
            fitting.append((layer, weight, bias))
        elif layer is not network.score:
            raise ValueError(
                f"{name} of the classifier makes {found[0]} channels of {found[1]} numbers, this network's layer "
                f"{own[0]} of {own[1]}: build it with the same width and in_channels (torchvision's has 64 and 3)"
            )
    with torch.no_grad():
        for layer, weight, bias in fitting:
            layer.weight.copy_(weight.view_as(layer.weight))
            layer.bias.copy_(bias)


def _torchvision_names() -> list[str]:
    """What torchvision calls the sixteen layers: it counts each convolution, ReLU and pooling."""
    names, index = [], 0
    for multiples in STAGES:
        names += [f"features.{index + 2 * i}" for i in range(len(multiples))]
        index += 2 * len(multiples) + 1
    return [*names, "classifier.0", "classifier.3", "classifier.6"]


def imagenet_weights() -> dict[str, Tensor]:
    """The weights of torchvision's `vgg16`, trained on ImageNet (IMAGENET1K_V1), for `copy_classifier`.

    The first call downloads 528 MB into torch's cache; later calls read it there, if it has the SHA-256 that it is
    known by. Images must be normalised for it: `(image - imagenet.MEAN) / imagenet.STD`, each channel with its own.
    Raises OSError in words where the file can not be had, ValueError where it is not the one expected.
    """
    from torchvision.models import VGG16_Weights  # here, for it takes a while to import

    return imagenet.fetched("VGG16", VGG16_Weights.IMAGENET1K_V1.url, DIGEST)
