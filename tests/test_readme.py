"""The README is true: its pictures and links are there, its commands exist, its numbers are those of the results."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "data" / "results"


def test_links_and_pictures_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(targets) > 5
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z]+)\b", README)) - {"needs"}
    assert {"learn", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)] == []


def test_every_lesson_has_its_row_and_its_seconds():
    seconds = json.loads((RESULTS / "lessons.json").read_text())["lessons"]
    for lesson in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py")):
        row = next(line for line in README.splitlines() if f"lessons/{lesson.name}" in line)
        assert row.rstrip(" |").endswith(f"| {seconds[lesson.stem]['seconds']:.0f}")


def test_the_scoreboards_are_the_measured_ones():
    for lesson in json.loads((RESULTS / "lessons.json").read_text())["lessons"].values():
        for line in lesson["scoreboard"]:
            assert line in README


def test_the_speeds_are_the_measured_ones():
    explorers = json.loads((RESULTS / "explorers.json").read_text())["runs"]["Nagle off"]
    for name in ("scores", "sliding"):
        for where in ("kernel", "browser"):
            assert f"{explorers[name][where]['drawn_p95']} ms" in README


def test_the_promises_are_the_counted_ones():
    parts = json.loads((RESULTS / "reliability.json").read_text())["parts"]
    kills, resume, signals = parts["kills"], parts["resume"], parts["signals"]
    for words in (
        f"{kills['kills']} processes killed while they save: {kills['unreadable']} files unreadable, {kills['lost']}",
        f"{parts['kills in place']['unreadable']} of {parts['kills in place']['kills']} unreadable",
        f"{parts['hostile']['files']} hostile files: {parts['hostile']['ran']} ran, {parts['hostile']['accepted']}",
        f"{parts['flips']['flips']:,} bits of a file flipped: {parts['flips']['accepted']} accepted",
        f"{resume['exact']} of {resume['stops']} end", f"{signals['exact']} of {signals['signals']} |",
        f"at most {parts['processes']['loss']:.1e}",
    ):
        assert words in README


def test_real_and_large_pictures_are_the_measured_ones():
    nuclei = json.loads((RESULTS / "nuclei.json").read_text())["cpu"]
    cracks = json.loads((RESULTS / "real.json").read_text())["cracks"]["cpu"]
    tiles = json.loads((RESULTS / "tiles.json").read_text())
    crack, command = cracks["test"]["crack"], tiles["command"]["sizes"]["10000"]
    for words in (
        f"in {nuclei['seconds'] / 60:.0f} minutes a U-Net",
        f"IoU of {nuclei['test']['iou']:.3f}, in {nuclei['test']['images']}",
        f"coatings, {100 * crack['share of the pixels']:.2f} % of the pixels",
        f"in {cracks['minutes']:.0f} minutes `segviz train`",
        f"finds {100 * crack['recall']:.0f} % of their pixels, IoU {crack['IoU']:.3f}",
        f"4000 x 4000 pixels take {tiles['by tiles']['4000']['MiB above image and labels']} MiB",
        f"{command['MiB at the peak'] / 1024:.1f} GiB in all and {command['seconds']} s",
    ):
        assert words in " ".join(README.split())
