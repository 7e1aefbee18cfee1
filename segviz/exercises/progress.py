"""Which exercises are passed: one small SQLite file in the learner's own data folder.

Each call opens the file, does one transaction and closes it: two kernels wait for each other, and a kernel
that is killed or interrupted leaves every completed record. A rollback journal is used, not WAL, because home
folders may lie on a network drive, where WAL is not safe.
"""

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs

VERSION = 1                                                  # PRAGMA user_version of the files written here
OUTCOMES = ("not attempted", "raised", "wrong", "passed")    # worst to best; the file holds the index
BUSY_SECONDS = 5                                             # how long one writer waits for another

_CREATE = """
CREATE TABLE exercises (
    lesson    TEXT NOT NULL,
    exercise  TEXT NOT NULL,
    best      INTEGER NOT NULL CHECK (best BETWEEN 0 AND 3),
    attempts  INTEGER NOT NULL CHECK (attempts >= 0),
    last_seen TEXT NOT NULL,
    passed_at TEXT,
    PRIMARY KEY (lesson, exercise))
"""
_RECORD = """
INSERT INTO exercises VALUES (:lesson, :exercise, :best, :best > 0, :now, CASE WHEN :best = 3 THEN :now END)
ON CONFLICT (lesson, exercise) DO UPDATE SET
    best = MAX(best, excluded.best),
    attempts = attempts + excluded.attempts,
    last_seen = excluded.last_seen,
    passed_at = COALESCE(passed_at, excluded.passed_at)
"""


@dataclass(frozen=True)
class Row:
    """One exercise, its best outcome so far. Times are UTC, ISO 8601. An untouched stub is no attempt."""

    outcome: str
    attempts: int
    last_seen: str
    passed_at: str | None


class NewerStore(sqlite3.Error):
    """The file was written by a newer segviz."""


def home() -> Path:
    """The learner's data folder: `SEGVIZ_HOME`, else the platform's place for user data. It may not exist."""
    if override := os.environ.get("SEGVIZ_HOME"):
        return Path(override).expanduser()
    return Path(platformdirs.user_data_dir("segviz", appauthor=False))


class Progress:
    """The store at `path` (default: `progress.sqlite` in `home()`).

    No state of the file or the disk makes `record` or `outcomes` raise. What cannot be written is kept in
    memory, is tried again at each later call, and counts in `outcomes()` meanwhile. `notice` says in words
    what is amiss ("" when nothing is); `take_notice()` says it once.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        self.path = Path(path) if path is not None else home() / "progress.sqlite"
        self.notice = ""
        self._untold = ""
        self._trouble = ""                  # why the last write or read failed
        self._events: list[str] = []        # what was moved aside or left alone: true for the whole session
        self._pending: list[dict] = []
        self._thread_lock = threading.Lock()
        self._guard(self._inspect)

    def record(self, lesson: str, exercise: str, outcome: str) -> None:
        """Notes one check. An `outcome` that is not one of `OUTCOMES` is the caller's mistake: ValueError."""
        if outcome not in OUTCOMES:
            raise ValueError(f"an outcome is one of {', '.join(OUTCOMES)}; this one is {outcome!r}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._pending.append({"lesson": str(lesson), "exercise": str(exercise), "now": now,
                              "best": OUTCOMES.index(outcome)})
        self._guard(self._flush)

    def outcomes(self) -> dict[tuple[str, str], Row]:
        """`{(lesson, exercise): Row}` for every exercise that was ever checked."""
        if self._pending:
            self._guard(self._flush)
        rows = self._guard(self._read) or []
        with closing(_memory(rows)) as merged:
            merged.executemany(_RECORD, self._pending)
            return {(lesson, exercise): Row(OUTCOMES[best], *rest)
                    for lesson, exercise, best, *rest in merged.execute("SELECT * FROM exercises")}

    def take_notice(self) -> str:
        """The notice, once: "" until there is something new to say."""
        words, self._untold = self._untold, ""
        return words

    # -- one transaction each

    def _inspect(self) -> None:
        """Finds damage when the store is opened, while there is nothing to lose by it."""
        if self.path.exists():
            _check_whole(self.path)

    def _flush(self) -> None:
        with self._thread_lock:
            waiting = list(self._pending)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _connection(self.path) as connection:
                connection.execute("BEGIN IMMEDIATE")
                if _version(connection) == 0:
                    connection.execute(_CREATE)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.executemany(_RECORD, waiting)
                connection.execute("COMMIT")
            del self._pending[:len(waiting)]

    def _read(self) -> list[tuple]:
        if not self.path.exists():
            return []
        with _connection(self.path) as connection:
            return _rows(connection) if _version(connection) else []

    # -- what may go wrong

    def _guard(self, work: Callable):
        """The result of `work`; None where it fails for good, which becomes words."""
        result = None
        try:
            result = self._repaired(work)
            if not self._pending:
                self._trouble = ""
        except (sqlite3.Error, OSError) as error:
            self._trouble = self._words(error)
        self._tell()
        return result

    def _repaired(self, work: Callable):
        """Runs `work`, again after a newer file was stepped around or a damaged one was moved aside."""
        for _ in range(2):
            try:
                return work()
            except NewerStore:
                self._step_beside()
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._set_aside(error)
        return work()

    def _step_beside(self) -> None:
        beside = self.path.with_name(f"{self.path.stem}-v{VERSION}.sqlite")
        self._events.append(
            f"{self.path} was written by a newer version of segviz and is left as it is. Progress is kept in "
            f"{beside.name} beside it. To go on with the newer one, update segviz.")
        self.path = beside

    def _set_aside(self, error: Exception) -> None:
        """Renames the damaged file, and its journal, which must never be applied to a new file."""
        with _lock(self.path):
            if not _still_damaged(self.path):
                return                                      # another kernel has moved it meanwhile
            stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
            kept = self.path.with_name(f"{self.path.stem}-corrupt-{stamp}.sqlite")
            journal = self.path.with_name(self.path.name + "-journal")
            if journal.exists():
                os.replace(journal, kept.with_name(kept.name + "-journal"))
            os.replace(self.path, kept)
        self._events.append(
            f"The progress file {self.path} could not be read ({error}). It is kept as {kept.name}, and a "
            "new one is started. To mark solved exercises as passed, run their checks again.")

    def _words(self, error: Exception) -> str:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            todo = "Another program holds it. It is tried again at the next check."
        else:
            todo = ("Check that there is space on the disk and that you may write there, or set SEGVIZ_HOME "
                    "to another folder.")
        return f"Progress cannot be saved in {self.path} ({error}): it lasts as long as this session. {todo}"

    def _tell(self) -> None:
        notice = " ".join([*self._events, self._trouble]).strip()
        if notice != self.notice:
            self.notice = notice
            self._untold = notice


@contextmanager
def _connection(path: Path):
    with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.execute("PRAGMA synchronous = FULL")
        yield connection                                    # closing without COMMIT rolls back


def _version(connection: sqlite3.Connection) -> int:
    """0 for an empty file, else `VERSION`."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise NewerStore(f"version {version}")
    return version


def _rows(connection: sqlite3.Connection) -> list[tuple]:
    columns = "lesson, exercise, best, attempts, last_seen, passed_at"
    rows = connection.execute(f"SELECT {columns} FROM exercises").fetchall()
    if not all(best in range(len(OUTCOMES)) for _, _, best, *_ in rows):
        raise sqlite3.DatabaseError("it holds an unknown outcome")
    return rows


def _check_whole(path: Path) -> None:
    with _connection(path) as connection:
        if _version(connection):
            _rows(connection)
        elif connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
            raise sqlite3.DatabaseError("it holds the tables of another program")
        if (verdict := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(verdict)


def _memory(rows: list[tuple]) -> sqlite3.Connection:
    """A database in memory with the same table, so that pending records are merged by the same statement."""
    connection = sqlite3.connect(":memory:")
    connection.execute(_CREATE)
    connection.executemany("INSERT INTO exercises VALUES (?, ?, ?, ?, ?, ?)", rows)
    return connection


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether the file's content is at fault: not a database, torn pages, or a table that is not ours."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:                                        # raised by the checks above
        return isinstance(error, sqlite3.DatabaseError)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _still_damaged(path: Path) -> bool:
    try:
        if path.exists():
            _check_whole(path)
    except sqlite3.Error as error:
        return _is_damage(error)
    return False


@contextmanager
def _lock(path: Path):
    """Holds back other processes: on every platform SQLite's own lock dies with its holder."""
    with _connection(path.with_suffix(".lock")) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        yield
