"""Exercises of lesson 01, what segmentation is: scores, and how they mislead."""

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "What segmentation is"
NAN = float("nan")


def _counts() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    square = torch.randint(0, 50, (3, 3), generator=generator)
    absent = torch.tensor([[40, 2, 0, 1], [5, 30, 0, 0], [0, 0, 0, 0], [3, 0, 0, 9]])
    invented = torch.tensor([[40, 2, 3], [5, 30, 1], [0, 0, 0]])
    missed = torch.tensor([[8, 1, 0], [6, 0, 0], [0, 0, 0]])
    return [(square,), (absent,), (invented,), (missed,)]


def _ratio(top, bottom, empty=NAN):
    return torch.where(bottom > 0, top / bottom, torch.tensor(empty, dtype=torch.float64))


def _sums(counts):
    counts = counts.double()
    return counts.diagonal(), counts.sum(0), counts.sum(1)  # right, predicted, true


def _iou(counts, empty=NAN):
    right, predicted, true = _sums(counts)
    return _ratio(right, predicted + true - right, empty)


def _loop_iou(counts):
    """Divides first, and so gives 0 / 0 a number."""
    right, predicted, true = _sums(counts)
    return right / (predicted + true - right).clamp(min=1)


@exercise(
    "Write the IoU of every class from a confusion matrix",
    hints=(
        "For class c: what is right is counts[c, c]. All that is truly c is row c; all that was called c is column c.",
        "Row plus column counts the right pixels twice. The union holds them once: row + column - right.",
        "right = counts.diagonal(); right / (counts.sum(0) + counts.sum(1) - right). In torch 0 / 0 is NaN, just what an absent class wants.",
    ),
    cases=_counts,
    mistakes={
        "You divided by row + column, so the right pixels are counted twice in the union. Take them off once.": lambda counts: (
            _ratio(_sums(counts)[0], _sums(counts)[1] + _sums(counts)[2])
        ),
        "That is Dice: the right pixels count double in it. IoU has them once above and once below.": lambda counts: (
            _ratio(2 * _sums(counts)[0], _sums(counts)[1] + _sums(counts)[2])
        ),
        "That is recall: you divided by what is truly c alone. Pixels wrongly *called* c must count against it too.": lambda counts: (
            _ratio(_sums(counts)[0], _sums(counts)[2])
        ),
        "That is precision: you divided by what was called c alone. Pixels of c that were *missed* must count against it too.": lambda counts: (
            _ratio(_sums(counts)[0], _sums(counts)[1])
        ),
        "A class that occurs neither in the truth nor in the prediction has no IoU. You gave it 0, as if it had been missed: use NaN.": _loop_iou,
        "A class that occurs neither in the truth nor in the prediction has no IoU. You gave it 1, a prize for an empty class: use NaN.": lambda counts: (
            _iou(counts, 1.0)
        ),
        "A class that is predicted and never true has an IoU of 0: it was invented. NaN is for a class that occurs in neither.": lambda counts: (
            torch.where(counts.sum(1) > 0, _iou(counts), NAN)
        ),
        "That is one number, the mean. Here each class is asked for.": lambda counts: _iou(counts).nanmean(),
        "Those are the errors' share of the union, 1 - IoU.": lambda counts: 1 - _iou(counts),
    },
    praise="Intersection over union, from counts alone. No image was needed.",
)
def class_iou(counts):
    """counts (C, C), rows: truth, columns: prediction -> IoU of each class (C,); NaN for a class that occurs in neither."""
    right = counts.diagonal().double()
    return right / (counts.sum(0) + counts.sum(1) - right)


def _per_image_counts() -> list[tuple]:
    generator = torch.Generator().manual_seed(2)
    random = [torch.randint(0, 30, (3, 3), generator=generator) for _ in range(4)]
    lopsided = [
        torch.tensor([[9000, 0], [10, 0]]),
        torch.tensor([[100, 20], [60, 800]]),
        torch.tensor([[50, 0], [0, 0]]),
    ]
    return [(random,), (lopsided,), ([torch.tensor([[5, 2, 0], [1, 9, 0], [0, 0, 0]])] * 2,)]


@exercise(
    "Score a whole data set",
    hints=(
        "Each image has its own confusion matrix. Which comes first, adding or dividing?",
        "Add all the matrices: that is the matrix of one very large image. Then IoU, then the mean over the classes that occur.",
        "`total = sum(matrices)`, your class_iou(total), then .nanmean().",
    ),
    cases=_per_image_counts,
    mistakes={
        "You took the mean IoU of each image and averaged those. An image with two pixels of a pole then weighs as much as one with "
        "thousands. Add the counts first, divide once.": lambda matrices: torch.stack(
            [_iou(m).nanmean() for m in matrices]
        ).nanmean(),
        "You averaged each class's IoU over the images, then over the classes. Still division before addition: add the counts first.": lambda matrices: (
            torch.stack([_iou(m) for m in matrices]).nanmean(0).nanmean()
        ),
        "That is pixel accuracy over the data set: the large classes drown the small. Every class should weigh the same.": lambda matrices: (
            sum(matrices).diagonal().sum() / sum(matrices).sum()
        ),
        "An absent class came in as 0 and pulled the mean down. Leave NaN out: nanmean.": lambda matrices: (
            torch.nan_to_num(_iou(sum(matrices)), 0.0).mean()
        ),
        "An absent class makes your whole mean NaN. Average over the classes that occur: nanmean.": lambda matrices: (
            _iou(sum(matrices)).mean()
        ),
        "Those are the IoUs of all classes, rightly added first. Now take their mean.": lambda matrices: _iou(sum(matrices)),
        "An absent class came in as 1 and lifted the mean. Leave NaN out: nanmean.": lambda matrices: (
            torch.nan_to_num(_iou(sum(matrices)), 1.0).mean()
        ),
        "That is the mean IoU of the last image alone.": lambda matrices: _iou(matrices[-1]).nanmean(),
        "You weighted the classes by how often they occur: that is frequency-weighted IoU. In mean IoU each class has one vote.": lambda matrices: (
            (torch.nan_to_num(_iou(sum(matrices))) * sum(matrices).sum(1) / sum(matrices).sum()).sum()
        ),
    },
    praise="Add first, divide once: the order in which the benchmarks do it.",
)
def dataset_mean_iou(matrices):
    """matrices: one confusion matrix (C, C) for each image -> the mean IoU of the data set, one number."""
    total = sum(matrices)
    right = total.diagonal().double()
    iou = right / (total.sum(0) + total.sum(1) - right)
    return iou.nanmean()


def _tables() -> list[tuple]:
    generator = torch.Generator().manual_seed(4)
    return [
        (torch.randint(0, 90, (4, 4), generator=generator),),
        (torch.tensor([[50, 900], [10, 40]]),),
        (torch.tensor([[5, 0, 0], [70, 1, 2], [3, 4, 9]]),),
    ]


@exercise(
    "How accurate is a network that has not looked?",
    hints=(
        "A network that paints everything in one class is right wherever that class is the truth.",
        "How many pixels truly are of class c? The sum of row c. Which c should a lazy network choose?",
        "counts.sum(1).max() / counts.sum()",
    ),
    cases=_tables,
    mistakes={
        "That is the network's own accuracy, from the diagonal. The blind one never looked: only the truth's shares matter.": lambda counts: (
            counts.diagonal().sum() / counts.sum()
        ),
        "You summed columns: what was *predicted*. The truth is in the rows.": lambda counts: (
            counts.sum(0).max() / counts.sum()
        ),
        "That is 1 / C, a guess among equally frequent classes. These are not equally frequent.": lambda counts: (
            1 / len(counts)
        ),
        "Those are the shares of all classes. One number is asked for: the largest of them.": lambda counts: counts.sum(1) / counts.sum(),
        "The largest number on the diagonal says what *this* network got right. The blind one is right on a whole row.": lambda counts: (
            counts.diagonal().max() / counts.sum()
        ),
        "That is a number of pixels. Divide by all of them.": lambda counts: counts.sum(1).max(),
        "You chose the rarest class. A lazy network chooses the most frequent.": lambda counts: (
            counts.sum(1).min() / counts.sum()
        ),
        "That is *which* class it would paint. How often would it be right?": lambda counts: counts.sum(1).argmax(),
    },
    praise="Put this number beside every pixel accuracy you read.",
)
def blind_accuracy(counts):
    """counts (C, C), rows: truth -> the best pixel accuracy of a prediction that is one class everywhere."""
    return counts.sum(1).max() / counts.sum()


def _shapes() -> list[tuple]:
    blob = torch.zeros(14, 16, dtype=torch.bool)
    blob[3:11, 2:12] = True
    corner = torch.zeros(14, 16, dtype=torch.bool)
    corner[:6, :9] = True
    ell = torch.zeros(14, 16, dtype=torch.bool)
    ell[2:12, 3:8] = ell[7:12, 3:14] = True
    everything = torch.ones(14, 16, dtype=torch.bool)
    return [(blob, blob.roll(1, 1), 1), (blob, ell, 2), (corner, blob, 2), (everything, corner, 3), (ell, ell.roll(1, 0), 2)]


def _band(mask, width, pad=1.0):
    outside = F.pad(1 - mask.float()[None, None], [width] * 4, value=pad)
    return mask & (F.max_pool2d(outside, 2 * width + 1, stride=1)[0, 0] > 0)


def _overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@exercise(
    "Score two masks along their contours",
    hints=(
        "Which pixels of each mask count? Those of its band. What do you do with two sets of pixels?",
        "Take the band of each mask by itself. Then IoU: what is in both bands, over what is in either.",
        "a, b = band(truth, width), band(guess, width); then (a & b).sum() / (a | b).sum().",
    ),
    cases=_shapes,
    mistakes={
        "That is the IoU of the whole masks. Their insides drown the contour: take the bands first.": lambda t, g, w: _overlap(t, g),
        "You looked at both masks inside the truth's band. The guess has a contour of its own: take its own band.": lambda t, g, w: (
            _overlap(t & _band(t, w), g & _band(t, w))
        ),
        "You divided by the truth's band alone: band pixels of the guess that lie elsewhere must count against it.": lambda t, g, w: (
            (_band(t, w) & _band(g, w)).sum() / _band(t, w).sum()
        ),
        "That is Dice: what is in both bands counts double. IoU has it once above and once below.": lambda t, g, w: (
            2 * (_band(t, w) & _band(g, w)).sum() / (_band(t, w).sum() + _band(g, w).sum())
        ),
        "You took the bands of the intersection and of the union. First the band of each mask, then intersection and union.": lambda t, g, w: (
            _band(t & g, w).sum() / _band(t | g, w).sum()
        ),
        "Your bands are one pixel too wide.": lambda t, g, w: _overlap(_band(t, w + 1), _band(g, w + 1)),
        "Your bands are one pixel wide, whatever the width.": lambda t, g, w: _overlap(_band(t, 1), _band(g, 1)),
        "You forgot that the edge of the image is contour, too: beyond it nothing is in the mask.": lambda t, g, w: (
            _overlap(_band(t, w, 0.0), _band(g, w, 0.0))
        ),
        "That is the number of band pixels in both. Divide by those in either.": lambda t, g, w: (_band(t, w) & _band(g, w)).sum(),
        "You compared what is left *without* the bands. Boundary IoU keeps the bands.": lambda t, g, w: (
            _overlap(t & ~_band(t, w), g & ~_band(g, w))
        ),
    },
    praise="One shift of a pixel, and this score notices.",
)
def boundary_iou(truth, guess, width):
    """truth, guess: bool (H, W) -> the IoU of their contour bands, `width` pixels wide."""

    def band(mask):
        outside = F.pad((~mask).float()[None, None], [width] * 4, value=1.0)
        return mask & (F.max_pool2d(outside, 2 * width + 1, stride=1)[0, 0] > 0)

    in_both = (band(truth) & band(guess)).sum()
    return in_both / (band(truth) | band(guess)).sum()


EXERCISES = {item.name: item for item in (class_iou, blind_accuracy, boundary_iou, dataset_mean_iou)}
