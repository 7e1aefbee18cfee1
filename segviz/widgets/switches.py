"""Explorer: unpooling with the switches of the way down, or without, stage by stage (lesson 07)."""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from segviz.data.toytown import CLASSES
from segviz.draw import PALETTE
from segviz.layers import UNPOOLING
from segviz.widgets.controls import Choice, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bars, HeatMap, Image, LabelMap, Panel, State
from segviz.widgets.scenes import Scenes, strength, top

SWITCHES, _, SHUFFLED, _ = UNPOOLING
STAGES = 5


class SwitchesExplorer(Explorer):
    """A trained DeconvNet, each of whose five unpoolings can be told where to put its values; no weight is changed.

    network: a DeconvNet, of which a copy is kept: what is changed in it later is not seen. It is run for every state,
    in evaluation mode; pass slow=True where that takes more than a few ten milliseconds. images, masks, classes,
    palette: as in `Scenes`. scene: which is shown first. The stages begin as the network has them.
    "shuffled" puts each value in the same place each time, in all scenes. Raises ValueError where these do not fit
    each other.
    """

    def __init__(self, network, images, masks, classes=CLASSES, palette=PALETTE, *, scene=0, **options):
        self.scenes = Scenes(images, masks, classes, palette)
        if not hasattr(network, "decode"):
            raise ValueError(f"expected a DeconvNet, got {type(network).__name__}")
        if network.num_classes != len(self.scenes.classes):
            raise ValueError(f"the network scores {network.num_classes} classes, but {len(self.scenes.classes)} were "
                             "named: classes needs a name for each")
        self.network, modes, self._whole = copy.deepcopy(network).eval(), network.modes(), {}
        sizes = [network.size * 2**stage // 32 for stage in range(STAGES + 1)]
        self.steps = [f"{small} → {large}" for small, large in pairwise(sizes)]
        controls = [
            Slider("scene", "Scene", 0, len(self.scenes) - 1, value=scene),
            *(Choice(f"stage{stage}", f"Unpooling {step}", UNPOOLING, mode)
              for stage, (step, mode) in enumerate(zip(self.steps, modes, strict=True), 1)),
        ]
        super().__init__(self._unpooled, controls, title="Where unpooling puts its values", **options)

    def run(self, scene: int, modes: tuple[str, ...]) -> tuple[Tensor, list[Tensor]]:
        """The mask, int64 (H, W), and the maps (C, h, w) behind the five stages, unpooled by these five modes."""
        network, image = self.network, self.scenes.images[scene][None]
        with torch.inference_mode():
            code, switches = network.encode(image.to(next(network.parameters()).device))
            # Places drawn beforehand, as if they were switches: no generator but their own is asked.
            network.unpooling = tuple(SWITCHES if mode == SHUFFLED else mode for mode in modes)
            places = [_by_chance(each, stage) if mode == SHUFFLED else each
                      for stage, (each, mode) in enumerate(zip(reversed(switches), modes, strict=True))]
            maps = network.decode(code, places[::-1])
            logits = F.interpolate(network.score(maps[-1]), size=image.shape[2:], mode="bilinear", align_corners=False)
        return logits[0].argmax(0).cpu(), [each[0].cpu() for each in maps[1:]]

    def _of_switches(self, scene: int):
        """Mask, scores and the ends of the maps' colour scales with switches in all stages; worked out once a scene."""
        if scene not in self._whole:
            mask, maps = self.run(scene, (SWITCHES,) * STAGES)
            most = [top(strength(each)) for each in maps]
            self._whole[scene] = mask, self.scenes.scored(mask, scene), most
        return self._whole[scene]

    def _unpooled(self, scene, **stages) -> State:
        modes, palette = tuple(stages.values()), self.scenes.palette
        mask, maps = self.run(scene, modes)
        whole_mask, whole, most = self._of_switches(scene)
        found = self.scenes.scored(mask, scene)
        square = (0, 0, self.network.size, self.network.size)          # all maps drawn in one size
        panels = [
            Panel(f"Scene {scene}", [Image(self.scenes.images[scene])]),
            Panel("Truth", [LabelMap(self.scenes.masks[scene], palette)]),
            Panel("Switches in all stages", [LabelMap(whole_mask, palette)], str(whole)),
            Panel("As set below", [LabelMap(mask, palette)], str(found)),
            Panel("IoU of each class", [Bars(self.scenes.class_bars(found, whole))], "Tick: switches in all stages."),
            *(Panel(f"{step}, {mode}", [HeatMap(strength(each), 0, high, legend="activation", box=square)])
              for step, mode, each, high in zip(self.steps, modes, maps, most, strict=True)),
        ]
        said = ", ".join(f"{step} {mode}" for step, mode in zip(self.steps, modes, strict=True))
        return State(panels, f"Scene {scene}, unpooling {said}: {found}. With switches in all stages: {whole}.")


def _by_chance(switches: Tensor, stage: int) -> Tensor:
    """Switches of that shape, each to one of its four places by chance, the same for every scene."""
    batch, channels, height, width = switches.shape
    noise = torch.rand(batch, channels, 2 * height, 2 * width, generator=torch.Generator().manual_seed(stage))
    return F.max_pool2d(noise, 2, return_indices=True)[1].to(switches.device)
