"""Losses against torch's, and weights against numbers computed by hand."""

import pytest
import torch
import torch.nn.functional as F

from segviz import losses


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


def test_a_classifiers_too():
    logits, labels = torch.randn(8, 4), torch.arange(8) % 4
    torch.testing.assert_close(losses.cross_entropy(logits, labels), F.cross_entropy(logits, labels))


def test_parts_of_a_batch_add_up_to_its_mean():
    logits, labels = batch()
    weights = torch.rand(5) + 0.1
    parts = [losses.cross_entropy_parts(logits[i : i + 1], labels[i : i + 1], 255, weights) for i in range(3)]
    total, weight = (sum(part) for part in zip(*parts, strict=True))
    torch.testing.assert_close(total / weight, losses.cross_entropy(logits, labels, 255, weights))


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
