"""What an explorer shows: a `State` of `Panel`s, each a stack of layers, and how it becomes JSON and bytes.

A panel has its own units: a layer at x, y, width, height stands in columns and rows of the panel, so that
pixel `(row, column)` of an image covers `[column, column + 1) x [row, row + 1)`. Boxes are `(x0, y0, x1,
y1)`, half open. A colour is `"#rrggbb"`, or a name that each theme resolves: ink, muted, line, accent, error,
paper; and mark, for what is marked on a picture, which is the same in all themes.

Layers with an `at`, the name of a local point, hold what there is to show for all its places, and the browser
picks: `layer.here(row, column)` is the plain layer, or list of layers, of one place. `HERE` in draw.js is the same.
"""

from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cache

import matplotlib
import numpy as np

from segviz import draw
from segviz.draw import array

CLEAR = 254                              # a label that is drawn as nothing
VOID = 255                               # a label that is drawn dark and hatched


def _plane(values) -> np.ndarray:
    values = array(values)
    if values.ndim != 2:
        raise ValueError(f"A map is (H, W); this one has shape {values.shape}.")
    return values


class _Picture:
    """A layer with pixels: where no box is given, one pixel is one unit of the panel."""

    def extent(self) -> tuple[float, float, float, float]:
        rows, columns = self.shape
        return self.box or (0, 0, columns, rows)

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[:2]


@dataclass
class Image(_Picture):
    """An RGB picture: `(3, H, W)` or `(H, W, 3)`, float in [0, 1] or uint8."""

    data: np.ndarray
    box: tuple | None = None
    opacity: float = 1.0

    def __post_init__(self):
        self.data = np.ascontiguousarray(draw.rgb(self.data))


@dataclass
class LabelMap(_Picture):
    """Labels `(H, W)` in the colours of `palette` (C, 3) uint8; 255 is void (dark, striped), 254 clear."""

    data: np.ndarray
    palette: np.ndarray
    box: tuple | None = None
    opacity: float = 1.0

    def __post_init__(self):
        self.data = np.ascontiguousarray(_plane(self.data).astype(np.uint8))
        self.palette = np.ascontiguousarray(array(self.palette).astype(np.uint8))


@dataclass
class HeatMap(_Picture):
    """Numbers `(H, W)` between `low` and `high` in a matplotlib colour map; not-a-number is left clear.

    `legend` names the scale, which is then drawn under the panel with both its ends. With `at`, numbers
    `(R, C, H, W)`: a map for each place of that local point; or, where there are fewer maps than places,
    `which` = (rows, columns): place (i, j) has map (rows[i], columns[j]).
    """

    data: np.ndarray
    low: float = 0.0
    high: float = 1.0
    colours: str = "cividis"
    legend: str = ""
    box: tuple | None = None
    opacity: float = 1.0
    at: str = ""
    which: tuple | None = None
    palette: np.ndarray = field(init=False)

    def __post_init__(self):
        values = array(self.data).astype(np.float64)
        if values.ndim != (4 if self.at else 2):
            shape = "(R, C, H, W), a map a place" if self.at else "(H, W)"
            raise ValueError(f"A heat map needs {shape}; this one has shape {values.shape}.")
        steps = (values - self.low) / (self.high - self.low or 1.0)
        steps = np.nan_to_num(steps, nan=0.0).clip(0, 1) * (CLEAR - 1) + 0.5
        self.data = np.where(np.isnan(values), CLEAR, steps).astype(np.uint8)
        self.palette = colour_table(self.colours)

    @property
    def shape(self) -> tuple[int, int]:
        return self.data.shape[-2:]

    def here(self, row: int, column: int):
        if not self.at:
            return self
        if self.which:
            row, column = _of(self.which[0], row), _of(self.which[1], column)
        shown = copy(self)
        shown.at, shown.data = "", _of(_of(self.data, row), column)
        return shown


def _of(items, place: int):
    """The item of a place, or the last where there are fewer."""
    return items[min(place, len(items) - 1)]


@dataclass
class Outer(_Picture):
    """The numbers `rows[i] x columns[j]` of the place (i, j): `rows` (R, H), `columns` (C, W), float.

    What separates into rows and columns is sent for R x C places in the room of R + C. Where the product is
    `clear`, nothing is drawn (with true for what a unit reads and clear=1: a veil over the rest); what is not said
    here is as in `HeatMap`.
    """

    rows: np.ndarray
    columns: np.ndarray
    at: str
    low: float = 0.0
    high: float = 1.0
    colours: str = "cividis"
    legend: str = ""
    box: tuple | None = None
    opacity: float = 1.0
    clear: float = 0.0
    palette: np.ndarray = field(init=False)

    def __post_init__(self):
        self.rows, self.columns = (
            np.ascontiguousarray(part.astype(np.uint8 if part.dtype == bool else np.float32))
            for part in (_plane(self.rows), _plane(self.columns))
        )
        self.palette = colour_table(self.colours)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[1], self.columns.shape[1]

    def here(self, row: int, column: int) -> HeatMap:
        values = np.outer(_of(self.rows, row), _of(self.columns, column))
        values = np.where(values == self.clear, np.nan, values)
        return HeatMap(values, self.low, self.high, self.colours, self.legend, self.box, self.opacity)


@dataclass
class Where:
    """Of `layers` those of the place (i, j): `layers[i]` with axis "row", `layers[j]` with "column",
    `layers[i][j]` with "cell"; each a layer or a list of layers."""

    at: str
    axis: str
    layers: list

    def __post_init__(self):
        if self.axis not in ("row", "column", "cell"):
            raise ValueError(f'axis is "row", "column" or "cell"; got {self.axis!r}.')

    def here(self, row: int, column: int):
        if self.axis == "cell":
            return _of(_of(self.layers, row), column)
        return _of(self.layers, row if self.axis == "row" else column)


@dataclass
class Wipe:
    """Two label maps (H, W) in one palette, for a panel of that size: `left` up to the column of the local point `at`,
    `right` from there on, and a line between them. A point of W + 1 columns shows either of them whole."""

    left: np.ndarray
    right: np.ndarray
    palette: np.ndarray
    at: str
    opacity: float = 1.0

    def __post_init__(self):
        left, right = LabelMap(self.left, self.palette), LabelMap(self.right, self.palette)
        if left.shape != right.shape:
            raise ValueError(f"both maps need one size, but they have {left.shape} and {right.shape}")
        self.left, self.right, self.palette = left.data, right.data, left.palette

    def here(self, row: int, column: int) -> list:
        rows, columns = self.left.shape
        labels = np.where(np.arange(columns) < column, self.left, self.right)
        return [LabelMap(labels, self.palette, opacity=self.opacity),
                Lines([[(column, 0), (column, rows)]], "ink", 2.0), Dots([(column, rows / 2)], "ink", 7.0)]


@cache
def colour_table(name: str) -> np.ndarray:
    """254 colours `(254, 3)` uint8 of the matplotlib colour map `name`."""
    return (matplotlib.colormaps[name](np.linspace(0, 1, CLEAR))[:, :3] * 255 + 0.5).astype(np.uint8)


@dataclass
class Hatch(_Picture):
    """Stripes over the true pixels of `(H, W)`: marks pixels without hiding them, and without leaning on
    hue."""

    data: np.ndarray
    colour: str = "ink"
    box: tuple | None = None
    opacity: float = 1.0

    def __post_init__(self):
        self.data = np.ascontiguousarray(_plane(self.data) != 0).astype(np.uint8)


@dataclass
class Grid:
    """The lines around `rows x columns` cells that fill `box`."""

    rows: int
    columns: int
    box: tuple
    colour: str = "line"
    width: float = 1.0


@dataclass
class Rects:
    """Boxes `(x0, y0, x1, y1)`; `width` in screen pixels, `fill` a colour laid in at one fifth."""

    boxes: list
    colour: str = "accent"
    width: float = 2.0
    fill: str = ""
    dashed: bool = False


@dataclass
class Marker:
    """The box of the unit (i, j) that a local point stands on.

    Where a unit of the panel is not one of the point's: rows[i] = (top, bottom), columns[j] = (left, right).
    margin: how far the box stands off on each side, so that a small unit is seen inside it.
    """

    at: str
    colour: str = "mark"
    width: float = 2.0
    rows: list | None = None
    columns: list | None = None
    margin: float = 0.0

    def here(self, row: int, column: int) -> Rects:
        top, bottom = _of(self.rows, row) if self.rows else (row, row + 1)
        left, right = _of(self.columns, column) if self.columns else (column, column + 1)
        by = self.margin
        return Rects([(left - by, top - by, right + by, bottom + by)], self.colour, self.width)


@dataclass
class Lines:
    """Paths, each a list of `(x, y)`."""

    paths: list
    colour: str = "accent"
    width: float = 1.5


@dataclass
class Dots:
    """Round marks at `(x, y)`, `radius` in screen pixels."""

    points: list
    colour: str = "accent"
    radius: float = 3.0


@dataclass
class Text:
    """Words centred at `(x, y)`: `items` are `(x, y, words)` or `(x, y, words, colour)`.

    Where `fit` (panel units) is given, words that would be wider than that are left out rather than overlap.
    """

    items: list
    colour: str = "ink"
    size: float = 11.0
    fit: float = 0.0


@dataclass
class Told:
    """Numbers at every place of a local point, and how each is told: `words.format(*here(row, column)[1])`.

    numbers: whole, (n, R, C), sent as int16. names: for each of the n what it picks from, a list of names; where that
    is empty the number counts tenths, and is told with its sign.
    """

    numbers: np.ndarray
    names: list

    def __post_init__(self):
        self.numbers = np.ascontiguousarray(array(self.numbers).astype(np.int16))

    def here(self, row: int, column: int) -> tuple[list[float], list[str]]:
        """The numbers of the place (i, j), and their words."""
        rows, columns = self.numbers.shape[1:]
        found = self.numbers[:, min(row, rows - 1), min(column, columns - 1)].tolist()
        words = [names[at] if names else f"{'−' if at < 0 else '+'}{abs(at) // 10}.{abs(at) % 10}"
                 for at, names in zip(found, self.names, strict=True)]
        return [at / 10 for at in found], words


@dataclass
class Bar:
    """One row of `Bars`: `value` in [minimum, maximum] or NaN, `text` in place of its digits, `reference` a tick on
    the bar.

    A row without a label is a gap between groups; a `bare` one is words alone, with no bar.
    """

    label: str
    value: float = float("nan")
    colour: str = "accent"
    text: str = ""
    reference: float | None = None
    strong: bool = False
    bare: bool = False

    def __post_init__(self):  # here, so that picture, paper and readout have the same digits
        if self.label and not self.text and not self.bare:
            self.text = "–" if np.isnan(self.value) else f"{self.value:.3f}"


@dataclass
class Bars:
    """Numbers as bars with digits, from 0 to the right, or left where below 0; fills its panel, which needs no other
    layer.

    With `at`, a row's value is the number of the one in `told` that it shows, and {k} in its label and text stands
    for the words of number k.
    """

    rows: list[Bar]
    maximum: float = 1.0
    minimum: float = 0.0
    at: str = ""
    told: Told | None = None

    def here(self, row: int, column: int):
        values, words = self.told.here(row, column)
        rows = [replace(bar, label=bar.label.format(*words), text=bar.text.format(*words),
                        value=bar.value if bar.bare else values[bar.value]) for bar in self.rows]
        return Bars(rows, self.maximum, self.minimum)


@dataclass
class Level:
    """One map of a `Chain`, seen from the side: `size` units, centred at `start`, `start + jump`, ...

    lit[i]: the runs [(a, b), ...], half open, of this level's units that unit i of the last level depends on.
    reads[u], if given: the units of the level before that unit u reads; drawn as lines where they are few.
    """

    label: str
    size: int
    start: float
    jump: float
    lit: list
    reads: list | None = None


@dataclass
class Chain:
    """A stack of maps from the side, the input (levels[0]) lowest: what the unit above depends on in each.

    All levels share the input's pixels as their scale, in which pixel p covers [p, p + 1), so that strides and
    alignment are seen. The unit is the row (axis "row") or column of the local point `at`. fields[i] = (left,
    right) is unit i's field in pixels, measured off at the bottom; it may reach beyond the input's edge, into
    padding. Fills its panel, which needs no other layer.
    """

    levels: list[Level]
    fields: list
    at: str
    axis: str = "column"
    unit: int = 0                        # the one shown on paper

    def here(self, row: int, column: int):
        shown = copy(self)
        shown.at = ""
        shown.unit = min(row if self.axis == "row" else column, len(self.fields) - 1)
        return shown

    def extent(self) -> tuple[float, float]:
        """Left and right end of the widest level, in pixels."""
        ends = [(level.start - level.jump / 2, level.start + (level.size - 0.5) * level.jump)
                for level in self.levels]
        return min(left for left, _ in ends), max(right for _, right in ends)


@dataclass
class Panel:
    """One titled picture. `size` is (rows, columns) in its units, by default its first picture's.

    A `wide` one has a row for itself. A first one that is also `large` has the others beside it, where there is room.
    """

    title: str
    layers: list
    caption: str = ""
    size: tuple | None = None
    wide: bool = False
    large: bool = False

    def extent(self) -> tuple[float, float]:
        if self.size is not None:
            return tuple(self.size)
        first = next((layer for layer in self.layers if isinstance(layer, _Picture)), None)
        if first is not None:
            return tuple(first.extent()[i] - first.extent()[i - 2] for i in (3, 2))
        if any(isinstance(layer, (Bars, Chain)) for layer in self.layers):
            return (1, 1)
        raise ValueError(
            f"The panel {self.title!r} has no picture to take its size from: give size=(rows, columns)."
        )


@dataclass
class Pointed:
    """What to say of the place (i, j) of a local point: `rows[i]` and `columns[j]`, or `cells[i][j]`; where nearly
    every place has words of its own, `words` with {k} for number k of `told`."""

    rows: tuple = ()
    columns: tuple = ()
    cells: tuple = ()
    words: str = ""
    told: Told | None = None

    def here(self, row: int, column: int) -> str:
        if self.told:
            return self.words.format(*self.told.here(row, column)[1])
        if self.cells:
            return _of(_of(self.cells, row), column)
        return " ".join(_of(words, at) for words, at in ((self.rows, row), (self.columns, column)) if words)


@dataclass
class State:
    """What `compute` returns: panels, and `readout`, the same in one or two sentences for those who do not
    see them.

    `problem` says in words why these settings cannot be had; it is shown at the control named in
    `problem_at`, and where no panels come with it the last picture stays. Those named in
    `disabled` have no effect just now; those in `hidden` are not even shown.
    `pointed`, by local point: words that follow the readout. `bounds`, by point: the (rows, columns) that it has
    just now, by slider: (how many of its values,); by default what the control says, a local point's panel. `tabs`,
    by group: a name for its tab.
    """

    panels: list[Panel]
    readout: str
    problem: str = ""
    problem_at: str = ""
    disabled: tuple = ()
    hidden: tuple = ()
    pointed: dict = field(default_factory=dict)
    bounds: dict = field(default_factory=dict)
    tabs: dict = field(default_factory=dict)

    def place(self, point, value) -> tuple[int, int]:
        """Where the control `point` stands in this state."""
        local = point.local and point.panel < len(self.panels)
        bounds = self.bounds.get(point.name) or (self.panels[point.panel].extent() if local else point.sizes)
        return tuple(min(at, int(size) - 1) for at, size in zip(value, bounds, strict=True))

    def said(self, points: dict) -> str:
        """The readout, and what there is to say of the points, given by name as (row, column)."""
        return " ".join([self.readout, *(words.here(*points[name]) for name, words in self.pointed.items())])


def _plain(value):
    """Whatever stands in a layer, as JSON holds it; floats to four digits after the point."""
    if type(value) in (int, str, bool):
        return value
    if isinstance(value, (Bar, Level)):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def encode(state: State) -> tuple[dict, list[bytes]]:
    """The state as a JSON-ready dictionary, and the bytes of its arrays, to which the dictionary refers by
    number."""
    buffers: list[bytes] = []
    numbers: dict[int, int] = {}         # of an array that stands in two places there is one buffer

    def buffer_of(values) -> dict:
        if id(values) not in numbers:
            numbers[id(values)] = len(buffers)
            buffers.append(values.tobytes())
        return {"buffer": numbers[id(values)], "shape": list(values.shape)}

    def entry_of(part) -> dict:
        return {f.name: value_of(f.name, getattr(part, f.name)) for f in fields(part)}

    def value_of(name, value):
        if isinstance(value, np.ndarray):
            return buffer_of(value)
        if isinstance(value, Told):
            return entry_of(value)
        return layer_entry(value) if name == "layers" else _plain(value)

    def layer_entry(layer):
        if isinstance(layer, (list, tuple)):
            return [layer_entry(part) for part in layer]
        return {"kind": type(layer).__name__, **entry_of(layer)}

    panels = [{"title": panel.title, "caption": panel.caption, "size": _plain(panel.extent()), "wide": panel.wide,
               "large": panel.large, "layers": layer_entry(panel.layers)} for panel in state.panels]
    return {
        "panels": panels,
        "readout": state.readout,
        "problem": state.problem,
        "problem_at": state.problem_at,
        "disabled": list(state.disabled),
        "hidden": list(state.hidden),
        "pointed": {name: entry_of(words) for name, words in state.pointed.items()},
        "bounds": _plain(state.bounds),
        "tabs": state.tabs,
    }, buffers
