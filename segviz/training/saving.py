"""The folder of a run: what `fit` writes there, and how it takes a run up again.

last.safetensors   network and optimizer, as after the step that it names
best.safetensors   the network alone, as it was when the validation set's mean IoU was highest
"""

from pathlib import Path

import torch
from torch import nn

from segviz import checkpoint
from segviz.training.history import History

LAST, BEST = "last.safetensors", "best.safetensors"


def save(folder, model: nn.Module, optimizer: torch.optim.Optimizer, history: History, settings: dict, notes) -> None:
    """Writes last.safetensors, whole or not at all."""
    state, names = optimizer.state_dict()["state"], [name for name, _ in model.named_parameters()]
    tensors = {
        f"optimizer.{names[i]}.{key}": torch.as_tensor(value)
        for i, kept in state.items()
        for key, value in kept.items()
        if value is not None
    }
    config = {"training": settings, "step": len(history.loss), "history": history.as_json(), "notes": notes or {}}
    checkpoint.save(Path(folder) / LAST, _weights(model) | tensors, checkpoint.describe(model) | config)


def save_best(folder, model: nn.Module, history: History, notes) -> None:
    """Writes best.safetensors."""
    config = {"step": len(history.loss), "score": history.val[-1][1].mean_iou, "notes": notes or {}}
    checkpoint.save(Path(folder) / BEST, _weights(model), checkpoint.describe(model) | config)


def refuse_to_overwrite(folder) -> None:
    if (Path(folder) / LAST).exists():
        raise ValueError(
            f"{folder} already holds a run: fit(..., resume=True) takes it up, another folder begins a new one"
        )


def take_up(folder, model: nn.Module, optimizer: torch.optim.Optimizer, settings: dict) -> History:
    """Sets model and optimizer to what last.safetensors holds, and returns the history so far; an empty one where
    there is no such file yet. Raises ValueError in words for a run with other settings or of another network."""
    path = Path(folder) / LAST
    if not path.exists():
        return History()
    found = checkpoint.read(path)
    kept = found.config.get("training")
    if kept is None:
        raise ValueError(f"{path} is not of a training run: it cannot be taken up")
    _check_same(path, kept, settings)
    try:
        checkpoint.fill(model, found.part("model"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be taken up: {error}") from error
    _fill_optimizer(optimizer, found.part("optimizer"), [name for name, _ in model.named_parameters()])
    return History.from_json(found.config["history"])


def _weights(model: nn.Module) -> dict:
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def _check_same(path: Path, kept: dict, settings: dict) -> None:
    other = [name for name in settings if kept.get(name) != settings[name]]
    if other:
        differ = "; ".join(f"{name}: {kept.get(name)} there, {settings[name]} here" for name in other)
        raise ValueError(f"{path} was trained with other settings ({differ}): give the same, or another folder")


def _fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict, names: list[str]) -> None:
    state: dict[int, dict] = {}
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        state.setdefault(names.index(name), {})[part] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
