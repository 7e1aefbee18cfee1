"""Explorer: DeepLab v3+ with branches off, at other rates, without details, separable or plain (lesson 12)."""

import copy
import time
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE
from segviz.models import DeepLabV3Plus
from segviz.widgets.controls import Choice, Slider, Toggle
from segviz.widgets.engine import Explorer, one_thread
from segviz.widgets.panels import Bar, Bars, Dots, HeatMap, Image, LabelMap, Panel, State, Text
from segviz.widgets.scenes import Scenes, top

FORMS = ("plain", "separable")         # by the network's `separable`
TWINS = ("num_classes", "in_channels", "width", "layers", "output_stride", "rates", "multi_grid")
RUNS = 7                               # of which the quickest is told


class DeepLabExplorer(Explorer):
    """A trained DeepLabV3Plus, whose head is run with branches of ASPP off, at other rates, or without details.

    network: a DeepLabV3Plus, of which a copy is kept: what is changed in it later is not seen. other: the same but for
    `separable`, trained likewise, to be chosen in its place; or None. The backbone is run once for every scene, and its
    maps are kept; the head for every state, in evaluation mode. Pass slow=True where that takes more than a few ten
    milliseconds. images, masks, classes, palette: as in `Scenes`. scene: which is shown first.

    A branch that is off, and the details that are off, tell all places the same: their mean over all places and scenes,
    as trained. That says nothing of this picture and lies in the range on which what follows was trained; zeros, which
    say as little, need not. (Of one scene alone, image pooling is its own mean: give several.) What a branch tells of a
    place is the length of what it adds to the sum inside ASPP's `project`, batch norm included, beyond what its mean
    adds; of details, that of the reduced map less its mean. No weight is changed, and none was trained with a part off:
    what is seen is what this network relies on, not what one without could learn. The decoder itself stays when details
    are off: that is no DeepLab v3.

    Multiply-adds and parameters are those of all convolutions behind the backbone that are on; parameters count batch
    norms too. What is off need not be computed, for its mean is known. Times are measured once, when the explorer is
    made, with one thread, from the backbone's maps to the mask. Raises ValueError where these do not fit each other.
    """

    def __init__(self, network, images, masks, classes=CLASSES, palette=PALETTE, *, other=None, scene=0, **options):
        self.scenes = Scenes(images, masks, classes, palette)
        _check(network, other, self.scenes)
        networks = [network] if other is None else [network, other]
        self.heads = {FORMS[each.separable]: Head(each, self.scenes.images) for each in networks}
        self._trained = {form: [self._as_trained(head, at) for at in range(len(self.scenes))]
                         for form, head in self.heads.items()}
        self._ms = {form: head.milliseconds() for form, head in self.heads.items()}
        self._most = [max(costs) for costs in zip(*(head.cost()["both"] for head in self.heads.values()), strict=True)]
        self.rates, largest = network.rates, max(next(iter(self.heads.values())).sizes[1])
        numbers = range(1, len(self.rates) + 1)
        controls = [
            Slider("scene", "Scene", 0, len(self.scenes) - 1, value=scene),
            *([Choice("form", "3 × 3 convolutions", tuple(self.heads))] if other is not None else []),
            Toggle("one", "1 × 1", True),
            *(Toggle(f"branch{number}", f"3 × 3, rate {rate}", True)
              for number, rate in zip(numbers, self.rates, strict=True)),
            Toggle("pooling", "Image pooling", True),
            Toggle("details", "Details in the decoder", True),
            *(Slider(f"rate{number}", f"Rate {rate} becomes", 1, max(largest, *self.rates, 1), value=rate)
              for number, rate in zip(numbers, self.rates, strict=True)),
        ]
        super().__init__(self._seen, controls, title="What DeepLab v3+ relies on", **options)

    def _as_trained(self, head, scene):
        mask = head.run(scene)[0]
        return mask, self.scenes.scored(mask, scene)

    def _seen(self, scene, one, pooling, details, form=None, **others) -> State:
        form = form or next(iter(self.heads))
        head, numbers = self.heads[form], range(1, len(self.rates) + 1)
        on = (one, *(others[f"branch{number}"] for number in numbers), pooling)
        rates = tuple(others[f"rate{number}"] for number in numbers)
        mask, heard = head.run(scene, on, rates, details)
        found, (trained, whole) = self.scenes.scored(mask, scene), self._trained[form][scene]
        panels = [
            Panel(f"Scene {scene}", [Image(self.scenes.images[scene])]),
            Panel("Truth", [LabelMap(self.scenes.masks[scene], self.scenes.palette)]),
            Panel(f"As set, {form}", [LabelMap(mask, self.scenes.palette)], str(found)),
            self.scenes.difference(mask, trained, scene),
            Panel("IoU of each class", [Bars(self.scenes.class_bars(found, whole))], f"Tick: as trained, {whole}."),
            self._cost(form, on, details),
            self._branches(head, head.told(heard), on, rates, details),
        ]
        names = zip([*_names(self.rates, rates), "details"], [*on, details], strict=True)
        said = ", ".join(name for name, is_on in names if is_on)
        words = f"Scene {scene}, {form}, {f'with {said}' if said else 'all off'}: {found}. As trained: {whole}."
        return State(panels, words, disabled=tuple(f"rate{number}" for number in numbers if not on[number]))

    def _branches(self, head, told, on, rates, details) -> Panel:
        """A small map for each branch, and for the details: how much it tells of each place, and what it reads."""
        height, width = self.scenes.images.shape[2:]
        line, column = 0.22 * height, 1.15 * width                          # of words; from map to map
        row, per_row = height + 2.2 * line, len(told) if 2 * width < 3 * height else 3
        names, layers = [*_names(self.rates, rates), "details"], []
        for at, (name, strength, is_on) in enumerate(zip(names, told, [*on, details], strict=True)):
            x, y = at % per_row * column, at // per_row * row
            box, middle = (x, y + line, x + width, y + line + height), x + width / 2
            layers += [Text([(middle, y + line / 2, name)]),
                       HeatMap(strength, 0, head.most[at == len(names) - 1], box=box),
                       Text([(middle, box[3] + line / 2, f"{strength.mean():.1f}" if is_on else "off")], "muted")]
            if is_on and at <= len(rates):
                layers.append(Dots(_read(strength.shape, rates[at - 1] if at else 0, box), "mark", 2))
        size = (-(-len(told) // per_row) * row - 0.2 * line, min(per_row, len(told)) * column - 0.15 * width)
        return Panel("What each tells of each place", layers, size=size, wide=True, caption=
                     f"Dark: nothing. Bright: {head.most[0]:g}; of details {head.most[1]:g}. Below: the mean. Dots: "
                     "what the place in the middle reads of the map.")

    def _cost(self, form, on, details) -> Panel:
        costs = {name: head.cost(on, details) for name, head in self.heads.items()}
        mine, other = costs.pop(form), next(iter(costs), None)
        rows = []
        for at, title in enumerate(("Multiply-adds", "Parameters")):
            rows.append(Bar(title, bare=True, strong=True))
            for part, cost in mine.items():
                tick = costs[other][part][at] / self._most[at] if other else None
                rows.append(Bar(part, cost[at] / self._most[at], text=_short(cost[at]), strong=part == "both",
                                reference=tick))
        times = ", ".join(f"{name}\u00a0{ms:.1f}\u00a0ms" for name, ms in self._ms.items())
        return Panel("Cost of the head", [Bars(rows)], f"{f'Tick: {other}. ' if other else ''}Timed here, all on: "
                                                       f"{times}.")


class Head:
    """A DeepLabV3Plus behind its backbone, of which the maps for each of the images (B, C, H, W) are kept.

    most: of what branches tell of a place, and of what details do, the largest but for a hundredth of all places.
    """

    def __init__(self, network: DeepLabV3Plus, images: Tensor):
        self.network, self.shape = copy.deepcopy(network).eval(), (1, *images.shape[1:])
        self.rates, device = network.rates, next(network.parameters()).device
        with torch.inference_mode():
            self.maps = [self.network.stages(image[None].to(device))[::3] for image in images]     # first and last
            every = [self._parts(scene, self.rates) for scene in range(len(images))]
            self._means = [torch.cat(maps).mean((0, 2, 3), keepdim=True) for maps in zip(*every, strict=True)]
            told = [self.told(parts) for parts in every]
        self.sizes = [tuple(maps.shape[2:]) for maps in self.maps[0]]
        self.most = [top(torch.stack([part for each in told for part in each[where]]).quantile(0.99))
                     for where in (slice(-1), slice(-1, None))]
        self.cost = cache(self.cost)

    def _parts(self, scene: int, rates: tuple[int, ...]) -> list[Tensor]:
        """What each branch gives at these rates, (1, C, h, w), and the details."""
        first, last = self.maps[scene]
        for branch, rate in zip(self.network.aspp.convs[1:-1], rates, strict=True):
            branch[0].dilation = branch[0].padding = (rate, rate)
        return [*self.network.aspp.levels(last), self.network.reduce(first)]

    def run(self, scene, on=None, rates=None, details=True) -> tuple[Tensor, list[Tensor]]:
        """The mask, int64 (H, W), with these branches on, at these rates; and what the rest of the head heard of each
        branch, and then of the details, (1, C, h, w)."""
        with torch.inference_mode():
            parts = self._parts(scene, self.rates if rates is None else rates)
            every = [*((True,) * len(parts[:-1]) if on is None else on), details]
            heard = [part if is_on else mean.expand_as(part)
                     for part, mean, is_on in zip(parts, self._means, every, strict=True)]
            context = self.network.aspp.project(torch.cat(heard[:-1], 1))
            return self.network.decode(context, heard[-1], self.shape)[0].argmax(0).cpu(), heard

    def told(self, heard: list[Tensor]) -> list[Tensor]:
        """How much each branch, and then the details, tell of each place, (h, w)."""
        *branches, details = (part - mean for part, mean in zip(heard, self._means, strict=True))
        conv, norm, *_ = self.network.aspp.project
        with torch.inference_mode():
            scale = (norm.weight * (norm.running_var + norm.eps).rsqrt())[:, None, None]
            weights = conv.weight.split([level.shape[1] for level in branches], 1)
            added = [F.conv2d(*each) * scale for each in zip(branches, weights, strict=True)]
            return [each[0].norm(dim=0).cpu() for each in (*added, details)]

    def cost(self, on=None, details=True) -> dict[str, tuple[int, int]]:
        """Multiply-adds for one image, and parameters, of ASPP with these branches on, of the decoder, of both."""
        net, (fine, coarse) = self.network, (height * width for height, width in self.sizes)
        *convs, whole = net.aspp.convs
        branches = zip([*convs, whole], [coarse] * len(convs) + [1],
                       [True] * (len(convs) + 1) if on is None else on, strict=True)
        aspp = [(branch, places) for branch, places, is_on in branches if is_on] + [(net.aspp.project, coarse)]
        decoder = [(part, fine) for part in (net.decoder, net.score, *[net.reduce] * details)]
        costs = [(sum(places * _multiply_adds(part) for part, places in parts),
                  sum(values.numel() for part, _ in parts for values in part.parameters()))
                 for parts in (aspp, decoder)]
        return {"ASPP": costs[0], "decoder": costs[1], "both": tuple(map(sum, zip(*costs, strict=True)))}

    def milliseconds(self) -> float:
        """From the backbone's maps to the mask, all on."""
        times = []
        with one_thread():
            for _ in range(RUNS):
                start = time.perf_counter()
                self.run(0)
                times.append(1000 * (time.perf_counter() - start))
        return min(times)


def _names(trained, rates) -> list[str]:
    """What each branch of ASPP is called."""
    atrous = [f"rate {rate}" if rate == was else f"rate {was} → {rate}"
              for was, rate in zip(trained, rates, strict=True)]
    return ["1 × 1", *atrous, "image pooling"]


def _read(size, rate, box) -> list[tuple[float, float]]:
    """Where in the box a 3x3 convolution of this rate (0: a 1x1) reads a map of this size, at the middle place."""
    (height, width), (x0, y0, x1, y1) = size, box
    taps = {(height // 2 + down, width // 2 + right) for down, right in product((-rate, 0, rate), repeat=2)}
    return [(x0 + (column + 0.5) * (x1 - x0) / width, y0 + (row + 0.5) * (y1 - y0) / height)
            for row, column in sorted(taps) if 0 <= row < height and 0 <= column < width]


def _multiply_adds(part: nn.Module) -> int:
    """Of its convolutions, at each place."""
    return sum(layer.weight.numel() for layer in part.modules() if isinstance(layer, nn.Conv2d))


def _short(number: int) -> str:
    size, unit = next((each for each in ((1e9, "G"), (1e6, "M")) if number >= each[0]), (1e3, "k"))
    return f"{number / size:,.1f}\u00a0{unit}"


def _check(network, other, scenes: Scenes) -> None:
    for one in [network] if other is None else [network, other]:
        if not isinstance(one, DeepLabV3Plus):
            raise ValueError(f"expected a DeepLabV3Plus, got {type(one).__name__}")
    if (channels := scenes.images.shape[1]) != network.in_channels:
        raise ValueError(f"the network reads {network.in_channels} channels, but the images have {channels}")
    if network.num_classes != len(scenes.classes):
        raise ValueError(f"the network scores {network.num_classes} classes, but {len(scenes.classes)} were named: "
                         "classes needs a name for each")
    if other is not None:
        for name in TWINS:
            if (its := getattr(other, name)) != getattr(network, name):
                raise ValueError(f"other is the same network but for `separable`; its {name} is {its}, not "
                                 f"{getattr(network, name)}")
        if other.separable == network.separable:
            raise ValueError(f"one of network and other has separable=True, one False; both have {other.separable}")
