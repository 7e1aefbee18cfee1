"""Exercises of lesson 12, DeepLab v2, v3 and v3+."""

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "DeepLab v2, v3, v3+"


# -- one_kernel(kernels, rates)


def _placed(kernels, rates, put):
    """An empty kernel of the right size, into whose taps `put(taps, kernel, rate)` writes each kernel."""
    middle = max(rates)
    held = torch.zeros(2 * middle + 1, 2 * middle + 1)
    for kernel, r in zip(kernels, rates, strict=True):
        put(held[middle - r : middle + r + 1, middle - r : middle + r + 1][::r, ::r], kernel, r)
    return held


def _overwritten(kernels, rates):
    return _placed(kernels, rates, lambda taps, kernel, r: taps.copy_(kernel))


def _averaged(kernels, rates):
    return one_kernel.reference(kernels, rates) / len(rates)


def _one_behind_the_other(kernels, rates):
    line = torch.ones(1, 1, 1, 1)
    for kernel, r in zip(kernels, rates, strict=True):
        line = F.conv2d(line, kernel.flip(0, 1)[None, None], padding=2 * r, dilation=r)
    return line[0, 0].flip(0, 1)


def _in_the_corner(kernels, rates):
    side = 2 * max(rates) + 1
    held = torch.zeros(side, side)
    for kernel, r in zip(kernels, rates, strict=True):
        held[: 2 * r + 1 : r, : 2 * r + 1 : r] += kernel
    return held


def _largest_wins(kernels, rates):
    return _placed(kernels, rates, lambda taps, kernel, r: taps.copy_(torch.maximum(taps, kernel)))


def _first_middle_alone(kernels, rates):
    held = one_kernel.reference(kernels, rates)
    held[max(rates), max(rates)] = kernels[0][1, 1]
    return held


def _no_middle(kernels, rates):
    held = one_kernel.reference(kernels, rates)
    held[max(rates), max(rates)] = 0
    return held


def _rates_reversed(kernels, rates):
    return one_kernel.reference(kernels, rates[::-1])


def _without_holes(kernels, rates):
    return F.pad(sum(kernels), [max(rates) - 1] * 4)


def _rate_zeros_between(kernels, rates):
    return one_kernel.reference(kernels, [r + 1 for r in rates])


def _flipped(kernels, rates):
    return one_kernel.reference([kernel.flip(0, 1) for kernel in kernels], rates)


def _largest_rate_alone(kernels, rates):
    at = list(rates).index(max(rates))
    return one_kernel.reference([kernels[at]], [rates[at]])


def _weighed_by_rate(kernels, rates):
    return one_kernel.reference([kernel / r for kernel, r in zip(kernels, rates, strict=True)], rates)


def _blocks_for_holes(kernels, rates):
    wide = [F.interpolate(kernel[None, None], size=2 * r + 1)[0, 0] for kernel, r in zip(kernels, rates, strict=True)]
    return sum(F.pad(kernel, [max(rates) - len(kernel) // 2] * 4) for kernel in wide)


def _transposed(kernels, rates):
    return one_kernel.reference(kernels, rates).T


def _cross_missing(kernels, rates):
    held, m = one_kernel.reference(kernels, rates), max(rates)
    held[m], held[:, m] = 0, 0
    return held


@exercise(
    "Write a sum of rates as one kernel",
    hints=(
        "Convolutions are linear: the sum of what several kernels give is what the sum of the kernels gives, if they "
        "are written down at the same size.",
        "The widest has 2 * max(rates) + 1 taps along a side. All share the middle, held[m, m] with m = max(rates); "
        "kernel k's taps lie at m - r, m and m + r.",
        "held[m - r : m + r + 1 : r, m - r : m + r + 1 : r] += kernel. Add, for several of them write to the middle.",
    ),
    cases=lambda: [
        (list(torch.arange(1.0, 9 * len(rates) + 1).view(-1, 3, 3).cos() + 0.2), rates)
        for rates in ([1, 2], [1, 2, 4], [3], [6, 2, 4], [2, 2, 5], [6, 12, 18, 24])
    ],
    mistakes={
        "Each kernel overwrote what was there. Where several have a tap, as in the middle, their weights add up.": _overwritten,
        "That is the mean of all. The scores are added.": _averaged,
        "That is one layer behind the other, and its field is larger. Here all read the same map, side by side.": _one_behind_the_other,
        "The kernels lie in the upper left corner. They share the *middle*: each is padded by its own rate.": _in_the_corner,
        "Where several have a tap you took the largest weight. Their products are added, so their weights are.": _largest_wins,
        "In the middle you kept the first kernel's weight alone. All of them have a tap there: add.": _first_middle_alone,
        "The middle is missing: every kernel has a tap there.": _no_middle,
        "The kernels have changed places: each belongs to its own rate.": _rates_reversed,
        "You added the kernels as they are, without holes. Kernel by kernel the taps are `rate` apart.": _without_holes,
        "One place too far apart: at rate r taps are r apart, with r - 1 zeros between them.": _rate_zeros_between,
        "Upside down: a network's convolution does not flip its kernel.": _flipped,
        "Only the kernel of the largest rate is there. The others lie within it.": _largest_rate_alone,
        "You divided by the rate. The weights stay as they are.": _weighed_by_rate,
        "You have enlarged the kernels, block by block. Taps stay single numbers; between them are zeros.": _blocks_for_holes,
        "Rows and columns have changed places.": _transposed,
        "Only the four corners of each kernel are there. It has nine taps: the middle row and column, too.": _cross_missing,
    },
    praise="So a sum of rates is one linear layer. What it saves is all the zeros.",
    advice="Rates 1 and 2 give a kernel of 5 x 5: eight taps around the middle, eight on the border, and the middle.",
)
def one_kernel(kernels, rates):
    """kernels: a (3, 3) tensor for each of rates -> the one square kernel with which an ordinary convolution gives what
    the convolutions at these rates, each padded by its own rate, give together when they are added."""
    m = max(rates)
    held = torch.zeros(2 * m + 1, 2 * m + 1)
    for kernel, r in zip(kernels, rates, strict=True):
        held[m - r : m + r + 1 : r, m - r : m + r + 1 : r] += kernel
    return held


# -- aspp(maps, point, atrous, rates, whole)


def _branches(maps, point, atrous, rates, whole):
    """The 1x1, each rate and the whole map, before their ReLU."""
    mean = F.conv2d(maps.mean((2, 3), keepdim=True), whole).expand(-1, -1, *maps.shape[2:])
    dilated = [F.conv2d(maps, w, padding=r, dilation=r) for w, r in zip(atrous, rates, strict=True)]
    return [F.conv2d(maps, point), *dilated, mean]


def _summed(*case):
    return sum(x.relu() for x in _branches(*case))


def _no_relu(*case):
    return torch.cat(_branches(*case), 1)


def _whole_without_relu(*case):
    *rest, mean = _branches(*case)
    return torch.cat([*(x.relu() for x in rest), mean], 1)


def _without_whole(*case):
    return torch.cat(_branches(*case)[:-1], 1).relu()


def _without_point(*case):
    return torch.cat(_branches(*case)[1:], 1).relu()


def _whole_first(*case):
    *rest, mean = _branches(*case)
    return torch.cat([mean, *rest], 1).relu()


def _mean_of_the_batch(maps, point, atrous, rates, whole):
    *rest, _ = _branches(maps, point, atrous, rates, whole)
    mean = F.conv2d(maps.mean((0, 2, 3))[None, :, None, None], whole)
    return torch.cat([*rest, mean.expand_as(rest[0])], 1).relu()


def _largest_of_the_map(maps, point, atrous, rates, whole):
    *rest, _ = _branches(maps, point, atrous, rates, whole)
    mean = F.conv2d(maps.amax((2, 3), keepdim=True), whole)
    return torch.cat([*rest, mean.expand_as(rest[0])], 1).relu()


def _relu_then_mean(maps, point, atrous, rates, whole):
    *rest, _ = _branches(maps, point, atrous, rates, whole)
    mean = F.conv2d(maps, whole).relu().mean((2, 3), keepdim=True)
    return torch.cat([*(x.relu() for x in rest), mean.expand_as(rest[0])], 1)


def _whole_not_convolved(maps, point, atrous, rates, whole):
    *rest, _ = _branches(maps, point, atrous, rates, whole)
    return torch.cat([*rest, maps.mean((2, 3), keepdim=True).expand_as(rest[0])], 1).relu()


def _whole_is_a_point(maps, point, atrous, rates, whole):
    return torch.cat([*_branches(maps, point, atrous, rates, whole)[:-1], F.conv2d(maps, whole)], 1).relu()


def _rate_one(maps, point, atrous, rates, whole):
    return aspp.reference(maps, point, atrous, [1] * len(rates), whole)


def _rates_backwards(maps, point, atrous, rates, whole):
    return aspp.reference(maps, point, atrous, rates[::-1], whole)


def _cascade(maps, point, atrous, rates, whole):
    found, at = _branches(maps, point, atrous, rates, whole), maps
    for i, (w, r) in enumerate(zip(atrous, rates, strict=True)):
        at = found[1 + i] = F.conv2d(at, w, padding=r, dilation=r).relu()
    return torch.cat(found, 1).relu()


def _first_weights_for_all(maps, point, atrous, rates, whole):
    return aspp.reference(maps, point, [atrous[0]] * len(rates), rates, whole)


def _whole_summed(maps, point, atrous, rates, whole):
    *rest, _ = _branches(maps, point, atrous, rates, whole)
    return torch.cat([*rest, F.conv2d(maps.sum((2, 3), keepdim=True), whole).expand_as(rest[0])], 1).relu()


def _mean_along_one_side(maps, point, atrous, rates, whole):
    *rest, _ = _branches(maps, point, atrous, rates, whole)
    return torch.cat([*rest, F.conv2d(maps.mean(2, keepdim=True), whole).expand_as(rest[0])], 1).relu()


def _relu_in_front(maps, point, atrous, rates, whole):
    return aspp.reference(maps.relu(), point, atrous, rates, whole)


def _rates_first(*case):
    one, *dilated, mean = _branches(*case)
    return torch.cat([*dilated, one, mean], 1).relu()


def _point_last(*case):
    one, *rest = _branches(*case)
    return torch.cat([*rest, one], 1).relu()


def _point_and_whole_swapped(maps, point, atrous, rates, whole):
    return aspp.reference(maps, whole, atrous, rates, point)


@exercise(
    "Build ASPP as v3 has it",
    hints=(
        "One branch after the other, into a list: the 1 x 1, each rate, the whole map. All read the same `maps`.",
        "F.conv2d(maps, w, padding=r, dilation=r). The whole map: maps.mean((2, 3), keepdim=True), convolved with "
        "`whole`, then .expand(-1, -1, *maps.shape[2:]).",
        "return torch.cat(found, 1).relu()",
    ),
    cases=lambda: [
        (*(torch.randn(*shape, generator=torch.Generator().manual_seed(n + seed))
           for n, shape in enumerate(((batch, 4, *size), (4, 4, 1, 1)))),
         [torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(20 + i)) / 3 for i in range(len(rates))], rates,
         torch.randn(4, 4, 1, 1, generator=torch.Generator().manual_seed(40 + seed)))
        for seed, batch, size, rates in ((0, 2, (9, 9), [1, 2, 4]), (1, 1, (7, 12), [3, 2]), (2, 3, (12, 5), [2, 6, 12]))
    ],
    mistakes={
        "Those are summed, as in v2 (and with a ReLU). v3 stacks them: channels side by side.": _summed,
        "The ReLU is missing. Without one, what comes next could only add the branches up, as v2 does.": _no_relu,
        "The whole map's branch has a ReLU, too.": _whole_without_relu,
        "The branch of the whole map is missing: its mean, convolved with `whole`, at every place.": _without_whole,
        "The 1 x 1 branch is missing.": _without_point,
        "Another order: first the 1 x 1, then the rates, and the whole map last. (The authors' code begins with the whole map.)": _whole_first,
        "You averaged over the pictures of the batch, too. Each picture has its own mean.": _mean_of_the_batch,
        "That is the largest value of each channel. Image pooling takes the mean.": _largest_of_the_map,
        "For the whole map: first the mean, then the convolution and its ReLU. A mean of ReLUs is another thing.": _relu_then_mean,
        "The mean goes through `whole`, a 1 x 1 convolution, before it is handed to all places.": _whole_not_convolved,
        "`whole` reads the *mean* of the map. You let it read each place, a second 1 x 1.": _whole_is_a_point,
        "Each of `atrous` has its own rate: dilation=r, and padding=r to keep the size.": _rate_one,
        "Weights and rates have changed order: the first weight belongs to the first rate.": _rates_backwards,
        "You put the rates one behind the other. Here all branches read the same map.": _cascade,
        "Each rate has weights of its own.": _first_weights_for_all,
        "You summed over the map. Image pooling takes the mean, so that larger maps say it no louder.": _whole_summed,
        "You averaged along one side alone: the mean is over the whole map, .mean((2, 3), keepdim=True).": _mean_along_one_side,
        "The ReLU stands *behind* each branch's convolution. You had it in front.": _relu_in_front,
        "The 1 x 1 comes first, in front of the rates.": _rates_first,
        "The 1 x 1 comes first, not last.": _point_last,
        "`point` and `whole` have changed places: `point` reads each place, `whole` the mean.": _point_and_whole_swapped,
    },
    praise="With batch normalisation in front of each ReLU, that is what a 1 x 1 convolution joins afterwards.",
    advice="The result has as many channels as all branches together.",
)
def aspp(maps, point, atrous, rates, whole):
    """maps (B, C, H, W); point and whole: weights (D, C, 1, 1); atrous: a weight (D, C, 3, 3) for each of rates. No
    biases -> (B, D * (len(rates) + 2), H, W): the 1 x 1 convolution by `point`; the 3 x 3 at each rate; the mean of
    the whole map, convolved by `whole`, at every place. A ReLU behind each; stacked in this order."""
    found = [F.conv2d(maps, point)]
    found += [F.conv2d(maps, w, padding=r, dilation=r) for w, r in zip(atrous, rates, strict=True)]
    mean = F.conv2d(maps.mean((2, 3), keepdim=True), whole)
    found.append(mean.expand(-1, -1, *maps.shape[2:]))
    return torch.cat(found, 1).relu()


# -- costs(inputs, outputs, k, places)


def _weights_alone(inputs, outputs, k, places):
    return [n / places for n in costs.reference(inputs, outputs, k, places)]


def _depthwise_with_all_outputs(inputs, outputs, k, places):
    plain, _, pointwise = costs.reference(inputs, outputs, k, places)
    return plain, plain, pointwise


def _depthwise_of_outputs(inputs, outputs, k, places):
    plain, _, pointwise = costs.reference(inputs, outputs, k, places)
    return plain, outputs * k * k * places, pointwise


def _one_kernel_for_all(inputs, outputs, k, places):
    plain, _, pointwise = costs.reference(inputs, outputs, k, places)
    return plain, k * k * places, pointwise


def _pointwise_with_kernel(inputs, outputs, k, places):
    plain, depthwise, _ = costs.reference(inputs, outputs, k, places)
    return plain, depthwise, plain


def _pointwise_per_channel(inputs, outputs, k, places):
    plain, depthwise, _ = costs.reference(inputs, outputs, k, places)
    return plain, depthwise, outputs * places


def _pointwise_among_inputs(inputs, outputs, k, places):
    plain, depthwise, _ = costs.reference(inputs, outputs, k, places)
    return plain, depthwise, inputs * inputs * places


def _pointwise_added(inputs, outputs, k, places):
    plain, depthwise, _ = costs.reference(inputs, outputs, k, places)
    return plain, depthwise, (inputs + outputs) * places


def _side_not_area(inputs, outputs, k, places):
    return inputs * k * outputs * places, inputs * k * places, inputs * outputs * places


def _counted_twice(inputs, outputs, k, places):
    return [2 * n for n in costs.reference(inputs, outputs, k, places)]


def _pointwise_first(inputs, outputs, k, places):
    plain, depthwise, pointwise = costs.reference(inputs, outputs, k, places)
    return plain, pointwise, depthwise


def _plain_of_one_channel(inputs, outputs, k, places):
    _, depthwise, pointwise = costs.reference(inputs, outputs, k, places)
    return k * k * outputs * places, depthwise, pointwise


def _separable_together(inputs, outputs, k, places):
    plain, depthwise, pointwise = costs.reference(inputs, outputs, k, places)
    return plain, depthwise + pointwise


def _with_biases(inputs, outputs, k, places):
    plain, depthwise, pointwise = costs.reference(inputs, outputs, k, places)
    return plain + outputs * places, depthwise + inputs * places, pointwise + outputs * places


def _pointwise_at_one_place(inputs, outputs, k, places):
    plain, depthwise, _ = costs.reference(inputs, outputs, k, places)
    return plain, depthwise, inputs * outputs


def _pointwise_with_depthwise(inputs, outputs, k, places):
    plain, depthwise, pointwise = costs.reference(inputs, outputs, k, places)
    return plain, depthwise, depthwise + pointwise


def _plain_added(inputs, outputs, k, places):
    _, depthwise, pointwise = costs.reference(inputs, outputs, k, places)
    return (inputs + outputs) * k * k * places, depthwise, pointwise


def _additions_one_less(inputs, outputs, k, places):
    return (outputs * (2 * inputs * k * k - 1) * places, inputs * (2 * k * k - 1) * places,
            outputs * (2 * inputs - 1) * places)


@exercise(
    "Count the multiply-adds",
    hints=(
        "At one place first: each number that comes out is a sum of products. How many numbers come out, and of how "
        "many products is each?",
        "Plain: `outputs` numbers of inputs * k * k products. Depthwise: `inputs` numbers of k * k. Pointwise: "
        "`outputs` numbers of `inputs`.",
        "Times the places: inputs * k * k * outputs * places, inputs * k * k * places, inputs * outputs * places",
    ),
    cases=lambda: [(16, 24, 3, 100), (2048, 256, 3, 33 * 33), (304, 256, 3, 1), (5, 8, 7, 12), (8, 2, 5, 9)],
    mistakes={
        "Those are the weights. Each of them multiplies at every place.": _weights_alone,
        "Depthwise: each channel is read by one kernel and gives one channel. There are `inputs` numbers a place.": _depthwise_with_all_outputs,
        "The depthwise step comes first, and has as many channels as come *in*. The pointwise one makes `outputs` of them.": _depthwise_of_outputs,
        "Each channel has a kernel of its own: `inputs` of them, not one.": _one_kernel_for_all,
        "The pointwise convolution is 1 x 1: it has no k * k.": _pointwise_with_kernel,
        "Each output of the pointwise convolution is a sum over all `inputs`.": _pointwise_per_channel,
        "The pointwise convolution leads from `inputs` to `outputs`: their product, not inputs squared.": _pointwise_among_inputs,
        "Pointwise, each of the outputs reads each of the inputs: their product, not their sum.": _pointwise_added,
        "A kernel of side k has k * k taps.": _side_not_area,
        "A multiply-add is one multiplication and one addition, and counts once. You counted operations.": _counted_twice,
        "The order asked for: plain, depthwise, pointwise.": _pointwise_first,
        "In a plain convolution every output sums over all input channels, too.": _plain_of_one_channel,
        "Three numbers are asked for: depthwise and pointwise apart.": _separable_together,
        "These convolutions have no biases (batch normalisation follows), and no product for one.": _with_biases,
        "The pointwise step, too, is done at every place.": _pointwise_at_one_place,
        "The third number is the pointwise step alone, without the depthwise one.": _pointwise_with_depthwise,
        "In a plain convolution each output reads each input: their product, not their sum.": _plain_added,
        "You counted multiplications and additions apart. A product and its addition count as one.": _additions_one_less,
    },
    praise="(depthwise + pointwise) / plain = 1 / outputs + 1 / k squared, whatever comes in.",
)
def costs(inputs, outputs, k, places):
    """Multiply-adds of convolutions without biases, from `inputs` to `outputs` channels, k x k, for a map of so many
    places: (plain, depthwise, pointwise)."""
    return inputs * k * k * outputs * places, inputs * k * k * places, inputs * outputs * places


# -- as_separable(weight)


def _by_channel(weight):
    """The SVD of each input channel's matrix (outputs, k * k)."""
    return torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False)


def _parts(shapes, spatial):
    """pointwise (I, O) and depthwise (I, k * k) as weights."""
    side = round(spatial.shape[1] ** 0.5)
    return spatial.view(-1, 1, side, side), shapes.T[:, :, None, None]


def _fitted_to(spatial, weight):
    """The pointwise weights that fit best to given kernels (I, k * k)."""
    by_channel = weight.transpose(0, 1).flatten(2)
    scale = spatial.square().sum(1, keepdim=True)
    return _parts((by_channel @ spatial[..., None])[..., 0] / scale, spatial)


def _mean_kernel(weight):
    return _fitted_to(weight.mean(0).flatten(1), weight)


def _first_kernel(weight):
    return _fitted_to(weight[0].flatten(1), weight)


def _strongest_kernel(weight):
    by_channel = weight.transpose(0, 1).flatten(2)
    strongest = by_channel.square().sum(2).argmax(1)
    return _fitted_to(by_channel[torch.arange(len(by_channel)), strongest], weight)


def _shared_kernel(weight):
    u, s, v = torch.linalg.svd(weight.flatten(2).flatten(0, 1), full_matrices=False)
    pointwise = (s[0] * u[:, 0]).view(weight.shape[:2])
    return _parts(pointwise.T, v[0].expand(weight.shape[1], -1))


def _no_strength(weight):
    u, _, v = _by_channel(weight)
    return _parts(u[:, :, 0], v[:, 0])


def _half_strength(weight):
    u, s, v = _by_channel(weight)
    return _parts(u[:, :, 0] * s[:, :1].sqrt(), v[:, 0])


def _double_strength(weight):
    u, s, v = _by_channel(weight)
    return _parts(u[:, :, 0] * s[:, :1], v[:, 0] * s[:, :1])


def _second_one(weight):
    u, s, v = _by_channel(weight)
    return _parts(u[:, :, 1] * s[:, 1:2], v[:, 1])


def _weakest(weight):
    u, s, v = _by_channel(weight)
    return _parts(u[:, :, -1] * s[:, -1:], v[:, -1])


def _columns_of_v(weight):
    u, s, v = _by_channel(weight)
    return _parts(u[:, :, 0] * s[:, :1], v[:, :, 0])


def _reshaped(weight):
    outputs, inputs = weight.shape[:2]
    u, s, v = torch.linalg.svd(weight.reshape(inputs, outputs, -1), full_matrices=False)
    return _parts(u[:, :, 0] * s[:, :1], v[:, 0])


def _middle_taps(weight):
    side = weight.shape[-1]
    spatial = torch.zeros(weight.shape[1], side * side)
    spatial[:, side * side // 2] = 1
    return _fitted_to(spatial, weight)


def _flat_kernel(weight):
    return _fitted_to(torch.ones(weight.shape[1], weight[0, 0].numel()), weight)


def _sums(weight):
    return _parts(weight.sum((2, 3)).T, weight.mean(0).flatten(1))


def _mean_taken_off(weight):
    by_channel = weight.transpose(0, 1).flatten(2)
    u, s, v = torch.linalg.svd(by_channel - by_channel.mean(1, keepdim=True), full_matrices=False)
    return _parts(u[:, :, 0] * s[:, :1], v[:, 0])


def _fitted_once(weight):
    by_channel = weight.transpose(0, 1).flatten(2)
    column = by_channel @ by_channel.mean(1)[..., None]
    row = by_channel.mT @ column / column.square().sum(1, keepdim=True)
    return _parts(column[..., 0], row[..., 0])


def _one_kernel_an_output(weight):
    u, s, v = torch.linalg.svd(weight.flatten(2), full_matrices=False)
    spatial = v[:1, 0].expand(weight.shape[1], -1)
    return _parts((u[:, :, 0] * s[:, :1]).T, spatial)


def _product(returned, weight):
    """depthwise times pointwise: the plain convolution (O, I, k, k) that two steps without a ReLU between them are."""
    try:
        depthwise, pointwise = (torch.as_tensor(part).double() for part in returned)
    except (TypeError, ValueError):
        raise ValueError("return two weights: depthwise (I, 1, k, k) and pointwise (O, I, 1, 1)") from None
    outputs, inputs, *side = weight.shape
    wanted = ((inputs, 1, *side), (outputs, inputs, 1, 1))
    if (shapes := (tuple(depthwise.shape), tuple(pointwise.shape))) != wanted:
        raise ValueError(f"the two weights should have shapes {wanted[0]} and {wanted[1]}, but have {shapes[0]} and {shapes[1]}")
    return pointwise * depthwise[:, 0]


def _mixed(outputs, inputs, k, seed):
    """Weights whose kernels, for each channel, have a strongest part, others, and a mean that is another again."""
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, k, k, generator=noise)
    return weight + 1.5 * torch.randn(outputs, inputs, 1, 1, generator=noise) * torch.randn(inputs, k, k, generator=noise)


@exercise(
    "Take a convolution apart, as well as can be",
    hints=(
        "In the two steps, the kernel from channel i to channel o is pointwise[o, i] times depthwise[i]: for one i, all "
        "outputs share one kernel, up to a factor.",
        "So for each i the weight[:, i], as a matrix of outputs rows and k * k columns, is to be written as a column "
        "times a row: rank 1. The singular value decomposition gives the best such pair.",
        "u, s, v = torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False): the column is "
        "u[:, :, 0] * s[:, :1], one for each i, and the row v[:, 0].",
    ),
    cases=lambda: [
        (_mixed(12, 4, 3, 0),), (_mixed(10, 10, 3, 1),), (_mixed(30, 2, 5, 2),),
        (torch.arange(1.0, 41).view(10, 4, 1, 1).sin() * torch.arange(1.0, 37).view(4, 3, 3).cos(),),
    ],
    observe=_product,
    mistakes={
        "As kernels you took the mean over the outputs. A mean is not the best: kernels of opposite sign cancel in it.": _mean_kernel,
        "As kernels you took those of the first output. There are better ones, that fit all outputs.": _first_kernel,
        "As kernels you took each channel's strongest one. One that lies between all of them fits better.": _strongest_kernel,
        "You have one kernel for all channels. Each input channel has its own.": _shared_kernel,
        "The directions are right, but their strength, the singular value, is missing.": _no_strength,
        "The root of the singular value went into one of the two. Both need it, or one needs all of it.": _half_strength,
        "Both have the whole singular value: their product has it squared. Once is enough.": _double_strength,
        "That is the second-best part. The strongest comes first.": _second_one,
        "That is the weakest part. torch sorts singular values from large to small.": _weakest,
        "torch.linalg.svd returns V transposed: its *rows* are the kernels, v[:, 0].": _columns_of_v,
        "reshape does not swap outputs and inputs, it only counts the numbers off anew. transpose(0, 1) swaps.": _reshaped,
        "You kept the middle taps alone: that is a 1 x 1 convolution. A depthwise kernel can do more.": _middle_taps,
        "As kernels you took a mean over the window. Each channel may have a kernel of its own shape.": _flat_kernel,
        "Sums over a window are no shares: what is asked is how much of the *shared* kernel is in each output's.": _sums,
        "You took the mean off first, as for principal components. Here the kernels themselves are written, mean and all.": _mean_taken_off,
        "One round of fitting is not enough: fit one to the other in turn until nothing changes, or ask torch.linalg.svd.": _fitted_once,
        "You decomposed output by output. The kernel is shared by the *outputs* of one input channel: weight[:, i].": _one_kernel_an_output,
    },
    praise="The best there is (Eckart and Young, 1936). And in general it is not the convolution you began with.",
    advice="Compared is pointwise times depthwise, so it does not matter which of the two has the strength or the sign.",
    tolerance=1e-3,
)
def as_separable(weight):
    """weight (O, I, k, k) of a plain convolution -> (depthwise (I, 1, k, k), pointwise (O, I, 1, 1)): the two steps,
    with nothing between them, whose kernels pointwise[o, i] * depthwise[i] come closest to weight[o, i], in squares."""
    u, s, v = torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False)
    depthwise = v[:, 0].reshape(-1, 1, *weight.shape[2:])
    pointwise = (u[:, :, 0] * s[:, :1]).T[:, :, None, None]
    return depthwise, pointwise


EXERCISES = {item.name: item for item in (one_kernel, aspp, costs, as_separable)}
