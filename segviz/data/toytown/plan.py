"""What stands where in Toytown: a scene is planned in parts of the picture and metres; `scenery.py` paints
it at any size.

The camera looks level from `camera` metres above flat ground. A point `t` below the horizon (part of the
picture's height) is then camera / t metres away, and a metre there is t / camera large: the nearer, the
lower, the larger. All chance is spent in the plan; painting spends none, so that the same plan at another
size is the same town.
"""

import math
from typing import NamedTuple

import numpy as np

from segviz.data.toytown.buildings import House
from segviz.data.toytown.light import MOODS, Sky
from segviz.data.toytown.paint import BOAT, CAR, GRASS, ROAD, TREE, WATER

ROAD_HALF = 3.6         # metres, half of the road


class Thing(NamedTuple):
    """A tree, car or boat: a sprite on the ground."""
    x: float            # middle of the foot, part of the picture's width
    t: float            # foot below the horizon, part of the picture's height
    label: int
    kind: str
    variant: int
    flip: bool
    size: float         # 1 is the usual height of its kind


class Pole(NamedTuple):
    x: float
    t: float
    height: float       # metres
    lamp: bool
    arm: int            # -1 or +1: the side of the lamp


class Plan(NamedTuple):
    sky: Sky
    camera: float
    river: str          # "left", "right", "none" or "bay"
    road: tuple  # where it vanishes, where it meets the lower edge (parts of the width), bend; of a bay: rows
    bank: tuple         # of a river: metres from the road's middle to its near and far edge; of a bay: rows
    hills: tuple        # of (height, phase, colour index)
    things: tuple
    houses: tuple
    poles: tuple


class Dice:
    """Numbers of one scene, drawn at once: a call costs little."""

    def __init__(self, *key):
        self._next = iter(np.random.default_rng(key).random(1200).tolist()).__next__

    def uniform(self, low, high):
        return low + (high - low) * self._next()

    def log_uniform(self, low, high):
        return low * (high / low) ** self._next()

    def integer(self, count):
        return int(count * self._next())

    def chance(self, probability):
        return self._next() < probability

    def choose(self, options, weights=None):
        if weights is None:
            return options[self.integer(len(options))]
        mark = self._next() * sum(weights)
        for option, weight in zip(options, weights, strict=True):
            mark -= weight
            if mark < 0:
                return option
        return options[-1]


def plan(index, seed):
    dice = Dice(seed, index)
    river = dice.choose(("left", "right", "bay", "none"), (0.32, 0.32, 0.24, 0.12))
    camera = dice.log_uniform(3.6, 12.0)
    sky = _plan_sky(dice)
    if river == "bay":  # looked at from higher up, or houses would hide the water
        camera = max(camera, 5.5)
    road, bank = _plan_ground(dice, river, sky.horizon)
    ground = Plan(sky, camera, river, road, bank, _plan_hills(dice), (), (), ())
    houses = _plan_houses(dice, ground)
    things = _plan_trees(dice, ground, houses) + _plan_cars(dice, ground) + _plan_boats(dice, ground)
    return ground._replace(houses=tuple(houses), things=tuple(things), poles=tuple(_plan_poles(dice, ground)))


def _plan_sky(dice):
    mood = dice.choose(MOODS, (0.24, 0.24, 0.24, 0.14, 0.14))
    clouds = tuple((dice.uniform(-0.05, 1.05), dice.uniform(0.12, 0.8), dice.uniform(0.16, 0.46),
                    dice.integer(8))
                   for _ in range(1 + dice.integer(5)))
    clouds = tuple((x, y, w * (1.15 - 0.75 * y), v) for x, y, w, v in clouds)  # far ones are low and small
    sun = dice.uniform(0.06, 0.34)
    haze = dice.uniform(0.10, 0.42) if dice.chance(0.75) else dice.uniform(0.5, 1.0)
    return Sky(mood, dice.uniform(0.36, 0.52), sun if dice.chance(0.5) else 1 - sun, haze, clouds,
               dice.uniform(0, 1))


def _plan_ground(dice, river, horizon):
    if river == "bay":
        shore = dice.uniform(0.10, 0.22)
        near = shore + dice.uniform(0.08, 0.13)
        far, tilt = near + dice.uniform(0.10, 0.13), dice.uniform(-0.06, 0.06)
        return (near, far, tilt), (dice.uniform(0.010, 0.018), shore)
    bottom, vanish = dice.uniform(0.30, 0.70), dice.uniform(0.30, 0.70)
    if river != "none":                                  # make room for the water
        bottom, vanish = dice.uniform(0.10, 0.42), dice.uniform(0.28, 0.5)
        if river == "left":
            bottom, vanish = 1 - bottom, 1 - vanish
    near = dice.uniform(6.5, 11.0)
    return (vanish, bottom, dice.uniform(-0.22, 0.22)), (near, near + dice.uniform(22.0, 60.0))


def _plan_hills(dice):
    """Three ranges, far to near: sometimes mountains, sometimes hardly a swell."""
    high = dice.choose((0.4, 1.0, 1.7), (0.25, 0.4, 0.35))
    return tuple((high * dice.uniform(low, top), dice.uniform(0, 40), k)
                 for k, (low, top) in enumerate(((0.09, 0.16), (0.05, 0.10), (0.025, 0.06))))


def hill_top(hill, x):
    """How far the range rises above the horizon at `x`, part of the picture's height."""
    height, phase, k = hill
    wave = 0.58 + 0.30 * math.sin(3.1 * x + phase) + 0.17 * math.sin(7.7 * x + 2 * phase)
    crag = 0.11 * abs(math.sin(13 * x + phase)) + 0.06 * abs(math.sin(29 * x + 3 * phase)) if k == 0 else 0.0
    return height * max(0.06, wave + crag)


def road_middle(ground, t):
    """x of the road's middle at `t` below the horizon, part of the width."""
    vanish, bottom, bend = ground.road
    return vanish + (bottom - vanish) * t / (1 - ground.sky.horizon) + bend * 0.05 / (t + 0.05)


def surface(ground, x, t):
    """What lies on the ground at (x, t): GRASS, ROAD or WATER."""
    if ground.river == "bay":
        near, far, tilt = ground.road
        if near < t - tilt * (x - 0.5) < far:
            return ROAD
        return WATER if ground.bank[0] < t < shore(ground, x) else GRASS
    metres = (x - road_middle(ground, t)) * ground.camera / t
    if abs(metres) < ROAD_HALF:
        return ROAD
    side = {"left": -1, "right": 1, "none": 0}[ground.river]
    return WATER if ground.bank[0] < side * metres < ground.bank[1] else GRASS


def shore(ground, x):
    return ground.bank[1] * (1 + 0.10 * math.sin(5 * x + ground.hills[0][1]) + 0.05 * math.sin(13 * x))


def _on(ground, what, x, t, half):
    """Does `half` metres to both sides of (x, t) lie on the surface `what`?"""
    reach = half * t / ground.camera
    return all(surface(ground, x + d, t) == what for d in (-reach, 0, reach))


def _house(dice, x, t):
    storeys = 1 + dice.integer(3) + dice.chance(0.25)
    roof = dice.choose(("gable", "ridge", "flat", "spire"), (0.42, 0.34, 0.16, 0.08))
    width, height = dice.uniform(6.0, 10.5), 2.9 * storeys + dice.uniform(0.2, 1.0)
    if roof == "spire":
        width, height, storeys = 4.6, dice.uniform(10, 14), 4
    return House(x, t, 0.0, width, height, roof, dice.integer(10), dice.integer(6), dice.uniform(0.16, 0.30),
                 dice.uniform(0, 1), storeys)


def _plan_houses(dice, ground):
    houses, below = [], 1 - ground.sky.horizon
    if ground.river == "bay":
        near = ground.road[0]
        spots = [(dice.choose((dice.uniform(0.0, 0.26), dice.uniform(0.74, 1.0))),
                  dice.uniform(near * 0.80, near * 0.96)) for _ in range(4)]
        spots += [(dice.uniform(0, 1), dice.uniform(0.005, ground.bank[0])) for _ in range(10)]
    else:
        spots = []
        for side in (-1, 1):
            z = ground.camera / below * dice.uniform(1.15, 1.5)
            while z < 200 and len(spots) < 18:
                t = ground.camera / z
                offset = ROAD_HALF + dice.uniform(6.0, 9.5)
                spots.append((road_middle(ground, t) + side * offset / z, t))
                z = z * 1.18 + dice.uniform(5, 11)
        spots += [(dice.uniform(-0.05, 1.05), dice.log_uniform(0.014, 0.12)) for _ in range(7)]
    for x, t in spots:
        house = _house(dice, x, t)
        if _on(ground, GRASS, x, t, house.width * 0.55):
            houses.append(house)
    if dice.chance(0.6):
        houses += _village(dice, ground)
    return _unhidden(houses, ground.camera)


def _village(dice, ground):
    """Small houses that climb the nearest hill, around a church."""
    middle, houses = dice.uniform(0.12, 0.88), []
    for _ in range(7):
        x, t = middle + dice.uniform(-0.15, 0.15), ground.camera / dice.uniform(150, 210)
        climb = hill_top(ground.hills[2], x) * dice.uniform(0.0, 0.85)
        houses.append(_house(dice, x, t)._replace(lift=t + climb))
    return houses


def _unhidden(houses, camera):
    """Leave out houses that stand wholly behind the front of a nearer one: nobody would see them painted."""
    fronts, kept = [], []
    for house in sorted(houses, key=lambda h: -h.t):
        half, tall = 0.5 * house.width * house.t / camera, house.height * house.t / camera
        left, right, top = house.x - 1.4 * half, house.x + 1.4 * half, tall * 1.7 - house.t + house.lift
        if not any(a <= left and right <= b and top < c for a, b, c in fronts):
            kept.append(house)
            fronts.append((house.x - half, house.x + half, tall - house.t + house.lift))
    return kept


def _plan_trees(dice, ground, houses):
    trees, below = [], 1 - ground.sky.horizon
    favourite = dice.choose(("round tree", "tall tree", "pine"), (0.6, 0.2, 0.2))
    accents = dice.chance(0.35)
    alley = dice.chance(0.4) and ground.river != "bay"
    for k in range(26):
        x, t = dice.uniform(-0.05, 1.05), dice.log_uniform(0.014, below * 0.98)
        if alley and k < 14:
            t = ground.camera / (12 + 7.5 * k)
            x = road_middle(ground, t) + (1, -1)[k % 2] * (ROAD_HALF + 2.6) * t / ground.camera
        kind = favourite if dice.chance(0.6) else dice.choose(("round tree", "tall tree", "pine", "bush"))
        variant, size, flip = dice.integer(12), dice.uniform(0.75, 1.25), dice.chance(0.5)
        if kind == "round tree" and variant % 6 > 3 and not accents:
            variant -= 4
        if t > 0.22 and 0.10 < x < 0.90:                 # the middle of the stage stays open
            kind = "bush"
        if _on(ground, GRASS, x, t, 1.4) and not _before_a_house(houses, x, t, ground.camera):
            trees.append(Thing(x, t, TREE, kind, variant, flip, size))
    return trees


def _before_a_house(houses, x, t, camera):
    """Would a tree at (x, t) stand in a house, or right in front of one?"""
    return any(0.6 * t < h.t < 1.04 * t and abs(h.x - x) * camera < 0.5 * h.width * t for h in houses)


def _plan_cars(dice, ground):
    cars, below = [], 1 - ground.sky.horizon
    for _ in range(dice.choose((0, 1, 2, 3, 4, 5), (1, 3, 4, 4, 2, 1))):
        if ground.river == "bay":
            near, far, tilt = ground.road
            lane = dice.integer(2)
            x = dice.uniform(0.02, 0.98)
            t = near + (far - near) * (0.40 + 0.47 * lane) + tilt * (x - 0.5)
            cars.append(Thing(x, t, CAR, "car side", dice.integer(14), lane == 0, 1.0))
        else:
            t, lane = dice.log_uniform(0.02, below * 0.86), dice.choose((-1, 1))
            x = road_middle(ground, t) + lane * ROAD_HALF * 0.5 * t / ground.camera
            cars.append(Thing(x, t, CAR, "car end", 2 * dice.integer(7) + (lane < 0), False, 1.0))
    return _spread(cars, ground.camera)


def _plan_boats(dice, ground):
    if ground.river == "none":
        return []
    boats, below = [], 1 - ground.sky.horizon
    wanted = dice.choose((1, 2, 3, 4, 5), (2, 4, 4, 3, 1))
    for _ in range(16):
        kind = dice.choose(("sailing boat", "motor boat", "fishing boat"), (0.5, 0.25, 0.25))
        low, high = (ground.bank[0] * 1.5, ground.bank[1]) if ground.river == "bay" else (0.022, below * 0.9)
        x, t = dice.uniform(0.03, 0.97), dice.log_uniform(low, high)
        boat = Thing(x, t, BOAT, kind, dice.integer(6), dice.chance(0.5), dice.uniform(0.8, 1.15))
        if _on(ground, WATER, x, t, 3.4):
            boats.append(boat)
        if len(boats) == wanted:
            break
    return _spread(boats, ground.camera)


def _spread(things, camera):
    """Leave out what would stand in another one: nearer than a length in both directions."""
    kept = []
    for thing in things:
        if all(abs(thing.x - o.x) * camera / thing.t > 6.5 or abs(camera / thing.t - camera / o.t) > 7
               for o in kept):
            kept.append(thing)
    return kept


def _plan_poles(dice, ground):
    lamp, height = dice.chance(0.5), dice.uniform(6.0, 7.6)
    if ground.river == "bay":
        near, _, tilt = ground.road
        first, step = dice.uniform(-0.15, 0.05), dice.uniform(0.22, 0.34)
        xs = [first + k * step for k in range(6)]
        return [Pole(x, near * 0.985 + tilt * (x - 0.5), height, lamp, 1) for x in xs]
    side = {"left": -1, "right": 1, "none": dice.choose((-1, 1))}[ground.river]
    z, step, poles = ground.camera / (1 - ground.sky.horizon) * dice.uniform(1.05, 1.5), dice.uniform(11,
                                                                                                      16), []
    while z < 75:
        t = ground.camera / z
        poles.append(Pole(road_middle(ground, t) + side * (ROAD_HALF + 1.1) / z, t, height, lamp, -side))
        z += step
    return poles
