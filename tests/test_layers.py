"""The blocks of lessons 04 and 05 against torch's, on random settings, and against counting.

Those of lessons 02 and 07 are in test_models.py, of 09 in test_pspnet.py, of 12 in test_deeplab.py."""

import random
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from segviz.layers import (
    ResizeConv,
    by_transposed_matrix,
    convolution_matrix,
    is_even,
    overlap,
    scatter_and_add,
    transposed_size,
    zeros_then_convolution,
)

torch.set_num_threads(1)  # the maps are tiny

VIEWS = (scatter_and_add, zeros_then_convolution, by_transposed_matrix)


def torch_size(size, kernel_size, **settings):
    """What torch makes of it, or None where it refuses."""
    try:
        return F.conv_transpose1d(torch.ones(1, 1, size), torch.ones(1, 1, kernel_size), **settings).shape[-1]
    except RuntimeError:
        return None


def random_cases(count):
    """(maps, weight, settings) that torch takes: no square ones, several channels, images and odd settings."""
    random.seed(0)
    torch.manual_seed(0)
    found = 0
    while found < count:
        settings = {"stride": random.randint(1, 4), "padding": random.randint(0, 5),
                    "output_padding": random.randint(0, 4), "dilation": random.randint(1, 3)}
        sizes, kernel = [random.randint(1, 5) for _ in range(2)], [random.randint(1, 4) for _ in range(2)]
        if all(torch_size(size, taps, **settings) for size, taps in zip(sizes, kernel, strict=True)):
            found += 1
            maps = torch.randn(random.randint(1, 3), random.randint(1, 3), *sizes, dtype=torch.double)
            yield maps, torch.randn(maps.shape[1], random.randint(1, 3), *kernel, dtype=torch.double), settings


def test_three_views_of_the_transposed_convolution_are_torchs():
    seen = set()
    for maps, weight, settings in random_cases(200):
        expected = F.conv_transpose2d(maps, weight, **settings)
        for view in VIEWS:
            torch.testing.assert_close(view(maps, weight, **settings), expected, msg=f"{view.__name__} {settings}")
        seen |= {"cropped"} if settings["padding"] > settings["dilation"] * (weight.shape[2] - 1) else set()
        seen |= {"beyond the stride"} if settings["output_padding"] >= settings["stride"] else set()
    assert seen == {"cropped", "beyond the stride"}      # the random cases hold the rare ones


def test_settings_count_in_the_order_of_transposed_size():
    maps, weight = torch.randn(1, 2, 3, 3), torch.randn(2, 1, 3, 3)
    expected = F.conv_transpose2d(maps, weight, stride=3, padding=1, output_padding=2, dilation=2)
    for view in VIEWS:
        torch.testing.assert_close(view(maps, weight, 3, 1, 2, 2), expected)


@pytest.mark.parametrize("view", VIEWS)
def test_gradients_flow_through_every_view(view):
    maps, weight = torch.randn(1, 1, 2, 3, requires_grad=True), torch.randn(1, 1, 3, 2, requires_grad=True)
    found = torch.autograd.grad(view(maps, weight, 2).square().sum(), (maps, weight))
    expected = torch.autograd.grad(F.conv_transpose2d(maps, weight, stride=2).square().sum(), (maps, weight))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_size_is_torchs_and_refused_where_torch_refuses():
    for size, taps, stride, padding, more, dilation in product(
        (1, 2, 5), (1, 2, 3), (1, 2, 4), (0, 1, 3), (0, 1, 3), (1, 3)
    ):
        expected = torch_size(
            size, taps, stride=stride, padding=padding, output_padding=more, dilation=dilation
        )
        if expected is None:
            with pytest.raises(ValueError, match="padding"):
                transposed_size(size, taps, stride, padding, more, dilation)
        else:
            assert transposed_size(size, taps, stride, padding, more, dilation) == expected


def test_output_padding_chooses_among_the_sizes_that_a_convolution_makes_the_same():
    sizes = [transposed_size(5, 3, stride=4, output_padding=more) for more in range(4)]
    assert sizes == [19, 20, 21, 22]
    assert {F.conv2d(torch.ones(1, 1, size, 3), torch.ones(1, 1, 3, 3), stride=4).shape[2] for size in sizes} == {5}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"output_padding": 2, "stride": 2}, "output_padding=2 must be below the stride or the dilation, so at most 1"),
        ({"output_padding": 1}, "at most 0 with stride=1 and dilation=1"),
        ({"padding": 3}, "padding=3 cuts away everything: 5 outputs less 2 x 3 leave -1"),
        ({"stride": 0}, "stride must be 1 or more, got 0"),
        ({"padding": -1}, "padding must be 0 or more, got -1"),
    ],
)
@pytest.mark.parametrize("view", VIEWS)
def test_impossible_settings_are_refused_in_words(view, settings, words):
    with pytest.raises(ValueError, match=words):
        view(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), **settings)


@pytest.mark.parametrize("view", VIEWS)
def test_maps_and_weight_must_fit(view):
    for maps, weight in (((1, 2, 3, 3), (3, 1, 3, 3)), ((2, 3, 3), (2, 1, 3, 3)), ((1, 2, 3, 3), (2, 3, 3))):
        with pytest.raises(ValueError, match=r"maps \(B, C, H, W\) and a weight \(C, D, kh, kw\)"):
            view(torch.ones(maps), torch.ones(weight))


@pytest.mark.parametrize("view", VIEWS)
def test_no_images_make_no_maps(view):
    assert view(torch.ones(0, 2, 3, 3), torch.ones(2, 5, 2, 2), 2).shape == (0, 5, 6, 6)


def test_matrix_of_a_convolution_is_the_convolution():
    torch.manual_seed(0)
    for stride, padding, dilation in product((1, 2, 3), (0, 2), (1, 2)):
        image, weight = torch.randn(2, 5, 6), torch.randn(3, 2, 2, 3)
        matrix = convolution_matrix(weight, 5, 6, stride, padding, dilation)
        expected = F.conv2d(image[None], weight, stride=stride, padding=padding, dilation=dilation)
        torch.testing.assert_close(matrix @ image.flatten(), expected.flatten())


def test_matrix_by_hand():
    weight = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)
    assert convolution_matrix(weight, 1, 4, stride=2).tolist() == [[1, 2, 0, 0], [0, 0, 1, 2]]
    with pytest.raises(ValueError, match="covers 2 does not fit into a width of 1 with padding=0"):
        convolution_matrix(weight, 1, 1)
    for wrong in ({"weight": weight[0]}, {"stride": 0}, {"dilation": 0}, {"padding": -1}, {"height": 0}):
        with pytest.raises(ValueError, match=r"expected a weight \(C, D, kh, kw\), height, width, stride and dilation"):
            convolution_matrix(**{"weight": weight, "height": 4, "width": 4} | wrong)


def stacked_by_torch(size, kernel_size, stride, layers):
    paths = torch.ones(1, 1, size)
    for _ in range(layers):
        paths = F.conv_transpose1d(paths, torch.ones(1, 1, kernel_size), stride=stride)
    return paths[0, 0]


def test_overlap_is_torchs_on_ones():
    for size, taps, stride, layers in product((1, 4, 7), (1, 2, 3, 5), (1, 2, 3), (1, 2, 3)):
        expected = stacked_by_torch(size, taps, stride, layers)
        found = overlap(size, taps, stride, layers)
        assert found.dtype == torch.long and torch.equal(found, expected.long())
    assert overlap(4, 3, 2).tolist() == [1, 1, 2, 1, 2, 1, 2, 1, 1]
    for wrong in ((0, 3, 2), (4, 0, 2), (4, 3, 0), (4, 3, 2, 0)):
        with pytest.raises(ValueError, match="numbers from 1 up"):
            overlap(*wrong)


def test_is_even_by_counting():
    """Away from the borders the paths repeat with the strides' product: all its places are alike, or not."""
    for taps, stride, layers in product(range(1, 9), range(1, 9), (1, 2, 3)):
        size = 2 * taps + 2                            # so many that the middle sees no border
        paths, period = stacked_by_torch(size, taps, stride, layers), stride**layers
        middle = paths[(len(paths) - period) // 2 :][:period]
        assert is_even(taps, stride) == bool((middle == middle[0]).all()), (taps, stride, layers)
    with pytest.raises(ValueError, match="whole numbers from 1 up"):
        is_even(0, 2)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_resize_conv_resizes_then_convolves(mode):
    torch.manual_seed(0)
    layer, maps = ResizeConv(3, 5, 4, kernel_size=5, mode=mode), torch.randn(2, 3, 4, 6)
    larger = F.interpolate(maps, size=(16, 24), mode=mode)
    torch.testing.assert_close(layer(maps), F.conv2d(larger, layer.conv.weight, layer.conv.bias, padding=2))
    assert layer(maps).shape == (2, 5, 16, 24)


def test_resize_conv_of_a_constant_map_is_constant_away_from_the_borders():
    inner = ResizeConv(1, 1, 3)(torch.ones(1, 1, 4, 4))[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(inner, inner[:1, :1].expand_as(inner))
    with pytest.raises(ValueError, match="odd kernel_size"):
        ResizeConv(1, 1, 2, kernel_size=4)


@pytest.mark.parametrize("wrong", [{"scale": 0}, {"scale": 0.5}, {"scale": 1.5}, {"scale": 2, "mode": "cubic"}])
def test_resize_conv_is_refused_when_it_is_made(wrong):
    with pytest.raises(ValueError, match="expected a whole scale from 1 up, and mode"):
        ResizeConv(1, 1, **wrong)
