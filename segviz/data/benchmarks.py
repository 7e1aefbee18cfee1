"""Public data sets of photographs, read by torchvision: Pascal VOC 2012 and the Oxford-IIIT Pets.

Everingham and others 2015, "The Pascal visual object classes challenge: a retrospective"; Parkhi, Vedaldi, Zisserman,
Jawahar 2012, "Cats and dogs". Their archives are fetched only where download=True asks for it (2.0 and 0.8 GB), known
by their SHA-256, and unpacked with `archives.unpacked`.
"""

import operator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import OxfordIIITPet, VOCSegmentation

from segviz.data import archives, pictures

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
PET_CLASSES = ("background", "pet")
VOC_ARCHIVE = (
    "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
PET_ARCHIVES = (
    ("https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
     "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d"),
    ("https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
     "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91"),
)  # fmt: skip
PET, BACKGROUND = 1, 2  # of the trimaps; 3 is the border, which is neither
EACH_FIFTH = 5  # of Pets' trainval is kept for validation


class VOC(Dataset):
    """Pascal VOC 2012: (image, mask), float32 (3, H, W) in [0, 1], int64 (H, W) with 255 for void (borders of objects).
    21 classes, `classes`; images of many sizes.

    root: the folder in which VOCdevkit/VOC2012 lies. split: "train" (1,464 images), "val" (1,449) or "trainval".
    download: fetch what is missing. Raises ValueError and OSError in words.
    """

    classes = VOC_CLASSES

    def __init__(self, root, split: str, download: bool = False):
        _check_split("VOC", split, ("train", "val", "trainval"))
        self.root, self.split = Path(root), split
        if not (self.root / "VOCdevkit" / "VOC2012").is_dir():
            _needed("Pascal VOC 2012", self.root, self.root / "VOCdevkit", [VOC_ARCHIVE], download)
        found = VOCSegmentation(str(self.root), "2012", split)
        self.pairs = [tuple(map(Path, pair)) for pair in zip(found.images, found.masks, strict=True)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        return _read(*self.pairs[_checked(item, self)])


class Pets(Dataset):
    """The Oxford-IIIT Pets: (image, mask), float32 (3, H, W) in [0, 1], int64 (H, W): 0 background, 1 pet, and 255 at
    the border between them, which the trimaps leave open. Images of many sizes.

    root: the folder in which oxford-iiit-pet/ lies. split: "test" (3,669 images), or "train" and "val": the authors'
    trainval (3,680), of which each fifth image is for validation. download: fetch what is missing. Raises ValueError
    and OSError in words.
    """

    classes = PET_CLASSES

    def __init__(self, root, split: str, download: bool = False):
        _check_split("Pets", split, ("train", "val", "test"))
        self.root, self.split, place = Path(root), split, Path(root) / "oxford-iiit-pet"
        if not ((place / "images").is_dir() and (place / "annotations").is_dir()):
            _needed("the Oxford-IIIT Pets", place, place, PET_ARCHIVES, download)
        found = OxfordIIITPet(str(self.root), "test" if split == "test" else "trainval", "segmentation")
        pairs = list(zip(found._images, found._segs, strict=True))
        train = [pair for at, pair in enumerate(pairs) if at % EACH_FIFTH]
        self.pairs = {"test": pairs, "val": pairs[::EACH_FIFTH], "train": train}[split]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        image, trimap = _read(*self.pairs[_checked(item, self)])
        labels = torch.full((256,), 255)
        labels[PET], labels[BACKGROUND] = 1, 0
        return image, labels[trimap]


def _check_split(name: str, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"{name} has the splits {', '.join(known)}, but got {split!r}")


def _needed(what: str, folder: Path, place: Path, parts, download: bool) -> None:
    """Fetches and unpacks the archives, or says what to do."""
    if not download:
        urls = ", ".join(url for url, _ in parts)
        raise ValueError(f"{what} does not lie at {place}: ask for download=True (on the command line: --download), or "
                         f"unpack {urls} in {folder} yourself")
    for url, sha256 in parts:
        archives.unpacked(archives.fetched(what, url, sha256, folder), folder)


def _checked(item: int, data: Dataset) -> int:
    item = operator.index(item)
    if not -len(data) <= item < len(data):
        raise IndexError(f"item {item} of {type(data).__name__} with {len(data)} images")
    return item


def _read(image: Path, mask: Path) -> tuple[Tensor, Tensor]:
    """Both as they are: a palette's indices are the labels, and an image called .jpg may be a GIF (some of Pets)."""
    picture = pictures.opened(image, formats=(*pictures.FORMATS, "GIF")).convert("RGB")
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255
    return values, torch.from_numpy(np.array(pictures.opened(mask))).long()
