"""The dense CRF against a mean field in float64 that goes over all pairs of pixels."""

import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segviz import crf

pytestmark = pytest.mark.usefixtures("one_thread")

OTHERS = {"pos_w": 2.0, "pos_xy_std": 1.7, "bi_w": 5.0, "bi_xy_std": 9.0, "bi_rgb_std": 20.0}


def smooth(channels: int, size: tuple[int, int], cells: int = 4) -> torch.Tensor:
    """A soft picture in [0, 1]."""
    coarse = torch.rand(1, channels, cells, cells)
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0].clamp(0, 1)


def noise(channels: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.rand(channels, *size)


def blurred(classes: int, size: tuple[int, int]) -> torch.Tensor:
    return (4 * torch.randn(classes, 1, 1) + 3 * smooth(classes, size) + torch.randn(classes, *size)).softmax(0)


def kernel(features: torch.Tensor) -> torch.Tensor:
    """exp(-|f_i - f_j|^2 / 2), (N, N), normalised: k / sqrt(n_i n_j), n_i the sum of its row, itself in it."""
    k = (-(features[:, None] - features[None]).square().sum(-1) / 2).exp()
    n = k.sum(1)
    return k / (n[:, None] * n[None]).sqrt()


def brute_force(probabilities, image, iterations, pos_w=3.0, pos_xy_std=1.0, bi_w=4.0, bi_xy_std=67.0, bi_rgb_std=3.0):
    """All marginals, before the first iteration and after each: the paper's algorithm 1, all labels unlike alike."""
    classes, height, width = probabilities.shape
    p, colours = probabilities.double().flatten(1).T, image.double().flatten(1).T * 255
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double().view(-1, 2)
    smoothness = kernel(places / pos_xy_std)
    appearance = kernel(torch.cat([places / bi_xy_std, colours / bi_rgb_std], dim=1))
    q, found, unlike = p / p.sum(1, keepdim=True), [], 1 - torch.eye(classes, dtype=torch.float64)
    found.append(q)
    for _ in range(iterations):
        message = pos_w * smoothness @ q + bi_w * appearance @ q
        q = (p.log() - message @ unlike).softmax(1)
        found.append(q)
    return [x.T.view(classes, height, width) for x in found]


def assert_every_iteration(probabilities, image, iterations=10, **options):
    expected = brute_force(probabilities, image, iterations, **options)
    found = list(crf.marginals(probabilities, image, iterations, **options))
    assert len(found) == iterations + 1
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == probabilities.dtype
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6)
    assert crf.mean_field(probabilities, image, iterations, **options).equal(found[-1])


@pytest.mark.parametrize("options", [{}, OTHERS], ids=["default", "others"])
@pytest.mark.parametrize(("classes", "size", "channels", "paint"), [
    (2, (32, 32), 3, smooth), (21, (32, 32), 3, noise), (7, (17, 32), 1, smooth), (1, (5, 9), 3, noise),
    (40, (12, 11), 4, smooth), (3, (1, 1), 3, noise), (5, (1, 30), 3, smooth),
], ids=str)
def test_every_iteration_is_the_brute_force_mean_field(classes, size, channels, paint, options):
    torch.manual_seed(0)
    assert_every_iteration(blurred(classes, size), paint(channels, size), **options)


@pytest.mark.parametrize("seed", range(3))
def test_pixels_that_waver_are_right_too(seed):
    """Where float32 would go astray: an unsure network on a soft image, strong and narrow kernels."""
    torch.manual_seed(seed)
    assert_every_iteration((torch.randn(5, 27, 31)).softmax(0), smooth(3, (27, 31)), pos_w=6.0, bi_w=10.0)


def test_blocks_change_nothing(monkeypatch):
    """Many blocks, of which not all hear each other, a few or one at a time."""
    monkeypatch.setattr(crf, "BLOCK", 16)
    torch.manual_seed(0)
    probabilities, image = blurred(4, (31, 29)), smooth(3, (31, 29))
    for budget in (1 << 28, 1 << 20, 1):
        monkeypatch.setattr(crf, "BUDGET", budget)
        assert_every_iteration(probabilities, image, 3)
    near = crf.Appearance(image.double(), 67.0, 3.0).near(torch.arange(64))
    assert len(near) == 64 and near.diag().all() and near.equal(near.T) and 0.05 < near.float().mean() < 0.95
    assert len(near.sum(1).unique()) > 5


def test_what_is_left_out_is_below_rounding(monkeypatch):
    torch.manual_seed(0)
    image, values = smooth(3, (32, 32)).double(), torch.rand(3, 32, 32, dtype=torch.float64)
    monkeypatch.setattr(crf, "BLOCK", 16)
    some = crf.Appearance(image, 10.0, 5.0)
    monkeypatch.setattr(crf, "FAR", float("inf"))
    everyone = crf.Appearance(image, 10.0, 5.0)
    expected = everyone(values)
    assert everyone.near(torch.arange(64)).all()
    monkeypatch.undo()
    assert not some.near(torch.arange(64)).all()
    torch.testing.assert_close(some(values), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("budget", "times"), [(1 << 28, 8), (1 << 20, 64)])
def test_memory_is_bounded(monkeypatch, budget, times):
    """Nothing is of the size of all pairs of pixels, and what is heard at one time stays within the budget, or is what
    a single block hears."""
    called, attention = [], F.scaled_dot_product_attention

    def spy(queries, keys, values, scale):
        scores = queries.shape[0] * queries.shape[2] * keys.shape[2]
        called.append((len(queries), keys.nbytes + values.nbytes + 3 * 8 * scores))
        return attention(queries, keys, values, scale=scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(crf, "BUDGET", budget)
    torch.manual_seed(0)
    crf.mean_field(blurred(3, (96, 96)), torch.rand(3, 96, 96), 0, bi_rgb_std=50.0)
    assert len(called) == times and sum(count for count, _ in called) == 64
    assert all(count == 1 or nbytes <= 1.01 * budget for count, nbytes in called)


@pytest.mark.parametrize(("count", "size", "blocks", "length"), [(1000, 256, 4, 250), (256, 256, 1, 256), (1, 4, 1, 1),
                                                                 (37, 4, 16, 3), (9, 1, 16, 1)])  # fmt: skip
def test_blocks_hold_every_point_and_lie_together(count, size, blocks, length):
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(0))
    found = crf.compact_blocks(points, size)
    assert found.shape == (blocks, length) and length <= size
    assert found.flatten().sort()[0].equal(torch.arange(blocks * length))
    if (count, size) == (1000, 256):                  # halved twice, along two of the three axes
        inside = points[found]
        assert sorted((inside.amax(1) - inside.amin(1)).gt(0.6).sum(1).tolist()) == [1, 1, 1, 1]


@pytest.mark.parametrize("options", [{}, {"pos_xy_std": 3.0, "bi_w": 10.0, "bi_xy_std": 80.0, "bi_rgb_std": 13.0}],
                         ids=["DeepLab v2", "pydensecrf's example"])  # fmt: skip
def test_pydensecrf_agrees(options):
    """The authors' code (pydensecrf), where it is installed; its sums over all pixels are approximations. A scene of
    soft colours, and a network that is unsure at its edges."""
    densecrf, size = pytest.importorskip("pydensecrf.densecrf"), (96, 96)
    torch.manual_seed(7)
    true = smooth(7, size).argmax(0)
    image = ((torch.rand(7, 3)[true].permute(2, 0, 1) + 0.03 * smooth(3, size, 9)) / 1.03 * 255).round()
    soft = F.avg_pool2d(F.one_hot(true, 7).permute(2, 0, 1)[None].float(), 15, 1, 7, count_include_pad=False)[0]
    probabilities = (6 * soft + 0.7 * torch.randn(7, *size)).softmax(0)
    defaults = inspect.signature(crf.mean_field).parameters.items()
    given = {name: parameter.default for name, parameter in defaults} | options
    peer = densecrf.DenseCRF2D(96, 96, 7)
    peer.setUnaryEnergy((-probabilities.log()).flatten(1).numpy())
    peer.addPairwiseGaussian(sxy=given["pos_xy_std"], compat=given["pos_w"])
    colours = image.permute(1, 2, 0).byte().contiguous().numpy()
    peer.addPairwiseBilateral(given["bi_xy_std"], given["bi_rgb_std"], colours, given["bi_w"])
    theirs = torch.tensor(np.array(peer.inference(10))).view(7, *size)
    found = crf.mean_field(probabilities, image / 255, **options)
    assert (found.argmax(0) == theirs.argmax(0)).float().mean() >= 0.98
    assert (found - theirs).abs().mean() < 0.005
    before, after = ((x.argmax(0) == true).float().mean() for x in (probabilities, found))
    assert before < 0.95 and after > before + 0.04


# --- what a CRF does


def test_without_others_the_network_is_right():
    torch.manual_seed(0)
    probabilities, image = blurred(4, (9, 11)), noise(3, (9, 11))
    for options in ({"iterations": 0}, {"pos_w": 0.0, "bi_w": 0.0}):
        torch.testing.assert_close(crf.mean_field(probabilities, image, **options), probabilities)


def test_each_kernel_alone():
    torch.manual_seed(0)
    probabilities, image = blurred(3, (13, 16)), smooth(3, (13, 16))
    for options in ({"pos_w": 0.0}, {"bi_w": 0.0}):
        assert_every_iteration(probabilities, image, 2, **options)


def test_an_edge_of_the_image_moves_the_edge_of_the_mask():
    image = torch.zeros(3, 24, 24)
    image[:, :, 12:] = 0.8
    belief = torch.full((24, 24), 0.2)
    belief[:, 15:] = 0.8                              # three columns too far to the right
    found = crf.mean_field(torch.stack([1 - belief, belief]), image).argmax(0)
    assert found.equal((image[0] > 0.4).long())


def test_classes_and_directions_are_all_alike():
    torch.manual_seed(0)
    probabilities, image = blurred(4, (10, 14)), noise(3, (10, 14))
    found = crf.mean_field(probabilities, image)
    torch.testing.assert_close(crf.mean_field(probabilities[[2, 0, 3, 1]], image), found[[2, 0, 3, 1]])
    turned = crf.mean_field(probabilities.mT.flip(1), image.mT.flip(1))
    torch.testing.assert_close(turned, found.mT.flip(1))


def test_certainty_is_finite():
    """Probabilities of 0 and 1, as a network sure of itself gives them in float32."""
    certain = F.one_hot(torch.randint(3, (12, 12), generator=torch.Generator().manual_seed(0)), 3).permute(2, 0, 1)
    found = crf.mean_field(certain.float(), torch.rand(3, 12, 12))
    torch.testing.assert_close(found, certain.float(), rtol=0, atol=1e-6)


def test_a_zero_stays_zero_whatever_the_others_say():
    belief = torch.zeros(2, 12, 12)
    belief[0], belief[:, 5, 5] = 1.0, torch.tensor([0.0, 1.0])
    found = crf.mean_field(belief, torch.full((3, 12, 12), 0.5), bi_w=60.0)
    torch.testing.assert_close(found, belief, rtol=0, atol=1e-6)


def test_half_precision_and_gradients_do_not_matter():
    probabilities = torch.randn(3, 8, 8, requires_grad=True).softmax(0)
    image = torch.rand(3, 8, 8)
    found = crf.mean_field(probabilities, image)
    assert not found.requires_grad
    half = crf.mean_field(probabilities.bfloat16(), image.half())
    assert half.dtype == torch.bfloat16 and (half - found).abs().max() < 0.05


GOOD, PICTURE = torch.full((2, 6, 6), 0.5), torch.rand(3, 6, 6)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: crf.mean_field(GOOD[None], PICTURE), "probabilities as floats (channels, H, W), one image at a time"),
    (lambda: crf.mean_field(GOOD.long(), PICTURE), "got int64 (2, 6, 6)"),
    (lambda: crf.mean_field(GOOD, PICTURE[0]), "expected image as floats (channels, H, W), one image at a time"),
    (lambda: crf.mean_field(GOOD, (255 * PICTURE).byte()), "expected image as floats (channels, H, W), one image at a"),
    (lambda: crf.mean_field(GOOD[:, :5], PICTURE), "of one size and on one device, but got (2, 5, 6) on cpu and (3, "),
    (lambda: crf.mean_field(GOOD.to("meta"), PICTURE), "on one device, but got (2, 6, 6) on meta and (3, 6, 6) on c"),
    (lambda: crf.mean_field(torch.randn(2, 6, 6), PICTURE), "1 in sum over the classes: take logits.softmax(0)"),
    (lambda: crf.mean_field(2 * GOOD, PICTURE), "take logits.softmax(0) first"),
    (lambda: crf.mean_field(0.98 * GOOD, PICTURE), "take logits.softmax(0) first"),
    (lambda: crf.mean_field(GOOD + torch.tensor([-0.6, 0.6])[:, None, None], PICTURE), "probabilities are 0 or more"),
    (lambda: crf.mean_field(GOOD[:, :0], PICTURE[:, :0]), "as floats (channels, H, W), one image at a time; got float"),
    (lambda: crf.mean_field(GOOD * float("nan"), PICTURE), "take logits.softmax(0) first"),
    (lambda: crf.mean_field(GOOD, 255 * PICTURE), "image has values in [0, 1]: divide an 8-bit one by 255"),
    (lambda: crf.mean_field(GOOD, PICTURE * float("nan")), "image has values in [0, 1]"),
    (lambda: crf.mean_field(GOOD, PICTURE, -1), "are 0 or more and finite, but got -1, 3.0, 4.0"),
    (lambda: crf.mean_field(GOOD, PICTURE, bi_w=-2.0), "are 0 or more and finite, but got 10, 3.0, -2.0"),
    (lambda: crf.mean_field(GOOD, PICTURE, pos_w=float("nan")), "are 0 or more and finite, but got 10, nan, 4.0"),
    (lambda: crf.mean_field(GOOD, PICTURE, pos_w=float("inf")), "are 0 or more and finite, but got 10, inf, 4.0"),
    (lambda: crf.mean_field(GOOD, PICTURE, bi_xy_std=float("inf")), "more than 0 and finite, but got 1.0, inf, 3.0"),
    (lambda: crf.mean_field(GOOD, PICTURE, bi_rgb_std=0.0), "are more than 0 and finite, but got 1.0, 67.0, 0.0"),
    (lambda: crf.mean_field(GOOD, PICTURE, pos_xy_std=-1.0), "are more than 0 and finite, but got -1.0, 67.0, 3.0"),
])
def test_what_cannot_be_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
