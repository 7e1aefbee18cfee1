"""A run that was trained: find its file and its data, and score it."""

from dataclasses import dataclass
from pathlib import Path

from segviz import checkpoint, training
from segviz.runs.sets import SETTINGS, WORLDS, data_set

FILES = ("best.safetensors", "last.safetensors")  # of the folder of a run, the first that is there
TOLERANCE = 0.005  # in mean IoU: other machines round in other places


@dataclass(frozen=True)
class Evaluation:
    """The scores of a network, beside what its file records."""

    path: Path
    model: str
    data: dict
    images: int
    scores: training.Scores
    recorded: float | None  # mean IoU
    same_data: bool  # whether that is of these data

    @property
    def reproduced(self) -> bool | None:
        """None where the file records no score for these data."""
        if self.recorded is None or not self.same_data:
            return None
        return abs(self.scores.mean_iou - self.recorded) <= TOLERANCE

    def __str__(self) -> str:
        told = [f"{name} {self.data[name]}" for name in ("split", "size", "seed") if name in self.data]
        lines = [f"{self.model} of {self.path}", f"{self.data['name']}, {', '.join(told)}, {self.images} images", "",
                 str(self.scores), ""]
        if self.recorded is None:
            return "\n".join([*lines, "The file records no score."])
        verdict = {None: f"{self.recorded:.3f}, but for other data, or without saying for which",
                   True: f"{self.recorded:.3f} for these data: reproduced",
                   False: f"{self.recorded:.3f} for these data: NOT reproduced"}[self.reproduced]
        return "\n".join([*lines, f"The file records mean IoU {verdict}."])


def evaluate(run: Path, asked: dict, device: str | None = None) -> Evaluation:
    """Scores the network of a run (a folder) or of a file. asked: those of SETTINGS that the learner gave; the others
    are as the file records them, else Toytown's val split at 96 pixels. Of a folder of images all are scored, at their
    own sizes. Raises ValueError and OSError in words."""
    path = file_of(run)
    found = checkpoint.read(path)  # once: a run may put a newer file there meanwhile
    network, config = checkpoint.load(found), found.config
    recorded = recorded_data(config)
    data = {"name": "toytown", "split": "val", "size": 96} | recorded | asked
    drawn = data["name"] in WORLDS
    if not drawn:
        data = {name: value for name, value in data.items() if name in asked or name in ("name", "split", "binary")}
    items, classes = data_set(**data, channels=getattr(network, "in_channels", 3))
    scores = training.evaluate(network, items, batch_size=32 if drawn else 4, device=device, classes=classes)
    score = config.get("score")
    return Evaluation(path, config["model"], data, len(items), scores,
                      score if isinstance(score, float) else None, data == recorded)


def file_of(run: Path) -> Path:
    """The checkpoint of a run's folder: the best, else the last; `run` itself where it is no folder."""
    if not run.is_dir():
        return run
    for name in FILES:
        if (run / name).exists():
            return run / name
    raise ValueError(f"{run} is not the folder of a run: it holds neither {' nor '.join(FILES)}")


def recorded_data(config: dict) -> dict:
    """Which data a checkpoint says it was scored on: its "data", or that of the notes that `fit` was given; {} for
    none."""
    notes = config.get("notes")
    found = config.get("data") or (notes.get("data") if isinstance(notes, dict) else None)
    return {name: found[name] for name in SETTINGS if name in found} if isinstance(found, dict) else {}
