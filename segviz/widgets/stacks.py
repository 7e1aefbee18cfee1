"""Stacks of layers seen along one axis: which units of each map the units of the last one depend on.

For the explorer of receptive fields. Sizes, jumps and fields of networks come from `receptive.theoretical`; those of a
stack of `Spec`s, which must keep up with a slider, from `Along`. In a plain chain of layers the units behind a unit are
found exactly, with their holes; with branches the hull of them is known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz import receptive
from segviz.widgets.panels import Level

NONE, CONV, ATROUS, POOL, UPSAMPLE = KINDS = ("none", "conv", "atrous conv", "pool", "upsample")
MOST_UNITS = 128                                     # a side of a map that can still be seen
LINES_UP_TO = 6                                      # layers up to which the lines between units are sent along


class Spec(NamedTuple):
    """One layer of a stack, as its controls have it."""

    kind: str
    kernel: int
    stride: int
    padding: int
    rate: int

    def module(self) -> nn.Module:
        if self.kind == POOL:
            return nn.MaxPool2d(self.kernel, self.stride, self.padding)
        if self.kind == UPSAMPLE:
            return nn.Upsample(scale_factor=self.stride, mode="bilinear")
        rate = self.rate if self.kind == ATROUS else 1
        return nn.Conv2d(1, 1, self.kernel, self.stride, self.padding, rate, device="meta")

    @property
    def span(self) -> int:
        """From the first to the last place that the kernel reads."""
        return (self.rate if self.kind == ATROUS else 1) * (self.kernel - 1) + 1

    def new_size(self, size: int) -> int:
        if self.kind == UPSAMPLE:
            return size * self.stride
        return (size + 2 * self.padding - self.span) // self.stride + 1


class Trouble(NamedTuple):
    """Why a layer cannot be had, in words, and the control that it lies at."""

    words: str
    control: str


def trouble(specs: tuple[Spec, ...], size: int) -> Trouble | None:
    """The first layer of the stack that cannot be, on an input of `size` pixels a side."""
    for number, spec in enumerate(specs, 1):
        if spec.kind == NONE:
            continue
        if spec.kind == POOL and 2 * spec.padding > spec.kernel:
            return Trouble(f"Layer {number}: pooling pads by at most half its kernel, so that every window has a unit "
                           f"in it. A kernel of {spec.kernel} allows {spec.kernel // 2}, not {spec.padding}.",
                           f"padding{number}")
        if spec.kind != UPSAMPLE and spec.span > size + 2 * spec.padding:
            dilated = spec.kind == ATROUS and spec.rate > 1
            wide = f", at rate {spec.rate} spread over {spec.span} units," if dilated else ""
            padded = f", {size + 2 * spec.padding} with its padding" if spec.padding else ""
            return Trouble(f"Layer {number}: a kernel of {spec.kernel}{wide} does not fit: the map that it reads is "
                           f"{size} units wide{padded}.", f"{'rate' if dilated else 'kernel'}{number}")
        size = spec.new_size(size)
        if size > MOST_UNITS:
            return Trouble(f"Layer {number}: its map would be {size} units wide. Here {MOST_UNITS} can be shown.",
                           f"stride{number}")
    return None


@dataclass
class View:
    """A stack as it is seen from its last level. Pairs are (rows, columns).

    labels, short, axes: of each level but the input; axes with the input's first. lit: for rows and for columns, of
    each level, bool (units of the last level, units of this one). reads: for rows and columns, for each level but the
    input the units of the level before that each unit reads; none where they are not known. paths: (units of the
    last level, pixels), the number of ways, where each layer reads only the one before. deepest: how many levels
    there are.
    """

    input_size: tuple[int, int]
    shapes: list
    labels: list
    axes: list
    lit: tuple[list, list]
    reads: tuple | None
    paths: tuple | None
    deepest: int

    @property
    def short(self) -> list[str]:
        return [label.split(",")[0].replace("atrous conv", "atrous") for label in self.labels]

    @property
    def shape(self) -> tuple[int, int]:
        return self.shapes[-1]

    @cached_property
    def read(self) -> tuple[Tensor, Tensor]:
        """Which pixels each unit of the last level reads, float (units, pixels)."""
        return tuple(lit[0].float() for lit in self.lit)

    @cached_property
    def holes(self) -> bool:
        """Whether some unit leaves out pixels between those that it reads."""
        return any((_starts(lit[0]).sum(1) > 1).any() for lit in self.lit)

    @cached_property
    def fields(self) -> tuple[list, list]:
        """(low, high) in pixels for each unit of the last level, not clipped."""
        return tuple([self.axes[-1][axis].field(unit) for unit in range(self.shape[axis])] for axis in (0, 1))

    @cached_property
    def runs(self) -> tuple[list, list]:
        return tuple([runs(lit) for lit in each] for each in self.lit)

    def levels(self, axis: int) -> list[Level]:
        """What `Chain` draws."""
        reads = [None, *(self.reads[axis] if self.reads else [None] * len(self.labels))]
        return [Level(label, shape[axis], axes[axis].start, axes[axis].jump or shape[axis], lit, read)
                for label, shape, axes, lit, read in
                zip(["input", *self.labels], self.shapes, self.axes, self.runs[axis], reads, strict=True)]


PIXEL = receptive.Axis(1, 1, 0.5)


@dataclass
class Along:
    """The fields of a map's `units` units along one axis, as `receptive.Axis` has them. ends: a unit, also one beyond
    the map's edge -> the pixels [low, high) of its field."""

    units: int
    jump: float
    ends: Callable = lambda unit: (unit, unit + 1)

    def field(self, unit: int) -> tuple[int, int]:
        return self.ends(unit)

    @cached_property
    def size(self) -> int:
        return max(high - low for low, high in map(self.ends, range(self.units)))

    @cached_property
    def start(self) -> float:
        offsets = [sum(self.ends(unit)) / 2 - self.jump * unit for unit in range(self.units)]
        return (min(offsets) + max(offsets)) / 2

    def after(self, spec: Spec) -> "Along":
        """Along the map of a layer that reads this one."""
        if spec.kind == UPSAMPLE:
            jump, scale = self.jump / spec.stride, spec.stride       # unit u lies at (2u + 1 - scale) / (2 scale)
            first, last = (lambda unit: (2 * unit + 1 - scale) // (2 * scale),
                           lambda unit: -((scale - 2 * unit - 1) // (2 * scale)))
        else:
            jump = self.jump * spec.stride
            first = lambda unit: unit * spec.stride - spec.padding                       # noqa: E731
            last = lambda unit: first(unit) + spec.span - 1                              # noqa: E731
        ends = cache(lambda unit: (self.ends(first(unit))[0], self.ends(last(unit))[1]))
        return Along(spec.new_size(self.units), jump, ends)


@lru_cache(maxsize=256)
def stacked(specs: tuple[Spec, ...], size: int) -> View:
    """The view of a stack of those layers that are not "none", each a level; on a square of `size` pixels."""
    specs = [spec for spec in specs if spec.kind != NONE]
    modules, axes = [spec.module() for spec in specs], [Along(size, 1)]
    for spec in specs:
        axes.append(axes[-1].after(spec))
    ways = [_counts(part, old.units, new.units, 0) for part, old, new in zip(modules, axes, axes[1:], strict=False)]
    lit, paths = _down(ways, axes[-1].units)
    labels = [f"{number}  {words(part)}" for number, part in enumerate(modules, 1)]
    shapes = [(axis.units, axis.units) for axis in axes]
    return View((size, size), shapes, labels, [(axis, axis) for axis in axes], (lit, lit), (_reads(ways),) * 2,
                (paths, paths), len(specs))


@dataclass
class Followed:
    """A network's levels: the input's shape, then those of its maps; labels and axes as a `View` has them. ways: in a
    chain, for rows and columns, of each level but the input (its units, units of the one before), in how many ways
    each reads each."""

    shapes: list
    labels: list
    axes: list
    ways: tuple | None

    def view(self, depth: int) -> View:
        """The network's first `depth` levels, or as many as it has."""
        shapes, labels, axes = self.shapes[:depth + 1], self.labels[:depth], self.axes[:depth + 1]
        if not self.ways:
            lit = tuple(_within(shapes, axes, axis) for axis in (0, 1))
            return View(shapes[0], shapes, labels, axes, lit, None, None, len(self.labels))
        ways = tuple(each[:depth] for each in self.ways)
        lit, paths = zip(*(_down(each, shapes[-1][axis]) for axis, each in enumerate(ways)), strict=True)
        reads = tuple(map(_reads, ways)) if len(labels) <= LINES_UP_TO else None
        return View(shapes[0], shapes, labels, axes, lit, reads, paths, len(self.labels))


def followed(module: nn.Module, size: tuple[int, int]) -> Followed:
    """Any module that maps images of that size to maps. What is returned keeps nothing of the module."""
    layers, modules = receptive.theoretical(module, size), dict(module.named_modules())
    parts = [modules[layer.name] for layer in layers]
    parts = [part if type(part).__name__ == layer.kind else None for part, layer in zip(parts, layers, strict=True)]
    chain = _is_chain(module)
    kept = _worth_showing(layers, chain)
    ways = tuple(_ways(parts, layers, kept, size, axis) for axis in (0, 1)) if chain else None
    labels = [f"{number}  {words(parts[i]) if parts[i] is not None else layers[i].kind}"
              for number, i in enumerate(kept, 1)]
    axes = [(PIXEL, PIXEL), *((layers[i].rows, layers[i].columns) for i in kept)]
    return Followed([tuple(size), *(layers[i].shape for i in kept)], labels, axes, ways)


def _worth_showing(layers, chain: bool) -> list[int]:
    """Which layers are levels: in a chain those whose map or fields are not those of the level before; with branches
    those that enlarge the field, or change the jump on the longest way, and the last."""
    kept, largest, jumps = [], (1, 1), (1, 1)
    for number, layer in enumerate(layers):
        sizes, steps = (tuple(getattr(axis, name) for axis in (layer.rows, layer.columns)) for name in ("size", "jump"))
        longest = all(new >= old for new, old in zip(sizes, largest, strict=True))
        grown = any(new > old for new, old in zip(sizes, largest, strict=True)) or (longest and steps != jumps)
        last = layers[kept[-1]] if kept else None
        new = last is None or (layer.shape, layer.rows, layer.columns) != (last.shape, last.rows, last.columns)
        if new if chain or number == len(layers) - 1 else grown:
            kept.append(number)
            largest, jumps = tuple(map(max, sizes, largest)), steps
    return kept


def words(part: nn.Module) -> str:
    """A layer in a few words: "atrous conv 3×3, rate 2"."""
    if isinstance(part, nn.Upsample):
        return f"upsample ×{part.scale_factor:g}" if isinstance(part.scale_factor, (int, float)) else "upsample"
    if not hasattr(part, "kernel_size"):
        return type(part).__name__
    kernel, rate = _pair(part.kernel_size), _pair(getattr(part, "dilation", 1))
    stride = _pair(getattr(part, "stride", 1) or kernel)            # None: as large as the kernel
    kind = {"Conv2d": "conv", "ConvTranspose2d": "up-conv", "MaxPool2d": "max pool", "AvgPool2d": "mean pool"}
    name = kind.get(type(part).__name__, type(part).__name__)
    parts = [f"{'atrous ' if max(rate) > 1 and max(stride) == 1 else ''}{name} {'×'.join(map(str, kernel))}"]
    parts += [f"stride {stride[0]}"] if max(stride) > 1 else []
    parts += [f"rate {rate[0]}"] if max(rate) > 1 else []
    return ", ".join(parts)


# --- along one axis


CHAINED = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.Upsample)
POINTWISE = (nn.ReLU, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity)


def _is_chain(module: nn.Module) -> bool:
    """Whether each layer reads only the one before, and all are known here."""
    if type(module) is nn.Sequential:
        return all(_is_chain(part) for part in module)
    if type(module) is nn.Upsample:
        whole = module.scale_factor is not None and all(scale % 1 == 0 for scale in _pair(module.scale_factor))
        return whole and module.mode in ("nearest", "bilinear")
    named = isinstance(getattr(module, "padding", 0), str)          # "same" or "valid"
    zeros = getattr(module, "padding_mode", "zeros") == "zeros"
    return type(module) in CHAINED + POINTWISE and zeros and not named


def _ways(parts, layers, kept, size, axis) -> list[Tensor]:
    """For each kept level, (its units, units of the kept level before): in how many ways each reads each."""
    result, way, units = [], torch.eye(size[axis]), size[axis]
    for number, (part, layer) in enumerate(zip(parts, layers, strict=True)):
        way = _counts(part, units, layer.shape[axis], axis) @ way
        units = layer.shape[axis]
        if number in kept:
            result.append(way)
            way = torch.eye(units)
    return result


def _reads(ways: list[Tensor]) -> list[list]:
    return [[[unit for begin, end in spans for unit in range(begin, end)] for spans in runs(way > 0)] for way in ways]


def _counts(part: nn.Module, size: int, new: int, axis: int) -> Tensor:
    """(new, size): how often each unit of the layer's map reads each of the map before: the layer, on single ones."""
    ones = torch.eye(size)[:, None]
    if isinstance(part, nn.Upsample):
        mode = {"bilinear": "linear"}.get(part.mode, part.mode)
        return (F.interpolate(ones, new, mode=mode, align_corners=part.align_corners)[:, 0].T > 0).float()
    names = ("kernel_size", "stride", "padding", "dilation", "output_padding")
    kernel, stride, padding, rate, more = (_pair(getattr(part, name, int(name == "dilation")))[axis] for name in names)
    weight = torch.ones(1, 1, kernel)
    if isinstance(part, nn.ConvTranspose2d):
        return F.conv_transpose1d(ones, weight, None, stride, padding, more, dilation=rate)[:, 0].T
    padded = F.pad(ones, (padding, padding + stride))           # on the right enough for a map that is rounded up
    return F.conv1d(padded, weight, None, stride, 0, rate)[:, 0, :new].T


def _down(ways: list[Tensor], units: int) -> tuple[list[Tensor], Tensor]:
    """From the last level down: what is lit in each level, lowest first, and the number of paths to each pixel."""
    paths, lit = torch.eye(units, dtype=torch.float64), []
    for way in reversed(ways):
        lit.append(paths > 0)
        paths = paths @ way.double()
    return [paths > 0, *reversed(lit)], paths


def _within(shapes, axes, axis) -> list[Tensor]:
    """Of each level the units whose field lies within the field of each unit of the last: exact but for holes."""
    def ends(number):
        return torch.tensor([axes[number][axis].field(unit) for unit in range(shapes[number][axis])])

    low, high = ends(len(axes) - 1)[:, :, None].unbind(1)
    lit = [(a >= low) & (b <= high) & (b > a) for a, b in (ends(number).unbind(1) for number in range(len(axes)))]
    return [*lit[:-1], torch.eye(shapes[-1][axis]) > 0]


def _starts(lit: Tensor) -> Tensor:
    return lit & ~F.pad(lit, (1, 0))[:, :-1]


def runs(lit: Tensor) -> list[list]:
    """Bool (n, units) -> for each row its runs of true [begin, end)."""
    ends = lit & ~F.pad(lit, (0, 1))[:, 1:]
    pairs = torch.stack([_starts(lit).nonzero()[:, 1], ends.nonzero()[:, 1] + 1], dim=1).tolist()
    left = iter(pairs)
    return [list(islice(left, count)) for count in ends.sum(1).tolist()]


def _pair(value) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
