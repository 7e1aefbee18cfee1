"""DeconvNet: VGG16, and its mirror image on the way up.

Noh, Hong, Han 2015, "Learning deconvolution network for semantic segmentation", section 3; layers as in the authors'
Caffe models.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.layers import UNPOOLING, unpool
from segviz.models import vgg

DECODER = ((8, 8, 8), (8, 8, 4), (4, 4, 2), (2, 1), (1, 1))  # output channels, coarse to fine, in units of `width`


class DeconvNet(nn.Module):
    """VGG16 down to a single place, then five stages of unpooling and transposed convolutions back to the image's size.
    Batch normalisation and ReLU behind every layer but the scores.

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels of the first stage; 64 is the paper's.
    size: images are resized to size x size inside, and the logits back to the image; a multiple of 32. The paper's is
    224: there the network sees crops around proposed objects, and their scores are put together; here it sees the whole
    image. fc6 and its mirror have a kernel of size / 32, so that between them the map is 1x1.
    unpooling: how maps are doubled on the way up, one of `layers.UNPOOLING` or a tuple of five, coarse to fine. The
    paper's is "switches". No weight depends on it: it may be changed on a trained network.

    The transposed convolutions start from N(0, 0.01^2), as the authors'. They start VGG16 from ImageNet; here it starts
    from He et al. 2015, to train from scratch. As in their models there is no dropout.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else, for an unknown unpooling, and for a batch of one in training: on a map of 1x1 batch normalisation
    has nothing but the batch to take its mean from. For the same reason larger batches train better.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        size: int = 224,
        unpooling: str | tuple[str, ...] = "switches",
    ):
        super().__init__()
        if size < 32 or size % 32:
            raise ValueError(f"size must be a multiple of 32, such as 224 (the paper's) or 96, got {size}")
        self.num_classes, self.in_channels, self.width, self.size = num_classes, in_channels, width, size
        self.unpooling = unpooling
        self.modes()
        self.stages = vgg.stages(in_channels, width, norm=True, switches=True)
        self.fc6 = vgg.relu_conv(8 * width, 64 * width, size // 32, norm=True)
        self.fc7 = vgg.relu_conv(64 * width, 64 * width, 1, norm=True)
        self.fc6_deconv = nn.Sequential(*_deconv(64 * width, 8 * width, size // 32))
        self.decoder, channels = nn.ModuleList(), 8 * width
        for multiples in DECODER:
            stage = nn.Sequential()
            for multiple in multiples:
                stage.extend(_deconv(channels, multiple * width, 3, padding=1))
                channels = multiple * width
            self.decoder.append(stage)
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        code, switches = self.encode(images)
        logits = self.score(self.decode(code, switches)[-1])
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """fc7's answer (B, 64 width, 1, 1) and the switches of the five poolings, fine to coarse: int64 (B, C, h, w),
        h = w = size / 2, ..., size / 32."""
        vgg.check_images(images, self.in_channels)
        if self.fc6[1].training and len(images) == 1:
            raise ValueError(
                "DeconvNet cannot train on a batch of one: behind fc6 the map is 1x1, and batch normalisation needs "
                "more than one value a channel. Take two images or more, or call .eval() first"
            )
        x, size, switches = images, (self.size, self.size), []
        if torch.compiler.is_exporting() or x.shape[2:] != size:  # a file is for images of any size
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        for stage in self.stages:
            x, places = stage(x)
            switches.append(places)
        return self.fc7(self.fc6(x)), switches

    def decode(self, code: Tensor, switches: list[Tensor]) -> list[Tensor]:
        """The maps on the way up, coarse to fine, from what `encode` gives: behind fc6's mirror and behind each of the
        five stages. The last one, (B, width, size, size), is what the scores are taken from."""
        maps = [self.fc6_deconv(code)]
        for stage, places, mode in zip(self.decoder, reversed(switches), self.modes(), strict=True):
            maps.append(stage(unpool(maps[-1], places, mode)))
        return maps

    def modes(self) -> tuple[str, ...]:
        """`unpooling` as five modes, coarse to fine. ValueError where it is not that."""
        modes = (self.unpooling,) * 5 if isinstance(self.unpooling, str) else tuple(self.unpooling)
        if len(modes) != 5 or not set(modes) <= set(UNPOOLING):
            raise ValueError(f"unpooling is one of {UNPOOLING} or five of them, coarse to fine, got {self.unpooling!r}")
        return modes


def _deconv(in_channels: int, out_channels: int, kernel_size: int, padding: int = 0) -> list[nn.Module]:
    conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, padding=padding)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
