"""Prediction by tiles: the whole image's answer, tile by tile, at its borders too."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segviz import receptive
from segviz.models import DeconvNet, FCN8s, FCN32s, Hypercolumn, PSPNet, UNet
from segviz.training import predict, processes, tiles

pytestmark = pytest.mark.usefixtures("one_thread")


def network(kind, *arguments, **options):
    """In float64, so that rounding is far below any seam; with weights that let every path have its say: score layers
    and biases that start at zero would hide seams."""
    torch.manual_seed(0)
    made = kind(*arguments, **options).eval().double()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() == 1 or "score" in name:
                weight.normal_(0, 0.2)
        for part in made.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2)
    return made


def picture(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@torch.no_grad()
def joined(model, image, tile, margin=None):
    """The logits of all tiles, laid where they belong: NaN where there is none."""
    found = None
    for rows, columns, logits in tiles.logits(model, image, tile, margin):
        if found is None:
            found = logits.new_full((len(logits), *image.shape[1:]), torch.nan)
        found[:, rows, columns] = logits
    return found


@torch.no_grad()
def whole(model, image):
    return model(image[None])[0]


def gaps(found, wanted):
    """(H, W): the greatest difference of the logits at each pixel, in standard deviations of an answer's logits."""
    return ((found - wanted).abs() / wanted.std((1, 2), keepdim=True)).amax(0)


def assert_alike(found, wanted):
    """But for rounding, everywhere."""
    assert found.shape == wanted.shape
    assert gaps(found, wanted).max() < 1e-9


def test_the_unet_reads_16_pixels_at_a_time_and_107_beside_the_one_that_it_labels():
    """By walking back from single units: as far as any of them reads, counted from itself."""
    model, far = network(UNet, 2, width=2), 0
    for unit in range(160, 176):
        rows = receptive.reads(model, (336, 32), (unit, 16)).any(1).nonzero()
        far = max(far, unit - rows.min().item(), rows.max().item() - unit)
    assert tiles._look(model, (3, 336, 336)) == (far, 16) == (107, 16)


@pytest.mark.parametrize("size, tile", [
    ((336, 352), 64),      # multiples of the stride, tiles inside
    ((341, 347), 64),      # odd: filled up below and right inside the network
    ((257, 320), 128),     # one pixel is left over below
    ((289, 290), 50),      # a tile that no stride divides
    ((270, 33), 97),       # larger than the image in one direction
    ((45, 77), 1000),      # in both
])  # fmt: skip
def test_a_padded_unet_by_tiles_is_the_unet_of_the_whole_image(size, tile):
    model, image = network(UNet, 3, width=4, norm=True), picture(3, *size)
    assert_alike(joined(model, image, tile), whole(model, image))


def test_a_margin_that_is_too_small_shows_seams():
    model, image = network(UNet, 3, width=4), picture(3, 336, 352)
    assert gaps(joined(model, image, 64, margin=8), whole(model, image)).max() > 0.1


@pytest.mark.parametrize("tile", [1, 3, 10])
def test_tiles_smaller_than_a_network_takes_are_seen_within_enough_of_the_image(tile):
    model = network(UNet, 2, width=2, depth=1)
    image = picture(3, 40, 37)
    assert_alike(joined(model, image, tile), whole(model, image))


@pytest.mark.parametrize("kind, options, size", [
    (FCN32s, {"padding": 100}, (97, 610)), (FCN8s, {"padding": 1}, (130, 610)), (Hypercolumn, {}, (610, 96)),
    (PSPNet, {"layers": (1, 1, 1, 1), "bins": ()}, (200, 301)),
])
def test_networks_on_coarser_grids_too(kind, options, size):
    model, image = network(kind, 3, width=2, **options), picture(3, *size)
    found = joined(model, image, 80)
    assert tiles._look(model, image.shape).margin < max(size) / 2  # or tiles would be the image
    assert_alike(found, whole(model, image))


class Resized(nn.Module):
    """Back to the image's size by interpolation: by a factor that is 4 only where 4 divides the size."""

    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(3, 2, 3, stride=4, padding=1)

    def forward(self, x):
        return nn.functional.interpolate(self.score(x), x.shape[2:], mode="bilinear")


def test_pieces_end_on_the_grid_of_a_network_that_resizes_its_map_to_the_image():
    model, image = network(Resized), picture(3, 64, 96)
    assert_alike(joined(model, image, 13), whole(model, image))
    with pytest.raises(ValueError, match="depend on the image's size"):
        tiles.logits(model, image[:, :, :90], 13)


@pytest.mark.parametrize("size, tile, depth", [((230, 197), 64, 4), ((101, 333), 50, 3), ((20, 41), 30, 2)])
def test_a_valid_unet_sees_the_image_mirrored_at_its_borders(size, tile, depth):
    """Against numpy's mirror image, run whole: filled up below and right until its size fits."""
    model, image = network(UNet, 2, width=2, depth=depth, padding="valid"), picture(3, *size)
    left_out = {4: 92, 3: 44, 2: 20}[depth]
    pads = [(0, 0)]
    for length in size:
        needed = next(n for n in range(length + 2 * left_out, 999) if _fits(model, n))
        pads.append((left_out, needed - length - left_out))
    mirrored = torch.from_numpy(np.pad(image.numpy(), pads, mode="reflect"))
    assert_alike(joined(model, image, tile), whole(model, mirrored)[:, : size[0], : size[1]])


def _fits(model, size):
    try:
        receptive.theoretical(model, size)
        return True
    except ValueError:
        return False


def test_one_tile_of_the_paper_is_388_pixels_of_572():
    assert tiles._valid(network(UNet, 2, in_channels=1, width=2, padding="valid"), 1, 388 - 15) == (572, (92, 16))


def test_predicted_labels_are_those_of_the_whole_image_and_the_mode_is_kept():
    model, image = network(UNet, 3, width=4, norm=True), picture(3, 180, 301)
    with torch.no_grad():
        model.score.bias -= whole(model, image).mean((1, 2))  # no class wins everywhere
    model.train()
    by_tiles = predict(model, image, tile=100)
    assert model.training and by_tiles.dtype == torch.int64
    assert by_tiles.unique().tolist() == [0, 1, 2]
    assert torch.equal(by_tiles, predict(model, image))


def test_in_float32_too_but_for_rounding():
    model, image = network(UNet, 3, width=4).float(), picture(3, 300, 180).float()
    assert gaps(joined(model, image, 64), whole(model, image)).max() < 1e-3


def test_the_network_sees_no_more_than_it_needs():
    seen, model = [], network(UNet, 2, width=2)
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2:]))
    found = list(tiles.logits(model, picture(3, 400, 700), 128))
    seen = seen[-len(found):]  # before the first, it was looked how far the network looks
    assert len(found) == tiles.count((400, 700), 128) == 4 * 6
    assert all(logits.shape == (2, 128, 128) for *_, logits in found)
    assert max(max(shape) for shape in seen) <= 128 + 2 * (107 + 15)


def test_tiles_run_in_the_precision_of_the_whole_image(monkeypatch):
    """On CUDA that is bfloat16."""
    monkeypatch.setattr(processes, "autocast", lambda device: torch.autocast(device.type, torch.bfloat16))
    model, image = network(UNet, 2, width=2).float(), picture(3, 64, 96).float()
    assert {logits.dtype for *_, logits in tiles.logits(model, image, 32)} == {torch.bfloat16}
    assert (predict(model, image, tile=32) != predict(model, image)).float().mean() < 0.05


def test_ctrl_c_between_two_tiles_ends_it_and_keeps_the_mode():
    model, seen = network(UNet, 2, width=2).train(), []

    def pressed(_, given):
        seen.append(given)
        if len(seen) == 3:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(pressed)
    with pytest.raises(KeyboardInterrupt):
        predict(model, picture(3, 200, 200), tile=32)
    assert len(seen) == 3 and model.training


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_image(tmp_path):
    """`benchmarks/tiles.py` in small: nine times the pixels, and the whole image for comparison."""
    script, out = Path(__file__).parents[1] / "benchmarks" / "tiles.py", tmp_path / "tiles.json"
    options = f"--width 8 --tile 128 --threads 1 --sizes 400 1200 --whole 1200 --out {out}"
    subprocess.run([sys.executable, str(script), *options.split()], check=True, capture_output=True, timeout=600)
    found = json.loads(out.read_text())
    small, large = (found["by tiles"][size]["MiB above image and labels"] for size in ("400", "1200"))
    alone = found["whole"]["1200"]["MiB above image and labels"]
    assert large < small + 60 and alone > 200
    assert found["compared"]["1200"]["gap"] < 1e-3 and found["compared"]["1200"]["labels"] > 0.9999


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x + x.mean((2, 3), keepdim=True)


class Halves(Mean):
    """Each half is told its own mean: the look grows with the image, by whole pixels."""

    def forward(self, x):
        x = self.conv(x)
        return x + nn.functional.interpolate(nn.functional.adaptive_avg_pool2d(x, 2), x.shape[2:])


@pytest.mark.parametrize("model", [
    PSPNet(2, width=4, layers=(1, 1, 1, 1)), Mean(), Halves(), DeconvNet(2, width=2),
    nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4)), nn.InstanceNorm2d(3, affine=True),
    nn.BatchNorm2d(3, track_running_stats=False),
], ids=["pyramid", "mean", "halves", "resized", "group norm", "instance norm", "batch norm"])  # fmt: skip
def test_a_network_that_looks_at_the_whole_image_is_refused_unless_a_margin_is_given(model):
    image = picture(3, 96, 96).float()
    with pytest.raises(ValueError, match=r"(looks at the whole image|cannot be told).*tile=None.*margin in pixels"):
        predict(model, image, tile=32)
    assert predict(model, image, tile=32, margin=16).shape == (96, 96)


def test_on_a_map_as_fine_as_the_image_the_margin_is_just_enough():
    model, image = network(nn.Conv2d, 3, 2, 7, padding=3), picture(3, 61, 80)
    assert tiles._look(model, image.shape) == (3, 1)
    assert_alike(joined(model, image, 40), whole(model, image))


def test_a_network_that_looks_at_single_pixels_needs_no_margin():
    model, image = network(nn.Sequential, nn.Conv2d(3, 2, 1)), picture(3, 40, 50)
    assert tiles._look(model, image.shape) == (0, 1) == tiles._look(nn.ReLU(), image.shape)
    assert_alike(joined(model, image, 16), whole(model, image))


def test_bytes_are_images_of_a_quarter_of_the_memory():
    model, image = network(nn.Sequential, nn.Conv2d(3, 2, 3, padding=1)).float(), torch.randint(256, (3, 70, 50)).byte()
    for rows, columns, logits in tiles.logits(model, image, 32):
        with torch.no_grad():
            expected = model(image[None].float() / 255)[0, :, rows, columns]
        assert torch.allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("image, options, words", [
    (torch.rand(1, 3, 64, 64), {"tile": 32}, r"float or uint8 \(C, H, W\)"),
    (torch.zeros(3, 64, 64, dtype=torch.int16), {"tile": 32}, "torch.int16"),
    (torch.rand(3, 64, 64), {"tile": 0}, "tile=0"),
    (torch.rand(3, 64, 64), {"tile": 32, "margin": -1}, "margin=-1"),
])
def test_what_cannot_be_is_refused_in_words(image, options, words):
    with pytest.raises(ValueError, match=words):
        predict(network(UNet, 2, width=2), image, **options)


@pytest.mark.parametrize("model", [nn.Conv2d(3, 2, 3, stride=2, padding=1), nn.Conv2d(3, 2, 3)], ids=["half", "border"])
def test_logits_that_are_smaller_than_their_image_are_refused_in_words(model):
    with pytest.raises(ValueError, match=r"tiles need logits of their image's size, but Conv2d gave .* for"):
        predict(model, picture(3, 96, 96).float(), tile=32)


def test_a_valid_network_has_its_own_margin():
    with pytest.raises(ValueError, match="leave margin out"):
        predict(network(UNet, 2, width=2, padding="valid"), picture(3, 64, 64), tile=32, margin=10)
