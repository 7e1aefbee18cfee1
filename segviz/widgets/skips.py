"""Explorer: what each skip connection adds to the sum, and which of them decided each pixel (lesson 06)."""

from math import isnan

import torch
from torch import Tensor

from segviz import metrics
from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE, VOID, array
from segviz.widgets.controls import Choice, Point, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import CLEAR, Bar, Bars, Image, LabelMap, Marker, Panel, Pointed, State, Text, Told

EVERY, WRONG = "of every pixel", "of the wrong pixels"
COLOURS = ("#0072B2", "#E69F00", "#009E73")          # of the sources, coarse to fine: Okabe and Ito's, for any eyes
BATCH = 8                                            # images that the network is given at once


class SkipsExplorer(Explorer):
    """A trained FCN taken apart: what fc7 and each skip say, each times a weight, their sum, and who decided what.

    network: an FCN32s, FCN16s or FCN8s, or what has `skips` and `contributions(images)` as they do. It is run once,
    in evaluation mode: what is changed in it later is not seen. images: float (B, 3, H, W) in [0, 1]; masks: integer
    (B, H, W), 255 for void; classes: one name a class; palette: uint8 (C, 3). watched: classes whose IoU over all the
    images is shown, those of them that are among the classes. scene, pixel: what is shown first, the pixel as (row,
    column). Raises ValueError where these do not fit each other.

    Who decided a pixel is defined by `decided`.
    """

    def __init__(
        self, network, images, masks, classes=CLASSES, palette=PALETTE, watched=("pole", "marking"), *, scene=0,
        pixel=None, **options,
    ):
        self.classes, self.palette = tuple(classes), array(palette)
        self.images, self.masks = _checked(images, masks, self.classes)
        if not hasattr(network, "contributions"):
            raise ValueError(f"expected a network with contributions(images), as FCN8s has; got {type(network)}")
        self.sources = ("fc7", *(f"pool{stage + 1}" for stage in network.skips))
        self.strides = (32, *(2 ** (stage + 1) for stage in network.skips))
        self.parts = _contributions(network, self.images)                              # (S, B, C, H, W)
        if self.parts.shape[2] != len(self.classes):
            raise ValueError(f"the network scores {self.parts.shape[2]} classes, but {len(self.classes)} were named: "
                             "classes needs a name for each")
        self.watched = [self.classes.index(name) for name in watched if name in self.classes]
        self._bins = torch.where(self.masks == VOID, len(self.classes), self.masks) * len(self.classes)
        everyone = torch.ones(len(self.sources))
        self.whole = labels(self._sums(everyone))                                      # (B, H, W), the network's own
        self._ticks = [self._scored(mask, at) for at, mask in enumerate(self.whole)]
        self._whole_counts = self._counts(self.whole)
        self.alone = [labels(part) for part in self.parts]                             # S times (B, H, W)
        self._alone_scores = [[self._scored(mask, at)[0] for at, mask in enumerate(masks)] for masks in self.alone]
        # The bars' scale, the same in all states: one lead in a hundred is longer.
        leads = torch.stack([decided(self.parts[:, at], whole)[1].amax(0) for at, whole in enumerate(self.whole)])
        self.most = float(leads.flatten().quantile(0.99)) or 1.0
        height, width = self.masks.shape[1:]
        controls = [
            Slider("scene", "Scene", 0, len(self.images) - 1, value=scene),
            Choice("shown", "Who decided", (EVERY, WRONG)),
            *(Slider(name, f"Weight of {name}", 0, 1, 0.1, value=1) for name in self.sources),
            Point("pixel", "Pixel", 0, height, width, pixel or (height // 2, width // 2), hover=True, local=True),
        ]
        super().__init__(self._added, controls, title="What the skips add", **options)

    def predict(self, scene: int, **weights: float) -> Tensor:
        """The mask of the weighted sum, uint8 (H, W). A source that is not named has weight 1."""
        return labels(self._sums(self._weights(weights)))[scene]

    def _weights(self, weights: dict) -> Tensor:
        return torch.tensor([float(weights.get(name, 1)) for name in self.sources])

    def _sums(self, weights: Tensor) -> Tensor:
        """Logits (B, C, H, W)."""
        return torch.tensordot(weights, self.parts, 1)

    def _counts(self, prediction: Tensor) -> Tensor:
        """`metrics.confusion_matrix` with the masks of all images, without its checks, which take ten times as long."""
        size = len(self.classes)
        pairs = torch.bincount((self._bins + prediction).flatten(), minlength=size * (size + 1))
        return pairs[: size * size].view(size, size)                                   # the rest is void

    def _added(self, scene, shown, **named) -> State:
        weights = self._weights(named)
        predictions = labels(self._sums(weights))
        winner = predictions[scene].long()
        runner, shares, source = decided(self.parts[:, scene] * weights[:, None, None, None], winner)
        found, marked = self._scored(winner, scene), _around("pixel", *winner.shape)
        told = self._told(scene, winner, runner, shares)
        panels = [
            Panel(f"Scene {scene}: point here", [Image(self.images[scene]), marked]),
            Panel("Truth", [LabelMap(self.masks[scene], self.palette), marked]),
            Panel("The weighted sum", [LabelMap(winner, self.palette), marked]),
            self._who(scene, shown, winner, source, marked),
            self._at_the_pixel(told),
            *(self._one_alone(scene, at, weights, marked) for at in range(len(self.sources))),
            *self._scores(scene, found, predictions),
        ]
        each = ", ".join(f"{name} {{{at}}}" for at, name in enumerate(self.sources, 4))
        words = f"At the marked pixel {{0}} leads {{1}} by {{3}}: {each}. Truth: {{2}}."
        problem = "" if weights.any() else "Nothing is added: all classes have score 0, and the first one is taken."
        return State(panels, self._readout(scene, named, found), problem, self.sources[-1] if problem else "",
                     pointed={"pixel": Pointed(words=words, told=told)})

    def _told(self, scene, winner, runner, shares) -> Told:
        """Winner, runner-up, truth, lead, and each source's share of the lead, of every pixel."""
        truth = torch.where(self.masks[scene] == VOID, len(self.classes), self.masks[scene])
        tenths = torch.cat([shares.sum(0, keepdim=True), shares]).mul(10).round()
        numbers = torch.cat([torch.stack([winner, runner, truth]), tenths.clamp(-32767, 32767).long()])
        return Told(numbers, [self.classes, self.classes, (*self.classes, "void"), *[()] * len(tenths)])

    def _who(self, scene, shown, winner, source, marked) -> Panel:
        """Which source decided, as a label map with a legend under it: for all pixels, or for those that are wrong."""
        height, width = winner.shape
        over, title = (0, 0, width, height), "Which source decided"
        among = torch.ones_like(winner, dtype=torch.bool)
        layers = []
        if shown == WRONG:
            among = (winner != self.masks[scene]) & (self.masks[scene] != VOID)
            layers, title = [Image(self.images[scene], opacity=0.4)], "Where the sum is wrong"
        count = int(among.sum())
        share = [int((source[among] == at).sum()) / max(count, 1) for at in range(len(self.sources))]
        said = ", ".join(f"{name}\u00a0{one:.0%}" for name, one in zip(self.sources, share, strict=True))
        caption = f"{said} of {count} {'wrong ' * (shown == WRONG)}pixels."
        if (source[among] == VOID).any():
            caption += " Striped: nobody, there is no lead."
        layers += [LabelMap(torch.where(among, source, CLEAR), _palette(), box=over), marked]
        return Panel(title, [*layers, *_legend(self.sources, height, width)], caption,
                     size=(height + _row(width), width))

    def _at_the_pixel(self, told) -> Panel:
        rows = [Bar("{0} over {1}", text="{3}", strong=True, bare=True)]
        rows += [Bar(name, at + 4, colour, f"{{{at + 4}}}")
                 for at, (name, colour) in enumerate(zip(self.sources, COLOURS, strict=False))]
        rows.append(Bar("truth: {2}", bare=True))
        return Panel("At the marked pixel", [Bars(rows, self.most, -self.most, "pixel", told)],
                     "What each source adds to the winner's lead.")

    def _one_alone(self, scene, at, weights, marked) -> Panel:
        layer = LabelMap(self.alone[at][scene], self.palette, opacity=1.0 if weights[at] else 0.35)
        return Panel(f"{self.sources[at]} alone", [layer, marked],
                     f"Stride {self.strides[at]}. Mean IoU {self._alone_scores[at][scene]:.3f}.")

    def _scored(self, prediction: Tensor, scene: int) -> tuple[float, float, list[float]]:
        """Mean IoU, boundary IoU and the IoU of each class, on one scene."""
        target, size = self.masks[scene], len(self.classes)
        each = metrics.class_iou(metrics.confusion_matrix(prediction, target, size))
        return each.nanmean().item(), metrics.boundary_iou(prediction, target, size).nanmean().item(), each.tolist()

    def _scores(self, scene, found, predictions) -> list[Panel]:
        """The two panels of scores; those of the network, with all weights 1, as ticks."""
        (mean, boundary, each), (mean_1, boundary_1, each_1) = found, self._ticks[scene]
        counts = [self._counts(predictions), self._whole_counts]
        over_all, over_all_1 = (metrics.class_iou(one).tolist() for one in counts)
        rows = [
            Bar("This scene", bare=True, strong=True),
            _bar("mean IoU", mean, mean_1),
            _bar("boundary IoU", boundary, boundary_1),
            Bar(""),
            Bar(f"All {len(self.images)} scenes", bare=True, strong=True),
            _bar("mean IoU", *map(metrics.mean_iou, counts)),
            *(_bar(f"{self.classes[at]} IoU", over_all[at], over_all_1[at]) for at in self.watched),
        ]
        own = [_bar(name, each[at], each_1[at], "#" + bytes(self.palette[at].tolist()).hex())
               for at, name in enumerate(self.classes)]
        return [Panel("Scores", [Bars(rows)], "Tick: with all weights 1."),
                Panel("IoU of each class", [Bars(own)])]

    def _readout(self, scene, named, found) -> str:
        (mean, _, each), (mean_1, _, each_1) = found, self._ticks[scene]
        weights = ", ".join(f"{name} {named[name]:g}" for name in self.sources)
        thin = [f", {self.classes[at]} {each[at]:.3f} ({each_1[at]:.3f})" for at in self.watched
                if not isnan(each[at])]
        return (f"Scene {scene}, weights {weights}: mean IoU {mean:.3f} ({mean_1:.3f} with all weights 1)"
                f"{''.join(thin)}.")


def decided(parts: Tensor, winner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which of the sources decided each pixel.

    parts: (S, C, H, W), what each source adds to the scores, times its weight. winner: (H, W), the class with the
    highest sum. The lead of the winner over the runner-up, the best of the other classes, is the sum over the sources
    of parts[s, winner] - parts[s, runner-up]; the source with the largest of these decided. Where the lead is 0,
    nobody did. A constant that training gave to one source and might have given to another changes no sum, but this.
    Returns the runner-up, int64 (H, W), these shares of the lead, (S, H, W), and the sources, uint8 (H, W), 255 for
    nobody.
    """
    sums = parts.sum(0)
    runner = labels(sums.scatter(0, winner.long()[None], -torch.inf)).long()
    one, other = (parts.gather(1, at.long().expand(len(parts), 1, -1, -1))[:, 0] for at in (winner, runner))
    shares = one - other
    source = labels(shares)
    return runner, shares, source.masked_fill(shares.sum(0) == 0, VOID)


def labels(scores: Tensor) -> Tensor:
    """`scores.argmax(-3)`, the first of equals, as uint8: on a CPU in a tenth of its time."""
    ranks = torch.arange(scores.shape[-3], 0, -1, dtype=torch.uint8)[:, None, None]
    return len(ranks) - ((scores == scores.amax(-3, keepdim=True)) * ranks).amax(-3)


def _contributions(network, images) -> Tensor:
    """(S, B, C, H, W), the network in evaluation mode."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            return torch.cat([torch.stack(network.contributions(some)) for some in images.split(BATCH)], 1)
    finally:
        network.train(was_training)


def _checked(images, masks, classes) -> tuple[Tensor, Tensor]:
    """Both as tensors; ValueError, in words, where they do not fit."""
    images, masks = (torch.stack(list(each)) if isinstance(each, (list, tuple)) else torch.as_tensor(each)
                     for each in (images, masks))
    if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
        raise ValueError(f"the images are float (B, 3, H, W), one or more; got {images.dtype} of shape "
                         f"{tuple(images.shape)}")
    if masks.shape != (len(images), *images.shape[2:]) or masks.is_floating_point():
        raise ValueError(f"the masks are whole numbers (B, H, W) = {(len(images), *images.shape[2:])}, one for each "
                         f"image; got {masks.dtype} of shape {tuple(masks.shape)}")
    masks = masks.long()
    if wrong := sorted(set(masks.unique().tolist()) - {*range(len(classes)), VOID}):
        raise ValueError(f"the masks hold label {wrong[0]}, expected 0 to {len(classes) - 1} or {VOID} (void)")
    return images, masks


def _around(at: str, height: int, width: int) -> Marker:
    """A box one pixel wider than the pixel, so that it can be seen."""
    return Marker(at, rows=[(i - 1, i + 2) for i in range(height)], columns=[(j - 1, j + 2) for j in range(width)])


def _palette() -> Tensor:
    return torch.tensor([list(bytes.fromhex(colour[1:])) for colour in COLOURS], dtype=torch.uint8)


def _row(width: int) -> float:
    """The legend's height, in units of a map of that width."""
    return 0.1 * width


def _legend(names, height: int, width: int) -> list:
    """A swatch and a name for each source, under a map of that size."""
    row = _row(width)
    layers = []
    for at, name in enumerate(names):
        left = at * width / 3
        swatch = (left, height + 0.35 * row, left + 0.5 * row, height + 0.85 * row)
        words = (left + (0.65 + 0.17 * len(name)) * row, height + 0.6 * row, name)
        layers += [LabelMap([[at]], _palette(), box=swatch), Text([words])]
    return layers


def _bar(name: str, value: float, tick: float, colour: str = "accent") -> Bar:
    return Bar(name, value, colour, reference=None if isnan(tick) else tick)
