"""Exercises of lesson 09, PSPNet."""

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "PSPNet"


# -- windows(size, bins)


def _floors(size, bins):
    return [(i * size // bins, (i + 1) * size // bins) for i in range(bins)]


def _ceilings(size, bins):
    return [(-(-i * size // bins), -(-(i + 1) * size // bins)) for i in range(bins)]


def _holes(size, bins):
    return [(-(-i * size // bins), (i + 1) * size // bins) for i in range(bins)]


def _rest_lost(size, bins):
    width = size // bins
    return [(i * width, (i + 1) * width) for i in range(bins)]


def _rest_to_the_last(size, bins):
    width = size // bins
    return [(i * width, size if i == bins - 1 else (i + 1) * width) for i in range(bins)]


def _rest_to_the_first(size, bins):
    ends = [(i + 1) * (size // bins) + min(i + 1, size % bins) for i in range(bins)]
    return list(zip([0, *ends], ends, strict=False))


def _one_width(size, bins):
    width, step = -(-size // bins), size // bins
    return [(i * step, i * step + width) for i in range(bins)]


def _beyond_the_map(size, bins):
    width = -(-size // bins)
    return [(i * width, (i + 1) * width) for i in range(bins)]


def _rounded(size, bins):
    return [(round(i * size / bins), round((i + 1) * size / bins)) for i in range(bins)]


def _last_included(size, bins):
    return [(first, end - 1) for first, end in windows.reference(size, bins)]


def _widths(size, bins):
    return [(first, end - first) for first, end in windows.reference(size, bins)]


def _not_whole(size, bins):
    return [(i * size / bins, (i + 1) * size / bins) for i in range(bins)]


@exercise(
    "Which places does each cell of a bin average?",
    hints=(
        "Cut the line into `bins` equal parts. Where are their borders, if they need not be whole numbers?",
        "Part i reaches from i * size / bins to (i + 1) * size / bins. A place that it touches, it reads whole.",
        "So round the beginning down and the end up: i * size // bins and -(-(i + 1) * size // bins) (or math.ceil).",
    ),
    cases=lambda: [(6, 3), (8, 3), (8, 6), (7, 2), (60, 6), (10, 4), (4, 6), (9, 1), (16, 6)],
    mistakes={
        "Your beginnings are right. Round the ends *up*: a place that is touched is read whole.": _floors,
        "Your ends are right. Round the beginnings *down*: a place that is touched is read whole.": _ceilings,
        "Rounded inwards: your windows leave out what they touch only in part. Round outwards.": _holes,
        "The last places are read by no window: you rounded the width down, and the rest is lost.": _rest_lost,
        "You give the rest to the last window. Each window has its own borders, i * size / bins, rounded outwards.": _rest_to_the_last,
        "You deal the rest out to the first windows, without overlap. These windows overlap where the borders are not whole.": _rest_to_the_first,
        "One width and one step for all windows does not reach the end where `bins` does not divide `size`.": _one_width,
        "Your last windows stick out of the map. Only the borders i * size / bins are rounded, not the width.": _beyond_the_map,
        "You rounded to the nearest: then windows do not overlap, and where there are more cells than places some are empty. Round outwards.": _rounded,
        "Right but for the convention: the end is one past the last place.": _last_included,
        "That is the beginning and the *width*. The second number is the end, one past the last place.": _widths,
        "Borders between places: which places are read? Round outwards to whole numbers.": _not_whole,
    },
    praise="Where the bins do not divide the map, neighbours share a place, and none is left out.",
    advice="Eight places, three cells: (0, 3), (2, 6), (5, 8).",
)
def windows(size, bins):
    """For each of `bins` cells of an adaptive average over a line of `size` places: (first, end), the first place that
    it reads and one past the last. A list of pairs."""
    return [(i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins)]


# -- shares(place, size, bins)


def _centres(place, size, bins):
    at = min(max((place + 0.5) * bins / size - 0.5, 0), bins - 1)
    return [max(0.0, 1 - abs(at - cell)) for cell in range(bins)]


def _own_cell(place, size, bins):
    return [float(cell == place * bins // size) for cell in range(bins)]


def _nearest(place, size, bins):
    return [float(cell == round(place * (bins - 1) / (size - 1))) for cell in range(bins)]


def _mirrored(place, size, bins):
    return shares.reference(place, size, bins)[::-1]


def _wrong_neighbour(place, size, bins):
    at = place * (bins - 1) / (size - 1)
    left = min(int(at), max(bins - 2, 0))
    weights = [0.0] * bins
    weights[left] += at - left
    weights[min(left + 1, bins - 1)] += 1 - (at - left)
    return weights


def _divided_by_size(place, size, bins):
    at = place * (bins - 1) / size
    return [max(0.0, 1 - abs(at - cell)) for cell in range(bins)]


def _times_bins(place, size, bins):
    at = min(place * bins / size, bins - 1)
    return [max(0.0, 1 - abs(at - cell)) for cell in range(bins)]


def _times_bins_aligned(place, size, bins):
    at = min(place * bins / (size - 1), bins - 1)
    return [max(0.0, 1 - abs(at - cell)) for cell in range(bins)]


def _overlaps(place, size, bins):
    weights = [float(first <= place < end) for first, end in windows.reference(size, bins)]
    return [weight / sum(weights) for weight in weights]


def _over_all(place, size, bins):
    at = place * (bins - 1) / (size - 1)
    weights = [1 / (1 + abs(at - cell)) for cell in range(bins)]
    return [weight / sum(weights) for weight in weights]


@exercise(
    "How much of each cell does a place get?",
    hints=(
        "Corners aligned: cell 0 stands on place 0, the last cell on the last place, the others evenly between. Where, "
        "counted in cells, is our place?",
        "At x = place * (bins - 1) / (size - 1). A cell counts 1 where it stands, 0 one cell further, on a straight line "
        "between.",
        "[max(0, 1 - abs(x - cell)) for cell in range(bins)]",
    ),
    cases=lambda: [(0, 8, 2), (3, 8, 2), (7, 8, 3), (2, 9, 6), (5, 13, 3), (4, 9, 1), (10, 24, 6), (3, 24, 6), (4, 9, 2)],
    mistakes={
        "That is without aligned corners. Here cell 0 stands on place 0, not in the middle of its window.": _centres,
        "You give each place the cell whose window it is in. Enlarged bilinearly, it gets a mixture of two.": _own_cell,
        "You take the nearest cell alone. Bilinear mixes the two nearest.": _nearest,
        "The right numbers, counted from the wrong end.": _mirrored,
        "The two cells are right, their shares exchanged: the nearer one counts more.": _wrong_neighbour,
        "From the first place to the last it is size - 1 steps.": _divided_by_size,
        "From the first cell to the last it is bins - 1 steps, and from the first place to the last size - 1.": _times_bins,
        "From the first cell to the last it is bins - 1 steps: the last place should stand on the last cell.": _times_bins_aligned,
        "Which windows a place lies in does not matter for enlarging: where it stands between the cells does.": _overlaps,
        "Only the two nearest cells count, on straight lines.": _over_all,
    },
    praise="At the picture's edge one cell counts alone: what lies in another cell of that bin is not heard there.",
    advice="Try size 9 and 3 cells: they stand on the places 0, 4 and 8, so place 1 hears 3/4 of the first, 1/4 of the second.",
)
def shares(place, size, bins):
    """A line of `bins` cells is enlarged to `size` places, linearly, corners aligned -> how much of each cell's value
    the given place gets: a list of `bins` numbers, together 1."""
    at = place * (bins - 1) / (size - 1)
    return [max(0.0, 1 - abs(at - cell)) for cell in range(bins)]


# -- pyramid(maps, bins, reduce)


def _maps() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    cases = []
    for shape, bins in (((1, 4, 6, 6), (1, 2)), ((2, 6, 7, 9), (1, 2, 3)), ((2, 4, 8, 5), (2, 3)), ((1, 8, 9, 12), (1, 2, 3, 6)),
                        ((2, 3, 5, 5), (3,))):  # fmt: skip
        channels = shape[1]
        weights = torch.randn(len(bins), channels // len(bins), channels, 1, 1, generator=generator)
        cases.append((torch.randn(shape, generator=generator), bins, list(weights)))
    return cases


def _enlarged(maps, bins, weights, pool=F.adaptive_avg_pool2d, **how):
    """One map for each bin, pooled, convolved, enlarged."""
    how = how or {"mode": "bilinear", "align_corners": True}
    return [F.interpolate(F.conv2d(pool(maps, n), weight).relu(), maps.shape[2:], **how)
            for n, weight in zip(bins, weights, strict=True)]  # fmt: skip


def _maps_forgotten(maps, bins, weights):
    return torch.cat(_enlarged(maps, bins, weights), 1)


def _max_pooled(maps, bins, weights):
    return torch.cat([maps, *_enlarged(maps, bins, weights, pool=F.adaptive_max_pool2d)], 1)


def _blocks(maps, bins, weights):
    return torch.cat([maps, *_enlarged(maps, bins, weights, mode="nearest")], 1)


def _corners_not_aligned(maps, bins, weights):
    return torch.cat([maps, *_enlarged(maps, bins, weights, mode="bilinear", align_corners=False)], 1)


def _maps_last(maps, bins, weights):
    return torch.cat([*_enlarged(maps, bins, weights), maps], 1)


def _fine_first(maps, bins, weights):
    return torch.cat([maps, *_enlarged(maps, bins, weights)[::-1]], 1)


def _summed(maps, bins, weights):
    return torch.cat([maps, sum(_enlarged(maps, bins, weights))], 1)


def _one_weight(maps, bins, weights):
    return torch.cat([maps, *_enlarged(maps, bins, [weights[0]] * len(bins))], 1)


def _of_each_other(maps, bins, weights):
    pooled, found = maps, [maps]
    for n, weight in sorted(zip(bins, weights, strict=True), key=lambda pair: -pair[0]):
        pooled = F.adaptive_avg_pool2d(pooled, n)
        small = F.conv2d(pooled, weight).relu()
        found.insert(1, F.interpolate(small, maps.shape[2:], mode="bilinear", align_corners=True))
    return torch.cat(found, 1)


def _not_reduced(maps, bins, weights):
    size = maps.shape[2:]
    return torch.cat([maps, *(F.interpolate(F.adaptive_avg_pool2d(maps, n), size, mode="bilinear", align_corners=True)
                              for n in bins)], 1)  # fmt: skip


def _relu_forgotten(maps, bins, weights):
    small = [F.conv2d(F.adaptive_avg_pool2d(maps, n), weight) for n, weight in zip(bins, weights, strict=True)]
    return torch.cat([maps, *(F.interpolate(each, maps.shape[2:], mode="bilinear", align_corners=True)
                              for each in small)], 1)  # fmt: skip


def _relu_at_the_end(maps, bins, weights):
    large = _relu_forgotten(maps, bins, weights)
    return torch.cat([maps, large[:, maps.shape[1] :].relu()], 1)


def _relu_first(maps, bins, weights):
    return torch.cat([maps, *_enlarged(maps, bins, weights, pool=lambda x, n: F.adaptive_avg_pool2d(x, n).relu())], 1)


def _relu_on_all(maps, bins, weights):
    return pyramid.reference(maps, bins, weights).relu()


def _windows_of_n(maps, bins, weights):
    def pool(x, n):
        return F.avg_pool2d(x, n, ceil_mode=True)

    return torch.cat([maps, *_enlarged(maps, bins, weights, pool=pool)], 1)


@exercise(
    "Build the pyramid",
    hints=(
        "For each bin a few steps: average, reduce, ReLU, enlarge. What goes first into the result?",
        "F.adaptive_avg_pool2d(maps, n) has n x n places; F.conv2d(pooled, weight).relu() is the rest of a bin; "
        'F.interpolate(small, size=maps.shape[2:], mode="bilinear", align_corners=True) makes it large.',
        "Collect them in a list that begins with `maps` itself, and end with torch.cat(found, 1).",
    ),
    cases=_maps,
    mistakes={
        "The maps themselves are missing. They come first: what each pixel knew before is kept.": _maps_forgotten,
        "You took the largest value of each cell. It is the average.": _max_pooled,
        "You enlarged in blocks. It is bilinear.": _blocks,
        "Nearly. The corners are aligned here: align_corners=True.": _corners_not_aligned,
        "All there, but the maps themselves come first.": _maps_last,
        "All there, but the bins come in the order in which they are given.": _fine_first,
        "You added the bins up. They are stacked as channels, so that what follows can tell them apart.": _summed,
        "Each bin has a weight of its own: you used the first one for all.": _one_weight,
        "You pooled what was pooled. Each bin averages the maps themselves: where windows overlap, that is not the same.": _of_each_other,
        "The ReLU is missing, behind each 1 x 1 convolution.": _relu_forgotten,
        "The ReLU stands in front of the enlarging, where there are n x n places: behind it, it gives other numbers.": _relu_at_the_end,
        "The ReLU comes behind the 1 x 1 convolution, not in front of it.": _relu_first,
        "The maps themselves go in as they are: the ReLU is for the bins alone.": _relu_on_all,
        "Reduce each bin by its 1 x 1 convolution: without it the result has too many channels.": _not_reduced,
        "A bin of n has n x n *cells*, however large the map is. Your windows are n x n *places* large.": _windows_of_n,
    },
    praise="Now each pixel carries what it saw itself, and what there is around it, at every scale.",
    advice="First the maps, then for each bin: average, 1 x 1 convolution, ReLU, bilinear with aligned corners. All stacked.",
)
def pyramid(maps, bins, weights):
    """maps (B, C, H, W); weights: for each bin the weight (C', C, 1, 1) of its 1 x 1 convolution -> (B, C + C' *
    len(bins), H, W): the maps, then for each bin n the average over n x n cells, convolved, ReLU, enlarged bilinearly
    (corners aligned), all stacked."""
    found = [maps]
    for n, weight in zip(bins, weights, strict=True):
        small = F.conv2d(F.adaptive_avg_pool2d(maps, n), weight).relu()
        found.append(F.interpolate(small, size=maps.shape[2:], mode="bilinear", align_corners=True))
    return torch.cat(found, 1)


# -- cost(channels, bins)


def _without_the_maps(channels, bins):
    each = channels // len(bins)
    return len(bins) * each, cost.reference(channels, bins)[1]


def _not_divided(channels, bins):
    return channels * (1 + len(bins)), len(bins) * channels * channels


def _by_cells(channels, bins):
    each = channels // len(bins)
    return channels + len(bins) * each, sum(n * n for n in bins) * channels * each


def _kernels_of_n(channels, bins):
    each = channels // len(bins)
    return channels + len(bins) * each, sum(n * n * channels * each for n in bins) + channels


def _one_bin(channels, bins):
    each = channels // len(bins)
    return channels + len(bins) * each, channels * each


def _three_by_three(channels, bins):
    each = channels // len(bins)
    return channels + len(bins) * each, len(bins) * 9 * channels * each


def _with_biases(channels, bins):
    each = channels // len(bins)
    return channels + len(bins) * each, len(bins) * (channels + 1) * each


def _four_always(channels, bins):
    return channels + len(bins) * (channels // 4), len(bins) * channels * (channels // 4)


def _twice(channels, bins):
    return 2 * channels, channels * channels


def _channels_by_cells(channels, bins):
    each = channels // len(bins)
    return channels + sum(n * n for n in bins) * each, len(bins) * channels * each


def _weights_first(channels, bins):
    return cost.reference(channels, bins)[::-1]


@exercise(
    "Count the pyramid's channels and weights",
    hints=(
        "N bins, each reduced to C // N channels. And what is stacked with them?",
        "A 1 x 1 convolution from C to C' channels without bias has C * C' weights, however many places it works on.",
        "each = channels // len(bins); return channels + len(bins) * each, len(bins) * channels * each",
    ),
    cases=lambda: [(2048, (1, 2, 3, 6)), (256, (1,)), (512, (1, 2, 4)), (10, (2, 3, 6)), (64, (1, 4))],
    mistakes={
        "The weights are right. Of the channels you forgot those of the maps themselves.": _without_the_maps,
        "Each bin is reduced to C // N channels, so that all bins together weigh no more than the maps.": _not_divided,
        "The cells of a bin share one convolution: the weights do not grow with n x n.": _by_cells,
        "That has a kernel of n x n. They are 1 x 1 convolutions, on n x n cells.": _kernels_of_n,
        "Those are the weights of one bin.": _one_bin,
        "That counts 3 x 3 kernels. They are 1 x 1.": _three_by_three,
        "There are no biases: batch normalisation follows, which takes them away.": _with_biases,
        "You divided by 4 always. It is the number of bins, which need not be 4.": _four_always,
        "2 C and C x C hold where the number of bins divides C. Where it does not, C // N is rounded down.": _twice,
        "A bin of n x n cells has no more channels than the others: the cells are places.": _channels_by_cells,
        "The other way round: first the channels, then the weights.": _weights_first,
    },
    praise="Twice the channels, and as many weights as one 1 x 1 convolution from C to C: cheap. What reads it is not.",
)
def cost(channels, bins):
    """Of a pyramid over `channels` channels: how many channels its result has, and how many weights its 1 x 1
    convolutions (no biases)."""
    each = channels // len(bins)
    return channels + len(bins) * each, len(bins) * channels * each


EXERCISES = {item.name: item for item in (windows, shares, pyramid, cost)}
