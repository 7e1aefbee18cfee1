"""A run in TensorBoard, while it goes on."""

from pathlib import Path

import numpy as np

from segviz import checkpoint, draw, training
from segviz.runs import pictures
from segviz.runs.recipe import Recipe

PICTURES = 10  # of a whole run


def summary_writer():
    """TensorBoard's SummaryWriter. Raises ImportError in words where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs a package that the course does not: pip install tensorboard. Without "
                          "it too a run leaves history.json and curves.png") from error  # fmt: skip
    return SummaryWriter


class Board:
    """`fit(..., log=board.write)`: loss and learning rate of each step, scores when there are new ones, and ten times
    in a run one image beside its prediction and its truth, in `run`/tensorboard.

    writer: `summary_writer()`. A run that is taken up goes on there too; what was shown beyond its last save is gone.
    """

    def __init__(self, writer, run: Path, plan: Recipe, network, data):
        place, last = run / "tensorboard", run / "last.safetensors"
        done = checkpoint.read(last).config["step"] if place.exists() and last.exists() else 0
        self.steps, self.shown = done, done * PICTURES // plan.steps if done else -1
        self.plan, self.network, self.data = plan, network, data
        self.writer = writer(str(place), purge_step=done + 1)

    def write(self, history: training.History) -> None:
        """What is new in the history. After the last step, or where it was interrupted, the writer is closed."""
        begin, end = self.steps, len(history.loss)
        for step in range(begin + 1, end + 1):
            self.writer.add_scalar("loss", history.loss[step - 1], step)
            self.writer.add_scalar("learning rate", training.learning_rate(self.plan.lr, step, self.plan.steps), step)
        for step, scores in history.val:
            if begin < step <= end:
                self._scores(scores, step)
        if end and end * PICTURES // self.plan.steps > self.shown:
            self._picture(end)
        self.steps, self.shown = end, end * PICTURES // self.plan.steps
        self.writer.flush()
        if history.interrupted or end >= self.plan.steps:
            self.writer.close()  # it would begin another file, were there more to write

    def _scores(self, scores: training.Scores, step: int) -> None:
        self.writer.add_scalar("val/mean IoU", scores.mean_iou, step)
        self.writer.add_scalar("val/boundary IoU", scores.boundary_iou, step)
        self.writer.add_scalar("val/pixel accuracy", scores.pixel_accuracy, step)
        for name, iou in zip(self.plan.classes, scores.class_iou.tolist(), strict=True):
            self.writer.add_scalar(f"IoU/{name}", iou, step)

    def _picture(self, step: int) -> None:
        (image, mask), colours = self.data[0], pictures.palette(len(self.plan.classes))
        labels = [draw.colourise(each, colours) for each in (training.predict(self.network, image), mask)]
        row = np.concatenate([draw.rgb(image), *labels], axis=1)
        self.writer.add_image("image, prediction, truth", row, step, dataformats="HWC")
