"""DeepLab against torchvision's and against its parts; strided networks against dilated ones. The contract of all
models is in test_models.py."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from norms import stirred
from torch import nn

from segviz import receptive, training
from segviz.layers import ASPP, filled, norm_conv, separable_conv, upsampled
from segviz.models import DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus, deeplab, vgg
from segviz.models.resnet import ResNet

pytestmark = pytest.mark.usefixtures("one_thread")

SHALLOW = {"layers": (1, 1, 1, 1), "width": 4}


def rates_of(module: nn.Module) -> list[int]:
    convs = (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))
    return [layer.dilation[0] for layer in convs if layer.kernel_size != (1, 1)]


# --- stride traded for rate


@torch.no_grad()
@pytest.mark.parametrize("pool_size", [2, 3])
@pytest.mark.parametrize("size", [(96, 64), (97, 65), (75, 118)])
def test_vgg_dilated_is_vgg_strided_on_the_coarse_grid(size, pool_size):
    torch.manual_seed(0)
    images, strided = torch.rand(2, 3, *size), vgg.stages(width=4, pool_size=pool_size)
    expected = nn.Sequential(*strided)(images)
    assert expected.shape[2:] == tuple(-(-length // 32) for length in size)
    for output_stride, step in ((32, 1), (16, 2), (8, 4)):
        finer = vgg.stages(width=4, pool_size=pool_size, output_stride=output_stride)
        finer.load_state_dict(strided.state_dict())
        found = nn.Sequential(*finer)(images)
        assert found.shape[2:] == tuple(-(-length // output_stride) for length in size)
        torch.testing.assert_close(found[..., ::step, ::step], expected, rtol=1e-5, atol=1e-5)
    assert rates_of(finer) == [1] * 10 + [2] * 3


@torch.no_grad()
def test_what_follows_a_pooling_that_does_not_stride_must_be_dilated():
    """The pooling too: with pool5 as DeepLab v1 has it, the coarse grid is another."""
    torch.manual_seed(0)
    images, strided = torch.rand(1, 3, 97, 97), vgg.stages(width=4, pool_size=3)
    finer = vgg.stages(width=4, pool_size=3, output_stride=8)
    finer.load_state_dict(strided.state_dict())
    finer[4] = finer[4][:-2].append(nn.MaxPool2d(3, stride=1, padding=1))
    expected, found = nn.Sequential(*strided)(images), nn.Sequential(*finer)(images)[..., ::4, ::4]
    assert found.shape == expected.shape and (found - expected).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 65), (96, 74)])
def test_resnet_dilated_is_resnet_strided_on_the_coarse_grid(size):
    images, strided = torch.rand(1, 3, *size), stirred(ResNet((2, 2, 2, 2), width=4, output_stride=32))
    expected = strided(images)[-1]
    for output_stride, step in ((16, 2), (8, 4)):
        finer = ResNet((2, 2, 2, 2), width=4, output_stride=output_stride).eval()
        finer.load_state_dict(strided.state_dict())
        torch.testing.assert_close(finer(images)[-1][..., ::step, ::step], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("options", "rates"), [
    ({"output_stride": 32}, [1, 1, 1]),
    ({"output_stride": 16, "dilate_first": True}, [2, 2, 2]),
    ({"output_stride": 16, "dilate_first": True, "multi_grid": (1, 2, 4)}, [2, 4, 8]),
    ({"output_stride": 8, "dilate_first": True, "multi_grid": (1, 2, 4)}, [4, 8, 16]),
    ({"output_stride": 8}, [2, 4, 4]),
    ({"output_stride": 8, "multi_grid": (2, 1, 3)}, [4, 4, 12]),
])
def test_multi_grid_multiplies_the_last_stages_rates(options, rates):
    network = ResNet((1, 1, 2, 3), width=1, **options)
    assert rates_of(network.layer4) == rates
    assert rates_of(network.layer3) == rates_of(ResNet((1, 1, 2, 3), width=1, **options | {"multi_grid": ()}).layer3)


# --- DeepLab v1


def test_large_fov_has_the_authors_layers():
    with torch.device("meta"):
        network = DeepLabV1(21).eval()
        assert network.score_map(torch.empty(1, 3, 321, 321)).shape == (1, 21, 41, 41)
        assert network(torch.empty(1, 3, 321, 321)).shape == (1, 21, 321, 321)
    poolings = [layer for layer in network.modules() if isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d))]
    assert [(layer.kernel_size, layer.stride, layer.padding) for layer in poolings] == [
        (3, 2, 1), (3, 2, 1), (3, 2, 1), (3, 1, 0), (3, 1, 1), (3, 1, 1)]  # fmt: skip
    assert isinstance(poolings[-1], nn.AvgPool2d) and poolings[-2].dilation == 1
    assert rates_of(network) == [1] * 10 + [2] * 3 + [12]
    assert network.fc6[0].weight.shape == (1024, 512, 3, 3) and network.fc7[0].weight.shape == (1024, 1024, 1, 1)
    last = receptive.theoretical(nn.Sequential(*network.stages, network.average, network.fc6), 512)[-1]
    assert (last.size, last.jump) == (435, 8)


@torch.no_grad()
def test_large_fov_is_its_parts():
    torch.manual_seed(0)
    network, images = DeepLabV1(3, width=2, rate=2).eval(), torch.rand(2, 3, 65, 70)
    x = F.pad(images, (0, 3, 0, 0), mode="replicate")
    for level, stage in enumerate(network.stages):
        for layer in stage:
            rate = 2 if level == 4 else 1
            if isinstance(layer, nn.Conv2d):
                x = F.relu(F.conv2d(x, layer.weight, layer.bias, padding=rate, dilation=rate))
        x = F.max_pool2d(x, 3, stride=2 if level < 3 else 1, padding=1)
    x = F.avg_pool2d(x, 3, stride=1, padding=1)
    x = F.relu(F.conv2d(x, network.fc6[0].weight, network.fc6[0].bias, padding=2, dilation=2))
    x = F.relu(F.conv2d(x, network.fc7[0].weight, network.fc7[0].bias))
    x = F.conv2d(x, network.score.weight, network.score.bias)
    large = F.interpolate(x, size=(65, 73), mode="bilinear", align_corners=True)[..., :70]
    torch.testing.assert_close(network(images), large)
    for dropout in (network.train().drop6, network.drop7):           # both are at work: what they drop is not heard
        assert dropout.p == 0.5
        dropout.p = 1.0
        assert network.score_map(images).equal(network.score.bias.view(1, -1, 1, 1).expand(2, -1, 9, 10))
        dropout.p = 0.5


# --- DeepLab v2


@torch.no_grad()
@pytest.mark.parametrize("size", [(65, 65), (50, 77)])
def test_v2_adds_the_scores_of_its_rates(size):
    network, images = stirred(DeepLabV2(3, rates=(1, 2, 5), **SHALLOW)), torch.rand(2, 3, *size)
    below, right = (-(length - 1) % 8 for length in size)
    last = network.backbone(F.pad(images, (0, right, 0, below), mode="replicate"))[-1]
    maps = [F.conv2d(last, score.weight, score.bias, padding=rate, dilation=rate)
            for rate, score in zip((1, 2, 5), network.scores, strict=True)]  # fmt: skip
    filled_size = [length + more for length, more in zip(size, (below, right), strict=True)]
    large = F.interpolate(sum(maps), size=filled_size, mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(images), large[..., : size[0], : size[1]])
    alone = [network.combine([part], images.shape) for part in network.score_maps(images)]
    torch.testing.assert_close(sum(alone), network(images))


def test_v2_is_the_releases():
    with torch.device("meta"):
        network = DeepLabV2(21).eval()
        assert [x.shape for x in network.score_maps(torch.empty(1, 3, 321, 321))] == [(1, 21, 41, 41)] * 4
    assert rates_of(network.scores) == [6, 12, 18, 24]
    assert (set(rates_of(network.backbone.layer3)), set(rates_of(network.backbone.layer4))) == ({2}, {4})
    scores = DeepLabV2(21, layers=(1, 1, 1, 1), width=16).scores
    assert 0.0095 < torch.cat([score.weight.flatten() for score in scores]).std() < 0.0105
    assert not any(score.bias.any() for score in scores)


# --- DeepLab v3


def theirs(auxiliary: bool, num_classes: int = 21, depth: int = 50) -> nn.Module:
    make = getattr(torchvision.models.segmentation, f"deeplabv3_resnet{depth}")
    return stirred(make(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=auxiliary))


@torch.no_grad()
@pytest.mark.parametrize("auxiliary", [False, True])
def test_v3_is_torchvisions(auxiliary):
    oracle, network = theirs(auxiliary), DeepLabV3(21, auxiliary=auxiliary).eval()
    deeplab.copy_deeplabv3(network, oracle.state_dict())
    count = {False: 39_638_869, True: 42_004_074}[auxiliary]
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in oracle.parameters()) == count
    for size in ((65, 98), (64, 40)):
        images = torch.rand(1, 3, *size)
        expected = oracle(images)
        torch.testing.assert_close(network(images), expected["out"], rtol=1e-5, atol=1e-5)
        assert expected["out"].std() > 0.01
        if auxiliary:
            torch.testing.assert_close(network(images, auxiliary=True)[1], expected["aux"], rtol=1e-5, atol=1e-5)


def test_v3_trains_as_torchvisions():
    """In training mode but without dropout: the same gradients, so the same batch norms too."""
    oracle, network = theirs(True, 3), DeepLabV3(3, auxiliary=True)
    deeplab.copy_deeplabv3(network, oracle.state_dict())
    images, gradients = torch.rand(2, 3, 40, 33), []
    for model in (oracle.train(), network.train()):
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        logits, second = model(images).values() if model is oracle else model(images, auxiliary=True)
        (logits.square().mean() + second.square().mean()).backward()
        gradients.append(model.backbone.layer1[0].conv1.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5 * gradients[0].abs().max().item())


@torch.no_grad()
def test_a_second_head_that_is_not_wanted_is_left_out():
    oracle, network = theirs(True, 2), DeepLabV3(2).eval()
    deeplab.copy_deeplabv3(network, oracle.state_dict())
    images = torch.rand(1, 3, 33, 33)
    torch.testing.assert_close(network(images), oracle(images)["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("network", "change", "words"), [
    (lambda: DeepLabV3(2, auxiliary=True), {}, "auxiliary_head.0.weight is missing, and here (256, 1024, 3, 3)"),
    (lambda: DeepLabV3(3), {}, "score.weight is (2, 256, 1, 1), and here (3, 256, 1, 1)"),
    (lambda: DeepLabV3(2, layers=(3, 4, 5, 3)), {}, "layer3.5.conv1.weight is (256, 1024, 1, 1), and here there is"),
    (lambda: DeepLabV3(2, rates=(1, 2)), {}, "aspp.convs.3.1.weight is (256,), and here (256, 2048, 1, 1)"),
    (lambda: DeepLabV3(2), {"classifier.4.bias": None}, "score.bias is missing, and here (2,)"),
], ids=["no second head", "classes", "layers", "rates", "a bias"])
def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied(network, change, words):
    with torch.device("meta"):
        oracle = theirs(False, 2)
    weights = {name: tensor for name, tensor in oracle.state_dict().items() if name not in change}
    with torch.device("meta"):
        network = network()
    network.load_state_dict = None                    # not reached
    with pytest.raises(ValueError, match="expected the state dict of torchvision's deeplabv3.*" + re.escape(words)):
        deeplab.copy_deeplabv3(network, weights)


def test_rates_follow_the_output_stride():
    with torch.device("meta"):
        for model in (DeepLabV3, DeepLabV3Plus):
            found = [model(2, output_stride=stride, **SHALLOW).rates for stride in (8, 16, 32)]
            assert found == [(12, 24, 36), (6, 12, 18), (3, 6, 9)]
            assert model(2, rates=(1, 5), **SHALLOW).aspp.rates == (1, 5)
        network = DeepLabV3(2, rates=(2, 3), **SHALLOW)
        assert (DeepLabV3(2, **SHALLOW).rates, DeepLabV3Plus(2, **SHALLOW).rates) == ((12, 24, 36), (6, 12, 18))
    assert rates_of(network.aspp) == [2, 3]


@pytest.mark.parametrize(("model", "options", "first"), [
    (DeepLabV3, {}, False), (DeepLabV3, {"dilate_first": True}, True), (DeepLabV3Plus, {}, True)])
def test_the_backbone_is_the_resnet_that_was_asked_for(model, options, first):
    grid = {"layers": (1, 1, 1, 2), "width": 1, "output_stride": 16, "multi_grid": (1, 4)}
    expected = ResNet(dilate_first=first, **grid)
    assert rates_of(model(2, **options, **grid).backbone) == rates_of(expected)
    assert rates_of(expected.layer4) == [2 if first else 1, 8]


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [8, 16])
def test_v3_with_corners_aligned_puts_places_upon_their_pixels(output_stride):
    options = {"output_stride": output_stride, "multi_grid": (2,), "dilate_first": True, "align_corners": True}
    network, images = stirred(DeepLabV3(3, **options, **SHALLOW)), torch.rand(1, 3, 70, 97)
    filled_images = F.pad(images, (0, 0, 0, -69 % output_stride), mode="replicate")
    scores = network.score(network.head(network.aspp(network.backbone(filled_images)[-1])))
    logits = network(images)
    torch.testing.assert_close(logits[..., ::output_stride, ::output_stride],
                               scores[..., : -(-70 // output_stride), : -(-97 // output_stride)])


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_a_branch_is_silenced_by_zeros(align_corners):
    network, images = stirred(DeepLabV3(3, align_corners=align_corners, **SHALLOW)), torch.rand(2, 3, 65, 65)
    maps, logits = network.levels(images), network(images)
    assert [x.shape for x in maps] == [(2, 16, 9, 9)] * 5
    assert network.combine(maps, images.shape).equal(logits)
    for gone in range(5):
        rest = [x * (level != gone) for level, x in enumerate(maps)]
        assert not network.combine(rest, images.shape).equal(logits)


def test_the_second_head_is_asked_for_and_changes_nothing():
    network, images = stirred(DeepLabV3(3, auxiliary=True, **SHALLOW)), torch.rand(2, 3, 45, 70)
    logits, second = network(images, auxiliary=True)
    assert logits.equal(network(images)) and second.shape == logits.shape == (2, 3, 45, 70)
    F.cross_entropy(network(images), torch.zeros(2, 45, 70, dtype=torch.long)).backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert idle == {name for name, _ in network.named_parameters() if name.startswith("auxiliary")} != set()
    with pytest.raises(ValueError, match="has no second head: build it with auxiliary=True"):
        DeepLabV3(2, **SHALLOW)(torch.rand(2, 3, 33, 33), auxiliary=True)


def test_fit_trains_the_second_head():
    network = DeepLabV3(2, auxiliary=True, rates=(1, 2), **SHALLOW)
    before = copy.deepcopy(network.state_dict())
    data = [(torch.rand(3, 33, 33), torch.randint(2, (33, 33))) for _ in range(2)]
    training.fit(network, data, steps=1, batch_size=2, show=False, device="cpu", weight_decay=0.0)
    changed = {name for name, tensor in network.state_dict().items() if not tensor.equal(before[name])}
    assert {"auxiliary_score.weight", "auxiliary_head.0.weight", "score.weight"} <= changed


# --- ASPP, separable convolution


@torch.no_grad()
@pytest.mark.parametrize("size", [(9, 9), (7, 12), (1, 1)])
def test_aspp_is_torchvisions(size):
    oracle = stirred(torchvision.models.segmentation.deeplabv3.ASPP(6, [2, 5], out_channels=4))
    module, maps = ASPP(6, 4, (2, 5)).eval(), torch.randn(2, 6, *size)
    module.load_state_dict(oracle.state_dict())
    torch.testing.assert_close(module(maps), oracle(maps), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module.levels(maps), [conv(maps) for conv in oracle.convs])


@torch.no_grad()
@pytest.mark.parametrize("separable", [False, True])
def test_a_rate_beyond_the_map_is_a_1x1_convolution(separable):
    module, maps = stirred(ASPP(5, 4, (7,), separable)), torch.randn(2, 5, 7, 7)
    conv = module.convs[1]
    middle = copy.deepcopy(conv)
    middle[0].weight.zero_()
    middle[0].weight[..., 1, 1] = conv[0].weight[..., 1, 1]
    assert conv(maps).equal(middle(maps))
    wide = torch.randn(2, 5, 8, 8)
    assert not conv(wide).equal(middle(wide))


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 1), (3, 1, 4), (5, 2, 1), (1, 1, 1)])
def test_separable_convolution_by_hand(kernel, stride, dilation):
    module, maps = stirred(separable_conv(4, 6, kernel, stride, dilation)), torch.randn(2, 4, 9, 12)
    depth, first, _, point, second, _ = module

    def normed(x, norm):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)

    padding = dilation * (kernel // 2)
    channels = [F.conv2d(maps[:, c : c + 1], depth.weight[c : c + 1], stride=stride, padding=padding, dilation=dilation)
                for c in range(4)]  # fmt: skip
    x = normed(torch.cat(channels, dim=1), first).clamp(min=0)
    x = normed(torch.einsum("oi,bihw->bohw", point.weight[:, :, 0, 0], x), second).clamp(min=0)
    assert x.shape == (2, 6, -(-9 // stride), -(-12 // stride))
    torch.testing.assert_close(module(maps), x)
    assert depth.weight.numel() + point.weight.numel() == 4 * (kernel**2 + 6)


def test_separable_aspp_has_a_ninth_of_the_weights():
    with torch.device("meta"):
        plain, separable = (sum(p.numel() for p in ASPP(2048, separable=flag).convs[2].parameters() if p.dim() == 4)
                            for flag in (False, True))  # fmt: skip
    assert (plain, separable) == (4_718_592, 18_432 + 524_288)


@torch.no_grad()
def test_filling_and_upsampling_are_each_others_undoing():
    for stride in (4, 8, 16):
        for size in ((33, 48), (49, 65), (32, 40)):
            images = torch.rand(1, 2, *size)
            large = filled(images, stride)
            assert all((length - 1) % stride == 0 and length - old in range(stride)
                       for length, old in zip(large.shape[2:], size, strict=True))
            assert large[..., : size[0], : size[1]].equal(images) and large[0, 0, -1, -1] == images[0, 0, -1, -1]
            maps = large[..., ::stride, ::stride]
            found = upsampled(maps, images.shape, stride)
            assert found.shape == images.shape
            torch.testing.assert_close(found[..., ::stride, ::stride], images[..., ::stride, ::stride])


# --- DeepLab v3+


def test_v3_plus_is_the_papers():
    with torch.device("meta"):
        network = DeepLabV3Plus(21, layers=(3, 4, 23, 3)).eval()
        images = torch.empty(1, 3, 513, 513)
        first, *_, last = network.stages(images)
        assert (first.shape, last.shape) == ((1, 256, 129, 129), (1, 2048, 33, 33))
        assert network.aspp(last).shape == (1, 256, 33, 33) and network.reduce(first).shape == (1, 48, 129, 129)
        assert network(images).shape == (1, 21, 513, 513)
    assert network.rates == (6, 12, 18) and network.aspp.project[-1].p == 0.1
    one, two = network.decoder
    for conv, reads in ((one, 256 + 48), (two, 256)):
        kinds = [type(layer) for layer in conv]
        assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
        assert conv[0].weight.shape == (reads, 1, 3, 3) and conv[3].weight.shape == (256, reads, 1, 1)
    assert [type(layer) for layer in network.aspp.convs[0]] == kinds[:3] == [type(layer) for layer in network.reduce]
    for branch, rate in zip(network.aspp.convs[1:4], (6, 12, 18), strict=True):
        assert [type(layer) for layer in branch] == kinds and branch[0].groups == 2048 and rates_of(branch) == [rate]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"output_stride": 8, "separable": False}, {"output_stride": 32}], ids=str)
@pytest.mark.parametrize("size", [(65, 97), (50, 64)])
def test_v3_plus_is_its_parts(size, options):
    network, images = stirred(DeepLabV3Plus(3, width=8, layers=(1, 1, 1, 1), **options)), torch.rand(2, 3, *size)
    below, right = (-(length - 1) % network.output_stride for length in size)
    large = F.pad(images, (0, right, 0, below), mode="replicate")
    first, *_, last = network.backbone(large)
    assert first.shape[2:] == tuple((length + 3) // 4 for length in large.shape[2:])
    details, context = network.reduce(first), network.aspp(last)
    assert details.shape[1] == 6
    context = F.interpolate(context, size=details.shape[2:], mode="bilinear", align_corners=True)
    scores = network.score(network.decoder(torch.cat([context, details], dim=1)))
    expected = F.interpolate(scores, size=large.shape[2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(images), expected[..., : size[0], : size[1]])
    for gone in range(2):
        parts = [x * (i != gone) for i, x in enumerate((network.aspp(last), details))]
        assert not network.decode(*parts, images.shape).equal(network(images))


@torch.no_grad()
@pytest.mark.parametrize("size", [161, 160, 150])
@pytest.mark.parametrize("model", [
    lambda: DeepLabV1(1, in_channels=1, width=2, rate=1),
    lambda: DeepLabV2(1, in_channels=1, rates=(1,), **SHALLOW),
    lambda: DeepLabV3(1, in_channels=1, rates=(1,), align_corners=True, dilate_first=True, **SHALLOW),
    lambda: DeepLabV3Plus(1, in_channels=1, rates=(1,), **SHALLOW),
], ids=["v1", "v2", "v3", "v3+"])
def test_maps_lie_on_the_image(model, size):
    """A bright square's logits are centred on the square, at any size."""
    network = model().eval()
    for name, parameter in network.named_parameters():
        parameter.fill_(0.0 if "bias" in name else 1.0 / parameter[0].numel())
    image = torch.zeros(1, 1, size, size)
    image[..., 77:84, 77:84] = 1
    weight = network(image)[0, 0] - network(torch.zeros_like(image))[0, 0]
    weight = (weight - weight[40:120, 40:120].min()).clamp(min=0)[40:121, 40:121]
    centre = (weight.sum(0) * torch.arange(40, 121)).sum() / weight.sum()
    assert centre == pytest.approx(80, abs=0.05)


@torch.no_grad()
@pytest.mark.parametrize(("given", "expected"), [(torch.bfloat16, torch.float32), (torch.double, torch.double)])
@pytest.mark.parametrize("model", [
    lambda: DeepLabV1(2, width=2), lambda: DeepLabV2(2, **SHALLOW), lambda: DeepLabV3(2, auxiliary=True, **SHALLOW),
    lambda: DeepLabV3(2, align_corners=True, **SHALLOW), lambda: DeepLabV3Plus(2, **SHALLOW | {"width": 1}),
], ids=["v1", "v2", "v3", "v3, corners", "v3+"])
def test_logits_are_float32_at_least(model, given, expected):
    network, images = model().to(given).eval(), torch.rand(1, 3, 33, 40, dtype=given)
    assert network(images).dtype == expected
    if getattr(network, "auxiliary", False):
        assert [logits.dtype for logits in network(images, auxiliary=True)] == [expected] * 2


def test_how_much_v3_drops_and_what_its_second_head_weighs():
    network = DeepLabV3(2, auxiliary=True, **SHALLOW)
    dropouts = [layer.p for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert dropouts == [0.5, 0.1] and network.auxiliary_weight == 0.5            # torchvision's
    assert [layer.p for layer in DeepLabV3Plus(2, **SHALLOW).modules() if isinstance(layer, nn.Dropout)] == [0.1]


# --- what is refused


@pytest.mark.parametrize("model", [DeepLabV3, DeepLabV3Plus])
def test_image_pooling_needs_more_than_one_image_to_train(model):
    image, network = torch.rand(1, 3, 33, 33), model(2, **SHALLOW)
    with pytest.raises(ValueError, match=r"image pooling cannot train on a batch of one: .* Take two images or more"):
        network(image)
    assert network(torch.rand(2, 3, 33, 33)).shape == (2, 2, 33, 33)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()                              # with frozen statistics one image is enough
    assert network(image).shape == (1, 2, 33, 33)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: DeepLabV1(2, width=1, rate=0), "rate is a number from 1 up, but got 0"),
    (lambda: DeepLabV2(2, rates=(), **SHALLOW), r"rates are numbers from 1 up, one at least, but got \(\)"),
    (lambda: DeepLabV2(2, rates=(6, 0), **SHALLOW), r"rates are numbers from 1 up, one at least, but got \(6, 0\)"),
    (lambda: DeepLabV3(2, rates=(0,), **SHALLOW), r"rates are numbers from 1 up, but got \(0,\)"),
    (lambda: DeepLabV3Plus(2, rates=(-6, 1), **SHALLOW), r"rates are numbers from 1 up, but got \(-6, 1\)"),
    (lambda: DeepLabV3(2, output_stride=4, **SHALLOW), "output_stride is 8, 16 or 32, but got 4"),
    (lambda: DeepLabV3Plus(2, multi_grid=(1, 2, 4), **SHALLOW), "multi_grid is one number from 1 up for each"),
    (lambda: separable_conv(2, 2, 4), "expected an odd kernel_size, .* got 4"),
    (lambda: norm_conv(2, 2, 2), "expected an odd kernel_size, .* got 2"),
    (lambda: DeepLabV2(2, **SHALLOW).combine([], (1, 3, 33, 33)), "take one of score_maps at least"),
])
def test_what_is_no_deeplab_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- weight decay


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_depthwise_weights_do_not_decay(optimizer):
    """A step without a gradient: what decays shrinks, what does not stays."""
    network = DeepLabV3Plus(2, **SHALLOW)
    rule = training.loop._optimizer(network, optimizer, 0.1, 0.5, 0.9, torch.device("cpu"))
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rule.step()
    still = {name for name, now in network.named_parameters() if now.any() and now.equal(before[name])}
    depthwise = {name for name, parameter in network.named_parameters() if parameter.shape[1:] == (1, 3, 3)}
    assert still == depthwise and len(still) == 5
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, before[name] * (1.0 if name in still else 0.95))


class Stopping:
    """No augmentation; after so many items somebody presses stop."""

    def __init__(self, items: int):
        self.items = items

    def __call__(self, image, label, generator):
        self.items -= 1
        if self.items < 0:
            raise KeyboardInterrupt
        return image, label


def test_a_run_with_depthwise_weights_is_taken_up_exactly(tmp_path):
    """Parameters that decay and that do not lie mixed; each finds its own moments again."""
    data = [(torch.rand(3, 33, 33), torch.randint(2, (33, 33))) for _ in range(4)]
    options = {"steps": 4, "batch_size": 2, "show": False, "device": "cpu", "save_every": 2, "weight_decay": 0.3}
    networks = []
    for stopped in (False, True):
        torch.manual_seed(0)
        network, folder = DeepLabV3Plus(2, rates=(1,), **SHALLOW), tmp_path / str(stopped)
        if stopped:
            training.fit(network, data, augment=Stopping(4), folder=folder, **options)
            network = DeepLabV3Plus(2, rates=(1,), **SHALLOW)
        training.fit(network, data, augment=Stopping(99), folder=folder, resume=stopped, **options)
        networks.append(network)
    one, other = (network.state_dict() for network in networks)
    assert all(tensor.equal(other[name]) for name, tensor in one.items())
