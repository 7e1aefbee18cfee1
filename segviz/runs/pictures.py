"""The pictures that a run leaves behind."""

from pathlib import Path

import numpy as np
import torch

from segviz import draw, training

SHOWN = 4  # images among the samples


def palette(count: int) -> np.ndarray:
    """Colours (count, 3) uint8: the course's, and beyond these evenly spread hues."""
    from matplotlib import colormaps

    more = colormaps["hsv"](np.linspace(0, 1, max(1, count - len(draw.PALETTE)), endpoint=False))[:, :3]
    return np.concatenate([draw.PALETTE, (more * 255).astype(np.uint8)])[:count]


def samples(network: torch.nn.Module, data, classes: tuple[str, ...], items: list[int] | None = None):
    """A figure: images, what the network says of them, and the truth. items: default: evenly spread."""
    if items is None:
        items = torch.linspace(0, len(data) - 1, min(SHOWN, len(data))).round().long().unique().tolist()
    colours = palette(len(classes))
    figure, axes = draw.panels(3, rows=len(items) + 1, size=2.6, titles=("image", "prediction", "truth"))
    for row, item in enumerate(items):
        image, mask = data[item]
        draw.image(axes[3 * row], image)
        draw.labels(axes[3 * row + 1], training.predict(network, image), palette=colours)
        draw.labels(axes[3 * row + 2], mask, palette=colours)
    draw.legend(axes[-3], classes, colours)
    return figure


def save(figure, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=110)
    pyplot.close(figure)
