"""ResNet against torchvision's, pyramid pooling against a plain reference, and PSPNet. The contract of all models is in
test_models.py."""

import hashlib
import inspect

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from segviz import receptive
from segviz.layers import PyramidPooling
from segviz.models import PSPNet, resnet
from segviz.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("one_thread")

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
SHALLOW = {"layers": (1, 1, 1, 1), "width": 2}


def stirred(network: nn.Module) -> nn.Module:
    """The network in eval mode, with batch norms that do something."""
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.7, 1.3), nn.init.normal_(layer.bias, std=0.2)
            nn.init.normal_(layer.running_mean, std=0.2), nn.init.uniform_(layer.running_var, 0.7, 1.3)
    return network.eval()


def bare(weights: dict) -> dict:
    """A classifier's weights without its last layer."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}


def oracle(depth: int, output_stride: int = 32) -> nn.Module:
    dilate = [False, output_stride < 16, output_stride < 32]
    return stirred(getattr(torchvision.models, f"resnet{depth}")(replace_stride_with_dilation=dilate))


def stages_of(network: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    x, maps = network.maxpool(network.relu(network.bn1(network.conv1(images)))), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        maps.append(x)
    return maps


# --- ResNet


@torch.no_grad()
@pytest.mark.parametrize(("depth", "output_stride"), [(50, 32), (50, 16), (50, 8), (101, 8)])
def test_resnet_is_torchvisions(depth, output_stride):
    theirs, images = oracle(depth, output_stride), torch.rand(1, 3, 65, 98)
    network = ResNet(DEPTHS[depth], output_stride=output_stride).eval()
    network.load_state_dict(bare(theirs.state_dict()))
    for level, (found, expected) in enumerate(zip(network(images), stages_of(theirs, images), strict=True)):
        stride = min(4 << level, output_stride)
        assert found.shape == (1, 256 << level, -(-65 // stride), -(-98 // stride))
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_dilate_first_is_the_convention_of_pspnets_authors():
    """Theirs, made of torchvision's at stride 32: every 3x3 convolution of stage 3 is dilated by 2, of stage 4 by 4."""
    theirs, images = oracle(50), torch.rand(1, 3, 65, 65)
    network = ResNet(output_stride=8, dilate_first=True).eval()
    network.load_state_dict(bare(theirs.state_dict()))
    for stage, rate in ((theirs.layer3, 2), (theirs.layer4, 4)):
        for block in stage:
            block.conv2.stride, block.conv2.dilation, block.conv2.padding = (1, 1), (rate, rate), (rate, rate)
        stage[0].downsample[0].stride = (1, 1)
    found, expected = network(images), stages_of(theirs, images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    plain = ResNet(output_stride=8).eval()
    plain.load_state_dict(network.state_dict())
    same = [a.equal(b) for a, b in zip(found, plain(images), strict=True)]
    assert same == [True, True, False, False]           # one number of weights, another network


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_gives_the_strided_maps_and_those_between(output_stride):
    network, images = stirred(ResNet((1, 2, 2, 2), width=4, output_stride=32)), torch.rand(1, 3, 97, 65)
    for dilate_first, same in ((False, True), (True, False)):
        finer = ResNet((1, 2, 2, 2), width=4, output_stride=output_stride, dilate_first=dilate_first).eval()
        finer.load_state_dict(network.state_dict())
        step = 32 // output_stride
        assert torch.allclose(finer(images)[-1][..., ::step, ::step], network(images)[-1], atol=1e-5) == same


@torch.no_grad()
def test_the_deep_stem_is_three_convolutions():
    network, images = stirred(ResNet((1, 1, 1, 1), width=4, deep_stem=True)), torch.rand(1, 3, 33, 47)
    x = images
    for conv, norm, stride in ((network.conv1, network.bn1, 2), (network.conv2, network.bn2, 1),
                               (network.conv3, network.bn3, 1)):  # fmt: skip
        x = F.conv2d(x, conv.weight, stride=stride, padding=1)
        x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    assert x.shape == (1, 8, 17, 24)
    torch.testing.assert_close(network(images)[0], network.layer1(F.max_pool2d(x, 3, stride=2, padding=1)))


def test_resnet_keeps_its_arguments():
    given = {"layers": (1, 2, 1, 1), "in_channels": 2, "width": 3, "output_stride": 16, "deep_stem": True,
             "dilate_first": True, "multi_grid": (3,)}  # fmt: skip
    network = ResNet(**given)
    assert {name: getattr(network, name) for name in inspect.signature(ResNet).parameters} == given


def test_convolutions_start_by_the_numbers_that_they_write_to():
    """As torchvision's: N(0, 2 / (channels out x kernel))."""
    torch.manual_seed(0)
    convs = [layer for layer in ResNet((1, 1, 1, 1), width=32).modules() if isinstance(layer, nn.Conv2d)]
    for layer in convs:
        writes = layer.out_channels * layer.kernel_size[0] ** 2
        assert layer.weight.std().item() == pytest.approx((2 / writes) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: ResNet(output_stride=4), "output_stride is 8, 16 or 32, but got 4"),
    (lambda: ResNet((3, 4, 6)), r"blocks of four stages.* got \(3, 4, 6\)"),
    (lambda: ResNet((3, 4, 0, 3)), "blocks of four stages"),
    (lambda: ResNet(multi_grid=(1, 2)), r"each of the last stage's 3 blocks, or \(\), but got \(1, 2\)"),
    (lambda: ResNet(multi_grid=(1, 0, 4)), r"one number from 1 up .* but got \(1, 0, 4\)"),
    (lambda: ResNet((1, 1, 1, 1), width=2)(torch.rand(1, 3, 31, 32)), "H and W from 32 up"),
    (lambda: resnet.imagenet_weights(34), "depth is 50 or 101, but got 34"),
])
def test_what_is_no_resnet_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("depth", DEPTHS)
def test_weights_are_torchvisions_without_the_last_layer(depth, tmp_path, monkeypatch):
    """A file of our own in the place of the one on the net; torch's cache in an empty folder."""
    theirs = getattr(torchvision.models, f"ResNet{depth}_Weights").IMAGENET1K_V1
    assert theirs.url.endswith(f"-{resnet.DIGESTS[depth][:8]}.pth")            # the name holds the digest's beginning
    weights = oracle(50).state_dict()
    source = tmp_path / "resnet.pth"
    torch.save(weights, source)
    monkeypatch.setattr(torchvision.models, f"ResNet{depth}_Weights",
                        type("Weights", (), {"IMAGENET1K_V1": type("One", (), {"url": source.as_uri()})}))
    monkeypatch.setitem(resnet.DIGESTS, depth, hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    found = resnet.imagenet_weights(depth)
    network = PSPNet(2, deep_stem=False)
    network.backbone.load_state_dict(found)
    assert network.backbone.layer4[2].conv3.weight.equal(weights["layer4.2.conv3.weight"])
    monkeypatch.setitem(resnet.DIGESTS, depth, "0" * 64)
    with pytest.raises(ValueError, match=rf"is not ResNet-{depth}'s ImageNet weights .* delete it"):
        resnet.imagenet_weights(depth)


# --- pyramid pooling


def averages(maps: torch.Tensor, bins: int) -> torch.Tensor:
    """The mean of each of bins x bins regions; where they do not divide the map, a row on the line is in both."""
    rows, columns = ([(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)] for size in maps.shape[2:])
    return torch.stack([torch.stack([maps[:, :, a:b, c:d].mean(dim=(2, 3)) for c, d in columns], dim=-1)
                        for a, b in rows], dim=-2)  # fmt: skip


def enlarged(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear with corners aligned, along one axis after the other."""
    for axis, length in zip((2, 3), size, strict=True):
        last = maps.shape[axis] - 1
        places = torch.arange(length) * last / (length - 1)
        low = places.long().clamp(max=max(0, last - 1))
        share = (places - low).view([-1, 1] if axis == 2 else [-1])
        high = (low + 1).clamp(max=last)
        maps = maps.index_select(axis, low) * (1 - share) + maps.index_select(axis, high) * share
    return maps


@torch.no_grad()
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("channels", "bins", "size"), [
    (8, (1, 2, 3, 6), (12, 12)), (10, (1, 2, 3, 6), (7, 11)), (8, (3, 1), (4, 5)), (5, (4,), (3, 2)),
])
def test_pyramid_pooling_is_the_plain_reference(channels, bins, size, norm):
    module, maps = stirred(PyramidPooling(channels, bins, norm=norm)), torch.randn(2, channels, *size)
    expected, each = [maps], channels // len(bins)
    for number, branch in zip(bins, module.branches, strict=True):
        conv = branch[1]
        x = torch.einsum("oi,bihw->bohw", conv.weight[:, :, 0, 0], averages(maps, number))
        if norm:
            found = branch[2]
            scale = found.weight / (found.running_var + found.eps).sqrt()
            x = (x - found.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + found.bias.view(-1, 1, 1)
        else:
            x = x + conv.bias.view(-1, 1, 1)
        expected.append(enlarged(x.clamp(min=0), size))
    answer = module(maps)
    assert answer.shape == (2, channels + len(bins) * each, *size) == (2, module.out_channels, *size)
    torch.testing.assert_close(answer, torch.cat(expected, dim=1))
    assert all(level.equal(part) for level, part in
               zip(module.levels(maps), answer.split([channels, *[each] * len(bins)], dim=1), strict=True))


def test_without_bins_the_map_stays_as_it_is():
    module, maps = PyramidPooling(6, ()), torch.rand(1, 6, 4, 5)
    assert module.out_channels == 6 and module(maps).equal(maps) and not list(module.parameters())


@pytest.mark.parametrize("bins", [(0, 1), (-2,), (1, 2, 3, 4, 5)])
def test_impossible_bins_are_refused(bins):
    with pytest.raises(ValueError, match=r"bins are numbers from 1 up, at most one a channel; got .* for 4 channels"):
        PyramidPooling(4, bins)


def test_bin_1_needs_more_than_one_image_to_train():
    image, network = torch.rand(1, 3, 33, 33), PSPNet(2, **SHALLOW)
    with pytest.raises(ValueError, match=r"bin 1 cannot train on a batch of one: .* Take two images or more, or call"):
        network(image)
    assert network(torch.rand(2, 3, 33, 33)).shape == (2, 2, 33, 33)
    assert PSPNet(2, bins=(2, 3), **SHALLOW)(image).shape == (1, 2, 33, 33)
    assert PyramidPooling(4, norm=False)(torch.rand(1, 4, 5, 5)).shape == (1, 8, 5, 5)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()                              # with frozen statistics one image is enough
    assert network(image).shape == (1, 2, 33, 33)


# --- PSPNet


def test_the_papers_image_gives_its_own_size():
    with torch.device("meta"):
        network, images = PSPNet(21), torch.empty(2, 3, 473, 473)
        maps, logits = network.stages(images), network(images)
    assert logits.shape == (2, 21, 473, 473)
    assert [x.shape[1:3] for x in maps] == [(256, 119), (512, 60), (1024, 60), (2048, 60)]
    assert [branch[1].out_channels for branch in network.pyramid.branches] == [512] * 4
    assert network.head[0].weight.shape == (512, 4096, 3, 3)
    stages = network.backbone.layer3, network.backbone.layer4
    rates = [[block.conv2.dilation[0] for block in stage] for stage in stages]
    assert rates == [[2] * 6, [4] * 3]                # the first blocks too


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 97), (64, 90), (33, 40)])
def test_pspnet_is_its_parts(size):
    """Images are filled up to 8 k + 1, and the map's places are put upon every 8th pixel."""
    network, images = stirred(PSPNet(3, **SHALLOW)), torch.rand(2, 3, *size)
    height, width = (-(-(length - 1) // 8) * 8 + 1 for length in size)
    filled = images[:, :, [min(row, size[0] - 1) for row in range(height)]]
    filled = filled[..., [min(column, size[1] - 1) for column in range(width)]]
    scores = network.score(network.head(network.pyramid(network.backbone(filled)[-1])))
    assert scores.shape[2:] == ((height + 7) // 8, (width + 7) // 8)
    logits = network(images)
    torch.testing.assert_close(logits, enlarged(scores, (height, width))[..., : size[0], : size[1]])
    torch.testing.assert_close(logits[..., ::8, ::8], scores[..., : -(-size[0] // 8), : -(-size[1] // 8)])


@torch.no_grad()
@pytest.mark.parametrize("size", [201, 200, 196])
def test_maps_lie_on_the_image(size):
    """A bright square's logits are centred on the square, at sizes 8 k + 1 and others."""
    network = PSPNet(1, in_channels=1, bins=(), **SHALLOW).eval()
    for name, parameter in network.named_parameters():
        parameter.fill_(0.0 if "bias" in name else 1.0 / parameter[0].numel())
    image = torch.zeros(1, 1, size, size)
    image[..., 93:100, 93:100] = 1
    weight = network(image)[0, 0]
    centre = (weight.sum(0) * torch.arange(size)).sum() / weight.sum()
    assert centre == pytest.approx(96, abs=0.01)


def test_the_pyramid_brings_what_the_field_does_not_reach():
    image = torch.rand(1, 3, 225, 225, requires_grad=True)
    for bins, reaches in (((), False), ((1,), True)):
        torch.manual_seed(0)
        network = PSPNet(2, bins=bins, **SHALLOW).eval()
        network(image)[0, 0, 0, 0].backward()
        assert bool(image.grad[..., -1:, -1:].any()) == reaches
        image.grad = None
    last = receptive.theoretical(PSPNet(2, bins=(), **SHALLOW).eval(), 225)[-1]
    assert last.size < 225


@torch.no_grad()
def test_a_level_is_silenced_by_zeros():
    network, images = stirred(PSPNet(3, **SHALLOW)), torch.rand(1, 3, 65, 65)
    maps, logits = network.levels(images), network(images)
    assert [x.shape for x in maps] == [(1, 64, 9, 9)] + [(1, 16, 9, 9)] * 4
    assert network.combine(maps, images.shape).equal(logits)
    for gone in range(5):
        rest = [x * (level != gone) for level, x in enumerate(maps)]
        assert not network.combine(rest, images.shape).equal(logits)


def test_the_second_head_is_asked_for_and_changes_nothing():
    network, images = stirred(PSPNet(3, auxiliary=True, **SHALLOW)), torch.rand(2, 3, 45, 70)
    logits, second = network(images, auxiliary=True)
    assert logits.equal(network(images)) and second.shape == logits.shape == (2, 3, 45, 70)
    third = network.stages(images)[2]
    scores = network.auxiliary_score(network.auxiliary_head(third))
    torch.testing.assert_close(second[..., ::8, ::8], scores[..., :6, :9])
    for training in (True, False):
        assert isinstance(network.train(training)(images), torch.Tensor)
    F.cross_entropy(network(images), torch.zeros(2, 45, 70, dtype=torch.long)).backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert idle == {name for name, _ in network.named_parameters() if name.startswith("auxiliary")} != set()
    network.zero_grad()
    second = network(images, auxiliary=True)[1]
    F.cross_entropy(second, torch.zeros(2, 45, 70, dtype=torch.long)).backward()
    assert all(parameter.grad is not None for name, parameter in network.named_parameters()
               if name.startswith(("auxiliary", "backbone.layer3")))


def test_a_tenth_of_the_channels_is_dropped_and_the_second_loss_counts_two_fifths():
    network = PSPNet(2, auxiliary=True, **SHALLOW)
    dropped = [layer for layer in network.modules() if isinstance(layer, nn.Dropout2d)]
    assert [layer.p for layer in dropped] == [0.1, 0.1] and network.auxiliary_weight == 0.4


def test_a_network_without_a_second_head_has_none_to_ask():
    with pytest.raises(ValueError, match="has no second head: build it with auxiliary=True"):
        PSPNet(2, **SHALLOW)(torch.rand(2, 3, 33, 33), auxiliary=True)
