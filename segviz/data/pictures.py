"""Pictures read from files: images as bytes, masks as labels. What cannot be meant is refused in words."""

import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

VOID = 255
MODES = {1: "L", 3: "RGB"}  # by channels, as Pillow calls them
FORMATS = ("PNG", "JPEG", "BMP")  # whatever a file's name says, it is read as no other
ORIENTATION = 0x0112  # the EXIF tag of a camera that was held upright
ROWS = 1024  # that are copied at once
LARGEST = 2 * 89_478_485  # pixels: where Pillow refuses, unless it was told another limit
BITS = 24  # the byte of a PNG that says how many bits a number has


def values(path: Path, channels: int = 3, largest: int | None = None, turn: bool = False) -> Tensor:
    """uint8 (channels, H, W). Colour becomes grey by its luminance, grey becomes three equal channels.

    largest: pixels that an image may have; None: LARGEST. turn: an image that its camera
    was turned for is turned back, else it is refused."""
    picture = opened(path, largest)
    if _is_turned(picture):
        if not turn:
            raise ValueError(
                f"{path} is to be shown turned, its EXIF data say, and its mask knows nothing of that: save the image "
                "as it should be seen, without the tag"
            )
        picture = ImageOps.exif_transpose(picture)
    _check_bits(path, picture)
    if picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255):
        picture = picture.convert("RGB")                              # an alpha channel that hides nothing
    if picture.mode not in MODES.values():
        raise ValueError(
            f"{path} is of Pillow's mode {picture.mode!r}: images are 8 bits a channel, grey ('L') or 'RGB'. Save it "
            "so; what becomes of transparency, of inks (CMYK) or of a palette is yours to decide"
        )
    result = torch.empty(channels, picture.height, picture.width, dtype=torch.uint8)
    for top in range(0, picture.height, ROWS):  # Pillow's copy of a large image is large: 4 bytes a pixel
        with _unlimited():
            strip = picture.crop((0, top, picture.width, min(top + ROWS, picture.height)))
        strip = strip.convert(MODES[channels])
        pixels = torch.from_numpy(np.array(strip)).view(strip.height, strip.width, channels)
        result[:, top : top + ROWS] = pixels.permute(2, 0, 1)
    return result


def mask(path: Path, binary: bool = False, colours: dict[tuple[int, int, int], int] | None = None) -> Tensor:
    """int64 (H, W). A palette's colours play no part: pixels of such a file are indices. Of 1 bit: labels 0 and 1.

    binary: the picture is black and white, and white (255) is label 1. colours: the label of each colour of an RGB
    picture; of others they play no part.
    """
    picture = opened(path)
    if picture.format != "PNG":
        raise ValueError(
            f"{path} is a {picture.format} file, whatever its name says: masks are PNG, which keeps every number (JPEG "
            "invents classes)"
        )
    bits = _check_bits(path, picture)
    if binary:
        return _black_and_white(path, picture)
    if picture.mode == "RGB" and colours:
        return _by_colour(path, np.array(picture), colours)
    if picture.mode not in ("1", "L", "P"):
        raise ValueError(
            f"{path} is of Pillow's mode {picture.mode!r}: a mask is a PNG with one channel of 8 bits, whose numbers "
            "are the labels ('L' or 'P'). For an RGB one classes.txt has to name each class with its colour"
        )
    if picture.mode == "L" and bits < 8:
        raise ValueError(
            f"{path} is a grey PNG of {bits} bits: readers spread its few numbers over 0 to 255, label 1 becomes "
            f"{255 // (2**bits - 1)}. Save it with 8 bits"
        )
    return torch.from_numpy(np.array(picture)).long()


def _black_and_white(path: Path, picture: Image.Image) -> Tensor:
    if picture.mode not in ("1", "L"):
        raise ValueError(f"{path} is of Pillow's mode {picture.mode!r}: binary masks are grey ('L'), or of 1 bit")
    values = torch.from_numpy(np.array(picture.convert("L"))).long()
    if grey := sorted(set(values.unique().tolist()) - {0, 255}):
        raise ValueError(
            f"{path} was said to be black and white, 0 and 255 alone, but it holds {listed(grey)}: was it resized, or "
            "saved as a JPEG? If these are labels, leave binary out"
        )
    return values // 255


def _by_colour(path: Path, values: np.ndarray, colours: dict[tuple[int, int, int], int]) -> Tensor:
    labels = np.full(values.shape[:2], -1)
    for colour, label in colours.items():
        labels[(values == colour).all(2)] = label
    if (labels < 0).any():
        found, counts = np.unique(values[labels < 0], axis=0, return_counts=True)
        wild = [f"#{bytes(found[at]).hex()} ({counts[at]} pixels)" for at in counts.argsort()[::-1]]
        raise ValueError(
            f"{path} holds colours that classes.txt does not name: {listed(wild)}. Name them there, or, if they lie at "
            "the outlines alone, save the mask again without smoothing"
        )
    return torch.from_numpy(labels).long()


def opened(path: Path, largest: int | None = None, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The picture, read whole: a file that was cut short is noticed only then. Raises ValueError in words."""
    most = LARGEST if largest is None else largest
    try:
        with _unlimited():
            picture = Image.open(path, formats=formats)
        with picture:
            if picture.width * picture.height > most:
                raise ValueError(
                    f"it has {picture.width} x {picture.height} pixels, and more than {most} are a decompression bomb"
                )
            picture.load()
            return picture
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        size = f" ({path.stat().st_size} bytes)" if path.exists() else ""
        raise ValueError(
            f"{path}{size} cannot be read as a picture ({', '.join(formats)}): {error}. Look at it in a viewer; fetch "
            "or save it again"
        ) from error


_limit = threading.Lock()


@contextmanager
def _unlimited():
    """Pillow neither warns of a large picture nor refuses it meanwhile. Its limit is one for all threads."""
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _is_turned(picture: Image.Image) -> bool:
    """Whether EXIF says that it is to be shown turned or mirrored; EXIF data that cannot be read say nothing."""
    try:
        return picture.getexif().get(ORIENTATION) in range(2, 9)
    except SyntaxError:
        return False


def _check_bits(path: Path, picture: Image.Image) -> int:
    """How many bits a number of a PNG has (8 for others). Of 16 Pillow would cut off half, of colours silently."""
    if picture.format != "PNG":
        return 8
    with path.open("rb") as file:
        bits = file.read(BITS + 1)[BITS]
    if bits > 8:
        raise ValueError(
            f"{path} is a PNG of {bits} bits a channel, and images and masks have 8: save it so. How an image's range "
            "is brought to 0 to 255 is yours to decide"
        )
    return bits


def listed(names: list, count: int = 5) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, names[:count])) + more if names else "none"
