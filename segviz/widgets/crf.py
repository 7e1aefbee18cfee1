"""Explorer: the dense CRF after every iteration: its mask, its scores, and what one pixel hears (lesson 11)."""

from functools import lru_cache
from itertools import pairwise
from math import ceil, isnan
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

# The steps of the sliders, and the unit: weights, then widths.
STEPS = {"pos_w": ((0, 1, 3, 5, 10), ""), "pos_xy_std": ((1, 2, 3, 5), "px"),
         "bi_w": ((0, 2, 4, 7, 10), ""), "bi_xy_std": ((3, 10, 30, 67, 160), "px"),
         "bi_rgb_std": ((1, 3, 6, 13, 30), "/ 255")}  # fmt: skip
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
    the iteration and the pixel cost little. Shown is what the marked pixel hears through the appearance kernel,
    exp(0) = 1 for itself, before it is weighted and normalised. Raises ValueError where these do not fit each other.
    """

    def __init__(
        self, probabilities, images, masks=None, classes=CLASSES, palette=PALETTE, *, iterations=10, pos_w=3,
        pos_xy_std=1, bi_w=4, bi_xy_std=67, bi_rgb_std=3, scene=0, names=None, pixel=None, **options,
    ):
        given = dict(pos_w=pos_w, pos_xy_std=pos_xy_std, bi_w=bi_w, bi_xy_std=bi_xy_std, bi_rgb_std=bi_rgb_std)
        crf.mean_field(torch.ones(1, 1, 1), torch.zeros(1, 1, 1), iterations, **given)     # refuses what cannot be
        self.probabilities, self.images, masks = list(probabilities), list(images), _listed(masks, len(images))
        self.names = [f"Scene {at}" for at in range(len(self.images))] if names is None else list(names)
        _check(self.probabilities, self.images, masks, self.names, classes)
        self.iterations, self.known = iterations, [mask is not None for mask in masks]
        self.scenes = [_scene(*each, classes, palette) for each in zip(self.names, self.images, masks, strict=True)]
        self.run = lru_cache(KEPT)(self.run)
        shapes = [image.shape[1:] for image in self.images]
        rows, columns = (max(sizes) for sizes in zip(*shapes, strict=True))
        chosen = Slider("scene", "Scene", 0, len(self.images) - 1, value=scene)
        if pixel is None:
            pixel = divmod(int(self.probabilities[chosen.value].amax(0).argmin()), shapes[chosen.value][1])
        controls = [
            chosen,
            Slider("iteration", "Iteration", 0, iterations, value=iterations),
            *(Steps(name, f"{'Smoothness' if name.startswith('pos') else 'Appearance'} {name}",
                    _around(given[name], values), given[name], unit) for name, (values, unit) in STEPS.items()),
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
        pixel = min(pixel[0], height - 1), min(pixel[1], width - 1)
        kernel = self.kernel(scene, pixel, settings["bi_xy_std"], settings["bi_rgb_std"])
        marked = Rects([(pixel[1] - 1, pixel[0] - 1, pixel[1] + 2, pixel[0] + 2)], "mark")
        mask, q = run.masks[iteration], run.marginals[iteration]
        score = str(run.scores[iteration]) if run.scores else ""
        after = f"after iteration {iteration}" if iteration else "before the first iteration"
        heard = self._shares(kernel, q)
        panels = [
            Panel(f"{name}: point here", [Image(scenes.images[0]), marked]),
            Panel("What the marked pixel hears", self._kernel(scenes, kernel, marked), heard),
            Panel(f"Mask {after}", [LabelMap(mask, scenes.palette), marked], score),
            self._changed(scene, run, mask, marked),
            Panel("Marginals of the marked pixel", [Bars(self._bars(scenes, run, iteration, pixel))],
                  "Tick: the network's."),
            self._curves(run, iteration, size),
        ]
        now, before = (each[:, pixel[0], pixel[1]] for each in (q, run.marginals[0]))
        most, classes = int(now.argmax()), scenes.classes
        truth = int(scenes.masks[0][pixel])
        words = [f"{name}, {after}{f': {score}' if score else ''}.",
                 f"Pixel {pixel[0]}, {pixel[1]}: {classes[most]} {now[most]:.3f}, by the network {before[most]:.3f}.",
                 f"Truth: {classes[truth]}." if truth != VOID else "", heard]
        return State(panels, " ".join(filter(None, words)), bounds={"pixel": size},
                     disabled=() if settings["pos_w"] else ("pos_xy_std",))

    def _shares(self, kernel, q) -> str:
        """How much the pixel hears, and which classes that is for."""
        heard = (kernel * q).sum((1, 2))
        most = heard.topk(min(2, len(heard))).indices.tolist()
        said = ", ".join(f"{heard[at] / heard.sum():.0%}\u00a0{self.scenes[0].classes[at]}" for at in most)
        return f"As much as {kernel.sum():.1f} pixels just like it: {said}."

    @staticmethod
    def _kernel(scenes, kernel, marked) -> list:
        picture = Image(scenes.images[0], opacity=0.35)
        shown = torch.where(kernel < FAINT, torch.nan, kernel)
        return [picture, HeatMap(shown, legend="kernel", opacity=0.9), marked]

    def _changed(self, scene, run, mask, marked) -> Panel:
        panel = self.scenes[scene].difference(mask, run.masks[0], 0)
        if not self.known[scene]:
            panel.caption = f"{_share_changed(mask, run.masks[0]):.1%} of the pixels, in grey."
        panel.layers.append(marked)
        return panel

    @staticmethod
    def _bars(scenes, run, iteration, pixel) -> list[Bar]:
        now, before = (run.marginals[at][:, pixel[0], pixel[1]].tolist() for at in (iteration, 0))
        colours = ["#" + bytes(colour.tolist()).hex() for colour in scenes.palette]
        return [Bar(name, now[at], colours[at], reference=before[at]) for at, name in enumerate(scenes.classes)]

    def _curves(self, run, iteration, size) -> Panel:
        """Gains over the network after every iteration; without a truth, how many labels have changed."""
        if not run.scores:
            changed = [100 * _share_changed(mask, run.masks[0]) for mask in run.masks]
            return _plotted("Labels changed", {"% of the pixels": (changed, MEAN)}, iteration, size, "{:.1f}", 5)
        first = run.scores[0]
        mean = [each.mean_iou - first.mean_iou for each in run.scores]
        boundary = [each.boundary_iou - first.boundary_iou for each in run.scores]
        panel = _plotted("Gain in score", {"mean IoU": (mean, MEAN), "boundary IoU": (boundary, BOUNDARY)}, iteration,
                         size, "{:+.3f}", 0.02)
        gains = {name: new - old for name, new, old in
                 zip(self.scenes[0].classes, run.scores[iteration].each, first.each, strict=True)
                 if not isnan(new - old)}
        ranked = sorted(gains, key=gains.get)
        panel.caption = f"IoU of {ranked[-1]} {_signed(gains[ranked[-1]])}, of {ranked[0]} {_signed(gains[ranked[0]])}."
        return panel


def _plotted(title, curves: dict, iteration, size, form, step) -> Panel:
    """Curves over the iterations, in a panel of this (rows, columns); the scale ends at whole steps."""
    height, width = size
    values = [value for curve, _ in curves.values() for value in curve]
    low, high = (step * ceil(max(0.0, *(sign * value for value in values)) / step) for sign in (-1, 1))
    high = high or step
    left, right, top, bottom = 0.16 * width, 0.96 * width, 0.2 * height, 0.88 * height
    count = len(next(iter(curves.values()))[0]) - 1

    def to(at, value):
        return left + (right - left) * at / max(count, 1), bottom - (bottom - top) * (value + low) / (high + low)

    levels = sorted({-low, 0, high})
    layers = [
        Lines([[to(0, level), to(count, level)] for level in levels], "line", 1),
        Lines([[to(iteration, -low), to(iteration, high)]], "muted", 1),
        Text([(0.07 * width, to(0, level)[1], _signed(level, step)) for level in levels], "muted"),
        Text([(to(at, 0)[0], 0.95 * height, str(at)) for at in sorted({0, iteration, count})], "muted"),
    ]
    for place, (name, (curve, colour)) in enumerate(curves.items()):
        points = [to(at, value) for at, value in enumerate(curve)]
        layers += [Lines(list(map(list, pairwise(points))), colour, 2), Dots([points[iteration]], colour, 4)]
        y = (0.04 + 0.08 * place) * height
        layers += [Lines([[(left, y), (left + 0.06 * width, y)]], colour, 2.5),
                   Text([(left + 0.4 * width, y, f"{name} {form.format(curve[iteration])}")])]
    return Panel(title, layers, size=size)


def _signed(value: float, step: float = 0.001) -> str:
    return f"{value:+.0f}" if step >= 1 else f"{value:+.3f}" if step < 0.01 else f"{value:+.2f}"


def _share_changed(mask: Tensor, before: Tensor) -> float:
    return (mask != before).float().mean().item()


def _around(given: float, values: tuple) -> tuple:
    """The steps of a slider with the one that is given, which stands in place of those close to it."""
    return tuple(sorted({given, *(value for value in values if not given / 1.3 < value < given * 1.3)}))


def _listed(masks, count: int) -> list:
    return [None] * count if masks is None else list(masks)


def _scene(name, image, mask, classes, palette) -> Scenes:
    """One scene; where no truth is known its mask is void throughout."""
    mask = torch.full(image.shape[1:], VOID) if mask is None else torch.as_tensor(mask)
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
