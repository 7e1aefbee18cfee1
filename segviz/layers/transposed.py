"""The transposed convolution: bilinear ones, and any one in three views (lesson 04)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
