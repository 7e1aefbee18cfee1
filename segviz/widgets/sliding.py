"""Explorer: a classifier of crops, run as a convolution over an input of any size (lesson 02)."""

import torch

from segviz.widgets.controls import Choice, Point, Slider
from segviz.widgets.engine import Explorer
from segviz.widgets.panels import Grid, HeatMap, Image, Panel, Rects, State, Text

COLOURS, FAINT = "cividis", "#ffffff66"


class SlidingExplorer(Explorer):
    """The coarse score map of a fully convolutional classifier, and the window behind each of its cells.

    classifier: any module that maps (1, 3, H, W) to logits (1, K, h, w), h = (H - window) // stride + 1: the
    crop classifier whose fully connected layers became convolutions. It is run in evaluation mode.
    place(height, width, row, column) -> float (3, height, width) in [0, 1]: the scene of that size, with the
    object's centre at (row, column). classes: K names. window, stride: of the whole classifier, in pixels.
    largest, step: the input's greatest height and width, and the step in which both are set. shown: the class
    whose map is shown first.
    """

    def __init__(
        self, classifier, place, classes, window, stride, *, largest=128, step=None, shown=None, **options
    ):
        if largest < window:
            raise ValueError(f"largest={largest} leaves no room for one window of {window} pixels.")
        self.classifier, self.place, self.classes = classifier, place, tuple(classes)
        self.window, self.stride, self.largest = window, stride, largest
        step = step or max(1, stride // 2)
        top = window + (largest - window) // step * step
        cells = self._cells(top)
        controls = [
            Slider("height", "Input height", window, top, step, value=top, unit="px"),
            Slider("width", "Input width", window, top, step, value=top, unit="px"),
            Choice("shown", "Class shown", self.classes, shown),
            Point("object_at", "Object", panel=0, rows=top, columns=top, value=(top // 2, top // 2)),
            Point(
                "cell", "Cell", panel=1, rows=cells, columns=cells, value=(cells // 2, cells // 2), hover=True
            ),
        ]
        self._check_shapes(top)
        super().__init__(self._slid, controls, title="One classifier, slid over the whole input", **options)

    def _cells(self, size: int) -> int:
        return (size - self.window) // self.stride + 1

    def _check_shapes(self, size: int) -> None:
        found = tuple(self.probabilities(torch.zeros(3, size, size)).shape)
        expected = (len(self.classes), self._cells(size), self._cells(size))
        if found != expected:
            raise ValueError(
                f"On an input of {size} x {size} the classifier gives a map (K, h, w) = {found}; with "
                f"{len(self.classes)} classes, window {self.window} and stride {self.stride} "
                f"it should be {expected}."
            )

    def probabilities(self, image: torch.Tensor) -> torch.Tensor:
        """Softmax over the classes of the score map, (K, h, w), for one image (3, H, W)."""
        was_training = self.classifier.training
        self.classifier.eval()  # a batch's own statistics would make it depend on the call before
        try:
            with torch.inference_mode():
                return self.classifier(image[None]).softmax(1)[0]
        finally:
            self.classifier.train(was_training)

    def _slid(self, height, width, shown, object_at, cell) -> State:
        row, column = min(object_at[0], height - 1), min(object_at[1], width - 1)
        image = self.place(height, width, row, column)
        scores = self.probabilities(image)[self.classes.index(shown)]
        cells = tuple(scores.shape)
        i, j = min(cell[0], cells[0] - 1), min(cell[1], cells[1] - 1)
        chance, best = float(scores[i, j]), divmod(int(scores.argmax()), cells[1])
        window = (
            j * self.stride,
            i * self.stride,
            j * self.stride + self.window,
            i * self.stride + self.window,
        )
        readout = (
            f"Input {height} x {width}, score map {cells[0]} x {cells[1]}. "
            f"Cell row {i}, column {j} sees rows {window[1]} to {window[3] - 1} and columns {window[0]} to "
            f"{window[2] - 1}, and gives {shown} a probability of {chance:.2f}. "
            f"Highest: {float(scores.max()):.2f} at row {best[0]}, column {best[1]}."
        )
        bounds = {"object_at": (height, width), "cell": cells}
        return State(self._panels(image, scores, shown, window, (i, j)), readout, bounds=bounds)

    def _panels(self, image, scores, shown, window, cell) -> list[Panel]:
        height, width = image.shape[1:]
        rows, columns = scores.shape
        frame, most = (self.largest, self.largest), self._cells(self.largest)
        margin = (self.window - self.stride) / 2  # a cell is drawn one stride wide, at its window's centre
        over = (margin, margin, margin + columns * self.stride, margin + rows * self.stride)
        i, j = cell
        spot = (
            over[0] + j * self.stride,
            over[1] + i * self.stride,
            over[0] + (j + 1) * self.stride,
            over[1] + (i + 1) * self.stride,
        )
        digits = Text(
            [
                (x + 0.5, y + 0.5, f"{value:.2f}", "#111111" if value > 0.55 else "#ffffff")
                for y, line in enumerate(scores.tolist())
                for x, value in enumerate(line)
            ],
            size=10,
            fit=1.0,
        )
        heat = {"colours": COLOURS, "legend": f"probability of {shown}"}
        return [
            Panel(
                "Input, and one cell's window",
                [Rects([(0, 0, *frame)], "line", 1, dashed=True), Image(image), Rects([window], "mark", 2)],
                f"{height} × {width} pixels, window {self.window} × {self.window}. Drag to move the object.",
                size=frame,
            ),
            Panel(
                f"Score map, {rows} × {columns}",
                [
                    HeatMap(scores, **heat),
                    Grid(rows, columns, (0, 0, columns, rows), FAINT),
                    digits,
                    Rects([(j, i, j + 1, i + 1)], "mark", 2),
                ],
                self._sizes_in_words(height, width),
                size=(most, most),
            ),
            Panel(
                "The map over the input",
                [
                    Rects([(0, 0, *frame)], "line", 1, dashed=True),
                    Image(image),
                    HeatMap(scores, box=over, opacity=0.7, **heat),
                    Grid(rows, columns, over, FAINT),
                    Rects([spot], "mark", 2),
                ],
                f"A cell every {self.stride} pixels, drawn at its window's centre.",
                size=frame,
            ),
        ]

    def _sizes_in_words(self, height: int, width: int) -> str:
        def one(size):
            whole, rest = divmod(size - self.window, self.stride)
            quotient = f"({size} − {self.window}) / {self.stride}"
            words = f"{f'⌊{quotient}⌋' if rest else quotient} + 1 = {whole + 1}"
            return words.replace(" ", "\u00a0")      # not to be broken over two lines

        return f"rows: {one(height)}, columns: {one(width)}"
