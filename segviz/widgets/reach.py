"""What reaches a pixel of PSPNet: the pixels of its field, and the regions of each bin."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segviz import receptive
from segviz.models import PSPNet

LIES = ("beyond", "partly within", "within")         # where a box lies, seen from a field


class Field:
    """The fields of a PSPNet's logits without its bins, on pictures of `size` = (height, width).

    spans: for rows and for columns, (low, high) of each, half open, not clipped.
    """

    def __init__(self, network: PSPNet, size: tuple[int, int]):
        with torch.device("meta"):                     # no weights: nothing is drawn from torch's generator
            bare = PSPNet(network.num_classes, network.in_channels, network.width, network.layers, bins=(),
                          deep_stem=network.deep_stem)
        last = receptive.theoretical(bare, size)[-1]
        self.size = size
        self.spans = [[axis.field(at) for at in range(count)]
                      for axis, count in zip((last.rows, last.columns), size, strict=True)]

    def inside(self, part: tuple[slice, slice]) -> list[np.ndarray]:
        """For the rows and the columns of a part of the picture: (rows, height) and (columns, width) bool, true where
        the pixel is in the field."""
        found = []
        for spans, places, count in zip(self.spans, part, self.size, strict=True):
            begin, end = np.array(spans[places]).T[:, :, None]
            found.append((begin <= np.arange(count)) & (np.arange(count) < end))
        return found

    def clipped(self, part: tuple[slice, slice]) -> list[list]:
        """For the rows and the columns of a part: the spans, as far as they lie on the picture."""
        return [[(max(0, low), min(high, count)) for low, high in spans[places]]
                for spans, places, count in zip(self.spans, part, self.size, strict=True)]

    def lies(self, box: tuple) -> Tensor:
        """Which of LIES is true of the box (x0, y0, x1, y1) and each pixel's field: int64 (H, W)."""
        x0, y0, x1, y1 = box
        meets, holds = [], []
        for spans, low, high in zip(self.spans, (y0, x0), (y1, x1), strict=True):
            begin, end = torch.tensor(spans).T
            meets.append((begin < high) & (end > low))
            holds.append((begin <= low) & (end >= high))
        return (meets[0][:, None] & meets[1]).long() + (holds[0][:, None] & holds[1])


def by_bin(bin: int, size: int) -> np.ndarray:
    """Which of a bin's rows of regions can reach each of `size` rows of pixels, columns alike: bool (size, bin).

    By the interpolation to the map, the head's 3x3 convolution, and the interpolation to the pixels."""
    units = -(-(size - 1) // 8) + 1
    to_units, to_pixels = (F.interpolate(torch.eye(few)[None], many, mode="linear", align_corners=True)[0].T > 0
                           for few, many in ((bin, units), (units, 8 * units - 7)))
    beside = (torch.arange(units)[:, None] - torch.arange(units)).abs() <= 1
    return (to_pixels.float() @ beside.float() @ to_units.float() > 0)[:size].numpy()
