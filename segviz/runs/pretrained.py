"""ImageNet's weights as the beginning of a network that is fed images as they are."""

import torch
from torch import nn

from segviz.models import imagenet, resnet, vgg

BEGINNINGS = {  # arguments that make room for torchvision's weights
    "FCN32s": {}, "FCN16s": {}, "FCN8s": {}, "Hypercolumn": {},
    "PSPNet": {"deep_stem": False}, "DeepLabV2": {}, "DeepLabV3": {}, "DeepLabV3Plus": {},
}  # fmt: skip
DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}  # of ResNets, by their blocks


def begin(network: nn.Module) -> None:
    """Copies torchvision's VGG16 or ResNet, trained on ImageNet, into the first layers of a network that is built with
    the arguments of `BEGINNINGS` and width 64.

    They were trained on `(image - imagenet.MEAN) / imagenet.STD`. That is linear, and is made part of the first
    convolution: the network goes on taking images in [0, 1], in training, in `predict`, as an exported file. It gives
    what torchvision's gives for images so normalised, but within the first layer's reach of the image's border, where
    its zeros now mean black and not ImageNet's mean colour. Raises OSError in words where they cannot be fetched.
    """
    if hasattr(network, "backbone"):
        backbone = network.backbone
        backbone.load_state_dict(resnet.imagenet_weights(DEPTHS[network.layers]))
        _normalise(backbone.conv1, backbone.bn1.running_mean, 1)
    else:
        vgg.copy_classifier(network, vgg.imagenet_weights())
        first = network.stages[0][0]
        _normalise(first, first.bias, -1)


@torch.no_grad()
def _normalise(conv: nn.Conv2d, offset: torch.Tensor, sign: int) -> None:
    """w ((x - m) / s) = (w / s) x - (w / s) m: what is subtracted goes into the bias (sign -1), or into the mean that
    the batch normalisation behind it subtracts (1)."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (imagenet.MEAN, imagenet.STD))
    conv.weight.div_(std)
    offset.add_(sign * (conv.weight * mean).sum((1, 2, 3)))
