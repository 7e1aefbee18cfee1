"""Folder: your own images and label maps, read from files.

A label map is a PNG with one number a pixel, its class. What cannot be meant is refused, with the path, what was found
and what to do: a wrong label map trains as smoothly as a right one.
"""

import operator
import re
import unicodedata
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from segviz.data import pictures
from segviz.data.pictures import MODES, VOID, listed

NAMES = "classes.txt"
IMAGES, MASKS = (".png", ".jpg", ".jpeg", ".bmp"), (".png",)
KEEP = 2**28  # bytes
MANY = 40  # labels without names for them: more than people draw
INVENTED = ("Were they negative, was the mask resized with bilinear or bicubic, or was it once a JPEG? Make it again: "
            "resized with nearest, saved as PNG")


class Folder(Dataset):
    """Images and label maps of `<root>/<split>/images/NAME.png` and `<root>/<split>/masks/NAME.png` as a data set of
    (image, mask): float32 (channels, H, W) in [0, 1], int64 (H, W) with 255 for void. Sizes may differ.

    split: the folder's name, such as "train", "val" or "test". classes: their names, label 0 first; then labels that
    have no name are refused. None: any label is taken. channels: 3, or 1 for grey; colour becomes grey by its
    luminance, grey becomes three equal channels. keep: so many bytes of pictures stay in memory once they were read, a
    quarter of a GiB where nothing is said; a file that was changed since is read again.

    Images are PNG, JPEG or BMP of 8 bits, grey or RGB; masks are PNG of 8 bits, grey or with a palette, whose indices
    are the labels, or of 1 bit: 0 and 1. A pair has one name, whatever its suffixes, which may be upper case; items are
    in the order of the names. Files whose names begin with a dot are left out.

    Raises ValueError in words that name the path: at once for a folder that is missing, empty, or holds an image
    without its mask, a mask without its image, two files of one name, or another kind of file; when an item is read,
    for a file that is damaged or of another kind, sizes that differ, and labels that cannot be meant (a mask of 0 and
    255 alone, where there are not three classes or more: a black and white picture, where 255 would be void; a label
    from 40 up where classes have no names).
    """

    def __init__(self, root, split: str, classes: tuple[str, ...] | None = None, channels: int = 3,
                 binary: bool = False, keep: int = KEEP):
        if channels not in MODES:
            raise ValueError(f"channels is 3, or 1 for grey, but got {channels!r}")
        if classes is not None and not 1 <= len(classes) <= VOID:
            raise ValueError(f"classes names 1 to {VOID} classes, but got {len(classes)}")
        self.root, self.split, self.channels, self.binary = Path(root), split, channels, binary
        named, self.colours = _described(self.root / NAMES)
        self.classes = named if classes is None else tuple(classes)
        place = _split_folder(self.root, split)
        images, masks = _files(place / "images", IMAGES), _files(place / "masks", MASKS)
        for what, has, other, there in (("image", images, "mask", masks), ("mask", masks, "image", images)):
            if missing := sorted(has.keys() - there):
                raise ValueError(
                    f"{place}: {len(missing)} of {len(has)} {what}s have no {other}: {listed(missing)}. Each {what} "
                    f"needs the {other} of the same name in {other}s/"
                )
        self.pairs = [(images[name], masks[name]) for name in sorted(images)]
        self.keep, self.kept, self.used = keep, {}, 0  # used: bytes of what is kept

    def __getstate__(self) -> dict:
        """What another process is sent: not the pictures."""
        return self.__dict__ | {"kept": {}, "used": 0}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        item = operator.index(item)
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of a Folder of {len(self)} images: items run from 0 to {len(self) - 1}")
        image, mask = self._pictures(item % len(self))
        return image.float().div_(255), mask.long()

    def _pictures(self, item: int) -> tuple[Tensor, Tensor]:
        """Image and mask, uint8: those that were kept, if their files are still the same, else read."""
        versions = [_version(path) for path in self.pairs[item]]
        before, *found = self.kept.get(item, (None,))
        if before != versions:
            self.kept.pop(item, None)
            self.used -= _bytes(found)
            found = self._read(*self.pairs[item])
            if self.used + _bytes(found) <= self.keep:
                self.kept[item] = versions, *found
                self.used += _bytes(found)
        return tuple(found)

    def _read(self, at: Path, mask_at: Path) -> tuple[Tensor, Tensor]:
        image, mask = pictures.values(at, self.channels), pictures.mask(mask_at, self.binary, self.colours)
        if image.shape[1:] != mask.shape:
            raise ValueError(
                f"{at} is {_size(image.shape[1:])}, but {mask_at} is {_size(mask.shape)} (height x width): a mask "
                "labels its image pixel by pixel, so both need one size"
            )
        self._check_labels(mask_at, mask)
        return image, mask.byte()

    def _check_labels(self, path: Path, mask: Tensor) -> None:
        found = mask.flatten().bincount().nonzero().flatten().tolist()  # a tenth of the time that unique takes
        if found == [0, VOID] and len(self.classes or ()) < 3:
            raise ValueError(
                f"{path} holds 0 and 255 alone. 255 means void here, pixels without a label: if it is to mean class 1, "
                "say binary=True (on the command line: --binary)"
            )
        if self.classes is None:
            if far := [label for label in found if MANY <= label < VOID]:
                raise ValueError(
                    f"{path} holds the labels {listed(far)}, and no class has a name: without names they are 0 to "
                    f"{MANY - 1}, and 255 for void. {INVENTED}. If they are meant, name all classes in "
                    f"{self.root / NAMES}"
                )
            return
        wild = [label for label in found if label >= len(self.classes) and label != VOID]
        if wild:
            hint = "Do the labels begin at 1? Class 0 is the first" if wild == [len(self.classes)] else INVENTED
            raise ValueError(
                f"{path} holds the labels {listed(wild)}, but classes names {len(self.classes)}: labels are 0 to "
                f"{len(self.classes) - 1}, and 255 for void. {hint}"
            )


def _described(path: Path) -> tuple[tuple[str, ...] | None, dict[tuple[int, int, int], int]]:
    """The names of the classes that classes.txt gives (None where there is no such file), and the label of each
    colour."""
    if not path.exists():
        return None, {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # with or without the mark that Windows puts in front
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}): save it as UTF-8, a class a line") from error
    names, colours = [], {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"\s*(.+?)(?:\s+#([0-9a-fA-F]{6}))?\s*", line)
        name, colour = found.groups()
        if (name == "void" and colour is None) or name in names:
            raise ValueError(f"{path}, line {number}: {line!r} names a class twice, or a void without its colour")
        label = VOID if name == "void" else len(names)
        names += [name] * (name != "void")
        if colour is not None and colours.setdefault(tuple(bytes.fromhex(colour)), label) != label:
            raise ValueError(f"{path}, line {number}: #{colour} is the colour of two classes")
    if not 1 <= len(names) <= VOID:
        raise ValueError(f"{path} names {len(names)} classes: 1 to {VOID}, one a line, label 0 first")
    return tuple(names), colours


def _split_folder(root: Path, split: str) -> Path:
    """`<root>/<split>`, where it is there with its two folders; else what is there instead, in words."""
    layout = "A data set is <root>/<split>/images and <root>/<split>/masks"
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder. {layout}")
    place = root / split
    if not place.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        raise ValueError(f"{root} has no split {split!r}; its folders are {listed(there)}. {layout}")
    for part in ("images", "masks"):
        if not (place / part).is_dir():
            raise ValueError(f"{place} has no folder {part}. {layout}")
    return place


def _files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by their names without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.suffix.lower() not in suffixes or not path.is_file():
            why = " (JPEG changes the numbers of pixels, and so invents classes)" if folder.name == "masks" else ""
            raise ValueError(f"{path}: files of {folder.name}/ end with {', '.join(suffixes)}{why}. Convert or move it")
        name = unicodedata.normalize("NFC", path.stem)  # ä is one letter or two, by the computer that named the file
        if name in found:
            raise ValueError(
                f"{found[name]} and {path.name} have one name: it is not clear which is meant. Rename or move one"
            )
        found[name] = path
    if not found:
        raise ValueError(f"{folder} is empty: put {', '.join(suffixes)} files there")
    return found


def _bytes(tensors) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _version(path: Path) -> tuple[int, int] | None:
    """What changes with a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _size(shape) -> str:
    return " x ".join(map(str, shape))
