"""Exercises of lesson 10, atrous convolution."""

import math

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "Atrous convolution"


# -- with_holes(kernel, rate)


def _rate_zeros(kernel, rate):
    return with_holes.reference(kernel, rate + 1)


def _zeros_after_each(kernel, rate):
    side = len(kernel) * rate
    held = torch.zeros(side, side)
    held[::rate, ::rate] = kernel
    return held


def _rows_alone(kernel, rate):
    held = torch.zeros(with_holes.reference(kernel, rate).shape[0], len(kernel))
    held[::rate] = kernel
    return held


def _columns_alone(kernel, rate):
    return _rows_alone(kernel.T, rate).T


def _repeated(kernel, rate):
    side = len(kernel) + (len(kernel) - 1) * (rate - 1)
    return kernel.repeat_interleave(rate, 0).repeat_interleave(rate, 1)[:side, :side]


def _interpolated(kernel, rate):
    side = len(kernel) + (len(kernel) - 1) * (rate - 1)
    return F.interpolate(kernel[None, None], size=(side, side), mode="bilinear", align_corners=True)[0, 0]


def _ring(kernel, rate):
    return F.pad(kernel, [(len(kernel) - 1) * (rate - 1) // 2] * 4)


def _into_the_corner(kernel, rate):
    return F.pad(kernel, [0, (len(kernel) - 1) * (rate - 1)] * 2)


def _turned(kernel, rate):
    return with_holes.reference(kernel.T, rate)


def _flipped(kernel, rate):
    return with_holes.reference(kernel.flip(0, 1), rate)


def _thinned_out(kernel, rate):
    return kernel[::rate, ::rate]


def _shared_out(kernel, rate):
    return with_holes.reference(kernel, rate) / rate**2


@exercise(
    "Write a kernel with its holes",
    hints=(
        "Between two neighbouring weights there are rate - 1 zeros, along rows and along columns. Outside there are none.",
        "Weight (a, b) goes to row a * rate and column b * rate. How large is the whole? k + (k - 1)(rate - 1).",
        "held = torch.zeros(side, side); held[::rate, ::rate] = kernel",
    ),
    cases=lambda: [
        (torch.arange(1.0, k * k + 1).view(k, k) + 0.5, rate) for k, rate in ((3, 2), (3, 1), (2, 3), (4, 2), (3, 4), (7, 4), (1, 5))
    ],
    mistakes={
        "That has `rate` zeros between two weights. There are rate - 1: rate 1 is the ordinary kernel.": _rate_zeros,
        "There are zeros behind the last row and column. They lie between weights only: the side is k + (k - 1)(rate - 1).": _zeros_after_each,
        "The rows are apart. Now the columns, too.": _rows_alone,
        "The columns are apart. Now the rows, too.": _columns_alone,
        "You repeated each weight. Between the taps there are zeros: nothing is read there.": _repeated,
        "You enlarged the kernel, bilinearly. Between the taps there are zeros: nothing is read there.": _interpolated,
        "The zeros are all around the kernel. They belong between its weights.": _ring,
        "The size is right, but the weights still lie side by side in a corner.": _into_the_corner,
        "Rows and columns are swapped: weight (a, b) goes to row a * rate, column b * rate.": _turned,
        "The weights are in reverse order. A network's convolution does not flip its kernel.": _flipped,
        "You left weights out. All of them stay, further apart.": _thinned_out,
        "You divided the weights. They stay as they are.": _shared_out,
    },
    praise="The layer itself never builds this kernel: it reads k x k places, rate apart, and multiplies no zero.",
    advice="Of side 3 and rate 2: rows 0, 2 and 4 hold weights, and of these columns 0, 2 and 4.",
)
def with_holes(kernel, rate):
    """kernel (k, k) -> the kernel with which an ordinary convolution does the same as the given one at this rate."""
    side = len(kernel) + (len(kernel) - 1) * (rate - 1)
    held = torch.zeros(side, side)
    held[::rate, ::rate] = kernel
    return held


# -- converted(strides, output_stride)


def _walk(strides, output_stride, follow):
    """[(stride, rate)], where `follow` says what a layer becomes, from (stride, jump, rate), and the rate behind it."""
    jump, rate, found = 1, 1, []
    for stride in strides:
        (new, own), rate = follow(stride, jump, rate)
        jump *= new
        found.append((new, own))
    return found


def _at_once(strides, output_stride):
    def follow(stride, jump, rate):
        kept = jump * stride <= output_stride
        rate *= 1 if kept else stride
        return (stride if kept else 1, rate), rate

    return _walk(strides, output_stride, follow)


def _next_layer_alone(strides, output_stride):
    def follow(stride, jump, rate):
        kept = jump * stride <= output_stride
        return (stride if kept else 1, rate), 1 if kept else stride

    return _walk(strides, output_stride, follow)


def _no_rates(strides, output_stride):
    return [(stride, 1) for stride, _ in converted.reference(strides, output_stride)]


def _strides_kept(strides, output_stride):
    return list(zip(strides, (rate for _, rate in converted.reference(strides, output_stride)), strict=True))


def _always_two(strides, output_stride):
    return [(stride, min(rate, 2)) for stride, rate in converted.reference(strides, output_stride)]


def _rates_add(strides, output_stride):
    def follow(stride, jump, rate):
        kept = jump * stride <= output_stride
        return (stride if kept else 1, rate), rate + (0 if kept else stride)

    return _walk(strides, output_stride, follow)


def _rate_one_more(strides, output_stride):
    def follow(stride, jump, rate):
        kept = jump * stride <= output_stride
        return (stride if kept else 1, rate), rate + (0 if kept else stride - 1)

    return _walk(strides, output_stride, follow)


def _one_too_early(strides, output_stride):
    def follow(stride, jump, rate):
        kept = jump * stride < output_stride
        return (stride if kept else 1, rate), rate * (1 if kept else stride)

    return _walk(strides, output_stride, follow)


def _one_too_late(strides, output_stride):
    def follow(stride, jump, rate):
        kept = jump <= output_stride
        return (stride if kept else 1, rate), rate * (1 if kept else stride)

    return _walk(strides, output_stride, follow)


def _first_strides_go(strides, output_stride):
    left, rate, found = math.prod(strides), 1, []
    for stride in strides:
        gone = stride if left > output_stride else 1
        found.append((stride // gone, rate))
        left, rate = left // gone, rate * gone
    return found


def _rates_of_all_strides(strides, output_stride):
    jump, found = 1, []
    for stride, (new, _) in zip(strides, converted.reference(strides, output_stride), strict=True):
        found.append((new, jump))
        jump *= stride
    return found


def _rate_first(strides, output_stride):
    return [(rate, stride) for stride, rate in converted.reference(strides, output_stride)]


@exercise(
    "Trade strides for rates",
    hints=(
        "Go through the layers and carry two numbers: the stride of the map so far, and the rate of what comes next.",
        "A stride that would go beyond output_stride becomes 1. What it would have skipped, the layers *behind* it skip "
        "by their rate: multiply it by the stride.",
        "found.append((stride if kept else 1, rate)) comes before rate *= stride.",
    ),
    cases=lambda: [
        ([1, 2, 1, 2, 1, 2, 1], 4), ([1, 2, 1, 2, 1, 2, 1], 2), ([1, 2, 1, 2, 1, 2, 1], 8), ([1, 2, 1, 2, 1, 2, 1], 1),
        ([2, 2, 1, 1, 2, 1, 2, 1, 2, 1, 1], 8), ([4, 1, 2, 1, 4, 1], 8), ([4, 1, 3, 1, 2, 1], 4),
    ],
    mistakes={
        "The layer that loses its stride reads the map in front of it, which is as dense as before: its own rate stays. Only what comes behind is dilated.": _at_once,
        "All layers behind a lost stride need the rate, not only the next one.": _next_layer_alone,
        "The strides are right. But now what comes behind reads places that lie too close together: it needs a rate.": _no_rates,
        "The rates are right, but a stride that is traded becomes 1.": _strides_kept,
        "Behind a second lost stride the rate grows again: they multiply.": _always_two,
        "A lost stride multiplies the rate; you added it.": _rates_add,
        "A lost stride multiplies the rate; you added stride - 1, which is right for the first one of 2 alone.": _rate_one_more,
        "Too early: strides are kept as long as the map's stride is *at most* output_stride.": _one_too_early,
        "One stride too late: the map would become coarser than output_stride.": _one_too_late,
        "You took the first strides away. The last ones go: the first make maps small, and the layers behind them cheap.": _first_strides_go,
        "Strides that are kept need no rates: the map behind them is coarser itself.": _rates_of_all_strides,
        "The other way round: first the stride, then the rate.": _rate_first,
    },
    praise="That is all there is to it: no weight is touched.",
    advice="Strides 2, 1, 2, 1 at output stride 2: (2, 1), (1, 1), (1, 1), (1, 2).",
)
def converted(strides, output_stride):
    """strides: those of a network's layers -> [(stride, rate)] for each layer, so that its last map has at most
    output_stride, and the same weights give the same numbers where the old map had places."""
    jump, rate, found = 1, 1, []
    for stride in strides:
        kept = jump * stride <= output_stride
        found.append((stride if kept else 1, rate))
        jump, rate = (jump * stride, rate) if kept else (jump, rate * stride)
    return found


# -- widest(taps, layers)


def _doubling(taps, layers):
    return [2**i for i in range(layers)]


def _in_steps(taps, layers):
    return [i + 1 for i in range(layers)]


def _all_ones(taps, layers):
    return [1] * layers


def _three_always(taps, layers):
    return [3**i for i in range(layers)]


def _first_too_large(taps, layers):
    return [taps ** (i + 1) for i in range(layers)]


def _times_taps_less_one(taps, layers):
    return [(taps - 1) ** i for i in range(layers)]


def _fields_of_doubling(taps, layers):
    rates = [1]
    while len(rates) < layers:
        rates.append(2 * rates[-1] + 1)
    return rates


def _field_plus_one(taps, layers):
    rates, field = [], 1
    for _ in range(layers):
        rates.append(field if not rates else field + 1)
        field += (taps - 1) * rates[-1]
    return rates


def _half_the_field(taps, layers):
    rates, field = [], 1
    for _ in range(layers):
        rates.append((field + 1) // 2)
        field += (taps - 1) * rates[-1]
    return rates


def _same_rate(taps, layers):
    return [taps] * layers


def _powers_of_the_layer(taps, layers):
    return [(i + 1) ** 2 for i in range(layers)]


def _taps_apart(taps, layers):
    return [1 + taps * i for i in range(layers)]


def _read_by(rates, taps, layers):
    """How many places a stack reads, how wide its field is, and how many rates there are."""
    if isinstance(rates, (str, bytes)):
        raise TypeError("what you returned is text. Return a list of rates, such as [1, 2, 4].")
    given = [float(rate) for rate in rates]
    rates = [round(rate) for rate in given]
    uneven = any(abs(rate - whole) > 1e-6 for rate, whole in zip(given, rates, strict=True))
    if uneven or min(rates, default=1) < 1 or sum(rates) > 10_000:
        raise ValueError("rates are whole numbers from 1 up, and these fields have no more than 10,000 places.")
    places = {0}
    for rate in rates:
        places = {place + tap * rate for place in places for tap in range(taps)}
    return [len(places), max(places) + 1, len(rates)]


@exercise(
    "Find the widest stack without a hole",
    hints=(
        "Take the first layer with rate 1: it reads `taps` pixels without a hole. How large may the second one's rate be?",
        "Copies of the field so far are laid side by side, a rate apart. They must touch, and need not overlap.",
        "Each rate is the field so far: 1, taps, taps * taps...",
    ),
    cases=lambda: [(3, 1), (3, 2), (3, 3), (3, 5), (5, 3), (2, 6), (7, 2), (4, 4)],
    observe=_read_by,
    mistakes={
        "Doubling leaves no holes, but copies of the field overlap. (It is best for 2 taps.) Let them only touch.": _doubling,
        "1, 2, 3... leaves no holes, but copies of the field overlap. Let them only touch.": _in_steps,
        "Those are ordinary layers, and their field grows by taps - 1 each time.": _all_ones,
        "That is right for 3 taps. How does it depend on them?": _three_always,
        "The first rate must be 1: else neighbouring pixels are never read together.": _first_too_large,
        "Powers of taps - 1: close. Copies of the field touch when the rate is the field itself, taps times the last.": _times_taps_less_one,
        "1, 3, 7, 15... are fields of a stack that doubles its rates, and with 3 taps they leave room for more.": _fields_of_doubling,
        "One too many: copies whose first places lie field + 1 apart leave a hole of one pixel.": _field_plus_one,
        "Half the field: copies overlap by half. Let them only touch.": _half_the_field,
        "One rate for all, larger than 1, reads every so many pixels and never those between.": _same_rate,
        "1, 4, 9... : growing, but not with the taps. Where do copies of the field just touch?": _powers_of_the_layer,
        "Rates that grow by `taps` a layer: linear. The field is *multiplied* by the taps, if you let copies only touch.": _taps_apart,
    },
    praise="Each pixel of taps ** layers is read, and each in exactly one way: it is the number system with base `taps`.",
    advice="Compared are: places read, width of the field, number of rates. Two layers of 3 taps read 9 of 9.",
)
def widest(taps, layers):
    """Rates for so many layers, each with `taps` taps, one behind the other: a list in which no pixel of the field is
    left out, and whose field is as wide as it can be."""
    return [taps**i for i in range(layers)]


# -- at_work(size, rate)


def _inside_alone(size, rate):
    return 9 * max(0, size - 2 * rate) ** 2 / size**2


def _in_the_middle(size, rate):
    along = 1 + 2 * (size // 2 >= rate and size - 1 - size // 2 >= rate)
    return float(along**2)


def _along_one_axis(size, rate):
    return 1 + 2 * max(0, size - rate) / size


def _no_floor(size, rate):
    return (1 + 2 * (size - rate) / size) ** 2


def _one_side(size, rate):
    return (1 + max(0, size - rate) / size) ** 2


def _in_the_corner(size, rate):
    return float((1 + (rate < size)) ** 2)


def _as_a_share(size, rate):
    return at_work.reference(size, rate) / 9


def _summed(size, rate):
    return at_work.reference(size, rate) * size**2


def _middle_forgotten(size, rate):
    return at_work.reference(size, rate) - 1


def _all_but_the_corners(size, rate):
    return 1 + 4 * max(0, size - rate) / size


def _nine_and_one_too_few(size, rate):
    return 9 * max(0, size - 2 * rate - 1) ** 2 / size**2


def _all_nine(size, rate):
    return 9.0


def _rate_one(size, rate):
    return at_work.reference(size, 1)


def _off_by_one(size, rate):
    return (1 + 2 * max(0, size - rate - 1) / size) ** 2


@exercise(
    "Count the weights that are at work",
    hints=(
        "Along one axis first: of three taps, at how many places does the left one lie in the map?",
        "At size - rate of the size places (and at none where rate >= size). The right one too; the middle one always.",
        "Rows and columns are independent: along = 1 + 2 * max(0, size - rate) / size, and along ** 2.",
    ),
    cases=lambda: [(12, 1), (12, 2), (12, 6), (12, 11), (12, 12), (12, 15), (65, 18), (33, 6), (33, 18), (5, 4)],
    mistakes={
        "You counted only the places at which all nine are in the map. Elsewhere some still are.": _inside_alone,
        "That is at the middle of the map. Asked for: the mean over all places.": _in_the_middle,
        "Along one axis, that is right. In the map the numbers of rows and columns multiply.": _along_one_axis,
        "Right as long as the rate is no larger than the map. Beyond that no more is lost: the middle tap always works.": _no_floor,
        "There are taps on two sides: left and right of the middle, and above and below.": _one_side,
        "That is at a corner of the map. Asked for: the mean over all places.": _in_the_corner,
        "That is the share of nine. Asked for: how many.": _as_a_share,
        "That is the sum over all places. Asked for: the mean.": _summed,
        "The middle tap always lies in the map: count it too.": _middle_forgotten,
        "The four corner taps are missing: they too lie in the map, at places where both their row and column do.": _all_but_the_corners,
        "You counted only the places at which all nine are in the map, and too few: there are size - 2 * rate along an axis. Elsewhere some of the nine still are.": _nine_and_one_too_few,
        "Nine it is, far from the border alone. Near it taps read padding.": _all_nine,
        "You left the rate out: the larger it is, the further in from the border taps read padding.": _rate_one,
        "One too few: the left tap is in the map at size - rate places.": _off_by_one,
    },
    praise="A rate as large as the map makes a 1 x 1 convolution of a 3 x 3, at nine times its weights.",
)
def at_work(size, rate):
    """A 3 x 3 convolution of this rate, padded by as much, on a map of size x size: how many of its nine weights read
    the map and not its padding, in the mean over all places."""
    along = 1 + 2 * max(0, size - rate) / size
    return along**2


EXERCISES = {item.name: item for item in (with_holes, converted, widest, at_work)}
