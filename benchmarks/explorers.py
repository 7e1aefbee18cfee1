"""How fast the explorers answer, in a real browser, beside the bare round trip to the kernel in the same run.

    python benchmarks/explorers.py [--events 100]

Milliseconds from a slider's input event until the canvas is drawn ("drawn"), and until the animation frame
that shows it ("shown"). "floor" is a label alone: a number goes to the kernel and comes back into a text.
"kernel" are states that the browser does not have, "browser" states that it has. Each is measured with the
server's Nagle delay on (Jupyter's default) and off (the course's own server); the three widgets take turns,
so that all meet the same moments of the machine. Bars: kernel p95 at most 40 ms, or at most 1.3 x the floor;
browser p95 at most 20 ms, shown. Writes data/results/explorers.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import browser as driving  # noqa: E402

RESULTS = ROOT / "data" / "results" / "explorers.json"
PACKAGES = (
    "jupyterlab",
    "jupyter_server",
    "ipykernel",
    "ipywidgets",
    "anywidget",
    "torch",
    "numpy",
    "playwright",
)
EXPLORERS = ("scores", "sliding")
GAP = 70  # ms between events: quicker than the 100 ms beyond which Nagle's delay hides

CELLS = ["""
import anywidget, torch, traitlets
from segviz.data import toytown
from segviz.widgets import ScoresExplorer, SlidingExplorer
torch.set_num_threads(1)

class Floor(anywidget.AnyWidget):
    _esm = '''export default { render({ model, el }) {
        el.innerHTML = "<p class=floor></p>";
        el.firstChild.ask = (number) => { model.set("asked", number); model.save_changes(); };
        model.on("change:answer", () => { el.firstChild.textContent = model.get("answer"); });
    } };'''
    asked = traitlets.Int().tag(sync=True)
    answer = traitlets.Int().tag(sync=True)

    @traitlets.observe("asked")
    def _(self, change):
        self.answer = change.new

Floor()""", """
scene = toytown.scene(0)
ScoresExplorer(scene.image, scene.mask, toytown.CLASSES, disturb="pole")""", """
torch.manual_seed(0)
classifier = torch.nn.Sequential(                     # a window of 32 pixels, one answer every 8
    torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(16, 32, 4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(32, 3, 2))
backdrop = scene.image.mean((1, 2), keepdim=True)

def place(height, width, row, column):
    image = backdrop.expand(3, height, width).clone()
    image[:, max(row - 6, 0):row + 6, max(column - 9, 0):column + 9] = 0.9
    return image

SlidingExplorer(classifier, place, ("car", "boat", "ground"), 32, 8, largest=96)"""]

# In the page: one event at a time, each timed to the change that it causes.
# SLIDERS: how many of each explorer's sliders are used: a cell's sliders have too few steps to go far.
MEASURE = """async ({events, gap}) => {
    const SLIDERS = [3, 4];
    const pause = (ms) => new Promise((go) => setTimeout(go, ms));
    const until = (node, done, options) => new Promise((go) => {
        const watch = new MutationObserver(() => {
            if (!done()) return;
            watch.disconnect();
            const drawn = performance.now();
            requestAnimationFrame(() => go([drawn, performance.now()]));
        });
        watch.observe(node, options);
    });
    const floor = document.querySelector('.floor');
    const askFloor = (number) => {
        const end = until(floor, () => floor.textContent === String(number),
                          {childList: true, characterData: true, subtree: true});
        const start = performance.now();
        floor.ask(number);
        return end.then((times) => times.map((time) => time - start));
    };
    const inputs = (root) => [...root.querySelectorAll('.sv-controls input, .sv-controls select')];
    const wanted = (root) => inputs(root).map((input) =>
        input.type === 'range' ? Math.round((input.value - input.min) / input.step)
        : input.type === 'checkbox' ? Number(input.checked) : input.selectedIndex).join();
    const move = (root, slider, value) => {
        const before = root.dataset.drawn;
        let key = null;
        // Watched before the event: a state that is here already is drawn within it.
        const done = () => root.dataset.drawn !== before && root.dataset.key === key;
        const end = until(root, done, {attributes: true});
        const start = performance.now();
        slider.value = value;
        key = wanted(root);
        slider.dispatchEvent(new Event('input'));
        return end
            .then((times) => times.map((time) => time - start));
    };
    let seed = 1;
    const random = (below) => { seed = (seed * 16807) % 2147483647; return seed % below; };
    const far = (slider) => {                           // farther than what is fetched ahead
        const place = (value) => Math.round((value - slider.min) / slider.step);
        const steps = place(slider.max), now = place(slider.value);
        const away = 4 + random(steps - 7);
        return Number(slider.min) + ((now + away) % (steps + 1)) * slider.step;
    };
    const roots = [...document.querySelectorAll('section.sv')];
    const found = {floor: [], explorers: roots.map(() => ({kernel: [], browser: []}))};
    const walked = roots.map(() => []);
    let asked = 0;
    for (const [i, root] of roots.entries()) {           // one explorer after the other, as a learner uses them
        for (let n = 1; n <= events; n++) {
            found.floor.push(await askFloor(++asked));
            await pause(gap);
            const slider = root.querySelectorAll('input[type=range]')[random(SLIDERS[i])];
            walked[i].push([slider, slider.value]);
            found.explorers[i].kernel.push(await move(root, slider, far(slider)));
            await pause(gap);
        }
        await pause(2000);                               // until what it fetches ahead has come
    }
    for (let n = 1; n < events; n++)                     // back the same way: all of these have been seen
        for (const [i, root] of roots.entries()) {
            found.explorers[i].browser.push(await move(root, ...walked[i].at(-n)));
            await pause(20 + random(20));
        }
    return found;
}"""


def measure(events: int, nodelay: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder, driving.launched() as browser:
        cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), Path(folder) / "bench.ipynb")
        with driving.jupyter_lab(folder, nodelay=nodelay) as lab, driving.watched_page(browser) as page:
            page.set_viewport_size({"width": 1280, "height": 2400})
            driving.open_notebook(page, lab, "bench.ipynb")
            driving.run_all(page)
            page.wait_for_function("() => document.querySelectorAll('section.sv[data-drawn]').length === 2")
            page.wait_for_timeout(3000)                   # until what is fetched ahead has come
            found = page.evaluate(MEASURE, {"events": events, "gap": GAP})
            frames = drag(page)
    return summary(found) | {"drag_frames_per_second": frames}


def drag(page) -> float:
    """Pictures a second while a real mouse drags the first slider to and fro for three seconds."""
    root = page.locator("section.sv").first
    root.scroll_into_view_if_needed()
    box = root.locator("input[type=range]").first.bounding_box()
    y, before = box["y"] + box["height"] / 2, int(root.get_attribute("data-drawn"))
    page.mouse.move(box["x"] + 2, y)
    page.mouse.down()
    start = page.evaluate("performance.now()")
    for turn in range(6):
        page.mouse.move(box["x"] + (0.98 if turn % 2 == 0 else 0.02) * box["width"], y, steps=30)
    page.mouse.up()
    seconds = (page.evaluate("performance.now()") - start) / 1000
    return round((int(root.get_attribute("data-drawn")) - before) / seconds, 1)


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def summary(found: dict) -> dict:
    def one(pairs):
        drawn, shown = zip(*pairs, strict=True)
        return {"drawn_p50": quantile(drawn, 0.5), "drawn_p95": quantile(drawn, 0.95),
                "shown_p50": quantile(shown, 0.5), "shown_p95": quantile(shown, 0.95)}

    floor = one(found["floor"])
    out = {"floor": floor}
    for name, times in zip(EXPLORERS, found["explorers"], strict=True):
        out[name] = {where: one(values) for where, values in times.items()}
        out[name]["kernel"]["ratio_to_floor"] = {
            q: round(out[name]["kernel"][q] / floor[q], 2) for q in floor
        }
    return out


def processor() -> str:
    for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def show(results: dict) -> None:
    columns = ("drawn_p50", "drawn_p95", "shown_p50", "shown_p95")
    print(" " * 34 + "".join(f"{name.replace('_', ' '):>11}" for name in columns) + "   drawn p95 / floor")
    for delay, run in results["runs"].items():
        rows = {f"{delay}: floor, a label alone": run["floor"]}
        rows |= {
            f"  {name}, state from the {where}": row for name in EXPLORERS for where, row in run[name].items()
        }
        for label, row in rows.items():
            ratio = f"{row['ratio_to_floor']['drawn_p95']:10}" if "ratio_to_floor" in row else ""
            print(label.ljust(34) + "".join(f"{row[name]:11}" for name in columns) + ratio)
        print(f"  drag: {run['drag_frames_per_second']} pictures a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100)
    events = parser.parse_args().events
    if reason := driving.why_not():
        sys.exit(reason)
    results = {
        "date": datetime.date.today().isoformat(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "events": events,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "runs": {"Nagle on": measure(events, nodelay=False), "Nagle off": measure(events, nodelay=True)},
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    show(results)


if __name__ == "__main__":
    main()
