"""The models of the course, one paper a file."""

from segviz.models.deconvnet import DeconvNet
from segviz.models.deeplab import DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus
from segviz.models.fcn import FCN8s, FCN16s, FCN32s
from segviz.models.hypercolumn import Hypercolumn
from segviz.models.pspnet import PSPNet
from segviz.models.unet import UNet

__all__ = [
    "DeconvNet",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "FCN8s",
    "FCN16s",
    "FCN32s",
    "Hypercolumn",
    "PSPNet",
    "UNet",
]
