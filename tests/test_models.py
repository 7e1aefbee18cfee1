"""One contract for all models, and what each paper fixes."""

import hashlib
import inspect
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from segviz import models, receptive
from segviz.layers import UNPOOLING, bilinear_kernel, bilinear_upsampling, linear_to_conv, unpool
from segviz.models import (
    DeconvNet,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    FCN8s,
    FCN16s,
    FCN32s,
    Hypercolumn,
    PSPNet,
    UNet,
    hypercolumn,
    imagenet,
    vgg,
)

FCNS = [FCN32s, FCN16s, FCN8s]
SHALLOW = {"layers": (1, 1, 1, 1)}
VARIANTS = [                                          # UNet(padding="valid") has tests of its own
    *((model, {"padding": padding}) for padding in (100, 1) for model in FCNS),
    *((DeconvNet, {"size": size, "unpooling": mode}) for size, mode in [(32, "switches"), (64, "bilinear")]),
    (Hypercolumn, {}),
    *((UNet, options) for options in ({}, {"merge": "add", "norm": True}, {"depth": 2, "dropout": 0.1})),
    *((PSPNet, SHALLOW | options) for options in ({}, {"bins": (), "deep_stem": False}, {"bins": (2, 3)})),
    *((DeepLabV1, options) for options in ({}, {"rate": 2})),
    *((DeepLabV2, SHALLOW | options) for options in ({}, {"rates": (2,)})),
    *((DeepLabV3, SHALLOW | options) for options in (
        {}, {"output_stride": 16, "multi_grid": (2,), "dilate_first": True, "align_corners": True, "auxiliary": False},
        {"rates": (1, 3), "output_stride": 32},
    )),
    *((DeepLabV3Plus, SHALLOW | options) for options in (
        {}, {"output_stride": 8, "separable": False}, {"rates": (1, 2), "multi_grid": (3,)}, {"output_stride": 32},
    )),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def called(value) -> str:
    return getattr(value, "__name__", str(value))


def stirred(network: nn.Module) -> nn.Module:
    """The network with other weights: no layer at zero or near it, no upsampling that is bilinear."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


# --- one contract for all models


def test_the_contract_is_held_to_every_model():
    assert {model.__name__ for model, _ in VARIANTS} == set(models.__all__)


@pytest.mark.parametrize(("model", "options"), VARIANTS, ids=called)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 64), (64, 96)])
def test_logits_have_the_size_of_the_image(model, options, size):
    torch.manual_seed(0)
    network, images = model(5, in_channels=2, width=2, **options), torch.rand(2, 2, *size)
    for training in (True, False):
        logits = network.train(training)(images)
        assert type(logits) is torch.Tensor and logits.shape == (2, 5, *size) and logits.dtype == torch.float32
    assert logits.equal(network(images))              # in eval mode nothing is left to chance
    assert network(images[:1]).shape == (1, 5, *size)


@pytest.mark.parametrize(("model", "options"), VARIANTS, ids=called)
def test_logits_are_raw(model, options):
    """Twice the scores, twice the logits: nothing behind the score layers binds them, as a softmax would."""
    network, images = stirred(model(3, width=2, **options)).eval(), torch.rand(1, 3, 40, 52)
    scores = [p for name, p in network.named_parameters() if "score" in name]
    once = network(images)
    with torch.no_grad():
        for parameter in scores:
            parameter.mul_(2)
    torch.testing.assert_close(network(images), 2 * once, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "options"), [*VARIANTS, (vgg.VGG16, {})], ids=called)
def test_arguments_are_kept(model, options):
    """From its attributes alone a network can be built again, with the same parameters."""
    network = model(4, in_channels=2, width=3, **options)
    arguments = {name: getattr(network, name) for name in inspect.signature(model).parameters}
    assert arguments == arguments | {"num_classes": 4, "in_channels": 2, "width": 3} | options
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model(**arguments).state_dict().items()} == shapes


@pytest.mark.parametrize(("model", "options"), VARIANTS, ids=called)
@pytest.mark.parametrize("images", [
    torch.rand(1, 4, 64, 64), torch.rand(1, 3, 31, 64), torch.rand(1, 3, 64, 31), torch.rand(3, 64, 64),
    torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
], ids=["channels", "height", "width", "no batch", "bytes"])
def test_images_that_do_not_fit_are_refused_in_words(model, options, images):
    kind, shape = str(images.dtype)[6:], tuple(images.shape)
    words = rf"expected float images \(B, 3, H, W\) with H and W from 32 up, got {kind} {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=words):
        model(2, width=1, **options).eval()(images)


@pytest.mark.parametrize(("model", "options"), VARIANTS, ids=called)
def test_every_parameter_learns(model, options):
    network = stirred(model(3, width=8, **options)).eval()
    images, labels = torch.rand(2, 3, 40, 40), torch.randint(0, 3, (2, 40, 40))
    F.cross_entropy(network(images), labels).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(("network", "parameters"), [
    (lambda: FCN32s(21), 136_152_917),
    (lambda: FCN16s(21), 134_815_994),
    (lambda: FCN8s(21), 134_489_759),
    (lambda: DeconvNet(21), 251_805_653),
    (lambda: UNet(2, in_channels=1), 31_030_658),
    (lambda: UNet(2, in_channels=1, padding="valid"), 31_030_658),
    (lambda: PSPNet(21), 46_716_373),
    (lambda: PSPNet(21, auxiliary=True), 49_081_578),
    (lambda: PSPNet(21, layers=(3, 4, 23, 3)), 65_708_501),
    (lambda: PSPNet(21, layers=(3, 4, 23, 3), auxiliary=True), 68_073_706),
    (lambda: DeepLabV1(21), 20_505_429),
    (lambda: DeepLabV2(21), 44_048_532),
    (lambda: DeepLabV3(21), 39_638_869),
    (lambda: DeepLabV3(21, auxiliary=True), 42_004_074),
])
def test_parameter_counts_are_the_papers(network, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in network().parameters()) == parameters


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


@pytest.mark.parametrize(("model", "options", "how_many"), [
    *((model, {"padding": padding}, count) for count, model in enumerate(FCNS, 1) for padding in (1, 100)),
    (Hypercolumn, {}, 3),
])
def test_contributions_add_up_to_the_logits(model, options, how_many):
    network = stirred(model(3, in_channels=2, width=2, **options)).double().eval()
    images = torch.rand(2, 2, 45, 71, dtype=torch.float64)
    parts, logits = network.contributions(images), network(images)
    assert [part.shape for part in parts] == [logits.shape] * how_many
    assert min(part.abs().max() for part in parts) > 0
    torch.testing.assert_close(sum(parts), logits)


@pytest.mark.parametrize(("model", "options"), [(FCN8s, {"padding": 1}), (Hypercolumn, {})])
def test_a_contribution_comes_from_its_layer_alone(model, options):
    network = model(3, width=2, **options).eval()
    for score, value in zip([network.score, *network.skip_scores], [1.0, 2.0, 4.0], strict=True):
        nn.init.zeros_(score.weight), nn.init.constant_(score.bias, value)    # each map is its bias, upsampled
    parts = network.contributions(torch.rand(1, 3, 96, 96))
    assert [part[0, 0, 48, 48].item() for part in parts] == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("size", [(64, 64), (45, 71)])
def test_scoring_before_upsampling_is_scoring_the_hypercolumn(size):
    """Linear steps may change places: three 1x1 convolutions, upsampled and added, are one over all the channels."""
    torch.manual_seed(0)
    network = Hypercolumn(4, in_channels=2, width=2).eval()
    scores = [network.score, *network.skip_scores]
    for score in scores:
        nn.init.normal_(score.weight), nn.init.normal_(score.bias)
    images = torch.rand(2, 2, *size)
    columns = network.columns(images)
    assert columns.shape == (2, 76 * 2, *size)
    weight = torch.cat([score.weight for score in scores], dim=1)
    bias = sum(score.bias for score in scores)
    torch.testing.assert_close(network(images), F.conv2d(columns, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [96, 71])
def test_cells_stay_upon_their_pixels(width):
    """Maps whose cells hold the place of their middle give every pixel its own place, at odd sizes too."""
    maps = [torch.arange(-(-width // stride)).view(1, 1, 1, -1) * stride + (stride - 1) / 2
            for stride in hypercolumn.STRIDES]
    for large in hypercolumn._upsampled(maps, (1, 3, 1, width)):
        torch.testing.assert_close(large[0, 0, 0, 16:-16], torch.arange(16.0, width - 16))


# --- DeconvNet, and unpooling


def test_deconvnet_has_the_authors_maps():
    with torch.device("meta"):
        network = DeconvNet(21).eval()
        code, switches = network.encode(torch.empty(1, 3, 224, 224))
        maps = network.decode(code, switches)
    assert code.shape == (1, 4096, 1, 1)
    assert [x.shape[1:3] for x in switches] == [(64, 112), (128, 56), (256, 28), (512, 14), (512, 7)]
    assert [x.shape[1:3] for x in maps] == [(512, 7), (512, 14), (256, 28), (128, 56), (64, 112), (64, 224)]
    layers = [layer for stage in network.decoder for layer in stage if isinstance(layer, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in layers] == [512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 64]
    assert {(layer.kernel_size, layer.padding) for layer in layers} == {((3, 3), (1, 1))}
    assert (network.fc6[0].kernel_size, network.fc6_deconv[0].kernel_size) == ((7, 7), (7, 7))


def test_deconvnet_sees_images_of_other_sizes_resized():
    network = stirred(DeconvNet(3, width=2, size=64)).eval()
    images = torch.rand(2, 3, 100, 130)
    small = F.interpolate(images, size=(64, 64), mode="bilinear", antialias=True)
    expected = F.interpolate(network(small), size=(100, 130), mode="bilinear")
    torch.testing.assert_close(network(images), expected)
    code, switches = network.encode(small)
    torch.testing.assert_close(network(small), network.score(network.decode(code, switches)[-1]))


@pytest.mark.parametrize("model", [*FCNS, Hypercolumn, DeconvNet])
def test_receptive_fields_can_be_followed_through(model):
    """Of images of DeconvNet's own size, which are not resized; through switches too."""
    options = {"size": 64} if model is DeconvNet else {}
    last = receptive.theoretical(model(2, width=1, **options).eval(), 64)[-1]
    assert last.size > 404 and last.jump == 1         # 404: VGG16's fc6


def test_each_stage_has_its_own_unpooling():
    """Five modes, coarse to fine: changing one changes the maps from its stage on, and none before."""
    network = stirred(DeconvNet(3, width=4, size=64)).eval()
    code, switches = network.encode(torch.rand(2, 3, 64, 64))
    paper = network.decode(code, switches)
    for stage in range(5):
        network.unpooling = ["corner" if i == stage else "switches" for i in range(5)]
        same = [a.equal(b) for a, b in zip(network.decode(code, switches), paper, strict=True)]
        assert same == [i <= stage for i in range(6)]


def test_one_weight_serves_every_unpooling():
    network, images = stirred(DeconvNet(3, width=4, size=64)).eval(), torch.rand(2, 3, 64, 64)
    logits = []
    for network.unpooling in UNPOOLING:
        torch.manual_seed(1)
        logits.append(network(images))
        torch.manual_seed(1)
        assert logits[-1].equal(network(images))
    assert not any(a.equal(b) for i, a in enumerate(logits) for b in logits[:i])
    network.unpooling = "shuffled"
    assert not network(images).equal(network(images))                        # chance goes on


@pytest.mark.parametrize("unpooling", ["nearest", ("switches",) * 4, ("switches",) * 4 + ("nearest",), ()])
def test_unknown_unpooling_is_refused(unpooling):
    with pytest.raises(ValueError, match=r"unpooling is one of .*switches"):
        DeconvNet(2, width=1, size=32, unpooling=unpooling)
    network = DeconvNet(2, width=1, size=32).eval()
    network.unpooling = unpooling
    with pytest.raises(ValueError, match=r"unpooling is one of .*switches"):
        network(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("size", [0, 16, 100, -32])
def test_a_size_that_cannot_be_halved_five_times_is_refused(size):
    with pytest.raises(ValueError, match="a multiple of 32"):
        DeconvNet(2, width=1, size=size)


@pytest.mark.parametrize("size", [32, 64])
def test_deconvnet_does_not_train_on_a_batch_of_one(size):
    network = DeconvNet(2, width=1, size=size)
    with pytest.raises(ValueError, match=r"cannot train on a batch of one: .* Take two images or more"):
        network(torch.rand(1, 3, 64, 64))
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 2, 64, 64)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()                              # with frozen statistics one image is enough
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 2, 64, 64)


@pytest.mark.parametrize("mode", UNPOOLING[:3])
def test_unpooling_puts_each_value_in_one_place_of_its_square(mode):
    """Against a loop over every square."""
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 10)
    pooled, switches = F.max_pool2d(maps, 2, return_indices=True)
    large, chosen = unpool(pooled, switches, mode), []
    assert large.shape == maps.shape
    for b, c, row, column in torch.cartesian_prod(*(torch.arange(n) for n in pooled.shape)):
        square = (b, c, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        place = large[square].flatten().nonzero().item()          # one value, or this raises
        assert large[square].flatten()[place] == pooled[b, c, row, column]
        chosen.append((place, maps[square].argmax().item()))
    if mode == "switches":
        assert all(place == largest for place, largest in chosen)
    else:
        assert {place for place, _ in chosen} == ({0} if mode == "corner" else {0, 1, 2, 3})


def test_shuffled_unpooling_takes_all_places_alike():
    torch.manual_seed(0)
    large = unpool(torch.ones(1, 1, 100, 100), torch.zeros(1, 1, 100, 100, dtype=torch.long), "shuffled")
    counts = [large[..., row::2, column::2].sum().item() for row in (0, 1) for column in (0, 1)]
    assert sum(counts) == 10_000 and all(abs(count - 2_500) < 200 for count in counts)    # 200: 4.6 sigma


def test_pooling_undoes_unpooling():
    pooled, switches = F.max_pool2d(torch.rand(1, 2, 12, 8), 2, return_indices=True)
    for mode in UNPOOLING[:3]:
        assert F.max_pool2d(unpool(pooled, switches, mode), 2).equal(pooled)


def test_bilinear_unpooling_is_interpolation():
    maps = torch.rand(1, 2, 5, 6)
    expected = F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
    assert unpool(maps, None, "bilinear").equal(expected)


def test_an_unknown_mode_of_unpooling_is_refused():
    with pytest.raises(ValueError, match=r"expected a mode out of .*switches.* got 'nearest'"):
        unpool(torch.rand(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.long), "nearest")


# --- VGG16, and a classifier's weights


def narrow_classifier(width: int = 2, num_classes: int = 6, in_channels: int = 3) -> nn.Module:
    """torchvision's VGG16 with fewer channels."""
    plan = [part for stage in vgg.STAGES for part in (*(width * multiple for multiple in stage), "M")]
    features = torchvision.models.vgg.make_layers(plan)
    features[0] = nn.Conv2d(in_channels, width, 3, padding=1)
    with torch.device("meta"):                        # its classifier has a fixed width: it is replaced at once
        network = torchvision.models.VGG(features, num_classes, init_weights=False)
    network.classifier = nn.Sequential(
        nn.Linear(8 * width * 49, 64 * width), nn.ReLU(), nn.Dropout(), nn.Linear(64 * width, 64 * width), nn.ReLU(),
        nn.Dropout(), nn.Linear(64 * width, num_classes),
    )
    for parameter in network.parameters():            # of a size that what goes wrong shows
        nn.init.normal_(parameter, std=0.1) if parameter.dim() == 1 else nn.init.kaiming_normal_(parameter)
    return network.eval()


def assert_same_classifier(network: nn.Module, oracle: nn.Module):
    images = torch.rand(1, 3, 224, 224)
    found, expected = images, images
    ends = [i for i, layer in enumerate(oracle.features) if isinstance(layer, nn.MaxPool2d)]
    for stage, begin, end in zip(network.stages, [-1, *ends], ends, strict=False):
        found, expected = stage(found), oracle.features[begin + 1 : end + 1](expected)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert network(images).shape == (1, network.num_classes, 1, 1)
    torch.testing.assert_close(network(images)[..., 0, 0], oracle(images), rtol=1e-5, atol=1e-5)


def test_vgg16_is_torchvisions():
    torch.manual_seed(0)
    oracle, network = narrow_classifier(), vgg.VGG16(6, width=2).eval()
    vgg.copy_classifier(network, oracle.state_dict())
    assert_same_classifier(network, oracle)


@pytest.mark.slow
def test_vgg16_is_torchvisions_at_full_width():
    torch.manual_seed(0)
    oracle = torchvision.models.vgg16(weights=None).eval()
    with torch.device("meta"):
        network = vgg.VGG16()
    network = network.to_empty(device="cpu").eval()
    vgg.copy_classifier(network, oracle.state_dict())
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in oracle.parameters())
    assert_same_classifier(network, oracle)


def test_vgg16_says_what_it_expects():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\) with H and W from 224 up, got float32 \(1, 3, 223, 300\)"):
        vgg.VGG16(2, width=1)(torch.rand(1, 3, 223, 300))


def test_vgg16_answers_at_every_place_of_its_features():
    """On a larger image each logit is the classifier's on one 7x7 window of pool5. It is not the classifier's on one
    224x224 window of the image: the convolutions below pad with zeros at the window's border, or see what is there."""
    torch.manual_seed(0)
    oracle, network = narrow_classifier(), vgg.VGG16(6, width=2).eval()
    vgg.copy_classifier(network, oracle.state_dict())
    images = torch.rand(2, 3, 256, 288)
    logits, pool5 = network(images), oracle.features(images)
    assert logits.shape == (2, 6, 2, 3)
    for row in range(2):
        for column in range(3):
            window = pool5[..., row : row + 7, column : column + 7].flatten(1)
            torch.testing.assert_close(logits[..., row, column], oracle.classifier(window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("model", "options"), [
    *((model, {"padding": padding}) for model in FCNS for padding in (1, 100)),
    (Hypercolumn, {}), (DeconvNet, {"size": 224}),
], ids=called)
def test_a_classifier_fills_every_model_on_vgg16(model, options):
    oracle, network = narrow_classifier(), model(3, width=2, **options)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    vgg.copy_classifier(network, oracle.state_dict())
    own = [layer for part in (network.stages, network.fc6, network.fc7) for layer in part.modules()
           if isinstance(layer, nn.Conv2d)]
    theirs = [layer for layer in oracle.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer, other in zip(own, theirs[:-1], strict=True):
        assert layer.weight.flatten().equal(other.weight.flatten()) and layer.bias.equal(other.bias)
    rest = {name for name in before if not name.startswith(("stages", "fc6.0", "fc7.0"))}
    assert all(network.state_dict()[name].equal(before[name]) for name in rest)


@pytest.mark.parametrize(("network", "options", "words"), [
    (lambda: vgg.VGG16(6, width=4), {}, "features.0 .* makes 2 channels .* this network's layer 4 "),
    (lambda: FCN8s(6, in_channels=4, width=2), {}, "of 27 numbers, this network's layer 2 of 36"),
    (lambda: DeconvNet(6, width=2, size=64), {}, "classifier.0 .* of 784 numbers, this network's layer 128 of 64"),
    (lambda: vgg.VGG16(6, width=2), {"drop": "features.28.weight"}, "has no features.28.weight"),
    (lambda: vgg.VGG16(6, width=2), {"drop": "classifier.6.bias"}, "has no classifier.6.weight or no bias"),
], ids=["width", "channels", "size", "a layer", "the bias"])
def test_weights_that_do_not_fit_are_refused_and_nothing_is_copied(network, options, words):
    network, weights = network(), narrow_classifier().state_dict()
    weights.pop(options.get("drop"), None)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        vgg.copy_classifier(network, weights)
    assert all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


def test_other_classes_leave_the_scores_as_they_were():
    network = vgg.VGG16(9, width=2)
    before = network.score.weight.clone()
    vgg.copy_classifier(network, narrow_classifier(num_classes=6).state_dict())
    assert network.score.weight.equal(before)


def test_images_are_normalised_as_the_weights_expect():
    transforms = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
    assert (list(imagenet.MEAN), list(imagenet.STD)) == (transforms.mean, transforms.std)


@pytest.fixture
def download(tmp_path, monkeypatch):
    """A file of our own in the place of the one on the net; torch's cache in an empty folder."""
    class Weights:
        class IMAGENET1K_V1:
            url = (tmp_path / "net" / "vgg16-0.pth").as_uri()

    source = tmp_path / "net" / "vgg16-0.pth"
    source.parent.mkdir()
    torch.save({"features.0.bias": torch.arange(3.0)}, source)
    monkeypatch.setattr(torchvision.models, "VGG16_Weights", Weights)
    monkeypatch.setattr(vgg, "DIGEST", hashlib.sha256(source.read_bytes()).hexdigest())
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "cache"))
    return source, tmp_path / "cache" / "checkpoints" / "vgg16-0.pth"


def test_weights_are_fetched_once(download):
    source, cached = download
    assert vgg.imagenet_weights()["features.0.bias"].tolist() == [0, 1, 2]
    source.unlink()
    assert vgg.imagenet_weights()["features.0.bias"].tolist() == [0, 1, 2]
    assert cached.exists()


def test_without_a_connection_the_error_says_what_to_do(download):
    source, cached = download
    source.unlink()
    with pytest.raises(OSError, match=r"could not be fetched from .* They are not needed") as caught:
        vgg.imagenet_weights()
    assert str(cached) in str(caught.value) and list(cached.parent.iterdir()) == []


def test_what_arrives_broken_is_not_kept(download):
    source, cached = download
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(OSError, match="could not be fetched"):
        vgg.imagenet_weights()
    assert list(cached.parent.iterdir()) == []


def test_a_changed_file_in_the_cache_is_not_read(download):
    _, cached = download
    vgg.imagenet_weights()
    cached.write_bytes(cached.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"is not VGG16's ImageNet weights .* delete it"):
        vgg.imagenet_weights()


# --- what is refused


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


def test_linear_to_conv_keeps_type_and_device():
    assert linear_to_conv(nn.Linear(12, 2, dtype=torch.double), 2).weight.dtype == torch.double
    assert linear_to_conv(nn.Linear(12, 2, device="meta"), 2).weight.device.type == "meta"


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
