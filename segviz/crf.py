"""The dense CRF: every pixel says to every other one "be as I am", the louder the nearer it is and the more alike.

Krahenbuhl, Koltun 2011, "Efficient inference in fully connected CRFs with Gaussian edge potentials". Theirs is an
approximation (of the sums over all pixels, by a permutohedral lattice); this one is exact.
"""

import math
from collections import deque
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256        # pixels, at most, that ask together
FAR = 32.0         # blocks between which every kernel is below exp(-32) = 1e-14 need not hear each other
BUDGET = 1 << 28   # bytes at one time for what blocks hear


def mean_field(
    probabilities: Tensor,
    image: Tensor,
    iterations: int = 10,
    *,
    pos_w: float = 3.0,
    pos_xy_std: float = 1.0,
    bi_w: float = 4.0,
    bi_xy_std: float = 67.0,
    bi_rgb_std: float = 3.0,
) -> Tensor:
    """What each pixel is after all have been heard: the marginals of a dense CRF, by mean field.

    The energy of a labelling x is sum_i -log p_i(x_i), plus, for each pair of pixels of unlike labels (Potts),
    pos_w * k(i, j) + bi_w * K(i, j), with kernels
      smoothness k = exp(-|xy_i - xy_j|^2 / (2 pos_xy_std^2)),
      appearance K = exp(-|xy_i - xy_j|^2 / (2 bi_xy_std^2) - |rgb_i - rgb_j|^2 / (2 bi_rgb_std^2)).
    Each iteration, of all pixels at once: q = softmax(log p + pos_w * k q + bi_w * K q), from q = p on.
    As in the authors' code of 2013 (the one behind pydensecrf), a pixel hears itself too, which the paper leaves out,
    and each kernel is normalised symmetrically: k(i, j) / sqrt(n_i n_j), n_i = sum_j k(i, j).

    probabilities: (C, H, W) float, the softmax of a network's logits: 0 or more, 1 in sum over the classes. A 0 stays
    about 0 whatever the others say (it counts as 1e-38).
    image: (channels, H, W) float in [0, 1], one channel or more, on the same device.
    iterations: 0 or more. Weights pos_w and bi_w: 0 or more; widths pos_xy_std and bi_xy_std: in pixels, bi_rgb_std: in
    steps of an 8-bit image, 1/255 of this one's range. The names are those of a port, kazuto1011/deeplab-pytorch; the
    defaults are DeepLab v2's for ResNet-101 (Chen et al. 2018), as two ports of its release have them. (DeepLab's own
    code divides by n_i instead: k(i, j) / n_i.)

    Returns (C, H, W), as the probabilities. Inside all is float64: mean field magnifies rounding where pixels waver,
    and in float32 the marginals would be off by up to 1e-3 there. Memory grows with H * W, not with its square; time
    with the pairs of pixels that are near each other in place and colour. ValueError for anything else.
    """
    results = marginals(
        probabilities, image, iterations, pos_w=pos_w, pos_xy_std=pos_xy_std, bi_w=bi_w, bi_xy_std=bi_xy_std,
        bi_rgb_std=bi_rgb_std,
    )  # fmt: skip
    return deque(results, maxlen=1).pop()


@torch.no_grad()
def marginals(
    probabilities: Tensor,
    image: Tensor,
    iterations: int = 10,
    *,
    pos_w: float = 3.0,
    pos_xy_std: float = 1.0,
    bi_w: float = 4.0,
    bi_xy_std: float = 67.0,
    bi_rgb_std: float = 3.0,
) -> Iterator[Tensor]:
    """The marginals before the first iteration, after it, after the second, ...: `iterations` + 1 tensors (C, H, W),
    the last of which `mean_field` returns. Arguments and errors as there; an error comes when the first is asked for.
    """
    _check(probabilities, image, iterations, [pos_w, bi_w], [pos_xy_std, bi_xy_std, bi_rgb_std])
    place = "cpu" if image.device.type == "mps" else image.device   # MPS has no float64, not even on the way
    image = image.to(place).double()
    logits = probabilities.to(place).double().clamp(min=torch.finfo(torch.float32).tiny).log()
    kernels = []
    if pos_w:
        kernels.append((pos_w, Smoothness(image.shape[1:], pos_xy_std, logits)))
    if bi_w:
        kernels.append((bi_w, Appearance(image, bi_xy_std, bi_rgb_std)))
    scales = [kernel(torch.ones_like(logits[:1])).rsqrt() for _, kernel in kernels]

    q = logits.softmax(0)
    yield q.to(probabilities)
    for _ in range(iterations):
        heard = logits.clone()
        for (weight, kernel), scale in zip(kernels, scales, strict=True):
            heard += weight * scale * kernel(scale * q)
        q = heard.softmax(0)
        yield q.to(probabilities)


def _check(probabilities: Tensor, image: Tensor, iterations: int, weights: list[float], widths: list[float]) -> None:
    for name, tensor in (("probabilities", probabilities), ("image", image)):
        if tensor.dim() != 3 or not tensor.is_floating_point() or not tensor.numel():
            kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
            raise ValueError(f"expected {name} as floats (channels, H, W), one image at a time; got {kind} {shape}")
    if probabilities.shape[1:] != image.shape[1:] or probabilities.device != image.device:
        raise ValueError(
            f"probabilities and image are of one size and on one device, but got {tuple(probabilities.shape)} on "
            f"{probabilities.device} and {tuple(image.shape)} on {image.device}"
        )
    if not ((probabilities >= 0).all() and (probabilities.float().sum(0) - 1).abs().max() < 0.01):
        raise ValueError("probabilities are 0 or more, and 1 in sum over the classes: take logits.softmax(0) first")
    if not ((image >= 0) & (image <= 1)).all():
        raise ValueError("image has values in [0, 1]: divide an 8-bit one by 255, and undo a normalisation")
    if iterations < 0 or not all(0 <= weight < float("inf") for weight in weights):
        given = f"{iterations}, {weights[0]}, {weights[1]}"
        raise ValueError(f"iterations, pos_w and bi_w are 0 or more and finite, but got {given}")
    if not all(0 < width < float("inf") for width in widths):
        given = ", ".join(map(str, widths))
        raise ValueError(f"pos_xy_std, bi_xy_std and bi_rgb_std are more than 0 and finite, but got {given}")


class Smoothness:
    """Sums over all pixels, weighted by a Gaussian of the distance: exp(-dy^2 / 2 s^2) * exp(-dx^2 / 2 s^2), so one
    matrix along the columns and one along the rows. values (C, H, W) -> (C, H, W)."""

    def __init__(self, size: tuple[int, int], std: float, like: Tensor):
        self.down, self.right = (self._matrix(length, std).to(like) for length in size)

    def __call__(self, values: Tensor) -> Tensor:
        return self.down @ values @ self.right

    @staticmethod
    def _matrix(length: int, std: float) -> Tensor:
        places = torch.arange(length, dtype=torch.float64) / std
        return (-(places[:, None] - places).square() / 2).exp()


class Appearance:
    """Sums over all pixels, weighted by a Gaussian of the difference in place and colour: (C, H, W) -> (C, H, W).

    It is attention. Queries and keys are the pixels' features f (place and colour over their widths), values what they
    say: -|f_i - f_j|^2 / 2 = f_i . f_j - |f_i|^2 / 2 - |f_j|^2 / 2 is a product of vectors with two columns more.
    Softmax divides by the sum of the weights; so that this can be undone, one more key weighs exp(0) = 1 to everyone,
    and says 1 where all others say 0: its share is one over that sum.

    Pixels ask in blocks whose features lie close together, and hear only blocks that are not far from all of them.
    """

    def __init__(self, image: Tensor, xy_std: float, rgb_std: float):
        features = place_and_colour(image, xy_std, rgb_std)
        self.blocks = compact_blocks(features, BLOCK)                             # (blocks, pixels): their numbers
        features = features[self.blocks.clamp(max=len(features) - 1)]
        self.low, self.high = features.amin(1), features.amax(1)
        counts = [self.near(asking).sum(1) for asking in torch.arange(len(self.blocks)).split(64)]
        self.counts, self.order = torch.cat(counts).sort(descending=True)         # blocks that each hears; those blocks
        lengths, ones = -features.square().sum(-1, keepdim=True) / 2, torch.ones_like(features[..., :1])
        self.queries = torch.cat([features, lengths, ones], dim=-1)               # (blocks, pixels, features)
        self.keys = torch.cat([features, ones, lengths], dim=-1)

    def __call__(self, values: Tensor) -> Tensor:
        classes, (blocks, size) = len(values), self.blocks.shape
        width = -(-max(self.keys.shape[2], classes + 1) // 8) * 8                 # one for all: torch's fast kernels
        spoken = F.pad(values.flatten(1).T, (0, 0, 0, blocks * size - values[0].numel()))[self.blocks]
        heard = torch.empty_like(spoken)                                          # (blocks, pixels, C)
        counts, done, each = self.counts.tolist(), 0, size * (2 * width + 3 * size) * spoken.element_size()
        while done < blocks:                                                      # those together that hear like many
            asking = self.order[done : done + max(1, BUDGET // (counts[done] * each))]
            heard[asking] = self._attend(asking, spoken, counts[done], width)
            done += len(asking)
        result = torch.empty_like(heard).flatten(0, 1)
        result[self.blocks.flatten()] = heard.flatten(0, 1)
        return result[: values[0].numel()].T.view_as(values)

    def near(self, asking: Tensor) -> Tensor:
        """Whom some blocks hear: (asking, blocks) bool."""
        low, high = self.low[asking, None], self.high[asking, None]
        gaps = torch.maximum(low - self.high, self.low - high).clamp(min=0)
        return gaps.square().sum(-1) / 2 < FAR

    def _attend(self, asking: Tensor, spoken: Tensor, most: int, width: int) -> Tensor:
        """The sums for the pixels of some blocks, of which none hears more than `most`: (blocks, pixels, C)."""
        speaking = self.near(asking).byte().argsort(dim=1, descending=True)[:, :most]   # a few far ones may fill it up
        features, classes = self.keys.shape[2], spoken.shape[2]
        keys = spoken.new_zeros(len(asking), most * spoken.shape[1] + 1, width)   # the last stays 0, and so weighs 1
        values = torch.zeros_like(keys)
        keys[:, :-1, :features] = self.keys[speaking].flatten(1, 2)
        values[:, :-1, :classes], values[:, -1, classes] = spoken[speaking].flatten(1, 2), 1
        queries = F.pad(self.queries[asking], (0, width - features))
        shares = F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None], scale=1.0)[:, 0]
        return shares[..., :classes] / shares[..., classes : classes + 1]


def place_and_colour(image: Tensor, xy_std: float, rgb_std: float) -> Tensor:
    """Row, column and colour of every pixel, each over its width, (H * W, 2 + channels): with these features f the
    appearance kernel is exp(-|f_i - f_j|^2 / 2). image, widths: as in `mean_field`."""
    _, height, width = image.shape
    rows = torch.arange(height).to(image)[:, None].expand(height, width) / xy_std
    columns = torch.arange(width).to(image).expand(height, width) / xy_std
    return torch.stack([rows, columns, *(image * (255 / rgb_std))], dim=-1).flatten(0, 1)


def compact_blocks(features: Tensor, size: int) -> Tensor:
    """Which points (N, D) lie together: their numbers in blocks of one length, (blocks, at most `size`), made by
    halving the points, then the halves, ..., each across its widest axis. Numbers from N on fill up, and stand for the
    last point."""
    halvings = max(0, math.ceil(math.log2(len(features) / size)))
    length = math.ceil(len(features) / 2**halvings)
    blocks = torch.arange(length << halvings, device=features.device)[None]
    for _ in range(halvings):
        points = features[blocks.clamp(max=len(features) - 1)]                    # (blocks, points, D)
        widest = (points.amax(1) - points.amin(1)).argmax(1)
        along = points.gather(2, widest[:, None, None].expand(-1, points.shape[1], 1))[..., 0]
        blocks = blocks.gather(1, along.argsort(1)).view(2 * len(blocks), -1)
    return blocks
