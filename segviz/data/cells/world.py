"""Cells: what the lessons call. `scene(index)` draws one picture; `Cells(split)` is a data set of them.

A picture depends on (seed, index, size) alone: no global random state is read. On one machine the same call gives
the same picture, bit for bit; elsewhere the same culture, where single pixels may differ by a rounding.
"""

import operator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from segviz import draw
from segviz.data.arguments import checked_size, natural
from segviz.data.cells.culture import grow, instances
from segviz.data.cells.optics import photograph

CLASSES = ("background", "cell")
PALETTE = draw.PALETTE[[4, 6]]
SMALLEST, TOO_SMALL = 32, "below that hardly one cell is whole"
LENGTHS = {"train": 30, "val": 50, "test": 50}      # 30: as many as U-Net's paper had for its first task


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


class Cells(Dataset):
    """Pictures as a data set of (image, mask): float32 (1, H, W) in [0, 1], int64 (H, W): 0 background, 1 cell.

    `split`: "train", "val" or "test" (30, 50, 50 pictures unless `length` says otherwise). Item i of the three is
    scene 3 i, 3 i + 1 and 3 i + 2 of `seed`, so that no two splits share a picture, whatever their lengths. An item
    is drawn when first asked for and then kept as bytes.
    """

    def __init__(self, split, size=96, length=None, seed=0):
        if split not in LENGTHS:
            raise ValueError(f'split must be "train", "val" or "test", and it is {split!r}.')
        self.split, self.size = split, checked_size(size, SMALLEST, TOO_SMALL)
        self.length = LENGTHS[split] if length is None else natural(length, "length")
        self.seed = natural(seed, "seed")
        self._kept = {}

    def __len__(self):
        return self.length

    def scene_index(self, item):
        """The `index` under which `cells.scene` draws this item."""
        return 3 * item + list(LENGTHS).index(self.split)

    def __getitem__(self, item):
        item = operator.index(item)
        if not -self.length <= item < self.length:
            raise IndexError(f"item {item} of {self.length} pictures of cells: items run from 0 to {self.length - 1}")
        item %= self.length
        if item not in self._kept:
            drawn = scene(self.scene_index(item), self.size, seed=self.seed)
            self._kept[item] = (drawn.image * 255).round().to(torch.uint8), drawn.mask.to(torch.uint8)
        image, mask = self._kept[item]
        return image.float() / 255, mask.long()

    def tensors(self, progress=True):
        """All items at once: images float32 (N, 1, H, W), masks int64 (N, H, W). A bar shows where it takes longer."""
        items = tqdm(range(self.length), f"drawing {self.split}", delay=2, disable=not progress, leave=False)
        images = torch.empty(self.length, 1, *self.size)
        masks = torch.empty(self.length, *self.size, dtype=torch.int64)
        for item in items:
            images[item], masks[item] = self[item]
        return images, masks


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
