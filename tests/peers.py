"""Processes that train together, and what becomes of them when one is killed.

    python tests/peers.py FOLDER [--steps 12] [--every 2]       one of them, by torchrun or with RANK and WORLD_SIZE set

A process that comes to the place that FOLDER/wait names (step, scoring, saving) says so in FOLDER/reached{rank} and
waits there for as long as that file is: so that it can be killed in the midst of it.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import resumes
import torch
from torch.utils.data import TensorDataset

LONG = 240  # seconds for what takes a few, on a machine that does much else


@contextmanager
def started(*commands: list[str], **environment: str):
    """Processes with their errors in a pipe, one a command; whatever is left of them and of what they started is killed
    at the end: each is the first of a group of its own."""
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    alone |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    running = []
    try:
        for number, command in enumerate(commands):
            own = {name: value.format(number) for name, value in environment.items()}
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                            env=alone | own, start_new_session=True))  # fmt: skip
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
            process.communicate()


def torchrun(*arguments: str, world: int = 2) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), *arguments]


def ended(process: subprocess.Popen) -> tuple[int, str]:
    """Its status and what it said, once it is done."""
    said = process.communicate(timeout=LONG)[1]
    return process.returncode, said


def reached(folder: Path, ranks) -> list[int]:
    """The process ids of these ranks, once all of them wait in the place where they are to be killed."""
    until = time.monotonic() + LONG
    files = [folder / f"reached{rank}" for rank in ranks]
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < until, f"only {sorted(file.name for file in folder.iterdir())}"
        time.sleep(0.02)
    return [int(file.read_text()) for file in files]


class Waits:
    """What a process does in a place: it says that it is there, and waits."""

    def __init__(self, folder: Path):
        self.folder, self.rank = folder, os.environ.get("RANK", "0")

    def __call__(self, place: str) -> None:
        wait = self.folder / "wait"
        if wait.exists() and place in wait.read_text().split():
            (self.folder / f"reached{self.rank}").write_text(str(os.getpid()))
            while wait.exists():
                time.sleep(0.02)


class Scored(TensorDataset):
    def __getitem__(self, index):
        self.waits("scoring")
        return super().__getitem__(index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--every", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    waits, sync, run, model = Waits(given.folder), os.fsync, given.folder / "run", resumes.network()

    def slow_sync(handle: int) -> None:
        if (run / "last.safetensors").exists():
            waits("saving")
        sync(handle)

    def slow_step(*_) -> None:
        if model.training and (run / "last.safetensors").exists():
            waits("step")

    os.fsync = slow_sync
    model.register_forward_hook(slow_step)
    val = Scored(*(part[:7] for part in resumes.scenes().tensors))
    val.waits = waits
    resumes.trained(run, given.steps, model=model, val=val, val_every=3, save_every=given.every)


if __name__ == "__main__":
    main()
