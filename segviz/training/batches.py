"""Which items make which batch: a function of the seed and the step alone, so that a run can be taken up anywhere.

A step knows its epoch and its place in it; an epoch's order follows from (seed, epoch), and whatever chance an item
needs from (seed, epoch, index). Nothing is drawn from a generator that a run would have to save.
"""

import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from segviz import losses


class Batch(NamedTuple):
    images: Tensor  # float (B, C, H, W)
    labels: Tensor  # int64 (B, H, W) or (B,)
    indices: list[int]  # which items of the data set these are
    extent: tuple[int, int] | None  # lowest and highest label that is not void; None where all are void
    weights: Tensor | None = None  # float (B, H, W): what each pixel counts for besides its class


def shuffled(count: int, batch_size: int, seed: int, step: int) -> list[tuple[int, int]]:
    """The batch of step 1, 2, 3 ...: pairs (epoch, index). Each epoch sees each item at most once, in an order of its
    own; a last, short batch is left out unless it is the only one."""
    size = min(batch_size, count)
    epoch, place = divmod(step - 1, count // size)
    return [(epoch, index) for index in _order(count, seed, epoch)[place * size : (place + 1) * size].tolist()]


def named(data, indices: list[int]) -> str:
    """Items in words: their numbers, and the first few files where a data set has `pairs` of them."""
    pairs = getattr(data, "pairs", None)
    files = [str(pairs[index][0]) for index in indices[:5]] if pairs else []
    more = " ..." if files and len(indices) > len(files) else ""
    return f"{indices}" + (f" ({', '.join(files)}{more})" if files else "")


@functools.lru_cache(maxsize=1)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def mixed(*numbers: int) -> int:
    """A seed of 63 bits from several numbers: neighbours get seeds that have nothing to do with each other."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1


class Examples(Dataset):
    """Items (image, label, index, weights) of `data`, augmented; in order where they are asked for by number, and by
    (epoch, index) with the chance of that epoch. torch's CPU generator is seeded for each such item, so that a data
    set that draws from it repeats itself too. pixel_weights: a function of the augmented label; None: no weights."""

    def __init__(self, data, augment=None, seed: int = 0, pixel_weights=None):
        self.data, self.augment, self.seed, self.pixel_weights = data, augment, seed, pixel_weights

    def __getitem__(self, place: tuple[int, int] | int):
        if isinstance(place, int):
            return *self.data[place], place, None
        epoch, index = place
        torch.default_generator.manual_seed(mixed(self.seed, epoch, index))
        image, label = self.data[index]
        if self.augment is not None:
            generator = torch.Generator().manual_seed(mixed(self.seed, epoch, index, 1))
            image, label = self.augment(torch.as_tensor(image), torch.as_tensor(label), generator)
        return image, label, index, self.pixel_weights and self.pixel_weights(torch.as_tensor(label))

    def __getitems__(self, places: list) -> list | Exception:
        """What torch's loader asks for: the items of one batch."""
        return _told(lambda: [self[place] for place in places])


def training_batches(
    train, batch_size: int, seed: int, steps: range, *, augment=None, pixel_weights=None, ignore_index=255, workers=0,
    part=slice(None), pin,
) -> Iterator[Batch]:  # fmt: skip
    """The batches of `steps`, one each; `part` of each, where several processes share it."""
    places = (shuffled(len(train), batch_size, seed, step)[part] for step in steps)
    return _load(Examples(train, augment, seed, pixel_weights), places, Collate(ignore_index, train), workers, pin)


def scoring_batches(
    data, batch_size: int, indices: range, *, ignore_index=255, workers=0, pin
) -> Iterator[list[Batch]]:
    """Items `indices` in order, so many at a time, as batches of one size each: scores are those of whole images."""
    places = (list(indices[i : i + batch_size]) for i in range(0, len(indices), batch_size))
    return _load(Examples(data), places, CollateBySize(ignore_index, data), workers, pin)


def _load(examples: Examples, places, collate, workers: int, pin: bool) -> Iterator:
    """Batches in the order of `places`, made by `workers` processes beside this one, or by this one (0)."""
    if workers and torch.multiprocessing.get_start_method() != "fork":
        for part in (examples.data, examples.augment, examples.pixel_weights):
            _check_importable(part)
    return map(_raised, DataLoader(
        examples, batch_sampler=places, num_workers=workers, pin_memory=pin, collate_fn=collate,
        worker_init_fn=_apart, generator=torch.Generator(),
    ))  # fmt: skip


def _told(load):
    """What `load()` gives. In a process that loads, an error in words is returned in its place, for `_raised`: torch
    would hand on that process's traceback as the words."""
    try:
        return load()
    except (ValueError, OSError) as error:
        if get_worker_info() is None:
            raise
        told = (ValueError if isinstance(error, ValueError) else OSError)(str(error))  # of other kinds, not all travel
        told.__notes__ = getattr(error, "__notes__", [])
        return told


def _raised(batch):
    if isinstance(batch, Exception):
        raise batch
    return batch


def _check_importable(part) -> None:
    """A process that is not forked imports what it works on: a notebook cannot be imported, nor a function without a
    name of its own."""
    kind = part if inspect.isroutine(part) else type(part)
    if kind.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__"):
        raise ValueError(
            f"{kind.__name__} is defined in the notebook, where other processes cannot import it from: move it "
            "to a .py file, or leave workers=0"
        )
    if "<" in kind.__qualname__:
        raise ValueError(
            f"{kind.__qualname__} is defined inside a function, where other processes cannot import it from: move it "
            "out of there and into a .py file, or leave workers=0"
        )


def _apart(_worker: int) -> None:
    """Ctrl-C in a terminal or a notebook goes to the whole session: to this process alone, which ends its workers."""
    if hasattr(os, "setsid"):
        os.setsid()


class Collate:
    """Items made into one `Batch`, checked: whatever is wrong with the data is said here, not by a kernel."""

    def __init__(self, ignore_index: int, data):
        self.ignore_index, self.data = ignore_index, data

    def __call__(self, items: list | Exception) -> Batch | Exception:
        return items if isinstance(items, Exception) else _told(lambda: self.batch(items))

    def batch(self, items: list) -> Batch:
        images, labels, indices, weights = zip(*items, strict=True)
        try:
            images, labels = _stacked("images", images), _stacked("labels", labels)
            weights = None if weights[0] is None else _stacked("weights", weights)
            _check_kinds(images, labels)
        except ValueError as error:
            error.add_note(f"in the batch of the items {named(self.data, list(indices))}")
            raise
        labels = labels.long()
        return Batch(images, labels, list(indices), losses.label_range(labels, self.ignore_index), weights)


class CollateBySize:
    """Items made into as many batches as there are sizes among them."""

    def __init__(self, ignore_index: int, data):
        self.collate = Collate(ignore_index, data)

    def __call__(self, items: list | Exception) -> list[Batch] | Exception:
        return items if isinstance(items, Exception) else _told(lambda: self.batches(items))

    def batches(self, items: list) -> list[Batch]:
        groups: dict[tuple, list] = {}
        for image, label, index, weights in items:
            image, label = torch.as_tensor(image), torch.as_tensor(label)
            groups.setdefault((image.shape, label.shape), []).append((image, label, index, weights))
        return [self.collate.batch(group) for group in groups.values()]


def _check_kinds(images: Tensor, labels: Tensor) -> None:
    if not images.is_floating_point():
        raise ValueError(f"images are float in [0, 1], but got {images.dtype}: for uint8, image.float() / 255")
    if labels.is_floating_point():
        raise ValueError(f"labels are whole numbers, but got {labels.dtype}: use .long()")
    if labels.dim() not in (1, 3):
        raise ValueError(f"a label is a map (H, W), or one number for a classifier, but got {tuple(labels.shape[1:])}")


def _stacked(what: str, parts) -> Tensor:
    parts = [torch.as_tensor(part) for part in parts]
    sizes = sorted({tuple(part.shape) for part in parts})
    if len(sizes) > 1:
        raise ValueError(f"{what} of one batch must have one size, but got {sizes}: resize or crop them first")
    return torch.stack(parts)
