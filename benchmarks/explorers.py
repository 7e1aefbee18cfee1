"""How fast the explorers answer, in a real browser, beside the bare round trip to the kernel in the same run.

    python benchmarks/explorers.py [--events 100] [--only scores,receptive] [--nagle off]

Milliseconds from a control's input event until the canvas is drawn ("drawn"), and until the animation frame that shows
it ("shown"). "floor" is a label alone: a number goes to the kernel and comes back into a text. "kernel" are states that
the browser does not have: before each timed move another control is moved anywhere, untimed. "browser" are states that
it has: the same way back. "point" are places of a local point, which need no state. Each is measured with the server's
Nagle delay on (Jupyter's default) and off (the course's own server); floor and explorers take turns, so that all meet
the same moments of the machine. Bars: kernel p95 at most 40 ms, or at most 1.3 x the floor; browser and point p95 at
most 20 ms, shown. Writes data/results/explorers.json: where only some are measured, the others stay as they were
measured before, each beside the floor of its own run. A trial of fewer events, or with one delay alone, is not kept.
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
KEPT = 100  # events: what fewer of them found is not written
GAP = 70  # ms between events: quicker than the 100 ms beyond which Nagle's delay hides

FIRST = """
import anywidget, torch, traitlets
from segviz.data import toytown
from segviz.widgets import *
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

Floor()"""

# name: (the cell that makes it, the label of its local point or "")
EXPLORERS = {
    "scores": ("""
scene = toytown.scene(0)
ScoresExplorer(scene.image, scene.mask, toytown.CLASSES, disturb="pole")""", ""),
    "sliding": ("""
torch.manual_seed(0)
classifier = torch.nn.Sequential(                     # a window of 32 pixels, one answer every 8
    torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(16, 32, 4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
    torch.nn.Conv2d(32, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(32, 3, 2))
backdrop = toytown.scene(0).image.mean((1, 2), keepdim=True)

def place(height, width, row, column):
    image = backdrop.expand(3, height, width).clone()
    image[:, max(row - 6, 0):row + 6, max(column - 9, 0):column + 9] = 0.9
    return image

SlidingExplorer(classifier, place, ("car", "boat", "ground"), 32, 8, largest=96)""", ""),
    "receptive": ("ReceptiveExplorer(toytown.scene(0, 224).image)", "Unit"),
    "upsampling": ("UpsamplingExplorer()", "Output cell"),
    "checkerboard": ("CheckerboardExplorer(toytown.scene(0).image.mean(0))", "Output cell"),
    "skips": ("""
from segviz.models import FCN8s
torch.manual_seed(0)
scenes = [toytown.scene(number, 64) for number in range(24)]
network = FCN8s(10, width=8, padding=1)               # not trained: scores by chance, for they begin at zero
for score in (network.score, *network.skip_scores):
    torch.nn.init.normal_(score.weight)
SkipsExplorer(network, [scene.image for scene in scenes], [scene.mask for scene in scenes])""", "Pixel"),
    "switches": ("""
from segviz.models import DeconvNet
torch.manual_seed(0)
scenes = [toytown.scene(number, 64) for number in range(24)]
SwitchesExplorer(DeconvNet(10, width=8, size=64), [scene.image for scene in scenes], [scene.mask for scene in scenes])
""", ""),
    "unet_shapes": ("UNetShapesExplorer()", ""),
    "unet_skips": ("""
from segviz.data import cells
from segviz.models import UNet
torch.manual_seed(0)
scenes = [cells.scene(number) for number in range(24)]
network = UNet(2, in_channels=1, width=8, norm=True)
UNetSkipsExplorer(network, [scene.image for scene in scenes], [scene.mask for scene in scenes], cells.CLASSES,
                  cells.PALETTE, count="cell")
""", ""),
    "pyramid": ("""
from segviz.models import PSPNet
torch.manual_seed(0)
PyramidExplorer(PSPNet(4, width=8, layers=(1, 1, 1, 1)), range(24))                 # not trained
""", "Pixel"),
    "atrous": ("AtrousExplorer()", "Unit"),
    "atrous_rates": ("""
from torch import nn
torch.manual_seed(0)
scenes = [toytown.scene(number, 64) for number in range(24)]
layers = []
for channels, rate in ((3, 2), (16, 4), (16, 6), (16, 7)):
    layers += [nn.Conv2d(channels, 16, 3, padding=rate, dilation=rate), nn.BatchNorm2d(16), nn.ReLU()]
network = nn.Sequential(*layers, nn.Conv2d(16, 10, 1))
AtrousRatesExplorer(network, [scene.image for scene in scenes], [scene.mask for scene in scenes])    # not trained
""", ""),
    "deeplab": ("""
from segviz.models import DeepLabV3Plus
torch.manual_seed(0)
scenes = [toytown.scene(number, 64) for number in range(24)]
network, other = (DeepLabV3Plus(10, width=8, layers=(1, 1, 1, 1), output_stride=8, rates=(1, 2, 4), separable=separable)
                  for separable in (True, False))
DeepLabExplorer(network, [scene.image for scene in scenes], [scene.mask for scene in scenes], other=other) # not trained
""", ""),
    "crf": ("""
scenes = [toytown.scene(number, 64) for number in range(4)]
coarse = torch.stack([(scene.mask == torch.arange(10)[:, None, None]).float() for scene in scenes])
coarse = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(coarse, 8), 64, mode="bilinear")
CRFExplorer((5 * coarse).softmax(1), [scene.image for scene in scenes], [scene.mask for scene in scenes])
""", ""),
    "compare": ("""
from segviz.models import FCN8s, UNet
torch.manual_seed(0)
scenes = [toytown.scene(number, 96) for number in range(24)]
networks = {"FCN-8s": FCN8s(10, width=4, padding=1), "U-Net": UNet(10, width=8, norm=True)}         # not trained
networks |= {f"U-Net, width {width}": UNet(10, width=width, norm=True) for width in (4, 6)}
CompareExplorer(networks, [scene.image for scene in scenes], [scene.mask for scene in scenes])
""", "Line"),
}

# In the page: one event at a time, each timed to the change that it causes.
MEASURE = """async ({events, gap, points}) => {
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
    let seed = 1;
    const random = (below) => { seed = (seed * 16807) % 2147483647; return seed % below; };
    const placeOf = (input) => input.type === 'range' ? Math.round((input.value - input.min) / input.step)
        : input.type === 'checkbox' ? Number(input.checked) : input.selectedIndex;
    const countOf = (input) => input.type === 'range' ? Math.round((input.max - input.min) / input.step) + 1
        : input.type === 'checkbox' ? 2 : input.options.length;
    const put = (input, place) => {
        if (input.type === 'range') input.value = Number(input.min) + place * input.step;
        else if (input.type === 'checkbox') input.checked = Boolean(place);
        else input.selectedIndex = place;
    };
    const move = async (root, input, place) => {         // null where the event changes nothing
        const before = root.dataset.drawn;
        // Watched before the event: a state that is here already is drawn within it.
        const end = until(root, () => root.dataset.drawn !== before && root.dataset.key === root.dataset.wanted,
                          {attributes: true});
        const start = performance.now(), was = placeOf(input);
        put(input, place);
        if (placeOf(input) === was) return null;
        input.dispatchEvent(new Event('input'));
        return (await end).map((time) => time - start);
    };
    const roots = [...document.querySelectorAll('section.sv')];
    const inputsOf = (root) => [...root.querySelectorAll('.sv-controls input, .sv-controls select')]
        .filter((input) => !input.disabled && !input.closest('.sv-control').hidden && countOf(input) > 1);
    const isLocal = (input, point) => point && (input.getAttribute('aria-label') || '').startsWith(point + ':');
    const found = {floor: [], explorers: roots.map(() => ({kernel: [], browser: [], point: []}))};
    let asked = 0;
    for (const [i, root] of roots.entries()) {           // one explorer after the other, as a learner uses them
        const seen = new Set(), times = found.explorers[i].kernel;
        for (let n = 0; times.length < events && n < 4 * events; n++) {
            const given = inputsOf(root).filter((input) => !isLocal(input, points[i]));
            const other = given[random(given.length)];
            await move(root, other, random(countOf(other)));
            seen.add(root.dataset.key);
            await pause(gap);
            found.floor.push(await askFloor(++asked));
            await pause(gap);
            // Farther than what is fetched ahead.
            const sliders = inputsOf(root).filter((input) => !isLocal(input, points[i]) && input.type === 'range'
                                                             && countOf(input) >= 8);
            if (!sliders.length) continue;
            const slider = sliders[random(sliders.length)], steps = countOf(slider), now = placeOf(slider);
            const time = await move(root, slider, (now + 4 + random(steps - 7)) % steps);
            if (time && !seen.has(root.dataset.key)) {
                times.push(time);
            }
            seen.add(root.dataset.key);
            await pause(gap);
            if (time) {                                  // and back at once: both states are here
                found.explorers[i].browser.push(await move(root, slider, now));
                await pause(20 + random(20));
            }
        }
        await pause(500);
    }
    for (let n = 0; n < events; n++)
        for (const [i, root] of roots.entries()) {
            const sliders = inputsOf(root).filter((input) => isLocal(input, points[i]));
            if (!sliders.length) continue;
            const slider = sliders[random(sliders.length)], steps = countOf(slider);
            const time = await move(root, slider, (placeOf(slider) + 1 + random(steps - 1)) % steps);
            if (time) found.explorers[i].point.push(time);
            await pause(20 + random(20));
        }
    return found;
}"""


def measure(names: list[str], events: int, nodelay: bool) -> dict:
    with tempfile.TemporaryDirectory() as folder, driving.launched() as browser:
        sources = [FIRST, *(EXPLORERS[name][0] for name in names)]
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), Path(folder) / "bench.ipynb")
        with driving.jupyter_lab(folder, nodelay=nodelay) as lab, driving.watched_page(browser) as page:
            page.set_viewport_size({"width": 1280, "height": 1300 * len(names)})
            driving.open_notebook(page, lab, "bench.ipynb")
            driving.run_all(page)
            page.wait_for_function("n => document.querySelectorAll('section.sv[data-drawn]').length === n",
                                   arg=len(names))
            page.wait_for_timeout(3000)                   # until what is fetched ahead has come
            points = [EXPLORERS[name][1] for name in names]
            found = page.evaluate(MEASURE, {"events": events, "gap": GAP, "points": points})
            frames = drag(page)
    return summary(names, found) | {"drag_frames_per_second": frames}


def drag(page) -> float:
    """Pictures a second while a real mouse drags the first slider to and fro for three seconds."""
    root = page.locator("section.sv").first
    root.scroll_into_view_if_needed()
    box = root.locator("input[type=range]:visible").first.bounding_box()
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


def summary(names: list[str], found: dict) -> dict:
    def one(pairs):
        drawn, shown = zip(*pairs, strict=True)
        return {"drawn_p50": quantile(drawn, 0.5), "drawn_p95": quantile(drawn, 0.95),
                "shown_p50": quantile(shown, 0.5), "shown_p95": quantile(shown, 0.95), "events": len(pairs)}

    floor = one(found["floor"])
    out = {"floor": floor}
    for name, times in zip(names, found["explorers"], strict=True):
        out[name] = {where: one(values) for where, values in times.items() if values}
        kernel = out[name]["kernel"]
        kernel["floor"] = floor
        kernel["ratio_to_floor"] = {q: round(kernel[q] / floor[q], 2) for q in floor if q != "events"}
    return out


def processor() -> str:
    for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


WHERE = {"kernel": "state from the kernel", "browser": "state in the browser", "point": "place of its point"}


def show(results: dict) -> None:
    columns = ("drawn_p50", "drawn_p95", "shown_p50", "shown_p95")
    print(" " * 34 + "".join(f"{name.replace('_', ' '):>11}" for name in columns) + "   drawn p95 / floor")
    for delay, run in results["runs"].items():
        rows = {f"{delay}: floor, a label alone": run["floor"]}
        rows |= {f"  {name}, {WHERE[where]}": row
                 for name in EXPLORERS for where, row in run.get(name, {}).items()}
        for label, row in rows.items():
            ratio = f"{row['ratio_to_floor']['drawn_p95']:10}" if "ratio_to_floor" in row else ""
            print(label.ljust(34) + "".join(f"{row[name]:11}" for name in columns) + ratio)
        print(f"  drag: {run['drag_frames_per_second']} pictures a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--only", default=",".join(EXPLORERS), help="names, separated by commas")
    parser.add_argument("--nagle", choices=("on", "off", "both"), default="both")
    given = parser.parse_args()
    names, events = given.only.split(","), given.events
    if reason := driving.why_not():
        sys.exit(reason)
    results = {
        "date": datetime.date.today().isoformat(),
        "cpu": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "events": events,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "runs": {f"Nagle {delay}": measure(names, events, nodelay=delay == "off")
                 for delay in ("on", "off") if given.nagle in (delay, "both")},
    }
    show(results)
    if events >= KEPT and given.nagle == "both":
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        if RESULTS.exists():
            before = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"]
            results["runs"] = {delay: before[delay] | run for delay, run in results["runs"].items()}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
