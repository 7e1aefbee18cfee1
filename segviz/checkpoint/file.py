"""One file: tensors and a config, with a digest over both.

The file is a safetensors file: 8 bytes with the length of a header, the header in JSON (of each tensor the name, type,
shape and place), then the tensors' bytes. Any reader of safetensors reads it. In the header's `__metadata__` stand
three texts: `segviz`, the version of this format; `config`, JSON in its turn; and `digest`, the SHA-256 of all else.
A digest finds damage. It does not say who wrote the file: whoever can write one can compute it.
"""

import hashlib
import json
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

VERSION = 1                 # of the format, as written here
LARGEST_HEADER = 16 << 20   # bytes; more is no checkpoint of ours, and would take long to parse
TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}
NO_PICKLE = ("Files of torch.save (.pt, .pth) hold pickled Python, which may run any code when it is read, and are not "
             "read here. One that you trust: checkpoint.fill(model, torch.load(path, weights_only=True))")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: tensors on the CPU, in memory of their own, by name; and the config that was saved."""

    tensors: dict[str, Tensor]
    config: dict

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name` and a dot, without it: `part("model")`, `part("optimizer")`."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{name}.")}


def save(path: str | os.PathLike, tensors: dict[str, Tensor], config: dict) -> None:
    """Writes one file, whole or not at all: at every moment `path` is the old file or the new one.

    tensors: of any shape, on any device. config: what JSON can say; a tuple comes back as a list.
    A temporary file in the same folder is written, forced to the disk and renamed; on any failure it is removed, and
    what was at `path` before stays. Raises OSError in words where the file cannot be written, naming the path and the
    free space, and ValueError for what the file cannot hold.
    """
    path = Path(os.path.realpath(path))  # a link stays a link, to the new file
    tensors, text = _sorted(tensors), _text(config)
    header = _header(tensors, text, _digest(tensors, text))
    if len(header) > LARGEST_HEADER:
        raise ValueError(f"the config and the names take at most {LARGEST_HEADER} bytes, but here {len(header)}: keep "
                         "long lists as tensors")
    try:
        _write_whole(path, [len(header).to_bytes(8, "little") + header, *map(_bytes, tensors.values())])
    except OSError as error:
        size = len(header) + sum(tensor.nbytes for tensor in tensors.values())
        raise OSError(f"{path} was not written: {error.strerror or error}. It needs {size / 1e6:.1f} MB; "
                      f"{_free(path.parent)}. What was there before is unchanged: make "
                      "room, or save elsewhere") from error


def read(path: str | os.PathLike) -> Checkpoint:
    """The file at `path`, checked to the last bit. Nothing in it is run, and no class is looked up.

    Raises OSError where it cannot be read, and ValueError in words for what is empty, cut short, damaged, not a
    checkpoint (a pickle, a folder, a pipe, another program's safetensors) or written by a newer segviz.
    """
    path = Path(path)
    content = _content(path)  # at once: a run may put another file there meanwhile
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    try:
        tensors = _sorted(load(content))
        metadata = json.loads(header).get("__metadata__", {})
    except Exception as error:  # whatever a header that somebody made up does to the reader
        raise ValueError(f"{path} is damaged or cut short ({error}): take another copy of it") from None
    _check_format(path, metadata)
    text, digest = metadata["config"], metadata["digest"]
    if digest != _digest(tensors, text) or header != _header(tensors, text, digest):
        raise ValueError(f"{path} is damaged: it is not what the digest in it was made of. Take another copy of it")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a checkpoint of segviz: its config is no JSON object")
    return Checkpoint(tensors, config)


def _content(path: Path) -> bytes:
    """The whole file; ValueError where it has no header of sensible length."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}. A run keeps its own as best.safetensors and "
                                "last.safetensors in its folder") from None
    if not stat.S_ISREG(mode):  # asked first, as opening a pipe may wait for ever
        what = "a folder: name the file in it" if stat.S_ISDIR(mode) else "no file but a device, a pipe or a socket"
        raise ValueError(f"{path} is {what}")
    with open(path, "rb") as file:
        start, size = file.read(8), os.fstat(file.fileno()).st_size
        length = int.from_bytes(start, "little")
        if 0 < length <= min(size - 8, LARGEST_HEADER):
            file.seek(0)
            return file.read()
    if not size:
        raise ValueError(f"{path} is empty (0 bytes): it was never written, or its copy failed. "
                         "Take another copy of it")
    if start.startswith((b"PK\3\4", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")):
        raise ValueError(f"{path} is a pickle, not a safetensors file. {NO_PICKLE}")
    if 0 < length <= LARGEST_HEADER:
        raise ValueError(f"{path} is cut short: its header has {length} bytes, and the whole file {size}. Take another "
                         "copy of it")
    raise ValueError(f"{path} is not a safetensors file: it would begin with the length of its header, and has "
                     f"{start!r}. {NO_PICKLE}")


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    if not {"segviz", "config", "digest"} <= set(metadata):
        raise ValueError(f"{path} is a safetensors file, but not a checkpoint of segviz: its header has no config and "
                         "digest. Weights from elsewhere: checkpoint.fill(model, safetensors.torch.load_file(path))")
    if metadata["segviz"] != str(VERSION):
        raise ValueError(f"{path} has format {metadata['segviz'][:20]!r}, and this segviz reads format {VERSION}: if a "
                         "newer segviz wrote it, update this one")


def _sorted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU, contiguous, in the file's order: large numbers first, so that each lies at a multiple of its size;
    then by name. Raises ValueError for what the file cannot hold."""
    for name, tensor in tensors.items():
        held = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.dtype in TYPES
        if not held or name == "__metadata__":
            what = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"a checkpoint holds dense tensors of {', '.join(TYPES.values())}, but {name!r} is {what}")
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    return {name: tensors[name].detach().cpu().contiguous() for name in order}


def _text(config: dict) -> str:
    try:
        return json.dumps(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"a config is what JSON can say (numbers, texts, lists, dicts), but {error}") from None


def _header(tensors: dict[str, Tensor], text: str, digest: str) -> bytes:
    """The header, padded with spaces so that the tensors begin at a multiple of 8."""
    entries, place = {"__metadata__": {"segviz": str(VERSION), "digest": digest, "config": text}}, 0
    for name, tensor in tensors.items():
        end = place + tensor.nbytes
        entries[name] = {"dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over the header, its digest left out, and the tensors."""
    found = hashlib.sha256(_header(tensors, text, ""))
    for tensor in tensors.values():
        found.update(_bytes(tensor))
    return found.hexdigest()


def _write_whole(path: Path, parts: list) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it is not there after a success
            temporary.unlink()
    _sync(path.parent)


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.flatten().view(torch.uint8).numpy())  # no copy; numpy knows no bfloat16


def _free(folder: Path) -> str:
    with suppress(OSError):
        return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB are free in {folder}"
    return f"{folder} does not say how much is free"


def _sync(folder: Path) -> None:
    """Lets a rename last through a power cut, where the file system can."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
