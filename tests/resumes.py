"""A run is stopped, by hand or by real signals, and taken up: does it end as if nothing had happened? And do two
processes that share each batch end as one that has it whole?

    python tests/resumes.py steps FOLDER [--count 40]       stop after every step of a run of so many
    python tests/resumes.py signals FOLDER [--count 50]     SIGTERM and SIGINT at random moments
    python tests/resumes.py processes FOLDER                two processes (Gloo) against one
    python tests/resumes.py stopped FOLDER                  SIGTERM to both

Everything that could differ is there: batch norm, dropout, AdamW, augmentation, shuffled epochs whose length no batch
divides. The end of a run is one hash over all weights, all of the optimizer and all losses. One thread, so that sums
are always added in the same order. Each prints its counts as JSON.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from segviz import checkpoint
from segviz.data.transforms import Augment
from segviz.training import fit

LAST = "last.safetensors"
SLOWLY = "slowly"  # a file in a run's folder: once there is something to take up, it waits to be stopped
AUGMENT = Augment(crop=16, scale=(0.7, 1.5), brightness=0.2, contrast=0.2)


def scenes(count: int = 22, size: int = 20) -> TensorDataset:
    """Images whose bright pixels are class 1, and a rim of void."""
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(count, 3, size, size, generator=generator)
    labels = (images.mean(1) > 0.5).long()
    labels[:, :2] = 255
    return TensorDataset(images, labels)


def network(seed: int = 0, plain: bool = False) -> nn.Module:
    """plain: without batch norm and dropout, which a process computes from its own part of a batch."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        between = [nn.ReLU()] if plain else [nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)]
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *between, nn.Conv2d(8, 2, 3, padding=1))


def trained(folder: Path, steps: int, seed: int = 0, model: nn.Module | None = None, **options):
    """The history of a run in `folder`, taken up where there is one."""
    model = network(seed) if model is None else model
    settings = {"batch_size": 4, "lr": 0.01, "augment": AUGMENT, "device": "cpu", "show": False} | options
    return fit(model, scenes(), steps=steps, folder=folder, resume=True, **settings)


def digest(folder: Path) -> str:
    """One hash over weights, optimizer and losses of the last checkpoint."""
    found, seen = checkpoint.read(folder / LAST), hashlib.sha256()
    for name in sorted(found.tensors):
        seen.update(name.encode() + found.tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    seen.update(json.dumps([found.config["step"], found.config["history"]["loss"]]).encode())
    return seen.hexdigest()


# -- stopped after every step


def resume_at_every_step(folder: Path, steps: int = 40, every: int = 1, **options) -> dict:
    """Stops a run of `steps` in the middle of the steps `every`, 2 `every` ..., and takes it up with other weights and
    another chance about: {"stops", "exact"}, how many there were and how many ended as the unbroken run."""
    trained(folder / "whole", steps, **options)
    whole, stops, exact = digest(folder / "whole"), range(every, steps, every), 0
    for stop in stops:
        run, model = folder / f"stop{stop}", network()

        def press(*_, calls=iter(range(1, steps + 1)), stop=stop) -> None:  # noqa: B008
            if next(calls) == stop:
                signal.raise_signal(signal.SIGINT)

        model.register_forward_hook(press)
        first = trained(run, steps, model=model, **options)
        assert first.interrupted and len(first.loss) == stop, "the signal was not held until the step was whole"
        torch.manual_seed(stop)
        second = trained(run, steps, seed=99, **options)
        exact += digest(run) == whole and len(second.loss) == steps and second.loss[:stop] == first.loss
    return {"stops": len(stops), "exact": exact}


# -- real signals, at random moments


def real_signals(folder: Path, count: int = 50, steps: int = 40, seed: int = 0) -> dict:
    """Processes that train are sent SIGTERM and SIGINT in turn, at random moments, until `count` were hit in the
    middle; each run is then taken up. {"signals", "status": how many ended with 143 and 130, "exact"}."""
    chance = random.Random(seed)
    trained(folder / "whole", steps)
    start = time.perf_counter()
    trained(folder / "timed", steps, save_every=1)
    seconds = time.perf_counter() - start
    found = {"signals": 0, "status": 0, "exact": 0}
    while found["signals"] < count:
        run, number = folder / f"run{time.monotonic_ns()}", (signal.SIGTERM, signal.SIGINT)[found["signals"] % 2]
        status = _signalled(run, steps, number, chance.uniform(0, 0.8 * seconds))
        if status == 0:  # it was done before the signal came
            continue
        trained(run, steps, seed=99, save_every=1)
        found["signals"] += 1
        found["status"] += status == 128 + number
        found["exact"] += digest(run) == digest(folder / "whole")
    return found


def _signalled(run: Path, steps: int, number: signal.Signals, delay: float) -> int:
    """The exit status of a process that trains and is sent a signal, `delay` seconds after it began to."""
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        model, status = network(), 1
        for each in (signal.SIGTERM, signal.SIGINT):  # what comes before or after `fit` listens: it was done
            signal.signal(each, lambda *_: os._exit(0))

        def say(*_) -> None:
            os.write(begun, b"!")
            hook.remove()

        hook = model.register_forward_hook(say)
        try:
            status = 130 if trained(run, steps, model=model, save_every=1).interrupted else 0
        except SystemExit as stop:
            status = stop.code
        finally:
            os._exit(status)
    os.close(begun)
    os.read(ready, 1)
    os.close(ready)
    time.sleep(delay)
    os.kill(child, number)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 1:
        raise RuntimeError(f"the process that trained in {run} failed by itself")
    return status


# -- two processes against one


def two_processes_against_one(folder: Path, steps: int = 12) -> dict:
    """The same run by one process and by two under torchrun: {"loss", "weights": greatest differences, "counts":
    whether all processes count the same pixels as the one}. Warnings are errors in them."""
    said, running = {}, {world: _sharing(folder / f"world{world}", steps, world) for world in (1, 2)}
    for world, shared in running.items():
        _, warned = shared.communicate(timeout=300)
        assert shared.returncode == 0, warned
        said[world] = [json.loads(path.read_text()) for path in sorted((folder / f"world{world}").glob("rank*.json"))]
    (one,), two = said[1], said[2]
    assert len(two) == 2
    ends = [checkpoint.read(folder / f"world{world}" / LAST).tensors for world in (1, 2)]
    return {
        "loss": max(abs(a - b) for part in two for a, b in zip(one["loss"], part["loss"], strict=True)),
        "weights": max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0]),
        "counts": all(part["counts"] == one["counts"] and part["best"] == one["best"] for part in two),
    }


def two_processes_stopped(folder: Path, steps: int = 100) -> dict:
    """torchrun is sent SIGTERM, and its run then taken up: {"step": where both stopped, "exact": whether it ends as one
    that was not stopped}."""
    whole = _sharing(folder / "whole", steps)  # at the same time
    slowly = folder / "run" / SLOWLY
    slowly.parent.mkdir()
    slowly.touch()
    run = _sharing(folder / "run", steps)
    while run.poll() is None and not (folder / "run" / LAST).exists():
        time.sleep(0.01)
    run.terminate()
    run.communicate(timeout=300)
    whole.communicate(timeout=300)
    slowly.unlink()
    step = checkpoint.read(folder / "run" / LAST).config["step"]
    _sharing(folder / "run", steps).communicate(timeout=300)
    return {"step": step, "exact": digest(folder / "run") == digest(folder / "whole")}


def _sharing(run: Path, steps: int, world: int = 2) -> subprocess.Popen:
    """Processes that train together in the folder `run`."""
    run.mkdir(parents=True, exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    command = [sys.executable, *torchrun, __file__, "share", str(run), "--count", str(steps)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=alone)


def share(folder: Path, steps: int) -> None:
    """What each process does: train, score a data set that they cannot share evenly, and say what it has."""
    warnings.simplefilter("error", UserWarning)
    model = network(plain=True)
    model.register_forward_hook(lambda *_: time.sleep(0.2 * ((folder / SLOWLY).exists() and (folder / LAST).exists())))
    val = TensorDataset(*(part[:7] for part in scenes().tensors))
    history = trained(folder, steps, model=model, val=val, val_every=5 if steps < 100 else None,
                      class_weights=torch.tensor([1.0, 3.0]), optimizer="sgd")  # fmt: skip
    said = {"loss": history.loss, "best": history.best(), "counts": [s.counts.tolist() for _, s in history.val]}
    (folder / f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(said))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("steps", "signals", "processes", "stopped", "share"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    if given.what == "share":
        return share(given.folder, given.count)
    functions = {"steps": resume_at_every_step, "signals": real_signals, "processes": two_processes_against_one,
                 "stopped": two_processes_stopped}
    counts = {} if given.count is None else {"steps" if given.what == "steps" else "count": given.count}
    print(json.dumps(functions[given.what](given.folder, **counts)))


if __name__ == "__main__":
    main()
