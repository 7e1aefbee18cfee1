"""The same panels drawn by matplotlib: for print, and for viewers that show no widgets."""

import math
import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from segviz.draw import VOID_COLOUR
from segviz.widgets.panels import CLEAR, VOID, Bars, Chain, Panel, State

# The light theme of explorer.css.
COLOURS = {"ink": "#1f2430", "muted": "#5b6270", "line": "#dfe2e8", "accent": "#0b62c4", "error": "#b3261e",
           "paper": "#ffffff", "mark": "#d6004b"}
WIDTH, TALLEST = 3.3, 4.2                # inches: of a panel with its margins, and the most its picture is high
CAPTION, TITLE = 54, 42                  # letters that fit in a line of it
LINE = 0.16                              # inches a line of these
SMALLEST = 3.5                           # points: words in a picture that would be smaller are left out
MOST_LINES = 400                         # between the levels of a chain
FEWEST_BARS = 10                         # that a panel has room for, so that few are no thicker


def figure(state: State, points: dict, title: str = "") -> Figure:
    """The state, its points standing where `points` says, as a figure with a canvas of its own (no pyplot, so
    nothing is left open)."""
    narrow = sum(not panel.wide for panel in state.panels)
    columns = math.ceil(narrow / math.ceil(narrow / 3)) if narrow else 1
    rows = {}
    for panel, (row, _) in zip(state.panels, _cells(state.panels, columns), strict=True):
        rows.setdefault(row, []).append(panel)
    columns = max(columns, 2)
    heights = [max(_height(panel, points, columns) for panel in row) for row in rows.values()]
    problem = textwrap.fill(state.problem, columns * CAPTION)
    words = 0.35 * bool(title) + LINE * (problem.count("\n") + 2) * bool(problem)
    size = WIDTH * columns, max(sum(heights) + words, 0.8)
    drawn = Figure(figsize=size, layout="constrained", facecolor=COLOURS["paper"])
    FigureCanvasAgg(drawn)
    if title:
        drawn.suptitle(title, fontsize=11, fontweight="bold", color=COLOURS["ink"])
    if problem:
        drawn.supxlabel(problem, fontsize=9, color=COLOURS["error"])
    if not rows:
        return drawn
    strips = drawn.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for strip, row in zip(strips, rows.values(), strict=True):
        cells = strip.subfigures(1, 1 if row[0].wide else columns, squeeze=False)[0]
        for cell, panel in zip(cells, row, strict=False):
            _draw_panel(cell.add_subplot(), panel, points, columns if panel.wide else 1)
    return drawn


def _cells(panels, columns: int) -> list:
    """Row and column of each panel; a wide one has all columns of its row."""
    cells, row, column = [], 0, 0
    for panel in panels:
        if column == columns or (panel.wide and column):
            row, column = row + 1, 0
        cells.append((row, slice(None) if panel.wide else column))
        column = columns if panel.wide else column + 1
    return cells


def _plain_layers(layers, points: dict):
    """The layers, those that follow a point as they are at its place."""
    for layer in layers:
        place = points.get(getattr(layer, "at", ""))
        if place is None:
            yield layer
        else:
            shown = layer.here(*place)
            yield from _plain_layers(shown if isinstance(shown, (list, tuple)) else [shown], points)


def _height(panel: Panel, points: dict, columns: int) -> float:
    """Inches that the panel takes where `columns` narrow ones stand side by side."""
    cells = columns if panel.wide else 1
    title, caption = _words(panel, points, cells)
    filler = next((layer for layer in panel.layers if isinstance(layer, (Bars, Chain))), None)
    if isinstance(filler, Chain):
        height = 0.5 + len(filler.levels) * min(0.5, max(0.17, 3 / len(filler.levels)))
    elif filler:
        height = min(0.25 * max(len(filler.rows), FEWEST_BARS), WIDTH)
    else:
        rows, columns = panel.extent()
        height = min((WIDTH * cells - 0.15) * rows / columns, TALLEST)
    return height + LINE * (title.count("\n") + caption.count("\n") + 2) + 0.2


def _words(panel: Panel, points: dict, cells: int) -> tuple[str, str]:
    """Title and caption, in lines that fit."""
    layers = list(_plain_layers(panel.layers, points))
    scales = [_scale(layer) for layer in layers if getattr(layer, "legend", "")]
    lines = [textwrap.fill(words, cells * CAPTION) for words in (*scales, panel.caption) if words]
    return textwrap.fill(panel.title, cells * TITLE), "\n".join(lines)


def _scale(layer) -> str:
    light = layer.palette.sum(1, dtype=int)
    if light[len(light) // 2] > max(light[0], light[-1]):                # dark at both ends
        return f"{layer.legend}: {layer.low:g} to {layer.high:g}"
    dark_first = light[0] < light[-1]
    low, high = ("dark", "bright") if dark_first else ("bright", "dark")
    return f"{layer.legend}: {layer.low:g} ({low}) to {layer.high:g} ({high})"


def _draw_panel(ax, panel: Panel, points: dict, cells: int) -> None:
    title, caption = _words(panel, points, cells)
    ax.set_title(title, fontsize=9, fontweight="bold", color=COLOURS["ink"])
    ax.set_xlabel(caption, fontsize=8, color=COLOURS["muted"])
    rows, columns = panel.extent()
    if not any(isinstance(layer, (Bars, Chain)) for layer in panel.layers):
        ax.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[], aspect="equal", anchor="N")
        ax.spines[:].set_visible(False)
    for layer in _plain_layers(panel.layers, points):
        DRAW[type(layer).__name__](ax, layer)


def _colour(name: str) -> str:
    return COLOURS.get(name, name)


def _picture(ax, rgba, layer) -> None:
    x0, y0, x1, y1 = layer.extent()
    ax.imshow(rgba, extent=(x0, x1, y1, y0), interpolation="nearest", alpha=layer.opacity)


def _image(ax, layer) -> None:
    _picture(ax, layer.data, layer)


def _indexed(ax, layer) -> None:
    table = np.zeros((256, 4), dtype=np.uint8)
    table[:, :3], table[:, 3] = VOID_COLOUR, 255
    table[CLEAR] = 0
    table[:len(layer.palette), :3] = layer.palette
    _picture(ax, table[layer.data], layer)
    if type(layer).__name__ == "LabelMap" and (layer.data == VOID).any():
        _stripes(ax, layer.data == VOID, layer, "#6b6b6b")


def _hatch(ax, layer) -> None:
    paper = np.zeros((*layer.data.shape, 4))
    paper[layer.data > 0] = 1.0
    _picture(ax, paper, layer)
    _stripes(ax, layer.data > 0, layer, _colour(layer.colour))


def _stripes(ax, mask, layer, colour: str) -> None:
    x0, y0, x1, y1 = layer.extent()
    rows, columns = mask.shape
    across, down = (
        x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns,
        y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows,
    )
    ax.contourf(across, down, mask.astype(float), levels=[0.5, 1.5], colors="none", hatches=["///////"],
                ).set(edgecolor=colour, linewidth=0) if min(rows, columns) > 1 else None


def _grid(ax, layer) -> None:
    x0, y0, x1, y1 = layer.box
    paths = [[(x, y0), (x, y1)] for x in np.linspace(x0, x1, layer.columns + 1)]
    paths += [[(x0, y), (x1, y)] for y in np.linspace(y0, y1, layer.rows + 1)]
    ax.add_collection(LineCollection(paths, colors=_colour(layer.colour), linewidths=0.7 * layer.width))


def _rects(ax, layer) -> None:
    for x0, y0, x1, y1 in layer.boxes:
        if layer.fill:
            ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor=_colour(layer.fill), alpha=0.2))
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=_colour(layer.colour),
                               linewidth=0.8 * layer.width, linestyle="--" if layer.dashed else "-"))


def _lines(ax, layer) -> None:
    ax.add_collection(LineCollection(layer.paths, colors=_colour(layer.colour), linewidths=0.8 * layer.width))


def _dots(ax, layer) -> None:
    ax.scatter(
        *zip(*layer.points, strict=True),
        s=3 * layer.radius**2,
        color=_colour(layer.colour),
        edgecolors="white",
    ) if layer.points else None


def _text(ax, layer) -> None:
    size = 0.7 * layer.size
    if layer.fit and layer.items:
        room = 0.85 * ax.figure.bbox.width / ax.figure.dpi * 72 * layer.fit / abs(np.diff(ax.get_xlim())[0])
        size = min(size, room / 0.64 / max(len(words) for _, _, words, *_ in layer.items))
        if size < SMALLEST:
            return
    for x, y, words, *colour in layer.items:
        ax.text(
            x,
            y,
            words,
            ha="center",
            va="center",
            fontsize=size,
            color=_colour((colour or [layer.colour])[0]),
        )


def _bars(ax, layer) -> None:
    places, size = np.arange(len(layer.rows)), min(8, 110 / len(layer.rows))
    values = [0.0 if math.isnan(row.value) else row.value for row in layer.rows]
    span, barred = layer.maximum - layer.minimum, [bool(row.label) and not row.bare for row in layer.rows]
    ax.barh(places, [span * bar for bar in barred], left=layer.minimum, color=COLOURS["line"], height=0.45)
    ax.barh(places, values, color=[_colour(row.colour) for row in layer.rows], height=0.45)
    if layer.minimum < 0:
        ax.plot([0, 0], [places[barred][0] - 0.5, places[barred][-1] + 0.5], color=COLOURS["ink"], linewidth=0.6)
    for place, row in ((place, row) for place, row in zip(places, layer.rows, strict=True) if row.label):
        ax.text(layer.maximum + 0.03 * span, place, row.text, va="center", fontsize=size, color=COLOURS["ink"])
        if row.reference is not None:
            ax.plot([row.reference] * 2, [place - 0.36, place + 0.36], color=COLOURS["ink"], linewidth=1.5)
    ax.xaxis.set_label_coords(0.5, -0.03 + max(0.0, 1 - len(places) / FEWEST_BARS))     # under the last bar
    ax.set_yticks(places, [row.label for row in layer.rows], fontsize=size)
    ax.tick_params(length=0)
    ax.set(ylim=(max(len(places), FEWEST_BARS) - 0.5, -0.5), xlim=(layer.minimum, layer.maximum), xticks=[])
    ax.spines[:].set_visible(False)


def _spokes(layer) -> list:
    """The lines from each unit that is lit to those that it reads."""
    pairs = [(height, above, unit, below) for height, (below, above) in
             enumerate(zip(layer.levels, layer.levels[1:], strict=False)) if above.reads
             for a, b in above.lit[layer.unit] for unit in range(a, b)]
    return [[(above.start + unit * above.jump, height + 0.78), (below.start + read * below.jump, height + 0.22)]
            for height, above, unit, below in pairs for read in above.reads[unit]]


def _chain(ax, layer) -> None:
    left, right = layer.extent()
    for height, level in enumerate(layer.levels):
        first, gap = level.start - level.jump / 2, min(0.14 * level.jump, 0.002 * (right - left))
        lit = {u for a, b in level.lit[layer.unit] for u in range(a, b)}
        if lit:
            hull = first + min(lit) * level.jump, (max(lit) + 1 - min(lit)) * level.jump
            ax.broken_barh([hull], (height - 0.3, 0.6), color=COLOURS["accent"], alpha=0.2, linewidth=0)
        top = height == len(layer.levels) - 1
        for shown, colour in ((set(range(level.size)) - lit, "line"), (lit, "mark" if top else "accent")):
            cells = [(first + u * level.jump + gap / 2, level.jump - gap) for u in shown]
            ax.broken_barh(cells, (height - 0.22, 0.44), color=COLOURS[colour], linewidth=0)
    lines = _spokes(layer)
    if len(lines) <= MOST_LINES:
        ax.add_collection(LineCollection(lines, colors=COLOURS["accent"], linewidths=0.6, alpha=0.7))
    start, end = layer.fields[layer.unit]
    ax.plot([max(start, left), min(end, right)], [-0.5] * 2, color=COLOURS["mark"], linewidth=1.5)
    ax.text((max(start, left) + min(end, right)) / 2, -0.62, f"{end - start:g} px", ha="center", va="top",
            fontsize=8, color=COLOURS["mark"])
    ax.set_yticks(range(len(layer.levels)), [level.label for level in layer.levels], fontsize=8)
    ax.tick_params(length=0)
    ax.set(xlim=(left, right), ylim=(-1.1, len(layer.levels) - 0.5), xticks=[])
    ax.spines[:].set_visible(False)


DRAW = {
    "Image": _image,
    "LabelMap": _indexed,
    "HeatMap": _indexed,
    "Hatch": _hatch,
    "Grid": _grid,
    "Rects": _rects,
    "Lines": _lines,
    "Dots": _dots,
    "Text": _text,
    "Bars": _bars,
    "Chain": _chain,
}
