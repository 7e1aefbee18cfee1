"""Trees, cars and boats of Toytown: drawn once, large, then kept at every size that a scene asks for.

A sprite is lit from the left; a scene with the sun on the right flips it. Masters are 192 pixels high at
most, drawn twice as fine. Sizes follow a geometric scale of four steps an octave, so that a few hundred
small images serve all scenes.
"""

import math
import random
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw

FINE = 2            # masters are drawn this much finer, then reduced
MASTER = 192        # height of a master, pixels
STEPS = 4           # sizes an octave
SOLID = [0] * 110 + [255] * 146         # from this alpha on a pixel belongs to the thing


class Sprite(NamedTuple):
    colour: Image.Image     # RGB
    alpha: Image.Image      # L: soft edge, for the picture
    solid: Image.Image      # 1: where alpha is 110 of 255 or more, for the ids


@lru_cache(maxsize=4096)
def _sized(kind, variant, flip, step):
    height = max(2, round(2 ** (step / STEPS)))
    master = _master(kind, variant)
    width = max(1, round(master.width * height / master.height))
    halvings = max(0, int(math.log2(master.height / height)))
    image = _halved(kind, variant, min(halvings, 4)).resize((width, height),
                                                            Image.Resampling.BILINEAR).convert("RGBA")
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    alpha = image.getchannel("A")
    return Sprite(image.convert("RGB"), alpha, alpha.point(SOLID, "1"))


def sprite(kind, variant, height, flip=False):
    """The sprite of `kind` ("tree", "car side", ...) nearest to `height` fine pixels; `variant` is taken
    modulo."""
    step = round(math.log2(max(height, 2)) * STEPS)
    return _sized(kind, variant % VARIANTS[kind], flip, step)


@lru_cache(maxsize=1024)
def _halved(kind, variant, times):
    """The master at 1 / 2**times of its size, its colours already multiplied by alpha, as resizing wants
    them."""
    return _master(kind, variant).convert("RGBa") if times == 0 else _halved(kind, variant,
                                                                             times - 1).reduce(2)


@lru_cache(maxsize=256)
def _master(kind, variant):
    return DRAWERS[kind](variant)


# ---- trees -------------------------------------------------------------------------------------------------

LEAVES = [   # dark, middle, light, sparkle
    ((34, 66, 58), (62, 104, 66), (112, 146, 78), (168, 186, 104)),
    ((30, 70, 66), (52, 108, 84), (94, 150, 100), (150, 190, 128)),
    ((52, 72, 44), (92, 112, 54), (146, 154, 76), (196, 192, 108)),
    ((26, 56, 58), (42, 88, 74), (80, 124, 84), (130, 164, 104)),
    ((108, 58, 40), (168, 92, 46), (214, 140, 62), (240, 190, 104)),      # an autumn one
    ((132, 76, 92), (186, 116, 128), (226, 168, 168), (248, 212, 204)),   # one in blossom
]
TRUNK, TRUNK_LIT = (74, 56, 50), (128, 98, 76)


def _clumps(draw, rng, blobs, tones, size):
    """Layers of foliage over `blobs` (x, y, r): dark below, then lighter, smaller and nearer to the light."""
    for x, y, r in blobs:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tones[0])
    for level, (tone, shrink, count) in enumerate(zip(tones[1:], (0.34, 0.25, 0.07), (9, 9, 16),
                                                      strict=True), 1):
        for x, y, r in blobs:
            for _ in range(count):
                a, d = rng.uniform(0, 2 * math.pi), r * math.sqrt(rng.random()) * (0.80 - 0.13 * level)
                cx, cy = x + d * math.cos(a) - 0.15 * level * r, y + d * math.sin(a) - 0.17 * level * r
                q = r * shrink * rng.uniform(0.6, 1.15)
                draw.ellipse((cx - q, cy - 0.82 * q, cx + q, cy + 0.82 * q), fill=tone)
    for x, y, r in blobs:       # a few dark hollows on the far side of the light
        for _ in range(5):
            cx, cy = x + r * rng.uniform(0.15, 0.75), y + r * rng.uniform(0.0, 0.6)
            q = size * rng.uniform(0.008, 0.022)
            draw.ellipse((cx - q, cy - q, cx + q, cy + q), fill=tones[0])


def _blank(width, height):
    image = Image.new("RGBA", (round(width * FINE), round(height * FINE)))
    return image, ImageDraw.Draw(image)


def _finish(image):
    return image.reduce(FINE)


def _trunk(draw, x, top, foot, width):
    draw.polygon([(x - width / 2, top), (x + width / 2, top), (x + width * 0.8, foot),
                  (x - width * 0.8, foot)],
                 fill=TRUNK)
    draw.polygon([(x - width / 2, top), (x - width * 0.1, top), (x - width * 0.2, foot),
                  (x - width * 0.8, foot)],
                 fill=TRUNK_LIT)


def _round_tree(variant):
    rng = random.Random(f"round tree {variant}")
    image, draw = _blank(MASTER * rng.uniform(0.78, 0.98), MASTER)
    w, h = image.size
    _trunk(draw, w / 2, h * 0.5, h, h * 0.05)
    blobs = [(w * 0.5, h * 0.36, w * 0.34)]
    for k in range(7):
        a = math.pi * (0.05 + 0.9 * k / 6)
        r = w * rng.uniform(0.17, 0.24)
        blobs.append((w / 2 - math.cos(a) * (w * 0.48 - r), h * 0.42 - math.sin(a) * (h * 0.39 - r), r))
    blobs += [(w * 0.32, h * 0.55, w * 0.18), (w * 0.66, h * 0.56, w * 0.19)]
    rng.shuffle(blobs)
    blobs.sort(key=lambda b: -b[1] + b[2])
    _clumps(draw, rng, blobs, LEAVES[variant % len(LEAVES)], w)
    return _finish(image)


def _tall_tree(variant):
    """A poplar or a cypress: a flame."""
    rng = random.Random(f"tall tree {variant}")
    image, draw = _blank(MASTER * rng.uniform(0.27, 0.36), MASTER)
    w, h = image.size
    _trunk(draw, w / 2, h * 0.8, h, h * 0.03)
    blobs = []
    for k in range(9):
        t = k / 8
        r = w * (0.16 + 0.3 * math.sin(math.pi * min(1, 0.12 + 0.8 * t)) ** 0.8) * 0.98
        blobs.append((w / 2 + rng.uniform(-0.04, 0.04) * w, h * (0.09 + 0.74 * t), min(r, w * 0.47)))
    _clumps(draw, rng, blobs[::-1], LEAVES[(0, 3, 1, 2)[variant % 4]], w)
    return _finish(image)


def _pine(variant):
    rng = random.Random(f"pine {variant}")
    image, draw = _blank(MASTER * rng.uniform(0.48, 0.6), MASTER)
    w, h = image.size
    dark, middle, light, sparkle = LEAVES[(3, 1)[variant % 2]]
    _trunk(draw, w / 2, h * 0.85, h, h * 0.04)
    for k in range(6, -1, -1):
        top, foot, half = h * (0.01 + 0.118 * k), h * (0.25 + 0.108 * k), w * (0.16 + 0.052 * k)
        rim = [(w / 2 + half * (1 - 2 * j / 8), foot - h * (0.03 if j % 2 else 0) * rng.uniform(0.6, 1.3))
               for j in range(9)]
        draw.polygon([(w / 2, top), *rim], fill=middle)
        draw.polygon([(w / 2, top), *rim[:4], (w / 2 + half * 0.06, foot - h * 0.05)], fill=dark)
        draw.polygon([(w / 2, top), (w / 2 - half * 0.34, foot - h * 0.04), rim[7], rim[8]], fill=light)
        draw.line([(w / 2 - 1, top + h * 0.03), (w / 2 - half * 0.7, foot - h * 0.03)], fill=sparkle, width=2)
    return _finish(image)


def _bush(variant):
    rng = random.Random(f"bush {variant}")
    image, draw = _blank(MASTER * 0.8, MASTER * 0.5)
    w, h = image.size
    blobs = [(w * x, h * (1 - y), h * r) for x, y, r in
             ((0.24, 0.34, 0.32), (0.76, 0.34, 0.32), (0.38, 0.52, 0.4), (0.62, 0.5, 0.4), (0.5, 0.36, 0.36))]
    _clumps(draw, rng, blobs, LEAVES[variant % 4], w)
    return _finish(image)


# ---- cars --------------------------------------------------------------------------------------------------

PAINTS = [(188, 62, 52), (226, 176, 82), (236, 228, 210), (58, 122, 128), (52, 72, 112), (206, 122, 78),
          (150, 176, 172)]
GLASS, GLASS_LIT, TYRE, HUB = (52, 72, 92), (150, 182, 196), (36, 36, 44), (176, 172, 164)


def _lit(colour, factor):
    return tuple(max(0, min(255, round(c * factor + (12 if factor > 1 else 0)))) for c in colour)


def _wheel(draw, x, y, r):
    draw.ellipse((x - r, y - r, x + r, y + r), fill=TYRE)
    draw.ellipse((x - r * 0.5, y - r * 0.5, x + r * 0.5, y + r * 0.5), fill=HUB)


def _car_side(variant):
    """Facing right; four bodies (small car, saloon, beetle, van) in seven paints."""
    body, paint = variant % 4, PAINTS[(variant // 4 + variant) % len(PAINTS)]
    image, draw = _blank(MASTER, MASTER * (0.42, 0.36, 0.44, 0.50)[body])
    w, h = image.size
    cabin = (
        [(0.08, 0.42), (0.16, 0.05), (0.60, 0.03), (0.80, 0.42)],
        [(0.15, 0.44), (0.28, 0.08), (0.62, 0.06), (0.80, 0.44)],
        [(0.14, 0.48), (0.22, 0.16), (0.38, 0.03), (0.54, 0.04), (0.68, 0.20), (0.76, 0.48)],
        [(0.03, 0.60), (0.04, 0.06), (0.08, 0.02), (0.78, 0.02), (0.90, 0.46), (0.90, 0.60)],
    )[body]
    draw.polygon([(x * w, y * h) for x, y in cabin], fill=_lit(paint, 1.08))
    belt = (0.40, 0.42, 0.44, 0.50)[body]
    draw.rounded_rectangle((w * 0.015, h * belt, w * 0.985, h * 0.86), radius=h
                           * (0.13, 0.12, 0.2, 0.08)[body], fill=paint)
    draw.rectangle((w * 0.05, h * 0.68, w * 0.95, h * 0.86), fill=_lit(paint, 0.72))
    draw.rectangle((w * 0.05, h * (belt + 0.03), w * 0.93, h * (belt + 0.07)), fill=_lit(paint, 1.22))
    panes = (
        [[(0.14, 0.40), (0.20, 0.12), (0.38, 0.11), (0.38, 0.40)],
         [(0.42, 0.40), (0.42, 0.11), (0.58, 0.10), (0.74, 0.40)]],
        [[(0.21, 0.42), (0.31, 0.15), (0.44, 0.14), (0.44, 0.42)],
         [(0.47, 0.42), (0.47, 0.14), (0.60, 0.14), (0.74, 0.42)]],
        [[(0.20, 0.44), (0.26, 0.20), (0.40, 0.11), (0.40, 0.44)],
         [(0.44, 0.44), (0.44, 0.11), (0.54, 0.12), (0.70, 0.44)]],
        [[(0.07, 0.42), (0.07, 0.12), (0.24, 0.12), (0.24, 0.42)],
         [(0.29, 0.42), (0.29, 0.12), (0.48, 0.12), (0.48, 0.42)],
         [(0.54, 0.42), (0.54, 0.12), (0.75, 0.12), (0.85, 0.42)]],
    )[body]
    for pane in panes:
        points = [(x * w, y * h) for x, y in pane]
        draw.polygon(points, fill=GLASS)
        (ax, ay), (bx, by), (cx, _), _ = points
        draw.polygon([(ax, ay), (bx, by), (bx + (cx - bx) * 0.45, by), (ax + (cx - ax) * 0.15, ay)],
                     fill=GLASS_LIT)
    draw.rectangle((w * 0.94, h * 0.52, w * 0.985, h * 0.62), fill=(250, 236, 190))
    draw.rectangle((w * 0.015, h * 0.52, w * 0.04, h * 0.62), fill=(196, 60, 48))
    r = h * (0.185, 0.19, 0.19, 0.16)[body]
    for x in (0.22, 0.78):
        draw.ellipse((x * w - r * 1.2, h - 2.3 * r, x * w + r * 1.2, h), fill=_lit(paint, 0.45))
        _wheel(draw, x * w, h - r, r)
    return _finish(image)


def _car_end(variant):
    """Seen from behind (even variants) or from the front (odd ones)."""
    front, paint = variant % 2, PAINTS[(variant // 2) % len(PAINTS)]
    van = (variant // 2) % 3 == 2
    image, draw = _blank(MASTER * (0.9 if van else 1.05), MASTER)
    w, h = image.size
    for x in (0.08, 0.74):
        draw.rounded_rectangle((w * x, h * 0.7, w * (x + 0.18), h), radius=w * 0.05, fill=TYRE)
    roof = 0.14 if van else 0.2
    draw.polygon([(w * 0.06, h * 0.5), (w * roof, h * 0.06), (w * (roof + 0.04), h * 0.02),
                  (w * (0.96 - roof), h * 0.02),
                  (w * (1 - roof), h * 0.06), (w * 0.94, h * 0.5)], fill=_lit(paint, 1.1))
    draw.polygon([(w * 0.14, h * 0.46), (w * (roof + 0.05), h * 0.11), (w * (0.95 - roof), h * 0.11),
                  (w * 0.86, h * 0.46)],
                 fill=GLASS)
    draw.polygon([(w * 0.14, h * 0.46), (w * (roof + 0.05), h * 0.11), (w * 0.46, h * 0.11),
                  (w * 0.3, h * 0.46)],
                 fill=GLASS_LIT)
    draw.rounded_rectangle((w * 0.02, h * 0.46, w * 0.98, h * 0.88), radius=h * 0.09, fill=paint)
    draw.rectangle((w * 0.05, h * 0.49, w * 0.95, h * 0.53), fill=_lit(paint, 1.2))
    draw.rectangle((w * 0.04, h * 0.74, w * 0.96, h * 0.87), fill=_lit(paint, 0.62))
    draw.rectangle((w * 0.36, h * 0.72, w * 0.64, h * 0.82), fill=(226, 222, 208))
    lamp = (252, 238, 196) if front else (206, 52, 44)
    for x in (0.06, 0.78):
        draw.rounded_rectangle((w * x, h * 0.57, w * (x + 0.16), h * 0.7), radius=h * 0.04, fill=lamp)
    return _finish(image)


# ---- boats -------------------------------------------------------------------------------------------------

HULLS = [(232, 224, 206), (178, 66, 54), (44, 82, 104), (222, 170, 84), (70, 124, 116), (244, 240, 230)]
SAILS = [((250, 244, 228), (214, 206, 204)), ((214, 104, 70), (168, 76, 66)),
         ((246, 214, 140), (206, 166, 110))]
WOOD = (150, 104, 70)


def _hull(draw, w, h, top, colour, bow=0.10, stern=0.06):
    """A hull over the whole width, bow to the right, from `top` (part of h) to the waterline."""
    draw.polygon([(0, h * top), (w * 0.97, h * (top - 0.02)), (w, h * (top - 0.03)),
                  (w * (1 - bow), h * 0.995), (w * stern, h * 0.995)],
                 fill=colour)
    draw.polygon([(w * stern * 0.7, h * (top + 0.6 * (1 - top))),
                  (w * (1 - bow * 0.6), h * (top + 0.6 * (1 - top))),
                  (w * (1 - bow), h * 0.995), (w * stern, h * 0.995)], fill=_lit(colour, 0.66))
    draw.polygon([(0, h * top), (w, h * (top - 0.03)), (w * 0.99, h * (top + 0.012)),
                  (w * 0.005, h * (top + 0.03))], fill=_lit(colour, 1.25))


def _sailing_boat(variant):
    image, draw = _blank(MASTER * 0.74, MASTER)
    w, h = image.size
    light, dark = SAILS[variant % 3]
    draw.line([(w * 0.48, h * 0.02), (w * 0.48, h * 0.86)], fill=WOOD, width=round(w * 0.025))
    draw.polygon([(w * 0.45, h * 0.03), (w * 0.45, h * 0.79), (w * 0.02, h * 0.79), (w * 0.2, h * 0.5)],
                 fill=light)
    draw.polygon([(w * 0.45, h * 0.03), (w * 0.45, h * 0.79), (w * 0.3, h * 0.79), (w * 0.4, h * 0.42)],
                 fill=_lit(light, 0.93))
    draw.polygon([(w * 0.52, h * 0.10), (w * 0.95, h * 0.80), (w * 0.52, h * 0.76)], fill=dark)
    _hull(draw, w, h, 0.86, HULLS[variant % len(HULLS)], bow=0.2, stern=0.1)
    return _finish(image)


def _motor_boat(variant):
    image, draw = _blank(MASTER, MASTER * 0.46)
    w, h = image.size
    colour = HULLS[variant % len(HULLS)]
    draw.polygon([(w * 0.22, h * 0.56), (w * 0.26, h * 0.14), (w * 0.56, h * 0.14), (w * 0.72, h * 0.56)],
                 fill=(246, 242, 230))
    draw.polygon([(w * 0.22, h * 0.14), (w * 0.25, h * 0.05), (w * 0.56, h * 0.05), (w * 0.60, h * 0.14)],
                 fill=_lit(colour, 0.85))
    draw.polygon([(w * 0.29, h * 0.40), (w * 0.31, h * 0.2), (w * 0.41, h * 0.2), (w * 0.41, h * 0.40)],
                 fill=GLASS)
    draw.polygon([(w * 0.45, h * 0.40), (w * 0.45, h * 0.2), (w * 0.54, h * 0.2), (w * 0.63, h * 0.40)],
                 fill=GLASS_LIT)
    _hull(draw, w, h, 0.55, colour, bow=0.2, stern=0.05)
    return _finish(image)


def _fishing_boat(variant):
    image, draw = _blank(MASTER, MASTER * 0.8)
    w, h = image.size
    colour = HULLS[(variant + 1) % len(HULLS)]
    draw.line([(w * 0.62, h * 0.04), (w * 0.62, h * 0.75)], fill=WOOD, width=round(w * 0.025))
    draw.line([(w * 0.62, h * 0.08), (w * 0.95, h * 0.70)], fill=(96, 84, 84), width=round(w * 0.012))
    draw.line([(w * 0.62, h * 0.08), (w * 0.06, h * 0.70)], fill=(96, 84, 84), width=round(w * 0.012))
    draw.rectangle((w * 0.16, h * 0.36, w * 0.46, h * 0.76), fill=(244, 238, 224))
    draw.rectangle((w * 0.36, h * 0.36, w * 0.46, h * 0.76), fill=(204, 196, 196))
    draw.rectangle((w * 0.13, h * 0.30, w * 0.49, h * 0.37), fill=(176, 74, 60))
    for x in (0.20, 0.31):
        draw.rectangle((w * x, h * 0.43, w * (x + 0.07), h * 0.55), fill=GLASS)
    _hull(draw, w, h, 0.70, colour, bow=0.14, stern=0.06)
    draw.rectangle((w * 0.06, h * 0.86, w * 0.9, h * 0.89), fill=_lit(colour, 1.3))
    return _finish(image)


DRAWERS = {"round tree": _round_tree, "tall tree": _tall_tree, "pine": _pine, "bush": _bush,
           "car side": _car_side, "car end": _car_end,
           "sailing boat": _sailing_boat, "motor boat": _motor_boat, "fishing boat": _fishing_boat}
VARIANTS = {"round tree": 12, "tall tree": 4, "pine": 4, "bush": 4, "car side": 14, "car end": 14,
            "sailing boat": 6, "motor boat": 6, "fishing boat": 6}
