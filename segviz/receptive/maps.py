"""Maps, what they are made from, and where a tensor's numbers lie on them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor

from .lines import FIRST, KEEP, Line, Taps, everything, matrix


@dataclass(frozen=True, eq=False)
class Map:
    """One map: what its units read of the input, and of the maps that it was made from."""

    lines: tuple[Line, Line]  # rows, columns
    sizes: tuple[int, int]
    sources: tuple[tuple["Map", tuple[Taps, Taps]], ...] = ()
    number: int = field(default_factory=count().__next__)  # greater than those of its sources

    def through(self, taps: tuple[Taps, Taps], sizes: tuple[int, int]) -> "Map":
        lines = tuple(line.through(tap) for line, tap in zip(self.lines, taps, strict=True))
        return Map(lines, sizes, ((self, taps),))


# A tensor's dimension is a product of factors (what, size); what is 0 for the map's rows, 1 for its columns, None for
# anything else (batch, channels). (B, C, H * W): ((None, B),), ((None, C),), ((0, H), (1, W)). An axis that no factor
# names has a single unit.
Factors = tuple[tuple[int | None, int], ...]


def axes_of(factors: Factors) -> list[int]:
    return [what for what, _ in factors if what is not None]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tensor's numbers lie on a map."""

    map: Map
    layout: tuple[Factors, ...]

    def replaced(self, dim: int, factors: Factors) -> "Place":
        return replace(self, layout=(*self.layout[:dim], factors, *self.layout[dim + 1 :]))

    def through(self, reading: dict[int, tuple[Taps, int]]) -> "Place":
        """After an operator that reads along dimensions: {dimension: (taps, new size)}."""
        place = self
        for dim in reading:
            place = place.settled(dim)
        taps, sizes, layout = [KEEP, KEEP], list(place.map.sizes), list(place.layout)
        for dim, (tap, new) in reading.items():
            what = layout[dim][0][0] if layout[dim] else None
            layout[dim] = ((what, new),)
            if what is not None:
                taps[what], sizes[what] = tap, new
        if taps == [KEEP, KEEP] and tuple(sizes) == place.map.sizes:
            return replace(place, layout=tuple(layout))
        return Place(place.map.through(tuple(taps), tuple(sizes)), tuple(layout))

    def settled(self, dim: int) -> "Place":
        """The same place, with dimension `dim` a single factor: that is how operators see it."""
        factors, size = self.layout[dim], math.prod(size for _, size in self.layout[dim])
        if not axes_of(factors):
            absent = {0, 1} - {axis for each in self.layout for axis in axes_of(each)}
            axis = dim + 2 - len(self.layout)  # the last dimension is the columns, the last but one the rows
            return self.replaced(dim, ((axis if size == 1 and axis in absent else None, size),))
        (axis, units), *others = (factor for factor in factors if factor[1] > 1 or factor[0] is not None)
        if axis is None or axes_of(others):
            raise ValueError("it reads along a dimension in which rows, columns or channels were put one after another")
        settled = self.replaced(dim, ((axis, size),))
        if size == units:
            return settled
        taps, sizes = [KEEP, KEEP], list(self.map.sizes)
        taps[axis], sizes[axis] = Taps(((0,),) * (size // units), 1), size  # each unit repeated
        return replace(settled, map=self.map.through(tuple(taps), tuple(sizes)))

    def mixed(self, dims: Iterable[int]) -> "Place":
        """Where one unit is left along each of `dims`, which reads all."""
        taps, sizes, layout = [KEEP, KEEP], list(self.map.sizes), list(self.layout)
        for dim in dims:
            for axis in axes_of(layout[dim]):
                taps[axis], sizes[axis] = everything(sizes[axis]), 1
            layout[dim] = tuple((what, 1) for what, _ in layout[dim])
        if taps == [KEEP, KEEP]:
            return replace(self, layout=tuple(layout))
        return Place(self.map.through(tuple(taps), tuple(sizes)), tuple(layout))

    def viewed(self, shape: Iterable[int]) -> "Place":
        """The same numbers in another shape: the factors are dealt out anew, in order."""
        left = [factor for factors in self.layout for factor in factors]
        layout = []
        for size in shape:
            factors, product = [], 1
            if size == 1 and left and left[0][1] == 1:
                factors.append(left.pop(0))
            while product < size:
                what, n = left.pop(0)
                need = size // product
                if n > need and what is None and n % need == 0:
                    left.insert(0, (what, n // need))
                    n = need
                if size % (product * n):
                    raise ValueError("it cuts the rows or the columns of a map into pieces")
                product *= n
                if n > 1 or what is not None:
                    factors.append((what, n))
            layout.append(tuple(factors))
        return replace(self, layout=tuple(layout))

    def shape(self) -> tuple[int, int]:
        """(h, w) of the map. Where each number reads the whole map, that of the tensor's last two dimensions."""
        if len(self.layout) == 4 and not any(map(axes_of, self.layout)):
            return tuple(math.prod(n for _, n in factors) for factors in self.layout[-2:])
        return self.map.sizes


def joined(places: list[Place], shape: Iterable[int]) -> Place:
    """The place of a tensor of this shape in which tensors at several places meet, number by number."""
    shape, layout = tuple(shape), []
    for dim, size in enumerate(reversed(shape), 1):
        meeting = [place.layout[-dim] for place in places if dim <= len(place.layout)]
        fitting = [factors for factors in meeting if math.prod(n for _, n in factors) == size]
        layout.insert(0, max(fitting, key=lambda factors: len(axes_of(factors)), default=((None, size),)))
    sizes = [1, 1]
    where = {axis: dim - len(shape) for dim, factors in enumerate(layout) for axis in axes_of(factors)}
    for axis, dim in where.items():
        sizes[axis] = dict(layout[dim])[axis]
    if sum(len(axes_of(factors)) for factors in layout) > len(where):
        raise ValueError("it joins maps whose rows or columns lie along different dimensions")
    for place in places:
        for dim, factors in enumerate(place.layout, -len(place.layout)):
            for axis in axes_of(factors):
                if place.map.sizes[axis] > 1 and (where.get(axis) != dim or factors != layout[dim]):
                    raise ValueError("it joins maps whose rows or columns lie along different dimensions")
    if len({place.map for place in places}) == 1 and places[0].map.sizes == tuple(sizes):
        return Place(places[0].map, tuple(layout))
    sources = []
    for place in places:
        taps = tuple(KEEP if place.map.sizes[axis] == sizes[axis] else FIRST for axis in (0, 1))
        sources.append((place.map, taps))
    lines = []
    for axis in (0, 1):
        line = Line(())
        for source, taps in sources:
            line = line.joined(source.lines[axis].through(taps[axis]))
        lines.append(line)
    return Place(Map(tuple(lines), tuple(sizes), tuple(sources)), tuple(layout))


def walked_back(last: Map, unit: tuple[int, int], first: Map) -> Tensor:
    """The units of `first` that can reach one unit of `last`: bool, of first's sizes."""
    masks, waiting = {first: torch.zeros(first.sizes), last: torch.zeros(last.sizes)}, {last}
    masks[last][unit] = 1
    while waiting:
        each = max(waiting, key=lambda each: each.number)  # whatever is made from it has been seen
        waiting.remove(each)
        for source, taps in each.sources:
            rows, columns = (matrix(*known) for known in zip(taps, each.sizes, source.sizes, strict=True))
            found = (rows.T @ masks[each] @ columns > 0).float()
            masks[source] = torch.maximum(masks.get(source, found), found)
            waiting.add(source)
    return masks[first] > 0
