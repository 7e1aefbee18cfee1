"""How many scenes of Toytown one core draws in a second.

    python benchmarks/toytown.py [--scenes 600]

Every scene is drawn whole: picture, mask, instances and objects. One thread. The first `--scenes` warm the
caches of sprites and are reported too ("cold": what a first data set costs); the next are timed in batches
of 25, and the median and the best batch are kept, by the clock and by processor time, which tells a busy
machine from a slow program. Bar: 250 scenes a second at 96 x 96. Writes data/results/toytown.json.
"""

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from tqdm.auto import tqdm

from segviz.data import toytown

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results" / "toytown.json"
BATCH = 25
BAR = 250


def timed(indices, size):
    """Scenes a second over `indices`: (by the clock, by processor time)."""
    clock, processor = time.perf_counter(), time.process_time()
    for index in indices:
        toytown.scene(index, size)
    return len(indices) / (time.perf_counter() - clock), len(indices) / (time.process_time() - processor)


def measure(size, scenes):
    cold = timed(range(scenes), size)
    starts = tqdm(range(scenes, 2 * scenes, BATCH), f"{size} x {size}", leave=False)
    clock, processor = zip(*(timed(range(start, start + BATCH), size) for start in starts), strict=True)
    return {"cold": {"clock": round(cold[0], 1), "processor": round(cold[1], 1)},
            "median": {"clock": round(statistics.median(clock), 1),
                       "processor": round(statistics.median(processor), 1)},
            "best": {"clock": round(max(clock), 1), "processor": round(max(processor), 1)}}


def cpu_name():
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")),
                platform.processor())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=600,
                        help="scenes a size, at 96 x 96; fewer at larger ones")
    scenes = parser.parse_args().scenes
    torch.set_num_threads(1)
    sizes = {size: max(BATCH, round(scenes * min(1, (96 / size) ** 2) / BATCH) * BATCH)
             for size in (96, 64, 192, 384)}
    report = {"unit": "scenes per second, one core", "bar at 96": BAR, "cpu": cpu_name(),
              "python": platform.python_version(),
              "versions": {name: importlib.metadata.version(name) for name in ("numpy", "pillow", "torch")},
              "sizes": {str(size): measure(size, count) for size, count in sizes.items()}}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
