"""Imports run one way: the rule of the design, and a test that this test can fail."""

import ast
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import segviz

PACKAGE = Path(segviz.__file__).parent

# What each part may import of segviz. Of the entries that a module lies in, the longest speaks for it.
GROUND = {"layers", "metrics", "losses", "instances", "receptive", "crf", "draw", "exercises.progress"}
MIDDLE = GROUND | {"data", "models", "training", "live"}
RULES = {
    "layers": {"layers"}, "receptive": {"receptive"},
    "metrics": set(), "losses": set(), "instances": set(), "crf": set(), "draw": set(),
    "exercises.progress": set(),
    "data": {"data", "draw"},
    "models": {"models", "layers"},
    "checkpoint": {"checkpoint", "models"},
    "live": {"draw"},
    "training": {"training", "metrics", "losses", "draw", "live", "checkpoint", "receptive"},
    "exercises": MIDDLE | {"exercises"},
    "widgets": MIDDLE | {"widgets"},
    "course": {"exercises.progress"},
    "copies": {"course"},
    "doctor": {"exercises.progress"},
    "launch": {"copies", "course", "doctor", "exercises.progress"},
    "runs": {"runs", "checkpoint", "training", "data", "models", "losses", "metrics", "draw", "exercises.progress"},
    "export": {"checkpoint", ""},
    "cli": {"checkpoint", "copies", "course", "data", "doctor", "export", "launch", "runs", "exercises.progress", ""},
    "__main__": {"cli"},
    "": set(),          # segviz/__init__.py; importing `segviz` itself is for the version only
}


def part(module: str) -> str:
    """The entry of RULES that speaks for a module, "data.toytown" -> "data"."""
    while module and module not in RULES:
        module = module.rpartition(".")[0]
    return module


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """The modules of segviz that a source imports, anywhere in it, as names below `segviz`."""
    package = f"segviz.{module}" if is_package else f"segviz.{module}".rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = resolve_name(relative, package) if node.level else node.module
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name[len("segviz."):] if "." in name else "" for name in names if name.split(".")[0] == "segviz"}


def offences(source: str, module: str, is_package: bool = False) -> list[str]:
    own = part(module)
    allowed = RULES[own]
    return [f"segviz.{module} imports segviz.{name}" for name in sorted(imported(source, module, is_package))
            if part(name) not in allowed]


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=[module or "segviz" for module, _ in modules()])
def test_imports_run_one_way(module, path):
    assert module == "" or part(module), f"segviz.{module} has no place in RULES: give it one"
    assert offences(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize(("module", "source"), [
    ("metrics", "from segviz.draw import PALETTE"),
    ("metrics", "from segviz import draw"),
    ("metrics", "import segviz.training"),
    ("metrics", "def late():\n    from . import draw"),
    ("data.toytown", "from ..models import FCN8s"),
    ("models.fcn", "from segviz.data.toytown import scene"),
    ("exercises.progress", "from segviz.exercises.engine import Result"),
    ("widgets.scores", "from segviz.exercises import lesson_02"),
    ("course", "from segviz import copies"),
    ("doctor", "import segviz.cli as cli"),
])
def test_the_rule_can_fail(module, source):
    assert len(offences(source, module)) == 1


@pytest.mark.parametrize(("module", "source"), [
    ("data.toytown", "from segviz.draw import PALETTE\nfrom segviz.data.toytown import sprites\nfrom . import paint"),
    ("models.fcn", "from ..layers import bilinear_kernel"),
    ("exercises.engine", "from segviz.exercises import progress\nimport torch"),
    ("cli", "from segviz import __version__, course"),
])
def test_the_rule_lets_through_what_it_should(module, source):
    assert offences(source, module) == []


def test_no_lesson_is_imported_by_segviz():
    for _, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        plain = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        names += [alias.name for node in plain for alias in node.names]
        assert not {name.split(".")[0] for name in names} & {"lessons", "my_lessons"}


def test_the_command_line_is_light(tmp_path):
    """Help answers at once: neither torch nor JupyterLab is loaded for it."""
    run = "import sys, segviz.cli; print({'torch', 'jupyterlab', 'jupytext', 'numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", run]
    seen = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert seen.stdout == "set()\n", seen.stderr
