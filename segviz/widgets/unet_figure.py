"""The figure of a U-Net as layers of a panel, and of what happens at the end of a row (lesson 08).

`s` is a `Setting` of unet_setting.py. Where blocks stand depends on the depth alone: as the input's size changes, only
their heights do.
"""

from itertools import accumulate, pairwise
from math import sqrt
from typing import NamedTuple

from segviz.widgets.panels import Lines, Rects, Text

WIDTH, CLASSES, IMAGE = 64, 2, 1         # channels: of the first level, the logits and the image, as the paper's
LARGEST = 608                            # the tallest block, in pixels of its map
COLUMNS, ROWS = 100, 51                  # of the panel
BESIDE, ABOVE, BELOW = 13.4, 3, 2        # room around the U
BETWEEN, GAP = 3.4, 0.5                  # between two levels, two blocks
WIDEST, TALLEST = 0.8, 0.9              # of a block, for the root of one channel and of one pixel
SKIP, FONT, SMALL = "#D97B00", 11, 10


class Block(NamedTuple):
    """One map: its left and right end, the middle of its row, and its height."""

    left: float
    right: float
    middle: float
    height: float

    def box(self, part=(0, 1)) -> tuple:
        """The block, or a part of its width."""
        wide, half = self.right - self.left, self.height / 2
        return (self.left + part[0] * wide, self.middle - half, self.left + part[1] * wide, self.middle + half)

    @property
    def centre(self) -> float:
        return (self.left + self.right) / 2

    @property
    def top(self) -> float:
        return self.middle - self.height / 2

    @property
    def bottom(self) -> float:
        return self.middle + self.height / 2


class Frame:
    """The columns and rows in which the blocks of a depth stand. A block that is pooled stands over the block that
    comes of it, and one that is upsampled under it; these have equally many channels, so equally wide columns."""

    def __init__(self, depth: int):
        channels = [WIDTH * 2**level for level in range(depth + 1)]
        twice = [one for one in (*channels, *channels[-2::-1]) for _ in range(2)]
        roots = [max(sqrt(one), 4) for one in (IMAGE, *twice, CLASSES)]
        self.depth, room = depth, COLUMNS - 2 * BESIDE - GAP * (len(roots) - 1)
        scale = min(room / sum(roots), WIDEST)
        start = COLUMNS / 2 - (scale * sum(roots) + GAP * (len(roots) - 1)) / 2
        lefts = list(accumulate((scale * root + GAP for root in roots), initial=start))
        self.columns = [(left, after - GAP) for left, after in pairwise(lefts)]
        tall = [sqrt(LARGEST / 2**level) for level in range(depth + 1)]
        self.scale = min((ROWS - ABOVE - BELOW - BETWEEN * depth) / sum(tall), TALLEST)
        tops = accumulate((self.scale * one + BETWEEN for one in tall), initial=ABOVE)
        rest = (ROWS - ABOVE - BELOW - BETWEEN * depth - self.scale * sum(tall)) / 2
        self.middles = [rest + top + self.scale * one / 2 for top, one in zip(tops, tall, strict=False)]

    def block(self, column: int, level: int, size: int) -> Block:
        return Block(*self.columns[column], self.middles[level], self.scale * sqrt(size))

    def down(self, level: int, sizes) -> list[Block]:
        return [self.block(2 * level + at, level, size) for at, size in enumerate(sizes)]

    def up(self, level: int, sizes) -> list[Block]:
        return [self.block(4 * self.depth - 2 * level + at, level, size) for at, size in enumerate(sizes)]


def the_u(s) -> list:
    """The layers of the U."""
    frame, fine = Frame(s.depth), s.levels[0].up
    down = [frame.down(at, level.down) for at, level in enumerate(s.levels)]
    up = [frame.up(at, level.up) for at, level in enumerate(s.levels[:-1])]
    logits = frame.block(-1, 0, fine[-1])
    maps = [block.box() for row in down for block in row]
    maps += [box for at in s.reached for box in (up[at][0].box((0.5, 1)), up[at][1].box(), up[at][2].box())]
    missing = [block.box() for at in range(s.depth) if at not in s.reached for block in up[at]]
    (missing if s.broken is not None else maps).append(logits.box())
    return [
        Rects(missing, "muted", 0.75, dashed=True),
        Rects(maps, "accent", 1, fill="accent"),
        Rects([up[at][0].box((0, 0.5)) for at in s.reached], SKIP, 1, fill=SKIP),
        Rects([frame.block(2 * at + 2, at, s.levels[at].up[0]).box() for at in s.reached if s.cropped(at)], SKIP, 1.5,
              dashed=True),
        *_arrows(s, down, up),
        *_channels(s, down, up, logits),
        *_sizes(s, down, up, logits),
        *_on_skips(s, down, up),
    ]


def _arrows(s, down, up) -> list:
    """Poolings and up-convolutions, in red where a row is left out; skips; and the one that fits nowhere."""
    drops = {at: ((row[2].centre, row[2].bottom + 0.4), (row[2].centre, below[0].top - 0.5))
             for at, (row, below) in enumerate(pairwise(down))}
    rises = {at: ((row[0].centre, below.top - 0.4), (row[0].centre, row[0].bottom + 0.5))
             for at, (row, below) in enumerate(zip(up, [*(row[2] for row in up[1:]), down[-1][2]], strict=True))}
    skips = {at: ((down[at][2].right + 0.6, row[0].middle), (row[0].left - 0.7, row[0].middle))
             for at, row in enumerate(up)}
    broken = [] if s.broken is None else [s.broken]
    return [
        Lines([part for at in drops if at not in s.odd for part in _arrow(*drops[at])], "muted", 1.5),
        Lines([part for at in rises if at in (*s.reached, *broken) for part in _arrow(*rises[at])], "muted", 1.5),
        Lines([part for at in s.reached for part in _arrow(*skips[at])], SKIP, 1.5),
        Lines([list(skips[at]) for at in skips if at not in (*s.reached, *broken)], "line", 1.5),
        Lines([part for at in s.odd for part in _arrow(*drops[at])], "error", 2.5),
        *(Lines(_arrow(*skips[at]), "error", 2.5) for at in broken),
        *(Rects([up[at][0].box((0, 0.5)), up[at][0].box((0.5, 1))], "error", 2, fill="error") for at in broken),
    ]


def _arrow(start, end) -> list:
    """A line and its head."""
    (x, y), along = end, [(a > b) - (a < b) for a, b in zip(start, end, strict=True)]
    back = [(x + 0.9 * along[0] + 0.6 * side * along[1], y + 0.9 * along[1] + 0.6 * side * along[0])
            for side in (-1, 1)]
    return [[start, end], [back[0], end, back[1]]]


def _channels(s, down, up, logits) -> list:
    """How many channels, over the blocks; over narrow ones only where there is room."""
    rows = [(at, row) for at, row in enumerate(down)] + [(at, up[at]) for at in s.reached]
    # An arrow comes from above or from below beside these, but for the finest.
    over = [(row[1], WIDTH * 2**at, at and 2 * (row[1].centre - row[0].centre) - 0.8) for at, row in rows]
    beside = [(*up[at][:2], 2 * WIDTH * 2**at, WIDTH * 2**at) for at in s.reached] + [(*down[0][:2], IMAGE, WIDTH)]
    narrow = [(block, number, 2 * (other.centre - block.centre) - len(str(its)) - 0.3)
              for block, other, number, its in beside]
    if s.broken is None:
        over.append((logits, CLASSES, 0))
    return [Text([(block.centre, block.top - 1.3, str(number))], "muted", SMALL, fit=room)
            for block, number, room in over + narrow]


def _sizes(s, down, up, logits) -> list:
    """The sizes beside the U, and the levels' names."""
    left = [_told(level.down) for level in s.levels]
    right = {at: _told(s.levels[at].up) for at in s.reached}
    if s.added:
        left[0], right[0] = f"{s.size} + {s.added}", f"{s.levels[0].up[-1]} − {s.added}"
    ends = {at: (up[at][2] if at else logits) for at in right}
    beside = [(row[0].left - _half(words), row[0].middle - 1, words) for row, words in zip(down, left, strict=True)]
    beside += [(ends[at].right + _half(words), ends[at].middle, words) for at, words in right.items()]
    names = [(x, y + 2.2, f"level {at}") for at, (x, y, _) in enumerate(beside[: len(down)])]
    room = 2 * max(_half(words) for *_, words in beside) - 1.4
    return [Text(beside, size=FONT, fit=room), Text(names, "muted", SMALL, fit=room)]


def _told(sizes) -> str:
    return str(sizes[0]) if sizes[0] == sizes[-1] else f"{sizes[0]} → {sizes[-1]}"


def _half(words: str) -> float:
    """How far from a block words stand, in the middle of them; enough where the figure is 560 px wide."""
    return 1.4 + 0.6 * max(len(words), 7)


def _on_skips(s, down, up) -> list:
    """What becomes of the size of a skip."""
    layers = []
    for at, row in enumerate(up):
        skip, came = s.levels[at].down[2], s.levels[at].up[0]
        words, colour = f"{skip} → {came}", "muted"
        if at == s.broken:
            words, colour = f"{skip} ≠ {came}", "error"
        elif at not in s.reached or not s.cropped(at):
            continue
        start, end = down[at][2].right, row[0].left
        layers.append(Text([((start + end) / 2, row[0].middle - 1.5, words)], colour, FONT, fit=end - start))
    return layers
