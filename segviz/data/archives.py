"""Archives of data sets: fetched over HTTPS, known by their SHA-256, unpacked into a folder of their own."""

import errno
import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.request
import zlib
from pathlib import Path

from tqdm.auto import tqdm

FILES, BYTES, RATIO = 200_000, 20 << 30, 100  # what an archive may hold at most; how many times its own size
PIECE = 1 << 20  # bytes that are read at once
LONGEST = 255  # letters of a name


def fetched(what: str, url: str, sha256: str, folder: Path) -> Path:
    """The archive at `url`, downloaded into `folder` unless it lies there. A bar shows how far it is.

    It is there whole or not at all, and only if it has this SHA-256. what: whose it is, for the words of errors.
    Raises OSError where it cannot be had, ValueError where it is not the one expected.
    """
    path = folder / url.rpartition("/")[2]
    if path.exists():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(f"{path} is not the archive of {what} (SHA-256 {found}): delete it, and try again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{path.name}.{os.getpid()}.part"
    try:
        found = _downloaded(url, part)
        if found != sha256:
            raise ValueError(f"{url} is not the archive of {what} any more (SHA-256 {found}): nothing was kept")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        said = " ".join(str(error).split())
        raise OSError(
            f"{what} could not be fetched from {url} ({said}). Try again later, or put the file at {path} yourself"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _downloaded(url: str, path: Path) -> str:
    """Writes what is at `url` to a file; its SHA-256. Over HTTPS, wherever that leads."""
    if not url.startswith("https://"):
        raise ValueError(f"data sets are fetched over HTTPS alone, and not from {url}")
    digest = hashlib.sha256()
    with urllib.request.urlopen(url, timeout=60) as source, path.open("wb") as file:
        if not source.url.startswith("https://"):
            raise OSError(f"it leads to {source.url}, which is not HTTPS")
        size = source.length
        with tqdm(total=size, desc=f"fetching {url.rpartition('/')[2]}", unit="B", unit_scale=True, delay=2) as bar:
            while piece := source.read(PIECE):
                digest.update(piece)
                file.write(piece)
                bar.update(len(piece))
    if size is not None and path.stat().st_size < size:
        raise OSError(f"the connection ended after {path.stat().st_size} of {size} bytes")
    return digest.hexdigest()


def unpacked(archive: Path, folder: Path, *, files: int = FILES, size: int = BYTES) -> None:
    """Unpacks an archive, tar or tar.gz, so that `folder` holds what it holds: all of it, or nothing.

    Only plain files and folders, below `folder`. Raises ValueError in words for anything else in it (links, devices,
    files with holes, names that lead elsewhere or cannot be printed), for more than `files` of them, for more than
    `size` bytes or 100 times the archive's own, and for a file that is damaged; OSError for a full disk. What lies in
    `folder` under the same names is replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder))
    size, counted, bytes_ = min(size, RATIO * archive.stat().st_size), 0, 0
    try:
        with _Bytes(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tqdm(tar, f"unpacking {archive.name}", delay=2, leave=False, unit=" files"):
                counted, bytes_ = counted + 1, bytes_ + member.size
                if not _is_plain(member):
                    raise ValueError(f"it holds {member.name[:LONGEST]!r}, which is no plain file or folder inside it")
                if counted > files or bytes_ > size:
                    raise ValueError(f"it holds more than {files} files, or more than {size} bytes")
                tar.extract(member, room, filter="data")
        for made in room.iterdir():
            _moved(made, folder / made.name)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(
                f"{archive} was not unpacked: no space is left at {folder}. Make room, and try again"
            ) from error
        raise ValueError(f"{archive} was not unpacked: {error}. If it is damaged, delete it and try again") from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _is_plain(member: tarfile.TarInfo) -> bool:
    """A file or a folder of a sensible name. A file with holes says nothing true of its size."""
    kind = (member.isreg() and not member.issparse()) or member.isdir()
    name = len(member.name) <= LONGEST and member.name.isprintable() and not member.name.startswith("/")
    return kind and name and member.size >= 0


class _Bytes:
    """An archive's bytes, as `tarfile` reads them, and no more than PIECE at once: it reads a member's extended header
    whole, of whatever size that says it is."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        self.file = gzip.open(path) if packed else path.open("rb")
        self.tell, self.seek = self.file.tell, self.file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= PIECE:
            raise ValueError(f"it holds a header of {size} bytes")
        return self.file.read(size)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.file.close()


def _moved(path: Path, to: Path) -> None:
    """A file or a folder to its place; folders that are there already are joined."""
    if path.is_dir() and to.is_dir():
        for each in path.iterdir():
            _moved(each, to / each.name)
    else:
        path.replace(to)
