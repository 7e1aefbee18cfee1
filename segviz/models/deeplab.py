"""DeepLab, from v1 to v3+: fine maps by dilated convolutions, one scene seen at several rates, and at last a decoder.

Chen, Papandreou, Kokkinos, Murphy, Yuille 2015, "Semantic image segmentation with deep convolutional nets and fully
connected CRFs" (v1); 2018, "DeepLab" (v2). Chen, Papandreou, Schroff, Adam 2017, "Rethinking atrous convolution" (v3);
Chen, Zhu, Papandreou, Schroff, Adam 2018, "Encoder-decoder with atrous separable convolution" (v3+). The CRF of v1 and
v2 is no part of the networks: `segviz.crf`.

Unless a class says otherwise, images are filled up, below and to the right, with copies of their last row and column
to stride * k + 1, which are the sizes that the authors take: then a map's outermost places lie upon the image's
corners, and logits are upsampled bilinearly with corners aligned.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.layers import ASPP, filled, norm_conv, separable_conv, upsampled
from segviz.models import vgg
from segviz.models.resnet import ResNet
from segviz.models.vgg import check_images


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV: VGG16 at output stride 8, whose fc6 is a 3x3 convolution of a large rate (section 3.1, 3.2;
    layers as in the authors' Caffe model).

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels of the first stage; 64 is the paper's, and all others follow.
    rate: fc6's. On small images a rate that is no smaller than the map, of H / 8 rows, leaves its middle tap alone.

    Poolings are 3x3, which keep every place upon its own pixel. pool4 and pool5 do not stride, and the fifth stage has
    rate 2. Theirs is not quite the strided network at more places: pool5 is not dilated, and is followed by a 3x3
    average. The authors begin from VGG16's ImageNet weights, here convolutions start as in `vgg`. They train
    `score_map` on every 8th label; only in testing do they upsample.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64, rate: int = 12):
        super().__init__()
        if rate < 1:
            raise ValueError(f"rate is a number from 1 up, but got {rate}")
        self.num_classes, self.in_channels, self.width, self.rate = num_classes, in_channels, width, rate
        self.stages = vgg.stages(in_channels, width, output_stride=8, pool_size=3)
        self.stages[4] = self.stages[4][:-2].append(nn.MaxPool2d(3, stride=1, padding=1))
        self.average = nn.AvgPool2d(3, stride=1, padding=1)
        self.fc6 = vgg.relu_conv(8 * width, 16 * width, 3, padding=rate, dilation=rate)
        self.fc7 = vgg.relu_conv(16 * width, 16 * width, 1)
        self.drop6, self.drop7 = nn.Dropout(0.5), nn.Dropout(0.5)
        self.score = _score(16 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return upsampled(self.score_map(images), images.shape)

    def score_map(self, images: Tensor) -> Tensor:
        """The logits before they are upsampled: (B, num_classes, h, w), h = ceil((H - 1) / 8) + 1."""
        check_images(images, self.in_channels)
        x = filled(images)
        for stage in self.stages:
            x = stage(x)
        x = self.drop6(self.fc6(self.average(x)))
        return self.score(self.drop7(self.fc7(x)))


class DeepLabV2(nn.Module):
    """DeepLab v2: a ResNet at output stride 8, and atrous spatial pyramid pooling (ASPP): 3x3 convolutions of several
    rates, each straight to scores, which are added (section 3.2; on ResNet, as in the authors' release).

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels inside the ResNet's first stage; 64 is the paper's.
    layers: the ResNet's blocks a stage; (3, 4, 23, 3) is ResNet-101. It dilates the first block of a dilated stage too,
    and strides in 3x3 convolutions as torchvision's, whose weights fit (`resnet.imagenet_weights`); theirs does in 1x1.
    rates: of the score layers; one alone is LargeFOV.

    The paper also sees each image at three scales and takes the maximum; here it is seen once. Batch norms train here;
    the authors keep theirs as ImageNet left them. They train on every 8th label, as in v1.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        layers: tuple[int, ...] = (3, 4, 23, 3),
        rates: tuple[int, ...] = (6, 12, 18, 24),
    ):
        super().__init__()
        if min(rates, default=0) < 1:
            raise ValueError(f"rates are numbers from 1 up, one at least, but got {rates}")
        self.num_classes, self.in_channels, self.width = num_classes, in_channels, width
        self.layers, self.rates = tuple(layers), tuple(rates)
        self.backbone = ResNet(layers, in_channels, width, output_stride=8, dilate_first=True)
        self.scores = nn.ModuleList(_score(32 * width, num_classes, 3, rate) for rate in rates)

    def forward(self, images: Tensor) -> Tensor:
        return self.combine(self.score_maps(images), images.shape)

    def score_maps(self, images: Tensor) -> list[Tensor]:
        """Each rate's logits: (B, num_classes, h, w), h = ceil((H - 1) / 8) + 1."""
        check_images(images, self.in_channels)
        last = self.backbone(filled(images))[-1]
        return [score(last) for score in self.scores]

    def combine(self, scores: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Logits of the image's `shape` from the maps of `score_maps`, or from some of them: their sum, upsampled.
        ValueError for none."""
        if not scores:
            raise ValueError("there is no map of scores to upsample: take one of score_maps at least")
        return upsampled(sum(scores), shape)


class DeepLabV3(nn.Module):
    """DeepLab v3: a dilated ResNet, `layers.ASPP`, a 3x3 convolution, scores, bilinear upsampling.

    num_classes: channels of the logits. in_channels: channels of the image.
    width: channels inside the ResNet's first stage; 64 is the paper's, and all others follow.
    layers: the ResNet's blocks a stage; (3, 4, 6, 3) is ResNet-50.
    output_stride: 8, 16 or 32, of the map that ASPP reads. rates: ASPP's; default: 6, 12, 18 at output stride 16, twice
    that at 8, half of it at 32, so that they reach as far in the image. A rate that is no smaller than the map is a 1x1
    convolution: small images need smaller ones.
    multi_grid, dilate_first: the ResNet's, see there.
    align_corners: how logits come upon the pixels. False: the map is stretched over the image, of whatever size; its
    places are then up to half a stride away from the pixels that they were made of. True: as the other models here.
    auxiliary: a second head, on the third stage; as for `PSPNet`.

    As it stands it is torchvision's `deeplabv3_resnet50`, whose weights `copy_deeplabv3` copies. The paper trains at
    output_stride=16 and tests at 8, with multi_grid=(1, 2, 4), and its code has dilate_first=True and
    align_corners=True; it has neither the 3x3 convolution behind ASPP nor a second head, and drops a tenth, not half.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else, and for a batch of one in training. `model(images, auxiliary=True)`: the logits, and those of the
    second head.
    """

    auxiliary_weight = 0.5  # as torchvision's reference training has it

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        output_stride: int = 8,
        rates: tuple[int, ...] | None = None,
        multi_grid: tuple[int, ...] = (),
        dilate_first: bool = False,
        align_corners: bool = False,
        auxiliary: bool = False,
    ):
        super().__init__()
        self.num_classes, self.in_channels, self.width, self.layers = num_classes, in_channels, width, tuple(layers)
        self.output_stride, self.multi_grid, self.dilate_first = output_stride, tuple(multi_grid), dilate_first
        self.align_corners, self.auxiliary = align_corners, auxiliary
        self.backbone = ResNet(
            layers, in_channels, width, output_stride, dilate_first=dilate_first, multi_grid=multi_grid
        )
        self.aspp = ASPP(32 * width, 4 * width, _rates(rates, output_stride), dropout=0.5)
        self.rates = self.aspp.rates
        self.head = norm_conv(4 * width, 4 * width, 3)
        self.score = nn.Conv2d(4 * width, num_classes, 1)
        if auxiliary:
            self.auxiliary_head = norm_conv(16 * width, 4 * width, 3).append(nn.Dropout(0.1))
            self.auxiliary_score = nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, images: Tensor, auxiliary: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if auxiliary and not self.auxiliary:
            raise ValueError("this DeepLabV3 has no second head: build it with auxiliary=True")
        *_, third, last = self.stages(images)
        logits = self.combine(self.aspp.levels(last), images.shape)
        if not auxiliary:
            return logits
        return logits, self._upsampled(self.auxiliary_score(self.auxiliary_head(third)), images.shape)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps of the ResNet's four stages, fine to coarse: (B, C, h, w), C = 4, 8, 16 and 32 times `width`."""
        check_images(images, self.in_channels)
        return self.backbone(filled(images, self.output_stride) if self.align_corners else images)

    def levels(self, images: Tensor) -> list[Tensor]:
        """What each branch of ASPP gives (`ASPP.levels`). One that is replaced by zeros is not heard (`combine`)."""
        return self.aspp.levels(self.stages(images)[-1])

    def combine(self, levels: list[Tensor], shape: tuple[int, ...]) -> Tensor:
        """Logits of the image's `shape` from what `levels` gives."""
        return self._upsampled(self.score(self.head(self.aspp.project(torch.cat(levels, dim=1)))), shape)

    def _upsampled(self, logits: Tensor, shape: tuple[int, ...]) -> Tensor:
        if self.align_corners:
            return upsampled(logits, shape, self.output_stride)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.interpolate(logits, size=shape[-2:], mode="bilinear", align_corners=False)


class DeepLabV3Plus(nn.Module):
    """DeepLab v3+: v3's ResNet and ASPP, and a decoder, which joins what ASPP gives to an early map at stride 4.

    num_classes, in_channels, width, layers, rates, multi_grid: as for `DeepLabV3`, but for the ResNet's first blocks,
    which are dilated too. The paper has ResNet-101 (3, 4, 23, 3), or Xception-65, which is not here.
    output_stride: 16, as the paper trains, 8 or 32.
    separable: ASPP's 3x3 convolutions and the decoder's two are `layers.separable_conv`s, as the paper has them on
    Xception; else plain ones.

    The decoder (section 3.1, 4.1): the map of the ResNet's first stage is brought to 48 channels (3 / 4 of `width`) by
    a 1x1 convolution, lest it outweigh the context's 256; the context is upsampled and concatenated; two 3x3
    convolutions of 256 follow, a 1x1 to scores, upsampling.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> logits (B, num_classes, H, W). ValueError for
    anything else, and for a batch of one in training.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        output_stride: int = 16,
        rates: tuple[int, ...] | None = None,
        multi_grid: tuple[int, ...] = (),
        separable: bool = True,
    ):
        super().__init__()
        self.num_classes, self.in_channels, self.width, self.layers = num_classes, in_channels, width, tuple(layers)
        self.output_stride, self.multi_grid, self.separable = output_stride, tuple(multi_grid), separable
        self.backbone = ResNet(layers, in_channels, width, output_stride, dilate_first=True, multi_grid=multi_grid)
        self.aspp = ASPP(32 * width, 4 * width, _rates(rates, output_stride), separable)
        self.rates = self.aspp.rates
        details = max(1, 3 * width // 4)
        self.reduce = norm_conv(4 * width, details, 1)
        conv = separable_conv if separable else norm_conv
        self.decoder = nn.Sequential(conv(4 * width + details, 4 * width, 3), conv(4 * width, 4 * width, 3))
        self.score = nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        first, *_, last = self.stages(images)
        return self.decode(self.aspp(last), self.reduce(first), images.shape)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The maps of the ResNet's four stages, fine to coarse: (B, C, h, w), C = 4, 8, 16 and 32 times `width`."""
        check_images(images, self.in_channels)
        return self.backbone(filled(images, self.output_stride))

    def decode(self, context: Tensor, details: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Logits of the image's `shape` from what ASPP and `reduce` give. One replaced by zeros is not heard."""
        context = upsampled(context, details.shape, self.output_stride // 4).to(details.dtype)
        return upsampled(self.score(self.decoder(torch.cat([context, details], dim=1))), shape, 4)


def _rates(rates: tuple[int, ...] | None, output_stride: int) -> tuple[int, ...]:
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18)) if rates is None else tuple(rates)


def _score(in_channels: int, num_classes: int, kernel_size: int = 1, rate: int = 1) -> nn.Conv2d:
    """A convolution whose weights start from N(0, 0.01), its bias from 0: as the authors' Caffe models score."""
    conv = nn.Conv2d(in_channels, num_classes, kernel_size, padding=rate * (kernel_size // 2), dilation=rate)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv


def copy_deeplabv3(network: DeepLabV3, weights: dict[str, Tensor]) -> None:
    """Copies the weights of torchvision's `deeplabv3_resnet50` (or 101) into a `DeepLabV3`.

    weights: its state dict. A second head in it is left out where the network has none. Raises ValueError, and copies
    nothing, where tensors are missing, too many, or of other shapes.
    """
    parts = {
        "classifier.0.": "aspp.",
        "classifier.1.": "head.0.",
        "classifier.2.": "head.1.",
        "classifier.4.": "score.",
        "aux_classifier.0.": "auxiliary_head.0.",
        "aux_classifier.1.": "auxiliary_head.1.",
        "aux_classifier.4.": "auxiliary_score.",
    }
    renamed = {}
    for name, tensor in weights.items():
        theirs = next((part for part in parts if name.startswith(part)), "")
        if network.auxiliary or not name.startswith("aux_classifier."):
            renamed[parts.get(theirs, "") + name.removeprefix(theirs)] = tensor
    own = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    if wrong := [name for name in {**own, **given} if own.get(name) != given.get(name)]:
        raise ValueError(
            f"expected the state dict of torchvision's deeplabv3_resnet50 or 101, for a network of the same layers, "
            f"classes, width and in_channels; but {wrong[0]} is {given.get(wrong[0], 'missing')}, and here "
            f"{own.get(wrong[0], 'there is none')}"
        )
    network.load_state_dict(renamed)
