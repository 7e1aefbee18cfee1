"""One map seen at several scales: pyramid pooling (lesson 09), atrous spatial pyramid pooling (lesson 12)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segviz.layers.separable import norm_conv, separable_conv


class PyramidPooling(nn.Module):
    """Averages a map over the whole of it, its quarters, its ninths, ..., and hands every place all of these.
    Zhao et al. 2017, section 3.2.

    channels: of the map that comes in, C. bins: for each number b the map is averaged in b x b regions, and a 1x1
    convolution makes C // len(bins) channels of the averages; a ReLU follows, as in the authors' code. norm: batch
    normalisation between them, likewise.
    Averages are enlarged bilinearly with corners aligned, as in the authors' code: the outermost regions stand for the
    map's corners, not for their own middles. No bins: the map stays as it is.

    (B, C, H, W) -> (B, C + len(bins) * (C // len(bins)), H, W), `out_channels`: the map first, then the bins in order.
    ValueError for bins that are not numbers from 1 up or more than the channels, and, with `norm`, for a batch of one
    in training where a bin is 1: of one average a channel there is no variance.
    """

    def __init__(self, channels: int, bins: tuple[int, ...] = (1, 2, 3, 6), norm: bool = True):
        super().__init__()
        if len(bins) > channels or min(bins, default=1) < 1:
            raise ValueError(f"bins are numbers from 1 up, at most one a channel; got {bins} for {channels} channels")
        self.bins, each = tuple(bins), channels // max(1, len(bins))
        self.out_channels = channels + len(bins) * each
        self.branches = nn.ModuleList()
        for size in bins:
            conv, norms = nn.Conv2d(channels, each, 1, bias=not norm), [nn.BatchNorm2d(each)] if norm else []
            self.branches.append(nn.Sequential(nn.AdaptiveAvgPool2d(size), conv, *norms, nn.ReLU(inplace=True)))

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat(self.levels(maps), dim=1)

    def levels(self, maps: Tensor) -> list[Tensor]:
        """What `forward` concatenates: the map itself, and one for each bin, of the map's size."""
        for size, branch in zip(self.bins, self.branches, strict=True):
            if size == 1:
                _check_batch(maps, branch, "bin 1")
        large = [
            F.interpolate(branch(maps), size=maps.shape[2:], mode="bilinear", align_corners=True)
            for branch in self.branches
        ]
        return [maps, *large]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one map seen at several rates, and as a whole. Chen et al. 2017 (DeepLab v3),
    section 3.3.

    in_channels: of the map that comes in. out_channels: of each branch, and of what comes out. Branches: a 1x1
    convolution; one of 3x3 for each of `rates`; the average of the whole map, and a 1x1 convolution of it; batch
    normalisation and a ReLU behind each. They are concatenated, and a 1x1 convolution with the same behind it joins
    them; then single numbers are dropped, as in the authors' code. separable: the 3x3 convolutions are
    `separable_conv`s (DeepLab v3+).

    (B, in_channels, H, W) -> (B, out_channels, H, W). A rate that reaches beyond the map reads its middle tap alone.
    Parameters have torchvision's names. ValueError for rates below 1, and for a batch of one in training: of one
    average a channel there is no variance.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        rates: tuple[int, ...] = (6, 12, 18),
        separable: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        if min(rates, default=1) < 1:
            raise ValueError(f"rates are numbers from 1 up, but got {rates}")
        self.rates, atrous = tuple(rates), separable_conv if separable else norm_conv
        whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), *norm_conv(in_channels, out_channels, 1))
        branches = [atrous(in_channels, out_channels, 3, dilation=rate) for rate in rates]
        self.convs = nn.ModuleList([norm_conv(in_channels, out_channels, 1), *branches, whole])
        self.project = norm_conv(len(self.convs) * out_channels, out_channels, 1).append(nn.Dropout(dropout))

    def forward(self, maps: Tensor) -> Tensor:
        return self.project(torch.cat(self.levels(maps), dim=1))

    def levels(self, maps: Tensor) -> list[Tensor]:
        """What is concatenated: (B, out_channels, H, W) from 1x1, each rate in order, and the whole map. `project`
        takes it from there; a branch that is replaced by zeros is not heard."""
        *convs, whole = self.convs
        _check_batch(maps, whole, "image pooling")
        return [*(conv(maps) for conv in convs), whole(maps).expand(-1, -1, *maps.shape[2:])]


def _check_batch(maps: Tensor, branch: nn.Sequential, name: str) -> None:
    """ValueError in words where a branch that averages the whole map would train its batch norm on one image."""
    if any(layer.training and isinstance(layer, nn.BatchNorm2d) for layer in branch) and len(maps) == 1:
        raise ValueError(
            f"{name} cannot train on a batch of one: it leaves one average a channel, and batch normalisation needs "
            "more. Take two images or more, or call .eval() first"
        )
