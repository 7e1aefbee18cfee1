"""Drawn: pictures that a world draws, as a data set. Toytown and Cells are two of them."""

import operator

import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from segviz.data.arguments import checked_size, natural


class Drawn(Dataset):
    """Items (image, mask): float32 (channels, H, W) in [0, 1], int64 (H, W). An item is drawn when first asked for and
    then kept as bytes.

    A world says how many pictures its splits have (`lengths`), the `channels` of an image, the `smallest` size and what
    is lost below it (`too_small`), and draws: `draw(index)` has .image and .mask.

    split: "train", "val" or "test". Item i of the three is scene 3 i, 3 i + 1 and 3 i + 2 of `seed`, so that no two
    splits share a picture, whatever their lengths.
    """

    lengths: dict[str, int]
    channels: int
    smallest: int
    too_small: str

    def __init__(self, split, size=96, length=None, seed=0):
        if split not in self.lengths:
            raise ValueError(f'split must be "train", "val" or "test", and it is {split!r}.')
        self.split, self.size = split, checked_size(size, self.smallest, self.too_small)
        self.length = self.lengths[split] if length is None else natural(length, "length")
        self.seed = natural(seed, "seed")
        self._kept = {}

    def __len__(self):
        return self.length

    def scene_index(self, item):
        """The `index` under which the world's `scene` draws this item."""
        return 3 * item + list(self.lengths).index(self.split)

    def __getitem__(self, item):
        item = operator.index(item)
        if not -self.length <= item < self.length:
            raise IndexError(f"item {item} of {type(self).__name__} with {self.length} pictures: items run from 0 to "
                             f"{self.length - 1}")
        item %= self.length
        if item not in self._kept:
            drawn = self.draw(self.scene_index(item))
            self._kept[item] = (drawn.image * 255).round().to(torch.uint8), drawn.mask.to(torch.uint8)
        image, mask = self._kept[item]
        return image.float() / 255, mask.long()

    def tensors(self, progress=True):
        """All items at once: images float32 (N, channels, H, W), masks int64 (N, H, W). A bar shows where it takes
        longer."""
        items = tqdm(range(self.length), f"drawing {self.split}", delay=2, disable=not progress, leave=False)
        images = torch.empty(self.length, self.channels, *self.size)
        masks = torch.empty(self.length, *self.size, dtype=torch.int64)
        for item in items:
            images[item], masks[item] = self[item]
        return images, masks
