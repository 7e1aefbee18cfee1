"""A process that saves checkpoints is killed at random moments: is the file always whole, and is no save lost?

    python tests/kills.py FOLDER [--kills 200] [--seed 0] [--in-place]

Each process claims the folder and saves in a loop, numbering the saves, and says each number once `save` has returned;
then SIGKILL: so many times, and further until one hit a save. A file that cannot be read is unreadable; one that holds
an older number than was said is a save lost.
`--in-place` is the control: torch.save to the file itself, as most programs do. Prints the counts as JSON.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from segviz import checkpoint

TENSORS, NUMBERS = 8, 1 << 16       # 2 MB, as a small network and its optimizer
LONGEST = 0.12                      # seconds from the first save to the kill, at most: a dozen saves


def killed(folder: Path, kills: int, seed: int = 0, in_place: bool = False, show: bool = False) -> dict:
    """The counts of a run in a process of its own: {"kills", "saves", "during", "unreadable", "lost"}, where "during"
    are the kills that hit a save before it was whole."""
    command = [sys.executable, __file__, str(folder), "--kills", str(kills), "--seed", str(seed)]
    seen = subprocess.run(command + ["--in-place"] * in_place, stdout=subprocess.PIPE, text=True,
                          stderr=None if show else subprocess.PIPE, timeout=120 + 5 * kills)
    assert seen.returncode == 0, seen.stderr
    return json.loads(seen.stdout)


def content(number: int) -> dict[str, torch.Tensor]:
    return {f"model.{i}": torch.full((NUMBERS,), number, dtype=torch.float32) for i in range(TENSORS)}


def save_for_ever(folder: Path, pipe: int, in_place: bool) -> None:
    """What is killed: numbers go on where the file has them."""
    path = folder / "last.safetensors"
    with nullcontext() if in_place else checkpoint.claim(folder):
        try:
            number = number_in(path, in_place)
        except Exception:       # only in place: begin again
            number = 0
        while True:
            number += 1
            if in_place:
                torch.save({"tensors": content(number), "number": number}, path)
            else:
                checkpoint.save(path, content(number), {"number": number})
            os.write(pipe, b"%d\n" % number)


def number_in(path: Path, in_place: bool) -> int:
    """The number in a file, all of it checked; 0 where there is no file yet."""
    if not path.exists():
        return 0
    if in_place:
        found = torch.load(path, weights_only=True)
        number, tensors = found["number"], found["tensors"]
    else:
        found = checkpoint.read(path)
        number, tensors = found.config["number"], found.tensors
    assert len(tensors) == TENSORS and all((tensor == number).all() for tensor in tensors.values())
    return number


def kill_one(folder: Path, seconds: float, in_place: bool) -> list[int]:
    """Starts a saving process, kills it `seconds` after its first save, and returns the numbers that it said."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reading)
        try:
            save_for_ever(folder, writing, in_place)
        finally:
            os._exit(1)         # an error, which the parent finds by what it said
    os.close(writing)
    with open(reading) as said:
        first = said.readline()
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        numbers = [int(line) for line in [first, *said] if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    if os.WTERMSIG(status) != signal.SIGKILL:
        raise RuntimeError(f"the saving process ended by itself, after {numbers}")
    return numbers


def missed_all(counts: dict, most: int) -> bool:
    """Whether to go on because no save was hit yet: a disk may be so fast that few kills do."""
    return counts["kills"] < most and not counts["during"] and not counts["unreadable"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-place", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    chance = random.Random(given.seed)
    path = given.folder / "last.safetensors"
    counts = {"kills": 0, "saves": 0, "during": 0, "unreadable": 0, "lost": 0}
    while counts["kills"] < given.kills or missed_all(counts, 20 * given.kills):
        counts["kills"] += 1
        said = kill_one(given.folder, chance.uniform(0, LONGEST), given.in_place)
        counts["saves"] += len(said)
        counts["during"] += any(given.folder.glob(".*.tmp"))
        try:
            counts["lost"] += number_in(path, given.in_place) < said[-1]
        except Exception:
            counts["unreadable"] += 1
        print(f"\r{counts['kills']} of {given.kills} kills", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    if not given.in_place:
        with checkpoint.claim(given.folder):
            pass
        counts["left over"] = len(list(given.folder.glob(".*.tmp")))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
