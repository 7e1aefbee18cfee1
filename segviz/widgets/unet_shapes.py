"""Explorer: the shape of a U-Net at every level, for any size of the input, and where an odd one breaks it
(lesson 08)."""

from segviz.models.unet import fitting
from segviz.widgets.controls import Choice, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Panel, Rects, State, Text
from segviz.widgets.unet_figure import COLUMNS, ROWS, SKIP, the_u
from segviz.widgets.unet_setting import CROP, NOTHING, PAD, PADDINGS, REMEDIES, STRETCH, VALID, Setting, setting

SIZES = {"minimum": 32, "maximum": 599, "step": 9}   # as many as can travel with a page; every other is odd
STRIP, LEFT, RIGHT = 14, 22, 83.5          # rows of the lower panel; where its cells and bars begin and end
SHOWN = 8                                # pixels at the end of a row; one more where it is odd
BAR = 2.6                                # from one bar of the crops to the next


class UNetShapesExplorer(Explorer):
    """The U of a U-Net with the paper's channels, drawn to its sizes; no network is run.

    size, depth, padding, odd: what is shown first; the size goes to the nearest of 32, 41, 50, ..., 572, ..., 599.
    odd: what is done with padding="same" where a pooling gets an odd map, one of "nothing", "pad the input" (what
    `segviz.models.UNet` does), "crop the skip", "stretch the map". With the first there is no output then. Sizes that
    UNet refuses with padding="valid" are drawn, and it is said.
    """

    def __init__(self, size=572, depth=4, padding=VALID, odd=NOTHING, **options):
        controls = [
            Slider("size", "Input size", **SIZES, value=size, unit="px"),
            Slider("depth", "Depth, in poolings", 1, 5, value=depth),
            Choice("padding", "Convolutions", PADDINGS, padding),
            Choice("odd", "Where a map is odd", REMEDIES, odd),
        ]
        super().__init__(_drawn, controls, title="The shapes of a U-Net", **options)


def _drawn(size, depth, padding, odd) -> State:
    valid = padding == VALID
    hidden = ("odd",) if valid else ()
    try:
        s = setting(size, depth, padding, odd)
    except ValueError as error:
        return State([], "There is no such network.", problem=f"{error}.", problem_at="size", hidden=hidden)
    title = f"Depth {depth}, {'valid' if valid else 'padded'} convolutions: {size} × {size} → " + (
        f"{s.output} × {s.output}" if s.output else "no output")
    shown = Panel(title, the_u(s), "Each block is as wide as its channels and as tall as its map, by their square "
                  "roots. Orange: the skips. Red: where a pooling leaves a row out.", size=(ROWS, COLUMNS), wide=True)
    level = s.odd[0 if valid else -1] if s.odd else 0
    heading, words = _said(s, level)
    layers = _crops(s) if valid else _end(s, level)
    problem = _refused(s) if valid and s.odd else ""
    return State([shown, Panel(heading, layers, words, size=(STRIP, COLUMNS), wide=True)],
                 f"{title}. {heading}. {words}", problem, "size" if problem else "", hidden=hidden)


def _refused(s: Setting) -> str:
    near = " or ".join(str(size) for size in fitting(s.size, s.depth, VALID) if size)
    return f"UNet refuses {s.size}: take {near}."


def _said(s: Setting, level: int) -> tuple[str, str]:
    """What happens, and what follows; level: where."""
    skip, back = s.levels[level].down[2], s.levels[level].down[2] // 2 * 2
    lack = f"The logits lack {s.size - (s.output or 0)} of the input's {s.size} rows and columns."
    if s.padding == VALID:
        if s.odd:
            return f"Level {level}: {skip} is odd: a row is left out, and the crop is uneven", lack
        return "What is left of the skips: their middle", lack
    if s.added:
        return (f"{s.size} is filled up to {s.size + s.added}: then no pooling gets an odd map",
                f"The rows added are copies of the last one. The logits are cut back to {s.size}.")
    if not s.odd:
        return (f"No map is odd: {skip} pools to {skip // 2} and comes back as {skip}",
                f"So it is at every level, since {s.size} divides by {2**s.depth}.")
    came = f"Level {level}: {skip} pools to {skip // 2}, comes back as {back}"
    if s.remedy == CROP:
        return f"{came}; the skip is cropped to it", lack
    if s.remedy == STRETCH:
        return (f"{came}, and is stretched to {skip}",
                "The logits have the input's size. At the end of a row, the map now lies a pixel off.")
    more = ", ".join(map(str, s.odd[:-1]))
    return (f"{came}, but the skip has {skip}",
            "The two cannot be joined." + (f" Further up, level {more} would fail as well." if more else ""))


# --- the lower panel


def _end(s: Setting, level: int) -> list:
    """The last pixels of a level: in its skip, pooled, and doubled again; numbered from 1."""
    size = s.levels[level].down[2]
    whole, real = size // 2 * 2, s.size if s.added else size
    start = max(0, real // 2 * 2 - (SHOWN // 2 if s.added else SHOWN))
    stop = min(size, start + SHOWN + size % 2)
    left_out = {PAD: real, STRETCH: size}.get(s.remedy, whole)
    broken, colour = s.broken is not None, "error" if s.broken is not None else "muted"
    stretch = size / whole if s.remedy == STRETCH else 1

    def cells(row, units, wide=1.0):
        """Boxes of units that are `wide` pixels wide, and their numbers; the row begins in the midst of some."""
        pixel, y = (RIGHT - LEFT) / (stop - start), 4.7 * row + 0.5
        edges = [(max(unit * wide - start, 0) * pixel + LEFT, ((unit + 1) * wide - start) * pixel + LEFT, unit + 1)
                 for unit in units if (unit + 0.5) * wide >= start]
        return ([(left + 0.25, y, right - 0.25, y + 3.2) for left, right, _ in edges],
                [((left + right) / 2, y + 1.6, str(number)) for left, right, number in edges])

    in_skip, lost = cells(0, range(start, min(stop, left_out))), cells(0, range(max(start, left_out), stop))
    pooled = cells(1, range(start // 2, stop // 2), 2)
    doubled = cells(2, range(max(0, start - 1), min(stop, whole)), stretch)
    missing = cells(2, range(max(start, whole), stop) if broken else [])
    names = [f"level {level}: {size}", f"pooled: {size // 2}", f"doubled: {whole}"]
    told = {NOTHING: ("left out", "missing"), PAD: ("added", ""), CROP: ("cropped", ""),
            STRETCH: ("not pooled", f"→ {size}")}[s.remedy] if s.odd or s.added else ("", "")
    return [
        Rects(in_skip[0], SKIP, 1, fill=SKIP),
        Rects(lost[0], colour, 1.5, fill="error" if broken else "", dashed=not broken),
        Rects(pooled[0] + doubled[0], "accent", 1, fill="accent"),
        Rects(missing[0], colour, 1.5, dashed=True),
        Text([item for _, items in (in_skip, lost, pooled, doubled) for item in items], fit=(RIGHT - LEFT) / 10),
        Text([(LEFT / 2, 4.7 * row + 2.1, words) for row, words in enumerate(names)], fit=LEFT),
        Text([(RIGHT + 8, y, words) for y, words in zip((2.1, 11.5), told, strict=True)], colour, fit=16),
    ]


def _crops(s: Setting) -> list:
    """The skips to one scale, and what is left in the middle of each."""
    pixel, middle = (RIGHT - LEFT) / s.levels[0].down[2], (LEFT + RIGHT) / 2
    top = (STRIP - BAR * s.depth) / 2
    cut, kept, words, odd = [], [], [], []
    for at, level in enumerate(s.levels[:-1]):
        y, skip, before = top + BAR * at, level.down[2], level.surplus // 2
        left = middle - skip * pixel / 2
        from_, until = left + before * pixel, left + (before + level.up[0]) * pixel
        box = (left, y, left + skip * pixel, y + 0.7 * BAR)
        (odd if level.odd else cut).append(box)
        kept.append((from_, y, until, y + 0.7 * BAR))
        words += [(LEFT / 2 - 0.5, y + 0.35 * BAR, f"level {at}: {skip} → {level.up[0]}", "ink"),
                  (RIGHT + 8, y + 0.35 * BAR, f"cut {before} + {level.surplus - before}",
                   "error" if level.odd else "muted")]
    return [Rects(cut, SKIP, 1, dashed=True), Rects(odd, "error", 1, dashed=True), Rects(kept, SKIP, 1, fill=SKIP),
            Text(words, fit=LEFT)]
