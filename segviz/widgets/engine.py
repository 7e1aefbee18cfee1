"""The explorers' engine: a pure `compute(**controls) -> State`, controls, and a view in the browser.

    def compute(stride):
        samples = Panel("Samples", [Image(picture[::stride, ::stride])])
        return State([samples], readout=f"Every {stride}th pixel.")

    Explorer(compute, [Slider("stride", "Stride", 1, 8)], title="Sampling")

The browser draws, and keeps the states that it has seen; only for others does it ask the kernel, one at
a time, and when all is quiet for those next to it. Where they are few they travel with the widget, and it
needs no kernel; `export_html` makes a page of it that needs nothing at all. A `compute` that raises is shown
in words.
"""

import base64
import contextlib
import os
from io import BytesIO
from itertools import combinations, islice, product
from math import prod
from pathlib import Path

import anywidget
import torch
import traitlets
from tqdm.auto import tqdm

from segviz.widgets import controls as controls_
from segviz.widgets.page import Packed, pack, page
from segviz.widgets.panels import State, encode
from segviz.widgets.snapshot import figure

HERE = Path(__file__).parent
MODULE = "\n".join(
    (HERE / name).read_text(encoding="utf-8") for name in ("draw.js", "states.js", "explorer.js")
)
STYLE = (HERE / "explorer.css").read_text(encoding="utf-8")

FEW_STATES = 128                         # up to here all states are computed at once and sent along,
FEW_BYTES = 4_000_000                    # if together they are no larger than this before they are compressed
PAGE_STATES = 2000                       # the most states in an exported page,
PAGE_BYTES = 6_000_000                   # which takes up no more once they come to this, compressed


@contextlib.contextmanager
def one_thread():
    """For work of a few milliseconds: on a busy machine, waking other threads for it costs more than ten
    times as much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Explorer(anywidget.AnyWidget):
    """Controls over `compute(**values) -> State`, which must depend on its arguments alone.

    `prepared`: True sends every state along, False none; None does so where they are few and small.
    `slow=True` is for a `compute` that takes more than a few ten milliseconds: nothing is
    computed ahead, and no passing state is drawn. Where moves of only some controls take that long, name them,
    `slow=("scene",)`: where these lead is not computed ahead, all else is.
    """

    _esm = MODULE
    _css = STYLE
    title = traitlets.Unicode().tag(sync=True)
    places = traitlets.List(traitlets.Int()).tag(sync=True)
    _controls = traitlets.List().tag(sync=True)
    _start = traitlets.List().tag(sync=True)
    _first = traitlets.Dict().tag(sync=True)
    _prepared = traitlets.Bytes().tag(sync=True)
    _complete = traitlets.Bool().tag(sync=True)
    _slow = traitlets.Bool().tag(sync=True)

    def __init__(self, compute, controls, *, title="", prepared=None, slow=False):
        names = [control.name for control in controls]
        if len(set(names)) < len(names):
            raise ValueError(f"Each control needs a name of its own; got {', '.join(names)}.")
        self.compute, self.controls = compute, list(controls)
        self._given = [control for control in controls if not getattr(control, "local", False)]  # to compute
        self._kept = [control in self._given for control in controls for _ in control.sizes]
        start = self._places({control.name: control.value for control in controls})
        costly = () if isinstance(slow, bool) else tuple(slow)
        if unknown := set(costly) - {control.name for control in controls}:
            raise ValueError(f"slow names controls, but none is called {', '.join(sorted(unknown))}.")
        super().__init__(title=title, places=start, _start=start, _slow=slow is True,
                         _controls=[controls_.describe(each) | {"costly": each.name in costly} for each in controls])
        self._first = self._entry(self._key(self._shared(start)))
        block = self._prepare(prepared, bool(slow))
        if block is not None:
            self._prepared, self._complete = block, True
        self.on_msg(self._answer)

    # --- by values
    @property
    def values(self) -> dict:
        """The controls' values now, by name."""
        return self._values(self.places)

    def set(self, **values) -> None:
        """Moves controls: `explorer.set(stride=4)`; the picture follows. ValueError if it cannot."""
        self.places = self._places(self._complete_values(values))

    def state(self, **values) -> State:
        """What `compute` returns for these values; controls that are not named stay where they are."""
        # To the nearest step, as the browser has it, so that one key has one state.
        places = self._shared(self._places(self._complete_values(values)))
        with contextlib.nullcontext() if self._slow else one_thread():
            state = self.compute(**self._values(places, self._given))
        if not isinstance(state, State):
            raise TypeError(f"compute must return a State of panels, not {type(state).__name__}.")
        return state

    def snapshot(self, **values):
        """The state as a matplotlib figure, for print and for pages without script."""
        return figure(*self._pointed_state(values), self.title)

    def export_html(self, path=None) -> str:
        """One HTML page that works with no kernel and fetches nothing; written to `path` where one is given.

        It holds up to 2000 states, or 6 MB of them, so that it can be sent by mail (the page is a third larger): the
        present one, then every one with one control changed, then with two, and so on; first controls under no tab,
        and pairs of few values. Where a changed control is hidden the state is left out, for it is there without that
        change. Other settings go to the nearest of these, and say so. The places of local points are in every state. A
        bar shows where this takes longer; stopped, it leaves no file behind, or the one that was there.
        """
        text = page(self, pack(self._page_states()), *self._paper())
        if path is not None:
            _write(Path(path), text)
        return text

    def _page_states(self) -> dict:
        states, hidden, packed = {}, {}, Packed()
        most = min(PAGE_STATES, prod(self._sizes()))
        with tqdm(total=most, desc="states for the page", delay=2, leave=False) as bar:
            for key, nearer in islice(self._page_keys(), 10 * PAGE_STATES):
                same = next((other for other, name in nearer if name in hidden[other]), None)
                if same is None:
                    states[key] = self._packable(key)
                    packed.add(*states[key])
                    bar.update()
                hidden[key] = states[key][0]["hidden"] if same is None else hidden[same]
                if len(states) == most or packed.bytes >= PAGE_BYTES:
                    break
        return states

    # --- places, keys and values
    def _complete_values(self, values: dict) -> dict:
        unknown = set(values) - {control.name for control in self.controls}
        if unknown:
            known = ", ".join(control.name for control in self.controls)
            raise ValueError(f"No control is called {', '.join(sorted(unknown))}; there are {known}.")
        return self.values | values

    def _places(self, values: dict) -> list[int]:
        return [
            place for control in self.controls for place in controls_.places(control, values[control.name])
        ]

    def _values(self, places, controls=None) -> dict:
        left, values = iter(places), {}
        for control in self.controls if controls is None else controls:
            mine = list(islice(left, len(control.sizes)))
            values[control.name] = control.at(mine if len(mine) > 1 else mine[0])
        return values

    def _shared(self, places) -> list[int]:
        """The places that a state depends on: all but those of local points."""
        return [place for place, kept in zip(places, self._kept, strict=True) if kept]

    @staticmethod
    def _key(places) -> str:
        return ",".join(map(str, places))

    def _sizes(self) -> list[int]:
        return [size for control in self._given for size in control.sizes]

    # --- states on their way to the browser
    def _encoded(self, key: str) -> tuple[dict, list[bytes]]:
        places = [int(part) for part in key.split(",")] if key else []
        sizes = self._sizes()
        if len(places) != len(sizes) or any(
            not 0 <= at < size for at, size in zip(places, sizes, strict=True)
        ):
            raise ValueError(f"No such setting: {key!r}.")
        return encode(self.state(**self._values(places, self._given)))

    def _entry(self, key: str) -> dict:
        try:
            state, buffers = self._encoded(key)
            return {"key": key, "state": state, "buffers": buffers}
        except Exception as error:                        # a learner's own compute may raise anything
            return {"key": key, "fault": f"{type(error).__name__}: {error}", "buffers": []}

    def _packable(self, key: str) -> tuple[dict, list[bytes]]:
        """The state to send along; where `compute` raises, its words, to be shown in that one place."""
        entry = self._entry(key)
        if "fault" in entry:
            return encode(State([], entry["fault"], problem=entry["fault"]))
        return entry["state"], entry["buffers"]

    def _answer(self, _widget, content, _buffers) -> None:
        if isinstance(content, dict) and isinstance(content.get("ask"), str):
            try:
                entry = self._entry(content["ask"])
            except KeyboardInterrupt:                     # meant for a cell, but it came while this was computed
                entry = {"key": content["ask"], "fault": "interrupted", "buffers": []}
            buffers = entry.pop("buffers")
            self.send({**entry, "id": content.get("id")}, buffers)

    def _prepare(self, wish, slow) -> bytes | None:
        """Every state, packed; None where that is not wished for, or would be too much to send unasked."""
        sizes, fault = self._sizes(), "fault" in self._first
        count = prod(sizes)
        if fault or wish is False or (wish is None and (slow or count > FEW_STATES)):
            return None
        if wish is None and count * sum(map(len, self._first["buffers"])) > FEW_BYTES:
            return None
        return pack({key: self._packable(key) for key in map(self._key, product(*map(range, sizes)))})

    def _page_keys(self):
        """Keys for a page: the present one, then those with one number changed, then with two, and so on. With each
        the keys that have one change less, and the name of the control that is not changed there."""
        sizes, now = self._sizes(), self._shared(self.places)
        names = [control.name for control in self._given for _ in control.sizes]
        tabbed = [bool(control.group) for control in self._given for _ in control.sizes]
        others = [[at for at in range(size) if at != now[i]] for i, size in enumerate(sizes)]

        def late(numbers):
            return sum(tabbed[i] for i in numbers), prod(len(others[i]) for i in numbers)

        for count in range(len(sizes) + 1):
            for changed in sorted(combinations(range(len(sizes)), count), key=late):
                for values in product(*(others[i] for i in changed)):
                    places = list(now)
                    for i, at in zip(changed, values, strict=True):
                        places[i] = at
                    nearer = [(self._key([*places[:i], now[i], *places[i + 1 :]]), names[i]) for i in changed]
                    yield self._key(places), nearer

    # --- where widgets cannot be shown
    def _pointed_state(self, values) -> tuple[State, dict]:
        """The state for these values, and the place in it of every point."""
        values, state = self._complete_values(values), self.state(**values)
        points = (control for control in self.controls if isinstance(control, controls_.Point))
        return state, {point.name: state.place(point, values[point.name]) for point in points}

    def _paper(self) -> tuple[str, str]:
        """The present picture, base64, and its words; where `compute` fails no picture, and what failed."""
        try:
            state, points = self._pointed_state({})
            picture = figure(state, points, self.title)
        except Exception as error:
            return "", f"{type(error).__name__}: {error}"
        buffer = BytesIO()
        picture.savefig(buffer, format="png", dpi=90)
        return base64.b64encode(buffer.getvalue()).decode(), state.said(points)

    def _repr_mimebundle_(self, **kwargs):
        """The live view, and beside it a picture and a sentence for viewers that have no widgets."""
        data, metadata = super()._repr_mimebundle_(**kwargs)
        png, words = self._paper()
        return data | {"text/plain": f"{self.title}: {words}"} | (
            {"image/png": png} if png else {}
        ), metadata


def _write(path: Path, text: str) -> None:
    """Writes the whole file or, where that is stopped, nothing."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
