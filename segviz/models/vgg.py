"""VGG16, the backbone of FCN, DeconvNet and DeepLab v1.

Simonyan and Zisserman 2015, "Very deep convolutional networks", table 1, configuration D: thirteen 3x3 convolutions in
five stages, each closed by a 2x2 pooling of stride 2.
"""

from torch import nn

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # output channels, in units of `width`


def stages(in_channels: int = 3, width: int = 64, first_padding: int = 1) -> nn.ModuleList:
    """The five convolutional stages; stage i halves the map, and ends with `width * (1, 2, 4, 8, 8)[i]` channels.

    first_padding: zeros around the image at the very first convolution; FCN's reference uses 100.
    Pooling rounds up (`ceil_mode`), as in the Caffe models, so that no row or column is lost at odd sizes.
    Weights start from He et al. 2015's normal distribution, so that the network trains from scratch.
    """
    result, channels = nn.ModuleList(), in_channels
    for multiples in STAGES:
        stage = nn.Sequential()
        for multiple in multiples:
            padding = first_padding if not result and not len(stage) else 1
            conv = nn.Conv2d(channels, multiple * width, 3, padding=padding)
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(conv.bias)
            stage.extend([conv, nn.ReLU(inplace=True)])
            channels = multiple * width
        stage.append(nn.MaxPool2d(2, ceil_mode=True))
        result.append(stage)
    return result
