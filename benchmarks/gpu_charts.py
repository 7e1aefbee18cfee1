"""Charts of what `gpu.py` recorded: images a second of each way to train, and mean IoU against seconds of training."""

from pathlib import Path

from matplotlib import pyplot

COLOURS = ("#888888", "#bbbbbb", "#332288", "#117733", "#88ccee", "#ddcc77", "#cc6677", "#aa4499")


def place(folder: Path, name: str) -> Path:
    """Where a picture goes; the folder is made."""
    (folder / "gpu").mkdir(parents=True, exist_ok=True)
    return folder / "gpu" / name


def draw(parts: dict, folder: Path) -> None:
    """gpu/throughput.png and gpu/time_to.png in the folder, of the parts that are there."""
    for part, chart in (("throughput", throughput), ("time_to", time_to)):
        if entries := parts.get(part):
            figure, rows = pyplot.subplots(
                1, len(entries), figsize=(3.4 * len(entries), 3.6), layout="constrained", squeeze=False
            )
            for ax, (name, entry) in zip(rows[0], entries.items(), strict=True):
                chart(ax, entry)
                ax.set_title(name, fontsize=11)
                ax.spines[["top", "right"]].set_visible(False)
                ax.tick_params(labelsize=8)
            first = next(iter(entries.values()))
            figure.suptitle(f"{first['device']}, torch {first['versions']['torch']}, {first['date']}", fontsize=9)
            figure.savefig(place(folder, f"{part}.png"), dpi=110)
            pyplot.close(figure)


def throughput(ax, entry: dict) -> None:
    rows = {way: row for way, row in entry["contenders"].items() if "failed" not in row}
    bars = ax.barh([*rows], [row["images a second"] for row in rows.values()], color=COLOURS[: len(rows)])
    ax.bar_label(bars, [f"{row['images a second']:.3g}" for row in rows.values()], fontsize=8, padding=2)
    ax.margins(x=0.2)
    ax.invert_yaxis()
    ax.set_xlabel("training images a second", fontsize=9)


def time_to(ax, entry: dict) -> None:
    ways = {way: row["curve"] for way, row in entry.items() if isinstance(row, dict) and row.get("curve")}
    for (way, curve), colour in zip(ways.items(), ("#888888", "#ddaa33", "#332288"), strict=False):
        _, seconds, scores = zip(*curve, strict=True)
        ax.plot(seconds, scores, color=colour, marker="o", markersize=3, label=way)
    ax.set(xlim=(0, None), ylim=(0, 1))
    ax.set_xlabel("seconds of training", fontsize=9)
    ax.set_ylabel("mean IoU, validation set", fontsize=9)
    ax.legend(fontsize=7, loc="lower right")
