"""Paints a plan of Toytown: hills, ground, road and water first, then everything that stands up, from far to
near.

Painting spends no chance; it only turns the plan's parts of the picture and metres into fine pixels.
"""

import math

from segviz.data.toytown.buildings import House, paint_house
from segviz.data.toytown.light import illuminate
from segviz.data.toytown.paint import CAR, GRASS, MARKING, POLE, ROAD, SUPER, TREE, WATER, Canvas, tone
from segviz.data.toytown.plan import ROAD_HALF, Pole, Thing, hill_top, road_middle, shore
from segviz.data.toytown.sprites import sprite

# heights in metres: toys, a little large
RISE = {"round tree": 7.5, "tall tree": 11.0, "pine": 9.5, "bush": 1.8,
        "car side": 2.1, "car end": 2.1, "sailing boat": 8.5, "motor boat": 2.7, "fishing boat": 4.6}
GREENS = [(128, 150, 132), (116, 146, 104), (122, 152, 88)]       # hills, from far to near
MEADOW, ASPHALT, PAINT, KERB = (126, 156, 84), (116, 114, 120), (240, 232, 212), (186, 178, 166)
IRON, WIRE = (64, 62, 76), (70, 66, 80)


def draw(scene_plan, height, width):
    """Paint a plan: (canvas, its samples, picture), the picture float32 (3, height, width) in 0..1."""
    canvas = Canvas(height, width)
    painter = _Painter(canvas, scene_plan)
    painter.hills()
    painter.ground()
    painter.everything()
    samples = canvas.samples()
    return canvas, samples, illuminate(canvas, scene_plan.sky, scene_plan.camera, samples)


class _Painter:
    """Turns the plan's coordinates into fine pixels and paints from far to near."""

    def __init__(self, canvas, plan):
        self.canvas, self.plan = canvas, plan
        self.W, self.H = canvas.width * SUPER, canvas.height * SUPER
        self.unit = min(self.W, self.H)                  # things keep their shape in a picture of any shape
        self.horizon = plan.sky.horizon * self.H
        self.sun = 1 if plan.sky.sun_x > 0.5 else -1
        self.lamps = plan.sky.mood.lamps

    def at(self, x, t):
        return x * self.W, self.horizon + t * self.H

    def metre(self, t):
        return t / self.plan.camera * self.unit

    def hills(self):
        steps = [k / 24 for k in range(25)]
        for hill in self.plan.hills:
            colour = GREENS[hill[2]]
            id = self.canvas.new_id(GRASS, (900, 420, 230)[hill[2]], is_object=False)
            ridge = [(x * self.W, self.horizon - hill_top(hill, x) * self.H) for x in steps]
            foot = self.horizon + 2
            self.canvas.polygon([(0, foot), *ridge, (self.W, foot)], colour, id)
            self._flanks(ridge, tone(colour, 0.86))

    def _flanks(self, ridge, colour):
        """The slopes that look away from the sun lie in shade: one polygon for each run of them."""
        run = []
        for point, after in zip(ridge, [*ridge[1:], (0, -math.inf if self.sun > 0 else math.inf)],
                                strict=True):
            run.append(point)
            falls = (point[1] - after[1]) * self.sun < 0
            if not falls:
                if len(run) > 2:
                    low = [(x - 0.02 * self.sun * self.W, 0.6 * self.horizon + 0.4 * y) for x, y in run]
                    self.canvas.polygon(run + low[::-1], colour)
                run = []

    def ground(self):
        new = self.canvas.new_id
        self.flat = {label: new(label, math.inf, is_object=False) for label in (GRASS, ROAD, MARKING, WATER)}
        self.canvas.rectangle(0, self.horizon, self.W, self.H, MEADOW, self.flat[GRASS])
        (self._bay if self.plan.river == "bay" else self._street)()

    def _band(self, first, second, label, colour, z0=None, z1=400.0, count=14):
        """A ribbon along the road, from `first` to `second` metres beside its middle, from z0 to z1 metres
        away."""
        plan, camera = self.plan, self.plan.camera
        z0 = z0 or camera / (1.04 * (1 - plan.sky.horizon))
        near, far = [], []
        for k in range(count):
            t = camera / (z0 * (z1 / z0) ** (k / (count - 1)))
            x, y = road_middle(plan, t) * self.W, self.horizon + t * self.H
            near.append((x + first * t / camera * self.W, y))
            far.append((x + second * t / camera * self.W, y))
        self.canvas.polygon(near + far[::-1], colour, self.flat[label])

    def _street(self):
        plan = self.plan
        if plan.river != "none":
            side, (near, far) = -1 if plan.river == "left" else 1, plan.bank
            self._band(side * (near - 0.7), side * (far + 0.9), GRASS, KERB)
            self._band(side * near, side * far, WATER, (0, 0, 0))
        self._band(-ROAD_HALF - 0.5, ROAD_HALF + 0.5, ROAD, KERB)
        self._band(-ROAD_HALF, ROAD_HALF, ROAD, ASPHALT)
        for edge in (-0.90, 0.90):
            self._band(edge * ROAD_HALF - 0.09, edge * ROAD_HALF + 0.09, MARKING, PAINT,
                       z1=plan.camera / 0.05)
        z = plan.camera / (1.04 * (1 - plan.sky.horizon)) - 2.5 * plan.sky.drift
        while z < 90:
            self._band(-0.14, 0.14, MARKING, PAINT, max(z, 0.5), z + 3.2, count=2)
            z += 6.4 if z < 40 else 9.6

    def _bay(self):
        plan, (near, far, tilt) = self.plan, self.plan.road
        xs = [k / 24 for k in range(25)]
        top = self.horizon + plan.bank[0] * self.H
        for extra, label, colour in ((0.010, GRASS, (206, 190, 154)), (0.0, WATER, (0, 0, 0))):
            water_line = [self.at(x, shore(plan, x) + extra) for x in xs]
            self.canvas.polygon([(0, top), *water_line, (self.W, top)], colour, self.flat[label])

        def strip(t0, t1, label, colour, x0=0.0, x1=1.0):
            corners = [(x0, t0), (x1, t0), (x1, t1), (x0, t1)]
            self.canvas.polygon([self.at(x, t + tilt * (x - 0.5)) for x, t in corners], colour,
                                self.flat[label])

        strip(near - 0.012, far + 0.016, ROAD, KERB)
        strip(near, far, ROAD, ASPHALT)
        wide = (far - near) * 0.035
        strip(near + 2 * wide, near + 3 * wide, MARKING, PAINT)
        strip(far - 3 * wide, far - 2 * wide, MARKING, PAINT)
        middle = near * 0.54 + far * 0.46
        for k in range(8):
            x = (k + plan.sky.drift) / 7 - 0.1
            strip(middle - wide * 0.6, middle + wide * 0.6, MARKING, PAINT, x, x + 0.075)

    def everything(self):
        plan = self.plan
        things = sorted([*plan.things, *plan.houses, *plan.poles], key=lambda thing: thing.t)
        self.last_pole = None
        for thing in things:
            paint = {Thing: self._thing, House: self._house, Pole: self._pole}[type(thing)]
            paint(thing)

    def _thing(self, thing):
        x, y = self.at(thing.x, thing.t)
        rise = RISE[thing.kind] * thing.size * self.metre(thing.t)
        flip = thing.flip if thing.label != TREE else self.sun > 0
        image = sprite(thing.kind, thing.variant, rise, flip)
        width = image.colour.width
        id = self.canvas.new_id(thing.label, self.plan.camera / thing.t)
        if thing.label == TREE and rise > 15:
            long = 1 + self.plan.sky.mood.shadow
            self.canvas.shade(x - self.sun * width * 0.35 * long, y, width * 1.1 * long, max(2, rise * 0.16),
                              0.42)
        elif thing.label == CAR and rise > 6:
            self.canvas.shade(x - self.sun * width * 0.06, y - rise * 0.03, width * 1.25,
                              max(2, rise * 0.28), 0.6)
        self.canvas.sprite(image, x, y, id)

    def _house(self, house):
        x, y = self.at(house.x, house.t - house.lift)
        vanish = 0.5 if self.plan.river == "bay" else self.plan.road[0]
        paint_house(self.canvas, house, x, y, self.metre(house.t), (vanish * self.W, self.horizon), self.sun,
                    self.lamps,
                    self.plan.camera / house.t)

    def _pole(self, pole):
        canvas, (x, y), metre = self.canvas, self.at(pole.x, pole.t), self.metre(pole.t)
        depth, top = self.plan.camera / pole.t, y - pole.height * metre
        ends = [(x - 0.7 * metre, top + 0.5 * metre), (x + 0.7 * metre, top + 0.5
                                                       * metre)] if not pole.lamp else [(x, top + 0.6
                                                                                         * metre)]
        if self.last_pole:
            wire = canvas.new_id(POLE, depth, is_object=False)
            for a, b in zip(self.last_pole, ends, strict=True):
                self._wire(a, b, wire, max(1, round(metre * 0.05)))
        self.last_pole = ends
        id, half = canvas.new_id(POLE, depth), max(1.0, 0.10 * metre)
        if metre > 6:
            canvas.shade(x - self.sun * metre, y, metre * 2.4, max(2, metre * 0.3), 0.4)
        canvas.rectangle(x - half / 2, top, x + half, y, IRON, id)
        if half > 2:
            lit = x - half / 2 if self.sun < 0 else x + half / 2
            canvas.rectangle(lit, top, lit + half / 2, y, tone(IRON, 1.7))
        if pole.lamp:
            self._lamp(pole, x, top, metre, half, id)
        else:
            canvas.rectangle(ends[0][0], ends[0][1] - half / 2, ends[1][0], ends[1][1] + half / 2, IRON, id)

    def _lamp(self, pole, x, top, metre, half, id):
        end = x + pole.arm * 1.5 * metre
        self.canvas.line([(x, top), (x + pole.arm * 0.9 * metre, top - 0.25 * metre), (end, top)],
                         max(1, round(half)), IRON, id)
        r = max(1.2, 0.32 * metre)
        warm = (255, 240, 190) if self.lamps > 0.5 else (226, 222, 208)
        foot = top + 1.1 * r
        self.canvas.polygon([(end - 0.6 * r, top), (end + 0.6 * r, top), (end + r, foot), (end - r, foot)],
                            warm, id)
        self.canvas.glows.append((end, top + r, 1.3 * r, 0.8))

    def _wire(self, a, b, id, width):
        sag = 0.06 * abs(b[0] - a[0]) + 0.02 * abs(b[1] - a[1])
        points = [(a[0] + (b[0] - a[0]) * s, a[1] + (b[1] - a[1]) * s + 4 * sag * s * (1 - s))
                  for s in (0, 0.25, 0.5, 0.75, 1)]
        self.canvas.line(points, width, WIRE, id)
