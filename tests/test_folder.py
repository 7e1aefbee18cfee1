"""Folder: what it reads is what was written, pixel by pixel, and what cannot be meant is refused in words."""

import io
import pickle
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from segviz.data import Folder

CLASSES = ("background", "nucleus", "border")


def written(path, values, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path):
    """Three pairs of different sizes, and their values."""
    draw = np.random.default_rng(0)
    for name, size in (("b", (40, 33)), ("a", (32, 50)), ("c", (36, 36))):
        written(tmp_path / "val" / "images" / f"{name}.png", draw.integers(0, 256, (*size, 3)))
        written(tmp_path / "val" / "masks" / f"{name}.png", draw.choice([0, 1, 2, 255], size))
    return tmp_path


def values(path):
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).long()


def test_items_are_the_files_pixel_by_pixel_in_the_order_of_their_names(root):
    data = Folder(root, "val", classes=CLASSES)
    assert len(data) == 3 and data.classes == CLASSES
    for item, name in enumerate("abc"):
        image, mask = data[item]
        assert image.dtype == torch.float32 and mask.dtype == torch.int64
        assert torch.equal((image * 255).round().long().permute(1, 2, 0), values(root / "val/images" / f"{name}.png"))
        assert torch.equal(mask, values(root / "val/masks" / f"{name}.png"))
    assert torch.equal(data[-1][1], data[2][1]) and len(list(data)) == 3
    with pytest.raises(IndexError, match="0 to 2"):
        data[3]


def test_it_survives_pickling_as_a_loading_process_needs(root):
    data = Folder(root, "val")
    assert torch.equal(pickle.loads(pickle.dumps(data))[1][0], data[1][0])


def test_grey_and_colour_become_what_is_asked_for(root):
    colour = Folder(root, "val", channels=1)
    red, green, blue = Folder(root, "val")[0][0]
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R 601, as Pillow's
    assert colour[0][0].shape == (1, 32, 50) and (colour[0][0][0] - luminance).abs().max() < 1.01 / 255
    grey = np.arange(36 * 36).reshape(36, 36) % 256
    written(root / "val/images/c.png", grey)
    for channels in (1, 3):
        image = Folder(root, "val", channels=channels)[2][0]
        assert (image.mul(255).round().long() == torch.from_numpy(grey)).all() and image.shape == (channels, 36, 36)


def test_a_palette_mask_keeps_its_indices(root):
    labels = np.arange(36 * 36).reshape(36, 36) % 3
    picture = Image.new("P", (36, 36))
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([0, 0, 0, 250, 200, 20, 30, 90, 200])
    picture.save(root / "val/masks/c.png")
    with Image.open(root / "val/masks/c.png") as kept:
        assert kept.mode == "P"
    assert torch.equal(Folder(root, "val", classes=CLASSES)[2][1], torch.from_numpy(labels))


def test_names_with_spaces_other_letters_and_upper_case_work_and_hidden_files_do_not_matter(root):
    for part, size in (("images", (32, 32, 3)), ("masks", (32, 32))):
        place = root / "val" / part
        written(place / "Zellkern 7 세포 ä.PNG", np.zeros(size))
        (place / ".DS_Store").write_bytes(b"x")
        (place / "._a.png").write_bytes(b"x")
    data = Folder(root, "val")
    assert len(data) == 4 and sum(image.shape == (3, 32, 32) for image, _ in data) == 1


def test_a_jpeg_image_has_its_mask_by_name(root):
    (root / "val/images/c.png").unlink()
    written(root / "val/images/c.jpg", np.full((36, 36, 3), 128), quality=95)
    image, _ = Folder(root, "val")[2]
    assert (image - 128 / 255).abs().max() < 0.01


# ---- what is refused, and in which words -------------------------------------------------------------------

def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (36, 36, 3), dtype=np.uint8)).save(buffer, "jpeg")
    return buffer.getvalue()


def turned(path):
    picture = Image.new("RGB", (36, 36))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)


FOLDERS = {  # what is done to the folder, what the message says
    "no root": (lambda root: root.rename(root.with_name("gone")), r"is not a folder.*images and .*masks"),
    "no split": (lambda root: (root / "val").rename(root / "valid"), r"no split 'val'; its folders are valid\b"),
    "no masks": (lambda root: (root / "val/masks").rename(root / "val/labels"), "has no folder masks"),
    "empty": (lambda root: [path.unlink() for part in ("images", "masks") for path in (root / "val" / part).iterdir()],
              "images is empty"),
    "image alone": (lambda root: (root / "val/masks/b.png").unlink(), "1 of 3 images have no mask: b\\."),
    "mask alone": (lambda root: [written(root / f"val/masks/x{i}.png", np.zeros((9, 9))) for i in range(7)],
                   "7 of 10 masks have no image: x0, x1, x2, x3, x4 and 2 more"),
    "one name twice": (lambda root: written(root / "val/images/a.jpg", np.zeros((9, 9))), "a.jpg and a.png have one"),
    "jpeg mask": (lambda root: (root / "val/masks/a.png").rename(root / "val/masks/a.jpg"), "a.jpg.*invents classes"),
    "another file": (lambda root: (root / "val/images/notes.txt").write_text("x"), "notes.txt.*end with .png"),
    "a folder": (lambda root: (root / "val/images/deep.png").mkdir(), "deep.png.*end with .png"),
}


@pytest.mark.parametrize("done", FOLDERS)
def test_a_folder_that_cannot_be_meant_is_refused_at_once(root, done):
    change, words = FOLDERS[done]
    change(root)
    with pytest.raises(ValueError, match=words) as refused:
        Folder(root, "val")
    assert str(root) in str(refused.value)


def few_bits(path):
    """A grey PNG of 2 bits, as programs write that make files small: 36 x 36 pixels of label 1."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", 36, 36, 2, 0, 0, 0, 0), (b"\0" + b"\x55" * 9) * 36
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
                     + chunk(b"IEND", b""))


FILES = {  # what c becomes, what the message says
    "zero bytes": ("images", lambda path: path.write_bytes(b""), r"\(0 bytes\) cannot be read as a picture"),
    "html": ("images", lambda path: path.write_text("<html>not found</html>"), "cannot be read as a picture"),
    "cut short": ("images", lambda path: path.write_bytes(path.read_bytes()[:-700]), "cannot be read as a picture"),
    "cut short jpeg": ("images", lambda path: path.write_bytes(jpeg()[:-60]), "cannot be read as a picture"),
    "transparent": ("images", lambda path: written(path, np.zeros((36, 36, 4))), "mode 'RGBA'.*transparency"),
    "16 bits": ("images", lambda path: Image.new("I;16", (36, 36)).save(path), "PNG of 16 bits a channel.*have 8"),
    "turned": ("images", turned, "to be shown turned"),
    "size": ("images", lambda path: written(path, np.zeros((36, 35, 3))), "36 x 35.*36 x 36"),
    "mask in colours": ("masks", lambda path: written(path, np.zeros((36, 36, 3))), "mode 'RGB'.*labels"),
    "a jpeg by another name": ("masks", lambda path: path.write_bytes(jpeg()), "is a JPEG file, whatever its name"),
    "2 bits": ("masks", few_bits, "a grey PNG of 2 bits.*label 1 becomes 85"),
    "wild labels": ("masks", lambda path: written(path, np.arange(36 * 36).reshape(36, 36) % 9),
                    r"labels 3, 4, 5, 6, 7 and 1 more, but classes names 3: labels are 0 to 2"),
    "from 1": ("masks", lambda path: written(path, 1 + np.arange(36 * 36).reshape(36, 36) % 3), "begin at 1"),
}


@pytest.mark.parametrize("done", FILES)
def test_a_file_that_cannot_be_meant_is_refused_when_it_is_read(root, done):
    part, change, words = FILES[done]
    path = root / "val" / part / "c.png"
    change(path)
    data = Folder(root, "val", classes=CLASSES)
    data[0]
    with pytest.raises(ValueError, match=words) as refused:
        data[2]
    assert re.search(re.escape(str(path)), str(refused.value))


def test_black_and_white_masks_are_refused_unless_there_are_more_classes_than_two(root):
    written(root / "val" / "masks" / "c.png", np.eye(36) * 255)
    for classes in (None, CLASSES[:2]):
        with pytest.raises(ValueError, match=r"c\.png holds 0 and 255 alone.*binary=True"):
            Folder(root, "val", classes)[2]
    assert Folder(root, "val", CLASSES)[2][1].unique().tolist() == [0, 255]      # background, and void


def test_a_decompression_bomb_is_refused_in_words(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match=r"cannot be read as a picture.*decompression bomb"):
        Folder(root, "val")[2]


@pytest.mark.parametrize("arguments, words", [({"channels": 4}, "channels is 3, or 1"), ({"classes": ()}, "1 to 255")])
def test_bad_arguments_are_refused_in_words(root, arguments, words):
    with pytest.raises(ValueError, match=words):
        Folder(root, "val", **arguments)


# -- masks as people have them


def test_black_and_white_masks_when_it_is_said(root):
    for name, mode in (("a", "L"), ("b", "1"), ("c", "L")):
        size = values(root / "val" / "images" / f"{name}.png").shape[:2]
        written(root / "val" / "masks" / f"{name}.png", np.indices(size).sum(0) % 2 * 255, mode)
    for _, mask in Folder(root, "val", binary=True):
        assert torch.equal(mask, torch.from_numpy(np.indices(mask.shape).sum(0) % 2))


@pytest.mark.parametrize(("mask", "says"), [
    (np.arange(36 * 36).reshape(36, 36) % 200, r"c\.png was said to be black and white.*1, 2, 3, 4, 5 and 194 more"),
    (np.zeros((36, 36, 3)), r"c\.png is of Pillow's mode 'RGB': binary masks"),
])
def test_what_is_not_black_and_white_is_refused(root, mask, says):
    written(root / "val" / "masks" / "c.png", mask)
    with pytest.raises(ValueError, match=says):
        Folder(root, "val", binary=True)[2]


COLOURED = """background #000000
nucleus  #ff0000

cell wall #00FF00
void #ffffff
"""


def test_classes_and_colours_come_from_the_folder(root):
    (root / "classes.txt").write_text(COLOURED, encoding="utf-8")
    palette, labels = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 255]]), np.array([0, 1, 2, 255])
    drawn = np.random.default_rng(1).integers(0, 4, (36, 36))
    written(root / "val" / "masks" / "c.png", palette[drawn])
    data = Folder(root, "val")
    assert data.classes == ("background", "nucleus", "cell wall")
    assert torch.equal(data[2][1], torch.from_numpy(labels[drawn]))
    assert torch.equal(data[0][1], values(root / "val/masks/a.png"))      # a grey one, beside it, holds labels


def test_colours_without_a_name_are_told_and_counted(root):
    (root / "classes.txt").write_text(COLOURED)
    picture = np.zeros((36, 36, 3), np.uint8)
    picture[:2, :3], picture[5, 5] = (255, 0, 1), (1, 2, 3)
    written(root / "val" / "masks" / "c.png", picture)
    with pytest.raises(ValueError, match=r"c\.png holds colours.*#ff0001 \(6 pixels\), #010203 \(1 pixels\)"):
        Folder(root, "val")[2]
    (root / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"c\.png is of Pillow's mode 'RGB'.*classes\.txt"):
        Folder(root, "val")[2]


@pytest.mark.parametrize(("text", "says"), [
    ("", "names 0 classes"), ("road\nroad", "line 2.*twice"), ("road\nvoid", "line 2.*void without its colour"),
    ("road #112233\nsky #112233", "line 2: #112233 is the colour of two classes"),
])
def test_a_list_of_classes_that_cannot_be_meant(root, text, says):
    (root / "classes.txt").write_text(text)
    with pytest.raises(ValueError, match=f"classes.txt.*{says}"):
        Folder(root, "val")
