"""The light of Toytown: sky, haze, reflections and grain, put over the finished drawing.

All of it works on the small picture, pixel by pixel, which is why it can be rich and still cost little. The order is that
of the physics: things take the colour of the light, air lies between them and us, the sky is behind everything, and
water mirrors what stands above it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from segviz.data.paint import FLAT, SKY, SUPER, WATER


@dataclass(frozen=True)
class Mood:
    """A time of day. Colours are sRGB in 0..255; `tint` multiplies whatever the light falls on."""
    name: str
    top: tuple
    middle: tuple
    horizon: tuple
    haze: tuple
    sun: tuple
    tint: tuple
    cloud: tuple          # lit side
    cloud_shade: tuple
    water: tuple          # what deep water adds of its own
    sun_height: float     # above the horizon, part of the sky; over 1 is out of the picture
    glow: float           # how strong the sun's halo is
    shadow: float         # length of ground shadows, in heights of what casts them
    lamps: float          # how bright lamps and windows are


MOODS = (
    Mood("morning", (104, 164, 200), (184, 214, 218), (252, 230, 204), (240, 224, 206), (255, 240, 206),
         (1.03, 0.97, 0.90), (255, 247, 236), (206, 206, 218), (58, 118, 136), 0.46, 0.75, 0.9, 0.0),
    Mood("noon", (52, 130, 192), (122, 184, 220), (214, 234, 236), (196, 220, 230), (255, 252, 236),
         (1.02, 1.02, 0.98), (255, 255, 252), (188, 206, 224), (34, 104, 140), 1.4, 0.25, 0.3, 0.0),
    Mood("golden hour", (88, 126, 170), (232, 190, 146), (255, 216, 146), (248, 202, 150), (255, 244, 200),
         (1.12, 0.93, 0.72), (255, 226, 180), (196, 150, 150), (66, 92, 116), 0.22, 1.0, 1.5, 0.15),
    Mood("dusk", (42, 52, 104), (122, 94, 146), (244, 160, 122), (178, 130, 156), (255, 214, 160),
         (0.62, 0.58, 0.78), (240, 150, 136), (104, 86, 140), (40, 48, 92), 0.06, 0.8, 0.0, 1.0),
    Mood("soft day", (134, 168, 186), (190, 208, 212), (232, 232, 222), (216, 222, 220), (255, 250, 240),
         (0.95, 0.97, 0.96), (246, 246, 242), (186, 196, 204), (70, 112, 122), 1.4, 0.2, 0.0, 0.0),
)


# ---- textures that are made once --------------------------------------------------------------------------------

def _value_noise(u, v, seed):
    """Smooth noise in -1..1 at real positions `u`, `v` (same shape), from a table of 64 x 64 random values."""
    table = np.random.default_rng(seed).uniform(-1, 1, (64, 64)).astype(np.float32)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - i).astype(np.float32), (v - j).astype(np.float32)
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, j, k, n = i % 64, j % 64, (i + 1) % 64, (j + 1) % 64
    upper = table[j, i] * (1 - a) + table[j, k] * a
    return upper * (1 - b) + (table[n, i] * (1 - a) + table[n, k] * a) * b


@lru_cache(maxsize=16)
def ground_noise(height, width):
    """(height, width) noise lying on the ground in perspective, the horizon at row 0; float32, about -1..1."""
    t = ((np.arange(height) + 1.0) / height)[:, None]
    x = (np.arange(width)[None, :] / height - 0.5 * width / height) / t
    z = np.broadcast_to(1 / t, x.shape)
    noise = sum(a * _value_noise(x * f + 40 * a, z * f * 2.2, k) * np.clip(t * height / (2.5 * f), 0, 1)
                for k, (a, f) in enumerate(((0.45, 1.1), (0.35, 3.1), (0.35, 8.3), (0.3, 20.7))))
    return noise.astype(np.float32)


@lru_cache(maxsize=16)
def ripples(height, width):
    """(height, width) noise of flat, wide streaks that shrink towards the horizon at row 0; float32, about -1..1."""
    t = ((np.arange(height) + 1.0) / height)[:, None]
    x = np.arange(width)[None, :] / height / (0.25 + t) * 3
    z = np.broadcast_to(9 * np.log(t + 0.05), x.shape)
    noise = 0.7 * _value_noise(x, z * 2, 11) + 0.5 * _value_noise(2.3 * x, 4.4 * z, 12)
    return noise.astype(np.float32)


@lru_cache(maxsize=16)
def paper(height, width):
    """(height, width, 1) fine grain, as of paper; float32, standard deviation 1/255."""
    return np.random.default_rng(7).normal(0, 1.2 / 255, (height, width, 1)).astype(np.float32)


@lru_cache(maxsize=64)
def _halo(radius):
    size = 2 * radius + 1
    d = np.hypot(*np.mgrid[-radius:radius + 1, -radius:radius + 1]) / radius
    return Image.fromarray((255 * np.clip(1 - d, 0, 1) ** 2.2).astype(np.uint8).reshape(size, size))


@lru_cache(maxsize=256)
def _cloud(variant, width):
    """(body, lit part): two soft masks of a heap of puffs on a flat foot, lit from the left."""
    rng = np.random.default_rng((31, variant))
    w, h = 240, 90
    body, lit = Image.new("L", (w, h)), Image.new("L", (w, h))
    brush, light = ImageDraw.Draw(body), ImageDraw.Draw(lit)
    for _ in range(26):
        x = rng.uniform(0.14, 0.86)
        r = h * rng.uniform(0.12, 0.30) * (1 - 1.5 * abs(x - 0.5))
        y = h * 0.80 - r * rng.uniform(0.5, 1.0) - h * 0.34 * rng.random() * np.cos((x - 0.5) * np.pi)
        brush.ellipse((x * w - 1.5 * r, y - r, x * w + 1.5 * r, y + r), fill=235)
        q = 0.86 * r
        light.ellipse((x * w - 0.3 * r - 1.5 * q, y - 0.22 * r - q, x * w - 0.3 * r + 1.5 * q, y - 0.22 * r + q), fill=225)
    brush.rectangle((0, h * 0.82, w, h), fill=0)
    size = (max(4, width), max(2, width * h // w))
    return tuple(m.filter(ImageFilter.GaussianBlur(3.5)).resize(size, Image.Resampling.BOX if width < w else Image.Resampling.BICUBIC)
                 for m in (body, Image.composite(lit, Image.new("L", (w, h)), body)))


# ---- sky -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Sky:
    mood: Mood
    horizon: float          # row of the horizon, part of the height
    sun_x: float            # part of the width; its side is also where the light comes from
    haze: float             # 0 clear .. 1 misty
    clouds: tuple           # of (x, y, width, variant): parts of the picture's width and of the sky's height
    drift: float            # 0..1: where the noise textures begin


def paint_sky(sky, height, width):
    """The sky with its sun and clouds: float32 (height, width, 3) in 0..1; below the horizon it goes on as haze."""
    mood = sky.mood
    rows = (np.arange(height, dtype=np.float32) + 0.5) / (height * sky.horizon)
    ramp = np.stack([np.interp(rows, (0, 0.55, 1), (a, b, c)) for a, b, c in
                     zip(mood.top, mood.middle, mood.horizon, strict=True)], axis=-1)
    image = Image.fromarray(np.broadcast_to(ramp[:, None].astype(np.uint8), (height, width, 3)).copy())
    size, foot = min(height, width), sky.horizon * height
    x, y = sky.sun_x * width, foot * (1 - mood.sun_height)
    for radius, strength in ((0.85, 0.55 * mood.glow), (0.3, 0.8 * mood.glow)):
        halo = _halo(max(2, round(radius * size)))
        if strength < 1:
            halo = halo.point(_fade(round(strength * 100)))
        image.paste(mood.sun, _around(halo, x, y), halo)
    if mood.sun_height < 1:
        disc = _disc(max(2, round(0.036 * size)))
        image.paste(tuple(min(255, c + 8) for c in mood.sun), _around(disc, x, y), disc)
    for cx, cy, cw, variant in sky.clouds:
        body, lit = _cloud(variant, 8 * max(1, round(cw * width / 8)))
        if sky.sun_x > 0.5:
            body, lit = _flipped_cloud(variant, 8 * max(1, round(cw * width / 8)))
        box = _around(body, cx * width, cy * foot)
        image.paste(mood.cloud_shade, box, body)
        image.paste(mood.cloud, box, lit)
    return np.asarray(image, np.float32) * np.float32(1 / 255)


@lru_cache(maxsize=256)
def _flipped_cloud(variant, width):
    return tuple(m.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for m in _cloud(variant, width))


@lru_cache(maxsize=128)
def _fade(percent):
    return [v * percent // 100 for v in range(256)]


@lru_cache(maxsize=64)
def _disc(radius):
    big = Image.new("L", (8 * radius + 8, 8 * radius + 8))
    ImageDraw.Draw(big).ellipse((4, 4, 8 * radius + 4, 8 * radius + 4), fill=255)
    return big.reduce(4)


def _around(mask, x, y):
    left, top = round(x - mask.width / 2), round(y - mask.height / 2)
    return left, top, left + mask.width, top + mask.height


# ---- everything together -------------------------------------------------------------------------------------------

def _cover(canvas, values):
    """Mean over each pixel's samples of `values[id]` (a list, 0..1): float32 (height, width)."""
    table = [round(255 * v) for v in values] + [0] * (256 - len(values))
    return np.asarray(canvas.ids.point(table).reduce(SUPER), np.float32) * np.float32(1 / 255)


def air(depth, sky):
    """How much of a thing at `depth` metres is lost in the haze, 0..1."""
    return 0.94 * (1 - np.exp(-depth * (0.0022 + 0.011 * sky.haze)))


def illuminate(canvas, sky, camera):
    """The finished picture: float32 (height, width, 3) in 0..1. `camera` is the eye's height in metres."""
    height, width = canvas.height, canvas.width
    mood, labels = sky.mood, canvas.labels
    picture = np.asarray(canvas.picture.reduce(SUPER), np.float32) * np.float32(1 / 255)
    heaven = paint_sky(sky, height, width)
    behind = _cover(canvas, [label == SKY for label in labels])
    wet = _cover(canvas, [label == WATER for label in labels])
    flat = _cover(canvas, [label in FLAT and not np.isfinite(depth) for label, depth in zip(labels, canvas.depths, strict=True)])
    lost = _cover(canvas, [0 if label in (SKY, WATER) or not np.isfinite(depth) else air(depth, sky)
                           for label, depth in zip(labels, canvas.depths, strict=True)])

    first = int(sky.horizon * height)
    t = np.maximum((np.arange(height, dtype=np.float32) + 0.5) / height - sky.horizon, 0.004)
    lost += flat * air(camera / t, sky)[:, None].astype(np.float32)
    grain = np.zeros((height, width), np.float32)
    grain[first:] = np.roll(ground_noise(height, width)[:height - first], round(sky.drift * width), axis=1)
    light = 1 + 0.17 * flat * grain
    light *= (1.04 - 0.16 * np.clip(t / t[-1], 0, 1) ** 2)[:, None]       # the near ground lies a little darker

    kept = (light * (1 - lost / np.maximum(1 - behind - wet, 0.05)).clip(0, 1))[..., None]
    picture = picture * kept * np.asarray(mood.tint, np.float32)
    picture += lost[..., None] * (np.asarray(mood.haze, np.float32) / 255) + heaven * behind[..., None]
    if wet.any():
        picture += wet[..., None] * _mirror(picture, heaven, wet, sky, first)
    if mood.lamps and canvas.glows:
        picture += _lamplight(canvas, mood)
    picture += paper(height, width)
    return picture.clip(0, 1)


def _mirror(picture, heaven, wet, sky, first):
    """What the water shows: the picture above each shore turned over, stirred by ripples, with glints of the sun."""
    height, width = wet.shape
    top = max(0, int((wet > 0.5).any(1).argmax()) - 1)
    rows, columns = np.arange(top, height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)[None, :]
    wave = np.roll(ripples(height, width)[max(0, top - first):], round(sky.drift * width), axis=1)[:height - top]
    shore = np.maximum.accumulate(np.where(wet[top:] < 0.5, rows, top - 1), axis=0)
    reach = (rows - top + 2.0) / (height - top)
    size = min(height, width)
    up = 2 * shore - rows + 1 + (wave * reach * 0.10 * size).astype(np.int32)
    across = columns + (wave * (0.3 + reach) * 0.022 * size).astype(np.int32)
    dry = np.where(wet[..., None] > 0.5, heaven, picture)      # water mirrored in water: the sky, again
    seen = dry[up.clip(0, height - 1), across.clip(0, width - 1)]
    depth = (0.16 + 0.42 * reach)[..., None].astype(np.float32)
    colour = seen * (1 - depth) + np.asarray(sky.mood.water, np.float32) / 255 * depth
    colour *= (1 + 0.09 * wave)[..., None]
    path = np.exp(-((columns - sky.sun_x * width) / (0.16 * width)) ** 2) * sky.mood.glow + 0.10
    glint = np.clip(wave - 0.42, 0, 0.3) * path * 2.6
    colour += glint[..., None] * (np.asarray(sky.mood.sun, np.float32) / 255)
    result = np.zeros_like(picture)
    result[top:] = colour
    return result


def _lamplight(canvas, mood):
    """Warm light around lamps and lit windows: float32 (height, width, 3) to add."""
    glow = Image.new("L", (canvas.width, canvas.height))
    brush = ImageDraw.Draw(glow)
    for x, y, r, strength in canvas.glows:
        x, y, r = x / SUPER, y / SUPER, max(0.6, r / SUPER)
        brush.ellipse((x - r, y - r, x + r, y + r), fill=round(255 * strength))
    near = np.asarray(glow.filter(ImageFilter.GaussianBlur(min(canvas.width, canvas.height) / 48)), np.float32)
    wide = np.asarray(glow.filter(ImageFilter.BoxBlur(min(canvas.width, canvas.height) / 14)), np.float32)
    light = (near * 0.9 + wide * 1.2) * (mood.lamps / 255)
    return light[..., None] * np.array([1.0, 0.74, 0.40], np.float32)
