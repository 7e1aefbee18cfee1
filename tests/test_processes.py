"""Several processes train one network as one does; and where one is lost, the others say so, stop, and keep the run."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import peers
import pytest
import resumes
import torch
from torch import nn

from segviz import checkpoint, training
from segviz.training import loop, processes
from segviz.training.processes import Gone, Place
from segviz.training.signals import Signals

pytestmark = pytest.mark.usefixtures("one_thread")
PAIR = [Place(rank, 2, torch.device("cpu")) for rank in range(2)]
CLOSED = "[/gloo/transport/tcp/pair.cc:545] Read error [10.0.0.2]:32935: Connection reset by peer. This is typical."


# -- what is said, in one process


def test_the_silence_of_others_is_put_in_words():
    words = r"^rank 1 is gone, of 2 .* \(Read error .* reset by peer\)$"
    with pytest.raises(Gone, match=words) as found, PAIR[0].asking():
        raise RuntimeError(CLOSED)
    assert found.value.ranks == [1] and isinstance(found.value, OSError) and found.value.__suppress_context__
    with pytest.raises(Gone, match="rank 0 is gone"), PAIR[1].asking():
        raise torch.distributed.DistNetworkError("Broken pipe")


@pytest.mark.parametrize(("here", "error"), [
    (PAIR[0], RuntimeError("mat1 and mat2 shapes cannot be multiplied")), (PAIR[0], ValueError("gloo")),
    (Place(0, 1, torch.device("cpu")), RuntimeError(CLOSED)),
])
def test_other_errors_stay_what_they_are(here, error):
    with pytest.raises(type(error)) as found, here.asking():
        raise error
    assert found.value is error


def lost(monkeypatch, at: int, rank: int = 0, gone: int = 1) -> None:
    """This process believes that it is the `rank`-th of two, the other of which is gone from step `at` on."""
    real, steps = Place.summed, iter(range(1, 100))

    def summed(here, numbers):
        if next(steps) == at:
            raise Gone(f"rank {gone} is gone", [gone])
        return real(here, numbers)

    monkeypatch.setattr(Place, "summed", summed)


def test_a_run_that_lost_a_process_is_kept_and_goes_on_exactly(tmp_path, monkeypatch):
    resumes.trained(tmp_path / "whole", 8)
    with monkeypatch.context() as patched:
        lost(patched, at=6)
        kept = rf"The run is kept in {re.escape(str(tmp_path))}/run, as after step 5\."
        with pytest.raises(Gone, match=rf"^rank 1 is gone\. {kept} .*resume=True.*--resume"):
            resumes.trained(tmp_path / "run", 8, save_every=4)
    assert checkpoint.read(tmp_path / "run" / resumes.LAST).config["step"] == 5
    resumes.trained(tmp_path / "run", 8, seed=9)
    assert resumes.digest(tmp_path / "run") == resumes.digest(tmp_path / "whole")


def test_without_a_folder_nothing_is_kept_and_it_is_said(monkeypatch):
    lost(monkeypatch, at=2)
    with pytest.raises(Gone, match=r"Nothing of the run is kept: fit\(\.\.\., folder="):
        training.fit(resumes.network(), resumes.scenes(), steps=3, show=False)


@pytest.mark.parametrize(("gone", "shared", "words"), [
    (1, True, r"Rank 0 keeps the run in .*run\. Start all"),
    (0, True, "Rank 0 has kept the run in .*run, as after step 2"),
    (0, False, r"What rank 0 has kept of the run lies in .* on its machine"),
])
def test_those_that_do_not_write_say_where_the_run_is(gone, shared, words, tmp_path):
    from segviz.training.history import History
    from segviz.training.saving import Run
    if shared:
        resumes.trained(tmp_path / "run", 2)
    run = Run(tmp_path / "run", nn.Linear(1, 1), None, {}, None, Place(1, 3, torch.device("cpu")))
    assert re.match(words, run.left(History(loss=[1.0] * 5), [gone]))


def test_the_word_about_a_lost_process_comes_before_torchruns_sigterm():
    with pytest.raises(Gone, match="rank 1"), Signals(patient=True):
        signal.raise_signal(signal.SIGTERM)
        raise Gone("rank 1 is gone", [1])
    with pytest.raises(SystemExit), Signals(patient=True):
        signal.raise_signal(signal.SIGTERM)
        raise FloatingPointError


def test_scoring_stops_where_it_is_asked_to():
    asked = iter([False, True, True, pytest.fail])
    with pytest.raises(KeyboardInterrupt):
        training.evaluate(resumes.network(), resumes.scenes(), batch_size=4, stop=lambda: next(asked), show=False)
    assert next(asked) is pytest.fail           # two of six batches, and once more for all together
    scores = training.evaluate(resumes.network(), resumes.scenes(), stop=lambda: None, show=False)
    assert scores.counts.sum() == 22 * 20 * 18


def test_processes_with_other_settings_are_told_apart(monkeypatch):
    monkeypatch.setattr(Place, "gathered", lambda here, thing: [thing, thing | {"items": 21, "lr": 1.0}])
    with pytest.raises(ValueError, match=r"rank 1 trains .* than rank 0 \(items: 22 there, 21 here; lr: 0.1 there"):
        loop._check_alike(PAIR[0], {"items": 22, "lr": 0.1, "steps": 3})


def test_without_cuda_several_processes_take_the_cpu(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(processes, "_join", lambda backend: None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert processes.place() == (1, 2, torch.device("cpu"))


def test_more_processes_than_gpus_are_refused_in_words(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="process 3 of this machine finds 2: torchrun --nproc-per-node 2"):
        processes._own_gpu()


def test_processes_that_cannot_meet_say_where(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "JOIN", processes.timedelta(seconds=0.2))
    with pytest.raises(Gone, match=r"the processes cannot meet at 127\.0\.0\.1:1: rank 0 runs there"):
        processes.place("cpu")


def test_a_slow_process_is_waited_for_half_an_hour_also_by_nccl(monkeypatch):
    """By itself NCCL gives up after ten minutes: a large validation set may take one process longer."""
    joined = {}
    monkeypatch.setattr(processes, "rendezvous", lambda *_, **__: iter([(torch.distributed.HashStore(), 0, 1)]))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **how: joined.update({backend: how}))
    for name in ("_store", "_names"):
        monkeypatch.setattr(processes, name, None)
    processes._join("nccl")
    assert joined["nccl"]["timeout"].total_seconds() == 1800 and f"process {os.getpid()} on" in processes._names[0]


# -- what happens, in several


def told(what: str, folder) -> list[dict]:
    """What `peers` prints, a program of its own: one that has no threads may fork."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork")
    command = [sys.executable, peers.__file__, what, str(folder)]
    alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    seen = subprocess.run(command, capture_output=True, text=True, env=alone | {"OMP_NUM_THREADS": "1"},
                          timeout=peers.LONG * len(peers.CASES))  # fmt: skip
    assert seen.returncode == 0, seen.stderr
    return [json.loads(line) for line in seen.stdout.splitlines()]


@pytest.mark.slow
def test_two_and_three_processes_find_what_one_finds(tmp_path):
    """Without batch norm and dropout. Counts are whole numbers; losses and weights differ by the order of sums."""
    one, *others = told("agree", tmp_path)[0]["found"]
    assert len(others) == 5 and sum(map(sum, one["scores"][1]["counts"])) == 20 * 18
    for other in others:
        assert other["scores"] == one["scores"]
        for name in ("uneven parts", "fewer images than a batch"):
            torch.testing.assert_close(other[name]["loss"], one[name]["loss"], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(other[name]["weights"], one[name]["weights"], rtol=0, atol=1e-5)
            differ = (torch.tensor(other[name]["scores"]["counts"]) - torch.tensor(one[name]["scores"]["counts"])).abs()
            assert differ.sum() <= 4            # pixels between two labels, if any


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """What became of each of `peers.CASES`."""
    return {found["case"]: found for found in told("cases", tmp_path_factory.mktemp("cases"))}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in peers.CASES if "kill" in name])
def test_where_one_is_killed_the_others_say_so_and_the_run_goes_on_exactly(cases, name):
    found, (_, world, victim, _) = cases[name], peers.CASES[name]
    assert found["status"] == [-signal.SIGKILL if rank == victim else 1 for rank in range(world)]
    for rank in set(range(world)) - {victim}:
        said = found["said"][rank].splitlines()
        assert len(said) < 6, found["said"][rank]           # no wall: the error, and where it was raised
        assert re.search(rf"Gone: rank {victim} \(process \d+ on .*\) is gone, of {world} processes", said[-1])
        kept = "The run is kept" if rank == 0 else "Rank 0 has kept the run" if victim == 0 else "Rank 0 keeps the run"
        assert kept in said[-1] and "again with resume=True" in said[-1]
        assert f"as after step {found['step']}." in said[-1] or "keeps" in kept
    assert found["step"] in (2, 3) and found["again"] == [0] * world and found["exact"]


@pytest.mark.slow
def test_one_that_is_silent_is_not_waited_for_for_ever(cases):
    found = cases["silent"]
    assert found["status"] == [1] and "rank 1 (process" in found["said"][0] and "Timed out" in found["said"][0]
    assert found["again"] == [0, 0] and found["exact"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [
    ("SIGTERM to one in a step", 143), ("SIGTERM to one in scoring", 143), ("Ctrl-C to one in scoring", 130),
])
def test_a_signal_to_one_stops_all_at_the_same_step(cases, name, status):
    found = cases[name]
    assert found["status"] == [status] * 2 and found["said"] == ["", ""]
    assert found["again"] == [0, 0] and found["exact"]


@pytest.mark.slow
def test_the_first_alone_needs_the_folder(cases):
    found = cases["folders apart"]
    assert found["again"] == [0, 0] and found["exact"] and not found["elsewhere"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "words"), [
    ("other settings", "ValueError: rank 1 trains with other settings than rank 0 (lr: 0.01 there, 0.02 here)"),
    ("a run in the way", "was trained with other settings (steps: 2 there, 8 here)"),
])
def test_what_cannot_be_trained_is_said_by_all(cases, name, words):
    assert cases[name]["status"] == [1, 1] and all(words in said.splitlines()[-1] for said in cases[name]["said"])


@pytest.mark.slow
def test_under_torchrun_those_that_are_left_have_the_time_to_say_so(tmp_path):
    """It sends them SIGTERM when one has ended, and SIGKILL half a minute later."""
    (tmp_path / "wait").write_text("scoring")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", peers.__file__,
               "train", str(tmp_path)]  # fmt: skip
    workers, alone = [], os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=alone) as agent:
        try:
            workers = peers.reached(tmp_path, [0, 1])
            os.kill(workers[1], signal.SIGKILL)
            (tmp_path / "wait").unlink()
            said = agent.communicate(timeout=peers.LONG)[1]
        finally:
            if agent.poll() is None:
                for process in (*workers, agent.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
    assert agent.returncode == 1
    assert re.search(r"Gone: rank 1 \(process \d+ on .*\. The run is kept in .*run, as after step 3\.", said), said
    again = subprocess.run(command, capture_output=True, text=True, env=alone, timeout=peers.LONG)
    assert again.returncode == 0, again.stderr
    assert checkpoint.read(tmp_path / "run" / resumes.LAST).config["step"] == 8
