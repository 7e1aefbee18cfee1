"""Explorer: what pyramid pooling tells a pixel of evidence that is near, far or hidden, bin by bin (lesson 09)."""

import copy
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segviz.layers import upsampled
from segviz.models import PSPNet
from segviz.widgets.controls import Choice, Point, Slider, Toggle
from segviz.widgets.engine import Explorer
from segviz.widgets.evidence import BEACONS, BUOY, HIDDEN, PUMP, TRUTH, Picture, pictured
from segviz.widgets.panels import (
    Bar,
    Bars,
    Grid,
    HeatMap,
    Image,
    Marker,
    Outer,
    Panel,
    Pointed,
    Rects,
    State,
    Text,
    Told,
)
from segviz.widgets.reach import LIES, Field, by_bin

SIDES = ("car", "boat")
CLASSES = (*SIDES, "pump", "buoy")
COLOURS, ORANGE, PURPLE = "PuOr_r", "#e08214", "#8073ac"        # orange: car
GREY = np.full((1, 1, 3), 128, np.uint8)
FIRST = 5                                            # of the leads among the numbers told of a pixel
KEPT = 32                                            # pictures whose maps are kept


class PyramidExplorer(Explorer):
    """A trained PSPNet in Toytown's car-or-boat world: bins on and off, the evidence nearer, farther or hidden.

    network: a PSPNet, of which a copy is kept: what is changed in it later is not seen. indices: of `toytown.pair`,
    one a scene, drawn with this `size`, int or (height, width), and `seed`. classes: a name for each of the network's
    classes, "car" and "boat" among them. beside: another PSPNet, with other bins or none, whose decisions are shown
    too; or None. scene: the first shown, by its place in indices; beacon: "pump", "buoy" or "hidden"; distance: of the
    beacon from the sprite, pixels; pixel: (row, column) in the close-up, a square as wide as the sprite, which goes
    along where the sprite moves.

    A hidden beacon is painted over with meadow; what is left is one picture for car and boat. A bin that is off tells
    all places the same: its mean over all places and scenes, each drawn with the pump and with the buoy at the first
    distance. That says nothing of this picture and lies in the range on which the head was trained; zeros, which say
    as little, do not. What a bin adds is the lead of car over boat with it less the lead without it, the others as
    they are set. The head is not linear: these do not add up to the lead. The field is that of the network without
    bins. Grids are drawn evenly; the regions that are averaged end at whole units of the map. Dark regions do not
    reach the pixel, whatever the weights.
    Raises ValueError where these do not fit each other.
    """

    def __init__(
        self, network, indices=range(12), size=(64, 192), classes=CLASSES, *, beside=None, seed=0, scene=0, beacon=BUOY,
        distance=None, pixel=None, **options,
    ):
        self.indices, self.seed, classes = tuple(indices), seed, tuple(classes)
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        _check(network, beside, self.indices, classes)
        self.network, self.beside = (copy.deepcopy(one).eval() if one else None for one in (network, beside))
        self.bins, self._two = tuple(network.bins), [classes.index(name) for name in SIDES]
        first = self._pictured(0, 1, PUMP)
        self._wide = self.size[1] >= 2 * self.size[0]
        self.side, wide = (box[2] - box[0] for box in (first.sprite, first.beacon))
        farthest = self.size[1] - self.side - wide + 1
        far = Slider("distance", "Sprite to beacon", 1, farthest, max(1, self.size[1] // 32),
                     farthest // 2 if distance is None else distance, "px")
        self.off, self.most = self._measured(far.value)
        self.field = Field(network, self.size)
        self.reach = {bin: [by_bin(bin, count) for count in self.size] for bin in self.bins}
        self.parts = lru_cache(KEPT)(self.parts)
        middle = (self.side // 2,) * 2
        controls = [
            Slider("scene", "Scene", 0, len(self.indices) - 1, value=scene),
            Choice("beacon", "Beacon", BEACONS, beacon),
            far,
            Point("pixel", "Pixel", 1, self.side, self.side, pixel or middle, hover=True, local=True),
            *(Toggle(f"bin{bin}", f"Bin {bin}", True) for bin in self.bins),
        ]
        super().__init__(self._seen, controls, title="What the pyramid brings", **options)

    def _pictured(self, scene, distance, beacon) -> Picture:
        return pictured(self.indices[scene], self.size, distance, beacon, self.seed)

    # --- the network, taken apart

    def parts(self, scene: int, distance: int, beacon: str) -> tuple[Picture, Tensor, Tensor | None]:
        """The picture; what its map and each bin add to the head's convolution, (1 + bins, D, h, w); and the scores
        (1, 2, H, W) of the other network, where there is one."""
        picture = self._pictured(scene, distance, beacon)
        with torch.inference_mode():
            other = self.beside and self.beside(_batch(picture, self.beside))[:, self._two].cpu()
            return picture, self._convolved(self.network.levels(_batch(picture, self.network))), other

    def scores(self, sums: Tensor, settings: list[tuple[bool, ...]]) -> Tensor:
        """Scores (V, 2, H, W) of car and boat, with the bins on and off as each of V settings says."""
        on = torch.tensor([(True, *each) for each in settings], device=sums.device)[:, :, None, None, None]
        with torch.inference_mode():
            x = self.network.head[1:](torch.where(on, sums, self.off).sum(1))
            return upsampled(self.network.score(x)[:, self._two], self.size).cpu()

    def _convolved(self, levels: list[Tensor]) -> Tensor:
        """The head's first convolution of each level by itself. It is linear: they add up to that of all levels."""
        conv = self.network.head[0]
        weights = conv.weight.split([level.shape[1] for level in levels], 1)
        return torch.cat([F.conv2d(*each, padding=conv.padding) for each in zip(levels, weights, strict=True)])

    def _measured(self, distance) -> tuple[Tensor, float]:
        """What levels that are off add to the convolution, and the largest lead that is told by colour and bar."""
        pictures = [self._pictured(scene, distance, beacon) for scene in range(len(self.indices)) for beacon in TRUTH]
        self.off, leads = torch.zeros(1, device=next(self.network.parameters()).device), []
        with torch.inference_mode():
            each = [self.network.levels(_batch(picture, self.network)) for picture in pictures]
            for picture, levels in zip(pictures, each, strict=True):
                car, boat = self.scores(self._convolved(levels), [(True,) * len(self.bins)])[0]
                leads.append((car - boat)[picture.mask].abs())
            means = [torch.cat(maps).mean((0, 2, 3), keepdim=True).expand_as(maps[0])
                     for maps in zip(*each, strict=True)]
            return self._convolved(means), float(f"{torch.cat(leads).quantile(0.99):.2g}") or 1.0

    # --- what is shown

    def _seen(self, scene, beacon, distance, **bins) -> State:
        picture, sums, other = self.parts(scene, distance, beacon)
        now = tuple(bins.values())
        changed = [(*now[:at], not now[at], *now[at + 1 :]) for at in range(len(now))]
        scores = self.scores(sums, [now, *changed, (False,) * len(now)])
        lead, *turned, none = scores[:, 0] - scores[:, 1]
        leads = {"as set": lead, "all bins off": none}
        if other is not None:
            leads[_name(self.beside)] = other[0, 0] - other[0, 1]
        adds = [lead - without if on else without - lead for on, without in zip(now, turned, strict=True)]
        told = self._told(picture, scores[0], list(leads.values()), adds)
        where = "beacon hidden" if beacon == HIDDEN else f"{beacon} at {distance} px"
        panels = [
            self._picture(f"Scene {scene}: {where}", picture, beacon == HIDDEN),
            Panel("The sprite: point here", [Image(picture.pixels[self._close(picture)]), Marker("pixel")]),
            self._decisions(picture, leads, beacon),
            self._bars(told, tuple(leads), now),
            *self._pyramid(picture, now, turned),
        ]
        on = ", ".join(str(bin) for bin, one in zip(self.bins, now, strict=True) if one) or "none"
        words = (f"Scene {scene}, {where}, bins on: {on}. Of the sprite, {_called(lead, picture)}. {_truth(beacon)}")
        pointed = Pointed(words=self._words(beacon, len(leads)), told=told)
        return State(panels, words, pointed={"pixel": pointed})

    def _close(self, picture) -> tuple[slice, slice]:
        """Rows and columns of the close-up."""
        left, top, right, bottom = picture.sprite
        begin = min(max((top + bottom - self.side) // 2, 0), self.size[0] - self.side)
        return slice(begin, begin + self.side), slice(left, right)

    def _picture(self, title, picture, hidden) -> Panel:
        here = self._close(picture)
        rows, columns = self.field.clipped(here)
        veil = Outer(*self.field.inside(here), "pixel", colours="gray", clear=1, opacity=0.5)
        stood = [Rects([picture.beacon], "mark", 1.5, dashed=True)] if hidden else []
        layers = [Image(picture.pixels), veil, Marker("pixel", "accent", rows=rows, columns=columns), *stood,
                  self._marked(picture)]
        return Panel(title, layers, "Bright: the field without the pyramid.", wide=self._wide)

    def _decisions(self, picture, leads, beacon) -> Panel:
        """The lead on the sprite as the bins are set, and under it that of the other network, or with all bins off."""
        left, top, right, bottom = picture.sprite
        row, high = 0.16 * self.side, bottom - top
        layers = []
        for at, name in enumerate(("as set", tuple(leads)[-1])):
            shown = torch.where(picture.mask, leads[name], torch.nan)[top:bottom, left:right]
            y = at * (high + 1.3 * row)
            box = (0, y + row, self.side, y + row + high)
            layers += [Text([(self.side / 2, y + row / 2, f"{name}: {_called(leads[name], picture)}")]),
                       Image(GREY, box, 0.25),                                 # for an undecided sprite is white
                       HeatMap(shown, -self.most, self.most, COLOURS, "" if at else "car − boat", box=box)]
        return Panel("Car or boat?", layers, _truth(beacon), size=(2 * (high + row) + 0.3 * row, self.side))

    def _bars(self, told, names, now) -> Panel:
        rows = [
            Bar("Scores", bare=True, strong=True),
            Bar("car", 3, ORANGE, "{3}"),
            Bar("boat", 4, PURPLE, "{4}"),
            Bar("Car − boat", bare=True, strong=True),
            *(Bar(name, at, text=f"{{{at}}}") for at, name in enumerate(names, FIRST)),
            *([Bar("What each bin adds to it", bare=True, strong=True)] if now else []),
            *(Bar(f"bin {bin}{'' if on else ' (off)'}", at, text=f"{{{at}}}")
              for at, (bin, on) in enumerate(zip(self.bins, now, strict=True), FIRST + len(names))),
        ]
        return Panel("At the marked pixel", [Bars(rows, self.most, -self.most, "pixel", told)],
                     "Right: car. Left: boat.")

    def _pyramid(self, picture, now, turned) -> list[Panel]:
        """A panel for each bin; where the picture is wide, all in one, two in a row."""
        height, width = self.size
        names = [f"Bin {bin}, {f'{bin} × {bin}' if on else 'off'}" for bin, on in zip(self.bins, now, strict=True)]
        words = [f"With{'out' * on} bin {bin}: {_called(each, picture)}."
                 for bin, on, each in zip(self.bins, now, turned, strict=True)]
        words[-1:] = [f"{last} Dark: does not reach the pixel." for last in words[-1:]]
        if not self._wide or not now:
            return [Panel(name, self._regions(picture, bin, on), told)
                    for name, bin, on, told in zip(names, self.bins, now, words, strict=True)]
        gap, layers = width // 16, []
        for at, (name, bin, on) in enumerate(zip(names, self.bins, now, strict=True)):
            x, y = at % 2 * (width + gap), at // 2 * (height + 2 * gap) + gap
            layers += [Text([(x + width / 2, y - gap / 2, name)]), *self._regions(picture, bin, on, x, y)]
        size = (len(now) + 1) // 2 * (height + 2 * gap) - gap, 2 * width + gap
        return [Panel("What each bin averages", layers, " ".join(words), size, wide=True)]

    def _regions(self, picture, bin, on, x=0, y=0) -> list:
        """The picture, its upper left corner at (x, y), and over it the bin's regions, dark where they do not reach
        the pixel."""
        height, width = self.size
        box = (x, y, x + width, y + height)
        reach = (each[part] for each, part in zip(self.reach[bin], self._close(picture), strict=True))
        return [Image(picture.pixels, box, 1.0 if on else 0.3),
                Outer(*reach, "pixel", colours="gray", clear=1, opacity=0.55, box=box),
                Grid(bin, bin, box, "#ffffff"), self._marked(picture, x, y)]

    def _marked(self, picture, x=0, y=0) -> Marker:
        """The pixel in the whole picture, whose upper left corner is at (x, y)."""
        rows, columns = ([(at + by, at + by + 1) for at in range(part.start, part.stop)]
                         for part, by in zip(self._close(picture), (y, x), strict=True))
        return Marker("pixel", rows=rows, columns=columns, margin=1)

    def _told(self, picture, scores, leads, adds) -> Told:
        """Of every pixel of the close-up: who leads, who not, by how much, both scores, the leads, what each bin adds,
        how far the beacon is, where it lies, and whether this is the sprite."""
        here = self._close(picture)
        numbers = [each[here] * 10 for each in (leads[0].abs(), *scores, *leads, *adds)]
        tenths = torch.stack(numbers).round().clamp(-32767, 32767).long()
        boat = (leads[0][here] <= 0).long()
        others = [each[here].long() for each in (picture.distance(), self.field.lies(picture.beacon), picture.mask)]
        numbers = torch.cat([torch.stack([boat, 1 - boat]), tenths, torch.stack(others)])
        far = [str(at) for at in range(max(self.size))]
        return Told(numbers, [SIDES, SIDES, *[()] * len(tenths), far, LIES, ("beside the sprite", "on the sprite")])

    def _words(self, beacon, leads) -> str:
        adds = ", ".join(f"bin {bin} {{{at}}}" for at, bin in enumerate(self.bins, FIRST + leads))
        far = FIRST + leads + len(self.bins)
        where = ("The beacon is hidden." if beacon == HIDDEN else
                 f"The beacon is {{{far}}} px from it, {{{far + 1}}} the field without the pyramid.")
        return (f"The marked pixel lies {{{far + 2}}}: {{0}} leads {{1}} by {{2}} (car {{3}}, boat {{4}}). {where}"
                + (f" Added to car − boat: {adds}." if adds else ""))


def _name(network) -> str:
    return f"bins {', '.join(map(str, network.bins))}" if network.bins else "no pyramid"


def _truth(beacon) -> str:
    return f"Truth: {TRUTH[beacon]}." if beacon in TRUTH else "Nothing in the picture tells."


def _called(lead, picture) -> str:
    """What most of the sprite is called, and how much of it."""
    car = (lead[picture.mask] > 0).float().mean().item()
    return f"{max(car, 1 - car):.0%}\u00a0{SIDES[car <= 0.5]}"


def _batch(picture, network) -> Tensor:
    return picture.image[None].to(next(network.parameters()).device)


def _check(network, beside, indices, classes) -> None:
    for one in [network] if beside is None else [network, beside]:
        if not isinstance(one, PSPNet):
            raise ValueError(f"expected a PSPNet, got {type(one).__name__}")
        if one.num_classes != len(classes):
            raise ValueError(f"the network scores {one.num_classes} classes, but {len(classes)} were named: classes "
                             "needs a name for each")
    if missing := [name for name in SIDES if name not in classes]:
        raise ValueError(f"car or boat is decided here, but classes has no {missing[0]}: {', '.join(classes)}")
    if not indices:
        raise ValueError("indices are those of one scene or more, but got none")
