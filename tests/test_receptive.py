"""Receptive fields. The oracle is autograd: the module with positive weights and average pooling in float64, so that a
pixel's gradient is above zero exactly where the wiring lets the pixel through. Equality is exact, without tolerance."""

import copy
import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from segviz import models, receptive
from segviz.receptive import rules

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


@pytest.mark.parametrize("wrong", [
    lambda kernel, stride, padding, dilation: (kernel, stride, padding, 1),
    lambda kernel, stride, padding, dilation: (kernel, stride, 0, dilation),
    lambda kernel, stride, padding, dilation: (kernel, 1, padding, dilation),
    lambda kernel, stride, padding, dilation: (kernel - 1, stride, padding, dilation),
], ids=["no dilation", "no padding", "no stride", "a kernel one too small"])  # fmt: skip
def test_the_comparison_can_fail(monkeypatch, wrong):
    module = nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 1, 2, 2))
    check_against_gradients(module, 1, (40, 40), 1)
    right = rules.window
    monkeypatch.setattr(rules, "window", lambda *numbers: right(*wrong(*numbers)))
    with pytest.raises(AssertionError):
        check_against_gradients(module, 1, (40, 40), 1)


# ---- one operator at a time: every unit's pixels, borders included ----


class Function(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def squeeze_and_excite(x, conv):
    return x * torch.sigmoid(conv(F.adaptive_avg_pool2d(x, 1)))


def through_tokens(x, linear):
    tokens = linear(x.flatten(2).transpose(1, 2))  # (B, H * W, C)
    return tokens.transpose(1, 2).reshape(x.shape)


def pooled_channels_last(x, conv):
    return conv(F.interpolate(F.adaptive_avg_pool2d(x.contiguous(memory_format=torch.channels_last), 1), size=(5, 6)))


def gated_by_columns(x, linear):
    gates = torch.sigmoid(linear(x.mean((1, 2))))  # (B, W)
    return x * gates.unsqueeze(1)[:, :, None].squeeze(2)[:, None]


def residual_in_place(x, conv):
    y = conv(x)
    y += x
    return y.relu_()


def every_second(x, conv):
    corners = [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return conv(torch.cat(corners, 1))


def repeated(x, conv):
    return conv(x.repeat_interleave(2, 2).repeat_interleave(3, 3))


def cropped_skip(x, down, up):
    y = up(down(x))
    return torch.cat([x[:, :, 1:11, 2:12], y[:, :, :10, 1:11]], 1)


CASES = {
    "kernels that are not square": nn.Sequential(nn.Conv2d(1, 1, (1, 5), (2, 1), (0, 2)), nn.MaxPool2d((3, 1), (2, 1))),
    "holes": nn.Sequential(nn.Conv2d(1, 1, 3, dilation=3), nn.Conv2d(1, 1, 2, dilation=(2, 1))),
    "transposed": nn.ConvTranspose2d(1, 1, (3, 4), (2, 3), (1, 0), (1, 2), dilation=(1, 2)),
    "transposed, units that read nothing": nn.ConvTranspose2d(1, 1, 1, 3),
    "same": nn.Conv2d(1, 1, 4, padding="same", dilation=2),
    "reflect": nn.Conv2d(1, 1, 5, padding=2, padding_mode="reflect"),
    "replicate": nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.Conv2d(1, 1, 5, padding=2, padding_mode="replicate")),
    "padded": nn.Sequential(nn.ZeroPad2d((1, 2, -1, 3)), nn.Conv2d(1, 1, 3)),
    "ceil mode": nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "adaptive": nn.Sequential(nn.AdaptiveAvgPool2d((5, 3)), Resized("bilinear")),
    "global": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(5, 6)), nn.Conv2d(1, 1, 3)),
    "one unit left": nn.Sequential(*(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(4)), nn.Conv2d(1, 1, 3, 1, 1)),
    "flattened": nn.Sequential(nn.Flatten(), nn.Linear(156, 4), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 1, 2)),
    "pixel shuffle": nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2), nn.Conv2d(1, 1, 2, 2)),
    "every second pixel": nn.Sequential(nn.ZeroPad2d((0, 1, 0, 0)), Function(every_second, nn.Conv2d(4, 1, 3))),
    "repeated": Function(repeated, nn.Conv2d(1, 1, 3)),
    "turned and turned back": Function(lambda x, conv: conv(x.transpose(2, 3)).mT, nn.Conv2d(1, 1, (5, 1))),
    "channels last": Function(lambda x, linear: linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.Linear(1, 2)),
    "tokens": Function(through_tokens, nn.Linear(1, 1)),
    "squeeze and excite": nn.Sequential(nn.Conv2d(1, 1, 3), Function(squeeze_and_excite, nn.Conv2d(1, 1, 1))),
    "pooled, channels last": nn.Sequential(nn.Conv2d(1, 2, 3), Function(pooled_channels_last, nn.Conv2d(2, 1, 3))),
    "gated by columns": Function(gated_by_columns, nn.Linear(13, 13)),
    "mean of a row": Function(lambda x: x + x.mean(3, keepdim=True)),
    "in place": Function(residual_in_place, nn.Conv2d(1, 1, 5, padding=2)),
    "cropped skip": Function(cropped_skip, nn.Conv2d(1, 1, 3, 2), nn.ConvTranspose2d(1, 1, 2, 2)),
    "chunks": Function(lambda x, conv: sum(conv(x).chunk(2, 1)), nn.Conv2d(1, 4, 3)),
    "one row": Function(lambda x, conv: conv(x)[:, :, 3:4] + conv(x), nn.Conv2d(1, 1, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_unit_reads_the_pixels_that_have_a_gradient(name):
    size, oracle = (12, 13), positive(CASES[name])
    height, width = output_size(oracle, 1, size)
    units = [*itertools.product(range(height), range(width))][:: max(1, height * width // 40)]
    for unit, mask in zip(units, reached(oracle, 1, size, units), strict=True):
        assert torch.equal(receptive.reads(CASES[name], size, unit, 1), mask), unit


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bilinear corners"])
def test_resizing_to_any_size(mode):
    """A weight of 0 may come out as 1e-17 in floating point: above 1e-9 it is one."""
    options = {"mode": mode.split()[0], "align_corners": True if "corners" in mode else None}
    for old in (1, 2, 5, 8, 13):
        for new in (1, 2, 3, 7, 8, 11, 16):
            module = Function(lambda x, size=new: F.interpolate(x, size=(size, size + 1), **options))
            for unit in [(0, 0), (new - 1, new), (new // 2, new // 3)]:
                pixels = torch.ones(1, 1, old, old, dtype=torch.float64, requires_grad=True)
                (gradient,) = torch.autograd.grad(module(pixels)[0, 0][unit], pixels)
                assert torch.equal(receptive.reads(module, old, unit, 1), gradient[0, 0].abs() > 1e-9), (old, new, unit)


def test_max_unpooling_fills_the_window_of_its_pooling():
    class Unpooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

        def forward(self, x):
            return self.unpool(*self.pool(x))

    last = receptive.theoretical(Unpooled(), 8)[-1]
    assert (last.kind, last.shape, last.size, last.jump, last.start) == ("MaxUnpool2d", (8, 8), 2, 1, 0.5)
    assert last.field(4, 7) == (4, 6, 6, 8)


def test_fields_go_on_beyond_the_borders():
    layer = receptive.theoretical(nn.Sequential(nn.Conv2d(1, 1, 3, 2, 1), nn.Conv2d(1, 1, 3, 1, 1)), 16)[-1]
    assert (layer.shape, layer.size, layer.jump, layer.start) == ((8, 8), 7, 2, 0.5)
    assert layer.field(0, 7) == (-3, 11, 4, 18)
    assert receptive.reads(nn.Conv2d(1, 1, 3, 2, 1), 16, (0, 0)).sum() == 4


def test_fields_of_several_sizes():
    """Bilinear, three times: a unit on a pixel reads that one alone, the two between it and the next read both."""
    layer = receptive.theoretical(Resized("bilinear", 3), 9, 1)[-1]
    assert (layer.kind, layer.name, layer.rows.size) == ("interpolate", "", 2)
    assert [layer.rows.field(unit) for unit in (3, 4, 5, 6)] == [(0, 2), (1, 2), (1, 3), (1, 3)]
    assert layer.jump == 1 / 3


def test_one_number_where_both_axes_agree():
    layer = receptive.theoretical(nn.Conv2d(1, 1, (3, 5), (1, 2)), 16)[0]
    assert (layer.size, layer.jump, layer.start) == ((3, 5), (1, 2), (1.5, 2.5))
    assert type(receptive.theoretical(nn.Conv2d(1, 1, 2), 8)[0].start) is int
    assert layer.rows == receptive.Axis(3, 1, 1.5)
    assert receptive.Axis(3, 1, 1.5).field(2) == layer.rows.field(2)


def test_elementwise_layers_are_not_listed():
    elementwise = nn.BatchNorm2d(4), nn.ReLU(True), nn.Dropout(), nn.GroupNorm(2, 4), nn.GELU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3), *elementwise)
    assert [layer.name for layer in receptive.theoretical(net, 8)] == ["0"]


def test_the_module_stays_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout().eval())
    net.train()[2].eval()
    before = copy.deepcopy(net.state_dict())
    receptive.theoretical(net, 8)
    receptive.effective(net, torch.rand(2, 3, 8, 8), (1, 1))
    assert [part.training for part in net.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


class Remembering(nn.Module):
    """Writes into a buffer, puts another in a second one's place, makes a third, and keeps its map."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), None
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        self.last = self.conv(x)
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * self.last.mean((0, 2, 3))
        if not hasattr(self, "ramp"):
            self.register_buffer("ramp", torch.arange(self.last.shape[3]) * 1.0)
        return self.last + self.ramp


@pytest.mark.parametrize("ask", [
    lambda net: receptive.theoretical(net, 8),
    lambda net: receptive.reads(net, 8, (1, 1)),
    lambda net: receptive.effective(net, torch.rand(1, 3, 8, 8), (1, 1)),
], ids=["theoretical", "reads", "effective"])  # fmt: skip
def test_what_the_forward_writes_is_undone(ask):
    net = Remembering()
    ask(net)
    assert net.last is None and {*dict(net.named_buffers())} == {"calls", "mean"}
    assert net.calls == 0 and torch.equal(net.mean, torch.zeros(4))
    shared = nn.Conv2d(3, 3, 3)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    weight = shared.weight
    ask(net)
    assert shared.weight is weight and next(iter(net.parameters())) is weight and weight.requires_grad
    with pytest.raises(ValueError, match="lazy layers without weights"):
        ask(nn.Sequential(nn.LazyConv2d(4, 3)))
    with pytest.warns(), pytest.raises(ValueError, match="the module that it was made from"):
        ask(torch.jit.script(nn.Sequential(nn.Conv2d(3, 1, 3))))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_it_works_where_gradients_are_off(mode):
    net, images = nn.Conv2d(1, 1, 3), torch.rand(1, 1, 6, 6)
    with mode():
        assert receptive.theoretical(net, 8)[0].size == 3
        assert (receptive.effective(net, images.clone(), (1, 1)) > 0).sum() == 9


# ---- what is refused ----


def written_into(x):
    result = torch.zeros(1, 1, 20, 20)
    result[:, :, : x.shape[2], : x.shape[3]] = x
    return result * 2


@pytest.mark.parametrize(("function", "words"), [
    (lambda x: x.roll(1, 2), "the operator roll in the forward of the module .Function. cannot be followed"),
    (lambda x: x.cumsum(2), "cumsum"),
    (lambda x: F.grid_sample(x, torch.zeros(1, 3, 3, 2), align_corners=True), "grid_sampler_2d.*mixes places"),
    (lambda x: torch.cat([x, x], 2), "one after another along their rows"),
    (lambda x: x + x.transpose(2, 3), "along different dimensions"),
    (lambda x: x.view(1, 1, 2, 4, 8), "cuts the rows"),
    (lambda x: F.conv2d(x, x[:, :, :3, :3]), "weights are computed from the input"),
    (written_into, "copy_"),
    (lambda x: torch.softmax(x, 3), "_softmax"),
    (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "upsample_bicubic2d"),
    (lambda x: x * x.sum().item(), "depends on the values"),
    (lambda x: x[x > 0], "depends on the values"),
])  # fmt: skip
def test_what_cannot_be_followed_is_named(function, words):
    with pytest.raises(ValueError, match=words):
        receptive.theoretical(Function(function), 8, 1)


def test_bad_input_is_said_in_words(capfd):
    with pytest.raises(ValueError, match=r"Conv2d cannot take an input of shape \(1, 3, 2, 2\).*larger"):
        receptive.theoretical(nn.Conv2d(3, 1, 3), 2)
    with pytest.raises(ValueError, match=r"Conv2d cannot take .* to have 3 channels, but got 2.*in_channels.$"):
        receptive.theoretical(nn.Conv2d(3, 1, 3), 8, in_channels=2)
    with pytest.raises(ValueError, match=r'missing the required "forward" function.$'):
        receptive.theoretical(nn.Module(), 8)
    with pytest.raises(ValueError, match=r"unexpected keyword argument .axis.\.$"):
        receptive.theoretical(Function(lambda x: F.relu(x, axis=1)), 8)
    with pytest.raises(ValueError, match="height, width"):
        receptive.theoretical(nn.Conv2d(3, 1, 3), (8, 8, 8))
    with pytest.raises(ValueError, match=r"a map .*but gave shape"):
        receptive.reads(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), 8, (0, 0), 1)
    with pytest.raises(ValueError, match=r"position is .* 6 x 6 map"):
        receptive.reads(nn.Conv2d(1, 1, 3), 8, (6, 0))
    with pytest.raises(ValueError, match="turns the map"):
        receptive.reads(Function(lambda x: x.transpose(2, 3)), 8, (0, 0), 1)
    for position in ((-1, 0), (1.5, 2), (1,), 3, None):
        with pytest.raises(ValueError, match="whole numbers, of a unit of a 6 x 6 map"):
            receptive.effective(nn.Conv2d(1, 1, 3), torch.rand(1, 1, 8, 8), position)
        with pytest.raises(ValueError, match="whole numbers, of a unit of a 6 x 6 map"):
            receptive.reads(nn.Conv2d(1, 1, 3), 8, position)
    with pytest.raises(ValueError, match=r"cannot take .*\(1, 1, 8, 8\).*Do the images have the channels"):
        receptive.effective(nn.Conv2d(3, 1, 3), torch.rand(1, 1, 8, 8), (0, 0))
    with pytest.raises(ValueError, match=r"float .B, C, H, W."):
        receptive.effective(nn.Conv2d(1, 1, 3), torch.rand(1, 8, 8), (0, 0))
    assert capfd.readouterr() == ("", "")


# ---- effective ----


def test_the_effective_field_is_the_mean_gradient():
    net, images = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3)).double(), torch.rand(2, 2, 9, 8)
    by_hand = torch.zeros(9, 8, dtype=torch.float64)
    for image in images.double():
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0, :, 2, 1].sum(), image)
        by_hand += jacobian.abs().sum(0)
    field = receptive.effective(net, images.double(), (2, 1))
    torch.testing.assert_close(field, by_hand / by_hand.sum())
    assert torch.equal(field > 0, receptive.reads(net, (9, 8), (2, 1)))


@pytest.mark.parametrize("statistics", [True, False])
def test_many_images_are_each_measured_by_themselves(statistics):
    norm = nn.BatchNorm2d(2, track_running_stats=statistics)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Tanh(), nn.Conv2d(2, 1, 3)).double()
    images = torch.randn(19, 1, 6, 6, dtype=torch.float64)
    alone = []
    for image in images:
        pixels = image[None].requires_grad_()
        alone.append(torch.autograd.grad(net.eval()(pixels)[0, 0, 1, 0], pixels)[0][0, 0].abs())
    field = sum(alone) / sum(alone).sum()
    torch.testing.assert_close(receptive.effective(net, images, (1, 0)), field)


def test_a_stack_of_ones_has_a_binomial_field():
    """Three convolutions of two ones: 1 3 3 1, along both axes."""
    net = nn.Sequential(*(nn.Conv2d(1, 1, 2, bias=False) for _ in range(3)))
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    row = torch.tensor([0, 1.0, 3, 3, 1, 0]) / 8
    torch.testing.assert_close(receptive.effective(net, torch.rand(1, 1, 6, 6), (1, 1)), row[:, None] * row)


def test_a_unit_that_nothing_moves_has_a_field_of_zeros():
    net = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(net.weight)
    for module in (net, Function(lambda x: torch.ones(1, 1, 2, 2))):
        assert torch.equal(receptive.effective(module, torch.rand(1, 1, 6, 6), (0, 0)), torch.zeros(6, 6))
    assert receptive.effective_size(torch.zeros(6, 6)) == 0


def test_effective_size_counts_pixels_above_a_share_of_the_peak():
    field = torch.zeros(9, 9)
    field[2:6, 3:7], field[0, 0], field[0, 1] = 0.5, 0.05, 1
    assert receptive.effective_size(field) == 18**0.5  # sixteen, the corner at 5 % and the peak
    field[0, 0] = 0.045
    assert receptive.effective_size(field) == 17**0.5


# --- how far an answer looks


@pytest.mark.parametrize("network", [
    nn.Sequential(nn.Conv2d(1, 1, (3, 7), padding=(1, 3)), nn.Conv2d(1, 1, 3, padding=2, dilation=2)),
    nn.Sequential(nn.MaxPool2d(4), nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(scale_factor=4)),
    nn.ReLU(),
], ids=["convolutions", "down and up", "pixel by pixel"])
def test_reach_is_the_farthest_pixel_that_any_answer_reads(network):
    farthest = 0
    for row, column in itertools.product(range(24), repeat=2):
        rows, columns = receptive.reads(network, 24, (row, column), 1).nonzero().T
        farthest = max(farthest, (rows - row).abs().max().item(), (columns - column).abs().max().item())
    assert receptive.reach(network, 24, 1) == farthest


def test_reach_needs_an_output_of_the_inputs_size():
    with pytest.raises(ValueError, match=r"an input of \(24, 24\) has an output of \(22, 22\)"):
        receptive.reach(nn.Conv2d(1, 1, 3), 24)
