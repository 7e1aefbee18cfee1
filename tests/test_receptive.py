"""Receptive fields. The oracle is autograd: the module with positive weights and average pooling in float64, so that a
pixel's gradient is above zero exactly where the wiring lets the pixel through. Equality is exact, without tolerance."""

import copy
import math
import random

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from segviz import models, receptive

torch.set_num_threads(1)


# ---- the oracle ----


def positive(module: nn.Module) -> nn.Module:
    """A copy in which nothing cancels and no maximum hides a pixel."""
    module = copy.deepcopy(module).double().eval()
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(part, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5).div_(math.prod(parameter.shape[1:]))
    return module


def reached(module: nn.Module, channels: int, size: tuple[int, int], units: list[tuple[int, int]]) -> torch.Tensor:
    """(len(units), H, W) bool: the pixels whose gradient is above zero, for each unit of a positive module's output."""
    pixels = torch.full((len(units), channels, *size), 0.5, dtype=torch.float64, requires_grad=True)
    output = module(pixels)
    total = sum(output[image, :, row, column].sum() for image, (row, column) in enumerate(units))
    return torch.autograd.grad(total, pixels)[0].abs().sum(1) > 0


def hull(mask: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def output_size(module: nn.Module, channels: int, size: tuple[int, int]) -> tuple[int, int]:
    with torch.no_grad():
        return tuple(module(torch.zeros(1, channels, *size, dtype=torch.float64)).shape[2:])


def check_against_gradients(module: nn.Module, channels: int, size: tuple[int, int], period: int) -> None:
    """Every unit on the diagonal whose field lies inside the image has exactly the gradient's hull as its field, and
    size, jump and start are those of the hulls. period: after how many units the fields repeat."""
    layer = receptive.theoretical(module, size, channels)[-1]
    oracle = positive(module)
    shape = output_size(oracle, channels, size)
    assert layer.shape == shape
    inside = [unit for unit in range(min(shape)) if lies_inside(layer.field(unit, unit), size)]
    masks = reached(oracle, channels, size, [(unit, unit) for unit in inside])
    hulls = {unit: hull(mask) for unit, mask in zip(inside, masks, strict=True)}
    assert {unit: layer.field(unit, unit) for unit in inside} == hulls
    run = next(range(unit, unit + period) for unit in inside if {*range(unit, unit + period + 1)} <= hulls.keys())
    for axis, rule in enumerate((layer.rows, layer.columns)):
        spans = {unit: (found[axis], found[axis + 2]) for unit, found in hulls.items()}
        centres = {unit: (low + high) / 2 for unit, (low, high) in spans.items()}
        jump = (centres[run[0] + period] - centres[run[0]]) / period
        offsets = [centres[unit] - jump * unit for unit in run]
        assert rule.size == max(spans[unit][1] - spans[unit][0] for unit in run)
        assert rule.jump == jump
        assert rule.start == (min(offsets) + max(offsets)) / 2


def lies_inside(field, size) -> bool:
    return min(field[:2]) >= 0 and field[2] <= size[0] and field[3] <= size[1]


# ---- published networks ----


def last_map(module, size, channels=None):
    return [layer for layer in receptive.theoretical(module, size, channels) if layer.shape != (1, 1)][-1]


def test_vgg16_pool5_and_fc6():
    with torch.device("meta"):
        features = torchvision.models.vgg16().features
        module = nn.Sequential(features, nn.Conv2d(512, 4096, 7))
    layers = receptive.theoretical(module, 224)
    assert (layers[-2].name, layers[-2].kind, layers[-2].shape) == ("0.30", "MaxPool2d", (7, 7))
    assert (layers[-2].size, layers[-2].jump) == (212, 32)
    assert (layers[-1].kind, layers[-1].size, layers[-1].field(0, 0)) == ("Conv2d", 404, (-90, -90, 314, 314))
    assert len(layers) == 13 + 5 + 1


def test_a_flattened_classifier_reads_what_its_convolution_reads():
    with torch.device("meta"):
        vgg = torchvision.models.vgg16()
    first = next(layer for layer in receptive.theoretical(vgg, 224) if layer.name == "classifier.0")
    assert (first.kind, first.shape, first.size, first.jump) == ("Linear", (1, 1), 404, 0)
    assert first.field(0, 0) == (-90, -90, 314, 314)


def resnet_of_the_first_release(blocks):
    """Strides in the last block of a stage, as in the slim models behind Distill's table; torchvision: in the first."""
    with torch.device("meta"):
        net = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, blocks)
    for stage, following in ((net.layer1, net.layer2), (net.layer2, net.layer3), (net.layer3, net.layer4)):
        following[0].conv2.stride = following[0].downsample[0].stride = (1, 1)
        stage[-1].conv2.stride = (2, 2)
        stage[-1].downsample = nn.MaxPool2d(1, 2)
    return net


@pytest.mark.parametrize(("blocks", "table", "torchvisions"), [([3, 4, 6, 3], 483, 427), ([3, 4, 23, 3], 1027, 971)])
def test_resnets(blocks, table, torchvisions):
    with torch.device("meta"):
        net = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, blocks)
    by_hand = 11 + 3 * 8 + 8 + (blocks[1] - 1) * 16 + 16 + (blocks[2] - 1) * 32 + 32 + (blocks[3] - 1) * 64
    assert last_map(net, 224).size == torchvisions == by_hand
    assert last_map(resnet_of_the_first_release(blocks), 224).size == table  # Distill 2019, table in the last section
    assert last_map(net, 224).jump == 32


def test_mobilenet():
    net, channels = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1)), 4
    for stride in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1):
        net.extend([nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.Conv2d(channels, channels, 1)])
    last = receptive.theoretical(net, 224)[-1]
    assert (last.size, last.jump) == (315, 32)  # Distill 2019


def test_residual_joins_are_named_after_their_block():
    with torch.device("meta"):
        net = torchvision.models.resnet18()
    joins = [layer for layer in receptive.theoretical(net, 64) if layer.kind == "add"]
    assert [layer.name for layer in joins] == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]


def test_fcn8s():
    module = models.FCN8s(2, width=1, in_channels=1)
    size = (560, 500)
    layers = receptive.theoretical(module, size)
    assert next(layer for layer in layers if layer.name == "fc6.0").size == 404
    assert (layers[-1].shape, layers[-1].jump, layers[-1].start) == (size, 1, 0.5)
    oracle, unit = positive(module), (270, 251)
    mask = reached(oracle, 1, size, [unit])[0]
    assert layers[-1].field(*unit) == hull(mask)
    assert torch.equal(receptive.reads(module, size, unit), mask)


# ---- two hundred random stacks ----


class Joined(nn.Module):
    def __init__(self, kind, *branches):
        super().__init__()
        self.kind, self.branches = kind, nn.ModuleList(branches)

    def forward(self, x):
        maps = [branch(x) for branch in self.branches]
        if self.kind == "cat":
            return torch.cat(maps, 1)
        return sum(maps[1:], maps[0]) if self.kind == "add" else math.prod(maps[1:], start=maps[0])


class Resized(nn.Module):
    """Interpolated in the forward: by `times`, or (corners) to the size at which every second unit is an old one."""

    def __init__(self, mode, times=2, corners=None):
        super().__init__()
        self.mode, self.times, self.corners = mode, times, corners

    def forward(self, x):
        if self.corners:
            size = [self.times * (n - 1) + 1 for n in x.shape[2:]]
            return F.interpolate(x, size=size, mode=self.mode, align_corners=True)
        return F.interpolate(x, scale_factor=self.times, mode=self.mode)


def both(rng, *options):
    return rng.choice(options), rng.choice(options)


def convolution(rng, channels, new, strides=(1, 1, 2)):
    kernel, dilation = both(rng, 1, 2, 3, 4), both(rng, 1, 1, 2, 3)
    padding = tuple(rng.randint(0, d * (k - 1)) for k, d in zip(kernel, dilation, strict=True))
    return nn.Conv2d(channels, new, kernel, both(rng, *strides), padding, dilation)


def pooling(rng):
    kernel = both(rng, 2, 3)
    padding = tuple(rng.randint(0, k // 2) for k in kernel)
    kind = nn.MaxPool2d if rng.random() < 0.5 else nn.AvgPool2d
    return kind(kernel, both(rng, 1, 2), padding, ceil_mode=rng.random() < 0.5)


def branch(rng, channels, depth, stride=1):
    """`depth` layers that keep the size, but for the first one's stride."""
    layers = []
    for index in range(depth):
        kernel, dilation = both(rng, 1, 3, 5), both(rng, 1, 2)
        padding = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
        layers += [nn.Conv2d(channels, channels, kernel, stride if index == 0 else 1, padding, dilation), nn.ReLU()]
    return nn.Sequential(*layers) if layers else nn.Identity()


def upsampling(rng, channels):
    pick = rng.randrange(5)
    if pick == 0:
        return nn.ConvTranspose2d(channels, channels, *((4, 2, 1) if rng.random() < 0.5 else (3, 2, 1, 1)))
    if pick == 1:
        return nn.ConvTranspose2d(channels, channels, both(rng, 2, 3, 5), 2, dilation=both(rng, 1, 3))
    if pick == 2:
        return nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.PixelShuffle(2))
    return (Resized("nearest"), Resized("bilinear"), Resized("bilinear", corners=True))[rng.randrange(3)]


def random_stack(seed: int) -> tuple[nn.Module, int]:
    """A random network of one input channel, and the period after which its fields repeat."""
    rng = random.Random(seed)
    channels, layers, period = 2, [convolution(rng, 1, 2), nn.BatchNorm2d(2)], 1
    for _ in range(rng.randint(2, 5)):
        pick = rng.randrange(6)
        if pick == 0:
            layers.append(convolution(rng, channels, channels))
        elif pick == 1:
            layers.append(pooling(rng))
        elif pick == 2:
            layers.append(Joined("add", *(branch(rng, channels, depth) for depth in (rng.randint(0, 2), 2))))
        elif pick == 3:
            layers.append(Joined("add", branch(rng, channels, 2, stride=2), nn.Conv2d(channels, channels, 1, 2)))
        elif pick == 4:
            layers += [Joined("cat", branch(rng, channels, 1), branch(rng, channels, 2)),
                       nn.Conv2d(2 * channels, channels, 1)]  # fmt: skip
        elif period < 4:
            layers.append(upsampling(rng, channels))
            period *= 2
        layers.append(nn.PReLU())
    return nn.Sequential(*layers), period


def roomy(module, period) -> tuple[int, int]:
    """The smallest size at which two periods of the units on the diagonal lie inside the image."""
    last = receptive.theoretical(module, 64, 1)[-1]
    fields = [last.field(unit, unit) for unit in range(200)]
    first = 1 + max((unit for unit, field in enumerate(fields) if min(field[:2]) < 0), default=-1)
    run = fields[first : first + 2 * period + 1]
    return max(field[2] for field in run), max(field[3] for field in run)


@pytest.mark.parametrize("tens", range(20))
def test_random_stacks_against_gradients(tens):
    for seed in range(10 * tens, 10 * tens + 10):
        torch.manual_seed(seed)
        module, period = random_stack(seed)
        size = roomy(module, period)
        check_against_gradients(module, 1, size, period)
        oracle = positive(module)
        height, width = output_size(oracle, 1, size)
        units = [(0, width - 1) if seed % 2 else (height - 1, width // 3)]
        for unit, mask in zip(units, reached(oracle, 1, size, units), strict=True):
            assert torch.equal(receptive.reads(module, size, unit), mask), (seed, unit)
