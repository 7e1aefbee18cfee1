"""Bad input, case by case: what was seen, what was expected and what to do are said, the file is named, and nothing is
lost. The tables below are the catalogue; what of it is proved elsewhere:

Files           hidden files, spaces, other letters, upper case: test_folder. Blank images: test_survey.
Masks           palettes, 0 and 255 where it is said, colours by classes.txt: test_folder. Invented classes of other
                data sets: test_survey. Masks as tensors of uint8, int32, bool and float: test_training.
Models          every model on too small, grey, uint8 and single images: test_models; odd sizes in U-Net: test_unet;
                one image under PSP and ASPP: test_pspnet, test_deeplab; scores that are no labels: test_metrics.
Training        fewer images than a batch, a batch that is all void, NaN and Inf, CUDA out of memory: test_training.
Checkpoints     cut short, empty, flipped bits, pickles, other classes, prefixes, NaN, a full disk, a folder that is
                missing or read-only, two runs, stale locks: test_checkpoint. Another configuration: test_training.
Progress        corrupt, newer, on a full disk: test_progress.
Archives        test_benchmarks.
"""

import copy
import errno
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from segviz import checkpoint, cli, losses, models, training
from segviz.data import Folder, archives, pictures
from segviz.data.survey import survey
from segviz.training import batches, saving

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 36
LABELS = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) % 3


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def written(path: Path, values, kind: str | None = None, **options) -> None:
    Image.fromarray(np.asarray(values, np.uint8)).save(path, kind, **options)


@pytest.fixture
def root(tmp_path) -> Path:
    """A sound data set of three pairs, which each case spoils in one place."""
    for part, values in (("images", noise(SIZE, SIZE, 3)), ("masks", LABELS)):
        (tmp_path / "own" / "train" / part).mkdir(parents=True)
        for name in "abc":
            written(tmp_path / "own" / "train" / part / f"{name}.png", np.roll(values, ord(name), 0))
    (tmp_path / "own" / "classes.txt").write_text("ground\nroad\nwire\n")
    return tmp_path / "own"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(root: Path, **options) -> list:
    return list(Folder(root, "train", **options))


def refused(error: type[Exception], action, *said: str) -> None:
    """`action()` raises `error`, whose words, notes among them, hold all that is to be said."""
    with pytest.raises(error) as found:
        action()
    words = "; ".join([str(found.value), *getattr(found.value, "__notes__", [])])
    assert [part for part in said if part not in words] == [], words
    assert "\n" not in words


# -- files and masks: how the folder is spoilt; the file that is named, what was seen, what was expected, what to do


def encoded(values, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(path: Path, size: tuple[int, int], bits: int, colours: int, rows: bytes) -> None:
    """A PNG of any number of bits, which Pillow reads but does not write. colours: 0 grey, 2 RGB, 6 RGBA."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9))
                     + chunk(b"IEND", b""))


def as_jpeg(change=lambda data: data, **options):
    """The image c becomes a JPEG file, and that is changed."""
    def spoil(root: Path) -> None:
        (root / "train/images/c.png").unlink()
        (root / "train/images/c.jpg").write_bytes(change(encoded(noise(SIZE, SIZE, 3), "JPEG", **options)))
    return spoil


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def image(values, mode: str | None = None):
    def spoil(root: Path) -> None:
        picture = Image.fromarray(np.asarray(values, np.uint8))
        (picture.convert(mode) if mode else picture).save(root / "train/images/c.png")
    return spoil


def mask(values, named: bool = True, kind: str = "PNG"):
    """The mask c has these values. named: whether the classes have names."""
    def spoil(root: Path) -> None:
        written(root / "train/masks/c.png", values, kind)
        if not named:
            (root / "classes.txt").unlink()
    return spoil


def cmyk(root: Path) -> None:
    (root / "train/images/c.png").unlink()
    Image.new("CMYK", (SIZE, SIZE)).save(root / "train/images/c.jpg")


def emptied(root: Path) -> None:
    for path in contents(root / "train"):
        path.unlink()


def resized(name: Image.Resampling) -> np.ndarray:
    """Labels 0 and 200 as they come out of an image editor, which knows nothing of labels."""
    small = Image.fromarray((LABELS[:9, :9] > 1).astype(np.uint8) * 200)
    return np.array(small.resize((SIZE, SIZE), name))


HALF = np.repeat([0, 1], SIZE // 2)[None].repeat(SIZE, 0)
COLOURED = np.where(HALF[..., None], (255, 0, 0), (0, 0, 0))
SPOTTED = COLOURED.copy()
SPOTTED[:2, :3] = (255, 0, 1)
PICTURE, MASK = "a picture (PNG, JPEG, BMP)", "labels are 0 to 2"
IMAGE = "images are 8 bits a channel, grey ('L') or 'RGB'"

FILES = {
    "zero bytes": (lambda root: (root / "train/images/c.png").write_bytes(b""),
                   "train/images/c.png", "(0 bytes)", PICTURE, "fetch or save it again"),
    "HTML saved as .jpg": (as_jpeg(lambda data: b"<!doctype html><title>Not found</title>"),
                           "train/images/c.jpg", "cannot identify", PICTURE, "Look at it in a viewer"),
    "a JPEG cut short": (as_jpeg(lambda data: data[:-200]),
                         "train/images/c.jpg", "truncated", PICTURE, "fetch or save it again"),
    "a PNG cut short": (lambda root: (root / "train/images/c.png").write_bytes(encoded(noise(36, 36, 3), "PNG")[:900]),
                        "train/images/c.png", "(900 bytes) cannot be read", PICTURE, "fetch or save it again"),
    "a program for a printer": (as_jpeg(lambda data: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
                                "train/images/c.jpg", "cannot identify", PICTURE, "fetch or save it again"),
    "a bomb": (lambda root: png(root / "train/images/c.png", (24_000, 20_000), 1, 0, bytes(3001 * 20_000)),
               "train/images/c.png", "24000 x 20000 pixels", "more than 178956970 are a decompression bomb", "save it"),
    "turned by EXIF": (as_jpeg(exif=turned()), "train/images/c.jpg", "to be shown turned", "its mask knows nothing of",
                       "save the image as it should be seen"),
    "grey of 16 bits": (lambda root: Image.new("I;16", (SIZE, SIZE)).save(root / "train/images/c.png"),
                        "train/images/c.png", "16 bits a channel", "images and masks have 8", "save it so"),
    "RGB of 16 bits": (lambda root: png(root / "train/images/c.png", (SIZE, SIZE), 16, 2, bytes(SIZE * (6 * SIZE + 1))),
                       "train/images/c.png", "16 bits a channel", "images and masks have 8", "save it so"),
    "transparent": (image(noise(SIZE, SIZE, 4)), "train/images/c.png", "mode 'RGBA'", IMAGE, "Save it so"),
    "CMYK": (cmyk, "train/images/c.jpg", "mode 'CMYK'", IMAGE, "Save it so"),
    "a palette": (image(noise(SIZE, SIZE, 3), "P"), "train/images/c.png", "mode 'P'", IMAGE, "Save it so"),
    "no folder": (lambda root: shutil.rmtree(root), "", "is not a folder", "<root>/<split>/images",
                  "A data set is <root>/<split>/images and <root>/<split>/masks"),
    "no split": (lambda root: (root / "train").rename(root / "val"), "", "no split 'train'", "its folders are val",
                 "A data set is <root>/<split>/images"),
    "no masks": (lambda root: shutil.rmtree(root / "train/masks"), "train", "has no folder masks", "<split>/masks",
                 "A data set is <root>/<split>/images"),
    "an empty folder": (emptied, "train/images", "is empty", ".png, .jpg, .jpeg, .bmp", "put"),
    "images without masks": (lambda root: [written(root / f"train/images/x{i}.png", noise(9, 9)) for i in range(7)],
                             "train", "7 of 10 images have no mask: x0, x1, x2, x3, x4 and 2 more",
                             "Each image needs the mask of the same name", "in masks/"),
    "masks without images": (lambda root: [written(root / f"train/masks/x{i}.png", noise(9, 9)) for i in range(7)],
                             "train", "7 of 10 masks have no image: x0, x1, x2, x3, x4 and 2 more",
                             "Each mask needs the image of the same name", "in images/"),
    "two files of one stem": (lambda root: written(root / "train/images/a.jpg", noise(9, 9)),
                              "train/images/a.jpg", "a.png have one name", "not clear which is meant", "Rename"),
    "another file": (lambda root: (root / "train/images/notes.txt").write_text("x"),
                     "train/images/notes.txt", "notes.txt", "end with .png", "Convert or move it"),
    "a folder called .png": (lambda root: (root / "train/images/deep.png").mkdir(),
                             "train/images/deep.png", "deep.png", "end with .png", "Convert or move it"),
    "class names that are no UTF-8": (lambda root: (root / "classes.txt").write_bytes("Straße\n".encode("latin-1")),
                                      "classes.txt", "0xdf", "UTF-8", "save it as UTF-8, a class a line"),
    "no class": (lambda root: (root / "classes.txt").write_text("\n"),
                 "classes.txt", "names 0 classes", "1 to 255", "one a line, label 0 first"),
    "a class twice": (lambda root: (root / "classes.txt").write_text("road\nroad\n"),
                      "classes.txt", "line 2", "twice", "'road'"),
    "void without a colour": (lambda root: (root / "classes.txt").write_text("road\nvoid\n"),
                              "classes.txt", "line 2", "'void'", "void without its colour"),
    "a colour of two classes": (lambda root: (root / "classes.txt").write_text("road #112233\nsky #112233\n"),
                                "classes.txt", "line 2", "#112233", "is the colour of two classes"),
}  # fmt: skip
MASKS = {
    "another size": (mask(LABELS[:, 1:]), "train/images/c.png is 36 x 36", "train/masks/c.png is 36 x 35",
                     "pixel by pixel", "both need one size"),
    "RGB without a colour map": (mask(COLOURED, named=False), "train/masks/c.png", "mode 'RGB'", "one channel of 8",
                                 "classes.txt has to name each class with its colour"),
    "RGB with an unlisted colour": (lambda root: (mask(SPOTTED)(root), (root / "classes.txt").write_text(
                                        "ground #000000\nroad #ff0000\nwire\n")),
                                    "train/masks/c.png", "#ff0001 (6 pixels)", "classes.txt does not name",
                                    "Name them there"),
    "transparent": (mask(noise(SIZE, SIZE, 4)), "train/masks/c.png", "mode 'RGBA'", "one channel of 8 bits",
                    "classes.txt has to name"),
    "0 and 255 alone": (mask(255 * HALF, named=False), "train/masks/c.png", "0 and 255 alone", "255 means void",
                        "binary=True (on the command line: --binary)"),
    "labels that begin at 1": (mask(LABELS + 1), "train/masks/c.png", "holds the labels 3", MASK, "begin at 1"),
    "negative, wrapped": (mask(LABELS - 2), "train/masks/c.png", "the labels 254", MASK, "Make it again"),
    "saved as JPEG": (mask(100 * LABELS, kind="JPEG"), "train/masks/c.png", "is a JPEG file", "masks are PNG",
                      "which keeps every number"),
    "called .jpg": (lambda root: (root / "train/masks/c.png").rename(root / "train/masks/c.jpg"), "train/masks/c.jpg",
                    "JPEG changes the numbers", "end with .png", "Convert or move it"),
    "once a JPEG": (mask(Image.open(io.BytesIO(encoded(np.roll(255 * HALF, 3), "JPEG")))), "train/masks/c.png",
                    "holds the labels", MASK, "Make it again: resized with nearest, saved as PNG"),
    "resized with bilinear": (mask(resized(Image.Resampling.BILINEAR)), "train/masks/c.png", "the labels 25, 75",
                              MASK, "Make it again: resized with nearest, saved as PNG"),
    "resized, classes without names": (mask(resized(Image.Resampling.BICUBIC), named=False), "train/masks/c.png",
                                       "was the mask resized", "without names they are 0 to 39", "name all classes in"),
    "16 bits": (lambda root: Image.fromarray(LABELS.astype(np.uint16)).save(root / "train/masks/c.png"),
                "train/masks/c.png", "16 bits a channel", "images and masks have 8", "save it so"),
    "grey of 2 bits": (lambda root: png(root / "train/masks/c.png", (SIZE, SIZE), 2, 0, (b"\0" + b"\x55" * 9) * SIZE),
                       "train/masks/c.png", "a grey PNG of 2 bits", "label 1 becomes 85", "Save it with 8 bits"),
    "floats": (lambda root: Image.fromarray(LABELS.astype(np.float32)).save(root / "train/masks/c.png", "TIFF"),
               "train/masks/c.png", "cannot identify", PICTURE, "save it again"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*FILES, *(f"mask: {name}" for name in MASKS)])
def test_a_folder_that_cannot_be_meant_is_refused_and_left_alone(root, case):
    spoil, path, *said = (FILES | {f"mask: {name}": row for name, row in MASKS.items()})[case]
    read(root)
    spoil(root)
    before = contents(root)
    refused(ValueError, lambda: read(root), str(root / path), *said)
    assert contents(root) == before


@pytest.mark.parametrize(("values", "said"), [
    (noise(SIZE, SIZE), ("was said to be black and white", "0 and 255 alone", "leave binary out")),
    (COLOURED, ("mode 'RGB'", "binary masks are grey")),
])
def test_what_is_not_black_and_white_is_refused(root, values, said):
    written(root / "train/masks/c.png", values)
    written(root / "train/masks/a.png", 255 * HALF)
    written(root / "train/masks/b.png", 255 * HALF)
    refused(ValueError, lambda: read(root, binary=True), str(root / "train/masks/c.png"), *said)


def test_the_same_image_in_two_splits_is_told_with_both_names(root):
    shutil.copytree(root / "train", root / "val")
    for path in (root / "val/images").iterdir():
        written(path, noise(SIZE, SIZE, 3)[::-1] // 2 + ord(path.stem))
    shutil.copy(root / "train/images/b.png", root / "val/images/c.png")
    seen: dict[bytes, str] = {}
    assert survey(Folder(root, "train"), seen=seen).notices == []
    twice = f"{root}/train/images/b.png and {root}/val/images/c.png"
    assert survey(Folder(root, "val"), seen=seen).notices == [f"the same image twice: {twice}"]


def test_labels_that_begin_at_1_are_told_where_classes_have_no_names(root):
    for name in "abc":
        mask(LABELS + 1, named=name == "a")
        written(root / "train/masks" / f"{name}.png", LABELS + 1)
    (root / "classes.txt").unlink()
    assert any("do the labels begin at 1?" in notice for notice in survey(Folder(root, "train")).notices)


def test_labels_of_one_split_that_the_other_has_no_names_for_are_named_with_their_file(root):
    (root / "classes.txt").unlink()
    refused(ValueError, lambda: survey(Folder(root, "train"), ("ground", "road")), str(root / "train/images/a.png"),
            "labels 2 have no name", "2 classes, 0 to 1", "name it")


# -- what must work


def two_bits_of_a_palette(path: Path) -> None:
    picture = Image.fromarray(LABELS.astype(np.uint8), "P")
    picture.putpalette([9, 9, 9, 250, 0, 0, 0, 0, 250])
    picture.save(path, bits=2)


def one_bit(path: Path) -> None:
    png(path, (SIZE, SIZE), 1, 0, b"".join(b"\0" + np.packbits(row).tobytes() for row in LABELS == 1))


MASKS_THAT_WORK = {
    "a palette of 2 bits": (two_bits_of_a_palette, LABELS),
    "1 bit": (one_bit, LABELS == 1),
    "void": (lambda path: written(path, np.where(LABELS == 2, 255, LABELS)), np.where(LABELS == 2, 255, LABELS)),
    "-1, wrapped, is void": (lambda path: written(path, LABELS - 1), np.where(LABELS == 0, 255, LABELS - 1)),
}


@pytest.mark.parametrize("case", MASKS_THAT_WORK)
def test_masks_as_people_have_them_keep_their_labels(root, case):
    write, labels = MASKS_THAT_WORK[case]
    write(root / "train/masks/c.png")
    assert torch.equal(read(root)[2][1], torch.from_numpy(labels).long())


def exif(payload: bytes):
    """A JPEG with these EXIF data."""
    return as_jpeg(lambda data: data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:])


IMAGES_THAT_WORK = {
    "grey": image(noise(SIZE, SIZE)),
    "opaque RGBA": image(np.dstack([noise(SIZE, SIZE, 3), np.full((SIZE, SIZE), 255)])),
    "a BMP": lambda root: (as_jpeg()(root), (root / "train/images/c.jpg").write_bytes(encoded(LABELS, "BMP"))),
    "EXIF data that are none": exif(b"Exif\0\0no more than noise"),
    "upright, EXIF data say": as_jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"),
    "a turn that is none": as_jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\0\0\0\0\0\0\0\0"),
}


@pytest.mark.parametrize("case", IMAGES_THAT_WORK)
def test_images_as_people_have_them(root, case):
    IMAGES_THAT_WORK[case](root)
    assert [part.shape for part, _ in read(root)] == [(3, SIZE, SIZE)] * 3


def test_a_letter_is_one_letter_however_a_computer_writes_it(root):
    """ä is one code point in a name from Linux or Windows, and a and its dots in one from older Macs."""
    for form, part in (("NFC", "images"), ("NFD", "masks")):
        for path in (root / "train" / part).glob("c.png"):
            path.rename(path.with_name(unicodedata.normalize(form, "Zelle ä.PNG")))
    assert len(read(root)) == 3


def test_a_list_of_classes_as_windows_writes_it(root):
    (root / "classes.txt").write_bytes("\ufeffGrund\r\nStraße\r\nDraht\r\n".encode())
    assert Folder(root, "train").classes == ("Grund", "Straße", "Draht")


# -- models and training: a network, its data and settings; what is said besides the items


def own(count: int = 4, size: int = 32, channels: int = 3, labels: int = 1, kind=torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(count, channels, size, size, generator=generator) * 200).to(kind)
    return TensorDataset(images, torch.full((count, size, size), labels))


def unet(**options) -> nn.Module:
    torch.manual_seed(0)
    return models.UNet(2, width=1, depth=1, **options)


class Uneven(TensorDataset):
    def __getitem__(self, item):
        return tuple(part[..., item:] for part in super().__getitem__(item))


def pspnet() -> nn.Module:
    torch.manual_seed(0)
    return models.PSPNet(2, width=2, layers=(1, 1, 1, 1))


def deeplab() -> nn.Module:
    torch.manual_seed(0)
    return models.DeepLabV3(2, width=2, layers=(1, 1, 1, 1))


FLOAT, ITEMS = "expected float images (B, 3, H, W) with H and W from 32 up", "in the batch of the items ["
TRAINING = {
    "an image too small": (unet, own(size=31), {}, FLOAT, "got float32 (2, 3, 31, 31)", ITEMS),
    "wrong channel count": (unet, own(channels=1), {}, FLOAT, "got float32 (2, 1, 32, 32)", ITEMS),
    "uint8 images": (unet, own(kind=torch.uint8), {}, "images are float in [0, 1]", "torch.uint8", ".float()", ITEMS),
    "mixed sizes": (unet, Uneven(*own().tensors), {"batch_size": 4}, "must have one size", "(3, 32, 29)",
                    "resize or crop", ITEMS),
    "mixed sizes in a loading process": (unet, Uneven(*own().tensors), {"batch_size": 4, "workers": 1},
                                         "must have one size", "(3, 32, 29)", "resize or crop", ITEMS),
    "one image and PSP": (pspnet, own(1), {}, "batch of one", "needs more", "Take two images or more", ITEMS),
    "one image and ASPP": (deeplab, own(1), {}, "batch of one", "needs more", "Take two images or more", ITEMS),
    "a batch of one and PSP": (pspnet, own(), {"batch_size": 1}, "batch of one", "Take two images or more", ITEMS),
    "a batch of one and ASPP": (deeplab, own(), {"batch_size": 1}, "batch of one", "Take two images or more", ITEMS),
    "negative labels": (unet, own(labels=-2), {}, "the labels hold -2", "2 classes, 0..1", "void is 255", ITEMS),
    "255 without an ignore index": (unet, own(labels=255), {"ignore_index": -100}, "the labels hold 255",
                                    "0..1, and void is -100", "give the network more classes, or ignore_index", ITEMS),
    "labels from 1": (unet, own(labels=2), {}, "the labels hold 2", "0..1", "give the network more classes", ITEMS),
    "one channel, (N, 1, H, W)": (lambda: models.UNet(1, width=1, depth=1), own(labels=0), {}, "(2, 1, 32, 32)",
                                  "one class, which is then right everywhere", "num_classes=2", ITEMS),
    "labels (N, 1, H, W)": (unet, [(image, label[None]) for image, label in own()], {}, "a map (H, W)",
                            "got (1, 32, 32)", ITEMS),
    "no such device": (unet, own(), {"device": "tpu"}, "'cpu', 'cuda' or 'mps'", "'tpu'"),
    "a device that torch knows, not we": (unet, own(), {"device": "meta"}, "'cpu', 'cuda' or 'mps'", "'meta'"),
    "no such GPU": (unet, own(), {"device": "cuda:99"}, "'cuda:99' was asked for", "torch sees", "leave device out"),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAINING)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_what_cannot_be_trained_is_refused_and_the_network_left_as_it_was(tmp_path, case):
    make, data, options, *said = TRAINING[case]
    network = make()
    before = copy.deepcopy(network.state_dict())
    options = {"steps": 2, "batch_size": 2, "device": "cpu", "show": False, "folder": tmp_path} | options
    refused(ValueError, lambda: training.fit(network, data, **options), *said)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not (tmp_path / saving.LAST).exists()


@pytest.mark.parametrize("make", [pspnet, deeplab])
def test_a_last_batch_of_one_is_left_out(make):
    history = training.fit(make(), own(3), steps=3, batch_size=2, device="cpu", show=False)
    assert len(history.loss) == 3


def test_a_prediction_with_a_channel_to_spare_is_refused():
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    refused(ValueError, lambda: losses.cross_entropy(torch.zeros(2, 1, 8, 8), labels), "(2, 1, 8, 8)", "num_classes=2")
    refused(ValueError, lambda: losses.cross_entropy(torch.zeros(2, 3, 8, 8), labels[:, None]),
            "(2, 3, 8, 8)", "need labels (B, H, W)", "(2, 1, 8, 8)")


class Spoils:
    """Augmentation that makes the image b NaN."""

    def __init__(self, root: Path):
        self.spoilt, _ = Folder(root, "train")[1]

    def __call__(self, image, label, generator):
        return (image * torch.nan if torch.equal(image, self.spoilt) else image), label


def test_a_loss_that_is_no_number_names_step_and_file_and_keeps_the_last_good_checkpoint(root, tmp_path):
    data, seed = Folder(root, "train"), 0
    at = next(step for step in range(1, 4) if batches.shuffled(3, 1, seed, step) == [(0, 1)])
    assert at > 1                                                   # so that there is one to keep
    network = models.UNet(3, width=1, depth=1)
    network.register_forward_pre_hook(lambda *_: kept.update(before=dict(network.state_dict())))
    kept: dict[str, dict] = {}
    options = {"augment": Spoils(root), "steps": 99, "batch_size": 1, "folder": tmp_path / "run", "save_every": 1}
    refused(FloatingPointError, lambda: training.fit(network, data, seed=seed, show=False, device="cpu", **options),
            f"nan at step {at}", f"items [1] ({root / 'train/images/b.png'})", "lower lr", "images with NaN")
    last = checkpoint.read(tmp_path / "run" / saving.LAST)
    assert last.config["step"] == at - 1
    assert torch.equal(last.tensors["model.score.bias"], kept["before"]["score.bias"])


@pytest.mark.slow
@pytest.mark.parametrize("given", ["Own(), workers=1", "plain, workers=1, pixel_weights=weigh"])
def test_what_a_notebook_defines_is_not_sent_to_spawned_workers(given):
    """As in a notebook: a `__main__` that is no file, and processes that are not forked."""
    code = f"""
import torch
from segviz import models, training

class Own(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, item):
        return torch.rand(3, 32, 32), torch.zeros(32, 32, dtype=torch.long)

def weigh(label):
    return label.float()

torch.multiprocessing.set_start_method("spawn")
plain = torch.utils.data.TensorDataset(torch.rand(4, 3, 32, 32), torch.zeros(4, 32, 32, dtype=torch.long))
try:
    training.fit(models.UNet(2, width=1, depth=1), {given}, batch_size=2, steps=1, device="cpu", show=False)
except ValueError as error:
    print(error)
"""
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    name = given.partition("(")[0] if "(" in given else "weigh"
    said = "is defined in the notebook, where other processes cannot import it from: move it to a .py file, or leave"
    assert seen.stdout == f"{name} {said} workers=0\n", seen.stderr


# -- checkpoints


def run_of(folder: Path, network: nn.Module, **options) -> training.History:
    options = {"steps": 4, "batch_size": 2, "save_every": 1, "device": "cpu", "show": False, "resume": True} | options
    return training.fit(network, own(), own(), folder=folder, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on files is a matter of POSIX")
def test_a_disk_that_fills_up_while_training_keeps_the_last_good_checkpoint_and_the_run_goes_on(tmp_path):
    import resource

    whole, network = run_of(tmp_path / "whole", unet()), unet()
    before, calls = resource.getrlimit(resource.RLIMIT_FSIZE), iter(range(1, 9))

    def fill_up(*_):
        if next(calls) == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    listening = network.register_forward_pre_hook(fill_up)
    path = tmp_path / "run" / saving.LAST
    try:
        refused(OSError, lambda: run_of(path.parent, network), f"{path} was not written: File too large", "It needs",
                "MB are free", "What was there before is unchanged", "make room, or save elsewhere")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.read(path).config["step"] == 2
    assert {file.name for file in path.parent.iterdir()} == {saving.LAST, "run.lock"}
    listening.remove()
    again = unet()
    assert run_of(path.parent, again).loss == whole.loss
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in checkpoint.load(
        tmp_path / "whole" / saving.LAST).state_dict().items())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def pickled(path: Path) -> None:
    torch.save({"weight": torch.ones(1)}, path)


def of_other_classes(path: Path) -> None:
    found, network = checkpoint.read(path), models.UNet(3, width=1, depth=1)
    weights = {f"model.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(path, found.tensors | weights, found.config)


def wild(path: Path) -> None:
    found = checkpoint.read(path)
    found.tensors["model.score.bias"][0] = torch.nan
    checkpoint.save(path, found.tensors, found.config)


CHECKPOINTS = {  # what becomes of the last checkpoint; what is said where the run is taken up
    "truncated": (cut, "is damaged or cut short", "take another copy of it"),
    "empty": (lambda path: path.write_bytes(b""), "is empty (0 bytes)", "Take another copy of it"),
    "a flipped bit": (flipped, "is damaged", "Take another copy of it"),
    "a pickle": (pickled, "is a pickle, not a safetensors file", "weights_only=True"),
    "other classes": (of_other_classes, "score.weight is (3, 1, 1, 1) in the checkpoint and (2, 1, 1, 1)",
                      "num_classes=3"),
    "weights that are NaN": (wild, "score.bias has 1 weights that are NaN or Inf", "Take an earlier checkpoint"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_run_is_not_taken_up_from_a_spoilt_file_and_the_best_is_kept(tmp_path, case):
    run_of(tmp_path, unet())
    spoil, *said = CHECKPOINTS[case]
    spoil(tmp_path / saving.LAST)
    before, network = contents(tmp_path), unet()
    refused(ValueError, lambda: run_of(tmp_path, network), str(tmp_path / saving.LAST), *said)
    refused(ValueError, lambda: checkpoint.load(tmp_path / saving.LAST), str(tmp_path / saving.LAST), *said[:1])
    assert contents(tmp_path) == before
    assert all(torch.equal(value, unet().state_dict()[name]) for name, value in network.state_dict().items())
    checkpoint.load(tmp_path / saving.BEST)


# -- on the command line: exit code 1, one plain line, nothing lost and no result


@pytest.fixture
def run(tmp_path) -> Path:
    run_of(tmp_path / "run", unet())
    return tmp_path / "run"


COMMANDS = {  # what is spoilt, the command, what is said
    "look at a JPEG cut short": (FILES["a JPEG cut short"][0], ("look", "own"), "c.jpg", "truncated", "save it again"),
    "look at colours": (MASKS["RGB without a colour map"][0], ("look", "own"), "c.png", "mode 'RGB'", "classes.txt"),
    "train on nothing": (FILES["an empty folder"][0], ("train", "--data", "own", "--out", "new"), "is empty", "put"),
    "train on black and white": (MASKS["0 and 255 alone"][0], ("train", "--data", "own", "--out", "new"), "--binary"),
    "train on no such GPU": (lambda root: None, ("train", "--device", "cuda:99", "--out", "new"), "cuda:99"),
    "evaluate a pickle": (lambda root: pickled(root.parent / "net.pt"), ("evaluate", "net.pt"), "is a pickle"),
    "evaluate half a file": (lambda root: cut(root.parent / "run/best.safetensors"), ("evaluate", "run"),
                             "best.safetensors", "another copy"),
    "evaluate on half an image": (lambda root: (FILES["a JPEG cut short"][0](root), (root / "classes.txt").unlink()),
                                  ("evaluate", "run", "--data", "own", "--split", "train"), "c.jpg", "truncated"),
    "predict a web page": (lambda root: (root / "x.jpg").write_text("<html>"), ("predict", "run", "own/x.jpg", "--out",
                           "new"), "x.jpg", "cannot be read as a picture"),
    "predict a bomb": (FILES["a bomb"][0], ("predict", "run", "own/train/images/c.png", "--out", "new"),
                       "24000 x 20000", "save it again"),
}  # fmt: skip


@pytest.mark.parametrize("limit", [None, 100])
def test_pillows_limit_is_its_users_and_not_ours(root, monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert len(read(root)) == 3
    FILES["a bomb"][0](root)
    refused(ValueError, lambda: read(root), "24000 x 20000 pixels", "more than 178956970 are a decompression bomb")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_two_threads_leave_pillows_limit_as_it_was(root, monkeypatch):
    """The second would begin while the first is at its file, and end after it."""
    limit, real = Image.MAX_IMAGE_PIXELS, Image.open
    paths = [root / "train/images" / name for name in ("a.png", "b.png")]
    begun, go = ({path: threading.Event() for path in paths} for _ in range(2))

    def slow(path, **options):
        begun[path].set()
        go[path].wait(20)
        return real(path, **options)

    monkeypatch.setattr(Image, "open", slow)
    threads = [threading.Thread(target=pictures.opened, args=(path,)) for path in paths]
    for thread, path in zip(threads, paths, strict=True):
        thread.start()
        begun[path].wait(0.5)
    for thread, path in zip(threads, paths, strict=True):
        go[path].set()
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS is not None


def test_a_full_disk_is_no_damaged_archive(root, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = Path(shutil.make_archive(str(root.parent / "own"), "gztar", root))
    monkeypatch.setattr(tarfile, "copyfileobj", full)
    refused(OSError, lambda: archives.unpacked(archive, root.parent / "new"), "own.tar.gz was not unpacked",
            f"no space is left at {root.parent / 'new'}", "Make room")  # fmt: skip
    assert not list((root.parent / "new").iterdir()) and archive.exists()


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_ends_with_1_and_one_plain_line(root, run, monkeypatch, capfd, case):
    spoil, command, *said = COMMANDS[case]
    spoil(root)
    before = contents(root.parent)
    monkeypatch.chdir(root.parent)
    monkeypatch.setattr(sys, "argv", ["segviz", *command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capfd.readouterr()
    assert end.value.code == 1 and [part for part in said if part not in shown.err] == [], shown.err
    assert shown.err.startswith("segviz: ") and shown.err.count("\n") == 1 and "Traceback" not in shown.err + shown.out
    assert before.items() <= contents(root.parent).items() and not contents(root.parent / "new")
