"""The building blocks that the lessons take apart."""

from segviz.layers.checkerboards import ResizeConv, is_even, overlap
from segviz.layers.corners import filled, upsampled
from segviz.layers.fully_connected import linear_to_conv
from segviz.layers.pyramids import ASPP, PyramidPooling
from segviz.layers.separable import norm_conv, separable_conv
from segviz.layers.transposed import (
    bilinear_kernel,
    bilinear_upsampling,
    by_transposed_matrix,
    convolution_matrix,
    scatter_and_add,
    transposed_size,
    zeros_then_convolution,
)
from segviz.layers.unpooling import UNPOOLING, unpool

__all__ = [
    "ASPP",
    "UNPOOLING",
    "PyramidPooling",
    "ResizeConv",
    "bilinear_kernel",
    "bilinear_upsampling",
    "by_transposed_matrix",
    "convolution_matrix",
    "filled",
    "is_even",
    "linear_to_conv",
    "norm_conv",
    "overlap",
    "scatter_and_add",
    "separable_conv",
    "transposed_size",
    "unpool",
    "upsampled",
    "zeros_then_convolution",
]
