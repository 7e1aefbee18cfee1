"""VGG16, the backbone of FCN, DeconvNet and DeepLab v1.

Simonyan and Zisserman 2015, "Very deep convolutional networks", table 1, configuration D: thirteen 3x3 convolutions in
five stages, each closed by a 2x2 pooling of stride 2.
"""

from torch import Tensor, nn

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # output channels, in units of `width`
POOL3, POOL4, POOL5 = 2, 3, 4                               # stages, counted from 0


def relu_conv(
    in_channels: int, out_channels: int, kernel_size: int, padding: int = 0, norm: bool = False
) -> nn.Sequential:
    """A convolution and a ReLU; with `norm`, a batch normalisation between them.

    Weights start from He et al. 2015's normal distribution, so that the network trains from scratch."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, *([nn.BatchNorm2d(out_channels)] if norm else []), nn.ReLU(inplace=True))


def stages(
    in_channels: int = 3, width: int = 64, first_padding: int = 1, norm: bool = False, switches: bool = False
) -> nn.ModuleList:
    """The five convolutional stages; stage i halves the map, and ends with `width * (1, 2, 4, 8, 8)[i]` channels.

    first_padding: zeros around the image at the very first convolution; FCN's reference uses 100.
    norm: batch normalisation behind each convolution. switches: each stage gives a pair, the map and the index of each
    value's place in the map before pooling (`return_indices`), as DeconvNet needs both.
    Pooling rounds up (`ceil_mode`), as in the Caffe models, so that no row or column is lost at odd sizes.
    """
    result, channels = nn.ModuleList(), in_channels
    for multiples in STAGES:
        stage = nn.Sequential()
        for multiple in multiples:
            padding = first_padding if not result and not len(stage) else 1
            stage.extend(relu_conv(channels, multiple * width, 3, padding, norm))
            channels = multiple * width
        stage.append(nn.MaxPool2d(2, ceil_mode=True, return_indices=switches))
        result.append(stage)
    return result


def check_images(images: Tensor, in_channels: int, least: int = 32) -> None:
    """ValueError in words for what is no batch of float images (B, in_channels, H, W), H and W from `least` up."""
    fits = images.dim() == 4 and images.shape[1] == in_channels and min(images.shape[2:]) >= least
    if not fits or not images.is_floating_point():
        raise ValueError(
            f"expected float images (B, {in_channels}, H, W) with H and W from {least} up, "
            f"got {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        )
