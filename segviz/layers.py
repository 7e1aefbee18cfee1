"""The building blocks that the lessons take apart."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear_to_conv(linear: nn.Linear, kernel_size: int | tuple[int, int] = 1) -> nn.Conv2d:
    """The convolution that holds the same numbers as a fully connected layer (lesson 02).

    linear: reads a flattened map of `in_features = C * kh * kw` numbers, in the order of `Tensor.flatten(1)` on
    (B, C, kh, kw).
    kernel_size: the size (kh, kw) of that map; 1 for a layer that follows another fully connected layer.
    Returns a `Conv2d(C, out_features, (kh, kw))` with no padding, on the same device. On a map of exactly that size it
    gives the same numbers; on a larger one it gives them at every place. Long, Shelhamer, Darrell 2015, section 3.1.
    Raises ValueError where `in_features` does not divide by kh * kw.
    """
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    channels, rest = divmod(linear.in_features, height * width)
    if rest:
        raise ValueError(
            f"a layer with {linear.in_features} inputs cannot have read a map of {height} x {width}: "
            f"{linear.in_features} does not divide by {height * width}"
        )
    weight = linear.weight
    conv = nn.Conv2d(
        channels,
        linear.out_features,
        (height, width),
        bias=linear.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        conv.weight.copy_(weight.view(conv.weight.shape))
        if linear.bias is not None:
            conv.bias.copy_(linear.bias)
    return conv


def bilinear_kernel(kernel_size: int) -> Tensor:
    """The kernel (kernel_size, kernel_size) with which a transposed convolution of stride `(kernel_size + 1) // 2`
    upsamples bilinearly: a pyramid, highest at its middle. `upsample_filt` in the reference code
    of Long, Shelhamer, Darrell 2015 (the idea: section 3.3)."""
    stride = (kernel_size + 1) // 2
    distance = (torch.arange(kernel_size) - (kernel_size - 1) / 2).abs()  # from the middle, in output pixels
    ramp = 1 - distance / stride
    return ramp[:, None] * ramp[None, :]


def bilinear_upsampling(channels: int, kernel_size: int, stride: int) -> nn.ConvTranspose2d:
    """A transposed convolution without bias that starts as bilinear upsampling, each channel by itself.

    (B, channels, H, W) -> (B, channels, (H - 1) * stride + kernel_size, likewise W). It is exactly bilinear, away from
    the borders, where `kernel_size` is `2 * stride - stride % 2`."""
    layer = nn.ConvTranspose2d(channels, channels, kernel_size, stride, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[range(channels), range(channels)] = bilinear_kernel(kernel_size)
    return layer


# --- the transposed convolution, in three views (lesson 04)


def transposed_size(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> int:
    """How many outputs a transposed convolution makes of `size` inputs, along one axis.

    (size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1. Dumoulin, Visin 2016,
    chapter 4 (there without dilation). A convolution of that stride makes the same size of `stride` different ones;
    `output_padding` says which of them to go back to. Without it only every `stride`-th size can be had.
    Raises ValueError where torch has no such layer either: settings out of range, an `output_padding` that is not below
    the stride or the dilation, no output left.
    """
    least = {"size": (size, 1), "kernel_size": (kernel_size, 1), "stride": (stride, 1), "padding": (padding, 0),
             "output_padding": (output_padding, 0), "dilation": (dilation, 1)}
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise ValueError(f"{name} must be {minimum} or more, got {value}.")
    if output_padding >= max(stride, dilation):
        raise ValueError(
            f"output_padding={output_padding} must be below the stride or the dilation, so at most "
            f"{max(stride, dilation) - 1} with stride={stride} and dilation={dilation}."
        )
    result = (size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1
    if result < 1:
        raise ValueError(
            f"padding={padding} cuts away everything: {result + 2 * padding} outputs less 2 x {padding} leave "
            f"{result}. Take less padding, or a larger kernel or stride."
        )
    return result


def _output_size(maps: Tensor, weight: Tensor, *settings: int) -> list[int]:
    """(H', W') of a transposed convolution; ValueError where maps and weight do not fit."""
    if maps.dim() != 4 or weight.dim() != 4 or maps.shape[1] != weight.shape[0]:
        raise ValueError(
            f"expected maps (B, C, H, W) and a weight (C, D, kh, kw) with the same C; got "
            f"{tuple(maps.shape)} and {tuple(weight.shape)}"
        )
    return [transposed_size(maps.shape[axis], weight.shape[axis], *settings) for axis in (2, 3)]


def scatter_and_add(
    maps: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> Tensor:
    """The transposed convolution as it is meant: every input value stamps the kernel, times itself, into the output.

    The stamps lie `stride` apart; where they overlap they are added. `padding` is cut off all around.
    maps: (B, C, H, W). weight: (C, D, kh, kw), as `nn.ConvTranspose2d` has it: for each input channel a kernel into
    each of D output channels. The settings are whole numbers, the same for both axes.
    Returns (B, D, H', W'), H' and W' by `transposed_size`, whose ValueErrors it raises. Equal to
    `F.conv_transpose2d`, only slower.
    """
    height, width = _output_size(maps, weight, stride, padding, output_padding, dilation)
    _, channels, *kernel = weight.shape
    high, wide = (dilation * (size - 1) + 1 for size in kernel)     # what a stamp covers
    output = maps.new_zeros(len(maps), channels, height + 2 * padding, width + 2 * padding)
    for row in range(maps.shape[2]):
        for column in range(maps.shape[3]):
            stamp = torch.einsum("bc,cdkl->bdkl", maps[:, :, row, column], weight)
            top, left = row * stride, column * stride
            output[:, :, top : top + high : dilation, left : left + wide : dilation] += stamp
    return output[:, :, padding : padding + height, padding : padding + width]


def zeros_then_convolution(
    maps: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> Tensor:
    """The transposed convolution as an ordinary one with stride 1, over the input filled up with zeros.

    `stride - 1` zeros go between neighbours, `output_padding` more below and to the right, and
    `dilation * (kernel_size - 1) - padding` all around (where that is negative, so much is cut off). The kernel is
    turned by 180 degrees, and its channels change places. One step over that map is 1 / stride of a step over the
    input: hence "fractionally strided". Arguments and result as in `scatter_and_add`.
    """
    _output_size(maps, weight, stride, padding, output_padding, dilation)
    batch, channels, *sizes = maps.shape
    height, width = ((size - 1) * stride + 1 for size in sizes)
    spread = maps.new_zeros(batch, channels, height + output_padding, width + output_padding)
    spread[:, :, :height:stride, :width:stride] = maps
    above, beside = (dilation * (size - 1) - padding for size in weight.shape[2:])
    around = F.pad(spread, (beside, beside, above, above))
    return F.conv2d(around, weight.flip(2, 3).transpose(0, 1), dilation=dilation)


def convolution_matrix(
    weight: Tensor, height: int, width: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """The matrix of a convolution: `matrix @ image.flatten()` is `F.conv2d(image[None], weight, ...).flatten()`.

    weight: (C, D, kh, kw), as `nn.Conv2d` has it: D input channels, C output channels. height, width: of the input.
    Returns (outputs, inputs), both counted channel by channel, row by row. Column i is what the convolution makes of
    an image that is 1 at input i and 0 elsewhere, and that is how it is found.
    Raises ValueError where the kernel does not fit into the padded input, or the settings are out of range.
    """
    if weight.dim() != 4 or min(height, width, stride, dilation) < 1 or padding < 0:
        raise ValueError(
            "expected a weight (C, D, kh, kw), height, width, stride and dilation from 1 up and padding from 0 up; got "
            f"{tuple(weight.shape)}, {height=}, {width=}, {stride=}, {dilation=}, {padding=}"
        )
    _, channels, *kernel = weight.shape
    for name, size, taps in zip(("height", "width"), (height, width), kernel, strict=True):
        if size + 2 * padding < dilation * (taps - 1) + 1:
            raise ValueError(
                f"a kernel that covers {dilation * (taps - 1) + 1} does not fit into a {name} of {size} with "
                f"padding={padding}"
            )
    inputs = channels * height * width
    images = torch.eye(inputs, dtype=weight.dtype, device=weight.device).view(inputs, channels, height, width)
    return F.conv2d(images, weight, stride=stride, padding=padding, dilation=dilation).flatten(1).T


def by_transposed_matrix(
    maps: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1
) -> Tensor:
    """The transposed convolution as its name says: the matrix of a convolution, transposed.

    That convolution leads back, from a map of the output's size to one of the input's, with the same weight,
    stride, padding and dilation. Transposed, its matrix takes (B, C * H * W) to (B, D * H' * W'). So does the backward
    pass of the convolution. Arguments and result as in `scatter_and_add`.
    """
    height, width = _output_size(maps, weight, stride, padding, output_padding, dilation)
    matrix = convolution_matrix(weight, height, width, stride, padding, dilation)
    more = output_padding // stride      # not 0 only with a dilation: there the way back would find more than H x W
    columns = F.pad(maps, (0, more, 0, more)).flatten(1)
    return (columns @ matrix).view(len(maps), weight.shape[1], height, width)


# --- checkerboards (lesson 05)


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


# --- unpooling (lesson 07)

UNPOOLING = ("switches", "corner", "shuffled", "bilinear")


def unpool(maps: Tensor, switches: Tensor, mode: str = "switches") -> Tensor:
    """Undoes the size of a 2x2 max pooling: (B, C, H, W) -> (B, C, 2 H, 2 W).

    switches: (B, C, H, W) int64, from `nn.MaxPool2d(2, return_indices=True)`: where each value stood, counted row by
    row in a map of (2 H, 2 W). mode: where each value goes in its square of 2x2, the other three being zero:
    "switches", where the largest value stood (Noh, Hong, Han 2015, section 3.2);
    "corner", to the top left; "shuffled", to one of the four by chance, from torch's global generator. "bilinear" puts
    values nowhere, it interpolates (corners not aligned). Only "switches" reads the switches.
    Raises ValueError for another mode.
    """
    if mode not in UNPOOLING:
        raise ValueError(f"expected a mode out of {UNPOOLING}, got {mode!r}")
    height, width = maps.shape[2:]
    if mode == "bilinear":
        return F.interpolate(maps, size=(2 * height, 2 * width), mode="bilinear", align_corners=False)
    if mode != "switches":
        rows, columns = (torch.arange(0, 2 * size, 2, device=maps.device) for size in (height, width))
        switches = (rows[:, None] * 2 * width + columns).expand(maps.shape)
    if mode == "shuffled":
        down, right = torch.randint(2, (2, *maps.shape), device=maps.device)
        switches = switches + down * 2 * width + right
    return F.max_unpool2d(maps, switches, 2)


# --- pyramid pooling (lesson 09)


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


def _check_batch(maps: Tensor, branch: nn.Sequential, name: str) -> None:
    """ValueError in words where a branch that averages the whole map would train its batch norm on one image."""
    if len(maps) == 1 and any(layer.training and isinstance(layer, nn.BatchNorm2d) for layer in branch):
        raise ValueError(
            f"{name} cannot train on a batch of one: it leaves one average a channel, and batch normalisation needs "
            "more. Take two images or more, or call .eval() first"
        )


# --- maps whose outermost places lie upon the image's corners (lessons 09 to 12)


def filled(images: Tensor, stride: int = 8) -> Tensor:
    """Images (B, C, H, W), filled up below and to the right to the next H and W of the form stride * k + 1 with copies
    of their last row and column. A map at that stride then has its outermost places upon the image's corners."""
    below, right = (-(size - 1) % stride for size in images.shape[2:])
    return F.pad(images, (0, right, 0, below), mode="replicate")


def upsampled(maps: Tensor, shape: tuple[int, ...], stride: int = 8) -> Tensor:
    """Maps (B, C, h, w) enlarged bilinearly, each place put upon every `stride`-th pixel (corners aligned), at the
    height and width of `shape`: of the images as they were before `filled`. In float32 at least: in half precision the
    way back through the upsampling is slow."""
    maps, size = maps.to(torch.promote_types(maps.dtype, torch.float32)), [stride * (n - 1) + 1 for n in maps.shape[2:]]
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)[..., : shape[-2], : shape[-1]]


# --- depthwise separable convolution, atrous spatial pyramid pooling (lesson 12)


def separable_conv(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution in two steps: each channel by itself in space (depthwise), then the channels among each other at
    each place (pointwise, 1x1). Batch normalisation and a ReLU follow each, as in DeepLab v3+ (Chen et al. 2018,
    section 3.2).

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), likewise W). kernel_size: odd. It has
    in_channels * (kernel_size**2 + out_channels) weights, a plain convolution in_channels * kernel_size**2 *
    out_channels. `training.fit` decays no weights of depthwise convolutions.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"expected an odd kernel_size, which keeps the size of the map; got {kernel_size}")
    padding, options = dilation * (kernel_size // 2), {"groups": in_channels, "bias": False}
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel_size, stride, padding, dilation, **options),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def norm_conv(in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, batch normalisation, a ReLU."""
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: one map seen at several rates, and as a whole. Chen et al. 2017 (DeepLab v3),
    section 3.3.

    in_channels: of the map that comes in. out_channels: of each branch, and of what comes out. Branches: a 1x1
    convolution; one of 3x3 for each of `rates`; the average of the whole map, and a 1x1 convolution of it; batch
    normalisation and a ReLU behind each. They are concatenated, and a 1x1 convolution with the same behind it joins
    them; then single numbers are dropped. separable: the 3x3 convolutions are `separable_conv`s (DeepLab v3+).

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
