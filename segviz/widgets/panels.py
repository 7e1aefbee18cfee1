"""What an explorer shows: a `State` of `Panel`s, each a stack of layers, and how it becomes JSON and bytes.

A panel has its own units: a layer at x, y, width, height stands in columns and rows of the panel, so that
pixel `(row, column)` of an image covers `[column, column + 1) x [row, row + 1)`. Boxes are `(x0, y0, x1,
y1)`, half open. A colour is `"#rrggbb"`, or a name that each theme resolves: ink, muted, line, accent, error,
paper; and mark, for what is marked on a picture, which is the same in all themes.
"""

from dataclasses import dataclass, field, fields
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
        rows, columns = self.data.shape[:2]
        return self.box or (0, 0, columns, rows)


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

    `legend` names the scale, which is then drawn under the panel with both its ends.
    """

    data: np.ndarray
    low: float = 0.0
    high: float = 1.0
    colours: str = "cividis"
    legend: str = ""
    box: tuple | None = None
    opacity: float = 1.0
    palette: np.ndarray = field(init=False)

    def __post_init__(self):
        values = _plane(self.data).astype(np.float64)
        steps = (values - self.low) / (self.high - self.low or 1.0)
        steps = np.nan_to_num(steps, nan=0.0).clip(0, 1) * (CLEAR - 1) + 0.5
        self.data = np.where(np.isnan(values), CLEAR, steps).astype(np.uint8)
        self.palette = colour_table(self.colours)


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
class Bar:
    """One row of `Bars`: `value` in [0, maximum] or NaN, `text` in place of its digits, `reference` a tick on
    the bar.

    A row without a label is a gap between groups.
    """

    label: str
    value: float
    colour: str = "accent"
    text: str = ""
    reference: float | None = None
    strong: bool = False

    def __post_init__(self):  # here, so that picture, paper and readout have the same digits
        if self.label and not self.text:
            self.text = "–" if np.isnan(self.value) else f"{self.value:.3f}"


@dataclass
class Bars:
    """Numbers as bars with digits; fills its panel, which needs no other layer."""

    rows: list[Bar]
    maximum: float = 1.0


@dataclass
class Panel:
    """One titled picture. `size` is (rows, columns) in its units, by default its first picture's."""

    title: str
    layers: list
    caption: str = ""
    size: tuple | None = None

    def extent(self) -> tuple[float, float]:
        if self.size is not None:
            return tuple(self.size)
        first = next((layer for layer in self.layers if isinstance(layer, _Picture)), None)
        if first is not None:
            return tuple(first.extent()[i] - first.extent()[i - 2] for i in (3, 2))
        if any(isinstance(layer, Bars) for layer in self.layers):
            return (1, 1)
        raise ValueError(
            f"The panel {self.title!r} has no picture to take its size from: give size=(rows, columns)."
        )


@dataclass
class State:
    """What `compute` returns: panels, and `readout`, the same in one or two sentences for those who do not
    see them.

    `problem` says in words why these settings cannot be had; it is shown at the control named in
    `problem_at`, and where no panels come with it the last picture stays. Those named in
    `disabled` have no effect just now.
    """

    panels: list[Panel]
    readout: str
    problem: str = ""
    problem_at: str = ""
    disabled: tuple = ()


def _plain(value):
    """Whatever stands in a layer, as JSON holds it; floats to four digits after the point."""
    if isinstance(value, Bar):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return round(value, 4) if np.isfinite(value) else None
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def encode(state: State) -> tuple[dict, list[bytes]]:
    """The state as a JSON-ready dictionary, and the bytes of its arrays, to which the dictionary refers by
    number."""
    buffers: list[bytes] = []

    def layer_entry(layer):
        entry = {"kind": type(layer).__name__}
        for name, value in ((f.name, getattr(layer, f.name)) for f in fields(layer)):
            if isinstance(value, np.ndarray):
                buffers.append(value.tobytes())
                value = {"buffer": len(buffers) - 1, "shape": list(value.shape)}
            entry[name] = _plain(value) if not isinstance(value, dict) else value
        return entry

    panels = [{"title": panel.title, "caption": panel.caption, "size": _plain(panel.extent()),
               "layers": [layer_entry(layer) for layer in panel.layers]} for panel in state.panels]
    return {
        "panels": panels,
        "readout": state.readout,
        "problem": state.problem,
        "problem_at": state.problem_at,
        "disabled": list(state.disabled),
    }, buffers
