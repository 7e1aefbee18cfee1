"""A look at data before a network is trained on them: what there is of each class, how large, and what looks wrong."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from tqdm.auto import tqdm

from segviz import draw
from segviz.data.folder import MANY
from segviz.data.pictures import VOID, listed

RARE = 0.01  # of all labelled pixels: a class below it is easily left out


@dataclass
class Survey:
    """What one split of a data set holds. `str` of it is a table; `notices`: what looks wrong, in words."""

    classes: tuple[str, ...]
    pixels: list[int]  # of each class
    images_with: list[int]  # in how many images each class occurs
    void: int  # pixels
    sizes: Counter  # (height, width) -> images
    notices: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        return sum(self.sizes.values())

    @property
    def shares(self) -> list[float]:
        """Of each class, of the labelled pixels."""
        return [count / max(1, sum(self.pixels)) for count in self.pixels]

    @property
    def rare(self) -> list[str]:
        """The classes that are there, with less than a hundredth of the labelled pixels."""
        return [name for name, share in zip(self.classes, self.shares, strict=True) if 0 < share < RARE]

    def __str__(self) -> str:
        wide = max(map(len, self.classes))
        rows = [
            f"  {name:<{wide}}  {share:8.2%} of the pixels, in {there} of {self.images} images"
            for name, share, there in zip(self.classes, self.shares, self.images_with, strict=True)
        ]
        sizes = [f"{height} x {width} ({count})" for (height, width), count in self.sizes.most_common()]
        every = sum(self.pixels) + self.void
        void = [f"  without a label: {self.void / every:.2%}"] if self.void else []
        notices = [f"! {notice}" for notice in self.notices]
        return "\n".join([f"{self.images} images, height x width: {listed(sizes)}", *rows, *void, *notices])


def survey(data, classes: tuple[str, ...] | None = None, seen: dict[bytes, str] | None = None, show=None) -> Survey:
    """Reads all of a data set of (image (C, H, W), mask (H, W)), once. A bar shows where it takes longer than 2 s.

    classes: their names; None: those of `data.classes`, else as many as there are labels. seen: the digests of images
    of other splits, and where they are from; those of this one are added. Raises what reading the items raises, and
    ValueError for labels that have no name.
    """
    classes = classes or getattr(data, "classes", None)
    pixels, there = np.zeros(VOID + 1, np.int64), np.zeros(VOID + 1, np.int64)
    sizes, notices, seen, first = Counter(), _Notices(), {} if seen is None else seen, {}
    for item in tqdm(range(len(data)), "reading the data", delay=2, leave=False, disable=show is False):
        image, mask = data[item]
        name = name_of(data, item)
        counts = np.bincount(mask.numpy().ravel(), minlength=VOID + 1)
        pixels, there = pixels + counts, there + (counts > 0)
        for label in counts[:VOID].nonzero()[0].tolist():
            first.setdefault(label, name)
        sizes[tuple(mask.shape)] += 1
        digest = hashlib.sha256(image.numpy().tobytes() + repr(tuple(image.shape)).encode()).digest()
        if (other := seen.setdefault(digest, name)) != name:
            notices.add("the same image twice", f"{other} and {name}")
        if counts[VOID] > mask.numel() / 2:
            notices.add("more than half without a label", name)
        if bool((image == image.flatten(1)[:, :1, None]).all()):
            notices.add("an image of one colour", name)
    if classes is None:
        classes = tuple(f"class {label}" for label in range(int(pixels[:VOID].nonzero()[0].max(initial=0)) + 1))
        if not pixels[0]:
            notices.add("no pixel has the label 0: do the labels begin at 1? The first class is 0")
        if len(classes) > MANY:
            notices.add(f"labels up to {len(classes) - 1}, without names: were masks resized with interpolation, or "
                        "saved as JPEG? If not, name the classes")
    if wild := sorted(label for label in first if label >= len(classes)):
        raise ValueError(f"labels {listed(wild)} have no name: there are {len(classes)} classes, 0 to "
                         f"{len(classes) - 1}. Label {wild[0]} is in {first[wild[0]]}: name it, or label its pixels "
                         "again")
    for name, images in zip(classes, there, strict=False):
        if not images:
            notices.add("no pixel of a class", name)
    return Survey(tuple(classes), pixels[: len(classes)].tolist(), there[: len(classes)].tolist(), int(pixels[VOID]),
                  sizes, notices.told())


class _Notices:
    """What looks wrong, told once with the first few names."""

    def __init__(self):
        self.names: dict[str, list[str]] = {}

    def add(self, what: str, *names: str) -> None:
        self.names.setdefault(what, []).extend(names)

    def told(self) -> list[str]:
        return [f"{what}: {listed(names)}" if names else what for what, names in self.names.items()]


def name_of(data, item: int) -> str:
    """What an item is called: its file, of a `Folder`."""
    pairs = getattr(data, "pairs", None)
    return str(pairs[item][0]) if pairs else f"{getattr(data, 'split', 'item')} {item}"


def contact_sheet(data, found: Survey, palette=draw.PALETTE, count: int = 12):
    """A figure: images of the data set, evenly spread over it, each beside its mask, and a legend."""
    items = torch.linspace(0, len(data) - 1, min(count, len(data))).round().long().unique().tolist()
    figure, axes = draw.panels(6, rows=-(-len(items) * 2 // 6), size=2.0)
    for at, item in enumerate(items):
        image, mask = data[item]
        draw.image(axes[2 * at], image, f"{item}")
        draw.labels(axes[2 * at + 1], mask, palette=palette)
    draw.key(figure, found.classes, palette)
    return figure
