"""The comparisons of lessons 06 to 12 on several seeds: what one run of a lesson shows is not luck.

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

from segviz import losses, metrics, models
from segviz.data import toytown
from segviz.training import evaluate, fit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "seeds.json"
FEW = [toytown.CLASSES.index(name) for name in ("pole", "marking", "car", "boat")]
THIN = [toytown.CLASSES.index(name) for name in ("pole", "marking")]
WEIGHTED = {"pixel_weights": losses.border_weights}


def scored(scope: dict, number: str, what: tuple, seed: int, steps: int | None) -> dict[str, float]:
    """A lesson's `network` of these arguments, trained from this seed: its scores on the lesson's scenes."""
    return on_scenes(scope, number, scope["network"](*what, seed=seed), seed, steps)


def named(scope: dict, number: str, what: tuple[str, dict], seed: int, steps: int | None) -> dict[str, float]:
    """The same for a network of lesson 12, where several functions and classes make them."""
    make, options = what
    return on_scenes(scope, number, scope[make](**options, seed=seed), seed, steps)


def on_scenes(scope: dict, number: str, network, seed: int, steps: int | None) -> dict[str, float]:
    """Trains a network by its lesson's settings; its scores."""
    trained(network, scope["train"], scope["settings"], seed, steps, f"lesson {number}")
    scores = evaluate(network, scope["val"])
    return {"mean_iou": scores.mean_iou, "boundary_iou": scores.boundary_iou,
            "thin_and_small": scores.class_iou[FEW].mean().item()}


def trained(network, train, settings: dict, seed: int, steps: int | None, title) -> None:
    """Trains a network by a lesson's settings, or for so many steps."""
    fit(network, train, **settings | ({"steps": steps} if steps else {}), seed=seed, title=f"{title}, seed {seed}")


def counted(scope: dict, number: str, what: dict, seed: int, steps: int | None) -> dict[str, float]:
    """Lesson 08's network for cells, trained in one of its ways: what the lesson counts."""
    how = {name: value for name, value in what.items() if name != "few"} | ({"steps": steps} if steps else {})
    if "class_weights" in what:
        how["class_weights"] = scope[what["class_weights"]]
    if "few" in what:
        how |= {"data": scope["three"], "augment": ({"bent": scope["bend"]} | scope["ways"])[what["few"]]}
    return scope["counted"](scope["trained"](seed=seed, **how))


def answered(scope: dict, number: str, what: dict, seed: int, steps: int | None) -> dict[str, float]:
    """A PSPNet of lesson 09, trained on one of its three worlds: what the lesson asks of it."""
    world = number.partition(", ")[2]
    train, settings = {"": ("train", "settings"), "two meadows": ("doubles", "double_settings"),
                       "scenes": ("scenes", "town_settings")}[world]
    network = scope["network"](seed=seed, classes=10 if world == "scenes" else 4, **what)
    trained(network, scope[train], scope[settings], seed, steps, what)
    if world == "scenes":
        scores = evaluate(network, scope["val"])
        return {"mean_iou": scores.mean_iou, "boundary_iou": scores.boundary_iou}
    if world == "two meadows":
        return dict(zip(("two of a kind", "one of each"), *scope["doubles_right"](network, {"": network.bins}).values(),
                        strict=True))
    return {"far": scope["far_right"](network)}


def dilated(scope: dict, number: str, what: dict, seed: int, steps: int | None) -> dict[str, float]:
    """A network of lesson 10, trained in one of its worlds: what the lesson asks of it."""
    world = number.partition(", ")[2]
    train, settings = {"": ("pairs", "pair_settings"), "grain": ("small", "grid_settings"),
                       "stride": ("train", "settings"), "DeepLab": ("train", "lab_settings")}[world]
    torch.manual_seed(seed)
    make = {"": scope.get("stack"), "grain": scope.get("stack"), "stride": scope.get("Scorer"),
            "DeepLab": scope.get("deeplab_or_fcn")}[world]
    network = make(**what, **({} if world == "stride" else {"seed": seed}), **({} if world else {"classes": 4}))
    trained(network, scope[train], scope[settings], seed, steps, what)
    if not world:
        return {"far": scope["rightness"](network)[-1]}
    val = scope["small_val" if world == "grain" else "val"]
    scores = evaluate(network, val)
    found = {"mean_iou": scores.mean_iou, "boundary_iou": scores.boundary_iou}
    if world == "grain":
        with torch.no_grad():
            found["lonely"] = scope["lonely"](network.eval()(val.tensors()[0]).argmax(1)).float().mean().item()
    if world == "stride":
        for stride in (32, 8):
            other = scope["Scorer"](stride)
            other.load_state_dict(network.state_dict())
            found[f"mean_iou, run at {stride}"] = evaluate(other, val).mean_iou
    return found


def on_meadows(scope: dict, number: str, what: dict, seed: int, steps: int | None) -> dict[str, float]:
    """A network of lesson 12 on its meadows of three scales: the share of sprites' pixels that are right on each."""
    network = scope["Summed"](**what, seed=seed)
    trained(network, scope["meadows"], scope["meadow_settings"], seed, steps, what)
    return dict(zip(("small", "middle", "large"), scope["by_scale"](network), strict=True))


def mended(scope: dict, number: str, what: dict, seed: int, steps: int | None) -> dict[str, float]:
    """A network of lesson 11, trained from this seed: its scores on the lesson's scenes, with each CRF and without."""
    network, (images, masks) = scope["new_network"](**what, seed=seed), (scope["images"], scope["masks"])
    trained(network, scope["train"], scope["settings"], seed, steps, what)
    before, found = scope["believed"](network, images), {}
    ways = {name: scope["SETTINGS"][name] for name in ("DeepLab v2's", "no smoothness")}
    ways |= {"smoothness alone": {"bi_w": 0}, "another scene's picture": ways["no smoothness"]}
    refined = {name: scope["refined"](before, images.roll(1, 0) if "another" in name else images, **options)
               for name, options in ways.items()}
    for name, each in ({"network": before} | refined).items():
        labels = each.argmax(1)
        iou = metrics.class_iou(metrics.confusion_matrix(labels, masks, 10))
        found |= {f"mean_iou, {name}": iou.nanmean().item(), f"thin, {name}": iou[THIN].mean().item()}
        found |= {f"boundary_iou {width}, {name}": scope["along_outlines"](labels, masks, width) for width in (1, 2, 8)}
    return found


BRANCHES = {"3, 6, 12": (3, 6, 12)} | {f"{r}, {r}, {r}": (r, r, r) for r in (1, 3, 6, 12)}
LESSONS = {  # how it is measured; words that mark the cells which define what that needs; what it is given, by name
    "06": (scored, ("train, val =", "counts = torch.stack", "weights = full.sqrt()", "def network("),
           {"FCN-32s": (models.FCN32s,), "FCN-16s": (models.FCN16s,), "FCN-8s": (models.FCN8s,)}),
    "07": (scored, ("train, val =", "modes = (", "def down(", "settings = {"),
           {"switches": ("switches",), "corner": ("corner",), "bilinear": ("bilinear",)}),
    "08": (scored, ("train, val =", "settings = {"),
           {"concatenate, width 8": ("concatenate", 8), "add, width 9": ("add", 9), "add, width 8": ("add", 8),
            "concatenate, no norm": ("concatenate", 8, False), "no skips, width 9": ("nothing", 9)}),
    "08, cells": (counted, ("from segviz import draw", "from segviz import instances", "some, others =",
                            "looked, masks_of =", "evenly =", "bend =", "three ="),
                  {"plain loss": {}, "border weights": WEIGHTED, "background, evenly": {"class_weights": "evenly"},
                   "3, as they are": {"few": "as they are", **WEIGHTED}, "3, bent": {"few": "bent", **WEIGHTED},
                   "3, turned": {"few": "turned", **WEIGHTED},
                   "3, turned and bent": {"few": "turned and bent", **WEIGHTED}}),
    "09": (answered, ("shown = (", "LABELS = (", "def examples(", "def network(", "def car_or_boat(", "def far_right("),
           {"no pyramid": {"bins": ()}, "no pyramid, wider": {"bins": (), "width": 11},
            "global average": {"bins": (1,)}, "pyramid": {"bins": (1, 2, 3, 6)}}),
    "09, two meadows": (answered, ("shown = (", "LABELS = (", "def network(", "def answers(", "def both(",
                                   "def doubles_right("),
                        {"no pyramid": {"bins": ()}, "global average": {"bins": (1,)},
                         "pyramid": {"bins": (1, 2, 3, 6)}}),
    "09, scenes": (answered, ("shown = (", "LABELS = (", "def network(", "town_settings ="),
                   {"no pyramid": {"bins": ()}, "no pyramid, wider": {"bins": (), "width": 11},
                    "pyramid": {"bins": (1, 2, 3, 6)},
                    "pyramid, second loss": {"bins": (1, 2, 3, 6), "auxiliary": True}}),
    "10": (dilated, ("def stack(", "RATES = {", "def stacked(", "def rightness("),
           {"plain": {"rates": (1, 1, 1, 1, 1)}, "rate 6": {"rates": (6, 6, 6, 6, 6)},
            "doubling": {"rates": (1, 2, 4, 8, 16)}}),
    "10, grain": (dilated, ("def stack(", "grid_settings =", "def lonely("),
                  {"4, 4, 4, 4, 4": {"rates": (4, 4, 4, 4, 4)}, "1, 2, 4, 6, 7": {"rates": (1, 2, 4, 6, 7)}}),
    "10, stride": (dilated, ("train, val =", "class Scorer("),
                   {"stride 32": {"output_stride": 32}, "stride 8": {"output_stride": 8}}),
    "10, DeepLab": (dilated, ("train, val =", "def deeplab_or_fcn("),
                    {"FCN-32s": {"model": models.FCN32s, "padding": 1},
                     "DeepLab v1, rate 3": {"model": models.DeepLabV1, "rate": 3},
                     "DeepLab v1, rate 13": {"model": models.DeepLabV1, "rate": 13}}),
    "11": (mended, ("train, val =", "def new_network(", "def along_outlines(", "def refined(", "SETTINGS = {"),
           {"FCN-32s": {"padding": 1}, "FCN-8s": {"model": models.FCN8s, "padding": 1},
            "U-Net": {"model": models.UNet, "norm": True}}),
    "12": (on_meadows, ("SCALES = (", "def town(", "asked = towns(", "class Summed(", "def by_scale(", "def size_of("),
           {name: {"rates": rates} for name, rates in BRANCHES.items()}),
    "12, scenes": (named, ("train, val =", "settings = {", "class Summed(", "def size_of("),
                   {name: ("Summed", {"rates": rates, "classes": 10}) for name, rates in BRANCHES.items()}),
    "12, decoder": (named, ("train, val =", "settings = {", "def v3(", "class Blind(", "def size_of("),
                    {"v3": ("v3", {}), "v3, width 10": ("v3", {"width": 10}),
                     "v3, stride 8": ("v3", {"output_stride": 8, "rates": (2, 4, 6)}),
                     "v3+ blind": ("v3_plus", {"blind": True}), "v3+": ("v3_plus", {}),
                     "v3+ separable": ("v3_plus", {"separable": True})}),
}


def definitions(number: str) -> dict:
    """What the marked cells of a lesson define."""
    _, marks, _ = LESSONS[number]
    lesson, = (ROOT / "lessons").glob(f"{number[:2]}_*.py")
    sources = [cell.source for cell in jupytext.read(lesson).cells if cell.cell_type == "code"]
    scope: dict = {}
    for source in sources:
        if source.startswith(("from segviz.models import", "import torch\n")) or any(mark in source for mark in marks):
            exec(source, scope)
    return scope


def compared(number: str, seed: int, steps: int | None) -> dict[str, dict[str, float]]:
    """Each network of a lesson, trained from this seed, and how good it is."""
    (measure, _, contestants), scope, found = LESSONS[number], definitions(number), {}
    for name, what in contestants.items():
        found[name] = measure(scope, number, what, seed, steps)
        print(f"lesson {number} seed {seed} {name:<10}", *(f"{key} {value:.3f}" for key, value in found[name].items()),
              flush=True)
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
