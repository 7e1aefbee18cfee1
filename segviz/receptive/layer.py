"""What is reported of a map: `Layer`, and `Axis` for its rows and its columns."""

from dataclasses import dataclass, field
from fractions import Fraction

from .lines import Line

Number = int | float


@dataclass(frozen=True)
class Axis:
    """The fields of a map's units along one axis, in pixels of the input.

    size: from the first pixel that a unit reads to the last; the largest of the map's units, where they differ.
    jump: from one unit's field to the next one's, on the mean. 0 where all units read the same.
    start: the centre of unit 0's field. Where units are not evenly spaced, the start from which the rule
    `start + jump * unit` misses the fields' centres by the least."""

    size: Number
    jump: Number
    start: Number
    _line: Line | None = field(default=None, repr=False, compare=False)

    def field(self, unit: int) -> tuple[Number, Number]:
        """The pixels [begin, end) that this unit reads, also where the units' sizes differ; (0, 0) for a unit that
        reads nothing."""
        if self._line is not None:
            return self._line.of(unit) or (0, 0)
        centre = self.start + self.jump * unit
        return _whole(centre - self.size / 2), _whole(centre + self.size / 2)

    def reach(self, units: int) -> Number:
        """How many pixels beside its own a unit reads, at most, of the first `units` of a map of the input's size."""
        fields = [(unit, *self.field(unit)) for unit in range(units)]
        return max((max(unit - low, high - 1 - unit) for unit, low, high in fields), default=0)


@dataclass(frozen=True)
class Layer:
    """The receptive fields of the units of one map, along its rows and its columns.

    name: of the module, as in `named_modules`. kind: its class, "Conv2d", or the function called in its forward, "add".
    shape: (h, w) of the map."""

    name: str
    kind: str
    shape: tuple[int, int]
    rows: Axis
    columns: Axis

    @property
    def size(self) -> Number | tuple[Number, Number]:
        """Pixels from one end of a field to the other; (rows, columns) where they differ."""
        return self._both("size")

    @property
    def jump(self) -> Number | tuple[Number, Number]:
        """Pixels from one unit to the next; (rows, columns) where they differ."""
        return self._both("jump")

    @property
    def start(self) -> Number | tuple[Number, Number]:
        """Centre of unit 0's field; (rows, columns) where they differ."""
        return self._both("start")

    def field(self, row: int, column: int) -> tuple[Number, Number, Number, Number]:
        """(top, left, bottom, right) of the field of one unit, half open, as though the map went on beyond the input's
        borders: not clipped. It is exact for every unit, but for pixels of the image that padding repeats or mirrors:
        these are not in it (`reads` has them). Holes between its pixels count as inside. (0, 0, 0, 0) for one that
        reads nothing."""
        (top, bottom), (left, right) = self.rows.field(row), self.columns.field(column)
        return (top, left, bottom, right) if top < bottom and left < right else (0, 0, 0, 0)

    def _both(self, name: str) -> Number | tuple[Number, Number]:
        rows, columns = getattr(self.rows, name), getattr(self.columns, name)
        return rows if rows == columns else (rows, columns)


def summary(line: Line, units: int) -> Axis:
    """The summary of the fields of a map's first `units` units."""
    alone = [part for part in line.parts if all(part.of(unit) == line.of(unit) for unit in range(units))]
    shown = min(units, len(alone[0].spans)) if line.parts == tuple(alone) else units
    spans = {unit: span for unit in range(shown) if (span := line.of(unit))}
    if not spans:
        return Axis(0, 0, 0, line)
    centres = {unit: Fraction(low + high, 2) for unit, (low, high) in spans.items()}
    first, last = min(centres), max(centres)
    jump = alone[0].jump if alone else (centres[last] - centres[first]) / max(1, last - first)
    offsets = [centre - jump * unit for unit, centre in centres.items()]
    start = (min(offsets) + max(offsets)) / 2
    return Axis(max(high - low for low, high in spans.values()), _whole(jump), _whole(start), line)


def _whole(number) -> Number:
    return int(number) if number == int(number) else float(number)
