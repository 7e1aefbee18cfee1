"""VOC and Pets, on small archives made here in the layout of the real ones; and archives that mean harm."""

import gzip
import hashlib
import http.client
import http.server
import io
import tarfile
import threading
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image

from segviz.data import VOC, Pets, archives, benchmarks


def packed(path, files: dict[str, bytes], mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def encoded(picture, kind):
    out = io.BytesIO()
    picture.save(out, kind)
    return out.getvalue()


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def palette_mask(values):
    picture = Image.fromarray(values.astype(np.uint8))
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    return encoded(picture, "PNG")


@pytest.fixture
def voc(tmp_path):
    """An archive as VOC's, of two images; the mask of the first."""
    mask = np.random.default_rng(1).choice([0, 3, 20, 255], (40, 50))
    files, base = {}, "VOCdevkit/VOC2012"
    for name in ("2007_000001", "2007_000002"):
        files[f"{base}/JPEGImages/{name}.jpg"] = encoded(Image.new("RGB", (50, 40), (200, 100, 50)), "JPEG")
        files[f"{base}/SegmentationClass/{name}.png"] = palette_mask(mask)
    files[f"{base}/ImageSets/Segmentation/train.txt"] = b"2007_000001\n"
    files[f"{base}/ImageSets/Segmentation/val.txt"] = b"2007_000002\n"
    files[f"{base}/ImageSets/Segmentation/trainval.txt"] = b"2007_000001\n2007_000002\n"
    return packed(tmp_path / "voc.tar", files), mask


@pytest.fixture
def pets(tmp_path):
    trimap = np.random.default_rng(2).choice([1, 2, 3], (32, 36))
    names = [f"Beagle_{at}" for at in range(10)]
    images = {f"images/{name}.jpg": encoded(Image.new("RGB", (36, 32)), "JPEG") for name in names}
    notes = {f"annotations/trimaps/{name}.png": encoded(Image.fromarray(trimap.astype(np.uint8)), "PNG")
             for name in names}
    notes["annotations/trainval.txt"] = "".join(f"{name} 1 1 1\n" for name in names[:7]).encode()
    notes["annotations/test.txt"] = "".join(f"{name} 1 1 1\n" for name in names[7:]).encode()
    return [packed(tmp_path / "images.tar.gz", images, "w:gz"), packed(tmp_path / "annotations.tar.gz", notes, "w:gz")
            ], trimap


def served(monkeypatch, files, leads_to=None):
    """Answers of the hosts: what is asked for by name."""
    class Answer(io.BytesIO):
        def __init__(self, url):
            super().__init__(files[url.rpartition("/")[2]].read_bytes())
            self.url, self.length = leads_to or url, len(self.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer(url))


def test_voc_is_fetched_unpacked_and_read(tmp_path, monkeypatch, voc):
    archive, mask = voc
    monkeypatch.setattr(benchmarks, "VOC_ARCHIVE", ("https://voc.example/voc.tar", sha256(archive)))
    served(monkeypatch, {"voc.tar": archive})
    root = tmp_path / "data sets"
    with pytest.raises(ValueError, match=r"Pascal VOC 2012 does not lie at.*download=True"):
        VOC(root, "train")
    data = VOC(root, "train", download=True)
    assert len(data) == 1 and len(VOC(root, "trainval")) == 2 and len(data.classes) == 21
    image, labels = data[0]
    assert image.dtype == torch.float32 and image.shape == (3, 40, 50) and 0 <= image.min() <= image.max() <= 1
    assert torch.equal(labels, torch.from_numpy(mask))
    assert torch.equal(data[-1][1], labels)
    with pytest.raises(IndexError):
        data[1]
    with pytest.raises(ValueError, match="splits train, val, trainval, but got 'test'"):
        VOC(root, "test")
    assert sorted(path.name for path in root.iterdir()) == ["VOCdevkit", "voc.tar"]


def test_pets_are_fetched_unpacked_and_read(tmp_path, monkeypatch, pets):
    parts, trimap = pets
    urls = [(f"https://pets.example/{path.name}", sha256(path)) for path in parts]
    monkeypatch.setattr(benchmarks, "PET_ARCHIVES", urls)
    served(monkeypatch, {path.name: path for path in parts})
    root = tmp_path / "pets"
    splits = {split: Pets(root, split, download=True) for split in ("train", "val", "test")}
    assert {split: len(data) for split, data in splits.items()} == {"train": 5, "val": 2, "test": 3}
    assert not set(splits["train"].pairs) & set(splits["val"].pairs)
    image, labels = splits["test"][2]
    assert image.shape == (3, 32, 36)
    assert torch.equal(labels, torch.from_numpy(np.select([trimap == 1, trimap == 2], [1, 0], 255)))


def test_hosts_that_are_away_or_changed(tmp_path, monkeypatch, voc):
    archive, _ = voc

    def away(url, timeout):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", away)
    with pytest.raises(OSError, match=r"VOC could not be fetched from https://x/voc\.tar \(no route to host\).*put"):
        archives.fetched("VOC", "https://x/voc.tar", sha256(archive), tmp_path / "a")
    served(monkeypatch, {"voc.tar": archive})
    with pytest.raises(ValueError, match="not the archive of VOC any more"):
        archives.fetched("VOC", "https://x/voc.tar", "0" * 64, tmp_path / "a")
    with pytest.raises(ValueError, match="over HTTPS alone"):
        archives.fetched("VOC", "http://x/voc.tar", sha256(archive), tmp_path / "a")
    served(monkeypatch, {"voc.tar": archive}, leads_to="http://x/voc.tar")
    with pytest.raises(OSError, match=r"leads to http://x/voc\.tar, which is not HTTPS"):
        archives.fetched("VOC", "https://x/voc.tar", sha256(archive), tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "a" / "voc.tar").write_bytes(b"cut short")
    with pytest.raises(ValueError, match="delete it, and try again"):
        archives.fetched("VOC", "https://x/voc.tar", sha256(archive), tmp_path / "a")


@contextmanager
def host(answers: dict[str, tuple[int, dict[str, str], bytes]]):
    """A host on this machine: its address, and the paths that it was asked for."""
    asked = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            code, headers, content = answers[self.path]
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


@pytest.fixture
def https_without_certificates(monkeypatch):
    """https:// that is plain on the wire: a host of the test has no certificate."""
    def connection(*arguments, context=None, check_hostname=None, **options):
        return http.client.HTTPConnection(*arguments, **options)

    monkeypatch.setattr(http.client, "HTTPSConnection", connection)


@pytest.mark.parametrize(("answer", "says"), [
    ((302, {"Location": "http://{}/plain.tar"}, b""), r"leads to http://127.*plain\.tar, which is not HTTPS"),
    ((302, {"Location": "file:///etc/hostname"}, b""), "file:///etc/hostname"),
    ((302, {"Location": "https://{}/voc.tar"}, b""), "infinite loop"),
    ((404, {}, b"not found"), "404"),
    ((200, {"Content-Length": "5000"}, bytes(3000)), "the connection ended after 3000 of 5000 bytes"),
    ((200, {"Transfer-Encoding": "chunked"}, b"fff\r\n" + bytes(100)), "IncompleteRead"),
])
@pytest.mark.usefixtures("https_without_certificates")
def test_a_host_that_answers_otherwise_leaves_nothing(tmp_path, answer, says):
    code, headers, content = answer
    answers = {"/plain.tar": (200, {}, b"no secret"), "/voc.tar": answer}
    with host(answers) as (address, _):
        answers["/voc.tar"] = code, {name: value.format(address) for name, value in headers.items()}, content
        with pytest.raises(OSError, match=rf"VOC could not be fetched from https://.*{says}.*Try again later, or put"):
            archives.fetched("VOC", f"https://{address}/voc.tar", "0" * 64, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("https_without_certificates")
def test_what_lies_there_already_is_not_fetched_again(tmp_path):
    digest = hashlib.sha256(b"the archive").hexdigest()
    with host({"/voc.tar": (200, {"Content-Length": "11"}, b"the archive")}) as (address, asked):
        for _ in range(2):
            path = archives.fetched("VOC", f"https://{address}/voc.tar", digest, tmp_path)
    assert path.read_bytes() == b"the archive" and asked == ["/voc.tar"]


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_a_damaged_picture_is_named(tmp_path, voc, folder):
    archive, _ = voc
    archives.unpacked(archive, tmp_path / "data")
    path = next((tmp_path / "data/VOCdevkit/VOC2012" / folder).glob("2007_000001.*"))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=rf"{path} \(\d+ bytes\) cannot be read as a picture.*fetch or save it again"):
        VOC(tmp_path / "data", "train")[0]


def member(name, kind=tarfile.REGTYPE, link="", content=b"x"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
    return info, content


HOSTILE = {
    "a parent": [member("../outside.txt")],
    "an absolute path": [member("/tmp/outside.txt")],
    "deep, then up": [member("a/b/../../../outside.txt")],
    "a symbolic link": [member("link", tarfile.SYMTYPE, "..")],
    "a file through a link": [member("link", tarfile.SYMTYPE, ".."), member("link/outside.txt")],
    "a hard link": [member("link", tarfile.LNKTYPE, "../secret.txt")],
    "a device": [member("null", tarfile.CHRTYPE)],
    "a pipe": [member("pipe", tarfile.FIFOTYPE)],
    "too many files": [member(f"{at}.txt") for at in range(20)],
    "too many bytes": [member("large.bin", content=b"x" * 5000)],
    "a name that ends early": [member("good\0.txt")],
    "a name that writes to the terminal": [member("\033[2J.txt")],
    "a name without end": [member("a/" * 1500 + "b")],
    "a folder that is a file": [member("a"), member("a/b")],
    "another kind": [member("new", b"Z")],
    "a good file, then a bad one": [member("good.txt"), member("../outside.txt")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_means_harm_writes_nothing(tmp_path, members):
    (tmp_path / "secret.txt").write_text("secret")
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            if "\0" in info.name:                          # tar's own field ends there, an extended header does not
                info.pax_headers = {"path": info.name}
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    with pytest.raises(ValueError, match=r"hostile\.tar"):
        archives.unpacked(path, tmp_path / "data", files=10, size=4000)
    assert sorted(at.name for at in tmp_path.iterdir()) == ["data", "hostile.tar", "secret.txt"]
    assert list((tmp_path / "data").iterdir()) == []


def test_a_bomb_is_known_by_its_ratio(tmp_path):
    path = packed(tmp_path / "bomb.tar.gz", {"zeros.bin": bytes(5_000_000)}, "w:gz")
    with pytest.raises(ValueError, match="holds more than"):
        archives.unpacked(path, tmp_path / "data")


def header(name: str, kind: bytes, size: int) -> bytearray:
    """The 512 bytes in front of a member, which may say anything of its size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, abs(size)
    raw = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        raw[124:136] = b"\xff" + (size % (1 << 88)).to_bytes(11, "big")
    return raw


def summed(raw: bytearray) -> bytes:
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def sparse(size: int) -> bytes:
    """A file of 10 bytes, it says, whose only piece has `size`."""
    raw = header("holes", tarfile.GNUTYPE_SPARSE, size)
    raw[386:410], raw[483:495] = b"%011o\0%011o\0" % (0, size), b"%011o\0" % 10
    return summed(raw) + bytes(size)


LIES = {
    "a size below 0": (summed(header("a", tarfile.REGTYPE, -1024)) + bytes(2048), "no plain file or folder"),
    "a file with holes": (sparse(5 << 20), "no plain file or folder"),
    **{f"an extended header of 4 GB, {kind}": (summed(header("a", kind, 4 << 30)) + bytes(1 << 20), "a header of 42949")
       for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)},
}


@pytest.mark.parametrize("case", LIES)
def test_a_member_that_lies_about_its_size_writes_nothing(tmp_path, case):
    content, says = LIES[case]
    path = tmp_path / "hostile.tar.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=rf"hostile\.tar\.gz was not unpacked.*{says}.*delete it and try again"):
        archives.unpacked(path, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz"])
def test_no_damage_to_an_archive_is_more_than_a_word(tmp_path, kind):
    """A byte is changed here and there: it is unpacked, or refused with its name."""
    path, draw = tmp_path / "a.tar", np.random.default_rng(0)
    content = packed(path, {f"{at}.bin": draw.bytes(300) for at in range(3)}, kind).read_bytes()
    for at in draw.integers(0, len(content), 60):
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        try:
            archives.unpacked(path, tmp_path / "data")
        except ValueError as error:
            assert f"{path} was not unpacked" in str(error)
    assert not list((tmp_path / "data").glob(".*")) and {at.name for at in tmp_path.iterdir()} == {"a.tar", "data"}


def test_a_damaged_archive_leaves_what_was_there(tmp_path, voc):
    archive, _ = voc
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:3000])
    (tmp_path / "data" / "VOCdevkit").mkdir(parents=True)
    (tmp_path / "data" / "VOCdevkit" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"was not unpacked.*try again"):
        archives.unpacked(cut, tmp_path / "data")
    assert [at.name for at in (tmp_path / "data").rglob("*")] == ["VOCdevkit", "mine.txt"]
    archives.unpacked(archive, tmp_path / "data")
    assert {"mine.txt", "VOC2012"} == {at.name for at in (tmp_path / "data" / "VOCdevkit").iterdir()}
