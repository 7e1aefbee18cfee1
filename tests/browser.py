"""Driving JupyterLab in headless Chromium: a server of its own for each test module, and what a learner does
on a page.

Chromium is `SEGVIZ_CHROMIUM`, or found on the path. Values that JupyterLab's own objects reach into must not
be returned from `evaluate` (it would try to serialise the whole application): the scripts here return numbers
and words only.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ARGUMENTS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
# No questions about news; and notebooks keep their widgets, which JupyterLab does not do by itself.
SETTINGS = {"@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True}}
NODELAY = "segviz.launch.NoDelayWebsocket"


def why_not() -> str:
    """Why no browser can be driven here, in words; empty where one can."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "no browser test: Playwright's Python package is not installed (pip install playwright)"
    return (
        ""
        if chromium()
        else "no browser test: Chromium was not found (install it, or name it in SEGVIZ_CHROMIUM)"
    )


def chromium() -> str | None:
    named = os.environ.get("SEGVIZ_CHROMIUM")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    return named or next(filter(None, found), None)


@contextmanager
def launched():
    """A headless Chromium; each page takes a context of its own from it."""
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Lab:
    """A running JupyterLab: `url` without a slash at its end, `token`, and the folder it serves."""

    url: str
    token: str
    root: Path

    def address(self, notebook: str) -> str:
        """The notebook alone: `reset` closes what another page left open."""
        return f"{self.url}/lab/tree/{notebook}?reset&token={self.token}"


@contextmanager
def jupyter_lab(root: Path, nodelay: bool = True, environment: dict | None = None, seconds: float = 60):
    """JupyterLab on a free port, serving `root`, with settings of its own and none of this account's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    state = Path(root) / ".jupyter-state"
    for plugin, settings in SETTINGS.items():
        path = state / "settings" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
               "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"}
    folders = {name: str(state / folder) for name, folder in folders.items()}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--LabApp.expose_app_in_browser=True",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        "--IdentityProvider.token=sesame",
        "--ServerApp.log_level=WARN",
    ]
    if nodelay:
        command.append(f"--ServerApp.kernel_websocket_connection_class={NODELAY}")
    log = state / "server.log"
    with log.open("w", encoding="utf-8") as words:
        server = subprocess.Popen(command, stdout=words, stderr=words, cwd=root,
                                  env=os.environ | folders | (environment or {}))
        lab = Lab(f"http://127.0.0.1:{port}", "sesame", Path(root))
        try:
            _wait_for(lab, server, log, seconds)
            yield lab
        finally:
            server.terminate()
            try:
                server.wait(15)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(lab: Lab, server: subprocess.Popen, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=2).close()
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start in {seconds} s:\n{log.read_text(encoding='utf-8')[-2000:]}")


# --- on a page of JupyterLab

PANEL = "window.jupyterapp.shell.currentWidget"
KERNEL = f"{PANEL}?.sessionContext?.session?.kernel"


def open_notebook(page, lab: Lab, name: str, seconds: float = 60) -> None:
    """Opens the notebook and waits until its kernel is idle."""
    page.goto(lab.address(name))
    page.wait_for_selector(".jp-Notebook", timeout=1000 * seconds)
    page.wait_for_function(f"() => {KERNEL}?.status === 'idle'", timeout=1000 * seconds)


def command(page, name: str, arguments: dict | None = None) -> None:
    """Runs one of JupyterLab's commands and does not wait for its end."""
    page.evaluate("([name, given]) => { window.jupyterapp.commands.execute(name, given); return null; }",
                  [name, arguments or {}])


def unrun(page) -> int:
    """How many code cells have not been run to their end."""
    return page.evaluate(f"""() => {{
        let open = 0;
        for (const cell of {PANEL}.content.widgets)
            if (cell.model.type === 'code' && cell.model.sharedModel.source.trim()
                && (cell.model.executionCount === null || cell.promptNode?.textContent.includes('*')))
                open += 1;
        return open;
    }}""")


def run_all(page, seconds: float = 120) -> None:
    """Runs every cell and waits for the last. A request just after opening can be dropped: while no cell has been run
    and the kernel has nothing to do, it is made again."""
    end, at_first = time.monotonic() + seconds, unrun(page)
    command(page, "notebook:run-all-cells")
    asked = time.monotonic()
    while unrun(page) or page.evaluate(f"() => {KERNEL}?.status !== 'idle'"):
        if time.monotonic() > end:
            raise TimeoutError(f"{unrun(page)} cells have not run after {seconds} s")
        dropped = unrun(page) == at_first and page.evaluate(f"() => {KERNEL}?.status === 'idle'")
        if dropped and time.monotonic() - asked > 5:
            command(page, "notebook:run-all-cells")
            asked = time.monotonic()
        page.wait_for_timeout(100)


def run_cell(page, number: int, source: str | None = None, seconds: float = 30) -> str:
    """Runs cell `number` (from 0), with a new source where one is given; returns the text of its outputs."""
    page.evaluate(f"""([number, source]) => {{
        const notebook = {PANEL}.content, cell = notebook.widgets[number];
        if (source !== null) cell.model.sharedModel.setSource(source);
        cell.model.clearExecution();
        notebook.deselectAll();
        notebook.activeCellIndex = number;
        window.jupyterapp.commands.execute('notebook:run-cell');
        return null;
    }}""", [number, source])
    page.wait_for_function(f"([n]) => {PANEL}.content.widgets[n].model.executionCount !== null "
                           f"&& {KERNEL}?.status === 'idle'", arg=[number], timeout=1000 * seconds)
    return page.evaluate(f"([n]) => {PANEL}.content.widgets[n].outputArea?.node.innerText ?? ''", [number])


def picture(root) -> str:
    """What an explorer's canvas shows in the next frame: what moves twice within one frame is drawn in the next."""
    return root.locator("canvas").evaluate(
        "canvas => new Promise((done) => requestAnimationFrame(() => done(canvas.toDataURL())))")


def settled(page, number: int = 0) -> str:
    """Waits until what is drawn in that explorer of the page is what is wanted, and returns the drawn key."""
    page.wait_for_function("""n => {
        const root = document.querySelectorAll('section.sv')[n];
        return root.dataset.key === root.dataset.wanted;
    }""", arg=number)
    return page.locator("section.sv").nth(number).get_attribute("data-key")


@contextmanager
def watched_page(browser, **options):
    """A page in a context of its own; `page.errors` collects uncaught errors and the console's."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 1000}} | options))
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda line: page.errors.append(line.text) if line.type == "error" else None)
    yield page
    context.close()
