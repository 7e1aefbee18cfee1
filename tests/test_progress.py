"""The progress store under everything that happens to files: two writers, kills, damage, no space."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segviz.exercises import progress
from segviz.exercises.progress import Progress

# A writer of its own process. The file is loaded by path, so that no start waits for torch.
WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("progress", sys.argv[1])
progress = importlib.util.module_from_spec(spec)
sys.modules["progress"] = progress
spec.loader.exec_module(progress)
store = progress.Progress(sys.argv[2])
print("ready", flush=True)
for number in range(int(sys.argv[4])):
    store.record("00", sys.argv[3], "wrong")
    print(number, flush=True)
print(store.notice, file=sys.stderr)
"""


def writer(path: Path, exercise: str, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, progress.__file__, str(path), exercise, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "home" / "progress.sqlite"


def test_a_record_is_read_back_by_another_store(path):
    Progress(path).record("02", "window", "passed")
    row = Progress(path).outcomes()["02", "window"]
    assert (row.outcome, row.attempts) == ("passed", 1)
    assert row.passed_at == row.last_seen


def test_best_outcome_stays_and_attempts_count(path):
    store = Progress(path)
    expected = [("not attempted", "not attempted", 0), ("raised", "raised", 1), ("wrong", "wrong", 2),
                ("raised", "wrong", 3), ("passed", "passed", 4), ("wrong", "passed", 5),
                ("not attempted", "passed", 5)]
    for outcome, best, attempts in expected:
        store.record("01", "iou", outcome)
        row = store.outcomes()["01", "iou"]
        assert (row.outcome, row.attempts) == (best, attempts)
    assert row.passed_at is not None
    assert store.notice == ""


def test_first_pass_keeps_its_time(path):
    store = Progress(path)
    store.record("01", "iou", "passed")
    first = store.outcomes()["01", "iou"].passed_at
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE exercises SET passed_at = '2001-01-01T00:00:00+00:00'")
    connection.close()
    store.record("01", "iou", "passed")
    assert store.outcomes()["01", "iou"].passed_at == "2001-01-01T00:00:00+00:00" != first


def test_unknown_outcome_is_refused(path):
    with pytest.raises(ValueError, match="one of not attempted, raised, wrong, passed"):
        Progress(path).record("01", "iou", "nearly")


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGVIZ_HOME", str(tmp_path / "mine"))
    assert Progress().path == tmp_path / "mine" / "progress.sqlite"
    monkeypatch.delenv("SEGVIZ_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert progress.home().name == "segviz"


def test_looking_creates_nothing(path):
    assert Progress(path).outcomes() == {}
    assert not path.parent.exists()


def test_two_writers_lose_nothing(path):
    writers = [writer(path, "shared", 40), writer(path, "shared", 40)]
    for process in writers:
        _, words = process.communicate(timeout=120)
        assert words.strip() == ""
    assert Progress(path).outcomes()["00", "shared"].attempts == 80


def kill_writers(path: Path, kills: int) -> None:
    """Every record that was reported as done is there; at most the one under way is there besides."""
    moment, stored = random.Random(0), 0
    for _ in range(kills):
        process = writer(path, "killed", 10**6)
        assert process.stdout.readline() == "ready\n"
        told = [process.stdout.readline() for _ in range(moment.randrange(1, 4))]
        time.sleep(moment.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        done = stored + len(told) + output.count("\n")
        row = Progress(path).outcomes().get(("00", "killed"))
        stored = row.attempts if row else 0
        assert done <= stored <= done + 1
    assert stored > kills          # the kills did come in the middle of work
    store = Progress(path)
    assert store.notice == ""
    assert not list(path.parent.glob("*corrupt*"))


def test_killed_writers_lose_nothing(path):
    kill_writers(path, 10)


@pytest.mark.slow
def test_two_hundred_kills(path):
    kill_writers(path, 200)


@pytest.mark.parametrize("content", [b"no database at all" * 99, b"SQLite format 3\0" + bytes(2000), b"{}"])
def test_a_corrupt_file_is_kept_and_a_new_one_started(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    store = Progress(path)
    kept, = path.parent.glob("progress-corrupt-*.sqlite")
    assert kept.read_bytes() == content
    assert kept.name in store.notice and "new one is started" in store.notice
    assert store.take_notice() == store.notice and store.take_notice() == ""
    store.record("00", "first", "passed")
    assert Progress(path).outcomes()["00", "first"].outcome == "passed"


def test_torn_page_is_found(path):
    store = Progress(path)
    for number in range(200):
        store._pending.append({"lesson": "00", "exercise": f"number {number}", "best": 3, "now": "2026"})
    store.record("00", "last", "passed")
    content = bytearray(path.read_bytes())
    content[len(content) // 2:] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    store.record("00", "after", "passed")                  # damage that appears while a kernel is at work
    store = Progress(path)
    kept, = path.parent.glob("progress-corrupt-*.sqlite")
    assert kept.read_bytes()[:16] == b"SQLite format 3\0"
    store.record("00", "again", "passed")
    assert ("00", "again") in Progress(path).outcomes()


def test_foreign_tables_and_outcomes_are_no_progress(path):
    path.parent.mkdir()
    for statement in ("CREATE TABLE exercises (a)", "PRAGMA user_version = 1"):
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()
        store = Progress(path)
        assert "could not be read" in store.notice
        store.record("00", "a", "wrong")
        assert Progress(path).outcomes()["00", "a"].attempts == 1
        path.unlink()


def test_damage_met_by_two_kernels_moves_one_file(path):
    path.parent.mkdir()
    path.write_bytes(b"damaged" * 500)
    writers = [writer(path, "a", 5), writer(path, "b", 5)]
    for process in writers:
        process.communicate(timeout=60)
    attempts = {key: row.attempts for key, row in Progress(path).outcomes().items()}
    assert attempts == {("00", "a"): 5, ("00", "b"): 5}
    assert len(list(path.parent.glob("progress-corrupt-*.sqlite"))) == 1


def test_a_newer_file_is_never_written(path):
    Progress(path).record("00", "old", "passed")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {progress.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    store = Progress(path)
    store.record("00", "new", "wrong")
    assert path.read_bytes() == before
    assert "newer version" in store.notice and "update segviz" in store.notice
    assert Progress(path).outcomes()["00", "new"].attempts == 1     # kept beside it, for the next session too
    assert len(list(path.parent.glob("*.sqlite"))) == 2


def test_an_unwritable_place_keeps_the_session(tmp_path):
    (tmp_path / "file").write_text("in the way")           # below a file not even root may write
    store = Progress(tmp_path / "file" / "progress.sqlite")
    store.record("00", "a", "wrong")
    store.record("00", "a", "passed")
    row = store.outcomes()["00", "a"]
    assert (row.outcome, row.attempts) == ("passed", 2)
    assert "cannot be saved" in store.notice and "SEGVIZ_HOME" in store.notice
    assert store.take_notice() and not store.take_notice()
    store.record("00", "a", "passed")
    assert store.take_notice() == ""                       # the same words only once
    (tmp_path / "file").unlink()
    store.record("00", "b", "wrong")                       # now there is room: nothing of the session is lost
    assert store.notice == ""
    assert Progress(store.path).outcomes()["00", "a"].attempts == 3


def test_a_store_held_by_another_program(path, monkeypatch):
    monkeypatch.setattr(progress, "BUSY_SECONDS", 0.05)
    store = Progress(path)
    store.record("00", "a", "wrong")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    store.record("00", "b", "passed")
    assert "Another program holds it" in store.notice
    assert store.outcomes()["00", "b"].outcome == "passed"
    holder.close()
    assert set(store.outcomes()) == {("00", "a"), ("00", "b")} == set(Progress(path).outcomes())
    assert store.notice == ""


FULL_DISK = """
import json, resource, runpy, sys
progress = runpy.run_path(sys.argv[1])
store = progress["Progress"](sys.argv[2])
store.record("00", "before", "passed")
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))      # from here, every write fails
store.record("00", "during", "passed")
told, seen = store.notice, sorted(store.outcomes())
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert json.dumps(sorted(progress["Progress"](sys.argv[2]).outcomes())) == '[["00", "before"]]'
store.record("00", "after", "passed")
print(json.dumps([told, seen, store.notice]))
"""


@pytest.mark.skipif(os.name == "nt", reason="a full disk is simulated by a POSIX limit on file sizes")
def test_a_full_disk(path):
    run = subprocess.run([sys.executable, "-c", FULL_DISK, progress.__file__, str(path)], capture_output=True,
                         text=True, timeout=60, env=os.environ | {"PYTHONWARNINGS": "error"})
    assert run.returncode == 0, run.stderr
    told, seen, later = json.loads(run.stdout)
    assert "space on the disk" in told
    assert seen == [["00", "before"], ["00", "during"]]
    assert later == ""
    assert len(Progress(path).outcomes()) == 3


def test_an_interrupt_in_the_middle_leaves_the_store_whole(path, monkeypatch):
    store = Progress(path)
    store.record("00", "a", "wrong")
    real = progress._version

    def interrupted(connection):
        connection.execute("INSERT INTO exercises VALUES ('00', 'half', 3, 1, '', '')")
        raise KeyboardInterrupt

    monkeypatch.setattr(progress, "_version", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.record("00", "a", "passed")
    monkeypatch.setattr(progress, "_version", real)
    assert set(Progress(path).outcomes()) == {("00", "a")}
    store.record("00", "b", "passed")
    row = Progress(path).outcomes()["00", "a"]
    assert (row.outcome, row.attempts) == ("passed", 2)    # the interrupted record came with the next one
