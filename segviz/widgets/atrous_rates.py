"""Explorer: a trained network at other rates than those it was trained at (lesson 10)."""

import copy

import torch
from torch import Tensor, nn

from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE
from segviz.widgets.controls import Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bars, Image, LabelMap, Panel, State
from segviz.widgets.scenes import Scenes

MOST_LAYERS = 8


class AtrousRatesExplorer(Explorer):
    """A trained network, each of whose atrous convolutions can be given another rate; no weight is changed.

    network: any module that maps images (B, C, H, W) to logits (B, K, H, W), of which a copy is kept: what is changed
    in it later is not seen. It is run for every state, in evaluation mode; pass slow=True where that takes more than a
    few ten milliseconds. images, masks, classes, palette: as in `Scenes`. layers: names of the convolutions that get a
    slider, as `named_modules` has them, one to eight; by default all of a rate above 1. They pad with zeros what keeps
    a map's size, and go on doing so. most: the largest rate of the sliders, if none is trained at a larger one. scene:
    which is shown first. Raises ValueError where these do not fit each other.
    """

    def __init__(self, network, images, masks, classes=CLASSES, palette=PALETTE, *, layers=None, most=16, scene=0,
                 **options):
        self.scenes = Scenes(images, masks, classes, palette)
        self.network = copy.deepcopy(network).eval()
        labels, self.convolutions = _chosen(self.network, layers)
        self.rates = tuple(conv.dilation[0] for conv in self.convolutions)
        _check(self._first_logits(), self.scenes)
        self._trained = [self._as_trained(at) for at in range(len(self.scenes))]
        controls = [
            Slider("scene", "Scene", 0, len(self.scenes) - 1, value=scene),
            *(Slider(f"rate{number}", label, 1, max(most, *self.rates), value=rate)
              for number, (label, rate) in enumerate(zip(labels, self.rates, strict=True), 1)),
        ]
        super().__init__(self._at_rates, controls, title="The same weights at other rates", **options)

    def run(self, scene: int, rates: tuple[int, ...]) -> Tensor:
        """The mask, int64 (H, W), with these rates."""
        for conv, rate in zip(self.convolutions, rates, strict=True):
            conv.dilation, conv.padding = (rate, rate), tuple(side // 2 * rate for side in conv.kernel_size)
        return self._logits(scene)[0].argmax(0).cpu()

    def _logits(self, scene: int) -> Tensor:
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            return self.network(self.scenes.images[scene][None].to(device))

    def _first_logits(self) -> Tensor:
        try:
            return self._logits(0)
        except RuntimeError as error:
            shape = tuple(self.scenes.images[:1].shape)
            raise ValueError(f"the network does not take images {shape}: {error}") from error

    def _as_trained(self, scene: int):
        mask = self.run(scene, self.rates)
        return mask, self.scenes.scored(mask, scene)

    def _at_rates(self, scene, **sliders) -> State:
        rates, palette = tuple(sliders.values()), self.scenes.palette
        mask, (trained_mask, trained) = self.run(scene, rates), self._trained[scene]
        found = self.scenes.scored(mask, scene)
        as_trained, as_set = (", ".join(map(str, each)) for each in (self.rates, rates))
        panels = [
            Panel(f"Scene {scene}", [Image(self.scenes.images[scene])]),
            Panel("Truth", [LabelMap(self.scenes.masks[scene], palette)]),
            Panel(f"As trained: {as_trained}", [LabelMap(trained_mask, palette)], str(trained)),
            Panel(f"As set: {as_set}", [LabelMap(mask, palette)], str(found)),
            self.scenes.difference(mask, trained_mask, scene),
            Panel("IoU of each class", [Bars(self.scenes.class_bars(found, trained))], "Tick: as trained."),
        ]
        return State(panels, f"Scene {scene}, rates {as_set}: {found}. As trained, {as_trained}: {trained}.")


def _chosen(network: nn.Module, layers) -> tuple[list[str], list[nn.Conv2d]]:
    """The convolutions that get a slider, and its label: their names, or where these are numbers of a Sequential, how
    many convolutions there are up to them."""
    known = {name: part for name, part in network.named_modules() if isinstance(part, nn.Conv2d)}
    atrous = [name for name, conv in known.items() if max(conv.dilation) > 1]
    names = atrous if layers is None else list(dict.fromkeys(layers))
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"layers are names of Conv2d in the network, but got {unknown[0]!r}; there are "
                         f"{', '.join(known) or 'none'}")
    if not 1 <= len(names) <= MOST_LAYERS:
        raise ValueError(f"one to {MOST_LAYERS} convolutions can get a slider, but there are {len(names)} "
                         f"{'of a rate above 1' if layers is None else 'named'}: name others in layers")
    for name in names:
        conv = known[name]
        rate = conv.dilation[0]
        same = tuple(rate * (side // 2) for side in conv.kernel_size)
        if (conv.dilation != (rate, rate) or conv.padding not in (same, "same") or conv.padding_mode != "zeros"
                or not all(side % 2 for side in conv.kernel_size)):
            raise ValueError(f"{name} needs an odd kernel, one rate, and as many zeros around as keep the size of its "
                             f"map, {same}; it has kernel {conv.kernel_size}, rates {conv.dilation}, padding "
                             f"{conv.padding} of {conv.padding_mode}")
        if max(conv.kernel_size) == 1:
            raise ValueError(f"{name} has a kernel of 1 × 1, which is the same at every rate")
    order = list(known)
    labels = [f"Rate of convolution {order.index(name) + 1}" if name.isdigit() else f"Rate of {name}" for name in names]
    return labels, [known[name] for name in names]


def _check(logits, scenes: Scenes) -> None:
    wanted = (1, len(scenes.classes), *scenes.images.shape[2:])
    if not isinstance(logits, Tensor) or tuple(logits.shape) != wanted:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the network gives {got} for one image, but logits {wanted} were expected: a score for each "
                         "of the classes at every pixel")
