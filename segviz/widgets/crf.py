"""Explorer: the dense CRF after every iteration: its mask, its scores, and what one pixel hears (lesson 11)."""

from functools import lru_cache
from math import ceil, floor, isnan
from typing import NamedTuple

import torch
from torch import Tensor

from segviz import crf
from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE, VOID
from segviz.widgets.controls import Point, Slider, Steps
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bar, Bars, Dots, HeatMap, Image, LabelMap, Lines, Panel, Rects, State, Text
from segviz.widgets.scenes import Scenes, Scored

STEPS = {                                            # of the sliders: label, values, unit
    "pos_w": ("Smoothness pos_w", (0, 1, 3, 5, 10), ""),
    "pos_xy_std": ("Width pos_xy_std", (1, 2, 3, 5), "px"),
    "bi_w": ("Appearance bi_w", (0, 2, 4, 7, 10), ""),
    "bi_xy_std": ("Width bi_xy_std", (3, 10, 30, 67, 160), "px"),
    "bi_rgb_std": ("Colours bi_rgb_std", (1, 3, 6, 13, 30), "/ 255"),
}
KEPT = 16                                            # runs whose marginals are kept
FAINT = 1 / 64                                       # kernels below it are not painted
MEAN, BOUNDARY = "accent", "#cc79a7"                 # of the two curves


class Run(NamedTuple):
    """A CRF before its first iteration, after it, after the second, ...: marginals (T + 1, C, H, W), masks
    (T + 1, H, W), and their scores, none where the truth is not known."""

    marginals: Tensor
    masks: Tensor
    scores: list[Scored]


class CRFExplorer(Explorer):
    """A dense CRF on what a network believes, iteration by iteration; its weights and widths on sliders.

    probabilities: (C, H, W) each, a list or a tensor, one a scene, as for `crf.mean_field`. images: (3, H, W) or grey
    (1, H, W) each, float in [0, 1]. masks: integer (H, W) each, 255 for void, or None for a scene without truth, whose
    scores are not shown; None for all, where no truth is known. Scenes may differ in size. classes: one name a class;
    palette: uint8 (C, 3); names: one a scene. iterations: how many there are, and which is shown first. Weights and
    widths: those shown first, as in `crf.mean_field`; others are a few steps around them. scene: the first shown;
    pixel: (row, column), by default the one of that scene where the network is least sure.

    All iterations are computed at once where scene, weight or width changes, and the last few such runs are kept: then
    the iteration and the pixel cost little. A run costs the more the more pixels hear each other: 64 x 64 of them are
    heard within a second or so, 128 x 128 at wide colours take far longer. Shown is what the marked pixel hears
    through the appearance kernel, exp(0) = 1 for itself, before it is weighted and normalised. Tensors are copied.
    Raises ValueError where these do not fit each other.
    """

    def __init__(
        self, probabilities, images, masks=None, classes=CLASSES, palette=PALETTE, *, iterations=10, pos_w=3,
        pos_xy_std=1, bi_w=4, bi_xy_std=67, bi_rgb_std=3, scene=0, names=None, pixel=None, **options,
    ):
        given = dict(pos_w=pos_w, pos_xy_std=pos_xy_std, bi_w=bi_w, bi_xy_std=bi_xy_std, bi_rgb_std=bi_rgb_std)
        crf.mean_field(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), iterations, **given)     # refuses what cannot be
        self.probabilities, self.images = ([torch.as_tensor(each).detach().clone() for each in some]
                                           for some in (probabilities, images))
        masks = [None] * len(self.images) if masks is None else list(masks)
        self.names = [f"Scene {at}" for at in range(len(self.images))] if names is None else list(names)
        _check(self.probabilities, self.images, masks, self.names, classes)
        self.iterations = iterations
        self.scenes = [_scene(*each, classes, palette) for each in zip(self.names, self.images, masks, strict=True)]
        self.known = [bool((each.masks != VOID).any()) for each in self.scenes]
        self.run = lru_cache(KEPT)(self.run)
        shapes = [image.shape[1:] for image in self.images]
        rows, columns = (max(sizes) for sizes in zip(*shapes, strict=True))
        chosen = Slider("scene", "Scene", 0, len(self.images) - 1, value=scene)
        if pixel is None:
            pixel = divmod(int(self.probabilities[chosen.value].amax(0).argmin()), shapes[chosen.value][1])
        controls = [
            chosen,
            Slider("iteration", "Iteration", 0, iterations, value=iterations),
            *(Steps(name, label, _around(given[name], values), given[name], unit)
              for name, (label, values, unit) in STEPS.items()),
            Point("pixel", "Pixel", 0, rows, columns, pixel),
        ]
        options.setdefault("slow", ("scene", *STEPS))
        super().__init__(self._heard, controls, title="The dense CRF, iteration by iteration", **options)

    def run(self, scene: int, **settings: float) -> Run:
        """The CRF of one scene with these weights and widths."""
        found = crf.marginals(self.probabilities[scene], self.images[scene], self.iterations, **settings)
        marginals = torch.stack([each.float().cpu() for each in found])
        masks = marginals.argmax(1)
        return Run(marginals, masks, [self.scenes[scene].scored(mask, 0) for mask in masks] * self.known[scene])

    def kernel(self, scene: int, pixel: tuple[int, int], bi_xy_std: float, bi_rgb_std: float) -> Tensor:
        """The appearance kernel between one pixel and all others, float64 (H, W)."""
        image = self.images[scene].cpu().double()
        features = crf.place_and_colour(image, bi_xy_std, bi_rgb_std).view(*image.shape[1:], -1)
        return (-(features - features[pixel]).square().sum(-1) / 2).exp()

    # --- what is shown

    def _heard(self, scene, iteration, pixel, **settings) -> State:
        run, scenes, name = self.run(scene, **settings), self.scenes[scene], self.names[scene]
        height, width = size = tuple(run.masks.shape[1:])
        row, column = min(pixel[0], height - 1), min(pixel[1], width - 1)
        mask, marginals = run.masks[iteration], run.marginals[iteration]
        kernel = self.kernel(scene, (row, column), settings["bi_xy_std"], settings["bi_rgb_std"])
        heard = self._shares(kernel, marginals, settings["bi_w"])
        marked = Rects([(column - 1, row - 1, column + 2, row + 2)], "mark")
        after = f"after iteration {iteration}" if iteration else "before the first iteration"
        truth = scenes.masks[0, row, column].item()
        truth = f" Truth: {scenes.classes[truth]}." if truth != VOID else ""
        panels = [
            Panel(f"{name}: point here", [Image(scenes.images[0]), marked]),
            Panel("What the marked pixel hears", self._painted(scenes, kernel, marked), heard),
            Panel(f"Mask {after}", [LabelMap(mask, scenes.palette), marked],
                  str(run.scores[iteration]) if run.scores else ""),
            self._changed(scene, run, mask, marked),
            Panel("Marginals of the marked pixel", [Bars(self._bars(scenes, run, iteration, row, column))],
                  f"Tick: the network's.{truth}"),
            self._curves(run, iteration, size),
        ]
        now, before = (each[:, row, column] for each in (marginals, run.marginals[0]))
        most = int(now.argmax())
        here = f"Pixel {row}, {column}: {scenes.classes[most]} {now[most]:.3f}, by the network {before[most]:.3f}."
        return State(panels, f"{name}, {after}: {_said(run, iteration)} {here}{truth} {heard}",
                     bounds={"pixel": size}, disabled=() if settings["pos_w"] else ("pos_xy_std",),
                     hidden=() if len(self.images) > 1 else ("scene",))

    def _shares(self, kernel, marginals, weight) -> str:
        """How much the pixel hears, and which classes that is for."""
        heard = (kernel * marginals).sum((1, 2))
        shares = (heard / heard.sum()).topk(min(2, len(heard)))
        said = ", ".join(f"{share:.0%}\u00a0{self.scenes[0].classes[at]}" for share, at in
                         zip(shares.values.tolist(), shares.indices.tolist(), strict=True) if share >= 0.005)
        return (f"It hears as much as {kernel.sum():.1f} pixels just like it: {said}."
                + (" But bi_w is 0: it does not listen." if not weight else ""))

    @staticmethod
    def _painted(scenes, kernel, marked) -> list:
        shown = torch.where(kernel < FAINT, torch.nan, kernel)
        return [Image(scenes.images[0], opacity=0.35), HeatMap(shown, legend="kernel", opacity=0.9), marked]

    def _changed(self, scene, run, mask, marked) -> Panel:
        panel = self.scenes[scene].difference(mask, run.masks[0], 0)
        if not self.known[scene]:
            panel.caption = f"{_share_changed(mask, run.masks[0]):.1%} of the pixels, in grey."
        panel.layers.append(marked)
        return panel

    @staticmethod
    def _bars(scenes, run, iteration, row, column) -> list[Bar]:
        now, before = (run.marginals[at, :, row, column].tolist() for at in (iteration, 0))
        colours = ["#" + bytes(colour.tolist()).hex() for colour in scenes.palette]
        return [Bar(name, now[at], colours[at], reference=before[at]) for at, name in enumerate(scenes.classes)]

    def _curves(self, run, iteration, size) -> Panel:
        """Gains over the network after every iteration; without a truth, how many labels have changed."""
        if not run.scores:
            changed = [100 * _share_changed(mask, run.masks[0]) for mask in run.masks]
            curves = {f"{changed[iteration]:.1f} % of the pixels": (changed, MEAN)}
            return Panel("Labels changed", _plotted(curves, iteration, size, 5), size=size)
        first, now = run.scores[0], run.scores[iteration]
        mean = [each.mean_iou - first.mean_iou for each in run.scores]
        boundary = [each.boundary_iou - first.boundary_iou for each in run.scores]
        curves = {f"mean {_signed(mean[iteration])}": (mean, MEAN),
                  f"boundary {_signed(boundary[iteration])}": (boundary, BOUNDARY)}
        gains = [(new - old, name) for name, new, old in
                 zip(self.scenes[0].classes, now.each, first.each, strict=True) if not isnan(new - old)]
        ends = (("Best", max(gains)), ("Worst", min(gains))) if iteration else ()
        words = " ".join(f"{how}: {name}\u00a0{_signed(gain)}." for how, (gain, name) in ends)
        step = 0.02 if max(mean + boundary) - min(mean + boundary) < 0.2 else 0.1
        return Panel("Gain in IoU", _plotted(curves, iteration, size, step), words, size)


def _said(run, iteration) -> str:
    """The scores, what they have gained, and how many labels have changed."""
    changed = f"{_share_changed(run.masks[iteration], run.masks[0]):.1%} of the labels changed."
    if not run.scores:
        return changed
    (mean, boundary, _), (mean_before, boundary_before, _) = run.scores[iteration], run.scores[0]
    return (f"mean IoU {mean:.3f} ({_signed(mean - mean_before)}), boundary IoU {boundary:.3f} "
            f"({_signed(boundary - boundary_before)}), {changed}")


def _plotted(curves: dict, iteration: int, size, step: float) -> list:
    """Layers of a panel of this (rows, columns): curves over the iterations, named by what each is now. The scale ends
    at whole steps, and holds 0."""
    height, width = size
    values = [value for curve, _ in curves.values() for value in curve]
    low, high = step * floor(min(0.0, *values) / step + 1e-9), step * ceil(max(0.0, *values) / step - 1e-9)
    high = high if high > low else step
    left, right, top, bottom = 0.17 * width, 0.96 * width, 0.16 * height, 0.88 * height
    last = len(next(iter(curves.values()))[0]) - 1

    def to(at, value):
        return left + (right - left) * at / max(last, 1), bottom - (bottom - top) * (value - low) / (high - low)

    levels, ends = {low, 0.0, high}, [end for end in (0, last) if abs(end - iteration) > last / 12]
    layers = [
        Lines([[to(0, level), to(last, level)] for level in levels], "line", 1),
        Lines([[to(iteration, low), to(iteration, high)]], "muted", 1),
        Text([(0.08 * width, to(0, level)[1], _signed(level, 2) if step < 1 else f"{level:.0f}") for level in levels],
             "muted"),
        Text([(to(at, low)[0], 0.95 * height, str(at)) for at in {iteration, *ends}], "muted"),
    ]
    room = width / len(curves)
    for place, (name, (curve, colour)) in enumerate(curves.items()):
        points, middle = [to(at, value) for at, value in enumerate(curve)], (place + 0.5) * room
        layers += [Lines([points], colour, 2), Dots([points[iteration]], colour, 4),
                   Text([(middle, 0.03 * height, name)], size=10, fit=room),
                   Lines([[(middle - 0.4 * room, 0.075 * height), (middle + 0.4 * room, 0.075 * height)]], colour, 2.5)]
    return layers


def _signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−") if round(value, digits) else "0"


def _share_changed(mask: Tensor, before: Tensor) -> float:
    return (mask != before).float().mean().item()


def _around(given: float, values: tuple) -> tuple:
    """The steps of a slider with the one that is given, which stands in place of those close to it."""
    return tuple(sorted({given, *(value for value in values if not given / 1.3 < value < given * 1.3)}))


def _scene(name, image, mask, classes, palette) -> Scenes:
    """One scene; where no truth is known its mask is void throughout."""
    mask = torch.full(image.shape[1:], VOID) if mask is None else torch.as_tensor(mask).clone()
    try:
        return Scenes(image[None], mask[None], classes, palette)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check(probabilities, images, masks, names, classes) -> None:
    if not images or len({len(probabilities), len(images), len(masks), len(names)}) > 1:
        raise ValueError(f"each scene has probabilities, an image, a mask or None, and a name, but there are "
                         f"{len(probabilities)}, {len(images)}, {len(masks)} and {len(names)}")
    for name, each, image in zip(names, probabilities, images, strict=True):
        try:
            next(crf.marginals(each, image, 0, pos_w=0, bi_w=0))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if len(each) != len(classes):
            raise ValueError(f"{name} has probabilities of {len(each)} classes, but {len(classes)} were named: classes "
                             "needs a name for each")
