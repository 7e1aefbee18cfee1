"""Exercises of lesson 07, deconvolution networks."""

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "Convolution and deconvolution networks"


# -- unpool(values, switches, height, width)


def _pooled() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for height, width in ((2, 4), (4, 4), (6, 10), (10, 6), (8, 2), (4, 12)):
        noise = torch.rand(1, height, width, generator=generator)
        switches = F.max_pool2d(noise, 2, return_indices=True)[1][0]
        cases.append((torch.randn(switches.shape, generator=generator).round(decimals=1), switches, height, width))
    return cases


def _written(places, values, height, width):
    result = torch.zeros(height * width)
    result[places.flatten()] = values.flatten()
    return result.view(height, width)


def _corners(values, switches, height, width):
    result = torch.zeros(height, width)
    result[:: height // values.shape[0], :: width // values.shape[1]] = values
    return result


def _repeated(values, switches, height, width):
    return F.interpolate(values[None, None], size=(height, width))[0, 0]


def _column_by_column(values, switches, height, width):
    return _written(switches, values, width, height).reshape(width, height).T


def _in_reading_order(values, switches, height, width):
    result = torch.zeros(height, width)
    result[_written(switches, torch.ones(values.shape), height, width) > 0] = values.flatten()
    return result


def _ones(values, switches, height, width):
    return _written(switches, torch.ones(values.shape), height, width)


def _left_flat(values, switches, height, width):
    return unpool.reference(values, switches, height, width).flatten()


def _number_in_the_window(values, switches, height, width):
    tall, wide = height // values.shape[0], width // values.shape[1]
    number = switches % (tall * wide)
    rows = torch.arange(values.shape[0])[:, None] * tall + number // wide
    return _written(rows * width + torch.arange(values.shape[1]) * wide + number % wide, values, height, width)


def _without_negatives(values, switches, height, width):
    return unpool.reference(values, switches, height, width).relu()


def _counted_from_one(values, switches, height, width):
    return _written(switches - 1, values, height, width)


@exercise(
    "Put each value back where it stood",
    hints=(
        "Begin with a map of zeros, as large as the one before pooling. What does a switch of 6 say, if the map is 4 wide?",
        "A switch s is row s // width, column s % width. Or: write into a flat map of height * width numbers, and fold it "
        "at the end.",
        "flat = torch.zeros(height * width), then flat[switches.flatten()] = values.flatten(), then "
        "flat.view(height, width).",
    ),
    cases=_pooled,
    mistakes={
        "Each value is in the top left of its window: you have not looked at its switch.": _corners,
        "You wrote each value into its whole window. It belongs to one place, the others stay 0.": _repeated,
        "Switches count row by row: s is row s // width, column s % width. You counted down the columns.": _column_by_column,
        "The places are right, but the values have changed places. A mask fills them in the order of the large map; each "
        "value has a switch of its own.": _in_reading_order,
        "You marked the places with ones. The values belong there.": _ones,
        "The numbers are right, but your map is flat: fold it to (height, width).": _left_flat,
        "You took a switch for a number inside its window. It counts the places of the whole map.": _number_in_the_window,
        "The negative values are lost. Write them too: unpooling does not choose.": _without_negatives,
        "Your places are one too early: switches count from 0.": _counted_from_one,
    },
    praise="No weights, no arithmetic: one assignment. That is all of unpooling.",
    advice="Try values [[5.]], switches [[3]], height 2, width 2: the 5 belongs to the lower right.",
)
def unpool(values, switches, height, width):
    """values (h, w); switches (h, w): where each of them stood, row * width + column, in a map (height, width) -> that
    map, with 0 at all other places."""
    flat = torch.zeros(height * width)
    flat[switches.flatten()] = values.flatten()
    return flat.view(height, width)


# -- as_convolution(weight)


def _weights() -> list[tuple]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((2, 3, 3), (3, 3, 3), (1, 1, 3), (4, 2, 5), (2, 2, 1), (1, 3, 2))
    return [(torch.randn(c, d, k, k, generator=generator),) for c, d, k in sizes]


def _not_turned(weight):
    return weight.transpose(0, 1)


def _channels_kept(weight):
    return weight.flip(2, 3)


def _folded_anew(weight):
    inputs, outputs, *kernel = weight.shape
    return weight.flip(2, 3).reshape(outputs, inputs, *kernel)


def _upside_down(weight):
    return weight.flip(2).transpose(0, 1)


def _left_to_right(weight):
    return weight.flip(3).transpose(0, 1)


def _quarter_turn(weight):
    return weight.rot90(1, (2, 3)).transpose(0, 1)


def _kernel_transposed(weight):
    return weight.permute(1, 0, 3, 2)


def _channels_reversed(weight):
    return weight.flip(0, 1, 2, 3).transpose(0, 1)


def _as_it_was(weight):
    return weight


@exercise(
    "Turn the weights of a transposed convolution into those of an ordinary one",
    hints=(
        "Lesson 4, the second view: an ordinary convolution, but with the kernel turned by 180 degrees. And which of the "
        "two layers names its input channels first?",
        "Two things change: the kernel's rows and columns both run backwards, and the two axes of channels change places.",
        "weight.flip(2, 3).transpose(0, 1)",
    ),
    cases=_weights,
    mistakes={
        "The channels are right. Now turn each kernel by 180 degrees.": _not_turned,
        "The kernels are turned. But a convolution wants (outputs, inputs, k, k): let the channels change places.": _channels_kept,
        "The shape is right, but reshape puts the numbers into another order. Use transpose.": _folded_anew,
        "You turned the rows only. The columns run backwards too.": _upside_down,
        "You turned the columns only. The rows run backwards too.": _left_to_right,
        "That is a turn by 90 degrees. 180 are needed.": _quarter_turn,
        "You transposed each kernel, rows for columns. It has to be turned by 180 degrees.": _kernel_transposed,
        "You turned the channels round as well. Only rows and columns run backwards.": _channels_reversed,
        "You gave back the weights as they are.": _as_it_was,
    },
    praise="With stride 1 and the same padding on both sides, a 3 x 3 transposed convolution is a convolution.",
)
def as_convolution(weight):
    """weight (C, D, k, k) of a transposed convolution with stride 1, from C to D channels -> the weight (D, C, k, k)
    with which an ordinary convolution makes the same numbers."""
    return weight.flip(2, 3).transpose(0, 1)


# -- storage(channels, height, width)


def _in_bits(channels, height, width):
    return [8 * number for number in storage.reference(channels, height, width)]


def _for_each_place(channels, height, width):
    return channels * height * width * 2 / 8, channels * height * width * 4


def _two_bytes(channels, height, width):
    return channels * height * width / 4 * 2, channels * height * width * 4


def _one_for_all_channels(channels, height, width):
    return height * width / 4 * 2 / 8, channels * height * width * 4


def _whole_indices(channels, height, width):
    return channels * height * width / 4 * 8, channels * height * width * 4


def _a_bit_a_place(channels, height, width):
    return channels * height * width / 8, channels * height * width * 4


def _a_quarter_of_the_features(channels, height, width):
    return channels * height * width / 4 * 2 / 8, channels * height * width


def _other_order(channels, height, width):
    return storage.reference(channels, height, width)[::-1]


@exercise(
    "Count the bytes: switches against features",
    hints=(
        "How many windows of 2 x 2 are there, in all channels? One switch each.",
        "A switch is one of four places: 2 bits. A byte has 8. A float32 has 4 bytes, and there is one for each place "
        "before pooling.",
        "numbers = channels * height * width; return numbers / 4 * 2 / 8, numbers * 4",
    ),
    cases=lambda: [(64, 180, 240), (1, 4, 4), (8, 64, 64), (512, 14, 14), (3, 2, 8)],
    mistakes={
        "Those are bits. A byte has 8 of them.": _in_bits,
        "You have a byte for each switch, or a switch for each place. It is 2 bits, for each *window*.": _for_each_place,
        "2 bits for each window, not 2 bytes.": _two_bytes,
        "Each channel has switches of its own: times channels.": _one_for_all_channels,
        "8 bytes a switch is what torch takes for an index (int64). It needs 2 bits.": _whole_indices,
        "A bit for each of the four places would be 4 bits a window. Which of four is told by 2.": _a_bit_a_place,
        "Four times too few bytes for the features: a float32 has 4, and all places *before* pooling count.": _a_quarter_of_the_features,
        "The other way round: first the switches, then the features.": _other_order,
    },
    praise="64 to 1, at every stage. What the 64 would have bought, is measured below.",
)
def storage(channels, height, width):
    """Of a map (channels, height, width) that a 2x2 pooling is about to halve, the bytes of its switches (2 bits each)
    and of itself (float32): two numbers."""
    numbers = channels * height * width
    return numbers / 4 * 2 / 8, numbers * 4


# -- pasted(scores, boxes, height, width)


def _proposals() -> list[tuple]:
    generator = torch.Generator().manual_seed(2)
    layouts = (
        (6, 8, [(1, 2, 4, 5)]),
        (8, 7, [(0, 1, 4, 5), (2, 2, 6, 6)]),
        (9, 9, [(3, 0, 9, 6), (1, 2, 4, 5), (2, 3, 7, 8)]),
        (5, 7, [(0, 0, 5, 5), (1, 2, 4, 5)]),
        (5, 6, [(1, 0, 4, 3), (0, 1, 4, 5)]),
    )
    return [
        ([torch.randn(3, y1 - y0, x1 - x0, generator=generator) for x0, y0, x1, y1 in boxes], boxes, height, width)
        for height, width, boxes in layouts
    ]


def _canvas(scores, height, width, value=0.0):
    return torch.full((len(scores[0]), height, width), value)


def _last_wins(scores, boxes, height, width):
    result = _canvas(scores, height, width)
    for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True):
        result[:, y0:y1, x0:x1] = maps.relu()
    return result


def _last_wins_as_it_is(scores, boxes, height, width):
    result = _canvas(scores, height, width)
    for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True):
        result[:, y0:y1, x0:x1] = maps
    return result


def _added(scores, boxes, height, width):
    result = _canvas(scores, height, width)
    for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True):
        result[:, y0:y1, x0:x1] += maps
    return result


def _averaged(scores, boxes, height, width):
    covered = _added([torch.ones_like(maps) for maps in scores], boxes, height, width)
    return _added(scores, boxes, height, width) / covered.clamp(min=1)


def _negative_kept(scores, boxes, height, width):
    result = _canvas(scores, height, width, float("-inf"))
    for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True):
        result[:, y0:y1, x0:x1] = result[:, y0:y1, x0:x1].maximum(maps)
    return result.masked_fill(result.isinf(), 0)


def _exchanged(scores, boxes, height, width):
    return pasted.reference(scores, [(y0, x0, y1, x1) for x0, y0, x1, y1 in boxes], height, width)


def _in_the_corner(scores, boxes, height, width):
    return pasted.reference(scores, [(0, 0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes], height, width)


def _one_box_a_pixel(scores, boxes, height, width):
    result = _canvas(scores, height, width)
    for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True):
        place = result[:, y0:y1, x0:x1]
        place[:] = torch.where(maps.amax(0) > place.amax(0), maps, place)
    return result


def _softmax_first(scores, boxes, height, width):
    return pasted.reference([maps.softmax(0) for maps in scores], boxes, height, width)


@exercise(
    "Put the scores of all boxes into one picture",
    hints=(
        "Begin with zeros for the whole picture. What should stand where two boxes overlap?",
        "result[:, y0:y1, x0:x1] is the place of a box. Keep there, number by number, the larger one of what stands "
        "there and what the box says.",
        "In a loop over zip(scores, boxes): place = result[:, y0:y1, x0:x1], then place[:] = torch.maximum(place, maps).",
    ),
    cases=_proposals,
    mistakes={
        "Where boxes overlap, the last one wins in yours. The largest score should.": _last_wins,
        "You overwrite what stands there. Keep the larger number: the one there (0 to begin with) or the box's.": _last_wins_as_it_is,
        "You add the boxes up. Take the largest score (the paper allows the sum too, but uses the maximum).": _added,
        "You average over the boxes. Take the largest score.": _averaged,
        "Inside the boxes negative scores are left. The maximum begins at 0: what nobody speaks for has 0.": _negative_kept,
        "A box is (x0, y0, x1, y1), x across and y down: its rows are y0:y1, its columns x0:x1.": _exchanged,
        "All boxes lie in the upper left corner. Put each at its place.": _in_the_corner,
        "You choose one box for each pixel, with all its scores. Take the maximum class by class.": _one_box_a_pixel,
        "You took a softmax in each box first. Put the raw scores together; the softmax comes after.": _softmax_first,
    },
    praise="Large boxes for the large things, small ones for the small: so they get round one fixed scale.",
    advice="Begin with zeros, and keep the larger number wherever a box lies.",
)
def pasted(scores, boxes, height, width):
    """scores: for each box its maps (C, y1 - y0, x1 - x0); boxes: (x0, y0, x1, y1) each, x across -> (C, height, width):
    for each class and pixel the largest score that any box has for it, but never less than 0."""
    result = torch.zeros(len(scores[0]), height, width)
    for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True):
        place = result[:, y0:y1, x0:x1]
        place[:] = torch.maximum(place, maps)
    return result


EXERCISES = {item.name: item for item in (unpool, as_convolution, storage, pasted)}
