"""Prediction tile by tile: an image of any size in the memory of one tile.

Ronneberger, Fischer, Brox 2015, "U-Net", section 1 and figure 2: each tile of the answer is computed from a larger
piece of the image, larger by as far as the network looks, so that the tiles fit together without seams.
"""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn

from segviz import receptive
from segviz.training import processes

SMALLEST = 32  # pixels: what every network here takes
STRIDE = 32  # of the coarsest map of the networks here

Window = tuple[slice, slice, slice]  # channels, rows, columns


class Look(NamedTuple):
    """How far a network looks: to `margin` pixels beside the one that it labels, on maps whose units lie at multiples
    of `stride` pixels."""

    margin: int
    stride: int


def logits(
    model: nn.Module, image: Tensor, tile: int, margin: int | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tile after tile: (rows, columns, logits), the logits (num_classes, h, w) of `image[:, rows, columns]`. They are
    computed in the model's mode, and lie on its device.

    image: float (C, H, W), or uint8, of which 255 stands for 1 (a quarter of the memory), on any device.
    tile: height and width of the tiles, in pixels of the answer. The last one
    of a row or column is moved back, so that it ends with the image.
    margin: by how many pixels, at each side, the piece that the network is given is larger (and by less than its
    stride, up to which it is rounded). Default: as far as the network looks. Then the logits are those of the whole
    image but for rounding, at its borders too: pieces begin at multiples of the stride, and stop at the image's own
    borders. With less it is faster, and seams may show.

    A network that pads nothing (`model.padding == "valid"`) looks beyond the borders, where the image is mirrored, as
    in the paper. The margin is then what the network itself leaves out.

    Raises ValueError for an image or a tile that cannot be, and for a network that looks at the whole image, which a
    tile does not show, unless a margin is given.
    """
    if image.dim() != 3 or not (image.is_floating_point() or image.dtype == torch.uint8):
        raise ValueError(f"an image is float or uint8 (C, H, W), but got {image.dtype} {tuple(image.shape)}")
    if tile < 1 or (margin or 0) < 0:
        raise ValueError(f"tile is at least 1 pixel and margin at least 0, but got tile={tile}, margin={margin}")
    size = None  # of the pieces, where all have one
    if getattr(model, "padding", None) == "valid":
        if margin is not None:
            raise ValueError(f"{type(model).__name__} pads nothing, so that its margin is its own: leave margin out")
        size, look = _valid(model, len(image), tile)
    else:
        look = Look(margin, STRIDE) if margin is not None else _look(model, image.shape)
    every = [(rows, columns) for rows in _tiles(image.shape[1], tile) for columns in _tiles(image.shape[2], tile)]
    return _run(model, image, every, look, size)


def _run(model: nn.Module, image: Tensor, every: list[tuple[slice, slice]], look: Look, size: int | None):
    device = next(model.parameters()).device
    for tile in every:
        piece, window = _within(image, tile, look) if size is None else _mirrored(image, tile, look, size)
        piece = piece.float() / 255 if piece.dtype == torch.uint8 else piece
        with processes.autocast(device):
            found = model(piece[None].to(device))[0]
        if size is None and found.shape[1:] != piece.shape[1:]:
            raise ValueError(
                f"tiles need logits of their image's size, but {type(model).__name__} gave {tuple(found.shape[1:])} "
                f"for {tuple(piece.shape[1:])}: enlarge them in its forward, or predict the image whole (tile=None)"
            )
        yield *tile, found[window]


def count(shape: tuple[int, int], tile: int) -> int:
    """How many tiles an image (H, W) has."""
    return math.prod(len(_tiles(length, tile)) for length in shape)


def _tiles(length: int, tile: int) -> list[slice]:
    """The tiles of one row, or of one column."""
    tile = min(tile, length)
    starts = [min(start, length - tile) for start in range(0, length, tile)]
    return [slice(start, start + tile) for start in starts]


def _within(image: Tensor, tile: tuple[slice, slice], look: Look) -> tuple[Tensor, Window]:
    """The piece of the image that shows the tile and its margin, and the tile's window in it."""
    piece, window = [slice(None)], [slice(None)]
    for part, length in zip(tile, image.shape[1:], strict=True):
        end = min(length, _up(max(part.stop + look.margin, SMALLEST), look.stride))
        begin = max(0, min(part.start - look.margin, end - SMALLEST) // look.stride * look.stride)
        piece.append(slice(begin, end))
        window.append(slice(part.start - begin, part.stop - begin))
    return image[tuple(piece)], tuple(window)


def _mirrored(image: Tensor, tile: tuple[slice, slice], look: Look, size: int) -> tuple[Tensor, Window]:
    """`size` x `size` pixels of the image mirrored at its borders, and the tile's window in the network's answer."""
    pixels, window = [], [slice(None)]
    for part, length in zip(tile, image.shape[1:], strict=True):
        begin = part.start // look.stride * look.stride
        period = max(1, 2 * (length - 1))
        there = torch.arange(begin - look.margin, begin - look.margin + size, device=image.device) % period
        pixels.append(torch.where(there < length, there, period - there))
        window.append(slice(part.start - begin, part.stop - begin))
    return image[:, pixels[0][:, None], pixels[1]], tuple(window)


def _look(model: nn.Module, shape: tuple[int, int, int]) -> Look:
    """How far a network looks that gives a map of the size of its input, `shape` (C, H, W)."""
    name, (channels, *size) = type(model).__name__, shape
    instead = "predict the image whole (tile=None), or give a margin in pixels and accept seams"
    try:
        twice = [receptive.theoretical(model, tuple(times * side for side in size), channels) for times in (1, 2)]
    except ValueError as error:
        raise ValueError(
            f"how far {name} looks cannot be told: {error}. If it takes such images at all: {instead}"
        ) from error
    here, larger = map(_of_layers, twice)  # a look that grows with the image is one at the whole image
    if here is None or here != larger or any(map(_measures_all, model.modules())):
        raise ValueError(
            f"{name} looks at the whole image, or resizes maps by factors that depend on the image's size: no margin "
            f"shows a tile all that it needs: {instead}"
        )
    return here


def _measures_all(part: nn.Module) -> bool:
    """Whether a normalisation goes by all of a map, in evaluation too, which `receptive` leaves out."""
    if isinstance(part, nn.modules.batchnorm._BatchNorm):
        return part.running_mean is None
    return isinstance(part, (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm))


def _valid(model: nn.Module, channels: int, tile: int) -> tuple[int, Look]:
    """The size of the pieces that a network without padding is given, and how far it looks."""
    for size in range(512, 512 + 64):
        try:
            layers = receptive.theoretical(model, size, channels)
            break
        except ValueError as error:
            refused = error
    else:
        raise refused
    look = Look((size - layers[-1].shape[0]) // 2, _of_layers(layers).stride)
    wanted = tile + look.stride - 1 + 2 * look.margin
    return size + _up(wanted - size, look.stride), look


def _of_layers(layers: list[receptive.Layer]) -> Look | None:
    """None where the units of a map do not lie at whole pixels, or several on each."""
    axes = [axis for layer in layers for axis in (layer.rows, layer.columns)]
    jumps = {Fraction(axis.jump) for axis in axes}
    if not all(jump and 1 in (jump.numerator, jump.denominator) for jump in jumps):
        return None
    stride = math.lcm(*(jump.numerator for jump in jumps))
    return Look(max((axis.reach(stride) for axis in axes[-2:]), default=0), stride)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
