"""Checkpoints: what is saved comes back; what is damaged, hostile or of another network is refused in words."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import hostile
import kills
import pytest
import safetensors.torch
import torch
from torch import nn

from segviz import checkpoint, models, runs
from segviz.checkpoint import file as files

pytestmark = pytest.mark.usefixtures("one_thread")
SHIPPED = sorted((Path(__file__).parents[1] / "data" / "checkpoints").glob("*.safetensors"))
POSIX = pytest.mark.skipif(os.name == "nt", reason="a matter of POSIX")


def tensors_of_all_kinds() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 4, generator=generator)
    some = {str(kind): (8 * torch.rand(5, generator=generator)).to(kind) for kind in files.TYPES}
    return some | {
        "scalar": torch.tensor(3.5), "empty": torch.empty(0, 3), "whole": whole, "a view of whole": whole[2:4],
        "turned": whole.T, "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "special": torch.tensor([float("nan"), float("inf"), -0.0]), "a.name with ü and \"": torch.ones(1),
    }


def small_fcn(num_classes: int = 3, seed: int = 0, kind: type = models.FCN8s) -> nn.Module:
    torch.manual_seed(seed)
    network = kind(num_classes, width=1, padding=1)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.eval()


def save_network(path: Path, network: nn.Module, **more) -> None:
    weights = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    checkpoint.save(path, weights, checkpoint.describe(network) | more)


@pytest.fixture
def path(tmp_path) -> Path:
    """A sound file, small enough to damage it everywhere."""
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, {"model.weight": torch.arange(3.0), "seen": torch.tensor([True, False])}, {"step": 7})
    return path


# -- the file


def test_what_is_saved_comes_back(tmp_path):
    tensors, config = tensors_of_all_kinds(), {"loss": [0.1, 1 / 3], "notes": {"name": "é \" \n"}, "none": None}
    checkpoint.save(tmp_path / "a", tensors, config)
    found = checkpoint.read(tmp_path / "a")
    assert found.config == config and found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_other_programs_read_it(tmp_path):
    tensors = tensors_of_all_kinds()
    checkpoint.save(tmp_path / "a", tensors, {})
    found = safetensors.torch.load_file(tmp_path / "a")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_what_was_read_is_not_the_file(path):
    """Its tensors may be changed, and the file too."""
    found = checkpoint.read(path)
    found.tensors["model.weight"] += 1
    assert checkpoint.read(path).tensors["model.weight"].tolist() == [0, 1, 2]
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert found.tensors["model.weight"].tolist() == [1, 2, 3]


def test_the_same_content_is_the_same_file(tmp_path):
    tensors = tensors_of_all_kinds()
    checkpoint.save(tmp_path / "a", tensors, {"step": 1})
    checkpoint.save(tmp_path / "b", dict(reversed(tensors.items())), {"step": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_parts(tmp_path):
    checkpoint.save(tmp_path / "a", {"model.a.b": torch.ones(1), "models.c": torch.ones(1)}, {})
    assert list(checkpoint.read(tmp_path / "a").part("model")) == ["a.b"]


@pytest.mark.parametrize(("tensors", "config", "words"), [
    ({"a": torch.zeros(2, dtype=torch.complex128)}, {}, "'a' is torch.complex128"),
    ({"a": torch.eye(2).to_sparse()}, {}, "'a' is torch.float32, torch.sparse"),
    ({"a": 3.0}, {}, "'a' is float"),
    ({"__metadata__": torch.ones(1)}, {}, "__metadata__"),
    ({}, {"a": torch.ones(1)}, "what JSON can say"),
    ({}, {"a": "long" * (5 << 20)}, "at most 16777216 bytes"),
])
def test_what_cannot_be_saved_is_refused_before_anything_is_written(path, tensors, config, words):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        checkpoint.save(path, tensors, config)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("bits", [(0,), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=["one", "all others"])
def test_a_flipped_bit_in_any_byte_is_refused(tmp_path, bits):
    counts = hostile.flips(tmp_path, bits)
    assert counts["flips"] > 200 and counts["accepted"] == 0


def test_every_length_but_its_own_is_refused(path):
    sound = path.read_bytes()
    for length in range(len(sound)):
        path.write_bytes(sound[:length])
        with pytest.raises(ValueError, match=r"cut short|empty|not a safetensors file"):
            checkpoint.read(path)
    path.write_bytes(sound + b"\0")
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.read(path)


@pytest.mark.parametrize(("change", "words"), [
    ((b'"segviz":"1"', b'"segviz":"2"'), "format '2', and this segviz reads format 1"),
    ((b'"digest"', b'"DIGEST"'), "not a checkpoint of segviz"),
    ((rb'\"step\": 7', rb'\"step\": 8'), "is damaged"),
    ((b'"model.weight"', b'"model.height"'), "is damaged"),
    ((b'"shape":[2]', b'"shape":[ 2'.replace(b"[ 2", b"[02")), "damaged"),
])
def test_a_changed_header_is_refused(path, change, words):
    sound = path.read_bytes()
    assert change[0] in sound
    path.write_bytes(sound.replace(*change))
    with pytest.raises(ValueError, match=words):
        checkpoint.read(path)


def test_safetensors_of_others_are_named(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"not a checkpoint of segviz.*checkpoint\.fill"):
        checkpoint.read(tmp_path / "a.safetensors")


# -- writing


def child(code: str, *arguments, **options) -> subprocess.CompletedProcess:
    lines = "import sys, os, torch\nfrom pathlib import Path\nfrom segviz import checkpoint\n"
    command = [sys.executable, "-c", lines + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(path, monkeypatch, where, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(os, where, fails)
    with pytest.raises(type(error)) as seen:
        checkpoint.save(path, {"model.a": torch.ones(1000), "model.b": torch.ones(1000)}, {"step": 8})
    monkeypatch.undo()
    if isinstance(error, OSError):
        said = str(seen.value)
        assert str(path) in said and "No space left" in said and "MB are free in" in said and "unchanged" in said
    assert checkpoint.read(path).config == {"step": 7} and os.listdir(path.parent) == [path.name]


@POSIX
def test_a_real_limit_of_size_is_said_in_words(path):
    limited = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(sys.argv[1], {"model.a": torch.ones(1_000_000)}, {})
except OSError as error:
    print(error)
"""
    seen = child(limited, path)
    assert "was not written: File too large" in seen.stdout and "It needs 4.0 MB" in seen.stdout, seen.stderr
    assert checkpoint.read(path).config == {"step": 7} and os.listdir(path.parent) == [path.name]


def small_disk(code: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """Runs code on a real disk of 1 MB at sys.argv[1], which nobody else sees."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare: a small disk cannot be made here")
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=1m none '{tmp_path}'"
    if subprocess.run([*own, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    lines = "import sys, os, subprocess, torch\nfrom segviz import checkpoint\nfolder = sys.argv[1]\n" + code
    return subprocess.run([*own, "sh", "-c", f'{mount} && exec "$0" -c "$1" "$2"', sys.executable, lines, tmp_path],
                          capture_output=True, text=True, timeout=120)


@POSIX
def test_a_full_disk_loses_nothing(tmp_path):
    seen = small_disk("""
path = folder + "/last.safetensors"
checkpoint.save(path, {"model.a": torch.ones(150_000)}, {"step": 1})
try:
    checkpoint.save(path, {"model.a": torch.ones(150_000)}, {"step": 2})
except OSError as error:
    print(error)
print(checkpoint.read(path).config, os.listdir(folder))
""", tmp_path)
    said, kept = seen.stdout.splitlines()
    assert "last.safetensors was not written: No space left on device. It needs 0.6 MB; 0.4 MB are free" in said
    assert kept == "{'step': 1} ['last.safetensors']"


@POSIX
def test_a_read_only_folder_is_said_in_words(tmp_path):
    seen = small_disk("""
checkpoint.save(folder + "/last.safetensors", {}, {"step": 1})
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
try:
    checkpoint.save(folder + "/last.safetensors", {}, {})
except OSError as error:
    print(error)
try:
    with checkpoint.claim(folder):
        pass
except OSError as error:
    print(error)
print(checkpoint.read(folder + "/last.safetensors").config)
""", tmp_path)
    save, claim, kept = seen.stdout.splitlines()
    assert "last.safetensors was not written: Read-only file system" in save
    assert "no run can write into" in claim and "Choose another folder" in claim and kept == "{'step': 1}"


@POSIX
@pytest.mark.skipif(os.name != "nt" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_leave_to_write(path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(OSError, match="was not written: Permission denied"):
            checkpoint.save(path, {}, {})
    finally:
        path.parent.chmod(0o700)


def test_a_missing_folder_and_a_folder_in_the_way(tmp_path):
    with pytest.raises(OSError, match="run/a was not written: No such file or directory"):
        checkpoint.save(tmp_path / "run" / "a", {}, {})
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="b was not written: Is a directory"):
        checkpoint.save(tmp_path / "b", {}, {})
    (tmp_path / "c").touch()
    with pytest.raises(OSError, match="Not a directory"):
        checkpoint.save(tmp_path / "c" / "d", {}, {})


@POSIX
def test_a_link_stays_a_link_and_the_mode_is_the_usual(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "last").symlink_to(tmp_path / "large disk" / "file")
    before = os.umask(0o027)
    try:
        for step in (1, 2):
            checkpoint.save(tmp_path / "last", {}, {"step": step})
    finally:
        os.umask(before)
    assert (tmp_path / "last").is_symlink() and checkpoint.read(tmp_path / "large disk" / "file").config == {"step": 2}
    assert (tmp_path / "last").stat().st_mode & 0o777 == 0o640


def test_who_reads_while_another_saves_gets_one_file_or_the_other(tmp_path):
    path, seen = tmp_path / "a", set()

    def save_until_seen() -> None:
        number = 0
        while len(seen) < 20:
            number += 1
            checkpoint.save(path, {"model.a": torch.full((1 + number % 3, 50), number)}, {"number": number})

    checkpoint.save(path, {"model.a": torch.full((1, 50), 0)}, {"number": 0})
    saving = threading.Thread(target=save_until_seen)
    saving.start()
    while saving.is_alive():
        found = checkpoint.read(path)
        assert (found.tensors["model.a"] == found.config["number"]).all()
        seen.add(found.config["number"])
    saving.join()
    assert len(seen) >= 20


@POSIX
@pytest.mark.slow
def test_killed_processes_leave_whole_files_and_lose_no_save(tmp_path):
    counts = kills.killed(tmp_path, 10)
    assert counts["during"] > 0 and counts["saves"] > 10
    assert (counts["unreadable"], counts["lost"], counts["left over"]) == (0, 0, 0)


@POSIX
@pytest.mark.slow
def test_the_killing_finds_what_is_saved_in_place(tmp_path):
    assert kills.killed(tmp_path, 10, in_place=True)["unreadable"] > 0


# -- hostile files


@POSIX
@pytest.mark.slow
def test_hostile_files_run_nothing_and_are_refused(tmp_path):
    rows = hostile.tried(tmp_path)
    assert len(rows) > 50
    for row in rows:
        assert not row["ran"], row
        assert row["said"] and row["file"] in row["said"] and len(row["said"]) < 1000, row


@pytest.mark.parametrize("name", ["torch.save.pt", "legacy.pth", "pickle-2.safetensors"])
def test_the_hostile_code_would_run_elsewhere(tmp_path, name):
    hostile.pickles(tmp_path)
    if name.startswith("pickle"):
        pickle.loads((tmp_path / name).read_bytes())
    else:
        torch.load(tmp_path / name, weights_only=False)
    assert (tmp_path / hostile.RAN).exists()


def test_what_is_said_names_the_next_step(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    for name, words in (("a.pt", "is a pickle, not a safetensors file"), ("", "a folder: name the file in it"),
                        ("none", "there is no checkpoint")):
        with pytest.raises((ValueError, OSError), match=words):
            checkpoint.read(tmp_path / name)


# -- networks


@pytest.mark.parametrize("name", models.__all__)
def test_each_model_is_built_again_from_its_description(tmp_path, name):
    torch.manual_seed(0)
    network = getattr(models, name)(3, width=1).eval()
    save_network(tmp_path / "a", network)
    state = torch.random.get_rng_state()
    again = checkpoint.load(tmp_path / "a")
    assert torch.equal(state, torch.random.get_rng_state())
    assert type(again) is type(network) and not again.training
    assert checkpoint.describe(again) == checkpoint.describe(network) and again.num_classes == 3
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again(images), network(images), rtol=0, atol=0)


def test_arguments_that_are_tuples_come_back():
    network = models.DeconvNet(2, width=1, size=32, unpooling=("switches", "corner", "shuffled", "corner", "bilinear"))
    config = json.loads(json.dumps(checkpoint.describe(network)))
    assert checkpoint.build(config).unpooling == network.unpooling


def test_a_network_of_your_own_is_filled_not_built(tmp_path):
    class FCN8s(nn.Conv2d):     # called as one of ours
        pass

    for network in (nn.Conv2d(3, 2, 1), FCN8s(3, 2, 1)):
        assert checkpoint.describe(network) == {"model": None}
        save_network(tmp_path / "a", network)
        with pytest.raises(ValueError, match=r"does not say which model it is.*checkpoint\.fill"):
            checkpoint.load(tmp_path / "a")
        other = nn.Conv2d(3, 2, 1)
        checkpoint.fill(other, checkpoint.read(tmp_path / "a").part("model"))
        assert torch.equal(other.weight, network.weight)


class Wrapped(nn.Module):
    def __init__(self, **inside: nn.Module):
        super().__init__()
        for name, network in inside.items():
            self.add_module(name, network)


@pytest.mark.parametrize("wrap", [
    lambda network: Wrapped(module=network),
    lambda network: Wrapped(_orig_mod=network),
    lambda network: Wrapped(module=Wrapped(_orig_mod=network)),
    lambda network: Wrapped(_orig_mod=Wrapped(module=network)),
    torch.compile,
], ids=["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "torch.compile"])
def test_the_prefix_of_a_wrapped_network_is_left_out(tmp_path, wrap):
    network = small_fcn()
    save_network(tmp_path / "a", wrap(network))
    again = checkpoint.load(tmp_path / "a")
    assert torch.equal(again.fc6[0].weight, network.fc6[0].weight)
    other = small_fcn(seed=1)
    checkpoint.fill(wrap(other), network.state_dict())
    assert torch.equal(other.fc6[0].weight, network.fc6[0].weight)


def changed(**changes) -> dict[str, torch.Tensor]:
    return small_fcn().state_dict() | changes


@pytest.mark.parametrize(("weights", "words"), [
    (small_fcn(21).state_dict(), r"score\.weight is \(21, 64, 1, 1\).*trained for 21 classes.*this network has 3.*"
                                 r"num_classes=21"),
    (small_fcn(kind=models.FCN32s).state_dict(), r"it also needs 'skip_scores\.0\.weight'"),
    (changed(extra=torch.ones(1)), "it has no 'extra'"),
    (changed(**{"fc7.0.bias": torch.full((64,), float("nan"))}), r"fc7\.0\.bias has 64 weights that are NaN or Inf"),
    (changed(**{"fc7.0.bias": torch.full((64,), 1e300, dtype=torch.float64)}), "too large for torch.float32"),
    (changed(**{"score.bias": torch.ones(3, dtype=torch.long)}), r"score\.bias is torch\.int64 in the checkpoint"),
    (changed(**{"upsamplings.2.weight": torch.ones(3, 3, 4, 4)}), r"1 layers differ"),
    ({"module." + name: value for name, value in changed().items()} | {"other": torch.ones(1)}, "it also needs"),
    ({}, "it also needs"),
])
def test_weights_of_another_network_change_nothing(weights, words):
    network = small_fcn(seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        checkpoint.fill(network, weights)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_half_the_precision_is_cast(tmp_path):
    network = small_fcn().half()
    save_network(tmp_path / "a", network)
    again = checkpoint.load(tmp_path / "a")
    assert again.score.weight.dtype == torch.float32 and torch.equal(again.score.weight, network.score.weight.float())


# -- claims


def test_a_folder_belongs_to_one_run(tmp_path):
    folder = tmp_path / "new" / "run"
    with checkpoint.claim(folder):
        with pytest.raises(ValueError, match=rf"another run is at work in .*run \(process {os.getpid()} on ") as seen:
            with checkpoint.claim(folder):
                pass
        assert "another folder" in str(seen.value)
    with checkpoint.claim(folder):
        pass
    with pytest.raises(RuntimeError, match="in the run"):
        with checkpoint.claim(folder):
            raise RuntimeError("in the run")
    with checkpoint.claim(folder):
        pass


def test_a_lock_file_that_was_left_behind_is_in_nobodys_way(tmp_path):
    (tmp_path / "run.lock").write_text("process 1 on elsewhere\n")      # which lives, but is no run
    (tmp_path / ".last.safetensors.12-34567890.tmp").write_bytes(b"half a file")
    (tmp_path / "last.safetensors").write_bytes(b"a file")
    with checkpoint.claim(tmp_path):
        assert (tmp_path / "run.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert sorted(os.listdir(tmp_path)) == ["last.safetensors", "run.lock"]


HOLD = """
import time
with checkpoint.claim(sys.argv[1]):
    if len(sys.argv) > 2 and os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    print("claimed", flush=True)
    time.sleep(60)
"""


@POSIX
@pytest.mark.parametrize("worker", [False, True])
def test_the_claim_of_a_killed_process_ends_with_it(tmp_path, worker):
    """Even while its data loader's workers still live: they may take seconds to see that it is gone."""
    lines = "import sys, os\nfrom segviz import checkpoint\n" + HOLD
    with subprocess.Popen([sys.executable, "-c", lines, str(tmp_path), *["worker"] * worker], stdout=subprocess.PIPE,
                          text=True) as process:
        said = [process.stdout.readline().strip() for _ in range(1 + worker)]
        try:
            with pytest.raises(ValueError, match=f"process {process.pid} on "):
                with checkpoint.claim(tmp_path):
                    pass
        finally:
            process.kill()
            process.wait()
        with checkpoint.claim(tmp_path):
            pass
        for line in said:
            if line.isdigit():
                os.kill(int(line), signal.SIGKILL)


@POSIX
def test_without_locks_there_is_no_claim_and_no_error(tmp_path, monkeypatch):
    import fcntl

    def knows_none(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", knows_none)
    with checkpoint.claim(tmp_path), checkpoint.claim(tmp_path):
        pass


# -- the files of the course


def test_the_course_s_own_files_are_small_and_say_what_they_are():
    assert SHIPPED and sum(path.stat().st_size for path in SHIPPED) < 20e6
    for path in SHIPPED:
        config = checkpoint.read(path).config
        assert config["model"] in models.__all__ and config["trained"]["steps"] > 1000
        assert config["data"].keys() == set(runs.SETTINGS) - {"binary"} and 0.3 < config["score"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_recorded_score_is_reproduced(path):
    assert runs.evaluate(path, {}, "cpu").reproduced is True
