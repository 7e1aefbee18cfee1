"""`segviz learn`: the learner's copies, and JupyterLab on this machine alone, opened where they left off."""

import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

from jupyter_server.serverapp import ServerApp, list_running_servers
from jupyterlab.labapp import LabApp

from segviz import copies, course, doctor
from segviz.course import CourseError, Lesson
from segviz.exercises.progress import Progress

try:
    from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
except ImportError:                    # a server that has moved it works as well, only slower
    ZMQChannelsWebsocketConnection = None
else:
    class NoDelayWebsocket(ZMQChannelsWebsocketConnection):
        """Sends each message at once: Nagle's algorithm holds small ones back for 40 ms, and sliders lag."""

        def connect(self):
            with suppress(Exception):  # a wish, not a condition
                self.websocket_handler.set_nodelay(True)
            return super().connect()

HOST = "127.0.0.1"
PORT = 8888
SETTINGS = Path(__file__).parent / "jupyter"     # defaults for JupyterLab: notebooks keep their explorers when saved
Say = Callable[[str], None]


def learn(lesson: str | None = None, port: int = PORT, browser: bool = True, say: Say = print) -> None:
    """Runs until Ctrl-C. `lesson` is a number such as "02"; `port` the first one to try.

    Raises CourseError, in words, where the course cannot be opened.
    """
    folder = course.COPIES
    opened = _chosen(lesson)
    if running := running_server(folder):
        # Copies are left as they are: a notebook that is open must not change under its reader.
        _already_running(running, opened, browser, say)
        return
    if problem := doctor.kernel_problem():
        raise CourseError(problem)
    _lay_copies(folder, say)
    server = _server(folder, opened, free_port(port, say))
    address = f"http://{HOST}:{server.port}{_page(opened)}?token={server.identity_provider.token}"
    say(f"\nThe course is open at\n\n    {address}\n\nStop it here with Ctrl-C. Your work stays in {folder}.")
    if _root():
        say("This runs as root, and so will all code in the lessons: a user of your own is safer.")
    if browser and not _open(address):
        say("No browser was found here: copy the address into one on this machine.")
    server.start()
    say(f"The course is closed. Your work is in {folder}; `make learn` (or `segviz learn`) goes on with it.")


def _chosen(number: str | None) -> Lesson:
    if number is None:
        return course.next_lesson(Progress())
    found = {lesson.number: lesson for lesson in course.lessons()}
    if number.zfill(2) not in found:
        raise CourseError(f"expected the number of a lesson, one of {', '.join(found)}; got {number!r}")
    return found[number.zfill(2)]


def _lay_copies(folder: Path, say: Say) -> None:
    try:
        for change in copies.prepare(folder):
            say(change.words)
    except CourseError as error:
        if not any(folder.glob("*.ipynb")):
            raise
        say(f"The lessons could not be renewed: {error}. Yours are opened as they are.")


# -- the address


def free_port(first: int, say: Say = print) -> int:
    """`first`, or the next port of this machine that nobody listens on, said in words."""
    for port in range(first, min(first + 50, 65536)):
        with socket.socket() as probe:
            if os.name != "nt":        # elsewhere it would let two servers share a port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                if port != first:
                    say(f"Port {first} is in use by another program: using {port}.")
                return port
    raise CourseError(f"no free port from {first} on: choose another start with `segviz learn --port NUMBER`")


def running_server(folder: Path) -> dict | None:
    """What Jupyter notes about a server that serves `folder` already, and answers; None without one."""
    with suppress(OSError):            # Jupyter's runtime folder cannot be read: then nothing is known to run
        for info in list_running_servers():
            with suppress(OSError, ValueError, KeyError):
                if Path(info["root_dir"]).resolve() == folder.resolve():
                    urlopen(f"{info['url']}api/status?token={info['token']}", timeout=3).close()
                    return info
    return None


def _already_running(info: dict, lesson: Lesson, browser: bool, say: Say) -> None:
    address = f"{info['url'].rstrip('/')}{_page(lesson)}?token={info['token']}"
    say(f"The course is already open, by process {info['pid']}, at\n\n    {address}\n")
    if browser and _open(address):
        say("It is shown in your browser.")
    say("To renew the lessons after an update, stop that one with Ctrl-C first, then start again.")


def _page(lesson: Lesson) -> str:
    return f"/lab/tree/{quote(lesson.name)}.ipynb"


def _open(address: str) -> bool:
    """Shows the page in a browser with windows; text browsers would take over this terminal."""
    graphical = {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & os.environ.keys()
    try:
        return bool(sys.platform in ("win32", "darwin") or graphical) and webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


# -- the server


def _root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _server(folder: Path, lesson: Lesson, port: int) -> ServerApp:
    """JupyterLab, ready to start. This wins over the learner's own Jupyter settings; the rest is theirs."""
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")      # this environment's kernel before the user's
    paths = [str(SETTINGS), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(paths)
    options = {
        "ServerApp.ip": HOST,
        "ServerApp.port": port,
        "ServerApp.allow_origin": "",
        "ServerApp.allow_origin_pat": "",
        "ServerApp.allow_remote_access": False,
        "ServerApp.root_dir": folder,
        "ServerApp.preferred_dir": folder,
        "ServerApp.base_url": "/",
        "ServerApp.open_browser": False,                       # opened by us, once the port is known
        "ServerApp.answer_yes": True,                          # one Ctrl-C stops it, without a question
        "ServerApp.allow_root": _root(),                       # containers have nobody else; it is said above
        "Application.log_level": "ERROR",
        "IdentityProvider.token": secrets.token_hex(24),
        "LabApp.default_url": _page(lesson),
        "LabApp.news_url": None,                               # neither asks for news nor fetches any
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    if ZMQChannelsWebsocketConnection:
        options["ServerApp.kernel_websocket_connection_class"] = "segviz.launch.NoDelayWebsocket"
    return LabApp.initialize_server(argv=[f"--{name}={value}" for name, value in options.items()])
