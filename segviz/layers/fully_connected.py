"""A fully connected layer as a convolution (lesson 02)."""

import torch
from torch import nn


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
