"""What the upsampling explorer knows: for each setting who writes to which cell, and with which weight."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F

from segviz.layers import bilinear_kernel, scatter_and_add, transposed_size

NEAREST, BILINEAR, UNPOOLING, TRANSPOSED = METHODS = ("nearest", "bilinear", "max-unpooling", "transposed conv.")
SCATTER, ZEROS, MATRIX = VIEWS = ("scatter and add", "zeros, convolve", "matrix")      # of the transposed convolution
DIGITS, ONES, PYRAMID = WEIGHTS = ("1, 2, 3, ...", "ones", "bilinear")
VALUES = torch.tensor([[1, 3, 2, 4, 1], [2, 4, 1, 3, 5], [3, 1, 5, 2, 2], [5, 2, 3, 1, 4], [1, 4, 2, 5, 3]]).float()
ROWS, MOST_STEPS = VALUES.tolist(), VALUES.numel()
NO_BREAK = "\u00a0"


@dataclass(frozen=True)
class Setting:
    """The controls' values, and the numbers that follow from them.

    Cells of the output are counted with what `padding` cuts away: the output itself begins at (padding, padding).
    """

    method: str
    view: str
    step: int
    size: int
    stride: int
    kernel: int
    padding: int
    output_padding: int
    dilation: int
    weights: str
    align_corners: bool

    @property
    def transposed(self) -> bool:
        return self.method == TRANSPOSED

    @property
    def way(self) -> str:
        """The method, or for the transposed convolution its view."""
        return self.view if self.transposed else self.method

    @property
    def ring(self) -> int:
        """How many rows and columns are cut away at each side."""
        return self.padding if self.transposed else 0

    @property
    def cover(self) -> int:
        """The side of what a stamp covers."""
        return self.dilation * (self.kernel - 1) + 1

    @cached_property
    def output_size(self) -> int:
        if not self.transposed:
            return self.size * self.stride
        return transposed_size(
            self.size, self.kernel, self.stride, self.padding, self.output_padding, self.dilation
        )

    @property
    def weight(self) -> torch.Tensor:
        """The kernel (kernel, kernel)."""
        if self.weights == PYRAMID:
            return bilinear_kernel(self.kernel)
        count = torch.arange(1.0, self.kernel**2 + 1).view(self.kernel, self.kernel)
        return count if self.weights == DIGITS else torch.ones_like(count)

    @property
    def values(self) -> torch.Tensor:
        """The input (size, size)."""
        return VALUES[: self.size, : self.size]

    @staticmethod
    def value(row: int, column: int) -> float:
        return ROWS[row][column]

    @cached_property
    def before_pooling(self) -> torch.Tensor:
        """A map whose maxima, one in each window of stride x stride, are the input."""
        side = torch.arange(self.size * self.stride)
        down, along = side[:, None], side[None, :]
        i, j = down // self.stride, along // self.stride
        largest = self.values[i, j]
        inside = (down % self.stride) * self.stride + along % self.stride
        return torch.where(inside == (5 * i + 3 * j + 1) % self.stride**2, largest, (inside + i + j) % largest)

    @cached_property
    def paths(self) -> torch.Tensor:
        """(inputs, rows, columns): how much of each input value each cell of the output takes.

        Every method here is linear, max-unpooling too once its switches are set, so it is enough to see what becomes
        of maps that are 1 in one place and 0 elsewhere.
        """
        units = torch.eye(self.size**2).view(-1, 1, self.size, self.size)
        if self.method == NEAREST:
            return F.interpolate(units, scale_factor=self.stride, mode="nearest")[:, 0]
        if self.method == BILINEAR:
            larger = F.interpolate(
                units, scale_factor=self.stride, mode="bilinear", align_corners=self.align_corners
            )
            return larger[:, 0]
        if self.method == UNPOOLING:
            _, switches = F.max_pool2d(self.before_pooling[None, None], self.stride, return_indices=True)
            return F.max_unpool2d(units, switches.expand(len(units), -1, -1, -1), self.stride)[:, 0]
        whole = scatter_and_add(
            units, self.weight[None, None], self.stride, 0, self.output_padding, self.dilation
        )[:, 0]
        if self.way != SCATTER and self.ring:      # the other two views never compute what would be cut away
            kept = torch.zeros_like(whole)
            inner = slice(self.ring, -self.ring)
            kept[:, inner, inner] = whole[:, inner, inner]
            return kept
        return whole

    # --- steps
    @property
    def count(self) -> int:
        """How many things there are to do one after the other: output cells for the view with zeros, else inputs."""
        return (self.output_size if self.way == ZEROS else self.size) ** 2

    @property
    def pace(self) -> int:
        """How many of them are done in one step."""
        return math.ceil(self.count / MOST_STEPS)

    @property
    def done(self) -> int:
        return min(self.step * self.pace, self.count)

    @property
    def current(self) -> int | None:
        """The last that was done, or None at the beginning and at the end."""
        return self.done - 1 if 0 < self.done < self.count else None

    def computed(self, row: int, column: int) -> bool:
        """Whether this output cell has got its number; only in the view with zeros one after the other."""
        down, along = row - self.ring, column - self.ring
        return self.way != ZEROS or down * self.output_size + along < self.done

    def inside(self, row: int, column: int) -> bool:
        """Whether this cell is left after the padding has been cut away."""
        return all(self.ring <= at < self.ring + self.output_size for at in (row, column))

    @cached_property
    def writers(self) -> dict:
        """(row, column) of the output -> [(row, column, weight), ...] of the inputs that have written to it."""
        paths, found = self.paths if self.way == ZEROS else self.paths[: self.done], {}
        places = paths.nonzero()
        for (i, row, column), weight in zip(places.tolist(), paths[tuple(places.T)].tolist(), strict=True):
            found.setdefault((row, column), []).append((*divmod(i, self.size), weight))
        return found

    def sum(self, row: int, column: int) -> float:
        return sum(self.value(i, j) * weight for i, j, weight in self.writers.get((row, column), ()))

    # --- words
    @property
    def formula(self) -> str:
        """How the output's size comes about, in numbers."""
        if not self.transposed:
            return f"Rows, columns: {self.size} × {self.stride} = {self.output_size}."
        parts = [f"({self.size} − 1) × {self.stride}", f"− 2 × {self.padding}",
                 f"+ {self.dilation} × ({self.kernel} − 1)", f"+ {self.output_padding}", f"+ 1 = {self.output_size}"]
        return f"Rows, columns: {' '.join(part.replace(' ', NO_BREAK) for part in parts)}."

    def said(self, row: int, column: int) -> str:
        """Who wrote to a cell of the output, and the sum in numbers."""
        name, writers = place(row - self.ring, column - self.ring), self.writers.get((row, column))
        if not self.inside(row, column):
            more = f"; it would be {self._sum(row, column)}" if writers else ""
            more = more if self.way == SCATTER else ", and never computed"
            return f"Cell {name} is cut away by the padding{more}."
        if not writers:
            return f"Output {name} = 0: no input value {'has written' if self.done < self.count else 'writes'} to it."
        inputs = [place(i, j) for i, j, _ in writers]
        listed = inputs[0] if len(inputs) == 1 else f"{', '.join(inputs[:-1])} and {inputs[-1]}"
        name += " =" if self.computed(row, column) else " is not computed yet; it will be"
        return f"Output {name} {self._sum(row, column)}: written by input{'s' * (len(inputs) > 1)} {listed}."

    def _sum(self, row: int, column: int) -> str:
        writers = self.writers[row, column]
        terms = [f"{number(self.value(i, j))} × {number(weight)}" for i, j, weight in writers]
        exact = all(abs(float(number(weight)) - weight) < 1e-6 for *_, weight in writers)
        return f"{' + '.join(terms)} {'=' if exact else '≈'} {number(self.sum(row, column))}"


def number(value: float) -> str:
    """To two digits after the point, without zeros at the end."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def place(row: int, column: int) -> str:
    """`(row, column)`, not to be broken over two lines."""
    return f"({row},{NO_BREAK}{column})"
