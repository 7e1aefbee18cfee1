"""The light of Toytown: sky, haze, reflections and grain, put over the finished drawing.

All of it works on the small picture, pixel by pixel, which is why it can be rich and still cost little. The
order is that of the physics: things take the colour of the light, air lies between them and us, the sky is
behind everything, and water mirrors what stands above it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from segviz.data.toytown.paint import FLAT, SKY, SUPER, WATER


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


# ---- textures that are made once ---------------------------------------------------------------------------

def _value_noise(u, v, seed):
    """Smooth noise in -1..1 at real positions `u`, `v` (same shape), from a table of 64 x 64 random
    values."""
    table = np.random.default_rng(seed).uniform(-1, 1, (64, 64)).astype(np.float32)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = (u - i).astype(np.float32), (v - j).astype(np.float32)
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    i, j, k, n = i % 64, j % 64, (i + 1) % 64, (j + 1) % 64
    upper = table[j, i] * (1 - a) + table[j, k] * a
    return upper * (1 - b) + (table[n, i] * (1 - a) + table[n, k] * a) * b


@lru_cache(maxsize=16)
def ground_noise(height, width):
    """(height, width) noise lying on the ground in perspective, the horizon at row 0; float32, about
    -1..1."""
    t = ((np.arange(height) + 1.0) / height)[:, None]
    x = (np.arange(width)[None, :] / height - 0.5 * width / height) / t
    z = np.broadcast_to(1 / t, x.shape)
    noise = sum(a * _value_noise(x * f + 40 * a, z * f * 2.2, k) * np.clip(t * height / (2.5 * f), 0, 1)
                for k, (a, f) in enumerate(((0.45, 1.1), (0.35, 3.1), (0.35, 8.3), (0.3, 20.7))))
    return noise.astype(np.float32)


@lru_cache(maxsize=16)
def ripples(height, width):
    """(height, width) noise of flat, wide streaks that shrink towards the horizon at row 0; float32, about
    -1..1."""
    t = ((np.arange(height) + 1.0) / height)[:, None]
    x = np.arange(width)[None, :] / height / (0.25 + t) * 3
    z = np.broadcast_to(9 * np.log(t + 0.05), x.shape)
    noise = 0.7 * _value_noise(x, z * 2, 11) + 0.5 * _value_noise(2.3 * x, 4.4 * z, 12)
    return noise.astype(np.float32)


@lru_cache(maxsize=16)
def paper(height, width):
    """(height, width) fine grain, as of paper; float32, standard deviation about 1/255."""
    return np.random.default_rng(7).normal(0, 1.2 / 255, (height, width)).astype(np.float32)


@lru_cache(maxsize=64)
def _halo(radius, percent):
    d = np.hypot(*np.mgrid[-radius:radius + 1, -radius:radius + 1]) / radius
    return Image.fromarray((2.55 * percent * np.clip(1 - d, 0, 1) ** 2.2).astype(np.uint8))


@lru_cache(maxsize=256)
def _cloud(variant, width, flip):
    """(body, lit part): two masks of a heap of puffs on a flat foot, lit from the left, or from the right if
    `flip`."""
    masks = [mask.resize((max(4, width), max(2, width * mask.height // mask.width)),
                         Image.Resampling.BOX if width < mask.width else Image.Resampling.BICUBIC)
             for mask in _cloud_master(variant)]
    return [mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else mask for mask in masks]


@lru_cache(maxsize=16)
def _cloud_master(variant):
    rng, w, h = np.random.default_rng((31, variant)), 480, 200
    body, lit = Image.new("L", (w, h)), Image.new("L", (w, h))
    brush, light = ImageDraw.Draw(body), ImageDraw.Draw(lit)
    heads = rng.uniform(0.25, 0.75, 3)                   # where the heap towers
    for _ in range(64):
        x = rng.uniform(0.10, 0.90)
        tower = np.exp(-((x - heads) / 0.13) ** 2).max() * (1 - 2 * abs(x - 0.5)) + 0.10
        r = h * (0.05 + 0.13 * rng.random() * (0.4 + tower))
        y = h * 0.84 - r * 0.7 - h * 0.58 * rng.random() * tower
        brush.ellipse((x * w - 1.4 * r, y - r, x * w + 1.4 * r, y + r), fill=240)
        x, y, q = x * w - 0.22 * r, y - 0.24 * r, 0.94 * r
        light.ellipse((x - 1.4 * q, y - q, x + 1.4 * q, y + q), fill=235)
    brush.rectangle((0, h * 0.86, w, h), fill=0)
    lit = Image.composite(lit, Image.new("L", (w, h)), body)
    return body.filter(ImageFilter.GaussianBlur(3)), lit.filter(ImageFilter.GaussianBlur(5))


# ---- sky ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Sky:
    mood: Mood
    horizon: float          # row of the horizon, part of the height
    sun_x: float            # part of the width; its side is also where the light comes from
    haze: float             # 0 clear .. 1 misty
    clouds: tuple           # of (x, y, width, variant): parts of the picture's width and of the sky's height
    drift: float            # 0..1: where the noise textures begin


def paint_sky(sky, height, width):
    """The sky with its sun and clouds, an RGB image; below the horizon it goes on as haze."""
    mood = sky.mood
    rows = (np.arange(height, dtype=np.float32) + 0.5) / (height * sky.horizon)
    ramp = np.stack([np.interp(rows, (0, 0.55, 1), (a, b, c)) for a, b, c in
                     zip(mood.top, mood.middle, mood.horizon, strict=True)], axis=-1)
    image = Image.fromarray(np.broadcast_to(ramp[:, None].astype(np.uint8), (height, width, 3)).copy())
    size, foot = min(height, width), sky.horizon * height
    x, y = sky.sun_x * width, foot * (1 - mood.sun_height)
    for radius, strength in ((0.85, 0.55 * mood.glow), (0.3, 0.8 * mood.glow)):
        halo = _halo(max(2, round(radius * size)), round(min(1, strength) * 100))
        image.paste(mood.sun, _around(halo, x, y), halo)
    if mood.sun_height < 1:
        disc = _disc(max(2, round(0.036 * size)))
        image.paste(tuple(min(255, c + 8) for c in mood.sun), _around(disc, x, y), disc)
    for cx, cy, cw, variant in sky.clouds:
        body, lit = _cloud(variant, 8 * max(1, round(cw * width / 8)), sky.sun_x > 0.5)
        box = _around(body, cx * width, cy * foot)
        image.paste(mood.cloud_shade, box, body)
        image.paste(mood.cloud, box, lit)
    return image


@lru_cache(maxsize=64)
def _disc(radius):
    big = Image.new("L", (8 * radius + 8, 8 * radius + 8))
    ImageDraw.Draw(big).ellipse((4, 4, 8 * radius + 4, 8 * radius + 4), fill=255)
    return big.reduce(4)


def _around(mask, x, y):
    left, top = round(x - mask.width / 2), round(y - mask.height / 2)
    return left, top, left + mask.width, top + mask.height


# ---- everything together -----------------------------------------------------------------------------------
# Pictures are planar from here on, (3, H, W): numpy is several times faster where the long axis is the last.

def _planes(image):
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C") * np.float32(1 / 255)


def air(depth, sky):
    """How much of a thing at `depth` metres is lost in the haze, 0..1."""
    return 0.94 * (1 - np.exp(-depth * (0.0016 + 0.010 * sky.haze)))


def _covers(canvas, sky, samples):
    """What part of each pixel is sky, water, flat ground, and what part is lost in haze: four (H, W)."""
    middle, mixed, ids = samples
    labels, depths = np.array(canvas.labels), np.array(canvas.depths)
    flat = np.isin(labels, FLAT) & np.isinf(depths)
    upright = ~flat & (labels != SKY) & (labels != WATER)
    lost = np.where(upright, air(np.where(upright, depths, 0), sky), 0)
    for values in (labels == SKY, labels == WATER, flat, lost):
        table = values.astype(np.float32)
        cover = table.take(middle)
        cover.reshape(-1)[mixed] = table.take(ids).mean(0)
        yield cover


def illuminate(canvas, sky, camera, samples):
    """The finished picture: float32 (3, height, width) in 0..1. `camera` is the eye's height in metres,
    `samples` those of the canvas."""
    height, width = canvas.height, canvas.width
    mood, first = sky.mood, int(sky.horizon * height)
    behind, wet, flat, lost = _covers(canvas, sky, samples)
    heaven = _planes(paint_sky(sky, height, width))
    t = np.maximum((np.arange(height, dtype=np.float32) + 0.5) / height - sky.horizon, 0.004)
    lost += flat * air(camera / t, sky)[:, None]
    grain = np.zeros((height, width), np.float32)
    start = int(sky.drift * width)
    grain[first:] = ground_noise(height, 2 * width)[:height - first, start:start + width]
    grain *= flat

    picture = _planes(canvas.picture.reduce(SUPER))
    kept = 1 - lost / np.maximum(1 - behind - wet, 0.05)
    kept *= (1.05 - 0.20 * np.clip(t / t[-1], 0, 1) ** 2)[:, None]  # the near ground lies a little darker
    for plane, tint, haze, amount in zip(picture, mood.tint, mood.haze, (0.22, 0.17, 0.10), strict=True):
        plane *= kept * (tint + amount * tint * grain)  # light patches are warm, dark ones cool
        plane += lost * (haze / 255)
    picture += heaven * behind
    if wet.any():
        _fill_water(picture, heaven, behind, wet, sky, first, samples[0])
    if mood.lamps and canvas.glows:
        picture += _lamplight(canvas, mood)
    picture += paper(height, width)
    return picture.clip(0, 1, out=picture)


def _fill_water(picture, heaven, behind, wet, sky, first, ids):
    """Add what the water shows: a boat turned over at its own foot, the far shore at the first water below
    it, the sky at the horizon; stirred by ripples, with glints of the sun. Works on `picture` in place,
    where water is still black.
    """
    height, width = wet.shape
    size, covered = min(height, width), wet > 0.5
    top = max(1, int(covered.any(1).argmax()))
    left, right = int((wet > 0).any(0).argmax()), width - int((wet > 0).any(0)[::-1].argmax())
    rows, columns = np.arange(top, height)[:, None], np.arange(left, right)[None, :]
    start = int(sky.drift * width) + left
    wave = ripples(height, 2 * width)[max(0, top - first):][:height - top, start:start + right - left]
    reach = (rows - top + 2.0).astype(np.float32) / (height - top)
    shake_up = (wave * (reach * np.float32(0.08 * size))).astype(np.intp)
    across = columns + (wave * ((0.3 + reach) * np.float32(0.020 * size))).astype(np.intp)
    across = across.clip(0, width - 1)

    shore = np.maximum.accumulate(np.where(covered[top:, left:right], top - 1, rows), axis=0)
    coast = np.where(covered[:, left:right].any(0), covered[:, left:right].argmax(0), height) - 1
    thing = (2 * shore - rows + 1 + shake_up).clip(0, height - 1) * width + across
    behind_it = (2 * coast - rows + 1 + shake_up).clip(0, height - 1) * width + across
    same = ids.take(thing) == ids.take(shore * width + columns)
    thing = np.where(same, thing, behind_it)
    above = (2 * first - rows + 2 * shake_up).clip(0, max(first - 1, 0)) * width + across
    is_open = (behind + wet > 0.5).take(thing)
    solid = 1 / np.maximum(1 - wet, 0.3)
    depth, light = 0.14 + 0.40 * reach, 1 + np.float32(0.10) * wave
    path = np.exp(-((columns - sky.sun_x * width) / (0.15
                                                     * width)) ** 2).astype(np.float32) * sky.mood.glow + 0.16
    glint = np.clip(wave - np.float32(0.40), 0, 0.3) * (2.4 * path)
    near, own, part = (1 - depth) * light, depth * light / 255, wet[top:, left:right]
    for plane, air_plane, water, sun in zip(picture, heaven, sky.mood.water, sky.mood.sun, strict=True):
        seen = np.where(is_open, air_plane.take(above), (plane * solid).take(thing))
        plane[top:, left:right] += (seen * near + water * own + (sun / 255) * glint) * part


def _lamplight(canvas, mood):
    """Warm light around lamps and lit windows: float32 (3, height, width) to add."""
    glow, size = Image.new("L", (canvas.width, canvas.height)), min(canvas.width, canvas.height)
    brush = ImageDraw.Draw(glow)
    for x, y, r, strength in canvas.glows:
        x, y, r = x / SUPER, y / SUPER, r / SUPER
        far = min(1.0, r / (0.010 * size)) ** 2  # a small light far away must not shine like a near one
        r = max(0.5, r)
        brush.ellipse((x - r, y - r, x + r, y + r), fill=round(255 * strength * far))
    near = np.asarray(glow.filter(ImageFilter.GaussianBlur(size / 60)), np.float32)
    wide = np.asarray(glow.filter(ImageFilter.BoxBlur(size / 16)), np.float32)
    return (near * 0.62 + wide * 0.9) * (mood.lamps / 255) * np.array([1.0, 0.74, 0.40],
                                                                      np.float32).reshape(3, 1, 1)
