"""The folder of a run: what `fit` writes there, and how it takes a run up again.

last.safetensors   network and optimizer, as after the step that it names
best.safetensors   the network alone, as it was when the validation set's mean IoU was highest
"""

import dataclasses
import functools
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from segviz import checkpoint
from segviz.training.history import History
from segviz.training.processes import Place

LAST, BEST = "last.safetensors", "best.safetensors"


def claimed(folder, writes: bool) -> AbstractContextManager:
    """No other run is at work in `folder` meanwhile; nothing to claim where there is none, or for who only reads."""
    return checkpoint.claim(folder) if folder is not None and writes else nullcontext()


def told(**settings) -> dict:
    """The settings that must be the same where a run is taken up, as JSON gives them back."""
    weights = settings["class_weights"]
    settings["class_weights"] = None if weights is None else torch.as_tensor(weights).tolist()
    return settings | {name: _in_words(settings[name]) for name in ("augment", "pixel_weights")}


def _in_words(function) -> str | None:
    """What a file says of a function: its name, with its arguments where it is a dataclass or a `functools.partial`
    (the repr of another has its address in it)."""
    if function is None:
        return None
    if dataclasses.is_dataclass(function):
        return repr(function)
    if isinstance(function, functools.partial):
        given = [*map(repr, function.args), *(f"{name}={value!r}" for name, value in function.keywords.items())]
        return f"{_in_words(function.func)}({', '.join(given)})"
    return getattr(function, "__qualname__", type(function).__qualname__)


class Run:
    """What is trained, and the folder where it is kept (None: nowhere).

    settings: what `told` gives; notes: what else the files say; both as JSON can. here: which of several processes this
    is; the first alone reads and writes, so that no other needs to see the folder. Raises ValueError for what JSON
    cannot say: at once, not at the first save."""

    def __init__(self, folder, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict, notes, here: Place):
        self.folder = None if folder is None else Path(folder)
        self.model, self.optimizer, self.settings, self.notes = model, optimizer, settings, notes or {}
        self.here, self.writes = here, here.rank == 0 and folder is not None
        if self.writes:
            try:
                json.dumps([settings, self.notes])
            except (TypeError, ValueError) as error:
                raise ValueError(f"settings and notes are kept as JSON can say them, but {error}") from None

    def begin(self, resume: bool) -> History:
        """The history so far. resume: sets network and optimizer to what last.safetensors holds, where there is one.

        Raises ValueError in words for a run that is in the way (not resume), that has other settings, or is of another
        network; network and optimizer are then as they were."""
        path, found = self.folder and self.folder / LAST, self._found(resume)
        if found is None:
            return History()
        self._check_settings(path, found.config.get("training"))
        state = self._optimizer_state(path, found.part("optimizer"))
        try:
            checkpoint.fill(self.model, found.part("model"))
        except ValueError as error:
            raise ValueError(f"{path} cannot be taken up: {error}") from error
        self.optimizer.load_state_dict(state)
        for parameter, kept in self.optimizer.state.items():
            for key, value in kept.items():
                if value.dim():  # fused kernels go by the strides of the weights, which may be channels_last
                    kept[key] = torch.empty_like(parameter).copy_(value)
        return History.from_json(found.config["history"])

    def _found(self, resume: bool) -> checkpoint.Checkpoint | None:
        """What the first process finds in the folder, and what is wrong with it, in all of them."""
        found = wrong = None
        try:
            if self.writes and (self.folder / LAST).exists():
                if not resume:
                    raise ValueError(
                        f"{self.folder} already holds a run: fit(..., resume=True) takes it up, another folder begins "
                        "a new one"
                    )
                found = checkpoint.read(self.folder / LAST)
        except (ValueError, OSError) as error:
            wrong = error
        config, wrong = self.here.from_first((found and found.config, wrong))
        if wrong:
            raise wrong
        if config is None:
            return None
        return checkpoint.Checkpoint(self.here.tensors_from_first(found.tensors if found else {}), config)

    def left(self, history: History, gone: list[int]) -> str:
        """In words, where the run is kept when the processes `gone` have left it; saved, where this one writes."""
        if self.folder is None:
            return "Nothing of the run is kept: fit(..., folder=...) keeps it"
        again = "Start all processes again with resume=True (segviz train --resume): it goes on from there"
        if self.writes:
            self.save(history)
            return f"The run is kept in {self.folder}, as after step {len(history.loss)}. {again}"
        if 0 not in gone:
            return f"Rank 0 keeps the run in {self.folder}. {again}"
        try:
            step = checkpoint.read(self.folder / LAST).config["step"]
        except (ValueError, OSError):
            return f"What rank 0 has kept of the run lies in {self.folder} on its machine. {again}"
        return f"Rank 0 has kept the run in {self.folder}, as after step {step}. {again}"

    def save(self, history: History) -> None:
        """Writes last.safetensors, whole or not at all. Raises FloatingPointError rather than keep NaN or Inf."""
        if not self.writes:
            return
        names = [name for name, _ in self.model.named_parameters()]
        tensors = {
            f"optimizer.{names[i]}.{key}": torch.as_tensor(value)
            for i, kept in self.optimizer.state_dict()["state"].items()
            for key, value in kept.items()
            if value is not None
        }
        self._write(LAST, history, tensors, {"training": self.settings, "history": history.as_json()})

    def save_best(self, history: History) -> None:
        """Writes best.safetensors, with the newest score."""
        if self.writes:
            self._write(BEST, history, {}, {"score": history.val[-1][1].mean_iou})

    def _write(self, name: str, history: History, tensors: dict, config: dict) -> None:
        weights = {f"model.{key}": tensor for key, tensor in self.model.state_dict().items()}
        if wild := [key for key, tensor in weights.items() if not tensor.isfinite().all()]:
            raise FloatingPointError(
                f"{wild[0].removeprefix('model.')} holds NaN or Inf after step {len(history.loss)}: nothing was saved, "
                f"{self.folder} has what it had before. Lower lr"
            )
        config = checkpoint.describe(self.model) | config | {"step": len(history.loss), "notes": self.notes}
        checkpoint.save(self.folder / name, weights | tensors, config)

    def _check_settings(self, path: Path, kept: dict | None) -> None:
        if kept is None:
            raise ValueError(f"{path} is a network without its training: it cannot be taken up")
        other = [name for name in self.settings if kept.get(name) != self.settings[name]]
        if other:
            differ = "; ".join(f"{name}: {kept.get(name)} there, {self.settings[name]} here" for name in other)
            raise ValueError(f"{path} was trained with other settings ({differ}): give the same, or another folder")

    def _optimizer_state(self, path: Path, tensors: dict) -> dict:
        """What torch's optimizers take: the state by each parameter's number. Its learning rate is `fit`'s affair."""
        numbers = {name: i for i, (name, _) in enumerate(self.model.named_parameters())}
        state: dict[int, dict] = {}
        for key, tensor in tensors.items():
            name, _, part = key.rpartition(".")
            if name not in numbers:
                raise ValueError(f"{path} cannot be taken up: it is of another network, whose {name} this one lacks")
            state.setdefault(numbers[name], {})[part] = tensor
        return {"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]}
