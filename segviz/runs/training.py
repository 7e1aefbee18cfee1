"""What `segviz train` does: looks at the data, chooses what was not said, trains, and leaves pictures."""

import datetime
import itertools
import json
import platform
import shlex
from pathlib import Path

import torch

from segviz import checkpoint, models, training
from segviz.data.pictures import listed
from segviz.data.survey import Survey
from segviz.data.transforms import Augment
from segviz.runs import pretrained
from segviz.runs.board import Board, summary_writer
from segviz.runs.evaluation import file_of
from segviz.runs.looking import looked, sheet
from segviz.runs.pictures import samples, save
from segviz.runs.recipe import MODELS, Recipe, check, recipe
from segviz.runs.sets import PUBLIC, WORLDS, data_set, splits
from segviz.training import processes

OPTIONS, LAST, HISTORY, LOOK, SHEET = "options.json", "last.safetensors", "history.json", "data.txt", "data.png"
BEGINNING = {OPTIONS, LOOK, SHEET, "run.lock"}  # what a run leaves that was stopped before its first step


def train(out: Path | None = None, model: str | None = None, data: str | None = None, *, resume: bool = False,
          device: str | None = None, image_size: int | None = None, length: int | None = None,
          binary: bool | None = None, channels: int | None = None, download: bool = False,
          tensorboard: bool | None = None, compile: bool | None = None, say=print,
          **asked) -> training.History:  # fmt: skip
    """Trains a model of the course on a data set and keeps all of it in the folder `out`.

    out: a new folder; None: runs/MODEL-DATA, or the first of runs/MODEL-DATA-2, -3 ... that is free. model: None: unet.
    data: as `sets.data_set` has it; None: toytown; image_size, length: of a world; binary, channels: of a folder. The
    network takes as many channels as the images have.
    asked: what `recipe` takes; None: nothing is said. resume: take up the run that lies in `out`, as it was begun; what
    is said must be the same. The "train" split is trained on, "val", where there is one, is scored on the way.
    tensorboard: leave logs for it too; compile: as `fit` has it; None: as the run was begun, else not. say: is given
    each line that a person may want to read. Under `torchrun` the first process alone looks at the data, says and
    writes; the others wait for its look as long as `processes.PATIENCE` lets them. Raises ValueError, OSError and
    ImportError in words.
    """
    here = processes.place(device)
    first = here.rank == 0
    say = say if first else lambda *_: None
    if download and here.world > 1:
        raise ValueError(f"fetch {data} by one process before several train on it: segviz look {data} --download")
    which = {"name": data, "size": image_size, "length": length, "binary": binary, "channels": channels}
    which, asked = _given(which), _given({"model": model} | asked)
    which |= {"name": _full(data)} if data is not None else {}
    out, plan, ways = _agreed(here, lambda: _place(out, resume, which, asked))
    ways = {"tensorboard": False, "compile": False} | ways | _given({"tensorboard": tensorboard, "compile": compile})
    writer, new = summary_writer() if ways["tensorboard"] else None, plan is None
    if new:
        which, asked = {"name": "toytown"} | which, {"model": "unet"} | asked
        check(**asked, channels=which.get("channels", 3))  # before much is fetched and read
        items, val, classes = _sets(which, download)
        plan, found, look = _agreed(here, lambda: _chosen(here, which, asked, items, val, classes, say))
    else:
        items, val, _ = _sets(plan.data, download)
    network = _network(plan, new=not (resume and (out / LAST).exists()))
    if new:
        _agreed(here, lambda: _begin(out, plan, asked, ways, here, look, items, found))
    say(_in_words(plan, network, here))
    if not val:
        say(f"! {plan.data['name']} has no val/: nothing is scored on the way, and the last network is kept, not the "
            "best")
    say(f"{'Goes on' if resume else 'A new run'} in {out}")
    board = Board(writer, out, plan, network, val or items) if first and writer else None
    history = training.fit(
        network, items, val, steps=plan.steps, batch_size=plan.batch_size, lr=plan.lr, seed=plan.seed,
        class_weights=plan.class_weights and torch.tensor(plan.class_weights), workers=plan.workers,
        augment=_augment(plan),
        val_every=max(1, plan.steps // 10) if val else None, device=here.device, compile=ways["compile"], folder=out,
        title=f"{plan.model} on {Path(plan.data['name']).name}", resume=resume, log=board and board.write,
        notes={"data": _scored_on(plan.data, val), "classes": plan.classes},
    )  # fmt: skip
    if first:
        if board:
            board.write(history)
        _leave(out, history, val or items, plan.classes, here.device)
        say(f"{history}\n{out} holds the network, its scores and pictures")
    if history.interrupted:
        say(f"To go on: segviz train --out {shlex.quote(str(out))} --resume{f' --device {device}' if device else ''}")
    return history


def _chosen(here: processes.Place, which: dict, asked: dict, items, val, classes, say) -> tuple[Recipe, Survey, str]:
    """Looks at the data and says what they hold; the recipe for them, and what was found, also in words."""
    which = which | {"channels": _channels(which, items)}
    (found, *_), look = looked({"train": items} | ({"val": val} if val else {}), classes)
    say(look)
    return recipe(data=which, found=found, device=here.device, world=here.world, **asked), found, look


def _given(options: dict) -> dict:
    return {name: value for name, value in options.items() if value is not None}


def _agreed(here: processes.Place, decide):
    """What the first process decides, or the error that it meets, in all of them: its own, where that is one that is
    expected, else its words as a ValueError."""
    found = error = None
    if here.rank == 0:
        try:
            found = decide()
        except Exception as met:
            error = met
    told = error
    if not (error is None or isinstance(error, ValueError | OSError)):
        told = ValueError(f"the first process ends with {type(error).__name__}: {error}")
    found, told = here.gathered((found, told))[0]
    if told is not None:
        raise error or told
    return found


def _full(name: str) -> str:
    """The name of a data set, a folder's from the root on: a run is taken up from anywhere."""
    return name if name in (*WORLDS, *PUBLIC) or not Path(name).is_dir() else str(Path(name).resolve())


def _place(out: Path | None, resume: bool, which: dict, asked: dict) -> tuple[Path, Recipe | None, dict]:
    """The folder of the run; where it is taken up, its recipe, and its ways: tensorboard and compile. ValueError where
    that cannot be."""
    if out is None:
        if resume:
            raise ValueError("which run is to be taken up? Name its folder: --out")
        name = f"{asked.get('model', 'unet')}-{Path(which.get('name', 'toytown')).resolve().name}".lower()
        tries = (Path("runs", f"{name}-{number}" if number > 1 else name) for number in itertools.count(1))
        return next(place for place in tries if not place.exists()), None, {}
    if resume and (out / OPTIONS).exists():
        return out, *_kept(out, which, asked)
    there = sorted(path.name for path in out.iterdir() if path.name[0] != ".") if out.is_dir() else []
    if resume and LAST not in there:
        raise ValueError(f"there is no run in {out}: leave --resume out to begin one")
    if LAST in there:
        how = "was begun by a program: take it up there" if resume else "already holds a run: --resume takes it up"
        raise ValueError(f"{out} {how}, another --out begins a new one")
    if other := [name for name in there if name not in BEGINNING]:
        raise ValueError(f"{out} holds other things ({listed(other)}): a run has a folder of its own, choose a new one")
    return out, None, {}


def _kept(out: Path, which: dict, asked: dict) -> tuple[Recipe, dict]:
    """The recipe and the ways of a run that is taken up. ValueError where now something else is asked for."""
    try:
        options = json.loads((out / OPTIONS).read_text(encoding="utf-8"))
        kept = Recipe(**options["recipe"])
        there = {"weights": "auto"} | kept.as_dict() | kept.arguments | options["asked"]
        there |= {"model": kept.model, "flip": kept.augment["flip"] > 0}
        lying = _meant(kept.data)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{out / OPTIONS} does not say how the run was begun ({error}): begin a new one") from error
    asked = asked | ({"model": MODELS.get(asked["model"].lower(), asked["model"])} if "model" in asked else {})
    other = [f"{name}: {lying.get(name)} there, {value} here"
             for name, value in which.items() if lying.get(name) != value]  # fmt: skip
    other += [f"{name}: {there.get(name)} there, {value} here"
              for name, value in asked.items() if there.get(name) != value]  # fmt: skip
    if other:
        raise ValueError(f"{out} was trained with other settings ({'; '.join(other)}): give the same or none, or "
                         "another --out")
    return kept, options.get("ways", {})


def _meant(data: dict) -> dict:
    """Which data, with what is meant where it is not said."""
    return {"channels": 3, "binary": False} | ({"size": 96} if data["name"] in WORLDS else {}) | data | {
        "name": _full(data["name"])}  # fmt: skip


def _sets(which: dict, download: bool):
    """The data to train on, those that are scored on the way (None where there are none), and the classes' names."""
    items, classes = data_set(split="train", **which, download=download)
    if "val" not in splits(which["name"]):
        return items, None, classes
    fewer = {"length": max(1, which["length"] // 5)} if "length" in which else {}
    return items, data_set(split="val", **which | fewer, download=download)[0], classes


def _channels(which: dict, items) -> int:
    """How many the images have. ValueError where another number is asked for: only a folder's are read either way."""
    there = items[0][0].shape[0]
    if which.get("channels", there) != there:
        raise ValueError(f"the images of {which['name']} have {there} channel{'s' * (there != 1)}, but got channels="
                         f"{which['channels']}, which is for a folder of images: leave it out")
    return there


def _scored_on(which: dict, val) -> dict:
    """What a checkpoint says of the data that it was scored on."""
    kept = {name: which[name] for name in ("name", "binary") if name in which} | {"split": "val"}
    if which["name"] in WORLDS:
        kept |= {"size": which.get("size", 96), "seed": 0} | ({"length": len(val)} if "length" in which else {})
    return kept


def _begin(out: Path, plan: Recipe, asked: dict, ways: dict, here, look: str, items, found: Survey) -> None:
    """What is written before training. Raises ValueError where another run is at work in the folder."""
    device = torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else here.device.type
    options = {
        "recipe": plan.as_dict(), "asked": asked, "ways": ways, "device": device, "processes": here.world,
        "python": platform.python_version(), "torch": torch.__version__,
        "begun": datetime.datetime.now().isoformat(timespec="seconds"),
    }  # fmt: skip
    with checkpoint.claim(out):
        (out / OPTIONS).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
        (out / LOOK).write_text(look + "\n", encoding="utf-8")
        sheet(items, found, out / SHEET)


def _network(plan: Recipe, new: bool) -> torch.nn.Module:
    torch.manual_seed(plan.seed)
    network = getattr(models, plan.model)(len(plan.classes), plan.data.get("channels", 3), **plan.arguments)
    if plan.pretrained and new:
        pretrained.begin(network)
    return network


def _augment(plan: Recipe) -> Augment:
    return Augment(crop=plan.size, rare=tuple(plan.rare), **plan.augment | {"scale": tuple(plan.augment["scale"])})


def _in_words(plan: Recipe, network: torch.nn.Module, here: processes.Place) -> str:
    arguments = ", ".join(f"{name}={value}" for name, value in plan.arguments.items())
    count = sum(weight.numel() for weight in network.parameters())
    weights = "none" if plan.class_weights is None else ", ".join(f"{weight:.2f}" for weight in plan.class_weights)
    precision = "bfloat16" if here.device.type == "cuda" else "float32"
    low, high = plan.augment["scale"]
    flip, light, contrast = (plan.augment[name] for name in ("flip", "brightness", "contrast"))
    mirrored = "half of them mirrored (--no-flip where left and right differ)" if flip else "none mirrored"
    shared = f" in {here.world} processes" if here.world > 1 else ""
    return "\n".join([
        f"{plan.model}({arguments}): {count:,} parameters, on {here.device.type}{shared}, {precision}",
        *(["begins with ImageNet's weights"] if plan.pretrained else []),
        f"{plan.steps} steps of {plan.batch_size} crops of {plan.size} x {plan.size}, lr {plan.lr:g}, class weights: "
        f"{weights}, {plan.workers} loading processes",
        f"crops are drawn {low:g} to {high:g} times as large, up to {light:.0%} lighter or darker and {contrast:.0%} "
        f"in contrast, {mirrored}",
        *([f"half of the crops are laid around the rare labels {listed(plan.rare)}"] if plan.rare else []),
    ])


def _leave(out: Path, history: training.History, data, classes: list[str], device: torch.device) -> None:
    """History and pictures; of the network that `evaluate` and `predict` take."""
    (out / HISTORY).write_text(json.dumps(history.as_json()) + "\n", encoding="utf-8")
    if history.loss:
        save(history.plot(), out / "curves.png")
    save(samples(checkpoint.load(file_of(out)).to(device), data, classes), out / "samples.png")
