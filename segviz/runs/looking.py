"""What `segviz look` does: says and shows what a data set holds, before anything is trained on it."""

from pathlib import Path

from segviz.data.survey import Survey, contact_sheet, survey
from segviz.runs.pictures import palette, save
from segviz.runs.sets import data_set, splits


def look(data: str, split: str | None = None, out: Path | None = None, say=print, **which) -> list[Survey]:
    """Says what the splits of a data set hold (None: all that are there), and leaves a sheet of the first as the PNG
    `out`. which: as `sets.data_set` takes it. Raises ValueError and OSError in words."""
    if out is not None and out.suffix.lower() != ".png":
        raise ValueError(f"the sheet is a PNG, but got --out {out}")
    names = [split] if split else splits(data) or ["train"]
    parts = {name: data_set(data, name, **which) for name in names}
    classes = next(iter(parts.values()))[1]
    found, words = looked({name: items for name, (items, _) in parts.items()}, classes)
    say(words)
    if out is not None:
        sheet(parts[names[0]][0], found[0], out)
        say(f"{out}: images of {names[0]} beside their masks")
    return found


def looked(parts: dict, classes) -> tuple[list[Survey], str]:
    """What each split holds, and all of it in words. An image that lies in two of them is noticed. classes: None: as
    many as the first split has labels."""
    seen: dict[bytes, str] = {}
    found: list[Survey] = []
    for items in parts.values():
        found.append(survey(items, classes or (found and found[0].classes) or None, seen))
    return found, "\n".join(f"{name}: {each}" for name, each in zip(parts, found, strict=True))


def sheet(items, found: Survey, path: Path) -> None:
    """A picture of some images beside their masks."""
    save(contact_sheet(items, found, palette(len(found.classes))), path)
