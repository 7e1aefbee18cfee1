"""U-Net: its paper's numbers, a plain reference, and the arithmetic of its sizes. The contract of all models is in
test_models.py."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segviz import receptive
from segviz.models import UNet
from segviz.models.unet import fitting, levels

pytestmark = pytest.mark.usefixtures("one_thread")


def small(**options) -> UNet:
    torch.manual_seed(0)
    return UNet(3, **{"width": 2, "in_channels": 2} | options).eval()


def fits(size, depth, padding) -> bool:
    try:
        return not any(level.odd for level in levels(size, depth, padding))
    except ValueError:
        return False


def test_the_papers_image_gives_the_papers_map():
    """Figure 1: the sizes beside the maps, and the channels above them."""
    with torch.device("meta"):
        network, images = UNet(2, in_channels=1, padding="valid"), torch.empty(1, 1, 572, 572)
        maps, logits = network.encode(images), network(images)
    assert logits.shape == (1, 2, 388, 388)
    assert [x.shape[1:3] for x in maps] == [(64, 568), (128, 280), (256, 136), (512, 64), (1024, 28)]
    found = levels(572, 4, "valid")
    assert [level.down for level in found] == [
        (572, 570, 568), (284, 282, 280), (140, 138, 136), (68, 66, 64), (32, 30, 28)
    ]
    assert [level.up for level in found] == [(392, 390, 388), (200, 198, 196), (104, 102, 100), (56, 54, 52), ()]
    assert [level.surplus for level in found] == [2 * 88, 2 * 40, 2 * 16, 2 * 4, 0]      # cropped, on both sides
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(layers) == 23 and all(layer.bias is not None for layer in layers)         # "23 convolutional layers"


def by_hand(network, x):
    """The network written out, from its weights in the order in which they are used."""
    convs = [layer for part in (network.down, network.up) for layer in part.modules() if isinstance(layer, nn.Conv2d)]
    convs, pad, skips = iter(convs), 1 if network.padding == "same" else 0, []
    for level in range(network.depth + 1):
        for layer in (next(convs), next(convs)):
            x = F.relu(F.conv2d(x, layer.weight, layer.bias, padding=pad))
        if level < network.depth:
            skips.append(x)
            x = F.max_pool2d(x, 2)
    for upsample in network.upsamplings:
        x, skip = F.conv_transpose2d(x, upsample.weight, upsample.bias, stride=2), skips.pop()
        cut = [(skip.shape[axis] - x.shape[axis]) // 2 for axis in (2, 3)]
        skip = skip[:, :, cut[0] : skip.shape[2] - cut[0], cut[1] : skip.shape[3] - cut[1]]
        if network.merge != "nothing":
            x = torch.cat([skip, x], dim=1) if network.merge == "concatenate" else skip + x
        for layer in (next(convs), next(convs)):
            x = F.relu(F.conv2d(x, layer.weight, layer.bias, padding=pad))
    return F.conv2d(x, network.score.weight, network.score.bias)


@pytest.mark.parametrize("merge", ["concatenate", "add", "nothing"])
@pytest.mark.parametrize(("padding", "depth", "size"), [
    ("valid", 4, (188, 204)), ("valid", 2, (44, 52)), ("same", 4, (48, 32)), ("same", 1, (34, 36)),
])
def test_it_is_what_its_weights_say(merge, padding, depth, size):
    network, images = small(merge=merge, padding=padding, depth=depth), torch.rand(2, 2, *size)
    torch.testing.assert_close(network(images), by_hand(network, images))


def test_adding_is_concatenating_with_weights_that_are_alike():
    """conv(a + b) = conv(a) + conv(b): addition is the concatenation that treats both halves the same."""
    adding, joining, images = small(merge="add"), small(merge="concatenate"), torch.rand(1, 2, 32, 48)
    weights = adding.state_dict()
    for name in [f"up.{level}.0.weight" for level in range(4)]:
        weights[name] = torch.cat([weights[name]] * 2, dim=1)
    joining.load_state_dict(weights)
    torch.testing.assert_close(joining(images), adding(images))


def test_far_from_the_borders_padding_changes_nothing():
    """92 pixels from each border, where no padding reaches, both paddings give the same numbers; at the poolings'
    places: the valid image begins 2 pixels after a multiple of 16."""
    padded, valid, images = small(), small(padding="valid"), torch.rand(1, 2, 208, 192)
    valid.load_state_dict(padded.state_dict())
    inner = valid(images[..., 2:206, 2:190])
    assert inner.shape == (1, 3, 20, 4)
    torch.testing.assert_close(inner, padded(images)[..., 94:114, 94:98])


@pytest.mark.parametrize("depth", [1, 3, 4, 6])
@pytest.mark.parametrize("size", [(32, 33), (47, 64), (63, 65)])
def test_uneven_images_are_filled_up_with_their_last_row_and_column(depth, size):
    network, images = small(depth=depth), torch.rand(1, 2, *size)
    height, width = (fitting(length, depth)[1] for length in size)
    filled = images[:, :, [min(row, size[0] - 1) for row in range(height)]]
    filled = filled[..., [min(column, size[1] - 1) for column in range(width)]]
    assert min(filled.shape[2:]) % 2**depth == max(filled.shape[2:]) % 2**depth == 0
    torch.testing.assert_close(network(images), by_hand(network, filled)[..., : size[0], : size[1]])


def test_a_skip_is_cut_by_zeros():
    network, images = small(), torch.rand(1, 2, 32, 32)
    maps = network.encode(images)
    assert [tuple(x.shape) for x in maps] == [(1, 2 * 2**level, 32 >> level, 32 >> level) for level in range(5)]
    logits = network(images)
    assert network.decode(maps).equal(logits)
    cut = [network.decode([x * (level != gone) for level, x in enumerate(maps)]) for gone in range(5)]
    assert not any(a.equal(b) for a, b in itertools.combinations([logits, *cut], 2))


# --- the arithmetic of its sizes


@pytest.mark.parametrize(("padding", "depth", "size"), [
    ("valid", 4, 572), ("valid", 4, 188), ("valid", 3, 108), ("valid", 1, 18), ("same", 4, 96), ("same", 2, 4),
])
def test_levels_are_the_sizes_of_the_maps(padding, depth, size):
    seen = []
    with torch.device("meta"):
        network, images = UNet(2, 1, 1, padding, depth), torch.empty(1, 1, size, size)
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer is not network.score:
                layer.register_forward_hook(lambda layer, given, made: seen.append(made.shape[2]))
        last = network.decode(network.encode(images)).shape[2]
    found = levels(size, depth, padding)
    down = [length for level in found for length in level.down[1:]]
    assert seen == down + [length for level in reversed(found) for length in level.up] and last == found[0].up[-1]


def test_an_odd_map_in_front_of_a_pooling_is_the_mismatch():
    """Against torch, without any mending: a map, pooled and doubled again, is one smaller where it was odd."""
    for size in range(16, 130):
        x, lost = torch.empty(1, 1, size, size), []
        for _ in range(4):
            pooled = F.max_pool2d(x, 2)
            lost.append(x.shape[2] - F.interpolate(pooled, scale_factor=2.0).shape[2])
            x = pooled
        found = levels(size)
        assert [level.surplus for level in found] == [*lost, 0] and [level.odd for level in found] == [*lost, 0]


def test_what_fits_is_even_all_the_way_down():
    for padding, depth in itertools.product(("same", "valid"), range(1, 6)):
        good = [size for size in range(1, 900) if fits(size, depth, padding)]
        for size in range(1, 700):
            below, above = [s for s in good if s <= size], [s for s in good if s >= size]
            assert fitting(size, depth, padding) == (below[-1] if below else None, above[0])
    assert [fitting(size, 4, "valid") for size in (572, 573, 100)] == [(572, 572), (572, 588), (None, 188)]


@pytest.mark.parametrize(("size", "words"), [
    ((190, 188), "a height of 190 does not fit .* take 188 or 204"),
    ((188, 571), "a width of 571 does not fit .* take 556 or 572"),
    ((64, 188), "a height of 64 does not fit a U-Net of depth 4 .* take 188$"),
])
def test_valid_sizes_that_do_not_fit_are_refused_with_those_that_do(size, words):
    with pytest.raises(ValueError, match=words):
        small(padding="valid")(torch.rand(1, 2, *size))


def test_encode_fills_nothing_up():
    with pytest.raises(ValueError, match=r'a width of 33 .* padding="same".* take 32 or 48'):
        small().encode(torch.rand(1, 2, 32, 33))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: UNet(2, padding="full"), "padding is one of .*'same', 'valid'.* got 'full'"),
    (lambda: UNet(2, depth=0), "depth at least 1.* and 0"),
    (lambda: UNet(2, merge="multiply"), "merge is one of .*'concatenate', 'add'.* got 'multiply'"),
    (lambda: levels(139, 4, "valid"), "a size of 139 leaves no map .* take 188 or more"),
    (lambda: levels(15), "a size of 15 leaves no map .* take 16 or more"),
    (lambda: levels(64, padding="none"), "padding is one of .* got 'none'"),
    (lambda: fitting(64, depth=-1), "depth at least 1.* and -1"),
])
def test_what_is_no_unet_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- its weights, dropout, batch normalisation


def test_weights_start_as_the_paper_has_them():
    torch.manual_seed(0)
    for layer in UNet(2, width=16).modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and layer.weight.numel() > 10_000:
            reads = layer.in_channels * (9 if isinstance(layer, nn.Conv2d) else 1)
            assert layer.weight.std().item() == pytest.approx((2 / reads) ** 0.5, rel=0.03)
            assert not layer.bias.any()


def test_the_last_two_levels_down_are_dropped_out():
    network, images = small().train(), torch.rand(1, 2, 64, 64)
    torch.manual_seed(1)
    first, second = network.encode(images), network.encode(images)
    assert [a.equal(b) for a, b in zip(first, second, strict=True)] == [True, True, True, False, False]
    network = small(dropout=0.0).train()
    assert network(images).equal(network(images))


def test_normalisation_stands_in_front_of_every_relu():
    network = small(norm=True)
    pairs = [pair for part in (network.down, network.up) for pair in part]
    kinds = [[type(layer) for layer in pair if not isinstance(layer, nn.Dropout)] for pair in pairs]
    assert kinds == [[nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2] * 9
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in small().modules())


def test_normalisation_needs_more_than_one_value():
    network, image = small(depth=5, norm=True).train(), torch.rand(1, 2, 32, 32)
    with pytest.raises(ValueError, match=r"cannot train on a batch of one here: the lowest map is 1x1"):
        network(image)
    assert network(torch.rand(1, 2, 32, 33)).shape == (1, 3, 32, 33)
    assert network(image.expand(2, -1, -1, -1)).shape == (2, 3, 32, 32)
    assert network.eval()(image).shape == small(depth=5).train()(image).shape == (1, 3, 32, 32)


def test_its_field_can_be_followed_through():
    """By their place on the poolings' grid some pixels' fields are 188 wide, some 204: 16 = 2**4 apart."""
    last = receptive.theoretical(UNet(2, 1, 1).eval(), 96)[-1]
    assert last.rows.size == 204 and last.rows.jump == 1
