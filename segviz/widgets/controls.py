"""The controls of an explorer. Each knows the values that it can take, in order: `at(i)` and `index(value)`.

A place in all of an explorer's controls is thus a list of whole numbers, one (for a `Point` two) a control.
Without those of local points it is the key under which kernel, browser and a saved page keep a state.
Controls of one `group` lie together under a tab, which has the group's name unless the state renames it.
"""

from dataclasses import asdict, dataclass
from numbers import Real


@dataclass
class Slider:
    """A number from `minimum` to `maximum` in steps of `step`, which may be whole or not."""

    name: str
    label: str
    minimum: float
    maximum: float
    step: float = 1
    value: float | None = None
    unit: str = ""
    group: str = ""

    def __post_init__(self):
        if self.step <= 0 or self.maximum < self.minimum:
            raise ValueError(f"Slider {self.name!r}: expected minimum <= maximum and step > 0; "
                             f"got {self.minimum} to {self.maximum} by {self.step}.")
        self.value = self.minimum if self.value is None else self.value
        self.value = self.at(self.index(self.value))

    @property
    def sizes(self) -> tuple[int, ...]:
        return (int((self.maximum - self.minimum) / self.step + 1e-9) + 1,)

    def at(self, place: int):
        value = self.minimum + place * self.step
        return value if isinstance(value, int) else round(value, 10)

    def index(self, value) -> int:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(
                f"{self.name}: expected a number from {self.minimum} to {self.maximum}, got {value!r}."
            )
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{self.name}: {value} lies outside {self.minimum} to {self.maximum}.")
        return min(round((value - self.minimum) / self.step), self.sizes[0] - 1)


@dataclass
class Steps:
    """A number out of a few `values`, in rising order: a slider whose steps need not be even."""

    name: str
    label: str
    values: tuple
    value: float | None = None
    unit: str = ""
    group: str = ""

    def __post_init__(self):
        self.values = tuple(self.values)
        if not self.values or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"Steps {self.name!r}: expected numbers in rising order, one or more; got {self.values}.")
        self.value = self.values[0] if self.value is None else self.value
        self.index(self.value)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.values),)

    def at(self, place: int):
        return self.values[place]

    def index(self, value) -> int:
        if isinstance(value, bool) or value not in self.values:
            raise ValueError(f"{self.name}: expected one of {', '.join(map(str, self.values))}; got {value!r}.")
        return self.values.index(value)


@dataclass
class Choice:
    """One of a few `options` (strings)."""

    name: str
    label: str
    options: tuple
    value: str | None = None
    group: str = ""

    def __post_init__(self):
        self.options = tuple(str(option) for option in self.options)
        if not self.options:
            raise ValueError(f"Choice {self.name!r} has no options.")
        self.value = self.options[0] if self.value is None else self.value
        self.index(self.value)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (len(self.options),)

    def at(self, place: int) -> str:
        return self.options[place]

    def index(self, value) -> int:
        if value not in self.options:
            raise ValueError(f"{self.name}: expected one of {', '.join(self.options)}; got {value!r}.")
        return self.options.index(value)


@dataclass
class Toggle:
    """On or off."""

    name: str
    label: str
    value: bool = False
    group: str = ""

    sizes = (2,)

    def at(self, place: int) -> bool:
        return bool(place)

    def index(self, value) -> int:
        if value not in (False, True):
            raise ValueError(f"{self.name}: expected True or False, got {value!r}.")
        return int(value)


@dataclass
class Point:
    """A whole (row, column) of panel number `panel`: click or drag there, or use the arrow keys.

    `rows` and `columns` bound it; where a state has fewer, its `bounds` say so, and `compute` keeps to them.
    With `hover` the pointer need not be pressed. Two sliders do the same.
    A `local` one the browser follows by itself: `compute` is not given it, one state serves all its places, and
    the layers, `pointed` words and sliders that name it change with no kernel. It is bounded by its panel.
    A `scaled` one, which must be local, keeps its relative place where its bounds change.
    """

    name: str
    label: str
    panel: int
    rows: int
    columns: int
    value: tuple = (0, 0)
    hover: bool = False
    local: bool = False
    scaled: bool = False
    group: str = ""

    def __post_init__(self):
        if self.scaled and not self.local:
            raise ValueError(f"Point {self.name!r}: scaled=True needs local=True, for the browser alone scales it.")
        self.value = tuple(int(part) for part in self.value)
        self.index(self.value)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (self.rows, self.columns)

    def at(self, place) -> tuple[int, int]:
        return tuple(place)

    def index(self, value) -> tuple[int, int]:
        if not (isinstance(value, (tuple, list)) and len(value) == 2):
            raise ValueError(f"{self.name}: expected (row, column), got {value!r}.")
        row, column = (int(part) for part in value)
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise ValueError(
                f"{self.name}: ({row}, {column}) lies outside {self.rows} rows x {self.columns} columns."
            )
        return row, column


def places(control, value) -> tuple[int, ...]:
    """The whole numbers that stand for `value`: one, or two for a `Point`."""
    place = control.index(value)
    return place if isinstance(place, tuple) else (place,)


def describe(control) -> dict:
    """What the browser needs to build the control; `kind` is the class's name."""
    return {"kind": type(control).__name__, "sizes": list(control.sizes), **asdict(control)}
