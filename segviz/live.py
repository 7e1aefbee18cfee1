"""What a person watches while a network trains: a bar with words, the falling loss, and one prediction as it sharpens.

In a notebook one picture is drawn into one display and replaced in place, so it never flickers, and the last one stays
in the saved notebook. In a terminal it is tqdm's bar.
"""

import base64
import html
import io
import sys
import time

import numpy as np
from torch import Tensor
from tqdm.std import tqdm

from segviz import draw


class Live:
    """Shows the progress of `steps` steps, the first `done` of which were done before. `due(step)` says when it is time
    to `update`; at the end, `close`."""

    SECONDS = 1.0  # between two pictures, at least
    SHARE = 0.04  # of the time that may go into pictures

    def __init__(self, steps: int, title: str, watch: Tensor | None = None, show: bool | None = None, done: int = 0):
        self.done = done
        self.steps, self.title, self.watch = steps, title, watch
        self.start = self.last = time.perf_counter()
        self.cost = 0.0  # seconds that the last picture took
        self.bar = self.display = None
        if show is False:
            return
        if in_notebook():
            from IPython.display import HTML, display

            self._html = HTML
            self.display = display(HTML(self._bar(done, "starting")), display_id=True)
        else:
            self.bar = tqdm(total=steps, initial=done, desc=title, file=sys.stderr)

    def due(self, step: int) -> bool:
        """Whether to update now: once a second, or more seldom where pictures take long; if an image is watched, at
        steps 1, 2, 4, 8 ... too."""
        early = self.watch is not None and step & (step - 1) == 0
        return early or time.perf_counter() - self.last > max(self.SECONDS, self.cost / self.SHARE)

    def update(self, history, prediction: Tensor | None = None) -> None:
        """Shows the newest loss, and the label map (H, W) of the watched image, which `history.pictures` keeps."""
        step, start = len(history.loss), time.perf_counter()
        if prediction is not None:
            history.pictures.append((step, prediction))
        recent = float(np.mean(history.loss[-10:]))
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            score = {"mIoU": f"{history.val[-1][1].mean_iou:.3f}"} if history.val else {}
            self.bar.set_postfix(loss=f"{recent:.3f}", **score)
        if self.display is not None:
            left = (time.perf_counter() - self.start) / max(1, step - self.done) * (self.steps - step)
            score = f" · mean IoU {history.val[-1][1].mean_iou:.3f}" if history.val else ""
            words = f"step {step} of {self.steps} · loss {recent:.3f}{score} · {left:.0f} s left"
            self.display.update(self._html(self._bar(step, words) + self._picture(history)))
        self.last = time.perf_counter()
        self.cost = self.last - start

    def close(self, history) -> None:
        """The last picture, with the score if there is one; words alone where no step was done."""
        if self.bar is not None:
            self.bar.update(len(history.loss) - self.bar.n)
            self.bar.close()
        if self.display is not None:
            words = repr(history).removeprefix("History: ")
            picture = self._picture(history) if history.loss else ""
            self.display.update(self._html(self._bar(len(history.loss), words) + picture))

    def _bar(self, step: int, words: str) -> str:
        title = html.escape(self.title)
        return (
            f'<div style="display:flex;gap:.8em;align-items:center;max-width:760px"><b>{title}</b>'
            f'<progress value="{step}" max="{self.steps}" style="flex:1" aria-label="{title}"></progress>'
            f'<span style="font-variant-numeric:tabular-nums">{html.escape(words)}</span></div>'
        )

    def _picture(self, history) -> str:
        from matplotlib.figure import Figure

        columns = 1 if self.watch is None else 3
        figure = Figure(figsize=(2.6 * columns + 1.4, 2.4), layout="constrained", dpi=100)
        axes = np.atleast_1d(figure.subplots(1, columns, width_ratios=[1.5, 1, 1][:columns]))
        draw.curve(axes[0], history.loss, "loss", steps=self.steps)
        if self.watch is not None:
            draw.image(axes[1], self.watch, "image")
            if history.pictures:
                draw.labels(axes[2], history.pictures[-1][1], f"predicted at step {history.pictures[-1][0]}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        data = base64.b64encode(buffer.getvalue()).decode()
        last = f"loss {history.loss[-1]:.3f} at step {len(history.loss)}"
        return f'<img alt="{html.escape(self.title)}: {last}" src="data:image/png;base64,{data}">'


def in_notebook() -> bool:
    """Whether the code runs in a Jupyter kernel, which can show pictures."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
