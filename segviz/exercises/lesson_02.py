"""Exercises of lesson 02, a fully connected layer is a convolution."""

import torch
from torch import nn

from segviz.exercises.engine import exercise

TITLE = "A fully connected layer is a convolution"


@exercise(
    "Count the answers along one side",
    hints=(
        "Put the first window at 0. How far can it move before its end leaves the image?",
        "It can move size - window pixels, in steps of `stride`. A step that does not fit whole is not taken. Then count the start, too.",
        "(size - window) // stride + 1",
    ),
    cases=lambda: [(96, 40, 8), (40, 40, 8), (100, 40, 8), (41, 40, 1), (37, 10, 3), (224, 224, 32), (500, 224, 32)],
    mistakes={
        "You forgot the window at the start: moving 0 times already gives one answer. Add 1.": lambda s, w, t: (
            (s - w) // t
        ),
        "You counted steps over the whole size, but the window must stay inside: only size - window is left to move.": lambda s, w, t: (
            s // t
        ),
        "You laid windows side by side. They overlap: each moves by the stride, not by its own size.": lambda s, w, t: (
            s // w
        ),
        "You moved one pixel at a time. The network halves its map several times, so its window moves by the stride.": lambda s, w, t: (
            s - w + 1
        ),
        "A fraction of a window gives no answer: round down, with //.": lambda s, w, t: (s - w) / t + 1,
        "You rounded up: a last window that sticks out of the image is not computed. Round down.": lambda s, w, t: (
            -(-(s - w) // t) + 1
        ),
        "You wrote 40 and 8, the numbers of this lesson's network. Use the arguments: they are others in each case.": lambda s, w, t: (
            (s - 40) // 8 + 1
        ),
        "That is the number of answers on the whole map. Asked for: along one side.": lambda s, w, t: ((s - w) // t + 1) ** 2,
        "You subtracted the strides before you divided: (size - window) needs its brackets.": lambda s, w, t: s - w // t + 1,
        "The 1 belongs outside: first count whole moves, (size - window) // stride, then add the start.": lambda s, w, t: (
            (s - w + 1) // t
        ),
        "That is one answer too many: (size - window) // stride counts the moves; add the start once.": lambda s, w, t: (
            (s - w) // t + 2
        ),
    },
    praise="The same formula gives the output size of every convolution without padding.",
)
def window_count(size, window, stride):
    """How many windows of `window` pixels, `stride` apart, fit whole into `size` pixels."""
    return (size - window) // stride + 1


def _matrices() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(n, c * k * k, generator=generator), c, k)
        for n, c, k in ((4, 3, 2), (5, 2, 3), (2, 6, 4), (7, 5, 1), (3, 3, 3))
    ]


@exercise(
    "Fold the matrix back into filters",
    hints=(
        "Row n of the matrix becomes filter n. `flatten` had laid the numbers out channel by channel, each row by row.",
        "A convolution's weights are (out_channels, in_channels, height, width). Which of the sizes do you know?",
        "matrix.view(len(matrix), channels, k, k)",
    ),
    cases=_matrices,
    mistakes={
        "The channels came last. In PyTorch a filter is (channels, height, width), and flatten laid the channels out first.": lambda m, c, k: (
            m.reshape(len(m), k, k, c)
        ),
        "Right shape, wrong order: you read the numbers as if channels varied fastest. flatten on (C, k, k) lays out channel after channel.": lambda m, c, k: (
            m.reshape(len(m), k, k, c).permute(0, 3, 1, 2)
        ),
        "Rows and columns have changed places inside each filter.": lambda m, c, k: m.reshape(
            len(m), c, k, k
        ).transpose(2, 3),
        "The filters are turned by 180 degrees. Deep learning's convolution does not turn its kernel (it is a cross-correlation).": lambda m, c, k: (
            m.reshape(len(m), c, k, k).flip(2, 3)
        ),
        "You transposed the matrix first. One *row* of it is one filter.": lambda m, c, k: m.T.reshape(len(m), c, k, k),
        "Output and input channels have changed places: (out, in, k, k).": lambda m, c, k: m.reshape(
            len(m), c, k, k
        ).transpose(0, 1),
        "The filters are still flat: fold the last dimension into k rows and k columns.": lambda m, c, k: m.reshape(
            len(m), c, k * k
        ),
    },
    praise="No number changed: the matrix *was* a stack of filters.",
)
def fold_matrix(matrix, channels, k):
    """matrix (N, channels * k * k), which read a flattened (channels, k, k) map -> filters (N, channels, k, k)."""
    return matrix.view(len(matrix), channels, k, k)


@exercise(
    "Find the window behind an answer",
    hints=(
        "Answer (0, 0) looked at rows 0 to window - 1. One row further down, where does the window begin?",
        "The window of row r begins at r * stride and is `window` long.",
        "(row * stride, column * stride, row * stride + window, column * stride + window)",
    ),
    cases=lambda: [(0, 0, 40, 8), (3, 5, 40, 8), (7, 2, 40, 8), (4, 1, 10, 3), (2, 9, 224, 32)],
    mistakes={
        "Your windows do not overlap: they are moved by their own size. Neighbouring answers are only `stride` apart.": lambda r, c, w, s: (
            r * w,
            c * w,
            r * w + w,
            c * w + w,
        ),
        "Your windows are only as large as the stride. They are that far apart, but each sees `window` pixels.": lambda r, c, w, s: (
            r * s,
            c * s,
            r * s + s,
            c * s + s,
        ),
        "Rows and columns have changed places: top comes from the row, left from the column.": lambda r, c, w, s: (
            c * s,
            r * s,
            c * s + w,
            r * s + w,
        ),
        "The last pixel is included in your bottom and right: here they are one past the end, as in Python's slices.": lambda r, c, w, s: (
            r * s,
            c * s,
            r * s + w - 1,
            c * s + w - 1,
        ),
        "You centred the window on row * stride. Without padding, the *first* pixel of the window lies there.": lambda r, c, w, s: (
            r * s - w // 2,
            c * s - w // 2,
            r * s + w // 2,
            c * s + w // 2,
        ),
        "You gave height and width at the end. Asked for: the first row and column beyond the window.": lambda r, c, w, s: (
            r * s,
            c * s,
            w,
            w,
        ),
        "The right numbers in another order. Asked for: top, left, bottom, right.": lambda r, c, w, s: (
            r * s, r * s + w, c * s, c * s + w
        ),
        "You wrote 40 and 8, the numbers of this lesson's network. Use the arguments: they are others in each case.": lambda r, c, w, s: (
            r * 8, c * 8, r * 8 + 40, c * 8 + 40
        ),
        "The stride is missing: answer r does not look at row r but at row r * stride and on.": lambda r, c, w, s: (
            r,
            c,
            r + w,
            c + w,
        ),
    },
    praise="This is a receptive field. Lesson 03 computes it for any network.",
)
def window_of(row, column, window, stride):
    """(top, left, bottom, right) of the pixels that answer (row, column) has looked at; bottom and right are exclusive."""
    return row * stride, column * stride, row * stride + window, column * stride + window


def _heads() -> list[tuple]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return [
            (nn.Sequential(nn.Flatten(), nn.Linear(channels * k * k, 6), nn.ReLU(), nn.Linear(6, classes)), channels, k)
            for channels, k, classes in ((4, 3, 5), (8, 2, 3), (2, 5, 7))
        ]


def _answers(network, head, channels, k) -> torch.Tensor:
    """What a converted head says on a map of its own size, and on a larger one."""
    if not callable(network):
        raise TypeError("what you returned cannot be called on a map. Return a network, e.g. nn.Sequential(...)")
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(size, generator=generator) for size in ((1, channels, k, k), (2, channels, k + 3, k + 5))]
    with torch.no_grad():
        outputs = [network(x) for x in maps]
    wrong = [getattr(output, "shape", type(output).__name__) for output in outputs if getattr(output, "ndim", 0) != 4]
    if wrong:
        raise ValueError(f"expected scores (B, classes, h, w), but got {wrong[0]}")
    return torch.cat([output.flatten() for output in outputs])


def _convs(head, channels, k, permute=(0, 1, 2, 3), relu=True, bias=True, flip=False, padding=0) -> nn.Sequential:
    """A converted head: the right one, or with one thing wrong."""
    first, last = head[1], head[3]
    a = nn.Conv2d(channels, first.out_features, k, padding=padding)
    b = nn.Conv2d(first.out_features, last.out_features, 1)
    with torch.no_grad():
        weight = first.weight.view(a.weight.shape).permute(permute)
        a.weight.copy_(weight.flip(2, 3) if flip else weight)
        b.weight.copy_(last.weight[:, :, None, None])
        a.bias.copy_(first.bias * bias)
        b.bias.copy_(last.bias * bias)
    return nn.Sequential(a, *[nn.ReLU()] * relu, b)


def _new_weights(head, channels, k) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(channels, head[1].out_features, k),
            nn.ReLU(),
            nn.Conv2d(head[1].out_features, head[3].out_features, 1),
        )


@exercise(
    "Make a whole classifier head convolutional",
    hints=(
        "The head is Flatten, Linear, ReLU, Linear. The first Linear reads a k x k map. What does the second one read?",
        "The second Linear reads one vector at one place: a 1 x 1 convolution. The ReLU stays. Flatten goes.",
        "segviz.layers.linear_to_conv(head[1], k) and linear_to_conv(head[3], 1), with an nn.ReLU() between, in an nn.Sequential.",
    ),
    cases=_heads,
    observe=_answers,
    mistakes={
        "The ReLU between the two layers is missing.": lambda h, c, k: _convs(h, c, k, relu=False),
        "The biases are missing: copy them over, too.": lambda h, c, k: _convs(h, c, k, bias=False),
        "The layers have the right shapes and *new* random weights. The trained ones must be carried over.": _new_weights,
        "Rows and columns have changed places inside the filters.": lambda h, c, k: _convs(
            h, c, k, permute=(0, 1, 3, 2)
        ),
        "The filters are turned by 180 degrees. Deep learning's convolution does not turn its kernel.": lambda h, c, k: (
            _convs(h, c, k, flip=True)
        ),
        "The first convolution pads with zeros, so it gives more answers, some from windows that stick out. The Linear never saw those: "
        "no padding.": lambda h, c, k: _convs(h, c, k, padding=k // 2),
        "There is a ReLU after the last layer too: scores may be negative.": lambda h, c, k: nn.Sequential(
            _convs(h, c, k), nn.ReLU()
        ),
    },
    praise="The same network, and it no longer minds the size of its input.",
    advice="(Compared are all scores on a map of k x k and on a larger one.) Does each convolution hold its Linear's weights, "
    "in their order, and its bias? Is there anything more in the network than two convolutions and a ReLU?",
)
def fully_convolutional(head, channels, k):
    """head: nn.Sequential(Flatten, Linear, ReLU, Linear) that read (channels, k, k) maps -> a network of convolutions with the same
    weights, which maps (B, channels, H, W) to scores (B, classes, H - k + 1, W - k + 1)."""
    hidden = nn.Conv2d(channels, head[1].out_features, k)
    scores = nn.Conv2d(head[1].out_features, head[3].out_features, 1)
    with torch.no_grad():
        hidden.weight.copy_(head[1].weight.view(hidden.weight.shape))
        hidden.bias.copy_(head[1].bias)
        scores.weight.copy_(head[3].weight.view(scores.weight.shape))
        scores.bias.copy_(head[3].bias)
    return nn.Sequential(hidden, nn.ReLU(), scores)


EXERCISES = {item.name: item for item in (fold_matrix, fully_convolutional, window_count, window_of)}
