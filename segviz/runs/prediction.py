"""What `segviz predict` does: an image, or all of a folder, through a network; masks, overlays and probabilities."""

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from segviz import checkpoint, draw, training
from segviz.data import pictures
from segviz.data.folder import IMAGES
from segviz.runs.evaluation import classes_of, file_of
from segviz.runs.pictures import legend, palette
from segviz.runs.pictures import save as saved
from segviz.training import tiles

KINDS = ("overlay", "mask", "probabilities")
WHOLE = 2048 * 2048  # pixels that are run at once; larger images go by tiles
TILE = 1024
LARGEST = 20_000 * 20_000  # pixels: what is meant, and no bomb


def predict(run: Path, image: Path, out: Path, *, save: tuple[str, ...] = ("overlay", "mask"), tile: int | None = None,
            margin: int | None = None, device: str | None = None, say=print) -> list[Path]:  # fmt: skip
    """Writes what the network of a run (or of a file) says of an image, or of each image of a folder, into `out`.

    save: any of KINDS. NAME_overlay.png: the labels over the image. NAME_mask.png: a PNG with a palette, whose numbers
    are the labels. NAME_probabilities.npy: float16 (classes, H, W). Beside them, where the file knows its classes,
    legend.png, and classes.txt, by which `data.Folder` reads the masks too. tile, margin: see `training.predict`;
    images of more than four million pixels go by tiles of 1024 where nothing is said, in the memory of one beside the
    image, its labels and what is written. Each file is whole or not there. Returns the files.

    Raises ValueError in words; at the end for those images of a folder that could not be read or labelled, which are
    passed over, and at once for all else that stands in the way, such as results that would lie among the images.
    """
    if wrong := [kind for kind in save if kind not in KINDS] or not save:
        raise ValueError(f"what can be saved is {', '.join(KINDS)}, but got {wrong or 'nothing'}")
    paths = _images(image)
    if out.resolve() == paths[0].parent.resolve():
        raise ValueError(f"{out} is where the images lie: results among them would be taken for images. Choose another "
                         "--out")
    found = checkpoint.read(file_of(run))
    network, classes = checkpoint.load(found).to(training.choose_device(device)), classes_of(found.config)
    out.mkdir(parents=True, exist_ok=True)
    written, refused = [], []
    for path in tqdm(paths, "images", disable=len(paths) == 1, delay=2):
        try:
            written += _predicted(network, path, out, save, tile, margin)
        except ValueError as error:
            if len(paths) == 1:
                raise
            refused.append(str(error) if path.name in str(error) else f"{path.name}: {error}")
    if classes and written:
        _leave_classes(out, classes)
    done = len(paths) - len(refused)
    say(f"{done} image{'s' * (done != 1)}: {', '.join(save)} in {out}")
    if refused:
        raise ValueError("\n  ".join([f"{len(refused)} of {len(paths)} images were left out:", *refused]))
    return written


def _images(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} is neither an image nor a folder of images")
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGES and not each.name.startswith("."))
    if not found:
        raise ValueError(f"{path} holds no image: they end with {', '.join(IMAGES)}")
    names = Counter(each.stem for each in found)
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise ValueError(f"{path} holds two images of one name: {pictures.listed(twice)}")
    return found


@torch.no_grad()
def _predicted(network: nn.Module, path: Path, out: Path, save, tile: int | None, margin: int | None) -> list[Path]:
    image = pictures.values(path, getattr(network, "in_channels", 3), LARGEST, turn=True)
    height, width = image.shape[1:]
    if tile is None and height * width > WHOLE:
        tile = TILE
    if tile is None and getattr(network, "padding", None) == "valid":
        tile = min(TILE, max(height, width))  # it labels less than it is given: tiles mirror what is missing
    labels = torch.empty(height, width, dtype=torch.uint8)
    files = {kind: out / f"{path.stem}_{kind}.{'npy' if kind == 'probabilities' else 'png'}" for kind in save}
    with _whole(files["probabilities"]) if "probabilities" in save else nullcontext() as table:
        for rows, columns, logits in _logits(network, image, tile, margin):
            labels[rows, columns] = logits.argmax(0).cpu().to(torch.uint8)
            if table is not None:
                _keep(table, (len(logits), height, width), rows, columns, logits.float().softmax(0).cpu().numpy())
    colours = palette(len(logits))
    if "mask" in save:
        mask = Image.fromarray(labels.numpy())
        mask.putpalette(colours.tobytes())
        _save(mask, files["mask"])
    if "overlay" in save:
        _save(_overlay(image, labels, colours), files["overlay"])
    return list(files.values())


def _keep(path: Path, shape: tuple[int, int, int], rows: slice, columns: slice, values: np.ndarray) -> None:
    """Puts values into the file of all numbers, which is begun where it is not there: never all of them in memory. It
    is closed again at the end: Windows gives no new name to one that is open."""
    mode = "r+" if path.exists() else "w+"
    table = np.lib.format.open_memmap(path, mode=mode, dtype=np.float16, shape=shape)
    table[:, rows, columns] = values


def _logits(network: nn.Module, image: Tensor, tile: int | None, margin: int | None):
    """(rows, columns, logits) of the whole image at once, or tile after tile."""
    if tile is not None:
        count = tiles.count(image.shape[1:], tile)
        yield from tqdm(tiles.logits(network, image, tile, margin), "tiles", count, delay=2, leave=False)
        return
    device = next(network.parameters()).device
    with training.autocast(device):
        yield slice(None), slice(None), network((image.float() / 255)[None].to(device))[0]


def _overlay(image: Tensor, labels: Tensor, colours: np.ndarray, alpha: float = 0.5) -> Image.Image:
    """The labels over the image, some rows at a time, so that a large image has no other copy than Pillow's."""
    result = Image.new("RGB", labels.shape[::-1])
    for row in range(0, len(labels), 256):
        part = slice(row, row + 256)
        mixed = alpha * colours[labels[part].numpy()] + (1 - alpha) * draw.rgb(image[:, part])
        result.paste(Image.fromarray(mixed.astype(np.uint8)), (0, row))
    return result


def _save(picture: Image.Image, path: Path) -> None:
    with _whole(path) as temporary:
        picture.save(temporary, "PNG")


def _leave_classes(out: Path, classes: tuple[str, ...]) -> None:
    """What the labels and colours mean, in a picture and in the words of a data set's classes.txt."""
    lines = [f"{name} #{bytes(colour).hex()}\n" for name, colour in zip(classes, palette(len(classes)), strict=True)]
    (out / "classes.txt").write_text("".join(lines), encoding="utf-8")
    saved(legend(classes), out / "legend.png")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its place if all goes well, and is removed if not, on Ctrl-C too. Raises OSError
    in words."""
    temporary = path.with_name(f".segviz-{os.getpid()}-{secrets.token_hex(4)}.tmp")  # no other run's, killed or not
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(f"{path} was not written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
