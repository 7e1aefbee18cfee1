"""The commands as a learner meets them: what they print, how they end, and JupyterLab really started."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec
from urllib.request import urlopen

import pytest
import torch
from jupyter_client.manager import AsyncKernelManager

from segviz import cli, course, doctor, launch
from segviz.course import CourseError
from segviz.exercises.progress import Progress

# The command on a course of its own: the folders are the only thing that is replaced.
COMMAND = """
import signal, sys
from pathlib import Path
from segviz import cli, course
signal.signal(signal.SIGINT, signal.default_int_handler)   # whoever started the tests may have Ctrl-C ignored
course.LESSONS, course.COPIES = Path(sys.argv[1]) / "lessons", Path(sys.argv[1]) / "my lessons"
course._exercise_module = lambda number: None
sys.argv = ["segviz", *sys.argv[2:]]
cli.main()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A small course in a folder of its own, and a learner's and Jupyter's folders that nobody else uses."""
    (tmp_path / "lessons").mkdir()
    for name in ("00_start", "01_next"):
        (tmp_path / "lessons" / f"{name}.py").write_text("# %%\n1 + 1\n")
    monkeypatch.setenv("SEGVIZ_HOME", str(tmp_path / "home"))
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def segviz(place: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", COMMAND, str(place), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_help_teaches(place):
    seen = segviz(place, "--help")
    assert seen.returncode == 0
    for word in ("learn", "doctor", "progress", "train", "evaluate", "predict", "export", "look", "--version"):
        assert word in seen.stdout
    assert "my_lessons" in segviz(place, "learn", "--help").stdout


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export", "look"])
def test_help_shows_how_a_command_is_typed(monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "argv", ["segviz", command, "--help"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr().out
    assert end.value.code == 0 and f"\n      segviz {command} " in shown


def test_lessons_are_laid_where_a_server_wants_them(place):
    seen = segviz(place, "lessons", str(place / "hub"))
    assert seen.returncode == 0 and "hub holds the lessons." in seen.stdout
    assert {path.name for path in (place / "hub").glob("*.ipynb")} == {"00_start.ipynb", "01_next.ipynb"}


def test_the_package_is_a_program(place):
    seen = subprocess.run([sys.executable, "-m", "segviz", "--version"], capture_output=True, text=True, timeout=120)
    assert (seen.returncode, seen.stdout) == (0, "segviz 0.1.0\n")


def test_version(place):
    seen = segviz(place, "--version")
    assert (seen.returncode, seen.stdout) == (0, "segviz 0.1.0\n")


@pytest.mark.parametrize("arguments", [("lern",), ("learn", "--port", "eighty"), ("learn", "--port", "0"),
                                       ("progress", "now"), ("evaluate",), ("evaluate", "run", "--size", "31"),
                                       ("evaluate", "run", "--length", "0")])
def test_wrong_usage(place, arguments):
    seen = segviz(place, *arguments)
    assert seen.returncode == 2
    assert "Error" in seen.stderr and "Traceback" not in seen.stderr


def test_expected_errors_are_words(place):
    seen = segviz(place, "learn", "--lesson", "7", "--no-browser")
    assert seen.returncode == 1
    assert "one of 00, 01; got '7'" in seen.stderr and "Traceback" not in seen.stderr
    for path in (place / "lessons").iterdir():
        path.unlink()
    seen = segviz(place, "progress")
    assert seen.returncode == 1 and "found none" in seen.stderr


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (CourseError("in words"), 1),
                                             (OSError("no space"), 1), (ImportError("no torch"), 1),
                                             (FloatingPointError("the loss is nan"), 1), (MemoryError("all taken"), 1),
                                             (torch.OutOfMemoryError("batch_size=4 may fit"), 1)])
def test_exit_codes(monkeypatch, capsys, error, code):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(sys, "argv", ["segviz", "progress"])
    monkeypatch.setattr(course, "standings", fails)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    assert (str(error) or "Stopped") in capsys.readouterr().err


@pytest.mark.parametrize(("error", "advice"), [
    (ModuleNotFoundError("No module named 'torch'", name="torch"), True), (ImportError("pip install onnx"), False)])
def test_a_missing_package_of_the_course_is_installed_with_all_others(monkeypatch, capsys, error, advice):
    def fails(*_):
        raise error

    monkeypatch.setattr(sys, "argv", ["segviz", "progress"])
    monkeypatch.setattr(course, "standings", fails)
    with pytest.raises(SystemExit):
        cli.main()
    assert ("make learn" in capsys.readouterr().err) == advice


def test_what_an_error_was_told_on_the_way_is_said_too(monkeypatch, capsys):
    def fails(*_):
        error = ValueError("images of one batch must have one size")
        error.add_note("in the batch of the items [3, 4]")
        raise error

    monkeypatch.setattr(sys, "argv", ["segviz", "progress"])
    monkeypatch.setattr(course, "standings", fails)
    with pytest.raises(SystemExit):
        cli.main()
    assert "one size; in the batch of the items [3, 4]" in capsys.readouterr().err


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["segviz", "progress"])
    monkeypatch.setattr(course, "standings", lambda store: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_progress_is_shown_lesson_by_lesson(place, monkeypatch, capsys):
    modules = {"00": SimpleNamespace(TITLE="Start", EXERCISES={
        "first": SimpleNamespace(title="First"), "second": SimpleNamespace(title="Second")})}
    monkeypatch.setattr(course, "_exercise_module", modules.get)
    monkeypatch.setattr(course, "LESSONS", place / "lessons")
    store = Progress()
    for outcome in ("wrong", "passed"):
        store.record("00", "first", outcome)
    cli.progress()
    shown = capsys.readouterr().out
    assert "00  Start: 1 of 2" in shown and "01  Next: no exercises" in shown
    assert "✓ First (passed, 2 checks)" in shown and "○ Second (not attempted)" in shown
    assert "1 of 2 exercises passed" in shown and "lesson 00" in shown


def test_progress_says_what_is_amiss(place):
    (place / "home").mkdir()
    (place / "home" / "progress.sqlite").write_bytes(b"damaged" * 300)
    seen = segviz(place, "progress")
    assert seen.returncode == 0
    assert "could not be read" in seen.stdout and "progress-corrupt-" in seen.stdout


# -- evaluate


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run, whose network's score on three scenes is recorded; `run.command(...)` is its exit code."""
    from segviz import checkpoint, models, training
    from segviz.data import Toytown

    torch.manual_seed(0)
    network = models.FCN8s(10, width=1, padding=1)
    torch.nn.init.normal_(network.score.weight)
    score = training.evaluate(network, Toytown("test", 48, 3, 1), device="cpu", show=False).mean_iou
    data = {"name": "toytown", "split": "test", "size": 48, "length": 3, "seed": 1}

    def save(name="last.safetensors", model=network, **config):
        path = tmp_path / "run" / name
        path.parent.mkdir(exist_ok=True)
        tensors = {f"model.{key}": tensor for key, tensor in model.state_dict().items()}
        checkpoint.save(path, tensors, checkpoint.describe(model) | {"score": score, "data": data} | config)

    def command(*arguments, file=""):
        monkeypatch.setattr(sys, "argv", ["segviz", "evaluate", str(tmp_path / "run" / file), *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    save()
    return SimpleNamespace(folder=tmp_path / "run", score=score, data=data, save=save, command=command)


def test_evaluate_scores_each_class_and_says_that_the_score_is_reproduced(run, capsys):
    for file in ("", "last.safetensors"):
        assert run.command(file=file) == 0
        shown = capsys.readouterr().out
        assert "FCN8s of " in shown and "toytown, split test, size 48, seed 1, 3 images" in shown
        assert f"mean IoU {run.score:.3f}" in shown and "boat " in shown and "pole " in shown
        assert f"records mean IoU {run.score:.3f} for these data: reproduced" in shown


def test_evaluate_takes_the_best_and_ends_with_1_where_its_score_is_not_reproduced(run, capsys):
    run.save("best.safetensors", score=run.score + 0.006)
    assert run.command() == 1
    shown = capsys.readouterr().out
    assert "best.safetensors" in shown and "NOT reproduced" in shown


def test_evaluate_compares_with_no_score_of_other_data(run, capsys):
    for arguments in (("--length", "2"), ("--size", "32"), ("--split", "val")):
        assert run.command(*arguments) == 0
        assert "but for other data" in capsys.readouterr().out
    assert run.command("--length", "3", "--data", "toytown") == 0
    assert "reproduced" in capsys.readouterr().out


@pytest.mark.parametrize(("config", "words"), [
    ({"data": None, "score": 0.5}, "without saying for which"),
    ({"data": None, "notes": {"data": {"split": "train"}}, "score": None}, "split train, size 96, 2 images"),
    ({"data": "toytown", "notes": ["odd"], "score": "high"}, "split val, size 96, 2 images"),
    ({"data": {"folder": "/", "split": "test"}, "score": None}, "records no score"),
])
def test_evaluate_where_little_is_recorded(run, capsys, config, words):
    run.save(**config)
    assert run.command("--length", "2") == 0
    assert words in capsys.readouterr().out


def test_evaluate_says_in_words_what_is_in_the_way(run, capsys):
    from segviz import models

    run.save("three.safetensors", model=models.FCN8s(3, width=1, padding=1))
    run.save("own.safetensors", model=torch.nn.Conv2d(3, 10, 1))
    run.save("size.safetensors", data={"name": "toytown", "size": "large"})
    sound = (run.folder / "last.safetensors").read_bytes()
    (run.folder / "short.safetensors").write_bytes(sound[:-1])
    (run.folder / "empty").mkdir()
    for arguments, file, words in [
        ((), "three.safetensors", "the model has 3 classes, but classes names 10"),
        ((), "own.safetensors", "does not say which model it is"),
        ((), "size.safetensors", "size must be an integer"),
        ((), "short.safetensors", "is damaged or cut short"),
        ((), "empty", "holds neither best.safetensors nor last.safetensors"),
        ((), "none", "there is no checkpoint"),
        (("--data", "mars"), "", "a data set is toytown, cells, voc, pets, or a folder, but got 'mars'"),
        (("--split", "all"), "", "split must be"),
        (("--device", "abacus"), "", "device is 'cpu', 'cuda' or 'mps', but got 'abacus'"),
    ]:
        assert run.command(*arguments, file=file) == 1
        assert words in capsys.readouterr().err


def test_evaluate_scores_the_images_of_a_folder_at_their_own_sizes(run, capsys, tmp_path):
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    for part, depth in (("images", (3,)), ("masks", ())):
        (tmp_path / "own" / "test" / part).mkdir(parents=True)
        for name, size in (("a", (40, 33)), ("b", (32, 50)), ("c", (40, 33))):
            values = draw.integers(0, 10 if part == "masks" else 256, (*size, *depth), dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / "own" / "test" / part / f"{name}.png")
    own = str(tmp_path / "own")
    assert run.command("--data", own) == 0
    shown = capsys.readouterr().out
    assert f"{own}, split test, 3 images" in shown and "class 9 " in shown and "but for other data" in shown
    score = float(re.search(r"mean IoU (\d\.\d+)", shown)[1])
    for recorded, code in ((score, 0), (score + 0.1, 1)):
        run.save(data={"name": own, "split": "test"}, score=recorded)
        assert run.command() == code
    assert run.command("--size", "96") == 1
    assert "at their own sizes" in capsys.readouterr().err


def test_evaluate_reads_a_folder_in_grey_for_a_network_that_reads_grey(run, capsys, tmp_path):
    from PIL import Image

    from segviz.models import UNet

    for part in ("images", "masks"):
        (tmp_path / "own" / "test" / part).mkdir(parents=True)
        Image.new("RGB" if part == "images" else "L", (40, 33)).save(tmp_path / "own" / "test" / part / "a.png")
    run.save(model=UNet(2, in_channels=1, width=1, depth=1))
    assert run.command("--data", str(tmp_path / "own")) == 0
    assert "1 images" in capsys.readouterr().out


# -- JupyterLab


class Running:
    """`segviz learn` in a process of its own, up to its address."""

    def __init__(self, place: Path, *arguments: str):
        self.log = place / "output.txt"
        command = [sys.executable, "-u", "-c", COMMAND, str(place), "learn", *arguments]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT,
                                            stdin=subprocess.DEVNULL, start_new_session=True)
        self.address = self._await()

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def _await(self) -> str:
        for _ in range(600):
            if found := re.search(r"http://\S+", self.output):
                try:
                    urlopen(found[0], timeout=30).close()
                    return found[0]
                except OSError:
                    pass
            assert self.process.poll() is None, self.output
            time.sleep(0.1)
        raise AssertionError(self.output)

    def stop(self, how: int = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=60)


@pytest.fixture
def learning(place):
    started = []

    def start(*arguments: str) -> Running:
        started.append(Running(place, *arguments))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop(signal.SIGKILL)


def status(address: str, path: str, token: bool = True) -> int:
    base, _, query = address.partition("?")
    host = base.split("/")[2]
    with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        connection.request("GET", f"{path}?{query}" if token else path)
        return connection.getresponse().status


@pytest.mark.slow
def test_learn_serves_the_copies_and_nothing_else(place, learning):
    running = learning("--no-browser")
    assert "/lab/tree/00_start.ipynb?token=" in running.address
    assert running.address.startswith("http://127.0.0.1:")
    assert status(running.address, "/api/contents/01_next.ipynb") == 200
    assert status(running.address, "/api/contents/01_next.ipynb", token=False) == 403
    assert status(running.address, "/api/contents/../lessons/00_start.py") == 404
    page = urlopen(running.address, timeout=30).read().decode()
    assert '"news": {"disabled": true}' in page
    settings = "/lab/api/settings/@jupyter-widgets/jupyterlab-manager:plugin"
    plugin = running.address.replace("/lab/tree/00_start.ipynb", settings)
    widgets = json.load(urlopen(plugin, timeout=30))
    assert widgets["schema"]["properties"]["saveState"]["default"] is True

    second = segviz(place, "learn", "--no-browser", "--lesson", "1")
    assert second.returncode == 0
    assert "already open" in second.stdout and "/lab/tree/01_next.ipynb?token=" in second.stdout

    assert running.stop() == 0
    assert "The course is closed. Your work is in" in running.output and "Traceback" not in running.output


@pytest.mark.parametrize("works", [True, False])
def test_small_messages_are_sent_at_once_where_the_server_allows_it(monkeypatch, works):
    channels = pytest.importorskip("jupyter_server.services.kernels.connection.channels")
    handler = create_autospec(channels.KernelWebsocketHandler, instance=True)
    handler.set_nodelay.side_effect = None if works else AttributeError("a server of tomorrow")
    monkeypatch.setattr(channels.ZMQChannelsWebsocketConnection, "connect", lambda self: "connected")
    connection = launch.NoDelayWebsocket(parent=AsyncKernelManager(), websocket_handler=handler)
    assert connection.connect() == "connected"
    handler.set_nodelay.assert_called_once_with(True)


@pytest.mark.slow
def test_a_busy_port_is_passed_over_in_words(place, learning):
    with socket.create_server(("127.0.0.1", 0)) as other:
        busy = other.getsockname()[1]
        running = learning("--no-browser", "--port", str(busy))
        assert f"Port {busy} is in use by another program" in running.output
        assert f":{busy}/" not in running.address
        assert running.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_without_a_browser_the_address_is_enough(learning):
    if sys.platform in ("win32", "darwin"):
        pytest.skip("there is always a browser here")
    running = learning()
    assert running.stop() == 0
    assert "copy the address" in running.output


def test_a_missing_kernel_is_said_in_words(place, monkeypatch):
    (place / "elsewhere" / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": ["/opt/other/bin/python", "-m", "ipykernel"], "display_name": "P", "language": "python"}
    (place / "elsewhere" / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    seen = segviz(place, "learn", "--no-browser", env=os.environ | {"JUPYTER_PATH": str(place / "elsewhere")})
    assert seen.returncode == 1
    assert "/opt/other/bin/python, which is not the course's Python" in seen.stderr
    assert "pip install" in seen.stderr

    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert "missing" in doctor.kernel_problem() and "pip install" in doctor.kernel_problem()


# -- doctor


def test_doctor_looks_at_everything(place):
    report = doctor.check()
    subjects = {finding.subject for finding in report.findings}
    assert subjects >= {"Python", "torch", "GPU", "widgets", "kernel", "disk", "extras"}
    assert report.healthy
    assert not list(place.glob("home*"))                   # looking leaves nothing behind
    assert "Ready: you can start." in repr(report) and "<table" in report._repr_html_()


def test_doctor_never_raises_and_says_what_to_do(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: 1 / 0)
    (place / "file").write_text("in the way")
    monkeypatch.setenv("SEGVIZ_HOME", str(place / "file" / "home"))
    monkeypatch.setattr(doctor, "_version", lambda package: None if package == "anywidget" else "1")
    report = doctor.check()
    bad = {finding.subject: finding for finding in report.findings if finding.state == "bad"}
    assert set(bad) >= {"torchvision", "disk", "progress", "widgets"}
    assert all(finding.remedy for finding in bad.values())
    assert not report.healthy and "to put right" in repr(report)
    assert "✗" in repr(report) and "to do" in report._repr_html_()     # not by colour alone


def test_doctor_escapes(place):
    finding = doctor.Finding("bad", "<b>", "<script>", "<i>")
    assert "<script>" not in doctor.Report((finding,))._repr_html_()
