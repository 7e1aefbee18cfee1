"""Explorer: every way to make a map larger, on maps so small that all numbers can be read (lesson 04)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from segviz.layers import bilinear_kernel, scatter_and_add, transposed_size
from segviz.widgets.controls import Choice, Point, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import (
    Dots,
    Grid,
    HeatMap,
    Marker,
    Panel,
    Pointed,
    Rects,
    State,
    Text,
    Where,
)

NEAREST, BILINEAR, UNPOOLING = "nearest", "bilinear", "max-unpooling"
SCATTER, ZEROS, MATRIX = "transposed: scatter and add", "transposed: zeros, then convolution", "transposed: matrix"
METHODS = (NEAREST, BILINEAR, UNPOOLING, SCATTER, ZEROS, MATRIX)
DIGITS, ONES, PYRAMID = "1, 2, 3, ...", "ones", "bilinear"
VALUES = torch.tensor([[1, 3, 2, 4, 1], [2, 4, 1, 3, 5], [3, 1, 5, 2, 2], [5, 2, 3, 1, 4], [1, 4, 2, 5, 3]]).float()
MOST_STEPS = VALUES.numel()
COLOURS = "cividis"


class UpsamplingExplorer(Explorer):
    """Nearest, bilinear, max-unpooling with switches, and the transposed convolution in its three views.

    `step` counts the input values that have been put, or, for the convolution over zeros, the output cells that have
    been computed (several at a time where there are more than 25). The point `at` is a cell of the output, counted
    from the corner of what `padding` cuts away; it shows who wrote to that cell. method: the one shown first, one of
    METHODS.
    """

    def __init__(self, method=SCATTER, **options):
        controls = [
            Choice("method", "Method", METHODS, method),
            Slider("step", "Step", 0, MOST_STEPS, value=5),
            Slider("size", "Input size", 2, len(VALUES), value=3),
            Slider("stride", "Stride, or scale", 1, 4, value=2),
            Slider("kernel", "Kernel", 1, 5, value=3),
            Slider("padding", "Padding", 0, 3, value=1),
            Slider("output_padding", "Output padding", 0, 3),
            Slider("dilation", "Dilation", 1, 2),
            Choice("weights", "Weights", (DIGITS, ONES, PYRAMID)),
            Toggle("align_corners", "Align corners"),
            Point("at", "Output cell", panel=2, rows=28, columns=28, value=(2, 2), hover=True, local=True),
        ]
        super().__init__(lambda **values: _state(Setting(**values)), controls,
                         title="Making maps larger, number by number", **options)


@dataclass(frozen=True)
class Setting:
    """The controls' values, and the numbers that follow from them.

    Cells of the output are counted with what `padding` cuts away: the output itself begins at (padding, padding).
    """

    method: str
    step: int
    size: int
    stride: int
    kernel: int
    padding: int
    output_padding: int
    dilation: int
    weights: str
    align_corners: bool

    @property
    def transposed(self) -> bool:
        return self.method in (SCATTER, ZEROS, MATRIX)

    @property
    def ring(self) -> int:
        """How many rows and columns are cut away at each side."""
        return self.padding if self.transposed else 0

    @property
    def cover(self) -> int:
        """The side of what a stamp covers."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def output_size(self) -> int:
        if not self.transposed:
            return self.size * self.stride
        return transposed_size(
            self.size, self.kernel, self.stride, self.padding, self.output_padding, self.dilation
        )

    @property
    def weight(self) -> torch.Tensor:
        """The kernel (kernel, kernel)."""
        if self.weights == PYRAMID:
            return bilinear_kernel(self.kernel)
        count = torch.arange(1.0, self.kernel**2 + 1).view(self.kernel, self.kernel)
        return count if self.weights == DIGITS else torch.ones_like(count)

    @property
    def values(self) -> torch.Tensor:
        """The input (size, size)."""
        return VALUES[: self.size, : self.size]

    @cached_property
    def before_pooling(self) -> torch.Tensor:
        """A map whose maxima, one in each window of stride x stride, are the input."""
        side = torch.arange(self.size * self.stride)
        down, along = side[:, None], side[None, :]
        i, j = down // self.stride, along // self.stride
        largest = self.values[i, j]
        inside = (down % self.stride) * self.stride + along % self.stride
        return torch.where(inside == (5 * i + 3 * j + 1) % self.stride**2, largest, (inside + i + j) % largest)

    @cached_property
    def paths(self) -> torch.Tensor:
        """(inputs, rows, columns): how much of each input value each cell of the output takes.

        Every method here is linear, max-unpooling too once its switches are set, so it is enough to see what becomes
        of maps that are 1 in one place and 0 elsewhere.
        """
        units = torch.eye(self.size**2).view(-1, 1, self.size, self.size)
        if self.method == NEAREST:
            return F.interpolate(units, scale_factor=self.stride, mode="nearest")[:, 0]
        if self.method == BILINEAR:
            larger = F.interpolate(
                units, scale_factor=self.stride, mode="bilinear", align_corners=self.align_corners
            )
            return larger[:, 0]
        if self.method == UNPOOLING:
            _, switches = F.max_pool2d(self.before_pooling[None, None], self.stride, return_indices=True)
            return F.max_unpool2d(units, switches.expand(len(units), -1, -1, -1), self.stride)[:, 0]
        whole = scatter_and_add(
            units, self.weight[None, None], self.stride, 0, self.output_padding, self.dilation
        )[:, 0]
        if self.method != SCATTER and self.ring:      # the other two views never compute what would be cut away
            kept = torch.zeros_like(whole)
            inner = slice(self.ring, -self.ring)
            kept[:, inner, inner] = whole[:, inner, inner]
            return kept
        return whole

    # --- steps
    @property
    def count(self) -> int:
        """How many things there are to do one after the other: output cells for the view with zeros, else inputs."""
        return (self.output_size if self.method == ZEROS else self.size) ** 2

    @property
    def done(self) -> int:
        return min(self.step * math.ceil(self.count / MOST_STEPS), self.count)

    @property
    def current(self) -> int | None:
        """The last that was done, or None at the beginning and at the end."""
        return self.done - 1 if 0 < self.done < self.count else None

    def computed(self, row: int, column: int) -> bool:
        """Whether this output cell has got its number; only in the view with zeros one after the other."""
        down, along = row - self.ring, column - self.ring
        return self.method != ZEROS or down * self.output_size + along < self.done

    @cached_property
    def writers(self) -> dict:
        """(row, column) of the output -> [(row, column, weight), ...] of the inputs that have written to it."""
        paths = self.paths if self.method == ZEROS else self.paths[: self.done]
        found = {}
        for i, row, column in paths.nonzero().tolist():
            if self.computed(row, column):
                writer = (*divmod(i, self.size), float(paths[i, row, column]))
                found.setdefault((row, column), []).append(writer)
        return found

    def sum(self, row: int, column: int) -> float:
        return sum(float(self.values[i, j]) * weight for i, j, weight in self.writers.get((row, column), ()))


def number(value: float) -> str:
    """To two digits after the point, without zeros at the end."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


# --- the state


def _state(s: Setting) -> State:
    hidden = () if s.method == BILINEAR else ("align_corners",)
    hidden += () if s.transposed else ("kernel", "padding", "output_padding", "dilation", "weights")
    try:
        words = f"{s.method}: input {s.size} × {s.size}, output {s.output_size} × {s.output_size}. "
    except ValueError as error:
        at = "output_padding" if str(error).startswith("output_padding") else "padding"
        return State([], "There is no such layer.", problem=str(error), problem_at=at, hidden=hidden)
    panels = {NEAREST: _looked_up, BILINEAR: _looked_up, UNPOOLING: _unpooled, SCATTER: _scattered,
              ZEROS: _convolved, MATRIX: _multiplied}[s.method](s)
    words += f"{s.done} of {s.count} {'output cells computed' if s.method == ZEROS else 'input values put'}."
    said = Pointed(cells=_cells(s, lambda row, column: _said(s, row, column)))
    return State(panels, words, hidden=hidden, pointed={"at": said})


def _cells(s: Setting, what) -> list:
    """`what(row, column)` for every cell of the output."""
    side = range(s.output_size + 2 * s.ring)
    return [[what(row, column) for column in side] for row in side]


def _said(s: Setting, row: int, column: int) -> str:
    name, writers = f"output ({row - s.ring}, {column - s.ring})", s.writers.get((row, column))
    if not all(s.ring <= at < s.ring + s.output_size for at in (row, column)):
        name = f"Cell ({row - s.ring}, {column - s.ring}) is cut away by the padding"
        return f"{name}, and never computed." if s.method != SCATTER else name + (
            f"; it would be {_sum(s, row, column)}." if writers else ".")
    if not s.computed(row, column):
        return f"{name} is not computed yet."
    if not writers:
        return f"{name} = 0: no input value {'has written' if s.done < s.count else 'writes'} to it."
    inputs = [f"({i}, {j})" for i, j, _ in writers]
    listed = inputs[0] if len(inputs) == 1 else f"{', '.join(inputs[:-1])} and {inputs[-1]}"
    return f"{name} = {_sum(s, row, column)}: written by input{'s' * (len(inputs) > 1)} {listed}."


def _sum(s: Setting, row: int, column: int) -> str:
    terms = [f"{number(float(s.values[i, j]))} × {number(weight)}" for i, j, weight in s.writers[row, column]]
    exact = all(abs(float(number(weight)) - weight) < 1e-6 for *_, weight in s.writers[row, column])
    return f"{' + '.join(terms)} {'=' if exact else '≈'} {number(s.sum(row, column))}"


# --- the panels of each method


def _looked_up(s: Setting) -> list[Panel]:
    side = torch.arange(s.size * s.stride)
    if s.align_corners and s.method == BILINEAR:
        at = 0.5 + side * (s.size - 1) / (len(side) - 1)
        words = "The first and last dot lie on the centres of the first and last value."
    else:
        at = (side + 0.5) / s.stride
        words = "Each value's cell holds the same pattern of dots."
    at = at.tolist()
    looked = Panel(
        "Where each output cell looks",
        [
            *_table(s.values, "muted"),
            Dots([(x, y) for y in at for x in at], "accent", 3),
            _lit(s, lambda row, column: Dots([(at[column], at[row])], "mark", 5)),
        ],
        "A dot for each output cell. " + words,
        size=(s.size, s.size),
    )
    return [_input(s), looked, _output(s)]


def _unpooled(s: Setting) -> list[Panel]:
    side = s.size * s.stride
    switches = [(column, row, column + 1, row + 1) for _, row, column in s.paths.nonzero().tolist()]
    before = Panel(
        f"Before the pooling, {side} × {side}",
        [
            *_table(s.before_pooling, "ink", tinted=False),
            Grid(s.size, s.size, (0, 0, side, side), "muted", 2),
            Rects(switches, "accent", 2),
            Marker("at"),
        ],
        "Outlined: the largest of each window. The pooling kept its value, the input, and its place, the switch.",
        size=(side, side),
    )
    return [_input(s), before, _output(s)]


def _scattered(s: Setting) -> list[Panel]:
    return [_input(s), _kernel(s), _output(s)]


def _convolved(s: Setting) -> list[Panel]:
    around, side = s.cover - 1 - s.padding, s.output_size + s.cover - 1
    spots = [[around + at * s.stride for at in range(s.size)]] * 2
    inside = [(i, j) for i in range(s.size) for j in range(s.size)
              if 0 <= spots[0][i] < side and 0 <= spots[1][j] < side]

    def window(row, column):
        top, left = row - s.ring, column - s.ring
        if not s.computed(row, column) or not 0 <= top < s.output_size or not 0 <= left < s.output_size:
            return []
        boxes = [_box(spots[0][i], spots[1][j]) for i, j, _ in s.writers.get((row, column), ())]
        return [Rects([(left, top, left + s.cover, top + s.cover)], "mark", 2), Rects(boxes, "mark", 1, fill="mark")]

    table = torch.zeros(side, side)
    for i, j in inside:
        table[spots[0][i], spots[1][j]] = s.values[i, j]
    layers = [
        Rects([_box(spots[0][i], spots[1][j]) for i, j in inside], "accent", 0, fill="accent"),
        *_table(table, "ink", tinted=False, zeros="muted"),
        _lit(s, window),
    ]
    if s.current is not None:
        top, left = divmod(s.current, s.output_size)
        layers.append(Rects([(left, top, left + s.cover, top + s.cover)], "accent", 2))
    between = f"{s.stride - 1} zeros between neighbours, {around} around" if around >= 0 else (
        f"{s.stride - 1} zeros between neighbours, {-around} cut off around")
    more = f", {s.output_padding} more below and right" if s.output_padding else ""
    filled = Panel(f"Input filled with zeros, {side} × {side}", layers, f"{between}{more}.", size=(side, side))
    return [filled, _kernel(s, turned=True), _output(s)]


def _multiplied(s: Setting) -> list[Panel]:
    size, ring = s.output_size, s.ring
    matrix = s.paths[:, ring : ring + size, ring : ring + size].flatten(1)
    inputs, outputs = matrix.shape
    high = float(matrix.max()) or 1.0
    fit, font = 0.95, _font(outputs + 2)
    entries = [(2.5 + o, 0.5 + i, number(float(matrix[i, o])), _on_heat(float(matrix[i, o]) / high))
               for i, o in matrix.nonzero().tolist()]
    left = [(0.75, 0.5 + i, number(value), "ink") for i, value in enumerate(s.values.flatten().tolist())]
    below = [(2.5 + o, inputs + 1.0, number(s.sum(*(at + ring for at in divmod(o, size)))), "ink")
             for o in range(outputs)]

    def column(row, along):
        top, left = row - ring, along - ring
        if not 0 <= top < size or not 0 <= left < size:
            return []
        x = 2 + top * size + left
        return [Rects([(x, 0, x + 1, inputs), (x, inputs + 0.5, x + 1, inputs + 1.5)], "mark", 2)]

    heat = HeatMap(torch.where(matrix == 0, torch.nan, matrix), 0, high, COLOURS, box=(2, 0, 2 + outputs, inputs))
    layers = [
        heat,
        Grid(inputs, outputs, heat.box, "line"),
        Grid(inputs, 1, (0.25, 0, 1.25, inputs), "line"),
        Grid(1, outputs, (2, inputs + 0.5, 2 + outputs, inputs + 1.5), "line"),
        Text(entries, size=font, fit=fit),
        Text(left, size=font, fit=fit),
        Text(below, size=font, fit=fit),
        _lit(s, column),
    ]
    if s.current is not None:
        layers.append(Rects([(0.25, s.current, 1.25, s.current + 1), (2, s.current, 2 + outputs, s.current + 1)],
                            "accent", 2))
    whole = Panel(
        f"Matrix of the convolution from {size} × {size} down to {s.size} × {s.size}: {inputs} rows, {outputs} columns",
        layers,
        "The convolution takes one number from each row. Transposed, each input value (left) is multiplied with its "
        "row, and each column is summed up into one output cell (below).",
        size=(inputs + 1.5, outputs + 2),
        wide=True,
    )
    return [_input(s), _kernel(s), _output(s), whole]


# --- panels and layers that methods share


def _box(row: float, column: float) -> tuple:
    return (column, row, column + 1, row + 1)


def _font(columns: float) -> float:
    return 15 if columns <= 6 else 13 if columns <= 9 else 11 if columns <= 14 else 9


def _on_heat(share: float) -> str:
    """A colour that can be read on the colour of `share`, in [0, 1]."""
    return "#111111" if share > 0.5 else "#ffffff"


def _table(values, colour: str, tinted: bool = True, zeros: str = "") -> list:
    """A map as digits in a grid; `zeros`, if given, is the colour of zeros."""
    rows, columns = values.shape
    items = [(x + 0.5, y + 0.5, number(value), zeros if zeros and value == 0 else colour)
             for y, line in enumerate(values.tolist()) for x, value in enumerate(line)]
    tint = [Rects([(0, 0, columns, rows)], "accent", 0, fill="accent")] if tinted else []
    return [*tint, Grid(rows, columns, (0, 0, columns, rows), "line"), Text(items, size=_font(columns), fit=0.95)]


def _lit(s: Setting, what) -> Where:
    return Where("at", "cell", _cells(s, what))


def _input(s: Setting) -> Panel:
    def lit(row, column):
        writers = s.writers.get((row, column), ())
        labels = [(j + 0.5, i + 0.82, f"× {number(weight)}", "ink") for i, j, weight in writers]
        return [Rects([_box(i, j) for i, j, _ in writers], "mark", 2, fill="mark"), Text(labels, size=11, fit=1)]

    layers = [*_table(s.values, "ink"), _lit(s, lit)]
    if s.current is not None:
        layers.append(Rects([_box(*divmod(s.current, s.size))], "accent", 2))
    return Panel(
        f"Input, {s.size} × {s.size}",
        layers,
        "Red: who wrote to the cell pointed at, and with which weight.",
        size=(s.size, s.size),
    )


def _kernel(s: Setting, turned: bool = False) -> Panel:
    weight = s.weight.flip(0, 1) if turned else s.weight
    spots = [(d * s.dilation, e * s.dilation) for d in range(s.kernel) for e in range(s.kernel)]
    digits = [(column + 0.5, row + 0.5, number(value), "ink")
              for (row, column), value in zip(spots, weight.flatten().tolist(), strict=True)]

    def taps(row, column):
        places = [(row - i * s.stride, column - j * s.stride) for i, j, _ in s.writers.get((row, column), ())]
        last = s.cover - 1
        boxes = [_box(last - down, last - along) if turned else _box(down, along) for down, along in places]
        return [Rects(boxes, "mark", 2, fill="mark")]

    layers = [
        Grid(s.cover, s.cover, (0, 0, s.cover, s.cover), "line"),
        Text(digits, size=_font(s.cover), fit=0.95),
        _lit(s, taps),
    ]
    words = "Laid on the filled input, place by place, as any convolution." if turned else (
        "Stamped into the output once for each input value, times that value.")
    if s.current is not None and not turned:
        i, j = divmod(s.current, s.size)
        words = f"Just now it is stamped times {number(float(s.values[i, j]))}, the value of input ({i}, {j})."
    return Panel(f"Kernel{', turned by 180°' if turned else ''}, {s.kernel} × {s.kernel}", layers, words,
                 size=(s.cover, s.cover))


def _output(s: Setting) -> Panel:
    size, ring = s.output_size, s.ring
    side = size + 2 * ring
    kept = range(ring, ring + size)
    everything = torch.einsum("i,ihw->hw", s.values.flatten(), s.paths)
    high = float(everything.max()) or 1.0
    heat, digits = torch.full((size, size), torch.nan), []
    for row in range(side):
        for column in range(side):
            total, written, inner = s.sum(row, column), (row, column) in s.writers, row in kept and column in kept
            if written and inner:
                heat[row - ring, column - ring] = total
            if written or (inner and s.computed(row, column)):
                colour = _on_heat(total / high) if written and inner else "muted"
                digits.append((column + 0.5, row + 0.5, number(total), colour))
    box = (ring, ring, ring + size, ring + size)
    layers = [
        HeatMap(heat, 0, high, COLOURS, box=box),
        Grid(size, size, box, "line"),
        *_borders(s),
        Text(digits, size=_font(side), fit=0.95),
        *_just_done(s),
        Marker("at"),
    ]
    return Panel(f"Output, {size} × {size}", layers, _formula(s), size=(side, side))


def _borders(s: Setting) -> list:
    """What padding cuts away, and what output_padding adds."""
    start, end = s.ring, s.ring + s.output_size
    layers = []
    if s.ring:
        layers.append(Rects([(0, 0, end + s.ring, end + s.ring)], "muted", 1.5, dashed=True))
        layers.append(Rects([(start, start, end, end)], "ink", 1.5))
    if s.transposed and s.output_padding:
        from_ = max(start, end - s.output_padding)
        layers.append(Rects([(start, from_, end, end), (from_, start, end, from_)], "muted", 0, fill="muted"))
    return layers


def _just_done(s: Setting) -> list:
    """The stamp, or the cell, of the present step."""
    if s.current is None:
        return []
    if s.method == ZEROS:
        return [Rects([_box(*(s.ring + at for at in divmod(s.current, s.output_size)))], "accent", 2.5)]
    places = s.paths[s.current].nonzero()
    if not len(places):
        return []
    (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
    return [Rects([(left, top, right + 1, bottom + 1)], "accent", 2.5)]


def _formula(s: Setting) -> str:
    if not s.transposed:
        return f"{s.size} × {s.stride} = {s.output_size} rows and columns."
    parts = [f"({s.size} − 1) × {s.stride}", f"− 2 × {s.padding}", f"+ {s.dilation} × ({s.kernel} − 1)",
             f"+ {s.output_padding}", f"+ 1 = {s.output_size}"]
    words = " ".join(part.replace(" ", "\u00a0") for part in parts) + " rows and columns."
    words += " Dashed: cut away by padding." if s.padding else ""
    return words + (" Grey: what output padding adds." if s.output_padding else "")
