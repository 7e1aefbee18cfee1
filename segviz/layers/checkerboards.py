"""Which upsampling leaves a checkerboard, and one that leaves none (lesson 05)."""

import torch
from torch import Tensor, nn

from segviz.layers.transposed import scatter_and_add


def overlap(size: int, kernel_size: int, stride: int, layers: int = 1) -> Tensor:
    """How many paths lead from `size` inputs in a row to each output of `layers` transposed convolutions, one after the
    other, without padding: integers (n,). It is what they make of ones with weights of one. Odena, Dumoulin, Olah 2016.
    Raises ValueError where a number is below 1.
    """
    if min(size, kernel_size, stride, layers) < 1:
        raise ValueError(f"expected numbers from 1 up; got {size=}, {kernel_size=}, {stride=}, {layers=}.")
    paths = torch.ones(1, 1, 1, size, dtype=torch.long)
    for _ in range(layers):
        paths = scatter_and_add(paths, torch.ones(1, 1, 1, kernel_size, dtype=torch.long), stride)
    return paths.flatten()


def is_even(kernel_size: int, stride: int) -> bool:
    """Whether `overlap` is the same everywhere away from the borders: whether the stride divides the kernel size.

    One layer reaches outputs 0, s, 2s, ... with the kernel's taps 0, s, 2s, ..., outputs 1, s + 1, ... with the taps
    1, s + 1, ..., and so on; these are equally many only where s divides k (Odena, Dumoulin, Olah 2016). More layers
    of the same kind change nothing. If s divides k, each makes an even map of an even one. If not, the last layer
    gives more paths to some of those s sets of outputs than to others, whatever the layers before it did.
    """
    if min(kernel_size, stride) < 1:
        raise ValueError(f"expected whole numbers from 1 up; got {kernel_size} and {stride}.")
    return kernel_size % stride == 0


class ResizeConv(nn.Module):
    """Makes a map larger by resizing it, and only then convolves: no checkerboard, away from the borders.
    Odena, Dumoulin, Olah 2016.

    (B, in_channels, H, W) -> (B, out_channels, H * scale, W * scale). kernel_size: odd, so that the convolution keeps
    the size. mode: "nearest" (what worked best for them) or "bilinear". ValueError for anything else.
    """

    def __init__(
        self, in_channels: int, out_channels: int, scale: int, kernel_size: int = 3, mode: str = "nearest"
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, which keeps the size of the map; got {kernel_size}.")
        if scale % 1 or scale < 1 or mode not in ("nearest", "bilinear"):
            raise ValueError(
                f'expected a whole scale from 1 up, and mode "nearest" or "bilinear"; got scale={scale}, mode={mode!r}.'
            )
        self.resize = nn.Upsample(scale_factor=scale, mode=mode)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, maps: Tensor) -> Tensor:
        return self.conv(self.resize(maps))
