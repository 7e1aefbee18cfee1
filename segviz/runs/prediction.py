"""What `segviz predict` does: an image, or all of a folder, through a network; masks, overlays and probabilities."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from segviz import checkpoint, draw, training
from segviz.data import pictures
from segviz.data.folder import IMAGES
from segviz.runs.evaluation import file_of
from segviz.runs.pictures import palette
from segviz.training import tiles

KINDS = ("overlay", "mask", "probabilities")
WHOLE = 2048 * 2048  # pixels that are run at once; larger images go by tiles
TILE = 1024
LARGEST = 20_000 * 20_000  # pixels: what is meant, and no bomb


def predict(run: Path, image: Path, out: Path, *, save: tuple[str, ...] = ("overlay", "mask"), tile: int | None = None,
            margin: int | None = None, device: str | None = None, say=print) -> list[Path]:  # fmt: skip
    """Writes what the network of a run (or of a file) says of an image, or of each image of a folder, into `out`.

    save: any of KINDS. NAME_overlay.png: the labels over the image. NAME_mask.png: a PNG with a palette, whose numbers
    are the labels. NAME_probabilities.npy: float16 (classes, H, W). tile, margin: see `training.predict`; images of
    more than four million pixels go by tiles of 1024 where nothing is said, in the memory of one beside the image, its
    labels and what is written. Returns the files. Raises ValueError in words.
    """
    if wrong := [kind for kind in save if kind not in KINDS] or not save:
        raise ValueError(f"what can be saved is {', '.join(KINDS)}, but got {wrong or 'nothing'}")
    found = checkpoint.read(file_of(run))
    network = checkpoint.load(found).to(training.choose_device(device))
    notes = found.config.get("notes")
    classes = notes.get("classes") if isinstance(notes, dict) else None
    paths = _images(image)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for path in tqdm(paths, "images", disable=len(paths) == 1, delay=2):
        written += _predicted(network, path, out, save, tile, margin)
    say(f"{len(paths)} image{'s' * (len(paths) != 1)}: {', '.join(save)} in {out}"
        + (f"; labels are {', '.join(f'{label} {name}' for label, name in enumerate(classes))}" if classes else ""))
    return written


def _images(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} is neither an image nor a folder of images")
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in IMAGES and not each.name.startswith("."))
    if not found:
        raise ValueError(f"{path} holds no image: they end with {', '.join(IMAGES)}")
    names = [each.stem for each in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} holds two images of one name: {pictures.listed(twice)}")
    return found


@torch.no_grad()
def _predicted(network: nn.Module, path: Path, out: Path, save, tile: int | None, margin: int | None) -> list[Path]:
    image = pictures.values(path, getattr(network, "in_channels", 3), LARGEST, turn=True)
    height, width = image.shape[1:]
    if tile is None and height * width > WHOLE:
        tile = TILE
    labels, target = torch.empty(height, width, dtype=torch.uint8), out / f"{path.stem}_probabilities.npy"
    table = None
    for rows, columns, logits in _logits(network, image, tile, margin):
        labels[rows, columns] = logits.argmax(0).cpu().to(torch.uint8)
        if "probabilities" in save:
            if table is None:
                shape = (len(logits), height, width)
                table = np.lib.format.open_memmap(target, mode="w+", dtype=np.float16, shape=shape)
            table[:, rows, columns] = logits.float().softmax(0).cpu().numpy()
    files = [] if table is None else [target]
    colours = palette(int(logits.shape[0]))
    if "mask" in save:
        mask = Image.fromarray(labels.numpy())
        mask.putpalette(colours.tobytes())
        files.append(_saved(mask, out / f"{path.stem}_mask.png"))
    if "overlay" in save:
        files.append(_saved(Image.fromarray(_overlay(image, labels, colours)), out / f"{path.stem}_overlay.png"))
    return files


def _logits(network: nn.Module, image: Tensor, tile: int | None, margin: int | None):
    """(rows, columns, logits) of the whole image at once, or tile after tile."""
    was_training = network.training
    network.eval()
    try:
        if tile is not None:
            count = tiles.count(image.shape[1:], tile)
            yield from tqdm(tiles.logits(network, image, tile, margin), "tiles", count, delay=2, leave=False)
            return
        device = next(network.parameters()).device
        with training.autocast(device):
            yield slice(None), slice(None), network((image.float() / 255)[None].to(device))[0]
    finally:
        network.train(was_training)


def _overlay(image: Tensor, labels: Tensor, colours: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """(H, W, 3) uint8, row by row, so that a large image needs no copy of itself in floats."""
    result = np.empty((*labels.shape, 3), np.uint8)
    for row in range(0, len(labels), 256):
        part = slice(row, row + 256)
        picture = draw.rgb(image[:, part])
        result[part] = (alpha * colours[labels[part].numpy()] + (1 - alpha) * picture).astype(np.uint8)
    return result


def _saved(picture: Image.Image, path: Path) -> Path:
    picture.save(path)
    return path
