"""Explorer: a U-Net whose skips are kept, cut, or taken from another scene, one by one (lesson 08)."""

import copy
from math import nan

import torch
from torch import Tensor

from segviz import instances
from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE
from segviz.models import UNet
from segviz.widgets.controls import Choice, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bar, Bars, HeatMap, Image, LabelMap, Panel, State
from segviz.widgets.scenes import Scenes, bar, strength, top

KEPT, CUT, OTHER = "kept", "cut", "another scene's"


class UNetSkipsExplorer(Explorer):
    """A trained UNet, and what it predicts when its way up is handed zeros in place of a skip, or another scene's.

    network: a UNet with padding="same", of which a copy is kept: what is changed in it later is not seen. The way down
    is run once for every scene, and its maps are kept; the way up for every state, in evaluation mode. Pass slow=True
    where that takes more than a few ten milliseconds. images, masks, classes, palette: as in `Scenes`; height and
    width divide by 2**depth. count: a class whose connected components are counted, by `segviz.instances`; "" for
    none. scene: which is shown first.

    The other scene is the next one, and after the last the first. No weight is changed, and none was trained without
    its skip: what is seen is what this network relies on, not what a network without skips could learn. Raises
    ValueError where these do not fit each other.
    """

    def __init__(self, network, images, masks, classes=CLASSES, palette=PALETTE, *, count="", scene=0, **options):
        self.scenes = Scenes(images, masks, classes, palette)
        _check(network, self.scenes, count)
        self.network, self.count = copy.deepcopy(network).eval(), count
        self.maps = [self._encoded_scene(image) for image in self.scenes.images]
        self.sizes = [tuple(each.shape[1:]) for each in self.maps[0][:-1]]
        self._instances = [self._instances_of(mask) for mask in self.scenes.masks]
        self._whole = [self._with_all(at) for at in range(len(self.scenes))]
        kinds = (KEPT, CUT, OTHER) if len(self.scenes) > 1 else (KEPT, CUT)
        controls = [
            Slider("scene", "Scene", 0, len(self.scenes) - 1, value=scene),
            *(Choice(f"skip{level}", f"Skip {level}, {height} × {width}", kinds)
              for level, (height, width) in enumerate(self.sizes)),
        ]
        super().__init__(self._handed, controls, title="What the skips hand over", **options)

    def _encoded_scene(self, image: Tensor) -> list[Tensor]:
        """What `UNet.encode` makes of an image: (C, h, w) a level, fine to coarse, the bottom last."""
        with torch.inference_mode():
            maps = self.network.encode(image[None].to(next(self.network.parameters()).device))
        return [each[0] for each in maps]

    def run(self, scene: int, kinds: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
        """The mask, int64 (H, W), and the skips (C, h, w) that the way up was handed, of these kinds, fine first."""
        (*skips, bottom), others = self.maps[scene], self.maps[(scene + 1) % len(self.scenes)]
        handed = [{KEPT: skip, CUT: torch.zeros_like(skip), OTHER: other}[kind]
                  for skip, other, kind in zip(skips, others[:-1], kinds, strict=True)]
        with torch.inference_mode():
            logits = self.network.decode([each[None] for each in (*handed, bottom)])
        return logits[0].argmax(0).cpu(), handed

    def _with_all(self, scene: int):
        """Mask, scores, counts and the ends of the colour scales with all skips kept."""
        mask, skips = self.run(scene, (KEPT,) * len(self.sizes))
        most = [top(strength(each)) for each in skips]
        return mask, self.scenes.scored(mask, scene), self._counted(mask, scene), most

    def _instances_of(self, mask: Tensor):
        """The true instances and which of them touch; None where nothing is counted."""
        if not self.count:
            return None
        true = instances.label(mask, self.scenes.classes.index(self.count))
        return true, instances.touching(true)

    def _counted(self, mask: Tensor, scene: int) -> list[tuple[str, int, int]]:
        """What is counted, how many were found, and how many there are."""
        if not self.count:
            return []
        true, pairs = self._instances[scene]
        found = instances.found(instances.label(mask, self.scenes.classes.index(self.count)), true) > 0
        apart = found[pairs - 1].all(1)          # as instances.separated has it, which looks for the pairs every time
        return [("found", int(found.sum()), len(found)), ("pairs apart", int(apart.sum()), len(pairs))]

    def _handed(self, scene, **skips) -> State:
        kinds, palette, image = tuple(skips.values()), self.scenes.palette, self.scenes.images[scene]
        mask, handed = self.run(scene, kinds)
        whole_mask, whole, whole_counted, most = self._whole[scene]
        found, counted = self.scenes.scored(mask, scene), self._counted(mask, scene)
        square = (0, 0, image.shape[2], image.shape[1])                    # all skips drawn in one size
        rows = self.scenes.class_bars(found, whole) + _count_bars(counted, whole_counted)
        panels = [
            Panel(f"Scene {scene}", [Image(image)]),
            Panel("Truth", [LabelMap(self.scenes.masks[scene], palette)]),
            Panel("All skips kept", [LabelMap(whole_mask, palette)], _words(whole, whole_counted)),
            Panel("As set below", [LabelMap(mask, palette)], _words(found, counted)),
            self.scenes.difference(mask, whole_mask, scene),
            Panel("IoU of each class" + ("; counts" if counted else ""), [Bars(rows)], "Tick: all skips kept."),
            *(Panel(f"Skip {level}, {kind}", [HeatMap(strength(each), 0, high, legend="activation", box=square)])
              for level, (kind, each, high) in enumerate(zip(kinds, handed, most, strict=True))),
        ]
        said = ", ".join(f"{level} {kind}" for level, kind in enumerate(kinds))
        return State(panels, f"Scene {scene}, skips {said}: {_words(found, counted)}. With all kept: "
                             f"{_words(whole, whole_counted)}.")


def _check(network, scenes: Scenes, count: str) -> None:
    if not isinstance(network, UNet) or network.padding != "same":
        kind = type(network).__name__
        raise ValueError(f'expected a UNet with padding="same", whose logits have the image\'s size; got {kind}'
                         + (' with padding="valid"' if isinstance(network, UNet) else ""))
    if (channels := scenes.images.shape[1]) != network.in_channels:
        raise ValueError(f"the network reads {network.in_channels} channels, but the images have {channels}")
    if network.num_classes != len(scenes.classes):
        raise ValueError(f"the network scores {network.num_classes} classes, but {len(scenes.classes)} were named: "
                         "classes needs a name for each")
    if count and count not in scenes.classes:
        raise ValueError(f"count is one of the classes, {', '.join(scenes.classes)}, but got {count!r}")


def _count_bars(counted, whole) -> list[Bar]:
    """Shares of what there is, with a tick where all skips are kept; above them a gap."""
    rows = [bar(name, one / total if total else nan, before / total if total else nan)
            for (name, one, total), (_, before, _) in zip(counted, whole, strict=True)]
    return [Bar(""), *rows] if rows else []


def _words(scores, counted) -> str:
    told = [f"{one} of {total} {name}".replace(" pairs", " touching pairs") for name, one, total in counted]
    return ", ".join([str(scores), *told])
