"""How long each lesson takes, what its scoreboard says, and the README's pictures: all from the executed lessons.

    python benchmarks/lessons.py [06 07]          (default: all)

Writes data/results/lessons.json and data/pictures/*.png. The explorers are photographed in Chromium, where there is
one.
"""

import base64
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import browser as driving  # noqa: E402

RESULTS, PICTURES = ROOT / "data" / "results" / "lessons.json", ROOT / "data" / "pictures"
PACKAGES = ("torch", "torchvision", "numpy", "jupyterlab", "ipykernel", "matplotlib")
SHOWN = {                     # words that mark a cell of a lesson -> the picture taken from its output
    "00": {"rows=3": "fcn8s_on_toytown.png", "for ax, wanted": "fcn8s_learning.png"},
    "01": {"draw.instances(": "five_questions.png"},
    "02": {'("the scene", "car?"': "everywhere.png"},
    "03": {'ylabel="share right"': "evidence_out_of_reach.png"},
    "06": {"nets = {": "fcn_skips.png"},
    "08": {'"border weights")': "touching_cells.png"},
    "09": {'ylabel="share right"': "pyramid_brings_evidence.png"},
    "11": {"rows=2, size=1.9": "crf_mends_and_spoils.png"},
    "12": {"rows=2, size=2.1": "outlines_from_the_decoder.png"},
    "13": {"on_front = on_one_plot": "scoreboard.png"},
}
EXPLORERS = {
    "01": "scores_explorer.png", "02": "sliding_explorer.png", "03": "receptive_explorer.png",
    "04": "upsampling_explorer.png", "05": "checkerboard_explorer.png",
    "06": "skips_explorer.png", "07": "switches_explorer.png", "08": "unet_skips_explorer.png",
    "09": "pyramid_explorer.png", "10": "atrous_explorer.png", "12": "deeplab_explorer.png",
    "13": "compare_explorer.png",
}


def executed(lesson: Path, folder: Path) -> tuple[nbformat.NotebookNode, float]:
    """The lesson as shipped with its outputs, and the seconds it took; its explorer as a page in `folder`."""
    notebook = jupytext.read(lesson)
    client = NotebookClient(notebook, kernel_name="python3", timeout=600, resources={"metadata": {"path": folder}})
    os.environ["SEGVIZ_HOME"] = str(folder)                       # nobody's progress is touched
    start = time.perf_counter()
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
        seconds = time.perf_counter() - start
        if lesson.stem[:2] in EXPLORERS:
            export = nbformat.v4.new_code_cell(f"explorer.export_html({str(folder / lesson.stem)!r} + '.html');")
            notebook.cells.append(export)
            client.execute_cell(export, len(notebook.cells) - 1)
    return notebook, seconds


def keep_pictures(notebook: nbformat.NotebookNode, number: str) -> None:
    for words, name in SHOWN.get(number, {}).items():
        cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and words in cell.source)
        png = next(output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {}))
        (PICTURES / name).write_bytes(base64.b64decode(png))


def scoreboard(notebook: nbformat.NotebookNode) -> list[str]:
    """The lines that the lesson's last scoreboard cell printed."""
    printed = [output.text for cell in notebook.cells if cell.cell_type == "code" and "Scoreboard" in cell.source
               for output in cell.outputs if output.output_type == "stream"]
    return "".join(printed).splitlines()


def photograph(page_file: Path, picture: Path) -> None:
    with driving.launched() as chromium, driving.watched_page(chromium, device_scale_factor=2) as page:
        page.set_viewport_size({"width": 900, "height": 700})
        page.goto(page_file.as_uri())
        page.wait_for_selector("section.sv[data-drawn]")
        moved = page.get_by_role("slider").first
        moved.focus()
        for _ in range(2):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        page.locator("section.sv").screenshot(path=picture)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    chosen = sys.argv[1:]
    results = {
        "date": datetime.date.today().isoformat(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "lessons": json.loads(RESULTS.read_text(encoding="utf-8"))["lessons"] if chosen else {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for lesson in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.py")):
            if chosen and lesson.stem[:2] not in chosen:
                continue
            notebook, seconds = executed(lesson, Path(folder))
            number = lesson.stem[:2]
            keep_pictures(notebook, number)
            results["lessons"][lesson.stem] = {"seconds": round(seconds, 1), "scoreboard": scoreboard(notebook)}
            print(f"{lesson.stem}: {seconds:.0f} s", *scoreboard(notebook), sep="\n    ")
            if number in EXPLORERS and not driving.why_not():
                photograph(Path(folder) / f"{lesson.stem}.html", PICTURES / EXPLORERS[number])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
