"""Scores against hand-made numbers, brute force, and torchmetrics."""

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from segviz import metrics

TRUTH = torch.tensor([[0, 0, 0, 2], [1, 1, 0, 2], [1, 1, 1, 255]])
GUESS = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 2], [1, 1, 1, 1]])


def random_maps(seed: int, num_classes: int, absent: tuple[int, ...] = (), void: float = 0.2):
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor([c for c in range(num_classes) if c not in absent])
    size = (3, 17, 23)
    truth, guess = (allowed[torch.randint(len(allowed), size, generator=generator)] for _ in range(2))
    truth[torch.rand(size, generator=generator) < void] = 255
    return guess, truth


def test_twelve_pixels_by_hand():
    counts = metrics.confusion_matrix(GUESS, TRUTH, 3)
    assert counts.tolist() == [[4, 0, 0], [1, 4, 0], [1, 0, 1]]
    assert metrics.pixel_accuracy(counts) == 9 / 11
    assert metrics.class_iou(counts).tolist() == [4 / 6, 4 / 5, 1 / 2]
    assert metrics.mean_iou(counts) == pytest.approx((4 / 6 + 4 / 5 + 1 / 2) / 3)
    assert metrics.dice(counts).tolist() == [8 / 10, 8 / 9, 2 / 3]
    assert metrics.frequency_weighted_iou(counts) == pytest.approx((4 * 4 / 6 + 5 * 4 / 5 + 2 / 2) / 11)


@pytest.mark.parametrize("seed", range(20))
def test_confusion_matrix_against_a_loop(seed):
    guess, truth = random_maps(seed, 4)
    expected = torch.zeros(4, 4, dtype=torch.long)
    for g, t in zip(guess.flatten(), truth.flatten(), strict=True):
        if t != 255:
            expected[t, g] += 1
    assert torch.equal(metrics.confusion_matrix(guess, truth, 4), expected)


@pytest.mark.parametrize("absent", [(), (3,), (0, 5)])
@pytest.mark.parametrize("seed", range(20))
def test_mean_iou_equals_torchmetrics(seed, absent):
    guess, truth = random_maps(seed, 7, absent)
    theirs = MulticlassJaccardIndex(7, average="macro", ignore_index=255)(guess, truth).item()
    assert metrics.mean_iou(metrics.confusion_matrix(guess, truth, 7)) == pytest.approx(theirs, abs=1e-6)


def test_counts_add_over_batches():
    guess, truth = random_maps(0, 5)
    parts = sum(metrics.confusion_matrix(guess[i], truth[i], 5) for i in range(3))
    assert torch.equal(parts, metrics.confusion_matrix(guess, truth, 5))
    bands = sum(metrics.boundary_counts(guess[i], truth[i], 5) for i in range(3))
    assert torch.equal(bands, metrics.boundary_counts(guess, truth, 5))


def test_an_absent_class_is_nan_and_left_out():
    counts = torch.tensor([[5, 1, 0], [2, 9, 0], [0, 0, 0]])
    assert metrics.class_iou(counts)[2].isnan() and metrics.dice(counts)[2].isnan()
    assert metrics.mean_iou(counts) == pytest.approx((5 / 8 + 9 / 12) / 2)
    empty = torch.zeros(3, 3, dtype=torch.long)
    assert math.isnan(metrics.pixel_accuracy(empty)) and math.isnan(metrics.mean_iou(empty))
    assert math.isnan(metrics.frequency_weighted_iou(empty))


def test_classes_that_are_only_predicted_count_as_missed():
    counts = torch.tensor([[5, 3], [0, 0]])
    assert metrics.class_iou(counts).tolist() == [5 / 8, 0]


def brute_force_band(mask: torch.Tensor, width: int) -> torch.Tensor:
    """Pixels of the mask with a pixel that is not in it, or the outside, within `width` rows and columns."""
    band = torch.zeros_like(mask)
    height, breadth = mask.shape
    for r, c in mask.nonzero().tolist():
        around = [(i, j) for i in range(r - width, r + width + 1) for j in range(c - width, c + width + 1)]
        band[r, c] = any(not (0 <= i < height and 0 <= j < breadth) or not mask[i, j] for i, j in around)
    return band


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_boundary_iou_against_brute_force(seed, width):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, 1, 5, 6, generator=generator)
    blobs = torch.nn.functional.interpolate(noise, (15, 20), mode="bilinear")[:, 0]
    guess, truth = (blobs > 0.5).long()
    iou = metrics.boundary_iou(guess, truth, 2, width=width)
    for c in range(2):
        a, b = brute_force_band(guess == c, width), brute_force_band(truth == c, width)
        assert iou[c].item() == pytest.approx((a & b).sum().item() / (a | b).sum().item())


def test_boundary_iou_of_the_truth_is_one_whatever_stands_in_void():
    _, truth = random_maps(1, 3, void=0.1)
    guess = truth.masked_fill(truth == 255, 1)
    assert metrics.boundary_iou(guess, truth, 3).tolist() == [1, 1, 1]


def test_boundary_width_is_two_per_cent_of_the_diagonal():
    guess, truth = torch.zeros(2, 90, 120, dtype=torch.long)
    guess[:, :50], truth[:, :60] = 1, 1
    assert torch.equal(metrics.boundary_iou(guess, truth, 2), metrics.boundary_iou(guess, truth, 2, width=3))


@pytest.mark.parametrize(("guess", "truth", "words"), [
    (torch.zeros(2, 1, 4, 4, dtype=torch.long), torch.zeros(2, 4, 4, dtype=torch.long), "differ in shape"),
    (torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), "argmax"),
    (torch.rand(4, 4), torch.zeros(4, 4, dtype=torch.long), "whole numbers"),
    (torch.zeros(4, 4, dtype=torch.long), torch.full((4, 4), 3), "label 3"),
    (torch.full((4, 4), 9), torch.zeros(4, 4, dtype=torch.long), "label 9"),
    (torch.zeros(4, 4, dtype=torch.long), torch.full((4, 4), -1), "label -1"),
])
def test_bad_input_is_refused_in_words(guess, truth, words):
    with pytest.raises(ValueError, match=words):
        metrics.confusion_matrix(guess, truth, 3)


def test_boundaries_need_maps():
    with pytest.raises(ValueError, match="label maps"):
        metrics.boundary_counts(torch.zeros(5, dtype=torch.long), torch.zeros(5, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        metrics.boundary_counts(torch.zeros(5, 5, dtype=torch.long), torch.zeros(5, 5, dtype=torch.long), 2, width=0)


def spectral_share(maps: torch.Tensor, stride: int) -> float:
    """The definition itself: energy at the multiples of 1 / stride over all energy, the mean left out."""
    height, width = maps.shape[-2:]
    energy = torch.fft.fft2(maps.double()).abs() ** 2
    energy[..., 0, 0] = 0
    return (energy[..., :: height // stride, :: width // stride].sum() / energy.sum()).item()


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shape", [(12, 24), (5, 24, 12), (2, 3, 12, 12)])
def test_checkerboard_is_the_energy_at_the_strides_frequencies(shape, stride):
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(stride))
    pattern = torch.eye(stride).repeat(shape[-2] // stride, shape[-1] // stride)
    for maps in (noise, noise + pattern, noise + 0.1 * pattern):
        assert metrics.checkerboard(maps, stride) == pytest.approx(spectral_share(maps, stride), abs=1e-9)


def test_what_repeats_is_all_checkerboard_and_what_is_constant_is_none():
    tile = torch.rand(3, 3, generator=torch.Generator().manual_seed(0))
    assert metrics.checkerboard(tile.repeat(5, 4), 3) == pytest.approx(1)
    assert metrics.checkerboard(tile.repeat_interleave(3, 0).repeat_interleave(3, 1), 3) == pytest.approx(0)
    assert metrics.checkerboard(torch.full((8, 8), 0.1), 2) == 0
    assert metrics.checkerboard(torch.full((8, 8), 0.1) + 1e-7 * torch.eye(2).repeat(4, 4), 2) == 0
    assert metrics.checkerboard(0.1 * torch.eye(2).repeat(4, 4), 2) == pytest.approx(1)     # weak, and all of it


def test_checkerboard_knows_neither_scale_nor_place():
    maps = torch.rand(2, 20, 16, generator=torch.Generator().manual_seed(1)) + torch.eye(4).repeat(5, 4)
    share = metrics.checkerboard(maps, 4)
    assert 0.2 < share < 1
    for same in (7 - 3 * maps, maps.roll(1, -1), maps.mT, torch.nn.functional.pad(maps, (0, 3, 0, 1))):
        assert metrics.checkerboard(same, 4) == pytest.approx(share)
    assert metrics.checkerboard(maps, 3) < 0.1


def test_noise_has_as_much_checkerboard_as_the_docstring_says():
    noise = torch.randn(200, 16, 24, generator=torch.Generator().manual_seed(2))
    assert metrics.checkerboard(noise, 4) == pytest.approx(15 / (16 * 24), rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_counts_as_constant_depends_on_the_maps_own_rounding(dtype):
    pattern, rounding = torch.eye(2, dtype=torch.float64).repeat(4, 4) - 0.5, torch.finfo(dtype).eps
    assert metrics.checkerboard((3 + 6 * rounding * pattern).to(dtype), 2) == 0
    assert metrics.checkerboard((3 + 80 * rounding * pattern).to(dtype), 2) == pytest.approx(1)


def test_numbers_of_any_kind_can_be_measured():
    maps = torch.randint(0, 9, (2, 8, 12), generator=torch.Generator().manual_seed(3))
    share = metrics.checkerboard(maps.double(), 2)
    assert 0 < share < 1
    for same in (maps, maps.float(), maps.double().numpy(), maps.double().requires_grad_()):
        assert metrics.checkerboard(same, 2.0) == pytest.approx(share)


@pytest.mark.parametrize(("shape", "stride"), [((8,), 2), ((8, 7), 4), ((8, 8), 0), ((8, 8), 1.5), ((0, 0), 2)])
def test_a_map_too_small_to_repeat_is_refused(shape, stride):
    with pytest.raises(ValueError, match="two periods of whole pixels"):
        metrics.checkerboard(torch.rand(shape), stride)


def test_maps_without_a_share_are_refused():
    with pytest.raises(ValueError, match="they are none"):
        metrics.checkerboard(torch.rand(0, 3, 8, 8), 2)
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="they hold NaN or infinities"):
            metrics.checkerboard(torch.rand(8, 8).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(value)), 2)
