"""Explorer: the pattern that a transposed convolution leaves, its cause, its spectrum and its remedy (lesson 05)."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
import torch.nn.functional as F

from segviz.layers import bilinear_kernel
from segviz.metrics import checkerboard
from segviz.widgets.controls import Choice, Point, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import HeatMap, Marker, Outer, Panel, Pointed, Rects, State, Text, Where

TRANSPOSED, RESIZE = "transposed", "resize, convolve"
ONES, BILINEAR, RANDOM, LEARNED = "ones", "bilinear", "random", "learned"
CONSTANT, PICTURE = "a map of ones", "a picture"
SHOWN = 36                               # outputs along a side: a multiple of every stride
WEAKEST = -8                             # of the spectrum, as a power of ten
ZERO = 4                                 # row and column of frequency 0 in the spectrum: no multiple of 1/stride is cut


class CheckerboardExplorer(Explorer):
    """Up to three layers that make a map larger, seen far from the borders: who writes where, what comes out, and its
    spectrum.

    picture: (H, W), a smooth or natural map, averaged down to the size that the layers read. learned: kernels of
    trained layers, {(way, kernel size, stride): [kernel (k, k) of the first layer, of the second, ...]}, with way
    TRANSPOSED or RESIZE; where there are fewer kernels than layers they are taken in turn. kernel, stride, layers,
    weights: what is shown first.
    """

    def __init__(self, picture, learned=None, kernel=3, stride=2, layers=1, weights=ONES, **options):
        self.picture, self.learned = torch.as_tensor(picture).float(), learned or {}
        if self.picture.dim() != 2:
            raise ValueError(f"the picture is one map (H, W), but this one has shape {tuple(self.picture.shape)}")
        for (_, k, _), kernels in self.learned.items():
            if any(tuple(one.shape) != (k, k) for one in kernels):
                shapes = ", ".join(str(tuple(one.shape)) for one in kernels)
                raise ValueError(f"learned kernels of size {k} have shape ({k}, {k}), but these have {shapes}")
        controls = [
            Slider("kernel", "Kernel", 1, 8, value=kernel),
            Slider("stride", "Stride", 1, 4, value=stride),
            Slider("layers", "Layers", 1, 3, value=layers),
            Choice("weights", "Weights", (ONES, BILINEAR, RANDOM, LEARNED)[: 4 if self.learned else 3], weights),
            Choice("way", "Way", (TRANSPOSED, RESIZE)),
            Choice("over", "Input", (CONSTANT, PICTURE)),
            Point("at", "Output cell", panel=3, rows=SHOWN, columns=SHOWN, value=(20, 25), hover=True, local=True),
        ]
        super().__init__(self._shown, controls, title="Checkerboards", **options)

    def output(self, kernel, stride, layers=1, weights=ONES, way=TRANSPOSED, over=CONSTANT) -> torch.Tensor:
        """The map of outputs that is shown at these settings, (SHOWN, SHOWN). ValueError where no such layer was
        trained."""
        setting = self._setting(kernel, stride, layers, weights, way, over)
        return setting.output(setting.source(self.picture))

    def _shown(self, **values) -> State:
        try:
            setting = self._setting(**values)
        except ValueError as error:
            return State([], str(error), problem=str(error), problem_at="weights")
        return _state(setting, self.picture)

    def _setting(self, kernel, stride, layers, weights, way, over) -> "Setting":
        if weights == LEARNED and (way, kernel, stride) not in self.learned:
            trained = ", ".join(f"kernel {k} with stride {s}" for other, k, s in self.learned if other == way)
            raise ValueError(f"No such layer was trained. For “{way}” there is: {trained or 'none'}.")
        kernels = self._kernels(kernel, stride, layers, weights, way)
        return Setting(kernel, stride, layers, weights, way, over, kernels)

    def _kernels(self, k: int, s: int, layers: int, weights: str, way: str) -> list[torch.Tensor]:
        """One kernel (k, k) a layer."""
        if weights == LEARNED:
            kernels = self.learned[way, k, s]
            return [torch.as_tensor(kernels[i % len(kernels)]).float() for i in range(layers)]
        if weights == RANDOM:
            return list(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5))[:layers, :k, :k])
        return [torch.ones(k, k) if weights == ONES else bilinear_kernel(k)] * layers


@dataclass
class Setting:
    """The controls' values, the kernels that belong to them, and what follows for one row of the output."""

    kernel: int
    stride: int
    layers: int
    weights: str
    way: str
    over: str
    kernels: list

    @property
    def transposed(self) -> bool:
        return self.way == TRANSPOSED

    @cached_property
    def first(self) -> int:
        """The first output that no border reaches; those from here on are shown."""
        first = 0
        for _ in range(self.layers if self.transposed else 0):
            first = first * self.stride + self.kernel - 1
        return first

    @cached_property
    def inputs(self) -> int:
        """How many inputs along a side are enough for SHOWN outputs that no border reaches."""
        if self.transposed:      # the last such output is (inputs - 1) * stride ** layers
            return 2 + (self.first + SHOWN - 2) // self.stride**self.layers
        size = SHOWN
        for _ in range(self.layers):
            size = -(-(size + self.kernel - 1) // self.stride)
        return size

    def source(self, picture):
        """What the layers read, (inputs, inputs)."""
        if self.over == CONSTANT:
            return torch.ones(self.inputs, self.inputs)
        return F.adaptive_avg_pool2d(picture[None], self.inputs)[0]

    def output(self, maps):
        """What the layers make of a map (inputs, inputs), in the part shown."""
        maps = maps[None, None]
        for weight in self.kernels:
            if self.transposed:
                maps = F.conv_transpose2d(maps, weight[None, None], stride=self.stride)
            else:
                larger = maps.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3)
                maps = F.conv2d(larger, weight[None, None])
        shown = slice(self.first, self.first + SHOWN)
        return maps[0, 0, shown, shown]

    @cached_property
    def paths(self):
        """(SHOWN, inputs): along how many paths each input of a row reaches each output of it, whatever the weights."""
        k, s, paths = self.kernel, self.stride, torch.eye(self.inputs)
        for _ in range(self.layers):
            start = torch.arange(len(paths)) * s    # where each value's part of the output begins
            size = len(paths) * s - s + k if self.transposed else len(paths) * s - k + 1
            out = torch.arange(size)[:, None]
            if self.transposed:
                taps = (out >= start) & (out < start + k)
            else:                                                           # output o reads o to o + k - 1
                taps = (torch.minimum(out + k, start + s) - torch.maximum(out, start)).clamp(min=0)
            paths = taps.float() @ paths
        return paths[self.first : self.first + SHOWN]

    def stamps(self) -> list[tuple[int, int]]:
        """(first output, one past the last) that each value which the last layer reads writes to; only those shown."""
        s, k = self.stride, self.kernel
        before, reach = (self.first, k) if self.transposed else (k - 1, k - 1 + s)
        starts = (value * s - before for value in range(before + SHOWN))
        return [(start, start + reach) for start in starts if start + reach > 0 and start < SHOWN]


def _state(setting: Setting, picture) -> State:
    s, paths, source = setting, setting.paths.sum(1), setting.source(picture)
    output = s.output(source)
    measure = checkerboard(output, s.stride)
    fewest, most = int(paths.min()), int(paths.max())
    each = f"along {most} path{'s' * (most > 1)} each" if fewest == most else f"along {fewest} to {most} paths"
    readout = (
        f"{s.way[0].upper()}{s.way[1:]}, kernel {s.kernel}, stride {s.stride}, layers {s.layers}, weights {s.weights}, "
        f"over {s.over}. The outputs of a row are reached {each}. Checkerboard {measure:.4f}."
    )
    panels = [_row(s, paths), _source(s, source), _counts(s, paths), _output(s, output, measure), _spectrum(s, output)]
    said = Pointed([f"Row {i} is reached along {int(count)}, and" for i, count in enumerate(paths)],
                   [f"column {j} along {int(count)}; the cell along their product." for j, count in enumerate(paths)])
    problem = ""
    if fewest == 0:
        problem = f"Smaller than the stride, {s.stride}: between the stamps are holes that nobody writes to."
    return State(panels, readout, problem, "kernel" if problem else "", pointed={"at": said})


STAMPS, BARS = 2.2, 2.4                  # heights in the panel of one row, in outputs


def _row(s: Setting, paths) -> Panel:
    stamps = s.stamps()
    lanes = -(-(stamps[0][1] - stamps[0][0]) // s.stride)
    tall, floor = STAMPS / lanes, STAMPS + 0.2 + BARS
    tops = [i % lanes * tall for i in range(len(stamps))]
    boxes = [(start, top, end, top + 0.8 * tall) for (start, end), top in zip(stamps, tops, strict=True)]
    bars = [(j + 0.1, floor - BARS * float(count / paths.max()), j + 0.9, floor) for j, count in enumerate(paths)]
    digits = [(j + 0.5, floor + 0.6, str(int(count)), "ink") for j, count in enumerate(paths)]
    hit = [[Rects([box for box in boxes if box[0] <= j < box[2]], "mark", 1.5, fill="mark"),
            Rects([bars[j]], "mark", 1.5, fill="mark")] for j in range(SHOWN)]
    drawn = [bar for bar in bars if bar[1] < bar[3]]
    return Panel(
        "One row of the output: the stamps of the last layer, and the number of paths to each output",
        [
            Rects(boxes, "accent", 1, fill="accent"),
            Rects(drawn, "accent", 1, fill="accent"),
            Text(digits, size=10, fit=1),
            Where("at", "column", hit),
        ],
        "Where stamps overlap they are added." if s.transposed else
        "Each value is repeated, then read by a kernel: every output reads as many of the repeated values as the next.",
        size=(floor + 1.1, SHOWN),
        wide=True,
    )


def _source(s: Setting, source) -> Panel:
    most = float(s.paths.max()) ** 2
    return Panel(
        f"Input, {s.inputs} × {s.inputs}",
        [HeatMap(source, *_range(source), "gray"), Outer(s.paths, s.paths, "at", 0, most, "plasma", opacity=0.85)],
        "Coloured: what reaches the cell pointed at, brighter by more paths.",
    )


def _counts(s: Setting, paths) -> Panel:
    most = int(paths.max()) ** 2
    counts = paths[:, None] * paths[None]
    even = f"even, {most} each" if paths.min() == paths.max() else f"uneven, {int(counts.min())} to {most}"
    return Panel("Paths to each output", [HeatMap(counts, 0, most, legend="paths"), Marker("at")],
                 f"Row times column: {even}.")


def _output(s: Setting, output, measure: float) -> Panel:
    return Panel(
        "Output", [HeatMap(output, *_range(output), legend="value"), Marker("at")],
        f"Checkerboard {measure:.4f}: the share that repeats every {s.stride} pixels." if s.stride > 1
        else "Stride 1: nothing is made larger, and nothing repeats.",
    )


def _spectrum(s: Setting, output) -> Panel:
    energy = torch.fft.fft2((output - output.mean()).double()).abs() ** 2
    flat = output.std() <= 1e-5 * output.abs().max()
    shares = torch.zeros_like(energy) if flat else energy / energy.sum()
    logs = shares.clamp(min=10.0**WEAKEST).log10().roll((ZERO, ZERO), (0, 1))
    places = range(ZERO, SHOWN, SHOWN // s.stride)
    boxes = [(x - 1, y - 1, x + 2, y + 2) for y, x in product(places, places) if (y, x) != (ZERO, ZERO)]
    heat = HeatMap(logs, WEAKEST, 0, "magma", legend="log₁₀ energy")
    words = f" Boxes: the multiples of 1/{s.stride}." if boxes else ""
    return Panel("Spectrum of the output", [heat, Rects(boxes, "mark", 1.5)],
                 f"Frequency 0 is at the upper left.{words}")


def _range(values) -> tuple[float, float]:
    """The ends of a colour scale; where all values are alike, one that shows them as a middle tone."""
    low, high = float(values.min()), float(values.max())
    middle = (low + high) / 2
    spread = high - low if high - low > 1e-5 * max(abs(low), abs(high)) else 2 * abs(middle) or 2.0
    return float(f"{middle - spread / 2:.3g}"), float(f"{middle + spread / 2:.3g}")
