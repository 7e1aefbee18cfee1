"""The pictures of the explorer of pyramid pooling: a sprite, and a beacon that is near, far or hidden."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segviz import draw
from segviz.data import toytown

PUMP, BUOY, HIDDEN = BEACONS = ("pump", "buoy", "hidden")
TRUTH = {PUMP: "car", BUOY: "boat"}
GRASS, POLE = (toytown.CLASSES.index(name) for name in ("grass", "pole"))


class Picture(NamedTuple):
    """image: float (3, H, W). pixels: the same, uint8 (H, W, 3). mask: the sprite's pixels, bool (H, W). sprite,
    beacon: boxes (x0, y0, x1, y1), half open; where the beacon is hidden, the one where it stood."""

    image: Tensor
    pixels: np.ndarray
    mask: Tensor
    sprite: tuple
    beacon: tuple

    def distance(self) -> Tensor:
        """How many pixels each pixel is from the beacon's box, the larger of across and down: int64 (H, W)."""
        x0, y0, x1, y1 = self.beacon
        down, across = (torch.maximum(low - places, places - (high - 1)).clamp(min=0) for low, high, places in
                        zip((y0, x0), (y1, x1), map(torch.arange, self.mask.shape), strict=True))
        return torch.maximum(down[:, None], across)


def pictured(index: int, size: int, distance: int, beacon: str, seed: int = 0) -> Picture:
    """`toytown.pair(index, size, distance=distance)` with that beacon."""
    twins = {kind: toytown.pair(index, size, distance=distance, seed=seed, label=label)
             for kind, label in TRUTH.items() if beacon in (kind, HIDDEN)}
    kind = PUMP if beacon == HIDDEN else beacon
    pair = twins[kind]
    sprite, pole = (next(thing.box for thing in pair.objects if thing.name == name) for name in (TRUTH[kind], "pole"))
    image = without_beacon(*twins.values()) if beacon == HIDDEN else pair.image
    pixels = np.ascontiguousarray(draw.rgb(image))
    return Picture(image, pixels, pair.mask == toytown.CLASSES.index(TRUTH[kind]), sprite, pole)


def without_beacon(car, boat) -> Tensor:
    """The image (3, H, W) of twins, scenes that differ in the beacon alone, with each row of beacon and shadow painted
    over, from the nearest meadow on its one side to that on its other: one and the same for both."""
    beacon = (car.image != boat.image).any(0) | (car.mask == POLE) | (boat.mask == POLE)
    down, across = (line.nonzero().flatten().tolist() for line in (beacon.any(1), beacon.any(0)))
    height, width = beacon.shape
    more = (across[-1] - across[0]) // 2 + 1                                   # as far as the shadow reaches
    first, last = max(across[0] - more, 0), min(across[-1] + more, width - 1)
    image = car.image.clone()
    for row in range(down[0], min(down[-1] + more, height)):
        meadow = (car.mask[row] == GRASS).nonzero().flatten()
        nearest = [*meadow[meadow < first][-1:], *meadow[meadow > last][:1]]    # on both sides, or on one
        left, right = (image[:, row, at, None] for at in (nearest[0], nearest[-1]))
        share = torch.linspace(0, 1, last - first + 3)[1:-1]
        over = beacon[row, first : last + 1] | (car.mask[row, first : last + 1] == GRASS)
        image[:, row, first : last + 1][:, over] = (left + (right - left) * share)[:, over]
    return image
