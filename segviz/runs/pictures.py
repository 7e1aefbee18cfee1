"""The pictures that a run leaves behind, and an evaluation of it."""

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from segviz import draw, training
from segviz.data.pictures import VOID
from segviz.data.survey import name_of

SHOWN = 4  # images among the samples
SIDE = 2.6  # inches: the width of a picture among others
PIXELS = 400  # the most that are drawn of a picture's longer side
LIT = (255, 176, 0)  # what is wrong, on grey


def palette(count: int) -> np.ndarray:
    """Colours (count, 3) uint8: the course's, and beyond these evenly spread hues."""
    from matplotlib import colormaps

    more = colormaps["hsv"](np.linspace(0, 1, max(1, count - len(draw.PALETTE)), endpoint=False))[:, :3]
    return np.concatenate([draw.PALETTE, (more * 255).astype(np.uint8)])[:count]


def samples(network: torch.nn.Module, data, classes, items: list[int] | None = None):
    """A figure: images, what the network says of them, and the truth. items: default: evenly spread."""
    if items is None:
        items = torch.linspace(0, len(data) - 1, min(SHOWN, len(data))).round().long().unique().tolist()
    colours, rows = palette(len(classes)), []
    for item in items:
        image, mask = data[item]
        prediction = training.predict(network, image)
        rows.append([(_name(data, item), draw.rgb(image)), ("prediction", draw.colourise(prediction, colours)),
                     ("truth", draw.colourise(mask, colours))])  # fmt: skip
    return _grid(rows, classes, colours)


def worst(network: torch.nn.Module, data, classes, found):
    """A figure: images, what the network says of them, the truth, and what is wrong of it, lit. found: of each image
    (item, name, mean IoU, share of wrong pixels)."""
    colours, rows = palette(len(classes)), []
    for item, _, mean_iou, wrong in found:
        image, mask = data[item]
        prediction = training.predict(network, image)
        rows.append([
            (_name(data, item), draw.rgb(image)),
            (f"prediction: mean IoU {mean_iou:.3f}", draw.colourise(prediction, colours)),
            ("truth", draw.colourise(mask, colours)), (f"wrong: {wrong:.1%}", errors(image, prediction, mask)),
        ])  # fmt: skip
    return _grid(rows, classes, colours)


def errors(image, prediction: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """(h, w, 3) uint8: the image in dark grey, pixels with a wrong label lit; smaller than it where it is large, but
    no lit pixel is lost."""
    wrong = ((prediction != mask) & (mask != VOID)).float()[None]
    step = _step(*mask.shape)
    lit = F.max_pool2d(wrong, step, ceil_mode=True)[0].bool().numpy()
    grey = 0.4 * _shrunk(draw.rgb(image)).mean(2, keepdims=True)
    return np.where(lit[..., None], LIT, grey).astype(np.uint8)


def confusion(scores: training.Scores):
    """A figure: the confusion matrix, a row for each class of the truth, as shares of its pixels, and its IoU beside
    it. Rows of classes that the truth does not hold are hatched: they have no shares."""
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    counts, names = scores.counts, names_of(scores)
    side = len(names) * (0.7 if len(names) < 6 else 0.42)
    figure = pyplot.figure(figsize=(side + 2.6, side + 1.8), layout="constrained")
    ax = figure.add_subplot()
    draw.confusion(ax, counts, names)
    ax.set_xlabel("predicted, as a share of the row", fontsize=9)
    ax.text(len(names) - 0.3, -0.6, "IoU", fontsize=8, va="bottom")
    for row, (pixels, iou) in enumerate(zip(counts.sum(1).tolist(), scores.class_iou.tolist(), strict=True)):
        ax.text(len(names) - 0.3, row, "none" if np.isnan(iou) else f"{iou:.3f}", fontsize=8, va="center")
        if not pixels:
            place = {"xy": (-0.5, row - 0.5), "width": len(names), "height": 1}
            ax.add_patch(Rectangle(**place, fill=False, hatch="////", edgecolor="#BBBBBB", linewidth=0))
            note = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            ax.text((len(names) - 1) / 2, row, "not in the truth", fontsize=7, ha="center", va="center", bbox=note)
    return figure


def legend(classes):
    """A figure with the colours of classes, and nothing else."""
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(2 * SIDE, 0.1), layout="constrained")
    draw.key(figure, classes, palette(len(classes)), void=False)
    return figure


def names_of(scores: training.Scores) -> list[str]:
    return list(scores.classes or [f"class {label}" for label in range(len(scores.counts))])


def save(figure, path: Path) -> None:
    """Raises OSError in words where the file cannot be written."""
    from matplotlib import pyplot

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph", UserWarning)  # of a file's name in a script without a font here
            figure.savefig(path, dpi=110)
    except OSError as error:
        raise OSError(f"{path} was not written: {error.strerror or error}") from error
    finally:
        pyplot.close(figure)


def _grid(rows: list[list[tuple[str, np.ndarray]]], classes, colours: np.ndarray):
    """A figure of rows of pictures (title, (H, W, 3) uint8), each row as high as they are, and the classes below."""
    from matplotlib import pyplot

    heights = [min(1.6, max(0.25, row[0][1].shape[0] / row[0][1].shape[1])) * SIDE + 0.25 for row in rows]
    figure, axes = pyplot.subplots(
        len(rows), len(rows[0]), figsize=(SIDE * len(rows[0]), sum(heights)), height_ratios=heights,
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for ax, (title, picture) in zip(axes.flat, (panel for row in rows for panel in row), strict=True):
        draw.image(ax, _shrunk(picture))
        ax.set_title(title, fontsize=8, loc="left", pad=3, parse_math=False)
    draw.key(figure, classes, colours)
    return figure


def _name(data, item: int) -> str:
    name = Path(name_of(data, item)).name
    return name if len(name) <= 30 else f"{name[:14]}…{name[-15:]}"


def _step(height: int, width: int) -> int:
    return -(-max(height, width) // PIXELS)


def _shrunk(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, at most PIXELS high and wide, each the mean of as many as it takes."""
    step = _step(*pixels.shape[:2])
    return pixels if step == 1 else np.asarray(Image.fromarray(pixels).reduce(step))
