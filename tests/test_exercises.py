"""Every exercise: right answers in unusual styles pass, each plausible wrong answer is told its own mistake; and the engine."""

import importlib
import itertools
import math
import pkgutil
import random
from fractions import Fraction

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import torch
import torch.nn.functional as F
import torchvision
from jupyter_client.manager import start_new_kernel
from torch import nn

import segviz.exercises
import segviz.layers
import segviz.losses
import segviz.metrics
from segviz.exercises import (
    engine,
    lesson_00,
    lesson_01,
    lesson_02,
    lesson_03,
    lesson_04,
    lesson_05,
    lesson_06,
    lesson_07,
    lesson_08,
    lesson_09,
    lesson_10,
    lesson_11,
    lesson_12,
    lesson_13,
)
from segviz.exercises.progress import Progress
from segviz.layers import bilinear_kernel, linear_to_conv

LESSONS = [importlib.import_module(f"segviz.exercises.{m.name}") for m in pkgutil.iter_modules(segviz.exercises.__path__)
           if m.name.startswith("lesson_")]
ALL = [exercise for lesson in LESSONS for exercise in lesson.EXERCISES.values()]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGVIZ_HOME", str(tmp_path))


# -- right answers as people write them

def _labels_loop(scores):
    label_map = np.zeros(scores.shape[1:], dtype=int)
    for row in range(scores.shape[1]):
        for column in range(scores.shape[2]):
            label_map[row, column] = int(np.argmax(scores[:, row, column].numpy()))
    return label_map


def _shares_dict(mask, num_classes):
    known = [int(x) for x in mask.flatten() if x != 255]
    return tuple(known.count(c) / len(known) for c in range(num_classes))


def _iou_loop(counts):
    scores = []
    for c in range(len(counts)):
        union = float(counts[c].sum() + counts[:, c].sum() - counts[c, c])
        scores.append(float(counts[c, c]) / union if union else float("nan"))
    return scores


def _dataset_numpy(matrices):
    total = np.sum([m.numpy() for m in matrices], axis=0)
    union = total.sum(0) + total.sum(1) - np.diag(total)
    return np.mean([hit / u for hit, u in zip(np.diag(total), union, strict=True) if u])


def _dataset_in_place(matrices):
    matrices[0] += sum(matrices[1:])                    # spoils its argument: no reason to fail
    return np.float32(np.nanmean(_iou_loop(matrices[0])))


def _bands_loop(truth, guess, width):
    def band(mask):
        found = set()
        height, breadth = mask.shape
        for r, c in mask.nonzero().tolist():
            around = [(i, j) for i in range(r - width, r + width + 1) for j in range(c - width, c + width + 1)]
            if any(not (0 <= i < height and 0 <= j < breadth) or not mask[i, j] for i, j in around):
                found.add((r, c))
        return found

    return len(band(truth) & band(guess)) / len(band(truth) | band(guess))


def _bands_steps(truth, guess, width):
    def band(mask):
        core = mask.clone()
        for _ in range(width):
            core = F.conv2d(core.float()[None, None], torch.ones(1, 1, 3, 3), padding=1)[0, 0] == 9
        return (mask ^ core).numpy()

    return np.logical_and(band(truth), band(guess)).sum() / np.logical_or(band(truth), band(guess)).sum()


def _bands_counts(truth, guess, width):
    return segviz.metrics.boundary_iou(guess.long(), truth.long(), 2, width=width)[1]


def _count_loop(size, window, stride):
    return len([start for start in range(0, size, stride) if start + window <= size])


def _fold_loop(matrix, channels, k):
    filters = torch.empty(len(matrix), channels, k, k)
    for n, row in enumerate(matrix):
        for i, number in enumerate(row):
            filters[n, i // (k * k), i // k % k, i % k] = number
    return filters


class _Head(nn.Module):
    def __init__(self, head, channels, k):
        super().__init__()
        self.head, self.k = head, k

    def forward(self, x):                               # slow and right: the head itself, window by window
        rows, columns = x.shape[2] - self.k + 1, x.shape[3] - self.k + 1
        out = [[self.head(x[:, :, r:r + self.k, c:c + self.k]) for c in range(columns)] for r in range(rows)]
        return torch.stack([torch.stack(line, -1) for line in out], -2)


def _functional_head(head, channels, k):
    weights = [p.detach().clone() for p in head.parameters()]
    return lambda x: F.conv2d(F.conv2d(x, weights[0].reshape(-1, channels, k, k), weights[1]).relu(), weights[2][..., None, None], weights[3])


def _counts_from_ones(inputs, k, s):
    return F.conv_transpose1d(torch.ones(1, 1, inputs), torch.ones(1, 1, k), stride=s).flatten()


def _counts_by_output(inputs, k, s):
    return [sum(0 <= place - i * s < k for i in range(inputs)) for place in range((inputs - 1) * s + k)]


def _tile_of_a_sum(values, s):
    total = sum(values[r:r + s, c:c + s] for r in range(0, len(values), s) for c in range(0, values.shape[1], s))
    return total / (values.numel() // s**2)


def _blocks_first(maps, weight, scale):
    return F.conv2d(maps.repeat_interleave(scale, 2).repeat_interleave(scale, 3), weight, padding=len(weight[0, 0]) // 2)


def _module_resize(maps, weight, scale):
    convolution = nn.Conv2d(weight.shape[1], len(weight), weight.shape[-1], padding=weight.shape[-1] // 2, bias=False)
    convolution.weight.data = weight
    return nn.Sequential(nn.UpsamplingNearest2d(scale_factor=scale), convolution)(maps)


def _same_padding(maps, weight, scale):
    return F.conv2d(maps.kron(torch.ones(1, 1, scale, scale)), weight, padding="same")


def _step_by_hand(size, jump, start, kernel, stride, padding, dilation):
    left = start - size / 2 - padding * jump
    right = start + size / 2 + (dilation * (kernel - 1) - padding) * jump
    return np.array([right - left, jump * stride, (left + right) / 2])


def _read_by_gradient(rates):
    reach = sum(rates)
    line = torch.zeros(1, 1, 2 * reach + 1, dtype=torch.double, requires_grad=True)
    out = line
    for rate in rates:
        out = F.conv1d(out, torch.ones(1, 1, 3, dtype=torch.double), dilation=rate)
    out.sum().backward()
    return (line.grad[0, 0].nonzero()[:, 0] - reach).tolist()


def _read_by_shifts(rates):
    line = torch.zeros(2 * sum(rates) + 1, dtype=torch.bool)
    line[sum(rates)] = True
    for rate in rates:
        line = line | line.roll(rate) | line.roll(-rate)
    return line.nonzero().flatten() - sum(rates)


def _field_functional(network, image, row, column):
    return torch.func.grad(lambda x: network(x[None])[0, :, row, column].sum())(image).detach().abs().sum(0).numpy()


def _field_channel_by_channel(network, image, row, column):
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x[None])[0, :, row, column], image)
    return jacobian.sum(0).abs().sum(0)


def _field_in_place(network, image, row, column):
    image.requires_grad = True
    mask = torch.zeros_like(output := network(image.unsqueeze(0)))
    mask[:, :, row, column] = 1
    output.backward(mask)
    return sum(channel.abs() for channel in image.grad)


def _grid_sampled(values, row, column):
    height, width = values.shape
    place = torch.tensor([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1]).view(1, 1, 1, 2)
    return F.grid_sample(values[None, None], place, align_corners=True).squeeze()


def _tents_over_all(values, row, column):
    rows = np.maximum(0, 1 - np.abs(np.arange(values.shape[0]) - row))
    columns = np.maximum(0, 1 - np.abs(np.arange(values.shape[1]) - column))
    return rows @ values.numpy() @ columns


def _down_then_across(values, row, column):
    y, x = math.floor(row), math.floor(column)
    y2, x2 = math.ceil(row), math.ceil(column)
    left = values[y][x].item() * (1 - (row - y)) + values[y2][x].item() * (row - y)
    right = values[y][x2].item() * (1 - (row - y)) + values[y2][x2].item() * (row - y)
    return left * (1 - (column - x)) + right * (column - x)


def _stamps_by_reading(values, kernel, stride):
    k, (height, width) = len(kernel), values.shape
    out = [[0.0] * ((width - 1) * stride + k) for _ in range((height - 1) * stride + k)]
    for y, x in itertools.product(range(len(out)), range(len(out[0]))):
        for i, j in itertools.product(range(k), range(k)):
            row, column = (y - i) / stride, (x - j) / stride
            if row.is_integer() and column.is_integer() and 0 <= row < height and 0 <= column < width:
                out[y][x] += float(values[int(row), int(column)] * kernel[i, j])
    return out


def _size_by_torch(n, k, s, p, o, d):
    try:
        return nn.ConvTranspose1d(1, 1, k, s, p, o, dilation=d)(torch.zeros(1, 1, n)).shape[-1]
    except RuntimeError:
        return 0


def _size_by_stamps(n, k, s, p, o, d):
    last = max(i * s + j * d for i in range(n) for j in range(k))
    return max(0, last + 1 - 2 * p + o) * (o < max(s, d))


def _tent_by_interpolation(stride):
    size = 2 * stride - stride % 2
    middle = (size - 1) / 2
    return np.interp(range(size), [middle - stride, middle, middle + stride], [0, 1, 0])


def _unpooled_by_torch(values, switches, height, width):
    window = height // values.shape[0], width // values.shape[1]
    return F.max_unpool2d(values[None, None], switches[None, None], window, output_size=(height, width))[0, 0]


def _unpooled_by_asking(values, switches, height, width):
    stood = dict(zip(switches.flatten().tolist(), values.flatten().tolist(), strict=True))
    return [[stood.get(row * width + column, 0) for column in range(width)] for row in range(height)]


def _read_off_stamps(weight):
    """Each input channel's stamp, turned, is what the convolution multiplies that channel with."""
    return torch.stack([F.conv_transpose2d(one[None, :, None, None], weight)[0].rot90(2, (1, 2)) for one in torch.eye(len(weight))], 1)


def _turned_by_loops(weight):
    inputs, outputs, k, _ = weight.shape
    return [[[[weight[c, d, k - 1 - i, k - 1 - j].item() for j in range(k)] for i in range(k)] for c in range(inputs)]
            for d in range(outputs)]


def _pasted_by_pixels(scores, boxes, height, width):
    def best(c, y, x):
        return max([0.0, *(float(maps[c, y - y0, x - x0]) for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True)
                           if y0 <= y < y1 and x0 <= x < x1)])

    return np.array([[[best(c, y, x) for x in range(width)] for y in range(height)] for c in range(3)])


def _pasted_by_padding(scores, boxes, height, width):
    layers_ = [F.pad(maps, (x0, width - x1, y0, height - y1)) for maps, (x0, y0, x1, y1) in zip(scores, boxes, strict=True)]
    return torch.stack([torch.zeros(3, height, width), *layers_]).max(0).values


def _pasted_in_place(scores, boxes, height, width):
    out = np.zeros((3, height, width))
    for s, b in zip(scores, boxes, strict=True):
        np.maximum(view := out[:, b[1]:b[3], b[0]:b[2]], s.numpy(), out=view)
    return out


def _valid_by_layers(size, depth):
    """What torch makes of it: real layers on a map without numbers; an error of theirs is the 0."""
    line = torch.empty(1, 1, size, device="meta")
    two = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3)).to("meta")
    try:
        for _ in range(depth):
            line = two(line)
            if line.shape[-1] % 2:
                return 0
            line = F.max_pool1d(line, 2)
        line = two(line)
        for _ in range(depth):
            line = two(nn.Upsample(scale_factor=2)(line))
        return line.shape[-1]
    except RuntimeError:
        return 0


def _valid_from_the_bottom(size, depth):
    """Backwards: every size that works comes from a whole number at the bottom."""
    for bottom in range(1, size):
        before, after = bottom + 4, bottom
        for _ in range(depth):
            before, after = 2 * before + 4, 2 * after - 4
        if before == size and after > 0:
            return after
    return 0


def _valid_in_closed_form(size, depth):
    bottom = Fraction(size - 4 * (2**depth - 1), 2**depth) - 4
    return max(0, size - 12 * 2**depth + 8) * (bottom.denominator == 1)


def _cropped_by_padding(skip, up):
    rows, columns = (skip.shape[axis] - up.shape[axis] for axis in (2, 3))
    return torch.cat((F.pad(skip, [-(columns // 2)] * 2 + [-(rows // 2)] * 2), up), dim=1)


def _cropped_by_numpy(skip, up):
    top, left = ((a - b) // 2 for a, b in zip(skip.shape[2:], up.shape[2:], strict=True))
    rows, columns = slice(top, skip.shape[2] - top), slice(left, skip.shape[3] - left)
    return np.concatenate([skip.numpy()[:, :, rows, columns], up.numpy()], axis=1)


def _cropped_written_in(skip, up):
    (batch, channels), (height, width) = skip.shape[:2], up.shape[2:]
    out = torch.zeros(batch, channels + up.shape[1], height, width)
    out[:, channels:] = up
    out[:, :channels] = torchvision.transforms.functional.center_crop(skip, [height, width])
    return out


def _rows_step_by_step(size, tile, margin):
    pieces, answered = [], 0
    while answered < size:
        answered = min(answered + tile, size)
        pieces.append([max(answered - tile - margin, 0), min(answered + margin, size)])
    return pieces


def _rows_counted(size, tile, margin):
    starts = np.minimum(np.arange(math.ceil(size / tile)) * tile, size - tile)
    return np.stack([starts - margin, starts + tile + margin], 1).clip(0, size)


def _rows_by_marking(size, tile, margin):
    """Which rows lie at most `margin` from the tile's."""
    pieces, rows = [], torch.arange(size)
    for start in sorted({min(start, size - tile) for start in range(0, size, tile)}):
        near = ((rows >= start - margin) & (rows < start + tile + margin)).nonzero()
        pieces.append((near.min().item(), near.max().item() + 1))
    return torch.tensor(pieces)


def _weight_by_scipy(cells, row, column, w0, sigma):
    away = [scipy.ndimage.distance_transform_edt(cells.numpy() != n)[row, column] for n in range(1, cells.max().item() + 1)]
    return w0 * np.exp(-np.sum(np.partition(away, 1)[:2]) ** 2 / (2 * sigma**2))


def _weight_by_search(cells, row, column, w0, sigma):
    found: dict[int, float] = {}
    for r, c in itertools.product(*map(range, cells.shape)):
        if number := int(cells[r, c]):
            found[number] = min(found.get(number, math.inf), math.dist((r, c), (row, column)))
    one, two, *_ = sorted(found.values())
    return w0 * math.exp(-0.5 * ((one + two) / sigma) ** 2)


def _weight_by_cdist(cells, row, column, w0, sigma):
    here = torch.tensor([[row, column]], dtype=torch.double)
    away = torch.stack([torch.cdist(here, (cells == n).nonzero().double()).amin() for n in cells.unique() if n])
    return w0 / ((away.topk(2, largest=False).values.sum() / sigma) ** 2 / 2).exp()


def _weights_loop(counts):
    frequency = []
    for c in range(counts.shape[1]):
        images = [row for row in counts.tolist() if row[c]]
        frequency.append(sum(row[c] for row in images) / sum(map(sum, images)))
    middle = sorted(frequency)[len(frequency) // 2]
    return [middle / one for one in frequency]


def _weights_numpy(counts):
    c = counts.numpy().astype(float)
    frequency = c.sum(0) / ((c > 0) * c.sum(1)[:, None]).sum(0)
    return np.median(frequency) / frequency


def _fused_by_transposed_convolution(coarse, fine):
    channels = coarse.shape[1]
    up = bilinear_kernel(4).expand(channels, 1, 4, 4)
    large = F.conv_transpose2d(F.pad(coarse, (1, 1, 1, 1), mode="replicate"), up, stride=2, groups=channels)
    return large[..., 3:-3, 3:-3] + fine


def _fused_in_place(coarse, fine):
    fine += F.interpolate(coarse, size=fine.shape[2:], mode="bilinear", align_corners=False)
    return fine


def _offset_backwards(padding, poolings, fc6, kernel):
    jump, start = 1, 1 - padding                          # lesson 3: the centre of the first unit's field
    for _ in range(poolings):
        start += jump / 2
        jump *= 2
    start += jump * (fc6 - 1) / 2
    return (kernel - 1) / 2 - start


def _offset_in_fractions(padding, poolings, fc6, kernel):
    place = Fraction(padding - 1)
    for _ in range(poolings):
        place = place / 2 - Fraction(1, 4)
    return (place - Fraction(fc6 - 1, 2)) * 2**poolings + Fraction(kernel - 1, 2)


def _columns_one_by_one(maps, height, width):
    channels = [F.interpolate(x[:, c:c + 1], (height, width), mode="bilinear") for x in maps for c in range(x.shape[1])]
    return torch.hstack(channels)


def _columns_written_in(maps, height, width):
    out, at = torch.empty(len(maps[0]), sum(x.shape[1] for x in maps), height, width), 0
    for x in maps:
        out[:, at:at + x.shape[1]] = F.interpolate(x, size=(height, width), mode="bilinear")
        at += x.shape[1]
    return out.numpy()


def _windows_by_gradient(size, bins):
    line = torch.zeros(1, 1, size, requires_grad=True)
    found = []
    for cell in F.adaptive_avg_pool1d(line, bins)[0, 0]:
        read = torch.autograd.grad(cell, line, retain_graph=True)[0].flatten().nonzero().flatten()
        found.append([read.min().item(), read.max().item() + 1])
    return found


def _windows_by_touch(size, bins):
    touched = [[x for x in range(size) if (x + 1) * bins > i * size and x * bins < (i + 1) * size] for i in range(bins)]
    return torch.tensor([(places[0], places[-1] + 1) for places in touched])


def _shares_by_torch(place, size, bins):
    return F.interpolate(torch.eye(bins)[None], size, mode="linear", align_corners=True)[0, :, place]


def _shares_by_numpy(place, size, bins):
    return np.array([np.interp(place, np.linspace(0, size - 1, bins), row) for row in np.eye(bins)])


def _shares_in_fractions(place, size, bins):
    heard = [Fraction(0)] * bins
    left, rest = divmod(place * (bins - 1), size - 1)
    heard[left] = 1 - Fraction(rest, size - 1)
    if rest:
        heard[left + 1] = Fraction(rest, size - 1)
    return heard


def _pyramid_by_layer(maps, bins, weights):
    layer = segviz.layers.PyramidPooling(maps.shape[1], bins, norm=False)
    for branch, weight in zip(layer.branches, weights, strict=True):
        branch[1].weight.data, branch[1].bias.data = weight, torch.zeros(len(weight))
    return layer(maps)


def _pyramid_by_slices(maps, bins, weights):
    (_, _, height, width), found = maps.shape, [maps]
    for n, weight in zip(bins, weights, strict=True):
        cells = [[maps[:, :, t:b, le:r].mean((2, 3)) @ weight[:, :, 0, 0].T for le, r in lesson_09.windows.reference(width, n)]
                 for t, b in lesson_09.windows.reference(height, n)]
        small = torch.stack([torch.stack(row, -1) for row in cells], -2)
        found.append(nn.UpsamplingBilinear2d((height, width))(small.clamp(min=0)))
    return torch.hstack(found)


def _pyramid_by_matrices(maps, bins, weights):
    def both(size, n):                                  # (n, size): averages; (size, n): shares
        reads = torch.tensor([[float(a <= x < b) / (b - a) for x in range(size)] for a, b in lesson_09.windows.reference(size, n)])
        return reads, torch.tensor([lesson_09.shares.reference(x, size, n) for x in range(size)])

    found = [maps.numpy()]
    for n, weight in zip(bins, weights, strict=True):
        (down, up), (across, back) = (both(size, n) for size in maps.shape[2:])
        small = torch.einsum("bchw,ih,jw,dc->bdij", maps, down, across, weight[:, :, 0, 0]).relu()
        found.append(torch.einsum("bdij,hi,wj->bdhw", small, up, back).numpy())
    return np.concatenate(found, 1)


def _cost_by_layer(channels, bins):
    with torch.device("meta"):
        layer = segviz.layers.PyramidPooling(channels, bins)
    return layer.out_channels, sum(p.numel() for p in layer.parameters() if p.dim() == 4)


def _holes_by_kron(kernel, rate):
    tap = torch.zeros(rate, rate)
    tap[0, 0] = 1
    side = (len(kernel) - 1) * rate + 1
    return torch.kron(kernel, tap)[:side, :side]


def _holes_by_loops(kernel, rate):
    k = len(kernel)
    held = np.zeros([k + (k - 1) * (rate - 1)] * 2)
    for row, column in itertools.product(range(k), repeat=2):
        held[row * rate, column * rate] = kernel[row, column]
    return held


def _holes_by_gradient(kernel, rate):
    side = len(kernel) + (len(kernel) - 1) * (rate - 1)
    picture = torch.zeros(1, 1, side, side, requires_grad=True)
    return torch.autograd.grad(F.conv2d(picture, kernel[None, None], dilation=rate).sum(), picture)[0][0, 0]


def _converted_by_jumps(strides, output_stride):
    before, found = 1, []                               # the strided network's jump in front of each layer
    for stride in strides:
        now = max(j for j in np.cumprod([1, *[s for s, _ in found]]))
        found.append((stride if now * stride <= output_stride else 1, before // now))
        before *= stride
    return np.array(found)


def _converted_recursively(strides, output_stride, jump=1, rate=1):
    if not strides:
        return []
    first, *rest = strides
    if jump * first > output_stride:
        return [(1, rate), *_converted_recursively(rest, output_stride, jump, rate * first)]
    return [(first, rate), *_converted_recursively(rest, output_stride, jump * first, rate)]


def _converted_as_tensors(strides, output_stride):
    jumps = torch.tensor(strides).cumprod(0)
    last = int((jumps <= output_stride).sum())          # so many keep theirs
    kept = torch.tensor([*strides[:last], *[1] * (len(strides) - last)])
    rates = torch.tensor([1, *jumps[:-1].tolist()]) // torch.cat([torch.ones(1), kept[:-1]]).cumprod(0)
    return torch.stack([kept, rates.long()], 1)


def _widest_by_field(taps, layers):
    field, rates = 1, []
    for _ in range(layers):
        rates.append(field)
        field += (taps - 1) * field
    return rates


def _at_work_by_ones(size, rate):
    ones = torch.ones(1, 1, size, size)
    return F.conv2d(ones, torch.ones(1, 1, 3, 3), padding=rate, dilation=rate).mean()


def _at_work_by_loops(size, rate):
    inside = [sum(0 <= at + tap * rate < size for tap in (-1, 0, 1)) for at in range(size)]
    return np.mean([down * across for down in inside for across in inside])


def _one_kernel_by_gradient(kernels, rates):
    side = 2 * max(rates) + 1
    picture = torch.zeros(1, 1, side, side, requires_grad=True)
    middle = sum(F.conv2d(picture, k[None, None], padding=r, dilation=r) for k, r in zip(kernels, rates, strict=True))[0, 0, side // 2, side // 2]
    return torch.autograd.grad(middle, picture)[0][0, 0]


def _one_kernel_by_padding(kernels, rates):
    return sum(F.pad(lesson_10.with_holes.reference(k, r), [max(rates) - r] * 4) for k, r in zip(kernels, rates, strict=True))


def _one_kernel_by_loops(kernels, rates):
    taps = [[0.0] * (2 * max(rates) + 1) for _ in range(2 * max(rates) + 1)]
    for kernel, r in zip(kernels, rates, strict=True):
        for a, b in itertools.product((-1, 0, 1), repeat=2):
            taps[max(rates) + a * r][max(rates) + b * r] += float(kernel[1 + a, 1 + b])
    return taps


def _aspp_by_layer(maps, point, atrous, rates, whole):
    layer = segviz.layers.ASPP(maps.shape[1], len(point), rates)
    for branch, weight in zip(layer.convs, (point, *atrous, whole), strict=True):
        conv, = (part for part in branch if isinstance(part, nn.Conv2d))
        conv.weight.data = weight
        for i, part in enumerate(branch):
            if isinstance(part, nn.BatchNorm2d):
                branch[i] = nn.Identity()
    return torch.cat(layer.levels(maps), 1)


def _aspp_by_matrices(maps, point, atrous, rates, whole):
    (batch, _, height, width), found = maps.shape, []
    for w, r in ((point, 0), *zip(atrous, rates, strict=True)):
        windows = F.unfold(maps, w.shape[-1], dilation=max(r, 1), padding=r)
        found.append((w.flatten(1) @ windows).view(batch, -1, height, width))
    mean = maps.flatten(2).mean(2) @ whole.flatten(1).T
    return np.maximum(torch.cat([*found, mean[..., None, None].repeat(1, 1, height, width)], 1).numpy(), 0)


def _aspp_by_shifts(maps, point, atrous, rates, whole):
    height, width = maps.shape[2:]
    mixed = [torch.einsum("bchw,dc->bdhw", maps, point[..., 0, 0])]
    for w, r in zip(atrous, rates, strict=True):
        large = F.pad(maps, [r] * 4)
        mixed.append(sum(torch.einsum("bchw,dc->bdhw", large[..., a * r:a * r + height, b * r:b * r + width], w[..., a, b])
                         for a in range(3) for b in range(3)))
    mixed.append(nn.Upsample((height, width))(F.conv2d(F.adaptive_avg_pool2d(maps, 1), whole)))
    return torch.hstack([x.clamp(min=0) for x in mixed]).double()


def _costs_by_layers(inputs, outputs, k, places):
    with torch.device("meta"):
        convs = nn.Conv2d(inputs, outputs, k, bias=False), nn.Conv2d(inputs, inputs, k, groups=inputs, bias=False), nn.Conv2d(inputs, outputs, 1, bias=False)
    return torch.tensor([places * conv.weight.numel() for conv in convs])


def _costs_by_counting(inputs, outputs, k, places):
    from torch.utils.flop_counter import FlopCounterMode

    found = []
    for to, side, groups in ((outputs, k, 1), (inputs, k, inputs), (outputs, 1, 1)):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            F.conv2d(torch.empty(1, inputs, 1, places + side - 1), torch.empty(to, inputs // groups, 1, side), groups=groups)
        found.append(counter.get_total_flops() // 2 * side)
    return found


def _separable_by_eigenvectors(weight):
    by_channel = weight.transpose(0, 1).flatten(2)
    v = torch.linalg.eigh(by_channel.mT @ by_channel).eigenvectors[..., -1]
    return v.view(-1, 1, *weight.shape[2:]), torch.einsum("iok,ik->oi", by_channel, v)[..., None, None]


def _separable_in_turns(weight):
    by_channel, pointwise = weight.transpose(0, 1).flatten(2).double(), torch.ones(*weight.shape[1::-1], dtype=torch.double)
    pointwise[:, 0] = 2
    for _ in range(500):                                # least squares for one of the two, then for the other
        depthwise = torch.einsum("iok,io->ik", by_channel, pointwise) / pointwise.square().sum(1, keepdim=True)
        pointwise = torch.einsum("iok,ik->io", by_channel, depthwise) / depthwise.square().sum(1, keepdim=True)
    return depthwise.view(-1, 1, *weight.shape[2:]), pointwise.T[..., None, None]


def _separable_by_numpy(weight):
    outputs, inputs, k, _ = weight.shape
    depthwise, pointwise = np.empty((inputs, 1, k, k)), np.empty((outputs, inputs, 1, 1))
    for i in range(inputs):
        u, s, v = np.linalg.svd(weight[:, i].reshape(outputs, -1).numpy())
        depthwise[i, 0], pointwise[:, i, 0, 0] = -s[0] * v[0].reshape(k, k), -u[:, 0]
    return [depthwise, pointwise]


def _energy_pair_by_pair(labels, p, weights):
    found = -sum(math.log(p[label, i]) for i, label in enumerate(labels.tolist()))
    return found + sum(weights[i, j] for i, j in itertools.combinations(range(len(labels)), 2) if labels[i] != labels[j])


def _energy_by_one_hot(labels, p, weights):
    chosen = F.one_hot(labels, len(p)).to(p)
    alike = torch.einsum("ic,ij,jc->", chosen, weights, chosen)
    return F.nll_loss(p.T.log(), labels, reduction="sum") + (weights.sum() - alike) / 2


def _energy_by_numpy(labels, p, weights):
    labels, p, weights = labels.numpy(), p.numpy(), weights.numpy()
    unlike = np.not_equal.outer(labels, labels)
    return -np.log(np.take_along_axis(p, labels[None], 0)).sum() + np.triu(weights * unlike).sum()


def _heard_by_unlike_labels(q, p, weights):
    others = weights * (1 - torch.eye(len(weights)))
    pays = (q.sum(0) - q) @ others
    return F.softmax(-(-p.log() + pays), dim=0)


def _heard_by_loops(q, p, weights):
    new = torch.zeros_like(q)
    for i in range(q.shape[1]):
        for label in range(len(q)):
            new[label, i] = p[label, i] * math.exp(sum(weights[i, j] * q[label, j] for j in range(q.shape[1]) if j != i))
    return new / new.sum(0)


def _heard_less_itself(q, p, weights):
    scores = np.log(p.numpy()) + np.einsum("ij,cj->ci", weights.numpy(), q.numpy()) - q.numpy() * np.diag(weights.numpy())
    return np.exp(scores) / np.exp(scores).sum(0)


def _appearance_by_cdist(image, xy_std, rgb_std):
    height, width = image.shape[1:]
    rows, columns = np.mgrid[:height, :width]
    features = np.stack([rows / xy_std, columns / xy_std, *(image.numpy() * 255 / rgb_std)]).reshape(5, -1).T
    return np.exp(-scipy.spatial.distance.cdist(features, features, "sqeuclidean") / 2)


def _appearance_as_product(image, xy_std, rgb_std):
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.double) for n in image.shape[1:]), indexing="ij")
    near = [values.double().flatten() / std for values, std in ((y, xy_std), (x, xy_std), *((c * 255, rgb_std) for c in image))]
    return math.prod(torch.exp(-(one[:, None] - one[None]) ** 2 / 2) for one in near)


def _appearance_in_float32(image, xy_std, rgb_std):      # |a|^2 / 2 + |b|^2 / 2 - a . b: rounds where features are large
    number = torch.arange(image[0].numel())
    places = torch.stack([number // image.shape[2], number % image.shape[2]]) / xy_std
    features = torch.cat([places, image.flatten(1) * 255 / rgb_std]).T
    products = features @ features.T
    return (products - products.diag()[:, None] / 2 - products.diag() / 2).exp()


def _appearance_by_loops(image, xy_std, rgb_std):
    places = list(itertools.product(*map(range, image.shape[1:])))
    return [[math.exp(-((a - c) ** 2 + (b - d) ** 2) / 2 / xy_std**2
                      - float((image[:, a, b] - image[:, c, d]).square().sum()) * 255**2 / 2 / rgb_std**2)
             for c, d in places] for a, b in places]


def _attention_with_both_lengths(features):
    lengths, ones = features.square().sum(1, keepdim=True) / 2, torch.ones(len(features), 1)
    return torch.cat([features, -lengths, ones], 1), torch.cat([features, ones, -lengths], 1)


def _attention_from_the_middle(features):
    centred = (features - features.mean(0)).double()
    return F.pad(centred, (1, 0), value=-0.5), torch.cat([centred.square().sum(1, keepdim=True), centred], 1)


def _attention_with_the_kernel_itself(features):
    return -torch.cdist(features, features).square() / 2, torch.eye(len(features))


def _interval_by_times(counts, draws):
    """How often each scene was drawn, times its counts."""
    times = F.one_hot(draws, len(counts)).sum(1).double()
    total = (times @ counts.flatten(1).double()).unflatten(1, counts.shape[1:])
    hits = total.diagonal(dim1=1, dim2=2)
    scores = (hits / (total.sum(1) + total.sum(2) - hits)).nanmean(1)
    return scores.quantile(0.025), scores.quantile(0.975)


def _interval_by_numpy(counts, draws):
    scores = []
    for draw in draws.tolist():
        total = sum(counts[i].numpy() for i in draw)
        union = total.sum(0) + total.sum(1) - np.diag(total)
        scores.append(np.mean(np.diag(total)[union > 0] / union[union > 0]))
    return np.percentile(scores, [2.5, 97.5])


def _interval_of_means(counts, draws):
    """The mean of counts instead of their sum: IoU is a ratio."""
    return np.quantile([segviz.metrics.mean_iou(counts[draw].double().mean(0)) for draw in draws], (0.025, 0.975)).tolist()


def _front_by_running_best(points):
    best, kept = float("-inf"), []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best or (kept and points[i] == points[kept[-1]]):
            best = points[i][1]
            kept.append(i)
    return kept


def _front_by_removal(points):
    left = set(range(len(points)))
    for i, j in itertools.permutations(range(len(points)), 2):
        if points[j][0] <= points[i][0] and points[j][1] >= points[i][1] and points[i] != points[j]:
            left.discard(i)
    return tuple(sorted(left, key=lambda i: points[i]))


def _front_by_tensors(points):
    cost, score = torch.tensor(points, dtype=torch.float64).T
    no_worse = (cost <= cost[:, None]) & (score >= score[:, None])
    better = (cost < cost[:, None]) | (score > score[:, None])
    kept = (~(no_worse & better).any(1)).nonzero()[:, 0]
    return kept[cost[kept].argsort(stable=True)]


def _right_by_loop(first, second, truth):
    found = [0, 0, 0, 0]
    for a, b, t in zip(first.flatten().tolist(), second.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if t != 255 and a != b:
            found[0] += 1
            found[1 if a == t else 2 if b == t else 3] += 1
    return found


def _right_by_bincount(first, second, truth):
    kind = torch.full_like(truth, 2)
    kind[first == truth], kind[second == truth] = 0, 1
    each = kind[(first != second) & (truth != 255)].bincount(minlength=3)
    return torch.cat([each.sum()[None], each]).float()


def _relabelled_by_table(mask, table):
    lookup = torch.full((256,), 255)
    lookup[list(table)] = torch.tensor(list(table.values()))
    return lookup[mask]


def _relabelled_by_pixels(mask, table):
    return [[table.get(int(number), 255) for number in row] for row in mask]


def _relabelled_by_where(mask, table):
    labels = np.full(mask.shape, 255, np.uint8)
    for number in table:
        labels = np.where(mask.numpy() == number, table[number], labels)
    return labels


RIGHT = {
    lesson_00.labels_from_scores: [_labels_loop, lambda s: torch.max(s, dim=0).indices, lambda s: np.argmax(s.numpy(), 0).astype(np.uint8),
                                   lambda s: s.softmax(0).argmax(0), lambda s: s.permute(1, 2, 0).sort(-1).indices[..., -1]],
    lesson_00.class_shares: [_shares_dict, lambda m, n: [float((m == c).sum()) / float((m < 255).sum()) for c in range(n)],
                             lambda m, n: np.bincount(m.numpy()[m.numpy() != 255], minlength=n) / (m != 255).sum().item(),
                             lambda m, n: F.one_hot(m[m != 255], n).double().mean(0)],
    lesson_01.class_iou: [_iou_loop, lambda c: np.diag(c) / np.where((u := c.numpy().sum(0) + c.numpy().sum(1) - np.diag(c)) > 0, u, np.nan),
                          lambda c: segviz.metrics.class_iou(c), lambda c: torch.tensor(_iou_loop(c)).float()],
    lesson_01.dataset_mean_iou: [_dataset_numpy, _dataset_in_place, lambda m: segviz.metrics.mean_iou(torch.stack(m).sum(0)),
                                 lambda m: torch.tensor([_dataset_numpy(m)]).squeeze()],
    lesson_01.blind_accuracy: [lambda c: max(row.sum() / c.sum() for row in c), lambda c: float(max(c.sum(1).tolist())) / float(c.sum()),
                               lambda c: np.max(c.numpy().sum(axis=1)) / c.numpy().sum()],
    lesson_01.boundary_iou: [_bands_loop, _bands_steps, _bands_counts],
    lesson_02.window_count: [_count_loop, lambda s, w, t: float(int((s - w) / t) + 1), lambda s, w, t: len(range(0, s - w + 1, t)),
                             lambda s, w, t: torch.zeros(s).unfold(0, w, t).shape[0]],
    lesson_02.fold_matrix: [_fold_loop, lambda m, c, k: m.numpy().reshape(-1, c, k, k), lambda m, c, k: m.unflatten(1, (c, k, k)),
                            lambda m, c, k: torch.stack([row.view(c, k, k) for row in m])],
    lesson_02.window_of: [lambda r, c, w, s: [r * s, c * s, r * s + w, c * s + w], lambda r, c, w, s: torch.tensor([r * s, c * s] * 2) +
                          torch.tensor([0, 0, w, w]), lambda r, c, w, s: np.array([r, c, r, c]) * s + np.array([0, 0, w, w])],
    lesson_02.fully_convolutional: [_Head, _functional_head,
                                    lambda h, c, k: nn.Sequential(linear_to_conv(h[1], k), h[2], linear_to_conv(h[3]))],
    lesson_03.one_layer: [_step_by_hand, lambda r, j, b, k, s, p, d: [r + j * d * (k - 1), s * j, b + j * (d * (k - 1) - 2 * p) / 2],
                          lambda r, j, b, k, s, p, d: torch.tensor([float(r + j * d * (k - 1)), s * j, b - p * j + d * (k - 1) * j / 2])],
    lesson_03.field_of: [lambda u, r, j, b: (b - r / 2 + u * j, b + r / 2 + u * j), lambda u, r, j, b: np.array([-r, r]) / 2 + b + u * j,
                         lambda u, r, j, b: [int(b + u * j - r / 2), int(b + u * j - r / 2) + r]],
    lesson_03.pixels_read: [_read_by_gradient, _read_by_shifts, lambda rates: {sum(w) for w in itertools.product(*[(-r, 0, r) for r in rates])}],
    lesson_03.effective_field: [_field_functional, _field_channel_by_channel, _field_in_place],
    lesson_04.bilinear_at: [_grid_sampled, _tents_over_all, _down_then_across],
    lesson_04.stamps: [_stamps_by_reading, lambda v, k, s: F.conv_transpose2d(v[None, None], k[None, None], stride=s)[0, 0],
                       lambda v, k, s: sum(v[r, c] * F.pad(k, (c * s, (v.shape[1] - 1 - c) * s, r * s, (v.shape[0] - 1 - r) * s))
                                           for r in range(v.shape[0]) for c in range(v.shape[1]))],
    lesson_04.transposed_size: [_size_by_torch, _size_by_stamps, lambda *c: float(lesson_04.transposed_size.reference(*c))],
    lesson_04.bilinear_weights: [lambda s: [min(i + 1, k - i) / s - (1 - s % 2) / 2 / s for k in [2 * s - s % 2] for i in range(k)],
                                 lambda s: segviz.layers.bilinear_kernel(2 * s - s % 2).sum(0) / s, _tent_by_interpolation],
    lesson_05.overlap_counts: [_counts_from_ones, _counts_by_output, lambda n, k, s: np.bincount([i * s + j for j in range(k) for i in range(n)],
                               minlength=(n - 1) * s + k)],
    lesson_05.even_kernel: [lambda k, s: next(n for n in range(k, k + s) if n % s == 0), lambda k, s: math.ceil(k / s) * s,
                            lambda k, s: k + (-k) % s, lambda k, s: float((k + s - 1) // s * s)],
    lesson_05.phase_tile: [lambda v, s: v.unflatten(0, (-1, s)).unflatten(2, (-1, s)).mean((0, 2)), _tile_of_a_sum,
                           lambda v, s: np.array([[v.numpy()[r::s, c::s].mean() for c in range(s)] for r in range(s)]),
                           lambda v, s: F.pixel_unshuffle(v[None], s).mean((1, 2)).view(s, s)],
    lesson_05.resize_convolution: [_blocks_first, _module_resize, _same_padding],
    lesson_07.unpool: [_unpooled_by_torch, _unpooled_by_asking, lambda v, s, h, w: torch.zeros(h * w).scatter(0, s.flatten(), v.flatten()).view(h, w),
                       lambda v, s, h, w: np.bincount(s.flatten(), v.flatten(), minlength=h * w).reshape(h, w),
                       lambda v, s, h, w: torch.zeros(h, w).index_put((s // w, s % w), v)],
    lesson_07.as_convolution: [_read_off_stamps, _turned_by_loops, lambda w: np.ascontiguousarray(w.numpy()[:, :, ::-1, ::-1].swapaxes(0, 1)),
                               lambda w: torch.einsum("cdij->dcij", w).rot90(2, (-2, -1))],
    lesson_07.storage: [lambda c, h, w: (c * h * w // 16, c * h * w << 2), lambda c, h, w: torch.zeros(c, h, w).nbytes / np.array([64, 1]),
                        lambda c, h, w: [math.log2(4) / 8 * c * (h // 2) * (w // 2), float(c * h * w * torch.float32.itemsize)]],
    lesson_07.pasted: [_pasted_by_pixels, _pasted_by_padding, _pasted_in_place],
    lesson_09.windows: [_windows_by_gradient, _windows_by_touch,
                        lambda s, b: np.stack([np.arange(b) * s // b, -(-(np.arange(b) + 1) * s // b)], 1),
                        lambda s, b: [(math.floor(Fraction(i * s, b)), math.ceil(Fraction((i + 1) * s, b))) for i in range(b)]],
    lesson_09.shares: [_shares_by_torch, _shares_by_numpy, _shares_in_fractions],
    lesson_09.pyramid: [_pyramid_by_layer, _pyramid_by_slices, _pyramid_by_matrices],
    lesson_09.cost: [_cost_by_layer, lambda c, b: np.array([1, c]) * (c - c % len(b)) + np.array([c, 0]),
                     lambda c, b: [float(c + sum(c // len(b) for _ in b)), sum(c * (c // len(b)) for _ in b)]],
    lesson_08.valid_size: [_valid_by_layers, _valid_from_the_bottom, _valid_in_closed_form],
    lesson_08.crop_and_concatenate: [_cropped_by_padding, _cropped_by_numpy, _cropped_written_in],
    lesson_08.rows_to_read: [_rows_step_by_step, _rows_counted, _rows_by_marking],
    lesson_08.border_weight: [_weight_by_scipy, _weight_by_search, _weight_by_cdist],
    lesson_06.class_weights: [_weights_loop, _weights_numpy, lambda c: segviz.losses.class_weights(c),
                              lambda c: (f := (c.double().sum(0) / ((c > 0).double() * c.sum(1, keepdim=True)).sum(0))).quantile(0.5) / f],
    lesson_06.fuse: [_fused_by_transposed_convolution, _fused_in_place, lambda c, f: nn.UpsamplingBilinear2d(scale_factor=2)(c) * 0 +
                     nn.Upsample(scale_factor=2, mode="bilinear")(c) + f,
                     lambda c, f: torch.stack([F.interpolate(c, f.shape[2:], mode="bilinear"), f]).sum(0).numpy()],
    lesson_06.crop_offset: [_offset_backwards, _offset_in_fractions,
                            lambda p, n, f, k: int((p - 1) - (2**n - 1) / 2 - 2**n * (f - 1) / 2 + (k - 1) / 2)],
    lesson_06.hypercolumns: [_columns_one_by_one, _columns_written_in,
                             lambda m, h, w: torch.cat([nn.Upsample((h, w), mode="bilinear")(x) for x in m], 1).double()],
    lesson_10.with_holes: [_holes_by_kron, _holes_by_loops, _holes_by_gradient],
    lesson_10.converted: [_converted_by_jumps, _converted_recursively, _converted_as_tensors],
    lesson_10.widest: [_widest_by_field, lambda t, n: [t**i for i in range(n)][::-1], lambda t, n: np.power(t, np.arange(n)),
                       lambda t, n: (float(t) ** torch.arange(n)).tolist(), lambda t, n: np.exp(np.log(t) * np.arange(n))],
    lesson_10.at_work: [_at_work_by_ones, _at_work_by_loops, lambda s, r: (3 - 2 * min(r, s) / s) ** 2],
    lesson_11.energy: [_energy_pair_by_pair, _energy_by_one_hot, _energy_by_numpy],
    lesson_11.heard: [_heard_by_unlike_labels, _heard_by_loops, _heard_less_itself],
    lesson_11.appearance: [_appearance_by_cdist, _appearance_as_product, _appearance_by_loops, _appearance_in_float32],
    lesson_11.queries_and_keys: [_attention_with_both_lengths, _attention_from_the_middle, _attention_with_the_kernel_itself],
    lesson_12.one_kernel: [_one_kernel_by_gradient, _one_kernel_by_padding, _one_kernel_by_loops],
    lesson_12.aspp: [_aspp_by_layer, _aspp_by_matrices, _aspp_by_shifts],
    lesson_12.costs: [_costs_by_layers, _costs_by_counting, lambda i, o, k, p: np.array([o * k * k, k * k, o]) * i * p],
    lesson_12.as_separable: [_separable_by_eigenvectors, _separable_in_turns, _separable_by_numpy],
    lesson_13.interval: [_interval_by_times, _interval_by_numpy, _interval_of_means],
    lesson_13.front: [_front_by_running_best, _front_by_removal, _front_by_tensors],
    lesson_13.who_is_right: [_right_by_loop, _right_by_bincount,
                             lambda a, b, t: np.array([((a != b) & (t != 255)).sum(), *(((a != b) & (x == t) & (t < 255)).sum() for x in (a, b)),
                                                       ((a != b) & (a != t) & (b != t) & (t != 255)).sum()])],
    lesson_13.relabelled: [_relabelled_by_table, _relabelled_by_pixels, _relabelled_by_where,
                           lambda m, t: m.numpy().astype(float) * 0 + np.vectorize(lambda n: t.get(n, 255))(m.numpy())],
}


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: f"{e.lesson}.{e.name}")
def test_right_answers_pass(exercise):
    assert exercise.check(exercise.reference).outcome == "passed"
    assert len(RIGHT[exercise]) >= 3
    for answer in RIGHT[exercise]:
        result = exercise.check(answer)
        assert result.outcome == "passed", result


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: f"{e.lesson}.{e.name}")
def test_wrong_answers_hear_their_own_mistake(exercise):
    assert len(exercise.mistakes) >= 6
    for words, mistake in exercise.mistakes.items():
        result = exercise.check(mistake)
        assert (result.outcome, result.message) == ("wrong", words)


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: f"{e.lesson}.{e.name}")
def test_solution_stands_by_itself_and_hints_progress(exercise):
    scope = {"torch": torch, "F": F, "nn": nn}
    exec(exercise.source(), scope)
    assert exercise.check(scope[exercise.name]).outcome == "passed"
    assert len(exercise.hints) >= 2
    shown = [exercise.hint().text for _ in exercise.hints]
    assert len(set(shown)) == len(exercise.hints) and exercise.solution().text == exercise.source()


# -- the engine itself, on one exercise

EXERCISE = lesson_02.window_count


def _stub_docstring(size, window, stride):
    """Count."""


def _stub_ellipsis(size, window, stride):
    ...


def _stub_todo(size, window, stride):
    raise NotImplementedError


def _nothing(size, window, stride):
    (size - window) // stride + 1


def _raises(size, window, stride):
    return size / 0


def _exits(size, window, stride):
    raise SystemExit("bye")


def _endless_recursion(size, window, stride):
    return _endless_recursion(size, window, stride)


def _interrupted(size, window, stride):
    raise KeyboardInterrupt


class _Shy:
    def __repr__(self):
        raise RuntimeError("no repr")


class _ShyError(Exception):
    __str__ = _Shy.__repr__


def _raises_shyly(size, window, stride):
    raise _ShyError


def _exits_later(size, window, stride):
    return size if size == 96 else _exits(size, window, stride)


@pytest.mark.parametrize(("answer", "outcome", "words"), [
    (None, "not attempted", "Write your answer"), (..., "not attempted", "Write your answer"),
    (_stub_docstring, "not attempted", "Write your answer"), (_stub_ellipsis, "not attempted", "Write your answer"),
    (_stub_todo, "not attempted", "NotImplementedError"), (_nothing, "wrong", "forget `return`"),
    (12, "wrong", "the function itself"), ("eight", "wrong", "the function itself"),
    (_raises, "raised", "division by zero"), (_exits, "raised", "SystemExit"), (_endless_recursion, "raised", "RecursionError"),
    (lambda size: size, "raised", "TypeError"), (_interrupted, "raised", "interrupted"),
    (lambda s, w, t: "eight", "wrong", "should return"), (lambda s, w, t: [8, 8], "wrong", "shape"),
    (lambda s, w, t: {"n": 8}, "wrong", "should return"), (lambda s, w, t: float("nan"), "wrong", "nan"),
    (lambda s, w, t: 9, "wrong", "the answer is 8, but yours is 9"),
    (lambda s, w, t: (s - w) // t + 1 + 3j, "wrong", "should return"), (lambda s, w, t: torch.tensor(8 + 3j), "wrong", "should return"),
    (lambda s, w, t: "8", "wrong", "should return"), (lambda s, w, t: np.array("8"), "wrong", "should return"),
    (lambda s, w, t: [["8"], [1]], "wrong", "should return"), (lambda s, w, t: 10**5000, "wrong", "should return"),
    (lambda s, w, t: _Shy(), "wrong", "should return"), (_Shy(), "wrong", "the function itself"),
    (_raises_shyly, "raised", "_ShyError"), (_exits_later, "wrong", "yours is 96"),
])
def test_outcomes(answer, outcome, words):
    result = EXERCISE.check(answer)
    assert result.outcome == outcome and words in result.message, result
    assert outcome in result._repr_html_() and words.replace("`", "`") in repr(result)


ENDLESS = """
def endless(*case):
    print("started", flush=True)
    while True:
        pass
exercises.window_count.check(endless)
"""


def test_an_endless_loop_is_stopped_and_the_kernel_goes_on():
    """The stop button in a real kernel: the check says so, the next one passes, and both are in the progress."""
    manager, client = start_new_kernel()
    said = []

    def hook(message):
        content = message["content"]
        said.append(content.get("text") or content.get("data", {}).get("text/plain") or content.get("evalue") or "")
        if "started" in said[-1]:
            manager.interrupt_kernel()

    try:
        for code in ("from segviz.exercises import lesson_02 as exercises", ENDLESS,
                     "exercises.window_count.check(exercises.window_count.reference)"):
            client.execute_interactive(code, output_hook=hook, timeout=120)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    words = " ".join(said)
    assert "You interrupted the check" in words and "Passed" in words.partition("interrupted")[2]
    row = Progress().outcomes()["02", "window_count"]
    assert (row.outcome, row.attempts) == ("passed", 2)


def test_a_raised_error_names_the_learners_line():
    assert f"line {_raises.__code__.co_firstlineno + 1} of your cell" in EXERCISE.check(_raises).message


def test_an_error_outside_the_learners_code_names_no_line():
    assert "of your cell" not in EXERCISE.check(lambda: 8).message
    result = lesson_02.fully_convolutional.check(lambda head, channels, k: lambda x: None)
    assert result.outcome == "wrong" and "NoneType" in result.message and "of your cell" not in result.message


def test_a_network_that_exits_is_wrong_and_not_our_fault():
    result = lesson_02.fully_convolutional.check(lambda head, channels, k: lambda x: _exits(0, 0, 0))
    assert result.outcome == "wrong" and "SystemExit" in result.message


@pytest.mark.parametrize("rates", [lambda t, n: [t**i + 0.4 * (i > 0) for i in range(n)], lambda t, n: [0] + [1] * n,
                                   lambda t, n: [10_001] * n])
def test_rates_that_are_none_are_told_so(rates):
    result = lesson_10.widest.check(rates)
    assert result.outcome == "wrong" and "rates are whole numbers from 1 up" in result.message


def _in_a_corner(kernel, rate):
    held = torch.zeros([(len(kernel) - 1) * rate + 1] * 2)
    held[: len(kernel), : len(kernel)] = kernel
    return held


def _from_the_front(strides, output_stride):
    found, rate = [], 1
    for number, stride in enumerate(strides):
        if np.prod([s for s, _ in found] + strides[number:]) > output_stride and stride > 1:
            found.append((1, rate))
            rate *= stride
        else:
            found.append((stride, rate))
    return found


def _half_as_far(taps, layers):
    rates = []
    while len(rates) < layers:
        rates.append(math.ceil((1 + (taps - 1) * sum(rates)) / 2))
    return rates


def _as_wide_with_holes(taps, layers):
    total = sum(taps**i for i in range(layers))
    return [total // layers] * (layers - 1) + [total - total // layers * (layers - 1)]


@pytest.mark.parametrize(("exercise", "answer", "words"), [
    (lesson_10.with_holes, lambda kernel, rate: kernel[::rate, ::rate], "You left weights out"),
    (lesson_10.with_holes, _in_a_corner, "still lie side by side in a corner"),
    (lesson_10.converted, _from_the_front, "You took the first strides away"),
    (lesson_10.widest, lambda taps, layers: [taps * taps**i for i in range(layers)], "The first rate must be 1"),
    (lesson_10.widest, _half_as_far, "Half the field"),
    (lesson_10.widest, _as_wide_with_holes, "numbers differ"),
    (lesson_10.widest, lambda taps, layers: "1" * layers, "what you returned is text"),
])
def test_mistakes_written_otherwise_hear_the_same_words(exercise, answer, words):
    result = exercise.check(answer)
    assert result.outcome == "wrong" and words in result.message, result


@pytest.mark.parametrize("right", [True, False])
def test_a_check_leaves_settings_and_random_numbers_as_they_were(right):
    def meddles(size, window, stride):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        for seed in (torch.manual_seed, np.random.seed, random.seed):
            seed(1)
        return EXERCISE.reference(size, window, stride) if right else torch.rand(1)

    def settings():
        drawn = torch.random.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
        return torch.get_default_dtype(), torch.is_grad_enabled(), drawn

    before = settings()
    assert EXERCISE.check(meddles).outcome == ("passed" if right else "wrong")
    assert settings() == before


def test_messages_are_escaped():
    result = EXERCISE.check(lambda s, w, t: "<script>alert(1)</script>")
    assert "<script>" not in result._repr_html_()


def test_progress_is_kept_and_counts():
    EXERCISE.check(_raises)
    EXERCISE.check(EXERCISE.reference)
    EXERCISE.check(None)
    row = Progress().outcomes()["02", "window_count"]
    assert (row.outcome, row.attempts) == ("passed", 2)


def test_a_home_that_cannot_be_found_is_said_and_the_check_goes_on(monkeypatch):
    monkeypatch.setenv("SEGVIZ_HOME", "~nobody-of-this-name/progress")
    result = EXERCISE.check(EXERCISE.reference)
    assert result.outcome == "passed" and "SEGVIZ_HOME" in result.notice


def test_a_check_that_is_itself_broken_does_not_raise():
    broken = engine.Exercise(EXERCISE.reference, "broken", ("a", "b"), lambda: 1 / 0, {})
    result = broken.check(lambda *a: 1)
    assert result.outcome == "raised" and "not your fault" in result.message


def test_is_stub_tells_work_from_none():
    assert engine.is_stub(lambda: None) and engine.is_stub(_stub_docstring)
    assert not engine.is_stub(lambda x: x) and not engine.is_stub(lambda: 0) and not engine.is_stub(len)
