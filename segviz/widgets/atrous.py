"""Explorer: up to four 3x3 convolutions, each of its own rate: what a unit reads and what not, and what that costs
(lesson 10)."""

from itertools import product

import torch

from segviz.widgets.atrous_setting import MOST_RATE, OUTPUT_STRIDES, Setting, converted, said
from segviz.widgets.controls import Choice, Point, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import (
    Bar,
    Bars,
    Chain,
    Dots,
    Grid,
    HeatMap,
    Level,
    Marker,
    Outer,
    Panel,
    Pointed,
    State,
    Told,
)
from segviz.widgets.stacks import runs

OWN = "rates of your own"
STACKS = {OWN: None} | {f"output stride {stride}": stride for stride in OUTPUT_STRIDES}
CHANNELS = 64                            # of every map, where multiply-adds are counted
WIDE, STEPS = 8, 8                       # the row's panel: how many times as wide as tall; steps of its highest bar
RED = {"colours": "Set1", "low": 1, "high": 2, "opacity": 0.45}    # the first colour of that map, for ones
BLUE = {"colours": "tab10", "low": 1, "high": 2}
PERCENT = [str(share) for share in range(101)]


class AtrousExplorer(Explorer):
    """A stack of 3x3 convolutions, padded by their rates, on a square of `size` pixels; no network is run.

    rates: one to three, from 1 to 9, of the layers shown first; last: whether one more of rate 1 follows them.
    output_stride: with 8, 4, 2 or 1 another stack is shown first, of four layers, three of which stride by 2; as it is
    (8), or with one, two or all of the strides traded for rates: such a layer strides no more, and the rates of all
    layers behind it are doubled. size: 5 to 65 pixels; up to the 33 of it all settings travel with an exported page.
    ValueError for anything else.
    """

    def __init__(self, rates=(2, 2, 2), last=False, output_stride=None, size=33, **options):
        if not isinstance(rates, (tuple, list)) or not 1 <= len(rates) <= 3:
            raise ValueError(f"rates are one to three numbers from 1 to {MOST_RATE}, but got {rates!r}; last=True puts "
                             "a layer of rate 1 behind them")
        if not isinstance(size, int) or not 5 <= size <= 65:
            raise ValueError(f"size is a number of pixels from 5 to 65, but got {size!r}")
        if output_stride not in STACKS.values():
            raise ValueError(f"output_stride is one of {OUTPUT_STRIDES} or None, but got {output_stride!r}")
        self.size = size
        shown = next(name for name, stride in STACKS.items() if stride == output_stride)
        controls = [
            Choice("stack", "Layers", STACKS, shown),
            Slider("layers", "How many", 1, 3, value=len(rates)),
            *(Slider(f"rate{number}", f"Rate of layer {number}", 1, MOST_RATE, value=rate)
              for number, rate in enumerate((*rates, 1, 1)[:3], 1)),
            Toggle("last", "A last layer of rate 1", last),
            Point("unit", "Unit", 2, size, size, (size // 2, size // 2), hover=True, local=True, scaled=True),
        ]
        super().__init__(self._shown, controls, title="Where an atrous convolution looks", **options)

    def _shown(self, stack, layers, last, **rates) -> State:
        if stack == OWN:
            chosen, hidden = [*list(rates.values())[:layers], *[1] * last], tuple(rates)[layers:]
            s = Setting(self.size, [(1, rate) for rate in chosen])
        else:
            s, hidden = Setting(self.size, converted(STACKS[stack])), ("layers", *rates, "last")
        words, pointed = said(s), Pointed(_told(s, "Row", ";"), _told(s, "column", "."))
        maps = [_map(s, at) for at in reversed(range(1, len(s.layers)))]
        return State([_side(s, words), _row(s), _output(s), *maps, _input(s), _shares(s), _cost(s)], words,
                     pointed={"unit": pointed}, hidden=hidden)


def _side(s: Setting, words: str) -> Panel:
    levels = [Level("input", s.size, 0.5, 1, runs(s.lit[0]))]
    for number, (name, size, jump, lit, reads) in enumerate(
            zip(s.names, s.sizes[1:], s.jumps[1:], s.lit[1:], s.reads, strict=True), 1):
        levels.append(Level(f"{number}  {name}", size, 0.5, jump, runs(lit), reads))
    return Panel("From the side: what one unit at the top reads, layer by layer", [Chain(levels, s.fields, "unit")],
                 words, wide=True)


def _row(s: Setting) -> Panel:
    """A picture for every unit: bars over the pixels of a row, and under them its holes."""
    paths, most, tall = s.paths[:, None], int(s.paths.max()), s.size / WIDE
    steps = (paths / most * STEPS).round().clamp(min=1)
    bars = (paths / most).expand(-1, STEPS, -1)
    bars = bars.where((torch.arange(STEPS, 0, -1)[:, None] <= steps) & (paths > 0), torch.nan)
    holes = torch.ones_like(paths).where(s.hull[:, None] & (paths == 0), torch.nan)
    return Panel(f"Along how many paths it reads each pixel of its row: up to {most}",
                 [HeatMap(bars[None], box=(0, 0, s.size, tall), at="unit"),
                  HeatMap(holes[None], **RED, box=(0, 0.85 * tall, s.size, tall), at="unit"),
                  Grid(1, s.size, (0, 0, s.size, tall), width=0.5)],
                 _red(s, "Red: holes, which no path reaches."), size=(tall, s.size), wide=True)


def _output(s: Setting) -> Panel:
    size, share, every = s.sizes[-1], s.on_the_map[None], OUTPUT_STRIDES[0] // s.jumps[-1]
    layers, words = [Outer(share, share, "unit", legend="paths kept")], "Near the border, paths end in padding."
    if s.is_converted and every > 1:
        centres = [place + 0.5 for place in range(0, size, every)]
        layers.append(Dots(list(product(centres, centres)), "ink", 2))
        words += f" Dots: the units of output stride {OUTPUT_STRIDES[0]}."
    return Panel(f"Output map, {size} × {size}: point here", [*layers, Marker("unit")], words)


def _map(s: Setting, at: int) -> Panel:
    size, lit = s.sizes[at], s.lit[at]
    return Panel(f"Map {at}, {size} × {size}",
                 [Outer(lit, lit, "unit", **BLUE), Grid(size, size, (0, 0, size, size), width=0.5)],
                 f"What layer {at + 1} reads of it.")


def _input(s: Setting) -> Panel:
    ways = (s.paths / s.paths.max()).float()
    return Panel(f"Input, {s.size} × {s.size}",
                 [Outer(s.hull, s.hull, "unit", **RED), Outer(ways, ways, "unit", legend="of most paths"),
                  Grid(s.size, s.size, (0, 0, s.size, s.size), width=0.5)],
                 _red(s, "Red: holes in the unit's field."))


def _red(s: Setting, words: str) -> str:
    """These words, where any unit has a hole; on the map's border it may, though none has far from it."""
    return words if (s.hull & (s.paths == 0)).any() else "No unit has holes."


def _shares(s: Setting) -> Panel:
    numbers = [(100 * share[:, None] * share).round().tolist() for share in (s.read, s.on_the_map)]
    rows = [Bar("field read", 0, text="{0} %"), Bar("paths kept", 1, text="{1} %")]
    used = ", ".join(f"{100 * share:.0f}" for share in s.weights_used)
    return Panel("At this unit", [Bars(rows, 10, at="unit", told=Told(numbers, [PERCENT] * 2))],
                 f"Of 100 weights, at all units, {used} read a map{', layer by layer' * (len(s.layers) > 1)}; the "
                 "others, padding.")


def _cost(s: Setting) -> Panel:
    each = [9 * CHANNELS**2 * size**2 for size in s.sizes[1:]]
    most = 4 * 9 * CHANNELS**2 * s.size**2
    rows = [Bar(f"layer {number}", cost, "muted", text=_millions(cost)) for number, cost in enumerate(each, 1)]
    rows.append(Bar("all", sum(each), text=_millions(sum(each)), strong=True))
    return Panel("Multiply-adds", [Bars(rows, most)],
                 f"{CHANNELS} channels. Parameters: {len(s.layers)} × {9 * CHANNELS**2:,}, whatever the rates.")


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M"


def _told(s: Setting, what: str, end: str) -> list[str]:
    """What to say of each unit, by its row or its column."""
    each = zip(s.lit[0].sum(1).tolist(), s.hull.sum(1).tolist(), s.on_the_map.tolist(), strict=True)
    return [f"{what} {unit}: {read} of {field} pixels, {100 * kept:.0f} % of paths{end}"
            for unit, (read, field, kept) in enumerate(each)]
