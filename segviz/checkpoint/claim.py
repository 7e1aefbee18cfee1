"""One run a folder: a lock that ends with its process."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "run.lock"
_claims: set = set()  # the open lock files of this process


@contextmanager
def claim(folder: str | os.PathLike) -> Iterator[None]:
    """`with claim(folder):` no other run works in the folder meanwhile, be it of this process or of another.

    Makes the folder where it is missing, and removes the unfinished files of a run that was killed. The claim is a lock
    of the operating system on the file `run.lock`, which names process and host. It ends with the process, however that
    ends, so that a file that was left behind is in nobody's way. On a file system that has no locks there is none.
    Raises ValueError naming the other run, and OSError in words where the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a+", encoding="utf-8")
    except OSError as error:
        raise OSError(f"no run can write into {folder}: {error.strerror or error}. Choose another folder") from error
    with file:
        if not _locked(file):
            file.seek(0)
            raise ValueError(f"another run is at work in {folder} ({file.read().strip() or 'it does not say which'}): "
                             "wait for it, stop it, or choose another folder")
        _note(file, f"process {os.getpid()} on {socket.gethostname()}\n")
        for left in folder.glob(".*.safetensors.*.tmp"):
            left.unlink(missing_ok=True)
        _claims.add(file)
        try:
            yield
        finally:
            _claims.discard(file)
            if not file.closed:  # it is in a forked child
                _note(file, "")


def _note(file, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _locked(file) -> bool:
    """Locks an open file until it is closed; False where another has it."""
    try:
        if os.name == "nt":
            import msvcrt
            file.seek(1 << 30)  # a byte far behind the text, which others may still read then
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass  # no locks here
    return True


def _leave_to_parent() -> None:
    """In a forked child, such as a data loader's worker: the claim is its parent's and ends with the parent."""
    for file in _claims:
        file.close()
    _claims.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
