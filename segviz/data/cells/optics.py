"""The picture of a culture in a phase-contrast microscope.

It shows how much light is held up: by `thickness`, which is darker the thicker a cell is, less its own average
around each point. That average is what makes the bright halo outside a cell, and pales it inside. Very thick cells,
those about to divide, hold light up by more than half a wave, and shine.
"""

import numpy as np
from scipy import ndimage

from segviz.data.cells.culture import ABOVE, texture

HALO = 5.0          # pixels over which the microscope averages
SEAM = 1.2          # pixels: half the width of the dip where two cells meet


def photograph(dice, culture):
    """The picture (H, W) float32 in [0, 1] of a `culture`."""
    height, width = culture.own.shape
    held = thickness(dice, culture)
    halo = ndimage.gaussian_filter(np.minimum(held, 2.0), HALO, mode="nearest")
    contrast = dice.uniform(0.38, 0.54)
    light = 0.42 + 0.055 * texture(dice, height, width, 40.0, 4) + dice.uniform(-0.05, 0.05)
    seen = light - contrast * (np.sin(held) - 1.15 * halo) + _dust(dice, height, width)
    seen = ndimage.gaussian_filter(seen, 0.5, mode="nearest")
    seen += 0.021 * dice.standard_normal((height, width), dtype=np.float32)
    return seen.clip(0, 1).astype(np.float32)


def thickness(dice, culture):
    """How much each point holds up the light, in radians (H, W)."""
    shape = culture.own.shape
    fine, grains, coarse = (texture(dice, *shape, grain, seed) for grain, seed in ((0.7, 5), (1.3, 6), (3.0, 7)))
    seam = texture(dice, *shape, 7.0, 8)
    radius, is_round = culture.radius[culture.owner], culture.round[culture.owner]
    inside = np.maximum(-culture.own, 0) / np.where(is_round, ABOVE, 1)         # pixels from the outline
    meeting = (culture.other - culture.own) / 2                                 # pixels from where two cells meet
    height = np.where(is_round, 3.9, (0.85 * np.exp(0.18 * dice.standard_normal(len(culture.radius))))[culture.owner])
    dome = np.sqrt(np.maximum(1 - (1 - inside / radius) ** 2, 0))
    body = (1 - np.exp(-inside / 1.4)) * (0.5 + 0.5 * dome)
    dip = np.clip(dice.uniform(0.25, 0.5) + 0.22 * seam, 0.06, 0.9)
    body *= 1 - dip * np.exp(-(meeting / SEAM) ** 2)
    nucleus, rim, spots = _nucleus(dice, culture)
    rough = (0.12 * fine + 0.20 * grains + 0.10 * coarse) * (1 - 0.8 * nucleus)
    lively = 1 + rough - 0.16 * nucleus + 0.30 * rim + 0.9 * spots
    return (height * body * np.where(is_round, 1 + 0.3 * rough, lively)).astype(np.float32)


def _nucleus(dice, culture):
    """Three maps (H, W) in [0, 1]: where a cell's nucleus lies, its rim, and one or two dark nucleoli in it."""
    count, owner = len(culture.radius), culture.owner
    size = dice.uniform(0.36, 0.48, count)[owner]
    x, y = (axis - dice.uniform(-0.16, 0.16, count)[owner] for axis in (culture.x, culture.y))
    far = (np.hypot(x, y) - size) * culture.radius[owner]                       # pixels from its outline
    spots = np.zeros_like(far)
    for _ in range(2):
        dx, dy = (axis - dice.uniform(-0.17, 0.17, count)[owner] for axis in (x, y))
        spots = np.maximum(spots, np.exp(-(dx * dx + dy * dy) * (culture.radius[owner] / 1.25) ** 2))
    return np.clip(0.5 - far, 0, 1), np.exp(-(far / 0.8) ** 2), spots


def _dust(dice, height, width):
    """Specks that float above the culture: bright or dark points, few."""
    specks = np.zeros((height, width), np.float32)
    for _ in range(dice.poisson(height * width / 3000)):
        row, column = dice.integers(height), dice.integers(width)
        specks[row, column] = dice.uniform(-2.5, 3.5)
    return ndimage.gaussian_filter(specks, 0.9, mode="nearest")
