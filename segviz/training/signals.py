"""Ctrl-C and SIGTERM, heard at once but obeyed between two steps: a network is never left half updated."""

import signal
import threading
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """`with Signals() as signals:` SIGINT raises KeyboardInterrupt and SIGTERM SystemExit(143), but inside
    `with signals.held():` only once that block is whole. A second SIGINT does not wait.

    patient: nothing is raised before `obey` is called: processes that work together must stop at the same step.
    Outside the main thread, where Python lets nobody listen, and for a signal that the program ignores, nothing is
    changed. At the end the handlers of before are back, and a signal that still waits is obeyed; but not where the
    processes have lost each other: torchrun sends SIGTERM to those who are left, and they have something to say.
    """

    def __init__(self, patient: bool = False):
        self.waiting = None  # the signal that arrived and is not yet obeyed
        self.hurried = False  # a second SIGINT came: a held block may have been left half done
        self._holding, self._asked, self._before = int(patient), False, {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind, *_error):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None or not issubclass(kind, ConnectionError):
            self.obey()

    @contextmanager
    def held(self):
        """A block that is done whole. Blocks may lie in each other: the outermost counts."""
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
        if not self._holding:
            self.obey()

    def obey(self, number: int | None = None) -> None:
        """Raises what a signal asks for: `number`, on which several processes agreed, or the one that waits, if any."""
        number, self.waiting = number or self.waiting, None
        if number == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        if number == signal.SIGINT:
            raise KeyboardInterrupt

    def _arrived(self, number, _frame):
        self.hurried = self.hurried or (self._asked and number == signal.SIGINT)
        self._asked = self._asked or number == signal.SIGINT
        if self.waiting != signal.SIGTERM:  # the stronger one
            self.waiting = number
        if self.hurried or not self._holding:
            self.obey()
