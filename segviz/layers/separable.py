"""A convolution with its batch normalisation and ReLU: plain, or depthwise separable (lesson 12)."""

from torch import nn


def separable_conv(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution in two steps: each channel by itself in space (depthwise), then the channels among each other at
    each place (pointwise, 1x1). Batch normalisation and a ReLU follow each, as in DeepLab v3+ (Chen et al. 2018,
    section 3.2).

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), likewise W). kernel_size: odd. It has
    in_channels * (kernel_size**2 + out_channels) weights, a plain convolution in_channels * kernel_size**2 *
    out_channels. `training.fit` decays no weights of depthwise convolutions.
    """
    padding, options = _padding(kernel_size, dilation), {"groups": in_channels, "bias": False}
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel_size, stride, padding, dilation, **options),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def norm_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size of the map, batch normalisation, a ReLU: (B, in_channels, H, W) -> (B,
    out_channels, H, W). kernel_size: odd."""
    padding = _padding(kernel_size, dilation)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


def _padding(kernel_size: int, dilation: int) -> int:
    """What keeps the size of a map; ValueError for an even kernel, which nothing does it for."""
    if kernel_size % 2 == 0:
        raise ValueError(f"expected an odd kernel_size, which keeps the size of the map; got {kernel_size}")
    return dilation * (kernel_size // 2)
