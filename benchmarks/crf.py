"""The exact dense CRF beside pydensecrf's approximation: seconds, memory, and how many labels are the same.

    python benchmarks/crf.py [--threads 2] [--sizes 96x96 240x180] [--classes 21] [--cuda 500x375]

Ten iterations with the parameters of DeepLab v2's release (ResNet-101) and with those of pydensecrf's example, on a
scene of soft colours (width x height) and a network that is unsure at its edges. Each measurement runs in a process of
its own; its memory is the highest that the process ever held (VmHWM in Linux's /proc/self/status) above what it held
when the scene was there, on a GPU the most that torch had allocated. "labels": the share of pixels with the same label;
"difference": the mean one of the marginals. pydensecrf takes one thread; where it cannot be imported, its columns are
left out (pip install pydensecrf2, which needs a C++ compiler). Where there is a GPU, the exact one runs there at --cuda
too, and pydensecrf on the CPU. Writes data/results/crf.json.
"""

import argparse
import datetime
import importlib.util
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results" / "crf.json"
MIB = 2**20
PARAMETERS = {
    "DeepLab v2": {"pos_w": 3.0, "pos_xy_std": 1.0, "bi_w": 4.0, "bi_xy_std": 67.0, "bi_rgb_std": 3.0},
    "pydensecrf's example": {"pos_w": 3.0, "pos_xy_std": 3.0, "bi_w": 10.0, "bi_xy_std": 80.0, "bi_rgb_std": 13.0},
}


def held(what: str) -> int:
    """Bytes that this process holds ("VmRSS"), or held at most ("VmHWM")."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def scene(width: int, height: int, classes: int):
    """Probabilities (classes, H, W), and an image (3, H, W) whose values are those of 8 bits."""
    import torch
    import torch.nn.functional as F

    def smooth(channels: int, cells: int):
        large = F.interpolate(torch.rand(1, channels, cells, cells), size=(height, width), mode="bicubic")
        return large[0].clamp(0, 1)

    torch.manual_seed(7)
    true = smooth(classes, 6).argmax(0)
    image = (torch.rand(classes, 3)[true].permute(2, 0, 1) + 0.03 * smooth(3, 9)) / 1.03
    one_hot, window = F.one_hot(true, classes).permute(2, 0, 1)[None].float(), height // 16 * 2 + 1
    soft = F.avg_pool2d(one_hot, window, 1, window // 2, count_include_pad=False)[0]
    probabilities = (6 * soft + 0.7 * torch.randn(classes, height, width)).softmax(0)
    return probabilities, (image * 255).round() / 255


def ours(probabilities, image, options: dict):
    from segviz import crf

    return crf.mean_field(probabilities, image, 10, **options)


def theirs(probabilities, image, options: dict):
    import numpy as np
    import pydensecrf.densecrf as densecrf
    import torch

    classes, height, width = probabilities.shape
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy((-probabilities.log()).flatten(1).numpy())
    crf.addPairwiseGaussian(sxy=options["pos_xy_std"], compat=options["pos_w"])
    colours = (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    crf.addPairwiseBilateral(options["bi_xy_std"], options["bi_rgb_std"], colours, options["bi_w"])
    return torch.from_numpy(np.array(crf.inference(10))).view(classes, height, width)


def measured(name: str, size: list[int], classes: int, options: dict, device: str) -> dict:
    """Seconds and memory of one of the two functions above."""
    import torch

    function, given = globals()[name], [tensor.to(device) for tensor in scene(*size, classes)]
    small = [tensor[:, :16, :16].contiguous() for tensor in given]
    function(*small, options)  # what is done once is done
    before, start = held("VmRSS"), time.perf_counter()
    function(*given, options)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    most = torch.cuda.max_memory_allocated() if device == "cuda" else held("VmHWM") - before
    return {"seconds": round(seconds, 3), "MiB": round(most / MIB)}


def compared(size: list[int], classes: int, options: dict, device: str) -> dict:
    """How alike the two are."""
    given = scene(*size, classes)
    one, other = ours(*(tensor.to(device) for tensor in given), options).cpu(), theirs(*given, options)
    same = (one.argmax(0) == other.argmax(0)).double().mean().item()
    return {"labels": round(same, 4), "difference": round((one - other).abs().mean().item(), 5)}


def apart(what: str, threads: int, *arguments) -> dict:
    """What one of the two functions above finds, in a process of its own."""
    print(what, *arguments, file=sys.stderr, flush=True)
    call = f"import crf, torch; torch.set_num_threads({threads}); print(crf.json.dumps(crf.{what}(*{arguments})))"
    command = [sys.executable, "-c", call]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def sizes(text: str) -> list[int]:
    return [int(number) for number in text.split("x")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=["96x96", "240x180"], help="width x height, on the CPU")
    parser.add_argument("--cuda", nargs="+", default=["500x375"], help="width x height, on a GPU, where there is one")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    import torch

    peer, cuda = importlib.util.find_spec("pydensecrf") is not None, torch.cuda.is_available()
    found = {"classes": given.classes, "threads": given.threads, "iterations": 10}
    for size, device in [*((size, "cpu") for size in given.sizes), *((size, "cuda") for size in given.cuda if cuda)]:
        for name, options in PARAMETERS.items():
            same = (sizes(size), given.classes, options)
            row = {"exact": apart("measured", given.threads, "ours", *same, device)}
            if peer:
                row["pydensecrf, CPU"] = apart("measured", given.threads, "theirs", *same, "cpu")
                row |= apart("compared", given.threads, *same, device)
            found[f"{size}, {name}, {device}"] = row
    gpu = {"gpu": torch.cuda.get_device_name()} if cuda else {}
    found |= gpu | {"python": platform.python_version(), "torch": torch.__version__,
                    "date": datetime.date.today().isoformat()}  # fmt: skip
    print(json.dumps(found, indent=2))
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
