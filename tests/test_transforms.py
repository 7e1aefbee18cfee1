"""Augmentation: image and mask stay together, and nothing is invented."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as theirs

from segviz.data.transforms import Augment


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scene(height: int = 80, width: int = 112, block: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask of blocks 0..6 and 255, and the image whose only channel is the mask's number / 255."""
    labels = torch.randint(0, 8, (height // block, width // block), generator=chance(3))
    mask = torch.where(labels == 7, 255, labels).repeat_interleave(block, 0).repeat_interleave(block, 1)
    return (mask / 255).float()[None], mask


def inside(mask: torch.Tensor, reach: int = 3) -> torch.Tensor:
    """Pixels whose neighbours, `reach` around, have one label: there interpolation mixes nothing."""
    padded = F.pad(mask[None, None].float(), [reach] * 4, value=-1)
    highest, lowest = (s * F.max_pool2d(s * padded, 2 * reach + 1, stride=1)[0, 0] for s in (1, -1))
    return highest == lowest


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("settings", [
    {"scale": (0.5, 2.0)}, {"scale": (0.5, 2.0), "crop": (53, 67)}, {"crop": 100}, {"scale": (0.37, 0.37), "crop": 40},
])
def test_image_and_mask_stay_together(settings, seed):
    image, mask = scene()
    grown, labels = Augment(fill=1.0, **settings)(image, mask, chance(seed))         # void is 255 / 255 in the image
    sure = inside(labels)
    assert sure.float().mean() > 0.04
    torch.testing.assert_close(grown[0][sure], (labels[sure] / 255).float(), atol=1e-5, rtol=0)
    assert set(labels.unique().tolist()) <= set(mask.unique().tolist()) | {255}      # no class is invented
    assert grown.dtype == image.dtype and labels.dtype == mask.dtype and grown.shape[1:] == labels.shape


def test_without_settings_only_the_mirror():
    image, mask = torch.rand(3, 20, 30), torch.randint(0, 5, (20, 30))
    plain, labels = Augment(flip=0)(image, mask, chance())
    assert torch.equal(plain, image) and torch.equal(labels, mask)
    mirrored, labels = Augment(flip=1)(image, mask, chance())
    assert torch.equal(mirrored, theirs.horizontal_flip(image)) and torch.equal(labels, theirs.horizontal_flip(mask))


@pytest.mark.parametrize("seed", range(30))
def test_what_is_cut_out_is_a_part_of_the_whole(seed):
    """Only the pixels of the crop are computed; the whole image resized, flipped and turned by torch has the same."""
    size, factor, light, depth = (13, 17), (0.6, 1.0, 1.7)[seed % 3], 0.3, 0.4
    image, mask = torch.rand(3, 40, 53), torch.randint(0, 5, (40, 53))
    augment = Augment(size, scale=(factor, factor), brightness=light, contrast=depth, turns=True)
    part, labels = augment(image, mask, chance(seed))
    generator = chance(seed)
    one, two, _, mirror, down, right = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    quarters = int(torch.randint(4, (), generator=generator))
    image = image * (1 + light * (2 * one - 1))
    image = (image.mean() + (image - image.mean()) * (1 + depth * (2 * two - 1))).clamp(0, 1)
    if factor != 1:
        shape = [round(factor * 40), round(factor * 53)]
        image = F.interpolate(image[None], shape, mode="bilinear", antialias=True)[0]
        mask = F.interpolate(mask[None, None].double(), shape, mode="nearest-exact")[0, 0].long()
    if mirror < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    image, mask = image.rot90(quarters, (1, 2)), mask.rot90(quarters)
    top, left = int(down * (mask.shape[0] - 13 + 1)), int(right * (mask.shape[1] - 17 + 1))
    window = (..., slice(top, top + 13), slice(left, left + 17))
    torch.testing.assert_close(part, image[window], atol=2e-5, rtol=0)
    assert (labels == mask[window]).float().mean() > 0.98         # of two equally near pixels either may be taken


def test_half_of_them_are_mirrored():
    image, mask = torch.rand(1, 4, 4), torch.zeros(4, 4, dtype=torch.long)
    mirrored = sum(torch.equal(Augment()(image, mask, chance(i))[0], image.flip(-1)) for i in range(400))
    assert 160 < mirrored < 240


@pytest.mark.parametrize("factor", [0.5, 0.73, 1.9])
def test_the_size_is_changed_as_torchvision_does(factor):
    image, mask = torch.rand(3, 30, 41), torch.randint(0, 5, (30, 41), dtype=torch.uint8)
    size = [round(factor * 30), round(factor * 41)]
    grown, labels = Augment(flip=0, scale=(factor, factor), crop=tuple(size))(image, mask, chance())
    torch.testing.assert_close(grown, theirs.resize(image, size, antialias=True))
    nearest = theirs.InterpolationMode.NEAREST_EXACT
    assert torch.equal(labels, theirs.resize(mask[None], size, interpolation=nearest)[0])


def test_what_is_drawn_stays_the_same_where_nothing_bends_or_turns():
    """The chance of the settings that were there first does not depend on those that came later."""
    image, mask = torch.rand(3, 40, 40), torch.randint(0, 5, (40, 40))
    settings = {"crop": 24, "scale": (0.5, 2.0), "brightness": 0.3, "flip": 0.5}
    barely = Augment(**settings, elastic=1e-9)
    for seed in range(6):
        plain, labels = Augment(**settings)(image, mask, chance(seed))
        bent, also = barely(image, mask, chance(seed))
        assert torch.equal(labels, also)
        torch.testing.assert_close(plain, bent, atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("elastic", [2.0, 5.0])
def test_image_and_mask_bend_together(elastic, seed):
    image, mask = scene()
    bent, labels = Augment(flip=0, elastic=elastic)(image, mask, chance(seed))
    sure = inside(labels)
    assert sure.float().mean() > 0.04 and not torch.equal(labels, mask)
    torch.testing.assert_close(bent[0][sure], (labels[sure] / 255).float(), atol=1e-4, rtol=0)
    assert set(labels.unique().tolist()) <= set(mask.unique().tolist()) and labels.dtype == mask.dtype


def test_bends_are_those_of_the_paper_pixel_by_pixel():
    """A 3 x 3 grid of normal displacements, bicubic between them; a ramp says where each pixel was looked up, beyond
    the image's edge in its mirror image."""
    rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(33.0), indexing="ij")
    ramps = torch.stack([rows / 40, columns / 32, torch.zeros(41, 33)])
    generator = chance(5)
    torch.rand(6, generator=generator, dtype=torch.float64)
    moves = 4.0 * torch.randn(1, 2, 3, 3, generator=generator)
    bent, _ = Augment(flip=0, elastic=4.0)(ramps, torch.zeros(41, 33, dtype=torch.long), chance(5))
    moved = F.interpolate(moves, (41, 33), mode="bicubic", align_corners=True)[0]
    torch.testing.assert_close(moved[:, ::20, ::16], moves[0])                   # the grid's points lie on pixels
    for ramp, place, move, last in zip(bent, (rows, columns), moved, (40, 32), strict=False):
        there = place + move
        assert there.min() < -2 or there.max() > last + 2
        there = torch.where(there < -0.5, -1 - there, there)
        there = torch.where(there > last + 0.5, 2 * last + 1 - there, there).clamp(0, last)
        torch.testing.assert_close(ramp * last, there, atol=1e-3, rtol=0)


def test_how_far_things_move_is_the_deviation_that_was_asked_for():
    ramp = torch.arange(64.0).expand(64, 64)[None] / 63
    far = [(Augment(flip=0, elastic=4.0)(ramp, torch.zeros(64, 64, dtype=torch.long), chance(i))[0][0, 32, 32] * 63
            - 32).item() for i in range(300)]
    assert 3.4 < torch.tensor(far).std() < 4.6                                   # about the middle point of the grid


def test_quarter_turns_are_torchs_and_as_likely():
    image, mask = torch.rand(3, 12, 12), torch.randint(0, 5, (12, 12))
    counts = [0] * 4
    for seed in range(400):
        turned, labels = Augment(flip=0, turns=True)(image, mask, chance(seed))
        quarters = next(k for k in range(4) if torch.equal(labels, mask.rot90(k)))
        assert torch.equal(turned, image.rot90(quarters, (1, 2)))
        counts[quarters] += 1
    assert min(counts) > 70


def test_an_oblong_image_is_turned_where_a_crop_is_cut_out():
    image, mask = torch.rand(3, 12, 20), torch.randint(0, 5, (12, 20))
    turned, labels = Augment(turns=True, crop=10)(image, mask, chance())
    assert turned.shape == (3, 10, 10) and labels.shape == (10, 10)
    with pytest.raises(ValueError, match="oblong"):
        Augment(turns=True)(image, mask, chance())


def test_padding_is_void_and_filled():
    image, mask = torch.rand(3, 10, 12), torch.ones(10, 12, dtype=torch.long)
    grown, labels = Augment(crop=(16, 20), flip=0, fill=0.25)(image, mask, chance())
    assert torch.equal(labels == 255, F.pad(torch.zeros(10, 12), (0, 8, 0, 6), value=1) == 1)
    assert (grown[:, labels == 255] == 0.25).all() and torch.equal(grown[:, :10, :12], image)


def test_padding_in_the_mean_colour():
    image, mask = torch.rand(3, 10, 12), torch.ones(10, 12, dtype=torch.long)
    grown, _ = Augment(crop=16, flip=0, fill=(0.1, 0.2, 0.3))(image, mask, chance())
    assert torch.equal(grown[:, 15, 0], torch.tensor([0.1, 0.2, 0.3])) and grown.shape == (3, 16, 16)


def test_every_place_is_cut_out_at_times():
    image, mask = torch.arange(4.0).view(1, 1, 4), torch.arange(4).view(1, 4)
    seen = {tuple(Augment(crop=(1, 2), flip=0)(image, mask, chance(i))[1][0].tolist()) for i in range(60)}
    assert seen == {(0, 1), (1, 2), (2, 3)}


def test_half_of_the_crops_hold_a_rare_label_and_it_lies_anywhere_in_them():
    """A single pixel of label 1, another of label 3: chance alone would show them in 2 of 100 crops."""
    mask = torch.zeros(100, 120, dtype=torch.long)
    mask[33, 70], mask[80, 40] = 1, 3
    image = (mask / 255).float()[None]
    augment = Augment(crop=11, scale=(1.0, 1.6), turns=True, rare=(1, 3))
    seen, places = {1: 0, 3: 0}, []
    for seed in range(400):
        part, labels = augment(image, mask, chance(seed))
        assert part.shape == (1, 11, 11) and labels.shape == (11, 11)
        for label in seen:
            seen[label] += bool((labels == label).any())
            places += (labels == label).nonzero().tolist()
    assert all(70 < count < 130 for count in seen.values())
    rows, columns = torch.tensor(places).T
    assert all((side < 4).sum() > 30 and (side > 6).sum() > 30 for side in (rows, columns))


def test_rare_labels_at_the_edge_and_in_images_that_are_smaller_than_the_crop():
    mask = torch.zeros(30, 40, dtype=torch.long)
    mask[0, 39] = 1
    image = torch.rand(1, 30, 40)
    found = sum(bool((Augment(crop=8, rare=(1,))(image, mask, chance(i))[1] == 1).any()) for i in range(60))
    assert 18 < found < 45
    labels = [Augment(crop=48, rare=(1,), flip=0)(image, mask, chance(i))[1] for i in range(4)]
    assert all((part == 1).sum() == 1 and part[0, 39] == 1 for part in labels)


def test_without_rare_labels_in_the_image_crops_are_as_ever():
    image, mask = torch.rand(1, 30, 40), torch.zeros(30, 40, dtype=torch.long)
    for seed in range(5):
        plain, sought = (Augment(crop=8, rare=rare)(image, mask, chance(seed))[0] for rare in ((), (2,)))
        assert torch.equal(plain, sought)


def test_light_changes_the_image_alone_and_stays_in_range():
    image, mask = torch.rand(3, 20, 20), torch.randint(0, 5, (20, 20))
    bright, labels = Augment(flip=0, brightness=0.5)(image, mask, chance(1))
    factor = (bright[bright < 1] / image[bright < 1]).unique()
    assert torch.equal(labels, mask) and (factor.max() - factor.min()) < 1e-3 and 0.5 <= factor[0] <= 1.5
    steep = Augment(flip=0, brightness=0.9, contrast=0.9)
    assert all(0 <= x.min() and x.max() <= 1 for x in (steep(image, mask, chance(i))[0] for i in range(20)))


def test_chance_comes_from_the_generator_alone():
    image, mask = torch.rand(3, 40, 40), torch.randint(0, 5, (40, 40))
    augment = Augment(crop=24, scale=(0.5, 2), brightness=0.3, contrast=0.3, elastic=3.0, turns=True)
    torch.manual_seed(1)
    first, state = augment(image, mask, chance(5)), torch.get_rng_state()
    torch.manual_seed(2)
    again, other = augment(image, mask, chance(5)), augment(image, mask, chance(6))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_runs_of_before_there_were_bends_and_turns_can_be_taken_up():
    """A run says how it was augmented in these words; they are those of that time where neither is on."""
    before = "Augment(crop=24, scale=(0.5, 2.0), flip=0.5, brightness=0.0, contrast=0.0, fill=0.0, void=255)"
    assert repr(Augment(crop=24, scale=(0.5, 2.0))) == before
    bent = Augment(crop=24, elastic=2.0, turns=True)
    assert eval(repr(bent)) == bent and "elastic=2.0, turns=True" in repr(bent)
    assert "rare=(2,)" in repr(Augment(crop=24, rare=(2,)))


@pytest.mark.parametrize(("settings", "words"), [
    ({"scale": (0, 1)}, "scale is"), ({"scale": (2, 1)}, "scale is"), ({"flip": 1.5}, "flip is a chance"),
    ({"brightness": 1.0}, "brightness and contrast"), ({"crop": 0}, "crop is a size"), ({"crop": (8, 0)}, "crop is"),
    ({"elastic": -1.0}, "elastic is"), ({"elastic": float("inf")}, "elastic is"),
    ({"elastic": float("nan")}, "elastic is"), ({"rare": (2,)}, "crops show rare labels"),
])
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Augment(**settings)


@pytest.mark.parametrize(("image", "mask"), [
    (torch.rand(3, 8, 8), torch.zeros(8, 9, dtype=torch.long)), (torch.rand(8, 8), torch.zeros(8, 8)),
    (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.long)),
])
def test_an_image_and_a_mask_that_do_not_fit(image, mask):
    with pytest.raises(ValueError, match="an image is float"):
        Augment()(image, mask, chance())
