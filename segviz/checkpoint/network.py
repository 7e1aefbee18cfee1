"""A network as a checkpoint knows it: what it is, its weights by name, and how to build it again."""

import inspect
import os
import reprlib

import torch
from torch import Tensor, nn

from segviz import models
from segviz.checkpoint.file import Checkpoint, read

PREFIXES = ("module.", "_orig_mod.")  # what DistributedDataParallel and torch.compile put before every name
QUOTES = reprlib.Repr()  # what a file holds may be long and deep, or play with the terminal
QUOTES.maxstring, QUOTES.maxdict = 100, 12


def describe(model: nn.Module) -> dict:
    """`{"model": name, "arguments": {...}}`: how to build `model` again, from the attributes that are called as the
    arguments of its class. `{"model": None}` for a network that is not one of `segviz.models`."""
    model = _bare(model)
    name = type(model).__name__
    if name not in models.__all__ or getattr(models, name) is not type(model):
        return {"model": None}
    return {"model": name, "arguments": {key: getattr(model, key) for key in inspect.signature(type(model)).parameters}}


def build(config: dict) -> nn.Module:
    """The network that `describe` told of, with new weights: one of `segviz.models`, whatever else the config names.
    torch's generator is left as it was. Raises ValueError in words."""
    name, arguments = config.get("model"), config.get("arguments", {})
    if name is None:
        raise ValueError("it does not say which model it is: it was saved from a network that is not one of "
                         "segviz.models. Build that network yourself, then checkpoint.fill(network, "
                         "checkpoint.read(path).part('model'))")
    if name not in models.__all__:
        raise ValueError(f"a model is one of {', '.join(models.__all__)}, but the config names {QUOTES.repr(name)}")
    kind = getattr(models, name)
    known = inspect.signature(kind).parameters
    if not isinstance(arguments, dict) or not arguments.keys() <= known.keys():
        raise ValueError(f"{name} takes {', '.join(known)}, but the config gives it {QUOTES.repr(arguments)}")
    arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    try:
        with torch.random.fork_rng(devices=[]):
            return kind(**arguments)
    except Exception as error:  # the arguments come from a file: whatever they do to the class is the file's fault
        raise ValueError(f"{name} cannot be built with {QUOTES.repr(arguments)}: {str(error)[:200]}") from error


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copies weights into `model`, all of them or none; numbers are cast to the model's type. A prefix `module.` or
    `_orig_mod.` that every name has is left out.

    Raises ValueError that names the layer: for missing or unknown names, another shape (as with another number of
    classes), another kind of number, NaN and Inf.
    """
    model, tensors = _bare(model), _without_prefix(tensors)
    own = model.state_dict()
    _check_fit(model, own, tensors)
    cast = {name: tensors[name].to(weight.dtype) for name, weight in own.items()}
    for name, tensor in cast.items():
        if bad := int((~torch.isfinite(tensor)).sum()):
            raise ValueError(f"{name} has {bad} weights that are NaN or Inf: the run that saved them had diverged, or "
                             f"they are too large for {tensor.dtype}. Take an earlier checkpoint")
    for name, tensor in cast.items():
        own[name].copy_(tensor)


def load(source: str | os.PathLike | Checkpoint) -> nn.Module:
    """The network of a checkpoint (a path, or what `read` gave), in eval mode, on the CPU. Raises as `read`, `build`
    and `fill` do."""
    found = source if isinstance(source, Checkpoint) else read(source)
    weights = _without_prefix(found.part("model"))
    try:
        with torch.device("meta"):  # without memory: a file may ask for a network that is far larger than itself
            plan = build(found.config)
        _check_fit(plan, plan.state_dict(), weights)
        model = build(found.config)
        fill(model, weights)
    except ValueError as error:
        raise ValueError(str(error) if found is source else f"{source}: {error}") from error
    return model.eval()


def _bare(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and torch.compile."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while tensors and (found := [prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in tensors)]):
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
    return tensors


def _check_fit(model: nn.Module, own: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
    """ValueError where `tensors` are not the weights `own` of `model`, by name, shape and kind of number."""
    kind = type(model).__name__
    if missing := [name for name in own if name not in tensors]:
        raise ValueError(f"these are not the weights of this {kind}: it also needs {_some(missing)}. Its "
                         "arguments must be those of the network that was saved")
    if unknown := [name for name in tensors if name not in own]:
        raise ValueError(f"these are not the weights of this {kind}: it has no {_some(unknown)}. Its arguments "
                         "must be those of the network that was saved")
    wrong = [name for name in own if own[name].shape != tensors[name].shape]
    if wrong:
        there, here = tuple(tensors[wrong[0]].shape), tuple(own[wrong[0]].shape)
        raise ValueError(f"{wrong[0]} is {there} in the checkpoint and {here} in this {kind}: "
                         f"{_reason(model, own, tensors, wrong)}")
    for name in own:
        if own[name].is_floating_point() != tensors[name].is_floating_point():
            raise ValueError(f"{name} is {tensors[name].dtype} in the checkpoint and {own[name].dtype} in this {kind}")


def _reason(model: nn.Module, own: dict[str, Tensor], tensors: dict[str, Tensor], wrong: list[str]) -> str:
    sizes = [zip(tensors[name].shape, own[name].shape, strict=False) for name in wrong]
    pairs = {(there, here) for pair in sizes for there, here in pair if there != here}
    there, here = pairs.pop() if len(pairs) == 1 else (None, None)
    if here is not None and here == getattr(model, "num_classes", None):
        return f"it was trained for {there} classes, and this network has {here}. Build it with num_classes={there}"
    return f"{len(wrong)} layers differ. Its arguments must be those of the network that was saved"


def _some(names: list[str]) -> str:
    return ", ".join(map(QUOTES.repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
