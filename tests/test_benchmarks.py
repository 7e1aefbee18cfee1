"""VOC and Pets, on small archives made here in the layout of the real ones; and archives that mean harm."""

import hashlib
import io
import tarfile
import urllib.request

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
    "a good file, then a bad one": [member("good.txt"), member("../outside.txt")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_means_harm_writes_nothing(tmp_path, members):
    (tmp_path / "secret.txt").write_text("secret")
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    with pytest.raises(ValueError, match=r"hostile\.tar"):
        archives.unpacked(path, tmp_path / "data", files=10, size=4000)
    assert sorted(at.name for at in tmp_path.iterdir()) == ["data", "hostile.tar", "secret.txt"]
    assert list((tmp_path / "data").iterdir()) == []


def test_a_bomb_is_known_by_its_ratio(tmp_path):
    path = packed(tmp_path / "bomb.tar.gz", {"zeros.bin": bytes(5_000_000)}, "w:gz")
    with pytest.raises(ValueError, match="holds more than"):
        archives.unpacked(path, tmp_path / "data")


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
