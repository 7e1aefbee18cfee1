"""The command line. Each command imports what it needs when it runs, so that help does not wait for torch."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from segviz import __version__, course
from segviz.course import Standing
from segviz.exercises.progress import Progress

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Semantic segmentation, seen and proved. Start with `segviz learn`; if it fails, `segviz doctor`.")


def main() -> None:
    """Runs the command line and exits: 0 done, 1 something is in the way, 2 wrong usage, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")     # a terminal without ✓ shows ? and goes on
    try:
        code = app(standalone_mode=False) or 0
    except typer.Exit as end:
        code = end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _explained(error)
    if code == 130:
        print("\nStopped.", file=sys.stderr)
    sys.exit(code)


def _explained(error: Exception) -> int:
    """Prints an expected error in words and returns its exit code; raises what is a mistake of ours."""
    if hasattr(error, "format_message"):         # typer's own: a wrong option or command
        error.show()
        return error.exit_code
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"   # that is torch's
    if not (out_of_memory or isinstance(error, ImportError | ValueError | OSError | FloatingPointError)):
        raise error
    words = "; ".join([str(error) or "the memory is too small", *getattr(error, "__notes__", [])])
    if isinstance(error, ImportError) and error.name:     # Python's own: ours say what to install
        words += ". Run `make learn`, or `pip install -r requirements.txt`."
    print(f"segviz: {words}", file=sys.stderr)
    return 1


def _version(asked: bool) -> None:
    if asked:
        print(f"segviz {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                          help="Print the version.")] = False,
) -> None:
    """Options before the command."""


@app.command()
def learn(
    lesson: Annotated[str | None, typer.Option(help="Number of the lesson to open, e.g. 02. "
                                                    "Default: where you left off.")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535,
                                      help="First port to try; a busy one is passed over.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser. The address is printed anyway.")] = True,
) -> None:
    """Open the course in JupyterLab, on this machine alone.

    Your notebooks lie in my_lessons/. They are yours: no update of the course writes over what you typed.
    Stop with Ctrl-C.
    """
    from segviz import launch
    launch.learn(lesson, port, browser)


@app.command()
def lessons(
    folder: Annotated[Path, typer.Argument(help="Where the notebooks are to lie.")],
) -> None:
    """Lay a learner's own notebooks into a folder, or bring those up to date that were not edited, and open nothing.

    For a server that opens them itself, such as a JupyterHub; `segviz learn` does it by itself, in my_lessons/.
    """
    from segviz import copies
    for change in copies.prepare(folder):
        print(change.words)
    print(f"{folder} holds the lessons.")


@app.command()
def doctor() -> None:
    """Say what this machine has for the course, and what to do where something is missing."""
    from segviz import doctor as doctors
    report = doctors.check()
    print(report)
    raise typer.Exit(0 if report.healthy else 1)


@app.command()
def progress() -> None:
    """Show which exercises are passed, lesson by lesson."""
    store = Progress()
    standings = course.standings(store)
    for standing in standings:
        print(_line(standing))
    passed, total = sum(s.passed for s in standings), sum(len(s.rows) for s in standings)
    print(f"\n{passed} of {total} exercises passed. Kept in {store.path}")
    if store.notice:
        print(f"! {store.notice}")
    if passed < total:
        print(f"Go on with lesson {course.next_lesson(store).number}: segviz learn")


def _line(standing: Standing) -> str:
    lesson, lines = standing.lesson, []
    for name, row in standing.rows.items():
        outcome = row.outcome if row else "not attempted"
        sign = {"passed": "✓", "not attempted": "○"}.get(outcome, "✗")
        tries = f", {row.attempts} check{'s' * (row.attempts != 1)}" if row and row.attempts else ""
        lines.append(f"    {sign} {lesson.exercises[name]} ({outcome}{tries})")
    counts = f"{standing.passed} of {len(standing.rows)}" if standing.rows else "no exercises"
    return "\n".join([f"{lesson.number}  {lesson.title}: {counts}", *lines])


@app.command()
def train(
    out: Annotated[Path | None, typer.Option(help="The run's folder, a new one. Default: runs/MODEL-DATA.")] = None,
    model: Annotated[str | None, typer.Option(help="unet (the default), fcn32s, fcn16s, fcn8s, hypercolumn, deconvnet, "
                                                   "pspnet, deeplabv1, deeplabv2, deeplabv3 or deeplabv3plus.")] = None,
    data: Annotated[str | None, typer.Option(help="toytown (the default), cells, voc, pets, or a folder with "
                                                  "train/images and train/masks, val/images and val/masks.")] = None,
    epochs: Annotated[float | None, typer.Option(min=0.0, help="How often each image is seen; or:")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="How many batches. Default: 2000; 20000 on a GPU.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of the first stage. Default: 16; the paper's 64 on "
                                                          "a GPU.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Begin with ImageNet's weights, which are fetched: "
                                             "FCN, hypercolumn, pspnet, deeplabv2, v3, v3plus.")] = False,
    size: Annotated[int | None, typer.Option(min=32, help="Height and width of the crops. Default: as most images are, "
                                                          "at most 256; 512 on a GPU.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of all processes together. Default: 8; what fits, "
                                                               "up to 32, on a GPU.")] = None,
    lr: Annotated[float | None, typer.Option(min=0.0, help="Learning rate. Default: by width and beginning.")] = None,
    weights: Annotated[str | None, typer.Option(help="What classes count for: none, root, balanced, or auto (the "
                                                     "default): root where one has under 1 % of the pixels.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", show_default=False, help="Mirror half of the images, "
                                              "unless left and right differ: text, maps, anatomy.")] = None,
    channels: Annotated[int | None, typer.Option(help="Of a folder's images: 3 (the default), or 1 to read them in "
                                                      "grey.")] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Masks are black and white: 255 is class 1.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that load images. Default: by cores.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the fastest one here.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all chance in it. Default: 0.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="How many images, of a world that is drawn.")] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", show_default=False,
                                                 help="Run the network through torch.compile.")] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard/--no-tensorboard", show_default=False,
                                                     help="Leave logs for TensorBoard in the run's folder, while it "
                                                          "goes on.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch voc or pets if they are missing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Take up the run in --out where it was stopped.")] = False,
) -> None:
    """Train a network of the course on a world, on a public data set, or on your own images and masks.

    It looks at the data first, and says what it chooses where you say nothing. Ctrl-C saves, and the run can be taken
    up with --resume, to the same result. The folder of the run holds the best and the last network (.safetensors), the
    look at the data (data.txt, data.png), what was chosen (options.json), and how it went (history.json, curves.png,
    samples.png).

    \b
        segviz train                                 (a U-Net on toytown, in runs/unet-toytown)
        segviz train --model deeplabv3plus --data photos --epochs 50 --out runs/photos
        segviz train --data scans --binary --channels 1 --out runs/scans
        segviz train --out runs/photos --resume      (goes on, with the options of before)
        torchrun --nproc-per-node 2 -m segviz train --out runs/two   (two processes, one run)
    """
    from segviz.runs import training
    history = training.train(
        out, model, data, resume=resume, device=device, channels=channels, length=length, binary=binary or None,
        download=download, tensorboard=tensorboard, compile=compile, epochs=epochs, steps=steps, width=width,
        pretrained=pretrained or None, size=size, batch_size=batch_size, lr=lr, weights=weights, workers=workers,
        seed=seed, flip=flip,
    )
    raise typer.Exit(130 if history.interrupted else 0)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="The folder of a run (its best.safetensors is "
                                                                    "taken, else its last), or one file.")],
    data: Annotated[str | None, typer.Option(help="Which data set: toytown, cells, voc, pets, or a folder with "
                                                  "SPLIT/images and SPLIT/masks.")] = None,
    split: Annotated[str | None, typer.Option(help="Which part of it: train, val or test.")] = None,
    size: Annotated[int | None, typer.Option(min=32, help="Height and width of a world's images, in pixels.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="How many images of a world.")] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Masks are black and white: 255 is class 1.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder for scores.json, confusion.png and worst.png. Default: "
                                                  "RUN/evaluation/SPLIT; of a file alone, none.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the fastest one here.")] = None,
) -> None:
    """Score a trained network over a whole data set, class by class, and show where it is wrong.

    Pixel accuracy, mean IoU, boundary IoU, the IoU of each class, and the images that come out worst. scores.json has
    all of it; confusion.png shows which class is taken for which, worst.png the worst images, their errors lit.

    What you leave out is as the file records it, else toytown, its val split, at 96 pixels. Where the file records
    a score for the same data, the command says whether it is reproduced, and ends with 1 if it is not.

    \b
        segviz evaluate data/checkpoints/fcn8s.safetensors
        segviz evaluate runs/first --split test --length 50
        segviz evaluate runs/first --size 192     (the same town, twice as large)
        segviz evaluate runs/nuclei --data ../nuclei --split test
    """
    from segviz import runs
    asked = {"name": data, "split": split, "size": size, "length": length, "binary": binary or None}
    asked = {name: value for name, value in asked.items() if value is not None}
    out = out or runs.folder_of(run, asked)
    found = runs.evaluate(run, asked, device, out)
    if os.environ.get("RANK", "0") == "0":
        print(found)
        if out is not None:
            print(f"{out} holds scores.json, confusion.png and worst.png.")
    raise typer.Exit(1 if found.reproduced is False else 0)


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="The folder of a run, or one file.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE_OR_FOLDER", help="An image, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="The folder for what comes out, another than the images'.")],
    save: Annotated[str, typer.Option(help="Any of overlay, mask, probabilities, commas between.")] = "overlay,mask",
    tile: Annotated[int | None, typer.Option(min=32, help="Height and width of the tiles that large images are cut "
                                                          "into. Default: 1024, above four million pixels.")] = None,
    margin: Annotated[int | None, typer.Option(min=0, help="Pixels around a tile that the network sees too. Default: "
                                                           "as far as it looks.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps. Default: the fastest one here.")] = None,
) -> None:
    """Label the pixels of your images: NAME_overlay.png to look at, NAME_mask.png with the label of each pixel.

    Beside them legend.png shows the colours, and classes.txt names the labels. An image that cannot be read is passed
    over and named at the end. Images of any size: large ones go tile by tile.

    \b
        segviz predict runs/photos holiday.jpg --out labelled
        segviz predict data/checkpoints/fcn8s.safetensors scenes/ --out labelled --save mask,probabilities
    """
    from segviz.runs import prediction
    kinds = tuple(kind.strip() for kind in save.split(","))
    prediction.predict(run, image, out, save=kinds, tile=tile, margin=margin, device=device)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="The folder of a run, or one file.")],
    out: Annotated[Path, typer.Option(help="FILE.onnx, or FILE.pt2 for a program of torch.export.")],
    size: Annotated[int, typer.Option(min=32, help="Height and width of the images that it is tried with.")] = 96,
) -> None:
    """Write a trained network for other programs: ONNX, or a program of torch.export; either is run, and checked
    against PyTorch, before it is kept.

    The file takes images with values in [0, 1] and gives logits; it says so in its metadata, with the classes' names.
    ONNX needs packages that the course does not: pip install onnx onnxscript onnxruntime.

    \b
        segviz export runs/photos --out photos.onnx
        segviz export runs/photos --out photos.pt2
    """
    from segviz import checkpoint, runs
    from segviz import export as exporting
    ways = {".onnx": exporting.to_onnx, ".pt2": exporting.to_program}
    if out.suffix not in ways:
        raise ValueError(f"{out} ends with neither .onnx nor .pt2: which of the two is wanted?")
    found = checkpoint.read(runs.file_of(run))
    print(ways[out.suffix](checkpoint.load(found), out, size, runs.classes_of(found.config)))


@app.command()
def look(
    data: Annotated[str, typer.Argument(help="toytown, cells, voc, pets, or a folder with SPLIT/images and "
                                             "SPLIT/masks.")],
    split: Annotated[str | None, typer.Option(help="Which part of it. Default: train, val and test, as far as they are "
                                                   "there; an image that lies in two is named.")] = None,
    out: Annotated[Path | None, typer.Option(help="A PNG for a sheet of images beside their masks.")] = None,
    binary: Annotated[bool, typer.Option("--binary", help="Masks are black and white: 255 is class 1.")] = False,
    length: Annotated[int | None, typer.Option(min=1, help="How many images, of a world that is drawn.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch voc or pets if they are missing.")] = False,
) -> None:
    """Look at data before training: how much there is of each class, image sizes, what looks wrong.

    \b
        segviz look photos --out photos.png
        segviz look scans --binary --split train
        segviz look pets --download
    """
    from segviz.runs import looking
    looking.look(data, split, out, binary=binary, length=length, download=download)


if __name__ == "__main__":
    main()
