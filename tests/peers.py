"""Processes that train together on one machine, and what becomes of the others when one is lost.

    python tests/peers.py cases FOLDER [--only "killed in a step,..."]      each case in processes of its own
    python tests/peers.py agree FOLDER                                      one, two and three processes: the same?
    python tests/peers.py train FOLDER                                      one process, as torchrun starts it

A process that comes to a place that FOLDER/wait names (step, scoring, saving) says so in FOLDER/reached{rank} and stays
there for as long as that file does: so it can be killed in the midst of it. Each case is then taken up, and compared
with a run that nothing has happened to, bit for bit. Prints one JSON object a case.

The processes of a case are forked from this one, with RANK and WORLD_SIZE set as a person may set them: there is no
torchrun that ends the others. All that differs is what happens to them.
"""

import argparse
import itertools
import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import resumes
import torch
from torch.utils.data import TensorDataset

from segviz import checkpoint, training
from segviz.training import processes

LONG = 300  # seconds for what takes a few, on a machine that does much else
PLACES = ("step", "scoring", "saving")
CASES = {  # what happens in which place: (the place, how many processes, the one it happens to, the signal)
    **{f"rank {rank} killed in {place}": (place, 2, rank, signal.SIGKILL) for rank in (0, 1) for place in PLACES},
    "one of three killed": ("step", 3, 2, signal.SIGKILL),
    "the first of three killed": ("scoring", 3, 0, signal.SIGKILL),
    "SIGTERM to one in a step": ("step", 2, 1, signal.SIGTERM),
    "SIGTERM to one in scoring": ("scoring", 2, 1, signal.SIGTERM),
    "Ctrl-C to one in scoring": ("scoring", 2, 0, signal.SIGINT),
    "silent": ("step", 2, 1, signal.SIGSTOP),  # as a machine that is gone without a word
    "folders apart": ("scoring", 2, 0, signal.SIGTERM),  # no folder that both see
    "other settings": (None, 2, None, None),
    "a run in the way": (None, 2, None, None),
}


# -- what each process does


class Waits:
    """What a process does in a place: it says that it is there, and stays."""

    def __init__(self, folder: Path):
        self.folder, self.rank = folder, os.environ.get("RANK", "0")

    def __call__(self, place: str) -> None:
        wait = self.folder / "wait"
        if wait.exists() and place == wait.read_text():
            (self.folder / f"reached{self.rank}").write_text(str(os.getpid()))
            while wait.exists():
                time.sleep(0.02)


class Scored(TensorDataset):
    def __getitem__(self, index):
        self.waits("scoring")
        return super().__getitem__(index)


def train(folder: Path, run: Path | None = None, steps: int = 8, **options) -> int:
    """A run in folder/run, or goes on with it; with batch norm and dropout, AdamW and augmentation. The exit status."""
    waits, run, model = Waits(folder), run or folder / "run", resumes.network()
    torch.set_num_threads(1)
    begun, sync = run / resumes.LAST, os.fsync

    def slow_sync(handle: int) -> None:  # between writing a file and giving it its name
        if begun.exists():
            waits("saving")
        sync(handle)

    def slow_step(*_, steps=itertools.count(1)) -> None:  # noqa: B008
        if model.training and next(steps) == 4:
            waits("step")

    os.fsync = slow_sync
    model.register_forward_hook(slow_step)
    val = Scored(*(part[:7] for part in resumes.scenes().tensors))
    val.waits = waits
    history = resumes.trained(run, steps, model=model, val=val, val_every=3, save_every=2, **options)
    return 130 if history.interrupted else 0


# -- several of them


@contextmanager
def forked(folder: Path, world: int, jobs):
    """The process ids of `world` processes that each do jobs[rank]; those that are left at the end are killed. What
    rank 1 says on its errors lies in folder/said1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids = []
    try:
        for rank in range(world):
            if (pid := os.fork()) == 0:
                _work(folder, world, rank, port, jobs[rank])
            pids.append(pid)
        yield pids
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # it has ended


def _work(folder: Path, world: int, rank: int, port: int, job) -> None:
    """The life of a forked process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    handle = os.open(folder / f"said{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    status = 1
    try:
        status = job()
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        traceback.print_exception(error, limit=1)
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(pids: list[int]) -> list[int]:
    """How each ended: its status, or minus the number of the signal."""
    found, until = {}, time.monotonic() + LONG
    while len(found) < len(pids):
        assert time.monotonic() < until, f"of {pids} only {found} ended"
        for pid in set(pids) - set(found):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                found[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return [found[pid] for pid in pids]


def reached(folder: Path, ranks) -> list[int]:
    """The ids of these processes, once all of them wait in the place."""
    until, files = time.monotonic() + LONG, [folder / f"reached{rank}" for rank in ranks]
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < until, f"not there: {[file.name for file in files if not file.exists()]}"
        time.sleep(0.02)
    return [int(file.read_text()) for file in files]


def together(folder: Path, world: int, job) -> list[int]:
    """Processes that all do the same, undisturbed."""
    with forked(folder, world, [job] * world) as pids:
        return ended(pids)


def case(folder: Path, name: str) -> dict:
    """What was said and how each process ended; at which step the run was kept, and whether it then goes on exactly."""
    folder.mkdir(parents=True)
    place, world, victim, number = CASES[name]
    if place is None:
        return {"case": name} | wrong(folder, name)
    jobs = [lambda: train(folder) for _ in range(world)]
    if name == "folders apart":
        jobs[1] = lambda: train(folder, folder / "elsewhere")
    if name == "silent":
        processes.PATIENCE = timedelta(seconds=20)
    (folder / "wait").write_text(place)
    with forked(folder, world, jobs) as pids:
        reached(folder, [0] if place == "saving" else range(world))
        start = time.monotonic()
        os.kill(pids[victim], number)
        (folder / "wait").unlink()
        others = [pid for pid in pids if pid != pids[victim]]
        status = ended(others if number == signal.SIGSTOP else pids)
        seconds = time.monotonic() - start
    processes.PATIENCE = timedelta(minutes=30)
    said = [(folder / f"said{rank}").read_text() for rank in range(world)]
    step = checkpoint.read(folder / "run" / resumes.LAST).config["step"]
    with forked(folder, world, jobs) as pids:
        again = ended(pids)
    whole = folder.parent / f"whole{world}"
    if not whole.exists():
        whole.mkdir()
        assert together(whole, world, lambda: train(whole)) == [0] * world, (whole / "said0").read_text()
    return {
        "case": name, "status": status, "said": said, "step": step, "seconds": round(seconds, 1), "again": again,
        "exact": resumes.digest(folder / "run") == resumes.digest(whole / "run"),
        "elsewhere": (folder / "elsewhere").exists(),
    }  # fmt: skip


def agree(folder: Path) -> dict:
    """What one, two and three processes find, each in words of its own: that of rank 0 of one comes first."""
    found = []
    for world in (1, 2, 3):
        (folder / f"world{world}").mkdir(parents=True)
        here = folder / f"world{world}"
        assert together(here, world, lambda here=here: compared(here)) == [0] * world, (here / "said0").read_text()
        found += [json.loads((here / f"found{rank}").read_text()) for rank in range(world)]
    return {"found": found}


def compared(folder: Path) -> int:
    """Scores of data that processes cannot share evenly, and short trainings without batch norm and dropout."""
    torch.set_num_threads(1)
    scenes, model = resumes.scenes(), resumes.network(plain=True)
    sizes = [(image[:, : 20 - 2 * (i % 3)], label[: 20 - 2 * (i % 3)]) for i, (image, label) in enumerate(scenes)][:11]
    found = {"scores": [training.evaluate(model, data, batch_size=3, show=False).as_json()
                        for data in (sizes, list(scenes)[:1], list(scenes)[:7])]}  # fmt: skip
    for name, items, batch_size in (("uneven parts", 22, 7), ("fewer images than a batch", 5, 16)):
        model, val = resumes.network(plain=True), sizes
        history = training.fit(model, list(scenes)[:items], val, steps=6, batch_size=batch_size, lr=0.01, show=False)
        weights = torch.cat([weight.flatten() for weight in model.parameters()]).tolist()
        found[name] = {"loss": history.loss, "weights": weights, "scores": history.val[0][1].as_json()}
    (folder / f"found{os.environ['RANK']}").write_text(json.dumps(found))
    return 0


def wrong(folder: Path, name: str) -> dict:
    """What processes say that cannot train together."""
    if name == "a run in the way":
        (folder / "first").mkdir()
        assert together(folder / "first", 2, lambda: train(folder / "first", folder / "run", steps=2)) == [0, 0]
        jobs = [lambda: train(folder)] * 2
    else:
        jobs = [lambda: train(folder), lambda: train(folder, lr=0.02)]
    with forked(folder, 2, jobs) as pids:
        status = ended(pids)
    return {"status": status, "said": [(folder / f"said{rank}").read_text() for rank in range(2)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("cases", "agree", "train"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default=",".join(CASES), help="names of cases, commas between")
    given = parser.parse_args()
    if given.what == "train":
        sys.exit(train(given.folder))
    if given.what == "agree":
        return print(json.dumps(agree(given.folder)))
    for name in given.only.split(","):
        print(json.dumps(case(given.folder / name.replace(" ", "_"), name)), flush=True)


if __name__ == "__main__":
    main()
