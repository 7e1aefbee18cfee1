"""Explorer: up to four 3x3 convolutions, each of its own rate: what one unit of the last reads, what it leaves out, and
what that costs (lesson 10)."""

from segviz.widgets.atrous_setting import MOST_RATE, OUTPUT_STRIDES, Setting, converted, said
from segviz.widgets.controls import Choice, Point, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bar, Bars, Chain, Grid, HeatMap, Level, Marker, Outer, Panel, Pointed, State, Told
from segviz.widgets.stacks import runs

OWN = "rates of your own"
STACKS = {OWN: None} | {f"output stride {stride}": stride for stride in OUTPUT_STRIDES}
CHANNELS = 64                            # of every map, where multiply-adds are counted
TALL = 24                                # the highest bar of the row
RED = {"colours": "Set1", "low": 1, "high": 2}       # the first colour of that map, for what is 1
PERCENT = [f"{share} %" for share in range(101)]


class AtrousExplorer(Explorer):
    """A stack of 3x3 convolutions, padded so that no map shrinks, on a square of `size` pixels; no network is run.

    rates: one to three, from 1 to 9, of the layers shown first; last: whether one more of rate 1 follows them.
    output_stride: 8, 4, 2 or 1 shows first, instead, four layers of which three stride by 2, as they are (8), or with
    one, two or all strides traded for rates: each such layer no longer strides, and the rates of all layers behind it
    double. size: 5 to 65 pixels; where a rate is as large, its layer is a 1x1 convolution. ValueError for any other.
    """

    def __init__(self, rates=(2, 2, 2), last=False, output_stride=None, size=33, **options):
        rates = tuple(rates)
        if not 1 <= len(rates) <= 3:
            raise ValueError(f"rates are one to three numbers from 1 to {MOST_RATE}, but got {rates}; last=True puts "
                             "one more layer behind them, of rate 1")
        if isinstance(size, bool) or not isinstance(size, int) or not 5 <= size <= 65:
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
        super().__init__(self._shown, controls, title="Holes", **options)

    def _shown(self, stack, layers, last, **rates) -> State:
        if stack == OWN:
            chosen = [*list(rates.values())[:layers], *[1] * last]
            s = Setting(self.size, [(1, rate) for rate in chosen])
            hidden = tuple(rates)[layers:]
        else:
            s = Setting(self.size, converted(STACKS[stack]))
            hidden = ("layers", *rates, "last")
        words = said(s)
        panels = [_side(s, words), _row(s), _output(s), *(_map(s, at) for at in reversed(range(1, len(s.layers)))),
                  _input(s), _here(s), _cost(s)]
        pointed = Pointed([_told(s, unit, "row") for unit in range(s.sizes[-1])],
                          [_told(s, unit, "column") for unit in range(s.sizes[-1])])
        return State(panels, words, pointed={"unit": pointed}, hidden=hidden)


def _side(s: Setting, words: str) -> Panel:
    levels = [Level("input", s.size, 0.5, 1, runs(s.lit[0]))]
    for number, (name, size, jump, way, lit) in enumerate(
            zip(s.names, s.sizes[1:], s.jumps[1:], s.ways, s.lit[1:], strict=True), 1):
        reads = [line.nonzero().flatten().tolist() for line in way]
        levels.append(Level(f"{number}  {name}", size, 0.5, jump, runs(lit), reads))
    return Panel("From the side: the units that one unit at the top reads, layer by layer",
                 [Chain(levels, s.fields, "unit")], words, wide=True)


def _row(s: Setting) -> Panel:
    most = int(s.paths.max())
    heights = (s.paths / most * TALL).ceil()
    bars = (heights[:, None, :] > TALL - 1 - _steps(TALL)).double()
    values = (bars * s.paths[:, None, :] / most).where(bars > 0, float("nan"))
    holes = (s.hull & (s.paths == 0)).double()
    holes = holes.where(holes > 0, float("nan"))[None, :, None]
    return Panel(f"Along how many paths it reads each pixel of its row: up to {most}",
                 [HeatMap(values[None], box=(0, 0, s.size, 4), at="unit"),
                  HeatMap(holes, **RED, box=(0, 3.4, s.size, 4), at="unit", opacity=0.5),
                  Grid(1, s.size, (0, 0, s.size, 4), width=0.5)],
                 "Red: holes, which no path reaches.", size=(4, s.size), wide=True)


def _steps(count: int):
    import torch
    return torch.arange(count)[:, None]


def _output(s: Setting) -> Panel:
    size, share = s.sizes[-1], s.on_the_map
    return Panel(f"Output map, {size} × {size}: point here",
                 [HeatMap(share[:, None] * share, colours="cividis", legend="of the paths, on the map"), Marker("unit")],
                 "Near the border the rest ends in padding.")


def _map(s: Setting, at: int) -> Panel:
    size, lit = s.sizes[at], s.lit[at]
    return Panel(f"Map {at}, {size} × {size}",
                 [Outer(lit, lit, "unit", low=-1, high=1), Grid(size, size, (0, 0, size, size), width=0.5)],
                 f"What layer {at + 1} reads of it.")


def _input(s: Setting) -> Panel:
    ways = (s.paths / s.paths.max()).float()
    return Panel(f"Input, {s.size} × {s.size}",
                 [Outer(s.hull, s.hull, "unit", **RED, opacity=0.5),
                  Outer(ways, ways, "unit", legend="paths, of the most"),
                  Grid(s.size, s.size, (0, 0, s.size, s.size), width=0.5)],
                 "Red: holes in the unit's field.")


def _here(s: Setting) -> Panel:
    shares = [s.read, s.on_the_map, *s.weights_on_the_map]
    numbers = [(100 * share[:, None] * share).round().long().tolist() for share in shares]
    rows = [Bar("read of its field", 0, text="{0}"), Bar("paths on the map", 1, text="{1}", strong=True)]
    rows += [Bar(f"layer {len(s.layers) - at}, rate {rate}", at + 2, "muted", text=f"{{{at + 2}}}")
             for at, (_, rate) in enumerate(reversed(s.layers))]
    return Panel("At this unit", [Bars(rows, 10, at="unit", told=Told(numbers, [PERCENT] * len(numbers)))],
                 "Grey: of each layer's weights, those on its map.")


def _cost(s: Setting) -> Panel:
    each = [9 * CHANNELS**2 * size**2 for size in s.sizes[1:]]
    most = 4 * 9 * CHANNELS**2 * s.size**2
    rows = [Bar(f"layer {number}", cost, "muted", text=_millions(cost)) for number, cost in enumerate(each, 1)]
    rows.append(Bar("all", sum(each), text=_millions(sum(each)), strong=True))
    return Panel(f"Multiply-adds, of {CHANNELS} channels", [Bars(rows, most)],
                 f"Parameters: {len(s.layers)} × {9 * CHANNELS**2:,}, whatever the rates.")


def _millions(number: int) -> str:
    return f"{number / 1e6:.1f} M"


def _told(s: Setting, unit: int, what: str) -> str:
    start, end = (f"The unit in row {unit}", ",") if what == "row" else (f"in column {unit}", ".")
    read, spanned = int((s.paths[unit] > 0).sum()), int(s.hull[unit].sum())
    return (f"{start} reads {read} of the {spanned} {what}s of its field that lie on the map, and "
            f"{round(100 * float(s.on_the_map[unit]))} % of its paths {'down' if what == 'row' else 'across'} end "
            f"there{end}")
