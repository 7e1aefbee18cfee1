"""Files that somebody made to do harm, and what reading them does.

    python tests/hostile.py FOLDER [--flips]

makes them in FOLDER, reads each as a checkpoint and builds a network from it, and prints a row for each as JSON: what
was said, how long it took, and whether any code of the file ran. Each that holds code would make a file; an audit hook
listens besides for what pickles and shells do. With --flips: how many flips of one bit of a sound file are accepted.
"""

import argparse
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from segviz import checkpoint, models

RAN = "it ran"  # the file that code makes, beside the hostile ones
LISTENED = {"pickle.find_class", "os.system", "subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork"}
IMPORTS = {"exec", "marshal.loads", "marshal.load"}  # what importing does besides
GOOD = {"num_classes": 2, "width": 1, "padding": 1}
TOO_DEEP = 100_000


def tried(folder: Path, timeout: int = 240) -> list[dict]:
    """The rows of a run in a process of its own, which is stopped should a file make it hang."""
    seen = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=timeout)
    assert seen.returncode == 0, seen.stderr
    return json.loads(seen.stdout)


class Payload:
    """What a pickle is told to call."""

    def __init__(self, folder: Path):
        self.path = str(folder / RAN)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def header(text: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: str = "[1]", place: str = "[0,4]") -> str:
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":{place}}}'


def pickles(folder: Path) -> list[str]:
    """Code in every disguise; the names of the files."""
    payload = Payload(folder)
    torch.save(payload, folder / "torch.save.pt")
    torch.save({"model.weight": payload}, folder / "torch.save.safetensors")
    torch.save(payload, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / f"pickle-{protocol}.safetensors").write_bytes(pickle.dumps(payload, protocol))
    np.save(folder / "objects.npy", np.array([payload], dtype=object), allow_pickle=True)
    return ["torch.save.pt", "torch.save.safetensors", "legacy.pth", "objects.npy",
            *(f"pickle-{protocol}.safetensors" for protocol in range(pickle.HIGHEST_PROTOCOL + 1))]


def headers(folder: Path) -> dict[str, bytes]:
    """Headers that are wrong on purpose; most of them would crash, exhaust or deceive a careless reader."""
    code = pickle.dumps(Payload(folder))
    bits = struct.pack("<f", 1)
    meta = '"__metadata__":{"segviz":"1","config":"{}","digest":"%s"}' % ("0" * 64)
    return {
        "pickle behind a header": header(f'{{"a":{entry("U8", f"[{len(code)}]", f"[0,{len(code)}]")}}}', code),
        "length of 2 ** 63": header("{}", length=1 << 63),
        "length of everything": header("{}", length=(1 << 64) - 1),
        "length beyond the file": header(f'{{"a":{entry()}}}', bits, length=4096),
        "length of nothing": header(""),
        "python": header("__import__('os').system('true')"),
        "deep": header('{"a":' + "[" * TOO_DEEP + "]" * TOO_DEEP + "}"),
        "32 MB": header('{"__metadata__":{"a":"' + "a" * (32 << 20) + '"}}'),
        "20,000 tensors": header(f"{{{meta}," + ",".join(f'"{i}":{entry("F32", "[0]", "[0,0]")}'
                                                            for i in range(20_000)) + "}"),
        "one name twice": header(f'{{{meta},"a":{entry()},"a":{entry("I32")}}}', bits),
        "two in one place": header(f'{{{meta},"a":{entry()},"b":{entry()}}}', bits),
        "negative shape": header(f'{{{meta},"a":{entry(shape="[-1]")}}}', bits),
        "shape beyond all": header(f'{{{meta},"a":{entry(shape="[0,9000000000000000000,9]", place="[0,0]")}}}'),
        "larger than its bytes": header(f'{{{meta},"a":{entry(shape="[1000]", place="[0,4000]")}}}', bits),
        "backwards": header(f'{{{meta},"a":{entry(place="[4,0]")}}}', bits),
        "unknown type": header(f'{{{meta},"a":{entry("PyObject")}}}', bits),
        "type of four bits": header(f'{{{meta},"a":{entry("F4", "[8]")}}}', bits),
        "more behind": header(f'{{{meta},"a":{entry()}}}', bits + code),
        "not UTF-8": header(b'{"\xff\xfe":1}'),
        "a list": header("[]"),
        "metadata of numbers": header('{"__metadata__":{"segviz":1,"config":{},"digest":0}}'),
        "wrong digest": header(f'{{{meta},"a":{entry()}}}', bits),
    }


def configs() -> dict[str, dict]:
    """Sound files, digest and all, whose config asks for what it should not get."""
    good = GOOD
    code = "__import__('os').system('true')"
    return {
        "os.system": {"model": "os.system", "arguments": {"command": "true"}},
        "another class": {"model": "torch.nn.Linear", "arguments": {"in_features": 1, "out_features": 1}},
        "a module of ours": {"model": "vgg", "arguments": {}},
        "a dunder": {"model": "__class__", "arguments": {}},
        "a method": {"model": "FCN8s.__init__", "arguments": good},
        "a list as name": {"model": ["FCN8s"], "arguments": good},
        "a dict as name": {"model": {"FCN8s": 1}, "arguments": good},
        "an argument that is none": {"model": "FCN8s", "arguments": good | {"__class__": "os.system"}},
        "self": {"model": "FCN8s", "arguments": good | {"self": 1}},
        "arguments in a list": {"model": "FCN8s", "arguments": [2, 3, 1]},
        "code as argument": {"model": "FCN8s", "arguments": good | {"num_classes": code}},
        "dict as argument": {"model": "FCN8s", "arguments": good | {"padding": {"a": 1}}},
        "too wide for memory": {"model": "FCN8s", "arguments": good | {"width": 1 << 20}},
        "too wide for numbers": {"model": "FCN8s", "arguments": good | {"width": 1 << 62}},
        "deep arguments": {"model": "FCN8s", "arguments": good | {"padding": json.loads("[" * 500 + "]" * 500)}},
        "long arguments": {"model": "FCN8s", "arguments": good | {"padding": "1" * 1_000_000}},
        "negative": {"model": "FCN8s", "arguments": good | {"num_classes": -5}},
        "too many classes": {"model": "FCN8s", "arguments": good | {"num_classes": 1 << 40}},
        "no model": {"model": None},
        "nothing": {},
    }


def strange(folder: Path) -> list[str]:
    """Places that are no files, where there can be such; their names."""
    (folder / "folder.safetensors").mkdir()
    (folder / "empty").touch()
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "endless").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        back = os.open(".", os.O_RDONLY)
        os.chdir(folder)  # the name of a socket may not be long
        listening.bind("socket")
        os.fchdir(back)
        os.close(back)
    return ["folder.safetensors", "empty", "loop", "endless", "pipe", "socket", "missing"]


def deep_config(path: Path) -> None:
    """A sound file whose config is nested beyond what Python's parser follows."""
    from segviz.checkpoint import file
    text = '{"a":' + "[" * TOO_DEEP + "]" * TOO_DEEP + "}"
    found = file._header({}, text, file._digest({}, text))
    path.write_bytes(header(found))


def made(folder: Path) -> list[Path]:
    """All of them."""
    names = [*pickles(folder), *strange(folder), *headers(folder), "deep config", "NaN"]
    names += [f"config {name}" for name in configs()]
    for name, content in headers(folder).items():
        (folder / name).write_bytes(content)
    network = models.FCN8s(**GOOD)
    weights = {f"model.{name}": value for name, value in network.state_dict().items()}
    for name, config in configs().items():
        checkpoint.save(folder / f"config {name}", weights, config)
    weights["model.score.bias"] = torch.tensor([0, float("nan")])
    checkpoint.save(folder / "NaN", weights, checkpoint.describe(network))
    deep_config(folder / "deep config")
    return [folder / name for name in names]


def outcome(path: Path) -> dict:
    """What loading one of them says; a wrong kind of error is raised."""
    start = time.perf_counter()
    try:
        checkpoint.load(path)
        said = None
    except (ValueError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
    return {"file": path.name, "said": said, "seconds": round(time.perf_counter() - start, 3)}


def flips(folder: Path, bits=range(8)) -> dict:
    """Flips these bits of each byte of a small file, one at a time: {"flips", "accepted"}."""
    path = folder / "flipped.safetensors"
    checkpoint.save(path, {"model.weight": torch.arange(3.0), "seen": torch.tensor([True, False])}, {"step": 7})
    sound, accepted = path.read_bytes(), 0
    assert checkpoint.read(path).config == {"step": 7}
    for place in range(len(sound)):
        for bit in bits:
            damaged = bytearray(sound)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                checkpoint.read(path)
                accepted += 1
            except ValueError:
                pass
    return {"flips": len(sound) * len(bits), "accepted": accepted}


def watched(folder: Path) -> list[dict]:
    """A row for each file, read while the audit hook listens."""
    heard, rows = set(), []
    paths = made(folder)
    sys.addaudithook(lambda event, _: heard.add(event) if event in LISTENED | IMPORTS else None)
    for path in paths:
        outcome(path)  # the first time, what reading needs is imported
    early = heard - IMPORTS
    for path in paths:
        heard.clear()
        row = outcome(path)
        rows.append(row | {"ran": bool(early or heard or (folder / RAN).exists())})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flips", action="store_true")
    given = parser.parse_args()
    print(json.dumps(flips(given.folder) if given.flips else watched(given.folder)))


if __name__ == "__main__":
    main()
