"""Palettes and pictures: every function takes a matplotlib `ax`, draws on it, and returns the artists.

Label maps are `(H, W)` integer arrays with 255 for void; images are `(3, H, W)` or `(H, W, 3)`, or grey
`(1, H, W)`, float in [0, 1] or uint8. Tensors and arrays are both welcome.
"""

import numpy as np

VOID = 255

# Paul Tol's "muted" scheme (SRON/EPS/TN/09-002, issue 3.2, 2021): nine colours that stay apart under the common
# colour deficiencies, and its pale grey, here road. The order is that of `segviz.data.toytown.CLASSES`.
PALETTE = np.array(
    [
        [0x88, 0xCC, 0xEE],  # 0 sky
        [0xDD, 0xCC, 0x77],  # 1 building
        [0x11, 0x77, 0x33],  # 2 tree
        [0x99, 0x99, 0x33],  # 3 grass
        [0xDD, 0xDD, 0xDD],  # 4 road
        [0xAA, 0x44, 0x99],  # 5 marking
        [0x44, 0xAA, 0x99],  # 6 water
        [0x33, 0x22, 0x88],  # 7 pole
        [0xCC, 0x66, 0x77],  # 8 car
        [0x88, 0x22, 0x55],  # 9 boat
    ],
    dtype=np.uint8,
)
VOID_COLOUR = np.array([0x1A, 0x1A, 0x1A], dtype=np.uint8)


def panels(columns: int, rows: int = 1, size: float = 2.5, titles=()):
    """A figure of `rows` x `columns` panels, `size` inches each, in the course's style.

    Returns (figure, list of axes, row by row)."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=(size * columns, (size + 0.25) * rows), layout="constrained", squeeze=False
    )
    axes = list(axes.flat)
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title, fontsize=10)
    for ax in axes:
        ax.axis("off")
    return figure, axes


def array(values) -> np.ndarray:
    """A tensor (of any device, with or without gradient), an array or a nested list as a numpy array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def rgb(picture) -> np.ndarray:
    """An image (3, H, W), (H, W, 3), or grey (1, H, W), float in [0, 1] or uint8, as (H, W, 3) uint8; not-a-number
    becomes 0.

    Raises ValueError for other shapes, and for other whole numbers, whose range is not known."""
    pixels = array(picture)
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels.repeat(3, 0)
    if pixels.ndim == 3 and pixels.shape[0] == 3 and pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"an image is (3, H, W), (H, W, 3) or grey (1, H, W), but this one has shape {pixels.shape}")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise ValueError(f"an image is float in [0, 1] or uint8, but this one is {pixels.dtype}: convert it first")
    return (np.nan_to_num(pixels).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def colourise(label_map, palette: np.ndarray = PALETTE) -> np.ndarray:
    """The colours (H, W, 3) uint8 of a label map; void is near-black.

    Raises ValueError for a label without a colour, and where labels are no whole numbers."""
    numbers = array(label_map)
    if numbers.dtype.kind not in "biu":
        raise ValueError(f"labels are whole numbers, but these are {numbers.dtype}: scores need .argmax(0) first")
    table = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    table[: len(palette)] = palette
    wrong = np.setdiff1d(numbers, [*range(len(palette)), VOID])
    if wrong.size:
        raise ValueError(f"label {wrong[0]} has no colour: the palette holds 0..{len(palette) - 1}, and void is {VOID}")
    return table[numbers.astype(np.intp)]


def image(ax, picture, title: str | None = None):
    """Shows an image, pixels as they are."""
    return _show(ax, rgb(picture), title)


def labels(ax, label_map, title: str | None = None, palette: np.ndarray = PALETTE):
    """Shows a label map in its colours."""
    return _show(ax, colourise(label_map, palette), title)


def overlay(ax, picture, label_map, title: str | None = None, alpha: float = 0.6, palette: np.ndarray = PALETTE):
    """Shows a label map over its image, `alpha` of the one and the rest of the other."""
    return _show(ax, (alpha * colourise(label_map, palette) + (1 - alpha) * rgb(picture)).astype(np.uint8), title)


def heat(ax, values, title: str | None = None, vmin: float = 0.0, vmax: float = 1.0):
    """Shows a map (H, W) of numbers, dark to bright."""
    return _show(ax, array(values), title, cmap="viridis", vmin=vmin, vmax=vmax)


def boxes(ax, objects, names: bool = True, colour: str = "white"):
    """Draws a box, and a name, for each object with `.box` (x0, y0, x1, y1) and `.name`; returns the rectangles."""
    from matplotlib.patches import Rectangle

    rectangles = []
    for thing in objects:
        x0, y0, x1, y1 = thing.box
        for edge, width in (("black", 2.6), (colour, 1.3)):  # dark under light: seen on any picture
            box = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor=edge, linewidth=width)
            rectangles.append(ax.add_patch(box))
        if names:
            ax.text(
                x0,
                max(y0 - 2, 10),
                thing.name,
                color="white",
                fontsize=8,
                va="bottom",
                parse_math=False,
                bbox={"facecolor": "black", "alpha": 0.7, "pad": 1, "edgecolor": "none"},
            )
    return rectangles


def instances(ax, picture, instance_map, title: str | None = None, alpha: float = 0.75):
    """Shows an instance map (H, W), 0 where there is none, over its image: each instance in a colour of its own."""
    from matplotlib import colormaps

    numbers = array(instance_map)
    turns = np.arange(1, numbers.max() + 1) * 0.618034 % 1  # golden ratio: neighbours get far hues
    colours = np.vstack([[0, 0, 0], colormaps["turbo"](turns)[:, :3] * 255])
    mixed = alpha * colours[numbers] + (1 - alpha) * rgb(picture)
    grey = 0.5 * rgb(picture).mean(2, keepdims=True) + 110
    return _show(ax, np.where(numbers[..., None] > 0, mixed, grey).astype(np.uint8), title)


def legend(ax, classes, palette: np.ndarray = PALETTE, void: bool = True):
    """A legend of colours, class numbers and names, and nothing else, on an axis of its own."""
    from matplotlib.patches import Patch

    entries = [
        Patch(facecolor=palette[i] / 255, edgecolor="#555555", linewidth=0.5, label=f"{i}  {name}")
        for i, name in enumerate(classes)
    ]
    if void:
        entries.append(Patch(facecolor=VOID_COLOUR / 255, label=f"{VOID}  void"))
    ax.axis("off")
    return _literal(ax.legend(handles=entries, loc="center left", frameon=False, fontsize=9, borderaxespad=0))


def key(figure, classes, palette: np.ndarray = PALETTE, void: bool = True):
    """A legend below all panels of a figure of `panels`' layout, in as many columns as there is room for; the figure
    grows by it."""
    from matplotlib.patches import Patch

    colours = [*palette[: len(classes)], *([VOID_COLOUR] if void else [])]
    names = [*(f"{label}  {name}" for label, name in enumerate(classes)), *([f"{VOID}  void"] if void else [])]
    handles = [
        Patch(facecolor=colour / 255, edgecolor="#555555", linewidth=0.5, label=name)
        for colour, name in zip(colours, names, strict=True)
    ]
    width, height = figure.get_size_inches()
    columns = max(1, min(len(names), int(width / (0.6 + 0.08 * max(map(len, names))))))
    figure.set_size_inches(width, height + 0.2 * -(-len(names) // columns) + 0.1)
    return _literal(figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=8))


def confusion(ax, counts, classes, title: str | None = None):
    """A confusion matrix (C, C), rows: target, each row as shares of its class; shares from 0.005 up are written in."""
    table = array(counts).astype(float)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    artist = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.005:
            ax.text(
                column,
                row,
                f"{share:.2f}".removeprefix("0"),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if share > 0.55 else "black",
            )
    ax.set_xticks(range(len(classes)), classes, rotation=60, ha="right", fontsize=8, parse_math=False)
    ax.set_yticks(range(len(classes)), classes, fontsize=8, parse_math=False)
    ax.set_xlabel("predicted", fontsize=9)
    ax.set_ylabel("true", fontsize=9)
    ax.axis("on")
    if title:
        ax.set_title(title, fontsize=10)
    return artist


def curve(ax, values, title: str = "loss", steps: int | None = None):
    """A curve of one number a step, faint, and its running mean, which is returned. `steps`: length of the axis."""
    values = np.asarray(values, dtype=float)
    ax.axis("on")
    ax.plot(np.arange(1, len(values) + 1), values, color="#88CCEE", linewidth=0.8)
    window = max(1, len(values) // 20)
    smooth = np.convolve(values, np.ones(window) / window, mode="valid")
    (artist,) = ax.plot(np.arange(window, len(values) + 1), smooth, color="#332288", linewidth=1.6)
    ax.set_xlim(0, steps or len(values))
    ax.set_ylim(bottom=0)
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("step", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return artist


def _literal(legend):
    """The names of classes as they are: a "$" in them begins no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)
    return legend


def _show(ax, pixels, title, **options):
    ax.axis("off")
    if title:
        ax.set_title(title, fontsize=10)
    return ax.imshow(pixels, interpolation="nearest", **options)
