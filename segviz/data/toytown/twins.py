"""The pair world: one sprite that is a car beside a petrol pump and a boat beside a buoy, and nothing else
tells.

Everything is drawn before its class is looked at, but for the beacon, whose box is the same for both. So two
pictures of one index that differ in class differ inside the beacon's box and nowhere else.
"""

import numpy as np
from PIL import Image

from segviz.data.toytown.light import ground_noise
from segviz.data.toytown.paint import BOAT, CAR, CLASSES, GRASS, POLE, SUPER, Canvas, tone
from segviz.data.toytown.plan import Dice

PAINTS = [(190, 92, 74), (214, 172, 96), (92, 132, 140), (222, 212, 192), (104, 120, 150), (150, 160, 124)]
MISTS = [(206, 212, 208), (214, 206, 200), (198, 206, 216), (212, 210, 194)]
LOOKS, CLASS_OF = 101, 102                # keys of two separate streams of chance: the look, and the class


def class_of(index, seed):
    """CAR or BOAT: of the scenes 2 k and 2 k + 1 always one each, which one by chance."""
    first = int(np.random.default_rng((seed, index // 2, CLASS_OF)).integers(2))
    return (CAR, BOAT)[(first + index) % 2]


def draw_pair(index, seed, height, width, distance, label):
    """(canvas, its samples, picture): the picture float32 (3, height, width) in 0..1."""
    unit = min(height, width)
    sprite = max(10, round(0.25 * unit)), max(6, round(0.13 * unit))            # width and height, pixels
    beacon = max(4, round(0.085 * unit)), max(8, round(0.19 * unit))
    room = width - sprite[0] - beacon[0] - (distance - 1)
    if room < 0:
        raise ValueError(f"distance must be at most {distance + room} in a picture {width} pixels wide, and "
                         f"it is {distance}: sprite and beacon take the rest. Ask for less or a larger size.")
    dice = Dice(seed, index, LOOKS)
    canvas = _misty_ground(dice, height, width)
    left, foot = dice.integer(room + 1), beacon[1] + 1 + dice.integer(height - beacon[1] - 2)
    beacon_first, facing = dice.chance(0.5), dice.choose((-1, 1))
    x_sprite = left + (beacon[0] + distance - 1 if beacon_first else 0)
    x_beacon = left + (0 if beacon_first else sprite[0] + distance - 1)
    _sprite(canvas, dice, x_sprite, foot, *sprite, facing, label)
    _beacon(canvas, x_beacon, foot, *beacon, label)
    picture = np.asarray(canvas.picture.reduce(SUPER)).transpose(2, 0, 1).astype(np.float32, order="C")
    return canvas, canvas.samples(), picture / 255


def _misty_ground(dice, height, width):
    """A canvas that is all meadow in mist: one surface, which says nothing of roads or of water."""
    canvas, mist, start = Canvas(height, width), dice.choose(MISTS), dice.integer(width)
    down = np.linspace(0.15, 1, height, dtype=np.float32)[:, None]
    light = 1 + 0.16 * down * ground_noise(height, 2 * width)[:, start:start + width]
    planes = [m * (1 - 0.55 * down) + g * 0.55 * down for m, g in zip(mist, (150, 164, 142), strict=True)]
    ground = np.stack([plane * light for plane in planes], -1).clip(0, 255).astype(np.uint8)
    canvas.picture.paste(Image.fromarray(ground).resize(canvas.picture.size, Image.Resampling.NEAREST))
    canvas.ids.paste(canvas.new_id(GRASS, float("inf"), is_object=False), (0, 0, *canvas.ids.size))
    return canvas


def _sprite(canvas, dice, x, foot, width, height, facing, label):
    """A body with a cabin: the hull of a boat or the coachwork of a car. Its outermost columns lie in the
    body's band."""
    id, paint = canvas.new_id(label, 20.0), dice.choose(PAINTS)
    cabin_at, cabin_wide, slope = dice.uniform(-0.10, 0.06), dice.uniform(0.46, 0.60), dice.uniform(0.05,
                                                                                                    0.14)

    def at(u, v):               # u in -1/2..1/2 across, turned to face either way; v from 0 at the foot to 1
        return (x + width * (0.5 + facing * u)) * SUPER, (foot - height * v) * SUPER

    canvas.shade(*at(0, 0.02), width * SUPER * 1.2, height * SUPER * 0.4, 0.4)
    a, b = cabin_at - cabin_wide / 2, cabin_at + cabin_wide / 2
    canvas.polygon([at(a, 0.5), at(a + 0.03, 0.98), at(b - slope, 0.98), at(b, 0.5)], tone(paint, 1.25), id)
    middle = (a + b - slope) / 2
    for first, last in ((a + 0.06, middle - 0.025), (middle + 0.025, b - slope)):
        canvas.polygon([at(first, 0.58), at(first, 0.88), at(last - 0.01, 0.88), at(last + 0.02, 0.58)],
                       (70, 88, 106))
    canvas.polygon([at(-0.45, 0.01), at(-0.5, 0.3), at(0.5, 0.3), at(0.40, 0.01)], tone(paint, 0.66), id)
    top, low = foot - round(height * 0.58), foot - round(height * 0.25)
    canvas.rectangle(x * SUPER, top * SUPER, (x + width) * SUPER, low * SUPER, paint, id)
    canvas.rectangle(x * SUPER, top * SUPER, (x + width) * SUPER, top * SUPER + 2, tone(paint, 1.3))


def _beacon(canvas, x, foot, width, height, label):
    """A buoy or a petrol pump, both as wide as their box from its foot to beyond the middle."""
    id = canvas.new_id(POLE, 20.0)
    left, right, top, low = x * SUPER, (x + width) * SUPER, (foot - height) * SUPER, foot * SUPER
    canvas.shade((left + right) / 2, low, (right - left) * 1.6, height * SUPER * 0.12, 0.35)
    (_buoy if label == BOAT else _pump)(canvas, id, left, right, top, low)


def _buoy(canvas, id, left, right, top, low):
    middle, waist, band = (left + right) / 2, low - 0.58 * (low - top), (low - top) * 0.145
    canvas.polygon([(left, waist), (middle - 2, top + band), (middle + 2, top + band), (right - 1, waist)],
                   (196, 50, 44), id)
    canvas.rectangle(left, waist, right, low, (196, 50, 44), id)
    for k in (0, 2):
        canvas.rectangle(left, low - (k + 1.8) * band, right, low - (k + 0.9) * band, (246, 240, 228))
    canvas.rectangle(middle - 2, top, middle + 2, top + band + 1, (250, 214, 120), id)


def _pump(canvas, id, left, right, top, low):
    tall, wide = low - top, right - left
    canvas.rectangle(left, top + 0.12 * tall, right, low, (52, 92, 112), id)
    canvas.rectangle(left + 0.1 * wide, top, right - 0.1 * wide, top + 0.12 * tall, (240, 196, 92), id)
    canvas.rectangle(left + 0.2 * wide, top + 0.22 * tall, right - 0.2 * wide, top + 0.46 * tall,
                     (226, 230, 222))
    canvas.rectangle(left + 0.2 * wide, low - 0.30 * tall, right - 0.2 * wide, low - 0.12 * tall,
                     (34, 60, 78))


def checked_label(label):
    """CAR or BOAT from "car", "boat" or the class's number."""
    for known in (CAR, BOAT):
        if label in (known, CLASSES[known]):
            return known
    raise ValueError(f'label must be "car", "boat" or None (by chance), and it is {label!r}.')
