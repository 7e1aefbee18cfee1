"""PSPNet: a dilated ResNet whose every place is told what the whole scene holds.

Zhao, Shi, Qi, Wang, Jia 2017, "Pyramid scene parsing network", sections 3 and 4; layers as in the authors' code for
PyTorch (hszhao/semseg).
"""

import torch
from torch import Tensor, nn

from segviz.layers import PyramidPooling, filled, upsampled
from segviz.models.resnet import ResNet
from segviz.models.vgg import check_images


class PSPNet(nn.Module):
    """A ResNet at output stride 8, pyramid pooling behind it, a 3x3 convolution, scores, bilinear upsampling.

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels inside the ResNet's first stage; 64 is the paper's, and all others follow.
    layers: the ResNet's blocks a stage; (3, 4, 6, 3) is ResNet-50. As in the authors' code it has three convolutions
    in front (`deep_stem`) and dilates the first block of a dilated stage too (`dilate_first`). deep_stem=False: one
    convolution of 7x7 in front, which torchvision's weights fit: `model.backbone.load_state_dict(
    resnet.imagenet_weights(50))`.
    bins: the pyramid's, see `layers.PyramidPooling`; () is the network without it.
    auxiliary: a second head, on the third stage of blocks (the paper counts the stem, and calls it the fourth), that
    helps training (section 4). See below.

    Dropout drops whole channels, a tenth of them, as in that code (in the authors' Caffe model single numbers). The
    ResNet starts as `ResNet` does, all else as torch's layers do; the authors begin from ImageNet.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). The authors take
    sizes 8 k + 1, such as 473: then the map's outermost places lie upon the image's corners, and upsampling with
    corners aligned puts every place upon its pixel. Other sizes are filled up to the next such one, below and to the
    right, with copies of the last row and column, and the logits are cut back. ValueError for anything else, and for a
    batch of one in training where a bin is 1.

    `model(images, auxiliary=True)`: the logits, and those of the second head, of the same shape. That is how `fit`
    calls, in training, a model whose attribute `auxiliary` is true; to the loss of the first it adds
    `auxiliary_weight` times that of the second. `model(images)` leaves the second head out, whatever the mode.
    """

    auxiliary_weight = 0.4  # section 5.1

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        bins: tuple[int, ...] = (1, 2, 3, 6),
        auxiliary: bool = False,
        deep_stem: bool = True,
    ):
        super().__init__()
        self.num_classes, self.in_channels, self.width = num_classes, in_channels, width
        self.layers, self.bins, self.auxiliary, self.deep_stem = tuple(layers), tuple(bins), auxiliary, deep_stem
        self.backbone = ResNet(layers, in_channels, width, output_stride=8, deep_stem=deep_stem, dilate_first=True)
        self.pyramid = PyramidPooling(32 * width, bins)
        self.head = _head(self.pyramid.out_channels, 8 * width)
        self.score = nn.Conv2d(8 * width, num_classes, 1)
        if auxiliary:
            self.auxiliary_head = _head(16 * width, 4 * width)
            self.auxiliary_score = nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if auxiliary and not self.auxiliary:
            raise ValueError("this PSPNet has no second head: build it with auxiliary=True")
        *_, third, last = self.stages(images)
        logits = self.combine(self.pyramid.levels(last), images.shape)
        if not auxiliary:
            return logits
        return logits, upsampled(self.auxiliary_score(self.auxiliary_head(third)), images.shape)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps of the ResNet's four stages, fine to coarse: (B, C, h, w), C = 4, 8, 16 and 32 times `width`; the
        last three at stride 8, with ceil((H - 1) / 8) + 1 rows."""
        check_images(images, self.in_channels)
        return self.backbone(filled(images))

    def levels(self, images: Tensor) -> list[Tensor]:
        """What the head reads, before it is concatenated: the last stage's map and one for each bin, of its size.
        One that is replaced by zeros is not heard (`combine`)."""
        return self.pyramid.levels(self.stages(images)[-1])

    def combine(self, levels: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Logits of the image's `shape` from what `levels` gives."""
        return upsampled(self.score(self.head(torch.cat(levels, dim=1))), shape)


def _head(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True), nn.Dropout2d(0.1))
