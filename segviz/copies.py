"""The learner's copies of the lessons.

A lesson is `lessons/NN_topic.py`; the learner works in `my_lessons/NN_topic.ipynb`, made from it once and
never paired with it. Each copy carries, in its own metadata, the digest of the source it was made from and of
the cells as they were made, so that no separate record can disagree with it. When the source changes:

- where no cell was typed in, the copy is renewed. If it was run, it is first laid whole into
  `my_lessons/earlier/`: outputs are no edit, but they may be an hour of training;
- where one was, or the copy cannot be read, it is kept byte for byte, and the new lesson is laid beside it as
  `NN_topic (updated).ipynb`, a copy under the same rules.

A deleted copy is made again. Files are written under a temporary name and then renamed, so that a kill at any
moment leaves the old file or the new one.
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path

from segviz.course import COPIES, CourseError, Lesson, lessons


@dataclass(frozen=True)
class Change:
    """What `prepare` did: "made", "renewed" or "kept" (an edited copy, with the new lesson at `path`)."""

    kind: str
    lesson: Lesson
    path: Path
    earlier: Path | None = None

    @property
    def words(self) -> str:
        if self.kind == "kept":
            return (f"{self.lesson.name}: your copy is edited, so it is kept as it is. The lesson is new: "
                    f"the new one is “{self.path.name}”, beside yours.")
        if self.earlier:
            return f"{self.path.stem}: renewed. What you ran before is in “earlier/{self.earlier.name}”."
        return f"{self.path.stem}: {self.kind}."


def prepare(folder: Path | None = None, sources: Path | None = None) -> list[Change]:
    """Brings the copies in `folder` up to the lessons in `sources`; says what was done, lesson by lesson.

    Raises CourseError where `folder` cannot be written or there are no lessons.
    """
    folder = folder or COPIES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        return [change for lesson in lessons(sources) if (change := _bring_up(lesson, folder))]
    except OSError as error:
        raise CourseError(
            f"the lessons cannot be laid into {folder} ({error}): check that there is space on the disk and "
            "that you may write there; nothing of yours was changed") from error


def _sweep(folder: Path) -> None:
    """Removes what a kill left behind, an hour later: a younger file may be another start's."""
    for leftover in folder.glob(".segviz-*.tmp"):
        with suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 3600:
                leftover.unlink()


def _bring_up(lesson: Lesson, folder: Path) -> Change | None:
    digest = hashlib.sha256(_text(lesson).encode()).hexdigest()
    kind = "made"
    for path in _names(lesson, folder):
        if not path.exists():
            _create(path, notebook(lesson))
            return Change(kind, lesson, path)
        content = path.read_bytes()
        copy = _parsed(content)
        made = copy.get("metadata", {}).get("segviz", {})
        if made.get("source") == digest:
            return None
        if made.get("cells") == _typed(copy):
            return _renew(lesson, path, content)
        kind = "kept"
    return None


def _names(lesson: Lesson, folder: Path) -> Iterator[Path]:
    yield folder / f"{lesson.name}.ipynb"
    yield folder / f"{lesson.name} (updated).ipynb"
    yield from (folder / f"{lesson.name} (updated {number}).ipynb" for number in count(2))


def _renew(lesson: Lesson, path: Path, content: bytes) -> Change:
    earlier = None
    if any(cell.get("outputs") or cell.get("execution_count") for cell in _parsed(content)["cells"]):
        earlier = path.parent / "earlier" / f"{path.stem} {datetime.now():%Y-%m-%d %H.%M.%S.%f}.ipynb"
        earlier.parent.mkdir(exist_ok=True)
        _create(earlier, content)
    _replace(path, notebook(lesson), expected=content)
    return Change("renewed", lesson, path, earlier)


def notebook(lesson: Lesson) -> bytes:
    """The lesson as a notebook file: the same source gives the same bytes."""
    import jupytext  # here, because it takes half a second that most starts do not need

    text = _text(lesson)
    made = jupytext.reads(text, fmt="py:percent")
    for index, cell in enumerate(made.cells):
        cell["id"] = f"lesson-{lesson.number}-{index:03}"
    made.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
        "language_info": {"name": "python"},
        "segviz": {"source": hashlib.sha256(text.encode()).hexdigest(), "cells": _typed(made)},
    }
    return (json.dumps(made, indent=1, ensure_ascii=False) + "\n").encode()


def _text(lesson: Lesson) -> str:
    return lesson.source.read_text(encoding="utf-8")


def _parsed(content: bytes) -> dict:
    """The notebook; an empty one where it is damaged or not ours, which counts as edited."""
    try:
        copy = json.loads(content)
        _typed(copy)
        copy["metadata"]["segviz"].get("source")
        return copy
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _typed(copy: dict) -> str:
    """The digest of what a learner types: each cell's kind and text, not its output, number or identity."""
    typed = [[cell["cell_type"], "".join(cell["source"])] for cell in copy.get("cells", [])]
    return hashlib.sha256(json.dumps(typed).encode()).hexdigest()


def _create(path: Path, content: bytes) -> None:
    """Writes a new file, never over one that has appeared meanwhile."""
    temporary = _written(path, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:          # a file system without hard links
        if not path.exists():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _replace(path: Path, content: bytes, expected: bytes) -> None:
    """Renews a file, unless it was saved since it was read: then the next start looks at it again."""
    temporary = _written(path, content)
    try:
        if path.read_bytes() == expected:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _written(path: Path, content: bytes) -> Path:
    """A temporary file beside `path`, on the disk to its last byte."""
    handle, name = tempfile.mkstemp(prefix=".segviz-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)          # mkstemp's 0600 would surprise whoever shares the folder
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _sync(folder: Path) -> None:
    with suppress(OSError):            # Windows cannot open a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
