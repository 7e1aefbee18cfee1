"""`segviz doctor`: what this machine has for the course, and what to do where something is missing."""

import importlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segviz.exercises import progress

GOOD, NOTE, BAD = "good", "note", "bad"
_SIGNS = {GOOD: "✓", NOTE: "·", BAD: "✗"}
_WORDS = {GOOD: "fine", NOTE: "note", BAD: "to do"}


@dataclass(frozen=True)
class Finding:
    """One line: `state` is "good", "note" (worth knowing) or "bad"; `remedy` what to do."""

    state: str
    subject: str
    words: str
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """What `check` found, to be shown in a notebook or a terminal; `healthy`: no line is bad."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        return all(finding.state != BAD for finding in self.findings)

    @property
    def verdict(self) -> str:
        bad = sum(finding.state == BAD for finding in self.findings)
        plural = "s" * (bad > 1)
        return f"{bad} thing{plural} to put right before you start." if bad else "Ready: you can start."

    def __repr__(self) -> str:
        width = max(len(finding.subject) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{_SIGNS[finding.state]} {finding.subject:<{width}}  {finding.words}")
            if finding.remedy:
                lines.append(f"  {'':<{width}}  → {finding.remedy}")
        return "\n".join([*lines, "", self.verdict])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td title="{_WORDS[f.state]}"><b>{_SIGNS[f.state]}</b> {_WORDS[f.state]}</td>'
            f'<th style="text-align:left">{escape(f.subject)}</th><td style="text-align:left">'
            f"{escape(f.words)}{_arrow(f.remedy)}</td></tr>" for f in self.findings)
        return f'<table class="segviz-doctor">{rows}</table><p><b>{escape(self.verdict)}</b></p>'


def _arrow(remedy: str) -> str:
    return f"<br><b>→ {escape(remedy)}</b>" if remedy else ""


def check() -> Report:
    """Looks at everything. Never raises: a look that fails is itself a finding."""
    looks = {"Python": _python, "torch": _torch, "GPU": _gpu, "torchvision": _torchvision,
             "widgets": _widgets, "kernel": _kernel, "memory": _memory, "disk": _disk, "progress": _progress,
             "extras": _extras}
    return Report(tuple(_looked(subject, look) for subject, look in looks.items()))


def _looked(subject: str, look: Callable[[], tuple[str, ...]]) -> Finding:
    try:
        state, words, *remedy = look()
        return Finding(state, subject, words, *remedy)
    except ImportError as error:
        return Finding(BAD, subject, f"cannot be imported: {error}", _INSTALL)
    except Exception as error:
        return Finding(BAD, subject, f"the look at it failed: {type(error).__name__}: {error}", _INSTALL)


_INSTALL = "In the course's folder run `make learn`, or in its .venv `pip install -r requirements.txt`."


def _python() -> tuple[str, ...]:
    words = f"{platform.python_version()}, {sys.executable}"
    if sys.prefix == sys.base_prefix:
        return NOTE, f"{words}, outside a virtual environment", "`make learn` makes one for the course."
    return GOOD, words


def _torch() -> tuple[str, ...]:
    import torch

    return GOOD, f"{torch.__version__}, {torch.get_num_threads()} CPU threads, {_speed(torch)}"


def _speed(torch) -> str:
    """Sixteen 3x3 convolutions of the size that the lessons train, timed once they are warm."""
    layer, image = torch.nn.Conv2d(32, 32, 3, padding=1), torch.zeros(4, 32, 96, 96)
    with torch.inference_mode():
        layer(image)
        start = time.perf_counter()
        for _ in range(16):
            layer(image)
    seconds = time.perf_counter() - start
    return f"about {16 * 2 * 32 * 32 * 9 * 4 * 96 * 96 / seconds / 1e9:.0f} GFLOP/s in 3×3 convolutions"


def _gpu() -> tuple[str, ...]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        words = f"{name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, CUDA {torch.version.cuda}"
        return (GOOD, words) if free > 2 * 2**30 else (NOTE, words, "Close programs that hold its memory.")
    if torch.backends.mps.is_available():
        return GOOD, "Apple GPU (MPS)"
    none = "none: every lesson runs on the CPU, in 90 s or less on two cores"
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        cuda = torch.version.cuda
        build = f"torch is built for CUDA {cuda}" if cuda else "this torch is built without CUDA"
        return (NOTE, f"an NVIDIA driver is here, but torch cannot use it ({build}). Until then {none}",
                "Update the NVIDIA driver, or install the torch that fits it: pytorch.org says which.")
    return NOTE, none


def _torchvision() -> tuple[str, ...]:
    import torch
    import torchvision

    kept = torchvision.ops.nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([1.0, 0.5]), 0.5)
    if kept.tolist() != [0]:
        return BAD, f"{torchvision.__version__}, whose own operators give wrong answers", _INSTALL
    return GOOD, f"{torchvision.__version__}, its operators load"


def _widgets() -> tuple[str, ...]:
    names = ("jupyterlab", "ipywidgets", "jupyterlab_widgets", "anywidget")
    found = {name: _version(name) for name in names}
    if missing := [name for name, number in found.items() if not number]:
        return BAD, f"not installed: {', '.join(missing)}", _INSTALL
    importlib.import_module("anywidget")
    return GOOD, ", ".join(f"{name} {number}" for name, number in found.items())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def kernel_problem() -> str:
    """Why notebooks would not run in this very Python, and what to do; "" where they do."""
    python = Path(sys.executable)
    repair = f"Run: {python} -m pip install --force-reinstall ipykernel"
    try:
        importlib.import_module("ipykernel")
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError as error:
        return f"the Python kernel for notebooks is missing ({error}). {repair}"
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return f"Jupyter knows no kernel called python3. {repair}"
    except Exception as error:
        return f"the kernel called python3 cannot be read ({error}). {repair}"
    # Jupyter itself replaces a bare "python" by the Python that it runs in.
    if os.path.isabs(command) and Path(command).absolute() != python.absolute():
        return f"notebooks would run in {command}, which is not the course's Python, {python}. {repair}"
    return ""


def _kernel() -> tuple[str, ...]:
    if problem := kernel_problem():
        words, _, remedy = problem.partition(". Run: ")
        return BAD, words, f"Run: {remedy}"
    return GOOD, f"ipykernel {version('ipykernel')}, in this Python"


def _extras() -> tuple[str, ...]:
    """Packages that no lesson needs."""
    uses = {"onnx": "segviz export", "onnxscript": "segviz export", "onnxruntime": "segviz export",
            "tensorboard": "segviz train --tensorboard"}
    found = [f"{name} {number}" for name in uses if (number := _version(name))]
    words = f"{', '.join(found) or 'none'} (no lesson needs them)"
    missing = [name for name in uses if not _version(name)]
    if not missing:
        return GOOD, words
    wanted = dict.fromkeys(uses[name] for name in missing)
    return NOTE, words, f"For {' and '.join(wanted)}: pip install {' '.join(missing)}"


def _memory() -> tuple[str, ...]:
    import psutil

    memory = psutil.virtual_memory()
    words = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free"
    if memory.available < 2 * 2**30:
        return NOTE, words, "A lesson needs up to 2 GiB: close other programs, and shut down idle notebooks."
    return GOOD, words


def _disk() -> tuple[str, ...]:
    free = shutil.disk_usage(Path(__file__).resolve().parent).free / 2**30
    words = f"{free:.1f} GiB free beside the course"
    return (GOOD, words) if free > 1 else (BAD, words, "Free 1 GiB: your notebooks are written here.")


def _progress() -> tuple[str, ...]:
    """Whether the learner's data folder takes a file. It is not made by looking."""
    if notice := progress.Progress().notice:
        return NOTE, notice
    folder = existing = progress.home()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        return BAD, f"{folder} cannot be written", "Set SEGVIZ_HOME to a folder of yours."
    return GOOD, f"kept in {folder}"
