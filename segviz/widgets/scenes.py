"""The scenes on which explorers show a trained network: images with their masks, and how a prediction scores."""

from math import isnan
from typing import NamedTuple

import torch
from torch import Tensor

from segviz import metrics
from segviz.draw import VOID, array
from segviz.widgets.panels import CLEAR, Bar, Image, LabelMap, Panel

LOST, WON, NEITHER = range(3)
VERDICTS = torch.tensor([[0xD5, 0x5E, 0x00], [0x00, 0x72, 0xB2], [0x99, 0x99, 0x99]], dtype=torch.uint8)  # Okabe, Ito


class Scored(NamedTuple):
    """Scores of one mask; `each`: the IoU of each class, NaN for those that occur nowhere."""

    mean_iou: float
    boundary_iou: float
    each: list[float]

    def __str__(self) -> str:
        return f"mean\u00a0IoU\u00a0{self.mean_iou:.3f}, boundary\u00a0IoU\u00a0{self.boundary_iou:.3f}"


class Scenes:
    """images: float (B, 3, H, W), or grey (B, 1, H, W), in [0, 1], masks: integer (B, H, W), 255 for void, or lists of
    such images and masks of one size; classes: one name a class; palette: uint8 (C, 3). ValueError where these do not
    fit each other."""

    def __init__(self, images, masks, classes, palette):
        for what, each in (("images", images), ("masks", masks)):
            shapes = {tuple(one.shape) for one in each} if isinstance(each, (list, tuple)) else ()
            if len(shapes) > 1:
                raise ValueError(f"the {what} need one size, but they have shapes "
                                 f"{' and '.join(map(str, sorted(shapes)))}: crop or resize them first")
        images, masks = (torch.stack(list(each)) if isinstance(each, (list, tuple)) and each else torch.as_tensor(each)
                         for each in (images, masks))
        if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point() or not len(images):
            raise ValueError(f"the images are float (B, 1, H, W), grey, or float (B, 3, H, W), one or more; got "
                             f"{images.dtype} of shape {tuple(images.shape)}")
        if masks.shape != (len(images), *images.shape[2:]) or masks.is_floating_point():
            raise ValueError(f"the masks are whole numbers (B, H, W) = {(len(images), *images.shape[2:])}, one for "
                             f"each image; got {masks.dtype} of shape {tuple(masks.shape)}")
        if wrong := sorted(set(masks.unique().tolist()) - {*range(len(classes)), VOID}):
            raise ValueError(f"the masks hold label {wrong[0]}, expected 0 to {len(classes) - 1} or {VOID} (void)")
        if len(palette) < len(classes):
            raise ValueError(f"the palette has {len(palette)} colours for {len(classes)} classes: one each is needed")
        self.images, self.masks = images.cpu(), masks.long().cpu()
        self.classes, self.palette = tuple(classes), array(palette)

    def __len__(self) -> int:
        return len(self.images)

    def scored(self, prediction: Tensor, scene: int) -> Scored:
        """How a label map (H, W) scores on one scene."""
        target, size = self.masks[scene], len(self.classes)
        each = metrics.class_iou(metrics.confusion_matrix(prediction, target, size))
        boundary = metrics.boundary_iou(prediction, target, size).nanmean().item()
        return Scored(each.nanmean().item(), boundary, each.tolist())

    def class_bars(self, found: Scored, whole: Scored) -> list[Bar]:
        """The IoU of each class, in its colour, with a tick where it is in `whole`."""
        colours = ["#" + bytes(colour.tolist()).hex() for colour in self.palette]
        return [bar(name, found.each[at], whole.each[at], colours[at]) for at, name in enumerate(self.classes)]

    def difference(self, mask: Tensor, whole: Tensor, scene: int) -> Panel:
        """Where a label map (H, W) is not `whole`, and which of the two is right there, if one is."""
        truth, picture = self.masks[scene], Image(self.images[scene], opacity=0.3)
        changed = mask != whole
        lost, won = changed & (whole == truth), changed & (mask == truth)     # nowhere where the truth is void
        verdict = torch.full_like(mask, NEITHER).masked_fill(lost, LOST).masked_fill(won, WON)
        shown = LabelMap(torch.where(changed, verdict, CLEAR), VERDICTS, box=picture.extent())
        return Panel("What that changes", [picture, shown], f"{changed.float().mean():.1%} of the pixels. Orange: "
                     f"{int(lost.sum())} that were right. Blue: {int(won.sum())} that are now. Grey: neither.")


def strength(maps: Tensor) -> Tensor:
    """The mean absolute activation of maps (C, h, w) at each place, (h, w)."""
    return maps.abs().mean(0).cpu()


def top(strengths: Tensor) -> float:
    """Where the colour scale of strengths ends: at the largest, to two digits; at 1 where nothing is active."""
    return float(f"{strengths.max():.2g}") or 1.0


def bar(name: str, value: float, tick: float, colour: str = "accent") -> Bar:
    return Bar(name, value, colour, reference=None if isnan(tick) else tick)
