"""Where the cells of a culture lie, how large they are, and whose each pixel is.

A cell is an ellipse, seen through coordinates that are bent a little, so that its outline is none. Where ellipses
overlap a pixel belongs to the one in which it lies deeper: that is how neighbours press against each other, and why
their common border is a curve that both share.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

RADIUS, SPACING = 10.5, 17.2        # pixels: of a usual cell; between the middles of neighbours where it is crowded
TABLE = 512                         # pixels after which a texture repeats itself
ABOVE = 2.5                         # how many times the depth in a round cell counts: it lies on its neighbours
FAR = 20.0                          # pixels from an outline that stand for any more
SMALLEST = 12                       # pixels: what is cut off by a neighbour or the picture's edge and smaller is none


class Culture(NamedTuple):
    """N cells, and for each pixel the cell that it belongs to, or is nearest to.

    Per cell, (N,): `radius` in pixels, `round`: whether it has rounded up to divide.
    Per pixel, (H, W): `owner`, which cell; `own`, `other`: pixels from the outline of that cell and of the next one,
    negative inside (`ABOVE` times as many for a round one); `x`, `y`: from the owner's middle, in its axes and sizes.
    """
    radius: np.ndarray
    round: np.ndarray
    owner: np.ndarray
    own: np.ndarray
    other: np.ndarray
    x: np.ndarray
    y: np.ndarray


@lru_cache(maxsize=16)
def _table(grain, seed):
    """Smooth noise (TABLE, TABLE) of mean 0 and deviation 1 that repeats at its edges; `grain`: pixels."""
    noise = np.random.default_rng(seed).standard_normal((TABLE, TABLE), dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, grain, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def texture(dice, height, width, grain, seed):
    """A piece (H, W) of such a noise, from anywhere in it."""
    top, left = dice.integers(TABLE, size=2)
    rows, columns = (top + np.arange(height)) % TABLE, (left + np.arange(width)) % TABLE
    return _table(grain, seed)[rows].take(columns, 1)


def grow(dice, height, width):
    """A `Culture` by chance: colonies with gaps between them, their cells drawn out in one direction."""
    angle, stretch = dice.uniform(0, np.pi), dice.uniform(1.0, 1.7)
    middles = _middles(dice, height, width, angle, stretch)
    count = len(middles)
    is_round = dice.random(count) < 0.035
    radius = RADIUS * np.exp(0.13 * dice.standard_normal(count)) * np.where(is_round, 0.62, 1.0)
    drawn_out = np.where(is_round, 1.0, stretch * np.exp(0.14 * dice.standard_normal(count)))
    turn = angle + 0.3 * dice.standard_normal(count)
    along = np.stack([np.cos(turn), np.sin(turn)], 1) / (radius * np.sqrt(drawn_out))[:, None]
    across = np.stack([-np.sin(turn), np.cos(turn)], 1) / (radius / np.sqrt(drawn_out))[:, None]
    bend = [2.2 * texture(dice, height, width, 6.0, seed) for seed in (1, 2)]
    place = np.arange(width, dtype=np.float32) + bend[0], np.arange(height, dtype=np.float32)[:, None] + bend[1]
    reach = np.ceil(1.3 * radius * np.sqrt(drawn_out) + 7).astype(int)
    steep = radius * np.where(is_round, ABOVE, 1.0)
    cells = zip(middles.tolist(), steep.tolist(), along.tolist(), across.tolist(), reach.tolist(), strict=True)
    return Culture(radius.astype(np.float32), is_round, *_owners(cells, *place))


def _middles(dice, height, width, angle, stretch):
    """Where cells lie, (N, 2) as x, y: a shaken hexagonal lattice, without those that stand where nothing grew."""
    half = np.hypot(height, width) / 2 + 2 * SPACING
    steps = SPACING * np.sqrt([stretch, 0.75 / stretch])
    columns, rows = (np.arange(-int(half / step) - 1, int(half / step) + 2) for step in steps)
    lattice = np.stack(np.broadcast_arrays(columns + 0.5 * (rows[:, None] % 2), rows[:, None]), -1).reshape(-1, 2)
    lattice = (lattice + dice.random(2) + 0.18 * dice.standard_normal(lattice.shape)) * steps
    turned = lattice @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middles = turned + np.array([width / 2, height / 2])
    middles = middles[(np.abs(turned) < (width / 2 + SPACING, height / 2 + SPACING)).all(1)]
    grown = texture(dice, height, width, 22.0, 3)
    at = np.clip(middles.round().astype(int), 0, (width - 1, height - 1))
    thrives = grown[at[:, 1], at[:, 0]] + dice.uniform(-0.5, 0.7) + 0.5 * dice.standard_normal(len(middles)) > 0
    thrives[:1] = True                                                  # a culture has a cell
    return middles[thrives]


def _owners(cells, x, y):
    """The maps of `Culture`, cell by cell, each in the window that it can reach."""
    height, width = np.broadcast_shapes(x.shape, y.shape)
    own, other = (np.full((height, width), FAR, np.float32) for _ in range(2))
    owner, local = np.zeros((height, width), np.intp), np.full((2, height, width), 9, np.float32)
    for number, ((cx, cy), steep, a, b, reach) in enumerate(cells):
        row, column = round(cy), round(cx)
        window = (slice(max(0, row - reach), max(0, row + reach + 1)),
                  slice(max(0, column - reach), max(0, column + reach + 1)))
        dx, dy = x[window] - cx, y[window] - cy
        u, v = a[0] * dx + a[1] * dy, b[0] * dx + b[1] * dy
        far, best = steep * (np.sqrt(u * u + v * v) - 1), own[window]
        nearer = far < best
        other[window] = np.where(nearer, best, np.minimum(other[window], far))
        for kept, new in ((best, far), (owner[window], number), (local[0][window], u), (local[1][window], v)):
            np.copyto(kept, new, where=nearer)
    return owner, own, other, *local


def instances(culture):
    """The cells' numbers (H, W) int64, 0 where there is none. Touching cells have a ridge of two pixels between them:
    each loses those that lie beside a pixel of another. So every number is one connected component (by sides) of the
    cells' pixels, and every component one number."""
    own = np.where(culture.own < 0, culture.owner, -1)
    cell = own >= 0
    for a, b in ((np.s_[1:, :], np.s_[:-1, :]), (np.s_[:, 1:], np.s_[:, :-1])):
        touch = (own[a] != own[b]) & (own[a] >= 0) & (own[b] >= 0)
        cell[a] &= ~touch
        cell[b] &= ~touch
    numbers, count = ndimage.label(cell)
    large = np.bincount(numbers.ravel(), minlength=count + 1) >= SMALLEST
    large[0] = False
    return np.where(large, np.cumsum(large), 0)[numbers].astype(np.int64)
