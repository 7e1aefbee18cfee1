"""Exercises of lesson 05, checkerboards."""

import math

import torch
import torch.nn.functional as F

from segviz.exercises.answers import Mismatch
from segviz.exercises.engine import exercise

TITLE = "Checkerboards"


# -- overlap_counts(inputs, k, s)


def _side_by_side(inputs, k, s):
    return [1] * (inputs * k)


def _one_further(inputs, k, s):
    return overlap_counts.reference(inputs, k, 1)


def _painted_or_not(inputs, k, s):
    return [min(count, 1) for count in overlap_counts.reference(inputs, k, s)]


def _cut_off(inputs, k, s):
    return overlap_counts.reference(inputs, k, s)[: inputs * s]


def _without_the_last(inputs, k, s):
    return overlap_counts.reference(inputs, k, s)[: (inputs - 1) * s] + [0] * k


def _with_holes(inputs, k, s):
    counts = [0] * ((inputs - 1) + (k - 1) * s + 1)
    for i in range(inputs):
        for j in range(k):
            counts[i + j * s] += 1
    return counts


def _borders_forgotten(inputs, k, s):
    return [len(range(place % s, k, s)) for place in range((inputs - 1) * s + k)]


def _who_wrote_last(inputs, k, s):
    numbers = [0] * ((inputs - 1) * s + k)
    for i in range(inputs):
        for j in range(k):
            numbers[i * s + j] = i
    return numbers


@exercise(
    "Count how often each output is written to",
    hints=(
        "Take a pencil: three inputs, kernel 3, stride 2. Which three outputs does input 0 write to? And input 1?",
        "Input i writes to the outputs i * s, i * s + 1, ..., i * s + k - 1. How long is the list, then?",
        "Start with [0] * ((inputs - 1) * s + k), and add 1 at i * s + j for each input i and each j below k.",
    ),
    cases=lambda: [(5, 3, 2), (4, 4, 2), (6, 5, 3), (1, 3, 2), (5, 2, 3), (4, 6, 2), (7, 3, 1)],
    mistakes={
        "You laid the kernels side by side. They are only s apart, so they overlap.": _side_by_side,
        "Your kernels are one output apart. Input i begins at output i * s.": _one_further,
        "You said whether an output is written to at all. Asked for: how often. Add 1 each time.": _painted_or_not,
        "Your list is too short: the last input begins at (inputs - 1) * s and still writes k outputs.": _cut_off,
        "The last input has written nothing.": _without_the_last,
        "The stride spreads the *inputs*: input i writes to i * s + j. You spread the kernel, i + j * s, which is dilation.": _with_holes,
        "That is the count far from both ends. At the ends fewer inputs reach an output.": _borders_forgotten,
        "You stored the number of the input that wrote last. Asked for: how many wrote.": _who_wrote_last,
    },
    praise="This list is the whole theory of the checkerboard, as long as all weights are alike.",
    advice="Try three inputs, kernel 3, stride 2, on paper: 1 1 2 1 2 1 1.",
)
def overlap_counts(inputs, k, s):
    """How many of the `inputs` of a 1-D transposed convolution (kernel k, stride s, no padding) write to each of its
    outputs: a list of (inputs - 1) * s + k counts."""
    counts = [0] * ((inputs - 1) * s + k)
    for i in range(inputs):
        for j in range(k):
            counts[i * s + j] += 1
    return counts


# -- even_kernel(k, s)


def _rounded_down(k, s):
    return k // s * s


def _always_one_more(k, s):
    return (k // s + 1) * s


def _nearest(k, s):
    return max(s, round(k / s) * s)


def _rest_added(k, s):
    return k + k % s


def _next_even_number(k, s):
    return k + k % 2


def _stride_itself(k, s):
    return max(k, s)


def _common_multiple(k, s):
    return math.lcm(k, s)


def _bilinear_size(k, s):
    return 2 * s - s % 2


def _yes_or_no(k, s):
    return k % s == 0


@exercise(
    "Find the next kernel with even overlap",
    hints=(
        "Look at your counts for stride 2: for which kernels do all outputs in the middle have the same number?",
        "The overlap is even where s divides k. So: the smallest multiple of s that is not below k.",
        "Divide and round up, then multiply: -(-k // s) * s",
    ),
    cases=lambda: [(3, 2), (4, 2), (5, 3), (2, 3), (1, 4), (10, 4), (64, 32), (7, 1)],
    mistakes={
        "You rounded down: that kernel is smaller than k, and for k < s it is nothing.": _rounded_down,
        "Where s divides k already, k itself is the answer.": _always_one_more,
        "You took the nearest multiple of s. It may lie below k: round up.": _nearest,
        "k % s is what k has too much, not what it lacks to the next multiple.": _rest_added,
        "Even overlap, not an even number: with stride 3 the kernel must be divisible by 3.": _next_even_number,
        "A kernel that is as large as the stride leaves no hole, but its overlap need not be even.": _stride_itself,
        "The least common multiple divides by s, but k has no need to divide it: it is often too large.": _common_multiple,
        "That is the size of a bilinear kernel. Asked for: the smallest one from k up with even overlap.": _bilinear_size,
        "You said whether k itself overlaps evenly, which is the right test. Asked for: a kernel size, the first from k up "
        "that passes it.": _yes_or_no,
    },
    praise="Even overlap costs a few weights. What it buys, you are about to measure.",
)
def even_kernel(k, s):
    """The smallest kernel size from `k` up with which a transposed convolution of stride `s` overlaps evenly."""
    return -(-k // s) * s


# -- phase_tile(values, s)


def _maps() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((8, 8, 2), (6, 9, 3), (8, 12, 4), (10, 4, 2), (3, 3, 1))
    return [(torch.rand(height, width, generator=generator), s) for height, width, s in sizes]


def _quarters(values, s):
    height, width = values.shape
    return values.reshape(s, height // s, s, width // s).mean((1, 3))


def _first_tile(values, s):
    return values[:s, :s]


def _tile_by_tile(values, s):
    return F.avg_pool2d(values[None], s)[0]


def _transposed_tile(values, s):
    return phase_tile.reference(values, s).T


def _sums(values, s):
    return phase_tile.reference(values, s) * values.numel() / s**2


def _one_late(values, s):
    return phase_tile.reference(values, s).roll((-1, -1), (0, 1))


def _middle_value(values, s):
    return torch.stack([torch.stack([values[r::s, c::s].median() for c in range(s)]) for r in range(s)])


def _mean_removed(values, s):
    return phase_tile.reference(values, s) - values.mean()


@exercise(
    "Average a map by phase",
    hints=(
        "With s = 2 there are four kinds of pixels: even or odd row, even or odd column. What is the mean of each kind?",
        "values[r::s, c::s] are the pixels whose row is r modulo s and whose column is c modulo s.",
        "Two loops over r and c, and values[r::s, c::s].mean() into tile[r, c].",
    ),
    cases=_maps,
    mistakes={
        "You cut the map into s x s large pieces. Take every s-th pixel instead: values[r::s, c::s].": _quarters,
        "That is the first tile alone. Average it with all the others.": _first_tile,
        "You averaged inside each s x s block, which is just what hides a checkerboard. Average the same place of all blocks.": _tile_by_tile,
        "Rows and columns have changed places.": _transposed_tile,
        "You added and did not divide: a mean is asked for.": _sums,
        "Your tile begins one pixel late: tile[0, 0] belongs to the pixels with row and column 0 modulo s.": _one_late,
        "That is the median of each phase. The mean is asked for.": _middle_value,
        "Leave the map's mean in: the tile holds the means themselves.": _mean_removed,
    },
    praise="What is in the picture averages out; what repeats every s pixels stays.",
)
def phase_tile(values, s):
    """values (H, W), both multiples of s -> (s, s): in row r, column c the mean of all pixels whose row is r and whose
    column is c, modulo s."""
    tile = torch.zeros(s, s)
    for r in range(s):
        for c in range(s):
            tile[r, c] = values[r::s, c::s].mean()
    return tile


# -- resize_convolution(maps, weight, scale)


def _filters() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((1, 2, 3, 4, 5, 3, 2), (2, 3, 2, 5, 4, 5, 2), (1, 2, 2, 3, 4, 1, 3), (1, 1, 3, 4, 4, 3, 4))
    return [
        (torch.randn(b, c, h, w, generator=generator), torch.randn(d, c, k, k, generator=generator), scale)
        for b, c, d, h, w, k, scale in sizes
    ]


def _larger(maps, scale, mode="nearest"):
    return F.interpolate(maps, scale_factor=scale, mode=mode)


def _convolved_first(maps, weight, scale):
    return _larger(F.conv2d(maps, weight, padding=weight.shape[-1] // 2), scale)


def _zeros_between(maps, weight, scale):
    spread = torch.zeros(*maps.shape[:2], maps.shape[2] * scale, maps.shape[3] * scale)
    spread[:, :, ::scale, ::scale] = maps
    return F.conv2d(spread, weight, padding=weight.shape[-1] // 2)


def _bilinear_resize(maps, weight, scale):
    return F.conv2d(_larger(maps, scale, "bilinear"), weight, padding=weight.shape[-1] // 2)


def _no_padding(maps, weight, scale):
    return F.conv2d(_larger(maps, scale), weight)


def _copies_side_by_side(maps, weight, scale):
    return F.conv2d(maps.repeat(1, 1, scale, scale), weight, padding=weight.shape[-1] // 2)


def _turned_kernel(maps, weight, scale):
    return F.conv2d(_larger(maps, scale), weight.flip(2, 3), padding=weight.shape[-1] // 2)


def _resized_only(maps, weight, scale):
    return _larger(maps, scale)


def _not_resized(maps, weight, scale):
    return F.conv2d(maps, weight, padding=weight.shape[-1] // 2)


def _strided_transposed(maps, weight, scale):
    return F.conv_transpose2d(maps, weight.transpose(0, 1), stride=scale)


def _no_bias(output, maps, weight, scale):
    """The output itself, unless all that is wrong with it is one number added to each map."""
    expected = resize_convolution.reference(maps, weight, scale)
    if isinstance(output, torch.Tensor) and output.shape == expected.shape:
        added = output.detach().cpu() - expected
        bias = added.mean((0, 2, 3), keepdim=True)
        if bias.abs().max() > 1e-3 and torch.allclose(added, bias.expand_as(added), atol=1e-4):
            raise Mismatch("Right, but for one number that is added to each map: a bias. Leave it out (bias=False).")
    return output


@exercise(
    "Resize, then convolve",
    hints=(
        "Two steps. First make the map larger without any weights: each value becomes a scale x scale block of itself.",
        "F.interpolate(maps, scale_factor=scale, mode='nearest') does the first step. The second is an ordinary convolution "
        "with stride 1 that keeps the size.",
        "F.conv2d(F.interpolate(maps, scale_factor=scale, mode='nearest'), weight, padding=weight.shape[-1] // 2)",
    ),
    cases=_filters,
    observe=_no_bias,
    mistakes={
        "You convolved first and resized then: the output is made of blocks that nothing smooths.": _convolved_first,
        "You put zeros between the values, which is a transposed convolution. Repeat each value instead.": _zeros_between,
        "You resized bilinearly. Here each value is to be repeated: mode='nearest'.": _bilinear_resize,
        "The convolution made the map smaller: pad with k // 2 zeros, so that it keeps its size.": _no_padding,
        "You laid copies of the whole map side by side. Repeat each *value* (repeat_interleave, or interpolate).": _copies_side_by_side,
        "The kernel is turned by 180 degrees. Deep learning's convolution does not turn it.": _turned_kernel,
        "The map is larger, but nothing has been convolved.": _resized_only,
        "You convolved, but the map is as small as before.": _not_resized,
        "That is a transposed convolution. Resize first, then use an ordinary convolution.": _strided_transposed,
    },
    praise="Every output now has the same filter, at a place that the blocks decide.",
)
def resize_convolution(maps, weight, scale):
    """maps (B, C, H, W), weight (D, C, k, k) with odd k -> (B, D, H * scale, W * scale): each value repeated in a
    scale x scale block, then a convolution that keeps the size (zeros around, no bias)."""
    larger = F.interpolate(maps, scale_factor=scale, mode="nearest")
    return F.conv2d(larger, weight, padding=weight.shape[-1] // 2)


EXERCISES = {item.name: item for item in (overlap_counts, even_kernel, phase_tile, resize_convolution)}
