"""Exercises of lesson 04, making maps larger."""

import math

import torch

from segviz.exercises.engine import exercise

TITLE = "Making maps larger"


# -- bilinear_at(values, row, column)


def _corners(values, row, column):
    """The four entries around a place, and how far across and down it lies between them."""
    top, left = int(row), int(column)
    bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
    corners = values[top, left], values[top, right], values[bottom, left], values[bottom, right]
    return *corners, row - top, column - left


def _nearest_entry(values, row, column):
    return values[math.floor(row + 0.5), math.floor(column + 0.5)]


def _across_only(values, row, column):
    a, b, _, _, _, x = _corners(values, row, column)
    return a + x * (b - a)


def _down_only(values, row, column):
    a, _, c, _, y, _ = _corners(values, row, column)
    return a + y * (c - a)


def _mean_of_four(values, row, column):
    a, b, c, d, _, _ = _corners(values, row, column)
    return (a + b + c + d) / 4


def _weights_the_wrong_way(values, row, column):
    a, b, c, d, y, x = _corners(values, row, column)
    return (a * y + c * (1 - y)) * x + (b * y + d * (1 - y)) * (1 - x)


def _row_and_column_swapped(values, row, column):
    a, b, c, d, y, x = _corners(values, row, column)
    return (a * (1 - x) + c * x) * (1 - y) + (b * (1 - x) + d * x) * y


def _two_lines_added(values, row, column):
    a, b, c, _, y, x = _corners(values, row, column)
    return a + x * (b - a) + y * (c - a)


def _mean_of_two_lines(values, row, column):
    a, b, c, d, _, x = _corners(values, row, column)
    return (a + x * (b - a) + c + x * (d - c)) / 2


def _upper_left_entry(values, row, column):
    return values[int(row), int(column)]


def _maps() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.rand(shape, generator=generator) * 10 for shape in ((4, 5), (3, 3), (2, 6))]
    return [
        (torch.tensor([[0.0, 40.0], [20.0, 100.0]]), 0.6, 0.25), (maps[0], 1.25, 2.6), (maps[0], 2.0, 0.4),
        (maps[1], 0.7, 1.0), (maps[2], 0.1, 4.75), (maps[0], 3.0, 4.0), (maps[1], 2.0, 0.3), (maps[2], 0.4, 5.0),
    ]


@exercise(
    "Interpolate bilinearly, at any place",
    hints=(
        "Which four entries are the neighbours? Round the place down: row 1.25 lies between rows 1 and 2.",
        "One line across above, one across below, then one down between the two. How far along is row - 1 and column - 2. "
        "Mind the last row and column: they have no next neighbour, and need none.",
        "top, left = int(row), int(column); bottom, right = min(top + 1, H - 1), min(left + 1, W - 1); "
        "then between(above, below, row - top)",
    ),
    cases=_maps,
    mistakes={
        "You took the nearest entry. Asked for: the straight lines between the four neighbours.": _nearest_entry,
        "You drew the line across, and none down.": _across_only,
        "You drew the line down, and none across.": _down_only,
        "You took the mean of the four neighbours, wherever the place lies between them.": _mean_of_four,
        "Your weights point the wrong way: the *nearer* entry weighs more.": _weights_the_wrong_way,
        "Across and down have changed places: the row says how far down, the column how far across.": _row_and_column_swapped,
        "You added a line across and a line down. The lower right neighbour has no say: draw a line across below, too.": _two_lines_added,
        "Between the lines above and below you took the mean. How far down is the place?": _mean_of_two_lines,
        "You rounded the place down and took that entry.": _upper_left_entry,
    },
    praise="Three straight lines, at places that are whole numbers, too.",
    advice="At a whole row and column the answer is the entry itself; in the last row and column there is no next one.",
    tolerance=1e-4,
)
def bilinear_at(values, row, column):
    """The number at a place of a map (H, W), which may lie between the entries: 0 <= row <= H - 1 and
    0 <= column <= W - 1, whole or not."""
    top, left = int(row), int(column)
    bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
    across, down = column - left, row - top
    above = values[top, left] + across * (values[top, right] - values[top, left])
    below = values[bottom, left] + across * (values[bottom, right] - values[bottom, left])
    return above + down * (below - above)


# -- stamps(values, kernel, stride)


def _stamped(values, kernel, stride, write=None, place=None):
    """The right stamps, or written or placed otherwise."""
    k = len(kernel)
    output = torch.zeros([(size - 1) * stride + k for size in values.shape])
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            top, left = (row * stride, column * stride) if place is None else place(row, column, stride)
            part = output[top : top + k, left : left + k]
            stamp = values[row, column] * kernel
            part.copy_(part + stamp if write is None else write(part, stamp))
    return output


def _overwritten(values, kernel, stride):
    return _stamped(values, kernel, stride, lambda part, stamp: stamp)


def _largest_kept(values, kernel, stride):
    return _stamped(values, kernel, stride, torch.maximum)


def _turned_kernel(values, kernel, stride):
    return _stamped(values, kernel.flip(0, 1), stride)


def _mirrored_places(values, kernel, stride):
    return _stamped(values, kernel.T, stride)


def _stride_forgotten(values, kernel, stride):
    return _stamped(values, kernel, stride, place=lambda row, column, stride: (row, column))


def _side_by_side(values, kernel, stride):
    return torch.kron(values, kernel)


def _values_forgotten(values, kernel, stride):
    return _stamped(torch.ones_like(values), kernel, stride)


def _spread_only(values, kernel, stride):
    output = torch.zeros([(size - 1) * stride + len(kernel) for size in values.shape])
    output[: (len(values) - 1) * stride + 1 : stride, : (values.shape[1] - 1) * stride + 1 : stride] = values
    return output


def _cut_to_scale(values, kernel, stride):
    return _stamped(values, kernel, stride)[: len(values) * stride, : values.shape[1] * stride]


def _small_maps() -> list[tuple]:
    generator = torch.Generator().manual_seed(4)

    def numbers(*shape):
        return torch.randint(-9, 10, shape, generator=generator).float()

    sizes = ((3, 3, 3, 2), (2, 4, 2, 1), (2, 2, 3, 3), (1, 3, 4, 2), (3, 2, 2, 3))
    cases = [(numbers(h, w), numbers(k, k), stride) for h, w, k, stride in sizes]
    return [*cases, (numbers(2, 3) / 4, numbers(3, 3) / 8, 2)]


@exercise(
    "Transposed convolution by stamps",
    hints=(
        "Begin with an output of zeros. Which square of it does the input at row 1, column 2 write to?",
        "Rows row * stride to row * stride + k, and columns likewise. Add, do not overwrite.",
        "output[top:top + k, left:left + k] += values[row, column] * kernel",
    ),
    cases=_small_maps,
    mistakes={
        "Your stamps overwrite one another. Where they overlap they add up: += instead of =.": _overwritten,
        "Where stamps overlap you kept the largest number. They add up.": _largest_kept,
        "You turned the kernel. That belongs to the *other* view, where a kernel slides over zeros; a stamp is the kernel as it is.": _turned_kernel,
        "Your stamps are mirrored: rows and columns of the kernel have changed places.": _mirrored_places,
        "Your stamps lie one pixel apart. They should lie `stride` apart: row * stride, column * stride.": _stride_forgotten,
        "You laid the stamps side by side. They lie only `stride` apart, and overlap where the kernel is larger.": _side_by_side,
        "All your stamps are equally strong. Each is the kernel times its input value.": _values_forgotten,
        "You spread the inputs out and wrote one number for each. Each writes a whole kernel.": _spread_only,
        "Your output is cut: the last stamp begins at (H - 1) * stride and is k long.": _cut_to_scale,
    },
    praise="That is what nn.ConvTranspose2d does, for one channel.",
    advice="By hand: 1 and 10 in a row, kernel 1 2 / 3 4, stride 1: 1 12 20 / 3 34 40.",
)
def stamps(values, kernel, stride):
    """values (H, W), kernel (k, k) -> ((H - 1) * stride + k, (W - 1) * stride + k)."""
    (height, width), k = values.shape, len(kernel)
    output = torch.zeros((height - 1) * stride + k, (width - 1) * stride + k)
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            output[top : top + k, left : left + k] += values[row, column] * kernel
    return output


# -- transposed_size(size, kernel, stride, padding, output_padding, dilation)


def _or_zero(size, stride, output_padding, dilation):
    return 0 if output_padding >= max(stride, dilation) or size < 1 else size


def _of_a_convolution(n, k, s, p, o, d):
    return _or_zero((n + 2 * p - d * (k - 1) - 1) // s + 1, s, o, d)


def _times_stride(n, k, s, p, o, d):
    return _or_zero(n * s - 2 * p + d * (k - 1) + o + 1, s, o, d)


def _padding_added(n, k, s, p, o, d):
    return _or_zero((n - 1) * s + 2 * p + d * (k - 1) + o + 1, s, o, d)


def _padding_once(n, k, s, p, o, d):
    return _or_zero((n - 1) * s - p + d * (k - 1) + o + 1, s, o, d)


def _without_dilation(n, k, s, p, o, d):
    return _or_zero((n - 1) * s - 2 * p + k + o, s, o, d)


def _kernel_times_dilation(n, k, s, p, o, d):
    return _or_zero((n - 1) * s - 2 * p + d * k + o, s, o, d)


def _without_output_padding(n, k, s, p, o, d):
    return _or_zero((n - 1) * s - 2 * p + d * (k - 1) + 1, s, o, d)


def _output_padding_twice(n, k, s, p, o, d):
    return _or_zero((n - 1) * s - 2 * p + d * (k - 1) + 2 * o + 1, s, o, d)


def _as_the_lesson_has_it(n, k, s, p, o, d):
    return (n - 1) * s + k - 2 * p + o


def _output_padding_unchecked(n, k, s, p, o, d):
    return max(0, _never_zero(n, k, s, p, o, d))


def _one_too_generous(n, k, s, p, o, d):
    return 0 if o > max(s, d) else max(0, _never_zero(n, k, s, p, o, d))


def _forgotten_twice(n, k, s, p, o, d):
    return (n - 1) * s - 2 * p + d * (k - 1) + 1


def _never_zero(n, k, s, p, o, d):
    return (n - 1) * s - 2 * p + d * (k - 1) + o + 1


def _stride_alone_decides(n, k, s, p, o, d):
    return 0 if o >= s else transposed_size.reference(n, k, s, p, o, d)


def _nothing_left_is_fine(n, k, s, p, o, d):
    return 0 if o >= max(s, d) else _never_zero(n, k, s, p, o, d)


@exercise(
    "The size of a transposed convolution's output",
    hints=(
        "Where does the last stamp begin, and how long is it if its taps are `dilation` apart? Padding cuts at both ends.",
        "(size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + output_padding. Then: when is there no such layer?",
        "0 where output_padding >= max(stride, dilation), or where the result is below 1.",
    ),
    cases=lambda: [
        (4, 3, 2, 1, 0, 1), (4, 3, 2, 1, 1, 1), (4, 3, 2, 1, 2, 1), (5, 4, 2, 1, 0, 1), (3, 3, 3, 2, 2, 2), (6, 2, 1, 0, 1, 2),
        (1, 1, 2, 1, 0, 1), (2, 5, 4, 0, 3, 3), (5, 3, 2, 1, 3, 1), (1, 3, 1, 1, 1, 1), (2, 2, 2, 2, 0, 1),
    ],
    mistakes={
        "That is the formula of a *convolution*, which goes the other way.": _of_a_convolution,
        "The last stamp begins at (size - 1) * stride: there is one gap less than there are stamps.": _times_stride,
        "Padding makes a convolution's output larger. Here it is cut off.": _padding_added,
        "Padding is cut off at both ends: twice.": _padding_once,
        "The dilation is missing: with its taps `dilation` apart a stamp is longer.": _without_dilation,
        "Only the gaps grow: a kernel of 3 with dilation 2 covers 5 outputs, not 6.": _kernel_times_dilation,
        "output_padding is missing.": _without_output_padding,
        "output_padding counts once: it is added at one end only.": _output_padding_twice,
        "That is the formula above, without the dilation, and without the layers that cannot exist.": _as_the_lesson_has_it,
        "output_padding is missing, and so are the layers that cannot exist: 0.": _forgotten_twice,
        "A layer whose output_padding is not below the larger of stride and dilation cannot exist: 0.": _output_padding_unchecked,
        "output_padding must be *below* the larger of stride and dilation. As large as it is one too many.": _one_too_generous,
        "The numbers are right. But some of these layers cannot exist: there 0 was asked for.": _never_zero,
        "output_padding may be as large as the stride, if the dilation is larger still.": _stride_alone_decides,
        "A layer whose output has no pixel left cannot exist either: 0.": _nothing_left_is_fine,
    },
    praise="Now you can tell before you run which sizes a decoder will make.",
    advice="The arguments are, in order: size, kernel, stride, padding, output_padding, dilation.",
)
def transposed_size(size, kernel, stride, padding, output_padding, dilation):
    """How many outputs along one axis; 0 where such a layer cannot exist: output_padding not below the larger of
    stride and dilation, or no output left."""
    result = (size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + output_padding
    return 0 if output_padding >= max(stride, dilation) or result < 1 else result


# -- bilinear_weights(stride)


def _tent(stride, size=None, middle=None, width=None):
    size = 2 * stride - stride % 2 if size is None else size
    middle = (size - 1) / 2 if middle is None else middle
    width = stride if width is None else width
    return [max(0.0, 1 - abs(i - middle) / width) for i in range(size)]


def _top_on_the_pixel_before(stride):
    return _tent(stride, middle=stride - 1)


def _top_on_the_pixel_after(stride):
    return _tent(stride, middle=(2 * stride - stride % 2) // 2)


def _adds_up_to_one(stride):
    tent = _tent(stride)
    return [weight / sum(tent) for weight in tent]


def _too_steep(stride):
    return _tent(stride, width=(2 * stride - stride % 2) / 2)


def _from_zero(stride):
    size = 2 * stride - stride % 2
    return [1 - abs(i - (size - 1) / 2) / ((size - 1) / 2) for i in range(size)]


def _highest_is_one(stride):
    tent = _tent(stride)
    return [weight / max(tent) for weight in tent]


def _one_longer(stride):
    return _tent(stride, size=2 * stride)


def _all_alike(stride):
    return [1.0] * (2 * stride - stride % 2)


def _half_a_tent(stride):
    return [(i + 1) / stride for i in range(stride)]


def _two_dimensional(stride):
    tent = torch.tensor(_tent(stride))
    return tent[:, None] * tent[None]


@exercise(
    "The weights of bilinear upsampling",
    hints=(
        "Where is the middle of a kernel of that size? For size 5 at 2, for size 4 at 1.5.",
        "From the middle the tent falls in a straight line, to zero over a distance of one stride.",
        "size = 2 * stride - stride % 2; [1 - abs(i - (size - 1) / 2) / stride for i in range(size)]",
    ),
    cases=lambda: [(3,), (2,), (4,), (5,), (8,)],
    mistakes={
        "For an even stride the top of the tent lies *between* two pixels: the middle of 4 pixels is 1.5, not 1.": _top_on_the_pixel_before,
        "The middle of 4 pixels, numbered from 0, is 1.5, not 2: for an even stride the top lies between two pixels.": _top_on_the_pixel_after,
        "You made the weights add up to one. Each *output* must get weights that add up to one: the whole kernel adds up to the stride.": _adds_up_to_one,
        "Your tent falls to zero over half the kernel. It must do so over one stride, which is a little more for an odd stride.": _too_steep,
        "Your tent is zero at its ends. The zeros lie one stride from the top, outside the kernel.": _from_zero,
        "You scaled the highest weight to one. For an even stride no pixel lies at the top.": _highest_is_one,
        "Your kernel is 2 * stride long. For an odd stride it is one shorter, with its top on a pixel.": _one_longer,
        "All weights alike: that is not a straight line between the inputs, but their overlapping sums.": _all_alike,
        "You have half a tent: it rises, but must also fall.": _half_a_tent,
        "That is the pyramid of two dimensions. Asked for: the tent, along one axis.": _two_dimensional,
    },
    praise="In two dimensions: this tent times itself. It is what FCN starts from.",
    advice="For stride 2 it is 1/4, 3/4, 3/4, 1/4.",
)
def bilinear_weights(stride):
    """The 1-D kernel, of size 2 * stride - stride % 2, with which a transposed convolution of this stride upsamples
    linearly. 3 -> [1/3, 2/3, 1, 2/3, 1/3]"""
    size = 2 * stride - stride % 2
    return [1 - abs(i - (size - 1) / 2) / stride for i in range(size)]


EXERCISES = {item.name: item for item in (bilinear_at, stamps, transposed_size, bilinear_weights)}
