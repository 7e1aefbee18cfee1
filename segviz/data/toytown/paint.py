"""The canvas of Toytown: the picture and the truth are painted by the very same strokes.

A `Canvas` holds two images, `SUPER` times finer than the result: the picture, and a map of *ids*. Every
shape that is painted into the one is painted into the other, so the label map cannot drift away from the
picture. Sky and water stay black here; `light.py` fills them at the end, because what they look like depends
on all the rest.
"""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SKY, BUILDING, TREE, GRASS, ROAD, MARKING, WATER, POLE, CAR, BOAT = range(10)
CLASSES = ("sky", "building", "tree", "grass", "road", "marking", "water", "pole", "car", "boat")
VOID = 255
SUPER = 3                         # 3 x 3 samples a pixel: enough for soft edges and for a vote
FLAT = (GRASS, ROAD, MARKING)     # what lies on the ground: hazed by the row, not as one object


class Canvas:
    """Two images, `SUPER` times (height, width): `picture` (RGB) and `ids` (one byte: which thing is seen
    there)."""

    def __init__(self, height, width):
        self.height, self.width = height, width
        size = (width * SUPER, height * SUPER)
        self.picture, self.ids = Image.new("RGB", size), Image.new("L", size)
        self._brush, self._marker = ImageDraw.Draw(self.picture), ImageDraw.Draw(self.ids)
        self.labels, self.depths, self.is_object = [SKY], [float("inf")], [False]     # by id; id 0 is the sky
        self.glows = []               # (x, y, radius, strength) of lamps, in fine pixels

    def new_id(self, label, depth, is_object=True):
        """Register a thing and return its id. Nearer things must be painted later, as painters do."""
        if len(self.labels) > 255:
            raise ValueError("a canvas holds 255 things at most: an id is one byte")
        self.labels.append(label)
        self.depths.append(depth)
        self.is_object.append(is_object)
        return len(self.labels) - 1

    def polygon(self, points, colour, id=None):
        """Fill a polygon of (x, y) fine pixels. Without an id it is a detail on something already there."""
        self._brush.polygon(points, colour)
        if id is not None:
            self._marker.polygon(points, id)

    def rectangle(self, x0, y0, x1, y1, colour, id=None):
        """Fill the pixels from (x0, y0) up to, but not including, (x1, y1); at least one pixel each way."""
        x0, y0 = round(x0), round(y0)
        box = (x0, y0, max(x0, round(x1) - 1), max(y0, round(y1) - 1))
        self._brush.rectangle(box, colour)
        if id is not None:
            self._marker.rectangle(box, id)

    def line(self, points, width, colour, id=None):
        self._brush.line(points, colour, width)
        if id is not None:
            self._marker.line(points, id, width)

    def sprite(self, sprite, x, y, id):
        """Paste a sprite with the middle of its foot at (x, y)."""
        width, height = sprite.colour.size
        left, top = round(x - width / 2), round(y - height)
        self.picture.paste(sprite.colour, (left, top), sprite.alpha)
        self.ids.paste(id, (left, top, left + width, top + height), sprite.solid)

    def shade(self, x, y, width, height, strength=0.45, colour=(24, 34, 58)):
        """A soft shadow on the ground, an ellipse around (x, y). Paint it before what casts it."""
        mask = _soft_ellipse(_step(width), _step(height), round(strength * 20))
        box = (round(x - mask.width / 2), round(y - mask.height / 2))
        self.picture.paste(colour, (*box, box[0] + mask.width, box[1] + mask.height), mask)

    def samples(self):
        """(middle, mixed, ids): the id in the middle of each pixel, uint8 (height, width); the flat
        positions of the N pixels that show more than one thing, (N,); and all the ids seen there, uint8 (9,
        N), the middle one first."""
        fine, centre = np.asarray(self.ids), SUPER // 2
        places = sorted(((i, j) for i in range(SUPER) for j in range(SUPER)),
                        key=lambda p: p != (centre, centre))
        stack = np.stack([fine[i::SUPER, j::SUPER] for i, j in places])
        mixed = np.flatnonzero((stack != stack[0]).any(0))
        return stack[0], mixed, stack.reshape(len(places), -1).take(mixed, axis=1)

    def tiles(self, lefts, tops, width, height, colour):
        """Rectangles of one size at every crossing of `lefts` and `tops`."""
        width, height = max(0, round(width) - 1), max(0, round(height) - 1)
        for top in tops:
            for left in lefts:
                self._brush.rectangle((left, top, left + width, top + height), colour)


def _step(pixels):
    """The nearest size of a geometric scale with four steps an octave, so that soft masks can be reused."""
    return max(3, round(2 ** (round(math.log2(max(pixels, 2)) * 4) / 4)))


@lru_cache(maxsize=2048)
def _soft_ellipse(width, height, strength):
    small = 4                                          # drawn at 1/4 where large: it is blurred anyhow
    width, height = width * 5 // 4, height * 5 // 4
    scale = small if min(width, height) > 40 else 1
    mask = Image.new("L", (max(3, width // scale), max(3, height // scale)))
    w, h = mask.size
    ImageDraw.Draw(mask).ellipse((w * 0.12, h * 0.12, w * 0.88, h * 0.88), fill=round(strength * 12.75))
    return mask.filter(ImageFilter.GaussianBlur(max(0.6, h * 0.09))).resize((max(3, width), max(3, height)))


@lru_cache(maxsize=8192)
def tone(colour, factor, towards=(30, 36, 66), pull=0.0):
    """`colour` times `factor`, then pulled towards another colour; a tuple of three ints in 0..255."""
    r, g, b = colour
    p, q = pull, (1 - pull) * factor
    return (min(255, int(r * q + towards[0] * p)), min(255, int(g * q + towards[1] * p)),
            min(255, int(b * q + towards[2] * p)))


def mix(a, b, t):
    """Linear mix of two points: (x, y) of `a` at t = 0, of `b` at t = 1."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t
