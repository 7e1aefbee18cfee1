"""Folder: your own images and label maps, read from files.

A label map is a PNG with one number a pixel, its class. What cannot be meant is refused, with the path, what was found
and what to do: a wrong label map trains as smoothly as a right one.
"""

import operator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

VOID = 255
IMAGES, MASKS = (".png", ".jpg", ".jpeg", ".bmp"), (".png",)
MODES = {1: "L", 3: "RGB"}  # by channels, as Pillow calls them
ORIENTATION = 0x0112  # the EXIF tag of a camera that was held upright
BITS = 24  # the byte of a PNG that says how many bits a number has


class Folder(Dataset):
    """Images and label maps of `<root>/<split>/images/NAME.png` and `<root>/<split>/masks/NAME.png` as a data set of
    (image, mask): float32 (channels, H, W) in [0, 1], int64 (H, W) with 255 for void. Sizes may differ.

    split: the folder's name, such as "train", "val" or "test". classes: their names, label 0 first; then labels that
    have no name are refused. None: any label is taken. channels: 3, or 1 for grey; colour becomes grey by its
    luminance, grey becomes three equal channels.

    Images are PNG, JPEG or BMP of 8 bits, grey or RGB; masks are PNG of 8 bits, grey or with a palette, whose indices
    are the labels. A pair has one name, whatever its suffixes, which may be upper case; items are in the order of the
    names. Files whose names begin with a dot are left out.

    Raises ValueError in words that name the path: at once for a folder that is missing, empty, or holds an image
    without its mask, a mask without its image, two files of one name, or another kind of file; when an item is read,
    for a file that is damaged or of another kind, sizes that differ, and labels that cannot be meant (a mask of 0 and
    255 alone, where there are not three classes or more: a black and white picture, where 255 would be void).
    """

    def __init__(self, root, split: str, classes: tuple[str, ...] | None = None, channels: int = 3):
        if channels not in MODES:
            raise ValueError(f"channels is 3, or 1 for grey, but got {channels!r}")
        if classes is not None and not 1 <= len(classes) <= VOID:
            raise ValueError(f"classes names 1 to {VOID} classes, but got {len(classes)}")
        self.root, self.split = Path(root), split
        self.classes, self.channels = None if classes is None else tuple(classes), channels
        place = _split_folder(self.root, split)
        images, masks = _files(place / "images", IMAGES), _files(place / "masks", MASKS)
        for what, has, other, there in (("image", images, "mask", masks), ("mask", masks, "image", images)):
            if missing := sorted(has.keys() - there):
                raise ValueError(
                    f"{place}: {len(missing)} of {len(has)} {what}s have no {other}: {_first(missing)}. Each {what} "
                    f"needs the {other} of the same name in {other}s/"
                )
        self.pairs = [(images[name], masks[name]) for name in sorted(images)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        item = operator.index(item)
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} of a Folder of {len(self)} images: items run from 0 to {len(self) - 1}")
        at, mask_at = self.pairs[item]
        image, mask = _image(at, self.channels), _mask(mask_at)
        if image.shape[1:] != mask.shape:
            raise ValueError(
                f"{at} is {_size(image.shape[1:])}, but {mask_at} is {_size(mask.shape)} (height x width): a mask "
                "labels its image pixel by pixel, so both need one size"
            )
        self._check_labels(mask_at, mask)
        return image, mask

    def _check_labels(self, path: Path, mask: Tensor) -> None:
        found = mask.unique().tolist()
        if found == [0, VOID] and len(self.classes or ()) < 3:
            raise ValueError(
                f"{path} holds 0 and 255 alone. 255 means void here, pixels without a label: if it is to mean class 1, "
                "write 1 instead of 255 into the masks"
            )
        if self.classes is None:
            return
        wild = [label for label in found if label >= len(self.classes) and label != VOID]
        if wild:
            hint = ". Do the labels begin at 1? Class 0 is the first" if wild == [len(self.classes)] else ""
            raise ValueError(
                f"{path} holds the labels {_first(wild)}, but classes names {len(self.classes)}: labels are 0 to "
                f"{len(self.classes) - 1}, and 255 for void{hint}"
            )


def _split_folder(root: Path, split: str) -> Path:
    """`<root>/<split>`, where it is there with its two folders; else what is there instead, in words."""
    layout = "A data set is <root>/<split>/images and <root>/<split>/masks"
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder. {layout}")
    place = root / split
    if not place.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        raise ValueError(f"{root} has no split {split!r}; its folders are {_first(there)}. {layout}")
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
        if path.stem in found:
            raise ValueError(f"{found[path.stem]} and {path.name} have one name: it is not clear which is meant")
        found[path.stem] = path
    if not found:
        raise ValueError(f"{folder} is empty: put {', '.join(suffixes)} files there")
    return found


def _image(path: Path, channels: int) -> Tensor:
    """float32 (channels, H, W) in [0, 1]."""
    picture = _opened(path)
    if picture.mode not in MODES.values():
        raise ValueError(
            f"{path} is of Pillow's mode {picture.mode!r}: images are 8 bits a channel, grey ('L') or 'RGB'. Save it "
            "so; what becomes of transparency, or of more than 8 bits, is yours to decide"
        )
    if picture.getexif().get(ORIENTATION, 1) != 1:
        raise ValueError(
            f"{path} is to be shown turned, its EXIF data say, and its mask knows nothing of that: save the image as "
            "it should be seen, without the tag"
        )
    values = np.array(picture.convert(MODES[channels]))
    return torch.from_numpy(values.reshape(*values.shape[:2], channels)).permute(2, 0, 1).contiguous().float() / 255


def _mask(path: Path) -> Tensor:
    """int64 (H, W). A palette's colours play no part: pixels of such a file are indices."""
    picture = _opened(path)
    if picture.format != "PNG":
        raise ValueError(
            f"{path} is a {picture.format} file, whatever its name says: masks are PNG, which keeps every number (JPEG "
            "invents classes)"
        )
    if picture.mode not in ("L", "P"):
        raise ValueError(
            f"{path} is of Pillow's mode {picture.mode!r}: a mask is a PNG with one channel of 8 bits, whose numbers "
            "are the labels ('L' or 'P'). Colours must be turned into labels first"
        )
    with path.open("rb") as file:
        bits = file.read(BITS + 1)[BITS]
    if picture.mode == "L" and bits < 8:
        raise ValueError(
            f"{path} is a grey PNG of {bits} bits: readers spread its few numbers over 0 to 255, label 1 becomes "
            f"{255 // (2**bits - 1)}. Save it with 8 bits"
        )
    return torch.from_numpy(np.array(picture)).long()


def _opened(path: Path) -> Image.Image:
    """The picture, read whole: a file that was cut short is noticed only then."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a picture: {error}. Look at it in a viewer; fetch "
            "or save it again"
        ) from error


def _first(names: list, count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, names[:count])) + more if names else "none"


def _size(shape) -> str:
    return " x ".join(map(str, shape))
