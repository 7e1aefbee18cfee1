"""Cells: what is promised of the pictures, of their instances and of the data set, tested on the drawn pixels."""

import pickle

import numpy as np
import pytest
import torch

from segviz import draw, instances, losses, runs, training
from segviz.data import Cells, cells
from segviz.data.cells.culture import grow
from segviz.models import UNet


@pytest.fixture(scope="module")
def scenes():
    return [cells.scene(index) for index in range(40)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_picture_depends_on_seed_and_index_alone():
    first, second = cells.scene(3), cells.scene(4)
    np.random.seed(0)
    torch.manual_seed(0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert same(cells.scene(4), second) and same(cells.scene(3), first)
    assert not torch.equal(first.image, second.image)
    assert not torch.equal(first.image, cells.scene(3, seed=1).image)
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("size", [32, 96, 97, (64, 160), (150, 33)])
def test_shapes_types_and_ranges(size):
    image, mask, numbers = cells.scene(7, size)
    height, width = size if isinstance(size, tuple) else (size, size)
    assert image.shape == (1, height, width) and image.dtype == torch.float32
    assert mask.shape == numbers.shape == (height, width) and mask.dtype == numbers.dtype == torch.int64
    assert 0 <= image.min() and image.max() <= 1 and set(mask.unique().tolist()) <= {0, 1}


def test_instances_are_the_components_of_the_mask(scenes):
    for drawn in scenes:
        known = instances.label(drawn.mask)
        pairs = torch.stack([known, drawn.instances], -1).view(-1, 2).unique(dim=0)
        assert len(pairs) == known.max() + 1 == drawn.instances.max() + 1        # one to one, and none is left out
        assert torch.bincount(known.flatten())[1:].min() >= 12                   # no crumbs


def test_of_touching_cells_each_loses_the_pixels_beside_the_other():
    """A ridge of two pixels. By whose each pixel is before that."""
    for index in range(10):
        culture = grow(np.random.default_rng((0, index)), 96, 96)
        whose, numbers = np.where(culture.own < 0, culture.owner, -1), cells.scene(index).instances.numpy()
        for axis in (0, 1):
            one, next_ = (whose.take(range(start, start + 95), axis) for start in (0, 1))
            meet = (one != next_) & (one >= 0) & (next_ >= 0)
            assert meet.any()
            for start in (0, 1):
                assert not numbers.take(range(start, start + 95), axis)[meet].any()


def test_cells_crowd_and_touch(scenes):
    counts = [drawn.instances.max().item() for drawn in scenes]
    pairs = [len(instances.touching(drawn.instances)) for drawn in scenes]
    assert sum(counts) / len(scenes) > 20 and sum(pairs) > 1.5 * sum(counts)
    share = torch.stack([drawn.mask for drawn in scenes]).float().mean()
    assert 0.35 < share < 0.6
    assert min(counts) < 0.3 * max(counts)                                 # colonies, and open ground between them


def test_cells_are_darker_than_the_ridges_beside_them_but_not_by_much(scenes):
    """Touching: less than three pixels from two cells. The ridge shows, and no threshold on grey finds the cells."""
    images, masks = (torch.stack([getattr(drawn, name) for drawn in scenes]) for name in ("image", "mask"))
    near = torch.nn.functional.max_pool2d(masks[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
    ridge, cell = images[:, 0][(masks == 0) & near], images[:, 0][masks == 1]
    assert cell.median() < ridge.median() - 0.03
    greys = torch.linspace(0, 1, 51)
    best = max(((images[:, 0] < grey) == (masks == 1)).float().mean() for grey in greys)
    assert best < 0.75


def test_the_magnification_stays():
    """A larger picture shows more cells, not larger ones."""
    small, large = ([cells.scene(i, size).instances for i in range(20)] for size in (96, 192))
    count = [sum(numbers.max().item() for numbers in some) for some in (small, large)]
    assert 2.5 < count[1] / count[0] < 5
    areas = [torch.cat([torch.bincount(numbers.flatten())[1:] for numbers in some]) for some in (small, large)]
    assert 0.7 < areas[0].median() / areas[1].median() < 1.3


def test_items_are_the_scenes_to_a_byte_and_the_same_when_kept():
    data = Cells("val", size=64, length=5, seed=2)
    fresh = cells.scene(data.scene_index(3), 64, seed=2)
    image, mask = data[3]
    assert image.dtype == torch.float32 and mask.dtype == torch.int64
    assert torch.equal(mask, fresh.mask) and (image - fresh.image).abs().max() <= 0.5 / 255 + 1e-6
    image.zero_()
    assert data[3][0].max() > 0                                                  # a caller cannot spoil what is kept


def test_splits_share_no_picture_whatever_their_lengths():
    indices = [{Cells(split, length=500).scene_index(i) for i in range(500)} for split in ("train", "val", "test")]
    assert len(set.union(*indices)) == 1500
    assert [len(Cells(split)) for split in ("train", "val", "test")] == [30, 50, 50]


def test_iteration_stops_and_tensors_hold_it_all():
    data = Cells("test", size=(32, 48), length=4)
    listed = list(data)
    images, masks = data.tensors()
    assert len(listed) == 4 and images.shape == (4, 1, 32, 48) and masks.shape == (4, 32, 48)
    assert torch.equal(images[2], listed[2][0]) and torch.equal(masks[2], listed[2][1])
    assert torch.equal(data[-1][0], images[3])
    with pytest.raises(IndexError, match="0 to 3"):
        data[4]
    twin = pickle.loads(pickle.dumps(data))
    assert torch.equal(twin.tensors()[0], images)


@pytest.mark.parametrize(("arguments", "words"), [
    (("training",), '"train", "val" or "test"'), (("train", 16), "at least 32"), (("train", 96.5), "size must be"),
    (("train", 96, -1), "length must be"), (("train", 96, 3, -1), "seed must be"),
])
def test_bad_data_sets_are_refused_in_words(arguments, words):
    with pytest.raises(ValueError, match=words):
        Cells(*arguments)


def test_a_bad_index_is_refused_in_words():
    with pytest.raises(ValueError, match="index must be"):
        cells.scene(-1)


def test_the_contact_sheet_shows_each_picture_over_its_cells():
    figure = cells.contact_sheet(range(3), size=32, columns=2)
    shown = [len(ax.images) for ax in figure.axes]
    assert shown == [1, 1, 1, 1, 1, 0, 1, 0]
    assert np.array_equal(figure.axes[1].images[0].get_array(), draw.rgb(cells.scene(1, 32).image))


def test_the_command_line_knows_them():
    items, classes = runs.data_set("cells", "val", 48, 3, seed=1)
    ours = Cells("val", 48, 3, seed=1)
    assert classes == ("background", "cell") and len(items) == 3
    assert torch.equal(items.tensors()[0], ours.tensors()[0])


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("seed", range(3))
def test_weighted_borders_tell_touching_cells_apart(seed):
    """The claim of U-Net's lesson, on a network that trains in seconds: of the touching pairs a tenth more."""
    data, test = Cells("train", 64, 20, seed=seed), Cells("test", 64, 20, seed=seed)

    def told_apart(pixel_weights) -> float:
        torch.manual_seed(seed)
        network = UNet(2, 1, width=8, depth=2, norm=True, dropout=0.0)
        training.fit(network, data, steps=100, batch_size=4, lr=5e-3, seed=seed, pixel_weights=pixel_weights,
                     show=False)  # fmt: skip
        counts = [instances.separated(instances.label(training.predict(network, image)), instances.label(mask))
                  for image, mask in test]
        done, pairs = (sum(count) for count in zip(*counts, strict=True))
        assert pairs > 200
        return done / pairs

    assert told_apart(losses.border_weights) > told_apart(None) + 0.1
