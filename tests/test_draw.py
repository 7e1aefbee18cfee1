"""Pictures: the right colours in the right places, and colours that can be told apart."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text

from segviz import draw


def test_colours_of_labels_and_void():
    labels = torch.tensor([[0, 9], [255, 5]])
    painted = draw.colourise(labels)
    assert painted.shape == (2, 2, 3) and painted.dtype == np.uint8
    assert np.array_equal(painted[0], draw.PALETTE[[0, 9]]) and np.array_equal(painted[1, 0], draw.VOID_COLOUR)


def test_a_label_without_a_colour_is_refused():
    with pytest.raises(ValueError, match="label 12"):
        draw.colourise(np.array([[12]]))


@pytest.mark.parametrize("picture", [torch.rand(3, 5, 7), np.random.rand(5, 7, 3), np.zeros((5, 7, 3), np.uint8)])
def test_images_in_any_layout(picture):
    assert draw.rgb(picture).shape == (5, 7, 3) and draw.rgb(picture).dtype == np.uint8


@pytest.mark.parametrize(("picture", "words"), [
    (torch.rand(2, 5, 7), r"\(2, 5, 7\)"), (torch.rand(5, 7), r"\(5, 7\)"),
    (torch.full((3, 5, 7), 200), "int64"),                            # would be white all over
])
def test_what_is_no_image_is_refused_in_words(picture, words):
    with pytest.raises(ValueError, match=words):
        draw.rgb(picture)


def test_a_grey_image_is_shown_in_grey():
    grey = torch.rand(1, 5, 7)
    assert np.array_equal(draw.rgb(grey), draw.rgb(grey.expand(3, -1, -1)))


def test_not_a_number_is_black():
    assert not draw.rgb(torch.full((3, 5, 7), float("nan"))).any()


def test_labels_are_whole_numbers():
    assert np.array_equal(draw.colourise(torch.tensor([[True, False]])), draw.PALETTE[[[1, 0]]])
    with pytest.raises(ValueError, match="argmax"):
        draw.colourise(torch.rand(5, 7))


def test_the_overlay_is_the_mixture():
    image, labels = torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.long)
    artist = draw.overlay(Figure().subplots(), image, labels, alpha=0.5)
    assert np.allclose(np.asarray(artist.get_array())[0, 0], draw.PALETTE[0] // 2, atol=1)


def test_every_picture_draws():
    from segviz.data import toytown
    scene = toytown.scene(3)
    axes = Figure(figsize=(20, 3)).subplots(1, 8)
    draw.image(axes[0], scene.image, "image")
    draw.labels(axes[1], scene.mask)
    boxes = draw.boxes(axes[2], scene.objects)
    draw.instances(axes[3], scene.image, scene.instances)
    draw.legend(axes[4], toytown.CLASSES)
    draw.confusion(axes[5], torch.tensor([[3, 1], [0, 9]]), ("a", "b"))
    draw.curve(axes[6], [3.0, 2.0, 1.5])
    draw.heat(axes[7], torch.rand(4, 4))
    axes[0].figure.canvas.draw()
    assert len(boxes) == 2 * len(scene.objects)
    assert {text.get_text() for text in axes[5].texts} == {".75", ".25", "1.00"}


def test_names_are_no_formulas():
    """Of one with an odd sign matplotlib makes an error, of the other italics without blanks."""
    classes = ("$a_$", "US$ and $ 5")
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    draw.legend(axes[0], classes)
    draw.confusion(axes[1], [[3, 1], [0, 9]], classes)
    draw.boxes(axes[2], [SimpleNamespace(box=(1, 1, 5, 5), name=classes[0])])
    draw.key(figure, classes)
    figure.canvas.draw()
    shown = [text for text in figure.findobj(Text) if "$" in text.get_text()]
    assert len(shown) >= 2 + 4 + 1 + 2 and not any(text.get_parse_math() for text in shown)


# Machado, Oliveira, Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1.0.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(colours: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB."""
    xyz = colours @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    f = np.cbrt((xyz / [0.9505, 1.0, 1.089]).clip(1e-6))
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_palette_stays_apart(deficiency):
    colours = np.vstack([draw.PALETTE, draw.VOID_COLOUR]) / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = lab((linear @ np.array(DEFICIENCIES[deficiency]).T).clip(0, 1))
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(seen), 1)]
    assert distances.min() > 10, distances.min()
