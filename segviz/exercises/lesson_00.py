"""Exercises of lesson 00, start here: from scores to labels, and what the labels are worth."""

import torch

from segviz.exercises.engine import exercise

TITLE = "Start here"


def _score_maps() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 4, 5), (5, 6, 6), (10, 8, 3), (2, 1, 7))
    return [(torch.randn(size, generator=generator),) for size in sizes]


@exercise(
    "Turn a network's scores into a label map",
    hints=(
        "At each pixel the network has written one score for each class. You want the *number* of the class with the highest one.",
        "A tensor has `.max` for the highest value and `.argmax` for its place. Along which dimension do the classes lie?",
        "The classes are dimension 0 of (C, H, W): `scores.argmax(0)`.",
    ),
    cases=_score_maps,
    mistakes={
        "You returned the highest *score* of each pixel. A label is the *place* of that score: argmax, not max.": lambda scores: (
            scores.max(0).values
        ),
        "max along a dimension gives two things, the values and their places (.indices). A label is the place.": lambda scores: (
            scores.max(0)
        ),
        "You took the argmax along the height. The classes lie along dimension 0.": lambda scores: scores.argmax(1),
        "You took the argmax along the width, the last dimension. The classes lie along dimension 0.": lambda scores: (
            scores.argmax(-1)
        ),
        "That is one number for the whole image: argmax without a dimension flattens first. Every pixel needs its own label.": lambda scores: (
            scores.argmax()
        ),
        "You chose the *lowest* score at each pixel: argmin instead of argmax.": lambda scores: scores.argmin(0),
        "Those are probabilities, one map for each class. The label is which of them is the highest.": lambda scores: (
            scores.softmax(0)
        ),
        "Your labels begin at 1. Class numbers begin at 0.": lambda scores: scores.argmax(0) + 1,
        "Rows and columns have changed places: the label map is (H, W), as the image.": lambda scores: (
            scores.argmax(0).T
        ),
    },
    praise="One label for each pixel. The same line stands at the end of every network in this course.",
)
def labels_from_scores(scores):
    """scores (C, H, W) -> label map (H, W): at each pixel the class with the highest score."""
    return scores.argmax(0)


def _masks() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    full = torch.randint(0, 4, (6, 8), generator=generator)
    with_void = full.clone()
    with_void[:2] = 255
    with_void[4, 3] = 0
    only_two = torch.where(full > 1, 2, 0)
    only_two[0, :3] = 255
    return [(full, 4), (with_void, 4), (only_two, 5), (torch.full((3, 3), 1), 2)]


@exercise(
    "Measure how much of a label map each class covers",
    hints=(
        "How many pixels hold label 0? `(mask == 0).sum()`. And out of how many? Void pixels have no known class: they do not count.",
        "Take the known pixels first: `known = mask[mask != 255]`. Then one share for each class from 0 to num_classes - 1.",
        "`torch.bincount(known, minlength=num_classes)` counts all classes at once, absent ones too.",
    ),
    cases=_masks,
    mistakes={
        "Your shares do not add up to 1, because void pixels are among those you divide by. Nobody knows their class: leave them out.": lambda mask, num_classes: [
            (mask == c).float().mean() for c in range(num_classes)
        ],
        "255 was counted as a class, so your list goes on up to it. Void is no class: drop those pixels first.": lambda mask, num_classes: (
            torch.bincount(mask.flatten(), minlength=num_classes) / mask.numel()
        ),
        "Those are pixel counts. Divide by the number of pixels that are not void.": lambda mask, num_classes: [
            (mask == c).sum() for c in range(num_classes)
        ],
        "Void was counted as class 0. It is no class: leave those pixels out.": lambda mask, num_classes: (
            torch.bincount(mask.masked_fill(mask == 255, 0).flatten(), minlength=num_classes) / mask.numel()
        ),
        "Void was counted as the last class. It is no class: leave those pixels out.": lambda mask, num_classes: (
            torch.bincount(mask.clamp(max=num_classes - 1).flatten(), minlength=num_classes) / mask.numel()
        ),
        "Those are per cent: shares lie between 0 and 1.": lambda mask, num_classes: (
            100 * torch.bincount(mask[mask != 255], minlength=num_classes) / (mask != 255).sum()
        ),
        "A class that does not occur has share 0, and its place in the list: give one number for each of num_classes.": lambda mask, num_classes: (
            mask[mask != 255].unique(return_counts=True)[1] / (mask != 255).sum()
        ),
        "You said which classes occur, 1 or 0. How much of the map does each cover?": lambda mask, num_classes: [
            (mask == c).any() for c in range(num_classes)
        ],
    },
    praise="Remember these shares: lesson 01 shows what they do to a score.",
)
def class_shares(mask, num_classes):
    """mask (H, W), 255 = void -> num_classes shares of the pixels that are not void; they add up to 1."""
    known = mask[mask != 255]
    return torch.bincount(known, minlength=num_classes) / len(known)


EXERCISES = {item.name: item for item in (labels_from_scores, class_shares)}
