"""Exercises of lesson 08, U-Net."""

import math

import torch
import torch.nn.functional as F

from segviz.exercises.engine import exercise

TITLE = "U-Net"


# -- valid_size(size, depth)


def _sizes() -> list[tuple]:
    numbers = ((572, 4), (188, 4), (100, 2), (570, 4), (101, 2), (16, 1), (92, 3), (574, 4), (18, 1), (576, 4), (140, 4),
               (44, 2), (30, 1), (102, 2), (90, 3), (8, 1))
    return list(numbers)


def _walked(size, depth, *, each=4, bottom=4, above=4, doubled=lambda size: 2 * size, odd=None):
    for _ in range(depth):
        size -= each
        if (size % 2 and odd is None) or size <= 0:
            return 0
        size = odd(size) if size % 2 else size // 2
    size -= bottom
    for _ in range(depth):
        size = doubled(size) - above
    return max(0, size)


def _padded(size, depth):
    return size


def _one_convolution(size, depth):
    return _walked(size, depth, each=2, bottom=2, above=2)


def _without_bottom(size, depth):
    return _walked(size, depth, bottom=0)


def _down_only(size, depth):
    return _walked(size, depth, above=0)


def _up_convolution_cuts(size, depth):
    return _walked(size, depth, doubled=lambda size: 2 * size - 1)


def _rounded_down(size, depth):
    return _walked(size, depth, odd=lambda size: size // 2)


def _rounded_up(size, depth):
    return _walked(size, depth, odd=lambda size: size // 2 + 1)


def _papers_border(size, depth):
    return max(0, size - 184)


def _multiples_only(size, depth):
    return _walked(size, depth, odd=lambda size: size // 2) if size % 2**depth == 0 else 0


def _one_level_more(size, depth):
    return _walked(size, depth + 1)


def _one_level_less(size, depth):
    return _walked(size, depth - 1)


def _below_zero(size, depth):
    for _ in range(depth):
        size -= 4
        if size % 2:
            return 0
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - 4
    return size


@exercise(
    "Follow a side of the image through the U-Net without padding",
    hints=(
        "Go level by level. What do two 3 x 3 convolutions without padding take away? When may the pooling follow?",
        "Down, `depth` times: less 4; an odd size (or none left) ends it with 0; half. At the bottom: less 4. Up, "
        "`depth` times: twice, less 4.",
        "for _ in range(depth): size -= 4; if size % 2 or size <= 0: return 0; size //= 2. Then size -= 4. Then for _ in "
        "range(depth): size = 2 * size - 4. At the end max(0, size).",
    ),
    cases=_sizes,
    mistakes={
        "That is the padded U-Net, which keeps the size. Here each 3 x 3 convolution takes two rows.": _padded,
        "Each level has two convolutions: together they take 4 rows, not 2.": _one_convolution,
        "At the bottom there are two convolutions as well: 4 rows less, before the way up.": _without_bottom,
        "On the way up, too, two convolutions follow each doubling: 4 rows less.": _down_only,
        "A 2 x 2 up-convolution with stride 2 doubles the size exactly; its stamps do not overlap.": _up_convolution_cuts,
        "You round down where a pooling meets an odd map. The answer there is 0: the skip and the doubled map would not "
        "lie on each other any more.": _rounded_down,
        "You round up where a pooling meets an odd map. The answer there is 0.": _rounded_up,
        "184 rows are lost at depth 4 only. Follow the levels.": _papers_border,
        "A size need not be a multiple of 2**depth: rows are lost before each pooling. It is the map *before* a pooling "
        "that must be even.": _multiples_only,
        "One level too many: `depth` counts the poolings.": _one_level_more,
        "One level too few: `depth` counts the poolings.": _one_level_less,
        "Where nothing is left, say 0: a map has no negative size.": _below_zero,
    },
    praise="Now you can find a size that works for any such network, before it complains.",
    advice="By hand: 572, 568, 284, 280, 140, 136, 68, 64, 32, 28 at the bottom, then 56, 52, 104, 100, 200, 196, 392, 388.",
)
def valid_size(size, depth):
    """size: of one side of the image; depth: how often the network pools -> that side of its output, without padding;
    0 where a pooling meets an odd map, or nothing is left."""
    for _ in range(depth):
        size -= 4
        if size % 2 or size <= 0:
            return 0
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - 4
    return max(0, size)


# -- crop_and_concatenate(skip, up)


def _pairs() -> list[tuple]:
    generator = torch.Generator().manual_seed(0)
    shapes = (((1, 2, 8, 8), (1, 2, 4, 4)), ((2, 3, 9, 12), (2, 3, 5, 8)), ((1, 4, 6, 10), (1, 4, 4, 4)),
              ((2, 2, 7, 7), (2, 2, 7, 7)), ((3, 1, 12, 14), (3, 1, 2, 8)))
    return [tuple(torch.randn(shape, generator=generator) for shape in pair) for pair in shapes]


def _cut(maps, like, top, left):
    return maps[..., top : top + like.shape[2], left : left + like.shape[3]]


def _middle(skip, up):
    return _cut(skip, up, (skip.shape[2] - up.shape[2]) // 2, (skip.shape[3] - up.shape[3]) // 2)


def _upper_left(skip, up):
    return torch.cat([_cut(skip, up, 0, 0), up], 1)


def _lower_right(skip, up):
    return torch.cat([_cut(skip, up, skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]), up], 1)


def _made_smaller(skip, up):
    return torch.cat([F.interpolate(skip, up.shape[2:], mode="bilinear"), up], 1)


def _made_smaller_nearest(skip, up):
    return torch.cat([F.interpolate(skip, up.shape[2:]), up], 1)


def _added(skip, up):
    return _middle(skip, up) + up


def _other_way_round(skip, up):
    return torch.cat([up, _middle(skip, up)], 1)


def _up_padded(skip, up):
    down, right = skip.shape[2] - up.shape[2], skip.shape[3] - up.shape[3]
    return torch.cat([skip, F.pad(up, (right // 2, right - right // 2, down // 2, down - down // 2))], 1)


def _along_the_batch(skip, up):
    return torch.cat([_middle(skip, up), up], 0)


def _below_each_other(skip, up):
    return torch.cat([_middle(skip, up), up], 2)


def _rows_for_both(skip, up):
    top = (skip.shape[2] - up.shape[2]) // 2
    return torch.cat([skip[..., top : top + up.shape[2], top : top + up.shape[3]], up], 1)


def _up_forgotten(skip, up):
    return torch.cat([_middle(skip, up), torch.zeros_like(up)], 1)


def _skip_alone(skip, up):
    return _middle(skip, up)


@exercise(
    "Crop the skip to its middle and concatenate",
    hints=(
        "How many rows has the skip more than the other map? So many must go, half of them above.",
        "top = (skip.shape[2] - up.shape[2]) // 2, and the same for the columns. Cut with a slice that is as long as `up` "
        "(one that ends at -0 is empty).",
        "torch.cat([skip[:, :, top : top + up.shape[2], left : left + up.shape[3]], up], 1)",
    ),
    cases=_pairs,
    mistakes={
        "You cut at the upper left. The convolutions took rows on all sides: keep the skip's middle.": _upper_left,
        "You cut at the lower right. Keep the skip's middle.": _lower_right,
        "You shrank the skip. Then its pixels lie elsewhere: cut it instead.": _made_smaller,
        "You shrank the skip, by leaving pixels out. Cut its border off instead.": _made_smaller_nearest,
        "You added the two: that is FCN's way. Lay their channels one upon the other.": _added,
        "The channels are right, but in the other order: first the skip's.": _other_way_round,
        "You put zeros around the coarse map. In a U-Net without padding the skip is cropped.": _up_padded,
        "You laid them along the batch. Channels are axis 1.": _along_the_batch,
        "You laid them below each other, as rows. Channels are axis 1.": _below_each_other,
        "Columns are cut by a number of their own: the map need not be square.": _rows_for_both,
        "Where is the map that came up? Behind the skip's channels there are zeros.": _up_forgotten,
        "The skip is cut as it should be. Now lay the other map's channels behind its own.": _skip_alone,
    },
    praise="Nothing is computed, and nothing lost but the border that the coarse map has no answer for.",
    advice="Cut (H - h) // 2 rows above, (W - w) // 2 columns at the left, then torch.cat([...], 1).",
)
def crop_and_concatenate(skip, up):
    """skip (B, C, H, W), up (B, D, h, w), no larger; H - h and W - w even -> (B, C + D, h, w): the middle of the skip,
    and behind its channels those of `up`."""
    top, left = (skip.shape[2] - up.shape[2]) // 2, (skip.shape[3] - up.shape[3]) // 2
    middle = skip[:, :, top : top + up.shape[2], left : left + up.shape[3]]
    return torch.cat([middle, up], 1)


# -- rows_to_read(size, tile, margin)


def _layouts() -> list[tuple]:
    return [(100, 40, 10), (120, 40, 10), (40, 40, 10), (200, 64, 16), (65, 40, 4), (50, 20, 0), (61, 32, 12), (128, 48, 30)]


def _starts(size, tile):
    return [*range(0, size - tile, tile), size - tile]


def _no_margin(size, tile, margin):
    return rows_to_read.reference(size, tile, 0)


def _beyond_the_image(size, tile, margin):
    return [(start - margin, start + tile + margin) for start in _starts(size, tile)]


def _margin_above(size, tile, margin):
    return [(max(0, start - margin), start + tile) for start in _starts(size, tile)]


def _margin_below(size, tile, margin):
    return [(start, min(size, start + tile + margin)) for start in _starts(size, tile)]


def _half_a_margin(size, tile, margin):
    return rows_to_read.reference(size, tile, margin // 2)


def _two_margins(size, tile, margin):
    return rows_to_read.reference(size, tile, 2 * margin)


def _short_last(size, tile, margin):
    return [(max(0, start - margin), min(size, start + tile + margin)) for start in range(0, size, tile)]


def _rest_dropped(size, tile, margin):
    return [(max(0, s - margin), min(size, s + tile + margin)) for s in range(0, size - tile + 1, tile)]


def _last_twice(size, tile, margin):
    starts = [*range(0, size - tile + 1, tile), size - tile]
    return [(max(0, start - margin), min(size, start + tile + margin)) for start in starts]


def _last_included(size, tile, margin):
    return [(first, stop - 1) for first, stop in rows_to_read.reference(size, tile, margin)]


def _moved_inwards(size, tile, margin):
    """Always as many rows: at the image's border the piece is moved, not cut."""
    wanted = min(size, tile + 2 * margin)
    firsts = [min(max(0, start - margin), size - wanted) for start in _starts(size, tile)]
    return [(first, first + wanted) for first in firsts]


def _tile_with_margin(size, tile, margin):
    step = max(1, tile - 2 * margin)
    return [(start, start + tile) for start in [*range(0, size - tile, step), size - tile]]


@exercise(
    "Say which rows each tile has to read",
    hints=(
        "First without the margin: where does each tile begin? The last one would stick out, so it is moved back and ends "
        "with the image.",
        "starts = [*range(0, size - tile, tile), size - tile]. A tile's answer is start ... start + tile. The network reads "
        "`margin` rows more above and below, where the image has them.",
        "[(max(0, start - margin), min(size, start + tile + margin)) for start in starts]",
    ),
    cases=_layouts,
    mistakes={
        "Without a margin the tiles' borders are guessed from zeros: seams. Read `margin` rows more above and below.": _no_margin,
        "Your pieces go beyond the image. There is nothing to read: cut them at 0 and at size.": _beyond_the_image,
        "A margin above is missing its twin below.": _margin_above,
        "A margin below is missing its twin above.": _margin_below,
        "Half a margin on each side is too little: it is `margin` on each.": _half_a_margin,
        "Twice too much: `margin` rows above, and as many below.": _two_margins,
        "Your last tile is cut short, or sticks out. Move it back, so that it has `tile` rows and ends with the image.": _short_last,
        "The end of the image is not covered. One more tile, that ends with the image.": _rest_dropped,
        "Where the tiles fit exactly, your last one comes twice.": _last_twice,
        "As in a slice, the second number is one behind the last row.": _last_included,
        "At the image's border you read more than is needed, so that all pieces are of one size. Cut them there.": _moved_inwards,
        "In yours the margin lies inside the tile. Here a tile is what is *answered*, and the margin lies around it.": _tile_with_margin,
    },
    praise="Only the margins are computed twice. What they buy is that nobody can see where the tiles were.",
    advice="For size 100, tile 40, margin 10: (0, 50), (30, 90), (50, 100).",
)
def rows_to_read(size, tile, margin):
    """size: rows of the image, no fewer than `tile`; tile: rows that are answered at once; margin: how many rows around
    them the network looks at -> for each tile, from the top, (first, stop): it reads the rows first, ..., stop - 1 of
    the image. The tiles lie side by side, but the last one is moved back to end with the image."""
    starts = [*range(0, size - tile, tile), size - tile]
    return [(max(0, start - margin), min(size, start + tile + margin)) for start in starts]


# -- border_weight(cells, row, column, w0, sigma)


def _drawn_cells() -> list[tuple]:
    cells = torch.zeros(12, 16, dtype=torch.long)
    cells[2:8, 1:6] = 1
    cells[3:10, 8:14] = 2
    cells[10:12, 2:5] = 3
    small = torch.zeros(7, 9, dtype=torch.long)
    small[1, 1], small[5, 7], small[6, 0], small[3, 6] = 1, 2, 3, 4
    places = ((5, 6), (5, 7), (9, 4), (0, 0), (11, 15), (9, 6), (10, 7))
    return [(cells, row, column, 10.0, 5.0) for row, column in places] + [(small, 3, 4, 10.0, 3.0), (small, 6, 6, 4.0, 2.0)]


def _distances(cells, row, column):
    """To the nearest pixel of each cell, in the order of the cells' numbers."""
    rows, columns = (torch.arange(n) for n in cells.shape)
    away = torch.sqrt((rows[:, None] - row) ** 2.0 + (columns[None, :] - column) ** 2.0)
    return [away[cells == n].min().item() for n in range(1, int(cells.max()) + 1)]


def _nearest_twice(cells, row, column, w0, sigma):
    return w0 * math.exp(-((2 * min(_distances(cells, row, column))) ** 2) / (2 * sigma**2))


def _nearest_only(cells, row, column, w0, sigma):
    return w0 * math.exp(-(min(_distances(cells, row, column)) ** 2) / (2 * sigma**2))


def _two_pixels(cells, row, column, w0, sigma):
    away = [math.hypot(r - row, c - column) for r, c in cells.nonzero().tolist()]
    return w0 * math.exp(-(sum(sorted(away)[:2]) ** 2) / (2 * sigma**2))


def _squares_apart(cells, row, column, w0, sigma):
    near, second = sorted(_distances(cells, row, column))[:2]
    return w0 * math.exp(-(near**2 + second**2) / (2 * sigma**2))


def _not_squared(cells, row, column, w0, sigma):
    near, second = sorted(_distances(cells, row, column))[:2]
    return w0 * math.exp(-(near + second) / (2 * sigma**2))


def _without_two(cells, row, column, w0, sigma):
    near, second = sorted(_distances(cells, row, column))[:2]
    return w0 * math.exp(-((near + second) ** 2) / sigma**2)


def _sigma_not_squared(cells, row, column, w0, sigma):
    near, second = sorted(_distances(cells, row, column))[:2]
    return w0 * math.exp(-((near + second) ** 2) / (2 * sigma))


def _without_w0(cells, row, column, w0, sigma):
    return border_weight.reference(cells, row, column, 1.0, sigma)


def _one_more(cells, row, column, w0, sigma):
    return 1 + border_weight.reference(cells, row, column, w0, sigma)


def _first_two_cells(cells, row, column, w0, sigma):
    return w0 * math.exp(-(sum(_distances(cells, row, column)[:2]) ** 2) / (2 * sigma**2))


def _all_cells(cells, row, column, w0, sigma):
    return w0 * math.exp(-(sum(_distances(cells, row, column)) ** 2) / (2 * sigma**2))


def _to_the_middles(cells, row, column, w0, sigma):
    middles = [(cells == n).nonzero().double().mean(0).tolist() for n in range(1, int(cells.max()) + 1)]
    away = sorted(math.hypot(r - row, c - column) for r, c in middles)
    return w0 * math.exp(-((away[0] + away[1]) ** 2) / (2 * sigma**2))


def _along_streets(cells, row, column, w0, sigma):
    away = [min(abs(r - row) + abs(c - column) for r, c in (cells == n).nonzero().tolist())
            for n in range(1, int(cells.max()) + 1)]
    return w0 * math.exp(-(sum(sorted(away)[:2]) ** 2) / (2 * sigma**2))


def _exchanged(cells, row, column, w0, sigma):
    return border_weight.reference(cells, column, row, w0, sigma)


def _last_forgotten(cells, row, column, w0, sigma):
    return w0 * math.exp(-(sum(sorted(_distances(cells, row, column)[:-1])[:2]) ** 2) / (2 * sigma**2))


def _no_brackets(cells, row, column, w0, sigma):
    near, second = sorted(_distances(cells, row, column))[:2]
    return w0 * math.exp(-((near + second) ** 2) / 2 * sigma**2)


def _growing(cells, row, column, w0, sigma):
    near, second = sorted(_distances(cells, row, column))[:2]
    return w0 * math.exp((near + second) ** 2 / (2 * sigma**2))


@exercise(
    "Weigh one pixel by its distances to two cells",
    hints=(
        "How far is it from the pixel to the nearest pixel of cell 1? To that of cell 2? Which two of these distances does "
        "the formula want?",
        "One distance for each cell, by Pythagoras: torch.hypot of rows and columns, the minimum over (cells == "
        "n).nonzero(). Sort them, take the first two, add, square.",
        "For n in 1..cells.max(): r, c = (cells == n).nonzero(as_tuple=True), and ((r - row) ** 2 + (c - column) ** 2).min() "
        "** 0.5 is its distance. Then w0 * exp(-(d1 + d2)**2 / (2 * sigma**2)).",
    ),
    cases=_drawn_cells,
    mistakes={
        "You took the nearest cell twice. d2 is the distance to the *second* nearest.": _nearest_twice,
        "Only the nearest cell counts in yours, so all around every cell there is weight; or 0, the background, is taken "
        "for a cell. Two cells make a border.": _nearest_only,
        "You took the two nearest *pixels*: both may be of one cell. It is the two nearest *cells*, one distance each.": _two_pixels,
        "Add the distances first, then square the sum.": _squares_apart,
        "The sum of the distances is squared: it is a bell.": _not_squared,
        "The 2 below the line is missing: 2 * sigma**2.": _without_two,
        "Below the line sigma is squared, too: 2 * sigma**2.": _sigma_not_squared,
        "Times w0: that is the weight where both distances are 0.": _without_w0,
        "The 1 of the class weight comes later. This is the border's part alone.": _one_more,
        "You took cells number 1 and 2, wherever they are. Which two are nearest?": _first_two_cells,
        "Only the two nearest cells count, not all of them.": _all_cells,
        "You measured to the cells' middles. It is the distance to the nearest pixel of a cell.": _to_the_middles,
        "You added rows and columns. Take the straight line: the root of the sum of squares.": _along_streets,
        "Your last cell is left out: the numbers run from 1 to cells.max(), and range stops one before its end.": _last_forgotten,
        "2 * sigma**2 stands below the line, all of it: put it in brackets.": _no_brackets,
        "You exchanged row and column.": _exchanged,
        "The sign: the weight falls with the distance.": _growing,
    },
    praise="Two distances: large only where two cells are near at once. That is the whole trick.",
    advice="A pixel 1 away from each of two cells, with w0 10 and sigma 5, weighs 10 * exp(-4 / 50) = 9.23.",
    tolerance=1e-4,
)
def border_weight(cells, row, column, w0, sigma):
    """cells (H, W): the number of the cell at each pixel, 1, 2, ..., and 0 for none; at least two cells -> the weight of
    the pixel (row, column), which is none of a cell: w0 * exp(-(d1 + d2)**2 / (2 * sigma**2)), where d1 and d2 are its
    distances to the nearest and to the second nearest cell, each to the cell's nearest pixel."""
    distances = []
    for number in range(1, int(cells.max()) + 1):
        rows, columns = (cells == number).nonzero(as_tuple=True)
        distances.append(((rows - row) ** 2 + (columns - column) ** 2).min().sqrt())
    near, second = sorted(distances)[:2]
    return w0 * torch.exp(-((near + second) ** 2) / (2 * sigma**2))


EXERCISES = {item.name: item for item in (valid_size, crop_and_concatenate, rows_to_read, border_weight)}
