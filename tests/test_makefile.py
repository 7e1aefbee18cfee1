"""The Makefile on a copy with nothing to install: which Python it takes, and what its stamps promise."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make") or os.name == "nt", reason="make is not here")


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "a clone"              # paths with spaces work
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("requirements.txt", "requirements-test.txt", "constraints.txt", "pyproject.toml"):
        (folder / name).write_text("")
    return folder


def make(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=clone, capture_output=True, text=True, timeout=300,
                          env=outer | environment)


def test_plain_make_lists_the_commands(clone):
    seen = make(clone)
    assert seen.returncode == 0
    for target in ("learn", "test", "quick", "solved", "clean"):
        assert f"make {target}" in seen.stdout
    assert not (clone / ".venv").exists()


def programs(folder: Path, body: str) -> str:
    """A folder in which every name of Python is `body`, and beside it only what a shell needs."""
    folder.mkdir()
    for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3", "python"):
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    for name in ("sh", "make", "touch", "echo"):
        (folder / name).symlink_to(shutil.which(name))
    return str(folder)


@pytest.mark.parametrize("body", ["exit 1", "exit 127"], ids=["too old", "empty shim"])
def test_a_python_too_old_is_said_in_words(clone, body):
    seen = make(clone, "learn", PATH=programs(clone / "bin", body))
    assert seen.returncode == 2
    assert "needs Python 3.11 or newer" in seen.stderr and "make learn PYTHON=" in seen.stderr
    assert not (clone / ".venv").exists()
    seen = make(clone, "test", f"PYTHON={clone / 'bin' / 'python3'}")
    assert seen.returncode == 2 and "is not one" in seen.stderr


@pytest.mark.slow
def test_an_interrupted_install_is_taken_up_again(clone):
    python = f"PYTHON={sys.executable}"
    (clone / "requirements.txt").write_text("./no-such-package\n")
    assert make(clone, ".venv/installed", python).returncode == 2
    assert not (clone / ".venv" / "installed").exists()
    (clone / "requirements.txt").write_text("")
    seen = make(clone, ".venv/installed", python)
    assert seen.returncode == 0, seen.stderr
    assert "pip install" in seen.stdout and "Making .venv" not in seen.stdout
    assert "up to date" in make(clone, ".venv/installed", python).stdout
    os.utime(clone / "requirements.txt", (2e9, 2e9))
    seen = make(clone, "-n", ".venv/installed", "LOCKED=1")
    assert "-c constraints.txt -r requirements.txt" in seen.stdout
    assert make(clone, "clean").returncode == 0
    assert not (clone / ".venv").exists()
