"""Explorer: every way to make a map larger, on maps so small that all numbers can be read (lesson 04)."""

import math
from itertools import product

import torch

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
from segviz.widgets.upsampling_setting import (
    BILINEAR,
    MATRIX,
    METHODS,
    MOST_STEPS,
    NEAREST,
    SCATTER,
    TRANSPOSED,
    UNPOOLING,
    VALUES,
    VIEWS,
    WEIGHTS,
    ZEROS,
    Setting,
    number,
    place,
)

COLOURS = "cividis"


class UpsamplingExplorer(Explorer):
    """Nearest, bilinear, max-unpooling with switches, and the transposed convolution in its three views.

    `step` counts the input values that have been put, or, for the convolution over zeros, the output cells that have
    been computed (several at a time where there are more than 25). The point `at` is a cell of the output, counted
    from the corner of what `padding` cuts away; it shows who wrote to that cell. method, view: shown first; one of
    METHODS and of VIEWS.
    """

    def __init__(self, method=TRANSPOSED, view=SCATTER, **options):
        controls = [
            Choice("method", "Method", METHODS, method),
            Choice("view", "View", VIEWS, view),
            Slider("step", "Step", 0, MOST_STEPS, value=9),
            Slider("size", "Input size", 2, len(VALUES), value=3),
            Slider("stride", "Stride, or scale", 1, 4, value=2),
            Slider("kernel", "Kernel", 1, 5, value=3),
            Slider("padding", "Padding", 0, 3, value=1),
            Slider("output_padding", "Output padding", 0, 3),
            Slider("dilation", "Dilation", 1, 2),
            Choice("weights", "Weights", WEIGHTS),
            Toggle("align_corners", "Align corners"),
            Point("at", "Cell, border included", panel=2, rows=28, columns=28, value=(2, 2), hover=True, local=True),
        ]
        super().__init__(lambda **values: _state(Setting(**values)), controls,
                         title="Making maps larger, number by number", **options)


# --- the state


def _state(s: Setting) -> State:
    hidden = () if s.method == BILINEAR else ("align_corners",)
    hidden += () if s.transposed else ("view", "kernel", "padding", "output_padding", "dilation", "weights")
    name = f"Transposed convolution ({s.view})" if s.transposed else s.method.capitalize()
    try:
        words = f"{name}: input {s.size} × {s.size}, output {s.output_size} × {s.output_size}. "
    except ValueError as error:
        at = "output_padding" if str(error).startswith("output_padding") else "padding"
        return State([], "There is no such layer.", problem=str(error), problem_at=at, hidden=hidden)
    panels = {NEAREST: _looked_up, BILINEAR: _looked_up, UNPOOLING: _unpooled, SCATTER: _scattered,
              ZEROS: _convolved, MATRIX: _multiplied}[s.way](s)
    things = {ZEROS: "output cells are computed", SCATTER: "stamps have fallen"}.get(s.way, "input values are put")
    words += f"{s.done} of {s.count} {things}."
    said = Pointed(cells=_cells(s, s.said))
    bounds = {"step": (math.ceil(s.count / s.pace) + 1,)}
    return State(panels, words, hidden=hidden, pointed={"at": said}, bounds=bounds)


def _cells(s: Setting, what) -> list:
    """`what(row, column)` for every cell of the output."""
    side = range(s.output_size + 2 * s.ring)
    return [[what(row, column) for column in side] for row in side]


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
            *_table(s.before_pooling, under=[Rects(switches, "accent", 0, fill="accent")], tinted=False),
            Grid(s.size, s.size, (0, 0, side, side), "muted", 2),
            Marker("at"),
        ],
        "Tinted: the largest of each window. The pooling kept its value, the input, and its place, the switch.",
        size=(side, side),
    )
    return [_input(s), before, _output(s)]


def _scattered(s: Setting) -> list[Panel]:
    return [_input(s), _kernel(s), _output(s)]


def _convolved(s: Setting) -> list[Panel]:
    return [_filled(s), _kernel(s, turned=True), _output(s)]


def _filled(s: Setting) -> Panel:
    around, side = s.cover - 1 - s.padding, s.output_size + s.cover - 1
    spots = [around + at * s.stride for at in range(s.size)]      # where the values stand among the zeros
    left_in = [at for at in range(s.size) if 0 <= spots[at] < side]
    windows = _lit(s, lambda row, column: _window(s, spots, row, column))
    table = torch.zeros(side, side)
    for i, j in product(left_in, left_in):
        table[spots[i], spots[j]] = s.value(i, j)
    layers = [
        Rects([_box(spots[i], spots[j]) for i, j in product(left_in, left_in)], "accent", 0, fill="accent"),
        *_table(table, under=[windows], tinted=False, zeros="muted"),
    ]
    if s.current is not None:
        top, left = divmod(s.current, s.output_size)
        layers.append(Rects([(left, top, left + s.cover, top + s.cover)], "accent", 2))
    words = f"Zeros between neighbours: {s.stride - 1}; "
    words += f"around: {around}" if around >= 0 else f"cut off all around: {-around}"
    words += f"; more below and right: {s.output_padding}." if s.output_padding else "."
    return Panel(f"Input filled with zeros, {side} × {side}", layers, words, size=(side, side))


def _window(s: Setting, spots: list[int], row: int, column: int) -> list:
    """Where the kernel lies for one cell of the output, and the values under it."""
    if not s.inside(row, column):
        return []
    top, left = row - s.ring, column - s.ring
    writers = s.writers.get((row, column), ())
    boxes = [_box(spots[i], spots[j]) for i, j, _ in writers]
    labels = [(spots[j] + 0.5, spots[i] + 0.84, f"× {number(weight)}", "ink") for i, j, weight in writers]
    return [Rects([(left, top, left + s.cover, top + s.cover)], "mark", 2), Rects(boxes, "mark", 0, fill="mark"),
            Text(labels, size=9, fit=1)]


def _multiplied(s: Setting) -> list[Panel]:
    size, ring = s.output_size, s.ring
    matrix = s.paths[:, ring : ring + size, ring : ring + size].flatten(1)
    inputs, outputs = matrix.shape
    whole = Panel(
        f"Matrix of the convolution from {size} × {size} down to {s.size} × {s.size}: {inputs} rows, {outputs} columns",
        _matrix(s, matrix),
        "The convolution makes one number of each row. Transposed, each input value (left) is multiplied with its "
        "row, and each column is summed up into one output cell (below).",
        size=(inputs + 1.5, outputs + 2),
        wide=True,
    )
    return [_input(s), _kernel(s), _output(s), whole]


def _matrix(s: Setting, matrix: torch.Tensor) -> list:
    """The matrix from column 2 on, the input in a column at its left, the output in a row below it."""
    inputs, outputs = matrix.shape
    right, bottom = outputs + 2, inputs + 1.5

    def lit(row, column):
        if not s.inside(row, column):
            return []
        x = 2 + (row - s.ring) * s.output_size + column - s.ring
        return [Rects([(x, 0, x + 1, inputs), (x, bottom - 1, x + 1, bottom)], "mark", 2)]

    high = float(matrix.max()) or 1.0
    heat = HeatMap(torch.where(matrix == 0, torch.nan, matrix), 0, high, COLOURS, box=(2, 0, right, inputs))
    layers = [
        heat,
        Grid(inputs, outputs, heat.box, "line"),
        Grid(inputs, 1, (0.25, 0, 1.25, inputs), "line"),
        Grid(1, outputs, (2, bottom - 1, right, bottom), "line"),
        *_matrix_digits(s, matrix, high),
        _lit(s, lit),
    ]
    if s.current is not None:
        row, end = s.current, s.current + 1
        layers.append(Rects([(0.25, row, 1.25, end), (2, row, right, end)], "accent", 2))
    return layers


def _matrix_digits(s: Setting, matrix: torch.Tensor, high: float) -> list[Text]:
    inputs, outputs = matrix.shape
    inner = range(s.ring, s.ring + s.output_size)
    entries = [(2.5 + o, 0.5 + i, number(float(matrix[i, o])), _on_heat(float(matrix[i, o]) / high))
               for i, o in matrix.nonzero().tolist()]
    left = [(0.75, 0.5 + i, number(value), "ink") for i, value in enumerate(s.values.flatten().tolist())]
    below = [(2.5 + o, inputs + 1.0, number(s.sum(*cell)), "ink") for o, cell in enumerate(product(inner, inner))]
    return [Text(items, size=12 if outputs <= 36 else 8, fit=0.95) for items in (entries, left, below)]


# --- panels and layers that methods share


def _box(row: float, column: float) -> tuple:
    return (column, row, column + 1, row + 1)


def _font(columns: float) -> float:
    return 15 if columns <= 6 else 13 if columns <= 9 else 11 if columns <= 14 else 8


def _on_heat(share: float) -> str:
    """The colour that can be read better on the colour of `share`, in [0, 1]."""
    return "#000000" if share > 0.468 else "#ffffff"


def _table(values, colour: str = "ink", under=(), tinted: bool = True, zeros: str = "ink") -> list:
    """A map as digits in a grid; `zeros` is the colour of zeros, `under` the layers on which the digits stand."""
    rows, columns = values.shape
    items = [(x + 0.5, y + 0.5, number(value), colour if value else zeros)
             for y, line in enumerate(values.tolist()) for x, value in enumerate(line)]
    tint = [Rects([(0, 0, columns, rows)], "accent", 0, fill="accent")] if tinted else []
    grid = Grid(rows, columns, (0, 0, columns, rows), "line")
    return [*tint, grid, *under, Text(items, size=_font(columns), fit=0.95)]


def _lit(s: Setting, what) -> Where:
    return Where("at", "cell", _cells(s, what))


def _input(s: Setting) -> Panel:
    def lit(row, column):
        writers = s.writers.get((row, column), ())
        labels = [(j + 0.5, i + 0.82, f"× {number(weight)}", "ink") for i, j, weight in writers]
        return [Rects([_box(i, j) for i, j, _ in writers], "mark", 2, fill="mark"), Text(labels, size=11, fit=1)]

    layers = _table(s.values, under=[_lit(s, lit)])
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
        _lit(s, taps),
        Text(digits, size=_font(s.cover), fit=0.95),
    ]
    words = "Laid on the filled input, place by place, as any convolution." if turned else (
        "Stamped into the output once for each input value, times that value.")
    if s.current is not None and not turned:
        i, j = divmod(s.current, s.size)
        value = s.value(i, j)
        stamp = [(column + 0.5, row + 0.82, f"× {number(value)} = {number(value * one)}", "accent")
                 for (row, column), one in zip(spots, weight.flatten().tolist(), strict=True)]
        layers.append(Text(stamp, size=11, fit=0.95))
        words = f"Times {number(value)}, the value of input {place(i, j)}: the stamp outlined in the output."
    return Panel(f"Kernel{', turned by 180°' if turned else ''}, {s.kernel} × {s.kernel}", layers, words,
                 size=(s.cover, s.cover))


def _output(s: Setting) -> Panel:
    size, ring = s.output_size, s.ring
    side = size + 2 * ring
    kept = s.paths[:, ring : ring + size, ring : ring + size]
    high = float(torch.einsum("i,ihw->hw", s.values.flatten(), kept).max()) or 1.0      # the same at every step
    heat, digits = torch.full((size, size), torch.nan), []
    for row in range(side):
        for column in range(side):
            total, inside = s.sum(row, column), s.inside(row, column)
            written = (row, column) in s.writers and s.computed(row, column)
            if written and inside:
                heat[row - ring, column - ring] = total
            if written or (inside and s.computed(row, column)):
                colour = _on_heat(total / high) if written and inside else "muted"
                digits.append((column + 0.5, row + 0.5, number(total), colour))
    box = (ring, ring, ring + size, ring + size)
    layers = [
        HeatMap(heat, 0, high, COLOURS, box=box),
        Grid(size, size, box, "line"),
        *_borders(s),
        Text(digits, size=_font(side), fit=1),
        *_just_done(s),
        Marker("at"),
    ]
    words = s.formula + (" Dashed: cut away by padding." if s.ring else "")
    words += " Grey: what output padding adds." if s.transposed and s.output_padding else ""
    return Panel(f"Output, {size} × {size}", layers, words, size=(side, side))


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
    if s.way == ZEROS:
        return [Rects([_box(*(s.ring + at for at in divmod(s.current, s.output_size)))], "accent", 2.5)]
    places = s.paths[s.current].nonzero()
    if not len(places):
        return []
    (top, left), (bottom, right) = places.amin(0).tolist(), places.amax(0).tolist()
    return [Rects([(left, top, right + 1, bottom + 1)], "accent", 2.5)]
