"""Cells: what the lessons call. `scene(index)` draws one picture; `Cells(split)` is a data set of them.

A picture depends on (seed, index, size) alone: no global random state is read. On one machine the same call gives
the same picture, bit for bit; elsewhere the same culture, where single pixels may differ by a rounding.
"""

from typing import NamedTuple

import numpy as np
import torch

from segviz import draw
from segviz.data.arguments import checked_size, natural
from segviz.data.cells.culture import grow, instances
from segviz.data.cells.optics import photograph
from segviz.data.drawn import Drawn

CLASSES = ("background", "cell")
PALETTE = draw.PALETTE[[4, 6]]
SMALLEST, TOO_SMALL = 32, "below that hardly one cell is whole"
LENGTHS = {"train": 30, "val": 50, "test": 50}


class Scene(NamedTuple):
    """A picture and its truth. Tensors: image float32 (1, H, W) in [0, 1]; mask int64 (H, W), 0 background and 1
    cell; instances int64 (H, W), 0 for none and 1, 2, ... for the cells, each one connected component (by sides) of
    the mask."""
    image: torch.Tensor
    mask: torch.Tensor
    instances: torch.Tensor


def scene(index, size=96, *, seed=0):
    """Draw picture number `index`. `size`: pixels, int or (height, width), each at least 32. Returns a `Scene`.

    The magnification stays: a larger picture shows more cells (about 9 pixels in radius), not larger ones. Touching
    cells have a ridge of background between them, two pixels wide, as the separation borders of U-Net's paper
    (Ronneberger, Fischer, Brox 2015, section 3). Raises ValueError on a size that is too small or no integer.
    """
    height, width = checked_size(size, SMALLEST, TOO_SMALL)
    dice = np.random.default_rng((natural(seed, "seed"), natural(index, "index")))
    culture = grow(dice, height, width)
    numbers = torch.from_numpy(instances(culture))
    return Scene(torch.from_numpy(photograph(dice, culture))[None], (numbers > 0).long(), numbers)


class Cells(Drawn):
    """Pictures as a data set of (image, mask): float32 (1, H, W) in [0, 1], int64 (H, W): 0 background, 1 cell.

    `split`: "train", "val" or "test" (30, 50, 50 pictures unless `length` says otherwise: 30 are as many as U-Net's
    paper had for its first task); which pictures these are says `Drawn`.
    """

    lengths, channels, smallest, too_small = LENGTHS, 1, SMALLEST, TOO_SMALL

    def draw(self, index):
        return scene(index, self.size, seed=self.seed)


def contact_sheet(indices, size=96, columns=4):
    """A figure: pictures in rows, and below each whose every pixel is."""
    drawn = [scene(index, size) for index in indices]
    rows = -(-len(drawn) // columns)
    figure, axes = draw.panels(columns, 2 * rows)
    for number, picture in enumerate(drawn):
        place = 2 * columns * (number // columns) + number % columns
        draw.image(axes[place], picture.image)
        draw.instances(axes[place + columns], picture.image, picture.instances)
    return figure
