"""Explorer: what one unit of a network sees of the picture, layer by layer (lesson 03)."""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from segviz import receptive
from segviz.receptive.following import evaluating, said
from segviz.widgets import known, stacks
from segviz.widgets.controls import Choice, Point, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Bar, Bars, Chain, HeatMap, Image, Marker, Outer, Panel, Pointed, State

YOURS = "your stack"
FIELD, PATHS, EFFECTIVE = "its field", "number of paths", "effective field"
SHORT = {stacks.NONE: "–", stacks.CONV: "conv", stacks.ATROUS: "atrous", stacks.POOL: "pool"}
NO_EFFECT = {                                        # controls that a kind of layer does not heed
    stacks.NONE: ("kernel", "stride", "padding", "rate"),
    stacks.CONV: ("rate",),
    stacks.ATROUS: (),
    stacks.POOL: ("rate",),
    stacks.UPSAMPLE: ("kernel", "padding", "rate"),
}
START = [stacks.Spec(stacks.ATROUS, 3, 1, 2, 2)] * 3 + [stacks.Spec(stacks.NONE, 3, 2, 1, 2)] * 2
DEEPEST = 30                                         # levels of a network that the slider reaches
LAST = "What is shown is the last setting that could be shown."
FAINT = 0.08                                         # of the largest gradient: below, the picture is left clear
MEASURED = 8                                         # effective fields are measured at 8 x 8 units at most


class ReceptiveExplorer(Explorer):
    """The receptive field of any unit: of a stack that you build layer by layer, of known networks, of your own.

    picture: float (3, H, W) in [0, 1], shown at the input's size: `size` x `size` pixels (1 to 128) for your stack,
    224 x 224 for the known networks. networks: name -> module that maps images to maps (B, K, h, w). effective: name
    -> images (B, 3, H, W) on which that network's effective field is measured, at up to 8 x 8 of its units, when the
    explorer is made: a second or more for each image. The network's input has the images' size, else the picture's.
    Networks are followed when the explorer is made: what is changed in them later is not seen.
    Raises ValueError where a name is taken or not known, a picture or size does not fit, or a network cannot be
    followed.
    """

    def __init__(self, picture, networks=None, effective=None, size=32, **options):
        networks, effective = dict(networks or {}), dict(effective or {})
        self.picture, self.size = _checked(picture, networks, effective, size), int(size)
        inputs = {name: effective[name].shape[-2:] if name in effective else self.picture.shape[-2:]
                  for name in networks}
        # All at once: following a network takes too long for a slider that waits behind it.
        self._followed = {name: known.followed(name) for name in known.KNOWN} | {
            name: stacks.followed(network, tuple(inputs[name])) for name, network in networks.items()}
        self._views, self._pictures = {}, {}
        tops = [self._view(name, DEEPEST) for name in self._followed]
        self.effective = {name: Measured(networks[name], images, self._view(name, DEEPEST).shape, name)
                          for name, images in effective.items()}
        most = [max(shape[axis] for view in tops for shape in view.shapes) for axis in (0, 1)]
        shown = (FIELD, PATHS, EFFECTIVE) if effective else (FIELD, PATHS)
        controls = [
            Choice("network", "Network", (YOURS, *self._followed)),
            Choice("shown", "On the picture", shown),
            Slider("depth", "Seen from layer", 1, DEEPEST, value=DEEPEST),
            Point("unit", "Unit", 2, *most, (size // 2, size // 2), hover=True, local=True, scaled=True),
            *(control for number, spec in enumerate(START, 1) for control in _controls(number, spec)),
        ]
        super().__init__(self._seen, controls, title="What one unit sees", **options)

    def _view(self, network: str, depth: int) -> stacks.View:
        if (network, depth) not in self._views:
            self._views[network, depth] = self._followed[network].view(depth)
        return self._views[network, depth]

    def _pixels(self, size: tuple[int, int]) -> Tensor:
        if size not in self._pictures:
            smaller = size[0] <= self.picture.shape[1]
            self._pictures[size] = F.interpolate(self.picture[None], size, mode="area" if smaller else "bilinear")[0]
        return self._pictures[size]

    def _seen(self, network, shown, depth, **layers) -> State:
        hidden = [name for name in layers if network != YOURS]
        if network == YOURS:
            specs = tuple(stacks.Spec(*(layers[f"{part}{number}"] for part in stacks.Spec._fields))
                          for number in range(1, len(START) + 1))
            hidden = ["depth", *(f"{part}{number}" for number, spec in enumerate(specs, 1)
                                 for part in NO_EFFECT[spec.kind])]
            tabs = {str(number): f"{number}: {_tab(spec)}" for number, spec in enumerate(specs, 1)}
            if trouble := stacks.trouble(specs, self.size):
                return State([], LAST, trouble.words, trouble.control, hidden=tuple(hidden), tabs=tabs)
            view = stacks.stacked(specs, self.size)
        else:
            tabs, view = {}, self._view(network, DEEPEST if shown == EFFECTIVE else depth)
        shared = {"hidden": tuple(hidden), "tabs": tabs, "bounds": {"depth": (view.deepest,)},
                  "disabled": ("depth",) if shown == EFFECTIVE else ()}
        if problem := self._not_shown(network, shown, view):
            return State([], LAST, problem, "shown", **shared)
        panels = [self._side(network, view), self._on_the_picture(network, shown, view), _output(view), _growth(view)]
        return State(panels, _readout(network, view), pointed={"unit": _pointed(view)}, **shared)

    def _not_shown(self, network, shown, view) -> str:
        if shown == PATHS and view.paths is None:
            return (f"Paths are counted where each layer reads only the one before; {network} has branches, or layers "
                    "whose ways are not counted here.")
        if shown == EFFECTIVE and network not in self.effective:
            return (f"The effective field depends on trained weights and on images; it was measured for "
                    f"{', '.join(self.effective)}, not for {network}.")
        return ""

    def _side(self, network, view) -> Panel:
        what = "Your stack" if network == YOURS else network
        caution = known.KNOWN[network][1] if network in known.KNOWN else ""
        return Panel(f"{what} from the side: what the unit at the top depends on, map by map down to the pixels",
                     [Chain(view.levels(1), view.fields[1], "unit")], caution, wide=True)

    def _on_the_picture(self, network, shown, view) -> Panel:
        height, width = view.input_size
        box = Marker("unit", rows=_clipped(view.fields[0], height), columns=_clipped(view.fields[1], width))
        picture = Image(self._pixels((height, width)), opacity=1.0 if shown == FIELD else 0.55)
        rows, columns = view.read
        if shown == FIELD:
            veils = [Outer(rows > 0, columns > 0, "unit", colours="gray", clear=1, opacity=0.5 if view.holes else 0.65)]
            if view.holes:
                veils.append(Outer(*map(_hull, view.read), "unit", colours="gray", clear=1, opacity=0.35))
            return Panel("The picture, and the unit's field", [picture, *veils, box],
                         "Box: the field. Bright: the pixels that are read. Dark inside the box: holes."
                         if view.holes else "Box: the field, as far as it lies on the picture.")
        if shown == PATHS:
            ways = [paths / paths.amax(1, keepdim=True).clamp(min=1) for paths in view.paths]
            layer = Outer(*ways, "unit", colours="magma", legend="paths, of the most", opacity=0.9)
            return Panel("In how many ways the unit reads each pixel", [picture, layer, box],
                         "Were all weights alike, this would be the pixels' influence.")
        measured = self.effective[network]
        maps = torch.where(measured.maps < FAINT, torch.nan, measured.maps)
        layer = HeatMap(maps, colours="magma", legend="gradient, of the largest", opacity=0.8, at="unit",
                        which=measured.which)
        fields = [[each[measured.units[axis][at]] for at in measured.which[axis]]
                  for axis, each in enumerate(view.fields)]
        box = Marker("unit", rows=_clipped(fields[0], height), columns=_clipped(fields[1], width))
        return Panel("How strongly each pixel moves the unit", [picture, layer, box],
                     f"By gradient, mean of {measured.count} images, at the nearest of "
                     f"{' × '.join(str(len(units)) for units in measured.units)} units, whose field is the box. "
                     f"Effective size: {measured.size:.0f} px.")


class Measured:
    """Effective fields of a network on images, at evenly spaced units of its output map of the given shape.

    maps: (R, C, H, W), each of highest value 1; units: the R rows and C columns of these units; which: for rows and
    columns, the map's place for each unit; size: the median of their effective sizes, in pixels.
    """

    def __init__(self, network, images, shape, name=""):
        places = [torch.linspace(0, n - 1, min(n, MEASURED)).round().long() for n in shape]
        maps = _gradients(network, images, list(product(*(each.tolist() for each in places))), name)
        self.size = torch.tensor([receptive.effective_size(field) for field in maps]).median().item()
        maps = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-30)
        self.maps = maps.unflatten(0, [len(each) for each in places])
        self.which = tuple((torch.arange(n)[:, None] - at).abs().argmin(1).tolist()
                           for n, at in zip(shape, places, strict=True))
        self.count, self.units = len(images), [each.tolist() for each in places]


def _gradients(network, images, positions, name) -> Tensor:
    """`receptive.effective` at each of the positions, (positions, H, W) and not normalised; each image is run only
    once."""
    fields = torch.zeros(len(positions), *images.shape[-2:])
    steps = tqdm(total=len(images) * len(positions), desc=f"effective field of {name}", delay=2, leave=False)
    with steps, torch.inference_mode(False), torch.enable_grad(), evaluating(network):
        for image in images.detach():
            pixels = image[None].clone().requires_grad_()
            maps = said(network, pixels, lambda x: network(x.clone()))
            if maps.dim() != 4:
                raise ValueError(f"effective fields are measured of units of a map (B, K, h, w), but {name} gives "
                                 f"shape {tuple(maps.shape)}")
            units = maps[0].sum(0)
            for field, position in zip(fields, positions, strict=True):
                if units.requires_grad:
                    gradient = torch.autograd.grad(units[position], pixels, retain_graph=True, allow_unused=True)[0]
                    field += 0 if gradient is None else gradient[0].abs().sum(0).cpu()
                steps.update()
    return fields


def _checked(picture, networks, effective, size) -> Tensor:
    """The picture as a tensor; ValueError, in words, where one of the four does not fit."""
    picture = torch.as_tensor(picture)
    if picture.dim() != 3 or len(picture) != 3 or not picture.is_floating_point() or not picture.numel():
        raise ValueError(f"the picture is float (3, H, W) in [0, 1], but got {picture.dtype} of shape "
                         f"{tuple(picture.shape)}")
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= stacks.MOST_UNITS:
        raise ValueError(f"size is a number of pixels from 1 to {stacks.MOST_UNITS}, but got {size!r}")
    if taken := [name for name in (YOURS, *known.KNOWN) if name in networks]:
        raise ValueError(f"networks need names of their own, not {', '.join(taken)}: those are in the explorer already")
    if unknown := [name for name in effective if name not in networks]:
        raise ValueError(f"effective fields are measured of the networks given, {', '.join(networks) or 'none'}, but "
                         f"got images for {', '.join(unknown)}")
    for name, images in effective.items():
        if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point() or not len(images):
            what = f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images)
            raise ValueError(f"the images for {name} are a float tensor (B, 3, H, W), but got {what}")
    return picture.float()


def _controls(number: int, spec: stacks.Spec) -> list:
    group = {"group": str(number)}
    return [
        Choice(f"kind{number}", "Kind", stacks.KINDS, spec.kind, **group),
        Slider(f"kernel{number}", "Kernel", 1, 7, value=spec.kernel, **group),
        Slider(f"stride{number}", "Stride, or scale", 1, 4, value=spec.stride, **group),
        Slider(f"padding{number}", "Padding", 0, 8, value=spec.padding, **group),
        Slider(f"rate{number}", "Rate", 1, 8, value=spec.rate, **group),
    ]


def _tab(spec: stacks.Spec) -> str:
    if spec.kind == stacks.NONE:
        return "–"
    if spec.kind == stacks.UPSAMPLE:
        return f"up ×{spec.stride}"
    return f"{SHORT[spec.kind]} {spec.kernel}×{spec.kernel}{f' /{spec.stride}' if spec.stride > 1 else ''}"


def _hull(read: Tensor) -> Tensor:
    """(units, pixels): everything between the first and the last pixel that is read."""
    return ((read.cumsum(1) > 0) & (read.flip(1).cumsum(1).flip(1) > 0))


def _clipped(fields, size) -> list:
    return [(max(0, min(low, size)), max(0, min(high, size))) for low, high in fields]


def _output(view) -> Panel:
    height, width = view.shape
    rows, columns = (read.sum(1) for read in view.read)
    pixels = rows[:, None] * columns
    most = int(pixels.max()) or 1
    return Panel(f"Output map, {height} × {width}: point here",
                 [HeatMap(pixels, 0, most, colours="cividis_r", legend="pixels read"), Marker("unit")])


def _growth(view) -> Panel:
    """The field's size and the jump after each layer; the tick is the input's size."""
    sizes = [axes[1].size for axes in view.axes[1:]]
    most = max([*sizes, view.input_size[1]])
    rows = [Bar(label, axes[1].size, text=f"{axes[1].size:g} px, jump {axes[1].jump:g}", reference=view.input_size[1],
                strong=number == len(sizes) - 1)
            for number, (label, axes) in enumerate(zip(view.short, view.axes[1:], strict=True))]
    return Panel("The field's size, layer by layer", [Bars(rows[::-1] or [Bar("input", 1, text="1 px")], most)],
                 "Tick: the picture's width. Jump: pixels from one unit to the next.")


def _readout(network, view) -> str:
    (height, width), (rows, columns) = view.shape, view.axes[-1]
    name = "Your stack" if network == YOURS else f"{network}, seen from layer {len(view.axes) - 1} of {view.deepest}"
    most = [int(read.sum(1).max()) for read in view.read]
    return (f"{name}: input {view.input_size[0]} × {view.input_size[1]}, map {height} × {width}, "
            f"jump {columns.jump:g}. A field has up to {rows.size:g} × {columns.size:g} pixels, of which up to "
            f"{most[0]} × {most[1]} are read.")


def _pointed(view) -> Pointed:
    rows, columns = ([_reach(what, unit, field, read, size) for unit, (field, read)
                      in enumerate(zip(fields, reading.sum(1).tolist(), strict=True))]
                     for what, fields, reading, size in
                     zip(("row", "column"), view.fields, view.read, view.input_size, strict=True))
    return Pointed(rows, columns)


def _reach(what, unit, field, read, size) -> str:
    start, end = (f"The unit in row {unit}", ",") if what == "row" else (f"in column {unit} it", ".")
    if not read:
        return f"{start} reads no {what} of the picture, only padding{end}"
    low, high = field
    if high - low == 1:
        return f"{start} reads {what} {low:g} alone{end}"
    outside = max(0, -low) + max(0, high - size)
    beyond = f" ({outside:g} lie outside the picture)" if outside else ""
    span = f"{low:g} to {high - 1:g}".replace("-", "−")
    return f"{start} reads {read:.0f} of the {high - low:g} {what}s from {span}{beyond}{end}"
