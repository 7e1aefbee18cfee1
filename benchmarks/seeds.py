"""The comparisons of lessons 06 and 07 on several seeds: what one run of a lesson shows is not luck.

    python benchmarks/seeds.py [--seeds 0 1 2] [--only 06] [--steps 1800]

Networks, scenes and settings are those of the lessons' own cells; with --steps they train for so many. Writes
data/results/seeds.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
from pathlib import Path

import jupytext
import torch

from segviz import models
from segviz.data import toytown
from segviz.training import evaluate, fit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "seeds.json"
FEW = [toytown.CLASSES.index(name) for name in ("pole", "marking", "car", "boat")]
LESSONS = {  # words that mark the cells which define `network`, `settings`, `train`, `val`; what `network` is given
    "06": (("train, val =", "counts = torch.stack", "weights = full.sqrt()", "def network("),
           {"FCN-32s": models.FCN32s, "FCN-16s": models.FCN16s, "FCN-8s": models.FCN8s}),
    "07": (("train, val =", "modes = (", "def down(", "settings = {"),
           {"switches": "switches", "corner": "corner", "bilinear": "bilinear"}),
}


def definitions(number: str) -> dict:
    """What the marked cells of a lesson define."""
    marks, _ = LESSONS[number]
    lesson, = (ROOT / "lessons").glob(f"{number}_*.py")
    sources = [cell.source for cell in jupytext.read(lesson).cells if cell.cell_type == "code"]
    scope: dict = {}
    for source in sources:
        if source.startswith("from segviz.models import") or any(mark in source for mark in marks):
            exec(source, scope)
    return scope


def compared(number: str, seed: int, steps: int | None) -> dict[str, dict[str, float]]:
    """Each network of a lesson, trained by its settings from this seed, and its scores on the lesson's scenes."""
    scope, found = definitions(number), {}
    settings = scope["settings"] | ({"steps": steps} if steps else {})
    for name, what in LESSONS[number][1].items():
        network = scope["network"](what, seed)
        fit(network, scope["train"], **settings, seed=seed, title=f"{name}, seed {seed}")
        scores = evaluate(network, scope["val"])
        found[name] = {"mean_iou": scores.mean_iou, "boundary_iou": scores.boundary_iou,
                       "thin_and_small": scores.class_iou[FEW].mean().item()}
        print(f"lesson {number} seed {seed} {name:<10}", *(f"{key} {value:.3f}" for key, value in found[name].items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", choices=LESSONS, nargs="+", default=list(LESSONS))
    parser.add_argument("--steps", type=int, help="default: the lesson's own")
    given = parser.parse_args()
    found = {}
    for number in given.only:
        name = f"{number}, {given.steps} steps" if given.steps else number
        found[name] = {str(seed): compared(number, seed, given.steps) for seed in given.seeds}
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"lessons": {}}      # what ran meanwhile stays
    for name, scores in found.items():
        kept["lessons"][name] = dict(sorted((kept["lessons"].get(name, {}) | scores).items()))
    kept |= {"date": datetime.date.today().isoformat(), "python": platform.python_version(),
             "torch": importlib.metadata.version("torch").split("+")[0], "threads": torch.get_num_threads()}
    RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
    print(f"Written to {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
