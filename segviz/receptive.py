"""Receptive fields: which pixels of the input a unit of a network's map can see, and which of them it heeds.

`theoretical` follows every operator that a module runs (on tensors without content, so that nothing is computed),
and keeps for each unit of each map the first and the last pixel that it reads, along rows and columns apart. The
recursion for one convolution is that of Araujo, Norris, Sim 2019, "Computing receptive fields of convolutional neural
networks", Distill; here it is kept per unit, so that it stays exact where maps are made larger. `reads` walks the same
operators back from one unit, and finds single pixels, holes left out. `effective` asks the gradient instead (Luo, Li,
Urtasun, Zemel 2016, "Understanding the effective receptive field in deep convolutional neural networks").

Coordinates are pixels of the input; pixel i covers [i, i + 1).

What is a convention, in `theoretical` and `reads`:
- A unit is all channels of one place. Groups of channels are taken to mix.
- Normalisation is taken as a scaling. That GroupNorm and InstanceNorm measure the whole map is left out.
- An operator that mixes places in a way that is not known here is refused with a ValueError that names it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

THRESHOLD = 1 - 0.9545  # of the peak: where a Gaussian's height has fallen to, just beyond two standard deviations

Span = tuple[int, int]  # pixels [first, last + 1)
Number = int | float


# ---- one axis of a map: what its units read ----


@dataclass(frozen=True)
class _Taps:
    """Which units of a map an operator reads, along one axis: unit `i + len(reads)` of its output reads what unit i
    reads, `step` units further on. border: what stands beyond the map: "nothing" (zeros), its "edge", or its "mirror"
    image."""

    reads: tuple[tuple[int, ...], ...]
    step: int
    border: str = "nothing"

    def of(self, unit: int) -> list[int]:
        turn, phase = divmod(unit, len(self.reads))
        return [source + turn * self.step for source in self.reads[phase]]


KEEP = _Taps(((0,),), 1)  # unit i reads unit i
FIRST = _Taps(((0,),), 0)  # every unit reads unit 0


def _everything(size: int) -> _Taps:
    return _Taps((tuple(range(size)),), 0)


def _window(kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> _Taps:
    return _Taps((tuple(k * dilation - padding for k in range(kernel)),), stride)


def _transposed(kernel: int, stride: int, padding: int, dilation: int = 1) -> _Taps:
    """Input i is written to the outputs i * stride - padding + k * dilation; here the other way round."""
    starts = [[phase + padding - k * dilation for k in range(kernel)] for phase in range(stride)]
    return _Taps(tuple(tuple(sorted(s // stride for s in row if s % stride == 0)) for row in starts), 1)


def _resized(mode: str, size: int, new: int, align_corners: bool, scale: float | None) -> _Taps:
    """Interpolation of `size` units to `new`. Output i lies at `i * ratio + shift` in units of the input."""
    ratio, shift = Fraction(size, new), Fraction(0)
    if scale:
        ratio = 1 / Fraction(scale).limit_denominator(4096)
    if align_corners:
        ratio = Fraction(size - 1, new - 1) if new > 1 else Fraction(0)
    elif mode != "nearest":
        shift = ratio / 2 - (0 if mode == "nearest-exact" else Fraction(1, 2))
    reads = []
    for i in range(ratio.denominator):
        place = i * ratio + shift
        low, between = math.floor(place), place.denominator > 1
        if mode == "bilinear" and between:
            reads.append((low, low + 1))
        elif mode == "bicubic" and between:
            reads.append((low - 1, low, low + 1, low + 2))
        else:
            reads.append((low,))
    return _Taps(tuple(reads), ratio.numerator, "edge")


def _adaptive(size: int, new: int) -> _Taps:
    """PyTorch's adaptive pooling: output i reads from floor(i * size / new) to ceil((i + 1) * size / new)."""
    if new == 1:
        return _everything(size)
    ratio = Fraction(size, new)
    bins = [range(math.floor(i * ratio), math.ceil((i + 1) * ratio)) for i in range(ratio.denominator)]
    return _Taps(tuple(map(tuple, bins)), ratio.numerator)


@dataclass(frozen=True)
class _Part:
    """Spans that repeat: unit `i + len(spans)` reads what unit i reads, `pixels` further on. None: reads nothing."""

    spans: tuple[Span | None, ...]
    pixels: int

    def of(self, unit: int) -> Span | None:
        turn, phase = divmod(unit, len(self.spans))
        span = self.spans[phase]
        return span and (span[0] + turn * self.pixels, span[1] + turn * self.pixels)

    def shortest(self) -> "_Part":
        """The same spans with the shortest period."""
        period = len(self.spans)
        for length in range(1, period):
            pixels, rest = divmod(self.pixels * length, period)
            if period % length == 0 and not rest:
                short = _Part(self.spans[:length], pixels)
                if all(short.of(i) == span for i, span in enumerate(self.spans)):
                    return short
        return self

    @property
    def jump(self) -> Fraction:
        return Fraction(self.pixels, len(self.spans))


def _hull(spans: Iterable[Span | None]) -> Span | None:
    found = [span for span in spans if span]
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


@dataclass(frozen=True)
class _Line:
    """What the units of a map read along one axis, also those that would lie beyond the map's ends: for each unit the
    hull of its parts. Several parts: branches that do not advance at the same pace, as a map and its global mean."""

    parts: tuple[_Part, ...]

    def of(self, unit: int) -> Span | None:
        return _hull(part.of(unit) for part in self.parts)

    def through(self, taps: _Taps) -> "_Line":
        """What the units of an operator read that reads a map with this line."""
        if taps == KEEP:
            return self
        result = []
        for part in self.parts:
            times = len(part.spans) // math.gcd(len(part.spans), taps.step)
            units = range(len(taps.reads) * times)
            spans = tuple(_hull(part.of(source) for source in taps.of(unit)) for unit in units)
            result.append(_Part(spans, part.pixels * taps.step * times // len(part.spans)).shortest())
        return _Line(()).joined(_Line(tuple(result)))

    def joined(self, other: "_Line") -> "_Line":
        """The hull of both. Parts of one pace become one."""
        parts = {part.jump: part for part in self.parts}
        for new in other.parts:
            old = parts.get(new.jump, new)
            period = math.lcm(len(old.spans), len(new.spans))
            spans = tuple(_hull((old.of(unit), new.of(unit))) for unit in range(period))
            parts[new.jump] = _Part(spans, int(new.jump * period)).shortest()
        return _Line(tuple(parts[jump] for jump in sorted(parts)))


PIXELS = _Line((_Part(((0, 1),), 1),))


# ---- what is reported ----


@dataclass(frozen=True)
class Axis:
    """The fields of a map's units along one axis, in pixels of the input.

    size: from the first pixel that a unit reads to the last; the largest of the map's units, where they differ.
    jump: from one unit's field to the next one's, on the mean. 0 where all units read the same.
    start: the centre of unit 0's field. Where units are not evenly spaced, the start from which the rule
    `start + jump * unit` misses the fields' centres by the least."""

    size: Number
    jump: Number
    start: Number
    _line: _Line | None = field(default=None, repr=False, compare=False)

    def field(self, unit: int) -> tuple[Number, Number]:
        """The pixels [begin, end) that this unit reads: exact for every unit, also where their sizes differ. A unit
        that reads nothing has the field (0, 0)."""
        if self._line is not None:
            return self._line.of(unit) or (0, 0)
        centre = self.start + self.jump * unit
        return _plain(centre - self.size / 2), _plain(centre + self.size / 2)


@dataclass(frozen=True)
class Layer:
    """The receptive fields of the units of one map, along its rows and its columns.

    name: of the module, as in `named_modules`. kind: its class, "Conv2d", or the function called in its forward, "add".
    shape: (h, w) of the map."""

    name: str
    kind: str
    shape: tuple[int, int]
    rows: Axis
    columns: Axis

    @property
    def size(self) -> Number | tuple[Number, Number]:
        """Pixels from one end of a field to the other; (rows, columns) where they differ."""
        return self._both("size")

    @property
    def jump(self) -> Number | tuple[Number, Number]:
        """Pixels from one unit to the next; (rows, columns) where they differ."""
        return self._both("jump")

    @property
    def start(self) -> Number | tuple[Number, Number]:
        """Centre of unit 0's field; (rows, columns) where they differ."""
        return self._both("start")

    def field(self, row: int, column: int) -> tuple[Number, Number, Number, Number]:
        """(top, left, bottom, right) of the field of one unit, half open, as though the map went on beyond the input's
        borders: not clipped. Exact for every unit. Holes between its pixels count as inside."""
        (top, bottom), (left, right) = self.rows.field(row), self.columns.field(column)
        return top, left, bottom, right

    def _both(self, name: str) -> Number | tuple[Number, Number]:
        rows, columns = getattr(self.rows, name), getattr(self.columns, name)
        return rows if rows == columns else (rows, columns)


def _plain(number) -> Number:
    return int(number) if number == int(number) else float(number)


def _axis(line: _Line, units: int) -> Axis:
    """The summary of the fields of a map's first `units` units."""
    alone = [part for part in line.parts if all(part.of(unit) == line.of(unit) for unit in range(units))]
    jump = alone[0].jump if alone else None
    spans = {unit: span for unit in range(units) if (span := line.of(unit))}
    if not spans:
        return Axis(0, 0, 0, line)
    centres = {unit: Fraction(low + high, 2) for unit, (low, high) in spans.items()}
    first, last = min(centres), max(centres)
    if jump is None:
        jump = (centres[last] - centres[first]) / max(1, last - first)
    offsets = [centre - jump * unit for unit, centre in centres.items()]
    start = (min(offsets) + max(offsets)) / 2
    return Axis(max(high - low for low, high in spans.values()), _plain(jump), _plain(start), line)


# ---- following a module ----


@dataclass(frozen=True, eq=False)
class _Map:
    """One map: what its units read of the input, and of the maps that it was made from."""

    lines: tuple[_Line, _Line]  # rows, columns
    sizes: tuple[int, int]
    sources: tuple[tuple["_Map", tuple[_Taps, _Taps]], ...] = ()

    def through(self, taps: tuple[_Taps, _Taps], sizes: tuple[int, int]) -> "_Map":
        lines = tuple(line.through(tap) for line, tap in zip(self.lines, taps, strict=True))
        return _Map(lines, sizes, ((self, taps),))


# A tensor's dimension is a product of factors (what, size); what is 0 for the map's rows, 1 for its columns, None for
# anything else (batch, channels), MIXED for channels whose fields differ. (B, C, H * W): ((None, B),), ((None, C),),
# ((0, H), (1, W)). An axis that no factor names has a single unit.
MIXED = "mixed"
Factors = tuple[tuple[int | str | None, int], ...]


def _axes(factors: Factors) -> list[int]:
    return [what for what, _ in factors if what in (0, 1)]


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a tensor's numbers lie on a map."""

    map: _Map
    layout: tuple[Factors, ...]

    def through(self, reading: dict[int, tuple[_Taps, int]]) -> "_Place":
        """After an operator that reads along dimensions: {dimension: (taps, new size)}."""
        place = self
        for dim in reading:
            place = place.settled(dim)
        taps, sizes, layout = [KEEP, KEEP], list(place.map.sizes), list(place.layout)
        for dim, (tap, new) in reading.items():
            what = layout[dim][0][0] if layout[dim] else None
            layout[dim] = ((what, new),)
            if what in (0, 1):
                taps[what], sizes[what] = tap, new
        if taps == [KEEP, KEEP] and tuple(sizes) == place.map.sizes:
            return replace(place, layout=tuple(layout))
        return _Place(place.map.through(tuple(taps), tuple(sizes)), tuple(layout))

    def settled(self, dim: int) -> "_Place":
        """The same place, with dimension `dim` a single factor: that is how operators see it."""
        factors, layout = self.layout[dim], list(self.layout)
        axes, size = _axes(factors), math.prod(size for _, size in factors)
        absent = {0, 1} - {axis for each in layout for axis in _axes(each)}
        natural = len(layout) - dim  # the last dimension is the columns, the last but one the rows
        if not axes:
            if size == 1 and len(layout) > 2 and natural <= 2 and 2 - natural in absent:
                layout[dim] = ((2 - natural, 1),)
            elif len(factors) > 1:
                layout[dim] = ((None, size),)
            return replace(self, layout=tuple(layout))
        factors = tuple(factor for factor in factors if factor[1] > 1 or factor[0] in (0, 1))
        axis, units = factors[0]
        if len(axes) > 1 or axis not in (0, 1) or any(what is MIXED for what, _ in factors[1:]):
            raise ValueError("it reads along a dimension in which rows, columns or channels were put one after another")
        layout[dim] = ((axis, size),)
        if size == units:
            return replace(self, layout=tuple(layout))
        taps, sizes = [KEEP, KEEP], list(self.map.sizes)
        taps[axis], sizes[axis] = _Taps(((0,),) * (size // units), 1), size  # each unit repeated
        return _Place(self.map.through(tuple(taps), tuple(sizes)), tuple(layout))

    def mixed(self, dims: Iterable[int], size: Callable[[int], int]) -> "_Place":
        """Where each unit reads all others along `dims`. size(n): how many units are left of n."""
        taps, sizes, layout = [KEEP, KEEP], list(self.map.sizes), list(self.layout)
        for dim in dims:
            for axis in _axes(layout[dim]):
                taps[axis], sizes[axis] = _everything(sizes[axis]), size(sizes[axis])
            layout[dim] = tuple((what, size(n)) for what, n in layout[dim])
        if taps == [KEEP, KEEP]:
            return replace(self, layout=tuple(layout))
        return _Place(self.map.through(tuple(taps), tuple(sizes)), tuple(layout))

    def without(self, dims: Iterable[int]) -> "_Place":
        return replace(self, layout=tuple(each for dim, each in enumerate(self.layout) if dim not in set(dims)))

    def viewed(self, shape: Iterable[int]) -> "_Place":
        """The same numbers in another shape: the factors are dealt out anew, in order."""
        left = [factor for factors in self.layout for factor in factors]
        layout = []
        for size in shape:
            factors, product = [], 1
            if size == 1 and left and left[0][1] == 1:
                factors.append(left.pop(0))
            while product < size:
                what, n = left.pop(0)
                need = size // product
                if n > need and what not in (0, 1) and n % need == 0:
                    left.insert(0, (what, n // need))
                    n = need
                if size % (product * n):
                    raise ValueError("it cuts the rows or the columns of a map into pieces")
                factors.append((what, n))
                product *= n
            layout.append(tuple(factors))
        return replace(self, layout=tuple(layout))

    def one_after_another(self) -> "_Place":
        """Where every unit reads the whole map."""
        return self.mixed(range(len(self.layout)), lambda n: n)

    def shape(self) -> tuple[int, int]:
        """(h, w) of the map as the tensor has it."""
        sizes = [math.prod(n for _, n in factors) for factors in self.layout]
        return tuple(sizes[-2:]) if len(sizes) == 4 else self.map.sizes


def _joined(places: list[_Place], shape: Iterable[int]) -> _Place:
    """The place of a tensor of this shape in which tensors at several places meet, number by number."""
    shape, layout = tuple(shape), []
    for dim, size in enumerate(reversed(shape), 1):
        meeting = [place.layout[-dim] for place in places if dim <= len(place.layout)]
        fitting = [factors for factors in meeting if math.prod(n for _, n in factors) == size]
        fitting.sort(key=lambda factors: (len(_axes(factors)), any(what is MIXED for what, _ in factors)))
        layout.insert(0, fitting[-1] if fitting else ((None, size),))
    sizes = [1, 1]
    where = {axis: dim - len(shape) for dim, factors in enumerate(layout) for axis in _axes(factors)}
    for axis, dim in where.items():
        sizes[axis] = dict(layout[dim])[axis]
    if sum(len(_axes(factors)) for factors in layout) > len(where):
        raise ValueError("it joins maps whose rows or columns lie along different dimensions")
    for place in places:
        for dim, factors in enumerate(place.layout, -len(place.layout)):
            for axis in _axes(factors):
                if place.map.sizes[axis] > 1 and (where.get(axis) != dim or factors != layout[dim]):
                    raise ValueError("it joins maps whose rows or columns lie along different dimensions")
    if len({place.map for place in places}) == 1 and places[0].map.sizes == tuple(sizes):
        return _Place(places[0].map, tuple(layout))
    sources = []
    for place in places:
        taps = tuple(KEEP if place.map.sizes[axis] == sizes[axis] else FIRST for axis in (0, 1))
        sources.append((place.map, taps))
    lines = []
    for axis in (0, 1):
        line = _Line(())
        for source, taps in sources:
            line = line.joined(source.lines[axis].through(taps[axis]))
        lines.append(line)
    return _Place(_Map(tuple(lines), tuple(sizes), tuple(sources)), tuple(layout))


class _Trace(TorchDispatchMode):
    """Follows every operator that is run inside it, from a tensor of pixels on."""

    def __init__(self):
        super().__init__()
        self.layers: list[Layer] = []
        self.places: dict[int, tuple[Tensor, _Place | None]] = {}  # by identity; None: no longer known
        self.windows: dict[int, list[tuple[int, int, int, int]]] = {}  # of the poolings that gave these indices
        self.running: list[tuple[str, nn.Module, int]] = []  # the modules whose forward is being run
        self.calls, self.last = count(), None

    def start(self, pixels: Tensor) -> None:
        batch, channels, height, width = pixels.shape
        layout = ((None, batch),), ((None, channels),), ((0, height),), ((1, width),)
        self.places[id(pixels)] = pixels, _Place(_Map((PIXELS, PIXELS), (height, width)), layout)

    def place(self, tensor) -> _Place | None:
        if not isinstance(tensor, Tensor) or id(tensor) not in self.places:
            return None
        place = self.places[id(tensor)][1]
        if place is None:
            raise ValueError("it reads a tensor into which other values were written, in part or by another name")
        return place

    def put(self, tensor: Tensor, place: _Place) -> None:
        self.places[id(tensor)] = tensor, place

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            schema = func._schema.arguments
            given = {argument.name: argument.default_value for argument in schema}
            given |= dict(zip((argument.name for argument in schema), args, strict=False)) | (kwargs or {})
            try:
                self.follow(func, given, out)
            except ValueError as error:
                name, kind = (self.running[-1][0], type(self.running[-1][1]).__name__) if self.running else ("", "")
                raise ValueError(
                    f"the operator {func.overloadpacket.__name__} in the forward of {name or 'the module'} ({kind}) "
                    f"cannot be followed: {error}"
                ) from None
        return out

    def follow(self, func, given: dict, out) -> None:
        name = func.overloadpacket.__name__.removesuffix("_")
        known = {key: place for key, value in given.items() if (place := self.place(value))}
        listed = [place for value in given.values() if isinstance(value, list | tuple)
                  for item in value if (place := self.place(item))]  # fmt: skip
        if not known and not listed:
            return
        if name in FORGETFUL:
            return
        written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        if name in RULES:
            place = RULES[name](self, given, out)
        elif torch.Tag.pointwise in func.tags or name in ELEMENTWISE:
            place = self.elementwise(name, [*known.values(), *listed], tree_leaves(out)[0])
        else:
            raise ValueError("it mixes places in a way that is not known here")
        if place is not None and not any(self.write(given[key], place) for key in written):
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor):
                    self.put(tensor, place)

    def write(self, tensor: Tensor, place: _Place) -> bool:
        """A tensor that was changed in place. What shares its memory is no longer known, where the fields changed."""
        before = self.places.get(id(tensor), (None, None))[1]
        if before is None or before.map is not place.map:
            base = tensor if tensor._base is None else tensor._base
            for other, _ in [*self.places.values(), (base, None)]:
                if other is not tensor and (other is base or other._base is base):
                    self.places[id(other)] = other, None
        self.put(tensor, place)
        return True

    def elementwise(self, name: str, places: list[_Place], out: Tensor) -> _Place:
        place = _joined(places, out.shape)
        if any(place.map.lines != before.map.lines for before in places):
            self.report(name, place)
        return place

    def report(self, kind: str, place: _Place) -> None:
        """One entry of the list: of a layer of PyTorch's own one a call, of other modules one for each function."""
        name, module, call = self.running[-1]
        if _is_layer(module):
            kind = type(module).__name__
            if self.last == call:
                self.layers.pop()
        self.last = call
        axes = (_axis(line, size) for line, size in zip(place.map.lines, place.map.sizes, strict=True))
        self.layers.append(Layer(name, kind, place.shape(), *axes))


def _is_layer(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's layers, or derived from one, and not a container."""
    inherited = [each for each in type(module).__mro__ if each is not nn.Module]
    return not any(module.children()) and any(each.__module__.startswith("torch.nn.modules.") for each in inherited)


# ---- the rules: what an operator's output reads of its input. trace, its arguments by name, its output -> place ----

ELEMENTWISE = {"_prelu_kernel", "hardswish", "native_dropout", "copy", "_to_copy", "native_batch_norm",
               "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
               "miopen_batch_norm", "native_group_norm", "native_layer_norm", "_fused_rms_norm", "channel_shuffle",
               "native_channel_shuffle", "lift_fresh", "view_as_real", "rrelu_with_noise", "nan_to_num"}  # fmt: skip
FORGETFUL = {"zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones",
             "new_empty", "new_full", "new_empty_strided", "sym_size", "is_same_size"}  # fmt: skip


def _each(value, dims: int) -> list[int]:
    """One number per dimension, where one for all may stand."""
    value = [value] if isinstance(value, int) else list(value)
    return value * dims if len(value) == 1 else value


def _along_last(place: _Place, taps: list[_Taps], out: Tensor) -> _Place:
    """An operator that reads the last dimensions, one of `taps` each."""
    dims = range(len(place.layout) - len(taps), len(place.layout))
    place = place.through({dim: (tap, out.shape[dim]) for dim, tap in zip(dims, taps, strict=True)})
    before = len(place.layout) - len(taps) - 1
    if before >= 0 and math.prod(n for _, n in place.layout[before]) != out.shape[before]:
        if _axes(place.layout[before]):
            raise ValueError("it mixes rows or columns as though they were channels")
        layout = list(place.layout)
        layout[before] = ((None, out.shape[before]),)
        place = replace(place, layout=tuple(layout))
    return place


def _convolution(trace, given, out):
    place, kernel = trace.place(given["input"]), given["weight"].shape[2:]
    if trace.place(given["weight"]) or place is None:
        raise ValueError("its weights are computed from the input")
    if place.layout and _axes(place.layout[-len(kernel) - 1]):
        raise ValueError("it mixes rows or columns as though they were channels")
    numbers = [_each(given[key], len(kernel)) for key in ("stride", "padding", "dilation")]
    make = _transposed if given["transposed"] else _window
    place = _along_last(place, [make(*each) for each in zip(kernel, *numbers, strict=True)], out)
    trace.report(f"conv{'_transpose' * given['transposed']}{len(kernel)}d", place)
    return place


def _pool(kind):
    def rule(trace, given, out):
        dims = int(kind[-2])
        first = out[0] if isinstance(out, tuple) else out
        kernel = _each(given["kernel_size"], dims)
        stride = _each(given["stride"] or kernel, dims)
        padding, dilation = _each(given["padding"], dims), _each(given.get("dilation", 1), dims)
        windows = list(zip(kernel, stride, padding, dilation, strict=True))
        place = _along_last(trace.place(given["self"]), [_window(*each) for each in windows], first)
        if isinstance(out, tuple):
            trace.windows[id(out[1])] = windows
        trace.report(kind, place)
        return place

    return rule


def _unpool(trace, given, out):
    windows = trace.windows.get(id(given["indices"]))
    if windows is None:
        raise ValueError("its indices are not those that a max pooling returned")
    place = _joined([trace.place(given["self"]), trace.place(given["indices"])], given["self"].shape)
    place = _along_last(place, [_transposed(*each) for each in windows], out)
    trace.report("max_unpool2d", place)
    return place


def _adaptive_pool(kind):
    def rule(trace, given, out):
        first, before = out[0] if isinstance(out, tuple) else out, given["self"].shape
        taps = [_adaptive(before[dim], first.shape[dim]) for dim in (-2, -1)]
        place = _along_last(trace.place(given["self"]), taps, first)
        trace.report(kind, place)
        return place

    return rule


def _interpolate(mode):
    def rule(trace, given, out):
        before, scales = given.get("self", given.get("input")).shape, (given.get("scales_h"), given.get("scales_w"))
        corners = bool(given.get("align_corners", False))
        taps = [_resized(mode, before[d], out.shape[d], corners, s) for d, s in zip((-2, -1), scales, strict=True)]
        place = _along_last(trace.place(given.get("self", given.get("input"))), taps, out)
        trace.report("interpolate", place)
        return place

    return rule


def _shuffle(trace, given, out):
    factor = given["upscale_factor"]
    place = _along_last(trace.place(given["self"]), [_Taps(((0,),) * factor, 1)] * 2, out)
    trace.report("pixel_shuffle", place)
    return place


def _unshuffle(trace, given, out):
    factor = given["downscale_factor"]
    place = _along_last(trace.place(given["self"]), [_window(factor, factor)] * 2, out)
    trace.report("pixel_unshuffle", place)
    return place


def _unfold(trace, given, out):
    numbers = [_each(given[key], 2) for key in ("kernel_size", "stride", "padding", "dilation")]
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(given["self"].shape[-2:], *numbers, strict=True)
    ]
    like = torch.empty((*out.shape[:-1], *sizes), device="meta")
    place = _along_last(trace.place(given["self"]), [_window(*each) for each in zip(*numbers, strict=True)], like)
    trace.report("unfold", place)
    return place.viewed(out.shape)


def _pad(border):
    def rule(trace, given, out):
        place, pads = trace.place(given["self"]), given.get("pad", given.get("padding"))
        reading = {}
        for number, start in enumerate(pads[::2], 1):
            dim = len(place.layout) - number
            reading[dim] = _Taps(((-start,),), 1, border), out.shape[dim]
        return _moved(trace, "pad", place, reading)

    return rule


def _moved(trace, kind, place, reading):
    """Units that move: cropped, padded. Other dimensions than rows and columns are padded with what is no unit's."""
    result = place.through({dim: each for dim, each in reading.items() if _axes(place.settled(dim).layout[dim])})
    layout = list(result.layout)
    for dim, (_, size) in reading.items():
        before = math.prod(n for _, n in layout[dim])
        if before != size:
            layout[dim] = ((MIXED if size > before else None, size),)
    result = replace(result, layout=tuple(layout))
    if result.map.sizes != place.map.sizes or result.map.lines != place.map.lines:
        trace.report(kind, result)
    return result


def _slice(trace, given, out):
    place = trace.place(given["self"])
    dim = given["dim"] % len(place.layout)
    start = slice(given["start"], given["end"]).indices(given["self"].shape[dim])[0]
    return _moved(trace, "crop", place, {dim: (_Taps(((start,),), given["step"]), out.shape[dim])})


def _select(trace, given, out):
    place = trace.place(given["self"])
    dim, size = given["dim"] % len(place.layout), given["self"].shape[given["dim"]]
    taps = _Taps(((given["index"] % size,),), 0)
    return _moved(trace, "crop", place, {dim: (taps, 1)}).without([dim])


def _split(trace, given, out):
    dim, start = given["dim"] % given["self"].ndim, 0
    for piece in out:
        trace.put(piece, _slice(trace, {"self": given["self"], "dim": dim, "start": start, "end": None, "step": 1},
                                piece))  # fmt: skip
        start += piece.shape[dim]


def _unbind(trace, given, out):
    for index, piece in enumerate(out):
        trace.put(piece, _select(trace, {**given, "index": index}, piece))


def _flip(trace, given, out):
    place, shape = trace.place(given["self"]), given["self"].shape
    dims = [dim % len(shape) for dim in given["dims"]]
    return _moved(trace, "flip", place, {dim: (_Taps(((shape[dim] - 1,),), -1), shape[dim]) for dim in dims})


def _view(trace, given, out):
    return trace.place(given["self"]).viewed(out.shape)


def _strided(trace, given, out):
    place = trace.place(given["self"])
    if place.map.sizes != (1, 1) or given["self"].numel() != out.numel():
        raise ValueError("it lays a map out anew in memory")
    return place.viewed(out.shape)  # a single unit: there is nothing to mix


def _permute(trace, given, out):
    place = trace.place(given["self"])
    return replace(place, layout=tuple(place.layout[dim] for dim in given["dims"]))


def _transpose(trace, given, out):
    layout = list(trace.place(given["self"]).layout)
    if len(layout) > 1:
        one, other = given.get("dim0", 0), given.get("dim1", 1)
        layout[one], layout[other] = layout[other], layout[one]
    return replace(trace.place(given["self"]), layout=tuple(layout))


def _unsqueeze(trace, given, out):
    layout = list(trace.place(given["self"]).layout)
    layout.insert(given["dim"] % out.ndim, ())
    return replace(trace.place(given["self"]), layout=tuple(layout))


def _squeeze(trace, given, out):
    shape, dims = given["self"].shape, given.get("dim")
    dims = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    return trace.place(given["self"]).without(
        [dim % len(shape) for dim in dims if shape[dim] == 1]
    )


def _expand(trace, given, out):
    return trace.elementwise("expand", [trace.place(given["self"])], out)


def _cat(trace, given, out):
    tensors = given["tensors"]
    places = [place for tensor in tensors if (place := trace.place(tensor))]
    dim = given["dim"] % out.ndim
    if out.ndim > tensors[0].ndim:  # stack
        places = [replace(each, layout=(*each.layout[:dim], (), *each.layout[dim:])) for each in places]
    if any(_axes(place.layout[dim]) for place in places):
        raise ValueError("it puts maps one after another along their rows or columns")
    same = len({place.map for place in places}) == 1 and len(places) == len(tensors)
    factors = ((None if same else MIXED, out.shape[dim]),)
    return trace.elementwise(
        "cat", [replace(each, layout=(*each.layout[:dim], factors, *each.layout[dim + 1 :])) for each in places], out
    )


def _reduce(kind):
    def rule(trace, given, out):
        place, before = trace.place(given["self"]), given["self"].ndim
        dims = given.get("dim")
        dims = range(before) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
        dims = [dim % before for dim in dims]
        result = place.mixed(dims, lambda n: 1)
        if result.map is not place.map:
            trace.report(kind, result)
        first = out[0] if isinstance(out, tuple) else out
        return result if first.ndim == before else result.without(dims)

    return rule


def _softmax(trace, given, out):
    place = trace.place(given["self"])
    result = place.mixed([given["dim"] % len(place.layout)], lambda n: n)
    if result.map is not place.map:
        trace.report("softmax", result)
    return result


def _matmul(left, right):
    def rule(trace, given, out):
        one, other = trace.place(given[left]), trace.place(given[right])
        rows, columns = out.shape[-2:]
        places = []
        if one:  # (..., rows, summed) -> (..., rows, columns)
            one = one.mixed([len(one.layout) - 1], lambda n: 1).without([len(one.layout) - 1])
            places.append(replace(one, layout=(*one.layout, ((None, columns),))))
        if other:  # (..., summed, columns) -> (..., rows, columns)
            dim = len(other.layout) - 2
            other = other.mixed([dim], lambda n: 1).without([dim])
            places.append(replace(other, layout=(*other.layout[:-1], ((None, rows),), other.layout[-1])))
        if one and other and all(any(map(_axes, place.layout)) for place in (one, other)):
            places = [_whole(place, out) for place in places]  # each unit of one meets each unit of the other
        if (bias := trace.place(given["self"]) if left != "self" else None) is not None:
            places.append(bias)
        place = _joined(places, out.shape)
        changed = all(place.map.lines != trace.place(given[key]).map.lines for key in (left, right)
                      if trace.place(given[key]))  # fmt: skip
        if changed or _is_layer(trace.running[-1][1]):
            trace.report("matmul", place)
        return place

    return rule


def _whole(place: _Place, out: Tensor) -> _Place:
    """Where each number of `out` reads the whole map."""
    place = place.mixed(range(len(place.layout)), lambda n: 1)
    return replace(place, layout=tuple(((None, n),) for n in out.shape))


def _attention(trace, given, out):
    tensors = [tensor for tensor in given.values() if trace.place(tensor)]
    first = out[0] if isinstance(out, tuple) else out
    place = _joined([_whole(trace.place(tensor), first) for tensor in tensors], first.shape)
    trace.report("attention", place)
    return place


def _glu(trace, given, out):
    place, dim = trace.place(given["self"]), given["dim"] % out.ndim
    if _axes(place.layout[dim]):
        raise ValueError("it gates one half of the rows or columns with the other")
    return replace(place, layout=(*place.layout[:dim], ((None, out.shape[dim]),), *place.layout[dim + 1 :]))


RULES = {
    "convolution": _convolution,
    **{f"max_pool{n}d_with_indices": _pool(f"max_pool{n}d") for n in (2, 3)},
    **{f"avg_pool{n}d": _pool(f"avg_pool{n}d") for n in (2, 3)},
    "max_unpool2d": _unpool,
    "_adaptive_avg_pool2d": _adaptive_pool("adaptive_avg_pool2d"),
    "adaptive_max_pool2d": _adaptive_pool("adaptive_max_pool2d"),
    "upsample_nearest2d": _interpolate("nearest"),
    "_upsample_nearest_exact2d": _interpolate("nearest-exact"),
    "upsample_bilinear2d": _interpolate("bilinear"),
    "upsample_bicubic2d": _interpolate("bicubic"),
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _unshuffle,
    "im2col": _unfold,
    "constant_pad_nd": _pad("nothing"),
    "replication_pad2d": _pad("edge"),
    "reflection_pad2d": _pad("mirror"),
    "slice": _slice,
    "select": _select,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "flip": _flip,
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape"), _view),
    "as_strided": _strided,
    "permute": _permute,
    **dict.fromkeys(("transpose", "t"), _transpose),
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("expand", "alias", "detach", "clone"), _expand),
    **dict.fromkeys(("cat", "stack"), _cat),
    **{name: _reduce(name) for name in ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "logsumexp",
                                        "any", "all", "argmax", "argmin", "norm")},
    "linalg_vector_norm": _reduce("norm"),
    "var_mean": _reduce("var_mean"),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
    "mm": _matmul("self", "mat2"),
    "bmm": _matmul("self", "mat2"),
    "addmm": _matmul("mat1", "mat2"),
    "baddbmm": _matmul("batch1", "batch2"),
    **dict.fromkeys(("_native_multi_head_attention", "_scaled_dot_product_flash_attention_for_cpu",
                     "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
                     "_scaled_dot_product_cudnn_attention"), _attention),
    "glu": _glu,
}  # fmt: skip


# ---- the four functions ----


def theoretical(module: nn.Module, input_size: int | tuple[int, int], in_channels: int | None = None) -> list[Layer]:
    """The receptive fields of every layer of a module, in running order.

    module: any that maps (B, C, H, W) images; weights play no part, and may lie on the meta device. It is followed
    once, in evaluation mode, on tensors without content, and left as it was.
    input_size: H = W, or (H, W). in_channels: C; by itself that of the first convolution.
    Returns one `Layer` for each convolution, pooling, resizing or fully connected layer, and for each join of branches
    whose fields differ (kind "add", "cat", "mul"; named after the module in whose forward it stands). Elementwise
    layers and normalisation change nothing and are not listed. Fields are not clipped: those of VGG16's fc6 measure
    404 pixels also at an input of 224.
    Raises ValueError where the module does not take such an input, or runs an operator that mixes places in a way
    that is not known here, which it names.
    """
    return _followed(module, input_size, in_channels)[0].layers


def reads(
    module: nn.Module,
    input_size: int | tuple[int, int],
    position: tuple[int, int],
    in_channels: int | None = None,
) -> Tensor:
    """Which pixels can reach one unit of a module's output: bool (H, W), true exactly there, holes left out.

    position: (row, column) of the unit in the module's output map (1, K, h, w). Other arguments and errors as for
    `theoretical`. Only real pixels count: nothing comes through padding, or from beyond a cropped map. It tells what
    the wiring allows; that a certain weight is zero it does not see.
    """
    trace, pixels, output = _followed(module, input_size, in_channels)
    _check_position(output, position)
    mask = torch.zeros(pixels.shape[-2:], dtype=torch.bool)
    place = trace.place(output)
    if place is None:
        return mask
    place = place.settled(2).settled(3)
    if (_axes(place.layout[2]), _axes(place.layout[3])) not in (([0], [1]), ([], []), ([0], []), ([], [1])):
        raise ValueError("the rows and columns of the module's output are not those of its input: it turns the map")
    unit = [position[i] if _axes(place.layout[2 + i]) else 0 for i in (0, 1)]
    masks = {place.map: torch.zeros(place.map.sizes)}
    masks[place.map][tuple(unit)] = 1
    return _walked_back(place.map, masks, trace.place(pixels).map) > 0


def _walked_back(last: _Map, masks: dict[_Map, Tensor], first: _Map) -> Tensor:
    for node in reversed(_in_order(last)):
        mask = masks[node]
        for source, taps in node.sources:
            rows, columns = (
                _matrix(tap, new, old) for tap, new, old in zip(taps, node.sizes, source.sizes, strict=True)
            )
            reached = (rows.T @ mask @ columns > 0).float()
            masks[source] = torch.maximum(masks[source], reached) if source in masks else reached
    return masks.get(first, torch.zeros(first.sizes))


def _in_order(last: _Map) -> list[_Map]:
    """All maps that lead to this one, each after those that it reads."""
    order, seen, waiting = [], set(), [(last, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting += [(node, True), *((source, False) for source, _ in node.sources)]
    return order


@lru_cache(maxsize=64)
def _matrix(taps: _Taps, new: int, old: int) -> Tensor:
    """(new, old): 1 where unit `row` of the new map reads unit `column` of the old one."""
    matrix = torch.zeros(new, old)
    for unit in range(new):
        for source in taps.of(unit):
            if taps.border == "edge":
                source = min(max(source, 0), old - 1)
            if taps.border == "mirror":
                source = abs(source) if source < old else 2 * (old - 1) - source
            if 0 <= source < old:
                matrix[unit, source] = 1
    return matrix


def effective(module: nn.Module, images: Tensor, position: tuple[int, int]) -> Tensor:
    """How strongly each pixel moves one unit: the effective receptive field of Luo et al. 2016, section 2.

    images: (B, C, H, W) float, on the module's device. position: (row, column) of a unit of the output map.
    Returns (H, W), sum 1: the absolute gradient of the unit, its channels summed, with respect to the pixels, their
    channels summed, meaned over the images. All zeros where no pixel moves it. The module is run in evaluation mode;
    it and its parameters' gradients stay as they were.
    Raises ValueError where images or position do not fit.
    """
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"images are float (B, C, H, W), but got {images.dtype} of shape {tuple(images.shape)}")
    state = {name: value.detach() for name, value in [*module.named_parameters(), *module.named_buffers()]}
    total = torch.zeros(images.shape[-2:], device=images.device)
    with _evaluating(module), torch.enable_grad():
        for image in images.detach():
            pixels = image[None].clone().requires_grad_()
            output = _said(module, pixels, lambda x: torch.func.functional_call(module, state, (x.clone(),)))
            _check_position(output, position)
            unit = output[:, :, position[0], position[1]].sum()
            if unit.requires_grad:
                gradient = torch.autograd.grad(unit, pixels, allow_unused=True)[0]
                if gradient is not None:
                    total += gradient[0].abs().sum(0)
    return total / total.sum() if total.sum() > 0 else total


def effective_size(field: Tensor) -> float:
    """The side, in pixels, of the square that has as many pixels as hold at least 4.55 % of the field's peak: within
    two standard deviations of the centre, as Luo et al. 2016 count them (section 3). 0 for a field of zeros."""
    peak = field.max()
    return float((field >= THRESHOLD * peak).sum()) ** 0.5 if peak > 0 else 0.0


# ---- running a module ----


def _followed(module: nn.Module, input_size, in_channels: int | None) -> tuple[_Trace, Tensor, Tensor]:
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    if min(height, width) < 1:
        raise ValueError(f"input_size is a height and a width of at least 1, but got {input_size}")
    channels = in_channels or next((m.in_channels for m in module.modules() if hasattr(m, "in_channels")), 3)
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    trace = _Trace()
    with _evaluating(module), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty((1, channels, height, width), dtype=like.dtype, device=like.device)
        trace.start(pixels)
        hooks = [hook for name, each in module.named_modules() for hook in _told(trace, name, each)]
        try:
            with trace:
                output = _said(module, pixels, module)
        finally:
            for hook in hooks:
                hook.remove()
    return trace, pixels, output


def _told(trace: _Trace, name: str, module: nn.Module):
    yield module.register_forward_pre_hook(lambda *_: trace.running.append((name, module, next(trace.calls))))
    yield module.register_forward_hook(lambda *_: (trace.running.pop(), None)[1])


class _evaluating:
    """As a context: the module in evaluation mode, every part back in its own mode afterwards."""

    def __init__(self, module: nn.Module):
        self.module, self.modes = module, [(part, part.training) for part in module.modules()]

    def __enter__(self):
        self.module.eval()

    def __exit__(self, *_):
        for part, mode in self.modes:
            part.training = mode


def _said(module: nn.Module, pixels: Tensor, run):
    """`run(pixels)`; what goes wrong inside the module is said in words."""
    try:
        return run(pixels)
    except ValueError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{type(module).__name__} cannot take an input of shape {tuple(pixels.shape)}: {first}. Try a larger "
            "input, or give the number of channels that it expects."
        ) from error


def _check_position(output, position) -> None:
    if not isinstance(output, Tensor) or output.ndim != 4:
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the module should give a map (B, K, h, w), but gave {what}")
    height, width = output.shape[-2:]
    if len(position) != 2 or not (0 <= position[0] < height and 0 <= position[1] < width):
        raise ValueError(f"position is (row, column) of a unit of a {height} x {width} map, but got {position}")
