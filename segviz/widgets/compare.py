"""Explorer: any two networks on one picture, wiped side by side, and where they disagree (lesson 13)."""

import copy
from functools import cache

import torch
from torch import Tensor, nn

from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE, VOID
from segviz.widgets.controls import Choice, Point, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import CLEAR, Bar, Bars, Image, LabelMap, Panel, State, Wipe
from segviz.widgets.scenes import VERDICTS, Scenes, bar

LEFT, RIGHT, NEITHER = range(3)                      # who is right where the two differ; coloured by VERDICTS


class CompareExplorer(Explorer):
    """Two trained networks, chosen by name, on one of the scenes: their labels on two sides of a line that is dragged.

    networks: modules by name, of which copies are kept: what is changed in them later is not seen. Each maps images
    (1, 3, H, W), on its own device, to logits (1, C, H, W). images, masks, classes, palette: as in `Scenes`. left,
    right: the names shown first, by default the first two. scene: which is shown first.

    A network is run in evaluation mode, on a scene when it is first shown there, and its mask is kept: only the first
    look takes as long as the network. When the explorer is made each is run on one scene, to see whether it fits. Pass
    slow=("left", "right", "scene") where that takes more than a few ten milliseconds. The line is moved by the browser.
    They disagree where their labels differ; pixels whose truth is void are not counted, for nobody is right there.
    Raises ValueError where these do not fit each other.
    """

    def __init__(
        self, networks, images, masks, classes=CLASSES, palette=PALETTE, *, left=None, right=None, scene=0, **options
    ):
        self.scenes, names = Scenes(images, masks, classes, palette), _names(networks)
        width = self.scenes.masks.shape[2]
        controls = [
            Choice("left", "Left of the line", names, left),
            Choice("right", "Right of the line", names, names[:2][-1] if right is None else right),
            Slider("scene", "Scene", 0, len(self.scenes) - 1, value=scene),
            Point("wipe", "Line", 0, 1, width + 1, (0, width // 2), local=True),
            Toggle("over", "Over the picture"),
        ]
        self.networks = {name: copy.deepcopy(network).eval() for name, network in networks.items()}
        self.predicted = cache(self.predicted)
        for name in names:
            self.predicted(name, scene)
        super().__init__(self._compared, controls, title="Two networks, one picture", **options)

    def predicted(self, name: str, scene: int):
        """The mask of one network, int64 (H, W), and its scores."""
        mask = _mask(name, self.networks[name], self.scenes.images[scene], len(self.scenes.classes))
        return mask, self.scenes.scored(mask, scene)

    def verdict(self, left: str, right: str, scene: int) -> Tensor:
        """(H, W): LEFT, RIGHT or NEITHER, whoever is right, where the two differ and the truth is known; else CLEAR."""
        one, other = self.predicted(left, scene)[0], self.predicted(right, scene)[0]
        truth = self.scenes.masks[scene]
        who = torch.full_like(truth, NEITHER).masked_fill(one == truth, LEFT).masked_fill(other == truth, RIGHT)
        return who.masked_fill((one == other) | (truth == VOID), CLEAR)

    def _compared(self, left, right, scene, over) -> State:
        (one, one_scores), (other, other_scores) = self.predicted(left, scene), self.predicted(right, scene)
        picture, truth, palette = Image(self.scenes.images[scene]), self.scenes.masks[scene], self.scenes.palette
        size, verdict = tuple(truth.shape), self.verdict(left, right, scene)
        counts, seen = [int((verdict == who).sum()) for who in (LEFT, RIGHT, NEITHER)], int((truth != VOID).sum())
        wipe = [picture] * over + [Wipe(one, other, palette, "wipe", 0.6 if over else 1.0)]
        rows = [bar("mean IoU", one_scores.mean_iou, other_scores.mean_iou),
                bar("boundary IoU", one_scores.boundary_iou, other_scores.boundary_iou),
                Bar(""), *self.scenes.class_bars(one_scores, other_scores)]
        panels = [
            Panel(f"{left} | {right}: drag the line", wipe, f"Left: {left}, {one_scores}. Right: {right}, "
                  f"{other_scores}.", size=size, wide=True, large=True),
            Panel(f"Scene {scene}", [picture]),
            Panel("Truth", [LabelMap(truth, palette)]),
            Panel(f"Disagreement: {sum(counts) / max(seen, 1):.1%}",
                  [Image(self.scenes.images[scene], opacity=0.3), LabelMap(verdict, VERDICTS)],
                  f"Who is right? Orange: {left} alone, {counts[LEFT]:,}. Blue: {right} alone, {counts[RIGHT]:,}. "
                  f"Grey: neither, {counts[NEITHER]:,}."),
            Panel("IoU", [Bars(rows)], f"Bar: {left}. Tick: {right}."),
        ]
        words = f"Scene {scene}. {left}: {one_scores}. " + f"{right}: {other_scores}. " * (left != right)
        return State(panels, words + _said(left, right, counts, seen), bounds={"wipe": (1, size[1] + 1)})


def _said(left: str, right: str, counts: list[int], seen: int) -> str:
    """On how many of the pixels that are seen (not void) they disagree, and who is right there, how often."""
    if left == right:
        return f"{left} beside itself: no disagreement."
    if not (differ := sum(counts)):
        return f"They agree on all {seen:,} pixels."
    one, other, neither = (f"{count:,} ({count / differ:.0%})" for count in counts)
    return (f"They disagree on {differ:,} of {seen:,} pixels ({differ / seen:.1%}): {left} alone is right on {one}, "
            f"{right} alone on {other}, neither on {neither}.")


def _names(networks) -> tuple[str, ...]:
    if not isinstance(networks, dict) or not networks:
        raise ValueError(f'networks are given by name, {{"unet": network, ...}}, one or more; got {networks!r}')
    for name, network in networks.items():
        if not isinstance(name, str) or not isinstance(network, nn.Module):
            raise ValueError(f"networks are torch modules by name, but {name!r} is a {type(network).__name__}")
    return tuple(networks)


def _mask(name: str, network: nn.Module, image: Tensor, classes: int) -> Tensor:
    """The mask, int64 (H, W), of an image (C, H, W); ValueError, in words, where the network gives no such logits."""
    try:
        with torch.inference_mode():
            logits = network(image[None].to(next(network.parameters(), image)))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} cannot be run on an image of shape {tuple(image.shape)}: {error}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 4 or logits.shape[2:] != image.shape[1:]:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{name}: expected logits (1, classes, {image.shape[1]}, {image.shape[2]}), at the image's "
                         f"size; got {got}")
    if logits.shape[1] != classes:
        raise ValueError(f"{name} scores {logits.shape[1]} classes, but {classes} were named: classes needs a name "
                         "for each, and only networks that score the same ones can be compared")
    if not logits.isfinite().all():
        raise ValueError(f"the scores of {name} hold NaN or infinities: was it trained with too high a learning rate?")
    return logits[0].argmax(0).cpu()
