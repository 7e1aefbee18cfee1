"""One contract for all models, and what each paper fixes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segviz.layers import bilinear_kernel, bilinear_upsampling, linear_to_conv
from segviz.models import DeconvNet, FCN8s, FCN16s, FCN32s, Hypercolumn, hypercolumn

FCNS = [FCN32s, FCN16s, FCN8s]
VARIANTS = [
    *((model, {"padding": padding}) for padding in (100, 1) for model in FCNS),
    *((DeconvNet, {"size": size, "unpooling": mode}) for size, mode in [(32, "switches"), (64, "bilinear")]),
    (Hypercolumn, {}),
]


@pytest.mark.parametrize(("model", "options"), VARIANTS, ids=lambda x: getattr(x, "__name__", str(x)))
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 64), (96, 130)])
def test_logits_have_the_size_of_the_image(model, options, size):
    network = model(5, in_channels=2, width=2, **options).eval()
    logits = network(torch.rand(2, 2, *size))
    assert logits.shape == (2, 5, *size) and logits.dtype == torch.float32


@pytest.mark.parametrize(("model", "options"), VARIANTS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_every_parameter_learns(model, options):
    torch.manual_seed(0)
    network = model(3, width=4, **options).eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images, labels = torch.rand(2, 3, 40, 40), torch.randint(0, 3, (2, 40, 40))
    for _ in range(2):                                # the score layers start at zero: the first step moves only them
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("model", "parameters"), [(FCN32s, 136_152_917), (FCN16s, 134_815_994), (FCN8s, 134_489_759),
                                                   (DeconvNet, 251_805_653)])
def test_parameter_counts_are_the_papers(model, parameters):
    with torch.device("meta"):
        network = model(21)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("model", "crops"), [(FCN32s, [19]), (FCN16s, [5, 27]), (FCN8s, [5, 9, 31])])
def test_crops_are_the_references(model, crops):
    assert model(2, width=1).crops() == crops


@pytest.mark.parametrize("model", [FCN32s, FCN16s, FCN8s])
@pytest.mark.parametrize("padding", [1, 100])
def test_maps_lie_on_the_image(model, padding):
    """A bright square's logits are centred on the square: the crops neither shift left nor right."""
    network = model(1, in_channels=1, width=1, padding=padding).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "upsamplings" not in name:
                parameter.fill_(0.0 if "bias" in name else 1.0 / parameter[0].numel())
    image = torch.zeros(1, 1, 224, 224)
    image[..., 96:128, 96:128] = 1                    # one cell of the stride-32 grid of the light padding
    weight = network(image)[0, 0].clamp(min=0)
    centre = (weight.sum(0) * torch.arange(224)).sum() / weight.sum()
    assert abs(centre - 111.5) < 8, centre


@pytest.mark.parametrize(("model", "how_many"), [(FCN32s, 1), (FCN16s, 2), (FCN8s, 3)])
@pytest.mark.parametrize("padding", [1, 100])
def test_contributions_add_up_to_the_logits(model, how_many, padding):
    torch.manual_seed(0)
    network = model(3, in_channels=2, width=2, padding=padding).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)           # no score layer at zero, no upsampling that is bilinear
    images = torch.rand(2, 2, 45, 71)
    parts, logits = network.contributions(images), network(images)
    assert [part.shape for part in parts] == [logits.shape] * how_many
    assert min(part.abs().max() for part in parts) > 0
    torch.testing.assert_close(sum(parts), logits)


def test_a_contribution_comes_from_its_skip_alone():
    network = FCN8s(3, width=2, padding=1).eval()
    for score, value in zip([network.score, *network.skip_scores], [1.0, 2.0, 4.0], strict=True):
        nn.init.constant_(score.bias, value)          # weights are zero: each map is its bias, upsampled
    parts = network.contributions(torch.rand(1, 3, 96, 96))
    assert [part[0, 0, 48, 48].item() for part in parts] == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("size", [(64, 64), (45, 71)])
def test_scoring_before_upsampling_is_scoring_the_hypercolumn(size):
    """Linear steps may change places: three 1x1 convolutions, upsampled and added, are one over all the channels."""
    torch.manual_seed(0)
    network = Hypercolumn(4, in_channels=2, width=2).eval()
    for score in network.scores:
        nn.init.normal_(score.weight), nn.init.normal_(score.bias)
    images = torch.rand(2, 2, *size)
    columns = network.columns(images)
    assert columns.shape == (2, 76 * 2, *size)
    weight = torch.cat([score.weight for score in network.scores], dim=1)
    bias = sum(score.bias for score in network.scores)
    torch.testing.assert_close(network(images), F.conv2d(columns, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [96, 71])
def test_cells_stay_upon_their_pixels(width):
    """Maps whose cells hold the place of their middle give every pixel its own place, at odd sizes too."""
    maps = [torch.arange(-(-width // stride)).view(1, 1, 1, -1) * stride + (stride - 1) / 2
            for stride in hypercolumn.STRIDES]
    for large in hypercolumn._upsampled(maps, (1, 3, 1, width)):
        torch.testing.assert_close(large[0, 0, 0, 16:-16], torch.arange(16.0, width - 16))


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="padding is 100"):
        FCN8s(2, padding=7)


@pytest.mark.parametrize(("channels", "kernel", "bias"), [(3, (2, 3), True), (5, (1, 1), False), (2, (4, 4), True)])
def test_linear_to_conv_is_the_same_layer_everywhere(channels, kernel, bias):
    torch.manual_seed(0)
    linear = nn.Linear(channels * kernel[0] * kernel[1], 7, bias=bias)
    conv = linear_to_conv(linear, kernel)
    wide = torch.randn(2, channels, 6, 8)
    answers = conv(wide)
    for r in range(answers.shape[2]):
        for c in range(answers.shape[3]):
            window = wide[:, :, r:r + kernel[0], c:c + kernel[1]]
            torch.testing.assert_close(answers[:, :, r, c], linear(window.flatten(1)), rtol=1e-5, atol=1e-5)


def test_linear_to_conv_refuses_a_map_that_cannot_be():
    with pytest.raises(ValueError, match="does not divide"):
        linear_to_conv(nn.Linear(10, 2), 3)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_bilinear_upsampling_is_interpolate(factor):
    kernel = 2 * factor - factor % 2
    x = torch.rand(1, 2, 6, 7)
    upsampled = bilinear_upsampling(2, kernel, factor)(x)
    cut = (kernel - factor) // 2
    inner = slice(factor, -factor)                    # borders differ: zeros here, the edge repeated there
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear")
    found = upsampled[..., cut:cut + 6 * factor, cut:cut + 7 * factor]
    torch.testing.assert_close(found[..., inner, inner], expected[..., inner, inner])


def test_bilinear_kernel_by_hand():
    assert bilinear_kernel(4)[1].tolist() == [0.1875, 0.5625, 0.5625, 0.1875]
    assert bilinear_kernel(3)[1].tolist() == [0.5, 1.0, 0.5]
