"""How much memory a large image takes, predicted by overlapping tiles and whole; and that both say the same.

    python benchmarks/tiles.py [--width 16] [--tile 512] [--threads 2] [--sizes 1000 2000 4000] [--whole 1000 2000]

A padded U-Net with the weights it begins with, on the CPU. Each prediction runs in a process of its own. Its memory is
the highest that the process ever held (VmHWM in Linux's /proc/self/status) above what it held when the network and the
image were there, less the label map that it returns: of 8 bytes a pixel, as the image has 12. With tiles this must not
grow with the image. It has the 120 to 150 MiB of those parts of torch that following a network loads, once; a process
that has trained has them already. "gap": the greatest difference of a logit between both, in standard deviations of the
logits; "labels": the share of pixels with the same label. Writes data/results/tiles.json.
"""

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results" / "tiles.json"
MIB = 2**20


def held(what: str) -> int:
    """Bytes that this process holds ("VmRSS"), or held at most ("VmHWM")."""
    return 1024 * int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def scene(size: int, width: int):
    """The network, and a square image."""
    import torch

    from segviz.models import UNet

    torch.manual_seed(0)
    network = UNet(2, width=width, norm=True).eval()
    image = torch.rand(3, size, size)
    with torch.no_grad():  # no class wins everywhere
        network.score.bias -= network(image[None, :, :256, :256])[0].mean((1, 2))
    return network, image


def predicted(size: int, width: int, tile: int | None) -> dict:
    """Memory and seconds of one prediction."""
    from segviz.training import predict, tiles

    network, image = scene(size, width)
    before, start = held("VmRSS"), time.perf_counter()
    labels = predict(network, image, tile=tile, show=False)
    seconds = time.perf_counter() - start
    above = held("VmHWM") - before - labels.numel() * labels.element_size()
    found = {"MiB above image and labels": round(above / MIB), "seconds": round(seconds, 1)}
    return found | ({"tiles": tiles.count((size, size), tile)} if tile else {})


def compared(size: int, width: int, tile: int) -> dict:
    """The greatest gap between the logits of the tiles and those of the whole image, and the share of equal labels."""
    import torch

    from segviz.training import tiles

    network, image = scene(size, width)
    with torch.no_grad():
        whole, gap, same = network(image[None])[0], 0.0, torch.zeros(size, size, dtype=torch.bool)
        for rows, columns, logits in tiles.logits(network, image, tile):
            wanted = whole[:, rows, columns]
            gap = max(gap, (logits - wanted).abs().max().item())
            same[rows, columns] = logits.argmax(0) == wanted.argmax(0)
    return {"gap": gap / whole.std((1, 2)).min().item(), "labels": same.double().mean().item()}


def apart(what: str, size: int, given: argparse.Namespace, tile: int | None) -> dict:
    """What one of the two functions above finds, in a process of its own."""
    call = f"import tiles, torch; torch.set_num_threads({given.threads}); print(tiles.json.dumps(tiles."
    print(f"{what}: {size} x {size}, {'by tiles' if tile else 'whole'}", file=sys.stderr, flush=True)
    command = [sys.executable, "-c", f"{call}{what}({size}, {given.width}, {tile})))"]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000], help="by tiles")
    parser.add_argument("--whole", type=int, nargs="*", default=[1000, 2000], help="whole, and compared")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    found = {
        "network": f"U-Net, padded, width {given.width}", "tile": given.tile, "threads": given.threads,
        "by tiles": {size: apart("predicted", size, given, given.tile) for size in given.sizes},
        "whole": {size: apart("predicted", size, given, None) for size in given.whole},
        "compared": {size: apart("compared", size, given, given.tile) for size in given.whole},
        "python": platform.python_version(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    print(json.dumps(found, indent=2))
    given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
