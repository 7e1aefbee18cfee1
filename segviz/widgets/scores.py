"""Explorer: disturb one class of a perfect prediction, and watch every score (lesson 01)."""

from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from segviz import metrics
from segviz.draw import PALETTE, VOID
from segviz.widgets.controls import Choice, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bar, Bars, Hatch, Image, LabelMap, Panel, State

FARTHEST, THICKEST = 12, 6                           # pixels


class ScoresExplorer(Explorer):
    """Starts from the truth as the prediction; one class is then shifted, grown, shrunk or dropped.

    image: float (3, H, W) in [0, 1]; mask: integer (H, W) with 255 for void; classes: one name a class;
    palette: uint8 (C, 3). What a class leaves behind is filled with the nearest other label.
    """

    def __init__(self, image, mask, classes, palette=PALETTE, disturb=None, **options):
        self.image, self.classes, self.palette = image, tuple(classes), palette
        self.mask = torch.as_tensor(mask).long()
        present = [i for i in range(len(classes)) if (self.mask == i).any()]
        if self.mask.dim() != 2 or len(present) < 2:
            raise ValueError(f"A label map (H, W) with two classes or more is needed; this one has shape "
                             f"{tuple(self.mask.shape)} and classes {[self.classes[i] for i in present]}.")
        self.present, self._moulds = present, {}
        controls = [
            Choice("name", "Class to disturb", tuple(self.classes[i] for i in present), disturb),
            Slider("right", "Shift right", -FARTHEST, FARTHEST, value=0, unit="px"),
            Slider("down", "Shift down", -FARTHEST, FARTHEST, value=0, unit="px"),
            Slider("grow", "Grow or shrink", -THICKEST, THICKEST, value=0, unit="px"),
            Toggle("drop", "Drop the class"),
        ]
        super().__init__(self._disturbed, controls, title="One disturbed class, every score", **options)

    def predict(
        self, name: str, right: int = 0, down: int = 0, grow: int = 0, drop: bool = False
    ) -> torch.Tensor:
        """The disturbed prediction, int64 (H, W), without void."""
        label = self.classes.index(name)
        region, around = self._mould(label)
        if drop:
            return around
        return torch.where(shifted(thickened(region, grow), right, down), label, around)

    def _mould(self, label: int):
        """The class's own pixels, and the scene without it; worked out once a class."""
        if label not in self._moulds:
            known = self._filled.clone()
            region = known == label
            known[region] = VOID
            self._moulds[label] = region, fill_from_neighbours(known)
        return self._moulds[label]

    @cached_property
    def _filled(self):
        return fill_from_neighbours(self.mask)

    def _disturbed(self, name, right, down, grow, drop) -> State:
        prediction = self.predict(name, right, down, grow, drop)
        counts = metrics.confusion_matrix(prediction, self.mask, len(self.classes))
        boundary = metrics.boundary_iou(prediction, self.mask, len(self.classes))
        wrong = (prediction != self.mask) & (self.mask != VOID)
        iou, accuracy = metrics.class_iou(counts), metrics.pixel_accuracy(counts)
        scores = {"pixel accuracy": accuracy, "freq.-weighted IoU": metrics.frequency_weighted_iou(counts),
                  "mean Dice": metrics.dice(counts).nanmean().item(), "mean IoU": metrics.mean_iou(counts),
                  "mean boundary IoU": boundary.nanmean().item()}
        label, seen = self.classes.index(name), int((self.mask != VOID).sum())
        what = _words(name, right, down, grow, drop)
        readout = (f"{what}: {int(wrong.sum())} of {seen} pixels wrong. Pixel accuracy {accuracy:.3f}, "
                   f"mean IoU {scores['mean IoU']:.3f}, IoU of {name} {iou[label]:.3f}.")
        shown = self.prediction_labels(prediction)
        panels = [
            Panel(
                "Prediction over the scene", [Image(self.image), LabelMap(shown, self.palette, opacity=0.6)]
            ),
            Panel(
                "Prediction, wrong pixels striped",
                [LabelMap(shown, self.palette), Hatch(wrong, "error")],
                f"wrong pixels: {int(wrong.sum())}",
            ),
            Panel("Scores, and IoU of each class", [Bars(self._rows(scores, iou, label))]),
        ]
        return State(panels, readout, disabled=("right", "down", "grow") if drop else ())

    def prediction_labels(self, prediction):
        """The prediction as drawn: void pixels of the truth stay void, for they are not scored."""
        return torch.where(self.mask == VOID, VOID, prediction)

    def _rows(self, scores, iou, label):
        rows = [Bar(score, value, strong=score == "mean IoU") for score, value in scores.items()]
        rows.append(Bar("", float("nan")))
        for i in self.present:
            colour = "#" + bytes(np.asarray(self.palette[i]).tolist()).hex()
            rows.append(Bar(self.classes[i], float(iou[i]), colour, strong=i == label))
        return rows


def _words(name, right, down, grow, drop) -> str:
    if drop:
        return f"{name} dropped"
    moves = [f"{abs(right)} px {'right' if right > 0 else 'left'}"] if right else []
    moves += [f"{abs(down)} px {'down' if down > 0 else 'up'}"] if down else []
    parts = [f"shifted {' and '.join(moves)}"] if moves else []
    parts += [f"{'grown' if grow > 0 else 'shrunk'} by {abs(grow)} px"] if grow else []
    return f"{name} {' and '.join(parts)}" if parts else f"{name} as it is"


def thickened(region: torch.Tensor, by: int) -> torch.Tensor:
    """A bool region (H, W) grown by `by` pixels on every side (a square); shrunk where `by` is negative.

    Beyond the edge of the image the region is taken to go on as it is at the edge.
    """
    if by == 0:
        return region
    mask = (region if by > 0 else ~region)[None, None].float()
    side = 2 * abs(by) + 1                       # the square as a row of columns: two cheap poolings
    rows = F.max_pool2d(mask, (1, side), stride=1, padding=(0, abs(by)))
    grown = F.max_pool2d(rows, (side, 1), stride=1, padding=(abs(by), 0))[0, 0] > 0
    return grown if by > 0 else ~grown


def shifted(region: torch.Tensor, right: int, down: int) -> torch.Tensor:
    """A bool region (H, W) moved by whole pixels; what leaves the image is gone."""
    height, width = region.shape
    moved = torch.zeros_like(region)
    moved[max(down, 0):height + min(down, 0), max(right, 0):width + min(right, 0)] = \
        region[max(-down, 0):height + min(-down, 0), max(-right, 0):width + min(-right, 0)]
    return moved


def fill_from_neighbours(labels: torch.Tensor) -> torch.Tensor:
    """Every void pixel of (H, W) takes the nearest other label (chessboard distance; the higher wins)."""
    known = torch.where(labels == VOID, 0, labels + 1)[None, None].float()
    while (known == 0).any():
        known = torch.where(known > 0, known, F.max_pool2d(known, 3, stride=1, padding=1))
    return known[0, 0].long() - 1
