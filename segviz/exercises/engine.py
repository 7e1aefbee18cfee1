"""The check engine: an exercise is a reference, the cases to try it on, and the wrong answers people give.

An answer is run on every case and compared with the reference. When it differs, but agrees everywhere with one of the
known wrong answers, the learner hears what that mistake is; otherwise, the first case that differs, and by how much.
"""

import ast
import copy
import html
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segviz.exercises import progress
from segviz.exercises.answers import Mismatch, compare, describe, error_in_words, in_words, is_stub, run, settings_kept
from segviz.exercises.progress import Progress

PASSED, WRONG, RAISED, NOT_ATTEMPTED = "passed", "wrong", "raised", "not attempted"
SIGNS = {PASSED: ("✓", "#117733"), WRONG: ("✗", "#CC3311"), RAISED: ("!", "#AA4499"), NOT_ATTEMPTED: ("…", "#777777")}


@dataclass
class Result:
    """What a check says. `outcome` is one of passed, wrong, raised, not attempted; `message` explains it."""

    outcome: str
    message: str
    notice: str = ""

    def __repr__(self) -> str:
        words = f"{SIGNS[self.outcome][0]} {self.outcome.capitalize()}: {self.message}"
        return f"{words}\n({self.notice})" if self.notice else words

    def _repr_html_(self) -> str:
        sign, colour = SIGNS[self.outcome]
        notice = f"<br><small>{html.escape(self.notice)}</small>" if self.notice else ""
        message = html.escape(self.message).replace("\n", "<br>")
        return (
            f'<div class="segviz-result" role="status" data-outcome="{self.outcome}" '
            f'style="border-left:4px solid {colour};padding:.4em .8em;margin:.3em 0">'
            f"<b>{sign} {self.outcome.capitalize()}</b> "
            f"<span>{message}</span>{notice}</div>"
        )


@dataclass
class Note:
    """A hint or a solution, shown as text."""

    heading: str
    text: str
    code: bool = False

    def __repr__(self) -> str:
        return f"{self.heading}\n{self.text}"

    def _repr_html_(self) -> str:
        body = f"<pre>{html.escape(self.text)}</pre>" if self.code else f"<span>{html.escape(self.text)}</span>"
        return (
            '<div style="border-left:4px solid #4477AA;padding:.4em .8em;margin:.3em 0">'
            f"<b>{html.escape(self.heading)}</b> {body}</div>"
        )


class Exercise:
    """One exercise. Made by the decorator `exercise`, checked with `check(answer)`.

    lesson, name: where it is, e.g. "02" and "window_count". title: what it asks for. hints: vague first, exact last.
    cases: makes the argument tuples that an answer is tried on. mistakes: {what to say: a wrong answer}.
    observe: turns what an answer returns into numbers to compare, `observe(output, *case)`; by default the output
    itself. praise: what passing shows. advice: where to look when a wrong answer is none of the known ones.
    tolerance: how far numbers may differ, see `compare`.
    """

    def __init__(
        self,
        reference: Callable,
        title: str,
        hints: tuple[str, ...],
        cases: Callable[[], list[tuple]],
        mistakes: dict[str, Callable],
        observe: Callable | None = None,
        praise: str = "",
        advice: str = "",
        tolerance: float = 1e-5,
    ):
        self.reference, self.title, self.hints = reference, title, hints
        self.name, self.lesson = reference.__name__, reference.__module__.rpartition("_")[2]
        self._cases, self.mistakes, self.praise, self.tolerance = cases, mistakes, praise, tolerance
        self._advice = f" {advice}" if advice else ""
        self._observe = observe or (lambda output, *case: output)
        self._hints_shown = 0

    @property
    def task(self) -> str:
        """The title as a sentence."""
        return self.title if self.title.endswith("?") else f"{self.title}."

    def cases(self) -> list[tuple]:
        """The argument tuples, made anew: an answer may change what it is given."""
        return self._cases()

    # -- what a learner calls

    def check(self, answer=None) -> Result:
        """Runs `answer`, a function, and says how it did. Never raises."""
        try:
            result = self._judge(answer)
        except KeyboardInterrupt:
            result = Result(
                RAISED, "You interrupted the check. Does a loop never end? Nothing is lost: mend it and check again."
            )
        except BaseException as error:  # the promise above holds for our own mistakes too
            result = Result(RAISED, f"The check itself failed, which is not your fault: {error_in_words(error)}")
        try:
            result.notice = _record(self.lesson, self.name, result.outcome)
        except KeyboardInterrupt:
            result.notice = "Interrupted while progress was saved: check again."
        except Exception as error:  # SEGVIZ_HOME=~nobody
            result.notice = f"Progress was not saved: {error_in_words(error)}. Is SEGVIZ_HOME a folder of yours?"
        return result

    def hint(self) -> Note:
        """The next hint; after the last one, the last one again."""
        number = min(self._hints_shown + 1, len(self.hints))
        self._hints_shown = number
        more = "" if number < len(self.hints) else "\nThere are no more hints; .solution() shows one way."
        return Note(f"Hint {number} of {len(self.hints)}.", self.hints[number - 1] + more)

    def solution(self) -> Note:
        """One way to solve it; many others pass."""
        return Note("One solution.", self.source(), code=True)

    def source(self) -> str:
        """The reference as a learner would write it: its source without the decorator."""
        text = textwrap.dedent(inspect.getsource(self.reference))
        node = ast.parse(text).body[0]
        return "\n".join(text.splitlines()[node.lineno - 1 :]) + "\n"

    def __repr__(self) -> str:
        return f"Exercise {self.lesson}.{self.name}: {self.task} Use .check(answer), .hint(), .solution()"

    # -- how it is judged

    def _judge(self, answer) -> Result:
        if answer is None or answer is ... or (callable(answer) and is_stub(answer)):
            return Result(NOT_ATTEMPTED, f"{self.task} Write your answer in the cell above, run it, then this one.")
        if not callable(answer):
            return Result(
                WRONG,
                f"The check wants the function itself, but got {describe(answer)}. Write "
                f"exercises.{self.name}.check({self.name}), without calling it.",
            )
        cases = self.cases()
        for case in cases:
            try:
                output = run(answer, case)
            except NotImplementedError:
                return Result(NOT_ATTEMPTED, f"{self.task} Your function still raises NotImplementedError.")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit too: it must not end the kernel
                return Result(RAISED, f"With {in_words(case)} your code raised {error_in_words(error, answer)}")
            try:
                self._compare(output, case, answer)
            except Mismatch as mismatch:
                return Result(WRONG, self._known_mistake(answer, cases) or f"{mismatch}{self._advice}")
        return Result(PASSED, self.praise or f"{len(cases)} cases agree with the reference.")

    def _compare(self, output, case: tuple, answer) -> None:
        if output is None or output is ...:
            raise Mismatch("Your function returns nothing. Did you forget `return`?")
        expected = self._observed(run(self.reference, case), case)
        try:
            seen = self._observed(output, case)
        except (KeyboardInterrupt, Mismatch):
            raise
        except BaseException as error:
            raise Mismatch(
                f"With {in_words(case)} your function returned {describe(output)}, and using it raised "
                f"{error_in_words(error, answer)}"
            ) from None
        compare(seen, expected, self.tolerance, f"With {in_words(case)}")

    def _observed(self, output, case: tuple):
        with settings_kept():
            return self._observe(output, *copy.deepcopy(case))

    def _known_mistake(self, answer, cases: list[tuple]) -> str | None:
        """The words for the wrong answer that agrees with this one on every case, if there is one."""
        try:
            outputs = [self._observed(run(answer, case), case) for case in cases]
        except KeyboardInterrupt:
            raise
        except BaseException:  # on a later case: not one of ours, then
            return None
        return next((words for words, mistake in self.mistakes.items() if self._same(mistake, cases, outputs)), None)

    def _same(self, mistake: Callable, cases: list[tuple], outputs: list) -> bool:
        try:
            for case, output in zip(cases, outputs, strict=True):
                compare(output, self._observed(run(mistake, case), case), self.tolerance, "")
        except Exception:
            return False
        return True


def exercise(title: str, **parts) -> Callable[[Callable], Exercise]:
    """Turns a reference solution into an `Exercise`; see there for the parts."""
    return lambda reference: Exercise(reference, title, **parts)


_stores: dict[Path, Progress] = {}


def _record(lesson: str, name: str, outcome: str) -> str:
    """Notes the outcome in the learner's progress; returns what went wrong with that, once, in words."""
    if (place := progress.home()) not in _stores:
        _stores[place] = Progress()
    _stores[place].record(lesson, name, outcome)
    return _stores[place].take_notice()
