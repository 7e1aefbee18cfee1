"""A run that was trained: find its file and its data, score it, and show where it is wrong."""

import json
import math
import os
import platform
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from segviz import checkpoint, data, metrics, training
from segviz.data.survey import name_of
from segviz.runs import pictures
from segviz.runs.sets import PUBLIC, SETTINGS, WORLDS, data_set, loaders
from segviz.training import processes

FILES = ("best.safetensors", "last.safetensors")  # of the folder of a run, the first that is there
TOLERANCE = 0.005  # in mean IoU: other machines round in other places
WORST = 6  # images that are shown


class ImageScore(NamedTuple):
    """Of one image: its number in the data set, its file, mean IoU of the classes that it or its prediction has, and
    the share of its labelled pixels that are wrong."""

    item: int
    name: str
    mean_iou: float
    wrong: float


@dataclass(frozen=True)
class Evaluation:
    """The scores of a network, beside what its file records."""

    path: Path
    model: str
    data: dict
    images: int
    scores: training.Scores
    worst: tuple[ImageScore, ...]  # the worst first
    recorded: float | None  # mean IoU
    same_data: bool  # whether that is of these data

    @property
    def reproduced(self) -> bool | None:
        """None where the file records no score for these data."""
        if self.recorded is None or not self.same_data:
            return None
        return abs(self.scores.mean_iou - self.recorded) <= TOLERANCE

    def __str__(self) -> str:
        told = [f"{name} {self.data[name]}" for name in ("split", "size", "seed") if name in self.data]
        lines = [f"{self.model} of {self.path}", f"{self.data['name']}, {', '.join(told)}, {self.images} images", "",
                 str(self.scores), "", f"The worst of {self.images}:"]
        lines += [f"  {each.name}   mean IoU {each.mean_iou:.3f}, {each.wrong:.1%} wrong" for each in self.worst]
        if self.recorded is None:
            return "\n".join([*lines, "", "The file records no score."])
        verdict = {None: f"{self.recorded:.3f}, but for other data, or without saying for which",
                   True: f"{self.recorded:.3f} for these data: reproduced",
                   False: f"{self.recorded:.3f} for these data: NOT reproduced"}[self.reproduced]
        return "\n".join([*lines, "", f"The file records mean IoU {verdict}."])

    def as_json(self) -> dict:
        """All of it as JSON can say it; null where a score is not defined."""
        scores = self.scores
        each = {"iou": scores.class_iou, "dice": metrics.dice(scores.counts),
                "boundary_iou": metrics.boundary_score(scores.boundary)}
        rows = {name: {kind: _number(values[label].item()) for kind, values in each.items()}
                | {"pixels": int(scores.counts[label].sum()), "predicted": int(scores.counts[:, label].sum())}
                for label, name in enumerate(pictures.names_of(scores))}
        return {
            "file": str(self.path), "model": self.model, "data": self.data, "images": self.images,
            "mean_iou": _number(scores.mean_iou), "pixel_accuracy": _number(scores.pixel_accuracy),
            "frequency_weighted_iou": _number(metrics.frequency_weighted_iou(scores.counts)),
            "boundary_iou": _number(scores.boundary_iou), "classes": rows,
            "counts": scores.counts.tolist(), "worst": [each._asdict() for each in self.worst],
            "recorded_mean_iou": self.recorded, "reproduced": self.reproduced,
            "python": platform.python_version(), "torch": torch.__version__,
        }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def evaluate(run: Path, asked: dict, device: str | None = None, out: Path | None = None) -> Evaluation:
    """Scores the network of a run (a folder) or of a file. asked: those of SETTINGS that the learner gave; the others
    are as the file records them (of other data only the split is), else Toytown's val split at 96 pixels. Of a folder
    of images all are scored, at their own sizes. out: a folder for scores.json, confusion.png and worst.png; None:
    nothing is written. Raises ValueError and OSError in words."""
    path = file_of(run)
    found = checkpoint.read(path)  # once: a run may put a newer file there meanwhile
    network, config = checkpoint.load(found), found.config
    recorded = recorded_data(config)
    where = _meant(recorded, asked)
    here = processes.place(device)
    items, classes = data_set(**where, channels=getattr(network, "in_channels", 3))
    if out is not None and here.rank == 0:
        _make(out)  # before all is scored
    if classes is None and where["name"] == recorded.get("name"):
        classes = classes_of(config)
    workers = loaders(where["name"], here.device.type == "cuda")
    scores, images = _scored(network, items, classes, here, 32 if where["name"] in WORLDS else 4, workers)
    worst = sorted((each for each in images if not math.isnan(each.mean_iou)), key=lambda each: each.mean_iou)[:WORST]
    score = config.get("score")
    result = Evaluation(path, config["model"], where, len(items), scores, tuple(worst),
                        score if isinstance(score, float) else None, where == recorded)
    if out is not None and here.rank == 0:
        _leave(result, network, items, out)
    return result


def _scored(network, items, classes, here, batch_size: int, workers: int):
    """The scores of all, and of each image, put together where several processes share them."""
    total, images = None, []
    found = training.image_scores(network, items, batch_size=batch_size, device=here.device, classes=classes,
                                  workers=workers)
    for item, scores in found:
        total = scores if total is None else total + scores
        images.append(ImageScore(item, name_of(items, item), scores.mean_iou, 1 - scores.pixel_accuracy))
    parts = here.gathered((total, images))
    first, *others = [total for total, _ in parts if total is not None]
    return sum(others, start=first), [image for _, some in parts for image in some]


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"nothing can be written into {out}: {error.strerror or error}. Choose another --out") from error


def _leave(result: Evaluation, network, items, out: Path) -> None:
    temporary = out / f".scores.json.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        temporary.write_text(json.dumps(result.as_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, out / "scores.json")
    finally:
        temporary.unlink(missing_ok=True)
    (out / "worst.png").unlink(missing_ok=True)  # of other scores
    pictures.save(pictures.confusion(result.scores), out / "confusion.png")
    if result.worst:
        names = pictures.names_of(result.scores)
        pictures.save(pictures.worst(network, items, names, result.worst), out / "worst.png")


def folder_of(run: Path, asked: dict) -> Path | None:
    """Where an evaluation is left if nothing is said: in the run's folder, by its split, by the data's name where
    another was asked for than the run's own, and by what else was asked that changes the images (val-size192), so that
    no scores take the place of others. None for a file by itself."""
    if not run.is_dir():
        return None
    recorded = recorded_data(checkpoint.read(file_of(run)).config)
    where, usual = (_meant(recorded, given) for given in (asked, {"name": asked["name"]} if "name" in asked else {}))
    own = "name" not in asked or _is_same(where["name"], recorded.get("name"))
    name = [] if own else [Path(where["name"]).resolve().name]
    changed = [each for each in SETTINGS if each not in ("name", "split") and where.get(each) != usual.get(each)]
    others = [each if where[each] is True else f"{each}{where[each]}" for each in changed]
    return run / "evaluation" / "-".join([*name, where["split"], *others])


def _meant(recorded: dict, asked: dict) -> dict:
    """The data that are scored: what is recorded, but for the split, says something only of the data that it names."""
    where = {"name": recorded.get("name", "toytown"), "split": recorded.get("split", "val")} | asked
    if "name" not in asked or _is_same(where["name"], recorded.get("name")):
        where |= {name: value for name, value in recorded.items() if name == "name" or name not in asked}
    if where["name"] in WORLDS:
        return {"size": 96} | where
    return {name: value for name, value in where.items() if name in asked or name in ("name", "split", "binary")}


def _is_same(name: str, other: str | None) -> bool:
    """Whether two data sets are one, though a path may be written in several ways."""
    if name == other or not isinstance(other, str):
        return name == other
    return not {name, other} & {*WORLDS, *PUBLIC} and Path(name).resolve() == Path(other).resolve()


def file_of(run: Path) -> Path:
    """The checkpoint of a run's folder: the best, else the last; `run` itself where it is no folder."""
    if not run.is_dir():
        return run
    for name in FILES:
        if (run / name).exists():
            return run / name
    raise ValueError(f"{run} is not the folder of a run: it holds neither {' nor '.join(FILES)}")


def recorded_data(config: dict) -> dict:
    """Which data a checkpoint says it was scored on: its "data", or that of the notes that `fit` was given; {} for
    none."""
    notes = config.get("notes")
    found = config.get("data") or (notes.get("data") if isinstance(notes, dict) else None)
    return {name: found[name] for name in SETTINGS if name in found} if isinstance(found, dict) else {}


def classes_of(config: dict) -> tuple[str, ...] | None:
    """The names of the classes that a checkpoint was trained on, where it says them, or the world that it is of."""
    notes = config.get("notes")
    if isinstance(notes, dict) and isinstance(notes.get("classes"), list):
        return tuple(map(str, notes["classes"]))
    worlds = {"toytown": data.toytown, "cells": data.cells}
    return worlds[name].CLASSES if (name := recorded_data(config).get("name")) in worlds else None
