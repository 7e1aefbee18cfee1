"""Losses against torch's, and weights against numbers computed by hand."""

import pytest
import torch
import torch.nn.functional as F

from segviz import instances, losses


def batch(classes=5, void=255, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 7, 6, generator=generator)
    labels = torch.randint(0, classes, (3, 7, 6), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = void
    return logits, labels


@pytest.mark.parametrize("void", [255, -100, 0])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 0.0, 1.0, 7.0])])
def test_it_is_torchs(void, weights):
    logits, labels = batch(void=void)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = losses.cross_entropy(ours, labels, void, weights)
    expected = F.cross_entropy(theirs, labels, weights, ignore_index=void)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 0.0, 1.0, 7.0])])
def test_a_pixel_counts_by_its_class_and_by_itself(weights):
    logits, labels = batch()
    own = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) * 5
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = losses.cross_entropy(ours, labels, 255, weights, own)
    total, count = 0.0, 0.0
    for b, row, column in torch.nonzero(labels != 255).tolist():
        true = labels[b, row, column]
        weight = (1.0 if weights is None else weights[true]) + own[b, row, column]
        total = total - weight * theirs[b, :, row, column].log_softmax(0)[true]
        count = count + weight
    torch.testing.assert_close(loss, total / count)
    loss.backward()
    (total / count).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("weights", [None, torch.rand(5) + 0.1])
def test_weights_of_zero_change_nothing(weights):
    logits, labels = batch()
    none = torch.zeros(labels.shape)
    torch.testing.assert_close(losses.cross_entropy(logits, labels, 255, weights, none),
                               losses.cross_entropy(logits, labels, 255, weights))


def test_a_classifiers_too():
    logits, labels = torch.randn(8, 4), torch.arange(8) % 4
    torch.testing.assert_close(losses.cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_parts_of_a_batch_add_up_to_its_mean():
    logits, labels = batch()
    weights = torch.rand(5) + 0.1
    parts = [losses.cross_entropy_parts(logits[i : i + 1], labels[i : i + 1], 255, weights) for i in range(3)]
    total, weight = (sum(part) for part in zip(*parts, strict=True))
    torch.testing.assert_close(total / weight, losses.cross_entropy(logits, labels, 255, weights))
    own = torch.rand(labels.shape)
    parts = [losses.cross_entropy_parts(logits[i], labels[i], pixel_weights=own[i]) for i in (slice(0, 1), slice(1, 3))]
    total, weight = (sum(part) for part in zip(*parts, strict=True))
    torch.testing.assert_close(total / weight, losses.cross_entropy(logits, labels, pixel_weights=own))


def test_half_precision_is_computed_in_single():
    logits, labels = batch()
    loss = losses.cross_entropy(logits.bfloat16() * 50, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.bfloat16().float() * 50, labels, ignore_index=255),
                               rtol=1e-2, atol=0)


def test_nothing_labelled_is_no_number():
    assert losses.cross_entropy(torch.zeros(1, 2, 3, 3), torch.full((1, 3, 3), 255)).isnan()


@pytest.mark.parametrize(("label", "words"), [
    (5, "hold 5, but the network gives 5 classes, 0..4, and void is 255"), (254, "hold 254"), (-1, "hold -1"),
])
def test_a_label_out_of_range_is_named(label, words):
    logits, labels = batch()
    labels[1, 2, 3] = label
    with pytest.raises(ValueError, match=words):
        losses.cross_entropy(logits, labels)


@pytest.mark.parametrize(("labels", "void", "extent"), [
    ([3, 255, 1], 255, (1, 3)), ([3, 1], 255, (1, 3)), ([0, 3, 1], 0, (1, 3)), ([3, 2, 1], 2, (1, 3)), ([], 255, None),
    ([255, 255], 255, None), ([4, 4, 255], 255, (4, 4)), ([-1, 5, -1], -1, (5, 5)), ([-3, 255], 255, (-3, -3)),
])
@pytest.mark.parametrize("kind", [torch.int64, torch.int16])
def test_the_range_of_labels_leaves_void_out(labels, void, extent, kind):
    assert losses.label_range(torch.tensor(labels, dtype=kind), void) == extent


@pytest.mark.parametrize(("logits", "labels", "weights", "words"), [
    (torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.long), None, r"but got \(2, 1, 4, 4\)"),
    (torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, dtype=torch.long), None, "of the same size"),
    (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), None, "of the same size"),
    ({"out": torch.zeros(2, 3, 4, 4)}, torch.zeros(2, 4, 4, dtype=torch.long), None, "gave a dict"),
    (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), torch.ones(4), "one a class"),
])
def test_what_does_not_fit_is_said_in_words(logits, labels, weights, words):
    with pytest.raises(ValueError, match=words):
        losses.cross_entropy_parts(logits, labels, 255, weights)


def test_pixel_weights_are_one_a_label():
    logits, labels = batch()
    with pytest.raises(ValueError, match=r"pixel_weights are one a label, \(3, 7, 6\), but got \(7, 6\)"):
        losses.cross_entropy(logits, labels, pixel_weights=torch.ones(7, 6))


def test_weights_by_median_frequency_as_in_the_paper():
    # class 0: 90 + 60 of 200 pixels; class 1: 10 of the 100 of the first image; class 2: 40 of the second's; 3: none
    counts = torch.tensor([[90, 10, 0, 0], [60, 0, 40, 0]])
    frequency = torch.tensor([0.75, 0.1, 0.4])                               # the median is 0.4
    torch.testing.assert_close(losses.class_weights(counts), torch.cat([0.4 / frequency, torch.ones(1)]))


def test_one_count_over_a_data_set_is_one_image():
    torch.testing.assert_close(losses.class_weights(torch.tensor([6, 2, 4])), torch.tensor([4 / 6, 2.0, 1.0]))


@pytest.mark.parametrize("counts", [torch.zeros(3), torch.tensor([1, -1, 3]), torch.tensor(4)])
def test_counts_that_cannot_be(counts):
    with pytest.raises(ValueError, match="counts are pixels of each class"):
        losses.class_weights(counts)


def borders(mask, w0, sigma):
    """Equation 2 of U-Net's paper as it stands: for each pixel of background the distance to every cell."""
    cells = instances.label(mask)
    weights = torch.zeros(mask.shape, dtype=torch.float64)
    places = [torch.nonzero(cells == number).double() for number in range(1, cells.max() + 1)]
    for pixel in torch.nonzero(mask != 1):
        away = sorted((pixel - place).norm(dim=1).min().item() for place in places)
        if len(away) > 1:
            weights[tuple(pixel)] = w0 * torch.tensor(-((away[0] + away[1]) ** 2) / (2 * sigma**2)).exp()
    return weights.float()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("w0", "sigma"), [(10, 5), (4, 1.5)])
def test_borders_weigh_as_in_the_paper(seed, w0, sigma):
    chance = torch.rand(1, 1, 15, 18, generator=torch.Generator().manual_seed(seed))
    mask = (F.interpolate(chance, (30, 36), mode="bilinear")[0, 0] < 0.42).long()
    mask[0, :3], mask[-4:, -2:] = 255, 2                                     # neither void nor another class is a cell
    expected = borders(mask, w0, sigma)
    weights = losses.border_weights(mask, w0, sigma)
    assert weights.dtype == torch.float32 and weights.shape == mask.shape
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=w0 / 2900)
    assert weights.max() > 0.2 * w0 and not weights[mask == 1].any()


def test_a_border_between_two_pixels_by_hand():
    mask = torch.tensor([[1, 0, 0, 1, 0]])
    expected = torch.tensor([[0, 1 + 2, 2 + 1, 0, 1 + 4]])                   # d1 + d2
    expected = torch.where(mask == 1, 0, 10 * torch.exp(-(expected**2) / 50))
    torch.testing.assert_close(losses.border_weights(mask), expected)
    for other in (mask.numpy(), mask.bool(), mask.to(torch.uint8), torch.stack([mask, mask], 2)[..., 0]):
        assert torch.equal(losses.border_weights(other), losses.border_weights(mask))


def test_one_cell_has_no_border_and_none_neither():
    assert not losses.border_weights(torch.tensor([[0, 1, 1, 0]])).any()
    assert not losses.border_weights(torch.zeros(5, 5, dtype=torch.long)).any()


@pytest.mark.parametrize(("mask", "settings"), [
    (torch.zeros(1, 4, 4, dtype=torch.long), {}), (torch.zeros(4, 4), {}),
    (torch.zeros(4, 4, dtype=torch.long), {"sigma": 0}), (torch.zeros(4, 4, dtype=torch.long), {"w0": -1}),
    (torch.zeros(4, 4, dtype=torch.long), {"sigma": float("inf")}), (torch.zeros(4, 0, dtype=torch.long), {}),
    (torch.zeros(4, 4, dtype=torch.long), {"w0": float("nan")}),
])
def test_border_weights_that_cannot_be(mask, settings):
    with pytest.raises(ValueError, match="border_weights takes labels"):
        losses.border_weights(mask, **settings)
