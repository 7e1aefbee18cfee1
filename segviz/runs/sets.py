"""Data sets by name, as the command line knows them: worlds, public data sets, and folders."""

import os
from pathlib import Path

from segviz.exercises.progress import home

WORLDS = ("toytown", "cells")  # that are drawn, at any size
PUBLIC = ("voc", "pets")  # that lie in a place of their own, and can be fetched
SETTINGS = ("name", "split", "size", "length", "seed", "binary")  # which data; a file records them as config["data"]
SPLITS = ("train", "val", "test")


def data_set(
    name: str, split: str, size=None, length: int | None = None, seed: int = 0, binary: bool = False,
    channels: int = 3, download: bool = False,
):  # fmt: skip
    """The data set of that name, or of that folder, and the names of its classes (None where it does not tell).

    size, length, seed: of a world, which is drawn. binary, channels: of a folder, see `data.Folder`. download: fetch
    voc or pets into the learner's data folder where they are missing. Raises ValueError in words."""
    from segviz import data

    if name in WORLDS:
        kind, world = {"toytown": (data.Toytown, data.toytown), "cells": (data.Cells, data.cells)}[name]
        return kind(split, 96 if size is None else size, length, seed), world.CLASSES
    if size is not None or length is not None:
        raise ValueError(f"the images of {name} are taken all, at their own sizes: leave size and length out")
    if name in PUBLIC:
        kind = {"voc": data.VOC, "pets": data.Pets}[name]
        return kind(home() / "data", split, download), kind.classes
    if not Path(name).is_dir():
        raise ValueError(f"a data set is {', '.join((*WORLDS, *PUBLIC))}, or a folder, but got {name!r}")
    found = data.Folder(name, split, channels=channels, binary=binary)
    return found, found.classes


def splits(name: str) -> list[str]:
    """Which of SPLITS a data set has."""
    if name in PUBLIC or name in WORLDS or not Path(name).is_dir():
        return [split for split in SPLITS if name != "voc" or split != "test"]
    return [split for split in SPLITS if (Path(name) / split).is_dir()]


def loaders(name: str, gpu: bool) -> int:
    """How many processes load images beside one that trains or scores: none for a world, which is drawn at once where
    it is small; else one a core that this process may use, at most 8, shared by the processes of one machine under
    `torchrun`."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = usable // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return 0 if name in WORLDS else max(0, min(8, cores - (not gpu)))
