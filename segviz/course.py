"""The course: its lessons, and the progress that is shown at the top of each."""

import importlib
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

from segviz.exercises.progress import Progress, Row

ROOT = Path(__file__).resolve().parents[1]
LESSONS = ROOT / "lessons"
COPIES = ROOT / "my_lessons"


class CourseError(ValueError):
    """Something that the learner can put right; the message says how."""


@dataclass(frozen=True)
class Lesson:
    """One source file, `lessons/NN_topic.py`; `number` is its two digits."""

    number: str
    source: Path

    @property
    def name(self) -> str:
        return self.source.stem

    @cached_property
    def title(self) -> str:
        """What its exercises call it, or else its file's name in words."""
        words = self.name[3:].replace("_", " ")
        return getattr(_exercise_module(self.number), "TITLE", words[:1].upper() + words[1:])

    @cached_property
    def exercises(self) -> dict[str, str]:
        """`{name: title}`, in the lesson's order; empty where it has none."""
        exercises = getattr(_exercise_module(self.number), "EXERCISES", {})
        return {name: getattr(exercise, "title", name) for name, exercise in exercises.items()}


def _exercise_module(number: str) -> ModuleType | None:
    """Imported only when asked for: it brings torch with it. A lesson may have no exercises."""
    name = f"segviz.exercises.lesson_{number}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def lessons(folder: Path | None = None) -> list[Lesson]:
    """The lessons in `folder` (default: the course's), in order. Raises CourseError where there is none."""
    folder = folder or LESSONS
    found = [Lesson(path.name[:2], path) for path in sorted(folder.glob("[0-9][0-9]_*.py"))]
    if not found:
        raise CourseError(f"expected the course's lessons in {folder} and found none: install segviz from a "
                          "clone of the course (there: `make learn`, or `pip install -r requirements.txt`)")
    return found


@dataclass(frozen=True)
class Standing:
    """How far a learner is in one lesson."""

    lesson: Lesson
    rows: dict[str, Row | None]         # by exercise; None where it was never checked

    @property
    def passed(self) -> int:
        return sum(bool(row) and row.outcome == "passed" for row in self.rows.values())

    @property
    def done(self) -> bool:
        return bool(self.rows) and self.passed == len(self.rows)


def standings(store: Progress | None = None, folder: Path | None = None) -> list[Standing]:
    """Every lesson of the course with its exercises' rows, in order."""
    outcomes = (store or Progress()).outcomes()
    return [Standing(lesson, {name: outcomes.get((lesson.number, name)) for name in lesson.exercises})
            for lesson in lessons(folder)]


def next_lesson(store: Progress | None = None, folder: Path | None = None) -> Lesson:
    """Where to go on: the lesson last worked in, or the one after it when all of its exercises are passed."""
    found = lessons(folder)
    outcomes = (store or Progress()).outcomes()
    known = {lesson.number: index for index, lesson in enumerate(found)}
    seen = [(row.last_seen, known[number]) for (number, _), row in outcomes.items() if number in known]
    if not seen:
        return found[0]
    index = max(seen)[1]
    rows = [outcomes.get((found[index].number, name)) for name in found[index].exercises]
    finished = all(row and row.outcome == "passed" for row in rows)
    return found[min(index + finished, len(found) - 1)]


def banner(lesson: str, *, store: Progress | None = None, folder: Path | None = None) -> "Banner":
    """The progress line of lesson `lesson`, e.g. "02", for the last line of its first cell.

    Raises ValueError where the course has no such lesson.
    """
    store = store or Progress()
    found = standings(store, folder)
    index = next((i for i, standing in enumerate(found) if standing.lesson.number == lesson), None)
    if index is None:
        numbers = ", ".join(standing.lesson.number for standing in found)
        raise ValueError(f"expected the number of a lesson, one of {numbers}; got {lesson!r}")
    return Banner(found, index, store.notice)


class Banner:
    """One lesson's exercises, passed and open, the course's total, and the way to the next lesson."""

    def __init__(self, found: list[Standing], index: int, notice: str = ""):
        self.standing, self.notice = found[index], notice
        self.following = found[index + 1].lesson if index + 1 < len(found) else None
        self.passed, self.total = sum(s.passed for s in found), sum(len(s.rows) for s in found)

    @property
    def _counts(self) -> str:
        here = f"{self.standing.passed} of {len(self.standing.rows)} exercises passed"
        here = here if self.standing.rows else "no exercises in this lesson"
        return f"{here} · whole course {self.passed} of {self.total}"

    def _exercises(self) -> list[tuple[str, bool]]:
        titles = self.standing.lesson.exercises
        rows = self.standing.rows.items()
        return [(titles[name], bool(row) and row.outcome == "passed") for name, row in rows]

    def __repr__(self) -> str:
        lesson = self.standing.lesson
        marks = [f"  {'✓ passed' if passed else '○ open  '}  {title}" for title, passed in self._exercises()]
        last = "  this is the last lesson"
        following = f"  next: {self.following.name}.ipynb" if self.following else last
        notice = [f"  ! {self.notice}"] if self.notice else []
        heading = f"Lesson {lesson.number} · {lesson.title}"
        return "\n".join([heading, f"  {self._counts}", *marks, following, *notice])

    def _repr_html_(self) -> str:
        lesson = self.standing.lesson
        notice = f'<p role="alert"><b>!</b> {escape(self.notice)}</p>' if self.notice else ""
        return f"""<div class="segviz-banner">{_STYLE}
<div class="segviz-line">
<b>Lesson {lesson.number} · {escape(lesson.title)}</b><span>{self._counts}</span></div>
{self._bar()}<ul>{"".join(_mark(*exercise) for exercise in self._exercises())}</ul>
{self._following()}{notice}</div>"""

    def _bar(self) -> str:
        """The lesson's share of passed exercises."""
        passed, total = self.standing.passed, len(self.standing.rows)
        if not total:
            return ""
        return (f'<div class="segviz-bar" role="progressbar" aria-label="exercises passed" aria-valuemin="0" '
                f'aria-valuemax="{total}" aria-valuenow="{passed}">'
                f'<div style="width:{100 * passed / total:.0f}%"></div></div>')

    def _following(self) -> str:
        if not self.following:
            return "<p>This is the last lesson.</p>"
        link = f"{quote(self.following.name)}.ipynb"
        words = f"lesson {self.following.number}, {escape(self.following.title)}"
        return f'<p>Next: <a href="{link}">{words}</a></p>'


def _mark(title: str, passed: bool) -> str:
    sign, word = ("✓", "passed") if passed else ("○", "open")
    return f"<li>{sign} {escape(title)} <small>({word})</small></li>"


# JupyterLab's own colours, so that the dark theme is met; the fallbacks read on white and on black.
_STYLE = """<style>
.segviz-banner { border: 1px solid var(--jp-border-color2, #888); border-radius: 6px;
  padding: .7em 1em; }
.segviz-banner .segviz-line { display: flex; flex-wrap: wrap; gap: .2em 1.5em;
  justify-content: space-between; }
.segviz-banner .segviz-bar { height: 6px; border-radius: 3px; margin: .5em 0; overflow: hidden;
  background: var(--jp-layout-color3, #aaa); }
.segviz-banner .segviz-bar div { height: 100%; background: var(--jp-brand-color1, #1976d2); }
.segviz-banner ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2em 1.4em;
  margin: 0; padding: 0; }
.segviz-banner p { margin: .5em 0 0; }
</style>"""
