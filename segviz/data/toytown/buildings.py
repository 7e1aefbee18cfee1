"""Houses, towers and church spires in one-point perspective: a front that faces us, a side that runs to the
vanishing point.

Every face has its own light: the side towards the sun is bright and warm, the one away from it dark and cool.
"""

from typing import NamedTuple

from segviz.data.toytown.paint import BUILDING, mix, tone

WALLS = [(236, 224, 200), (224, 192, 152), (214, 158, 126), (232, 208, 168), (188, 196, 186), (206, 172, 164),
         (176, 188, 198), (238, 232, 220), (200, 128, 104), (222, 184, 112)]
ROOFS = [(178, 88, 66), (150, 74, 64), (94, 88, 104), (72, 96, 108), (190, 112, 76), (116, 76, 78)]
PANE, PANE_SKY, PANE_LIT = (62, 78, 100), (108, 138, 160), (255, 255, 190)
FRAME, DOOR = (246, 238, 222), (92, 66, 58)


class House(NamedTuple):
    x: float          # middle of the front's foot, part of the picture's width
    t: float          # how far its foot lies below the horizon, part of the picture's height
    lift: float       # how far the foot is raised, as on a hill; part of the picture's height
    width: float      # metres
    height: float     # metres, wall only
    roof: str         # "gable", "ridge", "flat", "spire"
    wall: int
    tiles: int
    deep: float       # how far the side runs towards the vanishing point, 0..1
    lit: float        # 0..1: chooses which windows are lit at night
    storeys: int


def paint_house(canvas, house, x, y, metre, vanishing, sun_side, lamps, depth):
    """Paint `house` with its foot at fine pixel (x, y), `metre` fine pixels large; the sun at -1 (left) or
    +1 (right)."""
    id = canvas.new_id(BUILDING, depth)
    half, tall = house.width * metre / 2, house.height * metre
    side = 1 if vanishing[0] > x else -1                # which side wall is seen
    wall, tiles = WALLS[house.wall % len(WALLS)], ROOFS[house.tiles % len(ROOFS)]
    front_light, side_light = 0.96, (1.10 if side == sun_side else 0.62)
    if half > 10:
        canvas.shade(x - sun_side * half * 0.9, y, half * 3.4, max(3, metre * 2.2), 0.5)

    near, far = (x + side * half, y), (x - side * half, y)  # the corner by the side wall, and the other
    up, far_up = (near[0], y - tall), (far[0], y - tall)
    # is the vanishing point clear of the front?
    seen = abs(vanishing[0] - x) > half + 4 / house.deep * (half < 8)
    if seen:
        back, back_up = mix(near, vanishing, house.deep), mix(up, vanishing, house.deep)
        side_wall = tone(wall, side_light, pull=0.0 if side == sun_side else 0.16)
        canvas.polygon([near, up, back_up, back], side_wall, id)
        _side_windows(canvas, house, near, up, back, back_up, side_light)
    face = tone(wall, front_light)
    canvas.rectangle(x - half, y - tall, x + half, y, face, id)
    _roof(canvas, house, id, x, half, metre, up, far_up, vanishing, seen, side, sun_side, tiles, face)
    _front_windows(canvas, house, x, y, half, tall, metre, lamps)


def _roof(canvas, house, id, x, half, metre, up, far_up, vanishing, seen, side, sun_side, tiles, face):
    rise, over = house.width * metre * 0.42, metre * 0.35
    bright, dull = tone(tiles, 1.14), tone(tiles, 0.70, pull=0.12)
    slope = bright if side == sun_side else dull
    top = up[1]
    if house.roof == "gable":
        apex = (x, top - rise)
        eave = (up[0] + side * over, top + over * 0.8)
        if seen:
            canvas.polygon([eave, apex, mix(apex, vanishing, house.deep), mix(eave, vanishing, house.deep)],
                           slope, id)
        canvas.polygon([up, apex, far_up], tone(face, 1.03), id)
        if half > 8:
            canvas.line([(far_up[0] - side * over, top + over * 0.8), apex, eave],
                        max(1, round(metre * 0.3)), tone(tiles, 0.9), id)
    elif house.roof == "ridge":
        rise *= 0.62
        left, right = (x - half - over, top + over * 0.4), (x + half + over, top + over * 0.4)
        middle = house.deep * 0.5 if seen else 0.08
        a, b = mix((x - half, top - rise), vanishing, middle), mix((x + half, top - rise), vanishing, middle)
        if seen:
            ridge = b if side > 0 else a
            canvas.polygon([up, ridge, mix(up, vanishing, house.deep)],
                           tone(face, 1.08 if side == sun_side else 0.66), id)
        canvas.polygon([left, right, b, a], tone(tiles, 0.98), id)
        if half > 8:
            canvas.line([left, right], max(1, round(metre * 0.2)), tone(tiles, 0.68))
        if house.width * metre > 30:
            cx = x + half * 0.45
            canvas.rectangle(cx, a[1] - rise * 0.35, cx + metre * 0.9, a[1] + rise * 0.35, tone(tiles, 0.8),
                             id)
    elif house.roof == "spire":
        apex = mix((x, top - 3.2 * rise), vanishing, house.deep * 0.3)
        if seen:
            canvas.polygon([up, apex, mix(up, vanishing, house.deep)], slope, id)
        canvas.polygon([(far_up[0] - side * over, top), (up[0] + side * over, top), apex], tone(tiles, 0.95),
                       id)
    else:
        cornice = max(1, metre * 0.5)
        if seen and top > vanishing[1]:
            canvas.polygon([up, far_up, mix(far_up, vanishing, house.deep), mix(up, vanishing, house.deep)],
                           tone(face, 0.86), id)
        canvas.rectangle(x - half - over, top - cornice, x + half + over, top, tone(tiles, 1.05), id)


def _front_windows(canvas, house, x, y, half, tall, metre, lamps):
    columns, rows = max(1, round(house.width / 2.6)), house.storeys
    step_x, step_y = half * 1.84 / columns, tall * 0.94 / rows
    if step_x < 4 or step_y < 4:
        return
    left, top = x - half * 0.92, y - tall
    wide, high = step_x * 0.40, step_y * 0.52
    lefts = [round(left + (k + 0.30) * step_x) for k in range(columns)]
    tops = [round(top + (k + 0.26) * step_y) for k in range(rows)]
    fine = metre > 9
    if fine:                                             # frame and sill first, then the pane within
        rim = max(1, metre * 0.12)
        canvas.tiles([v - rim for v in lefts], [v - rim for v in tops], wide + 2 * rim, high + 3 * rim, FRAME)
    canvas.tiles(lefts, tops, wide, high, PANE)
    if fine:                                             # the upper part of a pane mirrors the sky
        canvas.tiles(lefts, tops, wide, high * 0.42, PANE_SKY)
        canvas.rectangle(x - half, y - 0.35 * metre, x + half, y, tone(WALLS[house.wall % len(WALLS)], 0.74))
    door = max(2, 1.3 * metre)
    canvas.rectangle(x - door / 2, y - 2.3 * metre, x + door / 2, y, DOOR)
    if lamps > 0.5:
        _lit_windows(canvas, house, lefts, tops, wide, high)


def _lit_windows(canvas, house, lefts, tops, wide, high):
    pattern = int(house.lit * 1e6)
    for k, (left, top) in enumerate((left, top) for top in tops for left in lefts):
        if (pattern >> (k % 19)) & 1:
            canvas.tiles([left], [top], wide, high, PANE_LIT)
            canvas.glows.append((left + wide / 2, top + high / 2, wide * 0.6, 0.40))


def _side_windows(canvas, house, near, up, back, back_up, light):
    if abs(back[0] - near[0]) < 14:
        return
    colour = tone(PANE, 0.6 + 0.4 * light)
    for k in range(house.storeys):
        low, high = (k + 0.28) / house.storeys * 0.94 + 0.06, (k + 0.78) / house.storeys * 0.94 + 0.06
        a, b = mix(near, up, low), mix(near, up, high)
        c, d = mix(back, back_up, low), mix(back, back_up, high)
        for s in (0.18, 0.58):
            canvas.polygon([mix(a, c, s), mix(b, d, s), mix(b, d, s + 0.22), mix(a, c, s + 0.22)], colour)
