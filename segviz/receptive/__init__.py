"""Receptive fields: which pixels of the input a unit of a network's map can see, and which of them it heeds.

`theoretical` follows every operator that a module runs (on tensors without content, so that nothing is computed),
and keeps for each unit of each map the first and the last pixel that it reads, along rows and columns apart. The
recursion for one convolution is equivalent to that of Araujo, Norris, Sim 2019, "Computing receptive fields of
convolutional neural networks", Distill; here it is kept per unit, so that it stays exact where maps are made larger.
`reads` walks the same operators back from one unit, and finds single pixels, holes left out. `effective` asks the
gradient instead (Luo, Li, Urtasun, Zemel 2016, "Understanding the effective receptive field in deep convolutional
neural networks").

Coordinates are pixels of the input; pixel i covers [i, i + 1).

What is a convention, in `theoretical` and `reads`:
- A unit is all channels of one place. Channels are taken to mix: also groups, joined branches and a pixel shuffle's.
- Normalisation is taken as a scaling. That GroupNorm, InstanceNorm, and a BatchNorm without running statistics measure
  the whole map is left out. The gradient of `effective` has it.
- An operator that mixes places in a way that is not known here, as attention does, is refused with a ValueError that
  names it.
"""

from operator import index

import torch
from torch import Tensor, nn

from .following import evaluating, followed, said
from .layer import Axis, Layer
from .maps import axes_of, walked_back

__all__ = ["Axis", "Layer", "effective", "effective_size", "reach", "reads", "theoretical"]

THRESHOLD = 1 - 0.9545  # of the peak
AT_ONCE = 16  # images


def theoretical(module: nn.Module, input_size: int | tuple[int, int], in_channels: int | None = None) -> list[Layer]:
    """The receptive fields of every layer of a module, in running order.

    module: any that maps (B, C, H, W) images; weights play no part, and may lie on the meta device. It is followed
    once, in evaluation mode, on tensors without content, and left as it was.
    input_size: H = W, or (H, W). in_channels: C; by itself that of the first convolution.
    Returns one `Layer` for each convolution, pooling, resizing or fully connected layer, and for each join of branches
    whose fields differ (kind "add", "cat", "mul"; named after the module in whose forward it stands). Elementwise
    layers and normalisation change nothing and are not listed. Fields are not clipped: those of VGG16's fc6 measure
    404 pixels also at an input of 224.
    Raises ValueError where the module does not take such an input, or runs an operator that mixes places in a way
    that is not known here, which it names.
    """
    return followed(module, input_size, in_channels)[0].layers


def reach(module: nn.Module, input_size: int | tuple[int, int], in_channels: int | None = None) -> int:
    """How many pixels beside its own an answer depends on, at most, along rows or columns: about half the field, more
    where fields do not lie in the middle. For a module whose output has its input's size. Arguments and errors as for
    `theoretical`; ValueError also for an output of another size."""
    layers = theoretical(module, input_size, in_channels)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    if layers and layers[-1].shape != (height, width):
        raise ValueError(f"reach is counted in pixels beside an answer's own, but an input of {(height, width)} has an "
                         f"output of {layers[-1].shape}")
    return max((axis.reach(count) for layer in layers[-1:]
                for axis, count in ((layer.rows, height), (layer.columns, width))), default=0)


def reads(
    module: nn.Module,
    input_size: int | tuple[int, int],
    position: tuple[int, int],
    in_channels: int | None = None,
) -> Tensor:
    """Which pixels can reach one unit of a module's output: bool (H, W), true exactly there, holes left out.

    position: (row, column) of the unit in the module's output map (1, K, h, w). Other arguments and errors as for
    `theoretical`. Only real pixels count: nothing comes through padding, or from beyond a cropped map. It tells what
    the wiring allows; that a certain weight is zero it does not see.
    """
    trace, pixels, output = followed(module, input_size, in_channels)
    position = _unit(output, position)
    place = trace.place(output)
    if place is None:  # made of constants alone
        return torch.zeros(pixels.shape[-2:], dtype=torch.bool)
    place, unit = place.settled(2).settled(3), [0, 0]
    for axis in (0, 1):
        along = axes_of(place.layout[2 + axis])
        if along == [axis]:
            unit[axis] = position[axis]
        elif along or place.map.sizes[axis] > 1:
            raise ValueError("the rows and columns of the module's output are not those of its input: it turns the map")
    return walked_back(place.map, tuple(unit), trace.place(pixels).map)


def effective(module: nn.Module, images: Tensor, position: tuple[int, int]) -> Tensor:
    """How strongly each pixel moves one unit: the effective receptive field of Luo et al. 2016, section 2.

    images: (B, C, H, W) float, on the module's device. position: (row, column) of a unit of the output map.
    Returns (H, W), sum 1: the absolute gradient of the unit, its channels summed, with respect to the pixels, their
    channels summed, meaned over the images. All zeros where no pixel moves it. The module is run in evaluation mode, on
    several images at a time, which is taken not to mix them (one at a time, if it has a BatchNorm without running
    statistics). It and its parameters' gradients stay as they were.
    Raises ValueError where images or position do not fit.
    """
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise ValueError(f"images are float (B, C, H, W), but got {images.dtype} of shape {tuple(images.shape)}")
    with torch.inference_mode(False), torch.enable_grad(), evaluating(module):
        total = torch.zeros(images.shape[-2:], dtype=images.dtype, device=images.device)
        advice = "Do the images have the channels that it expects, and are they large enough?"
        for pixels in images.detach().split(1 if any(map(_mixes_images, module.modules())) else AT_ONCE):
            pixels = pixels.clone().requires_grad_()
            output = said(module, pixels, advice, lambda x: module(x.clone()))
            row, column = _unit(output, position)
            units = output[:, :, row, column].sum()
            if units.requires_grad:
                gradient = torch.autograd.grad(units, pixels, allow_unused=True)[0]
                if gradient is not None:
                    total += gradient.abs().sum((0, 1))
    return total / total.sum() if total.sum() > 0 else total


def effective_size(field: Tensor) -> float:
    """The side, in pixels, of the square that has as many pixels as there are above 4.55 % of the field's peak.

    field: (H, W), as from `effective`. Luo et al. 2016 count so, with the value at the centre in place of the peak. A
    Gaussian falls to 4.55 % at 2.49 standard deviations. 0 for a field of zeros."""
    peak = field.max()
    return float((field > THRESHOLD * peak).sum()) ** 0.5 if peak > 0 else 0.0


def _mixes_images(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is None


def _unit(output, position) -> tuple[int, int]:
    """The position, if it is one of this output's units."""
    if not isinstance(output, Tensor) or output.ndim != 4:
        what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(f"the module should give a map (B, K, h, w), but gave {what}")
    height, width = output.shape[-2:]
    try:
        row, column = map(index, position)
        if 0 <= row < height and 0 <= column < width:
            return row, column
    except (TypeError, ValueError):
        pass
    raise ValueError(
        f"position is (row, column), whole numbers, of a unit of a {height} x {width} map, but got {position}"
    )
