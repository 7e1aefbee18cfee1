"""What a training run leaves behind."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from segviz import draw
from segviz.training.scoring import Scores


@dataclass
class History:
    """What happened in a training run."""

    loss: list[float] = field(default_factory=list)  # one a step
    val: list[tuple[int, Scores]] = field(default_factory=list)  # (step, scores)
    pictures: list[tuple[int, Tensor]] = field(default_factory=list)  # (step, label map predicted for `watch`)
    seconds: float = 0.0  # of training, scoring left out
    interrupted: bool = False

    def plot(self):
        """A figure: the loss of each step, and the validation set's mean IoU where it was scored."""
        figure, axes = draw.panels(2 if self.val else 1, size=3.2)
        draw.curve(axes[0], self.loss, "loss")
        if self.val:
            at, scores = zip(*((step, scores.mean_iou) for step, scores in self.val), strict=True)
            axes[1].axis("on")
            axes[1].plot(at, scores, color="#332288", linewidth=1.6, marker="o", markersize=4)
            axes[1].set(xlim=(0, len(self.loss) * 1.02), ylim=(0, 1.1 * max(scores)))
            axes[1].set_title("mean IoU, validation set", fontsize=10)
            axes[1].set_xlabel("step", fontsize=9)
            axes[1].tick_params(labelsize=8)
            axes[1].spines[["top", "right"]].set_visible(False)
        return figure

    def best(self) -> float:
        """The highest mean IoU so far; minus infinity before the first."""
        return max((s.mean_iou for _, s in self.val if not math.isnan(s.mean_iou)), default=-math.inf)

    def as_json(self) -> dict:
        """What a checkpoint keeps: all but the pictures."""
        return {"loss": self.loss, "val": [[step, scores.as_json()] for step, scores in self.val],
                "seconds": self.seconds}  # fmt: skip

    @classmethod
    def from_json(cls, kept: dict) -> "History":
        val = [(step, Scores.from_json(scores)) for step, scores in kept["val"]]
        return cls(loss=kept["loss"], val=val, seconds=kept["seconds"])

    def __repr__(self) -> str:
        end = ", interrupted: the model keeps what it learned" if self.interrupted else ""
        score = f", mean IoU {self.val[-1][1].mean_iou:.3f}" if self.val else ""
        loss = f", loss {self.loss[-1]:.3f}" if self.loss else ""
        return f"History: {len(self.loss)} steps in {self.seconds:.0f} s{loss}{score}{end}"
