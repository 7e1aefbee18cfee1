"""What `segviz train` does: looks at the data, chooses what was not said, trains, and leaves pictures."""

import datetime
import json
import os
import platform
from pathlib import Path

import torch

from segviz import models, training
from segviz.data.survey import Survey, contact_sheet, survey
from segviz.data.transforms import Augment
from segviz.runs.pictures import palette, samples, save
from segviz.runs.recipe import MODELS, Recipe, recipe
from segviz.runs.sets import WORLDS, data_set

OPTIONS, HISTORY, LOOK = "options.json", "history.json", "data.txt"


def train(out: Path, model: str, data: str, *, resume: bool = False, device: str | None = None, channels: int = 3,
          data_size: int | None = None, length: int | None = None, binary: bool = False, download: bool = False,
          compile: bool = False, say=print, **asked) -> training.History:  # fmt: skip
    """Trains a model of the course on a data set and keeps all of it in the folder `out`.

    data: as `sets.data_set` has it; data_size, length: of a world's images. asked: what `recipe` takes. resume: take up
    the run that lies in `out`; then what was chosen before stays. The "train" split is trained on, "val", where there
    is one, is scored on the way. say: is given each line that a person may want to read. Raises ValueError in words.
    """
    place, first = training.choose_device(device), int(os.environ.get("RANK", 0)) == 0
    say = say if first else lambda *_: None
    given = {"size": data_size, "length": length, "binary": binary, "channels": channels, "download": download}
    items, classes = data_set(data, "train", **given)
    val = _val(data, given, say)
    found, look = _looked(items, val, classes)
    say(look)
    chosen = _chosen(out, resume, model, data, found, place, channels, asked)
    network = _network(chosen, len(found.classes), channels)
    say(_in_words(chosen, network, place))
    if first:
        out.mkdir(parents=True, exist_ok=True)
        _write_options(out, chosen, data, found, place)
        (out / LOOK).write_text(look + "\n", encoding="utf-8")
        save(contact_sheet(items, found, palette(len(found.classes))), out / "data.png")
    kept = {"name": data, "split": "val"} | ({"binary": True} if binary else {})
    if data in WORLDS:
        kept |= {"size": data_size or 96, "seed": 0} | ({} if length is None else {"length": len(val)})
    history = training.fit(
        network, items, val, steps=chosen.steps, batch_size=chosen.batch_size, lr=chosen.lr, seed=chosen.seed,
        class_weights=chosen.class_weights and torch.tensor(chosen.class_weights), workers=chosen.workers,
        augment=Augment(crop=chosen.size, scale=(0.75, 1.33), brightness=0.1, contrast=0.1), device=place,
        val_every=max(1, chosen.steps // 10) if val is not None else None, compile=compile, title=f"{model} on {data}",
        folder=out, resume=resume, notes={"data": kept, "classes": list(found.classes)},
    )  # fmt: skip
    if first:
        (out / HISTORY).write_text(json.dumps(history.as_json()) + "\n", encoding="utf-8")
        save(history.plot(), out / "curves.png")
        save(samples(network, val or items, found.classes), out / "samples.png")
        say(f"{history}\n{out} holds the network, its scores and pictures")
    return history


def _val(data: str, given: dict, say):
    """The split that is scored on the way; None, and a word, where a folder has none."""
    if Path(data).is_dir() and not (Path(data) / "val").is_dir():
        say(f"! {data} has no val/: nothing is scored on the way, and the last network is kept, not the best")
        return None
    if given["length"] is not None:
        given = given | {"length": max(1, given["length"] // 5)}
    return data_set(data, "val", **given)[0]


def _looked(items, val, classes) -> tuple[Survey, str]:
    """What the training data hold, and that of both splits in words."""
    seen: dict[bytes, str] = {}
    found = survey(items, classes, seen)
    parts = [f"train: {found}"]
    if val is not None:
        parts.append(f"val: {survey(val, found.classes, seen)}")
    return found, "\n".join(parts)


def _chosen(out: Path, resume: bool, model: str, data: str, found: Survey, place, channels: int, asked: dict) -> Recipe:
    if not (resume and (out / OPTIONS).exists()):
        return recipe(model, data, found, place, channels=channels, **asked)
    kept = Recipe(**json.loads((out / OPTIONS).read_text(encoding="utf-8"))["recipe"])
    named = {"model": MODELS.get(model.lower(), model)} | asked
    other = [
        f"{name}: {getattr(kept, name)} there, {value} here"
        for name, value in named.items()
        if hasattr(kept, name) and value not in (None, getattr(kept, name))
    ]
    if other:
        raise ValueError(f"{out} was trained with other settings ({'; '.join(other)}): give the same, or another --out")
    return kept


def _network(chosen: Recipe, classes: int, channels: int) -> torch.nn.Module:
    torch.manual_seed(chosen.seed)
    return getattr(models, chosen.model)(classes, channels, **chosen.arguments)


def _in_words(chosen: Recipe, network: torch.nn.Module, place: torch.device) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in chosen.arguments.items())
    count = sum(weight.numel() for weight in network.parameters())
    weights = "none" if chosen.class_weights is None else ", ".join(f"{weight:.2f}" for weight in chosen.class_weights)
    precision = "bfloat16" if place.type == "cuda" else "float32"
    return "\n".join([
        f"{chosen.model}({arguments}): {count:,} parameters, on {place.type}, {precision}",
        f"{chosen.steps} steps of {chosen.batch_size} crops of {chosen.size} x {chosen.size}, lr {chosen.lr:g}, class "
        f"weights: {weights}, {chosen.workers} loading processes",
    ])


def _write_options(out: Path, chosen: Recipe, data: str, found: Survey, place: torch.device) -> None:
    device = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    options = {
        "data": data, "classes": list(found.classes), "recipe": chosen.as_dict(), "device": device,
        "python": platform.python_version(), "torch": torch.__version__,
        "begun": datetime.datetime.now().isoformat(timespec="seconds"),
    }  # fmt: skip
    (out / OPTIONS).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
