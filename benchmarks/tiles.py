"""How much memory a large image takes, predicted by overlapping tiles and whole; and that both say the same.

    python benchmarks/tiles.py [--width 16] [--tile 512] [--threads 2] [--sizes 1000 2000 4000] [--whole 1000 2000]
    python benchmarks/tiles.py --command 2500 5000 10000 [--run FILE] [--threads 1]

A padded U-Net with the weights it begins with, on the CPU. Each prediction runs in a process of its own. Its memory is
the highest that the process ever held (VmHWM in Linux's /proc/self/status) above what it held when the network and the
image were there, less the label map that it returns: of 8 bytes a pixel, as the image has 12. With tiles this must not
grow with the image. It has the 120 to 150 MiB of those parts of torch that following a network loads, once; a process
that has trained has them already. "gap": the greatest difference of a logit between both, in standard deviations of the
logits; "labels": the share of pixels with the same label.

--command: the same of `segviz predict` as a person calls it, on pictures of these heights and widths (PNG, made for
it), in a process of its own that reads the picture, goes over it by its default tiles, and writes overlay and mask.
"peak": the highest that it ever held; "before": when torch and the package were there. Of what is between, the image
has 3 bytes a pixel, the labels 1, and the overlay, which Pillow holds, 4.

Writes data/results/tiles.json; what is not measured anew stays as it was.
"""

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "tiles.json"
RUN = ROOT / "data" / "checkpoints" / "half_million" / "unet.safetensors"
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


def commanded(size: int, run: str) -> dict:
    """Memory and seconds of `segviz predict` on a picture that is drawn first, in another process."""
    from segviz.runs import prediction

    with tempfile.TemporaryDirectory() as place:
        picture, out = Path(place) / "large.png", Path(place) / "out"
        call = f"import tiles; tiles.paint({size}, {str(picture)!r})"  # what painting takes is not to be counted
        subprocess.run([sys.executable, "-c", call], cwd=Path(__file__).parent, check=True)
        before, start = held("VmHWM"), time.perf_counter()
        files = prediction.predict(Path(run), picture, out, device="cpu", say=lambda _: None)
        seconds = time.perf_counter() - start
        assert all(path.stat().st_size for path in files)
    return {"MiB at the peak": round(held("VmHWM") / MIB), "MiB before": round(before / MIB), "seconds": round(seconds),
            "tiles of": prediction.TILE, "bytes a pixel": round((held("VmHWM") - before) / size**2, 1)}  # fmt: skip


def paint(size: int, path: str) -> None:
    """A picture of `size` x `size`: a scene of Toytown, side by side with itself."""
    import numpy as np
    from PIL import Image

    from segviz.data import Toytown

    scene = Toytown("val", 250, 1)[0][0].mul(255).byte().permute(1, 2, 0).numpy()
    times = -(-size // len(scene))
    Image.MAX_IMAGE_PIXELS = None
    Image.fromarray(np.tile(scene, (times, times, 1))[:size, :size]).save(path, compress_level=1)


def apart(what: str, threads: int, size: int, *arguments) -> dict:
    """What one of the functions above finds, in a process of its own."""
    call = f"import tiles, torch; torch.set_num_threads({threads}); print(tiles.json.dumps(tiles."
    print(f"{what}: {size} x {size}, {', '.join(map(str, arguments))}", file=sys.stderr, flush=True)
    command = [sys.executable, "-c", f"{call}{what}{(size, *arguments)!r}))"]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def of_the_command(sizes: list[int], run: Path, threads: int) -> dict:
    return {
        "network": run.name if not run.is_relative_to(ROOT) else str(run.relative_to(ROOT)), "threads": threads,
        "sizes": {size: apart("commanded", threads, size, str(run)) for size in sizes},
        "python": platform.python_version(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def of_functions(given: argparse.Namespace) -> dict:
    width, tile, threads = given.width, given.tile, given.threads
    return {
        "network": f"U-Net, padded, width {width}", "tile": tile, "threads": threads,
        "by tiles": {size: apart("predicted", threads, size, width, tile) for size in given.sizes},
        "whole": {size: apart("predicted", threads, size, width, None) for size in given.whole},
        "compared": {size: apart("compared", threads, size, width, tile) for size in given.whole},
        "python": platform.python_version(), "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000], help="by tiles")
    parser.add_argument("--whole", type=int, nargs="*", default=[1000, 2000], help="whole, and compared")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--command", type=int, nargs="+", metavar="SIZE", help="measure `segviz predict` instead")
    parser.add_argument("--run", type=Path, default=RUN, help="the folder of a run, or one file")
    given = parser.parse_args(arguments)
    kept = json.loads(given.out.read_text()) if given.out.exists() else {}
    found = {"command": of_the_command(given.command, given.run.resolve(), given.threads)} if given.command else (
        of_functions(given)
    )
    print(json.dumps(found, indent=2))
    given.out.write_text(json.dumps(kept | found, indent=2) + "\n")


if __name__ == "__main__":
    main()
