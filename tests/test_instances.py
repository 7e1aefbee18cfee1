"""Instances: components against torch-free brute force, matches and pairs against counts by hand."""

import itertools

import numpy as np
import pytest
import torch

from segviz import instances


def flooded(mask: np.ndarray) -> list[set]:
    """The components of the True pixels, by the four sides, one pixel after another."""
    left, parts = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        part, todo = set(), [left.pop()]
        while todo:
            row, column = todo.pop()
            part.add((row, column))
            beside = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & left
            left -= beside
            todo += beside
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_a_flood(seed):
    mask = torch.randint(0, 3, (23, 31), generator=torch.Generator().manual_seed(seed))
    numbers = instances.label(mask, of=2)
    parts = flooded((mask == 2).numpy())
    assert numbers.dtype == torch.int64 and numbers.max() == len(parts)
    assert {frozenset(map(tuple, torch.nonzero(numbers == n).tolist())) for n in range(1, len(parts) + 1)} == {
        frozenset(part) for part in parts}
    assert torch.equal(numbers > 0, mask == 2)


def test_a_slanting_ridge_parts_and_a_corner_does_not_connect():
    assert instances.label(torch.eye(4, dtype=torch.long)).max() == 4
    assert instances.label(1 - torch.eye(4, dtype=torch.long)).max() == 2


def blocks(*boxes, size=12) -> torch.Tensor:
    """An instance map: box n (top, left, bottom, right) holds the number n + 1."""
    numbers = torch.zeros(size, size, dtype=torch.long)
    for number, (top, left, bottom, right) in enumerate(boxes, 1):
        numbers[top:bottom, left:right] = number
    return numbers


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_found_is_a_search_over_all_pairs(seed, iou):
    generator = torch.Generator().manual_seed(seed)
    true = instances.label(torch.rand(30, 30, generator=generator) < 0.55)
    change = torch.rand(30, 30, generator=generator) < 0.04
    predicted = instances.label((true > 0) ^ change)
    expected = []
    for t in range(1, true.max() + 1):
        overlaps = [((predicted == p) & (true == t)).sum() / ((predicted == p) | (true == t)).sum()
                    for p in range(1, predicted.max() + 1)]
        expected.append(next((p for p, overlap in enumerate(overlaps, 1) if overlap > iou), 0))
    known = instances.found(predicted, true, iou)
    assert known.tolist() == expected and 0 < (known > 0).float().mean() < 1
    used = known[known > 0].tolist()
    assert len(used) == len(set(used))


def test_half_is_not_enough():
    true = blocks((0, 0, 4, 4))
    assert instances.found(blocks((0, 0, 2, 4)), true).tolist() == [0]          # 8 of 16
    assert instances.found(blocks((0, 0, 3, 4)), true).tolist() == [1]
    assert instances.found(blocks((0, 0, 3, 4)), true, iou=0.75).tolist() == [0]


def test_nothing_predicted_or_nothing_there():
    true, none = blocks((0, 0, 4, 4), (6, 6, 9, 9)), torch.zeros(12, 12, dtype=torch.long)
    assert instances.found(none, true).tolist() == [0, 0]
    assert instances.found(true, none).tolist() == [] and instances.touching(none).shape == (0, 2)
    assert instances.separated(true, none) == (0, 0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gap", [1, 2, 3, 40])
def test_touching_is_the_least_distance_of_all_pixels(seed, gap):
    true = instances.label(torch.rand(14, 18, generator=torch.Generator().manual_seed(seed)) < 0.3)
    places = [torch.nonzero(true == n) for n in range(1, true.max() + 1)]
    expected = [[a + 1, b + 1] for a, b in itertools.combinations(range(len(places)), 2)
                if (places[a][:, None] - places[b]).abs().amax(-1).min() <= gap]
    assert instances.touching(true, gap).tolist() == expected and expected


def test_pairs_told_apart_by_hand():
    true = blocks((0, 0, 5, 5), (0, 7, 5, 12), (7, 0, 12, 5))       # ridges of two pixels: 3 pairs, one at a corner
    assert instances.touching(true).tolist() == [[1, 2], [1, 3], [2, 3]]
    assert instances.touching(true, gap=2).tolist() == []
    assert instances.separated(true, true) == (3, 3)
    melted = blocks((0, 0, 5, 12), (7, 0, 12, 5))                    # 1 and 2 are one
    assert instances.found(melted, true).tolist() == [0, 0, 2] and instances.separated(melted, true) == (0, 3)
    missed = blocks((0, 0, 5, 5), (0, 7, 5, 12))
    assert instances.separated(missed, true) == (1, 3)
    assert instances.separated(missed, true, gap=1) == (0, 0)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: instances.label(torch.rand(4, 4)), "argmax"),
    (lambda: instances.label(torch.zeros(1, 4, 4, dtype=torch.long)), r"\(H, W\)"),
    (lambda: instances.found(blocks(), blocks(), iou=0.4), r"iou lies in \[0.5, 1\)"),
    (lambda: instances.found(blocks(), blocks(size=13)), "of one size"),
    (lambda: instances.found(blocks() - 1, blocks()), "from 0 up"),
    (lambda: instances.touching(blocks(), gap=0), "gap is at least 1"),
])
def test_what_cannot_be_is_said_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
