"""Exercises of lesson 03, receptive fields."""

import torch
from torch import nn

from segviz.exercises.engine import exercise

TITLE = "Receptive fields"


# -- one_layer(size, jump, start, kernel, stride, padding, dilation)


def _step(size, jump, start, k, s, p, d, *, effective=None, own_jump=None, size_jump=None, start_jump=None):
    """The right step, or with one part of it replaced."""
    reach = (d * (k - 1) + 1 if effective is None else effective) - 1
    new_size = size + reach * (jump if size_jump is None else size_jump)
    new_start = start + (reach / 2 - p) * (jump if start_jump is None else start_jump)
    return new_size, jump * s if own_jump is None else own_jump, new_start


def _with_the_new_jump(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, size_jump=jump * s, start_jump=jump * s)


def _size_with_the_new_jump(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, size_jump=jump * s)


def _without_jump(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, size_jump=1)


def _without_rate(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, effective=k)


def _kernel_times_rate(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, effective=k * d)


def _whole_kernel(size, jump, start, k, s, p, d):
    return size + (d * (k - 1) + 1) * jump, jump * s, start + ((d * (k - 1)) / 2 - p) * jump


def _jumps_added(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, own_jump=jump + s)


def _jump_replaced(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, own_jump=s)


def _start_without_padding(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, 0, d)


def _padding_in_pixels(size, jump, start, k, s, p, d):
    new_size, new_jump, new_start = _step(size, jump, start, k, s, 0, d)
    return new_size, new_jump, new_start - p


def _padding_makes_it_larger(size, jump, start, k, s, p, d):
    new_size, new_jump, new_start = _step(size, jump, start, k, s, p, d)
    return new_size + 2 * p * jump, new_jump, new_start


def _in_another_order(size, jump, start, k, s, p, d):
    new_size, new_jump, new_start = _step(size, jump, start, k, s, p, d)
    return new_size, new_start, new_jump


def _start_without_jump(size, jump, start, k, s, p, d):
    return _step(size, jump, start, k, s, p, d, start_jump=1)


def _rounded(size, jump, start, k, s, p, d):
    return size + d * (k - 1) * jump, jump * s, start + (d * (k - 1) // 2 - p) * jump


@exercise(
    "Follow size, jump and start through one layer",
    hints=(
        "First how many units of the map below the kernel covers, holes included: dilation * (kernel - 1) + 1.",
        "From the first to the last of these units are one jump less than there are units. The new jump comes last.",
        "reach = dilation * (kernel - 1); return size + reach * jump, jump * stride, start + (reach / 2 - padding) * jump",
    ),
    cases=lambda: [
        (1, 1, 0.5, 3, 1, 0, 1), (5, 1, 0.5, 2, 2, 0, 1), (6, 2, 1.0, 3, 2, 1, 1), (10, 4, 2.5, 3, 1, 2, 2),
        (18, 4, 0.5, 5, 3, 0, 4), (40, 8, 20.0, 7, 1, 3, 1), (3, 2, 1.5, 1, 2, 0, 1),
    ],
    mistakes={
        "You used the new jump. The kernel steps over the map *below*, whose units are the old jump apart.": _with_the_new_jump,
        "In the size you used the new jump. A stride does nothing for its own layer's field.": _size_with_the_new_jump,
        "The jump is missing in the size: the kernel's steps are steps of the map below, each `jump` pixels long.": _without_jump,
        "The dilation is missing: the taps are `dilation` units apart, so the kernel covers more.": _without_rate,
        "A kernel of 3 with rate 2 does not cover 6 units but 5: x · x · x. Only the gaps grow.": _kernel_times_rate,
        "One too many: from the first to the last of n units are n - 1 jumps.": _whole_kernel,
        "Jumps multiply: two strides of 2 put units 4 pixels apart. You added.": _jumps_added,
        "The new jump is the stride times the old jump. You left the old one out.": _jump_replaced,
        "The right numbers in another order. Asked for: size, jump, start.": _in_another_order,
        "In the start the jump is missing: its steps, too, are steps of the map below.": _start_without_jump,
        "You rounded. An even kernel has its middle between two units: divide with / instead of //.": _rounded,
        "Padding is missing: it moves the first unit's field to the left, out of the image.": _start_without_padding,
        "Padding counts units of the map below. Each is `jump` pixels wide.": _padding_in_pixels,
        "Padding does not make a field larger. It only moves where the first one begins.": _padding_makes_it_larger,
    },
    praise="With these three lines you can follow any chain of convolutions and poolings.",
    advice="On paper: from (6, 2, 1.0) a kernel of 3 with stride 2 and padding 1 leads to (10, 4, 1.0).",
)
def one_layer(size, jump, start, kernel, stride, padding, dilation):
    """(size, jump, start) of the map behind one layer, from those of the map before it."""
    reach = dilation * (kernel - 1)
    return size + reach * jump, jump * stride, start + (reach / 2 - padding) * jump


# -- field_of(unit, size, jump, start)


def _last_included(unit, size, jump, start):
    first = start + unit * jump - size / 2
    return first, first + size - 1


def _side_by_side(unit, size, jump, start):
    first = start + unit * size - size / 2
    return first, first + size


def _start_forgotten(unit, size, jump, start):
    first = unit * jump - size / 2
    return first, first + size


def _start_is_the_edge(unit, size, jump, start):
    first = start + unit * jump
    return first, first + size


def _cut_off(unit, size, jump, start):
    first = start + unit * jump - size / 2
    return max(0, first), first + size


def _jump_forgotten(unit, size, jump, start):
    first = start + unit - size / 2
    return first, first + size


def _first_and_size(unit, size, jump, start):
    return start + unit * jump - size / 2, size


def _twice_as_wide(unit, size, jump, start):
    middle = start + unit * jump
    return middle - size, middle + size


def _size_rounded(unit, size, jump, start):
    middle = start + unit * jump
    return middle - size // 2, middle + size // 2


def _without_padding(unit, size, jump, start):
    return unit * jump, unit * jump + size


@exercise(
    "Find the pixels of a unit's field",
    hints=(
        "Where is the middle of unit 0's field? And that of unit 1? How far do they lie apart?",
        "The middle is start + unit * jump. The field reaches size / 2 to both sides.",
        "middle = start + unit * jump; return middle - size / 2, middle + size / 2",
    ),
    cases=lambda: [(0, 40, 8, 20.0), (3, 40, 8, 20.0), (0, 7, 1, 0.5), (2, 15, 4, 2.5), (6, 212, 32, 16.0), (5, 1, 1, 0.5)],
    mistakes={
        "Your end is the last pixel itself. Asked for: one past it, as in Python's slices.": _last_included,
        "Your fields lie side by side. They overlap: neighbours are only `jump` apart.": _side_by_side,
        "You rounded size / 2. A field of 7 pixels reaches 3.5 to each side of its middle.": _size_rounded,
        "So it was in lesson 2, where nothing was padded. In general unit 0's field has its middle at `start`.": _without_padding,
        "The start is missing: unit 0's middle is at `start`, not at 0.": _start_forgotten,
        "`start` is the *middle* of unit 0's field. You took it for its edge.": _start_is_the_edge,
        "You cut the field off at the image's edge. A network with padding looks at what is outside, too: zeros.": _cut_off,
        "The jump is missing: one unit further is `jump` pixels further.": _jump_forgotten,
        "You gave its size at the end. Asked for: the first pixel beyond the field.": _first_and_size,
        "From the middle the field reaches half its size to each side, not all of it.": _twice_as_wide,
    },
    praise="Lesson 2's window_of was this, for a network without padding.",
)
def field_of(unit, size, jump, start):
    """(first, end): along one axis, the first pixel that this unit sees, and one past the last."""
    middle = start + unit * jump
    return middle - size / 2, middle + size / 2


# -- pixels_read(rates)


def _no_holes(rates):
    return list(range(-sum(rates), sum(rates) + 1))


def _last_layer_only(rates):
    return [-rates[-1], 0, rates[-1]]


def _side_by_side_layers(rates):
    return sorted({tap * rate for rate in rates for tap in (-1, 0, 1)})


def _one_side(rates):
    return [place + sum(rates) for place in pixels_read.reference(rates)]


def _with_repeats(rates):
    places = [0]
    for rate in rates:
        places = [place + tap for place in places for tap in (-rate, 0, rate)]
    return sorted(places)


def _rates_multiply(rates):
    places, spread = {0}, 1
    for rate in rates:
        spread *= rate
        places = {place + tap for place in places for tap in (-spread, 0, spread)}
    return sorted(places)


def _holes_counted(rates):
    places = {0}
    for rate in rates:
        places = {place + tap for place in places for tap in (-rate - 1, 0, rate + 1)}
    return sorted(places)


def _without_the_middle_tap(rates):
    places = {0}
    for rate in rates:
        places = {place + tap for place in places for tap in (-rate, rate)}
    return sorted(places)


def _as_a_list(places, rates):
    if isinstance(places, (str, bytes)):
        raise TypeError("what you returned is text. Return a list of whole numbers, like [-1, 0, 1].")
    return sorted(float(place) for place in places)


@exercise(
    "List the pixels that a stack of atrous convolutions reads",
    hints=(
        "One layer of rate r reads -r, 0 and r. Now put a second one behind it: each of its three units reads three pixels.",
        "Begin with the set {0}. For every layer: each place so far, minus the rate, plus nothing, plus the rate.",
        "places = {place + tap for place in places for tap in (-rate, 0, rate)}, once a layer; at the end sorted(places)",
    ),
    cases=lambda: [([1],), ([2, 2],), ([1, 2],), ([2, 2, 2],), ([1, 2, 5],), ([3, 1],), ([4, 2, 4],), ([1, 2, 4, 8],), ([2, 3],),
                   ([1, 2, 9],)],
    observe=_as_a_list,
    mistakes={
        "You listed the whole field. Between the taps of an atrous layer are holes: some pixels nobody reads.": _no_holes,
        "Those are the units that the last layer reads. Each of them reads pixels through the layers below.": _last_layer_only,
        "You put the layers beside one another. They are stacked: each place of one is spread out by the next.": _side_by_side_layers,
        "Your places begin at the left end of the field. Count them from the unit's own place, which is 0.": _one_side,
        "Some places stand there several times: several ways lead to them. Asked for: each once.": _with_repeats,
        "Rates do not multiply from layer to layer: strides do. Without strides each layer adds its own rate.": _rates_multiply,
        "Rate 1 is the ordinary convolution, with taps at -1, 0 and 1. Rate r has them at -r, 0 and r.": _holes_counted,
        "A kernel of 3 has a tap in its middle, too: -rate, 0 and rate.": _without_the_middle_tap,
    },
    praise="Where this list has gaps, no weights in the world can make the network look.",
    advice="By hand: rates [1, 2] read -3, -2, -1, 0, 1, 2, 3.",
)
def pixels_read(rates):
    """The places, counted from the unit's own (0), that a stack of 3-convolutions with these rates reads along one axis:
    a sorted list, each place once."""
    places = {0}
    for rate in rates:
        places = {place + tap for place in places for tap in (-rate, 0, rate)}
    return sorted(places)


# -- effective_field(network, image, row, column)


def _gradient(network, image, row, column, choose=lambda output, row, column: output[0, :, row, column].sum()):
    pixels = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(choose(network(pixels[None]), row, column), pixels)
    return gradient


def _signed(network, image, row, column):
    return _gradient(network, image, row, column).sum(0)


def _summed_before_abs(network, image, row, column):
    return _gradient(network, image, row, column).sum(0).abs()


def _squared(network, image, row, column):
    return _gradient(network, image, row, column).square().sum(0)


def _of_all_units(network, image, row, column):
    return _gradient(network, image, row, column, lambda output, r, c: output.sum()).abs().sum(0)


def _rows_and_columns_swapped(network, image, row, column):
    return _gradient(network, image, column, row).abs().sum(0)


def _first_output_channel(network, image, row, column):
    return _gradient(network, image, row, column, lambda output, r, c: output[0, 0, r, c]).abs().sum(0)


def _first_input_channel(network, image, row, column):
    return _gradient(network, image, row, column).abs()[0]


def _mean_of_channels(network, image, row, column):
    return _gradient(network, image, row, column).abs().mean(0)


def _normalised(network, image, row, column):
    field = _gradient(network, image, row, column).abs().sum(0)
    return field / field.sum()


def _channels_kept(network, image, row, column):
    return _gradient(network, image, row, column).abs()


def _largest_channel(network, image, row, column):
    return _gradient(network, image, row, column).abs().amax(0)


def _length_over_channels(network, image, row, column):
    return _gradient(network, image, row, column).norm(dim=0)


def _by_the_peak(network, image, row, column):
    field = _gradient(network, image, row, column).abs().sum(0)
    return field / field.max()


def _cases() -> list[tuple]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        networks = [
            nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 2, 3, padding=1)),
            nn.Sequential(nn.Conv2d(2, 5, 3, stride=2), nn.Tanh(), nn.Conv2d(5, 3, 3, padding=2, dilation=2)),
        ]
        images = [torch.rand(3, 9, 9), torch.rand(2, 17, 17)]
    return [(networks[0], images[0], 2, 5), (networks[1], images[1], 5, 1), (networks[0], images[0], 8, 0)]


@exercise(
    "Measure an effective receptive field",
    hints=(
        "Let the image ask for its gradient, run the network, and pick one number: the unit's channels added up.",
        "backward() on that number; then image.grad has the gradient (C, H, W), with signs. Take them off before you add.",
        "image = image.clone().requires_grad_(); network(image[None])[0, :, row, column].sum().backward(); "
        "return image.grad.abs().sum(0)",
    ),
    cases=_cases,
    mistakes={
        "Some of your numbers are negative. Asked for is how *strongly* a pixel moves the unit, either way: abs().": _signed,
        "You added the channels first and took abs() then: a red that pushes up and a blue that pushes down cancelled.": _summed_before_abs,
        "You squared the gradient. Asked for: its absolute value.": _squared,
        "That is the gradient of all units together. Pick the one at (row, column) before you ask for it.": _of_all_units,
        "Row and column have changed places: the output is (B, channels, rows, columns).": _rows_and_columns_swapped,
        "You took one channel of the output. Asked for: all of them, added up.": _first_output_channel,
        "You took one channel of the image. Asked for: all of them, added up.": _first_input_channel,
        "You took the mean over the image's channels. Asked for: the sum.": _mean_of_channels,
        "You took the largest of the image's channels. Asked for: the sum.": _largest_channel,
        "You took the length over the image's channels, the root of the sum of squares. Asked for: the sum of |gradient|.": _length_over_channels,
        "You divided by the peak. Here the plain numbers are asked for.": _by_the_peak,
        "You divided by the sum. That is a good idea for comparing networks; here the plain numbers are asked for.": _normalised,
        "The image's channels are still there: add them up, which leaves (H, W).": _channels_kept,
    },
    praise="This works for any network you can differentiate, your own included.",
    advice="Does the image ask for its gradient, and is it the same tensor whose .grad you read?",
)
def effective_field(network, image, row, column):
    """image (C, H, W) -> (H, W): how strongly each pixel moves the unit (row, column) of the network's output (its
    channels added up): |gradient|, added up over the image's channels."""
    image = image.clone().requires_grad_()
    network(image[None])[0, :, row, column].sum().backward()
    return image.grad.abs().sum(0)


EXERCISES = {item.name: item for item in (one_layer, field_of, pixels_read, effective_field)}
