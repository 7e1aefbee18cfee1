"""Running a module on tensors without content, and following each operator."""

import logging
from contextlib import contextmanager
from itertools import count

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.parameter import UninitializedTensorMixin
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .layer import Layer, summary
from .lines import PIXELS
from .maps import Map, Place, joined
from .rules import ELEMENTWISE, FORGETFUL, RULES


class Trace(TorchDispatchMode):
    """Follows every operator that is run inside it, from a tensor of pixels on."""

    def __init__(self):
        super().__init__()
        self.layers: list[Layer] = []
        self.places: dict[int, tuple[Tensor, Place | None]] = {}  # by identity; None: no longer known
        self.windows: dict[int, list[tuple[int, int, int, int]]] = {}  # of the poolings that gave these indices
        self.running: list[tuple[str, nn.Module, int]] = []  # the modules whose forward is being run
        self.calls, self.last = count(), None

    def start(self, pixels: Tensor) -> None:
        batch, channels, height, width = pixels.shape
        layout = ((None, batch),), ((None, channels),), ((0, height),), ((1, width),)
        self.places[id(pixels)] = pixels, Place(Map((PIXELS, PIXELS), (height, width)), layout)

    def place(self, tensor) -> Place | None:
        if not isinstance(tensor, Tensor) or id(tensor) not in self.places:
            return None
        place = self.places[id(tensor)][1]
        if place is None:
            raise ValueError("it reads a tensor into which other values were written, in part or by another name")
        return place

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        try:
            out = func(*args, **(kwargs or {}))
        except (DataDependentOutputException, DynamicOutputShapeException):
            raise self.unknown(func, "what comes next depends on the values of a map") from None
        if func.namespace != "prim":
            schema = func._schema.arguments
            given = {argument.name: argument.default_value for argument in schema}
            given |= dict(zip((argument.name for argument in schema), args, strict=False)) | (kwargs or {})
            try:
                self.follow(func, given, out)
            except Exception as error:
                raise self.unknown(func, error) from error
        return out

    def unknown(self, func, why) -> ValueError:
        name, module, _ = self.running[-1]
        return ValueError(
            f"the operator {func.overloadpacket.__name__} in the forward of {name or 'the module'} "
            f"({type(module).__name__}) cannot be followed: {why}"
        )

    def follow(self, func, given: dict, out) -> None:
        name = func.overloadpacket.__name__.removesuffix("_")
        known = {key: place for key, value in given.items() if (place := self.place(value))}
        listed = [place for value in given.values() if isinstance(value, list | tuple)
                  for item in value if (place := self.place(item))]  # fmt: skip
        if name in FORGETFUL or not (known or listed):
            return
        if name in RULES:
            place = RULES[name](self, given, out)
        elif torch.Tag.pointwise in func.tags or name in ELEMENTWISE:
            place = self.elementwise(name, [*known.values(), *listed], tree_leaves(out)[0])
        else:
            raise ValueError("it mixes places in a way that is not known here")
        if func.overloadpacket.__name__.endswith("_"):
            self.write(given["self"], place)
        elif place is not None:  # else the rule has set the places of several outputs
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and tensor.ndim == len(place.layout):
                    self.places[id(tensor)] = tensor, place

    def write(self, tensor: Tensor, place: Place) -> None:
        """A tensor that was changed in place. What shares its memory is no longer known, where the fields changed."""
        before = self.places.get(id(tensor), (None, None))[1]
        if before is None or before.map is not place.map:
            base = tensor if tensor._base is None else tensor._base
            for other, _ in [*self.places.values(), (base, None)]:
                if other is not tensor and (other is base or other._base is base):
                    self.places[id(other)] = other, None
        self.places[id(tensor)] = tensor, place

    def elementwise(self, name: str, places: list[Place], out: Tensor) -> Place:
        place = joined(places, out.shape)
        if any(place.map.lines != before.map.lines for before in places):
            self.report(name, place)
        return place

    def report(self, kind: str, place: Place) -> None:
        """One entry of the list: of a layer of PyTorch's own one a call, of other modules one for each function."""
        name, module, call = self.running[-1]
        if self.in_layer():
            kind = type(module).__name__
            if self.last == call:
                self.layers.pop()
        self.last = call
        axes = (summary(line, size) for line, size in zip(place.map.lines, place.map.sizes, strict=True))
        self.layers.append(Layer(name, kind, place.shape(), *axes))

    def in_layer(self) -> bool:
        """Whether the module that is being run is one of PyTorch's layers, or derived from one, and no container."""
        module = self.running[-1][1]
        inherited = [each.__module__ for each in type(module).__mro__ if each is not nn.Module]
        return not any(module.children()) and any(name.startswith("torch.nn.modules.") for name in inherited)


def followed(module: nn.Module, input_size, in_channels: int | None) -> tuple[Trace, Tensor, Tensor]:
    """The trace of one run, the pixels that it began with, and what the module gave."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"input_size is a number of pixels, or (height, width), from 1 up, but got {input_size}")
    convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d))
    channels = in_channels or next((part.in_channels for part in convolutions), 3)
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    trace = Trace()
    with torch.inference_mode(False), torch.no_grad(), evaluating(module), FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.empty((1, channels, *size), dtype=like.dtype, device=like.device)
        trace.start(pixels)
        hooks = [hook for name, each in module.named_modules() for hook in _told(trace, name, each)]
        silenced = logging.getLogger("torch._subclasses.fake_tensor")
        before, silenced.disabled = silenced.disabled, True  # it would print what is raised in words below
        try:
            with trace:
                output = said(module, pixels, "Try a larger input, or other in_channels.")
        finally:
            silenced.disabled = before
            for hook in hooks:
                hook.remove()
    return trace, pixels, output


def _told(trace: Trace, name: str, module: nn.Module):
    """Hooks that tell the trace which module's forward is being run."""

    def enter(*_):
        trace.running.append((name, module, next(trace.calls)))

    def leave(*_):
        trace.running.pop()

    return module.register_forward_pre_hook(enter), module.register_forward_hook(leave)


@contextmanager
def evaluating(module: nn.Module):
    """The module in evaluation mode, with copies for its buffers. Afterwards every part has its own attributes back,
    mode and buffers among them, whatever the forward wrote."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise ValueError("a compiled ScriptModule cannot be looked into: give the module that it was made from")
    if any(isinstance(each, UninitializedTensorMixin) for each in [*module.parameters(), *module.buffers()]):
        raise ValueError("the module has lazy layers without weights yet: run it once on images, then ask again")
    before = [(vars(part), dict(vars(part))) for part in module.modules()]
    try:
        module.eval()
        for now, _ in before:
            buffers = now["_buffers"].items()
            now["_buffers"] = {name: each if each is None else each.detach().clone() for name, each in buffers}
        yield
    finally:
        for now, own in before:
            now.clear()
            now.update(own)


def said(module: nn.Module, pixels: Tensor, advice: str, run=None):
    """What the module, or `run`, makes of the pixels; what goes wrong inside is said in words. advice: what helps where
    the pixels do not fit."""
    try:
        return (run or module)(pixels)
    except ValueError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        fits = not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError)
        raise ValueError(
            f"{type(module).__name__} cannot take an input of shape {tuple(pixels.shape)}: {first}."
            f"{'' if fits else ' ' + advice}"
        ) from error
