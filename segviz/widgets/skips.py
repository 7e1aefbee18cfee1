"""Explorer: what each skip connection adds to the sum, and which of them decided each pixel (lesson 06)."""

from math import isnan

import torch
from torch import Tensor

from segviz import metrics
from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE, VOID
from segviz.widgets.controls import Choice, Point, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import CLEAR, Bar, Bars, Image, LabelMap, Marker, Panel, Pointed, State, Text, Told
from segviz.widgets.scenes import Scenes, bar

EVERY, WRONG = "of every pixel", "of the wrong pixels"
COLOURS = ("#0072B2", "#E69F00", "#009E73")          # of the sources, coarse to fine: Okabe and Ito's, for any eyes
BATCH = 8                                            # images that the network is given at once


class SkipsExplorer(Explorer):
    """A trained FCN taken apart: what fc7 and each skip say, each times a weight, their sum, and who decided what.

    network: an FCN32s, FCN16s or FCN8s, or what has `skips` and `contributions(images)` as they do. It is run once,
    in evaluation mode: what is changed in it later is not seen. images, masks, classes, palette: as in `Scenes`.
    watched: classes whose IoU over all the images is shown, those of them that are among the classes. scene, pixel:
    what is shown first, the pixel as (row, column). Raises ValueError where these do not fit each other.

    Who decided a pixel is defined by `decided`.
    """

    def __init__(
        self, network, images, masks, classes=CLASSES, palette=PALETTE, watched=("pole", "marking"), *, scene=0,
        pixel=None, **options,
    ):
        self.scenes = Scenes(images, masks, classes, palette)
        self.parts = _contributions(network, self.scenes)                              # (S, B, C, H, W)
        self.sources = ("fc7", *(f"pool{stage + 1}" for stage in network.skips))
        self.strides = (32, *(2 ** (stage + 1) for stage in network.skips))
        self.watched = [self.scenes.classes.index(name) for name in watched if name in self.scenes.classes]
        masks, size = self.scenes.masks, len(self.scenes.classes)
        self._bins = torch.where(masks == VOID, size, masks) * size
        self.whole = labels(self._sums(torch.ones(len(self.sources))))                 # (B, H, W), the network's own
        self._whole_scores = [self.scenes.scored(mask, at) for at, mask in enumerate(self.whole)]
        self._whole_counts = self._counts(self.whole)
        self.alone = [labels(part) for part in self.parts]                             # S times (B, H, W)
        self._alone_scores = [[self.scenes.scored(mask, at) for at, mask in enumerate(each)] for each in self.alone]
        # The bars' scale, the same in all states: one lead in a hundred is longer.
        leads = torch.stack([decided(self.parts[:, at], whole)[1].amax(0) for at, whole in enumerate(self.whole)])
        self.most = float(leads.flatten().quantile(0.99)) or 1.0
        height, width = masks.shape[1:]
        controls = [
            Slider("scene", "Scene", 0, len(self.scenes) - 1, value=scene),
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
        size = len(self.scenes.classes)
        pairs = torch.bincount((self._bins + prediction).flatten(), minlength=size * (size + 1))
        return pairs[: size * size].view(size, size)                                   # the rest is void

    def _added(self, scene, shown, **named) -> State:
        weights = self._weights(named)
        predictions = labels(self._sums(weights))
        winner = predictions[scene].long()
        runner, shares, source = decided(self.parts[:, scene] * weights[:, None, None, None], winner)
        found, marked = self.scenes.scored(winner, scene), Marker("pixel", margin=1)
        told, palette = self._told(scene, winner, runner, shares), self.scenes.palette
        panels = [
            Panel(f"Scene {scene}: point here", [Image(self.scenes.images[scene]), marked]),
            Panel("Truth", [LabelMap(self.scenes.masks[scene], palette), marked]),
            Panel("The weighted sum", [LabelMap(winner, palette), marked]),
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
        mask, classes = self.scenes.masks[scene], self.scenes.classes
        truth = torch.where(mask == VOID, len(classes), mask)
        tenths = torch.cat([shares.sum(0, keepdim=True), shares]).mul(10).round()
        numbers = torch.cat([torch.stack([winner, runner, truth]), tenths.clamp(-32767, 32767).long()])
        return Told(numbers, [classes, classes, (*classes, "void"), *[()] * len(tenths)])

    def _who(self, scene, shown, winner, source, marked) -> Panel:
        """Which source decided, as a label map with a legend under it: for all pixels, or for those that are wrong."""
        height, width = winner.shape
        over, title = (0, 0, width, height), "Which source decided"
        among, mask, layers = torch.ones_like(winner, dtype=torch.bool), self.scenes.masks[scene], []
        if shown == WRONG:
            among = (winner != mask) & (mask != VOID)
            layers, title = [Image(self.scenes.images[scene], opacity=0.4)], "Where the sum is wrong"
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
        layer = LabelMap(self.alone[at][scene], self.scenes.palette, opacity=1.0 if weights[at] else 0.35)
        return Panel(f"{self.sources[at]} alone", [layer, marked],
                     f"Stride {self.strides[at]}. Mean IoU {self._alone_scores[at][scene].mean_iou:.3f}.")

    def _scores(self, scene, found, predictions) -> list[Panel]:
        """The two panels of scores; those of the network, with all weights 1, as ticks."""
        whole, counts = self._whole_scores[scene], [self._counts(predictions), self._whole_counts]
        over_all, over_all_whole = (metrics.class_iou(one).tolist() for one in counts)
        rows = [
            Bar("This scene", bare=True, strong=True),
            bar("mean IoU", found.mean_iou, whole.mean_iou),
            bar("boundary IoU", found.boundary_iou, whole.boundary_iou),
            Bar(""),
            Bar(f"All {len(self.scenes)} scenes", bare=True, strong=True),
            bar("mean IoU", *map(metrics.mean_iou, counts)),
            *(bar(f"{self.scenes.classes[at]} IoU", over_all[at], over_all_whole[at]) for at in self.watched),
        ]
        return [Panel("Scores", [Bars(rows)], "Tick: with all weights 1."),
                Panel("IoU of each class", [Bars(self.scenes.class_bars(found, whole))])]

    def _readout(self, scene, named, found) -> str:
        whole, weights = self._whole_scores[scene], ", ".join(f"{name} {named[name]:g}" for name in self.sources)
        thin = [f", {self.scenes.classes[at]} {found.each[at]:.3f} ({whole.each[at]:.3f})" for at in self.watched
                if not isnan(found.each[at])]
        return (f"Scene {scene}, weights {weights}: mean IoU {found.mean_iou:.3f} ({whole.mean_iou:.3f} with all "
                f"weights 1){''.join(thin)}.")


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


def _contributions(network, scenes) -> Tensor:
    """(S, B, C, H, W), the network in evaluation mode; ValueError, in words, where it gives none or others."""
    if not hasattr(network, "contributions"):
        raise ValueError(f"expected a network with contributions(images), as FCN8s has; got {type(network).__name__}")
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with torch.inference_mode():
            batches = [torch.stack(network.contributions(some.to(device))) for some in scenes.images.split(BATCH)]
    finally:
        network.train(was_training)
    parts = torch.cat(batches, 1).float().cpu()
    if parts.shape[2] != len(scenes.classes):
        raise ValueError(f"the network scores {parts.shape[2]} classes, but {len(scenes.classes)} were named: classes "
                         "needs a name for each")
    if not parts.isfinite().all():
        raise ValueError("the network's scores hold NaN or infinities: was it trained with too high a learning rate?")
    return parts


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
