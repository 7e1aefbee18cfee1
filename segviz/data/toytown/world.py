"""Toytown: a picture-book town by the water, drawn by rules, every pixel of it known.

`scene(index)` draws one; `pair(index, distance=...)` draws the small misty world in which the same sprite is
a car or a boat; `Toytown(split)` is a data set of scenes. A scene depends on (seed, index) alone: no global
random state is read.

Promised: on one machine the same call gives the same scene, bit for bit. Across platforms and across
versions of numpy and Pillow the same town; single pixels may differ where a rounding falls the other way.
"""

import operator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from segviz.data.arguments import checked_size, natural
from segviz.data.drawn import Drawn
from segviz.data.toytown.paint import CLASSES, MARKING, POLE, VOID
from segviz.data.toytown.plan import plan
from segviz.data.toytown.scenery import draw
from segviz.data.toytown.twins import checked_label, class_of, draw_pair
from segviz.draw import PALETTE, VOID_COLOUR

SMALLEST, TOO_SMALL = 32, "below that a pole is nothing"
LENGTHS = {"train": 1000, "val": 200, "test": 200}
THIN_VOTES, CLEAR_VOTES = 3, 7      # of 9 samples: what a thin class needs, and what any other


@dataclass(frozen=True)
class Object:
    """One thing in a scene, of which at least one pixel is seen."""
    label: int
    name: str
    box: tuple  # (x0, y0, x1, y1) ints, half open: image[:, y0:y1, x0:x1] just holds its visible pixels
    depth: float        # metres from the eye
    visible: int        # pixels


@dataclass(frozen=True)
class Scene:
    """A picture and its truth. Tensors: image float32 (3, H, W) in [0, 1], mask int64 (H, W) with 255 for
    void, instances int64 (H, W) where i stands for objects[i - 1] and 0 for none. Objects run from near to
    far."""
    image: torch.Tensor
    mask: torch.Tensor
    instances: torch.Tensor
    objects: list


def scene(index, size=96, *, seed=0):
    """Draw scene number `index`. `size`: pixels, int or (height, width), each at least 32. Returns a `Scene`.

    The composition scales: at another size it is the same town with more or less detail; in an oblong
    picture the places stretch, the things keep their shape. Raises ValueError on a size that is too small or
    no integer.
    """
    height, width = checked_size(size, SMALLEST, TOO_SMALL)
    return _finish(*draw(plan(natural(index, "index"), natural(seed, "seed")), height, width))


def pair(index, size=96, *, distance, seed=0, label=None):
    """Draw the car-or-boat world number `index`: one sprite on a misty meadow (class grass), and one beacon.

    Beside a red and white buoy the sprite is a boat, beside a petrol pump a car; its own looks and its place
    say nothing. The beacon (class pole) is exactly `distance` pixels from it: the least Chebyshev distance,
    max(|dx|, |dy|), between a pixel of the sprite and one of the beacon, so that 1 means side by side. Of
    the indices 2 k and 2 k + 1 one is a car and one a boat. `label` ("car" or "boat") forces the class: two
    pictures that differ in it differ in the beacon's box alone. `size` as in `scene`. Returns a `Scene`.
    Raises ValueError where `distance` is less than 1 or leaves no room.
    """
    height, width = checked_size(size, SMALLEST, TOO_SMALL)
    index, seed = natural(index, "index"), natural(seed, "seed")
    if natural(distance, "distance") < 1:
        raise ValueError("distance must be at least 1 pixel (side by side), and it is 0.")
    label = class_of(index, seed) if label is None else checked_label(label)
    return _finish(*draw_pair(index, seed, height, width, operator.index(distance), label))


def _finish(canvas, samples, picture):
    mask, seen = _vote(canvas, samples)
    instances, objects = _objects(canvas, mask, seen)
    image = torch.from_numpy(picture)
    return Scene(image, torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(instances), objects)


def _vote(canvas, samples):
    """(mask, ids), uint8 (H, W): each pixel's class by its samples, and which thing of that class it shows.

    Void where no class has a clear majority. A thin class needs a third: that keeps poles, wires and lines
    whole.
    """
    middle, mixed, ids = samples
    table, seen = np.array(canvas.labels, np.uint8), middle.copy()
    mask = table.take(middle)
    labels, columns = table.take(ids), np.arange(len(mixed))                # (9, N), (N,)
    votes = np.bincount((labels * np.intp(len(mixed)) + columns).reshape(-1), minlength=len(CLASSES)
                        * len(mixed))
    votes = votes.reshape(len(CLASSES), -1)
    votes[[MARKING, POLE]] += 9 * (votes[[MARKING, POLE]] >= THIN_VOTES)
    winner = votes.argmax(0)
    mask.reshape(-1)[mixed] = np.where(votes[winner, columns] >= CLEAR_VOTES, winner, VOID)
    # of that class, the one nearest the middle
    seen.reshape(-1)[mixed] = ids[(labels == winner).argmax(0), columns]
    return mask, seen


def _objects(canvas, mask, seen):
    """The instance map (H, W) int64 and the list of objects, near to far, that have at least one labelled
    pixel."""
    seen = np.where((mask != VOID) & np.array(canvas.is_object)[seen], seen, 0).reshape(-1)
    places = np.flatnonzero(seen)
    places = places[np.argsort(seen[places], kind="stable")]
    if len(places) == 0:
        return np.zeros(mask.shape, np.int64), []
    runs = seen[places]
    starts = np.concatenate([[0], np.flatnonzero(runs[1:] != runs[:-1]) + 1])
    ids, counts = runs[starts], np.diff(starts, append=len(runs))
    rows, columns = np.divmod(places, mask.shape[1])
    corners = (np.minimum.reduceat(columns, starts), np.minimum.reduceat(rows, starts),
               np.maximum.reduceat(columns, starts) + 1, np.maximum.reduceat(rows, starts) + 1)
    order = sorted(range(len(ids)), key=lambda k: (canvas.depths[ids[k]], k))
    number = np.zeros(256, np.int64)
    number[ids[order]] = np.arange(1, len(ids) + 1)
    boxes = np.stack(corners, 1).tolist()
    objects = [Object(canvas.labels[ids[k]], CLASSES[canvas.labels[ids[k]]], tuple(boxes[k]),
                      canvas.depths[ids[k]], int(counts[k]))
               for k in order]
    return number[seen].reshape(mask.shape), objects


class Toytown(Drawn):
    """Scenes as a data set of (image, mask): float32 (3, H, W) in [0, 1], int64 (H, W) with 255 for void.

    `split`: "train", "val" or "test" (1000, 200, 200 scenes unless `length` says otherwise); which scenes these are
    says `Drawn`. 46 KB an item at 96 x 96.
    """

    lengths, channels, smallest, too_small = LENGTHS, 3, SMALLEST, TOO_SMALL

    def draw(self, index):
        return scene(index, self.size, seed=self.seed)


def contact_sheet(indices, size=96, columns=4):
    """Scenes beside their label maps, in rows, every pixel drawn twice as large: a PIL image."""
    colours = np.zeros((256, 3), np.uint8)
    colours[:len(PALETTE)], colours[VOID] = PALETTE, VOID_COLOUR
    cells = []
    for index in indices:
        drawn = scene(index, size)
        picture = (drawn.image * 255).round().byte().permute(1, 2, 0).numpy()
        cell = np.concatenate([picture, colours[drawn.mask.numpy()]], axis=1)
        cells.append(np.pad(cell, ((4, 4), (4, 4), (0, 0)), constant_values=255))
    rows = [np.concatenate(cells[k:k + columns], axis=1) for k in range(0, len(cells), columns)]
    sheet = Image.fromarray(np.concatenate(rows))
    return sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST)
