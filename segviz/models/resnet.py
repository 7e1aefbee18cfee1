"""ResNet, the backbone of PSPNet and of DeepLab from v2 on.

He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", table 1; blocks and names as in torchvision.
"""

from torch import Tensor, nn

from segviz.models import imagenet
from segviz.models.vgg import check_images

DIGESTS = {  # SHA-256 of the files with torchvision's weights, by the number of layers
    50: "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    101: "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a",
}


class ResNet(nn.Module):
    """The four stages of a ResNet of bottleneck blocks, dilated so that its last map is as fine as is asked for.

    layers: blocks a stage; (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) ResNet-101.
    in_channels: channels of the image. width: channels inside the blocks of the first stage; 64 is the paper's.
    output_stride: 32 (the paper's), 16 or 8. What halves the map beyond it does not stride; instead the 3x3
    convolutions from there on are dilated, by 2, and by 4 behind a second one, so that they read as far as before.
    dilate_first: which rate the first block of such a stage has in its 3x3 convolution, the one that no longer strides.
    torchvision leaves it that of the stage before (False): what it reads still lies as close together as it did, and
    every 4th row and column of the last map at stride 8 are the map at stride 32. The authors of PSPNet,
    in PyTorch, give the whole stage the new rate (True): from the same weights other maps. (So do DeepLab's ResNets,
    but these stride elsewhere, in front of that convolution, where it changes nothing.)
    multi_grid: what the rate of each block of the last stage is multiplied by, such as (1, 2, 4) (Chen et al. 2017,
    DeepLab v3, section 3.2.1; there with `dilate_first`); () changes nothing.
    deep_stem: three 3x3 convolutions, of width, width and twice the width, in front of the first pooling, as in the
    authors' PSPNet, in the place of one of 7x7.

    The stride of a stage lies in its first block's 3x3 convolution, as in torchvision and the authors' PSPNet for
    PyTorch; the first ResNets' published models have it in the 1x1 in front. Convolutions start from He et al. 2015's
    normal distribution (of what they write to).
    A plain stem's parameters have torchvision's names: `load_state_dict` takes `imagenet_weights`.

    `model(images)`: (B, in_channels, H, W) float, H and W from 32 up -> the maps of the four stages, fine to coarse:
    4, 8, 16 and 32 times `width` channels, at strides 4, 8, 16 and 32, but none above `output_stride`. At a stride s a
    map has ceil(H / s) rows, and row i lies upon row s * i of the image. ValueError for anything else.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        in_channels: int = 3,
        width: int = 64,
        output_stride: int = 8,
        deep_stem: bool = False,
        dilate_first: bool = False,
        multi_grid: tuple[int, ...] = (),
    ):
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is 8, 16 or 32, but got {output_stride}")
        if len(layers) != 4 or min(layers) < 1:
            raise ValueError(f"layers are the blocks of four stages, such as (3, 4, 6, 3), but got {layers}")
        if multi_grid and (len(multi_grid) != layers[3] or min(multi_grid) < 1):
            raise ValueError(
                f"multi_grid is one number from 1 up for each of the last stage's {layers[3]} blocks, or (), but got "
                f"{multi_grid}"
            )
        self.layers, self.in_channels, self.width, self.output_stride = tuple(layers), in_channels, width, output_stride
        self.deep_stem, self.dilate_first, self.multi_grid = deep_stem, dilate_first, tuple(multi_grid)
        if deep_stem:
            self.conv1, self.bn1 = _conv(in_channels, width, 3, stride=2), nn.BatchNorm2d(width)
            self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
            self.conv3, self.bn3 = _conv(width, 2 * width, 3), nn.BatchNorm2d(2 * width)
        else:
            self.conv1, self.bn1 = _conv(in_channels, width, 7, stride=2), nn.BatchNorm2d(width)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2, self.layer3, self.layer4 = self._stages()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.in_channels)
        x = self.relu(self.bn1(self.conv1(images)))
        if self.deep_stem:
            x = self.relu(self.bn2(self.conv2(x)))
            x = self.relu(self.bn3(self.conv3(x)))
        maps, x = [], self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps

    def _stages(self) -> list[nn.Sequential]:
        channels, jump, dilation, stages = self.width * (1 + self.deep_stem), 4, 1, []
        for blocks, multiple, stride in zip(self.layers, (1, 2, 4, 8), (1, 2, 2, 2), strict=True):
            before = dilation
            if jump * stride > self.output_stride:
                dilation, stride = dilation * stride, 1
            jump *= stride
            rates = [dilation if self.dilate_first else before, *[dilation] * (blocks - 1)]
            if multiple == 8 and self.multi_grid:
                rates = [rate * times for rate, times in zip(rates, self.multi_grid, strict=True)]
            stage, inner = nn.Sequential(), multiple * self.width
            for block, rate in enumerate(rates):
                stage.append(Bottleneck(channels, inner, 1 if block else stride, rate))
                channels = 4 * inner
            stages.append(stage)
        return stages


class Bottleneck(nn.Module):
    """A 1x1 convolution to `inner` channels, a 3x3 among them, a 1x1 to four times as many; and what came in, added.
    Where that has another shape, a 1x1 convolution gives it the right one. (B, in_channels, H, W) -> (B, 4 inner,
    ceil(H / stride), likewise W)."""

    def __init__(self, in_channels: int, inner: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride, dilation), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, 4 * inner, 1), nn.BatchNorm2d(4 * inner)
        self.relu, self.downsample = nn.ReLU(inplace=True), None
        if stride > 1 or in_channels != 4 * inner:
            self.downsample = nn.Sequential(_conv(in_channels, 4 * inner, 1, stride), nn.BatchNorm2d(4 * inner))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + kept)


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)


def imagenet_weights(depth: int = 50) -> dict[str, Tensor]:
    """The weights of torchvision's `resnet50` or `resnet101`, trained on ImageNet (IMAGENET1K_V1), but for the
    classifier's last layer: for `ResNet(layers, width=64, deep_stem=False).load_state_dict`, whatever its dilation.

    The first call downloads 98 MB (171 MB) into torch's cache; later calls read it there, if it has the SHA-256 that it
    is known by. Images must be normalised for it: `(image - imagenet.MEAN) / imagenet.STD`, each channel with its own.
    Raises OSError in words where the file can not be had, ValueError where it is not the one expected, and for another
    depth.
    """
    if depth not in DIGESTS:
        raise ValueError(f"depth is 50 or 101, but got {depth}")
    from torchvision import models  # here, for it takes a while to import

    url = getattr(models, f"ResNet{depth}_Weights").IMAGENET1K_V1.url
    weights = imagenet.fetched(f"ResNet-{depth}", url, DIGESTS[depth])
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
