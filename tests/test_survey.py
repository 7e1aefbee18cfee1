"""The look at data before training: counts against counting by hand, and what looks wrong."""

import pytest
import torch
from torch.utils.data import TensorDataset

from segviz import draw
from segviz.data import Toytown, toytown
from segviz.data.survey import contact_sheet, name_of, survey


def made(masks, images=None):
    masks = torch.as_tensor(masks)
    if images is None:
        images = torch.rand(len(masks), 3, *masks.shape[1:], generator=torch.Generator().manual_seed(0))
    return TensorDataset(images, masks)


def test_counts_are_those_of_the_pixels():
    data = Toytown("val", size=48, length=5)
    found, (_, masks) = survey(data, toytown.CLASSES), data.tensors()
    assert found.images == 5 and found.sizes == {(48, 48): 5}
    for label, name in enumerate(toytown.CLASSES):
        assert found.pixels[label] == int((masks == label).sum()), name
        assert found.images_with[label] == int((masks == label).flatten(1).any(1).sum())
    assert found.void == int((masks == 255).sum())
    assert sum(found.shares) == pytest.approx(1)
    assert "5 images, height x width: 48 x 48 (5)" in str(found) and toytown.CLASSES[3] in str(found)


def test_rare_classes_are_named():
    masks = torch.zeros(2, 20, 20, dtype=torch.long)
    masks[0, 0, 0], masks[1, :10] = 2, 1
    assert survey(made(masks), ("ground", "road", "wire")).rare == ["wire"]
    assert survey(made(masks), ("ground", "road", "wire", "pole")).notices == ["no pixel of a class: pole"]


def test_the_same_image_is_found_in_another_split_too():
    images = torch.rand(3, 3, 8, 8)
    masks = torch.zeros(3, 8, 8, dtype=torch.long)
    seen: dict[bytes, str] = {}
    assert survey(made(masks, images), seen=seen).notices == []
    images = torch.stack([torch.rand(3, 8, 8), images[1]])
    found = survey(made(masks[:2], images), seen=seen)
    assert found.notices == []            # both are called "item 1"
    found = survey(TensorDataset(images[[1, 0, 1]], masks), seen={})
    assert found.notices == ["the same image twice: item 0 and item 2"]


def test_images_without_content_and_masks_without_labels_are_named():
    masks = torch.zeros(3, 8, 8, dtype=torch.long)
    masks[1, :5] = 255
    images = torch.rand(3, 3, 8, 8)
    images[2] = torch.tensor([0.1, 0.2, 0.3])[:, None, None]
    assert survey(made(masks, images)).notices == [
        "more than half without a label: item 1", "an image of one colour: item 2"]


def test_invented_classes_are_suspected():
    masks = torch.arange(64).view(1, 8, 8)
    assert "resized with interpolation" in survey(made(masks)).notices[0]
    with pytest.raises(ValueError, match=r"labels 2, 3, 4, 5, 6 and 57 more have no name: there are 2 classes, 0 to 1"):
        survey(made(masks), ("a", "b"))


def test_the_contact_sheet_shows_images_beside_their_masks():
    data = Toytown("val", size=48, length=3)
    figure = contact_sheet(data, survey(data, toytown.CLASSES))
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(shown) == 6
    for item in range(3):
        assert (shown[2 * item] == draw.rgb(data[item][0])).all()
        assert (shown[2 * item + 1] == draw.colourise(data[item][1])).all()
    assert figure.legends[0].get_texts()[0].get_text() == "0  sky"
    assert name_of(data, 2) == "val 2"
