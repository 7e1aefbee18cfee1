"""Folder: what it reads is what was written, pixel by pixel. What it refuses: test_bad_input."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from segviz.data import Folder, pictures

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


def test_pictures_that_were_read_stay_in_memory_as_long_as_there_is_room(tmp_path, monkeypatch):
    """24 x 32 pixels, 3 channels and a mask: 3072 bytes a pair, of which two are to stay."""
    for name in "abc":
        written(tmp_path / "train" / "images" / f"{name}.png", np.full((24, 32, 3), ord(name)))
        written(tmp_path / "train" / "masks" / f"{name}.png", np.zeros((24, 32)))
    read, original = [], pictures.values
    monkeypatch.setattr(pictures, "values", lambda path, *rest: read.append(path.stem) or original(path, *rest))
    data = Folder(tmp_path, "train", keep=2 * 3072 + 100)
    first = [data[item] for item in range(3)]
    for image, mask in first:
        image += 1                                                            # what was handed out is not what is kept
        mask += 1
    again = [data[item - 3] for item in range(3)]
    assert read == ["a", "b", "c", "c"]
    for (image, mask), name in zip(again, "abc", strict=True):
        assert image.dtype == torch.float32 and torch.equal(image, torch.full((3, 24, 32), ord(name) / 255))
        assert mask.dtype == torch.int64 and not mask.any()
    assert len(pickle.dumps(data)) < 3072                                     # another process is not sent them
    assert not Folder(tmp_path, "train", keep=0).kept


def test_a_file_that_was_changed_is_read_again(tmp_path):
    image = written(tmp_path / "train" / "images" / "a.png", np.zeros((24, 32, 3)))
    mask = written(tmp_path / "train" / "masks" / "a.png", np.zeros((24, 32)))
    data = Folder(tmp_path, "train")
    assert data[0][0].max() == 0 and data[0][1].max() == 0
    written(mask, np.full((40, 50), 2))
    with pytest.raises(ValueError, match="both need one size"):
        data[0]
    written(image, np.full((40, 50, 3), 255))
    assert data[0][0].min() == 1 and (data[0][1] == 2).all()
    assert data.used == 4 * 40 * 50
    image.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        data[0]
